"""Blobs: large data beside the state, which holds only a dict that names it.

A blob has a document with one sealed envelope, which lists the blob's segments. Small blobs are the envelope's tail.
Otherwise each segment is an envelope in an object, and the list has its digest. So a segment in another place, or of
another blob, is noticed.

The name of the document is a keyed digest of the content. The thread's key is in a document of its own. Without the
key, a name does not show which content the thread has.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Doc, Fields
from langgraph_gcs_saver.format import frames, keys, seals
from langgraph_gcs_saver.format.checks import natural, require, typed
from langgraph_gcs_saver.format.common_bytes import same_after
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, Serialized, Stub, stub_of
from langgraph_gcs_saver.portable import PortableSerializer, Stored
from langgraph_gcs_saver.records import record

TYPE = "lg_blob"
"""The `type` of a dict that names a blob. Serialized values without these bytes name none."""

BLOB = "blob"
"""The field that holds everything about a blob."""

KEY = "key"
"""The field that holds the key of a thread's names of blobs."""

UNLISTED = "unlisted"
"""The field that a collection sets in a blob's document when it finds nothing that lists the blob."""

KEY_BYTES = 32

_MARK = re.compile(TYPE.encode())

_AROUND = 4 << 10
"""Bytes around a change that are searched, too, because a dict may have got its digest now."""

_DIGITS = 64
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_HEX = re.compile(rb"[0-9a-f]{64,}")

_BESIDE = 16
"""Most hex digits beside a digest that belong to something else. A longer row of digits is no digest."""


@record(frozen=True, slots=True)
class Blob:
    """A blob, as its document says.

    Attributes:
        document: The document's name.
        digest: The hex sha256 of the content.
        size: Bytes of the content.
        segment_bytes: Bytes of each segment but the last.
        segments: The segments' objects, in order; none if `inline` is the content.
        inline: The content of a small blob.
        files: The ids of the documents of the blobs that a tree lists.
        is_unlisted: Whether a collection found nothing that lists the blob.
        time: The document's update time.
    """

    document: str
    digest: str
    size: int
    segment_bytes: int = 0
    segments: tuple[Stub, ...] = ()
    inline: bytes = b""
    files: tuple[str, ...] = ()
    is_unlisted: bool = False
    time: int = 0

    def object(self, number: int) -> str:
        """The name of the object of a segment."""
        return keys.segment_blob(self.document, number, self.segments[number].attempt)


def id_of(key: bytes, digest: str) -> str:
    """The id of a blob's document: a keyed digest of its content."""
    return hmac.new(key, digest.encode(), hashlib.sha256).hexdigest()[: keys.BLOB_DIGITS]


# Documents


def fields_of(blob: Blob, codec: Codec) -> dict[str, Any]:
    """The fields of a blob's document."""
    head: dict[str, Any] = {"digest": blob.digest, "size": blob.size}
    if blob.segments:
        head["bytes"] = blob.segment_bytes
        head["segments"] = [stub.head()["gcs"] for stub in blob.segments]
    if blob.files:
        head["files"] = list(blob.files)
    stored = seals.close(frames.envelope(head, blob.inline), (blob.document, BLOB), codec)
    return {"format": FORMAT, BLOB: stored}


def parse(doc: Doc, codec: Codec) -> Blob:
    """The blob of a document.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version of this library wrote it.
        WrongKeyError: It was encrypted with another key.
    """
    seals.check_format(doc, "Blob")
    head, tail = seals.opened(doc.name, seals.plain_of(doc, BLOB, codec))
    try:
        return _parsed(doc, head, tail)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a blob does not parse: {type(error).__name__}", frame=doc.name) from None


def _parsed(doc: Doc, head: Any, tail: bytes) -> Blob:
    digest, size = typed(head["digest"], str), natural(head["size"])
    require(_DIGEST.match(digest) is not None)
    segments = tuple([_stub(found) for found in head.get("segments", ())])
    segment_bytes = natural(head["bytes"]) if segments else 0
    if segments:
        require(not tail and 0 < segment_bytes <= frames.ENVELOPE_MAX_BYTES)
        require(len(segments) == -(-size // segment_bytes))
    else:
        require(len(tail) == size)
    files = tuple([typed(one, str) for one in head.get("files", ())])
    require(all(map(keys.is_blob_id, files)))
    return Blob(
        document=doc.name,
        digest=digest,
        size=size,
        segment_bytes=segment_bytes,
        segments=segments,
        inline=tail,
        files=files,
        is_unlisted=UNLISTED in doc.fields,
        time=doc.update_time,
    )


def _stub(found: Any) -> Stub:
    stub = stub_of({"gcs": found})
    require(stub is not None and stub.size <= frames.ENVELOPE_MAX_BYTES + _HEAD_ROOM)
    return stub  # type: ignore[return-value]  # `require` has checked it


_HEAD_ROOM = 1 << 10
"""Most bytes of a segment's head."""


def key_fields(name: str, key: bytes, codec: Codec) -> dict[str, Any]:
    """The fields of the document `name` with a thread's key."""
    return {"format": FORMAT, KEY: seals.close(frames.envelope({}, key), (name, KEY), codec)}


def parse_key(doc: Doc, codec: Codec) -> bytes:
    """The key of a thread's names of blobs; raises as `parse` does."""
    seals.check_format(doc, "Key")
    _, key = seals.opened(doc.name, seals.plain_of(doc, KEY, codec))
    if len(key) != KEY_BYTES:
        raise DamagedError("a key of blobs has a wrong length", frame=doc.name)
    return key


# Segments


def segment(number: int, data: bytes) -> bytes:
    """The envelope of a segment."""
    return frames.envelope({"number": number}, data)


def open_segment(name: str, number: int, plain: bytes, size: int) -> bytes:
    """The bytes in the envelope of a segment.

    Raises:
        DamagedError: It is not that of this segment.
    """
    head, data = seals.opened(name, plain)
    if head != {"number": number} or len(data) != size:
        raise DamagedError("a segment of a blob is another one", frame=name)
    return data


# What the registry needs


def objects(doc: Doc, codec: Codec) -> dict[str, Stub]:
    """The objects of a blob's document, by name; none of the document with the key.

    Raises:
        DamagedError: The document is damaged.
    """
    if keys.is_blob_key_doc(doc.name):
        parse_key(doc, codec)
        return {}
    blob = parse(doc, codec)
    return {blob.object(number): stub for number, stub in enumerate(blob.segments)}


def files(doc: Doc, codec: Codec) -> tuple[str, ...]:
    """The ids of the blobs that a document of blobs lists; raises as `parse` does."""
    return () if keys.is_blob_key_doc(doc.name) else parse(doc, codec).files


def copied(doc: Doc, name: str, attempt: Callable[[str], str], codec: Codec) -> Fields:
    """The fields of a document of blobs, as the document `name` elsewhere would have them.

    The key is the same in the copy, and so are the ids of documents.

    Raises:
        DamagedError: The document is damaged.
    """
    if keys.is_blob_key_doc(doc.name):
        return key_fields(name, parse_key(doc, codec), codec)
    blob = parse(doc, codec)
    segments = tuple([replace(stub, attempt=attempt(stub.attempt)) for stub in blob.segments])
    return fields_of(replace(blob, document=name, segments=segments), codec)


def equal(doc: Doc, fields: Fields, codec: Codec) -> bool:
    """Whether a document is a copy with the given fields. Each encryption has other bytes."""
    other = replace(doc, fields=fields)
    try:
        if keys.is_blob_key_doc(doc.name):
            return parse_key(doc, codec) == parse_key(other, codec)
        return replace(parse(doc, codec), is_unlisted=False) == replace(parse(other, codec), is_unlisted=False)
    except DamagedError:
        return False


def is_clear(doc: Doc, codec: Codec) -> bool:
    """Whether the cipher does not vouch for a document of blobs, which can be read."""
    field = KEY if keys.is_blob_key_doc(doc.name) else BLOB
    return not codec.vouches_for(doc.fields[field][seals.SEAL_BYTES :])


# Values that name blobs


def digests_in(value: Serialized, without: bytes | None = None) -> tuple[str, ...]:
    """The digests of the blobs that a serialized value names, in ascending order.

    A value without the marker's bytes is not decoded. Where a text, bytes or a value of another serializer has the
    marker, every 64 hex digits in it count, because its structure is unknown.

    Args:
        value: The value.
        without: An earlier version of it that names no blob. What both have in common is not searched.
    """
    if not _has_mark(value.data, without):
        return ()
    if value.type == "msgpack":
        try:
            return tuple(sorted(set(_named(PortableSerializer().loads_typed((value.type, value.data))))))
        except (ValueError, RecursionError):
            pass  # Not as LangGraph's serializer writes it.
    return tuple(sorted(set(_digits(value.data))))


def _has_mark(data: bytes, without: bytes | None) -> bool:
    if without is None or len(data) <= 2 * _AROUND:
        return _MARK.search(data) is not None
    # A value that grew differs at its beginning, which may have a list's length, and at its end.
    same = _AROUND + same_after(data, _AROUND, without, _AROUND)
    return _MARK.search(data, 0, 2 * _AROUND) is not None or _MARK.search(data, same - _AROUND) is not None


def _named(value: Any) -> Iterator[str]:
    match value:
        case Stored():
            yield from _named(value.payload)
        case dict():
            digest = value.get("digest")
            if value.get("type") == TYPE and isinstance(digest, str) and _DIGEST.match(digest):
                yield digest
            for key, item in value.items():
                yield from _named(key)
                yield from _named(item)
        case list() | tuple():
            for item in value:
                yield from _named(item)
        case str():
            # LangGraph's `ToolNode` makes JSON of a dict that a tool returns.
            if TYPE in value:
                yield from _digits(value.encode(errors="replace"))
        case bytes() | bytearray():
            if _MARK.search(value):
                yield from _digits(value)


def _digits(data: bytes | bytearray) -> Iterator[str]:
    """All rows of 64 hex digits. The bytes beside a digest may be such digits, too."""
    for found in _HEX.finditer(data):
        digits = found.group().decode()
        if len(digits) <= _DIGITS + _BESIDE:
            yield from (digits[at : at + _DIGITS] for at in range(len(digits) - _DIGITS + 1))


def named(blob: object) -> tuple[str, int] | None:
    """The digest and the size that a dict names; `None` if it is no dict of a blob."""
    if not isinstance(blob, Mapping) or blob.get("type") != TYPE:
        return None
    digest, size = blob.get("digest"), blob.get("size")
    if not isinstance(digest, str) or not _DIGEST.match(digest) or type(size) is not int or size < 0:
        return None
    return digest, size


def all_digests(values: Sequence[Serialized]) -> tuple[str, ...]:
    """The digests of the blobs that several values name."""
    return tuple(sorted({digest for value in values for digest in digests_in(value)}))
