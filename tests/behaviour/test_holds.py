"""What a hold means for the calls of a saver: it keeps a checkpoint, is shown, survives repairs, and never moves."""

import json
import time

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Create, Delete, Merge
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ConflictError, ThreadInSetError
from langgraph_gcs_saver.events import ThreadSkipped
from langgraph_gcs_saver.flows import holds, sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import Api, cfg, cid, number
from tests.stateful.threads import MOSTLY_LOCAL, everything, put
from tests.system.raw import open_raw

TEAM = "deal"
ME, OTHER = keys.member_thread_id(TEAM, "me"), keys.member_thread_id(TEAM, "other")
SAVEPOINT = Hold("savepoint", "trip", "before payment")
AT = f"savepoint {SAVEPOINT.name} of saga {SAVEPOINT.owner}"


@pytest.fixture(params=["sync", "async"])
def mode(request):
    return request.param


@pytest.fixture
def raw(store_uri):
    opened = open_raw(store_uri)
    yield opened
    opened.close()


async def call(saver, mode, name, *args, **options):
    return await Api(saver, mode)._call(name, *args, **options)


def perform(saver, flow):
    return run(flow, saver._backend)


def committed(saver, *members):
    """The id of a set of the newest checkpoints of some members."""
    begun = perform(saver, sets.begin(TEAM, members, None, 60.0, saver._context))
    found = perform(saver, sets.prepare(TEAM, begun.set_id, saver._context))
    assert found.state == "committed"
    return found.set_id


def state_of(saver, set_id):
    return perform(saver, sets.read(TEAM, set_id, saver._context)).state


def hold(saver, n, by=SAVEPOINT, thread=ME):
    return perform(saver, holds.hold(thread, cid(n), by.key, saver._context))


def end(saver, set_id):
    perform(saver, sets.end(TEAM, set_id, saver._context))


def steps(saver, thread=ME, last=3, run_id="run"):
    for n in range(1, last + 1):
        put(saver, thread, n, n - 1 or None, run=run_id)


def listed(saver, thread=ME):
    return [number(one) for one in saver.list(cfg(thread))]


async def test_a_held_checkpoint_is_shown_and_kept(make_saver, mode):
    async with make_saver() as saver:
        steps(saver)
        first = committed(saver, "me")
        text = f"set {first} of team {TEAM}"
        assert (await call(saver, mode, "status", ME)).holds == (text,)
        put(saver, ME, 4, 3)
        put(saver, ME, 5, 4)
        assert hold(saver, 2)
        assert hold(saver, 2)
        assert not hold(saver, 77)
        assert (await call(saver, mode, "status", ME)).holds == ()
        assert await call(saver, mode, "holds", cfg(ME)) == {cid(3): (text,), cid(2): (AT,)}
        assert await call(saver, mode, "holds", cfg(ME, "sub")) == {}
        history = await call(saver, mode, "history", ME)
        assert {info.checkpoint_id: info.holds for info in history if info.holds} == {cid(3): (text,), cid(2): (AT,)}
        before = everything(saver, ME)
        (plan,) = await call(saver, mode, "prune", [ME])
        reasons = {one.row.checkpoint_id: one.reason for one in plan.decisions}
        assert reasons == {
            cid(5): "the latest",
            cid(4): None,
            cid(3): f"held by {text}",
            cid(2): f"held by {AT}",
            cid(1): None,
        }
        assert f"{cid(3)}: keep, held by set {first} of team deal\n" in str(plan)
        assert everything(saver, ME) == {key: one for key, one in before.items() if key[1] in {5, 3, 2}}
        end(saver, first)
        perform(saver, holds.unhold(ME, cid(2), SAVEPOINT.key, saver._context))
        await call(saver, mode, "prune", [ME])
        assert listed(saver) == [5]


async def test_a_thread_that_a_set_needs_is_deleted_by_force_only(make_saver, raw, mode):
    async with make_saver() as saver:
        steps(saver)
        steps(saver, OTHER)
        set_id = committed(saver, "me", "other")
        put(saver, ME, 4, 3)
        text = f"set {set_id} of team {TEAM}"
        before = raw.snapshot()
        plan = await call(saver, mode, "plan_delete_thread", ME)
        assert plan.sets == (text,)
        assert f"needed by {text}" in str(plan)
        with pytest.raises(ThreadInSetError, match=rf"'{ME}': {text} needs a checkpoint .*delete with force") as raised:
            await call(saver, mode, "delete_thread", ME)
        assert (raised.value.thread_id, raised.value.sets) == (ME, (text,))
        assert raw.snapshot() == before
        assert state_of(saver, set_id) == "committed"
        put(saver, ME, 5, 4)  # at once: no mark is left

        if mode == "sync":
            saver.admin.delete_thread(ME, force=True)
        else:
            await saver.admin.adelete_thread(ME, force=True)
        assert listed(saver) == []
        assert state_of(saver, set_id) == "broken"
        assert not [name for name in raw.documents() if name.startswith(f"{keys.thread_doc(ME)}/")]
        with pytest.raises(ThreadInSetError):
            saver.delete_thread(OTHER)  # Its hold stays until the set ends.
        end(saver, set_id)
        saver.delete_thread(OTHER)
        assert listed(saver, OTHER) == []


@MOSTLY_LOCAL
def test_a_savepoint_does_not_keep_its_thread(make_saver, raw):
    with make_saver() as saver:
        steps(saver)
        hold(saver, 2)
        assert saver.admin.plan_delete_thread(ME).sets == ()
        saver.delete_thread(ME)
        assert raw.counts() == {"objects": 0}


@pytest.mark.parametrize("by", ["set", "savepoint"])
@MOSTLY_LOCAL
async def test_the_checkpoints_of_a_run(make_saver, raw, mode, by):
    """Those of other threads go, and then the error is raised."""
    async with make_saver() as saver:
        steps(saver, run_id="gone")
        steps(saver, "free", run_id="gone")
        set_id = committed(saver, "me") if by == "set" else None
        if by == "savepoint":
            hold(saver, 2)
        put(saver, ME, 4, 3, run="other")
        with pytest.raises(ThreadInSetError, match="Nothing was deleted"):
            list(saver.admin.plan_delete_for_runs(["gone"]))
        events = []
        saver.subscribe(events.append)
        with pytest.raises(ThreadInSetError) as raised:
            await call(saver, mode, "delete_for_runs", ["gone"])
        assert raised.value.thread_id == ME
        assert [(one.thread_id, one.reason) for one in events if isinstance(one, ThreadSkipped)] == [
            (ME, str(raised.value))
        ]
        assert (listed(saver), listed(saver, "free")) == ([4, 3, 2, 1], [])
        if mode == "sync":
            (done,) = saver.admin.delete_for_runs(["gone"], force=True)
        else:
            (done,) = await saver.admin.adelete_for_runs(["gone"], force=True)
        assert [plan.dropped for plan in done.threads] == [(cid(3), cid(2), cid(1))]
        assert listed(saver) == [4]
        assert set_id is None or state_of(saver, set_id) == "broken"


@MOSTLY_LOCAL
def test_a_plan_does_not_outlive_a_hold(make_saver):
    """Holds that come after a plan was made keep what it would have removed."""
    with make_saver() as saver:
        steps(saver, last=4, run_id="gone")
        (prune,) = saver.admin.plan_prune([ME])
        (runs,) = saver.admin.plan_delete_for_runs(["gone"])
        thread = saver.admin.plan_delete_thread(ME)
        committed(saver, "me")
        hold(saver, 2)
        for plan in (runs, thread):
            with pytest.raises(ThreadInSetError):
                saver.admin.carry_out(plan)
        saver.admin.carry_out(prune)
        assert listed(saver) == [4, 2]


@MOSTLY_LOCAL
async def test_no_call_carries_a_hold(make_saver, tmp_path, mode):
    """A copy, a transfer, an archive and an import leave the holds where the sets are."""
    elsewhere = f"file://{tmp_path}/elsewhere"
    async with make_saver() as saver, GCSSaver.from_conn_string(elsewhere) as there:
        steps(saver)
        committed(saver, "me")
        hold(saver, 2)
        await call(saver, mode, "copy_thread", ME, "copy")
        saver.admin.transfer_thread(ME, there)
        saver.admin.export_thread(ME, tmp_path / "thread.tar")
        assert list(saver.admin.holds(cfg(ME))) == [cid(3), cid(2)]
        assert saver.admin.holds(cfg("copy")) == there.admin.holds(cfg(ME)) == {}
        assert list(there.admin.verify(depth="data")) == list(saver.admin.verify(depth="data")) == []
        there.delete_thread(ME)
        there.admin.import_thread(tmp_path / "thread.tar")
        assert there.admin.holds(cfg(ME)) == {}
        assert everything(there, ME) == everything(saver, ME)
        there.delete_thread(ME)
        saver.delete_thread("copy")


@MOSTLY_LOCAL
def test_a_repair_keeps_holds(make_saver, raw):
    """It rewrites the manifests that need a damaged frame."""
    with make_saver(inline_max_bytes=1000) as saver:
        steps(saver)
        set_id = committed(saver, "me")
        hold(saver, 2)
        found = saver.admin.holds(cfg(ME))
        for name in raw.objects():
            raw.delete_object(name)
    with make_saver(inline_max_bytes=1000) as saver:
        assert list(saver.admin.verify(ME, depth="data"))
        saver.admin.repair(ME)
        still = {info.checkpoint_id for info in saver.admin.history(ME)}
        assert saver.admin.holds(cfg(ME)) == {key: one for key, one in found.items() if key in still}
        # What a repair has set aside is in no set any more.
        aside = [fields for name, fields in raw.documents().items() if f"/{keys.ASIDE}/" in name]
        assert aside
        end(saver, set_id)
        saver.delete_thread(ME)


@MOSTLY_LOCAL
def test_a_put_keeps_a_hold(make_saver):
    """The same checkpoint with the same content, with another, and a child of it."""
    with make_saver() as saver, make_saver() as other:
        steps(saver)
        set_id = committed(other, "me")
        held = {cid(3): (f"set {set_id} of team {TEAM}",)}
        put(saver, ME, 4, 3)
        put(saver, ME, 3, 2)
        assert saver.admin.holds(cfg(ME)) == held
        put(saver, ME, 3, 2, salt="other content")
        assert saver.admin.holds(cfg(ME)) == held
        end(saver, set_id)
        assert other.admin.holds(cfg(ME)) == {}


@MOSTLY_LOCAL
def test_holds_that_no_set_has_written(make_saver, raw):
    """A key of a newer version keeps the checkpoint, and the thread. A value that is no map keeps nothing."""
    with make_saver() as saver:
        steps(saver, last=4)
        for n, odd in ((1, {"tag 7": True}), (2, "set a b"), (3, 7)):
            name = keys.checkpoint_doc(ME, "", cid(n))
            raw.set_document(name, {**raw.documents()[name], "holds": odd})
        assert saver.admin.holds(cfg(ME)) == {cid(1): ("set tag 7 of team ",)}
        saver.prune([ME], strategy=KeepLast(1))
        assert listed(saver) == [4, 1]
        assert hold(saver, 1)
        with pytest.raises(ThreadInSetError):
            saver.delete_thread(ME)
        saver.admin.delete_thread(ME, force=True)
        assert listed(saver) == []


@MOSTLY_LOCAL
def test_a_hold_and_writes_beside_it(make_saver, raw):
    """All of it is one commit. If a document beside has changed, nothing is written."""
    beside = "lg_store/beside"
    with make_saver() as saver:
        steps(saver)
    counting = CountingInterceptor()
    with make_saver(interceptors=[counting]) as saver:

        def change(flow, n, *writes):
            return perform(saver, flow(ME, cid(n), SAVEPOINT.key, saver._context, beside=writes))

        assert change(holds.hold, 2, Create(beside, {"x": 1}))
        assert counting.requests["Commit"] == 1
        with pytest.raises(ConflictError, match="Call again"):
            change(holds.hold, 3, Create(beside, {"x": 2}))
        assert list(saver.admin.holds(cfg(ME))) == [cid(2)]
        assert change(holds.hold, 2, Merge(beside, {"x": 3}))  # held before: the rest is written
        assert not change(holds.hold, 77, Merge(beside, {"x": 4}))
        assert raw.documents()[beside] == {"x": 3}
        with pytest.raises(ConflictError):
            change(holds.unhold, 2, Delete(beside, update_time=1))
        assert change(holds.unhold, 2, Delete(beside))
        assert change(holds.unhold, 2)
        assert saver.admin.holds(cfg(ME)) == {}
        assert beside not in raw.documents()


@pytest.mark.parametrize("what", ["hold", "pin"])
@MOSTLY_LOCAL
def test_a_hold_and_a_pin_count_as_a_use(make_saver, raw, monkeypatch, what):
    """Each changes the thread's document, even two within one second. Their end does not."""
    now = time.time()
    with make_saver() as saver:
        steps(saver)
        monkeypatch.setattr(time, "time", lambda: now)
        name, seen = keys.thread_doc(ME), []
        for n in (1, 2):
            saver.admin.pin(cfg(ME, n=n), "mine") if what == "pin" else hold(saver, n)
            seen.append(json.dumps(raw.documents()[name], sort_keys=True))
        assert seen[0] != seen[1]
        for n in (1, 2):
            saver.admin.unpin(cfg(ME, n=n))
            perform(saver, holds.unhold(ME, cid(n), SAVEPOINT.key, saver._context))
        assert json.dumps(raw.documents()[name], sort_keys=True) == seen[1]
