"""Analytics: what savers do, as rows in a file, in BigQuery, in a topic or in a log. Rows never contain state.

    sink = analytics.Jsonl("rows.jsonl")
    saver.subscribe(sink)

The sinks do not slow a run, and their failures do not reach it. See `docs/reference/analytics.md`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.analytics.rows import thread_digest

if TYPE_CHECKING:
    from langgraph_gcs_saver.analytics.bigquery import BigQuery
    from langgraph_gcs_saver.analytics.cloud_logging import Logging
    from langgraph_gcs_saver.analytics.filling import backfill
    from langgraph_gcs_saver.analytics.jsonl import Jsonl
    from langgraph_gcs_saver.analytics.local import Report, report
    from langgraph_gcs_saver.analytics.pubsub import PubSub
    from langgraph_gcs_saver.analytics.tables import ddl, views

__all__ = [
    "BigQuery",
    "Jsonl",
    "Logging",
    "PubSub",
    "Report",
    "backfill",
    "ddl",
    "report",
    "thread_digest",
    "views",
]

_LATER = {
    "BigQuery": "bigquery",
    "Jsonl": "jsonl",
    "Logging": "cloud_logging",
    "PubSub": "pubsub",
    "Report": "local",
    "backfill": "filling",
    "ddl": "tables",
    "report": "local",
    "views": "tables",
}
"""Names that are imported on first use, with their modules."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
