"""What is run against every saver: the same calls on the same words, whatever the saver."""

from __future__ import annotations

import asyncio
import multiprocessing
import operator
import random
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypedDict

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from benchmarks.chat import Text, corpus, messages, talk
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

if TYPE_CHECKING:
    from benchmarks.compare.contenders import Contender
    from benchmarks.compare.services import Counter, Endpoints, Traffic

Phase = Literal["direct", "delayed", "counted"]
PHASES: tuple[Phase, ...] = ("direct", "delayed", "counted")


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    Attributes:
        steps: Steps of the graph.
        turns: Turns of the long chat.
        sampled: Turns after which the stored bytes are read.
        history: Turns of the chat whose history is listed; each has three checkpoints.
        deleted: Checkpoints of a thread that is deleted.
        threads: Threads at once on one event loop.
        workers: Threads of the process in the synchronous counterpart.
        sizes: Bytes of the states.
        divisor: Repetitions are divided by it.
        seconds: After so long a saver's repetitions of a workload end, in each phase; one is always made.
    """

    steps: int = 30
    turns: int = 300
    sampled: tuple[int, ...] = (1, 3, 6, 10, 20, 30, 60, 100, 150, 200, 250, 300)
    history: int = 100
    deleted: int = 300
    threads: int = 200
    workers: int = 16
    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000, 5_000_000, 50_000_000)
    divisor: int = 1
    seconds: Mapping[Phase, float] = field(default_factory=lambda: {"direct": 6.0, "delayed": 4.0, "counted": 3.0})


FULL = Scale()
QUICK = Scale(
    steps=10,
    turns=30,
    sampled=(1, 10, 20, 30),
    history=5,
    deleted=30,
    threads=20,
    workers=8,
    sizes=(1_000, 100_000, 1_000_000),
    divisor=4,
    seconds={"direct": 1.0, "delayed": 0.5, "counted": 0.5},
)


@dataclass(frozen=True)
class Count:
    """What one run of an operation asked of the services.

    Attributes:
        steps: Checkpoints that it wrote.
        traffic: What passed the counting proxies.
        rounds: Sequential rounds of effects; only `GCSSaver` can count them.
    """

    steps: int
    traffic: Traffic
    rounds: int | None


@dataclass
class Measured:
    """What was found out about one operation of one workload on one saver."""

    steps: int = 1
    seconds: dict[Phase, list[float]] = field(default_factory=dict)
    counts: list[Count] = field(default_factory=list)
    error: str | None = None


@dataclass(kw_only=True)
class Session:
    """One saver in one phase of one workload.

    Attributes:
        contender: Which saver.
        phase: What is measured.
        endpoints: Of this phase.
        space: Where it keeps its data.
        scale: How much of everything.
        notes: Kept from phase to phase, and between workloads on the same data.
        measured: What was found out so far, by operation.
        counter: What passed the counting proxies.
        count: The rounds, of savers that count them.
        saver: Open on the endpoints of this phase.
        filler: Open on the direct ones, for what is stored and not measured.
        number: Of the repetition; negative while warming up.
        warming: What is measured now does not count.
        failed: The operation that raised.
    """

    contender: Contender
    phase: Phase
    endpoints: Endpoints
    space: str
    scale: Scale
    notes: dict[str, Any]
    measured: dict[str, Measured]
    counter: Counter | None = None
    count: CountingInterceptor | None = None
    saver: Any = None
    filler: Any = None
    number: int = 0
    warming: bool = False
    failed: str | None = None

    def open(self) -> AbstractContextManager[Any]:
        """A saver of its own, as another process would open it."""
        return self.contender.open(self.endpoints, self.space)

    def touch(self, saver: Any) -> None:
        """Make connections, without reading or writing anything that counts."""
        saver.get_tuple(config("nobody"))

    @contextmanager
    def measure(self, operation: str, steps: int = 1) -> Iterator[None]:
        """Time what is inside, or count it, as the phase asks.

        Args:
            operation: What to call it.
            steps: Checkpoints that it writes; 1 for a single call.
        """
        self.failed = operation
        self._take()
        begin = time.perf_counter()
        yield
        self.record(operation, time.perf_counter() - begin, steps)
        self.failed = None

    def _take(self) -> tuple[Traffic | None, int | None]:
        rounds = None
        if self.count is not None:
            rounds = len(self.count.rounds) or None
            self.count.clear()
        return (self.counter.take() if self.counter else None), rounds

    def record(self, operation: str, seconds: float, steps: int = 1, rounds: int | None = None) -> None:
        """Keep one measurement; the session's traffic since the last `measure` or `record` is this operation's."""
        traffic, own = self._take()
        if self.warming:
            return
        found = self.measured[operation]
        if self.phase != "counted":
            found.steps = steps
            found.seconds.setdefault(self.phase, []).append(seconds)
        elif traffic is not None:
            found.counts.append(Count(steps, traffic, own or rounds))

    def stored(self) -> int | None:
        return self.contender.stored(self.endpoints, self.space)

    def many(self, threads: int) -> int:
        """So many threads; fewer where they are only counted, behind proxies that are slow."""
        return max(4, threads // 10) if self.phase == "counted" else threads


def counted(contender: Contender, count: CountingInterceptor) -> Contender:
    """The same contender, with its rounds counted if it can count them."""
    method = getattr(contender, "counted", None)
    return method(count) if method else contender


def task(number: int) -> str:
    """A task's id, of LangGraph's form."""
    return str(uuid.UUID(int=abs(number)))


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}


class Workload(ABC):
    """Something to run. One object serves all savers, so it keeps nothing about any of them.

    Attributes:
        name: What `--only` calls it.
        title: What it does, for people.
        data: Workloads with the same data run one after another on what is stored already.
        operations: What it measures.
        repetitions: Of each phase, without warming up.
        counts_bytes: The size of what it stores is reported.
        is_kept: Each run stores as much, so that the mean is reported; otherwise the size at the end.
        is_concurrent: Calls run at the same time, so that no chain of requests is one operation's.
    """

    name: str
    title: str
    data: str
    operations: tuple[str, ...]
    repetitions: ClassVar[Mapping[Phase, int]]
    counts_bytes = False
    is_kept = False
    is_concurrent = False

    def prepare(self, session: Session) -> None:  # noqa: B027 - most need nothing
        """Store what the workload needs; in the first phase, and not measured."""

    def warm_up(self, session: Session) -> None:
        """Bring connections and caches to where they are in the midst of a run."""
        session.number = -1
        self.run(session)

    def finish(self, session: Session, stored: int | None) -> None:  # noqa: B027 - most have nothing to do
        """Take notice of the bytes that the first phase left, even if it failed."""

    @abstractmethod
    def run(self, session: Session) -> None:
        """Run once."""

    def count(self, phase: Phase, scale: Scale) -> int:
        return max(1, self.repetitions[phase] // scale.divisor)

    def is_cut_short(self, _: Phase) -> bool:
        """Whether a saver that takes long may make fewer repetitions."""
        return True


def fresh(session: Session, name: str) -> str:
    """A thread's name that was not used before."""
    session.notes[name] = session.notes.get(name, 0) + 1
    return f"{name}-{session.notes[name]}"


# Graphs

GRAPH_STEPS = 30
GRAPH_BYTES = 207_000


class Log(TypedDict):
    """The state of the graph of 30 steps."""

    log: Annotated[list[str], operator.add]
    step: int


def growing(saver: Any, steps: int, seed: int) -> Any:
    """A graph whose one node runs so many times and adds as much text each time; 30 times make 207 KB."""
    text = Text(seed)
    size = GRAPH_BYTES // GRAPH_STEPS

    def work(state: Log) -> dict[str, Any]:
        return {"log": [text.words(size // 4)[:size]], "step": state["step"] + 1}

    def after(state: Log) -> str:
        return "work" if state["step"] < steps else END

    builder = StateGraph(Log).add_node("work", work).add_edge(START, "work").add_conditional_edges("work", after)
    return builder.compile(checkpointer=saver)


class Graph(Workload):
    name = "graph"
    title = f"a graph of {GRAPH_STEPS} steps, to {GRAPH_BYTES // 1000} KB of state"
    data = "graph"
    operations = ("run",)
    repetitions: ClassVar = {"direct": 8, "delayed": 2, "counted": 1}
    counts_bytes = is_kept = True

    def warm_up(self, session: Session) -> None:
        session.touch(session.saver)

    def run(self, session: Session) -> None:
        thread = fresh(session, "graph")
        steps = session.scale.steps
        graph = growing(session.saver, steps, session.number + 10)
        # One more for the input, and one for the step that routes it.
        with session.measure("run", steps + 2):
            graph.invoke({"log": [], "step": 0}, config(thread) | {"recursion_limit": steps + 5})


WIDTH = 40


class Shared(TypedDict):
    """The state of the map-reduce graph."""

    parts: Annotated[list[str], operator.add]
    total: int


def wide(saver: Any, seed: int) -> Any:
    """A graph which maps over 40 parts at once, each with writes of its own, and reduces them."""
    parts = [text.words(100) for text in (Text(seed * WIDTH + part) for part in range(WIDTH))]

    def spread(_: Shared) -> list[Send]:
        return [Send("work", {"part": part}) for part in range(WIDTH)]

    def work(state: dict[str, int]) -> dict[str, Any]:
        return {"parts": [parts[state["part"]]]}

    def gather(state: Shared) -> dict[str, Any]:
        return {"total": sum(map(len, state["parts"]))}

    builder = StateGraph(Shared).add_node("work", work).add_node("gather", gather)
    builder.add_conditional_edges(START, spread, ["work"]).add_edge("work", "gather").add_edge("gather", END)
    return builder.compile(checkpointer=saver)


class MapReduce(Workload):
    name = "map-reduce"
    title = f"a map-reduce step with {WIDTH} parallel writes"
    data = "map-reduce"
    operations = ("run",)
    repetitions: ClassVar = {"direct": 12, "delayed": 3, "counted": 1}
    counts_bytes = is_kept = True

    def warm_up(self, session: Session) -> None:
        session.touch(session.saver)

    def run(self, session: Session) -> None:
        thread = fresh(session, "map-reduce")
        graph = wide(session.saver, session.number + 2)
        with session.measure("run", 4):
            graph.invoke({"parts": [], "total": 0}, config(thread))


# The long chat

CHAT = "chat"


def advance(session: Session, turns: int, *, is_measured: bool) -> None:
    """Continue the chat from where it is."""
    done = session.notes.get("turns", 0)
    graph = talk(session.saver, 0, seed=2 * done + 1)
    text = Text(2 * done + 2)
    for turn in range(done, done + turns):
        message = text.message(HumanMessage)
        session.failed = "turn"
        if is_measured:
            with session.measure("turn", 3):
                graph.invoke({"messages": [message]}, config(CHAT))
        else:
            graph.invoke({"messages": [message]}, config(CHAT))
        session.failed = None
        session.notes["turns"] = turn + 1


class Chat(Workload):
    name = "chat"
    title = "a chat of 300 turns"
    data = CHAT
    operations = ("turn",)
    repetitions: ClassVar = {"direct": 0, "delayed": 5, "counted": 3}
    counts_bytes = True

    def is_cut_short(self, phase: Phase) -> bool:
        return phase != "direct"

    def count(self, phase: Phase, scale: Scale) -> int:
        return scale.turns if phase == "direct" else super().count(phase, scale)

    def warm_up(self, session: Session) -> None:
        if session.notes.get("turns", 0):
            advance(session, 1, is_measured=False)
        else:
            session.touch(session.saver)

    def run(self, session: Session) -> None:
        advance(session, 1, is_measured=True)
        if session.phase == "direct" and session.notes["turns"] in session.scale.sampled:
            self.finish(session, session.stored())

    def finish(self, session: Session, stored: int | None) -> None:
        series = session.notes.setdefault("series", [])
        point = (session.notes.get("turns", 0), stored)
        if stored and point[0] and point not in series:
            series.append(point)


class LongThread(Workload):
    """Needs the long chat, and brings it about if `Chat` did not run."""

    data = CHAT

    def prepare(self, session: Session) -> None:
        advance(session, session.scale.turns - session.notes.get("turns", 0), is_measured=False)


class Step(LongThread):
    name = "step"
    title = "a step of the chat of 300 turns, call by call"
    thread = CHAT
    operations = ("put", "put_writes", "get_tuple")
    repetitions: ClassVar = {"direct": 30, "delayed": 8, "counted": 2}

    def turns(self, scale: Scale) -> int:
        """Of the thread when the measuring begins."""
        return scale.turns

    def warm_up(self, session: Session) -> None:
        for session.number in (-2, -1):
            self.run(session)

    def run(self, session: Session) -> None:
        saver = session.saver
        found = saver.get_tuple(config(self.thread))
        values, versions = found.checkpoint["channel_values"], found.checkpoint["channel_versions"]
        message = Text(10_000 + session.number).message(HumanMessage)
        version = saver.get_next_version(versions["messages"], None)
        checkpoint = {
            **found.checkpoint,
            "id": empty_checkpoint()["id"],
            # As many messages each time, so that all repetitions measure the same.
            "channel_values": values | {"messages": [*values["messages"][: 2 * self.turns(session.scale)], message]},
            "channel_versions": versions | {"messages": version},
        }
        metadata = {"source": "loop", "step": found.metadata.get("step", 0) + 1, "parents": {}}
        with session.measure("put"):
            stored = saver.put(found.config, checkpoint, metadata, {"messages": version})
        with session.measure("put_writes"):
            saver.put_writes(stored, [("messages", [message]), ("branch:to:reply", None)], task(session.number))
        with session.measure("get_tuple"):
            again = saver.get_tuple(config(self.thread))
        assert again.checkpoint["id"] == checkpoint["id"]


class Resume(LongThread):
    name = "resume"
    title = "a fresh process opens the saver and reads the thread of 300 turns"
    operations = ("open and get_tuple",)
    repetitions: ClassVar = {"direct": 5, "delayed": 4, "counted": 1}

    def prepare(self, session: Session) -> None:
        # As much of the chat as could be stored can be resumed.
        if not session.notes.get("turns"):
            super().prepare(session)

    def warm_up(self, session: Session) -> None:
        """There is nothing to warm: each process is a new one."""

    def run(self, session: Session) -> None:
        (operation,) = self.operations
        if not session.contender.is_shared:
            raise NotSharedError("another process finds nothing")
        session.failed = operation
        found = self._resume(session)
        assert found["messages"] >= 2 * min(session.notes["turns"], session.scale.turns), found
        session.record(operation, found["seconds"], rounds=found["rounds"])
        session.failed = None

    def _resume(self, session: Session) -> dict[str, Any]:
        # Not before it is needed: it imports all savers.
        from benchmarks.compare.resume import resume  # noqa: PLC0415

        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([resume.__module__])
        here, there = context.Pipe()
        arguments = (there, session.contender.name, session.endpoints, session.space, CHAT)
        process = context.Process(target=resume, args=arguments, kwargs={"is_counted": session.phase == "counted"})
        process.start()
        there.close()
        try:
            found = here.recv()
            if found == "ready":
                session._take()
                here.send("go")
                found = here.recv()
        finally:
            here.close()
            process.join()
        if isinstance(found, Exception):
            raise found
        return dict(found)


class NotSharedError(RuntimeError):
    """The saver's data does not outlive it."""


class RefusedError(RuntimeError):
    """What need not be tried, for the saver has failed at less."""


# Histories

HISTORY = "history"


class History(Workload):
    name = "history"
    title = "the history of a thread of 300 checkpoints"
    data = HISTORY
    operations = ("list 10", "list all")
    repetitions: ClassVar = {"direct": 6, "delayed": 2, "counted": 1}

    def prepare(self, session: Session) -> None:
        talk(session.saver, session.scale.history, thread_id=HISTORY)

    def warm_up(self, session: Session) -> None:
        list(session.saver.list(config(HISTORY), limit=2))

    def run(self, session: Session) -> None:
        with session.measure("list 10"):
            some = list(session.saver.list(config(HISTORY), limit=10))
        with session.measure("list all"):
            everything = list(session.saver.list(config(HISTORY)))
        assert len(some) == 10
        assert len(everything) >= 3 * session.scale.history


class ShorterStep(Step):
    """For those that cannot store the long chat; after `History`, because it adds to the thread."""

    name = "shorter step"
    title = "a step of a chat of 100 turns, call by call"
    data = thread = HISTORY

    def prepare(self, session: Session) -> None:
        if session.saver.get_tuple(config(HISTORY)) is None:
            talk(session.saver, session.scale.history, thread_id=HISTORY)

    def turns(self, scale: Scale) -> int:
        return scale.history


class Line:
    """A thread that grows by one small checkpoint a step: five messages and a counter.

    Attributes:
        at: Where it is: the config of its last checkpoint.
        number: Of the next step.
    """

    def __init__(self, saver: Any, thread: str) -> None:
        self._saver = saver
        self._version: Any = None
        self.at = config(thread)
        self.number = 0

    def step(self) -> tuple[Any, Any, Any, Any]:
        """The arguments of the next `put`."""
        values = {"messages": _talk()[self.number : self.number + 5], "turn": self.number}
        self._version = self._saver.get_next_version(self._version, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = values
        checkpoint["channel_versions"] = dict.fromkeys(values, self._version)
        metadata = {"source": "loop", "step": self.number, "parents": {}}
        self.number += 1
        return self.at, checkpoint, metadata, dict(checkpoint["channel_versions"])

    def writes(self) -> tuple[Any, list[tuple[str, Any]], str]:
        """The arguments of `put_writes`, for what the next step is to take over."""
        return self.at, [("turn", self.number)], task(self.number)

    def put(self) -> None:
        """Take a step, and store the writes of the next one."""
        self.at = self._saver.put(*self.step())
        self._saver.put_writes(*self.writes())

    async def aput(self) -> None:
        self.at = await self._saver.aput(*self.step())
        await self._saver.aput_writes(*self.writes())


@lru_cache(maxsize=1)
def _talk() -> list[Any]:
    return messages(FULL.deleted + 10)


class Delete(Workload):
    name = "delete"
    title = "delete_thread of a thread of 300 checkpoints"
    data = "delete"
    operations = ("delete_thread",)
    repetitions: ClassVar = {"direct": 3, "delayed": 1, "counted": 1}

    def warm_up(self, session: Session) -> None:
        session.touch(session.saver)

    def run(self, session: Session) -> None:
        thread = fresh(session, "delete")
        line = Line(session.filler, thread)
        for _ in range(session.scale.deleted):
            line.put()
        with session.measure("delete_thread"):
            session.saver.delete_thread(thread)
        assert session.saver.get_tuple(config(thread)) is None


# Many at once

EACH = 3


class ManyAsync(Workload):
    name = "async"
    title = "200 threads at once on one event loop: aput, aput_writes, aget_tuple"
    data = "async"
    operations = ("batch",)
    repetitions: ClassVar = {"direct": 3, "delayed": 2, "counted": 1}
    counts_bytes = is_kept = True
    is_concurrent = True

    def warm_up(self, session: Session) -> None:
        """Each run has an event loop and connections of its own, and warms them itself."""

    def run(self, session: Session) -> None:
        asyncio.run(self._run(session))

    async def _run(self, session: Session) -> None:
        async with session.contender.aopen(session.endpoints, session.space) as saver:
            await asyncio.gather(*(self._thread(saver, fresh(session, "warm"), 1) for _ in range(16)))
            names = [fresh(session, "async") for _ in range(session.many(session.scale.threads))]
            with session.measure("batch", EACH * len(names)):
                await asyncio.gather(*(self._thread(saver, name, EACH) for name in names))

    async def _thread(self, saver: Any, thread: str, steps: int) -> None:
        line = Line(saver, thread)
        for _ in range(steps):
            await line.aput()
            found = await saver.aget_tuple(config(thread))
            assert found.config == line.at


class ManySync(Workload):
    name = "sync"
    title = "16 threads of the process: put, put_writes, get_tuple"
    data = "sync"
    operations = ("batch",)
    repetitions: ClassVar = {"direct": 3, "delayed": 1, "counted": 1}
    counts_bytes = is_kept = True
    is_concurrent = True

    def warm_up(self, session: Session) -> None:
        session.touch(session.saver)

    def run(self, session: Session) -> None:
        saver, workers = session.saver, session.many(session.scale.workers)

        def thread(name: str) -> None:
            line = Line(saver, name)
            for _ in range(2 * EACH):
                line.put()
                assert saver.get_tuple(config(name)).config == line.at

        names = [fresh(session, "sync") for _ in range(workers)]
        with ThreadPoolExecutor(workers) as pool, session.measure("batch", 2 * EACH * workers):
            for _ in pool.map(thread, names):
                pass


# States of many sizes


@lru_cache(maxsize=4)
def state(size: int) -> str:
    """So many bytes of words in an order of their own: long text does not repeat itself."""
    words = random.Random(size).choices(corpus(), k=size // 4)
    text = " ".join(words).encode("ascii", "replace")[:size].decode()
    assert len(text) == size
    return text


def named(size: int) -> str:
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1000} KB"


class State(Workload):
    title = "a state of this size, in the second step of a thread"
    data = "states"
    operations = ("put", "get_tuple warm", "get_tuple cold")
    repetitions: ClassVar = {"direct": 12, "delayed": 4, "counted": 1}
    counts_bytes = is_kept = True

    def __init__(self, size: int) -> None:
        self.size = size
        self.name = f"state of {named(size)}"

    def prepare(self, session: Session) -> None:
        if "failed" in session.notes:
            raise RefusedError(f"{session.notes['failed']} at a smaller state")

    def count(self, phase: Phase, scale: Scale) -> int:
        found = super().count(phase, scale)
        return min(found, 3) if self.size >= 20_000_000 else found

    def warm_up(self, session: Session) -> None:
        session.touch(session.saver)

    def run(self, session: Session) -> None:
        thread = fresh(session, "state")
        line = Line(session.saver, thread)
        line.put()
        at, checkpoint, metadata, versions = line.step()
        versions["state"] = checkpoint["channel_versions"]["state"] = versions["turn"]
        checkpoint["channel_values"]["state"] = state(self.size)
        with session.measure("put"):
            session.saver.put(at, checkpoint, metadata, versions)
        with session.measure("get_tuple warm"):
            found = session.saver.get_tuple(config(thread))
        assert len(found.checkpoint["channel_values"]["state"]) == self.size
        session.failed = "get_tuple cold"
        if not session.contender.is_shared:
            raise NotSharedError("a newly opened saver finds nothing")
        with session.open() as cold:
            session.touch(cold)
            with session.measure("get_tuple cold"):
                cold.get_tuple(config(thread))


def workloads(scale: Scale) -> list[Workload]:
    """All of them; those on the same data are neighbors."""
    states = [State(size) for size in scale.sizes]
    return [
        Graph(),
        Chat(),
        Step(),
        Resume(),
        MapReduce(),
        History(),
        ShorterStep(),
        ManyAsync(),
        ManySync(),
        *states,
        Delete(),
    ]
