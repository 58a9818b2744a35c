"""What a policy costs at a boundary between two steps, beside a bar.

python -m benchmarks.policies [--rounds N] [--json]

For each policy: the time that a `Control` takes at a boundary, with all that it looks at (memory, signals, counts). For
those that need callbacks, the time that LangChain takes to report one node is shown too. A row is the least of all
rounds: what else a machine does adds to it, and nothing takes from it. Exit code 1 when a policy misses the bar.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from uuid import uuid4

from langchain_core.callbacks import CallbackManager

from langgraph_gcs_saver import cadence
from langgraph_gcs_saver.cadence.policies import Policy

MOST_MICROSECONDS = 20.0
"""The bar."""

STEPS = 200
"""Boundaries of a round."""

POLICIES: dict[str, Policy] = {
    "Steps": cadence.Steps(1_000_000_000),
    "Every": cadence.Every(hours=1),
    "MaxLag": cadence.MaxLag(steps=1_000_000_000, seconds=3600),
    "Milestone(), cadence.milestone": cadence.Milestone(),
    "Milestone(node)": cadence.Milestone("never"),
    "Spend": cadence.Spend(tokens=1_000_000_000, dollars=1e9, prices={"a": (1.0, 2.0)}),
    "Memory(0.999)": cadence.Memory(0.999),
    "Memory(0.999, limit=…)": cadence.Memory(0.999, limit=1 << 50),
    "Signal(SIGTERM)": cadence.Signal(signal.SIGTERM),
    "Deadline": cadence.Deadline(hours=1),
    "Adaptive": cadence.Adaptive(crashes=1e-9),
    "Adaptive, all hazards": cadence.Adaptive(
        crashes=1e-9, hazards=(cadence.memory_trend(1e9), cadence.near_end(hours=1e9), cadence.rate_limits())
    ),
    "Signal | Deadline | Memory | Every": cadence.Signal(signal.SIGTERM)
    | cadence.Deadline(hours=1)
    | cadence.Memory(0.999)
    | cadence.Every(hours=1),
}


@dataclass
class Row:
    """A policy.

    Attributes:
        policy: Its name.
        decide: Microseconds of a boundary.
        callbacks: Microseconds to report a node.
    """

    policy: str
    decide: float
    callbacks: float

    @property
    def is_missed(self) -> bool:
        """Whether a boundary takes too long."""
        return self.decide > MOST_MICROSECONDS


def per_step(act: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(STEPS):
            act()
        found.append((time.perf_counter() - began) / STEPS * 1e6)
    return min(found)


def measure(name: str, policy: Policy, rounds: int) -> Row:
    with cadence.Control(policy) as control:
        callbacks = 0.0
        if control.callbacks:
            callbacks = per_step(reporting(control), rounds)
        decide = per_step(lambda: control.drain_requested, rounds)
        if control.decision is not None:
            raise SystemExit(f"{name} was to decide nothing, but: {control.decision}")
    return Row(name, decide, callbacks)


def reporting(control: cadence.Control) -> Callable[[], None]:
    manager = CallbackManager(handlers=[*control.callbacks])
    root = manager.on_chain_start({}, {}, run_id=uuid4(), name="graph")

    def report() -> None:
        root.get_child().on_chain_start({}, {}, name="node").on_chain_end({"key": 1})

    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(name, policy, options.rounds) for name, policy in POLICIES.items()]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print(f"| policy | boundary µs (most {MOST_MICROSECONDS:g}) | a node's callbacks µs |\n|---|---|---|")
        for row in rows:
            print(f"| {row.policy} | {row.decide:.1f} | {row.callbacks:.1f} |{'  MISSED' if row.is_missed else ''}")
    return int(any(row.is_missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
