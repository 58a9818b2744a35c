"""What a lease costs: puts and parallel pending writes with a lease, beside the same without one.

python -m benchmarks.leases [--runs N] [--store URI] [--json]

Uses the emulators that `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` name, else starts its own; or the store of
`--store`. A call with a lease and one without take turns, on two threads that grow alike. A ratio is that of the two
medians. The lease is acquired before, and its beats run in the background. The last row is how long a call waits for
the lease of a holder that fell silent: from its first look to its first commit. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.chat import messages
from benchmarks.event_loop import emulators
from benchmarks.verify import Thread
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Effect, GetDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import leases
from langgraph_gcs_saver.saver.lease import MIN_TTL, Lease
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

TURNS = 20
"""Turns of the chat before the measured puts."""

WARM = 10
"""Calls that do not count."""

TASKS = 16
"""Tasks that write at the same time."""


@dataclass
class Bar:
    """A figure with a lease and without one, and what the former must not exceed."""

    measure: str
    without: float | None
    leased: float
    most: float

    def __str__(self) -> str:
        missed = "  MISSED" if self.leased > self.most else ""
        without = "" if self.without is None else f"{self.without:.4g}"
        return f"| {self.measure} | {without} | {self.leased:.4g} | {self.most:.4g} |{missed}"


class Writes(Interceptor):
    """Counts the writes of commits."""

    def __init__(self) -> None:
        self.count = 0

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        if isinstance(effect, Commit):
            self.count += len(effect.writes)
        return perform(effect)


class Stopwatch(Interceptor):
    """Notes how long each read and each commit took, and when it ended."""

    def __init__(self) -> None:
        self.rounds: list[tuple[bool, float, float]] = []

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        begin = time.perf_counter()
        answer = perform(effect)
        if isinstance(effect, (Commit, GetDocs)):
            end = time.perf_counter()
            self.rounds.append((isinstance(effect, Commit), end - begin, end))
        return answer


class Leased(Thread):
    """A thread whose puts are made under a lease. The config that `put` returns has none."""

    def __init__(self, saver: GCSSaver, name: str, lease: Lease) -> None:
        super().__init__(saver, name)
        self.lease = lease

    @property
    def config(self) -> Any:
        """The config of the next put."""
        return {"configurable": {**self._config["configurable"], **self.lease.config["configurable"]}}

    @config.setter
    def config(self, found: Any) -> None:
        self._config = found


def taking_turns(one: Callable[[int], object], other: Callable[[int], object], runs: int) -> tuple[float, float]:
    """The median times of two calls that take turns, each first as often as the other."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM + runs):
        for which in (0, 1) if turn % 2 else (1, 0):
            begin = time.perf_counter()
            (one, other)[which](turn)
            times[which].append(time.perf_counter() - begin)
    first, second = (statistics.median(found[WARM:]) * 1000 for found in times)
    return first, second


def measure(uri: str, runs: int) -> list[Bar]:
    """All figures on one store."""
    counting, writes = CountingInterceptor(), Writes()
    with (
        GCSSaver.from_conn_string(uri, interceptors=[counting, writes]) as counted,
        GCSSaver.from_conn_string(uri, max_threads=2 * TASKS) as saver,
        counted.thread("counted, leased").lease() as counted_lease,
        saver.thread("leased").lease() as lease,
        ThreadPoolExecutor(TASKS) as pool,
    ):
        talk = messages(2 * TURNS + WARM + runs + 2)

        def puts(thread: Thread) -> Callable[[int], object]:
            thread.put(messages=talk[: 2 * TURNS], turn=0)
            return lambda run: thread.put(messages=talk[: 2 * TURNS + run + 1], turn=run + 1)

        def fan_out(thread: Thread) -> Callable[[int], object]:
            def write(run: int, task: int) -> None:
                thread.saver.put_writes(thread.config, [("messages", talk[run]), ("turn", run)], f"{run} {task}")

            return lambda run: [done.result() for done in [pool.submit(write, run, task) for task in range(TASKS)]]

        def requests(thread: Thread) -> tuple[Counter[str], int, int]:
            put = puts(thread)
            put(0)
            counting.clear()
            writes.count = 0
            put(1)
            return counting.requests, len(counting.rounds), writes.count

        plain = requests(Thread(counted, "counted"))
        with_lease = requests(Leased(counted, "counted, leased", counted_lease))
        one, other = Thread(saver, "plain"), Leased(saver, "leased", lease)
        put = taking_turns(puts(one), puts(other), runs)
        fan = taking_turns(fan_out(one), fan_out(other), max(1, runs // 4))
        return [
            Bar("put: requests", plain[0].total(), with_lease[0].total(), plain[0].total()),
            Bar("put: rounds", plain[1], with_lease[1], plain[1]),
            Bar("put: writes", plain[2], with_lease[2], plain[2] + 1),
            Bar("put: median ms", *put, 1.1 * put[0]),
            Bar(f"{TASKS} put_writes at the same time: median ms", *fan, 1.5 * fan[0]),
        ]


def takeover(uri: str) -> Bar:
    """The seconds from the first look at a silent holder to the first commit of who replaces it."""
    watch = Stopwatch()
    with (
        GCSSaver.from_conn_string(uri) as silent,
        GCSSaver.from_conn_string(uri, interceptors=[watch]) as saver,
    ):
        with saver.thread("connected").lease():
            pass
        # By the flow, because a `Lease` would send beats.
        request = leases.Acquire("silent", "silent", "a nonce", MIN_TTL)
        run(leases.acquire(request, silent._context), silent._backend)
        watch.rounds.clear()
        with saver.thread("silent").lease(wait=10 * MIN_TTL):
            pass
    looked = watch.rounds[0][2]
    committed = next(end for is_commit, _, end in watch.rounds if is_commit)
    slowest = max(seconds for _, seconds, _ in watch.rounds)
    return Bar("takeover from a silent holder: seconds", None, committed - looked, MIN_TTL + 2 * slowest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--store", metavar="URI", help="the store to use, instead of the emulators")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    with ExitStack() as stack:
        uri = options.store or stack.enter_context(emulators())
        bars = [*measure(uri, options.runs), takeover(uri)]
    if options.json:
        print(json.dumps([asdict(bar) for bar in bars], indent=1))
    else:
        print("| measure | without | with a lease | at most |\n|---|---|---|---|")
        print("\n".join(map(str, bars)))
    return int(any(bar.leased > bar.most for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
