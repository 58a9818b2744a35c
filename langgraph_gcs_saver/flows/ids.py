"""Finds ids: of a namespace's checkpoints, of the thread that a document belongs to, and of a copy to a thread."""

from __future__ import annotations

from collections.abc import Iterable

from langgraph_gcs_saver.engine.effects import Doc, Flow, GetDocs, QueryDocs
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import RUNS_BY, DocumentKind, kind_of

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


def newest_id(thread_id: str, ns: str) -> Flow[str | None]:
    """The id of the newest checkpoint of a namespace that has its content; `None` if there is none."""
    where = (("ns", keys.enc(ns, "namespace")),)
    after: str | None = None
    while docs := (yield from QueryDocs(keys.checkpoints(thread_id), where, after=after, limit=1, mask=RUNS_BY)):
        after = docs[0].name
        if keys.is_in_ns(after, ns) and kind_of(docs[0]) is DocumentKind.CHECKPOINT:
            return keys.checkpoint_id_of(after)
    return None


def thread_id_of(doc: Doc) -> str | None:
    """The thread that a thread's or a run's document belongs to.

    The id is taken from the document's field if it matches the document's name, and else from the name. It is `None` if
    neither contains it, or if another program created the document.
    """
    segment, stated = doc.name.rpartition("/")[2], doc.fields.get("thread_id")
    return stated if isinstance(stated, str) and keys.spread(stated) == segment else keys.thread_id_of(segment)


def thread_ids_of(names: Iterable[str]) -> Flow[dict[str, str]]:
    """The ids of the threads that documents belong to, by segment. A segment stands for an id that is nowhere.

    Only ids that are too long for a name are read.
    """
    found = {segment: keys.thread_id_of(segment) for segment in map(keys.thread_segment_of, names)}
    unnamed = tuple(f"{keys.THREADS}/{segment}" for segment, thread_id in found.items() if thread_id is None)
    threads = (yield from GetDocs(unnamed, mask=("thread_id",))) if unnamed else {}
    found |= {keys.thread_segment_of(name): thread_id_of(doc) for name, doc in threads.items()}
    return {segment: segment if thread_id is None else thread_id for segment, thread_id in found.items()}


def claim_of(thread: Doc) -> str | None:
    """The claim of the last copy to a thread, in the thread's document; `None` if there is none that a copy writes."""
    claim = thread.fields.get("claim")
    return claim if isinstance(claim, str) and keys.ATTEMPT.match(claim) else None
