"""The alerts: what each asks of the metrics, what it means, and what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.monitoring.promql import Dialect, span
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.telemetry import metrics

FAILING = 0.05
"""The share of calls that may fail."""

CALLS = 20
"""The fewest calls, or started threads, that a share or an average is judged by."""

GROWTH = 1.5
"""How much more one thread may store than a week before."""

_SHORT, _LONG, _DAY, _WEEK = 600, 3_600, 86_400, 604_800
_MONTH = 30
"""Days of a month of the budget."""

_UNITS = (("day", _DAY), ("hour", _LONG), ("minute", 60), ("second", 1))

Severity = Literal["CRITICAL", "ERROR", "WARNING"]
"""As in Cloud Monitoring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The limits of your own. Each alert that has none compares with the numbers above.

    Attributes:
        budget: US dollars a month for requests, by list prices.
        lag: Seconds from the making of a checkpoint until it is durable; less than the last boundary of the buckets of
            `put.lag`.
        objective: Seconds to restore a thread. Give the saver the same `objective`.
        stalled: Seconds without a durable step, for a thread whose lease is held.
        behind: Seconds by which a replica may be behind.

    Raises:
        InvalidInputError: One of them is not a positive number, or `lag` is too large.
    """

    budget: float = 100.0
    lag: float = 5.0
    objective: float = 30.0
    stalled: float = 600.0
    behind: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise InvalidInputError(f"{field.name} is {value!r}; it must be a positive number.")
        last = metrics.PUT_LAG.boundaries[-1]
        if self.lag >= last:
            raise InvalidInputError(
                f"lag is {self.lag!r}; it must be less than {last:g}, which is all that is measured."
            )


@record(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert.

    Attributes:
        name: A word: the name of its file.
        title: What has happened, in a few words.
        severity: How much it matters.
        expression: PromQL. It has a value while the alert is due.
        holds: Seconds for which it must have one.
        meaning: What has been seen.
        action: What to do.
    """

    name: str
    title: str
    severity: Severity
    expression: str
    holds: int = 0
    meaning: str
    action: str


def alerts(bounds: Bounds, dialect: Dialect) -> tuple[Alert, ...]:
    """All alerts.

    Args:
        bounds: Limits of your own.
        dialect: The names of the metrics.
    """
    return (
        _failures(dialect),
        _growth(dialect),
        _restore(bounds, dialect),
        _cost(bounds, dialect),
        _lag(bounds, dialect),
        _stalled(bounds, dialect),
        _damage(dialect),
        _expired(dialect),
        _stuck(dialect),
        _mirror(dialect),
        _behind(bounds, dialect),
        _unfollowed(dialect),
    )


def _words(seconds: float) -> str:
    """A length of time, in words."""
    name, size = next((name, size) for name, size in _UNITS if size == 1 or seconds % size == 0)
    number = f"{seconds / size:g}"
    return f"{number} {name}" + ("" if number == "1" else "s")


def _failures(dialect: Dialect) -> Alert:
    failed = dialect.grown(metrics.ERRORS, window=_SHORT)
    puts, gets = (
        dialect.grown(metric, "_count", window=_SHORT) for metric in (metrics.PUT_DURATION, metrics.GET_DURATION)
    )
    # A sum of no series is no number, and not 0.
    calls = f"({puts} or vector(0))\n  + ({gets} or vector(0))"
    return Alert(
        name="failures",
        title="Checkpoint calls fail",
        severity="CRITICAL",
        expression=f"{failed}\n/ (\n  {calls} >= {CALLS}\n) > {FAILING:g}",
        meaning=f"In {_words(_SHORT)}, more than {FAILING:.0%} of at least {CALLS} calls failed.",
        action="Look at `error.type` on the dashboard. For `unavailable`, look at the status of Firestore and Cloud "
        "Storage, at quotas and at the roles of the agents' account. Runs can be resumed with the same request.",
    )


def _growth(dialect: Dialect) -> Alert:
    def average(offset: int) -> str:
        stored = dialect.grown(metrics.PUT_STORED, "_sum", window=_DAY, offset=offset)
        started = dialect.grown(metrics.THREADS_STARTED, window=_DAY, offset=offset)
        return f"(\n  {stored}\n  / ({started} >= {CALLS})\n)"

    return Alert(
        name="growth",
        title="Threads store more than a week ago",
        severity="WARNING",
        expression=f"{average(0)} / {average(_WEEK)} > {GROWTH:g}",
        meaning=f"Stored bytes for each started thread are up by more than {GROWTH - 1:.0%} in a week, with at least "
        f"{CALLS} started threads on both days.",
        action="Run `langgraph-gcs stats` to see which channel grows. Keep large values out of the state, or store "
        "fewer checkpoints with `retention` and a cadence.",
    )


def _restore(bounds: Bounds, dialect: Dialect) -> Alert:
    slow = dialect.grown(metrics.RESTORES_SLOW, window=_LONG)
    seconds, count = (dialect.grown(metrics.RECOVERY_RESTORE, part, window=_LONG) for part in ("_sum", "_count"))
    return Alert(
        name="restore",
        title="Restores miss their objective",
        severity="WARNING",
        # An average, because an objective may be beyond the buckets of the histogram. Recoveries are few.
        expression=f"{slow} > 0\nor {seconds}\n/ {count} > {bounds.objective:g}",
        meaning="A read of the newest checkpoint missed the saver's `objective`, or would miss it in a fresh process. "
        f"Or recoveries took more than {_words(bounds.objective)} on average to read the state, in {_words(_LONG)}.",
        action="Run `langgraph-gcs drill THREAD --rto 30s` and do what it advises: a smaller state, or shorter chains.",
    )


def _cost(bounds: Bounds, dialect: Dialect) -> Alert:
    return Alert(
        name="cost",
        title="Requests cost more than the budget",
        severity="WARNING",
        expression=f"{dialect.grown(metrics.COST_ESTIMATED, window=_DAY)} * {_MONTH} > {bounds.budget:g}",
        meaning=f"Thirty days like the last one would cost more than ${bounds.budget:g} for requests, by list prices. "
        "Storage and network are not part of it.",
        action="Look at requests by method on the dashboard. Run `langgraph-gcs advise THREAD`: a cadence stores fewer "
        'steps, and `durability="exit"` one a run.',
    )


def _lag(bounds: Bounds, dialect: Dialect) -> Alert:
    return Alert(
        name="lag",
        title="Checkpoints become durable late",
        severity="WARNING",
        expression=f"{dialect.quantile(0.95, metrics.PUT_LAG, window=_SHORT)} > {bounds.lag:g}",
        holds=300,
        meaning=f"For {_words(300)}, 5% of the checkpoints were durable more than {_words(bounds.lag)} after they were "
        "made.",
        action="A crash now loses that much work. Look at the time of `put` and at retries on the dashboard. With "
        'durability "async", nodes may be faster than the store: use "sync", or `cadence.MaxLag`.',
    )


def _stalled(bounds: Bounds, dialect: Dialect) -> Alert:
    idle, held = dialect.series(metrics.LEASE_IDLE), dialect.series(metrics.LEASES_HELD)
    return Alert(
        name="stalled",
        title="A run makes no progress",
        severity="ERROR",
        expression=f"max({idle} and {held} > 0) > {bounds.stalled:g}",
        meaning="A process holds the lease of a thread, and its beat is alive, but no step became durable for more "
        f"than {_words(bounds.stalled)}.",
        action="Run `langgraph-gcs leases` and `langgraph-gcs stalled --older 10m` to find the thread and its node. A "
        "node that hangs needs a timeout. `langgraph-gcs pause THREAD` drains it, and ending its process lets another "
        "one resume.",
    )


def _damage(dialect: Dialect) -> Alert:
    found = (metrics.DAMAGED, metrics.FINDINGS, metrics.VERIFY_FAILURES)
    return Alert(
        name="damage",
        title="Stored data is damaged",
        severity="CRITICAL",
        expression="\nor ".join(f"{dialect.grown(metric, window=_LONG)} > 0" for metric in found),
        meaning="A read met a damaged checkpoint, `verify` found something, or data read differently than it was "
        "written.",
        action="Run `langgraph-gcs verify THREAD --depth data` and `langgraph-gcs repair THREAD --dry-run`. Stop what "
        "deletes, such as `sweep` and `collect`, until you know the cause.",
    )


def _expired(dialect: Dialect) -> Alert:
    expired = dialect.series(metrics.LEASES, match={"state": "expired"})
    taken = dialect.grown(metrics.TAKEOVERS, window=_LONG, match={"expired": "true"})
    return Alert(
        name="expired",
        title="Processes lost their leases",
        severity="WARNING",
        expression=f"max({expired}) > 0\nor {taken} > 0",
        meaning="A process crashed, hung or lost the store while it held the lease of a thread.",
        action="Run `langgraph-gcs leases --expired` and `langgraph-gcs recoveries`. A worker, `langgraph-gcs work`, "
        "resumes these threads. If it happens often, look at memory limits and at how instances are shut down.",
    )


def _stuck(dialect: Dialect) -> Alert:
    return Alert(
        name="stuck",
        title="The rollback of a saga is stuck",
        severity="ERROR",
        expression=f"{dialect.grown(metrics.SAGAS, window=_LONG, match={'state': 'stuck'})} > 0",
        meaning="A step of a saga has an unknown outcome, or its compensation keeps failing. What was undone stays "
        "undone, and earlier steps are not.",
        action="Run `langgraph-gcs saga rollbacks --state stuck` to list the sagas, and `langgraph-gcs saga show "
        "THREAD SAGA` to see what stops one. Settle these steps with `langgraph-gcs saga resolve`, and continue with "
        "`langgraph-gcs saga resume`.",
    )


def _mirror(dialect: Dialect) -> Alert:
    return Alert(
        name="mirror",
        title="The mirror serves reads",
        severity="ERROR",
        expression=f"{dialect.grown(metrics.MIRROR_READS, window=_LONG)} > 0",
        meaning="The bucket did not return an object, or returned other bytes. The mirror had it, so no call failed.",
        action="If `reason` is `unavailable`, look at the status of Cloud Storage: puts fail until the bucket is back, "
        "or the store is bound to the mirror with `langgraph-gcs rebind`. Otherwise objects are gone or damaged: run "
        "`langgraph-gcs verify --depth data`, and `langgraph-gcs repair`, which copies them from the mirror.",
    )


def _behind(bounds: Bounds, dialect: Dialect) -> Alert:
    return Alert(
        name="behind",
        title="The replica is behind",
        severity="ERROR",
        expression=f"max({dialect.series(metrics.REPLICATION_LAG)}) > {bounds.behind:g}",
        meaning=f"The mark of the replica is older than {_words(bounds.behind)}. A loss of the primary now would lose "
        "that much.",
        action="Run `langgraph-gcs replication status --to URI`. Look at `replication.failures` by `error.type`, and "
        "at the log of `langgraph-gcs replicate --follow`. If the outbox grows although nothing fails, run a second "
        "one.",
    )


def _unfollowed(dialect: Dialect) -> Alert:
    lag = dialect.series(metrics.REPLICATION_LAG)
    return Alert(
        name="unfollowed",
        title="Replication has stopped",
        severity="ERROR",
        # `max` has no labels, so another process that follows is as good as the one that ended.
        expression=f"max(max_over_time({lag}[{span(_DAY)}])) unless max({lag})",
        holds=300,
        meaning=f"A process followed the outbox less than {_words(_DAY)} ago, and for more than {_words(300)} none "
        "does. The mark of the replica stands still.",
        action="Start `langgraph-gcs replicate --to URI --follow`, or your own program, again. If replication ended on "
        "purpose, the alert ends after a day.",
    )
