"""Sizes that a store claims: too large ones are refused before memory is allocated, and writers never make them."""

import asyncio
import hashlib
import io
import json
import tarfile
import tracemalloc

import pytest
from hypothesis import strategies as st

from langgraph_gcs_saver.engine.effects import Doc, PutBlob
from langgraph_gcs_saver.errors import CheckpointCorruptError, GCSSaverError, InvalidInputError, ValueTooLargeError
from langgraph_gcs_saver.format import frames, keys, manifest
from langgraph_gcs_saver.format.frames import FrameError, open_envelope, parts
from langgraph_gcs_saver.format.manifest import ChannelRef, FrameRef, Manifest, Serialized
from langgraph_gcs_saver.stores.archive import Archive, NewArchive
from tests.kit.memory import peak
from tests.security.forging import name_of
from tests.security.sealing import CODEC, opened, plain_envelope, seal, seal_writes, stated, writes_doc
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, put, values, version
from tests.unit.fuzz import fuzz

MIB = 1 << 20


@pytest.fixture
def store_uri(tmp_path):
    """The embedded store only, because sizes are checked in one way, wherever bytes come from."""
    return f"file://{tmp_path}/store"


def is_refused(raw, most, depths=("metadata", "data")):
    """Every way to read a checkpoint, within so many bytes."""
    with raw.reader() as reader:
        with peak(most), pytest.raises(GCSSaverError) as caught:
            reader.get_tuple(cfg(1))
        with peak(most), pytest.raises(GCSSaverError):
            asyncio.run(reader.aget_tuple(cfg()))
        with peak(most):
            assert list(reader.list(cfg())) == []
        for depth in depths:
            with peak(most):
                assert [one for one in reader.admin.verify("t", depth=depth) if one.is_damage]
        with peak(most):
            history = reader.admin.history("t")
        assert isinstance(caught.value, CheckpointCorruptError)
    return history


# Stubs


@pytest.mark.parametrize("size", [65 * MIB, 900 * MIB, 1 << 50])
def test_a_manifest_in_an_object_is_no_larger_than_one_in_a_document(size, make_saver, raw):
    """29 KB of an object were decoded to 900 MiB."""
    saver = make_saver()
    put(saver, 1, {"v": 1})
    data = stated(min(size, 900 * MIB))
    assert len(data) < 200_000
    saver._backend.perform(PutBlob(keys.blob_beside(name_of(1), keys.MANIFEST, "deadbeef"), data))
    seal(raw, name_of(1), {"gcs": ["deadbeef", len(data), size, "0" * 64]})
    assert is_refused(raw, 8 * MIB)[0].damage == "the manifest is larger than a manifest can be"


def test_no_more_of_an_object_is_fetched_than_is_stated(make_saver, raw):
    """An attacker who can replace objects can make one of any length."""
    saver = make_saver(inline_max_bytes=0)
    put(saver, 1, {"v": bytes(1000)})
    saver.put_writes(cfg(1), [("v", 1)], "task")
    for name in list(raw.objects()):
        raw.set_object(name, raw.objects()[name] + bytes(64 * MIB))
    is_refused(raw, 8 * MIB, depths=["existence", "data"])


@pytest.mark.parametrize("what", ["frame", "stub"])
def test_stored_bytes_are_bounded_by_what_they_hold(what, make_saver, raw):
    """Or an object of any length were fetched for a value of ten bytes."""
    put(make_saver(), 1, {"v": 1})
    head, tail = opened(raw, name_of(1))
    if what == "frame":
        head["channels"]["v"]["chain"] = [{"k": 0, "stored": 1 << 40, "gcs": "deadbeef"}]
    else:
        head, tail = {"gcs": ["deadbeef", 1 << 40, 1000, "0" * 64]}, b""
    seal(raw, name_of(1), head, tail)
    with raw.reader() as reader, pytest.raises(CheckpointCorruptError, match=r"a frame that is too large|a stub"):
        reader.get_tuple(cfg(1))


# Heads

HEADS = {
    "lists": b"[" + b"[]," * (4 * MIB) + b"1]",
    "objects": b"[" + b"{}," * (4 * MIB) + b"1]",
    "nested objects": b"[" + b'{"":{"":1}},' * MIB + b"1]",
    "numbers": b"[" + b"1," * (7 * MIB) + b"1]",
    "text": b'"' + bytes(b"x" * (17 * MIB)) + b'"',
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_that_would_take_much_memory_is_not_parsed(head, make_saver, raw):
    """JSON of lists takes 27 times its bytes and more; some kilobytes of a document are 16 MiB of it."""
    saver = make_saver()
    put(saver, 1, {"v": 1})
    before = raw.documents()[name_of(1)]
    seal(raw, name_of(1), head)
    assert len(raw.documents()[name_of(1)]["manifest"]) < 20_000
    is_refused(raw, 5 * MIB + 2 * len(head))
    raw.set_document(name_of(1), before)
    saver.put_writes(cfg(1), [("v", 1)], "task")
    seal_writes(raw, writes_doc(raw), head)
    is_refused(raw, 5 * MIB + 2 * len(head))


NASTY = [
    "[[],[],[1]]",
    "[{},{},{}]",
    '[{"":1},{"":2}]',
    '[{"":{"":{"":1}}}]',
    '{"a":[[]],"b":[[]]}',
    "[1.5,2.5,-1e9]",
    '["é\U0001f600a","é\U0001f600b"]',
    "[[[[[[[]]]]]],[[[[[[]]]]]]]",
]


@pytest.mark.parametrize("pattern", NASTY)
def test_what_a_part_of_json_takes(pattern):
    """Less than 100 bytes for each part, and the text: with the limits that is less than 256 MiB."""
    text = ("[" + ",".join([pattern] * 5000) + "]").encode()
    tracemalloc.start()
    try:
        json.loads(text)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 100 * parts(text, 0, len(text)) + 5 * len(text)
    assert 100 * frames.HEAD_PARTS + 5 * frames.HEAD_BYTES < 256 * MIB


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


def count(value):
    """Values and keys, at all depths."""
    if isinstance(value, dict):
        return 1 + sum(1 + count(item) for item in value.values())
    return 1 + sum(map(count, value)) if isinstance(value, list) else 1


@fuzz(json_values)
def test_parts_are_counted_without_parsing(value):
    text = json.dumps(value).encode()
    assert count(value) <= parts(text, 0, len(text)) + 1


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_no_json(constant):
    with pytest.raises(FrameError, match="not JSON"):
        open_envelope(plain_envelope(f'{{"a": {constant}}}'.encode()))


# Honest sizes


def test_a_manifest_of_5000_channels_with_long_chains_is_read():
    """More than any graph has: a million parts, 10 MiB."""
    owners = [cid(n) for n in range(11)]
    chain = tuple(
        FrameRef(k, 20_000, owner, attempt="0123456789ab", crc32c="AAAAAA==", size=90_000, digest="0a1b2c3d")
        for k, owner in enumerate(owners)
    )
    last = FrameRef(11, 20_000, attempt="0123456789ab", crc32c="AAAAAA==")
    refs = {
        f"channel number {n}": ChannelRef(version(n), "msgpack", f"{n:064x}", 90_000, (*chain, last))
        for n in range(5000)
    }
    versions = {channel: ref.version for channel, ref in refs.items()}
    found = Manifest(
        thread_id="t",
        ns="",
        checkpoint_id=cid(11),
        parent_id=cid(10),
        checkpoint={"v": 4, "channel_versions": versions, "versions_seen": {f"node {n}": versions for n in range(8)}},
        rest=None,
        metadata=Serialized("msgpack", b"\x80"),
        channels=refs,
    )
    plain = manifest.envelope(found)
    assert 10 * MIB < len(plain) < frames.HEAD_BYTES
    with peak(256 * MIB):
        assert manifest.decode(Doc(found.name, {"format": found.format}, 1, 1), *open_envelope(plain)) == found


def test_metadata_are_not_held_for_all_checkpoints_of_a_thread(make_saver, raw):
    """Each may have almost 64 MiB of them. A verification held those of all, and a list those of a whole page."""
    size = 30 * MIB
    saver = make_saver()
    for n in range(1, 9):
        put(saver, n, {"v": n}, parent=n - 1 or None, metadata={"odd": noise(size, n)})
    with raw.reader() as reader:
        for depth in ("metadata", "data"):
            with peak(4 * size):
                assert list(reader.admin.verify("t", depth=depth)) == []
        with peak(4 * size):
            assert not reader.admin.repair("t")
        with peak(12 * size):
            assert sum(1 for _ in reader.list(cfg())) == 8


# Writers


def snapshot(raw):
    return raw.documents(), raw.objects()


TOO_LARGE = {
    "many parts": {"values": {"v": 1}, "odd": [0] * (frames.HEAD_PARTS + 1)},
    "a long text": {"values": {"v": 1}, "odd": "x" * (frames.HEAD_BYTES + 1)},
    "large metadata": {"values": {"v": 1}, "metadata": {"odd": bytes(frames.ENVELOPE_MAX_BYTES + 1)}},
    "large fields": {"values": {"v": 1}, "odd": bytes(frames.ENVELOPE_MAX_BYTES + 1)},
    "many values": {"values": {f"channel {n}": bytes(MIB - 10) for n in range(65)}},
}


@pytest.mark.parametrize("given", TOO_LARGE.values(), ids=TOO_LARGE)
def test_nothing_is_stored_that_would_not_be_read(given, make_saver, raw):
    saver = make_saver(max_value_bytes=MIB)
    put(saver, 1, {"v": 1})
    before = snapshot(raw)
    options = {key: value for key, value in given.items() if key not in {"values", "metadata"}}
    made = checkpoint(2, given["values"], **options)
    with pytest.raises(ValueTooLargeError, match=r"'t'|max_value_bytes"):
        saver.put(cfg(1), made, DEFAULT | given.get("metadata", {}), made["channel_versions"])
    assert snapshot(raw) == before
    put(saver, 2, {"v": 2}, parent=1)
    assert values(saver.get_tuple(cfg())) == {"v": 2}


def test_a_call_of_more_writes_than_are_read(make_saver, raw):
    saver = make_saver()
    put(saver, 1, {"v": 1})
    before = snapshot(raw)
    with pytest.raises(ValueTooLargeError, match=r"'task'.*thread 't'"):
        saver.put_writes(cfg(1), [("v", None)] * (frames.HEAD_PARTS // 5 + 1), "task")
    assert snapshot(raw) == before


def test_pending_writes_that_are_too_large_together(make_saver):
    """No call of `put_writes` knows the writes of the others. The error of the read says what to do."""
    saver = make_saver(max_value_bytes=MIB)
    put(saver, 1, {"v": 1})
    for n in range(65):
        saver.put_writes(cfg(1), [("v", bytes(MIB - 10))], f"task {n}")
    with pytest.raises(ValueTooLargeError, match=rf"pending writes of checkpoint '{cid(1)}', thread 't'.*greater"):
        saver.get_tuple(cfg(1))
    assert len(make_saver(max_value_bytes=2 * MIB).get_tuple(cfg(1)).pending_writes) == 65


# Archives


def member(file, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    file.addfile(info, io.BytesIO(data))


def archive_with(path, index):
    """An archive of a thread without anything, with another index, and its digest."""
    head = {"archive": "langgraph-gcs-saver", "version": 1, "thread_id": "t"}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as file:
        member(file, "archive.json", json.dumps(head).encode())
        member(file, "index.json", index)
        member(file, "index.sha256", hashlib.sha256(index).hexdigest().encode())
    return path


@pytest.mark.parametrize("filling", [b"[],", b"{},", b"1,", b'{"":1},'])
def test_an_index_that_would_take_much_memory_is_not_parsed(filling, tmp_path):
    """It has so many rows as the file has members, each of which has half a kilobyte there."""
    index = b'{"objects": [], "documents": [], "odd": [' + filling * (8 * MIB // len(filling)) + b"1]}"
    path = archive_with(tmp_path / "t.tar", index)
    with peak(4 * len(index)), pytest.raises(InvalidInputError, match="its index lists more than the file holds"):
        Archive(path)


def test_an_archive_of_many_documents_is_read(tmp_path):
    new = NewArchive(tmp_path / "t.tar")
    new.begin("t")
    for n in range(3000):
        new.add_blob(keys.blob("t", "a,b[", cid(n), keys.enc("a:{channel}"), "deadbeef"), b"x")
    for n in range(3000):
        new.add_doc(Doc(name_of(n), {"frames": b"x"}, n, n))
    new.finish()
    with Archive(tmp_path / "t.tar") as archive:
        assert len(archive.contents()) == 6000


def test_an_archive_without_anything_but_its_index(tmp_path):
    with Archive(archive_with(tmp_path / "t.tar", b'{"objects": [], "documents": []}')) as archive:
        assert archive.contents() == {}


def test_the_codec_of_these_tests_is_the_savers(make_saver, raw):
    """What the forgeries rely on: a document that is sealed again reads the same."""
    put(make_saver(), 1, {"v": 1})
    head, tail = opened(raw, name_of(1))
    seal(raw, name_of(1), head, tail)
    assert CODEC.decode_bounded(raw.documents()[name_of(1)]["manifest"])
    with raw.reader() as reader:
        assert values(reader.get_tuple(cfg(1))) == {"v": 1}
