"""A process that crashes at any effect of a team's methods leaves a team that the next call brings to its end."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from langgraph_gcs_saver.results import SetInfo
from langgraph_gcs_saver.saver.team import Team
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.system.build import cfg, cid, put, values

MEMBERS = ("a", "b")
NEWEST = 3

Method = Callable[[Team, SetInfo], Any]


def made(saver: CrashingSaver) -> tuple[Team, SetInfo]:
    """A team that keeps one set, with a set of the second of three checkpoints."""
    team = saver.team("crew", MEMBERS, retention=1)
    for number in range(1, NEWEST + 1):
        if number == NEWEST:
            saved = team.checkpoint()
        for member in MEMBERS:
            put(saver, number, {"v": number}, parent=number - 1 or None, thread=f"crew/{member}")
    return team, saved


def held(saver: CrashingSaver) -> set[tuple[str, str, str]]:
    """The member, the checkpoint and the text of each hold."""
    return {
        (member, one.checkpoint_id, hold)
        for member in MEMBERS
        for one in saver.admin.history(f"crew/{member}")
        for hold in one.holds
    }


def tips(saver: CrashingSaver) -> set[int]:
    found = [saver.get_tuple(cfg(thread=f"crew/{member}")) for member in MEMBERS]
    return {values(one)["v"] for one in found if one is not None}


def of(saved: SetInfo) -> set[tuple[str, str, str]]:
    """The holds of a set."""
    return {(member, one, f"set {saved.set_id} of team crew") for member, one in saved.cut.items()}


METHODS: dict[str, Method] = {
    "checkpoint": lambda team, _: team.checkpoint("again"),
    "delete_set": lambda team, saved: team.delete_set(saved),
    "delete": lambda team, _: team.delete(),
    "restore": lambda team, saved: team.restore(saved),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_crash_at_any_effect(name: str) -> None:
    for number in count(0):
        with CrashingSaver.from_conn_string("memory:") as saver:
            team, saved = made(saver)
            plan = saver.plan = Plan(number, is_late=True)
            try:
                METHODS[name](team, saved)
            except Crashed:
                crashed = True
            else:
                crashed = False
            saver.plan = Plan()
            # Whatever it has done, sets are whole, and all threads are at one instant.
            there = [one for one in saver.team("crew").sets() if one.state == "committed"]
            assert held(saver) == {hold for one in there for hold in of(one)}
            assert all(saver.team("crew").verify(one) == [] for one in there)
            assert len(tips(saver)) == 1
            assert tips(saver) <= {NEWEST - 1, NEWEST}
            # The next call brings it to its end. It does not wait for a set that a crashed process prepares.
            METHODS[name](saver.team("crew", MEMBERS), saved)
            _check(saver, name, saved)
            assert [*saver.admin.verify(depth="data")] == []
        if not crashed:
            assert number >= len(plan.done) > 5
            return


def _check(saver: CrashingSaver, name: str, saved: SetInfo) -> None:
    team = saver.team("crew")
    sets = [one for one in team.sets() if one.state == "committed"]
    match name:
        case "checkpoint":
            (last,) = sets
            assert set(last.cut.values()) == {cid(NEWEST)}
            assert held(saver) == of(last)
        case "restore":
            assert sets[0].restored is not None
            assert (tips(saver), held(saver)) == ({NEWEST - 1}, of(saved))
        case _:
            assert (sets, held(saver)) == ([], set())
            assert set(team.threads()) == (set() if name == "delete" else set(MEMBERS))
            assert [one.team for one in saver.admin.teams()] == ([] if name == "delete" else ["crew"])
