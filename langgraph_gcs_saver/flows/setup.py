"""Setting up a store: making what is missing, and proving that the saver may write."""

from __future__ import annotations

from dataclasses import dataclass

from langgraph_gcs_saver.effects import (
    Commit,
    Delete,
    DeleteBlobs,
    EnsureBucket,
    Flow,
    GetBlob,
    GetDocs,
    Merge,
    PutBlob,
)
from langgraph_gcs_saver.errors import PermissionDeniedError, StoreError
from langgraph_gcs_saver.flows.context import Context


@dataclass(frozen=True, slots=True)
class SetupReport:
    """What `setup()` did, and what it may not do.

    Attributes:
        done: A sentence for each thing found or done.
        missing: A sentence for each thing that these credentials may not do, with what to do about it.
    """

    done: tuple[str, ...]
    missing: tuple[str, ...]


def setup(location: str | None, context: Context) -> Flow[SetupReport]:
    """Create the bucket if it is missing, then write, read and delete a document and an object.

    Raises:
        PermissionDeniedError: Documents or objects cannot be written.
        StoreNotFoundError: The database does not exist, or the bucket does not and may not be created.
    """
    done: list[str] = []
    missing: list[str] = []
    try:
        done.append((yield from EnsureBucket(location)))
    except PermissionDeniedError as error:
        # Who may write objects needs no right to look at the bucket; the probe below decides.
        missing.append(str(error))
    probe = f"lg_setup/{context.new_attempt()}"
    blob = f"~setup/{context.new_attempt()}"
    content = probe.encode()
    yield from PutBlob(blob, content)
    try:
        if (yield from GetBlob(blob)) != content:
            raise StoreError(f"The object {blob!r} was written, but reads differently. Is the bucket transformed?")
    finally:
        yield from DeleteBlobs((blob,))
    done.append("Objects can be written, read and deleted.")
    yield from Commit((Merge(probe, {"probe": content}),))
    try:
        found = (yield from GetDocs((probe,))).get(probe)
        if found is None or found.fields.get("probe") != content:
            raise StoreError(f"The document {probe!r} was written, but reads differently.")
    finally:
        yield from Commit((Delete(probe),))
    done.append("Documents can be written, read and deleted.")
    return SetupReport(tuple(done), tuple(missing))
