"""Looks at a store again and again, as `langgraph-gcs top` does. A look takes a limited number of requests.

No query sorts by last use. So the documents of all threads are read, names and times alone, a page in each look, and a
`Pass` keeps what it has found. The same holds for the threads whose turns have not finished, and for the sizes in
manifests. The first look reads more pages, so that one look shows all of a store with few threads.

Each look then reads the threads that it returns: the checkpoints that are new since the last look, and the tip, the
pending writes and the lease. If a thread has finished, only a new checkpoint or a lease can change that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Generic, Literal, TypeVar, get_args

from langgraph_gcs_saver.engine.effects import Doc, Flow, Now, QueryDocs
from langgraph_gcs_saver.engine.steps import together
from langgraph_gcs_saver.errors import UNREADABLE, GCSSaverError, InvalidIdError
from langgraph_gcs_saver.flows import catalogue, work
from langgraph_gcs_saver.flows.active import Listed, listed_in
from langgraph_gcs_saver.flows.catalogue import Size
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.runs import status
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.sagas import ROLLING_BACK
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import SagaState, StoreActivity, ThreadActivity, ThreadState, ThreadStatus, at_time

T = TypeVar("T")

Order = Literal["used", "state", "puts", "lag", "stored", "thread"]
"""How threads are sorted.

Those used last come first, or those that need a person or a worker, with most puts, the longest lag, the most stored
bytes, or the first ids.
"""

ORDERS: tuple[Order, ...] = get_args(Order)

MOST = 100
"""Most threads that one look reads."""

FIRST_PAGES = 10
"""Most pages of each kind that the first look reads. Each later look reads one at most."""

THREADS_PER_PAGE = 300
"""How many documents of threads are read at once: names, ids and times."""

ROLLBACKS_PER_PAGE = 300
"""How many rollbacks are read at once: names and states."""

ACTIVE_PER_PAGE = 100
"""How many threads whose turns have not finished are read at once, each with its lease."""

NEW_PER_THREAD = 50
"""Most checkpoints of a thread whose times one look reads."""

THREADS_EVERY, ROLLBACKS_EVERY, SIZES_EVERY = 10.0, 10.0, 300.0
"""Seconds from the beginning of one pass to the next: over all threads, over rollbacks, and over all manifests."""

WINDOW = timedelta(seconds=10)
"""The time over which puts are counted."""

_WINDOW = int(WINDOW.total_seconds() * 1e9)

URGENT: tuple[ThreadState, ...] = ("poison", "crashed", "waiting", "due", "paused", "running", "finished", "empty")
"""States, those that need a person or a worker first."""


class Pass(Generic[T]):
    """What is known about the documents of a query, which is read page by page.

    Attributes:
        last: What the last complete pass has found.
        now: What this pass has found so far.
        is_complete: Whether a pass was complete.
    """

    def __init__(
        self, query: QueryDocs, every: float, take: Callable[[dict[str, T], Sequence[Doc]], Flow[None]]
    ) -> None:
        self.last: dict[str, T] = {}
        self.now: dict[str, T] = {}
        self.is_complete = False
        self._query = query
        self._every = every
        self._take = take
        self._after: str | None = None
        self._began = 0.0

    def advance(self, now: float) -> Flow[None]:
        """Read the next page, or the first ones; nothing if the next pass is not due. After an error, read it again."""
        if self._after is None:
            if self.is_complete and 0 <= now - self._began < self._every:
                return
            self._began = now
        for _ in range(1 if self.now or self.last else FIRST_PAGES):
            docs = yield from replace(self._query, after=self._after)
            yield from self._take(self.now, docs)
            if len(docs) < (self._query.limit or 0):
                self.last, self.now, self._after, self.is_complete = self.now, {}, None, True
                return
            self._after = docs[-1].name


@record(frozen=True, slots=True)
class _Thread:
    """A thread as its own document shows it: its id, and when that document last changed."""

    thread_id: str
    used: int


@record(frozen=True, slots=True)
class _Row:
    """What looks have read of a thread that they returned.

    Attributes:
        status: What it is doing.
        error: Why that cannot be read.
        at: The service's time at which it was read.
        newest: The name of its newest checkpoint.
        puts: When checkpoints were stored, those within the window.
    """

    status: ThreadStatus | None = None
    error: GCSSaverError | None = None
    at: int = 0
    newest: str | None = None
    puts: tuple[int, ...] = ()


class Watch:
    """What successive looks at a store have found."""

    def __init__(self) -> None:
        start, end = keys.all_threads_range("")
        threads = QueryDocs(keys.THREADS, start=start, end=end, limit=THREADS_PER_PAGE, mask=("thread_id",))
        self._threads: Pass[_Thread] = Pass(threads, THREADS_EVERY, _take_threads)
        self._active: Pass[Listed] = Pass(QueryDocs(keys.ACTIVE, limit=ACTIVE_PER_PAGE), 0, _take_active)
        rollbacks = QueryDocs(keys.ROLLBACKS, limit=ROLLBACKS_PER_PAGE, mask=("state",))
        self._rollbacks: Pass[SagaState] = Pass(rollbacks, ROLLBACKS_EVERY, _take_rollbacks)
        self._rows: dict[str, _Row] = {}
        self._sizes: Pass[Size] | None = None

    def look(self, limit: int, order: Order, loads: Loads, context: Context) -> Flow[StoreActivity]:
        """What the store shows now.

        Args:
            limit: Most threads to return.
            order: Which threads come first.
            loads: Deserializes metadata and questions.
            context: Options and caches.
        """
        now = yield from Now()
        if self._sizes is None:
            query = catalogue.manifests_in(*keys.all_threads_range(""))
            self._sizes = Pass(query, SIZES_EVERY, partial(_take_sizes, context))
        passes = (self._threads, self._active, self._rollbacks, self._sizes)
        yield from together(*(one.advance(now) for one in passes))
        threads, active = self._threads.last | self._threads.now, self._active.last | self._active.now
        # The pass may be in the middle of a thread, so the sum of the last pass is better.
        sizes = self._sizes.now | self._sizes.last
        candidates = {name: _Thread(one.active.thread_id, one.active.time) for name, one in active.items()}
        candidates |= {
            name: replace(one, used=max(one.used, candidates[name].used if name in candidates else 0))
            for name, one in threads.items()
        }
        chosen = sorted(candidates, key=partial(self._rank, order, candidates, active, sizes))[:limit]
        rows = yield from together(
            *(self._read(name, candidates[name].thread_id, active.get(name), loads, context) for name in chosen)
        )
        self._rows = dict(zip(chosen, rows, strict=True))
        at = max((row.at for row in rows), default=0) or int(now * 1e9)
        shown = [_shown(candidates[name], self._rows[name], at, sizes.get(name)) for name in chosen]
        states = Counter(_said(one) for name, one in active.items() if name not in self._rows)
        states.update(one.state for one in shown if one.state is not None)
        rollbacks = Counter((self._rollbacks.last | self._rollbacks.now).values())
        known = sizes.values()
        return StoreActivity(
            time=at_time(at),
            threads=tuple(sorted(shown, key=partial(_order, order))),
            total=len(candidates),
            is_complete=self._threads.is_complete and self._active.is_complete,
            states={state: states[state] for state in URGENT if states[state]},
            rollbacks={state: rollbacks[state] for state in ROLLING_BACK if rollbacks[state]},
            puts_per_second=sum(one.puts_per_second for one in shown),
            checkpoints=sum(one.checkpoints for one in known),
            damaged=sum(one.damaged for one in known),
            document_bytes=sum(one.document_bytes for one in known),
            object_bytes=sum(one.object_bytes for one in known),
            is_sized=self._sizes.is_complete,
        )

    def _rank(
        self,
        order: Order,
        candidates: Mapping[str, _Thread],
        active: Mapping[str, Listed],
        sizes: Mapping[str, Size],
        name: str,
    ) -> tuple[float | str, ...]:
        """The place of a thread before it is read, for the choice of those that are read."""
        one, row = candidates[name], self._rows.get(name, _Row())
        used = -max(one.used, *row.puts, 0)
        match order:
            case "state":
                said = _said(active[name]) if name in active else "finished" if row.status is None else row.status.state
                return URGENT.index(said), used, name
            case "stored":
                size = sizes.get(name)
                return 0 if size is None else -size.stored_bytes, used, name
            case "thread":
                return one.thread_id, name
            case _:
                return used, name

    def _read(self, name: str, thread_id: str, said: Listed | None, loads: Loads, context: Context) -> Flow[_Row]:
        """A thread of the result."""
        known = self._rows.get(name, _Row())
        new = yield from QueryDocs(
            f"{keys.THREADS}/{name}/{keys.CHECKPOINTS}", end=known.newest, limit=NEW_PER_THREAD, mask=()
        )
        stored = (*(doc.create_time for doc in new), *known.puts)
        puts = tuple(one for one in stored if one > max(stored) - _WINDOW)
        newest = new[0].name if new else known.newest
        is_held = said is not None and said.is_held
        if not new and not is_held and known.status is not None and known.status.is_finished:
            return replace(known, puts=puts)
        try:
            found = yield from status(thread_id, loads, context)
        except (*UNREADABLE, InvalidIdError) as error:
            return _Row(error=error, newest=newest, puts=puts)
        return _Row(status=work.describe(found), at=found.lease.now, newest=newest, puts=puts)


def _shown(thread: _Thread, row: _Row, at: int, size: Size | None) -> ThreadActivity:
    """A thread of the result, as callers get it."""
    status, error = row.status, row.error
    if status is not None and row.at and status.idle is not None and status.age is not None:
        passed = timedelta(microseconds=max(0, at - row.at) // 1000)
        status = replace(status, age=status.age + passed, idle=status.idle + passed)
    stored = 0 if status is None or status.stored is None else int(status.stored.timestamp() * 1e9)
    return ThreadActivity(
        thread_id=thread.thread_id,
        used=at_time(max(thread.used, stored, *row.puts)),
        status=status,
        error=error,
        puts_per_second=sum(put > at - _WINDOW for put in row.puts) / WINDOW.total_seconds(),
        checkpoints=None if size is None else size.checkpoints,
        stored_bytes=None if size is None else size.stored_bytes,
        damaged=0 if size is None else size.damaged,
    )


def _order(order: Order, one: ThreadActivity) -> tuple[float | str, ...]:
    used = -one.used.timestamp()
    match order:
        case "state":
            return -1 if one.state is None else URGENT.index(one.state), used, one.thread_id
        case "puts":
            return -one.puts_per_second, used, one.thread_id
        case "lag":
            return -one.lag.total_seconds() if one.lag is not None else math.inf, used, one.thread_id
        case "stored":
            return -(one.stored_bytes or 0), used, one.thread_id
        case "thread":
            return (one.thread_id,)
        case _:
            return used, one.thread_id


def _said(one: Listed) -> ThreadState:
    """What a thread is doing, as far as its documents in `lg_active` and its lease say."""
    if one.is_held:
        return "running"
    return "crashed" if one.lease.owner is not None or one.active.state == "running" else one.active.state


def _take_threads(found: dict[str, _Thread], docs: Sequence[Doc]) -> Flow[None]:
    for doc in docs:
        thread_id = thread_id_of(doc)
        if thread_id is not None:
            found[keys.thread_segment_of(doc.name)] = _Thread(thread_id, doc.update_time)
    yield from ()


def _take_active(found: dict[str, Listed], docs: Sequence[Doc]) -> Flow[None]:
    for one in (yield from listed_in(docs)):
        found[keys.thread_segment_of(keys.thread_doc(one.active.thread_id))] = one


def _take_rollbacks(found: dict[str, SagaState], docs: Sequence[Doc]) -> Flow[None]:
    for doc in docs:
        state = doc.fields.get("state")
        if state in ROLLING_BACK:
            found[doc.name] = state
    yield from ()


def _take_sizes(context: Context, found: dict[str, Size], docs: Sequence[Doc]) -> Flow[None]:
    sizes: list[tuple[str, Size]] = []
    for doc in docs:
        size = yield from catalogue.size_of(doc, context)
        if size is not None:
            sizes.append((keys.thread_segment_of(doc.name), size))
    # A page that could not be read as a whole is read again. So nothing of it may count yet.
    for segment, size in sizes:
        found[segment] = found.get(segment, Size()) + size
