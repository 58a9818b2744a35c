"""Prints the table of alerts for docs/guides/monitor-in-production.md: `python -m tests.docs.alerts`."""

from __future__ import annotations

import re
import sys

from langgraph_gcs_saver.monitoring import Bounds
from langgraph_gcs_saver.monitoring.alerts import Alert, alerts
from langgraph_gcs_saver.monitoring.promql import dialect
from langgraph_gcs_saver.telemetry.metrics import METRICS

_HEAD = """\
| alert | severity | metrics | what it means | what to do |
|---|---|---|---|---|
"""


def metrics_of(alert: Alert) -> list[str]:
    """The metrics that an expression reads, without `langgraph_gcs.`."""
    named = re.findall(r'__name__="([\w.]+)"', alert.expression)
    return [one.name for one in METRICS if any(re.fullmatch(rf"{one.full_name}(_\w+)?", name) for name in named)]


def table() -> str:
    """The table."""
    rows = (
        (
            f"`{alert.name}`: {alert.title}",
            alert.severity.lower(),
            ", ".join(f"`{name}`" for name in metrics_of(alert)),
            alert.meaning,
            alert.action,
        )
        for alert in alerts(Bounds(), dialect("otlp"))
    )
    return _HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


if __name__ == "__main__":
    sys.stdout.write(table())
