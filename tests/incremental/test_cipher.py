"""The `cipher` option: nothing readable is stored, and a wrong key is distinguished from damage."""

import re

import pytest

from langgraph_gcs_saver.errors import CheckpointCorruptError, WrongKeyError
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointSkipped
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec, FrameError
from tests.incremental.eax import Eax
from tests.incremental.threads import Thread, chat, growing, numbers
from tests.system.build import cfg, checkpoint, cid, number, version

MARK = "XYZZYPLUGH"
KEY, OTHER = Eax("the key"), Eax("another key")
METADATA = {"source": "loop", "step": 7, "parents": {}, "user": f"{MARK} user", "tags": [f"{MARK} tag"]}
LARGE = {"secret": [MARK + " " + message["text"] for message in chat(60)]}


def fill(saver):
    """A thread with a bit of everything: chains, objects, pending writes small and large."""
    thread = Thread()
    secret = [[{"text": f"{MARK} {n}"}, *chat(20 + n)] for n in range(6)]
    for n, value in enumerate(secret, 1):
        thread.put(
            saver,
            n,
            {"v": value, "kept": f"{MARK} kept", "none": None},
            n - 1 or None,
            changed=None if n == 1 else {"v"},
            metadata=METADATA,
        )
    thread.put(saver, 7, {**thread.values[6], **LARGE}, 6, changed=["secret"], metadata=METADATA)
    saver.put_writes(cfg(7), [("v", [f"{MARK} write"]), ("__interrupt__", f"{MARK} interrupt")], "task 1")
    saver.put_writes(cfg(7), [("v", LARGE)], "task 2")
    saver.put_writes(cfg(3), [("__error__", f"{MARK} error"), ("__resume__", "yes")], "task 1")
    return thread


def writes(found):
    return [(channel, value) for _, channel, value in found.pending_writes]


def check(thread, *savers):
    thread.check(*savers)
    for saver in savers:
        found = saver.get_tuple(cfg(7))
        assert found.metadata == METADATA
        assert writes(found) == [("__interrupt__", f"{MARK} interrupt"), ("v", [f"{MARK} write"]), ("v", LARGE)]
        assert writes(saver.get_tuple(cfg(3))) == [("__resume__", "yes"), ("__error__", f"{MARK} error")]


def payloads(raw):
    """Every stored piece of bytes, and what it is: fields of documents, and objects."""
    for name, fields in raw.documents().items():
        for field, value in fields.items():
            if isinstance(value, bytes):
                yield (name, field), value
    for name, data in raw.objects().items():
        yield (name, None), data


@pytest.mark.parametrize("inline", [8 << 10, 0], ids=["inline", "all objects"])
def test_everything_reads_back(inline, make_saver):
    saver = make_saver(cipher=KEY, inline_max_bytes=inline)
    thread = fill(saver)
    check(thread, saver, make_saver(cipher=KEY), make_saver(cipher=Eax("the key"), cache_max_bytes=0))
    assert max(length for _, length in numbers(saver, thread)) > 1, "encryption is below compression"


@pytest.mark.parametrize("inline", [8 << 10, 0], ids=["inline", "all objects"])
def test_nothing_readable_is_stored(inline, make_saver, raw):
    fill(make_saver(cipher=KEY, inline_max_bytes=inline))
    documents, objects = raw.snapshot()
    assert objects
    assert MARK not in repr(documents)
    assert not any(MARK.encode() in data or b"\x28\xb5\x2f\xfd" in data for data in objects.values())
    for (name, field), data in payloads(raw):
        assert b"\x28\xb5\x2f\xfd" not in data, f"a zstd frame in clear in {name}, {field}"
        assert b"task 1" not in data
    found = {field for (_, field), _ in payloads(raw)}
    assert {"manifest", "digest", "writes"} <= found
    for name, fields in documents.items():
        assert "filter" not in fields
        if "/lg_checkpoints/" in name:
            assert set(fields) <= {"format", "ns", "manifest", "digest", "frames", "heir"}
    manifests = [data for (_, field), data in payloads(raw) if field == "manifest"]
    for data in [*manifests, *objects.values()]:
        assert data[0] == 1
        with pytest.raises((WrongKeyError, FrameError)):
            Codec(3).decode_bounded(data)


def test_a_guess_cannot_be_checked(make_saver, raw):
    """No digest of a plaintext is stored in clear. Otherwise an answer such as "yes" could be found by trying some."""
    seen = []
    for _ in range(2):
        saver = make_saver(cipher=KEY)
        saver.put(
            {"configurable": {"thread_id": "t"}}, checkpoint(1, {"answer": "yes"}), METADATA, {"answer": version(1)}
        )
        saver.put_writes(cfg(1), [("v", "yes"), ("__resume__", "yes")], "task")
        seen.append(dict(payloads(raw)))
        saver.delete_thread("t")
    first, second = seen
    assert first.keys() == second.keys()
    assert len(first) >= 5
    for key, data in first.items():
        windows = {data[at : at + 12] for at in range(len(data) - 11)}
        # What repeats is the mark of an encrypted frame and the cipher's name.
        again = [at for at in range(len(second[key]) - 11) if second[key][at : at + 12] in windows]
        assert not again, key


@pytest.mark.parametrize("clear", [(), ["step"], pytest.param({"step", "user", "absent"}, id="set")], ids=repr)
def test_metadata_in_clear_is_what_was_named(clear, make_saver, raw):
    saver = make_saver(cipher=KEY, clear_metadata=clear)
    thread = fill(saver)
    for name, fields in raw.documents().items():
        if "/lg_checkpoints/" in name:
            assert fields.get("filter", {}) == {key: METADATA[key] for key in METADATA if key in clear}
    cold = make_saver(cipher=KEY, clear_metadata=clear)
    for wanted, count in [
        ({"step": 7}, 7),
        ({"step": 8}, 0),
        ({"user": METADATA["user"]}, 7),
        ({"user": MARK}, 0),
        ({"step": 7, "source": "loop"}, 7),
        ({"tags": METADATA["tags"]}, 7),
        ({"tags": []}, 0),
    ]:
        for reader in (saver, cold):
            assert len(list(reader.list(cfg(), filter=wanted))) == count
            assert len(list(reader.list(cfg(), filter=wanted, limit=2))) == min(2, count)
    check(thread, cold)


# Another key, and none


async def acall(saver, n):
    return await saver.aget_tuple(cfg(n))


def reads():
    yield from ((f"get {n}", lambda saver, n=n: saver.get_tuple(cfg(n))) for n in (1, 3, 5, 7))
    yield "latest", lambda saver: saver.get_tuple(cfg())
    yield "list", lambda saver: list(saver.list(cfg()))
    yield "list all threads", lambda saver: list(saver.list(None))
    yield "list one", lambda saver: list(saver.list(cfg(), limit=1))
    yield "list before", lambda saver: list(saver.list(cfg(), before=cfg(5)))
    yield (
        "list, filtered by what is not indexed",
        lambda saver: list(saver.list(cfg(), filter={"tags": METADATA["tags"]})),
    )


def others():
    yield "a child", lambda saver: put_child(saver, 8, 7)
    yield "an old child", lambda saver: put_child(saver, 8, 2)
    yield "the same checkpoint", lambda saver: put_child(saver, 7, None)


def put_child(saver, n, parent):
    versions = {"v": version(n), "kept": version(1)}
    saver.put(cfg(parent), checkpoint(n, {"v": ["new"]}, versions), METADATA, {"v": versions["v"]})


@pytest.fixture(params=["another key", "no cipher"])
def stranger(request, make_saver):
    events = []
    found = make_saver(on_event=events.append, **({"cipher": OTHER} if request.param == "another key" else {}))
    yield found
    assert not any(isinstance(event, CheckpointSkipped) for event in events)


@pytest.mark.parametrize("inline", [8 << 10, 0], ids=["inline", "all objects"])
def test_another_key_is_said_to_be_one_everywhere(inline, make_saver, stranger, raw):
    thread = fill(make_saver(cipher=KEY, inline_max_bytes=inline))
    before = raw.snapshot()
    for what, call in [*reads(), *others()]:
        with pytest.raises(WrongKeyError) as caught:
            call(stranger)
        assert not isinstance(caught.value, CheckpointCorruptError), what
        assert MARK not in str(caught.value)
        assert "aes-eax" in str(caught.value)
    assert raw.snapshot() == before, "it changed what it cannot read"
    check(thread, make_saver(cipher=KEY))
    stranger.delete_thread("t")  # needs no key
    assert raw.snapshot() == ({}, {})


async def test_another_key_asynchronously(make_saver, stranger):
    fill(make_saver(cipher=KEY))
    for n in (None, 1, 7):
        with pytest.raises(WrongKeyError):
            await stranger.aget_tuple(cfg(n))
    with pytest.raises(WrongKeyError):
        [found async for found in stranger.alist(cfg())]
    await stranger.aclose()


def test_a_filtered_list_with_another_key(make_saver, stranger):
    """No checkpoint may be skipped silently, though Firestore has no index of it."""
    fill(make_saver(cipher=KEY))
    with pytest.raises(WrongKeyError):
        list(stranger.list(cfg(), filter={"step": 7}))


def test_pending_writes_of_another_key(make_saver):
    """The checkpoint was written in clear, its writes were not."""
    Thread().line([make_saver()], growing(3, 2))
    make_saver(cipher=KEY).put_writes(cfg(2), [("v", "x")], "task")
    for options in ({}, {"cipher": OTHER, "accept_clear": True}):
        reader = make_saver(**options)
        assert reader.get_tuple(cfg(1)) is not None
        with pytest.raises(WrongKeyError):
            reader.get_tuple(cfg(2))
    assert writes(make_saver(cipher=KEY, accept_clear=True).get_tuple(cfg(2))) == [("v", "x")]


# Clear data, and others' keys, in one thread


def test_clear_data_from_before_is_still_read(make_saver):
    clear = make_saver()
    thread = fill(clear)
    saver = make_saver(cipher=KEY, accept_clear=True)
    check(thread, saver)
    # The next ones are encrypted, and build on nothing that is not.
    for n in range(10, 14):
        thread.put(saver, n, {"v": [*thread.values[6]["v"], *chat(n, 100)], "kept": 1}, 6 if n == 10 else n - 1)
    options = {"cipher": KEY, "accept_clear": True}
    thread.check(saver, make_saver(**options), make_saver(**options, cache_max_bytes=0))
    for n in range(10, 14):
        thread.check_one(make_saver(cipher=KEY), n)
    assert any(length > 1 for found in numbers(saver, thread)[7:] for length in [found[1]])
    for n in (10, 13, None):
        with pytest.raises(WrongKeyError):
            make_saver().get_tuple(cfg(n))
    found = make_saver().get_tuple(cfg(6))
    assert found.checkpoint["channel_values"] == thread.values[6]
    # … and without the cipher again, which cannot read what it would inherit.
    with pytest.raises(WrongKeyError):
        put_child(make_saver(), 20, 13)


class Ring:
    """Keys by name; the one that is current encrypts."""

    def __init__(self, current, **known):
        self.current, self.known = current, known

    def encrypt(self, plaintext):
        return self.current, self.known[self.current].encrypt(plaintext)[1]

    def decrypt(self, ciphername, ciphertext):
        return self.known[ciphername].decrypt("aes-eax", ciphertext)


BOTH = Ring("b", a=KEY, b=OTHER)
ONLY = Ring("b", b=OTHER)


def test_keys_can_be_changed(make_saver):
    """A cipher that knows several keys, by name, reads all of them."""
    thread = Thread()
    old, new = make_saver(cipher=Ring("a", a=KEY)), make_saver(cipher=BOTH)
    thread.line([old], growing(20, 3))
    thread.check_one(new, 3)
    thread.line([new], growing(23, 3), first=4, parent=3)
    assert numbers(new, thread)[3][1] > 1
    thread.check(new, make_saver(cipher=Ring("a", a=KEY, b=OTHER)))
    with pytest.raises(WrongKeyError, match="'b'"):
        old.get_tuple(cfg(5))


@pytest.fixture
def rotated(make_saver):
    """A thread that began under key `a` and continued under `b`, whose checkpoints inherit frames of both."""
    thread = Thread()
    thread.line([make_saver(cipher=Ring("a", a=KEY))], growing(20, 3))
    thread.line([make_saver(cipher=BOTH)], growing(23, 3), first=4, parent=3)
    return thread


@pytest.mark.parametrize(
    "cipher", [ONLY, Ring("b", a=OTHER, b=OTHER)], ids=["it does not know", "it takes another for"]
)
def test_frames_under_a_key_that_is_gone_are_no_damage(cipher, rotated, make_saver, raw):
    """The checkpoints' own key is there; the one of what they inherit is not."""
    before = raw.snapshot()
    events = []
    for n in (None, 6, 4):
        with pytest.raises(WrongKeyError, match="'a'"):
            make_saver(cipher=cipher, on_event=events.append).get_tuple(cfg(n))
    for call in (
        lambda saver: list(saver.list(cfg(), limit=1)),
        lambda saver: list(saver.admin.verify("t", depth="data")),
        lambda saver: saver.admin.repair("t"),
    ):
        with pytest.raises(WrongKeyError, match="'a'"):
            call(make_saver(cipher=cipher, on_event=events.append))
    assert not any(isinstance(event, (CheckpointDamaged, CheckpointSkipped)) for event in events)
    assert raw.snapshot() == before
    rotated.check(make_saver(cipher=BOTH))


def test_damage_under_an_older_key_is_damage(rotated, make_saver, raw):
    """A frame of checkpoint 1 under key `a`, which all others build on; its name, too, can be damaged."""
    name = keys.checkpoint_doc("t", "", cid(1))
    whole = raw.documents()[name]
    for at in (1, 2, len(whole["frames"]) - 1):
        frames = whole["frames"]
        raw.set_document(name, {**whole, "frames": frames[:at] + bytes([frames[at] ^ 0x29]) + frames[at + 1 :]})
        reader = make_saver(cipher=BOTH)
        with pytest.raises(CheckpointCorruptError):  # its manifest shows that key `a` is there
            reader.get_tuple(cfg(1))
        with pytest.raises(CheckpointCorruptError):
            reader.get_tuple(cfg(6))
        # A reader that has not seen that yet cannot decide, and raises either error.
        with pytest.raises((CheckpointCorruptError, WrongKeyError)):
            make_saver(cipher=BOTH).get_tuple(cfg(6))
        assert any(found.is_damage for found in make_saver(cipher=BOTH).admin.verify("t", depth="data"))
    raw.set_document(name, whole)
    rotated.check(make_saver(cipher=BOTH))


# Damage


def reader_sees(raw, expected):
    """What a reader with the right key and without caches makes of every checkpoint."""
    with raw.reader(cipher=KEY) as reader:
        return [outcome(reader, n, values) for n, values in expected.items()]


def outcome(reader, n, values):
    try:
        found = reader.get_tuple(cfg(n))
    except CheckpointCorruptError:
        return "damaged"
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    return "whole"


@pytest.mark.parametrize("inline", [8 << 10, 0], ids=["inline", "all objects"])
def test_a_changed_byte_of_a_ciphertext_is_damage(inline, make_saver, raw):
    """Not a wrong key, whichever it is: the mark, the name's length, the name, the nonce, the tag, or the data."""
    thread = fill(make_saver(cipher=KEY, inline_max_bytes=inline))
    expected = {n: thread.values[n] for n in (3, 7)}
    assert set(reader_sees(raw, expected)) == {"whole"}
    checked = 0
    for (name, field), data in sorted(payloads(raw), key=lambda found: str(found[0]))[:: 2 * raw.thin]:
        if not re.search("lg_checkpoints|lg_writes", name) and field is not None:
            continue
        start = 32 if field is not None and "lg_writes" in name else 0
        for at in {0, start, start + 1, start + 3, len(data) - 1}:
            if at >= len(data):
                continue
            damaged = data[:at] + bytes([data[at] ^ 0x29]) + data[at + 1 :]
            if field is None:
                raw.set_object(name, damaged)
            else:
                whole = raw.documents()[name]
                raw.set_document(name, {**whole, field: damaged})
            try:
                outcomes = reader_sees(raw, expected)
            finally:
                if field is None:
                    raw.set_object(name, data)
                else:
                    raw.set_document(name, whole)
            checked += "damaged" in outcomes
    assert checked > 10 / raw.thin
    assert set(reader_sees(raw, expected)) == {"whole"}


def test_what_was_in_clear_and_looks_encrypted_is_damage(make_saver, raw):
    Thread().line([make_saver()], growing(3, 2))
    name = keys.checkpoint_doc("t", "", cid(1))
    whole = raw.documents()[name]
    raw.set_document(name, {**whole, "frames": b"\x01" + whole["frames"][1:]})
    with pytest.raises(CheckpointCorruptError):
        make_saver().get_tuple(cfg(1))


def test_the_newest_is_the_newest_with_a_cipher(make_saver):
    thread = fill(make_saver(cipher=KEY))
    assert number(make_saver(cipher=KEY).get_tuple(cfg())) == max(thread.values)
