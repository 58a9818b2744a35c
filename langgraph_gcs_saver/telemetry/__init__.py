"""Metrics and traces of a saver, by OpenTelemetry, and what can be seen of its puts without it.

`instrument` needs the extra `otel`. Only the API of OpenTelemetry is imported, and only by `instrument`. The
application chooses an SDK and exporters. A saver that is not instrumented measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.errors.extras import require

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from langgraph_gcs_saver.saver.admin import Admin
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.telemetry.instrumentation import Instrumentation

__all__ = ["instrument", "watch_channels"]


def instrument(
    saver: GCSSaver | Admin,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
    *,
    watch_store: timedelta | None = None,
    thread_ids: bool = False,
) -> Instrumentation:
    """Measure a saver from now on: metrics `langgraph_gcs.*`, and a span for each call of LangGraph.

        with telemetry.instrument(saver):
            graph.invoke(inputs, config)

    `docs/reference/metrics.md` lists the metrics and spans. The copies of the saver that LangGraph makes, and
    `saver.admin`, are measured with it. A forked process measures what it does itself. Metrics never have the id of a
    thread, a checkpoint or a run.

    A call only notes what it did. The values are recorded when metrics are collected, or when the saver is closed. At
    most 4,000 events and 20,000 requests wait for a collection. With more, each call records older ones.

    Args:
        saver: The saver or its `admin`.
        meter_provider: Where metrics go; OpenTelemetry's global provider if not given.
        tracer_provider: Where spans go; the global provider if not given. `NoOpTracerProvider()` for no spans.
        watch_store: How often to count the leases and runs of the whole store, for the gauges `leases` and `runs`. This
            reads the store, so only one worker of a store should do it.
        thread_ids: Whether spans have the thread's id, as `gen_ai.conversation.id`.

    Returns:
        A handle that ends this with `end`, or as a context manager.

    Raises:
        InvalidInputError: The saver is measured already, or an argument is of the wrong type or outside its range.
        NotInstalledError: OpenTelemetry is not installed.
    """
    require("otel", ("opentelemetry.metrics", "opentelemetry.trace"))
    from langgraph_gcs_saver.telemetry import instrumentation  # noqa: PLC0415 - it imports OpenTelemetry

    return instrumentation.begin(saver, meter_provider, tracer_provider, watch_store, thread_ids=thread_ids)


def watch_channels(saver: GCSSaver | Admin, *, checkpoints: int = 100) -> Callable[[], None]:
    """Report a `ChannelHeavy` event when one channel has stored most of the bytes of the latest checkpoints.

    That is at least half of the bytes, and on average at least 8 KiB for each checkpoint. What is smaller fits into the
    checkpoint's document. A saver that is not watched counts nothing.

    Args:
        saver: The saver.
        checkpoints: After how many checkpoints of this process the shares are compared. Counting then starts again.

    Returns:
        A function that ends this.

    Raises:
        InvalidInputError: The number is not positive.
    """
    from langgraph_gcs_saver.telemetry.channels import Channels  # noqa: PLC0415 - few processes need it

    if type(checkpoints) is not int or checkpoints < 1:
        raise InvalidInputError(f"checkpoints is {checkpoints!r}; it must be a positive integer.")
    return saver.subscribe(Channels(saver._subscribers, checkpoints))  # noqa: SLF001 - a feature of this package
