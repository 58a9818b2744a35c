"""Reads the collections below a thread that the registry lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from langgraph_gcs_saver.engine.effects import (
    Compute,
    Doc,
    Flow,
    Gather,
    GetDocs,
    ListCollections,
    QueryDocs,
)
from langgraph_gcs_saver.errors import ClearTextError, DamageError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.format import keys, registry
from langgraph_gcs_saver.format.manifest import DamagedError, Stub
from langgraph_gcs_saver.format.registry import Collection, Wanted

Listed = tuple[Collection, Doc]
"""A document, and the entry of its collection."""

DOCS_PER_PAGE = 50
"""How many whole documents are read at once; each may have a megabyte."""


def check_known(thread_id: str) -> Flow[list[str]]:
    """Check that the registry has an entry for every collection of this library below a thread.

    Returns:
        The ids of the collections below the thread.

    Raises:
        UnsupportedFormatError: A collection has no entry; see `registry.check`.
    """
    ids = yield from ListCollections(keys.thread_doc(thread_id))
    registry.check(thread_id, ids)
    return ids


def list_docs(
    document: str,
    wanted: Wanted,
    *,
    mask: tuple[str, ...] = (),
    among: Iterable[Collection] | None = None,
) -> Flow[list[Listed]]:
    """All documents of some collections below a document. Each is followed by the documents nested below it.

    Args:
        document: The document, such as a thread's.
        wanted: Chooses the collections.
        mask: Fields to read.
        among: The collections to choose from; those of a thread if `None`.
    """
    entries = tuple(filter(wanted, registry.COLLECTIONS if among is None else among))
    if not entries:
        return []
    pages = yield from _query(document, entries, mask)
    # A batch is set to done after its items. So a list that has it as done must have all of its items.
    late = [entry for entry in entries if pages.get(entry.follows)]
    if late:
        pages |= yield from _query(document, late, mask)
    found: list[Listed] = []
    for entry in entries:
        for doc in pages[entry.id]:
            found.append((entry, doc))
            found += yield from list_docs(doc.name, wanted, mask=mask, among=entry.below)
    return found


def _query(document: str, entries: Sequence[Collection], mask: tuple[str, ...]) -> Flow[dict[str | None, list[Doc]]]:
    """The documents of some collections below a document, by the collection."""
    found = yield from Gather(tuple(QueryDocs(f"{document}/{entry.id}", mask=mask) for entry in entries))
    return dict(zip([entry.id for entry in entries], found, strict=True))


def pages(listed: Sequence[Listed]) -> Iterator[Sequence[Listed]]:
    """The documents in pages."""
    for at in range(0, len(listed), DOCS_PER_PAGE):
        yield listed[at : at + DOCS_PER_PAGE]


def read_docs(page: Sequence[Listed]) -> Flow[list[Listed]]:
    """The whole documents of a page as they are now, without those that have been deleted."""
    now = yield from GetDocs(tuple(doc.name for _, doc in page))
    return [(entry, now[doc.name]) for entry, doc in page if doc.name in now]


def objects_of(entry: Collection, doc: Doc, context: Context) -> Flow[dict[str, Stub]]:
    """The objects that a document of a plain collection refers to, by name.

    Raises:
        DamagedError: The document is corrupt.
    """
    if entry.objects is None:
        return {}
    size = 8 * sum(len(data) for data in doc.fields.values() if isinstance(data, bytes))
    return (yield from Compute(partial(entry.objects, doc, context.codec), size=size))


def whole_objects_of(entry: Collection, doc: Doc, context: Context) -> Flow[set[str]]:
    """The names of these objects, for a call that ends if a document is damaged.

    Raises:
        ClearTextError: The saver has a cipher, and the document is in clear.
        DamageError: The document is corrupt.
    """
    try:
        return set((yield from objects_of(entry, doc, context)))
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None


def damaged(name: str, damage: DamagedError) -> DamageError | ClearTextError:
    """The error for a damaged document of a plain collection, or one in clear that a saver with a cipher met."""
    if damage.clear:
        segment = "" if name.startswith(f"{keys.SHARED}/") else keys.told_thread_id(keys.thread_segment_of(name))
        return ClearTextError(
            f"A saver with a cipher does not read this: {damage.reason}",
            thread_id=segment,
            checkpoint_ns="",
            checkpoint_id="",
            frame=name,
        )
    return DamageError(
        f"Document {name!r} is damaged: {damage.reason}. Restore it from a backup, or delete it, and call again."
    )
