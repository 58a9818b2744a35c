"""Pruning a thread: what stays reads exactly as before, nothing that only the rest needed is left, graphs resume."""

import operator
from datetime import timedelta
from itertools import count
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ConflictError,
    InvalidConfigError,
    InvalidInputError,
    InvalidOptionError,
)
from langgraph_gcs_saver.events import ThreadPruned
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepEvery, KeepLast
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import Api, cfg, checkpoint, cid, metadata, number
from tests.behaviour.harness import plain, relabel
from tests.kit.interceptors import BeforeRounds, Seen
from tests.stateful.threads import (
    LONG,
    LOST,
    MOSTLY_LOCAL,
    VARIANTS,
    check,
    everything,
    fill,
    noise,
    put,
    stored_as,
    told,
)
from tests.system.raw import open_raw


@pytest.fixture(params=["sync", "async"])
def mode(request):
    return request.param


@pytest.fixture
def raw(store_uri):
    opened = open_raw(store_uri)
    yield opened
    opened.close()


async def call(saver, mode, name, *args, **kwargs):
    return await Api(saver, mode)._call(name, *args, **kwargs)


LATEST = {("", 80), ("", 46), ("sub:2", 84), ("sub:2|deep:3", 85), ("lasting", 86), ("sub:4", 47)}
LATEST |= {("lasting", 56), ("lasting", 36)}
"""Of each namespace that has a root checkpoint left the latest, what waits for an answer, and what these build on."""

THREE = LATEST | {("", 70), ("", 60), ("sub:2", 83)}


def listed(raw, thread="t"):
    return {name for name, fields in raw.documents().items() if "manifest" in fields and keys.spread(thread) in name}


def writes_left(raw):
    return {keys.writes_checkpoint_id_of(name) for name in raw.documents() if "/lg_writes/" in name}


@pytest.mark.parametrize(
    ("strategy", "kept", "mode"),
    [("keep_latest", LATEST, "sync"), (KeepLast(3), THREE, "async")],
    ids=["keep_latest", "KeepLast(3)"],
)
@pytest.mark.parametrize("variant", VARIANTS)
@MOSTLY_LOCAL
async def test_what_stays(make_saver, raw, monkeypatch, variant, strategy, kept, mode):  # noqa: PLR0917
    with stored_as(variant, monkeypatch) as options, make_saver(**options) as saver:
        fill(saver)
        fill(saver, "t_b")
    with make_saver(**options) as saver:
        before = everything(saver)
    others = {name: fields for name, fields in raw.documents().items() if keys.spread("t_b") in name}
    events = []
    async with make_saver(**options, on_event=events.append) as saver:
        await call(saver, mode, "prune", ["t"], strategy=strategy)
        (pruned,) = (event for event in events if isinstance(event, ThreadPruned))
        assert pruned.checkpoints == len(before) - len(kept)
        gone = {key for key in before if key not in kept}
        assert [saver.get_tuple(cfg("t", *key)) for key in gone] == [None] * len(gone)
    check(make_saver, "t", {key: before[key] for key in kept}, **options)
    # What is left, read from the store itself.
    assert len(listed(raw)) == len(kept)
    documents = raw.documents()
    mine = {name: fields for name, fields in documents.items() if keys.spread("t") + "/" in name}
    stripped = {name: fields for name, fields in mine.items() if keys.CHECKPOINTS in name and "manifest" not in fields}
    assert [sorted(fields) for fields in stripped.values()] == [["frames"]] * len(stripped)
    assert bool(stripped) is (variant != "objects")
    pending = {keys.writes_checkpoint_id_of(name) for name in mine if keys.WRITES in name}
    assert pending == {cid(n) for n in (80, 46, 84, LOST)}
    runs = {
        name.split("/")[1][3:]
        for name in documents
        if name.startswith("lg_runs/") and keys.spread("t") == name.split("/")[3]
    }
    assert runs == {keys.enc(before[key][2]["run_id"]) for key in kept}
    assert {name: fields for name, fields in documents.items() if keys.spread("t_b") in name} == others
    with make_saver(**options) as saver:
        assert list(saver.admin.verify("t_b", depth="data")) == []
        # … and what is left is deleted, in the end, with the rest.
        saver.delete_thread("t")
        saver.delete_thread("t_b")
        fill(saver, "again")
    assert not [name for name in raw.documents() if keys.spread("again") not in name]


@MOSTLY_LOCAL
async def test_dry_run(make_saver, raw, mode):
    with make_saver() as saver:
        fill(saver)
        before = everything(saver)
    stored = raw.snapshot()
    rule = KeepLast(2) | KeepEvery(timedelta(days=3000))
    seen = Seen()
    async with make_saver(interceptors=[seen]) as saver:
        plan, empty = await call(saver, mode, "plan_prune", ["t", "none"], strategy=rule)
        assert seen.only_reads()
        assert raw.snapshot() == stored
        assert (plan.thread_id, empty.thread_id, empty.decisions) == ("t", "none", ())
        assert sum(decision.reason is not None for decision in plan.decisions) == len(before) - len(plan.dropped)
        assert await call(saver, mode, "prune", ["t"], strategy=rule) == [plan]
    with make_saver() as saver:
        left = everything(saver)
    kept = [(one.row.ns, one.row.checkpoint_id) for one in plan.decisions if one.reason is not None]
    assert sorted((ns, cid(n)) for ns, n in left) == sorted(kept)
    assert sorted(plan.dropped) == sorted(cid(n) for _, n in before.keys() - left.keys())
    text = str(plan).splitlines()
    assert text[0] == f"Thread 't': {len(before) - len(left)} of {len(before)} checkpoints go"
    assert f"  {cid(80)}: keep, the latest" in text
    assert f"  {cid(46)}: keep, it waits for an answer" in text
    assert f"  {cid(22)} (sub:1): drop" in text
    assert len(text) == 1 + len(before)


@MOSTLY_LOCAL
async def test_a_plan_drops_what_it_shows_and_nothing_else(make_saver, capsys, mode):
    async with make_saver() as saver:
        for n in (10, 20, 30):
            put(saver, "t", n)
        (plan,) = await call(saver, mode, "plan_prune", ["t"])
        assert plan.dropped == (cid(20), cid(10))
        assert saver.get_tuple(cfg(n=10)) is not None
        put(saver, "t", 40)
        saver.admin.pin(cfg(n=10), "needed by now")
        done = await call(saver, mode, "carry_out", plan)
        assert done.dropped == (cid(20),)
        assert [number(one) for one in saver.list(cfg())] == [40, 30, 10]
        with pytest.raises(InvalidInputError, match="plan_prune"):
            await call(saver, mode, "carry_out", [plan])
    assert capsys.readouterr() == ("", "")


@MOSTLY_LOCAL
async def test_again_it_changes_nothing(make_saver, raw, mode):
    with make_saver(inline_max_bytes=600) as saver:
        fill(saver)
        saver.prune(["t"], strategy=KeepLast(2))
    stored = raw.snapshot()
    events = []
    seen = Seen()
    async with make_saver(on_event=events.append, interceptors=[seen]) as saver:
        await call(saver, mode, "prune", ["t"], strategy=KeepLast(2))
        assert seen.only_reads()
    assert raw.snapshot() == stored
    assert not [event for event in events if isinstance(event, ThreadPruned)]


@MOSTLY_LOCAL
def test_step_by_step(make_saver):
    """Rule by rule to the last: frames that were kept for others go with them."""
    with make_saver(inline_max_bytes=600) as saver:
        fill(saver)
        before = everything(saver)
        for count in (6, 4, 3, 2, 1):
            saver.prune(["t"], strategy=KeepLast(count))
            with make_saver() as fresh:
                left = everything(fresh)
            check(make_saver, "t", {key: before[key] for key in left})
            assert {n for ns, n in left if not ns} == {*[80, 70, 60, 50, 46, 45][:count], 46}
        assert left.keys() == LATEST


async def test_delete(make_saver, raw, mode):
    async with make_saver() as saver:
        fill(saver)
        put(saver, "other", 1, run="run 0")
        if mode == "async":
            await saver.aprune(["t", "none"], strategy="delete")
        else:
            saver.prune(["t", "none"], strategy="delete")
        assert saver.get_tuple(cfg()) is None
    assert not [name for name in (*raw.documents(), *raw.objects()) if keys.spread("t") in name]
    assert len(raw.documents()) == 3


@MOSTLY_LOCAL
async def test_several_threads(make_saver, mode):
    async with make_saver() as saver:
        for thread in ("a", LONG, "c", "ü/../x", "5"):
            for n in (1, 2, 3):
                put(saver, thread, n, n - 1 or None)
        await call(saver, mode, "prune", ["a", LONG, "nobody's", "ü/../x", 5])
    with make_saver() as saver:
        left = {thread: sorted(n for _, n in everything(saver, thread)) for thread in ("a", LONG, "c", "ü/../x", "5")}
    assert left == {"a": [3], LONG: [3], "c": [1, 2, 3], "ü/../x": [3], "5": [3]}


@MOSTLY_LOCAL
async def test_missing_threads(make_saver, raw, mode):
    async with make_saver() as saver:
        await call(saver, mode, "prune", [])
        for strategy in ("keep_latest", KeepLast(3)):
            await call(saver, mode, "prune", ["none", ""], strategy=strategy)
    assert raw.snapshot() == ({}, {})


@pytest.mark.parametrize("strategy", ["latest", "", None, 3, KeepLast, timedelta(days=1)], ids=repr)
@MOSTLY_LOCAL
async def test_unknown_strategies(make_saver, raw, strategy, mode):
    async with make_saver() as saver:
        put(saver, "t", 1)
        put(saver, "t", 2, 1)
        stored = raw.snapshot()
        with pytest.raises(InvalidOptionError, match=r"strategy|KeepLast"):
            await call(saver, mode, "prune", ["t"], strategy=strategy)
    assert raw.snapshot() == stored


# Damage


def _without(*names):
    return lambda fields: {name: value for name, value in fields.items() if name not in names}


DAMAGES = {
    "a flipped byte": lambda fields: {
        **fields,
        "manifest": fields["manifest"][:-1] + bytes([fields["manifest"][-1] ^ 1]),
    },
    "no manifest": _without("manifest"),
    "no ns": _without("ns"),
    "another ns": lambda fields: {**fields, "ns": "sub"},
    "no digest": _without("digest"),
    "emptied": lambda fields: {},
    "an empty manifest": lambda fields: {**fields, "manifest": b""},
}


@pytest.mark.parametrize("damage", DAMAGES)
@MOSTLY_LOCAL
async def test_a_damaged_checkpoint_refuses(make_saver, raw, damage, mode):
    """It is unknown what the damaged checkpoint needs."""
    with make_saver() as saver:
        for n in range(10, 61, 10):
            put(saver, "t", n, n - 10 or None, run="run")
    name = keys.checkpoint_doc("t", "", cid(30))
    raw.set_document(name, DAMAGES[damage](raw.documents()[name]))
    stored = raw.snapshot()
    async with make_saver() as saver:
        for what, args in (("prune", ["t"]), ("delete_for_runs", ["run"])):
            with pytest.raises(CheckpointCorruptError) as caught:
                await call(saver, mode, what, args)
            assert (caught.value.thread_id, caught.value.checkpoint_id) == ("t", cid(30))
            assert raw.snapshot() == stored


@MOSTLY_LOCAL
async def test_a_lost_manifest_refuses(make_saver, raw, monkeypatch, mode):
    with stored_as("stubs", monkeypatch), make_saver() as saver:
        for n in range(10, 41, 10):
            put(saver, "t", n, n - 10 or None)
    (name,) = (name for name in raw.objects() if f"{cid(20)}/~manifest" in name)
    raw.delete_object(name)
    stored = raw.snapshot()
    async with make_saver() as saver:
        with pytest.raises(CheckpointCorruptError) as caught:
            await call(saver, mode, "prune", ["t"])
        assert (caught.value.checkpoint_id, caught.value.frame) == (cid(20), name.removeprefix("agents/"))
    assert raw.snapshot() == stored


@MOSTLY_LOCAL
def test_damaged_frames_and_writes_do_not_stop_it(make_saver, raw):
    """Manifests are enough to prune by. A damaged value is deleted, or stays as it was."""
    with make_saver() as saver:
        fill(saver)
    documents = raw.documents()
    name = keys.checkpoint_doc("t", "", cid(20))
    raw.set_document(name, {**documents[name], "frames": b"?" * len(documents[name]["frames"])})
    pending = next(name for name in documents if f"{keys.inv(cid(40))}!task" in name)
    raw.set_document(pending, {**documents[pending], "writes": b"?"})
    with make_saver() as saver:
        saver.prune(["t"])
        assert {keys.writes_checkpoint_id_of(name) for name in raw.documents() if keys.WRITES in name} == {
            cid(n) for n in (80, 46, 84, LOST)
        }
        assert saver.get_tuple(cfg(n=40)) is None


# Pins


async def test_pins(make_saver, raw, mode):
    async with make_saver() as saver:
        fill(saver)
        before = everything(saver)
        for n, label in ((20, "before the change"), (60, "ü" * 500), (20, "good")):
            await call(saver, mode, "pin", cfg(n=n), label)
        await call(saver, mode, "pin", cfg(ns="sub:1", n=21), "")
        assert everything(saver) == before
    async with make_saver() as saver:
        # Shown, newest first, and by namespace.
        for config in (cfg(), cfg(ns=None)):
            found = await call(saver, mode, "pins", config)
            assert list(found.items()) == [(cid(60), "ü" * 500), (cid(20), "good")]
        assert await call(saver, mode, "pins", cfg(ns="sub:1")) == {cid(21): ""}
        assert await call(saver, mode, "pins", cfg(ns="lasting")) == {}
        assert await call(saver, mode, "pins", cfg("none")) == {}
        shown = await call(saver, mode, "plan_prune", ["t"])
        assert f"{cid(20)}: keep, pinned: good" in str(shown[0])
        await call(saver, mode, "prune", ["t"])
    kept = LATEST | {("", 20), ("", 60), ("sub:1", 21), ("sub:1", 22)}
    with make_saver() as saver:
        left = everything(saver)
    # Its root checkpoint is kept, so the subgraph's latest is too, which waits for an answer.
    assert left.keys() == kept
    check(make_saver, "t", {key: before[key] for key in kept})
    async with make_saver() as saver:
        for key in (("", 20), ("sub:1", 21), ("", 60), ("", 60)):
            await call(saver, mode, "unpin", cfg("t", *key))
        assert await call(saver, mode, "pins", cfg()) == {}
        await call(saver, mode, "prune", ["t"])
    check(make_saver, "t", {key: before[key] for key in LATEST})


@pytest.mark.parametrize(
    ("config", "label", "error"),
    [
        (cfg(), "x", InvalidConfigError),
        (cfg(n=2), "x", InvalidConfigError),
        (cfg(n=LOST), "x", InvalidConfigError),
        (cfg("none", n=10), "x", InvalidConfigError),
        (cfg(ns="sub", n=10), "x", InvalidConfigError),
        (cfg(n=10), "x" * 501, InvalidInputError),
        (cfg(n=10), None, InvalidInputError),
        (cfg(n=10), b"x", InvalidInputError),
        (cfg(n=10), "\ud800", InvalidInputError),
        ({"configurable": {"checkpoint_id": cid(10)}}, "x", InvalidConfigError),
    ],
    ids=range(10),
)
@MOSTLY_LOCAL
async def test_what_cannot_be_pinned(make_saver, raw, config, label, error, mode):  # noqa: PLR0917
    async with make_saver() as saver:
        put(saver, "t", 10)
        saver.put_writes(cfg(n=LOST), [("a", 1)], "task")
        stored = raw.snapshot()
        with pytest.raises(error):
            await call(saver, mode, "pin", config, label)
        if error is InvalidConfigError:
            with pytest.raises(error):
                await call(saver, mode, "unpin", config)
    assert raw.snapshot() == stored


@MOSTLY_LOCAL
def test_a_stripped_checkpoint_cannot_be_pinned(make_saver, raw):
    with make_saver() as saver:
        fill(saver)
        saver.prune(["t"])
        stripped = [name for name, fields in raw.documents().items() if fields.keys() == {"frames"}]
        for name in stripped:
            with pytest.raises(InvalidConfigError):
                saver.admin.pin(
                    cfg("t", keys.dec(keys.ns_segment_of(name)), int(keys.checkpoint_id_of(name)[-12:])), "x"
                )
        assert stripped
        assert [name for name, fields in raw.documents().items() if fields.keys() == {"frames"}] == stripped


@MOSTLY_LOCAL
def test_a_checkpoint_of_which_only_the_manifest_is_left_can_be_pinned(make_saver, raw):
    """It is damaged, not absent."""
    saver = make_saver()
    fill(saver)
    name = keys.checkpoint_doc("t", "", cid(50))
    left = {field: value for field, value in raw.documents()[name].items() if field in {"manifest", "frames"}}
    raw.set_document(name, left)
    saver.admin.pin(cfg("t", n=50), "to be restored")
    assert raw.documents()[name] == {**left, "pin": "to be restored"}


@MOSTLY_LOCAL
def test_a_pin_and_a_put(make_saver):
    """A pin holds the id: the same checkpoint stored again, with the same content or another, keeps it.

    One that was deleted and is stored again does not get the pin of the former one back.
    """
    with make_saver() as saver:
        put(saver, "t", 1, run="a")
        put(saver, "t", 2, 1, run="b")
        saver.admin.pin(cfg(n=1), "mine")
        put(saver, "t", 1, run="a")
        assert saver.admin.pins(cfg()) == {cid(1): "mine"}
        put(saver, "t", 1, run="a", salt="other")
        put(saver, "t", 3, 2, run="b")
        assert saver.admin.pins(cfg()) == {cid(1): "mine"}
        before = everything(saver)
        saver.prune(["t"])
        check(make_saver, "t", {key: before[key] for key in (("", 1), ("", 3))}, orphans=True)
        saver.delete_for_runs(["a"])
        assert saver.admin.pins(cfg()) == {}
        put(saver, "t", 1, run="a")
        assert saver.admin.pins(cfg()) == {}
        saver.admin.pin(cfg(n=1), "again")
        saver.delete_thread("t")
        put(saver, "t", 1)
        assert saver.admin.pins(cfg()) == {}


@MOSTLY_LOCAL
def test_a_put_after_a_pin(make_saver):
    """The parent's document has changed, in this process and in another; its child inherits as ever."""
    with make_saver() as saver, make_saver() as other:
        put(saver, "t", 10)
        other.admin.pin(cfg(n=10), "x")
        put(saver, "t", 20, 10)
        saver.admin.pin(cfg(n=20), "y")
        put(saver, "t", 30, 20)
        saver.admin.unpin(cfg(n=20))
        put(saver, "t", 31, 20)
        before = everything(saver)
    check(make_saver, "t", before, orphans=True)


# Others at work meanwhile


def _child(saver, others):
    put(saver, "t", 90, 80)
    others.append(("", 90))


def _fork(saver, others):
    put(saver, "t", 41, 30, salt="late fork")


def _again(saver, others):
    put(saver, "t", 40, 30, salt="other content")


def _writes(saver, others):
    saver.put_writes(cfg(n=80), [("messages", noise("new", 150_000))], "new task")


def _pin(saver, others):
    if saver.get_tuple(cfg(n=40)) is not None:
        saver.admin.pin(cfg(n=40), "just now")
        others.append(("", 40))


def _prune(saver, others):
    saver.prune(["t"], strategy=KeepLast(2))


@pytest.mark.parametrize(
    ("meanwhile", "options"),
    [(one, {}) for one in (_child, _fork, _again, _writes, _pin, _prune)] + [(_fork, {"inline_max_bytes": 0})],
)
def test_at_any_moment(tmp_path, meanwhile, options):
    """Another process does something before any effect of the pruning."""
    from langgraph_gcs_saver import GCSSaver

    for at in count():
        uri, done, must = f"file://{tmp_path}/{at}", [], []

        def open_saver(uri=uri, **more):
            return GCSSaver.from_conn_string(uri, **more)

        with open_saver(**options) as saver:
            for n in range(10, 81, 10):
                put(saver, "t", n, n - 10 or None)
            saver.put_writes(cfg(n=40), [("messages", noise("large", 150_000))], "task")
        rounds = BeforeRounds()
        with open_saver(interceptors=[rounds], **options) as saver, open_saver(**options) as other:
            other.get_tuple(cfg(n=30))
            other.get_tuple(cfg(n=80))

            def before(number, at=at, done=done, must=must, other=other):
                if number == at and not done:
                    done.append(number)
                    meanwhile(other, must)

            rounds.call(before)
            saver.prune(["t"])
        if not done:
            break
        with open_saver(**options) as saver:
            found = everything(saver)
            assert found.keys() >= set(must)
            assert max(found)[1] == (90 if meanwhile is _child else 80)
            assert told(saver.get_tuple(cfg())) == found[max(found)]
            assert {finding.kind for finding in saver.admin.verify("t", depth="data")} <= {"unreferenced"}
            # A second call finds what has come meanwhile, and leaves no more than it must.
            saver.prune(["t"])
        left = {max(found), *(key for key in must if key == ("", 40))}
        check(open_saver, "t", {key: found[key] for key in left}, orphans=meanwhile is not _pin, **options)
    assert at >= 6


@MOSTLY_LOCAL
def test_a_conflict_that_does_not_end(make_saver):
    rounds = BeforeRounds()
    with make_saver(interceptors=[rounds]) as saver, make_saver() as other:
        for n in (10, 20, 30):
            put(saver, "t", n, n - 10 or None)
        labels = iter(range(1000))

        def before(number):
            other.admin.pin(cfg(n=10), str(next(labels)))
            other.admin.unpin(cfg(n=10))

        rounds.call(before)
        with pytest.raises(ConflictError, match="Call again"):
            saver.prune(["t"])
        rounds.call(None)
        saver.prune(["t"])
        assert everything(other).keys() == {("", 30)}


# Crashes


@pytest.mark.parametrize("after", ["the same call", "delete_thread"])
def test_what_a_crash_leaves_is_not_forgotten(tmp_path, after):
    """Wherever a call crashed, a second call leaves only what is needed, and a deletion leaves nothing."""
    uri, stop, whole = "", 0, 1
    while stop <= whole:
        uri = f"file://{tmp_path}/{stop}"
        with CrashingSaver.from_conn_string(uri, inline_max_bytes=600) as saver:
            fill(saver)
            before = everything(saver)
        with CrashingSaver.from_conn_string(uri) as saver:
            saver.plan = Plan(stop)
            try:
                saver.prune(["t"])
            except Crashed:
                whole = stop + 1
        raw = open_raw(uri)
        with CrashingSaver.from_conn_string(uri) as saver:
            if after == "delete_thread":
                saver.delete_thread("t")
                assert raw.snapshot() == ({}, {}), f"stopped after {stop}"
            else:
                saver.prune(["t"])
                check(
                    lambda uri=uri, **o: CrashingSaver.from_conn_string(uri, **o), "t", {k: before[k] for k in LATEST}
                )
                runs = {name.split("/")[1][3:] for name in raw.documents() if name.startswith("lg_runs/")}
                assert runs == {keys.enc(before[key][2]["run_id"]) for key in LATEST}, f"stopped after {stop}"
        stop += 1
    assert whole > 6


# Rounds


def lengthy(saver, length, thread="t", *, write=True):
    for n in range(1, length + 1):
        saver.put(
            cfg(thread, n=n - 1 or None),
            checkpoint(n, {"a": [f"{k:9}" for k in range(n % 30)], "b": "constant"}, {"a": n, "b": 1}),
            metadata(step=n, run_id=f"run {n // 10}"),
            {"a": n, "b": 1} if n == 1 else {"a": n},
        )
        if write:
            saver.put_writes(cfg(thread, n=n), [("a", n)], "task")


ROUNDS_PER_BATCH = 7
"""A commit that strips, queries for names of pending writes and for other collections, a read, and three commits.

The commits are for the pending writes, for runs, and for what is left.
"""


@MOSTLY_LOCAL
async def test_rounds(make_saver, monkeypatch, mode):
    monkeypatch.setattr(limits, "COMMIT_WRITES", 20)
    counts = []
    counting = CountingInterceptor()
    async with make_saver(verify="off", interceptors=[counting]) as saver:
        for length in (40, 100):
            lengthy(saver, length, thread := f"{length}")
            counting.clear()
            await call(saver, mode, "prune", [thread])
            counts.append(len(counting.rounds))
            with make_saver() as fresh:
                assert everything(fresh, thread).keys() == {("", length)}
    assert counts[1] - counts[0] <= ROUNDS_PER_BATCH * 60 / 20


@pytest.mark.soak
@pytest.mark.parametrize("options", [{}, {"inline_max_bytes": 0}], ids=["inline", "objects"])
def test_rounds_of_a_long_thread(make_saver, raw, options):
    counting = CountingInterceptor()
    with make_saver(verify="off", interceptors=[counting], **options) as saver:
        lengthy(saver, 2000)
        counting.clear()
        saver.prune(["t"])
        print(f"prune: {len(counting.rounds)} rounds")
        assert (
            len(counting.rounds) <= ROUNDS_PER_BATCH * 2000 / limits.COMMIT_WRITES + (4000 / 100 if options else 0) + 10
        )
        assert everything(saver).keys() == {("", 2000)}
        assert list(saver.admin.verify("t", depth="data")) == []
        lengthy(saver, 2000, "u")
        counting.clear()
        saver.delete_thread("u")
        print(f"delete_thread: {len(counting.rounds)} rounds")
        assert len(counting.rounds) <= 4 * 2000 / limits.COMMIT_WRITES + (6000 / 100 if options else 0) + 12
    assert not [name for name in (*raw.documents(), *raw.objects()) if keys.spread("u") in name]


# Graphs


def concatenate(value, updates):
    return [*value, *(item for update in updates for item in update)]


class Inner(TypedDict):
    notes: Annotated[list[Any], operator.add]
    count: int


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    seen: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=4)]
    rare: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=50)]
    notes: list[Any]
    count: int


def build(saver, *, asks=frozenset()):
    """A graph with growing messages, DeltaChannels, and a subgraph that asks at some counts."""

    def ask(state):
        answer = interrupt(f"at {state['count']}?") if state["count"] in asks else "not asked"
        return {"notes": [answer]}

    inner = StateGraph(Inner).add_node("note", lambda state: {"notes": [state["count"]]}).add_node("ask", ask)
    inner = inner.add_edge(START, "note").add_edge("note", "ask").compile()

    def step(state):
        count = state["count"]
        found = {"seen": [f"item {count}"], "count": count + 1}
        if count % 5 == 0:
            found["rare"] = [count]
        return {**found, "messages": [{"role": "ai", "id": f"{count}", "content": f"answer {count} " * 30}]}

    builder = StateGraph(State).add_node("step", step).add_node("inner", inner)
    builder.add_edge(START, "step").add_edge("step", "inner")
    builder.add_conditional_edges("inner", lambda state: END if state["count"] % 6 == 0 else "step")
    return builder.compile(checkpointer=saver)


CONFIG = {"configurable": {"thread_id": "t"}, "recursion_limit": 100}
INPUT = {"messages": [{"role": "user", "id": "q", "content": "?"}], "count": 0, "notes": []}


def states(graph):
    """A graph's history: values, next nodes and interrupts by checkpoint id."""
    return {
        state.config["configurable"]["checkpoint_id"]: (state.values, state.next, state.interrupts)
        for state in graph.get_state_history(CONFIG)
    }


@pytest.mark.parametrize("strategy", ["keep_latest", KeepLast(3)], ids=["latest", "three"])
@pytest.mark.parametrize("durability", ["sync", "exit"])
@MOSTLY_LOCAL
def test_a_graph_goes_on(make_saver, strategy, durability):
    """Pruned after each turn, and before each answer, it gives what it gives when it is not pruned."""
    results = []
    for prunes in (False, True):
        saver = make_saver() if prunes else InMemorySaver()
        graph = build(saver, asks={3, 8})
        steps = []
        given = INPUT
        for _ in range(6):
            out = graph.invoke(given, CONFIG, durability=durability)
            state = graph.get_state(CONFIG, subgraphs=True)
            inner = [task.state and task.state.values for task in state.tasks]
            steps.append([plain(out), plain(state.values), list(state.next), inner])
            if prunes:
                before = states(graph)
                saver.prune(["t"], strategy=strategy)
                saver = make_saver()
                graph = build(saver, asks={3, 8})
                after = states(graph)
                assert after == {key: before[key] for key in after}
                assert len(after) <= len(before)
                assert list(saver.admin.verify("t", depth="data")) == []
            given = Command(resume=f"yes {len(steps)}") if state.interrupts else {"count": out["count"]}
        results.append(steps)
    assert relabel(results[0], ()) == relabel(results[1], ())
    assert sum(bool(step[2]) for step in results[0]) == 2
    assert len(results[0][-1][0]["seen"]) > 20


@pytest.mark.parametrize("strategy", ["keep_latest", KeepLast(3)], ids=["latest", "three"])
@MOSTLY_LOCAL
def test_time_travel_after_pruning(make_saver, strategy):
    """The graph can resume from each state that is left."""
    with make_saver() as saver:
        graph = build(saver)
        graph.invoke(INPUT, CONFIG)
        saver.prune(["t"], strategy=strategy)
        for checkpoint_id, (values, following, _) in states(graph).items():
            config = {**CONFIG, "configurable": {"thread_id": "t", "checkpoint_id": checkpoint_id}}
            changed = graph.update_state(config, {"seen": ["by hand"], "count": 6}, as_node="inner")
            assert graph.get_state(changed).values["seen"] == [*values["seen"], "by hand"]
            if following and "count" in values:
                assert graph.invoke(None, config)["seen"] == [f"item {n}" for n in range(6)]


async def test_a_graph_goes_on_asynchronously(make_saver):
    async with make_saver() as saver:
        graph = build(saver)
        whole = await graph.ainvoke(INPUT, CONFIG)
        await saver.aprune(["t"])
        assert (await graph.aget_state(CONFIG)).values == whole
        more = await graph.ainvoke({"count": 6}, CONFIG)
        assert more["seen"] == [f"item {n}" for n in range(12)]
        await saver.aprune(["t"], strategy=KeepLast(2))
        assert (await graph.aget_state(CONFIG)).values == more


class Plain(TypedDict):
    items: Annotated[list[Any], operator.add]


class Grown(Plain):
    fresh: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=50)]


def simple(schema, node):
    return StateGraph(schema).add_node("node", node).add_edge(START, "node")


@MOSTLY_LOCAL
def test_a_new_delta_channel_after_pruning(make_saver):
    """A graph that gets its first DeltaChannel in a later release resumes threads that were pruned before."""
    with make_saver() as saver:
        old = simple(Plain, lambda state: {"items": [len(state["items"])]}).compile(checkpointer=saver)
        for _ in range(3):
            old.invoke({"items": ["in"]}, CONFIG)
        saver.prune(["t"])
        new = simple(Grown, lambda state: {"items": [1], "fresh": ["new"]}).compile(checkpointer=saver)
        for turn in (1, 2):
            assert new.invoke({"items": ["in"]}, CONFIG)["fresh"] == ["new"] * turn
            assert new.get_state(CONFIG).values["fresh"] == ["new"] * turn
            saver.prune(["t"])
            assert new.get_state(CONFIG).values["fresh"] == ["new"] * turn


@MOSTLY_LOCAL
def test_a_delta_channel_that_nobody_writes(make_saver):
    """It does not keep a thread from being pruned, and can be written afterwards."""
    with make_saver() as saver:
        quiet = simple(Grown, lambda state: {"items": [1]}).compile(checkpointer=saver)
        for _ in range(5):
            quiet.invoke({"items": ["in"]}, CONFIG)
        saver.prune(["t"])
        assert len(list(saver.list(CONFIG))) == 1
        loud = simple(Grown, lambda state: {"fresh": ["new"]}).compile(checkpointer=saver)
        assert loud.invoke({"items": ["in"]}, CONFIG)["fresh"] == ["new"]
        assert loud.get_state(CONFIG).values["fresh"] == ["new"]
