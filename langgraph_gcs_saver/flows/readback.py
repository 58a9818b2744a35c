"""Reads back what was written, before a call reports that it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import Compute, DeleteBlobs, Emit, Flow, Gather, HashBlob, PutBlob
from langgraph_gcs_saver.errors import CheckpointVerificationError
from langgraph_gcs_saver.events import VerificationFailed
from langgraph_gcs_saver.records import record

TIMES = 3
"""How often a call tries to write data that does not read back as it was written."""


@record(frozen=True, slots=True)
class Mismatch:
    """An object that is missing, or differs from what was written."""

    name: str
    is_missing: bool


def upload(uploads: Sequence[PutBlob], *, reads_back: bool) -> Flow[Mismatch | None]:
    """Create objects, and read them back.

    Returns:
        `None`, or an object that does not read back as it was written. In that case, all of the objects are deleted:
        their names belong to this attempt, and nothing refers to them yet.
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
    """Delete an attempt's uploads, which no document refers to, or will refer to."""
    for at in range(0, len(uploads), limits.BATCH_CALLS):
        yield from DeleteBlobs(tuple(effect.name for effect in uploads[at : at + limits.BATCH_CALLS]))


def _hashes(uploads: Sequence[PutBlob]) -> list[str]:
    return [hashlib.sha256(effect.data).hexdigest() for effect in uploads]


def mismatched(what: str, name: str, before: int, **ids: str) -> Flow[int]:
    """Report that something does not read back as it was written.

    Args:
        what: What a call stores, for the error.
        name: The document or object.
        before: The mismatches that the call has met before.
        ids: The ids of the event.

    Returns:
        The number of mismatches.

    Raises:
        CheckpointVerificationError: This was the last mismatch allowed.
    """
    yield from Emit(VerificationFailed(name=name, attempt=before + 1, **ids))
    if before + 1 >= TIMES:
        raise failed(what, name)
    return before + 1


def failed(what: str, name: str) -> CheckpointVerificationError:
    """The error of a call whose writes do not read back as they were written."""
    return CheckpointVerificationError(
        f"{what} was not stored: {name!r} was written {TIMES} times, and each time the service returned something "
        "else. Each write was withdrawn. Call again. If that fails too, check whether a proxy or a function of the "
        "bucket changes data."
    )
