from __future__ import annotations

import asyncio
import errno
import os
import pickle
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    Delete,
    DeleteBlobs,
    EnsureBucket,
    GetBlob,
    GetDocs,
    ListBlobs,
    Merge,
    PutBlob,
    QueryDocs,
)
from langgraph_gcs_saver.errors import (
    PermissionDeniedError,
    StoreError,
    StoreUnavailableError,
    UnsupportedFormatError,
)
from langgraph_gcs_saver.stores import local
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from langgraph_gcs_saver.testing.contract import StoreContract
from tests.patience import PATIENCE, aeventually, eventually

# Python 3.12 and later warn of a fork while other threads run, such as those of other tests' clients.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


DEADLINE = 0.3
"""Of a store that gets no lock, or no connection, whatever the machine does. Others have a long one."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a store, 100% é?#"


@pytest.fixture
def documents(path: Path) -> Iterator[LocalDocuments]:
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        yield documents


@pytest.fixture
def blobs(path: Path) -> Iterator[LocalBlobs]:
    with closing(LocalBlobs(path, timeout=PATIENCE)) as blobs:
        yield blobs


class TestLocal(StoreContract):
    """The fixtures are those of this module."""


def create(documents: LocalDocuments, name: str, value: Any = 1) -> tuple[int, ...]:
    times = documents.commit(Commit((Create(name, {"v": value}),)))
    assert times is not None
    return times


def value(documents: LocalDocuments, name: str) -> Any:
    return documents.get_docs(GetDocs((name,)))[name].fields["v"]


def names(path: Path, collection: str) -> list[str]:
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        return [doc.name for doc in documents.query_docs(QueryDocs(collection, mask=()))]


def forked(function: Callable[[], Any]) -> Callable[[], Any]:
    """Call `function` in a fork of this process; returns how to wait for its result."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = (True, function())
        except BaseException:
            answer = (False, traceback.format_exc())
        os.write(write, pickle.dumps(answer))
        os._exit(0)
    os.close(write)

    def wait() -> Any:
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read()
        assert os.waitpid(pid, 0)[1] == 0
        ok, result = pickle.loads(answer)
        assert ok, result
        return result

    return wait


def unprivileged(function: Callable[[], Any]) -> Any:
    """Call `function` in a fork that root's rights do not help."""

    def drop() -> Any:
        if os.getuid() == 0:
            os.setuid(65534)
        return function()

    return forked(drop)()


def error_of(function: Callable[[], Any]) -> type[BaseException]:
    """The type of the error. Whether its message says what to do is for a reader to judge."""
    with pytest.raises(StoreError) as caught:
        function()
    assert not isinstance(caught.value, sqlite3.Error)
    return type(caught.value)


# Times


def test_times_rise_while_the_clock_goes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(2_000_000_000, 0, -1_000))
    monkeypatch.setattr(local.time, "time_ns", lambda: next(clock))
    times = []
    for i in range(6):
        with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
            times += [*create(documents, f"c/{i}"), *(documents.commit(Commit((Merge("c/0", {"v": -i}),))) or ())]
    assert times == sorted(set(times))
    assert times[0] == 2_000_000_000


def test_a_failed_commit_leaves_the_clock(documents: LocalDocuments, path: Path) -> None:
    create(documents, "c/a")
    documents.commit(Commit((Create("c/b", {}), Create("c/a", {}))))
    documents.commit(Commit((Merge("c/a", {"v": 1}), Delete("c/none"))))
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        (last,) = db.execute("SELECT last FROM clock").fetchone()
    assert last == documents.get_docs(GetDocs(("c/a",)))["c/a"].update_time


# Threads, loops and files


def test_made_at_first_use(path: Path) -> None:
    with (
        closing(LocalDocuments(path, timeout=PATIENCE)) as documents,
        closing(LocalBlobs(path, timeout=PATIENCE)) as blobs,
    ):
        assert not path.exists()
        assert documents.get_docs(GetDocs(("c/a",))) == {}
        assert "was created" in blobs.ensure_bucket(EnsureBucket())
        assert "exists" in blobs.ensure_bucket(EnsureBucket())
    assert sorted(p.name for p in path.iterdir()) == ["documents.sqlite3", "objects", "tmp"]


def open_handles(path: Path) -> list[str]:
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        try:
            target = str(handle.readlink())
        except FileNotFoundError:  # the handle of this very listing
            continue
        if target.startswith(str(path)):
            found.append(target)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_close_closes_the_connections_of_all_threads(path: Path) -> None:
    documents = LocalDocuments(path, timeout=PATIENCE)
    barrier = threading.Barrier(40)

    def work(i: int) -> None:
        barrier.wait(PATIENCE)
        create(documents, f"c/{i:02}")
        assert documents.query_docs(QueryDocs("c"))

    with ThreadPoolExecutor(40) as threads:
        list(threads.map(work, range(40)))
        handles = open_handles(path)
        assert 3 <= len(handles) <= 3 * local.MAX_CONNECTIONS
        documents.close()
        assert open_handles(path) == []
    assert [p.name for p in path.iterdir()] == ["documents.sqlite3"], "the log is written back"
    assert len(names(path, "c")) == 40


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_close_waits_for_calls_under_way(documents: LocalDocuments, path: Path) -> None:
    create(documents, "c/a")
    with closing(sqlite3.connect(path / "documents.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(2) as threads:
            waiting = threads.submit(create, documents, "c/b")
            eventually(lambda: documents._waiting)
            closed = threads.submit(documents.close)
            time.sleep(0.1)  # clock: nothing may happen, however long or short this is
            assert not closed.done()
            other.execute("ROLLBACK")
            other.close()
            closed.result(PATIENCE)
            assert open_handles(path) == []
            assert waiting.result(PATIENCE)


def test_connections_are_bounded(path: Path) -> None:
    with closing(LocalDocuments(path, timeout=DEADLINE)) as documents:
        create(documents, "c/a")
        at_work, end = threading.Barrier(local.MAX_CONNECTIONS + 1), threading.Event()

        def read(_: sqlite3.Cursor) -> list[object]:
            at_work.wait(PATIENCE)
            end.wait(PATIENCE)
            return []

        with ThreadPoolExecutor(local.MAX_CONNECTIONS) as threads:
            for _ in range(local.MAX_CONNECTIONS):
                threads.submit(documents._perform, partial(documents._read, read))
            at_work.wait(PATIENCE)
            with pytest.raises(StoreUnavailableError):
                value(documents, "c/a")
            end.set()
        assert value(documents, "c/a") == 1


def test_close_while_in_use(path: Path) -> None:
    for _ in range(5):
        documents = LocalDocuments(path, timeout=PATIENCE)
        acknowledged: list[str] = []
        before = len(names(path, "c"))

        def work(part: int, documents: LocalDocuments = documents, acknowledged: list[str] = acknowledged) -> None:
            with pytest.raises(local.SaverClosedError):  # noqa: PT012
                while True:
                    name = f"c/{part}-{time.monotonic_ns()}"
                    create(documents, name)
                    acknowledged.append(name)

        with ThreadPoolExecutor(4) as threads:
            futures = [threads.submit(work, i) for i in range(4)]
            time.sleep(0.05)  # clock: any moment will do
            documents.close()
            for future in futures:
                future.result(PATIENCE)
        stored = names(path, "c")
        assert set(acknowledged) <= set(stored)
        assert len(stored) == before + len(acknowledged)


async def test_async_uses_its_own_few_threads(documents: LocalDocuments) -> None:
    await asyncio.gather(*(documents.acommit(Commit((Create(f"c/{i}", {}),))) for i in range(60)))
    assert len(await documents.aquery_docs(QueryDocs("c"))) == 60
    assert getattr(asyncio.get_running_loop(), "_default_executor") is None  # noqa: B009
    assert 1 <= sum(t.name.startswith("langgraph-gcs-saver-local") for t in threading.enumerate()) <= local.MAX_THREADS
    await documents.aclose()
    await aeventually(lambda: not any(t.name.startswith("langgraph-gcs-saver-local") for t in threading.enumerate()))


async def test_the_loop_runs_while_the_file_is_locked(documents: LocalDocuments, path: Path) -> None:
    await documents.acommit(Commit((Create("c/a", {}),)))
    with closing(sqlite3.connect(path / "documents.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        commits = asyncio.gather(*(documents.acommit(Commit((Create(f"d/{i}", {}),))) for i in range(3)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not commits.done()
        assert "c/a" in await documents.aget_docs(GetDocs(("c/a",))), "readers do not wait"
        other.execute("ROLLBACK")
        assert None not in await commits


def test_many_loops(documents: LocalDocuments) -> None:
    async def work(part: int) -> None:
        for i in range(5):
            await documents.acommit(Commit((Create(f"c/{part}-{i}", {}),)))

    def run(part: int) -> None:
        asyncio.run(work(part))

    for part in range(3):
        run(part)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(3, 9)))
    assert len(documents.query_docs(QueryDocs("c"))) == 45


# Processes


def test_processes_at_once(documents: LocalDocuments, path: Path) -> None:
    gate_read, gate_write = os.pipe()

    def work(me: int) -> list[int]:
        mine, objects = LocalDocuments(path, timeout=PATIENCE), LocalBlobs(path, timeout=PATIENCE)
        os.read(gate_read, 1)  # so that all make the store at the same moment
        mine.commit(Commit((Create("c/n", {"v": 0}),)))
        objects.put_blob(PutBlob("t/same", b"same" * 50_000))
        written = []
        while len(written) < 50:
            doc = mine.get_docs(GetDocs(("c/n",)))["c/n"]
            merge = Merge("c/n", {"v": doc.fields["v"] + 1}, update_time=doc.update_time)
            times = mine.commit(Commit((merge, Create(f"log/{me}-{len(written)}", {"n": doc.fields["v"]}))))
            if times is not None:
                assert times[0] == times[1]
                written.append(times[0])
        mine.close()
        return written

    children = [forked(partial(work, i)) for i in range(4)]
    assert not path.exists()
    os.write(gate_write, b"1234")
    times = sorted(t for wait in children for t in wait())
    assert value(documents, "c/n") == 200
    by_time = sorted(documents.query_docs(QueryDocs("log")), key=lambda doc: doc.update_time)
    assert [doc.fields["n"] for doc in by_time] == list(range(200)), "times rise across processes"
    assert times == [doc.update_time for doc in by_time]
    os.close(gate_read)
    os.close(gate_write)


def write_until_killed(path: Path, turn: int, acknowledge: int) -> None:
    documents, blobs = LocalDocuments(path, timeout=PATIENCE), LocalBlobs(path, timeout=PATIENCE)
    for i in count():
        data = f"{turn}-{i}".encode() * 2_000
        blobs.put_blob(PutBlob(f"t/{turn}/{i}", data))
        writes = [Create(f"{c}/{turn}-{i}", {"v": data}) for c in "abc"]
        assert documents.commit(Commit((*writes, Merge("n/n", {str(turn): i}))))
        os.write(acknowledge, f"{i}\n".encode())


def test_sigkill_loses_nothing_acknowledged(path: Path) -> None:
    for turn in range(8):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                write_until_killed(path, turn, write)
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.readline() == "0\n"
            time.sleep(0.01 + turn * 0.013)  # clock: any moment will do
            os.kill(pid, signal.SIGKILL)
            acknowledged = [0, *map(int, pipe.read().split())]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

        with (
            closing(LocalDocuments(path, timeout=PATIENCE)) as documents,
            closing(LocalBlobs(path, timeout=PATIENCE)) as blobs,
        ):
            stored = {c: {d.name[2:]: d.fields["v"] for d in documents.query_docs(QueryDocs(c))} for c in "abc"}
            assert stored["a"] == stored["b"] == stored["c"], "commits are whole"
            last = max(int(name.split("-")[1]) for name in stored["a"] if name.startswith(f"{turn}-"))
            assert last in (acknowledged[-1], acknowledged[-1] + 1)
            assert documents.get_docs(GetDocs(("n/n",)))["n/n"].fields[str(turn)] == last
            for i in acknowledged:
                data = f"{turn}-{i}".encode() * 2_000
                assert stored["a"][f"{turn}-{i}"] == data
                assert blobs.get_blob(GetBlob(f"t/{turn}/{i}")) == data
            for info in blobs.list_blobs(ListBlobs(f"t/{turn}/")):
                i = int(info.name.rsplit("/", 1)[1])
                assert info.size == 2_000 * len(f"{turn}-{i}"), "objects are whole"
                assert i <= last + 1


def make_until_killed(path: Path, at: int) -> int:
    """Make a store in a process that kills itself at one of its calls of C code: the process's exit code."""
    pid = os.fork()
    if pid == 0:
        calls = count()

        def profile(_frame: Any, event: str, _arg: Any) -> None:
            if event == "c_call" and next(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            documents = LocalDocuments(path, timeout=PATIENCE)
            threading.setprofile(profile)  # Connections are opened on a thread of the store's.
            create(documents, "c/a")
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_remains_of_processes_killed_while_they_made_a_store_go_after_a_day(tmp_path: Path) -> None:
    kinds = set[str]()
    for at in count(0, 9):
        path = tmp_path / str(at)
        code = make_until_killed(path, at)
        remains = [*path.glob(".new-*"), *path.glob("*.part")]
        kinds.update(one.name[:5] for one in remains)
        for is_old in (False, True):
            for one in remains:
                os.utime(one, (time.time() - is_old * 25 * 3600,) * 2)
            with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
                documents.query_docs(QueryDocs("c"))
            assert [one.exists() for one in remains] == [not is_old] * len(remains), "a young one may become a store"
        assert [one.name for one in path.iterdir()] == ["documents.sqlite3"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert kinds == {".new-", "docum"}


def test_fork(documents: LocalDocuments, path: Path) -> None:
    create(documents, "c/parent")
    gate_read, gate_write = os.pipe()

    def child() -> Any:
        found = value(documents, "c/parent")
        create(documents, "c/child", os.getpid())
        os.read(gate_read, 1)  # by now the parent has closed its side
        create(documents, "c/later")
        asyncio.run(documents.acommit(Commit((Create("c/async", {}),))))
        return found

    wait = forked(child)
    eventually(lambda: documents.get_docs(GetDocs(("c/child",))))
    create(documents, "c/parent2")
    documents.close()
    with closing(LocalDocuments(path, timeout=PATIENCE)) as another:
        create(another, "c/parent3")
    os.write(gate_write, b"x")
    assert wait() == 1
    os.close(gate_read)
    os.close(gate_write)
    assert names(path, "c") == [f"c/{n}" for n in ("async", "child", "later", "parent", "parent2", "parent3")]


def test_fork_amid_commits_of_other_threads(documents: LocalDocuments, path: Path) -> None:
    stop = threading.Event()
    acknowledged: list[str] = []

    def work(part: int) -> None:
        while not stop.is_set():
            name = f"c/{part}-{time.monotonic_ns()}"
            create(documents, name)
            acknowledged.append(name)

    async def use() -> None:
        await documents.acommit(Commit((Create("warm/up", {}),)))

    asyncio.run(use())  # the store's own threads exist as well

    def child() -> str:
        name = f"forked/{os.getpid()}"
        create(documents, name)
        asyncio.run(documents.acommit(Commit((Merge(name, {"w": 1}),))))
        documents.close()
        return name

    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(work, i) for i in range(4)]
        children = []
        for _ in range(5):
            time.sleep(0.02)  # clock: any moment will do
            children.append(forked(child))
        mine = sorted(wait() for wait in children)
        stop.set()
        for future in futures:
            future.result(PATIENCE)
    documents.close()
    assert names(path, "forked") == mine
    assert names(path, "c") == sorted(acknowledged)


def test_a_fork_that_python_was_not_told_of_is_refused(documents: LocalDocuments) -> None:
    create(documents, "c/a")
    inherited = list(documents._cursors.values())
    documents._after_fork_in_child()  # without the call before it, as when another program embeds Python
    try:
        with pytest.raises(StoreError, match="fork"):
            documents.get_docs(GetDocs(("c/a",)))
    finally:
        for cursor in inherited:
            cursor.connection.close()


# Errors


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            closing(LocalDocuments(path, timeout=PATIENCE)) as documents,
            closing(LocalBlobs(path, timeout=PATIENCE)) as blobs,
        ):
            for call in (
                lambda: create(documents, "c/a"),
                lambda: documents.get_docs(GetDocs(("c/a",))),
                lambda: blobs.put_blob(PutBlob("t/a", b"x")),
                lambda: blobs.ensure_bucket(EnsureBucket()),
            ):
                with pytest.raises(StoreError, match="in the place of a directory"):
                    call()


def test_a_directory_in_the_place_of_the_database(documents: LocalDocuments, path: Path) -> None:
    (path / "documents.sqlite3").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"a device\. It must be a file"):
        create(documents, "c/a")


def test_a_file_that_is_no_database(documents: LocalDocuments, path: Path) -> None:
    path.mkdir()
    (path / "documents.sqlite3").write_bytes(b"not a database, but long enough to look at" * 100)
    for _ in range(2):
        with pytest.raises(StoreError, match="Restore it from a backup"):
            create(documents, "c/a")


def test_a_database_that_is_not_ours(documents: LocalDocuments, path: Path) -> None:
    path.mkdir()
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(StoreError, match="no such table"):
        create(documents, "c/a")


def test_a_database_without_a_log(documents: LocalDocuments, path: Path) -> None:
    create(documents, "c/a")
    documents.close()
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    with closing(LocalDocuments(path, timeout=PATIENCE)) as again:
        with pytest.raises(StoreError, match=r"has no write-ahead log\. .*If another program has changed it, run"):
            value(again, "c/a")
        with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
            db.execute("PRAGMA journal_mode = WAL")
        assert value(again, "c/a") == 1


@pytest.fixture(params=["touched", "opened"])
def empty(request: pytest.FixtureRequest, path: Path) -> Path:
    """A database without anything: of no bytes, as of `touch`, or of a page, as of a program that looked at it."""
    path.mkdir()
    file = path / "documents.sqlite3"
    file.touch()
    if request.param == "opened":
        with closing(sqlite3.connect(file)) as db:
            db.execute("VACUUM")
        assert file.stat().st_size
    return file


def test_a_store_begins_in_an_empty_file(empty: Path, path: Path) -> None:
    for directory in ("objects", "tmp"):
        (path / directory).mkdir()
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        assert documents.query_docs(QueryDocs("c")) == []
        create(documents, "c/a")
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        assert value(documents, "c/a") == 1
        assert documents.version() == 2
    with closing(sqlite3.connect(empty)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_many_begin_a_store_in_an_empty_file(empty: Path, path: Path) -> None:
    pids = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                create(LocalDocuments(path, timeout=PATIENCE), f"c/{number}", number)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 8
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        assert [doc.fields["v"] for doc in documents.query_docs(QueryDocs("c"))] == list(range(8))
    assert empty.stat().st_size


def test_sigkill_while_a_store_begins_in_an_empty_file(tmp_path: Path) -> None:
    for at in count(0, 9):
        path = tmp_path / str(at)
        path.mkdir()
        (path / "documents.sqlite3").touch()
        code = make_until_killed(path, at)
        with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
            assert len(documents.query_docs(QueryDocs("c"))) <= 1
            create(documents, "c/b")
        if code == 0:
            break
        assert code == -signal.SIGKILL


@pytest.mark.parametrize("left", ["documents.sqlite3-wal", "objects"])
def test_an_empty_file_beside_what_a_store_left(empty: Path, path: Path, left: str) -> None:
    """SQLite would remove the log of a file of no bytes, as soon as it looks at it."""
    if left != "objects":
        empty.write_bytes(b"")
    beside = path / left / "aa-t" / "~" / "v-0123456789ab.zst" if left == "objects" else path / left
    beside.parent.mkdir(parents=True, exist_ok=True)
    beside.write_bytes(b"the last commits, or an object")
    before = empty.read_bytes()
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        for call in (lambda: value(documents, "c/a"), lambda: create(documents, "c/a")):
            with pytest.raises(
                StoreError, match=rf"sqlite3 is empty, but \S.*{left} is not\. .* [Rr]estore .* choose another"
            ):
                call()
    assert (empty.read_bytes(), beside.read_bytes()) == (before, b"the last commits, or an object")


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_an_empty_file_that_may_only_be_read(empty: Path, path: Path) -> None:
    before = empty.read_bytes()
    empty.chmod(0o444)
    path.chmod(0o555)

    def refused() -> list[type[Exception]]:
        with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
            return [error_of(lambda: value(documents, "c/a")), error_of(lambda: create(documents, "c/a"))]

    try:
        assert unprivileged(refused) == [PermissionDeniedError] * 2
    finally:
        path.chmod(0o755)
    assert empty.read_bytes() == before


def test_tables_without_a_version(documents: LocalDocuments, path: Path) -> None:
    create(documents, "c/a")
    documents.close()
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        db.execute("PRAGMA user_version = 0")
    with (
        closing(LocalDocuments(path, timeout=PATIENCE)) as again,
        pytest.raises(StoreError, match="has a store's tables, but not its format"),
    ):
        value(again, "c/a")


def test_a_newer_format(documents: LocalDocuments, path: Path) -> None:
    create(documents, "c/a")
    documents.close()
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db:
        db.execute("PRAGMA user_version = 3")
    with (
        closing(LocalDocuments(path, timeout=PATIENCE)) as again,
        pytest.raises(UnsupportedFormatError, match="Upgrade"),
    ):
        again.get_docs(GetDocs(("c/a",)))


def test_damaged_bytes(documents: LocalDocuments, path: Path) -> None:
    create(documents, "c/a")
    create(documents, "c/b")
    with closing(sqlite3.connect(path / "documents.sqlite3")) as db, db:
        db.execute("UPDATE documents SET fields = x'ffff' WHERE name = ?", (b"c\0a",))
    # The document is there, and has no format. If it were absent, its loss would be silent. An error would hide its
    # neighbors.
    assert documents.get_docs(GetDocs(("c/a",)))["c/a"].fields == {"format": None}
    found = documents.query_docs(QueryDocs("c", where=(("no such field", 1),)))
    assert [(doc.name, doc.fields) for doc in found] == [("c/a", {"format": None})]
    assert value(documents, "c/b") == 1


def test_locked_beyond_the_timeout(path: Path) -> None:
    with closing(LocalDocuments(path, timeout=DEADLINE)) as documents:
        create(documents, "c/a")
        with closing(sqlite3.connect(path / "documents.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with ThreadPoolExecutor(3) as threads:
                errors = list(threads.map(lambda i: error_of(lambda: create(documents, f"c/{i}")), range(3)))
            assert errors == [StoreUnavailableError] * 3
            assert value(documents, "c/a") == 1
            other.execute("ROLLBACK")
        create(documents, "c/b")


def test_a_full_disk(documents: LocalDocuments) -> None:
    create(documents, "c/a")
    ((db,),) = [documents._cursors.values()]
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(StoreError, match="full"):
        documents.commit(Commit((Create("c/small", {}), Create("c/large", {"v": bytes(500_000)}))))
    assert [doc.name for doc in documents.query_docs(QueryDocs("c"))] == ["c/a"]
    create(documents, "c/large", bytes(500_000))


def test_a_full_disk_for_objects(blobs: LocalBlobs, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs.ensure_bucket(EnsureBucket())

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(local.os, "fsync", full)
        with pytest.raises(StoreError, match="Free some space"):
            blobs.put_blob(PutBlob("t/a", b"x"))
    assert blobs.get_blob(GetBlob("t/a")) is None
    assert list((path / "tmp").iterdir()) == []
    blobs.put_blob(PutBlob("t/a", b"x"))


def test_missing_permission() -> None:
    with tempfile.TemporaryDirectory() as above:
        path = Path(above) / "store"
        with (
            closing(LocalDocuments(path, timeout=PATIENCE)) as documents,
            closing(LocalBlobs(path, timeout=PATIENCE)) as blobs,
        ):
            create(documents, "c/a")
            blobs.put_blob(PutBlob("t/a", b"x"))
        Path(above).chmod(0o755)
        path.chmod(0o555)
        (path / "documents.sqlite3").chmod(0o444)
        (path / "objects").chmod(0o555)
        (path / "objects" / "t").chmod(0o555)
        (path / "objects" / "t" / "a").chmod(0o444)
        (path / "tmp").chmod(0o555)
        try:

            def refused() -> list[type[BaseException]]:
                documents, blobs = LocalDocuments(path, timeout=PATIENCE), LocalBlobs(path, timeout=PATIENCE)
                elsewhere = LocalDocuments(path / "new", timeout=PATIENCE)
                assert blobs.get_blob(GetBlob("t/a")) == b"x"
                assert value(documents, "c/a") == 1
                return [
                    error_of(lambda: create(documents, "c/b")),
                    error_of(lambda: create(elsewhere, "c/b")),
                    error_of(lambda: blobs.put_blob(PutBlob("t/b", b"x"))),
                    error_of(lambda: blobs.delete_blobs(DeleteBlobs(("t/a",)))),
                ]

            assert unprivileged(refused) == [PermissionDeniedError] * 4
        finally:
            for directory in (path, path / "objects", path / "objects" / "t", path / "tmp"):
                directory.chmod(0o755)


# Objects


def test_remains_of_killed_writers_go_after_a_day(path: Path) -> None:
    tmp = path / "tmp"
    tmp.mkdir(parents=True)
    old, new = (f"{os.getpid()}-{letter * 32}" for letter in "ab")
    for name in (old, new):
        (tmp / name).write_bytes(b"half an obj")
    os.utime(tmp / old, (time.time() - 25 * 3600,) * 2)
    with closing(LocalBlobs(path, timeout=PATIENCE)) as blobs:
        blobs.put_blob(PutBlob("t/a", b"x"))
        assert [info.name for info in blobs.list_blobs(ListBlobs(""))] == ["t/a"]
    assert [left.name for left in tmp.iterdir()] == [new]


def test_deleting_removes_empty_directories(blobs: LocalBlobs, path: Path) -> None:
    for name in ("t/a/1", "t/a/2", "t/b/c/1", "u/1"):
        blobs.put_blob(PutBlob(name, b"x"))
    blobs.delete_blobs(DeleteBlobs(("t/a/1", "t/b/c/1", "u/1")))
    assert sorted(str(p.relative_to(path)) for p in (path / "objects").rglob("*")) == [
        "objects/t",
        "objects/t/a",
        "objects/t/a/2",
    ]
    blobs.delete_blobs(DeleteBlobs(("t/a/2",)))
    assert list((path / "objects").iterdir()) == []


def test_puts_and_deletes_in_one_directory(blobs: LocalBlobs) -> None:
    def work(part: int) -> None:
        for i in range(300):
            name = f"t/deep/er/{part}-{i}"
            blobs.put_blob(PutBlob(name, name.encode()))
            assert blobs.get_blob(GetBlob(name)) == name.encode()
            blobs.list_blobs(ListBlobs("t/"))
            blobs.delete_blobs(DeleteBlobs((name,)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert blobs.list_blobs(ListBlobs("")) == []


def test_a_removed_directory_is_made_again(blobs: LocalBlobs, path: Path) -> None:
    blobs.put_blob(PutBlob("a", b"x"))
    (path / "objects" / "a").unlink()
    (path / "objects").rmdir()
    (path / "tmp").rmdir()
    assert blobs.list_blobs(ListBlobs("")) == []
    assert blobs.get_blob(GetBlob("a")) is None
    blobs.put_blob(PutBlob("a", b"y"))
    assert blobs.get_blob(GetBlob("a")) == b"y"
