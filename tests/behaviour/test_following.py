"""How a replication is set up and followed, and what a saver with `replica=` does with real graphs."""

import asyncio
import operator
import os
import subprocess
import sys
import threading
from itertools import islice
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import (
    InvalidInputError,
    InvalidOptionError,
    InvalidURIError,
    NotPrimaryError,
    StoreUnavailableError,
    WrongKeyError,
)
from langgraph_gcs_saver.events import Replicated, ReplicationFailed
from langgraph_gcs_saver.saver import shipper
from langgraph_gcs_saver.saver.admin import Admin
from tests.compat.xor_cipher import XorCipher
from tests.patience import PATIENCE, eventually
from tests.system.build import noise
from tests.system.raw import open_raw
from tests.system.test_events import Fault

DOWN = StoreUnavailableError("The service did not answer.")


class State(TypedDict, total=False):
    left: int
    log: Annotated[list[str], operator.add]
    large: str


def step(state: State) -> State:
    return {"left": state["left"] - 1, "log": [f"step {state['left']}"], "large": noise(9_000, state["left"])}


def graph_of(saver):
    graph = StateGraph(State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["left"] > 0 else END, ["step", END])
    return graph.compile(checkpointer=saver)


def config_of(thread):
    return {"configurable": {"thread_id": thread}}


def invoke(saver, thread, steps=3):
    graph_of(saver).invoke({"left": steps}, config_of(thread))


@pytest.fixture
def uris(tmp_path):
    return f"file://{tmp_path}/here", f"file://{tmp_path}/there"


@pytest.fixture
def emulated(firestore_emulator, storage_emulator, project_id, bucket_name):
    store = f"gs://{bucket_name}/{{}}?project={project_id}"
    return store.format("here"), store.format("there")


def waiting(seconds):
    """The lanes of a shipper that `close` waits for so long."""
    return tuple(shipper.Kind(one.name, one.most, wait=seconds, finishes=True) for one in shipper.LANES)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Closing a saver ends when all is shipped, however slow the machine is."""
    monkeypatch.setattr(shipper, "LANES", waiting(PATIENCE))


@pytest.fixture
def here(uris):
    with GCSSaver.from_conn_string(uris[0], inline_max_bytes=4_000) as saver:
        yield saver


@pytest.fixture
def there(uris):
    with GCSSaver.from_conn_string(uris[1]) as saver:
        yield saver


def same(here, there, *threads):
    for thread in threads:
        found = list(there.list(config_of(thread)))
        assert found == list(here.list(config_of(thread))) != []
        assert list(there.admin.verify(thread, depth="data")) == []


def snapshots(*uris):
    found = []
    for uri in uris:
        raw = open_raw(uri)
        found.append(raw.snapshot())
        raw.close()
    return found


def of_kind(events, kind):
    return [event for event in events if isinstance(event, kind)]


# The writer's own shipper


@pytest.mark.parametrize(("is_async", "verify"), [(False, "pipelined"), (True, "readback")])
def test_a_writer_ships_what_it_has_stored(uris, here, there, is_async, verify):
    invoke(here, "old")
    here.admin.replicate(there)
    events = []

    async def work(saver):
        async with saver:
            await asyncio.gather(*(graph_of(saver).ainvoke({"left": 2}, config_of(str(n))) for n in range(5)))

    options = {"on_event": events.append, "inline_max_bytes": 4_000, "verify": verify}
    saver = GCSSaver.from_conn_string(uris[0], replica=uris[1], **options)
    if is_async:
        asyncio.run(work(saver))
    else:
        with saver:
            for n in range(5):
                invoke(saver, str(n), 2)
    same(here, there, "old", *map(str, range(5)))
    assert here.admin.replication(there).entries == 0
    assert of_kind(events, ReplicationFailed) == []
    shipped = of_kind(events, Replicated)
    assert {one.lag for one in shipped} == {None}, "it does not know what others have stored"
    assert sum(one.entries for one in shipped) > 5 * 2
    assert sum(one.bytes for one in shipped) > 5 * 2 * 4_500


def test_a_writer_ships_between_emulators(emulated):
    with GCSSaver.from_conn_string(emulated[0]) as here, GCSSaver.from_conn_string(emulated[1]) as there:
        invoke(here, "old", 1)
        with GCSSaver.from_conn_string(emulated[0], replica=emulated[1], inline_max_bytes=4_000) as saver:
            assert saver.get_tuple(config_of("old"))
            with pytest.raises(InvalidOptionError):
                invoke(saver, "t")
            here.admin.replicate(there)
            invoke(saver, "t")
            saver.admin.pin(next(saver.list(config_of("t"))).config, "label")
            invoke(saver, "gone", 1)
            saver.delete_thread("gone")
            eventually(lambda: here.admin.replication(there).entries == 0)
        same(here, there, "old", "t")
        assert list(here.admin.pins(config_of("t"))) == list(there.admin.pins(config_of("t"))) != []
        assert {one.thread_id for one in there.admin.threads()} == {"old", "t"}


def test_a_replica_that_does_not_answer_holds_nothing_up(uris, here, there, monkeypatch):
    monkeypatch.setattr(shipper, "RETRY_SECONDS", 0.05)
    here.admin.replicate(there)
    events, fault = [], Fault()
    with GCSSaver.from_conn_string(uris[0], replica=uris[1], on_event=events.append) as saver:
        saver._shipper._target._backend.intercept(fault)
        fault.set(DOWN, Commit)
        for thread in "abcdef":
            invoke(saver, thread, 1)
        eventually(lambda: of_kind(events, ReplicationFailed))
        assert there.admin.threads() == []
        fault.set(None)
        eventually(lambda: here.admin.replication(there).entries == 0)
    assert {event.kind for event in of_kind(events, ReplicationFailed)} == {"unavailable"}
    same(here, there, *"abcdef")


class Hanging(Interceptor):
    """A store that does not answer until it is let go."""

    def __init__(self):
        self.began, self.may_end = threading.Event(), threading.Event()

    def around(self, effect, perform):
        self.began.set()
        assert self.may_end.wait(PATIENCE)
        return perform(effect)


def test_closing_leaves_to_the_follower_what_does_not_end(uris, here, there, monkeypatch):
    monkeypatch.setattr(shipper, "LANES", waiting(0.1))
    here.admin.replicate(there)
    hanging = Hanging()
    with GCSSaver.from_conn_string(uris[0], replica=uris[1]) as saver:
        saver._shipper._target._backend.intercept(hanging)
        invoke(saver, "t")
        assert hanging.began.wait(PATIENCE)
    hanging.may_end.set()
    assert here.admin.replication(there).entries > 0
    next(iter(here.admin.follow(there)))
    same(here, there, "t")


def test_a_forked_process_ships_what_it_stores(uris, here, there):
    here.admin.replicate(there)
    with GCSSaver.from_conn_string(uris[0], replica=uris[1]) as saver:
        invoke(saver, "parent")
        child = os.fork()
        if child == 0:  # pragma: no cover - coverage does not see it
            code = 1
            try:
                with saver:
                    invoke(saver, "child")
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        same(here, there, "child")
        eventually(lambda: here.admin.replication(there).entries == 0)
    same(here, there, "parent")


# Bad configurations of a writer


def refused(uris, error, **options):
    """Nothing is stored by a saver with these options."""
    before = snapshots(uris[0])
    with pytest.raises(error) as raised, GCSSaver.from_conn_string(uris[0], **options) as saver:
        invoke(saver, "refused")
    assert snapshots(uris[0]) == before
    return str(raised.value)


def test_a_writer_whose_store_has_no_replica(uris, here):
    invoke(here, "t")
    assert "this store has no replica" in refused(uris, InvalidOptionError, replica=uris[1])


def test_a_writer_whose_store_has_another_replica(uris, here, there, tmp_path):
    here.admin.replicate(there)
    told = refused(uris, InvalidOptionError, replica=f"file://{tmp_path}/other")
    assert repr(f"file://{tmp_path}/there") in told


def test_a_writer_whose_store_is_the_replica(uris, here, there):
    here.admin.replicate(there)
    refused(uris[::-1], NotPrimaryError, replica=uris[0])


@pytest.mark.parametrize(
    ("replica", "error"),
    [
        ("file://{}/here", InvalidInputError),
        ("file://{}/link", InvalidInputError),
        ("memory:", InvalidInputError),
        ("/there", InvalidURIError),
        (b"file:///there", InvalidOptionError),
    ],
)
def test_a_replica_that_is_none(uris, here, tmp_path, replica, error):
    invoke(here, "t")
    (tmp_path / "link").symlink_to(tmp_path / "here")
    refused(uris, error, replica=replica.format(tmp_path) if isinstance(replica, str) else replica)


def test_a_writer_without_a_replica_imports_nothing_for_it(tmp_path):
    code = (
        "import sys\n"
        "from langgraph_gcs_saver import GCSSaver\n"
        f"with GCSSaver.from_conn_string('file://{tmp_path}/store') as saver:\n"
        "    saver.admin.delete_thread('t')\n"
        "names = ('shipper', 'replicas', 'replication', 'shipments', 'flows.regions')\n"
        "assert not [one for one in sys.modules if one.startswith('langgraph_gcs_saver') and one.endswith(names)]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


# How a replication begins


def test_a_store_with_threads_becomes_a_primary(uris, here, there):
    invoke(here, "a")
    invoke(here, "b")
    shipped = here.admin.replicate(there)
    assert (shipped.threads, shipped.failures, shipped.forks) == (2, (), ())
    assert shipped.mark == here.admin.replication(there).mark
    assert "2 threads" in str(shipped)
    same(here, there, "a", "b")
    status = here.admin.replication(there)
    assert status.is_replicating
    assert (status.source_role, status.target_role, status.epoch, status.entries) == ("primary", "replica", 1, 0)
    assert status.lag >= 0
    invoke(here, "c")  # by a saver that knew the store without a role
    assert here.admin.replication(there).entries > 0
    assert here.admin.replicate(there).entries > 0
    same(here, there, "c")
    assert here.admin.replicate(there).documents == 0
    with pytest.raises(NotPrimaryError):
        invoke(there, "d")


async def test_a_coroutine_replicates(here, there):
    await graph_of(here).ainvoke({"left": 2}, config_of("t"))
    assert (await here.admin.areplicate(there)).threads == 1
    assert (await here.admin.areplication(there)).is_replicating
    assert [one.documents async for one in here.admin.reconcile(there)] == [0, 0]
    same(here, there, "t")


class Crash(BaseException):
    """Ends a call."""


class Crashing(Interceptor):
    """Crashes at a commit."""

    def __init__(self, number):
        self.left = number

    def around(self, effect, perform):
        if isinstance(effect, Commit):
            self.left -= 1
            if self.left < 0:
                raise Crash
        return perform(effect)


def test_a_beginning_that_crashed_is_continued(uris, here):
    invoke(here, "a")
    invoke(here, "b")
    for number in range(20):
        with (
            Admin.from_conn_string(uris[0]) as source,
            GCSSaver.from_conn_string(f"{uris[1]}-{number}") as target,
        ):
            target._backend.intercept(Crashing(number))
            try:
                source.replicate(target)
            except Crash:
                pass
            else:
                assert number > 5
                return
        with Admin.from_conn_string(uris[0]) as source, GCSSaver.from_conn_string(f"{uris[1]}-{number}") as target:
            source.replicate(target)
            same(here, target, "a", "b")
        _forget_roles(uris[0])
    raise AssertionError("it never ended")


def test_what_is_older_than_the_replication_is_missing_until_all_was_compared(here, there):
    """Nothing says that the replica has it: there is no mark, and a failover that would lose it is refused."""
    invoke(here, "old")
    there._backend.intercept(crashing := Crashing(1))
    with pytest.raises(Crash):
        here.admin.replicate(there)
    crashing.left = sys.maxsize
    with pytest.raises(InvalidInputError, match="no call of `replicate` has ended"):
        here.admin.failover(there)
    invoke(here, "new")
    assert next(iter(here.admin.follow(there))).threads == 1
    status = here.admin.replication(there)
    assert (status.entries, status.mark, status.lag) == (0, None, None)
    assert here.admin.replicate(there).threads == 1
    assert here.admin.replication(there).mark is not None
    same(here, there, "old", "new")
    assert here.admin.failover(there).epoch == 2


def _forget_roles(uri):
    raw = open_raw(uri)
    for name in [name for name in raw.documents() if name.startswith("lg_region/")]:
        raw.delete_document(name)
    raw.close()


def test_stores_that_cannot_replicate_to_each_other(uris, here, there, tmp_path):
    invoke(here, "t")

    def refused(source, target, match, error=InvalidInputError):
        before = snapshots(*uris)
        with pytest.raises(error, match=match):
            source.admin.replicate(target)
        assert snapshots(*uris) == before

    refused(here, here, "its own replica")
    with GCSSaver.from_conn_string("memory:") as memory:
        refused(here, memory, "no connection string")
        refused(memory, here, "no connection string")
    with GCSSaver.from_conn_string(f"file://{tmp_path}/other") as other:
        invoke(other, "in use")
        refused(here, other, "has threads")
    with GCSSaver.from_conn_string(uris[0], cipher=XorCipher()) as encrypted:
        invoke(encrypted, "secret")
        encrypted.delete_thread("t")
    refused(here, there, "encrypted", WrongKeyError)
    with (
        GCSSaver.from_conn_string(uris[0], cipher=XorCipher()) as source,
        GCSSaver.from_conn_string(uris[1], cipher=XorCipher()) as target,
        GCSSaver.from_conn_string(f"file://{tmp_path}/third", cipher=XorCipher()) as third,
    ):
        source.admin.replicate(target)
        same(source, target, "secret")
        refused(target, source, "not the primary")
        refused(source, third, "replicated with")
        refused(third, target, "replicated with")
        with pytest.raises(NotPrimaryError):
            list(target.admin.reconcile(source))
        with pytest.raises(InvalidInputError, match="not replicated to"):
            list(third.admin.reconcile(target))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ("gs://my-bucket?project=p&root=a/b", "documents|objects"),
        ("gs://my-bucket/x?project=p&root=", "documents"),
        ("gs://another?project=p", "documents"),
        ("gs://my-bucket?project=p&database=db", "objects"),
        ("gs://another?project=p&database=db&mirror=my-bucket", "objects"),
        ("gs://my-bucket/?database=(default)&project=p", "its own replica"),
    ],
)
def test_addresses_that_share_something(monkeypatch, other, match):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(InvalidInputError, match=match):
        GCSSaver.from_conn_string("gs://my-bucket?project=p", replica=other)


# The follower


def test_two_followers_ship_what_crashed_processes_have_stored(here, there):
    here.admin.replicate(there)
    events = []
    here.subscribe(events.append)
    done = threading.Event()

    def follow():
        for _ in here.admin.follow(there, every=0.01):
            if done.is_set():
                return

    followers = [threading.Thread(target=follow) for _ in range(2)]
    for one in followers:
        one.start()
    try:
        for thread in "abc":
            invoke(here, thread)
        here.delete_thread("b")
        eventually(lambda: here.admin.replication(there).entries == 0)
    finally:
        done.set()
        for one in followers:
            one.join()
    same(here, there, "a", "c")
    assert sorted(one.thread_id for one in there.admin.threads()) == ["a", "c"]
    assert of_kind(events, ReplicationFailed) == []
    assert all(event.lag >= 0 for event in of_kind(events, Replicated))


def test_a_follower_of_stores_without_roles(uris, here, there):
    """It would move the mark of a store that has nothing."""
    invoke(here, "t")
    before = snapshots(*uris)
    with pytest.raises(InvalidInputError, match="not replicated to"):
        next(iter(here.admin.follow(there)))
    assert snapshots(*uris) == before


def test_a_follower_ends_when_the_other_store_is_the_primary(here, there):
    """It would report no lag, although no process ships what the new primary stores."""
    here.admin.replicate(there)
    invoke(here, "t")
    looks = iter(here.admin.follow(there, every=0.01))
    next(looks)
    there._backend.intercept(crashing := Crashing(0))
    with pytest.raises(Crash):
        here.admin.failover(there)
    crashing.left = sys.maxsize
    assert next(looks).is_all, "this store is fenced, and a failover that is taken back makes it the primary again"
    here.admin.failover(there)
    with pytest.raises(NotPrimaryError):
        next(looks)
    with pytest.raises(NotPrimaryError):
        next(iter(here.admin.follow(there)))


async def test_a_follower_of_coroutines(here, there):
    await here.admin.areplicate(there)
    await graph_of(here).ainvoke({"left": 2}, config_of("t"))
    shipped = []
    async for one in here.admin.follow(there, every=0.01):
        shipped.append(one)
        if len(shipped) == 2:
            break
    assert [one.threads for one in shipped] == [1, 0]
    same(here, there, "t")


def test_the_lag_is_what_the_replica_lacks(here, there):
    here.admin.replicate(there)
    looks = iter(here.admin.follow(there, every=0.01))
    next(looks)
    before = here.admin.replication(there)
    invoke(here, "t")
    behind = here.admin.replication(there)
    assert behind.mark == before.mark
    assert behind.oldest <= behind.lag, "the oldest entry is younger than the mark"
    assert here.admin.replication(there).lag > behind.lag
    next(looks)
    after = here.admin.replication(there)
    assert after.mark > before.mark
    assert (after.entries, after.oldest) == (0, None)


def test_a_follower_waits_for_a_store_that_does_not_answer(here, there):
    here.admin.replicate(there)
    invoke(here, "t")
    events, fault = [], Fault()
    here.subscribe(events.append)
    there._backend.intercept(fault)
    fault.set(DOWN, Commit)

    def repair(event):
        if isinstance(event, ReplicationFailed):
            fault.set(None)

    here.subscribe(repair)
    (shipped,) = islice(here.admin.follow(there, every=0.01), 1)
    assert shipped.threads == 1
    (failed,) = of_kind(events, ReplicationFailed)
    assert (failed.thread_id, failed.kind, failed.error) == ("", "unavailable", "StoreUnavailableError")
    assert failed.lag >= 0
    same(here, there, "t")


def test_a_thread_with_another_key_stays_in_the_outbox(uris, here, there):
    here.admin.replicate(there)
    with GCSSaver.from_conn_string(uris[0], cipher=XorCipher()) as encrypted:
        invoke(encrypted, "secret")
    invoke(here, "clear")
    waiting = here.admin.replication(there)
    events = []
    here.subscribe(events.append)
    shipped = next(iter(here.admin.follow(there)))
    assert [(one.thread_id, type(one.error)) for one in shipped.failures] == [("secret", WrongKeyError)]
    assert [(event.thread_id, event.kind) for event in of_kind(events, ReplicationFailed)] == [("secret", "wrong-key")]
    assert [one.thread_id for one in there.admin.threads()] == ["clear"]
    left = here.admin.replication(there)
    assert 0 < left.entries < waiting.entries
    assert left.lag >= left.oldest, "the mark stays before what was not shipped"


@pytest.mark.parametrize("every", [0, -1, "1", True, float("nan"), float("inf")])
def test_followers_look_at_intervals(here, there, every):
    with pytest.raises(InvalidInputError, match="every"):
        here.admin.follow(there, every=every)


def test_what_writers_stored_before_they_were_restarted(uris, here, there):
    """A process that knows the store without a role adds no entries. A comparison finds what it has stored."""
    with GCSSaver.from_conn_string(uris[0]) as late:
        invoke(late, "before")
        with Admin.from_conn_string(uris[0]) as operator, Admin.from_conn_string(uris[1]) as target:
            operator.replicate(target)
        invoke(late, "after")
    assert here.admin.replication(there).entries == 0
    found = {one.thread_id: one.documents for one in here.admin.reconcile(there)}
    assert found.pop("after") > 0
    assert set(found.values()) == {0}
    same(here, there, "before", "after")
    assert [one.documents for one in here.admin.reconcile(there, "after")] == [0]
