"""What each mode of `verify` costs per call, as a ratio to `off`, and in rounds and requests.

python -m benchmarks.verify [--runs N] [--turns N] [--json]

Uses the emulators that `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` name, else starts its own. The modes take
turns, so that whatever else the machine does meets all of them; a ratio is the median of those of single turns. On an
emulator a request takes a millisecond and the disk none: in the cloud rounds decide, and these are counted. Of
"pipelined", only what a call waits for is counted. The proofs that trail make the requests of "readback" later.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

from benchmarks.chat import messages
from benchmarks.event_loop import emulators
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Effect
from langgraph_gcs_saver.engine.interceptors import Perform, PerformAll
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

MODES = ("off", "checksum", "pipelined", "readback")
OBJECT_BYTES = 200_000


class Waited(CountingInterceptor):
    """Counts the requests that a call waits for, and not those of proofs that trail."""

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Count one effect."""
        return perform(effect) if _trails() else super().around(effect, perform)

    def around_all(self, effects: Sequence[Effect[Any]], perform: PerformAll) -> Sequence[Any]:
        """Count effects as one round."""
        return perform(effects) if _trails() else super().around_all(effects, perform)


def _trails() -> bool:
    return threading.current_thread().name.startswith("langgraph-gcs-proofs")


def take(count: CountingInterceptor) -> tuple[int, int]:
    """Return the number of rounds and of requests since the last time."""
    taken = len(count.rounds), count.requests.total()
    count.clear()
    return taken


class Thread:
    """A thread that grows by one checkpoint a call."""

    def __init__(self, saver: GCSSaver, name: str) -> None:
        self.saver = saver
        self.config: Any = {"configurable": {"thread_id": name, "checkpoint_ns": ""}}
        self.versions: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def put(self, **changed: Any) -> None:
        """Store the next checkpoint."""
        self.next(**changed)()

    def next(self, **changed: Any) -> Callable[[], None]:
        """Make the next checkpoint, as LangGraph would; what this returns stores it."""
        self.values |= changed
        for channel in changed:
            self.versions[channel] = self.saver.get_next_version(self.versions.get(channel), None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = dict(self.values)
        checkpoint["channel_versions"] = dict(self.versions)
        metadata: Any = {"source": "loop", "step": 1, "parents": {}}
        new: Any = {channel: self.versions[channel] for channel in changed}

        def put() -> None:
            self.config = self.saver.put(self.config, checkpoint, metadata, new)

        return put


def cases(saver: GCSSaver, mode: str, turns: int, runs: int) -> dict[str, Callable[[int], None]]:
    """The calls to measure, each of which takes the number of the run."""
    talk = messages(2 * turns + runs)
    chat, large, pending = (Thread(saver, f"{mode}, {name}") for name in ("chat", "large", "pending"))
    chat.put(messages=talk[: 2 * turns], turn=0)
    large.put(turn=0)
    pending.put(turn=0)

    def write(run: int) -> None:
        saver.put_writes(pending.config, [("messages", talk[run]), ("turn", run)], f"task {run}")

    return {
        f"put: a step of a chat of {turns} turns": lambda run: chat.put(messages=talk[: 2 * turns + run + 1], turn=run),
        f"put: an object of {OBJECT_BYTES // 1000} KB": lambda run: large.put(
            data=random.Random(run).randbytes(OBJECT_BYTES), turn=run
        ),
        "put_writes: two small writes": write,
    }


@dataclass
class Row:
    """One mode of one call.

    Attributes:
        call: What was called.
        verify: The mode.
        ms: Milliseconds, median.
        ratio: To `off`, median of those of single runs.
        rounds: Requests one after another.
        requests: Requests in all.
    """

    call: str
    verify: str
    ms: float
    ratio: float
    rounds: int
    requests: int

    def __str__(self) -> str:
        return f"| {self.call} | {self.verify} | {self.ms:.2f} | {self.ratio:.2f} | {self.rounds} | {self.requests} |"


def measure(uri: str, runs: int, turns: int) -> list[Row]:
    """All calls in all modes, by turns."""
    with ExitStack() as stack:
        counts = {mode: Waited() for mode in MODES}
        savers = {
            mode: stack.enter_context(GCSSaver.from_conn_string(uri, verify=mode, interceptors=[count]))
            for mode, count in counts.items()
        }
        calls = {mode: cases(saver, mode, turns, runs + WARM) for mode, saver in savers.items()}
        names = list(calls[MODES[0]])
        seconds: dict[tuple[str, str], list[float]] = {(name, mode): [] for name in names for mode in MODES}
        taken: dict[tuple[str, str], tuple[int, int]] = {}
        for run in range(runs + WARM):
            for name in names:
                # Each run begins with another mode.
                for mode in (MODES[(run + turn) % len(MODES)] for turn in range(len(MODES))):
                    counts[mode].clear()
                    begin = time.perf_counter()
                    calls[mode][name](run)
                    seconds[name, mode].append(time.perf_counter() - begin)
                    taken[name, mode] = take(counts[mode])
    rows = []
    for name in names:
        off = seconds[name, MODES[0]][WARM:]
        for mode in MODES:
            own = seconds[name, mode][WARM:]
            ratio = statistics.median(mine / theirs for mine, theirs in zip(own, off, strict=True))
            rows.append(Row(name, mode, statistics.median(own) * 1000, ratio, *taken[name, mode]))
    return rows


WARM = 5
"""Runs that do not count: they open connections."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--turns", type=int, default=100, help="turns of the chat before the first step")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    with emulators() as uri:
        rows = measure(uri, options.runs, options.turns)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print("| call | verify | ms | ratio to off | rounds | requests |\n|---|---|---|---|---|---|")
        print("\n".join(map(str, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
