"""While a newest checkpoint is missing, nothing is deleted that its backup needs, and no copy is made without it."""

import random
from datetime import timedelta

import pytest

from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError, DamageError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.kit.impatience import impatient
from tests.system.build import cfg, cid, put, values

from .forging import name_of

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
NOW = timedelta(0)
SUB = "sub:1"

LOST = {
    "the newest": ({name_of(3)}, CheckpointCorruptError, cid(3)),
    "the newest two": ({name_of(3), name_of(2)}, CheckpointCorruptError, cid(2)),
    "all of the root": ({name_of(n) for n in (1, 2, 3)}, DamageError, "root namespace"),
    "the newest of a subgraph": ({name_of(5, ns=SUB)}, CheckpointCorruptError, cid(5)),
}
lost = pytest.mark.parametrize(("gone", "error", "told"), LOST.values(), ids=LOST.keys())


def noise(n):
    return random.Random(n).randbytes(3_000).hex()


def fill(saver, thread="t"):
    """Three checkpoints with objects, and two of the subgraph that the last one called."""
    for n in (1, 2, 3):
        put(saver, n, {"v": noise(n)}, parent=n - 1 or None, thread=thread, metadata={"run_id": f"run {n}"})
    called = {"metadata": {"parents": {"": cid(3)}}, "ns": SUB, "thread": thread}
    put(saver, 4, {"w": noise(4)}, **called)
    put(saver, 5, {"w": noise(5)}, parent=4, **called)
    saver.put_writes(cfg(5, ns=SUB, thread=thread), [("__interrupt__", "approve?")], "task")


def without(raw, gone):
    """Delete documents. Gives a function that restores them."""
    before = raw.documents()
    for name in gone:
        raw.delete_document(name)

    def restore():
        for name in gone:
            raw.set_document(name, before[name])

    return restore


def is_whole(saver, thread="t"):
    there = values(saver.get_tuple(cfg(3, thread=thread))), saver.get_tuple(cfg(5, ns=SUB, thread=thread))
    return (
        there[0] == {"v": noise(3)}
        and values(there[1]) == {"w": noise(5)}
        and there[1].pending_writes == [("task", "__interrupt__", "approve?")]
        and list(saver.admin.verify(thread, depth="data")) == []
    )


@lost
def test_collect_and_prune_leave_the_thread_alone(make_saver, raw, gone, error, told):
    events = []
    saver = make_saver(inline_max_bytes=0, on_event=events.append)
    fill(saver)
    before = raw.snapshot()
    fill(saver, "whole")
    rest = {name: fields for name, fields in before[0].items() if name not in gone}, before[1]
    restore = without(raw, gone)
    events.clear()
    for collect in (saver.admin.plan_collect, saver.admin.collect):
        plans = {plan.thread_id: plan for plan in collect(orphan_age=NOW)}
        assert plans.keys() == {"t"}
        assert told in plans["t"].skipped
        assert [(type(one).__name__, one.thread_id) for one in events] == [("ThreadSkipped", "t")]
        events.clear()
    for prune in (saver.admin.plan_prune, saver.admin.prune):
        with pytest.raises(error, match=told):
            list(prune(["t"], strategy=KeepLast(2)))
    with pytest.raises(error, match=told):
        saver.delete_for_runs(["run 1"])
    # Of the other one, the run's checkpoint is gone, and that deletion took no more.
    assert [one.checkpoint["id"] for one in saver.list(cfg(thread="whole"))] == [cid(3), cid(2)]
    saver.delete_thread("whole")
    assert raw.snapshot() == rest
    restore()
    assert is_whole(make_saver())
    # A whole thread is pruned and collected as usual.
    assert saver.admin.collect(orphan_age=NOW) == []
    saver.prune(["t"], strategy=KeepLast(1))
    assert [one.checkpoint["id"] for one in saver.list(cfg())] == [cid(3)]
    assert is_whole(make_saver())


@lost
def test_what_is_not_whole_is_not_copied(make_saver, raw, gone, error, told):
    saver = make_saver(inline_max_bytes=0)
    fill(saver)
    restore = without(raw, gone)
    left = raw.snapshot()
    for dry_run in (True, False):
        with pytest.raises(error, match=told):
            saver.admin.copy_thread("t", "u", dry_run=dry_run)
    assert raw.snapshot() == left
    restore()
    saver.copy_thread("t", "u")
    assert is_whole(saver, "u")


@pytest.mark.parametrize("heir", [3, 99])
def test_after_a_repair_the_older_one_is_the_newest(make_saver, raw, heir):
    """Whether the newest existed, or an attacker has forged the field that names it."""
    saver = make_saver()
    fill(saver)
    without(raw, {name_of(3)})
    raw.set_document(name_of(2), {**raw.documents()[name_of(2)], "heir": f"{cid(heir)}#abcdef"})
    with pytest.raises(CheckpointCorruptError, match=cid(heir)):
        saver.copy_thread("t", "u")
    saver.admin.repair("t")
    saver.copy_thread("t", "u")
    assert values(saver.get_tuple(cfg(thread="u"))) == {"v": noise(2)}
    saver.prune(["t"], strategy=KeepLast(1))
    assert [one.checkpoint["id"] for one in saver.list(cfg())] == [cid(2)]
    assert saver.admin.collect(orphan_age=NOW) == []


@pytest.mark.parametrize("gone", [{name_of(3)}, {name_of(n) for n in (1, 2, 3)}], ids=["the newest", "all"])
def test_what_a_crashed_deletion_left_is_deleted_or_kept_by_choice(make_saver, raw, gone):
    events = []
    saver = impatient(make_saver(inline_max_bytes=0, on_event=events.append))
    fill(saver)
    without(raw, gone)
    thread = keys.thread_doc("t")
    raw.set_document(thread, {**raw.documents()[thread], "deleting": "1"})
    left = raw.snapshot()
    events.clear()
    assert saver.admin.collect(orphan_age=NOW) == []
    assert [(type(one).__name__, one.thread_id) for one in events] == [("ThreadSkipped", "t")]
    with pytest.raises(ConflictError, match="marked as being deleted"):
        saver.prune(["t"], strategy=KeepLast(1))
    assert raw.snapshot() == left
    assert thread in {one.name for one in saver.admin.verify("t") if one.is_damage}
    saver.admin.repair("t")
    assert not [one for one in saver.admin.verify("t", depth="data") if one.is_damage]
    saver.prune(["t"], strategy=KeepLast(1))
    raw.set_document(thread, {**raw.documents()[thread], "deleting": "1"})
    saver.delete_thread("t")
    assert not [name for name in raw.documents() if name.startswith(thread)]


def test_a_lost_fork_of_an_older_one_is_noticed(make_saver, raw):
    saver = make_saver(inline_max_bytes=0)
    fill(saver)
    put(saver, 9, {"v": noise(9)}, parent=1)
    saver.put_writes(cfg(9), [("__resume__", "denied")], "task")
    restore = without(raw, {name_of(9)})
    left = raw.snapshot()
    (finding,) = (one for one in saver.admin.verify("t", depth="data") if one.is_damage)
    assert (finding.kind, finding.checkpoint_id) == ("missing", cid(9))
    assert [cid(9) in plan.skipped for plan in saver.admin.collect(orphan_age=NOW)] == [True]
    with pytest.raises(CheckpointCorruptError, match=cid(9)):
        saver.prune(["t"], strategy=KeepLast(1))
    with pytest.raises(CheckpointCorruptError, match=cid(9)):
        saver.copy_thread("t", "u")
    assert raw.snapshot() == left
    restore()
    assert list(saver.admin.verify("t", depth="data")) == []
    assert values(saver.get_tuple(cfg(9))) == {"v": noise(9)}
    # One that is given up is forgotten, and one that a rule removes is not missing.
    without(raw, {name_of(9)})
    saver.admin.repair("t")
    assert not [one for one in saver.admin.verify("t", depth="data") if one.is_damage]
    put(saver, 9, {"v": noise(9)}, parent=1, metadata={"run_id": "late"})
    saver.delete_for_runs(["late"])
    assert not [one for one in saver.admin.verify("t", depth="data") if one.is_damage]
    saver.copy_thread("t", "u")
