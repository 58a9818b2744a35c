"""Manifests: the content of a checkpoint's document, as frozen dataclasses and as stored fields.

A document holds `format`, `ns`, `run_id` and `filter` for queries, `manifest` and `frames` (bytes), and `digest`, the
sha256 of name and manifest. `heir`, the id of the latest child, is the only field that children change.
`fence` names a lease. Neither is covered by the digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Literal, cast

from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.errors import SerializationError, UnsupportedFormatError, ValueTooLargeError
from langgraph_gcs_saver.format import frames, keys, shapes, trained
from langgraph_gcs_saver.records import record

FORMAT = 1
"""Version of the stored format in every document that uses nothing of a later one."""

NEWEST_FORMAT = 2
"""Greatest version of a checkpoint's document that is read. A reader raises an error for a greater one."""

PAYLOAD_BYTES = 900_000
"""Most bytes of manifest and frames in a document: `limits.DOCUMENT_BYTES` minus names, filter and headroom."""

DIGEST_DIGITS = 8
"""Hex digits that a chain keeps of the digest of each value before the last.

They detect accidents before another value builds on that value. The value that is returned is checked by its whole
digest. Every manifest repeats its chains, so each digit costs space.
"""

INNER_BYTES = 512 << 10
"""Most bytes of frames in a document. Small frames that exceed it together share one object."""

CHAIN_FRAMES = 64
"""Most frames of a chain that is read. Writers make at most `chains.MAX_FRAMES`."""

CHAIN_SIZES = 16
"""Most bytes of all values of a chain together, as a multiple of the largest. It bounds the work of decoding."""

_SHA256_DIGITS = 64

_NATURAL = 2**53 - 1
"""Greatest number in the format: every JSON parser keeps integers up to this one exactly."""

_FRAME_SHARE, _FRAME_MORE = 4, 64 << 10
"""Most stored bytes of a frame: this many times its value's bytes, and this many more. It leaves room for a cipher."""


class DamagedError(Exception):
    """Stored bytes that are missing, do not match their digest, or do not parse.

    The message says what is wrong; callers add the checkpoint. If known, `channel`, `frame` (the name of a document or
    object) and `at` (an offset in it) say where. `missing` means that nothing is there. `clear` means that the cipher
    does not vouch for the bytes.
    """

    def __init__(
        self,
        reason: str,
        *,
        channel: str | None = None,
        frame: str | None = None,
        at: int = 0,
        missing: bool = False,
        clear: bool = False,
    ) -> None:
        super().__init__(reason)
        self.missing = missing
        self.clear = clear
        self.reason = reason
        self.channel = channel
        self.frame = frame
        self.at = at

    def alone(self) -> DamagedError:
        """A copy without the traceback and the context, whose frames hold everything that was read.

        Flows that look at a whole thread keep the errors of all its checkpoints, so these must be small.
        """
        return copy(self)

    @property
    def kind(self) -> Literal["missing", "corrupt", "clear"]:
        """The kind of damage, as findings name it."""
        return "missing" if self.missing else "clear" if self.clear else "corrupt"


@record(frozen=True, slots=True)
class Serialized:
    """A value as LangGraph's serializer wrote it: a type tag and bytes."""

    type: str
    data: bytes


@record(frozen=True, slots=True)
class FrameRef:
    """The location of one frame, and the value that it decodes to.

    Attributes:
        k: Number of the version, counted from its base; 0 is a full frame.
        stored: Bytes of the frame.
        owner: Id of the checkpoint that wrote it; `None` for the checkpoint that the manifest belongs to.
        at: Offset in the owner's `frames` field, or in the object.
        attempt: For a frame in an object, the attempt in the object's name.
        packed: Whether the object holds many small frames, and not only this one.
        crc32c: Checksum of an object that holds only this frame.
        size: Bytes of the value that the frame decodes to; `None` for the last frame of a chain, which decodes to the
            channel's value.
        digest: First digits of that value's digest; `None` for the last frame of a chain.
        format: Lowest version of the format whose readers can decode the frame.
    """

    k: int
    stored: int
    owner: str | None = None
    at: int = 0
    attempt: str | None = None
    packed: bool = False
    crc32c: str | None = None
    size: int | None = None
    digest: str | None = None
    format: int = FORMAT

    def inherited(self, owner: str) -> FrameRef:
        """The same frame, as a child of checkpoint `owner` refers to it."""
        if self.owner is not None:
            return self
        # `replace` would take six times as long, and a put does this a dozen times.
        return FrameRef(
            self.k,
            self.stored,
            owner,
            self.at,
            self.attempt,
            self.packed,
            self.crc32c,
            self.size,
            self.digest,
            self.format,
        )


@record(frozen=True, slots=True)
class ChannelRef:
    """A channel's value: its digest, and the frames that it is decoded from.

    Attributes:
        version: LangGraph's version of the channel; `None` for a channel without one.
        type: The serializer's type tag.
        sha256: Digest of the serialized value (`digests`), in hex.
        size: Bytes of the serialized value.
        chain: The frames to decode, base first, each on the value of the frame before it. Empty for zero bytes.
        blobs: Digests of the blobs that the value names.
    """

    version: str | int | float | None
    type: str
    sha256: str
    size: int
    chain: tuple[FrameRef, ...]
    blobs: tuple[str, ...] = ()

    def inherited(self, owner: str) -> ChannelRef:
        """The same value, as a child of checkpoint `owner` refers to it."""
        chain = tuple([frame.inherited(owner) for frame in self.chain])
        return ChannelRef(self.version, self.type, self.sha256, self.size, chain, self.blobs)

    def links(self, owner: str) -> tuple[FrameRef, ...]:
        """The chain as a child of checkpoint `owner` builds on it: each frame has the size and digest of its value."""
        *inner, last = self.inherited(owner).chain
        return (*inner, replace(last, size=self.size, digest=self.sha256[:DIGEST_DIGITS]))


Place = tuple[str, int, int, int, str]
"""A frame as a manifest describes it: its document or object, offset and size, and the size and digest of its value.

Another manifest may describe the same bytes otherwise, because it is forged, or from before they were replaced.
"""


@record(frozen=True, slots=True)
class Step:
    """One frame of a value's chain.

    Attributes:
        name: Name of the document or object that holds it.
        frame: Its location there.
        digest: First digits of the digest of the value that it decodes to; all digits for the last frame of a chain.
        size: Bytes of that value.
    """

    name: str
    frame: FrameRef
    digest: str
    size: int

    @property
    def place(self) -> Place:
        """A key that no other frame has, nor any other description of this one."""
        return self.name, self.frame.at, self.frame.stored, self.size, self.digest[:DIGEST_DIGITS]


@record(frozen=True, slots=True)
class Manifest:
    """A checkpoint without its values.

    Attributes:
        thread_id: The thread.
        ns: The namespace.
        checkpoint_id: The checkpoint.
        parent_id: The checkpoint that it continues.
        checkpoint: The checkpoint's plain fields, without `id` and `channel_values`.
        rest: The checkpoint's other fields as a serialized dict, or `None`.
        metadata: The serialized metadata.
        channels: A ref for each channel that has a value.
        dictionaries: Ids of the trained dictionaries that may be needed for the manifest's frame and for its values.
    """

    thread_id: str
    ns: str
    checkpoint_id: str
    parent_id: str | None
    checkpoint: Mapping[str, Any]
    rest: Serialized | None
    metadata: Serialized
    channels: Mapping[str, ChannelRef]
    dictionaries: tuple[str, ...] = ()

    def outline(self) -> Manifest:
        """The part of a manifest that a child needs: ids and refs."""
        return replace(self, checkpoint={}, rest=None, metadata=Serialized("", b""))

    @property
    def name(self) -> str:
        """The document's name."""
        return keys.checkpoint_doc(self.thread_id, self.ns, self.checkpoint_id)

    @property
    def size(self) -> int:
        """Bytes of all serialized values."""
        return sum(ref.size for ref in self.channels.values())

    @property
    def values(self) -> str:
        """The phrase that names its values in error messages."""
        return f"The serialized values of checkpoint {self.checkpoint_id!r}, thread {self.thread_id!r},"

    @property
    def format(self) -> int:
        """Lowest version of the format whose readers can read the checkpoint.

        It is the greatest that any of its frames needs. Older readers refuse a document that states a greater version
        than theirs, and do not report damage.
        """
        if self.dictionaries:
            return NEWEST_FORMAT
        return max([frame.format for ref in self.channels.values() for frame in ref.chain], default=FORMAT)

    @property
    def held(self) -> int:
        """Most bytes that stay in memory for it while other checkpoints are decoded.

        They hold its metadata, its other fields, and one value of each chain.
        """
        found = len(self.metadata.data) + (0 if self.rest is None else len(self.rest.data))
        for ref in self.channels.values():
            sizes = [frame.size for frame in ref.chain if frame.size is not None]
            found += max((ref.size, *sizes))
        return found

    @property
    def made(self) -> float | None:
        """When LangGraph made it, in seconds since the epoch; `None` if the checkpoint does not say."""
        try:
            # Python 3.10 does not parse "Z".
            found = datetime.fromisoformat(str(self.checkpoint.get("ts")).replace("Z", "+00:00"))
            return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
        except (ValueError, OverflowError):
            return None

    def same_content(self, other: Manifest) -> bool:
        """Whether both have the same content. A retried `put` writes its frames elsewhere, so places may differ."""
        mine, theirs = (replace(one, channels=_values(one), dictionaries=()) for one in (self, other))
        return mine == theirs

    @property
    def listed_blobs(self) -> set[str]:
        """Digests of the blobs that the values name."""
        return {digest for ref in self.channels.values() for digest in ref.blobs}

    def blob(self, channel: str, ref: FrameRef) -> str:
        """Name of the object that holds a frame. `ref` must have an `attempt`."""
        what = keys.FRAMES if ref.packed else keys.enc(channel, "channel")
        return keys.blob(self.thread_id, self.ns, ref.owner or self.checkpoint_id, what, str(ref.attempt))

    def place(self, channel: str, ref: FrameRef) -> str:
        """Name of the document or object that holds a frame."""
        if ref.attempt is not None:
            return self.blob(channel, ref)
        return keys.checkpoint_doc(self.thread_id, self.ns, ref.owner or self.checkpoint_id)

    def steps(self, channel: str) -> list[Step]:
        """The frames of a channel's value, base first."""
        ref = self.channels[channel]
        if not ref.chain:
            return []
        *links, last = ref.chain
        found = [Step(self.place(channel, link), link, str(link.digest), link.size or 0) for link in links]
        return [*found, Step(self.place(channel, last), last, ref.sha256, ref.size)]

    def blobs(self) -> set[str]:
        """Names of all objects that the channels refer to."""
        return {self.blob(c, f) for c, ref in self.channels.items() for f in ref.chain if f.attempt is not None}


def _values(manifest: Manifest) -> dict[str, ChannelRef]:
    return {channel: replace(ref, chain=()) for channel, ref in manifest.channels.items()}


# Manifest <-> bytes


def _frame_to_json(ref: FrameRef) -> dict[str, Any]:
    found: dict[str, Any] = {"k": ref.k}
    if ref.format != FORMAT:
        found["v"] = ref.format
    if ref.owner is not None:
        found["in"] = ref.owner
    found["stored"] = ref.stored
    if ref.at or ref.packed:
        found["at"] = ref.at
    if ref.attempt is not None:
        found["gcs"] = ref.attempt
        if ref.crc32c is not None:
            found["crc32c"] = ref.crc32c
    if ref.digest is not None:
        found["size"] = ref.size
        found["digest"] = ref.digest
    return found


class _ShapeError(ValueError):
    """A part of a manifest that no writer would make. The message names the part and never shows its content."""


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _NATURAL:
        raise _ShapeError("a number that is not a natural number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _ShapeError("a value that is not text")
    return value


def _id(value: Any) -> str:
    """A checkpoint's id, which must fit into a name."""
    if type(value) is not str or not value.isascii() or len(value) > keys.MAX_CHECKPOINT_ID:
        keys.inv(_text(value))
    return cast("str", value)


def _version(value: Any) -> str | int | float | None:
    if not shapes.is_version(value):
        raise _ShapeError("a version that is neither text nor a number")
    return cast("str | int | float | None", value)


def _checkpoint(value: Any) -> dict[str, Any]:
    wrong = shapes.wrong_in_checkpoint(value)
    if wrong is not None:
        raise _ShapeError(wrong)
    return cast("dict[str, Any]", value)


def _check_tail(tail: bytes, size: int) -> None:
    if len(tail) != size:
        raise _ShapeError("a tail of the wrong length")


def _attempt(value: Any) -> str:
    if not keys.ATTEMPT.match(_text(value)):
        raise _ShapeError("an invalid attempt")
    return str(value)


def _dictionary(value: Any) -> str:
    if not trained.is_id(value):
        raise _ShapeError("an id that no dictionary has")
    return str(value)


def _digest(value: Any, digits: int) -> str:
    if type(value) is not str or len(value) != digits:
        raise _ShapeError("a digest of the wrong length")
    return value


def _frame_from_json(found: dict[str, Any]) -> FrameRef:
    get = found.get
    attempt, crc32c, size = get("gcs"), get("crc32c"), get("size")
    return FrameRef(
        k=_natural(found["k"]),
        stored=_natural(found["stored"]),
        owner=_id(found["in"]) if "in" in found else None,
        at=_natural(found["at"]) if "at" in found else 0,
        attempt=None if attempt is None else _attempt(attempt),
        packed=attempt is not None and "at" in found,
        crc32c=None if crc32c is None else _text(crc32c),
        size=None if size is None else _natural(size),
        digest=None if size is None else _digest(found["digest"], DIGEST_DIGITS),
        format=_natural(found["v"]) if "v" in found else FORMAT,
    )


def _chain(channel: str, found: list[dict[str, Any]], size: int) -> tuple[FrameRef, ...]:
    """The chain of a value of `size` bytes.

    The memory and time that reading may take are bounded here, before anything is fetched.
    """
    if len(found) > CHAIN_FRAMES:
        raise _ShapeError("a chain of too many frames")
    chain = tuple(map(_frame_from_json, found))
    if chain and chain[0].k != 0:
        raise _ShapeError("a chain without a full frame")
    largest = total = 0
    for left, frame in enumerate(reversed(chain)):
        gives = frame.size if left else size
        if gives is None:
            raise _ShapeError("a chain with a frame that does not state the size of its value")
        if frame.attempt is not None and not frame.packed:
            keys.enc(channel, "channel")  # The object's name contains it, so it must be encodable.
        if frame.stored > _FRAME_SHARE * gives + _FRAME_MORE:
            raise _ShapeError("a frame that is too large for its value")
        largest = max(largest, gives)
        total += gives
    if total > CHAIN_SIZES * largest:
        raise _ShapeError("a chain whose values together are too large")
    return chain


def _ref(channel: str, found: dict[str, Any], versions: Mapping[str, Any]) -> ChannelRef:
    size = _natural(found["size"])
    return ChannelRef(
        version=_version(found["version"]) if "version" in found else versions.get(channel),
        type=_text(found["type"]),
        sha256=_digest(found["sha256"], _SHA256_DIGITS),
        size=size,
        chain=_chain(channel, found["chain"], size),
        blobs=tuple([_digest(one, _SHA256_DIGITS) for one in found.get("blobs", ())]),
    )


def envelope(manifest: Manifest) -> bytes:
    """Serialize a manifest: JSON and the serialized metadata.

    Ids that can be read back from the document's name are not repeated. Ids that are too long for that are included.
    """
    versions = manifest.checkpoint.get("channel_versions", {})
    channels = {}
    for channel, ref in manifest.channels.items():
        channels[channel] = found = {"type": ref.type, "sha256": ref.sha256, "size": ref.size}
        if ref.version != versions.get(channel) or type(ref.version) is not type(versions.get(channel)):
            found["version"] = ref.version
        found["chain"] = [_frame_to_json(frame) for frame in ref.chain]
        if ref.blobs:
            found["blobs"] = list(ref.blobs)
    head: dict[str, Any] = {
        "checkpoint": manifest.checkpoint,
        "parent": manifest.parent_id,
        "metadata": [manifest.metadata.type, len(manifest.metadata.data)],
        "channels": channels,
    }
    if manifest.dictionaries:
        head["dictionaries"] = list(manifest.dictionaries)
    tail = manifest.metadata.data
    if manifest.rest is not None:
        head["rest"] = [manifest.rest.type, len(manifest.rest.data)]
        tail += manifest.rest.data
    ids = {"thread": manifest.thread_id, "ns": manifest.ns}
    head.update({key: value for key, value in ids.items() if keys.dec(keys.enc(value)) is None})
    try:
        return frames.envelope(head, tail)
    except ValueTooLargeError as error:
        raise ValueTooLargeError(
            f"Checkpoint {manifest.checkpoint_id!r} of thread {manifest.thread_id!r} has {len(channels):,} channels. "
            f"{error} Nothing was stored."
        ) from None
    except (TypeError, ValueError, RecursionError):
        odd = next((channel for channel, ref in manifest.channels.items() if not frames.is_json(ref.version)), None)
    if odd is None:
        raise SerializationError(
            f"Checkpoint {manifest.checkpoint_id!r} of thread {manifest.thread_id!r} is nested too deeply for JSON. "
            "Nothing was stored."
        )
    raise SerializationError(
        f"Checkpoint {manifest.checkpoint_id!r} of thread {manifest.thread_id!r} has a version of channel {odd!r} that "
        f"JSON cannot hold. Its type is {type(manifest.channels[odd].version).__name__}. Nothing was stored."
    )


def digest(name: str, manifest: bytes) -> bytes:
    """The sha256 of a manifest and its document's name, so that swapped documents are noticed.

    The digest does not cover frames, because each value has its own digest. So a corrupt frame leaves the manifest
    readable.
    """
    return hashlib.sha256(b"%s\0%s" % (name.encode(), manifest)).digest()


def to_fields(
    manifest: Manifest, encoded: bytes, inner: bytes, *, run_id: str | None, index: Mapping[str, Any]
) -> dict[str, Any]:
    """A checkpoint's document.

    Args:
        manifest: The checkpoint's manifest.
        encoded: The manifest's bytes, or a stub that says where they are.
        inner: The frames to store in the document.
        run_id: The run that wrote the checkpoint, for queries.
        index: The metadata that queries can filter by.
    """
    fields: dict[str, Any] = {
        "ns": keys.enc(manifest.ns, "namespace"),
        "format": manifest.format,
        "manifest": encoded,
        "digest": digest(manifest.name, encoded),
    }
    if inner:
        fields["frames"] = inner
    if index:
        fields["filter"] = index
    if run_id is not None:
        fields["run_id"] = run_id
    return fields


def runs_of(doc: Doc) -> set[str]:
    """The runs that wrote a document: the last one, and those whose content was replaced."""
    run, former = doc.fields.get("run_id"), doc.fields.get("former_runs")
    try:
        listed = json.loads(former) if isinstance(former, str) else []
    except (ValueError, RecursionError):
        listed = []  # No digest covers this hint, and damage to it must not prevent a deletion.
    found = [*(listed if isinstance(listed, list) else ()), run]
    return {one for one in found if isinstance(one, str) and keys.is_text(one)}


def heir_of(doc: Doc) -> str | None:
    """The id of a checkpoint's latest child; `None` if the field holds no id, which no digest would reveal."""
    heir = doc.fields.get("heir")
    try:
        return _id(heir.rpartition("#")[0]) if isinstance(heir, str) else None
    except ValueError:
        return None


def heir_field(checkpoint_id: str, attempt: str) -> str:
    """The value of `heir` that a child writes to its parent: its id, and a part that differs each time.

    A child that is stored again after its deletion must change its parent's update time. A write that changes no field
    would not.
    """
    return f"{checkpoint_id}#{attempt[:6]}"


class DocumentKind(Enum):
    """The kind of a document in a thread's collection of checkpoints, judged by its fields.

    Attributes:
        CHECKPOINT: A checkpoint, whole or damaged.
        STRIPPED: Only the frames that other checkpoints need, or the list of its objects, are left.
        EMPTIED: The document has none of these fields. If `frames` and `objects` were read too, it is a damaged
            checkpoint, not an absent one. If they were not read, it may be a stripped document.
    """

    CHECKPOINT = "checkpoint"
    STRIPPED = "stripped"
    EMPTIED = "emptied"


LISTED_BY = ("format", "ns", "manifest")
"""Fields of which every checkpoint, however damaged, has at least one, and a stripped document has none."""

RUNS_BY = ("format", "ns", "run_id", "former_runs")
"""The small fields that show a document's kind and its runs, so that thousands of documents can be read at once.

A checkpoint that lost all its fields but the manifest looks emptied when only these are read.
"""


def kind_of(doc: Doc) -> DocumentKind:
    """The kind of a document in a thread's collection of checkpoints, read with at least `LISTED_BY` or `RUNS_BY`."""
    fields = doc.fields.keys()
    if not fields.isdisjoint(LISTED_BY):
        return DocumentKind.CHECKPOINT
    return DocumentKind.EMPTIED if fields.isdisjoint(("frames", "objects")) else DocumentKind.STRIPPED


def inner_frames(doc: Doc) -> bytes:
    """The frames in a document; empty if the field is not bytes, so that a reader reports a missing frame."""
    inner = doc.fields.get("frames")
    return inner if isinstance(inner, bytes) else b""


def encoded_of(doc: Doc) -> bytes:
    """The manifest's bytes in a document, checked against the digest.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version of this library wrote it.
    """
    version = doc.fields.get("format")
    if type(version) is int and version > NEWEST_FORMAT:
        raise UnsupportedFormatError(
            f"Document {doc.name!r} has format {version}. This version of langgraph-gcs-saver reads up to "
            f"{NEWEST_FORMAT}. The document is not damaged. To read it, upgrade with "
            '`pip install -U "langgraph-gcs-saver"`.'
        )
    encoded = doc.fields.get("manifest")
    if type(version) is not int or version < FORMAT or not isinstance(encoded, bytes):
        raise DamagedError("the document lacks its format or its manifest")
    if doc.fields.get("digest") != digest(doc.name, encoded):
        raise DamagedError("the document does not match its digest")
    if doc.fields.get("ns") != keys.ns_segment_of(doc.name):
        raise DamagedError("the document's namespace is not that of its name")
    return encoded


def has_digest(doc: Doc, wanted: bytes) -> bool:
    """Whether a document is whole, and has this digest."""
    if doc.fields.get("digest") != wanted:
        return False
    try:
        encoded_of(doc)
    except (DamagedError, UnsupportedFormatError):
        return False
    return True


@record(frozen=True, slots=True)
class Stub:
    """A reference in a document to an envelope that is too large for the document and is stored in an object.

    Attributes:
        attempt: The attempt in the object's name.
        stored: Bytes of the object.
        size: Bytes of the envelope.
        sha256: Digest of the envelope, in hex.
    """

    attempt: str
    stored: int
    size: int
    sha256: str

    @property
    def fetched(self) -> int:
        """Most bytes of the object that are fetched: one extra byte shows that it is longer than it was."""
        return self.stored + 1

    def head(self) -> dict[str, Any]:
        """The head of the stub's envelope. Its only key distinguishes a stub from the envelope that it refers to."""
        return {"gcs": [self.attempt, self.stored, self.size, self.sha256]}


def stub_of(head: Any) -> Stub | None:
    """The stub in an envelope's head; `None` if the envelope is not a stub.

    Raises:
        DamagedError: The head is that of a stub, but does not parse.
    """
    if not isinstance(head, dict) or "gcs" not in head:
        return None
    try:
        attempt, stored, size, sha256 = head["gcs"]
        stub = Stub(_attempt(attempt), _natural(stored), _natural(size), _digest(sha256, _SHA256_DIGITS))
    except (ValueError, TypeError):
        raise DamagedError("a stub that does not parse") from None
    if stub.stored > _FRAME_SHARE * stub.size + _FRAME_MORE:
        raise DamagedError("a stub whose object is too large for its envelope")
    return stub


def _encoded_as(segment: str, value: Any) -> str:
    if keys.enc(_text(value)) != segment:
        raise _ShapeError("an id that does not match the document's name")
    return str(value)


def _thread_of(segment: str, head: Any) -> str:
    found = keys.dec(segment[3:])
    found = _text(head["thread"]) if found is None else found
    if keys.spread(found) != segment:
        raise _ShapeError("an id that does not match the document's name")
    return found


def decode(doc: Doc, head: Any, tail: bytes) -> Manifest:
    """Parse a manifest from its envelope.

    Raises:
        DamagedError: The manifest does not parse.
    """
    try:
        thread_segment, leaf = keys.split_checkpoint_doc(doc.name)
        inverted, ns = leaf.split("!", 1)
        namespace = keys.dec(ns)
        namespace = _encoded_as(ns, head["ns"]) if namespace is None else namespace
        metadata, rest, checkpoint = head["metadata"], head.get("rest"), _checkpoint(head["checkpoint"])
        middle = _natural(metadata[1])
        end = middle if rest is None else middle + _natural(rest[1])
        _check_tail(tail, end)
        versions = checkpoint.get("channel_versions") or {}
        found = Manifest(
            thread_id=_thread_of(thread_segment, head),
            ns=namespace,
            checkpoint_id=keys.uninv(inverted),
            parent_id=None if head["parent"] is None else _id(head["parent"]),
            checkpoint=checkpoint,
            rest=None if rest is None else Serialized(_text(rest[0]), tail[middle:end]),
            metadata=Serialized(_text(metadata[0]), tail[:middle]),
            channels={channel: _ref(channel, one, versions) for channel, one in head["channels"].items()},
            dictionaries=tuple(map(_dictionary, head.get("dictionaries", ()))),
        )
    except _ShapeError as error:
        raise DamagedError(f"the manifest does not parse: {error}") from None
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise DamagedError(f"the manifest does not parse: {type(error).__name__}") from None
    # No digest covers the field. A lower version would make older readers report damage, a greater one unreadable data.
    if doc.fields.get("format") != found.format:
        raise DamagedError("the document states another format than its manifest needs")
    return found
