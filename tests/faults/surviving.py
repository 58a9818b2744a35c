"""Graphs that survive kills, and graphs that do not, for `kill_everywhere`. Other processes import this module."""

from __future__ import annotations

import operator
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from langgraph_gcs_saver import NOT_DONE, operations
from tests.faults import turns


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    counted: int


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _append(path: Path, line: str) -> str:
    with path.open("a") as file:
        file.write(f"{line}\n")
    return f"did {line}"


def _compile(saver: Any, **nodes: Any) -> Any:
    """A chain of nodes."""
    build = StateGraph(State)
    last = START
    for name, node in nodes.items():
        build.add_node(name, node)
        build.add_edge(last, name)
        last = name
    return build.compile(checkpointer=saver)


def _say(word: str) -> Any:
    return lambda _: {"log": [word]}


def good(saver: Any) -> Any:
    return _compile(saver, a=_say("a"), b=_say("b"))


def careful(saver: Any, folder: Path) -> Any:
    """Its side effect is an operation, and the provider can be asked."""
    path = folder / "charges"

    def ask(key: str) -> Any:
        return f"did {key}" if key in lines(path) else NOT_DONE

    def pay(_: State) -> State:
        return {"log": [operations().once("charge", partial(_append, path), key="order-1", reconcile=ask)]}

    return _compile(saver, a=_say("a"), pay=pay, b=_say("b"))


def careless(saver: Any, folder: Path) -> Any:
    """Its side effect is repeated if its node runs again."""
    return _compile(saver, a=_say("a"), pay=lambda _: {"log": [_append(folder / "charges", "order-1")]}, b=_say("b"))


def unsettled(saver: Any, folder: Path) -> Any:
    """Its side effect is an operation, and no one can say whether it was done."""

    def pay(_: State) -> State:
        return {"log": [operations().once("charge", partial(_append, folder / "charges"), key="order-1")]}

    return _compile(saver, a=_say("a"), pay=pay)


def counting(saver: Any, folder: Path) -> Any:
    """Its state says how often a node has run. In this graph the node appends twice after a crash."""

    def count(_: State) -> State:
        _append(folder / "runs", "run")
        return {"log": lines(folder / "runs")}

    return _compile(saver, a=_say("a"), count=count, b=_say("b"))


def asking(saver: Any) -> Any:
    return turns.asking(saver, [])


def fan(saver: Any) -> Any:
    return turns.fan(saver, [])


def nested(saver: Any) -> Any:
    return turns.nested(saver, [])


def function(saver: Any) -> Any:
    return turns.function(saver, [])


def answer_each(last: Any) -> dict[str, str]:
    return {one.id: f"answer to {one.value}" for one in last["__interrupt__"]}


@dataclass(frozen=True)
class Context:
    word: str


def with_context(saver: Any) -> Any:
    def speak(_: State, runtime: Runtime[Context]) -> State:
        return {"log": [runtime.context.word]}

    build = StateGraph(State, Context).add_node("speak", speak).add_edge(START, "speak")
    return build.compile(checkpointer=saver)


def at_breakpoint(saver: Any) -> Any:
    build = StateGraph(State).add_node("a", _say("a")).add_node("b", _say("b"))
    return build.add_edge(START, "a").add_edge("a", "b").compile(checkpointer=saver, interrupt_before=["b"])


def failing(saver: Any) -> Any:
    def fail(_: State) -> State:
        raise LookupError("the node has failed")

    return _compile(saver, fail=fail)


def leaving(saver: Any) -> Any:
    """Its process ends by itself."""
    return _compile(saver, leave=lambda _: os._exit(3))


def hanging(saver: Any) -> Any:
    return _compile(saver, hang=lambda _: time.sleep(3600))  # clock: the test ends it


def made_nothing(saver: Any) -> Any:
    return _compile(None, a=_say("a"))


def is_log(result: Any, *words: str) -> bool:
    return bool(result["log"] == list(words))


def charged_once(result: Any, attempt: Any) -> None:
    assert result == attempt.expected[-1]
    assert lines(attempt.folder / "charges") == ["order-1"]
