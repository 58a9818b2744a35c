"""What a saver reports about leases, operations, runs, recoveries and checks: each end once, however it comes about."""

import asyncio
import logging
import os
import threading
import warnings
from contextlib import aclosing, closing, suppress
from functools import partial

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import (
    GCSSaver,
    RunToolsOnce,
    arun,
    astream,
    cadence,
    compensation,
    events,
    operations,
    run,
    stream,
)
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.engine.effects import QueryDocs
from langgraph_gcs_saver.engine.runner import run as perform
from langgraph_gcs_saver.flows import leases as flows_of_leases
from langgraph_gcs_saver.flows import operations as flows_of_operations
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import connection
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from tests.behaviour.test_leases import CUTS, SHORT, Cut, build, config_of, invoke, put
from tests.behaviour.test_recoveries import damage
from tests.behaviour.test_work import INPUT, State, World, config, crash, fail, recover
from tests.compat.xor_cipher import XorCipher
from tests.kit.provider import Provider
from tests.patience import PATIENCE, aeventually, eventually
from tests.system.test_once import take
from tests.system.test_run_tools_once import charging, graph_of, lose_first, ordering

T = "t"
AGENT = {"metadata": {"agent": "billing"}}
LABELS = {"agent": "billing"}


def heard(saver, *kinds):
    """A list of the events of some classes that a saver reports from now on."""
    found = []
    saver.subscribe(lambda event: found.append(event) if isinstance(event, kinds) else None)
    return found


def leases_of(saver):
    return heard(saver, events.LeaseAcquired, events.LeaseEnded)


def pairs(found):
    """The leases that were reported, each as its token and how it ended. Both events of a lease name the same one."""
    begun = [one for one in found if isinstance(one, events.LeaseAcquired)]
    ended = {(one.thread_id, one.token): one for one in found if isinstance(one, events.LeaseEnded)}
    assert len(begun) + len(ended) == len(found), "each end is reported once"
    both = [(one, ended[one.thread_id, one.token]) for one in begun]
    assert all(one.owner == end.owner and end.held >= 0 for one, end in both)
    return [(one.token, end.reason) for one, end in both]


@pytest.fixture
def stores():
    return MemoryDocuments(), MemoryBlobs()


@pytest.fixture
def saver(stores):
    with GCSSaver(stores=stores, labels=["agent"]) as saver:
        yield saver


@pytest.fixture
def other(stores):
    """Another process."""
    with GCSSaver(stores=stores, labels=["agent"]) as saver:
        yield saver


@pytest.fixture
def world():
    return World()


# Leases


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_lease_that_is_released_at_the_end_of_its_block_or_before(saver, is_async):
    async def ablock():
        async with saver.thread(T).lease() as lease:
            await lease.arelease()

    found = leases_of(saver)
    for _ in range(2):
        if is_async:
            asyncio.run(ablock())
        else:
            with saver.thread(T).lease(), suppress(e.ThreadBusyError), saver.thread(T).lease():
                pass
    assert pairs(found) == [(1, "released"), (2, "released")], "the one that was kept out has none"
    assert [type(one).__name__ for one in found] == ["LeaseAcquired", "LeaseEnded"] * 2


def test_a_lease_that_was_lost_is_lost_however_that_is_noticed(saver, other, monkeypatch):
    found = leases_of(saver)
    with saver.thread(T).lease() as lease, other.thread(T).lease(take_over=True), pytest.raises(e.FencedError):
        put(saver, config_of(lease))  # a put that is fenced
    with saver.thread("u").lease(), other.thread("u").lease(take_over=True):
        pass  # the release
    with saver.thread("v").lease(), saver.thread("v").lease(take_over=True):
        pass  # a takeover in the same process
    with saver.thread("w").lease(ttl=SHORT) as lease, other.thread("w").lease(take_over=True):
        saver._leases._beat(lease._held, lambda: lease)  # a beat that finds another holder
        assert lease.lost
    with saver.thread("x").lease(ttl=SHORT) as lease:
        monkeypatch.setattr(flows_of_leases, "beat", unavailable)
        lease._held.confirmed -= 2 * SHORT
        saver._leases._beat(lease._held, lambda: lease)  # beats that have not been answered for too long
        assert lease.lost
    assert pairs(found) == [
        (1, "lost"),
        (1, "lost"),
        (1, "lost"),
        (2, "released"),
        (1, "lost"),
        (1, "lost"),
    ]


def unavailable(*_):
    raise e.StoreUnavailableError("no answer")
    yield


def test_a_lease_says_how_long_it_waited(saver, other):
    found = heard(saver, events.LeaseAcquired)
    with saver.thread(T).lease(), pytest.raises(e.ThreadBusyError), saver.thread(T).lease(wait=0.15):
        pass
    with saver.thread(T).lease(wait=1e300):
        pass
    first = other.thread(T).lease()
    first.__enter__()

    async def wait():
        waiting = asyncio.ensure_future(enter())
        await aeventually(lambda: saver._leases._processes.get().places)
        await first.arelease()
        await waiting

    async def enter():
        async with saver.thread(T).lease(wait=1e9):
            pass

    asyncio.run(wait())
    assert [one.waited for one in found[:2]] == [0.0, 0.0]
    assert found[2].waited > 0


@pytest.mark.parametrize(("error", "is_async", "at", "when"), [one for one in CUTS if one[0] is not KeyboardInterrupt])
def test_a_lease_that_is_cut_off_is_reported_as_a_whole_or_not_at_all(error, is_async, at, when):
    cut = Cut(error, at, when)
    with GCSSaver.from_conn_string("memory:", interceptors=[cut]) as saver:
        found = leases_of(saver)
        put(saver, {"configurable": {"thread_id": T, "checkpoint_ns": ""}})
        lease = saver.thread(T).lease(ttl=1000)

        async def ablock():
            async with lease:
                pass

        def block():
            with lease:
                pass

        cut.begin()
        with suppress(error):
            asyncio.run(ablock()) if is_async else block()
        assert pairs(found) in ([], [(1, "released")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_reports_no_end_of_its_parents_lease(saver):
    read, write = os.pipe()
    found = leases_of(saver)
    with saver.thread(T).lease() as lease:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forking with threads
            pid = os.fork()
        if pid == 0:
            try:
                lease.__exit__(None, None, None)
                lease.release()
                os.write(write, repr([type(one).__name__ for one in found]).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read, 1000) == b"['LeaseAcquired']"
    os.close(read)
    os.close(write)
    assert pairs(found) == [(1, "released")]


# Operations


class DeclinedError(Exception):
    """A card is declined."""


class OfflineError(Exception):
    """Nothing was sent."""


def raising(error):
    def fn():
        raise error

    return fn


def once(saver, is_async, name, fn, **options):
    doing = saver.thread(T).operations
    return asyncio.run(doing.aonce(name, fn, **options)) if is_async else doing.once(name, fn, **options)


def outcomes(found):
    return [(one.thread_id, one.operation, one.state, one.attempt, one.is_recorded) for one in found]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_each_call_of_once_says_what_came_of_the_operation(saver, is_async):
    found = heard(saver, events.OperationEnded)
    for scope, thread_id in (("thread", T), ("store", "")):
        for _ in range(2):
            assert once(saver, is_async, "charge", lambda: 1, key="done", scope=scope) == 1
        assert outcomes(found) == [(thread_id, "charge", "done", 1, False), (thread_id, "charge", "done", 1, True)]
        assert all(one.seconds > 0 for one in found)
        found.clear()
    for _ in range(2):
        with pytest.raises(DeclinedError):
            once(saver, is_async, "pay", raising(DeclinedError()), key="declined", errors=(DeclinedError,))
    assert outcomes(found) == [(T, "pay", "failed", 1, False), (T, "pay", "failed", 1, True)]
    found.clear()
    with pytest.raises(OfflineError):
        once(saver, is_async, "send", raising(OfflineError()), key="offline", not_sent=(OfflineError,))
    once(saver, is_async, "send", lambda: 1, key="offline")
    with pytest.raises(ValueError, match="lost"):
        once(saver, is_async, "mail", raising(ValueError("lost")), key="lost")
    with pytest.raises(e.OutcomeUnknownError):
        once(saver, is_async, "mail", lambda: 1, key="lost")
    once(saver, is_async, "mail", lambda: 1, key="lost", mode="at_least_once")
    assert outcomes(found) == [
        (T, "send", "not_sent", 1, False),
        (T, "send", "done", 1, False),
        (T, "mail", "unknown", 1, False),
        (T, "mail", "unknown", 1, False),
        (T, "mail", "done", 2, False),
    ]
    found.clear()
    with pytest.raises(ValueError, match="lost"):
        once(saver, is_async, "bill", raising(ValueError("lost")), key="asked")
    assert once(saver, is_async, "bill", lambda: 1, key="asked", reconcile=lambda key: 7) == 7
    assert outcomes(found)[1:] == [(T, "bill", "done", 1, True)], "it was found out, and not performed"


def test_a_call_that_began_no_operation_reports_none(saver):
    found = heard(saver, events.OperationEnded)
    doing = saver.thread(T).operations

    def inside():
        with pytest.raises(e.OperationInProgressError):
            doing.once("charge", lambda: 1, key="k")
        return 1

    doing.once("charge", inside, key="k")
    with pytest.raises(e.OperationMismatchError):
        doing.once("refund", lambda: 1, key="k")
    assert outcomes(found) == [(T, "charge", "done", 1, False)]


def test_an_outcome_that_was_not_recorded_or_came_late(saver, monkeypatch):
    found = heard(saver, events.OperationEnded)
    doing = saver.thread("thread-1").operations
    with monkeypatch.context() as patch:
        patch.setattr(flows_of_operations, "record_outcome", unavailable)
        with pytest.raises(e.OutcomeUnknownError):
            doing.once("charge", lambda: 1, key="lost")

    def by_hand():
        take(saver)
        doing.resolve("late", result="by hand")
        return "late"

    def again():
        take(saver)
        with pytest.raises(ValueError, match="lost"):
            doing.once("charge", raising(ValueError("lost")), key="later", mode="at_least_once")
        return "late"

    take(saver)
    assert doing.once("charge", by_hand, key="late") == "by hand"
    with pytest.raises(e.OutcomeUnknownError):
        doing.once("charge", again, key="later")
    assert [one[2:] for one in outcomes(found)] == [
        ("unknown", 1, False),
        ("done", 1, True),  # the outcome that stays
        ("unknown", 2, False),
        ("unknown", 2, False),
    ]


def test_a_question_in_an_operation_pauses_it(saver):
    found = heard(saver, events.OperationEnded)

    def node(state):
        return {"log": [operations().once("ask", lambda: interrupt("sure?"))]}

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a").compile(checkpointer=saver)
    graph.invoke(INPUT, config(), durability="sync")
    graph.invoke(Command(resume="yes"), config(), durability="sync")
    assert [one[2:] for one in outcomes(found)] == [("paused", 1, False), ("done", 2, False)]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_so_does_each_tool_call(saver, tmp_path, is_async):
    found = heard(saver, events.OperationEnded)
    tool = charging(Provider(tmp_path / "calls"), then=lose_first())
    graph = graph_of(saver, [tool], RunToolsOnce(), handle_tool_errors=True)
    for thread_id in (T, T, "u"):
        given, options = ordering(), {"durability": "sync"}
        with suppress(e.OutcomeUnknownError):
            if is_async:
                asyncio.run(graph.ainvoke(given, config(thread_id), **options))
            else:
                graph.invoke(given, config(thread_id), **options)
    assert outcomes(found) == [
        (T, "card", "unknown", 1, False),
        (T, "card", "unknown", 1, False),
        ("u", "card", "done", 1, False),
    ]


# Runs


def ended(found):
    return [(one.outcome, one.is_resumed, one.attempts, one.steps, one.error) for one in found]


def call(how, graph, given=INPUT, thread_id=T, **options):
    """One call of `run`, `arun`, `stream` or `astream` to its end."""
    where = {**config(thread_id), **AGENT}

    async def read():
        return [part async for part in astream(graph, given, where, **options)]

    match how:
        case "run":
            return run(graph, given, where, **options)
        case "arun":
            return asyncio.run(arun(graph, given, where, **options))
        case "stream":
            return list(stream(graph, given, where, **options))
        case _:
            return asyncio.run(read())


@pytest.mark.parametrize("how", ["run", "arun", "stream", "astream"])
def test_each_call_of_run_says_how_it_ended(saver, world, how):
    found = heard(saver, events.RunEnded)
    stored = heard(saver, events.CheckpointSaved)
    graph = world.graph(saver, ask=("sure?",))
    call(how, graph, request_id="r1")
    call(how, graph, request_id="r1")
    call(how, graph, Command(resume="yes"), request_id="r2")
    call(how, graph, request_id="r2")
    assert ended(found) == [
        ("waiting", False, 1, 3, ""),  # the input, the start, and the node before the question
        ("waiting", False, 1, 0, ""),
        ("finished", False, 1, 2, ""),
        ("returned", False, 1, 0, ""),
    ]
    assert sum(one.steps for one in found) == len(stored)
    assert {one.thread_id for one in found} == {T}
    assert [one.labels for one in found] == [LABELS] * 4
    assert all(one.seconds > 0 for one in found)
    assert {one.run_id for one in stored} <= {one.run_id for one in found}
    assert len({one.run_id for one in found}) == 4, "each call has a lease of its own"


@pytest.mark.parametrize("how", ["run", "arun", "stream", "astream"])
def test_a_failure_and_what_resumes_it(saver, world, how):
    found = heard(saver, events.RunEnded)
    graph = world.graph(saver)
    for failing in ({"b"}, {"b"}, set()):
        world.failing = failing
        with suppress(Exception):
            call(how, graph, request_id="r1", durability="sync")
    with saver.thread(T).lease(), pytest.raises(e.ThreadBusyError):
        call(how, graph)
    with pytest.raises(e.InvalidInputError):
        call(how, graph, thread_id="u", ttl=0)
    assert ended(found) == [
        ("failed", False, 1, 3, "BrokenError"),
        ("failed", True, 2, 0, "BrokenError"),
        ("finished", True, 3, 2, ""),
        ("failed", False, 0, 0, "ThreadBusyError"),
    ], "a call whose arguments were rejected has none"


def test_the_run_of_a_config_and_a_lease_of_the_caller(saver, world):
    found = heard(saver, events.RunEnded)
    graph = world.graph(saver).with_config({"metadata": {"agent": "bound"}})
    run(graph, INPUT, {"configurable": {"thread_id": T, "run_id": "mine"}})
    with saver.thread(T).lease() as lease:
        run(graph, INPUT, lease.config)
        assert found[1].run_id == lease.run_id
    assert [one.run_id for one in found][:1] == ["mine"]
    assert [one.labels for one in found] == [{"agent": "bound"}] * 2


def test_a_call_that_langgraph_accepts_is_reported_with_metadata_that_are_no_mapping(saver, world):
    found = heard(saver, events.RunEnded)
    run(world.graph(saver), INPUT, {"configurable": {"thread_id": T}, "metadata": ["agent"]})
    assert [(one.outcome, one.labels) for one in found] == [("finished", {})]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_stream_that_its_reader_leaves(saver, world, parts):
    """Before the graph has finished, it was interrupted. Behind its last part, it has finished."""
    found = heard(saver, events.RunEnded)
    graph = world.graph(saver)

    async def read(thread_id):
        async with aclosing(astream(graph, INPUT, config(thread_id), stream_mode="updates")) as left:
            for _ in range(parts):
                await anext(left)

    asyncio.run(read(T))
    with closing(stream(graph, INPUT, config("u"), stream_mode="updates")) as left:
        for _ in range(parts):
            next(left)
    how = ("interrupted", "GeneratorExit") if parts == 1 else ("finished", "")
    assert [(one.outcome, one.error) for one in found] == [how] * 2
    stream(graph, INPUT, config("never"))
    assert len(found) == 2, "a stream that was never iterated has not begun"


def test_a_cancellation_interrupts(saver, world):
    found = heard(saver, events.RunEnded)

    async def node(state):
        await asyncio.Event().wait()

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a").compile(checkpointer=saver)

    async def flow():
        running = asyncio.ensure_future(arun(graph, INPUT, config()))
        await aeventually(lambda: saver.get_tuple(config()) is not None)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(flow())
    assert [(one.outcome, one.error) for one in found] == [("interrupted", "CancelledError")]


def test_the_runs_of_a_worker(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    found = heard(saver, events.RunEnded)
    assert [one.outcome for one in recover(saver, graph)] == ["failed"]
    world.failing = set()
    assert [one.outcome for one in recover(saver, graph)] == ["finished"]
    assert ended(found) == [("failed", True, 2, 0, "BrokenError"), ("finished", True, 3, 2, "")]


# Recovery records


def test_a_takeover_is_reported_when_its_record_is_complete(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    fail(graph)
    world.failing = set()
    crash(saver)
    found = heard(saver, events.RecoveryRecorded)
    run(graph, INPUT, {**config(), **AGENT})
    (event,) = eventually(lambda: found)
    (record,) = saver.thread(T).recoveries()
    assert_same(event, record)
    assert (event.kind, event.labels, event.ran_again) == ("takeover", LABELS, ("b",))
    assert event.record in names(saver)


def names(saver):
    return [keys.recovery_nonce_of(one.name) for one in perform(iter(QueryDocs(keys.recoveries(T))), saver._backend)]


def assert_same(event, record):
    """An event says what a reader of the record gets."""
    fields = ("thread_id", "kind", "lost", "down", "held", "restore", "ran_again", "labels")
    assert {name: getattr(event, name) for name in fields} == {name: getattr(record, name) for name in fields}
    assert abs(event.time - record.time.timestamp()) < 1e-3


def test_a_worker_without_metadata_has_the_labels_of_the_checkpoint(saver, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    with pytest.raises(Exception, match="b"):
        run(graph, INPUT, {**config(), **AGENT}, durability="sync")
    world.failing = set()
    crash(saver)
    found = heard(saver, events.RecoveryRecorded)
    recover(saver, graph)
    (event,) = eventually(lambda: found)
    assert event.labels == LABELS
    assert [one.labels for one in saver.thread(T).recoveries()] == [LABELS]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_fallback_and_all_ways_of_repairing_are_reported(tmp_path, world, is_async):
    uri = f"file://{tmp_path}/store"
    found = []
    with GCSSaver.from_conn_string(uri) as saver:
        for thread_id in (T, "u"):
            run(world.graph(saver), INPUT, config(thread_id))
    damage(tmp_path / "store")
    with GCSSaver.from_conn_string(uri, labels=["agent"]) as saver:
        found = heard(saver, events.RecoveryRecorded)
        damaged = next(one for one in (T, "u") if list(saver.admin.verify(one, depth="data")))
        where = {**config(damaged), **AGENT}
        asyncio.run(saver.aget_tuple(where)) if is_async else saver.get_tuple(where)
        eventually(lambda: found)
        if is_async:
            asyncio.run(saver.admin.arepair())
        else:
            saver.admin.repair(damaged)
        damage(tmp_path / "store")
        again = [one for one in (T, "u") if list(saver.admin.verify(one, depth="data"))]
        for plan in saver.admin.plan_repair():
            asyncio.run(saver.admin.acarry_out(plan)) if is_async else saver.admin.carry_out(plan)
        assert [one.kind for one in found] == ["fallback", "repair", "repair"]
        assert [one.labels for one in found] == [LABELS, {}, {}]
        recorded = {one.thread_id: list(saver.thread(one.thread_id).recoveries()) for one in found}
        assert [one.thread_id for one in found] == [damaged, damaged, *again]
        for event in found:
            assert_same(event, recorded[event.thread_id].pop(0))


@pytest.mark.parametrize(("clear", "labels"), [((), {}), (("agent",), LABELS)], ids=["none", "agent"])
def test_a_cipher_hides_labels(stores, world, clear, labels):
    options = {"cipher": XorCipher(), "clear_metadata": clear, "labels": ["agent"]}
    with GCSSaver(stores=stores, **options) as saver:
        graph = world.graph(saver)
        world.failing = {"b"}
        fail(graph)
        world.failing = set()
        crash(saver)
        found = heard(saver, events.RecoveryRecorded)
        run(graph, INPUT, {**config(), **AGENT})
        (event,) = eventually(lambda: found)
        (record,) = saver.thread(T).recoveries()
    assert event.labels == record.labels == labels


# Checks


def test_each_verified_thread_is_reported(tmp_path, world):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        for thread_id in (T, "u"):
            run(world.graph(saver), INPUT, config(thread_id))
        damage(tmp_path / "store")
        found = heard(saver, events.ThreadVerified)
        for thread_id in (T, "u"):
            assert len(list(saver.admin.verify(thread_id))) == found[-1].findings

        async def everything():
            return [one async for one in saver.admin.verify(depth="data")]

        findings = asyncio.run(everything())
    assert [one.depth for one in found] == ["metadata"] * 2 + ["data"] * 2
    assert {one.thread_id for one in found[2:]} == {T, "u"}
    assert sum(one.findings for one in found[2:]) == len(findings) > 0
    assert all(one.seconds > 0 for one in found)


# Sagas and sets

UNDO = "undo for test_reports"


@compensation(UNDO, attempts=2, backoff=0)
def undo(request, result, key):
    """Fail if the step says so."""
    if result == "refuses":
        raise ConnectionError


def test_sagas_and_their_undos(saver):
    saver.put(config(), empty_checkpoint(), {"step": 0}, {})
    ended, undos = heard(saver, events.SagaEnded), heard(saver, events.CompensationEnded)
    stuck = heard(saver, events.SagaStuck)
    with saver.thread(T).saga("trip-7") as saga:
        saga.once("book", lambda: 0, undo=UNDO)
        saga.savepoint("booked")
        saga.once("pay", lambda: 0, undo=UNDO)
    saga.rollback("booked")
    saga.once("pay", lambda: "refuses", undo=UNDO)
    with pytest.raises(e.SagaStuckError):
        saga.rollback()
    saga.resolve("pay", result=None)
    saga.resume()
    assert {(one.thread_id, one.saga_id) for one in (*ended, *undos)} == {(T, "trip-7")}
    assert [(one.state, one.steps, one.undone) for one in ended] == [
        ("done", 2, 0),
        ("running", 2, 1),
        ("stuck", 2, 0),
        ("compensated", 2, 2),
    ]
    assert stuck == [one for one in ended if one.state == "stuck"]
    assert [(one.step, one.state) for one in undos] == [
        ("pay", "done"),
        ("pay", "failed"),
        ("pay", "failed"),
        ("book", "done"),
    ]
    assert [one.attempt for one in undos] == [1, 1, 2, 1]
    assert all(one.seconds > 0 for one in (*ended, *undos))


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_sets_that_are_decided_and_restored(saver, is_async):
    decided, restored = heard(saver, events.SetDecided), heard(saver, events.SetRestored)
    team = saver.team("deal", ["extract-1", "planner"])
    for member in ("extract-1", "planner"):
        saver.put(config(team.member(member).id), empty_checkpoint(), {"step": 0}, {})

    async def work():
        saved = await team.acheckpoint()
        with pytest.raises(e.SetAbortedError):
            await team.acheckpoint(timeout=1, members=["late", "planner"])  # clock: the time passes in any case
        await team.arestore(saved, dry_run=True)
        await team.arestore(saved)
        return saved

    def work_at_once():
        saved = team.checkpoint()
        with pytest.raises(e.SetAbortedError):
            team.checkpoint(timeout=1, members=["late", "planner"])  # clock: the time passes in any case
        team.restore(saved, dry_run=True)
        team.restore(saved)
        return saved

    saved = asyncio.run(work()) if is_async else work_at_once()
    aborted = next(one.set_id for one in team.sets() if one.state == "aborted")
    assert [(one.team, one.set_id, one.state, one.members, one.missing) for one in decided] == [
        ("deal", saved.set_id, "committed", 2, ()),
        ("deal", aborted, "aborted", 2, ("late",)),
    ]
    assert [(one.team, one.set_id, one.threads) for one in restored] == [("deal", saved.set_id, 2)]
    assert {one.thread_id for one in (*decided, *restored)} == {""}
    assert all(one.seconds > 0 for one in (*decided, *restored))


# Without a subscriber

ENDS = (
    events.LeaseAcquired,
    events.LeaseEnded,
    events.OperationEnded,
    events.RunEnded,
    events.SagaEnded,
    events.SetDecided,
    events.SetRestored,
    events.ThreadVerified,
)


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_no_event_is_made_without_a_subscriber(saver, world, caplog, monkeypatch, level):
    made = []
    for kind in ENDS:
        counted = partial(count, made, kind.__init__)
        monkeypatch.setattr(kind, "__init__", lambda self, _counted=counted, **fields: _counted(self, **fields))
    caplog.set_level(level, "langgraph_gcs_saver")
    run(world.graph(saver), INPUT, config())
    saver.thread(T).operations.once("charge", lambda: 1, key="k")
    with saver.thread(T).saga("trip-7"):
        pass
    team = saver.team("deal", ["planner"])
    run(world.graph(saver), INPUT, config(team.member("planner").id))
    team.restore(team.checkpoint())
    list(saver.admin.verify(T))
    assert set(made) == (set() if level == logging.WARNING else set(ENDS))


def count(made, init, self, **fields):
    made.append(type(self))
    init(self, **fields)


# Drains


class Noting:
    """A sink that notes its flushes, and which events it had by then."""

    def __init__(self):
        self.flushed, self.seen = [], []

    def attach(self, saver):
        return self.seen.append

    def flush(self, timeout):
        self.flushed.append((timeout, [type(one).__name__ for one in self.seen]))
        return True


class Slow(Noting):
    """A sink that cannot pass everything on in time, and waits for an answer meanwhile."""

    def __init__(self):
        super().__init__()
        self.answer, self.was_answered = threading.Event(), False

    def flush(self, timeout):
        super().flush(timeout)
        self.was_answered = self.answer.wait(timeout)
        return False


def drains(saver, how, graph, **options):
    with pytest.raises(GraphDrained):
        call(how, graph, **options)


@pytest.mark.parametrize("how", ["run", "arun", "stream", "astream"])
def test_a_run_that_was_drained_has_flushed_sinks(saver, world, how):
    sink = Noting()
    saver.subscribe(sink)
    drains(saver, how, world.graph(saver), policy=Stops())
    ((timeout, seen),) = sink.flushed
    assert timeout == connection.DRAIN_SECONDS
    assert seen[-1] == "RunEnded"
    assert [one.outcome for one in sink.seen if isinstance(one, events.RunEnded)] == ["drained"]
    assert call(how, world.graph(saver))
    assert len(sink.flushed) == 1, "only a drain and `close` flush"


class Stops(cadence.Policy):
    """Ends each run at its first boundary behind a node."""

    only_stops = True

    def decide(self, progress, /):
        return cadence.Stop("Enough.")


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_stop_on_flushes_with_the_last_put_of_any_graph(stores, is_async, durability):
    ran = []
    with GCSSaver(stores=stores, stop_on=Later(ran)) as saver:
        sink = Noting()
        saver.subscribe(sink)
        graph = build(saver, ran.append)
        with suppress(GraphDrained):
            invoke(graph, config(), durability, is_async=is_async)
        assert ran == ["a"] or durability == "async"
        assert ran != ["a", "b", "c"], "it was drained"
        assert sink.flushed
        saved = [one for one in sink.seen if isinstance(one, events.CheckpointSaved)]
        assert sink.flushed[-1][1].count("CheckpointSaved") == len(saved), "the last checkpoint was passed on"


class Later(cadence.Policy):
    """Ends a run once a node has run."""

    only_stops = True

    def __init__(self, ran):
        self.ran = ran

    def decide(self, progress, /):
        return cadence.Stop("Enough.") if self.ran else None


def test_a_sink_that_is_too_slow_holds_a_drained_run_up_once_and_never_the_event_loop(stores, monkeypatch):
    monkeypatch.setattr("langgraph_gcs_saver.saver.checkpointer.DRAIN_SECONDS", PATIENCE)
    ran, sink = [], Slow()
    with GCSSaver(stores=stores, stop_on=Later(ran)) as saver:
        end = saver.subscribe(sink)
        graph = build(saver, ran.append)

        async def answer():
            await aeventually(lambda: sink.flushed)
            sink.answer.set()

        async def flow():
            running = graph.ainvoke({"done": []}, config(), durability="async")
            return await asyncio.gather(running, answer(), return_exceptions=True)

        (error, _) = asyncio.run(flow())
        assert isinstance(error, GraphDrained)
        assert sink.was_answered, "the event loop ran while the sink was flushed"
        puts = [one for one in sink.seen if isinstance(one, events.CheckpointSaved)]
        assert len(puts) > len(sink.flushed) == 1
        end()
