"""Prometheus's own evaluator: it checks rules, and says which alerts fire for series that a test gives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from langgraph_gcs_saver.monitoring import policies
from langgraph_gcs_saver.monitoring.alerts import Alert
from tests.emulators.prometheus import ensure_promtool
from tests.patience import PATIENCE


class PromtoolError(AssertionError):
    """promtool does not accept the rules, or other alerts fire than those that a test expects."""


def _run(*arguments: str | Path) -> str:
    ended = subprocess.run(
        [ensure_promtool(), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if ended.returncode:
        raise PromtoolError(ended.stdout + ended.stderr)
    return ended.stdout


def check(rules: str, folder: Path) -> str:
    """Let promtool check rules; return what it says."""
    path = folder / "rules.yaml"
    path.write_text(rules)
    return _run("check", "rules", path)


def assert_firing(
    names: Collection[str],
    alerts: Sequence[Alert],
    series: Mapping[str, str],
    *,
    minutes: int,
    folder: Path,
    interval: str = "1m",
    every: str = "1m",
) -> None:
    """Assert that exactly some alerts fire.

    Args:
        names: The names of those that fire.
        alerts: All alerts.
        series: By name, values in promtool's notation.
        minutes: When it is looked.
        folder: Where to write files.
        interval: How far values are apart; at most 5 minutes, after which Prometheus takes a series for ended.
        every: How often rules are evaluated.

    Raises:
        PromtoolError: Others fire.
    """
    (folder / "rules.yaml").write_text(policies.rules(alerts, None))

    def expected(alert: Alert) -> dict[str, Any]:
        firing = [{"exp_labels": policies.labels(alert), "exp_annotations": policies.texts(alert, None)}]
        return {
            "eval_time": f"{minutes}m",
            "alertname": policies.alert_name(alert),
            "exp_alerts": firing if alert.name in names else [],
        }

    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": every,
        "tests": [
            {
                "interval": interval,
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [expected(alert) for alert in alerts],
            }
        ],
    }
    path = folder / "test.yaml"
    path.write_text(json.dumps(test))
    _run("test", "rules", path)
