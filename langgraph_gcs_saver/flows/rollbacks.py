"""Rollbacks: the steps of a saga that is marked are undone, the newest first, until none is left or one stops it.

`flows.sagas` is the protocol of the documents. This flow puts the user's code between its steps, as `flows.once` does
for operations. Nothing is undone before it is known that everything can be: each step has an outcome, none of those
that took effect is irreversible, and this process knows all compensations.

An undo is an operation. If the user's function raises, it is `paused`, so that the next attempt can begin, with the same
key. If a process crashes while it undoes a step, the outcome of the undo is unknown, and the saga is stuck until a
person says what it is; unless the compensation may be called again with the same key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine.effects import Ask, Emit, Flow, Pause
from langgraph_gcs_saver.events import CompensationEnded
from langgraph_gcs_saver.flows import once, operations, sagas
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.once import Settled, Work
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import Operation
from langgraph_gcs_saver.format.sagas import Saga
from langgraph_gcs_saver.records import record


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

    def clock(self) -> float:
        """Seconds of a monotonic clock."""
        ...

    def undo(self, call: Call, step: Operation, result: Serialized | None) -> Work:
        """The call of a step's compensation, as the work of an operation.

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
        saga: The saga, marked by this call.
        compensations: The user's code.
        fence: The lease under which this is done, if any.
        context: Options and caches.

    Returns:
        The saga, which is `compensated`.

    Raises:
        CompensationMissingError: This process cannot undo a step. Nothing was undone.
        SagaError: Another process has taken the rollback over.
        SagaStuckError: A step or an undo has to be settled by a person.
    """
    steps = yield from _with_effects(saga, compensations, context)
    compensations.require(steps)
    for step in steps:
        problem = yield from _undo(saga, step, compensations, fence, context)
        if problem is not None:
            raise (yield from _stuck(saga, [(step, problem)], context))
    return (yield from sagas.compensated(saga, context))


def _with_effects(saga: Saga, compensations: Compensating, context: Context) -> Flow[list[Operation]]:
    """The steps that took effect and are not undone, newest first.

    Raises:
        SagaStuckError: That is not known of one, or one is irreversible.
    """
    found: list[Operation] = []
    stopping: list[tuple[Operation, str]] = []
    for seen in reversed((yield from sagas.steps(saga, context))):
        step: Operation | None = seen
        if seen.state in ("claimed", "unknown"):
            step, problem = yield from _settle(seen, compensations, context)
            if problem is not None:
                stopping.append((seen, problem))
        if step is None or step.step is None or step.state != "done":
            continue
        if step.step.undo is None and not (yield from sagas.is_settled(saga, step, context)):
            stopping.append((step, "it is irreversible"))
        else:
            found.append(step)
    if stopping:
        raise (yield from _stuck(saga, stopping, context))
    return found


def _settle(
    seen: Operation, compensations: Compensating, context: Context
) -> Flow[tuple[Operation | None, str | None]]:
    """Find out about a step without an outcome: the step as it is now, or why its outcome stays unknown."""
    for _ in range(MAX_TRIES):
        if seen.state not in ("claimed", "unknown"):
            return seen, None
        if seen.state == "claimed" and (yield from operations.is_in_progress(seen)):
            return seen, "a call may still be performing it"
        settled = yield from compensations.settle(seen)
        if settled.state == "unknown":
            return seen, "its outcome is unknown"
        outcome = None if settled.state == "not_done" else Outcome("done", settled.value)
        yield from operations.settle(seen, outcome, context)
        now = yield from operations.read(seen.thread_id, seen.key, context)
        if now is None:
            return None, None
        seen = now
    return seen, "its outcome kept changing"


def _undo(
    saga: Saga, step: Operation, compensations: Compensating, fence: Fence | None, context: Context
) -> Flow[str | None]:
    """Undo a step. Returns why it is not undone, if it is not."""
    result = yield from operations.read_result(step, context)
    attempts = 0
    while True:
        call = sagas.undo_call(saga, step, fence, context)
        work = compensations.undo(call, step, result)
        began = yield from Compute(compensations.clock)
        problem: str | None = None
        pause: float | None = None
        try:
            yield from once.once(call, work, None, context)
        except errors.OperationInProgressError:
            return "a call may still be undoing it"
        except errors.OutcomeUnknownError:
            problem = "the outcome of its undo is unknown"
        except Exception as error:
            if work.ended is None or work.ended[0] != "paused":
                raise
            attempts += 1
            pause = compensations.pause_after(step, attempts)
            problem = f"its undo raised {type(error).__name__} {attempts} times"
        if work.ended is not None:
            yield from _report(saga, step, work.ended, (yield from Compute(compensations.clock)) - began)
        if pause is None:
            return problem
        yield from Pause(pause)


def _report(saga: Saga, step: Operation, ended: tuple[str, int, bool], seconds: float) -> Flow[None]:
    state, attempt, is_recorded = ended
    if is_recorded:  # by another process, which has reported it
        return
    yield from Emit(
        CompensationEnded(
            thread_id=saga.thread_id,
            saga_id=saga.saga_id,
            step=step.name,
            state="failed" if state == "paused" else state,
            attempt=attempt,
            seconds=seconds,
        )
    )


def _stuck(saga: Saga, stopping: Sequence[tuple[Operation, str]], context: Context) -> Flow[errors.SagaStuckError]:
    """Note that a saga is stuck; the error that says where."""
    yield from sagas.stuck(saga, context)
    listed = "; ".join(f"step {step.name!r}: {problem}" for step, problem in stopping)
    return errors.SagaStuckError(
        f"Saga {saga.saga_id!r} of thread {saga.thread_id!r} is stuck: {listed}. Find out what happened, settle each "
        "step with `resolve`, and call `resume`.",
        thread_id=saga.thread_id,
        saga_id=saga.saga_id,
        steps=tuple([step.name for step, _ in stopping]),
    )
