"""Operations: side effects that are recorded, so that they are not repeated.

A call claims its operation, performs it, and records the outcome. The claim is one commit: it creates the operation's
document, requires the caller's lease, and requires that no deletion of the thread has begun. The outcome is one commit
too, but it requires no lease, because the process that knows the outcome must be able to record it.

An attempt begins with its claim, because a frozen process can act at any time after it. So an attempt whose process
may have crashed has an *unknown* outcome. No other attempt begins until the caller allows it (`over`), or a person does
(`resolve`).

- A claim has a nonce of its own call. It recognizes the claim whose answer was lost, and no other call's claim.
- Every commit is conditional on the operation's document as last seen.
- An outcome is recorded over the call's own attempt, whatever state others have put that attempt in. If something else
  has taken the attempt's place, the outcome is added to it as a late one.
- A claim under a lease is lost when the lease is no longer the fence's. Another claim is lost when its document has
  stood for `timeout` seconds.
- In a store that was promoted by force, an operation without a document may have begun in the other store. It becomes
  one with an unknown outcome, unless a shipper has shipped everything of its thread since.
- The claim of a saga's step, or of its undo, also requires the saga's document as last seen (`Part`). The outcome of an
  undo is one commit with the note in its step that it is undone.

`tests/races/test_operations.py` tries every order of steps, and removes each rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Docs,
    Emit,
    Fields,
    Flow,
    GetDocs,
    Merge,
    Now,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError, FencedError, InvalidInputError, ValueTooLargeError
from langgraph_gcs_saver.events import OperationLate
from langgraph_gcs_saver.flows.collections import damaged
from langgraph_gcs_saver.flows.context import ATTEMPT_DEADLINE_SECONDS, MAX_TRIES, Context
from langgraph_gcs_saver.flows.fences import Fence, fence_of
from langgraph_gcs_saver.flows.manifests import make_stub, read_stub, report_clear
from langgraph_gcs_saver.flows.readback import TIMES, discard, failed, mismatched, upload
from langgraph_gcs_saver.flows.roles import required, role_check
from langgraph_gcs_saver.flows.threads import NOTE_SECONDS, guard, note_thread
from langgraph_gcs_saver.format import frames, keys, regions, sagas
from langgraph_gcs_saver.format.frames import FrameError
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, Serialized, Stub, kind_of
from langgraph_gcs_saver.format.operations import (
    ALL_FIELDS,
    ENDED,
    MAX_UNDO_BYTES,
    RESULT,
    SAGA,
    Attempt,
    Holder,
    Late,
    Operation,
    Step,
    Undo,
    Value,
    encode,
    encode_stub,
    envelope,
    field_of_late,
    fields_of,
    objects,
    parse,
    stub_in,
    value_in,
)
from langgraph_gcs_saver.format.regions import Role
from langgraph_gcs_saver.format.sagas import Saga
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import OperationInfo

INLINE_BYTES = 900 << 10
"""The maximum size of a result in a document. Larger ones go to an object, which costs a round."""

LATE_INLINE_BYTES = 4 << 10
"""The same for a late outcome, because a document has room for several."""

LATE_OUTCOMES = 16
"""The maximum number of late outcomes that are stored. Others are only reported."""

KEEP_SECONDS = 30 * 86_400.0
TIMEOUT_SECONDS = 60.0

DOCS_PER_PAGE = 50
"""How many operations are read at once; each may have most of a megabyte."""

_OPENING = 8
"""Opening a document takes as long as handling so many times its bytes."""


@record(frozen=True, slots=True)
class Part:
    """The part of a call in a saga: it claims a step, or the undo of one.

    Attributes:
        saga: The saga as the caller last saw it. A step needs it to be running, in this epoch. An undo needs the
            rollback that the caller has begun.
        name: The step.
        undo: How to undo it; `None` if that is impossible, and for an undo.
        undoes: The step's operation, for its undo.
    """

    saga: Saga
    name: str
    undo: Undo | None = None
    undoes: Operation | None = None

    @property
    def step(self) -> Step:
        """What the operation says about it."""
        of = None if self.undoes is None else self.undoes.step
        if self.undoes is None or of is None:
            saga = self.saga
            return Step(saga.saga_id, self.name, saga.epoch, len(saga.savepoints), self.undo)
        return replace(of, undo=None, undone=False, undoes=self.undoes.key)


@record(frozen=True, slots=True)
class Call:
    """A request to perform an operation once.

    Attributes:
        thread_id: The thread; `None` if all threads share the operation.
        key: Distinguishes the operation from all others of the thread.
        name: What the operation does.
        request: A digest of its request.
        nonce: Digits that only this call has.
        fence: The lease under which the call is made, if any.
        ordered_by: The namespace and the id of the checkpoint that ordered the operation. It must be stored.
        keep: Seconds for which the outcome is kept.
        timeout: Seconds for which the claim is in progress, if there is no lease.
        part: The call's part in a saga, if it has one.
    """

    thread_id: str | None
    key: str
    name: str
    request: str
    nonce: str
    fence: Fence | None = None
    ordered_by: tuple[str, str] | None = None
    keep: float = KEEP_SECONDS
    timeout: float = TIMEOUT_SECONDS
    part: Part | None = None

    @property
    def document(self) -> str:
        """Name of the operation's document."""
        return keys.operation_doc(self.thread_id, self.key)


@record(frozen=True, slots=True)
class Claim:
    """An operation that this process has claimed, and now performs. Record its outcome, or withdraw it.

    Attributes:
        operation: The operation as it was claimed.
    """

    operation: Operation


@record(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        state: `done` and `failed` are final. A `paused` operation is performed again. `unknown` is any other exception.
        value: The result, or the exception that is an answer; `None` if it cannot be serialized, or there is none.
    """

    state: Literal["done", "failed", "paused", "unknown"]
    value: Serialized | None = None


# Claiming


@record(frozen=True, slots=True)
class _Look:
    """What a claim has seen: documents, and what its commit requires besides.

    Attributes:
        operation: The operation; `None` if there is none.
        docs: The documents that were read; `None` if none were.
        thread: When the thread's document last changed; `None` if all threads share the operation.
        order: Makes the claim's commit fail if the checkpoint that ordered the operation is gone.
        saga: The saga of the call; `None` if it has none, or the saga is gone.
        since: The epoch in which this store was promoted by force, if it may lack what the other region's store has.
        shipped: The last epoch in which it got everything that the other one had; `None` if it has nothing.
        role: The store's role and its update time, which the claim's commit requires; `None` if it has none.
    """

    operation: Operation | None
    docs: Docs | None
    thread: int | None = None
    order: Write | None = None
    saga: Saga | None = None
    since: int | None = None
    shipped: int | None = None
    role: tuple[int, Role] | None = None

    @property
    def is_doubted(self) -> bool:
        """Whether the other region's store may have a claim that was not shipped before this one was promoted by force.

        A thread of which nothing was shipped counts as new.
        """
        return self.since is not None and self.shipped is not None and self.shipped < self.since


def claim(call: Call, context: Context, over: Operation | None = None) -> Flow[Claim | Operation]:
    """Claim an operation.

    Args:
        call: The call.
        context: Options and caches.
        over: An operation with an unknown outcome. The caller knows that it did not take effect, or may repeat it.

    Returns:
        The claim, after which the caller performs the operation. Or the operation, if it is `done`, `failed`, or
        `unknown`.

    Raises:
        NotDurableError: The checkpoint that ordered the operation is not stored.
        OperationFencedError: The lease is lost.
        OperationInProgressError: Another call has claimed it, and may be performing it.
        OperationMismatchError: The key belongs to another operation.
        ConflictError: The thread, or the checkpoint that ordered the operation, changed in every try.
        OutcomeUnknownError: There is an operation, and it cannot be read, or a request failed.
        ResultNotStoredError: The same, for an operation that has ended.
        SagaError: The saga of the call is done, or another process rolls it back.
        SagaRolledBack: The saga of the call is or was rolled back, so the step must not begin.
        ValueTooLargeError: The request of the step is too large to be stored for its undo.
    """
    undo = None if call.part is None else call.part.undo
    if undo is not None and len(undo.request.data) > MAX_UNDO_BYTES:
        raise ValueTooLargeError(
            f"The request of step {call.name!r} of {_whose(call.thread_id)} has {len(undo.request.data):,} bytes, and "
            f"at most {MAX_UNDO_BYTES:,} are stored for its undo. The step was not started. Pass what its undo needs, "
            "such as an id."
        )
    seen: Operation | None = None
    look = None if over is not None else _remembered(call, context)
    for _ in range(MAX_TRIES):
        if look is None:
            look = yield from _look(call, context)
        seen = look.operation
        role = yield from required(context.region, call.document)
        if _since(role) != look.since:
            look = None  # The process has learned that the store was promoted by force, or was merged since.
            continue
        with existing(seen):
            found = yield from _try(call, replace(look, role=role), over, context)
        if found is not None:
            return found
        look = None
    with existing(seen):
        raise ConflictError(
            f"Operation {call.key!r} ({call.name}) of {_whose(call.thread_id)} was not started: other writers changed "
            f"it, its thread, or the checkpoint that ordered it {MAX_TRIES} times in a row. Call again."
        )


def _try(call: Call, look: _Look, over: Operation | None, context: Context) -> Flow[Claim | Operation | None]:
    """One try of `claim`; `None` after a conflict."""
    seen = look.operation
    if seen is not None and seen.state == "claimed" and seen.attempt.nonce == call.nonce:
        return Claim(seen)  # This call's own claim, whose answer was lost.
    if call.part is not None:
        _require_saga(call, call.part, look)
    if seen is not None:
        _check_request(call, seen)
        if seen.state in ENDED and not _is_undone(seen):
            return seen
        if seen.state == "claimed" and (yield from is_in_progress(seen, look.docs)):
            raise in_progress(seen)
    if look.docs is not None:
        _require_fence(call, look.docs)
    if seen is not None and seen.state == "claimed":
        seen = yield from _store(seen, seen.with_state("unknown"), context)
        if seen is None:
            return None
    if seen is not None and seen.state == "unknown" and not _may_repeat(seen, over):
        return seen
    if seen is None and look.is_doubted:
        return (yield from _claim(call, seen, look, context, state="unknown"))
    try:
        made = yield from _claim(call, seen, look, context)
    except GeneratorExit:  # No effect can follow.
        raise
    except BaseException as error:
        with existing((yield from _undo(call, error, context))):
            raise
    return None if made is None else Claim(made)


def _undo(call: Call, error: BaseException, context: Context) -> Flow[Operation | None]:
    """Withdraw a claim whose commit was cut off or failed, because it may have been applied all the same.

    Returns:
        Another call's attempt, if there is one.
    """
    try:
        found = yield from _read(call.document, context)
        if found is None or found.attempt.nonce != call.nonce:
            return found
        yield from withdraw(Claim(found), context)
    except Exception as second:  # noqa: BLE001 - the caller gets the first error, with this one as its context
        # The claim, if there is one, counts as lost later.
        error.__context__ = second
    return None


@contextmanager
def existing(seen: Call | Operation | None, *, has_ended: bool = False) -> Iterator[None]:
    """A block about an operation that exists. Its errors end the run.

    A handler of tool errors would show any other to the model, which then orders the operation again under another key.

    Args:
        seen: The operation, or the call that met it; `None` if there is none, as far as is known.
        has_ended: Whether it is `done` or `failed`.
    """
    from langgraph.errors import GraphBubbleUp  # noqa: PLC0415 - a handle is made without it

    try:
        yield
    except GraphBubbleUp:
        raise
    except Exception as error:
        if seen is None:
            raise
        what = f"Operation {seen.key!r} ({seen.name}) of {_whose(seen.thread_id)}"
        if has_ended or (isinstance(seen, Operation) and seen.state in ENDED):
            raise errors.ResultNotStoredError(
                f"{what} has ended and was not started again, but its result cannot be read: {error}",
                thread_id=seen.thread_id,
                key=seen.key,
            ) from error
        raise errors.OutcomeUnknownError(
            f"{what} was not started again. An earlier attempt may have taken effect, and this call failed: {error}",
            thread_id=seen.thread_id,
            key=seen.key,
        ) from error


def _may_repeat(seen: Operation, over: Operation | None) -> bool:
    """Whether the caller allows another attempt at an operation with an unknown outcome."""
    return over is not None and over.attempt.nonce == seen.attempt.nonce and over.time == seen.time


def _remembered(call: Call, context: Context) -> _Look | None:
    """What this process knows without a read, for the first try at an operation that is probably new."""
    if call.thread_id is None:
        return _Look(None, None)
    saga = None if call.part is None else call.part.saga
    time = context.guards.get(keys.thread_doc(call.thread_id))
    if time is None or (saga is not None and saga.state == "done"):
        return None
    if call.ordered_by is None:
        return _Look(None, None, time, saga=saga)
    checkpoint = keys.checkpoint_doc(call.thread_id, *call.ordered_by)
    head = context.heads.get(checkpoint)
    order = None if head is None else Merge(checkpoint, {}, update_time=head.update_time)
    return None if order is None else _Look(None, None, time, order, saga)


def _look(call: Call, context: Context) -> Flow[_Look]:
    """Read the operation, the fence, and what the claim's commit requires."""
    order = None
    if call.thread_id is not None and call.ordered_by is not None:
        order = yield from _order(call, call.thread_id, call.ordered_by, context)
    names = [call.document]
    if call.thread_id is not None:
        names.append(keys.fence_doc(call.thread_id))
    if call.fence is not None:
        names.append(call.fence.name)
    if call.part is not None:
        names.append(call.part.saga.document)
    ship = keys.SHARED_SHIP if call.thread_id is None else keys.ship_doc(call.thread_id)
    since = None if context.region is None else context.region.unmerged_since(call.document)
    if since is not None:
        names.append(ship)
    beside = tuple(dict.fromkeys(names))
    thread: int | None = None
    if call.thread_id is None:
        docs = yield from GetDocs(beside)
    else:
        own = call.fence if call.fence is not None and call.fence.thread_id == call.thread_id else None
        try:
            found = yield from guard(call.thread_id, context, beside=beside, fence=own)
        except FencedError:
            raise fenced(call, call.thread_id) from None
        docs, thread = found.beside, found.update_time
        if thread is not None:
            context.guards.put(found.name, thread, len(found.name))
    doc = docs.get(call.document)
    with existing(None if doc is None else call):
        operation = None if doc is None else (yield from _parsed(doc, context))
        saga = None
        if call.part is not None and call.part.saga.document in docs:
            saga = yield from parsed_saga(docs[call.part.saga.document], context)
    shipped = 0 if ship in docs or call.thread_id is None else None
    return _Look(operation, docs, thread, order, saga, since, regions.shipped_in(docs.get(ship)) or shipped)


def _since(role: tuple[int, Role] | None) -> int | None:
    """The epoch of a promotion by force, by the role that a commit requires, if the store may lack a claim."""
    return role[1].epoch if role is not None and role[1].unmerged else None


def parsed_saga(doc: Doc, context: Context) -> Flow[Saga]:
    """The saga of a document.

    Raises:
        DamageError: The document is damaged.
    """
    try:
        found = sagas.parse(doc, context.codec)
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None
    yield from report_clear(context.codec)
    return found


def _require_saga(call: Call, part: Part, look: _Look) -> None:
    """Check that a saga is as the claim of a step, or of an undo, needs it.

    Raises:
        SagaError: It is not.
    """
    opened, now, seen = part.saga, look.saga, look.operation
    what = f"Step {part.name!r} of saga {opened.saga_id!r} of {_whose(call.thread_id)}"
    has_ended = seen is not None and seen.state in ENDED and not _is_undone(seen)
    if now is not None and part.undoes is not None:
        if has_ended or (now.state == "compensating" and now.by == opened.by):
            return
        raise errors.SagaError(
            f"{what} was not undone by this call, because another process has taken over the rollback. It is "
            f"{now.state!r} now. Call `resume` to see whether anything is left to do.",
            thread_id=opened.thread_id,
            saga_id=opened.saga_id,
        )
    if now is not None and now.epoch == opened.epoch and not now.is_forgotten:
        if now.state == "running" or (now.state == "done" and has_ended):
            return
        if now.state == "done":
            raise errors.SagaError(
                f"{what} was not started, because the saga is done. Use another saga.",
                thread_id=opened.thread_id,
                saga_id=opened.saga_id,
            )
    raise rolled_back(opened, now, f"{what} was not started")


def rolled_back(opened: Saga, now: Saga | None, what: str) -> errors.SagaRolledBack:
    """The error of a call that opened a saga, which is rolled back now, or was, or is gone.

    Args:
        opened: The saga as the caller opened it.
        now: As it is now; `None` if it is gone.
        what: What the call did not do.
    """
    if now is None or now.is_forgotten:
        why = "the saga was deleted since this process opened it"
    elif now.epoch != opened.epoch:
        why = "the saga was rolled back since this process opened it"
    else:
        why = f"the saga is rolled back: it is {now.state!r}"
    return errors.SagaRolledBack(
        f"{what}, because {why}. End the run.", thread_id=opened.thread_id, saga_id=opened.saga_id
    )


def _is_undone(seen: Operation) -> bool:
    """Whether an operation is a step whose outcome means nothing any more, because it was undone."""
    return seen.step is not None and seen.step.undone


def _order(call: Call, thread_id: str, ordered_by: tuple[str, str], context: Context) -> Flow[Write]:
    """The precondition that the checkpoint that ordered an operation is stored.

    Raises:
        OperationFencedError: The call has no lease, and another one has had it since this process read the checkpoint.
    """
    name = keys.checkpoint_doc(thread_id, *ordered_by)
    doc = (yield from GetDocs((name,), mask=("format", "ns", "fence"))).get(name)
    head, fence = context.heads.get(name), None if doc is None else fence_of(doc)
    if call.fence is None and head is not None and fence is not None and fence != head.fence:
        # A fork may be the newest checkpoint now, and this run's next put will be refused.
        raise errors.OperationFencedError(
            f"The lease of thread {thread_id!r} was acquired since this run has read its checkpoint, so operation "
            f"{call.key!r} was not started. End the run. Read the thread again, under a lease, and continue.",
            thread_id=thread_id,
        )
    if doc is None or kind_of(doc) is not DocumentKind.CHECKPOINT:
        raise errors.NotDurableError(
            f"Operation {call.key!r} of thread {thread_id!r} was not started, because checkpoint {ordered_by[1]!r}, "
            'which ordered it, is not stored. Run the graph with durability "sync" or "async", or give the operation a '
            "key of its own.",
            thread_id=thread_id,
            key=call.key,
        )
    return Merge(name, {}, update_time=doc.update_time)


def _require_fence(call: Call, docs: Mapping[str, Doc]) -> None:
    if call.fence is None:
        return
    doc = docs.get(call.fence.name)
    if doc is None or doc.update_time != call.fence.time:
        raise fenced(call, call.fence.thread_id)


def fenced(call: Call, thread_id: str) -> errors.OperationFencedError:
    """The error of a call whose lease is lost."""
    return errors.OperationFencedError(
        f"This process has lost its lease of thread {thread_id!r}, so operation {call.key!r} was not started. End the "
        "run. A process that acquires the lease continues the thread.",
        thread_id=thread_id,
    )


def _check_request(call: Call, seen: Operation) -> None:
    if _part_of(None if call.part is None else call.part.step) != _part_of(seen.step):
        raise errors.OperationMismatchError(
            f"Key {call.key!r} of {_whose(call.thread_id)} belongs to {_described(seen.step)}, so {call.name!r} was "
            "not started. Use another key.",
            thread_id=call.thread_id,
            key=call.key,
        )
    if (call.name, call.request) == (seen.name, seen.request) or _is_undone(seen):
        return
    what = "another request" if call.name == seen.name else f"the operation {seen.name!r}"
    raise errors.OperationMismatchError(
        f"Key {call.key!r} of {_whose(call.thread_id)} belongs to {what}, so {call.name!r} was not started. Use "
        "another key, or repeat the request as it was.",
        thread_id=call.thread_id,
        key=call.key,
    )


def _part_of(step: Step | None) -> object:
    return None if step is None else (step.saga, step.name, step.undoes)


def _described(step: Step | None) -> str:
    if step is None:
        return "an operation of no saga"
    return f"{'the undo of ' if step.undoes is not None else ''}step {step.name!r} of saga {step.saga!r}"


def _whose(thread_id: str | None) -> str:
    return "all threads" if thread_id is None else f"thread {thread_id!r}"


def in_progress(operation: Operation) -> errors.OperationInProgressError:
    """The error of a call that meets another call's claim."""
    return errors.OperationInProgressError(
        f"Operation {operation.key!r} ({operation.name}) of {_whose(operation.thread_id)} was not started, because "
        "another call has claimed it. Wait until that call has ended, and call again.",
        thread_id=operation.thread_id,
        key=operation.key,
    )


def outcome_unknown(operation: Operation) -> errors.OutcomeUnknownError:
    """The error of a call that meets an operation with an unknown outcome."""
    return errors.OutcomeUnknownError(
        f"Operation {operation.key!r} ({operation.name}) of {_whose(operation.thread_id)} was not started again, "
        "because an earlier attempt may have taken effect. Find out whether it did, and call `resolve`.",
        thread_id=operation.thread_id,
        key=operation.key,
    )


def is_in_progress(seen: Operation, docs: Docs | None = None) -> Flow[bool]:
    """Whether the holder of a claim may still be performing the operation.

    Args:
        seen: The operation.
        docs: What was read together with it, if anything was.
    """
    holder = seen.attempt.holder
    if holder is None:
        # A read of several documents says its time. A wrong guess delays a call, or marks a claim as unknown that is
        # recorded all the same.
        now = docs if docs and docs.read_time else (yield from GetDocs((seen.document, keys.PLACE), mask=()))
        doc = now.get(seen.document)
        is_same = doc is not None and doc.update_time == seen.time
        return not is_same or now.read_time - seen.time <= seen.attempt.timeout * 1e9
    name = keys.fence_doc(holder.thread_id)
    if docs is None or name not in docs:
        # The fence is read after the claim, so a fence with another time shows that the lease is over.
        docs = yield from GetDocs((name,))
    return holder.holds(docs.get(name))


def _new(call: Call, seen: Operation | None, saga: Saga | None) -> Operation:
    """The operation with a claim of this call."""
    fence = call.fence
    step = None if call.part is None or saga is None else replace(call.part, saga=saga).step
    if step is not None and seen is not None and seen.step is not None and not seen.step.undone:
        # An earlier attempt may have taken effect. So this one is the same request for the provider, in any epoch.
        step = replace(step, epoch=seen.step.epoch)
    attempt = Attempt(
        number=1 if seen is None else seen.attempt.number + 1,
        nonce=call.nonce,
        state="claimed",
        holder=None if fence is None else Holder(fence.thread_id, fence.nonce, fence.time),
        timeout=call.timeout,
    )
    if seen is None:
        return Operation(
            call.document, call.thread_id, call.key, call.name, call.request, keep=call.keep, attempt=attempt, step=step
        )
    # An undone step has no effect, and its result goes. So a claim that is withdrawn leaves one that was not done.
    before = replace(seen.attempt, state="not-done") if _is_undone(seen) else seen.attempt
    return replace(
        seen,
        request=call.request,
        keep=call.keep,
        attempt=attempt,
        before=before,
        result=None,
        finished=None,
        step=step,
    )


def _claim(
    call: Call,
    seen: Operation | None,
    look: _Look,
    context: Context,
    state: Literal["claimed", "unknown"] = "claimed",
) -> Flow[Operation | None]:
    """Commit a claim, or note that another one may have been made; `None` after a conflict."""
    beside: list[Write] = [] if call.fence is None else [call.fence.check()]
    beside += [] if look.order is None else [look.order]
    beside += [] if look.saga is None else [Merge(look.saga.document, {}, update_time=look.saga.time)]
    beside += [] if look.role is None else [role_check(regions.digits_of(call.document), look.role[0])]
    operation = _new(call, seen, look.saga).with_state(state)
    if call.thread_id is None or look.thread is None:
        return (yield from _store(seen, operation, context, tuple(beside)))
    name = keys.thread_doc(call.thread_id)
    now = yield from Now()
    # An operation is a use of its thread, which a sweep then leaves alone. Usually it changes nothing, because parallel
    # operations must not compete for the thread's document.
    is_due = abs(now - look.thread / 1e9) >= NOTE_SECONDS
    note = note_thread(call.thread_id, now, has_root=False) if is_due else {}
    beside.append(Merge(name, note, update_time=look.thread))
    made = yield from _store(seen, operation, context, tuple(beside))
    if made is None:
        context.guards.drop(name)
        if call.ordered_by is not None and call.fence is not None:
            context.heads.drop(keys.checkpoint_doc(call.thread_id, *call.ordered_by))
    elif is_due:
        context.guards.put(name, made.time, len(name))
    return made


def _store(
    seen: Operation | None, operation: Operation, context: Context, beside: tuple[Write, ...] = ()
) -> Flow[Operation | None]:
    """Store an operation as last seen, with other writes; `None` after a conflict."""
    size = sum(len(value.stored) for value in operation.values.values())
    fields = yield from Compute(partial(fields_of, operation, context.codec), size=size)
    name = operation.document
    own: Write = Create(name, fields)
    if seen is not None:
        own = _replaces(seen, fields)
        if operation.state == "done" and seen.state != "done":
            beside = (*beside, *(yield from _undone_by(operation, context)))
    times = yield from Commit((own, *beside))
    if times is None:
        return None
    attempt = operation.attempt
    if attempt.claimed is None:
        attempt = replace(attempt, claimed=times[0])
    finished = times[0] if operation.finished is None and attempt.state in ENDED else operation.finished
    return replace(operation, attempt=attempt, finished=finished, time=times[0])


def _replaces(seen: Operation, fields: Fields) -> Write:
    """The write that gives an operation's document other fields, if it is as last seen."""
    gone = tuple([one for one in ALL_FIELDS if one not in fields])
    return Merge(seen.document, fields, remove=gone, update_time=seen.time)


def _undone_by(operation: Operation, context: Context) -> Flow[tuple[Write, ...]]:
    """The write that notes in a step that it is undone, for the commit of its undo's outcome; none for all else."""
    undo = operation.step
    if undo is None or undo.undoes is None:
        return ()
    collection = operation.document.rpartition("/")[0]
    step = yield from _read(f"{collection}/{keys.operation_segment(undo.undoes)}", context)
    if step is None or step.step is None or step.step.undone or step.step.epoch != undo.epoch:
        return ()
    return ((yield from undone(step, context)),)


def undone(step: Operation, context: Context) -> Flow[Write]:
    """The write that notes in a step, as last seen, that its outcome means nothing to later epochs."""
    if step.step is None:
        raise ValueError(f"operation {step.document} is not a step")
    size = sum(len(value.stored) for value in step.values.values())
    noted = replace(step, step=replace(step.step, undone=True))
    return _replaces(step, (yield from Compute(partial(fields_of, noted, context.codec), size=size)))


def _parsed(doc: Doc, context: Context) -> Flow[Operation]:
    """The operation of a document.

    Raises:
        DamageError: The document is damaged.
    """
    size = _OPENING * sum(len(data) for data in doc.fields.values() if isinstance(data, bytes))
    try:
        found = yield from Compute(partial(parse, doc, context.codec), size=size)
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None
    yield from report_clear(context.codec)
    return found


# Recording


def record_outcome(claimed: Claim, outcome: Outcome, context: Context) -> Flow[Operation | None]:
    """Record how a claimed operation ended. No lease is needed.

    Returns:
        The operation as it is now. If another attempt or a person has taken this attempt's place, that is another
        operation's state and result, and this outcome was added as a late one. `None` if the operation was deleted,
        as with its thread.

    Raises:
        CheckpointVerificationError: The result reads back differently, several times in a row.
        ConflictError: The operation changed in every try. Call again.
    """
    mine = claimed.operation
    stored = _Stored(mine, outcome, context)
    yield from stored.make(RESULT, _room(mine))
    seen: Operation = mine
    for _ in range(MAX_TRIES):
        ended = replace(
            seen.with_state(outcome.state, by=mine.attempt.nonce),
            result=stored.value,
            finished=None,
        )
        made = yield from _store(seen, ended, context)
        if made is not None:
            return made
        now = yield from _read(mine.document, context)
        if now is None:
            yield from stored.discard()  # A commit that has not arrived yet will not find its document.
            return None
        seen = now
        if _is_recorded(mine, seen, outcome):
            return seen
        if not _is_open(mine, seen):
            return (yield from _record_late(mine, seen, outcome, stored, context))
    raise _kept_changing(mine)


def _room(operation: Operation) -> int:
    """The maximum size of a result in an operation's document."""
    undo = None if operation.step is None else operation.step.undo
    return INLINE_BYTES if undo is None else INLINE_BYTES - len(undo.request.data)


def _is_recorded(mine: Operation, seen: Operation, outcome: Outcome) -> bool:
    """Whether an outcome is on record, by a commit whose answer was lost, or has nothing to add."""
    nonce = mine.attempt.nonce
    if seen.attempt.nonce == nonce:
        if seen.attempt.by == nonce:
            return True
        # A person may have looked into it, and knows more than that the outcome is unknown.
        return outcome.state == "unknown" and seen.state in ("unknown", "not-done")
    return any(one.nonce == nonce for one in seen.late)


def _is_open(mine: Operation, seen: Operation) -> bool:
    """Whether the latest attempt is this call's, and nothing final is known about it."""
    return seen.attempt.nonce == mine.attempt.nonce and seen.state not in ENDED


def _record_late(
    mine: Operation, seen: Operation, outcome: Outcome, stored: _Stored, context: Context
) -> Flow[Operation | None]:
    """Add an outcome to an operation in which something else has taken the attempt's place."""
    attempt = mine.attempt
    for _ in range(MAX_TRIES):
        if outcome.state not in ENDED or len(seen.late) >= LATE_OUTCOMES:
            made: Operation | None = seen
        else:
            yield from stored.make(field_of_late(seen), LATE_INLINE_BYTES)
            late = (*seen.late, Late(attempt.number, attempt.nonce, outcome.state, stored.value))
            made = yield from _store(seen, replace(seen, late=late), context)
        if made is not None:
            if outcome.state in ENDED:
                yield from Emit(
                    OperationLate(
                        thread_id=seen.thread_id or "",
                        key=seen.key,
                        operation=seen.name,
                        attempt=attempt.number,
                        outcome=outcome.state,
                        state=seen.state,
                    )
                )
            return made
        now = yield from _read(mine.document, context)
        if now is None:
            yield from stored.discard()
            return None
        seen = now
        if _is_recorded(mine, seen, outcome):
            return seen
    raise _kept_changing(mine)


def _kept_changing(operation: Operation) -> ConflictError:
    return ConflictError(
        f"The outcome of operation {operation.key!r} of {_whose(operation.thread_id)} was not recorded: the operation "
        f"changed {MAX_TRIES} times in a row. Call again."
    )


class _Stored:
    """An outcome's value as it is stored: in the document, or in an object, which is uploaded once.

    Attributes:
        value: What the document holds; `None` if there is no value, or it is too large.
    """

    def __init__(self, operation: Operation, outcome: Outcome, context: Context) -> None:
        self._operation = operation
        self._document = operation.document
        self._context = context
        self._plain = None if outcome.value is None else envelope(outcome.value)
        self._stub: Stub | None = None
        self._upload: PutBlob | None = None
        self.value: Value | None = None

    def make(self, name: str, most: int) -> Flow[None]:
        """Make the value for the field `name`, which has room for `most` bytes."""
        plain, context = self._plain, self._context
        if plain is None:
            return
        if self._stub is None and len(plain) <= frames.ENVELOPE_MAX_BYTES and context.inline_max_bytes:
            made = partial(encode, plain, self._document, name, context.codec)
            self.value = yield from Compute(made, size=len(plain))
            if len(self.value.stored) <= most:
                return
        if self._stub is None:
            try:
                yield from self._put(plain)
            except ValueTooLargeError:
                # The operation is done, so its record must not fail. A repeat says that the result was not stored.
                self._plain = self.value = None
                return
        if self._stub is not None:
            self.value = encode_stub(self._stub, self._document, name, context.codec)

    def _put(self, plain: bytes) -> Flow[None]:
        context, of = self._context, self._operation
        what = f"The result of operation {of.key!r} of {_whose(of.thread_id)}"
        mismatches = 0
        for _ in range(TIMES):
            attempt = context.new_attempt()
            stub, data = yield from Compute(partial(make_stub, plain, attempt, context.codec), size=len(plain))
            effect = context.upload(keys.operation_blob(self._document, attempt), data)
            started = yield from Now()
            wrong = yield from upload((effect,), reads_back=context.reads_back)
            if wrong is not None:
                mismatches = yield from mismatched(what, wrong, mismatches, thread_id=of.thread_id or "")
                continue
            if (yield from Now()) - started > ATTEMPT_DEADLINE_SECONDS:  # `collect` may take it for an orphan
                yield from discard((effect,))
                continue
            self._stub, self._upload = stub, effect
            return
        raise failed(what, effect.name)

    def discard(self) -> Flow[None]:
        """Delete what was uploaded."""
        if self._upload is not None:
            yield from discard((self._upload,))


def withdraw(claimed: Claim, context: Context) -> Flow[None]:
    """Undo a claim, because it is certain that the operation did not begin. What was there before is restored.

    If another attempt or a person has taken this attempt's place, nothing changes.
    """
    seen = mine = claimed.operation
    for _ in range(MAX_TRIES):
        if seen.attempt.number == 1:
            done = (yield from Commit((Delete(seen.document, update_time=seen.time),))) is not None
        else:
            # Without the attempt before, another attempt's outcome may be unknown, and so it stays.
            before = seen.before or replace(seen.attempt, state="unknown")
            restored = replace(seen, attempt=before, before=None)
            done = (yield from _store(seen, restored, context)) is not None
        if done:
            return
        now = yield from _read(mine.document, context)
        if now is None:
            return
        seen = now
        if not _is_open(mine, seen) or (seen.before is None and seen.attempt.number > 1):
            return
    raise _kept_changing(mine)


# Unknown outcomes


def read(thread_id: str | None, key: str, context: Context) -> Flow[Operation | None]:
    """An operation as it is stored; `None` if there is none."""
    return (yield from _read(keys.operation_doc(thread_id, key), context))


def _read(name: str, context: Context) -> Flow[Operation | None]:
    doc = (yield from GetDocs((name,))).get(name)
    return None if doc is None else (yield from _parsed(doc, context))


def read_result(operation: Operation, context: Context) -> Flow[Serialized | None]:
    """The result of an operation, or the exception that is its answer; `None` if none could be stored.

    Raises:
        DamageError: It is missing or damaged.
    """
    if operation.result is None:
        return None
    name = operation.document
    try:
        size = _OPENING * len(operation.result.stored)
        found = yield from Compute(partial(stub_in, operation, RESULT, context.codec), size=size)
        if isinstance(found, Stub):
            name = keys.operation_blob(operation.document, found.attempt)
            found = yield from read_stub(name, found, context.codec)
        return value_in(found, name)
    except FrameError as error:
        raise damaged(name, DamagedError(f"an operation's value is {error}")) from None
    except DamagedError as damage:
        raise damaged(name, damage) from None


def settle(seen: Operation, outcome: Outcome | None, context: Context) -> Flow[Operation | None]:
    """Give an operation with an unknown outcome the outcome that was found out.

    Args:
        seen: The operation as last seen.
        outcome: The outcome; `None` if it did not take effect, so that it may be performed again.
        context: Options and caches.

    Returns:
        The operation as it is now; `None` if it is no longer as it was seen. Then nothing has changed.
    """
    by = context.new_attempt()
    if outcome is None:
        ended = seen.with_state("not-done", by=by)
    else:
        stored = _Stored(seen, outcome, context)
        yield from stored.make(RESULT, _room(seen))
        ended = replace(seen.with_state(outcome.state, by=by), result=stored.value, before=None)
    made = yield from _store(seen, ended, context)
    if made is None:
        found = yield from _read(seen.document, context)
        made = found if found is not None and found.attempt.by == by else None  # an answer that was lost
    return made


def resolve(thread_id: str | None, key: str, outcome: Outcome | None, context: Context) -> Flow[Operation]:
    """Give an operation with an unknown outcome the outcome that a person has found out; see `settle`.

    Raises:
        ConflictError: Its outcome is known, or it changed meanwhile. The message says what it is now.
        InvalidInputError: There is no such operation.
        OperationInProgressError: A call may still be performing it.
    """
    seen = yield from read(thread_id, key, context)
    if seen is None:
        raise InvalidInputError(
            f"There is no operation {key!r} of {_whose(thread_id)}. `langgraph-gcs operations list` shows all."
        )
    if seen.state == "claimed" and (yield from is_in_progress(seen)):
        raise in_progress(seen)
    made = None
    if seen.state in ("claimed", "unknown"):
        made = yield from settle(seen, outcome, context)
        if made is None:
            seen = (yield from read(thread_id, key, context)) or seen
    if made is None:
        raise ConflictError(
            f"Operation {key!r} ({seen.name}) of {_whose(thread_id)} is {seen.state!r} now, so nothing was changed. "
            "Only an operation with an unknown outcome can be resolved."
        )
    return made


def unresolved(thread_id: str | None, context: Context) -> Flow[list[Operation]]:
    """The operations whose outcome is unknown, those with a lost claim included.

    Raises:
        DamageError: One of them is damaged.
    """
    found: list[Operation] = []

    def note(_: Doc, operation: Operation) -> Flow[None]:
        if operation.state == "unknown" or not (yield from is_in_progress(operation)):
            found.append(operation)

    for state in ("unknown", "claimed"):
        yield from _visit(thread_id, (("state", state),), note, context)
    return sorted(found, key=lambda one: one.attempt.claimed or 0)


def _visit(
    thread_id: str | None,
    where: tuple[tuple[str, str], ...],
    visit: Callable[[Doc, Operation], Flow[None]],
    context: Context,
) -> Flow[None]:
    """Visit a thread's operations whose fields have some values, or all; page by page, because results may be large.

    Raises:
        DamageError: One of them is damaged.
    """
    after = None
    while docs := (yield from QueryDocs(keys.operations(thread_id), where=where, after=after, limit=DOCS_PER_PAGE)):
        for doc in docs:
            yield from visit(doc, (yield from _parsed(doc, context)))
        after = docs[-1].name


def of_saga(saga: Saga, context: Context, *, by_query: bool = True) -> Flow[list[Operation]]:
    """The steps of a saga and their undos.

    Args:
        saga: The saga.
        context: Options and caches.
        by_query: Whether to query for them. Otherwise, all operations of the thread are read, because a query misses a
            step whose field for queries is corrupt.

    Raises:
        DamageError: One of the operations that were read is damaged.
    """
    found: list[Operation] = []

    def note(_: Doc, operation: Operation) -> Flow[None]:
        if operation.step is not None and operation.step.saga == saga.saga_id:
            found.append(operation)
        yield from ()

    yield from _visit(saga.thread_id, ((SAGA, saga.segment),) if by_query else (), note, context)
    return found


def delete(saga: Saga, context: Context) -> Flow[None]:
    """Delete the steps of a saga and their undos, with their objects."""
    found = Kept({}, set())
    for operation in (yield from of_saga(saga, context)):
        stubs = [stub_in(operation, field, context.codec) for field in operation.values]
        blobs = {keys.operation_blob(operation.document, one.attempt) for one in stubs if isinstance(one, Stub)}
        found.expired[operation.document] = operation.time, blobs
    yield from expire(found)


def listed(thread_id: str | None, context: Context, *, only_unresolved: bool = False) -> Flow[list[OperationInfo]]:
    """The operations of a thread, or those that all threads share, in the order of their last claims.

    Raises:
        DamageError: One of them is damaged.
    """
    found: dict[str, tuple[int, OperationInfo]] = {}
    for operation in (yield from unresolved(thread_id, context)):
        found[operation.document] = operation.attempt.claimed or 0, info(operation, is_lost=True)

    def note(doc: Doc, operation: Operation) -> Flow[None]:
        found.setdefault(doc.name, (operation.attempt.claimed or 0, info(operation)))
        yield from ()

    if not only_unresolved:
        yield from _visit(thread_id, (), note, context)
    return [one for _, (_, one) in sorted(found.items(), key=lambda item: (item[1][0], item[0]))]


def info(operation: Operation, *, is_lost: bool = False) -> OperationInfo:
    """What people see of an operation."""
    return OperationInfo(
        thread_id=operation.thread_id,
        key=operation.key,
        name=operation.name,
        state="unknown" if is_lost else operation.state,
        attempts=operation.attempt.number,
        late=len(operation.late),
        changed=operation.time,
    )


@record(frozen=True, slots=True)
class Kept:
    """The operations of a thread, as `collect` sees them.

    Attributes:
        expired: Those whose outcome need not be kept any longer: their update times and their objects, by document.
        objects: The objects of all others.
    """

    expired: dict[str, tuple[int, set[str]]]
    objects: set[str]


def kept(thread_id: str | None, cutoff: float, context: Context) -> Flow[Kept]:
    """Find the operations whose outcome need not be kept any longer.

    Only operations that are `done` or `failed` expire. The others still have to be settled. A step of a saga expires
    with the saga.

    Args:
        thread_id: The thread; `None` for the operations that all threads share.
        cutoff: Nanoseconds since the epoch.
        context: Options and caches.

    Raises:
        DamageError: One of them is damaged.
    """
    found = Kept({}, set())

    def note(doc: Doc, operation: Operation) -> Flow[None]:
        try:
            needed = set((yield from Compute(partial(objects, doc, context.codec))))
        except DamagedError as damage:
            raise damaged(doc.name, damage) from None
        if operation.state in ENDED and operation.step is None and operation.has_expired(cutoff):
            found.expired[doc.name] = operation.time, needed
        else:
            found.objects.update(needed)

    yield from _visit(thread_id, (), note, context)
    return found


def expire(found: Kept) -> Flow[None]:
    """Delete operations that have expired, with their objects. One that has changed since stays."""
    for name, (time, blobs) in found.expired.items():
        # It may have changed since: a late outcome is kept for as long as its operation.
        if (yield from Commit((Delete(name, update_time=time),))) is not None:
            names = sorted(blobs)
            for at in range(0, len(names), limits.BATCH_CALLS):
                yield from DeleteBlobs(tuple(names[at : at + limits.BATCH_CALLS]))
