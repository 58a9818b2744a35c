"""Upkeep: what a saver does beside its caller's work, one job after another on a thread of its own.

Jobs are flows that may be stopped at any effect, so the thread is a daemon: a process that ends without closing its
saver does not wait for them.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from langgraph_gcs_saver.engine.pool import Pool, Task
from langgraph_gcs_saver.errors import SaverClosedError

Job = Callable[[], None]

logger = logging.getLogger("langgraph_gcs_saver")


class Upkeep:
    """A queue of jobs by name, worked off in the background; one that waits already is not queued again."""

    def __init__(self) -> None:
        # By process id: threads do not survive a fork.
        self._queues: dict[int, _Queue] = {}
        self._is_closed = False

    def submit(self, name: str, job: Job) -> None:
        """Queue a job, which must not raise; after `close`, do nothing."""
        if self._is_closed:
            return
        pid = os.getpid()
        queue = self._queues.get(pid) or self._queues.setdefault(pid, _Queue())
        queue.jobs.setdefault(name, job)
        with suppress(SaverClosedError):  # closed meanwhile
            queue.wake()

    def close(self) -> None:
        """Wait until all jobs are done, and take no more. Idempotent."""
        self._is_closed = True
        queue = self._queues.pop(os.getpid(), None)
        if queue is not None:
            queue.wake()
            queue.pool.close(None)


class _Queue:
    """The jobs that wait, and the thread that takes them."""

    def __init__(self) -> None:
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.pool = Pool("langgraph-gcs-upkeep", 1)

    def wake(self) -> None:
        """Have all jobs done. Each call does this, so a job is not forgotten when a signal raises before its own."""
        self.pool.submit(Task(partial(_work_off, self.jobs), _report))


def _work_off(jobs: OrderedDict[str, Job]) -> None:
    while jobs:
        # Before it begins: what happens from now on, it may have looked at already.
        _, job = jobs.popitem(last=False)
        job()


def _report(task: Task[None]) -> None:
    if task.error is not None:
        logger.error("A job in the background failed", exc_info=task.take_error())
