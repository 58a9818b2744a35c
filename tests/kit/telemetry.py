"""A saver's metrics and spans in memory."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langgraph_gcs_saver import telemetry
from langgraph_gcs_saver.telemetry.metrics import PREFIX


class Exported:
    """What a meter provider and a tracer provider export."""

    def __init__(self):
        self.reader, self.exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self.meters, self.tracers = MeterProvider([self.reader]), TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))

    def instrument(self, saver, **options):
        return telemetry.instrument(saver, self.meters, self.tracers, **options)

    def metrics(self):
        """The metrics by name, without `langgraph_gcs.`."""
        data = self.reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics[0].scope_metrics
        return {one.name.removeprefix(PREFIX): one for scope in found for one in scope.metrics}

    def points(self, name):
        """The points of a metric, each with its attributes: the value, or the number and sum of a histogram."""
        metric = self.metrics().get(name)
        points = [] if metric is None else metric.data.data_points
        return [
            (dict(point.attributes), (point.count, point.sum) if hasattr(point, "count") else point.value)
            for point in points
        ]

    def value(self, name, **attributes):
        """The only value of a counter or gauge that has these attributes; 0 if there is none."""
        found = [value for had, value in self.points(name) if attributes.items() <= had.items()]
        assert len(found) <= 1, found
        return found[0] if found else 0

    @property
    def spans(self):
        """The spans, without the prefix of their names, in the order in which they ended."""
        return [(one.name.removeprefix(PREFIX), one) for one in self.exporter.get_finished_spans()]

    def text(self):
        """Everything that is exported."""
        data = self.reader.get_metrics_data()
        return ("" if data is None else data.to_json()) + "".join(span.to_json() for _, span in self.spans)
