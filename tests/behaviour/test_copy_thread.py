"""Copying a thread: the copy reads as its source does, continues as its source does, and neither needs the other."""

from contextlib import suppress
from itertools import count

import pytest
from langgraph.types import Command

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError, InvalidInputError
from langgraph_gcs_saver.flows import copy
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import Api, cfg, cid
from tests.behaviour.harness import plain
from tests.behaviour.test_prune import CONFIG, INPUT, build, lengthy, states
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
)
from tests.system.build import put as put_values
from tests.system.raw import open_raw

THREADS = {
    "short": ("t", "copy"),
    "long source": (LONG, "copy"),
    "long target": ("t", LONG),
    "both long": (LONG, LONG + "2"),
}
"""Source and target."""


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


def of(snapshot, thread):
    """The documents and objects of a thread."""
    return tuple({name: data for name, data in part.items() if keys.spread(thread) in name} for part in snapshot)


def lost_writes(saver, thread):
    """The pending writes of a checkpoint that was not stored, as they are read once it is."""
    put(saver, thread, LOST)
    return saver.get_tuple(cfg(thread, n=LOST)).pending_writes


async def check_copy(make_saver, raw, source, target, mode, options):  # noqa: PLR0917
    with make_saver(**options) as saver:
        before = everything(saver, source)
    stored = of(raw.snapshot(), source)
    async with make_saver(**options) as saver:
        await call(saver, mode, "copy_thread", source, target)
    assert of(raw.snapshot(), source) == stored
    check(make_saver, target, before, **options)
    check(make_saver, source, before, **options)
    return before


@pytest.mark.parametrize(
    ("variant", "ids"),
    [(variant, ids) for variant in ("inline", "stubs") for ids in THREADS]
    + [("objects", "short"), ("objects", "both long"), ("cipher", "short"), ("cipher", "long target")],
)
@MOSTLY_LOCAL
async def test_the_copy_reads_as_the_source(make_saver, raw, monkeypatch, variant, ids):
    source, target = THREADS[ids]
    mode = "async" if variant in {"objects", "stubs"} else "sync"
    with stored_as(variant, monkeypatch) as options:
        with make_saver(**options) as saver:
            fill(saver, source)
            fill(saver, "t_b")
        others = of(raw.snapshot(), "t_b")
        before = await check_copy(make_saver, raw, source, target, mode, options)
        assert len(before[next(key for key in before if key[1] == 40)][3]) == 6
        documents, objects = raw.snapshot()
        # As many documents and objects as the source has: it has no orphans.
        mine, theirs = of((documents, objects), target), of((documents, objects), source)
        assert [len(part) for part in mine] == [len(part) for part in theirs]
        assert of((documents, objects), "t_b") == others
        with make_saver(**options) as saver:
            assert lost_writes(saver, target) == [("task", "messages", "early")]
        # Neither needs the other.
        with make_saver(**options) as saver:
            saver.delete_thread(source)
        check(
            make_saver, target, {**before, ("", LOST): everything(make_saver(**options), target)["", LOST]}, **options
        )
        with make_saver(**options) as saver:
            saver.copy_thread(target, source)
            saver.delete_thread(target)
        left = raw.snapshot()
        assert of(left, target) == ({}, {})
        with make_saver(**options) as saver:
            assert everything(saver, source).keys() == before.keys() | {("", LOST)}
            assert list(saver.admin.verify(depth="data")) == []
            saver.delete_thread(source)
        assert of(raw.snapshot(), source) == ({}, {})


@pytest.mark.parametrize("ids", ["short", "both long"])
@MOSTLY_LOCAL
async def test_what_pruning_has_left(make_saver, raw, ids, mode):
    """Frames of pruned checkpoints are copied for the checkpoints that need them, and are deleted with these."""
    source, target = THREADS[ids]
    with make_saver(inline_max_bytes=2000) as saver:
        fill(saver, source)
        saver.admin.pin(cfg(source, n=50), "stays with the source")
        saver.prune([source], strategy=KeepLast(2))
    assert any(fields.keys() == {"frames"} for fields in of(raw.snapshot(), source)[0].values())
    before = await check_copy(make_saver, raw, source, target, mode, {})
    async with make_saver() as saver:
        assert await call(saver, mode, "pins", cfg(target)) == {}
        assert await call(saver, mode, "pins", cfg(source)) == {cid(50): "stays with the source"}
        await call(saver, mode, "prune", [target])
        left = everything(saver, target)
    assert left.keys() < before.keys()
    check(make_saver, target, {key: before[key] for key in left})
    with make_saver() as saver:
        saver.delete_thread(target)
    assert of(raw.snapshot(), target) == ({}, {})


@MOSTLY_LOCAL
async def test_first_wins_across_pages(make_saver, raw, monkeypatch, mode):
    """Documents of one task are read in the order of their names, and count in the order in which they came."""
    monkeypatch.setattr(limits, "COMMIT_WRITES", 4)
    with make_saver() as saver:
        put(saver, "t", 1)
        for n in range(12):
            saver.put_writes(cfg(n=1), [("messages", f"first {n}"), (f"other {n}", n)], "task", "~1")
            saver.put_writes(cfg(n=1), [("messages", n)], f"task {n}", "~1")
        saver.put_writes(cfg(n=1), [("__interrupt__", "asked")], "task", "~1")
    before = await check_copy(make_saver, raw, "t", "copy", mode, {})
    assert before["", 1][3][:2] == [("task", "__interrupt__", "asked"), ("task", "messages", "first 0")]


async def test_writes_only(make_saver, raw, mode):
    """… of a checkpoint that was never stored."""
    async with make_saver() as saver:
        saver.put_writes(cfg(n=LOST), [("messages", noise("x", 150_000))], "task")
        await call(saver, mode, "copy_thread", "t", "copy")
        assert everything(saver, "copy") == {}
        assert lost_writes(saver, "copy") == [("task", "messages", noise("x", 150_000))]


@MOSTLY_LOCAL
async def test_numbers_as_ids(make_saver, mode):
    async with make_saver() as saver:
        put(saver, "5", 1)
        await call(saver, mode, "copy_thread", 5, 6)
        assert everything(saver, "6") == everything(saver, "5")


# What is refused


@MOSTLY_LOCAL
async def test_a_target_that_is_not_empty(make_saver, raw, mode):
    async with make_saver() as saver:
        put(saver, "t", 1)
        put(saver, "full", 2)
        saver.put_writes(cfg("writes", n=LOST), [("a", 1)], "task")
        put(saver, "sub", 1, ns="sub")
        stored = raw.snapshot()
        for target in ("full", "writes", "sub"):
            with pytest.raises(InvalidInputError, match="not empty"):
                await call(saver, mode, "copy_thread", "t", target)
        with pytest.raises(InvalidInputError, match="itself"):
            await call(saver, mode, "copy_thread", "t", "t")
        with pytest.raises(InvalidInputError, match="itself"):
            await call(saver, mode, "copy_thread", 5, "5")
        left = raw.snapshot()
        left[0].pop(keys.thread_doc("writes"), None)  # the guard's
        assert left == stored
        assert everything(saver, "full").keys() == {("", 2)}
        # Done is done: the target is not empty any more.
        await call(saver, mode, "copy_thread", "t", "copy")
        with pytest.raises(InvalidInputError, match="not empty"):
            await call(saver, mode, "copy_thread", "t", "copy")
        saver.delete_thread("copy")
        await call(saver, mode, "copy_thread", "full", "copy")
        assert everything(saver, "copy") == everything(saver, "full")


@MOSTLY_LOCAL
async def test_a_missing_source_leaves_nothing(make_saver, raw, mode):
    async with make_saver() as saver:
        await call(saver, mode, "copy_thread", "none", "copy")
        assert raw.snapshot() == ({}, {})
        put(saver, "full", 2)
        stored = raw.snapshot()
        await call(saver, mode, "copy_thread", "none", "full")
    assert raw.snapshot() == stored


@MOSTLY_LOCAL
async def test_a_dry_run_refuses_what_the_copy_would(make_saver, mode):
    with make_saver() as saver:
        fill(saver)
        put(saver, "full", 2)
    async with make_saver() as saver:
        with pytest.raises(InvalidInputError, match="not empty"):
            await call(saver, mode, "copy_thread", "t", "full", dry_run=True)


@MOSTLY_LOCAL
async def test_dry_run(make_saver, raw, capsys, mode):
    with make_saver(inline_max_bytes=0) as saver:
        fill(saver)
    stored = raw.snapshot()
    seen = Seen()
    async with make_saver(interceptors=[seen]) as saver:
        plan = await call(saver, mode, "copy_thread", "t", "copy", dry_run=True)
        empty = await call(saver, mode, "copy_thread", "none", "copy", dry_run=True)
        assert seen.only_reads()
        checkpoints = len(everything(saver))
    assert raw.snapshot() == stored
    assert (plan.source, plan.target, plan.checkpoints) == ("t", "copy", checkpoints)
    names = of(stored, "t")
    assert plan.writes == sum(f"/{keys.WRITES}/" in name for name in names[0])
    assert plan.objects == sum("~writes" not in name for name in names[1])
    assert str(empty) == "Thread 'none' to 'copy': 0 checkpoints, 0 documents of pending writes, 0 objects"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["manifest", "emptied", "manifest object", "writes"])
@MOSTLY_LOCAL
async def test_damage_refuses(make_saver, raw, monkeypatch, damage, mode):
    """A damaged checkpoint, or damaged pending writes: nothing is copied."""
    with stored_as("stubs" if damage == "manifest object" else "inline", monkeypatch), make_saver() as saver:
        for n in (10, 20, 30):
            put(saver, "t", n, n - 10 or None)
        saver.put_writes(cfg(n=20), [("a", 1)], "task")
    documents, objects = raw.snapshot()
    if damage == "manifest object":
        raw.delete_object(next(name for name in objects if f"{cid(20)}/~manifest" in name))
    else:
        part = f"/{keys.WRITES}/" if damage == "writes" else keys.inv(cid(20))
        name = next(name for name in documents if part in name)
        fields = documents[name]
        field = "writes" if damage == "writes" else "manifest"
        raw.set_document(name, {} if damage == "emptied" else {**fields, field: fields[field][:-1] + b"?"})
    stored = raw.snapshot()
    async with make_saver() as saver:
        with pytest.raises(CheckpointCorruptError) as caught:
            await call(saver, mode, "copy_thread", "t", "copy")
        assert (caught.value.thread_id, caught.value.checkpoint_id) == ("t", cid(20))
    assert raw.snapshot() == stored


# Half-way


@pytest.mark.parametrize(
    ("variant", "step"),
    [
        ("inline", 5),
        pytest.param("inline", 1, marks=pytest.mark.soak),
        pytest.param("objects", 1, marks=pytest.mark.soak),
    ],
)
def test_a_copy_that_died_is_taken_up_again(tmp_path, variant, step):
    """What a crashed copy has made is whole. A second call completes it, and another copy or a deletion can follow."""
    options = VARIANTS[variant]
    for stop in count(0, step):
        uri = f"file://{tmp_path}/{stop}"

        def open_saver(uri=uri, **more):
            return CrashingSaver.from_conn_string(uri, **more)

        with open_saver(**options) as saver:
            fill(saver)
            saver.prune(["t"], strategy=KeepLast(3))
            before = everything(saver)
            put(saver, "other", 1)
        with open_saver() as saver:
            saver.plan = Plan(stop)
            try:
                saver.copy_thread("t", "copy")
            except Crashed:
                pass
            else:
                break
        with open_saver() as saver:
            part = everything(saver, "copy")
            assert part == {key: before[key] for key in part}
            assert {finding.kind for finding in saver.admin.verify("copy", depth="data")} <= {"missing", "unreferenced"}
            claimed = any("copying" in fields for fields in saver.raw().documents.values())
            if claimed:
                for dry_run in (True, False):
                    with pytest.raises(InvalidInputError, match="not empty"):
                        saver.admin.copy_thread("other", "copy", dry_run=dry_run)
                saver.admin.copy_thread("t", "copy", dry_run=True)
        if stop % 3 == 0 or (not claimed and part):
            # A copy that crashed after its last commit is complete: the target is not empty.
            with open_saver() as saver:
                saver.delete_thread("copy")
                raw = saver.raw()
                left = [name for name in (*raw.documents, *raw.objects) if "-copy" in name]
                assert left == [], f"stopped after {stop}"
        with open_saver() as saver:
            saver.copy_thread("t", "copy")
        check(open_saver, "copy", before)
        check(open_saver, "t", before)
    assert stop > 15


def test_a_copy_that_died_is_found_by_its_runs(tmp_path, monkeypatch):
    """A checkpoint that another run stored again has two runs. Both are noted, wherever the first call crashed."""
    monkeypatch.setattr(limits, "COMMIT_WRITES", 2)
    for stop in count():
        with CrashingSaver.from_conn_string(f"file://{tmp_path}/{stop}") as saver:
            for run in ("first", "second"):
                put(saver, "t", 10, run=run, salt=run)
            saver.plan = Plan(stop)
            with suppress(Crashed):
                saver.copy_thread("t", "copy")
                break
            saver.plan = Plan()
            with suppress(InvalidInputError):  # it crashed after its last commit
                saver.copy_thread("t", "copy")
            assert [one for one in saver.admin.verify("copy") if one.kind == "missing"] == [], f"stopped after {stop}"
            saver.delete_for_runs(["first"])
            assert everything(saver, "copy").keys() == everything(saver, "t").keys()
    assert stop > 8


# Others at work meanwhile


def _delete(saver, thread):
    saver.delete_thread("t")


def _prune(saver, thread):
    saver.prune(["t"])


def _grow(saver, thread):
    put(saver, "t", 90, 80)
    put(saver, "t", 91, 45)


def _again(saver, thread):
    put(saver, "t", 50, 40, salt="other content")
    put(saver, "t", 52, 50, salt="other content")


def _interrupt(saver, thread):
    saver.put_writes(cfg("t", n=80), [("messages", noise("new", 150_000))], "new task")


@pytest.mark.parametrize("meanwhile", [_delete, _prune, _grow, _again, _interrupt])
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"inline_max_bytes": 0}, marks=pytest.mark.soak)], ids=["inline", "objects"]
)
def test_a_source_that_changes_meanwhile(tmp_path, meanwhile, options):
    """Whatever has been copied reads as the source did at some moment, and nothing that it needs is missing."""
    for at in count():
        uri, done = f"file://{tmp_path}/{at}", []

        def open_saver(uri=uri, **more):
            return GCSSaver.from_conn_string(uri, **more)

        with open_saver(**options) as saver:
            for n in range(10, 81, 10):
                put(saver, "t", n, n - 10 or None, run="run")
            put(saver, "t", 45, 30, run="run")
            saver.put_writes(cfg(n=40), [("messages", noise("large", 150_000))], "task")
            before = everything(saver)
        rounds = BeforeRounds()
        with open_saver(interceptors=[rounds]) as saver, open_saver(**options) as other:

            def step(number, at=at, done=done, other=other):
                if number == at:
                    done.append(number)
                    meanwhile(other, "t")

            rounds.call(step)
            saver.copy_thread("t", "copy")
        with open_saver() as saver:
            after = everything(saver, "t")
            copied = everything(saver, "copy")
            for key, one in copied.items():
                assert one in (before.get(key), after.get(key)), f"before effect {at}: {key}"
            assert before.keys() & after.keys() <= copied.keys()
            damage = list(saver.admin.verify("copy", depth="data"))
            assert damage == [], f"before effect {at}: {damage}"
            saver.delete_thread("copy")
            assert not [name for name in open_raw(uri).documents() if "-copy" in name]
        if not done:
            break
    assert at > 10


def is_whole(raw, thread):
    """Whether a copy to a thread has made its last commit."""
    fields = raw.documents().get(keys.thread_doc(thread), {})
    raw.close()
    return "claim" in fields and "copying" not in fields


@pytest.mark.parametrize("meanwhile", ["delete", "put"])
def test_a_target_that_is_not_left_alone(tmp_path, meanwhile):
    """Deleted or written to while it is copied to: the copy is made in the end, or refused, and nothing is damaged."""
    refused = 0
    for at in count():
        uri, done = f"file://{tmp_path}/{at}", []
        rounds = BeforeRounds()
        with (
            GCSSaver.from_conn_string(uri, interceptors=[rounds]) as saver,
            GCSSaver.from_conn_string(uri) as other,
        ):
            for n in range(10, 51, 10):
                put(saver, "t", n, n - 10 or None)
            before = everything(saver)

            def step(number, at=at, done=done, other=other, uri=uri):
                if number == at and not done:
                    done.append(is_whole(open_raw(uri), "copy"))
                    if meanwhile == "delete":
                        other.delete_thread("copy")
                    else:
                        put(other, "copy", 95)

            rounds.call(step)
            is_done = True
            try:
                saver.copy_thread("t", "copy")
            except InvalidInputError:
                refused += 1
                is_done = False
        with GCSSaver.from_conn_string(uri) as saver:
            found = everything(saver, "copy")
            own = found.pop(("", 95), None)
            assert (own is not None) is (meanwhile == "put" and bool(done))
            assert found == {key: before[key] for key in found}
            assert {finding.kind for finding in saver.admin.verify("copy", depth="data")} <= {"unreferenced"}
            assert is_done is (own is None or done == [True])
            if is_done:
                assert found == before
        if not done:
            break
    assert at > 6
    assert (refused > 0) is (meanwhile == "put")


@pytest.mark.parametrize("meanwhile", ["prune", "runs"])
def test_a_target_that_is_pruned_meanwhile(tmp_path, meanwhile):
    """A fork of the first checkpoint comes last, and needs a frame of it. Other threads are pruned all the same."""
    refused = 0
    for at in count():
        uri, done = f"file://{tmp_path}/{at}", []
        rounds = BeforeRounds()
        with (
            GCSSaver.from_conn_string(uri, interceptors=[rounds]) as saver,
            GCSSaver.from_conn_string(uri) as other,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(copy, "CHECKPOINTS_PER_PAGE", 3)
            rows = [(1, None, "first"), *((n, n - 1, "run") for n in range(2, 6)), (6, 1, "fork"), (7, 1, "latest")]
            for n, parent, run in rows:
                values = {"v": n} if run == "run" else {"v": n, "constant": noise("of the first and its forks")}
                put_values(saver, n, values, parent=parent, changed=None if n == 1 else {"v"}, metadata={"run_id": run})
            other.delete_for_runs(["latest"])
            before = everything(saver)

            def step(number, at=at, done=done, other=other):
                if number == at and not done:
                    try:
                        if meanwhile == "prune":
                            other.prune(["copy", "t"])
                        else:
                            other.delete_for_runs(["first"])
                    except ConflictError as error:
                        done.append(str(error))
                    else:
                        done.append("")

            rounds.call(step)
            saver.copy_thread("t", "copy")
        with GCSSaver.from_conn_string(uri) as saver:
            found = everything(saver, "copy")
            assert found == {key: before[key] for key in found}
            assert ("", 1) not in everything(saver, "t") or not done
            assert done in ([], [""]) or "Thread 'copy' is the target of an unfinished copy" in done[0]
            refused += any(done)
            assert {finding.kind for finding in saver.admin.verify("copy", depth="data")} <= {"unreferenced"}, at
        if not done:
            break
    assert 3 < refused < at


def test_a_conversation_and_its_successor_are_not_merged(tmp_path):
    """The source is deleted, and another thread of its name begins, while a try fails."""
    refused = 0
    for at in count(step=2):
        uri, done = f"file://{tmp_path}/{at}", []
        rounds = BeforeRounds()
        with (
            GCSSaver.from_conn_string(uri, interceptors=[rounds]) as saver,
            GCSSaver.from_conn_string(uri) as other,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(copy, "CHECKPOINTS_PER_PAGE", 3)
            for n in range(10, 81, 10):
                put(saver, "t", n, n - 10 or None)
            before = everything(saver)

            def step(number, at=at, done=done, other=other):
                if number == at and not done:
                    done.append(number)
                    other.delete_thread("t")
                    put(other, "t", 85, salt="another conversation")
                    put(other, "copy", 95)  # Moves the thread's document: this try fails.

            rounds.call(step)
            try:
                saver.copy_thread("t", "copy")
            except ConflictError:
                refused += 1
            except InvalidInputError:
                assert everything(other, "copy").keys() <= {("", 95)}, "nothing had been copied"
            found = everything(other, "copy").keys() - {("", 95)}
            assert found <= before.keys() or found == {("", 85)}, at
        if not done:
            break
    assert refused > 2


def test_what_a_deletion_has_left_is_not_copied(tmp_path, monkeypatch):
    """Wherever the deletion crashed, the copy is whole, or there is none. So it is while the deletion continues."""
    monkeypatch.setattr(limits, "COMMIT_WRITES", 2)
    stop, is_dead, kinds = 0, True, set()
    while is_dead:
        with CrashingSaver.from_conn_string(f"file://{tmp_path}/{stop}") as saver:
            for n in range(1, 6):
                put(saver, "t", n, n - 1 or None)
            before = everything(saver)
            saver.plan = Plan(stop)
            try:
                saver.delete_thread("t")
            except Crashed:
                is_dead = True
            else:
                is_dead = False
            saver.plan = Plan(None)
            try:
                saver.copy_thread("t", "copy")
            except ConflictError:
                assert everything(saver, "copy") == {}
                kinds.add("refused")
            else:
                assert everything(saver, "copy") in (before, {})
                kinds.add(len(everything(saver, "copy")))
        stop += 1
    assert kinds == {5, "refused", 0}


def test_a_damaged_hint_is_copied(tmp_path):
    uri = f"file://{tmp_path}/store"
    with GCSSaver.from_conn_string(uri, inline_max_bytes=0) as saver:
        put(saver, "t", 1)
        raw, name = open_raw(uri), keys.checkpoint_doc("t", "", cid(1))
        raw.set_document(name, {**raw.documents()[name], "filter": 5})
        saver.copy_thread("t", "copy")
        assert everything(saver, "copy").keys() == everything(saver).keys()


# Graphs, runs, rounds


def test_a_copied_graph_goes_on(make_saver):
    """Copied while it waits for an answer, with DeltaChannels and a subgraph: both threads come to the same end."""
    other = {**CONFIG, "configurable": {"thread_id": "copy"}}
    with make_saver() as saver:
        graph = build(saver, asks={3})
        graph.invoke(INPUT, CONFIG)
        assert graph.get_state(CONFIG).next
        saver.copy_thread("t", "copy")
    with make_saver() as saver:
        graph = build(saver, asks={3})
        assert plain(graph.get_state(other).values) == plain(graph.get_state(CONFIG).values)
        results = [graph.invoke(Command(resume="yes"), config) for config in (CONFIG, other)]
        assert results[0] == results[1]
        assert len(results[0]["seen"]) == 6
        assert "yes" in results[0]["notes"]
        mine = [plain(one[:2]) for one in states(graph).values()]
        theirs = [plain((s.values, s.next)) for s in graph.get_state_history(other)]
        assert mine == theirs
        assert list(saver.admin.verify(depth="data")) == []


async def test_delete_for_runs_finds_the_copy(make_saver, raw, mode):
    with make_saver() as saver:
        fill(saver)
        saver.copy_thread("t", "copy")
        before = everything(saver)
    async with make_saver() as saver:
        await call(saver, mode, "delete_for_runs", ["run 1", "fork"])
    left = {key: one for key, one in before.items() if one[2]["run_id"] not in {"run 1", "fork"}}
    assert len(left) < len(before)
    check(make_saver, "copy", left)
    check(make_saver, "t", left)


def asking(saver, length, thread):
    """Each checkpoint has a task that asked a question and then continued: two documents of one task."""
    lengthy(saver, length, thread)
    for n in range(1, length + 1):
        saver.put_writes(cfg(thread, n=n), [("__interrupt__", "?")], "task")


ROUNDS_PER_PAGE = 5
"""Objects of a page, the page, what of it is there, and its commit."""


@pytest.mark.parametrize("fills", [lengthy, asking])
@MOSTLY_LOCAL
async def test_rounds(make_saver, monkeypatch, fills, mode):
    monkeypatch.setattr(limits, "COMMIT_WRITES", 20)
    counts = []
    counting = CountingInterceptor()
    async with make_saver(verify="off", interceptors=[counting]) as saver:
        for length in (40, 100):
            fills(saver, length, f"{length}")
        for length in (40, 100):
            counting.clear()
            await call(saver, mode, "copy_thread", f"{length}", f"copy of {length}")
            counts.append(len(counting.rounds))
        assert everything(saver, "copy of 100") == everything(saver, "100")
    # A page of 20 checkpoints, and one of 20 documents of pending writes, of which a task may have two.
    pages = 60 / copy.CHECKPOINTS_PER_PAGE + 60 * (1 if fills is lengthy else 2) / limits.COMMIT_WRITES
    assert counts[1] - counts[0] <= ROUNDS_PER_PAGE * pages


@pytest.mark.soak
@pytest.mark.parametrize("options", [{}, {"inline_max_bytes": 0}], ids=["inline", "objects"])
def test_rounds_of_a_long_thread(make_saver, raw, options):
    counting = CountingInterceptor()
    with make_saver(verify="off", interceptors=[counting], **options) as saver:
        lengthy(saver, 2000, "t")
        counting.clear()
        saver.copy_thread("t", "copy")
        print(f"copy_thread: {len(counting.rounds)} rounds, {counting.requests['CopyBlob']} objects")
        objects = 6000 / 32 if options else 0
        assert (
            len(counting.rounds)
            <= ROUNDS_PER_PAGE * (2000 / copy.CHECKPOINTS_PER_PAGE + 2000 / limits.COMMIT_WRITES) + objects + 20
        )
        assert everything(saver, "copy") == everything(saver, "t")
        assert list(saver.admin.verify("copy", depth="data")) == []
