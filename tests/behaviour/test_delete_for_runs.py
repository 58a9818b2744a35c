"""Deleting what runs wrote: all of it, in every thread, and what other runs wrote reads as before."""

from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import Api, cfg, checkpoint, cid, metadata, version
from tests.kit.impatience import impatient
from tests.kit.interceptors import Seen
from tests.stateful.threads import LONG, MOSTLY_LOCAL, VARIANTS, check, everything, fill, noise, put, stored_as
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


def without(before, *runs):
    return {key: one for key, one in before.items() if one[2].get("run_id") not in runs}


def run_docs(raw, run):
    return [name for name in raw.documents() if name.startswith(f"lg_runs/{keys.spread(run)}/")]


@pytest.mark.parametrize("variant", VARIANTS)
@MOSTLY_LOCAL
async def test_several_threads_and_namespaces(make_saver, raw, monkeypatch, variant):
    """`run 1` wrote 30 to 50 in the middle of the line, which 60 to 80 and the fork build on."""
    mode = "sync" if variant in {"inline", "cipher"} else "async"
    with stored_as(variant, monkeypatch) as options, make_saver(**options) as saver:
        for thread in ("t", LONG, "t_b"):
            fill(saver, thread)
        put(saver, "elsewhere", 7, run="run of sub:2")
        put(saver, "elsewhere", 8, 7, run="run 9")
        before = {thread: everything(saver, thread) for thread in ("t", LONG, "t_b", "elsewhere")}
    runs = ["run 1", "run of sub:2", "run of lasting", "no such run"]
    async with make_saver(**options) as saver:
        await call(saver, mode, "delete_for_runs", runs)
    for thread, found in before.items():
        left = without(found, *runs)
        assert len(left) < len(found)
        check(make_saver, thread, left, **options)
    documents, objects = raw.snapshot()
    assert not [name for run in runs for name in run_docs(raw, run)]
    gone = {cid(n) for n in (30, 40, 50, 83, 84, 26, 36, 56, 86)}
    assert not {keys.writes_checkpoint_id_of(name) for name in documents if f"/{keys.WRITES}/" in name} & gone
    assert not [name for name in objects if any(f"/{one}/~writes" in name for one in gone)]
    with make_saver(**options) as saver:
        for thread in before:
            saver.delete_thread(thread)
    assert raw.snapshot() == ({}, {})


@MOSTLY_LOCAL
async def test_what_is_left_is_not_flagged(make_saver, mode):
    """The newest were deleted, not lost. So the one before is the latest now, and the graph continues from it."""
    with make_saver() as saver:
        for n in range(10, 61, 10):
            put(saver, "t", n, n - 10 or None, run=f"run {n // 30}")
        before = everything(saver)
    async with make_saver() as saver:
        for runs, newest in ((["run 2"], 50), (["run 1"], 20)):
            await call(saver, mode, "delete_for_runs", runs)
            before = without(before, *runs)
            check(make_saver, "t", before)
            assert max(before) == ("", newest)
            assert "recovered_from" not in saver.get_tuple(cfg()).metadata
    with make_saver() as saver:
        put(saver, "t", 70, 20, run="run 3")
        before = {**before, ("", 70): everything(saver)["", 70]}
    check(make_saver, "t", before)


async def test_a_thread_whose_checkpoints_are_all_gone(make_saver, raw, mode):
    """The thread reads like one that was never written. Any process can write to it again, including this one."""
    async with make_saver() as saver:
        for n in (10, 20):
            put(saver, "t", n, n - 10 or None, run="run")
        put(saver, "t", 5, ns="sub", run="other")
        await call(saver, mode, "delete_for_runs", ["run"])
        for one in (saver, make_saver()):
            assert one.get_tuple(cfg()) is None
            assert everything(one).keys() == {("sub", 5)}
            assert list(one.admin.verify(depth="data")) == []
        put(saver, "t", 30, run="new")
        # … and when that is lost, it is noticed.
        assert raw.documents()[keys.thread_doc("t")].get("root") is True
        assert everything(saver).keys() == {("sub", 5), ("", 30)}


@pytest.mark.parametrize("run", ["run", "ü/" * 100, "0", "__x__"])
@MOSTLY_LOCAL
async def test_ids_of_runs(make_saver, raw, run, mode):
    async with make_saver() as saver:
        put(saver, LONG, 1, run="kept")
        put(saver, LONG, 2, 1, run=run)
        assert len(run_docs(raw, run)) == 1
        await call(saver, mode, "delete_for_runs", [run])
    assert run_docs(raw, run) == []
    with make_saver() as saver:
        assert everything(saver, LONG).keys() == {("", 1)}


@MOSTLY_LOCAL
async def test_a_number_as_id(make_saver, mode):
    async with make_saver() as saver:
        put(saver, "t", 1, run="5")
        await call(saver, mode, "delete_for_runs", [5])
        assert everything(saver) == {}


@MOSTLY_LOCAL
async def test_unknown_runs_and_none(make_saver, raw, mode):
    async with make_saver() as saver:
        await call(saver, mode, "delete_for_runs", ["none", ""])
        await call(saver, mode, "delete_for_runs", [])
        assert raw.snapshot() == ({}, {})
        put(saver, "t", 1, run="run")
        stored = raw.snapshot()
        await call(saver, mode, "delete_for_runs", ["none", "ru", "run 1"])
    assert raw.snapshot() == stored


@MOSTLY_LOCAL
async def test_a_plan_and_what_it_says(make_saver, raw, mode):
    with make_saver() as saver:
        fill(saver)
        put(saver, "u", 1, run="run 1")
        before = everything(saver)
    stored = raw.snapshot()
    seen = Seen()
    async with make_saver(interceptors=[seen]) as saver:
        planned, nothing = await call(saver, mode, "plan_delete_for_runs", ["run 1", "none"])
        assert seen.only_reads()
        assert raw.snapshot() == stored
        assert (planned.run_id, nothing.run_id, nothing.threads) == ("run 1", "none", ())
        plans = {plan.thread_id: plan for plan in planned.threads}
        assert sorted(plans) == ["t", "u"]
        assert plans["u"].dropped == (cid(1),)
        assert plans["t"].dropped == tuple(cid(n) for n in (50, 40, 30))
        assert f"  {cid(30)}: drop\n" in str(planned)
        assert await call(saver, mode, "carry_out", planned) == planned
    check(make_saver, "t", without(before, "run 1"))


@MOSTLY_LOCAL
async def test_again_it_changes_nothing(make_saver, raw, mode):
    with make_saver() as saver:
        fill(saver)
        saver.delete_for_runs(["run 1"])
    stored = raw.snapshot()
    seen = Seen()
    async with make_saver(interceptors=[seen]) as saver:
        await call(saver, mode, "delete_for_runs", ["run 1"])
        assert seen.only_reads()
    assert raw.snapshot() == stored


@MOSTLY_LOCAL
async def test_pins_and_interrupts_do_not_hold_them(make_saver, mode):
    async with make_saver() as saver:
        fill(saver)
        saver.admin.pin(cfg(n=46), "mine")
        await call(saver, mode, "delete_for_runs", ["fork"])
        assert saver.admin.pins(cfg()) == {}
        assert ("", 46) not in everything(saver)


@MOSTLY_LOCAL
async def test_a_checkpoint_that_several_runs_wrote(make_saver, mode):
    """The last run's content is stored, and is deleted with that run only. No finding mentions the other runs."""
    async with make_saver() as saver:
        put(saver, "t", 10, run="first")
        put(saver, "t", 20, 10, run="first")
        put(saver, "t", 20, 10, run="second", salt="other")
        before = everything(saver)
        await call(saver, mode, "delete_for_runs", ["first"])
        check(make_saver, "t", without(before, "first"), orphans=True)
        await call(saver, mode, "delete_for_runs", ["second"])
        assert everything(saver) == {}
        assert saver.get_tuple(cfg()) is None


async def test_after_pruning(make_saver, raw, mode):
    """Documents that were stripped already, and the runs that wrote them."""
    with make_saver(inline_max_bytes=2000) as saver:
        fill(saver)
        saver.prune(["t"], strategy=KeepLast(2))
        before = everything(saver)
    async with make_saver() as saver:
        runs = sorted({one[2]["run_id"] for one in before.values()} - {"run 2"})
        await call(saver, mode, "delete_for_runs", runs)
        check(make_saver, "t", without(before, *runs))
        await call(saver, mode, "delete_for_runs", ["run 2"])
    # Nothing is left but the thread's document, and the writes of a checkpoint that was never stored.
    documents, objects = raw.snapshot()
    assert objects == {}
    assert [name.split("/")[-2] for name in sorted(documents)] == ["lg_threads", "lg_writes"]


def concatenate(value, updates):
    return [*value, *(item for update in updates for item in update)]


class State(TypedDict):
    seen: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=50)]


@MOSTLY_LOCAL
async def test_a_delta_channel_that_has_lost_its_history(make_saver, mode):
    """It raises; it does not become another value. What was before the run is as it was."""
    builder = StateGraph(State).add_node("node", lambda state: {"seen": [len(state["seen"])]}).add_edge(START, "node")

    def config(run):
        return {"configurable": {"thread_id": "t"}, "metadata": {"run_id": run}}

    async with make_saver() as saver:
        graph = builder.compile(checkpointer=saver)
        for run in ("one", "two", "three"):
            graph.invoke({"seen": [run]}, config(run))
        assert {found.metadata["run_id"] for found in saver.list(cfg())} == {"one", "two", "three"}
        last_of_one = next(saver.list(cfg(), filter={"run_id": "one"}))
        newest = saver.get_tuple(cfg())
        await call(saver, mode, "delete_for_runs", ["two"])
        api = Api(saver, mode)
        with pytest.raises(CheckpointCorruptError):
            await api.delta_history(newest.config, ["seen"])
        with pytest.raises(CheckpointCorruptError):
            graph.get_state(cfg())
        assert graph.get_state(last_of_one.config).values == {"seen": ["one", 1]}
        # Without the run that needs them, all is well again.
        await call(saver, mode, "delete_for_runs", ["three"])
        assert graph.get_state(cfg()).values == {"seen": ["one", 1]}
        assert graph.invoke({"seen": ["on"]}, config("four")) == {"seen": ["one", 1, "on", 3]}


@MOSTLY_LOCAL
async def test_a_history_by_hand(make_saver, mode):
    """Values that are stored after the gap do not need what is gone."""
    async with make_saver() as saver:
        for n, values in ((1, {}), (2, {}), (3, {"a": "stored"}), (4, {}), (5, {})):
            more = metadata(run_id="gone" if n == 2 else "kept")
            versions = {**dict.fromkeys(values, version(n)), "b": version(1)}
            saver.put(cfg(n=n - 1 or None), checkpoint(n, values, versions), more, dict.fromkeys(values, version(n)))
            saver.put_writes(cfg(n=n), [("a", n), ("b", n)], "task")
        await call(saver, mode, "delete_for_runs", ["gone"])
        api = Api(saver, mode)
        assert (await api.delta_history(cfg(n=5), ["a"]))["a"] == {
            "seed": "stored",
            "writes": [("task", "a", 3), ("task", "a", 4)],
        }
        with pytest.raises(CheckpointCorruptError) as caught:
            await api.delta_history(cfg(n=5), ["a", "b"])
        assert caught.value.checkpoint_id == cid(2)
        assert saver.get_tuple(cfg(n=2)) is None


@pytest.mark.parametrize("after", ["nothing", "delete_thread"])
def test_what_a_crash_leaves_is_not_forgotten(tmp_path, after):
    """Wherever a call crashed, a second call leaves nothing of the run."""
    stop, is_dead = 0, True
    while is_dead:
        uri = f"file://{tmp_path}/{stop}"

        def open_saver(uri=uri, **options):
            return CrashingSaver.from_conn_string(uri, **options)

        with open_saver() as saver:
            put(saver, "t", 1, run="gone")
            put(saver, "t", 2, 1, run="kept")
            put(saver, "t", 3, 2, run="gone")
            put(saver, "u", 1, run="gone")
            put(saver, "u", 2, 1, run="gone")
            saver.put_writes(cfg("u", n=1), [("messages", noise("x", 150_000))], "task")
            before = everything(saver)
        with open_saver() as saver:
            saver.plan = Plan(stop)
            try:
                saver.delete_for_runs(["gone"])
            except Crashed:
                is_dead = True
            else:
                is_dead = False
        with open_saver() as saver:
            if after == "delete_thread":
                for thread in ("t", "u"):
                    saver.delete_thread(thread)
                raw = saver.raw()
                assert (raw.documents, raw.objects) == ({}, {}), f"stopped after {stop}"
            else:
                saver.delete_for_runs(["gone"])
                check(open_saver, "t", without(before, "gone"))
                check(open_saver, "u", {})
                assert saver.get_tuple(cfg("u")) is None, f"stopped after {stop}"
                names = {name for name in saver.raw().documents if name.startswith("lg_runs/")}
                assert names == {keys.run_doc("kept", "t")}
        stop += 1
    assert stop > 12


def test_what_a_dead_deletion_left_is_found(tmp_path, monkeypatch):
    """Wherever a deletion of the thread crashed, checkpoints that it had not reached still belong to their runs."""
    monkeypatch.setattr(limits, "COMMIT_WRITES", 2)
    stop, is_dead = 0, True
    while is_dead:
        uri = f"file://{tmp_path}/{stop}"
        with CrashingSaver.from_conn_string(uri) as saver:
            for n in range(1, 7):
                put(saver, "t", n, n - 1 or None, run=f"run {n % 2}")
        with CrashingSaver.from_conn_string(uri) as saver:
            saver.plan = Plan(stop)
            try:
                saver.delete_thread("t")
            except Crashed:
                is_dead = True
            else:
                is_dead = False
        with impatient(CrashingSaver.from_conn_string(uri)) as saver:
            try:
                saver.delete_for_runs(["run 0"])
            except ConflictError as error:
                assert "marked as being deleted" in str(error)  # noqa: PT017
                saver.admin.repair("t")
                saver.delete_for_runs(["run 0"])
            assert {one.metadata["run_id"] for one in saver.list(cfg("t"))} <= {"run 1"}, f"stopped after {stop}"
            saver.delete_thread("t")
            assert saver.raw().documents == {}, f"stopped after {stop}"
        stop += 1
    assert stop > 6


@MOSTLY_LOCAL
async def test_rounds(make_saver, mode):
    """A thread after another; each in few rounds."""
    counts = []
    count = CountingInterceptor()
    async with make_saver(interceptors=[count]) as saver:
        for run, total in (("few", 2), ("many", 8)):
            for n in range(total):
                put(saver, f"{run} {n}", 1, run="kept")
                put(saver, f"{run} {n}", 2, 1, run=run)
            count.clear()
            await call(saver, mode, "delete_for_runs", [run])
            counts.append(len(count.rounds))
    assert counts[1] - counts[0] <= 6 * 15


@MOSTLY_LOCAL
async def test_a_plan_deletes_only_what_it_shows(make_saver, raw, mode):
    """Neither what the run has written since, nor what a changed field now says to be the run's."""
    async with make_saver() as saver:
        put(saver, "t", 10, run="other")
        put(saver, "t", 20, 10, run="run")
        put(saver, "t", 30, 20, run="run")
        (plan,) = await call(saver, mode, "plan_delete_for_runs", ["run"])
        assert plan.threads[0].dropped == (cid(30), cid(20))
        put(saver, "t", 40, 30, run="run")
        put(saver, "u", 10, run="run")
    before = {thread: everything(make_saver(), thread) for thread in ("t", "u")}

    def rename(n, run):
        name = keys.checkpoint_doc("t", "", cid(n))
        raw.set_document(name, {**raw.documents()[name], "run_id": run})

    rename(10, "run")
    rename(20, "other")
    async with make_saver() as saver:
        done = await call(saver, mode, "carry_out", plan)
        assert done.threads[0].dropped == (cid(30),), "of the planned ones, what is still the run's"
        rename(10, "other")
        rename(20, "run")
        check(make_saver, "t", {key: one for key, one in before["t"].items() if key != ("", 30)})
        check(make_saver, "u", before["u"])
        assert len(run_docs(raw, "run")) == 2, "it has written to both threads, and is found again"
        await call(saver, mode, "delete_for_runs", ["run"])
        assert run_docs(raw, "run") == []
