"""Objects in two stores at the same time: the contract, and what happens if the two are not alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from langgraph_gcs_saver.engine.effects import (
    DIFFERENT,
    CopyBlob,
    DeleteBlobs,
    GetBlob,
    HashBlob,
    InBucket,
    ListBlobs,
    PutBlob,
)
from langgraph_gcs_saver.engine.pieces import Pieces, crc32c
from langgraph_gcs_saver.engine.protocols import BlobStore
from langgraph_gcs_saver.errors import PermissionDeniedError, StoreError, StoreNotFoundError, StoreUnavailableError
from langgraph_gcs_saver.events import ReadFromMirror
from langgraph_gcs_saver.stores import mirrored
from langgraph_gcs_saver.stores.memory import MemoryBlobs
from langgraph_gcs_saver.stores.mirrored import MirroredBlobs
from langgraph_gcs_saver.testing.contract import BlobContract
from tests.patience import PATIENCE


class Bucket(MemoryBlobs):
    """A bucket that may be away, and counts its reads."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.reads = 0

    def get_blob(self, effect: GetBlob) -> bytes | None:
        self.reads += 1
        return super().get_blob(effect)

    def _refuse(self) -> None:
        super()._refuse()
        if self.error is not None:
            raise self.error


class Both(MirroredBlobs):
    """Two buckets, and the events of reads."""

    def __init__(self) -> None:
        self.first, self.mirror = Bucket(), Bucket()
        self.events: list[ReadFromMirror] = []
        super().__init__(self.first, self.mirror, max_threads=4, on_read=self.events.append)

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events]


@pytest.fixture
def blobs() -> Iterator[Both]:
    with closing(Both()) as blobs:
        yield blobs


class TestMirrored(BlobContract):
    """The fixture is that of this module."""

    def test_race_for_one_blob(self, blobs: BlobStore) -> None:
        """Of different contents under one name, none may win, and all writers learn it. Names are never used twice."""

        def stored(data: bytes) -> bool:
            try:
                put(blobs, "t/different", data)
            except StoreError:
                return False
            return True

        datas = [bytes([number]) * 100_000 for number in range(8)]
        with ThreadPoolExecutor(8) as threads:
            wins = list(threads.map(stored, datas))
        assert sum(wins) <= 1
        if any(wins):
            assert blobs.get_blob(GetBlob("t/different")) == datas[wins.index(True)]


AWAY = StoreUnavailableError("away")


def put(bucket: Any, name: str, data: bytes = b"data") -> None:
    bucket.put_blob(PutBlob(name, data))


def names(blobs: Any, **options: Any) -> list[str]:
    return [info.name for info in blobs.list_blobs(ListBlobs("t/", **options))]


def test_uploads_are_under_way_at_the_same_time(blobs: Both) -> None:
    """Each waits for the other, in pieces that each of them makes for itself."""
    meeting = threading.Barrier(2)

    def make() -> Iterator[bytes]:
        meeting.wait(PATIENCE)
        yield from (b"one", b"two")

    data = Pieces(make, hashed=True)
    blobs.put_blob(PutBlob("t/a", data))
    assert blobs.first.objects["t/a"][0] == blobs.mirror.objects["t/a"][0] == b"onetwo"
    assert data.crc32c == crc32c(b"onetwo")


@pytest.mark.parametrize("side", [0, 1])
def test_an_upload_needs_both(blobs: Both, side: int) -> None:
    bucket: Any = blobs.buckets[side]
    bucket.error = AWAY
    with pytest.raises(StoreUnavailableError):
        put(blobs, "t/a")
    bucket.error = None
    put(blobs, "t/a")
    assert [list(one.objects) for one in (blobs.first, blobs.mirror)] == [["t/a"]] * 2


def test_other_content_in_one_bucket_is_an_error(blobs: Both) -> None:
    put(blobs.mirror, "t/a", b"other")
    with pytest.raises(StoreError, match="other content"):
        put(blobs, "t/a")


def test_a_hash_proves_both(blobs: Both) -> None:
    put(blobs, "t/a")
    put(blobs.first, "t/first")
    put(blobs.mirror, "t/mirror")
    put(blobs.first, "t/unlike", b"1")
    put(blobs.mirror, "t/unlike", b"2")
    hashes = {name: blobs.hash_blob(HashBlob(f"t/{name}")) for name in ("a", "first", "mirror", "unlike", "none")}
    assert hashes.pop("a") == blobs.first.hash_blob(HashBlob("t/a"))
    assert hashes.pop("unlike") == DIFFERENT
    assert set(hashes.values()) == {None}


@pytest.mark.parametrize("side", [0, 1])
def test_a_copy_is_in_both(blobs: Both, side: int) -> None:
    put(blobs.buckets[side], "t/a")
    assert blobs.copy_blob(CopyBlob("t/a", "t/b"))
    assert blobs.first.objects["t/b"][0] == blobs.mirror.objects["t/b"][0] == b"data"
    assert not blobs.copy_blob(CopyBlob("t/none", "t/c"))


def test_listings_have_the_objects_of_either(blobs: Both) -> None:
    for number in range(9):
        bucket = (blobs, blobs.first, blobs.mirror)[number % 3]
        put(bucket, f"t/{number}")
    pages = []
    after: str | None = None
    while page := names(blobs, after=after, limit=2):
        pages.append(page)
        after = page[-1]
    assert [name for page in pages for name in page] == [f"t/{number}" for number in range(9)]
    assert {len(page) for page in pages[:-1]} == {2}
    blobs.first.objects["t/0"] = (b"data", 10)
    blobs.mirror.objects["t/0"] = (b"other data", 20)
    (info,) = blobs.list_blobs(ListBlobs("t/0"))
    assert (info.size, info.create_time) == (4, 20)


def test_deletions_go_to_both(blobs: Both) -> None:
    put(blobs, "t/a")
    put(blobs.mirror, "t/b")
    blobs.delete_blobs(DeleteBlobs(("t/a", "t/b")))
    assert names(blobs) == []
    blobs.mirror.error = AWAY
    with pytest.raises(StoreUnavailableError):
        blobs.delete_blobs(DeleteBlobs(("t/a",)))


# Reads


@pytest.mark.parametrize("error", [AWAY, StoreNotFoundError("no bucket")])
def test_a_read_falls_back(blobs: Both, error: Exception) -> None:
    put(blobs, "t/a")
    assert blobs.get_blob(GetBlob("t/a")) == b"data"
    assert blobs.events == []
    blobs.first.error = error
    assert blobs.get_blob(GetBlob("t/a", 1, 2)) == b"at"
    assert blobs.reasons == ["unavailable"]
    reads = blobs.first.reads
    assert blobs.get_blob(GetBlob("t/a")) == b"data"
    assert blobs.first.reads == reads, "a bucket that is away is not asked for a while"


def test_a_bucket_is_asked_again(blobs: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrored, "AWAY_SECONDS", 0.0)
    put(blobs, "t/a")
    blobs.first.error = AWAY
    assert blobs.get_blob(GetBlob("t/a")) == b"data"
    blobs.first.error = None
    assert blobs.get_blob(GetBlob("t/a")) == b"data"
    assert blobs.reasons == ["unavailable"]


def test_an_object_that_the_mirror_lacks_is_read_from_a_bucket_that_was_away(blobs: Both) -> None:
    put(blobs.first, "t/a")
    blobs.first.error = AWAY
    with pytest.raises(StoreUnavailableError):
        blobs.get_blob(GetBlob("t/a"))
    blobs.first.error = None
    assert blobs.get_blob(GetBlob("t/a")) == b"data"
    assert blobs.events == []


def test_missing_and_corrupt_objects_are_read_from_the_mirror(blobs: Both) -> None:
    put(blobs.mirror, "t/a")
    assert blobs.get_blob(GetBlob("t/a")) == b"data"
    put(blobs.first, "t/a", b"dada")
    assert blobs.get_blob(GetBlob("t/a", crc32c=crc32c(b"data"))) == b"data"
    assert blobs.get_blob(GetBlob("t/a")) == b"dada", "without a checksum nothing shows that it is corrupt"
    assert blobs.reasons == ["missing", "corrupt"]
    assert blobs.get_blob(GetBlob("t/a", crc32c=crc32c(b"gone"))) == b"dada", "the caller reports what is wrong"
    assert blobs.get_blob(GetBlob("t/none")) is None


def test_nothing_is_missing_while_a_bucket_cannot_be_asked(blobs: Both) -> None:
    """Otherwise a read would take a checkpoint for damaged, and return an older one."""
    for one in (blobs.mirror, blobs.first):
        one.error = AWAY
        with pytest.raises(StoreUnavailableError):
            blobs.get_blob(GetBlob("t/a"))
        one.error = None
    put(blobs.first, "t/b", b"corrupt")
    blobs.mirror.error = AWAY
    with pytest.raises(StoreUnavailableError):
        blobs.get_blob(GetBlob("t/b", crc32c=crc32c(b"right")))


def test_a_missing_permission_is_an_error(blobs: Both) -> None:
    put(blobs, "t/a")
    blobs.first.error = PermissionDeniedError("no")
    with pytest.raises(PermissionDeniedError):
        blobs.get_blob(GetBlob("t/a"))


def test_one_bucket_can_be_asked(blobs: Both) -> None:
    put(blobs.mirror, "t/a")
    assert InBucket(GetBlob("t/a"), mirror=True).perform(blobs) == b"data"
    assert InBucket(GetBlob("t/a"), mirror=False).perform(blobs) is None
    assert InBucket(GetBlob("t/a"), mirror=True).perform(blobs.mirror) is None, "it has no mirror of its own"
