"""Reads the tips of threads before they are needed, into the caches of this process.

A later read of the same tip takes one round, and fetches nothing that the cache has. It still looks for the newest
checkpoint, so a cache that is out of date is never wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from langgraph_gcs_saver.engine.effects import Emit, Flow
from langgraph_gcs_saver.engine.steps import together
from langgraph_gcs_saver.errors import UNREADABLE, ConflictError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.load import get_tuple
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.results import Warmed

AT_ONCE = 8
"""Threads whose tips are read at once. Each may have half a megabyte in its document, and objects beside it."""


def warm(thread_ids: Iterable[str], context: Context) -> Flow[list[Warmed]]:
    """Read the newest checkpoint of the root graph of each thread, and check it. Nothing is deserialized.

    An event reports each thread that cannot be read.

    Args:
        thread_ids: The threads.
        context: Options and caches.

    Returns:
        What was found, in the order of the threads. A thread that is given twice is read once.
    """
    # Falling back to an older checkpoint is a matter of the read that needs one.
    strict = replace(context, falls_back=False)
    left, found = iter(dict.fromkeys(thread_ids)), list[Warmed]()
    while some := tuple(islice(left, AT_ONCE)):
        found += yield from together(*[_warm(thread_id, strict) for thread_id in some])
    return found


def _warm(thread_id: str, context: Context) -> Flow[Warmed]:
    try:
        loaded = yield from get_tuple(thread_id, "", None, _as_stored, context)
    except (*UNREADABLE, ConflictError) as error:
        yield from Emit(ThreadSkipped(thread_id=thread_id, reason=str(error)))
        return Warmed(thread_id=thread_id, error=str(error))
    if loaded is None:
        return Warmed(thread_id=thread_id)
    return Warmed(thread_id=thread_id, checkpoint_id=loaded.manifest.checkpoint_id, bytes=loaded.size)


def _as_stored(value: Serialized) -> Serialized:
    return value
