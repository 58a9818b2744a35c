"""A source that is lost at any moment: what the target has is whole, and nothing is missing that its mark covers.

A process stores steps, prunes, and ships, each in its own pace, and is killed. The source is then out of reach, so
no process completes what it has begun.
"""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import GetDocs, QueryDocs
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import replication
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DocumentKind, kind_of
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.results import Unshipped
from langgraph_gcs_saver.testing.crash import Dying, Plan, config_of, kill, put_arguments
from langgraph_gcs_saver.testing.kills import process
from tests.kit.regions import begin, stores
from tests.patience import PATIENCE

STEPS = 30
MOST_EFFECTS = 500
"""Effects of a process that is not killed: 288 of its writer, and those of its shipper, which are 300 to 900."""


@dataclass(frozen=True)
class Order:
    """What a process does: the two stores, and after how many effects it is killed."""

    source: str
    target: str
    kill_at: int


def work(order: Order, pipe: Connection) -> None:
    """Store steps, and ship at the same time."""
    dying = Dying()
    dying.plan = Plan(order.kill_at, is_late=order.kill_at % 2 == 1, strike=kill)
    with (
        GCSSaver.from_conn_string(order.source, interceptors=[dying], inline_max_bytes=200) as source,
        GCSSaver.from_conn_string(order.target, interceptors=[dying], inline_max_bytes=200) as target,
    ):
        stop = threading.Event()
        failures: list[Unshipped] = []

        def ship() -> None:
            while not stop.is_set():
                found = run(replication.ship_once(context=target._context), stores(source, target))
                failures.extend(found.failures)
                pipe.send(found.mark)

        shipper = threading.Thread(target=ship)
        shipper.start()
        for number in range(1, STEPS + 1):
            source.put(*put_arguments(number, number - 1 or None))
            source.put_writes(config_of(number), [("messages", "x" * 500 * (number % 2))], "task")
            if number % 8 == 0:
                source.prune(["t"], strategy=KeepLast(3))
        stop.set()
        shipper.join()
        assert [one.error for one in failures] == []


def check(order: Order, marks: list[int]) -> None:
    """Look at the target, as it is without the source; and then compare it with the source."""
    with GCSSaver.from_conn_string(order.source) as source, GCSSaver.from_conn_string(order.target) as target:
        findings = [one for one in target.admin.verify("t", depth="data") if one.kind != "unreferenced"]
        assert findings == []
        newest = target.get_tuple(config_of(None))
        there = {one.config["configurable"]["checkpoint_id"]: one for one in target.list(config_of(None))}
        assert newest is None or newest.config["configurable"]["checkpoint_id"] == max(there)
        mark = run(replication.mark(), target._as_shipper)
        # The mark that was reported last may have moved once more before the kill.
        assert not marks or (mark is not None and mark >= marks[-1])
        docs = run(iter(QueryDocs(keys.checkpoints("t"))), source._as_shipper)
        here = [doc for doc in docs if kind_of(doc) is DocumentKind.CHECKPOINT]
        for doc in here:
            found = there.get(keys.checkpoint_id_of(doc.name))
            assert found is not None or doc.create_time > (mark or 0)
            if found is not None:
                assert found.checkpoint == source.get_tuple(found.config).checkpoint  # type: ignore[union-attr]
        entries = run(iter(QueryDocs(keys.OUTBOX)), source._as_shipper)
        assert all(entry.update_time > (mark or 0) for entry in entries), "the true lag is greater than that reported"
        missing = [doc.create_time for doc in here if keys.checkpoint_id_of(doc.name) not in there]
        assert not missing or entries
        clock = run(iter(GetDocs((replication.CLOCK,))), source._as_shipper)
        assert mark is None or mark <= clock[replication.CLOCK].update_time


@pytest.fixture
def new_stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Order]:
    def made(kill_at: int) -> Order:
        path: Path = tmp_path_factory.mktemp("stores")
        order = Order(f"file://{path}/source", f"file://{path}/target", kill_at)
        with GCSSaver.from_conn_string(order.source) as source, GCSSaver.from_conn_string(order.target) as target:
            begin(source, target)
        return order

    return made


def received(pipe: Connection) -> Iterator[int]:
    """The marks that a process has reported before it ended."""
    with suppress(EOFError):
        while pipe.poll():
            yield pipe.recv()


def _lost(order: Order) -> bool:
    """Whether the process was killed before it ended by itself."""
    with process(work, order) as (worker, pipe):
        worker.join(PATIENCE)
        assert worker.exitcode in {0, -signal.SIGKILL}
        is_killed = worker.exitcode != 0
        marks = list(received(pipe))
    check(order, marks)
    return is_killed


def test_the_target_is_whole_wherever_the_source_is_killed(new_stores: Callable[[int], Order]) -> None:
    assert _lost(new_stores(351))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_500_random_kills(new_stores: Callable[[int], Order], seed: int) -> None:
    chance = random.Random(seed)
    killed = [_lost(new_stores(chance.randint(1, MOST_EFFECTS))) for _ in range(50)]
    assert sum(killed) > 40
