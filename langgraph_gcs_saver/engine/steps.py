"""A flow, step by step: the common part of all loops that perform effects, and flows around flows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar, overload

from langgraph_gcs_saver.engine.effects import Ask, Compute, Durable, Effect, Emit, Flow, Gather, Now, On, Pause

S = TypeVar("S")
T = TypeVar("T")


_OF_NO_STORE = (Ask, Compute, Durable, Now, Pause)


class Steps(Generic[T]):
    """A flow that is under way.

    Call `next`, perform the effect that it returns, and set `value` or `error`, until `next` returns `None`. Set
    `error` for every exception, cancellation included, because the flow may have a `finally`.

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
        """The effect that the flow waits for, or `None` at its end. An exception of the flow propagates."""
        # A value may be large, so only the flow keeps it.
        value, error, self.value, self.error = self.value, self.error, None, None
        try:
            return self._flow.send(value) if error is None else self._flow.throw(error)
        except StopIteration as stop:
            self.result = stop.value
            return None


def through(flow: Flow[T], perform: Callable[[Effect[Any]], Flow[Any]]) -> Flow[T]:
    """The flow, with another flow in place of each effect. That flow returns or raises what the effect would."""
    steps = Steps(flow)
    while (effect := steps.next()) is not None:
        try:
            steps.value = yield from perform(effect)
        except GeneratorExit:  # noqa: PERF203 - no effect can follow
            raise  # The flow ends with this one, which alone refers to it. The garbage collector may be ending both.
        except BaseException as error:  # noqa: BLE001 - it reaches the flow
            steps.error = error
    return steps.result


def at(store: str, flow: Flow[T]) -> Flow[T]:
    """The flow, with its requests and events at a store of `NamedStores`. Those that are `On` a store stay there."""
    return through(flow, partial(_at, store))


def _at(store: str, effect: Effect[Any]) -> Flow[Any]:
    own = tuple(_on(store, leaf) for leaf in _leaves(effect))
    return iter(Gather(own) if isinstance(effect, Gather) else own[0])


def _on(store: str, effect: Effect[Any]) -> Effect[Any]:
    return effect if isinstance(effect, (On, *_OF_NO_STORE)) else On(store, effect)


@overload
def together(first: Flow[S], second: Flow[T], /) -> Flow[tuple[S, T]]: ...


@overload
def together(*flows: Flow[T]) -> Flow[tuple[T, ...]]: ...


def together(*flows: Flow[Any]) -> Flow[tuple[Any, ...]]:
    """Perform flows at the same time, and return their results in order.

    The requests that they wait for form one `Gather`. Computations, events and pauses are performed one by one. The
    first failure of a request ends all of these flows: it is raised here, and no flow can handle it.
    """
    steps = [Steps(flow) for flow in flows]
    waiting = steps
    try:
        while True:
            asked: list[tuple[Steps[Any], Effect[Any]]] = []
            for one in waiting:
                effect = yield from _to_request(one)
                if effect is not None:
                    asked.append((one, effect))
            if not asked:
                break
            results = iter((yield from Gather(tuple(leaf for _, effect in asked for leaf in _leaves(effect)))))
            for one, effect in asked:
                own = tuple(next(results) for _ in _leaves(effect))
                one.value = own if isinstance(effect, Gather) else own[0]
            waiting = [one for one, _ in asked]
    finally:
        for flow in flows:
            flow.close()
    return tuple(one.result for one in steps)


def _to_request(steps: Steps[Any]) -> Flow[Effect[Any] | None]:
    """Perform a flow's local acts, up to its next request."""
    while (effect := steps.next()) is not None:
        act = effect.effect if isinstance(effect, On) else effect
        if not isinstance(act, (Emit, *_OF_NO_STORE)):
            break
        try:
            steps.value = yield from effect
        except BaseException as error:  # noqa: BLE001 - it reaches the flow
            steps.error = error
    return effect


def _leaves(effect: Effect[Any]) -> tuple[Effect[Any], ...]:
    return effect.effects if isinstance(effect, Gather) else (effect,)
