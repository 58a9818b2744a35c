"""`backfill`: the rows that a store's processes would have written, computed from what they stored."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.analytics import rows
from langgraph_gcs_saver.analytics.base import RowSink, Source
from langgraph_gcs_saver.engine.runner import run

if TYPE_CHECKING:
    from langgraph_gcs_saver.flows.past_events import PastEvent
    from langgraph_gcs_saver.saver.connection import Connection

_ROWS = 500
"""Rows that are written together."""


def backfill(
    saver: Connection,
    sink: RowSink[Any],
    thread_ids: Iterable[str] | None = None,
    *,
    since: datetime | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the rows `checkpoint_saved`, `value_stored`, `writes_saved` and `recovery_recorded` of a store to a sink.

    They have the ids of the rows that the processes wrote, or would have written. So running it again, or beside the
    processes, changes no report. It reads documents only, a page at a time, and no value. In the store it writes
    nothing, unless the store's own key of digests is needed, and not there yet.

    Args:
        saver: The `GCSSaver` or `Admin`. Its option `labels` names the metadata that become columns.
        sink: Where the rows go. It is not subscribed to the saver, and writes in the caller's thread.
        thread_ids: The threads; all threads of the store by default.
        since: Only rows with this time or a later one; local time if it has no time zone.
        progress: Called with the number of rows that were written since the last call.

    Returns:
        The number of rows.

    Raises:
        WrongKeyError: The store is encrypted with another key, or the saver has none.
        StoreError: A service rejected a request, or did not answer before the deadline. Run it again.
        Exception: The sink could not write.
    """
    made = past_rows(saver, sink.source(saver), thread_ids, since=since)
    written = 0
    while some := list(islice(made, _ROWS)):
        sink.write(some)
        written += len(some)
        if progress is not None:
            progress(len(some))
    return written


def past_rows(
    saver: Connection, source: Source, thread_ids: Iterable[str] | None = None, *, since: datetime | None = None
) -> Iterator[rows.Row]:
    """The rows that `backfill` writes; raises as it does.

    Args:
        saver: As for `backfill`.
        source: Makes the digests of thread ids.
        thread_ids: As for `backfill`.
        since: As for `backfill`.
    """
    digest = source.digests()
    begin = None if since is None else since.timestamp() * 1e6
    for past in _events(saver, thread_ids):
        event = past.event
        now = time.time_ns() // 1000  # clock: only shown, for a checkpoint whose id has no time
        for row in rows.make(event, digest(event.thread_id), now, _no_number, backfilled=True):
            for name in past.unknown:
                row.pop(name, None)
            if begin is None or row["time"] >= begin:
                yield row


def _events(saver: Connection, thread_ids: Iterable[str] | None) -> Iterator[PastEvent]:
    own = None if thread_ids is None else tuple(map(str, thread_ids))
    labels, loads, context = saver._labels, saver._loads, saver._context  # noqa: SLF001 - reads as the saver does
    pages = flows.past_events.past_events(own, loads, partial(labels.of, None), context)
    while (page := run(pages(), saver._backend)) is not None:  # noqa: SLF001 - likewise
        yield from page


def _no_number() -> str:
    raise AssertionError("the backfill computes only events whose ids follow from what they are about")
