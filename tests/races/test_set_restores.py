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

from .restoring import RESTORING, check, check_end
from .world import Report, explore

BUDGET = 200_000
"""States to look at, more than any of these scenarios has."""

SAMPLE = 2_000
"""States that the usual tests look at, in scenarios with more."""


def _explored(name: str, budget: int) -> Report:
    scenario = RESTORING[name]()
    return explore(scenario.world, scenario.processes, check, check_end, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", RESTORING)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends
    assert report.complete or budget < BUDGET, "there are more orders than were tried"
