"""Sagas in real stores: what other methods do with them, and crashes before and after every effect."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest

from langgraph_gcs_saver.engine.effects import REQUESTS, Commit
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    ConflictError,
    DamageError,
    InvalidInputError,
    OperationInProgressError,
    OperationMismatchError,
    SagaError,
    SagaRolledBack,
    SagaStuckError,
    ValueTooLargeError,
)
from langgraph_gcs_saver.flows import operations, sagas
from langgraph_gcs_saver.flows.operations import Call, Claim, Outcome, Part
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import Undo
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import cfg, checkpoint, metadata
from tests.incremental.eax import Eax
from tests.kit.performing import rounds_of
from tests.stateful.threads import LONG, MOSTLY_LOCAL
from tests.system.raw import open_raw

NOW = timedelta(0)
RESULT = Serialized("text", b"a receipt")
REQUEST = Serialized("json", b'{"city": "Oslo"}')
UNDO = Undo("cancel", 1, REQUEST)
STEPS = ("hotel", "flight", "pay")


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


class World:
    """What happens outside of the store: each step and undo appends its key."""

    def __init__(self):
        self.booked, self.undone = [], []

    @property
    def left(self):
        return [key for key in self.booked if key not in self.undone]


class Handle:
    """A process that uses a saga as its handle does."""

    def __init__(self, saver, world=None, thread="t", saga_id="trip"):
        self.saver, self.world, self.numbers = saver, world or World(), count()
        self.thread, self.id = thread, saga_id
        self.saga = self.do(sagas.open_(thread, saga_id, self.nonce(), self.context))

    @property
    def context(self):
        return self.saver._context

    def do(self, flow):
        return run(flow, self.saver._backend)

    def nonce(self):
        return self.saver._context.new_attempt()

    def claim(self, name, *, undo=UNDO, request="request", key=None, timeout=60.0, nonce=None):
        call = Call(
            self.thread,
            key or sagas.step_key(self.id, name),
            name,
            request,
            nonce or self.nonce(),
            keep=0.0,
            timeout=timeout,
            part=Part(self.saga, name, undo),
        )
        return self.do(operations.claim(call, self.context))

    def record(self, claimed, state="done", value=RESULT):
        return self.do(operations.record_outcome(claimed, Outcome(state, value), self.context))

    def step(self, name, *, state="done", **options):
        found = self.claim(name, **options)
        if isinstance(found, Claim):
            if state == "done":
                self.world.booked.append(sagas.provider_key(found.operation))
            found = self.record(found, state)
        return found.state

    def savepoint(self, name, checkpoint_id=None):
        self.saga = self.do(sagas.savepoint(self.saga, name, checkpoint_id, self.context))

    def mark(self, target=None):
        self.saga = self.do(sagas.mark(self.saga, self.nonce(), target, None, self.context))
        return sagas.to_undo(self.saga, self.steps()) if self.saga.state == "compensating" else []

    def steps(self):
        return self.do(sagas.steps(self.saga, self.context))

    def info(self):
        return self.do(sagas.info(self.saga, self.context))

    def undo(self, step, *, over=None, timeout=60.0):
        if step.state == "failed":
            return self.do(sagas.undoing(self.saga, step, self.nonce(), self.context))
        call = replace(sagas.undo_call(self.saga, step, self.nonce()), timeout=timeout)
        found = self.do(operations.claim(call, self.context, over))
        if isinstance(found, Claim):
            self.world.undone.append(sagas.provider_key(step))
            found = self.record(found, value=None)
        return found

    def roll_back(self, target=None):
        """Roll back, or complete a rollback; the state in which that ends."""
        left = self.mark(target)
        if self.saga.state == "compensated":
            return "compensated"
        if any(sagas.problem(one) for one in left):
            return self.end("stuck")
        for one in left:
            try:
                found = self.undo(one, timeout=0.0)
            except OperationInProgressError:
                return self.end("stuck")
            if found.state not in ("done", "failed"):
                return self.end("stuck")
        return self.end("compensated")

    def end(self, state):
        self.saga = self.do((sagas.stuck if state == "stuck" else sagas.compensated)(self.saga, self.context))
        return self.saga.state

    def resume(self):
        self.saga = self.do(sagas.resumed(self.saga, self.context))

    def again(self):
        return Handle(self.saver, self.world, self.thread, self.id)


def put(saver, number, thread="t"):
    saver.put(cfg(thread, n=number - 1 or None), checkpoint(number), metadata(step=number), {})
    return checkpoint(number)["id"]


def listed(saver, thread=None):
    """The states of the rollbacks that have not ended, of one thread or of all."""
    return [one.state for one in saver.admin.rollbacks() if thread in (None, one.thread_id)]


def held(raw):
    return [name for name, fields in raw.documents().items() if fields.get("holds")]


# One saga


@pytest.mark.parametrize("thread", ["t", LONG], ids=["short", "long"])
def test_a_saga_is_rolled_back_to_a_savepoint_and_continues(make_saver, raw, thread):
    saver = make_saver()
    trip = Handle(saver, thread=thread)
    assert trip.step("hotel") == "done"
    trip.savepoint("before flight", put(saver, 1, thread))
    trip.step("flight")
    trip.savepoint("before payment", put(saver, 2, thread))
    trip.step("pay", state="failed")
    old = trip.again()
    assert trip.roll_back("before flight") == "compensated"
    assert trip.world.undone == ["saga trip flight"]
    assert [step.state for step in trip.info().steps] == ["done", "undone", "failed"]
    assert not trip.saga.has_ended, "it continues"
    assert len(held(raw)) == 2
    trip.resume()
    assert (trip.saga.state, trip.saga.epoch, trip.saga.names) == ("running", 1, ("before flight",))
    assert len(held(raw)) == 1
    for call in (lambda: old.step("flight"), old.roll_back, lambda: old.savepoint("late")):
        with pytest.raises(SagaRolledBack):
            call()
    assert trip.step("hotel") == "done", "it was kept"
    assert trip.step("flight", request="another flight") == "done"
    assert trip.step("pay") == "done"
    # To the provider, a step after its undo is another request.
    assert trip.world.booked == ["saga trip hotel", "saga trip flight", "saga trip flight 1", "saga trip pay 1"]
    trip.saga = trip.do(sagas.finish(trip.saga, trip.context))
    assert trip.do(sagas.finish(trip.saga, trip.context)).state == "done"
    (listed,) = trip.do(sagas.listed(thread, trip.context))
    assert (listed.thread_id, listed.state, listed.epoch) == (thread, "done", 1)
    assert list(listed.savepoints.values()) == [checkpoint(1)["id"]]
    # A saga that is done can still be rolled back, and returns what it knows until then.
    assert trip.again().step("pay") == "done"
    with pytest.raises(SagaError, match="the saga is done"):
        trip.again().step("taxi")
    assert trip.roll_back() == "compensated"
    assert trip.world.left == []
    assert trip.world.undone[1:] == ["saga trip pay 1", "saga trip flight 1", "saga trip hotel"]
    assert trip.saga.has_ended
    assert list(saver.admin.verify(thread, depth="data")) == []


def test_a_savepoint_holds_its_checkpoint_and_repeats_nothing(make_saver, raw):
    saver = make_saver()
    trip = Handle(saver)
    trip.savepoint("first", put(saver, 1))
    put(saver, 2)
    put(saver, 3)
    saver.admin.prune(["t"], strategy=KeepLast(1))
    kept = {one.config["configurable"]["checkpoint_id"] for one in saver.list(cfg("t"))}
    assert kept == {checkpoint(1)["id"], checkpoint(3)["id"]}
    trip.again().savepoint("first", checkpoint(3)["id"])
    assert len(held(raw)) == 1
    with pytest.raises(InvalidInputError, match="no checkpoint"):
        trip.savepoint("second", "1f0-missing")
    for target in ("second", "third"):
        with pytest.raises(InvalidInputError, match="It has: 'first'"):
            trip.mark(target)


@MOSTLY_LOCAL
def test_a_saga_has_a_limited_number_of_savepoints(make_saver, monkeypatch):
    monkeypatch.setattr(sagas, "MAX_SAVEPOINTS", 2)
    trip = Handle(make_saver())
    for name in ("first", "second", "second"):
        trip.savepoint(name)
    with pytest.raises(InvalidInputError, match="at most 2 savepoints"):
        trip.savepoint("third")
    trip.savepoint("first")
    assert trip.saga.names == ("first", "second")


@MOSTLY_LOCAL
def test_verify_misses_the_checkpoint_of_a_savepoint_until_the_saga_has_ended(make_saver, raw):
    trip = Handle(make_saver())
    trip.savepoint("first", put(trip.saver, 1))
    put(trip.saver, 2)
    assert list(trip.saver.admin.verify("t")) == []
    (name,) = held(raw)
    raw.delete_document(name)
    (found,) = [one for one in trip.saver.admin.verify("t") if one.name == name]
    assert (found.kind, found.checkpoint_id) == ("missing", checkpoint(1)["id"])
    assert found.reason == "savepoint 'first' of saga 'trip' holds it, and it is missing"
    trip.do(sagas.finish(trip.saga, trip.context))
    assert [one for one in trip.saver.admin.verify("t") if one.name == name] == []


def test_a_step_that_was_claimed_before_the_mark_stops_the_rollback_until_it_is_known(make_saver):
    trip = Handle(make_saver())
    trip.step("hotel")
    claimed = trip.claim("flight")
    other = trip.again()
    assert other.roll_back() == "stuck"
    assert [step.problem for step in other.info().steps] == [None, "its outcome is unknown"]
    with pytest.raises(SagaStuckError) as error:
        trip.do(sagas.finish(replace(trip.saga, state="running"), trip.context))
    assert error.value.steps == ("flight",)
    assert trip.world.undone == []
    trip.world.booked.append("saga trip flight")
    assert trip.record(claimed).state == "done", "its process lives, and must be able to record it"
    with pytest.raises(SagaRolledBack):
        trip.step("pay")
    assert other.again().roll_back() == "compensated"
    assert trip.world.undone == ["saga trip flight", "saga trip hotel"]


@MOSTLY_LOCAL
def test_an_outcome_that_comes_after_the_end_of_a_rollback_is_shown_and_undone(make_saver):
    trip = Handle(make_saver())
    claimed = trip.claim("hotel", timeout=0.0)
    trip.do(operations.resolve("t", "saga trip hotel", None, trip.context))
    other = trip.again()
    assert other.roll_back() == "compensated", "a person has said that the step was not done"
    trip.world.booked.append("saga trip hotel")
    trip.record(claimed)
    (step,) = other.info().steps
    assert (step.state, step.problem) == ("done", "its outcome was recorded after the rollback: roll back again")
    assert other.again().roll_back() == "compensated"
    assert trip.world.left == []


def test_an_undo_that_fails_is_settled_by_a_person(make_saver):
    trip = Handle(make_saver())
    trip.step("hotel")
    trip.step("flight")
    flight, hotel = trip.mark()
    claimed = trip.do(sagas.undoing(trip.saga, flight, "nonce", trip.context))
    trip.record(claimed, "unknown", None)
    assert trip.end("stuck") == "stuck"
    assert [step.problem for step in trip.info().steps] == [None, "the outcome of its undo is unknown"]
    trip.mark()
    with pytest.raises(SagaStuckError) as error:
        trip.end("compensated")
    assert error.value.steps == ("flight", "hotel")
    # That the undo is done, and the note in its step, are one commit.
    trip.do(operations.resolve("t", sagas.undo_key(flight), Outcome("done"), trip.context))
    assert [step.state for step in trip.info().steps] == ["done", "undone"]
    assert trip.roll_back() == "compensated"
    assert trip.world.undone == [hotel.key]


@MOSTLY_LOCAL
def test_an_undo_may_be_repeated_if_its_caller_allows_it(make_saver):
    trip = Handle(make_saver())
    trip.step("hotel")
    (hotel,) = trip.mark()
    trip.record(trip.do(sagas.undoing(trip.saga, hotel, "nonce", trip.context)), "unknown", None)
    unknown = trip.do(sagas.undoing(trip.saga, hotel, "other", trip.context))
    assert (unknown.state, trip.world.undone) == ("unknown", [])
    assert trip.undo(hotel, over=unknown).attempt.number == 2
    assert trip.end("compensated") == "compensated"


@MOSTLY_LOCAL
def test_an_irreversible_step_stops_a_rollback_and_a_person_settles_it(make_saver):
    trip = Handle(make_saver())
    trip.step("letter", undo=None)
    (letter,) = trip.mark()
    assert sagas.problem(letter) == "it is irreversible"
    assert trip.undo(letter).name == "by hand"
    assert trip.end("compensated") == "compensated"


@MOSTLY_LOCAL
def test_a_step_whose_claim_is_withdrawn_after_its_undo_was_not_done(make_saver):
    trip = Handle(make_saver())
    trip.savepoint("first")
    trip.step("hotel")
    trip.roll_back("first")
    trip.resume()
    trip.do(operations.withdraw(trip.claim("hotel"), trip.context))
    assert [step.state for step in trip.info().steps] == ["not-done"]
    assert trip.step("hotel") == "done"
    assert trip.roll_back() == "compensated"
    assert trip.world.left == []


@MOSTLY_LOCAL
def test_a_rollback_only_moves_to_earlier_targets(make_saver):
    trip = Handle(make_saver())
    trip.savepoint("first")
    trip.step("hotel")
    trip.mark()
    with pytest.raises(InvalidInputError, match="to its beginning already"):
        trip.again().mark("first")
    other, (hotel,) = trip.again(), trip.steps()
    other.mark()
    with pytest.raises(SagaError, match="another process has taken over"):
        trip.undo(hotel)
    other.undo(hotel)
    assert trip.undo(hotel).state == "done", "it is not performed again"
    assert trip.world.undone == ["saga trip hotel"]
    other.end("compensated")
    with pytest.raises(SagaError, match="Another process has taken over"):
        trip.end("stuck")


@MOSTLY_LOCAL
def test_a_key_belongs_to_one_step(make_saver):
    trip = Handle(make_saver())
    trip.step("hotel", key="key")
    other = Handle(trip.saver, saga_id="other")
    plain = Call("t", "key", "hotel", "request", "nonce")
    for call in (
        lambda: trip.step("flight", key="key"),
        lambda: trip.step("hotel", key="key", request="another"),
        lambda: other.step("hotel", key="key"),
        lambda: trip.do(operations.claim(plain, trip.context)),
    ):
        with pytest.raises(OperationMismatchError):
            call()


@MOSTLY_LOCAL
def test_a_request_too_large_for_its_undo_is_refused_before_the_step(make_saver, raw):
    trip = Handle(make_saver())
    for size, fits in ((128 << 10, True), ((128 << 10) + 1, False)):
        undo = Undo("cancel", 1, Serialized("bytes", bytes(size)))
        if fits:
            assert trip.step("hotel", undo=undo) == "done"
        else:
            with pytest.raises(ValueTooLargeError, match="was not started"):
                trip.step("flight", undo=undo)
    assert [step.name for step in trip.info().steps] == ["hotel"]


def test_a_step_costs_a_claim_and_a_record(make_saver):
    trip, rounds = Handle(make_saver()), []
    trip.step("hotel")
    trip.do = lambda flow: run(rounds_of(flow, rounds), trip.saver._backend)
    trip.step("flight")
    requests = [effects for effects in rounds if isinstance(effects[0], REQUESTS)]
    assert [[type(effect) for effect in effects] for effects in requests] == [[Commit], [Commit]]


# Other methods


@pytest.mark.parametrize("cipher", [None, Eax("the key")], ids=["clear", "encrypted"])
def test_a_thread_is_copied_moved_and_deleted_with_its_sagas(make_saver, raw, tmp_path, cipher):
    saver = make_saver(cipher=cipher)
    for saga_id in ("open", "done", "half"):
        trip = Handle(saver, saga_id=saga_id)
        trip.savepoint("first", put(saver, 1) if saga_id == "open" else None)
        trip.step("hotel")
        if saga_id == "done":
            trip.do(sagas.finish(trip.saga, trip.context))
        if saga_id == "half":
            trip.roll_back("first")
    saver.copy_thread("t", "copy")
    states = {"done": "done", "half": "compensated", "open": "running"}
    assert [(one.thread_id, one.saga_id) for one in saver.admin.rollbacks()] in (
        [("copy", "half"), ("copy", "open")],
        [("copy", "open"), ("copy", "half")],
    )
    copied = {one.saga_id: one for one in trip.do(sagas.listed("copy", trip.context))}
    assert {key: one.state for key, one in copied.items()} == {"done": "done", "half": "stuck", "open": "stuck"}
    assert copied["open"].savepoints == {"first": None}, "a copy holds no checkpoint"
    assert (copied["half"].target, [step.state for step in copied["half"].steps]) == ("first", ["undone"])
    saver.admin.export_thread("t", tmp_path / "t.tar")
    for thread in ("t", "copy"):
        assert list(saver.admin.verify(thread, depth="data")) == []
        saver.delete_thread(thread)
    gone = ("lg_sagas", "lg_operations", "lg_rollbacks")
    assert not [name for name in raw.documents() if any(one in name for one in gone)]
    saver.admin.import_thread(tmp_path / "t.tar")
    assert {one.saga_id: one.state for one in trip.do(sagas.listed("t", trip.context))} == states
    assert list(saver.admin.verify("t", depth="data")) == []
    # A saga belongs to its thread, so the copy's rollback leaves the thread's own alone.
    saver.copy_thread("t", "copy")
    other = Handle(saver, thread="copy", saga_id="open")
    assert other.roll_back() == "compensated"
    assert Handle(saver, saga_id="open").saga.state == "running"


def test_the_rollbacks_of_all_threads_that_have_not_ended_are_listed(make_saver, raw, tmp_path):
    saver = make_saver()
    for thread in ("t", LONG):
        for saga_id in ("running", "done", "back", "begun", "stuck/ed"):
            trip = Handle(saver, thread=thread, saga_id=saga_id)
            trip.step("hotel")
            if saga_id == "done":
                trip.do(sagas.finish(trip.saga, trip.context))
            if saga_id == "stuck/ed":
                trip.claim("pay")
            if saga_id == "begun":
                trip.mark()
            elif saga_id not in ("running", "done"):
                trip.roll_back()
    found = list(saver.admin.rollbacks())
    assert sorted((one.thread_id, one.saga_id, one.state) for one in found) == [
        (thread, *one) for thread in (LONG, "t") for one in (("begun", "compensating"), ("stuck/ed", "stuck"))
    ]
    stuck = list(saver.admin.rollbacks(state="stuck"))
    assert sorted(one.thread_id for one in stuck) == [LONG, "t"]
    assert [step.problem for step in stuck[0].steps] == [None, "its outcome is unknown"]
    saver.admin.export_thread("t", tmp_path / "t.tar")
    saver.delete_thread("t")
    assert sorted((one.thread_id, one.saga_id) for one in saver.admin.rollbacks()) == [
        (LONG, "begun"),
        (LONG, "stuck/ed"),
    ]
    saver.admin.import_thread(tmp_path / "t.tar")
    assert listed(saver, "t").count("stuck") == 1
    # What cannot be read hides nothing else, and what is not a note of this store names nothing.
    raw.set_document(keys.saga_doc(LONG, "begun"), {"format": 1, "state": "compensating", "saga": b""})
    raw.set_document(f"{keys.ROLLBACKS}/{'0' * 64}", {"document": keys.saga_doc("t", "stuck/ed"), "state": "stuck"})
    shown = []
    with pytest.raises(DamageError):
        shown.extend(saver.admin.rollbacks())
    assert sorted((one.thread_id, one.saga_id) for one in shown) == [
        (LONG, "stuck/ed"),
        ("t", "begun"),
        ("t", "stuck/ed"),
    ]
    with pytest.raises(InvalidInputError, match="must be one of compensating, stuck"):
        saver.admin.rollbacks(state="done")


def test_a_list_of_rollbacks_reads_no_other_sagas(make_saver):
    counting = CountingInterceptor()
    saver = make_saver(interceptors=[counting])
    for number in range(8):
        trip = Handle(saver, thread=f"t{number}")
        trip.step("hotel")
        if number < 2:
            trip.mark()
    counting.rounds.clear()
    assert len(list(saver.admin.rollbacks())) == 2
    assert counting.rounds == [("QueryDocs",), ("GetDocs",) * 2, ("QueryDocs",) * 2, ("QueryDocs",) * 2]


def test_collect_deletes_a_saga_that_has_expired_with_its_steps_and_holds(make_saver, raw, monkeypatch):
    monkeypatch.setattr(operations, "INLINE_BYTES", len(REQUEST.data) + 10)
    saver = make_saver()
    for saga_id in ("done", "open", "stuck"):
        trip = Handle(saver, saga_id=saga_id)
        trip.saga = trip.do(sagas.savepoint(trip.saga, "first", put(saver, 1), trip.context))
        trip.step("hotel")
    kept = len(raw.documents())
    assert [plan.sagas for plan in saver.admin.plan_collect("t", orphan_age=NOW)] == []
    done = Handle(saver, saga_id="done")
    done.saga = done.do(sagas.finish(done.saga, done.context))
    stuck = Handle(saver, saga_id="stuck")
    stuck.claim("flight")
    stuck.roll_back()
    assert saver.admin.collect("t", orphan_age=NOW) == []
    for trip in (done, stuck, Handle(saver, saga_id="open")):
        expiring = replace(trip.saga, keep=0.0)
        trip.saga = trip.do(sagas._store(trip.saga, expiring, trip.context))
    (plan,) = saver.admin.plan_collect("t", orphan_age=NOW)
    assert plan.sagas == (keys.saga_doc("t", "done"),)
    assert "1 sagas have expired" in str(plan)
    objects = len(raw.objects())
    assert [one.sagas for one in saver.admin.collect("t", orphan_age=NOW)] == [plan.sagas]
    assert {one.saga_id for one in done.do(sagas.listed("t", done.context))} == {"open", "stuck"}
    assert len(raw.objects()) == objects - 1
    assert len(raw.documents()) == kept + 2 - 2, "the claim and the note of the stuck saga; done, and its step"
    (checkpoint_doc,) = held(raw)
    assert len(raw.documents()[checkpoint_doc]["holds"]) == 2
    assert list(saver.admin.verify("t", depth="data")) == []


@MOSTLY_LOCAL
def test_a_saga_that_was_forgotten_halfway_is_forgotten_when_it_is_opened_again(make_saver, raw, store_uri):
    for stop in count():
        thread = f"t{stop}"
        with make_saver() as saver:
            trip = Handle(saver, thread=thread)
            trip.savepoint("first", put(saver, 1, thread))
            trip.step("hotel")
            done = trip.do(sagas.finish(trip.saga, trip.context))
        with CrashingSaver.from_conn_string(store_uri) as saver:
            saver.plan, crashed = Plan(stop), False
            try:
                run(sagas.forget(done, saver._context), saver._backend)
            except Crashed:
                crashed = True
        with make_saver() as saver:
            trip = Handle(saver, thread=thread)
            if trip.saga.state == "running":
                assert (trip.saga.names, trip.steps()) == ((), [])
            else:
                assert stop <= 1, "only before the mark"
                assert [step.state for step in trip.info().steps] == ["done"]
        if not crashed:
            break
    assert stop > 4


# Crashes


@pytest.mark.parametrize("is_late", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("target", [None, "middle"])
@MOSTLY_LOCAL
def test_a_crash_at_every_effect_leaves_all_undone_or_a_list(make_saver, raw, store_uri, target, is_late):
    """The process runs three steps, and rolls back. Another process completes what a crash has left."""
    for stop in count():
        thread, world, crashed = f"t{stop}", World(), False
        with make_saver() as saver:
            first = put(saver, 1, thread)
        with CrashingSaver.from_conn_string(store_uri) as saver:
            saver.plan = Plan(stop, is_late=is_late)
            try:
                trip = Handle(saver, world, thread)
                for name in STEPS:
                    if name == "flight":
                        trip.savepoint("middle", first)
                    trip.step(name)
                trip.roll_back(target)
                if target is not None:
                    trip.resume()
            except Crashed:
                crashed = True
        with make_saver() as saver:
            trip = Handle(saver, world, thread)
            assert len([name for name in held(raw) if keys.thread_doc(thread) in name]) == len(trip.saga.savepoints)
            assert listed(saver, thread) == ([trip.saga.state] if trip.saga.is_rolling_back else [])
            aim = target if target in trip.saga.names else None
            is_over = trip.saga.state == "compensated" and trip.saga.has_ended
            if trip.saga.epoch == 0 and not is_over:
                with suppress(ConflictError):
                    assert trip.roll_back(aim) in ("compensated", "stuck")
            assert len(set(world.undone)) == len(world.undone), "an undo ran twice"
            steps = {step.name: step for step in trip.info().steps}
            if trip.saga.state == "stuck":
                problems = [name for name, step in steps.items() if step.problem is not None]
                assert len(problems) == 1, "the list is exact"
                assert {key.split()[-1] for key in world.left} - set(problems) <= set(
                    STEPS[: list(steps).index(problems[0])]
                )
            else:
                kept = ["saga trip hotel"] if aim is not None else []
                assert world.left == kept, trip.info()
        if not crashed:
            break
    assert stop > 20
