"""collect: it deletes all orphans and nothing else, on every store."""

import logging
import random
from contextlib import suppress
from datetime import timedelta

import pytest

from langgraph_gcs_saver.engine.effects import Commit, CopyBlob, ListBlobs, Merge, PutBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version
from tests.system.raw import open_raw

NOW = timedelta(0)
LONG = "long thread id, " * 20


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


def noise(seed, size=20_000):
    return random.Random(f"noise {seed}").randbytes(size)


def fill(saver, thread="t", last=6):
    """Checkpoints with an object each, one that all share, and pending writes with objects."""
    for n in range(1, last + 1):
        values = {"shared": noise("shared"), "own": noise(n), "small": n}
        versions = {"shared": version(1), "own": version(n), "small": version(n)}
        new = {k: v for k, v in versions.items() if n == 1 or k != "shared"}
        saver.put(cfg(thread, n=n - 1 or None), checkpoint(n, values, versions), metadata(step=n), new)
        saver.put_writes(cfg(thread, n=n), [("own", noise(f"write {n}", 140_000)), ("small", n)], "task")


def everything(saver, thread="t"):
    return {number(one): (one.checkpoint, one.metadata, one.pending_writes) for one in saver.list(cfg(thread, None))}


def test_nothing_to_collect(make_saver, raw):
    saver = make_saver()
    assert saver.admin.collect() == []
    fill(saver)
    fill(saver, LONG)
    before = raw.snapshot()
    assert saver.admin.collect(orphan_age=NOW) == []
    assert saver.admin.collect("t", orphan_age=NOW) == []
    assert saver.admin.collect("nobody's", orphan_age=NOW) == []
    assert raw.snapshot() == before


@pytest.mark.parametrize("thread", ["t", LONG])
def test_objects_of_dead_attempts(make_saver, store_uri, raw, thread):
    saver = make_saver()
    fill(saver, thread)
    before, found = raw.snapshot(), everything(saver, thread)
    with CrashingSaver.from_conn_string(store_uri) as dying:
        dying.admin.checkpoint_ids(cfg(thread))
        # It crashes after it has read the thread and uploaded an object, which is then an orphan.
        dying.plan = Plan(stop_after=2)
        with pytest.raises(Crashed):
            dying.put_writes(cfg(thread, n=6), [("own", noise("dead", 200_000))], "other task")
    orphans = raw.objects().keys() - before[1].keys()
    assert len(orphans) == 1
    assert saver.admin.collect() == [], "it is too young"
    assert raw.objects().keys() == before[1].keys() | orphans

    plans = list(saver.admin.plan_collect(orphan_age=NOW))
    assert len(plans) == 1
    assert plans[0].thread_id == thread
    assert [name.rsplit("/", 1)[1] for name in plans[0].objects] == [name.rsplit("/", 1)[1] for name in orphans]
    assert sum(plans[0].objects.values()) == sum(len(raw.objects()[name]) for name in orphans)
    assert "1 objects" in str(plans[0])
    assert raw.objects().keys() == before[1].keys() | orphans

    assert saver.admin.carry_out(plans[0]) == plans[0]
    assert raw.snapshot() == before
    assert saver.admin.collect(orphan_age=NOW) == []
    assert everything(make_saver(), thread) == found


def test_what_a_dead_prune_left(make_saver, store_uri, raw):
    """Wherever prune crashed, collect completes it: what the rule keeps is whole, and nothing else is left.

    The emulators are slow, and get every eighth crash.
    """
    for stop in range(0, 40, 1 if store_uri.startswith("file:") else 8):
        saver = make_saver()
        thread = f"t{stop}"
        fill(saver, thread)
        kept = {n: one for n, one in everything(saver, thread).items() if n > 4}
        with CrashingSaver.from_conn_string(store_uri) as dying:
            dying.plan = Plan(stop_after=stop)
            with suppress(Crashed):
                dying.prune([thread], strategy=KeepLast(2))
            died = dying.plan.is_dead
        saver.admin.collect(thread, orphan_age=NOW)
        found = everything(make_saver(), thread)
        assert found.items() >= kept.items()
        if found.keys() == kept.keys():
            assert list(saver.admin.verify(thread, depth="data")) == []
            stored = {f"lg_threads/{keys.spread(thread)}/lg_writes"}
            writes = [name for name in raw.documents() if name.rsplit("/", 1)[0] in stored]
            assert len(writes) == len(kept)
        if not died:
            break
    else:
        pytest.fail("it did not come to its end")
    assert stop > 5


def test_writes_of_a_checkpoint_that_never_came(make_saver, raw):
    saver = make_saver()
    fill(saver)
    before = raw.snapshot()
    saver.put_writes(cfg(n=7), [("own", noise("early", 140_000))], "task")
    assert saver.admin.collect(orphan_age=NOW) == [], "the checkpoint may be on its way"
    saver.put(cfg(n=6), checkpoint(8, {}, {}), metadata(step=8), {})
    assert saver.admin.collect() == [], "they are too young"
    (plan,) = saver.admin.collect(orphan_age=NOW)
    assert (len(plan.writes), len(plan.objects)) == (1, 1)
    assert raw.objects() == before[1]
    assert len([name for name in raw.documents() if "/lg_writes/" in name]) == 6
    assert list(saver.admin.verify(depth="data")) == []


def test_what_was_set_aside_keeps_its_objects(make_saver, raw):
    saver = make_saver()
    fill(saver)
    name = keys.checkpoint_doc("t", "", cid(6))
    # The only value that no other checkpoint has, so the checkpoint cannot be repaired.
    (blob,) = [one for one in raw.objects() if f"/{cid(6)}/own-" in one]
    raw.set_object(blob, b"something else")
    saver.admin.repair("t")
    assert name in [fields["from"] for one, fields in raw.documents().items() if "/lg_aside/" in one]
    before = raw.snapshot()
    assert saver.admin.collect(orphan_age=NOW) == []
    assert raw.snapshot() == before
    saver.delete_thread("t")
    assert raw.counts() == {"objects": 0}


def test_a_damaged_thread_is_left_alone(make_saver, raw):
    events = []
    saver = make_saver(on_event=events.append)
    fill(saver, "damaged")
    fill(saver, "whole")
    name = keys.checkpoint_doc("damaged", "", cid(3))
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, "manifest": fields["manifest"][:-1]})
    orphan = f"{keys.thread_blobs('{}')}~/orphan/x-0123456789.zst"
    for thread in ("damaged", "whole"):
        _upload(saver, orphan.replace(keys.spread("{}"), keys.spread(thread)))
    objects = raw.objects().keys()
    events.clear()
    plans = {plan.thread_id: plan for plan in saver.admin.collect(orphan_age=NOW)}
    assert plans.keys() == {"damaged", "whole"}
    assert "repair" in plans["damaged"].skipped.lower()
    assert plans["whole"].skipped is None
    assert {name for name in objects - raw.objects().keys() if "orphan" in name} == objects - raw.objects().keys()
    assert len(objects - raw.objects().keys()) == 1
    assert [(type(event).__name__, event.thread_id) for event in events if event.level >= logging.WARNING] == [
        ("ThreadSkipped", "damaged")
    ]


def test_objects_of_a_copy_that_died_stay(make_saver, store_uri, raw):
    """The copy is resumed, and does not copy these objects again."""
    saver = make_saver()
    fill(saver)
    with CrashingSaver.from_conn_string(store_uri) as dying:
        dying.copy_thread("t", "whole")
        copied = [n for n, effect in enumerate(dying.plan.done, 1) if isinstance(effect, CopyBlob)]
        dying.plan = Plan(stop_after=copied[-1])
        with pytest.raises(Crashed):
            dying.copy_thread("t", "copy")
    before = raw.objects().keys()
    assert any(keys.spread("copy") in name for name in before)
    assert saver.admin.collect(orphan_age=NOW) == []
    assert raw.objects().keys() == before
    saver.copy_thread("t", "copy")
    assert everything(make_saver(), "copy") == everything(saver)
    assert saver.admin.collect(orphan_age=NOW) == []
    assert list(saver.admin.verify("copy", depth="data")) == []


def test_objects_of_a_thread_without_documents(make_saver, raw):
    saver = make_saver()
    fill(saver)
    _upload(saver, f"{keys.thread_blobs('gone')}~/x/x-0123456789.zst")
    before = raw.objects().keys()
    (plan,) = saver.admin.collect(orphan_age=NOW)
    assert (plan.thread_id, len(plan.objects)) == ("gone", 1)
    assert len(before - raw.objects().keys()) == 1


def _upload(saver, name):
    saver._backend.perform(PutBlob(name, b"nothing refers to it"))


@pytest.mark.parametrize("age", [-timedelta(seconds=1), 5, None])
def test_ages_that_are_none(make_saver, age):
    with pytest.raises(InvalidOptionError, match="orphan_age"):
        make_saver().admin.collect("t", orphan_age=age)


async def test_the_asynchronous_twin(make_saver, raw):
    saver = make_saver()
    fill(saver)
    before = raw.snapshot()
    _upload(saver, f"{keys.thread_blobs('t')}~/x/x-0123456789.zst")
    assert await saver.admin.acollect() == []
    (plan,) = await saver.admin.acollect("t", orphan_age=NOW)
    assert len(plan.objects) == 1
    assert raw.snapshot() == before
    assert await saver.admin.acollect(orphan_age=NOW) == []


class OnceListed(Interceptor):
    """Calls something once, after a listing of objects has ended."""

    def __init__(self, call):
        self.call, self.is_done = call, False

    def around(self, effect, perform):
        found = perform(effect)
        if isinstance(effect, ListBlobs) and not found and not self.is_done:
            self.is_done = True
            self.call()
        return found


def test_a_writer_commits_between_the_listing_and_the_snapshot(make_saver, raw):
    """What was listed as an old object, and is referred to by then, stays."""
    fill(make_saver())
    other = make_saver()

    def act():
        other.put(cfg(n=6), checkpoint(7, {"late": noise("late")}), metadata(step=7), {"late": version(7)})

    once = OnceListed(act)
    saver = make_saver(interceptors=[once])
    assert saver.admin.collect("t", orphan_age=NOW) == []
    assert once.is_done
    assert everything(make_saver())[7][0]["channel_values"] == {"late": noise("late")}
    assert list(saver.admin.verify(depth="data")) == []


def test_other_programs_documents_stay(make_saver, raw):
    """A document that is not a checkpoint's must not cause any deletion."""
    saver = make_saver()
    fill(saver)
    saver._backend.perform(Commit((Merge(keys.thread_doc("t"), {"owner": "another program"}),)))
    before = raw.snapshot()
    assert saver.admin.collect(orphan_age=NOW) == []
    assert raw.snapshot() == before
