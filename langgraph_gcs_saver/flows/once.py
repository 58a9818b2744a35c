"""One call of `once`: wait for the order, claim, perform, record; and what follows from an earlier attempt.

`flows.operations` is the protocol of the documents. This flow puts the user's code between its steps. `Work` is that
code: the function, what its exceptions mean, and how an unknown outcome is settled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine.effects import Ask, Compute, Flow, GetDocs, Pause
from langgraph_gcs_saver.errors import ConflictError, GCSSaverError, NotPrimaryError
from langgraph_gcs_saver.flows import operations
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.operations import Call, Claim, Outcome
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import ENDED, Operation
from langgraph_gcs_saver.records import record

_POLL_SECONDS = 0.02

_READ_SECONDS = 0.5
"""How often a checkpoint that this process has not stored is read while a call waits for it."""


@record(frozen=True, slots=True)
class Order:
    """The checkpoints that ordered an operation whose key was derived from its task.

    Attributes:
        checkpoints: Their namespaces and ids, from the root graph's to that of the graph that runs the task.
        why_never: Why one of them will not be stored while the task runs, if that is known.
    """

    checkpoints: tuple[tuple[str, str], ...]
    why_never: str | None


@record(frozen=True, slots=True)
class Performed:
    """How the user's code ended.

    Attributes:
        state: What is recorded. After `not_sent`, the claim is withdrawn.
        value: The result, or the exception that is an answer, as it is recorded.
        end: Returns the result to the caller, or raises.
    """

    state: Literal["done", "failed", "not_sent", "paused", "unknown"]
    value: Serialized | None
    end: Callable[[], Any]


@record(frozen=True, slots=True)
class Settled:
    """What is known about an unknown outcome.

    Attributes:
        state: `not_done` allows another attempt.
        value: The result, as it is recorded.
        asked: Whether a person has answered, by an interrupt of the task.
    """

    state: Literal["done", "not_done", "unknown"]
    value: Serialized | None = None
    asked: bool = False


class Work(Protocol):
    """The user's code."""

    def clock(self) -> float:
        """Seconds of a monotonic clock."""
        ...

    def perform(self, mine: Operation) -> Ask[Performed]:
        """Perform the operation, as it is claimed. This raises nothing."""
        ...

    def settle(self, seen: Operation) -> Ask[Settled]:
        """Find out about an unknown outcome. An interrupt is raised."""
        ...

    def repeat(self, seen: Operation, value: Serialized | None) -> Ask[Any]:
        """Return the recorded result, or raise the recorded exception."""
        ...

    def note(self, state: str, attempt: int, *, is_recorded: bool) -> None:
        """Note how the call ends, for those that watch it.

        Args:
            state: The outcome, as `Performed.state` says it.
            attempt: The number of the attempt whose outcome it is.
            is_recorded: Whether that was recorded before, so that this call performed nothing.
        """
        ...


def once(call: Call, work: Work, order: Order | None, context: Context) -> Flow[Any]:
    """Perform an operation, unless an earlier attempt may have taken effect.

    Args:
        call: The call.
        work: The user's code.
        order: What must be durable first; `None` for a key that does not depend on it.
        context: Options and caches.

    Returns:
        The result: of this attempt, or the recorded one.

    Raises:
        NotDurableError: The order is not durable after `context.timeout` seconds, or never will be.
        OperationFencedError: The lease is lost.
        OperationInProgressError: Another call has claimed the operation.
        OperationMismatchError: The key belongs to another operation or request.
        OperationNotPrimaryError: The store is not the primary of the two that replicate each other.
        OutcomeUnknownError: An earlier attempt may have taken effect, or the outcome of this one was not recorded.
    """
    if order is not None:
        yield from _wait_for(call, order, context)
    over: Operation | None = None
    was_asked = False
    for _ in range(MAX_TRIES):
        began = yield from Compute(work.clock)
        try:
            found = yield from operations.claim(call, context, over)
        except NotPrimaryError as error:
            # Not the error itself, because a handler of tool errors would show it to the model.
            raise errors.OperationNotPrimaryError(
                str(error), role=error.role, other=error.other, epoch=error.epoch
            ) from None
        if isinstance(found, Claim):
            if call.fence is not None and not _is_held(call, context):
                yield from operations.withdraw(found, context)
                raise operations.fenced(call, call.fence.thread_id)
            if (yield from Compute(work.clock)) - began <= _limit(call):
                return (yield from _perform(found, work, context, was_asked=was_asked))
            # The process was suspended. Others may take the claim for lost by now, so it must not act on it.
            yield from operations.withdraw(found, context)
            call = replace(call, nonce=context.new_attempt())
            continue
        if found.state in ENDED:
            return (yield from _repeat(found, work, context))
        settled = yield from work.settle(found)
        if settled.state == "unknown":
            work.note("unknown", found.attempt.number, is_recorded=False)
            raise operations.outcome_unknown(found)
        was_asked = was_asked or settled.asked
        if settled.state == "not_done":
            over = found
        else:
            with operations.existing(found):
                now = yield from operations.settle(found, Outcome("done", settled.value), context)
            if now is not None:
                work.note(now.state, now.attempt.number, is_recorded=True)
                return (yield from work.repeat(now, settled.value))
    with operations.existing(call):
        raise ConflictError(f"it changed {MAX_TRIES} times in a row. Call again.")


def _repeat(found: Operation, work: Work, context: Context) -> Flow[Any]:
    with operations.existing(found):
        value = yield from operations.read_result(found, context)
    work.note(found.state, found.attempt.number, is_recorded=True)
    return (yield from work.repeat(found, value))


def _limit(call: Call) -> float:
    return call.timeout if call.fence is None else call.fence.ttl


def _is_held(call: Call, context: Context) -> bool:
    """Whether this process still counts the call's lease as its own."""
    fence = call.fence
    return fence is None or context.fences.get((fence.thread_id, fence.token)) is fence


def _perform(claimed: Claim, work: Work, context: Context, *, was_asked: bool) -> Flow[Any]:
    mine = claimed.operation
    performed = yield from work.perform(mine)
    state = performed.state
    if state == "paused" and was_asked:
        # LangGraph numbers the interrupts of a task. So when the task runs again, this call must ask again, and gets
        # the same answer, before the function gets the answers to its own interrupts.
        state = "unknown"
    work.note(state, mine.attempt.number, is_recorded=False)
    try:
        if state == "not_sent":
            yield from operations.withdraw(claimed, context)
            now = None
        else:
            now = yield from operations.record_outcome(claimed, Outcome(state, performed.value), context)
    except GCSSaverError as error:
        if state not in ENDED:
            # The function's exception says more. Its traceback also shows this one. The claim counts as lost later.
            return performed.end()
        work.note("unknown", mine.attempt.number, is_recorded=False)
        # Not the error itself, because a handler of tool errors would show it to the model, which then tries again.
        unknown = errors.OutcomeUnknownError(
            f"The outcome of operation {mine.key!r} ({mine.name}) was not recorded: {error} The attribute `performed` "
            "has what it returned or raised. Call `resolve`.",
            thread_id=mine.thread_id,
            key=mine.key,
        )
        unknown.performed = performed.end
        raise unknown from error
    if now is None or state not in ENDED or now.attempt.by == mine.attempt.nonce:
        return performed.end()
    # Another attempt, or a person, has taken this attempt's place.
    if now.state in ENDED:
        return (yield from _repeat(now, work, context))
    work.note("unknown", now.attempt.number, is_recorded=False)
    raise operations.outcome_unknown(now)


@record(frozen=True, slots=True)
class Lacking:
    """A checkpoint that is not durable.

    Attributes:
        ns: Its namespace.
        checkpoint_id: Its id.
        why: Why it is not.
    """

    ns: str
    checkpoint_id: str
    why: str


def _wait_for(call: Call, order: Order, context: Context) -> Flow[None]:
    """Wait until the checkpoints that ordered an operation are durable.

    If one of them were lost in a crash, the task would run again under another id, and derive another key.
    """
    if call.thread_id is None:
        return
    found = yield from lacking(call.thread_id, order, context)
    if found is None:
        return
    raise errors.NotDurableError(
        f"Operation {call.key!r} ({call.name}) of thread {call.thread_id!r} was not started, because a crash could "
        f"order it again under another key. Checkpoint {found.checkpoint_id!r} of namespace {found.ns!r} orders it, "
        f"and {found.why}. Pass a `key` that names what the operation does, or run the graph with durability "
        '"sync" or "async". In a coroutine, call `aonce`.',
        thread_id=call.thread_id,
        key=call.key,
    )


def lacking(thread_id: str, order: Order, context: Context) -> Flow[Lacking | None]:
    """Wait until some checkpoints are durable.

    Returns:
        One that is not durable after `context.timeout` seconds, or that never will be; `None` if all are.
    """
    missing = {keys.checkpoint_doc(thread_id, *one): one for one in order.checkpoints}
    waited, read = 0.0, -_READ_SECONDS
    while True:
        missing = {name: one for name, one in missing.items() if context.heads.get(name) is None}
        if missing and waited - read >= _READ_SECONDS:
            read = waited
            docs = yield from GetDocs(tuple(missing), mask=())
            missing = {name: one for name, one in missing.items() if name not in docs}
        if not missing:
            return None
        if order.why_never is not None or waited > context.timeout:
            break
        yield from Pause(_POLL_SECONDS)
        waited += _POLL_SECONDS
    why = order.why_never or f"it was not stored within {context.timeout:g} seconds"
    return Lacking(*next(iter(missing.values())), why)
