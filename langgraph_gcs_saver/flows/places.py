"""Where a thread's objects are, as its document says: another bucket is no damage."""

from __future__ import annotations

from langgraph_gcs_saver import keys
from langgraph_gcs_saver.effects import Flow, GetDocs, ListBlobs
from langgraph_gcs_saver.errors import StoreNotFoundError
from langgraph_gcs_saver.flows.context import Context


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
