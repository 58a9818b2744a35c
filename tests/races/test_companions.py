"""Every order in which a writer with companions works beside others, and in which its answers can get lost.

The fence's holder writes nothing once another process has the fence. Every entry has its checkpoint or pending writes.
The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Commit, Flow, Merge
from langgraph_gcs_saver.flows import writes
from langgraph_gcs_saver.flows.companions import NO_COMPANIONS, Companions
from langgraph_gcs_saver.flows.context import Context
from tests.kit.companions import FENCE, FenceCheck

from . import world
from .accompanied import ACCOMPANIED
from .world import INLINE_BYTES, Report, explore

BUDGET = 40_000
"""States to look at, more than any of these scenarios has."""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "INLINE_BYTES", INLINE_BYTES)


def _explored(name: str) -> Report:
    scenario = ACCOMPANIED[name]()
    return explore(scenario.world, scenario.processes, scenario.rules.check, scenario.rules.check_end, budget=BUDGET)


@pytest.mark.parametrize("verify", ["off", "readback"])
@pytest.mark.parametrize("name", ACCOMPANIED)
def test_no_order_of_steps_breaks_anything(name: str, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "VERIFY", verify)
    report = _explored(name)
    assert report.failure is None, report.failure
    assert report.complete, "there are more orders than were tried"


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _no_precondition(patch: pytest.MonkeyPatch) -> None:
    """The holder reads the fence after a conflict, and does not demand it in its commits."""
    whole = FenceCheck.writes

    def looked_at(check: Any, attempt: Any, docs: Any) -> Any:
        whole(check, attempt, docs)
        return ()

    patch.setattr(FenceCheck, "writes", looked_at)


def _refreshed(patch: pytest.MonkeyPatch) -> None:
    """After a conflict the holder takes the fence for its own as it is then."""

    def refreshed(check: Any, attempt: Any, docs: Any) -> Any:
        return (Merge(FENCE, {}, update_time=docs[FENCE].update_time if FENCE in docs else check.time),)

    patch.setattr(FenceCheck, "writes", refreshed)


def _in_a_commit_of_their_own(patch: pytest.MonkeyPatch) -> None:
    whole = Companions.writes

    def apart(companions: Any) -> Flow[tuple[()]]:
        found = yield from whole(companions)
        if found:
            yield from Commit(found)
        return ()

    patch.setattr(Companions, "writes", apart)


def _asked_once(patch: pytest.MonkeyPatch) -> None:
    whole = Companions.writes
    first: dict[int, Any] = {}

    def once(companions: Any) -> Flow[Any]:
        if not companions._companions:
            return ()
        call = companions._attempt.call
        if call not in first:
            first[call] = yield from whole(companions)
        return first[call]

    patch.setattr(Companions, "writes", once)


def _given_nothing_to_read(patch: pytest.MonkeyPatch) -> None:
    def forget(companions: Any, _: Any) -> None:
        companions._docs, companions._names = {}, ()

    patch.setattr(Companions, "take", forget)


def _only_with_puts(patch: pytest.MonkeyPatch) -> None:
    whole = Context.companions_of

    def of(context: Any, kind: str, *ids: str, **more: Any) -> Companions:
        return whole(context, "put", *ids, **more) if kind == "put" else NO_COMPANIONS

    patch.setattr(Context, "companions_of", of)


def _only_with_pending_writes(patch: pytest.MonkeyPatch) -> None:
    whole = Context.companions_of

    def of(context: Any, kind: str, *ids: str, **more: Any) -> Companions:
        return whole(context, "put_writes", *ids, **more) if kind == "put_writes" else NO_COMPANIONS

    patch.setattr(Context, "companions_of", of)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_no_precondition, "steps_and_a_taker", "I7"),
        (_no_precondition, "first_steps_of_a_thread_and_a_taker", "I7"),
        (_no_precondition, "pending_writes_and_a_taker", "I7"),
        (_no_precondition, "large_pending_writes_and_a_taker", "I7"),
        (_no_precondition, "an_upload_that_takes_hours_and_a_taker", "I7"),
        (_refreshed, "steps_and_a_taker", "I7"),
        (_refreshed, "pending_writes_and_a_taker", "I7"),
        (_in_a_commit_of_their_own, "steps_and_a_taker", "I7"),
        (_in_a_commit_of_their_own, "steps_with_entries_and_a_fork", "alone"),
        (_in_a_commit_of_their_own, "pending_writes_with_entries", "alone"),
        (_asked_once, "steps_and_a_taker", "A raised ConflictError"),
        (_asked_once, "pending_writes_with_entries", "A raised ConflictError"),
        (_given_nothing_to_read, "incremental_steps_a_fork_and_a_taker", "A was told"),
        (_given_nothing_to_read, "pending_writes_and_a_taker", "A was told"),
        (_given_nothing_to_read, "steps_of_a_holder_and_a_deletion", "A raised FencedError"),
        (_only_with_puts, "pending_writes_and_a_taker", "I7"),
        (_only_with_puts, "pending_writes_with_entries", "alone"),
        (_only_with_pending_writes, "steps_and_a_taker", "I7"),
        (_only_with_pending_writes, "steps_with_entries_and_a_fork", "alone"),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
