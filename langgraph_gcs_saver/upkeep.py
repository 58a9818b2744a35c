"""Upkeep: what a saver does beside its caller's work, one job after another on a thread of its own.

Jobs are flows that may be stopped at any effect, so the thread is a daemon: a process that ends without closing its
saver does not wait for them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

Job = Callable[[], None]


@dataclass(slots=True)
class _Worker:
    queue: SimpleQueue[tuple[str, Job] | None] = field(default_factory=SimpleQueue)
    waiting: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None


class Upkeep:
    """A queue of jobs by name, worked off in the background; one that waits already is not queued again."""

    def __init__(self) -> None:
        # By process id: neither threads nor locks survive a fork.
        self._workers: dict[int, _Worker] = {}
        self._is_closed = False

    def submit(self, name: str, job: Job) -> None:
        """Queue a job, which must not raise; after `close`, do nothing."""
        worker = self._workers.setdefault(os.getpid(), _Worker())
        with worker.lock:
            if self._is_closed or name in worker.waiting:
                return
            worker.waiting.add(name)
            worker.queue.put((name, job))
            if worker.thread is None:
                worker.thread = threading.Thread(target=_work, args=(worker,), name="langgraph-gcs-upkeep", daemon=True)
                worker.thread.start()

    def close(self) -> None:
        """Wait until all jobs are done, and take no more. Idempotent."""
        self._is_closed = True
        worker = self._workers.get(os.getpid())
        if worker is None:
            return
        with worker.lock:
            thread = worker.thread
        if thread is not None and thread is not threading.current_thread():
            worker.queue.put(None)
            thread.join()


def _work(worker: _Worker) -> None:
    while (item := worker.queue.get()) is not None:
        name, job = item
        with worker.lock:
            # Before it begins: what happens from now on, it may have looked at already.
            worker.waiting.discard(name)
        job()
