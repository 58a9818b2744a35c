"""Listing objects: those of the store, and nothing else that lies among them.

Below a store's prefix there may be objects of others: of a store whose prefix begins with this one's, or, in a bucket
that is used without a prefix, of anybody. An object belongs to the store only if its name has the form that
`keys.is_blob` knows. Every flow lists through this module, so that what is not the store's is never deleted, counted,
copied or reported.
"""

from __future__ import annotations

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import BlobInfo, Flow, ListBlobs
from langgraph_gcs_saver.format import keys


def list_page(
    prefix: str, after: str | None = None, *, limit: int = limits.LIST_OBJECTS, checksums: bool = False
) -> Flow[list[BlobInfo]]:
    """A page of objects as `ListBlobs` gives it, without what is not the store's. An empty one is the end.

    Args:
        prefix: What names begin with.
        after: The name past which the page begins.
        limit: Most objects of a page, if the first of them is the store's.
        checksums: Whether objects are read for them, as `ListBlobs` says.
    """
    while True:
        found = yield from ListBlobs(prefix, after, limit, checksums)
        mine = [blob for blob in found if keys.is_blob(blob.name)]
        if mine or not found:
            return mine
        after, limit = found[-1].name, limits.LIST_OBJECTS


def list_all(prefix: str, *, checksums: bool = False) -> Flow[dict[str, BlobInfo]]:
    """All objects of the store whose names begin with `prefix`, by name; arguments as of `list_page`."""
    found: dict[str, BlobInfo] = {}
    after: str | None = None
    while blobs := (yield from list_page(prefix, after, checksums=checksums)):
        found.update({blob.name: blob for blob in blobs})
        after = blobs[-1].name
    return found
