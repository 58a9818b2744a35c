"""Migrating threads from other checkpointers: everything that they give, exactly, however often a call crashes."""

import copy
import logging
import operator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, TypedDict
from uuid import UUID

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import CheckpointVerificationError, GCSSaverError, InvalidInputError, SourceError
from langgraph_gcs_saver.flows.migrate import Listed, in_order
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.portable import PortableSerializer, Stored
from langgraph_gcs_saver.saver.foreign import pending
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour import test_delta_history as delta
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version
from tests.behaviour.harness import run
from tests.behaviour.scenarios import SCENARIOS
from tests.compat.xor_cipher import XorCipher
from tests.stateful.threads import MOSTLY_LOCAL, check, fill, put, told
from tests.system.raw import open_raw


@contextmanager
def sqlite(tmp_path):
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
        yield saver


@contextmanager
def memory(_):
    yield InMemorySaver()


@contextmanager
def ours(tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/source") as saver:
        yield saver


def given(source, thread="t"):
    """What a source gives of a thread, as `everything` of ours."""
    listed = source.list({"configurable": {"thread_id": thread}})
    return {(one.config["configurable"]["checkpoint_ns"], number(one)): told(one) for one in listed}


@pytest.mark.parametrize(
    ("store_uri", "kind", "mode"),
    [
        ("local", memory, "sync"),
        ("local", sqlite, "async"),
        ("local", ours, "async"),
        ("emulators", sqlite, "sync"),
        pytest.param("local", sqlite, "sync", marks=pytest.mark.soak),
        pytest.param("emulators", memory, "async", marks=pytest.mark.soak),
        pytest.param("emulators", ours, "sync", marks=pytest.mark.soak),
    ],
    indirect=["store_uri"],
)
async def test_everything_comes_along(make_saver, tmp_path, kind, mode):
    with kind(tmp_path) as source:
        fill(source)
        fill(source, "other/thread")
        before = given(source)
        done, events = [], []
        with make_saver(on_event=events.append) as saver:
            if mode == "sync":
                moved = saver.admin.migrate(source, ["t"], progress=done.append)
            elif kind is sqlite:
                async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as twin:
                    moved = await saver.admin.amigrate(twin, ["t"], progress=done.append)
            else:
                moved = await saver.admin.amigrate(source, ["t"], progress=done.append)
            assert [(one.thread_id, one.checkpoints, one.namespaces, one.present) for one in moved] == [("t", 20, 6, 0)]
            assert sum(done) == 2 * 20
            assert list(saver.list(cfg("other/thread"))) == []
            assert given(source) == before
            assert max(event.level for event in events) < logging.WARNING
        check(make_saver, "t", before)
        with make_saver() as saver:
            channels = {one.channel: one for one in saver.admin.stats().channels}
            assert channels["messages"].incremental > 0
            # No more than a run would have written: what did not change is not stored again. A run that comes back to
            # fork may have forgotten what it could build on; these came in their order.
            saver.delete_thread("t")
            fill(saver)
            for one in saver.admin.stats().channels:
                moved = channels.pop(one.channel)
                assert (moved.values, moved.size) == (one.values, one.size)
                assert moved.full + moved.incremental <= one.full + one.incremental
            assert channels == {}


@MOSTLY_LOCAL
async def test_all_threads_of_a_source(make_saver, tmp_path):
    with sqlite(tmp_path) as source, make_saver() as saver:
        for thread in ("a", "b/c", ""):
            put(source, thread, 10)
        assert {one.thread_id for one in saver.admin.migrate(source)} == {"a", "b/c", ""}
        assert {one.thread_id for one in saver.admin.threads()} == {"a", "b/c", ""}
        (nobody,) = saver.admin.migrate(source, ["nobody"])
        assert not nobody
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as twin:
            again = await saver.admin.amigrate(twin)
        assert {(one.thread_id, one.present) for one in again} == {("a", 1), ("b/c", 1), ("", 1)}


@pytest.mark.parametrize(
    "scenario",
    # Each of them is a run of its own: a fifth of them by default.
    [pytest.param(one, marks=[pytest.mark.soak] if n % 5 else [], id=one.__name__) for n, one in enumerate(SCENARIOS)],
)
@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
async def test_what_langgraph_stores(scenario, make_saver):
    first = InMemorySaver()
    await run(scenario, lambda: copy.copy(first), "sync")
    listed = list(first.list(None))
    assert listed
    with make_saver() as saver:
        saver.admin.migrate(first)
        for one in listed:
            assert saver.get_tuple(one.config) == one


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_delta_channels_have_their_history(make_saver, tmp_path):
    with sqlite(tmp_path) as source, make_saver() as saver:
        delta.build(source).invoke({"seen": [], "rare": [], "count": 0}, delta.CONFIG)
        saver.admin.migrate(source)
        assert delta.told(delta.build(saver)) == delta.told(delta.build(source))


class Level(str, Enum):
    HIGH = "high"


@dataclass
class Note:
    text: str
    tags: set[str] = field(default_factory=set)


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    notes: Annotated[list[Note], operator.add]


def build(saver):
    def ask(state):
        return {"messages": [("ai", interrupt("Shall I?"))], "notes": [Note("asked", {"a", "b"})]}

    def after(_state):
        return {"notes": [Note("done")]}

    builder = StateGraph(State).add_node(ask).add_node(after)
    return builder.add_edge(START, "ask").add_edge("ask", "after").add_edge("after", END).compile(checkpointer=saver)


@pytest.mark.parametrize(
    ("store_uri", "kind"), [("local", memory), ("local", sqlite), ("emulators", memory)], indirect=["store_uri"]
)
def test_a_run_goes_on_here(make_saver, tmp_path, kind):
    config = {"configurable": {"thread_id": "t"}}
    with kind(tmp_path) as source:
        build(source).invoke({"messages": [HumanMessage("hello", id="1")], "notes": [Note("begun")]}, config)
        with make_saver() as saver:
            saver.admin.migrate(source)
            assert [state.next for state in build(saver).get_state_history(config)] == [("ask",), ("__start__",)]
            here = build(saver).invoke(Command(resume="yes"), config)
            there = build(source).invoke(Command(resume="yes"), config)
            assert [message.content for message in here["messages"]] == ["hello", "yes"]
            assert here["notes"] == there["notes"] == [Note("begun"), Note("asked", {"a", "b"}), Note("done")]
            # The thread continued here and there, so these are two threads now.
            with pytest.raises(InvalidInputError, match="Two histories are not mixed"):
                saver.admin.migrate(source)


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


class Counting(InMemorySaver):
    """A saver with numbers as versions, which are LangGraph's default."""

    def get_next_version(self, current, channel):
        return BaseCheckpointSaver.get_next_version(self, current, channel)


def test_a_thread_whose_versions_are_numbers_runs_here():
    def graph(saver, **stops):
        build = StateGraph(Log)
        build.add_node("a", lambda _: {"log": ["a"]}).add_node("b", lambda _: {"log": ["b"]})
        return build.add_edge(START, "a").add_edge("a", "b").compile(checkpointer=saver, **stops)

    source, config = Counting(), {"configurable": {"thread_id": "t"}}
    graph(source, interrupt_before=["b"]).invoke({"log": ["in"]}, config)
    with GCSSaver.from_conn_string("memory:") as saver:
        saver.admin.migrate(source)
        assert graph(saver).invoke(None, config)["log"] == ["in", "a", "b"]
        assert graph(saver).invoke({"log": ["again"]}, config)["log"] == ["in", "a", "b", "again", "a", "b"]
        versions = saver.get_tuple(config).checkpoint["channel_versions"].values()
        assert {type(one) for one in versions} == {int}


@MOSTLY_LOCAL
def test_repeated_it_changes_nothing(store_uri, make_saver, tmp_path):
    with sqlite(tmp_path) as source:
        fill(source)
        with make_saver() as saver:
            saver.admin.migrate(source)
        raw = open_raw(store_uri)
        before = raw.snapshot()
        with make_saver() as saver:
            (again,) = saver.admin.migrate(source)
            assert (again.present, again.checkpoints) == (20, 20)
            assert "20 of them here already" in str(again)
        assert raw.snapshot() == before


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_dry_run_writes_nothing(store_uri, make_saver):
    source = InMemorySaver()
    fill(source)
    with make_saver() as saver:
        shown = saver.admin.migrate(source, dry_run=True)
    assert [str(one) for one in shown] == ["Thread 't': 20 checkpoints in 6 namespaces, 13 pending writes"]
    assert open_raw(store_uri).snapshot() == ({}, {})


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_wherever_it_dies_the_next_call_goes_on(store_uri, make_saver, every):
    source = InMemorySaver()
    for n, parent in ((10, None), (20, 10), (25, 10), (30, 20)):
        put(source, "t", n, parent)
    source.put_writes(cfg(n=30), [("messages", "b")], "b", "~1")
    source.put_writes(cfg(n=30), [("messages", "a"), ("__interrupt__", "asked")], "a", "~2")
    before = given(source)
    for stop in range(0, 200, every):
        with make_saver() as saver:
            saver.delete_thread("t")
        with CrashingSaver.from_conn_string(store_uri) as dying:
            dying.plan = Plan(stop)
            try:
                dying.admin.migrate(source)
                break
            except Crashed:
                pass
        with make_saver() as saver:
            # What shows, shows with its pending writes.
            for key, one in given(saver).items():
                assert one == before[key]
            saver.admin.migrate(source)
        # Objects that it had uploaded before it crashed are left to `collect`.
        check(make_saver, "t", before, orphans=True)
    else:
        raise AssertionError("it never came to its end")
    assert stop > 30


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_the_source_has_got_since(make_saver):
    source = InMemorySaver()
    put(source, "t", 10)
    put(source, "t", 20, 10)
    source.put_writes(cfg(n=20), [("__interrupt__", "asked")], "task", "~1")
    with make_saver() as saver:
        saver.admin.migrate(source)
    source.put_writes(cfg(n=20), [("__resume__", "yes")], "task", "~1")
    source.put_writes(cfg(n=20), [("messages", "answered")], "task", "~1")
    put(source, "t", 30, 20)
    with make_saver() as saver:
        (moved,) = saver.admin.migrate(source)
        assert moved.present == 2
    check(make_saver, "t", given(source))
    with make_saver() as saver:
        # On the parent's values, which this process had not written.
        assert {one.channel: one.incremental > 0 for one in saver.admin.stats().channels}["messages"]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_has_gone_on_here_stays(store_uri, make_saver):
    source = InMemorySaver()
    put(source, "t", 10)
    source.put_writes(cfg(n=10), [("__resume__", ["one"]), ("messages", "a")], "task", "~1")
    with make_saver() as saver:
        saver.admin.migrate(source)
        saver.put_writes(cfg(n=10), [("__resume__", ["one", "two"])], "task", "~1")
        put(saver, "t", 20, 10)
        before = open_raw(store_uri).snapshot()
        assert saver.admin.migrate(source)[0].present == 1
        assert open_raw(store_uri).snapshot() == before


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_another_thread_of_that_id_is_refused(store_uri, make_saver):
    source = InMemorySaver()
    put(source, "t", 10)
    with make_saver() as saver:
        put(saver, "t", 20)
        before = open_raw(store_uri).snapshot()
        for dry_run in (True, False):
            with pytest.raises(InvalidInputError, match="Two histories are not mixed"):
                saver.admin.migrate(source, dry_run=dry_run)
        assert open_raw(store_uri).snapshot() == before
        # Nor is one checkpoint of that id with something else in it.
        saver.delete_thread("t")
        put(saver, "t", 10, salt="other")
        with pytest.raises(CheckpointVerificationError, match="the value of channel 'document' differs"):
            saver.admin.migrate(source)


class Wrapped(BaseCheckpointSaver):
    """A checkpointer that has `list` and `get_tuple` only."""

    def __init__(self, inner, change=None):
        super().__init__(serde=inner.serde)
        self.inner = inner
        self.change = change
        self.reads = 0

    def list(self, config, **kwargs):
        return self.inner.list(config, **kwargs)

    def get_tuple(self, config):
        self.reads += 1
        found = self.inner.get_tuple(config)
        return found if self.change is None else self.change(found, self.reads)


def changed(**parts):
    """The second time that it is read, a checkpoint has these parts."""
    return lambda found, reads: found if reads == 1 else found._replace(**parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(metadata=metadata(step=7)), "its metadata differs"),
        (changed(parent_config=cfg(n=5)), "its parent differs"),
        (changed(checkpoint=checkpoint(10, {"a": 2})), "the value of channel 'a' differs"),
        (changed(checkpoint=checkpoint(10, {"a": 1, "b": 1})), "its versions or other fields differ"),
        (changed(checkpoint=checkpoint(10, {}, {"a": version(10)})), "fields differ|only one side has"),
        (changed(pending_writes=[]), "there are 2 more pending writes"),
        (changed(pending_writes=[("task", "a", 2), ("task", "a", 1)]), "are in another order, from number 0 on"),
    ],
)
@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_differs_is_told(make_saver, change, message):
    inner = InMemorySaver()
    inner.put(cfg(), checkpoint(10, {"a": 1}), metadata(), {"a": version(10)})
    inner.put_writes(cfg(n=10), [("a", 1), ("a", 2)], "task")
    with make_saver() as saver:
        with pytest.raises(CheckpointVerificationError, match=message) as caught:
            saver.admin.migrate(Wrapped(inner, change))
        assert cid(10) in str(caught.value)
        (moved,) = saver.admin.migrate(Wrapped(inner))
        assert moved.present == 1


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_source_that_fails_is_told_from_this_store(make_saver):
    inner = InMemorySaver()
    put(inner, "t", 10)
    put(inner, "t", 20, 10)

    def fails(found, _):
        if number(found) == 20:
            raise OSError("the disk is gone")
        return found

    with make_saver() as saver:
        with pytest.raises(SourceError, match="OSError: the disk is gone") as caught:
            saver.admin.migrate(Wrapped(inner, fails))
        assert isinstance(caught.value.__cause__, OSError)
        assert isinstance(caught.value, GCSSaverError)
        assert saver.admin.migrate(Wrapped(inner))[0].present == 1
        # What the source lists must be read.
        saver.delete_thread("t")
        with pytest.raises(SourceError, match="lists it again"):
            saver.admin.migrate(Wrapped(inner, lambda found, _: None if number(found) == 20 else found))
        assert list(given(saver)) == [("", 10)]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_source_that_keeps_its_serialiser(make_saver):
    """Whatever serializer the source has: values are objects then."""
    inner = InMemorySaver()
    build(inner).invoke({"messages": [HumanMessage("hello", id="1")], "notes": [Note("begun")]}, cfg())
    with make_saver() as saver:
        saver.admin.migrate(Wrapped(inner))
        assert [told(one) for one in saver.list(cfg())] == [told(one) for one in inner.list(cfg())]


ODD = {
    "date": datetime(2026, 1, 2, tzinfo=timezone.utc),
    "uuid": UUID(int=7),
    "level": Level.HIGH,
    "pair": (1, (2, 3)),
    "keys": {(1, 2): "a", 3: "b"},
    "set": {1},
    "text": "x",
}


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ODD)
def test_values_keep_their_types(make_saver, wrapped, name):
    inner = InMemorySaver()
    inner.put(cfg(), checkpoint(10, {"a": [ODD[name]]}), metadata(own=ODD[name]), {"a": version(10)})
    inner.put_writes(cfg(n=10), [("a", ODD[name])], "task")
    with make_saver() as saver:
        saver.admin.migrate(Wrapped(inner) if wrapped else inner)
        found, there = saver.get_tuple(cfg()), inner.get_tuple(cfg())
        # LangGraph's serializer itself gives some of them back as another type, such as a list for a tuple.
        for one in (
            lambda t: t.checkpoint["channel_values"]["a"],
            lambda t: t.metadata["own"],
            lambda t: t.pending_writes,
        ):
            assert repr(one(found)) == repr(one(there))
        assert told(found) == told(there)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_an_encrypted_store(make_saver):
    options = {"cipher": XorCipher(), "inline_max_bytes": 0}
    source = InMemorySaver()
    put(source, "t", 10)
    put(source, "t", 20, 10)
    source.put_writes(cfg(n=20), [("messages", "a")], "task")
    events = []
    with make_saver(**options, on_event=events.append) as saver:
        saver.admin.migrate(source)
    check(make_saver, "t", given(source), **options)
    assert not [event for event in events if event.level >= logging.WARNING]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
async def test_a_source_without_an_asynchronous_half(saver):
    with pytest.raises(SourceError, match="NotImplementedError"):
        await saver.admin.amigrate(Wrapped(InMemorySaver()))


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_nothing_that_a_value_names_is_imported(make_saver, tmp_path, monkeypatch):
    lost = Stored.of(5, ["a_module_that_is_gone", "Class", {"field": 1}, "model_validate_json"])
    with sqlite(tmp_path) as source:
        source.serde = PortableSerializer()
        source.put(cfg(), checkpoint(10, {"a": [lost, 1]}), metadata(), {})
        source.put_writes(cfg(n=10), [("a", lost)], "task")
        source.serde = JsonPlusSerializer()

        def refuse(*_):
            raise AssertionError("deserialised")

        with monkeypatch.context() as patch:
            patch.setattr(JsonPlusSerializer, "loads_typed", refuse)
            with make_saver() as saver:
                saver.admin.migrate(source)
    with make_saver(serde=PortableSerializer()) as saver:
        found = saver.get_tuple(cfg())
        assert found.checkpoint["channel_values"] == {"a": [lost, 1]}
        assert found.pending_writes == [("task", "a", lost)]


class Lists(JsonPlusSerializer):
    """Not LangGraph's own class: values are carried over as objects."""


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("serde", [Lists(), EncryptedSerializer.from_pycryptodome_aes(key=b"0" * 16)])
def test_another_serialiser(make_saver, serde):
    # Two sets with the same content whose order differs.
    many = {f"{n}" for n in range(50)}
    source = InMemorySaver(serde=serde)
    source.put(cfg(), checkpoint(10, {"a": Note("x", many)}), metadata(), {"a": version(10)})
    source.put_writes(cfg(n=10), [("a", many)], "task")
    with make_saver() as saver:
        saver.admin.migrate(source)
        saver.admin.migrate(source)
        assert given(saver) == given(source)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_langgraph_wrote_as_json(make_saver, tmp_path):
    """LangGraph's first versions wrote JSON. Only LangGraph's serializer can read such a checkpoint."""
    import json

    class Json(JsonPlusSerializer):
        def dumps_typed(self, obj):
            return "json", json.dumps(obj).encode()

    with sqlite(tmp_path) as source:
        source.serde = Json()
        source.put(cfg(), checkpoint(10, {"a": [1]}), metadata(), {})
        source.serde = JsonPlusSerializer()
        put(source, "t", 20, 10)
        with make_saver() as saver:
            saver.admin.migrate(source)
        check(make_saver, "t", given(source))


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_checkpoint_that_is_none(saver):
    inner = InMemorySaver()
    put(inner, "t", 10)
    with pytest.raises(SourceError, match="a form that is not a checkpoint's"):
        saver.admin.migrate(Wrapped(inner, lambda found, _: found._replace(checkpoint=[])))


def test_what_is_found_by_metadata(make_saver):
    source = InMemorySaver()
    source.put(cfg(), checkpoint(10), metadata(kind=Level.HIGH, user="u", run_id="r"), {})
    with make_saver() as saver:
        saver.admin.migrate(source)
        for wanted in ({"kind": Level.HIGH}, {"user": "u"}, {"run_id": "r"}):
            assert len(list(saver.list(cfg(), filter=wanted))) == 1
        saver.delete_for_runs(["r"])
        assert given(saver) == {}


# Orders


def listed(*found):
    return [Listed("", name, parent, 0) for name, parent in found]


@pytest.mark.parametrize(
    ("given_", "order"),
    [
        ((("3", "2"), ("2", "1"), ("1", None)), "123"),
        ((("1", "3"), ("2", None), ("3", "2")), "231"),  # a clock that went back
        ((("2", "gone"), ("1", "1")), "12"),
        ((("1", "2"), ("2", "1")), "21"),  # no checkpoint's parent is its child, but a damaged source may say so
        ((("2", "1"), ("3", "1"), ("1", None), ("2", "1")), "123"),
    ],
)
def test_parents_come_first(given_, order):
    assert "".join(one.checkpoint_id for one in in_order(listed(*given_))) == order


@pytest.mark.parametrize(
    ("tasks", "paths"),
    [
        ("a:x a:y b:x", ["", "", ""]),
        ("b:x a:x", ["", "~000000001"]),
        ("0:x c:x a:x b:x a:y", ["", "", "~000000001", "~000000001", "~000000002"]),
        ("a:__interrupt__ a:x", ["", ""]),
        ("a:x a:__interrupt__", ["", "~000000001"]),
    ],
)
def test_pending_writes_keep_their_order(tasks, paths):
    pairs = [tuple(one.split(":")) for one in tasks.split()]
    found = pending([(*pair, n) for n, pair in enumerate(pairs)], lambda _, n: Serialized("n", bytes([n])))
    assert [write.task_path for write in found] == paths
    assert [write.value.data[0] for write in sorted(found, key=lambda w: (w.task_path, w.task_id, w.idx))] == [
        *range(len(pairs))
    ]
    assert len({(write.task_id, write.idx) for write in found}) == len(found)


# Stores of this library as sources: checkpoints that `list` skips are not left out silently.


def a_manifest(raw, names):
    raw.set_document(names[1], {**raw.documents()[names[1]], "manifest": b"nothing"})


def an_object(raw, _):
    raw.set_object(max(name for name in raw.objects() if "-t/" in name and "/messages-" in name), b"nothing")


def the_newest_document(raw, names):
    raw.delete_document(names[-1])


def pending_writes(raw, _):
    name = next(name for name in raw.documents() if "-t/lg_writes/" in name)
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, **{key: b"nothing" for key in fields if key != "format"}})


def everything(raw, names):
    for name in names:
        raw.set_document(name, {**raw.documents()[name], "manifest": b"nothing"})


SPOILERS = [a_manifest, an_object, the_newest_document, pending_writes, everything]


@contextmanager
def spoiled(tmp_path, spoil):
    """A store with a damaged thread `t`, and a whole one."""
    uri = f"file://{tmp_path}/spoiled"
    with GCSSaver.from_conn_string(uri, inline_max_bytes=0) as source:
        for thread in ("t", "whole"):
            for n in (1, 2, 3):
                put(source, thread, n, n - 1 or None)
        source.put_writes(cfg("t", n=3), [("messages", "a write")], "task")
    raw = open_raw(uri)
    spoil(raw, sorted((name for name in raw.documents() if "-t/lg_checkpoints/" in name), reverse=True))
    raw.close()
    with GCSSaver.from_conn_string(uri) as source:
        yield source


@pytest.mark.parametrize("threads", [["t"], None], ids=["named", "all"])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
async def test_a_store_that_is_not_whole_is_refused(make_saver, tmp_path, spoil, mode, threads):
    with spoiled(tmp_path, spoil) as source, make_saver() as saver:

        async def migrate(**more):
            if mode == "sync":
                return saver.admin.migrate(source, threads, **more)
            return await saver.admin.amigrate(source, threads, **more)

        for more in ({"dry_run": True}, {}):
            with pytest.raises(SourceError, match=r"Thread 't' was not migrated.*Repair it there"):
                await migrate(**more)
            assert list(saver.list(cfg("t"))) == []
        (source.delete_thread if spoil is everything else source.admin.repair)("t")
        left = given(source)
        done = {one.thread_id: one.checkpoints for one in await migrate() if one}
        assert done.get("t", 0) == len(left)
        assert done.get("whole", 0) == (0 if threads else 3)
        assert given(saver) == left
        assert len(left) == {pending_writes: 3, everything: 0}.get(spoil, 2)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_is_in_clear_is_not_left_out_without_a_word(make_saver, tmp_path):
    uri = f"file://{tmp_path}/source"
    with GCSSaver.from_conn_string(uri) as clear:
        put(clear, "clear", 1)
    with GCSSaver.from_conn_string(uri, cipher=XorCipher()) as source, make_saver() as saver:
        put(source, "encrypted", 1)
        with pytest.raises(SourceError, match=r"Thread 'clear' was not migrated.*pass `accept_clear=True`"):
            saver.admin.migrate(source)
    with GCSSaver.from_conn_string(uri, cipher=XorCipher(), accept_clear=True) as source, make_saver() as saver:
        assert {one.thread_id for one in saver.admin.migrate(source)} == {"clear", "encrypted"}


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_thread_whose_id_nothing_tells(make_saver, tmp_path):
    uri = f"file://{tmp_path}/source"
    with GCSSaver.from_conn_string(uri) as source:
        put(source, "long id " * 40, 1)
    raw = open_raw(uri)
    for name, fields in raw.documents().items():
        if "/lg_checkpoints/" in name:
            raw.set_document(name, {**fields, "manifest": b"nothing"})
        elif name.count("/") == 1:
            raw.delete_document(name)
    raw.close()
    with GCSSaver.from_conn_string(uri) as source, make_saver() as saver:
        ids = [one.thread_id for one in source.admin.threads()]
        assert ids == [None]
        with pytest.raises(SourceError, match="whose id cannot be read"):
            saver.admin.migrate(source)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_thread_that_has_pending_writes_only_has_nothing_to_migrate(make_saver, tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/source") as source, make_saver() as saver:
        source.put_writes(cfg("t", n=1), [("messages", "a write")], "task")
        assert saver.admin.migrate(source) == []
        put(source, "u", 1)
        assert [one.thread_id for one in saver.admin.migrate(source)] == ["u"]
