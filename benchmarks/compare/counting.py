"""Proxies that count what passes: requests, what is billed of them, bytes, and how many had to wait for others.

A loopback answers so fast that requests which were sent together come one after the other. So each answer is held back
for `HOLD` seconds: whatever was sent without waiting for it has come by then. This is for counting, not for timing.
"""

from __future__ import annotations

import asyncio
import re
import struct
import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
from google.cloud.firestore_v1.types import firestore

from benchmarks.compare.relay import Relay
from langgraph_gcs_saver.testing.firestore_proxy import FirestoreProxy
from langgraph_gcs_saver.testing.storage_proxy import StorageProxy
from tests.emulators.process import HOST
from tests.patience import PATIENCE

HOLD = 0.02


@dataclass(frozen=True)
class Traffic:
    """What passed.

    Attributes:
        requests: RPCs, HTTP requests, and round trips of PostgreSQL.
        rounds: The longest chain of requests of which each began after the one before had been answered.
        operations: How many of each kind that is billed, and "object deletes", which are free, and "queries".
        bytes_sent: Bytes of messages, bodies and queries; without the headers of HTTP.
        bytes_received: The same of answers.
    """

    requests: int
    rounds: int
    operations: Mapping[str, int]
    bytes_sent: int
    bytes_received: int


@dataclass
class Request:
    """One that is under way."""

    began: float
    sent: int = 0
    received: int = 0
    operations: Mapping[str, int] = field(default_factory=dict)


class Counter:
    """What passed the proxies. Safe for threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._done: list[tuple[float, Request]] = []

    def begin(self) -> Request:
        """A request has come."""
        with self._changed:
            self._under_way += 1
            return Request(time.monotonic())

    def end(self, request: Request) -> None:
        """It is about to be answered, or never will be."""
        with self._changed:
            self._under_way -= 1
            self._done.append((time.monotonic(), request))
            self._changed.notify_all()

    def take(self) -> Traffic:
        """What passed since the last call; waits until nothing is under way.

        Raises:
            TimeoutError: Something still is.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._under_way, PATIENCE):
                raise TimeoutError(f"{self._under_way} requests are still under way.")
            done, self._done = self._done, []
        operations: Tally[str] = Tally()
        for _, request in done:
            operations.update(request.operations)
        return Traffic(
            len(done),
            rounds((request.began, end) for end, request in done),
            dict(operations),
            sum(request.sent for _, request in done),
            sum(request.received for _, request in done),
        )


def rounds(intervals: Iterable[tuple[float, float]]) -> int:
    """The longest chain of intervals of which none overlap: always the one next that ends first."""
    count, free = 0, float("-inf")
    for begin, end in sorted(intervals, key=lambda interval: interval[1]):
        if begin >= free:
            count, free = count + 1, end
    return count


# Firestore


class CountingFirestore(FirestoreProxy):
    """Counts RPCs, and the documents in them: https://firebase.google.com/docs/firestore/pricing."""

    def __init__(self, target: str, counter: Counter) -> None:
        super().__init__(target)
        self._counter = counter
        # An emulator that has just started takes longer than a proxy's patience with a connection.
        grpc.channel_ready_future(self._channel).result(PATIENCE)

    def _forward(self, method: str, request: bytes, context: Any) -> Any:
        counted = self._counter.begin()
        counted.sent = len(request)
        try:
            outcome = super()._forward(method, request, context)
            counted.received = sum(map(len, outcome.answers))
            counted.operations = of_rpc(method.rpartition("/")[2], request, outcome.answers)
            time.sleep(HOLD)
        finally:
            self._counter.end(counted)
        return outcome


_COMMITS: Mapping[str, Any] = {
    "Commit": firestore.CommitRequest.meta.pb,
    "BatchWrite": firestore.BatchWriteRequest.meta.pb,
}
_RUN_QUERY: Any = firestore.RunQueryResponse.meta.pb
_LIST: Any = firestore.ListDocumentsResponse.meta.pb
_READS_ONE = {"GetDocument", "ListCollectionIds", "RunAggregationQuery"}
_FREE = {"BeginTransaction", "Rollback"}


def of_rpc(call: str, request: bytes, answers: list[bytes]) -> dict[str, int]:
    """What is billed of an RPC.

    Raises:
        ValueError: It is not known what is billed for such an RPC.
    """
    if call in _COMMITS:
        if not answers:
            return {}  # refused as a whole
        writes = _COMMITS[call].FromString(request).writes
        deletes = sum(1 for write in writes if write.WhichOneof("operation") == "delete")
        return _some({"document writes": len(writes) - deletes, "document deletes": deletes})
    if call == "BatchGetDocuments":
        # What is missing is billed as a read too. An answer that only names a transaction holds neither.
        batch: Any = firestore.BatchGetDocumentsResponse.meta.pb
        found = sum(1 for answer in answers if batch.FromString(answer).WhichOneof("result"))
        return _some({"document reads": found})
    if call == "RunQuery":
        found = sum(1 for answer in answers if _RUN_QUERY.FromString(answer).HasField("document"))
        return {"document reads": max(1, found)}
    if call == "ListDocuments":
        return {"document reads": max(1, sum(len(_LIST.FromString(answer).documents) for answer in answers))}
    if call in _READS_ONE:
        return {"document reads": 1}
    if call in _FREE:
        return {}
    raise ValueError(f"what is billed of {call}?")


def _some(operations: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in operations.items() if count}


# Cloud Storage


class CountingStorage(StorageProxy):
    """Counts requests, and their classes: https://cloud.google.com/storage/pricing#operations-by-class."""

    def __init__(self, target: str, counter: Counter) -> None:
        super().__init__(target)
        self._counter = counter

    def forward(self, request: Any, sent: int | None = None) -> Any:
        counted = self._counter.begin()
        counted.sent = len(request.body)
        counted.operations = of_http(request.method, request.target, request.body)
        try:
            answer = super().forward(request, sent)
            counted.received = len(answer.body)
            time.sleep(HOLD)
        finally:
            self._counter.end(counted)
        return answer


def of_http(method: str, target: str, body: bytes) -> dict[str, int]:
    """What is billed of a request to the JSON API.

    Raises:
        ValueError: It is not known what is billed for such a request.
    """
    parts = urlsplit(target)
    path = parts.path
    if path.startswith("/batch/"):
        total: Tally[str] = Tally()
        for call, address in re.findall(rb"^([A-Z]+) ((?:http:/)?/\S+)(?: HTTP/1\.1)?\r?$", body, re.MULTILINE):
            total.update(of_http(call.decode(), address.decode(), b""))
        return dict(total)
    if path.startswith("/upload/"):
        # One operation each; that of a resumable upload is what opens it, its bytes follow.
        return {} if "upload_id" in parse_qs(parts.query) else {"object class A": 1}
    if method == "DELETE":
        return {"object deletes": 1}
    if method == "GET":
        is_list = re.fullmatch(r"/storage/v1/b(/[^/]+/o)?", path)
        return {"object class A" if is_list else "object class B": 1}
    if method in {"POST", "PATCH", "PUT"}:
        return {"object class A": 1}
    raise ValueError(f"what is billed of {method} {target}?")


# PostgreSQL


class Messages:
    """Reports the types of the messages in one direction of a connection, without keeping them.

    https://www.postgresql.org/docs/current/protocol-message-formats.html

    Args:
        is_client: Whether this is the client's direction, whose first message has no type.
    """

    def __init__(self, *, is_client: bool) -> None:
        self._is_start = is_client
        self._head = b""
        self._left = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The types of the messages that begin in these bytes.

        Raises:
            ValueError: The client requests encryption.
        """
        types = []
        at = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            # A first message is its length and a version; others are a type and their length.
            wanted = 8 if self._is_start else 5
            piece = data[at : at + wanted - len(self._head)]
            self._head += piece
            at += len(piece)
            if len(self._head) < wanted:
                break
            if self._is_start:
                length, version = struct.unpack("!ii", self._head)
                if version in _ENCRYPTED:
                    raise ValueError("An encrypted connection cannot be counted; use sslmode=disable.")
                self._left = length - 8
                self._is_start = False
            else:
                types.append(self._head[:1])
                self._left = struct.unpack("!i", self._head[1:])[0] - 4
            self._head = b""
        return types


_ENCRYPTED = {80877103, 80877104}  # SSLRequest, GSSENCRequest
_ASKS = {b"Q", b"S", b"F"}  # Query, Sync, FunctionCall: ReadyForQuery answers each
_READY = b"Z"


class Conversation:
    """Reads along on a connection to PostgreSQL. A pipeline is one round trip: it has one Sync."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._client, self._server = Messages(is_client=True), Messages(is_client=False)
        self._asked: deque[Request] = deque()
        self._sent = self._received = 0

    def sent(self, data: bytes) -> None:
        self._sent += len(data)
        for kind in self._client.feed(data):
            if kind in _ASKS:
                request = self._counter.begin()
                request.operations = {"queries": 1}
                request.sent, self._sent = self._sent, 0
                self._asked.append(request)

    def answered(self, data: bytes) -> None:
        self._received += len(data)
        for kind in self._server.feed(data):
            if kind == _READY and self._asked:  # after the login nothing was asked
                request = self._asked.popleft()
                request.received, self._received = self._received, 0
                self._counter.end(request)

    def ended(self) -> None:
        while self._asked:
            self._counter.end(self._asked.popleft())


@contextmanager
def counting_postgres(target: str, counter: Counter) -> Iterator[str]:
    """A relay that counts; its `host:port`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="counting-postgres", daemon=True)
    thread.start()
    try:
        relay = Relay(target, back=HOLD, watch=partial(Conversation, counter))
        port = asyncio.run_coroutine_threadsafe(relay.start(), loop).result()
        try:
            yield f"{HOST}:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(relay.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
