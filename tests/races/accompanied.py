"""Writers whose commits have companions, beside others: more scenarios, and what must hold there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Create, Doc, Flow, QueryDocs
from langgraph_gcs_saver.format import keys
from tests.kit.companions import ENTRIES, FENCE, Entry, FenceCheck, FencedError, FirstLook, take_fence

from .scenarios import LARGE_WRITES, MIXED_WRITES, NO_THREAD, Scenario, Start, chain, growing, grown, large, small
from .world import SMALL, THREAD, Call, Process, Rules, Run, World, delete, put, put_writes, random_bytes

SPECIAL_WRITES = [("__interrupt__", "i")]
"""Nothing of these is created, so without companions no commit of them can fail."""

HOLDER = "A"
"""The process that has the fence when a scenario begins."""


# Calls


def _taken(thread_id: str) -> Flow[frozenset[tuple[str, int]]]:
    yield from take_fence("B")
    found: list[Doc] = []
    for collection in (keys.checkpoints(thread_id), keys.writes(thread_id)):
        found += yield from QueryDocs(collection)
    return frozenset((doc.name, doc.update_time) for doc in found)


def take() -> Call:
    """Take the fence, and look at what the thread has from then on."""
    return Call("take the fence", lambda _: _taken(THREAD))


# What must hold


@dataclass(slots=True)
class Accompanied(Rules):
    """What must hold besides, when the commits of a process have companions.

    Attributes:
        own: Names of documents that only the first holder of the fence writes: checkpoints, and pending writes of any.
        held: The update time of its fence.
        entries: Whether each of its commits has an entry.
    """

    own: frozenset[str] = frozenset()
    held: int = 0
    entries: bool = False

    def check(self, world: World, runs: tuple[Run, ...]) -> str | None:
        return Rules.check(self, world, runs) or self._fenced(world, runs) or self._alone(world)

    def _mine(self, world: World) -> list[Doc]:
        return [stored.doc for name, stored in world.docs.items() if name in self.own or f"/{keys.WRITES}/" in name]

    def _fenced(self, world: World, runs: tuple[Run, ...]) -> str | None:
        fence = world.doc(FENCE)
        for run in runs:
            if isinstance(run.node.error, FencedError) and fence is not None and fence.update_time == self.held:
                return f"{run.process.name} was told that it lost the fence, and has it"
            for call, result in run.node.done:
                if call.label != "take the fence":
                    continue
                late = [doc.name for doc in self._mine(world) if (doc.name, doc.update_time) not in result]
                if late:
                    return f"I7: written after another process had the fence: {late}"
        return None

    def _alone(self, world: World) -> str | None:
        if not self.entries:
            return None
        told = [(d.doc.fields["kind"], d.doc.fields["checkpoint_id"]) for n, d in world.docs.items() if ENTRIES in n]
        mine = [
            ("put", keys.checkpoint_id_of(doc.name))
            if doc.name in self.own
            else ("put_writes", keys.writes_checkpoint_id_of(doc.name))
            for doc in self._mine(world)
        ]
        if set(mine) != set(told):
            return f"alone: {sorted(set(mine) ^ set(told))} is stored without its entry, or has an entry and is not"
        puts = [one for one in told if one[0] == "put"]
        return f"alone: an entry is there twice: {puts}" if len(puts) != len(set(puts)) else None


def _scenario(
    start: Start,
    *others: Process,
    calls: tuple[Call, ...],
    checks: bool = True,
    entries: bool = False,
    looks: bool = False,
    errors: tuple[type[Exception], ...] = (FencedError,),
    **holder: Any,
) -> Scenario:
    """The holder makes its calls, and others do what they do."""
    times, world = start.world.perform(Commit((Create(FENCE, {"owner": HOLDER, "token": 1}),)), 1)
    check = (FirstLook if looks else FenceCheck)(times[0])
    companions = (*([check] if checks else []), *([Entry()] if entries else []))
    rules = Accompanied(
        errors=errors,
        own=frozenset(keys.checkpoint_doc(THREAD, *call.stores[:2]) for call in calls if call.stores is not None),
        held=times[0],
        entries=entries,
        may_vanish=HOLDER if any(call.label == "delete_thread" for other in others for call in other.calls) else "",
    )
    processes = (Process(HOLDER, calls, companions=companions, **holder), *others)
    for call in (*start.calls, *(call for process in processes for call in process.calls)):
        rules.learn(call)
    return Scenario(world, processes, rules, 200)


ACCOMPANIED: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    ACCOMPANIED[make.__name__] = make
    return make


# A fence


@_named
def steps_and_a_taker() -> Scenario:
    start = chain(2)
    a = start.channels | small("A")
    return _scenario(
        start,
        Process("B", (take(), put("9", "2", start.channels | small("B"), "s")), warm=True),
        calls=(put("7", "2", a, "s"), put("8", "7", a | small("A8"), "s")),
        lost=1,
        warm=True,
    )


@_named
def steps_of_a_holder_that_looks_first_and_a_taker() -> Scenario:
    start = chain(2)
    a = start.channels | small("A")
    return _scenario(
        start,
        Process("B", (take(),)),
        calls=(put("7", "2", a, "s"), put("8", "7", a | large("A8"), "o"), put_writes("8", "a", MIXED_WRITES)),
        looks=True,
        lost=1,
        restarts=True,
    )


@_named
def first_steps_of_a_thread_and_a_taker() -> Scenario:
    return _scenario(
        NO_THREAD,
        Process("B", (take(), put("9", None, small("B"), "s"))),
        calls=(put("7", None, small("A"), "s"), put("8", "7", large("A"), "o")),
        lost=1,
    )


@_named
def incremental_steps_a_fork_and_a_taker() -> Scenario:
    return _scenario(
        growing(2),
        Process("B", (take(),), lost=1),
        Process("C", (put("9", "2", grown(3, "C"), "g"),), warm=True),
        calls=(put("7", "2", grown(3, "A"), "g"), put("8", "7", grown(4, "A"), "g")),
        warm=True,
    )


@_named
def pending_writes_and_a_taker() -> Scenario:
    return _scenario(
        chain(1),
        Process("B", (take(),)),
        calls=(
            put_writes("1", "a", [("c", 1), ("__error__", "e")]),
            put_writes("1", "b", SPECIAL_WRITES),
            put_writes("1", "b", [("c", random_bytes("b", SMALL))]),
        ),
        lost=2,
    )


@_named
def large_pending_writes_and_a_taker() -> Scenario:
    return _scenario(
        chain(1),
        Process("B", (take(),)),
        calls=(put_writes("1", "a", MIXED_WRITES), put("8", None, large("A"), "o")),
        lost=1,
        dies=True,
    )


@_named
def an_upload_that_takes_hours_and_a_taker() -> Scenario:
    return _scenario(chain(1), Process("B", (take(),)), calls=(put("8", None, large("A"), "o"),), slow=True, lost=1)


@_named
def steps_of_a_holder_and_a_deletion() -> Scenario:
    "The fence is never lost, so its holder never gets an error about that."
    return _scenario(
        chain(1),
        Process("D", (delete(),)),
        calls=(put("8", None, large("A"), "o"), put_writes("8", "a", LARGE_WRITES)),
        errors=(),
        lost=1,
    )


# Entries


@_named
def steps_with_entries_and_a_fork() -> Scenario:
    start = chain(2)
    a = start.channels | small("A")
    return _scenario(
        start,
        Process("B", (put("9", "2", start.channels | small("B"), "s"),), warm=True),
        calls=(put("7", "2", a, "s"), put("8", "7", a | large("A8"), "o")),
        checks=False,
        entries=True,
        lost=2,
        restarts=True,
        warm=True,
    )


@_named
def pending_writes_with_entries() -> Scenario:
    return _scenario(
        chain(1),
        Process("B", (put("9", "1", chain(1).channels | small("B"), "s"),)),
        calls=(
            put_writes("1", "a", SPECIAL_WRITES),
            put_writes("1", "a", MIXED_WRITES),
            put_writes("1", "b", [("c", 1), ("__interrupt__", "i")]),
        ),
        checks=False,
        entries=True,
        lost=2,
        dies=True,
    )


@_named
def a_fence_and_entries_and_a_taker() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        Process("B", (take(), put("9", "2", start.channels | small("B"), "s"))),
        calls=(put_writes("2", "a", MIXED_WRITES), put("8", "2", start.channels | small("A"), "s")),
        entries=True,
        lost=1,
        dies=True,
    )
