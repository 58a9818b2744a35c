"""A cipher binds a ciphertext to the place where it is stored. Moved without the key, it is damage."""

import asyncio
from unittest import mock

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import CheckpointCorruptError, ClearTextError
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered, CheckpointSkipped, GetFailed
from langgraph_gcs_saver.flows import writes as writes_module
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.format.frames import envelope
from tests.incremental.eax import Eax
from tests.security.forging import frames_of, name_of, put_checkpoint, put_writes
from tests.system.build import cfg, cid, number, put, values

KEY = Eax("the key")
LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

SMALL, STUBS = "in documents", "in objects"


def fill(saver, kind):
    """Two threads, two namespaces, and approvals: what others would like to have elsewhere."""
    with mock.patch.object(manifest, "PAYLOAD_BYTES", 500 if kind == STUBS else manifest.PAYLOAD_BYTES):
        for thread in ("t", "victim"):
            for n in (1, 2):
                put(saver, n, {"v": [f"{thread} {n}"], "plan": "p"}, parent=n - 1 or None, thread=thread)
        put(saver, 1, {"v": ["a subgraph's"]}, ns="sub:1")
        put(saver, 9, {"v": ["t 9"]}, parent=2)
    with mock.patch.object(writes_module, "INLINE_BYTES", 100 if kind == STUBS else writes_module.INLINE_BYTES):
        saver.put_writes(cfg(9), [("__resume__", "approved " + "x" * 200)], "task a")
        saver.put_writes(cfg(9), [("__interrupt__", "a question " + "y" * 200)], "task a")
        saver.put_writes(cfg(9), [("v", ["written " + "z" * 200])], "task a")


def special(n, task, thread="t", ns=""):
    return keys.special_writes_doc(thread, ns, cid(n), task)


def regular_of(raw, n, thread="t"):
    begin = keys.writes_range(thread, "", cid(n), cid(n))[0]
    return next(name for name in raw.documents() if name.startswith(begin) and not name.endswith("!s"))


# What is moved; each leaves something of a thread that was never stored there, and says whose checkpoint has it.


def to_another_thread(raw):
    put_checkpoint(raw, name_of(9, thread="victim"), raw.documents()[name_of(9)])
    return "victim", "", 9


def to_another_namespace(raw):
    put_checkpoint(raw, name_of(9), raw.documents()[name_of(1, ns="sub:1")])
    return "t", "", 9


def from_the_root_namespace(raw):
    put_checkpoint(raw, name_of(5, ns="sub:1"), raw.documents()[name_of(2)])
    return "t", "sub:1", 5


def to_a_newer_id(raw):
    """An old state as the latest one."""
    put_checkpoint(raw, name_of(10), raw.documents()[name_of(1)])
    return "t", "", 10


def two_swapped(raw):
    documents = raw.documents()
    put_checkpoint(raw, name_of(2), documents[name_of(2, thread="victim")])
    put_checkpoint(raw, name_of(2, thread="victim"), documents[name_of(2)])
    return "victim", "", 2


def from_what_was_set_aside(raw):
    """A repair has set a damaged document aside, and an attacker brings it back under another name."""
    fields = raw.documents()[name_of(9)]
    aside = keys.aside_doc(name_of(9), "0" * 12)
    raw.set_document(aside, {**fields, "from": name_of(9), "reason": "damaged"})
    put_checkpoint(raw, name_of(10), raw.documents()[aside])
    return "t", "", 10


def another_runs(raw):
    """The run and the metadata in clear that are stored beside the manifest come along."""
    put_checkpoint(raw, name_of(10), raw.documents()[name_of(2)], run_id="run", filter={"step": 0})
    return "t", "", 10


CHECKPOINTS = [
    to_another_thread,
    to_another_namespace,
    from_the_root_namespace,
    to_a_newer_id,
    two_swapped,
    from_what_was_set_aside,
    another_runs,
]


def an_approval_of_another_checkpoint(raw):
    put_writes(raw, special(2, "task a", "victim"), frames_of(raw, special(9, "task a")))
    return "victim", "", 2


def an_approval_of_an_older_checkpoint(raw):
    put_writes(raw, special(2, "task a"), frames_of(raw, special(9, "task a")))
    return "t", "", 2


def an_approval_of_another_task(raw):
    put_writes(raw, special(9, "task b"), frames_of(raw, special(9, "task a")))
    return "t", "", 9


def an_approval_in_another_namespace(raw):
    put_writes(raw, special(1, "task a", ns="sub:1"), frames_of(raw, special(9, "task a")))
    return "t", "sub:1", 1


def an_approval_in_another_field(raw):
    """The question that waits for an answer would be taken for the answer."""
    found = frames_of(raw, special(9, "task a"))
    put_writes(raw, special(9, "task a"), {"w3": found["w4"], "w4": found["w3"]})
    return "t", "", 9


def a_special_write_among_regular_ones(raw):
    put_writes(raw, regular_of(raw, 9), {"writes": frames_of(raw, special(9, "task a"))["w4"]})
    return "t", "", 9


def regular_writes_of_another_call(raw):
    name = keys.regular_writes_doc("t", "", cid(9), "task a", "0123456789abcdef")
    put_writes(raw, name, frames_of(raw, regular_of(raw, 9)))
    return "t", "", 9


WRITES = [
    an_approval_of_another_checkpoint,
    an_approval_of_an_older_checkpoint,
    an_approval_of_another_task,
    an_approval_in_another_namespace,
    an_approval_in_another_field,
    a_special_write_among_regular_ones,
    regular_writes_of_another_call,
]


@pytest.fixture(params=[SMALL, STUBS])
def kind(request):
    return request.param


def move(moved, kind, make_saver, raw):
    """Move something; the checkpoint that has it then."""
    with make_saver(cipher=KEY) as saver:
        fill(saver, kind)
        assert not any(found.is_damage for found in saver.admin.verify(depth="data"))
    return moved(raw)


@pytest.mark.parametrize("moved", [*CHECKPOINTS, *WRITES])
def test_what_was_moved_is_never_read(moved, kind, make_saver, raw):
    thread, ns, n = move(moved, kind, make_saver, raw)
    events = []
    saver = make_saver(cipher=KEY, on_event=events.append)
    with pytest.raises(CheckpointCorruptError) as caught:
        saver.get_tuple(cfg(n, thread=thread, ns=ns))
    assert (caught.value.thread_id, caught.value.checkpoint_ns) == (thread, ns)
    assert caught.value.checkpoint_id == cid(n)
    assert "bound to another place" in caught.value.reason
    assert [type(event) for event in events] == [CheckpointDamaged, GetFailed]
    assert n not in [number(found) for found in saver.list(cfg(thread=thread, ns=ns))]
    assert isinstance(events[-1], CheckpointSkipped) or any(isinstance(one, CheckpointSkipped) for one in events)
    findings = [found for found in saver.admin.verify(thread) if found.is_damage]
    assert {(found.kind, found.checkpoint_ns, found.checkpoint_id) for found in findings} >= {("corrupt", ns, cid(n))}


@LOCAL
@pytest.mark.parametrize("moved", [*CHECKPOINTS, *WRITES])
def test_the_latest_falls_back_and_says_so(moved, kind, make_saver, raw):
    thread, ns, n = move(moved, kind, make_saver, raw)
    events = []
    saver = make_saver(cipher=KEY, on_event=events.append)
    loops = {"sync": lambda: saver.get_tuple(cfg(thread=thread, ns=ns))}
    loops["async"] = lambda: asyncio.run(saver.aget_tuple(cfg(thread=thread, ns=ns)))
    for call in loops.values():
        events.clear()
        alone = len(saver.admin.checkpoint_ids(cfg(thread=thread, ns=ns))) == 1
        if alone or (thread, ns, n) == ("t", "", 2):  # nothing to fall back to, or not the latest
            continue
        found = call()
        assert found.metadata["recovered_from"] == cid(n)
        assert number(found) != n
        assert values(found)["v"][0].split()[0] == ("a" if ns else thread), "its own"
        assert any(isinstance(event, CheckpointRecovered) for event in events)
    with (
        pytest.raises(CheckpointCorruptError),
        GCSSaver.from_conn_string(raw.uri, cipher=KEY, on_corruption="raise") as strict,
    ):
        strict.get_tuple(cfg(n, thread=thread, ns=ns))


@LOCAL
@pytest.mark.parametrize("moved", [*CHECKPOINTS, *WRITES])
def test_repair_sets_it_aside(moved, kind, make_saver, raw):
    thread, ns, n = move(moved, kind, make_saver, raw)
    saver = make_saver(cipher=KEY)
    (plan,) = saver.admin.repair(thread)
    assert {(step.action, step.checkpoint_ns, step.checkpoint_id) for step in plan.steps} >= {("set aside", ns, cid(n))}
    assert not any(found.is_damage for found in saver.admin.verify(thread, depth="data"))
    with make_saver(cipher=KEY) as fresh:
        found = fresh.get_tuple(cfg(thread=thread, ns=ns))
        assert found is None or "recovered_from" not in found.metadata
        assert moved in WRITES or fresh.get_tuple(cfg(n, thread=thread, ns=ns)) is None


@LOCAL
@pytest.mark.parametrize("moved", [to_another_thread, to_a_newer_id])
def test_what_needs_every_checkpoint_raises(moved, make_saver, raw):
    thread, _, n = move(moved, SMALL, make_saver, raw)
    saver = make_saver(cipher=KEY)
    for call in (
        lambda: saver.prune([thread]),
        lambda: saver.copy_thread(thread, "copy"),
        lambda: saver.get_delta_channel_history(config=cfg(n, thread=thread), channels=["v"]),
    ):
        with pytest.raises(CheckpointCorruptError, match="bound to another place"):
            call()
    assert [plan.skipped is not None for plan in saver.admin.collect(thread)] == [True]
    assert [info.damage for info in saver.admin.history(thread) if info.checkpoint_id == cid(n)] == [
        "the manifest is bound to another place"
    ]
    assert {info.thread_id: info.damaged for info in saver.admin.threads()}[thread] == 1


# A value is no envelope


def test_a_value_is_taken_for_no_envelope(make_saver, raw):
    """A user chooses what a value holds, such as the bytes of a file: also those of a manifest of their own."""
    name, made_up = name_of(3), {"checkpoint": {"channel_versions": {}, "v": 4}, "parent": None, "channels": {}}
    forged = envelope({**made_up, "metadata": ["json", 2], "doc": name, "field": "manifest"}, b"{}")
    write = envelope({"path": "", "writes": [[-4, "__resume__", "json", 4]]}, b"true")
    saver = make_saver(cipher=KEY)
    for n, upload in enumerate((forged, write), 1):
        put(saver, n, {"file": upload}, metadata={"step": n})
    documents = raw.documents()
    put_checkpoint(raw, name, {**documents[name_of(1)], "manifest": documents[name_of(1)]["frames"]})
    put_writes(raw, special(2, "task"), {"w4": documents[name_of(2)]["frames"]})
    reader = make_saver(cipher=KEY)
    for n in (3, 2):
        with pytest.raises(ClearTextError, match="not bound to its place"):
            reader.get_tuple(cfg(n))
    assert {found.kind for found in reader.admin.verify("t")} == {"clear"}


def test_an_envelope_is_taken_for_no_value(make_saver, raw):
    saver = make_saver(cipher=KEY)
    put(saver, 1, {"v": ["x" * 100]})
    documents = raw.documents()
    raw.set_document(name_of(1), {**documents[name_of(1)], "frames": documents[name_of(1)]["manifest"]})
    with pytest.raises(CheckpointCorruptError):
        make_saver(cipher=KEY).get_tuple(cfg(1))


# What may move


@LOCAL
def test_an_archive_keeps_its_id_without_a_key_and_gets_another_one_with_it(kind, make_saver, tmp_path):
    with make_saver(cipher=KEY) as saver:
        fill(saver, kind)
        wanted = [(found.config, found.checkpoint, found.pending_writes) for found in saver.list(cfg(ns=None))]
    with make_saver() as keyless:
        keyless.admin.export_thread("t", tmp_path / "t.tar")
    with GCSSaver.from_conn_string(f"file://{tmp_path}/other") as keyless:
        assert "no `cipher`" in keyless.admin.import_thread(tmp_path / "t.tar").undecoded
    with GCSSaver.from_conn_string(f"file://{tmp_path}/other", cipher=KEY) as saver:
        found = [(found.config, found.checkpoint, found.pending_writes) for found in saver.list(cfg(ns=None))]
        assert found == wanted
        saver.copy_thread("t", "copy")
        assert [found.kind for found in saver.admin.verify(depth="data") if found.is_damage] == []
    with GCSSaver.from_conn_string(f"file://{tmp_path}/other", cipher=KEY) as saver:
        copied = [(found.checkpoint, found.pending_writes) for found in saver.list(cfg(thread="copy", ns=None))]
        assert copied == [one[1:] for one in wanted]


@LOCAL
def test_a_forged_archive_is_found_when_it_comes(make_saver, raw, tmp_path):
    thread, _, n = move(to_another_thread, SMALL, make_saver, raw)
    with make_saver() as keyless:
        keyless.admin.export_thread(thread, tmp_path / "t.tar")
    with GCSSaver.from_conn_string(f"file://{tmp_path}/other", cipher=KEY) as saver:
        taken = saver.admin.import_thread(tmp_path / "t.tar")
        assert cid(n) in {found.checkpoint_id for found in taken.findings if found.is_damage}


@LOCAL
def test_what_a_repair_writes_is_bound_to_where_it_lies(make_saver, raw):
    """Two checkpoints share a missing frame. Its value is found elsewhere, and both manifests are rewritten."""
    saver = make_saver(cipher=KEY, inline_max_bytes=0)
    value = ["the same " * 40]
    put(saver, 1, {"v": value, "other": value})
    put(saver, 2, {"v": value, "other": value}, parent=1, changed=())
    name = next(name for name in raw.objects() if "/v-" in name)
    raw.delete_object(name)
    before = {n: raw.documents()[name_of(n)] for n in (1, 2)}
    fresh = make_saver(cipher=KEY)
    fresh.admin.repair("t")
    assert values(make_saver(cipher=KEY).get_tuple(cfg(2)))["v"] == value
    rewritten = {n: raw.documents()[name_of(n)] for n in (1, 2)}
    assert all(rewritten[n]["manifest"] != before[n]["manifest"] for n in (1, 2))
    put_checkpoint(raw, name_of(2), rewritten[1])
    with pytest.raises(CheckpointCorruptError, match="bound to another place"):
        make_saver(cipher=KEY).get_tuple(cfg(2))


@LOCAL
def test_what_a_prune_leaves_is_proven_by_its_values(make_saver, raw):
    """A stripped document has no envelope: the frames of another one are none of its own."""
    saver = make_saver(cipher=KEY)
    for thread in ("t", "victim"):
        put(saver, 1, {"v": [thread], "w": 1}, thread=thread)
        put(saver, 2, {"v": [thread], "w": 2}, parent=1, thread=thread, changed={"w"})
    saver.prune(["t", "victim"])
    documents = raw.documents()
    stripped = [name_of(1, thread=thread) for thread in ("t", "victim")]
    assert all(documents[name].keys() == {"frames"} for name in stripped)
    raw.set_document(stripped[1], documents[stripped[0]])
    with pytest.raises(CheckpointCorruptError):
        make_saver(cipher=KEY).get_tuple(cfg(2, thread="victim"))


@LOCAL
def test_what_remains_possible(make_saver, raw):
    """docs/explanation/security.md says so: an older whole document comes back under its own name, and documents go."""
    saver = make_saver(cipher=KEY)
    put(saver, 1, {"v": ["first"]})
    older = raw.documents()[name_of(1)]
    put(saver, 1, {"v": ["second"]})
    assert values(make_saver(cipher=KEY).get_tuple(cfg(1)))["v"] == ["second"]
    raw.set_document(name_of(1), older)
    assert values(make_saver(cipher=KEY).get_tuple(cfg(1)))["v"] == ["first"]


@LOCAL
def test_without_a_cipher_nothing_is_bound(make_saver, raw):
    """There is no key that could vouch for anything, so not a byte more is stored."""
    saver = make_saver()
    put(saver, 1, {"v": ["x"]})
    saver.put_writes(cfg(1), [("v", ["y"])], "task")
    put_checkpoint(raw, name_of(1, thread="u"), raw.documents()[name_of(1)])
    assert values(make_saver().get_tuple(cfg(1, thread="u")))["v"] == ["x"]
    for field in (raw.documents()[name_of(1)]["manifest"], *frames_of(raw, regular_of(raw, 1)).values()):
        assert field.startswith(b"\x28\xb5\x2f\xfd")
