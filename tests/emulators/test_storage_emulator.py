"""The Cloud Storage emulator is as strict as the service, seen through Google's client."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import google_crc32c
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.emulators.storage import StorageEmulator
from tests.patience import PATIENCE

NO_RETRY: dict[str, Any] = {"retry": None}
BIG = 12 * 1024 * 1024
UPLOAD = "/upload/storage/v1/b/{}/o?uploadType="


@pytest.fixture
def client(storage_emulator: str) -> Iterator[storage.Client]:
    client = storage.Client(
        project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": storage_emulator}
    )
    yield client
    client.close()


@pytest.fixture
def bucket(client: storage.Client, bucket_name: str) -> storage.Bucket:
    return client.bucket(bucket_name)


@pytest.fixture
def raw(storage_emulator: str) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(storage_emulator).netloc, timeout=PATIENCE)
    yield connection
    connection.close()


def ask(
    raw: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    raw.request(method, path, body, headers or {})
    response = raw.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def put(bucket: storage.Bucket, name: str, data: bytes, **options: Any) -> storage.Blob:
    blob = bucket.blob(name)
    blob.upload_from_string(data, **NO_RETRY, **options)
    return blob


def crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


# Objects


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n", b"a\r\n--b--\r\n", bytes(range(256)) * 3, b"\n" * 5, b"{}", b"\r", b"--==\r\n\r\n"],
    ids=repr,
)
def test_bytes_come_back_as_they_were(bucket: storage.Bucket, data: bytes) -> None:
    put(bucket, "x", data, content_type="application/json")
    assert bucket.blob("x").download_as_bytes(**NO_RETRY) == data


def test_parts_of_an_upload_may_end_in_bare_line_feeds(
    raw: http.client.HTTPConnection, bucket: storage.Bucket, bucket_name: str
) -> None:
    media = b"a\r\n\r\nb\n\nc"
    body = b'--x\nContent-Type: application/json\n\n{"name": "x"}\n--x\nContent-Type: text/plain\n\n%s\n--x--' % media
    headers = {"Content-Type": 'multipart/related; boundary="x"'}
    assert ask(raw, "POST", UPLOAD.format(bucket_name) + "multipart", body, headers)[0] == 200
    assert bucket.blob("x").download_as_bytes(**NO_RETRY) == media


@pytest.mark.parametrize(
    "name",
    ["a//b", "a/b", "/a", "a/", "a/../b", "a b+c%2F?#&=;", "ünï/日本", "o/x/copyTo/b/y/o/z", "x/acl", "a\\b", "~", "*"],
)
def test_every_name_is_an_object_of_its_own(bucket: storage.Bucket, name: str) -> None:
    for other in ("a//b", "a/b", "/a", "a/", "a/../b", "b"):
        put(bucket, other, b"other")
    put(bucket, name, name.encode())
    assert bucket.blob(name).download_as_bytes(**NO_RETRY) == name.encode()
    listed = {blob.name: blob for blob in bucket.list_blobs()}
    assert len(listed) == 6 + (name not in ("a//b", "a/b", "/a", "a/", "a/../b"))
    # Through the media link, as a listed object's download goes.
    assert listed[name].download_as_bytes(**NO_RETRY) == name.encode()


@pytest.mark.parametrize("name", ["x" * 1025, "é" * 513, ".", "..", "a\nb"])
def test_illegal_names_are_refused(bucket: storage.Bucket, name: str) -> None:
    with pytest.raises(exceptions.BadRequest):
        put(bucket, name, b"x")


def test_metadata(bucket: storage.Bucket) -> None:
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    blob = bucket.blob("a/b")
    blob.metadata = {"k": "v"}
    blob.upload_from_string(b"hello", content_type="text/plain", **NO_RETRY)
    seen = bucket.get_blob("a/b")
    assert (seen.size, seen.crc32c, seen.metageneration, seen.content_type) == (5, crc32c(b"hello"), 1, "text/plain")
    assert seen.metadata == {"k": "v"}
    assert seen.generation == blob.generation
    assert before < seen.time_created == seen.updated < datetime.now(timezone.utc) + timedelta(seconds=1)

    seen.metadata = {"k": "w"}
    seen.patch()
    patched = bucket.get_blob("a/b")
    assert (patched.generation, patched.metageneration) == (blob.generation, 2)
    assert patched.updated > patched.time_created == seen.time_created
    put(bucket, "a/b", b"again")
    assert bucket.get_blob("a/b").generation > blob.generation
    assert bucket.get_blob("a/b").metageneration == 1


def test_an_older_generation_is_gone(bucket: storage.Bucket) -> None:
    old = put(bucket, "x", b"old").generation
    put(bucket, "x", b"new")
    for call in (
        bucket.blob("x", generation=old).download_as_bytes,
        bucket.blob("x", generation=old).reload,
        bucket.blob("x", generation=old).delete,
    ):
        with pytest.raises(exceptions.NotFound, match="No such object"):
            call(**NO_RETRY)
    assert bucket.blob("x").download_as_bytes() == b"new"


def test_buckets(client: storage.Client, bucket_name: str) -> None:
    with pytest.raises(exceptions.Conflict):
        client.create_bucket(bucket_name)
    fresh = client.bucket(f"{bucket_name}-2")
    fresh.iam_configuration.uniform_bucket_level_access_enabled = True
    client.create_bucket(fresh, location="EU")
    seen = client.get_bucket(fresh.name)
    assert (seen.location, seen.metageneration) == ("EU", 1)
    assert seen.iam_configuration.uniform_bucket_level_access_enabled
    assert fresh.name in {bucket.name for bucket in client.list_buckets()}
    put(fresh, "x", b"x")
    with pytest.raises(exceptions.Conflict, match="not empty"):
        fresh.delete(**NO_RETRY)
    fresh.blob("x").delete()
    fresh.delete(**NO_RETRY)
    assert client.lookup_bucket(fresh.name) is None


RULE = {"action": {"type": "Delete"}, "condition": {"age": 3}}
ABORT = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 3}}


def test_lifecycle_rules_and_metageneration(client: storage.Client, bucket: storage.Bucket) -> None:
    bucket.reload()
    assert list(bucket.lifecycle_rules) == []
    bucket.lifecycle_rules = [RULE, ABORT]
    bucket.patch(if_metageneration_match=1, **NO_RETRY)
    seen = client.get_bucket(bucket.name)
    assert [dict(rule) for rule in seen.lifecycle_rules] == [RULE, ABORT]
    assert seen.metageneration == 2

    late = client.bucket(bucket.name)
    late.lifecycle_rules = [ABORT]
    for condition in ({"if_metageneration_match": 1}, {"if_metageneration_not_match": 2}):
        with pytest.raises(exceptions.PreconditionFailed):
            late.patch(**condition, **NO_RETRY)
    assert client.get_bucket(bucket.name).metageneration == 2

    late.labels = {"a": "b"}
    late.patch(if_metageneration_match=2, **NO_RETRY)
    late.clear_lifecycle_rules()
    late.patch(**NO_RETRY)
    seen = client.get_bucket(bucket.name)
    assert (list(seen.lifecycle_rules), seen.labels, seen.metageneration) == ([], {"a": "b"}, 4)
    assert "lifecycle" not in seen._properties


@pytest.mark.parametrize(
    "rules",
    [
        [{"action": {"type": "Compress"}, "condition": {"age": 3}}],
        [RULE, {"action": {"type": "Delete"}, "condition": {}}],
        [{"action": {"type": "SetStorageClass"}, "condition": {"age": 3}}],
        [ABORT | {"condition": {"age": 3, "matchesStorageClass": ["STANDARD"]}}],
        [RULE] * 101,
    ],
)
def test_lifecycle_rules_that_the_service_refuses(client: storage.Client, bucket: storage.Bucket, rules: Any) -> None:
    bucket.lifecycle_rules = rules
    with pytest.raises(exceptions.BadRequest):
        bucket.patch(**NO_RETRY)
    fresh = client.bucket(f"{bucket.name}-2")
    fresh.lifecycle_rules = rules
    with pytest.raises(exceptions.BadRequest):
        client.create_bucket(fresh, retry=None)
    assert client.lookup_bucket(fresh.name) is None
    assert client.get_bucket(bucket.name).metageneration == 1


# What is missing


def test_missing_object_and_missing_bucket_differ(client: storage.Client, bucket: storage.Bucket) -> None:
    def calls(bucket: storage.Bucket) -> list[Any]:
        blob = bucket.blob("a/b")
        return [blob.download_as_bytes, blob.reload, blob.delete, lambda **options: blob.rewrite(blob, **options)]

    for call in calls(bucket):
        with pytest.raises(exceptions.NotFound, match=re.escape(f"No such object: {bucket.name}/a/b")):
            call(**NO_RETRY)
    nowhere = client.bucket(f"{bucket.name}-none")
    uploads = [lambda size=size, **_: put(nowhere, "x", bytes(size)) for size in (10, BIG)]
    for call in [*calls(nowhere), *uploads, nowhere.reload, nowhere.delete, lambda **_: list(nowhere.list_blobs())]:
        with pytest.raises(exceptions.NotFound, match=re.escape("The specified bucket does not exist.")):
            call(**NO_RETRY)
    put(bucket, "x", b"x")
    with pytest.raises(exceptions.NotFound, match=re.escape("The specified bucket does not exist.")):
        bucket.copy_blob(bucket.blob("x"), nowhere, "y", **NO_RETRY)


# Preconditions


@pytest.mark.parametrize("size", [10, BIG], ids=["multipart", "resumable"])
def test_upload_preconditions(bucket: storage.Bucket, size: int) -> None:
    data = os.urandom(size)
    for refused in (
        {"if_generation_match": 7},
        {"if_generation_not_match": 0},
        {"if_metageneration_match": 1},
    ):
        with pytest.raises(exceptions.PreconditionFailed):
            put(bucket, "x", data, **refused)
    first = put(bucket, "x", data, if_generation_match=0)
    for refused in (
        {"if_generation_match": 0},
        {"if_generation_match": first.generation - 1},
        {"if_generation_not_match": first.generation},
        {"if_metageneration_match": 2},
    ):
        with pytest.raises(exceptions.PreconditionFailed):
            put(bucket, "x", b"other" + data, **refused)
    assert bucket.blob("x").download_as_bytes() == data
    put(bucket, "x", data[::-1], if_generation_match=first.generation, if_metageneration_match=1)
    assert bucket.blob("x").download_as_bytes() == data[::-1]


def test_media_upload_preconditions(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    path = UPLOAD.format(bucket.name) + "media&name=a%2Fb&ifGenerationMatch=0"
    status, _, body = ask(raw, "POST", path, b"first", {"Content-Type": "application/json"})
    assert (status, json.loads(body)["name"]) == (200, "a/b")
    status, _, body = ask(raw, "POST", path, b"second")
    assert (status, json.loads(body)["error"]["errors"][0]["reason"]) == (412, "conditionNotMet")
    path = UPLOAD.format(bucket.name) + "media&name=a%2Fb&ifMetagenerationNotMatch="
    assert ask(raw, "POST", path + "1", b"second")[0] == 412
    assert bucket.blob("a/b").download_as_bytes() == b"first"
    assert ask(raw, "POST", path + "2", b"second")[0] == 200
    assert ask(raw, "POST", path + "x", b"third")[0] == 400
    # Not the service's name of it: refused, not ignored.
    assert ask(raw, "POST", path.replace("Meta", "META") + "2", b"third")[0] == 501
    assert bucket.blob("a/b").download_as_bytes() == b"second"


@pytest.mark.parametrize("size", [10, 9 * 1024 * 1024], ids=["multipart", "resumable"])
def test_one_of_eight_racing_creates_wins(bucket: storage.Bucket, size: int) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        data = bytes([number]) * size
        barrier.wait(PATIENCE)
        try:
            put(bucket, "race", data, if_generation_match=0)
        except exceptions.PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert bucket.blob("race").download_as_bytes() == bytes([won.index(True)]) * size


def test_a_create_that_comes_between_fails_a_resumable_upload(
    raw: http.client.HTTPConnection, bucket: storage.Bucket
) -> None:
    path = UPLOAD.format(bucket.name) + "resumable&name=x&ifGenerationMatch=0"
    _, headers, _ = ask(raw, "POST", path)
    put(bucket, "x", b"between")
    status, _, _ = ask(raw, "PUT", headers["Location"], b"late", {"Content-Range": "bytes 0-3/4"})
    assert status == 412
    assert bucket.blob("x").download_as_bytes() == b"between"


def test_get_preconditions(bucket: storage.Bucket) -> None:
    generation = put(bucket, "x", b"data").generation
    blob = bucket.blob("x")
    for call in (blob.download_as_bytes, blob.reload):
        call(if_generation_match=generation, if_metageneration_match=1, if_generation_not_match=1, **NO_RETRY)
        for refused in ({"if_generation_match": 1}, {"if_metageneration_match": 2}, {"if_generation_match": 0}):
            with pytest.raises(exceptions.PreconditionFailed):
                call(**refused, **NO_RETRY)
        for unchanged in ({"if_generation_not_match": generation}, {"if_metageneration_not_match": 1}):
            with pytest.raises(exceptions.NotModified):
                call(**unchanged, **NO_RETRY)


def test_delete_and_patch_preconditions(bucket: storage.Bucket) -> None:
    generation = put(bucket, "x", b"data").generation
    blob = bucket.blob("x")
    for refused in (
        {"if_generation_match": generation + 1},
        {"if_generation_not_match": generation},
        {"if_metageneration_match": 2},
        {"if_metageneration_not_match": 1},
    ):
        for call in (blob.delete, blob.patch):
            with pytest.raises(exceptions.PreconditionFailed):
                call(**refused, **NO_RETRY)
    blob.delete(if_generation_match=generation, if_metageneration_match=1, **NO_RETRY)
    assert not blob.exists()


def test_copy_and_rewrite_preconditions(bucket: storage.Bucket) -> None:
    source = put(bucket, "a/source", os.urandom(1000))
    there = put(bucket, "there", b"old")

    def copy(name: str, **conditions: int) -> None:
        bucket.copy_blob(bucket.blob("a/source"), bucket, name, **conditions, **NO_RETRY)

    def rewrite(name: str, **conditions: int) -> None:
        token, done, total = bucket.blob(name).rewrite(bucket.blob("a/source"), **conditions, **NO_RETRY)
        assert (token, done, total) == (None, 1000, 1000)

    for number, call in enumerate((copy, rewrite)):
        for name, refused in (
            ("there", {"if_generation_match": 0}),
            ("there", {"if_metageneration_match": 2}),
            ("new", {"if_generation_match": there.generation}),
            ("new", {"if_source_generation_match": there.generation}),
            ("new", {"if_source_generation_not_match": source.generation}),
            ("new", {"if_source_metageneration_match": 2}),
        ):
            with pytest.raises(exceptions.PreconditionFailed):
                call(name, **refused)
        assert bucket.blob("there").download_as_bytes() == b"old"
        assert not bucket.blob("new").exists()
        call(f"to/{number}", if_generation_match=0, if_source_generation_match=source.generation)
        copied = bucket.get_blob(f"to/{number}")
        assert (copied.crc32c, copied.metageneration) == (source.crc32c, 1)
        assert copied.generation > source.generation
        assert copied.download_as_bytes() == bucket.blob("a/source").download_as_bytes()


def test_bucket_preconditions(client: storage.Client, bucket_name: str) -> None:
    bucket = client.get_bucket(bucket_name)
    for call in (bucket.reload, bucket.patch):
        with pytest.raises(exceptions.PreconditionFailed):
            call(if_metageneration_match=9, **NO_RETRY)
    bucket.reload(if_metageneration_match=1, **NO_RETRY)


# Lists


NAMES = sorted(["a/1", "a/2", "a/b/3", "a/b/4", "a/c/5", "b", "b/1", "c", "é", "日", "\U0001f600"])


@pytest.fixture
def filled(bucket: storage.Bucket) -> storage.Bucket:
    for name in reversed(NAMES):
        put(bucket, name, b"x")
    return bucket


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("options", "names", "prefixes"),
    [
        ({}, NAMES, set()),
        ({"prefix": "a/"}, NAMES[:5], set()),
        ({"prefix": "none"}, [], set()),
        ({"start_offset": "a/2", "end_offset": "b/1"}, ["a/2", "a/b/3", "a/b/4", "a/c/5", "b"], set()),
        ({"prefix": "a/", "start_offset": "a/b/4"}, ["a/b/4", "a/c/5"], set()),
        ({"delimiter": "/"}, ["b", "c", "é", "日", "\U0001f600"], {"a/", "b/"}),
        ({"delimiter": "/", "prefix": "a/"}, ["a/1", "a/2"], {"a/b/", "a/c/"}),
        ({"delimiter": "/", "prefix": "a/", "start_offset": "a/b/9"}, [], {"a/c/"}),
    ],
)
def test_lists(
    filled: storage.Bucket, size: int, options: dict[str, str], names: list[str], prefixes: set[str]
) -> None:
    iterator = filled.list_blobs(page_size=size, **options)
    pages = [[blob.name for blob in page] for page in iterator.pages]
    assert [name for page in pages for name in page] == names
    assert iterator.prefixes == prefixes
    assert max(map(len, pages)) <= size
    assert iterator.page_number == max(1, -(-(len(names) + len(prefixes)) // size))


def test_max_results_and_page_tokens(filled: storage.Bucket) -> None:
    assert [blob.name for blob in filled.list_blobs(max_results=2)] == NAMES[:2]
    first = filled.list_blobs(page_size=4)
    next(first.pages)
    filled.blob(NAMES[3]).delete()  # the last of that page
    put(filled, "a/1/new", b"x")  # before it
    assert [blob.name for blob in filled.list_blobs(page_token=first.next_page_token)] == NAMES[4:]
    with pytest.raises(exceptions.BadRequest):
        list(filled.list_blobs(page_token="?"))


def test_a_page_holds_at_most_a_thousand(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    for number in range(1001):
        assert ask(raw, "POST", UPLOAD.format(bucket.name) + f"media&name={number:04}", b"x")[0] == 200
    listed = json.loads(ask(raw, "GET", f"/storage/v1/b/{bucket.name}/o?maxResults=5000")[2])
    assert len(listed["items"]) == 1000
    assert [blob.name for blob in bucket.list_blobs()] == [f"{number:04}" for number in range(1001)]


# Ranges


def test_ranges(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    data = bytes(range(100))
    put(bucket, "a/x", data)
    assert bucket.blob("a/x").download_as_bytes(start=10, end=19) == data[10:20]
    assert bucket.blob("a/x").download_as_bytes(start=90) == data[90:]
    assert bucket.blob("a/x").download_as_bytes(start=-5) == data[-5:]
    path = f"/download/storage/v1/b/{bucket.name}/o/{quote('a/x', safe='')}?alt=media"
    for asked, span, want in (
        ("bytes=0-0", "bytes 0-0/100", data[:1]),
        ("bytes=98-1000", "bytes 98-99/100", data[98:]),
        ("bytes=-1", "bytes 99-99/100", data[99:]),
        ("bytes=-1000", "bytes 0-99/100", data),
    ):
        status, headers, body = ask(raw, "GET", path, headers={"Range": asked})
        assert (status, headers["Content-Range"], body) == (206, span, want)
        assert headers["X-Goog-Hash"].startswith(f"crc32c={crc32c(data)},")
    for asked in ("bytes=100-", "bytes=100-200", "bytes=-0"):
        status, headers, _ = ask(raw, "GET", path, headers={"Range": asked})
        assert (status, headers["Content-Range"]) == (416, "bytes */100")
    for ignored in ("bytes=5-4", "lines=1-2", "bytes=1-2,4-5", "bytes=-"):
        status, _, body = ask(raw, "GET", path, headers={"Range": ignored})
        assert (status, body) == (200, data)
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        bucket.blob("a/x").download_as_bytes(start=100, **NO_RETRY)


def test_a_range_of_an_empty_object(bucket: storage.Bucket) -> None:
    put(bucket, "empty", b"")
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        bucket.blob("empty").download_as_bytes(start=0, end=3, **NO_RETRY)


# Checksums


@pytest.mark.parametrize("size", [10, BIG], ids=["multipart", "resumable"])
@pytest.mark.parametrize("field", ["crc32c", "md5_hash"])
def test_a_wrong_checksum_in_the_metadata_is_refused(bucket: storage.Bucket, size: int, field: str) -> None:
    data = os.urandom(size)
    right = put(bucket, "right", data)
    wrong = put(bucket, "wrong", data[::-1])
    blob = bucket.blob("x")
    setattr(blob, field, getattr(wrong, field))
    with pytest.raises(exceptions.BadRequest, match="doesn't match"):
        blob.upload_from_string(data, checksum=None, **NO_RETRY)
    assert not bucket.blob("x").exists()
    setattr(blob, field, getattr(right, field))
    blob.upload_from_string(data, checksum=None, **NO_RETRY)
    assert bucket.blob("x").download_as_bytes() == data


def test_a_wrong_checksum_in_a_header_is_refused(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    media = UPLOAD.format(bucket.name) + "media&name=x"
    _, session, _ = ask(raw, "POST", UPLOAD.format(bucket.name) + "resumable&name=x")
    calls = [("POST", media, {}), ("PUT", session["Location"], {"Content-Range": "bytes 0-3/4"})]
    for method, path, headers in calls:
        for wrong in (
            {"X-Goog-Hash": f"crc32c={crc32c(b'other')}"},
            {"X-Goog-Hash": f"crc32c={crc32c(b'data')},md5={base64.b64encode(bytes(16)).decode()}"},
            {"Content-MD5": base64.b64encode(bytes(16)).decode()},
        ):
            assert ask(raw, method, path, b"data", {**headers, **wrong})[0] == 400
            assert not bucket.blob("x").exists()
    assert ask(raw, "POST", media, b"data", {"X-Goog-Hash": f"crc32c={crc32c(b'data')}"})[0] == 200


# Resumable uploads


def test_resumable_upload_in_several_pieces(bucket: storage.Bucket) -> None:
    data = os.urandom(BIG + 5)
    blob = bucket.blob("big", chunk_size=5 * 1024 * 1024)
    blob.upload_from_string(data, if_generation_match=0, checksum="crc32c", **NO_RETRY)
    assert (blob.size, blob.crc32c, blob.metageneration) == (BIG + 5, crc32c(data), 1)
    assert bucket.blob("big").download_as_bytes() == data


def test_resumable_upload_whose_answers_are_lost(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    data = os.urandom(300)
    _, headers, _ = ask(raw, "POST", UPLOAD.format(bucket.name) + "resumable&name=x&ifGenerationMatch=0")
    session = headers["Location"]
    status, headers, _ = ask(raw, "PUT", session, headers={"Content-Range": "bytes */*"})
    assert (status, "Range" in headers) == (308, False)
    for _ in range(2):
        status, headers, _ = ask(raw, "PUT", session, data[:200], {"Content-Range": "bytes 0-199/300"})
        assert (status, headers["Range"]) == (308, "bytes=0-199")
    answers = [ask(raw, "PUT", session, data[200:], {"Content-Range": "bytes 200-299/300"}) for _ in range(2)]
    answers.append(ask(raw, "PUT", session, headers={"Content-Range": "bytes */300"}))
    assert {status for status, _, _ in answers} == {200}
    assert len({json.loads(body)["generation"] for _, _, body in answers}) == 1
    assert bucket.blob("x").download_as_bytes() == data
    assert ask(raw, "PUT", session.replace("upload_id=", "upload_id=no"), data)[0] == 404


# Batches


def test_batch_of_deletes(client: storage.Client, bucket: storage.Bucket) -> None:
    names = [f"a/{number}" for number in range(100)]
    for name in names:
        put(bucket, name, b"x")
    with client.batch():
        for name in names:
            bucket.blob(name).delete()
    assert not list(bucket.list_blobs())


def test_batch_with_missing_objects_and_preconditions(client: storage.Client, bucket: storage.Bucket) -> None:
    kept, gone = put(bucket, "kept", b"x"), put(bucket, "gone/a b", b"x")
    batch = client.batch(raise_exception=False)
    with batch:
        bucket.blob("kept").delete(if_generation_match=kept.generation + 1)
        bucket.blob("missing").delete()
        bucket.blob(gone.name).delete(if_generation_match=gone.generation)
        client.bucket("nowhere-at-all").blob("x").delete()
    assert [response.status_code for response in batch._responses] == [412, 404, 204, 404]
    assert batch._responses[1].json()["error"]["message"] == f"No such object: {bucket.name}/missing"
    assert batch._responses[3].json()["error"]["message"] == "The specified bucket does not exist."
    assert [blob.name for blob in bucket.list_blobs()] == ["kept"]
    with pytest.raises(exceptions.NotFound), client.batch():
        bucket.blob("missing").delete()


def test_a_batch_of_more_than_a_hundred_is_refused(client: storage.Client, bucket: storage.Bucket) -> None:
    put(bucket, "0", b"x")
    batch = client.batch()
    client._push_batch(batch)
    for number in range(101):
        bucket.blob(str(number)).delete()
    client._pop_batch()
    with pytest.raises(exceptions.BadRequest):
        batch.finish()
    assert bucket.blob("0").exists()


# The server


def test_a_refused_body_leaves_the_connection_usable(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    refused = UPLOAD.format("no-such-bucket") + "media&name=x"
    assert ask(raw, "GET", "/")[0] == 200
    socket = raw.sock
    assert ask(raw, "POST", refused, b"DELETE / HTTP/1.1\r\n\r\n" * 1000)[0] == 404
    assert ask(raw, "POST", "/nowhere", b"x" * 100_000)[0] == 501
    assert ask(raw, "GET", "/", b"a body that nobody wants")[0] == 200
    assert ask(raw, "POST", UPLOAD.format(bucket.name) + "media&name=x", b"data")[0] == 200
    assert raw.sock is socket


def test_chunked_bodies(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    raw.request("POST", UPLOAD.format(bucket.name) + "media&name=x", iter([b"one", b"two"]), encode_chunked=True)
    assert json.loads(raw.getresponse().read())["size"] == "6"
    assert bucket.blob("x").download_as_bytes() == b"onetwo"


def test_a_client_that_dies_half_way_leaves_no_object(
    storage_emulator: str, raw: http.client.HTTPConnection, bucket: storage.Bucket
) -> None:
    raw.putrequest("POST", UPLOAD.format(bucket.name) + "media&name=x")
    raw.putheader("Content-Length", "1000")
    raw.endheaders(b"half of it")
    raw.sock.shutdown(1)
    assert raw.sock.recv(1) == b""  # the server has given it up
    assert not bucket.blob("x").exists()


def test_a_slow_upload_does_not_hold_up_others(raw: http.client.HTTPConnection, bucket: storage.Bucket) -> None:
    raw.putrequest("POST", UPLOAD.format(bucket.name) + "media&name=slow")
    raw.putheader("Content-Length", "8")
    raw.endheaders(b"half")
    put(bucket, "fast", b"x", timeout=PATIENCE)
    assert [blob.name for blob in bucket.list_blobs()] == ["fast"]
    raw.send(b"half")
    assert raw.getresponse().status == 200


# Its process


def test_kill_and_start_on_the_same_port(tmp_path: Path) -> None:
    emulator = StorageEmulator(tmp_path / "log")
    with emulator:
        first, url, port = emulator.pid, emulator.url, emulator.port
        with pytest.raises(RuntimeError, match="running already"):
            emulator.start()
        emulator.kill()
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        with pytest.raises(RuntimeError, match="not running"):
            _ = emulator.pid
        emulator.start(port)
        assert (emulator.url, emulator.pid == first) == (url, False)
    emulator.stop()  # once more: nothing to do
    assert emulator.log_path.read_text().splitlines().count(str(port)) == 2


def test_a_port_that_somebody_else_has(tmp_path: Path, storage_emulator: str) -> None:
    # A server answers there, and well. It is just not the one that was started.
    port = urlsplit(storage_emulator).port
    emulator = StorageEmulator(tmp_path / "log")
    with pytest.raises(RuntimeError, match="already in use"):
        emulator.start(port)
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.pid


def test_the_server_by_hand_prints_its_port() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.emulators.storage_server", "--port", "0"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline()), timeout=PATIENCE)
        try:
            assert ask(connection, "GET", "/")[2] == b"OK"
        finally:
            connection.close()
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130
