"""The registry: a collection below a thread that has an entry is deleted, copied, moved, verified and collected.

One that has none is an error, so that the next feature does not forget it.
"""

from contextlib import suppress
from datetime import timedelta
from itertools import count

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, Merge, PutBlob
from langgraph_gcs_saver.errors import DamageError, InvalidInputError, UnsupportedFormatError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows.manifests import make_stub
from langgraph_gcs_saver.format import frames, keys, registry
from langgraph_gcs_saver.format.manifest import DamagedError
from langgraph_gcs_saver.format.registry import Collection
from langgraph_gcs_saver.provisioning import unindexed
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import cfg, checkpoint, metadata, version
from tests.kit.interceptors import Later
from tests.stateful.threads import MOSTLY_LOCAL
from tests.system.raw import open_raw

NOW = timedelta(0)
LONG = "long thread id, " * 20
NOTE = frames.envelope({"note": "a"})


def note_blob(name, attempt):
    return f"{keys.thread_segment_of(name)}/~/note/{name.rpartition('/')[2]}-{attempt}.zst"


def objects(doc, codec):
    """The object of a note, which is damaged without a state."""
    if "state" not in doc.fields:
        raise DamagedError("a note lacks its state")
    if "attempt" not in doc.fields:
        return {}
    stub, _ = make_stub(NOTE, doc.fields["attempt"], codec)
    return {note_blob(doc.name, stub.attempt): stub}


def copied(doc, name, attempt, codec):
    """A note is copied unless it is open; its object has another name then, and it says where it is."""
    del codec
    if doc.fields["state"] == "open":
        return None
    renamed = {"attempt": attempt(doc.fields["attempt"])} if "attempt" in doc.fields else {}
    return {**doc.fields, **renamed, "place": name}


NOTES = Collection(
    id="lg_notes",
    is_name=str.isalpha,
    copied=copied,
    objects=objects,
    unindexed=("text",),
    below=(
        Collection(id="lg_lines", is_name=str.isdigit, copied=lambda doc, *_: doc.fields),
        Collection(id="lg_readers", is_name=bool, moved=False),
    ),
)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "COLLECTIONS", (*registry.COLLECTIONS, NOTES))


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


def notes(thread, *path):
    return "/".join((keys.thread_doc(thread), "lg_notes", *path))


def commit(saver, *writes):
    assert saver._backend.documents.commit(Commit(writes)) is not None


def fill(saver, thread="t"):
    """A thread of two checkpoints and of notes: one is open, one has an object, one has lines and a reader."""
    for n in (1, 2):
        saver.put(cfg(thread, n=n - 1 or None), checkpoint(n, {"v": n}), metadata(step=n), {"v": version(n)})
    saver.put_writes(cfg(thread, n=2), [("v", 3)], "task")
    blob = note_blob(notes(thread, "large"), "attempt0")
    saver._backend.blobs.put_blob(PutBlob(blob, make_stub(NOTE, "attempt0", saver._context.codec)[1]))
    commit(
        saver,
        Create(notes(thread, "open"), {"state": "open", "text": "a"}),
        Create(notes(thread, "large"), {"state": "done", "attempt": "attempt0"}),
        Create(notes(thread, "long"), {"state": "done", "text": "b"}),
        *(Create(notes(thread, "long", "lg_lines", str(n)), {"n": n}) for n in range(3)),
        Create(notes(thread, "long", "lg_readers", "r"), {}),
    )


def of(raw, thread, *, without=("lg_readers",)):
    """The notes of a thread, by the names that they have in it."""
    own = keys.thread_doc(thread)
    docs = {name.removeprefix(own): fields for name, fields in raw.documents().items()}
    mine = {name: fields for name, fields in docs.items() if name.startswith("/lg_notes/")}
    return {name: fields for name, fields in mine.items() if not any(f"/{id_}/" in name for id_ in without)}


def blobs(raw):
    return {name.removeprefix("agents/") for name in raw.objects()}


@pytest.mark.parametrize("thread", ["t", LONG])
def test_deletion(registered, make_saver, raw, thread):
    saver = make_saver()
    fill(saver, thread)
    shown = [saver.admin.plan_delete_thread(thread)]
    assert (shown[0].checkpoints, shown[0].writes, shown[0].others, shown[0].objects) == (2, 1, 7, 1)
    assert "7 other documents" in str(shown[0])
    saver.delete_thread(thread)
    assert [name for name in raw.documents() if name.startswith(keys.THREADS)] == []
    assert blobs(raw) == set()


def test_a_deletion_lists_only_the_collections_that_are_there(make_saver):
    counts = CountingInterceptor()
    saver = make_saver(interceptors=[counts])
    saver.put(cfg("t"), checkpoint(1, {"v": 1}), metadata(step=1), {"v": version(1)})
    saver.put_writes(cfg("t", n=1), [("v", 2)], "task")
    counts.clear()
    saver.delete_thread("t")
    # Twice each: checkpoints, what was set aside, and pending writes; once each: the lease, and what shippers leave.
    assert counts.requests["QueryDocs"] == 8


@pytest.mark.parametrize("source", ["t", LONG])
def test_copy(registered, make_saver, raw, source):
    saver = make_saver()
    fill(saver, source)
    before = of(raw, source)
    shown = [saver.admin.copy_thread(source, "copy", dry_run=True)]
    assert (shown[0].checkpoints, shown[0].others) == (2, 6)
    assert "6 other documents" in str(shown[0])
    saver.copy_thread(source, "copy")
    there = of(raw, "copy", without=())
    attempt = there["/lg_notes/large"]["attempt"]
    assert attempt != "attempt0"
    assert there == {
        "/lg_notes/large": {"state": "done", "attempt": attempt, "place": notes("copy", "large")},
        "/lg_notes/long": {"state": "done", "text": "b", "place": notes("copy", "long")},
        **{f"/lg_notes/long/lg_lines/{n}": {"n": n} for n in range(3)},
    }
    assert of(raw, source) == before
    saver.delete_thread(source)
    assert list(saver.admin.verify("copy", depth="data")) == []
    assert blobs(raw) == {note_blob(notes("copy", "large"), attempt)}


@MOSTLY_LOCAL
def test_a_copy_that_crashes_anywhere_is_completed(registered, make_saver, raw, store_uri):
    with make_saver() as saver:
        fill(saver)
    for stop in count():
        with CrashingSaver.from_conn_string(store_uri) as saver:
            saver.plan = Plan(stop)
            try:
                saver.copy_thread("t", "copy")
            except Crashed:
                pass
            else:
                break
        with make_saver() as saver:
            with suppress(InvalidInputError):  # it had ended, and only the answer was lost
                saver.copy_thread("t", "copy")
            assert len(of(raw, "copy")) == 5
            assert list(saver.admin.verify("copy", depth="data")) == []
            saver.delete_thread("copy")
            saver.admin.collect(orphan_age=NOW)
    assert stop > 8


def test_a_target_with_other_notes_is_not_overwritten(registered, make_saver, raw):
    saver = make_saver()
    fill(saver)
    commit(saver, Create(notes("copy", "large"), {"state": "mine"}))
    with pytest.raises(InvalidInputError, match="not empty"):
        saver.copy_thread("t", "copy")
    commit(saver, Merge(keys.thread_doc("copy"), {"thread_id": "copy", "copying": "t", "claim": "0123456789ab"}))
    with pytest.raises(InvalidInputError, match="other content"):
        saver.copy_thread("t", "copy")
    assert of(raw, "copy") == {"/lg_notes/large": {"state": "mine"}}


def test_a_damaged_note_is_not_copied(registered, make_saver):
    saver = make_saver()
    fill(saver)
    commit(saver, Create(notes("t", "odd"), {}))
    with pytest.raises(DamageError, match=r"lg_notes/odd.*lacks its state"):
        saver.copy_thread("t", "copy")
    commit(saver, Delete(notes("t", "odd")), Merge(notes("t", "large"), {"attempt": "attempt1"}))
    with pytest.raises(DamageError, match=r"lg_notes/large.*object is missing"):
        saver.copy_thread("t", "another copy")


@pytest.mark.parametrize("thread", ["t", LONG])
def test_transfer_and_archive(registered, make_saver, raw, tmp_path, thread):
    saver = make_saver()
    fill(saver, thread)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/there") as there:
        plan = saver.admin.transfer_thread(thread, there)
        assert (plan.others, plan.aside, plan.findings) == (6, 0, ())
        assert "6 other documents" in str(plan)
        path = tmp_path / "thread.tar"
        assert there.admin.export_thread(thread, path).others == 6
    before = of(raw, thread)
    saver.delete_thread(thread)
    assert of(raw, thread) == {}
    assert saver.admin.import_thread(path).others == 6
    assert of(raw, thread, without=()) == before
    assert list(saver.admin.verify(thread, depth="data")) == []
    with GCSSaver.from_conn_string(f"file://{tmp_path}/others") as there:
        commit(there, Create(notes(thread, "x"), {}))
        with pytest.raises(InvalidInputError, match="not empty"):
            saver.admin.transfer_thread(thread, there)


def test_an_archive_with_a_collection_that_has_no_entry_is_refused(registered, saver, tmp_path, monkeypatch):
    fill(saver)
    path = tmp_path / "thread.tar"
    saver.admin.export_thread("t", path)
    monkeypatch.undo()
    with pytest.raises(InvalidInputError, match="lg_notes"):
        saver.admin.import_thread(path)


def test_what_verify_repair_and_collect_do(registered, make_saver, raw):
    saver = make_saver()
    fill(saver)
    assert list(saver.admin.verify("t", depth="data")) == []
    assert saver.admin.collect(orphan_age=NOW) == []
    large, blob = notes("t", "large"), note_blob(notes("t", "large"), "attempt0")
    commit(saver, Merge(large, {"attempt": "attempt1"}))
    assert {(one.kind, one.name) for one in saver.admin.verify("t", depth="existence")} == {
        ("missing", note_blob(large, "attempt1"))
    }, "what it needs is unknown, so no object is unreferenced"
    commit(saver, Merge(large, {"attempt": "attempt0"}), Merge(notes("t", "open"), {}, remove=("state",)))
    (finding,) = saver.admin.verify("t", depth="metadata")
    assert (finding.kind, finding.name, finding.reason) == ("corrupt", notes("t", "open"), "a note lacks its state")
    (plan,) = saver.admin.repair("t")
    assert [(step.action, step.name) for step in plan.steps] == [("leave", notes("t", "open"))]
    (plan,) = saver.admin.collect("t", orphan_age=NOW)
    assert "lacks its state" in plan.skipped
    commit(saver, Delete(notes("t", "open")), Delete(large))
    assert [one.name for one in saver.admin.verify("t", depth="existence")] == [blob]
    saver.admin.collect("t", orphan_age=NOW)
    assert blobs(raw) == set()


def test_indexes(registered):
    assert [field for id_, field in unindexed() if id_ == "lg_notes"] == ["text"]
    assert ("lg_lines", "*") in unindexed()


# Without an entry


def test_a_collection_without_an_entry_is_an_error(make_saver, raw, tmp_path):
    saver = make_saver()
    fill(saver)
    fill(saver, "empty")
    before = raw.snapshot()
    ways = {
        "delete_thread": lambda: saver.delete_thread("t"),
        "a plan of it": lambda: saver.admin.plan_delete_thread("t"),
        "verify": lambda: list(saver.admin.verify("t")),
        "repair": lambda: saver.admin.repair("t"),
        "copy_thread": lambda: saver.copy_thread("t", "copy"),
        "copy_thread to it": lambda: saver.admin.copy_thread("nobody's", "t", dry_run=True),
        "export_thread": lambda: saver.admin.export_thread("t", tmp_path / "thread.tar"),
    }
    with GCSSaver.from_conn_string(f"file://{tmp_path}/there") as there:
        ways["transfer_thread"] = lambda: saver.admin.transfer_thread("t", there)
        for way, call in ways.items():
            with pytest.raises(UnsupportedFormatError, match=r"'lg_notes'.*upgrade with `pip install -U"):
                call()
            assert raw.snapshot() == before, way
    assert saver.get_tuple(cfg("t")) is not None


def test_sweep_and_collect_skip_a_thread_with_such_a_collection(make_saver, raw):
    events = []
    saver = make_saver(on_event=events.append, ttl=timedelta(hours=1), interceptors=[Later(7200)])
    fill(saver)
    saver.put(cfg("idle"), checkpoint(1, {"v": 1}), metadata(), {"v": version(1)})
    assert [one.skipped is None for one in saver.admin.collect("t", orphan_age=NOW)] == [False]
    assert [one.thread_id for one in saver.admin.sweep()] == ["idle"]
    skipped = [event for event in events if isinstance(event, ThreadSkipped)]
    assert [event.thread_id for event in skipped] == ["t", "t"]
    assert all("lg_notes" in event.reason for event in skipped)


def test_collections_of_others_are_left_alone(make_saver, raw):
    saver = make_saver()
    saver.put(cfg("t"), checkpoint(1, {"v": 1}), metadata(), {"v": version(1)})
    theirs = f"{keys.thread_doc('t')}/feedback/1"
    commit(saver, Create(theirs, {"stars": 5}))
    assert list(saver.admin.verify("t", depth="data")) == []
    saver.copy_thread("t", "copy")
    saver.delete_thread("t")
    saver.delete_thread("copy")
    assert [name for name in raw.documents() if name.startswith(keys.THREADS)] == [theirs]
