"""A drawing of a thread's branches, in text."""

from __future__ import annotations

from collections.abc import Iterable


def draw(line: Iterable[tuple[str, str | None]]) -> list[str]:
    """A drawing a row, newest first: `*` is the checkpoint, `|` a branch that passes by, `/` one that begins here.

    Args:
        line: The checkpoints' ids, each with its parent's, newest first.
    """
    awaited: list[str | None] = []
    drawn = []
    for checkpoint_id, parent_id in line:
        if checkpoint_id not in awaited:
            awaited.append(checkpoint_id)
        own = awaited.index(checkpoint_id)
        joins = ["/" if other == checkpoint_id else "|" for other in awaited]
        joins[own] = "*"
        drawn.append(" ".join(joins))
        awaited[own] = parent_id
        awaited = [other for lane, other in enumerate(awaited) if lane == own or other != checkpoint_id]
    return drawn
