"""Lists what a store holds, from manifests and names alone: no payload is read, however large the states are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Compute, Doc, Flow, Gather, QueryDocs
from langgraph_gcs_saver.errors import UnsupportedFormatError, WrongKeyError
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.listing import list_all, list_page
from langgraph_gcs_saver.flows.manifests import metadata_of, read_manifest
from langgraph_gcs_saver.flows.stored import made_by
from langgraph_gcs_saver.flows.tips import Tip, is_waiting, read_states
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import HOLDS, holds_of
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, Manifest, kind_of
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import ChannelStats, CheckpointInfo, StoredValue, StoreStats, ThreadInfo

DOCS_PER_PAGE = 300
"""How many documents of checkpoints are read at once, without their frames: about a KB each."""

_TOGETHER = 32
"""How many queries, or threads, are handled together."""

_NEAR = 30
"""How many checkpoints `find_checkpoint` reads at once. It often finds one of the newest."""

_MASK = ("ns", "format", "manifest", "digest", "heir", "run_id", "pin", "objects", HOLDS)


@record(frozen=True, slots=True, kw_only=True)
class ThreadFilter:
    """Which threads to list. A thread must match all conditions.

    Attributes:
        prefix: What their ids begin with.
        since: Only threads used at this time or later, in seconds since the epoch.
        limit: The maximum number of threads; the most recently used ones are kept.
        waiting: Only threads that wait for an answer.
        unfinished: Only threads with work to do.
        damaged: Only threads with a checkpoint whose document is damaged.
    """

    prefix: str = ""
    since: float | None = None
    limit: int | None = None
    waiting: bool = False
    unfinished: bool = False
    damaged: bool = False

    @property
    def reads_tips(self) -> bool:
        """Whether the filter depends on the newest checkpoint of a thread."""
        return self.waiting or self.unfinished

    @property
    def reads_manifests(self) -> bool:
        """Whether the filter depends on manifests."""
        return self.reads_tips or self.damaged

    def may_have(self, thread: ThreadInfo) -> bool:
        """Whether a thread may match, judging from its own document."""
        return (thread.thread_id is None or thread.thread_id.startswith(self.prefix)) and (
            self.since is None or (thread.active or 0.0) >= self.since
        )

    def of(self, threads: Mapping[str, ThreadInfo]) -> list[ThreadInfo]:
        """The matching ones of threads whose manifests were read, the most recently used first."""
        found = [
            thread
            for thread in threads.values()
            if self.may_have(thread)
            and (thread.thread_id is not None or not self.prefix)
            and (not self.waiting or thread.is_waiting)
            and (not self.unfinished or thread.is_unfinished)
            and (not self.damaged or thread.damaged)
        ]
        return sorted(found, key=_newest_first)

    def lacks(self, found: Sequence[ThreadInfo]) -> bool:
        """Whether the limit allows more threads than were found."""
        return self.limit is None or len(found) < self.limit


def list_threads(wanted: ThreadFilter, context: Context) -> Flow[list[ThreadInfo]]:
    """Threads of the store, the most recently used first.

    First, the documents of all threads with the prefix are read, which are small. Then manifests are read. With `since`
    or `limit`, these are the manifests of threads that may match, the most recently used first, until enough threads
    are found. Otherwise all manifests are read.

    Raises:
        WrongKeyError: Manifests are encrypted with another key, or the saver has none.
    """
    ranges = keys.thread_ranges(wanted.prefix)
    known = yield from _threads(ranges)
    if wanted.since is None and wanted.limit is None:
        queries = [manifests_in(*one) for one in ranges]
        return wanted.of((yield from _look(known, queries, wanted, context)))
    found: list[ThreadInfo] = []
    pending = [info for info in sorted(known.values(), key=_newest_first) if wanted.may_have(info)]
    while pending and wanted.lacks(found):
        # If the filter depends on manifests, the number of threads to read is unknown.
        number = _TOGETHER if wanted.limit is None or wanted.reads_manifests else wanted.limit - len(found)
        some, pending = pending[:number], pending[number:]
        queries = [_manifests_of(info.segment) for info in some]
        found += wanted.of((yield from _look({info.segment: info for info in some}, queries, wanted, context)))
    if wanted.since is None and wanted.lacks(found):
        # Threads without a document come last, because the time of their last use is unknown.
        queries = [_manifests_of(segment) for segment in (yield from _without_document(known, ranges))]
        found += wanted.of((yield from _look({}, queries, wanted, context)))
    return found[: wanted.limit]


def _newest_first(info: ThreadInfo) -> tuple[float, str]:
    return -(info.active or 0.0), info.segment


def _look(
    known: Mapping[str, ThreadInfo], queries: list[QueryDocs], wanted: ThreadFilter, context: Context
) -> Flow[dict[str, ThreadInfo]]:
    """Threads by segment, with facts from the manifests that the queries find."""
    found = dict(known)
    with_tip: set[str] = set()
    while queries:
        docs, queries = yield from _page(queries)
        tips: list[Tip] = []
        for doc in docs:
            if kind_of(doc) is not DocumentKind.CHECKPOINT:
                continue
            manifest = yield from _read_any(doc, context)
            _count(found, doc, manifest)
            segment = keys.thread_segment_of(doc.name)
            # The newest come first.
            if wanted.reads_tips and segment not in with_tip and keys.ns_segment_of(doc.name) == keys.enc(""):
                with_tip.add(segment)
                if isinstance(manifest, Manifest):
                    tips.append(Tip(doc.name, manifest))
        if tips:
            for tip, state in zip(tips, (yield from read_states(tips, context)), strict=True):
                segment = keys.thread_segment_of(tip.name)
                found[segment] = replace(found[segment], is_waiting=state.is_waiting, is_unfinished=state.is_unfinished)
    return found


def _page(queries: list[QueryDocs]) -> Flow[tuple[list[Doc], list[QueryDocs]]]:
    """The next documents that some queries find, and the queries for the rest."""
    now, later = queries[:_TOGETHER], queries[_TOGETHER:]
    pages = yield from Gather(tuple(now))
    more = [
        replace(query, after=page[-1].name) for query, page in zip(now, pages, strict=True) if len(page) == query.limit
    ]
    return [
        doc
        for query, page in zip(now, pages, strict=True)
        for doc in page
        if not query.group or keys.is_direct(doc.name)
    ], more + later


def manifests_in(start: str, end: str) -> QueryDocs:
    """The query for the manifests of the threads in a range of names."""
    return QueryDocs(keys.CHECKPOINTS, start=start, end=end, limit=DOCS_PER_PAGE, mask=_MASK, group=True)


def _manifests_of(segment: str) -> QueryDocs:
    return QueryDocs(f"{keys.THREADS}/{segment}/{keys.CHECKPOINTS}", limit=DOCS_PER_PAGE, mask=_MASK)


@record(frozen=True, slots=True)
class Size:
    """What checkpoints store, as their manifests say; sizes can be added.

    Attributes:
        checkpoints: Their number.
        damaged: The number of those whose manifest cannot be read.
        document_bytes: The bytes of manifests, and of the frames in documents.
        object_bytes: The bytes of the frames in objects.
    """

    checkpoints: int = 0
    damaged: int = 0
    document_bytes: int = 0
    object_bytes: int = 0

    @property
    def stored_bytes(self) -> int:
        """All of these bytes."""
        return self.document_bytes + self.object_bytes

    def __add__(self, other: Size) -> Size:
        return Size(
            self.checkpoints + other.checkpoints,
            self.damaged + other.damaged,
            self.document_bytes + other.document_bytes,
            self.object_bytes + other.object_bytes,
        )


def size_of(doc: Doc, context: Context) -> Flow[Size | None]:
    """What a checkpoint stores, by its document; `None` for a document that is none. Without the key, its manifest."""
    if kind_of(doc) is not DocumentKind.CHECKPOINT:
        return None
    try:
        known = yield from _read_any(doc, context)
    except WrongKeyError:
        return Size(1, 0, _manifest_bytes(doc))
    values = list(_stored(known)) if isinstance(known, Manifest) else []
    inner = sum(value.stored for value in values if not value.is_object)
    outer = sum(value.stored for value in values if value.is_object)
    return Size(1, isinstance(known, DamagedError), _manifest_bytes(doc) + inner, outer)


def _without_document(known: Collection[str], ranges: Iterable[tuple[str, str]]) -> Flow[list[str]]:
    """Segments of threads that have checkpoints and no document of their own."""
    queries = [replace(manifests_in(*one), mask=()) for one in ranges]
    found: dict[str, None] = {}
    while queries:
        docs, queries = yield from _page(queries)
        found |= dict.fromkeys(keys.thread_segment_of(doc.name) for doc in docs)
    return [segment for segment in found if segment not in known]


def store_stats(context: Context) -> Flow[StoreStats]:
    """The size of the whole store, by threads and channels; raises as `list_threads` does."""
    (everything,) = keys.thread_ranges("")
    found = yield from _threads([everything])
    channels: dict[str, ChannelStats] = {}
    inner = 0
    queries = [manifests_in(*everything)]
    while queries:
        docs, queries = yield from _page(queries)
        for doc in docs:
            if kind_of(doc) is not DocumentKind.CHECKPOINT:
                continue
            known = yield from _read_any(doc, context)
            _count(found, doc, known)
            inner += _manifest_bytes(doc)
            for value in _stored(known) if isinstance(known, Manifest) else ():
                sums = channels.setdefault(value.channel, ChannelStats(channel=value.channel))
                sums.values += 1
                sums.size += value.size
                sums.saved += value.full - value.stored
                inner += 0 if value.is_object else value.stored
                if value.kind == "full":
                    sums.full += value.stored
                else:
                    sums.incremental += value.stored
    pending, queries = 0, [replace(manifests_in(*everything), collection=keys.WRITES, mask=())]
    while queries:
        docs, queries = yield from _page(queries)
        pending += len(docs)
    sizes: list[int] = []
    name: str | None = None
    while blobs := (yield from list_page("", name)):
        sizes += [blob.size for blob in blobs]
        name = blobs[-1].name
    return StoreStats(
        threads=tuple(sorted(found.values(), key=lambda info: (-info.stored_bytes, info.segment))),
        channels=tuple(sorted(channels.values(), key=lambda sums: (-sums.full - sums.incremental, sums.channel))),
        checkpoints=sum(info.checkpoints for info in found.values()),
        document_bytes=inner,
        pending_writes=pending,
        objects=len(sizes),
        object_bytes=sum(sizes),
    )


def _threads(ranges: Iterable[tuple[str, str]]) -> Flow[dict[str, ThreadInfo]]:
    """Threads that have a document in some ranges of names, by segment."""
    queries = [
        QueryDocs(keys.THREADS, start=start, end=end, limit=DOCS_PER_PAGE, mask=("thread_id",)) for start, end in ranges
    ]
    found: dict[str, ThreadInfo] = {}
    while queries:
        docs, queries = yield from _page(queries)
        for doc in docs:
            segment = keys.thread_segment_of(doc.name)
            found[segment] = ThreadInfo(thread_id=thread_id_of(doc), segment=segment, active=doc.update_time / 1e9)
    return found


def _read(doc: Doc, context: Context) -> Flow[Manifest | DamagedError]:
    try:
        return (yield from read_manifest(doc, context.codec))
    except DamagedError as damage:
        return damage


def _read_any(doc: Doc, context: Context) -> Flow[Manifest | DamagedError | UnsupportedFormatError]:
    """Like `_read`, but a newer format is no error: it must not prevent the listing of other threads."""
    try:
        return (yield from _read(doc, context))
    except UnsupportedFormatError as newer:
        return newer


def _count(found: dict[str, ThreadInfo], doc: Doc, known: Manifest | DamagedError | UnsupportedFormatError) -> None:
    segment = keys.thread_segment_of(doc.name)
    info = found.get(segment) or ThreadInfo(thread_id=keys.thread_id_of(segment), segment=segment)
    info = replace(info, checkpoints=info.checkpoints + 1)
    if isinstance(known, DamagedError):
        found[segment] = replace(info, damaged=info.damaged + 1)
        return
    if isinstance(known, UnsupportedFormatError):
        found[segment] = replace(info, newer=info.newer + 1)
        return
    found[segment] = replace(
        info,
        thread_id=known.thread_id if info.thread_id is None else info.thread_id,
        stored_bytes=info.stored_bytes + _manifest_bytes(doc) + sum(value.stored for value in _stored(known)),
    )


def list_checkpoints(thread_id: str, loads: Loads, context: Context) -> Flow[list[CheckpointInfo]]:
    """All checkpoints of a thread in all namespaces, newest first. Damaged ones have a `damage`.

    Only damage that shows in manifests and in the names of objects and documents is found. Values are not read.

    Raises:
        WrongKeyError: Manifests are encrypted with another key, or the saver has none.
        UnsupportedFormatError: A newer version wrote some of it.
    """
    docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=_MASK)
    writes = yield from QueryDocs(keys.writes(thread_id), mask=(keys.INTERRUPT,))
    manifests: dict[str, Manifest | DamagedError] = {}
    for doc in docs:
        if kind_of(doc) is DocumentKind.CHECKPOINT:
            manifests[doc.name] = yield from _read(doc, context)
    # Objects are listed after the manifests, because they existed before the manifests that refer to them.
    blobs = yield from list_all(keys.thread_blobs(thread_id))
    pending: dict[tuple[str, str], list[Doc]] = {}
    for doc in writes:
        pending.setdefault((keys.writes_ns_of(doc.name), keys.writes_checkpoint_id_of(doc.name)), []).append(doc)
    whole = [known for known in manifests.values() if isinstance(known, Manifest)]
    parents, spaces = {(known.ns, known.parent_id) for known in whole}, {known.ns for known in whole}
    found = _Thread(thread_id, manifests, parents, spaces, {doc.name for doc in docs} | blobs.keys(), pending)
    size = 8 * sum(_manifest_bytes(doc) for doc in docs)
    listed = [doc for doc in docs if doc.name in manifests]
    return (yield from Compute(lambda: [found.info(doc, loads) for doc in listed], size=size))


@record(frozen=True, slots=True)
class _Thread:
    """What was read of a thread.

    Attributes:
        thread_id: The thread.
        manifests: Manifests by document name, or their damage.
        parents: Namespace and id of each checkpoint that has children.
        spaces: Namespaces that manifests name.
        there: Names of all objects and documents that may hold frames.
        writes: Documents of pending writes by encoded namespace and checkpoint. Only the field of interrupts is read.
    """

    thread_id: str
    manifests: Mapping[str, Manifest | DamagedError]
    parents: Collection[tuple[str, str | None]]
    spaces: Collection[str]
    there: Collection[str]
    writes: Mapping[tuple[str, str], Sequence[Doc]]

    def info(self, doc: Doc, loads: Loads) -> CheckpointInfo:
        checkpoint_id, segment = keys.checkpoint_id_of(doc.name), keys.ns_segment_of(doc.name)
        pin, run_id = doc.fields.get("pin"), doc.fields.get("run_id")
        known = self.manifests[doc.name]
        own = self.writes.get((segment, checkpoint_id), ())
        info = CheckpointInfo(
            thread_id=self.thread_id,
            checkpoint_ns=keys.told_id(segment, self.spaces),
            checkpoint_id=checkpoint_id,
            time=doc.create_time / 1e9,
            made=doc.create_time / 1e9,
            run_id=run_id if isinstance(run_id, str) else None,
            manifest_bytes=_manifest_bytes(doc),
            tasks=tuple(dict.fromkeys(keys.told_id(keys.writes_task_of(one.name)[0]) for one in own)),
            interrupts=sum(keys.INTERRUPT in one.fields for one in own),
            pin=pin if isinstance(pin, str) else None,
            holds=tuple(map(str, holds_of(doc))),
        )
        if isinstance(known, DamagedError):
            return replace(info, damage=known.reason)
        try:
            metadata = metadata_of(known, loads)
        except DamagedError as damage:
            return replace(info, damage=damage.reason)
        return replace(
            info,
            checkpoint_ns=known.ns,
            parent_id=known.parent_id,
            nodes=self._nodes(known),
            is_waiting=is_waiting(own) and (known.ns, known.checkpoint_id) not in self.parents,
            made=known.made or info.time,
            channels=len(known.channels),
            stored=tuple(_stored(known)),
            size=known.size,
            damage=self._damage(known),
            **made_by(metadata),
        )

    def _nodes(self, known: Manifest) -> tuple[str, ...]:
        """Nodes that have seen newer versions than at the parent. These have run."""
        before: Mapping[str, Any] = {}
        if known.parent_id is not None:
            parent = self.manifests.get(keys.checkpoint_doc(self.thread_id, known.ns, known.parent_id))
            if not isinstance(parent, Manifest):
                return ()  # Without the parent, the nodes of this step cannot be distinguished from earlier ones.
            before = parent.checkpoint.get("versions_seen", {})
        seen = known.checkpoint.get("versions_seen", {})
        return tuple(sorted(node for node in seen if not node.startswith("__") and seen[node] != before.get(node)))

    def _damage(self, known: Manifest) -> str | None:
        for channel in known.channels:
            for step in known.steps(channel):
                if step.name not in self.there:
                    return f"channel {channel!r}: the document or object that holds a frame of it is missing"
        return None


def find_checkpoint(thread_id: str, ns: str, made_by: float, context: Context) -> Flow[str | None]:
    """The id of the newest checkpoint of a namespace that was made at a given time or before; `None` without one.

    Manifests are read, beginning with the newest. For a damaged one, the time when it was stored counts.

    Raises:
        WrongKeyError: Manifests are encrypted with another key, or the saver has none.
        UnsupportedFormatError: A newer version wrote some of it.
    """
    where = (("ns", keys.enc(ns, "namespace")),)
    queries = [QueryDocs(keys.checkpoints(thread_id), where, limit=_NEAR, mask=_MASK)]
    while queries:
        docs, queries = yield from _page(queries)
        for doc in docs:
            if kind_of(doc) is not DocumentKind.CHECKPOINT or not keys.is_in_ns(doc.name, ns):
                continue
            known = yield from _read(doc, context)
            made = known.made if isinstance(known, Manifest) else None
            if (doc.create_time / 1e9 if made is None else made) <= made_by:
                return keys.checkpoint_id_of(doc.name)
    return None


def _manifest_bytes(doc: Doc) -> int:
    body = doc.fields.get("manifest")
    return len(body) if isinstance(body, bytes) else 0


def _stored(known: Manifest) -> Iterator[StoredValue]:
    """The values that the checkpoint stores a frame of its own for."""
    for channel, ref in known.channels.items():
        if not ref.chain or ref.chain[-1].owner is not None:
            continue
        first, last = ref.chain[0], ref.chain[-1]
        is_full = len(ref.chain) == 1
        base = first.size if first.size is not None else ref.size
        yield StoredValue(
            channel=channel,
            kind="full" if is_full else "incremental",
            size=ref.size,
            stored=last.stored,
            is_object=last.attempt is not None,
            full=last.stored if is_full else ref.size * first.stored // max(1, base),
        )
