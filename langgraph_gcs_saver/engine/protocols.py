"""The protocols that stores implement. Only modules in `langgraph_gcs_saver.stores` import google.* or sqlite3.

A store has two halves: documents and objects. Each performs its own effects. It retries failures that may pass, and
gives up at its deadline. Every failure is one of `langgraph_gcs_saver.errors`, with the exception of Google, grpc or
sqlite3 as its `__cause__`.

In the main thread, a signal handler can raise an exception between any two steps of Python. So a runner makes the main
thread's calls in a thread that signals do not interrupt. A half that stays intact when a call is interrupted has a true
attribute `survives_signals`, and is called in the main thread.

Requests at the same time are made on several threads. A half whose requests wait for no network has a true attribute
`is_local`, and its requests are made one after the other: a change of threads takes longer than one of them.

A store of objects that keeps each object in two buckets has an attribute `buckets` with the two stores, the mirror
last. `InBucket` asks one of them.
"""

from __future__ import annotations

from typing import Protocol

from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    BucketSettings,
    Commit,
    CopyBlob,
    DeleteBlobs,
    Doc,
    Docs,
    EnsureBucket,
    ExemptField,
    GetBlob,
    GetDocs,
    HashBlob,
    Indexing,
    ListBlobs,
    ListCollections,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)


class DocumentStore(Protocol):
    """Documents with atomic, conditional commits. Safe to call from many threads at once."""

    def get_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs`."""

    def query_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs`."""

    def list_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections`."""

    def commit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit`."""

    async def aget_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs` without blocking the event loop."""

    async def aquery_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs` without blocking the event loop."""

    async def alist_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections` without blocking the event loop."""

    async def acommit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit` without blocking the event loop."""

    def read_indexing(self, effect: ReadIndexing) -> Indexing | None:
        """Perform `ReadIndexing`."""

    def exempt_field(self, effect: ExemptField) -> None:
        """Perform `ExemptField`."""

    async def aread_indexing(self, effect: ReadIndexing) -> Indexing | None:
        """Perform `ReadIndexing` without blocking the event loop."""

    async def aexempt_field(self, effect: ExemptField) -> None:
        """Perform `ExemptField` without blocking the event loop."""

    def close(self) -> None:
        """Release everything that can be released outside an event loop. Idempotent."""

    async def aclose(self) -> None:
        """Release everything of the running loop, and what `close` releases. Idempotent."""


class BlobStore(Protocol):
    """Whole objects, created once. Blocking; the asynchronous runner calls it on its own threads."""

    def put_blob(self, effect: PutBlob) -> None:
        """Perform `PutBlob`."""

    def get_blob(self, effect: GetBlob) -> bytes | None:
        """Perform `GetBlob`."""

    def hash_blob(self, effect: HashBlob) -> str | None:
        """Perform `HashBlob`."""

    def copy_blob(self, effect: CopyBlob) -> bool:
        """Perform `CopyBlob`."""

    def list_blobs(self, effect: ListBlobs) -> list[BlobInfo]:
        """Perform `ListBlobs`."""

    def delete_blobs(self, effect: DeleteBlobs) -> None:
        """Perform `DeleteBlobs`."""

    def ensure_bucket(self, effect: EnsureBucket) -> str:
        """Perform `EnsureBucket`."""

    def read_bucket(self, effect: ReadBucket) -> BucketSettings | None:
        """Perform `ReadBucket`."""

    def set_lifecycle(self, effect: SetLifecycle) -> bool:
        """Perform `SetLifecycle`."""

    def close(self) -> None:
        """Release connections. Idempotent."""
