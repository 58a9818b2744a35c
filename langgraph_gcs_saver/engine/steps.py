"""A flow, step by step: what every loop that performs effects has in common, and flows around flows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from langgraph_gcs_saver.engine.effects import AskSaver, Compute, Effect, Flow, Gather, Now, On, Pause

T = TypeVar("T")


_OF_NO_STORE = (AskSaver, Compute, Now, Pause)


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


def through(flow: Flow[T], perform: Callable[[Effect[Any]], Flow[Any]]) -> Flow[T]:
    """The flow, with another flow in place of each of its effects, which returns or raises what the effect would."""
    steps = Steps(flow)
    while (effect := steps.next()) is not None:
        try:
            steps.value = yield from perform(effect)
        except BaseException as error:  # noqa: BLE001, PERF203 - it reaches the flow
            steps.error = error
    return steps.result


def at(store: str, flow: Flow[T]) -> Flow[T]:
    """The flow, with its requests and events at a store of `NamedStores`; those that are `On` a store stay there."""
    return through(flow, partial(_at, store))


def _at(store: str, effect: Effect[Any]) -> Flow[Any]:
    own = tuple(_on(store, leaf) for leaf in _leaves(effect))
    return iter(Gather(own) if isinstance(effect, Gather) else own[0])


def _on(store: str, effect: Effect[Any]) -> Effect[Any]:
    return effect if isinstance(effect, (On, *_OF_NO_STORE)) else On(store, effect)


def _leaves(effect: Effect[Any]) -> tuple[Effect[Any], ...]:
    return effect.effects if isinstance(effect, Gather) else (effect,)
