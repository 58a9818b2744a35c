"""Finds out from the newest checkpoints of threads what comes next, without the threads' graphs.

LangGraph has a channel for each edge. A node is due if such a channel has a value in a version that the node has not
seen. So the names and versions in a manifest usually suffice. Only two kinds of values are read: those of joins, which
wait for several nodes, and the list of packets that `Send` makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Compute, Doc, Flow, Gather, QueryDocs
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import ChannelRef, DamagedError, Manifest
from langgraph_gcs_saver.portable import Opaque, PortableSerializer, Stored
from langgraph_gcs_saver.records import record

_START = "__start__"
_BRANCH = "branch:to:"
_JOIN = "join:"
_SENDS = "__pregel_tasks"


@record(frozen=True, slots=True)
class Tip:
    """The newest checkpoint of a namespace: the document's name, and its manifest."""

    name: str
    manifest: Manifest


@record(frozen=True, slots=True)
class State:
    """What comes next at a tip.

    Attributes:
        is_waiting: Whether a task waits for an answer.
        is_unfinished: Whether work is due; `None` if a value that decides this cannot be read.
    """

    is_waiting: bool
    is_unfinished: bool | None


def is_waiting(writes: Iterable[Doc]) -> bool:
    """Whether a task of a checkpoint was interrupted and has not finished since, by the documents of its writes.

    A finished task always has regular writes. A task that wrote nothing has one that says so.
    """
    asked, finished = set(), set()
    for doc in writes:
        task, is_special = keys.writes_task_of(doc.name)
        if not is_special:
            finished.add(task)
        elif keys.INTERRUPT in doc.fields:
            asked.add(task)
    return not asked <= finished


def read_states(tips: Sequence[Tip], context: Context) -> Flow[list[State]]:
    """What comes next at each of some tips, which may be of different threads.

    This reads the names of their pending writes, and the values that decide.

    Raises:
        WrongKeyError: A value is encrypted with another key, or the saver has none.
    """
    writes = yield from Gather(tuple(map(_writes_at, tips)))
    found = [Found(Doc(tip.name, {}, 0, 0), replace(tip.manifest, channels=_deciding(tip.manifest))) for tip in tips]
    sources = Sources(found, context)
    sources.fill((yield from Gather(tuple(sources.fetches()))))
    size = sum(one.manifest.size for one in found)
    values = yield from Compute(lambda: [_values(one.manifest, sources) for one in found], size=size)
    return [
        State(is_waiting(docs), bool(docs) or _is_due(tip.manifest, of_tip))
        for tip, docs, of_tip in zip(tips, writes, values, strict=True)
    ]


def _writes_at(tip: Tip) -> QueryDocs:
    thread, ns = keys.thread_segment_of(tip.name), keys.ns_segment_of(tip.name)
    newest = tip.manifest.checkpoint_id
    start, end = keys.writes_span(thread, ns, newest, newest)
    return QueryDocs(f"{keys.THREADS}/{thread}/{keys.WRITES}", start=start, end=end, mask=(keys.INTERRUPT,))


def _deciding(known: Manifest) -> dict[str, ChannelRef]:
    """The channels whose values decide whether a node is due: packets, and joins that are new to their node."""
    return {
        name: ref
        for name, ref in known.channels.items()
        if name == _SENDS or (name.startswith(_JOIN) and not _has_seen(known, name.rpartition(":")[2], name))
    }


def _has_seen(known: Manifest, node: str, channel: str) -> bool:
    seen = known.checkpoint.get("versions_seen", {}).get(node, {})
    return bool(seen.get(channel) == known.checkpoint.get("channel_versions", {}).get(channel))


def _values(known: Manifest, sources: Sources) -> dict[str, Any]:
    """The values that decide, by channel; `Opaque` for one that is damaged or that another serializer wrote."""
    return {name: _value(known, name, sources) for name in known.channels}


def _value(known: Manifest, channel: str, sources: Sources) -> Any:
    kind = known.channels[channel].type
    try:
        return PortableSerializer().loads_typed((kind, sources.plain(known, channel)))
    except (DamagedError, ValueError):
        return Opaque(kind, b"")


def _is_due(known: Manifest, values: Mapping[str, Any]) -> bool | None:
    nodes = known.checkpoint.get("versions_seen", {})
    for name in known.channels:
        if name.startswith(_BRANCH) and not _has_seen(known, name.removeprefix(_BRANCH), name):
            return True
        if name == _START and not any(_has_seen(known, node, name) for node in nodes):
            return True
    answers = [bool(_items(value)) if name == _SENDS else _is_full(name, value) for name, value in values.items()]
    if any(answers):
        return True
    return None if any(isinstance(value, Opaque) for value in values.values()) else False


def _is_full(name: str, value: Any) -> bool:
    """Whether all nodes that a join waits for have written."""
    waits_for = name.removeprefix(_JOIN).rpartition(":")[0]
    # Nodes' names may contain a plus, so the join's name cannot be split. All have written when the lengths match.
    return bool(waits_for) and len("+".join(map(str, _items(value)))) == len(waits_for)


def _items(value: Any) -> Sequence[Any]:
    """The items of a list or a set, or of a deferred node's list or set; empty for any other value."""
    while True:
        if isinstance(value, Stored) and value.parts is not None:
            value = value.parts[2]
        elif isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], bool):
            value = value[0]  # A deferred node's channel holds the items, and whether all other nodes have ended.
        else:
            return value if isinstance(value, list | tuple) else ()
