"""Interceptors for tests and benchmarks: count a saver's requests, and make each of them slower.

```python
count = CountingInterceptor()
saver = GCSSaver.from_conn_string(store, interceptors=[count, LatencyInterceptor(0.02)])
saver.get_tuple(config)
assert count.rounds == [("QueryDocs",), ("GetBlob", "GetBlob")]
```
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langgraph_gcs_saver.engine.effects import REQUESTS, Effect
from langgraph_gcs_saver.engine.interceptors import (
    APerform,
    APerformAll,
    GatherInterceptor,
    Interceptor,
    Perform,
    PerformAll,
)
from langgraph_gcs_saver.errors import InvalidOptionError

KINDS = tuple(kind.__name__ for kind in REQUESTS)
"""Names of the kinds of requests."""

_open: ContextVar[Mapping[CountingInterceptor, list[str]]] = ContextVar("langgraph-gcs-rounds")
"""The open round of each interceptor in this context, where requests are made at the same time."""


class CountingInterceptor(GatherInterceptor):
    """Counts requests, and the sequential rounds that they take.

    Requests that are made at the same time are one round. A request is one effect. A store may need several RPCs for a
    `DeleteBlobs` of many names, and for a retry.

    Attributes:
        rounds: The kinds of the requests of each round, such as `("GetDocs", "GetBlob")`, in the order in which the
            rounds ended.
    """

    def __init__(self) -> None:
        self.rounds: list[tuple[str, ...]] = []

    @property
    def requests(self) -> Counter[str]:
        """The number of requests of each kind."""
        return Counter(kind for kinds in self.rounds for kind in kinds)

    def clear(self) -> None:
        """Forget all rounds."""
        self.rounds.clear()

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Count one effect."""
        with self._round():
            self._count(effect)
            return perform(effect)

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        """Count one effect."""
        with self._round():
            self._count(effect)
            return await perform(effect)

    def around_all(self, effects: Sequence[Effect[Any]], perform: PerformAll) -> Sequence[Any]:
        """Count effects as one round."""
        with self._round():
            return perform(effects)

    async def aaround_all(self, effects: Sequence[Effect[Any]], perform: APerformAll) -> Sequence[Any]:
        """Count effects as one round."""
        with self._round():
            return await perform(effects)

    def _count(self, effect: Effect[Any]) -> None:
        if isinstance(effect, REQUESTS):
            _open.get()[self].append(type(effect).__name__)

    @contextmanager
    def _round(self) -> Iterator[None]:
        """The round that is open in this context, or a new one."""
        already = _open.get({})
        if self in already:
            yield
            return
        kinds: list[str] = []
        token = _open.set({**already, self: kinds})
        try:
            yield
        finally:
            _open.reset(token)
            if kinds:
                self.rounds.append(tuple(kinds))


class LatencyInterceptor(Interceptor):
    """Waits before each request, as a network would. Requests at the same time wait at the same time.

    Args:
        seconds: How long to wait, for all requests, or by kind such as `{"Commit": 0.05, "GetBlob": 0.03}`. Other kinds
            do not wait.

    Raises:
        InvalidOptionError: A time is negative, or a kind is unknown.
    """

    def __init__(self, seconds: float | Mapping[str, float]) -> None:
        by_kind = seconds if isinstance(seconds, Mapping) else dict.fromkeys(KINDS, seconds)
        unknown = by_kind.keys() - set(KINDS)
        if unknown:
            raise InvalidOptionError(f"There is no request {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}.")
        if not all(one >= 0 for one in by_kind.values()):
            raise InvalidOptionError(f"seconds is {seconds!r}; no time may be negative.")
        self._seconds = dict(by_kind)

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Wait, then perform one effect."""
        time.sleep(self._seconds.get(type(effect).__name__, 0))
        return perform(effect)

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        """Wait, then perform one effect."""
        await asyncio.sleep(self._seconds.get(type(effect).__name__, 0))
        return await perform(effect)
