"""Which checkpoints to keep, and why: pure functions of a thread's manifests."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.policy.namespaces import ByNamespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The fields of a checkpoint that retention looks at.

    Attributes:
        name: Its document.
        ns: Its namespace.
        checkpoint_id: Its id.
        parent_id: The checkpoint that it continues.
        time: When it was stored, in seconds since the epoch.
        run_id: The run that wrote it.
        root_id: The root checkpoint that called the subgraph, for a checkpoint of that call; `None` for others.
        replay_id: If a run resumes from this checkpoint, LangGraph replays subgraphs that keep their state from their
            newest checkpoint before this id. `None` stands for the checkpoint's own id.
        pin: The label of a user's pin.
        holds: The sets and savepoints that need it to stay.
        is_interrupted: Whether it waits for an answer to an interrupt, and nothing has continued it.
        stored: Channels with a stored value.
        deltas: DeltaChannels whose value is made of ancestors' writes.
        versions: Channels that were written in it or in any ancestor; `None` if that is unknown.
    """

    name: str
    ns: str
    checkpoint_id: str
    parent_id: str | None = None
    time: float = 0.0
    run_id: str | None = None
    root_id: str | None = None
    replay_id: str | None = None
    pin: str | None = None
    holds: tuple[Hold, ...] = ()
    is_interrupted: bool = False
    stored: frozenset[str] = field(default_factory=frozenset)
    deltas: frozenset[str] = field(default_factory=frozenset)
    versions: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to keep a checkpoint.

    Attributes:
        row: The checkpoint.
        reason: Why it is kept; `None` if it is removed.
        lacks: An ancestor that its DeltaChannels are made of, and that is missing. The earlier ancestors that must be
            kept are then unknown. `None` if no ancestor is missing.
    """

    row: Row
    reason: str | None
    lacks: str | None = None


class Retention(Protocol):
    """A rule that says which checkpoints of a namespace to keep. Combine rules with `|`."""

    def keeps(self, rows: Sequence[Row], now: float) -> Mapping[str, str]:
        """The reasons, by document name, for the checkpoints to keep of `rows`, which are newest first."""


class _Rule:
    def __or__(self, other: Retention) -> AnyOf:
        return AnyOf((*_parts(self), *_parts(other)))


def _parts(rule: object) -> tuple[Retention, ...]:
    return rule.rules if isinstance(rule, AnyOf) else (rule,)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class KeepLast(_Rule):
    """Keep the newest `count` checkpoints of each namespace."""

    count: int

    def __post_init__(self) -> None:
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise InvalidOptionError(f"KeepLast({self.count!r}): the count must be a whole number, at least 1.")

    def keeps(self, rows: Sequence[Row], now: float) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """See `Retention`."""
        return {row.name: f"one of the last {self.count}" for row in rows[: self.count]}


@dataclass(frozen=True, slots=True)
class KeepFor(_Rule):
    """Keep each checkpoint for a time."""

    time: timedelta

    def __post_init__(self) -> None:
        _check_time("KeepFor", self.time)

    def keeps(self, rows: Sequence[Row], now: float) -> Mapping[str, str]:
        """See `Retention`."""
        since = now - self.time.total_seconds()
        return {row.name: f"younger than {self.time}" for row in rows if row.time > since}


@dataclass(frozen=True, slots=True)
class KeepEvery(_Rule):
    """Keep the newest checkpoint of each interval, counted from the epoch: one an hour, one a day."""

    interval: timedelta

    def __post_init__(self) -> None:
        _check_time("KeepEvery", self.interval)

    def keeps(self, rows: Sequence[Row], now: float) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        """See `Retention`."""
        newest: dict[int, str] = {}
        for row in rows:
            newest.setdefault(int(row.time // self.interval.total_seconds()), row.name)
        return dict.fromkeys(newest.values(), f"the newest within {self.interval}")


@dataclass(frozen=True, slots=True)
class AnyOf(_Rule):
    """Keep each checkpoint that any of the rules keeps."""

    rules: tuple[Retention, ...]

    def keeps(self, rows: Sequence[Row], now: float) -> Mapping[str, str]:
        """See `Retention`."""
        found: dict[str, str] = {}
        for rule in self.rules:
            for name, reason in rule.keeps(rows, now).items():
                found.setdefault(name, reason)
        return found


@dataclass(frozen=True, slots=True)
class PerNamespace(_Rule):
    """Keep what the rule of each namespace keeps. A namespace without a rule keeps all."""

    rules: ByNamespace[Retention | None]

    @classmethod
    def parse(cls, patterns: Mapping[str, Retention | None]) -> PerNamespace:
        """Rules by pattern: see `langgraph_gcs_saver.policy.namespaces`.

        Raises:
            InvalidOptionError: A key is no pattern, or a value is no rule.
        """
        for pattern, rule in patterns.items():
            if rule is not None and (isinstance(rule, type) or not hasattr(rule, "keeps")):
                raise InvalidOptionError(
                    f"The rule for {pattern!r} is {rule!r}; it must be a rule such as KeepLast(10), or None."
                )
        return cls(ByNamespace.parse(patterns, None))

    def keeps(self, rows: Sequence[Row], now: float) -> Mapping[str, str]:
        """See `Retention`."""
        rule = self.rules.of(rows[0].ns) if rows else None
        return {row.name: "no rule for its namespace" for row in rows} if rule is None else rule.keeps(rows, now)


Strategy = str | Retention | Mapping[str, Retention | None]
"""What `prune` takes: `"keep_latest"`, a rule, or rules by pattern of namespaces."""

_NOT_PLANNED = "not planned to go"


def _check_time(what: str, time: object) -> None:
    if not isinstance(time, timedelta) or time <= timedelta():
        raise InvalidOptionError(f"{what}({time!r}): the time must be a positive timedelta.")


def decide(
    rows: Iterable[Row], rule: Retention | None, now: float, planned: frozenset[str] | None = None
) -> list[Decision]:
    """Decide which checkpoints of a thread to keep.

    These are always kept: the latest of a namespace, one that waits for an answer, and one with a pin or a hold. Also
    kept are the subgraph states from which a kept root checkpoint resumes, and the ancestors that a kept checkpoint's
    DeltaChannels are made of. The namespace of a subgraph's call is removed with the root checkpoint that called it.

    Args:
        rows: All checkpoints of the thread.
        rule: What else to keep. Without a rule, nothing at all is kept.
        now: The wall clock, seconds since the epoch.
        planned: If given, the only documents that may be removed: those of a plan that is carried out. Other
            checkpoints may have been lost since the plan was made, so everything else stays, whatever it belongs to.

    Returns:
        A decision for each checkpoint, newest first.
    """
    ordered = sorted(rows, key=lambda row: row.checkpoint_id, reverse=True)
    if rule is None:
        return [Decision(row, None) for row in ordered]
    spaces = _by_namespace(ordered)
    reasons: dict[str, str] = {}
    # The root comes first, because the others refer to it.
    for ns in sorted(spaces):
        _keep(spaces[ns], rule, now, reasons, spaces.get("", []), planned=planned)
    lost = lost_ancestors(row for row in ordered if row.name in reasons)
    return [Decision(row, reasons.get(row.name), lost.get(row.name)) for row in ordered]


def _by_namespace(rows: Iterable[Row]) -> dict[str, list[Row]]:
    spaces: dict[str, list[Row]] = {}
    for row in rows:
        spaces.setdefault(row.ns, []).append(row)
    return spaces


def _keep(
    rows: list[Row],
    rule: Retention,
    now: float,
    reasons: dict[str, str],
    roots: list[Row],
    *,
    planned: frozenset[str] | None,
) -> None:
    kept_roots = {row.checkpoint_id for row in roots if row.name in reasons}
    found: dict[str, str] = {}
    for row in rows:
        if row.pin is not None:
            found[row.name] = f"pinned: {row.pin}"
        elif row.holds:
            found[row.name] = f"held by {', '.join(map(str, row.holds))}"
        elif row.is_interrupted and (row.root_id is None or row.root_id in kept_roots):
            found[row.name] = "it waits for an answer"
    if rows[0].root_id is None or rows[0].root_id in kept_roots:
        found.setdefault(rows[0].name, "the latest")
        for name, reason in rule.keeps(rows, now).items():
            found.setdefault(name, reason)
    if planned is not None:
        for row in rows:
            if row.name not in planned:
                found.setdefault(row.name, _NOT_PLANNED)
    _keep_needed(rows, [row for row in roots if row.name in reasons], found)
    reasons.update(found)


def _keep_needed(rows: Sequence[Row], kept_roots: Iterable[Row], found: dict[str, str]) -> None:
    """Keep those checkpoints of a namespace that kept ones need, in it and in the root namespace."""
    if rows[0].ns and rows[0].root_id is None:
        _keep_replayed(rows, kept_roots, found)
    by_id = {row.checkpoint_id: row for row in rows}
    _keep_ancestors([row for row in rows if row.name in found], by_id, found)


def _keep_replayed(rows: Sequence[Row], roots: Iterable[Row], found: dict[str, str]) -> None:
    """For each kept root checkpoint, keep the state from which a subgraph resumes if a run resumes from that root.

    A held checkpoint also keeps the newest state before its own id. A restore makes that the subgraph's state again,
    even if the checkpoint is a fork, which LangGraph replays from an older state.
    """
    oldest_first = rows[::-1]
    ids = [row.checkpoint_id for row in oldest_first]
    for root in roots:
        replayed = root.replay_id or root.checkpoint_id
        for before in {replayed, root.checkpoint_id} if root.holds else {replayed}:
            at = bisect_left(ids, before)
            if at:
                found.setdefault(oldest_first[at - 1].name, f"the subgraph's state at {root.checkpoint_id}")


def _keep_ancestors(kept: list[Row], by_id: Mapping[str, Row], found: dict[str, str]) -> None:
    """Keep what kept checkpoints' DeltaChannels are made of: back to the nearest stored value, or the first version."""
    todo = [(row, row, row.deltas) for row in kept]
    # Thousands of checkpoints may share thousands of ancestors, so each channel's ancestors are walked once.
    walked: dict[str, frozenset[str]] = {}
    while todo:
        row, child, wanted = todo.pop()
        parent = by_id.get(child.parent_id or "")
        if not wanted or parent is None:
            continue
        if parent.name not in found:
            found[parent.name] = f"DeltaChannels of {row.checkpoint_id} are made of it"
            # It must stay whole, so its own DeltaChannels must too; their ancestors may be further back.
            todo.append((parent, parent, parent.deltas))
        more = wanted - parent.stored
        if parent.versions is not None:
            more &= parent.versions
        before = walked.get(parent.name, frozenset())
        walked[parent.name] = before | more
        todo.append((row, parent, more - before))


def lost_ancestors(rows: Iterable[Row]) -> dict[str, str]:
    """The ancestors that the DeltaChannels of some checkpoints are made of, and that are not among these checkpoints.

    Returns:
        The missing ancestor's id, by the document of each checkpoint that needs it.
    """
    by_id = {(row.ns, row.checkpoint_id): row for row in rows}
    # Thousands of checkpoints may share thousands of ancestors, so each channel's ancestors are walked once.
    ends: dict[tuple[str, str], str | None] = {}
    found: dict[str, str] = {}
    for row in by_id.values():
        for channel in sorted(row.deltas):
            end = _end(row, channel, by_id, ends)
            if end is not None:
                found.setdefault(row.name, end)
    return found


def _end(
    row: Row, channel: str, by_id: Mapping[tuple[str, str], Row], ends: dict[tuple[str, str], str | None]
) -> str | None:
    """The first missing ancestor on the way back to a channel's nearest stored value, or its first version.

    It is added to `ends` for each checkpoint on the way.
    """
    path: list[Row] = []
    following = row
    end: str | None = None
    while (following.name, channel) not in ends:
        ends[following.name, channel] = None  # If a checkpoint is its own ancestor, nothing is missing.
        path.append(following)
        if following.parent_id is None or following.parent_id == following.checkpoint_id:
            break
        parent = by_id.get((following.ns, following.parent_id))
        if parent is None:
            end = following.parent_id
            break
        if channel in parent.stored or (parent.versions is not None and channel not in parent.versions):
            break
        following = parent
    else:
        end = ends[following.name, channel]
    ends.update(((one.name, channel), end) for one in path)
    return end


def holds_on(rows: Sequence[Row], names: Collection[str]) -> tuple[Hold, ...]:
    """The holds that need some of a thread's checkpoints to stay, sorted.

    A hold needs its checkpoint, the ancestors that its DeltaChannels are made of, and the subgraph states from which it
    resumes if it is a root checkpoint.

    Args:
        rows: All checkpoints of the thread.
        names: Some of their documents.
    """
    holds = sorted({hold for row in rows for hold in row.holds}, key=str)
    if not holds:
        return ()
    spaces = _by_namespace(sorted(rows, key=lambda row: row.checkpoint_id, reverse=True))
    return tuple([hold for hold in holds if not _needed_by(hold, spaces).isdisjoint(names)])


def _needed_by(hold: Hold, spaces: Mapping[str, list[Row]]) -> set[str]:
    needed: set[str] = set()
    for rows in spaces.values():
        found = {row.name: "" for row in rows if hold in row.holds}
        _keep_needed(rows, [row for row in spaces.get("", ()) if hold in row.holds], found)
        needed.update(found)
    return needed


def decide_for_runs(rows: Iterable[Row], runs: frozenset[str], planned: frozenset[str] | None = None) -> list[Decision]:
    """Drop the checkpoints of some runs, even if others need them; with `planned`, only those of these names."""

    def reason(row: Row) -> str | None:
        if row.run_id not in runs:
            return "of another run"
        return _NOT_PLANNED if planned is not None and row.name not in planned else None

    return [Decision(row, reason(row)) for row in sorted(rows, key=lambda row: row.checkpoint_id, reverse=True)]
