"""The alerts as files: for Cloud Monitoring's API, for Prometheus, and for Managed Service for Prometheus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langgraph_gcs_saver.monitoring.alerts import Alert
from langgraph_gcs_saver.monitoring.promql import span

GUIDE = "guides/monitor-in-production"
"""The page that has a section on alerts."""

EVALUATED_EVERY = 60
"""Seconds; a multiple of 30
(https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies#prometheusquerylanguagecondition)."""

_CLOSED_AFTER = 1_800
"""Seconds without data until an incident is closed: the least that the API accepts
(https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies#alertstrategy)."""

_GROUP = "langgraph-gcs"


def link(docs: str | None) -> str:
    """The section on alerts: a URL if the documentation has one, else its place in the repository."""
    return f"{docs.rstrip('/')}/{GUIDE}/#alerts" if docs else f"docs/{GUIDE}.md#alerts"


def policy(alert: Alert, docs: str | None) -> dict[str, Any]:
    """An alert policy, as `gcloud monitoring policies create --policy-from-file` takes it.

    By default the API rejects a query of a metric that has no data yet, such as `damaged`.

    Args:
        alert: The alert.
        docs: The URL of the documentation, if it has one.
    """
    more = {"links": [{"displayName": "All alerts", "url": link(docs)}]} if docs else {}
    return {
        "displayName": f"LangGraph checkpoints: {alert.title}",
        "severity": alert.severity,
        "combiner": "OR",
        "enabled": True,
        "userLabels": {"component": _GROUP, "alert": alert.name},
        "documentation": {
            "subject": alert.title,
            "mimeType": "text/markdown",
            "content": f"{alert.meaning}\n\n**What to do:** {alert.action}\n\nMore: {link(docs)}",
            **more,
        },
        "conditions": [
            {
                "displayName": alert.title,
                "conditionPrometheusQueryLanguage": {
                    "query": alert.expression,
                    "duration": f"{alert.holds}s",
                    "evaluationInterval": f"{EVALUATED_EVERY}s",
                    "disableMetricValidation": True,
                },
            }
        ],
        "alertStrategy": {"autoClose": f"{_CLOSED_AFTER}s"},
    }


def alert_name(alert: Alert) -> str:
    """The name of an alert in Prometheus."""
    return f"LangGraphCheckpoints{alert.name.capitalize()}"


def texts(alert: Alert, docs: str | None) -> dict[str, str]:
    """What Prometheus says with an alert. A runbook has to be a URL, so without one there is none."""
    found = {"summary": alert.title, "description": f"{alert.meaning} {alert.action}"}
    return {**found, "runbook_url": link(docs)} if docs else found


def labels(alert: Alert) -> dict[str, str]:
    """What Prometheus routes an alert by."""
    return {"severity": alert.severity.lower(), "component": _GROUP}


def rules(alerts: Sequence[Alert], docs: str | None) -> str:
    """A rules file of Prometheus.

    Texts are JSON strings, which are YAML too.

    Args:
        alerts: The alerts.
        docs: The URL of the documentation, if it has one.
    """
    lines = ["groups:", f"  - name: {_GROUP}", f"    interval: {span(EVALUATED_EVERY)}", "    rules:"]
    for alert in alerts:
        lines += [f"      - alert: {alert_name(alert)}", "        expr: |-"]
        lines += [f"          {line}" for line in alert.expression.split("\n")]
        if alert.holds:
            lines.append(f"        for: {span(alert.holds)}")
        for name, values in (("labels", labels(alert)), ("annotations", texts(alert, docs))):
            lines.append(f"        {name}:")
            lines += [f"          {key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def managed_rules(alerts: Sequence[Alert], docs: str | None) -> str:
    """The same as a resource of Managed Service for Prometheus.

    https://docs.cloud.google.com/stackdriver/docs/managed-prometheus/rules-managed

    Args:
        alerts: The alerts.
        docs: The URL of the documentation, if it has one.
    """
    head = ("apiVersion: monitoring.googleapis.com/v1", "kind: Rules", "metadata:", f"  name: {_GROUP}", "spec:")
    return "\n".join((*head, *(f"  {line}" for line in rules(alerts, docs).splitlines()))) + "\n"
