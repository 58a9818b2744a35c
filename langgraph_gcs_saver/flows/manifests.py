"""Reads manifests and other envelopes from their documents, or from the objects that stubs point to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from langgraph_gcs_saver.engine.effects import Compute, Doc, Emit, Flow, PutBlob
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ClearTextError,
    DamageError,
    SerializationError,
    ValueTooLargeError,
    WrongKeyError,
)
from langgraph_gcs_saver.events import ClearTextAccepted, ClearTextEncrypted
from langgraph_gcs_saver.flows import dictionaries
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.mirrors import read_object
from langgraph_gcs_saver.format import frames, keys, large, manifest, shapes
from langgraph_gcs_saver.format.frames import Codec, FrameError
from langgraph_gcs_saver.format.manifest import DamagedError, Manifest, Serialized
from langgraph_gcs_saver.portable import Opaque

FIELD = "manifest"
"""The field of a checkpoint's document that holds its manifest."""

LOST_ANCESTOR = "it is missing, and a DeltaChannel's value is made of it"
"""The reason that is reported for a missing ancestor."""

LOST_HEIR = "its document is missing, or no query finds it"
"""The reason that is reported for a missing newest checkpoint."""

_PARSING = 8
"""Parsing a compressed manifest takes as long as handling so many times its bytes."""


def read_manifest(doc: Doc, codec: Codec) -> Flow[Manifest]:
    """The manifest of a checkpoint's document, checked by digest.

    Raises:
        DamagedError: The document, or the object that it points to, is damaged, or was written for another place.
        UnsupportedFormatError: A newer version wrote it.
    """
    return (yield from locate_manifest(doc, codec))[0]


def locate_manifest(doc: Doc, codec: Codec) -> Flow[tuple[Manifest, str | None]]:
    """Like `read_manifest`, with the name of the object that holds the manifest, if the document does not."""
    try:
        return (yield from _locate(doc, codec))
    except DamagedError as damage:
        alone = damage.alone()
    raise alone  # Outside of the handler, because there the first error would become its context.


def _locate(doc: Doc, codec: Codec) -> Flow[tuple[Manifest, str | None]]:
    name: str | None = None
    encoded = manifest.encoded_of(doc)
    try:
        opening = partial(_open, codec, doc.name, encoded)
        head, tail = yield from dictionaries.computed(opening, size=_PARSING * len(encoded), codec=codec)
        stub = manifest.stub_of(head)
        if stub is not None:
            name = keys.blob_beside(doc.name, keys.MANIFEST, stub.attempt)
            if stub.size > frames.ENVELOPE_MAX_BYTES:
                raise DamagedError("the manifest is larger than a manifest can be", frame=name)
            plain = yield from read_stub(name, stub, codec)
            head, tail = yield from Compute(partial(frames.open_envelope, plain), size=_PARSING * len(plain))
    except FrameError as error:
        raise DamagedError(f"the manifest is {error}", frame=name, clear=error.clear) from None
    known = yield from Compute(partial(manifest.decode, doc, head, tail), size=_PARSING * len(encoded))
    yield from dictionaries.fetch(known.dictionaries, codec)
    yield from report_clear(codec)
    return known, name


def manifest_object_bytes(doc: Doc, codec: Codec) -> int:
    """Bytes of the object that holds the manifest of a whole document; 0 if the document holds it."""
    stub = manifest.stub_of(_open(codec, doc.name, manifest.encoded_of(doc))[0])
    return 0 if stub is None else stub.stored


def report_clear(codec: Codec) -> Flow[None]:
    """Report each thread with accepted data that the cipher does not vouch for, once per process."""
    if codec.accept_clear:
        for segment in codec.newly_accepted():
            thread_id = keys.told_thread_id(segment) if keys.is_thread_segment(segment) else ""
            yield from Emit(ClearTextAccepted(thread_id=thread_id))


def report_encrypting(thread_id: str, documents: int) -> Flow[None]:
    """Report how many documents of a thread, so far not protected by the cipher, are about to be encrypted.

    A flow that encrypts stored documents calls this first, because encrypted documents all look alike.
    """
    if documents:
        yield from Emit(ClearTextEncrypted(thread_id=thread_id, documents=documents))


def metadata_of(known: Manifest, loads: Loads) -> Mapping[str, Any]:
    """A checkpoint's metadata, deserialized.

    Raises:
        DamagedError: It does not have the shape of LangGraph's metadata.
        SerializationError: The serializer cannot read it, or another one wrote it.
    """
    return _fields(loads, known.metadata, "The metadata", known, shapes.wrong_in_metadata)


def rest_of(known: Manifest, loads: Loads) -> Mapping[str, Any]:
    """The fields of a checkpoint that JSON could not hold, deserialized; raises as `metadata_of` does."""
    return {} if known.rest is None else _fields(loads, known.rest, "A field", known, shapes.wrong_in_checkpoint)


def _fields(
    loads: Loads, value: Serialized, what: str, known: Manifest, wrong_in: Callable[[object], str | None]
) -> Mapping[str, Any]:
    found = deserialize(loads, value, what, known)
    if isinstance(found, Serialized):
        return cast("Mapping[str, Any]", found)  # A migration compares it as it was serialized.
    if isinstance(found, (Opaque, bytes, bytearray)):
        raise SerializationError(
            f"{what} of checkpoint {known.checkpoint_id!r}, thread {known.thread_id!r}, is of type {value.type!r}, "
            "written with another `serde`. Pass that one."
        )
    wrong = wrong_in(found)
    if wrong is not None:
        raise DamagedError(wrong)
    return cast("Mapping[str, Any]", found)


def deserialize(
    loads: Loads, value: Serialized, what: str, known: Manifest | None = None, channel: str | None = None
) -> object:
    """Deserialize a value of a checkpoint.

    Args:
        loads: Deserializes a value.
        value: The value.
        what: What it is, for the error's message.
        known: The checkpoint.
        channel: The channel that the value belongs to.

    Raises:
        SerializationError: The serializer cannot read it; the message says which value it is.
    """
    try:
        return loads(value)
    except SerializationError as error:
        reason = str(error)
    named = "" if channel is None else f" {channel!r}"
    where = "" if known is None else f" of checkpoint {known.checkpoint_id!r}, thread {known.thread_id!r}"
    raise SerializationError(f"{what}{named}{where}: {reason}")


def _open(codec: Codec, name: str, stored: bytes) -> tuple[Any, bytes]:
    return frames.open_envelope(codec.decode_envelope(stored, (name, FIELD)))


def read_stub(name: str, stub: manifest.Stub, codec: Codec) -> Flow[bytes]:
    """The envelope that a stub stands for, from the object `name`.

    Raises:
        DamagedError: The object is missing or differs.
        FrameError: It is not a frame.
    """
    return (yield from read_object(name, stub, partial(open_stub, name, stub, codec=codec)))


def open_stub(name: str, stub: manifest.Stub, stored: bytes | None, codec: Codec) -> bytes:
    """The envelope in an object's bytes, which are `None` for a missing object; raises as `read_stub` does."""
    if stored is None:
        raise DamagedError("an object is missing", frame=name, missing=True)
    try:
        plain = codec.decode(stored, stub.size, least=frames.ENVELOPE_MAX_BYTES, name=name)
    except WrongKeyError:
        if not codec.has_key(stored):
            raise
        raise DamagedError("an object cannot be decrypted", frame=name) from None
    if hashlib.sha256(plain).hexdigest() != stub.sha256:
        raise DamagedError("an object does not match its digest", frame=name)
    return plain


def encode_manifest(known: Manifest, room: int, context: Context) -> tuple[bytes, PutBlob | None]:
    """A manifest's bytes, if a document has `room` for them; else the bytes of a stub, and what to upload."""
    plain = manifest.envelope(known)
    if len(plain) > frames.ENVELOPE_MAX_BYTES:
        raise ValueTooLargeError(
            f"The metadata of checkpoint {known.checkpoint_id!r}, thread {known.thread_id!r}, and its fields other "
            f"than channels take {len(plain):,} bytes; at most {frames.ENVELOPE_MAX_BYTES:,} can be stored. Nothing "
            "was stored: put such data into the state."
        )
    place = known.name, FIELD
    writing = context.codec.writing
    is_named = writing is not None and writing.id in known.dictionaries
    body = context.codec.encode_envelope(plain, place, trained=is_named)
    if len(body) <= room:
        return body, None
    stub, stored = make_stub(plain, context.new_attempt(), context.codec)
    name = keys.blob(known.thread_id, known.ns, known.checkpoint_id, keys.MANIFEST, stub.attempt)
    body = context.codec.encode_envelope(frames.envelope(stub.head()), place)
    return body, context.upload(name, stored)


def make_stub(plain: bytes, attempt: str, codec: Codec, *more: bytes) -> tuple[manifest.Stub, bytes]:
    """The stub that replaces an envelope, and the frame to upload.

    Args:
        plain: The envelope, or its first part.
        attempt: The part of the object's name that no other attempt has.
        codec: Makes the frame.
        more: The other parts of the envelope. Large parts are not joined.
    """
    stored = large.encode(plain, *more, codec=codec, least=frames.ENVELOPE_MAX_BYTES)
    size, sha256 = len(plain), hashlib.sha256(plain)
    for part in more:
        size += len(part)
        sha256.update(part)
    return manifest.Stub(attempt, len(stored), size, sha256.hexdigest()), stored


def unreadable(
    damage: DamagedError, thread_id: str, ns: str, checkpoint_id: str
) -> CheckpointCorruptError | ClearTextError:
    """The public error for a checkpoint that cannot be read."""
    if not damage.clear:
        return corrupt(damage, thread_id, ns, checkpoint_id)
    return ClearTextError(
        f"A saver with a cipher does not read this: {damage.reason}",
        thread_id=thread_id,
        checkpoint_ns=ns,
        checkpoint_id=checkpoint_id,
        channel=damage.channel,
        frame=damage.frame,
    )


def emptied(thread_id: str) -> DamageError:
    """The public error for a root namespace that has lost all of its checkpoints."""
    return DamageError(
        f"All checkpoints of the root namespace of thread {thread_id!r} are missing, and no deletion removed them. "
        "Restore its documents from a backup, or call delete_thread to start over."
    )


def corrupt(damage: DamagedError, thread_id: str, ns: str, checkpoint_id: str) -> CheckpointCorruptError:
    """The public error for damage to a checkpoint."""
    return CheckpointCorruptError(
        f"Stored data is damaged: {damage.reason}",
        thread_id=thread_id,
        checkpoint_ns=ns,
        checkpoint_id=checkpoint_id,
        channel=damage.channel,
        frame=damage.frame,
    )
