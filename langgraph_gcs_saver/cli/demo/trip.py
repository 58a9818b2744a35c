"""The agent of the demo's fifth story, and its processes. It books a trip, a step in each node, and can undo that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from langgraph_gcs_saver import NOT_DONE, GCSSaver, compensation
from langgraph_gcs_saver.cli.demo.agent import SERDE
from langgraph_gcs_saver.cli.demo.child import OWNER, begin, reporting
from langgraph_gcs_saver.cli.demo.provider import Provider
from langgraph_gcs_saver.cli.views.terminal import open_saver
from langgraph_gcs_saver.errors import SagaStuckError
from langgraph_gcs_saver.events import CompensationEnded, Event

SAGA, SAVEPOINT = "trip", "planned"

BOOKED = ("flight", "hotel", "car")
"""What the agent books, in order. Each is a node, and a step of the saga."""

PAY = "payment"

CANCEL, REFUND = "demo-cancel", "demo-refund"
"""The compensations. Two functions of one process cannot have the same name."""


class Trip(TypedDict, total=False):
    """The agent's memory: the city, and the receipt of each step."""

    city: str
    flight: str
    hotel: str
    car: str
    payment: str


class Declined(Exception):  # noqa: N818 - what has happened
    """The provider has declined the payment."""


@dataclass
class Outside:
    """The world outside of the store, as a process reaches it.

    Attributes:
        provider: Books, cancels and charges.
        has_money: Whether it accepts the payment.
        reach: Called when the provider did what it was sent, with what that was.
    """

    provider: Provider
    has_money: bool = False
    reach: Callable[[str], None] = lambda _: None

    def do(self, what: str, key: str) -> str:
        """Send a request."""
        receipt = self.provider.do(what, key)
        self.reach(what)
        return str(receipt["receipt"])

    def find(self, what: str, key: str) -> Any:
        """Ask whether it did something."""
        found = self.provider.find(what, key)
        return NOT_DONE if found is None else found["receipt"]


_OUTSIDE: list[Outside] = []
"""The one of this process. A compensation gets only what its step has stored."""


@compensation(CANCEL, version=1, mode="at_most_once")
def _cancel(request: dict[str, Any], result: str, key: str) -> str:  # noqa: ARG001 - the receipt is not needed
    return _OUTSIDE[0].do(f"cancel {request['what']}", key)


@compensation(REFUND, version=1, mode="at_most_once")
def _refund(request: dict[str, Any], result: str, key: str) -> str:  # noqa: ARG001 - as above
    return _OUTSIDE[0].do("refund", key)


Agent = CompiledStateGraph[Trip, None, Trip, Trip]


def build(saver: GCSSaver, thread_id: str) -> Agent:
    """The agent: `plan`, then a node for each step."""
    saga = saver.thread(thread_id).saga(SAGA)
    builder = StateGraph(Trip)

    def plan(state: Trip) -> dict[str, str]:  # noqa: ARG001 - LangGraph passes it
        return {"city": "Oslo"}

    def book(what: str, state: Trip) -> dict[str, str]:
        outside, request = _OUTSIDE[0], {"what": what, "city": state["city"]}
        booked = saga.once(
            what, partial(outside.do, what), request=request, undo=CANCEL, reconcile=partial(outside.find, what)
        )
        return {what: booked}

    def flight(state: Trip) -> dict[str, str]:
        saga.savepoint(SAVEPOINT)
        return book("flight", state)

    def hotel(state: Trip) -> dict[str, str]:
        return book("hotel", state)

    def car(state: Trip) -> dict[str, str]:
        return book("car", state)

    def charge(key: str) -> str:
        if not _OUTSIDE[0].has_money:
            raise Declined
        return _OUTSIDE[0].do(PAY, key)

    def payment(state: Trip) -> dict[str, str]:  # noqa: ARG001 - as above
        return {PAY: saga.once(PAY, charge, request={"cents": 99_000}, undo=REFUND, errors=(Declined,))}

    builder.add_node("plan", plan).add_node("flight", flight).add_node("hotel", hotel).add_node("car", car)
    builder.add_node(PAY, payment).add_edge(START, "plan").add_edge("plan", "flight").add_edge("flight", "hotel")
    builder.add_edge("hotel", "car").add_edge("car", PAY).add_edge(PAY, END)
    return builder.compile(checkpointer=saver)


# A process


@dataclass(frozen=True)
class Task:
    """What a process does.

    Attributes:
        store: Connection string of the saver.
        cipher: As `--cipher` names it; empty for none.
        thread_id: The thread.
        ledger: The provider's file.
        role: `book` runs the agent, and rolls the saga back if the payment is declined; `resume` resumes the rollback.
        start: The first state of a new thread; `None` to continue from the thread's newest checkpoint.
        has_money: Whether the payment is accepted.
        halt: Wait to be killed when the provider has done this; with `undone …`, when that is recorded.
    """

    store: str
    cipher: str
    thread_id: str
    ledger: Path
    role: Literal["book", "resume"] = "book"
    start: Trip | None = None
    has_money: bool = False
    halt: str = ""


@dataclass(frozen=True)
class Halted:
    """From the process: it has reached the moment, and waits."""


@dataclass(frozen=True)
class Ended:
    """From the process: it is through.

    Attributes:
        state: The saga's state.
        stuck: The steps that stop the rollback, if it is stuck.
    """

    state: str
    stuck: tuple[str, ...] = ()


def work(task: Task, pipe: Connection) -> None:
    """Body of the process: book the trip or resume its rollback, and report through the pipe."""
    begin()

    def reach(what: str) -> None:
        if what == task.halt:
            pipe.send(Halted())
            pipe.recv()

    def watch(event: Event) -> None:
        if isinstance(event, CompensationEnded):
            reach(f"undone {event.step}")

    _OUTSIDE[:] = [Outside(Provider(task.ledger), task.has_money, reach)]
    with reporting(pipe):
        with open_saver(task.store, task.cipher, may_create=True, serde=SERDE, on_event=watch) as saver:
            try:
                ended = _ROLES[task.role](task, saver)
            except SagaStuckError as error:
                ended = Ended("stuck", error.steps)
        pipe.send(ended)


def _book(task: Task, saver: GCSSaver) -> Ended:
    thread = saver.thread(task.thread_id)
    saga = thread.saga(SAGA)
    with thread.lease(owner=OWNER) as lease:
        try:
            build(saver, task.thread_id).invoke(task.start, lease.config, durability="sync")
        except Declined:
            return Ended(saga.rollback(to=SAVEPOINT).state)
        saga.finish()
        return Ended(saga.info().state)


def _resume(task: Task, saver: GCSSaver) -> Ended:
    return Ended(saver.thread(task.thread_id).saga(SAGA, owner=OWNER).resume().state)


_ROLES = {"book": _book, "resume": _resume}
