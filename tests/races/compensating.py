"""Processes that run a saga, roll it back, resume a rollback, let the saga continue, and remove it when it has expired.

The flows are the real ones. Ghosts count how often each step was booked and undone outside of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from langgraph_gcs_saver.engine.effects import Commit, Create, Flow
from langgraph_gcs_saver.errors import (
    ConflictError,
    InvalidInputError,
    OperationInProgressError,
    OutcomeUnknownError,
    SagaError,
    SagaStuckError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.flows import operations, rollbacks, sagas
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.once import Performed, Settled
from langgraph_gcs_saver.flows.operations import Outcome, Part
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import Operation, Undo
from langgraph_gcs_saver.format.operations import parse as parse_operation
from langgraph_gcs_saver.format.sagas import Saga, fields_of, parse

from .ghosts import Haunted, outside
from .world import CODEC, THREAD, Call, Process, Run, World

SAGA = "trip"
DOCUMENT = keys.saga_doc(THREAD, SAGA)
POINT = "halfway"
"""A savepoint between the first step and the second."""

STEPS = ("1", "2")
UNDO = Undo("cancel", 1, Serialized("text", b"request"))


class Booked(Haunted):
    """A world in which each step is booked and undone."""

    AT_FIRST: ClassVar[dict[str, Any]] = {
        "booked": {one: [] for one in STEPS},
        "undone": {one: [] for one in STEPS},
        "over": False,
        "bad": "",
    }

    def happens(self, ghosts: dict[str, Any], kind: str, what: str) -> dict[str, Any]:
        if kind == "bad":
            return ghosts | {"bad": ghosts["bad"] or what}
        step, nonce, *opened = what.split(" ")
        there = ghosts[kind][step]
        if nonce in there:
            return ghosts  # The request was sent twice, with one key.
        ghosts = ghosts | {kind: ghosts[kind] | {step: sorted([*there, nonce])}}
        return ghosts | {"bad": ghosts["bad"] or self._wrong(ghosts, kind, step, *opened)}

    def _wrong(self, ghosts: dict[str, Any], kind: str, step: str, *opened: str) -> str:
        net = {one: len(ghosts["booked"][one]) - len(ghosts["undone"][one]) for one in STEPS}
        if kind == "booked":
            claimed = self.operations.get(sagas.step_key(SAGA, step))
            of = None if claimed is None else claimed.step
            if of is not None and of.epoch > int(opened[0]):
                return f"epochs: step {step} is booked by a process of epoch {opened[0]}, in epoch {of.epoch}"
            return "" if net[step] == 1 else f"step {step} is booked twice"
        if net[step] < 0:
            return f"step {step} is undone twice"
        later = [one for one in STEPS if one > step and net[one] > 0]
        return f"step {step} is undone before the later step {later[0]}" if later else ""

    def judge(self, after: Booked, ghosts: dict[str, Any]) -> dict[str, Any]:
        was, now = self.saga, after.saga
        if now is not None and now.is_forgotten and was is not None and was.state == "done":
            ghosts = ghosts | {"over": True}  # Nothing is known any more, as it should be.
        if was is None or now is None or now.epoch == was.epoch:
            return ghosts
        # A saga continues from its savepoint, so the first step must be there, and the second must not.
        net = [len(ghosts["booked"][one]) - len(ghosts["undone"][one]) for one in STEPS]
        bad = "" if net == [1, 0] else f"it continues from the savepoint, and the world has {net}"
        return ghosts | {"bad": ghosts["bad"] or bad}

    @property
    def saga(self) -> Saga | None:
        doc = self.doc(DOCUMENT)
        return None if doc is None else parse(doc, CODEC)

    @property
    def operations(self) -> dict[str, Operation]:
        """The steps and undos, by key."""
        below = f"{keys.operations(THREAD)}/"
        found = [parse_operation(one.doc, CODEC) for name, one in self.docs.items() if name.startswith(below)]
        return {one.key: one for one in found}


# What processes do


def run(steps: Iterable[str] = STEPS, *, point: bool = False, ends: bool = False, fails: str = "") -> Call:
    """A process that runs the saga.

    Args:
        steps: Its steps.
        point: Whether there is a savepoint after the first one.
        ends: Whether it finishes the saga.
        fails: A step that fails: with an answer, and without any effect.
    """

    def start(context: Context) -> Flow[str]:
        saga = yield from sagas.open_(THREAD, SAGA, context.new_attempt(), context)
        return (yield from _run(saga, tuple(steps), context, point=point, ends=ends, fails=fails))

    return Call("run", start)


def _run(
    saga: Saga, steps: tuple[str, ...], context: Context, *, point: bool = False, ends: bool = False, fails: str = ""
) -> Flow[str]:
    if saga.state != "running":
        return saga.state
    try:
        for step in steps:
            if step == "2" and point:
                saga = yield from sagas.savepoint(saga, POINT, None, context)
            if not (yield from _step(saga, step, context, fails=step == fails)):
                return "stopped"
        if ends:
            yield from sagas.finish(saga, context)
    except (SagaError, OperationInProgressError, OutcomeUnknownError) as error:
        return type(error).__name__
    return "ran"


def _step(saga: Saga, step: str, context: Context, *, fails: bool) -> Flow[bool]:
    nonce = context.new_attempt()
    call = operations.Call(
        THREAD, sagas.step_key(SAGA, step), f"book {step}", "request", nonce, part=Part(saga, step, UNDO)
    )
    found = yield from operations.claim(call, context)
    if isinstance(found, Operation):
        return found.state == "done"
    if not fails:
        yield from outside("booked", f"{step} {nonce} {saga.epoch}")
    outcome = Outcome("failed" if fails else "done", Serialized("text", nonce.encode()))
    ended = yield from operations.record_outcome(found, outcome, context)
    return ended is not None and ended.state == "done"


def roll_back(target: str | None = None, *, continues: bool = False, resumes: bool = False) -> Call:
    """A process that rolls the saga back.

    Args:
        target: The savepoint.
        continues: Whether it runs the saga again after that, from the savepoint.
        resumes: Whether it only completes a rollback that has begun.
    """

    def start(context: Context) -> Flow[str]:
        saga = yield from sagas.read(THREAD, SAGA, context)
        if saga is None or (resumes and saga.state in ("running", "done")):
            return "nothing to do"
        try:
            ended = yield from _roll_back(saga, saga.target if resumes else target, context)
            if ended.state == "compensated" and ended.target is not None and continues:
                again = yield from sagas.resumed(ended, context)
                return (yield from _run(again, ("1", "2"), context))
        except (SagaError, OperationInProgressError, InvalidInputError, ConflictError) as error:
            return type(error).__name__
        return ended.state

    return Call("roll back", start)


def _roll_back(saga: Saga, target: str | None, context: Context) -> Flow[Saga]:
    if target is not None and target not in saga.names:
        return saga
    mine = yield from sagas.mark(saga, context.new_attempt(), target, None, context)
    if mine.epoch != saga.epoch:
        yield from outside("bad", f"epochs: a process of epoch {saga.epoch} rolls back epoch {mine.epoch}")
    try:
        return (yield from rollbacks.roll_back(mine, Cancelling(), None, context))
    except SagaStuckError as error:
        if "irreversible" in str(error):
            yield from outside("bad", "a step is done, and nothing says how to undo it")
        raise


class Cancelling:
    """The compensations: a provider of them is never asked about an outcome, and fails never."""

    def require(self, _: Any) -> None: ...

    def settle(self, _: Operation) -> Any:
        yield from ()
        return Settled("unknown")

    def undo(self, call: operations.Call, step: Operation, _: Any) -> Any:
        return Cancel(call, step)

    def pause_after(self, *_: Any) -> None: ...


class Cancel:
    """The undo of a step."""

    def __init__(self, call: operations.Call, step: Operation) -> None:
        self._call, self._step = call, step
        self.ended: tuple[str, int, bool] | None = None

    def clock(self) -> float:
        return 0.0

    def perform(self, _: Operation) -> Any:
        name = "" if self._step.step is None else self._step.step.name
        yield from outside("undone", f"{name} {self._call.nonce}")
        return Performed("done", None, lambda: None)

    def settle(self, _: Operation) -> Any:
        yield from ()
        return Settled("unknown")

    def repeat(self, *_: Any) -> Any:
        yield from ()

    def note(self, state: str, attempt: int, *, is_recorded: bool) -> None:
        self.ended = state, attempt, is_recorded


def expire() -> Call:
    def start(context: Context) -> Flow[None]:
        yield from operations.expire((yield from operations.kept(THREAD, float("inf"), context)))
        for saga in (yield from sagas.expired(THREAD, float("inf"), context)):
            yield from sagas.forget(saga, context)

    return Call("expire", start)


# Scenarios

Scenario = tuple[Booked, tuple[Process, ...]]
SAGAS: dict[str, Callable[[], Scenario]] = {}


def _named(make: Callable[[], tuple[Process, ...]]) -> Callable[[], Scenario]:
    def scenario() -> Scenario:
        return Booked(*_at_first()), make()

    SAGAS[make.__name__] = scenario
    return scenario


def _at_first(**fields: Any) -> tuple[Any, Any]:
    """A running saga without a step."""
    saga = Saga(DOCUMENT, THREAD, SAGA, "running", 0, 0.0, "", **fields)
    thread = Create(keys.thread_doc(THREAD), {"thread_id": THREAD, "active": 0})
    _, world = World().perform(Commit((thread, Create(DOCUMENT, fields_of(saga, CODEC)))), 2)
    return world.table, world.blobs


@_named
def a_run_and_a_rollback_by_another_process() -> tuple[Process, ...]:
    return Process("A", (run(),), lost=1, dies=True), Process("B", (roll_back(),), lost=1, dies=True)


@_named
def a_run_a_rollback_and_its_resumption() -> tuple[Process, ...]:
    return (
        Process("A", (run(),), dies=True),
        Process("B", (roll_back(),), dies=True),
        Process("C", (roll_back(resumes=True),)),
    )


@_named
def a_run_and_two_resumptions_of_a_rollback() -> tuple[Process, ...]:
    return (
        Process("A", (run(("1",)),)),
        Process("B", (roll_back(),)),
        Process("C", (roll_back(resumes=True),), after="A"),
        Process("D", (roll_back(resumes=True),), after="A"),
    )


@_named
def a_rollback_to_a_savepoint_after_which_the_saga_continues() -> tuple[Process, ...]:
    return (
        Process("A", (run(point=True),), lost=1, dies=True),
        Process("B", (roll_back(POINT, continues=True),), dies=True),
    )


@_named
def two_rollbacks_to_a_savepoint_after_which_the_saga_continues() -> tuple[Process, ...]:
    return (
        Process("A", (run(point=True),)),
        Process("B", (roll_back(POINT, continues=True),), dies=True),
        Process("C", (roll_back(POINT, continues=True),)),
    )


@_named
def a_failed_step_that_is_tried_again_after_a_rollback() -> tuple[Process, ...]:
    return (
        Process("A", (run(point=True, fails="2"),), dies=True),
        Process("B", (roll_back(POINT, continues=True),), lost=1, dies=True),
    )


@_named
def a_rollback_to_the_beginning_and_one_to_a_savepoint() -> tuple[Process, ...]:
    return (
        Process("A", (run(point=True),)),
        Process("B", (roll_back(),), dies=True),
        Process("C", (roll_back(POINT, continues=True),)),
    )


@_named
def a_saga_that_is_done_a_rollback_and_an_expiry() -> tuple[Process, ...]:
    return (
        Process("A", (run(("1",), ends=True),)),
        Process("B", (roll_back(),), dies=True, after="A"),
        Process("E", (expire(),), dies=True, after="A"),
    )


@_named
def two_rollbacks_and_an_expiry() -> tuple[Process, ...]:
    return (
        Process("A", (run(("1",)),)),
        Process("B", (roll_back(),), after="A"),
        Process("C", (roll_back(resumes=True),), after="A"),
        Process("E", (expire(),), after="A"),
    )


# What must hold


def check(world: World, runs: tuple[Run, ...]) -> str | None:
    assert isinstance(world, Booked)
    if world.ghosts["bad"]:
        return str(world.ghosts["bad"])
    for run_ in runs:
        error = run_.node.error
        # Without an answer, a call ends; about an existing operation, with an error that has this one as its cause.
        if error is not None and not isinstance(error.__cause__ or error, StoreUnavailableError):
            return f"{run_.process.name} raised {type(error).__name__}: {error}"
    saga, note = world.saga, world.docs.get(keys.rollback_doc(DOCUMENT))
    listed = None if note is None else note.doc.fields["state"]
    if listed != (saga.state if saga is not None and saga.is_rolling_back else None):
        return f"the saga is {'gone' if saga is None else saga.state}, and the list has it as {listed}"
    return None


def check_end(world: World, _: tuple[Run, ...]) -> str | None:
    """What the documents say is what has happened outside of the store."""
    assert isinstance(world, Booked)
    saga, known, ghosts = world.saga, world.operations, world.ghosts
    net = {one: len(ghosts["booked"][one]) - len(ghosts["undone"][one]) for one in STEPS}
    if saga is None or saga.is_forgotten:
        return None if ghosts["over"] or not any(net.values()) else f"it has expired, and the world has {net}"
    for one in STEPS:
        step = known.get(sagas.step_key(SAGA, one))
        undo = None if step is None else known.get(sagas.undo_key(step))
        if step is None or (step.step is not None and step.step.undone) or step.state == "failed":
            said: tuple[int, ...] = (0,)
        elif step.state == "done":
            said = (1,) if undo is None or undo.state == "done" else (0, 1)
        else:
            said = (0, 1)
        if net[one] not in said:
            return f"{saga.state}: the world has step {one} {net[one]} times, and the documents say {said}"
    if saga.state == "compensated" and net["2"] + (net["1"] if saga.target is None else 0):
        return f"compensated, and the world has {net}"
    return None
