"""What differs between the states of two checkpoints: by channel, by id in lists of messages, by path, by line of text.

Pure: it compares values as a `PortableSerializer` reads them, plain data and `Stored` objects, or any plain data.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, Literal

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.records import record

Kind = Literal["added", "removed", "changed", "moved"]

_MAX_STEPS = 5_000_000
"""Steps of the search for what two sequences have in common: a few seconds' work."""


@record(frozen=True, slots=True)
class Id:
    """A step of a path: the item of a list that has this id."""

    id: str


Path = tuple[Any, ...]
"""Where in a channel's value: keys of dicts, indices of lists, and `Id`s, outermost first."""


@record(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        path: Where; empty for the whole value. An index counts in the later state, of what was removed in the earlier.
        kind: What happened there.
        before: The earlier value, or the earlier index of what moved; None for what was added.
        after: The later value, or index; None for what was removed.
    """

    path: Path
    kind: Kind
    before: Any = None
    after: Any = None

    @property
    def lines(self) -> list[str]:
        """The lines of a text that changed: `-` and what went, `+` and what came, `@@` where; empty for others."""
        if self.kind != "changed" or not isinstance(self.before, str) or not isinstance(self.after, str):
            return []
        before, after = self.before.split("\n"), self.after.split("\n")
        with suppress(_TooLongError):
            return _unified(before, after)
        head, tail = _ends(before, after)
        gone, come = before[head : len(before) - tail], after[head : len(after) - tail]
        where = f"@@ -{head + 1},{len(gone)} +{head + 1},{len(come)} @@"
        return [where, *(f"-{line}" for line in gone), *(f"+{line}" for line in come)]


@record(frozen=True, slots=True)
class ChannelDiff:
    """How a channel differs.

    Attributes:
        channel: Its name.
        kind: Whether only one of the states has a value for it, or both have different ones.
        changes: The differences inside, for one that changed; else the one value.
    """

    channel: str
    kind: Kind
    changes: tuple[Change, ...]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ChannelDiff]:
    """The channels that differ between two states, by name.

    Args:
        before: The values of the earlier state by channel.
        after: Those of the later one.
    """
    found = []
    for channel in sorted(before.keys() | after.keys()):
        if channel not in before:
            found.append(ChannelDiff(channel, "added", (Change((), "added", after=after[channel]),)))
        elif channel not in after:
            found.append(ChannelDiff(channel, "removed", (Change((), "removed", before[channel]),)))
        elif changes := differences(portable.without_delta(before[channel]), portable.without_delta(after[channel])):
            found.append(ChannelDiff(channel, "changed", tuple(changes)))
    return found


def differences(before: Any, after: Any) -> list[Change]:
    """What differs between two values; nothing if they are the same, types included.

    Raises:
        InvalidInputError: They are nested too deeply.
    """
    try:
        return _of_values(before, after, ())
    except RecursionError:
        raise InvalidInputError("The stored values are nested too deeply to be compared.") from None


def _of_values(before: Any, after: Any, path: Path) -> list[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        return _of_dicts(before, after, path)
    if isinstance(before, list) and isinstance(after, list):
        return _of_lists(before, after, path)
    if isinstance(before, Stored) and isinstance(after, Stored):
        return _of_objects(before, after, path)
    return [] if _same(before, after) else [Change(path, "changed", before, after)]


def _same(before: Any, after: Any) -> bool:
    # By type too: 1, 1.0 and True are equal in Python. A NaN is what it was.
    return type(before) is type(after) and (before == after or (before != before and after != after))  # noqa: PLR0124


def _of_dicts(before: dict[Any, Any], after: dict[Any, Any], path: Path) -> list[Change]:
    # By type too: 1 and True are the same key in Python.
    was, now = ({(type(key), key): item for key, item in items.items()} for items in (before, after))
    found = []
    for key in [*was, *(key for key in now if key not in was)]:
        where = (*path, key[1])
        if key not in now:
            found.append(Change(where, "removed", was[key]))
        elif key not in was:
            found.append(Change(where, "added", after=now[key]))
        else:
            found += _of_values(was[key], now[key], where)
    return found


def _of_objects(before: Stored, after: Stored, path: Path) -> list[Change]:
    if before == after:
        return []
    was, now = before.parts, after.parts
    if was is None or now is None or before.type != after.type or before.code != after.code or was[3] != now[3]:
        return [Change(path, "changed", before, after)]
    if before.type in {("builtins", "set"), ("builtins", "frozenset")}:
        return _of_sets(was[2], now[2], path)
    return _of_values(was[2], now[2], path) or [Change(path, "changed", before, after)]


def _of_sets(before: Sequence[Any], after: Sequence[Any], path: Path) -> list[Change]:
    was, now = ({_token(item): item for item in items} for items in (before, after))
    gone = [Change(path, "removed", item) for token, item in was.items() if token not in now]
    return gone + [Change(path, "added", after=item) for token, item in now.items() if token not in was]


def _of_lists(before: list[Any], after: list[Any], path: Path) -> list[Change]:
    was, now = _by_id(before), _by_id(after)
    if was is not None and now is not None and (was or now):
        return _of_identified(was, now, path)
    tokens = [[_token(item) for item in items] for items in (before, after)]
    found = []
    for kind, i1, i2, j1, j2 in _opcodes(*tokens):
        if kind == "equal":
            continue
        common = min(i2 - i1, j2 - j1)
        for k in range(common):
            found += _of_values(before[i1 + k], after[j1 + k], (*path, j1 + k))
        found += [Change((*path, i), "removed", before[i]) for i in range(i1 + common, i2)]
        found += [Change((*path, j), "added", after=after[j]) for j in range(j1 + common, j2)]
    return found


def _of_identified(was: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> list[Change]:
    """Lists of messages, or of other things with ids."""
    found = [Change((*path, Id(one)), "removed", item) for one, item in was.items() if one not in now]
    places = {one: place for place, one in enumerate(was)}
    order = [[one for one in items if one in was and one in now] for items in (was, now)]
    moved = {one for kind, _, _, j1, j2 in _opcodes(*order) if kind != "equal" for one in order[1][j1:j2]}
    for place, (one, item) in enumerate(now.items()):
        where = (*path, Id(one))
        if one not in was:
            found.append(Change(where, "added", after=item))
            continue
        if one in moved:
            found.append(Change(where, "moved", places[one], place))
        found += _of_values(was[one], item, where)
    return found


def _by_id(items: list[Any]) -> dict[str, Any] | None:
    """The items by their ids, if each has one of its own."""
    found: dict[str, Any] = {}
    for item in items:
        fields = item if isinstance(item, dict) else portable.message_of(item)
        one = None if fields is None else fields.get("id")
        if not isinstance(one, str) or one in found:
            return None
        found[one] = item
    return found


def _opcodes(before: Sequence[Hashable], after: Sequence[Hashable]) -> list[tuple[str, int, int, int, int]]:
    """How one sequence becomes the other; the ends that are the same are not searched, for lists mostly grow."""
    head, tail = _ends(before, after)
    was, now = before[head : len(before) - tail], after[head : len(after) - tail]
    inner = _Matcher(was, now, has_junk=False)
    try:
        found = inner.get_opcodes()
    except _TooLongError:
        found = [("replace", 0, len(was), 0, len(now))]
    return [(kind, i1 + head, i2 + head, j1 + head, j2 + head) for kind, i1, i2, j1, j2 in found]


def _ends(before: Sequence[Hashable], after: Sequence[Hashable]) -> tuple[int, int]:
    """How many items are the same at the beginning, and how many after that at the end."""
    shorter = min(len(before), len(after))
    head = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    rest = shorter - head
    return head, next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)


class _TooLongError(Exception):
    """Two sequences have so much in common, or in so many places, that matching them would take minutes or more."""


class _Matcher(difflib.SequenceMatcher[Hashable]):
    """As its base class, but it gives up after `_MAX_STEPS`.

    Each search for the longest common part looks at the items of a range, and at each equal item of the other sequence.

    Args:
        before: One sequence.
        after: The other one.
        has_junk: Whether an item that makes up over 1% of a long sequence matches nothing.
    """

    def __init__(self, before: Sequence[Hashable], after: Sequence[Hashable], *, has_junk: bool) -> None:
        super().__init__(None, before, after, has_junk)
        # Documented, but typeshed does not have it.
        places: Mapping[Hashable, Sequence[int]] = self.b2j  # type: ignore[attr-defined]
        self._steps = [0, *accumulate(1 + len(places.get(item, ())) for item in before)]
        self._left = _MAX_STEPS

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        """Do as the base class.

        Raises:
            _TooLongError: All searches together have taken too long.
        """
        self._left -= self._steps[-1 if ahi is None else ahi] - self._steps[alo]
        if self._left < 0:
            raise _TooLongError
        return super().find_longest_match(alo, ahi, blo, bhi)


def _unified(before: list[str], after: list[str]) -> list[str]:
    """As `difflib.unified_diff`, with one line around each change and without names of files."""
    lines = []
    for group in _Matcher(before, after, has_junk=True).get_grouped_opcodes(1):
        (_, i1, _, j1, _), (_, _, i2, _, j2) = group[0], group[-1]
        lines.append(f"@@ -{_range(i1, i2)} +{_range(j1, j2)} @@")
        for kind, start, end, new_start, new_end in group:
            if kind == "equal":
                lines += [f" {line}" for line in before[start:end]]
                continue
            lines += [f"-{line}" for line in before[start:end]]
            lines += [f"+{line}" for line in after[new_start:new_end]]
    return lines


def _range(start: int, end: int) -> str:
    """Lines as a unified diff has them: one alone without a number, none after the line before."""
    length = end - start
    return f"{start + 1}" if length == 1 else f"{start + bool(length)},{length}"


def _token(item: Any) -> Hashable:
    """Equal for items that are the same, types included."""
    return json.dumps(portable.to_json(item), sort_keys=True)
