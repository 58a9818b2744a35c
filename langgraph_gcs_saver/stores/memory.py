"""The store in memory, for tests: documents and objects of one saver, which are gone when the process ends.

Like the embedded store, it raises errors for names, sizes and values that the services do not accept.

No call waits for another. Documents are a chain of states that never change. A commit links the next state to the last
one with `dict.setdefault`, which is atomic, and starts over if another commit was first. So half a commit is never
visible, even if a signal raises in the middle of a call or the process forks. A commit copies the table of rows, but no
document.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from itertools import islice

from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
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
    ListBlobs,
    ListCollections,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.errors import SaverClosedError, StoreError
from langgraph_gcs_saver.stores import rows

Rows = Mapping[rows.Key, rows.Row]


def get_docs(table: Rows, effect: GetDocs, now: int) -> Docs:
    """Perform `GetDocs` on rows, at the time `now`."""
    found = ((name, table.get(rows.key_of(name))) for name in effect.names)
    return Docs((rows.read(name, row, effect.mask) for name, row in found if row is not None), now)


def query_docs(table: Rows, effect: QueryDocs) -> list[Doc]:
    """Perform `QueryDocs` on rows."""
    query = rows.Query(effect)
    return query.find((path, *table[_, path]) for _, path in sorted(filter(query.includes, table)))


def list_collections(table: Rows, effect: ListCollections) -> list[str]:
    """Perform `ListCollections` on rows."""
    below = rows.key_of(effect.document)[1] + b"\0"
    found = {path[len(below) :].split(b"\0")[0] for _, path in table if path.startswith(below)}
    return sorted(segment.decode(errors="replace") for segment in found)


def replaced(table: Rows, changes: Mapping[rows.Key, rows.Row | None]) -> Rows:
    """The rows after a commit. `changes` is from `rows.Writes.apply`: changed rows, and `None` for deleted ones."""
    after = dict(table)
    for key, row in changes.items():
        if row is None:
            after.pop(key, None)  # a row that one commit created and deleted is not in the table
        else:
            after[key] = row
    return after


class _State:
    """All documents at one moment.

    Attributes:
        table: Their rows.
        last: The time of the last commit.
        following: The state after the next commit; empty until that commit.
    """

    __slots__ = ("following", "last", "table")

    def __init__(self, table: Rows, last: int) -> None:
        self.table = table
        self.last = last
        self.following: dict[None, _State] = {}


class MemoryDocuments:
    """Documents in memory; a `DocumentStore`.

    Args:
        table: The rows to begin with.
    """

    survives_signals = True
    is_local = True

    def __init__(self, table: Rows | None = None) -> None:
        self._state = _State(table or {}, 0)
        self._closed = False

    @property
    def table(self) -> Rows:
        """The current rows. The table never changes, because a commit makes a new one."""
        return self._latest().table

    def get_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs`."""
        return get_docs(self.table, effect, time.time_ns())

    def query_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs`."""
        return query_docs(self.table, effect)

    def list_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections`."""
        return list_collections(self.table, effect)

    def commit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit`."""
        writes = rows.Writes(effect)
        while True:
            state = self._latest()
            now = max(time.time_ns(), state.last + 1)
            applied = writes.apply(state.table.get, now)
            if applied is None:
                return None
            times, changes = applied
            if not changes:
                return times
            after = _State(replaced(state.table, changes), now)
            if state.following.setdefault(None, after) is after:
                return times

    async def aget_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs`."""
        return self.get_docs(effect)

    async def aquery_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs`."""
        return self.query_docs(effect)

    async def alist_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections`."""
        return self.list_collections(effect)

    async def acommit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit`."""
        return self.commit(effect)

    def read_indexing(self, effect: ReadIndexing) -> None:  # noqa: ARG002 - no field has an index
        """Perform `ReadIndexing`: there are no such settings."""
        self._refuse()

    def exempt_field(self, effect: ExemptField) -> None:
        """Raise `StoreError`, because there are no such settings."""
        self._refuse()
        raise StoreError(f"A store in memory has no indexes, so {effect.collection}.{effect.field} cannot be exempted.")

    async def aread_indexing(self, effect: ReadIndexing) -> None:
        """Perform `ReadIndexing`: there are no such settings."""
        self.read_indexing(effect)

    async def aexempt_field(self, effect: ExemptField) -> None:
        """Raise `StoreError`, because there are no such settings."""
        self.exempt_field(effect)

    def close(self) -> None:
        """Close the store, so that further calls raise an error. Idempotent."""
        self._closed = True

    async def aclose(self) -> None:
        """Close the store, so that further calls raise an error. Idempotent."""
        self.close()

    def _latest(self) -> _State:
        """The end of the chain. `_state` is only a starting point: another thread may set it to an older state."""
        self._refuse()
        state = self._state
        while state.following:
            state = state.following[None]
        self._state = state
        return state

    def _refuse(self) -> None:
        if self._closed:
            raise _closed()


class MemoryBlobs:
    """Objects in memory; a `BlobStore`. Each call is atomic for each object.

    Args:
        objects: The objects to begin with, by name: their bytes, and when they were created.
    """

    survives_signals = True

    def __init__(self, objects: Mapping[str, Blob] | None = None) -> None:
        self.objects = dict(objects or {})
        self._closed = False

    def put_blob(self, effect: PutBlob) -> None:
        """Perform `PutBlob`."""
        self._put(effect.name, b"".join(effect.pieces))

    def get_blob(self, effect: GetBlob) -> bytes | None:
        """Perform `GetBlob`."""
        data = self._get(effect.name)
        if data is None:
            return None
        return data[effect.start : None if effect.length is None else effect.start + effect.length]

    def hash_blob(self, effect: HashBlob) -> str | None:
        """Perform `HashBlob`."""
        data = self._get(effect.name)
        return None if data is None else hashlib.sha256(data).hexdigest()

    def copy_blob(self, effect: CopyBlob) -> bool:
        """Perform `CopyBlob`."""
        data = self._get(effect.name)
        if data is None:
            return False
        self._put(effect.target, data)
        return True

    def list_blobs(self, effect: ListBlobs) -> list[BlobInfo]:
        """Perform `ListBlobs`."""
        self._refuse()
        prefix, after = effect.prefix.encode(), (effect.after or "").encode()
        keys = ((name.encode(), name) for name in list(self.objects))
        names = [name for key, name in sorted(keys) if key.startswith(prefix) and key > after]
        found = ((name, self.objects.get(name)) for name in names)
        infos = (_info(name, *blob) for name, blob in found if blob is not None)
        return list(islice(infos, effect.limit))

    def delete_blobs(self, effect: DeleteBlobs) -> None:
        """Perform `DeleteBlobs`."""
        self._refuse()
        for name in [_checked(name) for name in effect.names]:
            self.objects.pop(name, None)

    def ensure_bucket(self, effect: EnsureBucket) -> str:  # noqa: ARG002 - memory has no location
        """Perform `EnsureBucket`: there is nothing to create."""
        self._refuse()
        return "The store is in memory. It is gone when this process ends."

    def read_bucket(self, effect: ReadBucket) -> None:  # noqa: ARG002 - memory has no settings
        """Perform `ReadBucket`: there is no bucket."""
        self._refuse()

    def set_lifecycle(self, effect: SetLifecycle) -> bool:  # noqa: ARG002 - as above
        """Raise `StoreError`, because there is no bucket."""
        self._refuse()
        raise StoreError("A store in memory has no bucket and no lifecycle rules.")

    def close(self) -> None:
        """Close the store, so that further calls raise an error. Idempotent."""
        self._closed = True

    def _get(self, name: str) -> bytes | None:
        self._refuse()
        blob = self.objects.get(_checked(name))
        return None if blob is None else blob[0]

    def _put(self, name: str, data: bytes) -> None:
        self._refuse()
        found, _ = self.objects.setdefault(_checked(name), (data, time.time_ns()))
        if found != data:
            raise StoreError(
                f"The object {name!r} already exists with other content and was left as it is. Two writers used "
                "the same name."
            )

    def _refuse(self) -> None:
        if self._closed:
            raise _closed()


Blob = tuple[bytes, int]
"""The bytes of an object, and when it was created."""


def _checked(name: str) -> str:
    rows.object_segments_of(name)
    return name


def _info(name: str, data: bytes, create_time: int) -> BlobInfo:
    return BlobInfo(name, len(data), crc32c(data), create_time)


def _closed() -> SaverClosedError:
    return SaverClosedError("This saver was closed; make a new one.")
