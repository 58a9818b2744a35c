"""A drawing of a thread's branches, in text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count, islice

LANES = 20
"""Branches that are drawn side by side; of more there is their number."""


def draw(line: Iterable[tuple[str, str | None]]) -> list[str]:
    """A drawing a row, newest first: `*` is the checkpoint, `|` a branch that passes by, `/` one that begins here.

    A branch ends at a checkpoint without a parent, and where the parent is not further down: it was removed, or a
    clock went back. `+5` is five branches for which there is no room; a checkpoint of theirs stands before it.

    Args:
        line: The checkpoints' ids, each with its parent's, newest first.
    """
    rows = list(line)
    places = {checkpoint_id: place for place, (checkpoint_id, _) in enumerate(rows)}
    numbers = count()
    lanes: dict[int, str] = {}  # from left to right: the checkpoint that each leads to
    leading: dict[str, list[int]] = {}
    drawn = []
    for place, (checkpoint_id, parent_id) in enumerate(rows):
        own, *others = sorted(leading.pop(checkpoint_id, ())) or [next(numbers)]
        lanes[own] = checkpoint_id
        shown = list(islice(lanes.items(), LANES))
        marks = ["*" if lane == own else "/" if to == checkpoint_id else "|" for lane, to in shown]
        if len(lanes) > LANES:
            marks += [*([] if "*" in marks else ["*"]), f"+{len(lanes) - LANES}"]
        drawn.append(" ".join(marks))
        for lane in others:
            del lanes[lane]
        if parent_id is not None and places.get(parent_id, -1) > place:
            lanes[own] = parent_id
            leading.setdefault(parent_id, []).append(own)
        else:
            del lanes[own]
    return drawn
