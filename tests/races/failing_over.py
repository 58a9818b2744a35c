"""Two replicated stores, writers on either side, and people who move the primary, force it, or take that back.

The flows are the real ones: those of writers are admitted as a saver admits them, and changes ship as `failover` does.
A store has two role documents here instead of 256, so that there are fewer to compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Doc,
    Durable,
    Effect,
    Flow,
    Gather,
    Merge,
    Now,
    On,
    Pause,
)
from langgraph_gcs_saver.engine.steps import at, through
from langgraph_gcs_saver.errors import ConflictError, InvalidInputError, NotPrimaryError, OperationInProgressError
from langgraph_gcs_saver.flows import operations, regions, roles
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.operations import Outcome
from langgraph_gcs_saver.flows.regions import Pair
from langgraph_gcs_saver.flows.transfer import SOURCE, TARGET
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format import regions as documents
from langgraph_gcs_saver.format.regions import Role, role_of

from .two_stores import TwoStores
from .world import SMALL, THREAD, Call, Process, Run, World, new_context, play, put_flow, random_bytes, region_of, state

THERE = Pair(source="s", target="t")
BACK = Pair(source="t", target="s")

DIGITS = ("00", documents.digits_of(keys.thread_doc(THREAD)))
NAMES = tuple(map(keys.role_doc, DIGITS))

_EFFECT = "ghost/effect-"
"""What the names of documents begin with that say that an operation took effect."""


def with_few_roles(patch: pytest.MonkeyPatch) -> None:
    """Let a store have two role documents."""
    patch.setattr(documents, "ROLES", NAMES)
    patch.setattr(roles, "ROLES", NAMES)
    patch.setattr(roles, "DIGITS", DIGITS)
    patch.setattr(regions, "_NAMES", (*NAMES, keys.MARK))


def _role(world: World) -> Role:
    doc = world.doc(NAMES[0])
    assert doc is not None
    return role_of(doc)


def _ids(world: World) -> frozenset[str]:
    return frozenset(keys.checkpoint_id_of(doc.name) for doc in world.checkpoints())


class Regions(TwoStores):
    """A world that judges each commit.

    Attributes:
        acknowledged: Ids of the checkpoints that writers have stored, in either store.
        bad: What is wrong.
        is_forced: Whether a change does not wait for the source. Then both stores may be the primary, and the target
            may lack something.
        effects: How often the operation took effect.
        must_end: Whether a call that has ended leaves one primary. Another call in the opposite direction may have
            begun and crashed since.
    """

    acknowledged: frozenset[str] = frozenset()
    bad: str = ""
    is_forced: bool = False
    must_end: bool = True
    effects: int = 0

    @property
    def key(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (*super().key, self.acknowledged, self.bad, self.effects)

    def performed(self, name: str, effect: Effect[Any], answer: Any, after: World) -> Regions:
        made = Regions({**self.stores, name: after})
        made.acknowledged, made.bad, made.effects = self.acknowledged, self.bad, self.effects
        made.is_forced, made.must_end = self.is_forced, self.must_end
        if isinstance(effect, Commit) and answer is not None:
            made._judge(name, effect, _role(self.stores[name]))
        return made

    def _judge(self, name: str, commit: Commit, before: Role) -> None:
        self.effects += sum(write.name.startswith(_EFFECT) for write in commit.writes)
        if self.effects > 1:
            self.bad = self.bad or "I8: the operation took effect in both regions"
        created = {w.name for w in commit.writes if isinstance(w, Create) and f"/{keys.CHECKPOINTS}/" in w.name}
        is_shipped = any(write.name == keys.ship_doc(THREAD) for write in commit.writes)
        if created and not is_shipped:
            self.acknowledged |= set(map(keys.checkpoint_id_of, created))
            if not before.is_primary:
                self.bad = self.bad or f"fenced: {name} takes {sorted(created)} while it is {before.name!r}"
        if self.is_forced:
            return
        primaries = [one for one in (SOURCE, TARGET) if _role(self.stores[one]).is_primary]
        if len(primaries) > 1:
            self.bad = self.bad or "two primaries"
        for one in primaries:
            missing = self.acknowledged - _ids(self.stores[one])
            if missing:
                self.bad = self.bad or f"lost: {one} is the primary without {sorted(missing)}"


def check(world: World, runs: tuple[Run, ...]) -> str | None:
    """After every step."""
    assert isinstance(world, Regions)
    for run in runs:
        if run.node.error is not None and not isinstance(run.node.error, (ConflictError, InvalidInputError)):
            return f"{run.process.name} raised {run.node.error!r}"
    return world.bad or None


def check_end(world: World, runs: tuple[Run, ...]) -> str | None:
    """When no process can continue."""
    assert isinstance(world, Regions)
    primaries = [one for one in (SOURCE, TARGET) if _role(world.stores[one]).is_primary]
    done = [call.label for run in runs for call, _ in run.node.done if call.label in ENDING]
    if len(primaries) != 1 and done and world.must_end:
        return f"end: {done} is done, and {primaries or 'no store'} is the primary"
    if world.is_forced and "failover --force, again" in done:
        missing = world.acknowledged - _ids(world.stores[TARGET])
        if missing:
            return f"lost: the target is the only primary, without {sorted(missing)}"
        if _role(world.stores[TARGET]).unmerged:
            return "end: the target counts as unmerged"
        states = [None if doc is None else doc.fields["state"] for doc in map(_operation_of, world.stores.values())]
        if set(states) == {"done", "unknown"}:
            return "forgotten: one store has the outcome of the operation, and the other one does not know it"
    return None


def _operation_of(world: World) -> Doc | None:
    return world.doc(keys.operation_doc(THREAD, ORDER))


# Calls

ENDING = ("failover", "failover --force, again")
"""Calls after which one store, and only one, is the primary."""


def _put(context: Context, checkpoint_id: str) -> Flow[str]:
    channels = state(v=random_bytes(checkpoint_id, SMALL))
    try:
        yield from roles.admit(put_flow(context, checkpoint_id, checkpoint_id[:-1], channels), region_of(context))
    except NotPrimaryError:
        return "refused"
    return "stored"


def put(store: str, checkpoint_id: str) -> Call:
    """Store a child of a checkpoint in one of the stores, unless that store is not the primary."""
    return Call(f"put of {checkpoint_id}", lambda context: at(store, _put(context, checkpoint_id)))


ORDER = "order-17"
"""The key of the operation."""


def _once(store: str, context: Context) -> Flow[str]:
    call = operations.Call(THREAD, ORDER, "charge", "request", context.new_attempt())
    try:
        found = yield from roles.admit(operations.claim(call, context), region_of(context))
        if not isinstance(found, operations.Claim):
            return found.state
        yield from Commit((Merge(f"{_EFFECT}{store}", {}),))
        yield from roles.admit(operations.record_outcome(found, Outcome("done"), context), region_of(context))
    except (NotPrimaryError, OperationInProgressError) as error:
        return type(error).__name__
    return "done"


def once(store: str) -> Call:
    """Perform one operation, in one of the stores."""
    return Call("once", lambda context: at(store, _once(store, context)))


def change() -> Call:
    """Make the target the primary, as `failover` does."""
    return Call("failover", lambda context: regions.planned(THERE, context))


def change_back() -> Call:
    """The same with the two stores swapped."""
    return Call("failover", lambda context: through(regions.planned(BACK, context), _swapped))


def _swapped(effect: Effect[Any]) -> Flow[Any]:
    leaves = effect.effects if isinstance(effect, Gather) else (effect,)
    own = tuple(_other(leaf) for leaf in leaves)
    return iter(Gather(own) if isinstance(effect, Gather) else own[0])


def _other(effect: Effect[Any]) -> Effect[Any]:
    if isinstance(effect, On):
        return On(TARGET if effect.store == SOURCE else SOURCE, effect.effect)
    return effect if isinstance(effect, (Compute, Durable, Now, Pause)) else On(SOURCE, effect)


def take_back() -> Call:
    return Call("failover --abort", lambda _: regions.taken_back(THERE))


def force(*, again: bool = False) -> Call:
    return Call(f"failover --force{', again' if again else ''}", lambda context: regions.forced(THERE, context))


# Scenarios

Scenario = tuple[Regions, tuple[Process, ...]]
CHANGING: dict[str, Callable[[], Scenario]] = {}


def _stores(source: Role, target: Role) -> Regions:
    """Both stores, with one checkpoint."""
    found = {}
    for name, role in ((SOURCE, source), (TARGET, target)):
        context = new_context("0")
        _, world = play(put_flow(context, "1", None, state(v=random_bytes("1", SMALL))), World())
        marks = [Create(one, {"mark": 1}) for one in (keys.ship_doc(THREAD), keys.MARK)]
        found[name] = world.perform(Commit((*role.writes({}), *marks)), 1)[1]
    made = Regions(found)
    made.acknowledged = frozenset({"1"})
    return made


def _named(make: Callable[[], tuple[Process, ...]]) -> Callable[[], tuple[Process, ...]]:
    def scenario() -> Scenario:
        world = _stores(Role(1, "primary", THERE.target), Role(1, "replica", THERE.source))
        world.is_forced, world.must_end = "forced" in make.__name__, "back" not in make.__name__
        return world, make()

    CHANGING[make.__name__] = scenario
    return make


@_named
def a_change_and_writers_on_both_sides() -> tuple[Process, ...]:
    return (
        Process("A", (change(),), lost=1, dies=True),
        Process("W", (put(SOURCE, "1W"), put(SOURCE, "1WW"))),
        Process("V", (put(TARGET, "1V"),)),
    )


@_named
def two_calls_of_one_change() -> tuple[Process, ...]:
    return (
        Process("A", (change(),), dies=True),
        Process("B", (change(),)),
        Process("W", (put(SOURCE, "1W"),)),
    )


@_named
def a_change_and_one_that_takes_it_back() -> tuple[Process, ...]:
    return (
        Process("A", (change(),), dies=True),
        Process("B", (take_back(),)),
        Process("W", (put(SOURCE, "1W"),)),
    )


@_named
def there_and_back_again() -> tuple[Process, ...]:
    return (
        Process("A", (change(),), dies=True),
        Process("B", (change_back(),)),
        Process("W", (put(SOURCE, "1W"),)),
    )


@_named
def there_and_back_again_and_taken_back() -> tuple[Process, ...]:
    return (
        Process("A", (change(),), dies=True),
        Process("B", (change_back(),), dies=True),
        Process("C", (take_back(),), after="AB"),
        Process("V", (put(TARGET, "1V"),)),
    )


@_named
def forced_and_then_the_source_is_reached() -> tuple[Process, ...]:
    return (
        Process("F", (force(), force(again=True)), dies=True),
        Process("W", (put(SOURCE, "1W"), put(SOURCE, "1WW"))),
        Process("V", (put(TARGET, "1V"),)),
    )


@_named
def forced_beside_an_operation() -> tuple[Process, ...]:
    return (
        Process("F", (force(), force(again=True)), dies=True),
        Process("W", (once(SOURCE),), dies=True),
        Process("V", (once(TARGET),)),
    )


@_named
def forced_beside_a_planned_change() -> tuple[Process, ...]:
    return (
        Process("A", (change(),), dies=True),
        Process("F", (force(), force(again=True))),
        Process("W", (put(SOURCE, "1W"),)),
    )
