"""`RowSink`: the base of all sinks. A saver's calls only append events to a queue; a background thread does the rest.

Whatever happens to the service behind a sink, a run neither waits for it nor sees its errors. The price is that rows
can be lost: if the queue is full, or if the service does not accept rows for `retry` seconds. Such rows are counted.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import chain, repeat
from queue import Empty
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.analytics import rows
from langgraph_gcs_saver.analytics.waiting import Dropped, Entry, Flight, Waiting
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ConflictError, GCSSaverError, InvalidOptionError, StoreUnavailableError
from langgraph_gcs_saver.events import Event, EventHandler, RowsDropped
from langgraph_gcs_saver.saver.background import Background, Kind

if TYPE_CHECKING:
    from langgraph_gcs_saver.saver.connection import Connection

T = TypeVar("T")
R = TypeVar("R")

KEY_VARIABLE = "LANGGRAPH_GCS_ANALYTICS_KEY"
"""The environment variable with the key of digests."""

REQUEST_SECONDS = 10.0
"""After this, a request to a service that does not answer has failed, and is sent again."""

_KEY_LENGTH = 16
"""Fewest characters of a key. Ids of threads that can be guessed must not be found by trying keys."""

_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before a batch is sent again; the last one is repeated."""

_KIND = Kind("analytics", most=1, wait=0.0)

_MOST_DIGESTS = 4096

logger = logging.getLogger("langgraph_gcs_saver")


class Source:
    """A saver that a sink is attached to.

    Args:
        saver: The saver.
        key: The key of digests; `None` if the store's own is to be read.
    """

    def __init__(self, saver: Connection, key: bytes | None) -> None:
        self.emit = saver._subscribers.emit  # noqa: SLF001 - reports are events of the saver
        self._backend = saver._backend  # noqa: SLF001 - reads the store as the saver does
        self._digest = None if key is None else _digests(key)

    def digests(self) -> Callable[[str], str]:
        """What makes digests of thread ids. The first call may read the store, so only the background thread calls it.

        Raises:
            GCSSaverError: The store's key cannot be read.
        """
        if self._digest is None:
            self._digest = _digests(run(flows.analytics.store_key(secrets.token_bytes(32)), self._backend))
        return self._digest


def _digests(key: bytes) -> Callable[[str], str]:
    @lru_cache(_MOST_DIGESTS)
    def digest(thread_id: str) -> str:
        return rows.thread_digest(thread_id, key) if thread_id else ""

    return digest


class RowSink(ABC, Generic[T]):
    """A sink: turns events of savers into rows, and writes the rows somewhere, on a thread of its own.

    A sink can be attached to several savers. A forked process begins with an empty queue and with counts of 0.

    Args:
        key: The key of the digests of thread ids, at least 16 bytes or characters. By default the environment variable
            `LANGGRAPH_GCS_ANALYTICS_KEY`. If there is none, each store makes a random key for itself, and keeps it.
        queue: Most rows that may wait. Further rows are dropped, and counted.
        batch: Most rows in one request.
        seconds: How long rows wait for others, to be written with them.
        retry: How long rows are sent again, in seconds, if the service does not accept them.

    Raises:
        InvalidOptionError: An option is outside its range.
    """

    batch_bytes = 4 << 20
    """Most bytes in one request, by `size`."""

    def __init__(
        self,
        *,
        key: bytes | str | None = None,
        queue: int = 50_000,
        batch: int = 1000,
        seconds: float = 1.0,
        retry: float = 60.0,
    ) -> None:
        for name, value, low, high in (
            ("queue", queue, 1, 10_000_000),
            ("batch", batch, 1, 10_000),
            ("seconds", seconds, 0, 3600),
            ("retry", retry, 0, 86_400),
        ):
            check_number(name, value, low, high)
        self._key = _chosen(key)
        self._batch, self._seconds, self._retry = batch, seconds, retry
        self._labels: tuple[str, ...] = ()
        self._is_closed = False
        self._complaints: set[str] = set()
        self._background = Background()
        self._processes = PerProcess(lambda: Waiting(queue, is_ended=self._is_closed))

    # What a sink does

    @abstractmethod
    def encode(self, row: rows.Row) -> T:
        """A row as the service needs it."""

    @abstractmethod
    def send(self, batch: Sequence[T]) -> None:
        """Write rows, or raise. It may be called again with the same rows."""

    def size(self, encoded: T) -> int:
        """Bytes of an encoded row."""
        return len(encoded)  # type: ignore[arg-type]

    def is_transient(self, error: BaseException) -> bool:
        """Whether the same rows may be accepted later."""
        return isinstance(error, (StoreUnavailableError, ConflictError))

    # What savers and users call

    @property
    def written(self) -> int:
        """Rows that this process has written. After `close`, these and `dropped` are all rows."""
        return self._processes.get().written

    @property
    def dropped(self) -> int:
        """Rows that this process has dropped."""
        return self._processes.get().dropped

    def attach(self, saver: Connection) -> EventHandler:
        """The handler of a saver's events; `saver.subscribe(sink)` calls this."""
        return partial(self._add, self.source(saver))

    def source(self, saver: Connection) -> Source:
        """A saver as this sink sees it. Rows can have its labels from now on."""
        self._labels = tuple(dict.fromkeys((*self._labels, *saver._options.labels)))  # noqa: SLF001 - no public name
        return Source(saver, self._key)

    def write(self, some: Iterable[rows.Row]) -> None:
        """Write rows now, in the caller's thread, as the backfill does. `written` does not count them.

        Raises:
            Exception: The sink does not accept them, for `retry` seconds if the reason may pass.
        """
        for batch in self._batches([self.encode(row) for row in some]):
            self._insist(self._processes.get(), partial(self.send, batch))

    def flush(self, timeout: float = 5.0) -> bool:
        """Write what waits.

        Args:
            timeout: Seconds after which it returns in any case.

        Returns:
            Whether all rows that waited were written in time.
        """
        waiting, is_whole = self._processes.get(), False
        starts, answer = waiting.ask()
        if starts:
            self._start(waiting)
        if answer is None:
            return True
        with suppress(Empty):
            is_whole = answer.get(timeout=timeout)
        self._report(waiting.reports(now=True))
        return is_whole

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, then drop what is left after `timeout` seconds, and all later rows. Idempotent."""
        waiting = self._processes.get()
        if not waiting.is_ended:
            self.flush(timeout)
            self._is_closed = True
            waiting.end()
            self._report(waiting.reports(now=True))
            self._background.close()

    # In the threads of the run

    def _add(self, source: Source, event: Event) -> None:
        number = rows.count(event)
        if number:
            waiting = self._processes.get()
            at = time.time_ns()  # clock: only shown, in the column `time`
            starts, reports = waiting.add(Entry(source, event, at, number))
            if starts:
                self._start(waiting)
            if reports:
                self._report(reports)

    def _start(self, waiting: Waiting) -> None:
        if not self._background.submit(_KIND, "write", partial(self._work, waiting, threading.current_thread())):
            waiting.stop()  # closed meanwhile

    def _report(self, reports: Iterable[Dropped]) -> None:
        for report in reports:
            report.source.emit(RowsDropped(sink=type(self).__name__, rows=report.rows, reason=report.reason))

    # On the background thread

    def _work(self, waiting: Waiting, caller: threading.Thread) -> None:
        if threading.current_thread() is caller:  # no thread could be started, and a run never writes rows
            waiting.stop()
            return
        is_done = False
        try:
            while not is_done:
                if not waiting.is_urgent:
                    with suppress(Empty):
                        waiting.woken.get(timeout=self._seconds)
                end = waiting.accepted  # Later rows wait for others, so that they do not become ever smaller batches.
                while waiting.settled < end and (flight := waiting.take(self._batch)):
                    self._write(waiting, flight)
                self._report(waiting.reports(now=False))
                is_done = waiting.rest()
        finally:
            if not is_done:
                waiting.stop()

    def _write(self, waiting: Waiting, flight: Flight) -> None:
        reports: list[Dropped] = []
        for source, entries in flight.entries.items():
            reason = ""
            try:
                digest = self._insist(waiting, source.digests)
                encoded = [
                    self.encode(row)
                    for entry in entries
                    for row in rows.make(entry.event, digest(entry.event.thread_id), entry.at // 1000, waiting.number)
                ]
                for batch in self._batches(encoded):
                    self._insist(waiting, partial(self.send, batch))
                    waiting.settle(flight, source, len(batch))
            except BaseException as error:  # noqa: BLE001 - nothing that a service or a client does ends this thread
                reason = self._complain(error)
            reports += waiting.settle(flight, source, None, reason)
        self._report(reports)  # When all rows are counted, because a handler of events can raise anything.

    def _insist(self, waiting: Waiting, act: Callable[[], R]) -> R:
        """Do something again and again while it fails for a reason that may pass."""
        ends = time.monotonic() + self._retry  # clock: when to give up is the caller's choice
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                return act()
            except Exception as error:
                late = time.monotonic() + pause > ends  # clock: as above
                if late or waiting.is_ended or not self.is_transient(error):
                    raise
                logger.info("%s tries again in %g s: %s", type(self).__name__, pause, error)
            time.sleep(pause)
        raise AssertionError

    def _batches(self, encoded: Sequence[T]) -> Iterator[Sequence[T]]:
        """Rows for one request each."""
        begin = size = 0
        for at, one in enumerate(encoded):
            own = self.size(one)
            # One event can have more rows than a request may have, because a checkpoint has one for each channel.
            if at > begin and (at - begin == self._batch or size + own > self.batch_bytes):
                yield encoded[begin:at]
                begin, size = at, 0
            size += own
        if begin < len(encoded):
            yield encoded[begin:]

    def _complain(self, error: BaseException) -> str:
        """Log why rows are dropped, once for each kind of error, and return it in one word."""
        reason = error.kind if isinstance(error, GCSSaverError) else type(error).__name__
        if reason not in self._complaints:
            self._complaints.add(reason)
            logger.warning("%s drops rows: %s: %s", type(self).__name__, reason, error)
        return reason


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Check an option.

    Raises:
        InvalidOptionError: It is no number, or outside its range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidOptionError(f"{name} is {value!r}; it must be a number from {low} to {high}.")


def _chosen(key: object) -> bytes | None:
    chosen = os.environ.get(KEY_VARIABLE) if key is None else key
    if chosen is None:
        return None
    if not isinstance(chosen, (bytes, str)) or len(chosen) < _KEY_LENGTH:
        raise InvalidOptionError(
            f"The key of analytics, `key` or {KEY_VARIABLE}, must be bytes or text with at least {_KEY_LENGTH} "
            "characters. Make a random one with `openssl rand -hex 32`."
        )
    return chosen.encode() if isinstance(chosen, str) else chosen
