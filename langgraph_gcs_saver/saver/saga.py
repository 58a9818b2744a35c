"""`Saga`: steps that are all done, or all undone, or stuck with a list.

`flows.sagas` is the protocol of the documents, and `flows.rollbacks` undoes steps. This module knows the user's
functions, and where the code runs: in a node, which must not fork the thread below its own run, or outside of a graph.

`python -m tests.twins` writes each asynchronous twin below its method.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from langgraph_gcs_saver import errors, flows
from langgraph_gcs_saver.engine.effects import Ask, Emit, Flow
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import (
    FencedError,
    InvalidConfigError,
    InvalidIdError,
    InvalidInputError,
    LeaseMismatchError,
    NotPrimaryError,
    ThreadBusyError,
)
from langgraph_gcs_saver.events import SagaEnded, SagaStuck
from langgraph_gcs_saver.flows.fences import held_by
from langgraph_gcs_saver.flows.operations import Part
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.operations import Undo
from langgraph_gcs_saver.format.sagas import Saga as Stored
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver import compensations, configs, place_in_run
from langgraph_gcs_saver.saver.compensations import Compensation
from langgraph_gcs_saver.saver.lease import Lease
from langgraph_gcs_saver.saver.operations import Calls, Chosen, FunctionWork, Rules, same
from langgraph_gcs_saver.saver.outcomes import NOT_GIVEN, Errors, found_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from types import TracebackType

    from langchain_core.runnables import RunnableConfig
    from typing_extensions import Self

    from langgraph_gcs_saver.engine.effects import Merge
    from langgraph_gcs_saver.flows.context import Context
    from langgraph_gcs_saver.flows.fences import Fence
    from langgraph_gcs_saver.flows.forks import ForkPlan
    from langgraph_gcs_saver.flows.once import Settled
    from langgraph_gcs_saver.flows.operations import Call
    from langgraph_gcs_saver.format.manifest import Serialized
    from langgraph_gcs_saver.format.operations import Operation
    from langgraph_gcs_saver.results import SagaInfo, SagaState
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.lease import Held, Leases
    from langgraph_gcs_saver.saver.operations import Mode
    from langgraph_gcs_saver.saver.place_in_run import PlaceInRun

T = TypeVar("T")

WAIT_SECONDS = 90.0
"""How long a rollback waits for the thread's lease by default: that of a crashed holder expires within it."""

_ACTING: ContextVar[Held | None] = ContextVar("acting", default=None)
"""The lease that a rollback has acquired, while it acts. So an undo can roll back a saga of its own."""


@record(frozen=True, slots=True)
class _Asked:
    """A call of `Saga.once`: its arguments, after they were checked."""

    name: str
    fn: Callable[..., Any]
    request: Any
    undo: Compensation | None
    rules: Rules
    chosen: Chosen


class Saga:
    """Steps that are all done, or all undone, or stuck with a list of what is left to settle.

    You get one from `saver.thread(id).saga(id)`, in a node or anywhere. Making one reads nothing. Each step is an
    operation: it is started at most once, in all processes. Its record says how to undo it.

        with saver.thread("trip").saga("trip-7") as saga:
            saga.once("book-hotel", book_hotel, request={"city": "Oslo"}, undo="cancel-hotel")
            saga.once("pay", pay, request={"cents": 990}, undo="refund")

    The end of the block says that the saga is done. If an exception leaves the block, all steps are undone, the newest
    first. Then the block outside of a graph raises the exception, and the block in a node raises `SagaRolledBack`.

    These leave the saga running, so that the same block continues it later: an interrupt, a drain and all other
    exceptions with which LangGraph ends a run; `KeyboardInterrupt`, `SystemExit` and the cancellation of a task; and
    the loss of the thread's lease. So does a crash.

    If several nodes share a saga, use the object without a block in each of them, and call `finish` in the last one.
    One object serves one caller at a time.

    Attributes:
        id: The saga's id.
        thread_id: The thread.
        serde: The saver's serializer.
        reconcile: What this object was given to find out about the outcomes of steps, by step.
    """

    def __init__(
        self,
        saver: GCSSaver,
        leases: Leases,
        thread_id: str,
        saga_id: str,
        *,
        config: RunnableConfig | None = None,
        wait: float = WAIT_SECONDS,
        owner: str | None = None,
    ) -> None:
        if not isinstance(saga_id, str):
            raise InvalidIdError(f"The saga id is of type {type(saga_id).__name__}; it must be text.")
        keys.saga_doc(thread_id, saga_id)
        self.id = saga_id
        self.thread_id = thread_id
        self._saver = saver
        self.serde = saver.serde
        self._contexts = saver._contexts  # noqa: SLF001 - a saga is a part of the saver
        self._backend = saver._backend  # noqa: SLF001 - as above
        self._leases = leases
        self._config = config
        self._new_lease = partial(Lease, leases, thread_id, ttl=60.0, wait=wait, owner=owner, take_over=False)
        self._new_lease()  # It checks its arguments.
        self._seen: Stored | None = None
        self.reconcile: dict[str, Callable[[str], Any]] = {}
        self._began = time.monotonic()

    def __repr__(self) -> str:
        return f"Saga({self.id!r} of thread {self.thread_id!r})"

    # The block

    def __enter__(self) -> Self:
        run(self._entering(), self._backend)
        return self

    async def __aenter__(self) -> Self:
        await arun(self._entering(), self._backend)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(self._leaving(error), self._backend)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await arun(self._leaving(error), self._backend)

    # Steps

    def once(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        request: Any = None,
        undo: str | None = None,
        irreversible: bool = False,
        mode: Mode = "at_most_once",
        reconcile: Callable[[str], Any] | None = None,
        not_sent: Errors = (),
        errors: Errors = (),
        keep: timedelta | None = None,
        timeout: float | None = None,
        ask: bool = False,
    ) -> Any:
        """Perform a step, unless it has been performed before. Then its recorded result is returned.

        This is `operations.once` with the saga's id and the step's name as the key. The record that the step is about
        to begin also says how to undo it, and is only made while the saga is running.

        Args:
            name: The step; unique in the saga, in at most 200 characters.
            fn: Performs it. It is called without arguments, or with the key, for the provider's idempotency key.
            request: Plain data that identifies what is done. `undo` gets it, as the saver's serializer returns it.
            undo: The name of the `compensation` that undoes the step. The step stores the highest version of it that
                this process knows.
            irreversible: Say that nothing can undo the step. Once it is done, a rollback that would have to undo it is
                stuck before it undoes anything, until you call `resolve`.
            mode: As for `operations.once`.
            reconcile: As for `operations.once`. A rollback by this object uses it too.
            not_sent: As for `operations.once`.
            errors: As for `operations.once`. A step that failed with one of them needs no undo.
            keep: As for `operations.once`. While the saga is open, its steps are kept in any case.
            timeout: As for `operations.once`.
            ask: As for `operations.once`.

        Returns:
            The result of `fn`, or the recorded one.

        Raises:
            CompensationMissingError: This process knows no compensation of that name. Nothing was started.
            InvalidInputError: An argument is invalid, or neither `undo` nor `irreversible=True` is given. Nothing was
                started.
            SagaRolledBack: The saga was rolled back since it was opened, by any process. Nothing was started.
            OperationError: As for `operations.once`.
            OperationFencedError: The process has lost the thread's lease. Nothing was started.
            StoreError: A service rejected a request, or did not answer before the deadline. Nothing was started.
        """
        asked = self._asked(
            name,
            (fn, request),
            (undo, irreversible),
            Rules(not_sent, errors, reconcile, ask, repeats=mode == "at_least_once"),
            ("thread", mode, keep, timeout),
        )
        return run(self._once(asked), self._backend)

    async def aonce(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        request: Any = None,
        undo: str | None = None,
        irreversible: bool = False,
        mode: Mode = "at_most_once",
        reconcile: Callable[[str], Any] | None = None,
        not_sent: Errors = (),
        errors: Errors = (),
        keep: timedelta | None = None,
        timeout: float | None = None,
        ask: bool = False,
    ) -> Any:
        """Asynchronous twin of `once`."""
        asked = self._asked(
            name,
            (fn, request),
            (undo, irreversible),
            Rules(not_sent, errors, reconcile, ask, repeats=mode == "at_least_once"),
            ("thread", mode, keep, timeout),
        )
        return await arun(self._once(asked), self._backend)

    def savepoint(self, name: str) -> None:
        """Hold the thread's newest stored checkpoint, so that a rollback can end here. In a node: the one it began at.

        A savepoint that exists already stays as it is, so a block that runs again moves nothing.

        Args:
            name: The savepoint; unique in the saga, in at most 200 characters.

        Raises:
            InvalidInputError: The saga has 100 savepoints. Or the checkpoint was deleted meanwhile.
            NotDurableError: The checkpoint that ordered the node is not stored.
            SagaRolledBack: The saga was rolled back since it was opened.
        """
        run(self._savepoint(configs.check_name("savepoint", name)), self._backend)

    async def asavepoint(self, name: str) -> None:
        """Asynchronous twin of `savepoint`."""
        await arun(self._savepoint(configs.check_name("savepoint", name)), self._backend)

    def finish(self) -> None:
        """Say that the saga is done, as the end of a block does. Idempotent.

        Raises:
            SagaStuckError: A step has no outcome yet, or an unknown one. Settle it with `resolve`, and call this again.
            SagaRolledBack: The saga was rolled back since it was opened.
        """
        run(self._finish(), self._backend)

    async def afinish(self) -> None:
        """Asynchronous twin of `finish`."""
        await arun(self._finish(), self._backend)

    # Undoing

    def rollback(self, to: str | None = None, *, dry_run: bool = False) -> SagaInfo:
        """Undo the steps, the newest first: all of them, or those that began after a savepoint.

        After a rollback to a savepoint, the saga continues with the steps before it, and undone steps can be performed
        again. Outside of a graph, the thread also continues from the savepoint's checkpoint. A saga that was rolled
        back to its beginning is over, and the thread keeps its state; start another one under another id.

        In a node, this raises `SagaRolledBack` when the steps are undone, because a run cannot change the checkpoint
        that it continues from. If `run` runs the graph, it does that. Otherwise call `resume` after the run.

        Outside of a graph, this needs the thread's lease. It uses the one that this process holds, or acquires one.

        Args:
            to: A savepoint; the beginning if not given.
            dry_run: Change nothing; return only the steps that would be undone, newest first. The `problem` of each
                says what would stop the rollback there, as far as the store knows.

        Returns:
            The saga, as it is now.

        Raises:
            CompensationMissingError: This process knows no compensation that a step names. Nothing was undone. Import
                the module that defines it, and call `resume`.
            ConflictError: Other processes kept changing the saga.
            DamageError: An operation of the thread is damaged, and may be a step. Nothing was undone. Restore or delete
                its document, and call `resume`.
            InvalidInputError: The saga has no such savepoint, or there is no such saga.
            SagaRolledBack: The call is made in a node, and the steps are undone.
            SagaStuckError: A step's outcome is unknown, or its result could not be stored, or it is irreversible, and
                nothing was undone; or the undo of a step fails or has an unknown outcome, and later steps are undone.
                Settle the steps that the error lists with `resolve`, and call `resume`.
            ThreadBusyError: Another process holds the lease.
        """
        return run(self._rolling_back(to, dry_run=dry_run), self._backend)

    async def arollback(self, to: str | None = None, *, dry_run: bool = False) -> SagaInfo:
        """Asynchronous twin of `rollback`."""
        return await arun(self._rolling_back(to, dry_run=dry_run), self._backend)

    def resume(self) -> SagaInfo:
        """Complete a rollback that was begun: by a process that crashed, by one in a node, or one that was stuck.

        It does nothing for a saga that is running, done, or undone. To continue a running saga after a crash, call its
        block again.

        Returns:
            The saga, as it is now.

        Raises:
            CompensationMissingError: As for `rollback`.
            ConflictError: As for `rollback`.
            DamageError: As for `rollback`.
            InvalidInputError: There is no such saga.
            SagaRolledBack: As for `rollback`.
            SagaStuckError: As for `rollback`.
            ThreadBusyError: As for `rollback`.
        """
        return run(self._resuming(), self._backend)

    async def aresume(self) -> SagaInfo:
        """Asynchronous twin of `resume`."""
        return await arun(self._resuming(), self._backend)

    def resolve(self, step: str, *, result: Any = NOT_GIVEN, not_done: bool = False) -> None:
        """Settle what stops a rollback at a step, as you have found it out. Then call `resume`.

        If the outcome of the step is unknown, you say whether the step took effect. Otherwise you say whether its undo
        did, with any result: `result=None` says that the step's effect is gone, or may stay. That also settles an
        irreversible step.

        Args:
            step: The step.
            result: Say that it took effect, with its result.
            not_done: Say that it did not take effect.

        Raises:
            ConflictError: Nothing is to settle, or it changed meanwhile. The message says what it is now.
            InvalidInputError: There is no such step, or not exactly one of `result` and `not_done` is given.
            OperationInProgressError: A call may still be performing it.
            SerializationError: The result cannot be serialized.
        """
        run(self._resolution(configs.check_name("step", step), result, not_done=not_done), self._backend)

    async def aresolve(self, step: str, *, result: Any = NOT_GIVEN, not_done: bool = False) -> None:
        """Asynchronous twin of `resolve`."""
        await arun(self._resolution(configs.check_name("step", step), result, not_done=not_done), self._backend)

    # Reading

    @property
    def state(self) -> SagaState:
        """The state in which this object last saw the saga; `running` before it has read it. This reads nothing."""
        return "running" if self._seen is None else self._seen.state

    def info(self) -> SagaInfo:
        """The saga as it is now: its state, its steps, its savepoints, and what stops its rollback.

        Raises:
            DamageError: A document of the saga is damaged.
            InvalidInputError: There is no such saga.
        """
        return run(self._info(), self._backend)

    async def ainfo(self) -> SagaInfo:
        """Asynchronous twin of `info`."""
        return await arun(self._info(), self._backend)

    # Where the code runs

    @property
    def _context(self) -> Context:
        return self._contexts.get()

    def _place(self) -> PlaceInRun | None:
        """The node, task or tool of a run of this thread that makes the call; `None` outside of its runs."""
        try:
            place = place_in_run.place_of(self._config or place_in_run.current_config())
        except InvalidConfigError:
            if self._config is not None:
                raise
            return None
        own = getattr(place.checkpointer, "_contexts", None)
        # The thread of another store has the same id by chance.
        is_own = place.checkpointer is None or own is self._contexts
        return place if is_own and place.thread_id == self.thread_id else None

    def _calls(self) -> Calls:
        return Calls(self._saver, self.thread_id, self._place())

    def _hosted(self, act: Callable[[Fence], Flow[T]]) -> Flow[T]:
        """Act outside of a graph under the thread's lease: the one that this process holds, or a new one."""
        fence = held_by(self._context.fences, self.thread_id)
        held = self._leases.held_of(fence)
        # The lease of another call's rollback ends with that call, whatever this one is doing then.
        if fence is not None and (held is None or not held.is_private or held is _ACTING.get()):
            if held is not None and held.turn is not None:
                raise ThreadBusyError(
                    f"A run of this process is working on thread {self.thread_id!r}, so saga {self.id!r} was not "
                    "changed. Wait for its end. Before Python 3.11, pass the `config` of a node's coroutine to `saga`.",
                    thread_id=self.thread_id,
                )
            return (yield from act(fence))
        lease = self._new_lease()
        held = yield from self._leases.acquiring(lease)
        held.is_private, before = True, _ACTING.get()
        _ACTING.set(held)
        try:
            result = yield from act(held.fence)
        except GeneratorExit:  # No effect can follow. The next beat finds that the lease is left, and releases it.
            raise
        except BaseException:
            yield from self._release(held)
            raise
        finally:
            _ACTING.set(before)  # Not by its token, because a flow that was left may be closed in another context.
        yield from self._release(held)
        return result

    def _release(self, held: Held) -> Flow[None]:
        with self._leases.leaving(held):
            yield from self._leases.releasing(held)

    # The flows of the methods

    def _entering(self) -> Flow[None]:
        self._seen = None
        self._began = time.monotonic()
        yield from self._opened()

    def _leaving(self, error: BaseException | None) -> Flow[None]:
        """What the end of a block does; see the class."""
        from langgraph.errors import GraphBubbleUp, ParentCommand  # noqa: PLC0415 - a handle is made without them

        if error is None or isinstance(error, ParentCommand):  # the end of the work: the run continues in another node
            yield from self._finish()
        elif isinstance(error, errors.SagaRolledBack):
            is_own = (error.thread_id, error.saga_id) == (self.thread_id, self.id)
            if not is_own:
                yield from self._leaving_nested(error)
            elif self._place() is None and (yield from self._read()).continues:
                yield from self._resuming()
        elif isinstance(error, Exception) and not isinstance(error, (GraphBubbleUp, *_LOST)):
            yield from self._rolling_back(None, dry_run=False)

    def _leaving_nested(self, error: errors.SagaRolledBack) -> Flow[None]:
        """What the end of a block does if another saga was rolled back in it.

        If that one is over, the block cannot succeed any more, however often it runs. If it continues from a savepoint,
        the block runs again.
        """
        other = yield from flows.sagas.read(error.thread_id, error.saga_id, self._context)
        if other is not None and other.state == "compensated" and other.target is None:
            yield from self._rolling_back(None, dry_run=False)

    def _opened(self) -> Flow[Stored]:
        """The saga as this object opened it. It is created if there is none.

        Raises:
            SagaRolledBack: It was, or is being, rolled back.
        """
        if self._seen is None:
            context = self._context
            found = yield from flows.sagas.open_(self.thread_id, self.id, context.new_attempt(), context)
            if found.state not in ("running", "done"):
                raise self._rolled_back(found)
            self._seen = found
        return self._seen

    def _read(self) -> Flow[Stored]:
        """The saga as it is now.

        Raises:
            InvalidInputError: There is none.
        """
        found = yield from flows.sagas.read(self.thread_id, self.id, self._context)
        if found is None:
            raise InvalidInputError(
                f"There is no saga {self.id!r} of thread {self.thread_id!r}. `langgraph-gcs saga list "
                f"{shlex.quote(self.thread_id)}` lists its sagas."
            )
        return found

    def _rolled_back(self, found: Stored) -> errors.SagaRolledBack:
        """The error of a call that meets a saga that is, or was, rolled back."""
        held = found.held_by_target if found.state == "compensated" else None
        if found.state != "compensated":
            what = f"is being rolled back: it is {found.state!r}. Call `resume` to complete that"
        elif found.target is None:
            what = "was rolled back to its beginning. Start another one under another id"
        else:
            what = (
                f"was rolled back to savepoint {found.target!r}. End the run. `run`, called again, continues from "
                "there; without `run`, call `resume`"
            )
        return errors.SagaRolledBack(
            f"Saga {self.id!r} of thread {self.thread_id!r} {what}.",
            thread_id=self.thread_id,
            saga_id=self.id,
            config=None if held is None else configs.config_of(self.thread_id, "", held),
        )

    def _asked(
        self,
        name: object,
        work: tuple[Callable[..., Any], Any],
        undo: tuple[object, object],
        rules: Rules,
        chosen: Chosen,
    ) -> _Asked:
        """Check the arguments of `once`: the step, its function and request, `undo` and `irreversible`, and the rest.

        Raises:
            CompensationMissingError: This process does not know the compensation.
            InvalidInputError: One is invalid.
        """
        step = configs.check_name("step", name)
        named, irreversible = undo
        configs.check_type("irreversible", irreversible, bool)
        if (named is None) is not irreversible:
            raise InvalidInputError(
                f"Step {step!r} of saga {self.id!r} was not started. Pass either `undo`, the name of the compensation "
                "that undoes it, or `irreversible=True`."
            )
        known = None
        if named is not None:
            configs.check_type("undo", named, str)
            known = compensations.newest(cast("str", named))
            if known is None:
                raise self.missing(f"Step {step!r} was not started", repr(named))
        return _Asked(step, *work, known, rules, chosen)

    def missing(self, what: str, compensation: str) -> errors.CompensationMissingError:
        """The error of a process that does not know a compensation."""
        return errors.CompensationMissingError(
            f"{what}, because this process knows no compensation {compensation}, which saga {self.id!r} of thread "
            f"{self.thread_id!r} needs. Import the module that defines it with `@compensation`. The commands import it "
            "with `--app MODULE`.",
            thread_id=self.thread_id,
            saga_id=self.id,
        )

    def _once(self, asked: _Asked) -> Flow[Any]:
        saga = yield from self._opened()
        calls, name, undo = self._calls(), asked.name, None
        if asked.rules.reconcile is not None:
            self.reconcile[name] = asked.rules.reconcile
        if asked.undo is not None:
            request = dumps(self.serde, asked.request, f"The request of step {name!r}")
            undo = Undo(asked.undo.name, asked.undo.version, request)
        with calls.call(name, asked.request, flows.sagas.step_key(self.id, name), asked.chosen) as (plain, _):
            call = replace(plain, part=Part(saga, name, undo))
            return (yield from calls.performing(call, FunctionWork(self.serde, call, asked.rules, asked.fn), None))

    def _savepoint(self, name: str) -> Flow[None]:
        saga = yield from self._opened()
        if name in saga.names:
            return
        place = self._place()
        if place is None:
            checkpoint_id = yield from flows.ids.newest_id(self.thread_id, "")
        else:
            checkpoint_id = yield from self._start_of(place, name)
        self._seen = yield from flows.sagas.savepoint(saga, name, checkpoint_id, self._context)

    def _start_of(self, place: PlaceInRun, name: str) -> Flow[str]:
        """The checkpoint of the root graph from which a node runs, once it is durable."""
        order = flows.once.Order(place.checkpoints[:1], place.why_never_durable)
        found = yield from flows.once.lacking(self.thread_id, order, self._context)
        if found is None:
            return place.checkpoints[0][1]
        raise errors.NotDurableError(
            f"Savepoint {name!r} of saga {self.id!r} of thread {self.thread_id!r} was not made. Its checkpoint "
            f'{found.checkpoint_id!r} is not stored, and {found.why}. Run the graph with durability "sync" or '
            '"async".',
            thread_id=self.thread_id,
            key=name,
        )

    def _finish(self) -> Flow[None]:
        saga = yield from self._opened()
        if saga.state != "done":
            self._seen = yield from flows.sagas.finish(saga, self._context)
            yield from self._report(self._began)

    def _rolling_back(self, to: str | None, *, dry_run: bool) -> Flow[SagaInfo]:
        target = None if to is None else configs.check_name("savepoint", to)
        if dry_run:
            return (yield from flows.sagas.plan((yield from self._read()), target, self._context))
        return (yield from self._where(partial(self._mark_and_undo, target)))

    def _resuming(self) -> Flow[SagaInfo]:
        return (yield from self._where(self._complete))

    def _where(self, act: Callable[[Fence | None], Flow[None]]) -> Flow[SagaInfo]:
        """Undo steps where the call is made: in a node, or outside of a graph, where the thread is forked as well."""
        if self._place() is None:
            return (yield from self._hosted(partial(self._act_and_fork, act)))
        yield from act(self._calls().fence(f"The rollback of saga {self.id!r}"))
        saga = yield from self._read()
        if saga.state == "compensated":
            raise self._rolled_back(saga)
        return (yield from flows.sagas.info(saga, self._context))

    def _act_and_fork(self, act: Callable[[Fence | None], Flow[None]], fence: Fence) -> Flow[SagaInfo]:
        yield from act(fence)
        yield from self._continue_from_savepoint(fence)
        return (yield from self._info())

    def completing(self, fence: Fence) -> Flow[None]:
        """Complete a rollback that a node has begun, after its run has ended: undo what is left, and fork the thread.

        Args:
            fence: The lease of the run.
        """
        yield from self._complete(fence)
        yield from self._continue_from_savepoint(fence)

    def _complete(self, fence: Fence | None) -> Flow[None]:
        """Undo what is left, if a rollback has begun."""
        self._seen = saga = yield from self._read()
        if saga.state in ("compensating", "stuck"):
            yield from self._mark_and_undo(saga.target, fence)

    def _mark_and_undo(self, target: str | None, fence: Fence | None) -> Flow[None]:
        began, context = time.monotonic(), self._context
        saga = yield from self._read()
        if self._seen is not None and self._seen.epoch != saga.epoch:
            what = f"Saga {self.id!r} of thread {self.thread_id!r} was not rolled back"
            raise flows.operations.rolled_back(self._seen, saga, what)
        marked = yield from flows.sagas.mark(saga, context.new_attempt(), target, fence, context)
        try:
            self._seen = yield from flows.rollbacks.roll_back(marked, Functions(self), fence, context)
        except errors.SagaStuckError:
            self._seen = yield from self._read()
            yield from self._report(began)
            raise
        if marked.state == "compensating" and not self._seen.continues:
            yield from self._report(began)

    def _continue_from_savepoint(self, fence: Fence) -> Flow[None]:
        """Let the saga, and the thread, continue from the savepoint to which the saga was rolled back."""
        began, context = time.monotonic(), self._context
        saga = yield from self._read()
        if saga.continues:
            held = saga.held_by_target
            if held is None:
                yield from flows.sagas.resumed(saga, context)
            else:
                yield from flows.sagas.release(saga, context)
                change = flows.sagas.changes(saga, flows.sagas.continued(saga), context)
                back = flows.sagas.changes(saga, saga, context)
                record = partial(self._record, began)
                yield from flows.forks.fork(
                    self.thread_id, held, fence, context, beside=(change,), former=(back,), record=record
                )
            saga = yield from self._read()
            self._seen = saga
            yield from self._report(began)
        self._seen = saga

    def _record(self, began: float, plan: ForkPlan, now: int) -> Merge:
        """The record that the thread went back to a savepoint."""
        nonce, restore = self._context.new_attempt(), time.monotonic() - began
        return flows.recoveries.going_back(self.thread_id, "rollback", now, nonce, lost=plan.lost, restore=restore)

    def _resolution(self, step: str, result: Any, *, not_done: bool) -> Flow[None]:
        outcome = found_out(self.serde, f"{self.id}: {step}", result, not_done=not_done)
        yield from flows.rollbacks.resolve((yield from self._read()), step, outcome, self._context)

    def _info(self) -> Flow[SagaInfo]:
        return (yield from flows.sagas.info((yield from self._read()), self._context))

    def _report(self, began: float) -> Flow[None]:
        """Report how the saga, or its rollback, has ended."""
        seen = self._seen
        if seen is None or seen.state == "compensating":
            return
        kind = SagaStuck if seen.state == "stuck" else SagaEnded
        if not self._saver._subscribers.want(kind):  # noqa: SLF001 - a saga is a part of the saver
            return
        found = yield from flows.sagas.info(seen, self._context)
        yield from Emit(
            kind(
                thread_id=self.thread_id,
                saga_id=self.id,
                state=seen.state,
                steps=len(found.steps),
                undone=sum(one.state == "undone" for one in found.steps),
                seconds=time.monotonic() - began,
            )
        )


_LOST = (FencedError, LeaseMismatchError, NotPrimaryError, ThreadBusyError)
"""Errors of a process that may not write. Another process continues the thread, and the saga."""


# The user's functions


class Functions:
    """The compensations of a saga's steps.

    Args:
        saga: The saga.
    """

    def __init__(self, saga: Saga) -> None:
        self._saga = saga

    def require(self, steps: Sequence[Operation]) -> None:
        """Check that this process knows the compensations of some steps.

        Raises:
            CompensationMissingError: It lacks one.
        """
        lacking = [_undo_of(step) for step in steps if _known(step) is None]
        if lacking:
            listed = ", ".join(sorted({f"{one.name!r}, version {one.version}" for one in lacking}))
            raise self._saga.missing("Nothing was undone", listed)

    def settle(self, step: Operation) -> Ask[Settled]:
        """Ask the `reconcile` of the step, or that of its compensation, about its unknown outcome."""
        known = None if step.step is None or step.step.undo is None else _known(step)
        own = None if step.step is None else self._saga.reconcile.get(step.step.name)
        rules = Rules(reconcile=own or (None if known is None else known.reconcile))
        return FunctionWork(self._saga.serde, step, rules, same).settle(step)

    def undo(self, call: Call, step: Operation, result: Serialized | None) -> UndoWork:
        """The call of a step's compensation."""
        undo, known, serde = _undo_of(step), _known(step), self._saga.serde
        if known is None:
            raise AssertionError("`require` has checked it")
        loaded = None if result is None else loads(serde, result)
        function = partial(known.function, loads(serde, undo.request), loaded, flows.sagas.undo_key(step))
        return UndoWork(serde, call, UndoRules(repeats=known.repeats), function)

    def pause_after(self, step: Operation, attempts: int) -> float | None:
        """Seconds until the next attempt at an undo, after so many that raised; `None` if there is none."""
        known = _known(step)
        if known is None or attempts >= known.attempts:
            return None
        return min(float(known.backoff * 2 ** (attempts - 1)), compensations.MAX_BACKOFF)


def _undo_of(step: Operation) -> Undo:
    if step.step is None or step.step.undo is None:
        raise AssertionError("the step can be undone")
    return step.step.undo


def _known(step: Operation) -> Compensation | None:
    undo = _undo_of(step)
    return compensations.known(undo.name, undo.version)


class UndoRules(Rules):
    """What the exceptions of an undo mean: it can be performed again. Whether a signal cut it off is not known."""

    def state_of(self, error: BaseException) -> Literal["failed", "not_sent", "paused", "unknown"]:
        """What an exception says about the outcome."""
        return "paused" if isinstance(error, Exception) else "unknown"


class UndoWork(FunctionWork):
    """The call of a compensation as an operation. What it returns is not stored."""

    def _dumped(self, _: Any, /) -> Serialized | None:
        return None

    def repeat(self, _seen: Operation, _value: Serialized | None, /) -> Ask[Any]:
        """Return nothing: the step is undone."""
        return Ask(_nothing, _anothing)


def _nothing() -> None: ...


async def _anothing() -> None: ...
