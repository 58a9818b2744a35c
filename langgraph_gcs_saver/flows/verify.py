"""Verifies a thread: reports the findings of a survey."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph_gcs_saver.engine.effects import Flow
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.survey import survey
from langgraph_gcs_saver.results import Depth, Finding


def verify(thread_id: str, depth: Depth, loads: Loads, context: Context) -> Flow[Sequence[Finding]]:
    """The findings of a thread; raises as `survey` does."""
    return (yield from survey(thread_id, depth, loads, context)).findings()
