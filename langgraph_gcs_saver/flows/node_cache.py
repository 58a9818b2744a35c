"""Results of nodes that are kept for a time: reads, writes, and what deletes them.

A result is a document of its own, `lg_cache/{namespace}-{key}`. Its field `entry` is an envelope. The head has the time
of expiry, and the tail is the result, unless the head refers to an object. A write replaces the document. An object to
which nothing refers any more stays until `sweep` finds it.

Nothing depends on a cached result: without it, the node runs. So what is damaged, was written with another key or by a
newer version counts as missing, and nothing is read back. Times are those of the processes' clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    Commit,
    Compute,
    Delete,
    DeleteBlobs,
    Doc,
    Flow,
    GetDocs,
    ListBlobs,
    Merge,
    QueryDocs,
    Time,
)
from langgraph_gcs_saver.errors import UnsupportedFormatError, WrongKeyError
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.manifests import make_stub, read_stub
from langgraph_gcs_saver.format import frames, keys, seals
from langgraph_gcs_saver.format.checks import optional, typed
from langgraph_gcs_saver.format.frames import Codec, FrameError
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, Serialized, Stub, stub_of
from langgraph_gcs_saver.records import record

ENTRY = "entry"
"""The field of the envelope."""

EXPIRES = "expires"
"""The field of the time of expiry, for a TTL policy of Firestore."""

INLINE_BYTES = 900 << 10
"""Most bytes of a result in its document, as of an operation's result. Other fields need the rest of 1 MiB."""

_UNREADABLE = (DamagedError, FrameError, UnsupportedFormatError, WrongKeyError)

_DOCS_AT_ONCE = 25
"""Documents that are read at once. Each may have almost 1 MiB."""


@record(frozen=True, slots=True)
class Entry:
    """A result of a node.

    Attributes:
        value: The result; its bytes are empty if they are in an object.
        expires: When it expires, in nanoseconds since the epoch; `None` for never.
        stub: Refers to the object, if there is one.
    """

    value: Serialized
    expires: int | None
    stub: Stub | None = None

    def has_expired(self, now: int) -> bool:
        """Whether it must not be used any more."""
        return self.expires is not None and self.expires <= now


def read(names: Sequence[str], now: int, context: Context) -> Flow[tuple[dict[str, Serialized], int]]:
    """Results by the names of their documents, without those that have expired, and the number of unreadable ones."""
    found: dict[str, Serialized] = {}
    unreadable = 0
    for at in range(0, len(names), _DOCS_AT_ONCE):
        for doc in (yield from GetDocs(tuple(names[at : at + _DOCS_AT_ONCE]))).values():
            value = yield from _kept(doc, now, context)
            if isinstance(value, Serialized):
                found[doc.name] = value
            else:
                unreadable += value
    return found, unreadable


def _kept(doc: Doc, now: int, context: Context) -> Flow[Serialized | bool]:
    """A result that has not expired; else whether it cannot be read."""
    try:
        one = yield from _entry(doc, context)
        return False if one.has_expired(now) else (yield from _value(doc.name, one, context))
    except _UNREADABLE:
        return True


def _entry(doc: Doc, context: Context) -> Flow[Entry]:
    """Read a document; raises `_UNREADABLE`."""
    seals.check_format(doc, "Cached result")
    size = len(data) if isinstance(data := doc.fields.get(ENTRY), bytes) else 0
    return (yield from Compute(partial(_parse, doc, context.codec), size=size))


def _parse(doc: Doc, codec: Codec) -> Entry:
    head, tail = seals.opened(doc.name, seals.plain_of(doc, ENTRY, codec))
    try:
        stub = stub_of({"gcs": head["gcs"]}) if "gcs" in head else None
        return Entry(Serialized(typed(head["type"], str), tail), optional(head["expires"], int), stub)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a cached result does not parse: {type(error).__name__}", frame=doc.name) from None


def _value(name: str, one: Entry, context: Context) -> Flow[Serialized]:
    if one.stub is None:
        return one.value
    data = yield from read_stub(keys.cache_blob(name, one.stub.attempt), one.stub, context.codec)
    return Serialized(one.value.type, data)


def write(entries: Mapping[str, Entry], context: Context) -> Flow[None]:
    """Store results, by the names of their documents, in place of former ones.

    Raises:
        ValueTooLargeError: One is larger than `max_value_bytes`.
    """
    for name, one in entries.items():
        data, codec = one.value.data, context.codec
        head: dict[str, object] = {"type": one.value.type, "expires": one.expires}
        if len(data) > INLINE_BYTES or not context.inline_max_bytes:
            attempt = context.new_attempt()
            stub, stored = yield from Compute(partial(make_stub, data, attempt, codec), size=len(data))
            yield from context.upload(keys.cache_blob(name, attempt), stored)
            head, data = {**head, **stub.head()}, b""
        seal = partial(seals.close, frames.envelope(head, data), (name, ENTRY), codec)
        entry = yield from Compute(seal, size=len(data))
        expires = None if one.expires is None else Time(one.expires)
        yield from Commit((Merge(name, {"format": FORMAT, ENTRY: entry, EXPIRES: expires}),))


def clear(namespaces: Iterable[Iterable[str]] | None, _: Context) -> Flow[None]:
    """Delete the results of namespaces; of all for `None`."""
    for begin in [""] if namespaces is None else map(keys.cache_namespace, namespaces):
        while docs := (yield from _page(begin, None, mask=())):
            yield from Commit(tuple(Delete(doc.name) for doc in docs))
        yield from _delete_blobs((yield from _blobs(begin)))


def sweep(now: int, age: int, context: Context) -> Flow[int]:
    """Delete results that have expired or are damaged, and objects that no document refers to.

    Args:
        now: The time, in nanoseconds since the epoch.
        age: How old such an object must be, in nanoseconds. A younger one may belong to a write under way.
        context: Options.

    Returns:
        The number of results that were deleted.
    """
    needed: set[str] = set()
    hidden: set[str] = set()
    count = 0
    after: str | None = None
    while docs := (yield from _page("", after)):
        after = docs[-1].name
        for doc in docs:
            try:
                one: Entry | None = yield from _entry(doc, context)
            except (WrongKeyError, UnsupportedFormatError):  # another saver's, with its objects
                hidden.add(doc.name)
                continue
            except DamagedError:
                one = None
            if one is None or one.has_expired(now):
                # Unless it was replaced meanwhile.
                count += (yield from Commit((Delete(doc.name, update_time=doc.update_time),))) is not None
            elif one.stub is not None:
                needed.add(keys.cache_blob(doc.name, one.stub.attempt))
    yield from _delete_blobs(
        [
            blob
            for blob in (yield from _blobs(""))
            if blob.name not in needed and keys.cache_doc_of(blob.name) not in hidden and blob.create_time <= now - age
        ]
    )
    return count


def _page(begin: str, after: str | None, *, mask: tuple[str, ...] | None = None) -> Flow[list[Doc]]:
    start, end = keys.cache_range(begin)
    return (yield from QueryDocs(keys.CACHE, start=start, after=after, end=end, limit=_DOCS_AT_ONCE, mask=mask))


def _blobs(begin: str) -> Flow[list[BlobInfo]]:
    """All objects whose documents' names begin so. Others with the prefix are not the cache's."""
    found: list[BlobInfo] = []
    after: str | None = None
    while page := (yield from ListBlobs(f"{keys.CACHE_BLOBS}/{begin}", after, checksums=False)):
        found += [blob for blob in page if keys.is_cache_blob(blob.name)]
        after = page[-1].name
    return found


def _delete_blobs(blobs: Sequence[BlobInfo]) -> Flow[None]:
    for at in range(0, len(blobs), limits.BATCH_CALLS):
        yield from DeleteBlobs(tuple(blob.name for blob in blobs[at : at + limits.BATCH_CALLS]))
