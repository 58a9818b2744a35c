"""Every order in which the workers of a batch can act, crash, and be taken for dead, and in which answers can get lost.

No item is handled twice unless its worker was taken for dead, and no batch ends while an item is left. `make soak`
tries all orders, and other runs some thousand. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Create, Flow, GetDocs, Merge
from langgraph_gcs_saver.flows import collections
from langgraph_gcs_saver.flows import item_batches as flows
from langgraph_gcs_saver.flows.threads import Guard
from langgraph_gcs_saver.format import item_batches, keys, registry

from . import world
from .batching import BATCHING, NAME
from .world import Report, explore

BUDGET = 60_000
"""States to look at, more than any of these scenarios has."""

SAMPLE = 2_000
"""States to look at without `make soak`. They come from all over: see `explore`."""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_batches, "INLINE_BYTES", 300)
    monkeypatch.setattr(collections, "DOCS_PER_PAGE", 1)


BUDGETS = pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])


def _explored(name: str, budget: int = BUDGET) -> Report:
    scenario = BATCHING[name]()
    return explore(scenario.world, scenario.processes, scenario.rules.check, scenario.rules.check_end, budget=budget)


@BUDGETS
@pytest.mark.parametrize("name", BATCHING)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends
    assert report.complete or budget < BUDGET, "there are more orders than were tried"


@BUDGETS
@pytest.mark.parametrize("name", ["large_outputs_and_a_deletion", "a_worker_that_is_taken_for_dead"])
def test_no_order_breaks_anything_with_read_back(name: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "VERIFY", "readback")
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends
    assert report.complete or budget < BUDGET, "there are more orders than were tried"


COPIES = [name for name in BATCHING if name.startswith("a_copy_")]


@BUDGETS
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_whole_if_collections_are_listed_in_another_order(
    name: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "COLLECTIONS", registry.COLLECTIONS[::-1])
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _claims_that_overwrite(patch: pytest.MonkeyPatch) -> None:
    def create(name: str, fields: Any) -> Any:
        return Merge(name, fields) if f"/{keys.CHUNKS}/" in name else Create(name, fields)

    patch.setattr(flows, "Create", create)


def _merges_without(patch: pytest.MonkeyPatch, chosen: Callable[[str, Any], bool]) -> None:
    """Some merges have no precondition."""

    def merge(name: str, fields: Any, update_time: int | None = None) -> Merge:
        return Merge(name, fields, update_time=None if chosen(name, fields) else update_time)

    patch.setattr(flows, "Merge", merge)


def _takeovers_not_as_seen(patch: pytest.MonkeyPatch) -> None:
    _merges_without(patch, lambda name, _: f"/{keys.CHUNKS}/" in name)


def _claims_of_a_batch_not_as_seen(patch: pytest.MonkeyPatch) -> None:
    _merges_without(patch, lambda name, fields: name == NAME and not fields)


def _closed_not_as_seen(patch: pytest.MonkeyPatch) -> None:
    _merges_without(patch, lambda name, fields: name == NAME and fields.keys() == {"state"})


def _no_look_after_a_claim(patch: pytest.MonkeyPatch) -> None:
    whole = flows.look

    def look(opened: Any, known: Any, context: Any, chunk: int | None = None, **options: Any) -> Flow[Any]:
        if chunk is not None and known.met.pop(~chunk, None):
            return opened
        if chunk is not None:
            known.met[~chunk] = 1, 1.0
        return (yield from whole(opened, known, context, chunk, **options))

    patch.setattr(flows, "look", look)


def _the_same_epoch_always(patch: pytest.MonkeyPatch) -> None:
    whole = item_batches.Listing

    def listing(batch_id: str, _: str, *args: Any, **options: Any) -> Any:
        return whole(batch_id, "epoch000", *args, **options)

    patch.setattr(flows, "Listing", listing)


def _the_batch_read_first(patch: pytest.MonkeyPatch) -> None:
    whole = flows.look

    def with_early(flow: Flow[Any], name: str) -> Flow[Any]:
        early = yield from GetDocs((name,))
        effect = next(flow)
        while True:
            effect = flow.send(early if effect == GetDocs((name,)) else (yield effect))

    def look(opened: Any, known: Any, context: Any, chunk: int | None = None, **options: Any) -> Flow[Any]:
        found: list[Any] = []

        def kept() -> Flow[Any]:
            found.append((yield from whole(opened, known, context, chunk, **options)))
            yield Ended

        Ended = GetDocs(("ended",))  # noqa: N806 - a mark
        flow = with_early(kept(), opened.name)
        effect = next(flow)
        while effect is not Ended:
            effect = flow.send((yield effect))
        return found[0]

    patch.setattr(flows, "look", look)


def _lists_that_change_after_the_end(patch: pytest.MonkeyPatch) -> None:
    whole = flows._wanted

    def wanted(request: Any, found: Any, context: Any) -> Any:
        is_closed = found is not None and found.state == "closing"
        return whole(request, replace(found, state="open") if is_closed else found, context)

    patch.setattr(flows, "_wanted", wanted)


def _new_items_first(patch: pytest.MonkeyPatch) -> None:
    def changed(listing: Any, **fields: Any) -> Any:
        if "keys" in fields and "removed" in fields:
            new = [key for key in fields["keys"] if key not in listing.keys]
            fields["keys"] = (*new, *listing.keys)
        return replace(listing, **fields)

    patch.setattr(flows, "replace", changed)


def _no_guard_of_the_thread(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Guard, "write", lambda guard, _: Merge(guard.name, {"thread_id": "t"}))


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_claims_that_overwrite, "two_workers", "handled twice"),
        (_takeovers_not_as_seen, "two_take_the_chunk_of_a_dead_worker", "handled twice"),
        (_claims_of_a_batch_not_as_seen, "large_outputs_and_a_deletion", "lacks its format"),
        (_no_look_after_a_claim, "two_workers", "handled twice"),
        (_the_same_epoch_always, "a_restart_and_late_workers", "skipped"),
        (_the_batch_read_first, "a_restart_and_late_workers", "skipped"),
        (_closed_not_as_seen, "a_longer_list_at_the_end", "skipped"),
        (_lists_that_change_after_the_end, "a_longer_list_at_the_end", "changed after"),
        (_new_items_first, "a_longer_list_at_the_end", "skipped"),
        (_no_guard_of_the_thread, "large_outputs_and_a_deletion", "I1: missing"),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name)
    assert report.failure is not None, f"nothing was noticed in {report.states} states"
    assert wrong in report.failure, report.failure
