"""Every order in which a restore of a set, runs of its members, and another restore can take their steps, and crash.

All members have a fork, or none has. The forks are the tips. No run extends what was there before. Two restores never
take the leases from each other. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Flow, Merge
from langgraph_gcs_saver.flows import forks, save, set_restores
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.forks import ForkPlan

from .restoring import RESTORING, check, check_end, scenario
from .world import Report, explore

BUDGET = 20_000
"""States to look at, more than these scenarios have without crashes and lost answers, except two restores."""

SAMPLE, LARGE_SAMPLE = 1_000, 150_000
"""States that the usual tests look at, and the soak tests, with crashes and lost answers."""


def _explored(name: str, budget: int, *, is_lean: bool = False) -> Report:
    found = scenario(name, is_lean=is_lean)
    return explore(found.world, found.processes, check, check_end, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(LARGE_SAMPLE, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", RESTORING)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends


@pytest.mark.soak
@pytest.mark.parametrize("name", RESTORING)
def test_all_orders_without_crashes(name: str) -> None:
    is_sampled = name == "two_restores"
    report = _explored(name, LARGE_SAMPLE if is_sampled else BUDGET, is_lean=True)
    assert report.failure is None, report.failure
    assert report.complete or is_sampled, "there are more orders than were tried"


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]
_writes, _committed = ForkPlan.writes, forks.committed


def _no_reservation(patch: pytest.MonkeyPatch) -> None:
    """The commits that take leases do not require the reservation."""
    patch.setattr(set_restores._Reservation, "taking", lambda *_: ())


def _no_leases(patch: pytest.MonkeyPatch) -> None:
    """A restore makes the forks without any lease."""

    def none(self: Any, reserved: Any) -> Flow[None]:
        yield from ()
        threads = map(reserved.thread_id, reserved.members)
        self.fences = {thread_id: Fence(thread_id, 1, self.nonce, 1, 60.0) for thread_id in threads}

    patch.setattr(set_restores._Restoring, "_take_leases", none)
    patch.setattr(set_restores._Restoring, "_release", lambda _: iter(()))
    patch.setattr(Fence, "require", lambda *_: None)
    _unchecked(patch)


def _unchecked(patch: pytest.MonkeyPatch) -> None:
    """The commit does not require the leases."""
    patch.setattr(ForkPlan, "writes", lambda plan, fence: _writes(plan, fence)[:-1])


def _marked(mark: Callable[[Fence], str | None]) -> Break:
    """What the commit writes into the former tips, and into the copied checkpoints."""

    def broken(patch: pytest.MonkeyPatch) -> None:
        def writes(plan: ForkPlan, fence: Fence) -> Any:
            changed = {}
            for name, (fields, time) in plan.changed.items():
                marks = {"fence": mark(fence)} if "fence" in fields and mark(fence) else {}
                changed[name] = {key: value for key, value in fields.items() if key != "fence"} | marks, time
            return _writes(replace(plan, changed=changed), fence)

        patch.setattr(ForkPlan, "writes", writes)

    return broken


def _not_overtaken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(save._Attempts, "_is_overtaken", lambda *_: False)


def _one_by_one(patch: pytest.MonkeyPatch) -> None:
    """Each thread is forked in a commit of its own."""

    def committed(plans: Any, fences: Any, context: Any, beside: Any, former: Any) -> Flow[bool]:
        for plan in plans:
            if not (yield from _committed([plan], fences, context, beside if plan is plans[-1] else (), former)):
                return False
        return True

    patch.setattr(forks, "committed", committed)


def _by_the_clock(patch: pytest.MonkeyPatch) -> None:
    whole = forks.forks.fork_id
    patch.setattr(forks.forks, "fork_id", lambda _, step, now, digits: whole("", step, now, digits))


def _unseen(patch: pytest.MonkeyPatch) -> None:
    """The former tips and the copied checkpoints may have changed."""

    def writes(plan: ForkPlan, fence: Fence) -> Any:
        return tuple(
            Merge(write.name, write.fields) if isinstance(write, Merge) and write.name in plan.changed else write
            for write in _writes(plan, fence)
        )

    patch.setattr(ForkPlan, "writes", writes)


UNDER, WITHOUT = "a_restore_and_a_run_under_a_lease", "a_restore_and_a_run_without_a_lease"


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_no_reservation, "two_restores", "liveness: "),
        (_no_leases, UNDER, "I7"),
        (_unchecked, "a_restore_and_a_run_that_takes_over", "I7"),
        (_marked(lambda _: None), WITHOUT, "torn: a run"),
        (_marked(lambda fence: fence.nonce), WITHOUT, "torn: a run"),
        (_not_overtaken, WITHOUT, "torn: a run"),
        (_one_by_one, UNDER, "torn: only"),
        (_by_the_clock, UNDER, "torn: the fork"),
        (_marked(lambda _: None), "a_restore_and_a_removal", "I1"),
        (_unseen, "a_restore_and_a_removal", "torn: "),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name, BUDGET, is_lean=True)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
