"""`FirestoreCache`: results of nodes with a `CachePolicy`, in the store of a saver."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph.cache.base import BaseCache

from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.errors import InvalidOptionError, SerializationError
from langgraph_gcs_saver.flows import node_cache
from langgraph_gcs_saver.flows.node_cache import Entry
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.saver.internals import Internals

if TYPE_CHECKING:
    from langgraph.cache.base import FullKey, Namespace
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langgraph_gcs_saver.engine.effects import Flow
    from langgraph_gcs_saver.flows.context import Context
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

T = TypeVar("T")

logger = logging.getLogger("langgraph_gcs_saver")

ORPHAN_AGE = 24 * 3600
"""Seconds after which `sweep` deletes an object that no result refers to, as `collect` does."""

_NS = 10**9

_LAST = 253_402_300_799 * _NS
"""The end of the year 9999, in nanoseconds since the epoch. Timestamps of Firestore end there."""


class FirestoreCache(BaseCache[Any]):
    """Keeps the results of nodes that have a `CachePolicy`, for all processes that use the store.

    Pass it where the graph is compiled:

        graph = builder.compile(checkpointer=saver, cache=FirestoreCache(saver))

    Results are compressed, checked when they are read, and encrypted with the saver's `cipher`. They are serialized as
    checkpoints are, and never pickled. One that is damaged, or that another key has encrypted, counts as missing. So
    the node runs, and its result is stored again.

    Args:
        saver: The saver, on any store. The cache ends with it.
        serde: The serializer, by default the saver's.

    Raises:
        InvalidOptionError: The serializer falls back to pickle. A pickle from the store could run any code.
    """

    def __init__(self, saver: GCSSaver, *, serde: SerializerProtocol | None = None) -> None:
        chosen = serde or saver.serde
        if _may_pickle(chosen):
            raise InvalidOptionError(
                "The serializer of a FirestoreCache must not fall back to pickle. Pass another one: "
                "FirestoreCache(saver, serde=JsonPlusSerializer())."
            )
        super().__init__(serde=chosen)
        self._saver = saver

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """The results that are kept for some keys, without those that have expired.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        names = _names(keys)
        return self._opened(names, *self._run(partial(node_cache.read, tuple(names), time.time_ns())))

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """Asynchronous twin of `get`."""
        names = _names(keys)
        return self._opened(names, *(await self._arun(partial(node_cache.read, tuple(names), time.time_ns()))))

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Keep results, each for a number of seconds, or until it is deleted for `None`.

        Raises:
            SerializationError: The serializer cannot write a result. Nothing was stored.
            StoreError: A service rejected a request, or did not answer before the deadline.
            ValueTooLargeError: A result is larger than `max_value_bytes`.
        """
        self._run(partial(node_cache.write, self._entries(pairs)))

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Asynchronous twin of `set`."""
        await self._arun(partial(node_cache.write, self._entries(pairs)))

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Delete the results of namespaces; all results of the store if none are given.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        self._run(partial(node_cache.clear, namespaces))

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Asynchronous twin of `clear`."""
        await self._arun(partial(node_cache.clear, namespaces))

    def sweep(self) -> int:
        """Delete results that have expired, and objects older than a day that no result refers to.

        A TTL policy of Firestore deletes expired documents by itself, and no objects. So call this now and then if
        results are larger than 900 KiB, or without a policy.

        Returns:
            The number of results that were deleted.

        Raises:
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return self._run(partial(node_cache.sweep, time.time_ns(), ORPHAN_AGE * _NS))

    async def asweep(self) -> int:
        """Asynchronous twin of `sweep`."""
        return await self._arun(partial(node_cache.sweep, time.time_ns(), ORPHAN_AGE * _NS))

    def _run(self, flow: Callable[[Context], Flow[T]]) -> T:
        inside = Internals.of(self._saver)
        return runner.run(flow(inside.context), inside.backend)

    async def _arun(self, flow: Callable[[Context], Flow[T]]) -> T:
        inside = Internals.of(self._saver)
        return await runner.arun(flow(inside.context), inside.backend)

    def _entries(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> dict[str, Entry]:
        now = time.time_ns()
        return {
            keys.cache_doc(ns, key): Entry(dumps(self.serde, value, "A node's result"), _expiry(now, ttl))
            for (ns, key), (value, ttl) in pairs.items()
        }

    def _opened(
        self, names: Mapping[str, FullKey], found: Mapping[str, Serialized], unreadable: int
    ) -> dict[FullKey, Any]:
        opened: dict[FullKey, Any] = {}
        for name, value in found.items():
            with suppress(SerializationError):
                opened[names[name]] = loads(self.serde, value)
        unreadable += len(found) - len(opened)
        if unreadable:
            logger.warning("%d cached results cannot be read. Their nodes run again, and replace them.", unreadable)
        return opened


def _may_pickle(serde: object) -> bool:
    """Whether a serializer falls back to pickle, or one that it wraps, as LangGraph's `EncryptedSerializer` does."""
    inner = getattr(serde, "serde", None)
    return bool(getattr(serde, "pickle_fallback", False)) or (inner is not None and _may_pickle(inner))


def _expiry(now: int, ttl: float | None) -> int | None:
    """When a result expires; `None`, which means never, for a time that Firestore does not have."""
    expires = None if ttl is None else now + int(ttl * _NS)
    return None if expires is None or expires > _LAST else expires


def _names(wanted: Sequence[FullKey]) -> dict[str, FullKey]:
    """The keys by the names of their documents."""
    return {keys.cache_doc(ns, key): (ns, key) for ns, key in wanted}
