"""A thread that was forked at a checkpoint behaves as it did there, with real graphs on real stores."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import count
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver import run as run_turn
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    CheckpointVerificationError,
    ConflictError,
    FencedError,
    InvalidInputError,
    ThreadBusyError,
)
from langgraph_gcs_saver.flows import forks, leases
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.crash import config_of, put_arguments

T = "t"
CONFIG: Any = {"configurable": {"thread_id": T}}
NONCES = count()

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


def perform(saver: GCSSaver, flow: Any) -> Any:
    return run(flow, saver._backend)


def acquire(saver: GCSSaver, thread_id: str = T) -> leases.Acquired:
    request = leases.Acquire(thread_id, "the test", f"nonce{next(NONCES):04}", 60.0, take_over=True)
    return perform(saver, leases.Acquisition(request, 0.0, saver._context).flow())


def fork(saver: GCSSaver, checkpoint_id: str, thread_id: str = T) -> str:
    fence = acquire(saver, thread_id).fence
    made = perform(saver, forks.fork(thread_id, checkpoint_id, fence, saver._context))
    assert perform(saver, leases.release(fence, saver._context))
    return made


def id_of(snapshot: Any) -> str:
    return snapshot.config["configurable"]["checkpoint_id"]


def is_whole(saver: GCSSaver, thread_id: str = T) -> None:
    assert [str(one) for one in saver.admin.verify(thread_id, depth="data") if one.is_damage] == []


# Graphs


class Inner(TypedDict):
    n: int
    log: Annotated[list[str], operator.add]


class Outer(TypedDict):
    n: int
    out: Annotated[list[list[str]], operator.add]
    notes: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *(one for many in new for one in many)], list)]


def loop(saver: GCSSaver, *, asks: Callable[[int], bool] = lambda _: False) -> Any:
    """Three times: count, then call a subgraph that remembers its calls. A DeltaChannel notes both."""

    def first(state: Inner) -> dict[str, Any]:
        return {"log": [f"first {state['n']}"]}

    def second(state: Inner) -> dict[str, Any]:
        answer = f": {interrupt(state['n'])}" if asks(state["n"]) else ""
        return {"log": [f"second {state['n']}{answer}"]}

    inner = StateGraph(Inner).add_node(first).add_node(second).add_edge(START, "first").add_edge("first", "second")
    remembers = inner.compile(checkpointer=True)

    def increment(state: Outer) -> dict[str, Any]:
        return {"n": state["n"] + 1, "notes": [f"increment to {state['n'] + 1}"]}

    def call(state: Outer) -> dict[str, Any]:
        result = remembers.invoke({"n": state["n"]})
        return {"out": [result["log"]], "notes": [f"call {state['n']}"]}

    graph = StateGraph(Outer).add_node(increment).add_node(call).add_edge(START, "increment")
    graph.add_edge("increment", "call")
    graph.add_conditional_edges("call", lambda state: "increment" if state["n"] < 3 else END, ["increment", END])
    return graph.compile(checkpointer=saver)


# What a fork does


def test_a_fork_continues_as_the_run_did_from_every_checkpoint(saver: GCSSaver) -> None:
    """That is: with the states of subgraphs, and with DeltaChannels, whose writes belong to the parent."""
    graph = loop(saver)
    whole = graph.invoke({"n": 0}, CONFIG)
    history = list(graph.get_state_history(CONFIG))
    for seen in history[::3]:
        made = fork(saver, id_of(seen))
        now = graph.get_state(CONFIG)
        assert (id_of(now), now.values, now.next) == (made, seen.values, seen.next)
        assert now.metadata["source"] == "fork"
        assert now.parent_config == seen.parent_config
        assert graph.invoke(None, CONFIG) == whole
        assert [found.values for found in graph.get_state_history(CONFIG)][-len(history) :] == [
            found.values for found in history
        ]
    is_whole(saver)
    saver.admin.copy_thread(T, "copy")
    is_whole(saver, "copy")
    assert graph.invoke(None, {"configurable": {"thread_id": "copy"}}) == whole
    saver.admin.prune([T], strategy="keep_latest")
    is_whole(saver)
    assert graph.get_state(CONFIG).values == whole


@LOCAL
def test_a_subgraph_that_had_not_run_begins_anew(saver: GCSSaver) -> None:
    graph = loop(saver)
    graph.invoke({"n": 0}, CONFIG)
    first = [seen for seen in graph.get_state_history(CONFIG) if seen.values.get("n") == 0][-1]
    made = fork(saver, id_of(first))
    inner: Any = {"configurable": {"thread_id": T, "checkpoint_ns": "call"}}
    empty = saver.get_tuple(inner)
    assert empty is not None
    assert empty.checkpoint["channel_values"] == {}
    assert empty.checkpoint["id"] < made
    assert empty.parent_config is None
    assert graph.invoke(None, CONFIG)["out"][0] == ["first 1", "second 1"]


@pytest.mark.parametrize("turn", [1, 2])
def test_an_interrupt_in_a_subgraph_is_asked_again(saver: GCSSaver, turn: int) -> None:
    """Its call is made again, in the first and in a later call of a subgraph that keeps its state."""
    graph = loop(saver, asks=lambda n: n == turn)
    graph.invoke({"n": 0}, CONFIG)
    asked = graph.get_state(CONFIG)
    once = graph.invoke(Command(resume="yes"), CONFIG)
    assert f"second {turn}: yes" in once["out"][-1]
    fork(saver, id_of(asked))
    status = saver.thread(T).status()
    assert status.state == "waiting"
    again = graph.invoke(Command(resume="no"), CONFIG)
    assert again == {**once, "out": [[line.replace("yes", "no") for line in log] for log in once["out"]]}


class Asking(TypedDict):
    answers: Annotated[list[str], operator.add]


def asking(saver: GCSSaver) -> Any:
    """A node that sends packets to two tasks, of which each asks."""

    def ask(state: Any) -> dict[str, Any]:
        return {"answers": [f"{state['who']}: {interrupt(state['who'])}"]}

    def plan(_: Asking) -> dict[str, Any]:
        return {"answers": ["planned"]}

    graph = StateGraph(Asking).add_node(plan).add_node(ask).add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda _: [Send("ask", {"who": who}) for who in "ab"], ["ask"])
    return graph.compile(checkpointer=saver)


def test_packets_are_sent_again_and_their_tasks_ask_again(saver: GCSSaver) -> None:
    graph = asking(saver)
    graph.invoke({"answers": []}, CONFIG)
    asked = graph.get_state(CONFIG)
    by_id = {one.id: one.value for one in asked.interrupts}
    assert sorted(by_id.values()) == ["a", "b"]
    first = graph.invoke(Command(resume={key: f"to {value}" for key, value in by_id.items()}), CONFIG)
    fork(saver, id_of(asked))
    now = graph.get_state(CONFIG)
    assert sorted(one.value for one in now.interrupts) == ["a", "b"]
    assert now.next == asked.next
    answers = {one.id: f"to {one.value}" for one in now.interrupts}
    assert graph.invoke(Command(resume=answers), CONFIG) == first
    is_whole(saver)


@LOCAL
def test_an_answer_that_was_given_before_the_last_question_is_kept(saver: GCSSaver) -> None:
    """The task waits for its second answer, so it has the first one; an answer in flight is not taken."""

    def ask(_: Asking) -> dict[str, Any]:
        return {"answers": [interrupt("first?"), interrupt("second?")]}

    graph: Any = StateGraph(Asking).add_node(ask).add_edge(START, "ask").compile(checkpointer=saver)
    graph.invoke({"answers": []}, CONFIG)
    (first,) = graph.get_state(CONFIG).interrupts
    graph.invoke(Command(resume="one"), CONFIG)
    asked = graph.get_state(CONFIG)
    assert [one.value for one in asked.interrupts] == ["second?"]
    fork(saver, id_of(asked))
    # Older versions of LangGraph give both questions one id. Then the task asks from its beginning.
    is_counted = asked.interrupts[0].id != first.id
    assert [one.value for one in graph.get_state(CONFIG).interrupts] == (["second?"] if is_counted else [])
    for answer in ["two"] if is_counted else [None, "one", "two"]:
        graph.invoke(answer and Command(resume=answer), CONFIG)
    assert graph.get_state(CONFIG).values["answers"] == ["one", "two"]


@LOCAL
def test_the_writes_of_finished_tasks_stay_behind(saver: GCSSaver) -> None:
    """They may say what happened after the checkpoint."""
    ran: list[str] = []

    def node(name: str, fails: bool) -> Any:
        def work(_: Asking) -> dict[str, Any]:
            ran.append(name)
            if fails and ran.count(name) == 1:
                raise RuntimeError("once")
            return {"answers": [name]}

        return work

    graph: Any = StateGraph(Asking).add_node("a", node("a", False)).add_node("b", node("b", True))
    graph = graph.add_edge(START, "a").add_edge(START, "b").compile(checkpointer=saver)
    with pytest.raises(RuntimeError, match="once"):
        graph.invoke({"answers": []}, CONFIG, durability="sync")
    fork(saver, id_of(graph.get_state(CONFIG)))
    assert graph.invoke(None, CONFIG)["answers"] == ["a", "b"]
    assert sorted(ran) == ["a", "a", "b", "b"]


# Guards


def test_writers_of_the_former_state_are_stopped(make_saver: Callable[..., GCSSaver]) -> None:
    saver, other, fresh = make_saver(), make_saver(), make_saver()
    for number in range(3):
        saver.put(*put_arguments(number, number - 1 if number else None))
    old = acquire(other).fence
    other.get_tuple(config_of(None))
    fence = acquire(saver).fence
    # A process without a lease that reads while the lease is held, and stores after it was released.
    fresh.get_tuple(config_of(None))
    checkpoint_id = put_arguments(1, 0)[1]["id"]
    made = perform(saver, forks.fork(T, checkpoint_id, fence, saver._context))
    assert perform(saver, leases.release(fence, saver._context))
    with pytest.raises(ThreadBusyError, match="since the checkpoint was read"):
        fresh.put(*put_arguments(3, 2))
    with pytest.raises(FencedError):
        perform(other, forks.fork(T, checkpoint_id, old, other._context))
    found = make_saver().get_tuple(config_of(None))
    assert found is not None
    assert found.checkpoint["id"] == made
    is_whole(saver)


@LOCAL
def test_the_id_of_a_fork_is_the_greatest_whatever_the_clock_says(saver: GCSSaver) -> None:
    config, checkpoint, metadata, versions = put_arguments(1, None)
    saver.put(config, {**checkpoint, "id": "3f000000-0000-6000-8000-000000000001"}, metadata, versions)
    made = fork(saver, "3f000000-0000-6000-8000-000000000001")
    assert made > "3f000000-0000-6000-8000-000000000001"
    with pytest.raises(InvalidInputError, match="has no checkpoint"):
        perform(saver, forks.plan(T, "absent", saver._context))


class Spoiling(Interceptor):
    """Spoils the documents of forks on their way."""

    def around(self, effect: Any, perform: Any) -> Any:
        if isinstance(effect, Commit) and any("manifest" in getattr(one, "fields", {}) for one in effect.writes):
            writes = [
                type(one)(one.name, {**one.fields, "manifest": b"?"})
                if "manifest" in getattr(one, "fields", {})
                else one
                for one in effect.writes
            ]
            return perform(Commit(tuple(writes)))
        return perform(effect)


@LOCAL
def test_a_fork_that_does_not_read_back_is_withdrawn(make_saver: Callable[..., GCSSaver]) -> None:
    saver = make_saver()
    graph = loop(saver)
    whole = graph.invoke({"n": 0}, CONFIG)
    history = list(graph.get_state_history(CONFIG))
    with pytest.raises(CheckpointVerificationError):
        fork(make_saver(interceptors=[Spoiling()]), id_of(history[3]))
    assert graph.get_state(CONFIG).values == whole
    assert len(list(graph.get_state_history(CONFIG))) == len(history)
    is_whole(saver)


@LOCAL
def test_the_other_writes_of_the_commit_are_part_of_it(make_saver: Callable[..., GCSSaver]) -> None:
    saver, name = make_saver(), keys.saga_doc(T, "s")
    for number in range(3):
        saver.put(*put_arguments(number, number - 1 if number else None))
    checkpoint_id = put_arguments(0, None)[1]["id"]
    fence = acquire(saver).fence

    def forked(by: GCSSaver, **more: Any) -> None:
        perform(by, forks.fork(T, checkpoint_id, fence, by._context, **more))

    with pytest.raises(ConflictError):
        forked(saver, beside=(Merge(name, {"a": 1}, update_time=1),))
    assert len(list(saver.list(CONFIG))) == 3
    with pytest.raises(CheckpointVerificationError):
        forked(make_saver(interceptors=[Spoiling()]), beside=(Merge(name, {"a": 1}),), former=(Merge(name, {"a": 0}),))
    assert perform(saver, iter(GetDocs((name,))))[name].fields == {"a": 0}
    assert len(list(saver.list(CONFIG))) == 3
    forked(saver, beside=(Merge(name, {"a": 1}),))
    assert len(list(saver.list(CONFIG))) == 4


def test_a_large_manifest_is_an_object_before_the_commit(make_saver: Callable[..., GCSSaver]) -> None:
    saver = make_saver()
    config, checkpoint, metadata, versions = put_arguments(0, None)
    large = {**metadata, "large": "".join(chr(0x4E00 + (number * 7919) % 20000) for number in range(500_000))}
    saver.put(config, checkpoint, large, versions)
    made = fork(saver, checkpoint["id"])
    found = make_saver().get_tuple(config_of(None))
    assert found is not None
    assert (found.checkpoint["id"], found.metadata["large"]) == (made, large["large"])
    is_whole(saver)


@LOCAL
@pytest.mark.parametrize("drains", [False, True])
def test_a_request_that_is_undone_can_be_made_again(saver: GCSSaver, drains: bool) -> None:
    """`run` takes a request that ended at or before the checkpoint for done, and no later one."""

    def node(state: Asking) -> dict[str, Any]:
        return {"answers": [f"to {state['answers'][-1]}"]}

    graph: Any = StateGraph(Asking).add_node(node).add_edge(START, "node").compile(checkpointer=saver)

    def request(name: str) -> list[str]:
        return run_turn(graph, {"answers": [name]}, CONFIG, request_id=name)["answers"]

    first = request("a")
    seen = graph.get_state(CONFIG)
    assert request("b") == [*first, "b", "to b"]
    assert request("c") == [*first, "b", "to b", "c", "to c"]
    if drains:  # In the middle of the second request.
        seen = next(one for one in graph.get_state_history(CONFIG) if one.values["answers"] == [*first, "b"])
    fork(saver, id_of(seen))
    assert request("a") == first
    assert request("b") == [*first, "b", "to b"]
    assert request("c") == [*first, "b", "to b", "c", "to c"]
    assert request("b") == [*first, "b", "to b"]


@LOCAL
def test_a_task_behind_a_join_waits_under_its_id(saver: GCSSaver) -> None:
    def node(name: str) -> Any:
        return lambda _: {"answers": [name]}

    def ask(_: Asking) -> dict[str, Any]:
        return {"answers": [interrupt("joined?")]}

    graph: Any = StateGraph(Asking).add_node("a", node("a")).add_node("b", node("b")).add_node(ask)
    graph = graph.add_edge(START, "a").add_edge(START, "b").add_edge(["a", "b"], "ask").compile(checkpointer=saver)
    graph.invoke({"answers": []}, CONFIG)
    asked = graph.get_state(CONFIG)
    fork(saver, id_of(asked))
    (now,) = graph.get_state(CONFIG).interrupts
    assert now.id != asked.interrupts[0].id
    assert graph.invoke(Command(resume={now.id: "yes"}), CONFIG)["answers"] == ["a", "b", "yes"]


@LOCAL
def test_an_entrypoint_waits_under_its_id(saver: GCSSaver) -> None:
    @entrypoint(checkpointer=saver)
    def work(given: str) -> str:
        return f"{given}: {interrupt('sure?')}"

    work.invoke("go", CONFIG)
    asked = work.get_state(CONFIG)
    fork(saver, id_of(asked))
    (now,) = work.get_state(CONFIG).interrupts
    assert work.invoke(Command(resume={now.id: "yes"}), CONFIG) == "go: yes"


def two_questions(saver: GCSSaver, where: str) -> Any:
    """A node that asks two questions, a name and an age: by itself, or in a subgraph with a node for each."""

    def name(_: Asking) -> dict[str, Any]:
        return {"answers": [f"name {interrupt('name?')}"]}

    def age(_: Asking) -> dict[str, Any]:
        return {"answers": [f"age {interrupt('age?')}"]}

    inner: Any = StateGraph(Asking).add_node(name).add_node(age).add_edge(START, "name").add_edge("name", "age")
    remembers = inner.compile(checkpointer=where == "a subgraph that keeps its state" or None)

    def ask(state: Asking) -> dict[str, Any]:
        if where == "the node":
            return {"answers": [*name(state)["answers"], *age(state)["answers"]]}
        found: dict[str, Any] = remembers.invoke({"answers": []})
        return {"answers": found["answers"]}

    return StateGraph(Asking).add_node(ask).add_edge(START, "ask").compile(checkpointer=saver)


@LOCAL
@pytest.mark.parametrize("where", ["the node", "a subgraph", "a subgraph that keeps its state"])
@pytest.mark.parametrize("is_finished", [False, True])
def test_no_answer_goes_to_another_question(saver: GCSSaver, where: str, is_finished: bool) -> None:
    """The task is run again from its beginning. So it must not show a question that it asks only later."""
    graph = two_questions(saver, where)
    graph.invoke({"answers": []}, CONFIG)
    asked = graph.get_state(CONFIG)
    given = {"name?": "Ada", "age?": "36"}
    graph.invoke(Command(resume="Ada"), CONFIG)
    if is_finished:
        graph.invoke(Command(resume="36"), CONFIG)
    fork(saver, id_of(asked))
    for _ in range(3):
        waiting = graph.get_state(CONFIG).interrupts
        graph.invoke(Command(resume=given[waiting[0].value]) if waiting else None, CONFIG)
    assert graph.get_state(CONFIG).values["answers"] == ["name Ada", "age 36"]
    is_whole(saver)


@LOCAL
def test_an_answer_that_was_given_later_stays_behind(saver: GCSSaver) -> None:
    graph = two_questions(saver, "the node")
    graph.invoke({"answers": []}, CONFIG)
    asked = graph.get_state(CONFIG)
    (before,) = perform(saver, iter_of(QueryDocs(keys.checkpoints(T), limit=1)))
    graph.invoke(Command(resume="wrong"), CONFIG)
    is_counted = graph.get_state(CONFIG).interrupts[0].id != asked.interrupts[0].id
    made = perform(saver, forks.plan(T, id_of(asked), saver._context))
    assert len(made.waiting) == is_counted
    made = perform(saver, forks.plan(T, id_of(asked), saver._context, since=before.update_time))
    assert made.waiting == ()


def iter_of(effect: Any) -> Any:
    """The flow of one effect."""
    return (yield effect)
