"""What the installed LangGraph says about a task that runs: each fact that derived keys and the barrier depend on."""

import asyncio
import operator
from typing import Annotated, TypedDict

import pytest
from langgraph.config import get_config
from langgraph.func import task
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.saver.place_in_run import current_config, place_of

CONFIG = {"configurable": {"thread_id": "thread-1"}}


class State(TypedDict):
    seen: Annotated[list, operator.add]


@pytest.fixture
def saver():
    with GCSSaver.from_conn_string("memory:") as made:
        yield made


@pytest.fixture
def places():
    return []


def graph_of(checkpointer, node):
    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile(checkpointer=checkpointer)


def note(places):
    def node(state):
        places.append(place_of(current_config()))

    return node


def stored(saver):
    found = [one.config["configurable"] for one in saver.list(CONFIG)]
    return {(one["checkpoint_ns"], one["checkpoint_id"]) for one in found}


def failing_once(places):
    def node(state):
        places.append(place_of(current_config()))
        if len(places) == 1:
            raise OSError("once")

    return node


def test_a_task_that_runs_again_has_the_same_namespace_and_another_execution(saver, places):
    graph = graph_of(saver, failing_once(places))
    with pytest.raises(OSError, match="once"):
        graph.invoke({"seen": []}, CONFIG, durability="sync")
    graph.invoke(None, CONFIG, durability="sync")
    first, second = places
    assert first.task_ns == second.task_ns
    assert first.checkpoints == second.checkpoints
    assert first.execution != second.execution
    assert (first.thread_id, first.why_never_durable) == ("thread-1", None)


def test_the_checkpointer_is_the_saver_or_a_copy_that_shares_its_context(saver, places):
    graph_of(saver, note(places)).invoke({"seen": []}, CONFIG)
    assert places[0].checkpointer._contexts is saver._contexts


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("checkpointer", [None, True])
def test_the_checkpoints_of_all_graphs_around_a_task(saver, places, levels, checkpointer):
    node = note(places)
    for _ in range(levels):
        node = graph_of(checkpointer, node)
    graph_of(saver, node).invoke({"seen": []}, CONFIG, durability="async")
    (place,) = places
    assert len(place.checkpoints) == levels + 1
    assert [ns.count("|") for ns, _ in place.checkpoints] == [0, 0, 1][: levels + 1]
    assert set(place.checkpoints) <= stored(saver)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_task_that_a_node_calls_is_ordered_by_the_node_s_checkpoint(saver, places, is_async):
    @task
    def called(number: int) -> int:
        places.append(place_of(current_config()))
        return number

    @task
    async def acalled(number: int) -> int:
        return called.func(number)

    async def anode(state):
        await asyncio.gather(acalled(1), acalled(2))

    graph = graph_of(saver, anode if is_async else lambda state: [called(n).result() for n in (1, 2)] and None)
    if is_async:
        asyncio.run(graph.ainvoke({"seen": []}, CONFIG))
    else:
        graph.invoke({"seen": []}, CONFIG)
    first, second = places
    assert first.task_ns != second.task_ns
    assert first.checkpoints == second.checkpoints
    assert [ns for ns, _ in first.checkpoints] == [""]
    assert set(first.checkpoints) <= stored(saver)


def test_what_will_never_be_durable(saver, places):
    graph_of(saver, note(places)).invoke({"seen": []}, CONFIG, durability="exit")
    graph_of(saver, graph_of(False, note(places))).invoke({"seen": []}, CONFIG, durability="async")
    assert ["exit" in places[0].why_never_durable, "False" in places[1].why_never_durable] == [True, True]


def test_the_lease_of_the_config_reaches_the_task_and_never_the_metadata(saver, places):
    with saver.thread("thread-1").lease() as lease:
        graph_of(saver, graph_of(None, note(places))).invoke({"seen": []}, lease.config)
    assert places[0].lease == ("thread-1", lease.token, lease.run_id)
    assert not [one for one in saver.list(CONFIG) if "__lg_lease" in str(one.metadata)]


def test_without_private_keys_the_wait_decides(saver, places):
    """As in a LangGraph that has renamed them."""

    def node(state):
        found = {k: v for k, v in get_config()["configurable"].items() if k not in {"__pregel_call", "checkpoint_map"}}
        found = {k: v for k, v in found.items() if k not in {"__pregel_checkpointer", "__pregel_durability"}}
        places.append(place_of({"configurable": found}))

    graph_of(saver, graph_of(None, node)).invoke({"seen": []}, CONFIG)
    (place,) = places
    assert (place.checkpointer, place.why_never_durable) == (None, None)
    assert set(place.checkpoints) <= stored(saver)
