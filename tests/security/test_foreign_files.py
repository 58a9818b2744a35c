"""Files that no store made, in the places of a store's: they are refused before SQLite or the clean-up changes them."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Create, GetDocs
from langgraph_gcs_saver.errors import InvalidInputError, SourceError, StoreError, UnsupportedFormatError
from langgraph_gcs_saver.stores.local import LocalDocuments
from tests.cli.conftest import command  # noqa: F401 - a fixture
from tests.patience import PATIENCE
from tests.system.build import cfg, noise, put, values

embedded = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

LONG_AGO = time.time() - 72 * 3600  # clock: an age, of files that the test makes


@pytest.fixture
def log(tmp_path):
    """The valid log of a store that another process might be using."""
    path = tmp_path / "live"
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        documents.commit(Commit((Create("c/a", {"v": 1}),)))
        data = (path / "documents.sqlite3-wal").read_bytes()
    assert data
    return data


def beside(file, log):
    file.with_name(f"{file.name}-wal").write_bytes(log)


def tree(directory):
    """The files of a directory and their content, without the memory that SQLite shares between processes."""
    return {
        str(one.relative_to(directory)): one.read_bytes()
        for one in directory.rglob("*")
        if one.is_file() and not one.name.endswith("-shm")
    }


def database(file, *statements):
    with closing(sqlite3.connect(file)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    return file.read_bytes()


FOREIGN = {
    "one byte": lambda _: b"1",
    "99 bytes": lambda _: b"SQLite format 3\0".ljust(99, b"\0"),
    "text": lambda _: b"my own notes" * 20,
    "a long text": lambda _: b"my own notes" * 2000,
    "an application's database": lambda file: database(file, "CREATE TABLE mine (a)"),
    "an application's database with a log": lambda file: database(
        file, "PRAGMA journal_mode = WAL", "CREATE TABLE mine (a)"
    ),
    "an empty database without a log": lambda file: database(file, "VACUUM"),
}


@embedded
@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_file_beside_a_log(tmp_path, log, command, what):  # noqa: F811
    """SQLite would write the log into it when the connection closes, or would remove the log."""
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    (store / "documents.sqlite3").write_bytes(FOREIGN[what](tmp_path / "made"))
    beside(store / "documents.sqlite3", log)
    before = tree(store)
    with GCSSaver.from_conn_string(store.as_uri()) as saver:
        for call in (saver.admin.threads, lambda: put(saver, 1, {"v": 1}), saver.admin.threads):
            with pytest.raises(StoreError, match=r"is not a whole SQLite database|no write-ahead log|in its schema"):
                call()
    assert command("threads", "--store", store.as_uri()).code == StoreError.exit_code
    assert tree(store) == before


@pytest.mark.parametrize("size", [0, 1, 99])
def test_the_log_of_a_lost_database_is_to_be_moved_first(tmp_path, log, size):
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    (store / "documents.sqlite3").write_bytes(b"1" * size)
    beside(store / "documents.sqlite3", log)
    with (
        GCSSaver.from_conn_string(store.as_uri()) as saver,
        pytest.raises(StoreError, match=r"First move .* away.*[Rr]estore"),
    ):
        saver.admin.threads()


def test_a_newer_store_with_a_log_is_left_as_it_is(tmp_path):
    store, copy = tmp_path / "store", tmp_path / "copy"
    with GCSSaver.from_conn_string(store.as_uri()) as saver:
        put(saver, 1, {"v": 1})
    copy.mkdir(mode=0o700)
    database(store / "documents.sqlite3", "PRAGMA user_version = 9")
    with closing(sqlite3.connect(store / "documents.sqlite3")) as db:
        db.execute("UPDATE clock SET last = last + 1")
        db.commit()
        for ending in ("", "-wal"):
            shutil.copy(store / f"documents.sqlite3{ending}", copy)
    before = tree(copy)
    with GCSSaver.from_conn_string(copy.as_uri()) as saver, pytest.raises(UnsupportedFormatError):
        saver.admin.threads()
    assert tree(copy) == before


@pytest.mark.parametrize("begun", ["missing", "empty"])
def test_a_store_opens_after_a_crash(tmp_path, begun):
    """All that was committed is in the log. The store that began in an empty file has even its tables there."""
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    if begun == "empty":
        (store / "documents.sqlite3").touch()
    killed = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from langgraph_gcs_saver.engine.effects import Commit, Create\n"
        "from langgraph_gcs_saver.stores.local import LocalDocuments\n"
        "LocalDocuments(Path(sys.argv[1]), timeout=60).commit(Commit((Create('c/a', {'v': 1}),)))\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(store)], check=False, timeout=PATIENCE)
    assert (store / "documents.sqlite3-wal").stat().st_size
    with closing(LocalDocuments(store, timeout=PATIENCE)) as documents:
        assert documents.get_docs(GetDocs(("c/a",)))["c/a"].fields == {"v": 1}


def test_a_file_with_fewer_pages_than_its_header_says(tmp_path):
    """A crash amid a checkpoint leaves this, and the log has the other pages."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    copy.mkdir(mode=0o700)
    with closing(LocalDocuments(store, timeout=PATIENCE)) as documents:
        documents.commit(Commit(tuple(Create(f"c/{n}", {"v": noise(140_000, n)}) for n in range(9))))
        shutil.copy(store / "documents.sqlite3-wal", copy)
    whole = (store / "documents.sqlite3").read_bytes()
    (copy / "documents.sqlite3").write_bytes(whole[: 4 * 4096])
    with closing(LocalDocuments(copy, timeout=PATIENCE)) as documents:
        assert documents.get_docs(GetDocs(("c/8",)))["c/8"].fields == {"v": noise(140_000, 8)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/locks is of Linux")
def test_checking_a_database_drops_no_lock_of_this_process(tmp_path):
    """A process that closes a file loses all its locks on it, so another process could remove a log that is in use."""
    store = tmp_path / "store"

    def locks():
        inode = f":{(store / 'documents.sqlite3').stat().st_ino} "
        with Path("/proc/locks").open() as lines:
            return [line for line in lines if inode in line and f" {os.getpid()} " in line]

    with (
        closing(LocalDocuments(store, timeout=PATIENCE)) as one,
        closing(LocalDocuments(store, timeout=PATIENCE)) as two,
    ):
        one.commit(Commit((Create("c/a", {"v": 1}),)))
        assert locks()
        assert two.get_docs(GetDocs(("c/a",)))["c/a"].fields == {"v": 1}
        two.close()
        assert locks()


@embedded
@pytest.mark.parametrize("data", [b"", b"1", b"notes " * 40])
def test_a_source_of_a_migration_beside_a_log(tmp_path, store_uri, log, command, data):  # noqa: F811
    source = tmp_path / "made" / "source.sqlite"
    source.parent.mkdir()
    source.write_bytes(data)
    beside(source, log)
    before = tree(source.parent)
    ended = command("migrate", "--from", f"sqlite://{source}", "--store", store_uri)
    assert ended.code == SourceError.exit_code
    assert "is empty or is not an SQLite database" in ended.err
    assert tree(source.parent) == before


def test_a_store_inside_a_store(tmp_path):
    """Its directory may have the form of those in which databases are created."""
    outer, inner, foreign = (
        tmp_path / "store",
        tmp_path / "store" / ".new-agents01",
        tmp_path / "store" / ".new-foreign1",
    )
    for path, size in ((outer, 9), (inner, 9), (outer / ".new-agents02", 20_000)):
        with GCSSaver.from_conn_string(path.as_uri()) as saver:
            put(saver, 1, {"v": noise(size)})
    foreign.mkdir()
    for name in ("new.sqlite3", "notes.txt"):
        (foreign / name).write_bytes(b"mine")
    linked = outer / ".new-linked01"
    linked.mkdir()
    os.link(foreign / "notes.txt", linked / "new.sqlite3")
    before = tree(outer)
    for one in outer.iterdir():
        os.utime(one, (LONG_AGO, LONG_AGO))
    with GCSSaver.from_conn_string(outer.as_uri()) as saver:
        assert values(saver.get_tuple(cfg())) == {"v": noise(9)}
    assert tree(outer) == before


def test_nothing_is_removed_beside_a_foreign_database(tmp_path):
    store = tmp_path / "store"
    (store / ".new-abcdefgh").mkdir(parents=True)
    part = store / f"documents.sqlite3.{'a' * 16}.part"
    part.touch()
    database(store / "documents.sqlite3", "CREATE TABLE mine (a)")
    for one in (store / ".new-abcdefgh", part):
        os.utime(one, (LONG_AGO, LONG_AGO))
    with GCSSaver.from_conn_string(store.as_uri()) as saver, pytest.raises(StoreError, match="in its schema"):
        saver.admin.threads()
    assert (store / ".new-abcdefgh").exists()
    assert part.exists()


@embedded
def test_objects_without_a_database(tmp_path, command):  # noqa: F811
    """A new database would make all of them orphans, which `collect` deletes."""
    store = tmp_path / "store"
    with GCSSaver.from_conn_string(store.as_uri()) as saver:
        put(saver, 1, {"v": noise(140_000)})
    (store / "documents.sqlite3").rename(tmp_path / "kept.sqlite3")
    before = tree(store)
    with GCSSaver.from_conn_string(store.as_uri()) as saver:
        for call in (saver.admin.threads, lambda: put(saver, 2, {"v": noise(140_000)})):
            with pytest.raises(StoreError, match=r"sqlite3 is missing, but \S*objects is not.*Restore"):
                call()
    assert command("setup", "--store", store.as_uri()).code == StoreError.exit_code
    assert tree(store) == before
    (tmp_path / "kept.sqlite3").rename(store / "documents.sqlite3")
    with GCSSaver.from_conn_string(store.as_uri()) as saver:
        assert values(saver.get_tuple(cfg())) == {"v": noise(140_000)}


@embedded
def test_a_store_begins_among_other_files(tmp_path, command):  # noqa: F811
    store = tmp_path / "store"
    for name in ("notes.txt", "objects/ab/cdef", "objects/pack/one.idx"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"mine")
    assert command("setup", "--store", store.as_uri()).code == 0
    with GCSSaver.from_conn_string(store.as_uri()) as saver:
        put(saver, 1, {"v": noise(140_000)})
        assert values(saver.get_tuple(cfg())) == {"v": noise(140_000)}


def test_many_processes_begin_a_store_with_objects(tmp_path):
    """The objects of one process are not taken for those of a lost store by another one."""
    code = (
        "import sys\n"
        "from langgraph_gcs_saver import GCSSaver\n"
        "from tests.system.build import noise, put\n"
        "sys.stdin.readline()\n"
        "with GCSSaver.from_conn_string(sys.argv[1]) as saver:\n"
        "    put(saver, 1, {'v': noise(140_000)}, thread=sys.argv[2])\n"
    )
    store = tmp_path / "store"
    started = [
        subprocess.Popen([sys.executable, "-c", code, store.as_uri(), str(n)], stdin=subprocess.PIPE) for n in range(8)
    ]
    for one in started:
        one.stdin.write(b"\n")
        one.stdin.close()
    assert [one.wait(PATIENCE) for one in started] == [0] * 8
    with GCSSaver.from_conn_string(store.as_uri()) as saver:
        assert len(saver.admin.threads()) == 8


def test_many_threads_begin_a_store_with_objects(tmp_path):
    store, errors, gate = tmp_path / "store", [], threading.Barrier(8)

    def begin(number):
        gate.wait(PATIENCE)
        try:
            with GCSSaver.from_conn_string(store.as_uri()) as saver:
                put(saver, 1, {"v": noise(140_000)}, thread=str(number))
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []


@embedded
@pytest.mark.parametrize("kind", ["dangling", "whole"])
def test_export_replaces_no_link(tmp_path, store_uri, make_saver, command, kind):  # noqa: F811
    link, target = tmp_path / "t.tar", tmp_path / "target"
    if kind == "whole":
        target.write_bytes(b"mine")
    link.symlink_to(target)
    with make_saver() as saver:
        put(saver, 1, {"v": 1})
        with pytest.raises(InvalidInputError, match="is a link"):
            saver.admin.export_thread("t", link)
    assert command("export", "t", str(link), "--yes", "--store", store_uri).code == InvalidInputError.exit_code
    assert link.is_symlink()
    assert target.exists() == (kind == "whole")
    ended = command("export", "t", str(link), "--store", store_uri, answer="n")
    assert "exists. Replace it?" in ended.err
