"""A Cloud Storage emulator that is as strict as the service: `python -m tests.emulators.storage_server --port 0`.

`gcp-storage-emulator` makes, patches and copies the objects. This layer adds what it ignores, as the JSON API has it:
preconditions, generations, checksums, pages of lists, ranges, error messages, batches, requests in parallel. What is
not served (the XML API, soft-deleted and older generations, uploads without a body's length) is refused with 501.

The port goes to stdout as a line, the log of requests to stderr. Everything is kept in memory; with `--directory`
buckets and objects are kept there too, for the next start. Uploads under way are lost all the same.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import email
import hashlib
import heapq
import json
import pickle
import re
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from email.message import Message
from email.utils import format_datetime
from functools import cached_property, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from gcp_storage_emulator.exceptions import Conflict, NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage, _FileStore

MAX_PAGE = 1000
"""Most entries in a page of a list, and how many without `maxResults`."""

MAX_BATCH = 100
"""Most calls in a batch (https://cloud.google.com/storage/docs/batch)."""

_CONDITIONS = {
    f"if{source}{what}{match}"
    for source in ("", "Source")
    for what in ("Generation", "Metageneration")
    for match in ("Match", "NotMatch")
}

_NO_BUCKET = "The specified bucket does not exist."
_CONDITION = "At least one of the pre-conditions you specified did not hold."


class Refused(Exception):  # noqa: N818  not a failure of ours: the answer that the service gives
    """A request that Cloud Storage answers with an error status."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.reason = reason
        self.message = message
        self.headers = headers or {}


# Requests and responses, with the attributes that gcp-storage-emulator's handlers use


class Request:
    """One call of the API, alone or part of a batch; its body has been read."""

    def __init__(self, method: str, target: str, headers: Message, body: bytes) -> None:
        parts = urlsplit(target)
        self.method = method
        self.path = parts.path
        self.query = parse_qs(parts.query)
        self.headers = headers
        self.body = body
        self.base_url = f"http://{headers.get('Host', '')}"
        self.full_url = f"{self.base_url}{parts.path}?{parts.query}"
        self.params: dict[str, str] = {}

    @property
    def bucket(self) -> str:
        return self.params["bucket_name"]

    @property
    def object(self) -> str:
        return self.params["object_id"]

    @property
    def wants_media(self) -> bool:
        return self.path.startswith("/download/") or self.get("alt") == "media"

    def get(self, parameter: str) -> str | None:
        return self.query.get(parameter, [None])[0]

    def number(self, parameter: str) -> int | None:
        text = self.get(parameter)
        if text is None:
            return None
        if not re.fullmatch(r"-?\d+", text):
            raise Refused(400, "invalid", f"Invalid value for {parameter}: {text}")
        return int(text)

    def get_header(self, key: str, default: str | None = None) -> str | None:
        return self.headers.get(key, default)

    @cached_property
    def data(self) -> Any:
        """The body as the handlers want it: bytes of an upload, parts of a multipart upload, else decoded JSON."""
        kind = self.get("uploadType")
        if self.get("upload_id") or kind == "media":
            return self.body
        if kind == "multipart":
            return _multipart(self.headers, self.body)
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refused(400, "parseError", f"Parse Error: {error}") from error


def _multipart(headers: Message, body: bytes) -> dict[str, Any]:
    # The service takes bare line feeds too: gcsfs sends them.
    end = b"\r\n" if body.partition(b"\n")[0].endswith(b"\r") else b"\n"
    parts = (end + body).split(end + b"--" + str(headers.get_param("boundary")).encode())
    if headers.get_content_type() != "multipart/related" or len(parts) != 4 or not parts[3].startswith(b"--"):
        raise Refused(400, "badContent", "A multipart upload needs metadata and media, in two parts.")
    (_, _, meta), (media_headers, _, media) = (
        part.lstrip(b" \t")[len(end) :].partition(end + end) for part in parts[1:3]
    )
    try:
        resource = json.loads(meta)
    except ValueError as error:
        raise Refused(400, "parseError", f"Parse Error: {error}") from error
    content_type = email.message_from_bytes(media_headers).get("Content-Type", "application/octet-stream")
    return {"meta": resource, "content": media, "content-type": resource.get("contentType", content_type)}


class Response:
    def __init__(self) -> None:
        self.status: int = HTTPStatus.OK
        self.headers: dict[str, str] = {}
        self.content = b""

    def __setitem__(self, key: str, value: str) -> None:
        self.headers[key] = value

    def json(self, value: Any) -> None:
        self.headers["Content-Type"] = "application/json; charset=UTF-8"
        self.content = json.dumps(value).encode()

    def write(self, text: str) -> None:
        self.content += text.encode()

    def refuse(self, refused: Refused, *, plain: bool) -> None:
        self.status = refused.status
        self.headers = dict(refused.headers)
        self.content = b""
        if refused.status == HTTPStatus.NOT_MODIFIED:
            return
        if plain:
            self.headers["Content-Type"] = "text/html; charset=UTF-8"
            self.write(refused.message)
            return
        cause = {"message": refused.message, "domain": "global", "reason": refused.reason}
        self.json({"error": {"code": int(refused.status), "message": refused.message, "errors": [cause]}})


# What is stored


class _Names(_FileStore):  # type: ignore[misc]
    """Contents by exact name: the original tidies paths, so `a//b` and `a/b` would share their bytes."""

    @staticmethod
    def _norm(path: str) -> str:
        return path


class Store(Storage):  # type: ignore[misc]
    """Buckets and objects in memory, and in a directory if there is one. Not safe for threads: `Api` holds a lock."""

    def __init__(self, directory: Path | None = None) -> None:
        super().__init__(use_memory_fs=True)
        self._store = _Names(use_memory=True)
        self._last_generation = 0
        self._hashes: Mapping[str, str] = {}
        self.finished: dict[str, dict[str, Any]] = {}
        self._directory = directory
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self._load(directory)

    def _load(self, directory: Path) -> None:
        for path in sorted(directory.glob("*.kept")):
            bucket, name, resource, content = pickle.loads(path.read_bytes())
            if name is None:
                self.buckets[bucket] = resource
            else:
                self.objects.setdefault(bucket, {})[name] = resource
                self._store.write_bytes(self._object_path(bucket, name), content)
                self._last_generation = max(self._last_generation, int(resource["generation"]))

    def keep(self, bucket: str, name: str | None = None) -> None:
        """Bring the directory up to date with what is in memory of an object, or of a bucket."""
        if self._directory is None:
            return
        key = hashlib.sha256(json.dumps([bucket, name]).encode()).hexdigest()
        path = self._directory / f"{key}.kept"
        resource = self.buckets.get(bucket) if name is None else self.objects.get(bucket, {}).get(name)
        if resource is None:
            path.unlink(missing_ok=True)
            return
        content = None if name is None else self.get_file(bucket, name)
        # Whole or not at all, whenever this process is killed.
        new = path.with_suffix(".new")
        new.write_bytes(pickle.dumps((bucket, name, resource, content)))
        new.replace(path)

    def _write_config_to_file(self) -> None:
        # The original writes all metadata as JSON after every change. That is quadratic, and nothing reads it here.
        pass

    def _object_path(self, bucket_name: str, file_name: str) -> str:
        return f"{bucket_name}/{file_name}"

    def bucket(self, name: str) -> dict[str, Any]:
        """Return a bucket's resource, or refuse."""
        if name not in self.buckets:
            raise Refused(404, "notFound", _NO_BUCKET)
        resource: dict[str, Any] = self.buckets[name]
        return resource

    def find(self, bucket: str, name: str) -> dict[str, Any] | None:
        """Return an object's resource or `None`; refuse when there is no such bucket."""
        self.bucket(bucket)
        resource: dict[str, Any] | None = self.objects.get(bucket, {}).get(name)
        return resource

    def object(self, bucket: str, name: str, generation: int | None = None) -> dict[str, Any]:
        """Return an object's resource, or refuse."""
        resource = self.find(bucket, name)
        if resource is None or generation not in (None, int(resource["generation"])):
            raise Refused(404, "notFound", f"No such object: {bucket}/{name}")
        return resource

    @contextmanager
    def expecting(self, hashes: Mapping[str, str]) -> Iterator[None]:
        """Refuse an object made inside whose checksums differ."""
        self._hashes = hashes
        try:
            yield
        finally:
            self._hashes = {}

    def create_file(
        self, bucket_name: str, file_name: str, content: bytes, file_obj: dict[str, Any], file_id: str | None = None
    ) -> None:
        """Every upload and copy ends here, with the resource that it answers with."""
        if "crc32c" in self._hashes and self._hashes["crc32c"] != file_obj["crc32c"]:
            raise Conflict(objects.CRC32C_CHECKSUM_ERROR.format(self._hashes["crc32c"], file_obj["crc32c"]))
        if "md5" in self._hashes and self._hashes["md5"] != file_obj["md5Hash"]:
            raise Conflict(objects.MD5_CHECKSUM_ERROR.format(self._hashes["md5"], file_obj["md5Hash"]))
        # The original numbers a resumable upload when it begins; an object that came in between would be newer.
        self._last_generation = generation = max(self._last_generation + 1, time.time_ns() // 1000)
        now = _now()
        # The client downloads from `mediaLink` as it is; the original neither quotes the name nor knows the generation.
        path = f"/storage/v1/b/{bucket_name}/o/{quote(file_name, safe='')}"
        base_url = file_obj["mediaLink"].partition("/download/")[0]
        file_obj.update(
            selfLink=f"{base_url}{path}",
            mediaLink=f"{base_url}/download{path}?generation={generation}&alt=media",
            id=f"{bucket_name}/{file_name}/{generation}",
            generation=str(generation),
            metageneration="1",
            etag=base64.b64encode(str(generation).encode()).decode(),
            size=str(len(content)),
            timeCreated=now,
            updated=now,
        )
        super().create_file(bucket_name, file_name, content, file_obj, file_id)
        self.keep(bucket_name, file_name)
        if file_id is not None:
            self.finished[file_id] = file_obj

    def delete_file(self, bucket_name: str, file_name: str) -> None:
        """Delete for good: soft-deleted objects, which the original would keep in memory, are not served."""
        self._hard_delete_file(bucket_name, file_name)
        self.keep(bucket_name, file_name)

    def patch_object(self, bucket_name: str, file_name: str, file_obj: dict[str, Any]) -> None:
        file_obj["updated"] = _now()
        super().patch_object(bucket_name, file_name, file_obj)
        self.keep(bucket_name, file_name)

    def add_to_resumable_upload(
        self, file_id: str, content: bytes, total_size: int | None = None, expected_start: int | None = None
    ) -> bytes | None:
        """Append to an upload, but for the bytes that are already there: those of a try whose answer was lost."""
        received = self.get_resumable_byte_count(file_id)
        if expected_start is not None and expected_start < received:
            content = content[received - expected_start :]
            expected_start = received
        whole: bytes | None = super().add_to_resumable_upload(file_id, content, total_size, expected_start)
        return whole


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _check(request: Request, resource: Mapping[str, Any] | None, prefix: str = "if", *, reading: bool = False) -> None:
    """Refuse unless the preconditions hold; generation 0 stands for an object that is not there."""
    for what, absent in (("Generation", 0), ("Metageneration", -1)):
        current = absent if resource is None else int(resource.get(what.lower(), absent))
        wanted = request.number(f"{prefix}{what}Match")
        if wanted is not None and wanted != current:
            raise Refused(412, "conditionNotMet", _CONDITION)
        unwanted = request.number(f"{prefix}{what}NotMatch")
        if unwanted is not None and unwanted == current:
            raise Refused(304 if reading else 412, "notModified" if reading else "conditionNotMet", _CONDITION)


def _check_name(name: str) -> None:
    if not 1 <= len(name.encode()) <= 1024 or name in (".", "..") or "\r" in name or "\n" in name:
        raise Refused(400, "invalid", f"Invalid object name: {name!r}")


def _hashes(request: Request) -> dict[str, str]:
    """Checksums that came in headers: `X-Goog-Hash: crc32c=…,md5=…` and `Content-MD5`."""
    found = {}
    for value in request.headers.get_all("X-Goog-Hash", []):
        for item in value.split(","):
            kind, _, digest = item.strip().partition("=")
            found[kind] = digest
    if request.get_header("Content-MD5"):
        found["md5"] = request.headers["Content-MD5"]
    return found


# Handlers: what the service does before and after gcp-storage-emulator's


Handler = Callable[[Request, Response, Store], None]


def _health(request: Request, response: Response, store: Store) -> None:
    response.write("OK")


_ACTIONS = {
    "Delete": None,
    "SetStorageClass": None,
    "AbortIncompleteMultipartUpload": {"age", "matchesPrefix", "matchesSuffix"},
}
"""Actions of lifecycle rules, and which conditions they take: any, or these."""

MAX_RULES = 100
"""Most lifecycle rules of a bucket (https://cloud.google.com/storage/docs/xml-api/get-bucket-lifecycle)."""


def _check_lifecycle(resource: Mapping[str, Any]) -> None:
    """Refuse lifecycle rules that the service does not take (https://cloud.google.com/storage/docs/lifecycle)."""
    rules = (resource.get("lifecycle") or {}).get("rule", [])
    if len(rules) > MAX_RULES:
        raise Refused(400, "invalid", f"A bucket has at most {MAX_RULES} lifecycle rules.")
    for rule in rules:
        action, condition = rule.get("action", {}), rule.get("condition", {})
        kind = action.get("type")
        if kind not in _ACTIONS or (kind == "SetStorageClass") != ("storageClass" in action):
            raise Refused(400, "invalid", f"Invalid action in a lifecycle rule: {action}")
        if not condition or not condition.keys() <= (_ACTIONS[kind] or condition.keys()):
            raise Refused(400, "invalid", f"Invalid condition in a lifecycle rule: {condition}")


def _patch_bucket(request: Request, response: Response, store: Store) -> None:
    _check_lifecycle(request.data)
    buckets.patch(request, response, store)
    resource = store.bucket(request.bucket)
    # The original keeps what is null or empty, and knows nothing of Autoclass.
    if request.data.get("lifecycle", resource) in (None, {}, {"rule": []}):
        resource.pop("lifecycle", None)
    if "autoclass" in request.data:
        resource["autoclass"] = request.data["autoclass"]
    response.json(resource)


def _create_bucket(request: Request, response: Response, store: Store) -> None:
    _check_lifecycle(request.data)
    buckets.insert(request, response, store)
    if response.status == HTTPStatus.OK:
        # The original keeps only the name. Callers read back what they chose (location, access, soft delete).
        resource = store.bucket(request.data["name"])
        buckets._patch_bucket(resource, request.data)
        resource["metageneration"] = "1"
        store.keep(request.data["name"])
        response.json(resource)


def _on_bucket(handler: Handler, request: Request, response: Response, store: Store) -> None:
    _check(request, store.bucket(request.bucket), reading=request.method == "GET")
    handler(request, response, store)
    if response.status == HTTPStatus.CONFLICT:
        raise Refused(409, "conflict", "The bucket you tried to delete is not empty.")
    if request.method != "GET":
        store.keep(request.bucket)
    if request.method == "DELETE":
        response.status = HTTPStatus.NO_CONTENT


def _on_object(handler: Handler, request: Request, response: Response, store: Store) -> None:
    resource = store.object(request.bucket, request.object, request.number("generation"))
    _check(request, resource, reading=request.method == "GET")
    if request.wants_media:
        _download(request, response, store, resource)
        return
    handler(request, response, store)
    if request.method == "DELETE":
        response.status = HTTPStatus.NO_CONTENT


def _copy(handler: Handler, request: Request, response: Response, store: Store) -> None:
    source = store.object(request.bucket, request.object, request.number("sourceGeneration"))
    _check(request, source, "ifSource")
    _check_name(request.params["dest_object_id"])
    _check(request, store.find(request.params["dest_bucket_name"], request.params["dest_object_id"]))
    handler(request, response, store)


def _compose(request: Request, response: Response, store: Store) -> None:
    _check_name(request.object)
    _check(request, store.find(request.bucket, request.object))
    for source in request.data["sourceObjects"]:
        store.object(request.bucket, source["name"])
    objects.compose(request, response, store)


def _upload(request: Request, response: Response, store: Store) -> None:
    session = request.get("upload_id")
    if session is not None:
        _resume(session, request, response, store)
        return
    kind = request.get("uploadType")
    if kind not in ("media", "multipart", "resumable"):
        raise Refused(400, "invalid", f"Invalid upload type: {kind}")
    name = request.get("name")
    if name is None and kind == "multipart":
        name = request.data["meta"].get("name")
    elif name is None and kind == "resumable":
        name = (request.data or {}).get("name")
    if not name:
        raise Refused(400, "required", "Required parameter: name")
    _check_name(name)
    _check(request, store.find(request.bucket, name))
    with store.expecting({} if kind == "resumable" else _hashes(request)):
        objects.insert(request, response, store)


def _resume(session: str, request: Request, response: Response, store: Store) -> None:
    if session in store.finished:
        # The answer to the last bytes was lost; the service repeats it.
        response.json(store.finished[session])
        return
    if session not in store.resumable:
        raise Refused(404, "notFound", "No such upload session.")
    resource = store.resumable[session]
    _check(request, store.find(resource["bucket"], resource["name"]))
    with store.expecting(_hashes(request)):
        objects.upload_partial(request, response, store)
    if response.status == 308 and store.get_resumable_byte_count(session) == 0:
        # `bytes=0-0` would say that one byte has arrived.
        response.headers.pop("Range", None)


def _download(request: Request, response: Response, store: Store, resource: Mapping[str, Any]) -> None:
    content: bytes = store.get_file(request.bucket, request.object)
    size = len(content)
    span = _span(request.get_header("Range"), size)
    if span is not None:
        response.status = HTTPStatus.PARTIAL_CONTENT
        response["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        content = content[span.start : span.stop]
    response["Content-Type"] = resource.get("contentType") or "application/octet-stream"
    if resource.get("contentEncoding"):
        response["Content-Encoding"] = resource["contentEncoding"]
    response["ETag"] = resource["etag"]
    updated = datetime.strptime(resource["updated"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    response["Last-Modified"] = format_datetime(updated, usegmt=True)
    response["X-Goog-Hash"] = f"crc32c={resource['crc32c']},md5={resource['md5Hash']}"
    response["X-Goog-Generation"] = resource["generation"]
    response["X-Goog-Metageneration"] = resource["metageneration"]
    response["X-Goog-Storage-Class"] = resource["storageClass"]
    response["X-Goog-Stored-Content-Encoding"] = resource.get("contentEncoding") or "identity"
    response["X-Goog-Stored-Content-Length"] = str(size)
    response.content = content


def _span(header: str | None, size: int) -> range | None:
    """The span that a Range header requests. `None` is everything, also for a header that is not understood."""
    match = re.fullmatch(r"\s*bytes=(\d*)-(\d*)\s*", header or "")
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), size if last == "" else min(size, int(last) + 1)
        if last != "" and int(last) < start:
            return None
    if start >= stop:
        message = "The requested range cannot be satisfied."
        raise Refused(416, "requestedRangeNotSatisfiable", message, {"Content-Range": f"bytes */{size}"})
    return range(start, stop)


def _list(request: Request, response: Response, store: Store) -> None:
    store.bucket(request.bucket)
    for unserved in ("matchGlob", "softDeleted", "versions"):
        if request.get(unserved) not in (None, "false"):
            raise Refused(501, "notImplemented", f"{unserved} is not served.")
    limit = request.number("maxResults")
    if limit is not None and limit < 1:
        raise Refused(400, "invalid", f"Invalid value for maxResults: {limit}")
    limit = min(limit or MAX_PAGE, MAX_PAGE)
    prefix, delimiter = request.get("prefix") or "", request.get("delimiter")
    start, end, after = request.get("startOffset") or "", request.get("endOffset"), _token(request.get("pageToken"))

    entries: dict[str, dict[str, Any] | None] = {}  # what a prefix stands for is None
    for name, resource in store.objects.get(request.bucket, {}).items():
        if not name.startswith(prefix) or name < start or (end is not None and name >= end):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        entry = name if cut < 0 or delimiter is None else name[: cut + len(delimiter)]
        if entry > after:
            entries[entry] = resource if cut < 0 else None
    page = heapq.nsmallest(limit + 1, entries)
    answer: dict[str, Any] = {"kind": "storage#objects"}
    if len(page) > limit:
        page.pop()
        answer["nextPageToken"] = base64.urlsafe_b64encode(page[-1].encode()).decode()
    answer["items"] = [entries[entry] for entry in page if entries[entry] is not None]
    answer["prefixes"] = [entry for entry in page if entries[entry] is None]
    response.json(answer)


def _token(token: str | None) -> str:
    try:
        return base64.b64decode(token or "", b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Refused(400, "invalid", f"Invalid value for pageToken: {token}") from error


def _routes() -> Iterator[tuple[str, re.Pattern[str], Handler]]:
    bucket, name = r"/storage/v1/b/(?P<bucket_name>[^/]+)", r"/o/(?P<object_id>[^/]+)"
    target = r"/b/(?P<dest_bucket_name>[^/]+)/o/(?P<dest_object_id>[^/]+)"
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/", _health),
        ("GET", "/storage/v1/b", buckets.ls),
        ("POST", "/storage/v1/b", _create_bucket),
        ("GET", bucket, partial(_on_bucket, buckets.get)),
        ("PATCH", bucket, partial(_on_bucket, _patch_bucket)),
        ("DELETE", bucket, partial(_on_bucket, buckets.delete)),
        ("GET", f"{bucket}/iam", partial(_on_bucket, buckets.get_iam_policy)),
        ("PUT", f"{bucket}/iam", partial(_on_bucket, buckets.set_iam_policy)),
        ("GET", f"{bucket}/iam/testPermissions", partial(_on_bucket, buckets.test_iam_permissions)),
        ("GET", f"{bucket}/o", _list),
        ("GET", bucket + name, partial(_on_object, objects.get)),
        ("GET", f"/download{bucket}{name}", partial(_on_object, objects.get)),
        ("PATCH", bucket + name, partial(_on_object, objects.patch)),
        ("DELETE", bucket + name, partial(_on_object, objects.delete)),
        ("POST", f"{bucket}{name}/compose", _compose),
        ("POST", f"{bucket}{name}/copyTo{target}", partial(_copy, objects.copy)),
        ("POST", f"{bucket}{name}/rewriteTo{target}", partial(_copy, objects.rewrite)),
        ("POST", f"/upload{bucket}/o", _upload),
        ("PUT", f"/upload{bucket}/o", _upload),
    ]
    for method, path, handler in table:
        yield method, re.compile(path), handler


class Api:
    """Answers requests, one at a time: a precondition holds until what it allows is done."""

    def __init__(self, directory: Path | None = None) -> None:
        self._store = Store(directory)
        self._lock = threading.Lock()
        self._routes = list(_routes())

    def answer(self, request: Request) -> Response:
        """Return the response to any request; never raises."""
        response = Response()
        try:
            if request.method == "POST" and request.path == "/batch/storage/v1":
                self._batch(request, response)
            else:
                handler = self._route(request)
                with self._lock:
                    handler(request, response, self._store)
        except Refused as refused:
            response.refuse(refused, plain=request.wants_media)
        except NotFound:
            response.refuse(Refused(404, "notFound", f"Not found: {request.path}"), plain=request.wants_media)
        except Exception as error:
            traceback.print_exc()
            response.refuse(Refused(500, "internalError", repr(error)), plain=request.wants_media)
        return response

    def _route(self, request: Request) -> Handler:
        unknown = {name for name in request.query if name.startswith("if")} - _CONDITIONS
        if unknown:
            # Nothing here ignores a precondition. Google's client sends uploads with `ifMetaGenerationNotMatch`.
            raise Refused(501, "notImplemented", f"{', '.join(sorted(unknown))} is not served.")
        for method, path, handler in self._routes:
            match = path.fullmatch(request.path)
            if match and method == request.method:
                request.params = {key: unquote(value) for key, value in match.groupdict().items()}
                return handler
        raise Refused(501, "notImplemented", f"{request.method} {request.path} is not served.")

    def _batch(self, request: Request, response: Response) -> None:
        head = f"Content-Type: {request.get_header('Content-Type')}\r\n\r\n".encode()
        message = email.message_from_bytes(head + request.body)
        parts = [part for part in message.walk() if part.get_content_type() == "application/http"]
        if not 1 <= len(parts) <= MAX_BATCH:
            raise Refused(400, "invalid", f"A batch holds 1 to {MAX_BATCH} calls.")
        boundary = "batch_of_responses"
        for part in parts:
            line, _, rest = str(part.get_payload()).partition("\n")
            method, target, _ = line.split()
            headers = email.message_from_string(rest)
            inner = self.answer(Request(method, target, headers, str(headers.get_payload()).encode()))
            response.write(f"--{boundary}\r\nContent-Type: application/http\r\n")
            if part.get("Content-ID"):
                response.write(f"Content-ID: <response-{part['Content-ID'].strip('<>')}>\r\n")
            response.write(f"\r\nHTTP/1.1 {int(inner.status)} {_phrase(inner.status)}\r\n")
            inner["Content-Length"] = str(len(inner.content))
            for key, value in inner.headers.items():
                response.write(f"{key}: {value}\r\n")
            response.content += b"\r\n" + inner.content + b"\r\n"
        response.write(f"--{boundary}--\r\n")
        response["Content-Type"] = f"multipart/mixed; boundary={boundary}"


def _phrase(status: int) -> str:
    return "Resume Incomplete" if status == 308 else HTTPStatus(status).phrase


# HTTP


class Connection(BaseHTTPRequestHandler):
    """One client's connection: reads each request whole, so the next one begins where it should."""

    protocol_version = "HTTP/1.1"
    # Headers and body leave in one packet. Apart, the second waits for the first's delayed acknowledgement: 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True

    def __init__(self, api: Api, *args: Any) -> None:
        self._api = api
        super().__init__(*args)

    def _serve(self) -> None:
        body = self._body()
        if body is None:
            self.close_connection = True
            return
        response = self._api.answer(Request(self.command, self.path, self.headers, body))
        self.send_response(int(response.status), _phrase(response.status))
        for key, value in response.headers.items():
            self.send_header(key, value)
        if response.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("Content-Length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  names that the base class looks for

    def _body(self) -> bytes | None:
        """Read the body; `None` when the client went away before its end, which must not make a shorter object."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._chunks()
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _chunks(self) -> bytes | None:
        body = b""
        while True:
            line = self.rfile.readline()
            if not line.endswith(b"\n"):
                return None
            length = int(line.partition(b";")[0], 16)
            chunk = self.rfile.read(length + 2)
            if len(chunk) < length + 2:
                return None
            if length == 0:
                return body
            body += chunk[:length]

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError as error:
            self.log_error("the client went away: %r", error)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each connection. Not http.server's, which looks its own address up in DNS."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A strict Cloud Storage emulator on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--directory", type=Path, help="where to keep buckets and objects for the next start")
    arguments = parser.parse_args()
    with Server(("127.0.0.1", arguments.port), partial(Connection, Api(arguments.directory))) as server:
        print(server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
