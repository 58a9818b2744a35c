"""Ids: those of a namespace's checkpoints, and the id of the thread that a document stands for."""

from __future__ import annotations

from langgraph_gcs_saver.engine.effects import Doc, Flow, QueryDocs
from langgraph_gcs_saver.format import keys

IDS_PER_PAGE = 1000
"""Names read at once."""


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
    """The thread that a document stands for, a thread's own or a run's: what it says, if that is what its name says.

    `None` if nothing says it, or another program put the document there.
    """
    segment, told = doc.name.rpartition("/")[2], doc.fields.get("thread_id")
    return told if isinstance(told, str) and keys.spread(told) == segment else keys.thread_id_of(segment)
