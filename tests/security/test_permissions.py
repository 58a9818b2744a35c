"""What this library writes, its user alone can read, whatever the umask."""

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver, write_settings
from langgraph_gcs_saver.engine.files import write_file
from tests.patience import PATIENCE
from tests.system.build import cfg, noise, put

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def open_to_others(path):
    """What others than its user may read, write or enter."""
    return {
        (str(one.relative_to(path.parent)), oct(stat.S_IMODE(one.lstat().st_mode)))
        for one in [path, *path.rglob("*")]
        if stat.S_IMODE(one.lstat().st_mode) != (0o700 if one.is_dir() else 0o600)
    }


@pytest.fixture
def filled(tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/above/Store") as saver:
        for n in (1, 2):
            put(saver, n, {"v": noise(140_000, n), "Upper/Case " * 30: noise(140_000)}, parent=n - 1 or None)
            saver.put_writes(cfg(n), [("v", noise(200_000))], "task")
        yield saver


@pytest.mark.usefixtures("umask")
class TestModes:
    def test_the_embedded_store_while_it_is_used(self, filled, tmp_path):
        assert (tmp_path / "above" / "Store" / "documents.sqlite3-wal").exists()
        assert open_to_others(tmp_path / "above") == set()

    def test_the_embedded_store_later(self, filled, tmp_path):
        filled.delete_thread("t")
        put(filled, 1, {"v": noise(140_000)})
        filled.close()
        assert open_to_others(tmp_path / "above") == set()

    def test_archives(self, filled, tmp_path):
        file = tmp_path / "t.tar"
        for _ in range(2):
            filled.admin.export_thread("t", file)
            assert open_to_others(file) == set()
            file.chmod(0o644)
        assert not list(tmp_path.glob("*.part"))

    @pytest.mark.parametrize("is_there", [False, True])
    def test_reports_and_the_files_of_setup(self, filled, tmp_path, is_there):
        made = tmp_path / "new"
        if is_there:
            made.mkdir(0o700)
            (made / "page.html").write_text("a page that all may read")
            (made / "page.html").chmod(0o666)
        else:
            made.mkdir(0o700)
        command = [sys.executable, "-m", "langgraph_gcs_saver.cli", "report", "t", "-o", str(made / "page.html")]
        subprocess.run(
            [*command, "--force", "--store", f"file://{tmp_path}/above/Store"], check=True, capture_output=True
        )
        assert write_settings(made / "deeper" / "settings", "gs://bucket/agents")
        assert open_to_others(made) == set()

    def test_a_report_replaces_a_link_not_what_it_leads_to(self, filled, tmp_path):
        (tmp_path / "theirs").write_text("theirs")
        (tmp_path / "page.html").symlink_to(tmp_path / "theirs")
        command = [sys.executable, "-m", "langgraph_gcs_saver.cli", "report", "t", "-o", str(tmp_path / "page.html")]
        subprocess.run(
            [*command, "--force", "--store", f"file://{tmp_path}/above/Store"], check=True, capture_output=True
        )
        assert (tmp_path / "theirs").read_text() == "theirs"
        assert open_to_others(tmp_path / "page.html") == set()


def test_modes_of_what_is_there_stay(tmp_path):
    """A directory that its user made for a group stays open to it; what is new there is not."""
    store = tmp_path / "store"
    with GCSSaver.from_conn_string(f"file://{store}") as saver:
        put(saver, 1, {"v": 1})
    store.chmod(0o750)
    (store / "documents.sqlite3").chmod(0o640)
    for directory in ("objects", "tmp"):
        (store / directory).rmdir() if (store / directory).is_dir() else None
    with GCSSaver.from_conn_string(f"file://{store}") as saver:
        put(saver, 2, {"v": noise(140_000)}, parent=1)
    assert open_to_others(store) == {("store", "0o750"), ("store/documents.sqlite3", "0o640")}
    with closing(sqlite3.connect(store / "documents.sqlite3", timeout=PATIENCE)) as db:
        assert db.execute("SELECT count(*) FROM documents").fetchone()[0]


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "file", "nothing"])
def test_a_page_does_not_go_through_a_link(tmp_path, kind):
    """The link is replaced, whatever it leads to."""
    place, target = tmp_path / "page.html", tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "directory":
        target.mkdir()
    elif kind == "file":
        target.write_bytes(b"mine")
    elif kind == "device":
        target = Path("/dev/full")  # which refuses what is written to it
    place.symlink_to(target)
    reader = os.open(target, os.O_RDONLY | os.O_NONBLOCK) if kind == "pipe" else None
    write_file(place, b"page", replace=True, devices=True)
    assert not place.is_symlink()
    assert place.read_bytes() == b"page"
    if reader is not None:
        assert os.read(reader, 10) == b""
        os.close(reader)
    assert kind != "file" or target.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["pipe", "hard link", "link"])
def test_settings_go_to_files_of_their_own(tmp_path, kind):
    """The user named the directory, and not a file in it that has the name of one of the settings."""
    other, place = tmp_path / "other", tmp_path / "firestore.indexes.json"
    other.write_text("theirs")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to(other)
    else:
        os.link(other, place)
    written = write_settings(tmp_path, "gs://bucket/agents")
    assert place in written
    assert stat.S_ISREG(place.lstat().st_mode)
    assert "lg_" in place.read_text()
    assert other.read_text() == "theirs"


def test_a_pipe_that_is_named_is_written_to(tmp_path):
    place = tmp_path / "pipe"
    os.mkfifo(place)
    reader = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    write_file(place, b"page", replace=True, devices=True)
    assert os.read(reader, 10) == b"page"
    os.close(reader)
    assert stat.S_ISFIFO(place.lstat().st_mode)


def test_what_a_process_has_open_is_written_to(tmp_path):
    """`/dev/stdout` is a link like this one, to a file if output goes to one. Only root could replace the link."""
    target = tmp_path / "page.html"
    with target.open("wb") as file:
        write_file(Path(f"/dev/fd/{file.fileno()}"), b"page", replace=True, devices=True)
    assert target.read_bytes() == b"page"
