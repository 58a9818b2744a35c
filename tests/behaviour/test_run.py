"""`run` and its twins with real graphs: what they do at each tip, and that streams and callbacks show no seams."""

from __future__ import annotations

import asyncio
import operator
import pickle
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import EmptyInputError, GraphDrained, GraphRecursionError
from langgraph.func import entrypoint
from langgraph.func import task as task_of
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import RunControl, Runtime
from langgraph.types import Command, Interrupt, Send, interrupt

from langgraph_gcs_saver import GCSSaver, arun, astream, cadence, run, stream
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.cadence import signals
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import REQUESTS, Commit, GetDocs, Merge
from langgraph_gcs_saver.engine.interceptors import GatherInterceptor
from langgraph_gcs_saver.flows import runs
from langgraph_gcs_saver.format import keys, recent, turns
from langgraph_gcs_saver.saver.running import Running
from tests.faults.turns import SCENARIOS
from tests.patience import eventually

CONFIG: Any = {"configurable": {"thread_id": "t"}}
PLAIN: Any = {"configurable": {"thread_id": "plain"}, "metadata": {"lg_run": "1", "lg_segment": 0}}
MODES = ("values", "updates", "custom", "messages", "checkpoints", "tasks", "debug", ["values", "updates"])


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    count: int
    said: Annotated[list[Any], add_messages]


@dataclass
class Context:
    name: str


class BrokenError(Exception):
    """A node fails."""


class World:
    """What nodes do: count their calls, fail once, wait for an act."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: set[str] = set()
        self.contexts: list[Any] = []
        self.act: Any = lambda name: None

    def node(self, name: str) -> Any:
        def node(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
            self.ran.append(name)
            self.contexts.append(runtime.context)
            runtime.stream_writer(f"{name} is running")
            self.act(name)
            if name in self.failing:
                raise BrokenError(name)
            return {"log": [name], "count": state.get("count", 0) + 1, "said": [AIMessage(name, id=f"by {name}")]}

        return node

    def graph(self, saver: Any, **options: Any) -> Any:
        """Three nodes in a row; the second one is a graph itself."""
        inner = StateGraph(State, context_schema=Context)
        inner.add_node("in", self.node("in"))
        inner.add_edge(START, "in")
        build = StateGraph(State, context_schema=Context)
        for name, node in (("a", self.node("a")), ("sub", inner.compile()), ("z", self.node("z"))):
            build.add_node(name, node)
        build.add_edge(START, "a")
        build.add_edge("a", "sub")
        build.add_edge("sub", "z")
        return build.compile(checkpointer=saver, **options)

    def asking(self, saver: Any) -> Any:
        """A node that asks, between two others."""

        def ask(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
            self.ran.append("ask")
            answer = interrupt("sure?")
            self.contexts.append(runtime.context)
            if "ask" in self.failing:
                raise BrokenError
            return {"log": [answer]}

        build = StateGraph(State, context_schema=Context)
        build.add_node("a", self.node("a"))
        build.add_node("ask", ask)
        build.add_node("z", self.node("z"))
        build.add_edge(START, "a")
        build.add_edge("a", "ask")
        build.add_edge("ask", "z")
        return build.compile(checkpointer=saver)

    def loop(self, saver: Any) -> Any:
        """A node that runs five times."""
        build = StateGraph(State)
        build.add_node("a", self.node("a"))
        build.add_edge(START, "a")
        build.add_conditional_edges("a", lambda state: END if state["count"] == 5 else "a")
        return build.compile(checkpointer=saver)


def in_loop(coroutine: Any) -> Any:
    """Run a coroutine, unless LangGraph cannot: in Python 3.10, its nodes do not find their config."""
    try:
        return asyncio.run(coroutine)
    except RuntimeError as error:
        if sys.version_info < (3, 11) and "runnable context" in str(error):
            pytest.skip(str(error))
        raise


class Rounds(GatherInterceptor):
    """Counts the rounds of requests."""

    def __init__(self) -> None:
        self.count = 0
        self.is_within = False

    def around(self, effect: Any, perform: Any) -> Any:
        self.count += isinstance(effect, REQUESTS) and not self.is_within
        return perform(effect)

    def around_all(self, effects: Any, perform: Any) -> Any:
        self.count += 1
        self.is_within = True
        try:
            return perform(effects)
        finally:
            self.is_within = False


@pytest.fixture
def rounds() -> Rounds:
    return Rounds()


@pytest.fixture
def saver(rounds: Rounds) -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string("memory:", interceptors=[rounds]) as saver:
        yield saver


@pytest.fixture
def world() -> World:
    return World()


def status(saver: GCSSaver, thread_id: str = "t") -> runs.Status:
    return runner.run(runs.status(thread_id, saver._loads, saver._context), saver._backend)


def turn(saver: GCSSaver) -> Any:
    """The fields of the document of the turn, if there is one."""
    name = keys.resume_doc("t")
    found = runner.run(iter(GetDocs((name,))), saver._backend).get(name)
    return None if found is None else found.fields


def turn_notes(saver: GCSSaver) -> Any:
    """What is said about the turn of the thread, besides the tip."""
    names = (keys.resume_doc("t"), keys.active_doc("t"), keys.requests_doc("t"))
    return {name: doc.fields for name, doc in runner.run(iter(GetDocs(names)), saver._backend).items()}


def logs(saver: GCSSaver, graph: Any) -> list[str]:
    return list(graph.get_state(CONFIG).values["log"])


# What happens at each tip


def test_the_same_request_returns_the_stored_result_and_runs_nothing(saver, world):
    graph = world.graph(saver)
    first = run(graph, {"log": ["in"]}, CONFIG, request_id="r1")
    ran = list(world.ran)
    assert run(graph, {"log": ["in"]}, CONFIG, request_id="r1") == first
    assert world.ran == ran
    assert list(stream(graph, {"log": ["in"]}, CONFIG, request_id="r1", stream_mode="values")) == [first]
    assert list(stream(graph, {"log": ["in"]}, CONFIG, request_id="r1", stream_mode="updates")) == []
    assert world.ran == ran


def test_another_request_starts_a_turn_and_so_does_none(saver, world):
    graph = world.loop(saver)
    run(graph, {"log": ["one"], "count": 4}, CONFIG, request_id="r1")
    run(graph, {"log": ["two"], "count": 4}, CONFIG, request_id="r2")
    run(graph, {"log": ["three"], "count": 4}, CONFIG)
    run(graph, {"log": ["three"], "count": 4}, CONFIG)
    assert logs(saver, graph) == ["one", "a", "two", "a", "three", "a", "three", "a"]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_earlier_request_returns_its_own_result(saver, world, is_async):
    graph = world.loop(saver)
    call = (lambda *args, **more: asyncio.run(arun(*args, **more))) if is_async else run
    given = {"one": {"log": ["one"], "count": 4}, "two": {"log": ["two"], "count": 4}, "three": {"log": [], "count": 4}}
    results = {name: call(graph, one, CONFIG, request_id=name) for name, one in given.items()}
    ran, before = list(world.ran), turn_notes(saver)
    for name, one in given.items():
        assert call(graph, one, CONFIG, request_id=name) == results[name]
        assert list(stream(graph, one, CONFIG, request_id=name, stream_mode="values")) == [results[name]]
        if name != "three":
            assert list(stream(graph, one, CONFIG, request_id=name, stream_mode="updates")) == []
    assert (world.ran, turn_notes(saver)) == (ran, before)
    assert logs(saver, graph) == results["three"]["log"]


def test_an_earlier_request_leaves_the_turn_of_a_later_one_as_it_is(saver, world):
    graph = world.graph(saver)
    first = run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["two"]}, CONFIG, request_id="r2")
    before = turn_notes(saver)
    assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1") == first
    with saver.thread("t").lease() as lease:
        assert run(graph, {"log": ["one"]}, lease.config, request_id="r1") == first
    assert turn_notes(saver) == before
    world.failing = set()
    run(graph, {"log": ["two"]}, CONFIG, request_id="r2")
    assert world.ran == ["a", "in", "z", "a", "in", "z", "z"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_gets_no_lease_listens_to_no_signal(saver, world, is_async):
    graph, policy = world.graph(saver), cadence.Signal(signal.SIGUSR1)
    others = set(signals._listeners)

    def call(**more: Any) -> Any:
        found = (arun if is_async else run)(graph, {"log": ["one"]}, CONFIG, policy=policy, **more)
        return asyncio.run(found) if is_async else found

    for bad in ({}, {"ttl": 1.0}):
        with saver.thread("t").lease(), pytest.raises(e.GCSSaverError) as caught:
            call(**bad)
        assert caught.tb is not None, "the frames of the call are still there"
        assert set(signals._listeners) <= others


def test_a_question_its_answer_and_their_retries_are_one_exchange(saver, world):
    graph = world.asking(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, Command(resume="yes"), CONFIG, request_id="r2")
    world.failing = set()
    done = run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert done["log"] == ["one", "a", "yes", "z"]
    assert {one.metadata[runs.REQUEST] for one in saver.list(CONFIG, limit=2)} == {"r2"}
    for _ in range(2):
        ran = list(world.ran)
        assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1") == done
        assert run(graph, Command(resume="yes"), CONFIG, request_id="r2") == done
        assert world.ran == ran
        run(graph, {"log": ["two"]}, CONFIG, request_id="r3")  # And both again, once another request has followed.


def test_an_answer_that_was_only_stored_is_of_the_same_exchange(saver, world):
    graph = world.asking(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    saver.thread("t").answer("yes", request_id="r2")
    done = run(graph, None, CONFIG)
    run(graph, {"log": ["two"]}, CONFIG)
    for request_id in ("r1", "r2"):
        assert run(graph, {"log": ["one"]}, CONFIG, request_id=request_id) == done


def test_a_request_that_was_overtaken_is_not_applied_again(saver, world):
    graph = world.graph(saver)
    world.failing = {"in"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = set()
    done = run(graph, {"log": ["two"]}, CONFIG, request_id="r2")
    ran = list(world.ran)
    assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1") == done
    assert world.ran == ran


def test_a_request_whose_checkpoints_were_deleted_starts_again(saver, world):
    graph = world.loop(saver)
    run(graph, {"log": ["one"], "count": 4}, CONFIG, request_id="r1")
    with saver.thread("t").lease() as lease:
        run(graph, {"log": ["two"], "count": 4}, lease.config, request_id="r2")
    saver.delete_for_runs([lease.run_id])
    assert logs(saver, graph) == ["one", "a"]
    run(graph, {"log": ["two"], "count": 4}, CONFIG, request_id="r2")
    assert logs(saver, graph) == ["one", "a", "two", "a"]


def test_the_document_of_a_turn_whose_checkpoints_were_deleted_means_nothing(saver, world):
    graph = world.graph(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = {"z"}
    with saver.thread("t").lease() as lease, pytest.raises(BrokenError):
        run(graph, {"log": ["two"]}, lease.config, request_id="r2", context=Context("Ada"))
    saver.delete_for_runs([lease.run_id])
    found = status(saver)
    assert (found.state, found.request_id, found.has_turn, found.turn) == ("finished", "r1", True, None)


def test_an_update_by_the_graphs_own_method_is_due(saver, world):
    graph = world.graph(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        graph.invoke(Command(update={"log": ["more"]}, goto="z"), CONFIG, durability="sync")
    assert status(saver).state == "due"
    world.failing = set()
    assert run(graph, None, CONFIG)["log"][-2:] == ["more", "z"]


def test_a_result_that_was_pruned_is_not_made_again(saver, world):
    graph = world.graph(saver)
    for name in ("r1", "r2"):
        run(graph, {"log": [name]}, CONFIG, request_id=name)
    ran = list(world.ran)
    saver.prune(["t"])
    with pytest.raises(e.InvalidInputError, match="result cannot be returned"):
        run(graph, {"log": ["r1"]}, CONFIG, request_id="r1")
    assert world.ran == ran
    assert run(graph, {"log": ["r2"]}, CONFIG, request_id="r2")["log"][-1] == "z"


def test_the_latest_requests_are_remembered_and_older_ones_start_again(saver, world):
    graph = world.loop(saver)
    for at in range(recent.MOST + 2):
        run(graph, {"log": [str(at)], "count": 4}, CONFIG, request_id=str(at))
    ran = len(world.ran)
    assert run(graph, {"log": ["2"], "count": 4}, CONFIG, request_id="2")["log"][-2:] == ["2", "a"]
    assert len(world.ran) == ran
    assert len(run(graph, {"log": ["1"], "count": 4}, CONFIG, request_id="1")["log"]) == 2 * recent.MOST + 6


def test_requests_without_an_id_are_not_remembered(saver, world):
    graph = world.loop(saver)
    run(graph, {"log": ["one"], "count": 4}, CONFIG)
    assert not runner.run(iter(GetDocs((keys.requests_doc("t"),))), saver._backend)
    run(graph, {"log": ["two"], "count": 4}, CONFIG, request_id="r1")
    done = run(graph, {"log": ["three"], "count": 4}, CONFIG)
    assert run(graph, {"log": ["two"], "count": 4}, CONFIG, request_id="r1")["log"] == done["log"][:4]


@pytest.mark.parametrize("follows", [False, True])
def test_a_repeated_request_with_another_input_is_reported(saver, world, caplog, follows):
    graph = world.graph(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    if follows:
        run(graph, {"log": ["two"]}, CONFIG, request_id="r2")
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    run(graph, None, CONFIG, request_id="r1")
    assert not caplog.records
    run(graph, {"log": ["secret"]}, CONFIG, request_id="r1")
    (found,) = caplog.records
    assert "'r1' of thread 't' was repeated with another input" in found.getMessage()
    assert "secret" not in found.getMessage()


def test_inputs_without_a_canonical_form_are_not_compared(saver, caplog):
    class Input(TypedDict, total=False):
        made: Any

    graph = StateGraph(Input)
    graph.add_node("a", lambda state: {"made": 1})
    graph.add_edge(START, "a")
    for _ in range(2):
        run(graph.compile(checkpointer=saver), {"made": re.compile("a")}, CONFIG, request_id="r1")
    assert not caplog.records


@pytest.mark.parametrize("again", ["r1", None])
def test_a_request_that_failed_is_resumed_without_its_input(saver, world, again):
    graph = world.graph(saver)
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert turn(saver)[turns.ATTEMPTS] == 1
    assert status(saver).lease.owner is None, "the lease is released"
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id=again)
    assert turn(saver)[turns.ATTEMPTS] == 2
    world.failing = set()
    result = run(graph, {"log": ["one"]}, CONFIG, request_id=again)
    assert world.ran == ["a", "in", "z", "z", "z"]
    assert result["log"] == ["one", "a", *result["log"][2:-1], "z"]
    assert turn(saver) is None
    found = status(saver)
    assert (found.state, found.request_id, found.segment) == ("finished", "r1", 1)


def test_another_request_drops_the_steps_of_one_that_failed(saver, world):
    """As an input does with LangGraph's own `invoke`."""
    graph, plain = world.graph(saver), world.graph(InMemorySaver())
    world.failing = {"in"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    with pytest.raises(BrokenError):
        plain.invoke({"log": ["one"]}, PLAIN)
    world.failing = set()
    assert run(graph, {"log": ["two"]}, CONFIG, request_id="r2") == plain.invoke({"log": ["two"]}, PLAIN)


def test_a_person_is_asked_once_and_an_answer_counts_once(saver, world):
    graph = world.asking(saver)
    asked = run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert [one.value for one in asked["__interrupt__"]] == ["sure?"]
    assert status(saver).state == "waiting"
    assert [one.value for one in status(saver).questions] == ["sure?"]
    assert turn(saver)[turns.ATTEMPTS] == 0
    for given, request_id in (
        ({"log": ["one"]}, "r1"),
        ({"log": ["two"]}, "r2"),
        ({"log": ["two"]}, None),
        (None, None),
    ):
        assert run(graph, given, CONFIG, request_id=request_id) == asked
    assert world.ran == ["a", "ask"]
    done = run(graph, Command(resume="yes"), CONFIG, request_id="r3")
    assert done["log"] == ["one", "a", "yes", "z"]
    assert run(graph, Command(resume="yes"), CONFIG, request_id="r3") == done
    assert world.ran == ["a", "ask", "ask", "z"]


@pytest.mark.parametrize("mode", ["values", "updates", ["values", "updates"], "tasks"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("subgraphs", [False, True])
def test_what_a_waiting_graph_streams_has_the_shape_of_langgraphs_parts(saver, world, mode, version, subgraphs):
    graph = world.asking(saver)
    options = {"stream_mode": mode, "version": version, "subgraphs": subgraphs}
    before = list(stream(graph, {"log": ["one"]}, CONFIG, request_id="r1", **options))
    again = list(stream(graph, {"log": ["one"]}, CONFIG, request_id="r1", **options))
    with_question = [part for part in before if "sure?" in str(part) and mode != "tasks"]
    assert again == with_question


def test_a_graph_that_has_finished_or_failed_continues_without_an_input(saver, world):
    graph = world.graph(saver)
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG)
    world.failing = set()
    done = run(graph, None, CONFIG)
    assert run(graph, None, CONFIG) == done
    assert world.ran == ["a", "in", "z", "z"]


@pytest.mark.parametrize("stops", [{"interrupt_before": ["z"]}, {"interrupt_after": ["sub"]}])
def test_a_retry_does_not_pass_a_breakpoint(saver, world, stops):
    graph = world.graph(saver, **stops)
    stopped = run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert world.ran == ["a", "in"]
    assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1") == stopped
    assert world.ran == ["a", "in"]
    done = run(graph, None, CONFIG)
    assert world.ran == ["a", "in", "z"]
    assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1") == done


@pytest.mark.parametrize("stops", ["z", [1], [None], 7, iter(["z"])])
def test_breakpoints_are_names(saver, world, stops):
    with pytest.raises(e.InvalidInputError, match="interrupt_before"):
        run(world.graph(saver), {"log": ["one"]}, CONFIG, interrupt_before=stops)


@pytest.mark.parametrize("damaged", [keys.resume_doc("t"), keys.requests_doc("t")])
def test_a_repair_forgets_what_is_damaged_about_a_turn(saver, world, damaged):
    graph = world.graph(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["two"]}, CONFIG, request_id="r2", durability="sync")
    world.failing = set()
    assert runner.run(iter(Commit((Merge(damaged, {"turn": b"", "recent": b""}),))), saver._backend)
    with pytest.raises(e.CheckpointCorruptError):
        run(graph, {"log": ["two"]}, CONFIG, request_id="r2")
    (plan,) = saver.admin.plan_repair("t")
    assert [(one.action, one.name) for one in plan.steps] == [("forget", damaged)]
    assert damaged in turn_notes(saver)
    assert list(saver.admin.carry_out(plan).steps) == list(plan.steps)
    assert not list(saver.admin.verify("t"))
    world.ran.clear()
    run(graph, {"log": ["two"]}, CONFIG, request_id="r2")
    assert world.ran == ["z"], "the newest checkpoint knows its request"
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert (len(world.ran) > 1) == (damaged == keys.requests_doc("t")), "an earlier request is forgotten"


def test_a_retry_continues_a_step_that_has_begun_behind_its_breakpoint(saver, world):
    def node(name: str) -> dict[str, Any]:
        world.ran.append(name)
        if name in world.failing:
            raise BrokenError(name)
        return {"log": [name]}

    build = StateGraph(State)
    for name in ("left", "right"):
        build.add_node(name, lambda _, name=name: node(name))
        build.add_edge(START, name)
    graph = build.compile(checkpointer=saver, interrupt_before=["left", "right"])
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = {"right"}
    with pytest.raises(BrokenError):
        run(graph, None, CONFIG, durability="sync")
    assert sorted(world.ran) == ["left", "right"]
    world.failing = set()
    assert sorted(run(graph, {"log": ["one"]}, CONFIG, request_id="r1")["log"]) == ["left", "one", "right"]
    assert sorted(world.ran) == ["left", "right", "right"]


def test_an_empty_thread_needs_an_input(saver, world):
    with pytest.raises(EmptyInputError):
        run(world.graph(saver), None, CONFIG, request_id="r1")
    assert status(saver).state == "empty"


def test_no_input_passes_a_breakpoint_as_a_request_of_its_own_too(saver, world):
    graph = world.graph(saver, interrupt_before=["z"])
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    done = run(graph, None, CONFIG, request_id="r2")
    assert world.ran == ["a", "in", "z"]
    assert run(graph, None, CONFIG, request_id="r2") == done
    assert world.ran == ["a", "in", "z"]


def test_a_breakpoint_before_the_first_node_stops_there(saver, world):
    graph = world.graph(saver, interrupt_before=["a"])
    assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1")["log"] == ["one"]
    assert world.ran == []


@pytest.mark.parametrize("given", [None, {"log": ["one"]}, Command(resume="yes")])
@pytest.mark.parametrize("request_id", ["r1", "r2", None])
def test_an_answer_begins_a_turn_that_any_retry_continues(saver, world, given, request_id):
    graph = world.asking(saver)
    run(graph, {"log": ["one"]}, {**CONFIG, "recursion_limit": 50}, request_id="r1", context=Context("Ada"))
    world.contexts.clear()
    world.failing = {"ask"}
    config = {**CONFIG, "recursion_limit": 60}
    with pytest.raises(BrokenError):
        run(graph, Command(resume="yes"), config, request_id="r2", context=Context("Bob"))
    found = status(saver)
    assert (found.state, found.request_id, found.turn.request_id) == ("due", "r2", "r2")
    assert found.turn.recursion_limit == 60
    world.failing = set()
    assert run(graph, given, CONFIG, request_id=request_id)["log"] == ["one", "a", "yes", "z"]
    assert world.contexts == [Context("Bob")] * 3
    assert status(saver).request_id == "r2", "the turn is that of the answer"


def test_an_update_of_a_finished_graph_is_applied_once(saver, world):
    graph = world.graph(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.ran.clear()
    for _ in range(2):
        done = run(graph, Command(update={"log": ["more"]}, goto="z"), CONFIG, request_id="r2")
        assert done["log"].count("more") == 1
        assert world.ran == ["z"]


def test_an_update_that_failed_is_continued_and_not_dropped(saver, world):
    graph = world.graph(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, Command(update={"log": ["more"]}, goto="z"), CONFIG, request_id="r2")
    assert status(saver).state == "due"
    world.failing = set()
    done = run(graph, {"log": ["two"]}, CONFIG)
    assert (done["log"].count("more"), done["log"].count("two")) == (1, 0)


def test_a_task_that_failed_beside_a_question_runs_before_a_person_is_asked(saver, world):
    def ask(state: State) -> dict[str, Any]:
        return {"log": [interrupt("sure?")]}

    build = StateGraph(State)
    build.add_node("ask", ask)
    build.add_node("a", world.node("a"))
    build.add_edge(START, "ask")
    build.add_edge(START, "a")
    graph = build.compile(checkpointer=saver)

    def wait_for_the_question(_: str) -> None:
        eventually(lambda: status(saver).questions)

    world.act, world.failing = wait_for_the_question, {"a"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert status(saver).state == "due"
    world.act, world.failing = (lambda name: None), set()
    asked = run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert (asked["log"], [one.value for one in asked["__interrupt__"]]) == (["one", "a"], ["sure?"])
    assert status(saver).state == "waiting"
    assert run(graph, Command(resume="yes"), CONFIG, request_id="r2")["log"] == ["one", "a", "yes"]
    assert world.ran == ["a", "a"]


def asking_twice(saver: Any, world: World, *questions: str) -> Any:
    def ask(state: State) -> dict[str, Any]:
        answers = [interrupt(question) for question in questions]
        if "ask" in world.failing:
            raise BrokenError
        return {"log": answers}

    build = StateGraph(State)
    build.add_node("ask", ask)
    build.add_edge(START, "ask")
    return build.compile(checkpointer=saver)


def test_the_same_question_asked_again_waits_again(saver, world):
    graph = asking_twice(saver, world, "sure?", "sure?")
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    run(graph, Command(resume="first"), CONFIG, request_id="r2")
    assert status(saver).state == "waiting"
    assert run(graph, Command(resume="second"), CONFIG, request_id="r3")["log"] == ["one", "first", "second"]


def test_an_answer_to_the_question_before_is_no_answer_after_an_error(saver, world):
    """The error changes the time of the question's document, so its content decides."""
    graph = asking_twice(saver, world, "first?", "second?")
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    run(graph, Command(resume="first"), CONFIG, request_id="r2", durability="sync")
    world.failing = {"ask"}
    with pytest.raises(BrokenError):
        graph.invoke(Command(resume="second"), CONFIG, durability="sync")
    assert [one.value for one in status(saver).questions] == ["second?"]


def test_an_answer_is_kept_from_a_task_that_has_asked_again(saver, world):
    """As after a crash, when one of two tasks has used up its answer, and waits for the next one."""
    first, second = "0" * 32, "1" * 32
    build = StateGraph(State)
    for name in ("left", "right"):
        build.add_node(name, world.node(name))
        build.add_edge(START, name)
    graph = build.compile(checkpointer=saver, interrupt_before="*")
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    tip = saver.get_tuple(CONFIG).config
    for task, id_ in (("left", first), ("right", second)):
        saver.put_writes(tip, [("__interrupt__", [Interrupt("sure?", id=id_)])], task)
    found = status(saver)
    assert (found.state, len(found.questions), found.answer) == ("waiting", 2, None)
    command = {"resume": {first: "yes", second: "no"}}
    answer = [(runs.ANSWER, {"request_id": "r2", "run": "run", "asked": found.asked, "command": command})]
    saver.put_writes(tip, answer, runs.answer_task("r2"))
    found = status(saver)
    assert (found.state, found.questions, found.answer.ids) == ("due", (), {first, second})
    saver.put_writes(tip, [("__interrupt__", [Interrupt("really?", id=first)])], "left")
    found = status(saver)
    assert (found.state, [one.value for one in found.questions]) == ("due", ["really?"])
    lease = {"ttl": 60.0, "wait": 0.0, "owner": None, "take_over": False}
    options: dict[str, Any] = {"context": None, "context_factory": None, "durability": "sync", "lease": lease}
    call = Running(graph, None, CONFIG, request_id="r2", rest={}, **options)
    assert call._pending(found.answer).resume == {second: "no"}
    saver.put_writes(tip, [("log", ["right"])], "right")
    found = status(saver)
    assert (found.state, found.answer) == ("waiting", None)
    assert found.is_of("r2")


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_the_input_is_durable_before_the_first_node(saver, world, durability):
    graph = world.graph(saver)
    seen: list[Any] = []

    def look(name: str) -> None:
        if not seen:
            found = status(saver)
            seen.append((found.state, found.request_id, found.turn.request_id))

    world.act = look
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1", durability=durability)
    assert seen == [("due", "r1", "r1")]


def test_an_answer_by_the_graphs_own_method_is_continued(saver, world):
    """Another program has called the graph with a command, and crashed."""
    graph = world.asking(saver)
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    tip = saver.get_tuple(CONFIG).config
    saver.put_writes(tip, [("__resume__", "yes")], "00000000-0000-0000-0000-000000000000")
    assert status(saver).state == "due"
    assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1")["log"] == ["one", "a", "yes", "z"]


# Seams


OF_A_RUN = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|\d{4}-\d\d-\d\dT[0-9:.+]+")
KEYS = ("thread_id", "run_id", "__lg_lease", "lg_run")


def normal(part: Any) -> Any:
    """A part without what differs between two runs: ids, times, and the lease in a config."""
    if isinstance(part, dict):
        return {normal(key): normal(value) for key, value in part.items() if key not in KEYS}
    if isinstance(part, list | tuple):
        return [normal(one) for one in part]
    return OF_A_RUN.sub("-", str(part))


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("subgraphs", [False, True])
def test_streams_are_those_of_the_graphs_own_method(saver, world, mode, subgraphs):
    graph = world.graph(saver)
    for given in ({"log": ["one"]}, {"log": ["two"]}):
        expected = list(graph.stream(given, PLAIN, stream_mode=mode, subgraphs=subgraphs))
        found = list(stream(graph, given, CONFIG, stream_mode=mode, subgraphs=subgraphs))
        assert normal(found) == normal(expected)

    async def collect(parts: Any) -> list[Any]:
        return [part async for part in parts]

    given = {"log": ["three"]}
    expected = in_loop(collect(graph.astream(given, PLAIN, stream_mode=mode, subgraphs=subgraphs)))
    found = in_loop(collect(astream(graph, given, CONFIG, stream_mode=mode, subgraphs=subgraphs)))
    assert normal(found) == normal(expected)


class Handler(BaseCallbackHandler):
    """Notes the chains that begin and end."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
        self.seen.append(("start", more.get("name")))

    def on_chain_end(self, outputs: Any, **more: Any) -> None:
        self.seen.append(("end", None))

    def on_chain_error(self, error: BaseException, **more: Any) -> None:
        self.seen.append(("error", type(error).__name__))


@pytest.mark.parametrize("bound", [False, True])
def test_callbacks_see_one_run(saver, world, bound):
    graph = world.graph(saver)
    handlers = [Handler(), Handler()]
    for handler, config, call in (
        (handlers[0], PLAIN, lambda g, c: g.invoke({"log": ["one"]}, c)),
        (handlers[1], CONFIG, lambda g, c: run(g, {"log": ["one"]}, c)),
    ):
        if bound:
            call(graph.with_config(callbacks=[handler]), config)
        else:
            call(graph, {**config, "callbacks": [handler]})
    assert handlers[1].seen == handlers[0].seen


@pytest.mark.parametrize("has_id", [False, True])
def test_a_run_adds_its_lease_and_one_status(saver, world, rounds, has_id):
    graph = world.loop(saver)

    def count(call: Any) -> int:
        before = rounds.count
        call()
        return rounds.count - before

    for request_id in ("r1", "r2") if has_id else (None, None):
        options = {"durability": "sync", "request_id": request_id}
        plain = count(lambda: graph.invoke({"log": ["one"], "count": 0}, PLAIN, durability="sync"))
        found = count(partial(run, graph, {"log": ["one"], "count": 0}, CONFIG, **options))
    # The acquisition changes the tip, so the run cannot read it in one round, as the graph alone does.
    assert found - plain == 5 + 2 + 1


def test_every_checkpoint_has_its_request_turn_and_segment(saver, world):
    graph = world.graph(saver)
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    world.failing = set()
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    found = [one.metadata for one in saver.list(CONFIG)]
    assert {one[runs.REQUEST] for one in found} == {"r1"}
    assert len({one[runs.RUN] for one in found}) == 1
    assert {one[runs.SEGMENT] for one in found} == {0, 1}
    assert not [one for one in found if any(key.startswith("__") for key in one)]
    assert [one.metadata["step"] for one in saver.list(None, filter={runs.REQUEST: "r1"})]


# What another process needs


@pytest.mark.parametrize("limit", range(1, 9))
def test_the_recursion_limit_counts_over_processes(saver, world, limit):
    plain = world.loop(InMemorySaver())
    config = {**CONFIG, "recursion_limit": limit}
    try:
        expected = plain.invoke({"log": ["one"]}, config)["log"]
    except GraphRecursionError:
        expected = None
    graph = world.loop(saver)
    world.ran.clear()

    def fail(_: str) -> None:
        if len(world.ran) == 3:
            raise BrokenError

    world.act = fail
    with pytest.raises((BrokenError, GraphRecursionError)) as raised:
        run(graph, {"log": ["one"]}, config, request_id="r1")
    if raised.type is BrokenError:
        # The third node has failed, and runs again.
        if expected is None:
            with pytest.raises(GraphRecursionError):
                run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
        else:
            assert run(graph, {"log": ["one"]}, CONFIG, request_id="r1")["log"] == expected
    assert len(world.ran) <= limit + 2


def test_the_context_is_stored_for_a_process_that_has_not_got_it(saver, world):
    graph = world.graph(saver)
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1", context=Context("Ada"))
    world.failing = set()
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert world.contexts == [Context("Ada")] * 4


def make_context() -> Context:
    return Context("made")


def test_the_name_of_a_factory_is_stored_in_place_of_its_context(saver, world):
    graph = world.graph(saver)
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1", context_factory=make_context)
    found = status(saver).turn
    assert found.factory == f"{__name__}:make_context"
    assert found.context is None
    assert (found.request_id, found.graph) == ("r1", "LangGraph")
    assert world.contexts == [Context("made")] * 3


def test_a_context_factory_serves_a_thread_that_no_run_began(saver, world):
    graph = world.graph(saver)
    graph.update_state(CONFIG, {"log": ["one"]}, as_node="__input__")
    run(graph, None, CONFIG, context_factory=make_context)
    assert world.contexts
    assert all(one == Context("made") for one in world.contexts)


@pytest.mark.parametrize("context", [Context("x" * 300_000), Context(object())], ids=["large", "object"])
def test_a_context_that_cannot_be_stored_is_refused_before_anything_happens(saver, world, context):
    graph = world.graph(saver)
    with pytest.raises((e.ValueTooLargeError, e.SerializationError), match="context_factory"):
        run(graph, {"log": ["one"]}, CONFIG, context=context)
    assert status(saver).state == "empty"
    assert status(saver).lease.owner is None


# Leases


def test_a_second_run_of_the_thread_is_kept_out(saver, world):
    graph = world.graph(saver)
    seen: list[str] = []

    def act(name: str) -> None:
        if name == "a":
            with pytest.raises(e.ThreadBusyError):
                run(graph, {"log": ["two"]}, CONFIG, request_id="r2")
            seen.append(name)

    world.act = act
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert seen == ["a"]


def test_the_lease_of_the_caller_is_used_and_kept(saver, world):
    graph = world.graph(saver)
    with saver.thread("t").lease() as lease:
        for given, request_id in (({"log": ["one"]}, "r1"), ({"log": ["two"]}, "r2")):
            run(graph, given, lease.config, request_id=request_id)
            assert not lease.lost
            assert turn(saver) is None
        assert status(saver).lease.nonce == lease.run_id
    with pytest.raises(e.FencedError):
        run(graph, {"log": ["three"]}, lease.config, request_id="r3")
    assert status(saver).request_id == "r2"


def test_a_run_that_is_asked_to_pause_is_continued_by_the_same_line(saver, world):
    graph = world.graph(saver)

    def act(name: str) -> None:
        if name == "a":
            held = next(iter(saver._leases._processes.get().held.values()))
            held.end("Another process asked to pause thread 't'.")

    world.act = act
    with pytest.raises(GraphDrained):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert world.ran == ["a"]
    assert turn(saver)[turns.ATTEMPTS] == 0
    world.act = lambda name: None
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert world.ran == ["a", "in", "z"]


def test_the_turn_is_encrypted_copied_and_deleted_with_the_thread(world):
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

    class Xor:
        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "xor", bytes(byte ^ 90 for byte in plaintext)

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            return bytes(byte ^ 90 for byte in ciphertext)

    assert EncryptedSerializer
    with GCSSaver.from_conn_string("memory:", cipher=Xor()) as saver:
        graph = world.graph(saver)
        world.failing = {"z"}
        with pytest.raises(BrokenError):
            run(graph, {"log": ["one"]}, CONFIG, request_id="r1", context=Context("Ada"))
        assert b"Ada" not in turn(saver)[turns.TURN]
        saver.copy_thread("t", "copy")
        # A copy that continues after a crash finds that it is complete.
        source, target = keys.resume_doc("t"), keys.resume_doc("copy")
        docs, codec = runner.run(iter(GetDocs((source, target))), saver._backend), saver._context.codec
        again = turns.copied(docs[source], target, str, codec)
        assert turns.equal(docs[target], again, codec)
        assert not turns.equal(docs[target], {**again, turns.ATTEMPTS: 7}, codec)
        assert not turns.is_clear(docs[target], codec)
        source, target = keys.requests_doc("t"), keys.requests_doc("copy")
        docs = runner.run(iter(GetDocs((source, target))), saver._backend)
        assert turns.equal(docs[target], turns.copied(docs[source], target, str, codec), codec)
        assert not turns.is_clear(docs[target], codec)
        assert turns.objects(docs[target], codec) == {}
        found = status(saver, "copy")
        assert found.recent == status(saver).recent
        assert found.recent.requests
        assert found.turn == status(saver).turn
        assert found.turn is not None
        world.failing = set()
        run(graph, {"log": ["one"]}, {"configurable": {"thread_id": "copy"}}, request_id="r1")
        assert world.contexts[-1] == Context("Ada")
        saver.delete_thread("t")
        assert turn(saver) is None


def test_a_serializer_of_the_user_decides_what_is_due():
    """Packets and joins are values, which only the saver's own serializer reads."""

    class Pickled:
        def dumps_typed(self, value: Any) -> tuple[str, bytes]:
            return "mine", pickle.dumps(value)

        def loads_typed(self, data: tuple[str, bytes]) -> Any:
            return pickle.loads(data[1])

    for name in ("a chain", "tasks that ask"):
        build, _ = SCENARIOS[name]
        with GCSSaver.from_conn_string("memory:", serde=Pickled()) as saver:
            graph = build(saver, [])
            for _ in range(2):
                result = run(graph, {"log": ["one"]}, CONFIG)
                while "__interrupt__" in result:
                    assert status(saver).state == "waiting"
                    answers = {one.id: "yes" for one in result["__interrupt__"]}
                    result = run(graph, Command(resume=answers), CONFIG)
            assert status(saver).state == "finished"
            assert logs(saver, graph).count("one") == 2


# Arguments


def test_a_run_id_of_the_newest_checkpoint_does_not_hide_the_input(saver, world):
    """LangGraph takes a call with the newest checkpoint's run_id for a continued stream, and ignores its input."""
    graph = world.loop(saver)
    config = {**CONFIG, "metadata": {"run_id": "same"}}
    run(graph, {"log": ["one"], "count": 4}, config, request_id="r1")
    run(graph, {"log": ["two"], "count": 4}, config, request_id="r2")
    assert logs(saver, graph) == ["one", "a", "two", "a"]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"request_id": ""}, CONFIG),
        ({"request_id": "x" * 501}, CONFIG),
        ({"request_id": "a\0b"}, CONFIG),
        ({"request_id": "\ud800"}, CONFIG),
        ({"request_id": 7}, CONFIG),
        ({"durability": "eventually"}, CONFIG),
        ({"context": Context("a"), "context_factory": make_context}, CONFIG),
        ({"ttl": 1}, CONFIG),
        ({}, {"configurable": {}}),
        ({}, None),
        ({}, {"configurable": {"thread_id": "t", "checkpoint_id": "1"}}),
        ({}, {"configurable": {"thread_id": "t", "checkpoint_ns": "sub"}}),
    ],
)
def test_wrong_arguments_are_refused_before_anything_happens(saver, world, options, config, rounds):
    with pytest.raises(e.InvalidInputError):
        run(world.graph(saver), {"log": ["one"]}, config, **options)
    assert rounds.count == 0


def test_the_graph_needs_a_saver_of_this_library(world):
    for checkpointer in (None, InMemorySaver()):
        with pytest.raises(e.InvalidInputError, match="needs a GCSSaver"):
            run(world.graph(checkpointer), {"log": ["one"]}, CONFIG)


def test_coroutines_do_the_same(saver, world):
    graph = world.asking(saver)

    async def play() -> None:
        asked = await arun(graph, {"log": ["one"]}, CONFIG, request_id="r1")
        assert await arun(graph, {"log": ["one"]}, CONFIG, request_id="r1") == asked
        parts = [part async for part in astream(graph, Command(resume="yes"), CONFIG, request_id="r2")]
        assert [name for part in parts for name in part] == ["ask", "z"]
        assert [part async for part in astream(graph, Command(resume="yes"), CONFIG, request_id="r2")] == []

    in_loop(play())
    assert logs(saver, graph) == ["one", "a", "yes", "z"]
    assert turn(saver) is None


def test_leaving_a_stream_early_releases_the_lease(saver, world):
    graph = world.graph(saver)
    parts = stream(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    next(parts)
    parts.close()
    assert status(saver).lease.owner is None
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1")
    assert world.ran[0] == "a"
    assert world.ran.count("a") == 1


def test_the_question_of_a_task_is_asked_once(saver):
    @task_of
    def ask() -> Any:
        return interrupt("sure?")

    @entrypoint(checkpointer=saver)
    def flow(_: Any) -> Any:
        return ask().result()

    run(flow, "in", CONFIG)
    assert [one.value for one in saver.thread("t").status().questions] == ["sure?"]
    saver.thread("t").answer("yes")
    assert run(flow, None, CONFIG) == "yes"


# What the graph's own methods do between two calls


def row(saver: Any, world: World) -> Any:
    """Two nodes in a row."""
    build = StateGraph(State, context_schema=Context).add_node("a", world.node("a")).add_node("z", world.node("z"))
    return build.add_edge(START, "a").add_edge("a", "z").compile(checkpointer=saver)


def updates(graph: Any) -> None:
    graph.update_state(CONFIG, {"log": ["updated"]})


def updates_often(graph: Any) -> None:
    for _ in range(2 * runs._PER_PAGE):
        graph.update_state(CONFIG, {"log": []})


def goes_back(graph: Any) -> None:
    before = next(one for one in graph.get_state_history(CONFIG) if one.next == ("z",))
    graph.invoke(None, before.config)


@pytest.mark.parametrize("meddle", [updates, updates_often, goes_back])
def test_a_retry_is_recognized_after_an_update_of_the_state(saver, world, meddle):
    graph = row(saver, world)
    run(graph, {"log": ["in"]}, CONFIG, request_id="1")
    meddle(graph)
    ran = list(world.ran)
    result = run(graph, {"log": ["in"]}, CONFIG, request_id="1")
    assert result == graph.get_state(CONFIG).values
    assert result["log"].count("in") == 1
    assert world.ran == ran
    # It has an end now, which another request does not change.
    assert run(graph, {"log": ["again"]}, CONFIG, request_id="2")["log"].count("again") == 1
    assert run(graph, {"log": ["in"]}, CONFIG, request_id="1") == result


def test_a_turn_continues_after_an_update_of_the_state(saver, world):
    graph = row(saver, world)
    world.failing.add("z")
    with pytest.raises(BrokenError):
        run(graph, {"log": ["in"]}, CONFIG, request_id="1", context=Context("Ann"))
    world.failing.clear()
    graph.update_state(CONFIG, {"log": ["repaired"]}, as_node="a")
    assert status(saver).request_id == "1"
    found = run(graph, {"log": ["in"]}, CONFIG, request_id="1")
    assert found["log"] == ["in", "a", "repaired", "z"]
    assert world.contexts[-1] == Context("Ann")
    assert run(graph, {"log": ["in"]}, CONFIG, request_id="1") == found


def test_an_input_to_the_graph_itself_begins_another_turn(saver, world):
    graph = row(saver, world)
    run(graph, {"log": ["in"]}, CONFIG, request_id="1")
    graph.invoke({"log": ["other"]}, CONFIG)
    assert status(saver).request_id is None


# A graph that has changed


def lacking(saver: Any, world: World) -> Any:
    """A graph that has none of the nodes of the others."""
    build = StateGraph(State).add_node("b", world.node("b")).add_edge(START, "b")
    return build.compile(checkpointer=saver, name="new")


@pytest.mark.parametrize(("missing", "given"), [("a", None), ("ask", Command(resume="yes"))])
def test_a_step_of_a_node_that_the_graph_lacks_is_not_left_out(saver, world, missing, given):
    graph = world.asking(saver)
    world.failing.update({"a"} if given is None else {})
    with suppress(BrokenError):
        run(graph, {"log": ["in"]}, CONFIG, request_id="1")
    world.failing.clear()
    ran, before = list(world.ran), saver.get_tuple(CONFIG)
    with pytest.raises(e.CheckFailedError, match=rf"'new' cannot resume thread 't'.*'{missing}' is due") as raised:
        run(lacking(saver, world), given, CONFIG)
    assert raised.value.missing == (missing,)
    assert world.ran == ran
    assert saver.get_tuple(CONFIG) == before
    # The graph that has the node continues.
    run(graph, given, CONFIG)
    assert world.ran[len(ran) :] == (["a", "ask"] if given is None else ["ask", "z"])


def test_another_turn_leaves_the_step_out(saver, world):
    world.failing.add("a")
    with pytest.raises(BrokenError):
        run(world.graph(saver), {"log": ["in"]}, CONFIG, request_id="1")
    assert run(lacking(saver, world), {"log": ["again"]}, CONFIG, request_id="2")["log"] == ["in", "again", "b"]
    assert saver.thread("t").status().state == "finished"


def test_a_packet_to_a_node_that_the_graph_lacks_is_not_dropped(saver, world):
    def build(name: str) -> Any:
        graph = StateGraph(State).add_node("a", world.node("a")).add_node(name, world.node(name))
        graph.add_edge(START, "a")
        graph.add_conditional_edges("a", lambda _: [Send(name, {}), Send(name, {})], [name])
        return graph.compile(checkpointer=saver)

    world.failing.add("b")
    with pytest.raises(BrokenError):
        run(build("b"), {"log": ["in"]}, CONFIG)
    with pytest.raises(e.CheckFailedError) as raised:
        run(build("c"), None, CONFIG)
    assert raised.value.missing == ("b",)
    assert "c" not in world.ran


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


def logging_nodes(world: World, *names: str, deferred: tuple[str, ...] = ()) -> Any:
    """A graph to be built, with nodes that may run at once."""
    build = StateGraph(Log)
    for name in names:
        build.add_node(name, world.node(name), input_schema=Log, defer=name in deferred)
    return build


def test_edges_to_nodes_that_the_graph_lacks_do_not_hold_up_another_turn(saver, world):
    build = logging_nodes(world, "a", "b", "c", "d")
    build.add_edge(START, "a")
    build.add_edge(START, "b")
    build.add_edge(["a", "b"], "c")
    build.add_conditional_edges("a", lambda _: [Send("d", {})], ["d"])
    world.failing.update({"c", "d"})
    with pytest.raises(BrokenError):
        run(build.compile(checkpointer=saver), {"log": ["in"]}, CONFIG, request_id="1")
    world.failing.clear()
    other = logging_nodes(world, "a").add_edge(START, "a").compile(checkpointer=saver)
    is_asked = RunControl()
    is_asked.request_drain("The input is there, and no step has ended.")
    with pytest.raises(GraphDrained):
        run(other, {"log": ["again"]}, CONFIG, request_id="2", control=is_asked)
    assert saver.thread("t").status().nodes == ("__start__",)
    assert run(other, {"log": ["again"]}, CONFIG, request_id="2")["log"][-2:] == ["again", "a"]
    assert saver.thread("t").status().state == "finished"


def test_versions_of_other_savers_say_what_is_due(saver, world):
    """LangGraph once made a version for each channel, and most savers add random digits to each."""
    memory = InMemorySaver()
    world.failing.add("z")
    with pytest.raises(BrokenError):
        world.graph(memory).invoke({"log": ["in"]}, CONFIG)
    found = memory.get_tuple(CONFIG)
    newest = max(found.checkpoint["channel_versions"].values())
    versions = {
        name: one if one != newest else f"{one}{name == 'log'}"
        for name, one in found.checkpoint["channel_versions"].items()
    }
    saver.put(
        {"configurable": {**CONFIG["configurable"], "checkpoint_ns": ""}},
        {**found.checkpoint, "channel_versions": versions},
        found.metadata,
        versions,
    )
    assert saver.thread("t").status().nodes == ("z",)


@pytest.mark.parametrize("source", [["a", "b"], "b"])
def test_a_deferred_node_is_not_due_while_another_one_asks(saver, world, source):
    build = logging_nodes(world, "a", "b", "last", deferred=("last",))
    build.add_node("ask", lambda _: {"log": [interrupt("sure?")]})
    for one in ("a", "b"):
        build.add_edge(START, one)
    build.add_edge("a", "ask")
    build.add_edge(source, "last")
    graph = build.compile(checkpointer=saver)
    asked = run(graph, {"log": ["in"]}, CONFIG, request_id="1")
    assert saver.thread("t").status().nodes == ("ask",)
    assert run(graph, {"log": ["other"]}, CONFIG, request_id="2")["__interrupt__"] == asked["__interrupt__"]
    assert saver.thread("t").answer("yes")
    assert [one.outcome for one in saver.recover(graph)] == ["finished"]
    assert logs(saver, graph) == ["in", "a", "b", "yes", "last"]
    assert sorted(world.ran) == ["a", "b", "last"]
