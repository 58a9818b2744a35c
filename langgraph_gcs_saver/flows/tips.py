"""Finds out from the newest checkpoints of threads what comes next, without the threads' graphs.

LangGraph has a channel for each edge. A node is due if such a channel has a value in a version that the node has not
seen. So the names and versions in a manifest nearly suffice. Few values are read: those of joins, which wait for
several nodes, those of new edges, which say whether their node is deferred, and the list of packets that `Send` makes.
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
SENDS = "__pregel_tasks"
"""The channel of the packets that `Send` makes."""
_INTERRUPTED = "__interrupt__"
"""The name under which LangGraph notes the versions that it has seen when it continued after an interrupt."""

_NO_NODES = frozenset({_START, "__input__", _INTERRUPTED})
"""Names that LangGraph uses like those of nodes."""


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
    found = [Found(Doc(tip.name, {}, 0, 0), replace(tip.manifest, channels=deciding_in(tip.manifest))) for tip in tips]
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


def deciding_in(known: Manifest) -> dict[str, ChannelRef]:
    """The channels whose values decide whether a node is due: packets, and the edges and joins that are new to it."""
    versions, seen = versions_of(known.checkpoint)
    return {name: ref for name, ref in known.channels.items() if _decides(name, versions, seen)}


def _decides(name: str, versions: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    is_edge = name.startswith((_BRANCH, _JOIN))
    return name == SENDS or (is_edge and not _has_seen(_node_of(name), name, versions, seen))


def _node_of(edge: str) -> str:
    """The node to which an edge or a join leads."""
    return edge.removeprefix(_BRANCH) if edge.startswith(_BRANCH) else edge.rpartition(":")[2]


def versions_of(checkpoint: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The versions of a checkpoint's channels, and those that each node has seen."""
    return checkpoint.get("channel_versions", {}), checkpoint.get("versions_seen", {})


def _has_seen(node: str, channel: str, versions: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    return bool(seen.get(node, {}).get(channel) == versions.get(channel))


def _values(known: Manifest, sources: Sources) -> dict[str, Any]:
    """The values that decide, by channel; `Opaque` for one that is damaged or that another serializer wrote."""
    return {name: _value(known, name, sources) for name in known.channels}


def _value(known: Manifest, channel: str, sources: Sources) -> Any:
    kind = known.channels[channel].type
    try:
        return PortableSerializer().loads_typed((kind, sources.plain(known, channel)))
    except (DamagedError, ValueError):
        return Opaque(kind, b"")


@record(frozen=True, slots=True)
class Due:
    """What a checkpoint says about the next step.

    Attributes:
        nodes: The nodes that are due, in order of their names.
        sends: The nodes to which packets are on their way, one for each packet; empty for an unknown one.
        is_unknown: Whether a value that decides this cannot be read.
    """

    nodes: tuple[str, ...]
    sends: tuple[str, ...]
    is_unknown: bool

    @property
    def tasks(self) -> int:
        """The number of tasks of the next step."""
        return len(self.nodes) + len(self.sends)


def due(
    names: Iterable[str],
    versions: Mapping[str, Any],
    seen: Mapping[str, Any],
    values: Mapping[str, Any],
    *,
    is_step: bool = False,
) -> Due:
    """What a checkpoint says about the next step.

    Args:
        names: The names of the channels that have a value.
        versions: The versions of its channels.
        seen: The versions that each node has seen.
        values: The values that decide, by channel.
        is_step: Whether an input or a superstep has made the checkpoint. What is due was then written by it. Older
            edges and packets lead to nodes that the graph did not have any more.
    """
    newest = _newest_of(versions) if is_step else None
    current = [name for name in names if newest is None or _step_of(versions.get(name)) == newest]
    nodes = set()
    for name in current:
        if name == _START and not any(_has_seen(one, name, versions, seen) for one in seen if one != _INTERRUPTED):
            nodes.add(_START)
        is_edge = name != SENDS and _decides(name, versions, seen)
        if is_edge and _leads_on(name, values.get(name)):
            nodes.add(_node_of(name))
    found = {name: values[name] for name in current if name in values}
    sends = tuple(map(_receiver, _items(found.get(SENDS))))
    return Due(tuple(sorted(nodes)), sends, any(isinstance(value, Opaque) for value in found.values()))


def _leads_on(edge: str, value: Any) -> bool:
    """Whether the value of an edge or a join makes its node due."""
    return not _waits_for_all(value) and (edge.startswith(_BRANCH) or _is_full(edge, value))


def _newest_of(versions: Mapping[str, Any]) -> Any:
    """The newest version of all channels, as `_step_of` has it; `None` if they cannot be compared."""
    kinds = set(map(type, versions.values()))
    return _step_of(max(versions.values())) if len(kinds) == 1 and kinds <= {str, int, float} else None


def _step_of(version: Any) -> Any:
    """What the versions have in common that one superstep gives. Before a dot they count, after it they are random."""
    return version.partition(".")[0] if isinstance(version, str) else version


def ran_at(checkpoint: Mapping[str, Any]) -> frozenset[str]:
    """The nodes that made a checkpoint, except those that a packet has called. They were due in the version before."""
    versions, seen = versions_of(checkpoint)
    newest = _newest_of(versions)
    if newest is None:
        return frozenset()
    known = {version for one in (versions, *seen.values()) for version in one.values()}
    former = _newest_of({version: version for version in known if _step_of(version) != newest})
    return frozenset(node for node, one in seen.items() if former in map(_step_of, one.values())) - _NO_NODES


def due_in(checkpoint: Mapping[str, Any], *, is_step: bool = False) -> Due:
    """What a checkpoint of LangGraph's, with its values, says about the next step; see `due`."""
    versions, seen = versions_of(checkpoint)
    values = checkpoint.get("channel_values", {})
    deciding = {name: value for name, value in values.items() if _decides(name, versions, seen)}
    return due(values, versions, seen, deciding, is_step=is_step)


def written_to(writes: Iterable[tuple[str, Any]]) -> tuple[frozenset[str], frozenset[str]]:
    """The nodes that pending writes make due, by edges and packets, and the other channels that they write to.

    Args:
        writes: Names of channels, and values.
    """
    found = list(writes)
    nodes = {name.removeprefix(_BRANCH) for name, _ in found if name.startswith(_BRANCH)}
    nodes |= {_receiver(value) for name, value in found if name == SENDS}
    return frozenset(nodes), of_state(name for name, _ in found)


def of_state(channels: Iterable[str]) -> frozenset[str]:
    """The channels that are a graph's own: neither LangGraph's nor this library's."""
    return frozenset(name for name in channels if not name.startswith((_BRANCH, _JOIN, "__", "lg_")))


def due_at(known: Manifest, values: Mapping[str, Any], *, is_step: bool = False) -> Due:
    """What a stored checkpoint says about the next step; `values` has the values of its deciding channels."""
    return due(known.channels, *versions_of(known.checkpoint), values, is_step=is_step)


def _is_due(known: Manifest, values: Mapping[str, Any]) -> bool | None:
    found = due_at(known, values)
    return True if found.tasks else None if found.is_unknown else False


def _receiver(packet: object) -> str:
    """The node that gets a packet; empty if the packet does not say it."""
    if isinstance(packet, Stored) and packet.parts is not None:
        packet = packet.parts[2]
        packet = packet[0] if isinstance(packet, list | tuple) and packet else None
    node = getattr(packet, "node", packet)
    return node if isinstance(node, str) else ""


def _is_full(name: str, value: Any) -> bool:
    """Whether all nodes that a join waits for have written."""
    waits_for = name.removeprefix(_JOIN).rpartition(":")[0]
    # Nodes' names may contain a plus, so the join's name cannot be split. All have written when the lengths match.
    return bool(waits_for) and len("+".join(map(str, _items(value)))) == len(waits_for)


def _waits_for_all(value: Any) -> bool:
    """Whether a value is that of an edge to a deferred node, and other nodes have not all ended."""
    value = _opened(value)
    return _is_deferred(value) and not value[1]


def _items(value: Any) -> Sequence[Any]:
    """The items of a list or a set, or of a deferred node's list or set; empty for any other value."""
    value = _opened(value)
    if _is_deferred(value):
        value = _opened(value[0])
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return value if isinstance(value, list | tuple) else ()


def _is_deferred(value: Any) -> bool:
    """Whether a value is that of a deferred node's channel: what it holds, and whether all other nodes have ended."""
    return isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[1], bool)


def _opened(value: Any) -> Any:
    """A value without the extensions of MessagePack around it."""
    while isinstance(value, Stored) and value.parts is not None:
        value = value.parts[2]
    return value
