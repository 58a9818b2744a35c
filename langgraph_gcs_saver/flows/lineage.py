"""Reads what a DeltaChannel's value is made of: the nearest ancestor's stored value, and the writes since then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from langgraph_gcs_saver.engine.effects import Compute, Doc, Flow, Gather, GetDocs, QueryDocs
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.load import get_tuple
from langgraph_gcs_saver.flows.manifests import LOST_ANCESTOR, deserialize, read_manifest, report_clear, unreadable
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.writes import query, read_writes
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DamagedError, DocumentKind, Manifest, Serialized, kind_of
from langgraph_gcs_saver.records import record

ANCESTORS_PER_PAGE = 200
"""How many ancestors are read at once, without their frames: 100 to 200 KB."""

_WRITES_BYTES = 64 << 20
"""Bytes of pending writes of more than one ancestor read at once. Writes to other channels are then dropped."""

_LOST_TARGET = "it is missing, and its DeltaChannels cannot be read without it"
"""The reason that is reported for a requested checkpoint that is missing."""

_MASK = ("format", "ns", "manifest", "digest")


@dataclass(slots=True)
class _Channel:
    """What was found of a channel: writes, newest first, and the checkpoint with the stored value before them."""

    writes: list[tuple[str, str, Serialized]] = field(default_factory=list)
    seed: Manifest | None = None


@record(frozen=True, slots=True)
class History:
    """Which history to read: of which checkpoint, or of the latest one without an id, and of which channels."""

    thread_id: str
    ns: str
    checkpoint_id: str | None
    channels: tuple[str, ...]


def delta_history(request: History, loads: Loads, context: Context) -> Flow[dict[str, dict[str, Any]]]:
    """For each channel, the writes that led to a checkpoint, oldest first, and the stored value before them, if any.

    A namespace without checkpoints has no history. LangGraph requests a history by id only for a checkpoint that it has
    loaded. So if that checkpoint is missing, it was lost since. A needed ancestor that is missing was lost too. Without
    an error, the value would silently be wrong in both cases. Ancestors from before a channel's first version are not
    needed, because the channel had no writes.

    Raises:
        CheckpointCorruptError: The checkpoint, an ancestor, a write or the stored value is damaged.
    """
    before: object = None
    while True:
        checkpoint_id = request.checkpoint_id
        if checkpoint_id is None:
            latest = yield from get_tuple(request.thread_id, request.ns, None, loads, context)
            if latest is None:
                return {channel: {"writes": []} for channel in request.channels}
            checkpoint_id = latest.manifest.checkpoint_id
        found = yield from _try(request, checkpoint_id, loads, context)
        if not isinstance(found, _AncestorError):
            return found
        # Read again before reporting damage: the data may have been changing, and the latest checkpoint may be another.
        seen = (found.checkpoint_id, found.damage.reason, found.damage.frame)
        if seen == before:
            yield from recheck(context, is_missing=found.damage.missing)
            raise unreadable(found.damage, request.thread_id, request.ns, found.checkpoint_id)
        before = seen


def _try(
    request: History, checkpoint_id: str, loads: Loads, context: Context
) -> Flow[dict[str, dict[str, Any]] | _AncestorError]:
    try:
        return (yield from _history(request, checkpoint_id, loads, context))
    except _AncestorError as error:
        return error


class _AncestorError(Exception):
    """Something that a history needs is missing or damaged."""

    def __init__(self, checkpoint_id: str, damage: DamagedError) -> None:
        super().__init__(damage.reason)
        self.checkpoint_id = checkpoint_id
        self.damage = damage


def _history(request: History, checkpoint_id: str, loads: Loads, context: Context) -> Flow[dict[str, dict[str, Any]]]:
    thread_id, ns = request.thread_id, request.ns
    found = {channel: _Channel() for channel in request.channels}
    remaining = set(request.channels)
    page = yield from _page(thread_id, ns, checkpoint_id)
    target = page.get(checkpoint_id)
    if target is None:
        raise _AncestorError(checkpoint_id, DamagedError(_LOST_TARGET, missing=True))
    child = yield from _manifest(target, context)
    seen = {child.checkpoint_id}
    while child.parent_id not in {None, child.checkpoint_id} and remaining:
        parent_id = str(child.parent_id)
        if parent_id not in page:
            page = yield from _page(thread_id, ns, parent_id)
        if parent_id not in page:
            if remaining.isdisjoint(child.checkpoint.get("channel_versions", ())):
                break
            damage = DamagedError(LOST_ANCESTOR, missing=True)
            raise _AncestorError(parent_id, damage)
        path = yield from _walk(page, parent_id, remaining, seen, context)
        child = path[-1]
        yield from _collect(path, found, remaining, context)
    return (yield from _load(found, loads, context))


def _page(thread_id: str, ns: str, checkpoint_id: str) -> Flow[dict[str, Doc]]:
    """A checkpoint and those before it, by id. They usually are its ancestors.

    The query filters by a field in clear, which no digest covers. So a checkpoint that the query does not find is also
    looked up by its name.
    """
    where = (("ns", keys.enc(ns, "namespace")),)
    start = keys.checkpoint_doc(thread_id, ns, checkpoint_id)
    docs = yield from QueryDocs(keys.checkpoints(thread_id), where, start=start, limit=ANCESTORS_PER_PAGE, mask=_MASK)
    page = {keys.checkpoint_id_of(doc.name): doc for doc in docs if keys.is_in_ns(doc.name, ns)}
    if checkpoint_id not in page:
        doc = (yield from GetDocs((start,), mask=_MASK)).get(start)
        if doc is not None and kind_of(doc) is DocumentKind.CHECKPOINT:
            page[checkpoint_id] = doc
    return page


def _manifest(doc: Doc, context: Context) -> Flow[Manifest]:
    try:
        return (yield from read_manifest(doc, context.codec))
    except DamagedError as damage:
        raise _AncestorError(keys.checkpoint_id_of(doc.name), damage) from None


def _walk(
    page: Mapping[str, Doc], wanted: str, remaining: set[str], seen: set[str], context: Context
) -> Flow[list[Manifest]]:
    """The needed ancestors within a page, nearest first, from `wanted` on, which is in the page."""
    path: list[Manifest] = []
    needed = set(remaining)
    following: str | None = wanted
    while following is not None and needed and following in page:
        if following in seen:
            raise _AncestorError(following, DamagedError("it is its own ancestor"))
        seen.add(following)
        known = yield from _manifest(page[following], context)
        path.append(known)
        needed -= known.channels.keys()
        following = None if known.parent_id == following else known.parent_id
    return path


def _collect(path: list[Manifest], found: Mapping[str, _Channel], remaining: set[str], context: Context) -> Flow[None]:
    """Collect the writes of some ancestors, nearest first, and note which one has a stored value of a channel."""
    ids = [known.checkpoint_id for known in path]
    docs = yield from query(path[0].thread_id, path[0].ns, max(ids), min(ids))
    while path:
        ids = [known.checkpoint_id for known in path]
        try:
            pending = yield from read_writes(ids, docs, context.codec, _WRITES_BYTES)
        except DamagedError as damage:
            name = damage.frame or ""
            guilty = keys.writes_checkpoint_id_of(name) if f"/{keys.WRITES}/" in name else ids[0]
            raise _AncestorError(guilty, damage) from None
        for known in path[: len(pending)]:
            for write in reversed(pending[known.checkpoint_id]):
                if write.channel in remaining:
                    found[write.channel].writes.append((write.task_id, write.channel, write.value))
            for channel in remaining & known.channels.keys():
                found[channel].seed = known
                remaining.discard(channel)
        path = path[len(pending) :]


def _load(found: Mapping[str, _Channel], loads: Loads, context: Context) -> Flow[dict[str, dict[str, Any]]]:
    """Fetch the stored values, and deserialize everything."""
    seeds: dict[str, Manifest] = {}
    for channel, one in found.items():
        if one.seed is not None:
            known = seeds.get(one.seed.checkpoint_id) or replace(one.seed, channels={})
            channels = {**known.channels, channel: one.seed.channels[channel]}
            seeds[one.seed.checkpoint_id] = replace(known, channels=channels)
    items = [Found(Doc(known.name, {}, 0, 0), known) for known in seeds.values()]
    sources = Sources(items, context)
    sources.fill((yield from Gather(tuple(sources.fetches()))))
    size = sum(known.size for known in seeds.values())
    size += sum(len(value.data) for one in found.values() for _, _, value in one.writes)
    result = yield from Compute(partial(_deserialize, found, seeds, sources, loads), size=size)
    yield from report_clear(context.codec)
    return result


def _deserialize(
    found: Mapping[str, _Channel], seeds: Mapping[str, Manifest], sources: Sources, loads: Loads
) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for channel, one in found.items():
        writes = [
            (task, name, deserialize(loads, value, "A write to channel", channel=channel))
            for task, name, value in reversed(one.writes)
        ]
        result[channel] = {"writes": writes}
        if one.seed is not None:
            known = seeds[one.seed.checkpoint_id]
            try:
                plain = sources.plain(known, channel)
            except DamagedError as damage:
                raise _AncestorError(known.checkpoint_id, damage) from None
            stored = Serialized(known.channels[channel].type, plain)
            result[channel]["seed"] = deserialize(loads, stored, "Channel", known, channel)
    return result
