"""What the guide to resuming says of LangGraph's `durability`: when a step begins, and what is stored by then."""

from __future__ import annotations

import ast
import inspect
import operator
import threading
import time
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.demo import process
from tests.docs.fences import ROOT
from tests.patience import PATIENCE

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


def test_sync_stores_the_input_and_each_step_before_the_next_begins(uri):
    found = []

    class Late(GCSSaver):
        def put(self, *arguments: Any) -> Any:
            time.sleep(0.3)  # clock: a node that does not wait for it finds nothing
            return super().put(*arguments)

    def node(state):
        latest = saver.get_tuple(THREAD)
        found.append(None if latest is None else latest.checkpoint["channel_values"]["done"])
        return {"done": [len(state["done"])]}

    with Late.from_conn_string(uri) as saver:
        assert run(saver, node, durability="sync") == [*range(STEPS)]
    assert found == [[*range(step)] for step in range(STEPS)]


def test_the_function_of_an_entrypoint_need_not_find_its_input(uri):
    store_answers = threading.Event()

    class Slow(GCSSaver):
        def put(self, *arguments: Any) -> Any:
            assert store_answers.wait(PATIENCE)
            return super().put(*arguments)

    with Slow.from_conn_string(uri) as saver:

        @entrypoint(checkpointer=saver)
        def workflow(given):
            assert saver.get_tuple(THREAD) is None
            store_answers.set()
            return given

        assert workflow.invoke("input", THREAD, durability="sync") == "input"


@pytest.mark.parametrize("mode", [{}, {"durability": "async"}])
def test_steps_of_the_default_need_not_wait_for_the_store(uri, mode):
    store_answers = threading.Event()

    class Slow(GCSSaver):
        def put(self, *arguments: Any) -> Any:
            assert store_answers.wait(PATIENCE)
            return super().put(*arguments)

    def node(state):
        if len(state["done"]) == STEPS - 1:
            assert saver.get_tuple(THREAD) is None
            store_answers.set()
        return {"done": [len(state["done"])]}

    with Slow.from_conn_string(uri) as saver:
        assert run(saver, node, **mode) == [*range(STEPS)]


def test_the_demo_says_how_durable_its_steps_are():
    told = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Try it\n")[2].partition("\n## ")[0]
    assert 'the demo runs with `durability="sync"`' in " ".join(told.split())
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(process))) if isinstance(node, ast.Call)]
    (given,) = [call.keywords for call in calls if ast.unparse(call.func) == "run"]
    assert {"durability": "sync"}.items() <= {one.arg: getattr(one.value, "value", None) for one in given}.items()


def test_exit_stores_nothing_before_the_end(uri):
    def node(state):
        assert saver.get_tuple(THREAD) is None
        return {"done": [len(state["done"])]}

    with GCSSaver.from_conn_string(uri) as saver:
        assert run(saver, node, durability="exit") == [*range(STEPS)]
        assert len(saver.admin.checkpoint_ids(THREAD)) == 1
