"""Ids in a document's fields are believed if the document's name agrees, and shown if nothing can prove them."""

from datetime import datetime, timedelta, timezone

import pytest
from langgraph.checkpoint.base.id import uuid6

from langgraph_gcs_saver.errors import CheckpointCorruptError, DamageError, InvalidInputError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.portable import PortableSerializer, edits
from tests.incremental.eax import Eax
from tests.system.build import cfg, cid, put

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
LONG = "a long id " * 30
ATTEMPT = "0" * 12


def swapped(raw, one, other):
    documents = raw.documents()
    raw.set_document(one, documents[other])
    raw.set_document(other, documents[one])


@pytest.mark.parametrize("threads", [("A", "B"), (LONG, f"{LONG}!")], ids=["short", "long"])
def test_run_documents_that_were_swapped(make_saver, raw, threads):
    saver = make_saver()
    for run, thread in zip(("r1", "r2"), threads, strict=True):
        put(saver, 1, {"v": thread}, thread=thread, metadata={"run_id": run})
    names = [keys.run_doc(run, thread) for run, thread in zip(("r1", "r2"), threads, strict=True)]
    swapped(raw, *names)
    findings = [one for one in saver.admin.verify(depth="metadata") if one.is_damage]
    assert sorted((one.kind, one.thread_id, one.name) for one in findings) == sorted(
        ("corrupt", thread, name) for thread, name in zip(threads, names, strict=True)
    )
    list(saver.admin.plan_repair())
    if threads[0] == "A":
        # The name decides: nothing is missed, and nothing of another run is deleted.
        (plan,) = saver.admin.plan_delete_for_runs(["r1"])
        assert [(one.thread_id, one.dropped) for one in plan.threads] == [("A", (cid(1),))]
    saver.admin.repair()
    assert list(saver.admin.verify(depth="data")) == []
    saver.delete_for_runs(["r1"])
    assert saver.get_tuple(cfg(thread=threads[0])) is None
    assert saver.get_tuple(cfg(thread=threads[1])) is not None
    assert names[0] not in raw.documents()


def test_without_a_repair_the_run_is_deleted(make_saver, raw):
    saver = make_saver()
    for run, thread in (("r1", "A"), ("r2", "B")):
        put(saver, 1, {"v": thread}, thread=thread, metadata={"run_id": run})
    swapped(raw, keys.run_doc("r1", "A"), keys.run_doc("r2", "B"))
    saver.delete_for_runs(["r1"])
    assert saver.get_tuple(cfg(thread="A")) is None
    assert saver.get_tuple(cfg(thread="B")) is not None


NO_SOURCES = [
    None,
    7,
    "",
    "lg_checkpoints",
    "x/lg_checkpoints/y",
    f"a/b/c/lg_checkpoints/{keys.inv(cid(1))}!~",
    f"a/b/lg_checkpoints/{keys.inv(cid(1))}!~",
    keys.checkpoint_doc("another", "", cid(1)),
    f"{keys.checkpoints('t')}/x",
    f"{keys.writes('t')}/x",
    f"{keys.aside('t')}/x",
    f"{keys.thread_doc('t')}/lg_other/{keys.inv(cid(1))}!~",
    f"{keys.special_writes_doc('t', '', cid(1), 'task')}/x",
]


@pytest.mark.parametrize("source", NO_SOURCES)
def test_what_was_set_aside_is_a_document_of_the_thread(make_saver, raw, source):
    """Whatever it says: if there is an orphan, `collect` reads it, and leaves the thread alone."""
    saver = make_saver(inline_max_bytes=0)
    put(saver, 1, {"v": 1})
    put(saver, 1, {"v": 1}, thread="u")
    for thread in ("t", "u"):
        raw.set_object(keys.blob(thread, "", cid(1), "v", "orphan0000"), b"\x28\xb5\x2f\xfd")
    fields = raw.documents()[keys.checkpoint_doc("t", "", cid(1))]
    told = {} if source is None else {"from": source}
    raw.set_document(f"{keys.aside('t')}/junk", {**fields, "reason": "x", **told})
    plans = {plan.thread_id: plan for plan in saver.admin.collect(orphan_age=timedelta(0))}
    assert "set aside" in plans["t"].skipped
    assert keys.blob("t", "", cid(1), "v", "orphan0000") in raw.objects()
    assert len(plans["u"].objects) == 1


def test_names_that_were_set_aside(store_uri):
    checkpoint, writes = keys.checkpoint_doc("t", LONG, cid(1)), keys.special_writes_doc("t", "a", cid(1), LONG)
    assert keys.set_aside(keys.aside_doc(checkpoint, ATTEMPT), checkpoint) == (checkpoint, True)
    assert keys.set_aside(keys.aside_doc(writes, ATTEMPT), writes) == (writes, False)
    with pytest.raises(DamageError, match="does not name the document"):
        keys.set_aside(keys.aside_doc(checkpoint, ATTEMPT), keys.checkpoint_doc("another", LONG, cid(1)))


def damage(raw, name):
    raw.set_document(name, {**raw.documents()[name], "manifest": b"x"})


def fill_long(saver, raw, count):
    """A root checkpoint, and `count` of a namespace that is too long for a name. The last one is damaged."""
    put(saver, 1, {"v": 1})
    for n in range(1, count + 1):
        put(saver, n, {"v": 2}, ns=LONG, parent=n - 1 or None)
    damage(raw, keys.checkpoint_doc("t", LONG, cid(count)))


@pytest.mark.parametrize(
    ("count", "expected"), [(2, LONG), (1, keys.enc(LONG))], ids=["told by another", "told by none"]
)
def test_a_damaged_checkpoint_is_not_shown_as_the_root_ones(make_saver, raw, count, expected):
    saver = make_saver()
    fill_long(saver, raw, count)
    assert [one.checkpoint_ns for one in saver.admin.history("t") if one.damage] == [expected]
    assert [one.checkpoint_ns for one in saver.admin.verify("t") if one.is_damage] == [expected]
    (plan,) = saver.admin.plan_repair("t")
    assert [step.checkpoint_ns for step in plan.steps] == [expected]
    with pytest.raises(CheckpointCorruptError) as caught:
        saver.prune(["t"])
    assert caught.value.checkpoint_ns == keys.enc(LONG), "prune reads the newest first"
    events = []
    assert len(list(make_saver(on_event=events.append).list(cfg(ns=None)))) == count
    assert [one.checkpoint_ns for one in events if type(one).__name__ == "CheckpointSkipped"] == [keys.enc(LONG)]


def test_damaged_writes_of_a_long_namespace(make_saver, raw):
    saver = make_saver()
    put(saver, 1, {"v": 1}, ns=LONG)
    saver.put_writes(cfg(1, ns=LONG), [("__resume__", "yes")], "task")
    name = keys.special_writes_doc("t", LONG, cid(1), "task")
    raw.set_document(name, {**raw.documents()[name], "w4": b"x"})
    (plan,) = saver.admin.plan_repair("t")
    assert [(step.action, step.checkpoint_ns) for step in plan.steps] == [("set aside", LONG)]


def test_tasks_of_long_ids_are_several(make_saver):
    saver = make_saver()
    put(saver, 1, {"v": 1})
    tasks = ["short", "", f"{LONG}1", f"{LONG}2"]
    for task in tasks:
        saver.put_writes(cfg(1), [("v", 1)], task)
    (shown,) = saver.admin.history("t")
    assert sorted(shown.tasks) == sorted(["short", "", *map(keys.enc, tasks[2:])])


@pytest.mark.parametrize("cipher", [None, Eax("key")], ids=["clear", "encrypted"])
@pytest.mark.parametrize("heir", ["fffffff0-0000-6000-8000-000000000000", "FFFF", "zzz", "ahead"])
def test_an_edit_does_not_follow_an_heir_that_lies_in_the_future(make_saver, raw, heir, cipher):
    """An attacker can name such an heir without a key, and then no later step would be the latest."""
    put(make_saver(cipher=cipher), 1, {"v": "old"})
    now = datetime.now(timezone.utc)
    name = keys.checkpoint_doc("t", "", cid(1))
    ahead = _id_at(now + timedelta(minutes=10))
    told = ahead if heir == "ahead" else heir
    raw.set_document(name, raw.documents()[name] | {"heir": f"{told}#abcdef"})
    saver = make_saver(serde=PortableSerializer(), cipher=cipher)

    def edit():
        found = saver.get_tuple(cfg())
        made = edits.fork(found, found, "v", "new", next_version=saver.get_next_version, now=now)
        saver.put(found.config, made.checkpoint, made.metadata, made.new_versions)

    assert saver.get_tuple(cfg()).metadata["recovered_from"] == told
    with pytest.raises(InvalidInputError, match=r"'t'.*in the future.*repair"):
        edit()
    saver.admin.repair()
    edit()
    assert saver.get_tuple(cfg()).checkpoint["channel_values"] == {"v": "new"}
    assert saver.get_tuple(cfg()).checkpoint["id"] < str(uuid6())


def test_an_edit_follows_a_lost_checkpoint_of_a_clock_that_is_a_little_ahead(make_saver, raw):
    put(make_saver(), 1, {"v": "old"})
    now = datetime.now(timezone.utc)
    name, lost = keys.checkpoint_doc("t", "", cid(1)), _id_at(now + timedelta(minutes=4))
    raw.set_document(name, raw.documents()[name] | {"heir": f"{lost}#abcdef"})
    saver = make_saver(serde=PortableSerializer())
    found = saver.get_tuple(cfg())
    made = edits.fork(found, found, "v", "new", next_version=saver.get_next_version, now=now)
    assert made.checkpoint["id"] > lost


def _id_at(moment):
    """A checkpoint id of this time: UUID version 6, whose time begins in 1582, in steps of 100 ns."""
    ticks = (moment - datetime(1582, 10, 15, tzinfo=timezone.utc)) // timedelta(microseconds=1) * 10
    digits = f"{ticks:015x}"
    return f"{digits[:8]}-{digits[8:12]}-6{digits[12:]}-8000-000000000000"
