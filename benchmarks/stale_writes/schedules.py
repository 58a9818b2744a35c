"""Random schedules: a worker is stopped, another one takes its thread over, and the first one wakes up."""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.stale_writes import judge
from benchmarks.stale_writes.judge import Found
from benchmarks.stale_writes.workers import LARGE, NODES, ROUNDS, Order, Row, Take, Worker, workers

STALL = 5.0
"""Seconds after which a worker no longer waits for a stopped one, which may hold a lock of a database."""

FIRST, SECOND = "first", "second"

REFUSED = frozenset({"FencedError", "GraphDrained", "ThreadBusyError"})
"""How a run may end that has lost its lease, or did not get it."""

COLUMNS = (
    "saver",
    "schedules",
    "stale puts stored",
    "stale pending writes stored",
    "threads with a fork",
    "lost pending writes",
    "wrong states",
    "stale workers refused",
    "errors",
)

EXPECTED = sorted(f"{node}{number}" for node in NODES for number in range(ROUNDS))


@dataclass(frozen=True)
class Schedule:
    """What happens when. Moments are fractions of the time that a run takes.

    Attributes:
        stop: When the first worker is stopped, after its order.
        wake: When it wakes up, after the second one took over, or after that one's order; 9 is after its end.
        is_early: Whether `wake` counts from the order, so that both may write during the takeover.
        pause: When the second worker is stopped, after the wake, until the first one has ended; 9 is never.
        take: How the second worker gets the lease.
        durability: That of the runs.
        size: Bytes that a round adds to the state.
        is_swapped: Which process is the first worker.
        seed: Of how long nodes think.
    """

    stop: float
    wake: float
    is_early: bool
    pause: float
    take: Take
    durability: str
    size: int
    is_swapped: bool
    seed: float

    @classmethod
    def drawn(cls, chance: random.Random, *, leased: bool) -> Schedule:
        """A random one. Without leases, a takeover is clear only from the second worker's first node on."""
        return cls(
            stop=chance.random(),
            wake=9.0 if chance.random() < 0.3 else chance.uniform(0, 1.2),
            is_early=chance.random() < 0.4 and leased,
            pause=chance.random() if chance.random() < 0.3 else 9.0,
            take=chance.choices(("force", "expiry", "owner"), (6, 3, 1))[0] if leased else "none",
            durability=chance.choice(("sync", "async")),
            size=LARGE if chance.random() < 0.2 else 0,
            is_swapped=chance.random() < 0.5,
            seed=chance.random(),
        )


@dataclass
class Result:
    """What the schedules of one row left.

    Attributes:
        row: The name of the row.
        schedules: How many stopped a worker in the middle of its run.
        puts: Checkpoints that were stored by a worker whose thread another one had taken over.
        writes: Tasks whose pending writes it stored then.
        forks: Threads in which a checkpoint has two children.
        lost: Results of the other worker's nodes that are in no pending write.
        wrong: Threads whose newest checkpoint does not have the result of each node once.
        refused: Runs that ended because their worker may not write.
        errors: Other errors, by type.
        stories: What went wrong in which schedule.
    """

    row: str
    schedules: int = 0
    puts: int = 0
    writes: int = 0
    forks: int = 0
    lost: int = 0
    wrong: int = 0
    refused: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing stale is stored, and nothing else went wrong."""
        return not (self.puts or self.writes or self.forks or self.lost or self.wrong or self.errors)


def play(row: Row, schedules: int, seed: int, report: Callable[[Result], object] = lambda _: None) -> Result:
    """Play so many schedules with a saver."""
    chance = random.Random(seed)
    result = Result(row.name)
    with row.open() as saver, workers(row) as pair:
        game = _Game(row, saver, pair, result)
        game.measure()
        while result.schedules < schedules:
            if game.play(Schedule.drawn(chance, leased=row.leased)):
                report(result)
    return result


class _Game:
    """Plays schedules with two workers.

    Attributes:
        span: Seconds that a run takes. It follows the machine: a stop that came too late makes it shorter.
    """

    def __init__(self, row: Row, saver: Any, pair: tuple[Worker, Worker], result: Result) -> None:
        self.row = row
        self.saver = saver
        self.pair = pair
        self.result = result
        self.span = 0.0

    def measure(self) -> None:
        """Let both processes make their connections, and learn how long a run takes."""
        for worker in (*self.pair, *self.pair):
            begin = time.perf_counter()
            worker.order(self._order(FIRST, "free" if self.row.leased else "none", "sync", 0, 0.0))
            self._await(worker)
            self.span = time.perf_counter() - begin

    def play(self, schedule: Schedule) -> bool:
        """Play one schedule, and add what it left to the result. Returns false if the run ended before the stop."""
        first, second = reversed(self.pair) if schedule.is_swapped else self.pair
        take: Take = "none" if schedule.take == "none" else "owner" if schedule.take == "owner" else "free"
        one = self._order(FIRST, take, schedule.durability, schedule.size, schedule.seed)
        other = replace(one, worker=SECOND, take=schedule.take, seed=schedule.seed + 1)
        first.order(one)
        if first.listen(schedule.stop * self.span):
            self.span *= 0.9
            return False
        first.stop()
        try:
            if first.listen(0):
                return False
            self.span *= 1.01
            then = self._overlap(schedule, first, second, other)
        finally:
            first.wake()
            second.wake()
        self._await(first)
        self._await(second)
        self._judge(schedule, one.thread_id, then, first, second)
        return True

    def _overlap(self, schedule: Schedule, first: Worker, second: Worker, order: Order) -> Found | None:
        """Let the second worker take over, and wake the first. Returns what was stored between the two, if known."""
        second.order(order)
        then: Found | None = None
        if not schedule.is_early:
            second.listen(STALL, until_taken=True)
            # By now, what the first worker sent before it was stopped has arrived.
            then = judge.look(self.saver, order.thread_id)
        second.listen(STALL if schedule.wake > 1.2 else schedule.wake * self.span)
        first.wake()
        if schedule.pause <= 1 and not second.listen(schedule.pause * self.span):
            second.stop()
            first.listen(STALL)
        return then

    def _judge(self, schedule: Schedule, thread_id: str, then: Found | None, first: Worker, second: Worker) -> None:
        # A worker that is stopped while it acquires the lease may be the last to get it. Then the roles are swapped.
        is_second = not self.row.leased or _time(second) > _time(first)
        winner, loser, name = (second, first, FIRST) if is_second else (first, second, SECOND)
        result, found = self.result, judge.look(self.saver, thread_id)
        stored = found.of(name)
        if self.row.leased:
            earlier = judge.before(self.saver, thread_id, stored, _time(winner))
        else:
            assert then is not None
            earlier = then.of(name)
        stale = stored - earlier
        puts = sum(not task for _, task in stale)
        lost = sum(not found.results[one] for one in winner.did)
        is_wrong = sorted(one.partition(" ")[0] for one in found.state) != EXPECTED
        result.schedules += 1
        result.puts += puts
        result.writes += len(stale) - puts
        result.forks += found.forks > 0
        result.lost += lost
        result.wrong += is_wrong
        errors = [] if not self.row.leased or second.taken is not None else ["the second did not take over"]
        if loser.error in REFUSED:
            result.refused += 1
        elif loser.error:
            errors.append(loser.error)
        if winner.error:
            errors.append(f"{winner.error} of the last to take over")
        result.errors.update(errors)
        if stale or found.forks or lost or is_wrong or errors:
            state = "wrong" if is_wrong else "right"
            counts = f"{puts} stale puts, {len(stale) - puts} stale writes, {found.forks} forks, {lost} lost writes"
            result.stories.append(f"{schedule}: {counts}, the state is {state}; {first.ended}; {second.ended}; {found}")

    @staticmethod
    def _order(worker: str, take: Take, durability: str, size: int, seed: float) -> Order:
        return Order(f"stale-{uuid.uuid4().hex}", worker, take, durability, size, seed)

    @staticmethod
    def _await(worker: Worker) -> Any:
        if not worker.listen():
            raise RuntimeError(f"process {worker.pid} did not end its run")


def _time(worker: Worker) -> int:
    """When a worker got the lease; 0 if it did not."""
    return 0 if worker.taken is None else worker.taken.at


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for one in results:
        numbers = (one.schedules, one.puts, one.writes, one.forks, one.lost, one.wrong, one.refused)
        errors = ", ".join(f"{count} {name}" for name, count in sorted(one.errors.items())) or "0"
        lines.append(f"| {one.row} | {' | '.join(f'{number:,}' for number in numbers)} | {errors} |")
    return "\n".join(lines)
