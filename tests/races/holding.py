"""Holds beside deletions of threads and of runs, which must not remove what a set needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langgraph_gcs_saver.engine.effects import Flow, GetDocs, Merge
from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError, ThreadInSetError
from langgraph_gcs_saver.flows import holds
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import HOLDS, keys_of
from langgraph_gcs_saver.format.manifest import RUNS_BY, DocumentKind, kind_of

from .pruning import OTHER_SET, SAVEPOINT, SET, _after, _deltas, _history_of, delete_run, history, hold, unhold
from .scenarios import Start, chain, growing, small
from .world import THREAD, Call, Process, Rules, Run, World, delete, new_context, play, put


@dataclass(frozen=True, slots=True)
class Scenario:
    """A world, the processes that start on it, and what must hold."""

    world: World
    processes: tuple[Process, ...]
    rules: Holding


@dataclass(slots=True)
class Holding(Rules):
    """What must hold beside what holds without sets.

    Attributes:
        held: Checkpoints that a set holds from the start to the end.
        deltas: What the history of a DeltaChannel must give, by checkpoint.
    """

    held: frozenset[str] = frozenset()
    deltas: dict[str, Any] = field(default_factory=dict)

    def check(self, world: World, runs: tuple[Run, ...]) -> str | None:
        if any(doc.fields.keys() == {HOLDS} for doc in world.checkpoints()):
            return "I9: a hold has brought back the document of a deleted checkpoint"
        for checkpoint_id in sorted(self.held | _acknowledged(runs)):
            doc = world.doc(keys.checkpoint_doc(THREAD, "", checkpoint_id))
            if doc is None or kind_of(doc) is not DocumentKind.CHECKPOINT:
                return f"I9: {checkpoint_id!r} is held, and is gone"
            if not keys_of(doc):
                return f"I9: {checkpoint_id!r} has lost its hold"
        return Rules.check(self, world, runs)

    def check_end(self, world: World, runs: tuple[Run, ...]) -> str | None:
        held = self.held | _acknowledged(runs)
        for checkpoint_id in sorted(held & self.deltas.keys()):
            try:
                found, _ = play(history(checkpoint_id).start(new_context("zw")), world)
            except CheckpointCorruptError as error:
                return f"I9: {checkpoint_id!r} is held, and has lost its history: {error!r}"
            if found != self.deltas[checkpoint_id]:
                return f"I9: {checkpoint_id!r} is held, and its history is {found}"
        thread = world.doc(keys.thread_doc(THREAD))
        is_marked = thread is not None and "deleting" in thread.fields
        if is_marked and not any(run.dead for run in runs):
            return "the mark of a deletion is left"
        if held:
            return Rules.check_end(self, world, runs)
        return None


def _acknowledged(runs: tuple[Run, ...]) -> frozenset[str]:
    """Checkpoints that a set holds, as far as the processes have been answered."""
    done = (one for run in runs for one in run.node.done)
    return frozenset(str(call.pins) for call, result in done if call.pins is not None and result)


def _scenario(start: Start, *processes: Process, held: str = "", deltas: Any = None) -> Scenario:
    rules = Holding(errors=(ThreadInSetError,), may_vanish="A", held=frozenset(held.split()), deltas=deltas or {})
    for call in (*start.calls, *(call for process in processes for call in process.calls)):
        rules.learn(call)
    return Scenario(start.world, processes, rules)


def _hold_beside(checkpoint_id: str, needed: str) -> Call:
    """Hold a checkpoint if another one is there at that instant; false if not, or if the answer was lost."""

    def start(context: Context) -> Flow[bool]:
        name = keys.checkpoint_doc(THREAD, "", needed)
        doc = (yield from GetDocs((name,), mask=RUNS_BY)).get(name)
        if doc is None or kind_of(doc) is not DocumentKind.CHECKPOINT:
            return False
        check = Merge(name, {}, update_time=doc.update_time)
        try:
            return (yield from holds.hold(THREAD, checkpoint_id, SET.key, context, beside=(check,)))
        except ConflictError:
            return False

    return Call("hold", start, pins=checkpoint_id)


HOLDING: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    HOLDING[make.__name__] = make
    return make


@_named
def a_hold_and_a_deletion() -> Scenario:
    return _scenario(growing(3), Process("A", (hold("3"),), lost=1), Process("D", (delete(),), lost=1))


@_named
def a_step_that_is_held_and_a_deletion() -> Scenario:
    start = chain(2)
    step = put("8", "2", start.channels | small("A"), "s")
    return _scenario(start, Process("A", (step, hold("8")), warm=True), Process("D", (delete(),)))


@_named
def a_hold_and_two_deletions() -> Scenario:
    return _scenario(chain(1), Process("A", (hold("1"),)), Process("D", (delete(),)), Process("E", (delete(),)))


@_named
def two_sets_one_of_which_ends_and_a_deletion() -> Scenario:
    start = _after(chain(2), hold("2"), hold("2", OTHER_SET))
    return _scenario(
        start,
        Process("A", (unhold("2"), put("8", "2", start.channels | small("A"), "s")), lost=1),
        Process("D", (delete(),), lost=1),
        held="2",
    )


@_named
def a_set_that_ends_and_a_deletion() -> Scenario:
    "Either the set has ended, and all goes, or nothing."
    return _scenario(_after(chain(2), hold("2")), Process("B", (unhold("2"),), lost=1), Process("D", (delete(),)))


@_named
def a_deletion_that_dies_a_hold_and_another_deletion() -> Scenario:
    return _scenario(
        growing(2),
        Process("D", (delete(),), dies=True),
        Process("A", (hold("2"),)),
        Process("E", (delete(),), after="D"),
    )


@_named
def a_hold_and_a_deletion_of_a_run_that_its_channel_needs() -> Scenario:
    return _scenario(
        _deltas(1, length=3, runs={2: "r2"}),
        Process("A", (_hold_beside("3", "2"),), lost=1),
        Process("D", (delete_run("r2"),), lost=1),
        deltas={"3": _history_of(1, 2)},
    )


@_named
def a_hold_and_a_deletion_of_its_run() -> Scenario:
    start = chain(1)
    made = put("2", "1", start.channels | small("2"), "s", run="r2")
    return _scenario(
        _after(start, made),
        Process("A", (hold("2", SAVEPOINT), hold("2", SET)), lost=1),
        Process("D", (delete_run("r2"),), lost=1),
    )
