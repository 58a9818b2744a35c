"""Makes docs/reference/metrics.md of the table of metrics: `python -m tests.docs.metrics > …`."""

from __future__ import annotations

import sys

from langgraph_gcs_saver.telemetry.instrumentation import MOST_EVENTS, MOST_REQUESTS
from langgraph_gcs_saver.telemetry.metrics import BYTES, LONG_SECONDS, METRICS, PREFIX, SECONDS, Metric
from langgraph_gcs_saver.telemetry.phases import PHASES
from langgraph_gcs_saver.telemetry.spans import CONVERSATION, FIELDS
from langgraph_gcs_saver.telemetry.spans import SECONDS as PHASE_SECONDS

_HEAD = """\
<!-- Generated from langgraph_gcs_saver/telemetry: python -m tests.docs.metrics > docs/reference/metrics.md -->

# Metrics and spans

`telemetry.instrument(saver)` measures a saver by OpenTelemetry.
[Monitor in production](../guides/monitor-in-production.md) says how to set up an SDK.

::: langgraph_gcs_saver.telemetry.instrument

## Metrics

Each name begins with `langgraph_gcs.`. `label.*` stands for the labels that the option [`labels`](options.md) names.
The last column has the names in Prometheus.

| metric | kind | unit | attributes | what it measures | in Prometheus |
|---|---|---|---|---|---|
"""

_ATTRIBUTES = """
| attribute | values |
|---|---|
| `call` | `put`, `put_writes`, `get_tuple`, `list`, `get_delta_channel_history` |
| `outcome` | the `outcome` of a [`CallEnded`](events.md), or of a [`RunEnded`](events.md) |
| `namespace` | names of the nodes that lead to a subgraph, such as `extract\\|inner`; empty for the root graph |
| `error.type` | the `kind` of an [error](errors.md) of this library, else the name of the exception's class |
| `service` | `firestore` or `storage`, for the embedded store too |
| `method` | the class of an [effect](interceptors.md), such as `Commit` or `PutBlob` |

A process distinguishes 50 namespaces, 50 types of errors, and 50 values of each label. All further ones are `other`. No
attribute has the id of a thread, a checkpoint or a run.

"""

_BUCKETS = """
Histograms of times have buckets from {seconds}, `run.duration` and `recovery.lost` from {long}, and sizes from {bytes}.
A view of your SDK can choose others.

The prices of `cost.estimated` are list prices, in `policy/prices.py`. A `GetDocs` is billed for each name, and a query
for each document and at least one. On the embedded store, the requests are counted as if Google Cloud had performed
them.

At most {events:,} events and {requests:,} requests wait for a collection. With more, each call records older ones
itself, so none is lost.

## Spans

Each call has a span, a child of the span that is current: `{prefix}put`, `{prefix}put_writes`,
`{prefix}get_tuple`, `{prefix}list` for each page, and `{prefix}get_delta_channel_history`. A span is made when the call
has ended. A call that raised has the status `ERROR` and the attribute `error.type`. No message of an exception is
exported.

| attribute | what it is |
|---|---|
"""

_PHASES = """
Phases are events of the span. The attribute `{seconds}` says how long each took. A call that tried again has some of
them twice.

| event | what happens |
|---|---|
"""


def row(metric: Metric) -> str:
    """A metric's row."""
    names = [f"`{name}`" for name in metric.attributes] + ["`label.*`"] * metric.labels
    return (
        f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | {', '.join(names)} | {metric.help} | "
        f"`{metric.prometheus}` |\n"
    )


def span(seconds: float) -> str:
    """A number of seconds for people."""
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def page() -> str:
    """The whole page."""
    rows = "".join(map(row, METRICS))
    rows_of_spans = "".join(f"| `{PREFIX}{name}` | {what} |\n" for name, what in FIELDS.items())
    more = (
        "| `error.type` | as for metrics |\n"
        "| `label.*` | the labels |\n"
        f"| `{CONVERSATION}` | the thread, only with `thread_ids=True` |\n"
    )
    buckets = _BUCKETS.format(
        seconds=f"{span(SECONDS[0])} to {span(SECONDS[-1])}",
        long=f"{span(LONG_SECONDS[0])} to {LONG_SECONDS[-1] / 86400:g} day",
        bytes=f"{BYTES[0]:g} B to {BYTES[-1] / 1e9:g} GB",
        events=MOST_EVENTS,
        requests=MOST_REQUESTS,
        prefix=PREFIX,
    )
    phases = "".join(f"| `{name}` | {what} |\n" for name, what in PHASES.items())
    return (
        (_HEAD + rows + _ATTRIBUTES.rstrip("\n") + "\n" + buckets + rows_of_spans + more)
        + _PHASES.format(seconds=PHASE_SECONDS)
        + phases
    )


if __name__ == "__main__":
    sys.stdout.write(page())
