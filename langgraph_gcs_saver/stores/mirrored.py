"""One store of objects in two buckets: each object is in both, and a reader needs only one of them.

A write returns when both buckets have it. It is sent to both at the same time, so it takes as long as the slower one. A
read asks the first bucket, and then the mirror if the first one has no such object, has other bytes, does not answer in
time, or does not exist. After a bucket has not answered, reads ask the mirror first for a while, because each try would
take seconds.

Listings have the names of both buckets. Deletions go to both. If one bucket cannot be asked, writes, listings and
deletions fail: only reads do with one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Literal, TypeVar

from langgraph_gcs_saver.engine.effects import (
    DIFFERENT,
    BlobInfo,
    BucketSettings,
    CopyBlob,
    DeleteBlobs,
    EnsureBucket,
    GetBlob,
    HashBlob,
    ListBlobs,
    PutBlob,
    ReadBucket,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.engine.pool import Pool
from langgraph_gcs_saver.engine.protocols import BlobStore
from langgraph_gcs_saver.errors import StoreNotFoundError, StoreUnavailableError
from langgraph_gcs_saver.events import ReadFromMirror
from langgraph_gcs_saver.format import keys

T = TypeVar("T")

READ_SECONDS = 5.0
"""Most seconds that a read waits for a bucket that does not answer, before it asks the mirror."""

AWAY_SECONDS = 30.0
"""For so many seconds after a bucket has not answered, reads ask the mirror first."""

_ABSENT = (StoreUnavailableError, StoreNotFoundError)
"""The errors of a bucket that cannot be asked now. Others, such as missing permissions, must be fixed."""


class MirroredBlobs:
    """A `BlobStore` over two. Safe to call from many threads at once.

    Settings of a bucket are those of the first one: a flow asks the mirror with `InBucket`.

    Args:
        bucket: The first store. Its reads should give up sooner than its writes, after `READ_SECONDS`.
        mirror: The store with the second copy of each object, under the same name.
        max_threads: Threads that may call at the same time.
        on_read: Called for each object that was read from the mirror.

    Attributes:
        buckets: The two stores.
    """

    def __init__(
        self, bucket: BlobStore, mirror: BlobStore, *, max_threads: int, on_read: Callable[[ReadFromMirror], object]
    ) -> None:
        self.buckets = bucket, mirror
        self._pools = PerProcess(partial(Pool, "langgraph-gcs-mirror", 2 * max_threads))
        self._on_read = on_read
        self._away_until = 0.0

    # Both buckets at the same time

    def put_blob(self, effect: PutBlob) -> None:
        """Perform `PutBlob`. After an error, one of the buckets may have the object, as an orphan."""
        self._both(effect.perform)

    def hash_blob(self, effect: HashBlob) -> str | None:
        """Perform `HashBlob`: the hash if both buckets have the same bytes, `None` if one has no such object."""
        first, second = self._both(effect.perform)
        return first if first == second else None if None in (first, second) else DIFFERENT

    def copy_blob(self, effect: CopyBlob) -> bool:
        """Perform `CopyBlob`. The copy is in both buckets, even if only one has the original."""
        copied = self._both(effect.perform)
        if any(copied) and not all(copied):
            there, lacking = self.buckets if copied[0] else reversed(self.buckets)
            data = there.get_blob(GetBlob(effect.target))
            if data is None:
                return False  # It was deleted meanwhile.
            lacking.put_blob(PutBlob(effect.target, data))
        return any(copied)

    def list_blobs(self, effect: ListBlobs) -> list[BlobInfo]:
        """Perform `ListBlobs`: the objects of either bucket. Of two copies, the first bucket's is described.

        An object is as young as its younger copy.
        """
        first, second = self._both(effect.perform)
        found = {blob.name: blob for blob in second}
        for blob in first:
            copy = found.get(blob.name, blob)
            created = max(blob.create_time, copy.create_time)
            are_alike = (blob.size, blob.crc32c) == (copy.size, copy.crc32c)
            found[blob.name] = BlobInfo(blob.name, blob.size, blob.crc32c if are_alike else DIFFERENT, created)
        return [found[name] for name in sorted(found)][: effect.limit]

    def delete_blobs(self, effect: DeleteBlobs) -> None:
        """Perform `DeleteBlobs`."""
        self._both(effect.perform)

    def _both(self, perform: Callable[[BlobStore], T]) -> tuple[T, T]:
        """What both buckets answer. An error of one is raised when the other one has ended, too."""
        calls = [(partial(copy_context().run, perform, bucket), False) for bucket in self.buckets]
        first, second = self._pools.get().perform(*calls)
        return first, second

    # One bucket

    def get_blob(self, effect: GetBlob) -> bytes | None:
        """Perform `GetBlob`.

        Raises:
            StoreUnavailableError: No bucket has the object, and one of them did not answer.
        """
        bucket, mirror = self.buckets
        order = (mirror, bucket) if self._is_away() else (bucket, mirror)
        reason: Literal["missing", "unavailable", "corrupt"] = "unavailable"
        failure: Exception | None = None
        wrong: bytes | None = None
        for one in order:
            try:
                data = one.get_blob(effect)
            except _ABSENT as error:
                failure = failure or error
                if one is bucket:
                    self._note_away()
                continue
            if data is None:
                reason = "missing" if one is bucket else reason
            elif effect.crc32c is not None and crc32c(data) != effect.crc32c:
                wrong = data if wrong is None else wrong
                reason = "corrupt" if one is bucket else reason
            else:
                if one is mirror:
                    thread_id = keys.told_thread_of_blob(effect.name)
                    self._on_read(ReadFromMirror(thread_id=thread_id, name=effect.name, reason=reason))
                return data
        if failure is not None:
            raise failure
        return wrong

    def _is_away(self) -> bool:
        return time.monotonic() < self._away_until  # clock: only chooses the copy that is read first

    def _note_away(self) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS  # clock: likewise

    def ensure_bucket(self, effect: EnsureBucket) -> str:
        """Perform `EnsureBucket` in the first bucket."""
        return effect.perform(self.buckets[0])

    def read_bucket(self, effect: ReadBucket) -> BucketSettings | None:
        """Perform `ReadBucket` in the first bucket."""
        return effect.perform(self.buckets[0])

    def set_lifecycle(self, effect: SetLifecycle) -> bool:
        """Perform `SetLifecycle` in the first bucket."""
        return effect.perform(self.buckets[0])

    def close(self) -> None:
        """Release connections and threads. Idempotent."""
        for bucket in self.buckets:
            bucket.close()
        self._pools.get().close(0)
