"""The embedded store among hostile files: links, pipes and other users' directories, in place of what it makes."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from langgraph_gcs_saver import GCSSaver, flows
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.engine import files
from langgraph_gcs_saver.engine.effects import (
    Commit,
    CopyBlob,
    Create,
    DeleteBlobs,
    EnsureBucket,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    Merge,
    PutBlob,
)
from langgraph_gcs_saver.errors import InvalidInputError, PermissionDeniedError, StoreError
from langgraph_gcs_saver.stores.archive import Archive
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from tests.contract.test_local import forked, unprivileged
from tests.incremental.eax import Eax
from tests.kit.interceptors import Seen
from tests.patience import PATIENCE
from tests.system.build import cfg, noise, put, values

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")

LONG_AGO = time.time() - 48 * 3600  # clock: an age, of files that the test makes
OBJECT = "aa-t/~/c/v-0123456789ab.zst"
SECRET = b"a file of somebody else's"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def elsewhere(tmp_path):
    """A directory that no store should touch, with old files of all kinds of names."""
    made = tmp_path / "elsewhere"
    made.mkdir()
    for name in ("thesis.tex", f"123-{'a' * 32}", OBJECT.rpartition("/")[2]):
        (made / name).write_bytes(SECRET)
        os.utime(made / name, (LONG_AGO, LONG_AGO))
    yield made
    assert sorted(one.read_bytes() for one in made.iterdir()) == [SECRET] * 3


@pytest.fixture
def blobs(path):
    with closing(LocalBlobs(path, timeout=PATIENCE)) as blobs:
        yield blobs


@pytest.fixture
def documents(path):
    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        yield documents


def store(path):
    """A store with a checkpoint whose value is an object."""
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        put(saver, 1, {"v": noise(140_000)})
    return path


CALLS = {
    "put": PutBlob(OBJECT, b"x"),
    "get": GetBlob(OBJECT),
    "hash": HashBlob(OBJECT),
    "copy": CopyBlob(OBJECT, OBJECT.replace("/v-", "/w-")),
    "list": ListBlobs(""),
    "delete": DeleteBlobs((OBJECT,)),
    "ensure": EnsureBucket(),
}
WRITES = ("put", "ensure")


def perform(blobs, call):
    effect = CALLS[call]
    name = re.sub("(?<!^)(?=[A-Z])", "_", type(effect).__name__).lower()
    return getattr(blobs, name)(effect)


# Links


@pytest.mark.parametrize("call", WRITES)
@pytest.mark.parametrize("is_ready", [False, True])
def test_a_linked_tmp(path, blobs, elsewhere, call, is_ready):
    if is_ready:
        blobs.put_blob(PutBlob("a", b"x"))
        (path / "tmp").rmdir()
    path.mkdir(exist_ok=True)
    (path / "tmp").symlink_to(elsewhere)
    with pytest.raises(StoreError, match=r"symbolic link.*Remove the link"):
        perform(blobs, call)


def test_remains_of_databases_that_are_something_else(path, elsewhere):
    """What the store has not made stays, and so does what a link leads to."""
    store(path)
    part = f"documents.sqlite3.{'a' * 16}.part"
    theirs = [".new-abcdefg", ".new-ABCDEFGH", ".new-abcdefgh.bak", f"documents.sqlite3.{'a' * 15}.part", f"x{part}"]
    for name in (*theirs, part):
        (path / name).write_bytes(SECRET)
    for name in (".new-filefile", ".new-othername"):
        (path / name).write_bytes(SECRET)
    (path / ".new-linklink").symlink_to(elsewhere)
    (path / f"documents.sqlite3.{'b' * 16}.part").symlink_to(elsewhere / "thesis.tex")
    for name in (".new-theirs00", ".new-within00", ".new-empty000"):
        (path / name).mkdir()
    (path / ".new-theirs00" / "thesis.tex").write_bytes(SECRET)
    (path / ".new-within00" / "new.sqlite3").symlink_to(elsewhere / "thesis.tex")
    before = {one.name for one in path.iterdir()}
    for name in before:
        os.utime(path / name, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        assert saver.get_tuple(cfg()) is not None
    assert before - {one.name for one in path.iterdir()} == {part, ".new-empty000"}
    assert (path / ".new-theirs00" / "thesis.tex").read_bytes() == SECRET


def test_remains_of_databases_behind_a_link(path, tmp_path):
    """The store's own path may be a link, and remains that cannot be removed do not stop a saver from opening it."""
    store(path)
    (path / ".new-empty000").mkdir()
    (path / ".new-kept0000").mkdir()
    (path / ".new-kept0000" / "new.sqlite3").mkdir()
    for one in path.iterdir():
        os.utime(one, (LONG_AGO, LONG_AGO))
    link = tmp_path / "link"
    link.symlink_to(path)
    with GCSSaver.from_conn_string(f"file://{link}") as saver:
        assert saver.get_tuple(cfg()) is not None
    assert [one.name for one in path.glob(".new-*")] == [".new-kept0000"]


@pytest.mark.parametrize("call", CALLS)
def test_linked_objects(path, blobs, elsewhere, call):
    path.mkdir()
    (path / "objects").symlink_to(elsewhere)
    with pytest.raises(StoreError, match=r"symbolic link.*Remove the link"):
        perform(blobs, call)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("depth", range(1, 4))
def test_a_link_below_objects(path, blobs, elsewhere, call, depth):
    """In the place of a directory: what lies behind it is not the store's."""
    link = path.joinpath("objects", *OBJECT.split("/")[:depth])
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    if call == "put":
        with pytest.raises(StoreError, match="in the place of a directory"):
            perform(blobs, call)
    else:
        assert perform(blobs, call) in (None, False, []) or call == "ensure"
    assert link.is_symlink()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "directory"])
def test_something_else_in_the_place_of_an_object(path, blobs, elsewhere, call, kind):
    """No call waits for the other end of a pipe, or reads what a link leads to: there is no such object."""
    place = path / "objects" / OBJECT
    place.parent.mkdir(parents=True)
    if kind == "link":
        place.symlink_to(elsewhere / "thesis.tex")
    elif kind == "dangling":
        place.symlink_to(elsewhere / "new")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    if call == "put":
        with pytest.raises(StoreError, match=r"in the place of the object.*remove it"):
            perform(blobs, call)
    elif call == "delete":
        if kind == "directory":
            with pytest.raises(StoreError):
                perform(blobs, call)
        else:
            perform(blobs, call)
            assert not os.path.lexists(place)
    else:
        assert perform(blobs, call) in (None, False, []) or call == "ensure"
    assert not list((path / "tmp").glob("*"))


@pytest.mark.parametrize("where", ["=ff", "e3-t/=ff", "e3-t/~/=ff"])
def test_an_object_whose_name_is_no_text(path, where):
    """No object has such a name."""
    store(path)
    place = path / "objects" / where
    place.mkdir(parents=True, mode=0o700)
    (place / "aaaaaaaa.zst").write_bytes(b"x")
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        assert list(saver.admin.verify()) == []
        assert [one.thread_id for one in saver.admin.stats().threads] == ["t"]
        saver.delete_thread("t")
        assert saver.admin.threads() == []


def test_a_thread_with_a_linked_object_is_damaged_and_carries_nothing_out(path, tmp_path, elsewhere):
    store(path)
    (place,) = (one for one in (path / "objects").rglob("*.zst"))
    place.unlink()
    place.symlink_to(elsewhere / "thesis.tex")
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        assert [one.kind for one in saver.admin.verify("t", depth="data")] == ["missing"]
        saver.admin.export_thread("t", tmp_path / "t.tar")
    assert SECRET not in (tmp_path / "t.tar").read_bytes()


@pytest.mark.parametrize("cipher", [None, Eax("the key")], ids=["clear", "cipher"])
def test_a_hard_link_in_place_of_an_object_is_not_carried_out(path, tmp_path, elsewhere, cipher):
    """It looks like any file, but its content is no frame, which is visible without a key."""
    with GCSSaver.from_conn_string(f"file://{path}", cipher=cipher) as saver:
        for n in (1, 2):
            put(saver, n, {"v": noise(140_000, n)}, parent=n - 1 or None)
        place, whole = sorted((path / "objects").rglob("*.zst"))
        place.unlink()
        for name in (place, place.with_name("v-0123456789ab.zst"), place.with_name("~manifest-0123456789ab.zst")):
            os.link(elsewhere / "thesis.tex", name)
        assert {one.kind for one in saver.admin.verify("t", depth="data") if one.is_damage} == {"corrupt"}
    with (
        GCSSaver.from_conn_string(f"file://{path}") as saver,
        GCSSaver.from_conn_string(f"file://{tmp_path}/second") as second,
    ):
        saver.admin.export_thread("t", tmp_path / "t.tar")
        for _ in range(2):
            saver.admin.transfer_thread("t", second)
    assert SECRET not in (tmp_path / "t.tar").read_bytes()
    assert whole.read_bytes() in (tmp_path / "t.tar").read_bytes()
    (carried,) = (tmp_path / "second" / "objects").rglob("*.zst")
    assert carried.read_bytes() == whole.read_bytes()
    assert (elsewhere / "thesis.tex").read_bytes() == SECRET


@pytest.mark.parametrize("companion", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_something_else_in_the_place_of_the_database(path, documents, elsewhere, companion, kind):
    path.mkdir()
    place = path / f"documents.sqlite3{companion}"
    if kind == "link":
        place.symlink_to(elsewhere / "thesis.tex")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    for call in (
        lambda: documents.get_docs(GetDocs(("c/a",))),
        lambda: documents.commit(Commit((Create("c/a", {"v": 1}),))),
    ):
        with pytest.raises(StoreError, match=r"link, a directory or a device\. It must be a file"):
            call()


@pytest.mark.parametrize("companion", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("call", ["get", "commit"])
def test_a_hard_link_in_the_place_of_the_database(path, documents, elsewhere, companion, call):
    """Even a call that only reads would have SQLite write to it."""
    store(path)
    place = path / f"documents.sqlite3{companion}"
    place.unlink(missing_ok=True)
    os.link(elsewhere / "thesis.tex", place)
    get, commit = GetDocs(("c/a",)), Commit((Create("c/a", {"v": 1}),))
    with pytest.raises(StoreError, match=r"is a hard link.*Copy the whole directory"):
        documents.get_docs(get) if call == "get" else documents.commit(commit)


def test_a_hard_link_that_came_with_an_archive(tmp_path, elsewhere):
    """`tar` makes the link among the files of the user who unpacks."""
    store(tmp_path / "sent")
    with tarfile.open(elsewhere / "sent.tar", "w") as archive:
        archive.add(tmp_path / "sent", "store")
        link = tarfile.TarInfo("store/documents.sqlite3-shm")
        link.type, link.linkname = tarfile.LNKTYPE, "thesis.tex"
        archive.addfile(link)
    subprocess.run(["tar", "xf", "sent.tar"], cwd=elsewhere, check=True)
    with GCSSaver.from_conn_string(f"file://{elsewhere}/store") as saver, pytest.raises(StoreError, match="hard link"):
        saver.admin.threads()
    shutil.rmtree(elsewhere / "store")
    (elsewhere / "sent.tar").unlink()


def test_two_stores_that_share_a_database(path, tmp_path):
    store(path)
    (tmp_path / "other").mkdir(mode=0o700)
    os.link(path / "documents.sqlite3", tmp_path / "other" / "documents.sqlite3")
    with GCSSaver.from_conn_string(f"file://{tmp_path}/other") as saver, pytest.raises(StoreError, match="hard link"):
        saver.delete_thread("t")
    (tmp_path / "other" / "documents.sqlite3").unlink()
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        assert saver.get_tuple(cfg()) is not None


def test_a_database_that_has_just_got_its_name(path, tmp_path):
    """The process that makes it has not yet removed the name under which it was made, or was killed before."""
    store(path)
    part = path / "documents.sqlite3.0123456789abcdef.part"
    os.link(path / "documents.sqlite3", part)
    os.link(path / "documents.sqlite3", tmp_path / "mine")
    (path / "documents.sqlite3.fedcba9876543210.part").write_bytes(b"being made by another one")
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        with pytest.raises(StoreError, match="hard link"):
            saver.get_tuple(cfg())
        (tmp_path / "mine").unlink()
        part.unlink(missing_ok=True)
        os.link(path / "documents.sqlite3", part)
        assert values(saver.get_tuple(cfg()))["v"] == noise(140_000)
    assert not part.exists()
    assert (path / "documents.sqlite3.fedcba9876543210.part").exists()
    assert (path / "documents.sqlite3").stat().st_nlink == 1


def test_a_link_to_the_whole_store_is_the_users_own_business(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    store(tmp_path / "store")
    assert {one.name for one in (tmp_path / "disk").iterdir()} == {"documents.sqlite3", "objects", "tmp"}


# Races


@pytest.mark.parametrize("swapped", ["tmp", "objects", "objects/aa-t", "objects/aa-t/~"])
def test_directories_that_are_swapped_for_links_all_the_time(path, elsewhere, swapped):
    """Whatever the moment: calls fail, or are done in the directory that was there, and never behind the link."""
    place, aside, stop = path / swapped, path / "aside", threading.Event()

    def swap():
        while not stop.is_set():
            with suppress(OSError):
                place.rename(aside)
                place.symlink_to(elsewhere)
            with suppress(OSError):
                place.unlink()  # the link: a directory is not unlinked
            with suppress(OSError):
                aside.rename(place)  # unless a call has made another one
            shutil.rmtree(aside, ignore_errors=True)

    with closing(LocalBlobs(path, timeout=0.001)) as blobs:  # clock: gives up soon, as it may
        blobs.put_blob(PutBlob(OBJECT, b"x"))
        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for number in range(300):
                name = OBJECT.replace("/v-", f"/v{number}-")
                for effect in (PutBlob(name, b"x"), DeleteBlobs((name, OBJECT)), ListBlobs("")):
                    call = {PutBlob: blobs.put_blob, DeleteBlobs: blobs.delete_blobs, ListBlobs: blobs.list_blobs}
                    blobs._ready = number % 2 == 0  # housekeeping runs every other time
                    with suppress(StoreError):
                        call[type(effect)](effect)
        finally:
            stop.set()
            thread.join()


def test_a_directory_that_is_swapped_between_two_steps(path, blobs, elsewhere):
    """By name it would be another one by then; the handle stays what it was."""
    blobs.put_blob(PutBlob(OBJECT, b"x"))
    place = (path / "objects" / OBJECT).parent
    with files.Directory.at(str(place)) as opened:
        place.rename(path / "aside")
        place.symlink_to(elsewhere)
        opened.unlink(OBJECT.rpartition("/")[2])
        with opened.create("new") as file:
            file.write(b"x")
    assert [one.name for one in (path / "aside").iterdir()] == ["new"]


@pytest.mark.parametrize("kind", ["another program's", "another store's"])
def test_a_database_that_is_a_link_only_while_sqlite_opens_it(path, tmp_path, monkeypatch, kind):
    """Looked at before and after, it is the store's own: only SQLite knows what it has opened."""
    other = tmp_path / "other"
    for place in (path, other):
        store(place)
    target = other / "documents.sqlite3"
    if kind == "another program's":
        target.unlink()
        with closing(sqlite3.connect(target)) as db:
            db.execute("CREATE TABLE mine (a)")
    before = target.read_bytes()
    place, aside, connect = path / "documents.sqlite3", path / "aside", sqlite3.connect

    def swapped(*args, **kwargs):
        place.rename(aside)
        place.symlink_to(target)
        try:
            return connect(*args, **kwargs)
        finally:
            place.unlink()
            aside.rename(place)

    with closing(LocalDocuments(path, timeout=PATIENCE)) as documents:
        monkeypatch.setattr(sqlite3, "connect", swapped)
        for call in (
            lambda: documents.get_docs(GetDocs(("c/a",))),
            lambda: documents.commit(Commit((Create("c/a", {"v": 1}),))),
        ):
            with pytest.raises(StoreError, match="replaced while it was being opened"):
                call()
        monkeypatch.undo()
        assert documents.commit(Commit((Create("c/a", {"v": 1}),))) is not None
    assert target.read_bytes() == before


@pytest.mark.parametrize("call", CALLS)
def test_an_object_of_a_tebibyte_that_takes_no_room(path, blobs, call):
    """A file with a hole can be made for nothing, and would take hours to read."""
    blobs.ensure_bucket(EnsureBucket())
    place = path / "objects" / OBJECT
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x")
    os.truncate(place, 1 << 40)
    if call == "put":
        with pytest.raises(StoreError, match=r"in the place of the object.*remove it"):
            perform(blobs, call)
    elif call == "delete":
        perform(blobs, call)
        assert not place.exists()
    else:
        assert perform(blobs, call) in (None, False, []) or call == "ensure"


def test_a_listing_reads_no_object_for_its_checksum_unless_it_is_wanted(path, blobs):
    """One file may have many names, or be hollow: what nothing refers to is not read."""
    store(path)
    (place,) = (one for one in (path / "objects").rglob("*.zst"))
    strange = place.with_name("v-0123456789ab.zst")
    os.link(place, strange)
    os.link(place, place.with_name("x.zst"))
    assert {info.crc32c for info in blobs.list_blobs(ListBlobs("", checksums=False))} == {None}
    seen = Seen()
    with GCSSaver.from_conn_string(f"file://{path}", interceptors=[seen]) as saver:
        assert [one.kind for one in saver.admin.verify("t", depth="existence")] == ["unreferenced"]
        saver.admin.history("t")
        saver.admin.stats()
        saver.admin.collect("t", orphan_age=timedelta(0))
        assert not strange.exists()
        saver.delete_thread("t")
    listed = [effect for effect in seen.requests if isinstance(effect, ListBlobs)]
    assert {effect.prefix for effect in listed if effect.checksums} == {str(place.relative_to(path / "objects"))}
    assert any(not effect.checksums for effect in listed)


def test_a_thread_with_such_an_object(path, tmp_path):
    store(path)
    (place,) = (one for one in (path / "objects").rglob("*.zst"))
    os.truncate(place, 1 << 40)
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        assert [one.kind for one in saver.admin.verify("t", depth="data")] == ["missing"]
        assert saver.admin.stats().objects == 0
        assert saver.admin.export_thread("t", tmp_path / "t.tar").objects == 0
        saver.delete_thread("t")


# Depth


@pytest.mark.parametrize(("top", "name"), [("", "a"), ("e3-t", "a" * 100), ("", "a+"), ("e3-t", "a" * 240 + "+")])
def test_directories_in_directories_without_an_end(path, blobs, top, name):
    """No object is deeper than a name can be long, so a listing stops there."""
    store(path)
    handle = os.open(path / "objects" / top, os.O_RDONLY)
    try:
        for _ in range(2000):
            os.mkdir(name, dir_fd=handle)
            inner = os.open(name, os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = inner
        (mine,) = blobs.list_blobs(ListBlobs(""))
        with GCSSaver.from_conn_string(f"file://{path}") as saver:
            assert list(saver.admin.verify(depth="data")) == []
            saver.delete_thread("t")
        assert blobs.list_blobs(ListBlobs("")) == []
        assert mine.name.startswith("e3-t/")
    finally:
        os.close(handle)
        subprocess.run(["rm", "-rf", str(path / "objects")], check=True)  # not `shutil.rmtree`, which goes too deep


# Housekeeping


def test_housekeeping_takes_only_what_a_store_has_made(path, blobs):
    tmp = path / "tmp"
    tmp.mkdir(parents=True)
    kept = {
        "thesis.tex",
        "1-short",
        f"x-{'a' * 32}",
        f"1-{'A' * 32}",
        f"1-{'a' * 32}.txt",
        f"2-{'a' * 32}",
        f"4-{'a' * 32}",
    }
    for name in kept | {f"1-{'a' * 32}"}:
        (tmp / name).write_bytes(SECRET)
        os.utime(tmp / name, (LONG_AGO, LONG_AGO))
    (tmp / f"2-{'a' * 32}").unlink()
    (tmp / f"2-{'a' * 32}").mkdir()
    os.utime(tmp / f"2-{'a' * 32}", (LONG_AGO, LONG_AGO))
    os.utime(tmp / f"4-{'a' * 32}")
    blobs.put_blob(PutBlob("a", b"x"))
    assert {one.name for one in tmp.iterdir()} == kept


# Other users


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("given", ["", "tmp", "objects", "documents.sqlite3", "link"])
def test_another_users_store(path, given):
    store(path)
    if given == "link":
        path.rename(path.with_name("real"))
        path.symlink_to(path.with_name("real"))
        os.chown(path, 65534, -1, follow_symlinks=False)
    else:
        os.chown(path / given, 65534, -1)
    refused = pytest.raises(PermissionDeniedError, match=r"belongs to the user with the id 65534.*chown")
    with GCSSaver.from_conn_string(f"file://{path}") as saver, refused:
        put(saver, 2, {"v": noise(140_000, 2)}, parent=1)
    os.chown(path / ("" if given == "link" else given), 0, -1, follow_symlinks=False)
    with GCSSaver.from_conn_string(f"file://{path}") as saver:
        put(saver, 2, {"v": noise(140_000, 2)}, parent=1)


# Read-only


def tree(path):
    return [path, *path.rglob("*")]


@pytest.fixture
def frozen():
    """A store in a place where this process' user may only read."""
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        made = store(Path(above) / "store")
        for one in tree(made):
            one.chmod(0o555 if one.is_dir() else 0o444)
        yield made
        for one in tree(made):
            one.chmod(0o755 if one.is_dir() else 0o644)


def test_a_store_that_may_only_be_read(frozen):
    assert all((flows.transfer, flows.verify, flows.catalogue, flows.threads))  # the other user may not import them

    def use():
        target = Path(tempfile.mkdtemp())
        with GCSSaver.from_conn_string(f"file://{frozen}") as saver:
            assert values(saver.get_tuple(cfg())) == {"v": noise(140_000)}
            assert len(list(saver.list(None))) == 1
            assert [one.thread_id for one in saver.admin.threads()] == ["t"]
            assert list(saver.admin.verify(depth="data")) == []
            assert saver.admin.export_thread("t", target / "t.tar").objects == 1
            errors = []
            for call in (lambda: put(saver, 2, {"v": 1}, parent=1), lambda: saver.delete_thread("t")):
                with pytest.raises(PermissionDeniedError, match="write"):
                    call()
        with GCSSaver.from_conn_string(f"file://{target}/copy") as copy:
            copy.admin.import_thread(target / "t.tar")
        return errors

    before = [(one, one.stat().st_mtime_ns) for one in tree(frozen)]
    assert unprivileged(use) == []
    assert [(one, one.stat().st_mtime_ns) for one in tree(frozen)] == before


def test_commands_on_a_store_that_may_only_be_read(frozen, tmp_path):
    def use(folder):
        commands = (
            ["threads"],
            ["history", "t"],
            ["show", "t"],
            ["verify"],
            ["stats"],
            ["report", "t", "-o", str(folder / "t.html")],
            ["export", "t", str(folder / "t.tar")],
        )
        ended = [CliRunner().invoke(app, [*one, "--store", f"file://{frozen}"]) for one in commands]
        return [(one.exit_code, str(one.exception)) for one in ended if one.exit_code]

    assert use(tmp_path) == []  # also imports what the other user may not read
    assert unprivileged(lambda: use(Path(tempfile.mkdtemp()))) == []


def test_a_log_that_cannot_be_read_is_not_passed_over(frozen):
    """A killed process' last commits are in there: without it the store would look older than it is."""
    with (
        tempfile.TemporaryDirectory() as other,
        closing(LocalDocuments(Path(other), timeout=PATIENCE)) as documents,
    ):
        documents.commit(Commit((Create("c/a", {"v": 1}),)))
        data = (Path(other) / "documents.sqlite3-wal").read_bytes()
    log = frozen / "documents.sqlite3-wal"
    log.write_bytes(data)
    log.chmod(0o444)

    def use():
        refused = pytest.raises(PermissionDeniedError, match="Copy the whole directory")
        with GCSSaver.from_conn_string(f"file://{frozen}") as saver, refused:
            saver.get_tuple(cfg())

    unprivileged(use)


def test_a_killed_processs_store_that_may_only_be_read(frozen):
    """With SQLite's log and its index beside it, the commits in the log are there."""
    frozen.chmod(0o755)
    (frozen / "documents.sqlite3").chmod(0o644)
    for name in ("objects", "tmp"):
        (frozen / name).chmod(0o755)
    code = (
        "import os, sys\n"
        "from langgraph_gcs_saver.stores.local import LocalDocuments\n"
        "from langgraph_gcs_saver.engine.effects import Commit, Create\n"
        "from pathlib import Path\n"
        "LocalDocuments(Path(sys.argv[1]), timeout=60).commit(Commit((Create('c/a', {'v': 1}),)))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(frozen)], check=False).returncode == -9
    for one in tree(frozen):
        one.chmod(0o555 if one.is_dir() else 0o444)

    def use():
        with closing(LocalDocuments(frozen, timeout=PATIENCE)) as documents:
            return documents.get_docs(GetDocs(("c/a",)))["c/a"].fields["v"]

    assert unprivileged(use) == 1


def test_a_writer_beside_a_reader_that_may_only_read(frozen):
    """Another user's writes are seen whole, whether SQLite's log is there or not."""
    read, write = os.pipe()
    back_read, back_write = os.pipe()

    def use():
        seen = []
        with closing(LocalDocuments(frozen, timeout=PATIENCE)) as documents:
            for _ in range(3):
                os.read(read, 1)
                found = documents.get_docs(GetDocs(("c/a",))).get("c/a")
                seen.append(found and found.fields["v"])
                os.write(back_write, b"x")
        return seen

    def drop():
        if os.getuid() == 0:
            os.setuid(65534)
        return use()

    if os.getuid() != 0:
        pytest.skip("needs a second user")
    wait = forked(drop)
    for step in range(3):
        if step:
            with closing(LocalDocuments(frozen, timeout=PATIENCE)) as writer:
                writer.commit(Commit((Merge("c/a", {"v": step}),)))
        os.write(write, b"x")
        os.read(back_read, 1)
    assert wait() == [None, 1, 2]
    for handle in (read, write, back_read, back_write):
        os.close(handle)


# Archives


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
def test_something_else_in_the_place_of_an_archive(tmp_path, kind):
    place = tmp_path / "t.tar"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    else:
        place = Path("/dev/zero")
    with pytest.raises(InvalidInputError, match=r"not a file|is not an archive"):
        Archive(place)


@pytest.mark.parametrize("kind", ["pipe", "directory", "link"])
def test_an_archive_replaces_nothing_but_files(path, tmp_path, kind):
    """Root would lose `/dev/null` to it."""
    place = tmp_path / "t.tar"
    if kind == "directory":
        place.mkdir()
    else:
        os.mkfifo(tmp_path / "pipe")
        place.symlink_to(tmp_path / "pipe")
        if kind == "pipe":
            place = tmp_path / "pipe"
    before = place.lstat()
    refused = pytest.raises(InvalidInputError, match="is not a file")
    with GCSSaver.from_conn_string(f"file://{store(path)}") as saver, refused:
        saver.admin.export_thread("t", place)
    assert os.path.samestat(place.lstat(), before)
    assert not list(tmp_path.glob("*.part"))
    ended = CliRunner().invoke(app, ["export", "t", str(place), "--yes", "--store", f"file://{path}"])
    assert isinstance(ended.exception, InvalidInputError)
