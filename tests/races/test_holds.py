"""Every order in which holds can meet deletions of threads and of runs. Prunes are in `test_pruning`.

A checkpoint that a set holds stays, with what it needs (I9), and a refused deletion leaves no mark. The tests at the
end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import Flow, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.flows import holds, prune, threads
from langgraph_gcs_saver.format import keys

from .holding import HOLDING
from .test_pruning import _is_checkpoint, _loose, _with_writes
from .world import Report, explore

BUDGET = 50_000
"""States to look at, more than any of these scenarios has, except `LARGE`."""

LARGE = {"a_hold_and_two_deletions"}

SAMPLE = 1_500
"""States that the usual tests look at."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COMMIT_WRITES", 1)


def _explored(name: str, budget: int = BUDGET) -> Report:
    scenario = HOLDING[name]()
    return explore(scenario.world, scenario.processes, scenario.rules.check, scenario.rules.check_end, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", HOLDING)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends
    assert report.complete or budget < BUDGET or name in LARGE, "there are more orders than were tried"


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _never_looks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(threads, "_sets_of", lambda *_: [])


def _looks_once(patch: pytest.MonkeyPatch) -> None:
    """A deletion looks for holds before it begins, and not in what it lists."""
    whole, sets_of = threads.delete_thread, threads._sets_of

    def delete_thread(thread_id: str, *args: Any, **options: Any) -> Flow[Any]:
        docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=holds.HELD_BY)
        holds.require_none(thread_id, sets_of(thread_id, docs))
        return (yield from whole(thread_id, *args, **options))

    _never_looks(patch)
    patch.setattr(threads, "delete_thread", delete_thread)


def _deletes_without_condition(patch: pytest.MonkeyPatch) -> None:
    """A hold changes the checkpoint, and moves the thread's document. Either alone stops a deletion."""
    _with_writes(lambda write: _loose(write) if _is_checkpoint(write) else write, threads, "delete_thread")(patch)
    _holds_do_not_move_the_thread(patch)


def _mark_stays(patch: pytest.MonkeyPatch) -> None:
    def withdraw(*_: Any) -> Flow[None]:
        yield from GetDocs(())

    patch.setattr(threads, "_withdraw", withdraw)


def _only_what_is_held(patch: pytest.MonkeyPatch) -> None:
    """What a held checkpoint needs is not looked at."""

    def holds_on(rows: Any, names: Any) -> tuple[Any, ...]:
        return tuple(hold for row in rows if row.name in names for hold in row.holds)

    patch.setattr(prune, "holds_on", holds_on)


def _holds_do_not_move_the_thread(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holds, "move", lambda thread_id, _: Merge(keys.thread_doc(thread_id), {}))


def _runs_without_the_thread(patch: pytest.MonkeyPatch) -> None:
    whole = prune.prune
    patch.setattr(prune, "prune", lambda *args, **options: whole(*args, **{**options, "spares": True}))


def _holds_without_condition(patch: pytest.MonkeyPatch) -> None:
    _with_writes(lambda write: _loose(write) if _is_checkpoint(write) else write, holds, "_change")(patch)


def _ends_all_holds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holds, "without_hold", lambda *_: {holds.HOLDS: {}})


_REMOVED = [
    (_never_looks, "a_hold_and_a_deletion", "I9"),
    (_looks_once, "a_hold_and_a_deletion", "I9"),
    (_deletes_without_condition, "a_hold_and_a_deletion", "I9"),
    (_mark_stays, "two_sets_one_of_which_ends_and_a_deletion", "the mark of a deletion"),
    (_only_what_is_held, "a_hold_and_a_deletion_of_a_run_that_its_channel_needs", "I9"),
    (_holds_do_not_move_the_thread, "a_hold_and_a_deletion_of_a_run_that_its_channel_needs", "I9"),
    (_runs_without_the_thread, "a_hold_and_a_deletion_of_a_run_that_its_channel_needs", "I9"),
    (_holds_without_condition, "a_hold_and_a_deletion", "I9"),
    (_ends_all_holds, "two_sets_one_of_which_ends_and_a_deletion", "I9"),
]


@pytest.mark.parametrize(("broken", "name", "wrong"), _REMOVED)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
