"""Failovers between two embedded stores: what is lost, who may write, and which operations may begin again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver import NOT_DONE, GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    FencedError,
    InvalidInputError,
    NotPrimaryError,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.events import ForkMerged, RoleChanged
from langgraph_gcs_saver.flows import replication
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.regions import FIRST_ROLE, Role, role_of
from langgraph_gcs_saver.testing.crash import config_of, put_arguments
from tests.kit.regions import replicated, stores
from tests.patience import PATIENCE

THREAD = "t"


class Outage(Interceptor):
    """Lets no request reach the store while `is_out`."""

    def __init__(self) -> None:
        self.is_out = False

    def around(self, effect: Any, perform: Any) -> Any:
        if self.is_out:
            raise StoreUnavailableError("The region does not answer.")
        return perform(effect)


class Regions:
    """Two stores, one of which replicates to the other, and an outage of it."""

    def __init__(self, directory: Path) -> None:
        self.outage = Outage()
        self.events: list[Any] = []
        self.eu = GCSSaver.from_conn_string(f"{directory.as_uri()}/eu", interceptors=[self.outage])
        self.us = GCSSaver.from_conn_string(f"{directory.as_uri()}/us")
        for one in (self.eu, self.us):
            one.subscribe(self.events.append)
        put(self.eu, 1, None)
        self.eu.admin.replicate(self.us)

    def ship(self) -> None:
        self.eu.admin.replicate(self.us)

    def lose(self) -> None:
        """Fail over by force, because the region does not answer."""
        self.outage.is_out = True
        done = self.eu.admin.failover(self.us, force=True)
        assert "The region does not answer" in done.unreached
        assert role(self.us).unmerged

    def find_again(self) -> Any:
        self.outage.is_out = False
        return self.eu.admin.failover(self.us, force=True)

    def changed(self) -> list[tuple[str, str, str]]:
        """The roles that stores got: the store, its role, and why."""
        return [
            (one.store.rpartition("/")[2], one.role, one.cause) for one in self.events if isinstance(one, RoleChanged)
        ]


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[Regions]:
    found = Regions(tmp_path)
    with found.eu, found.us:
        yield found


def role(saver: GCSSaver) -> Role:
    return role_of(saver._backend.perform(GetDocs((FIRST_ROLE,)))[FIRST_ROLE])


def put(saver: GCSSaver, number: int, parent: int | None) -> None:
    saver.put(*put_arguments(number, parent))


def steps(saver: GCSSaver) -> list[int]:
    return sorted(one.metadata["step"] for one in saver.list(config_of(None)))


def once(saver: GCSSaver, key: str, **options: Any) -> Any:
    return saver.thread(THREAD).operations.once("charge", lambda: f"charged {key}", request={}, key=key, **options)


# Before


def test_the_status_while_the_source_does_not_answer(regions: Regions) -> None:
    regions.ship()
    known = regions.eu.admin.replication(regions.us)
    regions.outage.is_out = True
    found = regions.eu.admin.replication(regions.us)
    assert (found.source_role, found.target_role, found.mark) == ("unreached", "replica", known.mark)
    assert found.lag is not None
    lines = str(found).splitlines()
    assert lines[0] == f"{found.source}: Store 'source': The region does not answer."
    assert [line.split()[0] for line in lines[2:]] == ["Epoch", "The"], "its outbox is not known"
    regions.eu.admin.failover(regions.us, force=True)
    regions.outage.is_out = False
    assert "Both count themselves as the primary" in str(regions.eu.admin.replication(regions.us))


# Planned


def test_a_planned_failover_loses_nothing_and_back(regions: Regions) -> None:
    put(regions.eu, 2, 1)
    done = regions.eu.admin.failover(regions.us)
    assert (done.primary, done.epoch, done.shipped, done.mark, done.unreached) == (done.target, 2, 1, None, "")
    with pytest.raises(NotPrimaryError, match="replica"):
        put(regions.eu, 3, 2)
    put(regions.us, 3, 2)
    assert (steps(regions.eu), steps(regions.us)) == ([1, 2], [1, 2, 3])
    back = regions.us.admin.failover(regions.eu)
    assert (back.source, back.target, back.primary) == (done.target, done.source, done.source)
    put(regions.eu, 4, 3)
    assert steps(regions.eu) == [1, 2, 3, 4]
    assert regions.changed()[2:] == [
        ("eu", "fenced", "failover"),
        ("us", "primary", "failover"),
        ("eu", "replica", "failover"),
        ("us", "fenced", "failover"),
        ("eu", "primary", "failover"),
        ("us", "replica", "failover"),
    ]


def test_only_the_primary_has_leases(regions: Regions) -> None:
    with pytest.raises(NotPrimaryError, match="replica"), regions.us.thread(THREAD).lease():
        pass
    with regions.eu.thread(THREAD).lease():
        regions.eu.admin.failover(regions.us)
        with regions.us.thread(THREAD).lease():
            assert [one.thread_id for one in regions.us.admin.leases()] == [THREAD]
    assert list(regions.eu.admin.leases()) == list(regions.us.admin.leases()) == [], "both could be released"


def put_under(lease: Any, saver: GCSSaver, number: int, parent: int) -> None:
    config, *others = put_arguments(number, parent)
    saver.put({"configurable": {**lease.config["configurable"], **config["configurable"]}}, *others)


def there_and_back(regions: Regions) -> None:
    with regions.eu.thread(THREAD).lease() as lease:
        regions.eu.admin.failover(regions.us)
        put(regions.us, 3, 1)
        regions.us.admin.failover(regions.eu)
        put_under(lease, regions.eu, 2, 1)


def test_a_lease_ends_with_its_epoch(regions: Regions) -> None:
    """Its fence has not changed, but the other store has continued the thread."""
    with pytest.raises(FencedError, match=r"in epoch 1 .* now it is epoch 3"):
        there_and_back(regions)
    assert steps(regions.eu) == [1, 3]
    with regions.eu.thread(THREAD).lease() as lease:
        put_under(lease, regions.eu, 4, 3)
    assert steps(regions.eu) == [1, 3, 4]


def test_a_lease_that_was_lost_does_not_stop_later_calls_without_a_lease(regions: Regions, tmp_path: Path) -> None:
    uri = f"{tmp_path.as_uri()}/eu"
    with regions.eu.thread(THREAD).lease() as lease:
        with GCSSaver.from_conn_string(uri) as other, other.thread(THREAD).lease(take_over=True):
            pass
        with pytest.raises(FencedError):
            put_under(lease, regions.eu, 2, 1)
    regions.eu.admin.failover(regions.us)
    regions.us.admin.failover(regions.eu)
    regions.eu.admin.pin(config_of(1), "a label")
    put(regions.eu, 3, 1)
    regions.eu.prune([THREAD], strategy="keep_latest")
    assert steps(regions.eu) == [1, 3]


def test_a_failover_that_is_repeated_changes_nothing(regions: Regions) -> None:
    first = regions.eu.admin.failover(regions.us)
    count = len(regions.changed())
    again = regions.eu.admin.failover(regions.us)
    assert (again.primary, again.epoch, again.shipped) == (first.primary, first.epoch, 0)
    assert len(regions.changed()) == count


def test_a_thread_that_cannot_be_shipped_stops_a_failover_which_can_be_taken_back(regions: Regions) -> None:
    put(regions.eu, 2, 1)
    name = keys.checkpoint_doc(THREAD, "", put_arguments(2, 1)[1]["id"])
    damage(regions.eu, name)
    with pytest.raises(Exception, match=r"amaged|orrupt"):
        regions.eu.admin.failover(regions.us)
    assert (role(regions.eu).name, role(regions.us).name) == ("fenced", "replica")
    assert "Neither takes writes" in str(regions.eu.admin.replication(regions.us))
    with pytest.raises(NotPrimaryError):
        put(regions.eu, 3, 1)
    kept = regions.eu.admin.failover(regions.us, abort=True)
    assert kept.primary == kept.source
    regions.eu.admin.repair()
    put(regions.eu, 3, 1)
    done = regions.eu.admin.failover(regions.us)
    assert done.primary == done.target
    assert steps(regions.us) == [1, 3]


def damage(saver: GCSSaver, name: str) -> None:
    assert saver._backend.perform(Commit((Merge(name, {"manifest": b"damaged"}),))) is not None


def test_a_replica_that_is_not_complete_does_not_become_the_primary(tmp_path: Path) -> None:
    """A thread from before the replication cannot be shipped, and no entry of the outbox says so."""
    with (
        GCSSaver.from_conn_string(f"{tmp_path.as_uri()}/eu") as eu,
        GCSSaver.from_conn_string(f"{tmp_path.as_uri()}/us") as us,
    ):
        put(eu, 1, None)
        damage(eu, keys.checkpoint_doc(THREAD, "", put_arguments(1, None)[1]["id"]))
        with pytest.raises(CheckpointCorruptError):
            eu.admin.replicate(us)
        with pytest.raises(InvalidInputError, match=r"`replicate` has not ended|no call of `replicate` has ended"):
            eu.admin.failover(us)
        assert (role(eu).name, role(us).name) == ("primary", "replica")
        with pytest.raises(CheckpointCorruptError):
            eu.admin.failover(us, force=True)
        assert (role(eu).name, role(us).name, role(us).unmerged) == ("replica", "primary", True)


def test_there_is_nothing_to_take_back_from_the_primary(regions: Regions) -> None:
    kept = regions.eu.admin.failover(regions.us, abort=True)
    assert (kept.primary, kept.epoch) == (kept.source, 1)
    regions.eu.admin.failover(regions.us)
    with pytest.raises(InvalidInputError, match="the primary already"):
        regions.eu.admin.failover(regions.us, abort=True)
    with pytest.raises(InvalidInputError, match="both true"):
        regions.eu.admin.failover(regions.us, force=True, abort=True)


def test_stores_that_are_no_replicas_of_each_other(regions: Regions, tmp_path: Path) -> None:
    with GCSSaver.from_conn_string(f"{tmp_path.as_uri()}/other") as other:
        put(other, 1, None)
        for options in ({}, {"force": True}, {"abort": True}):
            with pytest.raises(InvalidInputError, match=r"not replicated|replicated with"):
                regions.eu.admin.failover(other, **options)
            with pytest.raises(InvalidInputError, match=r"not replicated|replicated with"):
                other.admin.failover(regions.us, **options)
        with pytest.raises(InvalidInputError, match="its own replica"):
            other.admin.failover(other)
    assert (role(regions.eu).epoch, role(regions.us).epoch) == (1, 1)


class Between(Interceptor):
    """Does something else before the first commit that stores checkpoints of a thread."""

    def __init__(self, thread_id: str, other: Callable[[], object]) -> None:
        self._prefix = f"{keys.checkpoints(thread_id)}/"
        self._other: Callable[[], object] | None = other

    def around(self, effect: Any, perform: Any) -> Any:
        if isinstance(effect, Commit) and any(write.name.startswith(self._prefix) for write in effect.writes):
            other, self._other = self._other, None
            if other is not None:
                other()
        return perform(effect)


class Deletion(Interceptor):
    """Does something else after the first commit of a deletion, which marks the thread."""

    def __init__(self, other: Callable[[], object]) -> None:
        self._other: Callable[[], object] | None = other

    def around(self, effect: Any, perform: Any) -> Any:
        done = perform(effect)
        if isinstance(effect, Commit) and any("deleting" in getattr(write, "fields", {}) for write in effect.writes):
            other, self._other = self._other, None
            if other is not None:
                other()
        return done


def test_a_deletion_that_a_failover_ends_does_not_delay_the_next_one(regions: Regions) -> None:
    deletion = Deletion(lambda: regions.eu.admin.failover(regions.us))
    uri = str(regions.eu.admin.replication(regions.us).source)
    with GCSSaver.from_conn_string(uri, interceptors=[deletion]) as eu, pytest.raises(NotPrimaryError):
        eu.admin.delete_thread(THREAD)
    put(regions.us, 2, 1)
    # The deletion counts as crashed at once, and not only after the timeout.
    with GCSSaver.from_conn_string(uri, timeout=10 * PATIENCE) as eu:
        assert regions.us.admin.failover(eu).primary == uri
        assert steps(eu) == [1, 2]
        put(eu, 3, 2)
        assert list(eu.admin.verify(depth="data")) == []


def test_a_copy_that_a_failover_ends_does_not_stop_the_next_one(regions: Regions) -> None:
    between = Between("copy", lambda: regions.eu.admin.failover(regions.us))
    uri = str(regions.eu.admin.replication(regions.us).source)
    with GCSSaver.from_conn_string(uri, interceptors=[between]) as eu, pytest.raises(NotPrimaryError):
        eu.admin.copy_thread(THREAD, "copy")
    # The copy can neither continue nor be deleted in a replica.
    regions.us.thread("copy").operations.once("charge", lambda: "charged", key="order")
    regions.us.admin.delete_thread("copy")
    regions.us.admin.copy_thread(THREAD, "copy")
    done = regions.us.admin.failover(regions.eu)
    assert done.primary == done.target
    assert [one.checkpoint_id for one in regions.eu.admin.history("copy")] == [put_arguments(1, None)[1]["id"]]
    assert list(regions.eu.admin.verify(depth="data")) == []


# Forced


def test_a_forced_failover_is_completed_when_the_source_is_back(regions: Regions) -> None:
    regions.ship()
    put(regions.eu, 2, 1)
    regions.lose()
    put(regions.us, 3, 1)
    # The source does not know it yet, so it takes a step.
    regions.outage.is_out = False
    put(regions.eu, 4, 2)
    done = regions.find_again()
    assert (done.unreached, done.primary) == ("", done.target)
    assert not role(regions.us).unmerged
    with pytest.raises(NotPrimaryError):
        put(regions.eu, 5, 4)
    assert steps(regions.us) == [1, 2, 3, 4]
    assert [one.checkpoint_id for one in done.forks] == [put_arguments(2, 1)[1]["id"]]
    assert [one.checkpoint_id for one in regions.events if isinstance(one, ForkMerged)] == [
        one.checkpoint_id for one in done.forks
    ]


def test_nothing_that_was_acknowledged_before_the_mark_is_missing(regions: Regions) -> None:
    put(regions.eu, 2, 1)
    regions.ship()
    put(regions.eu, 3, 2)
    regions.outage.is_out = True
    done = regions.eu.admin.failover(regions.us, force=True)
    assert done.mark is not None
    times = {
        one.metadata["step"]: regions_time(regions.eu, one.config["configurable"]["checkpoint_id"])
        for one in steps_of(regions)
    }
    covered = {step for step, time in times.items() if time <= done.mark}
    assert covered == {1, 2}
    assert steps(regions.us) == [1, 2]
    assert "Nothing that was acknowledged before 20" in str(done)


def steps_of(regions: Regions) -> list[Any]:
    regions.outage.is_out = False
    return list(regions.eu.list(config_of(None)))


def regions_time(saver: GCSSaver, checkpoint_id: str) -> int:
    name = keys.checkpoint_doc(THREAD, "", checkpoint_id)
    time: int = saver._backend.perform(GetDocs((name,)))[name].create_time
    return time


def test_an_operation_that_the_lost_region_may_have_begun_does_not_begin_again(regions: Regions) -> None:
    assert once(regions.eu, "shipped") == "charged shipped"
    put(regions.eu, 2, 1)
    regions.ship()
    assert once(regions.eu, "not shipped") == "charged not shipped"
    regions.lose()
    assert once(regions.us, "shipped") == "charged shipped"
    with pytest.raises(OutcomeUnknownError):
        once(regions.us, "not shipped")
    (found,) = regions.us.thread(THREAD).operations.unresolved()
    assert (found.key, found.state) == ("not shipped", "unknown")
    # The caller, or a person, knows more.
    assert once(regions.us, "repeatable", mode="at_least_once") == "charged repeatable"
    assert once(regions.us, "looked up", reconcile=lambda _: "found") == "found"
    assert once(regions.us, "not there", reconcile=lambda _: NOT_DONE) == "charged not there"
    regions.us.thread(THREAD).operations.resolve("not shipped", result="charged not shipped")
    assert once(regions.us, "not shipped") == "charged not shipped"
    # A thread of which the other region has shipped nothing is new.
    other = regions.us.thread("another").operations
    assert other.once("charge", lambda: "charged", request={}, key="new") == "charged"


@pytest.mark.parametrize("scope", ["thread", "store"])
def test_a_merge_brings_the_outcome_of_an_operation_that_is_in_doubt(regions: Regions, scope: str) -> None:
    assert once(regions.eu, "first", scope=scope) == "charged first"
    regions.ship()
    for key in ("in doubt", "resolved", "repeated"):
        assert once(regions.eu, key, scope=scope) == f"charged {key}"
    regions.lose()
    of = None if scope == "store" else THREAD
    for key in ("in doubt", "resolved"):
        with pytest.raises(OutcomeUnknownError):
            once(regions.us, key, scope=scope)
    assert once(regions.us, "repeated", scope=scope, mode="at_least_once") == "charged repeated"
    regions.us.admin.resolve_operation(of, "resolved", result="by a person")
    regions.find_again()
    assert regions.us.admin.operations(of, unresolved=True) == []
    regions.us.admin.replicate(regions.eu)
    assert replicated(regions.eu)[0] == replicated(regions.us)[0]
    regions.us.admin.failover(regions.eu)
    for key, result in (("in doubt", "charged in doubt"), ("resolved", "by a person")):
        assert once(regions.eu, key, scope=scope) == result


def test_an_operation_does_not_begin_again_if_the_clock_of_the_lost_region_was_ahead(
    regions: Regions, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "eu" / "documents.sqlite3")) as db, db:
        db.execute("UPDATE clock SET last = last + 3600000000000")  # nanoseconds: an hour
    put(regions.eu, 2, 1)
    assert once(regions.eu, "shipped", scope="store") == "charged shipped"
    regions.ship()
    assert once(regions.eu, "not shipped") == "charged not shipped"
    assert once(regions.eu, "not shipped", scope="store") == "charged not shipped"
    regions.lose()
    for options in ({}, {"scope": "store"}):
        with pytest.raises(OutcomeUnknownError):
            once(regions.us, "not shipped", **options)


def test_a_shipper_that_comes_before_the_merge_lets_operations_begin(regions: Regions) -> None:
    put(regions.eu, 2, 1)
    regions.ship()
    assert once(regions.eu, "not shipped") == "charged not shipped"
    regions.lose()
    regions.outage.is_out = False
    next(iter(regions.eu.admin.follow(regions.us)))
    assert role(regions.us).unmerged
    assert once(regions.us, "not shipped") == "charged not shipped"
    assert once(regions.us, "new") == "charged new"


def test_what_a_primary_keeps_of_a_deleted_thread_is_there_after_the_next_failover(regions: Regions) -> None:
    assert once(regions.eu, "first") == "charged first"
    file = regions.eu.thread(THREAD).blobs.put(b"a file")
    regions.ship()
    regions.eu.delete_thread(THREAD)
    put(regions.eu, 2, None)
    regions.lose()
    assert once(regions.us, "second", mode="at_least_once") == "charged second"
    regions.find_again()
    back = regions.us.admin.failover(regions.eu)
    assert back.primary == back.target
    assert replicated(regions.eu)[0] == replicated(regions.us)[0]
    for key in ("first", "second"):
        repeated = regions.eu.thread(THREAD).operations.once("charge", lambda: "twice", request={}, key=key)
        assert repeated == f"charged {key}"
    assert regions.eu.thread(THREAD).blobs.open(file).read() == b"a file"


def test_the_old_primary_gets_the_versions_that_the_new_one_keeps(regions: Regions) -> None:
    put(regions.eu, 2, 1)
    regions.ship()
    assert once(regions.eu, "order") == "charged order"
    regions.lose()
    assert once(regions.us, "order", mode="at_least_once") == "charged order"
    regions.outage.is_out = False
    # A follower in the other direction comes while both count themselves as the primary, so the old one keeps its own.
    run(replication.ship_once(context=regions.eu._context), stores(regions.us, regions.eu))
    regions.find_again()
    kept = replicated(regions.us)[0]
    back = regions.us.admin.failover(regions.eu)
    assert back.primary == back.target
    assert replicated(regions.eu)[0] == replicated(regions.us)[0] == kept


def test_a_process_that_knew_the_store_before_does_not_begin_an_operation_again(regions: Regions) -> None:
    regions.eu.admin.failover(regions.us)
    assert once(regions.us, "first") == "charged first"
    regions.us.admin.failover(regions.eu)
    put(regions.eu, 2, 1)
    regions.ship()
    regions.lose()
    with pytest.raises(OutcomeUnknownError):
        once(regions.us, "second")


def test_operations_begin_again_once_the_source_was_merged(regions: Regions) -> None:
    put(regions.eu, 2, 1)
    regions.ship()
    assert once(regions.eu, "not shipped") == "charged not shipped"
    regions.lose()
    with pytest.raises(OutcomeUnknownError):
        once(regions.us, "another")
    regions.find_again()
    assert once(regions.us, "not shipped") == "charged not shipped"
    assert once(regions.us, "new") == "charged new"


def test_a_source_that_never_comes_back_is_replaced_by_an_empty_one(regions: Regions, tmp_path: Path) -> None:
    put(regions.eu, 2, 1)
    regions.ship()
    regions.lose()
    put(regions.us, 3, 2)
    (tmp_path / "eu").rename(tmp_path / "lost")
    with GCSSaver.from_conn_string(f"{tmp_path.as_uri()}/eu") as fresh:
        forced = fresh.admin.failover(regions.us, force=True)
        assert "no role" in forced.unreached
        assert role(regions.us).unmerged
        regions.us.admin.replicate(fresh)
        done = fresh.admin.failover(regions.us, force=True)
        assert (done.primary, done.unreached) == (done.target, "")
        assert not role(regions.us).unmerged
        assert once(regions.us, "new") == "charged new"
        assert steps(fresh) == [1, 2, 3]
        put(regions.us, 4, 3)
        back = regions.us.admin.failover(fresh)
        assert back.primary == back.target
        assert steps(fresh) == [1, 2, 3, 4]


def test_the_other_direction_fences_a_source_that_is_back(regions: Regions) -> None:
    regions.lose()
    put(regions.us, 2, 1)
    regions.outage.is_out = False
    regions.us.admin.replicate(regions.eu)
    assert (role(regions.eu).name, role(regions.us).name) == ("replica", "primary")
    with pytest.raises(NotPrimaryError):
        put(regions.eu, 3, 1)
    assert steps(regions.eu) == [1, 2]


def test_a_replica_cannot_be_a_source(regions: Regions) -> None:
    with pytest.raises(InvalidInputError, match="not the primary of the two"):
        regions.us.admin.replicate(regions.eu)
    # A failover to the primary changes nothing.
    done = regions.us.admin.failover(regions.eu)
    assert (done.primary, done.epoch) == (done.target, 1)
