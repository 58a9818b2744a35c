"""`verify`: what a service stores or gives back differs from what was written, and the call notices."""

import random
from dataclasses import replace

import pytest

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    DeleteBlobs,
    Docs,
    Gather,
    GetBlob,
    GetDocs,
    HashBlob,
    Merge,
    PutBlob,
)
from langgraph_gcs_saver.errors import CheckpointVerificationError, FencedError, StoreError, StoreUnavailableError
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered, CheckpointReplaced, VerificationFailed
from langgraph_gcs_saver.flows import leases, save
from langgraph_gcs_saver.flows import writes as writes_module
from langgraph_gcs_saver.flows.readback import TIMES
from langgraph_gcs_saver.flows.threads import delete_thread
from langgraph_gcs_saver.format import keys, manifest
from tests.unit.model import Model, cid, get, make_context, put, put_aside, put_request, put_writes, read

THREAD = keys.thread_doc("t")
BIG = random.Random(5).randbytes(20_000)
"""More than `inline_max_bytes` even when compressed."""


def doc(number):
    return keys.checkpoint_doc("t", "", cid(number))


def v(number):
    return f"{number:032}.5"


def flipped(data):
    at = len(data) // 2
    return data[:at] + bytes([(data[at] + 1) % 256]) + data[at + 1 :]  # a second time it is not as it was


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def context():
    return make_context(verify="readback")


@pytest.fixture
def parent(model, context):
    """Checkpoint 1 with channels `a` and `b`, known to `context`."""
    put(model, context, 1, None, {"a": "one", "b": "old"})
    return model.docs[doc(1)]


def child(model, context, number=2, value="two"):
    put(model, context, number, 1, {"a": value, "b": "old"}, fresh=["a"], versions={"b": v(1)})


def failures(model):
    return [(event.name, event.attempt) for event in model.events if isinstance(event, VerificationFailed)]


def leaves(effect):
    return effect.effects if isinstance(effect, Gather) else (effect,)


def asked(model, kind):
    """The requested effects of one kind, including those in a `Gather`."""
    return [leaf for effect in model.log for leaf in leaves(effect) if isinstance(leaf, kind)]


# Objects


def spoil_objects(model, times, how):
    """Alter an object of each of the first `times` uploads once it is stored; returns the names."""
    spoiled = []

    def after(effect, result):
        uploads = [leaf for leaf in leaves(effect) if isinstance(leaf, PutBlob)]
        if uploads and len(spoiled) < times:
            name = uploads[-1].name
            spoiled.append(name)
            model.spoil(name, how)

    model.after = after
    return spoiled


OBJECTS = {
    "flipped": flipped,
    "cut off": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "emptied": lambda data: b"",
    "gone": lambda data: None,
}


@pytest.mark.parametrize("how", OBJECTS)
@pytest.mark.parametrize("times", [1, 2])
def test_an_object_that_reads_differently_is_written_anew(model, context, parent, how, times):
    spoiled = spoil_objects(model, times, OBJECTS[how])
    seen = []

    def look(effect):
        if stores(effect, 2):
            seen.append((doc(2) in model.docs, manifest.heir_of(model.docs[doc(1)]), read(model, None)))

    model.before = look
    child(model, context, value=BIG)
    # Each time nothing of it was there, and the latest one was what it had been.
    assert seen == [(False, None, {"a": "one", "b": "old"})] * (times + 1)
    assert failures(model) == [(name, number) for number, name in enumerate(spoiled, 1)]
    names = [upload.name for upload in asked(model, PutBlob)]
    assert len(set(names)) == len(names) == times + 1
    assert set(model.blobs) == set(names) - set(spoiled)
    assert model.result.is_new
    assert model.result.attempts == times + 1
    assert read(model, 2) == read(model, None) == {"a": BIG, "b": "old"}


@pytest.mark.parametrize("how", OBJECTS)
@pytest.mark.parametrize("first", [True, False], ids=["first", "child"])
def test_an_object_that_reads_differently_each_time(model, context, how, first):
    if not first:
        put(model, context, 1, None, {"a": "one", "b": "old"})
    before = model.docs
    spoiled = spoil_objects(model, 100, OBJECTS[how])
    what = (model, context, 2, None if first else 1, {"a": BIG, "b": BIG[1:]})
    with pytest.raises(CheckpointVerificationError, match=f"Checkpoint '{cid(2)}' of thread 't'.*Call again") as caught:
        put(*what)
    assert isinstance(caught.value, StoreError)
    assert spoiled[-1] in str(caught.value)
    assert len(spoiled) == TIMES == 3
    assert failures(model) == [(name, number) for number, name in enumerate(spoiled, 1)]
    assert len(asked(model, PutBlob)) == 2 * TIMES
    assert model.blobs == {}
    model.lose(THREAD) if first else None
    assert {name: found.fields for name, found in model.docs.items()} == {
        name: found.fields for name, found in before.items()
    }
    model.after = None
    assert read(model, 2) is None
    assert read(model, None) == (None if first else {"a": "one", "b": "old"})
    # The state is still in the caller's hands.
    put(*what)
    assert read(model, None) == {"a": BIG, "b": BIG[1:]}


def test_objects_that_the_service_gives_back_wrong_are_as_bad(model, context, parent):
    """An object that is corrupt where it is stored looks the same as one that is corrupted on the way back."""
    left = ["0" * 64]

    def before(effect):
        if isinstance(effect, Gather) and left and isinstance(effect.effects[-1], HashBlob):
            return (model.perform(effect.effects[0]), left.pop())
        return None

    model.before = before
    child(model, context, value=BIG)
    assert len(failures(model)) == 1
    assert len(model.blobs) == 1
    assert read(model, 2) == {"a": BIG, "b": "old"}


@pytest.mark.parametrize("how", OBJECTS)
@pytest.mark.parametrize("times", [1, 100])
def test_lost_answers_and_objects_that_read_differently(model, context, parent, how, times):
    """The call finds its own document, which is whole, and must not take it for success."""
    model.before = lambda effect: model.LOST if stores(effect, 2) else None
    spoiled = spoil_objects(model, times, OBJECTS[how])
    if times == 1:
        child(model, context, value=BIG)
        assert read(model, 2) == read(model, None) == {"a": BIG, "b": "old"}
    else:
        with pytest.raises(CheckpointVerificationError):
            child(model, context, value=BIG)
        assert len(spoiled) == TIMES
    assert failures(model) == [(name, number) for number, name in enumerate(spoiled, 1)]


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "lost"])
@pytest.mark.parametrize("between", ["before the proof", "in the proof"])
def test_an_object_that_was_deleted_with_its_thread_was_stored(model, context, parent, lost, between):
    """The service answers the proof's reads in any order: the document may be read before, and the object after."""

    def before(effect):
        if stores(effect, 2):
            return model.LOST if lost else None
        if not (isinstance(effect, Gather) and isinstance(effect.effects[-1], HashBlob)):
            return None
        docs = model.perform(effect.effects[0])
        model.aside(delete_thread("t", make_context()))
        return None if between == "before the proof" else (docs, model.perform(effect.effects[-1]))

    model.before = before
    child(model, context, value=BIG)
    assert failures(model) == []
    assert len(asked(model, PutBlob)) == 1
    assert (model.blobs, doc(2) in model.docs) == ({}, False)


def test_the_objects_that_a_child_has_inherited_stay(model, context, parent):
    """Another process has seen the checkpoint before its proof, and one of its two objects is corrupt."""
    values = {"a": BIG, "b": BIG[1:]}

    def after(effect, result):
        if stores(effect, 2):
            model.after = None
            model.spoil(next(one.name for one in asked(model, PutBlob) if "/a-" in one.name), flipped)
            put_aside(model, make_context(), 3, 2, {**values, "c": 1}, fresh=["c"], versions={"a": v(2), "b": v(2)})

    model.after = after
    put(model, context, 2, 1, values)
    assert [number for _, number in failures(model)] == [1]
    assert read(model, 2) == values
    inherited = {one.name for one in asked(model, PutBlob) if "/b-" in one.name}
    assert inherited <= set(model.blobs)


def test_a_checkpoint_on_which_a_child_builds_is_not_withdrawn(model, context, parent):
    """Another process has seen it before its proof. The child has values of the document, and not of the object."""

    def after(effect, result):
        if stores(effect, 2):
            model.spoil(asked(model, PutBlob)[-1].name, flipped)
            if len(asked(model, PutBlob)) == 1:
                child_values = {"a": "other", "small": "kept" * 100}
                put_aside(model, make_context(), 3, 2, child_values, fresh=["a"], versions={"a": v(3), "small": v(2)})

    model.after = after
    with pytest.raises(CheckpointVerificationError):
        put(model, context, 2, 1, {"a": BIG, "small": "kept" * 100})
    assert [number for _, number in failures(model)] == [1, 2, 3]
    assert read(model, 3) == {"a": "other", "small": "kept" * 100}


def acquire(model, context, nonce):
    request = leases.Acquire("t", nonce, nonce, 60.0, take_over=True)
    return model.aside(leases.Acquisition(request, 0.0, context).flow()).fence


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "corrupt"])
def test_an_object_is_read_back_although_the_lease_was_taken_over_meanwhile(model, context, parent, is_whole):
    """An acquisition changes the newest checkpoint's field `fence`, and nothing of its content."""
    fence = acquire(model, context, "nonceone")

    def after(effect, result):
        if stores(effect, 2) and result is not None:
            model.after = None
            if not is_whole:
                model.spoil(asked(model, PutBlob)[-1].name, flipped)
            acquire(model, make_context(), "noncetwo")

    model.after = after
    request = replace(put_request(2, 1, {"a": BIG}, context=context), fence=fence)
    if is_whole:
        model.drive(save.put(request, context))
        assert read(model, 2) == {"a": BIG}
    else:
        with pytest.raises(FencedError):
            model.drive(save.put(request, context))
    assert [number for _, number in failures(model)] == ([] if is_whole else [1])


def test_every_kind_of_object_is_read_back(model, context):
    """Frames of one channel, of many, and manifests."""
    rng = random.Random(3)
    values = {rng.randbytes(100).hex(): rng.randbytes(100) for n in range(6000)} | {"own": BIG}
    put(model, context, 1, None, values)
    names = {name.split("/")[-1].rpartition("-")[0] for name in model.blobs}
    assert names == {"own", keys.FRAMES, keys.MANIFEST}
    assert {effect.name for effect in asked(model, HashBlob)} == set(model.blobs)
    for name in sorted(model.blobs):
        kind = name.split("/")[-1].rpartition("-")[0]
        other, spoiled = Model(), []

        def after(effect, result, other=other, kind=kind, spoiled=spoiled):
            for leaf in leaves(effect):
                if isinstance(leaf, PutBlob) and f"/{kind}-" in leaf.name and not spoiled:
                    other.spoil(leaf.name, flipped)
                    spoiled.append(leaf.name)

        other.after = after
        put(other, make_context(verify="readback"), 1, None, values)
        assert failures(other) == [(spoiled[0], 1)]
        assert len(other.blobs) == 3
        assert read(other, 1) == values


# Documents


def stores(effect, number):
    """Whether it is the commit that stores checkpoint `number`, not one that withdraws it."""
    if not isinstance(effect, Commit) or len(effect.writes) < 2 or effect.writes[0].name != doc(number):
        return False
    if "digest" not in getattr(effect.writes[0], "fields", ()):
        return False
    beside = effect.writes[1]
    if beside.name == THREAD:
        return not getattr(beside, "remove", ())
    return beside.fields.get("heir", "").startswith(f"{cid(number)}#")


def spoil_document(model, number, times, how):
    """Alter the document of a checkpoint each of the first `times` that it is stored."""
    spoiled = []

    def after(effect, result):
        if stores(effect, number) and result is not None and len(spoiled) < times:
            spoiled.append(number)
            how(model, doc(number))

    model.after = after
    return spoiled


def flip(field):
    def how(model, name):
        model.change(name, **{field: flipped(model.docs[name].fields[field])})

    return how


def drop(field):
    def how(model, name):
        model.change(name, **{field: ...})

    return how


def gone(model, name):
    model.lose(name)


DOCUMENTS = {
    "manifest flipped": flip("manifest"),
    "frames flipped": flip("frames"),
    "digest flipped": flip("digest"),
    "frames cut off": lambda model, name: model.change(name, frames=model.docs[name].fields["frames"][:-1]),
    "run changed": lambda model, name: model.change(name, run_id="another"),
    "filter changed": lambda model, name: model.change(name, filter={"step": 77}),
    **{f"{field} dropped": drop(field) for field in ("ns", "format", "filter", "manifest", "frames", "digest")},
    "gone": gone,
}


@pytest.mark.parametrize("how", DOCUMENTS)
@pytest.mark.parametrize("first", [True, False], ids=["first", "child"])
def test_a_document_that_reads_differently_is_withdrawn_and_written_anew(model, context, how, first):
    if not first:
        put(model, context, 1, None, {"a": "one", "b": "old"})
    before = model.docs
    spoil_document(model, 2, 1, DOCUMENTS[how])
    between = []

    def look(effect):
        if stores(effect, 2):
            between.append((doc(2) in model.docs, manifest.heir_of(model.docs[doc(1)]) if not first else None))
            between.append(read(model, None))

    model.before = look
    put(model, context, 2, None if first else 1, {"a": "two", "b": "old"}, run_id="r")
    # Both times nothing of it was there, and the latest one was what it had been.
    assert between == [(False, None), None if first else {"a": "one", "b": "old"}] * 2
    assert failures(model) == [(doc(2), 1)]
    assert model.result.attempts == 2
    assert read(model, 2) == read(model, None) == {"a": "two", "b": "old"}
    if not first:
        assert manifest.heir_of(model.docs[doc(1)]) == cid(2)
        assert model.docs[doc(1)].fields.items() >= before[doc(1)].fields.items()
    # What the process has learned is right: the next step is warm.
    model.before = model.after = None
    put(model, context, 3, 2, {"a": "three", "b": "old"}, fresh=["a"], versions={"b": v(2)})
    assert [type(effect) for effect in model.rounds] == [Commit, GetDocs]
    assert read(model, 3) == {"a": "three", "b": "old"}


@pytest.mark.parametrize("how", DOCUMENTS)
@pytest.mark.parametrize("forked", [False, True], ids=["first child", "second child"])
def test_a_document_that_reads_differently_each_time(model, context, parent, how, forked):
    """Nothing is visible; the parent's heir is the one before, or the parent would seem to have lost a child."""
    if forked:
        child(model, context, 4, "four")
    before = model.docs
    spoiled = spoil_document(model, 5, 100, DOCUMENTS[how])
    with pytest.raises(CheckpointVerificationError, match=f"Checkpoint '{cid(5)}' of thread 't'"):
        put(model, context, 5, 1, {"a": "five", "b": "old"}, run_id="r", fresh=["a"], versions={"b": v(1)})
    assert len(spoiled) == TIMES
    assert failures(model) == [(doc(5), number) for number in (1, 2, 3)]
    assert doc(5) not in model.docs
    assert manifest.heir_of(model.docs[doc(1)]) == (cid(4) if forked else None)
    rest = {key: value for key, value in model.docs[doc(1)].fields.items() if key != "heir"}
    assert rest == {key: value for key, value in before[doc(1)].fields.items() if key != "heir"}
    model.after = None
    found = model.drive(get(None))
    assert found.values == {"a": "four" if forked else "one", "b": "old"}
    assert "recovered_from" not in found.metadata
    assert not any(isinstance(event, CheckpointRecovered) for event in model.events)
    child(model, context, 5, "five")
    assert read(model, None) == {"a": "five", "b": "old"}


@pytest.mark.parametrize("how", DOCUMENTS)
def test_a_first_document_that_reads_differently_each_time_leaves_an_empty_thread(model, context, how):
    """The thread must not look like one that has lost its checkpoints, because then it could not start over."""
    spoil_document(model, 1, 100, DOCUMENTS[how])
    with pytest.raises(CheckpointVerificationError):
        put(model, context, 1, None, {"a": "one"}, run_id="r")
    model.after = None
    assert doc(1) not in model.docs
    assert read(model, 1) is None
    assert read(model, None) is None
    put(model, context, 1, None, {"a": "one"})
    assert model.docs[THREAD].fields["root"] is True
    assert read(model, None) == {"a": "one"}


def test_withdrawing_leaves_the_root_to_those_who_have_one(model, context, parent):
    """A second root of a thread that has checkpoints: that it had some remains true."""
    spoil_document(model, 5, 100, DOCUMENTS["manifest flipped"])
    with pytest.raises(CheckpointVerificationError):
        put(model, context, 5, None, {"a": "five"})
    assert model.docs[THREAD].fields["root"] is True
    assert read(model, None) == {"a": "one", "b": "old"}


@pytest.mark.parametrize("how", DOCUMENTS)
@pytest.mark.parametrize("times", [1, 100])
def test_the_former_content_of_a_document_comes_back(model, context, parent, how, times):
    """A child builds on it."""
    child(model, context)
    before = model.docs
    spoil_document(model, 1, times, DOCUMENTS[how])
    seen = []

    def look(effect):
        if stores(effect, 1) and isinstance(effect.writes[0], Merge):
            seen.append(read(model, 2))

    model.before = look
    again = {"a": "other content", "c": "more"}
    if times == 1:
        put(model, make_context(verify="readback"), 1, None, again, run_id="r")
        assert read(model, 1) == again
    else:
        with pytest.raises(CheckpointVerificationError):
            put(model, make_context(verify="readback"), 1, None, again, run_id="r")
        if how != "gone":  # A deleted document is missing, with what it had before.
            assert model.docs[doc(1)].fields == before[doc(1)].fields
            assert read(model, 1) == {"a": "one", "b": "old"}
    model.before = model.after = None
    if how != "gone":
        assert read(model, 2) == {"a": "two", "b": "old"}
        assert seen == [{"a": "two", "b": "old"}] * len(seen)
        assert len(seen) >= 2


@pytest.mark.parametrize("ends", [False, True])
def test_the_former_content_comes_back_without_touching_holds(model, context, parent, ends):
    """Another process has held the checkpoint, or has ended its hold, since this one has read the document."""
    key = "set T s"
    if ends:
        model.change(doc(1), holds={key: True})

    def how(model, name):
        flip("manifest")(model, name)
        model.change(name, holds={} if ends else {key: True})

    spoil_document(model, 1, 100, how)
    with pytest.raises(CheckpointVerificationError):
        put(model, make_context(verify="readback"), 1, None, {"a": "other content"}, run_id="r")
    assert read(model, 1) == {"a": "one", "b": "old"}
    assert model.docs[doc(1)].fields["holds"] == ({} if ends else {key: True})


# Others, meanwhile


def meanwhile(model, number, act):
    """Call `act` once, just after checkpoint `number` was stored."""
    left = [1]

    def after(effect, result):
        if stores(effect, number) and result is not None and left:
            left.pop()
            act()

    model.after = after


def test_a_child_that_comes_before_it_was_read_back(model, context, parent):
    """It has set the heir, and moved the document's time."""
    meanwhile(
        model,
        2,
        lambda: put_aside(model, make_context(), 3, 2, {"a": "3", "b": "old"}, fresh=["a"], versions={"b": v(1)}),
    )
    child(model, context)
    assert failures(model) == []
    assert manifest.heir_of(model.docs[doc(2)]) == cid(3)
    assert read(model, 2) == {"a": "two", "b": "old"}
    assert read(model, 3) == {"a": "3", "b": "old"}


def test_frames_that_read_differently_after_a_child_came(model, context, parent):
    """The child has changed the document's field `heir`, and nothing of its content."""
    values = {"a": "two" * 100, "b": "old"}

    def after(effect, result):
        if stores(effect, 2):
            model.after = None
            flip("frames")(model, doc(2))
            put_aside(model, make_context(), 3, 2, {**values, "a": "other"}, fresh=["a"], versions={"b": v(1)})

    model.after = after
    put(model, context, 2, 1, values, fresh=["a"], versions={"b": v(1)})
    assert failures(model) == [(doc(2), 1)]
    assert read(model, 2) == values
    assert read(model, 3) == {"a": "other", "b": "old"}


def test_another_content_that_comes_before_it_was_read_back(model, context, parent):
    meanwhile(model, 2, lambda: put_aside(model, make_context(), 2, 1, {"a": "theirs", "b": "old"}))
    child(model, context)
    assert failures(model) == []
    assert len(model.commits) == 1
    assert read(model, 2) == {"a": "theirs", "b": "old"}


def test_a_sibling_that_comes_while_it_is_withdrawn(model, context, parent):
    """The heir is the sibling then, and stays so."""
    spoil_document(model, 2, 100, DOCUMENTS["manifest flipped"])
    left = [1]

    def before(effect):
        if isinstance(effect, Commit) and not stores(effect, 2) and left:
            left.pop()
            put_aside(model, make_context(), 7, 1, {"a": "seven", "b": "old"}, fresh=["a"], versions={"b": v(1)})

    model.before = before
    with pytest.raises(CheckpointVerificationError):
        child(model, context)
    assert not left
    model.before = model.after = None
    assert doc(2) not in model.docs
    assert manifest.heir_of(model.docs[doc(1)]) == cid(7)
    assert read(model, None) == {"a": "seven", "b": "old"}


# Lost answers


def lose_answers(model, number, times):
    """The first commits that store checkpoint `number` are applied, and their answers are lost."""
    left = [1] * times
    model.before = lambda effect: model.LOST if stores(effect, number) and left and left.pop() else None


HINTS = {"run changed", "filter changed", "filter dropped"}
"""Damage that only reading back notices. No digest covers these fields, because only queries use them."""


@pytest.mark.parametrize("how", sorted(DOCUMENTS.keys() - HINTS))
def test_a_lost_answer_and_damage(model, context, parent, how):
    """The call looks for its own document, and must not take a damaged one for success."""
    lose_answers(model, 2, 1)
    spoil_document(model, 2, 1, DOCUMENTS[how])
    child(model, context)
    model.before = model.after = None
    assert read(model, 2) == read(model, None) == {"a": "two", "b": "old"}
    assert read(model, 1) == {"a": "one", "b": "old"}


@pytest.mark.parametrize("how", sorted(DOCUMENTS.keys() - HINTS))
def test_a_lost_answer_and_damage_each_time(model, context, parent, how):
    """No reader takes the remains for a checkpoint. The checkpoint before is found, and says so."""
    lose_answers(model, 2, 1)
    spoil_document(model, 2, 100, DOCUMENTS[how])
    with pytest.raises(CheckpointVerificationError):
        child(model, context)
    model.before = model.after = None
    found = model.drive(get(None))
    assert found.values == {"a": "one", "b": "old"}
    assert found.metadata.get("recovered_from") in {cid(2), None}
    child(model, context)
    assert read(model, None) == {"a": "two", "b": "old"}


@pytest.mark.parametrize("value", ["two", BIG], ids=["inline", "object"])
def test_a_lost_answer_without_damage_is_no_mismatch(model, context, parent, value):
    model.before = lambda effect: model.LOST if stores(effect, 2) else None
    child(model, context, value=value)
    assert len(model.commits) == 1
    assert failures(model) == []
    assert not any(isinstance(event, CheckpointReplaced) for event in model.events)
    assert read(model, 2) == {"a": value, "b": "old"}


@pytest.mark.parametrize("first", [{"a": "one"}, {}, {"a": "one", "big": BIG}], ids=["some", "none", "object"])
@pytest.mark.parametrize("second", [{"a": "other"}, {}, {"big": BIG}], ids=["others", "none", "object"])
def test_a_repeated_put_changes_nothing(model, context, first, second):
    """Whatever its document had before, and whatever process repeats it: nothing differs."""
    put(model, context, 1, None, first)
    put(model, context, 2, 1, first)
    put(model, make_context(verify="readback"), 1, None, second)
    before = model.docs
    for again in (context, make_context(verify="readback"), make_context(verify="readback", incremental=False)):
        put(model, again, 1, None, second)
        assert model.docs == before
        assert failures(model) == []
    assert read(model, 1) == second
    assert read(model, 2) == first


def test_a_repeated_step_of_another_process_changes_nothing(model, context):
    """It has no base at hand, and would make a full frame of what is stored as an increment."""
    long = [f"message {number} of some text, {number * 7919 % 1000}" for number in range(40)]
    put(model, context, 1, None, {"a": long})
    put(model, context, 2, 1, {"a": [*long, "more"]})
    before = model.docs
    put(model, make_context(verify="readback"), 2, 1, {"a": [*long, "more"]})
    assert model.docs == before
    assert failures(model) == []


@pytest.mark.parametrize("owner", [1, 2])
def test_a_repeated_step_of_another_process_is_not_taken_for_stored_when_it_is_damaged(model, context, owner):
    """The increment, or the base that it needs."""
    long = [f"message {number} of some text, {number * 7919 % 1000}" for number in range(40)]
    put(model, context, 1, None, {"a": long})
    put(model, context, 2, 1, {"a": [*long, "more"]})
    flip("frames")(model, doc(owner))
    put(model, make_context(verify="readback"), 2, 1, {"a": [*long, "more"]})
    assert read(model, 2) == {"a": [*long, "more"]}


# Modes


@pytest.mark.parametrize("verify", ["off", "checksum"])
def test_other_modes_read_nothing_back(model, verify):
    context = make_context(verify=verify)
    put(model, context, 1, None, {"a": "one", "b": "old"})
    assert [type(effect) for effect in model.rounds] == [Commit]
    child(model, context, value=BIG)
    assert [type(effect) for effect in model.rounds] == [Gather, Commit]
    assert [upload.checked for upload in asked(model, PutBlob)] == [verify == "checksum"]
    assert not asked(model, HashBlob)
    put_writes(model, context, 2, [("a", 1), ("__error__", "e")])
    assert [type(effect) for effect in model.rounds] == [Commit]
    put_writes(model, make_context(verify=verify, inline_max_bytes=0), 2, [("a", 1)], "other")
    assert [type(effect) for effect in model.rounds] == [GetDocs, Gather, Commit]
    assert [upload.checked for upload in asked(model, PutBlob)] == [verify == "checksum"]


def test_what_is_read_back_goes_with_its_checksum_too(model, context, parent):
    child(model, context, value=BIG)
    assert [type(effect) for effect in model.rounds] == [Gather, Commit, Gather]
    assert [upload.checked for upload in asked(model, PutBlob)] == [True]
    put(model, context, 3, 2, {f"c{n}": random.Random(n).randbytes(9000) for n in range(3)})
    assert {e.name for e in asked(model, HashBlob)} == {e.name for e in asked(model, PutBlob)}
    assert [type(effect) for effect in model.rounds] == [Gather, Commit, Gather]


@pytest.mark.parametrize("verify", ["off", "checksum"])
@pytest.mark.parametrize("how", ["manifest flipped", "frames flipped"])
def test_whatever_the_mode_a_reader_notices(model, verify, how):
    """Damage that is not read back is still visible to readers, who do not take it for what was written."""
    context = make_context(verify=verify)
    put(model, context, 1, None, {"a": "one", "b": "old"})
    spoil_document(model, 2, 1, DOCUMENTS[how])
    child(model, context)
    assert failures(model) == []
    found = model.drive(get(None))
    assert found.values == {"a": "one", "b": "old"}
    assert found.metadata["recovered_from"] == cid(2)


# Pending writes


def pending(model, number=1):
    """The pending writes of a checkpoint, as another process reads them."""
    return list(model.aside(get(number)).writes)


def write_docs(model):
    return {name: found.fields for name, found in model.docs.items() if "/lg_writes/" in name}


def spoil_writes(model, times, which, how):
    """Alter a document of pending writes, each of the first `times` that it is written: `which` ends its name."""
    spoiled = []

    def after(effect, result):
        if isinstance(effect, Commit) and result is not None and len(spoiled) < times:
            for write in effect.writes:
                fields = getattr(write, "fields", {})
                regular = write.name.rsplit("!", 1)[-1] != "s"
                if "/lg_writes/" in write.name and len(fields) > 1 and regular == (which == "regular"):
                    spoiled.append(write.name)
                    how(model, write.name)

    model.after = after
    return spoiled


def writes_are_put(effect):
    """Whether it is a commit that stores pending writes, not one that withdraws them."""
    return isinstance(effect, Commit) and any(len(getattr(write, "fields", ())) > 1 for write in effect.writes)


def flip_field(number):
    def how(model, name):
        fields = sorted(key for key in model.docs[name].fields if key != "format")
        field = fields[number]
        model.change(name, **{field: flipped(model.docs[name].fields[field])})

    return how


WRITES = {
    "flipped": flip_field(0),
    "dropped": lambda model, name: model.change(name, writes=..., w1=..., w3=...),
    "format dropped": drop("format"),
    "gone": gone,
}
REGULAR = [("a", 1), ("b", [2])]
SPECIAL = [("__error__", "e"), ("__interrupt__", ["?"])]


def expected(*writes):
    return sorted(("task", channel, value) for channel, value in writes)


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("which", ["regular", "special"])
@pytest.mark.parametrize("times", [1, 2])
def test_pending_writes_that_read_differently_are_written_anew(model, context, parent, *, how, which, times):
    spoiled = spoil_writes(model, times, which, WRITES[how])
    put_writes(model, context, 1, REGULAR + SPECIAL)
    assert len(spoiled) == times
    assert [number for _, number in failures(model)] == list(range(1, times + 1))
    assert sorted(pending(model)) == expected(*REGULAR, *SPECIAL)


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("which", ["regular", "special"])
def test_pending_writes_that_read_differently_each_time(model, context, parent, how, which):
    """All of a call or nothing: half of it would be taken for a finished task."""
    spoiled = spoil_writes(model, 100, which, WRITES[how])
    with pytest.raises(CheckpointVerificationError, match=r"Pending writes of task 'task'.*thread 't'"):
        put_writes(model, context, 1, REGULAR + SPECIAL)
    assert len(spoiled) == TIMES
    assert write_docs(model) == {}
    model.after = None
    put_writes(model, context, 1, REGULAR + SPECIAL)
    assert sorted(pending(model)) == expected(*REGULAR, *SPECIAL)


@pytest.mark.parametrize("how", ["flipped", "dropped", "gone"])
def test_a_special_write_that_reads_differently_costs_no_other(model, context, parent, how):
    """Another call's field in the same document stays."""
    put_writes(model, context, 1, [("__resume__", ["yes"])])
    (before,) = write_docs(model).values()
    ways = WRITES | {"flipped": lambda model, name: model.change(name, w1=flipped(model.docs[name].fields["w1"]))}
    ways["dropped"] = lambda model, name: model.change(name, w1=...)
    spoil_writes(model, 100, "special", ways[how])
    with pytest.raises(CheckpointVerificationError):
        put_writes(model, context, 1, [("__error__", "e")])
    model.after = None
    if how != "gone":
        assert list(write_docs(model).values()) == [before]
        assert pending(model) == [("task", "__resume__", ["yes"])]


@pytest.mark.parametrize("which", ["regular", "special"])
@pytest.mark.parametrize("times", [1, 100])
def test_lost_answers_and_pending_writes_that_read_differently(model, context, parent, which, times):
    """Its own document is there, and it must not take a damaged one for success."""
    model.before = lambda effect: model.LOST if isinstance(effect, Commit) and len(model.commits) == 1 else None
    spoil_writes(model, times, which, WRITES["flipped"])
    if times == 1:
        put_writes(model, context, 1, REGULAR + SPECIAL)
        assert sorted(pending(model)) == expected(*REGULAR, *SPECIAL)
    else:
        with pytest.raises(CheckpointVerificationError):
            put_writes(model, context, 1, REGULAR + SPECIAL)


@pytest.mark.parametrize("most", [0, 128 << 10], ids=["objects", "documents"])
@pytest.mark.parametrize("verify", ["readback", "checksum"])
def test_one_wrong_read_costs_no_writes_of_another_call(model, parent, verify, most):
    """The first call wins. If this one crashes at any effect, the first one's writes are still there."""
    context = make_context(verify=verify, inline_max_bytes=most)
    put_writes(model, context, 1, REGULAR)
    kept = write_docs(model)
    (name,) = kept
    misread = []

    def before(effect):
        assert write_docs(model) == kept
        if isinstance(effect, GetDocs) and name in effect.names and not misread:
            misread.append(effect)
            found = model.docs[name]
            wrong = {**found.fields, "writes": flipped(found.fields["writes"])}
            return Docs([replace(found, fields=wrong)], found.update_time)
        return None

    model.before = before
    put_writes(model, context, 1, [("a", 9), ("b", [8])])
    assert misread
    assert failures(model) == []
    assert write_docs(model) == kept
    assert sorted(pending(model)) == expected(*REGULAR)


def test_special_writes_of_an_earlier_call_that_read_differently_each_time_are_not_called_withdrawn(
    model, context, parent
):
    put_writes(model, context, 1, REGULAR)
    spoiled = spoil_writes(model, 100, "special", WRITES["flipped"])
    with pytest.raises(CheckpointVerificationError, match="may be stored beside them") as caught:
        put_writes(model, context, 1, REGULAR + SPECIAL)
    assert len(spoiled) == TIMES
    assert "withdrawn" not in str(caught.value)
    assert len(write_docs(model)) == 2


@pytest.mark.parametrize("writes", [REGULAR, SPECIAL, REGULAR + SPECIAL], ids=["regular", "special", "both"])
@pytest.mark.parametrize("how", OBJECTS)
@pytest.mark.parametrize("times", [1, 100])
def test_objects_of_pending_writes(model, parent, writes, how, times):
    context = make_context(verify="readback", inline_max_bytes=0)
    spoiled = spoil_objects(model, times, OBJECTS[how])
    seen = []
    model.before = lambda effect: seen.append(write_docs(model)) if writes_are_put(effect) else None
    if times == 1:
        put_writes(model, context, 1, writes)
        assert sorted(pending(model)) == expected(*writes)
        assert set(model.blobs).isdisjoint(spoiled)
    else:
        with pytest.raises(CheckpointVerificationError):
            put_writes(model, context, 1, writes)
        assert len(spoiled) == TIMES
        assert (write_docs(model), model.blobs) == ({}, {})
        assert pending(model) == []
    assert seen == [{}] * (times + 1 if times == 1 else TIMES), "writes of the try before are still there"
    assert failures(model) == [(name, number) for number, name in enumerate(spoiled, 1)]


@pytest.mark.parametrize("how", OBJECTS)
def test_the_objects_of_a_call_that_crashed_before_it_read_them_back(model, parent, how):
    """The same call again takes its document for stored only if the object is whole."""
    context = make_context(verify="readback", inline_max_bytes=0)

    def crash(effect):
        if isinstance(effect, Gather) and isinstance(effect.effects[-1], HashBlob):
            raise StoreUnavailableError("the process ends here")

    model.before = crash
    with pytest.raises(StoreUnavailableError):
        put_writes(model, context, 1, REGULAR)
    model.before = None
    (name,) = model.blobs
    put_writes(model, context, 1, REGULAR)
    assert not model.commits
    model.spoil(name, OBJECTS[how])
    put_writes(model, context, 1, REGULAR)
    assert [type(event) for event in model.events] == [CheckpointDamaged]
    assert sorted(pending(model)) == expected(*REGULAR)


@pytest.mark.parametrize("how", OBJECTS)
@pytest.mark.parametrize("times", [1, 100])
def test_lost_answers_and_objects_of_pending_writes(model, parent, how, times):
    context = make_context(verify="readback", inline_max_bytes=0)
    model.before = lambda effect: model.LOST if writes_are_put(effect) and len(model.commits) == 1 else None
    spoiled = spoil_objects(model, times, OBJECTS[how])
    if times == 1:
        put_writes(model, context, 1, REGULAR)
        assert sorted(pending(model)) == expected(*REGULAR)
    else:
        with pytest.raises(CheckpointVerificationError):
            put_writes(model, context, 1, REGULAR)
        assert len(spoiled) == 1 + TIMES
    assert next(event.name for event in model.events if isinstance(event, CheckpointDamaged)) == spoiled[0]
    assert failures(model) == [(name, number) for number, name in enumerate(spoiled[1:], 1)]


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "lost"])
def test_an_object_of_pending_writes_that_was_deleted_with_its_thread_was_stored(model, parent, lost):
    context = make_context(verify="readback", inline_max_bytes=0)

    def before(effect):
        if lost and writes_are_put(effect):
            return model.LOST
        if isinstance(effect, GetBlob):
            model.aside(delete_thread("t", make_context()))
        if not (isinstance(effect, Gather) and isinstance(effect.effects[-1], HashBlob)):
            return None
        docs = model.perform(effect.effects[0])
        model.aside(delete_thread("t", make_context()))
        return (docs, model.perform(effect.effects[-1]))

    model.before = before
    put_writes(model, context, 1, REGULAR)
    assert failures(model) == []
    assert len(asked(model, PutBlob)) == 1
    assert (model.blobs, write_docs(model)) == ({}, {})


def test_what_another_call_wrote_meanwhile_is_as_good(model, context, parent):
    """The last special write wins, and it is whole."""

    def after(effect, result):
        if isinstance(effect, Commit) and len(model.commits) == 1:
            log, model.after = model.log, None
            put_writes(model, make_context(), 1, [("__resume__", ["theirs"])])
            model.log = log

    model.after = after
    put_writes(model, context, 1, [("__resume__", ["mine"])])
    assert failures(model) == []
    assert pending(model) == [("task", "__resume__", ["theirs"])]


def test_pending_writes_over_the_limit_of_a_document_are_read_back(model, context, parent):
    large = random.Random(1).randbytes(writes_module.INLINE_BYTES + 1)
    put_writes(model, context, 1, [("a", large), ("__interrupt__", large)])
    assert [type(effect) for effect in model.rounds] == [GetDocs, Gather, Commit, Gather]
    assert {e.name for e in asked(model, HashBlob)} == {e.name for e in asked(model, PutBlob)} == set(model.blobs)
    assert not any(isinstance(effect, DeleteBlobs) for effect in model.log)


def test_the_spoilers_spoil(model):
    """What the tests above rely on."""
    (time,) = model.perform(Commit((Create(doc(1), {"manifest": b"abc", "frames": b"def", "digest": b"g"}),)))
    for how in ("manifest flipped", "frames flipped", "digest dropped"):
        before = model.docs[doc(1)]
        DOCUMENTS[how](model, doc(1))
        assert model.docs[doc(1)].fields != before.fields
        assert model.docs[doc(1)].update_time == time
    assert flipped(b"abc") != b"abc"
    assert len({how(b"abcd") for how in OBJECTS.values()}) == len(OBJECTS)
