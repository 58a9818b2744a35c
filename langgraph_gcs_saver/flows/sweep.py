"""Sweeping: deleting the threads that nobody has used for a time to live."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial

from langgraph_gcs_saver.engine.effects import Compute, Emit, Flow, Now, QueryDocs
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.threads import delete_thread
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.results import IdleThread

THREADS_PER_PAGE = 200
"""Documents of threads read at once."""


def sweep_page(
    after: str | None,
    ttl: float,
    *,
    among: Collection[str] | None = None,
    dry_run: bool,
    show: Callable[[IdleThread], object],
    context: Context,
) -> Flow[tuple[Sequence[IdleThread], str | None]]:
    """Delete the idle ones of a page of threads.

    A thread's document changes with every checkpoint, but at most once a minute. The deletion begins only if it is
    still as it was seen. A thread with a pinned checkpoint stays.

    Args:
        after: Where the page begins: what the last call returned.
        ttl: Seconds without a checkpoint after which a thread is idle.
        among: Only these threads; all if not given.
        dry_run: Only show them.
        show: Called with each idle thread of a dry run.
        context: Options and caches.

    Returns:
        What was deleted, and where to go on; `None` at the end.
    """
    now = yield from Now()
    docs = yield from QueryDocs(keys.THREADS, after=after, limit=THREADS_PER_PAGE, mask=("thread_id",))
    found = []
    for doc in docs:
        thread_id = thread_id_of(doc)
        idle = now - doc.update_time / 1e9
        if thread_id is None or idle <= ttl or (among is not None and thread_id not in among):
            continue
        if (yield from _has_pin(thread_id)):
            continue
        thread = IdleThread(thread_id=thread_id, idle=timedelta(seconds=int(idle)))
        if dry_run:
            yield from Compute(partial(show, thread))
            found.append(thread)
            continue
        try:
            if (yield from delete_thread(thread_id, context, seen=doc.update_time)):
                found.append(thread)
        except ConflictError as error:
            yield from Emit(ThreadSkipped(thread_id=thread_id, reason=str(error)))
    return found, docs[-1].name if len(docs) == THREADS_PER_PAGE else None


def _has_pin(thread_id: str) -> Flow[bool]:
    docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=("pin",))
    return any("pin" in doc.fields for doc in docs)
