"""What a thread's document says to calls that wait or look again: the mark of a deletion, and a token beside a hold."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from langgraph_gcs_saver.engine.effects import Commit, Doc, Docs, Flow, GetDocs, Merge, Now, Pause
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.format import keys

_POLL_SECONDS = 0.25
"""How often a mark is looked at while it is waited for."""


def mark_of(thread: Doc) -> str | None:
    """The mark of a deletion in a thread's document, empty unless a deletion writes such; `None` if there is none.

    A value of another kind may differ from itself, as NaN does, and would look like a mark that is always new.
    """
    mark = thread.fields.get("deleting")
    if isinstance(mark, str) and keys.ATTEMPT.match(mark):
        return mark
    return "" if "deleting" in thread.fields else None


def unmarked(
    thread_id: str,
    context: Context,
    *,
    beside: tuple[str, ...] = (),
    fence: Fence | None = None,
    removes: bool = True,
) -> Flow[Docs]:
    """The thread's document and others, those that exist, once no deletion of the thread is under way.

    If the deletion's mark does not change for `context.timeout` seconds, the deletion counts as crashed, and its mark
    is removed, unless `removes` is false. If it is still running, it notices and starts over.

    Raises:
        FencedError: The call's lease, `fence`, is lost. A deletion that was demanded ends it.
    """
    name = keys.thread_doc(thread_id)
    wanted = (name, *beside) if fence is None else (name, fence.name, *beside)
    mark: str | None = None
    met = 0.0
    while True:
        docs = yield from GetDocs(wanted)
        if fence is not None:
            fence.require(docs.get(fence.name))
        doc = docs.get(name)
        seen = None if doc is None else mark_of(doc)
        if doc is None or seen is None:
            return docs
        now = yield from Now()
        if seen != mark:
            mark, met = seen, now
        if now - met <= context.timeout:
            yield from Pause(_POLL_SECONDS)
        elif not removes:
            return docs
        else:
            yield from Commit((unmark(doc),))


def unmark(thread: Doc, note: Mapping[str, Any] = MappingProxyType({})) -> Merge:
    """The write that removes a crashed deletion's mark, unless the thread's document has changed.

    The deletion may have left any part of the thread. `note` starts the thread again, or else the next checkpoint does.
    """
    gone = tuple(key for key in ("deleting", "active", "root", "copying") if key not in note)
    return Merge(thread.name, note, remove=gone, update_time=thread.update_time)


def move(thread_id: str, context: Context) -> Merge:
    """The write that changes a thread's document beside a new hold or pin, and so counts as a use of the thread.

    It needs no precondition of its own, if another write of the commit requires that a checkpoint exists. A deletion
    removes the thread's document after all checkpoints, so this does not bring back a deleted thread.
    """
    return Merge(keys.thread_doc(thread_id), {"thread_id": thread_id, "held": context.new_attempt()})
