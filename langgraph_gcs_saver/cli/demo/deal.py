"""The agents of the demo's fourth story, and its coordinator. The agents work on one deal, each in a process.

Each step of an agent reads how far the others are, as the store says. So each state says what it knows of the others,
and anyone can check whether three states belong together.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.demo.agent import SERDE, thread_config
from langgraph_gcs_saver.cli.demo.child import begin, reporting
from langgraph_gcs_saver.cli.views.terminal import open_saver
from langgraph_gcs_saver.engine.effects import Commit, Effect, Merge
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.errors import FencedError, SetAbortedError

if TYPE_CHECKING:
    from langgraph_gcs_saver.saver.team import Team

MEMBERS = ("planner", "reader-1", "reader-2")

PATIENCE = 60
"""Seconds that an agent waits for the lease of its thread."""


class Work(TypedDict):
    """An agent's memory: the numbers of its steps, and how far each of the others was at its last step."""

    steps: int
    done: Annotated[list[int], operator.add]
    seen: dict[str, int]


@dataclass(frozen=True)
class Context:
    """Input of a run that is not state.

    Attributes:
        look: Reads how far the others are.
        pace: Seconds that a step takes.
    """

    look: Callable[[], dict[str, int]]
    pace: float


Worker = CompiledStateGraph[Work, Context, Work, Work]


def _step(state: Work, runtime: Runtime[Context]) -> dict[str, Any]:
    time.sleep(runtime.context.pace)
    return {"done": [len(state["done"]) + 1], "seen": runtime.context.look()}


def _more(state: Work) -> str:
    return "step" if len(state["done"]) < state["steps"] else END


def build(saver: BaseCheckpointSaver[Any]) -> Worker:
    """An agent: `step` loops."""
    builder = StateGraph(Work, Context)
    builder.add_node("step", _step)
    builder.add_edge(START, "step").add_conditional_edges("step", _more, ["step", END])
    return builder.compile(checkpointer=saver)


def done(saver: GCSSaver, thread_id: str) -> int:
    """How many steps of an agent are durable."""
    return len(build(saver).get_state(thread_config(thread_id)).values.get("done", ()))


# The processes


@dataclass(frozen=True)
class Task:
    """What a process does.

    Attributes:
        store: Connection string of the saver.
        cipher: As `--cipher` names it; empty for none.
        team: The team's id.
        member: The agent that the process runs; `None` for the coordinator.
        start: The first state of a new thread; `None` to continue from the thread's newest checkpoint.
        pace: Seconds that a step takes.
        timeout: Seconds after which the coordinator's set is aborted.
        label: What the coordinator calls it.
    """

    store: str
    cipher: str
    team: str
    member: str | None = None
    start: Work | None = None
    pace: float = 0.0
    timeout: float = 30.0
    label: str = ""


@dataclass(frozen=True)
class Finished:
    """From an agent: the run ended."""


@dataclass(frozen=True)
class Fenced:
    """From an agent: it has lost the lease, and stored nothing."""

    kind: str


@dataclass(frozen=True)
class Deciding:
    """From the coordinator: it is about to send the commit that decides, and waits."""


@dataclass(frozen=True)
class Decided:
    """From the coordinator: the set.

    Attributes:
        set_id: Its id.
        state: `committed` or `aborted`.
        seconds: The time from the call to the decision, without the wait.
    """

    set_id: str
    state: str
    seconds: float


def work(task: Task, pipe: Connection) -> None:
    """Body of a process: run an agent or the coordinator, and report through the pipe."""
    begin()
    with reporting(pipe):
        if task.member is None:
            _coordinate(task, pipe)
        else:
            pipe.send(_run(task, task.member))


def _run(task: Task, member: str) -> Finished | Fenced:
    with open_saver(task.store, task.cipher, may_create=True, serde=SERDE) as saver:
        team = saver.team(task.team, members=MEMBERS)
        others = {name: team.member(name).id for name in MEMBERS if name != member}

        def look() -> dict[str, int]:
            return {name: done(saver, thread_id) for name, thread_id in others.items()}

        try:
            with team.member(member).lease(owner=member, wait=PATIENCE) as lease:
                config = thread_config(lease.thread_id) | lease.config
                build(saver).invoke(task.start, config, context=Context(look, task.pace), durability="sync")
        except FencedError as error:
            return Fenced(error.kind)
    return Finished()


def _coordinate(task: Task, pipe: Connection) -> None:
    halt = _BeforeDecision(pipe)
    with open_saver(task.store, task.cipher, may_create=True, serde=SERDE, interceptors=[halt]) as saver:
        team: Team = saver.team(task.team, members=MEMBERS)
        began = time.monotonic()
        try:
            saved = team.checkpoint(label=task.label, timeout=task.timeout)
        except SetAbortedError as error:
            pipe.send(Decided(error.set_id, "aborted", time.monotonic() - began - halt.waited))
        else:
            pipe.send(Decided(saved.set_id, saved.state, time.monotonic() - began - halt.waited))


class _BeforeDecision(Interceptor):
    """Waits for the parent before the first commit that would decide about a set."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.waited = 0.0

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        """Perform one effect."""
        if not self.waited and isinstance(effect, Commit) and any(map(_holds, effect.writes)):
            began = time.monotonic()
            self._pipe.send(Deciding())
            self._pipe.recv()
            self.waited = time.monotonic() - began
        return perform(effect)


def _holds(write: object) -> bool:
    return isinstance(write, Merge) and "holds" in write.fields
