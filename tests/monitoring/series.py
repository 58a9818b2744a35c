"""Real measurements on a simulated axis of time: what OpenTelemetry's SDK has collected, as series of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import groupby
from typing import NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, NumberDataPoint, Sum
from opentelemetry.trace import NoOpTracerProvider

from langgraph_gcs_saver import GCSSaver, telemetry
from langgraph_gcs_saver.monitoring import Names

_PROCESS = {"job": "agents", "instance": "1"}
"""What a scrape adds."""

_UNITS = {"s": "_seconds", "By": "_bytes"}
"""Suffixes of units, by https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/."""


class Series(NamedTuple):
    """A series.

    Attributes:
        prometheus: Its name as Prometheus has it.
        otlp: Its name as telemetry.googleapis.com has it.
        labels: Its labels, as in PromQL. No alert names one with a dot, which Prometheus 2 could not read.
    """

    prometheus: str
    otlp: str
    labels: str

    def written(self, names: Names) -> str:
        """As promtool reads it."""
        name = self.prometheus if names == "prometheus" else self.otlp
        return f'{{__name__="{name}",{self.labels}}}'


class Recording:
    """What savers have measured, at some minutes of the simulated axis. Between two of them, nothing changes."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self._seen: list[tuple[int, Mapping[Series, float]]] = []

    def watch(self, saver: GCSSaver, watch_store: timedelta | None) -> GCSSaver:
        """Measure a saver, too."""
        telemetry.instrument(saver, self._meters, NoOpTracerProvider(), watch_store=watch_store)
        return saver

    def now(self) -> dict[Series, float]:
        """Collect the present values, by series."""
        found = self._reader.get_metrics_data()
        metrics = (
            metric
            for resource in ([] if found is None else found.resource_metrics)
            for scope in resource.scope_metrics
            for metric in scope.metrics
        )
        return {series: value for metric in metrics for series, value in _samples(metric)}

    def at(self, minute: int) -> None:
        """Put the present values at a minute."""
        self._seen.append((minute, self.now()))

    def ended(self, minute: int) -> None:
        """Let no process measure anything from a minute on."""
        self._seen.append((minute, {}))

    def series(self, minutes: int, step: int = 1) -> dict[Series, str]:
        """Values in promtool's notation, from minute 0 on.

        Args:
            minutes: The last minute.
            step: Minutes between two values.
        """
        names = dict.fromkeys(series for _, values in self._seen for series in values)
        places = [self._values(minute) for minute in range(0, minutes + 1, step)]
        return {
            name: " ".join(
                _repeated(value, len(list(same))) for value, same in groupby(place.get(name) for place in places)
            )
            for name in names
        }

    def _values(self, minute: int) -> Mapping[Series, float]:
        return next((values for at, values in reversed(self._seen) if at <= minute), {})


def _repeated(value: float | None, times: int) -> str:
    return " ".join(["_"] * times) if value is None else f"{value!r}+0x{times - 1}"


def _samples(metric: Metric) -> Iterator[tuple[Series, float]]:
    """The series of a metric, with their values."""
    is_sum = isinstance(metric.data, Sum) and metric.data.is_monotonic
    plain = metric.name.replace(".", "_") + _UNITS.get(metric.unit or "", "") + ("_total" if is_sum else "")

    def series(part: str, labels: Mapping[str, str]) -> Series:
        pairs = ",".join(f"{key}={json.dumps(value)}" for key, value in sorted({**_PROCESS, **labels}.items()))
        return Series(plain + part, metric.name + part, pairs)

    for point in metric.data.data_points:
        labels = {re.sub(r"\W", "_", key): str(value) for key, value in (point.attributes or {}).items()}
        if isinstance(point, NumberDataPoint):
            yield series("", labels), point.value
        elif isinstance(point, HistogramDataPoint):
            yield series("_sum", labels), point.sum
            yield series("_count", labels), point.count
            bounds = [*(f"{bound:g}" for bound in point.explicit_bounds), "+Inf"]
            for number, bound in enumerate(bounds, 1):
                yield series("_bucket", {**labels, "le": bound}), sum(point.bucket_counts[:number])
        else:
            raise TypeError(f"{metric.name} has points of an unknown kind")
