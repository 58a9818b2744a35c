"""Writes a checkpoint: frames first, then one commit that makes it visible."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    Doc,
    Docs,
    Durable,
    Emit,
    Flow,
    Gather,
    GetDocs,
    Merge,
    PutBlob,
    Write,
)
from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.events import (
    CheckpointOutOfOrder,
    CheckpointReplaced,
    ParentForked,
)
from langgraph_gcs_saver.flows import dictionaries
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.companions import Companion
from langgraph_gcs_saver.flows.context import MAX_TRIES, Content, Context, Head
from langgraph_gcs_saver.flows.fences import Fence, fence_of
from langgraph_gcs_saver.flows.leases import overtaken, respect
from langgraph_gcs_saver.flows.manifests import encode_manifest, read_manifest, unreadable
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.readback import discard, mismatched, read_back, upload_in_time
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.stored import Stored
from langgraph_gcs_saver.flows.threads import NOTE_SECONDS, Guard, guard, note_run, note_thread
from langgraph_gcs_saver.format import chains, filters, keys, large, manifest
from langgraph_gcs_saver.format.chains import Earlier, Encoded
from langgraph_gcs_saver.format.holds import HOLDS
from langgraph_gcs_saver.format.manifest import ChannelRef, DamagedError, FrameRef, Manifest, Serialized
from langgraph_gcs_saver.records import record

_FORKS = 2
"""After losing so many races for a parent's document, a put encodes in full.

Otherwise a hundred forks would queue up for that document.
"""

_UNKNOWN_SIZE = 1 << 62


@record(frozen=True, slots=True)
class Put:
    """What to store.

    Attributes:
        thread_id: The thread.
        ns: The namespace.
        checkpoint_id: The checkpoint.
        parent_id: The checkpoint that it continues, if any.
        checkpoint: Its plain fields, without `id` and `channel_values`.
        rest: Its other fields, serialized.
        metadata: Its metadata, serialized.
        run_id: The run that writes it.
        index: The metadata that queries can filter by.
        versions: The version of each channel.
        fresh: Channels that have a new version. Their values were serialized when the call was made.
        values: Returns each available channel's value, serialized. It is called for other channels only when needed.
        now: The wall clock, in seconds since the epoch.
        history: DeltaChannels whose value is made of their ancestors' writes.
        fence: The lease under which the call is made, if any.
        companions: What else rides in the commit of this call.
        beside: Documents to read beside the put's own reads, or at the time of its commit.
    """

    thread_id: str
    ns: str
    checkpoint_id: str
    parent_id: str | None
    checkpoint: Mapping[str, Any]
    rest: Serialized | None
    metadata: Serialized
    run_id: str | None
    index: Mapping[str, Any]
    versions: Mapping[str, str | int | float]
    fresh: frozenset[str]
    values: Mapping[str, Callable[[], Serialized]]
    now: float
    history: frozenset[str] = frozenset()
    fence: Fence | None = None
    companions: tuple[Companion, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the checkpoint's document."""
        return keys.checkpoint_doc(self.thread_id, self.ns, self.checkpoint_id)

    @property
    def parent(self) -> str | None:
        """The name of the document to inherit from; `None` for a checkpoint that names itself as its parent."""
        if self.parent_id is None or self.parent_id == self.checkpoint_id:
            return None
        return keys.checkpoint_doc(self.thread_id, self.ns, self.parent_id)

    def is_out_of_order(self) -> bool:
        """Whether the id sorts before the parent's id, as it does after a clock was set back."""
        return self.parent_id is not None and self.checkpoint_id < self.parent_id

    def blob(self, what: str, attempt: str) -> str:
        """The name of an object of this checkpoint."""
        return keys.blob(self.thread_id, self.ns, self.checkpoint_id, what, attempt)

    def ids(self) -> dict[str, str]:
        """The ids that events of this put have."""
        return {"thread_id": self.thread_id, "checkpoint_ns": self.ns, "checkpoint_id": self.checkpoint_id}


@dataclass(slots=True)
class _Layout:
    """What one attempt stores and where.

    Attributes:
        channels: The refs of all channels.
        inner: The frames in the document.
        uploads: The objects.
        pieces: Those of the objects that are made while they are uploaded, by channel.
        body: The manifest's bytes.
        fields: All fields of the document.
    """

    channels: dict[str, ChannelRef]
    inner: bytes
    uploads: list[PutBlob] = field(default_factory=list)
    pieces: dict[str, PutBlob] = field(default_factory=dict)
    body: bytes = b""
    fields: Mapping[str, Any] = field(default_factory=dict)


_HINTS = frozenset({"fence", "filter", "run_id", "former_runs"})
"""Fields of a checkpoint's document that others may change without changing its content."""


def _is_whole(found: Doc, layout: _Layout, update_time: int, wrong: Sequence[str]) -> bool:
    """Whether a document that this call committed at `update_time` reads back as it was written, with its objects.

    `wrong` names the objects that do not. They do not matter once the document has other content.
    """
    changed = {key for key, value in layout.fields.items() if found.fields.get(key) != value}
    if found.update_time == update_time:
        return not changed and not wrong
    if "manifest" not in changed:
        return changed <= _HINTS and not wrong
    # Another writer has stripped or replaced the content since, so it was stored. Is the new content whole?
    if manifest.kind_of(found) is manifest.DocumentKind.STRIPPED:
        return True
    try:
        manifest.encoded_of(found)
    except DamagedError:
        return False
    return True


def put(request: Put, context: Context) -> Flow[Stored]:
    """Store a checkpoint; it is durable and visible when this returns.

    Raises:
        CheckpointVerificationError: Written data reads back differently, several times in a row.
        ConflictError: Other writers won every race, or the parent was deleted with values that only it had.
        GCSSaverError: A companion raised it.
        SerializationError: A value that is not fresh was needed and cannot be serialized.
        ThreadBusyError: The call has no lease, and a process holds the thread's, or has acquired it meanwhile.
        ValueTooLargeError: The values together, or the checkpoint's other content, are larger than a read allows.
    """
    if request.is_out_of_order():
        yield from Emit(CheckpointOutOfOrder(**request.ids(), parent_id=str(request.parent_id)))
    yield from dictionaries.prepare(context.codec)
    return (yield from _Attempts(request, context.within(request.ns)).flow())


class _Attempts:
    """The tries of one put, and what each try learns for the next.

    Attributes:
        head: The parent as last seen, while the manifest inherits from it.
        own: The checkpoint's own document, if it exists already with other content.
        encoded: Values encoded so far. They stay valid while the parent has the frames that they build on.
        inherited: Refs taken from the parent in this try.
        heir: The heir that this try writes to the parent.
        forks: The number of races for the parent's document lost so far.
        seen: The parent as last seen, whether or not the manifest inherits from it.
        sibling: The parent's other child that was reported.
        mismatches: How often something did not read back as it was written.
        misread: What the proof of this try found not to, if anything: the document or an object.
        is_new: Whether the thread may not exist yet, as far as this process knows.
        companions: What rides in the commit.
        beside: The documents of `Put.beside`, as last seen.
    """

    def __init__(self, request: Put, context: Context) -> None:
        self.request = request
        self.context = context
        self.head: Head | None = None
        self.own: Doc | None = None
        self.encoded: dict[str, Encoded] = {}
        self.inherited: dict[str, ChannelRef] = {}
        self.heir = ""
        self.forks = 0
        self.seen: Head | None = None
        self.sibling: str | None = None
        self.mismatches = 0
        self.misread: str | None = None
        self.beside: Docs | None = None
        thread = keys.thread_doc(request.thread_id)
        is_noted = context.noted.get(thread) is not None or context.noted.get(f"{thread}!") is not None
        # An acquisition has made the thread's document.
        self.is_new = request.fence is None and not is_noted
        self.companions = context.companions_of(
            "put", request.thread_id, request.ns, request.checkpoint_id, fence=request.fence, own=request.companions
        )

    def flow(self) -> Flow[Stored]:
        request = self.request
        yield from self._find_head()
        for number in range(1, MAX_TRIES + 1):
            self.misread = None
            self._inherit()
            yield from self._encode()
            layout = self._lay_out()
            plan = self._manifest(layout)
            self.context.codec.refuse_large_state(plan.size, plan.values)
            if not layout.pieces:
                yield from self._write_body(plan, layout)
            thread = yield from self._guard(layout)
            checks = yield from self._respect_lease(thread)
            beside = (*checks, *(yield from self.companions.writes()))
            times: tuple[int, ...] | None = None
            is_uploaded = yield from upload_in_time(layout.uploads)
            if is_uploaded and layout.pieces:
                plan, is_uploaded = yield from self._describe(layout)
            if is_uploaded:
                writes = self._writes(plan, layout, thread)
                times = yield from self._commit((*writes, *beside))
            if times is not None:
                yield from self._let_trail(number, plan, layout, times[0])
            if times is not None and (yield from self._prove(layout, times, thread)):
                self._remember(plan, layout, writes, times)
                yield from self._report_fork()
                if self.own is None:
                    yield from self._report_second_root(thread)
                return self._stored(number, plan, layout, times[0])
            if (yield from self._look_again(plan, layout, thread)):
                return Stored(number, is_new=False, channels=plan.channels, beside=self.beside)
        raise ConflictError(
            f"Checkpoint {request.checkpoint_id!r} of thread {request.thread_id!r}, namespace {request.ns!r} was not "
            f"stored: other writers changed its document, its parent's, its thread's or another document that its "
            f"commit depends on {MAX_TRIES} times in a row. Call again."
        )

    def _stored(self, number: int, plan: Manifest, layout: _Layout, time: int) -> Stored:
        """What a commit of this call has stored at `time`."""
        return Stored(
            number,
            is_new=True,
            channels=plan.channels,
            inline_bytes=len(layout.inner),
            uploads=layout.uploads,
            time=time,
            digest=layout.fields["digest"],
            beside=self.beside,
        )

    def _let_trail(self, number: int, plan: Manifest, layout: _Layout, time: int) -> Flow[None]:
        """Let the caller continue, if the proof may trail. A member of a team needs a proven checkpoint to vote for."""
        if not self.context.trails or self.request.beside:
            return
        # From here on, the caller may change the state. So what is not serialized must not be needed any more.
        ready = {channel: partial(Serialized, found.type, found.value.data) for channel, found in self.encoded.items()}
        self.request = replace(self.request, values=ready)
        kept = [one for found in self.encoded.values() for one in (found.value.data, found.frame)]
        stored = self._stored(number, plan, layout, time)
        yield from Durable(stored, sum([len(one) for one in kept if isinstance(one, bytes)]))

    # What the checkpoint inherits

    def _guard(self, layout: _Layout) -> Flow[Guard | None]:
        """The guard that keeps a deletion of the thread and this attempt apart; `None` if the parent does so."""
        if self.head is not None:
            return None
        if self.is_new and not layout.uploads:
            # The first step of a thread takes one round: its commit requires a new thread. If it fails, the next try
            # reads the thread's document.
            self.is_new = False
            return Guard(keys.thread_doc(self.request.thread_id), None, is_bare=True)
        found = yield from guard(
            self.request.thread_id, self.context, beside=self.companions.names, fence=self.request.fence
        )
        self.companions.take(found.beside)
        return found

    def _respect_lease(self, thread: Guard | None) -> Flow[tuple[Write, ...]]:
        """Without a lease, make sure that no process holds one, if a document of this commit names an acquisition.

        Returns:
            The check that fails once a process acquires the lease. An acquisition changes only the newest checkpoints,
            so it would not be noticed by a commit that changes others.

        Raises:
            ThreadBusyError: A process holds the lease.
        """
        if self.request.fence is None and (
            (self.head is not None and self.head.fence is not None)
            or (thread is not None and thread.fence is not None)
            or (self.own is not None and fence_of(self.own) is not None)
        ):
            return (yield from respect(self.request.thread_id, self.context))
        return ()

    def _find_head(self) -> Flow[None]:
        request = self.request
        if request.parent is None:
            return
        self.head = self.context.heads.get(request.parent)
        if self.head is None and (request.history or not request.versions.keys() <= request.fresh):
            docs = yield from GetDocs((request.parent, *self.companions.names))
            self.companions.take(docs)
            self.head = yield from self._head_of(docs.get(request.parent))

    def _head_of(self, doc: Doc | None) -> Flow[Head | None]:
        """The head of the parent's document; `None` if nothing can be inherited from it."""
        request = self.request
        if doc is None or manifest.kind_of(doc) is manifest.DocumentKind.STRIPPED:
            return None
        try:
            head = Head.of((yield from read_manifest(doc, self.context.codec)), doc)
        except DamagedError as damage:
            if not request.history and request.versions.keys() <= request.fresh | request.values.keys():
                return None
            # A channel may have its only value there. It must not vanish silently.
            yield from recheck(self.context, is_missing=damage.missing)
            raise unreadable(damage, request.thread_id, request.ns, str(request.parent_id)) from None
        self.context.remember(head)
        return head

    def _inherit(self) -> None:
        """Take the parent's refs of all channels that are not fresh and have the parent's version."""
        request, found = self.request, dict[str, ChannelRef]()
        if self.head is not None:
            self.seen = self.head
            parent = self.head.manifest
            for channel, version in request.versions.items():
                ref = parent.channels.get(channel)
                same = ref is not None and ref.version == version and type(ref.version) is type(version)
                if ref is not None and same and channel not in request.fresh:
                    found[channel] = ref.inherited(parent.checkpoint_id)
        gone = sorted(self.inherited.keys() - found.keys() - request.values.keys())
        if gone:
            raise ConflictError(
                f"Checkpoint {request.checkpoint_id!r} of thread {request.thread_id!r}, namespace {request.ns!r} was "
                f"not stored: its parent {request.parent_id!r} was deleted or replaced, and only the parent had the "
                f"values of {gone}."
            )
        if request.history and request.parent is not None and self.head is None:
            raise ConflictError(
                f"Checkpoint {request.checkpoint_id!r} of thread {request.thread_id!r}, namespace {request.ns!r} was "
                f"not stored: its parent {request.parent_id!r} is missing, and the values of its DeltaChannels "
                f"{sorted(request.history)} are made of the writes of its ancestors."
            )
        # A deletion goes from greater ids to smaller ones. If the two are out of order, it deletes the parent first.
        is_alone = request.is_out_of_order() or (self.forks >= _FORKS and not request.history)
        if is_alone and found.keys() <= request.values.keys():
            self.head, found = (self.head.bare() if self.head is not None and request.history else None), {}
        # Values inherited from a checkpoint in clear would stay in clear for the whole life of the thread.
        is_first = self.context.codec.cipher is not None and self.head is not None and self.head.is_clear
        if is_first and self.head is not None and found.keys() <= request.values.keys():
            self.head, found = self.head.bare(), {}
        self.inherited = found

    # Frames

    def _encode(self) -> Flow[None]:
        """Encode the values that are not inherited, on top of the parent's frames."""
        request = self.request
        missing = [c for c in request.values if c not in self.inherited and not self._is_encoded(c)]
        if not missing:
            return
        if request.fresh.issuperset(missing):
            size = sum(len(request.values[channel]().data) for channel in missing)
        else:
            size = _UNKNOWN_SIZE  # Some are serialized only now, which belongs off the event loop.
        earlier = {channel: self._earlier(channel) for channel in missing}
        self.encoded.update((yield from Compute(partial(self._encode_now, earlier), size=size)))

    def _is_encoded(self, channel: str) -> bool:
        """Whether an earlier try encoded the value, on frames that the parent still refers to."""
        known = self.encoded.get(channel)
        if known is None or not known.links:
            return known is not None
        earlier = self._earlier(channel)
        return earlier is not None and known.links == earlier.links[: len(known.links)]

    def _earlier(self, channel: str) -> Earlier | None:
        if self.head is None or not self.context.incremental:
            return None
        parent = self.head.manifest
        ref = parent.channels.get(channel)
        if ref is None or not ref.chain:
            return None
        links = ref.links(parent.checkpoint_id)
        # The base comes last and so is the most recently used value: the next version can always build on it.
        found = [
            self.context.value(parent.place(channel, link), link.at, str(link.digest), link.size or 0)
            for link in reversed(links)
        ]
        return Earlier(ref, links, found[::-1])

    def _encode_now(self, earlier: Mapping[str, Earlier | None]) -> dict[str, Encoded]:
        context = self.context
        full = partial(
            large.encode,
            codec=context.codec,
            most=context.inline_max_bytes,
            hashed=context.reads_back,
            trained=True,
        )
        return {
            channel: chains.encode(
                self.request.values[channel](), before, context.codec, context.full_every, self.request.now, full=full
            )
            for channel, before in earlier.items()
        }

    def _lay_out(self) -> _Layout:
        """Give every frame its place: this document, an object of its own, or an object shared by small frames."""
        # Frames from earlier content of this document keep their places, because children may build on them.
        layout = _Layout(dict(self.inherited), self._own_frames())
        attempt = self.context.new_attempt()
        small: list[tuple[str, bytes]] = []
        for channel in self.request.values:
            if channel in self.inherited:
                continue
            value = self.encoded[channel]
            equal = self._equal(channel, value)
            if not value.frame or equal is not None:
                layout.channels[channel] = equal or self._ref(channel, value, None)
            elif isinstance(value.frame, bytes) and len(value.frame) <= self.context.inline_max_bytes:
                small.append((channel, value.frame))
            else:
                upload = self.context.upload(self.request.blob(keys.enc(channel, "channel"), attempt), value.frame)
                layout.uploads.append(upload)
                if isinstance(value.frame, Pieces):
                    layout.pieces[channel] = upload
                self._place(layout, channel, upload, attempt)
        packed = len(layout.inner) + sum(len(frame) for _, frame in small) > manifest.INNER_BYTES
        frames = [] if packed else [layout.inner]
        at = sum(map(len, frames))
        for channel, frame in small:
            value = self.encoded[channel]
            place = FrameRef(
                value.k,
                len(frame),
                at=at,
                attempt=attempt if packed else None,
                packed=packed,
                format=value.format,
            )
            layout.channels[channel] = self._ref(channel, value, place)
            frames.append(frame)
            at += len(frame)
        if not packed:
            layout.inner = b"".join(frames)
        elif frames:
            shared = large.joined(frames, hashed=self.context.reads_back)
            layout.uploads.append(self.context.upload(self.request.blob(keys.FRAMES, attempt), shared))
        return layout

    def _place(self, layout: _Layout, channel: str, upload: PutBlob, attempt: str) -> None:
        """Refer to an object of a channel's own. The size and checksum of pieces are known once they are uploaded."""
        value = self.encoded[channel]
        place = FrameRef(value.k, upload.size, attempt=attempt, crc32c=upload.crc32c(), format=value.format)
        layout.channels[channel] = self._ref(channel, value, place)

    def _own_frames(self) -> bytes:
        return b"" if self.own is None else manifest.inner_frames(self.own)

    def _ref(self, channel: str, value: Encoded, place: FrameRef | None) -> ChannelRef:
        return ChannelRef(
            version=self.request.versions.get(channel),
            type=value.type,
            sha256=value.value.digest,
            size=len(value.value.data),
            chain=() if place is None else (*value.links, place),
            blobs=value.blobs,
        )

    def _equal(self, channel: str, value: Encoded) -> ChannelRef | None:
        """The parent's ref under the new version, if the value is the same, so that nothing is written for it.

        Without compression, sizes must reveal nothing about values, not even that two are equal.
        """
        if self.head is None or self.context.codec.level is None:
            return None
        parent = self.head.manifest
        before = parent.channels.get(channel)
        new = value.type, value.value.digest, len(value.value.data)
        if before is None or (before.type, before.sha256, before.size) != new:
            return None
        return replace(before.inherited(parent.checkpoint_id), version=self.request.versions.get(channel))

    # The commit

    def _manifest(self, layout: _Layout) -> Manifest:
        request = self.request
        return Manifest(
            thread_id=request.thread_id,
            ns=request.ns,
            checkpoint_id=request.checkpoint_id,
            parent_id=request.parent_id,
            checkpoint=request.checkpoint,
            rest=request.rest,
            metadata=request.metadata,
            channels=layout.channels,
            dictionaries=self._dictionaries(layout),
        )

    def _dictionaries(self, layout: _Layout) -> tuple[str, ...]:
        """The dictionary of this call's frames, and with any frame of an ancestor also those that the parent needs."""
        own = self.context.codec.writing
        found = set() if own is None else {own.id}
        if self.head is not None and any(one.owner for ref in layout.channels.values() for one in ref.chain):
            found.update(self.head.manifest.dictionaries)
        return tuple(sorted(found))

    def _write_body(self, plan: Manifest, layout: _Layout) -> Flow[None]:
        """Make the manifest's bytes for the document. A manifest that is too large is uploaded and leaves a stub."""
        room = manifest.PAYLOAD_BYTES - len(layout.inner) - filters.size(self.request.index)
        encode = partial(encode_manifest, plan, room, self.context)
        layout.body, blob = yield from Compute(encode, size=500 * len(layout.channels))
        if blob is not None:
            layout.uploads.append(blob)

    def _describe(self, layout: _Layout) -> Flow[tuple[Manifest, bool]]:
        """Make the manifest of an attempt with pieces, whose sizes are known now that they are uploaded.

        Returns:
            The manifest, and whether it was uploaded in time, if it does not fit into the document.
        """
        for channel, upload in layout.pieces.items():
            self._place(layout, channel, upload, str(layout.channels[channel].chain[-1].attempt))
        plan, others = self._manifest(layout), len(layout.uploads)
        yield from self._write_body(plan, layout)
        return plan, (yield from upload_in_time(layout.uploads[others:]))

    def _writes(self, plan: Manifest, layout: _Layout, thread: Guard | None) -> tuple[Write, ...]:
        request = self.request
        fields = manifest.to_fields(plan, layout.body, layout.inner, run_id=request.run_id, index=request.index)
        if request.fence is not None:
            fields.update(request.fence.mark)
        writes: list[Write] = []
        if self.own is None:
            writes.append(Create(request.name, fields))
        else:
            former = manifest.runs_of(self.own) - {request.run_id}
            if former:
                fields["former_runs"] = json.dumps(sorted(former))
            stale = tuple(sorted({"frames", "filter", "run_id", "objects"} - fields.keys()))
            writes.append(Merge(request.name, fields, remove=stale, update_time=self.own.update_time))
        layout.fields = fields
        if self.head is not None:
            self.heir = manifest.heir_field(request.checkpoint_id, self.context.new_attempt())
            writes.append(Merge(self.head.manifest.name, {"heir": self.heir}, update_time=self.head.update_time))
        note = note_thread(request.thread_id, request.now, has_root=not request.ns)
        if thread is not None:
            # It usually changes nothing, because parallel namespaces must not compete for the thread's document.
            is_due = thread.is_bare or self._note_is_due() or not (request.ns or thread.has_root)
            writes.append(thread.write(note if is_due else {}))
        elif self._note_is_due():
            writes.append(Merge(keys.thread_doc(request.thread_id), note))
        # Removing the last checkpoint of a run also removes the run's document, unless that has changed. If the commit
        # requires an unchanged parent of the same run, the run's document still exists.
        if request.run_id is not None and (self.head is None or self.head.run_id != request.run_id):
            writes.append(note_run(request.run_id, request.thread_id, self.context))
        return tuple(writes)

    def _commit(self, writes: tuple[Write, ...]) -> Flow[tuple[int, ...] | None]:
        """Commit. What the request reads beside it joins the read that follows, or is read at the same time."""
        if not self.request.beside or self.context.reads_back:
            return (yield from Commit(writes))
        times: tuple[int, ...] | None
        times, self.beside = yield from Gather((Commit(writes), GetDocs(self.request.beside)))
        return times

    @property
    def _note(self) -> str:
        """The key that a note is remembered by. A note of the root namespace says more than one of another."""
        thread = keys.thread_doc(self.request.thread_id)
        return f"{thread}!" if self.request.ns else thread

    def _note_is_due(self) -> bool:
        noted = self.context.noted.get(self._note)
        return noted is None or not 0 <= self.request.now - noted < NOTE_SECONDS

    def _remember(self, plan: Manifest, layout: _Layout, writes: tuple[Write, ...], times: tuple[int, ...]) -> None:
        """Keep what the commit showed, so that the next put needs no read."""
        request, noted = self.request, self.context.noted
        self.context.remember(
            Head(
                plan.outline(),
                Content.of(plan, layout.fields["digest"]),
                times[0],
                None,
                request.run_id,
                fence=None if request.fence is None else request.fence.nonce,
            )
        )
        self.context.expect(request.thread_id, request.ns, request.name)
        if self.head is not None and self.head.is_bare:
            self.context.heads.drop(self.head.manifest.name)
        elif self.head is not None:
            self.context.remember(replace(self.head, update_time=times[1], heir=request.checkpoint_id))
        for channel, ref in plan.channels.items():
            if channel not in self.inherited and ref.chain:
                if len(ref.chain) == 1:
                    self._forget(channel)
                last = ref.chain[-1]
                self.context.keep(plan.place(channel, last), last.at, self.encoded[channel].value)
        if self._note_is_due():
            noted.put(self._note, request.now, len(self._note))
            name = keys.thread_doc(request.thread_id)
            for write, time in zip(writes, times, strict=False):
                if write.name == name:
                    self.context.guards.put(name, time, len(name))  # Operations begin without a read of it.

    def _forget(self, channel: str) -> None:
        """Free the memory of a chain that a new base has ended."""
        if self.head is not None:
            parent = self.head.manifest
            ref = parent.channels.get(channel)
            for link in ref.links(parent.checkpoint_id) if ref is not None and ref.chain else ():
                self.context.values.drop((parent.place(channel, link), link.at))

    # Reading back

    def _prove(self, layout: _Layout, times: tuple[int, ...], thread: Guard | None) -> Flow[bool]:
        """Whether the document and its objects read back as they were written. If they do not, they are withdrawn.

        Everything that `put` reads back is read here, in one round after the commit. An object was uploaded with its
        checksum, so the service has confirmed it before the document named it. A document that has changed since the
        commit stays, because a child may build on it. The next try gives it new content, and keeps its frames.
        """
        if not self.context.reads_back:
            return True
        former, name = self.own, self.request.name
        docs, wrong = yield from read_back((name, *self.request.beside), layout.uploads)
        if self.request.beside:
            self.beside = docs
        found = docs.get(name)
        if found is None:
            if (yield from self._was_deleted()):
                return True
        elif _is_whole(found, layout, times[0], wrong):
            return True
        withdrawn: list[Write] = [*self.companions.withdrawals()]
        if found is not None and former is not None:
            # Children may build on the former content, so it is restored. Holds may have come or gone since.
            content = {key: value for key, value in former.fields.items() if key != HOLDS}
            gone = tuple(sorted(found.fields.keys() - {*content, HOLDS}))
            withdrawn.append(Merge(name, content, remove=gone, update_time=times[0]))
        elif found is not None:
            withdrawn.append(Delete(name, update_time=times[0]))
        done: tuple[int, ...] | None = None
        undo = self._undo_note(times[1:], thread)
        if undo is not None:
            done = yield from Commit((*withdrawn, undo))
            if done is not None:
                self.head = None if self.head is None else replace(self.head, update_time=done[-1])
            # Otherwise another checkpoint was stored, and the note about a child or a root is true.
        if done is None and withdrawn:
            done = yield from Commit(tuple(withdrawn))
        if done is not None and found is not None:
            yield from discard(layout.uploads)  # A child that has inherited them would have changed the document.
        self.misread = wrong[0] if wrong else name
        yield from self._count_mismatch(self.misread)
        return False

    def _was_deleted(self) -> Flow[bool]:
        """Whether another call has deleted the checkpoint since. Then it was stored, and this call has succeeded.

        A deletion marks the thread, or has removed its document. A pruner clears the heir, or has removed the parent.
        """
        thread, parent = keys.thread_doc(self.request.thread_id), self.head
        names = (thread,) if parent is None else (thread, parent.manifest.name)
        docs = yield from GetDocs(names, mask=("deleting", "heir"))
        if thread not in docs or "deleting" in docs[thread].fields:
            return True
        if parent is None:
            return False
        return parent.manifest.name not in docs or docs[parent.manifest.name].fields.get("heir") != self.heir

    def _undo_note(self, times: tuple[int, ...], thread: Guard | None) -> Write | None:
        """The write that undoes the commit's note about the checkpoint in a second document, made at `times[0]`."""
        if self.head is not None:
            # The heir says that a child was stored, which is not true.
            if self.head.heir is None:
                return Merge(self.head.manifest.name, {}, remove=("heir",), update_time=times[0])
            heir = manifest.heir_field(self.head.heir, self.context.new_attempt())
            return Merge(self.head.manifest.name, {"heir": heir}, update_time=times[0])
        if thread is not None and not thread.has_root and not self.request.ns and self.own is None:
            return Merge(thread.name, {}, remove=("root",), update_time=times[0])
        return None

    def _count_mismatch(self, name: str) -> Flow[None]:
        """Report a mismatch, and raise after several.

        Raises:
            CheckpointVerificationError: This was the last mismatch allowed.
        """
        request = self.request
        what = f"Checkpoint {request.checkpoint_id!r} of thread {request.thread_id!r}, namespace {request.ns!r}"
        self.mismatches = yield from mismatched(what, name, self.mismatches, **request.ids())

    # After a conflict

    def _look_again(self, plan: Manifest, layout: _Layout, thread: Guard | None) -> Flow[bool]:
        """Find out what changed; true if this very checkpoint is stored, as after a try whose answer was lost."""
        request, before = self.request, self.head
        names = (request.name,) if before is None else (request.name, before.manifest.name)
        docs = yield from GetDocs((*names, *self.companions.names))
        self.companions.take(docs)
        self.own = docs.get(request.name)
        if self.own is not None and (yield from self._is_stored(self.own, plan, layout)):
            # A call may repeat an earlier one, and then have seen that call's own changes. Only what is older than the
            # checkpoint existed before it.
            if self.seen is not None and self.seen.update_time < self.own.create_time:
                yield from self._report_fork()
            if thread is not None and (thread.update_time or 0) < self.own.create_time:
                yield from self._report_second_root(thread)
            return True
        self.head = None
        if before is not None:
            self.head = yield from self._head_of(docs.get(before.manifest.name))
            if self._is_overtaken(before):
                raise overtaken(request.thread_id, self.context)
            if self.head is not None and (before.is_bare or self.head.manifest != before.manifest):
                # The parent was replaced. This checkpoint continues its ancestors, but not its new content.
                self.head = self.head.bare() if request.history else None
        if before is not None and self.head is not None and self.head.update_time != before.update_time:
            self.forks += 1
            self.seen = self.head
            yield from self._report_fork()
        return False

    def _is_overtaken(self, before: Head) -> bool:
        """Whether a process has acquired the lease since this call, which has none, has read the parent."""
        after = None if self.head is None else self.head.fence
        return self.request.fence is None and after is not None and after != before.fence

    def _report_fork(self) -> Flow[None]:
        """Report another child of the parent, once."""
        request = self.request
        sibling = None if self.seen is None else self.seen.heir
        if sibling is not None and sibling not in {self.sibling, request.checkpoint_id}:
            self.sibling = sibling
            yield from Emit(ParentForked(**request.ids(), parent_id=request.parent_id, sibling_id=sibling))

    def _report_second_root(self, thread: Guard | None) -> Flow[None]:
        """Report that a new checkpoint has no parent, if the thread's root namespace had a checkpoint before."""
        request = self.request
        if request.parent is None and not request.ns and thread is not None and thread.has_root:
            yield from Emit(ParentForked(**request.ids(), parent_id=None, sibling_id=None))

    def _is_stored(self, own: Doc, plan: Manifest, layout: _Layout) -> Flow[bool]:
        if manifest.kind_of(own) is manifest.DocumentKind.STRIPPED:
            return False
        try:
            stored = yield from read_manifest(own, self.context.codec)
        except DamagedError:
            return False  # The new checkpoint replaces it.
        if not stored.same_content(plan):
            yield from Emit(CheckpointReplaced(**self.request.ids()))
            return False
        if not self.context.codec.vouches_for(manifest.encoded_of(own)):
            return False  # The same content, but in clear: it is replaced by encrypted content.
        wrong = yield from self._damaged_frames(own, stored, plan, layout)
        if wrong is not None:
            # The frames that this call, whose answer was lost, or an earlier call has written are damaged.
            if self.context.reads_back and wrong != self.misread:
                yield from self._count_mismatch(wrong)
            return False
        self.context.remember(Head.of(stored, own))
        return True

    def _damaged_frames(self, own: Doc, stored: Manifest, plan: Manifest, layout: _Layout) -> Flow[str | None]:
        """Look for the frames that a document refers to, whose manifest has the content of this call's.

        Returns:
            `None`, or the name of the document or of an object whose frames are damaged or missing.
        """
        if stored == plan:
            if _own_frames(plan, manifest.inner_frames(own)) != _own_frames(plan, layout.inner):
                return own.name
            if not self.context.reads_back or not layout.uploads:
                return None
            docs, wrong = yield from read_back((own.name,), layout.uploads)
            now = docs.get(own.name)
            # A document that is gone, or has other content by now, was stored with its objects.
            is_own = now is not None and now.fields.get("manifest") == own.fields["manifest"]
            return wrong[0] if wrong and is_own else None
        if not self.context.reads_back:
            return None
        # Another try or another process has laid out the frames in another way.
        sources = Sources([Found(own, stored)], replace(self.context, values=ByteCache(0)))
        sources.fill((yield from Gather(tuple(sources.fetches()))))
        try:
            yield from Compute(partial(_read_all, sources, stored), size=stored.size)
        except DamagedError:
            return own.name
        return None


def _own_frames(plan: Manifest, inner: bytes) -> list[bytes]:
    return [
        inner[frame.at : frame.at + frame.stored]
        for ref in plan.channels.values()
        for frame in ref.chain
        if frame.owner is None and frame.attempt is None
    ]


def _read_all(sources: Sources, known: Manifest) -> None:
    for channel in known.channels:
        sources.plain(known, channel)
