"""Several stores in one flow: `On(store, effect)` says where an effect is performed.

Each store has its own interceptors, threads, timeouts, and check that it is the right store. `engine.steps.at` makes a
flow for one store part of such a flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from langgraph_gcs_saver.engine.effects import Effect, Gather, On
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.pool import Pool
from langgraph_gcs_saver.engine.runner import Backend, admit_all, arun, gather_or_cancel, run
from langgraph_gcs_saver.errors import GCSSaverError

_MOST_THREADS = 64
"""Threads that each wait for one store's part of a `Gather`: 2 or more for each call that mixes stores."""


class NamedStores:
    """Stores by name. An effect `On` a store is performed there, any other effect at home.

    A `Gather` may mix stores. Each store performs its part as a `Gather` of its own, at the same time as the others.
    A store admits each effect, or its part of a `Gather`, as it admits a flow. An error says which store it comes from.

    The stores stay open: their owners close them.

    Args:
        stores: The stores, by the names that flows use for them.
        home: The name of the store for effects that are not `On` a store. Its threads also compute, and its
            subscribers receive the events.
    """

    admit = staticmethod(admit_all)

    def __init__(self, stores: Mapping[str, Backend], *, home: str) -> None:
        self._stores = dict(stores)
        self._home = home
        # Not a store's own threads: parts would occupy them all while they wait for effects that need one.
        self._pool = PerProcess(partial(Pool, "langgraph-gcs-stores", _MOST_THREADS))

    def perform(self, effect: Effect[Any]) -> Any:
        """Perform one effect, or all of a `Gather`, at their stores; return or raise in this thread."""
        if not isinstance(effect, Gather):
            return self._perform(*self._split(effect))
        parts = self._parts(effect)
        if len(parts) < 2:
            return self._joined(effect, parts, [self._perform(*part) for part in parts.items()])
        calls = [(partial(copy_context().run, self._perform, *part), False) for part in parts.items()]
        return self._joined(effect, parts, self._pool.get().perform(*calls))

    async def aperform(self, effect: Effect[Any]) -> Any:
        """Perform one effect, or all of a `Gather`, at their stores, without blocking the event loop."""
        if not isinstance(effect, Gather):
            return await self._aperform(*self._split(effect))
        parts = self._parts(effect)
        return self._joined(effect, parts, await gather_or_cancel([self._aperform(*part) for part in parts.items()]))

    def _perform(self, store: str, effect: Effect[Any]) -> Any:
        with self._at(store) as backend:
            return run(iter(effect), backend)

    async def _aperform(self, store: str, effect: Effect[Any]) -> Any:
        with self._at(store) as backend:
            return await arun(iter(effect), backend)

    @contextmanager
    def _at(self, store: str) -> Iterator[Backend]:
        """The store with this name; errors get the name."""
        if store not in self._stores:
            raise ValueError(f"there is no store {store!r} in this flow, only {', '.join(map(repr, self._stores))}")
        try:
            yield self._stores[store]
        except GCSSaverError as error:
            error.store = store
            raise

    def _parts(self, gather: Gather) -> dict[str, Gather]:
        """The part of each store."""
        effects: dict[str, list[Effect[Any]]] = {}
        for store, effect in map(self._split, gather.effects):
            effects.setdefault(store, []).append(effect)
        return {store: Gather(tuple(own)) for store, own in effects.items()}

    def _split(self, effect: Effect[Any]) -> tuple[str, Effect[Any]]:
        return (effect.store, effect.effect) if isinstance(effect, On) else (self._home, effect)

    def _joined(self, gather: Gather, parts: Iterable[str], results: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
        """The results of all parts, in the order of the effects."""
        found = {store: iter(own) for store, own in zip(parts, results, strict=True)}
        return tuple(next(found[self._split(one)[0]]) for one in gather.effects)
