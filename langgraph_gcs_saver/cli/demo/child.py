"""A process of the demo. It reports through a pipe."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

from langgraph_gcs_saver.cli.notices import ignore_notices
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.errors import GCSSaverError

T = TypeVar("T")

_SAFE_PATH = "PYTHONSAFEPATH"
"""The environment variable that keeps the working directory out of a new interpreter's path."""

OWNER = "langgraph-gcs-demo"
"""The processes of a thread use one name, so each takes the lease of the one before it at once."""

_IMPORTED = ["langgraph.graph", "langgraph_gcs_saver.saver.run", "langgraph_gcs_saver.stores.local"]
"""What takes most of the time that a new interpreter needs."""


_MAX_TEMP_DIR = 104 - len("/pymp-12345678/listener-12345678") - 1
"""Most bytes in the path of temporary files. The name of a socket has at most 104 on macOS, and 108 on Linux."""


class Child:
    """The parent's side of a process."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        """Its process id."""
        return cast("int", self._process.pid)

    def receive(self) -> Any:
        """Wait for its next report. Returns None if it ended without another one."""
        try:
            return self._pipe.recv()
        except EOFError:
            return None

    def report(self, *expected: type[T]) -> T:
        """Wait for its next report.

        Raises:
            CommandError: The report is of another kind: an error of the library stopped the process, or it crashed.
        """
        report = self.receive()
        if isinstance(report, Failed):
            raise CommandError(report.message, report.exit_code)
        if not isinstance(report, expected):
            raise CommandError(f"process {self.pid} ended with {self.wait()} before it was done")
        return report

    def answer(self, message: Any = None) -> None:
        """Let it continue after a report that it waits at."""
        self._pipe.send(message)

    def kill(self) -> None:
        """Kill it. It cannot catch the signal."""
        self._process.kill()

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self._process.terminate()

    def wait(self) -> int:
        """Wait for its end. Returns its exit code, which is negative for the signal that killed it."""
        self._process.join()
        return cast("int", self._process.exitcode)


@contextmanager
def started(work: Callable[[T, Connection], None], task: T) -> Iterator[Child]:
    """Call `work` in a new process. At the end of the block, the process is killed if it still runs.

    It shares nothing with the one before except for the store. It is a copy of an interpreter that has imported
    packages and done nothing else. On Windows, which has no copies, it is a new interpreter. So it is if the path of
    temporary files is too long for the socket at which copies are ordered.
    """
    context: Any = multiprocessing.get_context("spawn")
    has_copies = "forkserver" in multiprocessing.get_all_start_methods()
    if has_copies and len(os.fsencode(tempfile.gettempdir())) <= _MAX_TEMP_DIR:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(task, theirs), daemon=True)
    with _safe_path():
        process.start()
    # Otherwise this end would keep the pipe open, and a crash of the process would never be noticed.
    theirs.close()
    try:
        yield Child(process, ours)
    finally:
        process.kill()
        process.join()
        ours.close()


@dataclass(frozen=True)
class Failed:
    """From the process: an error of the library stopped the run."""

    message: str
    exit_code: int


def begin() -> None:
    """Prepare a process of the demo, as the first call of its `work`."""
    # An interrupt from the keyboard reaches the whole group, but only the parent may end this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_notices()
    logging.getLogger("langgraph_gcs_saver").setLevel(logging.ERROR)  # a lease that is taken over is no surprise here


@contextmanager
def reporting(pipe: Connection) -> Iterator[None]:
    """The block in which a process works. An error of the library is reported to the parent."""
    try:
        yield
    except (GCSSaverError, CommandError) as error:
        pipe.send(Failed(str(error), error.exit_code))


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep interpreters that start meanwhile from importing what is in the working directory, from Python 3.11 on."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before
