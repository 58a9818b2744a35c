"""Two stores that replicate each other, with writers, pruners and shippers on both sides.

The flows are the real ones. A process names the store of each effect, so one process can work on both. What was
acknowledged, and what was deleted, is remembered beside the stores, because no document says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    Durable,
    Effect,
    Emit,
    Flow,
    Gather,
    Merge,
    Now,
    On,
    Pause,
    Write,
)
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.flows import prune, replication, roles, shipments
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.roles import Region
from langgraph_gcs_saver.flows.threads import delete_thread
from langgraph_gcs_saver.flows.transfer import SOURCE
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DocumentKind, heir_of, kind_of
from langgraph_gcs_saver.format.regions import FIRST_ROLE, Entry, Role, RoleName, role_of
from langgraph_gcs_saver.policy.retention import Decision, Row

from .scenarios import growing, grown, small
from .world import LOADS, THREAD, Call, Process, Run, World, dangling, get_checkpoint, new_context, play, put_flow

SEGMENT = keys.spread(THREAD)
ROLE = keys.role_doc(SEGMENT[:2])

_LOCAL = (Compute, Durable, Emit, Now, Pause)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two stores, and what is remembered beside them.

    Attributes:
        stores: The stores, by the names S and T.
        acknowledged: Ids of checkpoints that a writer has stored.
        deleted: Ids of checkpoints that a pruner has removed.
        clocks: What was acknowledged at S at each time that a shipper has learned.
        wrong: What is wrong, if anything.
    """

    stores: Mapping[str, World]
    acknowledged: frozenset[str] = frozenset()
    deleted: frozenset[str] = frozenset()
    clocks: Mapping[int, frozenset[str]] = field(default_factory=dict)
    wrong: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for worlds that no process can distinguish."""
        worlds = tuple(self.stores[name].key for name in "ST")
        return worlds, self.acknowledged, self.deleted, tuple(sorted(self.clocks)), self.wrong

    def perform(self, effect: Effect[Any], stamp: int) -> tuple[Any, Pair]:
        """The answer, and both stores after it."""
        assert isinstance(effect, On)
        before = self.stores[effect.store]
        answer, after = before.perform(effect.effect, stamp)
        if after is before:
            return answer, self
        found = replace(self, stores={**self.stores, effect.store: after})
        if isinstance(effect.effect, Commit):
            found = found._judged(effect.store, effect.effect.writes, stamp)
        return answer, found

    def _judged(self, store: str, writes: Iterable[Write], stamp: int) -> Pair:
        names = {write.name for write in writes}
        found = self
        if replication.CLOCK in names:
            found = replace(found, clocks={**self.clocks, stamp: self.acknowledged})
        if keys.MARK in names:
            found = replace(found, wrong=found.wrong or found._uncovered(store))
        if not any(name.endswith(f"/{keys.SHIPS}/{keys.SHIP}") for name in names):
            stored = {keys.checkpoint_id_of(write.name) for write in writes if _stores(write)}
            removed = {keys.checkpoint_id_of(write.name) for write in writes if _removes(write)}
            found = replace(found, acknowledged=found.acknowledged | stored, deleted=found.deleted | removed)
        return found

    def _uncovered(self, store: str) -> str | None:
        doc = self.stores[store].doc(keys.MARK)
        assert doc is not None
        lost = self.clocks.get(doc.fields["mark"], frozenset()) - self.deleted - listed(self.stores[store])
        return f"the mark covers {sorted(lost)}, which {store} has not" if lost else None


def _is_checkpoint(write: Write) -> bool:
    return f"/{keys.CHECKPOINTS}/" in write.name


def _stores(write: Write) -> bool:
    return _is_checkpoint(write) and not isinstance(write, Delete) and "manifest" in write.fields


def _removes(write: Write) -> bool:
    """Whether a write takes a checkpoint off. What was stripped may be deleted later, which changes nothing more."""
    if not _is_checkpoint(write):
        return False
    return isinstance(write, Delete) or (isinstance(write, Merge) and "manifest" in write.remove)


def listed(world: World) -> frozenset[str]:
    """The ids of a store's checkpoints."""
    found = [doc for doc in world.checkpoints() if kind_of(doc) is DocumentKind.CHECKPOINT]
    return frozenset(keys.checkpoint_id_of(doc.name) for doc in found)


# What must hold


def check(pair: Any, runs: tuple[Run, ...]) -> str | None:
    """After every step."""
    for run in runs:
        if run.node.error is not None and not isinstance(run.node.error, ConflictError):
            return f"{run.process.name} raised {run.node.error!r}"
    for name, world in pair.stores.items():
        wrong = dangling(world) or _lacks_heir(world, pair.deleted)
        if wrong is not None:
            return f"I10: {name}: {wrong}"
    wrong: str | None = pair.wrong
    return wrong


def _lacks_heir(world: World, deleted: frozenset[str]) -> str | None:
    there = listed(world)
    for doc in world.checkpoints():
        heir = heir_of(doc)
        if kind_of(doc) is DocumentKind.CHECKPOINT and heir is not None and heir not in there | deleted:
            return f"{keys.checkpoint_id_of(doc.name)} names the heir {heir}, which is missing"
    return None


def check_end(pair: Any, runs: tuple[Run, ...]) -> str | None:
    """When no process can continue."""
    waiting = [run.process.name for run in runs if not run.ended]
    if waiting and not any(run.dead for run in runs):
        return f"waiting for ever: {waiting}"
    for name, world in pair.stores.items():
        for doc in world.checkpoints():
            if kind_of(doc) is DocumentKind.CHECKPOINT:
                loaded, _ = play(get_checkpoint(doc.name, new_context("zz")), world)
                if loaded is None:
                    return f"{name} cannot read {keys.checkpoint_id_of(doc.name)}"
    if any(keys.OUTBOX in doc for world in pair.stores.values() for doc in world.docs):
        return None
    wanted = pair.acknowledged - pair.deleted
    for name, world in pair.stores.items():
        if listed(world) != wanted:
            return f"in the end {name} lists {sorted(listed(world))}; it should list {sorted(wanted)}"
    return None


# What processes do


def placed(flow: Flow[Any], home: str, source: str = "") -> Flow[Any]:
    """A flow whose effects name the stores that perform them, as `NamedStores` would choose them."""

    def named(effect: Effect[Any]) -> Effect[Any]:
        if isinstance(effect, Gather):
            return Gather(tuple(map(named, effect.effects)))
        if isinstance(effect, On):
            assert effect.store == SOURCE
            return On(source, effect.effect)
        return effect if isinstance(effect, _LOCAL) else On(home, effect)

    return through(flow, lambda effect: iter(named(effect)))


TIMES: dict[str, tuple[int, Role]] = {}
"""The update times and roles of the stores of the scenario, as processes have read them."""


def _as_writer(store: str, start: Callable[[Context], Flow[Any]]) -> Callable[[Context], Flow[Any]]:
    """A call at a store that has a role."""

    def started(context: Context) -> Flow[Any]:
        region = Region(
            is_known=True, is_replicated=True, roles={SEGMENT[:2]: TIMES[store]}, new_nonce=context.new_attempt
        )
        return placed(roles.admit(start(context), region), store)

    return started


def put(store: str, checkpoint_id: str, parent: str) -> Call:
    """Store a checkpoint that builds on its parent, which the process reads first unless it has stored it."""
    number = int(checkpoint_id)
    channels = grown(number % 6, "" if number < 6 else store)

    def start(context: Context) -> Flow[Any]:
        name = keys.checkpoint_doc(THREAD, "", parent)
        if context.heads.get(name) is None:
            yield from get_checkpoint(name, context)
        return (yield from put_flow(context, checkpoint_id, parent, channels, ("g",)))

    return Call(f"put of {checkpoint_id} at {store}", _as_writer(store, start))


def remove(store: str, checkpoint_id: str) -> Call:
    """Prune one checkpoint."""

    def choose(rows: list[Row]) -> list[Decision]:
        return [Decision(row, None if row.checkpoint_id == checkpoint_id else "kept") for row in rows]

    def start(context: Context) -> Flow[Any]:
        return prune.prune(THREAD, choose, dry_run=False, loads=LOADS, context=context)

    return Call(f"removal of {checkpoint_id} at {store}", _as_writer(store, start))


def begin_again(store: str, checkpoint_id: str) -> Call:
    """Delete the thread, and store the first checkpoint of a new one with its id."""

    def start(context: Context) -> Flow[Any]:
        yield from delete_thread(THREAD, context)
        return (yield from put_flow(context, checkpoint_id, None, small(checkpoint_id)))

    return Call(f"a new thread with {checkpoint_id} at {store}", _as_writer(store, start))


def ship(source: str, target: str) -> Call:
    def start(context: Context) -> Flow[Any]:
        return placed(replication.ship(SEGMENT, context=context), target, source)

    return Call(f"ship to {target}", start)


def ship_all(source: str, target: str) -> Call:
    """A pass over the outbox, which moves the mark."""

    def start(context: Context) -> Flow[Any]:
        return placed(replication.ship_once(context=context), target, source)

    return Call(f"ship all to {target}", start)


def _pair(s: int, t: int, *, both: bool = False, out: tuple[str, str] | None = None) -> Pair:
    """Two stores that have the first checkpoints of one thread, and have shipped something before.

    Args:
        s: The number of checkpoints of S.
        t: The number of checkpoints of T.
        both: Whether both are primary, as after a forced failover.
        out: A store, and a checkpoint that its outbox has an entry for.
    """
    stores: dict[str, World] = {}
    for store, length, name in (("S", s, "primary"), ("T", t, "primary" if both else "replica")):
        stores[store] = _with_role(growing(length).world, name)
        doc = stores[store].doc(ROLE)
        assert doc is not None
        TIMES[store] = doc.update_time, role_of(doc)
    if out is not None:
        store, checkpoint_id = out
        entry = Entry(keys.outbox_doc(SEGMENT, "0f0000"), "put", keys.checkpoint_doc(THREAD, "", checkpoint_id))
        _, stores[store] = play(iter(Commit((entry.write,))), stores[store])
    return Pair(stores, frozenset(map(str, range(1, max(s, t) + 1))))


def _with_role(world: World, name: Any) -> World:
    role: RoleName = name
    fields = Role(1, role, "memory:").fields
    ship = Create(shipments.ship_doc(SEGMENT), {"token": "00"})
    writes = {write.name: write for write in (Create(ROLE, fields), Create(FIRST_ROLE, fields), ship)}
    _, world = play(iter(Commit(tuple(writes.values()))), world)
    return world


Scenario = tuple[Pair, tuple[Process, ...]]

REPLICATING: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], Scenario]) -> Callable[[], Scenario]:
    REPLICATING[make.__name__] = make
    return make


@_named
def one_way_a_writer_and_a_shipper() -> Scenario:
    return _pair(1, 1), (
        Process("W", (put("S", "2", "1"), put("S", "3", "2"))),
        Process("X", (ship_all("S", "T"), ship_all("S", "T")), lost=1, restarts=True),
    )


@_named
def the_target_deleted_what_the_source_still_ships() -> Scenario:
    return _pair(2, 2, both=True, out=("S", "2")), (
        Process("P", (remove("T", "2"),)),
        Process("X", (ship("S", "T"),)),
        Process("Y", (ship("T", "S"), ship("T", "S"))),
    )


@_named
def the_source_pruned_what_the_target_continued() -> Scenario:
    return _pair(2, 2, both=True), (
        Process("P", (remove("S", "2"),)),
        Process("V", (put("T", "8", "2"),)),
        Process("X", (ship("S", "T"),)),
        Process("Y", (ship("T", "S"),)),
    )


@_named
def one_way_a_writer_a_pruner_and_two_shippers() -> Scenario:
    return _pair(1, 1), (
        Process("W", (put("S", "2", "1"),)),
        Process("P", (remove("S", "2"),)),
        Process("X", (ship("S", "T"),)),
        Process("Y", (ship("S", "T"), ship("S", "T"))),
    )


@_named
def both_wrote() -> Scenario:
    return _pair(1, 1, both=True), (
        Process("W", (put("S", "2", "1"),)),
        Process("V", (put("T", "8", "1"),)),
        Process("X", (ship("S", "T"),)),
        Process("Y", (ship("T", "S"),)),
    )


@_named
def a_shipper_that_crashes_and_its_successor() -> Scenario:
    return _pair(1, 1), (
        Process("W", (put("S", "2", "1"), put("S", "3", "2"))),
        Process("X", (ship("S", "T"),), dies=True),
        Process("Y", (ship("S", "T"), ship("S", "T"))),
    )


@_named
def a_thread_that_begins_again_and_a_shipper() -> Scenario:
    return _pair(1, 1), (
        Process("W", (begin_again("S", "4"),)),
        Process("X", (ship("S", "T"), ship("S", "T"))),
    )
