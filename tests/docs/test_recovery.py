"""The runbook of the guide to operations for lost documents, on the embedded store, copied by hand."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from tests.docs.test_snippets import _checkpoint

THREAD: Any = {"configurable": {"thread_id": "1"}}


def _value(number: int) -> list[str]:
    # Nothing in common with another one, and too large for a document: each is an object.
    return [hashlib.sha256(f"{number} {n}".encode()).hexdigest() for n in range(1000)]


def _snapshot(store: Path, target: Path) -> None:
    """The documents as they are now, as point-in-time recovery would give them."""
    target.mkdir()
    with (
        closing(sqlite3.connect(store / "documents.sqlite3")) as source,
        closing(sqlite3.connect(target / "documents.sqlite3")) as copy,
    ):
        source.backup(copy)


def _objects(store: Path) -> dict[str, bytes]:
    found = store / "objects"
    return {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*") if path.is_file()}


@pytest.fixture
def lost(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A store with documents from an earlier time, and the objects that soft delete would still hold."""
    now, restored = tmp_path / "now", tmp_path / "restored"
    with GCSSaver.from_conn_string(f"file://{now}", inline_max_bytes=8 << 10) as saver:
        before: Any = {}
        for number in range(1, 5):
            before = _checkpoint(saver, "1", number, before, _value(number))
        _snapshot(now, restored)
        earlier = _objects(now)
        for number in range(5, 8):
            before = _checkpoint(saver, "1", number, before, _value(number))
        saver.prune(["1"])
    later = _objects(now)
    deleted = {name: data for name, data in earlier.items() if name not in later}
    assert deleted
    assert all(later[name] == data for name, data in earlier.items() if name in later), "a name was used twice"
    shutil.copytree(now / "objects", restored / "objects")
    return restored, deleted


def test_documents_alone_miss_what_was_deleted_since(lost):
    restored, deleted = lost
    with GCSSaver.from_conn_string(f"file://{restored}") as saver:
        found = list(saver.admin.verify(depth="existence"))
        assert {finding.name for finding in found if finding.kind == "missing"} == set(deleted)


def test_documents_and_objects_together_are_whole(lost):
    restored, deleted = lost
    for name, data in deleted.items():
        path = restored / "objects" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with GCSSaver.from_conn_string(f"file://{restored}") as saver:
        found = list(saver.admin.verify(depth="data"))
        assert {finding.kind for finding in found} == {"unreferenced"}, "what is newer does no harm"
        loaded = saver.get_tuple(THREAD)
        assert loaded is not None
        assert loaded.checkpoint["channel_values"] == {"v": _value(4)}
        assert "recovered_from" not in loaded.metadata
        [collected] = saver.admin.collect(orphan_age=timedelta())
        assert collected.objects
        assert not list(saver.admin.verify(depth="data"))
        # Agents resume from there.
        _checkpoint(saver, "1", 8, {"checkpoint_id": loaded.checkpoint["id"]}, _value(8))
        assert not list(saver.admin.verify(depth="data"))
        assert len(list(saver.list(THREAD))) == 5
