"""Transfers a thread to another store: all its documents and objects, byte for byte, without a key.

The stored form is the same in every store, so nothing is decoded on the way. Effects on the source are wrapped in
`at(SOURCE, …)`, and all others act on the target. Data is transferred before the documents that refer to it: objects,
pending writes, plain collections, then checkpoints. Older checkpoints come first, because frames are inherited from
parents only.

Each commit carries the target's own document as its guard, as a copy within a store does. A transfer that crashes
leaves its claim in that document, and a new transfer from the same source continues it. Like a copy, a transfer
overwrites only what the same call wrote.

Writers may change the source meanwhile. The transfer takes the documents that one query showed. It reads objects before
the documents that refer to them, and a deletion deletes objects after their documents. So if a document is still as
the query showed it, its objects existed. Otherwise the transfer starts over, and keeps what the target already has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, TypeGuard, TypeVar

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    DIFFERENT,
    BlobInfo,
    Commit,
    Compute,
    Create,
    Doc,
    Fields,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    HashBlob,
    ListCollections,
    Merge,
    On,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.engine.steps import at, together
from langgraph_gcs_saver.errors import (
    CheckpointVerificationError,
    ConflictError,
    DamageError,
    InvalidInputError,
    SerializationError,
    UnsupportedFormatError,
    ValueTooLargeError,
    WrongKeyError,
)
from langgraph_gcs_saver.flows import dictionaries
from langgraph_gcs_saver.flows.batches import in_batches, in_turn
from langgraph_gcs_saver.flows.collections import list_docs
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context, Loads
from langgraph_gcs_saver.flows.copy import CHECKPOINTS_PER_PAGE, batches, in_levels
from langgraph_gcs_saver.flows.ids import claim_of
from langgraph_gcs_saver.flows.leases import respect
from langgraph_gcs_saver.flows.listing import list_all, list_page
from langgraph_gcs_saver.flows.places import check
from langgraph_gcs_saver.flows.threads import guard, note_run
from langgraph_gcs_saver.flows.verify import verify
from langgraph_gcs_saver.format import keys, manifest, registry
from langgraph_gcs_saver.format.frames import begins_like_a_frame
from langgraph_gcs_saver.format.holds import HOLDS
from langgraph_gcs_saver.format.manifest import runs_of
from langgraph_gcs_saver.format.registry import Collection
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Transfer

T = TypeVar("T")

SOURCE = "source"
TARGET = "target"
"""The two stores of a transfer. Effects act on the target unless they are wrapped."""

_SHOWN = ("ns", "format", "digest")
"""Fields that change with a checkpoint's content, and are removed when it is stripped."""

_HINTS = ("heir", "pin", "run_id", "former_runs", "objects")
"""Fields that may change while a checkpoint's content stays; they are transferred as the query showed them."""

_FIXED = (*_SHOWN, "pin")
"""The listed fields of a checkpoint that no later call overwrites."""

LEFT_OUT = ("fence", HOLDS)
"""Fields of a checkpoint that concern its own store only."""

OWN = ("deleting", "copying", "claim", "bucket", "fence", "held")
"""Fields of a thread's document that concern its own store only."""

_BLOBS = 32
_BLOB_BYTES = 64 << 20
"""The maximum number and size of objects in memory at the same time. A larger object is transferred alone."""

Progress = Callable[[int], object] | None
"""Called with the number of documents and objects that were just transferred or compared."""


@dataclass(slots=True)
class Listing:
    """A thread as the source has it.

    Attributes:
        thread_id: The thread.
        thread: Its own document.
        checkpoints: Documents of checkpoints as one query showed them, oldest first, without manifests and frames.
        writes: Documents of pending writes without their fields, in levels.
        others: Documents of plain collections, without their fields.
        blobs: Objects, by name.
    """

    thread_id: str
    thread: Doc | None
    checkpoints: list[Doc]
    writes: list[list[Doc]]
    others: list[Doc]
    blobs: dict[str, BlobInfo] = field(default_factory=dict)

    @property
    def docs(self) -> list[Doc]:
        """All documents except the thread's own and those of its runs, in the order of their transfer."""
        return [*(doc for level in self.writes for doc in level), *self.others, *self.checkpoints]

    @property
    def may_need_dictionaries(self) -> bool:
        """Whether any document states a format that knows trained dictionaries."""
        docs = chain(self.checkpoints, *self.writes)
        return any(doc.fields.get("format") != manifest.FORMAT for doc in docs if "format" in doc.fields)

    @property
    def claim(self) -> str:
        """Digits that distinguish the thread from all others, until it is deleted from its store."""
        first = self.docs[0].create_time if self.thread is None else self.thread.create_time
        return hashlib.sha256(f"{self.thread_id} {first}".encode()).hexdigest()[:16]

    def plan(self) -> Transfer:
        """What there is to transfer."""
        aside = sum(f"/{keys.ASIDE}/" in doc.name for doc in self.others)
        return Transfer(
            thread_id=self.thread_id,
            checkpoints=len(self.checkpoints),
            writes=sum(map(len, self.writes)),
            aside=aside,
            others=len(self.others) - aside,
            objects=len(self.blobs),
            bytes=sum(info.size for info in self.blobs.values()),
        )


def look(thread_id: str) -> Flow[Listing]:
    """List a thread in the source: documents first, because the objects that they refer to are older.

    Raises:
        ConflictError: The thread is being deleted, or was deleted or recreated in every try.
        DamageError: The source's bucket and its mirror have other bytes of an object.
        InvalidInputError: A copy or a transfer to it is unfinished.
        UnsupportedFormatError: The thread has a collection that only a newer version knows.
    """
    thread = yield from _read_thread(thread_id)
    for _ in range(MAX_TRIES):
        docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=(*_SHOWN, *_HINTS))
        writes = yield from QueryDocs(keys.writes(thread_id), mask=("format",))
        others = yield from list_docs(keys.thread_doc(thread_id), _is_plain)
        # If a deletion or a copy began before the queries, they show only a part of the thread. Its mark shows too.
        before, thread = thread, (yield from _read_thread(thread_id))
        if _identity(before) == _identity(thread):
            break
    else:
        raise ConflictError(f"Thread {thread_id!r} was deleted or recreated {MAX_TRIES} times in a row. Call again.")
    found = Listing(thread_id, thread, docs[::-1], in_levels(writes), [doc for _, doc in others])
    after: str | None = None
    while blobs := (yield from list_page(keys.thread_blobs(thread_id), after, checksums=True)):
        found.blobs.update({blob.name: blob for blob in blobs})
        after = blobs[-1].name
    unlike = [name for name, blob in found.blobs.items() if blob.crc32c == DIFFERENT]
    if unlike:
        raise DamageError(
            f"The bucket and its mirror have other bytes of {len(unlike)} objects of thread {thread_id!r}, such as "
            f"{unlike[0]!r}. Readers find the right ones, but a copy needs no key, and so cannot see which are right. "
            "Nothing was copied. Call `repair` on this store (`langgraph-gcs repair`), and then call again."
        )
    return found


def _is_plain(entry: Collection) -> bool:
    return entry.is_plain and entry.moved


def _is_moved(entry: Collection) -> bool:
    return entry.moved


def _read_thread(thread_id: str) -> Flow[Doc | None]:
    name = keys.thread_doc(thread_id)
    docs, ids = yield from Gather((GetDocs((name,)), ListCollections(name)))
    registry.check(thread_id, ids)
    thread: Doc | None = docs.get(name)
    if thread is not None and "deleting" in thread.fields:
        raise ConflictError(f"Thread {thread_id!r} is being deleted from the source.")
    if thread is not None and "copying" in thread.fields:
        raise InvalidInputError(
            f"Thread {thread_id!r} is an unfinished copy. Repeat the call that makes it, and then call again."
        )
    return thread


def _identity(thread: Doc | None) -> object:
    """Parts of a thread's document that change when the thread is replaced, or gets or loses its root."""
    return None if thread is None else (thread.create_time, thread.fields.get("root") is True, claim_of(thread))


def read_page(page: Sequence[Doc]) -> Flow[list[Doc] | None]:
    """Some documents of a listing, whole; `None` if one has changed since it was listed."""
    docs = yield from GetDocs(tuple(doc.name for doc in page))
    found: list[Doc] = []
    for listed in page:
        doc = docs.get(listed.name)
        if doc is None:
            return None
        if f"/{keys.CHECKPOINTS}/" not in doc.name:
            if doc.update_time != listed.update_time:
                return None
            found.append(doc)
            continue
        if any(doc.fields.get(key) != listed.fields.get(key) for key in _SHOWN):
            return None
        fields = {key: value for key, value in doc.fields.items() if key not in (*_HINTS, *LEFT_OUT)}
        fields |= {key: listed.fields[key] for key in _HINTS if key in listed.fields}
        found.append(replace(doc, fields=fields))
    return found


def read_runs(thread_id: str, page: Iterable[Doc]) -> Flow[list[Doc]]:
    """The documents of the runs that some checkpoints name, as far as the source has them.

    They are deleted with or after the checkpoints, so they are read before them.
    """
    docs = [doc for doc in page if f"/{keys.CHECKPOINTS}/" in doc.name]
    names = sorted({keys.run_doc(run, thread_id) for doc in docs for run in runs_of(doc)})
    return list((yield from _docs(tuple(names))).values())


def pages(docs: Sequence[T], size: int = CHECKPOINTS_PER_PAGE) -> Iterator[Sequence[T]]:
    """The documents in pages."""
    for start in range(0, len(docs), size):
        yield docs[start : start + size]


def blob_pages(blobs: Iterable[BlobInfo]) -> Iterator[list[BlobInfo]]:
    """The objects in pages that fit into memory."""
    return in_batches(blobs, lambda blob: blob.size, most=_BLOBS, most_bytes=_BLOB_BYTES)


def fingerprint(fields: Fields) -> str:
    """A digest of a document's fields and their types."""
    found = hashlib.sha256()
    _feed(found.update, fields)
    return found.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    if isinstance(value, Mapping):
        update(b"{%d" % len(value))
        for key in sorted(value):
            _feed(update, key)
            _feed(update, value[key])
        return
    data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
    update(b"%s %d:" % (type(value).__name__.encode(), len(data)))
    update(data)


def transfer(
    thread_id: str,
    *,
    dry_run: bool,
    progress: Progress = None,
    loads: Loads,
    context: Context,
) -> Flow[Transfer]:
    """Copy a whole thread as it is now to another store, in which it must be empty. An empty thread changes nothing.

    At the end all transferred data is read from the target and compared, and then decoded, if that is possible.

    Raises:
        InvalidInputError: The target is neither empty nor a part of the source as it is now.
        CheckpointVerificationError: The target returns something else than was transferred.
        ConflictError: In every try, the source was replaced, or the target was changed or deleted.
    """
    written: dict[str, int] = {}
    for _ in range(MAX_TRIES):
        # A wrong target is reported even if nothing is written there.
        found, _ = yield from together(at(SOURCE, look(thread_id)), check(context.binding))
        plan = found.plan()
        if dry_run:
            return plan
        if not plan:
            return plan
        if found.may_need_dictionaries:
            yield from dictionaries.carried(SOURCE, context)
        move = _Transfer(found, progress, written, context)
        if (yield from move.flow()):
            plan = replace(plan, present=move.present)
            try:
                findings = yield from verify(thread_id, "data", loads, context)
            except (WrongKeyError, UnsupportedFormatError, SerializationError, ValueTooLargeError) as error:
                return replace(plan, undecoded=str(error))
            return replace(plan, findings=tuple(findings))
    raise ConflictError(
        f"The transfer of thread {thread_id!r} is unfinished: the thread was replaced or pruned in the source, or "
        f"written to or deleted in the target, {MAX_TRIES} times in a row. Call again when its runs have ended."
    )


@record(frozen=True, slots=True)
class _Page:
    """Documents to transfer.

    Attributes:
        docs: The source's documents.
        there: Those that the target has, by name.
        runs: Names of their runs' documents that the source has.
    """

    docs: list[Doc]
    there: Mapping[str, Doc]
    runs: set[str]


class _Transfer:
    """One try at a transfer.

    Attributes:
        written: Documents of the target that all tries of this call have written, and when those writes changed them.
        time: When the thread's document in the target last changed.
        times: When other documents in the target last changed, as this try has left or accepted them.
        is_resumed: Whether an earlier try may have transferred something.
        is_whole: Whether an earlier call has finished the transfer. Then nothing is written.
        present: The number of documents and objects that the target already had.
        documents: Digests of transferred documents, by name.
        hashes: Digests of transferred objects, by name.
    """

    def __init__(self, found: Listing, progress: Progress, written: dict[str, int], context: Context) -> None:
        self.found = found
        self.progress = progress
        self.written = written
        self.context = context
        self.thread = keys.thread_doc(found.thread_id)
        self.time = 0
        self.times: dict[str, int] = {}
        self.is_resumed = False
        self.is_whole = False
        self.present = 0
        self.documents: dict[str, str] = {}
        self.hashes: dict[str, str] = {}

    def flow(self) -> Flow[bool]:
        """Transfer everything; false if the source or the target was changed meanwhile."""
        if not (yield from self._begin()):
            return False
        prefix = keys.thread_blobs(self.found.thread_id)
        there = (yield from list_all(prefix, checksums=True)) if self.is_resumed else {}
        read_blobs = partial(self._read_blobs, there)
        yield from in_turn(blob_pages(self.found.blobs.values()), read_blobs, self._write_blobs, fit=_fit)
        # The first of a task's pending writes wins, so each level is committed before the next.
        levels = (page for level in self.found.writes for page in pages(level, limits.COMMIT_WRITES))
        rest = pages([*self.found.others, *self.found.checkpoints])
        if not (yield from in_turn(chain(levels, rest), self._read_docs, self._write_docs)):
            return False
        yield from together(self._compare_docs(), self._compare_blobs())
        return (yield from self._end())

    def _begin(self) -> Flow[bool]:
        """Claim the target. It must be empty, unless an earlier call has claimed it for the same source."""
        thread_id = self.found.thread_id
        held = yield from guard(thread_id, self.context)
        (thread, ids), blobs = yield from together(
            iter(Gather((GetDocs((self.thread,)), ListCollections(self.thread)))),
            list_page(keys.thread_blobs(thread_id), limit=1),
        )
        registry.check(thread_id, ids)
        is_empty = not (registry.holds(ids, _is_moved) or blobs)
        doc = thread.get(self.thread)
        if doc is None or doc.update_time != held.update_time:
            return False
        if held.fence is not None:
            yield from respect(thread_id, self.context)
        # Each commit requires that the thread's document is unchanged. An acquisition changes it.
        self.time = doc.update_time
        is_ours = claim_of(doc) == self.found.claim
        if is_ours and doc.fields.get("copying") == thread_id:
            yield from self._check_part()
            self.is_resumed = True
            return True
        if is_ours and "copying" not in doc.fields and not is_empty:
            self.is_resumed = self.is_whole = True
            return True
        if not is_empty or "copying" in doc.fields:
            raise self._not_empty()
        return (yield from self._commit([], {"copying": thread_id, "claim": self.found.claim}))

    def _check_part(self) -> Flow[None]:
        """Raise if the target has anything that this call has not written, and that is not a part of the source.

        Frames of checkpoints are compared later, when it is their turn.
        """
        known = {doc.name: doc for doc in self.found.docs}
        checkpoints = {doc.name for doc in self.found.checkpoints}
        others: list[str] = []
        docs = yield from self._docs(_FIXED)
        self.times.update({doc.name: doc.update_time for doc in docs})
        for doc in docs:
            if self._is_ours(doc):
                continue
            if doc.name not in known:
                raise self._has_other(doc.name)
            if doc.name in checkpoints:
                self._check_kept(known[doc.name], doc)
            else:
                others.append(doc.name)
        for names in pages(others):
            theirs, there = yield from Gather((On(SOURCE, GetDocs(tuple(names))), GetDocs(tuple(names))))
            for name in theirs.keys() & there.keys():
                self._check_kept(theirs[name], there[name])

    def _check_kept(self, doc: Doc, copied: Doc) -> None:
        """Raise if a field of a target's document differs from the source, and this call has not written it."""
        kept = copied.fields.keys() - (set(_HINTS) - set(_FIXED) | {"frames"})
        if not self._is_ours(copied) and any(copied.fields[key] != doc.fields.get(key) for key in kept):
            raise self._has_other(doc.name)

    def _docs(self, mask: tuple[str, ...]) -> Flow[list[Doc]]:
        """All documents of the thread in the target, except its own and those of its runs."""
        return [doc for _, doc in (yield from list_docs(self.thread, _is_moved, mask=mask))]

    def _is_ours(self, doc: Doc) -> bool:
        """Whether a document of the target is unchanged since this call wrote it."""
        return self.written.get(doc.name) == doc.update_time

    def _has_other(self, name: str) -> InvalidInputError:
        thread_id = self.found.thread_id
        return InvalidInputError(
            f"Thread {thread_id!r} is marked in the target as a part of a transfer, but contains {name!r}. The source "
            "does not have this document, or has it with other content. Nothing in the target was overwritten. Delete "
            "the thread in the target first."
        )

    def _not_empty(self) -> InvalidInputError:
        return InvalidInputError(
            f"Thread {self.found.thread_id!r} is not empty in the target: delete it there first. Nothing was moved."
        )

    def _commit(self, writes: Sequence[Write], fields: Mapping[str, Any] | None = None) -> Flow[bool]:
        times = yield from Commit((Merge(self.thread, fields or {}, update_time=self.time), *writes))
        if times is None:
            return False
        self.time = times[0]
        made = {write.name: time for write, time in zip(writes, times[1:], strict=True) if self._is_below(write.name)}
        self.times.update(made)
        self.written.update(made)
        return True

    def _is_below(self, name: str) -> bool:
        """Whether a document is below the thread's document, and not a run's."""
        return name.startswith(f"{self.thread}/")

    # Objects

    def _read_blobs(self, there: Mapping[str, BlobInfo], page: Sequence[BlobInfo]) -> Flow[list[PutBlob]]:
        """Read objects of the source that the target lacks, and have the source hash the others.

        Returns:
            The uploads.
        """
        present = [blob for blob in page if is_same(blob, there.get(blob.name))]
        missing = [blob for blob in page if not is_same(blob, there.get(blob.name))]
        hashes, datas = yield from together(
            iter(Gather(tuple(On(SOURCE, HashBlob(blob.name)) for blob in present))),
            iter(Gather(tuple(On(SOURCE, GetBlob(blob.name)) for blob in missing))),
        )
        self.present += len(present)
        self.hashes.update({blob.name: sha256 for blob, sha256 in zip(present, hashes, strict=True) if sha256})
        return [PutBlob(blob.name, data) for blob, data in zip(missing, datas, strict=True) if _is_carried(data)]

    def _write_blobs(self, page: Sequence[BlobInfo], uploads: list[PutBlob]) -> Flow[bool]:
        if uploads and self.is_whole:
            raise self._not_empty()
        yield from Gather(tuple(uploads))
        size = sum(upload.size for upload in uploads)
        self.hashes.update((yield from Compute(partial(_hashes, uploads), size=size)))
        yield from _count(self.progress, len(page))
        return True

    # Documents

    def _read_docs(self, page: Sequence[Doc]) -> Flow[_Page | None]:
        """Read whole documents of the source, and those that the target has; `None` if the source has changed."""
        runs = yield from at(SOURCE, read_runs(self.found.thread_id, page))
        names = tuple(doc.name for doc in page) if self.is_resumed else ()
        docs, there = yield from together(at(SOURCE, read_page(page)), _docs(names))
        return None if docs is None else _Page(docs, there, {doc.name for doc in runs})

    def _write_docs(self, page: Sequence[Doc], read: _Page | None) -> Flow[bool]:
        if read is None:
            return False
        self.times.update({name: copied.update_time for name, copied in read.there.items()})
        writes: list[Create | Merge] = []
        for doc in read.docs:
            self.documents[doc.name] = fingerprint(doc.fields)
            copied = read.there.get(doc.name)
            if copied is None:
                writes.append(Create(doc.name, doc.fields))
            elif fingerprint(copied.fields) == self.documents[doc.name]:
                self.present += 1
            elif self.is_whole:
                raise self._not_empty()
            else:
                writes.append(self._again(doc, copied))
        if writes and self.is_whole:
            raise self._not_empty()
        runs = {doc.name: sorted(runs_of(doc)) for doc in read.docs if f"/{keys.CHECKPOINTS}/" in doc.name}
        for batch in batches(writes):
            ids = {run for write in batch for run in runs.get(write.name, ())}
            notes = [note_run(run, self.found.thread_id, self.context) for run in sorted(ids)]
            kept = [note for note in notes if note.name in read.runs]
            if not (yield from self._commit([*kept, *batch, *registry.notes(batch)])):
                return False
        yield from _count(self.progress, len(page))
        return True

    def _again(self, doc: Doc, copied: Doc) -> Merge:
        """The write that updates a document that has changed in the source since its transfer."""
        self._check_kept(doc, copied)
        if not manifest.inner_frames(doc).startswith(manifest.inner_frames(copied)):
            # Checkpoints that were transferred before may build on the frames in the target.
            raise self._has_other(doc.name)
        gone = tuple(sorted(copied.fields.keys() - doc.fields.keys()))
        return Merge(doc.name, doc.fields, remove=gone, update_time=copied.update_time)

    # The end

    def _compare_docs(self) -> Flow[None]:
        """Read all documents from the target, and compare them."""
        for names in pages(list(self.documents)):
            docs = yield from GetDocs(tuple(names))
            for name in names:
                if name not in docs or fingerprint(docs[name].fields) != self.documents[name]:
                    raise self._differs(name)
            yield from _count(self.progress, len(names))

    def _compare_blobs(self) -> Flow[None]:
        """Have the target hash all objects, and compare the hashes."""
        for blobs in blob_pages(blob for name, blob in self.found.blobs.items() if name in self.hashes):
            hashes = yield from Gather(tuple(HashBlob(blob.name) for blob in blobs))
            for blob, sha256 in zip(blobs, hashes, strict=True):
                if sha256 != self.hashes[blob.name]:
                    raise self._differs(blob.name)
            yield from _count(self.progress, len(blobs))

    def _differs(self, name: str) -> CheckpointVerificationError:
        return CheckpointVerificationError(
            f"{name!r} reads differently from what was transferred: the target store, or another writer, changed it. "
            f"Nothing may write to thread {self.found.thread_id!r} before its transfer is finished. Delete the thread "
            "in the target, and call again."
        )

    def _end(self) -> Flow[bool]:
        if {doc.name: doc.update_time for doc in (yield from self._docs(()))} != self.times:
            if self.is_whole:
                raise self._not_empty()  # The thread was used since its transfer, or its claim is forged.
            return False  # Another writer changed the thread. The next try decides.
        if self.is_whole:
            return True
        kept: Fields = {} if self.found.thread is None else self.found.thread.fields
        fields = {key: value for key, value in kept.items() if key not in OWN}
        end = Merge(self.thread, {"thread_id": self.found.thread_id, **fields}, ("copying",), self.time)
        if (yield from Commit((end,))) is not None:
            return True
        # This call's own commit, whose answer was lost?
        doc = (yield from GetDocs((self.thread,), mask=("copying", "claim"))).get(self.thread)
        return doc is not None and doc.fields == {"claim": self.found.claim}


def _is_carried(data: bytes | None) -> TypeGuard[bytes]:
    """Whether an object is transferred.

    An object that no longer exists is not referred to by the transferred documents. Data that is not a frame is not a
    store's object. It may be a foreign file that a hard link has put in the place of an object.
    """
    return data is not None and begins_like_a_frame(data)


def _count(progress: Progress, number: int) -> Flow[None]:
    if progress is not None:
        yield from Compute(partial(progress, number))


def _docs(names: tuple[str, ...]) -> Flow[Mapping[str, Doc]]:
    return (yield from GetDocs(names)) if names else {}


def _fit(page: Sequence[BlobInfo], following: Sequence[BlobInfo]) -> bool:
    """Whether two pages of objects fit into memory together."""
    return sum(blob.size for blob in (*page, *following)) <= _BLOB_BYTES


def is_same(one: BlobInfo, other: BlobInfo | None) -> bool:
    """Whether a store has an object as another one has it, by size and checksum."""
    return other is not None and (one.size, one.crc32c) == (other.size, other.crc32c)


def _hashes(uploads: Iterable[PutBlob]) -> dict[str, str]:
    return {upload.name: upload.sha256() for upload in uploads}


# Archives


@record(frozen=True, slots=True, kw_only=True)
class ArchiveWriter:
    """The functions that write an archive.

    Attributes:
        begin: Begins a file for a thread. If it is called again, it drops what was written.
        add_blob: Adds an object.
        add_doc: Adds a document.
        finish: Reads the whole file back, compares it, and gives it its name.
    """

    begin: Callable[[str], object]
    add_blob: Callable[[str, bytes], object]
    add_doc: Callable[[Doc], object]
    finish: Callable[[], object]


def export(thread_id: str, archive: ArchiveWriter, progress: Progress = None) -> Flow[Transfer]:
    """Write a whole thread as it is now to an archive. An empty thread makes no archive.

    Raises:
        ConflictError: The thread was replaced or pruned in every try.
    """
    for _ in range(MAX_TRIES):
        found = yield from look(thread_id)
        plan = found.plan()
        if not plan:
            return plan
        yield from Compute(partial(archive.begin, thread_id))
        if (yield from _export(found, archive, progress)):
            yield from Compute(archive.finish, size=plan.bytes)
            return plan
    raise ConflictError(
        f"The export of thread {thread_id!r} is unfinished: the thread was replaced or pruned {MAX_TRIES} times in a "
        "row. Call again when its runs have ended."
    )


def _export(found: Listing, archive: ArchiveWriter, progress: Progress) -> Flow[bool]:
    for id_ in (yield from dictionaries.stored_ids()) if found.may_need_dictionaries else ():
        for name in keys.dictionary_blobs(id_):
            data = yield from GetBlob(name)
            if _is_carried(data):
                yield from Compute(partial(archive.add_blob, name, data), size=len(data))
    for blobs in blob_pages(found.blobs.values()):
        datas = yield from Gather(tuple(GetBlob(blob.name) for blob in blobs))
        for blob, data in zip(blobs, datas, strict=True):
            if _is_carried(data):
                yield from Compute(partial(archive.add_blob, blob.name, data), size=len(data))
        yield from _count(progress, len(blobs))
    runs: dict[str, Doc] = {}
    for page in pages(found.docs):
        runs.update({doc.name: doc for doc in (yield from read_runs(found.thread_id, page))})
        docs = yield from read_page(page)
        if docs is None:
            return False
        for doc in docs:
            yield from Compute(partial(archive.add_doc, doc), size=len(manifest.inner_frames(doc)))
        yield from _count(progress, len(page))
    for doc in runs.values():
        yield from Compute(partial(archive.add_doc, doc))
    if found.thread is not None:
        yield from Compute(partial(archive.add_doc, found.thread))
    return True
