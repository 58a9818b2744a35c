"""Reads back what was written, before a call reports that it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Compute,
    DeleteBlobs,
    Docs,
    Emit,
    Flow,
    Gather,
    GetDocs,
    HashBlob,
    Now,
    PutBlob,
)
from langgraph_gcs_saver.errors import CheckpointVerificationError
from langgraph_gcs_saver.events import VerificationFailed
from langgraph_gcs_saver.flows.context import ATTEMPT_DEADLINE_SECONDS

TIMES = 3
"""How often a call tries to write data that does not read back as it was written."""


def upload(uploads: Sequence[PutBlob], *, reads_back: bool) -> Flow[str | None]:
    """Create objects, and read them back.

    Returns:
        `None`, or an object that does not read back as it was written. In that case, all of the objects are deleted:
        their names belong to this attempt, and nothing refers to them yet.
    """
    yield from Gather(tuple(uploads))
    if not reads_back or not uploads:
        return None
    wanted = yield from _hashes_of(uploads)
    found = yield from Gather(_reads_of(uploads))
    for effect, right, sha256 in zip(uploads, wanted, found, strict=True):
        if sha256 != right:
            yield from discard(uploads)
            return effect.name
    return None


def upload_in_time(uploads: Sequence[PutBlob]) -> Flow[bool]:
    """Create objects that `read_back` reads after the commit that refers to them.

    Returns:
        False if this took so long that `collect` may have taken the objects for orphans. Then they are deleted.
    """
    if not uploads:
        return True
    started = yield from Now()
    yield from Gather(tuple(uploads))
    if (yield from Now()) - started <= ATTEMPT_DEADLINE_SECONDS:
        return True
    yield from discard(uploads)
    return False


def read_back(names: tuple[str, ...], uploads: Sequence[PutBlob]) -> Flow[tuple[Docs, list[str]]]:
    """Read documents and the objects that they refer to, in one round.

    If an object is missing, the documents are read again. A deletion removes documents before objects, so the second
    read shows whether the object was deleted or lost.

    Args:
        names: The documents.
        uploads: The objects as they were written.

    Returns:
        The documents, and the names of the objects that do not read back as they were written.
    """
    if not uploads:
        return (yield from GetDocs(names)), []
    wanted = yield from _hashes_of(uploads)
    docs, *found = yield from Gather((GetDocs(names), *_reads_of(uploads)))
    if None in found:
        docs = yield from GetDocs(names)
    read = zip(uploads, wanted, found, strict=True)
    return docs, [effect.name for effect, right, sha256 in read if sha256 != right]


def _hashes_of(uploads: Sequence[PutBlob]) -> Compute[list[str]]:
    """The hashes that objects should have."""
    return Compute(partial(_hashes, uploads), size=sum(effect.size for effect in uploads))


def _reads_of(uploads: Sequence[PutBlob]) -> tuple[HashBlob, ...]:
    return tuple([HashBlob(effect.name) for effect in uploads])


def discard(uploads: Sequence[PutBlob]) -> Flow[None]:
    """Delete an attempt's uploads, which no document refers to, or will refer to."""
    for at in range(0, len(uploads), limits.BATCH_CALLS):
        yield from DeleteBlobs(tuple(effect.name for effect in uploads[at : at + limits.BATCH_CALLS]))


def _hashes(uploads: Sequence[PutBlob]) -> list[str]:
    return [effect.sha256() for effect in uploads]


_WITHDRAWN = "Each write was withdrawn."


def mismatched(what: str, name: str, before: int, *, outcome: str = _WITHDRAWN, **ids: str) -> Flow[int]:
    """Report that something does not read back as it was written.

    Args:
        what: What a call stores, for the error.
        name: The document or object.
        before: The mismatches that the call has met before.
        outcome: What became of the call's writes, for the error.
        ids: The ids of the event.

    Returns:
        The number of mismatches.

    Raises:
        CheckpointVerificationError: This was the last mismatch allowed.
    """
    yield from Emit(VerificationFailed(name=name, attempt=before + 1, **ids))
    if before + 1 >= TIMES:
        raise failed(what, name, outcome)
    return before + 1


def failed(what: str, name: str, outcome: str = _WITHDRAWN) -> CheckpointVerificationError:
    """The error of a call whose writes do not read back as they were written."""
    return CheckpointVerificationError(
        f"{what} was not stored: {name!r} was written {TIMES} times, and each time the service returned something "
        f"else. {outcome} Call again. If that fails too, check whether a proxy or a function of the bucket changes "
        "data."
    )
