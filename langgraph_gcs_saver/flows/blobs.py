"""Blobs: large data beside the state. The state has a dict that names a blob, and manifests list those that it names.

A blob appears with its document, which is committed after its segments are durable. The commit requires the document of
the thread's key as it was before the uploads. A deletion of the thread deletes that document before it deletes objects.
So a blob whose document is committed has its segments.

A blob is deleted when two collections, a day apart, found nothing that lists it. The first one marks its document, and
the second one deletes the document if it has not changed since. A `put` of the same content removes the mark. So a blob
that `put` has returned stays for a day, even if it was stored long before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Flow,
    GetDocs,
    Merge,
    Now,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.engine.steps import together
from langgraph_gcs_saver.errors import ConflictError, DamageError, InvalidInputError, ValueTooLargeError
from langgraph_gcs_saver.flows.batches import in_batches
from langgraph_gcs_saver.flows.collections import DOCS_PER_PAGE, damaged
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.listing import list_all
from langgraph_gcs_saver.flows.manifests import make_stub, open_stub, report_clear
from langgraph_gcs_saver.flows.mirrors import read_object
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.prune import Snapshot, settled
from langgraph_gcs_saver.flows.readback import mismatched, upload
from langgraph_gcs_saver.flows.threads import Guard, guard, note_thread
from langgraph_gcs_saver.flows.writes import read_writes
from langgraph_gcs_saver.format import blobs, keys
from langgraph_gcs_saver.format.blobs import UNLISTED, Blob, all_digests, id_of, parse, parse_key
from langgraph_gcs_saver.format.frames import FrameError
from langgraph_gcs_saver.format.manifest import DamagedError, Stub
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import CollectPlan

PART_BYTES = 4 << 20
"""Bytes of a segment. A segment is uploaded, fetched and checked as a whole, so this bounds the memory of a stream."""

PARTS_AT_ONCE = 4
"""How many segments are uploaded at the same time."""

MAX_BYTES = 8_000 * PART_BYTES
"""Largest blob, 31 GiB: the list of so many segments fits into a document, with and without a cipher."""

UPLOAD_SECONDS = 12 * 3600.0
"""A blob whose upload took longer is not stored. `collect` takes its first segments for orphans after 24 hours."""

_OPENING = 8
"""Opening a document takes as long as handling so many times its bytes."""

_HASHED_AT_ONCE = 1 << 20
_UNKNOWN_SIZE = 1 << 62
_COMMIT_BYTES = 2 << 20
"""Most bytes of content in one commit: with what is around it, it stays below the emulator's limit of requests."""

_LISTED_BYTES = 128
"""About how many bytes a segment takes in the list."""

Read = Callable[[int, int], bytes]
"""Reads so many bytes of a source from an offset; fewer at the end."""


@record(frozen=True, slots=True)
class Source:
    """Bytes to store.

    Attributes:
        read: Reads a part of them.
        size: Number of bytes as far as is known, to decide whether they are hashed on the event loop.
        files: Digests of the blobs that a tree lists.
    """

    read: Read
    size: int = _UNKNOWN_SIZE
    files: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Measured:
    """A source whose bytes were read once."""

    source: Source
    digest: str
    size: int


def _measure(source: Source) -> Measured:
    found, size = hashlib.sha256(), 0
    while part := source.read(size, _HASHED_AT_ONCE):
        found.update(part)
        size += len(part)
    return Measured(source, found.hexdigest(), size)


# Storing


def put(thread_id: str, sources: Iterable[Source], context: Context) -> Flow[list[Measured]]:
    """Store blobs in a thread; they are durable when this returns. What the thread has is not stored again.

    Raises:
        CheckpointVerificationError: Written data reads back differently, several times in a row.
        ConflictError: Other writers changed the thread in every try.
        DamageError: The key of the thread's blobs is damaged.
        InvalidInputError: A source changed while it was read.
        ValueTooLargeError: A source is too large.
    """
    found: list[Measured] = []
    for source in sources:
        found.append((yield from Compute(partial(_measure, source), size=source.size)))
        if found[-1].size > MAX_BYTES:
            raise ValueTooLargeError(
                f"A blob has {found[-1].size:,} bytes, and at most {MAX_BYTES:,} are stored. Split it. Nothing was "
                "stored."
            )
    wanted = {one.digest: one for one in found}.values()
    for batch in in_batches(wanted, partial(_stored_size, context), most=DOCS_PER_PAGE, most_bytes=_COMMIT_BYTES):
        yield from _Putting(thread_id, {one.digest: one for one in batch}, context).flow()
    return found


def _stored_size(context: Context, one: Measured) -> int:
    """About how many bytes of its document are a blob's content, or the list of its segments."""
    return one.size if one.size <= context.inline_max_bytes else _LISTED_BYTES * (one.size // PART_BYTES)


@dataclass(slots=True)
class _Putting:
    """One batch of blobs, of which all documents are held in memory and written by one commit.

    Attributes:
        wanted: What to store, by digest.
        made: Blobs whose segments were uploaded, by the names of their documents.
        started: A time before the first upload began, in seconds since the epoch.
        key_time: The update time of the key's document then.
        mismatches: How often something did not read back as it was written.
    """

    thread_id: str
    wanted: Mapping[str, Measured]
    context: Context
    made: dict[str, Blob] = field(default_factory=dict)
    started: float = 0.0
    key_time: int = 0
    mismatches: int = 0

    def flow(self) -> Flow[None]:
        for _ in range(MAX_TRIES):
            if (yield from self._try()):
                return
        raise ConflictError(
            f"A blob of thread {self.thread_id!r} was not stored: other writers changed or deleted the thread "
            f"{MAX_TRIES} times in a row. Call again."
        )

    def _try(self) -> Flow[bool]:
        if not self.made:
            self.started = yield from Now()
        held, key = yield from self._key()
        if key is None:
            return False
        if key.update_time != self.key_time:
            # A deletion may have passed, and an import that brought the same key.
            self.made.clear()
            self.key_time = key.update_time
        names = {keys.blob_doc(self.thread_id, id_of(_opened_key(key, self.context), d)): d for d in self.wanted}
        there = yield from GetDocs(tuple(names))
        stored = yield from self._stored(there)
        writes: list[Create | Merge] = []
        is_uploaded = False
        for name, digest in names.items():
            doc = there.get(name)
            if doc is not None and name in stored:
                if stored[name].is_unlisted:
                    writes.append(Merge(name, {}, remove=(UNLISTED,), update_time=doc.update_time))
                continue
            if name not in self.made:
                self.made[name] = yield from self._upload(name, self.wanted[digest])
                is_uploaded = is_uploaded or bool(self.made[name].segments)
            files = tuple([id_of(_opened_key(key, self.context), one) for one in self.wanted[digest].source.files])
            made = replace(self.made[name], files=files)
            fields = yield from Compute(partial(blobs.fields_of, made, self.context.codec))
            if doc is None:
                writes.append(Create(name, fields))
            else:
                gone = tuple(sorted(doc.fields.keys() - fields.keys()))
                writes.append(Merge(name, fields, remove=gone, update_time=doc.update_time))
        if not writes:
            return True
        if is_uploaded:
            # An upload can take long, and other writers change the thread's document.
            held = yield from guard(self.thread_id, self.context, beside=(key.name,))
            now = held.beside.get(key.name)
            if now is None or now.update_time != key.update_time:
                return False
        if self.made and (yield from Now()) - self.started > UPLOAD_SECONDS:
            self.made.clear()
            return False
        return (yield from self._commit(writes, held, key))

    def _key(self) -> Flow[tuple[Guard, Doc | None]]:
        """The thread's guard, and the document with its key; `None` if it must be read again."""
        name = keys.blob_key_doc(self.thread_id)
        held = yield from guard(self.thread_id, self.context, beside=(name,))
        if name in held.beside:
            return held, held.beside[name]
        # A digest of random digits is as good as random bytes, and tests choose the digits.
        digits = "".join(self.context.new_attempt() for _ in range(8))
        fields = blobs.key_fields(name, hashlib.sha256(digits.encode()).digest(), self.context.codec)
        note = note_thread(self.thread_id, (yield from Now()), has_root=False) if held.is_bare else {}
        yield from Commit((held.write(dict(note)), Create(name, fields)))
        return held, None

    def _stored(self, docs: Mapping[str, Doc]) -> Flow[dict[str, Blob]]:
        """The blobs that have all of their objects, by the names of their documents. Others are stored again."""
        found = {name: blob for name, doc in docs.items() if (blob := self._whole(doc)) is not None}
        large = [blob for blob in found.values() if blob.segments]
        objects = yield from together(*[list_all(keys.segment_blobs(blob.document)) for blob in large])
        for blob, there in zip(large, objects, strict=True):
            sizes = {blob.object(number): stub.stored for number, stub in enumerate(blob.segments)}
            if any(name not in there or there[name].size != size for name, size in sizes.items()):
                del found[blob.document]
        return found

    def _whole(self, doc: Doc) -> Blob | None:
        """The blob of a document that exists; `None` if it must be replaced."""
        try:
            found = parse(doc, self.context.codec)
        except DamagedError:
            return None
        return found if not blobs.is_clear(doc, self.context.codec) else None

    def _upload(self, name: str, measured: Measured) -> Flow[Blob]:
        made = Blob(document=name, digest=measured.digest, size=measured.size)
        if measured.size <= self.context.inline_max_bytes:
            data = yield from Compute(partial(measured.source.read, 0, measured.size + 1), size=measured.size)
            if hashlib.sha256(data).hexdigest() != measured.digest:
                raise _changed()
            return replace(made, inline=data)
        attempt, hashed = self.context.new_attempt(), hashlib.sha256()
        segments: list[Stub] = []
        count = -(-measured.size // PART_BYTES)
        for start in range(0, count, PARTS_AT_ONCE):
            effects: list[PutBlob] = []
            for number in range(start, min(start + PARTS_AT_ONCE, count)):
                work = partial(self._segment, measured.source.read, number, attempt, name, hashed.update)
                stub, effect = yield from Compute(work, size=PART_BYTES)
                segments.append(stub)
                effects.append(effect)
            while (wrong := (yield from upload(effects, reads_back=self.context.reads_back))) is not None:
                yield from self._count_mismatch(wrong)
        if hashed.hexdigest() != measured.digest:
            written = [keys.segment_blob(name, number, attempt) for number in range(count)]
            yield from _delete(written)
            raise _changed()
        return replace(made, segment_bytes=PART_BYTES, segments=tuple(segments))

    def _segment(
        self, read: Read, number: int, attempt: str, name: str, update: Callable[[bytes], None]
    ) -> tuple[Stub, PutBlob]:
        data = read(number * PART_BYTES, PART_BYTES)
        update(data)
        stub, stored = make_stub(blobs.segment(number, data), attempt, self.context.codec)
        return stub, self.context.upload(keys.segment_blob(name, number, attempt), stored)

    def _commit(self, writes: Sequence[Create | Merge], held: Guard, key: Doc) -> Flow[bool]:
        beside: tuple[Write, ...] = (held.write({}), Merge(key.name, {}, update_time=key.update_time))
        if (yield from Commit((*beside, *writes))) is None:
            return False
        return not self.context.reads_back or (yield from self._reads_back(writes))

    def _reads_back(self, batch: Sequence[Create | Merge]) -> Flow[bool]:
        """Whether documents read back as they were written. One that does not is written again by the next try."""
        docs = yield from GetDocs(tuple([write.name for write in batch]))
        for write in batch:
            doc = docs.get(write.name)
            wrong = [name for name, value in write.fields.items() if doc is None or doc.fields.get(name) != value]
            if wrong:
                if doc is not None:
                    yield from Commit((Delete(write.name, update_time=doc.update_time),))
                yield from self._count_mismatch(write.name)
                return False
        return True

    def _count_mismatch(self, name: str) -> Flow[None]:
        what = f"A blob of thread {self.thread_id!r}"
        self.mismatches = yield from mismatched(what, name, self.mismatches, thread_id=self.thread_id)


def _size(one: Doc) -> int:
    return sum(len(value) for value in one.fields.values() if isinstance(value, bytes))


def _changed() -> InvalidInputError:
    return InvalidInputError(
        "The data changed while it was read, so it was not stored. Call again when it is complete."
    )


def _opened_key(doc: Doc, context: Context) -> bytes:
    try:
        return parse_key(doc, context.codec)
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None


# Reading


def look(thread_id: str, digest: str, size: int, context: Context) -> Flow[Blob]:
    """A blob of a thread, without its segments.

    Raises:
        DamageError: It is missing or damaged.
    """
    name = keys.blob_key_doc(thread_id)
    key = (yield from GetDocs((name,))).get(name)
    if key is not None:
        name = keys.blob_doc(thread_id, id_of(_opened_key(key, context), digest))
        doc = (yield from GetDocs((name,))).get(name)
        if doc is not None:
            found = yield from Compute(partial(_parsed, doc, context), size=_OPENING * _size(doc))
            yield from report_clear(context.codec)
            if found.digest == digest and found.size == size:
                return found
            raise damaged(name, DamagedError("it is the document of another blob"))
    yield from recheck(context, is_missing=True)
    raise DamageError(
        f"Thread {thread_id!r} has no blob {digest[:8]}…. It is missing, belongs to another thread, or was collected "
        "because no checkpoint listed it. Put its content again."
    )


def read(thread_id: str, blob: Blob, number: int, context: Context) -> Flow[bytes]:
    """A segment of a blob, checked against its digest.

    Raises:
        DamageError: It is missing or damaged.
    """
    for _ in range(MAX_TRIES):
        name, stub = blob.object(number), blob.segments[number]
        try:
            return (yield from read_object(name, stub, partial(_open, blob, number, context)))
        except DamagedError as damage:
            # Another process may have deleted the blob, and put it again.
            now = yield from look(thread_id, blob.digest, blob.size, context)
            if now.segments[number:] == blob.segments[number:]:
                yield from recheck(context, is_missing=damage.missing)
                raise damaged(blob.document, damage) from None
            blob = now
    raise ConflictError(f"A blob of thread {thread_id!r} was replaced {MAX_TRIES} times in a row. Call again.")


def _open(blob: Blob, number: int, context: Context, stored: bytes | None) -> bytes:
    name = blob.object(number)
    size = min(blob.segment_bytes, blob.size - number * blob.segment_bytes)
    try:
        plain = open_stub(name, blob.segments[number], stored, context.codec)
    except FrameError as error:
        raise DamagedError(f"a segment is {error}", frame=name, clear=error.clear) from None
    return blobs.open_segment(name, number, plain, size)


# Collecting


@record(frozen=True, slots=True)
class Unlisted:
    """The blobs of a thread that nothing lists, and those that are marked although something lists them.

    Attributes:
        expired: Documents that were marked long enough ago, by name.
        fresh: Documents that are not marked yet.
        listed: Marked documents of blobs that something lists again.
    """

    expired: Mapping[str, Doc] = field(default_factory=dict)
    fresh: Sequence[Doc] = ()
    listed: Sequence[Doc] = ()

    def among(self, planned: CollectPlan) -> Unlisted:
        """What a plan shows of these, so that nothing else is deleted or marked."""
        return Unlisted(
            expired={name: doc for name, doc in self.expired.items() if name in planned.blobs},
            fresh=[doc for doc in self.fresh if doc.name in planned.unlisted],
            listed=[doc for doc in self.listed if doc.name in planned.relisted],
        )


def unlisted(found: Snapshot, cutoff: float, context: Context) -> Flow[Unlisted]:
    """Find the blobs that no checkpoint, no pending write and no tree lists. While anything is set aside, all are kept.

    Args:
        found: The thread's checkpoints.
        cutoff: A mark must be older than this, in nanoseconds since the epoch.
        context: Options and caches.

    Raises:
        ClearTextError: Something is in clear, and the saver has a cipher.
        DamageError: A document of a blob, or of pending writes, is damaged, so it is unknown what it lists.
    """
    docs = yield from QueryDocs(keys.blobs(found.thread_id), mask=(UNLISTED,))
    there = {doc.name: doc for doc in docs if not keys.is_blob_key_doc(doc.name)}
    if not there:
        return Unlisted()
    name = keys.blob_key_doc(found.thread_id)
    key = (yield from GetDocs((name,))).get(name)
    if key is None:
        raise damaged(name, DamagedError("it is missing"))
    ids = partial(id_of, _opened_key(key, context))
    kept = _listed(found, ids)
    expired: list[str] = []
    if there.keys() - kept:
        if (yield from QueryDocs(keys.aside(found.thread_id), limit=1, mask=())):
            kept |= there.keys()
        pending = yield from _pending(found.thread_id, context)
        kept |= {keys.blob_doc(found.thread_id, ids(digest)) for digest in pending}
        old = (name for name, doc in there.items() if UNLISTED in doc.fields and doc.update_time <= cutoff)
        expired = [name for name in old if name not in kept]
        if expired:
            # A pending write may have become a checkpoint's value, and been pruned, before pending writes were read.
            kept |= _listed((yield from settled(found.thread_id, context)), ids)
            expired = yield from _known([name for name in expired if name not in kept], ids, context)
        # A tree that stays keeps its files, whether or not something lists it.
        kept |= yield from _files([name for name in there if name not in expired], context)
    return Unlisted(
        expired={name: there[name] for name in expired if name not in kept},
        fresh=[doc for name, doc in there.items() if name not in kept and UNLISTED not in doc.fields],
        listed=[doc for name, doc in there.items() if name in kept and UNLISTED in doc.fields],
    )


def _listed(found: Snapshot, ids: Callable[[str], str]) -> set[str]:
    """The documents of the blobs that checkpoints list."""
    listed = {digest for entry in found.entries.values() for digest in entry.manifest.listed_blobs}
    return {keys.blob_doc(found.thread_id, ids(digest)) for digest in listed}


def _pending(thread_id: str, context: Context) -> Flow[set[str]]:
    """Digests of the blobs that pending writes name. Manifests do not list these yet."""
    found: set[str] = set()
    after: str | None = None
    while docs := (yield from QueryDocs(keys.writes(thread_id), after=after, limit=DOCS_PER_PAGE)):
        for doc in docs:
            checkpoint_id = keys.writes_checkpoint_id_of(doc.name)
            try:
                writes = yield from read_writes((checkpoint_id,), (doc,), context.codec)
            except DamagedError as damage:
                raise damaged(doc.name, damage) from None
            found.update(all_digests([write.value for write in writes[checkpoint_id]]))
        after = docs[-1].name
    return found


def _known(names: Sequence[str], ids: Callable[[str], str], context: Context) -> Flow[list[str]]:
    """Those documents whose names the thread's key makes. The key of others is lost, and may be restored."""
    found: list[str] = []
    for at in range(0, len(names), DOCS_PER_PAGE):
        docs = yield from GetDocs(tuple(names[at : at + DOCS_PER_PAGE]))
        found += [name for name, doc in docs.items() if name.endswith(f"/{ids(_parsed(doc, context).digest)}")]
    return found


def _files(names: Sequence[str], context: Context) -> Flow[set[str]]:
    """The documents of the blobs that trees list."""
    found: set[str] = set()
    for at in range(0, len(names), DOCS_PER_PAGE):
        for doc in (yield from GetDocs(tuple(names[at : at + DOCS_PER_PAGE]))).values():
            above = doc.name.rpartition("/")[0]
            found.update(f"{above}/{one}" for one in _parsed(doc, context).files)
    return found


def _parsed(doc: Doc, context: Context) -> Blob:
    try:
        return parse(doc, context.codec)
    except DamagedError as damage:
        raise damaged(doc.name, damage) from None


def mark(found: Unlisted) -> Flow[None]:
    """Note which blobs nothing lists, and remove the notes of others. A document that has changed since stays."""
    for doc in found.fresh:
        yield from Commit((Merge(doc.name, {UNLISTED: True}, update_time=doc.update_time),))
    for doc in found.listed:
        yield from Commit((Merge(doc.name, {}, remove=(UNLISTED,), update_time=doc.update_time),))


def delete(found: Unlisted, context: Context) -> Flow[None]:
    """Delete blobs that nothing has listed for long enough. One that was put since stays."""
    for name, seen in found.expired.items():
        doc = (yield from GetDocs((name,))).get(name)
        if doc is None or doc.update_time != seen.update_time:
            continue
        blob = _parsed(doc, context)
        if (yield from Commit((Delete(name, update_time=doc.update_time),))) is not None:
            yield from _delete([blob.object(number) for number in range(len(blob.segments))])


def _delete(names: Sequence[str]) -> Flow[None]:
    for at in range(0, len(names), limits.BATCH_CALLS):
        yield from DeleteBlobs(tuple(names[at : at + limits.BATCH_CALLS]))
