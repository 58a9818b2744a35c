"""Operations and batches of an encrypted store: their objects are verified, and data in clear are told of."""

import hashlib
import struct

import pytest

from langgraph_gcs_saver.errors import ClearTextError, DamageError, OutcomeUnknownError
from langgraph_gcs_saver.events import ClearTextEncrypted
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec
from tests.incremental.eax import Eax

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")


def handle(saver):
    """An operation, and a batch with an output."""
    saver.thread("t").operations.once("charge", lambda: {"receipt": 1}, key="order-17")
    with saver.thread("t").batch("b", ["a"]) as batch:
        for item in batch:
            batch.done(item, output="of a")


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "change", [flipped, lambda data: data[:-1], lambda data: data + b"x"], ids=["flipped", "shorter", "longer"]
)
@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "encrypted"])
def test_damaged_objects_are_found(make_saver, raw, change, cipher):
    saver = make_saver(cipher=cipher, inline_max_bytes=0)
    handle(saver)
    assert list(saver.admin.verify("t", depth="data")) == []
    names = sorted(raw.objects())
    assert len(names) == 3
    for name in names:
        raw.set_object(name, change(raw.objects()[name]))
    assert sorted(one.name for one in saver.admin.verify("t", depth="data")) == names


def test_what_is_in_clear_is_not_read(make_saver, raw):
    handle(make_saver())
    saver = make_saver(cipher=KEY)
    planted = sorted(name for name in raw.documents() if "/lg_" in name and f"/{keys.CHUNKS}/" not in name)
    assert sorted(one.name for one in saver.admin.verify("t") if one.kind == "clear") == planted
    for call in (
        lambda: saver.admin.operations("t"),
        lambda: saver.admin.batches("t"),
        lambda: saver.copy_thread("t", "copy"),
        saver.thread("t").batch("b", ["a"]).__enter__,
    ):
        with pytest.raises(ClearTextError):
            call()
    with pytest.raises(OutcomeUnknownError) as error:
        saver.thread("t").operations.once("charge", lambda: pytest.fail("repeated"), key="order-17")
    assert isinstance(error.value.__cause__, ClearTextError)


def test_a_copy_tells_of_what_it_encrypts(make_saver):
    handle(make_saver())
    saver, events = make_saver(cipher=KEY, accept_clear=True), []
    saver.subscribe(events.append)
    assert saver.admin.copy_thread("t", "copy", dry_run=True).clear == 3
    saver.copy_thread("t", "copy")
    assert [one.documents for one in events if isinstance(one, ClearTextEncrypted)] == [3]
    assert list(make_saver(cipher=KEY).admin.verify("copy", depth="data")) == []


@pytest.mark.parametrize("seconds", [10**400, 1e15, "Infinity", "NaN", -1], ids=["huge", "1e15", "inf", "nan", "-1"])
@pytest.mark.parametrize("place", ["keep", "timeout"])
def test_impossible_times_of_an_operation_are_damage(make_saver, raw, seconds, place):
    saver, name = make_saver(), keys.operation_doc("t", "order-17")
    handle(saver)
    times = {"keep": 1, "timeout": 1, place: seconds}
    state = "done" if place == "keep" else "claimed"
    head = (
        f'{{"key": "order-17", "name": "charge", "request": "", "keep": {times["keep"]}, '
        f'"attempt": [1, "nonce", "{state}", null, {times["timeout"]}, null, ""]}}'
    ).encode()
    stored = Codec(3).encode_envelope(struct.pack(">I", len(head)) + head, (name, "operation"))
    digest = hashlib.sha256(b"%s\0%s\0%s" % (name.encode(), state.encode(), stored)).digest()
    raw.set_document(name, {"format": 1, "state": state, "operation": stored, "digest": digest})
    for call in (
        lambda: saver.admin.operations("t"),
        lambda: saver.thread("t").operations.resolve("order-17", not_done=True),
    ):
        with pytest.raises(DamageError):
            call()
    assert [one.name for one in saver.admin.verify("t")] == [name]
    assert [one.thread_id for one in saver.admin.plan_collect("t") if one.skipped] == ["t"]
