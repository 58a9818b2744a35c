"""Reads checkpoints: one by id, the latest of a namespace, or a page of a listing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Any

from langgraph_gcs_saver.engine import gc_pause
from langgraph_gcs_saver.engine.effects import Compute, Doc, Effect, Emit, Flow, Gather, GetDocs, QueryDocs
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ClearTextError,
    ConflictError,
    UnsupportedFormatError,
)
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered, CheckpointSkipped
from langgraph_gcs_saver.flows.context import Context, Head, Loads
from langgraph_gcs_saver.flows.manifests import (
    LOST_HEIR,
    corrupt,
    deserialize,
    emptied,
    metadata_of,
    read_manifest,
    report_clear,
    rest_of,
    unreadable,
)
from langgraph_gcs_saver.flows.mirrors import report_read
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.writes import PendingWrite, query, read_writes
from langgraph_gcs_saver.format import filters, keys, manifest
from langgraph_gcs_saver.format.manifest import DamagedError, Manifest, Serialized, heir_of
from langgraph_gcs_saver.records import record

RESTARTS = 8
"""How often a read starts over because the checkpoint changed while it was read."""

CHECKPOINTS_PER_PAGE = 50
"""How many checkpoints a listing reads at once."""

PAGE_BYTES = 64 << 20
"""The maximum size of serialized values and metadata in a page that has more than one checkpoint."""

_VALUE = 1000
"""Reading a value, however small, takes as long as handling so many bytes."""


@record(frozen=True, slots=True)
class Loaded:
    """A whole checkpoint, deserialized."""

    manifest: Manifest
    values: Mapping[str, Any]
    metadata: Mapping[str, Any]
    rest: Mapping[str, Any]
    writes: tuple[tuple[str, str, Any], ...]
    size: int
    """Bytes of the serialized values and pending writes."""

    inline_bytes: int
    """Bytes of frames in its document."""

    object_bytes: int
    """Bytes of objects that were read; of checkpoints loaded together, the first one counts the objects of all."""

    recovered_from: str | None = None
    """The id of the damaged latest checkpoint that it replaces."""


@record(frozen=True, slots=True)
class _Ahead:
    """What was read before it was known whether it is needed.

    Attributes:
        answers: The answers, by what was asked.
        planned: The outline of the checkpoint that was expected, and its frames, except those in its document.
    """

    answers: dict[Effect[Any], Any]
    planned: tuple[Manifest, Sources] | None = None

    def sources_of(self, known: Manifest) -> Sources | None:
        """The frames of a checkpoint, if they were planned from the same outline."""
        if self.planned is None or self.planned[0].channels is not known.channels:
            return None
        return self.planned[1]


@record(frozen=True, slots=True)
class Search:
    """Which checkpoints to list.

    Attributes:
        thread_id: One thread, or `None` for all, thread by thread.
        ns: One namespace, or `None` for all.
        checkpoint_id: One checkpoint id, or `None` for all.
        before: Only checkpoints whose id sorts before this one, if it is not `None`.
        wanted: Metadata that must be equal.
    """

    thread_id: str | None
    ns: str | None
    checkpoint_id: str | None
    before: str | None
    wanted: Mapping[str, Any] | None


def get_tuple(
    thread_id: str, ns: str, checkpoint_id: str | None, loads: Loads, context: Context
) -> Flow[Loaded | None]:
    """A checkpoint by its id, or the latest of its namespace; `None` if there is none.

    If the latest checkpoint is damaged or missing, the read falls back to the newest whole one, and puts
    `recovered_from` into its metadata. It does not fall back if `context.falls_back` is false, or for any other reason.

    Raises:
        CheckpointCorruptError: The checkpoint is damaged, and it was requested by its id, or no whole one exists, or
            the saver does not fall back.
        ClearTextError: It is in clear, and the saver has a cipher.
        DamageError: The root namespace had checkpoints, and they are missing.
        WrongStoreError: An object is missing because the store was bound to another place since.
        UnsupportedFormatError: A newer version wrote it.
        SerializationError: The serializer cannot read what it once wrote.
    """
    newest: CheckpointCorruptError | None = None
    after: str | None = None
    while True:
        try:
            loaded, lost = yield from _get(thread_id, ns, checkpoint_id, loads, context, after=after)
            if lost is not None:
                newest = corrupt(lost.damage, thread_id, ns, lost.heir)
                yield from _report(newest)
        except CheckpointCorruptError as error:
            yield from _report(error)
            if checkpoint_id is not None or not context.falls_back:
                raise
            newest = newest or error
            after = keys.checkpoint_doc(thread_id, ns, error.checkpoint_id)
            continue
        if newest is None:
            return loaded
        if loaded is None or not context.falls_back:
            raise newest
        ids = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": loaded.manifest.checkpoint_id}
        yield from Emit(CheckpointRecovered(**ids, recovered_from=newest.checkpoint_id))
        metadata = {**loaded.metadata, "recovered_from": newest.checkpoint_id}
        return replace(loaded, metadata=metadata, recovered_from=newest.checkpoint_id)


def _report(error: CheckpointCorruptError) -> Flow[None]:
    yield from Emit(
        CheckpointDamaged(
            thread_id=error.thread_id,
            checkpoint_ns=error.checkpoint_ns,
            checkpoint_id=error.checkpoint_id,
            reason=error.reason,
            channel=error.channel,
            name=error.frame,
        )
    )


@record(frozen=True, slots=True)
class _Lost:
    """A missing checkpoint, which the newest document names as its child."""

    heir: str
    damage: DamagedError


def _lost_heir(thread_id: str, ns: str, doc: Doc) -> Flow[_Lost | bool]:
    """The missing child that the newest document of a namespace names, if any; true if that must be read again.

    Parent and child are written in one commit, so the child existed. A deletion deletes children first, but it marks
    the thread before.
    """
    heir = heir_of(doc)
    if heir is None or heir <= keys.checkpoint_id_of(doc.name):
        return False
    thread = keys.thread_doc(thread_id)
    docs = yield from GetDocs((thread, doc.name), mask=("deleting",))
    if doc.name not in docs or docs[doc.name].update_time != doc.update_time:
        return True
    if thread in docs and "deleting" in docs[thread].fields:
        return False
    name = keys.checkpoint_doc(thread_id, ns, heir)
    return _Lost(heir, DamagedError(LOST_HEIR, frame=name))


def _emptied(thread_id: str, ns: str) -> Flow[int | None]:
    """When the document of a thread without checkpoints was updated, if its root namespace once had some."""
    if ns:
        return None
    name = keys.thread_doc(thread_id)
    thread = (yield from GetDocs((name,))).get(name)
    lost = thread is not None and thread.fields.get("root") is True and "deleting" not in thread.fields
    return thread.update_time if thread is not None and lost else None


def _get(
    thread_id: str, ns: str, checkpoint_id: str | None, loads: Loads, context: Context, *, after: str | None
) -> Flow[tuple[Loaded | None, _Lost | None]]:
    """A checkpoint by its id, or the newest one after the document `after`; and a newer checkpoint that is missing.

    The data may change between two reads. So a mismatch is read again, and only one that stays is damage. If objects
    have two copies, it must stay with each of them.
    """
    before: set[object] = set()
    for _ in range(RESTARTS):
        doc, ahead = yield from (
            _find_latest(thread_id, ns, after, context)
            if checkpoint_id is None
            else _find(thread_id, ns, checkpoint_id)
        )
        if doc is None:
            time = (yield from _emptied(thread_id, ns)) if checkpoint_id is None and after is None else None
            if time is not None:
                # A deletion in between would have changed the time.
                if time in before:
                    raise emptied(thread_id)
                before.add(time)
                continue
            return None, None
        try:
            found = Found(doc, (yield from _manifest_of(doc, context)))
            loaded = yield from _load([found], ahead, loads, context)
        except DamagedError as damage:
            copy = None if damage.frame is None else context.corrupt.get(damage.frame)
            seen = (damage.reason, damage.channel, damage.frame, doc.update_time, copy)
            if seen in before:
                yield from recheck(context, is_missing=damage.missing)
                raise unreadable(damage, thread_id, ns, keys.checkpoint_id_of(doc.name)) from None
            before.add(seen)
        else:
            lost = (yield from _lost_heir(thread_id, ns, doc)) if checkpoint_id is None and after is None else False
            if lost is not True:
                return loaded[0], lost or None
    raise ConflictError(
        f"The checkpoint of thread {thread_id!r}, namespace {ns!r} changed during each of {RESTARTS} reads. Call again."
    )


def _find(thread_id: str, ns: str, checkpoint_id: str) -> Flow[tuple[Doc | None, _Ahead]]:
    """The document of a checkpoint, and those of its pending writes, in the same round."""
    name = keys.checkpoint_doc(thread_id, ns, checkpoint_id)
    writes = query(thread_id, ns, checkpoint_id, checkpoint_id)
    got, write_docs = yield from Gather((GetDocs((name,)), writes))
    doc = got.get(name)
    if doc is not None and manifest.kind_of(doc) is manifest.DocumentKind.STRIPPED:
        doc = None
    return doc, _Ahead({writes: write_docs})


def _find_latest(thread_id: str, ns: str, after: str | None, context: Context) -> Flow[tuple[Doc | None, _Ahead]]:
    """The document of the newest checkpoint after the document `after`.

    If this process remembers which checkpoint is the latest, the rest of that one is read in the same round. It counts
    only if the latest checkpoint is that one, and its document has not changed since the process has seen it. So the
    document was as it is now at the time when the rest was read, whichever of the two was read first.
    """
    expected = context.expected(thread_id, ns) if after is None else None
    where = (("ns", keys.enc(ns, "namespace")),)
    latest = QueryDocs(keys.checkpoints(thread_id), where=where, after=after, limit=1)
    asked: tuple[Effect[Any], ...] = ()
    answers: list[Any] = []
    planned: tuple[Manifest, Sources] | None = None
    if expected is None:
        docs = yield from latest
    else:
        known = expected.manifest
        sources = Sources([Found(Doc(known.name, {"frames": b""}, 0, 0), known)], context)
        writes = query(known.thread_id, known.ns, known.checkpoint_id, known.checkpoint_id)
        asked, planned = (writes, *sources.fetches()), (known, sources)
        docs, *answers = yield from Gather((latest, *asked))
    while docs and not keys.is_in_ns(docs[0].name, ns):
        docs = yield from replace(latest, after=docs[0].name)
    doc = docs[0] if docs else None
    if expected is None:
        if doc is not None and after is None:
            context.expect(thread_id, ns, doc.name)
    elif doc is None or doc.name != expected.manifest.name:
        # Other processes write to this thread. The next read expects nothing, because a wrong guess is billed.
        context.tips.drop((thread_id, ns))
    elif _is_unchanged(doc, expected):
        return doc, _Ahead(dict(zip(asked, answers, strict=True)), planned)
    return doc, _Ahead({})


def _is_unchanged(doc: Doc, seen: Head) -> bool:
    return doc.update_time == seen.update_time


def _manifest_of(doc: Doc, context: Context) -> Flow[Manifest]:
    """The manifest of a document, as this process remembers it if the digest is the same; raises as `read_manifest`."""
    head = context.heads.get(doc.name)
    if head is not None and manifest.has_digest(doc, head.content.digest):
        return head.content.manifest(head.manifest)
    return (yield from read_manifest(doc, context.codec))


def list_page(
    search: Search, after: str | None, limit: int | None, loads: Loads, context: Context
) -> Flow[tuple[list[Loaded], str | None]]:
    """One page of a listing, newest first, and where the next page begins (`None` if there is none).

    Damaged checkpoints are skipped, with an event. A listing of all threads also skips checkpoints that are in clear or
    of a newer format.

    Args:
        search: Which checkpoints to list.
        after: Where the page before ended.
        limit: The maximum number of checkpoints, after filtering.
        loads: Deserializes a value.
        context: Options and caches.
    """
    # If the service can filter by every key of the search, most results match. Otherwise few may match.
    narrow = search.thread_id is not None and len(_where(search, context)) == len(search.wanted or ())
    size = CHECKPOINTS_PER_PAGE if limit is None or not narrow else max(1, min(CHECKPOINTS_PER_PAGE, limit))
    docs = yield from _query_page(search, after, size, context)
    if not docs and after is None and _where(search, context):
        yield from _look_at_newest(search, context)
    end = docs[-1].name if len(docs) == size else None
    page: list[tuple[Doc, Manifest | None]] = []
    total = 0
    for number, doc in enumerate(docs):
        if not _is_wanted(search, doc):
            continue
        if len(page) == limit:
            end = docs[number - 1].name
            break
        try:
            found = yield from _manifest_of(doc, context)
            if search.wanted and not filters.matches(metadata_of(found, loads), search.wanted):
                continue
        except (DamagedError, UnsupportedFormatError):
            page.append((doc, None))
            continue
        if total and total + found.held > PAGE_BYTES:
            end = docs[number - 1].name
            break
        total += found.held
        page.append((doc, found))
    loaded, count = yield from _load_page(search, page, loads, context)
    return loaded, end if count == len(page) else page[count - 1][0].name


def _look_at_newest(search: Search, context: Context) -> Flow[None]:
    """Read the newest checkpoint without a filter, because Firestore cannot find encrypted metadata.

    Raises:
        WrongKeyError: It is encrypted with another key, or the saver has none.
        ClearTextError: It is in clear although the saver has a cipher, and the search is for one thread.
        UnsupportedFormatError: A newer version wrote it.
    """
    for doc in (yield from _query_page(replace(search, wanted=None), None, 1, context)):
        if manifest.kind_of(doc) is not manifest.DocumentKind.STRIPPED:
            try:
                yield from read_manifest(doc, context.codec)
            except DamagedError as damage:
                # A later read reports damage. A checkpoint in clear is different: it was not indexed as this saver
                # would have done it.
                ns = keys.told_id(keys.ns_segment_of(doc.name), () if search.ns is None else (search.ns,))
                if damage.clear and search.thread_id is not None:
                    raise unreadable(damage, search.thread_id, ns, keys.checkpoint_id_of(doc.name)) from None


def _query_page(search: Search, after: str | None, size: int, context: Context) -> Flow[list[Doc]]:
    where = _where(search, context)
    if search.ns is not None:
        where = (("ns", keys.enc(search.ns, "namespace")), *where)
    if search.thread_id is None:
        start, end = keys.all_checkpoints_range()
        return (yield from QueryDocs(keys.CHECKPOINTS, (), start, after, end, limit=size, group=True))
    first: str | None = None
    last: str | None = None
    if search.before is not None:
        first = keys.checkpoint_range(search.thread_id, search.before)[1]
    if search.checkpoint_id is not None:
        start, last = keys.checkpoint_range(search.thread_id, search.checkpoint_id)
        first = start if first is None else max(first, start)
        if first >= last:
            return []
    return (yield from QueryDocs(keys.checkpoints(search.thread_id), where, first, after, last, limit=size))


def _where(search: Search, context: Context) -> tuple[tuple[str, Any], ...]:
    return filters.where(search.wanted, context.clear_metadata)


def _is_wanted(search: Search, doc: Doc) -> bool:
    """Whether a document matches those conditions of a search that a query cannot have.

    Raises:
        DamageError: The thread's collection of checkpoints has a document whose name cannot be a checkpoint's.
    """
    if not (keys.is_direct(doc.name) and manifest.kind_of(doc) is not manifest.DocumentKind.STRIPPED):
        return False
    if search.thread_id is None and not keys.is_checkpoint_doc(doc.name):
        return False  # A strange document of one thread must not stop a listing of all threads.
    if search.ns is not None and not keys.is_in_ns(doc.name, search.ns):
        return False
    found = keys.checkpoint_id_of(doc.name)
    return (search.checkpoint_id is None or found == search.checkpoint_id) and (
        search.before is None or found < search.before
    )


def _load_page(
    search: Search, page: list[tuple[Doc, Manifest | None]], loads: Loads, context: Context
) -> Flow[tuple[list[Loaded], int]]:
    """Load as many checkpoints as memory may hold; if one is damaged, load each alone, and skip damaged ones.

    Returns:
        The loaded checkpoints, and how many items of the page they cover.
    """
    found = [Found(doc, known) for doc, known in page if known is not None]
    if len(found) == len(page):
        try:
            loaded = yield from _load(found, _Ahead({}), loads, context)
        except (DamagedError, UnsupportedFormatError):
            pass  # Loading each alone shows which one is damaged.
        else:
            return loaded, len(loaded)
    loaded = []
    total = 0
    for number, (doc, known) in enumerate(page):
        if total > PAGE_BYTES:
            return loaded, number
        thread_id, ns = _ids(search, doc, known)
        checkpoint_id = keys.checkpoint_id_of(doc.name)
        reason = "Its document is damaged, and its name does not say its ids"
        if thread_id is not None and ns is not None:
            try:
                one = yield from get_tuple(thread_id, ns, checkpoint_id, loads, context)
            except CheckpointCorruptError as error:
                reason = error.reason
            except (ClearTextError, UnsupportedFormatError) as error:
                if search.thread_id is not None:
                    raise
                # A listing of all threads continues with the other threads.
                reason = error.reason if isinstance(error, ClearTextError) else str(error)
            else:
                if one is not None and (not search.wanted or filters.matches(one.metadata, search.wanted)):
                    loaded.append(one)
                    total += one.size
                continue
        ids = doc.name if thread_id is None else thread_id, keys.ns_segment_of(doc.name) if ns is None else ns
        yield from Emit(
            CheckpointSkipped(thread_id=ids[0], checkpoint_ns=ids[1], checkpoint_id=checkpoint_id, reason=reason)
        )
    return loaded, len(page)


def _ids(search: Search, doc: Doc, known: Manifest | None) -> tuple[str | None, str | None]:
    """Thread and namespace of a document, damaged or not; `None` for an unknown one."""
    if known is not None:
        return known.thread_id, known.ns
    thread, _ = keys.split_checkpoint_doc(doc.name)
    return (
        keys.thread_id_of(thread) if search.thread_id is None else search.thread_id,
        keys.dec(keys.ns_segment_of(doc.name)) if search.ns is None else search.ns,
    )


# Loading: everything that some checkpoints need, in one round


def _load(found: list[Found], ahead: _Ahead, loads: Loads, context: Context) -> Flow[list[Loaded]]:
    """Fetch, verify and deserialize the values and pending writes of checkpoints. What `ahead` has is not read again.

    Returns:
        All of them, or only the first ones, if the pending writes of the rest would take too much memory.

    Raises:
        DamagedError: A value or a pending write is damaged.
        ValueTooLargeError: A value, or all values of one checkpoint together, are larger than a read allows.
    """
    ids: dict[tuple[str, str], list[str]] = {}
    for item in found:
        context.codec.refuse_large_state(item.manifest.size, item.manifest.values)
        ids.setdefault((item.manifest.thread_id, item.manifest.ns), []).append(item.manifest.checkpoint_id)
    queries = {group: query(*group, max(own), min(own)) for group, own in ids.items()}
    answers = ahead.answers
    sources = ahead.sources_of(found[0].manifest) if found else None
    if sources is None:
        values = sum(len(item.manifest.channels) for item in found)
        sources = yield from Compute(partial(Sources, found, context), size=_VALUE * values)
    else:
        sources.take(found[0].doc)
    fetches = sources.fetches()
    missing = tuple([effect for effect in (*queries.values(), *fetches) if effect not in answers])
    if missing:
        answers.update(zip(missing, (yield from Gather(missing)), strict=True))
    # They leave `answers`, because the sources drop what they have decoded. That saves memory with large states.
    sources.fill(tuple([answers.pop(effect) for effect in fetches]))
    writes: dict[tuple[str, str, str], list[PendingWrite]] = {}
    left = PAGE_BYTES
    for group, own_ids in ids.items():
        if left > 0:
            by_id = yield from read_writes(own_ids, answers[queries[group]], context.codec, left, context)
            left -= sum(len(write.value.data) for own in by_id.values() for write in own)
            writes.update({(*group, checkpoint_id): own for checkpoint_id, own in by_id.items()})
    found = list(takewhile(lambda item: _key(item.manifest) in writes, found))
    size = sum(_cost(item.manifest, writes[_key(item.manifest)]) for item in found)
    load = partial(_deserialize, found, sources, writes, loads, size)
    loaded: list[Loaded] = yield from Compute(load, size=size)
    for name in sources.mirrored:
        yield from report_read(name)
    yield from report_clear(context.codec)
    for item in found:
        head = context.heads.get(item.doc.name)
        if head is None or head.update_time != item.doc.update_time:
            context.remember(Head.of(item.manifest, item.doc))
    return loaded


def _deserialize(
    found: list[Found],
    sources: Sources,
    writes: Mapping[tuple[str, str, str], list[PendingWrite]],
    loads: Loads,
    size: int,
) -> list[Loaded]:
    def load() -> list[Loaded]:
        return [
            _deserialize_one(item, sources, writes[_key(item.manifest)], loads, 0 if number else sources.object_bytes)
            for number, item in enumerate(found)
        ]

    return gc_pause.put_off(size, load)


def _cost(known: Manifest, writes: list[PendingWrite]) -> int:
    """How long deserializing takes, as the number of bytes that could be handled in the same time."""
    values = known.size + _VALUE * len(known.channels)
    return values + sum(len(write.value.data) + _VALUE for write in writes)


def _deserialize_one(
    item: Found, sources: Sources, writes: list[PendingWrite], loads: Loads, object_bytes: int
) -> Loaded:
    known = item.manifest
    return Loaded(
        manifest=known,
        values={
            channel: deserialize(loads, Serialized(ref.type, sources.plain(known, channel)), "Channel", known, channel)
            for channel, ref in known.channels.items()
        },
        metadata=metadata_of(known, loads),
        rest=rest_of(known, loads),
        writes=tuple(
            (write.task_id, write.channel, deserialize(loads, write.value, "A write to channel", known, write.channel))
            for write in writes
        ),
        size=known.size + sum(len(write.value.data) for write in writes),
        inline_bytes=len(manifest.inner_frames(item.doc)),
        object_bytes=object_bytes,
    )


def _key(known: Manifest) -> tuple[str, str, str]:
    return known.thread_id, known.ns, known.checkpoint_id
