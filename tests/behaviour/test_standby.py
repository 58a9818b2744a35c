"""Workers of two regions: one waits while its store is not the primary, and one stops once its store is fenced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver, Recovery
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import Commit, Effect, GetDocs
from langgraph_gcs_saver.engine.interceptors import APerform, Interceptor, Perform
from langgraph_gcs_saver.flows import warm
from langgraph_gcs_saver.format import regions
from langgraph_gcs_saver.format.regions import ROLES, Role, RoleName
from langgraph_gcs_saver.saver import standby
from tests.behaviour.test_work import World, crash, fail, logs, recover
from tests.kit.interceptors import ROLE, Rounds
from tests.patience import PATIENCE, aeventually, eventually

OTHER = "file:///other"


class Looks(Interceptor):
    """Counts how often a role is looked at by itself."""

    def __init__(self) -> None:
        self.count = 0

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        self.count += effect == ROLE
        return perform(effect)

    async def aaround(self, effect: Effect[Any], perform: APerform) -> Any:
        self.count += effect == ROLE
        return await perform(effect)

    def more(self) -> None:
        """Wait until a worker has looked some times more."""
        before = self.count
        eventually(lambda: self.count > before + 3)


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def saver(looks: Looks) -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string("memory:", interceptors=[looks]) as saver:
        become(saver, "primary")
        yield saver


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(standby, "WARM_SECONDS", 0.0)


def become(saver: GCSSaver, name: RoleName) -> None:
    """Give the store a role, as `replicate` and `failover` do."""

    def change() -> Any:
        docs = yield from GetDocs(ROLES)
        epoch = max((regions.role_of(doc).epoch for doc in docs.values()), default=0) + 1
        return (yield from Commit(Role(epoch, name, OTHER).writes(docs)))

    assert runner.run(change(), saver._as_shipper) is not None


@contextmanager
def worker(saver: GCSSaver, graph: Any, **options: Any) -> Iterator[list[Recovery]]:
    """A worker on a thread of its own, until it has resumed as many threads as its limit says."""
    found: list[Recovery] = []

    def work() -> None:
        found.extend(saver.recover(graph, **{"every": 0.02, "backoff": 0, "limit": 1, **options}))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield found
    thread.join(PATIENCE)
    assert not thread.is_alive()


def crashed(saver: GCSSaver, world: World, *threads: str) -> Any:
    """A graph, and threads whose process has crashed in its second node."""
    graph = world.graph(saver)
    world.failing = {"b"}
    for thread_id in threads:
        fail(graph, thread_id)
        crash(saver, thread_id)
    world.failing = set()
    world.ran.clear()
    return graph


@pytest.mark.parametrize("role", ["replica", "fenced"])
def test_a_worker_waits_until_its_store_is_the_primary(saver, world, looks, role):
    graph = crashed(saver, world, "t")
    become(saver, role)
    with worker(saver, graph) as found:
        looks.more()
        assert world.ran == []
        become(saver, "primary")
    assert [(one.thread_id, one.outcome) for one in found] == [("t", "finished")]
    assert world.ran == ["b", "z"]


def test_so_does_one_on_an_event_loop(saver, world, looks):
    graph = crashed(saver, world, "t")
    become(saver, "replica")

    async def work() -> list[Recovery]:
        async def promote() -> None:
            await aeventually(lambda: looks.count > 3)
            assert world.ran == []
            become(saver, "primary")

        task = asyncio.create_task(promote())
        found = [one async for one in saver.recover(graph, every=0.02, backoff=0, limit=1)]
        await task
        return found

    assert [one.outcome for one in asyncio.run(asyncio.wait_for(work(), PATIENCE))] == ["finished"]
    assert world.ran == ["b", "z"]


def test_a_single_look_says_which_store_to_use(saver, world):
    graph = crashed(saver, world, "t")
    become(saver, "replica")
    with pytest.raises(e.NotPrimaryError, match=OTHER) as caught:
        recover(saver, graph)
    assert (caught.value.role, caught.value.other) == ("replica", OTHER)
    assert world.ran == []


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_worker_stops_when_its_store_is_fenced(saver, world, looks, durability):
    """The step under way stores nothing. The next threads are not begun, and all of them end once it may."""
    graph = crashed(saver, world, "t", "u")
    before = logs(graph, "t"), logs(graph, "u")

    def fence(name: str) -> None:
        world.act = lambda _: None
        become(saver, "fenced")

    world.act = fence
    with worker(saver, graph, durability=durability, limit=3, ttl=5) as found:
        eventually(lambda: found)
        assert [one.outcome for one in found] == ["paused"]
        assert (logs(graph, "t"), logs(graph, "u")) == before
        ran = list(world.ran)
        assert ran[0] == "b"
        assert ran.count("b") == 1, "the next thread was begun"
        looks.more()
        assert world.ran == ran
        become(saver, "primary")
    assert sorted(one.outcome for one in found) == ["finished", "finished", "paused"]
    assert logs(graph, "t") == logs(graph, "u") == ["in", "a", "b", "z"]


def test_a_worker_of_a_single_region_looks_for_a_role_at_most_once(world, looks):
    with GCSSaver.from_conn_string("memory:", interceptors=[looks]) as saver:
        graph = crashed(saver, world, "t", "u")
        with worker(saver, graph, limit=2) as found:
            pass
    assert [one.outcome for one in found] == ["finished"] * 2
    assert looks.count <= 1


# Tips that are read ahead


@pytest.fixture
def many(world: World) -> Iterator[tuple[GCSSaver, Any, Rounds]]:
    """A store with crashed threads, as a process finds it that has just started."""
    with GCSSaver.from_conn_string("memory:") as saver:
        crashed(saver, world, *(f"t{number}" for number in range(warm.AT_ONCE + 1)))
        count = Rounds()
        with GCSSaver(stores=(saver._backend.documents, saver._backend.blobs), interceptors=[count]) as fresh:
            yield fresh, world.graph(fresh), count


def test_the_tips_of_crashed_threads_are_read_together_before_they_are_resumed(many):
    saver, graph, count = many
    assert {one.outcome for one in recover(saver, graph)} == {"finished"}
    widest = [kinds.count("QueryDocs") for kinds in count.rounds]
    assert max(widest) == warm.AT_ONCE
    assert widest.count(warm.AT_ONCE) == 2, "their documents, and their pending writes"


def test_a_worker_that_waits_reads_the_tips_of_threads(many, monkeypatch):
    saver, graph, _ = many
    become(saver, "replica")
    monkeypatch.setattr(standby, "WARM_SECONDS", PATIENCE)
    with worker(saver, graph, limit=warm.AT_ONCE + 1) as found:
        eventually(lambda: len(saver._context.tips._entries) == warm.AT_ONCE + 1)
        assert found == []
        become(saver, "primary")
    assert {one.outcome for one in found} == {"finished"}
