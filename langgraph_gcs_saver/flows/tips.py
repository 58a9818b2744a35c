"""What the newest checkpoints of threads say about what comes next, without the threads' graphs.

LangGraph has a channel for each edge, and a node is due when such a channel has a value in a version that the node has
not seen. So the names and versions in a manifest tell; a value is read only where a name cannot tell: of a join, which
waits for several nodes, and of the list of packets that `Send` makes.
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
    """The newest checkpoint of a namespace: the document's name, and what it says."""

    name: str
    manifest: Manifest


@record(frozen=True, slots=True)
class State:
    """What comes next at a tip.

    Attributes:
        is_waiting: Whether a task asked for an answer, and has not finished.
        is_unfinished: Whether work is due; `None` if a value that decides cannot be read.
    """

    is_waiting: bool
    is_unfinished: bool | None


def is_waiting(writes: Iterable[Doc]) -> bool:
    """Whether a task of a checkpoint asked for an answer and has not finished since, by the documents of its writes.

    A task that has finished has regular writes, if only one that says that it wrote nothing.
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
    """What comes next at each of some tips, of any threads: their pending writes, and values that decide.

    Raises:
        WrongKeyError: A value is encrypted, with another key or while the saver has none.
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
    """The channels whose value says whether a node is due: packets, and joins with something new for their node."""
    return {
        name: ref
        for name, ref in known.channels.items()
        if name == _SENDS or (name.startswith(_JOIN) and not _has_seen(known, name.rpartition(":")[2], name))
    }


def _has_seen(known: Manifest, node: str, channel: str) -> bool:
    seen = known.checkpoint.get("versions_seen", {}).get(node, {})
    return bool(seen.get(channel) == known.checkpoint.get("channel_versions", {}).get(channel))


def _values(known: Manifest, sources: Sources) -> dict[str, Any]:
    """The values that decide, by channel; `Opaque` for what is damaged or was written by another serializer."""
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
    # A node's name may have a plus, so the names are not told apart: some of them are all when they are as long.
    return bool(waits_for) and len("+".join(map(str, _items(value)))) == len(waits_for)


def _items(value: Any) -> Sequence[Any]:
    """What a list or a set holds, that of a deferred node included; nothing for another value."""
    while True:
        if isinstance(value, Stored) and value.parts is not None:
            value = value.parts[2]
        elif isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], bool):
            value = value[0]  # A node that waits for the end of all others: what is there, and whether it is time.
        else:
            return value if isinstance(value, list | tuple) else ()
