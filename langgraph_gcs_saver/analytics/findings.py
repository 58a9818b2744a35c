"""What the views of a report show, as one sentence each, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.analytics.rows import LABEL

if TYPE_CHECKING:
    from langgraph_gcs_saver.analytics.local import Report

Found = Sequence[Mapping[str, Any]]

ADVICE: Mapping[str, str] = {
    "none": "nothing to do",
    "reference": "keep the value outside of the state, and a reference in it",
    "incremental": "turn on incremental frames",
    "untracked": "declare it as UntrackedValue if a node can compute it",
    "retention": "prune older checkpoints",
}
"""What the advice of `storage_by_channel` means."""

SHORT: Mapping[str, str] = {
    "reference": "store a reference",
    "incremental": "incremental frames",
    "untracked": "UntrackedValue",
    "retention": "prune",
}
"""The same in two words."""

NOTHING: Mapping[str, str] = {
    "checkpoint_patterns": "There are no checkpoints in these rows",
    "recovery_outcomes": "No recovery was recorded",
    "storage_by_channel": "No stored value is in these rows",
    "failures_by_interval": "There are no checkpoints or failures in these rows",
}
"""The finding of a view without rows."""


def finding(report: Report, view: str) -> str:
    """What a view shows, as one sentence without a full stop."""
    rows = report.views[view]
    return _FINDINGS[view](rows) if rows else NOTHING[view]


def in_bytes(number: float) -> str:
    """Bytes for people: three digits and a unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024 or unit == "GiB":
            return f"{number:,.0f} {unit}" if unit == "B" or abs(number) >= 100 else f"{number:.3g} {unit}"
        number /= 1024
    raise AssertionError


def in_seconds(number: float) -> str:
    """Seconds for people."""
    if not number:
        return "0 s"
    for most, each, unit in ((1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if abs(number) < most:
            return f"{number / each:.3g} {unit}"
    return f"{number / 3600:,.3g} h"


def in_percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.2g} %" if abs(share) < 0.1 else f"{100 * share:.0f} %"


def name_of(row: Mapping[str, Any], *columns: str) -> str:
    """What names a row of a view: some of its columns, and its labels."""
    parts = [_graph(row[one]) if one == "namespace" else str(row[one]) for one in columns]
    return ", ".join(
        parts + [str(value) for name, value in row.items() if name.startswith(LABEL) and value is not None]
    )


def counted(number: int, what: str) -> str:
    """A number of things; `what` is one of them."""
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('sh') else 's'}"


def _graph(namespace: str) -> str:
    return namespace or "root graph"


def _patterns(rows: Found) -> str:
    first = rows[0]
    often = "" if first["gap_p50"] is None else f"{in_seconds(first['gap_p50'])} after the one before, "
    return (
        f"The median checkpoint ({name_of(first, 'namespace')}): {often}{in_bytes(first['stored_p50'] or 0)} stored "
        f"for a state of {in_bytes(first['size_p50'] or 0)}"
    )


def _recoveries(rows: Found) -> str:
    total = sum(row["recoveries"] for row in rows)
    finished, failed = (sum(row[name] for row in rows) for name in ("finished", "failed"))
    continued = sum(row["continued"] for row in rows)
    lost = sum(row["work_lost"] or 0.0 for row in rows)
    ended = (
        f"{finished:,} of {finished + failed:,} runs after a recovery ended well"
        if finished + failed
        else f"{continued:,} of {total:,} recoveries were followed by a checkpoint"
    )
    return f"{ended}; {in_seconds(lost)} of work were repeated"


def _storage(rows: Found) -> str:
    first = rows[0]
    best = max(rows, key=lambda row: row["could_save"])
    advice = ""
    if best["could_save"]:
        whose = "it" if best is first else f"'{best['channel']}'"
        advice = f"; {in_bytes(best['could_save'])} of {whose} could be saved: {ADVICE[best['advice']]}"
    return f"Channel '{first['channel']}' takes {in_percent(first['share'] or 0)} of the stored bytes{advice}"


def _failures(rows: Found) -> str:
    worked, put, lost = (sum(row[name] or 0.0 for row in rows) for name in ("worked", "put_seconds", "work_lost"))
    crashes = sum(row["crashes"] for row in rows)
    if not worked:
        return f"{counted(crashes, 'crash')}; no thread has two checkpoints, so there are no intervals"
    if not any(row["put_seconds"] is not None for row in rows):
        storing = "The time for storing is not known"
    elif put <= worked:
        storing = f"Storing took {in_percent(put / worked)} of the time"
    else:  # with durability "async"
        storing = f"Beside the work, storing took {put / worked:.2g} times as long"
    return f"{storing}; {counted(crashes, 'crash')} repeated {in_percent(lost / worked)} of the work"


_FINDINGS = {
    "checkpoint_patterns": _patterns,
    "recovery_outcomes": _recoveries,
    "storage_by_channel": _storage,
    "failures_by_interval": _failures,
}
