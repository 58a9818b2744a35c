"""Objects in Cloud Storage, with the synchronous google-cloud-storage client (it has no asynchronous one).

The client's own retries are off. Its defaults retry for 120 s, and each attempt on a server that never answers takes
60 s. Here one call, with all its attempts, ends at the deadline. A forked process does not touch the inherited client,
because the sockets are the parent's. It creates a new client with the same credentials, project and address.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NoReturn, TypeVar

import requests
import urllib3
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud.storage.batch import Batch
from google.cloud.storage.bucket import Bucket
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from requests.adapters import HTTPAdapter

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    BucketSettings,
    CopyBlob,
    DeleteBlobs,
    Effect,
    EnsureBucket,
    GetBlob,
    HashBlob,
    ListBlobs,
    PutBlob,
    ReadBucket,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.errors import (
    InvalidOptionError,
    PermissionDeniedError,
    SaverClosedError,
    StoreError,
    StoreNotFoundError,
)
from langgraph_gcs_saver.stores.google import private
from langgraph_gcs_saver.stores.google.retry import OnRetry, Patience, TryAgain

T = TypeVar("T")

_NO_BUCKET = "bucket does not exist"
_error_of: Any = exceptions.from_http_response
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_CHUNK_BYTES = 8 << 20
"""Size of a request of an upload in pieces. The service recommends at least as much.

Fewer bytes than that are sent in one request (https://cloud.google.com/storage/docs/resumable-uploads).
"""


_TRANSIENT = (
    exceptions.TooManyRequests,
    exceptions.ServerError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    auth_exceptions.TransportError,
    auth_exceptions.TimeoutError,
    DataCorruption,
    ConnectionError,
    TimeoutError,
)
_FAILURES = (
    *_TRANSIENT,
    InvalidResponse,
    exceptions.GoogleAPICallError,
    auth_exceptions.GoogleAuthError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
)


@dataclass
class _Process:
    """The bucket of one process, with its client. A forked child starts with a new object."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    bucket: Any = None


class GCSBlobs:
    """A `BlobStore` in a bucket. Safe to call from many threads at once.

    Args:
        bucket: The bucket. Its client's session gets a connection pool of `max_connections`.
        prefix: Objects are named `{prefix}/{name}`; empty for the top of the bucket.
        timeout: Seconds that one call may take, with all its attempts. A transfer that stalls is interrupted. A slow
            transfer that makes progress is not.
        read_timeout: The same for reading an object, if that is less because another bucket has it too.
        max_connections: Connections to keep for reuse, which is the number of threads that call at the same time.
        on_retry: Called before each further attempt of a request.

    Raises:
        InvalidOptionError: `prefix` begins or ends with a slash, or a number is not positive.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        prefix: str,
        timeout: float = 30.0,
        read_timeout: float | None = None,
        max_connections: int = 16,
        on_retry: OnRetry | None = None,
    ) -> None:
        if prefix != prefix.strip("/"):
            raise InvalidOptionError(f"prefix={prefix!r} must not begin or end with a slash.")
        if not timeout > 0:
            raise InvalidOptionError(f"timeout={timeout!r} must be a positive number of seconds.")
        if max_connections < 1:
            raise InvalidOptionError(f"max_connections={max_connections!r} must be at least 1.")
        self._given = bucket
        self._name: str = bucket.name
        self._prefix = f"{prefix}/" if prefix else ""
        self._timeout = timeout
        self._read_timeout = timeout if read_timeout is None else read_timeout
        self._max_connections = max_connections
        self.on_retry = on_retry
        self._closed = False
        self._batches = True
        self._processes = PerProcess(_Process)
        self._where = f"Cloud Storage ({private.api_address(bucket.client)}, bucket {bucket.name!r})"

    # The effects

    def put_blob(self, effect: PutBlob) -> None:
        """Perform `PutBlob`."""
        size = "" if isinstance(effect.data, Pieces) else f" of {effect.size:,} bytes"
        self._call(effect, f"to store the object {effect.name!r}{size}", partial(self._put, effect))

    def get_blob(self, effect: GetBlob) -> bytes | None:
        """Perform `GetBlob`. A range that begins after the end is empty."""
        what = f"to read the object {effect.name!r}"
        return self._call(effect, what, partial(self._get, effect), seconds=self._read_timeout)

    def hash_blob(self, effect: HashBlob) -> str | None:
        """Perform `HashBlob`."""
        return self._call(effect, f"to read the object {effect.name!r} back", partial(self._hash, effect))

    def copy_blob(self, effect: CopyBlob) -> bool:
        """Perform `CopyBlob`."""
        return self._call(effect, f"to copy the object {effect.name!r}", partial(self._copy, effect))

    def list_blobs(self, effect: ListBlobs) -> list[BlobInfo]:
        """Perform `ListBlobs`."""
        if effect.limit < 1:
            return []
        return self._call(effect, f"to list the objects {effect.prefix!r}…", partial(self._list, effect))

    def delete_blobs(self, effect: DeleteBlobs) -> None:
        """Perform `DeleteBlobs`."""
        for first in range(0, len(effect.names), limits.BATCH_CALLS):
            names = effect.names[first : first + limits.BATCH_CALLS]
            self._call(effect, f"to delete {len(names)} objects", partial(self._delete, names))

    def ensure_bucket(self, effect: EnsureBucket) -> str:
        """Perform `EnsureBucket`. The answer also says whether the bucket keeps (and bills) deleted objects."""
        role = "roles/storage.admin (or, for a bucket that exists, roles/storage.objectUser)"
        return self._call(effect, "to look at the bucket or to create it", partial(self._ensure, effect), role)

    def read_bucket(self, effect: ReadBucket) -> BucketSettings:
        """Perform `ReadBucket`."""
        return self._call(effect, "to look at the bucket", self._read_bucket)

    def set_lifecycle(self, effect: SetLifecycle) -> bool:
        """Perform `SetLifecycle`. Rules of kinds that this library does not know stay as they are."""
        what = f"to set the bucket's {len(effect.rules)} lifecycle rules"
        return self._call(effect, what, partial(self._set_lifecycle, effect), "roles/storage.admin")

    # One attempt each

    def _put(self, effect: PutBlob, timeout: float) -> None:
        stream, size = _opened(effect)
        chunk = _CHUNK_BYTES if size is None else None
        blob = self._bucket().blob(self._prefix + effect.name, chunk_size=chunk)
        if effect.checked and size is not None:
            blob.crc32c = effect.crc32c()  # sent as metadata, so that the service rejects bytes that do not match
        try:
            blob.upload_from_file(
                stream,
                size=size,
                content_type="application/octet-stream",
                if_generation_match=0,
                checksum=None,
                timeout=timeout,
                retry=None,
            )
        except exceptions.ClientError as error:
            # If the service loses the session of a large upload, the client must start over
            # (https://cloud.google.com/storage/docs/resumable-uploads).
            if error.code in {404, 410} and "upload_id=" in str(error) and _NO_BUCKET not in str(error):
                raise TryAgain("the upload's session is gone") from error
            if not isinstance(error, exceptions.PreconditionFailed):
                raise
            # An earlier attempt, of this call or another one, may have stored the object and lost the answer.
            found = self._bucket().get_blob(blob.name, timeout=timeout, retry=None)
            if found is None:
                raise TryAgain("the object existed and is gone") from error
            if isinstance(effect.data, Pieces):
                effect.data.measure()
            if (found.crc32c, _size(found)) != (effect.crc32c(), effect.size):
                raise StoreError(
                    f"{self._where}: the object {effect.name!r} already exists with other content and was left as it "
                    "is. Two writers used the same name."
                ) from error
        except ValueError as error:
            if size is not None:
                raise
            raise TryAgain("the service has kept only a part of a request") from error
        if effect.checked and size is None and blob.crc32c != effect.crc32c():
            blob.delete(timeout=timeout, retry=None, if_generation_match=blob.generation)
            raise TryAgain("the service received other bytes")

    def _get(self, effect: GetBlob, timeout: float) -> bytes | None:
        stream = io.BytesIO()
        end = None if effect.length is None else effect.start + effect.length - 1
        found = self._download(effect.name, stream, effect.start or None, end, timeout)
        return stream.getvalue() if found else None

    def _hash(self, effect: HashBlob, timeout: float) -> str | None:
        found = _Hashing()
        return found.sha256.hexdigest() if self._download(effect.name, found, None, None, timeout) else None

    def _download(self, name: str, stream: Any, start: int | None, end: int | None, timeout: float) -> bool:
        """Write an object's stored bytes, or those from `start` to `end`, to `stream`; false if there is no object."""
        blob = self._bucket().blob(self._prefix + name)
        try:
            if end is not None and end < (start or 0):
                blob.reload(timeout=timeout, retry=None)
                return True
            blob.download_to_file(
                stream,
                start=start,
                end=end,
                raw_download=True,
                checksum=None,  # the reader of a frame checks its sha256
                timeout=timeout,
                retry=None,
            )
        except exceptions.RequestRangeNotSatisfiable:
            return True
        except exceptions.NotFound as error:
            if _NO_BUCKET in str(error):
                raise
            if "No such object" not in str(error):
                # Only the text says which is missing. Without it, list: roles/storage.objectUser may not read buckets.
                self._page(self._prefix, None, 1, timeout)
            return False
        return True

    def _copy(self, effect: CopyBlob, timeout: float) -> bool:
        bucket = self._bucket()
        blob = bucket.blob(self._prefix + effect.name)
        try:
            bucket.copy_blob(
                blob, bucket, self._prefix + effect.target, if_generation_match=0, timeout=timeout, retry=None
            )
        except exceptions.PreconditionFailed as error:
            found = bucket.get_blob(self._prefix + effect.target, timeout=timeout, retry=None)
            source = bucket.get_blob(blob.name, timeout=timeout, retry=None)
            if found is None:
                raise TryAgain("the copy existed and is gone") from error
            if source is not None and (found.crc32c, found.size) != (source.crc32c, source.size):
                raise StoreError(
                    f"{self._where}: the object {effect.target!r} already exists with other content and was left as "
                    "it is. Two writers used the same name."
                ) from error
            return source is not None
        except exceptions.NotFound as error:
            if _NO_BUCKET in str(error):
                raise
            return False
        return True

    def _list(self, effect: ListBlobs, timeout: float) -> list[BlobInfo]:
        after = None if effect.after is None else self._prefix + effect.after
        # startOffset is inclusive, so one more object is listed if it fits into a page.
        limit = effect.limit if after is None else min(effect.limit + 1, max(effect.limit, limits.LIST_OBJECTS))
        found = [
            BlobInfo(
                name=blob.name[len(self._prefix) :],
                size=_size(blob),
                crc32c=blob.crc32c,
                create_time=(blob.time_created - _EPOCH) // timedelta(microseconds=1) * 1000,
            )
            for blob in self._page(self._prefix + effect.prefix, after, limit, timeout)
            if after is None or blob.name > after
        ]
        return found[: effect.limit]

    def _page(self, prefix: str, start: str | None, limit: int, timeout: float) -> list[Any]:
        bucket = self._bucket()
        return list(
            bucket.client.list_blobs(
                bucket,
                prefix=prefix,
                start_offset=start,
                max_results=limit,
                fields="items(name,size,crc32c,timeCreated),nextPageToken",
                timeout=timeout,
                retry=None,
            )
        )

    def _delete(self, names: tuple[str, ...], timeout: float) -> None:
        bucket = self._bucket()
        blobs = [bucket.blob(self._prefix + name) for name in names]
        if len(blobs) > 1 and self._batches:
            answers = self._delete_batch(bucket, blobs, timeout)
            if answers is not None:
                for answer in answers:
                    if not answer.ok:
                        _ignore_missing(_error_of(answer))
                return
        for blob in blobs:
            _delete_one(blob, timeout)

    def _delete_batch(self, bucket: Any, blobs: list[Any], timeout: float) -> list[requests.Response] | None:
        """The answers of one batch; `None` if the server, such as some emulators, has no batches."""
        batch: Any = Batch(bucket.client)
        query = {"userProject": bucket.user_project} if bucket.user_project else {}
        for blob in blobs:
            batch.api_request(
                method="DELETE", path=blob.path, query_params=query, expect_json=False, timeout=timeout, retry=None
            )
        try:
            answers: list[requests.Response] = batch.finish(raise_exception=False)
        except (exceptions.NotFound, exceptions.MethodNotAllowed, exceptions.MethodNotImplemented, ValueError):
            self._batches = False
            return None
        return answers

    def _ensure(self, effect: EnsureBucket, timeout: float) -> str:
        bucket = self._bucket()
        try:
            bucket.reload(timeout=timeout, retry=None)
        except exceptions.NotFound:
            return self._create(bucket, effect.location, timeout)
        except (exceptions.Forbidden, exceptions.Unauthorized):
            # Only roles/storage.admin may read the settings, and objectUser suffices at run time.
            try:
                self._page(self._prefix, None, 1, timeout)
            except exceptions.NotFound:
                return self._create(bucket, effect.location, timeout)
            return f"Bucket {self._name} exists. Its settings cannot be read without roles/storage.admin."
        return f"Bucket {self._name} exists. {_soft_delete(bucket)}".strip()

    def _create(self, bucket: Any, location: str | None, timeout: float) -> str:
        if not bucket.client.project:
            raise StoreError(f"Bucket {self._name!r} does not exist. Pass `project=`, the project to create it in.")
        # The same settings as in docs/guides/operations.md: only roles grant access, and no object can be public.
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        try:
            bucket.create(location=location, timeout=timeout, retry=None)
        except exceptions.Conflict:
            # Another process created it, or an attempt whose answer was lost. Reload fails if another customer owns it.
            bucket.reload(timeout=timeout, retry=None)
        return f"Bucket {self._name} was created in {bucket.location}. {_soft_delete(bucket)}".strip()

    def _read_bucket(self, timeout: float) -> BucketSettings:
        bucket = self._fresh_bucket()
        try:
            bucket.reload(timeout=timeout, retry=None)
        except (exceptions.Forbidden, exceptions.Unauthorized):
            return BucketSettings(self._prefix, rules=None)
        rules, location = private.lifecycle(bucket), str(bucket.location or "")
        return BucketSettings(self._prefix, rules, bucket.metageneration, bucket.autoclass_enabled, location)

    def _set_lifecycle(self, effect: SetLifecycle, timeout: float) -> bool:
        bucket = self._fresh_bucket()
        bucket.lifecycle_rules = effect.rules
        try:
            bucket.patch(if_metageneration_match=effect.metageneration, timeout=timeout, retry=None)
        except exceptions.PreconditionFailed:
            return False
        return True

    def _fresh_bucket(self) -> Any:
        """The bucket, without settings that other threads read or changed."""
        bucket = self._bucket()
        return bucket.client.bucket(bucket.name, user_project=bucket.user_project)

    # Calling

    def _call(
        self,
        effect: Effect[Any],
        what: str,
        attempt: Callable[[float], T],
        role: str = "roles/storage.objectUser",
        *,
        seconds: float | None = None,
    ) -> T:
        def once(seconds: float) -> T:
            try:
                return attempt(seconds)
            except _FAILURES as error:
                if _transient(error):
                    raise TryAgain(type(error).__name__) from error
                self._fail(error, what, role)

        patience = Patience(self._where, self._timeout if seconds is None else seconds, self.on_retry)
        return patience.perform(type(effect).__name__, what, once)

    def _fail(self, error: Exception, what: str, role: str) -> NoReturn:
        if isinstance(error, auth_exceptions.GoogleAuthError):
            raise PermissionDeniedError(
                f"{self._where} was not asked {what}, because the credentials give no access token "
                f"({type(error).__name__}). Renew them, for example with `gcloud auth application-default login`. "
                f"They need the role {role}."
            ) from error
        if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
            raise PermissionDeniedError(
                f"{self._where} refused {what} ({error.code}). Grant the credentials the role {role}."
            ) from error
        if isinstance(error, exceptions.NotFound):
            raise StoreNotFoundError(
                f"{self._where}: the bucket does not exist. Create it (`setup()` does, with roles/storage.admin), or "
                "name another one."
            ) from error
        code = getattr(error, "code", None) or type(error).__name__
        raise StoreError(f"{self._where} refused {what} ({code}). The cause of this exception says why.") from error

    # The client

    def _bucket(self) -> Any:
        if self._closed:
            raise SaverClosedError("This saver is closed; make a new one.")
        process = self._processes.get()
        if process.bucket is None:
            with process.lock:
                if process.bucket is None:
                    given = self._given.client
                    client = private.own(given, None if self._processes.is_forked else private.session(given))
                    self._size_pool(client)
                    process.bucket = client.bucket(self._name, user_project=self._given.user_project)
        return process.bucket

    def _size_pool(self, client: Any) -> None:
        session = private.session(client)
        if getattr(session, "is_mtls", False):
            return  # its adapter carries the client's certificate
        size = max(self._max_connections, requests.adapters.DEFAULT_POOLSIZE)
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(pool_maxsize=size))

    def close(self) -> None:
        """Close the connections. The caller's client stays usable. Idempotent."""
        self._closed = True
        process = self._processes.pop()
        if process is not None and process.bucket is not None:
            # A closed session opens new connections when it is used again.
            private.session(process.bucket.client).close()


def _transient(error: Exception) -> bool:
    if isinstance(error, auth_exceptions.GoogleAuthError):
        return isinstance(error, _TRANSIENT) or bool(getattr(error, "retryable", False))
    if isinstance(error, exceptions.BadRequest):
        # The bytes that the service received do not match their checksum: they were corrupted in transit.
        return "crc32c" in str(error).lower()
    if isinstance(error, exceptions.MethodNotImplemented):
        return False
    return isinstance(error, _TRANSIENT) or getattr(error, "code", None) == requests.codes.request_timeout


def _delete_one(blob: Any, timeout: float) -> None:
    try:
        blob.delete(timeout=timeout, retry=None)
    except exceptions.NotFound as error:
        _ignore_missing(error)


def _ignore_missing(error: exceptions.GoogleAPICallError) -> None:
    if not isinstance(error, exceptions.NotFound) or _NO_BUCKET in str(error):
        raise error


def _opened(effect: PutBlob) -> tuple[Any, int | None]:
    """What to upload, as a file, and its size; `None` for pieces that one request cannot hold."""
    if not isinstance(effect.data, Pieces):
        return io.BytesIO(effect.data), len(effect.data)
    sending = _Sending(effect.data)
    first = sending.read(_CHUNK_BYTES)
    if len(first) < _CHUNK_BYTES:
        return io.BytesIO(first), len(first)
    sending.put_back(first)
    return sending, None


class _Sending:
    """Pieces as a file, which the client of Cloud Storage reads chunk by chunk."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._first = b""
        self._rest = b""
        self._at = 0

    def tell(self) -> int:
        """The number of bytes that were read."""
        return self._at

    def read(self, size: int) -> bytes:
        """The next bytes: `size` of them, or fewer at the end."""
        chunk, self._first = self._first or self._next(size), b""
        self._at += len(chunk)
        return chunk

    def _next(self, size: int) -> bytes:
        # A buffer that grows leaves holes behind. `getvalue` returns the buffer itself.
        found = io.BytesIO()
        found.seek(size - 1)
        found.write(b"\0")
        found.seek(0)
        while found.tell() < size and (piece := self._rest or next(self._pieces, None)) is not None:
            left = size - found.tell()
            found.write(piece[:left])
            self._rest = piece[left:]
        found.truncate()
        return found.getvalue()

    def put_back(self, chunk: bytes) -> None:
        """Return to the beginning after the first chunk was read."""
        self._first, self._at = chunk, 0


class _Hashing(io.RawIOBase):
    """A file that keeps only the sha256 of the bytes written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return len(data)


def _size(blob: Any) -> int:
    """An object's size. JSON from a protocol buffer may omit a number that is 0."""
    return int(blob.size or 0)


def _soft_delete(bucket: Any) -> str:
    seconds = bucket.soft_delete_policy.retention_duration_seconds
    if not seconds:
        return ""
    days = f"{int(seconds) / 86400:g} days"
    return (
        f"It keeps deleted objects for {days}, and bills them (soft delete). `gcloud storage buckets update "
        f"gs://{bucket.name} --clear-soft-delete` saves that storage, and ends the {days} in which "
        "objects that were deleted by mistake can be restored, as docs/guides/operations.md does."
    )
