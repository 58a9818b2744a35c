"""Damage below the stores' own interface: to rows and files of the embedded store; and what is not damage at all.

`langgraph_gcs_saver.testing.damage`, run by tests/faults, damages everything else.
"""

import pytest
from google.protobuf.message import DecodeError

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    GCSSaverError,
    StoreNotFoundError,
    WrongStoreError,
)
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.messages import PbMapValue
from langgraph_gcs_saver.stores.values import from_fields
from langgraph_gcs_saver.testing.damage import Damage, DamagedThread
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, put, version


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
def filled(raw, saver):
    """A store with what `fill` makes, which no saver has open."""
    fill(saver)
    saver.close()
    return raw


def flipped(data, at, mask):
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_damaged_rows(filled, raw):
    """The embedded store's own encoding of a document, flipped byte by byte."""
    stores = GCSSaver.from_conn_string(raw.uri)._backend
    noticed, rows = 0, raw.rows()
    with DamagedThread(stores.documents, stores.blobs, "t") as thread:
        assert len(thread.expected) == 4
        assert sum(len(found.pending_writes) for found in thread.expected.values()) == 7
        for name, doc in thread.image.docs.items():
            row = rows[name]
            places = range(0, len(row), max(1, len(row) // 12))
            damaged = [flipped(row, at, (0x01, 0xFF, 0x40)[at % 3]) for at in places]
            for changed in (*damaged, b"", row[:-1], row[: len(row) // 2], b"\xff" * len(row)):
                raw.set_row(name, changed)
                noticed += bool(thread.read(Damage(f"{name}: {changed.hex()}", {name: fields_of(changed, doc)})))
            raw.set_row(name, row)
        assert noticed > 90
        thread.check_whole()


def fields_of(row, doc):
    """The fields of a changed row. A row that does not parse could have any fields, so every query finds it."""
    try:
        return from_fields(PbMapValue.FromString(row).fields)
    except DecodeError:
        return {"format": None, **{name: doc.fields[name] for name in ("ns", "filter", "run_id") if name in doc.fields}}


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("how", ["header", "truncated", "emptied", "text"])
def test_damaged_database_file(filled, raw, how):
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


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_a_wrong_bucket_is_not_damage(filled, raw, store_uri):
    wrong = raw.storage.bucket("there-is-no-such-bucket")
    with GCSSaver(wrong, firestore=raw.firestore, prefix=raw.prefix) as reader:
        for read in reads(reader, 3).values():
            with pytest.raises(WrongStoreError, match=wrong.name):
                read()
    # The same holds for the right one when it is missing.
    raw.bucket.delete_blobs(list(raw.bucket.list_blobs()))
    raw.bucket.delete()
    with raw.reader() as reader:
        for read in reads(reader, 3).values():
            with pytest.raises(StoreNotFoundError, match=raw.bucket.name):
                read()


def test_a_child_of_a_damaged_parent(filled, raw):
    """A put that would inherit from a damaged parent says so, and a value is never lost silently."""
    name = keys.checkpoint_doc("t", "", cid(3))
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, "manifest": flipped(fields["manifest"], 50, 0x01)})
    before = raw.snapshot()
    with raw.reader() as writer:
        child = checkpoint(4, {"small": "four"}, {"small": version(4), "kept": version(1)})
        with pytest.raises(CheckpointCorruptError) as caught:
            writer.put(cfg(3), child, DEFAULT, {"small": version(4)})
        assert caught.value.checkpoint_id == cid(3)
        assert raw.snapshot() == before
        # A put that is given all values needs nothing of the parent.
        put(writer, 5, {"small": "five", "kept": ["kept", b"value"]}, parent=3, changed={"small"})
        assert writer.get_tuple(cfg(5)).checkpoint["channel_values"] == {"small": "five", "kept": ["kept", b"value"]}
