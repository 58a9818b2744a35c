"""A drawing of a thread's branches, in text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count, islice

LANES = 20
"""How many branches are drawn side by side. The others are only counted."""


def draw(line: Iterable[tuple[str, str | None]]) -> list[str]:
    """One drawing a row, newest first: `*` is the checkpoint, `|` a branch that passes by, `/` one that begins here.

    A branch ends at a checkpoint without a parent. It also ends if the parent is not further down, because the parent
    was removed or a clock went back.

    `+5` stands for five branches that do not fit. A `*` just before it is a checkpoint of one of them.

    Args:
        line: The checkpoints' ids, each with its parent's, newest first.
    """
    rows = list(line)
    places = {checkpoint_id: place for place, (checkpoint_id, _) in enumerate(rows)}
    numbers = count()
    lanes: dict[int, str] = {}  # From left to right: the checkpoint that each leads to.
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
