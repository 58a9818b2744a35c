"""Reading back what was written, before anybody is told that it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import Compute, DeleteBlobs, Flow, Gather, HashBlob, PutBlob
from langgraph_gcs_saver.errors import CheckpointVerificationError
from langgraph_gcs_saver.records import record

TIMES = 3
"""How often a call writes what does not read as it was written."""


@record(frozen=True, slots=True)
class Mismatch:
    """An object that is missing, or differs from what was written."""

    name: str
    is_missing: bool


def upload(uploads: Sequence[PutBlob], *, reads_back: bool) -> Flow[Mismatch | None]:
    """Create objects, and read them back.

    Returns:
        `None`, or an object that is not as it was written. Then none of them is left: their names were this attempt's
        own, and nobody refers to them yet.
    """
    yield from Gather(tuple(uploads))
    if not reads_back or not uploads:
        return None
    size = sum(len(effect.data) for effect in uploads)
    wanted = yield from Compute(partial(_hashes, uploads), size=size)
    found = yield from Gather(tuple(HashBlob(effect.name) for effect in uploads))
    for effect, right, sha256 in zip(uploads, wanted, found, strict=True):
        if sha256 != right:
            yield from discard(uploads)
            return Mismatch(effect.name, sha256 is None)
    return None


def discard(uploads: Sequence[PutBlob]) -> Flow[None]:
    """Delete what an attempt has uploaded that no document refers to, or will."""
    for at in range(0, len(uploads), limits.BATCH_CALLS):
        yield from DeleteBlobs(tuple(effect.name for effect in uploads[at : at + limits.BATCH_CALLS]))


def _hashes(uploads: Sequence[PutBlob]) -> list[str]:
    return [hashlib.sha256(effect.data).hexdigest() for effect in uploads]


def failed(what: str, name: str) -> CheckpointVerificationError:
    """The error of a call whose writes do not read as they were written."""
    return CheckpointVerificationError(
        f"{what} was not stored: {name!r} was written {TIMES} times, and the service gave back something else. "
        "Each time it was withdrawn. Call again; does a proxy or a function of the bucket change data?"
    )
