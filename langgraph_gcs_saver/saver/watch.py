"""`admin.watch()`: repeated looks at a store, each in a limited number of requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.flows import watch as flows

if TYPE_CHECKING:
    from collections.abc import Callable

    from langgraph_gcs_saver.engine.effects import Flow
    from langgraph_gcs_saver.engine.runner import Backend
    from langgraph_gcs_saver.results import StoreActivity


class Watch:
    """Repeated looks at a store. Between them it keeps what it has found, so use one object, and one look at a time."""

    def __init__(self, begin: Callable[[int, flows.Order], Flow[StoreActivity]], backend: Backend) -> None:
        self._begin = begin
        self._backend = backend

    def look(self, limit: int = 20, *, order: str = "used") -> StoreActivity:
        """What the store shows now: threads, what they are doing, puts, lag, bytes, damage.

        A look takes a limited number of requests, however many threads there are. It reads at most one page of the list
        of threads, of the threads whose turns have not finished, and of all manifests. It makes about four requests for
        each thread in the result, and one for a finished thread that has not changed. The first look reads up to 10
        pages of each list. A thread whose own document is gone is not found.

        Args:
            limit: Most threads in the result, 1 to 100.
            order: Which threads come first: `"used"`, those used last; `"state"`, those that need a person or a worker;
                `"puts"` and `"lag"`, the same threads as `"used"` in another order; `"stored"`, the largest;
                `"thread"`, by id.

        Raises:
            InvalidInputError: The limit or the order is none of these.
            StoreError: A service rejected a request, or did not answer before the deadline. Call it again.
        """
        return run(self._look(limit, order), self._backend)

    async def alook(self, limit: int = 20, *, order: str = "used") -> StoreActivity:
        """Asynchronous twin of `look`."""
        return await arun(self._look(limit, order), self._backend)

    def _look(self, limit: int, order: str) -> Flow[StoreActivity]:
        if type(limit) is not int or not 1 <= limit <= flows.MOST:
            raise InvalidInputError(f"limit is {limit!r}; it must be an int from 1 to {flows.MOST}.")
        for known in flows.ORDERS:
            if order == known:
                return self._begin(limit, known)
        raise InvalidInputError(f"order is {order!r}; it must be one of {', '.join(flows.ORDERS)}.")
