"""What a second region costs, how far it is behind, and how long it takes until a worker there continues.

python -m benchmarks.regions [--runs N] [--json]

Uses the emulators that `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` name, else starts its own. Both regions
are on one machine, so no figure has the time of a network between them. The figures of a lost region are those of
`langgraph-gcs demo regions`, with real processes. On the embedded store, the lost store cannot be reached either. The
time begins with SIGKILL and ends with the first checkpoint in the other region. It does not have the time that people
need to decide. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import io
import logging
import math
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.event_loop import emulators
from benchmarks.leases import Writes, taking_turns
from benchmarks.storage import report
from benchmarks.verify import Thread
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.demo.play_regions import LOST_AFTER, Region, story
from langgraph_gcs_saver.cli.demo.stage import Stage
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

FIRST_CHECKPOINT_SECONDS = 60
"""The most that may pass from the loss of a region to the first checkpoint in the other one."""

THREADS = 20
"""Threads that wait to be shipped when the primary changes."""


@dataclass
class Figure:
    """A figure, and what it must not exceed; infinity if it only informs."""

    measure: str
    value: float
    unit: str = ""
    bar: float = math.inf

    def __str__(self) -> str:
        bar = "" if math.isinf(self.bar) else f"{self.bar:g}{self.unit}"
        return f"| {self.measure} | {self.value:.3g}{self.unit} | {bar} |{'  MISSED' if self.value > self.bar else ''}"


def state(number: int) -> dict[str, Any]:
    """A small state that changes in each step."""
    return {"messages": [f"message {one}" for one in range(number)], "number": number}


def costs(east: str, west: str, single: str, runs: int) -> list[Figure]:
    """What a put takes in a store with a replica, and in one without."""
    counted: dict[str, tuple[int, int]] = {}
    for name, uri in (("single", single), ("primary", east)):
        count, writes = CountingInterceptor(), Writes()
        with GCSSaver.from_conn_string(uri, interceptors=[count, writes]) as saver:
            thread = Thread(saver, "counted")
            thread.put(**state(1))
            count.clear()
            writes.count = 0
            thread.put(**state(2))
            counted[name] = len(count.rounds), writes.count
    with (
        GCSSaver.from_conn_string(single) as plain,
        GCSSaver.from_conn_string(east) as primary,
        GCSSaver.from_conn_string(east, replica=west) as shipping,
    ):
        one, other, third = (Thread(saver, name) for saver, name in ((plain, "a"), (primary, "a"), (shipping, "b")))
        alone, replicated = taking_turns(
            lambda run: one.put(**state(run + 1)), lambda run: other.put(**state(run + 1)), runs
        )
        _, shipped = taking_turns(
            lambda run: one.put(**state(run + 1)), lambda run: third.put(**state(run + 1)), max(1, runs // 4)
        )
    rounds, writes_alone = counted["single"]
    return [
        Figure("put in a single region: writes", writes_alone),
        Figure("put with a replica: writes", counted["primary"][1], bar=writes_alone + 2),
        Figure("put with a replica: rounds", counted["primary"][0], bar=rounds),
        Figure("put in a single region: median", alone, " ms"),
        Figure("put with a replica that another process ships to: median", replicated, " ms"),
        Figure("put with `replica=`, which ships on the same processor: median", shipped, " ms"),
    ]


def lags(east: str, west: str, runs: int) -> list[Figure]:
    """How long after a put has returned its checkpoint is in the replica."""
    seconds = []
    with GCSSaver.from_conn_string(east, replica=west) as saver, GCSSaver.from_conn_string(west) as replica:
        thread = Thread(saver, "lag")
        for run in range(runs):
            thread.put(**state(run + 1))
            stored = time.perf_counter()
            wanted = thread.config["configurable"]["checkpoint_id"]
            while wanted not in replica.admin.checkpoint_ids(thread.config):
                time.sleep(0.002)
            seconds.append(time.perf_counter() - stored)
    return [
        Figure("lag of `replica=`, one put at a time: median", statistics.median(seconds), " s"),
        Figure("lag of `replica=`, one put at a time: most", max(seconds), " s"),
    ]


def planned(east: str, west: str) -> list[Figure]:
    """A planned failover while threads wait to be shipped, and back."""
    with GCSSaver.from_conn_string(east) as source, GCSSaver.from_conn_string(west) as target:
        for number in range(THREADS):
            Thread(source, f"planned {number}").put(**state(number))
        began = time.perf_counter()
        source.admin.failover(target)
        seconds = time.perf_counter() - began
        there = {one.thread_id for one in target.admin.threads()}
        lost = {one.thread_id for one in source.admin.threads()} - there
        target.admin.failover(source)
    return [
        Figure(f"planned failover, {THREADS} threads left to ship", seconds, " s"),
        Figure("planned failover: threads lost", len(lost), bar=0),
    ]


def lost(where: str, store: str, times: int) -> list[Figure]:
    """A region whose process is killed in the middle of a run, in the demo's story."""
    found = []
    for number in range(times):
        place = f"{store}/{number}" if store.startswith("file:") else store.replace("/bench?", f"/lost-{number}?")
        with tempfile.TemporaryDirectory() as folder:
            stage = Stage(place, "", Path(folder), Console(quiet=True, file=io.StringIO()))
            found.append(story(stage))
    failed = sum(not one["ok"] for one in found)
    took = max(one["seconds_to_first_checkpoint"] for one in found)
    missing = max(LOST_AFTER - one["shipped"] for one in found)
    return [
        Figure(
            f"region lost, {where}: SIGKILL to the first checkpoint in the other", took, " s", FIRST_CHECKPOINT_SECONDS
        ),
        Figure(f"region lost, {where}: steps that the other one does again", missing),
        Figure(f"region lost, {where}: stories with a statement that is not true", failed, bar=0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    logging.getLogger("langgraph_gcs_saver").setLevel(logging.ERROR)  # changes of roles are no surprise here
    with ExitStack() as stack:
        uri = stack.enter_context(emulators())
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        east, west = (Region.of(uri, name).store for name in ("east", "west"))
        with GCSSaver.from_conn_string(east) as source, GCSSaver.from_conn_string(west) as target:
            source.admin.replicate(target)
        figures = [
            *costs(east, west, Region.of(uri, "single").store, options.runs),
            *lags(east, west, max(1, options.runs // 2)),
            *planned(east, west),
            *lost("its store cannot be reached (embedded)", Path(directory).as_uri(), 3),
            *lost("its store is still there (emulators)", uri, 3),
        ]
    return report(figures, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
