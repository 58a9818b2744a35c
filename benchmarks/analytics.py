"""Whether a sink of analytics slows puts: 5,000 events a second, with it and without it.

python -m benchmarks.analytics [--seconds N] [--rate N] [--store emulators|local] [--sink jsonl|dead] [--json]

Short windows with and without the sink take turns. In both, one thread stores checkpoints, and reports further events
between two puts, so that there are 5,000 a second. Only puts are timed: how long they take, and how much time of the
processor their thread takes, which other processes of the machine disturb less. A ratio is the median of the ratios of
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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from benchmarks.event_loop import emulators
from langgraph_gcs_saver import GCSSaver, analytics
from langgraph_gcs_saver.events import CheckpointLoaded, Event

WINDOW = 2.0
"""Seconds of a window."""

BAR = 1.01
"""The most that put's median may be, compared with that of the window without a sink."""

CHANNELS = 2

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


class Window:
    """What was measured in a window: seconds of puts, and how many events were reported besides those of puts."""

    def __init__(self) -> None:
        self.wall = list[float]()
        self.cpu = list[float]()
        self.reported = 0

    @property
    def rows(self) -> int:
        """A put makes a row of its own, and one for each of its channels."""
        return self.reported + len(self.wall) * (1 + CHANNELS)


def window(saver: GCSSaver, thread: str, seconds: float, rate: int, events: list[Event]) -> Window:
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    found, step = Window(), 0
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
        before = time.perf_counter(), time.thread_time()
        config = saver.put(config, checkpoint, metadata, versions)
        found.wall.append(time.perf_counter() - before[0])
        found.cpu.append(time.thread_time() - before[1])
        step += 1
        while found.reported + step < now * rate:
            saver._subscribers.emit(events[found.reported % len(events)])
            found.reported += 1
    return found


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
    with tempfile.TemporaryDirectory() as name, sinks(kind, Path(name)) as sink, ExitStack() as stack:
        uri = stack.enter_context(emulators()) if store == "emulators" else f"file://{name}/store"
        pairs = list[dict[str, Window]]()
        kilobytes = list[int]()
        with GCSSaver.from_conn_string(uri) as saver:
            window(saver, "warm", WINDOW, rate, events)
            for n in range(max(1, round(seconds / WINDOW))):
                pair = {}
                for arm in ("without", "with") if n % 2 else ("with", "without"):
                    end = saver.subscribe(sink) if arm == "with" else None
                    pair[arm] = window(saver, f"{arm}-{n}", WINDOW, rate, events)
                    if end is not None:
                        kilobytes.append(_rss())
                        end()
                        sink.flush(60 if kind == "jsonl" else 0)
                pairs.append(pair)
        sink.close(1)
        made = [pair["with"] for pair in pairs]
        return {
            **{f"{name}_ratio": statistics.median(ratios(pairs, name)) for name in ("wall", "cpu")},
            **{f"{name}_quartiles": statistics.quantiles(ratios(pairs, name)) for name in ("wall", "cpu")},
            **{f"{name}_median_us": {arm: median(pairs, arm, name) for arm in pairs[0]} for name in ("wall", "cpu")},
            **{f"{name}_p99_us": {arm: p99(pairs, arm, name) for arm in pairs[0]} for name in ("wall", "cpu")},
            "puts": sum(len(one.wall) for one in made),
            "events_per_second": sum(len(one.wall) + one.reported for one in made) / (len(made) * WINDOW),
            "rows": sum(one.rows for one in made),
            "written": sink.written,
            "dropped": sink.dropped,
            "rss_mib": [round(kilobytes[0] / 1024), round(kilobytes[-1] / 1024)],
            "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def ratios(pairs: list[dict[str, Window]], name: str) -> list[float]:
    return [
        statistics.median(getattr(pair["with"], name)) / statistics.median(getattr(pair["without"], name))
        for pair in pairs
    ]


def median(pairs: list[dict[str, Window]], arm: str, name: str) -> float:
    return statistics.median(one for pair in pairs for one in getattr(pair[arm], name)) * 1e6


def p99(pairs: list[dict[str, Window]], arm: str, name: str) -> float:
    return statistics.quantiles([one for pair in pairs for one in getattr(pair[arm], name)], n=100)[98] * 1e6


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analytics", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--store", choices=("emulators", "local"), default="emulators")
    parser.add_argument("--sink", choices=("jsonl", "dead"), default="jsonl")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.seconds, given.rate, given.store, given.sink)
    print(json.dumps(found) if given.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
    if found["wall_ratio"] > BAR or found["written"] + found["dropped"] != found["rows"]:
        sys.exit("A bar is missed.")


if __name__ == "__main__":
    main()
