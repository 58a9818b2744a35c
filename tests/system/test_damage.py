"""Every stored byte counts: damage to any document or object is noticed by whoever reads it, or changes nothing.

Each damage is done behind the library's back, everything is read by a saver without caches, and the damage is mended.

What no reader can notice, and is left out for that reason alone:
- a document of pending writes that is gone, or a field of special writes that is gone while another is left;
- that the newest checkpoint's document is gone, or no longer says which namespace it belongs to: "latest" then finds
  the one before it.
"""

from dataclasses import dataclass, field

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    DamageError,
    GCSSaverError,
    StoreNotFoundError,
    UnsupportedFormatError,
)
from langgraph_gcs_saver.events import CheckpointSkipped
from langgraph_gcs_saver.stores.values import PbMapValue, from_fields
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, number, put, version

PAYLOADS = {"manifest", "frames", "digest", "writes", "w1", "w3", "w4"}
"""Fields whose every change must be noticed."""


def ids(found):
    known = found.config["configurable"]
    return known["checkpoint_ns"], known["checkpoint_id"]


class Thread:
    """A thread of the store, with what it must read as."""

    def __init__(self, raw, thread_id):
        self.raw = raw
        self.thread_id = thread_id
        with raw.reader() as reader:
            self.expected = {ids(found): found for found in reader.list(cfg(thread=thread_id, ns=None))}
        self.newest = {}
        for ns, checkpoint_id in self.expected:
            self.newest.setdefault(ns, []).append(checkpoint_id)

    def check(self, damage):
        """Read everything; returns how often the damage was noticed."""
        noticed = 0
        skipped = []
        with self.raw.reader(on_event=skipped.append) as reader:
            for known, expected in self.expected.items():
                noticed += self._get(reader, expected.config, known, damage)
            for ns, order in self.newest.items():
                candidates = [(ns, checkpoint_id) for checkpoint_id in order]
                while candidates and candidates[0] in damage.hidden:
                    del candidates[0]
                noticed += self._get(reader, cfg(thread=self.thread_id, ns=ns), next(iter(candidates), None), damage)
                noticed += self._list(reader, ns, skipped, damage)
            noticed += self._list(reader, None, skipped, damage)
        return noticed

    def _get(self, reader, config, known, damage):
        try:
            found = reader.get_tuple(config)
        except CheckpointCorruptError as error:
            corrupt = error
        except UnsupportedFormatError:
            assert damage.newer, damage
            return 1
        else:
            if found is None:
                assert known is None or known in damage.gone, damage
                return 1
            assert known is not None, damage
            assert found == self.expected[known], damage
            return 0
        assert corrupt.thread_id == self.thread_id
        assert corrupt.checkpoint_ns == config["configurable"]["checkpoint_ns"]
        # A document with another's namespace can be the first that is found in there.
        guilty = {known} if "checkpoint_id" in config["configurable"] else {known, *damage.hidden}
        assert corrupt.checkpoint_id in {one[1] for one in guilty if one}, damage
        assert corrupt.checkpoint_id in str(corrupt)
        if damage.channel is not None:
            assert corrupt.channel == damage.channel
            assert corrupt.frame is not None
        return 1

    def _list(self, reader, ns, skipped, damage):
        skipped.clear()
        try:
            found = {ids(one): one for one in reader.list(cfg(thread=self.thread_id, ns=ns))}
        except UnsupportedFormatError:
            assert damage.newer, damage
            return 1
        expected = {known: one for known, one in self.expected.items() if ns is None or known[0] == ns}
        if ns is not None:
            expected = {known: one for known, one in expected.items() if known not in damage.hidden}
        told = {(e.checkpoint_ns, e.checkpoint_id) for e in skipped if isinstance(e, CheckpointSkipped)}
        for known, one in expected.items():
            if known in found:
                assert known not in told, damage
                assert found[known] == one, damage
            else:
                assert known in told or known in damage.gone, damage
        assert found.keys() <= expected.keys(), damage
        return len(told)


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes:
        what: In words, for a test that fails.
        payload: Bytes of a payload changed: it must be noticed.
        gone: Checkpoints without a document any more.
        hidden: Checkpoints that a query for their namespace cannot find any more.
        newer: A format number grew, which reads as written by a newer version.
        channel: The channel that an error must name.
    """

    what: str
    payload: bool = True
    gone: frozenset = frozenset()
    hidden: frozenset = frozenset()
    newer: bool = False
    channel: str | None = None
    fields: dict | None = field(default=None, repr=False)


def flipped(data, at, mask):
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


def damaged_bytes(data):
    """Every way to damage bytes, by name; each differs from the original."""
    masks = (0x01, 0xFF, 0x80, 0x10, 0xFF)
    # Not byte 5: of a large frame it says how much memory decoding takes, and nothing about the value.
    for number_, at in enumerate(sorted({0, 6 % len(data), len(data) // 3, 2 * len(data) // 3, len(data) - 1})):
        yield f"flipped at {at} of {len(data)}", flipped(data, at, masks[number_])
    yield "truncated by one", data[:-1]
    yield "truncated to half", data[: len(data) // 2]
    yield "emptied", b""
    yield "prolonged", data + b"\0"


def damaged_values(value):
    if isinstance(value, bytes):
        yield from [damage for damage in damaged_bytes(value) if " at 6 " not in damage[0]]
    elif isinstance(value, str):
        yield "another letter", chr(ord(value[0]) ^ 1) + value[1:]
        yield "truncated", value[: len(value) // 2]
        yield "another type", value.encode()
    elif isinstance(value, int):
        yield "one bit", value ^ 1
        yield "another bit", value ^ 2
        yield "another type", str(value)
    elif isinstance(value, dict):
        yield "emptied", {}
        yield "another type", "x"


def key_of(name, fields):
    """The checkpoint that a document is, as `ids` tells it."""
    if "/lg_checkpoints/" not in name:
        return frozenset()
    inverted, _ = name.rsplit("/", 1)[1].split("~!")
    return frozenset({(NAMESPACES[fields["ns"]], bytes(b ^ 0xFF for b in bytes.fromhex(inverted)).decode())})


NAMESPACES = {"~": "", "child": "child"}


def damages_of(name, fields):
    """Every damage to one document."""
    own = key_of(name, fields)
    for key, value in fields.items():
        for how, changed in damaged_values(value):
            newer = key == "format" and isinstance(changed, int) and changed > 1
            hidden = own if key == "ns" else frozenset()
            what = f"{name}: {key} {how}"
            yield Damage(what, key in PAYLOADS, hidden=hidden, newer=newer, fields={**fields, key: changed})
        rest = {k: v for k, v in fields.items() if k != key}
        if "/lg_writes/" in name and key.startswith("w") and len(rest) > 1:
            continue
        hidden = own if key == "ns" else frozenset()
        yield Damage(f"{name}: without {key}", key in PAYLOADS, hidden=hidden, fields=rest)
    payload = "/lg_checkpoints/" in name or "/lg_writes/" in name
    yield Damage(f"{name}: emptied", payload, hidden=own, fields={})
    if "/lg_writes/" not in name:
        yield Damage(f"{name}: deleted", payload=False, gone=own, hidden=own)


def fill(saver):
    """A thread with everything that a thread can have, and another one beside it."""
    run = {"run_id": "run 1", "user": "ada"}
    state = {"small": "one", "big": noise(20_000), "none": None, "kept": ["kept", b"value"]}
    put(saver, 1, state, metadata=run)
    saver.put_writes(cfg(1), [("small", "two"), ("other", {"x": 1})], "task 1")
    saver.put_writes(cfg(1), [("__interrupt__", ["asked"]), ("__error__", "failed")], "task 2")
    state |= {"small": "two"}
    put(saver, 2, state, parent=1, changed={"small"}, metadata=run)
    saver.put_writes(cfg(2), [("big", noise(140_000, "w"))], "task 1")
    saver.put_writes(cfg(2), [("__interrupt__", noise(140_000, "i"))], "task 2")
    put(saver, 2, {"inner": "child", "large": noise(9_000, "c")}, ns="child", metadata=run)
    state |= {"big": noise(20_000, "new"), "small": "three"}
    put(saver, 3, state, parent=2, changed={"small", "big"}, metadata={"run_id": "run 2"})
    saver.put_writes(cfg(3), [("small", "four")], "task 1")
    put(saver, 1, {"small": "one", "big": noise(20_000, "u")}, thread="u")


@pytest.fixture
def thread(raw, saver):
    fill(saver)
    saver.close()
    return Thread(raw, "t")


def documents_of(raw):
    """Documents of the thread, and of its runs."""
    return {
        name: fields for name, fields in raw.documents().items() if fields.get("thread_id") != "u" and "-u/" not in name
    }


def assert_noticed(damage, times):
    if damage.payload:
        assert times, f"{damage.what}: nobody noticed"


def test_undamaged(thread):
    assert thread.check(Damage("nothing")) == 0
    assert len(thread.expected) == 4
    assert sum(len(found.pending_writes) for found in thread.expected.values()) == 7


def test_damaged_documents(thread, raw):
    tried = 0
    documents = documents_of(raw)
    assert {name.split("/")[-2] for name in documents} == {"lg_threads", "lg_checkpoints", "lg_writes"}
    for name, fields in documents.items():
        for number_, damage in enumerate(damages_of(name, fields)):
            if number_ % raw.thin and not damage.what.endswith(("emptied", "deleted")):
                continue
            if damage.fields is None:
                raw.delete_document(name)
            else:
                assert damage.fields != fields, damage
                raw.set_document(name, damage.fields)
            assert_noticed(damage, thread.check(damage))
            raw.set_document(name, fields)
            tried += 1
    assert tried > 250 // raw.thin
    assert thread.check(Damage("nothing")) == 0


def test_swapped_documents(thread, raw):
    """Digests are bound to names: what is whole elsewhere is damage here."""
    for collection in ("lg_checkpoints", "lg_writes"):
        documents = {name: fields for name, fields in raw.documents().items() if f"/{collection}/" in name}
        names = sorted(documents)
        assert len(names) >= 5
        for one, two in zip(names, names[1:] + names[:1], strict=True):
            a, b = documents[one], documents[two]
            hidden = (key_of(one, a) | key_of(two, b)) if a.get("ns") != b.get("ns") else frozenset()
            raw.set_document(one, b)
            raw.set_document(two, a)
            damage = Damage(f"{one} and {two} swapped", hidden=hidden)
            assert_noticed(damage, thread.check(damage))
            raw.set_document(one, a)
            raw.set_document(two, b)
    assert thread.check(Damage("nothing")) == 0


def channel_of(name):
    """The channel in an object's name."""
    channel = name.rsplit("/", 1)[1].split("-")[0]
    return None if channel.startswith("~") else channel


def test_damaged_objects(thread, raw):
    objects = {name: data for name, data in raw.objects().items() if "-u/" not in name}
    assert sorted(str(channel_of(name)) for name in objects) == ["None", "None", "big", "big", "large"]
    for name, data in objects.items():
        for how, changed in list(damaged_bytes(data))[:: min(2, raw.thin)]:
            raw.set_object(name, changed)
            damage = Damage(f"{name}: {how}", channel=channel_of(name))
            assert_noticed(damage, thread.check(damage))
        raw.delete_object(name)
        damage = Damage(f"{name}: deleted", channel=channel_of(name))
        assert_noticed(damage, thread.check(damage))
        raw.set_object(name, data)
    objects = raw.objects()
    names = sorted(objects)
    for one, two in zip(names, names[1:] + names[:1], strict=True):
        a, b = objects[one], objects[two]
        raw.set_object(one, b)
        raw.set_object(two, a)
        damage = Damage(f"{one} and {two} swapped")
        assert_noticed(damage, thread.check(damage))
        raw.set_object(one, a)
        raw.set_object(two, b)
    assert thread.check(Damage("nothing")) == 0


def test_damaged_manifest_and_packed_frames_in_objects(raw, saver):
    """A checkpoint whose manifest and small frames are objects, because they are too large for its document."""
    state = {f"channel {n}": noise(7_900, n) for n in range(70)}
    seen = {f"node {n}": {noise(64, n).hex(): version(n)} for n in range(16_000)}
    first = checkpoint(1, state, versions_seen=seen)
    saver.put(cfg(), first, DEFAULT, first["channel_versions"])
    saver.close()
    thread = Thread(raw, "t")
    objects = raw.objects()
    assert sorted(name.rsplit("/", 1)[1].split("-")[0] for name in objects) == ["~frames", "~manifest"]
    for name, data in objects.items():
        for how, changed in list(damaged_bytes(data))[:: min(2, raw.thin)]:
            if how == "prolonged" and "~frames" in name:
                continue  # Only the parts of it that hold frames are ever read.
            raw.set_object(name, changed)
            damage = Damage(f"{name}: {how}")
            assert_noticed(damage, thread.check(damage))
        raw.delete_object(name)
        damage = Damage(f"{name}: deleted")
        assert_noticed(damage, thread.check(damage))
        raw.set_object(name, data)
    ((name, fields),) = ((n, f) for n, f in raw.documents().items() if "/lg_checkpoints/" in n)
    for damage in damages_of(name, fields):
        if damage.fields is not None:
            raw.set_document(name, damage.fields)
            assert_noticed(damage, thread.check(damage))
    raw.set_document(name, fields)
    assert thread.check(Damage("nothing")) == 0


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_damaged_rows(thread, raw):
    """The embedded store's own encoding of a document, flipped byte by byte."""
    noticed = 0
    originals = {name: from_fields(PbMapValue.FromString(row).fields) for name, row in raw.rows().items()}
    for name, row in raw.rows().items():
        if "-u/" in name or name.endswith("-u"):
            continue
        step = max(1, len(row) // 12)
        for at in range(0, len(row), step):
            changed = flipped(row, at, (0x01, 0xFF, 0x40)[at % 3])
            damage = damage_of_row(name, originals[name], changed)
            if damage is not None:
                raw.set_row(name, changed)
                noticed += bool(thread.check(damage))
        for changed in (b"", row[:-1], row[: len(row) // 2], b"\xff" * len(row)):
            damage = damage_of_row(name, originals[name], changed)
            if damage is not None:
                raw.set_row(name, changed)
                noticed += bool(thread.check(damage))
        raw.set_row(name, row)
    assert noticed > 90
    assert thread.check(Damage("nothing")) == 0


def damage_of_row(name, original, changed):
    """What a changed row is; `None` when nobody can notice it."""
    try:
        fields = from_fields(PbMapValue.FromString(changed).fields)
    except Exception:
        return Damage(f"{name}: a row that does not parse")
    left = {key: value for key, value in fields.items() if key in original}
    if "/lg_writes/" in name and len(fields) > 1 and all(original.get(k) == v for k, v in fields.items()):
        return None  # A field is gone, or nothing at all.
    hidden = key_of(name, original) if left.get("ns") != original.get("ns") else frozenset()
    version_ = fields.get("format")
    newer = isinstance(version_, int) and version_ > 1
    return Damage(f"{name}: a row of {fields.keys()}", payload=False, hidden=hidden, newer=newer)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("how", ["header", "truncated", "emptied", "text"])
def test_damaged_database_file(thread, raw, how):
    file = raw.path / "documents.sqlite3"
    with raw.database() as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = file.read_bytes()
    file.write_bytes(
        {"header": flipped(data, 3, 0xFF), "truncated": data[: len(data) // 2], "emptied": b"", "text": b"x" * 9999}[
            how
        ]
    )
    for beside in ("-wal", "-shm"):
        (raw.path / f"documents.sqlite3{beside}").unlink(missing_ok=True)
    with raw.reader() as reader:
        if how == "emptied":
            # An empty file is an empty database to SQLite: nothing tells it from a new one.
            assert reader.get_tuple(cfg()) is None
            return
        for read in (
            lambda: reader.get_tuple(cfg()),
            lambda: reader.get_tuple(cfg(3)),
            lambda: list(reader.list(cfg())),
        ):
            with pytest.raises(GCSSaverError, match="backup"):
                read()


def reads(reader, n):
    return {
        "latest": lambda: reader.get_tuple(cfg()),
        "by id": lambda: reader.get_tuple(cfg(n)),
        "list": lambda: list(reader.list(cfg())),
    }


@pytest.mark.parametrize("collection", ["lg_checkpoints", "lg_writes"])
def test_a_newer_format_is_not_damage(thread, raw, collection):
    names = (name for name in raw.documents() if f"/{collection}/" in name and "-t/" in name)
    name = min(name for name in names if "child" not in name)
    raw.set_document(name, {**raw.documents()[name], "format": 2})
    n = max(number(found) for found in thread.expected.values())
    with raw.reader() as reader:
        for what, read in reads(reader, n).items():
            with pytest.raises(UnsupportedFormatError, match=r"not damaged: upgrade") as caught:
                read()
            assert not isinstance(caught.value, DamageError), what


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_a_wrong_bucket_is_not_damage(thread, raw, store_uri):
    wrong = raw.storage.bucket("there-is-no-such-bucket")
    with GCSSaver(wrong, firestore=raw.firestore, prefix=raw.prefix) as reader:
        for what, read in reads(reader, 3).items():
            with pytest.raises(StoreNotFoundError, match="bucket") as caught:
                read()
            assert not isinstance(caught.value, DamageError), what


def test_a_child_of_a_damaged_parent(thread, raw):
    """A put that would inherit from a damaged parent says so, and a value is never absent without a word."""
    ((name, fields),) = ((n, f) for n, f in raw.documents().items() if ("", cid(3)) in key_of(n, f) and "-t/" in n)
    raw.set_document(name, {**fields, "manifest": flipped(fields["manifest"], 50, 0x01)})
    before = raw.snapshot()
    with raw.reader() as writer:
        child = checkpoint(4, {"small": "four"}, {"small": version(4), "kept": version(1)})
        with pytest.raises(CheckpointCorruptError) as caught:
            writer.put(cfg(3), child, DEFAULT, {"small": version(4)})
        assert caught.value.checkpoint_id == cid(3)
        assert raw.snapshot() == before
        # With all values at hand nothing of the parent is needed.
        put(writer, 5, {"small": "five", "kept": ["kept", b"value"]}, parent=3, changed={"small"})
        assert writer.get_tuple(cfg(5)).checkpoint["channel_values"] == {"small": "five", "kept": ["kept", b"value"]}
