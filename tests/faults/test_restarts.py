"""Emulators that are killed and started again: errors within the deadline, then the same saver works again."""

import asyncio
import http.client
import json
import math
import random
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, GetBlob, PutBlob
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import DamageError, StoreUnavailableError
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.stores.google.objects import GCSBlobs
from langgraph_gcs_saver.testing.firestore_proxy import Faults
from langgraph_gcs_saver.testing.storage_proxy import StorageProxy
from tests.emulators.firestore import FirestoreEmulator
from tests.emulators.process import HOST
from tests.emulators.storage import StorageEmulator
from tests.faults.talk import Ledger, aconverse, converse, digest_of_state, final_state, patiently, state_of
from tests.patience import PATIENCE, deadlines
from tests.system.build import DEFAULT, cfg, checkpoint, noise, number, put, values

TIMEOUT = 3.0
"""The first deadline of savers whose services go away for longer, see `deadlines`. Other savers have a long one."""

STEPS = 4


class Services:
    """Both emulators, which can be killed and come back on their ports, with what was stored or without."""

    def __init__(self, folder):
        self.firestore = FirestoreEmulator(folder / "firestore.log")
        self.storage = StorageEmulator(folder / "storage.log", folder / "objects")
        self.ports = {}
        self.project = f"test-{uuid.uuid4().hex[:20]}"

    def of(self, names):
        return [getattr(self, name) for name in names]

    def fresh(self):
        """The connection string of an empty store; both emulators run."""
        self.bucket = f"test-{uuid.uuid4().hex}"
        self.start()
        self.make_bucket()
        # One project for all: an emulator that starts with an export shows it in every project.
        return f"gs://{self.bucket}/agents?project={self.project}&root=tests/{self.bucket}"

    def make_bucket(self):
        connection = http.client.HTTPConnection(HOST, self.storage.port, timeout=PATIENCE)
        connection.request(
            "POST",
            "/storage/v1/b?project=test",
            json.dumps({"name": self.bucket}),
            {"Content-Type": "application/json"},
        )
        assert connection.getresponse().status == 200
        connection.close()

    def saver(self, uri, kind=GCSSaver, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FIRESTORE_EMULATOR_HOST", self.firestore.host)
            patch.setenv("STORAGE_EMULATOR_HOST", self.storage.url)
            return kind.from_conn_string(uri, **{"timeout": PATIENCE, "inline_max_bytes": 8 << 10, **options})

    def kill(self, names):
        """SIGKILL; documents that were acknowledged before are kept, as objects are."""
        if "firestore" in names:
            self.firestore.save(self.project)
        for emulator in self.of(names):
            emulator.kill()

    def start(self):
        """Start what does not run, on the port that it had."""
        for emulator in (self.firestore, self.storage):
            if emulator._process is None:
                emulator.start(self.ports.get(emulator.name))
                self.ports[emulator.name] = emulator.port

    def stop(self):
        self.firestore.kill()
        self.storage.kill()


@pytest.fixture(scope="module")
def emulators(tmp_path_factory):
    found = Services(tmp_path_factory.mktemp("restarts"))
    yield found
    found.stop()


@pytest.fixture
def uri(emulators):
    return emulators.fresh()


class Gate(Interceptor):
    """Can hold back commits, from a given one: then none is under way, and none begins.

    The Firestore emulator keeps only what it has exported. So the kill must come right after the export, with no
    acknowledgment in between.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._running = self._count = 0
        self._last = math.inf

    def _enter(self):
        with self._changed:
            if not self._changed.wait_for(lambda: self._count < self._last, PATIENCE):
                return False
            self._running += 1
            return True

    def _leave(self, is_done):
        with self._changed:
            self._running -= 1
            self._count += is_done
            self._changed.notify_all()

    def around(self, effect, perform):
        if not isinstance(effect, Commit):
            return perform(effect)
        assert self._enter()
        is_done = False
        try:
            found = perform(effect)
            is_done = True
            return found
        finally:
            self._leave(is_done)

    async def aaround(self, effect, perform):
        if not isinstance(effect, Commit):
            return await perform(effect)
        assert await asyncio.to_thread(self._enter)  # not on the event loop, so that commits under way can end
        is_done = False
        try:
            found = await perform(effect)
            is_done = True
            return found
        finally:
            self._leave(is_done)

    @contextmanager
    def holding(self, more, running):
        """Hold commits once so many more have succeeded, or continue if the work that makes them has ended before."""
        running.add_done_callback(lambda _: self._notify())
        with self._changed:
            self._last = self._count + more
            assert self._changed.wait_for(lambda: self._is_held() or running.done(), PATIENCE)
        try:
            yield
        finally:
            with self._changed:
                self._last = math.inf
                self._changed.notify_all()

    def _is_held(self):
        return self._count >= self._last and not self._running

    def _notify(self):
        with self._changed:
            self._changed.notify_all()


class Loop:
    """An event loop that lives as long as the test: a saver's asynchronous client must survive on it."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def loop():
    found = Loop()
    yield found
    found.close()


def go_on(saver, mode, loop, thread):
    """Talk to the graph from where it is to its end."""
    if mode == "sync":
        converse(saver, thread, STEPS, patient=False)
    else:
        loop.run(aconverse(saver, thread, STEPS, patient=False))


def check(emulators, uri, saver, thread):
    """All that was acknowledged is there, exactly, and the graph's end is right, for a fresh reader."""
    with emulators.saver(uri) as reader:
        listed = {one.checkpoint["id"]: one for one in reader.list(cfg(thread=thread))}
        for checkpoint_id, digest in saver.checkpoints.items():
            assert checkpoint_id in listed, f"{checkpoint_id} was acknowledged and is lost"
            assert digest_of_state(values(listed[checkpoint_id])) == digest
        assert state_of(values(reader.get_tuple(cfg(thread=thread)))) == final_state(STEPS)


BOTH = ["firestore", "storage"]
WHICH = [["firestore"], ["storage"], BOTH]
QUICK = [BOTH, *(pytest.param(one, marks=pytest.mark.soak) for one in WHICH[:2])]
"""Each takes seconds: both at once always, the others in the soak."""


@pytest.mark.parametrize("mode", [pytest.param("sync", marks=pytest.mark.soak), "async"])
@pytest.mark.parametrize("names", QUICK, ids="+".join)
def test_killed_while_a_graph_runs(emulators, uri, loop, names, mode):
    for timeout in deadlines(TIMEOUT):
        thread = f"thread {timeout}"
        gate = Gate()
        with (
            emulators.saver(uri, Ledger, timeout=timeout, interceptors=[gate]) as saver,
            ThreadPoolExecutor(1) as threads,
        ):
            running = threads.submit(go_on, saver, mode, loop, thread)
            with gate.holding(15, running):
                was_in_time = not running.done()
                emulators.kill(names)
            error = running.exception(PATIENCE)
            assert isinstance(error, StoreUnavailableError)
            emulators.start()
            # The same saver finds the service again.
            patiently(lambda: go_on(saver, mode, loop, thread))  # noqa: B023 - called here
            assert saver.checkpoints
            check(emulators, uri, saver, thread)
            if mode == "async":
                loop.run(saver.aclose())
        if was_in_time:
            break


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_back_within_the_deadline(emulators, uri, loop, mode):
    """A caller that waits long enough does not notice."""
    gate = Gate()
    with emulators.saver(uri, Ledger, interceptors=[gate]) as saver, ThreadPoolExecutor(1) as threads:
        running = threads.submit(go_on, saver, mode, loop, "t")
        with gate.holding(15, running):
            emulators.kill(BOTH)
        assert not running.done()
        emulators.start()
        running.result(PATIENCE)
        check(emulators, uri, saver, "t")
        if mode == "async":
            loop.run(saver.aclose())


def every_call(saver):
    """Each method, synchronous and not, on a thread that has objects."""
    first = checkpoint(9, {"noise": noise(20_000)})
    arguments = cfg(thread="new"), first, DEFAULT, first["channel_versions"]

    async def all_of(found):
        return [one async for one in found]

    return {
        "get_tuple": lambda: saver.get_tuple(cfg()),
        "list": lambda: list(saver.list(cfg())),
        "put": lambda: saver.put(*arguments),
        "put_writes": lambda: saver.put_writes(cfg(2), [("a", noise(200_000))], "task"),
        "delete_thread": lambda: saver.delete_thread("other"),
        "aget_tuple": lambda: asyncio.run(saver.aget_tuple(cfg())),
        "alist": lambda: asyncio.run(all_of(saver.alist(cfg()))),
        "aput": lambda: asyncio.run(saver.aput(*arguments)),
        "aput_writes": lambda: asyncio.run(saver.aput_writes(cfg(2), [("a", noise(200_000))], "task")),
        "adelete_thread": lambda: asyncio.run(saver.adelete_thread("other")),
    }


@pytest.mark.parametrize("names", QUICK, ids="+".join)
def test_every_call_ends_at_the_deadline(emulators, uri, names):
    with emulators.saver(uri) as saver:
        put(saver, 1, {"noise": noise(20_000), "n": 1})
        put(saver, 1, {"noise": noise(20_000), "n": 1}, thread="other")
    # Without a cache, because a cached value needs no service.
    with emulators.saver(uri, cache_max_bytes=0, timeout=TIMEOUT) as saver, ThreadPoolExecutor(10) as threads:
        patiently(lambda: saver.get_tuple(cfg()))
        emulators.kill(names)
        calls = every_call(saver)
        under_way = {name: threads.submit(call) for name, call in calls.items()}
        found = {name: future.exception(PATIENCE) for name, future in under_way.items()}
        emulators.start()
        for name, error in found.items():
            assert isinstance(error, StoreUnavailableError), (name, error)
        for call in calls.values():
            patiently(call)
    with emulators.saver(uri) as saver:
        assert values(saver.get_tuple(cfg())) == {"noise": noise(20_000), "n": 1}
        assert saver.get_tuple(cfg()).pending_writes == []
        assert saver.get_tuple(cfg(thread="other")) is None
        assert values(saver.get_tuple(cfg(thread="new"))) == {"noise": noise(20_000)}


def test_the_deadline_is_30_seconds_unless_told(emulators, uri):
    assert Options().timeout == 30.0
    with emulators.saver(uri, timeout=Options().timeout) as saver:
        assert {saver._backend.documents._timeout, saver._backend.blobs._timeout} == {30.0}
        assert saver._context.timeout == 30.0
    with emulators.saver(uri, timeout=TIMEOUT) as saver:
        assert {saver._backend.documents._timeout, saver._backend.blobs._timeout} == {TIMEOUT}


# Services that come back without what they had


def state(n, **more):
    return {"n": n, "noise": noise(20_000, n), **more}


def test_documents_that_are_gone(emulators, uri):
    """A thread without documents reads as none; what a saver still remembers of it never makes a wrong one."""
    with emulators.saver(uri) as saver:
        for n in (1, 2):
            put(saver, n, state(n, kept="kept"), parent=n - 1 or None, changed=None if n == 1 else {"n", "noise"})
        emulators.firestore.kill()
        emulators.firestore.forget()
        emulators.start()
        assert patiently(lambda: saver.get_tuple(cfg())) is None
        assert list(saver.list(cfg())) == []
        put(saver, 1, state(1), thread="new")
        assert values(saver.get_tuple(cfg(thread="new"))) == state(1)
        # A child of a lost checkpoint. All of its values are known, so it is stored in full.
        put(saver, 3, state(3, kept="kept"), parent=2, changed={"n", "noise"})
        with emulators.saver(uri) as reader:
            found = list(reader.list(cfg()))
            assert [(number(one), values(one)) for one in found] == [(3, state(3, kept="kept"))]


def test_objects_that_are_gone(emulators, uri):
    """A checkpoint without its objects is damaged, or its thread falls back to an older whole one and says so."""
    with emulators.saver(uri) as saver:
        put(saver, 1, {"n": 1})
        put(saver, 2, state(2), parent=1)
        emulators.storage.kill()
        for kept in emulators.storage.directory.iterdir():
            kept.unlink()
        emulators.start()
        emulators.make_bucket()
        with emulators.saver(uri) as reader:
            with pytest.raises(DamageError):
                patiently(lambda: reader.get_tuple(cfg(2)))
            try:
                found = reader.get_tuple(cfg())
            except DamageError:
                found = None
            if found is not None:
                assert values(found) == {"n": 1}
                assert found.metadata["recovered_from"] == cfg(2)["configurable"]["checkpoint_id"]
            assert [number(one) for one in reader.list(cfg())] == [1]
        put(saver, 1, state(1), thread="new")
        with emulators.saver(uri) as reader:
            assert values(reader.get_tuple(cfg(thread="new"))) == state(1)


@pytest.mark.soak
def test_work_goes_on_soon_after_a_long_outage(emulators, uri, loop):
    """Clients must not wait for longer than the service was away."""
    with emulators.saver(uri) as saver:
        put(saver, 1, {"n": 1})
    with emulators.saver(uri, timeout=TIMEOUT) as saver:
        calls = (lambda: saver.get_tuple(cfg()), lambda: loop.run(saver.aget_tuple(cfg())))
        for call in calls:
            assert patiently(call) is not None
        emulators.kill(["firestore"])
        end = time.monotonic() + 60  # clock: how long the outage is
        while time.monotonic() < end:  # clock: as above
            for call in calls:
                with pytest.raises(StoreUnavailableError):
                    call()
        emulators.start()
        with emulators.saver(uri) as fresh:
            assert number(fresh.get_tuple(cfg())) == 1
        # The service answers a client that is new, so one that is not gets an answer after a few calls. Each that fails
        # takes the whole deadline: a client that waited as long as the outage took would fail twenty times.
        for call in calls:
            failures = 0
            while True:
                with suppress(StoreUnavailableError):
                    assert number(call()) == 1
                    break
                failures += 1
            assert failures < 10
        loop.run(saver.aclose())


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_many_kills_at_random(emulators, uri, loop, mode):
    random_ = random.Random(mode)
    kills = 0
    while kills < 25:
        gate = Gate()
        with emulators.saver(uri, Ledger, timeout=TIMEOUT, interceptors=[gate]) as saver:
            thread = f"thread {kills}"
            kills += until_it_ends(emulators, saver, gate, random_, partial(go_on, mode=mode, loop=loop, thread=thread))
            check(emulators, uri, saver, thread)
            if mode == "async":
                loop.run(saver.aclose())


def until_it_ends(emulators, saver, gate, random_, run):
    """Run a graph to its end while emulators are killed and started again; how often they were."""
    kills = 0
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(patiently, partial(run, saver))
        while not running.done():
            with gate.holding(random_.randrange(1, 12), running):
                emulators.kill(random_.choice(WHICH))
            kills += 1
            time.sleep(random_.choice([0, 0, TIMEOUT]))  # clock: how long the outage is
            emulators.start()
        running.result()
    return kills


def test_an_upload_whose_session_is_lost(emulators, uri):
    """A value too large for one request is uploaded in a session. A restart ends it, so a new session must begin."""

    class Restart(Faults):
        def choose(self, call, possible):
            found = super().choose(call, possible)
            if call == "upload" and self.requests[call] == 2:
                emulators.kill(["storage"])
                emulators.start()
            return found

    value = noise(8_500_000)
    with StorageProxy(emulators.storage.url, Restart()) as proxy:
        client = Client(project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": proxy.url})
        with closing(GCSBlobs(client.bucket(emulators.bucket), prefix="", timeout=PATIENCE)) as blobs:
            blobs.put_blob(PutBlob("a", value))
            assert blobs.get_blob(GetBlob("a")) == value
        assert proxy.faults.requests["upload"] == 4
        client.close()
