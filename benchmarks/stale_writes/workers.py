"""The workers: processes that run a graph on one thread after another, as they are ordered."""

from __future__ import annotations

import logging
import operator
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Annotated, Any, Literal, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from benchmarks.compare.services import Endpoints
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Docs, Effect
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.testing import PATIENCE
from langgraph_gcs_saver.testing.kills import process

ROUNDS = 3
"""Rounds of the graph: two nodes at the same time, and one that joins them."""

NODES = ("a", "b", "join")

LARGE = 20_000
"""Bytes that each round adds to a large state. They do not compress, so they become objects."""

THINK = 0.004
"""Seconds that a node thinks, at most."""

Take = Literal["free", "force", "expiry", "owner", "none"]
"""How a worker gets the lease: if it is free, from a live holder, from a silent one, from itself, or not at all."""


# Savers


@dataclass(frozen=True)
class Row:
    """A saver, as the table names it.

    Attributes:
        name: The name of the row.
        contender: Its name in `benchmarks.compare`; empty for `GCSSaver`, which needs nothing that is not installed.
        leased: Whether each run takes the thread's lease.
        uri: The store of `GCSSaver`.
        endpoints: The services of the others.
    """

    name: str
    contender: str = ""
    leased: bool = False
    uri: str = ""
    endpoints: Endpoints | None = None

    def open(self, **options: Any) -> AbstractContextManager[BaseCheckpointSaver[Any]]:
        """The saver."""
        if not self.contender:
            if self.endpoints is not None:
                os.environ["FIRESTORE_EMULATOR_HOST"] = self.endpoints.firestore
                os.environ["STORAGE_EMULATOR_HOST"] = self.endpoints.storage
            return GCSSaver.from_conn_string(self.uri, **options)
        from benchmarks.compare.contenders import contenders  # noqa: PLC0415 - needs the other savers

        assert self.endpoints is not None
        (found,) = (one for one in contenders() if one.name == self.contender)
        return found.open(self.endpoints, "stale")


class Ahead(Interceptor):
    """Lets the service's clock be ahead while `seconds` is not 0. A live holder then seems to be silent."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        answer = perform(effect)
        if isinstance(answer, Docs) and answer.read_time:
            answer.read_time += int(self.seconds * 1e9)
        return answer


# The graph


class State(TypedDict):
    """What the workers share: each result with its node, its round and its worker."""

    done: Annotated[list[str], operator.add]
    noise: bytes


@dataclass(frozen=True)
class Context:
    """Input of a run that is not state.

    Attributes:
        worker: The name that the results get.
        chance: Decides how long nodes think.
        size: Bytes that a round adds to the state.
        did: The results of the run.
        begin: Called before each node.
    """

    worker: str
    chance: random.Random
    size: int
    did: list[str]
    begin: Any


def build(saver: BaseCheckpointSaver[Any]) -> Any:
    """Two nodes at the same time, then one that joins them, `ROUNDS` times."""

    def node(name: str) -> Any:
        def act(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
            context = runtime.context
            context.begin()
            time.sleep(context.chance.uniform(0, THINK))
            result = f"{name}{_round(state)} by {context.worker}"
            context.did.append(result)
            more = {"noise": context.chance.randbytes(context.size)} if name == "join" else {}
            return {"done": [result], **more}

        return act

    builder = StateGraph(State, Context)
    for name in NODES:
        builder.add_node(name, node(name))
    builder.add_conditional_edges(START, lambda _: ["a", "b"])
    # Not `add_edge(["a", "b"], "join")`: the set that waits for both changes while a put of it waits for its turn.
    builder.add_edge("a", "join").add_edge("b", "join")
    builder.add_conditional_edges("join", lambda state: END if _round(state) >= ROUNDS else ["a", "b"])
    return builder.compile(checkpointer=saver)


def _round(state: State) -> int:
    return len(state["done"]) // len(NODES)


# Processes


@dataclass(frozen=True)
class Order:
    """One run.

    Attributes:
        thread_id: The thread.
        worker: The name of the worker in this run.
        take: How to get the lease.
        durability: That of LangGraph.
        size: Bytes that a round adds to the state.
        seed: Of how long nodes think.
    """

    thread_id: str
    worker: str
    take: Take
    durability: Any
    size: int
    seed: float


@dataclass(frozen=True)
class Taken:
    """From a worker: it continues the thread from now on; `at` is the time of its lease, by the service."""

    at: int = 0


@dataclass(frozen=True)
class Ended:
    """From a worker: its run is over, with the results of its nodes, and the error that ended it."""

    did: list[str] = field(default_factory=list)
    error: str = ""
    message: str = ""


def work(row: Row, pipe: Connection) -> None:
    """Body of the process: obey until the pipe is closed."""
    warnings.simplefilter("ignore")  # the other savers' advice
    logging.disable(logging.ERROR)  # leases that are taken over, and runs that end with an error, are no surprise here
    clock = Ahead()
    with row.open(**({} if row.contender else {"interceptors": [clock]})) as saver:
        if row.contender == "firestore":
            _sign(saver)
        graph = build(saver)
        pipe.send(Ended())
        with suppress(EOFError):
            while True:
                order = pipe.recv()
                pipe.send(_run(order, saver, graph, clock, pipe))


def _sign(saver: Any) -> None:
    """Let checkpoints say who made them: this saver does not add the config's metadata to theirs."""
    put = saver.put

    def signed(config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        return put(config, checkpoint, {**metadata, "worker": config["metadata"]["worker"]}, versions)

    saver.put = signed


def _run(order: Order, saver: Any, graph: Any, clock: Ahead, pipe: Connection) -> Ended:
    config: Any = {"configurable": {"thread_id": order.thread_id}}
    told: list[Taken] = []

    def begin() -> None:
        if not told:
            told.append(Taken())
            pipe.send(told[0])

    context = Context(order.worker, random.Random(order.seed), order.size, [], begin)
    try:
        with ExitStack() as stack:
            if order.take != "none":
                clock.seconds = 3600.0 if order.take == "expiry" else 0.0
                owner = order.thread_id if order.take == "owner" else None
                lease = saver.thread(order.thread_id).lease(take_over=order.take == "force", owner=owner)
                config = stack.enter_context(lease).config
                clock.seconds = 0.0
                told.append(Taken(lease._held.fence.time))
                pipe.send(told[0])
            is_begun = graph.get_state(config).created_at is not None
            config["metadata"] = {"worker": order.worker}
            start = None if is_begun else {"done": [], "noise": b""}
            graph.invoke(start, config, context=context, durability=order.durability)
    except Exception as error:  # noqa: BLE001 - whatever a saver raises is a result
        return Ended(context.did, type(error).__name__, str(error))
    finally:
        clock.seconds = 0.0
    return Ended(context.did)


class Worker:
    """A worker, as the process sees it that stops and wakes it.

    Attributes:
        taken: The first report of the current run, if it came.
        ended: How it ended, if it did.
    """

    def __init__(self, pid: int, pipe: Connection) -> None:
        self.pid = pid
        self.taken: Taken | None = None
        self.ended: Ended | None = None
        self._pipe = pipe

    @property
    def did(self) -> list[str]:
        """The results of the run."""
        assert self.ended is not None
        return self.ended.did

    @property
    def error(self) -> str:
        """The type of the error that ended it; empty for none."""
        assert self.ended is not None
        return self.ended.error

    def order(self, order: Order) -> None:
        """Begin a run."""
        self.taken = self.ended = None
        self._pipe.send(order)

    def listen(self, seconds: float = PATIENCE, *, until_taken: bool = False) -> bool:
        """Receive the worker's reports for so many seconds. Returns whether the one came that was waited for.

        That is the run's end, or with `until_taken` that it continues the thread.
        """
        end = time.monotonic() + seconds
        while not self._is_over(until_taken=until_taken) and self._pipe.poll(max(0.0, end - time.monotonic())):
            told = self._pipe.recv()
            if isinstance(told, Taken):
                self.taken = told
            else:
                self.ended = told
        return self._is_over(until_taken=until_taken)

    def _is_over(self, *, until_taken: bool) -> bool:
        return self.ended is not None or (until_taken and self.taken is not None)

    def stop(self) -> None:
        """Stop it, wherever it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it continue."""
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def workers(row: Row) -> Iterator[tuple[Worker, Worker]]:
    """Two processes, ready for orders."""
    with process(work, row) as (one, pipe), process(work, row) as (other, second_pipe):
        assert one.pid is not None
        assert other.pid is not None
        found = Worker(one.pid, pipe), Worker(other.pid, second_pipe)
        for worker in found:
            if not worker.listen():
                raise RuntimeError(f"a worker of {row.name} did not start")
        yield found
