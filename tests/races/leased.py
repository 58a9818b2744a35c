"""Holders of a thread's lease beside writers without one, deletions and beats: scenarios, and what must hold there.

The id of a checkpoint is its parent's id and the letter of the process that stores it. So a commit says who made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, Doc, Effect, Flow, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.errors import FencedError, ThreadBusyError
from langgraph_gcs_saver.flows import leases, load, save, threads
from langgraph_gcs_saver.flows import writes as pending
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import arguments

from .scenarios import small
from .world import LOADS, SERDE, THREAD, Call, Process, Run, World, checkpoint, config, new_context, play, state

FENCE, BEAT = keys.fence_doc(THREAD), keys.beat_doc(THREAD)
WRONG = "ghost/wrong"


class LeasedWorld(World):
    """A world that notes which lease is in force, and the first commit that breaks an invariant.

    Attributes:
        holders: Letters of the processes that write under a lease.
        thieves: Letters of those that take over the lease of a live holder.
        is_strict: Whether a writer without a lease may extend the newest checkpoint only.
    """

    holders: frozenset[str] = frozenset()
    thieves: frozenset[str] = frozenset()
    is_strict = False

    def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
        if isinstance(effect, QueryDocs) and effect.collection.startswith("ghost/"):
            return [], self._with(effect.collection)
        answer, after = super().perform(effect, stamp)
        if after is self:
            return answer, self
        after = self._made(after)
        wrong = self._wrong(effect) if isinstance(effect, Commit) else None
        return answer, after if wrong is None else after._with(WRONG, what=wrong)

    def _made(self, world: World) -> LeasedWorld:
        made = LeasedWorld(world.table, world.blobs)
        made.holders, made.thieves, made.is_strict = self.holders, self.thieves, self.is_strict
        return made

    def _with(self, name: str, **fields: Any) -> LeasedWorld:
        return self._made(World.perform(self, Commit((Merge(name, fields),)), 1)[1])

    @property
    def nonce(self) -> str | None:
        """The last acquisition."""
        fence = self.doc(FENCE)
        return None if fence is None else str(fence.fields.get("nonce"))

    @property
    def owner(self) -> str | None:
        fence = self.doc(FENCE)
        return None if fence is None else fence.fields.get("owner")

    def _wrong(self, commit: Commit) -> str | None:
        if self.owner is not None and any(isinstance(w, Delete) and w.name == FENCE for w in commit.writes):
            return f"liveness: the fence of {self.nonce} is deleted, and no process has ended the lease"
        for write in commit.writes:
            found = None
            if isinstance(write, Create) and f"/{keys.CHECKPOINTS}/" in write.name:
                found = self._of_checkpoint(keys.checkpoint_id_of(write.name))
            elif isinstance(write, Create) and f"/{keys.WRITES}/" in write.name:
                found = self._of_holder(write.name.split("!")[2][0], "pending writes")
            elif not isinstance(write, Delete) and write.name == BEAT and write.fields.get("counter"):
                found = self._of_beat(write.fields["nonce"])
            elif not isinstance(write, Delete) and write.name == FENCE and write.fields.get("owner"):
                found = self._of_acquisition(write.fields["owner"], write.fields["nonce"])
            if found is not None:
                return found
        return None

    def _of_holder(self, letter: str, what: str) -> str | None:
        if letter in self.holders and self.nonce != letter:
            return f"I7: {what} of {letter} are stored while the fence is that of {self.nonce}"
        return None

    def _of_checkpoint(self, checkpoint_id: str) -> str | None:
        parent, letter = checkpoint_id[:-1], checkpoint_id[-1]
        if letter in self.holders:
            return self._of_holder(letter, f"checkpoint {checkpoint_id} and more")
        newest = max((keys.checkpoint_id_of(doc.name) for doc in self.checkpoints()), default="")
        if newest == parent and self.owner is not None and self.doc(f"ghost/{self.nonce}") is not None:
            return f"mixed: {checkpoint_id} extends the newest checkpoint while the lease of {self.nonce} is in force"
        if self.is_strict and newest != parent:
            return f"stale: {checkpoint_id} forks what a holder has continued"
        return None

    def _of_beat(self, nonce: str) -> str | None:
        if self.nonce is None:
            return "I6: a beat is written in a deleted thread"
        if self.owner is not None and self.nonce != nonce:
            return f"liveness: {nonce} keeps the lease of {self.nonce} alive"
        return None

    def _of_acquisition(self, owner: str, nonce: str) -> str | None:
        if self.owner not in (None, owner) and nonce not in self.thieves:
            return f"exclusion: {nonce} has the lease of {self.owner} without taking it over"
        return None


def check(world: World, runs: tuple[Run, ...]) -> str | None:
    """After every step."""
    wrong = world.doc(WRONG)
    if wrong is not None:
        return str(wrong.fields["what"])
    for run in runs:
        error = run.node.error
        if isinstance(error, FencedError):
            if isinstance(world, LeasedWorld) and world.nonce == run.process.name[0]:
                return f"liveness: {run.process.name} is told that it lost the lease, and has it"
        elif error is not None and not isinstance(error, ThreadBusyError):
            return f"liveness: {run.process.name} raised {error!r}"
    return None


def check_end(world: World, runs: tuple[Run, ...]) -> str | None:
    """When no process can continue."""
    waiting = [run.process.name for run in runs if not run.ended]
    if waiting and not any(run.dead for run in runs):
        return f"waiting for ever: {waiting}"
    if any(call.label == "delete_thread" for run in runs for call, _ in run.node.done):
        left = [name for name in world.docs if f"/{keys.LEASES}/" in name]
        if left and world.doc(keys.thread_doc(THREAD)) is None:
            return f"I6: left: {left}"
    return None


# Calls


def _fence(context: Context) -> Fence | None:
    return next(iter(context.fences.values()), None)


def _acquire(letter: str, owner: str, *, take_over: bool, context: Context) -> Flow[None]:
    request = leases.Acquire(THREAD, owner, letter, 60.0, take_over)
    yield from leases.Acquisition(request, 0.0, context).flow()
    yield from QueryDocs(f"ghost/{letter}")


def acquire(letter: str, *, take_over: bool = False, owner: str | None = None) -> Call:
    return Call("acquire", lambda context: _acquire(letter, owner or letter, take_over=take_over, context=context))


def _adopt(letter: str, context: Context) -> Flow[None]:
    doc = (yield from GetDocs((FENCE,))).get(FENCE)
    if doc is None or doc.fields["nonce"] != letter:
        raise ThreadBusyError("the lease was lost before the model began", thread_id=THREAD)
    context.fences[THREAD, doc.fields["token"]] = Fence(THREAD, doc.fields["token"], letter, doc.update_time, 60.0)


def adopt(letter: str) -> Call:
    """Have a lease from before the model began."""
    return Call("adopt", lambda context: _adopt(letter, context))


def _store(parent: str | None, letter: str, context: Context) -> Flow[None]:
    checkpoint_id, channels = (parent or "") + letter, small(letter)
    request = arguments.put_request(
        config(THREAD, parent),
        checkpoint(checkpoint_id, channels | state(k=b"k")),
        {"source": "loop"},
        {"s": channels["s"][0]} | ({} if parent else {"k": state(k=b"k")["k"][0]}),
        serde=SERDE,
        context=context,
        now=0.0,
    )
    yield from save.put(replace(request, fence=_fence(context)), context)


def put(parent: str | None, letter: str) -> Call:
    """Store a child of a checkpoint."""
    return Call(f"put of {parent}{letter}", lambda context: _store(parent, letter, context))


def _extend(letter: str, context: Context) -> Flow[None]:
    found = yield from load.get_tuple(THREAD, "", None, LOADS, context)
    yield from _store(None if found is None else found.manifest.checkpoint_id, letter, context)


def extend(letter: str) -> Call:
    """Read the newest checkpoint, and store a child of it."""
    return Call("extend", lambda context: _extend(letter, context))


def _write(parent: str, task: str, context: Context) -> Flow[None]:
    request = arguments.put_writes_request(config(THREAD, parent), [("c", task)], task, "", serde=SERDE)
    yield from pending.put_writes(replace(request, fence=_fence(context)), context)


def write(parent: str, task: str) -> Call:
    return Call(f"put_writes of {task}", lambda context: _write(parent, task, context))


def _release(context: Context) -> Flow[None]:
    fence = _fence(context)
    if fence is not None:
        yield from leases.release(fence, context)


def release() -> Call:
    return Call("release", _release)


def _beats(letter: str, times: int, context: Context) -> Flow[None]:
    fence = _fence(context)
    doc = (yield from GetDocs((BEAT,))).get(BEAT)
    if fence is None or doc is None or doc.fields["nonce"] != letter:
        return
    seen = leases.Beat(doc.update_time)
    for _ in range(times):
        seen = yield from leases.beat(fence, seen, None)


def beats(letter: str, times: int) -> Call:
    return Call("beat", lambda context: _beats(letter, times, context))


def delete() -> Call:
    return Call("delete_thread", lambda context: threads.delete_thread(THREAD, context, force=True))


def _prune() -> Flow[None]:
    docs: list[Doc] = yield from QueryDocs(keys.checkpoints(THREAD))
    if len(docs) > 1:
        yield from Commit((Delete(docs[-1].name, update_time=docs[-1].update_time),))


def prune() -> Call:
    """Remove the oldest checkpoint, as `prune` does."""
    return Call("prune", lambda _: _prune())


# Scenarios


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world, and the processes that start on it."""

    world: World
    processes: tuple[Process, ...] = field(default=())


def _world(holder: str = "", *, released: bool = False, checkpoints: int = 1) -> World:
    world, context = World(), new_context("0")
    for number in range(checkpoints):
        _, world = play(_store("1" * number or None, "1", context), world)
    if checkpoints == 0:
        _, world = play(iter(Commit((Create(keys.thread_doc(THREAD), {"thread_id": THREAD}),))), world)
    if holder:
        flow = leases.Acquisition(leases.Acquire(THREAD, holder, holder, 60.0), 0.0, context).flow()
        found, world = play(flow, world)
        if released:
            _, world = play(leases.release(found.fence, context), world)
        else:
            _, world = World.perform(world, Commit((Create(f"ghost/{holder}", {}),)), 1)
    return world


def _scenario(world: World, *processes: Process, holders: str, thieves: str = "", is_strict: bool = False) -> Scenario:
    leased = LeasedWorld(world.table, world.blobs)
    leased.holders, leased.thieves, leased.is_strict = frozenset(holders), frozenset(thieves), is_strict
    return Scenario(leased, processes)


LEASED: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    LEASED[make.__name__] = make
    return make


def _stale(*calls: Call, name: str = "A", **more: Any) -> Process:
    return Process(name, (adopt("A"), *calls), warm=True, **more)


@_named
def a_stale_holders_steps_and_a_thief() -> Scenario:
    return _scenario(
        _world("A"),
        _stale(write("1", "A"), put("1", "A"), write("1A", "A"), put("1A", "A"), lost=1, dies=True),
        Process("B", (acquire("B", take_over=True), extend("B"))),
        holders="AB",
        thieves="B",
    )


@_named
def two_thieves() -> Scenario:
    return _scenario(
        _world("A"),
        Process("B", (acquire("B", take_over=True), extend("B")), lost=1, dies=True),
        Process("C", (acquire("C", take_over=True), extend("C"))),
        holders="ABC",
        thieves="BC",
    )


@_named
def two_that_do_not_steal() -> Scenario:
    return _scenario(
        _world("0", released=True),
        Process("B", (acquire("B"), extend("B")), lost=1, dies=True),
        Process("C", (acquire("C"), extend("C"))),
        holders="BC",
    )


@_named
def a_pod_and_its_successor_of_the_same_name() -> Scenario:
    return _scenario(
        _world("A"),
        Process("B", (acquire("B", take_over=True, owner="pod-0"), extend("B")), lost=1),
        Process("C", (acquire("C", owner="pod-0"), extend("C"))),
        holders="ABC",
        thieves="B",
    )


@_named
def a_holder_and_a_writer_without_a_lease() -> Scenario:
    return _scenario(
        _world(),
        Process("A", (acquire("A"), extend("A"), extend("A")), dies=True),
        Process("W", (extend("W"), extend("W"))),
        holders="A",
    )


@_named
def a_holder_that_releases_and_a_writer_without_a_lease() -> Scenario:
    return _scenario(
        _world(),
        Process("A", (acquire("A"), extend("A"), release()), lost=1),
        Process("W", (extend("W"), extend("W"))),
        holders="A",
    )


@_named
def a_lease_between_a_read_and_a_step_without_a_lease() -> Scenario:
    return _scenario(
        _world(),
        Process("A", (acquire("A"), extend("A"), release()), lost=1),
        Process("W", (put("1", "W"), put("1W", "W")), warm=True),
        holders="A",
        is_strict=True,
    )


@_named
def first_steps_of_a_holder_and_of_a_writer_without_a_lease() -> Scenario:
    return _scenario(
        _world(checkpoints=0),
        Process("A", (acquire("A"), extend("A"), extend("A")), dies=True),
        Process("W", (extend("W"), extend("W"))),
        holders="A",
    )


@_named
def a_release_by_a_stale_holder_and_a_thief() -> Scenario:
    return _scenario(
        _world("A"),
        _stale(release(), lost=1),
        Process("B", (acquire("B", take_over=True), extend("B"), extend("B"))),
        holders="AB",
        thieves="B",
    )


@_named
def parallel_writes_and_beats_of_a_holder() -> Scenario:
    return _scenario(
        _world("A"),
        _stale(put("1", "A"), put("1A", "A")),
        _stale(write("1", "Au"), name="Au"),
        _stale(beats("A", 1), name="Ab"),
        holders="A",
    )


@_named
def a_holder_and_a_pruner() -> Scenario:
    return _scenario(
        _world("A", checkpoints=2),
        _stale(put("11", "A"), put("11A", "A"), lost=1),
        Process("P", (prune(),)),
        holders="A",
    )


@_named
def a_stale_beat_and_a_thief() -> Scenario:
    return _scenario(
        _world("A"),
        _stale(beats("A", 2), dies=True, lost=1),
        Process("B", (acquire("B", take_over=True), beats("B", 1))),
        holders="AB",
        thieves="B",
    )


@_named
def a_holder_a_deletion_and_a_new_thread() -> Scenario:
    return _scenario(
        _world("A"),
        _stale(put("1", "A"), put("1A", "A")),
        Process("D", (delete(),)),
        Process("N", (put(None, "M"), acquire("N"), extend("N")), after="D"),
        holders="AN",
    )


@_named
def a_stale_beat_and_a_deletion() -> Scenario:
    return _scenario(_world("A"), _stale(beats("A", 2)), Process("D", (delete(),)), holders="A")


@_named
def a_deletion_that_is_taken_for_crashed() -> Scenario:
    return _scenario(
        _world("A", released=True),
        Process("D", (delete(),)),
        Process("N", (put(None, "M"), acquire("N")), patient=False),
        holders="N",
    )


@_named
def a_takeover_of_a_holder_that_writes() -> Scenario:
    return _scenario(
        _world("A"),
        _stale(put("1", "A"), put("1A", "A"), put("1AA", "A")),
        Process("B", (acquire("B", take_over=True),)),
        holders="AB",
        thieves="B",
    )
