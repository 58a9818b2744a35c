"""Every order in which members, deciders, prunes and deletions can meet while a set is prepared.

A committed set names checkpoints that exist, are whole and held, and that are a state in which the team can have been
(I9). A set is decided once, and by its timeout if any decider is left. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Commit, Doc, Effect, Flow, GetDocs, Merge, Write
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.flows import prune, sets, threads
from langgraph_gcs_saver.flows.sets import Decider
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import HOLDS

from .voting import VOTING, check, check_end, waits
from .world import Report, explore

BUDGET = 300_000
"""States to look at, more than any of these scenarios has, but the large ones."""

LARGE = {"three_members", "two_coordinators_that_begin_at_once"}
"""Scenarios with more orders than are tried."""

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
    assert report.complete or budget < BUDGET or name in LARGE, "there are more orders than were tried"


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]
Change = Callable[[Write], Write]
_look, _chosen, _write, _beginning = sets.look, Decider._chosen, Decider._write, sets._beginning


def _decisions(patch: pytest.MonkeyPatch, change: Change) -> None:
    """Decide with other writes."""

    def perform(effect: Effect[Any]) -> Flow[Any]:
        return iter(Commit(tuple(map(change, effect.writes))) if isinstance(effect, Commit) else effect)

    patch.setattr(Decider, "_write", lambda *arguments: through(_write(*arguments), perform))


def _in_any_case(write: Write) -> Write:
    return replace(write, update_time=None) if isinstance(write, Merge) else write


def _of_moved_checkpoints(patch: pytest.MonkeyPatch) -> None:
    _decisions(patch, lambda write: _in_any_case(write) if f"/{keys.CHECKPOINTS}/" in write.name else write)


def _over_decisions(patch: pytest.MonkeyPatch) -> None:
    _decisions(patch, lambda write: _in_any_case(write) if f"/{keys.SETS}/" in write.name else write)


def _without_holds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sets, "with_hold", lambda *_: {})


def _with_one_hold_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sets, "without_hold", lambda *_: {HOLDS: {}})


def _of_older_checkpoints(patch: pytest.MonkeyPatch) -> None:
    def look(*arguments: Any) -> Flow[sets.Look | None]:
        found = yield from _look(*arguments)
        if found is None or not found.votes:
            return found
        names = {
            member: keys.checkpoint_doc(found.found.thread_id(member), "", vote.checkpoint_id)
            for member, vote in found.votes.items()
        }
        docs = yield from GetDocs(tuple(names.values()))
        voted = {member: docs[name] for member, name in names.items() if name in docs}
        return replace(found, tips={**found.tips, **voted})

    patch.setattr(sets, "look", look)


def _of_tips_from_before_the_votes(patch: pytest.MonkeyPatch) -> None:
    def look(team: str, set_id: str, context: Any) -> Flow[sets.Look | None]:
        tips = yield from sets._tips((yield from sets.read(team, set_id, context)))
        found = yield from _look(team, set_id, context)
        return None if found is None else replace(found, tips=tips)

    patch.setattr(sets, "look", look)


def _of_one_look(patch: pytest.MonkeyPatch) -> None:
    def chosen(decider: Decider, found: sets.Look) -> Mapping[str, sets.Vote]:
        tips = {member: sets.vote_in(doc) for member, doc in found.tips.items()}
        decider.seen = {member: vote for member, vote in tips.items() if vote is not None}
        return _chosen(decider, found)

    patch.setattr(Decider, "_chosen", chosen)


def _pruned_all_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(prune, "holds_of", lambda _: ())


def _deleted_all_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(threads, "_sets_of", lambda *_: [])


def _with_the_hint_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sets, "_without_hint", lambda *_: ())


def _beside_another(patch: pytest.MonkeyPatch) -> None:
    def unoccupied(wanted: sets.SetRecord, _: Any) -> Flow[Doc | None]:
        return (yield from GetDocs((keys.team_doc(wanted.team),))).get(keys.team_doc(wanted.team))

    patch.setattr(sets, "_unoccupied", unoccupied)


def _over_any_team(patch: pytest.MonkeyPatch) -> None:
    def beginning(wanted: sets.SetRecord, doc: Doc | None, *rest: Any) -> tuple[Write, ...]:
        return tuple(map(_in_any_case, _beginning(wanted, doc, *rest)))

    patch.setattr(sets, "_beginning", beginning)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_of_moved_checkpoints, "members_that_continue_and_prunes", "I9: missing"),
        (_of_moved_checkpoints, "a_deletion_of_a_members_thread", "I9: missing"),
        (_over_decisions, "two_deciders_and_the_timeout", "two decisions"),
        (_without_holds, "members_that_continue_and_prunes", "I9: not held"),
        (_with_one_hold_for_all, "two_sets_with_the_same_checkpoint_one_of_which_ends", "I9: not held"),
        (_of_older_checkpoints, "a_fork_of_an_older_checkpoint_of_a_member", "I9: inconsistent"),
        (_of_tips_from_before_the_votes, "a_member_that_votes_and_one_that_is_resumed", "I9: inconsistent"),
        (_of_one_look, "a_member_that_votes_and_one_that_is_resumed", "I9: inconsistent"),
        (_pruned_all_the_same, "members_that_continue_and_prunes", "I9: missing"),
        (_deleted_all_the_same, "a_deletion_of_a_members_thread", "I9: missing"),
        (_with_the_hint_left, "two_coordinators_that_begin_at_once", "the team still says"),
        (_beside_another, "two_coordinators_that_begin_at_once", "two sets"),
        (_over_any_team, "two_coordinators_that_begin_at_once", "two sets"),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
