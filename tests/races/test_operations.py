"""Every order in which workers, thieves of their lease, persons and crashes can meet at one operation.

No attempt begins while another one's outcome is unknown, unless the caller or a person allowed it (I8). No fenced
process begins an attempt (I7). Two callers never get different recorded results. If the operation took effect and its
process lives, the record says so. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Commit, Delete, Flow, Merge
from langgraph_gcs_saver.flows import operations
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.operations import Operation

from . import operating
from .operating import OPERATING, check, check_end
from .world import THREAD, Report, explore

BUDGET = 60_000
"""States to look at, more than any of these scenarios has."""

SAMPLE = 3_000
"""States that the usual tests look at, in scenarios with more."""


def _explored(name: str, budget: int = BUDGET) -> Report:
    world, processes = OPERATING[name]()
    return explore(world, processes, check, check_end, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", OPERATING)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends
    assert report.complete or budget < BUDGET, "there are more orders than were tried"


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]
_store = operations._store


def _nonce_of_the_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operating, "NONCE", lambda _, fence: fence.nonce)


def _unfenced_claims(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fence, "check", lambda _: Merge(keys.thread_doc(THREAD), {}))


def _fenced_records(patch: pytest.MonkeyPatch) -> None:
    def stored(seen: Any, operation: Operation, context: Any, beside: Any = ()) -> Flow[Any]:
        holder = operation.attempt.holder
        if operation.attempt.by == operation.attempt.nonce and holder is not None:
            beside = (*beside, Merge(keys.fence_doc(THREAD), {}, update_time=holder.time))
        return (yield from _store(seen, operation, context, beside))

    patch.setattr(operations, "_store", stored)


def _records_over_anything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operations, "_is_open", lambda *_: True)


def _unconditional(patch: pytest.MonkeyPatch, *states: str) -> None:
    def stored(seen: Any, operation: Operation, context: Any, beside: Any = ()) -> Flow[Any]:
        is_own = operation.attempt.by == operation.attempt.nonce
        if seen is not None and not is_own and operation.state in states:
            seen = replace(seen, time=None)
        return (yield from _store(seen, operation, context, beside))

    patch.setattr(operations, "_store", stored)


def _marked_unknown_in_any_case(patch: pytest.MonkeyPatch) -> None:
    _unconditional(patch, "unknown")


def _resolved_in_any_case(patch: pytest.MonkeyPatch) -> None:
    _unconditional(patch, "done", "not-done")


def _claimed_again_in_any_case(patch: pytest.MonkeyPatch) -> None:
    _unconditional(patch, "claimed")


def _withdrawn_with_what_was_before(patch: pytest.MonkeyPatch) -> None:
    def withdrawn(claimed: Any, _: Any) -> Flow[None]:
        operation = claimed.operation
        yield from Commit((Delete(operation.document, update_time=operation.time),))

    patch.setattr(operations, "withdraw", withdrawn)


def _open_ones_expire(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operations, "ENDED", ("claimed", "unknown", "done", "failed"))
    patch.setattr(Operation, "has_expired", lambda *_: True)


def _never_in_progress(patch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Flow[bool]:
        yield from ()
        return False

    patch.setattr(operations, "is_in_progress", never)


def _without_the_thread(patch: pytest.MonkeyPatch) -> None:
    whole = operations._claim

    def claimed(call: Any, seen: Any, look: Any, context: Any) -> Flow[Any]:
        return whole(call, seen, replace(look, thread=None), context)

    patch.setattr(operations, "_claim", claimed)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_nonce_of_the_lease, "two_calls_that_may_not_repeat", "I8"),
        (_unfenced_claims, "a_frozen_worker_and_a_thief", "I7"),
        (_fenced_records, "a_frozen_worker_and_a_thief", "A raised ConflictError"),
        (_records_over_anything, "a_frozen_worker_and_a_thief_that_may_repeat", "stable"),
        (_marked_unknown_in_any_case, "a_frozen_worker_and_a_thief", "stable"),
        (_resolved_in_any_case, "a_person_who_gives_a_result", "stable"),
        (_claimed_again_in_any_case, "a_frozen_worker_and_a_thief_that_may_repeat", "stable"),
        (_withdrawn_with_what_was_before, "a_thief_that_sends_nothing_and_one_that_may_not_repeat", "open"),
        (_open_ones_expire, "a_worker_an_expiry_and_another_call", "I8"),
        (_never_in_progress, "two_calls_under_one_lease", "liveness"),
        (_without_the_thread, "a_call_and_a_deletion_of_the_thread", "left"),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
