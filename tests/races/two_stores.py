"""Two stores at one moment, for flows that act on both."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from langgraph_gcs_saver.engine.effects import Effect, On
from langgraph_gcs_saver.flows.transfer import SOURCE, TARGET

from .world import World


class TwoStores(World):
    """A world of two stores, `SOURCE` and `TARGET`. As in a transfer, an effect that names neither is on the target."""

    def __init__(self, stores: Mapping[str, World]) -> None:
        super().__init__()
        self.stores = dict(stores)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        return tuple(self.stores[name].key for name in (SOURCE, TARGET))

    def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
        name, own = (effect.store, effect.effect) if isinstance(effect, On) else (TARGET, effect)
        before = self.stores[name]
        answer, after = before.perform(own, stamp)
        return answer, self if after is before else self.performed(name, own, answer, after)

    def performed(self, name: str, effect: Effect[Any], answer: Any, after: World) -> TwoStores:
        """The world after an effect that has changed one of the stores."""
        return type(self)({**self.stores, name: after})
