"""Restores of a set beside runs of its members, with and without leases, and beside other restores.

The flows are the real ones. A fork is recognized by its having no run. Two members have two checkpoints each, of which
the set holds the one before the newest. In some scenarios a subgraph of one of them keeps its state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, Doc, Effect, Flow, Merge, QueryDocs
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ConflictError,
    FencedError,
    InvalidInputError,
    ThreadBusyError,
)
from langgraph_gcs_saver.flows import leases, save, set_restores
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import with_hold
from langgraph_gcs_saver.format.manifest import Manifest
from langgraph_gcs_saver.format.sets import Cut, SetRecord, digest_of, fields_of, parse
from langgraph_gcs_saver.portable.edits import id_at
from langgraph_gcs_saver.saver import arguments

from .scenarios import small
from .world import CODEC, SERDE, Call, Process, Run, World, checkpoint, config, new_context, play

TEAM, SET_ID, MEMBERS = "team", "s", ("a", "b")
SET = keys.set_doc(TEAM, SET_ID)
WRONG = "ghost/wrong"
OWNERS = {"R": "r", "S": "s"}
"""The restores: the names of their processes, and what their digits begin with."""


def thread(member: str) -> str:
    return keys.member_thread_id(TEAM, member)


def cid(number: int) -> str:
    """Ids that are greater than those that the clock of the processes gives."""
    return f"1f000000-0000-6000-8000-{number:012}"


class Restored(World):
    """A world that notes the first commit that breaks a rule."""

    def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
        answer, after = super().perform(effect, stamp)
        if after is self:
            return answer, self
        made = Restored(after.table, after.blobs)
        wrong = self._wrong(effect, made) if isinstance(effect, Commit) and answer is not None else None
        if wrong is not None:
            _, noted = World.perform(made, Commit((Merge(WRONG, {"what": wrong}),)), 1)
            made = Restored(noted.table, noted.blobs)
        return answer, made

    def set(self) -> SetRecord:
        doc = self.doc(SET)
        assert doc is not None
        return parse(doc, CODEC)

    def of(self, member: str, ns: str = "") -> list[Doc]:
        """The checkpoints of a member, newest first."""
        start = f"{keys.checkpoints(thread(member))}/"
        return [doc for doc in self.checkpoints() if doc.name.startswith(start) and keys.is_in_ns(doc.name, ns)]

    def forks(self) -> dict[str, list[Doc]]:
        """The forks of each member that has any."""
        found = {member: [doc for doc in self.of(member) if "run_id" not in doc.fields] for member in MEMBERS}
        return {member: docs for member, docs in found.items() if docs}

    def _wrong(self, commit: Commit, after: Restored) -> str | None:
        forked, now = self.forks(), after.forks()
        if forked != now and (len(now) < len(MEMBERS) or len({len(docs) for docs in now.values()}) > 1):
            return f"torn: only {sorted(now)} have forks"
        for doc in (doc for docs in now.values() for doc in docs):
            if not _has_frames(after, doc.name):
                return f"I1: {doc.name} refers to frames that are gone"
        for write in commit.writes:
            if isinstance(write, Create) and f"/{keys.CHECKPOINTS}/" in write.name and keys.is_in_ns(write.name, ""):
                wrong = self._of_checkpoint(write, after)
            elif not isinstance(write, Create) and (owner := getattr(write, "fields", {}).get("owner")) in OWNERS:
                wrong = self._of_lease(str(owner))
            else:
                wrong = None
            if wrong is not None:
                return wrong
        return None

    def _of_checkpoint(self, write: Create, after: Restored) -> str | None:
        member = next(one for one in MEMBERS if keys.thread_of(write.name) == keys.thread_doc(thread(one)))
        if "run_id" not in write.fields:
            fence = self.doc(keys.fence_doc(thread(member)))
            if fence is None or fence.fields["nonce"] != write.fields["fence"]:
                return f"I7: {member} is forked under a lease that is lost"
            newest = after.of(member)[0].name
            return None if newest == write.name else f"torn: the fork of {member} is not its tip"
        known, forks = _manifest(after, write.name), {doc.name for doc in self.forks().get(member, ())}
        while forks:
            if known.parent_id is None:
                return f"torn: a run of {member} extends what was there before the restore"
            name = keys.checkpoint_doc(known.thread_id, "", known.parent_id)
            if name in forks:
                break
            known = _manifest(after, name)
        return None

    def _of_lease(self, owner: str) -> str | None:
        restoring = self.set().restoring or ""
        if restoring.startswith(OWNERS[owner]):
            return None
        return f"liveness: {owner} takes a lease while the set is reserved by {restoring or 'no process'}"


def _manifest(world: World, name: str) -> Manifest:
    doc = world.doc(name)
    assert doc is not None
    return play(read_manifest(doc, CODEC), world)[0]


EXPECTED = (ConflictError, FencedError, ThreadBusyError, CheckpointCorruptError, InvalidInputError)
"""The last two say that a checkpoint of the set is gone."""


def _has_frames(world: World, name: str) -> bool:
    """Whether the documents exist that hold the values of a checkpoint."""
    known = _manifest(world, name)
    docs = [world.doc(step.name) for channel in known.channels for step in known.steps(channel)]
    return all(doc is not None and "frames" in doc.fields for doc in docs)


def check(world: World, runs: tuple[Run, ...]) -> str | None:
    """After every step."""
    wrong = world.doc(WRONG)
    if wrong is not None:
        return str(wrong.fields["what"])
    for run in runs:
        error = run.node.error
        if error is not None and not isinstance(error, EXPECTED):
            return f"liveness: {run.process.name} raised {error!r}"
    return None


def check_end(world: World, runs: tuple[Run, ...]) -> str | None:
    """When no process can continue."""
    assert isinstance(world, Restored)
    found = world.set()
    waiting = [run.process.name for run in runs if not run.ended]
    if waiting:
        return f"waiting for ever: {waiting}"
    forked = {len(docs) for docs in world.forks().values()}
    if bool(forked) != (found.restored is not None):
        return f"torn: there are forks of {sorted(world.forks())}, and the set says {found.restored}"
    restores = [run for run in runs if run.process.name in OWNERS]
    last = [run for run in restores if not run.dead]
    if found.restored is None and last:
        overtaken = any(isinstance(run.node.error, EXPECTED[1:]) for run in last)
        if any(run.process.after for run in last) or not (overtaken or len(last) < len(restores)):
            return "liveness: no restore has completed"
    if last and not any(run.dead for run in restores):
        held = [member for member in MEMBERS if _owner(world, member) in OWNERS]
        if held:
            return f"liveness: the leases of {held} are not given back"
        if found.restoring is not None:
            return "liveness: the set is still reserved"
    return None


def _owner(world: World, member: str) -> str | None:
    doc = world.doc(keys.fence_doc(thread(member)))
    return None if doc is None else doc.fields.get("owner")


# Calls


def restore(owner: str) -> Call:
    return Call(
        "restore",
        lambda context: set_restores.restore(TEAM, SET_ID, dry_run=False, owner=owner, context=context),
    )


def _put(member: str, letter: str, parent: str, context: Context) -> Flow[str]:
    """A step of a run, under the lease that its process holds, if any."""
    new = id_at(parent, 0, 0.0, ord(letter))
    channels = small(letter + parent)
    request = arguments.put_request(
        config(thread(member), parent, run="r1"),
        checkpoint(new, channels),
        {"source": "loop", "step": 1},
        {"s": channels["s"][0]},
        serde=SERDE,
        context=context,
        now=0.0,
    )
    fence = next(iter(context.fences.values()), None)
    yield from save.put(replace(request, fence=fence), context)
    return new


def _steps(member: str, letter: str, count: int, context: Context) -> Flow[None]:
    # As a graph does, it reads the state that it continues.
    (doc,) = yield from QueryDocs(keys.checkpoints(thread(member)), (("ns", keys.enc("")),), limit=1)
    context.remember(save.Head.of((yield from read_manifest(doc, context.codec)), doc))
    parent = keys.checkpoint_id_of(doc.name)
    for _ in range(count):
        parent = yield from _put(member, letter, parent, context)


def steps(member: str, letter: str, count: int = 2) -> Call:
    return Call("steps", lambda context: _steps(member, letter, count, context))


def _acquire(member: str, letter: str, *, take_over: bool, context: Context) -> Flow[None]:
    request = leases.Acquire(thread(member), letter, letter, 60.0, take_over)
    yield from leases.Acquisition(request, 0.0, context).flow()


def acquire(member: str, letter: str, *, take_over: bool = False) -> Call:
    return Call("acquire", lambda context: _acquire(member, letter, take_over=take_over, context=context))


def _remove(member: str) -> Flow[None]:
    docs: list[Doc] = yield from QueryDocs(keys.checkpoints(thread(member)))
    if any("run_id" not in doc.fields for doc in docs):
        return  # A removal keeps what the fork refers to.
    (held,) = [doc for doc in docs if keys.checkpoint_id_of(doc.name) == cid(3)]
    yield from Commit((Delete(held.name, update_time=held.update_time),))


def remove(member: str) -> Call:
    """Remove the checkpoint that is copied, as it was seen. With a hold, only a deletion by force does so."""
    return Call("remove", lambda _: _remove(member))


# Scenarios


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world, and the processes that start on it."""

    world: World
    processes: tuple[Process, ...]


def _stored(world: World, member: str, number: int, parent: int | None, ns: str = "") -> World:
    channels = small(f"{member}{number}{ns}")
    request = arguments.put_request(
        config(thread(member), None if parent is None else cid(parent), ns, "r1"),
        checkpoint(cid(number), channels),
        {"source": "loop", "step": number},
        {channel: version for channel, (version, _) in channels.items()},
        serde=SERDE,
        context=new_context("0"),
        now=0.0,
    )
    return play(save.put(request, new_context("0")), world)[1]


def _world(*, with_subgraph: bool) -> Restored:
    world: World = World()
    for member in MEMBERS:
        world = _stored(world, member, 1, None)
        if with_subgraph and member == "a":
            world = _stored(world, member, 2, None, "sub")
        world = _stored(world, member, 3, 1)
        if with_subgraph and member == "a":
            world = _stored(world, member, 4, 2, "sub")
        world = _stored(world, member, 5, 3)
    names = {member: keys.checkpoint_doc(thread(member), "", cid(3)) for member in MEMBERS}
    docs = {member: world.docs[name].doc for member, name in names.items()}
    found = SetRecord(
        team=TEAM,
        set_id=SET_ID,
        state="committed",
        members=MEMBERS,
        timeout=1.0,  # clock: nothing waits in this world
        cut={member: Cut(cid(3), digest_of(doc)) for member, doc in docs.items()},
        decided=1,
    )
    writes = [Create(SET, fields_of(found, CODEC))]
    holds = [Merge(doc.name, with_hold(doc, found.hold.key), update_time=doc.update_time) for doc in docs.values()]
    after = World.perform(world, Commit((*writes, *holds)), 1)[1]
    return Restored(after.table, after.blobs)


Make = Callable[[], tuple[Process, ...]]
RESTORING: dict[str, Make] = {}
WITH_SUBGRAPH = {"a_restore_and_a_run_without_a_lease", "a_restore_that_crashed_and_the_next_one"}
"""Scenarios in which a subgraph of a member keeps its state."""


def scenario(name: str, *, is_lean: bool = False) -> Scenario:
    """A scenario; a lean one is without crashes, lost answers and subgraphs."""
    processes = RESTORING[name]()
    if is_lean:
        processes = tuple(replace(process, lost=0, dies=False) for process in processes)
    return Scenario(_world(with_subgraph=name in WITH_SUBGRAPH and not is_lean), processes)


def _named(make: Make) -> Make:
    RESTORING[make.__name__] = make
    return make


def _restore(name: str, **more: Any) -> Process:
    return Process(name, (restore(name),), **more)


@_named
def a_restore_and_a_run_under_a_lease() -> tuple[Process, ...]:
    return _restore("R", lost=1, dies=True), Process("A", (acquire("a", "A"), steps("a", "A")))


@_named
def a_restore_and_a_run_that_takes_over() -> tuple[Process, ...]:
    return _restore("R", lost=1, dies=True), Process("A", (acquire("b", "A", take_over=True), steps("b", "A", 1)))


@_named
def a_restore_and_a_run_without_a_lease() -> tuple[Process, ...]:
    return _restore("R", lost=1, dies=True), Process("B", (steps("b", "B"),))


@_named
def a_restore_and_a_removal() -> tuple[Process, ...]:
    return _restore("R", dies=True), Process("P", (remove("b"),))


@_named
def two_restores() -> tuple[Process, ...]:
    return _restore("R", lost=1, dies=True), _restore("S")


@_named
def a_restore_that_crashed_and_the_next_one() -> tuple[Process, ...]:
    return _restore("R", lost=1, dies=True), _restore("S", after="R", lost=1)
