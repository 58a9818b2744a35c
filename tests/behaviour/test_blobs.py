"""Blobs in real stores: graphs whose state names them, what keeps them, and what other methods do with them."""

import asyncio
import hashlib
import io
import json
import os
import tracemalloc
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Any, TypedDict

import pytest
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver.errors import DamageError, InvalidInputError, InvalidOptionError, ValueTooLargeError
from langgraph_gcs_saver.flows import blobs as flow
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.blobs import digests_in
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.saver import blobs as api
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg, checkpoint, metadata, version
from tests.incremental.eax import Eax
from tests.stateful.threads import MOSTLY_LOCAL
from tests.system.raw import open_raw

NOW = timedelta(0)
SERDE = JsonPlusSerializer()


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


@pytest.fixture
def small(monkeypatch):
    """Segments of a kilobyte, so that a blob of some kilobytes has several."""
    monkeypatch.setattr(flow, "PART_BYTES", 1000)
    return os.urandom(9_500)


def named(value):
    return digests_in(Serialized(*SERDE.dumps_typed(value)))


def put(saver, n, value):
    config = cfg(n=n - 1 if n > 1 else None)
    return saver.put(config, checkpoint(n, {"v": value}), metadata(), {"v": version(n)})


def documents(raw):
    return sorted(name for name in raw.documents() if "/lg_blobs/" in name and not keys.is_blob_key_doc(name))


def segments(raw):
    return sorted(name for name in raw.objects() if "/~blobs/" in name)


# Storing and reading


@pytest.mark.parametrize("cipher", [None, Eax("k")], ids=["clear", "cipher"])
def test_a_blob_reads_back_in_every_way(make_saver, raw, small, tmp_path, cipher):
    blobs = make_saver(cipher=cipher).thread("t").blobs
    (tmp_path / "data").write_bytes(small)
    blob = blobs.put(tmp_path / "data", media_type="image/png")
    assert blob == {
        "type": "lg_blob",
        "digest": hashlib.sha256(small).hexdigest(),
        "size": len(small),
        "media_type": "image/png",
    }
    assert len(segments(raw)) == 10
    with (tmp_path / "data").open("rb") as file, io.BufferedReader(Pipe(small)) as pipe:
        same = [blobs.put(source)["digest"] for source in (small, bytearray(small), memoryview(small), file, pipe)]
    assert set(same) == {blob["digest"]}
    assert (len(segments(raw)), len(documents(raw))) == (10, 1), "the same content is stored once"
    with blobs.open(blob) as file:
        assert file.read() == small
        assert file.read(1) == b""
        assert file.seek(-1500, os.SEEK_END) == len(small) - 1500
        assert file.read(1200) == small[-1500:-300]
        assert file.seek(2, os.SEEK_CUR) == file.tell()
    with io.BufferedReader(blobs.open(blob), 300) as file:
        assert b"".join(iter(lambda: file.read(700), b"")) == small
    with pytest.raises(ValueError, match="closed"):
        blobs.open(blob).__exit__(None, None, None) or file.read()
    for tiny in (b"", b"x"):
        assert blobs.open(blobs.put(tiny)).read() == tiny
    stored = b"".join([*raw.objects().values(), *(name.encode() for name in raw.documents())])
    assert blob["digest"].encode() not in stored
    if cipher is not None:
        assert small[:200] not in stored


class Pipe(io.RawIOBase):
    """A stream that cannot seek."""

    def __init__(self, data):
        self.rest = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.rest.readinto(buffer)


@MOSTLY_LOCAL
def test_coroutines_have_the_same(make_saver, small, tmp_path):
    blobs = make_saver().thread("t").blobs

    async def look():
        blob = await blobs.aput(small)
        async with await blobs.aopen(blob) as file:
            assert await file.aread(1500) == small[:1500]
            parts = [part async for part in file]
        assert b"".join(parts) == small[1500:]
        assert len(parts[0]) == 500, "the rest of a segment"
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a").write_bytes(small)
        await blobs.awrite_tree(await blobs.aput_tree(tmp_path / "in"), tmp_path / "out")
        assert (tmp_path / "out" / "a").read_bytes() == small

    asyncio.run(look())


@MOSTLY_LOCAL
def test_memory_is_bounded(make_saver, tmp_path):
    path = tmp_path / "large"
    size = 96 << 20
    with path.open("wb") as file:
        file.truncate(size)
    blobs = make_saver().thread("t").blobs
    tracemalloc.start()
    try:
        blob = blobs.put(path)
        with blobs.open(blob) as file:
            while file.read(1 << 20):
                pass
        assert blob["size"] == size
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_wrong_byte_raises_before_anything_of_its_segment_is_returned(make_saver, raw, small):
    saver = make_saver()
    blob = saver.thread("t").blobs.put(small)
    put(saver, 1, blob)
    victim = segments(raw)[3]
    whole = raw.objects()[victim]
    for wrong in (whole[:-1] + bytes([whole[-1] ^ 1]), whole + b"x", raw.objects()[segments(raw)[0]]):
        raw.set_object(victim, wrong)
        with saver.thread("t").blobs.open(blob) as file:
            assert file.read(3000) == small[:3000]
            with pytest.raises(DamageError):
                file.read(1)
        (found,) = [one for one in saver.admin.verify("t", depth="data") if one.is_damage]
        assert (found.kind, victim.endswith(found.name)) == ("corrupt", True)
    raw.delete_object(victim)
    with pytest.raises(DamageError, match="missing"):
        saver.thread("t").blobs.open(blob).read()
    (found,) = saver.admin.verify("t", depth="existence")
    assert (found.kind, victim.endswith(found.name)) == ("missing", True)


def test_a_put_replaces_a_blob_that_lacks_a_segment(make_saver, raw, small):
    blobs = make_saver().thread("t").blobs
    blob = blobs.put(small)
    before = segments(raw)
    raw.delete_object(before[3])
    assert blobs.put(small) == blob
    assert blobs.open(blob).read() == small
    victim = (set(segments(raw)) - set(before)).pop()
    raw.set_object(victim, raw.objects()[victim][:-1])
    assert blobs.put(small) == blob
    assert blobs.open(blob).read() == small
    after = segments(raw)
    blobs.put(small)
    assert segments(raw) == after


def test_a_document_of_another_blob_or_thread_is_damage(make_saver, raw):
    saver = make_saver()
    blobs = saver.thread("t").blobs
    one, other = blobs.put(b"one"), blobs.put(b"other")
    names = {blobs.open(blob).read(): name for name in documents(raw) for blob in (one, other)} and documents(raw)
    stored = raw.documents()
    raw.set_document(names[0], stored[names[1]])
    failed = 0
    for blob in (one, other):
        with suppress(DamageError):
            blobs.open(blob)
            continue
        failed += 1
    assert failed == 1
    with pytest.raises(DamageError, match="has no blob"):
        saver.thread("u").blobs.open(one)


@MOSTLY_LOCAL
def test_what_is_no_blob_is_refused(make_saver, tmp_path, monkeypatch):
    saver = make_saver()
    blobs = saver.thread("t").blobs
    for wrong in ("text", 7, io.StringIO("text"), tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidInputError):
            blobs.put(wrong)
    for wrong in ({}, {"type": "lg_blob"}, {"type": "lg_blob", "digest": "0" * 63, "size": 1}, "x", None):
        with pytest.raises(InvalidInputError):
            blobs.open(wrong)
    with pytest.raises(InvalidInputError):
        blobs.put(b"x", media_type="")
    with pytest.raises(InvalidInputError, match="no folder"):
        blobs.write_tree(blobs.put(b"x"), tmp_path / "new")
    monkeypatch.setattr(flow, "MAX_BYTES", 3)
    with pytest.raises(ValueTooLargeError):
        blobs.put(b"four")
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"k" * 32)
    with pytest.raises(InvalidOptionError, match="hides"):
        _ = make_saver(serde=serde).thread("t").blobs


@MOSTLY_LOCAL
def test_a_file_that_changes_while_it_is_read_is_not_stored(make_saver, raw, small):
    class Changing(io.BytesIO):
        def seek(self, offset, whence=0):
            if whence == 0 and offset == 0 and self.tell() > 5000:
                self.getbuffer()[7000] ^= 1
            return super().seek(offset, whence)

    with pytest.raises(InvalidInputError, match="changed"):
        make_saver().thread("t").blobs.put(Changing(small))
    assert (segments(raw), documents(raw)) == ([], [])


# Folders


def test_a_folder_is_written_back(make_saver, raw, small, tmp_path):
    saver, root = make_saver(), tmp_path / "in"
    (root / "deep" / "empty").mkdir(parents=True)
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "deep" / "large").write_bytes(small)
    (root / "deep" / "same").write_bytes(small)
    blobs = saver.thread("t").blobs
    tree = blobs.put_tree(root)
    assert len(documents(raw)) == 3
    blobs.write_tree(tree, tmp_path / "out")
    shape = lambda top: {  # noqa: E731 - read once
        path.relative_to(top).as_posix(): path.is_file() and (path.read_bytes(), path.stat().st_mode & 0o100)
        for path in top.rglob("*")
    }
    assert shape(tmp_path / "out") == shape(root)
    with pytest.raises(InvalidInputError, match="not empty"):
        blobs.write_tree(tree, tmp_path / "out")
    (root / "new").write_bytes(b"new")
    assert blobs.put_tree(root) != tree
    assert len(documents(raw)) == 5, "one new file, and the new list"
    (root / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInputError, match="link"):
        blobs.put_tree(root)
    # The tree keeps its files.
    put(saver, 1, tree)
    for _ in range(4):
        saver.admin.collect("t", orphan_age=NOW)
    assert len(documents(raw)) == 3
    blobs.write_tree(tree, tmp_path / "again")


@MOSTLY_LOCAL
@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../outside", "C:outside", "a\\b", "", ".", "a//b"])
def test_a_forged_folder_writes_nothing_outside(make_saver, tmp_path, path):
    blobs = make_saver().thread("t").blobs
    inner = blobs.put(b"x")
    text = f'{{"files": {{{path!r}: ["{inner["digest"]}", 1, false]}}, "folders": []}}'.replace("'", '"')
    tree = blobs.put(text.replace("\\\\", "\\\\").encode(), media_type="application/vnd.langgraph-gcs-saver.tree+json")
    with pytest.raises(DamageError, match="folder"):
        blobs.write_tree(tree, tmp_path / "a" / "b")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "store" not in path.as_posix()] == []


@MOSTLY_LOCAL
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo], ids=["link", "pipe"])
def test_a_file_that_becomes_a_link_is_not_followed(make_saver, raw, tmp_path, monkeypatch, make):
    """A program that writes to the folder replaces a file after the walk."""
    walk, path = api._walk, tmp_path / "in" / "a"
    path.parent.mkdir()
    path.write_bytes(b"a file")

    def late(root):
        found = walk(root)
        path.unlink()
        make(path)
        return found

    monkeypatch.setattr(api, "_walk", late)
    with pytest.raises((OSError, InvalidInputError)):
        make_saver().thread("t").blobs.put_tree(tmp_path / "in")
    assert documents(raw) == []


@MOSTLY_LOCAL
def test_the_memory_of_a_folder_is_bounded(make_saver, raw, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for n in range(120):
        (tmp_path / "in" / str(n)).write_bytes(b"%d" % n)
    asked, written = [], []
    get, commit = flow.GetDocs, flow.Commit
    monkeypatch.setattr(flow, "GetDocs", lambda names: asked.append(len(names)) or get(names))
    monkeypatch.setattr(flow, "Commit", lambda writes: written.append(len(writes)) or commit(writes))
    blobs = make_saver().thread("t").blobs
    blobs.put_tree(tmp_path / "in")
    assert len(documents(raw)) == 121
    first = next(n for n, size in enumerate(written) if size > 3)
    assert max(asked) <= flow.DOCS_PER_PAGE
    assert first == 1, "the first files are stored before the others are read"
    assert len([size for size in written if size > 3]) == 3
    monkeypatch.setattr(api, "MAX_FILES", 100)
    before = len(documents(raw))
    (tmp_path / "in" / "new").write_bytes(b"new")
    with pytest.raises(InvalidInputError, match="too many files"):
        blobs.put_tree(tmp_path / "in")
    assert len(documents(raw)) == before


@MOSTLY_LOCAL
def test_lines_are_not_read_byte_by_byte(make_saver, small, monkeypatch):
    blobs = make_saver().thread("t").blobs
    data = small.replace(b"\n", b" ") + b"\n" + b"short\n" * 500 + b"end"
    calls = []
    with blobs.open(blobs.put(data)) as file:
        read = type(file).read
        monkeypatch.setattr(type(file), "read", lambda self, size=-1: calls.append(size) or read(self, size))
        assert list(file) == io.BytesIO(data).readlines()
    assert len(calls) < 600
    assert io.TextIOWrapper(blobs.open(blobs.put(b"a,b\n1,2\n"))).readlines() == ["a,b\n", "1,2\n"]


# What keeps a blob


def test_values_name_blobs_wherever_these_are():
    blob = {"type": "lg_blob", "digest": "ab" * 32, "size": 1, "media_type": None}
    digest = ("ab" * 32,)
    message = ToolMessage("done", tool_call_id="1", artifact={"files": [blob]})
    for value in (blob, [1, (blob,)], {"x": {"y": blob}}, message, [message], {("k",): blob}):
        assert named(value) == digest
    assert named({"type": "lg_blob", "digest": "short"}) == ()
    assert named({"type": "lg_blob", "other": "cd" * 32}) == ()
    assert named(["ab" * 32, "lg_blo"]) == ()
    # What a value has in common with one that names no blob is not searched.
    before = SERDE.dumps_typed([{"n": n} for n in range(9_000)])[1]
    for at in (0, 1, 4_000, 8_999, 9_000):
        changed = [{"n": n} for n in range(9_000)]
        changed.insert(at, blob)
        assert digests_in(Serialized(*SERDE.dumps_typed(changed)), before) == digest
    assert digests_in(Serialized("msgpack", before + b"\xc0"), before) == ()
    # `ToolNode` makes JSON of a dict that a tool returns.
    text = json.dumps(blob)
    for value in (ToolMessage(text, tool_call_id="1"), {"x": text.encode()}):
        assert named(value) == digest
    # The structure of another serializer's value is unknown, so each digest counts, whatever is beside it.
    assert "ab" * 32 in digests_in(Serialized("pickle", b"lg_blob@" + b"ab" * 32 + b"e"))
    assert digests_in(Serialized("pickle", b"lg_blob " + b"ab" * 500)) == ()
    assert digests_in(Serialized("pickle", b"lg_blob " + b"cd" * 32)) == ("cd" * 32,)
    assert digests_in(Serialized("msgpack", b"\xc1\xa7lg_blob " + b"cd" * 32)) == ("cd" * 32,)


def test_collect_deletes_what_two_looks_found_unlisted(make_saver, raw, small):
    saver = make_saver()
    blobs = saver.thread("t").blobs
    kept, lone = blobs.put(b"kept"), blobs.put(small)
    put(saver, 1, {"doc": kept})
    put(saver, 2, {"doc": [kept]})
    (plan,) = saver.admin.plan_collect("t", orphan_age=NOW)
    assert (len(plan.unlisted), plan.blobs) == (1, ())
    assert saver.admin.collect("t", orphan_age=NOW) == [plan] or len(documents(raw)) == 2
    assert list(saver.admin.plan_collect("t", orphan_age=timedelta(days=1))) == [], "the mark is young"
    (plan,) = saver.admin.plan_collect("t", orphan_age=NOW)
    assert (plan.unlisted, len(plan.blobs)) == ((), 1)
    # A put between the two looks counts as a look that found it.
    assert blobs.put(small) == lone
    saver.admin.carry_out(plan)
    assert blobs.open(lone).read() == small
    saver.admin.collect("t", orphan_age=NOW)
    saver.admin.collect("t", orphan_age=NOW)
    assert (len(documents(raw)), segments(raw)) == (1, [])
    assert blobs.open(kept).read() == b"kept"
    # Pruning keeps what kept checkpoints list, and what they do not list goes.
    put(saver, 3, {"doc": "nothing"})
    saver.admin.prune(["t"], strategy=KeepLast(1))
    saver.admin.collect("t", orphan_age=NOW)
    put(saver, 4, kept)
    (plan,) = saver.admin.collect("t", orphan_age=NOW)
    assert len(plan.relisted) == 1
    put(saver, 5, "nothing")
    saver.admin.prune(["t"], strategy=KeepLast(1))
    for left in (1, 0):
        saver.admin.collect("t", orphan_age=NOW)
        assert len(documents(raw)) == left
    assert list(saver.admin.verify("t", depth="data")) == []


class State(TypedDict, total=False):
    docs: Any
    seen: Any


def graph_of(saver, *, fails=()):
    def child_node(state):
        blob = saver.thread("t").blobs.put(b"from the subgraph")
        answer = interrupt("go?")
        return {"seen": [blob, answer]}

    child = StateGraph(State).add_node("inner", child_node).add_edge(START, "inner").compile(checkpointer=True)

    def fetch(_):
        if fails:
            raise fails.pop()
        return {"docs": {"report": saver.thread("t").blobs.put(b"a report")}}

    graph = StateGraph(State).add_node("fetch", fetch).add_node("child", child)
    return graph.add_edge(START, "fetch").add_edge("fetch", "child").add_edge("child", END).compile(checkpointer=saver)


def test_a_graph_keeps_the_blobs_of_its_state_and_of_a_subgraph(make_saver, raw):
    saver = make_saver()
    graph, config = graph_of(saver), {"configurable": {"thread_id": "t"}}
    graph.invoke({"docs": None}, config)
    # Nothing lists the subgraph's blob yet: it waits, and puts the blob again when it resumes.
    for _ in range(2):
        saver.admin.collect("t", orphan_age=NOW)
    assert len(documents(raw)) == 1
    state = graph.invoke(Command(resume="yes"), config)
    for _ in range(3):
        saver.admin.collect("t", orphan_age=NOW)
    blobs = make_saver().thread("t").blobs
    assert blobs.open(state["docs"]["report"]).read() == b"a report"
    assert blobs.open(state["seen"][0]).read() == b"from the subgraph"
    assert list(saver.admin.verify("t", depth="data")) == []
    # A blob that is missing is found, with the checkpoints that need it.
    for name in documents(raw):
        raw.delete_document(name)
    found = [one for one in saver.admin.verify("t") if one.is_damage]
    assert {one.kind for one in found} == {"missing"}
    assert all(one.affects and "/lg_blobs/" in one.name for one in found)
    assert len(found) == 2


def test_a_pending_write_keeps_its_blob(make_saver, raw):
    saver = make_saver()
    put(saver, 1, "nothing")
    blob = saver.thread("t").blobs.put(b"of a task")
    saver.put_writes(cfg(n=1), [("v", {"doc": blob})], "task")
    for _ in range(3):
        saver.admin.collect("t", orphan_age=NOW)
    assert len(documents(raw)) == 1


def test_verify_finds_the_missing_files_of_a_folder(make_saver, raw, tmp_path):
    saver = make_saver()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"a file")
    blobs = saver.thread("t").blobs
    put(saver, 1, blobs.put_tree(tmp_path / "in"))
    before = documents(raw)
    other = blobs.put(b"other")
    assert list(saver.admin.verify("t")) == []
    put(saver, 2, other)
    for name in before:
        fields = raw.documents()[name]
        raw.delete_document(name)
        (found,) = [one for one in saver.admin.verify("t") if one.is_damage]
        assert (found.kind, found.name, len(found.affects)) == ("missing", name, 1)
        raw.set_document(name, fields)


def test_a_collection_sees_a_pending_write_that_becomes_a_checkpoint(make_saver, monkeypatch):
    """The checkpoint is stored after the collection's look at checkpoints, and the write is pruned before its own."""
    saver, other = make_saver(), make_saver()
    put(saver, 1, "nothing")
    blob = saver.thread("t").blobs.put(b"of a task")
    saver.admin.collect("t", orphan_age=NOW)
    saver.put_writes(cfg(n=1), [("v", blob)], "task")
    pending = flow._pending

    def late(thread_id, context):
        put(other, 2, blob)
        other.admin.prune(["t"], strategy=KeepLast(1))
        return (yield from pending(thread_id, context))

    monkeypatch.setattr(flow, "_pending", late)
    saver.admin.collect("t", orphan_age=NOW)
    assert saver.thread("t").blobs.open(blob).read() == b"of a task"


def test_blobs_whose_key_is_lost_stay_until_it_is_restored(make_saver, raw):
    saver = make_saver()
    blob = saver.thread("t").blobs.put(b"content")
    put(saver, 1, blob)
    (name,) = [name for name in raw.documents() if name.endswith("/lg_blobs/key")]
    key = raw.documents()[name]
    raw.delete_document(name)
    saver.thread("t").blobs.put(b"a put makes another key")
    for _ in range(3):
        saver.admin.collect("t", orphan_age=NOW)
    raw.set_document(name, key)
    assert saver.thread("t").blobs.open(blob).read() == b"content"


# Moves


@pytest.mark.parametrize("cipher", [None, Eax("k")], ids=["clear", "cipher"])
def test_blobs_move_and_go_with_their_thread(make_saver, raw, small, tmp_path, cipher):
    saver = make_saver(cipher=cipher)
    blobs = saver.thread("t").blobs
    state = [blobs.put(small), blobs.put(b"small")]
    put(saver, 1, state)
    saver.copy_thread("t", "copy")
    saver.admin.export_thread("t", tmp_path / "t.tar")
    with type(saver).from_conn_string(f"file://{tmp_path}/other", cipher=cipher) as other:
        saver.admin.transfer_thread("t", other)
    saver.delete_thread("t")
    assert not [name for name in (*raw.documents(), *raw.objects()) if name.startswith(("lg_threads/e3-t", "e3-t"))]
    with pytest.raises(DamageError):
        blobs.open(state[0])
    saver.admin.import_thread(tmp_path / "t.tar")
    with type(saver).from_conn_string(f"file://{tmp_path}/other", cipher=cipher) as other:
        for each, thread in ((saver, "t"), (saver, "copy"), (other, "t")):
            found = each.thread(thread).blobs
            assert [found.open(blob).read() for blob in state] == [small, b"small"]
            assert list(each.admin.verify(thread, depth="data")) == []
    # The copy has the key as well, so that the same content is found there.
    before = len(raw.objects())
    saver.thread("copy").blobs.put(small)
    assert len(raw.objects()) == before


# Crashes


@MOSTLY_LOCAL
def test_a_crash_before_or_after_any_request_leaves_no_part_of_a_blob(make_saver, raw, store_uri, small):
    """Whatever was left, the same call stores the blob, and collections delete the rest."""
    for stop in count():
        with CrashingSaver.from_conn_string(store_uri, inline_max_bytes=8 << 10) as saver:
            saver.plan = Plan(stop)
            try:
                saver.thread("t").blobs.put(small)
                crashed = False
            except Crashed:
                crashed = True
        with make_saver() as saver:
            blobs = saver.thread("t").blobs
            blob = {"type": "lg_blob", "digest": hashlib.sha256(small).hexdigest(), "size": len(small)}
            with suppress(DamageError):
                assert blobs.open(blob).read() == small
            put(saver, 1, blobs.put(small))
            for _ in range(2):
                saver.admin.collect("t", orphan_age=NOW)
            assert blobs.open(blob).read() == small
            assert (len(documents(raw)), len(segments(raw))) == (1, 10)
            assert list(saver.admin.verify("t", depth="data")) == []
            saver.delete_thread("t")
        if not crashed:
            break
    assert stop > 8


def test_a_put_of_a_thread_that_is_deleted_meanwhile_is_whole(make_saver, raw, small, monkeypatch):
    """The deletion takes the first segments. Then all of them are stored again."""
    saver, other = make_saver(), make_saver()
    saver.thread("t").blobs.put(b"an earlier one")
    upload, calls = flow.upload, []

    def deleting(effects, *, reads_back):
        wrong = yield from upload(effects, reads_back=reads_back)
        if not calls:
            calls.append(other.delete_thread("t"))
        return wrong

    monkeypatch.setattr(flow, "upload", deleting)
    blob = saver.thread("t").blobs.put(small)
    assert calls
    assert saver.thread("t").blobs.open(blob).read() == small
