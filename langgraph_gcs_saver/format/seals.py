"""Sealed fields: an envelope after a digest that is bound to the field's place.

The digest covers the stored bytes. So it reveals nothing about the content, and anyone can check it without a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.errors import UnsupportedFormatError
from langgraph_gcs_saver.format import frames
from langgraph_gcs_saver.format.frames import Codec, FrameError, Place
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, stub_of

SEAL_BYTES = 32
"""Bytes of the digest before a field's frame."""


def seal(place: Place, stored: bytes) -> bytes:
    """The digest before a field's frame."""
    return hashlib.sha256(b"%s\0%s\0%s" % (place[0].encode(), place[1].encode(), stored)).digest()


def close(plain: bytes, place: Place, codec: Codec) -> bytes:
    """The sealed form of an envelope."""
    stored = codec.encode_envelope(plain, place)
    return seal(place, stored) + stored


def check_format(doc: Doc, what: str) -> None:
    """Check the format of a document.

    Raises:
        DamagedError: It has none, or one that no version writes.
        UnsupportedFormatError: A newer version wrote it.
    """
    version = doc.fields.get("format")
    if type(version) is int and version > FORMAT:
        raise UnsupportedFormatError(
            f"{what} {doc.name!r} has format {version}; this version of langgraph-gcs-saver reads up to {FORMAT}. It "
            'is not damaged: upgrade with `pip install -U "langgraph-gcs-saver"`.'
        )
    if version != FORMAT or isinstance(version, bool):
        raise DamagedError("a document lacks its format", frame=doc.name)


def plain_of(doc: Doc, field: str, codec: Codec) -> bytes:
    """The envelope in a sealed field.

    Raises:
        DamagedError: The field is not what was written there.
        WrongKeyError: It was encrypted with another key.
    """
    data = doc.fields.get(field)
    if not isinstance(data, bytes):
        raise DamagedError(f"its field {field!r} is not bytes", frame=doc.name)
    if data[:SEAL_BYTES] != seal((doc.name, field), data[SEAL_BYTES:]):
        raise DamagedError(f"its field {field!r} does not match its digest", frame=doc.name)
    try:
        return codec.decode_envelope(data[SEAL_BYTES:], (doc.name, field))
    except FrameError as error:
        raise DamagedError(f"its field {field!r} is {error}", frame=doc.name, clear=error.clear) from None


def opened(name: str, plain: bytes) -> tuple[Any, bytes]:
    """Head and tail of an envelope of the document or object `name`.

    Raises:
        DamagedError: It is not an envelope.
    """
    try:
        return frames.open_envelope(plain)
    except FrameError as error:
        raise DamagedError(f"it holds {error}", frame=name, clear=error.clear) from None


def moved(doc: Doc, field: str, name: str, attempt: Callable[[str], str], codec: Codec) -> bytes:
    """A sealed field as the document `name` would have it, with another attempt in the name of its object.

    Raises:
        DamagedError: The field is not what was written there.
    """
    plain = plain_of(doc, field, codec)
    stub = stub_of(opened(doc.name, plain)[0])
    if stub is not None:
        plain = frames.envelope(replace(stub, attempt=attempt(stub.attempt)).head())
    elif codec.cipher is None:
        stored = doc.fields[field][SEAL_BYTES:]
        return seal((name, field), stored) + bytes(stored)
    return close(plain, (name, field), codec)
