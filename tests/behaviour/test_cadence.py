"""Policies under real graphs: what a stopped run leaves, what a store waits for, and what a saver asks by itself."""

import asyncio
import operator
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from textwrap import dedent
from typing import Annotated, TypedDict

import pytest
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph.runtime import RunControl

from langgraph_gcs_saver import GCSSaver, arun, cadence, run
from langgraph_gcs_saver.cadence.policies import Policy, Stop, Store
from langgraph_gcs_saver.engine.effects import Commit
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import InvalidInputError, StoreUnavailableError
from tests.patience import PATIENCE, eventually

CONFIG = {"configurable": {"thread_id": "t"}}
NAMES = ["a", "b", "x", "y", "d"]

WITH_CONTEXTS = [
    False,
    pytest.param(
        True, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="coroutines of nodes have no config")
    ),
]
"""Tests whose nodes ask for the run that they belong to."""


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]
    total: int


def build(saver, act=lambda name: None):
    """`a` and `b`, then a subgraph `c` of `x` and `y`, then `d`. Each node calls `act` with its name first."""

    def node(name):
        def run_node(state):
            act(name)
            return {"done": [name]} | ({"total": 1} if name == "b" else {})

        return run_node

    inner = StateGraph(State)
    for name, before in (("x", START), ("y", "x")):
        inner.add_node(name, lambda state, name=name: {"done": node(name)(state)["done"]})
        inner.add_edge(before, name)
    subgraph = inner.compile()
    graph = StateGraph(State)
    graph.add_node("a", node("a")).add_node("b", node("b")).add_node("d", node("d"))
    graph.add_node("c", lambda state: {"done": subgraph.invoke({"done": []})["done"]})
    for before, after in ((START, "a"), ("a", "b"), ("b", "c"), ("c", "d")):
        graph.add_edge(before, after)
    return graph.compile(checkpointer=saver)


def invoke(graph, given, is_async, **more):
    """Run a graph. Returns its result, or why it was drained."""
    config = more.pop("config", CONFIG)
    try:
        if is_async:
            return asyncio.run(graph.ainvoke(given, config, **more))
        return graph.invoke(given, config, **more)
    except GraphDrained as drained:
        return drained.reason


class When(Policy):
    """Decides at the boundaries with these numbers of finished steps, and remembers what it has seen."""

    def __init__(self, decision, *steps, needs=()):
        self.decision, self.steps = decision, steps
        self._needs = frozenset(needs)
        self.seen = []

    needs = property(lambda self: self._needs)
    only_stops = True

    def decide(self, progress):
        self.seen.append(progress)
        return self.decision if progress.steps in self.steps else None


@pytest.fixture
def memory():
    with GCSSaver.from_conn_string("memory:") as saver:
        yield saver


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("step", range(6))
def test_a_stop_at_any_boundary_loses_and_repeats_nothing(memory, durability, step, is_async):
    ran = []
    graph = build(memory, ran.append)
    control = cadence.Control(When(Stop("It is time."), step))
    found = invoke(graph, {"done": []}, is_async, durability=durability, control=control)
    stops = step < 5
    assert (found == "It is time.") == stops
    assert (control.decision == Stop("It is time.")) == stops
    if stops:
        assert len(ran) < 5
        found = invoke(graph, None, is_async, control=cadence.Control(cadence.Steps(99)))
    assert found["done"] == ran == NAMES


@pytest.mark.parametrize("is_async", WITH_CONTEXTS)
def test_each_boundary_of_the_root_counts_once(memory, is_async):
    """Nodes that ask, and subgraphs, do not count."""
    policy = When(None)
    graph = build(memory, lambda name: cadence.drain_requested())
    invoke(graph, {"done": []}, is_async, control=cadence.Control(policy))
    steps = [progress.steps for progress in policy.seen]
    assert sorted(steps) == steps
    assert set(steps) == set(range(5))  # the first step takes the input
    assert steps.count(3) == 1 + 2 + 3  # the boundary before the subgraph; its nodes; its boundaries


@pytest.mark.parametrize("is_async", WITH_CONTEXTS)
def test_nodes_keys_and_milestones_are_those_of_finished_nodes(memory, is_async):
    policy = When(None, needs=["callbacks"])
    graph = build(memory, lambda name: cadence.milestone(f"in {name}") if name in "ax" else None)
    control = cadence.Control(policy)
    invoke(graph, {"done": []}, is_async, config=CONFIG | {"callbacks": control.callbacks}, control=control)
    last = {progress.steps: progress for progress in policy.seen}
    assert [sorted(last[step].nodes) for step in range(5)] == [[], [], ["a"], ["a", "b"], ["a", "b", "c"]]
    assert [sorted(last[step].keys) for step in range(5)] == [[], [], ["done"], ["done", "total"], ["done", "total"]]
    assert [sorted(last[step].milestones) for step in range(5)] == [
        [],
        [],
        ["in a"],
        ["in a", "in x"],
        ["in a", "in x"],
    ]


def test_a_policy_that_needs_callbacks_says_so(memory):
    graph, control = build(memory), cadence.Control(cadence.Milestone("a"))
    with pytest.raises(InvalidInputError, match=r"control\.callbacks"):
        graph.invoke({"done": []}, CONFIG, control=control)
    assert cadence.Control(cadence.Milestone()).callbacks == []


def test_outside_of_a_run_there_is_nothing_to_reach_or_to_end(memory):
    cadence.milestone("nowhere")
    assert not cadence.drain_requested()
    graph = build(memory, cadence.milestone)
    assert graph.invoke({"done": []}, CONFIG)["done"] == NAMES


@pytest.mark.parametrize("is_async", WITH_CONTEXTS)
def test_usage_of_models_and_refusals_are_counted(memory, is_async):
    answer = AIMessage(
        "hi",
        usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
        response_metadata={"model_name": "model-1"},
    )
    model = FakeMessagesListChatModel(responses=[answer])

    class Refusing(FakeMessagesListChatModel):
        def _generate(self, *args, **kwargs):
            error = RuntimeError("too many")
            error.status_code = 429
            raise error

    def act(name):
        model.invoke("hello")
        with pytest.raises(RuntimeError):
            Refusing(responses=[answer]).invoke("hello")

    policy = When(None, needs=["callbacks"])
    control = cadence.Control(policy)
    config = CONFIG | {"callbacks": control.callbacks}
    invoke(build(memory, act), {"done": []}, is_async, config=config, control=control)
    last = policy.seen[-1]
    assert last.usage == {"model-1": cadence.Tokens(3 * 4, 4 * 4)}
    assert last.rate_limits == 4


class Gate(Interceptor):
    """Holds commits back while it is closed."""

    def __init__(self):
        self.opened = threading.Event()
        self.opened.set()
        self.fails = False

    def around(self, effect, perform):
        if isinstance(effect, Commit):
            assert self.opened.wait(PATIENCE)
            if self.fails:
                raise StoreUnavailableError("down")
        return perform(effect)

    async def aaround(self, effect, perform):
        if isinstance(effect, Commit):
            assert await asyncio.to_thread(self.opened.wait, PATIENCE)
            if self.fails:
                raise StoreUnavailableError("down")
        return await perform(effect)


def durable(saver):
    """The nodes of which a new process would know."""
    found = saver.get_tuple(CONFIG)
    return [] if found is None else found.checkpoint["channel_values"].get("done", [])


@pytest.mark.parametrize(
    "policy",
    [
        cadence.Steps(3),
        cadence.Milestone("b"),
        cadence.Milestone("total"),
        cadence.Milestone(),
        cadence.MaxLag(steps=2),
        cadence.MaxLag(seconds=1e-9),
        cadence.Every(seconds=1e-9),
    ],
    ids=str,
)
def test_a_store_waits_until_all_finished_steps_are_durable(policy):
    gate = Gate()
    with GCSSaver.from_conn_string("memory:", interceptors=[gate]) as saver:
        other = GCSSaver(stores=(saver._backend.documents, saver._backend.blobs))

        def act(name):
            if name == "a":
                gate.opened.clear()
                threading.Timer(0.1, gate.opened.set).start()  # clock: the run waits for it, however late it is
            if name == "b":
                cadence.milestone("b is done")
            if name == "x":
                found.append(durable(other))

        found = []
        control = cadence.Control(policy)
        config = CONFIG | {"callbacks": control.callbacks}
        graph = build(saver, act)
        assert graph.invoke({"done": []}, config, durability="async", control=control)["done"] == NAMES
    # If "a" is durable before "b" ends, as on a slow machine, two steps are never late together.
    may_lack = ["b"] if policy == cadence.MaxLag(steps=2) else []
    assert found in ([["a", "b"]], [[one for one in ("a", "b") if one not in may_lack]])


def test_without_a_policy_the_run_would_not_have_waited():
    gate, seen = Gate(), []
    with GCSSaver.from_conn_string("memory:", interceptors=[gate]) as saver:
        other = GCSSaver(stores=(saver._backend.documents, saver._backend.blobs))

        def act(name):
            if name == "a":
                gate.opened.clear()
            if name == "x":
                seen.append(durable(other))
                gate.opened.set()

        build(saver, act).invoke({"done": []}, CONFIG, durability="async", control=cadence.Control(When(None)))
    assert seen in ([[]], [["a"]])


def test_the_backlog_is_bounded():
    gate, policy = Gate(), When(None)
    both = cadence.MaxLag(steps=2) | policy
    with GCSSaver.from_conn_string("memory:", interceptors=[gate]) as saver:

        def act(name):
            if name == "a":
                gate.opened.clear()
                threading.Timer(0.1, gate.opened.set).start()  # clock: the run waits for it, however late it is

        build(saver, act).invoke({"done": []}, CONFIG, durability="async", control=cadence.Control(both))
    assert max(progress.lag_steps for progress in policy.seen) <= 2


def test_a_coroutine_waits_where_its_driver_does():
    gate, seen = Gate(), []
    with GCSSaver.from_conn_string("memory:", interceptors=[gate]) as saver:
        control = cadence.Control(cadence.Steps(2))

        def act(name):
            if name == "a":
                gate.opened.clear()
                threading.Timer(0.1, gate.opened.set).start()  # clock: the run waits for it, however late it is

        async def drive():
            graph = build(saver, act)
            async for _ in graph.astream({"done": []}, CONFIG, durability="async", control=control):
                if control.is_due:
                    await control.adurable()
                    seen.append(control.meter.progress().lag_steps)
                    assert control.meter.progress().lag_steps == 0

        asyncio.run(drive())
    assert seen


def test_a_store_that_fails_ends_the_run_instead_of_waiting_for_ever():
    gate, ran = Gate(), []
    with GCSSaver.from_conn_string("memory:", interceptors=[gate]) as saver:

        def act(name):
            ran.append(name)
            gate.fails = name == "a" or gate.fails

        with pytest.raises((StoreUnavailableError, GraphDrained)):
            build(saver, act).invoke(
                {"done": []}, CONFIG, durability="async", control=cadence.Control(cadence.Steps(1))
            )
        assert ran == ["a"]


@pytest.mark.parametrize("checkpointer", ["exit", "other"])
def test_where_nothing_can_be_waited_for_a_store_does_nothing(memory, checkpointer):
    saver = InMemorySaver() if checkpointer == "other" else memory
    more = {"durability": "exit"} if checkpointer == "exit" else {}
    control = cadence.Control(cadence.Steps(1))
    assert build(saver).invoke({"done": []}, CONFIG, control=control, **more)["done"] == NAMES


@pytest.mark.parametrize("is_async", [False, True])
def test_segments_store_as_often_as_the_policy_says_and_end_the_same(memory, is_async):
    """What `run` does with `store="segments"`, by hand."""
    ran, segments = [], 0
    graph = build(memory, ran.append)
    control = cadence.Control(cadence.Steps(2), store="segments")
    given = {"done": []}
    while isinstance(found := invoke(graph, given, is_async, durability="exit", control=control), str):
        assert isinstance(control.decision, Store)
        control, given, segments = control.next_segment(), None, segments + 1
    assert found["done"] == ran == NAMES
    assert segments == 2
    assert len(list(memory.list(CONFIG))) == 3
    assert control.meter.steps == 4  # nothing is asked after the last step


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_saver_stops_the_runs_of_a_host_that_passes_nothing(durability, is_async):
    policy = When(None)
    with GCSSaver.from_conn_string("memory:", stop_on=policy) as saver:
        ran = []

        def act(name):
            ran.append(name)
            if name == "b":
                policy.decision, policy.steps = Stop("The host ends."), (0,)

        graph = build(saver, act)
        assert invoke(graph, {"done": []}, is_async, durability=durability) == "The host ends."
        assert ran[:2] == ["a", "b"]
        assert len(ran) < 5
        policy.decision = None
        assert invoke(graph, None, is_async)["done"] == ran == NAMES


def test_a_long_node_sees_that_its_saver_has_to_stop():
    policy = When(None)
    with GCSSaver.from_conn_string("memory:", stop_on=policy) as saver:

        def act(name):
            assert not cadence.drain_requested()
            if name == "b":
                policy.decision, policy.steps = Stop("The host ends."), (0,)
                assert cadence.drain_requested()
                raise GraphDrained("In the middle.")

        assert invoke(build(saver, act), {"done": []}, is_async=False) == "In the middle."


@pytest.mark.parametrize("by", ["control", "stop_on"])
def test_a_signal_stops_the_run_that_is_under_way(by):
    policy = cadence.Signal(signal.SIGUSR1)
    option = {"stop_on": policy} if by == "stop_on" else {}
    with GCSSaver.from_conn_string("memory:", **option) as saver:

        def act(name):
            if name == "b":
                signal.raise_signal(signal.SIGUSR1)
                assert cadence.drain_requested()

        control = {"control": cadence.Control(policy)} if by == "control" else {}
        found = invoke(build(saver, act), {"done": []}, is_async=False, durability="sync", **control)
        assert found == f"The process got signal {int(signal.SIGUSR1)}."
        assert durable(saver) == ["a", "b"]


@pytest.mark.parametrize("polls", [False, True])
@pytest.mark.parametrize("by", ["control", "run", "arun"])
def test_a_signal_in_the_last_step_stops_the_next_run(memory, by, polls):
    """The run returns its result, and its caller does not know. So the next one ends before its first node."""
    policy, ran, striking = cadence.Signal(signal.SIGUSR1), [], {"d"}

    def act(name):
        ran.append(name)
        if name in striking:
            os.kill(os.getpid(), signal.SIGUSR1)  # to the main thread, which waits for this one in a coroutine
            assert not polls or eventually(cadence.drain_requested)

    def call(thread_id, given):
        config = {"configurable": {"thread_id": thread_id}}
        if by == "control":
            return invoke(graph, given, is_async=False, config=config, control=cadence.Control(policy))
        try:
            return start(by)(graph, given, config, policy=policy)
        except GraphDrained as drained:
            return drained.reason

    graph = build(memory, act)
    assert call("1", {"done": []})["done"] == NAMES
    striking.clear()
    ran.clear()
    assert call("2", {"done": []}) == f"The process got signal {int(signal.SIGUSR1)}."
    assert ran == []
    assert call("2", None)["done"] == NAMES


def start(by):
    return run if by == "run" else lambda *given, **more: asyncio.run(arun(*given, **more))


@pytest.mark.parametrize("is_caught", [False, True])
def test_a_signal_before_an_error_stops_the_next_run(memory, is_caught):
    policy = cadence.Signal(signal.SIGUSR1)

    def act(name):
        signal.raise_signal(signal.SIGUSR1)
        raise GraphDrained("by a node") if is_caught else InvalidInputError("by a node")

    with pytest.raises((GraphDrained, InvalidInputError), match="by a node"):
        run(build(memory, act), {"done": []}, CONFIG, policy=policy)
    with pytest.raises(GraphDrained, match="signal") if not is_caught else nullcontext():
        assert run(build(memory), None, CONFIG, policy=policy)["done"] == NAMES


QUEUE = """
import signal, sys, time
from langgraph.errors import GraphDrained
from langgraph_gcs_saver import GCSSaver, cadence, run
from tests.behaviour.test_cadence import build


def act(name):
    print(name, flush=True)
    while (name, thread_id) == ("d", "1") and not cadence.drain_requested():
        time.sleep(0.01)


with GCSSaver.from_conn_string(sys.argv[1]) as saver:
    graph = build(saver, act)
    try:
        for thread_id in ("1", "2", "3"):
            config = {"configurable": {"thread_id": thread_id}}
            run(graph, {"done": []}, config, request_id=thread_id, policy=cadence.Signal(signal.SIGTERM))
            print("end", flush=True)
    except GraphDrained as drained:
        print("drained", flush=True)
        sys.exit(75)
"""


def test_a_service_that_gets_sigterm_in_a_last_step_runs_no_node_of_another_request(tmp_path):
    command = [sys.executable, "-c", QUEUE, tmp_path.as_uri()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert [service.stdout.readline().strip() for _ in NAMES] == NAMES
        service.send_signal(signal.SIGTERM)
        assert service.stdout.read().split() == ["end", "drained"]
    assert service.returncode == 75
    with GCSSaver.from_conn_string(tmp_path.as_uri()) as saver:
        assert [saver.thread(one).status().state for one in "123"] == ["finished", "paused", "empty"]
        config = {"configurable": {"thread_id": "2"}}
        assert run(build(saver), {"done": []}, config, request_id="2")["done"] == NAMES


def test_a_control_of_langgraph_works_beside_policies(memory):
    control = RunControl()
    graph = build(memory, lambda name: control.request_drain("By hand.") if name == "a" else None)
    assert invoke(graph, {"done": []}, is_async=False, control=control) == "By hand."


def test_a_saver_without_the_option_asks_nothing(memory):
    assert memory._controls._stopping is None


PROGRAM = """
import operator, os, signal, sys, time
from typing import Annotated, TypedDict
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph_gcs_saver import GCSSaver, cadence


class State(TypedDict):
    done: Annotated[list, operator.add]


held = []


def node(state):
    n = len(state["done"])
    act(n)
    return {"done": [n]}


saver = GCSSaver.from_conn_string(sys.argv[1])
graph = StateGraph(State)
graph.add_node("node", node)
graph.add_edge(START, "node")
graph.add_conditional_edges("node", lambda state: "node" if len(state["done"]) < LAST else "__end__")
config = {"configurable": {"thread_id": "t"}, "recursion_limit": 1 << 20}
given = None if saver.get_tuple(config) else {"done": []}
try:
    found = graph.compile(checkpointer=saver).invoke(given, config, control=cadence.Control(POLICY), durability="sync")
    print("end", *found["done"], flush=True)
except GraphDrained as drained:
    print("drained:", drained.reason, flush=True)
    sys.exit(75)
"""


def program(tmp_path, act, policy, last, **more):
    code = PROGRAM.replace("LAST", str(last)).replace("POLICY", policy)
    code = code.replace("held = []", "held = []\n\n\ndef act(n):\n" + "    " + act)
    return subprocess.Popen(
        [sys.executable, "-c", dedent(code), tmp_path.as_uri()], stdout=subprocess.PIPE, text=True, **more
    )


@pytest.mark.parametrize("after", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 100))])
def test_a_process_that_gets_sigterm_ends_at_a_boundary_and_another_one_continues(tmp_path, after):
    act = "print(n, flush=True); time.sleep(0 if given is None else 0.01)"
    first = program(tmp_path, act, "cadence.Signal(signal.SIGTERM)", 1 << 20)
    printed = "".join(first.stdout.readline() for _ in range(after + 1))
    first.send_signal(signal.SIGTERM)
    out, _ = first.communicate()
    assert first.returncode == 75
    before = [int(line) for line in (printed + out).split("drained")[0].split()]
    assert len(before) > after
    second = program(tmp_path, "print(n, flush=True)", "cadence.Signal(signal.SIGTERM)", len(before) + 3)
    out, _ = second.communicate()
    assert second.returncode == 0
    after = [int(line) for line in out.split("end")[0].split()]
    assert before + after == list(range(len(before) + 3))


MOUNTS = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
"""Where memory cgroups are made, and the file of their limit, for both versions."""


def cgroup(limit):
    """A new memory cgroup with a limit; `None` if this process cannot make one."""
    for mount, name in MOUNTS:
        folder = mount / f"cadence-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / name).write_text(str(limit))
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        return folder
    return None


def removed(folder):
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def can_make_cgroups():
    folder = cgroup(1 << 28)
    return folder is not None and eventually(lambda: removed(folder))


@pytest.mark.parametrize("mib", [20, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 50))])
@pytest.mark.parametrize("limit", ["own", *(["cgroup"] if can_make_cgroups() else [])])
def test_a_process_that_leaks_is_drained_before_its_limit(tmp_path, limit, mib):
    """By a memory cgroup where this machine lets us make one, which ends a process that exceeds it."""
    more, most = {}, 256 << 20
    policy = "cadence.Memory(0.8)"
    if limit == "own":
        policy = f"cadence.Memory(0.8, limit={most})"
    else:
        folder = cgroup(most)
        more = {"preexec_fn": lambda: (folder / "cgroup.procs").write_text(str(os.getpid()))}
    try:
        found = program(tmp_path, f"held.append(os.urandom({mib << 20}))", policy, 1000, **more)
        out, _ = found.communicate()
    finally:
        if limit == "cgroup":
            eventually(lambda: removed(folder))
    assert found.returncode == 75, out
    assert "of the memory limit is in use" in out
