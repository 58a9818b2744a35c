"""Calls that return before their proof: what happens until the proof has ended, in every order.

A process with `trails` performs its calls and its proofs at the same time, as `saver/trailing.py` lets it. Its proofs
may read something else than is stored, so that they withdraw and write again what other processes may have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Delete, Flow
from langgraph_gcs_saver.errors import CheckpointVerificationError, ConflictError
from langgraph_gcs_saver.flows import save, writes
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DocumentKind, kind_of
from langgraph_gcs_saver.saver.trailing import Trailing

from .scenarios import LARGE_WRITES, MIXED_WRITES, NO_THREAD, Scenario, _scenario, chain, large, small
from .world import (
    INLINE_BYTES,
    THREAD,
    Process,
    Report,
    Run,
    World,
    delete,
    explore,
    manifest_of,
    put,
    put_writes,
    read,
)

NORMAL_BUDGET = 1_000
SOAK_BUDGET = 20_000
BLIND_BUDGET = 20_000
"""States to look at; one takes 1 to 5 ms, because the tries of a call make its histories long."""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "INLINE_BYTES", INLINE_BYTES)


def a_child_of_another_process() -> Scenario:
    """It is stored between the commit of its parent and the parent's proof, or between withdrawal and next commit."""
    start = chain(2)
    a = start.channels | small("A") | large("A")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "so"), put("91", "8", a | small("A9"), "s")), trails=True, misreads=1),
        Process("B", (put("92", "8", a | small("B9"), "s"),), lost=1),
    )


def a_child_of_what_is_withdrawn_for_good() -> Scenario:
    start = chain(2)
    a = start.channels | small("A") | large("A")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "so"), put("91", "8", a | small("A9"), "s")), trails=True, misreads=3),
        Process("B", (put("92", "8", a | small("B9"), "s"),)),
        may_vanish="A",
        errors=(CheckpointVerificationError,),
    )


def the_same_put_in_two_processes() -> Scenario:
    start = chain(2)
    call = put("8", "2", start.channels | small("A") | large("A"), "so")
    return _scenario(
        start,
        Process("A", (call,), trails=True, misreads=1),
        Process("B", (call,), trails=True, misreads=1),
    )


def a_first_put_and_another_root() -> Scenario:
    a = small("A") | large("A")
    return _scenario(
        NO_THREAD,
        Process("A", (put("8", None, a, "so"), put("91", "8", a | small("A9"), "s")), trails=True, misreads=2),
        Process("B", (put("7", None, small("B"), "s"),)),
    )


def a_put_and_a_deletion() -> Scenario:
    start = chain(2)
    a = start.channels | small("A") | large("A")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "so"),), trails=True, misreads=1, patient=False),
        Process("D", (delete(),)),
        may_vanish="A",
        errors=(ConflictError, CheckpointVerificationError),
    )


def a_process_that_dies_before_a_proof() -> Scenario:
    start = chain(2)
    a = start.channels | small("A") | large("A")
    return _scenario(
        start,
        Process("A", (put("8", "2", a, "so"), put_writes("8", "task", MIXED_WRITES)), trails=True, dies=True),
        Process("B", (read(None), put("92", "8", a | small("B9"), "s"))),
    )


def writes_that_are_written_again() -> Scenario:
    start = chain(2)
    call = put_writes("2", "task", MIXED_WRITES)
    a = start.channels | small("A")
    return _scenario(
        start,
        Process("A", (call, put("8", "2", a, "s")), trails=True, misreads=2),
        Process("B", (call, read("2"))),
    )


def writes_and_a_deletion() -> Scenario:
    return _scenario(
        chain(1),
        Process("A", (put_writes("1", "task", LARGE_WRITES),), trails=True, misreads=1, patient=False),
        Process("D", (delete(),)),
        may_vanish="A",
        errors=(ConflictError, CheckpointVerificationError),
    )


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    make.__name__: make
    for make in (
        a_child_of_another_process,
        a_child_of_what_is_withdrawn_for_good,
        the_same_put_in_two_processes,
        a_first_put_and_another_root,
        a_put_and_a_deletion,
        a_process_that_dies_before_a_proof,
        writes_that_are_written_again,
        writes_and_a_deletion,
    )
}


def _explored(name: str, budget: int) -> Report:
    scenario = SCENARIOS[name]()

    def check_end(world: World, runs: tuple[Run, ...]) -> str | None:
        return scenario.rules.check_end(world, runs) or _unfounded(world, runs)

    return explore(scenario.world, scenario.processes, scenario.rules.check, check_end, budget=budget)


def _unfounded(world: World, runs: tuple[Run, ...]) -> str | None:
    """Whether a process has built on a checkpoint of its own that was withdrawn, or has not heard that it was."""
    for run in runs:
        if not run.process.trails or run.dead:
            continue
        stored = [call.stores[1] for call, _ in run.node.done if call.stores is not None]
        gone = [checkpoint_id for checkpoint_id in stored if not _is_visible(world, checkpoint_id)]
        for checkpoint_id in set(stored) - set(gone):
            known = manifest_of(world.docs[keys.checkpoint_doc(THREAD, "", checkpoint_id)], world)
            if known.parent_id in gone:
                return f"I7: {checkpoint_id!r} was built on {known.parent_id!r}, which was withdrawn"
        if gone and run.node.error is None and not any(other.process.name == "D" for other in runs):
            return f"I7: {gone} were withdrawn, and no call has raised"
    return None


def _is_visible(world: World, checkpoint_id: str) -> bool:
    doc = world.doc(keys.checkpoint_doc(THREAD, "", checkpoint_id))
    return doc is not None and kind_of(doc) is not DocumentKind.STRIPPED


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_breaks_anything(name: str) -> None:
    report = _explored(name, NORMAL_BUDGET)
    assert report.failure is None, report.failure
    assert report.ends, "no schedule came to its end"


@pytest.mark.soak
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_many_steps_breaks_anything(name: str) -> None:
    report = _explored(name, SOAK_BUDGET)
    assert report.failure is None, report.failure


def _no_call_waits(patch: pytest.MonkeyPatch) -> None:
    def settled(trailing: Trailing, thread: str) -> Flow[None]:
        yield from ()

    patch.setattr(Trailing, "_settled", settled)


def _withdrawals_without_condition(patch: pytest.MonkeyPatch) -> None:
    """A child of another process then loses the frames that it has inherited."""
    patch.setattr(save, "Delete", lambda name, update_time: Delete(name))


def _rest_is_withdrawn(patch: pytest.MonkeyPatch) -> None:
    whole = writes._prove

    def prove(records: Any, companions: Any, *, is_rest: bool) -> Flow[str | None]:
        return (yield from whole(records, companions, is_rest=False))

    patch.setattr(writes, "_prove", prove)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_no_call_waits, "a_child_of_what_is_withdrawn_for_good", "I7"),
        (_withdrawals_without_condition, "a_child_of_another_process", "I1"),
        (_rest_is_withdrawn, "writes_that_are_written_again", "a part of a call"),
    ],
)
def test_a_removed_rule_is_noticed(
    broken: Callable[[pytest.MonkeyPatch], None], name: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    report = _explored(name, BLIND_BUDGET)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
