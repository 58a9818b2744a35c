"""Entries of the registry, and what is asked of them; `behaviour/test_registry.py` has what the flows do by them."""

from pathlib import Path

import pytest

from langgraph_gcs_saver.errors import UnsupportedFormatError
from langgraph_gcs_saver.format import keys, registry

ROOT = Path(__file__).parents[2]

NAMES = {
    "lg_checkpoints": keys.checkpoint_doc("t", "ns", "1f0"),
    "lg_writes": keys.special_writes_doc("t", "ns", "1f0", "task"),
    "lg_aside": keys.aside_doc(keys.checkpoint_doc("t", "ns", "1f0"), "attempt0"),
    "lg_lease": keys.fence_doc("t"),
    "lg_operations": keys.operation_doc("t", "key"),
    "lg_batches": keys.batch_doc("t", "batch"),
    "lg_done": keys.done_doc(keys.batch_doc("t", "batch"), 12, "attempt0"),
    "lg_chunks": keys.chunk_doc(keys.batch_doc("t", "batch"), 12),
    "lg_resume": keys.resume_doc("t"),
    "lg_ship": keys.ship_doc("t"),
    "lg_recoveries": keys.recovery_doc("t", 1_700_000_000_000_000_000, "9f2c"),
    "lg_sagas": keys.saga_doc("t", "trip"),
    "lg_blobs": keys.blob_doc("t", "ab" * 16),
}
"""A name in each collection."""


def path(name):
    return name.split("/")[2:]


def test_every_collection_has_an_entry_a_name_and_a_place_in_the_format():
    ids = [entry.id for entry in registry.every()]
    assert len(set(ids)) == len(ids), "index settings are for all collections of an id"
    assert set(ids) == NAMES.keys()
    text = (ROOT / "docs" / "reference" / "format.md").read_text(encoding="utf-8")
    names = text.partition("### 5.2")[2].partition("### 5.3")[0]
    assert [id_ for id_ in ids if f"/{id_}/" not in names] == []
    assert all(id_.startswith(registry.RESERVED) for id_ in ids)


@pytest.mark.parametrize("id_", NAMES)
def test_names_lead_to_entries(id_):
    entry = registry.entry_of(path(NAMES[id_]))
    assert entry is not None
    assert entry.id == id_


@pytest.mark.parametrize(
    "odd",
    [
        [],
        ["lg_checkpoints"],
        ["lg_checkpoints", "odd"],
        ["lg_checkpoints", f"{keys.inv('x')}!~!~"],
        ["lg_checkpoints", f"{keys.inv('x' * 400)}{keys.inv('x' * 400)}!~"],
        ["lg_writes", "a!b"],
        ["lg_writes", f"~!{keys.inv('1f0')}!task"],
        ["lg_writes", f"~!{keys.inv('1f0')}!task!s!s"],
        ["lg_writes", "~!not inverted!task!s"],
        ["lg_aside", ""],
        ["lg_lease", "fence"],
        ["lg_operations", "key"],
        ["lg_batches", "a!1"],
        ["lg_done", "a!1"],
        ["lg_done", "a!01-attempt0"],
        ["lg_done", "1-attempt0"],
        ["lg_chunks", "a"],
        ["lg_resume", "a"],
        ["lg_ship", "a"],
        ["lg_recoveries", "1700000000000000000-a"],
        ["lg_sagas", "a!1"],
        ["lg_blobs", "AB" * 16],
        ["lg_blobs", "keys"],
        ["lg_recoveries", "01700000000000000000-"],
        ["lg_recoveries", "99999999999999999999-a"],
        ["lg_unheard", "a"],
        ["feedback", "a"],
        [*path(NAMES["lg_aside"]), "lg_nested"],
        [*path(NAMES["lg_aside"]), "lg_nested", "a"],
    ],
    ids="/".join,
)
def test_other_names_lead_nowhere(odd):
    assert registry.entry_of(odd) is None


def test_unknown_collections_of_this_library_are_refused():
    registry.check("t", [*NAMES, "feedback", "LG_notes", "lg", *registry.AT_ROOT])
    with pytest.raises(UnsupportedFormatError, match=r"^Thread 't' has a collection 'lg_a', which .*upgrade with"):
        registry.check("t", [*NAMES, "lg_b", "lg_a"])


def test_what_a_thread_holds():
    assert registry.holds(["lg_aside", "feedback"], lambda entry: entry.moved)
    assert not registry.holds(["lg_aside", "feedback"], lambda entry: entry.is_copied)
    assert not registry.holds(["feedback"], lambda _: True)
