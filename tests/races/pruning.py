"""Who prunes and copies threads while others work on them: more scenarios, and what must hold there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, CopyBlob, Doc, Effect, Emit, Flow, Gather, Now, PutBlob
from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError, InvalidInputError
from langgraph_gcs_saver.flows import collect as collecting
from langgraph_gcs_saver.flows import copy as copying
from langgraph_gcs_saver.flows import holds
from langgraph_gcs_saver.flows import prune as pruning
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.lineage import History, delta_history
from langgraph_gcs_saver.flows.load import get_tuple
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.flows.verify import verify
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.format.manifest import DocumentKind, kind_of
from langgraph_gcs_saver.policy.retention import KeepLast, Retention, decide

from .scenarios import (
    LARGE_WRITES,
    MIXED_WRITES,
    NO_THREAD,
    Scenario,
    Start,
    chain,
    growing,
    grown,
    large,
    small,
    thread_of,
)
from .world import (
    CODEC,
    DAMAGE,
    EMPTY,
    LOADS,
    SMALL,
    THREAD,
    Call,
    Process,
    Rules,
    Run,
    World,
    delete,
    is_stripped,
    list_all,
    manifest_of,
    new_context,
    play,
    put,
    put_flow,
    put_writes,
    random_bytes,
    read,
    read_pending,
    state,
    values_of,
)

TARGET = "u"
"""The thread that others are copied to."""

LATEST = KeepLast(1)


# Calls


def _pruned(rule: Retention, thread_id: str, context: Context) -> Flow[Any]:
    choose = partial(decide, rule=rule, now=0.0)
    return pruning.prune(thread_id, choose, dry_run=False, loads=LOADS, context=context)


def prune(rule: Retention = LATEST, thread_id: str = THREAD) -> Call:
    return Call("prune", partial(_pruned, rule, thread_id))


def delete_run(run: str) -> Call:
    def start(context: Context) -> Flow[None]:
        return pruning.delete_for_run(run, dry_run=False, loads=LOADS, context=context)

    return Call("delete_for_runs", start)


def copy(source: str = THREAD, target: str = TARGET) -> Call:
    def start(context: Context) -> Flow[Any]:
        return copying.copy_thread(source, target, dry_run=False, context=context)

    return Call("copy_thread", start)


def pin(checkpoint_id: str) -> Call:
    def start(context: Context) -> Flow[bool]:
        return pruning.pin(THREAD, "", checkpoint_id, "mine", context)

    return Call("pin", start, pins=checkpoint_id)


SET = Hold("set", "T", "s")
OTHER_SET = Hold("set", "T", "z")
SAVEPOINT = Hold("savepoint", "saga", "before payment")


def hold(checkpoint_id: str, by: Hold = SET) -> Call:
    """Hold a checkpoint, as the decision about a set and a saga's savepoint do."""

    def start(context: Context) -> Flow[bool]:
        return holds.hold(THREAD, checkpoint_id, by.key, context)

    return Call(f"hold by {by}", start, pins=checkpoint_id)


def unhold(checkpoint_id: str, by: Hold = SET) -> Call:
    return Call(f"end of {by}", lambda context: holds.unhold(THREAD, checkpoint_id, by.key, context))


DAY = 86_400.0

TOMORROW = DAY + 4.0
"""A clock by which what was there at the start is older than a day, and nothing else is: 4 s are less than 2**32 ns."""


def collect(thread_id: str = THREAD) -> Call:
    def start(context: Context) -> Flow[Any]:
        before = (yield from Now()) - DAY
        return (yield from collecting.collect(thread_id, before, dry_run=False, loads=LOADS, context=context))

    return Call("collect", start)


def history(checkpoint_id: str) -> Call:
    def start(context: Context) -> Flow[Any]:
        return delta_history(History(THREAD, "", checkpoint_id, ("d",)), LOADS, context)

    return Call(f"history of {checkpoint_id}", start)


_REPEATED = ("prune", "delete_for_runs", "copy_thread", "collect", "delete_thread")
"""Calls that another process may repeat when they have crashed."""


# What must hold


@dataclass(slots=True)
class Keeping(Rules):
    """What must hold besides, when a process prunes or copies.

    Attributes:
        rule: What the pruners keep. An acknowledged checkpoint may be gone only if the rule does not keep it.
        runs: Runs whose checkpoints are deleted.
        start: The calls that made the thread: what they stored must be kept as well.
        pinned: A checkpoint that was pinned at the start.
        called: Namespaces of subgraphs' calls, and the root checkpoint that each goes with.
        copied: Whether all that the thread had must be in the target once a copy has ended.
        deltas: What the history of a DeltaChannel must give, by checkpoint.
        originals: What a copy of a checkpoint must say, by namespace and id.
        stays: Objects that must be there at the end, because they are too young to be collected.
        replaced: Whether the contents of a checkpoint are replaced. Its former objects are then orphans.
    """

    rule: Retention | None = None
    runs: frozenset[str] = frozenset()
    start: tuple[Call, ...] = ()
    pinned: str | None = None
    called: dict[str, str] = field(default_factory=dict)
    copied: bool = False
    deltas: dict[str, Any] = field(default_factory=dict)
    originals: dict[tuple[str, str], Doc] = field(default_factory=dict)
    stays: tuple[str, ...] = ()
    replaced: bool = False
    _seen: set[Any] = field(default_factory=set)

    def check(self, world: World, runs: tuple[Run, ...]) -> str | None:
        return Rules.check(self, world, runs) or _looks_lost(world) or self._other_history(world, runs)

    def check_end(self, world: World, runs: tuple[Run, ...]) -> str | None:
        return (
            Rules.check_end(self, world, runs)
            or self._unpinned(world, runs)
            or self._not_copied(world, runs)
            or next((f"{name} was too young to be collected" for name in self.stays if name not in world.blobs), None)
            or self._other_copy(world)
            or self._history_lost(world)
            or self._start_lost(world)
            or _damage_told(world)
            or self._check_cleaned(world, runs)
        )

    def _halves(self, world: World, thread_id: str = THREAD) -> str | None:
        hidden = {name for name in world.docs if f"/{keys.WRITES}/" in name and not _is_read(world, name)}
        visible = world.without(hidden)
        return Rules._halves(self, visible) or Rules._halves(self, visible, TARGET)

    def _lost(self, call: Call, world: World) -> str | None:
        if call.stores is not None and self._may_go(call, world):
            return None
        if call.writes is not None and not _is_listed(world, THREAD, "", call.writes[0]):
            return None
        return Rules._lost(self, call, world)

    def _may_go(self, call: Call, world: World) -> bool:
        """Whether a checkpoint may be gone: its run's are deleted, or the rule keeps later ones in its place."""
        assert call.stores is not None
        ns, checkpoint_id, _ = call.stores
        if call.run in self.runs:
            return True
        # A subgraph's call goes with the root checkpoint that made it.
        ns, checkpoint_id = ("", self.called[ns]) if ns in self.called else (ns, checkpoint_id)
        if ns == "" and checkpoint_id == self.pinned:
            return False
        count = self.rule.count if isinstance(self.rule, KeepLast) else 0
        listed = [doc for doc in _listed(world, THREAD) if keys.ns_segment_of(doc.name) == keys.enc(ns)]
        later = [doc for doc in listed if keys.checkpoint_id_of(doc.name) > checkpoint_id]
        return bool(count) and len(later) >= count

    def _start_lost(self, world: World) -> str | None:
        if self.may_vanish or self.empty:
            return None
        return next((wrong for call in self.start if (wrong := self._lost(call, world)) is not None), None)

    def _not_copied(self, world: World, runs: tuple[Run, ...]) -> str | None:
        if not self.copied or not any(call.label == "copy_thread" for run in runs for call, _ in run.node.done):
            return None
        for call in self.start:
            if call.stores is not None and not _is_listed(world, TARGET, call.stores[0], call.stores[1]):
                return f"{call.label} was not copied"
            if call.writes is not None:
                checkpoint_id, task, found = call.writes
                visible = read_pending(world, checkpoint_id, TARGET)
                if any((task, idx) not in visible for idx in found):
                    return f"{call.label} was not copied"
                if any(visible[task, idx] not in self._values(checkpoint_id, task, idx) for idx in found):
                    return f"{call.label} was copied as {visible}"
        return None

    def _values(self, checkpoint_id: str, task: str, idx: int) -> list[Any]:
        return [call[idx] for call in self.calls[checkpoint_id, task] if idx in call]

    def _unpinned(self, world: World, runs: tuple[Run, ...]) -> str | None:
        done = [done for run in runs for done in run.node.done]
        pinned = {call.pins for call, result in done if call.pins is not None and result} | {self.pinned}
        for checkpoint_id in pinned - {None}:
            if not _is_listed(world, THREAD, "", str(checkpoint_id)):
                return f"I5: {checkpoint_id!r} was pinned, and is gone"
        return None

    def _other_copy(self, world: World) -> str | None:
        """A copy says of itself, and to queries, what its original does."""
        for doc in _listed(world, TARGET):
            known = manifest_of(world.docs[doc.name], world)
            original = self.originals.get((known.ns, known.checkpoint_id))
            if original is None or len(self.puts[known.ns, known.checkpoint_id]) > 1:
                continue
            said, _ = play(read_manifest(original, CODEC), world)
            if not replace(known, thread_id=THREAD).same_content(said):
                return f"the copy of {known.checkpoint_id!r} says something else"
            if any(doc.fields.get(key) != original.fields.get(key) for key in ("ns", "format", "run_id", "filter")):
                return f"the copy of {known.checkpoint_id!r} is found by other queries"
        return None

    def _other_history(self, world: World, runs: tuple[Run, ...]) -> str | None:
        for error in [run.node.error for run in runs]:
            if isinstance(error, CheckpointCorruptError) and _is_listed(world, THREAD, "", error.checkpoint_id):
                return f"I3: it is there, and a history needs it: {error!r}"
        for call, found in [done for run in runs for done in run.node.done]:
            wanted = self.deltas.get(call.label.removeprefix("history of "))
            if call.label.startswith("history of ") and found != wanted:
                return f"I3: {call.label} gave {found}"
        return None

    def _history_lost(self, world: World) -> str | None:
        for doc in _listed(world, THREAD):
            checkpoint_id = keys.checkpoint_id_of(doc.name)
            if checkpoint_id not in self.deltas or self.may_vanish:
                continue
            try:
                found, _ = play(history(checkpoint_id).start(new_context("zw")), world)
            except Exception as error:
                return f"I5: {checkpoint_id!r} has lost its history: {error!r}"
            if found != self.deltas[checkpoint_id]:
                return f"I5: the history of {checkpoint_id!r} is {found}"
        return None

    def _check_cleaned(self, world: World, runs: tuple[Run, ...]) -> str | None:
        """One more call with the same rule must leave only what is needed."""
        left = not any(run.dead or run.node.error for run in runs)
        # The same world may come of calls that have ended and of others that have crashed, which leave more.
        key = world.key, left, tuple(len(run.node.done) for run in runs if run.dead)
        if key in self._seen:
            return None
        self._seen.add(key)
        for number, run in enumerate(runs):
            for call in run.process.calls[len(run.node.done) :] if run.dead else ():
                if call.label in _REPEATED:
                    try:
                        _, world = play(call.start(new_context(f"y{number}")), world)
                    except self.errors:
                        continue
        collectors = [run.process for run in runs if any(call.label == "collect" for call in run.process.calls)]
        for process in collectors:
            for call in process.calls:
                _, world = play(_at(call.start(new_context("yz")), process.clock), world)
        if _is_under_way(
            world, TARGET
        ):  # Even when it was repeated, as the pruner's error says. It says what else to do.
            _, world = play(delete(TARGET).start(new_context("yx")), world)
        for thread_id in (THREAD, TARGET):
            _, world = play(_pruned(self.rule or KeepLast(100), thread_id, new_context("zy")), world)
        for run in sorted(self.runs):
            _, world = play(delete_run(run).start(new_context("zx")), world)
        wrong = Rules.check(self, world, ()) or _looks_lost(world) or _damage_told(world) or self._start_lost(world)
        wrong = wrong or self._history_lost(world) or _found(world)
        collected = any(process.clock >= TOMORROW for process in collectors)
        return wrong or _left(world, objects=collected or (left and not self.replaced and not self.stays), runs=left)


def _at(flow: Flow[Any], clock: float) -> Flow[Any]:
    """The flow, at another time by the wall clock."""
    answer: Any = None
    while True:
        try:
            effect = flow.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = clock if isinstance(effect, Now) else (yield from effect)


def _is_read(world: World, name: str) -> bool:
    """Whether a document of pending writes is one that readers take for whole.

    What a copy brings is whole when its checkpoint is there, and the copy has ended.
    """
    if not name.startswith(f"{keys.writes(TARGET)}/"):
        return not is_stripped(world, name)
    return not _is_under_way(world, TARGET) and _is_listed(world, TARGET, "", keys.writes_checkpoint_id_of(name))


def _is_under_way(world: World, thread_id: str) -> bool:
    """Whether a copy to a thread has not ended."""
    thread = world.doc(keys.thread_doc(thread_id))
    return thread is not None and "copying" in thread.fields


def _listed(world: World, thread_id: str) -> list[Any]:
    below = keys.checkpoints(thread_id)
    return [
        d for d in world.checkpoints() if d.name.startswith(f"{below}/") and kind_of(d) is not DocumentKind.STRIPPED
    ]


def _is_listed(world: World, thread_id: str, ns: str, checkpoint_id: str) -> bool:
    doc = world.doc(keys.checkpoint_doc(thread_id, ns, checkpoint_id))
    return doc is not None and kind_of(doc) is not DocumentKind.STRIPPED


def _looks_lost(world: World) -> str | None:
    """I3: whether the newest checkpoint of a namespace names a newer one that is not there, as a reader sees it."""
    for thread_id in (THREAD, TARGET):
        thread = world.doc(keys.thread_doc(thread_id))
        if thread is not None and "deleting" in thread.fields:
            continue
        seen: set[str] = set()
        for doc in _listed(world, thread_id):
            ns = keys.ns_segment_of(doc.name)
            heir = manifest.heir_of(doc)
            if ns not in seen and heir is not None and heir > keys.checkpoint_id_of(doc.name):
                told = _damage_told(world)
                if told is not None:
                    return f"{told}: {keys.checkpoint_id_of(doc.name)!r} looks as if it had lost {heir!r}"
            seen.add(ns)
    return None


def _damage_told(world: World) -> str | None:
    for thread_id in (THREAD, TARGET):
        seen: list[Any] = []
        try:
            play(get_tuple(thread_id, "", None, LOADS, new_context("zz")), world, seen)
        except Exception as error:
            return f"I3: the latest of {thread_id!r} cannot be read: {error!r}"
        told = [e.event for e in seen if isinstance(e, Emit) and isinstance(e.event, DAMAGE)]
        if told:
            return f"I3: nothing is damaged here: {told}"
    return None


def _found(world: World) -> str | None:
    """What `verify` finds, except for orphans: a process that crashed, or lost a race, has left them."""
    for thread_id in (THREAD, TARGET):
        findings, _ = play(verify(thread_id, "data", LOADS, new_context("zv")), world)
        wrong = [str(one) for one in findings if one.is_damage or one.name not in world.blobs]
        if wrong:
            return f"found: {wrong}"
    return None


def _left(world: World, *, objects: bool, runs: bool) -> str | None:
    """What no checkpoint needs, after everything and one more prune."""
    needed: set[str] = set()
    used: set[str] = set()
    for thread_id in (THREAD, TARGET):
        for doc in _listed(world, thread_id):
            known = manifest_of(world.docs[doc.name], world)
            for channel in known.channels:
                for step in known.steps(channel):
                    (needed if step.frame.attempt is None else used).add(step.name)
    for doc in world.checkpoints():
        if kind_of(doc) is DocumentKind.STRIPPED and ("objects" in doc.fields or doc.name not in needed):
            return f"left: stripped {keys.checkpoint_id_of(doc.name)!r} with {sorted(doc.fields)}"
    for name, stored in world.docs.items():
        if f"/{keys.WRITES}/" in name:
            used |= play(pruning.read_stubs(stored.doc, new_context("zz").codec), world)[0].keys()
    # A process that uploads and does not commit leaves an orphan. So this looks only at objects from before the start.
    before = keys.thread_blobs(THREAD)
    orphans = [name for name in world.blobs if name.startswith(before) and name not in used and "-0" in name]
    if objects and orphans:
        return f"left: objects {orphans}"
    if runs:
        for thread_id in (THREAD, TARGET):
            known_runs = {run for doc in _listed(world, thread_id) for run in manifest.runs_of(doc)}
            for name, stored in world.docs.items():
                if name.startswith(keys.RUNS) and stored.doc.fields.get("thread_id") == thread_id:
                    run = str(stored.doc.fields["run_id"])
                    if run not in known_runs:
                        return f"left: run {run!r}, of which nothing is left in {thread_id!r}"
    return None


def _scenario(
    start: Start,
    *processes: Process,
    rule: Retention | None = None,
    runs: str = "",
    replaced: bool = False,
    copied: bool = False,
    pinned: str | None = None,
    called: Mapping[str, str] | None = None,
    may_vanish: str = "",
    errors: tuple[type[Exception], ...] = (),
    empty: bool = False,
    batch: int = 200,
    deltas: Mapping[str, Any] | None = None,
    aged: tuple[str, ...] = (),
    stays: tuple[str, ...] = (),
) -> Scenario:
    again = {call.stores[1] for process in processes for call in process.calls if call.stores is not None}
    rules = Keeping(
        may_vanish=may_vanish,
        errors=errors,
        empty=empty,
        rule=rule,
        runs=frozenset(runs.split()),
        # Who stores a checkpoint again has not its former writes.
        start=tuple(call for call in start.calls if call.writes is None or call.writes[0] not in again),
        replaced=replaced,
        copied=copied,
        pinned=pinned,
        stays=stays,
        called=dict(called or {}),
        deltas=dict(deltas or {}),
        originals={
            (known.ns, known.checkpoint_id): doc
            for doc in _listed(start.world, THREAD)
            for known in [manifest_of(start.world.docs[doc.name], start.world)]
        },
    )
    for call in (*start.calls, *(call for process in processes for call in process.calls)):
        rules.learn(call)
    return Scenario(start.world, processes, rules, batch, (*start.world.blobs, *aged))


def _after(start: Start, *calls: Call, inline: int | None = None) -> Start:
    """The thread after more calls, by another process."""
    world = start.world
    context = new_context("01") if inline is None else new_context("01", inline=inline)
    for call in calls:
        _, world = play(call.start(context), world)
    return Start(world, start.channels, (*start.calls, *calls))


PRUNING: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    PRUNING[make.__name__] = make
    return make


# A pruner and writers


@_named
def next_step_and_prune() -> Scenario:
    start = chain(3)
    a = start.channels | small("A")
    return _scenario(
        start,
        Process("A", (put("8", "3", a, "s"), put("9", "8", a | large("A"), "o")), lost=1, warm=True),
        Process("P", (prune(),), lost=1),
        rule=LATEST,
    )


@_named
def fork_of_what_goes_and_prune() -> Scenario:
    return _scenario(
        growing(3),
        Process("A", (put("8", "2", grown(3, "A"), "g"), put("9", "8", grown(4, "A"), "g")), lost=1, warm=True),
        Process("P", (prune(),), lost=1),
        rule=LATEST,
    )


@_named
def late_fork_and_prune_in_small_batches() -> Scenario:
    "A fork with an id between others: it is never the latest."
    return _scenario(
        growing(4),
        Process("A", (put("25", "2", grown(3, "A"), "g"), put("26", "25", grown(4, "A"), "g")), lost=1, warm=True),
        Process("P", (prune(),), lost=1),
        rule=LATEST,
        batch=1,
    )


@_named
def two_writers_and_prune() -> Scenario:
    return _scenario(
        growing(2),
        Process("A", (put("7", "2", grown(3, "A"), "g"), put("8", "7", grown(4, "A"), "g")), lost=1, warm=True),
        Process("B", (put("9", "2", grown(3, "B"), "g", run="r2"),), warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
    )


@_named
def two_runs_and_prune() -> Scenario:
    "What is left of a run in the thread says so in the run's document."
    start = chain(2)
    other = _after(start, put("5", "2", start.channels | small("5"), "s", run="r2"))
    a = start.channels | small("A")
    return _scenario(
        other,
        Process("A", (put("3", "2", a, "s"), put("4", "3", a | small("A4"), "s")), lost=1, warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
        batch=1,
    )


@_named
def a_run_that_lost_its_checkpoints_goes_on() -> Scenario:
    start = chain(2)
    other = _after(start, put("5", "2", start.channels | small("5"), "s", run="r2"))
    a = start.channels | small("A")
    return _scenario(
        other,
        Process("A", (put("3", "2", a, "s", run="r3"), put("8", "5", a | small("A4"), "s", run="r3")), warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
    )


@_named
def ids_out_of_order_and_prune() -> Scenario:
    "The clock went back: 15 sorts before its parent, 2."
    first = small("1") | state(t=b"1")
    second = first | small("2")
    start = thread_of((put("1", None, first, "st"), first), (put("2", "1", second, "s"), second))
    back = second | small("15")
    start = _after(start, put("15", "2", back, "s"), put("16", "15", back | state(t=b"16"), "t"))
    last = back | state(t=b"16") | small("17")
    return _scenario(
        start,
        Process("A", (put("17", "16", last, "s"), put("14", "17", last | state(t=b"14"), "t")), lost=1, warm=True),
        Process("P", (prune(),), lost=1),
        rule=LATEST,
        batch=1,
    )


@_named
def objects_only_and_prune() -> Scenario:
    start = _after(chain(1), put("2", "1", chain(1).channels | small("2"), "s"), inline=0)
    a = start.channels | small("A")
    return _scenario(
        start,
        Process("A", (put("8", "1", a, "s"), put("9", "2", a | small("A9"), "s")), lost=1, warm=True, inline=0),
        Process("P", (prune(),), inline=0),
        rule=LATEST,
    )


@_named
def pruned_before_and_writers() -> Scenario:
    "Stripped documents hold frames that the latest needs."
    start = _after(growing(4), prune())
    return _scenario(
        start,
        Process("A", (put("8", "4", grown(5, "A"), "g"), put("9", "8", large("A"), "o")), lost=1, warm=True),
        Process("B", (put("85", "4", grown(5, "B"), "g"),), warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
    )


@_named
def pinned_while_it_is_pruned() -> Scenario:
    start = growing(3)
    return _scenario(
        start,
        Process("A", (pin("2"),), lost=1),
        Process("B", (put("8", "2", grown(3, "B"), "g"),), warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
    )


@_named
def held_while_it_is_pruned() -> Scenario:
    start = growing(3)
    return _scenario(
        start,
        Process("A", (hold("2"),), lost=1),
        Process("B", (put("8", "2", grown(3, "B"), "g"),), warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
    )


@_named
def two_holds_one_of_which_ends_and_prune() -> Scenario:
    "What ends takes off its own hold."
    start = _after(growing(3), hold("2"), hold("2", OTHER_SET))
    return _scenario(
        start,
        Process("A", (unhold("2"), hold("1", SAVEPOINT)), lost=1),
        Process("P", (prune(),), lost=1, dies=True),
        rule=LATEST,
        pinned="2",
        batch=1,
    )


@_named
def readers_and_prune() -> Scenario:
    start = growing(3)
    return _scenario(
        start,
        Process("R", (read(None), read("2"), list_all())),
        Process("A", (put("8", "3", grown(4, "A"), "g"),), warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
        batch=1,
    )


@_named
def two_steps_one_reader_and_prune() -> Scenario:
    "Each latest is followed by another one, and dropped."
    start = growing(2)
    return _scenario(
        start,
        Process("R", (read(None),)),
        Process("A", (put("8", "2", grown(3, "A"), "g"), prune(), put("9", "8", large("A"), "o"), prune()), warm=True),
        rule=LATEST,
    )


@_named
def a_child_before_its_parent_is_read_back_and_prune() -> Scenario:
    "A finds its checkpoint stripped to the frames that B's needs."
    start = chain(2)
    a = start.channels | small("A")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "s"),), warm=True),
        Process("B", (put("9", "8", a | large("B"), "o"),)),
        Process("P", (prune(),)),
        rule=LATEST,
    )


# Other rules, and what they keep besides


@_named
def last_two_and_writers() -> Scenario:
    return _scenario(
        growing(4),
        Process("A", (put("8", "4", grown(5, "A"), "g"), put("9", "8", grown(6, "A"), "g")), lost=1, warm=True),
        Process("B", (put("85", "3", grown(4, "B"), "g", run="r2"),), warm=True),
        Process("P", (prune(KeepLast(2)),), lost=1, dies=True),
        rule=KeepLast(2),
        batch=2,
    )


@_named
def last_two_again_and_again() -> Scenario:
    "Retention as a saver applies it: after each step."
    start = chain(2)
    a, b = start.channels | small("A"), start.channels | large("B")
    two = KeepLast(2)
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "s"), prune(two), put("9", "8", a | large("A"), "o"), prune(two)), warm=True),
        Process("B", (put("85", "2", b, "o"), prune(two)), lost=1, restarts=True),
        rule=two,
    )


@_named
def pinned_before_and_prune() -> Scenario:
    "A pin holds against two pruners and a process that pins another checkpoint."
    start = _after(growing(4), pin("2"))
    return _scenario(
        start,
        Process("A", (pin("3"), put("8", "2", grown(3, "A"), "g")), lost=1, restarts=True),
        Process("P", (prune(),), lost=1),
        Process("Q", (prune(KeepLast(2)),), dies=True),
        rule=LATEST,
        pinned="2",
        batch=1,
    )


def _delta(
    checkpoint_id: str, parent: str | None, tag: str, *, stored: bool = False, run: str = "r1"
) -> tuple[Call, Any]:
    """A checkpoint with a DeltaChannel `d`; its value is stored only now and then."""
    channels = small(tag) | (state(d=[tag]) if stored else {"d": (tag, EMPTY)})
    metadata = {"source": "loop", "counters_since_delta_snapshot": {"d": [0, 0] if stored else [1, 1]}}
    return put(checkpoint_id, parent, channels, channels, run=run, metadata=metadata), channels


def _deltas(*stored: int, length: int, runs: Mapping[int, str] = MappingProxyType({})) -> Start:
    """Checkpoints "1" to `length`; each but the last has the write that leads to the next."""
    start = NO_THREAD
    for number in range(1, length + 1):
        parent, run = (str(number - 1) if number > 1 else None), runs.get(number, "r1")
        made, _ = _delta(str(number), parent, str(number), stored=number in stored, run=run)
        calls = [made] if number == length else [made, put_writes(str(number), "task", [("d", f"w{number}")])]
        start = _after(start, *calls)
    return start


def _history_of(seed: int, last: int) -> dict[str, Any]:
    """What the value is made of after the checkpoint `last`: the stored value of `seed`, and the writes since."""
    writes = [("task", "d", f"w{number}") for number in range(seed, last + 1)]
    return {"d": {"writes": writes, "seed": [str(seed)]}}


@_named
def delta_channel_and_prune() -> Scenario:
    "All ancestors of the latest are needed back to the one that has the value."
    return _scenario(
        _deltas(1, length=4),
        Process("A", (put_writes("4", "task", [("d", "w4")]), _delta("8", "4", "8")[0]), lost=1, warm=True),
        Process("P", (prune(),), lost=1, dies=True),
        Process("R", (history("4"),)),
        rule=LATEST,
        deltas={"2": _history_of(1, 1), "3": _history_of(1, 2), "4": _history_of(1, 3), "8": _history_of(1, 4)},
        batch=1,
    )


@_named
def delta_channel_with_a_newer_value_and_prune() -> Scenario:
    "What is before the newest stored value is pruned, unless a writer continues it. A writer that is late is refused."
    return _scenario(
        _deltas(1, 4, length=5),
        Process("A", (_delta("8", "3", "8")[0],), lost=1, warm=True),
        Process("P", (prune(),), lost=1),
        Process("R", (history("3"),)),
        rule=LATEST,
        errors=(ConflictError, CheckpointCorruptError),
        deltas={"2": _history_of(1, 1), "3": _history_of(1, 2), "5": _history_of(4, 4), "8": _history_of(1, 3)},
        batch=1,
    )


@_named
def subgraph_goes_with_the_step_that_called_it() -> Scenario:
    start = chain(2)
    sub = {"source": "loop", "parents": {"": "1"}}
    ns = "node:1"
    made = [put(number, None, small(f"sub {number}"), "s", ns=ns, metadata=sub) for number in ("11", "12")]
    again = put("13", "12", small("sub 13"), "s", ns=ns, metadata=sub)
    return _scenario(
        _after(start, *made),
        Process("A", (again, put("8", "2", start.channels | small("A"), "s")), warm=True),
        Process("P", (prune(),), lost=1, dies=True),
        rule=LATEST,
        called={ns: "1"},
        batch=2,
    )


# The same id again, and pending writes


@_named
def the_same_put_again_and_prune() -> Scenario:
    "Its answer was lost, and so was, meanwhile, its document."
    start = _after(chain(3), put_writes("2", "old", MIXED_WRITES))
    two = chain(2).channels
    return _scenario(
        start,
        Process(
            "A",
            (
                put("2", "1", two, "s"),
                put_writes("2", "task", MIXED_WRITES),
                put("9", "2", two | large("A"), "o"),
            ),
            lost=1,
            restarts=True,
            warm=True,
        ),
        Process("P", (prune(),)),
        rule=LATEST,
    )


@_named
def other_content_and_prune() -> Scenario:
    start = growing(4)
    two = grown(2, "X")
    return _scenario(
        start,
        Process("A", (put("2", "1", two, "g"), put("25", "2", grown(3, "Y"), "g")), lost=1, warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
        replaced=True,
    )


@_named
def other_content_of_what_was_pruned() -> Scenario:
    start = _after(growing(4), prune())
    return _scenario(
        start,
        Process("A", (put("2", "1", grown(2, "X"), "g"), put("9", "2", grown(3, "Y"), "g")), lost=1),
        Process("B", (put("8", "4", grown(5, "B"), "g"),), warm=True),
        Process("P", (prune(),)),
        rule=LATEST,
        replaced=True,
    )


@_named
def writes_for_what_goes_and_prune() -> Scenario:
    return _scenario(
        _after(chain(3), put_writes("2", "old", [("c", 1), ("__resume__", 1)])),
        Process("A", (put_writes("2", "task", MIXED_WRITES), put_writes("3", "task", MIXED_WRITES)), lost=1),
        Process("P", (prune(),)),
        rule=LATEST,
    )


@_named
def the_same_task_again_and_prune() -> Scenario:
    return _scenario(
        _after(chain(3), put_writes("2", "task", [("__error__", "e")])),
        Process("A", (put_writes("2", "task", [("c", 1), ("__interrupt__", "i")]),), lost=1),
        Process("B", (put("2", "1", chain(2).channels, "s"),)),
        Process("P", (prune(),)),
        rule=LATEST,
        may_vanish="A",
    )


# Several pruners, dead ones, and deletions


@_named
def two_prunes() -> Scenario:
    return _scenario(
        _after(chain(4), put_writes("2", "old", LARGE_WRITES)),
        Process("P", (prune(),), lost=1),
        Process("Q", (prune(),), lost=1),
        rule=LATEST,
        batch=1,
    )


@_named
def two_prunes_and_a_writer() -> Scenario:
    return _scenario(
        _after(growing(3), put_writes("2", "old", LARGE_WRITES)),
        Process("A", (put("8", "2", grown(3, "A"), "g"), put("9", "8", grown(4, "A"), "g")), warm=True),
        Process("P", (prune(),)),
        Process("Q", (prune(),)),
        rule=LATEST,
    )


@_named
def dead_prune_then_another() -> Scenario:
    return _scenario(
        _after(growing(3), put_writes("2", "old", MIXED_WRITES)),
        Process("P", (prune(),), dies=True, lost=1),
        Process("A", (put("8", "2", grown(3, "A"), "g"),), after="P", warm=True),
        Process("Q", (prune(),), after="P"),
        rule=LATEST,
        batch=1,
    )


@_named
def dead_prune_then_the_same_id() -> Scenario:
    return _scenario(
        _after(chain(3), put_writes("2", "old", MIXED_WRITES)),
        Process("P", (prune(),), dies=True),
        Process("A", (put("2", "1", chain(2).channels, "s"), read("2")), after="P"),
        rule=LATEST,
    )


@_named
def prune_and_deletion() -> Scenario:
    return _scenario(
        _after(growing(3), put_writes("2", "old", MIXED_WRITES)),
        Process("P", (prune(),), lost=1),
        Process("D", (delete(),), lost=1),
        rule=LATEST,
        empty=True,
        errors=(ConflictError,),
    )


@_named
def prune_deletion_and_a_writer() -> Scenario:
    return _scenario(
        growing(3),
        Process("A", (put("8", "2", grown(3, "A"), "g"), put("9", "8", large("A"), "o")), warm=True),
        Process("P", (prune(),)),
        Process("D", (delete(),)),
        rule=LATEST,
        may_vanish="A",
        batch=2,
        errors=(ConflictError,),
    )


# The checkpoints of a run


def _three_runs() -> Start:
    made = [(put("1", None, grown(1), "g", run="r1"), grown(1))]
    for number, run in ((2, "r2"), (3, "r2"), (4, "r3")):
        made.append((put(str(number), str(number - 1), grown(number), "g", run=run), grown(number)))
    return thread_of(*made)


@_named
def run_in_the_middle_and_writers() -> Scenario:
    return _scenario(
        _three_runs(),
        Process("A", (put("8", "4", grown(5, "A"), "g", run="r4"),), lost=1, warm=True),
        Process("B", (put("9", "2", grown(3, "B"), "g", run="r5"),), lost=1, warm=True),
        Process("P", (delete_run("r2"),), lost=1),
        runs="r2",
        batch=2,
    )


@_named
def latest_run_and_a_reader() -> Scenario:
    made = [(put("1", None, large("1"), "o", run="r1"), large("1"))]
    for number in (2, 3):
        values = large(str(number))
        made.append((put(str(number), str(number - 1), values, "o", run="r2"), values))
    return _scenario(
        thread_of(*made),
        Process("R", (read(None),)),
        Process("P", (delete_run("r2"),), dies=True, lost=1),
        runs="r2",
        batch=1,
    )


@_named
def all_runs_and_a_new_one() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        Process("A", (put("8", "2", start.channels | small("A"), "s", run="r2"),), lost=1, warm=True),
        Process("P", (delete_run("r1"),), lost=1),
        Process("R", (read(None),)),
        runs="r1",
    )


# Copies


def _copied() -> Start:
    return _after(growing(3), put_writes("3", "old", [("c", 1), ("__resume__", 1)]))


@_named
def copy_and_a_writer() -> Scenario:
    return _scenario(
        _copied(),
        Process(
            "A",
            (put("8", "3", grown(4, "A"), "g"), put_writes("3", "old", [("c", 1), ("d", 2), ("__interrupt__", "i")])),
            warm=True,
        ),
        Process("C", (copy(),), lost=1),
        copied=True,
        errors=(InvalidInputError,),
        batch=2,
    )


@_named
def copy_and_writes() -> Scenario:
    return _scenario(
        _copied(),
        Process("A", (put_writes("3", "old", [("c", 1), ("d", 2), ("__interrupt__", "i")]),)),
        Process("C", (copy(),)),
        copied=True,
        batch=1,
    )


@_named
def copy_and_a_prune_of_its_source() -> Scenario:
    return _scenario(
        _copied(),
        Process("P", (prune(),)),
        Process("C", (copy(),)),
        rule=LATEST,
        batch=1,
    )


@_named
def copy_and_a_deletion_of_its_source() -> Scenario:
    return _scenario(
        _copied(),
        Process("D", (delete(),)),
        Process("C", (copy(),)),
        may_vanish="C",
        errors=(ConflictError,),
        batch=2,
    )


@_named
def copy_and_a_deletion_of_its_target() -> Scenario:
    return _scenario(
        _after(chain(2)),
        Process("D", (delete(TARGET),)),
        Process("C", (copy(),)),
        batch=2,
    )


@_named
def copy_and_two_deletions_of_its_target() -> Scenario:
    "A deletion that ends late must not take the objects of a new copy."
    values = large("1")
    return _scenario(
        _after(thread_of((put("1", None, values, "o"), values)), copy()),
        Process("D", (delete(TARGET),)),
        Process("E", (delete(TARGET),)),
        Process("C", (copy(),), after="E"),
        errors=(InvalidInputError,),
    )


def _forked(*more: Call) -> Start:
    """A thread in which "8" has frames of "1". That names no heir, so copying "8" does not touch the copy of "1"."""
    base = small("1") | state(k=random_bytes("k1", SMALL))
    made = [
        (put("1", None, base, base), base),
        (put("2", "1", small("2"), "s"), small("2")),
        (put("8", "1", base | small("8"), "s", run="r8"), base | small("8")),
        (put("9", "1", base | small("9"), "s", run="r9"), base | small("9")),
    ]
    return _after(thread_of(*made[:-1]), made[-1][0], delete_run("r9"), *more)


@_named
def copy_and_a_prune_of_its_target() -> Scenario:
    "What the copy still brings refers to what the pruner has seen."
    return _scenario(
        _forked(),
        Process("C", (copy(),), dies=True),
        Process("P", (prune(thread_id=TARGET),), dies=True),
        rule=LATEST,
        runs="r9",
        errors=(ConflictError, InvalidInputError),
        batch=1,
    )


@_named
def copy_and_a_deletion_of_a_run_from_its_target() -> Scenario:
    return _scenario(
        _forked(),
        Process("C", (copy(),), dies=True),
        Process("P", (delete_run("r1"),), dies=True),
        runs="r1 r9",
        errors=(ConflictError, InvalidInputError),
        batch=1,
    )


@_named
def copy_and_a_collection_of_its_target() -> Scenario:
    "The copy brings frames of what was pruned, which look as if nothing needed them."
    return _scenario(
        _forked(prune()),
        Process("C", (copy(),), dies=True),
        Process("Q", (collect(TARGET),), clock=TOMORROW, dies=True),
        rule=LATEST,
        runs="r9",
        errors=(InvalidInputError,),
        batch=1,
    )


@_named
def two_copies_to_one_target() -> Scenario:
    return _scenario(
        _after(growing(2)),
        Process("B", (copy(),)),
        Process("C", (copy(),)),
        copied=True,
        errors=(InvalidInputError,),
        batch=1,
    )


@_named
def copy_and_a_writer_of_its_target() -> Scenario:
    other = grown(2, "T")
    call = Call("put of 2", lambda context: put_flow(context, "2", None, other, thread_id=TARGET))
    found = _scenario(growing(3), Process("A", (call,)), Process("C", (copy(),)), errors=(InvalidInputError,), batch=1)
    found.rules.puts["", "2"].append(values_of(other))
    return found


@_named
def dead_copy_then_its_source_changes() -> Scenario:
    return _scenario(
        growing(3),
        Process("B", (copy(),), dies=True),
        Process("A", (put("2", "1", grown(2, "X"), "g"), put("8", "2", grown(3, "Y"), "g")), after="B", warm=True),
        Process("C", (copy(),), after="A"),
        errors=(InvalidInputError,),
        replaced=True,
        batch=1,
    )


# Collectors


def _stopped(start: Start, flow: Flow[Any], kind: type[Effect[Any]], number: int = 1) -> Start:
    """The thread after a call that crashed, once so many of its effects of a kind were performed."""

    def until() -> Flow[None]:
        answer: Any = None
        left = number
        while left:
            effect = flow.send(answer)
            parts = effect.effects if isinstance(effect, Gather) else (effect,)
            left -= sum(isinstance(part, kind) for part in parts)
            answer = yield from effect
        flow.close()

    return replace(start, world=play(until(), start.world)[1])


def _with_orphan(start: Start) -> Start:
    """The thread, and an object of a put that crashed before its commit."""
    return _stopped(start, put("7", None, large("orphan"), "o").start(new_context("02")), PutBlob)


def _half_pruned(start: Start) -> Start:
    """The thread, and what was left by a pruner that crashed after it had removed checkpoints."""
    return _stopped(start, prune().start(new_context("03")), Commit)


@_named
def collect_and_writers() -> Scenario:
    return _scenario(
        _with_orphan(_half_pruned(_after(growing(4), put_writes("2", "old", LARGE_WRITES)))),
        Process("A", (put("8", "4", grown(5, "A"), "g"), put("9", "8", large("A"), "o")), lost=1, warm=True),
        Process("Q", (collect(),), clock=TOMORROW, lost=1, dies=True),
        rule=LATEST,
    )


@_named
def collect_too_early_and_writers() -> Scenario:
    start = _with_orphan(chain(2))
    return _scenario(
        start,
        Process("A", (put("8", "2", start.channels | large("A"), "o"),), lost=1, dies=True),
        Process("Q", (collect(),), clock=DAY - 1.0),
        stays=tuple(start.world.blobs),
    )


@_named
def collect_and_an_upload_that_takes_hours() -> Scenario:
    "The collector finds what was uploaded hours ago, as old as it is; its writer starts over."
    return _scenario(
        chain(1),
        Process("A", (put("8", None, large("A"), "o"), put_writes("8", "task", LARGE_WRITES)), lost=1, slow=True),
        Process("Q", (collect(),), clock=TOMORROW),
        aged=("-a0000000",),
    )


@_named
def collect_and_what_dead_writers_left() -> Scenario:
    start = chain(2)
    return _scenario(
        start,
        Process(
            "A", (put("8", "2", start.channels | large("A"), "o"), put_writes("8", "task", MIXED_WRITES)), dies=True
        ),
        Process("Q", (collect(),), clock=TOMORROW, after="A", lost=1),
        Process("B", (put("9", "2", start.channels | large("B"), "o"),), warm=True),
        aged=("-a0",),
    )


@_named
def collect_prune_and_a_fork() -> Scenario:
    return _scenario(
        _with_orphan(growing(3)),
        Process("A", (put("8", "2", grown(3, "A"), "g"), put("9", "8", grown(4, "A"), "g")), lost=1, warm=True),
        Process("P", (prune(),), dies=True),
        Process("Q", (collect(),), clock=TOMORROW),
        rule=LATEST,
        batch=2,
    )


@_named
def collect_and_the_same_put_again() -> Scenario:
    "What a dead pruner took off comes again while it is cleaned up."
    two = chain(2).channels
    return _scenario(
        _half_pruned(_after(chain(3), put_writes("2", "old", MIXED_WRITES))),
        Process("A", (put("2", "1", two, "s"), put("9", "2", two | large("A"), "o")), lost=1, restarts=True),
        Process("Q", (collect(),), clock=TOMORROW),
        rule=LATEST,
    )


@_named
def two_collectors_and_a_deletion() -> Scenario:
    return _scenario(
        _with_orphan(_half_pruned(growing(3))),
        Process("P", (collect(),), clock=TOMORROW),
        Process("Q", (collect(),), clock=TOMORROW, lost=1),
        Process("D", (delete(),)),
        empty=True,
        batch=2,
        errors=(ConflictError,),
    )


@_named
def collect_and_a_dead_copy_repeated() -> Scenario:
    "What the dead copy has copied is old, and nothing refers to it; the next call takes it for its own."
    start = _stopped(chain(2), copy().start(new_context("04")), CopyBlob)
    return _scenario(
        start,
        Process("C", (copy(),), lost=1),
        Process("Q", (collect(TARGET),), clock=TOMORROW),
        copied=True,
        errors=(InvalidInputError,),
    )


@_named
def collect_and_writes_that_came_too_early() -> Scenario:
    "Their checkpoint has not come, and the thread has continued. Then one more write of the same task comes."
    start = _after(chain(3), put_writes("25", "task", [*LARGE_WRITES, ("__error__", "e")]))
    return _scenario(
        start,
        Process("A", (put_writes("25", "task", MIXED_WRITES),)),
        Process("Q", (collect(),), clock=TOMORROW),
        may_vanish="A",
    )
