"""Whether a sink of analytics slows puts: 5,000 events a second, with it and without it.

python -m benchmarks.analytics [--seconds N] [--rate N] [--store memory|local] [--sink jsonl|dead] [--json]

Short windows with and without the sink take turns. In both, one thread stores checkpoints, and reports further events
between two puts, so that there are 5,000 a second. Only the puts are timed. The ratio is the median of the ratios of
single pairs of windows. `--sink dead` publishes to a service that accepts connections and never answers. Exit code 1
when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from langgraph_gcs_saver import GCSSaver, analytics
from langgraph_gcs_saver.analytics import rows
from langgraph_gcs_saver.events import CheckpointLoaded, Event

WINDOW = 2.0
"""Seconds of a window."""

BAR = 1.01
"""The most that put's median may be, compared with that of the window without a sink."""

STATE = {"messages": [{"role": "user", "content": f"message {n} " + "x" * 200} for n in range(20)]}


def event(n: int) -> Event:
    """An event that makes one row."""
    return CheckpointLoaded(
        thread_id=f"thread-{n % 500}",
        checkpoint_id=f"1f000000-0000-6000-8000-{n:012}",
        seconds=0.01,
        run_id=f"run-{n % 100}",
        outcome="loaded",
        channels=5,
        size=5000,
        inline_bytes=1000,
        object_bytes=0,
    )


def window(saver: GCSSaver, thread: str, seconds: float, rate: int, events: list[Event]) -> tuple[list[float], int]:
    """The seconds of each put, and how many events were reported besides those of puts."""
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    found, reported, step = list[float](), 0, 0
    begin = time.perf_counter()
    while (now := time.perf_counter() - begin) < seconds:
        checkpoint: Any = {
            **empty_checkpoint(),
            "id": str(uuid6(clock_seq=step)),
            "channel_values": {"messages": [*STATE["messages"], str(step)], "step": step},
            "channel_versions": {"messages": f"{step + 1:032}.0.1", "step": f"{step + 1:032}.0.1"},
        }
        metadata: Any = {"source": "loop", "step": step, "parents": {}}
        versions = checkpoint["channel_versions"]
        before = time.perf_counter()
        config = saver.put(config, checkpoint, metadata, versions)
        found.append(time.perf_counter() - before)
        step += 1
        due = int(now * rate) - reported - step
        for n in range(max(0, due)):
            saver._subscribers.emit(events[(reported + n) % len(events)])
        reported += max(0, due)
    return found, reported


@contextmanager
def sinks(kind: str, directory: Path) -> Iterator[Any]:
    if kind == "jsonl":
        yield analytics.Jsonl(directory / "rows.jsonl")
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        endpoint = "{}:{}".format(*listening.getsockname())
        yield analytics.PubSub("projects/project/topics/topic", endpoint=endpoint)


def measure(seconds: float, rate: int, store: str, kind: str) -> dict[str, Any]:
    events = [event(n) for n in range(5000)]
    with tempfile.TemporaryDirectory() as name, sinks(kind, Path(name)) as sink:
        uri = "memory:" if store == "memory" else f"file://{name}/store"
        made = 0

        def count(one: Event) -> None:
            nonlocal made
            made += rows.count(one)

        pairs, every, reported, kilobytes = [], {"with": list[float](), "without": list[float]()}, 0, list[int]()
        with GCSSaver.from_conn_string(uri) as saver:
            window(saver, "warm", WINDOW, rate, events)
            for n in range(max(1, round(seconds / WINDOW))):
                times = {}
                for arm in ("without", "with") if n % 2 else ("with", "without"):
                    ends = [saver.subscribe(one) for one in (sink, count)] if arm == "with" else []
                    found, extra = window(saver, f"{arm}-{n}", WINDOW, rate, events)
                    times[arm] = statistics.median(found)
                    every[arm] += found
                    if arm == "with":
                        reported += len(found) + extra
                        kilobytes.append(_rss())
                    for end in ends:
                        end()
                    if arm == "with" and kind == "jsonl":
                        sink.flush(60)
                pairs.append(times["with"] / times["without"])
        sink.close(1)
        return {
            "ratio": statistics.median(pairs),
            "pairs": sorted(pairs),
            "median_us": {arm: statistics.median(found) * 1e6 for arm, found in every.items()},
            "p99_us": {arm: statistics.quantiles(found, n=100)[98] * 1e6 for arm, found in every.items()},
            "events_per_second": reported / (len(pairs) * WINDOW),
            "rows": made,
            "written": sink.written,
            "dropped": sink.dropped,
            "rss_mib": [round(kilobytes[0] / 1024), round(kilobytes[-1] / 1024)],
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analytics", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--store", choices=("memory", "local"), default="local")
    parser.add_argument("--sink", choices=("jsonl", "dead"), default="jsonl")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.seconds, given.rate, given.store, given.sink)
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    if found["ratio"] > BAR or found["written"] + found["dropped"] != found["rows"]:
        sys.exit("A bar is missed.")


if __name__ == "__main__":
    main()
