"""Sagas: in blocks, in nodes and tools, with savepoints, under `run`; what is undone, what is stuck, and bad input."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import NOT_DONE, GCSSaver, arun, compensation, operations, run
from langgraph_gcs_saver.errors import (
    CompensationMissingError,
    ConflictError,
    InvalidIdError,
    InvalidInputError,
    InvalidOptionError,
    NotDurableError,
    OperationFencedError,
    OperationInProgressError,
    OutcomeUnknownError,
    SagaError,
    SagaRolledBack,
    SagaStuckError,
    ThreadBusyError,
)
from langgraph_gcs_saver.events import CompensationEnded, Event, SagaEnded
from langgraph_gcs_saver.saver import compensations
from langgraph_gcs_saver.saver.saga import Saga
from langgraph_gcs_saver.saver.thread import Thread
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.patience import PATIENCE

CONFIG: Any = {"configurable": {"thread_id": "trip"}}

LOG: list[Any] = []
"""What compensations were called with. The functions are found by name, so they cannot get it from a test."""


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


class FullError(Exception):
    pass


@compensation("test-cancel")
def cancel(request: Any, result: Any, key: str) -> None:
    LOG.append((request, result, key))


@compensation("test-acancel")
async def acancel(request: Any, result: Any, key: str) -> None:
    LOG.append((request, result, key))


@compensation("test-flaky", attempts=3, backoff=0.0)
def flaky(request: Any, result: Any, key: str) -> None:
    LOG.append((request, result, key))
    if sum(one[0] == request for one in LOG) <= request["failures"]:
        raise ConnectionError


@compensation("test-asked", reconcile=lambda key: key if key.endswith("booked") else NOT_DONE)
def asked(request: Any, result: Any, key: str) -> None:
    LOG.append((request, result, key))


DUE: list[Exception] = []
"""What the next calls of `test-raising` raise."""


@compensation("test-raising", backoff=0.0)
def raising(request: Any, result: Any, key: str) -> None:
    LOG.append((request, result, key))
    if DUE:
        raise DUE.pop()


NESTED: list[Callable[[], Any]] = []


@compensation("test-nested", backoff=0.0)
def of_another(request: Any, result: Any, key: str) -> None:
    NESTED.pop()()
    LOG.append((request, result, key))


class Slow:
    """An undo that takes as long as a test says."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()


SLOW = Slow()


@compensation("test-slow")
def slow(request: Any, result: Any, key: str) -> None:
    SLOW.began.set()
    SLOW.may_end.wait(PATIENCE)
    LOG.append((request, result, key))


@compensation("test-unasked", reconcile=lambda _: 1 / 0)
def unasked(request: Any, result: Any, key: str) -> None:
    LOG.append((request, result, key))


@pytest.fixture(autouse=True)
def _log() -> None:
    LOG.clear()
    DUE.clear()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def saver(events: list[Event]) -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string("memory:", on_event=events.append) as made:
        yield made


@pytest.fixture
def thread(saver: GCSSaver) -> Thread:
    return saver.thread("trip")


def step(saga: Saga, name: str, undo: str = "test-cancel", **options: Any) -> Any:
    return saga.once(name, lambda key: key, request=options.pop("request", name), undo=undo, **options)


def undone() -> list[Any]:
    return [request for request, _, _ in LOG]


def states(saga: Saga) -> dict[str, str]:
    return {one.name: one.state for one in saga.info().steps}


def full() -> None:
    raise FullError


# Blocks


def test_a_block_that_ends_finishes_the_saga(thread: Thread, events: list[Event]) -> None:
    with thread.saga("s") as saga:
        assert step(saga, "a") == "saga s a"
        assert saga.state == "running"
    assert (saga.state, saga.info().state) == ("done", "done")
    # The same block again repeats nothing.
    with thread.saga("s") as saga:
        assert step(saga, "a") == "saga s a"
    assert LOG == []
    ended = [one for one in events if isinstance(one, SagaEnded)]
    assert [(one.saga_id, one.state, one.steps, one.undone) for one in ended] == [("s", "done", 1, 0)]


def test_an_exception_undoes_all_steps_newest_first(thread: Thread, events: list[Event]) -> None:
    with pytest.raises(FullError), thread.saga("s") as saga:  # noqa: PT012 - the block is under test
        step(saga, "a")
        step(saga, "b")
        saga.once("c", full, undo="test-cancel", errors=(FullError,))
    assert LOG == [("b", "saga s b", "undo 0 s b"), ("a", "saga s a", "undo 0 s a")]
    assert saga.state == "compensated"
    # The last one took no effect, so there was nothing to undo.
    assert states(saga) == {"a": "undone", "b": "undone", "c": "failed"}
    found = [(one.step, one.state) for one in events if isinstance(one, CompensationEnded)]
    assert found == [("b", "done"), ("a", "done")]
    ended = [one for one in events if isinstance(one, SagaEnded)]
    assert [(one.state, one.steps, one.undone) for one in ended] == [("compensated", 3, 2)]
    # The saga is over.
    with pytest.raises(SagaRolledBack, match="another one under another id"), thread.saga("s"):
        pass


def test_the_same_in_coroutines(thread: Thread) -> None:
    async def book(key: str) -> str:
        return key

    async def trip() -> Saga:
        async with thread.saga("s") as saga:
            await saga.aonce("a", book, request="a", undo="test-acancel")
            await saga.aonce("b", book, request="b", undo="test-cancel")
        assert (await saga.ainfo()).state == "done"
        await saga.arollback()
        with pytest.raises(FullError):  # noqa: PT012 - the block is under test
            async with thread.saga("t") as other:
                await other.aonce("a", book, request="c", undo="test-acancel")
                await other.asavepoint("p")
                await other.asavepoint("p")
                full()
        await other.aresume()
        third = thread.saga("u")
        await third.aonce("a", book, irreversible=True)
        await third.afinish()
        with pytest.raises(SagaStuckError):
            await third.arollback()
        await third.aresolve("a", result=None)
        assert (await third.aresume()).state == "compensated"
        return saga

    saga = asyncio.run(trip())
    assert undone() == ["b", "a", "c"]
    assert saga.state == "compensated"
    assert [one.state for one in asyncio.run(thread.asagas())] == ["compensated"] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_the_end_of_a_process_leaves_the_saga_running(thread: Thread, error: type[BaseException]) -> None:
    with pytest.raises(error), thread.saga("s") as saga:  # noqa: PT012 - the block is under test
        step(saga, "a")
        raise error
    assert saga.info().state == "running"
    assert saga.resume().state == "running"
    assert LOG == []


def test_a_lost_lease_leaves_the_saga_running(thread: Thread) -> None:
    with pytest.raises(ThreadBusyError), thread.saga("s") as saga:  # noqa: PT012 - the block is under test
        step(saga, "a")
        raise ThreadBusyError("busy", thread_id="trip")
    assert saga.info().state == "running"


def test_an_unknown_outcome_stops_a_rollback_and_the_end_of_a_block(thread: Thread) -> None:
    with pytest.raises(SagaStuckError), thread.saga("s") as saga:  # noqa: PT012 - the block is under test
        step(saga, "a")
        saga.once("b", full, undo="test-cancel")
    assert LOG == []
    saga.resolve("b", not_done=True)
    assert saga.resume().state == "compensated"
    assert undone() == ["a"]
    with suppress(FullError):
        thread.saga("t").once("b", full, undo="test-cancel")
    with pytest.raises(OutcomeUnknownError), thread.saga("t") as saga:
        step(saga, "b", request=None)
    assert saga.info().state == "running"
    with thread.saga("t") as saga:
        # A block cannot end well before that is settled.
        with pytest.raises(SagaStuckError, match=r"'b'.*and then `finish`"):
            saga.finish()
        saga.resolve("b", result="booked")
    assert states(saga) == {"b": "done"}


def test_a_step_needs_the_saga_as_it_was_opened(thread: Thread) -> None:
    saga = thread.saga("s")
    step(saga, "a")
    thread.saga("s").rollback()
    with pytest.raises(SagaRolledBack):
        step(saga, "b")
    with pytest.raises(SagaRolledBack):
        saga.savepoint("p")
    with pytest.raises(SagaRolledBack):
        saga.finish()


def test_a_done_saga_has_no_further_steps(thread: Thread) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
    with pytest.raises(SagaError, match="is done"):
        step(saga, "b")
    assert saga.rollback().state == "compensated"
    assert saga.rollback().state == "compensated"
    assert undone() == ["a"]


# Undoing


def test_an_undo_that_raises_is_called_again(thread: Thread, events: list[Event]) -> None:
    with thread.saga("s") as saga:
        step(saga, "a", undo="test-flaky", request={"failures": 2})
    assert saga.rollback().state == "compensated"
    assert [key for _, _, key in LOG] == ["undo 0 s a"] * 3
    found = [(one.state, one.attempt) for one in events if isinstance(one, CompensationEnded)]
    assert found == [("failed", 1), ("failed", 2), ("done", 3)]


@pytest.mark.parametrize("error", [OutcomeUnknownError, OperationInProgressError])
def test_an_undo_that_raises_an_error_of_operations_is_called_again(thread: Thread, error: Any) -> None:
    """An undo may perform an operation of its own. Its error is no outcome of the undo."""
    DUE.append(error("another operation", thread_id="trip", key="k"))
    with thread.saga("s") as saga:
        step(saga, "a", undo="test-raising")
    assert saga.rollback().state == "compensated"
    assert [key for _, _, key in LOG] == ["undo 0 s a"] * 2


def test_a_reconcile_that_raises_is_stuck(thread: Thread) -> None:
    saga = thread.saga("s")
    step(saga, "a")
    with pytest.raises(FullError):
        saga.once("b", full, undo="test-unasked")
    with pytest.raises(SagaStuckError, match="'b': its outcome is unknown, and `reconcile` raised ZeroDivisionError"):
        saga.rollback()
    assert saga.state == "stuck"
    assert LOG == []
    saga.resolve("b", not_done=True)
    assert saga.resume().state == "compensated"


def test_a_step_whose_result_was_not_stored_stops_a_rollback_before_anything_is_undone(thread: Thread) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
        saga.once("b", threading.Lock, undo="test-cancel")
        step(saga, "c")
        saga.once("nothing", lambda: None, request="nothing", undo="test-cancel")
    with pytest.raises(SagaStuckError, match="'b': its result could not be stored"):
        saga.rollback()
    assert LOG == []
    saga.resolve("b", result=None)
    assert saga.resume().state == "compensated"
    assert undone() == ["nothing", "c", "a"]


def test_a_result_that_cannot_be_read_is_stuck(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
        step(saga, "b")

    def loads_typed(_: Any) -> Any:
        raise TypeError

    monkeypatch.setattr(saga.serde, "loads_typed", loads_typed)
    with pytest.raises(SagaStuckError, match="'b': its request or its result cannot be read"):
        saga.rollback()
    monkeypatch.undo()
    assert saga.resume().state == "compensated"


def test_an_undo_that_keeps_raising_is_stuck(thread: Thread, events: list[Event]) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
        step(saga, "b", undo="test-flaky", request={"failures": 4})
        step(saga, "c")
    with pytest.raises(SagaStuckError, match="'b': its undo raised ConnectionError, 3 times") as caught:
        saga.rollback()
    assert caught.value.steps == ("b",)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert states(saga) == {"a": "done", "b": "done", "c": "undone"}
    assert [one.problem for one in saga.info().steps] == [None, "its undo raised an exception", None]
    ended = [one for one in events if isinstance(one, SagaEnded)][-1]
    assert (ended.state, ended.undone) == ("stuck", 1)
    with pytest.raises(SagaRolledBack, match="'stuck'"), thread.saga("s"):
        pass
    # The next attempts succeed.
    assert saga.resume().state == "compensated"
    assert undone()[-1] == "a"


def test_a_person_can_undo_a_step_by_hand(thread: Thread) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
        step(saga, "b", undo="test-flaky", request={"failures": 9})
    with pytest.raises(SagaStuckError):
        saga.rollback()
    with pytest.raises(ConflictError, match="its undo has not begun"):
        saga.resolve("b", not_done=True)
    saga.resolve("b", result=None)
    with pytest.raises(ConflictError, match="is undone"):
        saga.resolve("b", result=None)
    assert saga.resume().state == "compensated"
    assert [request for request in undone() if request == "a"] == ["a"]


def test_an_irreversible_step_stops_a_rollback_before_anything_is_undone(thread: Thread) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
        saga.once("mail", lambda: "sent", irreversible=True)
        step(saga, "b")
    with pytest.raises(SagaStuckError, match="irreversible") as caught:
        saga.rollback()
    assert (caught.value.steps, LOG) == (("mail",), [])
    saga.resolve("mail", result=None)
    assert saga.resume().state == "compensated"
    assert undone() == ["b", "a"]


def test_unknown_steps_are_reconciled(thread: Thread) -> None:
    with pytest.raises(FullError), thread.saga("s") as saga:  # noqa: PT012 - the block is under test
        for name in ("a", "booked"):
            with suppress(FullError):
                saga.once(name, full, request=name, undo="test-asked")
        with suppress(FullError):
            saga.once("b", full, request="b", undo="test-cancel", reconcile=lambda key: key)
        full()
    assert LOG == [("b", "saga s b", "undo 0 s b"), ("booked", "saga s booked", "undo 0 s booked")]
    assert states(saga) == {"a": "not-done", "booked": "undone", "b": "undone"}


def test_a_compensation_that_is_not_imported(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
        step(saga, "b", undo="test-flaky", request={"failures": 0})
        with pytest.raises(CompensationMissingError, match="'no-such'"):
            step(saga, "c", undo="no-such")
    monkeypatch.delitem(compensations._KNOWN, ("test-cancel", 1))
    with pytest.raises(CompensationMissingError, match="'test-cancel', version 1"):
        saga.rollback()
    assert (LOG, saga.info().state) == ([], "compensating")
    compensation("test-cancel")(cancel)
    assert saga.resume().state == "compensated"
    assert len(LOG) == 2


def test_a_step_keeps_the_version_with_which_it_was_done(thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensations, "_KNOWN", dict(compensations._KNOWN))
    with thread.saga("s") as saga:
        step(saga, "a")

    @compensation("test-cancel", version=2)
    def other(request: Any, result: Any, key: str) -> None:
        LOG.append("other")

    with thread.saga("s") as saga:
        step(saga, "a")
    with thread.saga("t") as later:
        step(later, "b")
    saga.rollback()
    later.rollback()
    assert [one if one == "other" else one[0] for one in LOG] == ["a", "other"]
    assert [one.steps[0].undo for one in thread.sagas()] == [("test-cancel", 1), ("test-cancel", 2)]


def test_a_coroutine_function_needs_a_coroutine(thread: Thread) -> None:
    with thread.saga("s") as saga:
        step(saga, "a", undo="test-acancel")
    with pytest.raises(InvalidInputError, match="coroutine"):
        saga.rollback()
    assert LOG == []
    assert asyncio.run(saga.aresume()).state == "compensated"
    assert undone() == ["a"]


# Savepoints


def test_a_rollback_to_a_savepoint_keeps_earlier_steps(thread: Thread, events: list[Event]) -> None:
    with thread.saga("s") as saga:
        step(saga, "a")
        saga.savepoint("p")
        step(saga, "b")
        saga.savepoint("q")
        step(saga, "c")
        saga.savepoint("p")
        found = saga.rollback(to="p")
        assert (found.state, found.epoch, dict(found.savepoints)) == ("running", 1, {"p": None})
        assert undone() == ["c", "b"]
        # For the provider, this is another booking.
        assert step(saga, "b") == "saga s b 1"
    assert saga.info().state == "done"
    saga.rollback()
    assert LOG[2:] == [("b", "saga s b 1", "undo 1 s b"), ("a", "saga s a", "undo 0 s a")]
    assert [one.state for one in events if isinstance(one, SagaEnded)] == ["running", "done", "compensated"]


def test_a_further_attempt_is_the_same_request_in_a_later_epoch(thread: Thread) -> None:
    given: list[str] = []

    def book(key: str) -> str:
        given.append(key)
        if len(given) == 1:
            raise FullError
        return key

    saga = thread.saga("s")
    with suppress(FullError):
        saga.once("a", book, undo="test-cancel")
    saga.savepoint("p")
    step(saga, "b")
    assert saga.rollback(to="p").epoch == 1
    assert saga.once("a", book, undo="test-cancel", mode="at_least_once") == "saga s a"
    assert given == ["saga s a"] * 2


def test_a_process_of_an_older_epoch_starts_nothing(saver: GCSSaver, thread: Thread) -> None:
    old = thread.saga("s")
    step(old, "a")
    old.savepoint("p")
    other = saver.thread("trip").saga("s")
    step(other, "b")
    other.rollback(to="p")
    for act in (lambda: step(old, "c"), old.finish, old.rollback):
        with pytest.raises(SagaRolledBack, match="since this process opened it"):
            act()
    with pytest.raises(FullError), other:
        full()
    assert undone() == ["b", "a"]


def counter(saver: GCSSaver, *nodes: Callable[..., Any]) -> Any:
    graph = StateGraph(State)
    graph.add_sequence([(f"node-{number}", node) for number, node in enumerate(nodes)])
    graph.add_edge(START, "node-0")
    return graph.compile(checkpointer=saver)


def say(what: str) -> Callable[[Any], Any]:
    return lambda _: {"seen": [what]}


def test_a_savepoint_holds_the_newest_checkpoint_outside_of_a_graph(saver: GCSSaver, thread: Thread) -> None:
    graph = counter(saver, say("a"))
    graph.invoke({"seen": []}, CONFIG)
    with thread.saga("s") as saga:
        saga.savepoint("p")
        graph.invoke({"seen": ["more"]}, CONFIG)
        step(saga, "b")
        assert graph.get_state(CONFIG).values == {"seen": ["a", "more", "a"]}
        saga.rollback(to="p")
        assert graph.get_state(CONFIG).values == {"seen": ["a"]}
    (held,) = [one for one in saver.admin.history("trip") if one.holds]
    assert held.holds == ("savepoint p of saga s",)
    # A fork is made once.
    assert saga.resume().state == "done"
    assert graph.get_state(CONFIG).values == {"seen": ["a"]}


# Nodes

CALLS = {
    "invoke": lambda graph, given, **options: graph.invoke(given, CONFIG, **options),
    "ainvoke": lambda graph, given, **options: asyncio.run(graph.ainvoke(given, CONFIG, **options)),
    "run": lambda graph, given, **options: run(graph, given, CONFIG, **options),
    "arun": lambda graph, given, **options: asyncio.run(arun(graph, given, CONFIG, **options)),
}


def trip(thread: Thread, tries: list[int]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Two nodes: one books, and one makes a savepoint, pays, and rolls back to it the first time."""

    def book(_: Any) -> dict[str, Any]:
        return {"seen": [step(thread.saga("s"), "book")]}

    def pay(_: Any) -> dict[str, Any]:
        with thread.saga("s") as saga:
            saga.savepoint("before payment")
            found = step(saga, "pay")
            tries.append(1)
            if len(tries) == 1:
                saga.rollback(to="before payment")
            return {"seen": [found]}

    return book, pay


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_node_undoes_and_the_host_forks(saver: GCSSaver, thread: Thread, call: str, durability: str) -> None:
    tries: list[int] = []
    graph = counter(saver, *trip(thread, tries))
    with pytest.raises(SagaRolledBack) as caught:
        CALLS[call](graph, {"seen": []}, durability=durability)
    assert undone() == ["pay"]
    held = caught.value.config["configurable"]["checkpoint_id"]
    at_savepoint = graph.get_state(caught.value.config)
    assert (at_savepoint.values, at_savepoint.next) == ({"seen": ["saga s book"]}, ("node-1",))
    if call.endswith("invoke"):
        assert graph.get_state(CONFIG).config["configurable"]["checkpoint_id"] == held
        assert thread.saga("s").resume().state == "running"
    tip = graph.get_state(CONFIG)
    assert tip.config["configurable"]["checkpoint_id"] > held
    assert (tip.values, tip.next, tip.metadata["source"]) == ({"seen": ["saga s book"]}, ("node-1",), "fork")
    found = CALLS[call](graph, None, durability=durability)
    assert found == {"seen": ["saga s book", "saga s pay 1"]}
    assert thread.saga("s").info().state == "done"
    assert undone() == ["pay"]


def test_an_exception_in_a_node_ends_the_run_when_its_steps_are_undone(saver: GCSSaver, thread: Thread) -> None:
    def node(_: Any) -> None:
        with thread.saga("s") as saga:
            step(saga, "a")
            full()

    graph = counter(saver, node)
    with pytest.raises(SagaRolledBack) as caught:
        graph.invoke({"seen": []}, CONFIG)
    assert caught.value.config is None
    assert isinstance(caught.value.__context__, FullError)
    assert undone() == ["a"]
    assert graph.get_state(CONFIG).next == ("node-0",)


def test_a_block_around_a_run_forks_after_a_rollback_in_a_node(saver: GCSSaver, thread: Thread) -> None:
    graph = counter(saver, *trip(thread, []))
    with pytest.raises(SagaRolledBack), thread.saga("s"):
        graph.invoke({"seen": []}, CONFIG)
    assert graph.get_state(CONFIG).metadata["source"] == "fork"
    assert thread.saga("s").info().state == "running"


def test_the_next_run_forks_if_the_process_crashed_before_it_could(saver: GCSSaver, thread: Thread) -> None:
    graph = counter(saver, *trip(thread, []))
    with pytest.raises(SagaRolledBack):
        graph.invoke({"seen": []}, CONFIG)
    with pytest.raises(SagaRolledBack, match="savepoint 'before payment'"):
        run(graph, None, CONFIG)
    assert run(graph, None, CONFIG) == {"seen": ["saga s book", "saga s pay 1"]}


def test_an_interrupt_leaves_the_saga_running(saver: GCSSaver, thread: Thread) -> None:
    def node(_: Any) -> dict[str, Any]:
        with thread.saga("s") as saga:
            step(saga, "a")
            return {"seen": [interrupt("pay?"), step(saga, "b")]}

    graph = counter(saver, node)
    assert "__interrupt__" in graph.invoke({"seen": []}, CONFIG)
    assert thread.saga("s").info().state == "running"
    assert graph.invoke(Command(resume="yes"), CONFIG) == {"seen": ["yes", "saga s b"]}
    assert states(thread.saga("s")) == {"a": "done", "b": "done"}
    assert LOG == []


@pytest.mark.parametrize("handles", [True, False])
def test_a_tool_undoes_and_ends_the_run(saver: GCSSaver, thread: Thread, handles: bool) -> None:
    @tool
    def book(city: str) -> str:
        """Book a trip."""
        with thread.saga("s") as saga:
            step(saga, "flight", request=city)
            raise FullError

    call = {"name": "book", "args": {"city": "Oslo"}, "id": "call-1", "type": "tool_call"}
    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([book], handle_tool_errors=handles))
    graph.add_edge(START, "tools")
    compiled = graph.compile(checkpointer=saver)
    with pytest.raises(SagaRolledBack):
        run(compiled, {"messages": [AIMessage("", tool_calls=[call])]}, CONFIG)
    assert undone() == ["Oslo"]


def test_a_rollback_in_a_subgraph_forks_the_root_graph(saver: GCSSaver, thread: Thread) -> None:
    inner = StateGraph(State)
    inner.add_sequence([(f"inner-{number}", node) for number, node in enumerate(trip(thread, []))])
    inner.add_edge(START, "inner-0")
    graph = counter(saver, say("first"), inner.compile())
    with pytest.raises(SagaRolledBack):
        run(graph, {"seen": []}, CONFIG)
    tip = graph.get_state(CONFIG)
    assert (tip.values, tip.next) == ({"seen": ["first"]}, ("node-1",))
    # The subgraph begins again. The step before the savepoint is not repeated.
    assert run(graph, None, CONFIG)["seen"][-2:] == ["saga s book", "saga s pay 1"]
    assert undone() == ["pay"]


def test_a_savepoint_in_a_node_needs_a_durable_checkpoint(saver: GCSSaver, thread: Thread) -> None:
    def node(_: Any) -> None:
        thread.saga("s").savepoint("p")

    with pytest.raises(NotDurableError, match='durability="exit"'):
        counter(saver, node).invoke({"seen": []}, CONFIG, durability="exit")


def test_steps_do_not_need_a_durable_checkpoint(saver: GCSSaver, thread: Thread) -> None:
    def node(_: Any) -> dict[str, Any]:
        with thread.saga("s") as saga:
            return {"seen": [step(saga, "a")]}

    assert counter(saver, node).invoke({"seen": []}, CONFIG, durability="exit") == {"seen": ["saga s a"]}


def test_a_run_of_this_process_keeps_others_from_forking(saver: GCSSaver, thread: Thread) -> None:
    saga = saver.thread("trip").saga("s")
    step(saga, "a")

    def node(_: Any) -> dict[str, Any]:
        # As if the config had not reached this code.
        saga._place = lambda: None  # type: ignore[method-assign]
        with pytest.raises(ThreadBusyError, match="pass the `config`"):
            saga.rollback()
        return {"seen": ["a"]}

    assert run(counter(saver, node), {"seen": []}, CONFIG) == {"seen": ["a"]}


def test_the_node_of_another_thread_is_outside(saver: GCSSaver, thread: Thread) -> None:
    def node(_: Any) -> dict[str, Any]:
        other = saver.thread("other").saga("s")
        step(other, "a")
        return {"seen": [other.rollback().state]}

    assert counter(saver, node).invoke({"seen": []}, CONFIG) == {"seen": ["compensated"]}


# Costs and bad input


def test_a_step_costs_what_an_operation_costs() -> None:
    counting = CountingInterceptor()
    with GCSSaver.from_conn_string("memory:", interceptors=[counting]) as saver, saver.thread("trip").saga("s") as saga:
        for name in ("a", "b"):
            before = len(counting.rounds)
            step(saga, name)
            assert len(counting.rounds) - before == 2


def test_bad_input(saver: GCSSaver, thread: Thread) -> None:
    saga = thread.saga("s")
    for name in ("", 7, "a\0b", "x" * 201):
        with pytest.raises(InvalidInputError, match="name of a step"):
            saga.once(name, full, irreversible=True)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="name of a savepoint"):
            saga.savepoint(name)  # type: ignore[arg-type]
    for undo, irreversible in ((None, False), ("test-cancel", True)):
        with pytest.raises(InvalidInputError, match="either `undo`"):
            saga.once("a", full, undo=undo, irreversible=irreversible)
    with pytest.raises(InvalidIdError):
        thread.saga(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError):
        thread.saga("s", wait=-1)
    for act in (saga.rollback, saga.resume, saga.info, lambda: saga.resolve("a", not_done=True)):
        with pytest.raises(InvalidInputError, match="There is no saga 's'"):
            act()
    step(saga, "a")
    with pytest.raises(InvalidInputError, match="no savepoint 'p'"):
        saga.rollback(to="p")
    with pytest.raises(InvalidInputError, match="no step 'b'"):
        saga.resolve("b", not_done=True)
    with pytest.raises(InvalidInputError, match="either `result`"):
        saga.resolve("a")
    assert states(saga) == {"a": "done"}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(("",), {}), ((7,), {}), (("a", 0), {}), (("a", True), {}), (("a\0",), {}), (("a" * 201,), {}), (("\ud800",), {})],
)
def test_bad_names_of_compensations(arguments: Any, options: Any) -> None:
    with pytest.raises(InvalidInputError):
        compensation(*arguments, **options)


@pytest.mark.parametrize(
    "options",
    [{"mode": "often"}, {"attempts": 0}, {"attempts": 101}, {"backoff": -1}, {"backoff": True}, {"reconcile": 7}],
)
def test_bad_options_of_compensations(options: Any) -> None:
    with pytest.raises(InvalidOptionError):
        compensation("a", **options)


def test_two_functions_cannot_have_one_name() -> None:
    assert compensation("test-cancel")(cancel) is cancel
    with pytest.raises(InvalidInputError, match=r"is tests\.system\.test_sagas\.cancel already"):
        compensation("test-cancel")(flaky)
    with pytest.raises(InvalidInputError, match="needs a function"):
        compensation("test-nothing")(7)  # type: ignore[type-var]


# Sagas in sagas


def nested(thread: Thread, to: str | None) -> None:
    with thread.saga("outer") as outer:
        step(outer, "hotel")
        with thread.saga("inner") as inner:
            inner.savepoint("before payment")
            step(inner, "pay")
            if to is None:
                full()
            inner.rollback(to)


def test_a_saga_that_is_undone_in_the_block_of_another_ends_that_too(saver: GCSSaver, thread: Thread) -> None:
    """In a node, `SagaRolledBack` of the inner saga leaves the outer block, which can never succeed again."""
    with pytest.raises(SagaRolledBack) as caught:
        run(counter(saver, lambda _: nested(thread, None)), {"seen": []}, CONFIG)
    assert caught.value.saga_id == "outer"
    assert undone() == ["pay", "hotel"]
    assert [one.state for one in thread.sagas()] == ["compensated", "compensated"]


def test_a_saga_that_continues_from_a_savepoint_leaves_the_one_around_it_running(
    saver: GCSSaver, thread: Thread
) -> None:
    with pytest.raises(SagaRolledBack) as caught:
        run(counter(saver, lambda _: nested(thread, "before payment")), {"seen": []}, CONFIG)
    assert caught.value.saga_id == "inner"
    assert undone() == ["pay"]
    assert [one.state for one in thread.sagas()] == ["running", "running"]


def test_a_block_around_a_saga_that_an_earlier_process_undid_is_undone_too(thread: Thread) -> None:
    with suppress(KeyboardInterrupt), thread.saga("outer") as outer:
        step(outer, "hotel")
        with thread.saga("inner") as inner:
            step(inner, "pay")
        inner.rollback()
        raise KeyboardInterrupt  # stands for a crash here
    with pytest.raises(SagaRolledBack, match="'inner'"):
        nested(thread, None)
    assert undone() == ["pay", "hotel"]
    assert thread.saga("outer").info().state == "compensated"


def test_a_rollback_waits_for_another_one_of_its_process(saver: GCSSaver, thread: Thread) -> None:
    """It does not act under the lease of the other one, which may end in the middle."""
    with thread.saga("s") as saga:
        step(saga, "a")
        step(saga, "b", undo="test-slow")
    with thread.saga("t") as other:
        step(other, "c")
    with ThreadPoolExecutor(4) as threads:
        running = threads.submit(saga.rollback)
        SLOW.began.wait(PATIENCE)
        waiting = [threads.submit(saver.thread("trip").saga(one).rollback) for one in ("s", "t")]
        _, late = wait(waiting, 0.1)
        SLOW.may_end.set()
        assert len(late) == 2
        assert [one.result().state for one in (running, *waiting)] == ["compensated"] * 3
    assert sorted(undone()) == ["a", "b", "c"]


def test_an_undo_can_roll_back_another_saga(saver: GCSSaver, thread: Thread) -> None:
    with thread.saga("t") as other:
        step(other, "c")
    NESTED.append(lambda: saver.thread("trip").saga("t").rollback())
    with thread.saga("s") as saga:
        step(saga, "a", undo="test-nested")
    assert saga.rollback().state == "compensated"
    assert undone() == ["c", "a"]


BESIDE: dict[str, Callable[[Thread], Any]] = {
    "nothing": lambda _: None,
    "operation": lambda thread: operations().once("mail", lambda: LOG.append((thread.id, None, "mail"))),
    "savepoint": lambda thread: thread.saga("other").savepoint("q"),
}


@pytest.mark.parametrize("is_own", [True, False], ids=["one-process", "another-process"])
@pytest.mark.parametrize("beside", BESIDE)
def test_a_rollback_stops_a_run_without_a_lease(tmp_path: Path, is_own: bool, beside: str) -> None:
    """The run would continue behind the fork, and its state would have what was undone."""
    began, may_end = threading.Event(), threading.Event()
    uri = tmp_path.as_uri()
    with GCSSaver.from_conn_string(uri) as saver, GCSSaver.from_conn_string(uri) as other:
        thread = saver.thread("trip")

        def first(_: Any) -> dict[str, Any]:
            thread.saga("s").savepoint("start")
            return {"seen": [step(thread.saga("s"), "a")]}

        def second(_: Any) -> dict[str, Any]:
            began.set()
            may_end.wait(PATIENCE)
            BESIDE[beside](thread)
            return {"seen": ["b"]}

        graph = counter(saver, first, second)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(graph.invoke, {"seen": []}, CONFIG, durability="sync")
            began.wait(PATIENCE)
            (saver if is_own else other).thread("trip").saga("s").rollback(to="start")
            may_end.set()
            with pytest.raises((ThreadBusyError, OperationFencedError)):
                running.result()
        tip = graph.get_state(CONFIG)
        assert (tip.values, tip.next) == ({"seen": []}, ("node-0",))
        assert undone() == ["a"]
        assert graph.invoke(None, CONFIG) == {"seen": ["saga s a 1", "b"]}
