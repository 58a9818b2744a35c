"""Digests of values: the sha256 of a small value, and the sha256 of the sha256s of a large value's blocks.

State that grew has the same blocks as before, except for the last ones and the first one, which contains a list's
length. Only these blocks are hashed again, for each step that is written and for each frame of a chain that is read.
"""

from __future__ import annotations

import hashlib

from langgraph_gcs_saver.format.common_bytes import same_after
from langgraph_gcs_saver.records import record

BLOCK_BYTES = 32 << 10
"""Larger values are digested in blocks of this size."""

_LEAF_BYTES = 32
_BLOCKS = b"\1"
"""Prefix of the joined digests of blocks.

An attacker can choose a small value that equals this prefix and the digests, so sizes are compared too.
"""


@record(frozen=True, slots=True)
class Digested:
    """A serialized value and its digest.

    Attributes:
        data: The value.
        digest: Its digest, 64 hex digits.
        leaves: The sha256 of each of its blocks, concatenated; empty for a value of one block.
    """

    data: bytes
    digest: str
    leaves: bytes = b""

    def is_of(self, digest: str, size: int) -> bool:
        """Whether the value has this size and a digest that begins with `digest`."""
        return len(self.data) == size and self.digest.startswith(digest)

    @classmethod
    def of(cls, data: bytes, like: Digested | None = None) -> Digested:
        """Digest a value, reusing the digests of blocks that `like` has at the same place."""
        if len(data) <= BLOCK_BYTES:
            return cls(data, hashlib.sha256(data).hexdigest())
        known, other = (b"", b"") if like is None else (like.leaves, like.data)
        # Usually only the first and the last few blocks differ: one comparison covers those between.
        rest = 1 + same_after(data, BLOCK_BYTES, other, BLOCK_BYTES) // BLOCK_BYTES if known else 1
        view, before = memoryview(data), memoryview(other)

        def leaf(number: int) -> bytes:
            at, end = number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES
            found = known[number * _LEAF_BYTES : (number + 1) * _LEAF_BYTES]
            # `bytes.startswith` compares without a copy.
            if found and len(view[at:end]) == len(before[at:end]) and data.startswith(before[at:end], at):
                return found
            return hashlib.sha256(view[at:end]).digest()

        last = map(leaf, range(rest, -(-len(data) // BLOCK_BYTES)))
        joined = b"".join((leaf(0), known[_LEAF_BYTES : rest * _LEAF_BYTES], *last))
        return cls(data, hashlib.sha256(_BLOCKS + joined).hexdigest(), joined)
