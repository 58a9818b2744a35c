"""The only loops that perform effects: `run` in the calling thread, `arun` on the running event loop.

In the main thread, a signal handler may raise in the middle of a request. So `run` does not call a store there: it
leaves the request to another thread, and waits. Computations and events stay in the calling thread.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from langgraph_gcs_saver.engine.effects import (
    Ask,
    BlobRequest,
    Compute,
    DocumentRequest,
    Durable,
    Effect,
    Emit,
    Flow,
    Gather,
    Now,
    Pause,
)
from langgraph_gcs_saver.engine.interceptors import GatherInterceptor, Interceptor
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.pool import Pool, is_exposed
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.engine.steps import Steps
from langgraph_gcs_saver.errors import SaverClosedError
from langgraph_gcs_saver.events import Subscribers

T = TypeVar("T")

OFFLOAD_BYTES = 256 << 10
"""Computations on at least this many bytes leave the event loop; below, a thread hop costs more than it saves."""


GRACE_SECONDS = 5.0
"""How long after its own timeout a request counts as hanging. The store's error says more, so it should come first."""

_MOST_IN_MAIN = 64
"""Threads for requests of the main thread: one, and another for each request that a signal interrupted."""


class _Pools:
    """The threads of one process.

    Attributes:
        beside: Perform effects that run at the same time, and those that must not block an event loop.
        main: Perform requests in place of the main thread.
    """

    def __init__(self, max_threads: int, limit: float) -> None:
        self.beside = Pool("langgraph-gcs", max_threads, limit=limit)
        self.main = Pool("langgraph-gcs-main", _MOST_IN_MAIN, keep=1, limit=limit)

    def close(self, seconds: float) -> None:
        """End the threads, except those whose request was interrupted."""
        self.beside.close(seconds)
        self.main.close(seconds)


class Admit(Protocol):
    """Decides whether a flow may reach a store; see `flows.places.admit`."""

    def __call__(self, flow: Flow[T], /) -> Flow[T]:
        """Return the flow to perform in place of this one."""


def admit_all(flow: Flow[T], /) -> Flow[T]:
    """The flow itself."""
    return flow


class Performer(Protocol):
    """The object on which `run` and `arun` perform a flow: a `Backend`, or `NamedStores`."""

    @property
    def admit(self) -> Admit:
        """The function that every flow passes through before it is performed."""

    def perform(self, effect: Effect[Any]) -> Any:
        """Perform one effect, and return or raise in this thread."""

    async def aperform(self, effect: Effect[Any]) -> Any:
        """Perform one effect without blocking the event loop."""


class Backend:
    """Everything that effects act on: two stores, bounded pools of threads, and subscribers.

    Args:
        documents: The store of documents.
        blobs: The store of objects.
        subscribers: The subscribers to events.
        max_threads: Threads that work beside the caller; Cloud Storage's connection pool has as many connections.
        timeout: Seconds within which the stores end a request, except a transfer.
        admit: The function that every flow passes through before it is performed.
        interceptors: The interceptors that every effect passes through, the outermost first.
    """

    def __init__(
        self,
        documents: DocumentStore,
        blobs: BlobStore,
        *,
        subscribers: Subscribers | None = None,
        max_threads: int = 16,
        timeout: float = 30.0,
        admit: Admit = admit_all,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        self.documents = documents
        self.blobs = blobs
        self.admit = admit
        self.subscribers = subscribers or Subscribers()
        self._limit = timeout + GRACE_SECONDS
        self._documents_survive = getattr(documents, "survives_signals", False)
        self._blobs_survive = getattr(blobs, "survives_signals", False)
        self._documents_are_local = getattr(documents, "is_local", False)
        self._pools = PerProcess(partial(_Pools, max_threads, self._limit))
        self._closed = False
        self._intercept(interceptors)

    def admitting(self, admit: Admit) -> Backend:
        """The same stores, threads and subscribers, for flows that pass through another function before."""
        other = copy.copy(self)
        other.admit = admit
        return other

    def intercept(self, interceptor: Interceptor) -> Callable[[], None]:
        """Put an interceptor around the others, for the effects that begin from now on.

        Returns:
            A function that takes it away again.
        """
        self._intercept((interceptor, *self._interceptors))

        def end() -> None:
            self._intercept(tuple(one for one in self._interceptors if one is not interceptor))

        return end

    def _intercept(self, interceptors: Sequence[Interceptor]) -> None:
        gathering = [one for one in interceptors if isinstance(one, GatherInterceptor)]
        self._interceptors = tuple(interceptors)
        self._one = _inside([one.around for one in interceptors], self._perform)
        self._aone = _inside([one.aaround for one in interceptors], self._aperform)
        self._together = _inside([one.around_all for one in gathering], self._perform_all)
        self._atogether = _inside([one.aaround_all for one in gathering], self._aperform_all)

    def _threads(self) -> _Pools:
        """The threads of this process, which start on first use."""
        if self._closed:
            raise SaverClosedError("This saver is closed; make a new one.")
        return self._pools.get()

    def perform(self, effect: Effect[Any]) -> Any:
        """Perform one effect, and return or raise in this thread."""
        if not isinstance(effect, Gather):
            return self._one(effect)
        if len(effect.effects) < 2:
            return tuple(self.perform(one) for one in effect.effects)
        return tuple(self._together(effect.effects))

    def _perform_all(self, effects: Sequence[Effect[Any]]) -> tuple[Any, ...]:
        if self._are_local(effects):
            return tuple(map(self.perform, effects))
        return self._apart(self._threads().beside, self.perform, *effects)

    def _are_local(self, effects: Sequence[Effect[Any]]) -> bool:
        """Whether effects are performed one after the other, because none of them waits for a network."""
        return self._documents_are_local and all(isinstance(one, DocumentRequest) for one in effects)

    def _perform(self, effect: Effect[Any]) -> Any:
        match effect:
            case Compute():
                return effect.function()
            case DocumentRequest() | BlobRequest():
                if is_exposed() and not self._survives(effect):
                    (result,) = self._apart(self._threads().main, self._ask, effect)
                    return result
                return self._ask(effect)
            case Ask():
                return effect.ask()
            case Pause():
                time.sleep(effect.seconds)
                return None
            case _:
                return self._perform_local(effect)

    def _survives(self, effect: Effect[Any]) -> bool:
        """Whether a store stays intact if a signal raises in the middle of its call."""
        return self._documents_survive if isinstance(effect, DocumentRequest) else self._blobs_survive

    def _apart(self, pool: Pool, perform: Callable[[Any], Any], *effects: Effect[Any]) -> tuple[Any, ...]:
        """Perform effects on threads of a pool, with this thread's context variables."""
        return pool.perform(
            *((partial(copy_context().run, perform, one), isinstance(one, DocumentRequest)) for one in effects)
        )

    def _ask(self, effect: DocumentRequest[T] | BlobRequest[T]) -> T:
        """Let a store perform an effect."""
        return effect.perform(self.documents) if isinstance(effect, DocumentRequest) else effect.perform(self.blobs)

    def _perform_local(self, effect: Effect[Any]) -> Any:
        match effect:
            case Now():
                return time.time()
            case Emit():
                return self.subscribers.emit(effect.event)
            case Durable():
                return None
            case _:
                raise TypeError(f"no runner performs {type(effect).__name__}")

    async def aperform(self, effect: Effect[Any]) -> Any:
        """Perform one effect without blocking the event loop."""
        if not isinstance(effect, Gather):
            return await self._aone(effect)
        if len(effect.effects) < 2:
            return tuple([await self.aperform(one) for one in effect.effects])
        return tuple(await self._atogether(effect.effects))

    async def _aperform_all(self, effects: Sequence[Effect[Any]]) -> tuple[Any, ...]:
        if self._are_local(effects):
            return tuple([await self.aperform(one) for one in effects])
        return await gather_or_cancel([self.aperform(one) for one in effects])

    async def _aperform(self, effect: Effect[Any]) -> Any:
        match effect:
            case DocumentRequest():
                return await effect.aperform(self.documents)
            case BlobRequest():
                return await self._threads().beside.aperform(partial(effect.perform, self.blobs))
            case Compute():
                if effect.size < OFFLOAD_BYTES:
                    return effect.function()
                return await self._threads().beside.aperform(effect.function)
            case Ask():
                return await effect.aask()
            case Pause():
                return await asyncio.sleep(effect.seconds)
            case _:
                return self._perform_local(effect)

    def close(self) -> None:
        """Close the stores and end the threads. Idempotent.

        This waits for requests under way, but not longer than a request may take, and not for one that a signal
        interrupted.
        """
        self._closed = True
        if is_exposed():
            apart = Pool("langgraph-gcs-close", 1)
            apart.perform((self._close_stores, False))
            apart.close(self._limit)
        else:
            self._close_stores()
        self._end_threads()

    async def aclose(self) -> None:
        """Close the stores, with the clients of the running event loop, and end the threads. Idempotent."""
        self._closed = True
        await self.documents.aclose()
        # On a separate thread, because waiting for the pool's threads must not block the event loop.
        await Pool("langgraph-gcs-close", 1).aperform(self._close_rest)

    def _close_stores(self) -> None:
        self.documents.close()
        self.blobs.close()

    def _close_rest(self) -> None:
        self.blobs.close()
        self._end_threads()

    def _end_threads(self) -> None:
        # Even if none has started: a call that has just seen this saver open must find closed pools, not new ones.
        self._pools.get().close(self._limit)


def _inside(methods: Sequence[Callable[[Any, Any], Any]], perform: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`perform`, with methods of interceptors around it; `perform` itself if there are none."""
    for method in reversed(methods):
        perform = _around(method, perform)
    return perform


def _around(method: Callable[[Any, Any], Any], perform: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda given: method(given, perform)


async def gather_or_cancel(coroutines: list[Coroutine[Any, Any, Any]]) -> tuple[Any, ...]:
    """The results in order. The first failure cancels the rest, and is raised when all have ended."""
    # Not a TaskGroup, because its ExceptionGroup would make `run` and `arun` raise different types.
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(flow: Flow[T], backend: Performer, *, unchecked: bool = False) -> T:
    """Perform a flow in this thread, and return its result.

    Args:
        flow: The flow.
        backend: The stores that it acts on.
        unchecked: Whether to bypass the backend's `admit`; only for a flow that binds a store to its place.
    """
    steps = Steps(flow if unchecked else backend.admit(flow))
    while (effect := steps.next()) is not None:
        try:
            steps.value = backend.perform(effect)
        except BaseException as error:  # noqa: BLE001, PERF203 - it reaches the flow
            steps.error = error
    return steps.result


async def arun(flow: Flow[T], backend: Performer, *, unchecked: bool = False) -> T:
    """Perform a flow on the running event loop, and return its result. The arguments are those of `run`."""
    steps = Steps(flow if unchecked else backend.admit(flow))
    held = 0
    while (effect := steps.next()) is not None:
        # Many small computations in a row block the event loop as one large computation does.
        if isinstance(effect, Compute):
            held += effect.size
            if held >= OFFLOAD_BYTES:
                effect, held = replace(effect, size=OFFLOAD_BYTES), 0
        elif not isinstance(effect, (Now, Emit)):
            held = 0
        try:
            steps.value = await backend.aperform(effect)
        except BaseException as error:  # noqa: BLE001 - it reaches the flow
            steps.error = error
    return steps.result
