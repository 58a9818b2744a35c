"""Metrics and traces of a saver, by OpenTelemetry."""
