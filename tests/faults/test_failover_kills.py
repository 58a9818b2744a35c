"""Real processes: one stores steps in whichever store takes them, others fail over, and all of them are killed."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing.connection import Connection
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import NotPrimaryError, SaverClosedError, StoreUnavailableError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.crash import Dying, Plan, cid, config_of, kill, put_arguments
from langgraph_gcs_saver.testing.kills import process
from tests.patience import PATIENCE

STEPS = 30


@dataclass(frozen=True)
class Order:
    """What a process does: the two stores, and after how many effects it is killed; 0 for never."""

    source: str
    target: str
    kill_at: int = 0
    is_forced: bool = False
    first: int = 1

    @property
    def dying(self) -> Dying:
        """Kills the process."""
        found = Dying()
        if self.kill_at:
            found.plan = Plan(self.kill_at, is_late=self.kill_at % 2 == 1, strike=kill)
        return found


class Out(Interceptor):
    """A region that does not answer."""

    def around(self, effect: Any, perform: Any) -> Any:
        raise StoreUnavailableError("The region does not answer.")


def write(order: Order, pipe: Connection) -> None:
    """Store steps, each in the store that takes it, and send the number of each that is acknowledged."""
    with (
        GCSSaver.from_conn_string(order.source, interceptors=[order.dying]) as source,
        GCSSaver.from_conn_string(order.target) as target,
    ):
        stores = [source, target]
        for number in range(order.first, order.first + STEPS):
            while True:
                try:
                    stores[0].put(*put_arguments(number, number - 1 or None))
                    break
                except NotPrimaryError:
                    stores.reverse()
            pipe.send(number)


def ship(order: Order, pipe: Connection) -> None:
    """Store steps in the source, which ships them, and follow it. If the process is to be killed, it does not end."""
    with (
        GCSSaver.from_conn_string(order.source) as first,
        GCSSaver.from_conn_string(order.source, replica=order.target, interceptors=[order.dying]) as source,
        GCSSaver.from_conn_string(order.target) as target,
    ):
        # The mark covers the first step at least.
        first.put(*put_arguments(order.first, order.first - 1 or None))
        next(iter(first.admin.follow(target)))
        pipe.send(order.first)

        def follow() -> None:
            with suppress(NotPrimaryError, SaverClosedError):
                for _ in source.admin.follow(target, every=0.01):
                    pass

        threading.Thread(target=follow, daemon=True).start()
        numbers = count(order.first + 1)
        for number in numbers if order.kill_at else islice(numbers, STEPS - 1):
            source.put(*put_arguments(number, number - 1))
            pipe.send(number)


def change(order: Order, pipe: Connection) -> None:
    """Fail over, and send the result."""
    with (
        GCSSaver.from_conn_string(order.source, interceptors=[order.dying]) as source,
        GCSSaver.from_conn_string(order.target) as target,
    ):
        pipe.send(source.admin.failover(target, force=order.is_forced).primary)


def received(pipe: Connection) -> Iterator[Any]:
    """What a process has sent before it ended."""
    with suppress(EOFError):
        while pipe.poll():
            yield pipe.recv()


@pytest.fixture
def order(store_uri: str) -> Order:
    """Two stores, which replicate to each other."""
    found = Order(store_uri, store_uri.replace("/agents", "/replica").replace("/store", "/replica"))
    with GCSSaver.from_conn_string(found.source) as source, GCSSaver.from_conn_string(found.target) as target:
        source.admin.replicate(target)
    return found


def _stored(uri: str) -> dict[str, int]:
    """The checkpoints of a store, with the times of their documents."""
    with GCSSaver.from_conn_string(uri) as saver:
        ids = [one.checkpoint["id"] for one in saver.list(config_of(None))]
        names = {keys.checkpoint_doc("t", "", one): one for one in ids}
        docs = saver._backend.perform(GetDocs(tuple(names))) if names else {}
        assert not any(one.is_damage for one in saver.admin.verify("t", depth="data"))
    return {names[name]: doc.create_time for name, doc in docs.items()}


def _planned(order: Order, kills: list[int]) -> None:
    """Fail over while a process writes; each process that fails over is killed, except the last one."""
    with process(write, order) as (writer, pipe):
        assert pipe.poll(PATIENCE)
        for kill_at in (*kills, 0):
            with process(change, Order(order.source, order.target, kill_at)) as (changer, _):
                changer.join(PATIENCE)
                assert changer.exitcode == (-signal.SIGKILL if kill_at else 0)
        writer.join(PATIENCE)
        assert writer.exitcode == 0
        acknowledged = {cid(number) for number in received(pipe)}
    assert len(acknowledged) == STEPS
    assert acknowledged == set(_stored(order.target))


def _forced(order: Order, kill_at: int) -> None:
    """The source's process is killed while it ships, and its region does not answer. Later it is back."""
    with process(ship, Order(order.source, order.target, kill_at)) as (writer, pipe):
        writer.join(PATIENCE)
        assert writer.exitcode == -signal.SIGKILL
        acknowledged = {cid(number) for number in received(pipe)}
    with (
        GCSSaver.from_conn_string(order.source, interceptors=[Out()]) as lost,
        GCSSaver.from_conn_string(order.target) as target,
    ):
        done = lost.admin.failover(target, force=True)
        assert done.unreached
        assert done.mark is not None
        covered = {one for one, time in _stored(order.source).items() if time <= done.mark}
        assert cid(order.first) in covered
        assert covered <= set(_stored(order.target)), "the mark covers what is missing"
        target.put(*put_arguments(91, 1))
    # The source is back, and takes steps until it is fenced.
    with process(ship, Order(order.source, order.target, first=50)) as (writer, pipe):
        assert pipe.poll(PATIENCE)
        with process(change, Order(order.source, order.target, is_forced=True)) as (changer, _):
            changer.join(PATIENCE)
            assert changer.exitcode == 0
        writer.join(PATIENCE)
        acknowledged |= {cid(number) for number in received(pipe)}
    assert acknowledged | {cid(91)} <= set(_stored(order.target))
    fenced = _stored(order.source)
    with GCSSaver.from_conn_string(order.source) as source, pytest.raises(NotPrimaryError):
        source.put(*put_arguments(95, 1))
    assert _stored(order.source) == fenced


def test_a_planned_failover_loses_nothing(order: Order) -> None:
    _planned(order, [6])


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_forced_failover_loses_nothing_that_its_mark_covers(order: Order) -> None:
    _forced(order, 60)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_kills_at_random(order: Order, seed: int) -> None:
    chance = random.Random(seed)
    _planned(order, sorted(chance.sample(range(1, 12), 3), reverse=True))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_losses_at_random(order: Order, seed: int) -> None:
    _forced(order, random.Random(seed).randint(60, 300))
