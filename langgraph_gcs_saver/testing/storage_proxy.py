"""A proxy in front of Cloud Storage that fails as planned, like `firestore_proxy` in front of Firestore.

```python
with StorageProxy("http://127.0.0.1:9023") as proxy:  # the emulator's address
    saver = ...  # made while STORAGE_EMULATOR_HOST is proxy.url
    proxy.faults = Faults(Fault("upload", "lost"), Fault("download", "flip", nth=2))
```

Faults that `firestore_proxy` has too mean the same, but after `lost` the connection ends without an answer. Statuses
are numbers, and bodies can be damaged:

- `cut`: half the body of a download comes, then the connection ends; half the body of an upload reaches the service.
- `flip`: one bit of the body is changed, on the way down or up.

All requests to a bucket fail in the way that `outages` says: `proxy.outages = {"my-bucket": "reset"}`.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import socketserver
import struct
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.testing import PATIENCE
from langgraph_gcs_saver.testing.firestore_proxy import LATE_SECONDS, Faults, Latecomers

if TYPE_CHECKING:
    from typing_extensions import Self

CALLS = ("upload", "download", "list", "get", "delete", "batch", "bucket", "other")
"""Kinds of requests."""

STATUSES = ("408", "429", "500", "502", "503", "504")

KINDS = (*STATUSES, "lost", "lost-reset", "silent", "stall", "late", "reset")
"""Faults of every request."""

BODY_KINDS = (*KINDS, "cut", "flip")
"""Faults of uploads and downloads."""

_RESET = struct.pack("ii", 1, 0)
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_NO_BODY = frozenset({204, 304})
_BUCKET = re.compile(r"/b/([^/?\s]+)")


def call_of(method: str, target: str) -> str:
    """The kind of a request, one of `CALLS`."""
    path, _, query = target.partition("?")
    _, first, *parts = *path.split("/"), ""
    if method in {"POST", "PUT"} and first == "upload":
        return "upload"
    if method == "POST" and first == "batch":
        return "batch"
    if method == "GET" and first == "download":
        return "download"
    # .../b, .../b/BUCKET, .../b/BUCKET/o, .../b/BUCKET/o/NAME. Names are quoted, so they contain no slash.
    below = [one for one in parts[parts.index("b") + 1 :] if one] if "b" in parts else None
    match method, below:
        case "GET", [_, "o", _]:
            return "download" if "alt=media" in query.split("&") else "get"
        case "GET", [_, "o"]:
            return "list"
        case "DELETE", [_, "o", _]:
            return "delete"
        case "GET" | "POST", [] | [_]:
            return "bucket"
        case _:
            return "other"


def bucket_of(request: _Request) -> str:
    """The bucket that a request is for; that of the first part of a batch; empty if it names none."""
    found = _BUCKET.search(request.target) or _BUCKET.search(request.body.decode(errors="replace"))
    return "" if found is None else found[1]


class StorageProxy:
    """Forwards every request to a Cloud Storage emulator, except for what `faults` says. A context manager.

    Args:
        target: The emulator's URL. The emulator need not run.
        faults: What goes wrong; nothing if not given. You can replace it at any time.

    Attributes:
        url: The value for STORAGE_EMULATOR_HOST.
        outages: The fault of each request to a bucket, by the bucket's name. You can change it at any time.
    """

    def __init__(self, target: str, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.target = urlsplit(target).netloc
        self.outages: dict[str, str] = {}
        self.late = Latecomers()
        self._server = _Server(("127.0.0.1", 0), partial(_Connection, self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="storage-proxy", daemon=True
        )
        self._thread.start()

    def forward(self, request: _Request, sent: int | None = None) -> _Answer:
        """The service's answer. With `sent`, it gets only this many bytes of the body, and no answer is awaited.

        All requests pass through here, so a subclass can count them.
        """
        connection = http.client.HTTPConnection(self.target, timeout=PATIENCE)
        headers = request.headers | {"Content-Length": str(len(request.body)), "Connection": "close"}
        try:
            connection.request(request.method, request.target, request.body[:sent], headers)
            if sent is not None:
                raise _HangUp
            response = connection.getresponse()
            return _Answer(response.status, response.getheaders(), response.read())
        except (OSError, http.client.HTTPException) as error:
            raise _HangUp from error  # The service is not there.
        finally:
            connection.close()

    def settle(self, seconds: float = PATIENCE) -> None:
        """Wait until late requests have been carried out.

        Raises:
            TimeoutError: Some are still under way after this many seconds.
        """
        self.late.settle(seconds)

    def close(self) -> None:
        """End all connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@record(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@record(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _HangUp(Exception):  # noqa: N818 - the connection ends as planned
    """The connection ends without another word."""


class _Connection(BaseHTTPRequestHandler):
    """One client's connection. Each request is read whole before anything is done with it."""

    protocol_version = "HTTP/1.1"
    wbufsize: ClassVar[int] = -1  # headers and body leave in one packet
    disable_nagle_algorithm: ClassVar[bool] = True

    def __init__(self, proxy: StorageProxy, *args: Any) -> None:
        self._proxy = proxy
        super().__init__(*args)

    def handle(self) -> None:
        """Serve requests until the client or a fault ends the connection."""
        with suppress(_HangUp, ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Say nothing: the proxy counts."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            raise _HangUp  # The client went away.
        # The Host header stays the client's, because the URL of a resumable upload's session is made of it.
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        request = _Request(self.command, self.path, headers, body)
        call = call_of(self.command, self.path)
        faults = self._proxy.faults
        kind = faults.choose(call, BODY_KINDS if call in {"upload", "download"} else KINDS)
        kind = self._proxy.outages.get(bucket_of(request), kind)
        if kind is None:
            self._send(self._proxy.forward(request))
        else:
            self._fail(call, kind, request, faults)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - names that the base class looks for

    def _fail(self, call: str, kind: str, request: _Request, faults: Faults) -> None:
        note = partial(faults.note, call, kind)
        if kind in STATUSES:
            note()
            text = json.dumps({"error": {"code": int(kind), "message": "a fault of the proxy"}}).encode()
            self._send(_Answer(int(kind), [("Content-Type", "application/json")], text))
        elif kind == "flip" and call == "upload":
            note()
            self._send(self._proxy.forward(replace(request, body=_flipped(request.body))))
        elif kind == "cut" and call == "upload":
            note()
            self._proxy.forward(request, sent=len(request.body) // 2)
        elif kind in {"flip", "cut"}:
            answer = self._proxy.forward(request)
            if len(answer.body) > 1:
                note()
            if kind == "flip":
                self._send(replace(answer, body=_flipped(answer.body)))
            else:
                self._send(answer, sent=len(answer.body) // 2)
        elif kind in {"stall", "late"}:
            with self._proxy.late:
                note()
                self._await_end()
                if kind == "late":
                    time.sleep(LATE_SECONDS)
                    self._proxy.forward(request)
        elif kind == "reset":
            note()
            self._reset()
        else:
            self._proxy.forward(request)
            note()
            if kind == "lost-reset":
                self._reset()
            if kind == "silent":
                self._await_end()
            raise _HangUp

    def _send(self, answer: _Answer, sent: int | None = None) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if answer.status not in _NO_BODY:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[:sent])
        if sent is not None:
            self.wfile.flush()
            raise _HangUp

    def _await_end(self) -> None:
        """Wait until the client has given up."""
        self.connection.settimeout(PATIENCE)
        with suppress(OSError):
            self.connection.recv(1, socket.MSG_PEEK)
        self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # Once all that hold the socket are closed, it is closed for good, without the server's usual orderly shutdown.
        for end in (self.rfile, self.wfile, self.connection):
            end.close()
        raise _HangUp


def _flipped(body: bytes) -> bytes:
    """The body with one bit in its middle changed."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server with a thread for each connection. http.server's own would look up its address in DNS."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End all connections, as their clients see it. Their threads end after that."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
