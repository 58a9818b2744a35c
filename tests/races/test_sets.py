"""Every order in which members, deciders, prunes and deletions can meet while a set is prepared.

A committed set names checkpoints that exist, are whole and held, and that are a state in which the team can have been
(I9). A set is decided once, and by its timeout if any decider is left. The tests at the end remove one rule each.
"""

from __future__ import annotations

import pytest

from langgraph_gcs_saver.flows.sets import Decider

from .voting import VOTING, check, check_end, waits
from .world import Report, explore

BUDGET = 600_000
"""States to look at, more than any of these scenarios has."""

SAMPLE = 1_500
"""States that the usual tests look at."""


@pytest.fixture(autouse=True)
def _waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decider, "wait", waits)


def _explored(name: str, budget: int = BUDGET) -> Report:
    world, processes = VOTING[name]()
    return explore(world, processes, check, check_end, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", VOTING)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends
    assert report.complete or budget < BUDGET, "there are more orders than were tried"
