"""On a file system that does not distinguish `A` from `a`, ids that differ only in case stay separate."""

import itertools
import os
import string
from contextlib import closing
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine import files
from langgraph_gcs_saver.engine.effects import GetBlob, ListBlobs, PutBlob
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.local import LocalBlobs, _fold, _unfold
from tests.patience import PATIENCE
from tests.system.build import cfg, noise, put, values


class FoldingOs:
    """The module `os` of a system that ignores case, and keeps the case in which a name was first created."""

    def __getattr__(self, name):
        return getattr(os, name)

    @staticmethod
    def _real(name, handle):
        if handle is None:
            return name
        there = os.listdir(handle)  # noqa: PTH208 - by a handle
        return next((one for one in there if one.casefold() == name.casefold()), name)

    def open(self, name, flags, mode=0o777, *, dir_fd=None):
        return os.open(self._real(name, dir_fd), flags, mode, dir_fd=dir_fd)

    def mkdir(self, name, mode, *, dir_fd):
        os.mkdir(self._real(name, dir_fd), mode, dir_fd=dir_fd)

    def stat(self, name, *, dir_fd, follow_symlinks):
        return os.stat(self._real(name, dir_fd), dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def unlink(self, name, *, dir_fd):
        os.unlink(self._real(name, dir_fd), dir_fd=dir_fd)

    def rmdir(self, name, *, dir_fd):
        os.rmdir(self._real(name, dir_fd), dir_fd=dir_fd)

    def link(self, source, target, *, src_dir_fd=None, dst_dir_fd=None, follow_symlinks=True):
        target = self._real(target, dst_dir_fd)
        os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)


@pytest.fixture
def uri(tmp_path, monkeypatch):
    if not files._HANDLES:
        pytest.skip("the system has no handles of directories, and may ignore case itself")
    monkeypatch.setattr(files, "os", FoldingOs())
    return f"file://{tmp_path}/store"


def twins():
    """Two thread ids that differ in case, and whose names begin with the same digits of their hashes."""
    for letters in itertools.product(string.ascii_lowercase, repeat=3):
        one = "".join(letters)
        if keys.spread(one)[:2] == keys.spread(one.upper())[:2]:
            return one, one.upper()
    raise AssertionError


def test_threads_and_namespaces_that_differ_in_case(uri):
    places = [(thread, ns) for thread in twins() for ns in ("", "node:1", "Node:1", "NODE:1")]
    with GCSSaver.from_conn_string(uri) as saver:
        for number, (thread, ns) in enumerate(places):
            put(saver, 1, {"v": noise(140_000, number), "V": noise(140_000, -number)}, thread=thread, ns=ns)
        assert list(saver.admin.verify(depth="data")) == []
        assert saver.admin.collect(orphan_age=timedelta(0)) == []
        gone, left = twins()
        saver.delete_thread(gone)
    with GCSSaver.from_conn_string(uri) as saver:
        assert list(saver.admin.verify(depth="data")) == []
        for number, (thread, ns) in enumerate(places):
            found = saver.get_tuple(cfg(thread=thread, ns=ns))
            if thread == left:
                assert values(found) == {"v": noise(140_000, number), "V": noise(140_000, -number)}
            else:
                assert found is None


def test_names_in_order_and_each_its_own(uri):
    names = ["a/b", "A/b", "a/B", "a-x/b", "A/c/d", "É/é", "con/nul.x", "x" * 241 + "/y", "X" * 200 + "/y", "t/a.", "z"]
    with closing(LocalBlobs(files.Path(uri.removeprefix("file://")), timeout=PATIENCE)) as blobs:
        for name in names:
            blobs.put_blob(PutBlob(name, name.encode()))
        listed = [info.name for info in blobs.list_blobs(ListBlobs(""))]
        assert listed == sorted(names, key=str.encode)
        assert [info.name for info in blobs.list_blobs(ListBlobs("X" * 100))] == ["X" * 200 + "/y"]
        for after, rest in itertools.pairwise([*listed, None]):
            assert [info.name for info in blobs.list_blobs(ListBlobs("", after, limit=1))] == ([rest] if rest else [])
        assert all(blobs.get_blob(GetBlob(name)) == name.encode() for name in names)


segments = st.binary(min_size=1, max_size=600) | st.text("aAbBcoCOnN.^=+%~_-1", min_size=1, max_size=300).map(
    str.encode
)


@given(segments, segments)
def test_what_is_folded_differs_in_more_than_case(one, other):
    parts = _fold(one)
    assert _unfold("".join(part.removesuffix("+") for part in parts).encode()) == one
    assert all(part == part.lower() and part.isascii() and 0 < len(part) <= 241 for part in parts)
    assert all(part.endswith("+") for part in parts[:-1])
    assert not parts[-1].endswith(("+", "."))
    assert (parts == _fold(other)) == (one == other)
