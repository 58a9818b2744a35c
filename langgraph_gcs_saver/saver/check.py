"""`Thread.check`: whether what a thread's newest state refers to is still there, and whether a graph can resume it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.engine.effects import Ask, Flow
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.flows import tips
from langgraph_gcs_saver.flows.unfinished import unfinished
from langgraph_gcs_saver.references import checkers, refs
from langgraph_gcs_saver.results import CheckFinding, GraphChanged, RefFinding
from langgraph_gcs_saver.saver import arguments

if TYPE_CHECKING:
    from langgraph.pregel import Pregel

    from langgraph_gcs_saver.flows.context import Context, Loads
    from langgraph_gcs_saver.flows.load import Loaded

    AnyGraph = Pregel[Any, Any, Any, Any]

_NO_NODES = frozenset({"", "__start__"})


def checking(thread_id: str, graph: AnyGraph | None, loads: Loads, context: Context) -> Flow[list[CheckFinding]]:
    """What a run would find that resumes the thread now: first how the graph has changed, then all references.

    Args:
        thread_id: The thread.
        graph: The graph that should resume it; `None` to check references only.
        loads: Deserializes values.
        context: Options and caches.

    Raises:
        CheckpointCorruptError: A state is damaged.
        InvalidInputError: The graph is not a compiled one.
        SerializationError: The serializer cannot read what it once wrote.
    """
    if graph is not None and not (hasattr(graph, "channels") and hasattr(graph, "get_subgraphs")):
        raise InvalidInputError(f"graph is of type {type(graph).__name__}; it must be a compiled graph.")
    states = yield from unfinished(thread_id, loads, context)
    changed = [] if graph is None else [one for state in states for one in _changes(state, graph)]
    places = [(state, channel, place) for state in states for channel, place in _references(state)]
    found = [place for _, _, place in places]
    look = partial(checkers.check, found)
    outcomes = (yield from Ask(look, partial(asyncio.to_thread, look))) if found else []
    return [
        *changed,
        *(
            RefFinding(
                kind=kind,
                thread_id=thread_id,
                checkpoint_ns=state.manifest.ns,
                checkpoint_id=state.manifest.checkpoint_id,
                channel=channel,
                path=place.path,
                uri=place.uri,
                reason=reason,
            )
            for (state, channel, place), (kind, reason) in zip(places, outcomes, strict=True)
        ),
    ]


def _references(state: Loaded) -> Iterator[tuple[str, refs.Place]]:
    """The references in the values and the pending writes of a state, with their channels."""
    found = [*state.values.items(), *((channel, value) for _, channel, value in state.writes)]
    for channel, value in found:
        for place in refs.find(value, channel):
            yield channel, place


def _changes(state: Loaded, root: AnyGraph) -> Iterator[GraphChanged]:
    """The nodes and channels that a state needs, and that its graph does not have."""
    known = state.manifest
    graph = _graph_at(root, known.ns)
    if graph is None:  # What calls it is missing, which is found further up; or a function calls it, and hides it.
        return
    is_step = state.metadata.get("source") in ("input", "loop")
    due = tips.due_in(arguments.to_tuple(state).checkpoint, is_step=is_step)
    nodes, channels = tips.written_to((channel, value) for _, channel, value in state.writes)
    needed: Mapping[str, frozenset[str]] = {
        "node": (nodes | {*due.nodes, *due.sends}) - _NO_NODES - graph.nodes.keys(),
        "channel": (channels | tips.of_state(state.values)) - graph.channels.keys(),
    }
    for kind, missing in needed.items():
        for name in sorted(missing):
            yield GraphChanged(
                kind="node" if kind == "node" else "channel",
                thread_id=known.thread_id,
                checkpoint_ns=known.ns,
                checkpoint_id=known.checkpoint_id,
                name=name,
                graph=graph.get_name(),
            )


def _graph_at(root: AnyGraph, ns: str) -> AnyGraph | None:
    """The subgraph of a namespace, which has the form `node:task|node:task`; `None` if it is not visible."""
    # A second call of a subgraph by the same task has a number as a part of its own.
    names = [part.partition(":")[0] for part in ns.split("|") if part and not part.isdigit()]
    found: Any = root
    for name in names:
        found = dict(found.get_subgraphs()).get(name) if hasattr(found, "channels") else None
        if found is None:
            return None
    return found if hasattr(found, "channels") else None  # a remote graph has none


def problems(findings: Sequence[CheckFinding]) -> tuple[CheckFinding, ...]:
    """The findings because of which a run should not resume."""
    return tuple(one for one in findings if one.is_problem)


def summary(thread_id: str, found: Sequence[CheckFinding]) -> str:
    """A sentence about problems that has no content of the state: their kinds and channels."""
    of_graph = sorted({f"{one.kind} {one.name!r}" for one in found if isinstance(one, GraphChanged)})
    of_refs = [one for one in found if isinstance(one, RefFinding)]
    parts = [f"the graph lacks {', '.join(of_graph)}"] if of_graph else []
    for kind in ("changed", "missing", "unknown"):
        channels = [one.channel for one in of_refs if one.kind == kind]
        if channels:
            names = ", ".join(map(repr, sorted(set(channels))))
            parts.append(f"{len(channels)} {kind} in {names}")
    return f"Thread {thread_id!r} does not pass its check: {'; '.join(parts)}."
