"""Recovery records: what a crash, or damage, has cost a thread, and when that is written down."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command

from langgraph_gcs_saver import GCSSaver, RecoveryRecord, cadence, run
from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, Effect, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.engine.runner import run as perform
from langgraph_gcs_saver.errors import SagaStuckError, StoreUnavailableError
from langgraph_gcs_saver.events import RecoveryRecorded
from langgraph_gcs_saver.flows import recoveries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.test_work import INPUT, World, config
from tests.compat.xor_cipher import XorCipher
from tests.system.raw import LocalRaw

T = "t"
SECOND = 10**9
DAY = 86_400 * SECOND


class Noting(Interceptor):
    """Notes the effects that reach the store. It refuses those that only write records, if it has to."""

    def __init__(self) -> None:
        self.effects: list[Effect[Any]] = []
        self.refuses = False

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        self.effects.append(effect)
        if self.refuses and keys.RECOVERIES in repr(effect) and keys.LEASES not in repr(effect):
            raise StoreUnavailableError("The records cannot be written.")
        return perform(effect)


class Store:
    """A store in memory, and the savers of processes that use it one after another."""

    def __init__(self) -> None:
        self.table: Any = {}
        self.objects: Any = {}
        self.seen = Noting()
        self.ahead = 0

    @contextmanager
    def open(self, kind: type[GCSSaver] = GCSSaver, **options: Any) -> Iterator[Any]:
        documents, blobs = MemoryDocuments(self.table), MemoryBlobs(self.objects)
        with kind(stores=(documents, blobs), interceptors=[self.seen], **options) as saver:
            yield saver
            saver._background.close()  # as `close` does: records are complete
            self.table, self.objects = documents.table, blobs.objects

    def crash(self, world: World, node: str = "b", given: Any = INPUT, ask: tuple[str, ...] = (), **more: Any) -> None:
        """Let a process crash in a node. Its lease stays as it is."""
        with self.open(CrashingSaver) as saver:
            saver.plan = plan = Plan()

            def act(name: str) -> None:
                if name == node:
                    plan.is_dead = True
                    raise Crashed

            world.act = act
            options = {"owner": "crashed", "request_id": "r1", "durability": "sync", **more}
            with pytest.raises(Crashed):
                run(world.graph(saver, ask=ask), given, config(), **options)
            world.act = lambda _: None
            world.ran.clear()

    def expire(self) -> None:
        """Let the service's clock be ahead, so that the lease has expired."""
        self.ahead += 100 * SECOND

    def records(self) -> list[RecoveryRecord]:
        with self.open() as saver:
            return list(saver.thread(T).recoveries())

    def fields(self) -> list[Any]:
        """The records as they are stored."""
        with self.open() as saver:
            return [doc.fields for doc in perform(iter(QueryDocs(keys.recoveries(T))), saver._backend)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made, now = Store(), time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + made.ahead)
    return made


@pytest.fixture
def world() -> World:
    return World()


def test_a_run_that_resumes_a_crashed_one_leaves_a_record(store: Store, world: World) -> None:
    store.crash(world)
    store.expire()
    with store.open() as saver:
        run(world.graph(saver), INPUT, config(), request_id="r1")
    assert world.ran == ["b", "z"]
    (found,) = store.records()
    assert (found.thread_id, found.kind, found.ran_again) == (T, "takeover", ("b",))
    assert found.lost is not None
    assert found.down is not None
    assert found.lost >= found.down >= 100
    assert found.held is not None
    assert found.held > 0, "its checkpoints are signs of life"
    assert found.restore is not None
    assert found.restore >= 0
    assert found.expires - found.time == timedelta(days=90)
    assert f"Thread 't', {found.time.isoformat(' ', 'seconds')}, takeover: " in str(found)
    assert str(found).endswith("to restore; ran again: b")


def test_so_does_a_worker_and_the_same_owner_that_is_back(store: Store, world: World) -> None:
    store.crash(world)
    store.expire()
    with store.open() as saver:
        (done,) = saver.recover(world.graph(saver))
        assert done.outcome == "finished"
    store.crash(world, node="z", request_id="r2")
    with store.open() as saver:  # before the lease has expired
        run(world.graph(saver), INPUT, config(), request_id="r2", owner="crashed")
    assert [(one.kind, one.ran_again) for one in store.records()] == [("takeover", ("b",)), ("takeover", ("z",))]


def test_so_does_a_lease_by_hand_and_coroutines_too(store: Store, world: World) -> None:
    store.crash(world)
    store.expire()

    async def resume(saver: GCSSaver) -> None:
        async with saver.thread(T).lease() as lease:
            await world.graph(saver).ainvoke(None, lease.config)
        found = await saver.thread(T).arecoveries()
        assert [one.kind for one in found] == ["takeover"]
        assert [one async for one in saver.admin.recoveries()] == found

    with store.open() as saver:
        asyncio.run(resume(saver))
    assert [one.ran_again for one in store.records()] == [("b",)]


def test_what_was_not_a_crash_leaves_none(store: Store, world: World) -> None:
    with store.open() as saver:
        graph = world.graph(saver)
        world.failing = {"b"}
        with pytest.raises(Exception, match="b"):
            run(graph, INPUT, config(), request_id="r1")
        world.failing = set()
        list(saver.recover(graph, backoff=0))  # after an error
        with saver.thread(T).lease(), saver.thread(T).lease(take_over=True) as lease:  # of a live holder
            graph.invoke(INPUT, lease.config)
        saver.thread(T).status()
    assert store.records() == []


def test_a_run_without_a_takeover_makes_the_same_requests(store: Store, world: World) -> None:
    with store.open() as saver:
        graph = world.graph(saver, ask=("sure?",))
        run(graph, INPUT, config(), request_id="r1", durability="sync")
        saver.thread(T).answer("yes")
        list(saver.recover(graph))
    assert world.ran == ["a", "b", "b", "z"]
    assert not [effect for effect in store.seen.effects if keys.RECOVERIES in repr(effect)]


def test_a_takeover_has_one_more_write_and_one_more_commit_beside_it(store: Store, world: World) -> None:
    store.crash(world)
    store.expire()
    store.seen.effects.clear()
    with store.open() as saver:
        run(world.graph(saver), INPUT, config(), request_id="r1")
    about = [effect for effect in store.seen.effects if keys.RECOVERIES in repr(effect)]
    assert [type(effect) for effect in about] == [Commit, Commit]
    (taking,) = [one for one in about if isinstance(one, Commit) and len(one.writes) > 1]
    names = [write.name.split("/")[-2] for write in taking.writes]
    assert names == ["lg_lease", "lg_lease", "lg_threads", "lg_recoveries", "lg_active", "lg_resume"]
    assert isinstance(taking.writes[3], Merge)
    assert taking.writes[3].update_time is None, "a record does not make the takeover fail"


def test_a_record_that_cannot_be_completed_changes_nothing_for_the_run(
    store: Store, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    store.crash(world)
    store.expire()
    store.seen.refuses = True
    with store.open() as saver, caplog.at_level(logging.WARNING, "langgraph_gcs_saver"):
        assert run(world.graph(saver), INPUT, config(), request_id="r1")["log"] == ["in", "a", "b", "z"]
    assert "A recovery of thread 't' was not recorded" in caplog.text
    store.seen.refuses = False
    (found,) = store.records()
    assert (found.kind, found.lost, found.restore, found.ran_again) == ("takeover", None, None, None)
    assert found.down is not None


def test_a_new_request_after_a_crash_runs_nothing_again(store: Store, world: World) -> None:
    store.crash(world)
    store.expire()
    with store.open() as saver:
        run(world.graph(saver), INPUT, config(), request_id="r2")
    assert [one.ran_again for one in store.records()] == [()]


def test_so_does_an_answer_after_a_crash(store: Store, world: World) -> None:
    with store.open() as saver:
        run(world.graph(saver, ask=("sure?",)), INPUT, config(), request_id="r1")
    store.crash(world, given=Command(resume="yes"), ask=("sure?",), request_id="r2")
    store.expire()
    with store.open() as saver:
        graph = world.graph(saver, ask=("sure?",))
        run(graph, Command(resume="yes"), config(), request_id="r2")
    assert [one.ran_again for one in store.records()] == [("b",)], "the answer is stored, and its node runs again"


@pytest.mark.parametrize(
    ("since", "seen", "stored", "now", "expected"),
    [
        # The newest checkpoint is of a turn a month ago.
        (31 * DAY, 31 * DAY, DAY, 31 * DAY + SECOND, {"held": 0.0, "down": 1.0, "lost": 1.0}),
        # A checkpoint is a sign of life, too.
        (5 * SECOND, 5 * SECOND, 6 * SECOND, 8 * SECOND, {"held": 1.0, "down": 2.0, "lost": 2.0}),
        (5 * SECOND, 7 * SECOND, 6 * SECOND, 8 * SECOND, {"held": 2.0, "down": 1.0, "lost": 2.0}),
        # There is none.
        (5 * SECOND, 6 * SECOND, 0, 8 * SECOND, {"held": 1.0, "down": 2.0, "lost": 3.0}),
        # It is not known yet.
        (5 * SECOND, 5 * SECOND, None, 6 * SECOND, {"held": 0.0, "down": 1.0}),
    ],
)
def test_what_a_crash_has_cost(since: int, seen: int, stored: int | None, now: int, expected: dict[str, float]) -> None:
    assert recoveries.times(since, seen, stored, now) == expected


def test_a_poisoned_thread_has_a_record_of_each_crash(store: Store, world: World) -> None:
    store.crash(world)
    for _ in range(2):
        store.expire()
        crash_worker(store, world)
    store.expire()
    with store.open() as saver:
        (done,) = saver.recover(world.graph(saver), attempts=3, backoff=0)
        assert done.outcome == "poison"
    found = store.records()
    assert [one.kind for one in found] == ["takeover"] * 3
    assert [one.ran_again for one in found] == [("b",), ("b",), None], "no process has read the state for the last one"


def crash_worker(store: Store, world: World) -> None:
    """Let a worker crash in the node."""
    with store.open(CrashingSaver) as saver:
        saver.plan = plan = Plan()
        recovered = saver._recovered._background

        def act(name: str) -> None:
            recovered.close()  # the record is complete; with a real process it may be or not
            plan.is_dead = True
            raise Crashed

        world.act = act
        with pytest.raises(Crashed):
            list(saver.recover(world.graph(saver), backoff=0))
        world.act = lambda _: None


def test_no_state_is_in_a_record(store: Store, world: World) -> None:
    store.crash(world, given={"log": ["a secret of the user"]})
    store.expire()
    with store.open() as saver:
        run(world.graph(saver), INPUT, config(), request_id="r1")
    (fields,) = store.fields()
    assert set(fields) == {"kind", "expires", "held", "down", "lost", "restore", "ran_again"}, "and no labels"
    assert "secret" not in repr(fields)


@pytest.mark.parametrize(("clear", "names"), [((), None), (("node",), ("b",))], ids=["none", "node"])
def test_a_cipher_hides_the_names_of_nodes(world: World, clear: tuple[str, ...], names: Any) -> None:
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    options: Any = {"cipher": XorCipher(), "clear_metadata": clear}
    with GCSSaver(stores=(documents, blobs), **options) as saver:
        world.failing = {"b"}
        with pytest.raises(Exception, match="b"):
            run(world.graph(saver), INPUT, config(), request_id="r1")
        world.failing = set()
        perform(iter(Commit((Merge(keys.fence_doc(T), {"owner": "crashed", "ttl": 1e-9}),))), saver._backend)
        run(world.graph(saver), INPUT, config(), request_id="r1")
        saver._background.close()
        (found,) = saver.thread(T).recoveries()
        assert found.ran_again == names
        stored = perform(iter(QueryDocs(keys.recoveries(T))), saver._backend)
        assert ("ran_again" in stored[0].fields) == (names is not None)


# Fallbacks and repairs


def damage(path: Path) -> str:
    """Damage the newest checkpoint. Returns its name."""
    raw = LocalRaw(path)
    name = min(name for name in raw.documents() if "/lg_checkpoints/" in name)
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, "manifest": fields["manifest"][:-1] + b"?"})
    return name


@pytest.fixture
def filled(tmp_path: Path, world: World) -> Path:
    """A store whose thread has a damaged newest checkpoint."""
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        run(world.graph(saver), INPUT, config(), request_id="r1")
    damage(tmp_path / "store")
    return tmp_path / "store"


def test_a_read_that_falls_back_leaves_one_record_for_each_damaged_checkpoint(filled: Path, world: World) -> None:
    for _ in range(2):  # two processes
        with GCSSaver.from_conn_string(f"file://{filled}") as saver:
            for _ in range(3):
                found = saver.get_tuple(config())
                assert found is not None
                assert "recovered_from" in found.metadata
    with GCSSaver.from_conn_string(f"file://{filled}") as saver:
        (record,) = saver.thread(T).recoveries()
        assert (record.kind, record.ran_again) == ("fallback", ("z",))
        assert record.lost is not None
        assert record.lost > 0
        assert record.restore is not None
        assert (record.down, record.held) == (None, None)
        run(world.graph(saver), INPUT, config(), request_id="r2")
    damage(filled)
    with GCSSaver.from_conn_string(f"file://{filled}") as saver:
        asyncio.run(saver.aget_tuple(config()))
        saver._background.close()
        assert [one.kind for one in saver.thread(T).recoveries()] == ["fallback", "fallback"]


def test_a_fallback_whose_checkpoint_is_gone_has_no_lost_time(filled: Path) -> None:
    LocalRaw(filled).delete_document(min(n for n in LocalRaw(filled).documents() if "/lg_checkpoints/" in n))
    with GCSSaver.from_conn_string(f"file://{filled}") as saver:
        saver.get_tuple(config())
        saver._background.close()
        (record,) = saver.thread(T).recoveries()
    assert (record.kind, record.lost) == ("fallback", None)


def test_a_thread_that_is_being_deleted_gets_no_record(filled: Path) -> None:
    with GCSSaver.from_conn_string(f"file://{filled}") as saver:
        perform(iter(Commit((Merge(keys.thread_doc(T), {"deleting": "attempt0"}),))), saver._backend)
        fallback = recoveries.Fallback(T, "", "2", "1")
        assert not perform(
            recoveries.fell_back(fallback, recoveries.Restored(0.1, (), {}), saver._context), saver._backend
        )
        assert not perform(recoveries.repaired(T, 0.1, saver._context), saver._backend)
        assert not perform(recoveries.repaired("unknown", 0.1, saver._context), saver._backend)
        assert list(saver.admin.recoveries()) == []


def test_a_repair_leaves_a_record_if_it_has_changed_anything(filled: Path) -> None:
    with GCSSaver.from_conn_string(f"file://{filled}") as saver:
        (plan,) = saver.admin.plan_repair(T)
        assert list(saver.admin.recoveries(T)) == []
        saver.admin.carry_out(plan)
        assert list(saver.admin.repair(T)) == []
        (record,) = saver.thread(T).recoveries()
    assert (record.kind, record.lost, record.ran_again) == ("repair", None, None)
    assert record.restore is not None


def test_a_rollback_to_a_savepoint_leaves_a_record_in_the_commit_of_its_fork(store: Store, world: World) -> None:
    with store.open() as saver:
        run(world.graph(saver), INPUT, config())
        heard: list[RecoveryRecorded] = []
        saver.subscribe(lambda event: heard.append(event) if isinstance(event, RecoveryRecorded) else None)
        saga = saver.thread(T).saga("trip-7")
        saga.once("book", lambda: "hotel", irreversible=True)
        saga.savepoint("booked")
        run(world.graph(saver), INPUT, config(), request_id="r2")
        store.seen.effects.clear()
        saga.rollback("booked")
        (commit,) = [one for one in store.seen.effects if isinstance(one, Commit) and keys.RECOVERIES in repr(one)]
        assert any(isinstance(write, Create) and keys.CHECKPOINTS in write.name for write in commit.writes)
        (found,) = saver.thread(T).recoveries()
        other = saver.thread(T).saga("trip-8")
        other.once("book", lambda: "hotel", irreversible=True)
        with pytest.raises(SagaStuckError):
            other.rollback()
        other.resolve("book", result=None)
        assert other.resume().state == "compensated"
        assert len(list(saver.thread(T).recoveries())) == 1, "it goes back to no checkpoint"
    assert (found.kind, found.ran_again, found.labels, found.down) == ("rollback", None, {}, None)
    assert found.lost is not None
    assert found.lost > 0
    assert found.restore is not None
    assert [(event.kind, event.lost, event.restore) for event in heard] == [("rollback", found.lost, found.restore)]


# Listing, expiry, and the collection as a part of its thread


def plant(saver: GCSSaver, thread_id: str, number: int, **fields: Any) -> str:
    name = keys.recovery_doc(thread_id, number, f"n{number}")
    whole = {"kind": "takeover", "expires": number + 90 * DAY, "held": 1.0, "down": 2.0, **fields}
    perform(iter(Commit((Merge(name, whole),))), saver._backend)
    return name


def test_records_are_listed_in_pages(store: Store, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recoveries, "_RECORDS_PER_PAGE", 2)
    long = "x" * 400  # its id is not in the names of its documents
    with store.open() as saver:
        for thread_id in (T, long, "none"):
            run(world.graph(saver), INPUT, config(thread_id))
        for number in range(5):
            plant(saver, T, number)
        plant(saver, long, 7)
        for one in (T, long):
            ids = [found.thread_id for found in saver.thread(one).recoveries()]
            assert ids == [one] * (5 if one == T else 1)
        times = [found.time.timestamp() for found in saver.thread(T).recoveries()]
        assert times == sorted(times)
        everything = list(saver.admin.recoveries())
        assert sorted(one.thread_id for one in everything) == sorted([T] * 5 + [long])
        assert list(saver.admin.recoveries("none")) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"lost": -1.0, "down": "2", "held": float("nan"), "restore": float("inf")}, {"lost": None, "restore": None}),
        ({"ran_again": "not JSON"}, {"ran_again": None}),
        ({"ran_again": "[1]"}, {"ran_again": None}),
        ({"ran_again": b"[]"}, {"ran_again": None}),
        ({"ran_again": "[" * 100_000}, {"ran_again": None}),
        ({"ran_again": json.dumps(["n" * 300] * 300)}, {"ran_again": ("n" * 200,) * 100}),
        ({"labels": "not JSON"}, {"labels": {}}),
        ({"labels": "[]"}, {"labels": {}}),
        ({"labels": '{"agent": 1}'}, {"labels": {}}),
        ({"labels": '{"agent": {"a": "b"}}'}, {"labels": {}}),
        ({"labels": {"agent": "billing"}}, {"labels": {}}),
        ({"labels": '{"agent": ' * 100_000}, {"labels": {}}),
        ({"labels": json.dumps({"not a name": "x", "": "x", "agent": "x" * 200})}, {"labels": {"agent": "x" * 100}}),
        (
            {"labels": json.dumps({f"l{number}": "x" for number in range(99)})},
            {"labels": {f"l{number}": "x" for number in range(10)}},
        ),
        ({"expires": True}, {}),
        ({"expires": 2**62}, {}),
    ],
)
def test_a_damaged_field_counts_as_absent(store: Store, fields: Any, expected: Any) -> None:
    with store.open() as saver:
        plant(saver, T, 1, **fields)
        (found,) = saver.thread(T).recoveries()
    assert expected.items() <= asdict(found).items()


def test_records_of_unknown_kinds_and_foreign_documents_are_passed_over(store: Store) -> None:
    with store.open() as saver:
        plant(saver, T, 1, kind="failover")
        plant(saver, T, 2, kind=None)
        perform(iter(Commit((Create(f"{keys.recoveries(T)}/odd", {"kind": "takeover"}),))), saver._backend)
        perform(iter(Commit((Create(f"{keys.recoveries(T)}/{'9' * 20}-n", {"kind": "repair"}),))), saver._backend)
        assert list(saver.thread(T).recoveries()) == list(saver.admin.recoveries()) == []


def test_collect_deletes_those_that_have_expired(store: Store, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langgraph_gcs_saver.engine.limits.COMMIT_WRITES", 2)
    with store.open() as saver:
        run(world.graph(saver), INPUT, config())
        now = perform(iter(GetDocs((keys.thread_doc(T), "lg_threads/none"))), saver._backend).read_time
        old = [plant(saver, T, number) for number in range(3)]
        kept = plant(saver, T, now - 89 * DAY)
        odd = plant(saver, T, 9, expires="x")  # as if it were made just now
        (plan,) = saver.admin.plan_collect(T)
        assert plan.recoveries == tuple(old)
        assert "3 recovery records have expired" in str(plan)
        assert len(list(saver.admin.recoveries(T))) == 5, "a plan changes nothing"
        perform(iter(Commit((Delete(old[0]),))), saver._backend)
        saver.admin.carry_out(plan)
        left = [doc.name for doc in perform(iter(QueryDocs(keys.recoveries(T))), saver._backend)]
        assert left == sorted([odd, kept])
        assert list(saver.admin.collect(T)) == []


def test_records_go_with_their_thread_and_no_copy_has_them(store: Store, world: World, tmp_path: Path) -> None:
    with store.open() as saver, GCSSaver.from_conn_string(f"file://{tmp_path}/other") as other:
        run(world.graph(saver), INPUT, config())
        plant(saver, T, 1)
        saver.copy_thread(T, "copied")
        saver.admin.transfer_thread(T, other)
        assert list(saver.admin.verify(T, depth="data")) == []
        assert {one.thread_id for one in saver.admin.recoveries()} == {T}
        assert list(other.admin.recoveries()) == []
        saver.delete_thread(T)
        assert list(saver.admin.recoveries()) == []


# What a policy learns about crashes


class Looks(cadence.Policy):
    """Notes what it knows at each boundary, and stores."""

    needs = frozenset({"callbacks"})

    def __init__(self) -> None:
        self.seen: list[tuple[int, frozenset[str]]] = []

    def decide(self, progress: cadence.Progress, /) -> cadence.Store:
        self.seen.append((progress.crashes, progress.crashed_nodes))
        return cadence.Store("Always.")


@pytest.mark.parametrize("stores", [{"durability": "sync"}, {"store": "segments"}], ids=["sync", "segments"])
def test_a_policy_knows_the_nodes_that_were_due_when_a_process_crashed(
    store: Store, world: World, stores: dict[str, Any]
) -> None:
    store.crash(world)
    store.expire()
    policy = Looks()
    with store.open() as saver:
        run(world.graph(saver), INPUT, config(), request_id="r1", policy=policy, **stores)
    assert set(policy.seen) == {(1, frozenset({"b"})), (1, frozenset())}
    assert policy.seen[0] == (1, frozenset({"b"}))
    assert policy.seen[-1] == (1, frozenset()), "it has finished, and is stored"
    again = Looks()
    with store.open() as saver:
        run(world.graph(saver), INPUT, config(), request_id="r2", policy=again, **stores)
    assert set(again.seen) == {(0, frozenset())}, "another turn"
