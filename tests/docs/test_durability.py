"""What README.md says of LangGraph's `durability`: when a step begins, and what is stored by then."""

from __future__ import annotations

import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver

STEPS = 6
THREAD: Any = {"configurable": {"thread_id": "1"}}


class State(TypedDict):
    done: Annotated[list[int], operator.add]


def chain(node: Any) -> Any:
    """A graph whose one node runs for each step."""
    builder = StateGraph(State).add_node("node", node).add_edge(START, "node")
    return builder.add_conditional_edges("node", lambda state: END if len(state["done"]) == STEPS else "node")


def run(saver: GCSSaver, node: Any, **mode: Any) -> list[int]:
    graph = chain(node).compile(checkpointer=saver)
    graph.invoke({"done": []}, THREAD, **mode)
    stored: list[int] = graph.get_state(THREAD).values["done"]
    return stored


@pytest.fixture
def uri(tmp_path):
    return f"file://{tmp_path}/store"


def test_sync_stores_each_step_before_the_next_begins(uri):
    found = []

    def node(state):
        latest = saver.get_tuple(THREAD)
        found.append(None if latest is None else len(latest.checkpoint["channel_values"].get("done", ())))
        return {"done": [len(state["done"])]}

    with GCSSaver.from_conn_string(uri) as saver:
        assert run(saver, node, durability="sync") == [*range(STEPS)]
    # The first step need not find even the input.
    assert found[1:] == [*range(1, STEPS)]


@pytest.mark.parametrize("mode", [{}, {"durability": "async"}])
def test_steps_of_the_default_need_not_wait_for_the_store(uri, mode):
    store_answers = threading.Event()

    class Slow(GCSSaver):
        def put(self, *arguments: Any) -> Any:
            assert store_answers.wait(60)
            return super().put(*arguments)

    def node(state):
        if len(state["done"]) == STEPS - 1:
            assert saver.get_tuple(THREAD) is None
            store_answers.set()
        return {"done": [len(state["done"])]}

    with Slow.from_conn_string(uri) as saver:
        assert run(saver, node, **mode) == [*range(STEPS)]


def test_exit_stores_nothing_before_the_end(uri):
    def node(state):
        assert saver.get_tuple(THREAD) is None
        return {"done": [len(state["done"])]}

    with GCSSaver.from_conn_string(uri) as saver:
        assert run(saver, node, durability="exit") == [*range(STEPS)]
        assert len(saver.checkpoint_ids(THREAD)) == 1
