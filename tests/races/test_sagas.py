"""Every order in which runs, rollbacks, their resumptions, an expiry and crashes can meet at one saga.

At the end, what the documents say is what has happened: `compensated` means that nothing is left in the world, and no
undo has run twice. A saga that continues after a partial rollback keeps its earlier steps, and a process that opened it
before starts nothing. The tests at the end remove one rule each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Delete, Flow, Merge
from langgraph_gcs_saver.errors import OperationInProgressError
from langgraph_gcs_saver.flows import operations, sagas
from langgraph_gcs_saver.flows.operations import Claim, Outcome
from langgraph_gcs_saver.format.operations import Operation
from langgraph_gcs_saver.format.sagas import Saga, note

from . import compensating
from .compensating import DOCUMENT, SAGAS, UNDO, check, check_end
from .world import Report, explore

BUDGET = 150_000
"""States to look at, more than any of these scenarios has."""

SAMPLE = 1_000
"""States that the usual tests look at, in scenarios with more."""


def _explored(name: str, budget: int = BUDGET) -> Report:
    world, processes = SAGAS[name]()
    return explore(world, processes, check, check_end, budget=budget)


@pytest.mark.parametrize("budget", [SAMPLE, pytest.param(BUDGET, marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", SAGAS)
def test_no_order_of_steps_breaks_anything(name: str, budget: int) -> None:
    report = _explored(name, budget)
    assert report.failure is None, report.failure
    assert report.ends
    assert report.complete or budget < BUDGET, "there are more orders than were tried"


# The rules, each removed in turn

Break = Callable[[pytest.MonkeyPatch], None]


def _without_the_saga(patch: pytest.MonkeyPatch, *, undos: bool) -> None:
    store = operations._store

    def stored(seen: Any, operation: Operation, context: Any, beside: Any = ()) -> Flow[Any]:
        if operation.step is not None and (operation.step.undoes is not None) == undos:
            beside = tuple([one for one in beside if one.name != DOCUMENT])
        return (yield from store(seen, operation, context, beside))

    patch.setattr(operations, "_store", stored)


def _claims_without_the_saga(patch: pytest.MonkeyPatch) -> None:
    _without_the_saga(patch, undos=False)


def _undos_without_the_saga(patch: pytest.MonkeyPatch) -> None:
    _without_the_saga(patch, undos=True)


def _undo_after_the_record(patch: pytest.MonkeyPatch) -> None:
    new, record = operations._new, operations.record_outcome

    def without(*args: Any) -> Operation:
        made = new(*args)
        return replace(made, step=None if made.step is None else replace(made.step, undo=None))

    def recorded(claimed: Claim, outcome: Outcome, context: Any) -> Flow[Any]:
        made = yield from record(claimed, outcome, context)
        if made is not None and made.step is not None and made.step.undoes is None:
            yield from operations._store(made, replace(made, step=replace(made.step, undo=UNDO)), context)
        return made

    patch.setattr(operations, "_new", without)
    patch.setattr(operations, "record_outcome", recorded)


def _lists_before_the_mark(patch: pytest.MonkeyPatch) -> None:
    mark, steps = sagas.mark, sagas.steps
    early: dict[str, list[Operation]] = {}

    def marked(saga: Any, by: str, target: Any, fence: Any, context: Any) -> Flow[Any]:
        early[by] = yield from steps(saga, context)
        return (yield from mark(saga, by, target, fence, context))

    def listed(saga: Any, context: Any, **options: Any) -> Flow[list[Operation]]:
        if saga.by in early:
            return early[saga.by]
        return (yield from steps(saga, context, **options))

    patch.setattr(sagas, "mark", marked)
    patch.setattr(sagas, "steps", listed)
    patch.setattr(sagas, "compensated", lambda saga, context: sagas._end(saga, "compensated", context))


def _passes_the_unknown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sagas, "_UNSETTLED", ())


def _oldest_first(patch: pytest.MonkeyPatch) -> None:
    to_undo = sagas.to_undo
    patch.setattr(sagas, "to_undo", lambda *args: to_undo(*args)[::-1])


def _undoes_what_another_undoes(patch: pytest.MonkeyPatch) -> None:
    claim = operations.claim

    def claimed(call: Any, *args: Any) -> Flow[Any]:
        try:
            return (yield from claim(call, *args))
        except OperationInProgressError:
            found = yield from operations.read(call.thread_id, call.key, args[0])
            if found is None or found.step is None or found.step.undoes is None:
                raise
            return Claim(found)

    patch.setattr(operations, "claim", claimed)


def _notes_nothing_in_the_step(patch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> Flow[Any]:
        yield from ()
        return ()

    patch.setattr(operations, "_undone_by", nothing)


def _claims_of_any_epoch(patch: pytest.MonkeyPatch) -> None:
    require = operations._require_saga

    def required(call: Any, part: Any, look: Any) -> None:
        epoch = part.saga.epoch if look.saga is None else look.saga.epoch
        require(call, replace(part, saga=replace(part.saga, epoch=epoch)), look)

    patch.setattr(operations, "_require_saga", required)


def _rollbacks_of_any_epoch(patch: pytest.MonkeyPatch) -> None:
    def again(opened: Any, _: str, context: Any) -> Flow[Any]:
        return (yield from sagas._read(opened.thread_id, opened.document, context))

    patch.setattr(sagas, "_again", again)


def _changes_in_any_case(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        sagas, "changes", lambda seen, now, context: Merge(seen.document, sagas.fields_of(now, context.codec))
    )


def _rolls_back_less_than_has_begun(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sagas, "_position", lambda *_: 0)


def _forgets_without_a_mark(patch: pytest.MonkeyPatch) -> None:
    def forget(saga: Any, context: Any) -> Flow[None]:
        yield from operations.delete(saga, context)
        yield from compensating.Commit((Delete(saga.document, update_time=saga.time),))

    patch.setattr(sagas, "forget", forget)


def _steps_expire_on_their_own(patch: pytest.MonkeyPatch) -> None:
    kept = operations.kept

    def all_kept(thread_id: Any, cutoff: float, context: Any) -> Flow[Any]:
        found = yield from kept(thread_id, cutoff, context)
        saga = yield from sagas.read(compensating.THREAD, compensating.SAGA, context)
        ended: Iterable[Operation] = () if saga is None else (yield from sagas.steps(saga, context))
        return replace(found, expired={one.document: (one.time, set()) for one in ended if one.state == "done"})

    patch.setattr(operations, "kept", all_kept)


def _lists_beside_the_change(patch: pytest.MonkeyPatch) -> None:
    store, is_rolling_back = sagas._store, Saga.is_rolling_back

    def stored(seen: Any, now: Any, context: Any, beside: Any = ()) -> Flow[Any]:
        patch.setattr(Saga, "is_rolling_back", False)
        made = yield from store(seen, now, context, beside)
        patch.setattr(Saga, "is_rolling_back", is_rolling_back)
        if made is not None:
            yield from compensating.Commit((note(made.document, {"state": made.state}),))
        return made

    patch.setattr(sagas, "_store", stored)


@pytest.mark.parametrize(
    ("broken", "name", "wrong"),
    [
        (_lists_beside_the_change, "a_run_and_a_rollback_by_another_process", "the saga is compensating, and the list"),
        (_claims_without_the_saga, "a_run_and_a_rollback_by_another_process", "step 1 is undone before the later"),
        (_undo_after_the_record, "a_run_and_a_rollback_by_another_process", "a step is done, and nothing says"),
        (_lists_before_the_mark, "a_run_and_a_rollback_by_another_process", "compensated"),
        (_passes_the_unknown, "a_run_and_a_rollback_by_another_process", "compensated"),
        (_oldest_first, "a_run_and_a_rollback_by_another_process", "step 1 is undone before the later step 2"),
        (_undoes_what_another_undoes, "a_run_and_two_resumptions_of_a_rollback", "step 1 is undone twice"),
        (_notes_nothing_in_the_step, "a_run_and_a_rollback_by_another_process", "compensating: the world has step"),
        (_undos_without_the_saga, "two_rollbacks_and_an_expiry", "step 1 is undone twice"),
        (_claims_of_any_epoch, "a_rollback_to_a_savepoint_after_which_the_saga_continues", "epochs"),
        (_rollbacks_of_any_epoch, "two_rollbacks_to_a_savepoint_after_which_the_saga_continues", "epochs"),
        (
            _changes_in_any_case,
            "two_rollbacks_to_a_savepoint_after_which_the_saga_continues",
            "the saga is compensating",
        ),
        (_rolls_back_less_than_has_begun, "a_rollback_to_the_beginning_and_one_to_a_savepoint", "it continues"),
        (_forgets_without_a_mark, "a_saga_that_is_done_a_rollback_and_an_expiry", "compensating: the world has step"),
        (
            _steps_expire_on_their_own,
            "a_saga_that_is_done_a_rollback_and_an_expiry",
            "compensating: the world has step",
        ),
    ],
)
def test_a_removed_rule_is_noticed(broken: Break, name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    report = _explored(name)
    assert report.failure is not None, f"no error found in {report.states} states: the explorer is blind"
    assert report.failure.startswith(wrong), report.failure
