"""What leases and operations need of LangGraph, on the release that is installed: its private names, and drains."""

import asyncio
import operator
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph.managed import RemainingSteps
from langgraph.runtime import RunControl, get_runtime
from langgraph.types import Send

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.saver import langgraph_private
from langgraph_gcs_saver.saver.langgraph_private import control_of
from tests.patience import eventually

CONFIG = {"configurable": {"thread_id": "t", "__lg_key": ("t", 1)}}


class State(TypedDict):
    done: Annotated[list[str], operator.add]


class Draining(GCSSaver):
    """Asks the run to end when the put of a step has been stored."""

    step: Any = None
    ns = ""
    at_once = False

    def put(self, config, checkpoint, metadata, new_versions):
        seen = super().put(config, checkpoint, metadata, new_versions)
        self.controls.append(control_of(config))
        self.configs.append(config)
        if metadata["step"] == self.step and config["configurable"]["checkpoint_ns"].startswith(self.ns):
            control_of(config).request_drain("asked by a test")
        return seen

    async def aput(self, *args):
        return await asyncio.to_thread(self.put, *args)

    def put_writes(self, config, *args):
        self.controls.append(control_of(config))
        return super().put_writes(config, *args)

    def get_tuple(self, config):
        self.reads.append(control_of(config))
        if self.at_once:
            control_of(config).request_drain("at once")
        return super().get_tuple(config)

    async def aget_tuple(self, config):
        return await asyncio.to_thread(self.get_tuple, config)


@pytest.fixture
def saver():
    with Draining.from_conn_string("memory:") as saver:
        saver.controls, saver.configs, saver.reads = [], [], []
        yield saver


def chain(saver, names, ran, waits=None):
    builder = StateGraph(State)

    def node(name):
        def run(state):
            ran.append(name)
            if name == waits:
                eventually(lambda: get_runtime().drain_requested)
            return {"done": [name]}

        return run

    for name in names:
        builder.add_node(name, node(name))
    builder.add_edge(START, names[0])
    for one, other in pairwise(names):
        builder.add_edge(one, other)
    return builder.compile(checkpointer=saver)


def invoke(graph, given, *, is_async, **options):
    if is_async:
        return asyncio.run(graph.ainvoke(given, CONFIG, **options))
    return graph.invoke(given, CONFIG, **options)


NAMES = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_drain_asked_in_a_put_ends_the_run_and_no_node_runs_twice(saver, durability, is_async):
    ran = []
    # With "async", the next node runs beside the put.
    graph = chain(saver, NAMES, ran, waits="b" if durability == "async" else None)
    saver.step = 1
    with pytest.raises(GraphDrained, match="asked by a test"):
        invoke(graph, {"done": []}, is_async=is_async, durability=durability)
    assert ran in ([["a"]] if durability == "sync" else [["a"], ["a", "b"]])
    assert graph.get_state(CONFIG).values == {"done": ran}
    saver.step = None
    graph = chain(saver, NAMES, ran)
    assert invoke(graph, None, is_async=is_async, durability=durability) == {"done": NAMES}
    assert ran == NAMES
    assert len({id(control) for control in saver.controls}) == 2, "one for each run"


def test_with_exit_there_is_no_put_to_ask_from_before_the_end(saver):
    ran = []
    graph = chain(saver, NAMES, ran)
    graph.invoke({"done": []}, CONFIG, durability="exit")
    assert (ran, len(saver.controls)) == (NAMES, 1)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_run_that_reads_shows_its_control_before_its_first_node(saver, durability):
    graph = chain(saver, NAMES, ran := [])
    saver.at_once = True
    with pytest.raises(GraphDrained, match="at once"):
        graph.invoke({"done": []}, CONFIG, durability=durability)
    assert ran == []


def test_parallel_tasks_finish_and_subgraphs_have_the_same_control(saver):
    ran = []
    inner = chain(None, ["x", "y"], ran)
    builder = StateGraph(State)
    builder.add_node("inner", inner)
    builder.add_node("one", lambda state: ran.append("one") or {"done": ["one"]})
    builder.add_conditional_edges(START, lambda state: [Send("one", {}), Send("one", {}), Send("inner", {"done": []})])
    builder.add_node("last", lambda state: ran.append("last") or {"done": ["last"]})
    builder.add_edge("inner", "last")
    graph = builder.compile(checkpointer=saver)
    saver.step, saver.ns = 1, "inner"  # after x
    with pytest.raises(GraphDrained):
        graph.invoke({"done": []}, CONFIG, durability="sync")
    assert sorted(ran) == ["one", "one", "x"]
    assert len({id(control) for control in saver.controls}) == 1
    saver.step = None
    graph.invoke(None, CONFIG, durability="sync")
    assert sorted(ran) == ["last", "one", "one", "x", "y"]


def test_keys_with_underscores_reach_put_and_are_not_stored(saver):
    graph = chain(saver, NAMES, [])
    graph.invoke({"done": []}, CONFIG)
    assert {config["configurable"]["__lg_key"] for config in saver.configs} == {("t", 1)}
    found = saver.get_tuple(CONFIG)
    assert "__lg_key" not in found.metadata
    assert "__lg_key" not in found.config["configurable"]
    saver.configs.clear()
    returned = graph.update_state(CONFIG, {"done": ["by hand"]})
    assert "__lg_key" not in returned["configurable"]
    assert "__lg_key" not in graph.get_state(CONFIG).config["configurable"]
    assert saver.configs[0]["configurable"]["__lg_key"] == ("t", 1)


def test_there_is_no_control_outside_a_run(saver):
    graph = chain(saver, NAMES, [])
    graph.invoke({"done": []}, CONFIG)
    saver.controls.clear()
    saver.reads.clear()
    graph.update_state(CONFIG, {"done": ["by hand"]})
    graph.get_state(CONFIG)
    assert set(saver.controls) == set(saver.reads) == {None}


def test_a_control_of_the_caller_is_the_one_that_put_sees(saver):
    given = RunControl()
    chain(saver, NAMES, []).invoke({"done": []}, CONFIG, control=given)
    assert set(saver.controls) == {given}


@pytest.mark.parametrize(
    "config", [None, {}, {"configurable": None}, {"configurable": {}}, {"configurable": {"__pregel_runtime": object()}}]
)
def test_a_config_without_a_control_has_none(config):
    assert control_of(config) is None


NAMES_OF_CONFIGS = re.compile(r"""["']((?:__pregel_(?!tasks|push|pull)\w+)|checkpoint_map)["']""")


def test_one_module_reads_the_private_names_of_a_config():
    own = Path(langgraph_private.__file__)
    found = {path: set(NAMES_OF_CONFIGS.findall(path.read_text("utf-8"))) for path in own.parents[1].rglob("*.py")}
    assert [path.name for path, names in found.items() if names] == [own.name]
    assert found[own] == {"__pregel_runtime", "__pregel_checkpointer", "__pregel_durability", "__pregel_call"} | {
        "checkpoint_map",
        "__pregel_resuming",
    }


@pytest.mark.parametrize("stop", [None, "a", "b"])
def test_two_calls_of_which_the_first_is_drained_are_like_one(saver, stop):
    """So the input can be stored by a call of its own, and no part, breakpoint or resume shows the seam."""
    options = {"stream_mode": ["values", "updates", "debug"], "interrupt_before": [] if stop is None else [stop]}
    graph = chain(saver, NAMES, [])
    whole = list(graph.stream({"done": []}, {"configurable": {"thread_id": "whole"}}, **options))
    control = RunControl()
    control.request_drain("the input is stored")
    with suppress(GraphDrained):
        graph.invoke({"done": []}, CONFIG, control=control, durability="sync")
    assert saver.get_tuple(CONFIG).metadata["source"] == "input"
    config = {"configurable": {**CONFIG["configurable"], **langgraph_private.NOT_RESUMING}}
    parts = list(graph.stream(None, config, **options))
    assert [mode for mode, _ in parts] == [mode for mode, _ in whole]
    assert [part for mode, part in parts if mode != "debug"] == [part for mode, part in whole if mode != "debug"]


def test_the_default_recursion_limit_is_that_of_a_run(saver):
    seen = []

    class Counted(State):
        left: RemainingSteps

    def node(state: Counted):
        seen.append(state["left"])

    graph = StateGraph(Counted).add_node("a", node).add_edge(START, "a").compile(checkpointer=saver)
    graph.invoke({"done": []}, CONFIG)
    graph.invoke({"done": []}, {**CONFIG, "recursion_limit": langgraph_private.default_recursion_limit()})
    assert seen == [seen[0], seen[0]]


@pytest.mark.parametrize("config", [None, {}, {"configurable": {}}, {"configurable": {"__pregel_call": object()}}])
def test_without_a_private_name_nothing_is_known(config):
    found = [langgraph_private.execution_of(config), langgraph_private.checkpointer_of(config)]
    assert [*found, langgraph_private.why_never_durable(config)] == [None, None, None]
    assert langgraph_private.checkpoints_of(config) == {}


def test_a_control_of_another_form_is_not_taken_for_one():
    class Runtime:
        control = object()

    assert control_of({"configurable": {"__pregel_runtime": Runtime()}}) is None


def test_langgraph_ignores_the_input_of_a_second_call_with_the_same_run_id(saver):
    """So a lease's `run_id` is not in its config: a second call under the lease would do nothing."""
    graph = chain(saver, ["a"], [])
    config = {"configurable": {"thread_id": "t", "run_id": "one"}}
    assert graph.invoke({"done": ["first"]}, config) == {"done": ["first", "a"]}
    assert graph.invoke({"done": ["second"]}, config) == {"done": ["first", "a"]}
