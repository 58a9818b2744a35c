"""Finds what documents other than checkpoints refer to: pending writes, quarantined ones, and plain collections."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from langgraph_gcs_saver.engine.effects import Doc, Flow, QueryDocs
from langgraph_gcs_saver.flows.collections import list_docs, pages, read_docs, whole_objects_of
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.manifests import locate_manifest
from langgraph_gcs_saver.flows.writes import read_stubs
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DamagedError, Manifest

_DOCS_PER_PAGE = 50
"""How many documents of pending writes, of 128 KiB at most, or quarantined documents are read at once."""


def objects_of(known: Manifest, blob: str | None) -> set[str]:
    """Names of the objects that a manifest refers to, and of the object that holds the manifest, if there is one."""
    return known.blobs() if blob is None else known.blobs() | {blob}


def unreferenced(
    thread_id: str, names: Iterable[str], context: Context, *, orphans: Collection[str] | None = None
) -> Flow[set[str]]:
    """Those of some objects that no quarantined document, and no document of a plain collection, refers to.

    Args:
        thread_id: The thread.
        names: The objects.
        context: Options and caches.
        orphans: If given, documents of pending writes count as well, except those with these names.

    Raises:
        DamageError: A document of a plain collection is damaged.
    """
    left = set(names)
    collections = [keys.aside(thread_id)] if orphans is None else [keys.writes(thread_id), keys.aside(thread_id)]
    for collection in collections:
        after: str | None = None
        while left and (docs := (yield from QueryDocs(collection, after=after, limit=_DOCS_PER_PAGE))):
            for doc in docs:
                if not orphans or doc.name not in orphans:
                    left -= yield from _objects_of(doc, left, context)
            after = docs[-1].name
    listed = yield from list_docs(keys.thread_doc(thread_id), lambda entry: entry.is_plain and entry.is_read)
    for page in pages(listed):
        for entry, doc in (yield from read_docs(page)):
            left -= yield from whole_objects_of(entry, doc, context)
    return left


def _objects_of(doc: Doc, names: Iterable[str], context: Context) -> Flow[set[str]]:
    """The objects that a document of pending writes, or a quarantined document, refers to."""
    is_checkpoint = False
    if f"/{keys.ASIDE}/" in doc.name:
        source, is_checkpoint = keys.set_aside(doc.name, doc.fields.get("from"))
        doc = replace(doc, name=source, fields={k: v for k, v in doc.fields.items() if k not in ("from", "reason")})
    try:
        if is_checkpoint:
            known, blob = yield from locate_manifest(doc, context.codec)
            return objects_of(known, blob)
        return set((yield from read_stubs(doc, context.codec)))
    except DamagedError:
        # The references are unknown. All objects of the same checkpoint stay, so that it can be repaired or inspected.
        owner = (
            (keys.ns_segment_of(doc.name), keys.enc(keys.checkpoint_id_of(doc.name)))
            if is_checkpoint
            else (keys.writes_ns_of(doc.name), keys.enc(keys.writes_checkpoint_id_of(doc.name)))
        )
        return {name for name in names if keys.blob_owner(name) == owner}
