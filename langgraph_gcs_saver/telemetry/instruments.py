"""The instruments of a meter provider, which all savers that it measures share.

The API cannot take back the callback of a gauge, and two instruments must not have one name. So each provider gets
its instruments once, and they ask the observers of all savers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from langgraph_gcs_saver.telemetry.measures import Attributes, Measured
from langgraph_gcs_saver.telemetry.metrics import METRICS, Metric

SCOPE, VERSION = "langgraph_gcs_saver", version("langgraph-gcs-saver")
"""The name and version of the instrumentation scope."""


class Observer(Protocol):
    """What a saver's telemetry offers to its instruments."""

    def drain(self, until: float) -> bool:
        """Record what has happened, until a time by the monotonic clock. Returns whether everything was recorded."""

    def gauges(self) -> Iterable[Measured]:
        """The present values of gauges."""


class Instruments:
    """The instruments of one meter provider."""

    def __init__(self, meter: Meter) -> None:
        self._counters: dict[Metric, Counter] = {}
        self._histograms: dict[Metric, Histogram] = {}
        self._observers: WeakValueDictionary[int, Observer] = WeakValueDictionary()
        for metric in METRICS:
            known = {"unit": metric.unit, "description": metric.help}
            if metric.kind == "counter":
                self._counters[metric] = meter.create_counter(metric.full_name, **known)
            elif metric.kind == "histogram":
                self._histograms[metric] = meter.create_histogram(
                    metric.full_name, explicit_bucket_boundaries_advisory=metric.boundaries, **known
                )
            else:
                meter.create_observable_gauge(metric.full_name, [partial(self._observe, metric)], **known)

    def observe(self, observer: Observer) -> None:
        """Ask an observer too, as long as it exists."""
        self._observers[id(observer)] = observer

    def remove(self, observer: Observer) -> None:
        """Ask an observer no more."""
        self._observers.pop(id(observer), None)

    def add(self, metric: Metric, value: float, attributes: Attributes) -> None:
        """Add a value to a counter."""
        self._counters[metric].add(value, attributes)

    def record(self, metric: Metric, value: float, attributes: Attributes, context: Context | None) -> None:
        """Record a value of a histogram.

        Args:
            metric: The histogram.
            value: The value.
            attributes: Its attributes.
            context: The context of the span that it belongs to.
        """
        self._histograms[metric].record(value, attributes, context)

    def _observe(self, metric: Metric, options: CallbackOptions) -> Iterator[Observation]:
        """The values of a gauge, over all observers.

        A collection calls this before it reads counters and histograms. So what has happened is recorded here.
        """
        until = time.monotonic() + options.timeout_millis / 1000
        found: dict[frozenset[tuple[str, str]], list[float]] = defaultdict(list)
        for reference in self._observers.valuerefs():  # a snapshot, because other threads may add observers
            observer = reference()
            if observer is not None:
                observer.drain(until)
                for one, value, attributes in observer.gauges():
                    if one is metric:
                        found[frozenset(attributes.items())].append(value)
        combine = max if metric.combine == "max" else sum
        for items, values in found.items():
            yield Observation(combine(values), dict(items))


_made: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


_global: list[Instruments] = []
"""Those of the global provider. They may be older than it: OpenTelemetry then makes them in it when it is set."""


def instruments_of(provider: MeterProvider) -> Instruments:
    """The instruments of a provider, made on first use."""
    found = _made.get(provider)
    if found is None:
        is_global = provider is get_meter_provider()
        if is_global and _global:
            return _global[0]
        found = _made.setdefault(provider, Instruments(provider.get_meter(SCOPE, VERSION)))
        if is_global:
            _global.append(found)
    return found
