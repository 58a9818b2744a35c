"""Finds ids: of a namespace's checkpoints, of the thread that a document belongs to, and of a copy to a thread."""

from __future__ import annotations

from langgraph_gcs_saver.engine.effects import Doc, Flow, QueryDocs
from langgraph_gcs_saver.format import keys

IDS_PER_PAGE = 1000
"""How many names are read at once."""


def checkpoint_ids(thread_id: str, ns: str) -> Flow[list[str]]:
    """The ids of all checkpoints of a namespace, newest first, damaged ones included."""
    found: list[str] = []
    where = (("ns", keys.enc(ns, "namespace")),)
    after: str | None = None
    while True:
        docs = yield from QueryDocs(keys.checkpoints(thread_id), where, after=after, limit=IDS_PER_PAGE, mask=())
        found += [keys.checkpoint_id_of(doc.name) for doc in docs if keys.is_in_ns(doc.name, ns)]
        if len(docs) < IDS_PER_PAGE:
            return found
        after = docs[-1].name


def thread_id_of(doc: Doc) -> str | None:
    """The thread that a thread's or a run's document belongs to.

    The id is taken from the document's field if it matches the document's name, and else from the name. It is `None` if
    neither contains it, or if another program created the document.
    """
    segment, stated = doc.name.rpartition("/")[2], doc.fields.get("thread_id")
    return stated if isinstance(stated, str) and keys.spread(stated) == segment else keys.thread_id_of(segment)


def claim_of(thread: Doc) -> str | None:
    """The claim of the last copy to a thread, in the thread's document; `None` if there is none that a copy writes."""
    claim = thread.fields.get("claim")
    return claim if isinstance(claim, str) and keys.ATTEMPT.match(claim) else None
