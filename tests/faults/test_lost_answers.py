"""Answers that are lost, late, cut, refused or damaged on the way: nothing wrong, nothing lost, nothing twice."""

import asyncio
import hashlib
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage
from langgraph.checkpoint.base import CheckpointTuple

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, ListBlobs, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import DamageError, StoreError, StoreUnavailableError
from langgraph_gcs_saver.flows import sources
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.stores.google.objects import GCSBlobs
from langgraph_gcs_saver.stores.google.retry import ATTEMPTS
from langgraph_gcs_saver.testing import firestore_proxy, storage_proxy
from langgraph_gcs_saver.testing.firestore_proxy import Fault, Faults, FirestoreProxy
from langgraph_gcs_saver.testing.storage_proxy import StorageProxy
from tests.faults.talk import (
    Ledger,
    aconverse,
    converse,
    digest_of,
    digest_of_state,
    final_state,
    is_right,
    patiently,
    state_of,
)
from tests.patience import PATIENCE, deadlines
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, put, version

TIMEOUT = 2.4
"""The first deadline of a call to a service; see `deadlines`. An attempt takes a third of it at most."""

LANES = 8

FOREVER = 1 << 40

_LIMIT = {"inline_max_bytes": 8 << 10}
"""Options by which the larger values of `large` are objects."""


# Lanes: each has a proxy before each emulator, and a way past them


class Lane:
    """Two proxies, a saver's clients through them, and a saver past them."""

    def __init__(self, stack, firestore_host, storage_url, project, bucket):
        self.documents = stack.enter_context(FirestoreProxy(firestore_host))
        self.blobs = stack.enter_context(StorageProxy(storage_url))
        self.ill = self._clients(stack, self.documents.host, self.blobs.url, project, bucket)
        self.well = self._clients(stack, firestore_host, storage_url, project, bucket)
        self.seen = Counter()
        self.timeout = TIMEOUT
        self._stored = set()

    @staticmethod
    def _clients(stack, host, url, project, bucket):
        anonymous = AnonymousCredentials()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FIRESTORE_EMULATOR_HOST", host)
            documents = firestore.Client(project=project, credentials=anonymous)
        objects = storage.Client(project=project, credentials=anonymous, client_options={"api_endpoint": url})
        stack.callback(documents.close)
        stack.callback(objects.close)
        return {"bucket": objects.bucket(bucket), "firestore": documents}

    def saver(self, kind=GCSSaver, **options):
        """A saver behind the proxies, with caches of its own."""
        return kind(**self.ill, prefix="agents", **{"timeout": self.timeout, **_LIMIT, **options})

    def reader(self, kind=GCSSaver, **options):
        """A saver past the proxies, with caches of its own."""
        return kind(**self.well, prefix="agents", **{**_LIMIT, **options})

    def stored_once(self, thread):
        """Whether this was asked before."""
        was = thread in self._stored
        self._stored.add(thread)
        return was

    def plan(self, *faults, **options):
        self.documents.faults = Faults(*(f for f in faults if f.call not in storage_proxy.CALLS), **options)
        self.blobs.faults = Faults(*(f for f in faults if f.call in storage_proxy.CALLS), **options)

    def requests(self):
        return self.documents.faults.requests + self.blobs.faults.requests

    def happened(self):
        return self.documents.faults.happened + self.blobs.faults.happened

    def be_well(self):
        """Nothing fails from here on, and late requests have arrived."""
        self.seen += self.happened()
        self.plan()
        self.documents.settle()
        self.blobs.settle()


@pytest.fixture
def lanes(firestore_emulator, storage_emulator, project_id, bucket_name):
    with ExitStack() as stack:
        found = [Lane(stack, firestore_emulator, storage_emulator, project_id, bucket_name) for _ in range(LANES)]
        with found[0].reader() as first:
            first.delete_thread("nobody")  # It names the store's place, which the others then find.
        yield found


@pytest.fixture
def lane(lanes):
    return lanes[0]


# What is done, and what must be found


def large(n):
    return {"n": n, "again": [n], "noise": noise(9_000, n), "more": noise(20_000, n), "kept": "kept" * 200}


def fill(saver, thread):
    """Two checkpoints that share a value, with pending writes, objects and a namespace."""
    put(saver, 1, large(1), thread=thread, metadata={"run_id": "run 1"})
    saver.put_writes(cfg(1, thread=thread), [("a", 1), ("__interrupt__", noise(140_000))], "task")
    second = {**large(2), "kept": large(1)["kept"], "more": large(1)["more"]}
    put(saver, 2, second, parent=1, thread=thread, changed={"n", "again", "noise"}, metadata={"run_id": "run 1"})
    saver.put_writes(cfg(2, thread=thread), [("a", 2), ("b", noise(140_000, 2))], "task")
    put(saver, 1, {"inner": noise(10_000, 3)}, thread=thread, ns="child:1", metadata={"run_id": "run 2"})


def call_put(thread, n, values, *, parent, changed, **metadata):
    versions = {channel: version(n if channel in changed else 1) for channel in values}
    arguments = (
        cfg(parent, thread=thread),
        checkpoint(n, values, versions),
        {**DEFAULT, **metadata},
        {channel: versions[channel] for channel in changed},
    )
    return "put", arguments


def call_small(thread):
    values = {**large(1), "n": 3}
    return call_put(thread, 3, values, parent=2, changed={"n"})


def call_objects(thread):
    values = {**large(3), "kept": large(1)["kept"]}
    return call_put(thread, 3, values, parent=2, changed={"n", "again", "noise", "more"}, run_id="run 3")


def call_first(thread):
    return call_put(thread, 1, large(1), parent=None, changed=set(large(1)), run_id="run 1")


def call_huge(thread):
    """More than Cloud Storage's client sends in one request: the upload is a session."""
    values = {**large(1), "noise": noise(8_500_000)}
    return call_put(thread, 3, values, parent=2, changed={"noise"})


def call_writes(thread):
    writes = [("c", {"x": 1}), ("__resume__", ["yes"]), ("d", noise(200))]
    return "put_writes", (cfg(2, thread=thread), writes, "other", "~path")


def call_large_writes(thread):
    writes = [("c", noise(140_000, 5)), ("__error__", noise(150_000, 6))]
    return "put_writes", (cfg(2, thread=thread), writes, "other")


def call_delete(thread):
    return "delete_thread", (thread,)


def call_latest(thread):
    return "get_tuple", (cfg(thread=thread),)


def call_by_id(thread):
    return "get_tuple", (cfg(1, thread=thread),)


def call_list(thread):
    return "list", (cfg(thread=thread, ns=None),)


OPERATIONS: dict[str, Callable[..., tuple[str, tuple[Any, ...]]]] = {
    "put small": call_small,
    "put objects": call_objects,
    "put huge": call_huge,
    "put first": call_first,
    "put_writes": call_writes,
    "put_writes large": call_large_writes,
    "delete_thread": call_delete,
    "get_tuple latest": call_latest,
    "get_tuple by id": call_by_id,
    "list": call_list,
}


def perform(saver, name, thread, mode):
    """Do the operation; the result of one that reads, as plain data."""
    method, arguments = OPERATIONS[name](thread)
    if mode == "sync":
        result = getattr(saver, method)(*arguments)
        return plain(list(result) if method == "list" else [result])

    async def main():
        try:
            if method == "list":
                return [one async for one in saver.alist(*arguments)]
            return [await getattr(saver, f"a{method}")(*arguments)]
        finally:
            await saver.aclose()

    return plain(asyncio.run(main()))


def plain(found):
    """What tuples say, as data that does not depend on the thread's name; nothing of other results."""
    return [
        (
            one.config["configurable"]["checkpoint_ns"],
            one.checkpoint["id"],
            digest_of(one.checkpoint["channel_values"]),
            sorted(one.checkpoint["channel_versions"].items()),
            {key: value for key, value in one.metadata.items() if key != "thread_id"},
            (one.parent_config or {}).get("configurable", {}).get("checkpoint_id"),
            [
                (task, channel, hashlib.sha256(repr(value).encode()).hexdigest())
                for task, channel, value in one.pending_writes
            ],
        )
        for one in found
        if isinstance(one, CheckpointTuple)
    ]


def observe(lane, thread):
    """All that a fresh reader sees of a thread."""
    with lane.reader() as reader:
        listed = plain(reader.list(cfg(thread=thread, ns=None)))
        latest = reader.get_tuple(cfg(thread=thread))
        assert plain([latest]) == [one for one in listed if one[0] == ""][:1]
        return listed


def stored(lane, thread):
    """How many documents and objects there are of a thread: checkpoints, writes, the thread's own, objects."""
    with lane.reader() as reader:
        documents, blobs = reader._backend.documents, reader._backend.blobs
        name = keys.thread_doc(thread)
        return (
            len(documents.query_docs(QueryDocs(keys.checkpoints(thread), mask=()))),
            len(documents.query_docs(QueryDocs(keys.writes(thread), mask=()))),
            len(documents.get_docs(GetDocs((name,)))),
            len(blobs.list_blobs(ListBlobs(f"{name.rpartition('/')[2]}/"))),
        )


@dataclass(frozen=True)
class Clean:
    """What an operation does when nothing goes wrong."""

    requests: Counter
    result: list
    before: list
    after: list
    stored: tuple


READING = {"get_tuple latest", "get_tuple by id", "list"}


def prepared(lane, name, thread):
    """The thread on which to do an operation; those that only read share one."""
    if name in READING:
        thread = f"read {id(lane)}"
        if lane.stored_once(thread):
            return thread
    if name != "put first":
        with lane.reader(verify="off") as saver:
            fill(saver, thread)
    return thread


def clean(lane, name, mode):
    thread = prepared(lane, name, f"clean {name} {mode}")
    before = observe(lane, thread)
    lane.plan()
    with lane.saver(timeout=PATIENCE) as saver:
        result = perform(saver, name, thread, mode)
    found = Clean(lane.requests(), result, before, observe(lane, thread), stored(lane, thread))
    # The comparison is with values that this test knows, not only with what the saver says of itself.
    if name in {"put objects", "put first"}:
        n = 3 if name == "put objects" else 1
        assert found.after[0][1:3] == (cid(n), digest_of(large(n)))
        assert len(found.after) == len(before) + 1
    elif name == "delete_thread":
        assert (found.after, found.stored) == ([], (0, 0, 0, 0))
    elif name in {"get_tuple latest", "get_tuple by id", "list"}:
        assert found.after == before
        assert len(result) == (3 if name == "list" else 1)
    return found


def attempt(lane, name, mode, fault, *, truth, make=Lane.saver):
    """One operation with one fault; what must hold after it.

    One fault leaves time for another attempt, which are the store's, not the caller's; one that lasts ends it. On a
    machine that is too slow for the deadline, one fault ends it too, or one that lasts does not even come.
    """
    is_lasting = fault.times > 1
    for lane.timeout in deadlines(TIMEOUT):
        is_done, happened = attempt_once(lane, name, mode, fault, truth=truth, make=make)
        if is_lasting and happened:
            return is_done
        if not is_lasting and is_done:
            return True
    raise AssertionError


def attempt_once(lane, name, mode, fault, *, truth, make):
    thread = prepared(lane, name, f"{name} {mode} {fault} {lane.timeout}")
    error = result = None
    saver = make(lane)
    lane.plan(fault)
    try:
        result = perform(saver, name, thread, mode)
    except StoreUnavailableError as caught:
        error = caught
    finally:
        saver.close()
        happened, requests = lane.happened(), lane.requests()
        lane.be_well()
    where = f"{name}, {mode}, {fault}: {error!r}"
    count = happened[fault.call, fault.kind]
    assert count <= fault.times, where
    assert count or error is not None, where  # a machine that is too slow
    # An attempt that was too slow may have been carried out all the same, and late.
    is_slow = requests["Commit"] > truth.requests["Commit"] and fault.call != "Commit"
    if error is None:
        assert result == truth.result, where
        check_done(lane, name, thread, fault, truth=truth, where=where, is_slow=is_slow)
    elif name == "delete_thread":
        check_half_deleted(lane, thread, truth, where)
    else:
        assert observe(lane, thread) in (truth.before, truth.after), where
    with lane.saver() as again:
        assert patiently(lambda: perform(again, name, thread, mode)) == truth.result, where
    check_done(lane, name, thread, fault, truth=truth, where=where, is_slow=is_slow, repeated=True)
    return error is None, count


def check_done(lane, name, thread, fault, *, truth, where, is_slow, repeated=False):
    assert observe(lane, thread) == truth.after, where
    checkpoints, writes, threads, objects = stored(lane, thread)
    if name == "delete_thread" and (fault.kind == "late" or is_slow):
        # The late request may have marked the thread that was gone. The next writer removes the mark.
        assert (checkpoints, writes, objects) == (0, 0, 0), where
        return
    assert (checkpoints, writes, threads) == truth.stored[:3], where
    # Objects have another name with each attempt: those of one that failed, found its objects damaged, or had to look
    # whether its commit was done, are left without a reference.
    if repeated or fault.kind == "flip" or fault.call == "Commit" or is_slow:
        assert objects >= truth.stored[3], where
    else:
        assert objects == truth.stored[3], where


def check_half_deleted(lane, thread, truth, where):
    with lane.reader() as reader:
        listed = plain(reader.list(cfg(thread=thread, ns=None)))
        assert all(one in truth.before for one in listed), where
        try:
            latest = reader.get_tuple(cfg(thread=thread))
        except DamageError:
            return  # its newest checkpoints are gone, and the reader says so
        flags = {} if latest is None else latest.metadata
        values_ = [] if latest is None else plain([latest])
        assert "recovered_from" in flags or all(one in truth.before for one in values_), where


def on_lanes(lanes, tasks):
    """Perform tasks, each a function of a lane, on all lanes at once; their results."""
    free = queue.SimpleQueue()
    for lane in lanes:
        free.put(lane)

    def one(task):
        lane = free.get()
        try:
            return task(lane)
        finally:
            free.put(lane)

    with ThreadPoolExecutor(len(lanes)) as threads:
        return list(threads.map(one, tasks))


def kinds_of(call, *, every):
    if call in storage_proxy.CALLS:
        found = storage_proxy.BODY_KINDS if call in {"upload", "download"} else storage_proxy.KINDS
        few = {"503", "lost", "late", "cut", "flip"}
    else:
        found = firestore_proxy.STREAM_KINDS if call in firestore_proxy.STREAMS else firestore_proxy.KINDS
        few = {"unavailable", "lost", "late", "cut"}
    return [kind for kind in found if every or kind in few]


def systematically(lanes, names, mode, kinds):
    """Every request of every operation meets every kind of fault once."""
    truths = dict(zip(names, on_lanes(lanes, [partial(clean, name=name, mode=mode) for name in names]), strict=True))
    tasks = [
        partial(attempt, name=name, mode=mode, fault=Fault(call, kind, nth), truth=truth)
        for name, truth in truths.items()
        for call, count in sorted(truth.requests.items())
        for nth in range(1, count + 1)
        for kind in kinds(call)
    ]
    assert all(on_lanes(lanes, tasks))
    met = sum((lane.seen for lane in lanes), Counter())
    assert sum(met.values()) >= len(tasks)
    return len(tasks)


def test_every_request_and_fault(lanes):
    assert systematically(lanes, ["put objects"], "sync", partial(kinds_of, every=False)) >= 25


def test_every_write_whose_answer_is_lost(lanes):
    names = ["put first", "put_writes large", "put_writes", "delete_thread"]
    writing = {"Commit", "upload", "batch"}
    assert systematically(lanes, names, "async", lambda call: ["lost"] if call in writing else []) >= 10


def test_every_read_that_fails_on_the_way(lanes):
    failing = {"RunQuery": ["cut"], "BatchGetDocuments": ["cut"], "GetDocument": ["reset"], "download": ["flip", "cut"]}
    assert systematically(lanes, ["get_tuple latest"], "async", lambda call: failing[call]) >= 5


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_request_and_fault(lanes, name, mode):
    assert systematically(lanes, [name], mode, partial(kinds_of, every=True)) >= 12


LASTING = [
    ("put objects", "Commit", "unavailable", "sync"),
    ("put objects", "Commit", "lost", "async"),
    ("put objects", "Commit", "silent", "sync"),
    ("put objects", "upload", "503", "async"),
    ("put objects", "upload", "stall", "sync"),
    ("put objects", "upload", "lost-reset", "async"),
    ("put_writes", "Commit", "lost-reset", "sync"),
    ("put_writes large", "upload", "flip", "async"),
    ("delete_thread", "Commit", "lost", "sync"),
    ("delete_thread", "batch", "lost", "async"),
    ("get_tuple latest", "RunQuery", "stall", "sync"),
    ("get_tuple latest", "RunQuery", "cut", "async"),
    ("get_tuple latest", "download", "cut", "sync"),
    ("get_tuple by id", "GetDocument", "reset", "async"),
    ("list", "download", "reset", "sync"),
]


@pytest.mark.parametrize(
    "cases", [LASTING[:8], pytest.param(LASTING[8:], marks=pytest.mark.soak)], ids=["some", "rest"]
)
def test_faults_that_last_end_at_the_deadline(lanes, cases):
    names = sorted({name for name, *_ in cases})
    truths = dict(zip(names, on_lanes(lanes, [partial(clean, name=name, mode="sync") for name in names]), strict=True))
    tasks = [
        partial(attempt, name=name, mode=mode, fault=Fault(call, kind, times=FOREVER), truth=truths[name])
        for name, call, kind, mode in cases
    ]
    assert on_lanes(lanes, tasks) == [False] * len(cases)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_both_ways_to_read_a_document_share_the_deadline(lane, mode):
    """The first one is answered at last, that there is none; the second one, which asks why, never is."""
    lane.documents.faults = Faults(
        Fault("GetDocument", "stall", times=ATTEMPTS - 1), Fault("BatchGetDocuments", "stall", times=FOREVER)
    )
    with lane.saver() as saver:
        store, effect = saver._backend.documents, GetDocs(("lg_threads/none",))
        with pytest.raises(StoreUnavailableError):
            store.get_docs(effect) if mode == "sync" else asyncio.run(store.aget_docs(effect))
    assert lane.documents.faults.happened["BatchGetDocuments", "stall"] < ATTEMPTS


@pytest.mark.parametrize("times", [1, FOREVER])
def test_a_wrong_byte_on_the_way_down_is_never_a_value(lane, times):
    with lane.reader() as saver:
        fill(saver, "t")
        truth = plain([saver.get_tuple(cfg())])
    for lane.timeout in [PATIENCE] if times == 1 else deadlines(TIMEOUT):
        lane.plan(Fault("download", "flip", times=times))
        with lane.saver() as saver:
            if times == 1:
                assert plain([saver.get_tuple(cfg())]) == truth
            else:
                with pytest.raises((DamageError, StoreUnavailableError)):
                    saver.get_tuple(cfg(2))
        if lane.happened()["download", "flip"] >= 1:
            break
    assert lane.happened()["download", "flip"] >= 1
    lane.be_well()
    with lane.saver(timeout=PATIENCE) as saver:
        assert plain([saver.get_tuple(cfg())]) == truth


# The checks above are not blind


def caught(lane, name, fault, *, make=Lane.saver):
    """Whether the checks catch a saver that is broken on purpose; sound ones pass."""
    truth = clean(lane, name, "sync")
    try:
        attempt(lane, name, "sync", fault, truth=truth, make=make)
    except (AssertionError, StoreError, DamageError) as error:
        lane.be_well()
        return error
    return None


def test_an_upload_that_is_unsafe_to_retry_is_caught(lane, monkeypatch):
    fault = Fault("upload", "lost")
    assert caught(lane, "put objects", fault) is None

    def careless(self, effect, timeout):
        blob = self._bucket().blob(self._prefix + effect.name)
        blob.upload_from_string(effect.data, if_generation_match=0, checksum=None, timeout=timeout, retry=None)

    monkeypatch.setattr(GCSBlobs, "_put", careless)
    error = caught(lane, "put_writes large", fault)
    assert type(error) is StoreError


class Boastful(Interceptor):
    """Acknowledges commits that did not arrive."""

    def around(self, effect, perform):
        try:
            return perform(effect)
        except StoreUnavailableError:
            if not isinstance(effect, Commit):
                raise
            return tuple(range(1, len(effect.writes) + 1))


def test_an_acknowledgement_of_nothing_is_caught(lane):
    fault = Fault("Commit", "unavailable", times=FOREVER)

    def boastful(lane):
        return lane.saver(verify="off", interceptors=[Boastful()])  # reading back would find out

    assert isinstance(caught(lane, "put_writes", fault, make=boastful), AssertionError)


def test_a_commit_that_is_done_twice_is_caught(lane, monkeypatch):
    from langgraph_gcs_saver.flows import writes

    def renamed(*ids, name=keys.regular_writes_doc):
        return name(*ids[:-1], noise(8, time.monotonic_ns()).hex())

    monkeypatch.setattr(writes.keys, "regular_writes_doc", renamed)
    fault = Fault("Commit", "lost", times=FOREVER)
    assert isinstance(caught(lane, "put_writes", fault), AssertionError)


def test_a_reader_that_trusts_is_caught(lane, monkeypatch):
    fault = Fault("download", "flip", nth=2)
    assert caught(lane, "list", fault) is None

    class Agreeable(str):
        """A digest that agrees with whatever it is compared to."""

        __slots__ = ()

        def startswith(self, prefix, *_):
            return True

    class Trusting:
        @staticmethod
        def of(data, like=None):
            return Digested(data, Agreeable())

    truth = clean(lane, "list", "async")
    fill(lane.reader(), "trusted")
    monkeypatch.setattr(sources, "Digested", Trusting)
    wrong = []
    for nth in range(1, truth.requests["download"] + 1):
        lane.plan(Fault("download", "flip", nth))
        with lane.saver(timeout=PATIENCE) as saver:
            try:
                wrong.append(perform(saver, "list", "trusted", "sync") != truth.result)
            except DamageError:
                wrong.append(False)
        lane.be_well()
    assert any(wrong)


# Graphs


def check_ledger(lane, ledger, thread):
    """Everything that was acknowledged is there, exactly, for a fresh reader, and the thread's end is right."""
    with lane.reader() as reader:
        listed = {one.checkpoint["id"]: one for one in reader.list(cfg(thread=thread))}
        for checkpoint_id, digest in ledger.checkpoints.items():
            config = {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}
            for found in (listed.get(checkpoint_id), reader.get_tuple(config)):
                assert found is not None, f"{checkpoint_id} was acknowledged and is lost"
                assert digest_of_state(found.checkpoint["channel_values"]) == digest
        for checkpoint_id, task_id, channel in ledger.writes:
            if checkpoint_id in listed:
                tasks = [(task, name) for task, name, _ in listed[checkpoint_id].pending_writes]
                assert (task_id, channel) in tasks, f"writes of {checkpoint_id} were acknowledged and are lost"
        assert all(is_right(one.checkpoint["channel_values"]) for one in listed.values())
        return listed


def ends(listed):
    """The state of the newest of checkpoints that are in the order of a listing."""
    return state_of(next(iter(listed.values())).checkpoint["channel_values"])


def talk(lane, thread, steps, mode, **options):
    with lane.saver(Ledger) as saver:
        if mode == "sync":
            converse(saver, thread, steps, **options)
        else:

            async def main():
                try:
                    await aconverse(saver, thread, steps, **options)
                finally:
                    await saver.aclose()

            asyncio.run(main())
    return saver


def graph_with(lane, mode, fault):
    thread = f"graph {mode} {fault}"
    lane.timeout = PATIENCE  # nothing is answered late
    lane.plan(fault)
    ledger = talk(lane, thread, 1, mode, patient=False)
    assert lane.happened() == {(fault.call, fault.kind): 1}
    lane.be_well()
    listed = check_ledger(lane, ledger, thread)
    assert listed.keys() == ledger.checkpoints.keys()
    assert ends(listed) == final_state(1)
    return True


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_graph_with_any_one_answer_lost(lanes, mode):
    lane = lanes[0]
    lane.timeout = PATIENCE
    lane.plan()
    check_ledger(lane, talk(lane, "clean", 1, mode, patient=False), "clean")
    found = lane.requests()
    assert found["Commit"] > 8
    assert found["upload"] >= 1
    tasks = [
        partial(graph_with, mode=mode, fault=Fault(call, kind, nth))
        for call in ("Commit", "upload")
        for nth in range(1, found[call] + 1)
        for kind in [("lost", "lost-reset")[(nth + (mode == "sync")) % 2]]
    ]
    assert all(on_lanes(lanes, tasks))


SOAK_KINDS = frozenset({*storage_proxy.BODY_KINDS, *firestore_proxy.STREAM_KINDS})


@contextmanager
def until(seconds):
    """An event that is set after so many seconds."""
    done = threading.Event()
    timer = threading.Timer(seconds, done.set)
    timer.start()
    try:
        yield done
    finally:
        timer.cancel()


def talk_at_random(lane, number, *, seed, probability, done):
    """Conversations, one after the other, in which so many of all requests go wrong."""
    random_ = random.Random(f"{seed} {number}")
    threads = failures = 0
    while threads == 0 or not done.is_set():
        threads += 1
        thread = f"{seed} {number} {threads}"
        mode = random_.choice(["sync", "async"])
        lane.plan(probability=probability, kinds=SOAK_KINDS, seed=random_.getrandbits(32))
        # In the end everything is read with the same saver; with "async" the graph does not wait for its writes.
        ledger = talk(lane, thread, 3, mode, patient=True, durability=random_.choice(["sync", "async"]))
        failures += ledger.failures
        lane.be_well()
        listed = check_ledger(lane, ledger, thread)
        assert ends(listed) == final_state(3)
        if random_.random() < 0.5:
            delete_at_random(lane, thread, random_, probability)
    return threads, failures


def delete_at_random(lane, thread, random_, probability):
    lane.plan(probability=probability, kinds=SOAK_KINDS - {"late"}, seed=random_.getrandbits(32))
    with lane.saver() as saver:
        deleted = False
        while not deleted:
            with suppress(StoreUnavailableError):
                saver.delete_thread(thread)
                deleted = True
    lane.be_well()
    assert stored(lane, thread) == (0, 0, 0, 0)


def at_random(lanes, *, seed, seconds, probability):
    with until(seconds) as done:
        tasks = [
            partial(talk_at_random, number=number, seed=seed, probability=probability, done=done)
            for number in range(len(lanes))
        ]
        results = on_lanes(lanes, tasks)
    met = sum((lane.seen for lane in lanes), Counter())
    threads, failures = map(sum, zip(*results, strict=True))
    print(f"{threads} conversations, {failures} calls failed, {met.total()} faults: {dict(met)}")
    return met, failures


def test_conversations_with_faults_at_random(lanes):
    met, _ = at_random(lanes[:4], seed=1, seconds=1, probability=0.1)
    assert met.total() > 20


@pytest.mark.soak
def test_many_conversations_with_faults_at_random(lanes):
    failures = 0
    kinds = set()
    while kinds != SOAK_KINDS or failures == 0:
        met, failed = at_random(lanes[:4], seed=time.time_ns(), seconds=60, probability=0.3)
        failures += failed
        kinds |= {kind for _, kind in met}
