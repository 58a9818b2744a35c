"""Processes that are killed while they run turns: others continue with the same line, and the results are the same."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver, arun, cadence, run
from langgraph_gcs_saver.flows import runs
from langgraph_gcs_saver.testing.crash import Dying, Plan, kill
from langgraph_gcs_saver.testing.kills import process
from tests.faults.turns import CONFIG, HOW, SCENARIOS, State, plain, stores
from tests.patience import PATIENCE

NAMES = [name for name, (_, given) in SCENARIOS.items() if not any(map(callable, given))]


def killing(at: int) -> Dying:
    """Kills its process before the first effect (1), after it (2), before the second one (3), and so on; 0: never."""
    dying = Dying()
    if at:
        dying.plan = Plan(at // 2, is_late=at % 2 == 1, strike=kill)
    return dying


@dataclass(frozen=True)
class Order:
    """What a process does: a scenario from its n-th request on, and when it is killed; 0 for never."""

    uri: str
    name: str
    how: str
    is_async: bool
    first: int = 0
    kill_at: int = 0


def work(order: Order, pipe: Connection) -> None:
    """Make the requests from the first one that no process has finished, and send each result."""
    build, given = SCENARIOS[order.name]
    with GCSSaver.from_conn_string(order.uri, interceptors=[killing(order.kill_at)]) as saver:
        graph = build(saver, [])
        call = (lambda *args, **named: asyncio.run(arun(*args, **named))) if order.is_async else run
        for at in range(order.first, len(given)):
            options: dict[str, Any] = {"request_id": f"r{at}", "owner": "worker", **stores(order.how)}
            pipe.send(plain(call(graph, given[at], CONFIG, **options)))


def received(pipe: Connection) -> Iterator[Any]:
    """What a process has sent before it ended."""
    with suppress(EOFError):
        while pipe.poll():
            yield pipe.recv()


def play(order: Order, kills: list[int]) -> tuple[list[Any], int]:
    """The results of all requests, and how many processes were killed."""
    results: list[Any] = []
    killed = 0
    for kill_at in [*kills, 0]:
        with process(work, replace(order, first=len(results), kill_at=kill_at)) as (worker, pipe):
            worker.join(PATIENCE)
            results += received(pipe)
            assert worker.exitcode in {0, -signal.SIGKILL}
            killed += worker.exitcode != 0
        if len(results) == len(SCENARIOS[order.name][1]):
            break
    return results, killed


def check(new_store: Callable[[], str], order: Order, kills: list[int]) -> int:
    """Kill some processes, each after some effects, and compare with a story without kills."""
    expected, _ = play(replace(order, uri=new_store()), [])
    uri = new_store()
    found, killed = play(replace(order, uri=uri), kills)
    assert found == expected
    with GCSSaver.from_conn_string(uri) as saver:
        inputs = [one.metadata for one in saver.list(CONFIG, filter={"source": "input"})]
        asked = [one[runs.REQUEST] for one in inputs if not one["parents"]]
        assert len(asked) == len(set(asked))
    return killed


@pytest.fixture
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    return lambda: f"file://{tmp_path_factory.mktemp('store')}/store"


def test_killed_processes_are_replaced_by_others(new_store: Callable[[], str]) -> None:
    assert check(new_store, Order("", "questions", "async", is_async=False), [25, 40, 55]) == 3


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("is_async", [False, True], ids=["run", "arun"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
def test_kills_at_random(new_store: Callable[[], str], name: str, how: str, is_async: bool, seed: int) -> None:
    chance = random.Random(seed)
    check(new_store, Order("", name, how, is_async), [chance.randint(1, 60) for _ in range(6)])


STEPS = 1000


def count(uri: str, kill_at: int, pipe: Connection) -> None:
    """Count to a thousand, one number a step, in segments of ten steps."""

    def node(state: State) -> dict[str, Any]:
        return {one: [str(len(state["log"]))] for one in ("log", "delta")}

    build = StateGraph(State)
    build.add_node("node", node)
    build.add_edge(START, "node")
    build.add_conditional_edges("node", lambda state: END if len(state["log"]) == STEPS else "node")
    with GCSSaver.from_conn_string(uri, interceptors=[killing(kill_at)]) as saver:
        config: Any = {**CONFIG, "recursion_limit": 2 * STEPS}
        options: dict[str, Any] = {"request_id": "r1", "owner": "worker", "store": "segments"}
        found = run(
            build.compile(checkpointer=saver), {"log": [], "delta": []}, config, policy=cadence.Steps(10), **options
        )
        segments = len(list(saver.list(CONFIG)))
    pipe.send((found, segments))


def play_count(uri: str, kills: Iterator[int]) -> tuple[Any, int]:
    """What the last process has sent, and how many were killed before it."""
    for killed, kill_at in enumerate(kills):
        with process(count, uri, kill_at) as (worker, pipe):
            worker.join(PATIENCE)
            assert worker.exitcode in {0, -signal.SIGKILL}
            if worker.exitcode == 0:
                return pipe.recv(), killed
    raise AssertionError


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_steps_in_segments_are_all_there(new_store: Callable[[], str], seed: int) -> None:
    chance = random.Random(seed)
    (found, segments), killed = play_count(new_store(), (chance.randint(100, 600) for _ in range(1000)))
    expected = [str(one) for one in range(STEPS)]
    assert found == {"log": expected, "delta": expected}
    assert killed >= 5
    # A process that continues counts from where it begins.
    assert STEPS // 10 <= segments - 1 <= STEPS // 10 + killed + 1
