"""A listing of a whole store of thousands of threads: complete, in order, page by page, in bounded memory."""

import gc
import itertools
import tracemalloc

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.flows import context
from langgraph_gcs_saver.format import keys
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version

KIB = 1 << 10
MIB = 1 << 20

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


def name_of(n):
    """Ids of all kinds: plain, with other characters, too long for a name."""
    return (f"thread-{n}", f"{n}/ü: _%", f"{n} long " * 40)[n % 3]


def fill(saver, count):
    """Threads with a checkpoint each, every tenth with two and a subgraph's; the places of all of them."""
    places = []
    for n in range(count):
        thread = name_of(n)
        rows = [("", 1), ("", 2), ("sub", 1)] if n % 10 == 0 else [("", 1)]
        for ns, step in rows:
            values = {"v": [n, step], "text": f"{n} " * 200}
            versions = dict.fromkeys(values, version(step))
            given = checkpoint(step, values, versions)
            saver.put(cfg(thread, ns, step - 1 or None), given, metadata(step=step, odd=n % 2), versions)
            places.append((thread, ns, step))
    return places


def in_order(places):
    """Thread by thread, in each as a thread is listed: the newest first."""
    return sorted(places, key=lambda one: (keys.spread(one[0]), -one[2], keys.enc(one[1])))


def place(found):
    where = found.config["configurable"]
    return where["thread_id"], where["checkpoint_ns"], number(found)


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.soak)])
def test_a_listing_of_all_threads(make_saver, store_uri, monkeypatch, count):
    with make_saver() as saver:
        places = fill(saver, count)
    expected = in_order(places)
    monkeypatch.setattr(context, "_HEADS_BYTES", 256 * KIB)
    with GCSSaver.from_conn_string(store_uri, cache_max_bytes=256 * KIB) as saver:
        tracemalloc.start()
        try:
            held, found = [], []
            for one in saver.list(None):
                found.append(place(one))
                assert one.checkpoint["channel_values"]["v"][1] == number(one)
                if len(found) % (len(expected) // 10) == 0:
                    gc.collect()
                    held.append(tracemalloc.get_traced_memory()[0] - 500 * len(found))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found == expected
        # Nothing but caches is kept from page to page, and what this test notes.
        assert max(held) < 2 * MIB, held
        assert peak < 8 * MIB + 500 * len(found)

        with_filter = [place(one) for one in saver.list(None, filter={"odd": 1})]
        odd = {name_of(n) for n in range(1, count, 2)}
        assert with_filter == [one for one in expected if one[0] in odd]
        for limit in (1, 49, 50, 51, len(expected), len(expected) + 1):
            assert [place(one) for one in saver.list(None, limit=limit)] == expected[:limit]
        first = list(itertools.islice(saver.list(None), 3))
        assert [place(one) for one in first] == expected[:3]
        older = [place(one) for one in saver.list(None, before={"configurable": {"checkpoint_id": cid(2)}})]
        assert older == [one for one in expected if one[2] < 2]

        listed = saver.admin.threads()
        assert sorted(one.thread_id for one in listed) == sorted({thread for thread, _, _ in places})
        assert sum(one.checkpoints for one in listed) == len(expected)
        assert [one.thread_id for one in saver.admin.threads(limit=7)] == [one.thread_id for one in listed[:7]]


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.soak)])
async def test_it_holds_while_threads_come_and_go(make_saver, count):
    """Threads that exist from the beginning to the end are listed once, and in order, whatever others do meanwhile."""
    saver, other = make_saver(), make_saver()
    places = fill(saver, count)
    going = {name_of(n) for n in range(5, count, 7)}
    staying = [one for one in in_order(places) if one[0] not in going]
    left, found = sorted(going), []
    async for one in saver.alist(None):
        found.append(place(one))
        if len(found) % 5 == 0 and left:
            await other.adelete_thread(left.pop())
            new = f"new {len(found)}"
            await other.aput(cfg(new), checkpoint(1, {"v": [0, 1]}), metadata(step=1), {"v": version(1)})
    assert [one for one in found if one in set(staying)] == staying
    assert len(found) == len(set(found))
    assert {one[0] for one in found} - {one[0] for one in places} <= {f"new {n}" for n in range(len(found))}
    await saver.aclose()
    await other.aclose()
