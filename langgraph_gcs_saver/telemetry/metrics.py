"""All metrics, as one table. The instruments, the reference page, dashboards and alerts are made from it.

No attribute holds the id of a thread, a checkpoint or a run. Each distinct combination of attributes is a series that
costs money, so each attribute has few values. Besides the attributes in the table, a metric with `labels` has
`label.NAME` for each name in the option `labels`.
"""

from __future__ import annotations

from typing import Literal

from langgraph_gcs_saver.records import record

PREFIX = "langgraph_gcs."

Kind = Literal["counter", "histogram", "gauge"]
"""What is measured: a sum that only grows, a distribution, or a number that is read when metrics are collected."""


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Boundaries of histograms for the duration of a call: 1 ms to a minute."""

LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Boundaries of histograms for runs and lost work: up to a day."""

BYTES = (1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
"""Boundaries of histograms for sizes: 100 B to 1 GB."""


@record(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: The name, without `langgraph_gcs.`.
        kind: The kind of its instrument. A gauge is an observable gauge.
        unit: The unit, in UCUM: seconds, bytes, or what is counted, in braces.
        attributes: The names of its attributes, without the labels.
        labels: Whether it also has the labels of the saver.
        boundaries: Boundaries of the buckets of a histogram, unless the application's SDK has a view with others.
        combine: How the values of several savers become the value of a gauge.
        help: What it measures.
    """

    name: str
    kind: Kind
    unit: str
    attributes: tuple[str, ...] = ()
    labels: bool = False
    boundaries: tuple[float, ...] = ()
    combine: Literal["sum", "max"] = "sum"
    help: str

    @property
    def full_name(self) -> str:
        """The name in OpenTelemetry."""
        return PREFIX + self.name

    @property
    def prometheus(self) -> str:
        """The name in Prometheus and PromQL. A histogram's series add `_bucket`, `_sum` and `_count`.

        By https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/: units in braces are
        dropped, other units and `_total` become suffixes.
        """
        suffix = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "") + ("_total" if self.kind == "counter" else "")
        return self.full_name.replace(".", "_") + suffix


PUT_DURATION = Metric(
    name="put.duration",
    kind="histogram",
    unit="s",
    attributes=("call", "outcome", "namespace"),
    labels=True,
    boundaries=SECONDS,
    help="How long `put` and `put_writes` took, failed calls included",
)
PUT_LAG = Metric(
    name="put.lag",
    kind="histogram",
    unit="s",
    attributes=("namespace",),
    labels=True,
    boundaries=SECONDS,
    help="Time from the making of a checkpoint (its `ts`) until it was durable",
)
PUT_STORED = Metric(
    name="put.stored",
    kind="histogram",
    unit="By",
    attributes=("call", "namespace"),
    labels=True,
    boundaries=BYTES,
    help="Bytes that a call stored, in documents and objects",
)
PUT_LOGICAL = Metric(
    name="put.logical",
    kind="histogram",
    unit="By",
    attributes=("call", "namespace"),
    labels=True,
    boundaries=BYTES,
    help="Bytes of the serialized values, inherited ones included",
)
GET_DURATION = Metric(
    name="get.duration",
    kind="histogram",
    unit="s",
    attributes=("call", "outcome", "namespace"),
    labels=True,
    boundaries=SECONDS,
    help="How long `get_tuple`, a page of `list`, and `get_delta_channel_history` took, failed calls included",
)
GET_FETCHED = Metric(
    name="get.fetched",
    kind="histogram",
    unit="By",
    attributes=("call", "namespace"),
    labels=True,
    boundaries=BYTES,
    help="Bytes that a call read, from documents and objects",
)
ERRORS = Metric(
    name="errors",
    kind="counter",
    unit="{error}",
    attributes=("call", "error.type"),
    labels=True,
    help="Calls that failed; a call that was canceled did not. `error.type` is the `kind` of an error of this library, "
    "else the name of the class",
)
VERIFY_FAILURES = Metric(
    name="verify.failures",
    kind="counter",
    unit="{failure}",
    help="Data that read differently than it was written, and was written again",
)
DAMAGED = Metric(
    name="damaged",
    kind="counter",
    unit="{checkpoint}",
    help="Damaged checkpoints that reads met; a damaged checkpoint counts each time",
)
FINDINGS = Metric(
    name="findings",
    kind="counter",
    unit="{finding}",
    help="Findings of `verify` that are damage; orphans do not count",
)
RECOVERIES = Metric(
    name="recoveries",
    kind="counter",
    unit="{recovery}",
    attributes=("kind",),
    labels=True,
    help="Complete recovery records: a `takeover`, `fallback`, `repair`, `restore` or `rollback`",
)
RECOVERY_LOST = Metric(
    name="recovery.lost",
    kind="histogram",
    unit="s",
    attributes=("kind",),
    labels=True,
    boundaries=LONG_SECONDS,
    help="Work that a recovery lost, if known",
)
RECOVERY_RESTORE = Metric(
    name="recovery.restore",
    kind="histogram",
    unit="s",
    attributes=("kind",),
    labels=True,
    boundaries=SECONDS,
    help="Time until a recovery had read the state, if known",
)
RESTORES_SLOW = Metric(
    name="restores.slow",
    kind="counter",
    unit="{restore}",
    attributes=("estimated",),
    help="Reads of the newest checkpoint that missed the restore objective, or would miss it in a fresh process",
)
FORKS = Metric(
    name="forks",
    kind="counter",
    unit="{fork}",
    help="Checkpoints whose parent already had another child",
)
FENCED = Metric(
    name="fenced",
    kind="counter",
    unit="{error}",
    attributes=("call",),
    help="Calls that stored nothing because another process holds the lease; with the call `lease`, leases that were "
    "lost",
)
THREADS_STARTED = Metric(
    name="threads.started",
    kind="counter",
    unit="{thread}",
    labels=True,
    help="First checkpoints of threads",
)
TAKEOVERS = Metric(
    name="takeovers",
    kind="counter",
    unit="{lease}",
    attributes=("expired",),
    help="Leases that were acquired from a holder which had not released them. `expired` is `true` after a crash",
)
LEASES_HELD = Metric(
    name="leases.held",
    kind="gauge",
    unit="{lease}",
    help="Leases that this process holds",
)
LEASE_IDLE = Metric(
    name="lease.idle",
    kind="gauge",
    unit="s",
    combine="max",
    help="The longest time since a durable step, over the leases that this process holds; 0 if it holds none",
)
LEASES = Metric(
    name="leases",
    kind="gauge",
    unit="{lease}",
    attributes=("state",),
    help="Leases in the store: `held` or `expired`. Only with `watch_store`",
)
RUNS = Metric(
    name="runs",
    kind="gauge",
    unit="{run}",
    attributes=("state",),
    help="Unfinished turns in the store: `running`, `waiting`, `paused`, `crashed`, `due` or `poison`. Only with "
    "`watch_store`",
)
OPERATIONS = Metric(
    name="operations",
    kind="counter",
    unit="{operation}",
    attributes=("state", "recorded"),
    help="Calls of `once` that ended. `recorded` is `true` if a call returned an outcome that was recorded before",
)
OPERATIONS_LATE = Metric(
    name="operations.late",
    kind="counter",
    unit="{operation}",
    help="Attempts at an operation that ended after another attempt, or a person, had taken their place",
)
SAGAS = Metric(
    name="sagas",
    kind="counter",
    unit="{saga}",
    attributes=("state",),
    help="Sagas that are `done`, and rollbacks that ended: `compensated`, `stuck`, or `running` again from a savepoint",
)
COMPENSATIONS = Metric(
    name="compensations",
    kind="counter",
    unit="{compensation}",
    attributes=("state",),
    help="Attempts to undo a step of a saga",
)
SETS = Metric(
    name="sets",
    kind="counter",
    unit="{set}",
    attributes=("state",),
    help="Sets of teams that were decided: `committed` or `aborted`",
)
SET_DURATION = Metric(
    name="set.duration",
    kind="histogram",
    unit="s",
    attributes=("state",),
    boundaries=SECONDS,
    help="How long a team's `checkpoint` took until the set was decided",
)
SET_RESTORES = Metric(
    name="set.restores",
    kind="counter",
    unit="{restore}",
    help="Sets of teams that were restored",
)
RUNS_ENDED = Metric(
    name="runs.ended",
    kind="counter",
    unit="{run}",
    attributes=("outcome", "resumed"),
    labels=True,
    help="Calls of `run`, `stream` and their asynchronous twins that ended",
)
RUN_DURATION = Metric(
    name="run.duration",
    kind="histogram",
    unit="s",
    attributes=("outcome",),
    labels=True,
    boundaries=LONG_SECONDS,
    help="How long these calls took",
)
MIRROR_READS = Metric(
    name="mirror.reads",
    kind="counter",
    unit="{read}",
    attributes=("reason",),
    help="Objects that were read from the mirror: the bucket's answer was `missing`, `unavailable` or `corrupt`",
)
REPLICATION_LAG = Metric(
    name="replication.lag",
    kind="gauge",
    unit="s",
    combine="max",
    help="By how much the replica is behind: the age of its mark. It grows until the process that follows the outbox "
    "moves the mark. Only in such a process",
)
REPLICATION_ENTRIES = Metric(
    name="replication.entries",
    kind="counter",
    unit="{entry}",
    help="Entries of the outbox that this process has shipped",
)
REPLICATION_SHIPPED = Metric(
    name="replication.shipped",
    kind="counter",
    unit="By",
    help="Bytes of documents and objects that this process has written to the replica",
)
REPLICATION_FAILURES = Metric(
    name="replication.failures",
    kind="counter",
    unit="{failure}",
    attributes=("error.type",),
    help="Tries to ship changes that failed; the changes stay in the outbox. `error.type` as in `errors`",
)
ROLES_CHANGED = Metric(
    name="roles.changed",
    kind="counter",
    unit="{change}",
    attributes=("role", "cause"),
    help="Changes of a store's role that this process has made: to `primary`, `replica` or `fenced`",
)
REQUESTS = Metric(
    name="requests",
    kind="counter",
    unit="{request}",
    attributes=("service", "method"),
    help="Requests to `firestore` and `storage`. The method is the name of an effect, such as `Commit`. A request that "
    "is retried counts once",
)
REQUEST_RETRIES = Metric(
    name="request.retries",
    kind="counter",
    unit="{request}",
    attributes=("service", "reason"),
    help="Attempts at a request that failed and were repeated",
)
COST_ESTIMATED = Metric(
    name="cost.estimated",
    kind="counter",
    unit="{USD}",
    attributes=("service",),
    help="What the requests cost by list prices. Storage and network are not part of it",
)
ANALYTICS_DROPPED = Metric(
    name="analytics.dropped",
    kind="counter",
    unit="{row}",
    attributes=("sink",),
    help="Rows that a sink of analytics has dropped",
)

METRICS: tuple[Metric, ...] = (
    PUT_DURATION,
    PUT_LAG,
    PUT_STORED,
    PUT_LOGICAL,
    GET_DURATION,
    GET_FETCHED,
    ERRORS,
    VERIFY_FAILURES,
    DAMAGED,
    FINDINGS,
    RECOVERIES,
    RECOVERY_LOST,
    RECOVERY_RESTORE,
    RESTORES_SLOW,
    FORKS,
    FENCED,
    THREADS_STARTED,
    TAKEOVERS,
    LEASES_HELD,
    LEASE_IDLE,
    LEASES,
    RUNS,
    OPERATIONS,
    OPERATIONS_LATE,
    SAGAS,
    COMPENSATIONS,
    SETS,
    SET_DURATION,
    SET_RESTORES,
    RUNS_ENDED,
    RUN_DURATION,
    MIRROR_READS,
    REPLICATION_LAG,
    REPLICATION_ENTRIES,
    REPLICATION_SHIPPED,
    REPLICATION_FAILURES,
    ROLES_CHANGED,
    REQUESTS,
    REQUEST_RETRIES,
    COST_ESTIMATED,
    ANALYTICS_DROPPED,
)
"""All metrics, in the order of the reference."""
