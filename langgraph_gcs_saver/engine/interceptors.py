"""Interceptors: code around each effect, for counting, tracing, delays, limits and injected faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from langgraph_gcs_saver.engine.effects import Effect

Perform = Callable[[Effect[Any]], Any]
"""Performs an effect: calls the next interceptor, or the store. Returns its result, or raises."""

APerform = Callable[[Effect[Any]], Awaitable[Any]]
"""The same on the running event loop."""

PerformAll = Callable[[Sequence[Effect[Any]]], Sequence[Any]]
"""Performs effects at the same time, each through `around`. Returns their results in order."""

APerformAll = Callable[[Sequence[Effect[Any]]], Awaitable[Sequence[Any]]]
"""The same on the running event loop, each through `aaround`."""


@runtime_checkable
class Interceptor(Protocol):
    """Code around the effects of a saver: `GCSSaver(..., interceptors=[...])`.

    A method may look at the effect and its result, wait, and raise. It may perform another effect instead, perform it
    twice, or not at all. The saver treats the method's result or exception as the store's answer.

    The first interceptor of a list is the outermost. A saver calls it from all of its threads and event loops, so it
    must be thread-safe. Effects hold state and keys: never log them whole.

    Subclasses inherit methods that only perform the effect.
    """

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Perform one effect of a synchronous call, and return its result.

        Args:
            effect: A request (`langgraph_gcs_saver.engine.effects.REQUESTS`) or a local act such as `Compute`. It is
                never a `Gather`: the effects in a `Gather` come one by one, each on a thread of its own.
            perform: Performs an effect.
        """
        return perform(effect)

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        """Perform one effect of an asynchronous call, and return its result.

        Args:
            effect: As for `around`; the effects in a `Gather` come each in a task of its own.
            perform: Performs an effect.
        """
        return await perform(effect)


@runtime_checkable
class GatherInterceptor(Interceptor, Protocol):
    """An interceptor that also surrounds a whole group of effects which happen at the same time.

    The methods around each of these effects see the context variables that its methods set.
    """

    def around_all(self, effects: Sequence[Effect[Any]], perform: PerformAll) -> Sequence[Any]:
        """Perform the effects of a `Gather` of a synchronous call, and return their results in order.

        Args:
            effects: Two or more effects.
            perform: Performs effects at the same time.
        """
        return perform(effects)

    async def aaround_all(self, effects: Sequence[Effect[Any]], perform: APerformAll) -> Sequence[Any]:
        """Perform the effects of a `Gather` of an asynchronous call, and return their results in order.

        Args:
            effects: Two or more effects.
            perform: Performs effects at the same time.
        """
        return await perform(effects)
