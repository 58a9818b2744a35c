"""Flip everything: every stored document and object of a thread damaged in turn, on both stores."""

import operator
from dataclasses import replace
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Now
from langgraph_gcs_saver.errors import CheckpointCorruptError, DamageError
from langgraph_gcs_saver.flows import load, manifests, survey, writes
from langgraph_gcs_saver.flows.survey import Survey
from langgraph_gcs_saver.format import filters, keys, manifest
from langgraph_gcs_saver.format.manifest import Manifest
from langgraph_gcs_saver.testing.damage import Damage, DamagedThread, Unnoticed, WrongAnswer, flip_everything
from tests.compat.xor_cipher import XorCipher
from tests.incremental.eax import Eax
from tests.incremental.threads import chat
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, put, version

FLIPS = {"inline": 1 << 30, "objects": 1 << 30}
"""Bits flipped in each run of bytes by the soak tests: one of each byte. For other kinds it is 24."""


# Threads


class Line:
    """Puts checkpoints of a namespace; channels that do not change keep their parent's version."""

    def __init__(self, saver, thread, ns):
        self.saver, self.thread, self.ns = saver, thread, ns
        self.versions = {}

    def put(self, n, parent, values, changed, **metadata):
        versions = {c: version(n) if c in changed else self.versions[parent][c] for c in values}
        self.versions[n] = versions
        self.saver.put(
            cfg(parent, thread=self.thread, ns=self.ns),
            checkpoint(n, values, versions),
            {**DEFAULT, "user": self.thread, **metadata},
            {channel: versions[channel] for channel in changed},
        )


def fill(saver, thread):
    """A line with a fork that continues, a namespace whose newest is a fork, and pending writes of all kinds."""
    kept = {"kept": ["kept", b"value", thread], "none": None, "empty": ""}
    root, child = Line(saver, thread, ""), Line(saver, thread, "child")
    messages = {1: 3, 2: 4, 3: 5, 4: 5, 5: 6}
    for n, parent in ((1, None), (2, 1), (3, 2), (4, 2), (5, 4)):
        values = {"chat": chat(messages[n], len(thread)), "n": n, **kept}
        root.put(n, parent, values, {"chat", "n"} if parent else set(values), run_id=f"run {n % 2} of {thread}")
    child.put(2, None, {"inner": noise(300, thread)}, {"inner"}, source="input")
    child.put(3, 2, {"inner": noise(300, thread)}, set())
    child.put(4, 2, {"inner": thread * 200}, {"inner"})
    saver.put_writes(cfg(2, thread=thread), [("chat", [thread]), ("n", {"x": 1})], "task 1")
    saver.put_writes(cfg(5, thread=thread), [("chat", noise(100, thread)), ("n", None)], "task 1", "path 1")
    saver.put_writes(cfg(5, thread=thread), [("n", thread)], "task 2", "path 0")
    saver.put_writes(cfg(5, thread=thread), [("__interrupt__", [thread]), ("__error__", "failed")], "task 2", "path 0")
    saver.put_writes(cfg(4, thread=thread, ns="child"), [("__resume__", thread)], "task 3")
    saver.put_writes(cfg(9, thread=thread), [("n", "writes of a checkpoint that is not stored")], "task 1")


class Log(TypedDict, total=False):
    log: Annotated[list, operator.add]
    answer: str


def run_graph(saver, thread):
    """A LangGraph run with a subgraph that asks: answered once, and waiting the second time."""

    def ask(state):
        return {"answer": interrupt({"question": "go on?", "so far": state["log"]})}

    def say(state):
        return {"log": [f"{thread}: {len(state['log'])}"]}

    inner = StateGraph(Log).add_node("ask", ask).add_node("say", say).add_edge(START, "ask").add_edge("ask", "say")
    builder = StateGraph(Log).add_node("inner", inner.compile()).add_node("say", say).add_node("other", say)
    for before, after in ((START, "say"), ("say", "inner"), ("say", "other")):
        builder.add_edge(before, after)
    graph = builder.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": thread}, "metadata": {"user": thread}, "run_id": None}
    graph.invoke({"log": [message["text"] for message in chat(2, len(thread))]}, config)
    graph.invoke(Command(resume="yes"), config)
    assert "__interrupt__" in graph.invoke({"log": ["again"]}, config)


KINDS = {
    "inline": (fill, {}, {}),
    "objects": (fill, {"inline_max_bytes": 0}, {}),
    "packed frames": (fill, {}, {"INNER_BYTES": 0}),
    "stubbed manifests": (fill, {}, {"PAYLOAD_BYTES": 0}),
    "encrypted": (fill, {"cipher": Eax("key"), "clear_metadata": ["source"]}, {}),
    "encrypted objects": (fill, {"cipher": XorCipher(), "inline_max_bytes": 0}, {}),
    "a graph": (run_graph, {}, {}),
    "mixed": (fill, {"inline_max_bytes": 300}, {}),
}
"""How threads are made: options of writers and readers, and limits of documents that are lower for writers."""


def open_thread(uri, kind):
    """Two threads of a kind, the first to be damaged."""
    make, options, limits = KINDS[kind]
    with pytest.MonkeyPatch.context() as patch, GCSSaver.from_conn_string(uri, **options) as saver:
        for name, value in limits.items():
            patch.setattr(manifest, name, value)
        make(saver, "t")
        make(saver, "u")
    stores = GCSSaver.from_conn_string(uri)._backend
    options = {name: value for name, value in options.items() if name != "inline_max_bytes"}
    return DamagedThread(stores.documents, stores.blobs, "t", donor_id="u", **options)


@pytest.fixture
def open_kind(store_uri):
    """Makes the threads of a kind and opens the first of them."""
    opened = []

    def open_one(kind):
        opened.append(open_thread(store_uri, kind))
        return opened[-1]

    yield open_one
    for thread in opened:
        thread.close()


EVERY = {"a graph": 41}
"""One in so many of the damages to the embedded store's threads is done. For other kinds it is one in 29."""


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_flip_everything(open_kind, kind):
    thread = open_kind(kind)
    tally = flip_everything(thread, every=EVERY.get(kind, 29), every_deletion=3)
    assert tally.tried > 30
    assert tally.noticed > tally.tried / 2


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_flip_some_of_the_emulators(open_kind):
    thread = open_kind("mixed")
    tally = flip_everything(thread, every=61, every_deletion=5, every_async=5)
    assert tally.tried > 15
    assert tally.noticed > tally.tried / 2


@pytest.mark.soak
@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_flip_every_byte(open_kind, kind):
    thread = open_kind(kind)
    tally = flip_everything(thread, flips=FLIPS.get(kind, 24), every_async=101, every_verify=29)
    assert tally.tried > 1000
    assert tally.noticed > tally.tried / 2


@pytest.mark.soak
@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_flip_everything_on_the_emulators(open_kind, kind):
    assert flip_everything(open_kind(kind), every=2).noticed > 100


# Threads have what they should have


def test_the_threads_have_every_kind_of_frame(tmp_path):
    """Or else nothing of it would be damaged."""
    found = {}
    for kind in KINDS:
        with open_thread(f"file://{tmp_path}/{kind}", kind) as thread:
            whats = {name.rsplit("/", 1)[1].split("-")[0] for name in thread.image.blobs}
            fields = {field for doc in thread.image.docs.values() for field in doc.fields}
            chains = [
                len(known.channels["chat"].chain) for known in thread.manifests.values() if "chat" in known.channels
            ]
            found[kind] = whats, fields, chains
            writes = [write for known in thread.expected.values() for write in known.pending_writes]
            assert {channel for _, channel, _ in writes} >= {"__interrupt__"}
            assert {ns for ns, _ in thread.expected} > {""}
    inline = {"frames", "manifest", "writes", "w1", "w3", "w4", "heir", "filter", "run_id", "digest", "active", "root"}
    for kind, (whats, fields, chains) in found.items():
        assert whats == {
            "objects": {"chat", "n", "kept", "inner", "empty", "~writes"},
            "encrypted objects": {"chat", "n", "kept", "inner", "empty", "~writes"},
            "mixed": {"chat", "inner"},
            "packed frames": {"~frames"},
            "stubbed manifests": {"~manifest"},
        }.get(kind, set()), kind
        if kind in {"inline", "encrypted", "mixed"}:
            assert fields >= inline, kind
        if kind != "a graph":
            assert max(chains) > 1, kind


# The checker notices what it must


class Anything:
    """What every comparison finds equal."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = None


def without_digests(steps):
    return lambda known, channel: [replace(step, digest="") for step in steps(known, channel)]


def without_digest_of_stub(open_stub):
    def read(name, stub, stored, codec):
        if stored is None:
            raise manifest.DamagedError("missing", frame=name)
        return codec.decode(stored, stub.size)

    return read


def with_none_for_damage(get_tuple):
    def get(*given):
        try:
            return (yield from get_tuple(*given))
        except CheckpointCorruptError:
            return None

    return get


BLIND = {
    "values are not checked": ("inline", ", frames", Manifest, "steps", without_digests),
    "manifests are not checked": (
        "inline",
        ", digest",
        manifest,
        "digest",
        lambda digest: lambda name, encoded: Anything(),
    ),
    "pending writes are not checked": ("inline", "lg_writes", writes, "_is_sealed", lambda old: lambda *ids: True),
    "manifests in objects are not checked": (
        "stubbed manifests",
        "~manifest",
        manifests,
        "open_stub",
        without_digest_of_stub,
    ),
    "pending writes in objects are not checked": ("objects", "~writes", writes, "open_stub", without_digest_of_stub),
    "damage reads as nothing": ("inline", ", frames", load, "get_tuple", with_none_for_damage),
    "the flag is missing": ("inline", ", frames", load, "replace", lambda old: lambda loaded, **changes: loaded),
    "the event is missing": ("inline", ", frames", load, "Emit", lambda old: lambda event: Now()),
    "a lost heir is not missed": ("inline", "deleted", load, "heir_of", lambda old: lambda doc: None),
    "another thread is named": (
        "inline",
        ", frames",
        load,
        "unreadable",
        lambda old: lambda what, _, *ids: old(what, "u", *ids),
    ),
}
"""Readers that lack something: the threads and the damages that show it, and what is replaced by what."""


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("what", BLIND)
def test_a_blind_reader_fails(open_kind, monkeypatch, what):
    kind, part, owner, name, replacement = BLIND[what]
    thread = open_kind(kind)
    damages = [damage for damage in thread.damages(flips=31) if part in damage.what]
    monkeypatch.setattr(owner, name, replacement(getattr(owner, name)))
    with pytest.raises((WrongAnswer, Unnoticed)):
        check_all(thread, damages)


def check_all(thread, damages, **options):
    for damage in damages:
        thread.check(damage, **options)


def nothing(*_):
    return
    yield


BLIND_VERIFY = {
    "nothing is found": ("digest", Survey, "findings", lambda self: []),
    "values are not decoded": (", frames", survey, "_decode_all", nothing),
    "objects are not looked at": ("chat", survey, "_look_at_frames", nothing),
    "objects of writes are not looked at": ("~writes", survey, "_look_at_objects", nothing),
    "a lost heir is not missed": ("lg_checkpoints", survey, "heir_of", lambda doc: None),
    "hints are not compared": ("filter", filters, "index", lambda metadata, clear=None: {}),
}


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("what", BLIND_VERIFY)
def test_a_blind_verify_fails(open_kind, monkeypatch, what):
    part, owner, name, replacement = BLIND_VERIFY[what]
    thread = open_kind("objects" if part in {"chat", "~writes"} else "inline")
    damages = [damage for damage in thread.damages() if part in damage.what]
    deletions = [damage for damage in damages if damage.is_deletion]
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises((WrongAnswer, Unnoticed), match="verify"):
        check_all(thread, deletions or damages, verify=True)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("half", ["documents", "objects"])
def test_a_store_that_ignores_damage_fails(open_kind, half):
    """No reader notices damage that is not there. The checker must not take that for success."""
    thread = open_kind("objects")
    if half == "documents":
        thread._documents.commit = lambda effect: (1,) * len(effect.writes)
    else:
        thread._blobs.delete_blobs = thread._blobs.put_blob = lambda effect: None
    # What a document has beside its manifest may be damaged without an error.
    damages = [
        damage
        for damage in thread.damages()
        if (damage.docs and ", manifest" in damage.what if half == "documents" else damage.blobs)
    ]
    assert len(damages) > 50
    with pytest.raises(Unnoticed, match="no error found, so the checker or the reader has a bug"):
        check_all(thread, damages)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_damage_that_is_not_mended_fails(open_kind):
    thread = open_kind("inline")
    damage = next(damage for damage in thread.damages() if "digest" in damage.what)
    commit = thread._documents.commit
    with pytest.raises(WrongAnswer, match="restored"), thread.damaged(damage):
        thread._documents.commit = lambda effect: (1,) * len(effect.writes)
    thread._documents.commit = commit
    with pytest.raises(WrongAnswer):
        thread.check_whole()


# What is lost, without the checker's own idea of it


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_lost_newest_checkpoint(open_kind):
    thread = open_kind("inline")
    cases = {("", 5): (4, cid(5)), ("child", 4): (3, None)}  # of the root a child, of the other a fork
    for (ns, newest), (left, flag) in cases.items():
        damage = Damage("deleted", {keys.checkpoint_doc("t", ns, cid(newest)): None})
        with thread.damaged(damage), thread.reader() as reader:
            found = reader.get_tuple(cfg(ns=ns))
            assert found.config == cfg(left, ns=ns)
            assert found.metadata.get("recovered_from") == flag
            assert reader.get_tuple(cfg(newest, ns=ns)) is None


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_lost_only_checkpoint(store_uri, saver):
    put(saver, 1, {"a": 1})
    put(saver, 2, {"a": 1}, ns="child")
    stores = GCSSaver.from_conn_string(store_uri)._backend
    with DamagedThread(stores.documents, stores.blobs, "t") as thread:
        assert flip_everything(thread).noticed > 30
        damage = Damage("deleted", {keys.checkpoint_doc("t", "", cid(1)): None})
        with thread.damaged(damage), thread.reader() as reader:
            with pytest.raises(DamageError):
                reader.get_tuple(cfg())
            assert reader.get_tuple(cfg(ns="child")).config == cfg(2, ns="child")
