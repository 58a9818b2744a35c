"""Graphs, and the requests to them, that tests of crashes and kills play with `run`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Interrupt, Send, interrupt

from langgraph_gcs_saver import cadence

THREAD = "t"
CONFIG: RunnableConfig = {"configurable": {"thread_id": THREAD}}
HOW = ("sync", "async", "exit", "segments")
"""When steps are stored: a durability, or after each step by a policy."""

Ran = list[tuple[str, str, int]]
"""The nodes that have run, with the namespaces of their graphs and their steps."""


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    delta: Annotated[list[str], DeltaChannel(lambda old, new: [*old, *(one for some in new for one in some)])]


def stores(how: str) -> dict[str, Any]:
    """The arguments of a run whose steps are stored like that."""
    return {"store": "segments", "policy": cadence.Steps(1)} if how == "segments" else {"durability": how}


def note(ran: Ran, name: str, config: RunnableConfig) -> None:
    metadata = config["metadata"]
    ran.append((name, metadata["langgraph_checkpoint_ns"].rpartition("|")[0], metadata["langgraph_step"]))


def node(ran: Ran, name: str, *questions: str) -> Callable[..., Any]:
    def act(state: State, config: RunnableConfig) -> dict[str, Any]:
        note(ran, name, config)
        answers = [interrupt(question) for question in questions]
        return {"log": [name, *answers], "delta": [name, *answers]}

    return act


def chain(saver: Any, ran: Ran) -> Any:
    """Three steps, one of them with two tasks."""
    build = StateGraph(State)
    for name in "abcd":
        build.add_node(name, node(ran, name))
    build.add_edge(START, "a")
    build.add_edge("a", "b")
    build.add_edge("a", "c")
    build.add_edge(["b", "c"], "d")
    return build.compile(checkpointer=saver)


def asking(saver: Any, ran: Ran) -> Any:
    """A node that asks twice, and one after it."""
    build = StateGraph(State)
    build.add_node("a", node(ran, "a"))
    build.add_node("ask", node(ran, "ask", "first?", "second?"))
    build.add_node("z", node(ran, "z"))
    build.add_edge(START, "a")
    build.add_edge("a", "ask")
    build.add_edge("ask", "z")
    return build.compile(checkpointer=saver)


def fan(saver: Any, ran: Ran) -> Any:
    """Three tasks at once, of which two ask."""

    def each(state: dict[str, str], config: RunnableConfig) -> dict[str, Any]:
        note(ran, state["name"], config)
        answer = interrupt(f"{state['name']}?") if state["name"] != "quiet" else "nothing"
        return {"log": [f"{state['name']}: {answer}"]}

    build = StateGraph(State)
    build.add_node("each", each)
    build.add_node("end", node(ran, "end"))
    names = ("left", "quiet", "right")
    build.add_conditional_edges(START, lambda _: [Send("each", {"name": name}) for name in names], ["each"])
    build.add_edge("each", "end")
    return build.compile(checkpointer=saver)


def nested(saver: Any, ran: Ran) -> Any:
    """A subgraph with its own checkpoints, which asks."""
    inner = StateGraph(State)
    inner.add_node("in", node(ran, "in"))
    inner.add_node("ask", node(ran, "ask", "inside?"))
    inner.add_edge(START, "in")
    inner.add_edge("in", "ask")
    build = StateGraph(State)
    build.add_node("sub", inner.compile())
    build.add_node("z", node(ran, "z"))
    build.add_edge(START, "sub")
    build.add_edge("sub", "z")
    return build.compile(checkpointer=saver)


def detour(saver: Any, ran: Ran) -> Any:
    """A node that asks several questions, and whose `Command` chooses the next nodes: tasks with packets, and one."""

    def choose(state: State, config: RunnableConfig) -> Command[Any]:
        note(ran, "choose", config)
        words = [interrupt(question) for question in ("left?", "right?")]
        packets = [Send("each", {"name": word}) for word in words]
        return Command(update={"log": words, "delta": words}, goto=[*packets, "end"])

    def each(state: dict[str, str], config: RunnableConfig) -> dict[str, Any]:
        note(ran, state["name"], config)
        return {"log": [state["name"]], "delta": [state["name"]]}

    build = StateGraph(State)
    build.add_node("choose", choose, destinations=("each", "end"))
    build.add_node("each", each)
    build.add_node("end", node(ran, "end"))
    build.add_edge(START, "choose")
    return build.compile(checkpointer=saver)


def function(saver: Any, ran: Ran) -> Any:
    """A function with two tasks and a question."""

    @task
    def work(name: str, config: RunnableConfig) -> str:
        note(ran, name, config)
        return name

    @entrypoint(checkpointer=saver)
    def flow(given: dict[str, list[str]]) -> list[str]:
        return [*given["log"], work("one").result(), interrupt("sure?"), work("two").result()]

    return flow


def inputs(text: str) -> dict[str, list[str]]:
    return {"log": [text], "delta": [text]}


def answer_each(words: dict[str, str]) -> Callable[[Any], Command[Any]]:
    """A command with an answer for each question, whose ids the last result has."""
    return lambda last: Command(resume={one.id: words[one.value] for one in last["__interrupt__"]})


Given = Any
SCENARIOS: dict[str, tuple[Callable[[Any, Ran], Any], list[Given]]] = {
    "a chain": (chain, [inputs("one"), inputs("two")]),
    "questions": (asking, [inputs("one"), Command(resume="yes"), Command(resume="yes"), inputs("two")]),
    "tasks that ask": (fan, [inputs("one"), answer_each({"left?": "L", "right?": "R"})]),
    "a subgraph": (nested, [inputs("one"), Command(resume="yes"), inputs("two"), Command(resume="no")]),
    "a function": (function, [inputs("one"), Command(resume="yes"), inputs("two")]),
    "a detour": (detour, [inputs("one"), Command(resume="L"), Command(resume="R"), inputs("two")]),
    "an update": (chain, [inputs("one"), Command(update={"log": ["more"]}, goto="d")]),
}


def plain(result: Any) -> Any:
    """A result without the ids, which are random."""
    if isinstance(result, Interrupt):
        return result.value
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    return sorted(map(plain, result), key=str) if isinstance(result, list | tuple) else result
