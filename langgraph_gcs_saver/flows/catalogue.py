"""What a store holds, told from manifests and names alone: no payload is read, however large the states are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from langgraph_gcs_saver import keys
from langgraph_gcs_saver.effects import Compute, Doc, Flow, ListBlobs, QueryDocs
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.manifests import metadata_of, read_manifest
from langgraph_gcs_saver.manifest import DamagedError, Manifest
from langgraph_gcs_saver.records import record

PAGE = 300
"""Documents of checkpoints read at once, without their frames: about a KB each."""

_MASK = ("ns", "format", "manifest", "digest", "heir", "run_id", "pin", "objects")
_INTERRUPT = "w3"

FrameKind = Literal["full", "incremental"]


@record(frozen=True, slots=True, kw_only=True)
class StoredValue:
    """A value that a checkpoint stored: a channel's new one, not one that it took from its parent.

    Attributes:
        channel: The channel.
        kind: Whether its frame is a full one, or builds on an earlier version.
        size: Bytes of the serialised value.
        stored: Bytes of its frame.
        is_object: Whether the frame lies in Cloud Storage.
        full: Estimated bytes of a full frame in its place, by how well the base of its chain was compressed.
    """

    channel: str
    kind: FrameKind
    size: int
    stored: int
    is_object: bool
    full: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint, as far as it is known without its values.

    Attributes:
        thread_id: The thread.
        checkpoint_ns: The namespace.
        checkpoint_id: Its id.
        parent_id: The checkpoint that it continues.
        time: When it was stored, in seconds since the epoch, by the service's clock.
        step: LangGraph's number of the step, from -1; `None` if the metadata does not say.
        source: `input`, `loop`, `update` or `fork`.
        run_id: The run that wrote it.
        nodes: The nodes that ran to make it; none if its parent, by which that is told, is gone or cannot be read.
        channels: Number of channels with a value.
        stored: What it stored itself.
        manifest_bytes: Stored bytes of its manifest, if that lies in the document.
        size: Bytes of all its serialised values.
        tasks: Ids of tasks with pending writes.
        interrupts: Tasks that asked for an answer.
        is_waiting: Whether they wait for it still: nothing continues the checkpoint.
        pin: Its pin's label.
        damage: What is wrong with it, as far as manifests and names tell.
    """

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None = None
    time: float = 0.0
    step: int | None = None
    source: str = ""
    run_id: str | None = None
    nodes: tuple[str, ...] = ()
    channels: int = 0
    stored: tuple[StoredValue, ...] = ()
    manifest_bytes: int = 0
    size: int = 0
    tasks: tuple[str, ...] = ()
    interrupts: int = 0
    is_waiting: bool = False
    pin: str | None = None
    damage: str | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes that it stored: frames and manifest."""
        return self.manifest_bytes + sum(value.stored for value in self.stored)


@record(frozen=True, slots=True, kw_only=True)
class ThreadInfo:
    """A thread.

    Attributes:
        thread_id: Its id; `None` when that is too long for a name, and nothing readable tells it.
        segment: Its name in the store.
        active: When it was written to last, in seconds since the epoch; `None` without a document of its own.
        checkpoints: Number of its checkpoints, of all namespaces.
        stored_bytes: Bytes of their frames and manifests.
        damaged: Checkpoints whose manifest cannot be read.
    """

    thread_id: str | None
    segment: str
    active: float | None = None
    checkpoints: int = 0
    stored_bytes: int = 0
    damaged: int = 0


@dataclass(slots=True, kw_only=True)
class ChannelStats:
    """What the values of one channel take, over some threads.

    Attributes:
        channel: The channel.
        values: Number of stored values.
        size: Bytes of the serialised values.
        full: Stored bytes of full frames.
        incremental: Stored bytes of incremental frames.
        saved: Estimated bytes that full frames would take more.
    """

    channel: str
    values: int = 0
    size: int = 0
    full: int = 0
    incremental: int = 0
    saved: int = 0


@record(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What a store takes.

    Attributes:
        threads: All threads, the largest first.
        channels: All channels by name, over all threads, the largest first.
        checkpoints: Number of checkpoints.
        document_bytes: Bytes of frames and manifests in documents.
        pending_writes: Number of documents of pending writes; their bytes are not counted.
        objects: Number of objects.
        object_bytes: Their stored bytes, whatever they hold, what nothing refers to included.
    """

    threads: tuple[ThreadInfo, ...]
    channels: tuple[ChannelStats, ...]
    checkpoints: int
    document_bytes: int
    pending_writes: int
    objects: int
    object_bytes: int


def list_threads(context: Context) -> Flow[list[ThreadInfo]]:
    """All threads of the store, the most recently used first.

    Raises:
        WrongKeyError: Manifests are encrypted, with another key or while the saver has none.
        UnsupportedFormatError: A newer version wrote some of it.
    """
    found = yield from _threads()
    yield from _scan(partial(_count, found), context)
    return sorted(found.values(), key=lambda info: (-(info.active or 0.0), info.segment))


def store_stats(context: Context) -> Flow[StoreStats]:
    """What the whole store takes; raises as `list_threads` does."""
    found = yield from _threads()
    channels: dict[str, ChannelStats] = {}
    inner = 0

    def visit(doc: Doc, known: Manifest | DamagedError) -> None:
        nonlocal inner
        _count(found, doc, known)
        inner += _manifest_bytes(doc)
        for value in () if isinstance(known, DamagedError) else _stored(known):
            sums = channels.setdefault(value.channel, ChannelStats(channel=value.channel))
            sums.values += 1
            sums.size += value.size
            sums.saved += value.full - value.stored
            inner += 0 if value.is_object else value.stored
            if value.kind == "full":
                sums.full += value.stored
            else:
                sums.incremental += value.stored

    yield from _scan(visit, context)
    start, end = keys.all_threads_range("")
    pending, after = 0, None
    while docs := (
        yield from QueryDocs(keys.WRITES, start=start, end=end, after=after, limit=PAGE, mask=(), group=True)
    ):
        pending, after = pending + len(docs), docs[-1].name
    sizes: list[int] = []
    name: str | None = None
    while blobs := (yield from ListBlobs("", name)):
        sizes += [blob.size for blob in blobs if keys.is_thread_blob(blob.name)]
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


def _threads() -> Flow[dict[str, ThreadInfo]]:
    """Threads that have a document, by segment."""
    start, end = keys.all_threads_range("")
    found: dict[str, ThreadInfo] = {}
    after: str | None = None
    while docs := (
        yield from QueryDocs(keys.THREADS, start=start, end=end, after=after, limit=PAGE, mask=("thread_id",))
    ):
        for doc in docs:
            segment, told = keys.thread_segment_of(doc.name), doc.fields.get("thread_id")
            own = told if isinstance(told, str) and keys.thread_doc(told) == doc.name else keys.thread_id_of(segment)
            found[segment] = ThreadInfo(thread_id=own, segment=segment, active=doc.update_time / 1e9)
        after = docs[-1].name
    return found


def _scan(visit: Callable[[Doc, Manifest | DamagedError], None], context: Context) -> Flow[None]:
    """Visit the manifests of all checkpoints of the store."""
    start, end = keys.all_threads_range("")
    after: str | None = None
    while docs := (
        yield from QueryDocs(keys.CHECKPOINTS, start=start, end=end, after=after, limit=PAGE, mask=_MASK, group=True)
    ):
        for doc in docs:
            if not _is_stripped(doc):
                visit(doc, (yield from _read(doc, context)))
        after = docs[-1].name


def _read(doc: Doc, context: Context) -> Flow[Manifest | DamagedError]:
    try:
        return (yield from read_manifest(doc, context.codec))
    except DamagedError as damage:
        return damage


def _count(found: dict[str, ThreadInfo], doc: Doc, known: Manifest | DamagedError) -> None:
    segment = keys.thread_segment_of(doc.name)
    info = found.get(segment) or ThreadInfo(thread_id=keys.thread_id_of(segment), segment=segment)
    info = replace(info, checkpoints=info.checkpoints + 1)
    if isinstance(known, DamagedError):
        found[segment] = replace(info, damaged=info.damaged + 1)
        return
    found[segment] = replace(
        info,
        thread_id=known.thread_id if info.thread_id is None else info.thread_id,
        stored_bytes=info.stored_bytes + _manifest_bytes(doc) + sum(value.stored for value in _stored(known)),
    )


def list_checkpoints(thread_id: str, loads: Loads, context: Context) -> Flow[list[CheckpointInfo]]:
    """All checkpoints of a thread, newest first, those of all namespaces; damaged ones say so.

    Damage is what manifests, names of objects and documents show; values are not read.

    Raises:
        WrongKeyError: Manifests are encrypted, with another key or while the saver has none.
        UnsupportedFormatError: A newer version wrote some of it.
    """
    docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=_MASK)
    writes = yield from QueryDocs(keys.writes(thread_id), mask=(_INTERRUPT,))
    manifests: dict[str, Manifest | DamagedError] = {}
    for doc in docs:
        if not _is_stripped(doc):
            manifests[doc.name] = yield from _read(doc, context)
    # After the manifests: what they refer to was there before them.
    blobs: set[str] = set()
    after: str | None = None
    while page := (yield from ListBlobs(keys.thread_blobs(thread_id), after)):
        blobs.update(blob.name for blob in page)
        after = page[-1].name
    pending: dict[tuple[str, str], list[Doc]] = {}
    for doc in writes:
        pending.setdefault((keys.writes_ns_of(doc.name), keys.writes_checkpoint_id_of(doc.name)), []).append(doc)
    parents = {(known.ns, known.parent_id) for known in manifests.values() if isinstance(known, Manifest)}
    found = _Thread(thread_id, manifests, parents, {doc.name for doc in docs} | blobs, pending)
    size = 8 * sum(_manifest_bytes(doc) for doc in docs)
    listed = [doc for doc in docs if doc.name in manifests]
    return (yield from Compute(lambda: [found.info(doc, loads) for doc in listed], size=size))


@record(frozen=True, slots=True)
class _Thread:
    """What was read of a thread.

    Attributes:
        thread_id: The thread.
        manifests: Manifests by document name, or what is wrong with them.
        parents: Namespace and id of checkpoints that others continue.
        there: Names of all objects and documents that may hold frames.
        writes: Documents of pending writes by encoded namespace and checkpoint; all they have is what interrupts.
    """

    thread_id: str
    manifests: Mapping[str, Manifest | DamagedError]
    parents: Collection[tuple[str, str | None]]
    there: Collection[str]
    writes: Mapping[tuple[str, str], Sequence[Doc]]

    def info(self, doc: Doc, loads: Loads) -> CheckpointInfo:
        checkpoint_id, segment = keys.checkpoint_id_of(doc.name), keys.ns_segment_of(doc.name)
        pin, run_id = doc.fields.get("pin"), doc.fields.get("run_id")
        known = self.manifests[doc.name]
        own = self.writes.get((segment, checkpoint_id), ())
        info = CheckpointInfo(
            thread_id=self.thread_id,
            checkpoint_ns=keys.dec(segment) or "",
            checkpoint_id=checkpoint_id,
            time=doc.create_time / 1e9,
            run_id=run_id if isinstance(run_id, str) else None,
            manifest_bytes=_manifest_bytes(doc),
            tasks=tuple(dict.fromkeys(keys.writes_task_id_of(one.name) or "" for one in own)),
            interrupts=sum(_INTERRUPT in one.fields for one in own),
            pin=pin if isinstance(pin, str) else None,
        )
        if isinstance(known, DamagedError):
            return replace(info, damage=known.reason)
        metadata = metadata_of(known, loads)
        step = metadata.get("step")
        return replace(
            info,
            checkpoint_ns=known.ns,
            parent_id=known.parent_id,
            step=step if isinstance(step, int) else None,
            source=str(metadata.get("source", "")),
            nodes=self._nodes(known),
            is_waiting=info.interrupts > 0 and (known.ns, known.checkpoint_id) not in self.parents,
            channels=len(known.channels),
            stored=tuple(_stored(known)),
            size=known.size,
            damage=self._damage(known),
        )

    def _nodes(self, known: Manifest) -> tuple[str, ...]:
        """Nodes that have seen newer versions than at the parent: these have run."""
        before: Mapping[str, Any] = {}
        if known.parent_id is not None:
            parent = self.manifests.get(keys.checkpoint_doc(self.thread_id, known.ns, known.parent_id))
            if not isinstance(parent, Manifest):
                return ()  # Of all that have seen something, nobody can tell those of this step.
            before = parent.checkpoint.get("versions_seen", {})
        seen = known.checkpoint.get("versions_seen", {})
        return tuple(sorted(node for node in seen if not node.startswith("__") and seen[node] != before.get(node)))

    def _damage(self, known: Manifest) -> str | None:
        for channel in known.channels:
            for step in known.steps(channel):
                if step.name not in self.there:
                    return f"channel {channel!r}: what holds a frame of it is gone"
        return None


def _is_stripped(doc: Doc) -> bool:
    return doc.fields.keys().isdisjoint(("ns", "format", "manifest"))


def _manifest_bytes(doc: Doc) -> int:
    body = doc.fields.get("manifest")
    return len(body) if isinstance(body, bytes) else 0


def _stored(known: Manifest) -> Iterator[StoredValue]:
    """The values whose own frame the checkpoint holds."""
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
