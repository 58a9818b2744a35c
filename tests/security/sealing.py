"""Documents from an attacker who can write to the store: with odd contents and correct digests."""

import json

import zstandard

from langgraph_gcs_saver.format import frames, keys
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec
from tests.security.forging import put_checkpoint, put_writes

CODEC = Codec(3)


def opened(raw, name):
    """The head and the tail of a checkpoint's manifest."""
    return frames.open_envelope(CODEC.decode_bounded(raw.documents()[name]["manifest"]))


def plain_envelope(head, tail=b""):
    """An envelope with any head, whatever writers refuse to make."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(4, "big") + text + tail


def seal(raw, name, head, tail=b"", **fields):
    """Store a checkpoint's document with another manifest, and a digest that is right."""
    stored = raw.documents().get(name, {"format": 1})
    put_checkpoint(raw, name, stored, manifest=CODEC.encode(plain_envelope(head, tail)), **fields)


def writes_doc(raw, thread="t"):
    """The one document of pending writes of a thread."""
    (found,) = [name for name in raw.documents() if name.startswith(keys.writes(thread) + "/")]
    return found


def seal_writes(raw, name, head, tail=b"", field="writes"):
    """Store a document of pending writes with another envelope, and a seal that is right."""
    put_writes(raw, name, {field: CODEC.encode(plain_envelope(head, tail))})


def zeros(size, head=b""):
    """A full frame of `head` and zeros, and their digest."""
    plain = head + bytes(size - len(head))
    return CODEC.encode(plain), Digested.of(plain).digest


def msgpack_bytes(size):
    """The begin of MessagePack that is so many bytes in all and holds bytes."""
    return b"\xc6" + (size - 5).to_bytes(4, "big")


def stated(size):
    """A frame that says that it holds so many zeros, and does; made without holding them."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    part = bytes(1 << 20)
    return b"".join([compressor.compress(part) for _ in range(size >> 20)] + [compressor.flush()])
