"""The demo's processes. Each runs the agent on its thread once, and reports its progress to the parent."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from langgraph.types import Command

from langgraph_gcs_saver.cli.demo.agent import SERDE, Context, build, thread_config
from langgraph_gcs_saver.cli.demo.child import Child, Failed, begin, reporting, started
from langgraph_gcs_saver.cli.views.terminal import CommandError, open_saver
from langgraph_gcs_saver.events import CheckpointSaved, Event


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
        ledger: A file outside of the store. It gets a line for each document before the document is read.
        start: The first state of a new thread; None to continue from the thread's latest checkpoint.
        answer: The human's answer to the pending interrupt; None if there was no question.
        halt_before: Stop at the start of the step that reads this document, and wait to be killed.
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
    """From the process: it will now read document `number`, so the checkpoint of the document before is durable."""

    number: int
    name: str
    stored_bytes: int


@dataclass(frozen=True)
class Finished:
    """From the process: the run ended, or reached an interrupt."""

    stored_bytes: int


def work(task: Task, pipe: Connection) -> None:
    """Body of the process: run the task and report through the pipe."""
    begin()
    tally = Tally()

    def before_reading(number: int, name: str) -> None:
        # With durability="sync" a step starts only when the checkpoint of the step before is durable.
        pipe.send(Reading(number, name, tally.stored_bytes))
        if number == task.halt_before:
            pipe.recv()
        append(task.ledger, name)

    value: Any = task.start if task.answer is None else Command(resume=task.answer)
    with reporting(pipe):
        with open_saver(task.store, task.cipher, may_create=True, serde=SERDE, on_event=tally) as saver:
            build(saver).invoke(
                value,
                thread_config(task.thread_id),
                context=Context(before_reading),
                durability="sync",
            )
        pipe.send(Finished(tally.stored_bytes))


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
        read: The documents that it read, in order, by the ledger.
        stored_bytes: Bytes of state that it is known to have stored.
    """

    pid: int
    returncode: int
    read: list[str]
    stored_bytes: int


def run_process(task: Task, on_reading: Callable[[Reading], None]) -> Ended:
    """Run the task in a new interpreter until it ends. If it halts, kill it at once.

    Raises:
        CommandError: The process failed.
    """
    with started(work, task) as child:
        last = _follow(task, child, on_reading)
        if isinstance(last, Reading):
            child.kill()
        pid, returncode = child.pid, child.wait()
    if isinstance(last, Failed):
        raise CommandError(last.message, last.exit_code)
    if last is None:
        raise CommandError(f"process {pid} ended with {returncode} before it was done")
    return Ended(pid, returncode, [name for reader, name in entries(task.ledger) if reader == pid], last.stored_bytes)


def _follow(task: Task, child: Child, on_reading: Callable[[Reading], None]) -> Reading | Finished | Failed | None:
    """Pass on what the process reports. Returns its last report, where it halted, or None if it crashed without one."""
    while isinstance(message := child.receive(), Reading):
        on_reading(message)
        if message.number == task.halt_before:
            return message
    return cast("Finished | Failed | None", message)
