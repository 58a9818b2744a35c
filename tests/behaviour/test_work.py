"""What threads are doing, answers of people, and workers that resume what others have left."""

from __future__ import annotations

import asyncio
import operator
import signal
from collections.abc import Iterator
from contextlib import aclosing, closing
from datetime import timedelta
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import GCSSaver, Recovery, astream, cadence, run, stream
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows import active, work
from langgraph_gcs_saver.flows.work import MAX_BACKOFF, pause_after
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import worker
from langgraph_gcs_saver.saver.internals import Internals
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class BrokenError(Exception):
    """A node fails."""


class World:
    """What nodes do: count their calls, fail, act."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: set[str] = set()
        self.contexts: list[Any] = []
        self.act: Any = lambda name: None

    def node(self, name: str, *questions: str) -> Any:
        def node(state: State, runtime: Runtime[dict[str, str]]) -> dict[str, Any]:
            self.ran.append(name)
            self.contexts.append(runtime.context)
            self.act(name)
            if name in self.failing:
                raise BrokenError(name)
            return {"log": [name, *map(interrupt, questions)]}

        return node

    def graph(self, saver: Any, *, name: str = "chain", ask: tuple[str, ...] = (), **options: Any) -> Any:
        """Three nodes in a row, of which the second one may ask."""
        build = StateGraph(State, context_schema=dict[str, str])
        build.add_node("a", self.node("a"))
        build.add_node("b", self.node("b", *ask))
        build.add_node("z", self.node("z"))
        build.add_edge(START, "a")
        build.add_edge("a", "b")
        build.add_edge("b", "z")
        return build.compile(checkpointer=saver, name=name, **options)

    def pair(self, saver: Any) -> Any:
        """Two nodes that ask at the same time."""
        build = StateGraph(State)
        for name in ("left", "right"):
            build.add_node(name, self.node(name, f"{name}?"))
            build.add_edge(START, name)
        return build.compile(checkpointer=saver, name="pair")


@pytest.fixture
def saver() -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string("memory:") as saver:
        yield saver


@pytest.fixture
def world() -> World:
    return World()


def config(thread_id: str = "t") -> Any:
    return {"configurable": {"thread_id": thread_id}}


INPUT = {"log": ["in"]}


def noted(saver: GCSSaver, thread_id: str = "t") -> Any:
    """The state and the attempts of the thread's note; `None` if it has none."""
    name = keys.active_doc(thread_id)
    found = active.active_in(runner.run(iter(GetDocs((name,))), saver._backend).get(name))
    return None if found is None else (found.state, found.attempts)


def change(saver: GCSSaver, name: str, fields: dict[str, Any]) -> None:
    assert runner.run(iter(Commit((Merge(name, fields),))), saver._backend)


def crash(saver: GCSSaver, thread_id: str = "t", attempts: int = 1) -> None:
    """Leave a thread, whose run raised an error, as if its process had crashed: a lease that has expired."""
    change(saver, keys.fence_doc(thread_id), {"owner": "crashed", "ttl": 1e-9})
    change(saver, keys.active_doc(thread_id), {"state": "running", "attempts": attempts})


def fail(graph: Any, thread_id: str = "t", **options: Any) -> None:
    with pytest.raises(BrokenError):
        run(graph, INPUT, config(thread_id), durability="sync", **options)


def recover(saver: GCSSaver, graph: Any, **options: Any) -> list[Recovery]:
    return list(saver.recover(graph, **{"backoff": 0, **options}))


def logs(graph: Any, thread_id: str = "t") -> list[str]:
    return list(graph.get_state(config(thread_id)).values["log"])


# The status of a thread


def test_the_status_of_a_thread_that_is_not_there(saver):
    found = saver.thread("t").status()
    assert (found.state, found.is_finished, found.step, found.age, found.lease) == ("empty", True, None, None, None)
    assert str(found) == "Thread 't': empty"


def test_the_status_of_each_state(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    thread = saver.thread("t")

    def look(name: str) -> None:
        found = thread.status()
        assert (found.state, found.lease.owner, found.attempts) == ("running", "worker", 1)
        assert found.nodes == (name,)

    world.act = look
    run(graph, INPUT, config(), request_id="r1", owner="worker", durability="sync")
    world.act = lambda name: None
    found = thread.status()
    assert (found.state, found.step, found.nodes, found.request_id) == ("waiting", 1, ("b",), "r1")
    assert [one.value for one in found.questions] == ["sure?"]
    assert (found.graph, found.attempts, found.lease) == ("chain", 0, None)
    assert found.age >= timedelta()
    assert found.lag < timedelta(minutes=1)
    assert found.idle <= found.age
    assert not found.is_stalled(timedelta())

    thread.answer("yes")
    found = thread.status()
    assert (found.state, found.questions, found.nodes) == ("due", (), ("b",))
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, None, config())
    found = thread.status()
    assert (found.state, found.nodes, found.attempts) == ("crashed", ("z",), 1)
    assert found.is_stalled(timedelta())
    assert not found.is_stalled(timedelta(hours=1))
    crash(saver)
    assert thread.status().state == "crashed"
    assert thread.status().lease.is_expired
    world.failing = set()
    run(graph, None, config())
    found = thread.status()
    assert (found.state, found.nodes, found.is_finished, found.graph) == ("finished", (), True, None)
    assert noted(saver) is None


def test_a_graph_without_a_run_has_a_status_too(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    with pytest.raises(BrokenError):
        graph.invoke(INPUT, config())
    found = saver.thread("t").status()
    assert (found.state, found.nodes, found.request_id, found.graph) == ("due", ("b",), None, None)


def test_the_status_has_a_twin(saver, world):
    run(world.graph(saver), INPUT, config())
    found = saver.thread("t").status()
    assert asyncio.run(saver.thread("t").astatus()).checkpoint_id == found.checkpoint_id is not None


def test_a_run_that_could_not_begin_leaves_the_note_as_it_was(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    run(graph, INPUT, config())
    with pytest.raises(e.InvalidInputError):
        run(graph, INPUT, config(), ttl=1)
    assert noted(saver) == ("waiting", 0)
    name = keys.resume_doc("t")
    change(saver, name, {"turn": b"damaged"})
    with pytest.raises(e.GCSSaverError):
        run(graph, INPUT, config())
    assert noted(saver) == ("waiting", 0)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_was_left_is_paused_and_has_not_failed(saver, world, is_async):
    graph = world.graph(saver, ask=("sure?",))

    def leave(given: Any, **options: Any) -> None:
        """Take one part of a stream."""

        async def leave_async() -> None:
            async with aclosing(astream(graph, given, config(), **options)) as parts:
                await anext(parts)

        if is_async:
            asyncio.run(leave_async())
            return
        with closing(stream(graph, given, config(), **options)) as parts:
            next(parts)

    leave(INPUT, request_id="r1", durability="sync", stream_mode="updates")
    assert noted(saver) == ("paused", 0)
    assert run(graph, None, config())["log"] == ["in", "a"]
    leave(None, stream_mode="updates")
    assert noted(saver) == ("waiting", 0), "nothing ran"
    run(graph, Command(resume="yes"), config())
    leave(None, stream_mode="values")
    assert noted(saver) is None


def test_a_stream_that_was_left_at_a_question_is_found_as_waiting(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    with closing(stream(graph, INPUT, config(), durability="sync", stream_mode="updates")) as parts:
        for part in parts:
            if "__interrupt__" in part:
                break
    assert noted(saver) == ("paused", 0)
    assert [one.thread_id for one in saver.runs(state="waiting")] == ["t"]
    assert recover(saver, graph) == []
    assert noted(saver) == ("waiting", 0)


def test_a_deleted_thread_has_no_note(saver, world):
    run(world.graph(saver, ask=("sure?",)), INPUT, config())
    assert noted(saver) == ("waiting", 0)
    saver.delete_thread("t")
    assert noted(saver) is None
    assert list(saver.runs()) == []


# Answers


def test_an_answer_is_stored_once_and_a_worker_resumes(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    thread = saver.thread("t")
    run(graph, INPUT, config(), context={"name": "Ada"})
    assert thread.answer("yes", request_id="a1")
    assert not thread.answer("yes", request_id="a1")
    assert world.ran == ["a", "b"], "it runs nothing"
    assert noted(saver) == ("due", 0)
    world.contexts.clear()
    assert recover(saver, graph) == [Recovery(thread_id="t", outcome="finished")]
    assert logs(graph) == ["in", "a", "b", "yes", "z"]
    assert world.contexts == [{"name": "Ada"}] * 2
    assert not thread.answer("yes", request_id="a1")
    assert noted(saver) is None


def test_an_answer_of_an_earlier_exchange_does_not_answer_the_next_question(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    thread = saver.thread("t")
    run(graph, INPUT, config(), request_id="r1")
    thread.answer("yes", request_id="a1")
    assert [one.outcome for one in recover(saver, graph)] == ["finished"]
    run(graph, INPUT, config(), request_id="r2")
    assert not thread.answer("yes", request_id="a1")
    assert not asyncio.run(thread.aanswer("yes", request_id="a1"))
    assert thread.status().state == "waiting"
    assert thread.answer("no", request_id="a2")


def test_the_same_line_resumes_after_an_answer(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    run(graph, INPUT, config(), request_id="r1")
    asyncio.run(saver.thread("t").aanswer("yes", request_id="a1"))
    assert run(graph, None, config())["log"] == ["in", "a", "b", "yes", "z"]


def test_answers_to_several_questions(saver, world):
    graph = world.pair(saver)
    run(graph, INPUT, config())
    questions = saver.thread("t").status().questions
    assert {one.value for one in questions} == {"left?", "right?"}
    saver.thread("t").answer({one.id: one.value.upper() for one in questions})
    assert [one.outcome for one in recover(saver, graph)] == ["finished"]
    assert sorted(logs(graph)) == ["LEFT?", "RIGHT?", "in", "left", "right"]


def test_an_answer_to_one_of_two_questions_leaves_the_other(saver, world):
    graph = world.pair(saver)
    run(graph, INPUT, config())
    left, right = sorted(saver.thread("t").status().questions, key=lambda one: one.value)
    saver.thread("t").answer(Command(resume={left.id: "L"}))
    assert [one.outcome for one in recover(saver, graph)] == ["waiting"]
    assert saver.thread("t").status().questions == (right,)
    assert noted(saver) == ("waiting", 0)


@pytest.mark.parametrize("is_run", [False, True])
@pytest.mark.parametrize("given", ["yes", {"left": "L", "right": "R"}, {}, {"0" * 32: "yes"}])
def test_an_answer_that_the_graph_could_not_use_is_not_stored(saver, world, is_run, given):
    """If it was stored, each attempt to resume the thread would fail."""
    graph, thread = world.pair(saver), saver.thread("t")
    run(graph, INPUT, config(), request_id="r1")
    before = thread.status()
    with pytest.raises(e.InvalidInputError, match="Nothing was stored") as raised:
        run(graph, Command(resume=given), config(), request_id="r2") if is_run else thread.answer(given)
    assert all(one.id in str(raised.value) for one in before.questions)
    assert recover(saver, graph) == []
    after = thread.status()
    assert (after.state, after.questions) == ("waiting", before.questions)
    thread.answer({one.id: "yes" for one in after.questions}, request_id="r2")
    assert [one.outcome for one in recover(saver, graph)] == ["finished"]


def test_a_thread_that_no_run_began_is_answered_too(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    graph.invoke(INPUT, config())
    saver.thread("t").answer("yes")
    assert recover(saver, {"one": graph, "two": world.pair(saver)}) == [], "which graph is not known"
    assert recover(saver, {graph.get_name(): graph}) == [], "a mapping is for the turns of its names"
    assert [one.outcome for one in recover(saver, graph)] == ["finished"]


def test_answers_that_nothing_waits_for_are_refused(saver, world):
    thread = saver.thread("t")
    with pytest.raises(e.InvalidInputError, match="empty"):
        thread.answer("yes")
    run(world.graph(saver), INPUT, config())
    with pytest.raises(e.InvalidInputError, match="finished"):
        thread.answer("yes")
    with pytest.raises(e.InvalidInputError, match="None"):
        thread.answer(None)
    with pytest.raises(e.InvalidInputError, match="500"):
        thread.answer("yes", request_id="")
    with thread.lease(), pytest.raises(e.ThreadBusyError):
        thread.answer("yes")


# Lists


def test_runs_are_listed_by_state(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    expected = {"waiting": "waiting", "due": "due", "failed": "crashed", "killed": "crashed", "poison": "poison"}
    expected |= {"lost release": "waiting", "paused": "paused"}
    for thread_id in (*expected, "finished"):
        run(graph, INPUT, config(thread_id))
    saver.thread("due").answer("yes")
    world.failing = {"b"}
    for thread_id in ("failed", "killed", "poison", "paused"):
        with pytest.raises(BrokenError):
            run(graph, Command(resume="yes"), config(thread_id))
    world.failing = set()
    crash(saver, "killed")
    crash(saver, "lost release")
    for state in ("poison", "paused"):
        change(saver, keys.active_doc(state), {"state": state})
    run(graph, Command(resume="yes"), config("finished"))
    assert {one.thread_id: one.state for one in saver.runs()} == expected
    for state in ("running", *expected.values()):
        wanted = {thread_id for thread_id, found in expected.items() if found == state}
        assert {one.thread_id for one in saver.runs(state=state)} == wanted
    running: list[str] = []
    world.act = lambda _: running.extend(one.thread_id for one in saver.runs(state="running"))
    run(graph, INPUT, config("running"))
    assert running == ["running", "running"]


def test_many_runs_are_listed_in_pages(saver, world):
    graph = world.graph(saver, interrupt_before=["a"])
    wanted = {f"t{number}" for number in range(active._PER_PAGE + 1)}
    for thread_id in wanted:
        run(graph, INPUT, config(thread_id), durability="sync")

    async def listed() -> set[str]:
        return {one.thread_id async for one in saver.runs(state="waiting")}

    assert {one.thread_id for one in saver.runs()} == wanted == asyncio.run(listed())


@pytest.mark.parametrize("state", [None, "crashed"])
def test_a_damaged_thread_does_not_hide_others(saver, world, state):
    graph = world.graph(saver)
    world.failing = {"b"}
    for thread_id in ("damaged", "fine", "other"):
        fail(graph, thread_id)
    change(saver, keys.resume_doc("damaged"), {"turn": b"damaged"})
    listed: list[str] = []
    events: list[Any] = []
    saver.subscribe(events.append)
    with pytest.raises(e.CheckpointCorruptError, match="'damaged'"):
        listed.extend(one.thread_id for one in saver.runs(state=state))
    assert sorted(listed) == ["fine", "other"]
    assert [one.thread_id for one in events if isinstance(one, ThreadSkipped)] == ["damaged"]


def test_an_unknown_state_is_refused(saver):
    with pytest.raises(e.InvalidInputError, match="'odd'"):
        saver.runs(state="odd")


@pytest.mark.parametrize(
    "fields", [{"state": 7}, {"state": "odd"}, {"attempts": -1}, {"attempts": "x"}, {"attempts": 2**63 - 1}]
)
def test_a_damaged_note_counts_as_a_crash(saver, world, fields):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    change(saver, keys.active_doc("t"), fields)
    assert [one.state for one in saver.runs()] == ["crashed"]
    world.failing = set()
    # A worker looks for states that it knows.
    assert [one.outcome for one in recover(saver, graph)] == ([] if "state" in fields else ["finished"])
    assert run(graph, None, config())["log"] == ["in", "a", "b", "z"]
    assert noted(saver) is None


# Workers


def test_a_worker_resumes_what_failed_and_what_crashed(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph, "failed", request_id="r1")
    fail(graph, "killed", request_id="r1")
    crash(saver, "killed")
    world.failing = set()
    world.ran.clear()
    found = recover(saver, graph)
    assert {str(one) for one in found} == {"Thread 'failed': finished", "Thread 'killed': finished"}
    assert world.ran == ["b", "z"] * 2
    for thread_id in ("failed", "killed"):
        assert run(graph, INPUT, config(thread_id), request_id="r1")["log"] == ["in", "a", "b", "z"]
    assert recover(saver, graph) == []
    assert len(world.ran) == 4


@pytest.mark.parametrize("began", [{"durability": "sync"}, {"store": "segments", "policy": cadence.Steps(1)}], ids=str)
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [-1, 0, 1, 2, 3]),
        ({"store": "segments"}, [-1, 0, 1, 3]),
        ({"store": "segments", "policy": cadence.Steps(1)}, [-1, 0, 1, 2, 3]),
    ],
    ids=str,
)
def test_a_worker_stores_steps_as_its_own_options_say(saver, world, began, options, steps):
    """It need not know how the process stored them that began the turn."""
    graph = world.graph(saver)
    world.failing = {"b"}
    with pytest.raises(BrokenError):
        run(graph, INPUT, config(), **began)
    world.failing = set()
    assert [one.outcome for one in recover(saver, graph, **options)] == ["finished"]
    assert (logs(graph), world.ran) == (["in", "a", "b", "z"], ["a", "b", "b", "z"])
    assert [one.metadata["step"] for one in saver.list(config())][::-1] == steps


def test_a_coroutine_works_too(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    world.failing = set()

    async def work() -> list[Recovery]:
        return [one async for one in saver.recover(graph, backoff=0)]

    assert [one.outcome for one in asyncio.run(work())] == ["finished"]
    assert logs(graph) == ["in", "a", "b", "z"]


def test_a_thread_is_left_alone_while_its_process_lives(saver, world):
    graph = world.graph(saver)
    found: list[list[Recovery]] = []
    world.act = lambda _: found.append(recover(saver, graph))
    run(graph, INPUT, config())
    assert found == [[], [], []]


def test_a_thread_that_keeps_failing_is_given_up(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    outcomes = [(one.outcome, one.error, one.attempts) for _ in range(5) for one in recover(saver, graph, attempts=3)]
    assert outcomes == [("failed", "BrokenError", 2), ("failed", "BrokenError", 3), ("poison", None, 3)]
    assert saver.thread("t").status().state == "poison"
    world.failing = set()
    assert recover(saver, graph) == []
    assert run(graph, None, config())["log"] == ["in", "a", "b", "z"]
    assert noted(saver) is None


def test_a_process_that_crashes_again_and_again_is_given_up(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    crash(saver, attempts=5)
    assert [one.outcome for one in recover(saver, graph)] == ["poison"]
    assert saver.thread("t").status().lease is None


def test_a_failure_is_tried_again_after_a_while(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    world.failing = set()
    assert recover(saver, graph, backoff=3600) == []
    assert len(recover(saver, graph)) == 1


def test_the_pauses_double_up_to_a_limit():
    assert [pause_after(failures, 2.0) for failures in range(5)] == [0, 2, 4, 8, 16]
    assert pause_after(10**6, 2.0) == MAX_BACKOFF


def test_a_worker_resumes_its_own_graphs_only(saver, world):
    own, other = world.graph(saver), world.graph(saver, name="other")
    world.failing = {"b"}
    fail(own, "own")
    fail(other, "other")
    world.failing = set()
    assert [one.thread_id for one in recover(saver, own)] == ["own"]
    assert [one.thread_id for one in recover(saver, {"chain": own, "other": other})] == ["other"]


def test_a_graph_without_a_checkpointer_gets_the_savers(saver, world):
    world.failing = {"b"}
    fail(world.graph(saver))
    world.failing = set()
    assert [one.outcome for one in recover(saver, world.graph(None))] == ["finished"]


def test_a_function_makes_the_context_again(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph, context_factory=lambda: {"name": "first"})
    world.failing = set()
    assert [(one.outcome, one.error) for one in recover(saver, graph)] == [("failed", "InvalidInputError")]
    assert noted(saver) == ("crashed", 1)
    world.contexts.clear()
    assert [one.outcome for one in recover(saver, graph, context_factory=lambda: {"name": "again"})] == ["finished"]
    assert world.contexts == [{"name": "again"}] * 2


def test_a_worker_passes_no_breakpoint(saver, world):
    graph = world.graph(saver, interrupt_before=["z"])
    run(graph, INPUT, config())
    assert saver.thread("t").status().state == "waiting"
    assert recover(saver, graph) == []
    crashed = world.graph(saver, interrupt_before=["z"])
    world.failing = {"b"}
    fail(crashed, "crashed")
    world.failing = set()
    assert [one.outcome for one in recover(saver, crashed)] == ["waiting"]
    assert recover(saver, crashed) == []
    assert "z" not in world.ran


@pytest.mark.parametrize("stops", [{"interrupt_before": ["z"]}, {"interrupt_after": ["b"]}, {"interrupt_after": "*"}])
def test_a_worker_passes_no_breakpoint_of_a_process_that_crashed_there(saver, world, stops):
    """It crashed after it had stored the step before, and before it said that it waits."""
    graph = world.graph(saver, **stops)
    run(graph, INPUT, config())
    crash(saver)
    ran = list(world.ran)
    assert recover(saver, graph) == []
    assert world.ran == ran
    assert noted(saver) == ("waiting", 1)
    assert saver.thread("t").status().state == "waiting"


@pytest.mark.parametrize("stops", [{"interrupt_before": ["z"]}, {"interrupt_after": ("b",)}])
def test_a_worker_passes_no_breakpoint_of_a_call(saver, world, stops):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph, **stops)
    world.failing = set()
    assert [one.outcome for one in recover(saver, graph)] == ["waiting"]
    crash(saver)
    assert recover(saver, graph) == []
    assert noted(saver) == ("waiting", 1)
    assert "z" not in world.ran
    assert run(graph, None, config())["log"] == ["in", "a", "b", "z"]


@pytest.mark.parametrize(("stops", "outcome"), [({"interrupt_before": ["z"]}, "waiting"), ({}, "finished")])
def test_the_breakpoints_of_the_last_call_count(saver, world, stops, outcome):
    graph = world.graph(saver)
    run(graph, INPUT, config(), interrupt_before="*")
    assert world.ran == []
    world.failing = {"b"}
    with pytest.raises(BrokenError):
        run(graph, None, config(), durability="sync", **stops)
    world.failing = set()
    assert [one.outcome for one in recover(saver, graph)] == [outcome]


def test_an_answer_keeps_the_breakpoints_of_a_call(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    run(graph, INPUT, config(), interrupt_before=["z"])
    saver.thread("t").answer("yes")
    assert [one.outcome for one in recover(saver, graph)] == ["waiting"]
    assert world.ran == ["a", "b", "b"]


def test_a_worker_repeats_a_node_that_failed_behind_its_breakpoint(saver, world):
    graph = world.graph(saver, interrupt_before=["z"])
    run(graph, INPUT, config())
    world.failing = {"z"}
    with pytest.raises(BrokenError):
        run(graph, None, config())
    world.failing = set()
    assert [one.outcome for one in recover(saver, graph)] == ["finished"]


def test_a_worker_leaves_a_thread_that_has_changed_since_it_looked(saver, world, monkeypatch):
    """Another worker has come to a breakpoint in between, which only a person passes."""
    graph = world.graph(saver, interrupt_before=["z"])
    world.failing = {"b"}
    fail(graph)
    world.failing = set()
    whole = worker._Attempt.examine

    def examine(self: Any) -> Any:
        found = yield from whole(self)
        monkeypatch.setattr(worker._Attempt, "examine", whole)
        assert [one.outcome for one in recover(saver, graph)] == ["waiting"]
        return found

    monkeypatch.setattr(worker._Attempt, "examine", examine)
    assert recover(saver, graph) == []
    assert "z" not in world.ran


def test_a_lost_release_is_put_right(saver, world):
    graph = world.graph(saver, ask=("sure?",))
    run(graph, INPUT, config("waiting"))
    run(world.graph(saver), INPUT, config("finished"))
    crash(saver, "waiting")
    crash(saver, "finished")
    change(saver, keys.active_doc("finished"), {"thread_id": "finished"})
    assert recover(saver, graph) == []
    assert noted(saver, "waiting") == ("waiting", 1)
    assert noted(saver, "finished") is None
    assert saver.thread("waiting").status().lease is None


def test_the_tips_of_a_page_are_read_together(world):
    count = CountingInterceptor()
    with GCSSaver.from_conn_string("memory:", interceptors=[count]) as saver:
        graph = world.graph(saver)
        world.failing = {"a"}
        took = {}
        for last in (3, 20, 30):
            for number in range(len([*saver.runs()]), last):
                fail(graph, f"t{number}")
            count.clear()
            assert [one.state for one in saver.runs()] == ["crashed"] * last
            took[last] = len(count.rounds)
            assert max(map(len, count.rounds)) <= 2 * work._AT_ONCE, "however many threads there are"
    assert took[3] == took[20] < took[30] < 2 * took[3]


def test_a_damaged_thread_does_not_stop_a_worker(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    for thread_id in ("damaged", "fine"):
        fail(graph, thread_id)
    change(saver, keys.resume_doc("damaged"), {"turn": b"damaged"})
    world.failing = set()
    found = {one.thread_id: (one.outcome, one.error, one.attempts) for one in recover(saver, graph)}
    assert found == {"damaged": ("failed", "CheckpointCorruptError", 1), "fine": ("finished", None, 0)}


def test_a_worker_forgets_the_threads_of_others_that_have_finished(saver, world):
    other = world.graph(saver, name="other")
    world.failing = {"b"}
    fail(other)
    recoveries = saver.recover({"mine": world.graph(saver, name="mine")}, backoff=0)
    looking = worker._Worker(Internals.of(saver), recoveries._graphs, "", recoveries._work)

    def look() -> list[str]:
        found = runner.run(looking.find(), saver._backend)
        for one in found:
            with looking.resuming(one) as attempt:
                assert runner.run(attempt.examine(), saver._backend) is None
        return [one.active.thread_id for one in found]

    assert (look(), look()) == (["t"], []), "it looks at them once"
    assert set(looking.passed) == {"t"}
    world.failing = set()
    run(other, None, config())
    assert look() == []
    assert looking.passed == {}


def test_a_limit_ends_a_worker(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    for number in range(3):
        fail(graph, f"t{number}")
    world.failing = set()
    assert len(recover(saver, graph, limit=2, every=0.01)) == 2
    assert len(list(saver.runs())) == 1


def test_a_worker_looks_again_until_its_policy_stops_it(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    world.failing = set()

    def act(name: str) -> None:
        if name == "b":
            signal.raise_signal(signal.SIGTERM)

    world.act = act
    policy = cadence.Signal(signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert [one.outcome for one in recover(saver, graph, every=0.01, policy=policy)] == ["paused"]
        assert world.ran == ["a", "b", "b"], "it ends at the next boundary"
        assert saver.thread("t").status().state == "paused"
        world.act = lambda _: None
        assert [one.outcome for one in recover(saver, graph)] == ["finished"]
        assert world.ran == ["a", "b", "b", "z"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_in_the_last_step_of_a_worker_stops_the_next_one(saver, world):
    graph, policy = world.graph(saver), cadence.Signal(signal.SIGUSR1)
    world.failing = {"b"}
    for thread_id in ("t", "u"):
        fail(graph, thread_id)
    world.failing = set()
    world.act = lambda name: signal.raise_signal(signal.SIGUSR1) if name == "z" else None
    for outcomes in (["finished"], [], ["finished"]):
        assert [one.outcome for one in recover(saver, graph, limit=1, policy=policy)] == outcomes
        world.act = lambda _: None


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"attempts": 0},
        {"every": -1},
        {"every": 0},
        {"backoff": "1"},
        {"policy": "SIGTERM"},
        {"store": "sometimes"},
        {"store": "segments", "durability": "sync"},
        {"durability": 1},
    ],
)
def test_wrong_options_are_refused(saver, world, options):
    with pytest.raises(e.InvalidInputError):
        saver.recover(world.graph(saver), **options)


def test_wrong_graphs_are_refused(saver, world):
    with pytest.raises(e.InvalidInputError, match="compiled"):
        saver.recover("graph")
    with GCSSaver.from_conn_string("memory:") as other, pytest.raises(e.InvalidInputError, match="another store"):
        saver.recover(world.graph(other))


def test_runs_under_a_callers_lease_are_found_after_a_crash(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    with pytest.raises(BrokenError), saver.thread("t").lease() as lease:
        run(graph, INPUT, lease.config, durability="sync")
    assert saver.thread("t").status().state == "crashed"
    world.failing = set()
    assert [one.outcome for one in recover(saver, graph)] == ["finished"]


def test_two_workers_share_the_work(saver, world):
    """Each thread is resumed once."""
    graph = world.graph(saver)
    world.failing = {"b"}
    for number in range(12):
        fail(graph, f"t{number}")
    world.failing = set()
    world.ran.clear()

    async def work() -> list[Recovery]:
        async def one() -> list[Recovery]:
            return [done async for done in saver.recover(graph, backoff=0)]

        return [done for found in await asyncio.gather(one(), one()) for done in found]

    assert sorted(one.thread_id for one in asyncio.run(work())) == sorted(f"t{number}" for number in range(12))
    assert sorted(world.ran) == ["b"] * 12 + ["z"] * 12
