"""Threads of a newer version, of other keys and of none, beside ours: each raises for itself, and stops no other."""

import asyncio
from datetime import timedelta

import pytest

from langgraph_gcs_saver.engine.effects import PutBlob
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ClearTextError,
    DamageError,
    GCSSaverError,
    UnsupportedFormatError,
    WrongKeyError,
)
from langgraph_gcs_saver.events import CheckpointSkipped, ThreadSkipped
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version
from tests.cli.conftest import command  # noqa: F401 - a fixture
from tests.incremental.eax import Eax

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

BEFORE, AFTER = "a", "z"
"""Threads that sort before and after the one that cannot be read."""


def fill(saver, *threads, run="run"):
    for thread in threads:
        for n in (1, 2, 3):
            values = {"v": [thread, n]}
            versions = dict.fromkeys(values, version(n))
            told = metadata(step=n, run_id=run)
            saver.put(cfg(thread, n=n - 1 or None), checkpoint(n, values, versions), told, versions)
        saver.put_writes(cfg(thread, n=3), [("v", "pending")], "task")


def documents_of(raw, thread):
    return {name: doc for name, doc in raw.documents().items() if name.startswith(f"{keys.thread_doc(thread)}/")}


@pytest.fixture
def mixed(make_saver, raw):
    """A store in which a newer version has stored a checkpoint of the thread `newer`."""
    with make_saver() as saver:
        fill(saver, BEFORE, "newer", AFTER)
    name = keys.checkpoint_doc("newer", "", cid(2))
    raw.set_document(name, {**raw.documents()[name], "format": 3})


def test_pending_writes_of_a_newer_version(make_saver, raw):
    with make_saver() as saver:
        fill(saver, BEFORE, "newer", AFTER)
    (name,) = [name for name in documents_of(raw, "newer") if f"/{keys.WRITES}/" in name]
    raw.set_document(name, {**raw.documents()[name], "format": 3})
    saver = make_saver()
    with pytest.raises(UnsupportedFormatError, match=r"Pending writes .* have format 3"):
        saver.get_tuple(cfg("newer"))
    found = [(one.config["configurable"]["thread_id"], number(one)) for one in saver.list(None)]
    expected = [(thread, n) for thread in (BEFORE, "newer", AFTER) for n in (3, 2, 1) if (thread, n) != ("newer", 3)]
    assert sorted(found) == sorted(expected)


@pytest.mark.usefixtures("mixed")
def test_a_thread_raises_for_itself(make_saver):
    saver = make_saver()
    for call in (
        lambda: saver.get_tuple(cfg("newer", n=2)),
        lambda: list(saver.list(cfg("newer"))),
        lambda: saver.admin.history("newer"),
        lambda: list(saver.admin.verify("newer")),
        lambda: saver.admin.repair("newer"),
        lambda: saver.prune(["newer"], strategy=KeepLast(1)),
        lambda: saver.copy_thread("newer", "copy"),
    ):
        with pytest.raises(UnsupportedFormatError, match=r"newer.*has format 3.*pip install -U"):
            call()
    assert number(saver.get_tuple(cfg("newer"))) == 3, "what needs none of it reads"
    for thread in (BEFORE, AFTER):
        assert [number(one) for one in saver.list(cfg(thread))] == [3, 2, 1]
        assert list(saver.admin.verify(thread, depth="data")) == []


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("limit", [None, 1])
def test_a_listing_of_all_threads_goes_on(make_saver, limit):
    events = []
    saver = make_saver(on_event=events.append)
    found = [(one.config["configurable"]["thread_id"], number(one)) for one in saver.list(None, limit=limit)]
    expected = [(thread, n) for thread in (BEFORE, "newer", AFTER) for n in (3, 2, 1) if (thread, n) != ("newer", 2)]
    if limit is not None:
        assert found[0] in expected
        assert len(found) == 1
    else:
        assert sorted(found) == sorted(expected)
        (skipped,) = [event for event in events if isinstance(event, CheckpointSkipped)]
        assert skipped.thread_id == "newer"
        assert "has format 3" in skipped.reason


@pytest.mark.usefixtures("mixed")
def test_what_is_stored_is_told_all_the_same(make_saver, command):  # noqa: F811
    saver = make_saver()
    assert {one.thread_id: (one.checkpoints, one.newer, one.damaged) for one in saver.admin.threads()} == {
        BEFORE: (3, 0, 0),
        "newer": (3, 1, 0),
        AFTER: (3, 0, 0),
    }
    assert saver.admin.stats().checkpoints == 9
    ended = command("threads")
    assert (ended.code, ended.err) == (0, "")
    assert "1 of a newer version" in ended.out
    assert command("stats").code == 0


@pytest.mark.usefixtures("mixed")
@pytest.mark.parametrize("name", ["prune", "delete_for_runs", "delete_for_runs of several"])
def test_what_removes_does_the_other_threads_and_raises(make_saver, raw, name):
    events = []
    saver = make_saver(on_event=events.append)
    whole = documents_of(raw, "newer")
    call = {
        "prune": lambda: saver.prune([BEFORE, "newer", AFTER], strategy=KeepLast(1)),
        "delete_for_runs": lambda: saver.delete_for_runs(["run"]),
        "delete_for_runs of several": lambda: saver.delete_for_runs(["none", "run", "another"]),
    }[name]
    with pytest.raises(UnsupportedFormatError):
        call()
    assert [event.thread_id for event in events if isinstance(event, ThreadSkipped)] == ["newer"]
    for thread in (BEFORE, AFTER):
        assert [number(one) for one in saver.list(cfg(thread))] == ([3] if name == "prune" else [])
        assert list(saver.admin.verify(thread, depth="data")) == []
    assert documents_of(raw, "newer") == whole


@pytest.mark.usefixtures("mixed")
def test_what_collects_leaves_the_thread_alone(make_saver, raw, command):  # noqa: F811
    """This version cannot know what a checkpoint of a newer version refers to."""
    orphans = {keys.blob(thread, "", cid(1), "v", "0" * 12) for thread in (BEFORE, "newer", AFTER)}
    for name in orphans:
        make_saver()._backend.perform(PutBlob(name, b"orphan"))
    events = []
    plans = make_saver(on_event=events.append).admin.collect(orphan_age=timedelta())
    assert {plan.thread_id for plan in plans if plan.skipped is None} == {BEFORE, AFTER}
    (skipped,) = [event for event in events if isinstance(event, ThreadSkipped)]
    assert skipped.thread_id == "newer"
    assert "has format 3" in skipped.reason
    assert [name for name in raw.objects() if name in orphans] == [name for name in orphans if "newer" in name]
    ended = command("collect", "--yes")
    assert ended.code == DamageError.exit_code
    assert ended.err.endswith("langgraph-gcs: left alone, because a checkpoint cannot be read: 'newer'\n")
    assert "Thread 'newer': skipped." in ended.out


@pytest.mark.usefixtures("mixed")
def test_the_exit_code_says_it(command):  # noqa: F811
    ended = command("prune", BEFORE, "newer", AFTER, "--keep-last", "1", "--yes")
    assert ended.code == UnsupportedFormatError.exit_code == 5
    assert "has format 3" in ended.err
    assert "pip install -U" in ended.err


KINDS = {
    "ours": ({"cipher": Eax("key")}, None),
    "another key": ({"cipher": Eax("another")}, WrongKeyError),
    "clear": ({}, ClearTextError),
}


def error_of(saver, thread):
    try:
        assert [number(one) for one in saver.list(cfg(thread))] == [3, 2, 1]
    except GCSSaverError as error:
        return type(error)
    return None


@pytest.mark.parametrize("accept_clear", [False, True])
def test_keys_beside_each_other(make_saver, accept_clear):
    """Threads bound to their place by our key, by another's, and not encrypted: each reads, or raises for itself."""
    for thread, (options, _) in KINDS.items():
        with make_saver(**options) as saver:
            fill(saver, thread, run="run")
    saver = make_saver(cipher=Eax("key"), accept_clear=accept_clear)
    failing = {thread: error for thread in KINDS if (error := error_of(saver, thread)) is not None}
    expected = {thread: error for thread, (_, error) in KINDS.items() if error is not None}
    if accept_clear:
        del expected["clear"]
    assert failing == expected
    with pytest.raises(tuple(expected.values())):
        saver.delete_for_runs(["run"])
    assert list(saver.list(cfg("ours"))) == [], "the error of a thread stops no other"
    with make_saver(cipher=Eax("another")) as other:
        assert [number(one) for one in other.list(cfg("another key"))] == [3, 2, 1]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_thread_under_another_key_stops_no_collection(make_saver, raw, command, mode):  # noqa: F811
    """It raises when the others are collected; a dry run shows what could be."""
    with make_saver() as saver:
        fill(saver, BEFORE, AFTER)
    with make_saver(cipher=Eax("another")) as saver:
        fill(saver, "m")
    orphans = {keys.blob(thread, "", cid(1), "v", "0" * 12) for thread in (BEFORE, "m", AFTER)}
    for name in orphans:
        make_saver()._backend.perform(PutBlob(name, b"orphan"))
    shown = []
    with pytest.raises(WrongKeyError):
        shown.extend(make_saver().admin.plan_collect(orphan_age=timedelta()))
    assert {plan.thread_id for plan in shown if plan} == {BEFORE, AFTER}
    ended = command("collect", "--orphan-age", "0s", "--dry-run")
    assert ended.code == WrongKeyError.exit_code
    assert f"{BEFORE!r}" in ended.out
    assert f"{AFTER!r}" in ended.out
    events = []
    saver = make_saver(on_event=events.append)
    call = saver.admin.collect if mode == "sync" else lambda **options: asyncio.run(saver.admin.acollect(**options))
    with pytest.raises(WrongKeyError):
        call(orphan_age=timedelta())
    assert [event.thread_id for event in events if isinstance(event, ThreadSkipped)] == ["m"]
    assert [name for name in raw.objects() if name in orphans] == [keys.blob("m", "", cid(1), "v", "0" * 12)]


LONG = "a thread with an id that is too long to be in the names of its documents " * 5


@pytest.mark.parametrize("what", ["newer", "another key", "damaged"])
def test_a_thread_whose_id_cannot_be_told_stops_no_other(make_saver, raw, what):
    """Its own document is lost, and the checkpoint that holds the id cannot be read. All others are handled first."""
    with make_saver() as saver:
        fill(saver, BEFORE, AFTER)
    with make_saver(**({"cipher": Eax("another")} if what == "another key" else {})) as saver:
        fill(saver, LONG)
    raw.delete_document(keys.thread_doc(LONG))
    changed = {"newer": {"format": 3}, "damaged": {"manifest": b"x"}, "another key": {}}[what]
    for name in [name for name in documents_of(raw, LONG) if f"/{keys.CHECKPOINTS}/" in name]:
        raw.set_document(name, {**raw.documents()[name], **changed})
    events = []
    saver = make_saver(on_event=events.append)
    error = {"newer": UnsupportedFormatError, "another key": WrongKeyError, "damaged": CheckpointCorruptError}[what]
    checked = []
    with pytest.raises(error):
        list(saver.admin.verify(depth="data", progress=checked.append))
    assert len(checked) == 2
    with pytest.raises(error):
        saver.admin.repair()
    with pytest.raises(error):
        saver.admin.collect(orphan_age=timedelta())
    skipped = {event.thread_id for event in events if isinstance(event, ThreadSkipped)}
    assert skipped == {keys.spread(LONG)}
