"""How often a call waits for a service: rounds one after another, and requests in all."""

import asyncio

import pytest

from langgraph_gcs_saver.options import Options
from tests.kit.interceptors import Rounds
from tests.system.build import DEFAULT, cfg, checkpoint, noise, number, put, values, version


@pytest.fixture
def cold(make_saver):
    """Makes savers that do not read back, each with its own caches, on a store that has been written to."""
    make_saver().delete_thread("nobody")

    def make(verify="off"):
        count = Rounds()
        return make_saver(verify=verify, interceptors=[count]), count

    return make


@pytest.fixture
def warm(cold):
    """Makes savers of processes that have read something, as a graph does before it writes."""

    def make(verify="off"):
        saver, count = cold(verify)
        saver.get_tuple(cfg(thread="nobody"))
        count.take()
        return saver, count

    return make


@pytest.fixture
def counted(warm):
    return warm()


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


# What each mode of `verify` costs


MODES = ("off", "checksum", "readback")


def read_back(verify, rounds, requests, *, objects=0):
    """What a call takes in a mode; reading back adds one round for documents and objects, all at once."""
    return (rounds + 1, requests + 1 + objects) if verify == "readback" else (rounds, requests)


def test_the_default_reads_back(warm):
    saver, count = warm("readback")
    put(saver, 1, step(1))
    assert count.rounds == [("Commit",), ("GetDocs",)]
    assert count.take() == (2, 2)


@pytest.mark.parametrize("verify", MODES)
def test_a_step_that_fits_in_documents(verify, warm):
    """A single round, and one more to read it back."""
    saver, count = warm(verify)
    put(saver, 1, step(1, kept="kept"))
    assert count.take() == read_back(verify, 1, 1)
    for n in range(2, 6):
        put(saver, n, step(n, kept="kept"), parent=n - 1, changed={"messages", "n"}, metadata={"run_id": "r"})
        assert count.take() == read_back(verify, 1, 1)
    saver.put_writes(cfg(5), [("a", 1), ("b", [2])], "task")
    assert count.take() == read_back(verify, 1, 1)
    saver.put_writes(cfg(5), [("a", 1), ("__interrupt__", ["?"]), ("__error__", "!")], "task")
    assert count.take() == read_back(verify, 1, 1)


@pytest.mark.parametrize("verify", MODES)
@pytest.mark.parametrize("objects", [1, 2, 5])
def test_a_step_with_objects(objects, verify, warm):
    """Two rounds, and one to read back: however many objects there are, they are written and read at the same time."""
    saver, count = warm(verify)
    put(saver, 1, step(1))
    count.take()
    large = {f"large {n}": noise(20_000, n) for n in range(objects)}
    put(saver, 2, step(2, **large), parent=1)
    taken = [sorted(names) for names in count.rounds]
    assert taken[:1] == [["PutBlob"] * objects]
    if verify == "readback":
        assert taken[1:] == [["Commit"], ["GetDocs"] + ["HashBlob"] * objects]
    else:
        assert taken[1:] == [["Commit"]]
    assert count.take() == read_back(verify, 2, objects + 1, objects=objects)


@pytest.mark.parametrize("verify", MODES)
def test_the_default_stores_100_kb_in_a_document(verify, make_saver):
    """The limit leaves room for the frame's own bytes, and for what a cipher adds."""
    count = Rounds()
    saver = make_saver(verify=verify, interceptors=[count], inline_max_bytes=Options().inline_max_bytes)
    put(saver, 1, step(1))
    count.take()
    put(saver, 2, step(2, large=noise(100_000), other=noise(100_000, 2)), parent=1)
    assert count.take() == read_back(verify, 1, 1)
    saver.put_writes(cfg(2), [("a", noise(100_000))], "task")
    assert count.take() == read_back(verify, 1, 1)
    put(saver, 3, step(3, large=noise(200_000)), parent=2)
    assert count.take() == read_back(verify, 2, 2, objects=1)


@pytest.mark.parametrize("verify", MODES)
def test_writes_with_objects(verify, warm):
    saver, count = warm(verify)
    saver.put_writes(cfg(1), [("a", 1)], "first")
    count.take()
    # The call creates the thread's document, because only that stops a deletion in between.
    saver.put_writes(cfg(1), [("a", noise(200_000)), ("__interrupt__", noise(200_000, 2))], "task")
    assert count.take() == read_back(verify, 4, 5, objects=2)
    saver.put_writes(cfg(1), [("a", noise(200_000))], "another")
    assert count.take() == read_back(verify, 3, 3, objects=1)


@pytest.mark.parametrize("verify", MODES)
def test_a_call_again_takes_what_it_takes_to_see_that_it_was_made(verify, warm):
    saver, count = warm(verify)
    put(saver, 1, step(1))
    saver.put_writes(cfg(1), [("a", 1)], "task")
    count.take()
    put(saver, 1, step(1))
    # The thread's guard, the commit that fails, and the read of the document: nothing was written.
    assert count.take() == (3, 3)
    saver.put_writes(cfg(1), [("a", 1)], "task")
    assert count.take() == (2, 2)


# Caches


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
    (reader, counts), both = cold(), (2, 2)
    for one, taken, rounds in ((reader, counts, 2), (reader, counts, 1), (saver, count, 1)):
        found = one.get_tuple(cfg())
        assert taken.take() == (rounds, 2)
        assert (number(found), len(found.pending_writes)) == (2, 1)
        found = one.get_tuple(cfg(2))
        assert taken.take() == (1, 2)
        assert (number(found), len(found.pending_writes)) == (2, 1)
    reader, counts = cold()
    assert values(reader.get_tuple(cfg(1))) == step(1)
    assert counts.take() == (1, 2)
    # It has seen only an older checkpoint.
    assert number(reader.get_tuple(cfg())) == 2
    assert counts.take() == both
    # No checkpoint is found. Then the thread's document shows that there never was one.
    assert reader.get_tuple(cfg(thread="nobody")) is None
    assert counts.take() == (2, 2)
    assert reader.get_tuple(cfg(thread="nobody", ns="a subgraph")) is None
    assert counts.take() == (1, 1)


def test_get_tuple_after_each_put_takes_one_round(counted):
    saver, count = counted
    for n in range(1, 5):
        put(saver, n, step(n, kept="kept"), parent=n - 1 or None, changed=None if n == 1 else {"messages", "n"})
        count.take()
        assert saver.get_tuple(cfg()).checkpoint["channel_values"] == step(n, kept="kept")
        # From the second checkpoint on, the frame of `kept` is in the first one's document.
        assert count.take() == (1, 2 if n == 1 else 3)
        saver.put_writes(cfg(n), [("a", n)], "task")
        count.take()
        assert saver.get_tuple(cfg()).pending_writes == [("task", "a", n)]
        assert count.take()[0] == 1


def test_get_tuple_when_another_process_has_moved_the_tip(counted, cold):
    """What was asked about another checkpoint is asked in vain, once: the next read expects nothing."""
    saver, _ = counted
    put(saver, 1, step(1))
    reader, count = cold()
    reader.get_tuple(cfg())
    for n in range(2, 4):
        put(saver, n, step(n), parent=n - 1)
        saver.put_writes(cfg(n), [("a", n)], "task")
        count.take()
        for taken in ((2, 3), (2, 2), (1, 2)):
            found = reader.get_tuple(cfg())
            assert (values(found), found.pending_writes) == (step(n), [("task", "a", n)])
            assert count.take() == taken
    saver.delete_thread("t")
    assert reader.get_tuple(cfg()) is None
    assert count.take() == (2, 3)
    assert reader.get_tuple(cfg()) is None
    assert count.take() == (2, 2)


def test_get_tuple_when_another_process_has_changed_the_tip(counted, cold):
    """The document of the tip is not as it was, so what was asked beside it does not count."""
    saver, _ = counted
    put(saver, 1, step(1))
    reader, count = cold()
    reader.get_tuple(cfg())
    put(saver, 1, step(5))
    count.take()
    for taken in ((2, 3), (1, 2)):
        assert values(reader.get_tuple(cfg())) == step(5)
        assert count.take() == taken


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
    for expected in (2, 1):
        assert values(reader.get_tuple(cfg())) == state
        rounds, requests = count.take()
        assert rounds == expected
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


@pytest.mark.parametrize("verify", MODES)
def test_the_asynchronous_half_is_the_same(verify, warm, cold):
    async def main():
        saver, count = warm(verify)
        for n in (1, 2):
            first = checkpoint(n, step(n))
            await saver.aput(cfg(n - 1 or None), first, DEFAULT, {"messages": version(n), "n": version(n)})
            assert count.take() == read_back(verify, 1, 1)
        await saver.aput_writes(cfg(2), [("a", 1)], "task")
        assert count.take() == read_back(verify, 1, 1)
        large = checkpoint(3, {"large": noise(20_000)})
        await saver.aput(cfg(2), large, DEFAULT, large["channel_versions"])
        assert count.take() == read_back(verify, 2, 2, objects=1)
        reader, counts = cold()
        await reader.aget_tuple(cfg(2))
        assert counts.take() == (1, 2)
        for taken in ((2, 3), (1, 2)):
            await reader.aget_tuple(cfg())
            assert counts.take() == taken
        assert len([found async for found in reader.alist(cfg(), limit=50)]) == 3
        assert counts.take()[0] == 2
        await saver.aclose()

    asyncio.run(main())


# Which bucket and prefix the store has


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_the_store_is_asked_for_its_place_once(cold):
    """In a round that is made anyway, unless a process begins with a write."""
    saver, count = cold()
    saver.get_tuple(cfg())
    assert (count.take(), count.rode) == ((2, 2), 1)
    put(saver, 1, step(1))
    assert (count.take(), count.rode) == ((1, 1), 1)
    reader, counts = cold()
    reader.get_tuple(cfg())
    assert (counts.take(), counts.rode) == ((2, 2), 1)
    reader.get_tuple(cfg())
    assert list(reader.list(cfg()))
    reader.put_writes(cfg(1), [("a", 1)], "task")
    assert counts.rode == 1
    writer, counts = cold()
    put(writer, 1, step(1), thread="another")
    assert (counts.rounds, counts.rode) == ([("GetDocs",), ("Commit",)], 0)
    # Reading a parent gives its values and the place.
    writer, counts = cold()
    put(writer, 2, step(2), parent=1, changed={"n"})
    assert (counts.rounds, counts.rode) == ([("GetDocs",), ("Commit",)], 1)


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_the_first_writer_of_a_store_names_its_place(make_saver):
    count = Rounds()
    saver = make_saver(verify="off", interceptors=[count])
    put(saver, 1, step(1))
    # The place, threads that may be older than it, objects of other stores, the place; then the checkpoint.
    assert count.rounds == [("GetDocs",), ("QueryDocs",), ("ListBlobs",), ("Commit",), ("Commit",)]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_the_embedded_store_is_asked_for_no_place(make_saver):
    count = Rounds()
    saver = make_saver(verify="off", interceptors=[count])
    put(saver, 1, step(1))
    assert (count.rounds, count.rode) == ([("Commit",)], 0)
