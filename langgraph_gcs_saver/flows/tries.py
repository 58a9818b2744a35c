"""Handles many threads: one that cannot be read, or is busy, does not stop the others."""

from __future__ import annotations

from typing import TypeVar

from langgraph_gcs_saver.engine.effects import Emit, Flow
from langgraph_gcs_saver.errors import (
    UNREADABLE,
    ConflictError,
    GCSSaverError,
    InvalidIdError,
    ThreadBusyError,
    ThreadInSetError,
)
from langgraph_gcs_saver.events import ThreadSkipped

T = TypeVar("T")


class Tries:
    """Performs flows one by one. When all are done, it raises the first error that a thread has caused."""

    def __init__(self) -> None:
        self._first: GCSSaverError | None = None

    def of(self, flow: Flow[T], thread_id: str | None = None) -> Flow[T | None]:
        """The result of a flow; `None` if it cannot read something, ends with a conflict, or meets a lease or a hold.

        With `thread_id`, an event reports that the thread was skipped.
        """
        try:
            return (yield from flow)
        except (*UNREADABLE, InvalidIdError, ConflictError, ThreadBusyError, ThreadInSetError) as error:
            self._first = self._first or error
            reason = str(error)
        if thread_id is not None:
            yield from Emit(ThreadSkipped(thread_id=thread_id, reason=reason))
        return None

    def end(self) -> None:
        """Raise the first error, if there was any."""
        if self._first is not None:
            raise self._first
