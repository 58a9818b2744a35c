"""What the graph's `stream` yields: how parts are read, what `invoke` makes of them, and how seams are hidden.

With `store="segments"`, a run is several calls of the graph. The parts of a later call repeat nothing, except the
checkpoint that it begins with. And LangGraph names the checkpoint of each step when the step begins, but only the last
one of a call is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langgraph.types import GraphOutput

from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph.pregel import Pregel
    from langgraph.types import StateSnapshot

INTERRUPT = "__interrupt__"

_CHECKPOINTS = ("checkpoints", "debug")


@record(frozen=True, slots=True)
class Shape:
    """How LangGraph writes a part, which depends on the arguments of `stream`.

    Attributes:
        modes: The argument `stream_mode`.
        has_namespaces: The argument `subgraphs`.
        is_v2: Whether `version` is `"v2"`.
    """

    modes: Any
    has_namespaces: bool
    is_v2: bool

    @classmethod
    def of(cls, arguments: Mapping[str, Any], default: Any) -> Shape:
        """The shape that the arguments of `stream` ask for; `default` is the graph's own mode."""
        modes = arguments.get("stream_mode") or default
        return cls(modes, bool(arguments.get("subgraphs")), arguments.get("version") == "v2")

    @property
    def names_checkpoints(self) -> bool:
        """Whether there are parts that name checkpoints."""
        modes = (self.modes,) if isinstance(self.modes, str) else self.modes
        return any(mode in modes for mode in _CHECKPOINTS)

    def read(self, part: Any) -> tuple[tuple[str, ...], str, Any]:
        """The namespace, the mode and the data of a part."""
        if self.is_v2:
            return part["ns"], part["type"], part["data"]
        ns: tuple[str, ...] = ()
        if not isinstance(self.modes, list):
            ns, data = part if self.has_namespaces else (ns, part)
            return ns, self.modes if isinstance(self.modes, str) else "", data
        if self.has_namespaces:
            return tuple(part)
        return ns, *part

    def write(self, part: Any, data: Any) -> Any:
        """A part with other data."""
        if self.is_v2:
            return {**part, "data": data}
        if isinstance(self.modes, list) or self.has_namespaces:
            return (*part[:-1], data)
        return data


class Collected:
    """Makes of the parts of `stream` what `invoke` returns.

    Args:
        arguments: The arguments of `invoke`.
        graph: The graph, whose own output channels are the default.
    """

    def __init__(self, arguments: Mapping[str, Any], graph: Any) -> None:
        outputs = getattr(graph, "output_channels", None)  # `Running` rejects what is not a compiled graph
        self._mode = arguments.get("stream_mode") or "values"
        is_v2 = arguments.get("version") == "v2"
        modes = ["updates", "values"] if self._mode == "values" and not is_v2 else self._mode
        wanted = arguments.get("output_keys")
        self.arguments = {
            **arguments,
            "stream_mode": modes,
            "output_keys": outputs if wanted is None else wanted,
        }
        self._shape = Shape.of(self.arguments, modes)
        self._latest: Any = None
        self._interrupts: list[Any] = []
        self._parts: list[Any] = []

    def add(self, part: Any) -> None:
        """Take the next part."""
        if self._mode != "values":
            self._parts.append(part)
            return
        _, mode, data = self._shape.read(part)
        if mode == "values":
            self._latest = data
            if self._shape.is_v2:
                self._interrupts += part.get("interrupts", ())
        elif isinstance(data, Mapping):
            self._interrupts += data.get(INTERRUPT) or ()

    def result(self) -> Any:
        """What `invoke` returns."""
        if self._mode != "values":
            return self._parts
        if self._shape.is_v2:
            return GraphOutput(value=self._latest, interrupts=tuple(self._interrupts))
        return with_interrupts(self._latest, self._interrupts)


def with_interrupts(values: Any, interrupts: Sequence[Any]) -> Any:
    """An output and its interrupts, as LangGraph joins them."""
    return values if not interrupts else {**(values if isinstance(values, Mapping) else {}), INTERRUPT: interrupts}


def of_snapshot(
    snapshot: StateSnapshot, graph: Pregel[Any, Any, Any, Any], arguments: Mapping[str, Any]
) -> Iterator[Any]:
    """What `stream` yields for a state that is returned as it is stored."""
    wanted = arguments.get("output_keys") or graph.output_channels
    values, interrupts = snapshot.values, tuple(snapshot.interrupts)
    if isinstance(values, Mapping):
        values = (
            values.get(wanted, values)
            if isinstance(wanted, str)
            else {key: values[key] for key in wanted if key in values}
        )
    modes = arguments.get("stream_mode") or graph.stream_mode
    is_v2 = arguments.get("version") == "v2"
    is_list = not isinstance(modes, str)
    # LangGraph yields an interrupt as an update first.
    for mode in ("updates", "values"):
        if mode not in (modes if is_list else (modes,)) or (mode == "updates" and not interrupts):
            continue
        part = with_interrupts(values if mode == "values" else {}, () if is_v2 and mode == "values" else interrupts)
        if is_v2:
            yield {"type": mode, "ns": (), "data": part} | ({"interrupts": interrupts} if mode == "values" else {})
        elif arguments.get("subgraphs"):
            yield ((), mode, part) if is_list else ((), part)
        else:
            yield (mode, part) if is_list else part


class Seams:
    """Hides where one segment ends and the next one begins.

    A part that names a checkpoint is kept until that is stored, or until its graph names the next one.

    Args:
        shape: How parts are written.
        parents: By id, the parents of the checkpoints that the segment has stored. It grows, and its end clears it.
        tip: The checkpoint at which the first segment begins, if there is one.
        repeats_values: Whether a later segment begins with the state once more.
    """

    def __init__(self, shape: Shape, parents: dict[str, str | None], *, tip: str | None, repeats_values: bool) -> None:
        self._shape = shape
        self._parents = parents
        self._repeats_values = repeats_values
        self._kept: dict[tuple[tuple[str, ...], str], tuple[str, Any]] = {}
        self._is_first = True
        self._tip = tip
        self._skips_values = False

    def show(self, part: Any) -> Iterator[Any]:
        """What to yield when the graph yields a part."""
        yield from self._stored()
        ns, mode, data = self._shape.read(part)
        checkpoint_id = _checkpoint_of(mode, data)
        if checkpoint_id is not None:
            if self._is_first or checkpoint_id != self._tip:
                self._kept[ns, mode] = checkpoint_id, part
                yield from self._stored()
        elif self._skips_values and mode == "values" and not ns:
            self._skips_values = False
        else:
            yield part

    def end(self, tip: str | None) -> Iterator[Any]:
        """What to yield when a segment has ended, at this checkpoint."""
        yield from self._stored()
        self._kept.clear()
        self._parents.clear()
        self._is_first, self._tip, self._skips_values = False, tip, self._repeats_values

    def _stored(self) -> Iterator[Any]:
        """The parts whose checkpoints are stored by now."""
        for key, (checkpoint_id, part) in tuple(self._kept.items()):
            if checkpoint_id in self._parents:
                del self._kept[key]
                yield self._with_parent(part, checkpoint_id)
            elif checkpoint_id == self._tip:
                del self._kept[key]
                yield part

    def _with_parent(self, part: Any, checkpoint_id: str) -> Any:
        """A part with the checkpoint's parent. LangGraph names that of the segment's first checkpoint instead."""
        _, mode, data = self._shape.read(part)
        parent = self._parents[checkpoint_id]
        if parent is None:
            return part
        payload = data["payload"] if mode == "debug" else data
        config = {"configurable": {**payload["config"]["configurable"], "checkpoint_id": parent}}
        payload = {**payload, "parent_config": config}
        return self._shape.write(part, {**data, "payload": payload} if mode == "debug" else payload)


def _checkpoint_of(mode: str, data: Any) -> str | None:
    """The id of the checkpoint that a part names; `None` if it names none."""
    if mode not in _CHECKPOINTS or (mode == "debug" and data["type"] != "checkpoint"):
        return None
    payload = data["payload"] if mode == "debug" else data
    found = payload["config"]["configurable"].get("checkpoint_id")
    return found if isinstance(found, str) else None
