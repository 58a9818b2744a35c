"""`recover`: a worker that resumes what other processes have begun.

A worker looks for threads whose turns have not finished, and on which no process works. It resumes them one by one,
each under its lease, as `run` does. Several workers can share a store: the lease decides which of them has a thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.errors import (
    GCSSaverError,
    InvalidInputError,
    NotPrimaryError,
    StoreUnavailableError,
    ThreadBusyError,
)
from langgraph_gcs_saver.flows.active import active_in
from langgraph_gcs_saver.flows.all_threads import all_of
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Recovery
from langgraph_gcs_saver.saver import configs, restores
from langgraph_gcs_saver.saver.connection import Connection
from langgraph_gcs_saver.saver.internals import Internals
from langgraph_gcs_saver.saver.lease import Lease
from langgraph_gcs_saver.saver.run import arun, run
from langgraph_gcs_saver.saver.running import breakpoints_of, check_durability, is_at_breakpoint
from langgraph_gcs_saver.saver.standby import Standby

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.pregel import Pregel

    from langgraph_gcs_saver.cadence.objective import RTO
    from langgraph_gcs_saver.cadence.policies import Policy, Progress
    from langgraph_gcs_saver.engine.effects import Doc, Flow, Write
    from langgraph_gcs_saver.flows.active import Active, Listed
    from langgraph_gcs_saver.flows.runs import Status
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

_LOOK_SECONDS = 0.5
"""How often a worker that waits looks whether it has to stop."""

logger = logging.getLogger("langgraph_gcs_saver")


@record(frozen=True, slots=True, kw_only=True)
class Work:
    """What a worker does, and how.

    Attributes:
        every: Seconds between two looks; `None` for a single look.
        limit: Most threads to resume.
        attempts: After so many failures in a row, a thread is given up.
        backoff: Seconds before the second attempt. They double with each further failure.
        policy: When to store, and when to stop.
        store: As for `run`.
        objective: As for `run`.
        context_factory: Makes the context of turns that had a `context_factory`.
        durability: As for `run`.
        ttl: As for `run`.
        owner: As for `run`.
    """

    every: float | None
    limit: int | None
    attempts: int
    backoff: float
    policy: Policy | None
    store: Literal["every_step", "segments"]
    objective: RTO | None
    context_factory: Callable[[], Any] | None
    durability: str | None
    ttl: float
    owner: str | None


class Recoveries:
    """The threads that a worker resumes, one by one: iterate with `for`, or in a coroutine with `async for`.

    Nothing is resumed before the iteration needs it. Each iteration starts again.
    """

    def __init__(self, saver: GCSSaver, graphs: Any, work: Work) -> None:
        self._saver = saver
        self._graphs = _graphs(saver, graphs)
        # A turn that `run` did not begin does not say which graph it has. A mapping stands for turns that say it.
        self._unnamed = "" if isinstance(graphs, Mapping) else next(iter(self._graphs))
        self._work = work
        _check(work)
        if work.objective is not None:
            restores.check(work.objective, Internals.of(saver).options)

    def __iter__(self) -> Iterator[Recovery]:
        inside = Internals.of(self._saver)
        backend = inside.backend
        with _Worker(inside, self._graphs, self._unnamed, self._work).working() as worker:
            while not worker.is_over():
                with worker.looking():
                    for one in worker.taking(runner.run(worker.find(), backend)):
                        with worker.resuming(one) as attempt:
                            graph = runner.run(attempt.examine(), backend)
                            if graph is not None:
                                with attempt.lease as lease:
                                    run(graph, None, attempt.begin(lease), **attempt.options)
                                    runner.run(attempt.end(), backend)
                        if attempt.recovery is not None:
                            yield attempt.recovery
                        if worker.is_over():
                            return
                for seconds in worker.pauses():
                    time.sleep(seconds)

    async def __aiter__(self) -> AsyncIterator[Recovery]:
        inside = Internals.of(self._saver)
        backend = inside.backend
        with _Worker(inside, self._graphs, self._unnamed, self._work).working() as worker:
            while not worker.is_over():
                with worker.looking():
                    for one in worker.taking(await runner.arun(worker.find(), backend)):
                        with worker.resuming(one) as attempt:
                            graph = await runner.arun(attempt.examine(), backend)
                            if graph is not None:
                                async with attempt.lease as lease:
                                    await arun(graph, None, attempt.begin(lease), **attempt.options)
                                    await runner.arun(attempt.end(), backend)
                        if attempt.recovery is not None:
                            yield attempt.recovery
                        if worker.is_over():
                            return
                for seconds in worker.pauses():
                    await asyncio.sleep(seconds)


class _Worker:
    """One iteration.

    Attributes:
        unnamed: The name of the graph that turns have which do not say it; empty if they are left alone.
        resumed: Number of threads that it has resumed.
        passed: By thread, the time of the note about it that this worker cannot do anything about.
        policy: The policy of each run, which also ends when the worker has to.
        standby: Whether the worker waits, because its store is not the primary of two regions.
    """

    def __init__(
        self, inside: Internals, graphs: Mapping[str, Pregel[Any, Any, Any, Any]], unnamed: str, work: Work
    ) -> None:
        self.inside = inside
        self.graphs = graphs
        self.unnamed = unnamed
        self.work = work
        self.resumed = 0
        self.passed: dict[str, int] = {}
        self.policy: Policy | None = None
        self.standby = Standby(inside.context, waits=work.every is not None)
        self._has_looked = False
        self._control = RunControl()
        self._stopping: Any = None

    @contextmanager
    def working(self) -> Iterator[_Worker]:
        """The block of an iteration: it listens to the signals of its policy."""
        if self.work.policy is None:
            yield self
            return
        from langgraph_gcs_saver.cadence.stopping import Stopping  # noqa: PLC0415 - few processes need it

        self._stopping = Stopping(self.work.policy, of_run=True)
        self.policy = _of_run(self.work.policy, self.must_stop)
        try:
            yield self
        finally:
            self._stopping.close()

    def is_over(self) -> bool:
        """Whether this worker has to end."""
        work = self.work
        if self._has_looked and work.every is None:
            return True
        if work.limit is not None and self.resumed >= work.limit:
            return True
        return self.must_stop() or self.inside.controls.asks(self._control)

    def must_stop(self) -> bool:
        """Whether its policy says that it has to stop."""
        return self._stopping is not None and bool(self._stopping.meet(self._control))

    def find(self) -> Flow[list[Listed]]:
        """The threads that may have to be resumed, in random order, so that workers do not follow each other.

        There are none while the store is not the primary of two regions.
        """
        if not (yield from self.standby.may_take()):
            yield from self.standby.prepare(partial(flows.work.ready, self.work.backoff))
            return []
        found = yield from all_of(flows.work.ready(self.work.backoff))
        known = {one.active.thread_id: one.active.time for one in found}
        # Those that are not listed any more are forgotten.
        self.passed = {thread_id: time for thread_id, time in self.passed.items() if known.get(thread_id) == time}
        fresh = [one for one in found if one.active.thread_id not in self.passed]
        random.shuffle(fresh)
        self.standby.expect(fresh)
        return fresh

    def taking(self, found: Iterable[Listed]) -> Iterator[Listed]:
        """These threads one by one, while the store is the primary."""
        for one in found:
            if self.standby.is_waiting:
                return
            yield one

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A look at the store. If the store cannot be reached, the next look tries again."""
        try:
            yield
        except StoreUnavailableError as error:
            if self.work.every is None:
                raise
            logger.warning("The store was not looked at for work: %s", error)
        self._has_looked = True

    def pauses(self) -> Iterator[float]:
        """The seconds to sleep until the next look, in pieces."""
        until = time.monotonic() + (self.standby.pause() if self.standby.is_waiting else self.work.every or 0.0)
        while not self.is_over() and (left := until - time.monotonic()) > 0:
            yield min(left, _LOOK_SECONDS)

    @contextmanager
    def resuming(self, one: Listed) -> Iterator[_Attempt]:
        """One thread: what an exception means for it."""
        attempt = _Attempt(self, one)
        try:
            yield attempt
        except GraphDrained:
            attempt.recovery = Recovery(thread_id=one.active.thread_id, outcome="paused")
        except NotPrimaryError:
            if self.work.every is None:
                raise
            self.standby.wait()
            attempt.leave()
        except Exception as error:  # noqa: BLE001 - a graph may raise anything, and the next thread is not to blame
            attempt.fail(error)


class _Attempt:
    """One thread, looked at and resumed once.

    Attributes:
        recovery: What came of it; `None` if it was left alone.
        options: Options of `run`.
    """

    def __init__(self, worker: _Worker, one: Listed) -> None:
        self._worker = worker
        self._seen = one.active
        self.recovery: Recovery | None = None
        self.options: dict[str, Any] = {}
        self._has_begun = False

    def examine(self) -> Flow[Pregel[Any, Any, Any, Any] | None]:
        """Look at the thread. Returns the graph of its turn, if that has to be resumed.

        Raises:
            InvalidInputError: Its context cannot be made.
        """
        worker, seen = self._worker, self._seen
        inside, work = worker.inside, worker.work
        if not (yield from worker.standby.may_take()):
            return None
        yield from worker.standby.warm(seen.thread_id)
        found = yield from flows.work.examine(seen, work.attempts, self._is_ours, inside.loads, inside.context)
        if found is None:
            return None
        if seen.attempts >= work.attempts:
            logger.warning("Thread %r is given up after %d attempts.", seen.thread_id, seen.attempts)
            self.recovery = Recovery(thread_id=seen.thread_id, outcome="poison", attempts=seen.attempts)
            return None
        graph = worker.graphs[self._name(found)]
        breakpoints = breakpoints_of(found.turn)
        if is_at_breakpoint(graph, breakpoints, found):
            # A process that stopped there has crashed before it could say so. Only a person passes a breakpoint.
            yield from flows.active.settle(seen, "waiting", inside.context)
            return None
        self.options = {
            "store": work.store,
            "durability": work.durability,
            "policy": worker.policy,
            "objective": work.objective,
            **breakpoints,
        }
        if found.turn is not None and found.turn.factory is not None:
            if work.context_factory is None:
                raise InvalidInputError(
                    f"A function makes the context of the turn of thread {seen.thread_id!r}, and the worker has none. "
                    "Pass `context_factory=`."
                )
            self.options["context_factory"] = work.context_factory
        return graph

    def _is_ours(self, found: Status) -> bool:
        """Whether this worker has the graph of a turn. It looks at the turns of other graphs once."""
        if self._name(found) in self._worker.graphs:
            return True
        self._worker.passed[found.thread_id] = self._seen.time
        return False

    def _name(self, found: Status) -> str:
        """The name of a turn's graph."""
        return (None if found.turn is None else found.turn.graph) or self._worker.unnamed

    @property
    def lease(self) -> Lease:
        """The lease of the thread."""
        work, leases = self._worker.work, self._worker.inside.leases
        thread_id, riders = self._seen.thread_id, _Taking(self._seen)
        return Lease(leases, thread_id, ttl=work.ttl, wait=0.0, owner=work.owner, take_over=False, riders=riders)

    def begin(self, lease: Lease) -> RunnableConfig:
        """Note that the run begins. Returns its config."""
        self._has_begun = True
        self._worker.resumed += 1
        return lease.config

    def end(self) -> Flow[None]:
        """Note how the run has ended that raised no error."""
        thread_id = self._seen.thread_id
        name = keys.active_doc(thread_id)
        is_left = name in (yield from GetDocs((name,)))
        self.recovery = Recovery(thread_id=thread_id, outcome="waiting" if is_left else "finished")

    def leave(self) -> None:
        """Note that the store is not the primary any more. A worker of the other region resumes the thread."""
        if self._has_begun:
            self.recovery = Recovery(thread_id=self._seen.thread_id, outcome="paused")

    def fail(self, error: Exception) -> None:
        """Note an error."""
        seen = self._seen
        if self._has_begun:
            # Its text may quote the state.
            attempts, name = seen.attempts + 1, type(error).__qualname__
            logger.warning("Thread %r failed at attempt %d with %s.", seen.thread_id, attempts, name)
            self._failed(type(error), attempts)
        elif isinstance(error, ThreadBusyError):
            logger.debug("Another process works on thread %r.", seen.thread_id)
        elif isinstance(error, StoreUnavailableError) or not isinstance(error, GCSSaverError):
            raise error
        else:
            self._worker.passed[seen.thread_id] = seen.time
            logger.warning("Thread %r was not resumed: %s", seen.thread_id, error)
            self._failed(type(error), seen.attempts)

    def _failed(self, error: type[Exception], attempts: int) -> None:
        name = error.__qualname__
        self.recovery = Recovery(thread_id=self._seen.thread_id, outcome="failed", error=name, attempts=attempts)


def _of_run(policy: Policy, must_stop: Callable[[], bool]) -> Policy:
    """The policy of runs that end when their worker has to. The worker listens to signals, and so its runs need not."""
    from langgraph_gcs_saver.cadence.policies import AnyOf, Policy, Stop  # noqa: PLC0415 - few processes need it

    class Stops(Policy):
        only_stops = True

        def decide(self, progress: Progress, /) -> Stop | None:  # noqa: ARG002 - the worker's progress decides
            return Stop("The worker has to stop.") if must_stop() else None

    class OfRun(AnyOf):
        signals = frozenset()

    return OfRun((policy | Stops()).policies)


class _Taking:
    """The riders of a worker's lease: they count its attempt, if the thread is as the worker has seen it.

    Otherwise another process has worked on it meanwhile. Its run may have ended at a breakpoint, which only a person
    passes.
    """

    def __init__(self, seen: Active) -> None:
        self._seen = seen
        self._has_turn = False

    @property
    def names(self) -> tuple[str, ...]:
        """The document of the turn, and the note that it has not finished."""
        return flows.runs.beside(self._seen.thread_id)

    def taking(self, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:
        """Count the attempt.

        Raises:
            ThreadBusyError: Another process has worked on the thread.
        """
        resume, noted = self.names
        thread_id = self._seen.thread_id
        if active_in(docs.get(noted)) != self._seen:
            raise ThreadBusyError(
                f"Another process has worked on thread {thread_id!r} since it was looked at.", thread_id=thread_id
            )
        self._has_turn = resume in docs
        return flows.runs.begun(thread_id, docs)

    def ending(self, error: BaseException | None, /) -> tuple[Write, ...]:
        """Say how the run has ended, if it has not said it itself."""
        if error is None:
            return ()
        how: Literal["paused", "crashed"] = "paused" if isinstance(error, GraphDrained) else "crashed"
        return flows.runs.ended(self._seen.thread_id, how, has_turn=self._has_turn)


def _graphs(saver: GCSSaver, given: Any) -> Mapping[str, Pregel[Any, Any, Any, Any]]:
    """The graphs by name, each with the saver as its checkpointer."""
    if not isinstance(given, Mapping):
        given = {given.get_name(): given} if callable(getattr(given, "get_name", None)) else {"": given}
    return {str(name): _with_saver(graph, saver) for name, graph in given.items()}


def _with_saver(graph: Any, saver: GCSSaver) -> Pregel[Any, Any, Any, Any]:
    if not callable(getattr(graph, "invoke", None)) or not hasattr(graph, "checkpointer"):
        raise InvalidInputError(f"A graph is of type {type(graph).__name__}; it must be a compiled graph.")
    own = graph.checkpointer
    if isinstance(own, Connection):
        if own._backend is not saver._backend:  # noqa: SLF001 - the same class
            raise InvalidInputError("The graph's checkpointer has another store. Call `recover` of that saver.")
        return graph  # type: ignore[no-any-return]  # checked above
    return graph.copy({"checkpointer": saver})  # type: ignore[no-any-return]  # as above


def _check(work: Work) -> None:
    for name, least in (("limit", 1), ("attempts", 1)):
        value = getattr(work, name)
        if value is not None and (type(value) is not int or value < least):
            raise InvalidInputError(f"{name} is {value!r}; it must be an integer, at least {least}.")
    for name in ("every", "backoff"):
        value = getattr(work, name)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (is_number and (value > 0 or (value == 0 and name == "backoff"))):
            at_least = "0 or more" if name == "backoff" else "above 0"
            raise InvalidInputError(f"{name} is {value!r}; it must be a number of seconds, {at_least}.")
    check_durability(work.durability, work.store)
    if work.policy is not None:
        from langgraph_gcs_saver.cadence.policies import Policy  # noqa: PLC0415 - few processes need it

        configs.check_type("policy", work.policy, Policy)
