"""A graph for `langgraph-gcs work`: its second node asks, and fails while a file says so."""

from __future__ import annotations

import operator
import os
import signal
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class BrokenError(Exception):
    """The node fails."""


def ask(state: State) -> dict[str, Any]:
    answer = interrupt({"sure": True})
    if Path("broken").exists():
        raise BrokenError
    return {"log": [repr(answer)]}


def end(state: State) -> dict[str, Any]:
    return {"log": ["end"]}


def stop(state: State) -> dict[str, Any]:
    if Path("stopping").exists():
        os.kill(os.getpid(), signal.SIGTERM)
    return {}


def build() -> Any:
    """The graph, without a checkpointer."""
    found = StateGraph(State)
    for node in (ask, stop, end):
        found.add_node(node.__name__, node)
    found.add_edge(START, "ask")
    found.add_edge("ask", "stop")
    found.add_edge("stop", "end")
    return found.compile(name="asking")


graph = build()


async def only_async(state: State) -> dict[str, Any]:
    return {"log": ["async"]}


def build_async(name: str = "coroutines") -> Any:
    """A graph that asks, and whose next node is a coroutine."""
    found = StateGraph(State)
    found.add_node("ask", ask)
    found.add_node("only_async", only_async)
    found.add_edge(START, "ask")
    found.add_edge("ask", "only_async")
    return found.compile(name=name)


def build_outer() -> Any:
    """A graph with such a graph as its node."""
    found = StateGraph(State)
    found.add_node("inner", build_async())
    found.add_edge(START, "inner")
    return found.compile(name="outer")
