"""`langgraph-gcs advise`: what storing a step costs, and how often to store."""

from __future__ import annotations

import statistics
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.durations import positive_duration
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    OptionalThreadArgument,
    StoreOption,
    console,
    no_thread,
    open_saver,
    plain,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langgraph_gcs_saver import GCSSaver
    from langgraph_gcs_saver.cadence.advice import Advice
    from langgraph_gcs_saver.results import CheckpointInfo

_HOUR = 3600.0


def advise(
    thread: OptionalThreadArgument = None,
    *,
    mtbf: Annotated[
        timedelta | None,
        typer.Option(
            parser=positive_duration,
            metavar="TIME",
            help="The mean time between two crashes of a run: 30m, 8h, 7d. The default is what the store says.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Without THREAD: how many threads to look at, the most recently used ones.")
    ] = 20,
    puts: Annotated[int, typer.Option(min=1, max=100, help="How many steps to store for the measurement.")] = 8,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what storing a step costs, and say how often to store: sqrt(2C/λ) seconds of work.

    C is measured: the last steps of a thread are stored once more, in a new thread of the same store, which is then
    deleted. λ is the number of crashes on record, divided by the time that the steps took. Only runs with a lease, as
    those of `run`, leave a record of a crash. If there is none, the bound is used that a time without a crash implies.

    Example: langgraph-gcs advise my-thread --mtbf 8h --store file:///home/me/store
    """
    from langgraph_gcs_saver.testing.trial_puts import put_costs

    with open_saver(store, cipher) as saver, progress("measuring"):
        histories = _histories(saver, thread, threads)
        if not histories:
            raise CommandError("the store has no thread with a checkpoint.") if thread is None else no_thread(thread)
        measured = max(histories, key=lambda one: len(histories[one]) > 1)
        costs = put_costs(saver, histories[measured], puts)
        crashes = _crashes(saver, histories)
    if not costs:
        raise CommandError(f"the checkpoints of thread {measured!r} were removed while they were read. Call again.")
    steps = [seconds for known in histories.values() for seconds in _steps(known)]
    found = _Found(
        {measured: costs},
        threads=len(histories),
        steps=steps,
        crashes=crashes,
        mtbf=None if mtbf is None else mtbf.total_seconds(),
    )
    if as_json:
        print_json(found.fields())
    else:
        for line in found.lines():
            console().print(plain(line), soft_wrap=True)


def _histories(saver: GCSSaver, thread: str | None, most: int) -> dict[str, Sequence[CheckpointInfo]]:
    """The histories of the thread, or of the threads that were used last."""
    listed = [one.thread_id for one in saver.admin.threads(limit=most)] if thread is None else [thread]
    found = {one: saver.admin.history(one) for one in listed if one is not None}
    return {one: known for one, known in found.items() if any(not info.checkpoint_ns for info in known)}


def _steps(known: Sequence[CheckpointInfo]) -> list[float]:
    """Seconds that the steps of a thread's root graph took. The time in which a person was asked does not count."""
    root = {one.checkpoint_id: one for one in known if not one.checkpoint_ns}
    found = []
    for one in root.values():
        parent = root.get(one.parent_id or "")
        if one.source == "loop" and parent is not None and not parent.interrupts and one.made > parent.made:
            found.append(one.made - parent.made)
    return found


def _said(seconds: float) -> str:
    """A length of time, in hours or in seconds."""
    return f"{seconds / _HOUR:.2f} h" if seconds >= _HOUR / 10 else f"{seconds:.1f} s"


def _crashes(saver: GCSSaver, histories: Mapping[str, Sequence[CheckpointInfo]]) -> int:
    """How many crashes are on record: takeovers, and leases that have expired and that no process has taken over.

    Takeovers from before a thread's oldest checkpoint do not count, because the time of the steps then is not known.
    """
    taken = 0
    for thread_id, known in histories.items():
        begun = min(one.time for one in known)
        records = saver.thread(thread_id).recoveries()
        taken += sum(one.kind == "takeover" and one.time.timestamp() >= begun for one in records)
    return taken + sum(one.thread_id in histories for one in saver.admin.leases(expired=True))


class _Found:
    """What was measured, and what follows from it."""

    def __init__(
        self,
        measured: Mapping[str, Sequence[float]],
        *,
        threads: int,
        steps: Sequence[float],
        crashes: int,
        mtbf: float | None,
    ) -> None:
        from langgraph_gcs_saver.cadence.advice import NO_CRASH_BOUND, Advice

        ((self.thread, self.costs),) = measured.items()
        self.threads, self.steps, self.worked = threads, steps, sum(steps)
        self.crashes, self.mtbf = crashes, mtbf
        self.cost = statistics.median(self.costs)
        self.step = statistics.median(steps) if steps else 0.0
        self.is_bound = mtbf is None and not crashes
        self.rate: float | None = None
        if mtbf is not None:
            self.rate = 1 / mtbf
        elif self.worked:
            self.rate = (crashes or NO_CRASH_BOUND) / self.worked
        self.advice: Advice | None = None
        if self.rate is not None and self.step:
            self.advice = Advice(cost=self.cost, step=self.step, rate=self.rate)

    def fields(self) -> dict[str, Any]:
        """The result as JSON; times in seconds."""
        known = self.advice
        return {
            "thread_id": self.thread,
            "threads": self.threads,
            "cost": self.cost,
            "puts": list(self.costs),
            "step": self.step or None,
            "steps": len(self.steps),
            "worked": self.worked,
            "crashes": self.crashes,
            "rate": self.rate,
            "is_bound": self.is_bound,
            "interval": None if known is None else known.interval,
            "steps_per_store": None if known is None else known.steps,
            "overhead_every_step": None if known is None else known.overhead(1),
            "overhead_best": None if known is None else known.overhead(known.steps),
            "store": None if known is None else "every_step" if known.is_every_step else "segments",
        }

    def lines(self) -> list[str]:
        """The result for people."""
        median = f"the median of {len(self.costs)} steps of thread {self.thread!r}, stored again and deleted"
        lines = [f"Storing a step takes C = {self.cost:.3f} s: {median}."]
        if self.advice is None or self.rate is None:
            why = "No step has a length yet" if not self.step else "There is no rate of crashes"
            return [*lines, f"{why}, so there is no advice. Run the graph for a few steps, and call again."]
        lines.append(f"A step takes {self.step:.3f} s: the median of {len(self.steps)} steps.")
        lines.append(self._said_rate())
        known = self.advice
        least = "at least " if self.is_bound else ""
        lines.append(
            f"Best: store after {least}sqrt(2C/λ) = {known.interval:.1f} s of work, which is after {known.steps} "
            f"{'step' if known.steps == 1 else 'steps'}. That costs {known.overhead(known.steps):.2%} of the time."
        )
        lines.append(
            f"Every step: costs {known.overhead(1):.2%} of the time, {self.cost / self.step:.2%} for storing. With "
            'durability "async" it costs less, because a step is stored while the next one runs.'
        )
        if known.is_every_step:
            lines.append("Advice: store every step.")
        else:
            lines.append(
                f'Advice: run(…, store="segments", policy=cadence.Every(seconds={known.interval:.0f})), unless a step '
                "must not run again."
            )
        return lines

    def _said_rate(self) -> str:
        if self.mtbf is not None:
            return f"Crashes: one in {_said(self.mtbf)}, as given."
        worked = _said(self.worked)
        if self.is_bound:
            return (
                f"Crashes: none is on record in {worked} of work. With 95 % confidence, there is at most one in "
                f"{_said(self.worked / 3)}."
            )
        return f"Crashes: {self.crashes} in {worked} of work, one in {_said(self.worked / self.crashes)}."
