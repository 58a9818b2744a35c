"""The agent of the demo's third story, and the workers that run it. It counts its steps and says who took them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from langgraph_gcs_saver.cli.demo.agent import SERDE, thread_config
from langgraph_gcs_saver.cli.demo.child import begin, reporting
from langgraph_gcs_saver.cli.views.terminal import open_saver
from langgraph_gcs_saver.errors import FencedError

TTL = 5
"""Seconds without a beat after which a lease has expired: the least that there is, so that the story is short."""

PATIENCE = 60
"""Seconds that a worker waits for the lease."""


class Turns(TypedDict):
    """The agent's memory: the worker of each step."""

    steps: int
    done: Annotated[list[str], operator.add]


@dataclass(frozen=True)
class Context:
    """Input of a run that is not state.

    Attributes:
        worker: The worker's name.
        before_step: Called at the start of each step, with its number, from 1.
    """

    worker: str
    before_step: Callable[[int], None]


Counter = CompiledStateGraph[Turns, Context, Turns, Turns]


def _step(state: Turns, runtime: Runtime[Context]) -> dict[str, Any]:
    number = len(state["done"]) + 1
    runtime.context.before_step(number)
    return {"done": [f"{number} by {runtime.context.worker}"]}


def _more(state: Turns) -> str:
    return "step" if len(state["done"]) < state["steps"] else END


def build(saver: BaseCheckpointSaver[Any]) -> Counter:
    """The agent: `step` loops."""
    builder = StateGraph(Turns, Context)
    builder.add_node("step", _step)
    builder.add_edge(START, "step").add_conditional_edges("step", _more, ["step", END])
    return builder.compile(checkpointer=saver)


# A worker


@dataclass(frozen=True)
class Task:
    """One run of the agent, in a process of its own.

    Attributes:
        store: Connection string of the saver.
        cipher: As `--cipher` names it; empty for none.
        thread_id: The thread to run on.
        worker: The worker's name.
        leased: Whether to take the thread's lease first.
        start: The first state of a new thread; None to continue from the thread's latest checkpoint.
        stop_at: The step at whose start to wait for the parent.
    """

    store: str
    cipher: str
    thread_id: str
    worker: str
    leased: bool
    start: Turns | None = None
    stop_at: int | None = None


@dataclass(frozen=True)
class Waiting:
    """From the worker: it has reached the step, and waits."""


@dataclass(frozen=True)
class Finished:
    """From the worker: the run ended."""


@dataclass(frozen=True)
class Fenced:
    """From the worker: it has lost the lease, and stored nothing."""

    kind: str


def work(task: Task, pipe: Connection) -> None:
    """Body of the process: run the task and report through the pipe."""
    begin()

    def before_step(number: int) -> None:
        if number == task.stop_at:
            pipe.send(Waiting())
            pipe.recv()

    report: Finished | Fenced = Finished()
    with reporting(pipe):
        with open_saver(task.store, task.cipher, may_create=True, serde=SERDE) as saver:
            config = thread_config(task.thread_id)
            thread = saver.thread(task.thread_id)
            with thread.lease(ttl=TTL, wait=PATIENCE) if task.leased else nullcontext() as lease:
                try:
                    build(saver).invoke(
                        task.start,
                        config if lease is None else lease.config,
                        context=Context(task.worker, before_step),
                        durability="sync",
                    )
                except FencedError as error:
                    report = Fenced(error.kind)
        pipe.send(report)
