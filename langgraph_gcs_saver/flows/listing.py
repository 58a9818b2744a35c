"""Lists the store's objects, and no other objects that have the same prefix.

Objects below a store's prefix may belong to a store whose prefix begins with this one's. In a bucket that is used
without a prefix, they may belong to any other program. An object is the store's only if `keys.is_blob` recognizes its
name. Every flow lists through this module, so that foreign objects are never deleted, counted, copied or reported.
"""

from __future__ import annotations

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import BlobInfo, Flow, InBucket, ListBlobs
from langgraph_gcs_saver.format import keys


def list_page(
    prefix: str,
    after: str | None = None,
    *,
    limit: int = limits.LIST_OBJECTS,
    checksums: bool = False,
    mirror: bool | None = None,
) -> Flow[list[BlobInfo]]:
    """A page of objects as `ListBlobs` returns it, without foreign objects. An empty page is the end.

    Args:
        prefix: What names begin with.
        after: The page begins after this name.
        limit: The maximum number of objects. If the first page has foreign objects only, the next ones may be larger.
        checksums: Whether objects are read for their checksums, as `ListBlobs` says.
        mirror: With two buckets, whether to list the mirror, or the first one; `None` for the objects of either.
    """
    while True:
        effect = ListBlobs(prefix, after, limit, checksums)
        found = (yield from (effect if mirror is None else InBucket(effect, mirror=mirror))) or []
        mine = [blob for blob in found if keys.is_blob(blob.name)]
        if mine or not found:
            return mine
        after, limit = found[-1].name, limits.LIST_OBJECTS


def list_all(prefix: str, *, checksums: bool = False, mirror: bool | None = None) -> Flow[dict[str, BlobInfo]]:
    """All objects of the store whose names begin with `prefix`, by name; for the arguments see `list_page`."""
    found: dict[str, BlobInfo] = {}
    after: str | None = None
    while blobs := (yield from list_page(prefix, after, checksums=checksums, mirror=mirror)):
        found.update({blob.name: blob for blob in blobs})
        after = blobs[-1].name
    return found
