"""The store in memory."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, CopyBlob, Create, GetBlob, GetDocs, Merge, PutBlob, QueryDocs
from langgraph_gcs_saver.stores import memory
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.contract import StoreContract
from tests.faults.steps import Struck, strikes
from tests.patience import PATIENCE
from tests.system.build import cfg, put, values


@pytest.fixture
def documents() -> Iterator[MemoryDocuments]:
    with closing(MemoryDocuments()) as documents:
        yield documents


@pytest.fixture
def blobs() -> Iterator[MemoryBlobs]:
    with closing(MemoryBlobs()) as blobs:
        yield blobs


class TestMemory(StoreContract):
    """The fixtures are those of this module."""


def count_up(documents: MemoryDocuments, times: int) -> None:
    """Add one to two documents, so many times, in commits that may fail because others do the same."""
    while times:
        found = documents.get_docs(GetDocs(("c/a", "c/b")))
        a, b = found["c/a"], found["c/b"]
        assert a.fields == b.fields, "a read sees whole commits"
        fields = {"n": a.fields["n"] + 1}
        done = documents.commit(Commit((Merge("c/a", fields, update_time=a.update_time), Merge("c/b", fields))))
        times -= done is not None


def begun(documents: MemoryDocuments) -> None:
    assert documents.commit(Commit((Create("c/a", {"n": 0}), Create("c/b", {"n": 0}))))


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as the interpreter lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching")
def test_commits_of_many_threads(documents: MemoryDocuments) -> None:
    begun(documents)
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(count_up, documents, 100) for _ in range(8)]:
            done.result(PATIENCE)
    assert [doc.fields for doc in documents.query_docs(QueryDocs("c"))] == [{"n": 800}, {"n": 800}]


@pytest.mark.parametrize("other", ["c/other", "c/a"])
def test_a_commit_begins_again_if_another_was_first(
    documents: MemoryDocuments, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    begun(documents)
    replaced = memory.replaced

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(memory, "replaced", replaced)
        assert documents.commit(Commit((Merge(other, {"n": 5}),)))
        return replaced(*arguments)

    monkeypatch.setattr(memory, "replaced", meanwhile)
    time = documents.get_docs(GetDocs(("c/a",)))["c/a"].update_time
    times = documents.commit(Commit((Merge("c/a", {"n": 1}, update_time=time),)))
    found = {doc.name: doc.fields["n"] for doc in documents.query_docs(QueryDocs("c"))}
    if other == "c/a":
        assert times is None
        assert found == {"c/a": 5, "c/b": 0}
    else:
        assert found == {"c/a": 1, "c/b": 0, "c/other": 5}


def test_times_rise_while_the_clock_goes_back(documents: MemoryDocuments, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(2_000_000_000, 0, -1_000))
    monkeypatch.setattr(memory.time, "time_ns", lambda: next(clock))
    times: list[int] = []
    for i in range(6):
        times += documents.commit(Commit((Create(f"c/{i}", {}), Merge("c/0", {"v": i})))) or ()
    assert times == sorted(times)
    assert len(set(times)) == 6
    assert times[0] == 2_000_000_000


def test_a_commit_is_whole_wherever_a_signal_strikes(documents: MemoryDocuments) -> None:
    begun(documents)
    for place in strikes(lambda: count_up(documents, 1), Struck, "stores/memory.py", "stores/rows.py", opcodes=True):
        a, b = documents.query_docs(QueryDocs("c"))
        assert a.fields == b.fields, place
        assert a.update_time == b.update_time, place
    before = documents.get_docs(GetDocs(("c/a",)))["c/a"].fields["n"]
    count_up(documents, 1)
    assert documents.get_docs(GetDocs(("c/a",)))["c/a"].fields["n"] == before + 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_gets_a_copy_amid_commits_of_other_threads(documents: MemoryDocuments) -> None:
    begun(documents)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            count_up(documents, 1)

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(work) for _ in range(2)]
        try:
            for _ in range(10):
                pid = os.fork()
                if pid == 0:
                    try:
                        count_up(documents, 5)
                        documents.commit(Commit((Create("c/child", {}),)))
                        os._exit(0)
                    finally:
                        os._exit(1)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        finally:
            stop.set()
        for done in working:
            done.result(PATIENCE)
    assert documents.get_docs(GetDocs(("c/child",))) == {}


def test_what_a_caller_changes_afterwards_is_not_stored(documents: MemoryDocuments) -> None:
    fields: dict[str, Any] = {"m": {"a": 1}}
    documents.commit(Commit((Create("c/a", fields),)))
    fields["m"]["a"] = 2
    found = documents.get_docs(GetDocs(("c/a",)))["c/a"].fields
    found["m"]["a"] = 3
    assert documents.get_docs(GetDocs(("c/a",)))["c/a"].fields == {"m": {"a": 1}}


def test_copies_of_objects(blobs: MemoryBlobs) -> None:
    blobs.put_blob(PutBlob("t/a", b"x"))
    assert blobs.copy_blob(CopyBlob("t/a", "t/b"))
    assert blobs.copy_blob(CopyBlob("t/a", "t/b"))
    assert not blobs.copy_blob(CopyBlob("t/missing", "t/c"))
    assert blobs.get_blob(GetBlob("t/b")) == b"x"


# The connection string


def test_each_saver_has_a_store_of_its_own() -> None:
    with GCSSaver.from_conn_string("memory:") as one, GCSSaver.from_conn_string("memory:") as other:
        put(one, 1, {"v": "x" * 20_000})
        assert values(one.get_tuple(cfg())) == {"v": "x" * 20_000}
        assert other.get_tuple(cfg()) is None


def test_both_halves_of_a_saver_share_its_store() -> None:
    async def read(saver: GCSSaver) -> Any:
        return await saver.aget_tuple(cfg())

    with GCSSaver.from_conn_string("memory:", inline_max_bytes=0) as saver:
        put(saver, 1, {"v": ["hello"]})
        assert values(asyncio.run(read(saver))) == {"v": ["hello"]}
        assert list(saver.admin.verify()) == []
