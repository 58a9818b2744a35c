"""Batches of items: a loop that several processes share, and that resumes after the last item that was stored.

The documents of a batch are its list, one immutable document for each flush of done or failed items, and one claim for
each chunk that a worker handles. Nothing counts: the done items are the union of all flushes.

1. A flush is a document with a name of its own, and has no precondition on a document of the batch. So other workers
   cannot make it fail, and a worker that lost its claim still records what it did.
2. A claim is created, or taken over as last seen. Its commit requires the batch's document as last seen. After it, the
   worker reads which items of the chunk are done. Items that were flushed before it are then visible.
3. A restart, and a batch that is created again, have another epoch. Flushes of other epochs do not count. Workers read
   the flushes first and the batch's document after them. So if a restart has deleted flushes, they see the new epoch.
4. A list changes only while the batch is open, as last seen, and only at its end.
5. The end comes in two steps, each as last seen: `closing`, when all items of the list are settled, then the final
   operation, then `done`. A list that has changed makes the first one fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, replace
from functools import partial
from typing import Any, Literal

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Flow,
    Gather,
    GetDocs,
    Merge,
    Now,
    Pause,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import (
    ConflictError,
    InvalidInputError,
)
from langgraph_gcs_saver.flows.collections import damaged
from langgraph_gcs_saver.flows.context import ATTEMPT_DEADLINE_SECONDS, MAX_TRIES, Context
from langgraph_gcs_saver.flows.manifests import make_stub, open_stub, report_clear
from langgraph_gcs_saver.flows.mirrors import read_object
from langgraph_gcs_saver.flows.readback import discard, mismatched, upload
from langgraph_gcs_saver.flows.threads import guard, note_thread
from langgraph_gcs_saver.format import frames, item_batches, keys, seals
from langgraph_gcs_saver.format.item_batches import (
    ITEMS,
    LIST,
    OUTPUTS,
    STATE,
    Claimed,
    Failure,
    Listing,
    Outputs,
    Settled,
    State,
)
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, Serialized, Stub, stub_of
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import BatchInfo, ItemFailure

Changed = Literal["raise", "merge"]
OnDone = Literal["raise", "skip", "restart"]

DOCS_PER_PAGE = 1000
"""How many documents of done items are read at once, without outputs."""

OUTPUTS_PER_PAGE = 40
"""How many documents of done items are read at once with outputs, of 128 KiB at most each."""

POLL_SECONDS = 1.0
"""How often a worker looks whether a chunk that it waits for is free or done."""

NOTE_SECONDS = 600.0
"""How often a worker notes that the thread is in use. A sweep deletes threads that were idle for an hour at least."""

CLAIMS = 30
"""How many claims a worker looks at together."""

_OPENING = 8
"""Opening a document takes as long as handling so many times its bytes."""


@record(frozen=True, slots=True)
class OpenBatch:
    """How to open a batch.

    Attributes:
        thread_id: The thread.
        batch_id: The batch.
        keys: The keys of the items, in order.
        chunk: Number of items in a chunk, if the batch is new.
        changed: What to do if the batch has other items.
        on_done: What to do if the batch is done.
        context: JSON to store with a new batch.
    """

    thread_id: str
    batch_id: str
    keys: tuple[str, ...]
    chunk: int
    changed: Changed = "raise"
    on_done: OnDone = "raise"
    context: Any = None


@record(frozen=True, slots=True)
class Opened:
    """A batch as last seen.

    Attributes:
        thread_id: The thread.
        name: Name of the batch's document.
        update_time: When the document last changed.
        state: The batch's state.
        listing: Its list.
    """

    thread_id: str
    name: str
    update_time: int
    state: State
    listing: Listing


@record(frozen=True, slots=True)
class Worker:
    """How a process works on a batch.

    Attributes:
        owner: The name of the process. A claim of the same name is its own, from before a crash.
        attempts: After so many failures, an item is not tried again.
        timeout: Seconds without a change after which the claim of another worker counts as abandoned.
        careful: Whether each item is flushed on its own.
        clock: A monotonic clock, in seconds.
        is_gone: Whether the process of that name has certainly ended.
    """

    owner: str
    attempts: int
    timeout: float
    careful: bool
    clock: Callable[[], float]
    is_gone: Callable[[str], bool]


@record(frozen=True, slots=True)
class Claim:
    """A claim that this worker holds.

    Attributes:
        name: Name of its document.
        chunk: The chunk.
        update_time: When its document last changed.
        nonce: Distinguishes it from all other claims.
        careful: Whether each item of the chunk is flushed on its own, because a worker crashed.
        since: When it last changed, by the worker's clock.
    """

    name: str
    chunk: int
    update_time: int
    nonce: str
    careful: bool
    since: float


@record(frozen=True, slots=True)
class Result:
    """What became of an item: an output, nothing, or a failure."""

    position: int
    output: Serialized | None = None
    failure: Failure | None = None


@record(frozen=True, slots=True)
class Known:
    """What a worker knows about the items of one epoch. It only grows.

    Attributes:
        done: Positions of items that were done.
        failures: Failed attempts by position, and by the document that names them.
        met: Claims of other workers: their update time, and when the worker first saw that.
    """

    done: set[int] = field(default_factory=set)
    failures: dict[int, dict[str, Failure]] = field(default_factory=dict)
    met: dict[int, tuple[int, float]] = field(default_factory=dict)

    def take(self, name: str, settled: Settled) -> None:
        """Learn from a document of done items."""
        self.done.update(settled.done)
        for one in settled.failed:
            self.failures.setdefault(one.position, {})[name] = one

    def tried(self, position: int) -> int:
        """How often an item has failed."""
        return sum(one.times for one in self.failures.get(position, {}).values())

    def is_settled(self, position: int, attempts: int) -> bool:
        """Whether an item was done, or has failed too often."""
        return position in self.done or self.tried(position) >= attempts

    def reason(self, position: int) -> str:
        """The text of an item's last error. Of several workers' errors, it is any."""
        found = self.failures[position]
        return found[max(found)].reason


# Opening


def open_batch(request: OpenBatch, context: Context) -> Flow[tuple[Opened, Known]]:
    """Create a batch, or open it as it is now, with what is known about its items.

    Raises:
        BatchChangedError: It has other items, and may not get the given ones.
        BatchDoneError: It is done.
        CheckpointVerificationError: Written data reads back differently, several times in a row.
        ConflictError: The batch, or the thread's document, changed in every try.
        DamageError: A document of the batch is damaged.
    """
    name = keys.batch_doc(request.thread_id, request.batch_id)
    for _ in range(MAX_TRIES):
        thread = yield from guard(request.thread_id, context, beside=(name,))
        doc = thread.beside.get(name)
        found = None if doc is None else (yield from read_batch(request.thread_id, doc, context))
        wanted = _wanted(request, found, context)
        if found is not None and wanted == found.listing:
            now = yield from Now()
            note = note_thread(request.thread_id, now, has_root=False)
            yield from Commit((Merge(thread.name, note, update_time=thread.update_time),))
        else:
            found = yield from _write_list(request.thread_id, name, wanted, doc, context)
        if found is None:
            continue
        known = Known()
        try:
            return (yield from look(found, known, context)), known
        except errors.BatchChangedError:
            continue  # It was restarted or deleted in between.
    raise ConflictError(
        f"Batch {request.batch_id!r} of thread {request.thread_id!r} was not opened: it, or the thread's document, "
        f"changed {MAX_TRIES} times in a row. Call again."
    )


def _wanted(request: OpenBatch, found: Opened | None, context: Context) -> Listing:
    """The list that a batch needs."""
    new = Listing(request.batch_id, context.new_attempt(), request.chunk, request.keys, context=request.context)
    if found is None:
        return new
    ids = {"thread_id": request.thread_id, "batch_id": request.batch_id}
    where = f"Batch {request.batch_id!r} of thread {request.thread_id!r}"
    if found.state == "done" and request.on_done == "raise":
        raise errors.BatchDoneError(
            f"{where} is done. Open it with on_done='skip' to read its outputs, or with on_done='restart' to handle "
            "all items again.",
            **ids,
        )
    if found.state == "done" and request.on_done == "restart":
        return new
    there, given = found.listing.positions(), frozenset(request.keys)
    added = tuple(key for key in request.keys if key not in there)
    removed = tuple(key for key in there if key not in given)
    if not added and not removed:
        return found.listing
    if request.changed == "raise" or found.state != "open":
        advice = (
            "Pass the same items, or changed='merge' to change its list."
            if found.state == "open"
            else "All its items were handled, so its list can no longer change. Pass the same items."
        )
        raise errors.BatchChangedError(
            f"{where} began with other items: {len(added)} were added and {len(removed)} were removed. {advice}",
            added=added,
            removed=removed,
            **ids,
        )
    known = {key: at for at, key in enumerate(found.listing.keys)}
    return replace(
        found.listing,
        keys=(*found.listing.keys, *(key for key in request.keys if key not in known)),
        removed=frozenset(at for key, at in known.items() if key not in given),
    )


def _write_list(thread_id: str, name: str, listing: Listing, seen: Doc | None, context: Context) -> Flow[Opened | None]:
    """Store the list of an open batch; `None` if the batch, or the thread's document, has changed.

    Raises:
        CheckpointVerificationError: Written data reads back differently, several times in a row.
    """
    plain = yield from Compute(listing.envelope, size=100 * len(listing.keys))
    mismatches = 0
    while True:
        stored, blob = yield from _sealed(plain, (name, LIST), context)
        thread = yield from guard(thread_id, context)
        spoilt = yield from _upload(blob, context)
        if spoilt is None:
            state = item_batches.state_field("open", listing.epoch, name, context.codec)
            fields = {"format": FORMAT, STATE: state, LIST: stored}
            write = Create(name, fields) if seen is None else Merge(name, fields, update_time=seen.update_time)
            now = yield from Now()
            times = yield from Commit((write, thread.write(note_thread(thread_id, now, has_root=False))))
            if times is None:
                return None
            seen = (yield from GetDocs((name,))).get(name) if context.reads_back else None
            if seen is None or seen.update_time != times[0] or dict(seen.fields) == fields:
                return Opened(thread_id, name, times[0], "open", listing)
            spoilt = name
        what = f"Batch {listing.batch_id!r} of thread {thread_id!r}"
        mismatches = yield from mismatched(what, spoilt, mismatches, thread_id=thread_id)


def _sealed(plain: bytes, place: frames.Place, context: Context) -> Flow[tuple[bytes, PutBlob | None]]:
    """The sealed form of an envelope: itself, or a stub if it is large, and the object to upload."""
    codec = context.codec
    stored = yield from Compute(partial(seals.close, plain, place, codec), size=len(plain))
    if len(stored) <= item_batches.INLINE_BYTES and context.inline_max_bytes:
        return stored, None
    attempt = context.new_attempt()
    made: tuple[Stub, bytes] = yield from Compute(partial(make_stub, plain, attempt, codec), size=len(plain))
    stub, data = made
    sealed = seals.close(frames.envelope(stub.head()), place, codec)
    return sealed, context.upload(keys.batch_blob(place[0], attempt), data)


def _upload(blob: PutBlob | None, context: Context) -> Flow[str | None]:
    """Upload an object, if there is one; its name if it does not read back, or took too long to be committed."""
    if blob is None:
        return None
    started = yield from Now()
    spoilt = yield from upload((blob,), reads_back=context.reads_back)
    if spoilt is not None:
        return spoilt
    if (yield from Now()) - started > ATTEMPT_DEADLINE_SECONDS:
        yield from discard((blob,))
        return blob.name
    return None


# Looking


def read_batch(thread_id: str, doc: Doc, context: Context) -> Flow[Opened]:
    """A batch, from its document.

    Raises:
        DamageError: The document, or the object with its list, is damaged.
        UnsupportedFormatError: A newer version wrote it.
        WrongKeyError: It was encrypted with another key.
    """
    try:
        item_batches.state_of(doc, context.codec)
        plain = yield from _envelope(doc, LIST, context)
        head, _ = seals.opened(doc.name, plain)
        listing = yield from Compute(partial(item_batches.listing_of, doc.name, head), size=_OPENING * len(plain))
        state = item_batches.state_of(doc, context.codec, listing.epoch)
    except DamagedError as damage:
        now = (yield from GetDocs((doc.name,))).get(doc.name)
        if now is not None and now.update_time != doc.update_time:
            return (yield from read_batch(thread_id, now, context))  # Its list has changed, and the old one is gone.
        raise damaged(doc.name, damage) from None
    yield from report_clear(context.codec)
    return Opened(thread_id, doc.name, doc.update_time, state, listing)


def _envelope(doc: Doc, name: str, context: Context) -> Flow[bytes]:
    """The envelope in a field, or in the object that the field refers to.

    Raises:
        DamagedError: Either is damaged.
    """
    codec = context.codec
    data = doc.fields.get(name)
    size = _OPENING * len(data) if isinstance(data, bytes) else 0
    plain: bytes = yield from Compute(partial(seals.plain_of, doc, name, codec), size=size)
    stub = stub_of(seals.opened(doc.name, plain)[0])
    if stub is None:
        return plain
    blob = keys.batch_blob(doc.name, stub.attempt)
    return (yield from read_object(blob, stub, partial(open_stub, blob, stub, codec=codec)))


def look(
    opened: Opened, known: Known, context: Context, chunk: int | None = None, *, discards: bool = True
) -> Flow[Opened]:
    """Learn which items were done, of a batch or of one of its chunks; the batch as it is after that.

    Documents of earlier epochs are deleted, if `discards` is true.

    Raises:
        BatchChangedError: The batch was restarted or deleted.
        DamageError: A document is damaged.
    """
    docs = yield from _settled_docs(opened.name, chunk, ("format", ITEMS), DOCS_PER_PAGE)
    found = yield from _read_settled(docs, context)
    # Read after the documents. If a restart has deleted some of them, the batch has another epoch now.
    current = yield from _now(opened, (yield from GetDocs((opened.name,))).get(opened.name), context)
    stale = []
    for doc, settled in found:
        if settled.epoch != current.listing.epoch:
            stale.append(doc)
            continue
        _require_fit(doc, settled, current)
        known.take(doc.name, settled)
    if discards:
        yield from _discard(stale, context)
    return current


def _require_fit(doc: Doc, settled: Settled, opened: Opened) -> None:
    """Check that a document of done items names only items of the list, which was read after it.

    Raises:
        DamageError: It names others. The list is damaged, or an older one.
    """
    if not settled.fits(opened.listing):
        raise damaged(doc.name, DamagedError("it names items that the list of its batch does not have"))


def _settled_docs(batch: str, chunk: int | None, mask: tuple[str, ...] | None, limit: int) -> Flow[list[Doc]]:
    collection, start, end = keys.done_range(batch, chunk)
    found: list[Doc] = []
    after: str | None = None
    while True:
        page = yield from QueryDocs(collection, start=start, after=after, end=end, limit=limit, mask=mask)
        found += page
        if len(page) < limit:
            return found
        after = page[-1].name


def _read_settled(docs: Sequence[Doc], context: Context) -> Flow[list[tuple[Doc, Settled]]]:
    def read() -> list[tuple[Doc, Settled]]:
        return [(doc, _settled(doc, context)) for doc in docs]

    size = sum(len(data) for doc in docs for data in doc.fields.values() if isinstance(data, bytes))
    found = yield from Compute(read, size=_OPENING * size)
    yield from report_clear(context.codec)
    return found


def _settled(doc: Doc, context: Context) -> Settled:
    try:
        return item_batches.settled_of(doc, context.codec)
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None


def _now(opened: Opened, doc: Doc | None, context: Context) -> Flow[Opened]:
    """A batch as its document is now.

    Raises:
        BatchChangedError: The batch was restarted or deleted.
    """
    if doc is not None and doc.update_time == opened.update_time:
        return opened
    current = None if doc is None else (yield from read_batch(opened.thread_id, doc, context))
    if current is None or current.listing.epoch != opened.listing.epoch:
        what = "deleted" if current is None else "restarted"
        raise _changed_by_another(opened, what)
    return current


def _changed_by_another(opened: Opened, what: str) -> errors.BatchChangedError:
    batch_id = opened.listing.batch_id
    return errors.BatchChangedError(
        f"Batch {batch_id!r} of thread {opened.thread_id!r} was {what} by another process. Open it again.",
        thread_id=opened.thread_id,
        batch_id=batch_id,
    )


def _discard(docs: Sequence[Doc], context: Context) -> Flow[None]:
    """Delete documents of done items that no longer count, and then their objects."""
    for at in range(0, len(docs), OUTPUTS_PER_PAGE):
        whole = yield from GetDocs(tuple(doc.name for doc in docs[at : at + OUTPUTS_PER_PAGE]))
        if not whole:
            continue
        blobs: set[str] = set()
        for doc in whole.values():
            blobs.update((yield from Compute(partial(_objects, doc, context))))
        writes = tuple(Delete(doc.name, update_time=doc.update_time) for doc in whole.values())
        if (yield from Commit(writes)) is not None and blobs:
            yield from DeleteBlobs(tuple(sorted(blobs)))


def _objects(doc: Doc, context: Context) -> dict[str, Stub]:
    try:
        return item_batches.done_objects(doc, context.codec)
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None


# Working


def take(
    opened: Opened, mine: Iterable[int], known: Known, worker: Worker, context: Context
) -> Flow[tuple[Opened, Claim | None, list[int]]]:
    """Claim the next chunk with items that are not settled, once it is free.

    Args:
        opened: The batch as last seen.
        mine: Positions of the items that this worker has.
        known: What is known about items.
        worker: The worker.
        context: Options and caches.

    Returns:
        The batch as it is now, the claim, and the positions of the items to handle, in order. Without a claim, all
        items of this worker are settled.

    Raises:
        BatchChangedError: The batch was restarted or deleted.
        DamageError: A document of the batch is damaged.
    """
    wanted = sorted(mine)
    while True:
        left = _left(wanted, opened, known, worker)
        chunks = list(dict.fromkeys(at // opened.listing.chunk for at in left))[:CLAIMS]
        if not chunks:
            return opened, None, []
        names = tuple(keys.chunk_doc(opened.name, chunk) for chunk in chunks)
        docs = yield from GetDocs((opened.name, *names))
        opened = yield from _now(opened, docs.get(opened.name), context)
        if opened.state != "open":
            # Another worker has found all items settled. Its limit of attempts may be lower.
            return (yield from look(opened, known, context)), None, []
        for chunk, name in zip(chunks, names, strict=True):
            if (yield from _is_free(chunk, docs.get(name), opened, known, worker=worker, context=context)):
                break
        else:
            yield from Pause(POLL_SECONDS)
            continue
        opened = yield from look(opened, known, context, chunk)
        found = _of(chunk, _left(wanted, opened, known, worker), opened, known)
        if not found or opened.state != "open":
            continue
        claim = yield from _claim(chunk, docs.get(name), found[0], opened, worker=worker, context=context)
        if claim is None:
            continue
        try:
            # Another worker may have flushed between the look and the claim. What it flushed shows now.
            opened = yield from look(opened, known, context, chunk)
        except GeneratorExit:
            raise
        except BaseException:
            yield from release(claim)
            raise
        found = _of(chunk, _left(wanted, opened, known, worker), opened, known)
        if found:
            return opened, claim, found
        yield from release(claim)


def _left(wanted: Iterable[int], opened: Opened, known: Known, worker: Worker) -> list[int]:
    """Those of some items that are on the list and not settled."""
    removed = opened.listing.removed
    return [at for at in wanted if at not in removed and not known.is_settled(at, worker.attempts)]


def _of(chunk: int, left: Iterable[int], opened: Opened, known: Known) -> list[int]:
    """Those of some items that are in a chunk: first those that have not failed, or have failed less often."""
    return sorted((at for at in left if at // opened.listing.chunk == chunk), key=lambda at: (known.tried(at), at))


def _claim_of(doc: Doc | None, context: Context) -> Flow[Claimed | None]:
    """What the document of a claim says; `None` if there is none, or if it is damaged, such as a forged one."""
    if doc is None:
        return None
    try:
        found = item_batches.claim_of(doc, context.codec)
    except DamagedError:
        return None
    yield from report_clear(context.codec)
    return found


def _is_free(
    chunk: int, doc: Doc | None, opened: Opened, known: Known, *, worker: Worker, context: Context
) -> Flow[bool]:
    """Whether a worker may claim a chunk: it has no claim, or one whose worker has ended or is silent."""
    if doc is None:
        return True
    found = yield from _claim_of(doc, context)
    if found is not None and (found.epoch != opened.listing.epoch or found.owner == worker.owner):
        return True
    if found is not None and (yield from Compute(partial(worker.is_gone, found.owner))):
        return True
    now = yield from Compute(worker.clock)
    update_time, since = known.met.get(chunk, (None, now))
    if update_time != doc.update_time:
        known.met[chunk] = doc.update_time, now
        return False
    return now - since >= worker.timeout


def _claim(
    chunk: int, doc: Doc | None, first: int, opened: Opened, *, worker: Worker, context: Context
) -> Flow[Claim | None]:
    """Claim a chunk, or take over the claim `doc`; `None` after a conflict. `first` is the first item that is left."""
    name, nonce = keys.chunk_doc(opened.name, chunk), context.new_attempt()
    before = yield from _claim_of(doc, context)
    if before is not None and before.epoch != opened.listing.epoch:
        before = None
    # If the worker flushed each item, it crashed at the first one that is left.
    crashes = 0
    if before is not None and before.careful:
        crashes = 1 + (before.crashes if before.suspect == first else 0)
    careful = worker.careful or before is not None
    fields = Claimed(opened.listing.epoch, nonce, worker.owner, careful, first, crashes).fields(name, context.codec)
    writes: list[Write] = [
        Create(name, fields) if doc is None else Merge(name, fields, update_time=doc.update_time),
        Merge(opened.name, {}, update_time=opened.update_time),
    ]
    if crashes >= worker.attempts:
        place = keys.done_doc(opened.name, chunk, nonce), ITEMS
        settled = Settled(opened.listing.epoch, (), (Failure(first, "", crashes),))
        sealed = seals.close(settled.envelope(), place, context.codec)
        writes.append(Create(place[0], {"format": FORMAT, ITEMS: sealed}))
    times = yield from Commit(tuple(writes))
    if times is None:
        now = (yield from GetDocs((name,))).get(name)
        if now is None or not (yield from _is_of(nonce, now, context)):
            return None
        times = (now.update_time,)
    since = yield from Compute(worker.clock)
    return Claim(name, chunk, times[0], nonce, careful, since)


def _is_of(nonce: str, doc: Doc, context: Context) -> Flow[bool]:
    """Whether a document of a claim is of the claim with that nonce."""
    found = yield from _claim_of(doc, context)
    return found is not None and found.nonce == nonce


def renew(claim: Claim, worker: Worker, context: Context) -> Flow[Claim | None]:
    """Show that the worker of a claim is alive; `None` if it has lost the claim."""
    times = yield from Commit((_beat(claim, context),))
    return (yield from _still(claim, None if times is None else times[0], worker, context))


def note(opened: Opened) -> Flow[None]:
    """Note that the thread is in use, so that no sweep deletes it. This does nothing if the batch has changed."""
    now = yield from Now()
    used = Merge(keys.thread_doc(opened.thread_id), note_thread(opened.thread_id, now, has_root=False))
    yield from Commit((used, Merge(opened.name, {}, update_time=opened.update_time)))


def is_due(claim: Claim, now: float, worker: Worker) -> bool:
    """Whether a claim needs to be renewed."""
    return now - claim.since >= worker.timeout / 3


def _beat(claim: Claim, context: Context) -> Merge:
    return Merge(claim.name, {"beat": context.new_attempt()}, update_time=claim.update_time)


def _still(claim: Claim, time: int | None, worker: Worker, context: Context) -> Flow[Claim | None]:
    """A claim with a new update time; if that is not known, as its document is now. `None` if it is lost."""
    if time is None:
        doc = (yield from GetDocs((claim.name,))).get(claim.name)
        if doc is None or not (yield from _is_of(claim.nonce, doc, context)):
            return None
        time = doc.update_time
    return replace(claim, update_time=time, since=(yield from Compute(worker.clock)))


def flush(
    opened: Opened,
    chunk: int,
    claim: Claim | None,
    results: Sequence[Result],
    *,
    release: bool,
    known: Known,
    worker: Worker,
    context: Context,
) -> Flow[Claim | None]:
    """Store what became of some items of a chunk. It is durable when this returns.

    Another worker may have the claim by then.

    Args:
        opened: The batch.
        chunk: The chunk.
        claim: The claim of the chunk; `None` if it is lost.
        results: What became of the items.
        release: Whether to give up the claim in the same commit.
        known: Learns the results.
        worker: The worker.
        context: Options and caches.

    Returns:
        The claim as it is now; `None` if it was released or is lost.

    Raises:
        BatchChangedError: The batch was deleted. What was stored for it is deleted again.
        CheckpointVerificationError: Written data reads back differently, several times in a row.
        ConflictError: The thread's document changed in every try.
    """
    failed_ones: dict[int, Failure] = {}
    for one in results:
        if one.failure is not None:
            before = failed_ones.get(one.position)
            times_before = 0 if before is None else before.times
            failed_ones[one.position] = replace(one.failure, times=one.failure.times + times_before)
    done = tuple(one.position for one in results if one.failure is None)
    outputs = [(one.position, one.output) for one in results if one.output is not None]
    settled = Settled(opened.listing.epoch, done, tuple(failed_ones.values()), has_outputs=bool(outputs))
    mismatches = 0
    for _ in range(MAX_TRIES):
        name = keys.done_doc(opened.name, chunk, context.new_attempt())
        sealed = yield from Compute(partial(seals.close, settled.envelope(), (name, ITEMS), context.codec))
        fields: dict[str, Any] = {"format": FORMAT, ITEMS: sealed}
        writes: list[Write] = []
        blob = None
        if outputs:
            plain = yield from Compute(partial(item_batches.outputs_envelope, outputs), size=_size(outputs))
            fields[OUTPUTS], blob = yield from _sealed(plain, (name, OUTPUTS), context)
        if blob is not None:
            # A deletion of the thread may delete the object before the commit. Then the commit has to fail.
            thread = yield from guard(opened.thread_id, context)
            writes.append(thread.write({}))
            spoilt = yield from _upload(blob, context)
            if spoilt is not None:
                mismatches = yield from _count(opened, spoilt, mismatches)
                continue
        now = yield from Compute(worker.clock)
        if claim is not None and release:
            writes.append(Delete(claim.name, update_time=claim.update_time))
        elif claim is not None and is_due(claim, now, worker):
            writes.append(_beat(claim, context))
        times = yield from Commit((Create(name, fields), *writes))
        # The commit does not require the batch's document, so that a flush costs one write. A deletion removes that
        # document first. If it is still there now, the deletion finds the new document too.
        reads = [GetDocs((opened.name,), mask=())]
        if times is None or context.reads_back:
            reads.append(GetDocs((name,)))
        batch, *stored = yield from Gather(tuple(reads))
        if opened.name not in batch:
            yield from Commit((Delete(name),))
            raise _changed_by_another(opened, "deleted")
        if stored:
            there = stored[0].get(name)
            is_stored = there is not None and dict(there.fields) == fields
            if times is None and there is None:
                # The claim is lost, or the thread's document has changed.
                claim = None if claim is None else (yield from _unchanged(claim))
                if blob is not None:
                    yield from discard((blob,))
                continue
            if there is not None and not is_stored:
                yield from Commit((Delete(name, update_time=there.update_time),))
                mismatches = yield from _count(opened, name, mismatches)
                claim = None if claim is None or release else (yield from _still(claim, None, worker, context))
                continue
        known.take(name, settled)
        if claim is None or release:
            return None
        if times is None or len(times) > 1 + (blob is not None):
            return (yield from _still(claim, None if times is None else times[-1], worker, context))
        return claim
    raise ConflictError(
        f"{len(results)} items of batch {opened.listing.batch_id!r} of thread {opened.thread_id!r} were not stored: "
        f"the thread's document changed {MAX_TRIES} times in a row. Open the batch again."
    )


def _unchanged(claim: Claim) -> Flow[Claim | None]:
    """A claim, if its document is as last seen."""
    doc = (yield from GetDocs((claim.name,), mask=())).get(claim.name)
    return claim if doc is not None and doc.update_time == claim.update_time else None


def _size(outputs: Outputs) -> int:
    return sum(len(value.data) for _, value in outputs)


def _count(opened: Opened, name: str, before: int) -> Flow[int]:
    """Report a mismatch, and return the number of mismatches.

    Raises:
        CheckpointVerificationError: This was the last mismatch allowed.
    """
    what = f"Items of batch {opened.listing.batch_id!r} of thread {opened.thread_id!r}"
    return (yield from mismatched(what, name, before, thread_id=opened.thread_id))


def release(claim: Claim) -> Flow[None]:
    """Give up a claim."""
    yield from Commit((Delete(claim.name, update_time=claim.update_time),))


# Ending


def close(opened: Opened, known: Known, worker: Worker, to: State, context: Context) -> Flow[Opened]:
    """Set a batch whose items are all settled to `closing` or `done`. From then on its list cannot change.

    Raises:
        BatchChangedError: The batch was restarted or deleted.
        ConflictError: The batch changed in every try.
        InvalidInputError: Items are left.
    """
    for _ in range(MAX_TRIES):
        opened = yield from _now(opened, (yield from GetDocs((opened.name,))).get(opened.name), context)
        if opened.state in ("done", to):
            break
        if opened.state == "open":
            every = range(len(opened.listing.keys))
            if _left(every, opened, known, worker):
                opened = yield from look(opened, known, context)
            left = _left(every, opened, known, worker)
            if left:
                raise InvalidInputError(
                    f"Batch {opened.listing.batch_id!r} of thread {opened.thread_id!r} has {len(left)} items left. "
                    "Finish it after a loop over all of its items has ended."
                )
        state = item_batches.state_field(to, opened.listing.epoch, opened.name, context.codec)
        times = yield from Commit((Merge(opened.name, {STATE: state}, update_time=opened.update_time),))
        if times is not None:
            opened = replace(opened, update_time=times[0], state=to)
            break
    else:
        raise ConflictError(
            f"Batch {opened.listing.batch_id!r} of thread {opened.thread_id!r} was not finished: it changed "
            f"{MAX_TRIES} times in a row. Call again."
        )
    if opened.state == "done":
        yield from _discard_claims(opened.name)
    return opened


def _discard_claims(batch: str) -> Flow[None]:
    """Delete the claims that crashed workers have left."""
    collection, start, end = keys.chunk_range(batch)
    for _ in range(MAX_TRIES):
        docs = yield from QueryDocs(collection, start=start, end=end, limit=limits.COMMIT_WRITES, mask=())
        if not docs:
            return
        # A worker of a restarted batch may have a claim by now, so only those as last seen go.
        yield from Commit(tuple(Delete(doc.name, update_time=doc.update_time) for doc in docs))


# Reading


def outputs(opened: Opened, context: Context) -> Flow[dict[str, Serialized]]:
    """The outputs of all items on the list that have one, by key, in the list's order.

    Of several workers' outputs, it is the first that was stored.

    Raises:
        BatchChangedError: The batch was restarted or deleted.
        DamageError: A document of the batch is damaged.
    """
    docs = yield from _settled_docs(opened.name, None, ("format", ITEMS), DOCS_PER_PAGE)
    found = yield from _read_settled(docs, context)
    opened = yield from _now(opened, (yield from GetDocs((opened.name,))).get(opened.name), context)
    names = []
    for doc, settled in sorted(found, key=lambda one: (one[0].create_time, one[0].name)):
        if settled.epoch == opened.listing.epoch:
            _require_fit(doc, settled, opened)
            if settled.has_outputs:
                names.append(doc.name)
    values: dict[int, Serialized] = {}
    for at in range(0, len(names), OUTPUTS_PER_PAGE):
        page = names[at : at + OUTPUTS_PER_PAGE]
        whole = yield from GetDocs(tuple(page))
        for name in page:
            if name in whole:
                for position, value in (yield from _outputs(whole[name], context)):
                    values.setdefault(position, value)
    yield from report_clear(context.codec)
    listing = opened.listing
    return {listing.keys[at]: values[at] for at in sorted(values) if at not in listing.removed}


def _outputs(doc: Doc, context: Context) -> Flow[Outputs]:
    try:
        plain = yield from _envelope(doc, OUTPUTS, context)
        return (yield from Compute(partial(item_batches.outputs_of, doc.name, plain), size=len(plain)))
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None


def failures(opened: Opened, known: Known) -> dict[str, ItemFailure]:
    """The items that have failed and were not done, by key."""
    return {
        opened.listing.keys[at]: ItemFailure(known.tried(at), known.reason(at))
        for at in sorted(known.failures)
        if at not in known.done and at not in opened.listing.removed
    }


def batches(thread_id: str, context: Context) -> Flow[list[BatchInfo]]:
    """The batches of a thread, in the order of their documents' names.

    Raises:
        DamageError: A document of a batch is damaged.
        WrongKeyError: It was encrypted with another key.
    """
    found: list[BatchInfo] = []
    for doc in (yield from QueryDocs(keys.batches(thread_id))):
        opened, known = (yield from read_batch(thread_id, doc, context)), Known()
        try:
            opened = yield from look(opened, known, context, discards=False)
        except errors.BatchChangedError:
            continue  # It was deleted, or is restarted right now.
        listing = opened.listing
        wanted = listing.positions().values()
        found.append(
            BatchInfo(
                thread_id=thread_id,
                batch_id=listing.batch_id,
                state=opened.state,
                items=len(wanted),
                done=sum(at in known.done for at in wanted),
                failed=failures(opened, known),
                context=listing.context,
            )
        )
    return found
