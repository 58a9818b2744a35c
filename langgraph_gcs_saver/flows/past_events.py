"""The events that puts and recoveries reported, computed from what they stored.

Documents and manifests are read, page by page. Objects are not, except for a manifest that is one. So pending writes in
an object are measured by its size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Compute, Doc, Emit, Flow, QueryDocs
from langgraph_gcs_saver.errors import SerializationError, UnsupportedFormatError
from langgraph_gcs_saver.events import CheckpointSaved, CheckpointSkipped, Event, WritesSaved
from langgraph_gcs_saver.flows import recoveries
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.ids import thread_ids_of
from langgraph_gcs_saver.flows.manifests import manifest_object_bytes, metadata_of, read_manifest
from langgraph_gcs_saver.flows.stored import made_by, values_of
from langgraph_gcs_saver.flows.writes import measure
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, Manifest, kind_of
from langgraph_gcs_saver.records import record

_CHECKPOINTS_PER_PAGE = 300
"""How many documents of checkpoints are read at once, without their frames: about a KB each."""

_WRITES_PER_PAGE = 50
"""How many documents of pending writes are read at once: up to 128 KiB each."""

_MASK = ("ns", "format", "manifest", "digest", "run_id", "objects")

Labels = Callable[[Mapping[Any, Any]], Mapping[str, str]]
"""The labels in the metadata of a checkpoint."""


@record(frozen=True, slots=True)
class PastEvent:
    """An event, and what the store does not say of it.

    Attributes:
        event: The event. What only the process knew that reported it, such as seconds, is 0 or empty.
        unknown: Attributes whose value is in an object that was not read.
    """

    event: Event
    unknown: tuple[str, ...] = ()


def past_events(thread_ids: Iterable[str] | None, loads: Loads, labels: Labels, context: Context) -> Pages[PastEvent]:
    """Pages of the events of threads: `CheckpointSaved`, `WritesSaved` and `RecoveryRecorded`.

    Damaged documents are skipped, those of a newer version, and those whose metadata another serializer wrote. A
    `CheckpointSkipped` event reports each.

    Args:
        thread_ids: The threads; all threads of the store if `None`.
        loads: Deserializes metadata.
        labels: The labels in metadata.
        context: Options and caches.
    """
    kinds = _sources(thread_ids, loads, labels, context)
    current: Pages[PastEvent] | None = next(kinds, None)

    def page() -> Flow[Sequence[PastEvent] | None]:
        nonlocal current
        while current is not None:
            found = yield from current()
            if found is not None:
                return found
            current = next(kinds, None)
        return None

    return page


def _sources(
    thread_ids: Iterable[str] | None, loads: Loads, labels: Labels, context: Context
) -> Iterator[Pages[PastEvent]]:
    def checkpoint(doc: Doc, _: str) -> Flow[PastEvent | None]:
        return _checkpoint(doc, loads, labels, context)

    def writes(doc: Doc, thread_id: str) -> Flow[PastEvent | None]:
        return _writes(doc, thread_id, context)

    for thread_id in (None,) if thread_ids is None else thread_ids:
        if thread_id is None:
            start, end = keys.all_threads_range("")
            everywhere = QueryDocs(keys.CHECKPOINTS, start=start, end=end, group=True)
            queries = everywhere, replace(everywhere, collection=keys.WRITES)
        else:
            queries = QueryDocs(keys.checkpoints(thread_id)), QueryDocs(keys.writes(thread_id))
        yield _documents(replace(queries[0], limit=_CHECKPOINTS_PER_PAGE, mask=_MASK), checkpoint)
        yield _documents(replace(queries[1], limit=_WRITES_PER_PAGE), writes)
        yield _recoveries(thread_id)


def _documents(first: QueryDocs, look: Callable[[Doc, str], Flow[PastEvent | None]]) -> Pages[PastEvent]:
    query: QueryDocs | None = first

    def page() -> Flow[Sequence[PastEvent] | None]:
        nonlocal query
        if query is None:
            return None
        docs = yield from query
        query = replace(query, after=docs[-1].name) if len(docs) == first.limit else None
        docs = [doc for doc in docs if keys.is_direct(doc.name)]
        ids = yield from thread_ids_of(doc.name for doc in docs)
        found = []
        for doc in docs:
            thread_id = ids[keys.thread_segment_of(doc.name)]
            try:
                one = yield from look(doc, thread_id)
            except DamagedError as damage:
                yield from Emit(CheckpointSkipped(thread_id=thread_id, reason=damage.reason))
            except (UnsupportedFormatError, SerializationError) as foreign:
                yield from Emit(CheckpointSkipped(thread_id=thread_id, reason=str(foreign)))
            else:
                found += [] if one is None else [one]
        return found

    return page


def _recoveries(thread_id: str | None) -> Pages[PastEvent]:
    records = recoveries.reported(thread_id)

    def page() -> Flow[Sequence[PastEvent] | None]:
        found = yield from records()
        return None if found is None else [PastEvent(event) for event in found]

    return page


def _checkpoint(doc: Doc, loads: Loads, labels: Labels, context: Context) -> Flow[PastEvent | None]:
    if kind_of(doc) is not DocumentKind.CHECKPOINT:
        return None
    known = yield from read_manifest(doc, context.codec)

    def event() -> CheckpointSaved:
        metadata = metadata_of(known, loads)
        run_id = doc.fields.get("run_id")
        return CheckpointSaved(
            thread_id=known.thread_id,
            checkpoint_ns=known.ns,
            checkpoint_id=known.checkpoint_id,
            parent_id=known.parent_id,
            run_id=run_id if isinstance(run_id, str) else None,
            labels=labels(metadata),
            channels=len(known.channels),
            size=known.size,
            values=values_of(known.channels),
            outcome="stored",
            seconds=0.0,
            lag=None,
            attempts=1,
            **made_by(metadata),
            **_sizes(known, manifest_object_bytes(doc, context.codec)),
        )

    return PastEvent((yield from Compute(event, size=1000 * len(known.channels))))


def _sizes(known: Manifest, manifest_object: int) -> dict[str, Any]:
    """What the put of a checkpoint has stored, besides its document's manifest."""
    own = [
        (channel, ref.chain[-1]) for channel, ref in known.channels.items() if ref.chain and ref.chain[-1].owner is None
    ]
    objects = {known.blob(channel, frame) for channel, frame in own if frame.attempt is not None}
    return {
        "inline_bytes": sum(frame.stored for _, frame in own if frame.attempt is None),
        "object_bytes": sum(frame.stored for _, frame in own if frame.attempt is not None) + manifest_object,
        "objects": len(objects) + (manifest_object > 0),
    }


def _writes(doc: Doc, thread_id: str, context: Context) -> Flow[PastEvent | None]:
    found = yield from measure(doc, context.codec)
    event = WritesSaved(
        thread_id=thread_id,
        checkpoint_ns=keys.told_id(keys.writes_ns_of(doc.name)),
        checkpoint_id=keys.writes_checkpoint_id_of(doc.name),
        task_id=found.task_id,
        which=found.which,
        run_id=None,
        writes=found.writes or 0,
        size=found.size or 0,
        inline_bytes=found.inline_bytes,
        object_bytes=found.object_bytes,
        objects=found.objects,
        outcome="stored",
        seconds=0.0,
        attempts=1,
    )
    return PastEvent(event, () if found.writes is not None else ("writes", "size"))
