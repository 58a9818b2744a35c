"""`flows.checkpoints.put`, driven effect by effect on a store of two dicts."""

import random
import re
from dataclasses import replace

import pytest

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Emit,
    Gather,
    GetDocs,
    Merge,
    Now,
    Pause,
    PutBlob,
)
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ConflictError,
    InvalidInputError,
    UnsupportedFormatError,
)
from langgraph_gcs_saver.events import (
    CheckpointOutOfOrder,
    CheckpointReplaced,
    ParentForked,
    ThreadDeleted,
)
from langgraph_gcs_saver.flows import load
from langgraph_gcs_saver.flows.context import ATTEMPT_DEADLINE_SECONDS, MAX_TRIES
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.flows.save import put as put_flow
from langgraph_gcs_saver.flows.threads import NOTE_SECONDS, delete_thread
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.saver import arguments
from langgraph_gcs_saver.stores.values import to_map
from tests.unit.model import CODEC, SERDE, Model, cid, make_context, put, put_aside, put_request, put_writes, read

THREAD = keys.thread_doc("t")
LONG = [f"message {number} of some text, {number * 7919 % 1000}" for number in range(40)]
"""Long enough for an incremental frame."""

BIG = random.Random(5).randbytes(20_000)
"""More than `inline_max_bytes` even when compressed."""


def doc(number, ns=""):
    return keys.checkpoint_doc("t", ns, cid(number))


def v(number):
    return f"{number:032}.5"


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def context():
    return make_context()


@pytest.fixture
def parent(model, context):
    """Checkpoint 1 with channels `a` and `b`, known to `context`."""
    put(model, context, 1, None, {"a": "one", "b": "old"})
    return model.docs[doc(1)]


def child_request(number=2, parent=1, **changes):
    """A checkpoint that continues `parent`: `a` is new, `b` is inherited."""
    return put_request(
        number, parent, {"a": f"value {number}", "b": "old"}, fresh=["a"], versions={"b": v(1)}, **changes
    )


def child(model, context, number=2, parent=1, **changes):

    model.drive(put_flow(child_request(number, parent, **changes), context))


def child_aside(model, number, **changes):

    model.aside(put_flow(child_request(number, **changes), make_context()))


def refs(model, number):
    """Where each channel's frames lie: the owners, `None` for the checkpoint itself."""
    found = model.aside(read_manifest(model.docs[doc(number)], CODEC))
    return {channel: [frame.owner for frame in ref.chain] for channel, ref in found.channels.items()}


def heir(model, number):
    """The latest child of a checkpoint, as its document says."""
    return manifest.heir_of(model.docs[doc(number)])


def puts(model):
    """The commits of checkpoints in what was driven last."""
    return [commit for commit in model.commits if is_put(commit)]


def is_put(effect):
    """Whether it is the commit of a checkpoint: the thread's document may be made by one of its own."""
    return (
        isinstance(effect, Commit)
        and isinstance(effect.writes[0], (Create, Merge))
        and "/lg_checkpoints/" in (effect.writes[0].name)
    )


# One round


def test_a_first_checkpoint_is_one_commit(model, context):
    put(model, context, 1, None, {"a": "one"}, run_id="r")
    (commit,) = model.rounds
    create, note, run = commit.writes
    assert isinstance(create, Create)
    assert create.name == doc(1)
    assert set(create.fields) == {"ns", "format", "filter", "manifest", "frames", "digest", "run_id"}
    assert note == Create(THREAD, {"thread_id": "t", "active": 1_000_000, "root": True})
    assert isinstance(run, Merge)
    assert (run.name, run.update_time) == (keys.run_doc("r", "t"), None)
    assert run.fields == {"run_id": "r", "thread_id": "t", "token": run.fields["token"]}
    assert read(model, 1) == {"a": "one"}
    assert not model.events
    stored = model.result
    assert (stored.attempts, stored.is_new, stored.channels.keys(), stored.uploads) == (1, True, {"a"}, [])
    assert stored.channels["a"].size == len(SERDE.dumps_typed("one")[1])
    assert stored.inline_bytes == len(create.fields["frames"])


def test_a_warm_step_is_one_commit_that_holds_its_parent(model, context, parent):
    child(model, context)
    (commit,) = model.rounds
    create, touch = commit.writes
    assert isinstance(create, Create)
    assert create.name == doc(2)
    assert touch == Merge(doc(1), touch.fields, update_time=parent.update_time)
    assert set(touch.fields) == {"heir"}
    assert re.fullmatch(re.escape(cid(2)) + "#[0-9a-z]{6}", touch.fields["heir"])
    assert refs(model, 2) == {"a": [None], "b": [cid(1)]}
    assert read(model, 2) == {"a": "value 2", "b": "old"}
    assert read(model, 1) == {"a": "one", "b": "old"}


def test_a_chain_of_warm_steps_stays_at_one_round(model, context, parent):
    for number in range(2, 30):
        child(model, context, number, number - 1)
        assert [type(effect) for effect in model.rounds] == [Commit]
        assert len(model.rounds[0].writes) == 2
        assert refs(model, number) == {"a": [None], "b": [cid(1)]}  # not its parent's parent's parent's…
    assert read(model, 29) == {"a": "value 29", "b": "old"}


def test_forks_of_one_process_are_warm_too(model, context, parent):
    for number in range(2, 6):
        child(model, context, number)
        assert [type(effect) for effect in model.rounds] == [Commit]
        assert heir(model, 1) == cid(number)


def test_a_child_that_is_stored_again_moves_its_parents_time(model, context, parent):
    """Otherwise a deletion between both would not notice the second one."""
    child(model, context)
    model.lose(doc(2))
    before = model.docs[doc(1)]
    child(model, context)
    assert heir(model, 1) == cid(2)
    assert model.docs[doc(1)].update_time > before.update_time
    assert model.docs[doc(1)].fields["heir"] != before.fields["heir"]


def test_a_cold_step_reads_its_parent_first(model, context, parent):
    child(model, make_context())
    assert [type(effect) for effect in model.rounds] == [GetDocs, Commit]
    assert model.rounds[0].names == (doc(1),)
    assert refs(model, 2) == {"a": [None], "b": [cid(1)]}


def test_a_cold_step_that_inherits_nothing_needs_no_parent(model, context, parent):
    put(model, make_context(), 2, 1, {"a": "two", "b": "new"})
    # It took the thread for a new one.
    assert [type(effect) for effect in model.rounds] == [Commit, GetDocs, GetDocs, Commit]
    assert [write.name for write in model.commits[0].writes] == [doc(2), THREAD]
    assert isinstance(model.commits[0].writes[1], Create)
    assert model.rounds[2].names == (THREAD,)
    assert [write.name for write in model.commits[1].writes] == [doc(2), THREAD]
    assert "heir" not in model.docs[doc(1)].fields


def test_every_put_without_a_parent_carries_its_threads_guard(model, context, parent):
    """Even a small one: the deletion of a thread must not pass between two of its checkpoints."""
    for number in (10, 11):
        time = model.docs[THREAD].update_time
        put(model, context, number, None, {"a": "ten"})
        assert [type(effect) for effect in model.rounds] == [GetDocs, Commit]
        assert model.commits[0].writes[1:] == (Merge(THREAD, {}, update_time=time),)
        assert model.docs[THREAD].update_time == time, "parallel namespaces must not fight for it"


def test_an_equal_value_is_not_written_again(model, context, parent):
    put(model, context, 2, 1, {"a": "one", "b": "old"})
    assert refs(model, 2) == {"a": [cid(1)], "b": [cid(1)]}
    assert model.result.inline_bytes == 0
    assert "frames" not in model.docs[doc(2)].fields
    assert read(model, 2) == {"a": "one", "b": "old"}


def test_none_empty_and_missing_differ(model, context):
    put(model, context, 1, None, {"none": None, "bytes": b""}, fresh=["none", "bytes", "empty"])
    assert read(model, 1) == {"none": None, "bytes": b""}
    put(
        model,
        context,
        2,
        1,
        {"none": None, "bytes": b""},
        fresh=[],
        versions={c: v(1) for c in ("none", "bytes", "empty")},
    )
    assert read(model, 2) == {"none": None, "bytes": b""}


def test_another_version_is_not_inherited(model, context, parent):
    """A version belongs to one value; a parent that has another version has another value."""
    for number, version in enumerate([v(0), 1, None], start=2):
        versions = {} if version is None else {"b": version}
        put(model, context, number, 1, {"a": "x", "b": "at hand"}, fresh=["a"], versions=versions)
        assert read(model, number) == {"a": "x", "b": "at hand"}
        assert refs(model, number)["b"] == [None]


@pytest.mark.parametrize("version", [1.0, True, "1"], ids=repr)
def test_versions_of_another_type_are_others(model, context, version):
    first = put_request(1, None, {"b": "old"})
    model.drive(put_flow(replace(first, versions={"b": 1}), context))
    second = put_request(2, 1, {"b": "at hand"}, fresh=[])
    model.drive(put_flow(replace(second, versions={"b": version}), context))
    assert read(model, 2) == {"b": "at hand"}


def test_a_fresh_value_is_stored_even_under_its_parents_version(model, context, parent):
    request = put_request(2, 1, {"a": "changed", "b": "old"}, fresh=["a"])
    model.drive(put_flow(replace(request, versions={"a": v(1), "b": v(1)}), context))
    assert read(model, 2) == {"a": "changed", "b": "old"}


# Notes


def test_the_thread_is_noted_once_a_minute(model, context, parent):
    for seconds, due in [(1, False), (59, False), (60, True), (61, False), (119, False), (120, True), (-5, True)]:
        child(model, context, 200 + seconds, now=1_000_000 + seconds)
        names = [write.name for write in model.commits[0].writes]
        assert (THREAD in names) is due, seconds
    assert NOTE_SECONDS == 60
    assert model.docs[THREAD].fields == {"thread_id": "t", "active": 999_995, "root": True}


def test_the_root_namespace_is_noted_by_who_stores_in_it(model, context):
    """A namespace of a subgraph says nothing about it, and what it noted does not keep the root from doing so."""
    put(model, context, 1, None, {"a": 1}, ns="sub")
    assert model.docs[THREAD].fields == {"thread_id": "t", "active": 1_000_000}
    put(model, context, 2, 1, {"a": 2}, ns="sub")
    assert THREAD not in [write.name for write in model.commits[0].writes], "noted a moment ago"
    put(model, context, 3, None, {"a": 3})
    assert model.docs[THREAD].fields["root"] is True
    put(model, context, 4, 2, {"a": 4}, ns="sub", now=1_000_000 + NOTE_SECONDS)
    assert model.docs[THREAD].fields == {"thread_id": "t", "active": int(1_000_000 + NOTE_SECONDS), "root": True}


def test_a_run_is_noted_unless_the_parent_vouches_for_it(model, context, parent):
    """A deletion may have removed the run's last checkpoint and the run's document. Each note updates the document."""
    moved = set()
    for number, run, due in [(2, "r", True), (3, "r", False), (4, "s", True), (5, "r", True), (6, None, False)]:
        child(model, context, number, number - 1, run_id=run)
        name = keys.run_doc(str(run), "t")
        assert (name in [write.name for write in model.commits[0].writes]) is due
        assert model.docs[doc(number)].fields.get("run_id") == run
        if due:
            moved.add((name, model.docs[name].update_time))
    assert len(moved) == 3


def test_a_failed_put_notes_nothing(model, context):
    model.before = lambda effect: model.REFUSED if is_put(effect) else None
    with pytest.raises(ConflictError):
        put(model, context, 1, None, {"a": 1}, run_id="r")
    model.before = None
    put(model, context, 1, None, {"a": 1}, run_id="r")
    assert {THREAD, keys.run_doc("r", "t")} <= model.docs.keys()


# The same put again


@pytest.mark.parametrize("value", ["one", BIG], ids=["inline", "object"])
def test_a_lost_answer_is_success_without_more_writes(model, context, value):
    model.before = lambda effect: model.LOST if is_put(effect) else None
    put(model, context, 1, None, {"a": value})
    assert len(puts(model)) == 1
    assert isinstance(model.rounds[-1], GetDocs)
    assert not any(isinstance(event, CheckpointReplaced) for event in model.events)
    assert read(model, 1) == {"a": value}
    # The process knows what it wrote: the next step is warm.
    model.before = None
    put(model, context, 2, 1, {"a": value}, fresh=[], versions={"a": v(1)})
    assert [type(effect) for effect in model.rounds] == [Commit]
    assert refs(model, 2) == {"a": [cid(1)]}


def test_a_lost_answer_of_a_child_is_no_fork(model, context, parent):
    model.before = lambda effect: model.LOST if isinstance(effect, Commit) else None
    child(model, context)
    assert len(model.commits) == 1
    assert model.events == []
    assert (model.result.is_new, model.result.attempts) == (False, 1)
    assert refs(model, 2) == {"a": [None], "b": [cid(1)]}


@pytest.mark.parametrize("value", ["one", BIG], ids=["inline", "object"])
def test_a_repeated_put_changes_nothing(model, context, value):
    """In this process or another, once or many times."""
    put(model, context, 1, None, {"a": value})
    child_docs = model.docs
    for again in (context, make_context(), make_context()):
        put(model, again, 1, None, {"a": value})
        assert model.docs == child_docs
        assert model.events == []
        assert not model.result.is_new
    assert read(model, 1) == {"a": value}


def test_a_repeated_put_after_a_child_leaves_the_heir(model, context, parent):
    child(model, context)
    before = model.docs
    put(model, make_context(), 1, None, {"a": "one", "b": "old"})
    assert model.docs == before


def test_other_content_replaces_and_appends_its_frames(model, context):
    put(model, context, 1, None, {"a": "one", "b": "old"}, run_id="r")
    child(model, context)
    before = model.docs[doc(1)]
    put(model, make_context(), 1, None, {"a": "other", "c": "more"})
    (create, merge) = (commit.writes[0] for commit in model.commits)
    assert isinstance(create, Create)
    assert isinstance(merge, Merge)
    assert merge.update_time == before.update_time
    assert merge.fields["frames"].startswith(before.fields["frames"])
    assert len(merge.fields["frames"]) > len(before.fields["frames"])
    after = model.docs[doc(1)].fields
    assert "run_id" not in after
    assert after["heir"] == before.fields["heir"]
    assert read(model, 1) == {"a": "other", "c": "more"}
    assert read(model, 2) == {"a": "value 2", "b": "old"}, "a child lost what it inherited"
    assert [type(event) for event in model.events] == [CheckpointReplaced]
    assert model.result.is_new


def test_content_without_frames_keeps_those_that_children_need(model, context, parent):
    child(model, context)
    put(model, make_context(), 1, None, {})
    assert read(model, 1) == {}
    assert read(model, 2) == {"a": "value 2", "b": "old"}


def test_content_replaced_many_times_stays_below_the_limit(model, context):
    """Frames of earlier contents add up: past the bound, new ones are objects."""
    rng = random.Random(7)
    wide = make_context(inline_max_bytes=512 << 10)
    for number in range(12):
        value = rng.randbytes(100_000)
        put(model, wide, 1, None, {"a": value, "n": number})
        stored = model.docs[doc(1)].fields
        assert len(stored["frames"]) + len(stored["manifest"]) <= manifest.PAYLOAD_BYTES
        assert read(model, 1) == {"a": value, "n": number}
        put(model, wide, 100 + number, 1, {"a": value}, fresh=[], versions={"a": v(1)})
    assert model.blobs
    rng = random.Random(7)
    for number in range(12):
        assert read(model, 100 + number) == {"a": rng.randbytes(100_000)}


def test_a_damaged_document_of_its_own_is_replaced(model, context, parent):
    for change in ({"digest": b"x"}, {"manifest": b"x"}, {"format": "x"}, {"ns": "x"}):
        model.place(Doc(doc(1), parent.fields | change, 1, 1))
        put(model, make_context(), 1, None, {"a": "one", "b": "old"})
        assert read(model, 1) == {"a": "one", "b": "old"}


@pytest.mark.parametrize("verify", ["readback", "checksum", "off"])
@pytest.mark.parametrize("wrong", ["text", b"", "absent", "flipped"])
def test_a_repeated_put_mends_damaged_frames_of_its_own(model, context, parent, wrong, verify):
    """Only this call has the value. A put that reports success must not leave the stored one damaged."""
    fields = dict(parent.fields)
    fields["frames"] = wrong if wrong != "flipped" else bytes([fields["frames"][0] ^ 1]) + fields["frames"][1:]
    if wrong == "absent":
        del fields["frames"]
    model.place(Doc(doc(1), fields, 1, 1))
    put(model, make_context(verify=verify), 1, None, {"a": "one", "b": "old"})
    assert read(model, 1) == {"a": "one", "b": "old"}
    assert not any(isinstance(event, CheckpointReplaced) for event in model.events), "the content is the same"


def test_a_stripped_document_of_its_own_is_written_over(model, context, parent):
    """Pruned meanwhile: its frames stay where they are, because children need them."""
    child(model, context)
    model.place(Doc(doc(1), {"frames": parent.fields["frames"]}, 1, 1))
    put(model, make_context(), 1, None, {"a": "again"})
    assert read(model, 1) == {"a": "again"}
    assert read(model, 2) == {"a": "value 2", "b": "old"}
    assert not any(isinstance(event, CheckpointReplaced) for event in model.events)


def test_a_document_of_a_newer_version_is_left_alone(model, context, parent):
    newer = Doc(doc(1), parent.fields | {"format": 3}, 1, 1)
    model.place(newer)
    with pytest.raises(UnsupportedFormatError):
        put(model, make_context(), 1, None, {"a": "one", "b": "old"})
    assert model.docs[doc(1)] == newer


# Forks


def race(model, times, act):
    """Call `act(n)` just before each of the first `times` commits."""
    left = list(range(times))

    def before(effect):
        if isinstance(effect, Commit) and left:
            act(left.pop(0))

    model.before = before


def forked(events):
    return [(event.parent_id, event.sibling_id) for event in events if isinstance(event, ParentForked)]


def test_a_fork_is_told_once(model, context, parent):
    child(model, context)
    assert forked(model.events) == []
    child(model, context, number=3)
    assert forked(model.events) == [(cid(1), cid(2))]
    child(model, context, number=3)  # the same again is no sibling of its own
    assert forked(model.events) == []


def test_a_second_root_is_told(model, context):
    put(model, context, 1, None, {"a": "one"})
    assert forked(model.events) == []
    put(model, make_context(), 2, None, {"a": "two"})
    assert forked(model.events) == [(None, None)]
    put(model, make_context(), 3, None, {"a": BIG})
    assert forked(model.events) == [(None, None)]
    put(model, context, 4, None, {"a": "made on purpose, by who made the first"})
    assert forked(model.events) == [(None, None)]
    put(model, context, 5, 1, {"a": "five"})
    assert forked(model.events) == []


@pytest.mark.parametrize("value", ["one", BIG], ids=["inline", "object"])
@pytest.mark.parametrize("before", [None, "writes", "a subgraph"])
def test_of_two_first_checkpoints_the_second_is_told(model, value, before):
    """Whatever made the thread's document, and whichever of the two comes second."""
    context = make_context()
    if before == "writes":
        put_writes(model, make_context(), 1, [("a", random.Random(6).randbytes(200_000))])
        assert THREAD in model.docs
    elif before == "a subgraph":
        put(model, context, 1, None, {"a": 1}, ns="sub")
    race(model, 1, lambda n: put_aside(model, make_context(), 2, None, {"a": value}))
    put(model, context, 3, None, {"a": value})
    assert forked(model.events) == [(None, None)]
    assert read(model, 2) == read(model, 3) == {"a": value}


@pytest.mark.parametrize("value", ["one", BIG], ids=["inline", "object"])
def test_a_root_that_is_put_again_is_no_second_one(model, context, value):
    """By this process or another, with a lost answer or without, with the same content or another."""
    model.before = lambda effect: model.LOST if is_put(effect) else None
    put(model, context, 1, None, {"a": value})
    model.before = None
    assert forked(model.events) == []
    for again in (context, make_context(), make_context()):
        put(model, again, 1, None, {"a": value})
        assert forked(model.events) == []
    put(model, make_context(), 1, None, {"a": "other"})
    assert forked(model.events) == []


@pytest.mark.parametrize("value", ["one", BIG], ids=["inline", "object"])
def test_a_second_root_whose_answer_was_lost_is_told(model, context, value):
    put(model, make_context(), 1, None, {"a": "one"})
    put(model, context, 9, None, {"a": "another namespace"}, ns="sub")
    model.before = lambda effect: model.LOST if is_put(effect) else None
    put(model, context, 2, None, {"a": value})
    assert forked(model.events) == [(None, None)]


def test_roots_of_other_namespaces_are_not_known(model, context):
    put(model, context, 1, None, {"a": "one"})
    for number in (2, 3):
        put(model, make_context(), number, None, {"a": BIG}, ns="sub")
        assert forked(model.events) == []


def test_a_thread_that_was_deleted_has_no_root(model, context):
    put(model, context, 1, None, {"a": "one"})
    model.aside(delete_thread("t", context))
    put(model, context, 2, None, {"a": BIG})
    assert forked(model.events) == []


def test_a_fork_whose_answer_was_lost_is_told(model, context, parent):
    child(model, context)
    model.before = lambda effect: model.LOST if isinstance(effect, Commit) else None
    child(model, context, number=3)
    assert forked(model.events) == [(cid(1), cid(2))]
    model.before = None
    child(model, context, number=2)  # again: the other one came later
    assert forked(model.events) == []


def test_a_fork_whose_clock_is_behind_is_told(model, context):
    put(model, context, 5, None, {"a": "five"})
    put(model, context, 6, 5, {"a": "six"})
    put(model, context, 4, 5, {"a": "four"})
    assert forked(model.events) == [(cid(5), cid(6))]


def test_one_lost_race_is_tried_again(model, context, parent):
    race(model, 1, lambda n: child_aside(model, 10 + n))
    child(model, context)
    assert [type(effect) for effect in model.rounds] == [Commit, GetDocs, Commit]
    assert model.rounds[1].names == (doc(2), doc(1))
    assert forked(model.events) == [(cid(1), cid(10))]
    assert model.result.attempts == 2
    assert refs(model, 2) == {"a": [None], "b": [cid(1)]}
    assert heir(model, 1) == cid(2)
    for number in (2, 10):
        assert read(model, number) == {"a": f"value {number}", "b": "old"}


def test_after_two_lost_races_it_is_stored_in_full_without_its_parent(model, context, parent):
    """A hundred forks of one checkpoint would queue up for its document."""
    race(model, MAX_TRIES, lambda n: child_aside(model, 10 + n))
    child(model, context)
    assert forked(model.events) == [(cid(1), cid(10)), (cid(1), cid(11))]
    assert len(model.commits) == 3
    assert [write.name for write in model.commits[-1].writes] == [doc(2), THREAD]
    assert refs(model, 2) == {"a": [None], "b": [None]}
    assert heir(model, 1) == cid(12)
    for number in (2, 10, 11, 12):
        assert read(model, number) == {"a": f"value {number}", "b": "old"}


def test_values_are_encoded_once_however_often_it_is_tried(model, context, parent, monkeypatch):
    encoded = spy_on_frames(monkeypatch)
    race(model, 2, lambda n: child_aside(model, 10 + n))
    request = child_request()
    model.drive(put_flow(request, context))
    assert encoded.count((request.values["a"]().data, None)) == 1


def spy_on_frames(monkeypatch):
    """What is encoded from now on: pairs of a value and what it builds on."""
    encoded, real, real_increment = [], Codec.encode, Codec.encode_increment

    def encode(codec, plain, base=None, **rest):
        encoded.append((plain, base))
        return real(codec, plain, base, **rest)

    def encode_increment(codec, increment):
        encoded.append((increment.plain, increment.base))
        return real_increment(codec, increment)

    monkeypatch.setattr(Codec, "encode", encode)
    monkeypatch.setattr(Codec, "encode_increment", encode_increment)
    return encoded


def test_an_incremental_frame_is_made_once_while_its_base_stays(model, context, monkeypatch):
    """A fork moves the parent's document, but not what it says."""
    put(model, context, 1, None, {"a": LONG, "b": "old"})
    encoded = spy_on_frames(monkeypatch)
    race(model, 1, lambda n: child_aside(model, 10 + n))
    put(model, context, 2, 1, {"a": [*LONG, "more"], "b": "old"}, fresh=["a"], versions={"b": v(1)})
    assert len(model.commits) == 2
    assert refs(model, 2) == {"a": [cid(1), None], "b": [cid(1)]}
    assert [base for _, base in encoded].count(SERDE.dumps_typed(LONG)[1]) == 1
    assert read(model, 2) == {"a": [*LONG, "more"], "b": "old"}


def test_an_incremental_frame_is_made_again_in_full_without_its_base(model, context):
    put(model, context, 1, None, {"a": LONG, "b": "old"})
    race(model, 1, lambda n: remove(model, doc(1)))
    put(model, context, 2, 1, {"a": [*LONG, "more"], "b": "old"}, fresh=["a"], versions={"b": v(1)})
    assert refs(model, 2) == {"a": [None], "b": [None]}
    assert read(model, 2) == {"a": [*LONG, "more"], "b": "old"}


def test_a_replaced_parent_is_not_built_upon(model, context):
    put(model, context, 1, None, {"a": LONG})
    race(model, 1, lambda n: put_aside(model, make_context(), 1, None, {"a": LONG[1:]}))
    put(model, context, 2, 1, {"a": [*LONG, "more"]})
    assert refs(model, 2) == {"a": [None]}
    assert read(model, 1) == {"a": LONG[1:]}
    assert read(model, 2) == {"a": [*LONG, "more"]}


def test_what_is_kept_in_memory_is_what_was_stored(model, context, parent):
    """A value whose version differs from the parent's is serialized late. By a second time it may have changed."""
    live = {"b": [*LONG, "as it was"]}
    request = put_request(
        2, 1, {"a": "two", "b": live["b"]}, fresh=["a"], versions={"b": "another version"}, context=context
    )
    stored = []

    def before(effect):
        if is_put(effect):
            stored.append(list(live["b"]))
            live["b"][-1] = "as the next step has it"

    model.before = before
    model.drive(put_flow(request, context))
    model.before = None
    assert read(model, 2)["b"] == stored[0]
    found = model.drive(load.get_tuple("t", "", cid(2), lambda value: loads(SERDE, value), context))
    assert found.values["b"] == stored[0], "read from memory"
    put(model, context, 3, 2, {"b": [*stored[0], "more"]})
    assert refs(model, 3)["b"] == [cid(2), None]
    assert read(model, 3) == {"b": [*stored[0], "more"]}, "built upon memory"


def test_a_fork_whose_history_is_not_at_hand_keeps_trying(model, context, parent):
    """Without the value of `b` there is no storing in full."""
    race(model, 5, lambda n: child_aside(model, 10 + n))
    put(model, context, 2, 1, {"a": "two"}, fresh=["a"], versions={"b": v(1)})
    assert len(model.commits) == 6
    assert refs(model, 2) == {"a": [None], "b": [cid(1)]}
    assert read(model, 2) == {"a": "two", "b": "old"}


def test_an_heir_that_was_this_checkpoint_is_no_sibling(model, context, parent):
    """Stored by another try and pruned, in between."""

    def stored_and_pruned(number):
        child_aside(model, 2)
        model.lose(doc(2))

    race(model, 1, stored_and_pruned)
    child(model, context)
    assert len(model.commits) == 2
    assert forked(model.events) == []
    assert read(model, 2) == {"a": "value 2", "b": "old"}


# A parent that is gone


def remove(model, name):
    model.lose(name)


def strip(model, name):
    found = model.docs[name]
    model.place(Doc(name, {"frames": found.fields["frames"]}, 1, found.update_time + 1000))


@pytest.mark.parametrize("go", [remove, strip])
def test_a_parent_that_goes_meanwhile(model, context, parent, go):
    race(model, 1, lambda n: go(model, doc(1)))
    child(model, context)
    assert [type(effect) for effect in model.rounds] == [Commit, GetDocs, GetDocs, Commit]
    assert model.rounds[2].names == (THREAD,)
    assert [write.name for write in model.commits[-1].writes] == [doc(2), THREAD]
    assert model.commits[-1].writes[1] == Merge(THREAD, {}, update_time=model.docs[THREAD].update_time)
    assert refs(model, 2) == {"a": [None], "b": [None]}
    assert read(model, 2) == {"a": "value 2", "b": "old"}
    assert forked(model.events) == []


@pytest.mark.parametrize("go", [remove, strip])
def test_a_parent_that_was_gone_before(model, context, parent, go):
    go(model, doc(1))
    for number, process in enumerate([context, make_context()], start=2):
        child(model, process, number)
        assert read(model, number) == {"a": f"value {number}", "b": "old"}


@pytest.mark.parametrize("go", [remove, strip])
def test_values_that_go_with_the_parent_are_named(model, context, parent, go):
    race(model, 1, lambda n: go(model, doc(1)))
    with pytest.raises(
        ConflictError, match=r"parent '.*0001' was deleted or replaced, and only the parent had the values of \['b'\]"
    ):
        put(model, context, 2, 1, {"a": "two"}, fresh=["a"], versions={"b": v(1)})
    assert doc(2) not in model.docs


@pytest.mark.parametrize("change", [{"digest": b"x"}, {"manifest": b"x"}])
def test_a_damaged_parent_is_not_inherited_from(model, context, parent, change):
    model.place(Doc(doc(1), parent.fields | change, 1, parent.update_time))
    child(model, make_context())
    assert refs(model, 2) == {"a": [None], "b": [None]}
    assert read(model, 2) == {"a": "value 2", "b": "old"}
    with pytest.raises(CheckpointCorruptError) as caught:
        put(model, make_context(), 3, 1, {"a": "two"}, fresh=["a"], versions={"b": v(1)})
    assert (caught.value.thread_id, caught.value.checkpoint_id) == ("t", cid(1))
    assert doc(3) not in model.docs


def test_a_parent_that_was_replaced_gives_nothing_of_its_new_content(model, context, parent):
    """The child continues what its writer saw: from one that is gone, stripped or replaced it takes nothing."""
    race(model, 1, lambda n: put_aside(model, make_context(), 1, None, {"a": "one", "b": "changed"}))
    child(model, context)
    assert read(model, 1) == {"a": "one", "b": "changed"}
    assert read(model, 2) == {"a": "value 2", "b": "old"}


# Objects


def uploads(model):
    return [
        upload
        for effect in model.log
        if isinstance(effect, Gather)
        for upload in effect.effects
        if isinstance(upload, PutBlob)
    ]


def test_objects_of_a_first_checkpoint_carry_the_threads_guard(model, context):
    put(model, context, 1, None, {"a": BIG, "b": "small"})
    assert [type(effect) for effect in model.rounds] == [GetDocs, Commit, Gather, Commit]
    assert model.rounds[0].names == (THREAD,)
    assert model.commits[0].writes == (Create(THREAD, {"thread_id": "t"}),)
    (upload,) = uploads(model)
    assert upload.name == keys.blob("t", "", cid(1), "a", upload.name.split("a-")[1].removesuffix(".zst"))
    guard = model.commits[1].writes[1]
    began = model.docs[THREAD].create_time
    assert guard == Merge(THREAD, {"thread_id": "t", "active": 1_000_000, "root": True}, update_time=began)
    assert (model.result.uploads, model.result.object_bytes) == ([upload], len(upload.data))
    assert read(model, 1) == {"a": BIG, "b": "small"}


def test_objects_that_inherit_nothing_carry_the_guard_of_a_thread_that_is_there(model, context, parent):
    thread = model.docs[THREAD]
    put(model, context, 10, None, {"a": BIG})
    assert model.commits[0].writes[1:] == (Merge(THREAD, {}, update_time=thread.update_time),)
    later = 1_000_000 + NOTE_SECONDS
    put(model, context, 11, None, {"a": BIG}, now=later)
    note = {"thread_id": "t", "active": int(later), "root": True}
    assert model.commits[0].writes[1:] == (Merge(THREAD, note, update_time=thread.update_time),)


def test_objects_of_a_child_need_no_guard(model, context, parent):
    put(model, context, 2, 1, {"a": BIG, "b": "old"}, fresh=["a"], versions={"b": v(1)})
    assert [type(effect) for effect in model.rounds] == [Gather, Commit]
    assert [write.name for write in model.commits[0].writes] == [doc(2), doc(1)]


def test_a_fork_in_full_with_objects_carries_the_guard(model, context, parent):
    race(model, 2, lambda n: child_aside(model, 10 + n))
    put(model, context, 2, 1, {"a": BIG, "b": "old"}, fresh=["a"], versions={"b": v(1)})
    assert [write.name for write in model.commits[-1].writes] == [doc(2), THREAD]
    assert model.commits[-1].writes[1].update_time is not None
    assert read(model, 2) == {"a": BIG, "b": "old"}


def test_an_equal_object_is_not_uploaded_again(model, context):
    put(model, context, 1, None, {"a": BIG})
    put(model, context, 2, 1, {"a": BIG})
    assert uploads(model) == []
    assert read(model, 2) == {"a": BIG}


def test_zero_inline_bytes_send_every_payload_to_cloud_storage(model):
    put(model, make_context(inline_max_bytes=0), 1, None, {"a": "small", "none": None, "b": BIG})
    assert "frames" not in model.docs[doc(1)].fields
    assert len(uploads(model)) == 2
    assert read(model, 1) == {"a": "small", "none": None, "b": BIG}


def test_many_small_values_share_one_object(model, context):
    rng = random.Random(3)
    values = {f"c{n}": rng.randbytes(4000) for n in range(200)}
    put(model, context, 1, None, values)
    (upload,) = uploads(model)
    assert keys.FRAMES in upload.name
    assert "frames" not in model.docs[doc(1)].fields
    assert read(model, 1) == values
    put(model, context, 2, 1, values | {"c5": "new"}, fresh=["c5"], versions={c: v(1) for c in values})
    assert read(model, 2) == values | {"c5": "new"}


def test_a_manifest_that_is_too_large_is_an_object(model, context):
    rng = random.Random(4)
    values = {rng.randbytes(100).hex(): n for n in range(6000)}
    put(model, context, 1, None, values)
    assert [keys.MANIFEST in upload.name for upload in uploads(model)] == [True]
    assert len(model.docs[doc(1)].fields["manifest"]) < 300
    assert read(model, 1) == values
    # A child inherits from it like from any other.
    put(model, make_context(), 2, 1, values | {"new": 1}, fresh=["new"], versions={c: v(1) for c in values})
    assert set(map(tuple, refs(model, 2).values())) == {(cid(1),), (None,)}


def put_metadata(model, context, metadata, values):
    checkpoint = {"v": 4, "id": cid(1), "channel_values": values, "channel_versions": {c: v(1) for c in values}}
    config, versions = {"configurable": {"thread_id": "t"}}, checkpoint["channel_versions"]
    request = arguments.put_request(config, checkpoint, metadata, versions, serde=SERDE, context=context, now=1.0)
    model.drive(put_flow(request, context))


def test_what_queries_may_ask_for_counts_towards_the_documents_size(model, context):
    rng = random.Random(6)
    metadata = {f"key_{n}": rng.randbytes(100).hex() for n in range(1000)} | {"note": rng.randbytes(300_000)}
    values = {f"c{n}": rng.randbytes(7500) for n in range(60)}
    put_metadata(model, context, metadata, values)
    assert to_map(model.docs[doc(1)].fields).ByteSize() < 1 << 20
    assert read(model, 1) == values


def test_more_metadata_than_any_document_holds_is_refused_at_once_or_stored(model, context):
    """Not by the service, after objects were uploaded."""
    metadata = {f"key_{number}": "v" * 200 for number in range(6000)}
    try:
        put_metadata(model, context, metadata, {"a": BIG})
    except InvalidInputError:
        assert model.rounds == []
        return
    assert to_map(model.docs[doc(1)].fields).ByteSize() < 1 << 20
    assert read(model, 1) == {"a": BIG}


# Deletions


def deleting(model, mark="0" * 12):
    model.perform(Commit((Merge(THREAD, {"deleting": mark}),)))


@pytest.mark.parametrize("value", ["small", BIG], ids=["inline", "object"])
def test_who_inherits_nothing_waits_for_a_deletion(model, context, parent, value):
    deleting(model)
    pauses = []

    def before(effect):
        if isinstance(effect, Pause):
            pauses.append(effect.seconds)
            if len(pauses) == 3:
                model.aside(delete_thread("t", make_context()))

    model.before = before
    put(model, context, 10, None, {"a": value})
    assert len(pauses) == 3
    assert sum(pauses) < context.timeout
    assert doc(1) not in model.docs
    assert Create(THREAD, {"thread_id": "t"}) in [c.writes[0] for c in model.commits], "the thread starts again"
    assert model.docs[THREAD].fields == {"thread_id": "t", "active": 1_000_000, "root": True}
    assert read(model, 10) == {"a": value}


@pytest.mark.parametrize("value", ["small", BIG], ids=["inline", "object"])
def test_the_mark_of_a_deletion_that_died_is_removed(model, context, parent, value):
    deleting(model)
    put(model, context, 10, None, {"a": value})
    waited = sum(effect.seconds for effect in model.log if isinstance(effect, Pause))
    assert context.timeout <= waited <= context.timeout + 1
    assert model.events == []
    assert model.result.is_new
    assert model.docs[THREAD].fields == {"thread_id": "t", "active": 1_000_000, "root": True}
    assert read(model, 1) == {"a": "one", "b": "old"}
    assert read(model, 10) == {"a": value}


def test_a_deletion_that_shows_signs_of_life_is_waited_for(model, context, parent):
    """Each batch of objects has a new mark; the machines' clocks are not compared."""
    deleting(model)
    pauses = []

    def before(effect):
        if isinstance(effect, Pause):
            pauses.append(effect.seconds)
            if len(pauses) % 30 == 0 and len(pauses) < 200:
                deleting(model, f"{len(pauses):012}")
            if len(pauses) == 200:
                model.aside(delete_thread("t", make_context()))

    model.before = before
    put(model, context, 10, None, {"a": "small"})
    assert len(pauses) == 200
    assert sum(pauses) > 4 * context.timeout
    assert doc(1) not in model.docs
    assert read(model, 10) == {"a": "small"}


def test_a_deletion_whose_mark_was_removed_starts_over(model, context, parent):
    """The deletion was frozen for longer than any process waits, and continues after all."""
    put(model, context, 2, 1, {"a": BIG, "b": "old"})
    left = [1]

    def before(effect):
        if isinstance(effect, DeleteBlobs) and left:
            left.pop()
            put_aside(model, make_context(), 10, None, {"a": BIG})
            assert read(model, 10) == {"a": BIG}

    model.before = before
    model.drive(delete_thread("t", context))
    assert not left
    marks = [w.fields["deleting"] for c in model.commits for w in c.writes if "deleting" in getattr(w, "fields", ())]
    assert len(set(marks)) == len(marks) >= 3
    assert (model.docs, model.blobs) == ({}, {})
    assert [type(event) for event in model.events] == [ThreadDeleted]


def test_a_deletion_between_upload_and_commit_is_noticed(model, context, parent):
    """The deletion may have listed the objects before they came, or after: both ends are whole."""
    race(model, 1, lambda n: model.aside(delete_thread("t", make_context())))
    put(model, context, 10, None, {"a": BIG})
    assert model.commits[0].writes[1].update_time is not None
    assert len(puts(model)) == 2
    assert model.commits[1].writes == (Create(THREAD, {"thread_id": "t"}),)
    assert read(model, 10) == {"a": BIG}


def test_a_mark_between_upload_and_commit_makes_it_wait(model, context, parent):
    race(model, 1, lambda n: deleting(model))
    put(model, context, 10, None, {"a": BIG})
    assert any(isinstance(effect, Pause) for effect in model.log)
    assert len(puts(model)) == 2
    first, second = uploads(model)
    assert first.name != second.name
    assert read(model, 10) == {"a": BIG}


def test_a_child_whose_thread_is_deleted_meanwhile_is_whole(model, context, parent):
    race(model, 1, lambda n: model.aside(delete_thread("t", make_context())))
    child(model, context)
    assert read(model, 2) == {"a": "value 2", "b": "old"}
    assert doc(1) not in model.docs


@pytest.mark.parametrize("value", ["small", BIG], ids=["inline", "object"])
def test_a_put_at_any_point_of_a_deletion_is_whole_or_gone(value):
    """What stays, and noted its thread, has its thread's document; what goes leaves nothing."""
    at = 0
    while True:
        model, context = Model(), make_context()
        put(model, context, 1, None, {"a": BIG[:10_000]}, run_id="r")
        countdown = [at]

        def before(effect, model=model, countdown=countdown):
            if countdown[0] == 0:
                # Later than the thread's note: an equal note would not move the document's time.
                put_aside(model, make_context(), 2, None, {"a": value}, now=1_000_005.0)
            countdown[0] -= 1

        model.before = before
        model.drive(delete_thread("t", context))
        model.before = None
        if countdown[0] >= 0:
            break
        assert read(model, 1) is None
        if doc(2) in model.docs:
            assert read(model, 2) == {"a": value}
            assert THREAD in model.docs
            assert "deleting" not in model.docs[THREAD].fields
        else:
            assert (model.docs, model.blobs) == ({}, {})
        at += 1
    assert at > 8
    assert (model.docs, model.blobs) == ({}, {})


# Time


def thaw(model, times, seconds=ATTEMPT_DEADLINE_SECONDS + 1):
    """The instance freezes during each of the first `times` uploads."""
    left = [seconds] * times

    def before(effect):
        if isinstance(effect, Gather) and left:
            model.now += left.pop()

    model.before = before


def test_an_attempt_that_is_too_old_starts_over(model, context):
    """Its objects may have been collected as orphans; what is left of them goes."""
    thaw(model, 1)
    put(model, context, 1, None, {"a": BIG})
    first, second = uploads(model)
    assert first.name != second.name
    assert first.data == second.data
    assert set(model.blobs) == {second.name}
    assert len(puts(model)) == 1
    assert model.result.attempts == 2
    assert read(model, 1) == {"a": BIG}


def test_an_attempt_of_just_an_hour_commits(model, context):
    assert ATTEMPT_DEADLINE_SECONDS == 3600
    thaw(model, 1, ATTEMPT_DEADLINE_SECONDS)
    put(model, context, 1, None, {"a": BIG})
    assert len(uploads(model)) == 1


def test_an_attempt_that_finds_its_own_checkpoint_thaws_without_a_commit(model, context):
    """An earlier try of the caller, on another machine, has stored it meanwhile."""
    left = [1]

    def before(effect):
        if isinstance(effect, Gather) and left:
            left.pop()
            model.now += ATTEMPT_DEADLINE_SECONDS + 1
            put_aside(model, make_context(), 1, None, {"a": BIG})

    model.before = before
    put(model, context, 1, None, {"a": BIG})
    assert read(model, 1) == {"a": BIG}


def test_an_instance_that_always_freezes_gives_up(model, context):
    thaw(model, 100)
    with pytest.raises(ConflictError):
        put(model, context, 1, None, {"a": BIG})
    assert len(uploads(model)) == MAX_TRIES
    assert puts(model) == []
    assert set(model.docs) == {THREAD}


@pytest.mark.parametrize("value", ["one", BIG], ids=["inline", "object"])
def test_it_gives_up_after_so_many_tries(model, context, value):
    model.before = lambda effect: model.REFUSED if is_put(effect) else None
    with pytest.raises(ConflictError, match=f"Checkpoint '{cid(1)}' of thread 't'.*{MAX_TRIES} times.*Call again"):
        put(model, context, 1, None, {"a": value})
    assert len(puts(model)) == MAX_TRIES
    assert doc(1) not in model.docs
    assert model.events == []


# Order


def test_a_checkpoint_before_its_parent_does_not_inherit_what_it_has_at_hand(model, context):
    """A deletion goes from greater ids to smaller ones: it would take the parent first."""
    put(model, context, 5, None, {"a": LONG, "b": "old"})
    for process in (context, make_context()):
        put(model, process, 4, 5, {"a": LONG, "b": "old"}, fresh=["a"], versions={"b": v(5)})
        assert refs(model, 4) == {"a": [None], "b": [None]}
        assert "heir" not in model.docs[doc(5)].fields
    put(model, context, 3, 5, {"a": LONG}, versions={"b": v(5)})
    assert refs(model, 3)["b"] == [cid(5)], "the only value of it"
    assert read(model, 3) == {"a": LONG, "b": "old"}


def test_a_checkpoint_before_its_parent_is_told(model, context):
    put(model, context, 5, None, {"a": 1})
    put(model, context, 4, 5, {"a": 1}, fresh=[], versions={"a": v(5)})
    assert model.events[0] == CheckpointOutOfOrder(
        thread_id="t", checkpoint_ns="", checkpoint_id=cid(4), parent_id=cid(5)
    )
    assert read(model, 4) == {"a": 1}


def test_a_checkpoint_that_names_itself_as_its_parent_is_stored(model, context):
    for _ in range(2):
        put(model, context, 1, 1, {"a": 1})
        assert read(model, 1) == {"a": 1}
    assert not any(isinstance(write, Merge) and "heir" in write.fields for c in model.commits for write in c.writes)


# Crashes


class Crash(BaseException):
    """The process ends here."""


def put_small(model, context):
    child(model, context, run_id="r")


def put_objects(model, context):
    put(model, context, 2, 1, {"a": BIG, "b": "old"}, fresh=["a"], versions={"b": v(1)})


def put_in_full(model, context):
    put(model, context, 2, None, {"a": BIG, "b": "old"})


@pytest.mark.parametrize("action", [put_small, put_objects, put_in_full])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_crash_anywhere_leaves_all_or_nothing_and_a_retry_mends_it(action, late, warm):
    """Before every effect, and after every effect whose answer was lost."""
    at = 0
    while True:
        model, context = Model(), make_context()
        put(model, context, 1, None, {"a": "one", "b": "old"})
        countdown = [at]

        def before(effect, model=model, countdown=countdown):
            if countdown[0] == 0:
                if late:
                    model.perform(effect)
                raise Crash
            countdown[0] -= 1

        model.before = before
        try:
            action(model, context if warm else make_context())
        except Crash:
            pass
        else:
            break
        model.before = None
        assert read(model, 1) == {"a": "one", "b": "old"}
        expected = {"a": BIG if action is not put_small else "value 2", "b": "old"}
        assert read(model, 2) in (None, expected)
        action(model, make_context())
        assert read(model, 2) == expected
        before_last = model.docs
        action(model, make_context())
        assert model.docs == before_last
        at += 1
    assert at > 2


@pytest.mark.parametrize("value", ["small", BIG], ids=["inline", "object"])
def test_two_writers_of_one_checkpoint_in_any_order(value):
    """One stops before each of its effects while the other runs through: both succeed, once."""
    at = 0
    while True:
        model, context = Model(), make_context()
        put(model, context, 1, None, {"a": "one", "b": "old"})
        countdown = [at]

        def before(effect, model=model, countdown=countdown):
            if countdown[0] == 0:
                put_aside(model, make_context(), 2, 1, {"a": value, "b": "old"}, fresh=["a"], versions={"b": v(1)})
            countdown[0] -= 1

        model.before = before
        put(model, context, 2, 1, {"a": value, "b": "old"}, fresh=["a"], versions={"b": v(1)})
        if countdown[0] >= 0:
            break
        assert read(model, 2) == {"a": value, "b": "old"}
        assert not any(isinstance(event, CheckpointReplaced) for event in model.events)
        at += 1
    assert at >= 3


@pytest.mark.parametrize("inherits", [True, False], ids=["child", "in full"])
def test_a_deletion_at_any_point_leaves_a_whole_checkpoint(inherits):
    """The thread is deleted just before each effect in turn: what is stored can be read, and no object dangles."""
    at = 0
    while True:
        model, context = Model(), make_context()
        put(model, context, 1, None, {"a": BIG[:10_000], "b": "old"})
        countdown = [at]

        def before(effect, model=model, countdown=countdown):
            if countdown[0] == 0:
                model.aside(delete_thread("t", make_context()))
            countdown[0] -= 1

        model.before = before
        put(model, context, 2, 1 if inherits else None, {"a": BIG, "b": "old"}, fresh=["a"], versions={"b": v(1)})
        if countdown[0] >= 0:
            break
        # A deletion after the commit, at an event, takes the checkpoint along.
        assert read(model, 2) == (None if isinstance(model.log[at], Emit) else {"a": BIG, "b": "old"})
        assert doc(1) not in model.docs
        at += 1
    assert at > 4


def test_the_model_is_no_weaker_than_the_store():
    """What the tests above rely on: preconditions hold for a commit as a whole."""
    model = Model()
    (first,) = model.perform(Commit((Create("a/b", {"x": 1}),)))
    assert model.perform(Commit((Create("a/c", {}), Create("a/b", {})))) is None
    assert model.perform(Commit((Create("a/c", {}), Merge("a/b", {}, update_time=first + 1)))) is None
    assert model.perform(Commit((Create("a/c", {}), Delete("a/d", update_time=1)))) is None
    assert set(model.docs) == {"a/b"}
    assert model.perform(Commit((Merge("a/b", {}, update_time=first),))) == (first,)
    assert model.perform(Commit((Merge("a/b", {"y": 2}, remove=("x",), update_time=first),))) != (first,)
    assert model.docs["a/b"].fields == {"y": 2}
    assert isinstance(model.perform(Now()), float)
