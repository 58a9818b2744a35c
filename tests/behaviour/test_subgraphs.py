"""What `checkpointer=True | None | False` means for a subgraph: each row of the table in docs/guides/several-agents.md.

LangGraph decides most of it. So these tests also notice when a release of LangGraph makes the table untrue.
"""

import asyncio
import operator
import os
import signal
import threading
from collections import Counter
from contextlib import contextmanager
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import RunControl
from langgraph.types import Command, Send, interrupt

from langgraph_gcs_saver import GCSSaver, arun, cadence, run
from tests.patience import PATIENCE, eventually

KINDS = (None, True, False)

CONFIG = {"configurable": {"thread_id": "t"}}


class Outer(TypedDict):
    log: Annotated[list[str], operator.add]


class Inner(TypedDict):
    log: Annotated[list[str], operator.add]
    memory: Annotated[list[str], operator.add]


class Pipeline:
    """`before`, then a subgraph of `first` and `second`, then `after`.

    Attributes:
        ran: The nodes that ran.
        hooks: What to do in a node, once.
    """

    def __init__(self, saver, kind):
        self.saver = saver
        self.ran = []
        self.hooks = {}
        inner = StateGraph(Inner).add_node("first", self.node("first")).add_node("second", self.node("second"))
        inner = inner.add_edge(START, "first").add_edge("first", "second").add_edge("second", END)
        outer = StateGraph(Outer).add_node("before", self.node("before")).add_node("after", self.node("after"))
        outer = outer.add_node("agent", inner.compile(checkpointer=kind)).add_edge(START, "before")
        outer = outer.add_edge("before", "agent").add_edge("agent", "after").add_edge("after", END)
        self.graph = outer.compile(checkpointer=saver)
        self.drains = False

    def node(self, name):
        def work(state):
            self.ran.append(name)
            self.hooks.pop(name, lambda: None)()
            return {"log": [name], "memory": [name]} if "memory" in state else {"log": [name]}

        return work

    def turn(self, request, *, durability="async", is_async=False):
        """Start, resume or return a turn. Returns the nodes that ran, and the whole state."""
        self.ran.clear()
        given = {"log": [request]}
        arguments = {"request_id": request, "durability": durability, "policy": _Asked(self), "owner": "the test"}
        if is_async:
            result = asyncio.run(arun(self.graph, given, CONFIG, **arguments))
        else:
            result = run(self.graph, given, CONFIG, **arguments)
        return self.ran.copy(), result, self.memory

    @property
    def memory(self):
        """The state of a subgraph that keeps it."""
        found = self.saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": "agent"}})
        return None if found is None else found.checkpoint["channel_values"]["memory"]

    def stored(self):
        """The number of checkpoints by namespace, without ids of tasks."""
        found = (one.config["configurable"]["checkpoint_ns"] for one in self.saver.list(CONFIG))
        return Counter(ns.partition(":")[0] + (":TASK" if ":" in ns else "") for ns in found)

    def drain(self):
        self.drains = True


class _Asked(cadence.Policy):
    """Stops once the pipeline says so."""

    only_stops = True

    def __init__(self, pipeline):
        self.pipeline = pipeline

    def decide(self, _):
        is_asked, self.pipeline.drains = self.pipeline.drains, False
        return cadence.Stop("asked by a test") if is_asked else None


def undisturbed(kind, durability="async"):
    """What two turns do: the nodes that the second one runs, the state, and the subgraph's."""
    with GCSSaver.from_conn_string("memory:") as saver:
        pipeline = Pipeline(saver, kind)
        pipeline.turn("one", durability=durability)
        return pipeline.turn("two", durability=durability)


def durabilities(kind):
    """LangGraph fails under "sync" if the subgraph has no checkpointer: see `test_sync`."""
    return ("async", "exit") if kind is False else ("sync", "async", "exit")


EVERYWHERE = pytest.mark.parametrize(
    ("kind", "durability"), [(kind, durability) for kind in KINDS for durability in durabilities(kind)]
)


def killed(store, kind, node, durability):
    """Run a second turn in a process that is killed in a node, once everything before is durable."""
    with GCSSaver.from_conn_string(store) as saver:
        Pipeline(saver, kind).turn("one", durability=durability)
    child = os.fork()
    if child == 0:
        try:
            with GCSSaver.from_conn_string(store) as saver:
                pipeline = Pipeline(saver, kind)
                wanted = {"first": "before", "second": "before", "after": "second"}[node]

                def die():
                    if durability != "exit":
                        eventually(lambda: saver.get_tuple(CONFIG).checkpoint["channel_values"]["log"][-1] == wanted)
                    os.kill(os.getpid(), signal.SIGKILL)

                pipeline.hooks[node] = die
                pipeline.turn("two", durability=durability)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def resumed(store, kind, durability):
    with GCSSaver.from_conn_string(store) as saver:
        return Pipeline(saver, kind).turn("two", durability=durability)


@pytest.fixture
def store(tmp_path):
    return f"file://{tmp_path}/store"


@contextmanager
def pipeline_of(kind):
    with GCSSaver.from_conn_string("memory:") as saver:
        pipeline = Pipeline(saver, kind)
        pipeline.turn("one")
        yield pipeline


# The rows of the table


@pytest.mark.parametrize(("kind", "ns"), [(None, "agent:TASK"), (True, "agent"), (False, None)])
def test_namespace(kind, ns):
    with pipeline_of(kind) as pipeline:
        pipeline.turn("two")
        assert set(pipeline.stored()) - {""} == ({ns} if ns else set())


def test_a_call_begins_with():
    """The subgraph's own channel shows it."""
    for kind in KINDS:
        with pipeline_of(kind) as pipeline:
            pipeline.turn("two")
            assert (pipeline.memory is not None) == (kind is True)
            if kind is True:
                assert pipeline.memory.count("first") == 2, "of two calls"


@pytest.mark.parametrize(("kind", "checkpoints"), [(None, 8), (True, 8), (False, 0)])
def test_stored_by_sync_and_async(kind, checkpoints):
    """Two calls of four checkpoints each: the input, the step that takes it, and two steps."""
    for durability in set(durabilities(kind)) - {"exit"}:
        with GCSSaver.from_conn_string("memory:") as saver:
            pipeline = Pipeline(saver, kind)
            for request in ("one", "two"):
                pipeline.turn(request, durability=durability)
            assert sum(count for ns, count in pipeline.stored().items() if ns) == checkpoints, durability


@pytest.mark.parametrize(("kind", "checkpoints"), [(None, 0), (True, 2), (False, 0)])
def test_stored_by_exit_and_segments(kind, checkpoints):
    for arguments in ({"durability": "exit"}, {"store": "segments"}):
        with GCSSaver.from_conn_string("memory:") as saver:
            pipeline = Pipeline(saver, kind)
            for request in ("one", "two"):
                run(pipeline.graph, {"log": [request]}, CONFIG, request_id=request, **arguments)
            assert sum(count for ns, count in pipeline.stored().items() if ns) == checkpoints


@pytest.mark.parametrize(
    ("kind", "again"), [(None, ["second", "after"]), (True, ["second", "after"]), (False, ["first", "second", "after"])]
)
def test_runs_again_after_a_crash_in_its_second_step(store, kind, again):
    durability = durabilities(kind)[0]
    killed(store, kind, "second", durability)
    ran, *state = resumed(store, kind, durability)
    assert ran == again
    assert state == list(undisturbed(kind)[1:])


@pytest.mark.parametrize(("kind", "calls"), [(None, None), (True, 3), (False, None)])
def test_runs_again_after_a_crash_under_exit(store, kind, calls):
    """All of the turn. A call that has ended is stored, if the subgraph keeps its state: it is made a second time."""
    killed(store, kind, "after", "exit")
    ran, _, memory = resumed(store, kind, "exit")
    assert ran == ["before", "first", "second", "after"]
    assert (memory and memory.count("first")) == calls


@EVERYWHERE
def test_a_stop_before_it(kind, durability):
    """Nothing is lost. LangGraph alone loses the call of a subgraph that keeps its state: see below."""
    for is_async in (False, True):
        with pipeline_of(kind) as pipeline:
            pipeline.hooks["before"] = pipeline.drain
            with pytest.raises(GraphDrained):
                pipeline.turn("two", durability=durability, is_async=is_async)
            assert pipeline.ran == ["before"]
            ran, *state = pipeline.turn("two", durability=durability, is_async=is_async)
            assert ran == ["first", "second", "after"]
            assert state == list(undisturbed(kind)[1:])


@EVERYWHERE
def test_a_stop_within_it(kind, durability):
    stays = kind is True or (kind is None and durability != "exit")
    for is_async in (False, True):
        with pipeline_of(kind) as pipeline:
            pipeline.hooks["first"] = pipeline.drain
            with pytest.raises(GraphDrained):
                pipeline.turn("two", durability=durability, is_async=is_async)
            assert pipeline.ran == ["before", "first"]
            ran, *state = pipeline.turn("two", durability=durability, is_async=is_async)
            assert ran == (["second", "after"] if stays else ["first", "second", "after"])
            assert state == list(undisturbed(kind)[1:])


@pytest.mark.parametrize(("kind", "again"), [(None, ["ask"]), (True, ["ask"]), (False, ["first", "ask"])])
def test_runs_again_after_an_answer(kind, again):
    ran = []

    def first(_):
        ran.append("first")
        return {"log": ["first"]}

    def ask(_):
        ran.append("ask")
        return {"log": [interrupt("Really?")]}

    inner = StateGraph(Outer).add_node("first", first).add_node("ask", ask)
    inner = inner.add_edge(START, "first").add_edge("first", "ask").compile(checkpointer=kind)
    with GCSSaver.from_conn_string("memory:") as saver:
        graph = StateGraph(Outer).add_node("agent", inner).add_edge(START, "agent").compile(checkpointer=saver)
        run(graph, {"log": ["question"]}, CONFIG, request_id="1")
        ran.clear()
        result = run(graph, Command(resume="yes"), CONFIG, request_id="2")
        assert ran == again
        assert result["log"][-2:] == ["first", "yes"]


@pytest.mark.parametrize("kind", KINDS)
def test_several_calls_at_once(kind):
    """Two packets, each with its own input. Calls of a subgraph that keeps its state write to one namespace."""
    inner = StateGraph(Outer).add_node("work", lambda state: {"log": [state["log"][-1].upper()]})
    inner = inner.add_edge(START, "work").compile(checkpointer=kind)
    with GCSSaver.from_conn_string("memory:") as saver:
        outer = StateGraph(Outer).add_node("agent", inner)
        packets = [Send("agent", {"log": ["a"]}), Send("agent", {"log": ["b"]})]
        outer = outer.add_conditional_edges(START, lambda _: packets, ["agent"])
        graph = outer.compile(checkpointer=saver)
        for _ in range(2):
            result = graph.invoke({"log": []}, CONFIG, durability="async")["log"]
    assert (result == ["a", "A", "b", "B"] * 2) == (kind is not True)


@pytest.mark.parametrize("kind", KINDS)
def test_sync(kind):
    with GCSSaver.from_conn_string("memory:") as saver:
        pipeline = Pipeline(saver, kind)
        if kind is False:
            # Without an error, LangGraph has fixed it: remove the row, and the part of `durabilities`.
            with pytest.raises(AttributeError, match="_put_checkpoint_fut"):
                pipeline.turn("one", durability="sync")
        else:
            assert pipeline.turn("one", durability="sync")[0] == ["before", "first", "second", "after"]


ROWS = {
    "namespace": test_namespace,
    "a call begins with": test_a_call_begins_with,
    'stored by `"sync"` and `"async"`': test_stored_by_sync_and_async,
    'stored by `"exit"` and in segments': test_stored_by_exit_and_segments,
    "runs again after a crash in its second step": test_runs_again_after_a_crash_in_its_second_step,
    'runs again after a crash under `"exit"`, or in a segment': test_runs_again_after_a_crash_under_exit,
    "a stop right before it": test_a_stop_before_it,
    "a stop between two of its steps": test_a_stop_within_it,
    "runs again after an answer": test_runs_again_after_an_answer,
    "several calls at once": test_several_calls_at_once,
    'works under `durability="sync"`': test_sync,
}
"""The rows of the guide's table, and the test of each."""


# A subgraph that keeps its state, and a run that resumes before the subgraph's call has begun


def lost(saver):
    """The nodes that LangGraph runs when it resumes there."""
    pipeline = Pipeline(saver, True)
    pipeline.graph.invoke({"log": ["one"]}, CONFIG)
    control = RunControl()
    pipeline.hooks["before"] = lambda: control.request_drain("asked by a test")
    with pytest.raises(GraphDrained):
        pipeline.graph.invoke({"log": ["two"]}, CONFIG, control=control)
    pipeline.ran.clear()
    pipeline.graph.invoke(None, CONFIG)
    return pipeline.ran


def test_the_call_is_not_lost():
    # If LangGraph runs the subgraph by itself, it has fixed this: remove `saver/subgraphs.py`.
    assert lost(InMemorySaver()) == ["after"]
    with GCSSaver.from_conn_string("memory:") as saver:
        assert lost(saver) == ["first", "second", "after"]


class Late(GCSSaver):
    """Does not store the steps of a second turn's root graph."""

    def put(self, config, checkpoint, metadata, new_versions):
        if not config["configurable"]["checkpoint_ns"] and metadata["step"] > 5:
            threading.Event().wait(PATIENCE)
        return super().put(config, checkpoint, metadata, new_versions)


def test_a_call_of_steps_that_were_not_durable(store):
    """With "async", the subgraph's steps may be durable before the root's step that led to its call."""
    with GCSSaver.from_conn_string(store) as saver:
        Pipeline(saver, True).turn("one")
    child = os.fork()
    if child == 0:
        try:
            with Late.from_conn_string(store) as saver:
                pipeline = Pipeline(saver, True)

                def end():
                    eventually(lambda: pipeline.memory.count("first") == 2)
                    os.kill(os.getpid(), signal.SIGKILL)

                pipeline.hooks["second"] = end
                pipeline.turn("two")
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    ran, _, memory = resumed(store, True, "async")
    assert ran == ["first", "second", "after"], "what `before` wrote is durable"
    assert memory == ["first", "second", "first", "first", "second"]


@pytest.mark.parametrize("node", ["first", "after"])
def test_a_crash_right_before_and_after_it(store, node):
    killed(store, True, node, "sync")
    ran, *state = resumed(store, True, "sync")
    assert ran == {"first": ["first", "second", "after"], "after": ["after"]}[node]
    assert state == list(undisturbed(True)[1:])


def test_a_finished_call_is_not_made_again():
    """The subgraph has ended, and its node fails after it: the same call returns what is stored."""
    ran = []
    inner = StateGraph(Outer).add_node("work", lambda _: ran.append("work") or {"log": ["work"]})
    inner = inner.add_edge(START, "work").compile(checkpointer=True)
    failures = [None, OSError("It failed."), None]

    def node(state):
        result = inner.invoke({"log": state["log"][-1:]})
        failure = failures.pop(0)
        if failure:
            raise failure
        return {"log": result["log"][-1:]}

    with GCSSaver.from_conn_string("memory:") as saver:
        graph = StateGraph(Outer).add_node("node", node).add_edge(START, "node").compile(checkpointer=saver)
        run(graph, {"log": ["one"]}, CONFIG, request_id="one")
        with pytest.raises(OSError, match="It failed"):
            run(graph, {"log": ["two"]}, CONFIG, request_id="two")
        assert ran == ["work"] * 2
        run(graph, {"log": ["two"]}, CONFIG, request_id="two")
        assert ran == ["work"] * 2
        memory = saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": "node"}})
        assert memory.checkpoint["channel_values"]["log"] == ["one", "work", "two", "work"]


def test_nested_subgraphs_that_keep_their_state():
    """The inner one does not resume if the outer one does not."""
    ran = []

    def node(name):
        return lambda _: ran.append(name) or {"log": [name]}

    deep = StateGraph(Outer).add_node("deep", node("deep")).add_edge(START, "deep").compile(checkpointer=True)
    inner = StateGraph(Outer).add_node("first", node("first")).add_node("inner", deep)
    inner = inner.add_edge(START, "first").add_edge("first", "inner").compile(checkpointer=True)
    drains = []
    outer = StateGraph(Outer).add_node("before", node("before")).add_node("agent", inner)
    outer = outer.add_edge(START, "before").add_edge("before", "agent")

    class At(cadence.Policy):
        only_stops = True

        def decide(self, _):
            return cadence.Stop("asked") if drains and ran[-1:] == [drains[0]] else None

    with GCSSaver.from_conn_string("memory:") as saver:
        graph = outer.compile(checkpointer=saver)
        for number, place in enumerate(("before", "first", "before", "first")):
            run(graph, {"log": [f"{number}"]}, CONFIG, request_id=f"{number}")
            ran.clear()
            drains.append(place)
            with pytest.raises(GraphDrained):
                run(graph, {"log": [f"{number}'"]}, CONFIG, request_id=f"{number}'", policy=At())
            drains.clear()
            run(graph, {"log": [f"{number}'"]}, CONFIG, request_id=f"{number}'")
            assert ran == ["before", "first", "deep"], place
