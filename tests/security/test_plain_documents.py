"""Operations and batches of an encrypted store: their objects are verified, and data in clear are reported."""

import hashlib
import struct

import pytest

from langgraph_gcs_saver.errors import ClearTextError, DamageError, OutcomeUnknownError, ResultNotStoredError
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


def test_an_operation_under_another_key_or_thread(make_saver, raw):
    saver = make_saver(cipher=KEY)
    first, second = ({"thread": "t", "key": "a"}, {"thread": "u", "key": "b"})
    for number, one in enumerate((first, second)):
        saver.thread(one["thread"]).operations.once("charge", lambda number=number: number, key=one["key"])
    source, target = (keys.operation_doc(one["thread"], one["key"]) for one in (first, second))
    # Another digest, and the state that queries see, are all that can be made without the key.
    stored = raw.documents()[source]
    digest = hashlib.sha256(b"%s\0done\0%s" % (target.encode(), stored["operation"])).digest()
    raw.set_document(target, {**stored, "digest": digest})
    with pytest.raises(OutcomeUnknownError):
        saver.thread("u").operations.once("charge", lambda: pytest.fail("repeated"), key="b")
    with pytest.raises(DamageError):
        saver.admin.operations("u")
    assert [one.name for one in saver.admin.verify()] == [target]


@pytest.mark.parametrize("change", ["state", "result"])
def test_a_part_of_an_operation_that_was_changed(make_saver, raw, change):
    saver, name = make_saver(cipher=KEY), keys.operation_doc("t", "order-17")
    handle(saver)
    fields = raw.documents()[name]
    if change == "state":
        digest = hashlib.sha256(b"%s\0not-done\0%s" % (name.encode(), fields["operation"])).digest()
        raw.set_document(name, {**fields, "state": "not-done", "digest": digest})
    else:
        saver.thread("t").operations.once("charge", lambda: {"receipt": 2}, key="order-18")
        other = raw.documents()[keys.operation_doc("t", "order-18")]
        raw.set_document(name, {**fields, "result": other["result"]})
    with pytest.raises((OutcomeUnknownError, ResultNotStoredError)):
        saver.thread("t").operations.once("charge", lambda: pytest.fail("repeated"), key="order-17")
    assert [one.name for one in saver.admin.verify("t")] == [name]


def test_what_remains_possible_with_operations(make_saver, raw):
    saver, name = make_saver(cipher=KEY), keys.operation_doc("t", "order-17")
    handle(saver)
    raw.delete_document(name)
    assert saver.thread("t").operations.once("charge", lambda: "again", key="order-17") == "again"


def test_what_is_in_clear(make_saver, raw):
    saver = make_saver(cipher=KEY)
    context = {"about": "a secret context"}
    with saver.thread("t").lease(owner="pod-of-a-lease"):
        saver.thread("t").operations.once("a secret name", lambda: "a secret result", key="a secret key")
        items = ["a secret item", "another secret"]
        with saver.thread("t").batch("batch-id", items, owner="pod-of-a-batch", attempts=1, context=context) as batch:
            for item in batch:
                claims = raw.documents()
                batch.done(item, output="a secret output") if item == items[0] else batch.fail(item, "a secret reason")
        held = raw.documents()
    stored = repr([*claims.items(), *held.items()])
    assert "secret" not in stored
    assert "pod-of-a-batch" not in stored
    assert "pod-of-a-lease" in stored
    assert "batch-id" in stored
    assert hashlib.sha256(b"a secret key").hexdigest() in stored  # a guess of the key reproduces it
