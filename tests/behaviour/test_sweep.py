"""sweep: idle threads are deleted as a whole, and threads in use stay as a whole."""

import itertools
import logging
import random
import time
from datetime import timedelta

import pytest

from langgraph_gcs_saver.engine.effects import Commit, DeleteBlobs, Merge
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.flows import holds
from langgraph_gcs_saver.flows import sweep as sweeping
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import Hold
from tests.behaviour.api import Api, cfg, checkpoint, cid, metadata, number, version
from tests.kit.interceptors import Later, Meanwhile
from tests.system.raw import open_raw

HOUR = 3600
LONG = "long thread id, " * 20


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


def put(saver, thread, n, ns=""):
    values = {"small": n, "large": random.Random(n).randbytes(25_000)}
    versions = dict.fromkeys(values, version(n))
    config = cfg(thread, ns, n - 1 or None)
    saver.put(config, checkpoint(n, values, versions), metadata(step=n, run_id="run"), versions)
    saver.put_writes(cfg(thread, ns, n), [("small", n)], "task")


@pytest.fixture
def later(make_saver):
    """Makes savers whose clock is a given number of hours ahead."""

    def make(hours, *others, **options):
        return make_saver(interceptors=[Later(hours * HOUR), *others], **options)

    return make


def hold(saver, thread, by):
    assert run(holds.hold(thread, cid(1), by.key, saver._context), saver._backend)


def threads(saver):
    return {one.config["configurable"]["thread_id"] for one in saver.list(None)}


async def sweep(saver, mode):
    return await saver.admin.asweep() if mode == "async" else saver.admin.sweep()


async def call(saver, mode, name, *args):
    return await Api(saver, mode)._call(name, *args)


async def planned(saver, mode):
    found = saver.admin.plan_sweep()
    return [one async for one in found] if mode == "async" else list(found)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_idle_threads_go(make_saver, later, raw, mode, monkeypatch):
    monkeypatch.setattr(sweeping, "THREADS_PER_PAGE", 2)
    saver = make_saver()
    names = ["", "a", "b", "c/d", LONG]
    for thread in names:
        put(saver, thread, 1)
        put(saver, thread, 2, ns="sub:1")
    ttl = timedelta(hours=2)
    assert await sweep(make_saver(ttl=ttl), mode) == []
    assert await sweep(later(1.9, ttl=ttl), mode) == []
    assert threads(saver) == set(names)

    before = raw.snapshot()
    idle = await planned(later(2.1, ttl=ttl), mode)
    assert {thread.thread_id for thread in idle} == set(names)
    assert all(timedelta(hours=2) < thread.idle < timedelta(hours=2.2) for thread in idle)
    assert "not used for 2:06:" in str(idle[0])
    assert raw.snapshot() == before

    assert len(await sweep(later(2.1, ttl=ttl), mode)) == len(names)
    assert raw.counts() == {"objects": 0}
    assert await sweep(later(2.1, ttl=ttl), mode) == []


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_only_some_threads(make_saver, later, mode):
    saver = make_saver()
    for thread in ("a", "b", LONG):
        put(saver, thread, 1)
    sweeper = later(3, ttl=timedelta(hours=2))
    idle = {one.thread_id: one for one in await planned(sweeper, mode)}
    assert idle.keys() == {"a", "b", LONG}
    assert threads(saver) == {"a", "b", LONG}
    later(1).admin.pin(cfg("b", n=1), "in use")
    done = [await call(sweeper, mode, "carry_out", idle[name]) for name in ("a", "b", LONG)]
    assert done == [idle["a"], None, idle[LONG]], "one was used since"
    assert threads(saver) == {"b"}


def test_a_pinned_checkpoint_keeps_its_thread(make_saver, later):
    saver = make_saver()
    for thread in ("pinned", "free"):
        put(saver, thread, 1)
        put(saver, thread, 2)
    saver.admin.pin(cfg("pinned", n=1), "evidence")
    assert [t.thread_id for t in later(2, ttl=timedelta(hours=1)).admin.sweep()] == ["free"]
    assert [number(one) for one in saver.list(cfg("pinned"))] == [2, 1]
    saver.admin.unpin(cfg("pinned", n=1))
    # To unpin is not to use the thread.
    assert [t.thread_id for t in later(2, ttl=timedelta(hours=1)).admin.sweep()] == ["pinned"]


@pytest.mark.parametrize("by", [Hold("set", "T", "s"), Hold("savepoint", "saga", "start")], ids=lambda by: by.kind)
def test_a_held_checkpoint_keeps_its_thread(make_saver, later, by):
    saver = make_saver()
    for thread in ("held", "free"):
        put(saver, thread, 1)
        put(saver, thread, 2)
    hold(saver, "held", by)
    assert [t.thread_id for t in later(2, ttl=timedelta(hours=1)).admin.sweep()] == ["free"]
    assert [number(one) for one in saver.list(cfg("held"))] == [2, 1]
    run(holds.unhold("held", cid(1), by.key, saver._context), saver._backend)
    assert [t.thread_id for t in later(2, ttl=timedelta(hours=1)).admin.sweep()] == ["held"]


@pytest.mark.parametrize("use", ["put", "pin", "hold"])
def test_a_thread_that_is_used_meanwhile_stays(make_saver, later, monkeypatch, use):
    """A checkpoint, a pin or a hold comes between the sweep's read of the thread and its deletion."""
    saver, other = make_saver(), later(2)
    put(saver, "t", 1)
    now = time.time()

    def act():
        monkeypatch.setattr(time, "time", lambda: now + 2 * HOUR)
        if use == "pin":
            other.admin.pin(cfg("t", n=1), "needed")
        elif use == "hold":
            hold(other, "t", Hold("savepoint", "saga", "start"))
        else:
            other.put(cfg("t", n=1), checkpoint(2, {"x": 1}), metadata(step=2), {"x": version(2)})

    # The first write of the deletion is its mark.
    meanwhile = Meanwhile(Commit, act)
    sweeper = later(2, meanwhile, ttl=timedelta(hours=1))
    assert sweeper.admin.sweep() == []
    assert meanwhile.is_done
    assert [number(one) for one in make_saver().list(cfg())] == ([2, 1] if use == "put" else [1])


def test_what_a_dead_deletion_left_goes(make_saver, later, raw):
    saver = make_saver()
    put(saver, "t", 1)

    def die():
        raise KeyboardInterrupt

    dying = make_saver(interceptors=[Meanwhile(DeleteBlobs, die)])
    with pytest.raises(KeyboardInterrupt):
        dying.delete_thread("t")
    assert raw.counts()["objects"] == 1
    assert [t.thread_id for t in later(2, ttl=timedelta(hours=1)).admin.sweep()] == ["t"]
    assert raw.counts() == {"objects": 0}


def test_without_a_time_to_live(make_saver):
    with pytest.raises(InvalidOptionError, match="ttl"):
        make_saver().admin.sweep()


def test_a_thread_that_is_written_all_the_time_does_not_stop_the_others(make_saver, later):
    """The deletion gives up with an event, and what comes after it is swept."""
    events = []
    saver = make_saver()
    for thread in ("a", "b"):
        put(saver, thread, 1)
    taking = TakingOver(make_saver(), "a")
    sweeper = later(2, taking, ttl=timedelta(hours=1), on_event=events.append)
    assert [t.thread_id for t in sweeper.admin.sweep()] == ["b"]
    assert [(type(e).__name__, e.thread_id) for e in events if e.level >= logging.WARNING] == [("ThreadSkipped", "a")]
    assert threads(saver) == {"a"}


class TakingOver(Interceptor):
    """Has a writer put a checkpoint after each mark of a thread's deletion, as if the deletion had crashed."""

    def __init__(self, writer, thread):
        self.writer, self.thread = writer, thread
        self.numbers = itertools.count(2)

    def around(self, effect, perform):
        result = perform(effect)
        if isinstance(effect, Commit) and any(self._is_mark(write) for write in effect.writes):
            name, n = keys.thread_doc(self.thread), next(self.numbers)
            self.writer._backend.perform(Commit((Merge(name, {}, remove=("deleting",)),)))
            self.writer.put(cfg(self.thread), checkpoint(n, {"x": n}), metadata(step=n), {"x": version(n)})
        return result

    def _is_mark(self, write):
        return write.name == keys.thread_doc(self.thread) and "deleting" in getattr(write, "fields", {})
