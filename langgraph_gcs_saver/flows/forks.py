"""Forks a thread at one of its checkpoints: the thread then continues from there, and keeps all its checkpoints.

A fork is a copy of the checkpoint with a greater id than any other of its namespace. So it is the tip, and a graph that
is invoked without a checkpoint id resumes from it. It is a sibling of the original, as LangGraph's `__copy__` makes it,
and refers to the same frames.

Subgraphs that keep their state are part of the fork. The state of such a subgraph at a checkpoint is its newest one
with a smaller id, from which LangGraph replays it. If the subgraph has a newer one, its state is copied, too, under an
id smaller than that of the root graph's fork. If it had no state, it gets an empty checkpoint, from which it begins as
if it had never run. Namespaces of a single call of a subgraph are not part of it, because the resumed run makes the
call again.

Interrupts that wait at the checkpoint wait at the fork. Other pending writes stay behind: they belong to the step that
the original's own child has made. A task that waits is run again from its beginning, with the answers that it had when
it asked. If these are not known, as in a subgraph that it calls, it has no question until it asks again. Otherwise an
answer would go to another question than the one that was shown.

One commit makes the fork. It requires that the copied checkpoints and the former tips are as they were read, and
changes all of them. So a pruner that is about to delete a copied checkpoint fails. A process without a lease that was
about to continue a former tip finds a mark that was not there when it read the tip, and stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    Doc,
    Flow,
    Gather,
    GetDocs,
    Merge,
    Now,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError, InvalidInputError
from langgraph_gcs_saver.flows import recoveries, runs, tips
from langgraph_gcs_saver.flows.context import ATTEMPT_DEADLINE_SECONDS, MAX_TRIES, Context, Loads
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.manifests import encode_manifest, metadata_of, read_manifest, unreadable
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.readback import discard, failed, upload
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.threads import note_thread
from langgraph_gcs_saver.flows.writes import PendingWrite, PutWrites, laid_out, query, read_writes
from langgraph_gcs_saver.format import filters, keys, manifest, recent
from langgraph_gcs_saver.format.manifest import (
    LISTED_BY,
    RUNS_BY,
    DamagedError,
    DocumentKind,
    Manifest,
    heir_field,
    heir_of,
    kind_of,
)
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.portable import PortableSerializer, forks, task_ids
from langgraph_gcs_saver.records import record

_MASK = ("format", "ns", "manifest", "digest", "heir")
"""The fields of a checkpoint's document that a fork needs: all but its frames."""

_INTERRUPT, _RESUME = -3, -4
"""LangGraph's numbers of the channels of interrupts and of answers to them (`WRITES_IDX_MAP`)."""

_SERDE = PortableSerializer()
"""Reads and writes metadata without importing what it names."""


@record(frozen=True, slots=True)
class ForkPlan:
    """A fork that is laid out, and not stored.

    Attributes:
        thread_id: The thread.
        checkpoint_id: The checkpoint of the root graph that is copied.
        newest: The newest checkpoint of the root graph so far.
        stored: When the copied checkpoint was stored, by the service's clock.
        lost: Seconds from then until the newest one was stored.
        copied: The manifests of the checkpoints that are copied.
        forks: The ids of the forks, by namespace; the empty one is that of the root graph.
        created: The documents of the forks.
        waiting: Documents of the interrupts that wait at the forks.
        changed: The fields that other documents get, and the update time that they must have, by name.
        requests: The document of the thread's latest requests, if the commit changes it.
        heirs: The former heirs of the parents of the copied checkpoints, by name.
        noted: The fields that the thread's document gets.
        uploads: Objects that must be uploaded before the commit.
    """

    thread_id: str
    checkpoint_id: str
    newest: str
    stored: int
    lost: float
    copied: tuple[Manifest, ...]
    forks: Mapping[str, str]
    created: tuple[Create, ...]
    waiting: tuple[Write, ...]
    changed: Mapping[str, tuple[Mapping[str, Any], int]]
    requests: Doc | None
    heirs: Mapping[str, str | None]
    noted: Mapping[str, Any]
    uploads: tuple[PutBlob, ...]

    @property
    def fork_id(self) -> str:
        """The id of the root graph's fork."""
        return self.forks[""]

    @property
    def name(self) -> str:
        """Name of the document of the root graph's fork."""
        return keys.checkpoint_doc(self.thread_id, "", self.fork_id)

    @property
    def config(self) -> dict[str, dict[str, str]]:
        """The config of the root graph's fork."""
        return {"configurable": {"thread_id": self.thread_id, "checkpoint_ns": "", "checkpoint_id": self.fork_id}}

    def writes(self, fence: Fence) -> tuple[Write, ...]:
        """The writes of the commit that makes the fork, under a lease of the thread."""
        return (
            *[replace(one, fields={**one.fields, **fence.mark}) for one in self.created],
            *self.waiting,
            *[Merge(name, fields, update_time=time) for name, (fields, time) in self.changed.items()],
            Merge(keys.thread_doc(self.thread_id), self.noted),
            fence.check(),
        )


@record(frozen=True, slots=True)
class _Space:
    """A namespace to be forked.

    Attributes:
        ns: The namespace.
        newest: The greatest id in it.
        tip: Its newest checkpoint.
        source: The checkpoint to be copied, and its manifest; `None` for a subgraph that had no state.
    """

    ns: str
    newest: str
    tip: Doc
    source: tuple[Doc, Manifest] | None


def plan(thread_id: str, checkpoint_id: str, context: Context, since: int | None = None) -> Flow[ForkPlan]:
    """Lay out the fork of a thread at a checkpoint of its root graph. This changes nothing.

    Args:
        thread_id: The thread.
        checkpoint_id: The checkpoint.
        context: Options and caches.
        since: Answers to questions that wait at the checkpoint stay behind if they were given after this time, by the
            service's clock. By default, those are kept that came before the question that waits now.

    Raises:
        CheckpointCorruptError: A checkpoint that would be copied, or its interrupts, are damaged.
        ConflictError: The thread changed in every try.
        InvalidInputError: The checkpoint does not exist, or no id can follow those of its namespace.
        SerializationError: Another serializer than LangGraph's wrote the metadata.
        UnsupportedFormatError: A newer version wrote it.
    """
    for _ in range(MAX_TRIES):
        spaces = yield from _spaces(thread_id, checkpoint_id, context)
        if spaces is not None:
            return (yield from _Layout(thread_id, checkpoint_id, context, since).of(spaces))
    raise _conflict(thread_id, checkpoint_id)


def fork(
    thread_id: str,
    checkpoint_id: str,
    fence: Fence,
    context: Context,
    beside: tuple[Write, ...] = (),
    *,
    former: tuple[Merge, ...] = (),
    record: Callable[[ForkPlan, int], Merge] | None = None,
) -> Flow[str]:
    """Fork a thread at a checkpoint of its root graph, in one commit.

    Args:
        thread_id: The thread.
        checkpoint_id: The checkpoint.
        fence: The lease of the thread, which the commit requires.
        context: Options and caches.
        beside: Other writes of the commit.
        former: What changes their documents back, if the fork is withdrawn.
        record: Makes the recovery record for the commit, from the plan and the service's time, which is then reported.

    Returns:
        The id of the fork. It is the newest checkpoint of the root graph.

    Raises:
        CheckpointVerificationError: The fork did not read back as it was written. It was withdrawn.
        ConflictError: A document that the commit depends on changed in every try.
        FencedError: The lease is lost.
    """
    for _ in range(MAX_TRIES):
        found = yield from plan(thread_id, checkpoint_id, context)
        recorded = None if record is None else record(found, (yield from _service_time(fence)))
        also = beside if recorded is None else (*beside, recorded)
        back: list[Merge | Delete] = [*former] if recorded is None else [*former, Delete(recorded.name)]
        refuse_large(size_of([*found.writes(fence), *also]), f"The fork of thread {thread_id!r}")
        if (yield from committed([found], {thread_id: fence}, context, also, back)):
            if recorded is not None:
                yield from recoveries.report(thread_id, recorded)
            return found.fork_id
        fence.require((yield from GetDocs((fence.name,))).get(fence.name))
    raise _conflict(thread_id, checkpoint_id)


def _service_time(fence: Fence) -> Flow[int]:
    """The service's clock. A read of a single document does not say it."""
    return (yield from GetDocs((fence.name, keys.thread_doc(fence.thread_id)), mask=())).read_time


def committed(
    plans: Sequence[ForkPlan],
    fences: Mapping[str, Fence],
    context: Context,
    beside: tuple[Write, ...] = (),
    former: Sequence[Merge | Delete] = (),
) -> Flow[bool]:
    """Store the forks of one or several threads, all or none of them.

    Args:
        plans: The forks.
        fences: The leases of their threads, by thread.
        context: Options and caches.
        beside: Other writes of the commit.
        former: What changes their documents back, if the forks are withdrawn. Each is made only if its document is
            still as it was read then.

    Returns:
        False if a document has changed that the commit depends on. Then nothing is stored.

    Raises:
        CheckpointVerificationError: Something did not read back as it was written. Nothing is stored.
    """
    uploads = [one for found in plans for one in found.uploads]
    started = yield from Now()
    wrong = yield from upload(uploads, reads_back=context.reads_back)
    if wrong is not None:
        raise failed(_what(plans), wrong)
    if uploads and (yield from Now()) - started > ATTEMPT_DEADLINE_SECONDS:
        yield from discard(uploads)
        return False
    writes = [write for found in plans for write in found.writes(fences[found.thread_id])]
    times = yield from Commit((*writes, *beside))
    # The heads of the former tips stay in the cache, so that a run of this process without a lease finds the mark, too.
    # After a lost answer, a commit that was applied finds its own documents. Their ids are in no other commit.
    if times is None and plans[0].name not in (yield from GetDocs((plans[0].name,), mask=())):
        yield from discard(uploads)
        return False
    if context.reads_back:
        yield from _read_back(plans, fences, context, former)
    return True


def _read_back(
    plans: Sequence[ForkPlan], fences: Mapping[str, Fence], context: Context, former: Sequence[Merge | Delete]
) -> Flow[None]:
    """Read what was stored, and withdraw all of it if it differs."""
    wanted = {one.name: one.fields for found in plans for one in found.created}
    docs = yield from GetDocs(tuple(wanted))
    wrong = [name for name, doc in docs.items() if any(doc.fields.get(key) != one for key, one in wanted[name].items())]
    if not wrong:
        return
    heirs = {name: heir for found in plans for name, heir in found.heirs.items()}
    now = yield from GetDocs((*heirs, *(one.name for one in former)), mask=("heir",))
    writes: list[Write] = [Delete(doc.name, update_time=doc.update_time) for doc in docs.values()]
    writes += [Delete(write.name) for found in plans for write in found.waiting]
    writes += [_with_heir(now[name], heir, context) for name, heir in heirs.items() if name in now]
    writes += [replace(one, update_time=now[one.name].update_time) for one in former if one.name in now]
    writes += [Merge(doc.name, doc.fields) for doc in (found.requests for found in plans) if doc is not None]
    writes += [fences[found.thread_id].check() for found in plans]
    yield from Commit(tuple(writes))
    raise failed(_what(plans), wrong[0])


def _with_heir(parent: Doc, heir: str | None, context: Context) -> Merge:
    """The write that gives a parent its former heir back."""
    if heir is None:
        return Merge(parent.name, {}, remove=("heir",), update_time=parent.update_time)
    return Merge(parent.name, {"heir": heir_field(heir, context.new_attempt())}, update_time=parent.update_time)


def _what(plans: Sequence[ForkPlan]) -> str:
    return f"The fork of {', '.join(repr(found.thread_id) for found in plans)}"


def refuse_large(size: int, what: str) -> None:
    """Refuse a commit that is larger than Firestore accepts.

    Args:
        size: Its bytes.
        what: What it does, for the error.

    Raises:
        InvalidInputError: It is too large.
    """
    if size > limits.COMMIT_BYTES:
        raise InvalidInputError(
            f"{what} would be a commit of {size:,} bytes; Firestore accepts {limits.COMMIT_BYTES:,}. Nothing was "
            "changed."
        )


def size_of(writes: Iterable[Write]) -> int:
    """Bytes of the writes of a commit, roughly as Firestore counts them."""
    return sum(len(write.name) + (0 if isinstance(write, Delete) else _bytes(write.fields)) for write in writes)


_ATOM = 8
"""Bytes of a number, or around text, bytes or a map."""


def _bytes(value: object) -> int:
    match value:
        case Mapping():
            return _ATOM + sum(len(key) + _bytes(item) for key, item in value.items())
        case str() | bytes():
            return _ATOM + len(value)
        case _:
            return _ATOM


def _conflict(thread_id: str, checkpoint_id: str) -> ConflictError:
    return ConflictError(
        f"Thread {thread_id!r} was not forked at checkpoint {checkpoint_id!r}: other writers changed the thread, or "
        f"another document that the commit depends on, {MAX_TRIES} times in a row. Nothing was stored. Call again."
    )


# What is forked


def _spaces(thread_id: str, checkpoint_id: str, context: Context) -> Flow[list[_Space] | None]:
    """The namespaces to be forked, that of the root graph first; `None` if the thread changed meanwhile."""
    _, end = keys.checkpoint_range(thread_id, checkpoint_id)
    listed = yield from QueryDocs(keys.checkpoints(thread_id), end=end, mask=RUNS_BY)
    newest: dict[str, str] = {}
    tips: dict[str, Doc] = {}
    for doc in listed:
        segment = keys.ns_segment_of(doc.name)
        newest.setdefault(segment, keys.checkpoint_id_of(doc.name))
        if kind_of(doc) is DocumentKind.CHECKPOINT:
            tips.setdefault(segment, doc)
    root = keys.enc("")
    name = keys.checkpoint_doc(thread_id, "", checkpoint_id)
    if not any(doc.name == name and kind_of(doc) is DocumentKind.CHECKPOINT for doc in listed):
        raise InvalidInputError(
            f"Thread {thread_id!r} has no checkpoint {checkpoint_id!r}. List its checkpoints with "
            f"`langgraph-gcs history`, and choose another one."
        )
    others = [segment for segment in tips if segment != root and not keys.is_of_call(keys.dec(segment) or "")]
    states = yield from _states(thread_id, others, end)
    docs = yield from GetDocs((name, *[tips[segment].name for segment in others]), mask=_MASK)
    if len(docs) != len(others) + 1:
        return None
    found = [_Space("", newest[root], tips[root], (docs[name], (yield from _manifest(docs[name], context))))]
    for segment in others:
        tip = docs[tips[segment].name]
        ns = (yield from _manifest(tip, context)).ns
        if keys.is_of_call(ns):
            continue
        state = states[segment]
        source = None if state is None else (state, (yield from _manifest(state, context)))
        found.append(_Space(ns, newest[segment], tip, source))
    return found


def _states(thread_id: str, segments: Sequence[str], start: str) -> Flow[dict[str, Doc | None]]:
    """The newest checkpoint of each of some namespaces, of those whose names are not before `start`."""
    found: dict[str, Doc | None] = {}
    after: dict[str, str | None] = dict.fromkeys(segments)
    while after:
        pages = yield from Gather(
            tuple(
                QueryDocs(keys.checkpoints(thread_id), (("ns", segment),), start, last, limit=1, mask=_MASK)
                for segment, last in after.items()
            )
        )
        for segment, page in zip(list(after), pages, strict=True):
            doc = page[0] if page else None
            if doc is not None and keys.ns_segment_of(doc.name) != segment:
                after[segment] = doc.name
            else:
                found[segment] = doc
                del after[segment]
    return found


def _manifest(doc: Doc, context: Context) -> Flow[Manifest]:
    try:
        return (yield from read_manifest(doc, context.codec))
    except DamagedError as damage:
        thread_id, ns = (
            keys.told_thread_id(keys.thread_segment_of(doc.name)),
            keys.told_id(keys.ns_segment_of(doc.name)),
        )
        yield from recheck(context, is_missing=damage.missing)
        error = unreadable(damage, thread_id, ns, keys.checkpoint_id_of(doc.name))
    raise error


# The layout


class _Layout:
    """Lays out the fork of a thread.

    Attributes:
        mark: What the commit writes into the field `fence` of the former tips and of the copied checkpoints. It is new,
            so that these documents change, and a process that has read them before stops.
        times: The update times of documents that the commit changes, by name.
        fields: The fields that they get.
    """

    def __init__(self, thread_id: str, checkpoint_id: str, context: Context, since: int | None) -> None:
        self.thread_id = thread_id
        self.checkpoint_id = checkpoint_id
        self.since = since
        self.context = context
        self.loads: Loads = partial(loads, _SERDE)
        self.mark = context.new_attempt()
        self.times: dict[str, int] = {}
        self.fields: dict[str, dict[str, Any]] = {}
        self.heirs: dict[str, str | None] = {}
        self.created: list[Create] = []
        self.uploads: list[PutBlob] = []

    def of(self, spaces: Sequence[_Space]) -> Flow[ForkPlan]:
        now = yield from Now()
        ids = self._ids(spaces, now)
        for space in spaces:
            self._change(space.tip, {"fence": self.mark})
            if space.source is not None:
                self._change(space.source[0], {"fence": self.mark})
            known, metadata = self._copy(space, ids, now)
            yield from self._create(known, metadata)
        yield from self._give_heirs(spaces, ids)
        requests = yield from self._forget_requests(spaces[0])
        waiting = yield from self._waiting(spaces, ids)
        tip, original = spaces[0].tip, spaces[0].source
        stored = tip.create_time if original is None else original[0].create_time
        return ForkPlan(
            self.thread_id,
            self.checkpoint_id,
            keys.checkpoint_id_of(tip.name),
            stored,
            max(0, tip.create_time - stored) / 1e9,
            tuple(space.source[1] for space in spaces if space.source is not None),
            ids,
            tuple(self.created),
            waiting,
            {name: (fields, self.times[name]) for name, fields in self.fields.items()},
            requests,
            self.heirs,
            note_thread(self.thread_id, now, has_root=True),
            tuple(self.uploads),
        )

    def _change(self, doc: Doc, fields: Mapping[str, Any]) -> None:
        self.times[doc.name] = doc.update_time
        self.fields.setdefault(doc.name, {}).update(fields)

    def _ids(self, spaces: Sequence[_Space], now: float) -> dict[str, str]:
        """The ids of the forks. That of the root graph is greater than those of its subgraphs' states."""
        root, *others = spaces
        ids = {
            space.ns: forks.fork_id(space.newest, self._step(space), now, self.context.new_attempt())
            for space in others
        }
        newest = max([root.newest, *ids.values()])
        return {"": forks.fork_id(newest, self._step(root), now, self.context.new_attempt()), **ids}

    def _step(self, space: _Space) -> int:
        if space.source is None:
            return 0
        return forks.step_of(self._metadata(space.source[1])) + 1

    def _metadata(self, known: Manifest) -> Mapping[str, Any]:
        try:
            return metadata_of(known, self.loads)
        except DamagedError as damage:
            error = unreadable(damage, known.thread_id, known.ns, known.checkpoint_id)
        raise error

    def _copy(self, space: _Space, ids: Mapping[str, str], now: float) -> tuple[Manifest, dict[str, Any]]:
        """The manifest of a namespace's fork, and its metadata."""
        if space.source is None:
            plain, metadata = forks.empty_checkpoint(now), forks.empty_metadata(ids[""])
            found = Manifest(self.thread_id, space.ns, ids[space.ns], None, plain, None, _dumps(metadata), {})
            return found, metadata
        known = space.source[1]
        metadata = forks.metadata_of(self._metadata(known))
        channels = {channel: ref.inherited(known.checkpoint_id) for channel, ref in known.channels.items()}
        found = replace(
            known,
            checkpoint_id=ids[space.ns],
            checkpoint=forks.checkpoint_of(known.checkpoint, now),
            metadata=_dumps(metadata),
            channels=channels,
        )
        return found, metadata

    def _create(self, known: Manifest, metadata: Mapping[str, Any]) -> Flow[None]:
        """Lay out the document of a fork."""
        index = filters.index(metadata, self.context.clear_metadata)
        room = manifest.PAYLOAD_BYTES - filters.size(index)
        context = self.context.within(known.ns)
        body, blob = yield from Compute(partial(encode_manifest, known, room, context), size=500 * len(known.channels))
        if blob is not None:
            self.uploads.append(blob)
        self.created.append(Create(known.name, manifest.to_fields(known, body, b"", run_id=None, index=index)))

    def _give_heirs(self, spaces: Sequence[_Space], ids: Mapping[str, str]) -> Flow[None]:
        """Name the forks in their parents, so that a fork that is lost is missed."""
        parents = {
            keys.checkpoint_doc(self.thread_id, space.ns, space.source[1].parent_id): ids[space.ns]
            for space in spaces
            if space.source is not None and space.source[1].parent_id is not None
        }
        if not parents:
            return
        docs = yield from GetDocs(tuple(parents), mask=(*LISTED_BY, "heir"))
        for name, doc in docs.items():
            if kind_of(doc) is DocumentKind.CHECKPOINT:
                self.heirs[name] = heir_of(doc)
                self._change(doc, {"heir": heir_field(parents[name], self.context.new_attempt())})

    def _forget_requests(self, root: _Space) -> Flow[Doc | None]:
        """Forget the requests of runs that ended later, because what they did to the state is undone.

        Otherwise a retry of such a request would be taken for done.
        """
        name = keys.requests_doc(self.thread_id)
        doc = (yield from GetDocs((name,))).get(name)
        if doc is None:
            return None
        known = recent.recent_of(doc, self.context.codec)
        metadata = {} if root.source is None else self._metadata(root.source[1])
        left = known.until(self.checkpoint_id, metadata.get(runs.RUN), metadata.get(runs.REQUEST))
        if left == known:
            return None
        self._change(doc, recent.fields_of(left, name, self.context.codec))
        return doc

    # Interrupts

    def _waiting(self, spaces: Sequence[_Space], ids: Mapping[str, str]) -> Flow[tuple[Write, ...]]:
        """The interrupts that wait at the copied checkpoints, for the forks."""
        sources = [space.source for space in spaces if space.source is not None]
        pages = yield from Gather(
            tuple(query(self.thread_id, one.ns, one.checkpoint_id, one.checkpoint_id) for _, one in sources)
        )
        found: list[Write] = []
        for (doc, known), docs in zip(sources, pages, strict=True):
            asked = [one for one in docs if keys.writes_task_of(one.name)[1] and keys.INTERRUPT in one.fields]
            if not asked:
                continue
            try:
                read = yield from read_writes([known.checkpoint_id], asked, self.context.codec)
                packets = yield from self._packets(doc, known, read[known.checkpoint_id])
            except DamagedError as damage:
                yield from recheck(self.context, is_missing=damage.missing)
                error = unreadable(damage, known.thread_id, known.ns, known.checkpoint_id)
            else:
                writes = self._moved(known, ids[known.ns], _asking(docs, read[known.checkpoint_id]), packets)
                for task_id, of_task in writes.items():
                    request = PutWrites(self.thread_id, known.ns, ids[known.ns], task_id, of_task)
                    laid, uploads = yield from laid_out(request, self.context)
                    found += laid
                    self.uploads += uploads
                continue
            raise error
        return tuple(found)

    def _packets(self, doc: Doc, known: Manifest, writes: Sequence[PendingWrite]) -> Flow[tuple[str, ...]]:
        """The nodes to which packets are on their way, if a task that such a packet has made is among those that wait.

        Raises:
            DamagedError: The packets cannot be read.
        """
        if tips.SENDS not in known.channels or not any(task_ids.is_packet(write.task_path) for write in writes):
            return ()
        known = replace(known, channels={tips.SENDS: known.channels[tips.SENDS]})
        sources = Sources([Found(doc, known)], self.context)
        sources.fill((yield from Gather(tuple(sources.fetches()))))
        plain = yield from Compute(partial(sources.plain, known, tips.SENDS), size=known.size)
        value = _SERDE.loads_typed((known.channels[tips.SENDS].type, plain))
        return tips.due_at(known, {tips.SENDS: value}).sends

    def _moved(
        self, known: Manifest, fork_id: str, tasks: Iterable[_Asking], packets: Sequence[str]
    ) -> dict[str, list[PendingWrite]]:
        """What tasks ask, and the answers that they had by then, under the ids that the tasks have at the fork."""
        step = forks.step_of(self._metadata(known)) + 1
        before = task_ids.Place(known.ns, known.checkpoint_id, step)
        after = task_ids.Place(known.ns, fork_id, step + 1)
        channels = known.checkpoint.get("channel_versions", {}).keys()
        found: dict[str, list[PendingWrite]] = {}
        for one in tasks:
            question, path = one.question, one.question.task_path
            task = task_ids.moved(question.task_id, path, before, after, channels=channels, packets=packets)
            answered = None if task is None else task_ids.answered(question.value.data, task, known.ns)
            if not one.is_open(answered, self.since):
                continue
            if task is not None:
                value = task_ids.reworded(question.value.data, task, known.ns)
                question = replace(question, task_id=task.after, value=replace(question.value, data=value))
            found[question.task_id] = [question]
            if answered:
                found[question.task_id].append(one.resume(question.task_id, answered))
        return found


@record(frozen=True, slots=True)
class _Asking:
    """A task that was interrupted.

    Attributes:
        doc: The document of what it asks, and of its answers.
        writes: Both, by LangGraph's numbers.
        is_finished: Whether it has finished since.
    """

    doc: Doc
    writes: Mapping[int, PendingWrite]
    is_finished: bool

    @property
    def question(self) -> PendingWrite:
        """What it asked last."""
        return self.writes[_INTERRUPT]

    @property
    def answers(self) -> list[Any]:
        """The answers that it has got."""
        if _RESUME not in self.writes:
            return []
        value = self.writes[_RESUME].value
        found = _SERDE.loads_typed((value.type, value.data))
        return found if isinstance(found, list) else [found]

    def resume(self, task_id: str, answered: int) -> PendingWrite:
        """Its first answers, for a task at the fork."""
        stored, answers = self.writes[_RESUME], self.answers
        value = stored.value
        if len(answers) > answered:
            value = dumps(_SERDE, answers[:answered], "The answers of a task")
        return replace(stored, task_id=task_id, value=value)

    def is_open(self, answered: int | None, since: int | None) -> bool:
        """Whether its question is the one to ask at the fork. If not, the task asks from its beginning.

        Args:
            answered: How many answers it had when it asked; `None` if it called a subgraph, which asked.
            since: Answers that were given after this time stay behind.
        """
        if answered is None:
            # The call is made again, and asks its first question first.
            return self.doc.update_time == self.doc.create_time
        given = len(self.answers)
        if answered == 0:
            return given == 0 or (given == 1 and self.is_finished)
        return answered <= given and (since is None or self.doc.update_time <= since)


def _asking(docs: Iterable[Doc], writes: Iterable[PendingWrite]) -> list[_Asking]:
    """The tasks that were interrupted, from all documents of pending writes and from what those of questions say."""
    tasks = [(one, *keys.writes_task_of(one.name)) for one in docs]
    special = {task: one for one, task, is_special in tasks if is_special}
    finished = {task for _, task, is_special in tasks if not is_special}
    of_task: dict[str, dict[int, PendingWrite]] = {}
    for write in writes:
        of_task.setdefault(keys.enc(write.task_id), {})[write.idx] = write
    return [_Asking(special[task], found, task in finished) for task, found in of_task.items()]


def _dumps(metadata: Mapping[str, Any]) -> manifest.Serialized:
    return dumps(_SERDE, metadata, "The metadata of a fork")
