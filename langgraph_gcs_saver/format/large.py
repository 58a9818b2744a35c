"""Large objects, which are made while they are uploaded and so are never in memory as a whole."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import overload

import zstandard

from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.format.frames import Codec

LARGE_BYTES = 32 << 20
"""Size from which a frame is made in pieces, in bytes.

Below that, zstd's own buffers and those of an upload take about as much memory as the frame.
"""

_SLICE_BYTES = 128 << 10
"""Bytes that zstd compresses in one call. It releases the interpreter's lock meanwhile."""


@overload
def encode(
    *parts: bytes, codec: Codec, most: None = None, hashed: bool = False, least: int = 0, trained: bool = False
) -> bytes: ...


@overload
def encode(
    *parts: bytes, codec: Codec, most: int, hashed: bool = False, least: int = 0, trained: bool = False
) -> bytes | Pieces: ...


def encode(
    *parts: bytes, codec: Codec, most: int | None = None, hashed: bool = False, least: int = 0, trained: bool = False
) -> bytes | Pieces:
    """Make a full frame, in pieces if it is large.

    With a cipher the frame is a whole, because a cipher takes all bytes at once.

    Args:
        parts: The parts of the value, which follow each other.
        codec: Makes the frame.
        most: The size of the largest frame that the caller needs as a whole, in bytes; `None` for any.
        hashed: Whether to compute the sha256 of a frame in pieces.
        least: Bytes that the value may have even if the codec's `max_bytes` is lower.
        trained: Whether a small value has the trained dictionary, as `Codec.encode` does it.

    Raises:
        ValueTooLargeError: The value is larger than the codec's `max_bytes`.
    """
    size = sum(map(len, parts))
    codec.refuse_large(size, least)
    if size < LARGE_BYTES or codec.level is None or codec.cipher is not None:
        return codec.encode(b"".join(parts), least=least, trained=trained)
    make = partial(_compressed, parts, size, codec.level)
    begun = io.BytesIO()
    for piece in make():
        begun.write(piece)
        if most is not None and begun.tell() > most:
            return Pieces(make, hashed=hashed)
    return begun.getvalue()


def joined(frames: Sequence[bytes], *, hashed: bool) -> bytes | Pieces:
    """Frames that follow each other in an object, in pieces if they are large together.

    Args:
        frames: The frames, which are in memory.
        hashed: Whether to compute the sha256 of pieces.
    """
    if sum(map(len, frames)) < LARGE_BYTES:
        return b"".join(frames)
    return Pieces(partial(iter, frames), hashed=hashed)


def _compressed(parts: Sequence[bytes], size: int, level: int) -> Iterator[bytes]:
    compressing = zstandard.ZstdCompressor(level=level, write_content_size=True).compressobj(size=size)
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), _SLICE_BYTES):
            yield compressing.compress(view[at : at + _SLICE_BYTES])
    yield compressing.flush()
