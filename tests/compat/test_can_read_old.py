import hashlib
import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.runner import run as perform
from langgraph_gcs_saver.errors import ClearTextError, SagaStuckError
from langgraph_gcs_saver.flows import operations, sagas
from langgraph_gcs_saver.format import chains
from langgraph_gcs_saver.format.dictionary import DICTIONARY
from langgraph_gcs_saver.format.keys import checkpoint_doc
from tests.compat.make_golden import BLOBS, BOUND, COORDINATED, EDITED, FOLDED, TRAINED, cid, make, shown
from tests.compat.reader import DICTIONARY_SHA256, ClearError, DamageError, Reader, UnsupportedError, dec, enc, inv
from tests.compat.xor_cipher import NAME, XorCipher, xor

DATA = Path(__file__).parent / "data"
GOLDEN, GOLDEN_BOUND, GOLDEN_FOLDED = DATA / "format-1", DATA / "format-1-bound", DATA / "format-1-folded"
GOLDEN_COORDINATED, GOLDEN_BLOBS = DATA / "format-1-coordinated", DATA / "format-1-blobs"
GOLDEN_SPLICES, GOLDEN_TRAINED = DATA / "format-2-splices", DATA / "format-2-trained"
FORMAT_MD = Path(__file__).parents[2] / "docs" / "reference" / "format.md"
SERDE = JsonPlusSerializer()


@pytest.fixture
def store(tmp_path):
    """A copy of the golden store, which tests may write to."""
    return shutil.copytree(GOLDEN, tmp_path / "golden")


@pytest.fixture(
    params=[GOLDEN, GOLDEN_BOUND, GOLDEN_FOLDED, GOLDEN_COORDINATED, GOLDEN_BLOBS, GOLDEN_SPLICES, GOLDEN_TRAINED],
    ids=lambda path: path.name,
)
def each_store(request, tmp_path):
    """A copy of each golden store. They hold values in clear as well as encrypted ones."""
    return shutil.copytree(request.param, tmp_path / "golden")


def expected(path=GOLDEN):
    return json.loads((path / "expected.json").read_text(encoding="utf-8"))


def reader(path, *, accepts_clear=True):
    return Reader(path, (path / "dictionary.bin").read_bytes(), {NAME: xor}, accepts_clear=accepts_clear)


def saver_of(path, *, accept_clear=True, **options):
    return GCSSaver.from_conn_string(f"file://{path}", cipher=XorCipher(), accept_clear=accept_clear, **options)


def seen_by_reader(found):
    """A checkpoint of the independent reader as `expected.json` shows it."""
    return {
        "thread_id": found.thread_id,
        "ns": found.ns,
        "checkpoint_id": found.checkpoint_id,
        "parent_id": found.parent_id,
        "checkpoint": found.checkpoint,
        "rest": None if found.rest is None else shown(*found.rest),
        "metadata": shown(*found.metadata),
        "values": {channel: shown(*found.values[channel]) for channel in sorted(found.values)},
        "writes": [[task, channel, shown(kind, data)] for _, task, _, channel, kind, data in found.writes],
    }


def seen_by_saver(found, fields):
    """A checkpoint tuple as `expected.json` shows it; `fields` are those that are not in `rest`."""
    ids = found.config["configurable"]
    assert found.checkpoint["id"] == ids["checkpoint_id"]
    rest = {k: v for k, v in found.checkpoint.items() if k not in {*fields, "id", "channel_values"}}
    values = found.checkpoint["channel_values"]
    return {
        "thread_id": ids["thread_id"],
        "ns": ids["checkpoint_ns"],
        "checkpoint_id": ids["checkpoint_id"],
        "parent_id": found.parent_config and found.parent_config["configurable"]["checkpoint_id"],
        "checkpoint": {k: v for k, v in found.checkpoint.items() if k in fields},
        "rest": shown(*SERDE.dumps_typed(rest)) if rest else None,
        "metadata": shown(*SERDE.dumps_typed(found.metadata)),
        "values": {channel: shown(*SERDE.dumps_typed(values[channel])) for channel in sorted(values)},
        "writes": [[task, channel, shown(*SERDE.dumps_typed(value))] for task, channel, value in found.pending_writes],
    }


def rows(path):
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        return db.execute(
            "SELECT collection_id, name, fields, create_time, update_time FROM documents ORDER BY name"
        ).fetchall()


def objects(path):
    """Objects by name, of a store whose names are folded (docs/reference/format.md, 13) or of an older one."""
    files = {file.relative_to(path / "objects").as_posix(): file for file in (path / "objects").rglob("*.zst")}
    return {unfolded(name.replace("+/", "")): file.read_bytes() for name, file in files.items()}


def unfolded(text):
    text = re.sub(r"\^([a-z])", lambda match: match[1].upper(), text)
    return re.sub(r"=([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), text)


def version_of(path):
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def by_place(checkpoints):
    return {(one["thread_id"], one["ns"], one["checkpoint_id"]): one for one in checkpoints}


def test_the_current_saver_reads_every_checkpoint(each_store):
    with saver_of(each_store) as saver:
        for place, wanted in by_place(expected(each_store)["checkpoints"]).items():
            names = dict(zip(("thread_id", "checkpoint_ns", "checkpoint_id"), place, strict=True))
            found = saver.get_tuple({"configurable": names})
            assert found is not None, place
            assert seen_by_saver(found, wanted["checkpoint"]) == wanted
        assert saver.get_tuple({"configurable": {"thread_id": "nobody"}}) is None


def test_the_current_saver_lists_every_checkpoint(each_store):
    wanted = by_place(expected(each_store)["checkpoints"])
    with saver_of(each_store, cache_max_bytes=0) as saver:
        listed = list(saver.list(None))
    found = [seen_by_saver(one, wanted[tuple(one.config["configurable"].values())]["checkpoint"]) for one in listed]
    assert len(found) == len(wanted)
    assert by_place(found) == wanted


def test_the_current_saver_finds_the_latest(each_store):
    latest = {}
    for thread_id, ns, checkpoint_id in by_place(expected(each_store)["checkpoints"]):
        latest[thread_id, ns] = max(checkpoint_id, latest.get((thread_id, ns), ""))
    independent = reader(each_store)
    with saver_of(each_store) as saver:
        for (thread_id, ns), wanted in latest.items():
            found = saver.get_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": ns}})
            assert found is not None
            assert found.checkpoint["id"] == wanted == independent.latest(thread_id, ns).checkpoint_id


def test_the_current_saver_filters(store):
    wanted = expected()["checkpoints"]
    with saver_of(store) as saver:
        for thread_id, filters, count in [
            ("chat", {"run_id": "run-2"}, 10),
            ("chat", {"step": 7}, 1),
            ("values", {"flag": True, "ratio": 0.5, "odd key!": 1, "run_id": "run/é"}, 1),
            ("encrypted", {"user": "someone", "step": 3}, 1),
            ("replaced", {"user": "u"}, 0),
        ]:
            assert any(one["thread_id"] == thread_id for one in wanted)
            assert len(list(saver.list({"configurable": {"thread_id": thread_id}}, filter=filters))) == count


def test_the_current_saver_goes_on_where_the_old_one_stopped(store):
    config = {"configurable": {"thread_id": "chat", "checkpoint_ns": ""}}
    with GCSSaver.from_conn_string(f"file://{store}") as saver:
        latest = saver.get_tuple(config)
        messages = [*latest.checkpoint["channel_values"]["messages"], {"role": "user", "content": "and now?"}]
        versions = {**latest.checkpoint["channel_versions"], "messages": "9"}
        child = {
            **latest.checkpoint,
            "id": "2f0a0000-0000-6000-8000-000000000000",
            "channel_values": {**latest.checkpoint["channel_values"], "messages": messages},
            "channel_versions": versions,
        }
        saver.put(latest.config, child, {"source": "loop", "step": 99, "parents": {}}, {"messages": "9"})
    independent = reader(store)
    found = independent.latest("chat", "")
    assert found.values["messages"] == SERDE.dumps_typed(messages)
    assert independent.met["inherited frame"] > 0
    with GCSSaver.from_conn_string(f"file://{store}") as saver:
        saver.delete_thread("chat")
        assert saver.get_tuple(config) is None


def test_the_independent_reader_reads_the_same(each_store):
    found = by_place(map(seen_by_reader, reader(each_store).checkpoints()))
    assert found == by_place(expected(each_store)["checkpoints"])


def is_protected(one, path):
    """Whether the cipher vouches for a checkpoint and all that it refers to."""
    if path == GOLDEN:
        return False
    if one["thread_id"] == "half encrypted":
        return one["checkpoint_id"] == cid(2)
    return one["thread_id"] != "spliced" or one["ns"] == "encrypted"


@pytest.mark.parametrize("path", [GOLDEN, GOLDEN_BOUND], ids=lambda path: path.name)
def test_both_read_only_what_the_cipher_vouches_for(path, tmp_path):
    store = shutil.copytree(path, tmp_path / "golden")
    independent = reader(store, accepts_clear=False)
    documents = {document.name: document for document in independent.checkpoint_documents()}
    protected = 0
    with saver_of(store, accept_clear=False) as saver:
        for one in expected(path)["checkpoints"]:
            place = one["thread_id"], one["ns"], one["checkpoint_id"]
            names = dict(zip(("thread_id", "checkpoint_ns", "checkpoint_id"), place, strict=True))
            document = documents[checkpoint_doc(*place)]
            if is_protected(one, path):
                protected += 1
                assert seen_by_saver(saver.get_tuple({"configurable": names}), one["checkpoint"]) == one
                assert seen_by_reader(independent.read(document)) == one
            else:
                with pytest.raises(ClearTextError):
                    saver.get_tuple({"configurable": names})
                with pytest.raises(ClearError):
                    independent.read(document)
    assert (protected > 10) is (path == GOLDEN_BOUND)


def test_the_independent_reader_notices_every_envelope_of_another_place(tmp_path):
    store = shutil.copytree(GOLDEN_BOUND, tmp_path / "golden")
    untouched = reader(store, accepts_clear=False)
    names = [name for name in untouched.documents if "/lg_checkpoints/" in name and "bound" in name]
    for name, other in pairwise([*names, names[0]]):
        document = untouched.documents[name]
        stolen = untouched.documents[other].fields["manifest"]
        digest = hashlib.sha256(b"%s\0%s" % (name.encode(), stolen)).digest()
        moved = replace(document, fields={**document.fields, "manifest": stolen, "digest": digest})
        with pytest.raises(DamageError, match="another place"):
            untouched.read(moved)
    for found in untouched.checkpoint_documents():
        if found.name in names:
            untouched.read(found)
    assert untouched.met["bound envelope"] > 20
    for feature in ("stub ~manifest", "stub ~writes", "special write"):
        assert untouched.met[feature], feature


def test_the_golden_store_has_every_feature(store):
    independent = reader(store)
    checkpoints = independent.checkpoints()
    met = independent.met
    for feature in (
        "chain in documents and objects",
        "encrypted frame",
        "former runs",
        "frame in a document",
        "frame in an object",
        "heir",
        "incremental",
        "inherited frame",
        "packed frame",
        "repeated write",
        "root",
        "skipped versions",
        "special write",
        "splice",
        "stripped",
        "stub ~manifest",
        "stub ~writes",
        "value of no bytes",
    ):
        assert met[feature], feature
    assert met["longest chain"] >= 5
    assert any(one.rest for one in checkpoints)
    assert any(one.parent_id == one.checkpoint_id for one in checkpoints)
    kinds = {type(version) for one in checkpoints for version in one.versions.values()}
    assert kinds == {str, int, float, type(None)}
    bases = {frame for one in checkpoints if one.thread_id == "chat" for frame in bases_of(independent, one)}
    assert len(bases) >= 3


def bases_of(independent, one):
    """Where the first frames of a checkpoint's chains lie."""
    name = next(
        d.name
        for d in independent.checkpoint_documents()
        if d.name.endswith(f"/{inv(one.checkpoint_id)}!~") and "-chat/" in d.name
    )
    encoded = independent.documents[name].fields["manifest"]
    head, _ = independent.envelope(independent.envelope_frame(encoded, name, "manifest"))
    chain = head["channels"]["messages"]["chain"]
    return {(chain[0].get("in", one.checkpoint_id), chain[0].get("gcs"))} if len(chain) > 1 else set()


def test_the_independent_reader_notices_every_changed_byte_that_a_digest_covers(store):
    """So the document names all that there is to check."""
    untouched = reader(store)
    checked = 0
    for one in list(untouched.documents.values())[::5]:
        for field, data in one.fields.items():
            if field != "frames" and isinstance(data, bytes) and ("manifest" in one.fields or "lg_writes" in one.name):
                for at in (0, len(data) // 2, len(data) - 1):
                    one.fields[field] = data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]
                    if "lg_writes" in one.name:
                        _, thread, _, leaf = one.name.split("/")
                        ns, checkpoint, *_ = leaf.split("!")
                        victim = untouched.documents.get(f"lg_threads/{thread}/lg_checkpoints/{checkpoint}!{ns}")
                    else:
                        victim = one
                    if victim is not None:  # pending writes may be those of no checkpoint
                        with pytest.raises(DamageError):
                            untouched.read(victim)
                        checked += 1
                one.fields[field] = data
    assert checked > 50
    untouched.checkpoints()


def seen_or_damaged(independent, found):
    try:
        return seen_by_reader(independent.read(found))
    except DamageError:
        return None


def test_the_independent_reader_notices_every_changed_frame_in_a_document(store):
    """Not by the document's digest, but when a value needs the frame: by the value's."""
    untouched = reader(store)
    wanted = by_place(expected()["checkpoints"])
    users, reading = {}, []
    stored = untouched.stored

    def watch(thread_segment, ns, owner, channel, frame):
        if "gcs" not in frame:
            name = f"lg_threads/{thread_segment}/lg_checkpoints/{inv(owner)}!{enc(ns)}"
            users.setdefault((name, frame.get("at", 0), frame["stored"]), []).append(reading[-1])
        return stored(thread_segment, ns, owner, channel, frame)

    untouched.stored = watch
    for found in untouched.checkpoint_documents():
        reading.append(found)
        untouched.read(found)
    untouched.stored = stored
    noticed = harmless = 0
    for (name, at, length), found in sorted(users.items(), key=lambda item: item[0])[::3]:
        fields = untouched.documents[name].fields
        data = fields["frames"]
        for place in (at, at + length // 2, at + length - 1):
            fields["frames"] = data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :]
            for user in {one.name: one for one in found}.values():
                seen = seen_or_damaged(untouched, user)
                noticed += seen is None
                harmless += seen is not None  # zstd does not use every bit
                assert seen is None or seen == wanted[seen["thread_id"], seen["ns"], seen["checkpoint_id"]]
        fields["frames"] = data
    assert noticed > 200
    assert harmless < noticed / 20


def test_the_independent_reader_notices_every_changed_object(store):
    untouched = {file: file.read_bytes() for file in sorted((store / "objects").rglob("*")) if file.is_file()}
    assert len(untouched) > 15
    for file, data in untouched.items():
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        with pytest.raises(DamageError):
            reader(store).checkpoints()
        file.unlink()
        with pytest.raises(DamageError):
            reader(store).checkpoints()
        file.write_bytes(data)


def test_the_dictionary_is_that_of_the_format():
    stored = (GOLDEN / "dictionary.bin").read_bytes()
    assert stored == DICTIONARY
    text = FORMAT_MD.read_text(encoding="utf-8")
    assert f"{len(stored):,} bytes, sha256 `{DICTIONARY_SHA256}`" in text


@pytest.fixture
def former_bases(monkeypatch):
    """Begin new chains as often as writers of version 1 did. A writer may choose, and any reader reads both."""
    pays = chains._pays

    def paid(links, frame, size):
        increments = sum(link.stored for link in links[1:]) + frame
        return increments <= 1.5 * links[0].stored and pays(links, frame, size)

    monkeypatch.setattr(chains, "_pays", paid)


@pytest.mark.usefixtures("former_bases")
def test_what_is_written_now_is_what_was_written_then(tmp_path):
    """A change of the format must be one on purpose: with a new version, and a golden store of its own."""
    make(tmp_path / "new")
    now, then = expected(tmp_path / "new"), expected()
    if now.pop("zstd") == then.pop("zstd"):
        made, golden = tmp_path / "new", shutil.copytree(GOLDEN, tmp_path / "golden")
        assert in_clear(unspliced(objects(made))) == in_clear(unspliced(objects(golden)))
        assert in_clear(unspliced(by_name(rows(made)))) == in_clear(unspliced(by_name(rows(golden))))
    # Another zstd compresses to other bytes; what is read is the same.
    assert now == then
    found = by_place(map(seen_by_reader, reader(tmp_path / "new").checkpoints()))
    assert found == by_place(then["checkpoints"])


def in_clear(named):
    """What of a golden store no cipher has touched: envelopes were not bound when the first one was made."""
    return {name: one for name, one in named.items() if "encrypted" not in name}


def unspliced(named):
    """What of a golden store of version 1 has the same form now: splices have that of version 2."""
    return {name: one for name, one in named.items() if "-spliced" not in name}


def by_name(found):
    return {row[1].decode(): row for row in found}


def test_what_is_folded_now_is_what_was_folded_then(tmp_path):
    make(tmp_path / "new", FOLDED)
    now, then = expected(tmp_path / "new"), expected(GOLDEN_FOLDED)
    if now.pop("zstd") == then.pop("zstd"):
        golden = shutil.copytree(GOLDEN_FOLDED, tmp_path / "golden")
        assert {str(file.relative_to(golden)) for file in (golden / "objects").rglob("*")} == {
            str(file.relative_to(tmp_path / "new")) for file in (tmp_path / "new" / "objects").rglob("*")
        }
        assert objects(tmp_path / "new") == objects(golden)
        assert rows(tmp_path / "new") == rows(golden)
    assert now == then


@pytest.mark.parametrize(("golden", "version"), [(GOLDEN, 1), (GOLDEN_FOLDED, 2)])
def test_a_store_keeps_the_form_of_its_names(tmp_path, golden, version):
    """A store of an earlier version stays as it is, because programs of that version may be using it."""
    path = shutil.copytree(golden, tmp_path / "golden")
    before = set((path / "objects").rglob("*"))
    config = {"configurable": {"thread_id": "A", "checkpoint_ns": "Upper"}}
    with saver_of(path) as saver:
        saver.put(
            config,
            {"v": 4, "id": cid(1), "ts": "2026-01-01T00:00:00+00:00", "channel_values": {"C": "x" * 100}}
            | {"channel_versions": {"C": "1"}, "versions_seen": {}, "updated_channels": None},
            {"step": 0},
            {"C": "1"},
        )
        config["configurable"]["checkpoint_id"] = cid(1)
        saver.put_writes(config, [("C", "y" * 300_000), ("D", list(range(200_000)))], "task")
        assert len(saver.get_tuple(config).pending_writes) == 2
        new = {file.relative_to(path / "objects").as_posix() for file in (path / "objects").rglob("*")}
        new -= {file.relative_to(path / "objects").as_posix() for file in before}
        assert any("Upper" in name if version == 1 else "^upper" in name for name in new)
        assert any(one.thread_id == "A" for one in reader(path).checkpoints())
        assert [one for one in saver.admin.verify("A", depth="data") if one.is_damage] == []
        saver.delete_thread("A")
    assert version_of(path) == version
    assert set((path / "objects").rglob("*")) <= before


@pytest.mark.usefixtures("former_bases")
def test_what_is_encrypted_now_is_what_was_encrypted_then(tmp_path):
    make(tmp_path / "new", BOUND)
    now, then = expected(tmp_path / "new"), expected(GOLDEN_BOUND)
    if now.pop("zstd") == then.pop("zstd"):
        made, golden = tmp_path / "new", shutil.copytree(GOLDEN_BOUND, tmp_path / "golden")
        assert unspliced(objects(made)) == unspliced(objects(golden))
        assert unspliced(by_name(rows(made))) == unspliced(by_name(rows(golden)))
    assert now == then


# Trained dictionaries


def test_the_golden_store_of_trained_dictionaries_needs_them(tmp_path):
    path = shutil.copytree(GOLDEN_TRAINED, tmp_path / "golden")
    independent = reader(path)
    assert len(independent.checkpoints()) == 8
    assert independent.met["trained dictionary"] > 20
    formats = [found.fields["format"] for found in independent.checkpoint_documents()]
    assert formats == [2] * 8, "the last one of each inherits frames"
    for one in independent.checkpoint_documents():
        right, one.fields["format"] = one.fields["format"], 1
        with pytest.raises(DamageError, match="not the needed one"):
            independent.read(one)
        one.fields["format"] = right
    for file in sorted((path / "objects").rglob("*.zst")):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(DamageError):
            reader(path).checkpoints()
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    reader(path).checkpoints()


def test_what_is_compressed_with_a_dictionary_now_is_what_was_then(tmp_path):
    make(tmp_path / "new", TRAINED)
    now, then = expected(tmp_path / "new"), expected(GOLDEN_TRAINED)
    if now.pop("zstd") == then.pop("zstd"):
        assert objects(tmp_path / "new") == objects(GOLDEN_TRAINED)
        assert rows(tmp_path / "new") == rows(shutil.copytree(GOLDEN_TRAINED, tmp_path / "golden"))
    assert now == then


# Splices of version 2


@pytest.fixture
def with_splices(tmp_path):
    """A copy of the golden store of splices."""
    return shutil.copytree(GOLDEN_SPLICES, tmp_path / "golden")


def test_the_golden_store_of_splices_has_both_versions(with_splices):
    independent = reader(with_splices)
    assert len(independent.checkpoints()) == 24
    assert independent.met["splice of version 2"] > 40
    assert independent.met["most copies"] > 5
    assert independent.met["splice"] == 0
    formats = [found.fields["format"] for found in independent.checkpoint_documents()]
    assert formats.count(1) == 4
    assert formats.count(2) == 20


def test_the_independent_reader_notices_every_changed_splice(with_splices):
    """If the value is another one then: not every byte of the dictionary is referred to."""
    untouched = reader(with_splices)
    checked = noticed = 0
    for one in list(untouched.checkpoint_documents())[::3]:
        whole, frames = untouched.read(one), one.fields.get("frames", b"")
        for at in {0, 1, 9, len(frames) - 1} if len(frames) > 20 else ():
            one.fields["frames"] = frames[:at] + bytes([frames[at] ^ 0x11]) + frames[at + 1 :]
            try:
                assert untouched.read(one) == whole
            except (DamageError, UnsupportedError):
                noticed += 1
            checked += 1
        if frames:
            one.fields["frames"] = frames
    assert checked > 20
    assert noticed > 15
    untouched.checkpoints()


def test_a_checkpoint_of_version_2_that_states_1_is_damaged(with_splices):
    untouched = reader(with_splices)
    for one in untouched.checkpoint_documents():
        right, one.fields["format"] = one.fields["format"], 3 - one.fields["format"]
        with pytest.raises(DamageError, match="not the needed one"):
            untouched.read(one)
        one.fields["format"] = right


def test_what_is_spliced_now_is_what_was_spliced_then(tmp_path):
    make(tmp_path / "new", EDITED)
    now, then = expected(tmp_path / "new"), expected(GOLDEN_SPLICES)
    if now.pop("zstd") == then.pop("zstd"):
        assert objects(tmp_path / "new") == objects(GOLDEN_SPLICES)
        assert rows(tmp_path / "new") == rows(shutil.copytree(GOLDEN_SPLICES, tmp_path / "golden"))
    assert now == then


# Sagas and teams


@pytest.fixture
def coordinated(tmp_path):
    """A copy of the golden store of sagas and teams."""
    return shutil.copytree(GOLDEN_COORDINATED, tmp_path / "golden")


def sagas_of(thread_id):
    """The sagas of a thread as `expected.json` shows them, in order of their ids."""
    found = [one for one in expected(GOLDEN_COORDINATED)["sagas"] if one["thread_id"] == thread_id]
    assert len(found) == 5
    return in_order(found)


def in_order(found):
    return sorted(
        ({**one, "steps": sorted(one["steps"], key=lambda step: step["name"])} for one in found),
        key=lambda one: one["saga_id"],
    )


def sagas_seen_by_saver(saver, thread_id):
    def run(flow):
        return perform(flow, saver._backend)

    def step(one):
        value, undo = run(operations.read_result(one, saver._context)) if one.result else None, one.step.undo
        return {
            "name": one.step.name,
            "state": one.state,
            "undo": None if undo is None else [undo.name, undo.version],
            "request": None if undo is None else shown(undo.request.type, undo.request.data),
            "result": None if value is None else shown(value.type, value.data),
            "epoch": one.step.epoch,
            "undone": one.step.undone,
        }

    found = [
        {
            "thread_id": one.thread_id,
            "saga_id": one.saga_id,
            "state": one.state,
            "epoch": one.epoch,
            "target": one.target,
            "savepoints": [[point.name, point.checkpoint_id] for point in one.savepoints],
            "steps": [step(operation) for operation in run(sagas.steps(one, saver._context))],
        }
        for one in run(sagas.every(thread_id, saver._context))
    ]
    return in_order(found)


def sagas_seen_by_reader(independent, thread_id):
    def step(one):
        of, value, request = one["step"], one["values"].get("result"), one["request of the step"]
        return {
            "name": of["name"],
            "state": one["attempt"][2],
            "undo": of["undo"][:2] if "undo" in of else None,
            "request": None if request is None else shown(*request),
            "result": None if value is None else shown(*value),
            "epoch": of["epoch"],
            "undone": of.get("undone", False),
        }

    found = [
        {
            "thread_id": thread_id,
            "saga_id": saga_id,
            **{name: one.get(name) for name in ("state", "epoch", "target", "savepoints")},
            "steps": [step(each) for each in one["steps"] if "undoes" not in each["step"]],
        }
        for saga_id, one in independent.sagas(thread_id).items()
    ]
    return in_order(found)


@pytest.mark.parametrize("thread_id", ["sagas", "encrypted sagas"])
def test_both_read_every_saga(coordinated, thread_id):
    wanted, independent = sagas_of(thread_id), reader(coordinated)
    assert {one["state"] for one in wanted} == {"done", "running", "stuck", "compensated"}
    assert sagas_seen_by_reader(independent, thread_id) == wanted
    for feature in ("step", "undo", "undone", "stub result"):
        assert independent.met[feature], feature
    steps = [step for one in independent.sagas(thread_id).values() for step in one["steps"]]
    undone = {step["key"] for step in steps if step["step"].get("undone")}
    assert undone <= {step["step"].get("undoes") for step in steps if step["attempt"][2] == "done"}
    with saver_of(coordinated) as saver:
        assert sagas_seen_by_saver(saver, thread_id) == wanted
        shown_ = [(one.saga_id, one.state, len(one.steps)) for one in saver.thread(thread_id).sagas()]
        assert sorted(shown_) == [(one["saga_id"], one["state"], len(one["steps"])) for one in wanted]


def test_both_read_every_team_and_what_is_held(coordinated):
    wanted, independent = expected(GOLDEN_COORDINATED), reader(coordinated)
    found = independent.teams()
    assert found.keys() == {one["team"] for one in wanted["teams"]}
    with saver_of(coordinated) as saver:
        teams = {one.team: one for one in saver.admin.teams()}
        for one in wanted["teams"]:
            team, seen = found[one["team"]], teams[one["team"]]
            assert sorted(team["members"]) == list(seen.threads) == one["members"]
            assert team["retention"] == seen.retention == one["retention"]
            assert (team["preparing"], team["timeout"]) == (one["preparing"], one["timeout"])
            assert team["sets"].keys() == {each["set_id"] for each in one["sets"]}
            for each in one["sets"]:
                read, listed = (
                    team["sets"][each["set_id"]],
                    next(other for other in seen.sets if other.set_id == each["set_id"]),
                )
                for field in ("state", "label", "members", "missing"):
                    value = getattr(listed, field)
                    assert read[field] == (list(value) if isinstance(value, tuple) else value) == each[field]
                cut = {member: checkpoint_id for member, checkpoint_id, _ in read["cut"]}
                assert cut == listed.cut == each["cut"]
                assert {member: vote["checkpoint"] for member, vote in read["votes"].items()} == each["votes"]
        for thread_id, held in wanted["holds"].items():
            history = {info.checkpoint_id: info.holds for info in saver.admin.history(thread_id)}
            for checkpoint_id, holds in history.items():
                assert sorted(holds) == sorted(held.get(checkpoint_id, []))
                texts = map(text_of_hold, independent.holds(thread_id, checkpoint_id))
                assert sorted(texts) == sorted(held.get(checkpoint_id, []))
    for feature in ("set committed", "set aborted", "set broken", "set preparing", "vote"):
        assert independent.met[feature], feature


def text_of_hold(key):
    kind, owner, name = key.split(" ")
    return f"{kind} {dec(name)} of {'team' if kind == 'set' else 'saga'} {dec(owner)}"


def everything(independent):
    return independent.teams(), [independent.sagas(thread_id) for thread_id in ("sagas", "encrypted sagas")]


def test_the_independent_reader_notices_every_change_of_sagas_and_teams(coordinated):
    """Of each byte that a digest covers, of what queries see, and of a hold that is not there."""
    untouched = reader(coordinated)
    whole = everything(untouched)
    checked = 0
    kinds = {"lg_sagas": ("saga", "state"), "lg_operations": ("operation", "result", "digest", "state", "saga")}
    kinds |= {"lg_sets": ("set", "state"), "lg_votes": ("vote",), "lg_checkpoints": ("holds",)}
    for one in untouched.documents.values():
        for field in kinds.get(one.name.split("/")[-2], ()):
            value = one.fields.get(field)
            if isinstance(value, bytes):
                places = (0, len(value) // 2, len(value) - 1)
                changes = [value[:at] + bytes([value[at] ^ 0x20]) + value[at + 1 :] for at in places]
            elif field == "holds" and value:
                is_broken = all("set" in key for key in value) and one.name.endswith(f"/{inv(cid(1))}!~")
                changes = [] if is_broken else [{}]
            else:
                changes = ["other", None] if isinstance(value, str) else []
            for changed in changes:
                one.fields[field] = changed
                with pytest.raises(DamageError):
                    everything(untouched)
                checked += 1
            if value is not None:
                one.fields[field] = value
    assert checked > 200
    assert everything(untouched) == whole


def test_sagas_and_teams_are_written_now_as_they_were_then(tmp_path):
    make(tmp_path / "new", COORDINATED)
    now, then = expected(tmp_path / "new"), expected(GOLDEN_COORDINATED)
    if now.pop("zstd") == then.pop("zstd"):
        assert objects(tmp_path / "new") == objects(GOLDEN_COORDINATED)
        written = rows(tmp_path / "new")
        # Then, no list of rollbacks was kept. Nothing else has changed.
        noted = [row for row in written if row[0] == "lg_rollbacks"]
        former = rows(shutil.copytree(GOLDEN_COORDINATED, tmp_path / "golden"))
        assert [row for row in written if row not in noted] == former
        assert len(noted) == sum(one["state"] in ("compensating", "stuck") for one in then["sagas"])
    assert now == then


def test_a_rollback_that_was_begun_before_there_was_a_list_is_listed_once_it_changes(coordinated):
    with GCSSaver.from_conn_string(coordinated.as_uri()) as saver:
        assert list(saver.admin.rollbacks()) == []
        stuck = saver.thread("sagas").saga("trip-9")
        assert stuck.info().state == "stuck"
        with pytest.raises(SagaStuckError):
            stuck.resume()
        assert [one.saga_id for one in saver.admin.rollbacks()] == ["trip-9"]


# Blobs


@pytest.fixture
def with_blobs(tmp_path):
    """A copy of the golden store of blobs."""
    return shutil.copytree(GOLDEN_BLOBS, tmp_path / "golden")


def test_both_read_every_blob_and_what_lists_it(with_blobs):
    wanted, independent = expected(GOLDEN_BLOBS)["blobs"], reader(with_blobs)
    assert len(wanted) == 2
    for found in independent.checkpoints():
        listed = independent.listed[found.thread_id, found.checkpoint_id]
        assert len(listed) == int(found.checkpoint_id[-1])
        assert listed <= wanted[found.thread_id].keys()
    with saver_of(with_blobs) as saver:
        for thread_id, texts in wanted.items():
            contents = {digest: text.encode("latin-1") for digest, text in texts.items()}
            assert independent.blobs(thread_id) == contents
            state = saver.get_tuple({"configurable": {"thread_id": thread_id}}).checkpoint["channel_values"]
            for blob in (*state["docs"], state["tree"]):
                assert saver.thread(thread_id).blobs.open(blob).read() == contents[blob["digest"]]
            assert [one for one in saver.admin.verify(thread_id, depth="data") if one.is_damage] == []
    assert independent.met["segment"] > 4
    assert independent.met["folder"] == 2


def test_the_independent_reader_notices_every_change_of_blobs(with_blobs):
    threads, untouched = list(expected(GOLDEN_BLOBS)["blobs"]), reader(with_blobs)
    checked = 0
    for one in [found for found in untouched.documents.values() if "/lg_blobs/" in found.name]:
        field = "key" if one.name.endswith("/key") else "blob"
        value = one.fields[field]
        for at in (0, len(value) // 2, len(value) - 1):
            one.fields[field] = value[:at] + bytes([value[at] ^ 0x20]) + value[at + 1 :]
            with pytest.raises(DamageError):
                [untouched.blobs(thread_id) for thread_id in threads]
            checked += 1
        one.fields[field] = value
    for file in (with_blobs / "objects").rglob("*.zst"):
        if "~blobs" in file.parts:
            value = file.read_bytes()
            file.write_bytes(value[:-1] + bytes([value[-1] ^ 0x20]))
            with pytest.raises(DamageError):
                [untouched.blobs(thread_id) for thread_id in threads]
            file.write_bytes(value)
            checked += 1
    assert checked > 30


def test_blobs_are_written_now_as_they_were_then(tmp_path):
    make(tmp_path / "new", BLOBS)
    now, then = expected(tmp_path / "new"), expected(GOLDEN_BLOBS)
    if now.pop("zstd") == then.pop("zstd"):
        assert objects(tmp_path / "new") == objects(GOLDEN_BLOBS)
        assert rows(tmp_path / "new") == rows(shutil.copytree(GOLDEN_BLOBS, tmp_path / "golden"))
    assert now == then
