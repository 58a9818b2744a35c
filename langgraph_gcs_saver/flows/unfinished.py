"""Reads the states with which a run resumes: the root graph's tip, and those of subgraphs in the step under way."""

from __future__ import annotations

from langgraph.checkpoint.base import WRITES_IDX_MAP

from langgraph_gcs_saver.engine.effects import Doc, Flow, GetDocs, QueryDocs
from langgraph_gcs_saver.flows import load
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.load import Loaded
from langgraph_gcs_saver.flows.manifests import read_manifest, unreadable
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import RUNS_BY, DamagedError, DocumentKind, kind_of

_NAMES_PER_PAGE = 1000
"""How many names of checkpoints are read at once."""


def unfinished(thread_id: str, loads: Loads, context: Context) -> Flow[list[Loaded]]:
    """The tip of a thread, and the newest state of each subgraph that has stored one since.

    A subgraph that stores a state after the root graph's newest checkpoint belongs to the step that is under way. One
    whose task has ended is left out.

    Raises:
        CheckpointCorruptError: One of them is damaged.
        SerializationError: The serializer cannot read what it once wrote.
        UnsupportedFormatError: A newer version wrote it.
        WrongKeyError: It is encrypted with another key.
    """
    tip = yield from load.get_tuple(thread_id, "", None, loads, context)
    if tip is None:
        return []
    found = [tip]
    for doc in (yield from _since(thread_id, tip.manifest.checkpoint_id)):
        checkpoint_id = keys.checkpoint_id_of(doc.name)
        try:
            known = yield from read_manifest(doc, context.codec)
        except DamagedError as damage:
            ns = keys.told_id(keys.ns_segment_of(doc.name))
            raise unreadable(damage, thread_id, ns, checkpoint_id) from None
        inner = yield from load.get_tuple(thread_id, known.ns, checkpoint_id, loads, context)
        found += [] if inner is None else [inner]
    ended = {task for state in found for task, channel, _ in state.writes if channel not in WRITES_IDX_MAP}
    return [state for state in found if ended.isdisjoint(_tasks_of(state.manifest.ns))]


def _tasks_of(ns: str) -> list[str]:
    """The tasks within which a namespace is. One that has ended, which its writes show, does not run again."""
    return [part.partition(":")[2] for part in ns.split("|") if ":" in part]


def _since(thread_id: str, checkpoint_id: str) -> Flow[list[Doc]]:
    """The newest checkpoint of each namespace that is newer than one of the root graph."""
    names: dict[str, str] = {}
    end, _ = keys.checkpoint_range(thread_id, checkpoint_id)
    after: str | None = None
    while True:
        docs = yield from QueryDocs(
            keys.checkpoints(thread_id), after=after, end=end, limit=_NAMES_PER_PAGE, mask=RUNS_BY
        )
        for doc in docs:
            segment = keys.ns_segment_of(doc.name)
            if segment != keys.enc("") and kind_of(doc) is DocumentKind.CHECKPOINT:
                names.setdefault(segment, doc.name)  # names are in the order of newest first
        if len(docs) < _NAMES_PER_PAGE:
            break
        after = docs[-1].name
    return [*(yield from GetDocs(tuple(names.values()))).values()] if names else []
