"""A Vertex AI Vector Search on loopback: the four requests of its REST interface that vectors need.

It does what Google's documentation says, and what https://github.com/googleapis/python-aiplatform/issues/2854 reports:
a read fails as a whole if one of its ids is unknown.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

LOCATION = "europe-west4"
PARENT = f"projects/1/locations/{LOCATION}"
INDEX = f"{PARENT}/indexes/7"
ENDPOINT = f"{PARENT}/indexEndpoints/8"
DEPLOYED = "docs_v1"
SERVICE = f"{LOCATION}-aiplatform.googleapis.com"
DOMAIN = f"12.{LOCATION}-3.vdb.vertexai.goog"


class Vertex:
    """The index, and the requests that came.

    Attributes:
        points: Vectors by id.
        asked: The method at the end of each request's path, or the HTTP method.
        authorized: The `Authorization` of each request.
        deployed: What the endpoint serves.
        domain: The endpoint's public host.
        fail: Answers that replace the next ones: a status, and a body.
        dimensions: The length of vectors.
    """

    def __init__(self) -> None:
        self.points: dict[str, list[float]] = {}
        self.asked: list[str] = []
        self.authorized: list[str | None] = []
        self.deployed = [{"id": "other", "index": f"{PARENT}/indexes/6"}, {"id": DEPLOYED, "index": INDEX}]
        self.domain: str | None = DOMAIN
        self.fail: list[tuple[int, Any]] = []
        self.dimensions = 2
        self._lock = threading.Lock()

    def answer(self, method: str, host: str, path: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        """Answer a request: a status, and a body."""
        name, _, verb = path.removeprefix("/v1/").partition(":")
        with self._lock:
            self.asked.append(verb or method)
            self.authorized.append(authorization)
            if self.fail:
                return self.fail.pop(0)
            if (method, host, name, verb) == ("GET", SERVICE, ENDPOINT, ""):
                public = {} if self.domain is None else {"publicEndpointDomainName": self.domain}
                return 200, {"name": ENDPOINT, "deployedIndexes": self.deployed, **public}
            if (method, host, name, verb) == ("POST", SERVICE, INDEX, "upsertDatapoints"):
                return self._upsert(body["datapoints"])
            if (method, host, name, verb) == ("POST", SERVICE, INDEX, "removeDatapoints"):
                for one in body["datapointIds"]:
                    self.points.pop(one, None)
                return 200, {}
            if (method, host, name, verb) == ("POST", self.domain, ENDPOINT, "readIndexDatapoints"):
                return self._read(body["deployedIndexId"], body["ids"])
        return error(404, "NOT_FOUND")

    def _upsert(self, points: list[Any]) -> tuple[int, Any]:
        if any(len(one["featureVector"]) != self.dimensions for one in points):
            return error(400, "INVALID_ARGUMENT")
        self.points.update({one["datapointId"]: one["featureVector"] for one in points})
        return 200, {}

    def _read(self, deployed: str, ids: list[str]) -> tuple[int, Any]:
        if len(ids) > 1000:
            return error(400, "INVALID_ARGUMENT")
        if not any(one["id"] == deployed for one in self.deployed) or not self.points.keys() >= set(ids):
            return error(404, "NOT_FOUND")
        return 200, {"datapoints": [{"datapointId": one, "featureVector": self.points[one]} for one in ids]}


def error(status: int, word: str) -> tuple[int, Any]:
    """An error as Google's services give it."""
    return status, {"error": {"code": status, "message": "a message", "status": word}}


@contextmanager
def serving() -> Iterator[tuple[Vertex, HTTPAdapter]]:
    """An index, and an adapter for sessions that sends requests for any host to it."""
    vertex = Vertex()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # An answer in two packets would wait for the acknowledgment of the first one.

        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(content) if content else None
            status, answer = vertex.answer(
                self.command, self.headers["Host"], self.path, self.headers.get("Authorization"), body
            )
            sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = _serve  # noqa: N815 - the base class names them

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    adapter = _ToServer(server.server_port)
    try:
        yield vertex, adapter
    finally:
        adapter.close()
        server.shutdown()
        thread.join()
        server.server_close()


class _ToServer(HTTPAdapter):
    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        meant = urlsplit(str(request.url))
        assert meant.scheme == "https"
        request.headers["Host"] = meant.netloc
        request.url = f"http://127.0.0.1:{self._port}{meant.path}"
        return super().send(request, *args, **options)
