"""Every order in which changes of the primary, writers and crashes can meet.

There are never two primaries, and a primary has everything that any store has acknowledged. A store that is not the
primary takes nothing. If both stores can be reached, a call that has ended leaves one primary. The tests at the end
remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Flow, GetDocs, On
from langgraph_gcs_saver.flows import operations, regions, roles
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.shipments import Shipment
from langgraph_gcs_saver.flows.transfer import TARGET
from langgraph_gcs_saver.format.regions import Role
from langgraph_gcs_saver.results import Shipped

from . import failing_over
from .failing_over import CHANGING, check, check_end
from .world import Report, explore

BUDGET = 50_000
"""States to look at, more than the scenarios in `WHOLE` have without crashes and lost answers."""

SAMPLE, LARGE_SAMPLE = 1_000, 150_000
"""States that the usual tests look at, and the soak tests, with crashes and lost answers."""

WHOLE = (
    "a_change_and_writers_on_both_sides",
    "forced_and_then_the_source_is_reached",
    "forced_beside_an_operation",
)
"""Scenarios of which all orders are tried. In the others, two calls fail over at the same time, and each ships."""


@pytest.fixture(autouse=True)
def _few_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_over.with_few_roles(monkeypatch)


def _explored(name: str, budget: int, *, is_lean: bool = False) -> Report:
    world, processes = CHANGING[name]()
    if is_lean:
        processes = tuple(replace(one, dies=False, lost=0) for one in processes)
    return explore(world, processes, check, check_end, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(LARGE_SAMPLE, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", CHANGING)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends


@pytest.mark.soak
@pytest.mark.parametrize("name", WHOLE)
def test_all_orders_without_crashes(name: str) -> None:
    report = _explored(name, BUDGET, is_lean=True)
    assert report.failure is None, report.failure
    assert report.complete, "there are more orders than were tried"


def test_a_forced_change_cannot_exclude_that_both_stores_are_the_primary() -> None:
    """Nothing can fence a source that is not reached. So this fails, as the model does."""
    world, processes = CHANGING["forced_and_then_the_source_is_reached"]()
    world.is_forced = False
    report = explore(world, processes, check, check_end, budget=SAMPLE)
    assert report.failure is not None
    assert report.failure.startswith("two primaries"), report.failure


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]
_changed, _ship_all, _planned = regions._changed, regions._ship_all, regions.planned


def _not_demanded(patch: pytest.MonkeyPatch) -> None:
    """Commits of writers do not require the role."""
    patch.setattr(roles._Part, "ruled", lambda part, *_: part.effect)


def _not_fenced(patch: pytest.MonkeyPatch) -> None:
    """The target is promoted before the source is fenced."""

    def changed(store: Any, role: Role, cause: Any) -> Flow[bool]:
        return True if role.name == "fenced" else (yield from _changed(store, role, cause))

    patch.setattr(regions, "_changed", changed)


def _shipped_before(patch: pytest.MonkeyPatch) -> None:
    """Everything is shipped before the source is fenced, and nothing after it."""

    def planned(pair: Any, context: Context) -> Flow[Any]:
        yield from _ship_all(context)
        return (yield from _planned(pair, context))

    def nothing(_: Context) -> Flow[Shipped]:
        yield from ()
        return Shipped()

    patch.setattr(regions, "planned", planned)
    patch.setattr(regions, "_ship_all", nothing)


def _promoted_in_any_case(patch: pytest.MonkeyPatch) -> None:
    """The target is promoted even if its role has changed since it was read."""

    def changed(store: Any, role: Role, cause: Any) -> Flow[bool]:
        if store.name == TARGET and role.is_primary:
            docs = yield from On(TARGET, GetDocs(regions._NAMES))
            store = replace(store, docs=docs)
        return (yield from _changed(store, role, cause))

    patch.setattr(regions, "_changed", changed)


def _not_blocked(patch: pytest.MonkeyPatch) -> None:
    """A change is taken back without raising the epoch of the target."""

    def changed(store: Any, role: Role, cause: Any) -> Flow[bool]:
        return True if cause == "abort" and store.name == TARGET else (yield from _changed(store, role, cause))

    patch.setattr(regions, "_changed", changed)


def _of_one_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(regions, "_next_epoch", lambda *_: 2)


def _taken_back_in_any_case(patch: pytest.MonkeyPatch) -> None:
    """A store becomes the primary again even if the other one has been it since."""
    patch.setattr(regions, "_was_primary_last", lambda *_: True)


def _not_overruled(patch: pytest.MonkeyPatch) -> None:
    """A store that counts itself as the primary stays it, although the other one was promoted."""

    def merged(pair: Any, *_: Any) -> Flow[Any]:
        _, target = yield from regions._replicated(pair)
        return regions._result(pair, target)

    patch.setattr(regions, "_merged", merged)


def _not_merged(patch: pytest.MonkeyPatch) -> None:
    """What the source has taken until it was fenced is not shipped."""

    def nothing(_: Context) -> Flow[Shipped]:
        yield from ()
        return Shipped()

    patch.setattr(regions, "_ship_all", nothing)


def _begun_in_any_case(patch: pytest.MonkeyPatch) -> None:
    """An operation begins in a store that was promoted by force, although the other one may have begun it."""
    patch.setattr(operations._Look, "is_doubted", False)


def _begun_before_it_is_known(patch: pytest.MonkeyPatch) -> None:
    """The process does not look whether the store was promoted by force before the commit of its claim."""

    def unknown(*_: Any) -> Flow[None]:
        yield from ()

    patch.setattr(operations, "required", unknown)


def _doubt_stays(patch: pytest.MonkeyPatch) -> None:
    """A merge keeps each version of the target's."""

    def knows_outcome(*_: object) -> Flow[bool]:
        yield from ()
        return False

    patch.setattr(Shipment, "_knows_outcome", knows_outcome)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_not_demanded, "a_change_and_writers_on_both_sides", "fenced: "),
        (_not_fenced, "a_change_and_writers_on_both_sides", "two primaries"),
        (_shipped_before, "a_change_and_writers_on_both_sides", "lost: "),
        (_promoted_in_any_case, "a_change_and_one_that_takes_it_back", "two primaries"),
        (_not_blocked, "a_change_and_one_that_takes_it_back", "two primaries"),
        (_of_one_epoch, "there_and_back_again", "two primaries"),
        (_taken_back_in_any_case, "there_and_back_again_and_taken_back", "lost: "),
        (_not_overruled, "forced_and_then_the_source_is_reached", "end: "),
        (_begun_in_any_case, "forced_beside_an_operation", "I8"),
        (_begun_before_it_is_known, "forced_beside_an_operation", "I8"),
        (_doubt_stays, "forced_beside_an_operation", "forgotten"),
        (_not_merged, "forced_and_then_the_source_is_reached", "lost: "),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name, 100_000)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
