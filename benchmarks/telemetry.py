"""What measuring a saver costs: the CPU time of a put with metrics, beside the same put without.

python -m benchmarks.telemetry [--runs N] [--turns N] [--json]

One saver is measured, with an in-memory reader, and one is not. They take turns on two threads that grow alike, and
each goes first as often as the other. The figures are CPU time of the process (`time.process_time`), so on the
emulators they are the client's. `added` is the median difference of a pair. `recorded` is what a collection needs for
each put, later and on the thread that collects. Uses the emulators that `FIRESTORE_EMULATOR_HOST` and
`STORAGE_EMULATOR_HOST` name, else starts its own, and the embedded store. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider

from benchmarks.chat import messages
from benchmarks.event_loop import emulators
from benchmarks.verify import Thread
from langgraph_gcs_saver import GCSSaver, telemetry

BAR = 0.01
"""The most that metrics may add to a put's CPU time."""

WARM = 20
"""Pairs that do not count."""


@dataclass
class Row:
    """What a call costs.

    Attributes:
        store: The store.
        measured: What is measured: `metrics`, or `metrics, spans`.
        without: Microseconds of CPU of a put that is not measured, median.
        added: Microseconds that the measuring adds, median of the pairs.
        ratio: `added` to `without`.
        recorded: Microseconds that a collection needs for each put.
        bar: The most that `ratio` may be; `None` if there is no bar.
    """

    store: str
    measured: str
    without: float
    added: float
    ratio: float
    recorded: float
    bar: float | None

    @property
    def is_missed(self) -> bool:
        return self.bar is not None and self.ratio > self.bar

    def __str__(self) -> str:
        bar = "" if self.bar is None else f"{self.bar:.0%}"
        return (
            f"| {self.store} | {self.measured} | {self.without:.0f} | {self.added:.1f} | {self.ratio:.2%} | {bar} | "
            f"{self.recorded:.0f} |{'  MISSED' if self.is_missed else ''}"
        )


def measure(store: str, uri: str, runs: int, turns: int, *, spans: bool) -> Row:
    """One store."""
    reader = InMemoryMetricReader()
    traces: Any = TracerProvider() if spans else NoOpTracerProvider()
    if spans:
        traces.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    with (
        GCSSaver.from_conn_string(uri) as plain,
        GCSSaver.from_conn_string(uri) as observed,
        telemetry.instrument(observed, MeterProvider([reader]), traces),
    ):
        talk = messages(2 * turns + WARM + runs)
        threads = [Thread(saver, f"{store} {which} {spans}") for which, saver in enumerate((plain, observed))]
        for thread in threads:
            thread.put(messages=talk[: 2 * turns], turn=0)
        seconds: tuple[list[float], list[float]] = ([], [])
        for run in range(WARM + runs):
            if run == WARM:
                reader.get_metrics_data()
            # The chat keeps its length, so that all pairs do the same work.
            chat = talk[run : run + 2 * turns]
            puts: list[Callable[[], None]] = [thread.next(messages=chat, turn=run) for thread in threads]
            gc.collect(0)
            for which in (0, 1) if run % 2 else (1, 0):
                begin = time.process_time()
                puts[which]()
                seconds[which].append(time.process_time() - begin)
        begin = time.process_time()
        reader.get_metrics_data()
        recorded = (time.process_time() - begin) / runs
    without = statistics.median(seconds[0][WARM:])
    added = statistics.median(mine - theirs for theirs, mine in zip(seconds[0][WARM:], seconds[1][WARM:], strict=True))
    name, bar = ("metrics, spans", None) if spans else ("metrics", BAR)
    return Row(store, name, without * 1e6, added * 1e6, added / without, recorded * 1e6, bar)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--turns", type=int, default=50, help="turns of the chat that is stored")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory, emulators() as google:
        for store, uri in (("Google", google), ("embedded", f"file://{Path(directory)}/store")):
            rows += [measure(store, uri, options.runs, options.turns, spans=spans) for spans in (False, True)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print("| store | measured | µs of a put | µs added | ratio | bar | µs recorded later |\n" + "|---" * 7 + "|")
        print("\n".join(map(str, rows)))
    return int(any(row.is_missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
