"""Processes that are killed while a saga books or cancels a trip: others continue, and nothing happens twice."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.testing.crash import Dying, Plan, kill
from langgraph_gcs_saver.testing.kills import process
from tests.faults.booking import HOW, STEPS, check_stuck, check_world, proceed, settle
from tests.patience import PATIENCE

FAILS = (*STEPS, None)


@dataclass(frozen=True)
class Order:
    """What a process does, and when it is killed: before its first effect (1), after it (2), and so on; 0 for never."""

    uri: str
    ledger: Path
    fails: str | None
    how: str
    gives_up: bool
    kill_at: int = 0
    settles: tuple[str, ...] = ()


def work(order: Order, pipe: Connection) -> None:
    """Settle some steps, and proceed; send how that ended."""
    dying = Dying()
    with GCSSaver.from_conn_string(order.uri, interceptors=[dying]) as saver:
        settle(saver, order.ledger, order.settles)
        if order.kill_at:
            dying.plan = Plan(order.kill_at // 2, is_late=order.kill_at % 2 == 1, strike=kill)
        pipe.send(proceed(saver, order.ledger, order.fails, order.how, gives_up=order.gives_up))


def played(order: Order) -> str | tuple[str, ...] | None:
    """How a process ended; `None` if it was killed."""
    with process(work, order) as (worker, pipe):
        worker.join(PATIENCE)
        assert worker.exitcode in {0, -signal.SIGKILL}
        with suppress(EOFError):
            found: Any = pipe.recv() if pipe.poll() else None
            return found
    return None


def play(order: Order, kills: Iterator[int]) -> int:
    """Kill processes, until one ends; then check the world. Returns how many were killed."""
    killed, found = 0, None
    for kill_at in kills:
        found = played(replace(order, kill_at=kill_at))
        if found is not None:
            break
        killed += 1
    else:
        found = played(order)
    while isinstance(found, tuple):
        if killed == 1:
            check_stuck(order.ledger, found)
        found = played(replace(order, settles=found))
    assert found is not None
    check_world(order.ledger, found, order.fails)
    return killed


@pytest.fixture
def new_order(store_uri: str, tmp_path: Path) -> Callable[..., Order]:
    numbers = count()

    def make(fails: str | None, how: str, *, gives_up: bool) -> Order:
        number = next(numbers)
        path, found, query = store_uri.partition("?")
        return Order(f"{path}-{number}{found}{query}", tmp_path / f"ledger-{number}", fails, how, gives_up)

    return make


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_process_killed_in_a_node_is_replaced_by_another(new_order: Callable[..., Order]) -> None:
    assert play(new_order(None, "node", gives_up=False), iter([random.Random(7).randint(10, 40)])) == 1


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_processes_killed_in_a_rollback(new_order: Callable[..., Order]) -> None:
    # The last step is declined after five claims and ten records, so these are in the midst of the undos.
    assert play(new_order("pay", "block", gives_up=True), iter([80, 30])) >= 1


@pytest.mark.soak
@pytest.mark.parametrize("gives_up", [True, False], ids=["gives-up", "goes-back-to-work"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("fails", FAILS)
def test_kills_at_every_effect(new_order: Callable[..., Order], fails: str | None, how: str, gives_up: bool) -> None:
    for kill_at in count(1):
        if not play(new_order(fails, how, gives_up=gives_up), iter([kill_at])):
            break
    assert kill_at > 40


@pytest.mark.soak
@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("seed", range(100))
def test_kills_at_random(new_order: Callable[..., Order], seed: int) -> None:
    chance = random.Random(seed)
    order = new_order(chance.choice(FAILS), chance.choice(list(HOW)), gives_up=chance.random() < 0.5)
    play(order, iter([chance.randint(1, 120) for _ in range(6)]))
