"""`Each`: results that come one by one, with `for` or `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from langgraph_gcs_saver.engine.runner import Performer, arun, run

if TYPE_CHECKING:
    from langgraph_gcs_saver.flows.all_threads import Pages

T = TypeVar("T")


class Each(Generic[T]):
    """Results that are read while you iterate: with `for`, or in a coroutine with `async for`.

    Nothing is read before the iteration needs it. Each iteration starts again, so calling `list` on it twice reads
    twice.
    """

    def __init__(self, begin: Callable[[], Pages[T]], backend: Performer) -> None:
        self._begin = begin
        self._backend = backend

    def __iter__(self) -> Iterator[T]:
        next_page = self._begin()
        while (page := run(next_page(), self._backend)) is not None:
            yield from page

    async def __aiter__(self) -> AsyncIterator[T]:
        next_page = self._begin()
        while (page := await arun(next_page(), self._backend)) is not None:
            for one in page:
                yield one
