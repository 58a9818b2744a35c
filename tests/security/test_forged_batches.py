"""An attacker without the key cannot have items of a batch skipped, counted as failed, or handled again."""

from dataclasses import replace
from itertools import count

import pytest

from langgraph_gcs_saver.errors import ClearTextError, DamageError
from langgraph_gcs_saver.format import item_batches, keys
from langgraph_gcs_saver.format.frames import Codec
from tests.incremental.eax import Eax

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")
BATCH = keys.batch_doc("t", "b")
CLAIM = keys.chunk_doc(BATCH, 0)
ITEMS = ["a", "b", "c"]


def in_clear(state):
    return item_batches.state_field(state, "0" * 12, BATCH, Codec(3))


@pytest.fixture
def saver(make_saver):
    return make_saver(cipher=KEY)


def left(saver, **options):
    """A batch whose first item is done, as its worker left it when it crashed in the second."""
    batch = saver.thread("t").batch("b", ITEMS, owner="pod-1", **options)
    batch.__enter__()
    for item in batch:
        if item == "b":
            break
        batch.done(item, output=item)
    return batch


def rest(saver, **options):
    """The items that another worker gets."""
    handled = []
    with saver.thread("t").batch("b", ITEMS, owner="pod-1", **options) as batch:
        for item in batch:
            handled.append(item)
            batch.done(item, output=item)
    return handled, batch.failed()


def forge(raw, name, **fields):
    raw.set_document(name, {**raw.documents()[name], **fields})


@pytest.mark.parametrize("forged", ["done", in_clear("done")], ids=["no seal", "in clear"])
@pytest.mark.parametrize("on_done", ["skip", "restart"])
def test_a_forged_end_skips_and_repeats_nothing(saver, raw, forged, on_done):
    left(saver)
    stored = raw.documents()[BATCH]
    forge(raw, BATCH, state=forged)
    with pytest.raises((ClearTextError, DamageError)):
        rest(saver, on_done=on_done)
    with pytest.raises((ClearTextError, DamageError)):
        saver.admin.batches("t")
    assert [one.name for one in saver.admin.verify("t")] == [BATCH]
    raw.set_document(BATCH, stored)
    assert rest(saver, on_done=on_done) == (["b", "c"], {})


def test_the_end_of_an_earlier_batch_of_the_same_id(saver, raw):
    with saver.thread("t").batch("b", ITEMS) as batch:
        for item in batch:
            batch.done(item)
        batch.finish()
    ended = raw.documents()[BATCH]["state"]
    left(saver, on_done="restart")
    forge(raw, BATCH, state=ended)
    with pytest.raises(DamageError):
        rest(saver, on_done="skip")
    assert [one.name for one in saver.admin.verify("t")] == [BATCH]


@pytest.mark.parametrize("crashes", [5, 1 << 53, (1 << 63) - 1])
def test_a_forged_claim_fails_no_item(saver, raw, crashes):
    left(saver)
    epoch = "0" * 12
    claimed = item_batches.Claimed(epoch, epoch, "owner:pod-1", careful=True, suspect=1, crashes=crashes)
    forge(raw, CLAIM, careful=True, suspect=1, crashes=crashes, **claimed.fields(CLAIM, Codec(3)))
    clock = count(0, 20)
    with saver.thread("t").batch("b", ITEMS, timeout=5) as batch:  # clock: it has its own
        # The claim says nothing about its worker. So it ends when it has stood still for the timeout.
        batch._worker = replace(batch._worker, clock=lambda: float(next(clock)))
        handled = []
        for item in batch:
            handled.append(item)
            batch.done(item)
    assert handled == ["b", "c"]
    assert batch.failed() == {}


def test_a_claim_names_no_process_in_clear(saver, raw):
    left(saver)
    assert raw.documents()[CLAIM].keys() == {"format", "claim"}
    assert b"pod-1" not in raw.documents()[CLAIM]["claim"]


def test_outputs_that_were_removed(saver, raw):
    batch = left(saver)
    (name,) = [name for name in raw.documents() if f"/{keys.DONE}/" in name]
    raw.set_document(name, {key: value for key, value in raw.documents()[name].items() if key != "outputs"})
    with pytest.raises(DamageError):
        batch.outputs()
    assert [one.name for one in saver.admin.verify("t")] == [name]


def test_a_list_of_batches_deletes_nothing(saver, raw):
    """Not even what an older batch has left, which a copy of the store for reading only may hold."""
    left(saver)
    older = {name: fields for name, fields in raw.documents().items() if f"/{keys.DONE}/" in name}
    saver.delete_thread("t")
    left(saver)
    for name, fields in older.items():
        raw.set_document(name, fields)
    before = raw.documents()
    assert len(saver.admin.batches("t")) == 1
    assert raw.documents() == before


def test_an_older_list_that_lacks_items(saver, raw):
    with saver.thread("t").batch("b", ITEMS[:1]):
        older = raw.documents()[BATCH]
    with saver.thread("t").batch("b", ITEMS, changed="merge") as batch:
        for item in batch:
            batch.fail(item, "no") if item == "c" else batch.done(item, output=item)
    raw.set_document(BATCH, older)
    for call in (lambda: saver.admin.batches("t"), saver.thread("t").batch("b", ITEMS[:1]).__enter__):
        with pytest.raises(DamageError, match="does not have"):
            call()
