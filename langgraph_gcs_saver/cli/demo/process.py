"""The processes of the demo's first story: they run the agent, store a person's answer, or resume what others left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from langgraph.errors import GraphDrained
from langgraph.types import Command

from langgraph_gcs_saver import GCSSaver, cadence, run
from langgraph_gcs_saver.cli.commands.work import STOPPED
from langgraph_gcs_saver.cli.demo.agent import SERDE, Context, build, thread_config
from langgraph_gcs_saver.cli.demo.child import OWNER, Failed, begin, reporting, started
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver
from langgraph_gcs_saver.events import CheckpointSaved, Event

TAKES_SIGTERM = sys.platform != "win32"
"""Whether a process can handle SIGTERM. On Windows, it ends a process at once."""

SAYS_MEMORY = sys.platform == "linux"
"""Whether the system says how much memory a process uses, and enforces a limit of it."""

_ROOM = 192 << 20
"""Bytes between what a process uses and its limit, if it leaks."""

_LEAK = 0.15
"""The part of the limit that leaks with each document: under a fifth, because `Memory(0.8)` leaves a fifth."""


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
    """What a process does.

    Attributes:
        store: Connection string of the saver.
        thread_id: The thread. Its graph has the same name, so that a worker resumes no other thread.
        ledger: A file outside of the store. It gets a line for each document when the agent begins to read it.
        role: `run` runs the agent, `answer` stores an answer, and `recover` is a worker.
        inputs: What `run` gets, each time: the first state of the thread, or None to continue.
        request_id: Identifies the request.
        answer: The person's answer: for `run` in place of the inputs.
        halt_at: Wait for the parent in the step that reads this document.
        leaks: Whether the process has a limit of memory, and leaks with each document.
        cipher: As `--cipher` names it; empty for none.
    """

    store: str
    thread_id: str
    ledger: Path
    role: Literal["run", "answer", "recover"] = "run"
    inputs: dict[str, Any] | None = None
    request_id: str | None = None
    answer: str | None = None
    halt_at: int | None = None
    leaks: bool = False
    cipher: str = ""


@dataclass(frozen=True)
class Reading:
    """From the process: it reads document `number`, so the checkpoint of the document before is durable."""

    number: int
    name: str
    stored_bytes: int


@dataclass(frozen=True)
class Finished:
    """From the process: it did what it was for.

    Attributes:
        how: `drained` if it was asked to end, `waiting` if the agent asks a person, `answered`, or `finished`.
        reason: Why it was drained.
        stored_bytes: Bytes of state that it stored.
    """

    how: str
    reason: str
    stored_bytes: int


def work(task: Task, pipe: Connection) -> None:
    """Body of the process: do the task and report through the pipe."""
    begin()
    tally = Tally()
    leak = _Leak() if task.leaks else None

    def before_reading(number: int, name: str) -> None:
        # With durability="sync" a step starts only when the checkpoint of the step before is durable.
        append(task.ledger, name)
        pipe.send(Reading(number, name, tally.stored_bytes))
        if number == task.halt_at:
            pipe.recv()
        if leak is not None:
            leak.more()

    how, reason = "", ""
    with reporting(pipe):
        with open_saver(task.store, task.cipher, may_create=True, serde=SERDE, on_event=tally) as saver:
            try:
                how = _ROLES[task.role](task, saver, lambda: Context(before_reading))
            except GraphDrained as drained:
                how, reason = "drained", drained.reason
        pipe.send(Finished(how, reason, tally.stored_bytes))
    if how == "drained":
        sys.exit(STOPPED)


def _run(task: Task, saver: GCSSaver, context_factory: Callable[[], Context]) -> str:
    """Start the turn, or resume it: the same line each time."""
    graph = build(saver, task.thread_id)
    inputs: Any = task.inputs if task.answer is None else Command(resume=task.answer)
    policy: cadence.Policy = cadence.Signal(signal.SIGTERM)
    if task.leaks:
        policy |= cadence.Memory(0.8)
    result = run(
        graph,
        inputs,
        thread_config(task.thread_id),
        request_id=task.request_id,
        policy=policy,
        context_factory=context_factory,
        durability="sync",
        owner=OWNER,
    )
    return "waiting" if "__interrupt__" in result else "finished"


def _answer(task: Task, saver: GCSSaver, _: Callable[[], Context]) -> str:
    """Store the answer, which runs nothing."""
    return "answered" if saver.thread(task.thread_id).answer(task.answer) else ""


def _recover(task: Task, saver: GCSSaver, context_factory: Callable[[], Context]) -> str:
    """Resume what others have left: one look of a worker."""
    graphs = {task.thread_id: build(saver, task.thread_id)}
    found = saver.recover(graphs, context_factory=context_factory, durability="sync", owner=OWNER)
    return ", ".join(one.outcome for one in found)


_ROLES = {"run": _run, "answer": _answer, "recover": _recover}


@dataclass
class _Leak:
    """Sets a limit of memory, and uses it up."""

    limit: int = 0
    held: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        import resource  # not on Windows

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])
        self.limit = pages * os.sysconf("SC_PAGE_SIZE") + _ROOM
        resource.setrlimit(resource.RLIMIT_DATA, (self.limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))

    def more(self) -> None:
        """Leak. Above the limit, this raises MemoryError."""
        self.held.append(b"." * int(_LEAK * self.limit))


class Tally:
    """Adds up the stored bytes that a saver's events report."""

    def __init__(self) -> None:
        self.stored_bytes = 0

    def __call__(self, event: Event) -> None:
        """Take an event, as `on_event`."""
        if isinstance(event, CheckpointSaved):
            self.stored_bytes += event.inline_bytes + event.object_bytes


# The parent's side


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        pid: Its process id.
        returncode: As `multiprocessing` reports it: negative for the signal that killed the process.
        how: `killed`, or as it says in `Finished`.
        reason: Why it was drained.
        read: The documents that it began to read, in order, by the ledger.
        stored_bytes: Bytes of state that it is known to have stored.
    """

    pid: int
    returncode: int
    how: str
    reason: str
    read: list[str]
    stored_bytes: int


def run_process(
    task: Task, on_reading: Callable[[Reading], None] = lambda _: None, at_halt: Literal["kill", "terminate"] = "kill"
) -> Ended:
    """Do the task in a new process until it ends.

    Args:
        task: The task.
        on_reading: Gets each report of a document.
        at_halt: What to do where the process waits: kill it, or send it SIGTERM and let it continue.

    Raises:
        CommandError: The process failed.
    """
    with started(work, task) as child:
        message = child.receive()
        while isinstance(message, Reading):
            on_reading(message)
            if message.number == task.halt_at:
                if at_halt == "kill":
                    child.kill()
                    break
                child.terminate()
                child.answer()
            message = child.receive()
        pid, returncode = child.pid, child.wait()
    match message:
        case Failed():
            raise CommandError(message.message, message.exit_code)
        case Reading():
            how, reason = "killed", ""
        case Finished():
            how, reason = message.how, message.reason
        case _:
            raise CommandError(f"process {pid} ended with {returncode} before it was done")
    read = [name for reader, name in entries(task.ledger) if reader == pid]
    return Ended(pid, returncode, how, reason, read, message.stored_bytes)
