"""A missing checkpoint that later DeltaChannels are made of: nothing is deleted that its backup would need."""

import random
from datetime import timedelta

import pytest

from langgraph_gcs_saver.errors import CheckpointCorruptError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.kit.interceptors import Seen
from tests.system.build import DEFAULT, cfg, checkpoint, cid, version

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
NOW = timedelta(0)
MIDDLE = keys.checkpoint_doc("t", "", cid(2))


def put(saver, n, values, *, log, thread="t", run="run"):
    """A checkpoint with a DeltaChannel `log` of that version. It has a snapshot if `log` is in `values`."""
    versions = {channel: version(n) for channel in values}
    counted = {} if "log" in values or log is None else {"counters_since_delta_snapshot": {"log": [n, n]}}
    every = versions if log is None else {**versions, "log": version(log)}
    config = cfg(n - 1 or None, thread=thread)
    saver.put(config, checkpoint(n, values, every), {**DEFAULT, "step": n, "run_id": run, **counted}, versions)
    saver.put_writes(cfg(n, thread=thread), [("log", [f"write {n}"])], f"task {n}")


def noise(seed):
    return random.Random(seed).randbytes(20_000)


def fill(saver, thread="t"):
    put(saver, 1, {"log": ["seed"], "v": 1}, log=1, thread=thread)
    put(saver, 2, {"v": noise("object")}, log=2, thread=thread, run="second")
    put(saver, 3, {"v": 3}, log=3, thread=thread)
    put(saver, 4, {"v": 4}, log=4, thread=thread)


def history(saver, n):
    found = saver.get_delta_channel_history(config=cfg(n), channels=["log"])["log"]
    return found.get("seed"), [value for _, _, value in found["writes"]]


WHOLE = (["seed"], [["write 1"], ["write 2"], ["write 3"]])


@pytest.mark.parametrize("depth", ["metadata", "existence", "data"])
def test_verify_tells_of_it(make_saver, raw, depth):
    saver = make_saver()
    fill(saver)
    raw.delete_document(MIDDLE)
    (finding,) = [one for one in saver.admin.verify("t", depth=depth) if one.is_damage]
    assert (finding.kind, finding.name, finding.checkpoint_id) == ("missing", MIDDLE, cid(2))
    assert finding.affects == (cid(4), cid(3))
    plan = saver.admin.repair("t")[0]
    assert [(step.action, step.name) for step in plan.steps] == [("leave", MIDDLE)]


def test_verify_asks_no_more_of_a_whole_thread(make_saver, raw):
    """The check uses only what `verify` has read already."""
    fill(make_saver())
    seen = Seen()
    assert list(make_saver(interceptors=[seen]).admin.verify("t", depth="data")) == []
    whole = len(seen.requests)
    make_saver().delete_thread("t")
    for n in (1, 2, 3, 4):
        put(make_saver(), n, {"v": noise("object") if n == 2 else n}, log=None, run="second" if n == 2 else "run")
    seen = Seen()
    assert list(make_saver(interceptors=[seen]).admin.verify("t", depth="data")) == []
    assert len(seen.requests) == whole


@pytest.mark.parametrize("gone", [[2], [2, 3]], ids=["one", "two in a row"])
def test_collect_and_prune_leave_the_thread_alone(make_saver, raw, gone):
    events = []
    saver = make_saver(on_event=events.append)
    fill(saver)
    fill(saver, "whole")
    before = raw.snapshot()
    for n in gone:
        raw.delete_document(keys.checkpoint_doc("t", "", cid(n)))
    without = raw.snapshot()
    events.clear()
    for collect in (saver.admin.plan_collect, saver.admin.collect):
        plans = {plan.thread_id: plan for plan in collect(orphan_age=NOW)}
        assert plans.keys() == {"t"}
        assert cid(gone[-1]) in plans["t"].skipped
        assert [(type(one).__name__, one.thread_id) for one in events] == [("ThreadSkipped", "t")]
        events.clear()
    for prune in (saver.admin.plan_prune, saver.admin.prune):
        with pytest.raises(CheckpointCorruptError, match="DeltaChannel") as caught:
            list(prune(["t"], strategy=KeepLast(1)))
        assert caught.value.checkpoint_id == cid(gone[-1])
    assert raw.snapshot() == without
    with pytest.raises(CheckpointCorruptError):
        saver.prune(["t", "whole"], strategy=KeepLast(1))
    for name in before[0].keys() - without[0].keys():
        raw.set_document(name, before[0][name])
    assert history(make_saver(), 4) == WHOLE
    assert list(saver.admin.verify("t", depth="data")) == []
    # A thread that lacks nothing is pruned and collected as ever.
    assert saver.admin.collect(orphan_age=NOW) == []
    saver.prune(["t"], strategy=KeepLast(1))
    assert history(make_saver(), 4) == WHOLE


def test_the_seed_is_not_pruned(make_saver, raw):
    saver = make_saver()
    fill(saver)
    middle = raw.documents()[MIDDLE]
    raw.delete_document(MIDDLE)
    with pytest.raises(CheckpointCorruptError):
        saver.prune(["t"])
    raw.set_document(MIDDLE, middle)
    assert history(make_saver(), 4) == WHOLE


def test_frames_that_it_builds_on_stay(make_saver, raw):
    """Only the missing checkpoint builds on the frames of a removed one."""
    saver = make_saver()
    text = [noise(1)[:1_000].hex()]
    put(saver, 1, {"log": text, "v": 1}, log=1)
    put(saver, 2, {"log": [*text, "more"], "v": 2}, log=2)
    put(saver, 3, {"v": 3}, log=3)
    saver.prune(["t"], strategy=KeepLast(1))
    stripped = keys.checkpoint_doc("t", "", cid(1))
    before = raw.documents()
    assert before[stripped].keys() == {"frames"}
    raw.delete_document(MIDDLE)
    (plan,) = saver.admin.collect(orphan_age=NOW)
    assert cid(2) in plan.skipped
    raw.set_document(MIDDLE, before[MIDDLE])
    assert history(make_saver(), 3) == ([*text, "more"], [["write 2"]])


def test_what_does_not_need_it_is_pruned(make_saver, raw):
    """A later checkpoint has the value itself, so no checkpoint that stays needs the missing one."""
    saver = make_saver()
    fill(saver)
    put(saver, 5, {"log": ["all"], "v": 5}, log=5)
    raw.delete_document(MIDDLE)
    with pytest.raises(CheckpointCorruptError):
        saver.prune(["t"], strategy=KeepLast(2))
    saver.prune(["t"], strategy=KeepLast(1))
    assert [one.checkpoint["id"] for one in saver.list(cfg())] == [cid(5)]
    saver.admin.collect(orphan_age=NOW)
    assert list(saver.admin.verify(depth="data")) == []


def test_writes_of_what_was_stored_stay(make_saver, raw):
    """Also without a DeltaChannel: the checkpoint has a child, so it was not "never stored"."""
    saver = make_saver()
    for n in (1, 2, 3):
        put(saver, n, {"v": n}, log=None)
    document = raw.documents()[MIDDLE]
    raw.delete_document(MIDDLE)
    assert saver.admin.collect(orphan_age=NOW) == []
    raw.set_document(MIDDLE, document)
    assert [write[2] for write in saver.get_tuple(cfg(2)).pending_writes] == [["write 2"]]


def test_runs_go_all_the_same(make_saver, raw):
    """Deleting a run may break DeltaChannels. `verify` reports that, and the next run can be deleted too."""
    saver = make_saver()
    fill(saver)
    saver.delete_for_runs(["second"])
    assert [one.name for one in saver.admin.verify("t", depth="data") if one.is_damage] == [MIDDLE]
    saver.delete_for_runs(["run"])
    assert list(saver.list(cfg())) == []
    assert list(saver.admin.verify("t", depth="data")) == []


def test_it_comes_back_while_it_is_looked_at(make_saver, raw):
    """A backup is restored after the checkpoints are read and before the end: there is no finding."""
    saver = make_saver()
    fill(saver)
    middle = raw.documents()[MIDDLE]
    raw.delete_document(MIDDLE)
    findings = []

    class Restored(Seen):
        """Restores it, once the thread's pending writes are read."""

        def around(self, effect, perform):
            found = perform(effect)
            if getattr(effect, "collection", None) == keys.writes("t"):
                raw.set_document(MIDDLE, middle)
            return found

    findings += make_saver(interceptors=[Restored()]).admin.verify("t", depth="metadata")
    assert findings == []
