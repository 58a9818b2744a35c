"""What the embedded store and the one in memory refuse alike: they share the rules of documents (`stores/rows.py`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import (
    Commit,
    CopyBlob,
    Create,
    Delete,
    DeleteBlobs,
    ExemptField,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    Merge,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore
from langgraph_gcs_saver.errors import InvalidIdError, InvalidInputError, StoreError
from langgraph_gcs_saver.stores.local import LocalBlobs, LocalDocuments
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from tests.patience import PATIENCE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a store, 100% é?#"


@pytest.fixture(params=["local", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def documents(kind: str, path: Path) -> Iterator[DocumentStore]:
    made = LocalDocuments(path, timeout=PATIENCE) if kind == "local" else MemoryDocuments()
    with closing(made) as documents:
        yield documents


@pytest.fixture
def blobs(kind: str, path: Path) -> Iterator[BlobStore]:
    made = LocalBlobs(path, timeout=PATIENCE) if kind == "local" else MemoryBlobs()
    with closing(made) as blobs:
        yield blobs


def create(documents: DocumentStore, name: str, value: Any = 1) -> None:
    assert documents.commit(Commit((Create(name, {"v": value}),)))


# Commits


def test_writes_of_one_commit_share_a_time(documents: DocumentStore) -> None:
    create(documents, "c/old")
    before = time.time_ns()
    times = documents.commit(Commit((Create("c/a", {}), Merge("c/old", {"v": 2}), Merge("c/b", {}))))
    assert times is not None
    assert len(set(times)) == 1
    assert before <= times[0] <= time.time_ns()


@pytest.mark.parametrize("value", [float("nan"), -0.0, 1, "x", b"x", None, {"b": float("nan"), "a": {}}], ids=repr)
def test_a_merge_of_the_same_value_changes_nothing(documents: DocumentStore, value: Any) -> None:
    times = documents.commit(Commit((Create("c/a", {"v": value, "other": 1}),)))
    assert documents.commit(Commit((Merge("c/a", {"v": value}, remove=("absent",)),))) == times


@pytest.mark.parametrize(("before", "after"), [(0.0, -0.0), (1, 1.0), (1, True), ("x", b"x"), ({"a": 1}, {"a": 1.0})])
def test_a_merge_of_a_value_that_only_looks_equal_changes_it(documents: DocumentStore, before: Any, after: Any) -> None:
    times = documents.commit(Commit((Create("c/a", {"v": before, "other": 1}),)))
    assert documents.commit(Commit((Merge("c/a", {"v": after}),))) != times
    (found,) = documents.get_docs(GetDocs(("c/a",))).values()
    assert repr(found.fields["v"]) == repr(after)
    assert found.fields["other"] == 1


def test_a_field_that_is_removed_and_set_stays(documents: DocumentStore) -> None:
    times = documents.commit(Commit((Create("c/a", {"v": 1}),)))
    assert documents.commit(Commit((Merge("c/a", {"v": 1}, remove=("v",)),))) == times
    assert documents.commit(Commit((Merge("c/a", {"v": 2}, remove=("v",)),))) != times
    (found,) = documents.get_docs(GetDocs(("c/a",))).values()
    assert found.fields == {"v": 2}


def test_a_document_of_exactly_the_limit(documents: DocumentStore) -> None:
    # https://firebase.google.com/docs/firestore/storage-size: name 2 + 2 + 16, field 1 + 1, document 32
    most = 1_048_576 - 20 - 2 - 32
    create(documents, "c/x", bytes(most))
    with pytest.raises(StoreError, match="1048577 bytes"):
        create(documents, "c/y", bytes(most + 1))
    with pytest.raises(StoreError):
        documents.commit(Commit((Merge("c/x", {"w": None}),)))
    assert len(documents.get_docs(GetDocs(("c/x",)))["c/x"].fields["v"]) == most


def test_a_commit_over_the_limit(documents: DocumentStore) -> None:
    writes = tuple(Create(f"c/{i:02}", {"v": bytes(1_000_000)}) for i in range(11))
    with pytest.raises(StoreError, match="commit of"):
        documents.commit(Commit(writes))
    assert documents.query_docs(QueryDocs("c")) == []
    assert documents.commit(Commit(writes[:10])) is not None


# Names

BAD = ["", "/", "c/..", "../c", "c/.", "./c", "c//a/b", "/c/a", "c/a/", "c/a\0b", "c/\ud800", "c/../../../etc/x"]


@pytest.mark.parametrize("name", BAD, ids=repr)
def test_names_that_would_escape(documents: DocumentStore, blobs: BlobStore, path: Path, name: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: documents.get_docs(GetDocs(("c/a", name))),
        lambda: documents.commit(Commit((Create("c/a", {}), Create(name, {})))),
        lambda: documents.commit(Commit((Create("c/a", {}), Delete(name)))),
        lambda: documents.query_docs(QueryDocs("c", start=name)),
        lambda: documents.query_docs(QueryDocs("c", after=name)),
        lambda: documents.query_docs(QueryDocs(name + "/c")),
        lambda: blobs.put_blob(PutBlob(name, b"x")),
        lambda: blobs.get_blob(GetBlob(name)),
        lambda: blobs.hash_blob(HashBlob(name)),
        lambda: blobs.copy_blob(CopyBlob("c/a", name)),
        lambda: blobs.delete_blobs(DeleteBlobs(("c/a", name))),
    ]
    blobs.put_blob(PutBlob("c/a", b"x"))
    for call in calls:
        with pytest.raises(InvalidIdError):
            call()
    assert documents.query_docs(QueryDocs("c")) == []
    assert [blob.name for blob in blobs.list_blobs(ListBlobs(""))] == ["c/a"]
    assert list(path.parent.iterdir()) in ([], [path])


def test_long_names(documents: DocumentStore, blobs: BlobStore) -> None:
    create(documents, "c/" + "x" * 1500)
    with pytest.raises(InvalidIdError):
        create(documents, "c/" + "x" * 1501)
    with pytest.raises(InvalidIdError):
        create(documents, "/".join(["c" * 1200] * 6))
    blobs.put_blob(PutBlob("x" * 250 + "/y" * 200, b"1"))
    blobs.put_blob(PutBlob("x" * 256, b"1"))
    with pytest.raises(InvalidIdError):
        blobs.put_blob(PutBlob("x/" * 512 + "x", b"1"))


def test_queries_that_make_no_sense(documents: DocumentStore) -> None:
    for query in (
        QueryDocs("c/x/d", group=True, start="a/b", end="c/d"),
        QueryDocs("c/x"),
        QueryDocs("c", start="c"),
        QueryDocs("c", where=(("v", [1]),)),
    ):
        with pytest.raises(InvalidInputError):
            documents.query_docs(query)
    create(documents, "c/a")
    assert documents.query_docs(QueryDocs("c", limit=0)) == []


# Settings, which only Google's services have


def test_there_are_no_settings(documents: DocumentStore, blobs: BlobStore) -> None:
    assert documents.read_indexing(ReadIndexing("c", "v")) is None
    assert blobs.read_bucket(ReadBucket()) is None
    with pytest.raises(StoreError, match=r"no indexes, so c\.v cannot be exempted"):
        documents.exempt_field(ExemptField("c", "v"))
    with pytest.raises(StoreError, match="no lifecycle rules"):
        blobs.set_lifecycle(SetLifecycle((), 1))
