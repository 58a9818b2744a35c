"""`Thread`: one handle for everything about one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver


class Thread:
    """A thread of a saver. Making one reads nothing and writes nothing; the thread need not exist.

    Attributes:
        id: The thread's id.
    """

    def __init__(self, saver: GCSSaver, thread_id: str) -> None:
        self._saver = saver
        self.id = thread_id

    def __repr__(self) -> str:
        return f"Thread({self.id!r})"
