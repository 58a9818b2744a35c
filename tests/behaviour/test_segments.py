"""`run` with policies: segments that store only where the policy says so and show no seams, and runs that stop."""

from __future__ import annotations

import asyncio
import dataclasses
import operator
import signal
import threading
from collections.abc import Iterator
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import langsmith
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.langchain import wait_for_all_tracers
from langgraph.callbacks import GraphCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl
from langgraph.types import Command
from langsmith.run_helpers import tracing_context

from langgraph_gcs_saver import GCSSaver, arun, astream, cadence, run, stream
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.cadence.control import Control
from langgraph_gcs_saver.engine.effects import Commit
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.flows import runs
from langgraph_gcs_saver.format import turns
from langgraph_gcs_saver.saver import langgraph_private
from tests.behaviour.test_cadence import WITH_CONTEXTS
from tests.behaviour.test_run import (
    CONFIG,
    MODES,
    PLAIN,
    BrokenError,
    Context,
    World,
    in_loop,
    logs,
    normal,
    status,
    turn,
)
from tests.faults.turns import SCENARIOS, plain
from tests.patience import PATIENCE

OFTEN: Any = {"store": "segments", "policy": cadence.Steps(1)}
RARELY: Any = {"store": "segments", "policy": cadence.Steps(2)}


@pytest.fixture
def saver() -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string("memory:") as saver:
        yield saver


@pytest.fixture
def world() -> World:
    return World()


def collect(call: Any, is_async: bool) -> list[Any]:
    """The parts of a stream."""
    if not is_async:
        return list(call)

    async def parts() -> list[Any]:
        return [part async for part in call]

    return in_loop(parts())


def call_run(is_async: bool, *args: Any, **named: Any) -> Any:
    return in_loop(arun(*args, **named)) if is_async else run(*args, **named)


def stored(saver: GCSSaver) -> list[str]:
    """The ids of all checkpoints of the root graph, oldest first."""
    found = [one.config["configurable"] for one in saver.list(CONFIG)]
    return [one["checkpoint_id"] for one in found if not one["checkpoint_ns"]][::-1]


# What is stored


@pytest.mark.parametrize("is_async", [False, True])
def test_steps_are_stored_where_the_policy_says_so_and_at_the_end(saver, world, is_async):
    graph = world.loop(saver)
    result = call_run(is_async, graph, {"log": ["one"]}, CONFIG, request_id="r1", **RARELY)
    assert result["log"] == ["one", *"aaaaa"]
    found = [one.metadata for one in saver.list(CONFIG)][::-1]
    # The input, then every second of six steps, of which the first one takes the input, and the end.
    assert [one["step"] for one in found] == [-1, 1, 3, 5]
    assert [one[runs.SEGMENT] for one in found] == [0, 0, 1, 2]
    assert {one[runs.REQUEST] for one in found} == {"r1"}
    assert turn(saver) is None


def test_without_a_policy_a_run_is_one_segment(saver, world):
    run(world.loop(saver), {"log": ["one"]}, CONFIG, store="segments")
    assert [one.metadata["step"] for one in saver.list(CONFIG)] == [5, -1]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_results_are_those_of_a_run_that_stores_every_step(name, is_async):
    build, given = SCENARIOS[name]
    results = []
    for options in ({"durability": "sync"}, OFTEN, RARELY):
        with GCSSaver.from_conn_string("memory:") as saver:
            graph, of_one, last = build(saver, []), [], None
            for at, one in enumerate(given):
                command = one(last) if callable(one) else one
                last = call_run(is_async, graph, command, CONFIG, request_id=f"r{at}", **options)
                of_one.append(plain(last))
            values = graph.get_state(CONFIG).values
            results.append([*of_one, plain(values)])
    assert results[1] == results[0]
    assert results[2] == results[0]


def test_a_subgraph_with_a_memory_takes_its_input_after_a_seam(world):
    def build(saver: Any) -> Any:
        inner = StateGraph(Plain)
        inner.add_node("in", lambda state: {"log": ["in"]})
        inner.add_edge(START, "in")
        graph = StateGraph(Plain)
        graph.add_node("sub", inner.compile(checkpointer=True))
        graph.add_node("a", lambda state: {"log": ["a"]})
        graph.add_edge(START, "sub")
        graph.add_edge("sub", "a")
        return graph.compile(checkpointer=saver)

    results = []
    for options in ({"durability": "sync"}, OFTEN):
        with GCSSaver.from_conn_string("memory:") as saver:
            graph = build(saver)
            results.append([run(graph, {"log": [text]}, CONFIG, **options) for text in ("one", "two")])
    assert results[0] == results[1]


class Plain(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


@dataclasses.dataclass
class Found:
    name: str


def test_nodes_get_the_objects_of_the_nodes_before_them(saver):
    """A value that is read from the store would be a plain dict."""

    class Objects(TypedDict, total=False):
        found: Any

    seen = []
    graph = StateGraph(Objects)
    graph.add_node("a", lambda state: {"found": Found("it")})
    graph.add_node("b", lambda state: seen.append(state["found"]))
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    run(graph.compile(checkpointer=saver), {"found": None}, CONFIG, **OFTEN)
    assert seen == [Found("it")]


def test_a_context_is_made_once(saver, world):
    made: list[Context] = []

    def make() -> Context:
        made.append(Context("Ada"))
        return made[-1]

    run(world.graph(saver), {"log": ["one"]}, CONFIG, context_factory=make, **OFTEN)
    assert len(made) == 1
    assert world.contexts == [made[0]] * 3


@pytest.mark.parametrize("limit", range(2, 9))
@pytest.mark.parametrize("options", [OFTEN, RARELY], ids=["often", "rarely"])
def test_the_recursion_limit_counts_over_segments(saver, world, limit, options):
    config = {**CONFIG, "recursion_limit": limit}
    outcomes = []
    for call in (world.loop(InMemorySaver()).invoke, lambda *args: run(world.loop(saver), *args, **options)):
        world.ran.clear()
        try:
            outcomes.append(call({"log": ["one"]}, config)["log"])
        except GraphRecursionError:
            outcomes.append(["failed"])
        outcomes.append(list(world.ran))
    assert outcomes[:2] == outcomes[2:]


@pytest.mark.parametrize("is_async", [False, True])
def test_two_segments_that_store_nothing_end_the_run(saver, world, monkeypatch, is_async):
    def meet(self: Control) -> None:
        self._end(cadence.Store("Again."))

    monkeypatch.setattr(Control, "_meet_boundary", meet)
    handler = Handler()
    with pytest.raises(GraphRecursionError, match="without a step"):
        call_run(is_async, world.graph(saver), {"log": ["one"]}, {**CONFIG, "callbacks": [handler]}, **OFTEN)
    assert handler.ends == ["GraphDrained"]
    assert status(saver).lease.owner is None


# Seams


def without_segments(part: Any) -> Any:
    """A part without the numbers of segments."""
    if isinstance(part, dict):
        return {key: without_segments(value) for key, value in part.items() if key != runs.SEGMENT}
    return [without_segments(one) for one in part] if isinstance(part, list | tuple) else part


def named(part: Any) -> str | None:
    """The id of the checkpoint that a part names."""
    data = part[-1] if isinstance(part, tuple) else part.get("data", part) if isinstance(part, dict) else None
    data = data.get("payload", data) if isinstance(data, dict) else None
    return (
        data["config"]["configurable"]["checkpoint_id"] if isinstance(data, dict) and "parent_config" in data else None
    )


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("subgraphs", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("is_async", [False, True])
def test_streams_show_no_seams(saver, mode, subgraphs, version, is_async):
    graph = World().graph(saver)
    options = {"stream_mode": mode, "subgraphs": subgraphs, "version": version}
    ours, theirs = (astream, graph.astream) if is_async else (stream, graph.stream)
    for text in ("one", "two"):
        expected = collect(theirs({"log": [text]}, PLAIN, **options), is_async)
        found = collect(ours(graph, {"log": [text]}, CONFIG, **OFTEN, **options), is_async)
        ids = [named(part) for part in found if named(part)]
        if subgraphs:  # Those of a subgraph that has ended are not stored.
            expected = [part for part in expected if not named(part) or not _namespace(part)]
        assert without_segments(normal(found)) == without_segments(normal(expected))
        if ids:
            assert ids == stored(saver)[-len(ids) :]


@pytest.mark.parametrize("mode", [*MODES, ["tasks", "messages", "custom", "checkpoints"]], ids=str)
@pytest.mark.parametrize(
    "shape", [{"subgraphs": a, "version": b} for a in (False, True) for b in ("v1", "v2")], ids=str
)
@pytest.mark.parametrize("options", [{"durability": "sync"}, OFTEN], ids=["every step", "segments"])
def test_streams_of_a_resumed_turn_are_those_of_a_resumed_graph(saver, world, mode, shape, options):
    """A node of the subgraph fails once."""
    graph, given = world.graph(saver), {"log": ["one"]}
    how = {"stream_mode": mode, **shape}
    found: list[list[Any]] = []
    for calls in (
        (graph.stream(given, PLAIN, durability="sync", **how), graph.stream(None, PLAIN, durability="sync", **how)),
        tuple([stream(graph, given, CONFIG, **options, **how) for _ in range(2)]),
    ):
        parts: list[Any] = []
        world.failing = {"in"}
        with pytest.raises(BrokenError):
            parts.extend(iter(calls[0]))
        world.failing = set()
        parts.extend(calls[1])
        if options is OFTEN:  # Parts name only checkpoints that are stored.
            parts = [part for part in parts if not named(part)]
        found.append(without_segments(normal(parts)))
    assert found[1] == found[0]
    assert found[0] or (mode == "checkpoints" and options is OFTEN)


def _namespace(part: Any) -> Any:
    return part["ns"] if isinstance(part, dict) else part[0]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("mode", ["checkpoints", "debug", ["checkpoints", "values"]], ids=str)
def test_parts_name_only_checkpoints_that_are_stored_and_their_parents(saver, world, mode, is_async):
    graph = world.loop(saver)
    call = (astream if is_async else stream)(graph, {"log": ["one"]}, CONFIG, stream_mode=mode, **RARELY)
    found = [part for part in collect(call, is_async) if named(part)]
    assert [named(part) for part in found] == stored(saver)
    payloads = [part[-1] if isinstance(part, tuple) else part.get("payload", part) for part in found]
    parents = [(one["parent_config"] or {}).get("configurable", {}).get("checkpoint_id") for one in payloads]
    assert parents == [None, *stored(saver)[:-1]]


@pytest.mark.parametrize("mode", ["values", "updates", "tasks"])
@pytest.mark.parametrize("is_async", [False, True])
def test_streams_after_an_answer_show_no_seams(saver, world, mode, is_async):
    """The call that gets the answer resumes. Those after it do not."""
    graph = world.asking(saver)
    parts = []
    for config, options in ((PLAIN, {}), (CONFIG, OFTEN)):
        for given in ({"log": ["one"]}, Command(resume="yes")):
            ours = options and (astream if is_async else stream)(graph, given, config, stream_mode=mode, **options)
            call = ours or (graph.astream if is_async else graph.stream)(given, config, stream_mode=mode)
            parts.append(without_segments(normal(collect(call, is_async))))
    assert parts[2:] == parts[:2]


def test_parts_of_a_graph_that_asks_name_its_checkpoint(saver, world):
    graph = world.asking(saver)
    found = list(stream(graph, {"log": ["one"]}, CONFIG, stream_mode="checkpoints", store="segments"))
    assert [named(part) for part in found] == stored(saver)
    more = list(stream(graph, Command(resume="yes"), CONFIG, stream_mode="checkpoints", store="segments"))
    assert [named(part) for part in more] == stored(saver)[-2:]


@pytest.mark.parametrize("mode", ["values", ["values", "updates"]], ids=str)
@pytest.mark.parametrize("subgraphs", [False, True])
def test_streams_show_no_seams_without_the_private_name(saver, world, monkeypatch, mode, subgraphs):
    """Each later call then begins with the state once more, and so does the first one after the input."""
    monkeypatch.setattr(langgraph_private, "NOT_RESUMING", {})
    graph = world.graph(saver)
    options = {"stream_mode": mode, "subgraphs": subgraphs}
    expected = list(stream(graph, {"log": ["one"]}, PLAIN | {"metadata": {}}, **options))
    found = list(stream(graph, {"log": ["one"]}, CONFIG, **OFTEN, **options))
    assert without_segments(normal(found)) == without_segments(normal(expected))


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream_mode": "updates"},
        {"stream_mode": ["updates", "custom"]},
        {"version": "v2"},
        {"version": "v2", "stream_mode": "updates"},
        {"output_keys": "log"},
        {"output_keys": ["count"]},
    ],
    ids=str,
)
def test_the_output_is_that_of_invoke(saver, world, more, is_async):
    graph = world.graph(saver)
    expected = graph.invoke({"log": ["one"]}, PLAIN, **more)
    assert normal(call_run(is_async, graph, {"log": ["one"]}, CONFIG, request_id="r1", **OFTEN, **more)) == normal(
        expected
    )
    if more.get("stream_mode") is None:
        assert call_run(is_async, graph, {"log": ["one"]}, CONFIG, request_id="r1", **OFTEN, **more) == expected


def test_the_output_is_there_if_the_last_segment_changes_nothing(saver):
    graph = StateGraph(Plain)
    graph.add_node("a", lambda state: {"log": ["a"]})
    graph.add_node("b", lambda state: None)
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    assert run(graph.compile(checkpointer=saver), {"log": ["one"]}, CONFIG, **OFTEN) == {"log": ["one", "a"]}


class Handler(BaseCallbackHandler):
    """Notes the runs that begin and end, with their parents."""

    run_inline = True

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.roots: list[UUID] = []
        self.ends: list[str] = []
        self.names: dict[UUID | None, str] = {None: ""}

    def on_chain_start(self, serialized: Any, inputs: Any, **more: Any) -> None:
        self.names[more["run_id"]] = more.get("name")
        if more["parent_run_id"] is None:
            self.roots.append(more["run_id"])
        self.seen.append(("start", more.get("name"), self.names[more["parent_run_id"]]))

    def on_chain_end(self, outputs: Any, **more: Any) -> None:
        self._end("end", **more)

    def on_chain_error(self, error: BaseException, **more: Any) -> None:
        self._end(type(error).__name__, **more)

    def _end(self, how: str, **more: Any) -> None:
        if more["parent_run_id"] is None:
            self.ends.append(how)
        self.seen.append((how, self.names[more["run_id"]]))


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_callbacks_see_one_run(saver, world, bound, is_async):
    graph, handlers, ids = world.graph(saver), [Handler(), Handler()], [uuid4(), uuid4()]
    for at, base in enumerate((PLAIN, CONFIG)):
        callee = graph.with_config(callbacks=[handlers[at]]) if bound else graph
        config = {**base, "run_id": ids[at]} | ({} if bound else {"callbacks": [handlers[at]]})
        if at == 0:
            asyncio.run(callee.ainvoke({"log": ["one"]}, config)) if is_async else callee.invoke(
                {"log": ["one"]}, config
            )
        else:
            call_run(is_async, callee, {"log": ["one"]}, config, **OFTEN)
    assert handlers[1].seen == handlers[0].seen
    assert [one.roots for one in handlers] == [[ids[0]], [ids[1]]]
    assert [one.ends for one in handlers] == [["end"], ["end"]]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_policy_that_needs_callbacks_gets_them_in_each_segment(saver, world, is_async):
    policy = cadence.Milestone("a", "z")
    handler = Handler()
    call_run(
        is_async,
        world.graph(saver),
        {"log": ["one"]},
        {**CONFIG, "callbacks": [handler]},
        store="segments",
        policy=policy,
    )
    assert [one.metadata["step"] for one in saver.list(CONFIG)] == [3, 1, -1]
    assert handler.ends == ["end"]


@pytest.mark.parametrize("is_async", WITH_CONTEXTS)
def test_within_another_runnable_policies_work_although_its_callbacks_see_seams(saver, world, is_async):
    handler, graph = Handler(), world.graph(saver)
    options: dict[str, Any] = {"store": "segments", "policy": cadence.Milestone("a", "z")}

    def outer(given: Any) -> Any:
        return run(graph, given, CONFIG, **options)

    async def aouter(given: Any) -> Any:
        return await arun(graph, given, CONFIG, **options)

    outside = RunnableLambda(outer, aouter)
    if is_async:
        asyncio.run(outside.ainvoke({"log": ["one"]}, {"callbacks": [handler]}))
    else:
        outside.invoke({"log": ["one"]}, {"callbacks": [handler]})
    assert [one.metadata["step"] for one in saver.list(CONFIG)] == [3, 1, -1]
    assert handler.ends == ["end"]
    assert [event for event in handler.seen if event[0] == "start"].count(("start", "a", "LangGraph")) == 1


class Lifecycle(GraphCallbackHandler):
    """Notes what happens to graphs."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_interrupt(self, event: Any) -> None:
        self.seen.append("interrupt")

    def on_resume(self, event: Any) -> None:
        self.seen.append("resume")


@pytest.mark.parametrize("is_async", [False, True])
def test_handlers_of_graphs_learn_of_questions_and_not_of_seams(saver, world, is_async):
    graph, handler = world.asking(saver), Lifecycle()
    config = {**CONFIG, "callbacks": [handler]}
    call_run(is_async, graph, {"log": ["one"]}, config, **OFTEN)
    call_run(is_async, graph, Command(resume="yes"), config, **OFTEN)
    assert handler.seen == ["interrupt", "resume"]


class Client(langsmith.Client):
    """Notes the runs of traces, and sends nothing."""

    def __init__(self) -> None:
        super().__init__(api_url="http://localhost:1", api_key="none", auto_batch_tracing=False)
        self.begun: dict[Any, list[Any]] = {}
        self.ended: list[Any] = []

    def create_run(self, name: str, inputs: Any, run_type: Any, **more: Any) -> None:
        self.begun.setdefault(more["id"], []).append((name, more.get("parent_run_id")))

    def update_run(self, run_id: Any, **more: Any) -> None:
        self.ended.append(run_id)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_trace_has_one_root(saver, world, is_async):
    client = Client()
    with tracing_context(enabled=True, client=client):
        call_run(is_async, world.graph(saver), {"log": ["one"]}, CONFIG, **OFTEN)
    wait_for_all_tracers()
    assert [len(one) for one in client.begun.values()] == [1] * len(client.begun)
    assert sorted(client.ended) == sorted(client.begun)
    (root,) = [run_id for run_id, ((_, parent),) in client.begun.items() if parent is None]
    children = sorted(name for ((name, parent),) in client.begun.values() if parent == root)
    assert children == ["a", "sub", "z"]


# Stops


class Once(cadence.Policy):
    """Decides once, after a node has set it."""

    only_stops = True

    def __init__(self) -> None:
        self.decision: Any = None

    def decide(self, progress: cadence.Progress) -> Any:
        return self.decision


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("options", [{"durability": "sync"}, {"durability": "async"}, {"store": "segments"}], ids=str)
@pytest.mark.parametrize("node", ["a", "in"])
def test_a_stop_drains_the_run_and_releases_the_lease(saver, world, options, node, is_async):
    graph, policy = world.graph(saver), Once()

    def act(name: str) -> None:
        if name == node:
            policy.decision = cadence.Stop("It is time.")

    world.act = act
    handler = Handler()
    config = {**CONFIG, "callbacks": [handler]}
    with pytest.raises(GraphDrained, match="It is time"):
        call_run(
            is_async, graph, {"log": ["one"]}, config, request_id="r1", policy=policy | cadence.Steps(1), **options
        )
    assert handler.ends == ["GraphDrained"]
    found = status(saver)
    assert (found.state, found.lease.owner, turn(saver)[turns.ATTEMPTS]) == ("due", None, 0)
    world.act, policy.decision = (lambda name: None), None
    done = call_run(is_async, graph, {"log": ["one"]}, CONFIG, request_id="r1", policy=policy, **options)
    assert done["log"] == ["one", "a", "one", "a", "in", "z"]
    assert world.ran == ["a", "in", "z"]


@pytest.mark.parametrize("store", ["every_step", "segments"])
def test_a_signal_ends_the_run_and_the_same_line_continues(saver, world, store):
    graph = world.graph(saver)
    policy = cadence.Signal(signal.SIGUSR1) | cadence.Deadline(minutes=58) | cadence.Every(minutes=5)
    world.act = lambda name: signal.raise_signal(signal.SIGUSR1) if name == "a" else None
    with pytest.raises(GraphDrained, match="signal"):
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1", policy=policy, store=store)
    assert logs(saver, graph) == ["one", "a"]
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1", policy=policy, store=store)
    assert world.ran == ["a", "in", "z"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_pause_ends_a_run_that_would_go_on_with_another_segment(saver, world, is_async):
    graph = world.graph(saver)

    def act(name: str) -> None:
        if name == "a":
            held = next(iter(saver._leases._processes.get().held.values()))
            # As if the wish came while the segment is being stored: its control does not know of it.
            held.ending = "Another process asked to pause thread 't'."

    world.act = act
    with pytest.raises(GraphDrained, match="pause"):
        call_run(is_async, graph, {"log": ["one"]}, CONFIG, request_id="r1", **OFTEN)
    assert world.ran == ["a"]


def test_a_saver_that_has_to_stop_ends_a_run_that_reads_nothing():
    """The run continues at the input's checkpoint, which it has in memory."""
    policy = Once()
    with GCSSaver.from_conn_string("memory:", stop_on=policy) as saver:
        world = World()
        graph = world.graph(saver)
        policy.decision = cadence.Stop("The host ends.")
        for options in ({"durability": "exit"}, {"store": "segments"}):
            with pytest.raises(GraphDrained, match="host"):
                run(graph, {"log": ["one"]}, CONFIG, request_id="r1", **options)
        assert world.ran == []
        policy.decision = None
        run(graph, {"log": ["one"]}, CONFIG, request_id="r1", store="segments")
        assert world.ran == ["a", "in", "z"]


class Gate(Interceptor):
    """Holds commits back while it is closed."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()

    def around(self, effect: Any, perform: Any) -> Any:
        if isinstance(effect, Commit):
            assert self.opened.wait(PATIENCE)
        return perform(effect)

    async def aaround(self, effect: Any, perform: Any) -> Any:
        if isinstance(effect, Commit):
            assert await asyncio.to_thread(self.opened.wait, PATIENCE)
        return await perform(effect)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_store_of_every_step_waits_until_steps_are_durable(is_async):
    gate = Gate()
    with GCSSaver.from_conn_string("memory:", interceptors=[gate]) as saver:
        world, lags = World(), []

        class Lag(cadence.Policy):
            needs = frozenset({"lag"})

            def decide(self, progress: cadence.Progress) -> Any:
                lags.append(progress.lag_steps)
                return None

        def act(name: str) -> None:
            if len(world.ran) == 1:
                gate.opened.clear()
                threading.Timer(0.1, gate.opened.set).start()  # clock: the run waits for it, however late it is

        world.act = act
        policy = cadence.MaxLag(steps=2) | Lag()
        call_run(is_async, world.loop(saver), {"log": ["one"]}, CONFIG, durability="async", policy=policy)
        # A coroutine waits where a part has arrived, when the next step may be under way.
        assert max(lags) <= 2 + is_async


# Arguments


@pytest.mark.parametrize(
    "options",
    [
        {"store": "sometimes"},
        {"store": "segments", "durability": "sync"},
        {"policy": "often"},
        {"policy": cadence.Steps(1), "control": RunControl()},
    ],
    ids=["store", "durability", "policy", "policy and control"],
)
def test_wrong_arguments_are_refused_before_anything_happens(saver, world, options):
    with pytest.raises(e.InvalidInputError):
        run(world.graph(saver), {"log": ["one"]}, CONFIG, **options)
    assert status(saver).state == "empty"


def test_leaving_a_stream_early_releases_the_lease(saver, world):
    graph = world.graph(saver)
    parts = stream(graph, {"log": ["one"]}, CONFIG, request_id="r1", **OFTEN)
    next(parts)
    next(parts)
    parts.close()
    assert status(saver).lease.owner is None
    run(graph, {"log": ["one"]}, CONFIG, request_id="r1", **OFTEN)
    assert world.ran.count("z") == 1
