"""An exception that a signal raises at any step of a call leaves the embedded store whole.

It keeps no lock, transaction, lease, file handle or half object, and the call has been made wholly or not at all.
"""

import _thread
import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import (
    Commit,
    CopyBlob,
    Create,
    DeleteBlobs,
    EnsureBucket,
    GetBlob,
    GetDocs,
    ListBlobs,
    ListCollections,
    Merge,
    PutBlob,
    QueryDocs,
)
from langgraph_gcs_saver.engine.runner import Backend, run
from langgraph_gcs_saver.errors import SaverClosedError, StoreUnavailableError
from langgraph_gcs_saver.stores import local
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from tests.faults.steps import SoftTimeLimit, Struck, strikes
from tests.patience import PATIENCE, aeventually

MODULES = (
    *("/engine/runner.py", "/engine/steps.py", "/engine/per_process.py", "/engine/pool.py", "/stores/local.py"),
    *("/contextlib.py", "/threading.py", "/_weakrefset.py", "/pathlib.py"),
)

pytestmark = [
    # A file that a strike leaves to the interpreter to close, and strikes where Python ignores exceptions.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

each_step = pytest.mark.parametrize(
    ("error", "opcodes", "every"),
    [
        pytest.param(Struck, False, 1, id="lines"),
        pytest.param(SoftTimeLimit, False, 3, id="lines-exception-some"),
        pytest.param(SoftTimeLimit, False, 1, id="lines-exception", marks=pytest.mark.soak),
        pytest.param(Struck, True, 17, id="instructions-some"),
        pytest.param(Struck, True, 1, id="instructions", marks=pytest.mark.soak),
    ],
)


@pytest.fixture
def path(tmp_path):
    return tmp_path


@pytest.fixture(autouse=True)
def _few_threads(monkeypatch):
    """So that a test can occupy all of them."""
    monkeypatch.setattr(local, "MAX_THREADS", 2)
    monkeypatch.setattr(runner, "_MOST_IN_MAIN", 2)


def settle(pool):
    """Wait until calls that an exception interrupted have ended on their threads: then both threads can meet."""
    pool.perform(*[(partial(threading.Barrier(2).wait, PATIENCE), False)] * 2)


@contextmanager
def raw(path):
    with closing(sqlite3.connect(path / "documents.sqlite3", isolation_level=None, timeout=0)) as db:
        yield db


def in_thread(function):
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result(PATIENCE)


def value(documents):
    return documents.get_docs(GetDocs(("n/n",)))["n/n"].fields["v"]


numbers = count(1)


def check(documents, path, place):
    """Nothing is taken, this store works in this thread and in others, and it reads what another one wrote last."""
    settle(documents._threads)
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")  # no lock
        db.execute("ROLLBACK")
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy, f"a connection keeps its snapshot after {place}"
    assert not documents._leases, place
    assert not documents._waiting, place
    assert not any(cursor.connection.in_transaction for cursor in documents._cursors.values()), place
    mine = next(numbers)
    with closing(LocalDocuments(path, timeout=PATIENCE)) as another:
        assert in_thread(lambda: another.commit(Commit((Merge("n/n", {"v": mine}),))))
    assert value(documents) == mine, place
    assert in_thread(lambda: value(documents)) == mine, place
    assert documents.commit(Commit((Merge("n/n", {"v": -mine}),)))
    assert in_thread(lambda: value(documents)) == -mine, place


def filled(path, timeout=PATIENCE):
    documents = LocalDocuments(path, timeout=timeout)
    documents.commit(Commit((Merge("n/n", {"v": 0}), *(Create(f"c/{i}", {"v": i}) for i in range(5)))))
    return documents


READS = {
    "get_docs": lambda documents: documents.get_docs(GetDocs(("c/1", "c/2", "c/none"))),
    "query_docs": lambda documents: documents.query_docs(QueryDocs("c", limit=2)),
    "list_collections": lambda documents: documents.list_collections(ListCollections("c/1")),
}


@each_step
@pytest.mark.parametrize("read", READS)
def test_reads(path, read, error, opcodes, every):
    with closing(filled(path)) as documents:
        for place in strikes(lambda: READS[read](documents), error, *MODULES, opcodes=opcodes, every=every):
            check(documents, path, place)


def test_the_main_thread_reads_but_leaves_the_rest_to_other_threads(path):
    """One hop for each commit and each request on objects, none for a read but the one that opens the connection."""
    made = []

    class Documents(LocalDocuments):
        def _attempt(self, *arguments):
            made.append(threading.current_thread().name)
            return super()._attempt(*arguments)

    main, own = threading.main_thread().name, "langgraph-gcs-saver-local"
    with closing(Backend(Documents(path, timeout=PATIENCE), LocalBlobs(path, timeout=PATIENCE))) as backend:
        before = of_pools()
        for effect in (GetDocs(("a/a",)), GetDocs(("a/a",)), QueryDocs("a"), Commit((Create("a/a", {}),))):
            run(request(effect), backend)
        assert made == [main, own, main, main, own]
        assert not of_pools() - before
        run(request(PutBlob("t/new", b"x")), backend)
        assert len(of_pools() - before) == 1


def of_pools():
    """The threads that perform requests in place of the main thread, those of other savers included."""
    return {thread for thread in threading.enumerate() if thread.name == "langgraph-gcs-main"}


def test_closing_does_not_wait_for_a_call_that_was_interrupted(path):
    """Not even while the exception, which keeps the call alive, is still handled."""
    begun, go = threading.Event(), threading.Event()

    class Documents(LocalDocuments):
        def _attempt(self, *arguments):
            begun.set()
            assert go.wait(PATIENCE)
            return super()._attempt(*arguments)

    def strike():
        begun.wait(PATIENCE)
        _thread.interrupt_main()

    filled(path).close()
    with raw(path) as other, ThreadPoolExecutor(1) as striker:
        other.execute("BEGIN IMMEDIATE")
        documents = Documents(path, timeout=PATIENCE)
        striker.submit(strike)
        with pytest.raises(KeyboardInterrupt) as struck:
            documents.commit(Commit((Create("a/a", {}),)))
        go.set()
        settle(documents._threads)
        assert documents._is_quiet()
        documents.close()
        del struck


@each_step
def test_commits(path, error, opcodes, every):
    names = (str(n) for n in count())
    name = ""

    def commit():
        nonlocal name
        name = next(names)
        assert documents.commit(Commit((Create(f"a/{name}", {}), Create(f"b/{name}", {}))))

    with closing(filled(path)) as documents:
        for place in strikes(commit, error, *MODULES, opcodes=opcodes, every=every):
            found = documents.get_docs(GetDocs((f"a/{name}", f"b/{name}")))  # the commit may still be under way
            assert len(found) in (0, 2), f"half a commit after {place}"
            check(documents, path, place)


@each_step
def test_commits_while_another_process_writes(path, error, opcodes, every):
    def commit():
        documents.commit(Commit((Create("a/a", {}),)))

    with closing(filled(path)) as documents, raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        documents._timeout = 0.01
        for place in strikes(commit, error, *MODULES, opcodes=opcodes, every=every, but=(StoreUnavailableError,)):
            documents._timeout = PATIENCE
            settle(documents._threads)
            other.execute("ROLLBACK")
            check(documents, path, place)
            other.execute("BEGIN IMMEDIATE")
            documents._timeout = 0.01
        other.execute("ROLLBACK")
        documents._timeout = PATIENCE
        assert documents.get_docs(GetDocs(("a/a",))) == {}


def test_commits_while_another_thread_writes(path, monkeypatch):
    monkeypatch.setattr(local, "MOMENT", 0.001)
    at_work, end = threading.Semaphore(0), threading.Semaphore(0)

    def write(db):
        at_work.release()
        assert end.acquire(timeout=PATIENCE)

    with closing(filled(path)) as documents, ThreadPoolExecutor(1) as thread:

        def begin():
            documents._timeout = PATIENCE
            writing = thread.submit(documents._perform, partial(documents._write, write))
            assert at_work.acquire(timeout=PATIENCE)
            documents._timeout = 0.01
            return writing

        writing = begin()
        for place in strikes(
            lambda: documents.commit(Commit((Create("a/a", {}),))), Struck, *MODULES, but=(StoreUnavailableError,)
        ):
            settle(documents._threads)
            end.release()
            writing.result(PATIENCE)
            documents._timeout = PATIENCE
            check(documents, path, place)
            writing = begin()
        end.release()
        writing.result(PATIENCE)
        assert documents.get_docs(GetDocs(("a/a",))) == {}


@each_step
@pytest.mark.parametrize("call", ["get_docs", "commit"])
def test_the_first_call_of_all(path, call, error, opcodes, every):
    stores = []

    def first():
        stores.append(LocalDocuments(path / str(len(stores)), timeout=PATIENCE))
        if call == "commit":
            stores[-1].commit(Commit((Create("a/a", {}),)))
        else:
            stores[-1].get_docs(GetDocs(("a/a",)))

    for place in strikes(first, error, *MODULES, opcodes=opcodes, every=every):
        for documents in stores[-1:]:
            with closing(documents):
                documents.commit(Commit((Merge("n/n", {"v": 0}),)))
                check(documents, documents._directory, place)
    stores[-1].close()


def handles(path):
    return [
        target
        for handle in Path("/proc/self/fd").iterdir()
        if (target := os.path.realpath(handle)).startswith(str(path))
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@each_step
def test_close(path, error, opcodes, every):
    stores = []

    def close():
        stores[-1].close()

    def fill():
        stores.append(filled(path / str(len(stores))))

    fill()
    for place in strikes(close, error, *MODULES, opcodes=opcodes, every=every):
        documents = stores[-1]
        with raw(documents._directory) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
        if not documents._closed:
            assert len(documents.query_docs(QueryDocs("c"))) == 5
        documents.close()
        assert handles(documents._directory) == [], place
        with pytest.raises(SaverClosedError):
            documents.query_docs(QueryDocs("c"))
        fill()


def test_forks(path):
    """Python ignores an exception in what runs at a fork. The store works after it."""
    with closing(filled(path)) as documents:
        for place in strikes(documents._before_fork, Struck, *MODULES):
            documents._after_fork_in_parent()
            check(documents, path, place)
        documents._after_fork_in_parent()
        for place in strikes(documents._after_fork_in_parent, Struck, *MODULES):
            documents._after_fork_in_parent()
            check(documents, path, place)


BLOB = b"an object" * 1000

BLOB_CALLS = {
    "put": PutBlob("t/new", BLOB),
    "put elsewhere": PutBlob("u/v/new", BLOB),
    "get": GetBlob("t/old"),
    "list": ListBlobs(""),
    "copy": CopyBlob("t/old", "t/new"),
    "delete": DeleteBlobs(("t/old", "t/no")),
    "ensure": EnsureBucket(),
}


def request(effect):
    yield from effect


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@each_step
@pytest.mark.parametrize("case", [(call, is_first) for call in BLOB_CALLS for is_first in (False, True)], ids=str)
def test_objects(path, case, error, opcodes, every):
    call, is_first = case
    stores, backends = [], []

    def use():
        run(request(BLOB_CALLS[call]), backends[-1])

    def renew():
        if is_first or not stores:
            stores.append(LocalBlobs(path / str(len(stores)), timeout=PATIENCE))
            backends.append(Backend(stores[-1], stores[-1]))
        if not is_first:
            stores[-1].put_blob(PutBlob("t/old", BLOB))
            stores[-1].delete_blobs(DeleteBlobs(("t/new", "u/v/new")))

    renew()
    for place in strikes(use, error, *MODULES, opcodes=opcodes, every=every):
        blobs = stores[-1]
        directory = blobs._directory
        settle(backends[-1]._threads().main)
        assert handles(directory) == [], place
        tmp = directory / "tmp"
        assert not tmp.is_dir() or list(tmp.iterdir()) == [], place
        found = {info.name: info.crc32c for info in blobs.list_blobs(ListBlobs(""))}
        for name in found:
            assert blobs.get_blob(GetBlob(name)) == BLOB, f"half an object after {place}"
        blobs.put_blob(PutBlob("t/another", b"x"))
        blobs.delete_blobs(DeleteBlobs(("t/another",)))
        assert {info.name: info.crc32c for info in blobs.list_blobs(ListBlobs(""))} == found, place
        if is_first:
            backends[-1].close()
        renew()
    backends[-1].close()


# Real signals


STRUCK_AT_RANDOM = """
import random, signal, sys, threading, time
from pathlib import Path
from langgraph_gcs_saver.engine.effects import *
from langgraph_gcs_saver.engine.runner import Backend, run
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from langgraph_gcs_saver.stores import local
from langgraph_gcs_saver.testing import PATIENCE

local.MAX_THREADS = 2

class Strike(Exception):
    pass

def strike(*_):
    raise Strike

def use(n):
    assert (yield from Commit((Create(f"a/{n}", {}), Create(f"b/{n}", {}), Merge("mine/n", {"v": n}))))
    yield from PutBlob(f"t/{n}", b"x" * 50_000)
    yield from QueryDocs("a", start="a/1", limit=3)

documents, blobs = (kind(Path(sys.argv[1]), timeout=PATIENCE) for kind in (LocalDocuments, LocalBlobs))
backend = Backend(documents, blobs)
rng = random.Random(int(sys.argv[2]))
signal.signal(signal.SIGALRM, strike)
documents.commit(Commit((Merge("mine/n", {"v": 0}),)))
struck = n = 0
while struck < int(sys.argv[3]):
    n += 1
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00001, 0.01))
            run(use(n), backend)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Strike:
        struck += 1
        # The commit may still be under way. It must not come after the next one, which writes the same document.
        assert len(documents.get_docs(GetDocs((f"a/{n}", f"b/{n}")))) in (0, 2), "half a commit"
        documents._threads.perform(*[(threading.Barrier(2).wait, False)] * 2)
    found = documents.get_docs(GetDocs((f"a/{n}", f"b/{n}", "mine/n")))
    value = found.pop("mine/n").fields["v"]
    assert len(found) in (0, 2), "half a commit"
    assert (value == n) == bool(found), "a stale read"
while list((Path(sys.argv[1]) / "tmp").iterdir()):  # an interrupted request ends on its thread
    time.sleep(0.01)
print("idle", flush=True)
for line in sys.stdin:
    print(documents.get_docs(GetDocs(("theirs/n",)))["theirs/n"].fields["v"], flush=True)
backend.close()
"""


def strike_at_random(path, number, seed):
    filled(path).close()
    command = [sys.executable, "-c", STRUCK_AT_RANDOM, str(path), str(seed), str(number)]
    rng = random.Random(seed)
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
        raw(path) as db,
        ThreadPoolExecutor(1) as reader,
    ):
        answer = reader.submit(child.stdout.readline)
        while not answer.done():
            try:
                db.execute("BEGIN IMMEDIATE")
                time.sleep(rng.uniform(0, 0.01))  # clock: any moment will do
                db.execute("ROLLBACK")
            except sqlite3.OperationalError:
                pass  # its turn
            time.sleep(rng.uniform(0, 0.005))  # clock: any moment will do
        assert answer.result() == "idle\n"
        check_idle(path, child)
        child.stdin.close()
        assert child.wait(PATIENCE) == 0


def check_idle(path, child):
    """A process that does nothing keeps nothing, and reads what others write."""
    with raw(path) as db:
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert not busy
    with closing(LocalDocuments(path, timeout=PATIENCE)) as another:
        for n in range(20):
            assert another.commit(Commit((Merge("theirs/n", {"v": n}),)))
            child.stdin.write("read\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{n}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="setitimer")
def test_alarms_at_random_moments(path):
    strike_at_random(path, 150, seed=1)


@pytest.mark.soak
def test_many_alarms_at_random_moments(path):
    for seed in range(10):
        strike_at_random(path / str(seed), 1000, seed)


INTERRUPTED = """
import sys
from pathlib import Path
from langgraph_gcs_saver.engine.effects import *
from langgraph_gcs_saver.stores.local import LocalDocuments

documents = LocalDocuments(Path(sys.argv[1]), timeout=3600)
documents.query_docs(QueryDocs("c"))
for word in ("first", "second"):
    try:
        print(word, flush=True)
        documents.commit(Commit((Create("a/" + word, {}),)))
    except KeyboardInterrupt:
        pass
print("idle", flush=True)
for line in sys.stdin:
    print(documents.get_docs(GetDocs(("theirs/n",)))["theirs/n"].fields["v"], flush=True)
documents.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_while_another_process_writes(path):
    filled(path).close()
    command = [sys.executable, "-c", INTERRUPTED, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        with raw(path) as db:
            db.execute("BEGIN IMMEDIATE")
            for word in ("first", "second"):
                assert child.stdout.readline() == f"{word}\n"
                time.sleep(0.2)  # clock: to let it wait for the lock; if it does not yet, the test is only easier
                child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "idle\n"
            db.execute("ROLLBACK")
        check_idle(path, child)
        child.stdin.close()
        assert child.wait(PATIENCE) == 0
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        assert documents.query_docs(QueryDocs("a")) == []


async def test_a_task_that_is_cancelled_while_another_process_writes(path):
    with closing(filled(path)) as documents:
        with raw(path) as db:
            db.execute("BEGIN IMMEDIATE")
            tasks = [asyncio.create_task(documents.acommit(Commit((Create(f"a/{i}", {}),)))) for i in range(40)]
            await aeventually(lambda: documents._waiting)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
            db.execute("ROLLBACK")
        await asyncio.to_thread(check, documents, path, "a cancellation")
        assert await documents.aquery_docs(QueryDocs("a")) == []
