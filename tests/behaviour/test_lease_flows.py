"""What the holder of a thread's lease may do, what others may not, and what a lease costs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Delete, Effect, GetDocs, Merge, Pause
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ConflictError, FencedError, OperationFencedError, ThreadBusyError
from langgraph_gcs_saver.flows import leases, prune, save, sweep, threads, writes
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.results import IdleThread
from langgraph_gcs_saver.saver import arguments
from langgraph_gcs_saver.saver.lease import Lease
from langgraph_gcs_saver.testing.crash import config_of, put_arguments
from tests.system.raw import LocalRaw

T = "t"
LARGE = random.Random(1).randbytes(200_000)


class Seen(Interceptor):
    """Notes the effects that reach the store. Pauses take no time, and `before` runs before each commit."""

    def __init__(self) -> None:
        self.effects: list[Effect[Any]] = []
        self.before: Any = None

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        self.effects.append(effect)
        if isinstance(effect, Pause):
            return None
        if isinstance(effect, Commit) and self.before is not None:
            act, self.before = self.before, None
            act()
        return perform(effect)

    @property
    def kinds(self) -> list[str]:
        return [type(effect).__name__ for effect in self.effects if isinstance(effect, (Commit, GetDocs))]


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def saver(tmp_path: Path, seen: Seen) -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store", interceptors=[seen]) as saver:
        yield saver


@pytest.fixture
def other(tmp_path: Path) -> Iterator[GCSSaver]:
    """A saver of another process on the same store, as far as the store knows."""
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        yield saver


def perform(saver: GCSSaver, flow: Any) -> Any:
    return run(flow, saver._backend)


def acquire(saver: GCSSaver, nonce: str = "n", wait: float = 0, **more: Any) -> leases.Acquired:
    request = leases.Acquire(**{"thread_id": T, "owner": nonce, "nonce": nonce, "ttl": 60.0, **more})
    return perform(saver, leases.Acquisition(request, wait, saver._context).flow())


def put(saver: GCSSaver, number: int, parent: int | None, fence: Fence | None, ns: str = "") -> None:
    config, checkpoint, metadata, versions = put_arguments(number, parent, ns=ns)
    request = arguments.put_request(
        config, checkpoint, metadata, versions, serde=saver.serde, context=saver._context, now=time.time()
    )
    perform(saver, save.put(replace(request, fence=fence), saver._context))


def put_writes(saver: GCSSaver, number: int, values: list[tuple[str, Any]], fence: Fence | None) -> None:
    request = arguments.put_writes_request(config_of(number), values, "task", "", serde=saver.serde)
    perform(saver, writes.put_writes(replace(request, fence=fence), saver._context))


def step(saver: GCSSaver) -> int:
    return int(saver.get_tuple(config_of(None)).metadata["step"])


def age(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the service's clock be ahead: the embedded store's is this process's."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + int(seconds * 1e9))


class Riding:
    """Counts in a document of its own when a lease is taken, and deletes it when the lease is released."""

    names = ("lg_notes/t",)

    def taking(self, docs: Any, /) -> tuple[Any, ...]:
        doc = docs.get(self.names[0])
        count = 0 if doc is None else doc.fields["count"]
        time = None if doc is None else doc.update_time
        return (Merge(self.names[0], {"count": count + 1}, update_time=time),)

    def ending(self, error: BaseException | None, /) -> tuple[Any, ...]:
        return () if error is not None else (Delete(self.names[0]),)


def test_riders_change_documents_in_the_commits_of_a_lease_and_take_no_rounds(saver, seen):
    def notes() -> Any:
        return perform(saver, iter(GetDocs(Riding.names))).get(Riding.names[0])

    def lease(riders: Any) -> Lease:
        options: dict[str, Any] = {"ttl": 60.0, "wait": 0.0, "owner": None, "take_over": False}
        return Lease(saver._leases, T, riders=riders, **options)

    with lease(None):
        pass
    plain = list(seen.kinds)
    seen.effects.clear()
    with lease(Riding()):
        assert notes().fields == {"count": 1}
        seen.effects.pop()
    assert seen.kinds == plain
    assert notes() is None
    for count in (1, 2):
        with suppress(ConflictError), lease(Riding()):
            raise ConflictError("the block fails")
        assert notes().fields == {"count": count}


def test_a_rider_that_loses_a_race_is_asked_again(saver, seen):
    perform(saver, iter(Commit((Merge(Riding.names[0], {"count": 1}),))))
    seen.before = lambda: perform(saver, iter(Commit((Merge(Riding.names[0], {"count": 5}),))))
    request = leases.Acquire(T, "n", "n", 60.0)
    perform(saver, leases.Acquisition(request, 0.0, saver._context, Riding()).flow())
    assert perform(saver, iter(GetDocs(Riding.names)))[Riding.names[0]].fields == {"count": 6}


def test_the_riders_of_a_lost_lease_write_nothing(saver, other):
    fence = acquire(saver).fence
    acquire(other, "o", take_over=True)
    assert not perform(saver, leases.release(fence, saver._context, (Merge("lg_notes/t", {"count": 1}),)))
    assert perform(saver, iter(GetDocs(("lg_notes/t",)))) == {}


# The holder


def test_a_put_with_a_lease_costs_one_write_and_no_round(saver, seen):
    put(saver, 1, None, None)
    put(saver, 2, 1, None)
    seen.effects.clear()
    put(saver, 3, 2, None)
    without = [effect for effect in seen.effects if isinstance(effect, (Commit, GetDocs))]
    fence = acquire(saver).fence
    put(saver, 4, None, fence)  # From here on, the parent is in memory.
    seen.effects.clear()
    put(saver, 5, 4, fence)
    within = [effect for effect in seen.effects if isinstance(effect, (Commit, GetDocs))]
    assert [type(one) for one in within] == [type(one) for one in without]
    sizes = [len(one.writes) for one in within if isinstance(one, Commit)]
    assert sizes == [len(one.writes) + 1 for one in without if isinstance(one, Commit)]


def test_an_acquisition_is_two_reads_and_two_commits(saver, seen):
    put(saver, 1, None, None)
    put(saver, 2, 1, None, ns="newer")
    put(saver, 1, None, None, ns="older")
    put(saver, 1, None, None, ns="oldest")
    put(saver, 2, None, None)
    seen.effects.clear()
    acquire(saver)
    assert [type(effect).__name__ for effect in seen.effects] == ["GetDocs", "Commit", "QueryDocs", "Commit"]


def test_tips_of_other_namespaces_are_marked_if_they_are_newer(saver, other):
    put(saver, 1, None, None, ns="older")
    put(saver, 2, None, None)
    put(saver, 3, None, None, ns="newer")
    put(saver, 4, 3, None, ns="newer")
    acquire(other)
    for number, parent, ns in ((5, 2, ""), (6, 4, "newer")):
        with pytest.raises(ThreadBusyError):
            put(saver, number, parent, None, ns=ns)
    put(saver, 7, 1, None, ns="older")


def test_a_holder_that_lost_its_lease_stores_nothing(saver, other):
    put(saver, 1, None, None)
    fence = acquire(saver).fence
    put(saver, 2, 1, fence)
    acquire(other, "m", take_over=True)
    with pytest.raises(FencedError, match="'m' holds it now"):
        put(saver, 3, 2, fence)
    for values in ([("number", 1)], [("number", LARGE)], [("__interrupt__", "i")]):
        with pytest.raises(FencedError):
            put_writes(saver, 2, values, fence)
    found = other.get_tuple(config_of(None))
    assert (found.metadata["step"], found.pending_writes) == (2, [])


def test_the_holders_background_prune_stops_with_its_lease(saver, other):
    for number in range(1, 6):
        put(saver, number, number - 1 or None, None)
    fence = acquire(saver).fence
    pruning = prune.prune_by(KeepLast(1), T, loads=saver._loads, context=saver._context)
    acquire(other, "m", take_over=True)
    with pytest.raises(FencedError):
        perform(saver, leases.fenced(pruning, fence))
    assert len(list(other.list(config_of(None)))) == 5


def test_a_prune_of_a_holder_that_has_released_its_lease_is_that_of_any_writer(saver, other):
    for number in range(1, 6):
        put(saver, number, number - 1 or None, None)
    pruning = partial(prune.prune_by, KeepLast(1), T, loads=saver._loads, context=saver._context)
    perform(saver, leases.release(acquire(saver).fence, saver._context))
    acquire(other, "m")
    with pytest.raises(ThreadBusyError):
        perform(saver, leases.as_writer(T, pruning, saver._context))
    assert len(list(other.list(config_of(None)))) == 5
    perform(other, leases.release(next(iter(other._context.fences.values())), other._context))
    perform(saver, leases.as_writer(T, pruning, saver._context))
    assert len(list(other.list(config_of(None)))) == 1


def test_a_prune_begins_under_a_lease_and_ends_after_its_release(saver, other, seen):
    for number in range(1, 6):
        put(saver, number, number - 1 or None, None)
    fence = acquire(saver).fence
    seen.before = lambda: perform(other, leases.release(fence, saver._context))
    pruning = partial(prune.prune_by, KeepLast(1), T, loads=saver._loads, context=saver._context)
    perform(saver, leases.as_writer(T, pruning, saver._context))
    assert len(list(other.list(config_of(None)))) == 1


def test_a_fork_of_an_older_checkpoint_finds_an_acquisition_before_its_commit(saver, other, seen):
    fence = acquire(other).fence
    for number in (1, 2, 3):
        put(other, number, number - 1 or None, fence)
    perform(other, leases.release(fence, other._context))
    seen.before = lambda: acquire(other, "m")
    with pytest.raises(ThreadBusyError, match="'m' has held its lease"):
        put(saver, 9, 1, None)
    assert len(list(other.list(config_of(None)))) == 3


def test_a_holder_whose_thread_was_deleted_by_force_creates_nothing(saver, other, tmp_path):
    fence = acquire(saver).fence
    put(saver, 1, None, fence)
    perform(other, threads.delete_thread(T, other._context, force=True))
    with pytest.raises(FencedError):
        put(saver, 2, None, fence)
    with pytest.raises(FencedError):
        put_writes(saver, 1, [("number", 1)], fence)
    with pytest.raises(OperationFencedError):
        saver.thread(T).operations.once("charge", lambda: 1, key="order-17")
    assert LocalRaw(tmp_path / "store").documents() == {}


def test_a_demanded_deletion_ends_the_former_holders_beats(saver, other, seen):
    found = acquire(other)
    put(other, 1, None, found.fence)

    def crash() -> None:
        raise KeyboardInterrupt

    seen.before = lambda: setattr(seen, "before", crash)  # the commit after the one that marks the thread
    with pytest.raises(KeyboardInterrupt):
        perform(saver, threads.delete_thread(T, saver._context, force=True))
    with pytest.raises(FencedError):
        perform(other, leases.beat(found.fence, found.beat, None))


def test_a_lease_of_another_thread_of_the_process_stays_busy(saver):
    acquire(saver, "n", owner="pod-0")
    with pytest.raises(ThreadBusyError, match=r"'pod-0' has held its lease since 20.*last sign of life"):
        acquire(saver, "m", owner="pod-0")


def test_a_restarted_holder_takes_its_lease_back(saver, other):
    acquire(saver, "n", owner="pod-0")
    found = acquire(other, "m", owner="pod-0")
    assert (found.taken_over.nonce, found.taken_over.is_expired, found.fence.token) == ("n", False, 2)


def test_beats_bring_wishes(saver, other):
    found = acquire(saver)
    assert perform(other, leases.pause(T, False))
    seen = perform(saver, leases.beat(found.fence, found.beat, {"node": "agent"}))
    assert (seen.wish, seen.counter) == (leases.WISH, 1)
    assert perform(other, leases.pause(T, True))
    assert perform(saver, leases.beat(found.fence, seen, None)).wish is None
    (info,) = perform(other, leases.leases()())
    assert (info.thread_id, info.owner, info.node, info.is_expired) == (T, "n", "agent", False)
    perform(saver, leases.release(found.fence, saver._context))
    assert not perform(other, leases.pause(T, False))
    assert perform(other, leases.leases()()) == []


# Expiry


def test_an_expired_lease_is_taken_and_was_a_crash(saver, other, monkeypatch):
    found = acquire(saver)
    perform(saver, leases.beat(found.fence, found.beat, {"node": "agent"}))
    age(monkeypatch, 70)
    with pytest.raises(ThreadBusyError):
        acquire(other, "m")
    age(monkeypatch, 20)
    former = acquire(other, "m").taken_over
    assert (former.owner, former.is_expired, former.note) == ("n", True, {"node": "agent"})
    assert former.downtime > 80


def test_who_waits_takes_a_lease_whose_beat_stands_still(saver, other, seen):
    put(other, 1, None, None)
    acquire(other, "m")
    with pytest.raises(ThreadBusyError):
        acquire(saver, wait=50)
    assert sum(effect.seconds for effect in seen.effects if isinstance(effect, Pause)) == 50
    assert acquire(saver, wait=70).taken_over.is_expired


class Slow(Interceptor):
    """Lets the service's clock run: requests take `ROUND` seconds, and pauses as long as they should.

    Attributes:
        passed: Seconds so far.
        looked: When the first read of a fence was answered.
        committed: When the last commit was.
    """

    ROUND = 0.1

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        self.looked = self.committed = 0.0
        began = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: began + int(self.passed * 1e9))

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        if isinstance(effect, Pause):
            self.passed += effect.seconds
            return None
        if not isinstance(effect, (Commit, GetDocs)):
            return perform(effect)
        answer = perform(effect)
        self.passed += self.ROUND
        if isinstance(effect, Commit):
            self.committed = self.passed
        elif keys.fence_doc(T) in effect.names:
            self.looked = self.looked or self.passed
        return answer


def test_a_silent_holder_is_replaced_two_rounds_after_its_ttl(tmp_path, other, monkeypatch):
    acquire(other, "m", ttl=60.0)
    slow = Slow(monkeypatch)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store", interceptors=[slow]) as saver:
        assert acquire(saver, wait=100).taken_over.is_expired
    # The thread has no checkpoint in which the acquisition must be named, so its first commit is its last.
    assert 60 <= slow.committed - slow.looked < 60 + 2 * slow.ROUND + 0.01


def test_a_wait_for_a_live_holder_ends_in_time(tmp_path, other, monkeypatch):
    acquire(other, "m", ttl=600.0)
    slow = Slow(monkeypatch)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store", interceptors=[slow]) as saver:
        with pytest.raises(ThreadBusyError):
            acquire(saver, wait=30)
        assert 30 <= slow.passed < 31


def test_an_expired_lease_does_not_stop_a_writer_without_one(saver, other, monkeypatch):
    put(saver, 1, None, None)
    fence = acquire(other, "m").fence
    with pytest.raises(ThreadBusyError):
        put(saver, 2, None, None)
    age(monkeypatch, 100)
    put(saver, 2, None, None)
    with pytest.raises(FencedError, match="it has no holder now"):
        put(other, 3, 1, fence)
    assert step(other) == 2


# Writers without a lease


def test_large_pending_writes_without_a_lease_wait_for_its_end(saver, other):
    put(saver, 1, None, None)
    fence = acquire(other).fence
    with pytest.raises(ThreadBusyError):
        put_writes(saver, 1, [("number", LARGE)], None)
    perform(other, leases.release(fence, other._context))
    put_writes(saver, 1, [("number", LARGE)], None)


def test_a_writer_that_read_before_the_lease_is_stopped_after_its_release(saver, other):
    put(saver, 1, None, None)
    perform(other, leases.release(acquire(other).fence, other._context))
    with pytest.raises(ThreadBusyError, match="since the checkpoint was read"):
        put(saver, 2, 1, None)
    assert step(saver) == 1
    put(saver, 2, 1, None)


def test_a_thread_that_is_being_deleted_gives_no_lease(saver, other):
    put(saver, 1, None, None)
    perform(saver, iter(Commit((Merge(keys.thread_doc(T), {"deleting": "mark"}),))))
    with pytest.raises(ThreadBusyError, match="is being deleted"):
        acquire(other)
    assert acquire(saver, wait=saver._context.timeout + 5).fence.token == 1, "the deletion has crashed"


@pytest.mark.parametrize("wait", [0, 1])
def test_writers_without_a_lease_can_keep_one_from_being_acquired(saver, other, seen, monkeypatch, wait):
    put(other, 1, None, None)
    monkeypatch.setattr(leases, "MAX_TRIES", 3)
    numbers = iter(range(2, 100))

    def interfere() -> None:
        number = next(numbers)
        perform(
            other,
            iter(Commit((Merge(keys.checkpoint_doc(T, "", put_arguments(1, None)[1]["id"]), {"pin": str(number)}),))),
        )
        seen.before = interfere

    seen.before = interfere
    with pytest.raises(ConflictError, match="was not acquired"):
        acquire(saver, wait=wait)
    seen.before = None
    assert acquire(other, "m").taken_over is None, "it was released"


# Others who change a thread


def test_a_deletion_needs_force(saver, other):
    put(saver, 1, None, None)
    fence = acquire(saver).fence
    for delete in (lambda: other.delete_thread(T), lambda: other.admin.delete_thread(T)):
        with pytest.raises(ThreadBusyError):
            delete()
    assert step(other) == 1
    other.admin.delete_thread(T, force=True)
    with pytest.raises(FencedError):
        put(saver, 2, 1, fence)
    assert other.get_tuple(config_of(None)) is None


def test_a_deletion_ends_an_expired_lease(saver, other, monkeypatch, tmp_path):
    put(saver, 1, None, None)
    acquire(saver)
    age(monkeypatch, 100)
    other.delete_thread(T)
    assert LocalRaw(tmp_path / "store").documents() == {}


def test_a_sweep_skips_a_thread_with_a_lease(saver, other, tmp_path):
    put(saver, 1, None, None)
    acquire(saver)
    (doc,) = perform(other, iter(GetDocs((keys.thread_doc(T),)))).values()
    idle = IdleThread(thread_id=T, idle=timedelta(days=1), seen=doc.update_time)
    assert perform(other, sweep.sweep_thread(idle, other._context)) is None
    assert step(other) == 1


def test_a_copy_respects_the_lease_of_its_target_and_carries_none(saver, other, tmp_path):
    put(saver, 1, None, acquire(saver).fence)
    acquire(saver, "m", thread_id="copy")
    with pytest.raises(ThreadBusyError):
        other.copy_thread(T, "copy")
    other.copy_thread(T, "another")
    found = LocalRaw(tmp_path / "store").documents()
    mine = [name for name in found if name.startswith(keys.thread_doc("another"))]
    assert len(mine) == 2
    assert not any("fence" in found[name] for name in mine)


def test_an_import_respects_the_lease_of_its_target_and_carries_none(saver, other, tmp_path):
    put(saver, 1, None, acquire(saver).fence)
    saver.admin.export_thread(T, tmp_path / "archive.tar")
    with GCSSaver.from_conn_string(f"file://{tmp_path}/target") as target:
        held = acquire(target)
        with pytest.raises(ThreadBusyError):
            target.admin.import_thread(tmp_path / "archive.tar")
        perform(target, leases.release(held.fence, target._context))
        target.admin.import_thread(tmp_path / "archive.tar")
        assert step(target) == 1
    found = LocalRaw(tmp_path / "target").documents()
    assert not any("fence" in fields for name, fields in found.items() if f"/{keys.CHECKPOINTS}/" in name)


def test_a_repair_respects_the_lease(saver, other, tmp_path):
    put(saver, 1, None, None)
    put(saver, 2, 1, None)
    raw = LocalRaw(tmp_path / "store")
    name = keys.checkpoint_doc(T, "", put_arguments(1, None)[1]["id"])
    raw.set_document(name, raw.documents()[name] | {"frames": b"damaged"})
    held = acquire(saver)
    with pytest.raises(ThreadBusyError):
        other.admin.repair(T)
    perform(saver, leases.release(held.fence, saver._context))
    before = raw.documents()
    other.admin.repair(T)
    assert raw.documents() != before


def test_deleting_the_checkpoints_of_runs_respects_the_lease(saver, other, tmp_path):
    """Otherwise the holder's next put would find its parent gone."""

    def leased(where: GCSSaver, n: int, parent: int | None, **more: Any) -> Any:
        lease = where.thread(T).lease(**more).__enter__()
        config, checkpoint, _, versions = put_arguments(n, parent)
        config = {"configurable": {**config["configurable"], **lease.config["configurable"]}}
        where.put(config, checkpoint, {"source": "loop", "step": n}, versions)
        return lease

    def stored() -> list[str]:
        return [found.metadata["run_id"] for found in saver.list(config_of(None))]

    first = leased(saver, 1, None)
    second = leased(other, 2, 1, take_over=True)
    both = stored()
    assert both == [second.run_id, first.run_id]
    for run_id in both:
        with pytest.raises(ThreadBusyError):  # `saver` does not know yet that it has lost its lease
            saver.delete_for_runs([run_id])
    assert not first.release()
    for run_id in both:
        (plan,) = saver.admin.plan_delete_for_runs([run_id])
        with pytest.raises(ThreadBusyError):
            saver.delete_for_runs([run_id])
        with pytest.raises(ThreadBusyError):
            saver.admin.carry_out(plan)
    assert stored() == both
    other.delete_for_runs([first.run_id])  # by the holder itself
    assert stored() == [second.run_id]
    assert second.release()
    saver.delete_for_runs([second.run_id])
    assert stored() == []


def test_the_holder_repairs_its_own_thread(saver, tmp_path):
    put(saver, 1, None, None)
    raw = LocalRaw(tmp_path / "store")
    name = keys.checkpoint_doc(T, "", put_arguments(1, None)[1]["id"])
    raw.set_document(name, raw.documents()[name] | {"frames": b"damaged"})
    held = acquire(saver)
    (plan,) = saver.admin.repair(T)
    assert plan.steps
    assert raw.documents()[held.fence.name]["owner"] == "n"


def test_no_commit_of_a_flow_is_applied_once_a_lease_is_acquired_meanwhile(saver, other):
    perform(saver, leases.release(acquire(saver).fence, saver._context))

    def two_commits() -> Any:
        yield from Commit((Merge("lg_apps/one", {"n": 1}),))
        acquire(other, "m")
        yield from Commit((Merge("lg_apps/two", {"n": 2}),))

    with pytest.raises(ThreadBusyError):
        perform(saver, leases.while_free(T, two_commits(), saver._context))
    assert set(perform(saver, iter(GetDocs(("lg_apps/one", "lg_apps/two"))))) == {"lg_apps/one"}


# Damage

FORGED = [
    {"token": float("nan")},
    {"token": (1 << 63) - 1},
    {"token": -5},
    {"token": "7"},
    {"ttl": float("nan")},
    {"ttl": float("inf")},
    {"ttl": 1e308},
    {"ttl": -1},
    {"ttl": "60"},
    {"nonce": float("nan")},
    {"nonce": None},
    {"owner": "x" * 900_000},
]


@pytest.mark.parametrize("fields", FORGED, ids=lambda fields: str(fields)[:30])
def test_a_forged_fence_expires_is_listed_and_can_be_taken_over(saver, other, monkeypatch, tmp_path, fields):
    name = keys.fence_doc(T)

    def forge() -> Any:
        yield from Commit((Merge(name, fields | {"forged": random.random()}),))

    put(saver, 1, None, None)
    held = acquire(saver, owner="me")
    perform(saver, forge())
    (listed,) = other.admin.leases()
    assert len(listed.owner) <= 200
    assert 0 <= listed.token < 1 << 62
    assert listed.ttl <= 86_400
    with pytest.raises(FencedError) as fenced:
        put(saver, 2, 1, held.fence)
    with pytest.raises(ThreadBusyError) as busy:
        put(other, 2, 1, None)
    assert max(map(len, (str(fenced.value), str(busy.value)))) < 1000
    assert acquire(other, "second", take_over=True).fence.token >= 1
    perform(saver, forge())
    age(monkeypatch, 120)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as third:
        put(third, 2, 1, None)  # It has expired, and is ended.
    assert list(other.admin.leases()) == []
    acquire(saver, "third")
    perform(saver, forge())
    assert [finding.name for finding in other.admin.verify(T)] == [name]
    with pytest.raises(ThreadBusyError):
        other.admin.repair(T)
    other.admin.delete_thread(T, force=True)


def test_a_repair_ends_a_lease_whose_fence_is_damaged(saver, other, tmp_path):
    put(saver, 1, None, None)
    held = acquire(saver)
    raw = LocalRaw(tmp_path / "store")
    raw.set_document(held.fence.name, {"owner": 5, "token": 7, "more": 1})
    (finding,) = other.admin.verify(T)
    assert (finding.kind, finding.name) == ("corrupt", held.fence.name)
    assert finding.reason == "nonce, owner, ttl: missing, of another type, or out of range"
    (plan,) = other.admin.repair(T)
    assert [(step.action, step.name) for step in plan.steps] == [("fix", held.fence.name)]
    assert list(other.admin.verify(T)) == []
    assert raw.documents()[held.fence.name]["token"] == 8
    with pytest.raises(FencedError):
        put(saver, 2, 1, held.fence)
    assert acquire(other, "m").fence.token == 9
    assert list(other.admin.verify(T)) == []


@pytest.mark.parametrize("counter", [(1 << 63) - 1, float("nan"), "1", None, -1])
def test_a_forged_beat_is_written_again(saver, counter):
    def forge() -> Any:
        yield from Commit((Merge(keys.beat_doc(T), {"counter": counter, "note": 5, "wish": 5}),))

    held = acquire(saver)
    perform(saver, forge())
    (listed,) = saver.admin.leases()
    assert listed.node is None
    seen = perform(saver, leases.beat(held.fence, held.beat, {}))
    assert (seen.counter, seen.wish) == (1, None)


# What is said


def test_an_acquisition_whose_lease_is_ended_meanwhile_says_so(saver, other, seen):
    def end() -> Any:
        yield from Commit((Merge(keys.fence_doc(T), {"owner": None}),))

    put(saver, 1, None, None)
    # Before the second commit, which marks the tip.
    seen.before = lambda: setattr(seen, "before", lambda: perform(other, end()))
    with pytest.raises(ThreadBusyError, match="ended or took over the lease"):
        acquire(saver)


def test_a_put_without_the_lease_of_its_own_process_is_told_to_use_it(saver, other):
    put(saver, 1, None, None)
    acquire(saver)
    for why in ("This process has acquired the lease", "The holder is this process"):
        with pytest.raises(ThreadBusyError, match=rf"{why}.*lease\.config"):
            put(saver, 2, 1, None)
    with pytest.raises(ThreadBusyError, match="take it over"):
        put(other, 2, 1, None)


def test_a_wish_that_comes_before_a_lost_answer_is_met(saver, other, seen):
    """The holder does not know its beat's time yet, and must not take the wish's for it without the wish."""
    lost = []

    class Lost(Interceptor):
        def around(self, effect: Effect[Any], perform: Perform) -> Any:
            done = perform(effect)
            if isinstance(effect, Commit) and not lost:
                lost.append(other.thread(T).pause())
                return None
            return done

    with GCSSaver(stores=(saver._backend.documents, saver._backend.blobs), interceptors=[Lost()]) as mine:
        held = acquire(mine)
        assert lost == [True]
        assert perform(mine, leases.beat(held.fence, held.beat, {})).wish == leases.WISH
