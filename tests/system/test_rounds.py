"""How often a call waits for a service: rounds one after another, and requests in all."""

import asyncio

import pytest

from langgraph_gcs_saver.effects import (
    Commit,
    DeleteBlobs,
    EnsureBucket,
    Gather,
    GetBlob,
    GetDocs,
    ListBlobs,
    PutBlob,
    QueryDocs,
)
from tests.system.build import DEFAULT, cfg, checkpoint, noise, number, put, values, version

REMOTE = GetDocs | QueryDocs | Commit | PutBlob | GetBlob | ListBlobs | DeleteBlobs | EnsureBucket


class Counting:
    """Stands between a saver and its backend, and counts what goes to a service.

    Attributes:
        rounds: The requests of each round, in order.
    """

    def __init__(self, saver):
        self._backend = saver._backend
        saver._backend = self
        self.rounds = []

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def _count(self, effect):
        leaves = [
            one for one in (effect.effects if isinstance(effect, Gather) else (effect,)) if isinstance(one, REMOTE)
        ]
        if leaves:
            self.rounds.append([type(leaf).__name__ for leaf in leaves])

    def perform(self, effect):
        self._count(effect)
        return self._backend.perform(effect)

    async def aperform(self, effect):
        self._count(effect)
        return await self._backend.aperform(effect)

    def take(self):
        """Rounds and requests since the last time."""
        rounds, self.rounds = self.rounds, []
        return len(rounds), sum(map(len, rounds))


@pytest.fixture
def counted(saver):
    return saver, Counting(saver)


@pytest.fixture
def cold(make_saver):
    def make():
        saver = make_saver()
        return saver, Counting(saver)

    return make


def step(n, **state):
    """A small step: the state of a chat after `n` messages."""
    return {"messages": [f"message {k}" for k in range(n)], "n": n, **state}


def test_put_of_a_small_step(counted):
    saver, count = counted
    put(saver, 1, step(1, kept="kept"))
    assert count.take() == (1, 1)
    for n in range(2, 6):
        put(
            saver, n, step(n, kept="kept"), parent=n - 1, changed={"messages", "n"}, metadata={"run_id": f"run {n % 2}"}
        )
        assert count.take() == (1, 1)
    put(saver, 9, step(9, kept="kept"), parent=3, changed={"n"})  # a fork
    assert count.take() == (1, 1)


def test_put_with_a_frame_in_cloud_storage(counted):
    saver, count = counted
    put(saver, 1, step(1))
    count.take()
    put(saver, 2, step(2, large=noise(20_000)), parent=1)
    assert count.take() == (2, 2)
    put(saver, 3, step(3, large=noise(20_000, 3), other=noise(20_000, 4)), parent=2)
    assert count.take() == (2, 3)
    # Neither a value that stays nor an equal one is stored again.
    put(saver, 4, step(4, large=noise(20_000, 3), other=noise(20_000, 4)), parent=3, changed={"messages", "n", "other"})
    assert count.take() == (1, 1)


def test_put_on_a_cold_saver(counted, cold):
    put(counted[0], 1, step(1, kept="kept"))
    saver, count = cold()
    put(saver, 2, step(2, kept="kept"), parent=1, changed={"messages", "n"})
    assert count.take() == (2, 2)
    # After a read it is warm.
    saver, count = cold()
    saver.get_tuple(cfg())
    count.take()
    put(saver, 3, step(3, kept="kept"), parent=2, changed={"messages", "n"})
    assert count.take() == (1, 1)


def test_put_writes(counted):
    saver, count = counted
    saver.put_writes(cfg(1), [("a", 1), ("b", [2])], "task")
    assert count.take() == (1, 1)
    saver.put_writes(cfg(1), [("a", 1), ("__interrupt__", ["?"]), ("__error__", "!")], "task")
    assert count.take() == (1, 1)
    saver.put_writes(cfg(1), [], "task")
    assert count.take() == (0, 0)


def test_get_tuple(counted, cold):
    saver, count = counted
    put(saver, 1, step(1))
    put(saver, 2, step(2), parent=1)
    saver.put_writes(cfg(2), [("a", 1)], "task")
    count.take()
    for reader, counts in (cold(), counted):
        found = reader.get_tuple(cfg())
        assert counts.take() == (2, 2)
        assert (number(found), len(found.pending_writes)) == (2, 1)
        found = reader.get_tuple(cfg(2))
        assert counts.take() == (1, 2)
        assert (number(found), len(found.pending_writes)) == (2, 1)
    reader, counts = cold()
    assert values(reader.get_tuple(cfg(1))) == step(1)
    assert counts.take() == (1, 2)
    assert reader.get_tuple(cfg(thread="nobody")) is None
    assert counts.take() == (1, 1)


def test_get_tuple_with_frames_elsewhere(counted, cold):
    """Frames of any number of ancestors, and objects, are one more round: all at the same time."""
    saver, _ = counted
    state = {f"c{n}": n for n in range(1, 9)} | {"large": noise(20_000), "huge": noise(30_000)}
    put(saver, 1, state)
    for n in range(2, 9):
        state[f"c{n}"] = f"changed in {n}"
        put(saver, n, state, parent=n - 1, changed={f"c{n}"})
    reader, count = cold()
    assert values(reader.get_tuple(cfg(8))) == state
    # The document and its writes; then the documents of seven ancestors at once, and two objects.
    assert count.take() == (2, 5)
    assert values(reader.get_tuple(cfg())) == state
    rounds, requests = count.take()
    assert rounds == 2
    assert 2 <= requests <= 5  # fewer when frames are in a cache


def test_list_of_50(counted, cold):
    saver, _ = counted
    for n in range(1, 61):
        put(saver, n, step(n, kept="kept"), parent=n - 1 or None, changed=None if n == 1 else {"messages", "n"})
        saver.put_writes(cfg(n), [("a", n)], "task")
    reader, count = cold()
    found = list(reader.list(cfg(), limit=50))
    rounds, requests = count.take()
    assert rounds == 2
    assert requests <= 3
    assert [number(one) for one in found] == list(range(60, 10, -1))
    assert all(one.pending_writes == [("task", "a", number(one))] for one in found)
    assert len(list(reader.list(cfg()))) == 60
    assert count.take()[0] == 4  # two pages


def test_the_asynchronous_half_is_the_same(counted, cold):
    async def main():
        saver, count = counted
        for n in (1, 2):
            first = checkpoint(n, step(n))
            await saver.aput(cfg(n - 1 or None), first, DEFAULT, {"messages": version(n), "n": version(n)})
            assert count.take() == (1, 1)
        await saver.aput_writes(cfg(2), [("a", 1)], "task")
        assert count.take() == (1, 1)
        large = checkpoint(3, {"large": noise(20_000)})
        await saver.aput(cfg(2), large, DEFAULT, large["channel_versions"])
        assert count.take() == (2, 2)
        reader, counts = cold()
        await reader.aget_tuple(cfg(2))
        assert counts.take() == (1, 2)
        await reader.aget_tuple(cfg())
        assert counts.take() == (2, 3)
        assert len([found async for found in reader.alist(cfg(), limit=50)]) == 3
        assert counts.take()[0] == 2
        await saver.aclose()

    asyncio.run(main())
