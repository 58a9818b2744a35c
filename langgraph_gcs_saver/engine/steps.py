"""A flow, step by step: what every loop that performs effects has in common."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from langgraph_gcs_saver.engine.effects import Effect, Flow

T = TypeVar("T")


class Steps(Generic[T]):
    """A flow that is under way.

    Call `next`, perform the effect that it returns, and set `value` or `error`, until `next` returns `None`. Set every
    exception, cancellation too, because the flow may have a `finally` of its own.

    Attributes:
        value: The effect's result.
        error: The exception that the effect raised.
        result: What the flow returned, once `next` has returned `None`.
    """

    __slots__ = ("_flow", "error", "result", "value")

    result: T

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self.value: Any = None
        self.error: BaseException | None = None

    def next(self) -> Effect[Any] | None:
        """The effect that the flow waits for. What the flow raises is raised."""
        # A value may be large, and is the flow's to keep or drop.
        value, error, self.value, self.error = self.value, self.error, None, None
        try:
            return self._flow.send(value) if error is None else self._flow.throw(error)
        except StopIteration as stop:
            self.result = stop.value
            return None
