"""Rollbacks: the steps of a saga that is marked are undone, the newest first, until none is left or one stops it.

`flows.sagas` is the protocol of the documents. This flow puts the user's code between its steps, as `flows.once` does
for operations. Nothing is undone before it is known that everything can be: each step has an outcome, none of those
that took effect is irreversible, and this process knows all compensations.

An undo is an operation. If the user's function raises, it is `paused`, so that the next attempt can begin with the same
key. If a process crashes while it undoes a step, the outcome of the undo is unknown, and the saga is stuck until a
person says what it is; unless the compensation may be called again with the same key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine.effects import Ask, Compute, Emit, Flow, Pause
from langgraph_gcs_saver.errors import ConflictError, DamageError, InvalidInputError, SerializationError
from langgraph_gcs_saver.events import CompensationEnded
from langgraph_gcs_saver.flows import once, operations, sagas
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.once import Settled, Work
from langgraph_gcs_saver.flows.operations import Call, Claim, Outcome
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import Operation
from langgraph_gcs_saver.format.sagas import Saga


class Undo(Work, Protocol):
    """The call of a compensation, as the work of an operation.

    Attributes:
        ended: The outcome, the number of its attempt, and whether it was recorded before; `None` before there is one.
    """

    ended: tuple[str, int, bool] | None


class Compensating(Protocol):
    """The user's code that undoes steps."""

    def require(self, steps: Sequence[Operation]) -> None:
        """Check that this process can undo some steps.

        Raises:
            CompensationMissingError: It knows no compensation for one of them.
        """
        ...

    def settle(self, step: Operation) -> Ask[Settled]:
        """Find out about the unknown outcome of a step."""
        ...

    def undo(self, call: Call, step: Operation, result: Serialized | None) -> Undo:
        """The call of a step's compensation.

        Args:
            call: The call of the undo.
            step: The step.
            result: The step's result.
        """
        ...

    def pause_after(self, step: Operation, attempts: int) -> float | None:
        """Seconds until the next attempt at an undo, after so many that raised; `None` if there is none."""
        ...


def roll_back(saga: Saga, compensations: Compensating, fence: Fence | None, context: Context) -> Flow[Saga]:
    """Undo the steps of a saga that this call has marked.

    Args:
        saga: The saga, as `sagas.mark` returned it.
        compensations: The user's code.
        fence: The lease under which this is done, if any.
        context: Options and caches.

    Returns:
        The saga, `compensated`.

    Raises:
        CompensationMissingError: This process cannot undo a step. Nothing was undone.
        DamageError: An operation of the thread is damaged, so a step may be missing. Nothing was undone.
        SagaError: Another process has taken over the rollback.
        SagaStuckError: A step or an undo has to be settled by a person.
    """
    if saga.state == "compensated":
        return saga
    steps = yield from _settled(saga, compensations, context)
    compensations.require([one for one in steps if one.state == "done"])
    for step in steps:
        if step.state == "failed":
            yield from sagas.undoing(saga, step, context.new_attempt(), context, fence=fence)
            continue
        yield from _undo(saga, step, compensations, fence, context)
    return (yield from sagas.compensated(saga, context))


def _settled(saga: Saga, compensations: Compensating, context: Context) -> Flow[list[Operation]]:
    """The steps to undo, newest first, each with an outcome.

    Raises:
        SagaStuckError: That of one is unknown, or one is irreversible. All of these are listed.
    """
    found: list[Operation] = []
    stopping: list[tuple[Operation, str]] = []
    # A step that is missed is never undone, so this does not trust the field that queries filter by.
    for seen in sagas.to_undo(saga, (yield from sagas.steps(saga, context, by_query=False))):
        step, problem = yield from _settle(seen, compensations, context)
        problem = problem or sagas.problem(step)
        if problem is not None:
            stopping.append((step, problem))
        elif step.state in ("done", "failed"):
            found.append(step)
    if stopping:
        raise (yield from _stuck(saga, stopping, context))
    return found


def _settle(seen: Operation, compensations: Compensating, context: Context) -> Flow[tuple[Operation, str | None]]:
    """Find out about a step without an outcome: the step as it is now, and why it stops the rollback, if it does."""
    for _ in range(MAX_TRIES):
        if seen.state not in ("claimed", "unknown"):
            return seen, None
        if seen.state == "claimed" and (yield from operations.is_in_progress(seen)):
            return seen, "a call may still be performing it"
        try:
            settled = yield from compensations.settle(seen)
        except errors.OutcomeUnknownError as error:  # `reconcile` raised
            return seen, f"its outcome is unknown, and `reconcile` raised {type(error.__cause__).__name__}"
        if settled.state == "unknown":
            return seen, "its outcome is unknown"
        outcome = None if settled.state == "not_done" else Outcome("done", settled.value)
        yield from operations.settle(seen, outcome, context)
        seen = (yield from operations.read(seen.thread_id, seen.key, context)) or seen
    return seen, "other processes keep changing it"


def _undo(
    saga: Saga, step: Operation, compensations: Compensating, fence: Fence | None, context: Context
) -> Flow[None]:
    """Undo a step.

    Raises:
        SagaStuckError: It is not undone. The cause is what its compensation raised last.
    """
    attempts = 0
    while True:
        call = sagas.undo_call(saga, step, context.new_attempt(), fence=fence)
        problem: str | None = None
        cause: Exception | None = None
        pause: float | None = None
        try:
            work = compensations.undo(call, step, (yield from operations.read_result(step, context)))
        except (DamageError, SerializationError) as error:
            problem, cause = f"its request or its result cannot be read: {error}", error
        else:
            began = yield from Compute(work.clock)
            try:
                yield from once.once(call, work, None, context)
            except Exception as error:
                cause = error
                if work.ended is not None and work.ended[0] == "paused":  # The function raised it, whatever it is.
                    attempts += 1
                    pause = compensations.pause_after(step, attempts)
                    problem = f"its undo raised {type(error).__name__}, {attempts} times in a row"
                elif isinstance(error, errors.OperationInProgressError):
                    problem = "a call may still be undoing it"
                elif isinstance(error, errors.OutcomeUnknownError):
                    problem = "the outcome of its undo is unknown"
                else:
                    raise
            if work.ended is not None:
                yield from _report(saga, call, work.ended, (yield from Compute(work.clock)) - began)
        if problem is None:
            return
        if pause is None:
            raise (yield from _stuck(saga, [(step, problem)], context)) from cause
        yield from Pause(pause)


def _report(saga: Saga, call: Call, ended: tuple[str, int, bool], seconds: float) -> Flow[None]:
    """Report how an attempt to undo a step ended, unless an earlier call has done it."""
    state, attempt, is_recorded = ended
    if not is_recorded and call.part is not None:
        yield from Emit(
            CompensationEnded(
                thread_id=saga.thread_id,
                saga_id=saga.saga_id,
                step=call.part.name,
                state="failed" if state == "paused" else state,
                attempt=attempt,
                seconds=seconds,
            )
        )


def _stuck(saga: Saga, stopping: Sequence[tuple[Operation, str]], context: Context) -> Flow[errors.SagaStuckError]:
    """Note that a saga is stuck, and make the error that says where."""
    yield from sagas.stuck(saga, context)
    found = [("" if one.step is None else one.step.name, problem) for one, problem in stopping]
    listed = "; ".join(f"step {name!r}: {problem}" for name, problem in found)
    return errors.SagaStuckError(
        f"Saga {saga.saga_id!r} of thread {saga.thread_id!r} is stuck. {listed}. Find out what happened, settle each "
        "step with `resolve`, and call `resume`. The commands are `langgraph-gcs saga resolve` and `saga resume`.",
        thread_id=saga.thread_id,
        saga_id=saga.saga_id,
        steps=tuple([name for name, _ in found]),
    )


def resolve(saga: Saga, name: str, outcome: Outcome | None, context: Context) -> Flow[None]:
    """Settle what stops the rollback of a saga at a step, as a person has found it out.

    Args:
        saga: The saga as last seen.
        name: The step.
        outcome: That it took effect; `None` if it did not. If the outcome of the step is unknown, it is the step that
            this says it of; otherwise its undo.
        context: Options and caches.

    Raises:
        ConflictError: Nothing is to settle.
        InvalidInputError: There is no such step.
        OperationInProgressError: A call may still be performing it.
    """
    found = yield from sagas.steps(saga, context)
    step = next((one for one in found if one.step is not None and one.step.name == name), None)
    if step is None or step.step is None:
        known = ", ".join([repr(one.step.name) for one in found if one.step is not None]) or "none"
        raise InvalidInputError(
            f"Saga {saga.saga_id!r} of thread {saga.thread_id!r} has no step {name!r}. Its steps are: {known}."
        )
    if step.state != "done":
        yield from operations.resolve(saga.thread_id, step.key, outcome, context)
        return
    undo = yield from operations.read(saga.thread_id, sagas.undo_key(step), context)
    if undo is not None and undo.state in ("claimed", "unknown"):
        yield from operations.resolve(saga.thread_id, undo.key, outcome, context)
    elif step.step.undone or outcome is None or saga.state not in ("compensating", "stuck"):
        state = "undone" if step.step.undone else "done, and its undo has not begun"
        raise ConflictError(
            f"Step {name!r} of saga {saga.saga_id!r} of thread {saga.thread_id!r} is {state}, so nothing was changed."
        )
    else:
        yield from _undone_by_hand(saga, step, outcome, context)


def _undone_by_hand(saga: Saga, step: Operation, outcome: Outcome, context: Context) -> Flow[None]:
    """Record the undo of a step that no process has begun, or whose function raised."""
    mine = yield from sagas.mark(saga, context.new_attempt(), saga.target, None, context)
    claimed = yield from sagas.undoing(mine, step, context.new_attempt(), context)
    if isinstance(claimed, Claim):
        yield from operations.record_outcome(claimed, outcome, context)
    yield from sagas.stuck(mine, context)
