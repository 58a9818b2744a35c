"""`RestoreTooSlow`: reads of newest checkpoints that take longer than the objective, or would take longer."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, arun, astream, cadence, run, stream
from langgraph_gcs_saver.cadence import objective as rates
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import Commit
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.events import RestoreTooSlow
from langgraph_gcs_saver.flows import active
from langgraph_gcs_saver.testing.interceptors import LatencyInterceptor

CONFIG: Any = {"configurable": {"thread_id": "t"}}
SOON = cadence.RTO(seconds=0.04, state_bytes=0)
LATE = cadence.RTO(minutes=600)
SLOW = LatencyInterceptor({"QueryDocs": 0.05})
"""Each read of a newest checkpoint begins with a query. So it takes longer than `SOON`, on any machine."""


@pytest.fixture(autouse=True)
def _near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are short, so that `SOON` can be met."""
    monkeypatch.setattr(rates, "ROUND_SECONDS", 0.01)


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


def graph_of(saver: GCSSaver) -> Any:
    graph = StateGraph(State)
    graph.add_node("a", lambda _: {"log": ["a"]})
    graph.add_edge(START, "a")
    return graph.compile(checkpointer=saver)


class Watched:
    """A saver, and the events about its restores."""

    def __init__(self, **options: Any) -> None:
        self.saver = GCSSaver.from_conn_string("memory:", **options)
        self.graph = graph_of(self.saver)
        self.found: list[RestoreTooSlow] = []
        self.saver.subscribe(lambda event: self.found.append(event) if isinstance(event, RestoreTooSlow) else None)

    def fill(self) -> str:
        """Run the graph once. Returns the id of its newest checkpoint."""
        self.graph.invoke({"log": ["in"]}, CONFIG, durability="sync")
        self.found.clear()
        return str(self.graph.get_state(CONFIG).config["configurable"]["checkpoint_id"])


def test_a_read_that_is_measured_over_it():
    watched = Watched(objective=SOON, interceptors=[SLOW])
    tip = watched.fill()
    (event,) = watched.found
    assert (event.thread_id, event.checkpoint_ns, event.checkpoint_id) == ("t", "", tip)
    assert event.seconds >= 0.05
    assert (event.objective, event.is_estimated, event.frames) == (0.04, False, 1)
    assert event.size > 0
    assert "It should take 0.0 s" in event.advice
    watched.saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": tip}})
    assert len(watched.found) == 1  # another checkpoint than the newest one is no restore
    watched.saver.get_tuple({"configurable": {"thread_id": "none"}})
    assert len(watched.found) == 1


def test_a_read_that_is_estimated_over_it(monkeypatch):
    watched = Watched(objective=LATE, inline_max_bytes=0, max_threads=1)
    watched.fill()
    assert watched.found == []
    monkeypatch.setattr(rates, "ROUND_SECONDS", 36_000.0)
    watched.saver.get_tuple(CONFIG)
    (event,) = watched.found
    assert (event.is_estimated, event.objective) == (True, 36_000.0)
    assert event.seconds > 36_000
    assert "reads many objects" in event.advice


def test_without_an_objective_there_is_no_event(monkeypatch):
    monkeypatch.setattr(rates, "ROUND_SECONDS", 36_000.0)
    watched = Watched()
    watched.fill()
    run(watched.graph, {"log": ["in"]}, CONFIG)
    assert watched.found == []


def _run(graph: Any, **more: Any) -> None:
    run(graph, {"log": ["in"]}, CONFIG, **more)


def _stream(graph: Any, **more: Any) -> None:
    list(stream(graph, {"log": ["in"]}, CONFIG, **more))


def _arun(graph: Any, **more: Any) -> None:
    asyncio.run(arun(graph, {"log": ["in"]}, CONFIG, **more))


def _astream(graph: Any, **more: Any) -> None:
    async def go() -> None:
        async for _ in astream(graph, {"log": ["in"]}, CONFIG, **more):
            pass

    asyncio.run(go())


@pytest.mark.parametrize("call", [_run, _stream, _arun, _astream])
def test_a_run_has_its_own(call):
    """The run's objective replaces the saver's, for its reads only."""
    watched = Watched(objective=LATE, interceptors=[SLOW])
    watched.fill()
    watched.found.clear()
    call(watched.graph, objective=SOON)
    assert {event.objective for event in watched.found} == {0.04}
    watched.found.clear()
    call(watched.graph)
    assert watched.found == []


@pytest.mark.parametrize("call", [_run, _stream, _arun, _astream])
@pytest.mark.parametrize("objective", [cadence.RTO(seconds=30, state_bytes=10**9), 30])
def test_a_run_is_checked_before_it_begins(call, objective):
    watched = Watched()
    with pytest.raises(InvalidInputError, match=r"The objective is 30 s|must be an RTO"):
        call(watched.graph, objective=objective)
    assert watched.saver.get_tuple(CONFIG) is None


def test_a_worker_passes_it_on():
    watched = Watched(interceptors=[SLOW])
    with pytest.raises(InvalidInputError, match="must be an RTO"):
        watched.saver.recover(watched.graph, objective=30)  # type: ignore[arg-type]  # on purpose
    watched.graph.invoke({"log": ["in"]}, CONFIG, durability="sync", interrupt_before=["a"])
    left = Commit((active.noted("t", "crashed"),))
    runner.run(_perform(left), watched.saver._backend)
    assert [one.outcome for one in watched.saver.recover(watched.graph, objective=SOON)] == ["finished"]
    assert {(event.thread_id, event.objective) for event in watched.found} == {("t", 0.04)}


def _perform(effect: Any) -> Any:
    return (yield from effect)
