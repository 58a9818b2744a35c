"""Finds what is damaged of a thread at one of its checkpoints, as a run reads it that is restored there.

That is the checkpoint of the root graph with the questions that wait at it, what its DeltaChannels are made of, and the
same for each subgraph that keeps its state. The state of such a subgraph is its newest checkpoint with a smaller id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from langgraph_gcs_saver.engine.effects import Compute, Doc, Flow, Gather, GetDocs, QueryDocs
from langgraph_gcs_saver.errors import CheckpointCorruptError, ClearTextError
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.lineage import History, delta_history
from langgraph_gcs_saver.flows.manifests import metadata_of, read_manifest, report_clear, unreadable
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.writes import query, read_writes
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import RUNS_BY, DamagedError, DocumentKind, Manifest, Serialized, kind_of
from langgraph_gcs_saver.portable import DELTA_COUNTERS

_NAMES_PER_PAGE = 1000
"""How many names of checkpoints are read at once."""

_CACHE_BYTES = 64 << 20
"""The size of the cache while states are decoded. It begins empty, so that every byte is read from the store."""

Damage = CheckpointCorruptError | ClearTextError


def damage_at(thread_id: str, checkpoint_id: str, loads: Loads, context: Context) -> Flow[list[Damage]]:
    """What is damaged at a checkpoint of the root graph: the first thing of each state that a run would read.

    Values are not deserialized. A checkpoint that is missing is no damage here, because it may have been deleted.

    Args:
        thread_id: The thread.
        checkpoint_id: The checkpoint.
        loads: Deserializes metadata.
        context: Options. Nothing is taken from its caches, so that every byte is read from the store.

    Raises:
        SerializationError: The serializer cannot read metadata that it once wrote.
        UnsupportedFormatError: A newer version wrote something.
        ValueTooLargeError: A state is larger than a read allows.
        WrongKeyError: Something is encrypted with another key, or the saver has none.
    """
    fresh = replace(context, values=ByteCache(_CACHE_BYTES))
    found: list[Damage] = []
    for name in (yield from _states(thread_id, checkpoint_id)):
        # A mismatch is read again, and only one that stays is damage.
        damage = (yield from _damage(name, loads, fresh)) and (yield from _damage(name, loads, fresh))
        if isinstance(damage, DamagedError):
            yield from recheck(context, is_missing=damage.missing)
            ns = keys.told_id(keys.ns_segment_of(name))
            found.append(unreadable(damage, thread_id, ns, keys.checkpoint_id_of(name)))
        elif damage is not None:
            found.append(damage)
    return found


def _states(thread_id: str, checkpoint_id: str) -> Flow[Sequence[str]]:
    """The documents of the states with which a run resumes at a root checkpoint: its own, and those of subgraphs."""
    found = {keys.enc(""): keys.checkpoint_doc(thread_id, "", checkpoint_id)}
    after: str | None = None
    _, start = keys.checkpoint_range(thread_id, checkpoint_id)
    while True:
        docs = yield from QueryDocs(
            keys.checkpoints(thread_id), start=start, after=after, limit=_NAMES_PER_PAGE, mask=RUNS_BY
        )
        for doc in docs:
            segment = keys.ns_segment_of(doc.name)
            # Namespaces of a single call of a subgraph are many. A resumed run makes the call again.
            is_call = keys.is_of_call(keys.dec(segment) or "")
            if segment not in found and not is_call and kind_of(doc) is DocumentKind.CHECKPOINT:
                found[segment] = doc.name
        if len(docs) < _NAMES_PER_PAGE:
            return tuple(found.values())
        after = docs[-1].name


def _damage(name: str, loads: Loads, fresh: Context) -> Flow[DamagedError | Damage | None]:
    try:
        doc = (yield from GetDocs((name,))).get(name)
        # A long namespace is not in the name. It may be that of a call after all.
        if doc is not None and not keys.is_of_call((known := (yield from read_manifest(doc, fresh.codec))).ns):
            yield from _read(doc, known, loads, fresh)
    except DamagedError as damage:
        return damage.alone()
    except (CheckpointCorruptError, ClearTextError) as error:
        return error
    return None


def _read(doc: Doc, known: Manifest, loads: Loads, fresh: Context) -> Flow[None]:
    """Read all bytes of a state.

    Raises:
        CheckpointCorruptError: What its DeltaChannels are made of is damaged.
        DamagedError: Something else is.
    """
    thread_id, ns, checkpoint_id = known.thread_id, known.ns, known.checkpoint_id
    fresh.codec.refuse_large_state(known.size, known.values)
    sources = Sources([Found(doc, known)], fresh)
    writes, *fetched = yield from Gather((query(thread_id, ns, checkpoint_id, checkpoint_id), *sources.fetches()))
    sources.fill(tuple(fetched))
    yield from Compute(partial(_decode, known, sources), size=known.size)
    asked = [one for one in writes if keys.writes_task_of(one.name)[1]]
    yield from read_writes([checkpoint_id], asked, fresh.codec)
    yield from report_clear(fresh.codec)
    written = known.checkpoint.get("channel_versions", {}).keys() - known.channels.keys()
    deltas = tuple(sorted(written & (metadata_of(known, loads).get(DELTA_COUNTERS) or {}).keys()))
    if deltas:
        yield from delta_history(History(thread_id, ns, checkpoint_id, deltas), _as_stored, fresh)


def _decode(known: Manifest, sources: Sources) -> None:
    for channel in known.channels:
        sources.plain(known, channel)


def _as_stored(value: Serialized) -> Serialized:
    """A value as it was serialized."""
    return value
