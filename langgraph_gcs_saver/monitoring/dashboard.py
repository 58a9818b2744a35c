"""The dashboard of Cloud Monitoring: every metric of the table, in sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langgraph_gcs_saver.monitoring.promql import Dialect, Part
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.telemetry import metrics
from langgraph_gcs_saver.telemetry.metrics import Metric

_COLUMNS, _WIDTH, _HEIGHT, _HEADER = 48, 16, 16, 4
"""The grid: three charts a row (https://cloud.google.com/monitoring/api/ref_v3/rest/v1/projects.dashboards)."""

_DAY = 86_400


@record(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        title: Its title.
        unit: Its unit, in UCUM.
        lines: Legends and expressions. An empty legend shows all labels.
    """

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


@record(frozen=True, slots=True)
class Section:
    """Charts under a heading."""

    title: str
    charts: tuple[Chart, ...]


def sections(dialect: Dialect, labels: Sequence[str]) -> tuple[Section, ...]:
    """The charts of the dashboard.

    Args:
        dialect: The names of the metrics.
        labels: The labels of the saver; each gets a section.
    """

    def rates(title: str, unit: str, metric: Metric, *by: str, part: Part = "") -> Chart:
        return Chart(title, unit, (("", dialect.rate(metric, part, by)),))

    def count(title: str, metric: Metric, *by: str) -> Chart:
        return Chart(f"{title}, a day", "1", (("", dialect.grown(metric, window=_DAY, by=by)),))

    def gauge(title: str, unit: str, metric: Metric, *by: str) -> Chart:
        return Chart(title, unit, (("", dialect.gauge(metric, by)),))

    def times(title: str, metric: Metric) -> Chart:
        return Chart(
            title,
            "s",
            tuple((f"p{share * 100:g}", dialect.quantile(share, metric, window=600)) for share in (0.5, 0.95, 0.99)),
        )

    def of_label(name: str) -> Section:
        label = f"label.{name}"
        return Section(
            f"By {name}",
            (
                rates("Saves a second", "1/s", metrics.PUT_DURATION, label, part="_count"),
                rates("Errors a second", "1/s", metrics.ERRORS, label),
                rates("Stored bytes a second", "By/s", metrics.PUT_STORED, label, part="_sum"),
            ),
        )

    stored = dialect.grown(metrics.PUT_STORED, "_sum", window=_DAY)
    started = dialect.grown(metrics.THREADS_STARTED, window=_DAY)
    return (
        Section(
            "Calls",
            (
                rates("Saves a second", "1/s", metrics.PUT_DURATION, "call", "outcome", part="_count"),
                rates("Loads a second", "1/s", metrics.GET_DURATION, "call", "outcome", part="_count"),
                rates("Errors a second", "1/s", metrics.ERRORS, "call", "error.type"),
                times("Time of a save", metrics.PUT_DURATION),
                times("Time of a load", metrics.GET_DURATION),
                times("Lag until a checkpoint is durable", metrics.PUT_LAG),
            ),
        ),
        Section(
            "Bytes",
            (
                Chart(
                    "Bytes of saves a second",
                    "By/s",
                    (
                        ("stored", dialect.rate(metrics.PUT_STORED, "_sum")),
                        ("serialized", dialect.rate(metrics.PUT_LOGICAL, "_sum")),
                    ),
                ),
                rates("Bytes of loads a second", "By/s", metrics.GET_FETCHED, "call", part="_sum"),
                Chart("Stored bytes for each started thread, of a day", "By", (("bytes", f"{stored} / {started}"),)),
            ),
        ),
        Section(
            "Runs and leases",
            (
                count("Started threads", metrics.THREADS_STARTED),
                count("Ended runs", metrics.RUNS_ENDED, "outcome", "resumed"),
                times("Time of a run", metrics.RUN_DURATION),
                gauge("Unfinished runs in the store", "1", metrics.RUNS, "state"),
                gauge("Leases in the store", "1", metrics.LEASES, "state"),
                gauge("Leases held by these processes", "1", metrics.LEASES_HELD),
                Chart(
                    "Longest time without a durable step",
                    "s",
                    (("time", f"max({dialect.series(metrics.LEASE_IDLE)})"),),
                ),
                count("Leases taken over", metrics.TAKEOVERS, "expired"),
                count("Fenced calls", metrics.FENCED, "call"),
                count("Side effects", metrics.OPERATIONS, "state", "recorded"),
                count("Late side effects", metrics.OPERATIONS_LATE),
                count("Forks", metrics.FORKS),
            ),
        ),
        Section(
            "Sagas and teams",
            (
                count("Sagas and rollbacks", metrics.SAGAS, "state"),
                count("Attempts to undo a step", metrics.COMPENSATIONS, "state"),
                count("Sets of teams", metrics.SETS, "state"),
                times("Time until a set is decided", metrics.SET_DURATION),
                count("Restored sets", metrics.SET_RESTORES),
            ),
        ),
        Section(
            "Damage and recoveries",
            (
                Chart(
                    "Damage, a day",
                    "1",
                    (
                        ("damaged checkpoints", dialect.grown(metrics.DAMAGED, window=_DAY)),
                        ("findings of verify", dialect.grown(metrics.FINDINGS, window=_DAY)),
                        ("written again", dialect.grown(metrics.VERIFY_FAILURES, window=_DAY)),
                    ),
                ),
                count("Recoveries", metrics.RECOVERIES, "kind"),
                count("Restores over the objective", metrics.RESTORES_SLOW, "estimated"),
                times("Time to restore", metrics.RECOVERY_RESTORE),
                times("Work that was lost", metrics.RECOVERY_LOST),
            ),
        ),
        Section(
            "Regions",
            (
                Chart("The replica is behind by", "s", (("time", f"max({dialect.series(metrics.REPLICATION_LAG)})"),)),
                rates("Shipped entries a second", "1/s", metrics.REPLICATION_ENTRIES),
                rates("Shipped bytes a second", "By/s", metrics.REPLICATION_SHIPPED),
                count("Failures to ship", metrics.REPLICATION_FAILURES, "error.type"),
                count("Reads from the mirror", metrics.MIRROR_READS, "reason"),
                count("Changes of roles", metrics.ROLES_CHANGED, "role", "cause"),
            ),
        ),
        Section(
            "Requests and cost",
            (
                rates("Requests a second", "1/s", metrics.REQUESTS, "service", "method"),
                rates("Retries a second", "1/s", metrics.REQUEST_RETRIES, "service", "reason"),
                count("Estimated dollars for requests", metrics.COST_ESTIMATED, "service"),
                count("Dropped rows of analytics", metrics.ANALYTICS_DROPPED, "sink"),
            ),
        ),
        *map(of_label, labels),
    )


def dashboard(dialect: Dialect, labels: Sequence[str]) -> dict[str, Any]:
    """The dashboard, as the Dashboard API takes it.

    Args:
        dialect: The names of the metrics.
        labels: The labels of the saver.
    """
    return {
        "displayName": "LangGraph checkpoints",
        "labels": {"langgraph-gcs": ""},
        "mosaicLayout": {"columns": _COLUMNS, "tiles": list(_tiles(sections(dialect, labels)))},
    }


def _tiles(parts: Sequence[Section]) -> Iterator[dict[str, Any]]:
    top = 0
    for part in parts:
        yield {
            "yPos": top,
            "width": _COLUMNS,
            "height": _HEADER,
            "widget": {"title": part.title, "sectionHeader": {}},
        }
        top += _HEADER
        for number, chart in enumerate(part.charts):
            row, column = divmod(number, _COLUMNS // _WIDTH)
            yield {
                "xPos": column * _WIDTH,
                "yPos": top + row * _HEIGHT,
                "width": _WIDTH,
                "height": _HEIGHT,
                "widget": {"title": chart.title, "xyChart": _chart(chart)},
            }
        top += -(-len(part.charts) // (_COLUMNS // _WIDTH)) * _HEIGHT


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "dataSets": [
            {
                "timeSeriesQuery": {"prometheusQuery": expression, "unitOverride": chart.unit},
                "plotType": "LINE",
                "targetAxis": "Y1",
                **({"legendTemplate": legend} if legend else {}),
            }
            for legend, expression in chart.lines
        ],
        "yAxis": {"scale": "LINEAR"},
    }
