"""Iterates over all threads of a store, for commands that handle a whole store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from langgraph_gcs_saver.engine.effects import Flow, Gather, GetDocs, ListBlobs, QueryDocs
from langgraph_gcs_saver.errors import UNREADABLE, GCSSaverError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.listing import list_page
from langgraph_gcs_saver.flows.manifests import read_manifest, unreadable
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, kind_of

T = TypeVar("T")

Pages = Callable[[], Flow[Sequence[T] | None]]
"""Each call returns the next page of results; `None` is the end."""

Cursor = tuple[str, str]
"""The last thread seen among documents, and the last one seen among objects: the two are in different orders."""

START: Cursor = ("", "")

_PER_PAGE = 50
"""How many checkpoints are read at once; each may have half a megabyte of frames."""


def each_thread(
    thread_ids: Iterable[str] | None,
    work: Callable[[str], Flow[Sequence[T]]],
    context: Context,
    *,
    reports: bool = True,
    shared: Callable[[], Flow[Sequence[T]]] | None = None,
) -> Pages[T]:
    """Pages of what `work` returns for threads, one page for each thread.

    If a thread cannot be read, the error is raised after all other threads are done.

    Args:
        thread_ids: The threads; all threads of the store if `None`.
        work: Handles a thread.
        context: Options and caches.
        reports: Whether an event reports each thread that cannot be read.
        shared: Handles what belongs to no thread. It comes first, and only if all threads are handled.
    """
    tries = Tries()
    given = None if thread_ids is None else iter(thread_ids)
    cursor = START
    first = None if thread_ids is not None else shared

    def page() -> Flow[Sequence[T] | None]:
        nonlocal cursor, first
        if first is not None:
            work_once, first = first, None
            return (yield from tries.of(work_once())) or ()
        if given is None:
            found = yield from next_thread(cursor, tries, context)
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


def next_thread(cursor: Cursor, tries: Tries, context: Context) -> Flow[tuple[str | None, Cursor] | None]:
    """The next thread of the store, and the cursor for the call after this one; `None` at the end.

    A thread is found by its document. If the document is missing, it is found by its checkpoints or pending writes. If
    these are missing too, it is found by its objects. A thread's id may be too long for a name. If no document contains
    such an id either, the thread is returned without an id. If that is because its checkpoints cannot be read, `tries`
    keeps the error.
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
        if thread_id is None:
            # If no readable document contains the thread's id, the event has the segment of its name.
            thread_id = yield from tries.of(_id_in_checkpoints(segment, context), segment)
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


def _id_in_checkpoints(segment: str, context: Context) -> Flow[str | None]:
    """The id of a thread, from its newest readable checkpoint; `None` if it has no checkpoints.

    Raises:
        CheckpointCorruptError: All checkpoints are damaged, and other errors if they cannot be read.
    """
    first: GCSSaverError | None = None
    after: str | None = None
    while docs := (yield from QueryDocs(f"{keys.THREADS}/{segment}/{keys.CHECKPOINTS}", after=after, limit=_PER_PAGE)):
        for doc in docs:
            if kind_of(doc) is DocumentKind.STRIPPED:
                continue
            try:
                return (yield from read_manifest(doc, context.codec)).thread_id
            except DamagedError as damage:
                ns = keys.told_id(keys.ns_segment_of(doc.name))
                first = first or unreadable(damage, segment, ns, keys.checkpoint_id_of(doc.name))
            except UNREADABLE as error:
                first = first or error
        after = docs[-1].name
    if first is not None:
        raise first
    return None
