"""The agent of the demo's second story, and the processes that run it. It charges a card, and confirms by e-mail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from langgraph_gcs_saver import NOT_DONE, operations
from langgraph_gcs_saver.cli.demo.agent import SERDE
from langgraph_gcs_saver.cli.demo.child import OWNER, begin, reporting
from langgraph_gcs_saver.cli.demo.provider import Provider
from langgraph_gcs_saver.cli.views.terminal import open_saver
from langgraph_gcs_saver.errors import OutcomeUnknownError

CHARGE, MAIL = "charge", "e-mail"

BEFORE, DURING, AFTER = "before", "during", "after"
"""Before the provider gets the request; after it did what it says, but before its answer; after the answer was stored,
but before the step was."""


class Order(TypedDict, total=False):
    """The agent's memory."""

    order: int
    cents: int
    charged: str
    mailed: str


@dataclass(frozen=True)
class Context:
    """Input of a run that is not state.

    Attributes:
        provider: The outside world.
        once: Whether the side effects are operations.
        reach: Called at each moment of each side effect.
    """

    provider: Provider
    once: bool
    reach: Callable[[str, str], None]


Payer = CompiledStateGraph[Order, Context, Order, Order]


def _perform(what: str, state: Order, context: Context, **options: Any) -> str:
    key = f"{what}-of-order-{state['order']}"
    request = {"order": state["order"], "cents": state["cents"]}

    def act(key: str) -> dict[str, Any]:
        context.reach(what, BEFORE)
        receipt = context.provider.do(what, key, **request)
        context.reach(what, DURING)
        return receipt

    receipt = operations().once(what, act, request=request, key=key, **options) if context.once else act(key)
    context.reach(what, AFTER)
    return str(receipt["receipt"])


def _charge(state: Order, runtime: Runtime[Context]) -> Order:
    def find(key: str) -> Any:
        return runtime.context.provider.find(CHARGE, key) or NOT_DONE

    return {"charged": _perform(CHARGE, state, runtime.context, reconcile=find)}


def _confirm(state: Order, runtime: Runtime[Context]) -> Order:
    # No program can ask whether an e-mail was sent, so a person has to.
    return {"mailed": _perform(MAIL, state, runtime.context)}


def build(saver: BaseCheckpointSaver[Any]) -> Payer:
    """The agent: `charge`, then `confirm`."""
    builder = StateGraph(Order, Context)
    builder.add_node("charge", _charge)
    builder.add_node("confirm", _confirm)
    builder.add_edge(START, "charge").add_edge("charge", "confirm").add_edge("confirm", END)
    return builder.compile(checkpointer=saver)


# A process


@dataclass(frozen=True)
class Task:
    """One run of the agent, in a process of its own.

    Attributes:
        store: Connection string of the saver.
        cipher: As `--cipher` names it; empty for none.
        thread_id: The thread to run on.
        ledger: The provider's file.
        once: Whether the side effects are operations.
        start: The first state of a new thread; None to continue from the thread's latest checkpoint.
        halt: The side effect and its moment at which to stop, and wait to be killed.
    """

    store: str
    cipher: str
    thread_id: str
    ledger: Path
    once: bool
    start: Order | None = None
    halt: tuple[str, str] | None = None


@dataclass(frozen=True)
class Halted:
    """From the process: it has reached the moment, and waits."""


@dataclass(frozen=True)
class Finished:
    """From the process: the run ended."""


@dataclass(frozen=True)
class Unknown:
    """From the process: the outcome of a side effect is unknown, so it was not started again."""

    kind: str


def work(task: Task, pipe: Connection) -> None:
    """Body of the process: run the task and report through the pipe."""
    begin()

    def reach(what: str, moment: str) -> None:
        if (what, moment) == task.halt:
            pipe.send(Halted())
            pipe.recv()

    context = Context(Provider(task.ledger), task.once, reach)
    report: Finished | Unknown = Finished()
    with reporting(pipe):
        with (
            open_saver(task.store, task.cipher, may_create=True, serde=SERDE) as saver,
            saver.thread(task.thread_id).lease(owner=OWNER) as lease,
        ):
            try:
                build(saver).invoke(task.start, lease.config, context=context, durability="sync")
            except OutcomeUnknownError as error:
                report = Unknown(error.kind)
        pipe.send(report)
