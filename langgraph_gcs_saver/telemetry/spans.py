"""Spans of calls, made when a call has ended, with the times at which it began and ended."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode, Tracer

from langgraph_gcs_saver.events import CallEnded, GetFailed, PutFailed
from langgraph_gcs_saver.telemetry.measures import call_of, error_type, labels_of
from langgraph_gcs_saver.telemetry.metrics import PREFIX
from langgraph_gcs_saver.telemetry.phases import Steps, phases

SECONDS = f"{PREFIX}seconds"
"""The attribute of a phase that says how long it took."""

FIELDS = {
    "outcome": "how the call ended",
    "checkpoint_id": "the checkpoint, if it is known",
    "checkpoint_ns": "the namespace; absent for the root graph",
    "run_id": "the run, if the config or the metadata name it",
    "size": "bytes of the serialized values",
    "inline_bytes": "bytes stored or read in documents",
    "object_bytes": "bytes stored or read in objects",
    "objects": "objects that were created",
    "attempts": "commits that were tried",
    "checkpoints": "checkpoints of a page of `list`",
    "writes": "writes that were stored, or found for DeltaChannels",
}
"""The fields of events that are attributes of spans, with `langgraph_gcs.` before the name, unless they are empty."""

CONVERSATION = "gen_ai.conversation.id"
"""The thread's id, by the semantic conventions for generative AI. Only if it is requested."""


class Spans:
    """Makes a span of each call, as a child of the span that is current where the call ends.

    Args:
        tracer: Makes the spans.
        steps: The latest effects.
        thread_ids: Whether spans have the id of the thread.
    """

    def __init__(self, tracer: Tracer, steps: Steps, *, thread_ids: bool) -> None:
        self._tracer = tracer
        self._steps = steps
        self._thread_ids = thread_ids

    def end(self, event: CallEnded) -> Context | None:
        """Make the span of a call that has just ended.

        Returns:
            The context of the span, if it is recorded.
        """
        call, steps = call_of(event), self._steps.take(event.seconds)
        # clock: a span has the times at which the call began and ended
        now, wall = time.perf_counter(), time.time_ns()
        # The system may have stopped this thread since the end of the call. Its last effect ended just before.
        began = (steps[-1].end if steps else now) - event.seconds

        def at(moment: float) -> int:
            return wall + int((moment - now) * 1e9)

        span = self._tracer.start_span(f"{PREFIX}{call}", start_time=at(began))
        if not span.is_recording():
            return None
        span.set_attributes(self._attributes(event))
        for phase in phases(steps, began, writes=call in ("put", "put_writes")):
            span.add_event(phase.name, {SECONDS: phase.end - phase.begin}, at(phase.begin))
        if event.outcome == "failed":
            # No description, because messages name threads, and those of other libraries may contain state.
            span.set_status(Status(StatusCode.ERROR))
        span.end(at(began + event.seconds))
        return trace.set_span_in_context(span)

    def _attributes(self, event: CallEnded) -> dict[str, Any]:
        found: dict[str, Any] = dict(labels_of(event.labels))
        for name in FIELDS:
            value = getattr(event, name, None)
            if value not in (None, ""):
                found[f"{PREFIX}{name}"] = value
        if isinstance(event, (PutFailed, GetFailed)):
            found["error.type"] = error_type(event)
        if self._thread_ids:
            found[CONVERSATION] = event.thread_id
        return found
