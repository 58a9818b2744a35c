"""Workers that perform one operation once, beside a thief of their lease, a person, an expiry and a deletion.

The flows are the real ones. Ghosts remember what no document says: which attempts have begun and are not settled, how
often the operation took effect, and which result was given. They are a document that no flow reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

from langgraph_gcs_saver.engine.effects import Commit, Create, Doc, Flow, GetDocs, Merge
from langgraph_gcs_saver.errors import (
    ConflictError,
    InvalidInputError,
    OperationFencedError,
    OperationInProgressError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.flows import operations
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.operations import Claim, Outcome
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import ENDED, Operation, parse

from .ghosts import Haunted, let_time_pass, outside
from .world import CODEC, THREAD, Call, Process, Run, World, delete

KEY = "order-17"
OPERATION = keys.operation_doc(THREAD, KEY)
FENCE = keys.fence_doc(THREAD)


class Watched(Haunted):
    """A world with one operation."""

    AT_FIRST: ClassVar[dict[str, Any]] = {
        "open": [],
        "effects": [],
        "given": None,
        "allowed": [],
        "over": False,
        "bad": "",
    }

    def happens(self, ghosts: dict[str, Any], kind: str, what: str) -> dict[str, Any]:
        return ghosts if ghosts["over"] else _OUTSIDE[kind](self, ghosts, what)

    def judge(self, after: Watched, ghosts: dict[str, Any]) -> dict[str, Any]:
        return _judge(self, after, ghosts)

    @cached_property
    def operation(self) -> Operation | None:
        doc = self.doc(OPERATION)
        return None if doc is None else parse(doc, CODEC)


def _judge(before: Watched, after: Watched, ghosts: dict[str, Any]) -> dict[str, Any]:
    was, now = before.operation, after.operation
    open_, bad = set(ghosts["open"]), ghosts["bad"]
    if was == now:
        return ghosts
    if now is not None and now.state == "claimed" and (was is None or was.attempt.number != now.attempt.number):
        nonce, holder = now.attempt.nonce, now.attempt.holder
        if holder is not None and not holder.holds(before.doc(FENCE)):
            bad = bad or f"I7: {nonce}, which is fenced, starts"
        may = nonce[0].isupper() or (was is not None and was.state == "not-done")
        if open_ and not may:
            bad = (
                bad or f"I8: {nonce} starts while the outcome of {sorted(open_)} is unknown, and no caller allowed that"
            )
        ghosts = ghosts | {"allowed": sorted({*ghosts["allowed"], *([nonce] if may else [])})}
        open_.add(nonce)
    if was is not None and was.state == "claimed" and now is not None and now.state == "unknown" and not now.attempt.by:
        holder = was.attempt.holder
        if now.attempt.nonce == was.attempt.nonce and holder is not None and holder.holds(before.doc(FENCE)):
            bad = bad or "liveness: a claim of the lease's holder was taken for lost"
    if (
        was is not None
        and was.state in ENDED
        and now is not None
        and (now.state, now.result) != (was.state, was.result)
    ):
        bad = bad or "stable: a recorded outcome was replaced"
    if was is not None and now is None:
        thread = after.doc(keys.thread_doc(THREAD))
        # It has expired, or the thread is being deleted: then all is forgotten.
        over = was.state in ENDED or thread is None or "deleting" in thread.fields
        ghosts = ghosts | {"over": ghosts["over"] or over}
        open_.discard(was.attempt.nonce)
        if over:
            open_.clear()
        elif open_:
            bad = bad or f"open: the operation was deleted while the outcome of {sorted(open_)} is unknown"
    if now is not None and now.attempt.by:
        # The outcome is on record; a person answers for all attempts that were seen.
        is_own = now.attempt.by == now.attempt.nonce
        open_ = open_ - {now.attempt.nonce} if is_own else set()
    if now is not None:
        open_ -= {one.nonce for one in now.late}
        if was is not None and now.attempt.number < was.attempt.number:
            open_.discard(was.attempt.nonce)  # It was withdrawn.
    return ghosts | {"open": sorted(open_), "bad": bad}


def _took_effect(_: Watched, ghosts: dict[str, Any], what: str) -> dict[str, Any]:
    effects = sorted({*ghosts["effects"], what})
    others = [one for one in effects if one.split()[0] not in ghosts["allowed"]]
    bad = ghosts["bad"] or (f"I8: it took effect by {others}, and no caller allowed that" if len(others) > 1 else "")
    return ghosts | {"effects": effects, "bad": bad}


def _given(_: Watched, ghosts: dict[str, Any], result: str) -> dict[str, Any]:
    bad = ghosts["bad"]
    if ghosts["given"] not in (None, result):
        bad = bad or f"stable: {result} is given, and {ghosts['given']} was given before"
    return ghosts | {"given": result, "bad": bad}


def _told(world: Watched, ghosts: dict[str, Any], nonce: str) -> dict[str, Any]:
    now = world.operation
    if now is None or nonce not in [one.split()[0] for one in ghosts["effects"]]:
        return ghosts  # It has expired, or was deleted.
    if now.attempt.by == nonce or any(one.nonce == nonce for one in now.late):
        return ghosts
    return ghosts | {"bad": ghosts["bad"] or f"told: {nonce} took effect, its process lives, and nothing says so"}


_OUTSIDE: dict[str, Callable[[Watched, dict[str, Any], str], dict[str, Any]]] = {
    "effect": _took_effect,
    "given": _given,
    "told": _told,
}


# What processes do

NONCE: Callable[[Context, Fence | None], str] = lambda context, _: context.new_attempt()  # noqa: E731 - tests set it


def once(context: Context, fence: Fence | None, *, repeats: bool = False, sends: bool = True) -> Flow[str]:
    """One call; the nonce of one that may repeat an operation begins with a capital letter."""
    nonce = NONCE(context, fence)
    call = operations.Call(
        THREAD,
        KEY,
        "charge",
        "request",
        nonce.upper() if repeats else nonce,
        fence=fence,
        keep=0.0,
    )
    try:
        found = yield from operations.claim(call, context)
        if repeats and isinstance(found, Operation) and found.state == "unknown":
            found = yield from operations.claim(call, context, over=found)
    except OperationInProgressError:
        return "in progress"
    except OperationFencedError:
        return "fenced"
    if isinstance(found, Operation):
        if found.state in ENDED:
            yield from _give(found, context)
        return found.state
    if not sends:
        yield from operations.withdraw(found, context)
        return "not sent"
    yield from outside("effect", f"{call.nonce} {context.new_attempt()[0]}")
    return (yield from _record(found, call.nonce, context))


def _record(found: Claim, nonce: str, context: Context) -> Flow[str]:
    outcome = Outcome("done", Serialized("text", nonce.encode()))
    ended = yield from operations.record_outcome(found, outcome, context)
    yield from outside("told", nonce)
    if ended is not None and ended.state in ENDED:
        yield from _give(ended, context)
    return "ran"


def _give(ended: Operation, context: Context) -> Flow[None]:
    result = yield from operations.read_result(ended, context)
    if result is not None:
        yield from outside("given", result.data.decode())


def _fence(doc: Doc) -> Fence:
    return Fence(THREAD, doc.fields["token"], doc.fields["nonce"], doc.update_time, 60.0)


def worker(**options: Any) -> Call:
    """A call of the process that holds the lease when the scenario begins."""

    def start(context: Context) -> Flow[str]:
        doc = (yield from GetDocs((FENCE,))).get(FENCE)
        if doc is None or doc.fields["token"] != 1:
            return "fenced"
        return (yield from once(context, _fence(doc), **options))

    return Call("once", start)


def thief(**options: Any) -> Call:
    """Take the lease, and come to the same operation."""

    def start(context: Context) -> Flow[str]:
        while True:
            doc = (yield from GetDocs((FENCE,)))[FENCE]
            fields = {"token": doc.fields["token"] + 1, "nonce": context.new_attempt()}
            times = yield from Commit((Merge(FENCE, fields, update_time=doc.update_time),))
            if times is not None:
                fence = Fence(THREAD, fields["token"], fields["nonce"], times[0], 60.0)
                return (yield from once(context, fence, **options))

    return Call("once", start)


def unleased(**options: Any) -> Call:
    return Call("once", lambda context: once(context, None, **options))


def person(*, done: bool) -> Call:
    """A person settles the operation, if its outcome is unknown."""

    def start(context: Context) -> Flow[str]:
        outcome = Outcome("done", Serialized("text", b"person")) if done else None
        try:
            return (yield from operations.resolve(THREAD, KEY, outcome, context)).state
        except (ConflictError, InvalidInputError, OperationInProgressError) as error:
            return type(error).__name__

    return Call("resolve", start)


def expiry() -> Call:
    def start(context: Context) -> Flow[None]:
        found = yield from operations.kept(THREAD, float("inf"), context)
        yield from operations.expire(found)

    return Call("expire", start)


# Scenarios

Scenario = tuple[Watched, tuple[Process, ...]]
OPERATING: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], tuple[Process, ...]]) -> Callable[[], Scenario]:
    def scenario() -> Scenario:
        writes = [Create(keys.thread_doc(THREAD), {"thread_id": THREAD})]
        if "deletion" not in make.__name__:
            writes.append(Create(FENCE, {"token": 1, "nonce": "lease1"}))
        _, world = World().perform(Commit(tuple(writes)), 2)
        return Watched(world.table, world.blobs), make()

    OPERATING[make.__name__] = scenario
    return scenario


@_named
def one_worker_whose_answers_are_lost() -> tuple[Process, ...]:
    return (Process("A", (worker(), worker()), lost=2, dies=True),)


@_named
def two_calls_under_one_lease() -> tuple[Process, ...]:
    return Process("A", (worker(),), lost=1, dies=True), Process("B", (worker(repeats=True),), lost=1)


@_named
def two_calls_that_may_not_repeat() -> tuple[Process, ...]:
    return Process("A", (worker(),), lost=1, dies=True), Process("B", (worker(),), lost=1)


@_named
def two_calls_without_a_lease() -> tuple[Process, ...]:
    return Process("A", (unleased(),), lost=1, dies=True), Process("B", (unleased(),), lost=1)


@_named
def a_call_without_a_lease_that_takes_too_long() -> tuple[Process, ...]:
    return (
        Process("A", (unleased(),), lost=1, dies=True),
        Process("B", (unleased(),), lost=1),
        Process("T", (let_time_pass(),)),
    )


@_named
def a_frozen_worker_and_a_thief() -> tuple[Process, ...]:
    return Process("A", (worker(),), lost=1, dies=True), Process("B", (thief(),), lost=1)


@_named
def a_frozen_worker_and_a_thief_that_may_repeat() -> tuple[Process, ...]:
    return Process("A", (worker(),), lost=1, dies=True), Process("B", (thief(repeats=True),), lost=1)


@_named
def a_thief_that_sends_nothing_and_one_that_may_not_repeat() -> tuple[Process, ...]:
    return (
        Process("A", (worker(),), dies=True),
        Process("B", (thief(repeats=True, sends=False),)),
        Process("C", (thief(),)),
    )


@_named
def a_person_who_says_not_done() -> tuple[Process, ...]:
    return (
        Process("A", (worker(),)),
        Process("B", (thief(), thief())),
        Process("P", (person(done=False),)),
    )


@_named
def a_person_who_gives_a_result() -> tuple[Process, ...]:
    return (
        Process("A", (worker(),), dies=True),
        Process("B", (thief(),)),
        Process("P", (person(done=True),), lost=1),
    )


@_named
def a_worker_an_expiry_and_another_call() -> tuple[Process, ...]:
    return Process("A", (worker(),), dies=True), Process("E", (expiry(),)), Process("B", (thief(),))


@_named
def a_call_and_a_deletion_of_the_thread() -> tuple[Process, ...]:
    return Process("A", (unleased(),), lost=1), Process("D", (delete(),))


# What must hold


def check(world: World, runs: tuple[Run, ...]) -> str | None:
    assert isinstance(world, Watched)
    if world.ghosts["bad"]:
        return str(world.ghosts["bad"])
    for run in runs:
        error = run.node.error
        # Without an answer, a call ends; about an existing operation, with an error that has this one as its cause.
        if error is not None and not isinstance(error.__cause__ or error, StoreUnavailableError):
            return f"{run.process.name} raised {type(error).__name__}: {error}"
    return None


def check_end(world: World, _: tuple[Run, ...]) -> str | None:
    below = f"{keys.thread_doc(THREAD)}/"
    left = [name for name in world.docs if name.startswith(below)]
    if left and world.doc(keys.thread_doc(THREAD)) is None:
        return f"left: {left} are below a thread that was deleted"
    return None
