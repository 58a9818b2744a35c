"""A note that a thread is an unfinished copy lets nothing through, because an attacker who can write can forge one."""

from itertools import count

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.incremental.eax import Eax
from tests.system.build import cfg, cid, put
from tests.system.raw import open_raw

CLAIM = "0123456789ab"
KEY = Eax("the key")


@pytest.fixture
def store_uri(tmp_path):
    return f"file://{tmp_path}/store"


def fill(saver, thread="t", versions=5):
    for n in range(1, versions + 1):
        put(saver, n, {"large": [*range(500), n]}, parent=n - 1 or None, thread=thread)


def plant_checkpoint(raw, saver):
    """A checkpoint that is newer than all of the source's."""
    put(saver, 9, {"large": "planted"}, thread="copy")


def plant_old_checkpoint(raw, saver):
    """A checkpoint in place of one that was pruned in the source, and left only frames that other ones need."""
    put(saver, 1, {"large": "planted"}, thread="copy")


def plant_writes(raw, saver):
    saver.put_writes(cfg(5, thread="copy"), [("__resume__", "yes")], "task")


def plant_anything(raw, saver):
    raw.set_document(f"{keys.checkpoints('copy')}/no-name", {"format": 1})


@pytest.mark.parametrize("plant", [plant_checkpoint, plant_old_checkpoint, plant_writes, plant_anything])
@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "cipher"])
def test_what_was_planted_is_not_merged(store_uri, plant, cipher):
    raw = open_raw(store_uri)
    with GCSSaver.from_conn_string(store_uri, cipher=cipher) as saver:
        fill(saver)
        saver.prune(["t"], strategy=KeepLast(2))
        assert any(fields.keys() == {"frames"} for fields in raw.documents().values())
        plant(raw, saver)
        raw.set_document(keys.thread_doc("copy"), {"copying": "t", "claim": CLAIM})
        before = raw.snapshot()
        for dry_run in (True, False):
            with pytest.raises(InvalidInputError, match="part of a copy of 't', but contains"):
                saver.admin.copy_thread("t", "copy", dry_run=dry_run)
        assert raw.snapshot() == before
        saver.delete_thread("t")
        with pytest.raises(InvalidInputError, match="part of a copy"):
            saver.copy_thread("t", "copy")
        assert "copying" in raw.documents()[keys.thread_doc("copy")], "and it never counts as a whole one"


@pytest.mark.parametrize("claim", ["", "../../etc", "A" * 12, "0" * 41, 5])
def test_a_claim_that_no_copy_makes_is_none(store_uri, claim):
    """Names of objects are made of it."""
    raw = open_raw(store_uri)
    with GCSSaver.from_conn_string(store_uri, inline_max_bytes=0) as saver:
        fill(saver)
        raw.set_document(keys.thread_doc("copy"), {"copying": "t", "claim": claim})
        before = raw.snapshot()
        for dry_run in (True, False):
            with pytest.raises(InvalidInputError, match="not empty"):
                saver.admin.copy_thread("t", "copy", dry_run=dry_run)
    assert raw.snapshot() == before


def plant_other_checkpoint(saver):
    put(saver, 5, {"large": "planted"}, thread="copy")


def plant_other_writes(saver):
    saver.put_writes(cfg(5, thread="copy"), [("large", "planted")], "task")


def plant_an_answer(saver):
    saver.put_writes(cfg(5, thread="copy"), [("__resume__", "planted")], "task")


@pytest.mark.parametrize(
    "plant",
    [plant_other_checkpoint, plant_other_writes, plant_an_answer],
    ids=lambda one: one.__name__,
)
@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "cipher"])
def test_what_was_planted_under_names_of_the_source_is_not_overwritten(store_uri, plant, cipher):
    raw = open_raw(store_uri)
    with GCSSaver.from_conn_string(store_uri, cipher=cipher) as saver:
        fill(saver)
        saver.put_writes(cfg(5), [("large", "own"), ("__resume__", "own")], "task")
        plant(saver)
        raw.set_document(keys.thread_doc("copy"), {"copying": "t", "claim": CLAIM})
        before = raw.snapshot()
        for dry_run in (True, False):
            with pytest.raises(InvalidInputError, match="with other content"):
                saver.admin.copy_thread("t", "copy", dry_run=dry_run)
        assert raw.snapshot() == before
        saver.delete_thread("copy")
        saver.copy_thread("t", "copy")
        found = saver.get_tuple(cfg(thread="copy"))
        assert found.checkpoint["channel_values"] == saver.get_tuple(cfg()).checkpoint["channel_values"]
        assert list(saver.admin.verify("copy", depth="data")) == []


def test_other_frames_are_not_overwritten(store_uri):
    """They are not compared before it is their checkpoint's turn."""
    raw = open_raw(store_uri)
    with GCSSaver.from_conn_string(store_uri) as saver:
        fill(saver)
        saver.copy_thread("t", "copy")
        name, thread = keys.checkpoint_doc("copy", "", cid(1)), keys.thread_doc("copy")
        fields = raw.documents()[name]
        raw.set_document(name, {**fields, "frames": fields["frames"][:-1] + b"?"})
        raw.set_document(thread, {**raw.documents()[thread], "copying": "t"})
        before = raw.snapshot()
        with pytest.raises(InvalidInputError, match="with other content"):
            saver.copy_thread("t", "copy")
        assert raw.snapshot() == before


def stopped(make, thread, call):
    """A store in which a call has crashed once `thread` had a part of its pending writes."""
    for stop in count():
        with make() as saver:
            saver.plan = Plan(stop)
            with pytest.raises(Crashed):
                call(saver)
            saver.plan = Plan()
            if any(name.startswith(keys.writes(thread)) for name in saver.raw().documents):
                return


@pytest.mark.parametrize("theirs", [None, "yes", "no"])
@pytest.mark.parametrize("mine", [None, "no"])
@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "cipher"])
def test_an_answer_that_was_given_in_a_part_of_a_copy_stays(store_uri, cipher, mine, theirs):
    """`mine` is the answer of the copy, `theirs` that of the source. Both came after the first call had crashed."""

    def make():
        return CrashingSaver.from_conn_string(store_uri, cipher=cipher)

    def answers(saver, thread):
        return [
            value
            for _, channel, value in saver.get_tuple(cfg(5, thread=thread)).pending_writes
            if channel == "__resume__"
        ]

    with make() as saver:
        fill(saver)
        saver.put_writes(cfg(5), [("__interrupt__", "approve?")], "task")
    stopped(make, "copy", lambda saver: saver.copy_thread("t", "copy"))
    with make() as saver:
        for thread, answer in (("copy", mine), ("t", theirs)):
            if answer is not None:
                saver.put_writes(cfg(5, thread=thread), [("__resume__", answer)], "task")
        before = saver.raw().documents
        if mine in {None, theirs}:
            saver.admin.copy_thread("t", "copy", dry_run=True)
            saver.copy_thread("t", "copy")
            assert answers(saver, "copy") == answers(saver, "t")
            assert list(saver.admin.verify("copy", depth="data")) == []
        else:
            for dry_run in (True, False):
                with pytest.raises(InvalidInputError, match="with other content"):
                    saver.admin.copy_thread("t", "copy", dry_run=dry_run)
            assert saver.raw().documents == before


@pytest.mark.parametrize("theirs", [None, "yes", "no"])
@pytest.mark.parametrize("mine", [None, "no"])
def test_an_answer_that_was_given_in_a_part_of_a_transfer_stays(store_uri, tmp_path, mine, theirs):
    elsewhere = f"file://{tmp_path}/elsewhere"
    with GCSSaver.from_conn_string(store_uri) as source:
        fill(source)
        source.put_writes(cfg(5), [("__interrupt__", "approve?")], "task")

        def make():
            return CrashingSaver.from_conn_string(elsewhere)

        stopped(make, "t", lambda target: source.admin.transfer_thread("t", target))
        with make() as target:
            for saver, answer in ((target, mine), (source, theirs)):
                if answer is not None:
                    saver.put_writes(cfg(5), [("__resume__", answer)], "task")
            before = target.raw().documents
            if mine in {None, theirs}:
                assert source.admin.transfer_thread("t", target).findings == ()
                assert target.get_tuple(cfg(5)) == source.get_tuple(cfg(5))
            else:
                with pytest.raises(InvalidInputError, match="with other content"):
                    source.admin.transfer_thread("t", target)
                assert target.raw().documents == before


def test_a_copy_whose_source_was_pruned_since_is_made_anew(store_uri):
    with CrashingSaver.from_conn_string(store_uri) as saver:
        fill(saver, versions=60)
        for stop in count():
            saver.plan = Plan(stop)
            with pytest.raises(Crashed):
                saver.copy_thread("t", "copy")
            saver.plan = Plan()
            if list(saver.list(cfg(thread="copy"))):
                break
    with GCSSaver.from_conn_string(store_uri) as saver:
        saver.prune(["t"], strategy=KeepLast(2))
        with pytest.raises(InvalidInputError, match="does not have this document"):
            saver.copy_thread("t", "copy")
        saver.delete_thread("copy")
        saver.copy_thread("t", "copy")
        assert len(list(saver.list(cfg(thread="copy")))) == 2
        assert list(saver.admin.verify("copy", depth="data")) == []


@pytest.mark.parametrize("plant", [plant_checkpoint, plant_writes, plant_anything])
def test_what_was_planted_where_a_thread_is_moved_to(store_uri, tmp_path, plant):
    """The claim is from a transfer that crashed. An attacker could compute it too."""
    elsewhere = f"file://{tmp_path}/elsewhere"
    with GCSSaver.from_conn_string(store_uri) as source, CrashingSaver.from_conn_string(elsewhere) as target:
        fill(source, "copy")
        for stop in count():
            target.plan = Plan(stop)
            with pytest.raises(Crashed):
                source.admin.transfer_thread("copy", target)
            target.plan = Plan()
            if "copying" in target.raw().documents.get(keys.thread_doc("copy"), {}):
                break
        raw = open_raw(elsewhere)
        claim = raw.documents()[keys.thread_doc("copy")]
        plant(raw, target)
        raw.set_document(keys.thread_doc("copy"), claim)
        before = raw.snapshot()
        with pytest.raises(InvalidInputError, match="part of a transfer"):
            source.admin.transfer_thread("copy", target)
        assert raw.snapshot() == before
        target.delete_thread("copy")
        assert source.admin.transfer_thread("copy", target).checkpoints == 5


@pytest.mark.parametrize("plant", [plant_checkpoint, plant_writes, plant_anything])
def test_what_was_planted_beside_all_that_a_transfer_moves(store_uri, tmp_path, plant):
    """The attacker also restores the claim of a transfer that has ended, which the next one takes for its own."""
    elsewhere = f"file://{tmp_path}/elsewhere"
    with GCSSaver.from_conn_string(store_uri) as source, GCSSaver.from_conn_string(elsewhere) as target:
        fill(source, "copy")
        source.admin.transfer_thread("copy", target)
        assert source.admin.transfer_thread("copy", target).present > 0
        raw = open_raw(elsewhere)
        ended = raw.documents()[keys.thread_doc("copy")]
        plant(raw, target)
        raw.set_document(keys.thread_doc("copy"), ended)
        before = raw.snapshot()
        with pytest.raises(InvalidInputError, match="not empty in the target"):
            source.admin.transfer_thread("copy", target)
        assert raw.snapshot() == before
