"""Stores and reads pending writes: what tasks wrote before the checkpoint that includes it.

The regular writes of a call form one document. Its name says the task and which writes they are. The document is
created, so the first call wins, and a repeated call changes nothing. If a stored document is damaged, or the cipher
does not vouch for it, no earlier call counts as its writer, and it is replaced.

The special writes (errors, interrupts, resumes) of a task form one document, with a field for each, and the last write
wins. All documents of a call appear in one commit, because a task that is half stored would look finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    Doc,
    Durable,
    Emit,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    Merge,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError, UnsupportedFormatError, ValueTooLargeError
from langgraph_gcs_saver.events import CheckpointDamaged
from langgraph_gcs_saver.flows import dictionaries, mirrors
from langgraph_gcs_saver.flows.companions import Companion, Companions
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.leases import respect
from langgraph_gcs_saver.flows.manifests import make_stub, open_stub, report_clear
from langgraph_gcs_saver.flows.readback import discard, mismatched, read_back, upload_in_time
from langgraph_gcs_saver.flows.stored import Stored
from langgraph_gcs_saver.flows.threads import Guard, guard
from langgraph_gcs_saver.format import frames, keys
from langgraph_gcs_saver.format.frames import Codec, DictionaryNeeded, FrameError
from langgraph_gcs_saver.format.large import LARGE_BYTES
from langgraph_gcs_saver.format.manifest import FORMAT, NEWEST_FORMAT, DamagedError, Serialized, Stub, stub_of
from langgraph_gcs_saver.format.seals import SEAL_BYTES, seal
from langgraph_gcs_saver.records import record

INLINE_BYTES = 128 << 10
"""The maximum size of pending writes in a document; larger ones go to an object, which costs a round."""


WHICH_DIGITS = 16
"""Hex digits of the sha256 over numbers and channels of a call's writes. Only calls of the same task must differ."""


@record(frozen=True, slots=True)
class PendingWrite:
    """One write of a task.

    Attributes:
        idx: Its number within the call; negative for special channels (`WRITES_IDX_MAP`).
        task_id: The task.
        task_path: The task's path. Path, id and number determine the order.
        channel: The channel.
        value: The value, serialized.
    """

    idx: int
    task_id: str
    task_path: str
    channel: str
    value: Serialized


@record(frozen=True, slots=True)
class Opened:
    """The writes in a document, for reads that find it unchanged.

    Attributes:
        fields: The document's fields. Equal fields of a document of the same name hold the same writes.
        writes: The writes, in their order in the document.
    """

    fields: Mapping[str, Any]
    writes: tuple[PendingWrite, ...]

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        stored = sum([len(data) for data in self.fields.values() if isinstance(data, bytes)])
        return 1000 + stored + sum([400 + len(write.value.data) for write in self.writes])


@record(frozen=True, slots=True)
class PutWrites:
    """What to store: one call's writes for one checkpoint. The checkpoint need not exist yet.

    `fence` is the lease under which the call is made, if any. `companions` also ride in the call's commit.
    """

    thread_id: str
    ns: str
    checkpoint_id: str
    task_id: str
    writes: Sequence[PendingWrite]
    fence: Fence | None = None
    companions: tuple[Companion, ...] = ()


@record(frozen=True, slots=True)
class _Record:
    """A field of a document of pending writes, and the object that it points to, if any."""

    idx: int
    doc: str
    field: str
    data: bytes
    upload: PutBlob | None
    format: int = FORMAT


def which(writes: Sequence[PendingWrite]) -> str:
    """What names a call's writes among those of its task: the end of the name of their document.

    It is a digest of the numbers and channels of the regular writes. If there are none, it is that of special writes.
    """
    regular = [[write.idx, write.channel] for write in writes if write.idx >= 0]
    return hashlib.sha256(json.dumps(regular).encode()).hexdigest()[:WHICH_DIGITS] if regular else keys.SPECIAL


def put_writes(request: PutWrites, context: Context) -> Flow[Stored]:
    """Store pending writes; they are durable and visible together when this returns.

    Raises:
        CheckpointVerificationError: Written data reads back differently, several times in a row.
        ConflictError: A document that the commit depends on, such as the thread's, changed in every try.
        GCSSaverError: A companion raised it.
        ThreadBusyError: The call has no lease, its writes need an object, and a process holds the thread's lease.
        UnsupportedFormatError: A newer version has stored them.
        WrongKeyError: The stored document was encrypted with another key. It may be from an earlier call.
    """
    if not request.writes:
        return Stored(0, is_new=False, channels={})
    context = context.within(request.ns)
    yield from dictionaries.prepare(context.codec)
    size = sum(len(write.value.data) for write in request.writes)
    wanted = request.writes
    beside: list[Write] = []
    replaced: Doc | None = None
    mismatches = 0
    companions = context.companions_of(
        "put_writes", request.thread_id, request.ns, request.checkpoint_id, fence=request.fence, own=request.companions
    )
    for number in range(1, MAX_TRIES + 1):
        records = yield from Compute(partial(_records, request, wanted, context), size=size)
        uploads = tuple(one.upload for one in records if one.upload is not None)
        created = tuple(one.doc for one in records if one.idx >= 0)
        thread: Guard | None = None
        if uploads:
            # This commit inherits nothing. So nothing else would show a deletion of the thread after the uploads.
            thread = yield from guard(
                request.thread_id, context, beside=(*created, *companions.names), fence=request.fence
            )
            companions.take(thread.beside)
            found = yield from _read_twice(thread.beside.get(created[0]) if created else None)
            if found is not None and (yield from _is_earlier(request, found, replaced, context)):
                # LangGraph repeats calls. Uploads of a repeated call would only become orphans.
                beside, wanted = _rest(request, found)
                if not wanted:
                    return Stored(number, is_new=False, channels={})
                continue
            replaced = found
            if request.fence is None and thread.fence is not None:
                yield from respect(request.thread_id, context)
        writes = [*beside, *_commit(records, replaced)]
        if thread is not None:
            writes.append(thread.write({}))
        writes += yield from companions.writes()
        if not (yield from upload_in_time(uploads)):
            continue
        times = yield from Commit(tuple(writes))
        if times is not None:
            inline = sum([len(one.data) for one in records])
            stored = Stored(number, is_new=True, channels={}, inline_bytes=inline, uploads=uploads)
            if context.trails:
                yield from Durable(stored, size)
            wrong = (yield from _prove(records, companions, is_rest=bool(beside))) if context.reads_back else None
            if wrong is None:
                _remember(records, wanted, context)
                return stored
            mismatches = yield from _count_mismatch(request, wrong, mismatches, is_rest=bool(beside))
            continue
        names = (*created, *companions.names)
        docs = (yield from GetDocs(names)) if names else {}
        companions.take(docs)
        found = docs.get(created[0]) if created else None
        found = yield from _read_twice(found)
        if context.reads_back and found is not None and _is_damaged(found):
            # This is probably this call's own document. The answer was lost, and the document is damaged.
            yield from Commit((Delete(found.name, update_time=found.update_time), *companions.withdrawals()))
            mismatches = yield from _count_mismatch(request, found.name, mismatches)
            continue
        if thread is not None:
            yield from _discard_stale(records, uploads, thread)
        beside, wanted = [], request.writes
        if found is not None and (yield from _is_earlier(request, found, replaced, context)):
            beside, wanted = _rest(request, found)
            if not wanted:
                return Stored(number, is_new=False, channels={})
        replaced = found
    raise ConflictError(
        f"Pending writes of task {request.task_id!r} for checkpoint {request.checkpoint_id!r} of thread "
        f"{request.thread_id!r} were not stored: the thread's document, or another document that their commit depends "
        f"on, changed {MAX_TRIES} times in a row. Call again."
    )


def _remember(records: Sequence[_Record], wanted: Sequence[PendingWrite], context: Context) -> None:
    """Keep the regular writes of a call for reads. Special writes share their document with other calls."""
    for one in records:
        if one.idx >= 0 and one.upload is None:
            regular = tuple([write for write in wanted if write.idx >= 0])
            context.remember_writes(one.doc, Opened({"format": one.format, one.field: one.data}, regular))


def laid_out(request: PutWrites, context: Context) -> Flow[tuple[tuple[Write, ...], tuple[PutBlob, ...]]]:
    """What stores pending writes of a checkpoint that does not exist yet, for the commit that creates it.

    Returns:
        The writes, and the objects that must be uploaded before.
    """
    size = sum(len(write.value.data) for write in request.writes)
    function = partial(_records, request, request.writes, context.within(request.ns))
    records = yield from Compute(function, size=size)
    return tuple(_commit(records, None)), tuple(one.upload for one in records if one.upload is not None)


def _discard_stale(records: Sequence[_Record], uploads: Sequence[PutBlob], thread: Guard) -> Flow[None]:
    """Delete the uploads of a failed commit, once it is certain that it was not applied, and will not be.

    A commit whose answer was late may still be on its way. When the thread's document has changed, the commit can no
    longer be applied. In other cases, the objects are left to be collected.
    """
    docs = yield from GetDocs((thread.name, *dict.fromkeys(one.doc for one in records)))
    if thread.name in docs and docs[thread.name].update_time == thread.update_time:
        return
    if not any(one.doc in docs and docs[one.doc].fields.get(one.field) == one.data for one in records):
        yield from discard(uploads)


def _is_earlier(request: PutWrites, found: Doc, replaced: Doc | None, context: Context) -> Flow[bool]:
    """Whether stored regular writes are from an earlier call, or from an earlier try whose answer was lost.

    Names of documents are made of ids, so any program with access to the store can have created the document. With
    `accept_clear`, writes that the cipher does not vouch for are read, but then replaced. `replaced` is a document that
    was already found not to be from an earlier call.
    """
    codec = context.codec
    if replaced is not None and found.update_time == replaced.update_time:
        return False
    try:
        stubs = yield from read_stubs(found, codec)
        if context.reads_back:
            # That call may have ended before it read them back.
            for name, stub in stubs.items():
                yield from mirrors.read_object(name, stub, partial(_open_stub, found, name, stub, codec=codec))
    except DamagedError as damage:
        if damage.missing and found.name not in (yield from GetDocs((found.name,), mask=())):
            return True  # They were stored, and the thread has been deleted since.
        event = CheckpointDamaged(**_ids(request), reason=damage.reason, channel=None, name=damage.frame or found.name)
        yield from Emit(event)
        return False
    return not is_clear(found, codec)


def _rest(request: PutWrites, earlier: Doc) -> tuple[list[Write], Sequence[PendingWrite]]:
    """What remains to do when an earlier call, or an earlier try whose answer was lost, has written `earlier`.

    The special writes remain. They are committed only while `earlier` exists, because a deletion of the thread may be
    about to delete it.
    """
    beside: list[Write] = [Merge(earlier.name, {}, update_time=earlier.update_time)]
    return beside, [write for write in request.writes if write.idx < 0]


def _prove(records: Sequence[_Record], companions: Companions, *, is_rest: bool) -> Flow[str | None]:
    """Read back what was committed, and its objects. If anything differs, withdraw all writes of the call.

    Half of a call would look like a finished task. A document that has writes of other calls keeps those. The rest of
    an earlier call is not withdrawn, because its regular writes would stay. The next try replaces it.

    Returns:
        `None`, or the name of a document or an object that differs.
    """
    uploads = [one.upload for one in records if one.upload is not None]
    docs, misread = yield from read_back(tuple(dict.fromkeys(one.doc for one in records)), uploads)
    if len(docs) < len({one.doc for one in records}):
        name = keys.thread_of(records[0].doc)
        thread = (yield from GetDocs((name,), mask=("deleting",))).get(name)
        if thread is None or "deleting" in thread.fields:
            return None  # The writes were stored, and the thread has been deleted since.
    damaged = [one for one in records if not _is_stored(one, docs.get(one.doc), misread)]
    if not damaged:
        return None
    withdrawn: list[Write] = [*companions.withdrawals()]
    orphans: list[PutBlob] = []
    for name, doc in () if is_rest else docs.items():
        own = [one for one in records if one.doc == name and (one in damaged or doc.fields.get(one.field) == one.data)]
        gone = {one.field for one in own}
        if not doc.fields.keys() - gone - {"format"}:
            withdrawn.append(Delete(name, update_time=doc.update_time))
        elif own:
            withdrawn.append(Merge(name, {"format": FORMAT}, remove=tuple(sorted(gone)), update_time=doc.update_time))
        orphans += [one.upload for one in own if one.upload is not None]
    if withdrawn and (yield from Commit(tuple(withdrawn))) is not None:
        yield from discard(orphans)
    upload = damaged[0].upload
    return damaged[0].doc if upload is None or upload.name not in misread else upload.name


def _is_stored(one: _Record, doc: Doc | None, misread: Sequence[str]) -> bool:
    """Whether a field reads back whole, with its object. One that another call has written since is as good."""
    stored = None if doc is None else doc.fields.get(one.field)
    if doc is None or doc.fields.get("format") != one.format or not isinstance(stored, bytes):
        return False
    if stored == one.data:
        return one.upload is None or one.upload.name not in misread
    return _is_sealed(one.doc, one.field, stored)


def _ids(request: PutWrites) -> dict[str, str]:
    """The ids that events of this call have."""
    return {"thread_id": request.thread_id, "checkpoint_ns": request.ns, "checkpoint_id": request.checkpoint_id}


_REST_STAYS = (
    "The regular writes that an earlier call had stored stay. The special writes of this call may be stored beside "
    "them."
)


def _count_mismatch(request: PutWrites, name: str, before: int, *, is_rest: bool = False) -> Flow[int]:
    """Report a mismatch, and return the number of mismatches. The rest of an earlier call is not withdrawn.

    Raises:
        CheckpointVerificationError: This was the last mismatch allowed.
    """
    what = f"Pending writes of task {request.task_id!r} for checkpoint {request.checkpoint_id!r} of thread "
    more = {"outcome": _REST_STAYS} if is_rest else {}
    return (yield from mismatched(f"{what}{request.thread_id!r}", name, before, **more, **_ids(request)))


def _commit(records: Sequence[_Record], replaced: Doc | None) -> list[Write]:
    fields: dict[str, dict[str, Any]] = {}
    for one in records:
        fields.setdefault(one.doc, {"format": one.format})[one.field] = one.data
    regular = {one.doc for one in records if one.idx >= 0}
    return [_store(doc, found, replaced) if doc in regular else Merge(doc, found) for doc, found in fields.items()]


def _store(name: str, fields: dict[str, Any], replaced: Doc | None) -> Write:
    """The write of a document that must not exist, or must be unchanged since it was found to be replaceable."""
    if replaced is None:
        return Create(name, fields)
    return Merge(name, fields, remove=tuple(sorted(replaced.fields.keys() - fields)), update_time=replaced.update_time)


def _records(request: PutWrites, wanted: Sequence[PendingWrite], context: Context) -> list[_Record]:
    ids = (request.thread_id, request.ns, request.checkpoint_id, request.task_id)
    regular = [write for write in wanted if write.idx >= 0]
    records = []
    if regular:
        doc = keys.regular_writes_doc(*ids, which(regular))
        records.append(_record(request, context, doc, regular))
    doc = keys.special_writes_doc(*ids)
    return records + [_record(request, context, doc, [write]) for write in wanted if write.idx < 0]


def _record(request: PutWrites, context: Context, doc: str, writes: Sequence[PendingWrite]) -> _Record:
    idx = writes[0].idx
    field = keys.writes_field(idx)
    for write in writes:
        context.codec.refuse_large(len(write.value.data))
    try:
        head = _head(writes)
    except ValueTooLargeError as error:
        raise ValueTooLargeError(
            f"Task {request.task_id!r} has {len(writes):,} writes for checkpoint {request.checkpoint_id!r} of thread "
            f"{request.thread_id!r}. {error} Nothing was stored."
        ) from None
    values = [write.value.data for write in writes]
    stored, upload = b"", None
    if sum(map(len, values)) < LARGE_BYTES and context.inline_max_bytes:
        # Special writes share a document that states one format, so they have no trained dictionary.
        stored = context.codec.encode_envelope(head + b"".join(values), (doc, field), trained=idx >= 0)
    if not stored or len(stored) > INLINE_BYTES:
        attempt = context.new_attempt()
        stub, data = make_stub(head, attempt, context.codec, *values)
        blob = keys.blob(request.thread_id, request.ns, request.checkpoint_id, keys.WRITES_BLOB, attempt)
        upload = context.upload(blob, data)
        stored = context.codec.encode_envelope(frames.envelope(stub.head()), (doc, field))
    is_trained = idx >= 0 and context.codec.writing is not None and context.codec.dictionary_of(stored) is not None
    version = NEWEST_FORMAT if is_trained else FORMAT
    return _Record(idx, doc, field, seal((doc, field), stored) + stored, upload, version)


def _head(writes: Sequence[PendingWrite]) -> bytes:
    """The envelope without its tail, which is the values, one after another."""
    first = writes[0]
    head: dict[str, Any] = {} if keys.dec(keys.enc(first.task_id)) is not None else {"task": first.task_id}
    head["path"] = first.task_path
    head["writes"] = [[w.idx, w.channel, w.value.type, len(w.value.data)] for w in writes]
    return frames.envelope(head)


_OPENING = 8
"""Opening a document of pending writes takes as long as handling so many times its bytes."""


def _is_whole(doc: Doc) -> bool:
    return doc.fields.get("format") in (FORMAT, NEWEST_FORMAT) and all(
        isinstance(data, bytes) and _is_sealed(doc.name, field, data)
        for field, data in doc.fields.items()
        if field != "format"
    )


def _read_twice(doc: Doc | None) -> Flow[Doc | None]:
    """The document, read again if it is damaged. A single wrong read must not cost the writes of another call."""
    if doc is None or not _is_damaged(doc):
        return doc
    return (yield from GetDocs((doc.name,))).get(doc.name)


def _is_damaged(doc: Doc) -> bool:
    """Whether a document is neither as it was written nor of a newer version."""
    return not _is_whole(doc) and not _is_newer(doc)


def _is_newer(doc: Doc) -> bool:
    """Whether a newer version wrote a document."""
    version = doc.fields.get("format")
    return type(version) is int and version > NEWEST_FORMAT


def _is_sealed(doc: str, field: str, data: bytes) -> bool:
    return data[:SEAL_BYTES] == seal((doc, field), data[SEAL_BYTES:])


# Reading


@lru_cache(maxsize=256)  # A read of one checkpoint needs it twice.
def query(thread_id: str, ns: str, newest_id: str, oldest_id: str) -> QueryDocs:
    """The documents of pending writes of the checkpoints from `newest_id` down to `oldest_id`."""
    start, end = keys.writes_range(thread_id, ns, newest_id, oldest_id)
    return QueryDocs(keys.writes(thread_id), start=start, end=end)


def read_writes(
    wanted: Iterable[str], docs: Iterable[Doc], codec: Codec, most: int | None = None, context: Context | None = None
) -> Flow[dict[str, list[PendingWrite]]]:
    """Pending writes of checkpoints by id, each list in LangGraph's order (`writes_sort_key`).

    Args:
        wanted: The checkpoints.
        docs: Documents of pending writes, of these checkpoints and of others.
        codec: Reads frames.
        most: Once so many bytes were read, no more checkpoints of `wanted` are. The first one is always read.
        context: Documents that it remembers are not opened again, if their fields are equal. `None` opens all of them.

    Returns:
        A list for each checkpoint that was read, empty for one without pending writes.

    Raises:
        DamagedError: A document, or the object that it points to, is damaged.
        UnsupportedFormatError: A newer version wrote it.
        ValueTooLargeError: The writes of one checkpoint together are larger than a read allows.
    """
    by_id: dict[str, list[Doc]] = {checkpoint_id: [] for checkpoint_id in wanted}
    # The first regular write for a task and number wins.
    for doc in sorted(docs, key=lambda doc: (doc.create_time, doc.name)):
        own = by_id.get(keys.writes_checkpoint_id_of(doc.name))
        if own is not None:
            own.append(doc)
    remembered = None if context is None else _remembered(by_id, context)
    if remembered is not None:
        return remembered
    fields = (data for own in by_id.values() for doc in own for data in doc.fields.values())
    size = _OPENING * sum(len(data) for data in fields if isinstance(data, bytes))
    opened = yield from dictionaries.computed(partial(_open_each, by_id, codec, most), size=size, codec=codec)
    stubs = {
        (checkpoint_id, number): (keys.writes_blob(doc.name, stub.attempt), stub)
        for checkpoint_id, own in opened.items()
        for number, (doc, head, _) in enumerate(own)
        if (stub := _stub(doc, head)) is not None
    }
    if stubs:
        blobs = yield from Gather(tuple(GetBlob(name, length=stub.fetched) for name, stub in stubs.values()))
        for ((checkpoint_id, number), (name, stub)), stored in zip(stubs.items(), blobs, strict=True):
            doc = opened[checkpoint_id][number][0]
            open_ = partial(_open_stub, doc, name, stub, codec=codec)
            opened[checkpoint_id][number] = yield from mirrors.opened(name, stub, stored, open_)
    keep = None if context is None or stubs else context
    found = {checkpoint_id: _merged(_parse_each(own, keep)) for checkpoint_id, own in opened.items()}
    yield from report_clear(codec)
    return found


def _remembered(by_id: Mapping[str, Sequence[Doc]], context: Context) -> dict[str, list[PendingWrite]] | None:
    """The writes of all documents, if the process remembers all of them. Together they are small, as the cache is."""
    found = {}
    for checkpoint_id, docs in by_id.items():
        own = []
        for doc in docs:
            known = context.writes.get(doc.name)
            # 1, 1.0 and true are equal, but only the first is a format.
            if known is None or known.fields != doc.fields or type(doc.fields["format"]) is not int:
                return None
            own.append(known.writes)
        found[checkpoint_id] = _merged(chain.from_iterable(own))
    return found


def _parse_each(opened: list[_Opened], context: Context | None) -> Iterator[PendingWrite]:
    """The writes of some envelopes. Those of a document with one envelope are remembered, if there is a context."""
    opened.reverse()
    while opened:  # Each item is freed as soon as it is parsed.
        doc, head, tail = opened.pop()
        parsed = _parse(doc, head, tail)
        if context is not None and len(doc.fields) == len(("format", "writes")):
            context.remember_writes(doc.name, Opened(doc.fields, tuple(parsed)))
        yield from parsed


def _merged(writes: Iterable[PendingWrite]) -> list[PendingWrite]:
    """Writes in LangGraph's order. Of those for the same task and number, the first one counts."""
    found: dict[tuple[str, int], PendingWrite] = {}
    for write in writes:
        found.setdefault((write.task_id, write.idx), write)
    return sorted(found.values(), key=lambda w: (w.task_path, w.task_id, w.idx))


def _open_each(by_id: Mapping[str, Sequence[Doc]], codec: Codec, most: int | None) -> dict[str, list[_Opened]]:
    """Open the documents of some checkpoints, as far as `most` bytes go."""
    found: dict[str, list[_Opened]] = {}
    total = 0
    for checkpoint_id, docs in by_id.items():
        own: list[_Opened] = []
        before = total
        for doc in docs:
            thread_id = keys.told_thread_id(keys.thread_segment_of(doc.name))
            what = f"The pending writes of checkpoint {checkpoint_id!r}, thread {thread_id!r},"
            for opened in _open(doc, codec):
                stub = _stub(doc, opened[1])
                total += len(opened[2]) if stub is None else stub.size
                codec.refuse_large_state(total - before, what)
                if found and most is not None and total > most:
                    return found
                own.append(opened)
        found[checkpoint_id] = own
    return found


def read_stubs(doc: Doc, codec: Codec) -> Flow[dict[str, Stub]]:
    """The objects that a document of pending writes refers to, by name.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version wrote it.
    """
    size = _OPENING * sum(len(data) for data in doc.fields.values() if isinstance(data, bytes))
    found = yield from dictionaries.computed(partial(_stubs_of, doc, codec), size=size, codec=codec)
    yield from report_clear(codec)
    return found


def _stubs_of(doc: Doc, codec: Codec) -> dict[str, Stub]:
    found: dict[str, Stub] = {}
    for _, head, tail in _open(doc, codec):
        stub = _stub(doc, head)
        if stub is None:
            _parse(doc, head, tail)
        else:
            found[keys.writes_blob(doc.name, stub.attempt)] = stub
    return found


@record(frozen=True, slots=True)
class Measured:
    """What a document of pending writes shows without the objects that it refers to.

    Attributes:
        task_id: The task; the segment in the document's name if an id is too long for it and an object has it.
        which: Which of the task's writes these are; see `which`.
        writes: Number of writes; `None` if an object has some of them.
        size: Bytes of their serialized values; `None` likewise.
        inline_bytes: Bytes in the document.
        object_bytes: Bytes in objects.
        objects: Number of objects.
    """

    task_id: str
    which: str
    writes: int | None
    size: int | None
    inline_bytes: int
    object_bytes: int
    objects: int


def measure(doc: Doc, codec: Codec) -> Flow[Measured]:
    """Measure a document of pending writes; raises as `read_stubs` does."""
    size = _OPENING * sum(len(data) for data in doc.fields.values() if isinstance(data, bytes))
    found = yield from dictionaries.computed(partial(_measure, doc, codec), size=size, codec=codec)
    yield from report_clear(codec)
    return found


def _measure(doc: Doc, codec: Codec) -> Measured:
    stubs: list[Stub] = []
    found: list[PendingWrite] = []
    for _, head, tail in _open(doc, codec):
        stub = _stub(doc, head)
        if stub is None:
            found += _parse(doc, head, tail)
        else:
            stubs.append(stub)
    return Measured(
        task_id=found[0].task_id if found else keys.told_id(keys.writes_task_of(doc.name)[0]),
        which=keys.writes_which_of(doc.name),
        writes=None if stubs else len(found),
        size=None if stubs else sum(len(one.value.data) for one in found),
        inline_bytes=sum(len(data) for field, data in doc.fields.items() if field != "format"),
        object_bytes=sum(stub.stored for stub in stubs),
        objects=len(stubs),
    )


def is_clear(doc: Doc, codec: Codec) -> bool:
    """Whether a whole document of pending writes has any that the cipher does not vouch for."""
    return any(not codec.vouches_for(data[SEAL_BYTES:]) for field, data in doc.fields.items() if field != "format")


def moved_to(doc: Doc, name: str, attempt: Callable[[str], str], codec: Codec) -> dict[str, Any]:
    """The fields of a whole document of pending writes, as the document `name` would have them.

    Each field is sealed to its place. With a cipher it is also bound to it. The names of the objects that it refers to
    contain the attempt that `attempt` returns.
    """
    # What is encoded again has no trained dictionary.
    fields: dict[str, Any] = {"format": FORMAT if codec.cipher is not None else doc.fields["format"]}
    for field, plain in envelopes(doc, codec):
        stored = doc.fields[field][SEAL_BYTES:]
        moved, is_stub = _renamed(plain, attempt)
        if is_stub or codec.cipher is not None:
            stored = codec.encode_envelope(moved, (name, field))
        fields[field] = seal((name, field), stored) + stored
    return fields


def _renamed(plain: bytes, attempt: Callable[[str], str]) -> tuple[bytes, bool]:
    """An envelope with another attempt in its object's name, and whether it has an object."""
    stub = stub_of(frames.open_envelope(plain)[0])
    if stub is None:
        return plain, False
    return frames.envelope(replace(stub, attempt=attempt(stub.attempt)).head()), True


def lacks(doc: Doc, there: Doc, attempt: Callable[[str], str], codec: Codec) -> set[str] | None:
    """The fields that a copy of pending writes still lacks; `None` if it is not a part of that copy.

    Args:
        doc: The document that is copied. It is whole.
        there: The copy so far.
        attempt: As for `moved_to`.
        codec: Reads frames.
    """
    wanted = {field: _renamed(plain, attempt)[0] for field, plain in envelopes(doc, codec)}
    try:
        found = dict(envelopes(there, codec))
    except DamagedError:
        return None
    return wanted.keys() - found.keys() if found.items() <= wanted.items() else None


_Opened = tuple[Doc, Any, bytes]
"""A document of pending writes, and one of its envelopes."""


def _open(doc: Doc, codec: Codec) -> Iterator[_Opened]:
    for _, plain in envelopes(doc, codec):
        try:
            opened = frames.open_envelope(plain)
        except FrameError as error:
            raise DamagedError(f"pending writes are {error}", frame=doc.name, clear=error.clear) from None
        yield doc, *opened


def envelopes(doc: Doc, codec: Codec) -> Iterator[tuple[str, bytes]]:
    """The envelopes of a document of pending writes, by field; raises as `read_stubs` does."""
    version = doc.fields.get("format")
    if _is_newer(doc):
        raise UnsupportedFormatError(
            f"Pending writes {doc.name!r} have format {version}; this version of langgraph-gcs-saver reads up to "
            f'{NEWEST_FORMAT}. They are not damaged: upgrade with `pip install -U "langgraph-gcs-saver"`.'
        )
    if type(version) is not int or version < FORMAT or len(doc.fields) < 2:
        raise DamagedError("a document of pending writes lacks its format or its writes", frame=doc.name)
    needs = False
    for field, data in sorted(doc.fields.items()):
        if field == "format":
            continue
        if not isinstance(data, bytes):
            raise DamagedError("pending writes are not bytes", frame=doc.name)
        if not _is_sealed(doc.name, field, data):
            raise DamagedError("pending writes do not match their digest", frame=doc.name)
        try:
            plain = codec.decode_envelope(data[SEAL_BYTES:], (doc.name, field))
        except DictionaryNeeded:
            raise
        except FrameError as error:
            raise DamagedError(f"pending writes are {error}", frame=doc.name, clear=error.clear) from None
        yield field, plain
        needs = needs or (version != FORMAT and codec.dictionary_of(data[SEAL_BYTES:]) is not None)
    if (version != FORMAT) is not needs:
        raise DamagedError("pending writes state another format than they need", frame=doc.name)


def _stub(doc: Doc, head: Any) -> Stub | None:
    try:
        return stub_of(head)
    except DamagedError as damage:
        raise DamagedError(damage.reason, frame=doc.name) from None


def _open_stub(doc: Doc, name: str, stub: Stub, stored: bytes | None, *, codec: Codec) -> _Opened:
    try:
        return (doc, *frames.open_envelope(open_stub(name, stub, stored, codec)))
    except FrameError as error:
        raise DamagedError(f"pending writes are {error}", frame=name, clear=error.clear) from None


def _parse(doc: Doc, head: Any, tail: bytes) -> list[PendingWrite]:
    found = []
    at = 0
    try:
        task_id, path = keys.writes_task_id_of(doc.name), head["path"]
        task_id = head["task"] if task_id is None else task_id
        _check(isinstance(task_id, str) and isinstance(path, str))
        for idx, channel, kind, size in head["writes"]:
            _check(type(idx) is int and isinstance(channel, str) and isinstance(kind, str))
            _check(type(size) is int and 0 <= size <= len(tail) - at)
            found.append(PendingWrite(idx, task_id, path, channel, Serialized(kind, tail[at : at + size])))
            at += size
        _check(at == len(tail))
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"pending writes do not parse: {type(error).__name__}", frame=doc.name) from None
    return found


def _check(is_right: bool) -> None:
    if not is_right:
        raise ValueError("not as any writer makes it")
