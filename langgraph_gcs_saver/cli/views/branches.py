"""A drawing of a thread's branches, in text."""

from __future__ import annotations

from collections.abc import Iterable


def draw(line: Iterable[tuple[str, str | None]]) -> list[str]:
    """A drawing a row, newest first: `*` is the checkpoint, `|` a branch that passes by, `/` one that begins here.

    A branch ends at a checkpoint without a parent, and where the parent is not further down: it was removed, or a
    clock went back.

    Args:
        line: The checkpoints' ids, each with its parent's, newest first.
    """
    rows = list(line)
    places = {checkpoint_id: place for place, (checkpoint_id, _) in enumerate(rows)}
    awaited: list[str] = []
    drawn = []
    for place, (checkpoint_id, parent_id) in enumerate(rows):
        if checkpoint_id not in awaited:
            awaited.append(checkpoint_id)
        own = awaited.index(checkpoint_id)
        joins = ["/" if other == checkpoint_id else "|" for other in awaited]
        joins[own] = "*"
        drawn.append(" ".join(joins))
        if parent_id is not None and places.get(parent_id, -1) > place:
            awaited[own] = parent_id
            awaited = [other for lane, other in enumerate(awaited) if lane == own or other != checkpoint_id]
        else:
            awaited = [other for other in awaited if other != checkpoint_id]
    return drawn
