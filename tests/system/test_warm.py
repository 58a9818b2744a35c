"""`warm`: the tips of threads are read before they are needed."""

import asyncio

import pytest

from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.events import CheckpointRecovered, ThreadSkipped
from langgraph_gcs_saver.flows.warm import AT_ONCE
from langgraph_gcs_saver.format import keys
from tests.kit.interceptors import Rounds
from tests.system.build import cfg, cid, noise, put, values

LARGE = {"large": noise(20_000), "other": noise(20_000, 1), "small": 1}


@pytest.fixture
def fill(make_saver):
    """Stores the same two checkpoints in some threads, with two objects each."""

    def fill(*threads):
        saver = make_saver()
        for thread in threads:
            put(saver, 1, {"small": 0}, thread=thread)
            put(saver, 2, LARGE, parent=1, thread=thread)
            saver.put_writes(cfg(2, thread=thread), [("small", 2)], "task")
        return saver

    return fill


@pytest.fixture
def counted(make_saver):
    count = Rounds()
    return make_saver(verify="off", interceptors=[count]), count


def test_a_warm_read_takes_one_round_and_no_object(fill, counted):
    fill("a", "b")
    saver, count = counted
    found = saver.warm(["a", "b", "a", "empty"])
    assert [(one.thread_id, one.checkpoint_id, one.error) for one in found] == [
        *(("a", cid(2), None), ("b", cid(2), None)),
        ("empty", None, None),
    ]
    assert found[0].bytes > 40_000
    # The threads are read at the same time: documents; what is elsewhere; whether a child of them is missing.
    assert count.rounds[0].count("QueryDocs") == 3
    assert sorted(count.rounds[1]) == ["GetBlob"] * 4 + ["GetDocs"] + ["QueryDocs"] * 2
    assert len(count.rounds) == 2
    count.take()
    for thread in ("a", "b"):
        loaded = saver.get_tuple(cfg(thread=thread))
        assert (values(loaded), loaded.pending_writes) == (LARGE, [("task", "small", 2)])
        assert count.rounds == [("QueryDocs", "QueryDocs")]
        count.take()


def test_a_put_after_it_needs_no_read(fill, counted):
    fill("a")
    saver, count = counted
    saver.warm(["a"])
    count.take()
    put(saver, 3, {**LARGE, "small": 3}, parent=2, thread="a", changed={"small"})
    assert count.rounds == [("Commit",)]
    assert values(saver.get_tuple(cfg(thread="a"))) == {**LARGE, "small": 3}


def test_a_tip_that_is_not_the_newest_any_more_is_not_returned(fill, counted):
    writer = fill("a")
    saver, _ = counted
    saver.warm(["a"])
    put(writer, 3, {"small": 3}, parent=2, thread="a")
    assert values(saver.get_tuple(cfg(thread="a"))) == {"small": 3}


def test_many_threads_are_read_some_at_a_time(make_saver, counted):
    writer, wanted = make_saver(), [f"t{number}" for number in range(AT_ONCE + 1)]
    for thread in wanted:
        put(writer, 1, {"small": 0}, thread=thread)
    saver, count = counted
    found = asyncio.run(saver.awarm(iter(wanted)))
    assert [one.thread_id for one in found] == wanted
    assert all(one.checkpoint_id == cid(1) for one in found)
    assert max(kinds.count("QueryDocs") for kinds in count.rounds) == AT_ONCE


@pytest.mark.parametrize("on_corruption", ["fallback", "raise"])
def test_a_damaged_thread_does_not_stop_the_others(fill, make_saver, raw, on_corruption):
    fill("a", "b")
    raw.delete_document(keys.checkpoint_doc("a", "", cid(2)))
    events = []
    saver = make_saver(on_corruption=on_corruption, on_event=events.append)
    damaged, whole = saver.warm(["a", "b"])
    assert (damaged.checkpoint_id, damaged.bytes, whole.checkpoint_id, whole.error) == (None, 0, cid(2), None)
    assert "missing" in damaged.error
    assert "skipped" in str(damaged)
    assert [one.thread_id for one in events if isinstance(one, ThreadSkipped)] == ["a"]
    # It has not stood in for another read, so nothing was recovered.
    assert not [one for one in events if isinstance(one, CheckpointRecovered)]


def test_what_is_no_list_of_ids_is_refused(make_saver):
    saver = make_saver()
    with pytest.raises(e.InvalidInputError, match="'thread-1'"):
        saver.warm("thread-1")
    with pytest.raises(e.InvalidIdError):
        saver.warm(["fine", "\ud800"])
    with pytest.raises(e.InvalidConfigError):
        saver.warm([None])
    assert saver.warm([]) == []
    assert [one.thread_id for one in saver.warm([17])] == ["17"]
