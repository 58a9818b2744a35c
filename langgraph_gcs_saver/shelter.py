"""Calls on threads that no signal interrupts.

Python runs signal handlers on the main thread, between any two of its steps. A handler that raises (Ctrl-C, a
notebook's stop button, a task queue's time limit) can strike between taking a lock and the `try` that releases it, or
inside a `finally`. A second exception can strike the code that cleans up after the first. So code that must not stop
half-way runs on another thread, and the main thread only waits for it.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

IDLE_SECONDS = 60
"""A thread without a call for so long ends; the next call starts another."""

GLANCE_SECONDS = 0.2
"""How long the main thread waits at most until it sees a signal that came just before its wait."""

SPIN_SECONDS = 0.0002


class Turn:
    """A lock for moments that an exception cannot leave locked, wherever it strikes.

    From a `threading.Lock` it differs in who holds it: not a thread, but a call, which can so let go of it twice. With
    `with lock` an exception can strike between the lock and the block (in CPython 3.14,
    https://github.com/python/cpython/issues/148874).
    """

    def __init__(self) -> None:
        self._holder: dict[None, object] = {}

    def run(self, function: Callable[[], T]) -> T:
        """Call a function while no other is called."""
        me = object()
        try:
            try:
                while self._holder.setdefault(None, me) is not me:
                    time.sleep(SPIN_SECONDS)
                return function()
            finally:
                self._let_go(me)
        finally:
            self._let_go(me)  # if an exception has struck the line above

    def _let_go(self, me: object) -> None:
        if self._holder.get(None) is me:
            self._holder.pop(None, None)


def can_be_struck() -> bool:
    """Whether this is the main thread. At the end of the interpreter no other one runs, so then it is not."""
    return threading.get_ident() == threading.main_thread().ident and not sys.is_finalizing()


class _Call(Generic[T]):
    """A function to be called once or never, and its outcome.

    Args:
        function: The function.
        wake: Wakes the caller, once there is an outcome.
    """

    __slots__ = ("_error", "_function", "_result", "_turn", "is_over", "wake")

    def __init__(self, function: Callable[[], T], wake: Callable[[], object]) -> None:
        self._function = function
        self._turn = threading.Lock()  # whoever takes it first decides: a worker to perform, or the caller to withdraw
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.is_over = False
        self.wake = wake

    def perform(self) -> bool:
        """Call the function, unless that is done or withdrawn; returns whether it was called."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            self._result.append(self._function())
        except BaseException as error:  # noqa: BLE001 - the caller's
            self._error = error
        self.is_over = True
        return True

    def withdraw(self) -> bool:
        """Whether the function has not been called, and never will be."""
        return self._turn.acquire(blocking=False)

    def outcome(self) -> T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # or the error's traceback and this call would keep each other alive
        return self._result.pop()


class _Crew:
    """The workers of one process. Nothing here is ever locked on a thread that a signal can strike."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self.workers: set[_Worker] = set()
        self.idle: set[_Worker] = set()
        self._starting = threading.Lock()

    def needs_worker(self, most: int) -> bool:
        return self.calls.qsize() > len(self.idle) and len(self.workers) < most

    def start(self, name: str, most: int) -> None:
        """Start a worker if one is needed; on a thread of its own."""
        with self._starting:
            if not self.needs_worker(most):
                return
            worker = _Worker(name, self)
            self.workers.add(worker)
            self.idle.add(worker)
        try:
            worker.start()
        except RuntimeError:  # no more threads can be started, so this one does its work
            worker.run()


class _Worker(threading.Thread):
    def __init__(self, name: str, crew: _Crew) -> None:
        super().__init__(name=name, daemon=True)
        self._crew = crew

    def run(self) -> None:
        crew = self._crew
        while True:
            try:
                call = crew.calls.get(timeout=IDLE_SECONDS)
            except Empty:
                call = None
            crew.idle.discard(self)
            if call is not None:
                if call.perform():
                    crew.idle.add(self)  # before its caller is woken, whose next call would start another worker
                    call.wake()
                del call  # it would keep alive what it was called with
            else:
                crew.workers.discard(self)
                if crew.calls.empty():
                    if crew.workers:
                        crew.calls.put(None)  # to the next one
                    return
                crew.workers.add(self)
            crew.idle.add(self)


class Shelter:
    """Threads for calls that must not stop half-way. They start when needed, and end when idle.

    The part of a call that runs on the caller's thread takes nothing: an exception can strike it anywhere.

    Args:
        name: The name of the threads.
        most: Most threads at once; further calls wait for one.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._crews: dict[int, _Crew] = {}  # by process id: threads do not survive a fork

    def call(self, function: Callable[[], T]) -> T:
        """Call a function: on one of the threads if this is the main thread, here otherwise.

        When a signal raises an exception, a function that has not begun never will, and one that has begun is waited
        for. So nothing is written after the exception was passed on, unless another one strikes during that wait.
        """
        if not can_be_struck():
            return function()
        woken = threading.Lock()
        woken.acquire()
        call = _Call(function, woken.release)
        try:
            self._submit(call)
            while not call.is_over:
                woken.acquire(timeout=GLANCE_SECONDS)
        except BaseException:
            if not call.withdraw():
                while not call.is_over:
                    woken.acquire(timeout=GLANCE_SECONDS)
            raise
        return call.outcome()

    async def acall(self, function: Callable[[], T]) -> T:
        """Call a function on one of the threads; a task that is cancelled waits for a function that has begun."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed, and its tasks with it
                loop.call_soon_threadsafe(_resolve, over)

        call = _Call(function, wake)
        try:
            self._submit(call)
            await asyncio.shield(over)
        except BaseException as error:
            if not call.withdraw() and isinstance(error, asyncio.CancelledError):
                while not over.done():
                    with suppress(asyncio.CancelledError):  # a second one; the first is raised
                        await asyncio.shield(over)
            raise
        return call.outcome()

    def end(self) -> Callable[[], bool]:
        """Have the threads end after the calls under way; returns what tells whether they have. Idempotent.

        A later call starts others.
        """
        crew = self._crews.get(os.getpid())
        workers = [] if crew is None else list(crew.workers)
        if crew is not None and workers:
            crew.calls.put(None)
        return lambda: not any(map(_Worker.is_alive, workers))

    def _submit(self, call: _Call[Any]) -> None:
        crew = self._crews.get(os.getpid()) or self._crews.setdefault(os.getpid(), _Crew())
        crew.calls.put(call)
        # After the call is in the queue, for a worker that ends looks there once more after it left the sets.
        if crew.needs_worker(self._most):
            try:
                # Not a Thread: an exception in its `start` can leave a thread that never gets to run.
                _thread.start_new_thread(crew.start, (self._name, self._most))
            except RuntimeError:  # no more threads can be started, or the interpreter is about to end
                if call.perform():
                    call.wake()


def _resolve(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
