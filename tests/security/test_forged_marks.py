"""A forged mark of a deletion, or a forged id, in a thread's document hides no damage and stops no writer for good."""

import pytest

from langgraph_gcs_saver.errors import ClearTextError, WrongKeyError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.portable import DELTA_COUNTERS
from tests.incremental.eax import Eax
from tests.kit.impatience import impatient
from tests.system.build import DEFAULT, cfg, checkpoint, cid, put, values, version

from .forging import name_of, put_checkpoint

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")
LONG = "a long id " * 30
THREAD = keys.thread_doc("t")
MARKS = [float("nan"), {"a": float("nan")}, "x", None, "0" * 12]


def forge(raw, thread="t", **fields):
    name = keys.thread_doc(thread)
    raw.set_document(name, {**raw.documents()[name], **fields})


def damage(saver, thread="t"):
    return {(one.kind, one.name) for one in saver.admin.verify(thread, depth="data") if one.is_damage}


@pytest.mark.parametrize("mark", MARKS, ids=repr)
def test_writers_wait_no_longer_than_the_timeout(make_saver, raw, mark):
    put(make_saver(), 1, {"v": 1})
    forge(raw, deleting=mark)
    put(impatient(make_saver()), 2, {"v": 2})
    assert values(make_saver().get_tuple(cfg())) == {"v": 2}
    assert "deleting" not in raw.documents()[THREAD]


@pytest.mark.parametrize("mark", MARKS, ids=repr)
def test_a_mark_is_reported_and_removed_by_a_repair(make_saver, raw, mark):
    saver = impatient(make_saver(cipher=KEY))
    put(saver, 1, {"v": 1})
    put(saver, 2, {"v": 2}, parent=1)
    put_checkpoint(raw, name_of(9), {"format": 1, "manifest": b"planted"})
    forge(raw, deleting=mark)
    assert damage(saver) >= {("corrupt", THREAD)}
    (plan,) = saver.admin.plan_repair("t")
    assert [(step.action, step.name) for step in plan.steps] == [("fix", THREAD)]
    saver.admin.repair("t")
    assert damage(saver) == set()
    fields = raw.documents()[THREAD]
    assert "deleting" not in fields
    assert fields["root"] is True  # A thread that loses them all must not look new.
    assert values(saver.get_tuple(cfg())) == {"v": 2}


def test_a_mark_hides_no_missing_ancestor(make_saver, raw):
    saver = impatient(make_saver())
    for n in (1, 2, 3):
        versions = {"d": version(n)}
        metadata = {**DEFAULT, DELTA_COUNTERS: {"d": (n, n)}}
        saver.put(cfg(n - 1 or None), checkpoint(n, {}, versions), metadata, versions)
    raw.delete_document(name_of(2))
    forge(raw, deleting="x")
    assert damage(saver) == {("corrupt", THREAD), ("missing", name_of(2))}


@pytest.mark.parametrize("thread", ["t", LONG], ids=["short", "long"])
def test_a_forged_id_is_reported_and_corrected(make_saver, raw, thread):
    saver = make_saver(cipher=KEY)
    put(saver, 1, {"v": 1}, thread=thread)
    forge(raw, thread, thread_id="another")
    (finding,) = saver.admin.verify()
    assert (finding.kind, finding.thread_id, finding.name) == ("corrupt", thread, keys.thread_doc(thread))
    saver.admin.repair()
    assert list(saver.admin.verify()) == []
    assert raw.documents()[keys.thread_doc(thread)]["thread_id"] == thread


def planted_in_clear(raw, make_saver):
    put(make_saver(), 9, {"v": "planted"}, thread="other")
    return raw.documents()[name_of(9, thread="other")]["manifest"]


def planted_with_another_key(raw, make_saver):
    put(make_saver(cipher=Eax("another key")), 9, {"v": "planted"}, thread="other")
    return raw.documents()[name_of(9, thread="other")]["manifest"]


@pytest.mark.parametrize(
    ("plant", "error"), [(planted_in_clear, ClearTextError), (planted_with_another_key, WrongKeyError)]
)
@pytest.mark.parametrize("is_whole", [True, False], ids=["one is readable", "none is readable"])
def test_a_planted_document_does_not_hide_a_thread_with_a_long_id(make_saver, raw, plant, error, is_whole):
    saver = make_saver(cipher=KEY)
    put(saver, 1, {"v": 1}, thread=LONG)
    body = plant(raw, make_saver)
    saver.delete_thread("other")
    put_checkpoint(raw, name_of(9, thread=LONG), {"format": 1, "manifest": body})
    if not is_whole:
        raw.delete_document(name_of(1, thread=LONG))
    forge(raw, LONG, thread_id="another")
    if is_whole and error is ClearTextError:
        found = {(one.thread_id, one.kind, one.checkpoint_id) for one in saver.admin.verify() if one.checkpoint_id}
        assert found == {(LONG, "clear", cid(9))}
        assert [plan.thread_id for plan in saver.admin.plan_repair()] == [LONG]
    else:
        for call in (saver.admin.verify, saver.admin.plan_repair):
            with pytest.raises(error):
                list(call())
