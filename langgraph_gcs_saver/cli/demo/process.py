"""The demo's processes: each runs the agent on its thread once, and tells the parent how far it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from langgraph.types import Command

from langgraph_gcs_saver.cli.demo.agent import SERDE, Context, build, thread_config
from langgraph_gcs_saver.cli.notices import ignore_notices
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver
from langgraph_gcs_saver.errors import GCSSaverError
from langgraph_gcs_saver.events import CheckpointSaved, Event

_SAFE_PATH = "PYTHONSAFEPATH"
"""The variable of the environment that keeps the working directory out of a new interpreter's path."""


def append(ledger: Path, name: str) -> None:
    """Add a line `pid name`, in one write that no other process's write can split."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{os.getpid()} {name}\n".encode())
    finally:
        os.close(descriptor)


def entries(ledger: Path) -> list[tuple[int, str]]:
    """All lines of the ledger so far: process id and module, in order."""
    if not ledger.exists():
        return []
    pairs = (line.split() for line in ledger.read_text().splitlines())
    return [(int(pid), name) for pid, name in pairs]


@dataclass(frozen=True)
class Task:
    """One run of the agent, in a process of its own.

    Attributes:
        store: Connection string of the saver.
        thread_id: The thread to run on.
        ledger: A file outside the store, that gets a line for each document before it is read.
        start: The first state of a new thread; None to go on with the thread's latest checkpoint.
        answer: What the human said to the pending interrupt; None if nobody was asked.
        halt_before: Stop for good at the start of the step that reads this document, and wait to be killed.
        cipher: As `--cipher` names it; empty for none.
    """

    store: str
    thread_id: str
    ledger: Path
    start: dict[str, Any] | None = None
    answer: str | None = None
    halt_before: int | None = None
    cipher: str = ""


@dataclass(frozen=True)
class Reading:
    """From the process: document `number` is about to be read, so the checkpoint after the one before is durable."""

    number: int
    name: str
    stored_bytes: int


@dataclass(frozen=True)
class Finished:
    """From the process: the run came to its end, or to an interrupt."""

    stored_bytes: int


@dataclass(frozen=True)
class Failed:
    """From the process: an error of the library stopped the run."""

    message: str
    exit_code: int


def work(task: Task, pipe: Connection) -> None:
    """Body of the process: run the task and report through the pipe."""
    # An interrupt from the keyboard reaches the whole group; the parent is who ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_notices()
    tally = Tally()

    def before_reading(number: int, name: str) -> None:
        # With durability="sync" a step starts only when the checkpoint of the step before is durable.
        pipe.send(Reading(number, name, tally.stored_bytes))
        if number == task.halt_before:
            pipe.recv()
        append(task.ledger, name)

    value: Any = task.start if task.answer is None else Command(resume=task.answer)
    try:
        with open_saver(task.store, task.cipher, may_create=True, serde=SERDE, on_event=tally) as saver:
            build(saver).invoke(
                value,
                thread_config(task.thread_id),
                context=Context(before_reading),
                durability="sync",
            )
    except (GCSSaverError, CommandError) as error:
        pipe.send(Failed(str(error), error.exit_code))
    else:
        pipe.send(Finished(tally.stored_bytes))


class Tally:
    """Adds up what a saver's events say was stored."""

    def __init__(self) -> None:
        self.stored_bytes = 0

    def __call__(self, event: Event) -> None:
        """Take an event, as `on_event`."""
        if isinstance(event, CheckpointSaved):
            self.stored_bytes += event.inline_bytes + event.object_bytes


# The parent's side


@dataclass(frozen=True)
class Ended:
    """A process after its end.

    Attributes:
        pid: Its process id.
        returncode: As `multiprocessing` tells it: negative for the signal that killed it.
        read: The documents that the ledger says it read, in order.
        stored_bytes: Bytes of state that it is known to have stored.
    """

    pid: int
    returncode: int
    read: list[str]
    stored_bytes: int


def run_process(task: Task, on_reading: Callable[[Reading], None]) -> Ended:
    """Run the task in a new interpreter until it ends; kill it at once where it halts.

    A new interpreter ("spawn", not "fork"): nothing but the store connects one process to the next.

    Raises:
        CommandError: The process failed.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(task, theirs), daemon=True)
    with _safe_path():
        process.start()
    # Or a process that dies would never be noticed: this end would keep the pipe open.
    theirs.close()
    try:
        last = _follow(task, ours, on_reading)
        if isinstance(last, Reading):
            process.kill()
        process.join()
    finally:
        process.kill()
        process.join()
        ours.close()
    pid, returncode = cast("int", process.pid), cast("int", process.exitcode)
    if isinstance(last, Failed):
        raise CommandError(last.message, last.exit_code)
    if last is None:
        raise CommandError(f"process {pid} ended with {returncode} before it was done")
    return Ended(pid, returncode, [name for reader, name in entries(task.ledger) if reader == pid], last.stored_bytes)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep interpreters that start meanwhile from importing what lies in the working directory, from Python 3.11 on."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _follow(task: Task, pipe: Connection, on_reading: Callable[[Reading], None]) -> Reading | Finished | Failed | None:
    """Pass on what the process reports; its last report, or where it halted, or None if it died without one."""
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return None
        if not isinstance(message, Reading):
            return cast("Finished | Failed", message)
        on_reading(message)
        if message.number == task.halt_before:
            return message
