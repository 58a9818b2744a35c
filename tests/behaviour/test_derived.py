"""Values that are computed again after a crash or an interrupt, and vectors outside of the state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import arecomputed, recomputed, references, run
from langgraph_gcs_saver.references import InMemoryVectors, checkers

CONFIG: Any = {"configurable": {"thread_id": "t"}}
SECRET = "a value that is not stored"


class State(TypedDict, total=False):
    texts: list[str]
    embeddings: Annotated[list[str], UntrackedValue]
    seen: int


def searching(saver: Any, computed: list[int]) -> Any:
    """Two nodes that need the embeddings, a question, and another one."""

    def embed(state: Mapping[str, Any]) -> list[str]:
        computed.append(len(state["texts"]))
        return [f"{SECRET}: {text}" for text in state["texts"]]

    def use(state: State) -> dict[str, Any]:
        found = recomputed(state, "embeddings", embed)
        return {"embeddings": found, "seen": state.get("seen", 0) + len(found)}

    def ask(_: State) -> dict[str, Any]:
        interrupt("go on?")
        return {}

    build = StateGraph(State)
    for name, node in {"one": use, "two": use, "ask": ask, "three": use}.items():
        build.add_node(name, node)
    for edge in ((START, "one"), ("one", "two"), ("two", "ask"), ("ask", "three")):
        build.add_edge(*edge)
    return build.compile(checkpointer=saver)


def test_what_is_not_stored_is_computed_again(make_saver: Any) -> None:
    computed: list[int] = []
    first = make_saver()
    run(searching(first, computed), {"texts": ["a", "b"]}, CONFIG)
    assert computed == [2]  # once for two nodes
    second = make_saver()
    graph = searching(second, computed)
    assert run(graph, Command(resume="yes"), CONFIG)["seen"] == 6
    assert computed == [2, 2]
    for found in second.list(CONFIG):
        assert SECRET not in str(found)
    assert second.thread("t").check(graph=graph) == []


def test_a_state_can_be_an_object_and_none_is_missing() -> None:
    assert recomputed(SimpleNamespace(x=1), "x", lambda _: 2) == 1
    assert recomputed(SimpleNamespace(), "x", lambda _: 2) == 2
    assert recomputed({"x": None}, "x", lambda _: 2) == 2
    assert recomputed({"x": 0}, "x", lambda _: 2) == 0

    async def compute(state: Any) -> int:
        return int(state["y"])

    assert asyncio.run(arecomputed({"y": 3}, "x", compute)) == 3
    assert asyncio.run(arecomputed({"x": 1, "y": 3}, "x", compute)) == 1


def test_vectors_are_referred_to_by_their_ids(saver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkers, "_registered", {})
    index: references.VectorSearch = InMemoryVectors()
    references.register("vectors", references.look_in(index))
    index.put({"doc-1": [1, 2.5], "doc-2": (3, 4)})
    index.put({"doc-2": [0.5, 0.5]})
    assert index.get(["doc-1", "doc-2", "none"]) == {"doc-1": (1.0, 2.5), "doc-2": (0.5, 0.5)}
    assert set(index.exists(["doc-1", "none"])) == {"doc-1"}
    refs = [references.Ref.of("vectors:doc-1"), references.Ref.of("vectors:doc-2")]
    searching(saver, []).update_state(CONFIG, {"texts": refs}, as_node="two")
    assert [one.kind for one in saver.thread("t").check()] == ["ok", "ok"]
    index.delete(["doc-2", "none"])
    assert [one.kind for one in saver.thread("t").check()] == ["ok", "missing"]
