"""Digests of values: the sha256, and for large ones that of the sha256s of their blocks.

State that has grown has the same blocks as before but for the last ones, and for the first, in which a list's length
stands: of these alone the sha256 is made anew, at each step that is written and for each frame of a chain that is read.
"""

from __future__ import annotations

import hashlib

from langgraph_gcs_saver.format.common_bytes import same_from
from langgraph_gcs_saver.records import record

BLOCK_BYTES = 32 << 10
"""A value that is larger is digested in blocks of that size."""

_LEAF_BYTES = 32
_BLOCKS = b"\1"
"""Before the digests of blocks. A small value of bytes that somebody chose can be just that: sizes are compared too."""


@record(frozen=True, slots=True)
class Digested:
    """A serialised value and its digest.

    Attributes:
        data: The value.
        digest: Its digest, 64 hex digits.
        leaves: The sha256 of each of its blocks, one after the other; none for a value of one block.
    """

    data: bytes
    digest: str
    leaves: bytes = b""

    def is_of(self, digest: str, size: int) -> bool:
        """Whether it has a size, and a digest that begins with these digits."""
        return len(self.data) == size and self.digest.startswith(digest)

    @classmethod
    def of(cls, data: bytes, like: Digested | None = None) -> Digested:
        """Digest a value; of blocks that equal those of `like` at the same place, the digests are known."""
        if len(data) <= BLOCK_BYTES:
            return cls(data, hashlib.sha256(data).hexdigest())
        known, other = (b"", b"") if like is None else (like.leaves, like.data)
        # As a rule all blocks between the first and the last few are the same: these are compared at once.
        rest = same_from(BLOCK_BYTES, data, other) // BLOCK_BYTES if known else 1
        view, before = memoryview(data), memoryview(other)

        def leaf(number: int) -> bytes:
            at, end = number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES
            found = known[number * _LEAF_BYTES : (number + 1) * _LEAF_BYTES]
            # On bytes, this compares without a copy.
            if found and len(view[at:end]) == len(before[at:end]) and data.startswith(before[at:end], at):
                return found
            return hashlib.sha256(view[at:end]).digest()

        last = map(leaf, range(rest, -(-len(data) // BLOCK_BYTES)))
        joined = b"".join((leaf(0), known[_LEAF_BYTES : rest * _LEAF_BYTES], *last))
        return cls(data, hashlib.sha256(_BLOCKS + joined).hexdigest(), joined)
