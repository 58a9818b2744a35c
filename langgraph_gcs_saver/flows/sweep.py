"""Sweeps: deletes the threads that were idle for longer than a time to live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from langgraph_gcs_saver.engine.effects import Emit, Flow, Now, QueryDocs
from langgraph_gcs_saver.errors import ConflictError, ThreadBusyError, ThreadInSetError, UnsupportedFormatError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.threads import delete_thread
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import HOLDS, keys_of
from langgraph_gcs_saver.results import IdleThread

THREADS_PER_PAGE = 200
"""How many documents of threads are read at once."""


def idle_threads(ttl: float) -> Pages[IdleThread]:
    """The threads that have received no checkpoint for `ttl` seconds.

    A thread's document changes with every checkpoint, but at most once a minute. A thread with a pinned or
    held checkpoint is never idle.
    """
    after: str | None = ""

    def page() -> Flow[Sequence[IdleThread] | None]:
        nonlocal after
        if after is None:
            return None
        now = yield from Now()
        docs = yield from QueryDocs(keys.THREADS, after=after or None, limit=THREADS_PER_PAGE, mask=("thread_id",))
        after = docs[-1].name if len(docs) == THREADS_PER_PAGE else None
        found = []
        for doc in docs:
            thread_id, idle = thread_id_of(doc), now - doc.update_time / 1e9
            if thread_id is not None and idle > ttl and not (yield from _is_kept(thread_id)):
                found.append(IdleThread(thread_id=thread_id, idle=timedelta(seconds=int(idle)), seen=doc.update_time))
        return found

    return page


def sweep_thread(thread: IdleThread, context: Context) -> Flow[IdleThread | None]:
    """Delete a thread, unless it was used since it was found idle: a checkpoint, a pin or a hold changes it.

    Returns:
        The thread; `None` if it was not deleted.
    """
    try:
        return thread if (yield from delete_thread(thread.thread_id, context, seen=thread.seen)) else None
    except (ConflictError, ThreadBusyError, ThreadInSetError, UnsupportedFormatError) as error:
        yield from Emit(ThreadSkipped(thread_id=thread.thread_id, reason=str(error)))
        return None


def _is_kept(thread_id: str) -> Flow[bool]:
    docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=("pin", HOLDS))
    return any("pin" in doc.fields or keys_of(doc) for doc in docs)
