"""`repair` restores exactly what can be restored, sets the rest aside, where nothing lists it, and changes no more."""

import asyncio
import operator
from functools import partial
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph, add_messages
from langgraph.graph.message import _messages_delta_reducer
from langgraph.types import Overwrite

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, PutBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError, DamageError
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.portable import PortableSerializer
from langgraph_gcs_saver.testing.crash import READS, Crashed, CrashingSaver, Plan
from tests.incremental.eax import Eax
from tests.incremental.threads import chat, refs
from tests.kit.interceptors import Meanwhile
from tests.system.build import cfg, cid, noise, number, put
from tests.system.test_verify import (
    fill,
    flip,
    flip_field,
    flip_frame,
    flipped_object,
    found_at,
    name_of,
    object_of,
    writes_of,
)

MORE = pytest.mark.parametrize("store_uri", ["local", pytest.param("emulators", marks=pytest.mark.soak)], indirect=True)
"""Variants that need not be repeated on the emulators each time."""


def read_all(raw, thread="t", **options):
    """Every checkpoint that can be read, whole tuples, by namespace and id."""
    with raw.reader(**options) as saver:
        return {ids_of(one): one for one in saver.list(cfg(thread=thread, ns=None))}


def ids_of(found):
    configurable = found.config["configurable"]
    return configurable["checkpoint_ns"], configurable["checkpoint_id"]


def aside(raw):
    return {name: fields for name, fields in raw.documents().items() if "/lg_aside/" in name}


def repaired(raw, thread="t", *, dry_run=False, **options):
    """Repair by a fresh process; what it did, or would do."""
    with raw.reader(**options) as saver:
        return list(saver.admin.plan_repair(thread) if dry_run else saver.admin.repair(thread))


def damages(raw, **options):
    return [one for one in found_at(raw, "data", **options) if one.is_damage]


def actions(plan):
    """What a plan does to what, by number of the checkpoint."""
    return [(one.action, number_of(one.checkpoint_id), one.channel) for one in plan.steps]


def number_of(checkpoint_id):
    return int(checkpoint_id.rsplit("-", 1)[1]) if checkpoint_id else None


def check_repair(raw, before, *, stays, put_away=(), left=(), **options):
    """Repair what was damaged since `before` was read, and look at everything.

    Args:
        raw: The store.
        before: Every tuple, from before the damage.
        stays: Numbers of the root namespace's checkpoints that must read as before.
        put_away: Names of documents that must be set aside.
        left: Kinds of the findings that only a backup can repair.
        options: Options of all savers.
    """
    damaged = raw.snapshot()
    assert damages(raw, **options)
    (planned,) = repaired(raw, dry_run=True, **options)
    assert raw.snapshot() == damaged, "a dry run changed something"
    (repair,) = repaired(raw, **options)
    # What the first steps bring to light follows them.
    assert (repair.findings, repair.steps[: len(planned.steps)]) == (planned.findings, planned.steps)
    assert [one.kind for one in damages(raw, **options)] == list(left)
    found = read_all(raw, **options)
    assert sorted(number_of(checkpoint_id) for ns, checkpoint_id in found if not ns) == sorted(stays)
    for ids, one in found.items():
        assert one == before[ids], ids
    for (ns, _), one in found.items():
        with raw.reader(**options) as saver:
            assert saver.get_tuple(one.config) == one
            latest = saver.get_tuple(cfg(ns=ns))
            assert "recovered_from" not in latest.metadata
            assert latest == found[ns, latest.checkpoint["id"]]
    put_aside = {fields["from"]: fields for fields in aside(raw).values()}
    assert put_aside.keys() == set(put_away)
    for name, fields in put_aside.items():
        # The heir, which other commits change, is removed when the child is set aside.
        own = {key: value for key, value in damaged[0][name].items() if key != "heir"}
        assert {key: fields[key] for key in own} == own
        assert fields.keys() - own.keys() <= {"from", "reason", "heir"}
        assert fields["reason"]
    done = raw.snapshot()
    again = repaired(raw, **options)
    assert raw.snapshot() == done, "the second repair changed something"
    assert not left or all(step.action == "leave" for plan in again for step in plan.steps)
    assert left or not again
    go_on(raw, max(stays, default=None), **options)
    with raw.reader(**options) as saver:
        saver.delete_thread("t")
    assert raw.snapshot() == ({}, {})


def go_on(raw, newest, **options):
    """The thread continues from where it is now."""
    if newest is None:
        return
    with raw.reader(**options) as saver:
        state = saver.get_tuple(cfg(newest)).checkpoint["channel_values"] | {"goes": "on"}
        put(saver, 50, state, parent=newest)
    with raw.reader(**options) as saver:
        latest = saver.get_tuple(cfg())
        assert (number(latest), latest.checkpoint["channel_values"]) == (50, state)
        assert "recovered_from" not in latest.metadata


# A value is restored


@pytest.fixture
def filled(raw, saver):
    fill(saver)
    saver.close()
    return raw


def line(saver, values, *, writes=None, thread="t"):
    """A line of checkpoints of one channel, beside one that stays; writes lead from each to the next."""
    for n, value in enumerate(values, 1):
        state = {"v": value, "kept": ["kept"]}
        put(saver, n, state, parent=n - 1 or None, changed={"v"} if n > 1 else None, thread=thread)
        if writes is not None and n < len(values):
            saver.put_writes(cfg(n, thread=thread), [("v", write) for write in writes[n - 1]], f"task {n}")


WORDS = [" ".join(f"word {k * 7919 % 1000}" for k in range(count)) for count in (60, 70, 80, 90, 100, 110)]
"""So many that the last one does not build on the others' increments."""

ITEMS = [{f"key {k}": noise(40, k) for k in range(count)} for count in (20, 22, 24, 26)]
LISTS = [chat(n) for n in (3, 4, 5, 30)]
"""The last one is so much longer that it begins a chain of its own."""
RANDOM = [[noise(400, (k, n)) for n in range(3)] for k in range(4)]
"""Values of which none begins as another does."""

MESSAGES = [HumanMessage("hello " * 20, id="a"), AIMessage("hi " * 30, id="b"), HumanMessage("and? " * 40, id="c")]


RECOVERED = {
    # The versions, the writes between them, which is damaged (and which frame of it), options of the writer.
    "a list's base": (LISTS, None, 1, 0, {}),
    "a list's increment": (LISTS, None, 2, -1, {}),
    "a text's base": (WORDS, None, 1, 0, {}),
    "a text's increment": (WORDS, None, 3, -1, {}),
    "a mapping's base": (ITEMS, None, 1, 0, {"incremental": False}),
    "bytes": ([noise(600)[: 300 + 100 * k] for k in range(3)], None, 2, 0, {"incremental": False}),
    "an object": (LISTS, None, 2, -1, {"inline_max_bytes": 0}),
    "an object that is not incremental": (LISTS, None, 2, 0, {"inline_max_bytes": 0, "incremental": False}),
    "an encrypted value": (LISTS, None, 2, -1, {"cipher": Eax("key")}),
    "a value that came back": ([RANDOM[0], RANDOM[1], RANDOM[0]], None, 1, 0, {"incremental": False}),
    "a value that a task wrote": (RANDOM, [[one] for one in RANDOM[1:]], 4, 0, {"incremental": False}),
    "a sum": (
        [["first"] * 90, ["first"] * 90 + [noise(300, 1), noise(300, 2)]],
        [[[noise(300, 1)], [noise(300, 2)]]],
        2,
        0,
        {"incremental": False},
    ),
    "a union": (
        [{"a": noise(300)}, {"a": noise(300), "b": noise(99, 1)}],
        [[{"b": noise(99, 1)}]],
        2,
        0,
        {"incremental": False},
    ),
    "messages": (
        [MESSAGES[:2], [HumanMessage("changed " * 30, id="a"), *MESSAGES[1:]]],
        [[[HumanMessage("changed " * 30, id="a")], [MESSAGES[2]]]],
        2,
        0,
        {"incremental": False},
    ),
}


@pytest.mark.parametrize("what", RECOVERED)
@MORE
def test_a_value_is_had_again(store_uri, raw, what):
    values, writes, n, frame, options = RECOVERED[what]
    with GCSSaver.from_conn_string(store_uri, **options) as saver:
        line(saver, values, writes=writes)
    options = {key: value for key, value in options.items() if key == "cipher"}
    before = read_all(raw, **options)
    if options:
        with raw.reader(**options) as saver:
            place = refs(saver, n)["v"].chain[frame]
        flip_field(raw, name_of(number_of(place.owner or cid(n))), "frames", place.at + place.stored // 2)
    else:
        flip_frame(raw, n, "v", frame)
    (plan,) = repaired(raw, dry_run=True, **options)
    assert {one.action for one in plan.steps} == {"re-encode"}
    check_repair(raw, before, stays=range(1, len(values) + 1), **options)


@MORE
def test_packed_frames_are_had_again(raw, saver):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "INNER_BYTES", 0)
        line(saver, LISTS)
    before = read_all(raw)
    name = object_of(raw, f"/{keys.enc(cid(2))}/~frames-")
    raw.delete_object(name)
    check_repair(raw, before, stays=[1, 2, 3, 4])


@MORE
def test_a_document_that_others_need_frames_of(raw, saver):
    """The document is missing. Values of its frames are restored if they equal a later value, or its beginning."""
    line(saver, LISTS)
    before = read_all(raw)
    raw.delete_document(name_of(2))
    check_repair(raw, before, stays=[1, 3, 4])


@MORE
def test_what_is_had_again_is_not_uploaded_for_each_checkpoint(raw, saver):
    line(saver, LISTS)
    flip_frame(raw, 1, "v", 0)
    before = raw.counts().get("objects", 0)
    repaired(raw)
    assert raw.counts()["objects"] == before + 1


@MORE
def test_two_damages_of_one_chain(raw, saver):
    """The second shows only when the first is repaired."""
    line(saver, LISTS)
    before = read_all(raw)
    flip_frame(raw, 1, "v", 0)
    flip_frame(raw, 3, "v")
    check_repair(raw, before, stays=[1, 2, 3, 4])


@MORE
def test_a_value_made_of_one_that_was_lost_too(make_saver, raw):
    """The second value is rebuilt from the first, once that is restored."""
    first, second, third = RANDOM[0], noise(300, "x"), noise(300, "y")
    values = [first, [*first, second], [*first, second, third]]
    line(make_saver(incremental=False), values, writes=[[[second]], [[third]]])
    before = read_all(raw)
    flip_frame(raw, 2, "v")
    flip_frame(raw, 3, "v")
    check_repair(raw, before, stays=[1, 2, 3])


# A checkpoint is set aside


def test_a_value_that_is_nowhere_else(make_saver, raw):
    line(make_saver(incremental=False), RANDOM)
    before = read_all(raw)
    flip_frame(raw, 4, "v")
    check_repair(raw, before, stays=[1, 2, 3], put_away=[name_of(4)])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_damaged_manifest(filled, raw, n):
    before = read_all(raw)
    flip_field(raw, name_of(n), "manifest")
    check_repair(raw, before, stays={1, 2, 3} - {n}, put_away=[name_of(n)])


def test_the_only_manifest(raw, saver):
    """Nothing brings it back: the thread stays as it is, and says so, until it is deleted."""
    put(saver, 1, {"a": noise(300)}, metadata={"run_id": "run"})
    before = read_all(raw)
    flip_field(raw, name_of(1), "manifest")
    check_repair(raw, before, stays=[], put_away=[name_of(1)], left=["missing"])


@MORE
def test_the_only_manifest_does_not_look_like_a_new_thread(raw, saver):
    put(saver, 1, {"a": noise(300)})
    flip_field(raw, name_of(1), "manifest")
    repaired(raw)
    with raw.reader() as reader, pytest.raises(DamageError):
        reader.get_tuple(cfg())


@pytest.mark.parametrize("how", ["gone", "flipped"])
@MORE
def test_a_manifest_in_an_object(raw, saver, how):
    fill(saver, PAYLOAD_BYTES=0)
    before = read_all(raw)
    part = f"/~/{keys.enc(cid(2))}/~manifest-"
    if how == "gone":
        raw.delete_object(object_of(raw, part))
    else:
        raw.set_object(*flipped_object(raw, part))
    check_repair(raw, before, stays=[1, 3], put_away=[name_of(2)])


@MORE
def test_several_manifests(filled, raw):
    """Frames that no checkpoint needs any more are no longer listed."""
    before = read_all(raw)
    for n in (1, 2):
        flip_field(raw, name_of(n), "manifest")
    check_repair(raw, before, stays=[3], put_away=[name_of(1), name_of(2)])


@MORE
def test_a_manifest_and_a_value(raw, saver):
    line(saver, LISTS)
    before = read_all(raw)
    flip_field(raw, name_of(3), "manifest")
    flip_frame(raw, 1, "v")
    check_repair(raw, before, stays=[1, 2, 4], put_away=[name_of(3)])


@MORE
def test_a_base_of_all(filled, raw):
    """Every version builds on it, and it is nowhere else: nothing can be read, but the namespace that has its own."""
    before = read_all(raw)
    flip_frame(raw, 1, "chat")
    assert {len(one.affects) for one in damages(raw)} == {3}
    check_repair(raw, before, stays=[], put_away=[name_of(1), name_of(2), name_of(3)], left=["missing"])


def test_the_newest_is_gone(filled, raw):
    before = read_all(raw)
    raw.delete_document(name_of(3))
    assert read_latest(raw).metadata["recovered_from"] == cid(3)
    (plan,) = repaired(raw, dry_run=True)
    assert actions(plan) == [("forget", 2, None)]
    check_repair(raw, before, stays=[1, 2])


def read_latest(raw):
    with raw.reader() as saver:
        return saver.get_tuple(cfg())


@pytest.mark.parametrize("kind", ["regular", "special"])
@MORE
def test_pending_writes_of_the_newest(filled, raw, saver, kind):
    """They are forgotten, and the task runs again."""
    with raw.reader() as writer:
        writer.put_writes(cfg(3), [("chat", ["x"])], "task 2")
        writer.put_writes(cfg(3), [("chat", ["y"])], "task 3")
    before = read_all(raw)
    name = writes_of_task(raw, 3, "task 2", kind)
    flip_field(raw, name, "writes" if kind == "regular" else "w3")
    newest = before["", cid(3)]
    lost = {"regular": ("task 2", "chat", ["x"]), "special": ("task 2", "__interrupt__", ["asked"])}[kind]
    before["", cid(3)] = newest._replace(pending_writes=[one for one in newest.pending_writes if one != lost])
    assert len(before["", cid(3)].pending_writes) == 2
    check_repair(raw, before, stays=[1, 2, 3], put_away=[name])


def writes_of_task(raw, n, task, kind):
    (name,) = (
        name
        for name in raw.documents()
        if "/lg_writes/" in name
        and keys.writes_checkpoint_id_of(name) == cid(n)
        and keys.writes_task_id_of(name) == task
        and name.endswith("!s") is (kind == "special")
    )
    return name


@pytest.mark.parametrize("how", ["document", "object"])
@MORE
def test_pending_writes_with_later_checkpoints(filled, raw, how):
    before = read_all(raw)
    n = 1 if how == "document" else 2
    name = writes_of(raw, n, "regular")
    if how == "document":
        flip_field(raw, name, "writes")
    else:
        raw.delete_object(object_of(raw, "/~writes-"))
    before["", cid(n)] = before["", cid(n)]._replace(pending_writes=[])
    check_repair(raw, before, stays=[1, 2, 3], put_away=[name])


def test_what_is_set_aside_twice_is_kept_twice(raw, saver):
    """Pending writes of the same name are damaged once more: the first damaged version stays as it was."""
    put(saver, 1, {"v": 1})
    kept = []
    for question in ("the first", "the second"):
        saver.put_writes(cfg(1), [("__interrupt__", question)], "task")
        (name,) = (name for name in raw.documents() if name.endswith("!s"))
        flip_field(raw, name, "w3")
        kept.append(raw.documents()[name])
        repaired(raw)
        own = [{k: v for k, v in fields.items() if k not in {"from", "reason"}} for fields in aside(raw).values()]
        assert sorted(own, key=lambda fields: fields["w3"]) == sorted(kept, key=lambda fields: fields["w3"])
        assert {fields["from"] for fields in aside(raw).values()} == {name}
    assert damages(raw) == []


# Hints


def test_hints(filled, raw):
    """Afterwards queries find what they did before."""
    before = read_all(raw)
    fields = raw.documents()[name_of(1)]
    raw.set_document(name_of(1), {**fields, "filter": {"user": "somebody"}, "run_id": "another run"})
    raw.delete_document(keys.run_doc("run 2", "t"))
    raw.delete_document(keys.thread_doc("t"))
    damaged = raw.snapshot()
    repaired(raw, dry_run=True)
    assert raw.snapshot() == damaged
    repaired(raw)
    documents = raw.documents()
    assert documents[name_of(1)] == fields
    assert documents[keys.thread_doc("t")]["thread_id"] == "t"
    assert documents[keys.thread_doc("t")]["root"] is True
    assert {name for name in documents if name.startswith("lg_runs/")} == {
        keys.run_doc("run 1", "t"),
        keys.run_doc("run 2", "t"),
    }
    with raw.reader() as saver:
        assert [number(one) for one in saver.list(cfg(), filter={"user": "ada"})] == [1]
        assert [number(one) for one in saver.list(cfg(), filter={"run_id": "run 1"})] == [1]
    assert damages(raw) == []
    assert read_all(raw) == before
    assert repaired(raw) == []
    with raw.reader() as saver:
        saver.delete_thread("t")
    assert raw.snapshot() == ({}, {})


@MORE
def test_a_missing_filter_and_run(filled, raw):
    before = raw.documents()[name_of(1)]
    raw.set_document(name_of(1), {key: value for key, value in before.items() if key not in {"filter", "run_id"}})
    repaired(raw)
    assert raw.documents()[name_of(1)] == before
    assert damages(raw) == []


def test_only_pending_writes(raw, saver):
    saver.put_writes(cfg(1), [("a", 1)], "task")
    (name,) = raw.documents()
    flip_field(raw, name, "writes")
    repaired(raw)
    assert damages(raw) == []
    assert [fields["from"] for fields in aside(raw).values()] == [name]
    with raw.reader() as reader:
        reader.delete_thread("t")
    assert raw.snapshot() == ({}, {})


# Everything, and nothing


def test_all_threads(raw, saver):
    for thread in "abc":
        line(saver, LISTS, thread=thread)
    line(saver, LISTS)
    flip_frame(raw, 2, "v")
    flip_field(raw, name_of(4, thread="b"), "manifest")
    whole = {name: fields for name, fields in raw.documents().items() if "-a/" in name or "-c/" in name}
    with raw.reader() as reader:
        plans = reader.admin.repair()
    assert sorted(plan.thread_id for plan in plans) == ["b", "t"]
    assert found_at(raw, "data", None) == [one for one in found_at(raw, "data", None) if not one.is_damage]
    documents = raw.documents()
    assert {name: documents.get(name) for name in whole} == whole


@MORE
def test_nothing_to_do(filled, raw, capsys):
    before = raw.snapshot()
    with raw.reader() as saver:
        assert list(saver.admin.repair()) == []
        assert list(saver.admin.repair("nobody")) == []
    assert raw.snapshot() == before
    assert capsys.readouterr().out == ""


@MORE
def test_what_is_shown(raw, saver, capsys):
    line(saver, LISTS)
    flip_frame(raw, 1, "v")
    with raw.reader() as reader:
        (plan,) = reader.admin.plan_repair()
    assert capsys.readouterr() == ("", "")
    out = str(plan)
    assert "found corrupt" in out
    assert "re-encode" in out
    assert "'v'" in out


def test_the_asynchronous_twin(raw, saver):
    line(saver, LISTS)
    before = read_all(raw)
    flip_frame(raw, 1, "v")
    flip_field(raw, name_of(3), "manifest")

    async def plan():
        async with raw.reader() as reader:
            return [one async for one in reader.admin.plan_repair("t")]

    async def arepair():
        async with raw.reader() as reader:
            return await reader.admin.arepair("t")

    damaged = raw.snapshot()
    planned = asyncio.run(plan())
    assert raw.snapshot() == damaged
    done = asyncio.run(arepair())
    assert done[0].steps[: len(planned[0].steps)] == planned[0].steps
    assert damages(raw) == []
    assert read_all(raw) == {ids: one for ids, one in before.items() if ids != ("", cid(3))}


# Crashes


def build(saver):
    """A thread of four checkpoints, and a fifth that cannot be restored."""
    line(saver, LISTS, writes=[[["x"]], [["y"]], [["z"]]])
    state = {"v": chat(6), "kept": ["kept"], "new": noise(900)}
    put(saver, 5, state, parent=4, changed={"new"}, metadata={"run_id": "run 1"})
    put(saver, 2, {"inner": noise(300)}, ns="child")


def ruin(raw):
    """Damage of every kind in that thread."""
    flip_frame(raw, 1, "v")
    flip_frame(raw, 5, "new")
    flip_field(raw, name_of(3), "manifest")
    flip_field(raw, writes_of(raw, 1, "regular"), "writes")
    fields = raw.documents()[name_of(2)]
    raw.set_document(name_of(2), {**fields, "filter": {"source": "other"}})
    raw.delete_document(keys.run_doc("run 1", "t"))
    raw.delete_document(keys.thread_doc("t"))


def state_of(raw):
    """What matters of a store after a repair: what is read, what is aside, and which documents there are.

    Each repair that changes something leaves a record of its own.
    """
    put_aside = sorted(
        (fields["from"], sorted((key, value) for key, value in fields.items() if key != "reason"))
        for fields in aside(raw).values()
    )
    others = {name for name in raw.documents().keys() - aside(raw).keys() if f"/{keys.RECOVERIES}/" not in name}
    return read_all(raw), put_aside, others


@MORE
def test_a_crash_anywhere(raw, saver, store_uri):
    """The call crashes after each of its effects in turn, and is repeated."""
    build(saver)
    whole = {ids: one._replace(pending_writes=None) for ids, one in read_all(raw).items()}
    ruin(raw)
    damaged = raw.snapshot()
    repaired(raw)
    right = state_of(raw)
    assert {number_of(checkpoint_id) for ns, checkpoint_id in right[0] if not ns} == {1, 2, 4}
    assert damages(raw) == []
    stop, done = 0, False
    while not done:
        restore(raw, damaged)
        with CrashingSaver.from_conn_string(store_uri) as dying:
            dying.plan = Plan(stop)
            try:
                dying.admin.repair("t")
            except Crashed:
                done = False
            else:
                done = True
            effects = dying.plan.done
        if not done and effects and isinstance(effects[-1], READS):
            stop += 1
            continue  # It left the store as the effect before it did.
        readable = read_all(raw)
        assert all(one._replace(pending_writes=None) == whole[ids] for ids, one in readable.items()), stop
        repaired(raw)
        assert damages(raw) == [], stop
        assert state_of(raw) == right, stop
        stop += 1
    assert stop > 10


def restore(raw, snapshot):
    """Bring a store back to what it was."""
    documents, objects = snapshot
    for name in raw.documents().keys() - documents.keys():
        raw.delete_document(name)
    for name in raw.object_sizes().keys() - objects.keys():
        raw.delete_object(name)
    for name, fields in documents.items():
        raw.set_document(name, fields)
    for name, data in objects.items():
        raw.set_object(name, data)


# Others at work


@pytest.mark.parametrize("at", range(6))
@MORE
def test_a_put_between_plan_and_commit(raw, at):
    """A child of the newest, by a process that has all in its caches."""
    with raw.reader() as writer:
        build(writer)
        ruin(raw)
        state = {"v": chat(7), "kept": ["kept"], "new": noise(901)}

        def meanwhile():
            put(writer, 6, state, parent=5, changed={"v", "new"})

        other = Meanwhile(Commit, meanwhile, at)
        with raw.reader(interceptors=[other]) as saver:
            saver.admin.repair("t")
    assert damages(raw) == []
    if other.is_done:
        assert read_all(raw)["", cid(6)].checkpoint["channel_values"] == state
        assert number(read_latest(raw)) == 6


@pytest.mark.parametrize("at", range(6))
@MORE
def test_a_child_of_one_that_is_set_aside(make_saver, raw, at):
    """Nothing is removed while a document that inherits from it can still get a child."""
    with raw.reader() as writer:
        line(writer, LISTS)
        for n in (2, 3, 4):
            flip_field(raw, name_of(n), "manifest")

        def meanwhile():
            put(writer, 5, {"v": chat(9), "kept": ["kept"]}, parent=4, changed={"v"})

        other = Meanwhile(Commit, meanwhile, at)
        with raw.reader(interceptors=[other]) as saver:
            saver.admin.repair("t")
    assert damages(raw) == []
    if other.is_done:
        assert read_all(raw)["", cid(5)].checkpoint["channel_values"] == {"v": chat(9), "kept": ["kept"]}


@pytest.mark.parametrize("kind", [Commit, PutBlob])
@pytest.mark.parametrize("at", range(4))
@MORE
def test_a_deletion_between_plan_and_commit(raw, saver, kind, at):
    """A thread that was deleted meanwhile does not come back, not even its own document."""
    build(saver)
    ruin(raw)

    def meanwhile():
        with raw.reader() as other:
            other.delete_thread("t")

    other = Meanwhile(kind, meanwhile, at)
    with raw.reader(interceptors=[other]) as reader:
        reader.admin.repair("t")
    if other.is_done:
        assert raw.documents() == {}
        with raw.reader() as reader:
            assert reader.get_tuple(cfg()) is None
    else:
        assert damages(raw) == []


class FlippingOnce(Interceptor):
    """Flips the first answer for each document's manifest, as a bad wire would."""

    def __init__(self):
        self.seen = set()

    def around(self, effect, perform):
        result = perform(effect)
        docs = result.values() if isinstance(result, dict) else result if isinstance(result, list) else ()
        for doc in docs:
            value = getattr(doc, "fields", {}).get("manifest")
            if value and doc.name not in self.seen:
                self.seen.add(doc.name)
                doc.fields["manifest"] = flip(value)
        return result


def test_what_is_read_wrongly_once_is_not_set_aside(filled, raw):
    before = raw.snapshot()
    flipping = FlippingOnce()
    with raw.reader(interceptors=[flipping]) as saver:
        saver.admin.repair("t")
    assert len(flipping.seen) == 4
    assert raw.snapshot() == before


# LangGraph resumes


class Sum(TypedDict, total=False):
    log: Annotated[list, operator.add]
    n: int


class Talk(TypedDict, total=False):
    messages: Annotated[list, add_messages]
    n: int


def summing(saver):
    def step(state):
        return {"log": [f"{state['n']}: " + "text " * 50], "n": state["n"] + 1}

    return loop(StateGraph(Sum).add_node("step", step), saver)


def talking(saver):
    def step(state):
        n = state["n"]
        return {"messages": [AIMessage(f"{n} " * 60, id=f"m{n}")], "n": n + 1}

    return loop(StateGraph(Talk).add_node("step", step), saver)


def loop(builder, saver):
    """A graph that runs its node until `n` is 6."""
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["n"] < 6 else "__end__")
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("make", [summing, talking])
@pytest.mark.parametrize("what", ["newest", "middle", "frames", "writes"])
@MORE
def test_a_graph_goes_on(store_uri, raw, make, what):
    config = {"configurable": {"thread_id": "t"}}
    with GCSSaver.from_conn_string(store_uri) as saver:
        end = make(saver).invoke({"n": 0}, config, durability="sync")
    before = read_all(raw)
    names = sorted(name for name in raw.documents() if "/lg_checkpoints/" in name)  # newest first
    if what == "newest":
        flip_field(raw, names[0], "manifest")
    elif what == "middle":
        flip_field(raw, names[3], "manifest")
    elif what == "frames":
        flip_field(raw, names[2], "frames")
    else:
        (name,) = (
            name
            for name in raw.documents()
            if "/lg_writes/" in name
            and keys.writes_checkpoint_id_of(name) == keys.checkpoint_id_of(names[1])
            and not name.endswith("!s")
        )
        flip_field(raw, name, "writes")
        # The task whose writes are lost runs again from there.
        flip_field(raw, names[0], "manifest")
    repaired(raw)
    assert damages(raw) == []
    found = read_all(raw)
    for ids, one in found.items():
        assert one._replace(pending_writes=None) == before[ids]._replace(pending_writes=None)
    with GCSSaver.from_conn_string(store_uri) as saver:
        graph = make(saver)
        graph.invoke(None, config)
        assert graph.get_state(config).values == end
        assert "recovered_from" not in graph.get_state(config).metadata
        assert next(graph.get_state_history(config)).values == end


# DeltaChannels


def concatenated(state, writes):
    """A reducer of one's own, which `repair` cannot know."""
    return [*state, *(item.upper() for write in writes for item in write)]


class Delta(TypedDict, total=False):
    log: Annotated[list, DeltaChannel(concatenated, list, snapshot_frequency=3)]
    n: int


def delta(saver, last=10, state=Delta):
    """A graph that runs its node until `n` is `last`."""

    def step(state):
        n = state["n"]
        return {"log": [f"item {n} " + "x" * 400], "n": n + 1}

    builder = StateGraph(state).add_node("step", step).add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: "step" if state["n"] < last else "__end__")
    return builder.compile(checkpointer=saver)


DELTA = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def delta_thread(store_uri, raw):
    with GCSSaver.from_conn_string(store_uri, incremental=False) as saver:
        delta(saver).invoke({"n": 0, "log": ["input " + "y" * 400]}, DELTA, durability="sync")
    return raw


def delta_states(raw, make=delta):
    """The state at each checkpoint, as LangGraph rebuilds it, or the error."""
    found = {}
    with raw.reader() as saver:
        graph = make(saver)
        for one in saver.list(cfg()):
            checkpoint_id = one.config["configurable"]["checkpoint_id"]
            try:
                found[checkpoint_id] = graph.get_state(one.config).values
            except DamageError as error:
                found[checkpoint_id] = type(error)
    return found


def snapshots(raw):
    """Ids of the checkpoints that have a snapshot, oldest first."""
    found = read_all(raw)
    return sorted(one.checkpoint["id"] for one in found.values() if "log" in one.checkpoint["channel_values"])


def spoil(raw, checkpoint_id, channel="log"):
    with raw.reader() as saver:
        frame = refs(saver, checkpoint_id)[channel].chain[-1]
    assert frame.owner is None
    flip_field(raw, keys.checkpoint_doc("t", "", checkpoint_id), "frames", frame.at + frame.stored // 2)


def never_wrong(raw, before, make=delta):
    after = delta_states(raw, make)
    for checkpoint_id, state in after.items():
        assert state in (before[checkpoint_id], CheckpointCorruptError), checkpoint_id
    return after


def test_a_snapshot_is_had_again(delta_thread, raw):
    """A later one begins with it, whatever the reducer."""
    before = delta_states(raw)
    _, second, *_ = snapshots(raw)
    spoil(raw, second)
    assert CheckpointCorruptError in delta_states(raw).values() or len(delta_states(raw)) < len(before)
    (plan,) = repaired(raw)
    assert [(one.action, one.channel) for one in plan.steps] == [("re-encode", "log")]
    assert damages(raw) == []
    assert delta_states(raw) == before
    assert not aside(raw)
    with raw.reader() as saver:
        graph = delta(saver, 12)
        graph.update_state(DELTA, {"n": 10}, as_node="step")
        end = graph.invoke(None, DELTA)
        assert len(end["log"]) == len(max(before.values(), key=lambda state: len(state.get("log", [])))["log"]) + 2


@MORE
def test_two_snapshots_are_had_again(delta_thread, raw):
    before = delta_states(raw)
    for one in snapshots(raw)[:2]:
        spoil(raw, one)
    repaired(raw)
    assert damages(raw) == []
    assert delta_states(raw) == before


def joined(state, writes):
    return [*state, *(item for write in writes for item in write)]


def listed(state, writes):
    return [*state, *writes]


def united(state, writes):
    return dict(state, **{key: value for write in writes for key, value in write.items()})


def numbered(state):
    return {"log": {f"key {state['n']}": "x" * 400}, "n": state["n"] + 1}


def said(state):
    return {"log": [HumanMessage("x" * 400, id=f"message {state['n'] % 7}")], "n": state["n"] + 1}


KNOWN = {
    # The reducer, the type of the channel, what begins it, and what a node writes.
    "items": (joined, list, ["input " + "y" * 400], lambda state: {"log": [f"item {state['n']}"], "n": state["n"] + 1}),
    "writes": (listed, list, "input " + "y" * 400, lambda state: {"log": f"item {state['n']}", "n": state["n"] + 1}),
    "keys": (united, dict, {"input": "y" * 400}, numbered),
    "messages": (_messages_delta_reducer, list, [HumanMessage("y" * 400, id="input")], said),
}


@pytest.mark.parametrize("serde", [None, PortableSerializer()], ids=["objects", "no objects"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
@MORE
def test_the_newest_snapshots_are_made_of_the_writes(store_uri, raw, known, count, serde):
    """No other value begins with them, and `repair` can recognize the reducer."""
    reducer, kind, first, step = known

    class State(TypedDict, total=False):
        log: Annotated[kind, DeltaChannel(reducer, kind, snapshot_frequency=3)]
        n: int

    def make(saver):
        builder = StateGraph(State).add_node("step", step).add_edge(START, "step")
        builder.add_conditional_edges("step", lambda state: "step" if state["n"] < 10 else "__end__")
        return builder.compile(checkpointer=saver)

    with GCSSaver.from_conn_string(store_uri, incremental=False) as saver:
        make(saver).invoke({"n": 0, "log": first}, DELTA, durability="sync")
    before = delta_states(raw, make)
    for one in snapshots(raw)[-count:]:
        spoil(raw, one)
    shown = repaired(raw, **({} if serde is None else {"serde": serde}))
    assert {one.action for plan in shown for one in plan.steps} == {"re-encode"}
    assert damages(raw) == []
    assert delta_states(raw, make) == before


@MORE
def test_a_snapshot_of_a_channel_that_was_never_written_before(store_uri, raw):
    """It is made of nothing but writes."""

    class State(TypedDict, total=False):
        log: Annotated[list, DeltaChannel(joined, list, snapshot_frequency=3)]
        n: int

    make = partial(delta, last=3, state=State)
    with GCSSaver.from_conn_string(store_uri, incremental=False) as saver:
        make(saver).invoke({"n": 0}, DELTA, durability="sync")
    before = delta_states(raw, make)
    (only,) = snapshots(raw)
    spoil(raw, only)
    (plan,) = repaired(raw)
    assert [one.action for one in plan.steps] == ["re-encode"]
    assert delta_states(raw, make) == before


@MORE
def test_the_newest_snapshot_with_a_reducer_of_ones_own(delta_thread, raw):
    """Nothing proves what LangGraph would make of the writes."""
    before = delta_states(raw)
    newest = snapshots(raw)[-1]
    spoil(raw, newest)
    shown = repaired(raw)
    assert {one.action for plan in shown for one in plan.steps} <= {"set aside", "leave"}
    after = never_wrong(raw, before)
    assert after.get(newest) in (None, CheckpointCorruptError)


@pytest.mark.parametrize("count", [1, 2])
@MORE
def test_the_first_snapshot(store_uri, raw, count):
    """What begins a thread is in its first snapshot alone: no checkpoint was there to keep its writes."""
    with GCSSaver.from_conn_string(store_uri, incremental=False) as saver:
        graph = delta(saver)
        graph.update_state(DELTA, {"n": 0, "log": ["first " + "y" * 400]}, as_node="step")
        graph.invoke(None, DELTA, durability="sync")
    before = delta_states(raw)
    for one in snapshots(raw)[:count]:
        spoil(raw, one)
    repaired(raw)
    never_wrong(raw, before)


@MORE
def test_a_snapshot_whose_writes_are_damaged(delta_thread, raw):
    before = delta_states(raw)
    third = snapshots(raw)[2]
    parent = read_all(raw)["", third].parent_config["configurable"]["checkpoint_id"]
    spoil(raw, third)
    (name,) = (
        name
        for name in raw.documents()
        if "/lg_writes/" in name and keys.writes_checkpoint_id_of(name) == parent and not name.endswith("!s")
    )
    flip_field(raw, name, "writes")
    repaired(raw)
    never_wrong(raw, before)


@MORE
def test_a_snapshot_whose_writes_are_gone(delta_thread, raw):
    """The versions show that there were some."""
    before = delta_states(raw)
    third = snapshots(raw)[2]
    parent = read_all(raw)["", third].parent_config["configurable"]["checkpoint_id"]
    spoil(raw, third)
    for name in raw.documents():
        if "/lg_writes/" in name and keys.writes_checkpoint_id_of(name) == parent:
            raw.delete_document(name)
    repaired(raw)
    after = delta_states(raw)
    # For a checkpoint that never had a snapshot, this cannot be known.
    assert after.get(third) in (before[third], CheckpointCorruptError, None)


@pytest.mark.parametrize("cipher", [None, Eax("k")], ids=["clear", "encrypted"])
@pytest.mark.parametrize("how", ["damaged", "deleted"])
@MORE
def test_writes_behind_a_gap(store_uri, raw, how, cipher):
    """The parent of a damaged or missing checkpoint is unknown, and the checkpoint may come back from a backup."""

    def states():
        with GCSSaver.from_conn_string(store_uri, cipher=cipher) as saver:
            try:
                return delta(saver).get_state(DELTA).values
            except CheckpointCorruptError as error:
                return type(error)

    class Rare(TypedDict, total=False):
        log: Annotated[list, DeltaChannel(concatenated, list, snapshot_frequency=50)]
        n: int

    with GCSSaver.from_conn_string(store_uri, cipher=cipher) as saver:
        delta(saver, 6, Rare).invoke({"n": 0, "log": ["input"]}, DELTA, durability="sync")
        ids = [one.config["configurable"]["checkpoint_id"] for one in saver.list(cfg())]
    before, whole = states(), raw.documents()
    first, second = ids[3], keys.checkpoint_doc("t", "", ids[2])
    damaged = [name for name in whole if "/lg_writes/" in name and keys.writes_checkpoint_id_of(name) == first]
    for name in damaged:
        flip_field(raw, name, "writes")
    if how == "damaged":
        flip_field(raw, second, "manifest")
    else:
        raw.delete_document(second)
    plans = repaired(raw, cipher=cipher)
    assert {one.action for plan in plans for one in plan.steps} == {"leave"}
    raw.set_document(second, whole[second])
    assert states() is CheckpointCorruptError, "never a shorter log without a word"
    assert {one.name for one in damages(raw, cipher=cipher)} == set(damaged)
    for name in damaged:
        raw.set_document(name, whole[name])
    assert states() == before
    assert damages(raw, cipher=cipher) == []


@MORE
def test_a_child_of_one_whose_writes_are_set_aside(delta_thread, raw):
    """A graph continues between plan and commit: its new checkpoint is made of what has just been damaged."""
    with raw.reader() as writer:
        graph = delta(writer, 20)
        config = graph.update_state(DELTA, {"n": 10}, as_node="__start__")
        newest = writer.get_tuple(config)
        writer.put_writes(newest.config, [("log", ["one more"])], "a task")
        (name,) = (n for n in raw.documents() if "/lg_writes/" in n and keys.writes_task_id_of(n) == "a task")
        whole = raw.documents()[name]
        flip_field(raw, name, "writes")
        child = []

        def meanwhile():
            versions = {**newest.checkpoint["channel_versions"], "n": "9" * 32 + ".0.5"}
            grown = {**newest.checkpoint, "id": "1ffff000-0000-6000-8000-000000000001", "channel_versions": versions}
            grown["channel_values"] = {k: v for k, v in grown["channel_values"].items() if k != "log"}
            child.append(writer.put(newest.config, grown, newest.metadata, {"n": versions["n"]}))

        other = Meanwhile(Commit, meanwhile)
        with raw.reader(interceptors=[other]) as saver:
            (plan,) = saver.admin.repair("t")
        assert other.is_done
        assert [one.action for one in plan.steps] == ["set aside", "leave"]
        assert not aside(raw)
        with raw.reader() as reader, pytest.raises(CheckpointCorruptError):
            reader.get_delta_channel_history(config=child[0], channels=["log"])
        raw.set_document(name, whole)
        with raw.reader() as reader:
            history = reader.get_delta_channel_history(config=child[0], channels=["log"])["log"]
        assert history["writes"][-1] == ("a task", "log", ["one more"])


@pytest.mark.parametrize("back", [1, 2])
@MORE
def test_an_ancestor_that_a_delta_channel_needs(delta_thread, raw, back):
    """Its manifest is damaged. Values that are made of its writes must not become shorter silently."""
    before = delta_states(raw)
    found = read_all(raw)
    third = snapshots(raw)[2]
    needed = third
    for _ in range(back):
        needed = found["", needed].parent_config["configurable"]["checkpoint_id"]
    spoil(raw, third)
    flip_field(raw, keys.checkpoint_doc("t", "", needed), "manifest")
    repaired(raw)
    never_wrong(raw, before)


@MORE
def test_a_forks_snapshot(store_uri, raw):
    """The writes of the parent are the other child's: replayed they would give that one's value."""
    with GCSSaver.from_conn_string(store_uri, incremental=False) as saver:
        graph = delta(saver)
        graph.invoke({"n": 0, "log": ["input " + "y" * 400]}, DELTA, durability="sync")
        states = list(graph.get_state_history(DELTA))
        start = next(one for one in states if one.values["n"] == 8)
        fork = graph.update_state(start.config, {"log": ["forked"], "n": 8}, as_node="step")
    before = delta_states(raw)
    forked = fork["configurable"]["checkpoint_id"]
    assert forked in snapshots(raw)
    spoil(raw, forked)
    repaired(raw)
    never_wrong(raw, before)


@MORE
def test_a_snapshot_after_an_overwrite(store_uri, raw):
    """One write of a step replaced all others of it; replayed in turn they would give another value."""

    def first(state):
        return {"log": Overwrite(["over"])}

    def second(state):
        return {"log": ["beside " + "z" * 400]}

    def make(saver):
        builder = StateGraph(Delta).add_node("first", first).add_node("second", second)
        builder.add_edge(START, "first").add_edge(START, "second")
        return builder.compile(checkpointer=saver)

    with GCSSaver.from_conn_string(store_uri, incremental=False) as saver:
        make(saver).invoke({"n": 0, "log": ["input " + "y" * 400]}, DELTA, durability="sync")
        newest = saver.get_tuple(cfg()).checkpoint["id"]
        delta(saver).update_state(DELTA, {"log": ["after"]}, as_node="step")
    before = delta_states(raw)
    assert before[newest]["log"] == ["over"]
    assert newest in snapshots(raw)
    spoil(raw, newest)
    repaired(raw)
    never_wrong(raw, before)


# What other checkpoints say of the same bytes


@MORE
@pytest.mark.parametrize("cipher", [None, Eax("the key")], ids=["no cipher", "cipher"])
@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["lost", "found elsewhere"])
def test_a_checkpoint_that_is_stored_again_does_not_suffer_from_its_child(make_saver, raw, cipher, is_elsewhere):
    """Frame 1 was lost, and was replaced by another in its place. Only checkpoint 2 still describes the old one."""
    make = partial(make_saver, cipher=cipher)
    with make() as saver:
        put(saver, 1, {"v": ["from before"]})
        put(saver, 2, {"v": ["from before"], "w": 1}, parent=1, changed=["w"])
        if is_elsewhere:
            put(saver, 3, {"v": ["from before"]})
    fields = raw.documents()[name_of(1)]
    raw.set_document(name_of(1), {key: value for key, value in fields.items() if key != "frames"})
    with make() as saver:
        put(saver, 1, {"v": ["the only copy"]})
    with make() as saver:
        saver.get_tuple(cfg(1))
        put(saver, 4, {"v": ["the only copy"], "w": 2}, parent=1, changed=["w"])
    before = read_all(raw, cipher=cipher)
    (finding,) = damages(raw, cipher=cipher)
    assert finding.affects == (cid(2),)
    (plan,) = repaired(raw, cipher=cipher)
    assert actions(plan) == [("re-encode" if is_elsewhere else "set aside", 2, "v")]
    after = read_all(raw, cipher=cipher)
    assert {ids: found for ids, found in after.items() if ids != ("", cid(2))} == before
    assert (("", cid(2)) in after) == is_elsewhere
    if is_elsewhere:
        assert after["", cid(2)].checkpoint["channel_values"] == {"v": ["from before"], "w": 1}


# Carrying out a plan


@MORE
def test_a_plan_is_not_carried_out_if_other_steps_are_needed_since(make_saver, raw):
    with make_saver() as saver:
        for n in (1, 2, 3):
            put(saver, n, {"v": [f"v{n}"]}, parent=n - 1 or None)
    flip_field(raw, name_of(1), "frames")
    (plan,) = repaired(raw, dry_run=True)
    assert actions(plan) == [("set aside", 1, "v")]
    flip_field(raw, name_of(3), "frames")
    before = raw.snapshot()
    with raw.reader() as saver, pytest.raises(ConflictError, match="Plan the repair again"):
        saver.admin.carry_out(plan)
    assert raw.snapshot() == before
    (plan,) = repaired(raw, dry_run=True)
    with raw.reader() as saver:
        assert actions(saver.admin.carry_out(plan)) == [("set aside", 3, "v"), ("set aside", 1, "v")]
        assert number(saver.get_tuple(cfg())) == 2
    assert damages(raw) == []


@MORE
def test_a_plan_that_is_no_longer_needed_changes_nothing(make_saver, raw):
    with make_saver() as saver:
        put(saver, 1, {"v": ["v1"]})
    whole = raw.documents()[name_of(1)]
    flip_field(raw, name_of(1), "frames")
    (plan,) = repaired(raw, dry_run=True)
    raw.set_document(name_of(1), whole)
    before = raw.snapshot()
    with raw.reader() as saver:
        assert saver.admin.carry_out(plan).steps == ()
    assert raw.snapshot() == before


@MORE
def test_a_plan_ends_before_the_damage_that_it_brings_to_light(make_saver, raw):
    """The damage of frame 2 shows only when frame 1, on which it builds, is whole."""
    lists = [[noise(2000, seed) for seed in range(n)] for n in (20, 21)]
    with make_saver() as saver:
        for root in (10, 0):
            put(saver, root + 1, {"v": lists[0]})
            put(saver, root + 2, {"v": lists[1]}, parent=root + 1)
    before = read_all(raw)
    for n in (2, 1):
        flip_frame(raw, n, "v")
    for user in (1, 2):
        (plan,) = repaired(raw, dry_run=True)
        assert actions(plan) == [("re-encode", user, "v")]
        with raw.reader() as saver:
            assert saver.admin.carry_out(plan).steps == plan.steps
    assert damages(raw) == []
    assert read_all(raw) == before
