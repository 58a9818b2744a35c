"""Finds what is damaged of a thread at one of its checkpoints, as a run reads it that resumes there.

That is the checkpoint of the root graph with its pending writes, what its DeltaChannels are made of, and the same for
each subgraph that keeps its state. The state of such a subgraph is its newest checkpoint with a smaller id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langgraph_gcs_saver.engine.effects import Flow, GetDocs, QueryDocs
from langgraph_gcs_saver.errors import CheckpointCorruptError, ClearTextError
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.lineage import History, delta_history
from langgraph_gcs_saver.flows.load import get_tuple
from langgraph_gcs_saver.flows.manifests import read_manifest, unreadable
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import LISTED_BY, RUNS_BY, DamagedError, DocumentKind, kind_of
from langgraph_gcs_saver.portable import DELTA_COUNTERS

_NAMES_PER_PAGE = 1000
"""How many names of checkpoints are read at once."""

_CACHE_BYTES = 64 << 20
"""The size of the cache while states are decoded. It begins empty, so that every byte is read from the store."""

_TASK = ":"
"""In a namespace, this is before the id of a task. So the namespace is that of a single call of a subgraph."""

Damage = CheckpointCorruptError | ClearTextError


def damage_at(thread_id: str, checkpoint_id: str, loads: Loads, context: Context) -> Flow[list[Damage]]:
    """What is damaged at a checkpoint of the root graph: the first thing of each state that a run would read.

    A checkpoint that is missing is no damage here, because it may have been deleted.

    Raises:
        SerializationError: The serializer cannot read what it once wrote.
        UnsupportedFormatError: A newer version wrote something.
        WrongKeyError: Something is encrypted with another key, or the saver has none.
    """
    fresh = replace(context, values=ByteCache(_CACHE_BYTES))
    found: list[Damage] = []
    for segment, state_id in (yield from _states(thread_id, checkpoint_id)):
        damage = yield from _damage(thread_id, segment, state_id, loads, fresh)
        found += [] if damage is None else [damage]
    return found


def _damage(thread_id: str, segment: str, checkpoint_id: str, loads: Loads, fresh: Context) -> Flow[Damage | None]:
    try:
        ns = yield from _namespace(thread_id, segment, checkpoint_id, fresh)
        if _TASK not in ns:
            yield from _read(thread_id, ns, checkpoint_id, loads, fresh)
    except (CheckpointCorruptError, ClearTextError) as error:
        return error
    return None


def _states(thread_id: str, checkpoint_id: str) -> Flow[Sequence[tuple[str, str]]]:
    """The states with which a run resumes at a root checkpoint: the encoded namespace and the id of each."""
    root = keys.enc("")
    found = {root: checkpoint_id}
    after: str | None = None
    _, start = keys.checkpoint_range(thread_id, checkpoint_id)
    while True:
        docs = yield from QueryDocs(
            keys.checkpoints(thread_id), start=start, after=after, limit=_NAMES_PER_PAGE, mask=RUNS_BY
        )
        for doc in docs:
            segment = keys.ns_segment_of(doc.name)
            # Namespaces of a single call of a subgraph are many. A resumed run makes the call again.
            is_call = _TASK in (keys.dec(segment) or "")
            if segment not in found and not is_call and kind_of(doc) is DocumentKind.CHECKPOINT:
                found[segment] = keys.checkpoint_id_of(doc.name)
        if len(docs) < _NAMES_PER_PAGE:
            return tuple(found.items())
        after = docs[-1].name


def _namespace(thread_id: str, segment: str, checkpoint_id: str, context: Context) -> Flow[str]:
    """The namespace that a segment of a name stands for. A long one is in the manifest only."""
    ns = keys.dec(segment)
    if ns is not None:
        return ns
    name = f"{keys.checkpoint_range(thread_id, checkpoint_id)[0]}{segment}"
    doc = (yield from GetDocs((name,), mask=LISTED_BY)).get(name)
    try:
        return segment if doc is None else (yield from read_manifest(doc, context.codec)).ns
    except DamagedError as damage:
        raise unreadable(damage, thread_id, segment, checkpoint_id) from None


def _read(thread_id: str, ns: str, checkpoint_id: str, loads: Loads, fresh: Context) -> Flow[None]:
    loaded = yield from get_tuple(thread_id, ns, checkpoint_id, loads, fresh)
    if loaded is None:
        return
    written = loaded.manifest.checkpoint.get("channel_versions", {}).keys() - loaded.manifest.channels.keys()
    deltas = tuple(sorted(written & (loaded.metadata.get(DELTA_COUNTERS) or {}).keys()))
    if deltas:
        yield from delta_history(History(thread_id, ns, checkpoint_id, deltas), loads, fresh)
