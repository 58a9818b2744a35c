"""What one store has, another one gets: checkpoints, pending writes, side effects, and their deletion."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver, compensation
from langgraph_gcs_saver import run as run_graph
from langgraph_gcs_saver.engine.effects import Commit, Delete, DeleteBlobs, Flow, GetDocs, Merge, PutBlob, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import CheckpointCorruptError, DamageError, NotPrimaryError, StoreError, WrongKeyError
from langgraph_gcs_saver.flows import replication, shipments
from langgraph_gcs_saver.flows.regions import Pair, forced
from langgraph_gcs_saver.format import keys, regions, sagas
from langgraph_gcs_saver.format.regions import Entry
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing import CountingInterceptor
from tests.behaviour.api import cfg, cid
from tests.compat.xor_cipher import XorCipher
from tests.faults.turns import State as Turns
from tests.kit.regions import begin, left_of, objects, outbox, reconcile, replicated, set_role, ship, stores
from tests.stateful.threads import LONG, everything, fill, put, stored_as

UNDO = "cancel a booking, in test_replication"


@compensation(UNDO)
def cancel_a_booking(_: object) -> None:
    """Nothing is booked here."""


def repeated() -> Any:
    pytest.fail("repeated")


Open = Callable[..., GCSSaver]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens stores in memory, and closes them."""
    found: list[GCSSaver] = []

    def open_store(uri: str = "memory:", **options: Any) -> GCSSaver:
        found.append(GCSSaver.from_conn_string(uri, **options))
        return found[-1]

    yield open_store
    for one in found:
        one.close()


@pytest.mark.parametrize(("variant", "thread"), [("inline", "t"), ("objects", LONG), ("cipher", "t"), ("stubs", LONG)])
def test_a_thread_as_it_is_filled_pruned_and_deleted(
    opened: Open, monkeypatch: pytest.MonkeyPatch, variant: str, thread: str
) -> None:
    with stored_as(variant, monkeypatch) as options:
        source, target = opened(**options), opened(**options)
        begin(source, target)
        fill(source, thread)
        done = ship(source, target)
        assert done.threads == 1
        assert done.mark is not None
        assert replicated(target) == replicated(source)
        assert everything(target, thread) == everything(source, thread)
        source.admin.pin(cfg(thread, n=50), "a label")
        source.prune([thread], strategy=KeepLast(3))
        ship(source, target)
        assert replicated(target) == replicated(source)
        assert everything(target, thread) == everything(source, thread)
        assert target.admin.pins(cfg(thread)) == {cid(50): "a label"}
        assert list(target.admin.verify(thread, depth="data")) == []
        with pytest.raises(NotPrimaryError):
            put(target, thread, 90, 80)
        source.delete_thread(thread)
        ship(source, target)
        assert left_of(target, thread) == left_of(source, thread) == []
        # The same ids, with other values.
        put(source, thread, 10, salt="again")
        put(source, thread, 20, 10, salt="again")
        ship(source, target)
        assert everything(target, thread) == everything(source, thread)
        assert replicated(target) == replicated(source)


def test_a_recreated_thread_of_which_nothing_was_shipped_in_between(opened: Open) -> None:
    source, target = opened(), opened()
    begin(source, target)
    fill(source)
    ship(source, target)
    source.delete_thread("t")
    put(source, "t", 10, salt="again")
    put(source, "t", 20, 10, salt="again")
    ship(source, target)
    assert everything(target) == everything(source)
    assert replicated(target) == replicated(source)


class Before(Interceptor):
    """Does something else before the next effect of a kind, once `other` is set."""

    def __init__(self, is_moment: Callable[[Any], bool]) -> None:
        self.is_moment = is_moment
        self.other: Callable[[], object] | None = None

    def around(self, effect: Any, perform: Any) -> Any:
        if self.other is not None and self.is_moment(effect):
            other, self.other = self.other, None
            other()
        return perform(effect)


def stores_copies(effect: Any) -> bool:
    return isinstance(effect, Commit) and any(write.name.startswith(COPIES) for write in effect.writes)


def reads_entries(effect: Any) -> bool:
    return isinstance(effect, QueryDocs) and (effect.start or "").startswith(keys.OUTBOX)


COPIES = f"{keys.checkpoints('copy')}/"


def test_a_thread_that_is_copied_again_keeps_its_pending_writes(opened: Open) -> None:
    between = Before(stores_copies)
    source, target = opened(interceptors=[between]), opened()
    begin(source, target)
    fill(source)
    source.admin.copy_thread("t", "copy")
    ship(source, target)
    source.delete_thread("copy")
    # The pending writes of a copy have the same names each time, and come before their checkpoints.
    between.other = lambda: ship(source, target)
    source.admin.copy_thread("t", "copy")
    assert between.other is None
    ship(source, target)
    assert replicated(target) == replicated(source)
    assert everything(target, "copy") == everything(source, "copy")


@pytest.mark.parametrize("is_there", [True, False])
def test_a_thread_that_begins_again_while_its_deletion_is_shipped(opened: Open, is_there: bool) -> None:
    """The shipment has seen that the thread is gone, and then finds the entries of the new one."""
    before = Before(reads_entries)
    source, target = opened(interceptors=[before]), opened()
    begin(source, target)
    put(source, "t", 10)
    if is_there:
        ship(source, target)
    source.delete_thread("t")

    def again() -> None:
        put(source, "t", 30, salt="again")
        source.put_writes(cfg("t", n=30), [("c", 1)], "task")

    before.other = again
    ship(source, target)
    assert before.other is None
    assert outbox(source) == []
    assert replicated(target) == replicated(source)
    assert everything(target, "t") == everything(source, "t")


def test_a_shipper_that_comes_after_another_one_leaves_nothing_of_a_deleted_thread(opened: Open) -> None:
    source, target = opened(), opened()
    begin(source, target)
    put(source, "t", 10)
    source.delete_thread("t")
    ship(source, target)
    late = run(replication.ship(keys.spread("t"), context=target._context), stores(source, target))
    assert late.entries == 0
    assert left_of(source, "t") == left_of(target, "t") == []


def test_entries_in_any_number_and_order(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry alone, the newest first: what a checkpoint needs comes with it, and the heirs come in the end."""
    source, target = opened(), opened()
    begin(source, target)
    fill(source)
    names = sorted(outbox(source), reverse=True)
    for name in names:
        monkeypatch.setattr(replication, "entries_of", only(name))
        run(replication.ship(keys.spread("t"), context=target._context), stores(source, target))
        assert list(target.admin.verify("t", depth="data")) == []
    assert outbox(source) == []
    assert replicated(target) == replicated(source)


def only(name: str) -> Callable[[str], Flow[tuple[list[Entry], None]]]:
    """A list of a single entry, as if the others came later."""

    def entries_of(segment: str) -> Flow[tuple[list[Entry], None]]:
        entries, _ = yield from shipments.entries_of(segment)
        return [entry for entry in entries if entry.name == name], None

    return entries_of


def test_an_outbox_of_several_pages(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipments, "ENTRIES_PER_PAGE", 5)
    monkeypatch.setattr(replication, "ENTRIES_PER_PAGE", 5)
    source, target = opened(), opened()
    begin(source, target)
    fill(source)
    entries = len(outbox(source))
    some = run(replication.ship_once(limit=7, context=target._context), stores(source, target))
    assert not some.is_all
    assert some.mark is None
    done = ship(source, target)
    assert some.entries + done.entries == entries
    assert replicated(target) == replicated(source)


def test_what_a_step_takes(opened: Open) -> None:
    """The target's document of the thread, one commit there, and one in the source."""
    here, there = CountingInterceptor(), CountingInterceptor()
    source, target = opened(interceptors=[here]), opened(interceptors=[there])
    begin(source, target)
    put(source, "t", 10)
    ship(source, target)
    put(source, "t", 20, 10)
    here.clear()
    there.clear()
    run(replication.ship(keys.spread("t"), context=target._context), stores(source, target))
    expected = {"GetDocs": 3, "QueryDocs": 1, "Commit": 1}
    assert (here.requests, there.requests) == (expected, expected)


def test_a_delta_channel_has_its_writes_there(opened: Open) -> None:
    source, target = opened(), opened()
    begin(source, target)
    graph = StateGraph(Turns)
    graph.add_node("node", lambda state: {one: [str(len(state["log"]))] for one in ("log", "delta")})
    graph.add_edge(START, "node")
    graph.add_conditional_edges("node", lambda state: END if len(state["log"]) == 6 else "node")
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.compile(checkpointer=source).invoke({"log": [], "delta": []}, config)
    ship(source, target)
    states = [list(graph.compile(checkpointer=saver).get_state_history(config)) for saver in (source, target)]
    assert states[0] == states[1]
    assert states[1][0].values["delta"] == [str(number) for number in range(6)]


class State(TypedDict):
    log: Annotated[list[str], operator.add]


def graph_of(saver: GCSSaver, *names: str) -> Any:
    build = StateGraph(State)
    for name in names:
        build.add_node(name, lambda _, name=name: {"log": [name]})
    for one, other in zip((START, *names), (*names, END), strict=True):
        build.add_edge(one, other)
    return build.compile(checkpointer=saver)


def test_side_effects_and_everything_beside_checkpoints(opened: Open) -> None:
    source, target = opened(inline_max_bytes=100), opened(inline_max_bytes=100)
    begin(source, target)
    thread = source.thread("t")
    thread.operations.once("charge", lambda: {"receipt": "1" * 500}, key="order-17")
    thread.operations.once("announce", lambda: "done", key="for all threads", scope="store")
    with thread.batch("b", ["a", "b"]) as batch:
        batch.done(next(iter(batch)), {"output": "x" * 500})
    thread.blobs.put(b"b" * 1000)
    saga = thread.saga("trip")
    saga.once("book", lambda: "hotel", undo=UNDO)
    run_graph(graph_of(source, "one", "two"), {"log": ["hello"]}, {"configurable": {"thread_id": "t"}}, request_id="r1")
    ship(source, target)
    assert replicated(target) == replicated(source)
    kinds = {name.split("/")[2] for name in replicated(target)[0]}
    assert kinds >= {keys.CHECKPOINTS, keys.OPERATIONS, keys.BATCHES, keys.DONE, keys.BLOBS, keys.SAGAS, keys.RESUMES}
    # The new primary continues where the old one was: nothing is repeated.
    set_role(source, "fenced", 2)
    set_role(target, "primary", 2)
    there = target.thread("t")
    assert there.operations.once("charge", repeated, key="order-17") == {"receipt": "1" * 500}
    assert there.operations.once("announce", repeated, key="for all threads", scope="store") == "done"
    with pytest.raises(NotPrimaryError):
        thread.operations.once("charge", lambda: pytest.fail("started"), key="order-18")
    with there.batch("b", ["a", "b"]) as batch:
        assert batch.already_done == 1
        for item in batch:
            assert item == "b"
            batch.done(item)


def test_a_saga_that_is_rolled_back_is_listed_there(opened: Open) -> None:
    source, target = opened(), opened()
    begin(source, target)
    saga = source.thread("t").saga("trip")
    saga.once("book", lambda: "hotel", undo=UNDO)
    name = keys.saga_doc("t", "trip")
    rows = run(iter(QueryDocs(keys.sagas("t"))), source._as_shipper)
    moved = replace(sagas.parse(rows[0], source._context.codec), state="compensating", by="someone")
    fields = sagas.fields_of(moved, source._context.codec)
    assert run(iter(Commit((Merge(name, fields), sagas.note(name, fields)))), source._backend) is not None
    ship(source, target)
    assert [one.saga_id for one in target.admin.rollbacks()] == ["trip"]


def test_a_turn_that_has_not_finished_is_listed_there(opened: Open) -> None:
    source, target = opened(), opened()
    begin(source, target)
    build = StateGraph(State)
    build.add_node("fails", lambda _: 1 / 0)
    build.add_edge(START, "fails")
    graph = build.compile(checkpointer=source)
    with pytest.raises(ZeroDivisionError):
        run_graph(graph, {"log": ["hello"]}, {"configurable": {"thread_id": "t"}}, request_id="r1")
    ship(source, target)
    assert [one.thread_id for one in target.admin.runs()] == ["t"]


def test_a_dictionary_comes_before_what_needs_it(opened: Open, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/here"
    with GCSSaver.from_conn_string(uri) as plain:
        for number in range(60):
            put(plain, f"t{number}", 10)
        trained = plain.admin.train(keep=True)
    assert trained.dictionary is not None
    source, target = opened(uri, dictionary=trained.dictionary), opened()
    begin(source, target)
    put(source, "u", 10)
    ship(source, target)
    assert replicated(source)[0][keys.checkpoint_doc("u", "", cid(10))]["format"] == 2
    assert everything(target, "u") == everything(source, "u")


def test_another_key_ships_nothing(opened: Open) -> None:
    source, target = opened(cipher=XorCipher()), opened()
    begin(source, target)
    fill(source)
    entries = outbox(source)
    found = run(replication.ship_once(context=target._context), stores(source, target))
    assert [type(one.error) for one in found.failures] == [WrongKeyError]
    assert outbox(source) == entries
    assert replicated(target) == ({}, {})
    first = min(time for time in (found.mark,) if time is not None)
    assert first > 0


def test_a_lost_object_is_reported_and_stops_no_other_thread(opened: Open) -> None:
    source, target = opened(inline_max_bytes=100), opened()
    begin(source, target)
    put(source, "t", 10)
    put(source, "u", 10)
    lost = [name for name in objects(source) if name.startswith(f"{keys.spread('t')}/")]
    run(iter(DeleteBlobs((lost[0],))), source._as_shipper)
    found = run(replication.ship_once(context=target._context), stores(source, target))
    assert [(one.thread_id, type(one.error)) for one in found.failures] == [("t", DamageError)]
    assert everything(target, "u") == everything(source, "u")


def test_entries_that_cannot_be_shipped_hide_none(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than a pass reads come first by name; one is damaged, and one names no thread."""
    monkeypatch.setattr(replication, "ENTRIES_PER_PAGE", 3)
    source, target = opened(inline_max_bytes=0), opened(inline_max_bytes=0)
    begin(source, target)
    first, second, last = sorted(["a", "b", "c"], key=keys.spread)
    put(source, first, 10)
    run(iter(DeleteBlobs(tuple(objects(source)))), source._as_shipper)
    for n in range(20, 70, 10):
        put(source, first, n, n - 10)
    put(source, second, 10)
    entry = Entry(keys.outbox_doc(keys.spread(second), "0"), "put", "of another program").write
    foreign = Merge(f"{keys.OUTBOX}/foreign", {})
    assert run(iter(Commit((replace(entry, fields={}), foreign))), source._as_shipper) is not None
    put(source, last, 10)
    found = run(replication.ship_once(limit=3, context=target._context), stores(source, target))
    assert {one.thread_id: type(one.error) for one in found.failures} == dict.fromkeys((first, second, ""), DamageError)
    assert everything(target, last) == everything(source, last)
    assert (found.is_all, found.mark is not None) == (True, True)


def test_what_a_store_refuses_stops_no_other_thread(opened: Open) -> None:
    """The target has an object of another program under the name."""
    source, target = opened(inline_max_bytes=0), opened(inline_max_bytes=0)
    begin(source, target)
    for thread in "tu":
        put(source, thread, 10)
    name = next(name for name in objects(source) if name.startswith(keys.spread("t")))
    run(iter(PutBlob(name, b"other bytes")), target._as_shipper)
    found = run(replication.ship_once(context=target._context), stores(source, target))
    assert [(one.thread_id, type(one.error)) for one in found.failures] == [("t", StoreError)]
    assert everything(target, "u") == everything(source, "u")


def test_lost_frames_are_reported_as_lost(opened: Open) -> None:
    source, target = opened(), opened()
    begin(source, target)
    put(source, "t", 10)
    put(source, "t", 20, 10)
    lost = keys.checkpoint_doc("t", "", cid(10))
    assert run(iter(Commit((Delete(lost),))), source._as_shipper) is not None
    found = run(replication.ship_once(context=target._context), stores(source, target))
    assert [type(one.error) for one in found.failures] == [DamageError]
    assert lost in str(found.failures[0].error)


def test_a_damaged_object_is_not_shipped(opened: Open) -> None:
    source, target = opened(inline_max_bytes=0), opened(inline_max_bytes=0)
    begin(source, target)
    put(source, "t", 10)
    name = next(name for name in objects(source) if "messages" in name)
    whole = objects(source)[name]
    run(iter(DeleteBlobs((name,))), source._as_shipper)
    run(iter(PutBlob(name, whole[::-1])), source._as_shipper)
    found = run(replication.ship_once(context=target._context), stores(source, target))
    assert [(one.thread_id, type(one.error)) for one in found.failures] == [("t", DamageError)]
    assert left_of(target, "t") == [f"{keys.thread_doc('t')}/{keys.SHIPS}/{keys.SHIP}"]
    run(iter(DeleteBlobs((name,))), source._as_shipper)
    run(iter(PutBlob(name, whole)), source._as_shipper)
    ship(source, target)
    assert replicated(target) == replicated(source)


def test_reconcile_ships_what_was_there_before_and_heals_what_was_damaged(opened: Open) -> None:
    source, target = opened(inline_max_bytes=600), opened(inline_max_bytes=600)
    fill(source)
    fill(source, LONG)
    begin(source, target)
    done = reconcile(source, target)
    assert {one.thread_id for one in done} == {None, "t", LONG}
    assert replicated(target) == replicated(source)
    assert everything(target, LONG) == everything(source, LONG)
    docs, blobs = replicated(target)
    broken = [name for name in docs if f"/{keys.CHECKPOINTS}/" in name][::5]
    writes = [Merge(name, {"manifest": b"broken"}) for name in broken]
    assert run(iter(Commit(tuple(writes))), target._as_shipper) is not None
    names = sorted(blobs)
    run(iter(DeleteBlobs((names[0], names[3]))), target._as_shipper)
    run(iter(PutBlob(names[3], b"other bytes")), target._as_shipper)
    assert sum(one.documents for one in reconcile(source, target)) >= len(broken)
    assert replicated(target) == replicated(source)
    again = reconcile(source, target)
    assert all(one.bytes == 0 and one.extra == () for one in again)


@pytest.mark.parametrize("inline", [0, 1 << 19], ids=["an object", "frames in a document"])
def test_a_damaged_source_replaces_nothing(opened: Open, inline: int) -> None:
    source, target = opened(inline_max_bytes=inline), opened(inline_max_bytes=inline)
    begin(source, target)
    put(source, "t", 10)
    ship(source, target)
    before = replicated(target)
    if inline:
        name = keys.checkpoint_doc("t", "", cid(10))
        frames = before[0][name]["frames"]
        assert run(iter(Commit((Merge(name, {"frames": frames[::-1]}),))), source._as_shipper) is not None
    else:
        name = next(name for name in before[1] if "messages" in name)
        run(iter(DeleteBlobs((name,))), source._as_shipper)
        run(iter(PutBlob(name, before[1][name][::-1])), source._as_shipper)
    put(source, "u", 10)
    with pytest.raises(CheckpointCorruptError):
        reconcile(source, target)
    assert everything(target, "u") == everything(source, "u")
    before[0].update({name: fields for name, fields in replicated(target)[0].items() if keys.spread("u") in name})
    before[1].update({name: data for name, data in objects(target).items() if keys.spread("u") in name})
    assert replicated(target) == before


@pytest.mark.parametrize("grown", [False, True])
def test_a_replica_keeps_its_copy_of_what_a_repair_sets_aside(opened: Open, *, grown: bool) -> None:
    """It may be the only whole one. When the replica has become the primary, a comparison brings it back."""
    source, target = opened(inline_max_bytes=0), opened(inline_max_bytes=0)
    begin(source, target)
    put(source, "t", 10)
    before = set(objects(source))
    put(source, "t", 20, 10)
    if grown:
        put(source, "t", 30, 20)
    ship(source, target)
    whole = everything(target)
    run(iter(DeleteBlobs(tuple(set(objects(source)) - before))), source._as_shipper)
    (plan,) = source.admin.repair("t")
    assert "set aside" in {step.action for step in plan.steps}
    ship(source, target)
    assert everything(target) == whole
    assert list(target.admin.verify("t", depth="data")) == []
    put(source, "t", 40, 10)
    ship(source, target)
    assert set(whole) < set(everything(target))
    set_role(source, "replica", 2)
    set_role(target, "primary", 2)
    reconcile(target, source)
    assert everything(source) == everything(target)
    assert not any(finding.is_damage for finding in source.admin.verify("t", depth="data"))


def test_a_thread_of_which_a_repair_has_set_something_aside_is_deleted(opened: Open) -> None:
    source, target = opened(inline_max_bytes=0), opened(inline_max_bytes=0)
    begin(source, target)
    put(source, "t", 10)
    before = set(objects(source))
    put(source, "t", 20, 10)
    ship(source, target)
    run(iter(DeleteBlobs(tuple(set(objects(source)) - before))), source._as_shipper)
    source.admin.repair("t")
    source.delete_thread("t")
    ship(source, target)
    assert left_of(target, "t") == left_of(source, "t") == []


def test_a_lease_of_the_replica_does_not_stop_the_deletion_of_a_thread(opened: Open) -> None:
    """A process that does not know of the replication yet may hold one."""
    source, target = opened(), opened()
    target.ping()
    with target.thread("t").lease():
        begin(source, target)
        put(source, "t", 10)
        ship(source, target)
        source.delete_thread("t")
        ship(source, target)
        assert left_of(target, "t") == left_of(source, "t") == []


def test_both_were_written_to(opened: Open) -> None:
    """A fork, reported once; what either had is in both, and the version of the primary stays."""
    source, target = opened(), opened()
    begin(source, target)
    put(source, "t", 10)
    source.thread("t").operations.once("charge", lambda: 1, key="k")
    ship(source, target)
    put(source, "t", 20, 10)
    set_role(target, "primary", 2)
    put(target, "t", 30, 10, salt="there")
    put(target, "u", 10)
    target.admin.pin(cfg("t", n=10), "there")
    source.admin.pin(cfg("t", n=10), "here")
    found = ship(source, target)
    assert [(one.parent_id, one.checkpoint_id, one.sibling_id) for one in found.forks] == [(cid(10), cid(20), cid(30))]
    assert target.admin.pins(cfg("t")) == {cid(10): "there"}
    set_role(source, "fenced", 3)
    assert ship(target, source).forks == ()
    assert everything(source) == everything(target)
    assert source.admin.pins(cfg("t")) == {cid(10): "there"}
    assert everything(source, "u") == everything(target, "u")


def test_a_replica_that_was_promoted_before_it_was_complete_gets_the_rest(opened: Open) -> None:
    """No entry of the outbox says what is older than the replication."""
    source, target = opened(), opened()
    put(source, "older", 10)
    assert run(iter(Commit((regions.INCOMPLETE,))), target._as_shipper) is not None
    begin(source, target)
    put(source, "t", 10)
    pair = Pair("memory:", "memory:")
    done = run(forced(pair, target._context), stores(source, target))
    assert (done.unreached, done.mark) == ("", None)
    assert everything(target, "older") == everything(source, "older")
    assert everything(target, "t") == everything(source, "t")
    assert run(is_incomplete(), target._as_shipper) is False


def is_incomplete() -> Flow[bool]:
    """Whether the store may lack what is older than the replication."""
    return regions.is_incomplete((yield from GetDocs((keys.MARK,))).get(keys.MARK))


def test_a_primary_keeps_its_own_turn(opened: Open) -> None:
    """The old primary has ended the turn, and the new one is still at it."""
    source, target = opened(), opened()
    begin(source, target)
    config: Any = {"configurable": {"thread_id": "t"}}
    build = StateGraph(State)
    build.add_node("may fail", lambda _: {"log": [str(1 // len(here))]})
    build.add_edge(START, "may fail")
    here: list[int] = []
    with pytest.raises(ZeroDivisionError):
        run_graph(build.compile(checkpointer=source), {"log": ["hello"]}, config, request_id="r1")
    ship(source, target)
    name = keys.resume_doc("t")
    before = replicated(target)[0][name]
    set_role(target, "primary", 2)
    here.append(1)
    run_graph(build.compile(checkpointer=source), {"log": ["hello"]}, config, request_id="r1")
    assert name not in replicated(source)[0]
    ship(source, target)
    assert replicated(target)[0][name] == before


def test_a_replica_that_becomes_the_primary_meanwhile_overrules_the_source(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has promoted it, after this shipper has read its role, and before it has read the documents."""
    source, target = opened(), opened()
    begin(source, target)
    put(source, "t", 10)
    ship(source, target)
    source.admin.pin(cfg("t", n=10), "here")
    whole, tries = shipments.Shipment.begin, []

    def begun(self: shipments.Shipment) -> Flow[None]:
        yield from whole(self)
        tries.append(self.wins)
        if len(tries) == 1:
            set_role(target, "primary", 2)
            pin = Merge(keys.checkpoint_doc("t", "", cid(10)), {"pin": "there"})
            assert run(iter(Commit((pin,))), target._backend) is not None

    monkeypatch.setattr(shipments.Shipment, "begin", begun)
    ship(source, target)
    assert tries == [True, False]
    assert target.admin.pins(cfg("t")) == {cid(10): "there"}


def test_the_other_store_keeps_what_it_has_more(opened: Open) -> None:
    source, target = opened(), opened()
    put(source, "t", 10)
    put(target, "t", 10)
    put(target, "t", 20, 10)
    put(target, "t", 30, 20)
    (_, found) = reconcile(source, target)
    assert len(found.extra) == 2
    reconcile(target, source, heals=False)
    assert everything(source) == everything(target)


async def test_on_an_event_loop_and_on_the_emulators(store_uri: str, tmp_path: Any) -> None:
    there = f"file://{tmp_path}/there"
    with GCSSaver.from_conn_string(store_uri) as source, GCSSaver.from_conn_string(there) as target:
        begin(source, target)
    async with GCSSaver.from_conn_string(store_uri) as source, GCSSaver.from_conn_string(there) as target:
        graph = graph_of(source, "one", "two", "three")
        config: Any = {"configurable": {"thread_id": "t"}}
        await graph.ainvoke({"log": ["hello"]}, config)
        found = await arun(replication.ship_once(context=target._context), stores(source, target))
        assert found.failures == ()
        assert list(target.list(config)) == list(source.list(config))
        await source.aprune(["t"], strategy=KeepLast(1))
        await arun(replication.ship_once(context=target._context), stores(source, target))
        assert replicated(target) == replicated(source)
