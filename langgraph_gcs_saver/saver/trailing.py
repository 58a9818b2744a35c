"""`verify="pipelined"`: calls return when their data is durable, and the proofs that it reads back trail.

The rest of a call's flow, from its effect `Durable` on, is performed on another thread. It keeps what the call stores
until that is proven, so that it can withdraw what reads differently and write it again. The next flow on the thread
waits for it. So within a process, nothing is built on a checkpoint that is not proven.

Most of what works in the background does not wait. It meets a checkpoint between its commit and its proof as another
process does, and the flows allow for that. Only retention waits: what it deletes may be all that is left if the newest
checkpoint is withdrawn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_gcs_saver.engine.effects import (
    Ask,
    Commit,
    Durable,
    Effect,
    Flow,
    Gather,
    GetDocs,
    ListCollections,
    QueryDocs,
)
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.pool import GLANCE_SECONDS, Pool, Task, wake
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.engine.steps import Steps, through
from langgraph_gcs_saver.errors import CheckpointVerificationError, SaverClosedError
from langgraph_gcs_saver.format import keys

if TYPE_CHECKING:
    from langgraph_gcs_saver.engine.runner import Admit, Backend
    from langgraph_gcs_saver.flows.save import Put
    from langgraph_gcs_saver.flows.writes import PutWrites

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""Most bytes that the trailing proofs of a process keep in memory. A call beyond them proves before it returns."""

MOST_FAILED = 1000
"""Failed proofs that are kept until a call raises them. The log has all of them."""

_IS_PROOF = ContextVar("_IS_PROOF", default=False)
"""Whether the code runs in a proof. An event handler may call the saver there, and must not wait for that proof."""

logger = logging.getLogger("langgraph_gcs_saver")


class Behind:
    """A backend for work in the background, and for proofs: its flows do not wait for what trails.

    Args:
        backend: The backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.admit: Admit = backend.admit
        self.perform = backend.perform
        self.aperform = backend.aperform


class Trailing:
    """The proofs that trail, and those that have failed. A forked child starts with none.

    From its construction on, each flow that the backend admits waits at its first request for documents of a thread
    until the thread's proofs have ended. If one has failed, the flow raises that there, once. So a flow that has begun
    to act on a thread does not fail halfway because of another call.

    Args:
        backend: The backend.
        most: Most proofs that trail at the same time. A call beyond them proves before it returns.

    Attributes:
        behind: The same backend, for flows that do not wait.
    """

    def __init__(self, backend: Backend, most: int) -> None:
        self.behind = Behind(backend)
        self._most = most
        self._processes = PerProcess(partial(_Process, most))
        backend.admit = self._admit

    def storing(self, request: Put | PutWrites, flow: Flow[T]) -> Flow[T]:
        """The flow of a put or of pending writes, up to the point at which they are durable. The rest trails.

        Raises:
            CheckpointVerificationError: An earlier call of the thread has returned, and its proof has failed.
        """
        yield from self._proven(keys.thread_doc(request.thread_id))
        steps = Steps(flow)
        durable = yield from _to_durable(steps)
        if durable is not None:
            if self._hand_over(request, steps, durable.held):
                result: T = durable.result
                return result
            yield from _to_end(steps)
        return steps.result

    def settled(self, thread_id: str) -> Flow[None]:
        """Wait until the proofs of a thread have ended, and raise nothing."""
        yield from self._settled(keys.thread_doc(thread_id))

    def outcome(self, thread_id: str) -> Flow[bool]:
        """Wait until the proofs that a thread has now have ended. Returns whether all of them have succeeded."""
        process = self._processes.peek()
        return _outcome([] if process is None else process.of(keys.thread_doc(thread_id)))

    def raise_failed(self, thread_id: str | None = None) -> None:
        """Raise if the proof of a call that has returned has failed, once. The first one, if several have.

        Args:
            thread_id: The thread; all of them if `None`.

        Raises:
            CheckpointVerificationError: A proof has failed.
        """
        process = self._processes.peek()
        if process is not None:
            process.raise_failed(None if thread_id is None else keys.thread_doc(thread_id))

    def close(self) -> None:
        """Let no more proofs trail, and wait for those that do. Idempotent."""
        self._processes.get().pool.close(None)

    def _admit(self, flow: Flow[T], /) -> Flow[T]:
        return self.behind.admit(through(flow, partial(self._perform, set())))

    def _perform(self, passed: set[str], effect: Effect[Any]) -> Flow[Any]:
        """Perform an effect of a flow that has waited for the proofs of the threads in `passed`."""
        for thread in _threads_of(effect):
            if thread not in passed:
                passed.add(thread)
                yield from self._proven(thread)
        return (yield from effect)

    def _proven(self, thread: str) -> Flow[None]:
        yield from self._settled(thread)
        process = self._processes.peek()
        if process is not None and not _IS_PROOF.get():
            process.raise_failed(thread)

    def _settled(self, thread: str) -> Flow[None]:
        process = self._processes.peek()
        yield from _outcome([] if process is None or _IS_PROOF.get() else process.of(thread))

    def _hand_over(self, request: Put | PutWrites, steps: Steps[Any], held: int) -> bool:
        """Let the rest of a flow trail; false if too much trails already, or the saver is closed."""
        process = self._processes.get()
        waiting = [proof.held for proof in process.all() if not proof.is_done]
        if len(waiting) >= self._most or sum(waiting) + held > MOST_BYTES:
            return False
        proof = _Proof(request, held)
        rest = partial(copy_context().run, _prove, steps, self.behind)
        with suppress(SaverClosedError):
            # If a signal strikes from here on, the proof may trail without being known. It is known before any call
            # returns, so only the outcome of a call that was interrupted stays unknown.
            process.pool.submit(Task(rest, partial(process.end, proof)))
            process.add(proof)
            return True
        return False


class _Proof:
    """One proof that trails.

    Attributes:
        what: What the call was about, for errors.
        thread: The name of the thread's document.
        held: Bytes that it keeps in memory.
        is_done: Whether it has ended.
        error: Why it has failed, if it has.
    """

    __slots__ = ("_waiters", "error", "held", "is_done", "thread", "what")

    def __init__(self, request: Put | PutWrites, held: int) -> None:
        self.what = f"checkpoint {request.checkpoint_id!r} of thread {request.thread_id!r}, namespace {request.ns!r}"
        self.thread = keys.thread_doc(request.thread_id)
        self.held = held
        self.is_done = False
        self.error: CheckpointVerificationError | None = None
        self._waiters: list[Callable[[object], object]] = []

    def end(self, error: BaseException | None) -> None:
        """Note the outcome, and wake all calls that wait for it."""
        self.error = None if error is None else _as_failure(self.what, error)
        self.is_done = True
        for wake_up in tuple(self._waiters):
            wake_up(None)

    def wait(self) -> None:
        """Wait until it has ended. A signal may strike this."""
        woken: SimpleQueue[object] = SimpleQueue()
        # Added before the look: `end` either wakes it, or has set `is_done`.
        self._waiters.append(woken.put)
        while not self.is_done:
            with suppress(Empty):
                woken.get(timeout=GLANCE_SECONDS)

    async def await_(self) -> None:
        """Wait until it has ended, without blocking the event loop."""
        woken = asyncio.Event()
        self._waiters.append(partial(wake, asyncio.get_running_loop(), woken))
        if not self.is_done:
            await woken.wait()


class _Process:
    """The proofs of one process: those under way, and those that have failed."""

    def __init__(self, most: int) -> None:
        self.pool = Pool("langgraph-gcs-proofs", most)
        self._proofs: dict[_Proof, None] = {}

    def all(self) -> tuple[_Proof, ...]:
        """All of them, oldest first."""
        return tuple(self._proofs)

    def of(self, thread: str) -> list[_Proof]:
        """Those of a thread, oldest first."""
        return [proof for proof in self.all() if proof.thread == thread]

    def add(self, proof: _Proof) -> None:
        """Keep a proof, unless it has succeeded already."""
        self._proofs[proof] = None
        self._tidy(proof)

    def end(self, proof: _Proof, task: Task[Any]) -> None:
        """Note the outcome of a proof."""
        error = task.take_error()
        proof.end(error)
        self._tidy(proof)
        if error is not None:
            logger.error("%s", proof.error)
            failed = [one for one in self.all() if one.error is not None]
            for one in failed[:-MOST_FAILED]:
                self._proofs.pop(one, None)

    def _tidy(self, proof: _Proof) -> None:
        if proof.is_done and proof.error is None:
            self._proofs.pop(proof, None)

    def raise_failed(self, thread: str | None) -> None:
        """Raise the first failure of a thread, or of all threads, and forget all of them: the log has them."""
        failed = [proof for proof in (self.all() if thread is None else self.of(thread)) if proof.error is not None]
        # Of two calls at the same time, one finds it there.
        for error in [proof.error for proof in failed if self._proofs.pop(proof, proof) is None]:
            if error is not None:
                raise error


def _to_durable(steps: Steps[Any]) -> Flow[Durable | None]:
    """Perform a flow until what it stores is durable; `None` once it has ended."""
    while (effect := steps.next()) is not None:
        if isinstance(effect, Durable):
            return effect
        try:
            steps.value = yield from effect
        except BaseException as error:  # noqa: BLE001 - it reaches the flow
            steps.error = error
    return None


def _to_end(steps: Steps[Any]) -> Flow[None]:
    """Perform the rest of a flow: its proof, and what it writes again."""
    while (yield from _to_durable(steps)) is not None:
        pass


def _outcome(proofs: Sequence[_Proof]) -> Flow[bool]:
    """Wait until proofs have ended. Returns whether all of them have succeeded."""
    for proof in proofs:
        if not proof.is_done:
            yield from Ask(proof.wait, proof.await_)
    return all(proof.error is None for proof in proofs)


def _prove(steps: Steps[Any], behind: Behind) -> None:
    """Perform the rest of a flow, in a context of its own."""
    _IS_PROOF.set(True)
    run(_to_end(steps), behind)


def _threads_of(effect: Effect[Any]) -> Iterable[str]:
    """The names of the documents of the threads whose documents an effect reads or writes."""
    if isinstance(effect, Gather):
        return [thread for one in effect.effects for thread in _threads_of(one)]
    match effect:
        case GetDocs():
            names: Iterable[str] = effect.names
        case QueryDocs():
            names = (effect.collection,)
        case ListCollections():
            names = (effect.document,)
        case Commit():
            names = [write.name for write in effect.writes]
        case _:
            return ()
    # A flow that uses a thread's objects reads its documents before.
    return [keys.thread_of(name) for name in names if name.startswith(f"{keys.THREADS}/")]


def _as_failure(what: str, error: BaseException) -> CheckpointVerificationError:
    """What the next call on the thread raises. Without tracebacks, because those keep the values in memory."""
    outcome = "has failed" if isinstance(error, CheckpointVerificationError) else "could not be completed"
    failure = CheckpointVerificationError(
        f"A call that stored something for {what} returned when that was durable, because `verify` is 'pipelined'. "
        f"Its proof {outcome}. {type(error).__name__}: {error}"
    )
    _drop_tracebacks(error)
    failure.__cause__ = error
    return failure


def _drop_tracebacks(error: BaseException) -> None:
    """Drop the traceback of an exception, and those of all exceptions that led to it."""
    seen, left = set[int](), [error]
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [before for before in (one.__cause__, one.__context__) if before is not None]
