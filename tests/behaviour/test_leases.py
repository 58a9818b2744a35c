"""Leases under real graphs: what a holder stores, what happens after a loss, and which processes are kept out."""

import asyncio
import copy
import gc
import operator
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import suppress
from typing import Annotated, TypedDict

import pytest
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph
from langgraph.runtime import get_runtime

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Compute, Emit, Merge, Now, Pause
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import (
    FencedError,
    InvalidConfigError,
    InvalidInputError,
    InvalidOptionError,
    LeaseMismatchError,
    StoreUnavailableError,
    ThreadBusyError,
)
from langgraph_gcs_saver.events import LeaseTakenOver, PutFailed
from langgraph_gcs_saver.flows import leases as flows_of_leases
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.kills import process
from tests.patience import aeventually, eventually
from tests.system.build import DEFAULT, cfg, checkpoint
from tests.system.raw import open_raw

CONFIG = {"configurable": {"thread_id": "t"}}
NAMES = ["a", "b", "c"]
SHORT = 5.0
"""The shortest ttl: a beat every 1.7 s."""


class State(TypedDict):
    done: Annotated[list[str], operator.add]


def build(saver, act=lambda name: None):
    """Three nodes in a row. Each calls `act` with its name first."""

    def node(name):
        def run_node(state):
            act(name)
            return {"done": [name]}

        return run_node

    builder = StateGraph(State)
    for one in NAMES:
        builder.add_node(one, node(one))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "c")
    return builder.compile(checkpointer=saver)


@pytest.fixture
def uri(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def saver(uri):
    with GCSSaver.from_conn_string(uri) as saver:
        yield saver


@pytest.fixture
def other(uri):
    """A saver with caches and leases of its own, as another process has."""
    with GCSSaver.from_conn_string(uri) as saver:
        yield saver


def stored(uri):
    """Everything that is stored, except what the holder of a lease says about itself."""
    documents, objects = open_raw(uri).snapshot()
    return {name: fields for name, fields in documents.items() if not name.endswith("/beat")}, objects


def put(saver, config, n=1):
    """One put with the config of a lease, without a graph."""
    new = checkpoint(n, {"c": n})
    return saver.put(config, new, DEFAULT, new["channel_versions"])


def put_writes(saver, config, n=1):
    return saver.put_writes(
        {"configurable": {**config["configurable"], "checkpoint_ns": "", "checkpoint_id": checkpoint(n)["id"]}},
        [("c", "written")],
        "task",
    )


def outcome_of(write, saver, config, n):
    try:
        write(saver, config, n)
    except FencedError:
        return "fenced"
    return "stored"


def invoke(graph, config, durability, *, is_async):
    if is_async:
        return asyncio.run(graph.ainvoke({"done": []}, config, durability=durability))
    return graph.invoke({"done": []}, config, durability=durability)


def config_of(lease):
    return {"configurable": {"checkpoint_ns": "", **lease.config["configurable"]}}


# Holding


def test_a_run_under_a_lease_and_what_it_leaves(uri, saver, other):
    graph = build(saver)
    with saver.thread("t").lease(owner="me") as lease:
        assert graph.with_config(lease.config).invoke({"done": []}, CONFIG) == {"done": NAMES}
        assert [(one.thread_id, one.owner, one.is_expired) for one in other.admin.leases()] == [("t", "me", False)]
        assert list(other.admin.leases(expired=True)) == []
        assert lease.token == 1
        assert not lease.lost
    assert list(other.admin.leases()) == []
    assert not lease.lost
    found = saver.get_tuple(CONFIG)
    assert found.metadata["run_id"] == lease.run_id
    assert "__lg_lease" not in {**found.metadata, **found.config["configurable"]}
    assert lease.former_run_id is None
    saver.delete_for_runs([lease.run_id])
    assert saver.get_tuple(CONFIG) is None


def test_a_second_input_under_the_same_lease_is_a_second_run(saver):
    graph = build(saver)
    with saver.thread("t").lease() as lease:
        mine = graph.with_config(lease.config)
        mine.invoke({"done": ["one"]})
        assert mine.invoke({"done": ["two"]}) == {"done": ["one", *NAMES, "two", *NAMES]}
        mine.update_state(CONFIG, {"done": ["by hand"]})
        assert mine.get_state(CONFIG).values["done"][-1] == "by hand"
        assert {found.metadata["run_id"] for found in saver.list(CONFIG)} == {lease.run_id}


def test_a_run_id_of_the_config_stays(saver):
    with saver.thread("t").lease() as lease:
        build(saver).with_config(lease.config).invoke({"done": []}, {"configurable": {"run_id": "mine"}})
    assert saver.get_tuple(CONFIG).metadata["run_id"] == "mine"


def test_each_acquisition_has_a_greater_token_and_a_run_of_its_own(saver):
    lease = saver.thread("t").lease()
    seen = []
    for _ in range(3):
        with lease:
            seen.append((lease.token, lease.run_id))
    assert [token for token, _ in seen] == [1, 2, 3]
    assert len({run_id for _, run_id in seen}) == 3


def test_a_copy_of_the_saver_has_the_leases_of_the_saver(saver):
    """LangGraph compiles a graph with a copy (`with_allowlist`) under strict msgpack."""
    twin = copy.copy(saver)
    with saver.thread("t").lease() as lease:
        assert build(twin).with_config(lease.config).invoke({"done": []}) == {"done": NAMES}
        with pytest.raises(ThreadBusyError):
            twin.thread("t").lease().__enter__()
    with pytest.raises(FencedError):
        put(twin, config_of(lease))


STRICT = """
from langgraph_gcs_saver import GCSSaver
from tests.behaviour.test_leases import build
with GCSSaver.from_conn_string("memory:") as saver:
    graph = build(saver)
    assert graph.checkpointer is not saver, "LangGraph did not copy the saver"
    with saver.thread("t").lease() as lease:
        print(graph.with_config(lease.config).invoke({"done": []})["done"])
"""


def test_under_strict_msgpack_the_graph_has_a_copy_of_the_saver_and_it_works():
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    done = subprocess.run([sys.executable, "-c", STRICT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(NAMES)), done.stderr


def test_the_beat_says_which_step_and_node_run(saver, other):
    met = []

    def act(name):
        if name == "b":
            met.append(eventually(lambda: next((one for one in other.admin.leases() if one.node), None)))

    with saver.thread("t").lease(ttl=SHORT) as lease:
        build(saver, act).with_config(lease.config).invoke({"done": []}, durability="sync")
    assert [one.node for one in met] == ["b"]


# Kept out


def test_another_process_is_kept_out(saver, other):
    with (
        saver.thread("t").lease(owner="me"),
        pytest.raises(ThreadBusyError, match="'me'") as caught,
        other.thread("t").lease(),
    ):
        pass
    assert (caught.value.thread_id, caught.value.owner) == ("t", "me")
    with other.thread("t").lease() as lease:
        assert lease.token == 2


@pytest.mark.parametrize("owner", [None, "the same name"])
def test_a_second_lease_of_the_same_process_is_kept_out(saver, owner):
    with saver.thread("t").lease(owner=owner) as lease:
        with pytest.raises(ThreadBusyError, match="Another call of this process"), saver.thread("t").lease(owner=owner):
            pass
        assert not lease.lost
        put(saver, config_of(lease))
        with saver.thread("another").lease(owner=owner):
            pass
    with saver.thread("t").lease(owner=owner):
        pass


def test_entering_a_lease_twice_keeps_it(saver):
    lease = saver.thread("t").lease()
    with lease:
        with pytest.raises(ThreadBusyError):
            lease.__enter__()
        put(saver, config_of(lease))
    assert list(saver.admin.leases()) == []


@pytest.mark.parametrize("where", ["this process", "another"])
def test_wait_waits_for_the_holder(saver, other, where):
    waiter = saver if where == "this process" else other
    order, begun = [], threading.Event()

    def second():
        begun.set()
        with waiter.thread("t").lease(wait=1000):
            order.append("second")

    thread = threading.Thread(target=second)
    with saver.thread("t").lease():
        thread.start()
        begun.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_same_owner_takes_its_lease_back_at_once(uri, other):
    crashed = GCSSaver.from_conn_string(uri)
    lease = crashed.thread("t").lease(owner="task 3")
    lease.__enter__()
    crashed.close()  # and nothing is released
    events = []
    other.subscribe(events.append)
    with other.thread("t").lease(owner="task 3") as mine:
        assert mine.token == 2
        assert mine.former_run_id == lease.run_id
    (taken,) = (event for event in events if isinstance(event, LeaseTakenOver))
    assert (taken.thread_id, taken.owner, taken.former, taken.former_run_id) == (
        "t",
        "task 3",
        "task 3",
        lease.run_id,
    )
    assert taken.downtime >= 0


def test_a_thread_whose_deletion_is_under_way_has_no_lease(saver):
    put(saver, cfg())
    name = keys.thread_doc("t")

    def mark():
        yield from Commit((Merge(name, {"deleting": "now"}),))

    run(mark(), saver._backend)
    before = stored_by(saver)
    with pytest.raises(ThreadBusyError, match="being deleted"), saver.thread("t").lease():
        pass
    assert stored_by(saver) == before
    saver.delete_thread("t")
    with saver.thread("t").lease() as lease:
        put(saver, config_of(lease))


def stored_by(saver):
    return {found.config["configurable"]["checkpoint_id"] for found in saver.list(CONFIG)}


# Lost


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("is_async", [False, True])
def test_after_a_loss_nothing_of_the_run_is_stored(uri, saver, other, durability, is_async):
    ran, after = [], {}

    def act(name):
        ran.append(name)
        if name == "b":
            with other.thread("t").lease(take_over=True, owner="thief") as mine:
                build(other).with_config(mine.config).update_state(CONFIG, {"done": ["thief"]}, as_node="a")
            after["loss"] = stored(uri)

    events = []
    saver.subscribe(events.append)
    graph = build(saver, act)
    with saver.thread("t").lease() as lease:
        mine = graph.with_config(lease.config)
        with pytest.raises(FencedError):
            invoke(mine, CONFIG, durability, is_async=is_async)
        assert lease.lost
        for write in (put, put_writes):
            with pytest.raises(FencedError):
                write(saver, config_of(lease))
    assert stored(uri) == after["loss"]
    assert other.get_tuple(CONFIG).checkpoint["channel_values"]["done"][-1] == "thief"
    assert "FencedError" in {event.error for event in events if isinstance(event, PutFailed)}
    if durability == "sync":
        assert ran == ["a", "b"], "the run went on"


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_beat_finds_the_loss_and_ends_the_run_before_its_next_node(uri, saver, other, durability):
    ran = []

    def act(name):
        ran.append(name)
        with other.thread("t").lease(take_over=True):
            pass
        eventually(lambda: lease.lost)
        assert get_runtime().drain_requested

    with saver.thread("t").lease(ttl=SHORT) as lease, pytest.raises((FencedError, GraphDrained)):
        build(saver, act).with_config(lease.config).invoke({"done": []}, durability=durability)
    assert ran == ["a"]


def test_take_over_in_the_same_process_ends_the_former_run_at_once(saver):
    ran = []

    def act(name):
        ran.append(name)
        with saver.thread("t").lease(take_over=True) as second:
            assert second.former_run_id == first.run_id
            assert get_runtime().drain_requested
            assert first.lost
            assert not second.lost

    with saver.thread("t").lease() as first, pytest.raises(FencedError):
        build(saver, act).with_config(first.config).invoke({"done": []}, durability="sync")
    assert ran == ["a"]


def test_a_lease_is_not_lost_while_beats_fail_for_less_than_its_ttl(saver, monkeypatch):
    """A failed beat is not a loss. One that stays unconfirmed for the whole ttl is."""
    tried = []

    def unavailable(*_):
        tried.append(1)
        raise StoreUnavailableError("no answer")
        yield

    with saver.thread("t").lease(ttl=SHORT) as lease:
        monkeypatch.setattr(flows_of_leases, "beat", unavailable)
        held = lease._held
        monkeypatch.setattr(held, "confirmed", held.confirmed + 1e9)
        eventually(lambda: len(tried) >= 2)
        assert not lease.lost
        put(saver, config_of(lease))
        monkeypatch.setattr(held, "confirmed", held.confirmed - 1e9 - SHORT)
        eventually(lambda: lease.lost)
        with pytest.raises(FencedError):
            put(saver, config_of(lease))


def test_a_released_lease_ends_the_runs_that_still_use_it(saver):
    ran = []

    def act(name):
        ran.append(name)
        assert lease.release()
        assert get_runtime().drain_requested

    with saver.thread("t").lease() as lease:
        with pytest.raises(FencedError):
            build(saver, act).with_config(lease.config).invoke({"done": []}, durability="sync")
        assert not lease.release(), "it was released already"
    assert ran == ["a"]


def test_a_lease_that_no_block_can_release_is_released(saver):
    """An exception struck between its acquisition and the block, so that the block's end never comes."""
    saver.thread("t").lease(ttl=SHORT).__enter__()
    gc.collect()
    assert eventually(lambda: list(saver.admin.leases()) == [])
    with saver.thread("t").lease():
        pass


CUTS = [
    (error, is_async, at, when)
    for error, is_async in [
        (asyncio.CancelledError, True),
        (KeyboardInterrupt, False),
        (StoreUnavailableError, False),
        (StoreUnavailableError, True),
    ]
    # Reading, taking, listing the tips, marking the tip, releasing.
    for at in range(1, 5)
    for when in ("before", "after")
]


class Cut(Interceptor):
    """Raises before or after one request of those that follow `begin`, of whichever thread."""

    def __init__(self, error, at, when):
        self.error, self.at, self.when = error, at, when
        self.count = None

    def begin(self):
        self.count = 0

    def is_now(self, effect, when):
        if self.count is None or isinstance(effect, (Compute, Emit, Now, Pause)):
            return False
        at, self.count = self.count, self.count + (when == "after")
        return at == self.at and when == self.when

    def strike(self):
        self.count = None
        raise self.error("cut off")

    def around(self, effect, perform):
        if self.is_now(effect, "before"):
            self.strike()
        result = perform(effect)
        if self.is_now(effect, "after"):
            self.strike()
        return result

    async def aaround(self, effect, perform):
        if self.is_now(effect, "before"):
            self.strike()
        result = await perform(effect)
        if self.is_now(effect, "after"):
            self.strike()
        return result


@pytest.mark.parametrize(("error", "is_async", "at", "when"), CUTS)
def test_a_lease_that_is_cut_off_is_given_back(uri, error, is_async, at, when):
    cut = Cut(error, at, when)
    with GCSSaver.from_conn_string(uri, interceptors=[cut]) as saver:
        put(saver, cfg())
        lease = saver.thread("t").lease(ttl=1000)

        async def ablock():
            async with lease:
                pass

        def block():
            with lease:
                pass

        cut.begin()
        with suppress(error):  # the end of a block does not raise
            asyncio.run(ablock()) if is_async else block()
        assert cut.count is None, "nothing was cut off"
        events = []
        saver.subscribe(events.append)
        with saver.thread("t").lease():  # at once, and not as from a crashed process
            assert not [event for event in events if isinstance(event, LeaseTakenOver)]
        assert eventually(lambda: list(saver.admin.leases()) == [])


def test_what_was_cut_off_and_is_applied_later_is_given_back(saver, other):
    """The commit of an acquisition may be on its way when the call that sent it is canceled."""
    request = flows_of_leases.Acquire("t", "gone", "nonce", 5.0)
    saver._leases._give_back("t", request.nonce, request.ttl)
    run(flows_of_leases.Acquisition(request, 0.0, other._context).flow(), other._backend)
    assert eventually(lambda: list(saver.admin.leases()) == [])


def test_a_failed_release_does_not_hide_what_the_block_did(uri, other, caplog):
    closed = GCSSaver.from_conn_string(uri)
    with closed.thread("t").lease(owner="gone"):
        closed.close()
    assert "was not released" in caplog.text
    assert [one.owner for one in other.admin.leases()] == ["gone"]


# Pausing


def test_pause_ends_the_run_at_a_boundary_and_it_can_be_resumed(saver, other):
    ran = []

    def act(name):
        ran.append(name)
        if name == "a":
            assert other.thread("t").pause()
            eventually(lambda: get_runtime().drain_requested)

    graph = build(saver, act)
    with saver.thread("t").lease(ttl=SHORT) as lease, pytest.raises(GraphDrained, match="pause thread 't'"):
        graph.with_config(lease.config).invoke({"done": []}, durability="sync")
    assert not other.thread("t").pause(), "there is no holder"
    assert ran == ["a"]
    with saver.thread("t").lease() as lease:
        assert graph.with_config(lease.config).invoke(None) == {"done": NAMES}
    assert ran == NAMES


def test_a_withdrawn_pause_ends_no_later_run(saver, other):
    with saver.thread("t").lease(ttl=SHORT) as lease:
        other.thread("t").pause()
        eventually(lambda: lease._held.ending)
        mine = build(saver).with_config(lease.config)
        with pytest.raises(GraphDrained):
            mine.invoke({"done": []})
        other.thread("t").pause(cancel=True)
        eventually(lambda: not lease._held.ending)
        assert mine.invoke(None) == {"done": NAMES}


# Other processes


def hold(uri, pipe):
    """Holds a lease, and puts whenever the pipe says so."""
    with GCSSaver.from_conn_string(uri) as saver, saver.thread("t").lease(ttl=SHORT, owner="first") as lease:
        put(saver, config_of(lease), 1)
        pipe.send("ready")
        while (order := pipe.recv()) is not None:
            outcomes = [outcome_of(write, saver, config_of(lease), order) for write in (put, put_writes)]
            pipe.send((outcomes, lease.lost))
    pipe.send("left")


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
@pytest.mark.parametrize("how", ["take over", "expiry"])
def test_a_process_that_was_stopped_stores_nothing_after_a_takeover(uri, saver, how):
    options = {"take_over": True} if how == "take over" else {"wait": 1000.0}
    with process(hold, uri) as (holder, pipe):
        assert pipe.recv() == "ready"
        pipe.send(2)
        assert pipe.recv() == (["stored", "stored"], False)
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            with saver.thread("t").lease(owner="second", **options) as lease:
                put(
                    saver,
                    {"configurable": {**config_of(lease)["configurable"], "checkpoint_id": checkpoint(2)["id"]}},
                    3,
                )
                put_writes(saver, config_of(lease), 3)
                before = stored(uri)
                pipe.send(4)  # it is read when the process continues
                os.kill(holder.pid, signal.SIGCONT)
                assert pipe.recv() == (["fenced", "fenced"], True)
                assert stored(uri) == before
                assert not lease.lost
                found = saver.get_tuple(CONFIG)
                assert found.checkpoint["id"] == checkpoint(3)["id"]
                assert found.pending_writes == [("task", "c", "written")]
                pipe.send(None)
                assert pipe.recv() == "left"
                assert [one.owner for one in saver.admin.leases()] == ["second"], "the first one released it"
        finally:
            with suppress(ProcessLookupError):  # it has ended
                os.kill(holder.pid, signal.SIGCONT)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_has_no_lease_and_does_not_release_its_parents(uri, saver):
    read, write = os.pipe()
    with saver.thread("t").lease() as lease:
        put(saver, config_of(lease), 1)
        before = stored(uri)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forking with threads
            pid = os.fork()
        if pid == 0:
            try:
                outcomes = [lease.lost, *(outcome_of(one, saver, config_of(lease), 2) for one in (put, put_writes))]
                lease.__exit__(None, None, None)
                outcomes.append(lease.release())
                os.write(write, repr(outcomes).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read, 1000) == b"[True, 'fenced', 'fenced', False]"
        assert stored(uri) == before
        put(saver, config_of(lease), 2)
    os.close(read)
    os.close(write)


# Asynchronous


def test_async_with_is_the_same(uri, saver, other):
    async def flow():
        graph = build(saver)
        async with saver.thread("t").lease(ttl=SHORT) as lease:
            assert await graph.with_config(lease.config).ainvoke({"done": []}) == {"done": NAMES}
            with pytest.raises(ThreadBusyError):
                await saver.thread("t").lease().__aenter__()
            with pytest.raises(ThreadBusyError):
                await other.thread("t").lease(wait=0.01).__aenter__()
            assert [one.thread_id async for one in other.admin.leases()] == ["t"]
            assert await other.thread("t").apause()
            await aeventually(lambda: lease._held.ending)
            async with other.thread("t").lease(take_over=True):
                with pytest.raises(FencedError):
                    await graph.with_config(lease.config).ainvoke({"done": []}, durability="sync")
            assert not await lease.arelease()
        assert not await other.thread("t").apause()

    asyncio.run(flow())


def test_tasks_of_one_event_loop_wait_for_each_other(saver):
    running, most = [], []

    async def request(number):
        async with saver.thread("t").lease(wait=1000) as lease:
            running.append(number)
            most.append(len(running))
            await build(saver).with_config(lease.config).ainvoke({"done": [str(number)]})
            running.remove(number)

    async def flow():
        await asyncio.gather(*map(request, range(4)))

    asyncio.run(flow())
    assert most == [1, 1, 1, 1]
    assert len(saver.get_tuple(CONFIG).checkpoint["channel_values"]["done"]) == 16


def test_a_cancelled_wait_leaves_the_thread_free(saver):
    async def flow():
        async with saver.thread("t").lease():
            waiting = asyncio.create_task(saver.thread("t").lease(wait=1000).__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with saver.thread("t").lease():
            pass

    asyncio.run(flow())


# Configs, options and arguments


@pytest.mark.parametrize("is_async", [False, True])
def test_the_config_of_another_thread_stores_nothing(uri, saver, is_async):
    graph = build(saver)
    with saver.thread("t").lease() as lease:
        before = stored(uri)
        mine = graph.with_config(lease.config)
        theirs = {"configurable": {"thread_id": "theirs"}}
        with pytest.raises(LeaseMismatchError, match=r"'theirs'.*'t'"):
            invoke(mine, theirs, "sync", is_async=is_async)
        assert stored(uri) == before
        assert mine.invoke({"done": []}) == {"done": NAMES}, "the mistake cost the lease"


@pytest.mark.parametrize(
    "found", ["t", ("t",), ("t", 1), (1, 2, 3), 5, ("t", [1], "n"), ("t", 1, []), ([], 1, "n"), ("t", 1.0, "n"), ["t"]]
)
def test_a_lease_of_another_form_stores_nothing(uri, saver, found):
    before = stored(uri)
    with pytest.raises((FencedError, LeaseMismatchError)):
        put(saver, {"configurable": {"thread_id": "t", "checkpoint_ns": "", "__lg_lease": found}})
    assert saver.get_tuple({"configurable": {"thread_id": "t", "__lg_lease": found}}) is None
    assert stored(uri) == before


def test_an_id_that_is_not_text_is_made_text_as_in_configs(saver):
    with saver.thread("17").lease() as lease:
        put(saver, {"configurable": {**config_of(lease)["configurable"], "thread_id": 17}})
    with saver.thread(17).lease() as lease:
        assert (lease.token, saver.thread(17).id) == (2, "17")
    with pytest.raises(InvalidConfigError, match="thread_id"):
        saver.thread(None)


def test_a_machine_with_a_strange_name_can_hold_leases(saver, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "\udcff" + "x" * 253)
    with saver.thread("t").lease() as lease:
        assert lease.owner.startswith("?xxx")


def test_writers_leased(uri):
    with GCSSaver.from_conn_string(uri, writers="leased") as saver:
        graph = build(saver)
        before = stored(uri)
        with pytest.raises(LeaseMismatchError, match="writers='leased'"):
            graph.invoke({"done": []}, CONFIG, durability="sync")
        with pytest.raises(LeaseMismatchError):
            put_writes(saver, CONFIG)
        assert stored(uri) == before
        with saver.thread("t").lease() as lease:
            mine = graph.with_config(lease.config)
            mine.invoke({"done": []})
            with pytest.raises(LeaseMismatchError):
                graph.update_state(mine.get_state(CONFIG).config, {"done": ["x"]})
    with pytest.raises(InvalidOptionError, match="writers"):
        GCSSaver.from_conn_string("memory:", writers="some")


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 4.9},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
        {"ttl": "60"},
        {"ttl": 86401},
        {"ttl": 10**400},
        {"wait": 10**400},
        {"ttl": True},
        {"wait": -1},
        {"wait": None},
        {"owner": ""},
        {"owner": 5},
        {"owner": "x" * 201},
        {"owner": "\ud800"},
        {"take_over": "yes"},
    ],
)
def test_wrong_arguments_raise_before_anything_is_stored(uri, saver, wrong):
    before = stored(uri)
    with pytest.raises(InvalidInputError):
        saver.thread("t").lease(**wrong)
    assert stored(uri) == before


def test_a_lease_that_was_not_acquired_says_so(saver):
    lease = saver.thread("t").lease()
    assert not lease.lost
    assert "not acquired" in repr(lease)
    for use in (lambda: lease.config, lambda: lease.token, lambda: lease.run_id, lease.release):
        with pytest.raises(InvalidInputError, match="has not been acquired"):
            use()
