"""Sagas: steps that are all done, or all undone, or whose rollback is stuck and says why.

A step is an operation. Its claim also records how to undo it. A rollback undoes the steps from the last to the first,
and each undo is an operation too. Processes that run the saga, roll it back, or resume a rollback can meet, freeze and
crash anywhere. These rules keep them apart:

1. *Claims demand.* The claim of a step requires the saga's document, running, as the process has seen it. A lease does
   not replace this, because nothing forces a process to hold one.
2. *Undo with the claim.* The claim records the undo. Afterwards would be too late for a process that crashes between.
3. *Mark first.* A rollback first sets the saga to `compensating`, and lists the steps after that. So no step is missed.
4. *Stop at unknown.* A step whose outcome is unknown stops the rollback before anything is undone.
5. *Newest first.* Steps are undone from the last to the first.
6. *Undo once.* The outcome of an undo, and the note in its step that it is undone, are one commit.
7. *Undos demand.* The claim of an undo requires the saga's document as this rollback has marked it. So a rollback that
   was frozen undoes nothing of a saga that has continued since.
8. *Epochs.* When a saga continues after a partial rollback, its epoch is greater. A process that opened an older epoch
   can neither claim a step nor begin a rollback.

Every commit requires the saga's document as last seen. The savepoints are part of it, and a step knows how many there
were at its claim. So which steps a partial rollback undoes depends on no clock.

A saga is deleted with its thread, or by `collect`, some time after its end. Its steps and its holds stay until then.

`tests/races/test_sagas.py` tries every order of steps, and removes each rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, Flow, GetDocs, Merge, Now, QueryDocs, Write
from langgraph_gcs_saver.engine.steps import together
from langgraph_gcs_saver.errors import ConflictError, InvalidInputError
from langgraph_gcs_saver.flows import operations
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.holds import hold, unhold
from langgraph_gcs_saver.flows.ids import thread_ids_of
from langgraph_gcs_saver.flows.operations import Call, Claim, Part, parsed_saga, rolled_back
from langgraph_gcs_saver.flows.threads import guard, note_thread
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.format.operations import Operation, Step
from langgraph_gcs_saver.format.sagas import Saga, Savepoint, State, fields_of, note, noted
from langgraph_gcs_saver.results import SagaInfo, SagaStep, at_time

KEEP_SECONDS = operations.KEEP_SECONDS
"""Seconds for which a saga is kept after its end, with its steps and savepoints."""

DOCS_PER_PAGE = 100
"""How many sagas are read at once."""

ROLLBACKS_PER_PAGE = 25
"""How many rollbacks of all threads are read at once, each with the steps of its saga."""

MAX_SAVEPOINTS = 100
"""Most savepoints of a saga. Each change of the saga writes all of them, in one document."""

_UNSETTLED = ("claimed", "unknown")
"""States of an operation that may or may not have taken effect."""


# Keys


def step_key(saga_id: str, name: str) -> str:
    """The key of a step's operation, unless the caller has one of its own."""
    return f"saga {keys.enc(saga_id)} {keys.enc(name)}"


def undo_key(step: Operation) -> str:
    """The key of the operation that undoes a step, as it was claimed in its epoch."""
    of = _step_of(step)
    return f"undo {of.epoch} {keys.enc(of.saga)} {keys.enc(of.name)}"


def provider_key(operation: Operation) -> str:
    """The idempotency key for the provider of a step, or of an undo.

    A step that is claimed again after its undo is another request, although it has the same operation.
    """
    epoch = 0 if operation.step is None or operation.step.undoes is not None else operation.step.epoch
    return operation.key if epoch == 0 else f"{operation.key} {epoch}"


def _step_of(operation: Operation) -> Step:
    if operation.step is None:
        raise ValueError(f"operation {operation.document} is not a step")
    return operation.step


# Opening and changing


def read(thread_id: str, saga_id: str, context: Context) -> Flow[Saga | None]:
    """A saga as it is stored; `None` if there is none, or its deletion has begun.

    Raises:
        DamageError: Its document is damaged.
    """
    return (yield from _read(thread_id, keys.saga_doc(thread_id, saga_id), context))


def _read(thread_id: str, name: str, context: Context) -> Flow[Saga | None]:
    doc = (yield from GetDocs((name,))).get(name)
    found = None if doc is None else replace((yield from parsed_saga(doc, context)), thread_id=thread_id)
    return None if found is None or found.is_forgotten else found


def open_(
    thread_id: str,
    saga_id: str,
    nonce: str,
    context: Context,
    *,
    keep: float = KEEP_SECONDS,
    fence: Fence | None = None,
) -> Flow[Saga]:
    """Create a saga, or read it as it is now.

    Args:
        thread_id: The thread.
        saga_id: The saga.
        nonce: Digits that only this call has.
        context: Options and caches.
        keep: Seconds for which a new saga is kept after its end.
        fence: The lease under which it is created, if any.

    Raises:
        ConflictError: The thread's document changed in every try.
        DamageError: The saga's document is damaged.
        FencedError: The lease is lost.
    """
    name = keys.saga_doc(thread_id, saga_id)
    for _ in range(MAX_TRIES):
        thread = yield from guard(thread_id, context, beside=(name,), fence=fence)
        doc = thread.beside.get(name)
        if doc is not None:
            found = replace((yield from parsed_saga(doc, context)), thread_id=thread_id)
            if not found.is_forgotten:
                return found
            yield from forget(found, context)
            continue
        made = Saga(name, thread_id, saga_id, "running", 0, keep, nonce)
        note = note_thread(thread_id, (yield from Now()), has_root=False)
        check = () if fence is None else (fence.check(),)
        fields = fields_of(made, context.codec)
        times = yield from Commit((Create(name, fields), thread.write(note), *check))
        if times is not None:
            # So the claim of the first step need not read the thread's document again.
            context.guards.put(thread.name, times[1], len(thread.name))
            return replace(made, time=times[0])
    raise _kept_changing(thread_id, saga_id, "opened")


def _kept_changing(thread_id: str, saga_id: str, what: str) -> ConflictError:
    return ConflictError(
        f"Saga {saga_id!r} of thread {thread_id!r} was not {what}: other writers changed it or its thread {MAX_TRIES} "
        "times in a row. Call again."
    )


def changes(seen: Saga, now: Saga, context: Context) -> Merge:
    """The write that changes a saga, if it is as last seen."""
    return Merge(seen.document, fields_of(now, context.codec), update_time=seen.time)


def _store(seen: Saga, now: Saga, context: Context, beside: tuple[Write, ...] = ()) -> Flow[Saga | None]:
    """Store a saga as last seen; `None` after a conflict."""
    change = changes(seen, now, context)
    is_noted = seen.state != now.state and (seen.is_rolling_back or now.is_rolling_back)
    also = (note(seen.document, change.fields),) if is_noted else ()
    times = yield from Commit((change, *also, *beside))
    return None if times is None else replace(now, time=times[0])


def _again(opened: Saga, what: str, context: Context) -> Flow[Saga]:
    """Read a saga after a conflict.

    Raises:
        SagaRolledBack: It is of another epoch, or gone.
    """
    now = yield from _read(opened.thread_id, opened.document, context)
    if now is None or now.epoch != opened.epoch:
        raise rolled_back(opened, now, f"Saga {opened.saga_id!r} of thread {opened.thread_id!r} was not {what}")
    return now


def savepoint(saga: Saga, name: str, checkpoint_id: str | None, context: Context) -> Flow[Saga]:
    """Add a savepoint, and hold its checkpoint. A savepoint that exists stays as it is.

    Args:
        saga: The saga as last seen.
        name: The savepoint.
        checkpoint_id: A checkpoint of the root namespace; `None` if the thread has none.
        context: Options and caches.

    Raises:
        ConflictError: The saga, or the checkpoint, changed in every try.
        InvalidInputError: There is no such checkpoint, or the saga has `MAX_SAVEPOINTS`.
        SagaError: The saga is done.
        SagaRolledBack: It was rolled back since this process opened it.
    """
    seen, what = saga, f"Savepoint {name!r} of saga {saga.saga_id!r} of thread {saga.thread_id!r} was not added"
    for _ in range(MAX_TRIES):
        if seen.state == "done" and name not in seen.names:
            raise errors.SagaError(f"{what}, because the saga is done.", **_about(seen))
        if seen.state not in ("running", "done"):
            raise rolled_back(saga, seen, what)
        if name in seen.names:
            return seen
        if len(seen.savepoints) >= MAX_SAVEPOINTS:
            raise InvalidInputError(
                f"{what}, because a saga has at most {MAX_SAVEPOINTS} savepoints. Roll back to one of these, or use "
                "another saga."
            )
        now = replace(seen, savepoints=(*seen.savepoints, Savepoint(name, checkpoint_id)))
        if checkpoint_id is None:
            made = yield from _store(seen, now, context)
            if made is not None:
                return made
        else:
            key = Hold("savepoint", saga.saga_id, name).key
            try:
                is_there = yield from hold(
                    saga.thread_id, checkpoint_id, key, context, beside=(changes(seen, now, context),)
                )
            except ConflictError:
                is_there = True
            if not is_there:
                raise InvalidInputError(
                    f"{what}, because the thread has no checkpoint {checkpoint_id!r}. `langgraph-gcs history` lists "
                    "its checkpoints."
                )
        seen = yield from _again(saga, f"given savepoint {name!r}", context)
    raise _kept_changing(saga.thread_id, saga.saga_id, f"given savepoint {name!r}")


def _about(saga: Saga) -> dict[str, str]:
    return {"thread_id": saga.thread_id, "saga_id": saga.saga_id}


def finish(saga: Saga, context: Context) -> Flow[Saga]:
    """Set a saga to `done`. It can still be rolled back, and its savepoints stay, until it expires.

    A step that another process claims at the same time is not waited for. Its outcome is recorded, and a rollback finds
    it.

    Args:
        saga: The saga as last seen.
        context: Options and caches.

    Raises:
        ConflictError: The saga changed in every try.
        SagaRolledBack: It was rolled back since this process opened it.
        SagaStuckError: A step has not ended, or its outcome is unknown.
    """
    seen = saga
    for _ in range(MAX_TRIES):
        if seen.state == "done":
            return seen
        if seen.state != "running":
            raise rolled_back(saga, seen, f"Saga {saga.saga_id!r} of thread {saga.thread_id!r} was not finished")
        found = yield from steps(seen, context)
        waiting = [one for one in found if one.state in (*_UNSETTLED, "paused") and not _step_of(one).undone]
        if waiting:
            raise _stuck(seen, waiting, "is not done, because these steps have not ended", "finish")
        made = yield from _store(seen, replace(seen, state="done", by=context.new_attempt()), context)
        if made is not None:
            return made
        seen = yield from _again(saga, "finished", context)
    raise _kept_changing(saga.thread_id, saga.saga_id, "finished")


def _stuck(saga: Saga, stopping: Sequence[Operation], why: str, then: str) -> errors.SagaStuckError:
    names = tuple([_step_of(one).name for one in stopping])
    return errors.SagaStuckError(
        f"Saga {saga.saga_id!r} of thread {saga.thread_id!r} {why}: {', '.join(map(repr, names))}. Find out what "
        f"happened, call `resolve` for each, and then `{then}`.",
        **_about(saga),
        steps=names,
    )


# Rolling back


def mark(saga: Saga, by: str, target: str | None, fence: Fence | None, context: Context) -> Flow[Saga]:
    """Begin a rollback, or take over one that has begun. After this, no step of the saga can be claimed.

    Args:
        saga: The saga as last seen.
        by: Digits that only this call has.
        target: The savepoint to which it is rolled back; `None` for the beginning. To resume, pass the saga's own.
        fence: The lease that the caller holds, if any.
        context: Options and caches.

    Returns:
        The saga, `compensating` by this call. Or as it is, if nothing is left to undo: `compensated`.

    Raises:
        ConflictError: The saga changed in every try.
        FencedError: The lease is lost.
        InvalidInputError: The saga has no such savepoint, or it is already rolled back to an earlier one.
        SagaRolledBack: It was rolled back, and has continued, since this process opened it.
    """
    seen = saga
    for attempt in range(MAX_TRIES):
        if seen.by == by and seen.state == "compensating":
            return seen
        at = _position(seen, target)
        begun = seen.state in ("compensating", "compensated", "stuck")
        if begun and at > seen.position(seen.target):
            raise InvalidInputError(
                f"Saga {seen.saga_id!r} of thread {seen.thread_id!r} is rolled back to "
                f"{'its beginning' if seen.target is None else repr(seen.target)} already, which is before {target!r}. "
                "Call `resume` to complete that."
            )
        if seen.state == "compensated" and seen.target == target:
            left = to_undo(seen, (yield from steps(seen, context)))
            if not left:
                return seen
        if fence is not None and attempt:
            fence.require((yield from GetDocs((fence.name,))).get(fence.name))
        check = () if fence is None else (fence.check(),)
        now = replace(seen, state="compensating", by=by, target=target)
        made = yield from _store(seen, now, context, check)
        if made is not None:
            return made
        seen = yield from _again(saga, "rolled back", context)
    raise _kept_changing(saga.thread_id, saga.saga_id, "rolled back")


def _position(saga: Saga, target: str | None) -> int:
    if target is not None and target not in saga.names:
        known = ", ".join(map(repr, saga.names)) or "none"
        raise InvalidInputError(
            f"Saga {saga.saga_id!r} of thread {saga.thread_id!r} has no savepoint {target!r}. It has: {known}."
        )
    return saga.position(target)


def steps(saga: Saga, context: Context, *, by_query: bool = True) -> Flow[list[Operation]]:
    """The steps of a saga, in the order of their claims, by the service's times.

    The arguments are those of `operations.of_saga`.

    Raises:
        DamageError: One of the operations that were read is damaged.
    """
    return (yield from _parts(saga, context, by_query=by_query))[0]


def _parts(
    saga: Saga, context: Context, *, by_query: bool = True
) -> Flow[tuple[list[Operation], dict[str, Operation]]]:
    """The steps of a saga in the order of their claims, and the undos of steps by their keys."""
    found = yield from operations.of_saga(saga, context, by_query=by_query)
    undos = {one.key: one for one in found if _step_of(one).undoes is not None}
    own = [one for one in found if one.key not in undos]
    return sorted(own, key=lambda one: (_step_of(one).savepoints, one.attempt.claimed or 0)), undos


def to_undo(saga: Saga, found: Iterable[Operation]) -> list[Operation]:
    """The steps that a rollback has to undo, newest first. See `problem` for those that stop it.

    A failed step is among them: `undoing` has nothing to perform, but later epochs may claim it again.

    Args:
        saga: The saga, with its target.
        found: Its steps, in the order of their claims.
    """
    at = saga.position(saga.target)
    wanted = (*_UNSETTLED, "done", "failed")
    return [
        one
        for one in reversed(list(found))
        if one.state in wanted and not _step_of(one).undone and _step_of(one).savepoints >= at
    ]


def problem(step: Operation) -> str | None:
    """Why a step stops a rollback; `None` if it can be undone, as far as is known."""
    if step.state in _UNSETTLED:
        return "its outcome is unknown"
    if step.state == "done" and _step_of(step).undo is None:
        return "it is irreversible"
    if step.state == "done" and step.result is None:
        return "its result could not be stored, and its undo may need it"
    return None


def undoing(
    saga: Saga,
    step: Operation,
    nonce: str,
    context: Context,
    *,
    fence: Fence | None = None,
) -> Flow[Claim | Operation]:
    """Claim the undo of a step, after which the caller performs it and records its outcome (`operations`).

    The record of the outcome `done` notes in the step that it is undone, in the same commit. A failed step has nothing
    to undo, so this only notes it.

    Args:
        saga: The saga, as `mark` returned it.
        step: The step, `done` or `failed`, as last seen.
        nonce: Digits that only this call has.
        context: Options and caches.
        fence: The lease that the caller holds, if any.

    Returns:
        The claim. Or an operation: the undo that is `done`, `failed` or `unknown`, or the failed step.

    Raises:
        OperationInProgressError: Another call is performing the undo.
        SagaError: Another process has taken over the rollback.
        OperationError: See `operations.claim`.
    """
    if step.state == "failed":
        return (yield from _pass(saga, step, context))
    return (yield from operations.claim(undo_call(saga, step, nonce, fence=fence), context))


def undo_call(saga: Saga, step: Operation, nonce: str, *, fence: Fence | None = None) -> Call:
    """The call that undoes a step. The arguments are those of `undoing`."""
    of = _step_of(step)
    name, version = ("by hand", 0) if of.undo is None else (of.undo.name, of.undo.version)
    return Call(
        saga.thread_id,
        undo_key(step),
        name,
        f"{version} {step.request}",
        nonce,
        fence=fence,
        keep=step.keep,
        part=Part(saga, of.name, undoes=step),
    )


def _pass(saga: Saga, step: Operation, context: Context) -> Flow[Operation]:
    """Note in a failed step that its outcome means nothing to later epochs."""
    seen: Operation | None = step
    for _ in range(MAX_TRIES):
        if seen is None or _step_of(seen).undone:
            return seen or step
        check = Merge(saga.document, {}, update_time=saga.time)
        if (yield from Commit(((yield from operations.undone(seen, context)), check))) is not None:
            return replace(seen, step=replace(_step_of(seen), undone=True))
        yield from _require_own(saga, context)
        seen = yield from operations.read(saga.thread_id, step.key, context)
    raise _kept_changing(saga.thread_id, saga.saga_id, "rolled back")


def _require_own(saga: Saga, context: Context) -> Flow[Saga]:
    """Read a saga that this process rolls back.

    Raises:
        SagaError: Another process has taken over the rollback.
    """
    now = yield from _read(saga.thread_id, saga.document, context)
    if now is None or (now.epoch, now.by) != (saga.epoch, saga.by):
        raise errors.SagaError(
            f"Another process has taken over the rollback of saga {saga.saga_id!r} of thread {saga.thread_id!r}. "
            "Call `resume` to see whether anything is left to do.",
            **_about(saga),
        )
    return now


def compensated(saga: Saga, context: Context) -> Flow[Saga]:
    """Set a saga to `compensated`, because every step up to its target is undone.

    Args:
        saga: The saga, as `mark` returned it.
        context: Options and caches.

    Raises:
        SagaError: Another process has taken over the rollback.
        SagaStuckError: A step is not undone.
    """
    left = to_undo(saga, (yield from steps(saga, context)))
    if left:
        raise _stuck(saga, left, "is not rolled back, because these steps are not undone", "resume")
    return (yield from _end(saga, "compensated", context))


def stuck(saga: Saga, context: Context) -> Flow[Saga]:
    """Set a saga to `stuck`, because its rollback cannot continue. `mark` takes it up again.

    Args:
        saga: The saga, as `mark` returned it.
        context: Options and caches.

    Raises:
        SagaError: Another process has taken over the rollback.
    """
    return (yield from _end(saga, "stuck", context))


def _end(saga: Saga, state: Literal["compensated", "stuck"], context: Context) -> Flow[Saga]:
    wanted: State = state
    for _ in range(MAX_TRIES):
        made = yield from _store(saga, replace(saga, state=wanted), context)
        if made is not None:
            return made
        now = yield from _require_own(saga, context)
        if now.state == state:
            return now
    raise _kept_changing(saga.thread_id, saga.saga_id, f"set to {state!r}")


# Continuing


def continued(saga: Saga) -> Saga:
    """A `compensated` saga as it continues from its target: with a greater epoch, and no later savepoints.

    Raises:
        ValueError: It is not compensated up to a savepoint.
    """
    if saga.state != "compensated" or saga.target is None:
        raise ValueError(f"saga {saga.saga_id!r} does not continue: it is {saga.state!r}")
    savepoints = saga.savepoints[: saga.position(saga.target)]
    return replace(saga, state="running", epoch=saga.epoch + 1, target=None, savepoints=savepoints)


def release(saga: Saga, context: Context) -> Flow[None]:
    """Remove the holds of the savepoints after the target of a `compensated` saga. Call this before it continues."""
    yield from _release(saga, saga.savepoints[saga.position(saga.target) :], context)


def _release(saga: Saga, savepoints: Iterable[Savepoint], context: Context) -> Flow[None]:
    for one in savepoints:
        if one.checkpoint_id is not None:
            key = Hold("savepoint", saga.saga_id, one.name).key
            yield from unhold(saga.thread_id, one.checkpoint_id, key, context)


def resumed(saga: Saga, context: Context) -> Flow[Saga]:
    """Let a saga continue after a partial rollback, if its savepoint has no checkpoint to continue from.

    If it has one, the commit of the fork continues the saga (`release` first, then `changes` with `continued`).

    Args:
        saga: The saga, `compensated` up to a savepoint, as last seen.
        context: Options and caches.

    Raises:
        ConflictError: It is no longer as it was seen.
    """
    yield from release(saga, context)
    now = continued(saga)
    made = yield from _store(saga, now, context)
    if made is None:
        found = yield from _read(saga.thread_id, saga.document, context)
        if found is None or found != replace(now, time=found.time):
            raise ConflictError(
                f"Saga {saga.saga_id!r} of thread {saga.thread_id!r} was not continued, because another process "
                "changed it. Call again."
            )
        made = found
    return made


# Showing


def info(saga: Saga, context: Context) -> Flow[SagaInfo]:
    """What people see of a saga.

    Raises:
        DamageError: A step is damaged.
    """
    found, undos = yield from _parts(saga, context)
    is_back = saga.state in ("compensating", "compensated", "stuck")
    left = {one.key for one in to_undo(saga, found)} if is_back else set()
    return _info_of(saga, [_info(saga, one, undos.get(undo_key(one)), is_left=one.key in left) for one in found])


def plan(saga: Saga, target: str | None, context: Context) -> Flow[SagaInfo]:
    """What a rollback would undo: the saga as it is, with only these steps, newest first, and what stops each of them.

    Args:
        saga: The saga as last seen.
        target: The savepoint; `None` for the beginning.
        context: Options and caches.

    Raises:
        DamageError: An operation of the thread is damaged. The rollback would raise this, too.
        InvalidInputError: The saga has no such savepoint.
    """
    _position(saga, target)
    found, undos = yield from _parts(saga, context, by_query=False)
    left = [one for one in to_undo(replace(saga, target=target), found) if one.state != "failed"]
    return _info_of(saga, [_info(saga, one, undos.get(undo_key(one)), is_left=True) for one in left])


def _info_of(saga: Saga, found: Iterable[SagaStep]) -> SagaInfo:
    return SagaInfo(
        thread_id=saga.thread_id,
        saga_id=saga.saga_id,
        state=saga.state,
        epoch=saga.epoch,
        steps=tuple(found),
        savepoints={one.name: one.checkpoint_id for one in saga.savepoints},
        target=saga.target,
    )


_PROBLEMS = {
    "claimed": "the outcome of its undo is unknown",
    "unknown": "the outcome of its undo is unknown",
    "paused": "its undo raised an exception",
    "failed": "its undo has failed",
}
"""What the state of an undo says about a step that is not undone."""


def _info(saga: Saga, operation: Operation, undo: Operation | None, *, is_left: bool) -> SagaStep:
    step, claimed = _step_of(operation), operation.attempt.claimed
    why = problem(operation) if is_left else None
    if is_left and why is None and undo is not None:
        why = _PROBLEMS.get(undo.state)
    if is_left and why is None and saga.state == "compensated":
        why = "its outcome was recorded after the rollback: roll back again"
    return SagaStep(
        name=step.name,
        key=operation.key,
        # A rollback passes a step that has failed. It took no effect, so there was nothing to undo.
        state="undone" if step.undone and operation.state != "failed" else operation.state,
        undo=None if step.undo is None else (step.undo.name, step.undo.version),
        claimed=None if claimed is None else at_time(claimed),
        epoch=step.epoch,
        problem=why,
    )


def listed(thread_id: str, context: Context) -> Flow[list[SagaInfo]]:
    """The sagas of a thread, in order of their names.

    Raises:
        DamageError: One of them, or a step, is damaged.
    """
    found: list[SagaInfo] = []
    for saga in (yield from every(thread_id, context)):
        if not saga.is_forgotten:
            one = yield from info(saga, context)
            found.append(one)
    return found


def every(thread_id: str, context: Context) -> Flow[list[Saga]]:
    """The sagas of a thread, in order of their names.

    Raises:
        DamageError: One of them is damaged.
    """
    found: list[Saga] = []
    after: str | None = None
    while docs := (yield from QueryDocs(keys.sagas(thread_id), after=after, limit=DOCS_PER_PAGE)):
        for doc in docs:
            one = yield from parsed_saga(doc, context)
            found.append(replace(one, thread_id=thread_id))
        after = docs[-1].name
    return found


def rolling_back(state: str | None, context: Context) -> Pages[SagaInfo]:
    """Pages of the sagas of all threads whose rollback has not ended.

    The notes at the store's root say where to look, and the sagas' documents decide. Each commit that begins or ends a
    rollback changes its note. If a saga cannot be read, the error is raised after all others.

    Args:
        state: Only those in this state; all if `None`.
        context: Options and caches.
    """
    where = () if state is None else (("state", state),)
    after: str | None = None
    is_end = False
    tries = Tries()

    def page() -> Flow[Sequence[SagaInfo] | None]:
        nonlocal after, is_end
        if is_end:
            tries.end()
            return None
        docs = yield from QueryDocs(keys.ROLLBACKS, where, after=after, limit=ROLLBACKS_PER_PAGE)
        after, is_end = (docs[-1].name if docs else None), len(docs) < ROLLBACKS_PER_PAGE
        names = [name for name in map(noted, docs) if name is not None]
        if not names:
            return ()
        threads = yield from thread_ids_of(names)
        of = [(name, threads[keys.thread_segment_of(name)]) for name in names]
        found = yield from together(*(tries.of(_rolling_back(*one, state, context), one[1]) for one in of))
        return [one for one in found if one is not None]

    return page


def _rolling_back(name: str, thread_id: str, state: str | None, context: Context) -> Flow[SagaInfo | None]:
    saga = yield from _read(thread_id, name, context)
    if saga is None or not saga.is_rolling_back or state not in (None, saga.state):
        return None
    return (yield from info(saga, context))


# Deleting


def expired(thread_id: str, cutoff: float, context: Context) -> Flow[list[Saga]]:
    """The sagas of a thread that have ended, and need not be kept any longer.

    Args:
        thread_id: The thread.
        cutoff: Nanoseconds since the epoch.
        context: Options and caches.

    Raises:
        DamageError: One of them, or a step, is damaged.
    """
    found = []
    for saga in (yield from every(thread_id, context)):
        if saga.is_forgotten:
            found.append(saga)
        elif saga.has_ended and saga.time + saga.keep * 1e9 <= cutoff:
            parts = yield from operations.of_saga(saga, context)
            if not any(one.state in (*_UNSETTLED, "paused") for one in parts):
                found.append(saga)
    return found


def forget(saga: Saga, context: Context) -> Flow[None]:
    """Delete a saga that has expired, if it is as last seen, with its steps and its holds.

    The saga's document says so first, and goes last. So a deletion that was cut off is repeated, and no rollback begins
    when some steps are gone.
    """
    if not saga.is_forgotten:
        marked = yield from _store(saga, replace(saga, is_forgotten=True), context)
        if marked is None:
            return
        saga = marked
    yield from _release(saga, saga.savepoints, context)
    yield from operations.delete(saga, context)
    yield from Commit((Delete(saga.document, update_time=saga.time),))
