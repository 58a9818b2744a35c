"""An exception that a signal raises at any step leaves no half archive, and an archive that can be read on."""

import os
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from langgraph_gcs_saver.engine.effects import Doc, GetBlob, GetDocs
from langgraph_gcs_saver.engine.runner import Backend, run
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver.admin import _new_archive
from langgraph_gcs_saver.stores.archive import Archive
from tests.faults.steps import SoftTimeLimit, Struck, strikes
from tests.patience import PATIENCE

MODULES = (
    "/stores/archive.py",
    "/saver/admin.py",
    "/engine/runner.py",
    "/engine/steps.py",
    "/engine/pool.py",
    "/contextlib.py",
)

pytestmark = [
    # A file that a strike leaves to the interpreter to close.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc"),
]

DOC = Doc(keys.thread_doc("t"), {"thread_id": "t"}, 1, 1)
BLOB = f"{keys.thread_blobs('t')}~/1/a-12345678.zst"


def write(path):
    with _new_archive(path) as archive:
        archive.begin("t")
        archive.add_blob(BLOB, b"an object")
        archive.add_doc(DOC)
        archive.finish()


def handles(path):
    return [
        target
        for handle in Path("/proc/self/fd").iterdir()
        if (target := os.path.realpath(handle)).startswith(str(path))
    ]


@pytest.mark.parametrize("error", [Struck, SoftTimeLimit])
def test_writing(tmp_path, error):
    path = tmp_path / "t.tar"
    for place in strikes(lambda: write(path), error, *MODULES):
        left = [found.name for found in tmp_path.iterdir()]
        assert left in ([], [path.name]), place
        assert handles(tmp_path) == [], place
        if left:
            Archive(path).close()
            path.unlink()


@pytest.mark.parametrize("error", [Struck, SoftTimeLimit])
def test_opening(tmp_path, error):
    path = tmp_path / "t.tar"
    write(path)
    for place in strikes(lambda: Archive(path).close(), error, *MODULES):
        assert handles(tmp_path) == [], place


@pytest.mark.parametrize("opcodes", [False, True])
def test_reading(tmp_path, opcodes):
    path = tmp_path / "t.tar"
    write(path)
    found = []

    def flow():
        blob = yield from GetBlob(BLOB)
        docs = yield from GetDocs((DOC.name,))
        found.append((blob, docs[DOC.name].fields))

    with Archive(path) as archive, closing(Backend(archive, archive)) as backend:

        def read():
            run(flow(), backend)

        for place in strikes(read, Struck, *MODULES, opcodes=opcodes):
            found.clear()
            thread = threading.Thread(target=read)
            thread.start()
            thread.join(PATIENCE)
            assert found == [(b"an object", DOC.fields)], place
