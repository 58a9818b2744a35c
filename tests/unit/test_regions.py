"""Which writes depend on a role, and need an entry of the outbox; and the documents of both."""

from __future__ import annotations

from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import Create, Delete, Doc, Merge
from langgraph_gcs_saver.errors import DamageError
from langgraph_gcs_saver.format import keys, regions, registry
from langgraph_gcs_saver.format.regions import Entry, Role
from tests.kit.outbox import WHAT

from .test_registry import NAMES

DIGITS = keys.spread("t")[:2]
CHECKPOINT, THREAD = NAMES["lg_checkpoints"], keys.thread_doc("t")
SHARED = keys.operation_doc(None, "key")


def test_the_registry_says_what_is_replicated() -> None:
    assert {entry.id: entry.replicated for entry in registry.every() if entry.replicated is not None} == WHAT


@pytest.mark.parametrize("id_", NAMES)
def test_changes_of_a_collection(id_: str) -> None:
    name, what = NAMES[id_], WHAT.get(id_)
    for write, told in ((Create(name, {"a": 1}), what), (Merge(name, {"a": 1}), what), (Delete(name), "delete")):
        found = regions.changes([write])
        assert found.changed == (() if what is None else ((told, name),))
        assert found.digits == (() if what is None else (DIGITS,))
    check = regions.changes([Merge(name, {}, update_time=1)])
    assert (check.changed, check.digits) == ((), ())


@pytest.mark.parametrize(
    ("write", "changed", "digits"),
    [
        (Merge(CHECKPOINT, {"heir": "x"}, update_time=1), (), ()),
        (Merge(CHECKPOINT, {}, remove=("heir", "holds"), update_time=1), (), ()),
        (Merge(CHECKPOINT, {"fence": "x"}, update_time=1), (), ()),
        (Merge(CHECKPOINT, {"objects": "[]"}, update_time=1), (), ()),
        (Merge(CHECKPOINT, {}, remove=("objects", "run_id", "former_runs"), update_time=1), (), ()),
        (Merge(CHECKPOINT, {"pin": "a"}, update_time=1), (("put", CHECKPOINT),), (DIGITS,)),
        (Merge(CHECKPOINT, {"pin": "a", "heir": "x"}, update_time=1), (("put", CHECKPOINT),), (DIGITS,)),
        (Merge(CHECKPOINT, {"objects": "[]"}, remove=("manifest",)), (("delete", CHECKPOINT),), (DIGITS,)),
        (Merge(CHECKPOINT, {"manifest": b""}, remove=("objects",)), (("put", CHECKPOINT),), (DIGITS,)),
        (Delete(THREAD, update_time=1), (("delete", THREAD),), (DIGITS,)),
        (Merge(THREAD, {"deleting": "x"}), (), (DIGITS,)),
        (Create(THREAD, {"thread_id": "t", "copying": "x"}), (), (DIGITS,)),
        (Create(THREAD, {"thread_id": "t"}), (), ()),
        (Merge(THREAD, {"active": 1, "root": True}), (), ()),
        (Create(SHARED, {}), (), ()),
        (Create(SHARED, {"a": 1}), (("operation", SHARED),), (SHARED.rpartition("/")[2][:2],)),
        (Merge(keys.run_doc("r", "t"), {"a": 1}), (), ()),
        (Merge(keys.active_doc("t"), {"a": 1}), (), ()),
        (Delete(keys.PLACE), (), ()),
        (Delete("lg_threads/no-thread/lg_checkpoints/x"), (), ()),
        (Delete(f"{THREAD}/feedback/x"), (), ()),
    ],
    ids=str,
)
def test_what_a_write_changes(write: Any, changed: Any, digits: Any) -> None:
    found = regions.changes([write])
    assert (found.changed, found.digits) == (changed, digits)


def test_a_commit_for_several_threads() -> None:
    other = keys.checkpoint_doc("u", "", "1f0")
    found = regions.changes([Delete(other), Delete(CHECKPOINT), Merge(CHECKPOINT, {"heir": "x"})])
    assert found.digits == tuple(sorted((DIGITS, keys.spread("u")[:2])))
    entries = found.entries(["n1", "n2"])
    assert [entry.name for entry in entries] == [
        keys.outbox_doc(keys.spread("u"), "n1"),
        keys.outbox_doc(keys.spread("t"), "n2"),
    ]
    assert [entry.thread_id for entry in entries] == ["u", "t"]


@pytest.mark.parametrize(
    ("changed", "thread_id"),
    [
        (CHECKPOINT, "t"),
        (keys.checkpoint_doc("a-b c/d", "", "1f0"), "a-b c/d"),
        (keys.checkpoint_doc("long" * 100, "", "1f0"), None),
        (SHARED, None),
        (THREAD, "t"),
    ],
)
def test_entries_are_read_as_they_are_written(changed: str, thread_id: str | None) -> None:
    (entry,) = regions.Changes((), (("delete", changed),)).entries(["0a1b2c3d4e5f"])
    assert entry.thread_id == thread_id
    assert regions.entry_of(Doc(entry.name, entry.write.fields, 5, 7)) == Entry(entry.name, "delete", changed, 7)
    start, end = keys.outbox_range(entry.segment)
    assert start <= entry.name < end


@pytest.mark.parametrize("fields", [{}, {"what": "put"}, {"what": "x", "name": CHECKPOINT}, {"what": "put", "name": 1}])
def test_what_is_no_entry(fields: Any) -> None:
    with pytest.raises(DamageError, match="is no entry of the outbox"):
        regions.entry_of(Doc(keys.outbox_doc(keys.spread("t"), "n"), fields, 1, 1))
    other = {"what": "put", "name": keys.checkpoint_doc("u", "", "1f0")}
    with pytest.raises(DamageError, match="is no entry of the outbox"):
        regions.entry_of(Doc(keys.outbox_doc(keys.spread("t"), "n"), other, 1, 1))


def test_roles_are_read_as_they_are_written() -> None:
    role = Role(3, "replica", "gs://b")
    assert regions.role_of(Doc(regions.FIRST_ROLE, role.fields, 1, 1)) == role
    assert not role.is_primary
    first, *others = role.writes({regions.FIRST_ROLE: Doc(regions.FIRST_ROLE, {}, 1, 9)})
    assert isinstance(first, Merge)
    assert (first.name, first.fields, first.update_time) == (regions.FIRST_ROLE, role.fields, 9)
    assert others == [Create(f"lg_region/role-{number:02x}", role.fields) for number in range(1, 256)]


@pytest.mark.parametrize("key", ["epoch", "role", "to"])
@pytest.mark.parametrize("value", [None, 1.5, True, b"primary"])
def test_what_is_no_role(key: str, value: Any) -> None:
    with pytest.raises(DamageError, match="does not say which role"):
        regions.role_of(Doc(regions.FIRST_ROLE, {**Role(3, "primary", "gs://b").fields, key: value}, 1, 1))


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        (keys.blob("t", "", "1f0", "v", "attempt0"), DIGITS),
        (keys.operation_blob(SHARED, "attempt0"), SHARED.rpartition("/")[2][:2]),
        (keys.cache_blob(keys.cache_doc(("n",), "k"), "attempt0"), None),
        (keys.dictionary_blobs("0a1b2c3d")[0], None),
        (f"{keys.PROBES}/place", None),
    ],
)
def test_which_uploads_depend_on_a_role(name: str, digits: str | None) -> None:
    assert regions.digits_of_blob(name) == digits
