"""PromQL expressions over the metrics of the table, in either of the names that Cloud Monitoring knows them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.telemetry.metrics import Metric

Names = Literal["prometheus", "otlp"]
"""How metrics came to Cloud Monitoring, which decides their names.

- `prometheus`: through Prometheus, Managed Service for Prometheus, or a collector's Prometheus exporter. They write
  `langgraph_gcs_put_duration_seconds`, by https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/.
- `otlp`: through telemetry.googleapis.com, which keeps `langgraph_gcs.put.duration` and adds neither a unit nor
  `_total` (https://docs.cloud.google.com/stackdriver/docs/otlp-metrics/overview).
"""

NAMES: tuple[Names, ...] = ("prometheus", "otlp")

Part = Literal["", "_bucket", "_sum", "_count"]
"""Which series of a histogram; empty for a counter or a gauge."""

_UNITS = (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def span(seconds: int) -> str:
    """A length of time in PromQL, in the largest unit that divides it."""
    return next(f"{seconds // size}{unit}" for unit, size in _UNITS if seconds % size == 0)


@record(frozen=True, slots=True)
class Dialect:
    """How series and labels are named.

    Attributes:
        names: See `Names`.
    """

    names: Names

    def series(self, metric: Metric, part: Part = "", match: Mapping[str, str] | None = None) -> str:
        """A selector of a metric's series.

        A name with dots is an exact matcher of `__name__`, because Cloud Monitoring matches names exactly
        (https://docs.cloud.google.com/stackdriver/docs/managed-prometheus/promql-differences), and because Prometheus
        2 has no quoted names.

        Args:
            metric: The metric.
            part: Which of a histogram's series.
            match: Attributes and their values.
        """
        matchers = [f'{self.label(name)}="{value}"' for name, value in (match or {}).items()]
        if self.names == "prometheus":
            return f"{metric.prometheus}{part}" + (f"{{{','.join(matchers)}}}" if matchers else "")
        return "{" + ",".join([f'__name__="{metric.full_name}{part}"', *matchers]) + "}"

    def label(self, attribute: str) -> str:
        """The name of an attribute as a label."""
        if "." not in attribute:
            return attribute
        return attribute.replace(".", "_") if self.names == "prometheus" else f'"{attribute}"'

    def rate(self, metric: Metric, part: Part = "", by: Sequence[str] = (), window: int = 300) -> str:
        """How fast a counter grows, each second, for charts."""
        return f"sum{self.grouping(by)}(rate({self.series(metric, part)}[{span(window)}]))"

    def gauge(self, metric: Metric, by: Sequence[str] = ()) -> str:
        """The sum of a gauge over all processes."""
        return f"sum{self.grouping(by)}({self.series(metric)})"

    def grown(
        self,
        metric: Metric,
        part: Part = "",
        *,
        window: int,
        offset: int = 0,
        by: Sequence[str] = (),
        match: Mapping[str, str] | None = None,
    ) -> str:
        """By how much a counter has grown, its first value included.

        `increase` misses what a series begins with, and most counters begin with the event that they count: the first
        damaged checkpoint makes the series, with the value 1. So the whole value counts if the series is younger than
        the window.

        Args:
            metric: The counter or histogram.
            part: Which of a histogram's series.
            window: Over how many seconds.
            offset: How many seconds ago the window ended.
            by: Attributes to keep apart.
            match: Attributes and their values.
        """
        series = self.series(metric, part, match)
        ago = f" offset {span(offset)}" if offset else ""
        young = f"{series}{ago} unless {series} offset {span(window + offset)}"
        return f"sum{self.grouping(by)}(({young}) or increase({series}[{span(window)}]{ago}))"

    def quantile(self, share: float, metric: Metric, *, window: int, by: Sequence[str] = ()) -> str:
        """A quantile of a histogram."""
        return f"histogram_quantile({share:g}, {self.grown(metric, '_bucket', window=window, by=('le', *by))})"

    def grouping(self, by: Sequence[str]) -> str:
        """The clause that keeps attributes apart."""
        return f" by ({', '.join(map(self.label, by))}) " if by else ""


def dialect(names: Names) -> Dialect:
    """The dialect of some names.

    Raises:
        InvalidInputError: There are no such names.
    """
    if names not in NAMES:
        raise InvalidInputError(f"names is {names!r}; it must be one of {', '.join(map(repr, NAMES))}.")
    return Dialect(names)
