"""What differs between the states of two checkpoints: by channel, by id in lists of messages, by path, by line of text.

Pure: it compares values as a `PortableSerializer` reads them, plain data and `Stored` objects, or any plain data.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.records import record

Kind = Literal["added", "removed", "changed", "moved"]

_MAX_PAIRS = 3_000_000
"""Pairs of equal items of two sequences that are searched for what both have in common: about a second's work."""

_LONG = 200
"""Items of a sequence from which on `SequenceMatcher` ignores those that are all over it."""


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
        if not _is_too_alike(before, after, has_junk=True):
            return list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
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
    if _is_too_alike(was, now):
        return [("replace", head, head + len(was), head, head + len(now))]
    inner = difflib.SequenceMatcher(None, was, now, False)
    return [(kind, i1 + head, i2 + head, j1 + head, j2 + head) for kind, i1, i2, j1, j2 in inner.get_opcodes()]


def _ends(before: Sequence[Hashable], after: Sequence[Hashable]) -> tuple[int, int]:
    """How many items are the same at the beginning, and how many after that at the end."""
    shorter = min(len(before), len(after))
    head = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    rest = shorter - head
    return head, next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)


def _is_too_alike(before: Sequence[Hashable], after: Sequence[Hashable], *, has_junk: bool = False) -> bool:
    """Whether so many items of one sequence equal items of the other that matching them would take minutes or more.

    With `has_junk`, an item that makes up over 1% of a long sequence matches nothing, as in `SequenceMatcher`.
    """
    counts = Counter(after)
    if has_junk and len(after) >= _LONG:
        most = len(after) // 100 + 1
        counts = Counter({item: count for item, count in counts.items() if count <= most})
    return sum(counts[item] for item in before) > _MAX_PAIRS


def _token(item: Any) -> Hashable:
    """Equal for items that are the same, types included."""
    return json.dumps(portable.to_json(item), sort_keys=True)
