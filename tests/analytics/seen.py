"""What a saver does in these tests, and what rows must be of it."""

from __future__ import annotations

from typing import Any

from langgraph_gcs_saver.analytics import rows
from langgraph_gcs_saver.events import Event
from tests.system.build import cfg, put

THREAD = "the thread that rows must not name"
SECRET = "the state that rows must not show"


class Counted:
    """A subscriber beside a sink: how many rows its events make, and the reports of rows that were dropped."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Note an event."""
        self.events.append(event)

    @property
    def rows(self) -> int:
        """How many rows all events make."""
        return sum(rows.count(event) for event in self.events)


def work(saver: Any, begin: int, end: int, thread: str = THREAD) -> None:
    """Store checkpoints with these numbers, with pending writes, and read the last one."""
    for n in range(begin, end):
        put(saver, n, {"v": [SECRET, n]}, parent=n - 1 if n > 1 else None, thread=thread)
    saver.put_writes(cfg(end - 1, thread=thread), [("v", [SECRET])], "task")
    assert saver.get_tuple(cfg(thread=thread)) is not None
