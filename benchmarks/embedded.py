"""The embedded store beside `SqliteSaver`: how long each call takes, the two in turn in one process.

python -m benchmarks.embedded [--runs N] [--directory DIR] [--json]

Both keep an SQLite file with a write-ahead log, and sync it in each commit, so the directory should be on a disk. All
calls are made on one thread beside the main thread, as LangGraph makes those of `put` and `put_writes`. Each figure is
the median of all turns, and each ratio is the median of the ratios of single turns. The time includes the wait for the
disk. The processor time is that of the thread, and shows what the disk hides. Exit code 1 when a ratio of times misses
its bar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver

from benchmarks.chat import messages
from benchmarks.compare.workloads import task
from langgraph_gcs_saver import GCSSaver

BAR = 1.5
"""The most time of a call, as a multiple of `SqliteSaver`'s."""

WARM = 20
"""Turns that do not count."""

MESSAGES = (5, 100)
"""Messages in the state."""

CALLS = ("put", "put_writes", "get_tuple")


@dataclass
class Pair:
    """What a call of the embedded store takes, and the same call of `SqliteSaver`.

    Attributes:
        ours: Milliseconds of the embedded store.
        theirs: Milliseconds of `SqliteSaver`.
        ratio: The first to the second.
    """

    ours: float
    theirs: float
    ratio: float

    @classmethod
    def of(cls, ours: list[float], theirs: list[float]) -> Pair:
        """The medians of pairs of seconds."""
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        return cls(statistics.median(ours) * 1000, statistics.median(theirs) * 1000, ratio)

    def __str__(self) -> str:
        return f"{self.theirs:.3f} ms | {self.ours:.3f} ms | {self.ratio:.2f}x"


@dataclass
class Figure:
    """A row of the table.

    Attributes:
        call: The method, and the messages in the state.
        elapsed: The time of the call.
        processor: The processor time.
    """

    call: str
    elapsed: Pair
    processor: Pair

    def __str__(self) -> str:
        missed = "  MISSED" if self.elapsed.ratio > BAR else ""
        return f"| {self.call} | {self.elapsed} | {self.processor} |{missed}"


class Chat:
    """A thread of one saver. Each checkpoint has another message at the end."""

    def __init__(self, saver: Any, length: int, talk: list[Any]) -> None:
        self._saver = saver
        self._length = length
        self._talk = talk
        self._at: Any = {"configurable": {"thread_id": f"chat-{length}", "checkpoint_ns": ""}}
        self._thread = self._at
        self._version: Any = None
        self._step = 0

    def turn(self) -> dict[str, tuple[float, float]]:
        """Store a checkpoint and pending writes, and read both; the seconds of each call, and its processor seconds."""
        self._step += 1
        # As many messages in each turn, so that all turns measure the same.
        said = [*self._talk[: self._length - 1], self._talk[self._length + self._step]]
        self._version = self._saver.get_next_version(self._version, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": said, "turn": self._step}
        checkpoint["channel_versions"] = dict.fromkeys(checkpoint["channel_values"], self._version)
        metadata: Any = {"source": "loop", "step": self._step, "parents": {}}
        versions = dict(checkpoint["channel_versions"])

        def put() -> None:
            self._at = self._saver.put(self._at, checkpoint, metadata, versions)

        def put_writes() -> None:
            self._saver.put_writes(self._at, [("messages", said[-1:]), ("turn", self._step)], task(self._step))

        def get_tuple() -> None:
            found = self._saver.get_tuple(self._thread)
            assert found.config == self._at
            assert len(found.pending_writes) == 2

        return {name: _timed(call) for name, call in zip(CALLS, (put, put_writes, get_tuple), strict=True)}


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    began, worked = time.perf_counter(), time.thread_time()
    call()
    return time.perf_counter() - began, time.thread_time() - worked


def measure(directory: Path, runs: int) -> list[Figure]:
    """The figures of all calls."""
    found = []
    talk = messages(max(MESSAGES) + runs + WARM + 1)
    with ExitStack() as stack:
        theirs = stack.enter_context(SqliteSaver.from_conn_string(str(directory / "checkpoints.sqlite")))
        ours = stack.enter_context(GCSSaver.from_conn_string(f"file://{directory / 'embedded'}"))
        for length in MESSAGES:
            chats = [Chat(saver, length, talk) for saver in (ours, theirs)]
            turns = [[chat.turn() for chat in chats] for _ in range(runs + WARM)][WARM:]
            for call in CALLS:
                elapsed, processor = (
                    Pair.of(*([turn[side][call][clock] for turn in turns] for side in (0, 1))) for clock in (0, 1)
                )
                found.append(Figure(f"{call}, {length} messages", elapsed, processor))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--directory", type=Path, help="where the files are; by default, where temporary files are")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory, ThreadPoolExecutor(1) as beside:
        figures = beside.submit(measure, Path(directory).absolute(), options.runs).result()
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=1))
    else:
        print("| call | SqliteSaver | embedded store | ratio | SqliteSaver, CPU | embedded store, CPU | ratio |")
        print("|---|---|---|---|---|---|---|")
        print("\n".join(map(str, figures)))
    return int(any(figure.elapsed.ratio > BAR for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
