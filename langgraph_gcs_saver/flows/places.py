"""What a thread's document says of the thread, and of where its objects are: another bucket is no damage."""

from __future__ import annotations

from typing import Any

from langgraph_gcs_saver import keys
from langgraph_gcs_saver.effects import Flow, GetDocs, ListBlobs
from langgraph_gcs_saver.errors import StoreNotFoundError
from langgraph_gcs_saver.flows.context import Context


def note_thread(thread_id: str, now: float, context: Context, *, has_root: bool) -> dict[str, Any]:
    """What a thread's document says of it when something is stored: its id, the time, where its objects go.

    Args:
        thread_id: The thread.
        now: Seconds since the epoch.
        context: Tells the bucket.
        has_root: Whether its root namespace has a checkpoint: one that has lost them all must not look new.
    """
    note: dict[str, Any] = {"thread_id": thread_id, "active": int(now)}
    if has_root:
        note["root"] = True
    if context.bucket:
        note["bucket"] = context.bucket
    return note


def refuse_other_bucket(thread_id: str, context: Context) -> Flow[None]:
    """For whoever misses an object: tell a bucket that was lost from one that was never written to.

    A thread has no object at all in a bucket that somebody named by mistake. In one that was moved or restored it has
    some, whatever its document says.

    Raises:
        StoreNotFoundError: The thread was last written to with another bucket, and has no object in this one.
    """
    if not context.bucket:
        return
    name = keys.thread_doc(thread_id)
    thread = (yield from GetDocs((name,), mask=("bucket",))).get(name)
    bucket = None if thread is None else thread.fields.get("bucket")
    if not isinstance(bucket, str) or bucket == context.bucket:
        return
    if not (yield from ListBlobs(keys.thread_blobs(thread_id), limit=1)):
        raise StoreNotFoundError(
            f"Thread {thread_id!r} was last written to with its objects in the bucket {bucket!r}, and has none in "
            f"{context.bucket!r}, which this saver was told to use. Name the bucket that has them; or, if they were "
            "moved, move those of this thread as well."
        )
