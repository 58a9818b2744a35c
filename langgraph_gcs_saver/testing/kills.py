"""Real kills: a process that runs a graph is killed at random moments, and its successor continues.

```
python -m langgraph_gcs_saver.testing.kills file:///tmp/kills --kills 100
100 kills on 24 threads, 61 of them in the middle of a run: 812 checkpoints and 1580 tasks acknowledged, 0 lost
```

The graph runs two nodes at the same time and then one that joins them, in rounds, with a state of small, growing and
large values. It runs with `invoke` or `ainvoke`, chosen at random. Its saver writes a line to a ledger after each `put`
and `put_writes` that returned. After each kill (SIGKILL: nothing is cleaned up) this process checks that everything in
the ledger is stored, exactly, and that nothing else of the thread is damaged. Then a new process resumes the thread. In
the end, the state of each thread must equal that of an undisturbed run.

The threads' ids are unique, and the threads are deleted if all checks pass. An operating system with `fork` is needed.
The graph's processes get the environment of this one.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import multiprocessing
import operator
import os
import random
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from langgraph_gcs_saver.events import Event
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver.checkpointer import GCSSaver
from langgraph_gcs_saver.testing import PATIENCE

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess  # not on Windows

STEPS = 20
"""Rounds of the graph. Each makes two checkpoints."""

LINES_A_ROUND = 5
"""Calls that a round acknowledges: two checkpoints, and the writes of three tasks."""

POLL = 0.001
"""Seconds between two looks at the ledger."""


class KillTestError(AssertionError):
    """Something that was acknowledged is lost or differs, or a graph did not finish."""


# Processes


def context() -> ForkServerContext:
    """Processes that start fast, from one that has imported everything and used nothing."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(
        # Not this module: as a program it runs again in every process, with a warning if it was imported before.
        [
            "langgraph.graph",
            "langgraph_gcs_saver.cadence.control",
            "langgraph_gcs_saver.saver.run",
            "langgraph_gcs_saver.stores.google.clients",
            "langgraph_gcs_saver.stores.local",
            "langgraph_gcs_saver.testing.crash",
        ]
    )
    return found


@contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[tuple[ForkServerProcess, Connection]]:
    """A process that runs `target(*args, pipe)`, and the other end of the pipe. The process is killed at the end."""
    ours, theirs = context().Pipe()
    # The fork server keeps the environment of the moment when it was started.
    environment = dict(os.environ)
    started = context().Process(target=_enter, args=(environment, target, *args, theirs), daemon=True)
    started.start()
    theirs.close()
    try:
        yield started, ours
    finally:
        started.kill()
        started.join()
        started.close()
        ours.close()


def _enter(environment: Mapping[str, str], target: Callable[..., None], *args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


# The graph


class State(TypedDict):
    """The state that the graph's nodes share."""

    seen: Annotated[list[Any], operator.add]
    text: str
    noise: bytes


def build(steps: int, saver: GCSSaver) -> CompiledStateGraph[State, None, State, State]:
    """Two nodes at the same time, then one that joins them, `steps` times."""
    builder = StateGraph(State)
    builder.add_node("a", lambda state: {"seen": [["a", _rounds(state)]]})
    builder.add_node("b", lambda state: {"seen": [["b", _rounds(state)]]})
    builder.add_node("join", lambda state: {"text": _text(_rounds(state)), "noise": _noise(_rounds(state))})
    builder.add_conditional_edges(START, lambda _: ["a", "b"])
    builder.add_edge(["a", "b"], "join")
    builder.add_conditional_edges("join", lambda state: END if _rounds(state) >= steps else ["a", "b"])
    return builder.compile(checkpointer=saver)


def final_state(steps: int) -> dict[str, Any]:
    """The state in which the graph ends."""
    seen = [[node, number] for number in range(steps) for node in "ab"]
    return {"seen": seen, "text": _text(steps), "noise": _noise(steps)}


def _rounds(state: State) -> int:
    return len(state["seen"]) // 2


def _noise(number: int) -> bytes:
    return random.Random(number).randbytes(12_000)  # noqa: S311 - a seed repeats it; large enough for an object


def _text(number: int) -> str:
    return " ".join(map(str, range(number)))


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _digest_of(values: Mapping[str, Any]) -> str:
    """A digest of channel values. The order of channels does not count, nor that of sets, which differs by process."""
    return _digest(sorted((c, sorted(v) if isinstance(v, set) else v) for c, v in values.items()))


class Acknowledging(GCSSaver):
    """Writes a line to a ledger after each call that returned. What the ledger says must never be lost."""

    ledger = -1

    def _note(self, *words: str) -> None:
        # One write to a file opened for appending: lines of several threads never mix, and SIGKILL cannot split one.
        os.write(self.ledger, f"{' '.join(words)}\n".encode())

    def _note_put(self, stored: RunnableConfig, checkpoint: Checkpoint) -> RunnableConfig:
        self._note("put", stored["configurable"]["checkpoint_id"], _digest_of(checkpoint["channel_values"]))
        return stored

    def _note_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str) -> None:
        digests = [_digest([task_id, channel, value]) for channel, value in writes]
        self._note("writes", config["configurable"]["checkpoint_id"], *digests)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, and note it in the ledger."""
        return self._note_put(super().put(config, checkpoint, metadata, new_versions), checkpoint)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Asynchronous twin of `put`."""
        return self._note_put(await super().aput(config, checkpoint, metadata, new_versions), checkpoint)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store pending writes, and note them in the ledger."""
        super().put_writes(config, writes, task_id, task_path)
        self._note_writes(config, writes, task_id)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Asynchronous twin of `put_writes`."""
        await super().aput_writes(config, writes, task_id, task_path)
        self._note_writes(config, writes, task_id)


@record(frozen=True, slots=True)
class Run:
    """What one process must do.

    Attributes:
        uri: The store.
        thread_id: The thread.
        steps: Rounds of the graph.
        ledger: The file that says what was acknowledged.
        is_async: Whether to run with `ainvoke`.
        verify: The saver's option `verify`.
    """

    uri: str
    thread_id: str
    steps: int
    ledger: Path
    is_async: bool
    verify: str = "readback"


def run_graph(order: Run, pipe: Connection) -> None:
    """Run the graph on a thread from where it is to its end. Reports through the pipe when it starts and is done."""
    config: RunnableConfig = {"configurable": {"thread_id": order.thread_id}, "recursion_limit": 10 * order.steps}
    descriptor = os.open(order.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        with Acknowledging.from_conn_string(order.uri, verify=order.verify) as saver:
            saver.ledger = descriptor
            graph = build(order.steps, saver)
            is_begun = graph.get_state(config).created_at is not None
            start: State | None = None if is_begun else {"seen": [], "text": "", "noise": b""}
            pipe.send("started")
            if order.is_async:
                asyncio.run(_arun_graph(saver, graph, start, config))
            else:
                graph.invoke(start, config, durability="sync")
    finally:
        os.close(descriptor)
    pipe.send("done")


async def _arun_graph(
    saver: GCSSaver,
    graph: CompiledStateGraph[State, None, State, State],
    start: State | None,
    config: RunnableConfig,
) -> None:
    async with saver:
        await graph.ainvoke(start, config, durability="sync")


# The killer


@dataclass(slots=True)
class Report:
    """What happened.

    Attributes:
        kills: How many processes were killed.
        threads: How many threads finished.
        midway: How many kills left a thread that had begun but not finished.
        checkpoints: How many calls of `put` returned. Their checkpoints were all stored.
        tasks: How many calls of `put_writes` returned. Their writes were all stored.
    """

    kills: int = 0
    threads: int = 0
    midway: int = 0
    checkpoints: int = 0
    tasks: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills on {self.threads} threads, {self.midway} of them in the middle of a run: "
            f"{self.checkpoints} checkpoints and {self.tasks} tasks acknowledged, 0 lost"
        )


def kill_at_random(uri: str, *, kills: int = 10, steps: int = STEPS, seed: int = 0, verify: str = "readback") -> Report:
    """Run the graph on a store, thread after thread, in processes that are killed `kills` times.

    Args:
        uri: The connection string of the store.
        kills: How many kills. Each comes after up to a third of what a run acknowledges.
        steps: Rounds of the graph.
        seed: Seed of the moments, and of the choice between `invoke` and `ainvoke`.
        verify: The option `verify` of the savers that are killed.

    Raises:
        KillTestError: Something that was acknowledged is not stored, or a graph did not finish in the right state.
    """
    with tempfile.TemporaryDirectory(prefix="langgraph-gcs-kills-") as folder:
        chance = random.Random(seed)  # noqa: S311 - a seed repeats the moments
        killer = _Killer(uri, steps, Path(folder), chance, verify)
        killer.finish_undisturbed()
        while killer.report.kills < kills:
            killer.kill()
        killer.finish_undisturbed()
        killer.delete()
        return killer.report


class _Killer:
    """Runs the graph in processes that are killed, on one thread after another."""

    def __init__(self, uri: str, steps: int, folder: Path, chance: random.Random, verify: str = "readback") -> None:
        self.uri = uri
        self.steps = steps
        self.folder = folder
        self.chance = chance
        self.verify = verify
        self.report = Report()
        self.name = f"kills {uuid.uuid4().hex}"
        self.pace = 0.0
        """Seconds between two lines of the ledger in the first run, which is not disturbed."""
        self.checked = 0
        """How many lines of the ledger were checked."""

    @property
    def thread_id(self) -> str:
        return f"{self.name} {self.report.threads}"

    @property
    def ledger(self) -> Path:
        return self.folder / str(self.report.threads)

    def finish_undisturbed(self) -> None:
        """Run the thread's graph to its end."""
        if not self._run(None):
            raise self._error(f"the graph did not finish in {PATIENCE:g} seconds")
        self._finish()

    def kill(self) -> None:
        """Run the thread's graph, kill it, and check what it left. The graph may finish before the kill."""
        # Counted in lines, and only then in seconds: a machine that is slower now still gets as far.
        if self._run(self.chance.randrange(LINES_A_ROUND * self.steps // 3)):
            self._finish()
        else:
            self.report.kills += 1
            self._check(self.checked)

    def delete(self) -> None:
        """Delete the threads, which have finished."""
        with GCSSaver.from_conn_string(self.uri) as saver:
            for number in range(self.report.threads):
                saver.delete_thread(f"{self.name} {number}")

    def _run(self, lines: int | None) -> bool:
        """Run the thread's graph, and kill it soon after this many more lines. Returns whether it finished."""
        is_async = self.chance.random() < 0.5
        order = Run(self.uri, self.thread_id, self.steps, self.ledger, is_async, self.verify)
        with process(run_graph, order) as (child, pipe):
            if not pipe.poll(PATIENCE):
                raise self._error(f"the graph did not start in {PATIENCE:g} seconds")
            self._receive(pipe, "started")
            began = time.monotonic()
            if lines is None:
                is_done = pipe.poll(PATIENCE)
            else:
                is_done = self._wait(pipe, self.checked + lines) or pipe.poll(self.chance.uniform(0, 2 * self.pace))
            if is_done:
                self._receive(pipe, "done")
                self.pace = self.pace or (time.monotonic() - began) / (LINES_A_ROUND * self.steps)
                return True
            child.kill()
            child.join()
        return False

    def _wait(self, pipe: Connection, lines: int) -> bool:
        """Wait for this many lines of the ledger. Returns whether the graph finished before."""
        deadline = time.monotonic() + PATIENCE
        while len(self._lines()) < lines:
            if pipe.poll(POLL):
                return True
            if time.monotonic() > deadline:
                raise self._error(f"the graph acknowledged fewer than {lines} calls in {PATIENCE:g} seconds")
        return False

    def _lines(self) -> list[str]:
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []

    def _receive(self, pipe: Connection, word: str) -> None:
        try:
            told = pipe.recv()
        except EOFError:
            raise self._error(f"the graph failed before it was {word}; see stderr") from None
        if told != word:
            raise self._error(f"the graph's process said {told!r}, not {word!r}")

    def _check(self, begin: int) -> None:
        """Check that everything acknowledged is stored: exactly, from line `begin` of the ledger on."""
        lines = [line.split() for line in self._lines()]
        config: RunnableConfig = {"configurable": {"thread_id": self.thread_id, "checkpoint_ns": ""}}
        events: list[Event] = []
        found: dict[str, CheckpointTuple | None] = {}
        with GCSSaver.from_conn_string(self.uri, on_event=events.append) as saver:
            for kind, checkpoint_id, *digests in lines[begin:]:
                if checkpoint_id not in found:
                    ids = {**config["configurable"], "checkpoint_id": checkpoint_id}
                    found[checkpoint_id] = saver.get_tuple({"configurable": ids})
                one = found[checkpoint_id]
                if one is None:
                    # LangGraph stores the input's checkpoint and the writes of its task at the same time.
                    self._demand(kind != "put", f"checkpoint {checkpoint_id} was acknowledged, but is lost")
                    continue
                if kind == "put":
                    there = {_digest_of(one.checkpoint["channel_values"])}
                else:
                    there = {_digest(list(write)) for write in one.pending_writes or []}
                self._demand(there.issuperset(digests), f"checkpoint {checkpoint_id} differs from what was stored")
            latest = saver.get_tuple(config)
            newest = max((line[1] for line in lines if line[0] == "put"), default="")
            is_newest = latest is not None and latest.checkpoint["id"] >= newest
            self._demand(is_newest or not newest, f"the latest is older than {newest}, which was acknowledged")
            listed = {one.checkpoint["id"] for one in saver.list(config)}
            lost = {line[1] for line in lines if line[0] == "put"} - listed
            self._demand(not lost, f"checkpoints {lost} were acknowledged, but are not listed")
        warnings = [event for event in events if event.level >= logging.WARNING]
        self._demand(not warnings, f"reading warns of {warnings}")
        seen = [] if latest is None else latest.checkpoint["channel_values"].get("seen", [])
        self.report.midway += 0 < len(seen) < 2 * self.steps
        self.checked = len(lines)

    def _finish(self) -> None:
        self._check(0)
        with GCSSaver.from_conn_string(self.uri) as saver:
            state = build(self.steps, saver).get_state({"configurable": {"thread_id": self.thread_id}})
        self._demand(state.values == final_state(self.steps), "the graph ended in another state than undisturbed")
        # Not `next`, because it is empty while a step's writes wait for its checkpoint.
        tasks = tuple(task.name for task in state.tasks)
        self._demand(tasks == (), f"the graph has not finished: {tasks} are due")
        kinds = [line.split()[0] for line in self._lines()]
        self.report.checkpoints += kinds.count("put")
        self.report.tasks += kinds.count("writes")
        self.report.threads += 1
        self.checked = 0

    def _demand(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            raise self._error(otherwise)

    def _error(self, what: str) -> KillTestError:
        return KillTestError(f"Thread {self.thread_id!r}, after {self.report.kills} kills: {what}.")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m langgraph_gcs_saver.testing.kills",
        description="Kill processes that run a graph on a store, and check that nothing acknowledged is lost.",
    )
    parser.add_argument("uri", metavar="URI", help="the store: gs://BUCKET/PREFIX?… or file:///DIRECTORY")
    parser.add_argument("--kills", type=int, default=10, help="how many kills (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="rounds of the graph (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: %(default)s)")
    given = parser.parse_args()
    try:
        report = kill_at_random(given.uri, kills=given.kills, steps=given.steps, seed=given.seed)
    except KillTestError as error:
        parser.exit(1, f"{error}\n")
    print(report)  # noqa: T201 - a command line


if __name__ == "__main__":
    main()
