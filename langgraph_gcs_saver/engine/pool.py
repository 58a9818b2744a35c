"""Threads for calls that a signal must not interrupt.

Python runs signal handlers in the main thread, between any two bytecodes, and a handler may raise: Ctrl-C, a notebook's
stop button, Celery's soft time limit. If that happens inside gRPC or urllib3, a lock stays held, and later calls hang.
So the main thread leaves such calls to a thread of a pool, and only waits.

An exception may also strike the code that waits in the main thread. That code takes no lock, and consists of calls that
C performs as a whole: `SimpleQueue.put`, `SimpleQueue.get`, `list.pop`, `start_new_thread`. `concurrent.futures` does
not suit, because a `threading.Condition` stays locked if an exception strikes while it is entered.
"""

from __future__ import annotations

import _thread
import asyncio
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from langgraph_gcs_saver.errors import SaverClosedError, StoreUnavailableError

T = TypeVar("T")

GLANCE_SECONDS = 0.2
"""How often a waiting thread checks whether it still makes sense to wait.

It also bounds the delay of Ctrl-C where the system does not interrupt the main thread's wait: on Windows, and on macOS
if another thread receives the signal.
"""


def is_exposed() -> bool:
    """Whether a signal may raise in this thread while other threads run. At the interpreter's end they do not run."""
    return threading.get_ident() == threading.main_thread().ident and not sys.is_finalizing()


class Task(Generic[T]):
    """One call, and its outcome.

    Args:
        function: The call.
        deliver: Called with this task when the call has ended, in the same thread. It must not raise.
        bounded: Whether the call ends within the pool's limit, unless it hangs.
    """

    __slots__ = ("_deliver", "_function", "abandoned", "began", "bounded", "ended", "error", "made", "result")

    def __init__(
        self, function: Callable[[], T], deliver: Callable[[Task[T]], object], *, bounded: bool = False
    ) -> None:
        # Either a thread of the pool pops the function and calls it, or a caller that gives up pops and drops it.
        self._function = [function]
        self._deliver: Callable[[Task[T]], object] | None = deliver
        self.bounded = bounded
        self.abandoned = False
        self.made = time.monotonic()
        self.began: float | None = None
        self.ended = False
        self.result: Any = None
        self.error: BaseException | None = None

    def make(self) -> bool:
        """Make the call, unless it was made or canceled. Return whether there is an outcome to deliver."""
        function = self._take()
        if function is None:
            return False
        self.began = time.monotonic()
        try:
            self.result = function()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self.error = error
        self.ended = True
        return True

    def deliver(self) -> None:
        """Hand over the outcome, once. The task then forgets the receiver, because the two may form a cycle."""
        deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver(self)

    def cancel(self) -> bool:
        """Prevent the call; return false if it has begun, or was canceled before."""
        return self._take() is not None

    def _take(self) -> Callable[[], T] | None:
        try:
            return self._function.pop()
        except IndexError:
            return None

    def abandon(self) -> None:
        """Prevent the call. If it has begun, `close` does not wait for it."""
        self.abandoned = True
        self.cancel()

    def take_error(self) -> BaseException | None:
        """Return the exception that the call raised, and forget it: the two would form a cycle."""
        error, self.error = self.error, None
        return error


class _Threads:
    """The state that a pool's threads share. It does not refer to the pool, so they end when the pool is collected."""

    def __init__(self, name: str, most: int, keep: int) -> None:
        self.tasks: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self.running: dict[threading.Thread, Task[Any] | None] = {}
        self.is_closed = False
        self.is_ending = False
        self.moved = time.monotonic()
        self._slots = deque([None] * most)
        self._name = name
        self._keep = keep
        self._idle: deque[None] = deque()
        self._starting = threading.Lock()  # never taken in the main thread
        self._launchers = deque([None])

    def grow(self) -> None:
        """Start threads if more tasks wait than threads are free.

        Another thread starts them: `Thread.start` waits on a Condition, so a signal must not strike it. One such
        launcher at a time is enough. Otherwise an event loop would start one for each task that it queues.

        Raises:
            RuntimeError: No thread can be started.
        """
        if not self._is_short():
            return
        is_settled = False
        try:
            try:
                self._launchers.pop()
            except IndexError:  # One is at work. It looks again before it ends.
                is_settled = True
                return
            _thread.start_new_thread(self._launch, ())
            is_settled = True
        finally:
            if not is_settled:  # If a signal struck, there may be two launchers from now on.
                self._launchers.append(None)

    def _is_short(self) -> bool:
        return bool(self._slots) and self.tasks.qsize() > len(self._idle)

    def end(self) -> None:
        """Let the threads end when no task is left, and start no more."""
        self.is_closed = True
        self.is_ending = True
        self._slots.clear()
        self.tasks.put(None)

    def _launch(self) -> None:
        while True:
            has_started = self._start()
            self._launchers.append(None)
            if not has_started:
                self._work_off()
                return
            if not self._is_short():
                return
            try:
                self._launchers.pop()
            except IndexError:  # another one has begun
                return

    def _start(self) -> bool:
        with self._starting:
            while self._is_short():
                try:
                    self._slots.pop()
                except IndexError:  # closed meanwhile
                    break
                self._idle.append(None)  # it is free as soon as it runs
                try:
                    threading.Thread(target=self._work, name=self._name, daemon=True).start()
                except RuntimeError:
                    self._idle.pop()
                    self._slots.append(None)
                    return False
        return True

    def _work_off(self) -> None:
        with suppress(Empty):
            while True:
                task = self.tasks.get_nowait()
                if task is not None and task.make():
                    task.deliver()

    def _work(self) -> None:
        me = threading.current_thread()
        stays = True
        while stays:
            self.running[me] = None
            if self.is_closed and self.tasks.empty():
                self._idle.pop()
                break
            task = self.tasks.get()
            if task is None:  # check again whether the pool is closed
                continue
            self._idle.pop()
            self._start()  # a task that was queued meanwhile may have counted on this thread
            self.running[me] = task
            self.moved = time.monotonic()
            has_outcome = task.make()
            self.moved = time.monotonic()
            stays = len(self._idle) < self._keep
            if stays:
                self._idle.append(None)  # Before the delivery, so that the caller's next task starts no thread.
            if has_outcome:
                task.deliver()
            del task
        del self.running[me]
        if self.is_closed:
            self.tasks.put(None)  # for the next thread
        else:
            self._slots.append(None)


class Pool:
    """Daemon threads, started when tasks need them. A signal may strike any method, at any point.

    Args:
        name: The threads' name.
        most: Most threads.
        keep: Most threads that stay when they have nothing to do; all if not given.
        limit: Seconds after which a bounded call counts as hanging.
    """

    def __init__(self, name: str, most: int, *, keep: int | None = None, limit: float = threading.TIMEOUT_MAX) -> None:
        self._limit = limit
        self._threads = _Threads(name, most, most if keep is None else keep)
        weakref.finalize(self, self._threads.end).atexit = False

    def submit(self, *tasks: Task[Any]) -> None:
        """Queue tasks.

        Raises:
            SaverClosedError: The pool is closed.
        """
        for task in tasks:
            self._threads.tasks.put(task)
        if self._threads.is_closed:
            canceled = [task.cancel() for task in tasks]
            if any(canceled):
                raise SaverClosedError("This saver is closed; make a new one.")
        try:
            self._threads.grow()
        except RuntimeError:
            # No thread can be started: the interpreter is ending, or the process may have no more.
            for task in tasks:
                if task.make():
                    task.deliver()

    def perform(self, *calls: tuple[Callable[[], Any], bool]) -> tuple[Any, ...]:
        """Make calls at the same time, and return their results in order.

        After the first failure, this cancels calls that have not begun, waits for the others, and raises the failure.
        If a signal raises, this does not wait: calls that have begun end on their threads.

        Args:
            calls: Functions, and whether they are bounded.

        Raises:
            SaverClosedError: The pool is closed.
            StoreUnavailableError: A call hangs, or all threads are busy with calls that do not end.
        """
        answers: SimpleQueue[Task[Any]] = SimpleQueue()
        tasks = [Task(function, answers.put, bounded=bounded) for function, bounded in calls]
        try:
            failure = self._perform(tasks, answers)
        except BaseException:
            for task in tasks:
                task.abandon()
            raise
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback refers to this frame
        return tuple(task.result for task in tasks)

    async def aperform(self, function: Callable[[], T]) -> T:
        """Make a call without blocking the event loop, and return its result.

        A task that is canceled waits for a call that has begun. A thread cannot be stopped, and its writes must not
        arrive after the caller has continued.

        Args:
            function: The call.

        Raises:
            SaverClosedError: The pool is closed.
        """
        done = asyncio.Event()
        task = Task(function, partial(wake, asyncio.get_running_loop(), done))
        self.submit(task)
        try:
            await done.wait()
        except asyncio.CancelledError:
            while not (task.cancel() or done.is_set()):
                with suppress(asyncio.CancelledError):  # a second one; the first is raised
                    await done.wait()
            raise
        error = task.take_error()
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback refers to this frame
        result: T = task.result
        return result

    def _perform(self, tasks: list[Task[Any]], answers: SimpleQueue[Task[Any]]) -> BaseException | None:
        """Wait until tasks are done, and return the first failure."""
        failure: BaseException | None = None
        self.submit(*tasks)
        waiting = set(tasks)
        while waiting:
            task = self._next(answers, waiting)
            waiting.remove(task)
            error = task.take_error()
            if error is not None and failure is None:
                failure = error
                waiting = {one for one in waiting if not one.cancel()}
        return failure

    def _next(self, answers: SimpleQueue[Task[Any]], waiting: set[Task[Any]]) -> Task[Any]:
        while True:
            try:
                return answers.get(timeout=GLANCE_SECONDS)
            except Empty:
                pass
            self._check(waiting)

    def _check(self, waiting: set[Task[Any]]) -> None:
        now = time.monotonic()
        for task in waiting:
            if task.began is None:
                if now - max(task.made, self._threads.moved) > self._limit:
                    raise StoreUnavailableError(
                        f"All threads of this saver have been busy for {self._limit:g} s, and none has finished a "
                        "request. Call again. If this lasts, check the network, or raise `max_threads`."
                    )
            elif task.bounded and not task.ended and now - task.began > self._limit:
                raise StoreUnavailableError(
                    f"A request has not ended after {self._limit:g} s, although its own timeout has passed. It may "
                    "have been carried out; call again. If this lasts, restart the process: its connections hang."
                )

    def close(self, seconds: float | None) -> None:
        """Take no more tasks, and wait for those that are queued or running, except abandoned ones. Idempotent.

        A task of the pool that calls this does not wait, because it would wait for itself.

        Args:
            seconds: Most seconds to wait; `None` is no limit.
        """
        threads = self._threads
        if threading.current_thread() in threads.running:
            seconds = 0
        end = None if seconds is None else time.monotonic() + seconds
        threads.is_closed = True
        if not (threads.is_ending or threads.tasks.empty()):
            # When this task is done, threads in `running` have taken all tasks before it.
            answers: SimpleQueue[Task[Any]] = SimpleQueue()
            threads.tasks.put(Task(int, answers.put))
            threads.grow()
            with suppress(Empty):
                answers.get(timeout=_left(end))
        running = list(threads.running.items())
        threads.end()
        for thread, task in running:
            if thread is not threading.current_thread() and not (task is not None and task.abandoned):
                thread.join(_left(end))


def wake(loop: asyncio.AbstractEventLoop, done: asyncio.Event, _: object) -> None:
    """Set an event of a loop, from any thread."""
    with suppress(RuntimeError):  # the loop was closed, so nothing in it waits
        loop.call_soon_threadsafe(done.set)


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())
