"""Members that store checkpoints and vote, beside deciders, prunes, deletions and the end of another set.

The flows are the real ones. The id of a checkpoint is its number, and what its member had received when it was stored:
for each other member, the number of the newest checkpoint that this one had sent. So a set shows whether it is a state
in which the team can have been.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Create, Doc, Effect, Flow, GetDocs, Merge, Pause, QueryDocs
from langgraph_gcs_saver.errors import SetAbortedError, ThreadInSetError
from langgraph_gcs_saver.flows import sets, threads
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.sets import Decider
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.format.holds import keys_of
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, kind_of
from langgraph_gcs_saver.format.sets import SetRecord, parse

from . import pruning
from .scenarios import small
from .world import CODEC, Call, Process, Run, World, get_checkpoint, new_context, play, put_flow, state

TEAM = "T"
TEAM_DOC = keys.team_doc(TEAM)
LATE = "clock/late"
"""Once this document exists, the timeouts of all sets are over."""

WRONG = "ghost/wrong"

_ID = re.compile(r"([0-9])g((?:[a-z][0-9])*)\Z")


def thread(member: str) -> str:
    return keys.member_thread_id(TEAM, member)


def _number(checkpoint_id: str) -> int:
    return int(checkpoint_id[0])


def _received(checkpoint_id: str) -> dict[str, int]:
    found = _ID.match(checkpoint_id)
    assert found is not None
    return {found[2][at]: int(found[2][at + 1]) for at in range(0, len(found[2]), 2)}


@lru_cache(1 << 16)
def _set_in(doc_key: tuple[str, bytes, str]) -> SetRecord:
    name, sealed, said = doc_key
    return parse(Doc(name, {"format": manifest.FORMAT, "set": sealed, "state": said}, 0, 0), CODEC)


class VotingWorld(World):
    """A world that notes a set which is decided twice."""

    def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, World]:
        answer, after = super().perform(effect, stamp)
        if isinstance(effect, GetDocs) and self.doc(LATE) is not None:
            answer.read_time = 1 << 70
        if after is self:
            return answer, self
        made = VotingWorld(after.table, after.blobs)
        before = self.decided
        for name, now in made.decided.items():
            if name in before and now != before[name] and now != "broken":
                _, noted = World.perform(
                    made, Commit((Merge(WRONG, {"what": f"{name}: {before[name]}, then {now}"}),)), 1
                )
                made = VotingWorld(noted.table, noted.blobs)
        return answer, made

    @property
    def sets(self) -> list[SetRecord]:
        found = [
            self.docs[name].doc for name in self.docs if f"/{keys.SETS}/" in name and f"/{keys.VOTES}/" not in name
        ]
        return [_set_in((doc.name, doc.fields["set"], doc.fields["state"])) for doc in found]

    @property
    def decided(self) -> dict[str, str]:
        return {one.set_id: one.state for one in self.sets if one.state != "preparing"}


def check(world: World, runs: tuple[Run, ...]) -> str | None:
    """After every step."""
    assert isinstance(world, VotingWorld)
    wrong = world.doc(WRONG)
    if wrong is not None:
        return f"two decisions: {wrong.fields['what']}"
    if sum(one.state == "preparing" for one in world.sets) > 1:
        return "two sets of one team are being prepared"
    for one in world.sets:
        found = _wrong_with(one, world) if one.state == "committed" else None
        if found is not None:
            return f"I9: {found}"
    for run in runs:
        error = run.node.error
        if error is not None and not isinstance(error, (SetAbortedError, ThreadInSetError)):
            return f"liveness: {run.process.name} raised {error!r}"
    return None


def _wrong_with(one: SetRecord, world: World) -> str | None:
    for member, cut in one.cut.items():
        doc = world.doc(one.checkpoint(member))
        what = f"checkpoint {cut.checkpoint_id} of {member}"
        if doc is None or kind_of(doc) is not DocumentKind.CHECKPOINT:
            return f"missing: {what}"
        try:
            manifest.encoded_of(doc)
        except DamagedError as damage:
            return f"damaged: {what}: {damage.reason}"
        if one.hold.key not in keys_of(doc):
            return f"not held: {what}"
        for other, number in _received(cut.checkpoint_id).items():
            if other in one.cut and number > _number(one.cut[other].checkpoint_id):
                return f"inconsistent: {what} has received {other}{number}, and the set has {one.cut[other]}"
    return None


def check_end(world: World, runs: tuple[Run, ...]) -> str | None:
    """When no process can continue."""
    assert isinstance(world, VotingWorld)
    is_late = world.doc(LATE) is not None
    # Without the end of the timeout, a decider polls.
    waiting = [run.process.name for run in runs if not run.ended and (is_late or not _decides(run))]
    if waiting and not any(run.dead for run in runs):
        return f"waiting for ever: {waiting}"
    if is_late and any(not run.dead for run in runs if _decides(run)):
        late = [one.set_id for one in world.sets if one.state == "preparing"]
        if late:
            return f"liveness: no decision about {late}, and a decider is left"
    said = world.doc(TEAM_DOC)
    hint = sets.preparing(said)
    if hint is not None and hint.set_id not in {one.set_id for one in world.sets if one.state == "preparing"}:
        return f"the team still says that {hint.set_id} is being prepared"
    return None


def _decides(run: Run) -> bool:
    return any(call.label == "decide" for call in run.process.calls)


# Calls


def _continue(member: str, others: str, context: Context, *, inherits: bool, fork: bool = False) -> Flow[None]:
    """The member's next step: it has received what the others had sent before it."""
    docs = yield from QueryDocs(keys.checkpoints(thread(member)))
    if not docs:
        return
    ids = [keys.checkpoint_id_of(doc.name) for doc in docs]
    parent = ids[-1] if fork else ids[0]
    got = ""
    for other in others:
        newest = yield from QueryDocs(keys.checkpoints(thread(other)), limit=1, mask=())
        got += "".join(f"{other}{_number(keys.checkpoint_id_of(doc.name))}" for doc in newest)
    checkpoint_id = f"{_number(ids[0]) + 1}g{got}"
    channels = small(checkpoint_id) | (state(k=b"k") if inherits else {})
    fresh = [name for name in channels if name != "k"]
    if inherits:
        yield from get_checkpoint(keys.checkpoint_doc(thread(member), "", parent), context)
    yield from put_flow(context, checkpoint_id, parent, channels, fresh, thread_id=thread(member), run=member)


def _vote(member: str, context: Context) -> Flow[None]:
    team = (yield from GetDocs((TEAM_DOC,))).get(TEAM_DOC)
    hint = sets.preparing(team)
    if hint is None:
        return
    docs = yield from QueryDocs(keys.checkpoints(thread(member)), limit=1)
    found = sets.vote_in(docs[0]) if docs else None
    if found is not None:
        yield from sets.vote(keys.set_doc(TEAM, hint.set_id), member, found, context)


def _until_decided(name: str) -> Flow[None]:
    while True:
        doc = (yield from GetDocs((name,))).get(name)
        if doc is None or doc.fields["state"] != "preparing":
            return
        yield from Pause(1.0)


def member(name: str, others: str, set_id: str | None = None) -> Process:
    """Stores a step and votes for it. With `set_id`, it waits for the decision, and stores another step."""

    def start(context: Context) -> Flow[None]:
        yield from _continue(name, others, context, inherits=True)
        yield from _vote(name, context)
        if set_id is not None:
            yield from _until_decided(keys.set_doc(TEAM, set_id))
            yield from _continue(name, others, context, inherits=True)

    return Process(name, (Call("run", start),))


def resumed(name: str, others: str, *, inherits: bool = False) -> Process:
    """Continues a member's thread, and knows nothing of the set. What inherits nothing does not touch its parent."""
    return Process(name, (Call("run", lambda context: _continue(name, others, context, inherits=inherits)),))


def forker(name: str, others: str) -> Process:
    """Continues a member's oldest checkpoint."""
    return Process(name, (Call("fork", lambda context: _continue(name, others, context, inherits=True, fork=True)),))


def voter(name: str, letter: str) -> Process:
    """Votes for a member's newest checkpoint, as the member's beat does."""
    return Process(letter, (Call("vote", lambda context: _vote(name, context)),))


def waits(decider: Decider) -> Flow[None]:
    """In place of the wait of a decider: until a vote or the set changes, or the timeout is over."""
    if decider.looks < 2:
        return
    name = keys.set_doc(TEAM, decider.set_id)
    while True:
        votes = tuple(keys.vote_doc(name, member) for member in MEMBERS)
        docs = yield from GetDocs((name, LATE, *votes))
        if LATE in docs:
            return
        yield from Pause(1.0)
        return


MEMBERS = "abc"
"""All members of these scenarios."""


def decider(name: str, set_id: str, *, dies: bool = False, lost: int = 0) -> Process:
    """A coordinator, or what is left: decides the set."""

    def start(context: Context) -> Flow[SetRecord]:
        return sets.prepare(TEAM, set_id, context)

    return Process(name, (Call("decide", start),), dies=dies, lost=lost)


def once(name: str, set_id: str) -> Process:
    """A member that decides a set whose timeout is over."""

    def start(context: Context) -> Flow[Any]:
        while LATE not in (yield from GetDocs((LATE,))):
            yield from Pause(1.0)
        found = yield from sets.decide(TEAM, set_id, context)
        assert found is not None, "it was not decided by the timeout and one round"
        return found

    return Process(name, (Call("decide", start),))


def deadline() -> Process:
    def start(_: Context) -> Flow[None]:
        yield from Commit((Create(LATE, {}),))

    return Process("L", (Call("the timeout is over", start),))


def pruner(name: str, letter: str) -> Process:
    return Process(letter, (pruning.prune(thread_id=thread(name)),))


def deleter(name: str, letter: str, *, force: bool = False) -> Process:
    call = Call("delete_thread", lambda context: threads.delete_thread(thread(name), context, force=force))
    return Process(letter, (call,))


def beginner(letter: str, members: Iterable[str], *, lost: int = 0, dies: bool = False) -> Process:
    """Begins a set of its own, and decides it."""

    def start(context: Context) -> Flow[Any]:
        found = yield from sets.begin(TEAM, members, None, 1e6, context)
        return (yield from sets.prepare(TEAM, found.set_id, context))

    return Process(letter, (Call("begin", start),), lost=lost, dies=dies)


def ender(letter: str, set_id: str, *, lost: int = 0) -> Process:
    return Process(letter, (Call("end", lambda context: sets.end(TEAM, set_id, context)),), lost=lost)


# Scenarios

Scenario = tuple[VotingWorld, tuple[Process, ...]]


def _world(members: str, *, committed: bool = False, begins: bool = True) -> tuple[VotingWorld, str, str]:
    """A team of members with a checkpoint each, the set that is being prepared, and one that was committed before."""
    found: World = VotingWorld()
    context = new_context("0")
    for name in members:
        channels = small("1g") | state(k=b"k")
        _, found = play(put_flow(context, "1g", None, channels, thread_id=thread(name), run=name), found)
    past = ""
    if committed:
        one, found = play(sets.begin(TEAM, members, None, 1e6, context), found)
        past = one.set_id
        one, found = play(sets.prepare(TEAM, past, context), found)
        assert one.state == "committed"
    set_id = ""
    if begins:
        one, found = play(sets.begin(TEAM, members, None, 1e6, context), found)
        set_id = one.set_id
    return VotingWorld(found.table, found.blobs), set_id, past


VOTING: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    VOTING[make.__name__] = make
    return make


@_named
def a_member_that_is_voted_for_and_then_resumed_by_another_process() -> Scenario:
    world, s, _ = _world("ab")
    return world, (resumed("b", "a", inherits=True), resumed("a", "b"), voter("a", "V"), decider("D", s), deadline())


@_named
def a_member_that_votes_and_one_that_is_resumed() -> Scenario:
    world, s, _ = _world("ab")
    _, voted = play(_vote("a", new_context("9")), world)
    return VotingWorld(voted.table, voted.blobs), (member("b", "a"), resumed("a", ""), decider("D", s))


@_named
def a_fork_of_an_older_checkpoint_of_a_member() -> Scenario:
    world, s, _ = _world("ab")
    _, two = play(_continue("a", "", new_context("9"), inherits=True), world)
    world = VotingWorld(two.table, two.blobs)
    return world, (
        forker("a", "b"),
        resumed("b", "a", inherits=True),
        voter("a", "V"),
        voter("b", "W"),
        decider("D", s),
    )


@_named
def members_that_continue_and_prunes() -> Scenario:
    world, s, _ = _world("ab")
    return world, (resumed("a", "b", inherits=True), voter("b", "V"), pruner("a", "P"), decider("D", s))


@_named
def a_deletion_of_a_members_thread() -> Scenario:
    world, s, _ = _world("ab")
    return world, (voter("a", "V"), deleter("b", "X"), decider("D", s), deadline())


@_named
def a_deletion_by_force() -> Scenario:
    world, s, _ = _world("a", committed=True)
    return world, (deleter("a", "X", force=True), decider("D", s), deadline())


@_named
def two_sets_with_the_same_checkpoint_one_of_which_ends() -> Scenario:
    world, s, past = _world("a", committed=True)
    return world, (ender("E", past, lost=1), resumed("a", "", inherits=True), pruner("a", "P"), decider("D", s))


@_named
def a_coordinator_that_crashes() -> Scenario:
    world, s, _ = _world("a")
    return world, (voter("a", "V"), decider("D", s, dies=True, lost=2), once("O", s), deadline())


@_named
def two_deciders_and_the_timeout() -> Scenario:
    world, s, _ = _world("ab")
    return world, (resumed("a", "b", inherits=True), decider("C", s, lost=1), decider("D", s), deadline())


@_named
def three_members() -> Scenario:
    world, s, _ = _world("abc")
    return world, (resumed("a", "bc"), member("c", "ab", s), decider("D", s), deadline())


@_named
def two_coordinators_that_begin_at_once() -> Scenario:
    world, _, _ = _world("a", begins=False)
    return world, (beginner("B", "a", lost=1), beginner("C", "a", dies=True), deadline())
