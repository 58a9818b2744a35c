"""The largest states that are restored within an objective, and the arithmetic of storing each step.

python -m benchmarks.objectives [--measure] [--json]

The first table says how large a state may be, by the most frames of a chain. The second one says what storing each step
costs, and what storing at Young's interval costs, both in percent of the work. They follow from the rates in
`langgraph_gcs_saver.cadence.objective` and from nothing that is measured. `--measure` adds the rates of this machine
for decoding and deserializing, so that you can compare them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_gcs_saver import GCSSaver, cadence
from langgraph_gcs_saver.cadence import objective
from langgraph_gcs_saver.cadence.advice import Advice
from langgraph_gcs_saver.format import chains

OBJECTIVES = (cadence.RTO(seconds=30), cadence.RTO(minutes=5), cadence.RTO(minutes=15))
FRAMES = (1, 5, chains.MAX_FRAMES)
"""With `full_every=1`, `full_every=5`, and by default."""

COST = 0.1
STEPS = (0.1, 2.0, 10.0, 60.0)
MEANS = (1.0, 24.0)
"""Hours between two crashes."""

VERSIONS = 25
SIZE = 16 << 20


@dataclass(frozen=True)
class Cadence:
    """What storing costs for steps of a length.

    Attributes:
        step: Seconds of a step.
        hours: Hours between two crashes.
        interval: The best interval, in seconds of work.
        steps: The steps that come nearest to it.
        every_step: The cost of storing each step, in percent of the work.
        best: The cost of storing after so many steps.
        redone: Seconds of work that a crash repeats on average, if each step is stored.
        redone_best: The same at the interval.
    """

    step: float
    hours: float
    interval: float
    steps: int
    every_step: float
    best: float
    redone: float
    redone_best: float


def largest() -> dict[float, list[int]]:
    """By objective in seconds, the largest states, one for each of `FRAMES`."""
    return {one.total: [one.largest_state(frames) for frames in FRAMES] for one in OBJECTIVES}


def cadences() -> list[Cadence]:
    """What storing costs, by the length of a step and the mean time between crashes."""
    found = []
    for hours in MEANS:
        for step in STEPS:
            one = Advice(cost=COST, step=step, rate=1 / (hours * 3600))
            best = 100 * one.overhead(one.steps)
            redone = one.steps * step / 2
            found.append(Cadence(step, hours, one.interval, one.steps, 100 * one.overhead(1), best, step / 2, redone))
    return found


def rates() -> dict[str, float]:
    """Bytes a second that this machine decodes and deserializes, from reads of a state in one frame and in several."""
    one, several, frames = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        state = [{"role": "user", "content": f"message {number} " * 50} for number in range(SIZE // 600)]
        for versions in (1, VERSIONS):
            uri = f"file://{folder}/{versions}"
            with GCSSaver.from_conn_string(uri, verify="off") as saver:
                _fill(saver, state, versions)
            with GCSSaver.from_conn_string(uri) as saver:
                begun = time.perf_counter()
                found = saver.get_tuple({"configurable": {"thread_id": "t"}})
                took = time.perf_counter() - begun
                if found is None:
                    raise AssertionError("it was stored")
                (value,) = (v for v in saver.admin.history("t")[0].stored if v.channel == "messages")
            one, several, frames = (took, several, frames) if versions == 1 else (one, took, _chain(versions - 1))
    decode = value.size * (frames - 1) / max(several - one, 1e-9)
    return {"decode": decode, "load": value.size / max(one - value.size / decode, 1e-9)}


def _chain(k: int) -> int:
    """Frames of the chain of version `k`."""
    return 1 if not k else 1 + _chain(chains.ancestor(k))


def _fill(saver: GCSSaver, state: list[dict[str, str]], versions: int) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    version = None
    for number in range(versions):
        checkpoint, version = empty_checkpoint(), saver.get_next_version(version, None)
        state = [*state, {"role": "user", "content": f"later {number}"}]
        checkpoint["channel_values"], checkpoint["channel_versions"] = {"messages": state}, {"messages": version}
        config = saver.put(config, checkpoint, {"source": "loop", "step": number}, {"messages": version})


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="Measure the rates of this machine too.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    given = parser.parse_args()
    measured = rates() if given.measure else None
    if given.json:
        print(json.dumps({"largest": largest(), "cadences": list(map(asdict, cadences())), "rates": measured}))
        return
    print("\n".join(lines()))
    if measured is not None:
        assumed = {"decode": objective.DECODE_BYTES, "load": objective.LOAD_BYTES}
        for name, found in measured.items():
            print(f"\n{name}: {found / 1e6:.0f} MB/s here, {assumed[name] / 1e6:.0f} MB/s assumed")


def lines() -> list[str]:
    """Both tables, in Markdown."""
    found = [
        "| objective | `full_every=1` | `full_every=5` | default: chains of 12 frames |",
        "|---|---|---|---|",
    ]
    for seconds, sizes in largest().items():
        named = f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"
        found.append(f"| {named} | {' | '.join(f'{size / 1e9:.2f} GB' for size in sizes)} |")
    found += [
        "",
        "| one crash in | a step takes | sqrt(2C/λ) | every step costs | the interval | redone | at the interval |",
        "|---|---|---|---|---|---|---|",
    ]
    found += [
        f"| {one.hours:g} h | {one.step:g} s | {one.interval:.0f} s, {one.steps} step{'s' if one.steps > 1 else ''} | "
        f"{one.every_step:.1f} % | {one.best:.1f} % | {one.redone:.1f} s | {one.redone_best:.1f} s |"
        for one in cadences()
    ]
    return found


if __name__ == "__main__":
    main()
