"""How long the members of a busy team wait for a consistent set: 100 members that each store a step every 50 ms.

python -m benchmarks.teams [--members N] [--every SECONDS] [--round SECONDS] [--seed N] [--json]

The flows are real, and so is what the store does with their requests. Only time is simulated: a request takes about
`--round` seconds, a node `--every` seconds, and computing takes none. So the result does not depend on the machine, of
which 100 processes would need more than it has. Each member has caches of its own, as a process has. Exit code 1 when a
bar is missed.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Effect,
    Emit,
    Flow,
    Gather,
    GetDocs,
    Now,
    Pause,
    QueryDocs,
)
from langgraph_gcs_saver.flows import leases, save, sets
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.members import Joining, Member
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.saver import arguments
from langgraph_gcs_saver.saver.voter import LOOK_SECONDS, Voter
from langgraph_gcs_saver.stores import memory, rows

TEAM = "team"
SERDE = JsonPlusSerializer()

MOST_SECONDS = 10.0
"""The bar: a set is committed within this time."""

MOST_ROUNDS = 4
"""The bar: rounds after the last vote."""

THREADS = 16
"""Requests that a process makes at once (`max_threads`)."""

EPOCH = 1_800_000_000


class World:
    """A store, and processes that work on it in simulated time."""

    def __init__(self, turn: float, seed: int) -> None:
        self.now = float(EPOCH)
        self.turn = turn
        self.chance = random.Random(seed)
        self.table: dict[rows.Key, rows.Row] = {}
        self.last = 0
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time, next(self._order), act))

    def run(self, until: Callable[[], bool]) -> None:
        while self._queue and not until():
            self.now, _, act = heapq.heappop(self._queue)
            act()

    def request(self, effect: Effect[Any]) -> Any:
        """What the store answers."""
        match effect:
            case GetDocs():
                return memory.get_docs(self.table, effect, int(self.now * 1e9))
            case QueryDocs():
                return memory.query_docs(self.table, effect)
            case Commit():
                stamp = max(int(self.now * 1e9), self.last + 1)
                applied = rows.Writes(effect).apply(self.table.get, stamp)
                if applied is None:
                    return None
                self.last, (times, changes) = stamp, applied
                for key, row in changes.items():
                    if row is None:
                        self.table.pop(key, None)
                    else:
                        self.table[key] = row
                return times
            case _:
                raise TypeError(type(effect).__name__)


class Process:
    """A flow in simulated time, and what it has requested.

    Attributes:
        rounds: When each of its rounds began, and the requests in it.
        result: What it has returned.
        is_done: Whether it has.
    """

    def __init__(self, world: World, flow: Generator[Effect[Any], Any, Any], after: float = 0.0) -> None:
        self.world = world
        self.flow = flow
        self.rounds: list[tuple[float, tuple[Effect[Any], ...]]] = []
        self.result: Any = None
        self.is_done = False
        world.at(world.now + after, lambda: self._send(None))

    def _send(self, value: Any) -> None:
        world = self.world
        while True:
            try:
                effect = self.flow.send(value)
            except StopIteration as stop:
                self.result, self.is_done = stop.value, True
                return None
            match effect:
                case Compute():
                    value = effect.function()
                case Emit():
                    value = None
                case Now():
                    value = world.now
                case Pause():
                    return world.at(world.now + effect.seconds, lambda: self._send(None))
                case Gather():
                    return self._request(effect.effects, together=True)
                case _:
                    return self._request((effect,), together=False)

    def _request(self, effects: tuple[Effect[Any], ...], *, together: bool) -> None:
        """Make requests. Each reaches the store in the middle of its round, and those of one wave at the same time."""
        world = self.world
        self.rounds.append((world.now, effects))
        answers: list[Any] = [None] * len(effects)
        end = world.now
        for first in range(0, len(effects), THREADS):
            begin = end
            for at in range(first, min(first + THREADS, len(effects))):
                turn = world.turn * world.chance.uniform(0.7, 1.6)

                def arrive(at: int = at) -> None:
                    answers[at] = world.request(effects[at])

                world.at(begin + turn / 2, arrive)
                end = max(end, begin + turn)
        world.at(end, lambda: self._send(tuple(answers) if together else answers[0]))


class Jobs:
    """Looks in the background of a simulated process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.processes: list[Process] = []
        self._pending: Callable[[], Flow[None]] | None = None
        self._is_repeated = False

    def now(self, _key: str, look: Callable[[], Flow[None]]) -> None:
        is_idle = all(one.is_done for one in self.processes[-1:])
        self._pending = look
        if is_idle:
            self.processes.append(Process(self.world, self._work()))

    def again(self, key: str, look: Callable[[], Flow[None]]) -> None:
        if not self._is_repeated:
            self._is_repeated = True
            self.world.at(self.world.now + LOOK_SECONDS, lambda: self._repeat(key, look))

    def stop(self, _key: str) -> None:
        self._is_repeated = False

    def _repeat(self, key: str, look: Callable[[], Flow[None]]) -> None:
        if self._is_repeated:
            self.now(key, look)
            self.world.at(self.world.now + LOOK_SECONDS, lambda: self._repeat(key, look))

    def _work(self) -> Flow[None]:
        while self._pending is not None:
            look, self._pending = self._pending, None
            yield from look()


def new_context(name: str) -> Context:
    """The caches of one process."""
    attempts = itertools.count()
    return Context(
        inline_max_bytes=8 << 10,
        codec=Codec(3),
        incremental=True,
        full_every=None,
        values=ByteCache(1 << 20),
        clear_metadata=None,
        verify="readback",
        falls_back=True,
        timeout=30.0,
        new_attempt=lambda: f"{name}{next(attempts):08}",
    )


@dataclass
class Agent:
    """A member whose graph stores a step again and again.

    Attributes:
        is_member: Whether it is a member of the team. Otherwise it has the same lease without one.
        puts: For each put: when it began, when it was stored, and when the call returned.
    """

    world: World
    name: str
    every: float
    vote_wait: float | None = None
    is_member: bool = True
    puts: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.world)
        self.member = Member(TEAM, self.name, self.vote_wait)
        self.context = new_context(self.name.replace("-", ""))

    def live(self) -> Flow[None]:
        member, thread_id = self.member, self.member.thread_id
        team = TEAM if self.is_member else None
        request = leases.Acquire(thread_id, self.name, f"nonce {self.name}", 60.0, team=team)
        riders = Joining(member, leases.NoRiders()) if self.is_member else None
        acquired = yield from leases.Acquisition(request, 600.0, self.context, riders).flow()
        voter = Voter(member, lambda: self.context, self.jobs)  # type: ignore[arg-type]
        config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        for step in itertools.count():
            yield from Pause(self.every * self.world.chance.uniform(0.8, 1.2))
            checkpoint = empty_checkpoint()
            checkpoint["id"] = f"{step:08}"
            checkpoint["channel_values"] = {"step": step}
            checkpoint["channel_versions"] = {"step": f"{step:032}.{0:013}"}
            versions: Any = dict(checkpoint["channel_versions"])
            metadata: Any = {"source": "loop", "step": step, "parents": {}}
            put = arguments.put_request(
                config,
                checkpoint,
                metadata,
                versions,
                serde=SERDE,
                context=self.context,
                now=self.world.now,
                fence=acquired.fence,
            )
            began = self.world.now
            stored = yield from save.put(replace(put, beside=voter.beside if self.is_member else ()), self.context)
            then = self.world.now
            yield from voter.after_put(put.checkpoint_id, stored)
            self.puts.append((began, then, self.world.now))
            config = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}


@dataclass
class Result:
    """What one set took.

    Attributes:
        seconds: From the coordinator's first request to its last one.
        rounds_after: Rounds of the coordinator that began after the last vote was stored.
        tries: Tries to decide that were lost because a member continued.
        pause: The longest time, in seconds, for which a put waited after it was stored.
        puts: Median time of a put before the set, in seconds.
        requests: Requests of the coordinator, and of the members for their votes and waits.
    """

    members: int
    every: float
    turn: float
    seconds: float
    rounds_after: int
    tries: int
    pause: float
    puts: float
    requests: dict[str, int]

    @property
    def is_good(self) -> bool:
        return self.seconds <= MOST_SECONDS and self.rounds_after <= MOST_ROUNDS

    def __str__(self) -> str:
        missed = "" if self.is_good else "  MISSED"
        return (
            f"| {self.members} | {self.every:g} s | {self.turn:g} s | {self.seconds:.2f} s | {self.rounds_after} | "
            f"{self.tries} | {self.pause:.2f} s | {self.puts:.3f} s | {sum(self.requests.values())} |{missed}"
        )


def play(
    members: int, every: float, turn: float, *, seed: int = 0, vote_wait: float | None = None, timeout: float = 30.0
) -> Result:
    """Let the members run for a second, and make a set of them."""
    world = World(turn, seed)
    names = [f"m-{number:03}" for number in range(members)]
    agents = [Agent(world, name, every, vote_wait) for name in names]
    for agent in agents:
        Process(world, agent.live(), after=world.chance.uniform(0, every))
    world.run(lambda: all(len(agent.puts) > 4 for agent in agents))
    before = [then - began for agent in agents for began, then, _ in agent.puts]
    begin, context, decided = world.now, new_context("coordinator"), []

    def coordinate() -> Flow[Any]:
        found = yield from sets.begin(TEAM, names, None, timeout, context)
        return (yield from sets.prepare(TEAM, found.set_id, context))

    coordinator = Process(world, coordinate())
    world.run(lambda: coordinator.is_done)
    found = coordinator.result
    decided = found.time / 1e9
    votes = memory.query_docs(world.table, QueryDocs(keys.votes(found.name)))
    last = max(doc.update_time for doc in votes if doc.update_time < found.time) / 1e9
    requests = Counter(type(one).__name__ for _, effects in coordinator.rounds for one in effects)
    for agent in agents:
        for job in agent.jobs.processes:
            requests.update(type(one).__name__ for _, effects in job.rounds for one in effects)
    # Reads and queries of the coordinator between the last vote and the decision.
    after = [effects for time, effects in coordinator.rounds if last < time < decided]
    commits = [one for _, effects in coordinator.rounds for one in effects if isinstance(one, Commit)]
    lost = [one for one in commits if any("contended" in getattr(write, "fields", ()) for write in one.writes)]
    return Result(
        members,
        every,
        turn,
        decided - begin,
        len(after),
        len(lost),
        max(end - then for agent in agents for _, then, end in agent.puts),
        statistics.median(before),
        dict(requests),
    )


@dataclass
class Cost:
    """What one put requests, with what it lets the background request.

    Attributes:
        what: The put.
        rounds: Rounds of the put.
        reads: Documents that it reads.
        writes: Writes that it commits.
        votes: Writes in the background.
    """

    what: str
    rounds: int
    reads: int
    writes: int
    votes: int

    def __str__(self) -> str:
        return f"| {self.what} | {self.rounds} | {self.reads} | {self.writes} | {self.votes} |"


def cost(what: str, *, is_member: bool = True, is_preparing: bool = False) -> Cost:
    """Count the requests of one put."""
    world = World(0.03, 0)
    agent = Agent(world, "m", 1.0, is_member=is_member)
    living = Process(world, agent.live())
    world.run(lambda: len(agent.puts) > 2)
    if is_preparing:
        beginning = Process(world, sets.begin(TEAM, ["m"], None, 30.0, new_context("coordinator")))
        world.run(lambda: beginning.is_done)
    before = len(agent.puts)
    world.run(lambda: len(agent.puts) > before and all(one.is_done for one in agent.jobs.processes))
    began, then, _ = agent.puts[before]
    requests = [one for time, effects in living.rounds if began <= time < then for one in effects]
    beside = [one for job in agent.jobs.processes for _, effects in job.rounds for one in effects]
    return Cost(
        what,
        len([time for time, _ in living.rounds if began <= time < then]),
        sum(len(one.names) for one in requests if isinstance(one, GetDocs)),
        sum(len(one.writes) for one in requests if isinstance(one, Commit)),
        sum(len(one.writes) for one in beside if isinstance(one, Commit)),
    )


def costs() -> list[Cost]:
    """What puts cost without a team, and with one."""
    return [
        cost("under a lease without a team", is_member=False),
        cost("of a member"),
        cost("of a member, while a set is prepared", is_preparing=True),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=100)
    parser.add_argument("--every", type=float, default=0.05)
    parser.add_argument("--round", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    result = play(asked.members, asked.every, asked.round, seed=asked.seed)
    if asked.json:
        print(json.dumps({**asdict(result), "costs": [asdict(one) for one in costs()]}))
    else:
        print(
            "| members | node | round | committed after | rounds after the last vote | lost tries | longest pause |"
            " put | requests |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        print(result)
        print("\n| put | rounds | documents read | writes | writes in the background |\n|---|---|---|---|---|")
        print(*costs(), sep="\n")
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
