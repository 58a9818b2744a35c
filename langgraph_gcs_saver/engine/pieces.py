"""Bytes that are made piece by piece while they are sent, so that they are never in memory as a whole."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from typing import Any


def text_of(checksum: Any) -> str:
    """A `google_crc32c.Checksum` as Cloud Storage writes it: base64 of its big-endian bytes."""
    return base64.b64encode(checksum.digest()).decode()


def crc32c(data: bytes) -> str:
    """The checksum of bytes, as `text_of` writes it."""
    import google_crc32c  # noqa: PLC0415 - commands that store nothing need this module, and not that one

    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


class Pieces:
    """Bytes that can be made again, the same ones each time: an upload may need several attempts.

    The attributes describe the bytes once they were made as a whole.

    Args:
        make: Makes the pieces, from the first one on.
        hashed: Whether `sha256` is computed.

    Attributes:
        size: The number of bytes.
        crc32c: The checksum, as `text_of` writes it.
        sha256: The sha256 in hex digits, if it was requested.
    """

    __slots__ = ("_hashed", "_make", "crc32c", "sha256", "size")

    def __init__(self, make: Callable[[], Iterator[bytes]], *, hashed: bool) -> None:
        self._make = make
        self._hashed = hashed
        self.size = 0
        self.crc32c = ""
        self.sha256 = ""

    def measure(self) -> None:
        """Set the attributes, if the bytes were never made as a whole."""
        if not self.size:
            for _ in self:
                pass

    def __iter__(self) -> Iterator[bytes]:
        from google_crc32c import Checksum  # noqa: PLC0415 - as above

        size, crc32c, sha256 = 0, Checksum(), hashlib.sha256()
        for piece in self._make():
            size += len(piece)
            crc32c.update(piece)
            if self._hashed:
                sha256.update(piece)
            yield piece
        self.size = size
        self.crc32c = text_of(crc32c)
        self.sha256 = sha256.hexdigest() if self._hashed else ""
