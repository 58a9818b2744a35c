"""Every order in which writers, pruners, shippers and crashes can meet at two stores that replicate each other.

At every instant, each store has all frames and objects of what it lists, and no heir is missing unless it was deleted
(I10). Once nothing is left to ship, both list what was acknowledged in either and deleted in neither. The mark covers
nothing that the target lacks. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Commit, Flow, Merge, Write
from langgraph_gcs_saver.engine.steps import at
from langgraph_gcs_saver.flows import prune, replication, shipments
from langgraph_gcs_saver.flows.shipments import Shipment
from langgraph_gcs_saver.flows.transfer import SOURCE
from langgraph_gcs_saver.format import keys, regions
from langgraph_gcs_saver.format.regions import Entry

from .replicating import REPLICATING, check, check_end
from .world import Report, explore

BUDGET = 400_000
"""States to look at. Three scenarios have more."""

SAMPLE = 800
"""States that the usual tests look at."""

TRIES = 4
"""How often a shipper tries. More tries after conflicts are the same again."""


def _explored(name: str, budget: int, seed: int = 0) -> Report:
    pair, processes = REPLICATING[name]()
    world: Any = pair
    return explore(world, processes, check, check_end, budget=budget, seed=seed)


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "MAX_TRIES", TRIES)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", REPLICATING)
def test_no_order_of_steps_breaks_a_store_or_loses_a_checkpoint(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _no_entries_after_the_first(patch: pytest.MonkeyPatch) -> None:
    whole = regions.Changes.entries

    def entries(self: regions.Changes, nonces: Iterable[str]) -> tuple[Entry, ...]:
        return () if any(keys.checkpoint_id_of(name) == "3" for _, name in self.changed) else whole(self, nonces)

    patch.setattr(regions.Changes, "entries", entries)


def _removed_before(patch: pytest.MonkeyPatch) -> None:
    whole, removed = Shipment.flow, Shipment._remove

    def flow(self: Shipment, entries: Sequence[Entry], mark: int) -> Flow[None]:
        yield from removed(self, entries)
        yield from whole(self, entries, mark)

    def nothing(self: Shipment, entries: Sequence[Entry]) -> Flow[None]:
        yield from ()

    patch.setattr(Shipment, "flow", flow)
    patch.setattr(Shipment, "_remove", nothing)


def _unguarded(patch: pytest.MonkeyPatch) -> None:
    def commit(self: Shipment, writes: Sequence[Write], *, mark: int | None = None) -> Flow[Any]:
        del mark
        times = yield from Commit((Merge(self.ship, {"token": self.context.new_attempt()}), *writes))
        return None if times is None else times[1:]

    patch.setattr(Shipment, "commit", commit)


def _tombs_ignored(patch: pytest.MonkeyPatch) -> None:
    def tombs(self: Shipment) -> Flow[dict[str, list[str]]]:
        yield from ()
        return {}

    patch.setattr(Shipment, "_tombs", tombs)


def _without_closure(patch: pytest.MonkeyPatch) -> None:
    def close(self: Shipment, names: Any) -> Flow[None]:
        yield from ()

    patch.setattr(Shipment, "_close", close)


def _nothing_held(patch: pytest.MonkeyPatch) -> None:
    add = Shipment._add

    def added(self: Shipment, write: Write) -> None:
        if isinstance(write, Merge) and write.fields.keys() <= {"heir", shipments.SHIPPED}:
            if "heir" not in write.fields:
                return
            write = replace(write, update_time=None)
        add(self, write)

    patch.setattr(Shipment, "_add", added)


def _heir_as_it_is(patch: pytest.MonkeyPatch) -> None:
    add = Shipment._add

    def added(self: Shipment, write: Write) -> None:
        if not (isinstance(write, Merge) and "heir" in write.fields and "manifest" not in write.fields):
            add(self, write)

    patch.setattr(shipments, "_KEPT", ("fence", "holds", shipments.SHIPPED))
    patch.setattr(Shipment, "_add", added)


def _nothing_stripped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prune, "_stay", lambda *_: set())


def _marked_after(patch: pytest.MonkeyPatch) -> None:
    move = replication._move_mark

    def moved(_: int) -> Flow[None]:
        times = yield from at(SOURCE, iter(Commit((Merge(replication.CLOCK, {"token": "later"}),))))
        assert times is not None
        yield from move(times[0])

    patch.setattr(replication, "_move_mark", moved)


def _gone_once_for_all(patch: pytest.MonkeyPatch) -> None:
    def has_begun_again(_: Shipment) -> Flow[bool]:
        yield from ()
        return False

    patch.setattr(Shipment, "_has_begun_again", has_begun_again)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_no_entries_after_the_first, "one_way_a_writer_and_a_shipper", "the mark covers"),
        (_removed_before, "a_shipper_that_crashes_and_its_successor", "in the end T lists"),
        (_unguarded, "one_way_a_writer_a_pruner_and_two_shippers", "in the end T lists"),
        (_tombs_ignored, "the_target_deleted_what_the_source_still_ships", "in the end"),
        (_without_closure, "the_source_pruned_what_the_target_continued", "I10"),
        (_nothing_held, "the_source_pruned_what_the_target_continued", "I10"),
        (_heir_as_it_is, "one_way_a_writer_and_a_shipper", "I10"),
        (_nothing_stripped, "the_source_pruned_what_the_target_continued", "I10"),
        (_marked_after, "one_way_a_writer_and_a_shipper", "the mark covers"),
        (_gone_once_for_all, "a_thread_that_begins_again_and_a_shipper", "in the end T lists"),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name, BUDGET)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
