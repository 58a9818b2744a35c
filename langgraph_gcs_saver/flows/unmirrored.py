"""Finds objects that are not alike in a store's two buckets.

Such objects are from before the store had a mirror, or a bucket has lost or changed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from langgraph_gcs_saver.engine.effects import BlobInfo, Doc, Flow, Gather, InBucket, ListBlobs
from langgraph_gcs_saver.engine.steps import together
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.listing import list_all
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Finding

_SHARED = (f"{keys.DICTIONARIES}/", f"{keys.OPERATION_BLOBS}/")
"""Prefixes of the objects that belong to no thread. Results of nodes are not among them: they can be computed again."""

_AT_ONCE = 20
"""Objects that are looked up at the same time."""


@record(frozen=True, slots=True)
class Copies:
    """An object as each bucket lists it; `None` if the bucket has no such object."""

    first: BlobInfo | None
    mirror: BlobInfo | None

    @property
    def are_alike(self) -> bool:
        """Whether both buckets have the same bytes."""
        return _content(self.first) == _content(self.mirror)

    @property
    def reason(self) -> str:
        """What is wrong, if they are not alike."""
        if self.first is None:
            return "the bucket has no such object, and its mirror does"
        return "the mirror has no such object" if self.mirror is None else "the bucket and its mirror have other bytes"


def _content(info: BlobInfo | None) -> tuple[int, str | None] | None:
    return None if info is None else (info.size, info.crc32c)


def list_copies(prefix: str) -> Flow[dict[str, Copies]]:
    """The store's objects in either bucket whose names begin with `prefix`, by name."""
    first, mirror = yield from together(list_all(prefix, mirror=False), list_all(prefix, mirror=True))
    return {name: Copies(first.get(name), mirror.get(name)) for name in first.keys() | mirror.keys()}


def still_unlike(names: Iterable[str]) -> Flow[dict[str, Copies]]:
    """Those objects whose copies are not alike now. One that was deleted, or stored in both buckets, is not among them.

    Args:
        names: The objects.
    """
    found: dict[str, Copies] = {}
    wanted = sorted(names)
    for at in range(0, len(wanted), _AT_ONCE):
        page = wanted[at : at + _AT_ONCE]
        looks = [InBucket(ListBlobs(name, limit=1), mirror=mirror) for name in page for mirror in (False, True)]
        infos = iter((yield from Gather(tuple(looks))))
        for name, first, mirror in zip(page, infos, infos, strict=True):
            copies = Copies(_named(name, first), _named(name, mirror))
            if not copies.are_alike:
                found[name] = copies
    return found


def _named(name: str, infos: Sequence[BlobInfo] | None) -> BlobInfo | None:
    return next((info for info in infos or () if info.name == name), None)


def is_needed(referrers: Mapping[str, Doc], now: Mapping[str, Doc]) -> bool:
    """Whether one of the documents that refer to an object still exists.

    Args:
        referrers: The documents as they were read, by name.
        now: Those that exist now.
    """
    return any(name in now and now[name].create_time == doc.create_time for name, doc in referrers.items())


def findings(thread_id: str, copies: Mapping[str, Copies]) -> list[Finding]:
    """The findings about objects whose copies are not alike."""
    return [
        Finding(kind="unmirrored", thread_id=thread_id, name=name, reason=one.reason)
        for name, one in sorted(copies.items())
    ]


def shared(context: Context) -> Flow[dict[str, Copies]]:
    """The objects that belong to no thread, and whose copies are not alike."""
    names: set[str] = set()
    for prefix in _SHARED if context.is_mirrored else ():
        for mirror in (False, True):
            names.update((yield from _names(prefix, mirror=mirror)))
    return (yield from still_unlike(names))


def _names(prefix: str, *, mirror: bool) -> Flow[list[str]]:
    found: list[str] = []
    after: str | None = None
    while page := (yield from InBucket(ListBlobs(prefix, after, checksums=False), mirror=mirror)):
        found += [blob.name for blob in page if keys.is_blob(blob.name) or keys.dictionary_of(blob.name) is not None]
        after = page[-1].name
    return found
