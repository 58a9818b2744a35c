"""The differences between the states of two checkpoints: by channel, by message id, by path, and by line of text.

This module is pure. It compares plain data, and `Stored` objects as a `PortableSerializer` reads them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import field
from itertools import accumulate
from typing import Any, Literal

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.records import record

Kind = Literal["added", "removed", "changed", "moved"]

_MAX_STEPS = 5_000_000
"""Most steps of all searches of a comparison for the common parts of two sequences, which take a few seconds."""

_MAX_PATHS = 50_000_000
"""Most characters, roughly, of all paths of a comparison, because one long key may lead to many items."""


@record(frozen=True, slots=True)
class Id:
    """A step of a path: the item of a list with this id."""

    id: str


Path = tuple[Any, ...]
"""A place in a channel's value: keys of dicts, indices of lists, and `Id`s, outermost first."""


@record(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        path: The place; empty for the whole value. Indices are those of the later state, or of the earlier state for a
            removed item.
        kind: What happened there.
        before: The earlier value, or the earlier index of a moved item; `None` for an added item.
        after: The later value, or the later index of a moved item; `None` for a removed item.
        lines: The changed lines of a text: `@@` and a place, `-` and a removed line, `+` and an added line. Empty for
            other values.
    """

    path: Path
    kind: Kind
    before: Any = None
    after: Any = None
    lines: Sequence[str] = field(default=(), compare=False)


@record(frozen=True, slots=True)
class ChannelDiff:
    """How a channel differs.

    Attributes:
        channel: Its name.
        kind: Whether only one of the states has a value for it, or both have different values.
        changes: The differences inside the value of a channel that changed. Otherwise one change with the whole value.
    """

    channel: str
    kind: Kind
    changes: tuple[Change, ...]


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ChannelDiff]:
    """The channels that differ between two states, by name.

    Args:
        before: The values of the earlier state by channel.
        after: The values of the later state by channel.
    """
    found = []
    budget = _Budget()
    without_delta = portable.without_delta
    for channel in sorted(before.keys() | after.keys()):
        if channel not in before:
            found.append(ChannelDiff(channel, "added", (Change((), "added", after=after[channel]),)))
        elif channel not in after:
            found.append(ChannelDiff(channel, "removed", (Change((), "removed", before[channel]),)))
        elif changes := _compare(without_delta(before[channel]), without_delta(after[channel]), budget):
            found.append(ChannelDiff(channel, "changed", tuple(changes)))
    return found


def differences(before: Any, after: Any) -> list[Change]:
    """The differences between two values; empty if the values and all types are equal.

    If the paths of all differences would be many times as large as the values, one change with both values is returned.

    Raises:
        InvalidInputError: The values are nested too deeply.
    """
    return _compare(before, after, _Budget())


def _compare(before: Any, after: Any, budget: _Budget) -> list[Change]:
    paths = budget.paths
    try:
        return _Comparison(budget).of_values(before, after, ())
    except RecursionError:
        raise InvalidInputError("The stored values are nested too deeply to be compared.") from None
    except _TooManyError:
        budget.paths = paths  # The changes that were found are discarded, so their paths cost nothing.
        return [Change((), "changed", before, after)]


class _Budget:
    """The steps and characters that a whole comparison may still use, for all its values together.

    Attributes:
        steps: Steps of searches that are left. Each search may use half of them.
        paths: Characters of paths that are left.
    """

    def __init__(self) -> None:
        self.steps = _MAX_STEPS
        self.paths = _MAX_PATHS


class _TooManyError(Exception):
    """The paths of the differences would be too large."""


class _TooLongError(Exception):
    """Matching two sequences would take minutes or more, because equal items occur too often in them."""


class _Comparison:
    """Compares parts of two values, which the caller must keep in memory.

    The content of an object is decoded for the comparison, so it gets a comparison of its own.
    """

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._digests: dict[int, str] = {}

    def of_values(self, before: Any, after: Any, path: Path) -> list[Change]:
        """The differences between two values.

        Raises:
            _TooManyError: The paths of the differences would be too large.
        """
        if isinstance(before, dict) and isinstance(after, dict):
            return self._of_dicts(before, after, path)
        if isinstance(before, list) and isinstance(after, list):
            return self._of_lists(before, after, path)
        if isinstance(before, Stored) and isinstance(after, Stored):
            return self._of_objects(before, after, path)
        return [] if _same(before, after) else [self._change(path, "changed", before, after)]

    def _change(self, path: Path, kind: Kind, before: Any = None, after: Any = None) -> Change:
        self._budget.paths -= sum(10 + len(step if isinstance(step, str) else repr(step)) for step in path)
        if self._budget.paths < 0:
            raise _TooManyError
        is_text = kind == "changed" and isinstance(before, str) and isinstance(after, str)
        return Change(path, kind, before, after, _lines(before, after, self._budget) if is_text else ())

    def _of_dicts(self, before: dict[Any, Any], after: dict[Any, Any], path: Path) -> list[Change]:
        # Keys are compared with their types, because 1 and True are the same key in Python.
        was, now = ({(type(key), key): item for key, item in items.items()} for items in (before, after))
        found = []
        for key in [*was, *(key for key in now if key not in was)]:
            where = (*path, key[1])
            if key not in now:
                found.append(self._change(where, "removed", was[key]))
            elif key not in was:
                found.append(self._change(where, "added", after=now[key]))
            else:
                found += self.of_values(was[key], now[key], where)
        return found

    def _of_objects(self, before: Stored, after: Stored, path: Path) -> list[Change]:
        if before == after:
            return []
        was, now = before.parts, after.parts
        if was is None or now is None or before.type != after.type or before.code != after.code or was[3] != now[3]:
            return [self._change(path, "changed", before, after)]
        inside = _Comparison(self._budget)
        if before.type in {("builtins", "set"), ("builtins", "frozenset")}:
            return inside._of_sets(was[2], now[2], path)
        return inside.of_values(was[2], now[2], path) or [self._change(path, "changed", before, after)]

    def _of_sets(self, before: Sequence[Any], after: Sequence[Any], path: Path) -> list[Change]:
        was, now = ({self._token(item): item for item in items} for items in (before, after))
        gone = [self._change(path, "removed", item) for token, item in was.items() if token not in now]
        return gone + [self._change(path, "added", after=item) for token, item in now.items() if token not in was]

    def _of_lists(self, before: list[Any], after: list[Any], path: Path) -> list[Change]:
        was, now = _by_id(before), _by_id(after)
        if was is not None and now is not None and (was or now):
            return self._of_identified(was, now, path)
        found = []
        # Tokens are not kept while items are compared, because items may be large lists too.
        for kind, i1, i2, j1, j2 in _opcodes(self._tokens(before), self._tokens(after), self._budget):
            if kind == "equal":
                continue
            common = min(i2 - i1, j2 - j1)
            for k in range(common):
                found += self.of_values(before[i1 + k], after[j1 + k], (*path, j1 + k))
            found += [self._change((*path, i), "removed", before[i]) for i in range(i1 + common, i2)]
            found += [self._change((*path, j), "added", after=after[j]) for j in range(j1 + common, j2)]
        return found

    def _of_identified(self, was: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> list[Change]:
        """The differences between two lists whose items have ids, such as messages."""
        found = [self._change((*path, Id(one)), "removed", item) for one, item in was.items() if one not in now]
        places = {one: place for place, one in enumerate(was)}
        old_order, order = ([one for one in items if one in was and one in now] for items in (was, now))
        opcodes = _opcodes(old_order, order, self._budget)
        moved = {one for kind, _, _, j1, j2 in opcodes if kind != "equal" for one in order[j1:j2]}
        for place, (one, item) in enumerate(now.items()):
            where = (*path, Id(one))
            if one not in was:
                found.append(self._change(where, "added", after=item))
                continue
            if one in moved:
                found.append(self._change(where, "moved", places[one], place))
            found += self.of_values(was[one], item, where)
        return found

    def _tokens(self, items: list[Any]) -> list[str]:
        return [self._token(item) for item in items]

    def _token(self, item: Any) -> str:
        """A short text that is equal only for items that are equal, types included."""
        text = json.dumps(self._flat(item))
        return text if len(text) <= _SHORT else hashlib.sha256(text.encode()).hexdigest()

    def _flat(self, item: Any) -> Any:
        """An item as JSON, with digests in place of containers and objects."""
        if item is None or isinstance(item, bool | int | float | str):
            return item
        if isinstance(item, Stored):
            return [item.code, hashlib.sha256(item.data).hexdigest()]
        if not isinstance(item, list | tuple | Mapping):
            return [portable.to_json(item)]
        if id(item) not in self._digests:
            # Each container is digested once, not once for every list around it.
            self._digests[id(item)] = self._digest(item)
        return [self._digests[id(item)]]

    def _digest(self, item: Sequence[Any] | Mapping[Any, Any]) -> str:
        if isinstance(item, Mapping):
            parts = sorted(json.dumps([self._flat(key), self._flat(one)]) for key, one in item.items())
            flat: Any = {"": parts}
        else:
            flat = [self._flat(one) for one in item]
        return hashlib.sha256(json.dumps(flat).encode()).hexdigest()


_SHORT = 60
"""Longest JSON, in characters, that is used as it is; the digest of longer JSON has about as many."""


def _same(before: Any, after: Any) -> bool:
    # Types are compared too, because 1, 1.0 and True are equal in Python. A NaN equals a NaN here.
    return type(before) is type(after) and (before == after or (before != before and after != after))  # noqa: PLR0124


def _by_id(items: list[Any]) -> dict[str, Any] | None:
    """The items by their ids; `None` unless each item has an id of its own."""
    found: dict[str, Any] = {}
    for item in items:
        fields = item if isinstance(item, dict) else portable.message_of(item)
        one = None if fields is None else fields.get("id")
        if not isinstance(one, str) or one in found:
            return None
        found[one] = item
    return found


def _opcodes(
    before: Sequence[Hashable], after: Sequence[Hashable], budget: _Budget
) -> list[tuple[str, int, int, int, int]]:
    """The steps from one sequence to the other. Equal ends are not searched, because lists mostly grow."""
    head, tail = _ends(before, after)
    was, now = before[head : len(before) - tail], after[head : len(after) - tail]
    inner = _Matcher(was, now, budget, has_junk=False)
    try:
        found = inner.get_opcodes()
    except _TooLongError:
        found = [("replace", 0, len(was), 0, len(now))]
    return [(kind, i1 + head, i2 + head, j1 + head, j2 + head) for kind, i1, i2, j1, j2 in found]


def _ends(before: Sequence[Hashable], after: Sequence[Hashable]) -> tuple[int, int]:
    """The number of equal items at the beginning, and at the end of the rest."""
    shorter = min(len(before), len(after))
    head = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    rest = shorter - head
    return head, next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)


class _Matcher(difflib.SequenceMatcher[Hashable]):
    """A matcher that gives up after half of the steps that are left.

    Each search for the longest common part looks at the items of a range, and at each equal item of the other sequence.

    Args:
        before: One sequence.
        after: The other sequence.
        budget: The steps that are left.
        has_junk: Whether an item that makes up over 1% of a long sequence matches nothing.
    """

    def __init__(
        self, before: Sequence[Hashable], after: Sequence[Hashable], budget: _Budget, *, has_junk: bool
    ) -> None:
        super().__init__(None, before, after, has_junk)
        # `b2j` is documented, but typeshed does not have it.
        places: Mapping[Hashable, Sequence[int]] = self.b2j  # type: ignore[attr-defined]
        self._steps = [0, *accumulate(1 + len(places.get(item, ())) for item in before)]
        self._budget = budget
        self._reserve = budget.steps // 2

    def find_longest_match(
        self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None
    ) -> difflib.Match:
        """Find the longest match as the base class does.

        Raises:
            _TooLongError: All searches together would take too many steps.
        """
        steps = self._steps[-1 if ahi is None else ahi] - self._steps[alo]
        if self._budget.steps - steps < self._reserve:
            raise _TooLongError
        self._budget.steps -= steps
        return super().find_longest_match(alo, ahi, blo, bhi)


def _lines(text: str, other: str, budget: _Budget) -> list[str]:
    """The changed lines of a text, as `Change.lines` has them."""
    before, after = text.split("\n"), other.split("\n")
    try:
        return _unified(before, after, budget)
    except _TooLongError:
        head, tail = _ends(before, after)
        gone, come = before[head : len(before) - tail], after[head : len(after) - tail]
        where = f"@@ -{head + 1},{len(gone)} +{head + 1},{len(come)} @@"
        return [where, *(f"-{line}" for line in gone), *(f"+{line}" for line in come)]


def _unified(before: list[str], after: list[str], budget: _Budget) -> list[str]:
    """Like `difflib.unified_diff`, with one line around each change and without file names."""
    lines = []
    for group in _Matcher(before, after, budget, has_junk=True).get_grouped_opcodes(1):
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
    """A range of lines in a unified diff. A single line has no length; an empty range names the line before it."""
    length = end - start
    return f"{start + 1}" if length == 1 else f"{start + bool(length)},{length}"
