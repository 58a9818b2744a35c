"""How much `cadence.Adaptive` costs beside fixed intervals, over simulated crashes.

python -m benchmarks.adaptive [--seed N] [--runs N] [--json]

A run works for 12 hours in steps of about 10 s. Storing takes 5 s. After a crash, 20 s pass, and the steps since the
last store run again. The crashes come from seeded traces: at a constant rate (exponential), early after each other
(Weibull, shape 0.6), in bursts, and with a rate that grows (drift). The overhead is the time beyond the work itself, in
percent of the work, as the mean of all runs.

The best fixed interval of a grid is found afterwards, for each trace. No one can know it before. A badly chosen one is
ten times longer or shorter. `Adaptive` begins with its defaults, or with the trace's true mean ("informed").
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from langgraph_gcs_saver import cadence
from langgraph_gcs_saver.cadence.policies import Policy, Progress

HOUR = 3600.0
WORK = 12 * HOUR
STEP = 10.0
STORE = 5.0
RESTORE = 20.0
MEAN = 2 * HOUR
"""Mean time between crashes of the traces with a constant mean."""

GRID = tuple(float(seconds) for seconds in (10, 20, 40, 60, 90, 130, 180, 240, 320, 450, 640, 900, 1300, 1800, 3600))

Trace = Callable[[random.Random], Iterator[float]]


def exponential(source: random.Random) -> Iterator[float]:
    now = 0.0
    while True:
        now += source.expovariate(1 / MEAN)
        yield now


def weibull(source: random.Random) -> Iterator[float]:
    now, shape = 0.0, 0.6
    while True:
        now += source.weibullvariate(MEAN / 1.5046, shape)  # 1.5046 is the mean of shape 0.6 and scale 1
        yield now


def bursts(source: random.Random) -> Iterator[float]:
    """About every 6 hours, 20 minutes in which a process lives for 3 minutes."""
    now = 0.0
    while True:
        now += source.expovariate(1 / (6 * HOUR))
        end = now + 1200.0
        while now < end:
            yield now
            now += source.expovariate(1 / 180.0)


def drift(source: random.Random) -> Iterator[float]:
    """The mean time between crashes falls from 8 hours to half an hour, in 12 hours."""
    now = 0.0
    while True:
        mean = max(0.5, 8.0 * 0.0625 ** (now / (12 * HOUR))) * HOUR
        now += source.expovariate(1 / mean)
        yield now


TRACES: dict[str, Trace] = {"exponential": exponential, "Weibull": weibull, "bursts": bursts, "drift": drift}


@dataclass
class Row:
    """The overheads on one trace, in percent.

    Attributes:
        trace: Its name.
        crashes: Crashes of a run of work, on average, with the best interval.
        best: With the best fixed interval.
        interval: That interval, in seconds.
        longer: With one ten times longer.
        shorter: With one ten times shorter.
        every_step: If each step is stored.
        adaptive: With `Adaptive`.
        informed: With `Adaptive` that knows the trace's mean.
    """

    trace: str
    crashes: float
    best: float
    interval: float
    longer: float
    shorter: float
    every_step: float
    adaptive: float
    informed: float


def overhead(policy: Policy, trace: Trace, seed: int) -> tuple[float, int]:
    """The overhead of one run in percent, and its crashes."""
    source = random.Random(seed)
    crashes_at = trace(random.Random(seed + 1))
    next_crash = next(crashes_at)
    now = began = stored_at = done = stored = 0.0
    steps = crashes = 0
    while stored < WORK:
        step = source.lognormvariate(0.0, 0.5) / 1.133 * STEP  # 1.133 is the mean of that distribution
        finished, is_last = now + step, done + step >= WORK
        due = is_last or policy.decide(
            Progress(
                elapsed=finished - began,  # of the process that works now; it knows of the crashes before
                unstored_seconds=finished - stored_at,
                unstored_steps=steps + 1,
                store_seconds=STORE,
                crashes=crashes,
            )
        )
        end = finished + (STORE if due else 0.0)
        if end > next_crash:
            now = began = stored_at = next_crash + RESTORE
            while next_crash <= now:  # A crash while it is being restored is part of the same one.
                next_crash = next(crashes_at)
            done, steps, crashes = stored, 0, crashes + 1
            continue
        now, done, steps = end, done + step, steps + 1
        if due:
            stored, stored_at, steps = done, now, 0
    return (now - stored) / stored * 100, crashes


def mean(policy: Policy, trace: Trace, seeds: range) -> tuple[float, float]:
    found = [overhead(policy, trace, seed) for seed in seeds]
    return statistics.mean(one for one, _ in found), statistics.mean(crashes for _, crashes in found)


def measure(name: str, trace: Trace, seeds: range) -> Row:
    fixed = {interval: mean(cadence.Every(seconds=interval), trace, seeds) for interval in GRID}
    interval = min(fixed, key=lambda one: fixed[one][0])
    best, crashes = fixed[interval]

    def of(policy: Policy) -> float:
        return mean(policy, trace, seeds)[0]

    # As many crashes as were seen, in the time in which they were seen.
    known = cadence.Adaptive(crashes=max(crashes, 0.1), hours=WORK / HOUR * (1 + best / 100))
    return Row(
        name,
        crashes,
        best,
        interval,
        of(cadence.Every(seconds=interval * 10)),
        of(cadence.Every(seconds=interval / 10)),
        of(cadence.Steps(1)),
        of(cadence.Adaptive()),
        of(known),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seeds = range(options.seed * 1_000_000, options.seed * 1_000_000 + options.runs * 2, 2)
    rows = [measure(name, trace, seeds) for name, trace in TRACES.items()]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print("| trace | crashes | best fixed | 10x longer | 10x shorter | every step | Adaptive | informed |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.trace} | {row.crashes:.1f} | {row.best:.1f} % at {row.interval:g} s | {row.longer:.1f} % | "
            f"{row.shorter:.1f} % | {row.every_step:.1f} % | {row.adaptive:.1f} % | {row.informed:.1f} % |"
        )


if __name__ == "__main__":
    main()
