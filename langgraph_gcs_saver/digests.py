"""Digests of values: the sha256, and for large ones that of the sha256s of their blocks.

State that has grown has the same blocks as before but for the last ones, and for the first, in which a list's length
stands: of these alone the sha256 is made anew, at each step that is written and for each frame of a chain that is read.
"""

from __future__ import annotations

import hashlib

from langgraph_gcs_saver.records import record

BLOCK_BYTES = 32 << 10
"""A value that is larger is digested in blocks of that size."""

_LEAF_BYTES = 32
_BLOCKS = b"\1"
"""Before the digests of blocks: no value can have been that, whatever it holds."""


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

    @classmethod
    def of(cls, data: bytes, like: Digested | None = None) -> Digested:
        """Digest a value; of blocks that equal those of `like` at the same place, the digests are known."""
        if len(data) <= BLOCK_BYTES:
            return cls(data, hashlib.sha256(data).hexdigest())
        view = memoryview(data)
        known, other = (b"", memoryview(b"")) if like is None else (like.leaves, memoryview(like.data))
        leaves = []
        for number, at in enumerate(range(0, len(data), BLOCK_BYTES)):
            leaf = known[number * _LEAF_BYTES : (number + 1) * _LEAF_BYTES]
            block, before = view[at : at + BLOCK_BYTES], other[at : at + BLOCK_BYTES]
            # On bytes, this compares without a copy.
            is_known = leaf and len(block) == len(before) and data.startswith(before, at)
            leaves.append(leaf if is_known else hashlib.sha256(block).digest())
        joined = b"".join(leaves)
        return cls(data, hashlib.sha256(_BLOCKS + joined).hexdigest(), joined)
