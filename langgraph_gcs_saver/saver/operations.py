"""`Operations`: side effects that are not repeated, in the nodes, tasks and tools of a graph, and for a thread.

`flows.once` decides. This module knows the user's functions: how they are called, what their exceptions mean, how their
results are serialized, and which key a call without one gets.
"""

from __future__ import annotations

import inspect
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from langgraph_gcs_saver import errors as all_errors
from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.effects import Ask, Flow
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.engine.turn import Turn
from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError, SerializationError
from langgraph_gcs_saver.events import OperationEnded
from langgraph_gcs_saver.flows.fences import held_by
from langgraph_gcs_saver.flows.once import Order, Performed, Settled
from langgraph_gcs_saver.flows.operations import KEEP_SECONDS, TIMEOUT_SECONDS, Call
from langgraph_gcs_saver.format.keys import operation_segment
from langgraph_gcs_saver.format.requests import request_digest
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver import configs, place_in_run
from langgraph_gcs_saver.saver.connection import Connection
from langgraph_gcs_saver.saver.outcomes import NOT_GIVEN, Errors, Verdict, dump_error, found_out, load_error

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langgraph_gcs_saver.flows.context import Context
    from langgraph_gcs_saver.flows.fences import Fence
    from langgraph_gcs_saver.format.manifest import Serialized
    from langgraph_gcs_saver.format.operations import Operation
    from langgraph_gcs_saver.results import OperationInfo
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.place_in_run import PlaceInRun

Mode = Literal["at_most_once", "at_least_once"]
Scope = Literal["thread", "store"]
Chosen = tuple[Scope, Mode, "timedelta | None", "float | None"]
"""The options `scope`, `mode`, `keep` and `timeout` of a call, as given."""

MAX_TIMEOUT = 10**9
"""Longest timeout of a claim, in seconds."""


NOT_DONE = Verdict("NOT_DONE")
"""What `reconcile` returns if the operation did not take effect. Then it is performed again, with the same key."""

UNKNOWN = Verdict("UNKNOWN")
"""What `reconcile` returns if it cannot find out whether the operation took effect."""


@record(frozen=True, slots=True)
class Rules:
    """What the exceptions of an operation mean, and how an unknown outcome is settled.

    Attributes:
        not_sent: Exceptions that prove that nothing left the process.
        errors: Exceptions that are an answer.
        reconcile: Asks the provider about a key; returns the result, `NOT_DONE` or `UNKNOWN`.
        ask: Whether a person settles an unknown outcome, by an interrupt.
        repeats: Whether an operation is performed again if its outcome stays unknown.
    """

    not_sent: Errors = ()
    errors: Errors = ()
    reconcile: Callable[[str], Any] | None = None
    ask: bool = False
    repeats: bool = False

    def __post_init__(self) -> None:
        for name, kinds in (("not_sent", self.not_sent), ("errors", self.errors)):
            if not isinstance(kinds, tuple) or not all(
                isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds
            ):
                raise InvalidOptionError(f"{name} must be a tuple of classes of exceptions.")
        if self.reconcile is not None and not callable(self.reconcile):
            raise InvalidOptionError("reconcile must be callable with the key.")
        configs.check_type("ask", self.ask, bool)

    def state_of(self, error: BaseException) -> Literal["failed", "not_sent", "paused", "unknown"]:
        """What an exception says about the outcome."""
        from langgraph.errors import GraphBubbleUp, ParentCommand  # noqa: PLC0415 - a handle is made without them

        if isinstance(error, ParentCommand):  # the end of the work: the run continues in another node
            return "failed"
        if isinstance(error, GraphBubbleUp):
            return "paused"
        if isinstance(error, self.not_sent):
            return "not_sent"
        return "failed" if isinstance(error, self.errors) else "unknown"


class Operations:
    """Performs side effects once, and lists and settles those with an unknown outcome.

    You get one from `operations()` in a node, task or tool, and from `saver.thread(id).operations` anywhere.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def once(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        request: Any = None,
        key: str | None = None,
        scope: Scope = "thread",
        mode: Mode = "at_most_once",
        reconcile: Callable[[str], Any] | None = None,
        not_sent: Errors = (),
        errors: Errors = (),
        keep: timedelta | None = None,
        timeout: float | None = None,
        ask: bool = False,
    ) -> Any:
        """Perform a side effect, unless it has been performed before. Then its recorded result is returned.

        The call first stores that it is about to begin, and later what came of it. If the process crashes in between,
        the outcome is unknown. The effect is then not started again, unless you allow it by `reconcile`, `mode`, `ask`
        or `resolve`.

        A recorded result is what the saver's serializer returns. By default, a dataclass returns as a dict.

        Args:
            name: What the operation does, such as `"charge"`.
            fn: Performs it. It is called without arguments, or with the key, for the provider's idempotency key.
            request: Plain data that identifies what is done. A repeat with the same key must have an equal request.
            key: Identifies the operation in the thread. Without one, a call in a run derives a key from its task, which
                is the same when the task runs again after a crash. Such calls must follow one another.
            scope: `"thread"`, or `"store"` for one key in all threads of the store, which needs a `key`.
            mode: `"at_least_once"` performs an operation with an unknown outcome again, with the same key.
            reconcile: Asks the provider about an unknown outcome. It is called with the key, and returns the result,
                `NOT_DONE` or `UNKNOWN`.
            not_sent: Exceptions that prove that nothing left the process. The operation can then be started again.
            errors: Exceptions that are an answer, such as a declined card. They are stored, and raised at a repeat.
            keep: For how long the outcome is kept; 30 days if not given.
            timeout: Seconds after which a claim without a lease counts as crashed; 60 if not given. Choose more than
                `fn` can take.
            ask: Whether an unknown outcome interrupts the graph. Resume it with `Command(resume={"done": result})` or
                `Command(resume={"not_done": True})`. LangGraph numbers a task's interrupts, so a task that asks has no
                other interrupts after this call, except those of `fn`.

        Returns:
            The result of `fn`, or the recorded one.

        Raises:
            InvalidInputError: An argument is invalid, or the call needs a `key`. Nothing was started.
            NotDurableError: The call has no `key`, and the checkpoint that ordered it is not stored.
            OperationFencedError: The process has lost the thread's lease. Nothing was started.
            OperationInProgressError: Another call may be performing the operation.
            OperationMismatchError: The key belongs to another name or request.
            OutcomeUnknownError: An earlier attempt may have taken effect, or this one's outcome was not recorded.
            ResultNotStoredError: The operation is done, but its result could not be stored.
            StoreError: A service rejected a request, or did not answer before the deadline. Nothing was started.
        """
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(reconcile):
            raise InvalidInputError(f"Operation {name!r} has a coroutine function. Call `aonce`, and await it.")
        rules = Rules(not_sent, errors, reconcile, ask, repeats=mode == "at_least_once")
        with self._calls.call(name, request, key, (scope, mode, keep, timeout)) as (call, order):
            return self._calls.perform(call, FunctionWork(self._calls.serde, call, rules, fn), order)

    async def aonce(
        self,
        name: str,
        fn: Callable[..., Any],
        *,
        request: Any = None,
        key: str | None = None,
        scope: Scope = "thread",
        mode: Mode = "at_most_once",
        reconcile: Callable[[str], Any] | None = None,
        not_sent: Errors = (),
        errors: Errors = (),
        keep: timedelta | None = None,
        timeout: float | None = None,
        ask: bool = False,
    ) -> Any:
        """Asynchronous twin of `once`. `fn` and `reconcile` may be coroutine functions."""
        rules = Rules(not_sent, errors, reconcile, ask, repeats=mode == "at_least_once")
        with self._calls.call(name, request, key, (scope, mode, keep, timeout)) as (call, order):
            return await self._calls.aperform(call, FunctionWork(self._calls.serde, call, rules, fn), order)

    def unresolved(self) -> Sequence[OperationInfo]:
        """The thread's operations with an unknown outcome, oldest first: `resolve` settles them.

        Raises:
            DamageError: One of them is damaged.
            StoreError: A service rejected a request, or did not answer before the deadline.
        """
        return run(
            flows.operations.listed(self._calls.thread_id, self._calls.context, only_unresolved=True),
            self._calls.backend,
        )

    async def aunresolved(self) -> Sequence[OperationInfo]:
        """Asynchronous twin of `unresolved`."""
        return await arun(
            flows.operations.listed(self._calls.thread_id, self._calls.context, only_unresolved=True),
            self._calls.backend,
        )

    def resolve(self, key: str, *, result: Any = NOT_GIVEN, not_done: bool = False, scope: Scope = "thread") -> None:
        """Settle an operation with an unknown outcome, as you have found it out.

        A process that was suspended may still send its request after you say `not_done`. Only the provider's own
        idempotency key excludes that.

        Args:
            key: The operation's key.
            result: Say that it took effect, with its result, which the next call of `once` returns. It may be `None`.
            not_done: Say that it did not take effect, so that the next call of `once` performs it.
            scope: The scope of the operation.

        Raises:
            ConflictError: Its outcome is known, or it changed meanwhile. The message says what it is now.
            InvalidInputError: There is no such operation, or not exactly one of `result` and `not_done` is given.
            OperationInProgressError: A call may still be performing it.
            SerializationError: The result cannot be serialized.
        """
        run(self._resolution(key, result, not_done=not_done, scope=scope), self._calls.backend)

    async def aresolve(
        self, key: str, *, result: Any = NOT_GIVEN, not_done: bool = False, scope: Scope = "thread"
    ) -> None:
        """Asynchronous twin of `resolve`."""
        await arun(self._resolution(key, result, not_done=not_done, scope=scope), self._calls.backend)

    def _resolution(self, key: str, result: Any, *, not_done: bool, scope: Scope) -> Flow[Operation]:
        outcome = found_out(self._calls.serde, _text(key), result, not_done=not_done)
        thread_id = self._calls.thread_id if _checked_scope(scope) == "thread" else None
        return flows.operations.resolve(thread_id, key, outcome, self._calls.context)


class Calls:
    """The calls of operations in a thread, whether a function or a tool performs them.

    Attributes:
        serde: The saver's serializer.
        thread_id: The thread.
        backend: Performs the flows.
    """

    def __init__(self, saver: Connection, thread_id: str, place: PlaceInRun | None = None) -> None:
        self.serde = saver.serde
        self.thread_id = thread_id
        self.backend = saver._backend  # noqa: SLF001 - these calls are a part of the saver
        self._contexts = saver._contexts  # noqa: SLF001 - as above
        self._subscribers = saver._subscribers  # noqa: SLF001 - as above
        self._place = place

    @property
    def context(self) -> Context:
        """Options and caches of this process."""
        return self._contexts.get()

    def perform(self, call: Call, work: FunctionWork, order: Order | None) -> Any:
        """Perform the work, or return the recorded result."""
        return run(self.performing(call, work, order), self.backend)

    async def aperform(self, call: Call, work: FunctionWork, order: Order | None) -> Any:
        """Asynchronous twin of `perform`."""
        return await arun(self.performing(call, work, order), self.backend)

    def performing(self, call: Call, work: FunctionWork, order: Order | None) -> Flow[Any]:
        """The flow of `perform`."""
        with self._reporting(call, work):
            return (yield from flows.once.once(call, work, order, self.context))

    @contextmanager
    def _reporting(self, call: Call, work: FunctionWork) -> Iterator[None]:
        """The block of a call, whose end is reported if the operation has an outcome."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if work.ended is not None and self._subscribers.want(OperationEnded):
                state, attempt, is_recorded = work.ended
                self._subscribers.emit(
                    OperationEnded(
                        thread_id=call.thread_id or "",
                        operation=call.name,
                        state=state,
                        attempt=attempt,
                        is_recorded=is_recorded,
                        seconds=time.perf_counter() - began,
                    )
                )

    @contextmanager
    def call(
        self,
        name: str,
        request: Any,
        key: str | None,
        chosen: Chosen,
        tool_call: str | None = None,
    ) -> Iterator[tuple[Call, Order | None]]:
        """The call, and what must be durable first. A derived key is taken until the end of the block.

        Args:
            name: The operation.
            request: Its request.
            key: The explicit key.
            chosen: The options `scope`, `mode`, `keep` and `timeout`.
            tool_call: The id of the tool call, which is the key if no other was given.
        """
        check_options(chosen)
        if not isinstance(name, str) or not name:
            raise InvalidInputError("The name of an operation must be a str that is not empty.")
        place = self._place
        if key is None and place is None:
            raise InvalidInputError(f"Operation {name!r} needs a `key`, because the call is not made in a run.")
        if key is not None:
            yield self._call(name, request, _text(key), chosen), None
            return
        if chosen[0] != "thread":
            raise InvalidInputError(f'Operation {name!r} needs a `key`, because it has scope="store".')
        place = cast("PlaceInRun", place)
        order = Order(place.checkpoints, place.why_never_durable)
        if tool_call is not None:
            yield self._call(name, request, _text(tool_call), chosen, order), order
            return
        with _DERIVED.get().next_key(place, name) as derived:
            yield self._call(name, request, derived, chosen, order), order

    def _call(
        self,
        name: str,
        request: Any,
        key: str,
        chosen: Chosen,
        order: Order | None = None,
    ) -> Call:
        scope, _, keep, timeout = chosen
        operation_segment(key)
        return Call(
            thread_id=self.thread_id if scope == "thread" else None,
            key=key,
            name=name,
            request=request_digest(request, name),
            nonce=self.context.new_attempt(),
            fence=self.fence(f"Operation {key!r}"),
            ordered_by=None if order is None else order.checkpoints[-1],
            keep=KEEP_SECONDS if keep is None else keep.total_seconds(),
            timeout=TIMEOUT_SECONDS if timeout is None else float(timeout),
        )

    def fence(self, what: str) -> Fence | None:
        """The lease under which a call is made: the config's, or the one that this process holds.

        Args:
            what: What is not started without it, for the message.

        Raises:
            OperationFencedError: This process does not hold the lease of the config.
        """
        fences = self.context.fences
        lease = None if self._place is None else self._place.lease
        if lease is None:
            return None if self.thread_id is None else held_by(fences, self.thread_id)
        found = next((one for one in tuple(fences.values()) if (one.thread_id, one.token, one.nonce) == lease), None)
        if found is None or found.thread_id != self.thread_id:
            # Not with the lease itself, because its nonce would let others act for its holder.
            raise all_errors.OperationFencedError(
                f"{what} of thread {self.thread_id!r} was not started, because this process does not hold the lease of "
                "its config. End the run. A process that acquires the lease continues the thread.",
                thread_id=self.thread_id,
            )
        return found


def operations(config: RunnableConfig | None = None, *, saver: GCSSaver | None = None) -> Operations:
    """The operations of the thread that the calling node, task or tool belongs to.

    Args:
        config: The config that LangGraph gave to the node or tool. It is only needed in coroutines before Python 3.11.
        saver: The saver, if the graph's checkpointer is not a `GCSSaver`. Then each call needs a `key`.

    Raises:
        InvalidConfigError: The call is made outside of a run.
        InvalidInputError: The graph has no `GCSSaver`, and none was given.
    """
    place = place_in_run.place_of(place_in_run.current_config() if config is None else config)
    return Operations(calls_at(place, saver))


def calls_at(place: PlaceInRun, saver: GCSSaver | None) -> Calls:
    """The calls of operations at a place in a run; see `operations`."""
    found = place.checkpointer if saver is None else saver
    if not isinstance(found, Connection):
        raise InvalidInputError(
            f"The checkpointer of the graph is of type {type(found).__name__}, so there is no store for operations. "
            "Compile the graph with a GCSSaver, or pass `saver=`."
        )
    return Calls(found, place.thread_id, place)


def check_options(chosen: Chosen) -> None:
    """Check `scope`, `mode`, `keep` and `timeout`.

    Raises:
        InvalidOptionError: One is of the wrong type, or outside its range.
    """
    scope, mode, keep, timeout = chosen
    _checked_scope(scope)
    if mode not in ("at_most_once", "at_least_once"):
        raise InvalidOptionError(f'mode is {mode!r}; it must be "at_most_once" or "at_least_once".')
    if keep is not None and (not isinstance(keep, timedelta) or keep <= timedelta(0)):
        raise InvalidOptionError("keep must be a timedelta of more than 0.")
    is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout <= MAX_TIMEOUT):
        raise InvalidOptionError(f"timeout must be a number of seconds, more than 0 and at most {MAX_TIMEOUT:,}.")


def _text(key: Any) -> str:
    if not isinstance(key, str) or not key:
        raise InvalidInputError(f"The key of an operation must be a str that is not empty, not {type(key).__name__}.")
    return key


def _checked_scope(scope: Any) -> Scope:
    if scope not in ("thread", "store"):
        raise InvalidOptionError(f'scope is {scope!r}; it must be "thread" or "store".')
    return cast("Scope", scope)


# Keys of calls without one


class _Derived:
    """How many operations of each name an execution of a task has done."""

    def __init__(self) -> None:
        self._turn = Turn()
        self._done: OrderedDict[tuple[object, ...], Counter[str]] = OrderedDict()
        self._running: set[tuple[tuple[object, ...], str]] = set()

    @contextmanager
    def next_key(self, place: PlaceInRun, name: str) -> Iterator[str]:
        """The key of the next operation of that name in this execution, which ends with the block.

        Raises:
            InvalidInputError: Another one is under way. Which of the two is the first would be chance.
        """
        part = place_in_run.TOOL_CALL.get()
        execution = (*place.execution, part)
        number = self._turn.run(partial(self._begin, execution, name))
        try:
            yield f"{place.task_ns if part is None else part}:{name}:{number}"
            # Only after a result. A call that is made again because the first one raised is the same operation.
            self._done.setdefault(execution, Counter())[name] = number + 1
        finally:
            self._running.discard((execution, name))

    def _begin(self, execution: tuple[object, ...], name: str) -> int:
        if (execution, name) in self._running:
            raise InvalidInputError(
                f"Two operations {name!r} of one task run at the same time, so neither can derive its key. Nothing was "
                "started for the second one. Give each a `key`."
            )
        self._running.add((execution, name))
        done = self._done.setdefault(execution, Counter())
        self._done.move_to_end(execution)
        while len(self._done) > _MOST_EXECUTIONS:
            self._done.popitem(last=False)
        return done[name]


_MOST_EXECUTIONS = 8192
"""Executions whose operations are counted. An older one has ended, because its task would run beside all others."""

_DERIVED = PerProcess(_Derived)


# The user's code


class FunctionWork:
    """A function as an operation.

    Attributes:
        ended: The outcome, the number of its attempt, and whether it was recorded before; `None` before there is one.
    """

    def __init__(self, serde: SerializerProtocol, call: Call | Operation, rules: Rules, fn: Callable[..., Any]) -> None:
        self.ended: tuple[str, int, bool] | None = None
        self.serde = serde
        self._call = call
        self._rules = rules
        self._fn = _with_key(fn, call.name)

    def clock(self) -> float:
        """Seconds of a monotonic clock."""
        return time.monotonic()

    def note(self, state: str, attempt: int, *, is_recorded: bool) -> None:
        """Note how the call ends."""
        self.ended = state, attempt, is_recorded

    def perform(self, mine: Operation) -> Ask[Performed]:
        """Call the function."""
        key = _key_for_provider(mine)
        return Ask(partial(self._perform, key), partial(self._aperform, key))

    def _perform(self, key: str) -> Performed:
        try:
            result = self._fn(key)
        except BaseException as error:  # noqa: BLE001 - `end` raises it, once the outcome is recorded
            return self._raised(error)
        if inspect.isawaitable(result):
            return self._is_async(result)
        return self._returned(result)

    async def _aperform(self, key: str) -> Performed:
        try:
            result = await _awaited(self._fn(key))
        except BaseException as error:  # noqa: BLE001 - `end` raises it, once the outcome is recorded
            return self._raised(error)
        return self._returned(result)

    def _returned(self, result: Any) -> Performed:
        return Performed("done", self._dumped(result), partial(same, result))

    def _is_async(self, result: Any) -> Performed:
        """The function returned something to await. A coroutine has not begun; anything else may have."""
        has_begun = not inspect.iscoroutine(result)
        if not has_begun:
            result.close()
        error = InvalidInputError(
            f"The function of operation {self._call.name!r} returned a {type(result).__name__}. Call `aonce`, which "
            "awaits it."
        )
        return Performed("unknown" if has_begun else "not_sent", None, partial(raise_, error))

    def _raised(self, error: BaseException) -> Performed:
        return self.ended_by(error, partial(raise_, error))

    def ended_by(self, error: BaseException, end: Callable[[], Any]) -> Performed:
        """What an exception of the user's code is recorded as."""
        state = self._rules.state_of(error)
        value = None
        if state == "failed":
            value = dump_error(self.serde, error, f"The exception of operation {self._call.key!r}")
        return Performed(state, value, end)

    def _dumped(self, result: Any) -> Serialized | None:
        """A result as it is recorded; `None` if the serializer rejects it, because the operation is done anyway."""
        try:
            return dumps(self.serde, result, f"The result of operation {self._call.key!r}")
        except SerializationError:
            return None

    def settle(self, seen: Operation) -> Ask[Settled]:
        """Ask `reconcile`, and then a person."""
        return Ask(partial(self._settle, seen), partial(self._asettle, seen))

    def _settle(self, seen: Operation) -> Settled:
        with self._reconciling(seen):
            found = self._reconcile(seen)
            if inspect.isawaitable(found):
                if inspect.iscoroutine(found):
                    found.close()
                raise TypeError("only aonce awaits what reconcile returns")
        return self._settled(seen, found)

    async def _asettle(self, seen: Operation) -> Settled:
        with self._reconciling(seen):
            found = await _awaited(self._reconcile(seen))
        return self._settled(seen, found)

    def _reconcile(self, seen: Operation) -> Any:
        reconcile = self._rules.reconcile
        return UNKNOWN if reconcile is None else reconcile(_key_for_provider(seen))

    @contextmanager
    def _reconciling(self, seen: Operation) -> Iterator[None]:
        """A block that asks the provider. If that fails, the outcome stays unknown.

        The exception itself would look like one of the tool: a handler would show it to the model, which tries again.
        """
        from langgraph.errors import GraphBubbleUp  # noqa: PLC0415 - as in `state_of`

        try:
            yield
        except GraphBubbleUp:
            raise
        except Exception as error:
            raise all_errors.OutcomeUnknownError(
                f"Operation {seen.key!r} ({seen.name}) was not started again, because an earlier attempt may have "
                f"taken effect, and `reconcile` raised {type(error).__name__}: {error}. Call again, or call `resolve`.",
                thread_id=seen.thread_id,
                key=seen.key,
            ) from error

    def _settled(self, seen: Operation, found: Any) -> Settled:
        if found is NOT_DONE:
            return Settled("not_done")
        if found is not UNKNOWN:
            return Settled("done", self._dumped(found))
        if self._rules.ask:
            return self._ask(seen)
        return Settled("not_done" if self._rules.repeats else "unknown")

    def _ask(self, seen: Operation) -> Settled:
        from langgraph.types import interrupt  # noqa: PLC0415 - few processes ask

        answer = interrupt(
            {
                "type": "operation_outcome_unknown",
                "operation": seen.name,
                "key": seen.key,
                "question": "Did this take effect? Answer {'done': result} or {'not_done': True}.",
            }
        )
        if isinstance(answer, Mapping) and answer.keys() == {"done"}:
            return Settled("done", self._dumped(answer["done"]), asked=True)
        if isinstance(answer, Mapping) and answer.keys() == {"not_done"} and answer["not_done"] is True:
            return Settled("not_done", asked=True)
        raise all_errors.OutcomeUnknownError(
            f"The answer to the question about operation {seen.key!r} ({seen.name}) is neither {{'done': result}} nor "
            "{'not_done': True}, so nothing was started. Call `resolve`, or fork the thread to answer again.",
            thread_id=seen.thread_id,
            key=seen.key,
        )

    def repeat(self, seen: Operation, value: Serialized | None) -> Ask[Any]:
        """Return the recorded result, or raise the recorded exception."""
        again = partial(self._again, seen, value)
        return Ask(again, partial(_as_coroutine, again))

    def _again(self, seen: Operation, value: Serialized | None) -> Any:
        if seen.state == "failed":
            raise self._recorded_error(seen, value)
        return self._recorded_result(seen, value)

    def _recorded_result(self, seen: Operation, value: Serialized | None) -> Any:
        if value is None:
            raise all_errors.ResultNotStoredError(
                f"Operation {seen.key!r} ({seen.name}) is done and was not started again, but its result could not be "
                "stored. Return plain data from it, or store the result elsewhere under its key.",
                thread_id=seen.thread_id,
                key=seen.key,
            )
        with flows.operations.existing(seen, has_ended=True):
            return loads(self.serde, value)

    def _recorded_error(self, seen: Operation, value: Serialized | None) -> BaseException:
        if value is None:
            return all_errors.OperationFailedError(
                f"Operation {seen.key!r} ({seen.name}) has failed and was not started again, but its exception could "
                "not be stored.",
                key=seen.key,
            )
        from langgraph.errors import ParentCommand  # noqa: PLC0415 - as in `state_of`

        with flows.operations.existing(seen, has_ended=True):
            return load_error(self.serde, value, (*self._rules.errors, ParentCommand), seen.key)


def _key_for_provider(operation: Operation) -> str:
    """The key that a function gets. A saga's step that is performed again after its undo is another request."""
    return operation.key if operation.step is None else flows.sagas.provider_key(operation)


def _with_key(fn: Callable[..., Any], name: str) -> Callable[[str], Any]:
    """The function of an operation as a call with the key. It gets the key if it has a parameter without a default."""
    if not callable(fn):
        raise InvalidInputError(f"Operation {name!r} needs a function, not {type(fn).__name__}.")
    try:
        signature = inspect.signature(fn)
    except ValueError:  # a function in C that has none
        return lambda _: fn()
    own = signature.parameters.get("key")
    # One with a default is bound already, or means something else.
    if own is not None and own.kind is not own.POSITIONAL_ONLY and own.default is own.empty:
        return lambda key: fn(key=key)
    if _accepts(signature):
        return lambda _: fn()
    if _accepts(signature, "key"):
        return fn
    raise InvalidInputError(
        f"The function of operation {name!r} cannot be called without arguments, nor with the key alone. Bind its "
        "other arguments, for example with functools.partial."
    )


def _accepts(signature: inspect.Signature, *arguments: str) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


async def _awaited(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def _as_coroutine(function: Callable[[], Any]) -> Any:
    return function()


def same(result: Any) -> Any:
    """The result of an operation, as its end."""
    return result


def raise_(error: BaseException) -> Any:
    """The exception of an operation, as its end."""
    raise error
