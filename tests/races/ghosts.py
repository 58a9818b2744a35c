"""A world with ghosts, which remember what no document says, such as what has happened outside of the store."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any, ClassVar

from langgraph_gcs_saver.engine.effects import Commit, Create, Effect, Flow, GetDocs, Merge
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.stores import memory, rows
from langgraph_gcs_saver.stores.values import to_map

from .world import Call, World

LATE = "clock/late"
"""Once this document exists, the service's clock is far ahead of all documents."""

_OUTSIDE = "outside/"
_GHOSTS = "ghosts/all"


class Haunted(World):
    """A world that judges each commit by the documents before and after it.

    Attributes:
        AT_FIRST: The ghosts at the beginning. What is wrong is in `bad`.
    """

    AT_FIRST: ClassVar[dict[str, Any]] = {"bad": ""}

    def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
        if isinstance(effect, Commit) and effect.writes[0].name.startswith(_OUTSIDE):
            _, kind, what = effect.writes[0].name.split("/", 2)
            return (0,), self._noted(self.happens(self.ghosts, kind, what))
        answer, after = super().perform(effect, stamp)
        if isinstance(effect, GetDocs) and self.doc(LATE) is not None:
            answer.read_time = 1 << 70
        watched = type(self)(after.table, after.blobs)
        if isinstance(effect, Commit) and answer is not None:
            watched = watched._noted(self.judge(watched, self.ghosts))
        return answer, watched

    @cached_property
    def ghosts(self) -> dict[str, Any]:
        doc = self.doc(_GHOSTS)
        found: dict[str, Any] = {} if doc is None else json.loads(doc.fields["ghosts"])
        return {**self.AT_FIRST, **found}

    def happens(self, ghosts: dict[str, Any], kind: str, what: str) -> dict[str, Any]:
        """The ghosts after something happened outside of the store."""
        raise NotImplementedError

    def judge(self, after: Any, ghosts: dict[str, Any]) -> dict[str, Any]:
        """The ghosts after a commit, which has led from this world to `after`."""
        raise NotImplementedError

    def _noted(self, ghosts: dict[str, Any]) -> Any:
        if ghosts == self.ghosts:
            return self
        # Always of the same time, so that equal worlds meet.
        text = json.dumps(ghosts, sort_keys=True)
        row = (to_map({"ghosts": text}).SerializeToString(deterministic=True), 0, 1)
        return type(self)(memory.replaced(self.table, {rows.key_of(_GHOSTS): row}), self.blobs)


def outside(kind: str, what: str) -> Flow[None]:
    """Something that happens outside of the store."""
    yield from Commit((Create(f"{_OUTSIDE}{kind}/{what}", {}),))


def let_time_pass() -> Call:
    def start(_: Context) -> Flow[None]:
        yield from Commit((Merge(LATE, {"is": "late"}),))

    return Call("let time pass", start)
