"""Operations in real stores: what other methods do with them, and crashes before and after every effect."""

import random
import time
from contextlib import suppress
from datetime import timedelta
from itertools import count

import pytest

from langgraph_gcs_saver.engine.effects import REQUESTS, Commit, Delete, GetDocs, Merge, Now
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.errors import (
    ConflictError,
    DamageError,
    InvalidIdError,
    InvalidInputError,
    NotDurableError,
    OperationFencedError,
    OperationInProgressError,
    OperationMismatchError,
    OutcomeUnknownError,
    UnsupportedFormatError,
)
from langgraph_gcs_saver.flows import operations
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.operations import Call, Claim, Outcome
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.results import IdleThread
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg, checkpoint, metadata, version
from tests.incremental.eax import Eax
from tests.kit.performing import rounds_of
from tests.stateful.threads import MOSTLY_LOCAL
from tests.system.raw import open_raw

NOW = timedelta(0)
RESULT = Serialized("text", b"receipt")
LARGE = Serialized("bytes", random.Random(0).randbytes(2000))


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(operations, "INLINE_BYTES", 500)


def do(saver, flow):
    return run(flow, saver._backend)


def call(key="key", nonce="nonce", thread_id="t", **options):
    return Call(thread_id, key, "charge", "request", nonce, **options)


def claim(saver, *args, **options):
    return do(saver, operations.claim(call(*args, **options), saver._context))


def record(saver, claimed, state="done", value=RESULT):
    return do(saver, operations.record_outcome(claimed, Outcome(state, value), saver._context))


def read(saver, key, thread_id="t"):
    return do(saver, operations.read(thread_id, key, saver._context))


def result(saver, key, thread_id="t"):
    return do(saver, operations.read_result(read(saver, key, thread_id), saver._context))


def fill(saver, thread="t"):
    """A thread with a checkpoint, and with operations in several states, one with an object."""
    saver.put(cfg(thread), checkpoint(1, {"v": 1}), metadata(step=1), {"v": version(1)})
    record(saver, claim(saver, "done", "n1", thread))
    record(saver, claim(saver, "large", "n2", thread), value=LARGE)
    record(saver, claim(saver, "failed", "n3", thread), "failed", Serialized("error", b"declined"))
    record(saver, claim(saver, "unknown", "n4", thread), "unknown", None)
    claim(saver, "claimed", "n5", thread)


STATES = {"done": "done", "large": "done", "failed": "failed", "unknown": "unknown", "claimed": "claimed"}


def states(saver, thread):
    return {key: found.state for key in STATES if (found := read(saver, key, thread)) is not None}


def objects_of(raw):
    return [name for name in raw.objects() if "~operations" in name]


@pytest.mark.parametrize("cipher", [None, Eax("the key")], ids=["clear", "encrypted"])
def test_a_thread_is_copied_moved_and_deleted_with_its_operations(make_saver, raw, tmp_path, cipher):
    saver = make_saver(cipher=cipher)
    fill(saver)
    saver.copy_thread("t", "copy")
    assert states(saver, "copy") == STATES | {"claimed": "unknown"}
    assert result(saver, "large", "copy") == LARGE
    assert len(objects_of(raw)) == 2
    saver.admin.export_thread("t", tmp_path / "t.tar")
    for thread in ("t", "copy"):
        assert list(saver.admin.verify(thread, depth="data")) == []
        saver.delete_thread(thread)
    assert objects_of(raw) == []
    assert not [name for name in raw.documents() if "lg_operations" in name]
    saver.admin.import_thread(tmp_path / "t.tar")
    assert states(saver, "t") == STATES
    assert result(saver, "large") == LARGE


@MOSTLY_LOCAL
@pytest.mark.parametrize("cipher", [None, Eax("the key")], ids=["clear", "encrypted"])
def test_a_copy_that_crashes_anywhere_is_completed(make_saver, raw, store_uri, cipher):
    with make_saver(cipher=cipher) as saver:
        fill(saver)
    for stop in count():
        with CrashingSaver.from_conn_string(store_uri, cipher=cipher) as saver:
            saver.plan = Plan(stop)
            try:
                saver.copy_thread("t", "copy")
            except Crashed:
                pass
            else:
                break
        with make_saver(cipher=cipher) as saver:
            with suppress(InvalidInputError):  # it had ended, and only the answer was lost
                saver.copy_thread("t", "copy")
            assert states(saver, "copy") == STATES | {"claimed": "unknown"}
            assert result(saver, "large", "copy") == LARGE
            assert saver.get_tuple(cfg("copy")) is not None
            assert "copying" not in raw.documents()[keys.thread_doc("copy")]
            saver.delete_thread("copy")
    assert stop > 8


def test_collect_keeps_what_is_open_and_deletes_what_has_expired(make_saver, raw):
    saver = make_saver()
    fill(saver)
    assert saver.admin.collect("t", orphan_age=NOW) == []
    for key, value in (("a", RESULT), ("b", LARGE)):
        record(saver, claim(saver, key, keep=0.0), value=value)
    record(saver, claim(saver, "c", keep=0.0), "unknown", None)
    assert len(objects_of(raw)) == 2
    (plan,) = saver.admin.plan_collect("t", orphan_age=NOW)
    assert set(plan.operations) == {keys.operation_doc("t", key) for key in "ab"}
    assert "2 operations have expired" in str(plan)
    (done,) = saver.admin.collect("t", orphan_age=NOW)
    assert set(done.operations) == set(plan.operations)
    assert read(saver, "a") is None
    assert read(saver, "b") is None
    assert read(saver, "c").state == "unknown"
    assert states(saver, "t") == STATES
    assert len(objects_of(raw)) == 1


def test_collect_keeps_to_its_plan_and_includes_what_all_threads_share(make_saver, raw):
    saver = make_saver()
    for thread in ("t", None):
        record(saver, claim(saver, "one", keep=0.0, thread_id=thread), value=LARGE)
        record(saver, claim(saver, "kept", thread_id=thread), value=LARGE)
    plans = {plan.thread_id: plan for plan in saver.admin.plan_collect(orphan_age=NOW)}
    for thread in ("t", None):
        record(saver, claim(saver, "two", keep=0.0, thread_id=thread))
        done = saver.admin.carry_out(plans[thread])
        assert done.operations == (keys.operation_doc(thread, "one"),)
        assert read(saver, "one", thread) is None
    # The answer of a commit was lost, or a crash followed the upload: nothing refers to the object.
    orphan = keys.operation_blob(keys.operation_doc(None, "kept"), "0123456789abcdef")
    run(saver._context.upload(orphan, b"orphan").__iter__(), saver._backend)
    found = {plan.thread_id: plan for plan in saver.admin.collect(orphan_age=NOW)}
    assert found[None].objects.keys() == {orphan}
    assert "Shared operations: " in str(found[None])
    for thread in ("t", None):
        assert read(saver, "two", thread) is None
        assert result(saver, "kept", thread) == LARGE
    assert len(objects_of(raw)) == 2
    assert list(saver.admin.collect(orphan_age=NOW)) == []


def test_an_operation_is_a_use_of_its_thread(make_saver):
    """A sweep would otherwise delete a thread that has only operations, and then they could be performed again."""
    saver = make_saver(ttl=timedelta(hours=1))
    record(saver, claim(saver, "old"))
    name = keys.thread_doc("t")

    (doc,) = saver._backend.documents.get_docs(GetDocs((name,))).values()
    seen = IdleThread(thread_id="t", idle=timedelta(hours=2), seen=doc.update_time)
    later = time.time() + 7200

    def two_hours_later(effect):
        if isinstance(effect, Now):
            return later
        return (yield from effect)

    record(saver, do(saver, through(operations.claim(call("new", "n2"), saver._context), two_hours_later)))
    assert saver.admin.carry_out(seen) is None
    assert read(saver, "old").state == read(saver, "new").state == "done"


def test_a_sweep_takes_operations_with_their_thread_and_repair_leaves_them(make_saver, raw):
    saver = make_saver(ttl=timedelta(hours=1))
    fill(saver)
    assert list(saver.admin.repair("t")) == []
    assert states(saver, "t") == STATES
    (doc,) = saver._backend.documents.get_docs(GetDocs((keys.thread_doc("t"),))).values()
    assert saver.admin.carry_out(IdleThread(thread_id="t", idle=timedelta(hours=2), seen=doc.update_time)) is not None
    assert objects_of(raw) == []
    assert not [name for name in raw.documents() if "lg_operations" in name]


def test_verify_finds_damage_and_collect_leaves_the_thread_alone(make_saver):
    saver = make_saver()
    fill(saver)
    name = keys.operation_doc("t", "done")
    assert saver._backend.documents.commit(Commit((Merge(name, {"state": "unknown"}),)))
    (finding,) = saver.admin.verify("t", depth="metadata")
    assert (finding.kind, finding.name) == ("corrupt", name)
    (plan,) = saver.admin.collect("t", orphan_age=NOW)
    assert name in plan.skipped
    with pytest.raises(OutcomeUnknownError, match="does not match its digest"):
        claim(saver, "done", "another")
    assert saver._backend.documents.commit(Commit((Merge(name, {"format": 2}),)))
    with pytest.raises(OutcomeUnknownError) as caught:
        claim(saver, "done", "another")
    assert isinstance(caught.value.__cause__, UnsupportedFormatError)


def test_a_result_of_another_operation_is_not_taken_for_its_own(make_saver):
    """An attacker without the key can write to the store, and replay what it holds."""
    saver = make_saver(cipher=Eax("the key"))
    record(saver, claim(saver, "a"), value=Serialized("text", b"one"))
    record(saver, claim(saver, "b"), value=Serialized("text", b"two"))
    a, b = keys.operation_doc("t", "a"), keys.operation_doc("t", "b")
    docs = saver._backend.documents.get_docs(GetDocs((a, b)))
    assert b"charge" not in repr(docs[a].fields).encode()
    stolen = Merge(a, {"result": docs[b].fields["result"]}, update_time=docs[a].update_time)
    assert saver._backend.documents.commit(Commit((stolen,)))
    with pytest.raises(DamageError, match="another place"):
        result(saver, "a")
    assert list(saver.admin.verify("t", depth="metadata"))


# One operation


def test_two_rounds(make_saver):
    """The first operation of a process on a thread also reads."""
    saver = make_saver()
    record(saver, claim(saver, "first"))
    rounds = []
    claimed = do(saver, rounds_of(operations.claim(call("second"), saver._context), rounds))
    do(saver, rounds_of(operations.record_outcome(claimed, Outcome("done", RESULT), saver._context), rounds))
    requests = [effects for effects in rounds if isinstance(effects[0], REQUESTS)]
    assert [[type(effect) for effect in effects] for effects in requests] == [[Commit], [Commit]]


def test_repeats(make_saver):
    saver = make_saver()
    claimed = claim(saver)
    assert isinstance(claim(saver), Claim), "the claim of the same call, whose answer was lost"
    with pytest.raises(OperationInProgressError, match="another call has claimed it"):
        claim(saver, nonce="other")
    with pytest.raises(OperationMismatchError, match="another request"):
        do(saver, operations.claim(Call("t", "key", "charge", "other request", "other"), saver._context))
    with pytest.raises(OperationMismatchError, match="the operation 'charge'"):
        do(saver, operations.claim(Call("t", "key", "refund", "request", "other"), saver._context))
    record(saver, claimed)
    assert claim(saver, nonce="other").state == "done"
    assert result(saver, "key") == RESULT


def test_an_operation_without_a_lease_is_unknown_after_its_timeout(make_saver):
    saver = make_saver()
    claimed = claim(saver, timeout=0.0)
    found = claim(saver, nonce="other")
    assert found.state == "unknown"
    assert [one.key for one in do(saver, operations.unresolved("t", saver._context))] == ["key"]
    again = do(saver, operations.claim(call(nonce="third"), saver._context, over=found))
    assert again.operation.attempt.number == 2
    record(saver, again)
    late = record(saver, claimed, value=Serialized("text", b"late"))
    assert [one.nonce for one in late.late] == ["nonce"]
    assert result(saver, "key") == RESULT


def test_a_paused_operation_runs_again(make_saver):
    saver = make_saver()
    record(saver, claim(saver), "paused", None)
    assert claim(saver, nonce="other").operation.attempt.number == 2


def test_what_was_not_sent_leaves_what_was_there(make_saver):
    saver = make_saver()
    do(saver, operations.withdraw(claim(saver), saver._context))
    assert read(saver, "key") is None
    record(saver, claim(saver), "unknown", None)
    again = do(saver, operations.claim(call(nonce="other"), saver._context, over=read(saver, "key")))
    do(saver, operations.withdraw(again, saver._context))
    assert (read(saver, "key").state, read(saver, "key").attempt.nonce) == ("unknown", "nonce")


def test_resolve(make_saver):
    saver = make_saver()

    def resolve(outcome, key="key"):
        return do(saver, operations.resolve("t", key, outcome, saver._context))

    with pytest.raises(InvalidInputError, match="no operation"):
        resolve(None)
    claimed = claim(saver)
    with pytest.raises(OperationInProgressError):
        resolve(None)
    record(saver, claimed, "unknown", None)
    assert resolve(None).state == "not-done"
    with pytest.raises(ConflictError, match="is 'not-done' now"):
        resolve(None)
    record(saver, claim(saver, nonce="second"), "unknown", None)
    assert resolve(Outcome("done", RESULT)).state == "done"
    assert result(saver, "key") == RESULT
    late = record(saver, claimed, value=LARGE)
    assert [one.state for one in late.late] == ["done"]
    assert list(saver.admin.verify("t", depth="data")) == []


def test_the_order_must_be_stored(make_saver):
    saver = make_saver()
    ordered_by = ("", checkpoint(1)["id"])
    with pytest.raises(NotDurableError, match="was not started"):
        claim(saver, ordered_by=ordered_by)
    saver.put(cfg("t"), checkpoint(1, {"v": 1}), metadata(step=1), {"v": version(1)})
    assert isinstance(claim(saver, ordered_by=ordered_by), Claim)


def test_a_lost_lease_begins_nothing_and_records_all_the_same(make_saver):
    saver = make_saver()
    fence = Fence("t", 1, "lease", 0, 60.0)
    write = Merge(fence.name, {"token": 1, "nonce": "lease"})
    (time,) = saver._backend.documents.commit(Commit((write,)))
    fence = Fence("t", 1, "lease", time, 60.0)
    claimed = claim(saver, fence=fence)
    with pytest.raises(OperationInProgressError):
        claim(saver, nonce="other", fence=fence)
    assert saver._backend.documents.commit(Commit((Merge(fence.name, {"token": 2, "nonce": "thief"}),)))
    with pytest.raises(OperationFencedError, match="lost its lease"):
        claim(saver, "another key", fence=fence)
    assert claim(saver, nonce="other").state == "unknown", "the claim of a lease that is no longer the fence's"
    assert record(saver, claimed).state == "done"
    assert saver._backend.documents.commit(Commit((Delete(fence.name),)))


def test_shared_operations(make_saver, raw):
    saver = make_saver()
    record(saver, claim(saver, thread_id=None), value=LARGE)
    assert claim(saver, nonce="other", thread_id=None).state == "done"
    assert result(saver, "key", None) == LARGE
    assert [name for name in objects_of(raw) if "/~operations/" not in f"/{name.removeprefix('agents/')}"] == []


@pytest.mark.parametrize("key", ["\ud800", "k" * 2001])
def test_keys_that_cannot_be_stored(make_saver, key):
    with pytest.raises(InvalidIdError):
        claim(make_saver(), key)


# Crashes


def test_a_crash_before_and_after_every_effect_never_repeats_the_operation(make_saver, store_uri):
    for stop in count():
        thread, effects = f"t{stop}", []

        def once(saver, nonce, thread=thread, effects=effects):
            found = do(saver, operations.claim(call(nonce=nonce, thread_id=thread, timeout=0.0), saver._context))
            if not isinstance(found, Claim):
                return found.state
            effects.append(nonce)
            record(saver, found, value=LARGE)
            return "ran"

        with CrashingSaver.from_conn_string(store_uri) as saver:
            saver.plan = Plan(stop)
            crashed = False
            try:
                once(saver, "first")
            except Crashed:
                crashed = True
        with make_saver() as saver:
            state = once(saver, "second")
            assert len(effects) <= 1
            assert state in ({"ran", "unknown", "done"} if crashed else {"done"})
            if state == "ran":
                assert effects == ["second"]
            if state == "done":
                assert result(saver, "key", thread) == LARGE
        if not crashed:
            break
    assert stop > 6
