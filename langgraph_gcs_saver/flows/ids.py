"""The ids of a namespace's checkpoints, without what they hold."""

from __future__ import annotations

from langgraph_gcs_saver.engine.effects import Flow, QueryDocs
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
