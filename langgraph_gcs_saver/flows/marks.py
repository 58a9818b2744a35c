"""The mark of a deletion in a thread's document."""

from __future__ import annotations

from langgraph_gcs_saver.engine.effects import Doc, Merge


def unmarked(thread: Doc) -> Merge:
    """The write that removes the mark of a crashed deletion from a thread's document.

    The deletion may have left any part of the thread. The next checkpoint's note starts the thread again.
    """
    return Merge(thread.name, {}, remove=("deleting", "active", "root", "copying"), update_time=thread.update_time)
