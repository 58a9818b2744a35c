"""Iterates over all threads of a store, for commands that handle a whole store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from langgraph_gcs_saver.engine.effects import Emit, Flow, Gather, GetDocs, ListBlobs, QueryDocs
from langgraph_gcs_saver.errors import UNREADABLE
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.listing import list_page
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DamagedError

T = TypeVar("T")

Pages = Callable[[], Flow[Sequence[T] | None]]
"""Each call returns the next page of results; `None` is the end."""

Cursor = tuple[str, str]
"""The last thread seen among documents, and the last one seen among objects: the two are in different orders."""

START: Cursor = ("", "")


def each_thread(
    thread_ids: Iterable[str] | None,
    work: Callable[[str], Flow[Sequence[T]]],
    context: Context,
    *,
    reports: bool = True,
) -> Pages[T]:
    """Pages of what `work` returns for threads, one page for each thread.

    If a thread cannot be read, the error is raised after all other threads are done.

    Args:
        thread_ids: The threads; all threads of the store if `None`.
        work: Handles a thread.
        context: Options and caches.
        reports: Whether an event reports each thread that cannot be read.
    """
    tries = Tries()
    given = None if thread_ids is None else iter(thread_ids)
    cursor = START

    def page() -> Flow[Sequence[T] | None]:
        nonlocal cursor
        if given is None:
            found = yield from next_thread(cursor, context)
            thread_id, cursor = (None, cursor) if found is None else found
            is_end = found is None
        else:
            thread_id = next(given, None)
            is_end = thread_id is None
        if is_end:
            tries.end()
            return None
        if thread_id is None:
            return ()
        return (yield from tries.of(work(thread_id), thread_id if reports else None)) or ()

    return page


def all_of(pages: Pages[T]) -> Flow[list[T]]:
    """The results of all pages."""
    found: list[T] = []
    while (page := (yield from pages())) is not None:
        found += page
    return found


def next_thread(cursor: Cursor, context: Context) -> Flow[tuple[str | None, Cursor] | None]:
    """The next thread of the store, and the cursor for the call after this one; `None` at the end.

    A thread is found by its document. If the document is missing, it is found by its checkpoints or pending writes. If
    these are missing too, it is found by its objects. A thread's id may be too long for a name. If no document contains
    such an id either, the thread is returned without an id.
    """
    segment, blob_segment = cursor
    start, end = keys.all_threads_range(segment)
    threads, checkpoints, writes = yield from Gather(
        (
            QueryDocs(keys.THREADS, start=start, end=end, limit=1, mask=("thread_id",)),
            QueryDocs(keys.CHECKPOINTS, start=start, end=end, limit=1, group=True),
            QueryDocs(keys.WRITES, start=start, end=end, limit=1, mask=(), group=True),
        )
    )
    found = sorted({keys.thread_segment_of(doc.name) for doc in (*threads, *checkpoints, *writes)})
    if found:
        segment = found[0]
        own = next((doc for doc in threads if keys.thread_segment_of(doc.name) == segment), None)
        thread_id = keys.thread_id_of(segment) if own is None else thread_id_of(own)
        for doc in checkpoints:
            if thread_id is None and keys.thread_segment_of(doc.name) == segment:
                try:
                    thread_id = (yield from read_manifest(doc, context.codec)).thread_id
                except (DamagedError, *UNREADABLE) as error:
                    # No readable document contains the thread's id, so the event has the segment of its name.
                    yield from Emit(ThreadSkipped(thread_id=segment, reason=str(error)))
        return thread_id, (segment, blob_segment)
    blobs = yield from ListBlobs(
        "", keys.past_thread_blobs(blob_segment) if blob_segment else None, limit=1, checksums=False
    )
    if not blobs:
        return None
    blob_segment = blobs[0].name.split("/", 1)[0]
    is_thread = keys.is_thread_segment(blob_segment)
    if not is_thread or not (keys.is_blob(blobs[0].name) or (yield from list_page(f"{blob_segment}/", limit=1))):
        return None, (segment, blob_segment)
    name = f"{keys.THREADS}/{blob_segment}"
    thread, docs = yield from Gather(
        (GetDocs((name,), mask=()), QueryDocs(f"{name}/{keys.CHECKPOINTS}", limit=1, mask=()))
    )
    known = bool(thread or docs)
    return (None if known else keys.thread_id_of(blob_segment)), (segment, blob_segment)
