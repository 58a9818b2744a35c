"""The agent of the demo's sixth story, and its workers in two regions. It works on items, one in each step."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from langgraph_gcs_saver import run
from langgraph_gcs_saver.cli.demo.agent import SERDE, thread_config
from langgraph_gcs_saver.cli.demo.child import OWNER, begin, reporting
from langgraph_gcs_saver.cli.views.terminal import open_saver
from langgraph_gcs_saver.engine.effects import Effect
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.errors import NotPrimaryError
from langgraph_gcs_saver.saver.standby import is_look

EVERY = 1.0
"""Seconds between two looks of the worker that stands by, once its store is the primary."""


class Items(TypedDict):
    """The agent's memory: how many items there are, and the worker of each that is done."""

    items: int
    done: Annotated[list[str], operator.add]


Lister = CompiledStateGraph[Items, None, Items, Items]


def build(saver: BaseCheckpointSaver[Any], worker: str, before_item: Callable[[int], None]) -> Lister:
    """The agent: `item` loops.

    Args:
        saver: The saver.
        worker: The name of the process.
        before_item: Called at the start of each step, with the number of its item, from 1.
    """

    def item(state: Items) -> dict[str, Any]:
        number = len(state["done"]) + 1
        before_item(number)
        return {"done": [f"{number} by {worker}"]}

    builder = StateGraph(Items)
    builder.add_node("item", item)
    builder.add_edge(START, "item").add_conditional_edges("item", _more, ["item", END])
    return builder.compile(checkpointer=saver, name="regions")


def _more(state: Items) -> str:
    return "item" if len(state["done"]) < state["items"] else END


# The processes


@dataclass(frozen=True)
class Task:
    """What a process does.

    Attributes:
        store: Connection string of the saver.
        cipher: As `--cipher` names it; empty for none.
        thread_id: The thread.
        worker: The worker's name.
        items: How many items the request has; `None` for a worker that stands by, and resumes what others have begun.
        replica: Connection string of the store that the process ships to; `None` for none.
        pace: Seconds that an item takes.
    """

    store: str
    cipher: str
    thread_id: str
    worker: str
    items: int | None = None
    replica: str | None = None
    pace: float = 0.0


@dataclass(frozen=True)
class StandsBy:
    """From a worker that stands by: it has looked at the role of its store."""


@dataclass(frozen=True)
class Began:
    """From the process: it begins an item, so the ones before it are durable."""

    number: int


@dataclass(frozen=True)
class Finished:
    """From the process: the thread is finished."""


@dataclass(frozen=True)
class Refused:
    """From the process: its store is not the primary, so it has stored nothing."""

    kind: str


def work(task: Task, pipe: Connection) -> None:
    """Body of a process: work on the thread, and report through the pipe."""
    begin()

    def before_item(number: int) -> None:
        pipe.send(Began(number))
        time.sleep(task.pace)

    looks = [] if task.items is not None else [_Looking(pipe)]
    with reporting(pipe):
        with open_saver(
            task.store, task.cipher, may_create=True, serde=SERDE, replica=task.replica, interceptors=looks
        ) as saver:
            graph = build(saver, task.worker, before_item)
            if task.items is None:
                for _ in saver.recover(graph, every=EVERY, limit=1, durability="sync"):
                    pass
                report: Finished | Refused = Finished()
            else:
                config, inputs = thread_config(task.thread_id), Items(items=task.items, done=[])
                try:
                    run(graph, inputs, config, request_id=task.thread_id, durability="sync", owner=OWNER)
                    report = Finished()
                except NotPrimaryError as error:
                    report = Refused(error.kind)
        pipe.send(report)


class _Looking(Interceptor):
    """Reports the first look at the role of the store."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._has_looked = False

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Perform one effect."""
        found = perform(effect)
        if not self._has_looked and is_look(effect):
            self._has_looked = True
            self._pipe.send(StandsBy())
        return found
