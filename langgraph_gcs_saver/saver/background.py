"""Background work of a saver: jobs of several kinds, each kind on a separate thread.

A job may be stopped at any point, so the threads are daemons: a process that ends without closing its saver does not
wait for them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.pool import Pool, Task
from langgraph_gcs_saver.engine.turn import Turn
from langgraph_gcs_saver.errors import SaverClosedError
from langgraph_gcs_saver.records import record

Job = Callable[[], object]
"""A job reports its own failure with an event. If it raises nevertheless, the exception is only logged."""

_LOOK_SECONDS = 3600.0
"""How often the thread looks, at least. The system cannot wait for any length of time."""

logger = logging.getLogger("langgraph_gcs_saver")


@record(frozen=True, slots=True)
class Kind:
    """Jobs that are done one after another, on a thread that does no other jobs.

    Attributes:
        name: The end of the thread's name.
        most: Most jobs that may wait.
        wait: Seconds that `close` waits for the job under way, after it has dropped the jobs that have not begun. If
            `None`, `close` waits until all jobs are done.
        finishes: Whether the jobs that have not begun are done too, if `wait` is a number.
    """

    name: str
    most: int
    wait: float | None = None
    finishes: bool = False


class Background:
    """Queues of jobs by kind. A forked child starts with empty ones. A signal may strike any method, at any point."""

    def __init__(self) -> None:
        self._processes = PerProcess(_Process)
        self._is_closed = False

    def submit(self, kind: Kind, key: str, job: Job) -> bool:
        """Queue a job, unless one with this key waits already.

        Returns:
            Whether a job with this key waits now. If not, this object is closed, or too many other jobs wait.
        """
        return self._change(partial(self._add_job, kind, key, job))

    def repeat(self, kind: Kind, key: str, seconds: float, job: Job) -> bool:
        """Queue a job every `seconds` until `stop` or `close`, unless one with this key is repeated already.

        Returns:
            Whether a job with this key is repeated now. If not, this object is closed.
        """
        return self._change(partial(self._add_timer, kind, key, _Timer(seconds, job)))

    def stop(self, kind: Kind, key: str) -> None:
        """Stop repeating a job. If it waits or has begun, it is still done. Idempotent."""
        process = self._processes.peek()
        if process is not None and kind in process.queues:
            process.queues[kind].timers.pop(key, None)

    def close(self) -> None:
        """Accept no more jobs, and wait for the accepted ones as their kinds say. Idempotent.

        A job that calls this does not wait for its own kind, because it would wait for itself.
        """
        process = self._processes.get()
        process.turn.run(partial(self._shut, process))
        queues = list(process.queues.values())
        for queue in queues:
            queue.wake()
        began = time.monotonic()
        for queue in queues:
            wait = queue.kind.wait
            queue.pool.close(None if wait is None else max(0.0, began + wait - time.monotonic()))

    def _change(self, add: Callable[[_Process], _Queue | None]) -> bool:
        process = self._processes.get()
        queue = process.turn.run(partial(add, process))
        if queue is not None:
            queue.wake()
        return queue is not None

    # These run in turn. So a job is either accepted before `close`, which then sees it, or not at all.

    def _add_job(self, kind: Kind, key: str, job: Job, process: _Process) -> _Queue | None:
        if self._is_closed:
            return None
        queue = process.queue_of(kind)
        if key not in queue.jobs and len(queue.jobs) >= kind.most:
            return None
        queue.jobs.setdefault(key, job)
        return queue

    def _add_timer(self, kind: Kind, key: str, timer: _Timer, process: _Process) -> _Queue | None:
        if self._is_closed:
            return None
        queue = process.queue_of(kind)
        queue.timers.setdefault(key, timer)
        return queue

    def _shut(self, process: _Process) -> None:
        self._is_closed = True
        for queue in process.queues.values():
            queue.timers.clear()
            if queue.kind.wait is not None and not queue.kind.finishes:
                queue.jobs.clear()


class _Process:
    """The queues of one process."""

    def __init__(self) -> None:
        self.turn = Turn()
        self.queues: dict[Kind, _Queue] = {}

    def queue_of(self, kind: Kind) -> _Queue:
        if kind not in self.queues:
            self.queues[kind] = _Queue(kind, self.turn)
        return self.queues[kind]


class _Timer:
    def __init__(self, seconds: float, job: Job) -> None:
        self.seconds = seconds
        self.job = job
        self.due = time.monotonic() + seconds


class _Queue:
    """The jobs of one kind, and the thread that does them.

    Attributes:
        jobs: The jobs that wait, by key.
        timers: The jobs that are repeated, by key.
    """

    def __init__(self, kind: Kind, turn: Turn) -> None:
        self.kind = kind
        self.jobs: dict[str, Job] = {}
        self.timers: dict[str, _Timer] = {}
        self.pool = Pool(f"langgraph-gcs-{kind.name}", 1)
        self._turn = turn
        self._is_working = False
        self._woken: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """Let the thread do all jobs. A signal may have kept another caller from this, so each caller wakes for all."""
        # The thread stops in turn, when it sees that nothing waits. So if it is working, it will see the job.
        if self._is_working:
            if self._woken.empty():
                self._woken.put(None)
        elif self.jobs or self.timers:
            with suppress(SaverClosedError):  # `close` has woken it since the caller added a job
                self.pool.submit(Task(partial(self._work, threading.current_thread()), _report))

    def _work(self, caller: threading.Thread) -> None:
        while (found := self._turn.run(self._next)) is not None:
            if isinstance(found, float):
                if threading.current_thread() is caller:  # the pool could not start a thread
                    self._is_working = False
                    return
                with suppress(Empty):
                    self._woken.get(timeout=min(found, _LOOK_SECONDS))
                continue
            try:
                found()
            except BaseException:
                logger.exception("A job in the background failed (%s)", self.kind.name)

    def _next(self) -> Job | float | None:
        """In turn: the next job, the seconds until one is due, or `None` if the thread has nothing to do."""
        now = time.monotonic()
        timers = list(self.timers.items())
        for key, timer in timers:
            if timer.due <= now:
                timer.due = now + timer.seconds
                self.jobs.setdefault(key, timer.job)
        self._is_working = bool(self.jobs or timers)
        if self.jobs:
            # Removed before it begins, so that a change from now on, which it may miss, can queue it again.
            return self.jobs.pop(next(iter(self.jobs)))
        return min(timer.due - now for _, timer in timers) if timers else None


def _report(task: Task[None]) -> None:
    if task.error is not None:
        logger.error("The background thread failed", exc_info=task.take_error())
