"""Replicates a store to another one: what has changed, and what either lacks.

The store that has the changes performs the effects that are `On` it (`flows.transfer.SOURCE`), and the target is the
flow's home. Both are opened as shippers (`Connection._as_shipper`), because their commits require no role, and add no
entries to an outbox. `context` is the target's. Its codec reads both stores, so it has the key of the source.

`flows.shipments` has the protocol. Any number of processes may ship the same thread at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langgraph_gcs_saver.engine.effects import Commit, Create, Flow, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.engine.steps import at, together
from langgraph_gcs_saver.errors import (
    UNREADABLE,
    ConflictError,
    DamageError,
    InvalidIdError,
    StoreError,
    ThreadBusyError,
    ThreadInSetError,
)
from langgraph_gcs_saver.flows.all_threads import Pages, each_thread
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.shipments import ENTRIES_PER_PAGE, MARK, Overtaken, Shipment, entries_of
from langgraph_gcs_saver.flows.transfer import SOURCE, pages
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.regions import is_incomplete, mark_in
from langgraph_gcs_saver.results import Reconciled, Shipped, Unshipped

CLOCK = f"{keys.REGION}/clock"
"""Name of the document that a shipper writes in the source to learn the time there."""

ENTRIES = 20_000
"""The default for the number of entries after which a pass ends. A greater number of entries takes several passes."""

_TOGETHER = 8
"""How many threads are shipped at the same time. Each takes about 7 rounds, and the memory of a few objects."""

_MOST_FAILURES = 1000
"""How many threads that cannot be shipped end a pass: it keeps their errors, and they have a common cause by then."""

_OF_A_THREAD = (*UNREADABLE, DamageError, InvalidIdError, ConflictError, ThreadBusyError, ThreadInSetError)
"""Errors that concern one thread, and do not stop the others."""


def ship(segment: str, *, context: Context) -> Flow[Shipped]:
    """Ship what the source's outbox says about one thread.

    Args:
        segment: The thread's segment in names (`Entry.segment`, `keys.spread`). `keys.SHARED_OUTBOX` stands for the
            operations that all threads share.
        context: The target's.

    Raises:
        CheckpointCorruptError: A checkpoint is damaged in the source, or in the target if the source has deleted some.
        ConflictError: Others changed the thread in every try, or have continued what the source has replaced.
        DamageError: Another document is damaged, or an object is missing.
        WrongKeyError: The stores have another key. Nothing was shipped, and the entries stay.
    """
    if segment != keys.SHARED_OUTBOX and not keys.is_thread_segment(segment):
        raise DamageError(
            f"The outbox has an entry of {segment!r}, which is no thread. langgraph-gcs-saver did not write it. Delete "
            "the documents whose names begin with this in the collection `lg_outbox`."
        )
    missing: str | None = None
    total = Shipped()
    tries = 0
    while tries < MAX_TRIES:
        shipment = Shipment(segment, context)
        try:
            yield from shipment.begin()
            found, until = yield from at(SOURCE, entries_of(segment))
            entries = [entry for entry in found if until is None or entry.time <= until]
            if entries:
                newest = max(entry.time for entry in entries)
                yield from shipment.flow(entries, newest if len(entries) == len(found) else None)
            else:
                yield from shipment.forget()
        except Overtaken as overtaken:
            if overtaken.missing is not None and overtaken.missing == missing:
                raise _lost(missing) from None
            missing = overtaken.missing
            tries += 1
            continue
        total += Shipped(
            entries=len(entries),
            documents=shipment.documents,
            bytes=shipment.bytes,
            forks=tuple(shipment.forks),
        )
        if len(entries) == len(found):
            return replace(total, threads=1 if total.entries else 0)
    raise _overtaken(segment)


def _overtaken(segment: str) -> ConflictError:
    return ConflictError(
        f"Thread {keys.told_thread_id(segment)!r} was not replicated completely: other shippers, or writers to the "
        f"other store, were faster {MAX_TRIES} times in a row. Call again to continue."
    )


def _lost(name: str) -> DamageError:
    return DamageError(
        f"{name!r} is missing in the source, and a document refers to it, so the document was not replicated. Run "
        "`langgraph-gcs verify` on the source, and repair the thread."
    )


def ship_once(*, limit: int = ENTRIES, context: Context) -> Flow[Shipped]:
    """Ship what the source's outbox has now, several threads at the same time, and move the mark of the target.

    Nothing older than the mark is missing in the target. It is the source's time just before its outbox was read, or
    just before the oldest entry that could not be shipped. A thread that cannot be shipped does not stop the others.

    Args:
        limit: After how many entries that were shipped the pass ends. If there are more, the mark stays, and the result
            has `is_all` false. Entries that cannot be shipped do not count, or they would hide those behind them. A
            thousand threads that cannot be shipped end the pass too.
        context: The target's.

    Returns:
        What was shipped, the mark, and the threads that were not shipped, each with its error.

    Raises:
        StoreUnavailableError: A store does not answer. What was shipped is whole.
    """
    # A commit's time is exact in every store: what was committed before is visible to each later query.
    times = yield from at(SOURCE, iter(Commit((Merge(CLOCK, {"token": context.new_attempt()}),))))
    now = times[0] if times is not None else 0
    total = Shipped(is_all=False)
    failed: set[str] = set()
    after: str | None = None
    while not total.is_all and total.entries < limit and len(total.failures) < _MOST_FAILURES:
        oldest, after = yield from at(SOURCE, _outbox(after, limit))
        segments = sorted(oldest.keys() - failed, key=lambda one: (oldest[one], one))
        for page in pages(segments, _TOGETHER):
            done = yield from _page(page, context)
            total += sum(done.values(), Shipped())
            failed.update(segment for segment, one in done.items() if one.failures)
        now = min([now, *(oldest[segment] - 1 for segment in failed & oldest.keys())])
        total = replace(total, is_all=after is None)
    if total.is_all:
        yield from _move_mark(now)
    return replace(total, mark=(yield from mark()))


def _page(segments: Sequence[str], context: Context) -> Flow[dict[str, Shipped]]:
    """What was shipped of some threads at the same time, or one by one if a store refuses a request for one."""
    try:
        done = yield from together(*(_tried(one, context) for one in segments))
    except StoreError as error:
        if not _is_refusal(error):
            raise
        done = ()
        for one in segments:
            done = (*done, (yield from _tried(one, context)))
    return dict(zip(segments, done, strict=True))


def _tried(segment: str, context: Context) -> Flow[Shipped]:
    """Like `ship`, with the error of a thread in the result."""
    try:
        return (yield from ship(segment, context=context))
    except (*_OF_A_THREAD, StoreError) as error:
        if isinstance(error, StoreError) and not _is_refusal(error):
            raise
        return Shipped(failures=(Unshipped(thread_id=keys.told_thread_id(segment), error=error),))


def _is_refusal(error: StoreError) -> bool:
    """Whether a store can be used, and has refused one request, such as to replace an object."""
    return type(error) is StoreError


def mark() -> Flow[int | None]:
    """The time up to which the target has everything of the source, by the source's clock in nanoseconds.

    Returns:
        The time; `None` if no pass over the outbox has ended yet.
    """
    return mark_in((yield from GetDocs((keys.MARK,))).get(keys.MARK))


def _move_mark(time: int) -> Flow[None]:
    """Move the target's mark forward. Another shipper that moves it at the same time knows as much.

    A target that lacks what is older than the replication has no mark.
    """
    doc = (yield from GetDocs((keys.MARK,))).get(keys.MARK)
    if doc is None:
        yield from Commit((Create(keys.MARK, {MARK: time}),))
    elif time > (mark_in(doc) or 0) and not is_incomplete(doc):
        yield from Commit((Merge(keys.MARK, {MARK: time}, update_time=doc.update_time),))


def _outbox(after: str | None, limit: int) -> Flow[tuple[dict[str, int], str | None]]:
    """The threads that some entries of the outbox are about, each with the time of its oldest one.

    What the entries say is read when the thread is shipped, so a damaged one stops no other thread.

    Args:
        after: The name of the last entry that was read before; `None` at the beginning.
        limit: After how many entries to stop.

    Returns:
        The threads, by their segments, and the name of the last entry; `None` in its place if these are all.
    """
    oldest: dict[str, int] = {}
    read = 0
    while True:
        docs = yield from QueryDocs(keys.OUTBOX, after=after, limit=ENTRIES_PER_PAGE, mask=())
        for doc in docs:
            segment = keys.outbox_segment(doc.name)
            oldest[segment] = min(doc.update_time, oldest.get(segment, doc.update_time))
        if len(docs) < ENTRIES_PER_PAGE:
            return oldest, None
        after = docs[-1].name
        read += len(docs)
        if read >= limit:
            return oldest, after


# What either store lacks


def reconcile(thread_id: str | None, *, heals: bool = True, context: Context) -> Flow[Reconciled]:
    """Ship everything of a thread that the target lacks, whatever the outbox says.

    This ships what was stored before the replication began. It replaces what differs in the target, so it heals what
    was damaged there. It deletes nothing: what only the target has is counted, and shipped by a call in the opposite
    direction with `heals=False`.

    Args:
        thread_id: The thread; `None` for the operations that all threads share.
        heals: Whether documents and objects that differ are replaced. Never pass true if the source is the replica.
        context: The target's.

    Raises:
        CheckpointCorruptError: A checkpoint is damaged in the source.
        ConflictError: Others changed the thread in every try, or have continued what the source has replaced.
        DamageError: Another document is damaged, or an object is missing.
        WrongKeyError: The stores have another key. Nothing was shipped.
    """
    segment = keys.SHARED_OUTBOX if thread_id is None else keys.spread(thread_id, "thread id")
    missing: str | None = None
    for _ in range(MAX_TRIES):
        shipment = Shipment(segment, context, heals=heals)
        try:
            yield from shipment.begin()
            extra = yield from shipment.everything()
        except Overtaken as overtaken:
            if overtaken.missing is not None and overtaken.missing == missing:
                raise _lost(missing) from None
            missing = overtaken.missing
            continue
        return Reconciled(
            thread_id=thread_id,
            documents=shipment.documents,
            bytes=shipment.bytes,
            extra=tuple(extra),
            forks=tuple(shipment.forks),
        )
    raise _overtaken(segment)


def compare(*, heals: bool = True, context: Context) -> Flow[Shipped]:
    """What `reconcile_all` ships, in total; for the arguments and errors, see there."""
    total, next_page = Shipped(), reconcile_all(heals=heals, context=context)
    while (page := (yield from next_page())) is not None:
        for one in page:
            total += Shipped(
                threads=1 if one.documents else 0, documents=one.documents, bytes=one.bytes, forks=one.forks
            )
    return total


def reconcile_all(*, heals: bool = True, context: Context) -> Pages[Reconciled]:
    """Pages of what `reconcile` returns for all threads of the source. A thread that cannot be read is skipped.

    Each call of the result returns the next page, and `None` at the end. If a thread was skipped, its error is raised
    after all others are done.
    """
    # The threads are found in the source, but what is done with each is a flow of the target.
    threads = each_thread(None, _only, context)
    tries = Tries()
    shared_is_due, is_over = True, False

    def page() -> Flow[Sequence[Reconciled] | None]:
        nonlocal shared_is_due, is_over
        found: list[str | None] = [None] if shared_is_due else []
        shared_is_due = False
        while len(found) < _TOGETHER and not is_over:
            some = yield from tries.of(at(SOURCE, threads()))
            is_over = some is None
            found += some or ()
        if not found:
            tries.end()
            return None
        compared = [tries.of(reconcile(one, heals=heals, context=context), one) for one in found]
        return [one for one in (yield from together(*compared)) if one is not None]

    return page


def _only(thread_id: str) -> Flow[Sequence[str | None]]:
    yield from ()
    return (thread_id,)
