"""The events that wait in one process, and the counts of its rows. Each row is counted once, as written or dropped."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING

from langgraph_gcs_saver.engine.turn import Turn
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph_gcs_saver.analytics.base import Source
    from langgraph_gcs_saver.events import Event

REPORT_SECONDS = 10.0
"""The least time between two reports of rows that were dropped. A dead service drops thousands a second."""

FULL = "the queue is full"
CLOSED = "the sink is closed"


@record(frozen=True, slots=True)
class Entry:
    """An event that waits.

    Attributes:
        source: Whose event it is.
        event: The event.
        at: When it was reported, in nanoseconds since the epoch.
        rows: How many rows it makes.
    """

    source: Source
    event: Event
    at: int
    rows: int


@record(frozen=True, slots=True)
class Dropped:
    """Rows of one saver that were dropped, and have not been reported yet."""

    source: Source
    rows: int
    reason: str


class Flight:
    """Events whose rows are being written.

    Attributes:
        entries: The events, by their saver.
        left: How many rows of each saver are neither written nor dropped.
    """

    def __init__(self, entries: Mapping[Source, list[Entry]]) -> None:
        self.entries = entries
        self.left = {source: sum(entry.rows for entry in own) for source, own in entries.items()}


class Waiting:
    """A queue with a limit, in rows. Methods take turns, so any thread may call them, and a signal may strike them.

    Args:
        most: Most rows that wait or are being written.
        is_ended: Whether it takes no events.

    Attributes:
        written: Rows that were written.
        dropped: Rows that were dropped.
        is_ended: Whether it takes no more events.
        woken: Gets an entry if the background thread should not wait for more rows.
        number: Makes an id that no other event of any process has.
    """

    def __init__(self, most: int, *, is_ended: bool) -> None:
        self.written = 0
        self.dropped = 0
        self.is_ended = is_ended
        self.woken: SimpleQueue[None] = SimpleQueue()
        self.number = _numbers()
        self._most = most
        self._turn = Turn()
        self._entries: deque[Entry] = deque()
        self._rows = 0
        self._accepted = 0
        self._settled = 0
        self._flight: Flight | None = None
        self._is_working = False
        self._asked: list[tuple[int, int, SimpleQueue[bool]]] = []
        self._unreported: dict[tuple[Source, str], int] = {}
        self._reported: float | None = None

    def add(self, entry: Entry) -> tuple[bool, list[Dropped]]:
        """Queue an event, or drop it.

        Returns:
            Whether the caller must start the background work, and what is to be reported.
        """
        return self._turn.run(partial(self._add, entry))

    def ask(self) -> tuple[bool, SimpleQueue[bool] | None]:
        """Ask that what waits is written soon.

        Returns:
            Whether the caller must start the background work; and a queue that gets the answer, whether all of it was
            written. It is `None` if nothing waits.
        """
        return self._turn.run(self._ask)

    def take(self, most: int) -> Flight | None:
        """The next events, with about `most` rows."""
        return self._turn.run(partial(self._take, most))

    def settle(self, flight: Flight, source: Source, written: int | None, reason: str = "") -> list[Dropped]:
        """Count rows of a flight: those that were written, or as dropped all that are left of this source."""
        return self._turn.run(partial(self._settle, flight, source, written, reason))

    def rest(self) -> bool:
        """Whether nothing waits. The work then ends, and `add` says when it must start again."""
        return self._turn.run(self._rest)

    def stop(self) -> None:
        """End the work although something waits, because it cannot be done now."""
        self._turn.run(self._stop)

    def end(self) -> None:
        """Take no more events, and drop what waits or is being written."""
        self._turn.run(self._end)

    def reports(self, *, now: bool) -> list[Dropped]:
        """What is to be reported, if there was no report for a while, or in any case."""
        return self._turn.run(partial(self._due, now=now))

    @property
    def accepted(self) -> int:
        """How many rows were queued so far."""
        return self._accepted

    @property
    def settled(self) -> int:
        """How many of these have been written or dropped."""
        return self._settled

    @property
    def is_urgent(self) -> bool:
        """Whether a caller waits for an answer."""
        return bool(self._asked)

    # In turn

    def _add(self, entry: Entry) -> tuple[bool, list[Dropped]]:
        rows = self._rows + entry.rows
        if self.is_ended or rows > self._most:
            self._drop(entry.source, entry.rows, CLOSED if self.is_ended else FULL)
            return False, self._due(now=False)
        self._entries.append(entry)
        if self._rows * 2 < self._most <= rows * 2:
            self.woken.put(None)
        self._rows = rows
        self._accepted += entry.rows
        starts, self._is_working = not self._is_working, True
        return starts, []

    def _ask(self) -> tuple[bool, SimpleQueue[bool] | None]:
        if self._settled == self._accepted:
            return False, None
        answer: SimpleQueue[bool] = SimpleQueue()
        self._asked.append((self._accepted, self.dropped, answer))
        self.woken.put(None)
        starts, self._is_working = not self._is_working, True
        return starts, answer

    def _take(self, most: int) -> Flight | None:
        taken: dict[Source, list[Entry]] = {}
        while self._entries and most > 0:
            entry = self._entries.popleft()
            taken.setdefault(entry.source, []).append(entry)
            most -= entry.rows
        self._flight = Flight(taken) if taken else None
        return self._flight

    def _settle(self, flight: Flight, source: Source, written: int | None, reason: str) -> list[Dropped]:
        if flight is not self._flight:  # `end` has dropped it
            return []
        rows = flight.left[source] if written is None else written
        flight.left[source] -= rows
        if written is None:
            self._drop(source, rows, reason)
        else:
            self.written += rows
        self._rows -= rows
        self._settled += rows
        self._answer()
        return self._due(now=False)

    def _rest(self) -> bool:
        self._is_working = bool(self._entries)
        return not self._is_working

    def _stop(self) -> None:
        self._is_working = False
        self._answer(given_up=True)

    def _end(self) -> None:
        self.is_ended = True
        left = {} if self._flight is None else self._flight.left
        for source, rows in (*left.items(), *((entry.source, entry.rows) for entry in self._entries)):
            self._drop(source, rows, CLOSED)
        self._flight = None
        self._entries.clear()
        self._rows = 0
        self._settled = self._accepted
        self._answer()
        self.woken.put(None)

    def _answer(self, *, given_up: bool = False) -> None:
        for one in list(self._asked):
            accepted, dropped, answer = one
            if given_up or self._settled >= accepted:
                self._asked.remove(one)
                answer.put(self._settled >= accepted and self.dropped == dropped)

    def _drop(self, source: Source, rows: int, reason: str) -> None:
        if rows:
            self.dropped += rows
            self._unreported[source, reason] = self._unreported.get((source, reason), 0) + rows

    def _due(self, *, now: bool) -> list[Dropped]:
        if not self._unreported:
            return []
        at = time.monotonic()  # clock: only how often rows that were dropped are reported
        if not now and self._reported is not None and at < self._reported + REPORT_SECONDS:
            return []
        self._reported = at
        found = [Dropped(source, rows, reason) for (source, reason), rows in self._unreported.items()]
        self._unreported.clear()
        return found


def _numbers() -> Callable[[], str]:
    nonce, numbers = secrets.token_hex(8), count()
    return lambda: f"{nonce}{next(numbers):016x}"
