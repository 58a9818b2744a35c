"""verify and repair: damage is reported with the exit code for damage, and repaired only when the user says so."""

import json
from enum import IntEnum

import pytest

from langgraph_gcs_saver.errors import SerializationError
from langgraph_gcs_saver.format import keys
from tests.behaviour.api import cfg, checkpoint, cid, metadata, version
from tests.cli.filled import HOSTILE, fill, is_harmless, numbers
from tests.system.raw import open_raw

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


def drop_object(raw, thread="t", n=2):
    """Delete the object of a checkpoint; returns its name in the store."""
    (name,) = (name for name in raw.objects() if keys.thread_blobs(thread) in name and f"/{cid(n)}/own" in name)
    raw.delete_object(name)


def test_all_is_well(make_saver, raw, command):
    fill(make_saver(), last=2)
    before = raw.snapshot()
    documents = 5  # the thread's, and two for checkpoints and for pending writes each
    for depth, unchecked in {
        "metadata": ["objects", "values"],
        "existence": ["values"],
        "data": ["deserialization"],
    }.items():
        ended = command("verify", "--depth", depth)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith(
            f"No damage found.\nLooked at {documents} documents of 1 thread, at depth {depth}. "
        )
        assert f"Not checked: {', '.join(unchecked)}." in ended.out
        assert ("--depth data" in ended.out) is (depth != "data")
        ended = command("verify", "t", "--depth", depth, "--json")
        assert (ended.code, ended.err) == (0, "")
        counts = {"depth": depth, "threads": 1, "documents": documents}
        assert json.loads(ended.out) == counts | {"not_checked": unchecked, "findings": []}
    assert raw.snapshot() == before
    for name in raw.documents():
        raw.delete_document(name)
    for name in raw.objects():
        raw.delete_object(name)
    assert "Looked at 0 documents of 0 threads" in command("verify").out


class Color(IntEnum):
    RED = 7


@LOCAL
def test_metadata_that_hold_an_object_are_no_damage(make_saver, command):
    """Commands import no class that metadata name. Only the object itself could give its value in the index."""
    values = {"small": 1}
    saver = make_saver()
    saver.put(cfg(), checkpoint(1, values, {"small": version(1)}), metadata(color=Color.RED), {"small": version(1)})
    assert list(saver.admin.verify()) == []
    for arguments in (["verify"], ["verify", "--depth", "data"], ["threads"], ["history", "t"]):
        assert command(*arguments).code == 0, arguments
    assert command("prune", "t", "--keep-last", "1", "--dry-run").code == 0


class Foreign:
    """A serializer that is not LangGraph's."""

    def dumps_typed(self, value):
        return "json", json.dumps(value).encode()

    def loads_typed(self, data):
        return json.loads(data[1])


@LOCAL
def test_metadata_of_another_serializer(make_saver, command):
    """Commands that need no metadata work. The others say that they cannot read the metadata, and why."""
    saver, versions = make_saver(serde=Foreign()), {"small": version(1)}
    saver.put(cfg(), checkpoint(1, {"small": 1}, versions), metadata(), versions)
    assert command("threads").code == 0
    for arguments in (["history", "t"], ["verify"], ["prune", "t", "--keep-last", "1", "--yes"]):
        ended = command(*arguments)
        assert (ended.code, ended.out) == (SerializationError.exit_code, "")
        assert "'json'" in ended.err
        assert "another `serde`" in ended.err


def test_damage_is_shown_and_is_the_exit_code(make_saver, raw, command):
    saver = make_saver()
    fill(saver)
    fill(saver, "well", 2)
    drop_object(raw)
    ended = command("verify")
    assert ended.code == 0, "documents alone do not show it"
    assert "Not checked: objects, values. Use `langgraph-gcs verify --depth data`." in ended.out
    before = raw.snapshot()
    for thread in (["t"], []):
        ended = command("verify", *thread, "--depth", "existence")
        assert (ended.code, ended.err) == (4, "")
        assert "missing" in ended.out
        assert f"{cid(2)}, channel 'own'" in ended.out
        assert "1 damaged and 0 unreferenced in 1 thread.\n" in ended.out
        assert "at depth existence. Not checked: values." in ended.out
        ended = command("verify", *thread, "--depth", "existence", "--json")
        (finding,) = json.loads(ended.out)["findings"]
        assert ended.code == 4
        assert (finding["kind"], finding["is_damage"]) == ("missing", True)
        assert (finding["thread_id"], finding["checkpoint_id"], finding["channel"]) == ("t", cid(2), "own")
        assert finding["affects"] == [cid(2)]
    assert command("verify", "well", "--depth", "existence").code == 0
    assert raw.snapshot() == before


def test_what_nothing_refers_to_is_shown_and_is_no_damage(make_saver, raw, command):
    saver = make_saver()
    fill(saver, last=2)
    (name,) = (name for name in raw.objects() if f"/{cid(1)}/own" in name)
    raw.set_object(name.replace("/own", "/else"), b"left")
    ended = command("verify", "--depth", "existence")
    assert (ended.code, ended.err) == (0, "")
    assert "0 damaged and 1 unreferenced in 1 thread." in ended.out


@LOCAL
def test_a_depth_that_is_none(command):
    ended = command("verify", "--depth", "deep")
    assert (ended.code, ended.out) == (2, "")
    assert "metadata, existence, data" in ended.err


def test_repair_does_what_its_dry_run_shows(make_saver, raw, command):
    saver = make_saver()
    fill(saver)
    fill(saver, "well", 1)
    drop_object(raw)
    before = raw.snapshot()
    ended = command("repair", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert "set aside" in ended.out
    assert cid(2) in ended.out
    shown = json.loads(command("repair", "--dry-run", "--json").out)
    assert [plan["thread_id"] for plan in shown["plans"]] == ["t"]
    assert command("repair").code == 2
    assert command("repair", "t", answer="n").code == 1
    assert raw.snapshot() == before

    done = json.loads(command("repair", "--yes", "--json").out)
    assert done["done"]
    assert done["plans"] == shown["plans"]
    assert command("verify", "--depth", "data").code == 0
    assert numbers(make_saver()) == [4, 3, 1]
    ended = command("repair", "t", "--yes")
    assert (ended.code, ended.out) == (0, "There is nothing to do.\n")


def test_damage_that_stays_is_the_exit_code(make_saver, raw, command):
    fill(make_saver(), last=1)
    raw.delete_document(keys.checkpoint_doc("t", "", cid(1)))
    ended = command("repair", "--yes")
    assert ended.code == 4
    assert "leave" in ended.out
    assert "only a backup can repair, in 't'" in ended.err


@LOCAL
def test_nothing_that_a_store_holds_moves_a_terminal(make_saver, raw, command):
    saver = make_saver()
    fill(saver, HOSTILE, ns=HOSTILE)
    fill(saver, HOSTILE)
    name = next(name for name in raw.documents() if "/lg_checkpoints/" in name)
    raw.set_document(name, {**raw.documents()[name], "digest": b"\x1b[31m"})
    drop = [name for name in raw.objects() if f"/{cid(2)}/own" in name]
    for one in drop:
        raw.delete_object(one)
    said = [
        command("verify", HOSTILE, "--depth", "data"),
        command("verify", "--depth", "data", "--json"),
        command("repair", "--dry-run"),
        command("repair", "--yes"),
        command("verify", f"{HOSTILE}2"),
    ]
    assert [ended.code for ended in said] == [4, 4, 0, 0, 1]
    for ended in said:
        assert is_harmless(ended.out + ended.err)
        assert "[bold]" in ended.out + ended.err
