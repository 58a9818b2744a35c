"""Values by namespace: which value of an option a graph or subgraph gets, by the names of the nodes that lead to it.

LangGraph calls the namespace of a subgraph `extract:TASK|inner:TASK`, or `extract|inner` if the subgraph keeps its
state (`checkpointer=True`). Ids of tasks differ from call to call. So a pattern names the nodes only:

- `""` is the root graph.
- `"extract|inner"` is the subgraph of node `inner`, in the subgraph of node `extract`.
- `"extract|*"` is the subgraph of `extract`, and each subgraph below it.
- `"*"` is every graph, the root graph included.

A pattern without `*` comes first. Then the longest one with `*` decides. So two patterns never compete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from langgraph_gcs_saver.errors import InvalidOptionError

V = TypeVar("V")

_BETWEEN, _TASK, _BELOW = "|", ":", "*"

Nodes = tuple[str, ...]


def nodes_of(ns: str) -> Nodes:
    """The names of the nodes that lead from the root graph to a namespace's graph.

    A node may call a subgraph several times. LangGraph numbers these calls (`extract:TASK|1`), and they are one graph.
    """
    if not ns:
        return ()
    first, *rest = ns.split(_BETWEEN)
    return (first.partition(_TASK)[0], *(part.partition(_TASK)[0] for part in rest if not part.isdigit()))


def pattern_of(ns: str) -> str:
    """The pattern that matches a namespace and all others of the same graph, as metrics and analytics show it.

    A graph has few patterns, although each call of a subgraph has a namespace of its own.
    """
    return _BETWEEN.join(nodes_of(ns))


@dataclass(frozen=True, slots=True)
class ByNamespace(Generic[V]):
    """A value for each namespace.

    Attributes:
        exact: The values of patterns without `*`.
        below: The values of patterns with `*`.
        default: The value of namespaces that no pattern matches.
    """

    exact: Mapping[Nodes, V]
    below: Mapping[Nodes, V]
    default: V

    @property
    def values(self) -> tuple[V, ...]:
        """All values, the default included."""
        return (*self.exact.values(), *self.below.values(), self.default)

    @classmethod
    def parse(cls, patterns: Mapping[str, V], default: V) -> ByNamespace[V]:
        """Values by pattern.

        Raises:
            InvalidOptionError: This is no pattern.
        """
        exact, below = dict[Nodes, V](), dict[Nodes, V]()
        for pattern, value in patterns.items():
            nodes, has_star = _parsed(pattern)
            (below if has_star else exact)[nodes] = value
        return cls(exact, below, default)

    def of(self, ns: str) -> V:
        """The value of the most specific pattern that matches a namespace, else the default."""
        nodes = nodes_of(ns)
        if nodes in self.exact:
            return self.exact[nodes]
        for count in range(len(nodes), -1, -1):
            if nodes[:count] in self.below:
                return self.below[nodes[:count]]
        return self.default


def _parsed(pattern: object) -> tuple[Nodes, bool]:
    """The nodes that a pattern names, and whether it stands for all graphs below them too."""
    if not isinstance(pattern, str):
        raise InvalidOptionError(f"A pattern of namespaces is a {type(pattern).__name__}; it must be a str.")
    nodes = pattern.split(_BETWEEN) if pattern else []
    has_star = nodes[-1:] == [_BELOW]
    if has_star:
        del nodes[-1]
    for node in nodes:
        if not node or node.isdigit() or _TASK in node or _BELOW in node:
            raise InvalidOptionError(
                f"{pattern!r} is no pattern of namespaces. It must be '' for the root graph, '*', or names of nodes "
                "such as 'extract|inner' or 'extract|*'. Ids of tasks, empty names and names that are numbers are not "
                "allowed, and '*' stands only at the end."
            )
    return tuple(nodes), has_star
