"""Bytes that a service stores, read from the service itself."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import grpc
from google.cloud.firestore_v1.types import document, firestore

_QUERY: Any = firestore.RunQueryRequest.meta.pb
_ANSWER: Any = firestore.RunQueryResponse.meta.pb
_VALUE: Any = document.Value.meta.pb

_FIXED = {"null_value": 1, "boolean_value": 1, "integer_value": 8, "double_value": 8, "timestamp_value": 8}


def documents(host: str, project: str) -> int:
    """Bytes of all documents of a project, without the entries of their indexes.

    By https://firebase.google.com/docs/firestore/storage-size: name, fields, and 32 bytes for each.
    """
    request = _QUERY(parent=f"projects/{project}/databases/(default)/documents")
    request.structured_query.from_.add(all_descendants=True)
    total = 0
    with grpc.insecure_channel(host, options=[("grpc.max_receive_message_length", -1)]) as channel:
        query = channel.unary_stream(
            "/google.firestore.v1.Firestore/RunQuery",
            request_serializer=_QUERY.SerializeToString,
            response_deserializer=_ANSWER.FromString,
        )
        for answer in query(request, metadata=[("authorization", "Bearer owner")], timeout=300):
            if answer.HasField("document"):
                total += _name(answer.document.name) + _fields(answer.document.fields) + 32
    return total


def _name(name: str) -> int:
    return sum(map(_text, name.partition("/documents/")[2].split("/"))) + 16


def _text(text: str) -> int:
    return len(text.encode()) + 1


def _fields(fields: Any) -> int:
    return sum(_text(name) + _value(value) for name, value in fields.items())


def _value(value: Any) -> int:
    kind = value.WhichOneof("value_type")
    match kind:
        case "string_value":
            return _text(value.string_value)
        case "bytes_value":
            return len(value.bytes_value)
        case "map_value":
            return _fields(value.map_value.fields)
        case "array_value":
            return sum(map(_value, value.array_value.values))
        case "reference_value":
            return _name(value.reference_value)
        case "geo_point_value":
            return 16
    return _FIXED[kind]


def objects(url: str, bucket: str, prefix: str) -> int:
    """Bytes of the objects whose names begin so."""
    return sum(size for _, size in _objects(url, bucket, prefix))


def delete_objects(url: str, bucket: str, prefix: str) -> None:
    names = [name for name, _ in _objects(url, bucket, prefix)]
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        for name in names:
            connection.request("DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")
            _read(connection, 204)


def _objects(url: str, bucket: str, prefix: str) -> Iterable[tuple[str, int]]:
    token = ""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        while True:
            query = f"prefix={quote(prefix, safe='')}&pageToken={quote(token, safe='')}"
            connection.request("GET", f"/storage/v1/b/{bucket}/o?{query}")
            page = json.loads(_read(connection, 200))
            yield from ((item["name"], int(item["size"])) for item in page.get("items", ()))
            token = page.get("nextPageToken", "")
            if not token:
                return


def delete_documents(host: str, project: str) -> None:
    with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
        connection.request("DELETE", f"/emulator/v1/projects/{project}/databases/(default)/documents")
        _read(connection, 200)


def _read(connection: http.client.HTTPConnection, status: int) -> bytes:
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != status:
        raise RuntimeError(f"the service answered {answer.status}: {body[:1000]!r}")
    return body


def files(directory: Path) -> int:
    """Bytes of all files below, with what SQLite's logs hold moved to their databases first."""
    for log in directory.rglob("*-wal"):
        with closing(sqlite3.connect(log.with_name(log.name.removesuffix("-wal")))) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
