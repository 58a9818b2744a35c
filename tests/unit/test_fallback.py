"""Reading the latest checkpoint when it is damaged: an older exact one that says so, or an error."""

import logging
import random

import pytest

from langgraph_gcs_saver.engine.effects import Commit, Delete, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ConflictError,
    DamageError,
    PermissionDeniedError,
    StoreUnavailableError,
    UnsupportedFormatError,
    WrongKeyError,
)
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered
from langgraph_gcs_saver.flows.threads import delete_thread, guard
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.format.frames import Codec
from tests.compat.xor_cipher import XorCipher
from tests.unit.model import Model, cid, get, make_context, put, put_aside, put_writes

THREAD = keys.thread_doc("t")
BIG = random.Random(5).randbytes(20_000)


def doc(number):
    return keys.checkpoint_doc("t", "", cid(number))


def v(number):
    return f"{number:032}.5"


def flipped(data):
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def value(number):
    """Another value for each checkpoint: some in the document, some in an object."""
    return {"small": f"value {number}", "big": BIG + bytes([number])}


@pytest.fixture
def model():
    """Four checkpoints, each the child of the one before, without a frame in common; the last has pending writes."""
    model, context = Model(), make_context(incremental=False)
    for number in range(1, 5):
        put(model, context, number, number - 1 or None, value(number))
    put_writes(model, context, 4, [("a", "pending")])
    return model


def events(model, kind):
    return [event for event in model.events if isinstance(event, kind)]


def recovered(model, number, damaged, **options):
    """Check that the latest checkpoint is `number`, in place of the first of the `damaged` ones."""
    found = model.drive(get(None, make_context(**options)))
    assert found.values == value(number)
    assert found.manifest.checkpoint_id == cid(number)
    assert found.metadata["recovered_from"] == cid(damaged[0])
    ids = {"thread_id": "t", "checkpoint_ns": ""}
    told = [(e.thread_id, e.checkpoint_ns, e.checkpoint_id) for e in events(model, CheckpointDamaged)]
    assert told == [("t", "", cid(one)) for one in damaged]
    assert events(model, CheckpointRecovered) == [
        CheckpointRecovered(**ids, checkpoint_id=cid(number), recovered_from=cid(damaged[0]))
    ]
    assert not any(isinstance(effect, Commit) for effect in model.log), "reading never writes"
    return found


def objects(model, number):
    return [name for name in model.blobs if f"/{cid(number)}/" in name]


def flip_object(model, number):
    (name,) = objects(model, number)
    model.spoil(name, flipped)


def lose_object(model, number):
    (name,) = objects(model, number)
    model.spoil(name, lambda _: None)


def swap_documents(model, number):
    """The document has the fields of the checkpoint before."""
    model.change(doc(number), **model.docs[doc(number - 1)].fields)


def flip_writes(model, number):
    (name,) = [name for name in model.docs if "/lg_writes/" in name]
    model.change(name, writes=flipped(model.docs[name].fields["writes"]))


def flip(field):
    return lambda model, number: model.change(doc(number), **{field: flipped(model.docs[doc(number)].fields[field])})


def drop(*fields):
    return lambda model, number: model.change(doc(number), **dict.fromkeys(fields, ...))


DAMAGE = {
    **{f"{field} flipped": flip(field) for field in ("manifest", "frames", "digest")},
    **{f"{field} dropped": drop(field) for field in ("manifest", "frames", "digest", "format")},
    "frames cut off": lambda model, number: model.change(
        doc(number), frames=model.docs[doc(number)].fields["frames"][:-1]
    ),
    "emptied": lambda model, number: model.change(doc(number), manifest=b"", frames=b"", digest=b""),
    "another's": swap_documents,
    "object flipped": flip_object,
    "object gone": lose_object,
    "all but ns dropped": drop("manifest", "frames", "digest", "format", "filter"),
}
NEWEST = DAMAGE | {"writes flipped": flip_writes}


@pytest.mark.parametrize("how", NEWEST)
def test_the_newest_is_damaged(model, how):
    NEWEST[how](model, 4)
    recovered(model, 3, [4])
    (event,) = events(model, CheckpointDamaged)
    assert event.reason
    if how.startswith("object"):
        assert event.channel == "big"
        assert f"/{cid(4)}/big-" in event.name


@pytest.mark.parametrize("how", NEWEST)
def test_the_newest_is_damaged_and_asked_for(model, how):
    """An explicit id never gives another checkpoint."""
    NEWEST[how](model, 4)
    with pytest.raises(CheckpointCorruptError) as caught:
        model.drive(get(4))
    assert (caught.value.thread_id, caught.value.checkpoint_ns, caught.value.checkpoint_id) == ("t", "", cid(4))
    assert [event.checkpoint_id for event in events(model, CheckpointDamaged)] == [cid(4)]
    assert not events(model, CheckpointRecovered)
    assert model.drive(get(3)).values == value(3)


@pytest.mark.parametrize("how", NEWEST)
def test_falling_back_can_be_turned_off(model, how):
    NEWEST[how](model, 4)
    with pytest.raises(CheckpointCorruptError) as caught:
        model.drive(get(None, make_context(falls_back=False)))
    assert caught.value.checkpoint_id == cid(4)
    assert [event.checkpoint_id for event in events(model, CheckpointDamaged)] == [cid(4)]
    assert not events(model, CheckpointRecovered)


@pytest.mark.parametrize("first", DAMAGE)
@pytest.mark.parametrize("second", ["manifest flipped", "object gone", "another's"])
def test_the_two_newest_are_damaged(model, first, second):
    DAMAGE[first](model, 4)
    DAMAGE[second](model, 3)
    recovered(model, 2, [4, 3])


def test_the_damaged_ones_are_passed_over_however_many(model):
    for number in (2, 3, 4):
        DAMAGE["frames flipped"](model, number)
    recovered(model, 1, [4, 3, 2])


@pytest.mark.parametrize("how", DAMAGE)
def test_all_are_damaged(model, how):
    """The error names the newest checkpoint, because the caller requested that one."""
    for number in (4, 3, 2):
        DAMAGE[how](model, number)
    DAMAGE["manifest flipped"](model, 1)
    with pytest.raises(CheckpointCorruptError) as caught:
        model.drive(get(None))
    assert caught.value.checkpoint_id == cid(4)
    assert [event.checkpoint_id for event in events(model, CheckpointDamaged)] == [cid(n) for n in (4, 3, 2, 1)]
    assert not events(model, CheckpointRecovered)


def test_damage_to_older_ones_is_not_looked_for(model):
    for number in (1, 2, 3):
        DAMAGE["manifest flipped"](model, number)
    found = model.drive(get(None))
    assert (found.values, found.writes) == (value(4), (("task", "a", "pending"),))
    assert "recovered_from" not in found.metadata
    assert model.rounds[0].limit == 1
    assert not events(model, CheckpointDamaged)


def test_a_whole_one_does_not_say_that_it_was_recovered(model):
    """Nor does one that was put after a recovered one."""
    DAMAGE["manifest flipped"](model, 4)
    context = make_context()
    model.drive(get(None, context))
    put(model, context, 5, 3, value(5))
    found = model.drive(get(None))
    assert found.values == value(5)
    assert "recovered_from" not in found.metadata
    assert "recovered_from" not in model.drive(get(3)).metadata


def test_the_fallback_has_its_own_pending_writes(model):
    """Not those of the checkpoint that it stands for."""
    put_writes(model, make_context(), 3, [("b", "its own")], "other")
    DAMAGE["manifest flipped"](model, 4)
    assert recovered(model, 3, [4]).writes == (("other", "b", "its own"),)


def test_other_namespaces_are_no_fallback():
    model, context = Model(), make_context()
    put(model, context, 1, None, {"a": 1}, ns="sub")
    put(model, context, 2, None, {"a": 2})
    DAMAGE["manifest flipped"](model, 2)
    with pytest.raises(CheckpointCorruptError) as caught:
        model.drive(get(None))
    assert caught.value.checkpoint_id == cid(2)
    assert model.drive(get(None, ns="sub")).values == {"a": 1}


def test_damage_that_was_healed_between_the_reads_is_none(model):
    """A missing document is not damage yet: it is read again before anything is reported."""
    whole = dict(model.docs[doc(4)].fields)
    DAMAGE["manifest flipped"](model, 4)
    queries = []

    def before(effect):
        if isinstance(effect, QueryDocs) and "lg_checkpoints" in effect.collection:
            queries.append(effect)
            if len(queries) == 2:
                model.change(doc(4), **whole)

    model.before = before
    found = model.drive(get(None))
    assert found.values == value(4)
    assert not events(model, CheckpointDamaged)


# What is no damage


def encrypted(number, model):
    """Store a checkpoint that was encrypted with a key that no reader here has."""
    context = make_context(codec=Codec(3, XorCipher()), incremental=False)
    put(model, context, number, number - 1, value(number))


def test_a_newest_one_of_another_key_raises_at_once(model):
    """A misconfigured reader would make every conversation start over."""
    encrypted(5, model)
    with pytest.raises(WrongKeyError):
        model.drive(get(None))
    assert not events(model, CheckpointDamaged)
    assert model.drive(get(None, make_context(codec=Codec(3, XorCipher())))).values == value(5)


def test_a_newest_one_of_a_newer_format_raises_at_once(model):
    model.change(doc(4), format=3)
    with pytest.raises(UnsupportedFormatError):
        model.drive(get(None))
    assert not events(model, CheckpointDamaged)


def test_a_candidate_of_another_key_raises_at_once(model):
    """Behind a damaged one as well."""
    encrypted(5, model)
    put(model, make_context(), 6, None, value(6))
    DAMAGE["manifest flipped"](model, 6)
    with pytest.raises(WrongKeyError):
        model.drive(get(None))
    assert [event.checkpoint_id for event in events(model, CheckpointDamaged)] == [cid(6)]
    assert not events(model, CheckpointRecovered)


def test_a_candidate_of_a_newer_format_raises_at_once(model):
    DAMAGE["frames flipped"](model, 4)
    model.change(doc(3), format=3)
    with pytest.raises(UnsupportedFormatError):
        model.drive(get(None))
    assert not events(model, CheckpointRecovered)


@pytest.mark.parametrize("error", [PermissionDeniedError("no"), StoreUnavailableError("no answer")], ids=repr)
def test_a_service_that_refuses_raises_at_once(model, error):
    """At any request of a read that falls back."""
    DAMAGE["object flipped"](model, 4)
    at = 0
    while True:
        countdown = [at]

        def before(effect, countdown=countdown):
            if isinstance(effect, (GetDocs, QueryDocs)) or hasattr(effect, "effects"):
                if countdown[0] == 0:
                    countdown[0] -= 1
                    raise error
                countdown[0] -= 1

        model.before = before
        try:
            found = model.drive(get(None))
        except type(error) as caught:
            assert caught is error  # noqa: PT017
        else:
            break
        at += 1
    assert at >= 6
    assert found.values == value(3)


# A newest one that has lost its child


def lose(model, number):
    model.lose(doc(number))


@pytest.mark.parametrize("how", [lose, drop("ns"), lambda model, number: model.change(doc(number), ns="another")])
def test_the_newest_is_gone(model, how):
    """Parent and child are written in one commit: the child was there."""
    how(model, 4)
    recovered(model, 3, [4])
    (event,) = events(model, CheckpointDamaged)
    assert event.name == doc(4)


def test_the_newest_is_gone_and_falling_back_is_turned_off(model):
    lose(model, 4)
    with pytest.raises(CheckpointCorruptError) as caught:
        model.drive(get(None, make_context(falls_back=False)))
    assert caught.value.checkpoint_id == cid(4)
    assert caught.value.frame == doc(4)


def test_the_newest_is_gone_and_the_one_before_is_damaged(model):
    """The event names the missing checkpoint or the damaged one: either way the loss is reported."""
    lose(model, 4)
    DAMAGE["frames flipped"](model, 3)
    found = model.drive(get(None))
    assert found.values == value(2)
    assert found.metadata["recovered_from"] in {cid(4), cid(3)}


def test_one_that_is_gone_and_is_asked_for_is_not_there(model):
    """A read by its id cannot distinguish it from a checkpoint that never existed."""
    lose(model, 4)
    assert model.drive(get(4)) is None
    assert model.drive(get(3)).values == value(3)
    assert "recovered_from" not in model.drive(get(3)).metadata


def test_an_heir_before_its_parent_says_nothing(model):
    """After a step back of the clock the child sorts first; it is no newer one."""
    model.change(doc(4), heir=f"{cid(2)}#abcdef")
    found = model.drive(get(None))
    assert found.values == value(4)
    assert "recovered_from" not in found.metadata


def test_an_heir_that_is_no_text_says_nothing(model):
    model.change(doc(4), heir=7)
    assert "recovered_from" not in model.drive(get(None)).metadata


def test_a_deletion_takes_children_first(model):
    """While the thread is marked, its newest checkpoint has lost its child to the deletion."""
    lose(model, 4)
    model.change(THREAD, deleting="mark")
    found = model.drive(get(None))
    assert found.values == value(3)
    assert "recovered_from" not in found.metadata
    assert not model.events or not events(model, CheckpointDamaged)


def between_the_reads(model, act):
    """Call `act` once the newest document was read, before its heir is looked for."""
    left = [1]

    def before(effect):
        if isinstance(effect, GetDocs) and effect.mask == ("deleting",) and left:
            left.pop()
            act()

    model.before = before


def test_a_deletion_that_ends_between_the_two_reads(model):
    """The deletion has removed the mark and everything that was marked: the thread is empty."""
    lose(model, 4)
    model.change(THREAD, deleting="mark")
    between_the_reads(model, lambda: model.aside(delete_thread("t", make_context())))
    assert model.drive(get(None)) is None
    assert not events(model, CheckpointDamaged)


def test_a_child_that_comes_between_the_two_reads(model):
    """The newest has moved: there is a newer one now."""
    lose(model, 4)
    context = make_context()
    model.drive(get(3, context))
    between_the_reads(model, lambda: put_aside(model, context, 6, 3, value(6)))
    found = model.drive(get(None))
    assert found.values == value(6)
    assert "recovered_from" not in found.metadata


def test_a_newest_that_moves_all_the_time_is_not_told_to_be_damaged(model):
    lose(model, 4)

    def before(effect):
        if isinstance(effect, GetDocs) and effect.mask == ("deleting",):
            model.perform(Commit((Merge(doc(3), {"former_runs": f'["{random.random()}"]'}),)))

    model.before = before
    with pytest.raises(ConflictError):
        model.drive(get(None))
    assert not events(model, CheckpointDamaged)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_deletion_at_any_point_of_a_read_is_no_damage(late):
    """The checkpoint is read whole, or not found. No damage is reported."""
    for at in range(30):
        model, context = Model(), make_context()
        put(model, context, 1, None, value(1))
        put(model, context, 2, 1, value(2))
        countdown = [at]

        def act(effect, model=model, countdown=countdown):
            if countdown[0] == 0:
                model.aside(delete_thread("t", make_context()))
            countdown[0] -= 1

        if late:
            model.after = lambda effect, result, act=act: act(effect)
        else:
            model.before = act
        found = model.drive(get(None))
        assert found is None or (found.values, found.metadata.get("recovered_from")) == (value(2), None)
        assert not events(model, CheckpointDamaged)
        if countdown[0] >= 0:
            break
    assert 4 < at < 29


@pytest.mark.parametrize("at", range(12))
def test_a_deletion_that_is_seen_half_way_is_no_damage(at):
    """The deletion stops before each of its effects in turn, and the thread is read."""
    model, context = Model(), make_context()
    for number in range(1, 4):
        put(model, context, number, number - 1 or None, value(number))
    seen = []

    def before(effect):
        if len(model.log) - 1 == at:
            seen.append(model.aside(get(None)))

    model.before = before
    model.drive(delete_thread("t", context))
    for found in seen:
        assert found is None or (found.values, found.metadata.get("recovered_from")) == (value(3), None)
    assert bool(seen) == (at < len(model.log))


# A root namespace that has lost everything


def empty(model):
    """All documents of checkpoints are lost."""
    for name in [name for name in model.docs if "/lg_checkpoints/" in name]:
        model.lose(name)


@pytest.mark.parametrize("falls_back", [True, False])
def test_a_thread_that_has_lost_all_checkpoints(model, falls_back):
    """A thread that has checkpoints never reads as `None`, because its conversation would start over silently."""
    empty(model)
    with pytest.raises(DamageError, match="thread 't' are missing, and no deletion") as caught:
        model.drive(get(None, make_context(falls_back=falls_back)))
    assert not isinstance(caught.value, CheckpointCorruptError), "there is no checkpoint to name"
    assert model.drive(get(4)) is None
    # As the message says, the thread can start over after a deletion.
    model.drive(delete_thread("t", make_context()))
    assert model.drive(get(None)) is None
    put(model, make_context(), 7, None, value(7))
    assert model.drive(get(None)).values == value(7)


def test_a_thread_that_has_lost_its_only_checkpoint():
    model = Model()
    put(model, make_context(), 1, None, {"a": 1})
    empty(model)
    with pytest.raises(DamageError):
        model.drive(get(None))


def test_a_thread_that_never_had_one(model):
    assert model.drive(get(None, thread="nobody")) is None
    put_writes(model, make_context(inline_max_bytes=0), 1, [("a", 1)])
    other = Model()
    put_writes(other, make_context(inline_max_bytes=0), 1, [("a", 1)])
    assert other.docs[THREAD].fields == {"thread_id": "t"}
    assert other.drive(get(None)) is None


def test_a_namespace_of_a_subgraph_says_nothing_about_the_root():
    model, context = Model(), make_context()
    put(model, context, 1, None, {"a": 1}, ns="sub")
    assert model.drive(get(None)) is None
    empty(model)
    assert model.drive(get(None)) is None
    assert model.drive(get(None, ns="sub")) is None


def test_an_emptied_thread_that_is_being_deleted(model):
    empty(model)
    model.change(THREAD, deleting="mark")
    assert model.drive(get(None)) is None


def test_an_emptied_thread_whose_mark_was_removed(model):
    """The deletion crashed, and may have deleted everything. So nothing shows that a checkpoint was lost."""
    empty(model)
    model.change(THREAD, deleting="mark")
    model.drive(guard("t", make_context()))
    assert "deleting" not in model.docs[THREAD].fields
    assert model.drive(get(None)) is None
    put(model, make_context(), 7, None, value(7))
    assert model.docs[THREAD].fields["root"] is True
    empty(model)
    with pytest.raises(DamageError):
        model.drive(get(None))


def test_a_first_checkpoint_that_comes_between_the_two_reads(model):
    """The query found nothing, and then the thread says that it has some."""
    fresh = Model()
    left = [1]

    def before(effect):
        if isinstance(effect, GetDocs) and left:
            left.pop()
            put_aside(fresh, make_context(), 1, None, {"a": 1})

    fresh.before = before
    assert fresh.drive(get(None)).values == {"a": 1}


def test_a_thread_that_comes_and_goes_between_the_reads():
    """Each time that the thread is read, it says that it has a checkpoint, and each time another one was deleted."""
    model = Model()

    def before(effect):
        if isinstance(effect, GetDocs):
            number = sum(isinstance(one, GetDocs) for one in model.log)
            if number <= 3:
                put_aside(model, make_context(), number, None, {"a": number})
        if isinstance(effect, QueryDocs) and "lg_checkpoints" in effect.collection and len(model.log) > 1:
            model.aside(delete_thread("t", make_context()))

    model.before = before
    assert model.drive(get(None)) is None


def test_a_deletion_that_begins_between_the_two_reads(model):
    empty(model)
    reads = []

    def before(effect):
        if isinstance(effect, GetDocs):
            reads.append(effect)
            if len(reads) == 2:
                model.perform(Commit((Delete(THREAD),)))

    model.before = before
    assert model.drive(get(None)) is None


# Reporting


def test_events_are_logged_as_warnings():
    for event in (CheckpointDamaged, CheckpointRecovered):
        assert event.level == logging.WARNING


def test_heirs_are_restored_by_nobody_who_reads(model):
    before = {name: found.fields for name, found in model.docs.items()}
    lose(model, 4)
    recovered(model, 3, [4])
    assert manifest.heir_of(model.docs[doc(3)]) == cid(4)
    assert {name: found.fields for name, found in model.docs.items()} == {
        name: fields for name, fields in before.items() if name != doc(4)
    }
