"""The shipped contract on the emulators, and what only the stores in Google Cloud have."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import http.client
import http.server
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import google_crc32c
import grpc
import grpc.aio
import pytest
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage
from google.cloud.firestore_v1.types import document, query
from google.cloud.firestore_v1.types import firestore as rpcs

from langgraph_gcs_saver.engine.effects import (
    BucketSettings,
    Commit,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    EnsureBucket,
    GetBlob,
    GetDocs,
    HashBlob,
    ListBlobs,
    ListCollections,
    Merge,
    PutBlob,
    QueryDocs,
    ReadBucket,
    SetLifecycle,
)
from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.errors import (
    InvalidOptionError,
    PermissionDeniedError,
    SaverClosedError,
    StoreError,
    StoreNotFoundError,
    StoreUnavailableError,
)
from langgraph_gcs_saver.events import Retried
from langgraph_gcs_saver.stores.google.firestore import FirestoreDocuments
from langgraph_gcs_saver.stores.google.objects import GCSBlobs
from langgraph_gcs_saver.testing.contract import StoreContract
from tests.patience import PATIENCE, eventually

TIMEOUT = 2.0
"""Deadline of a store whose server never gives a good answer. Others have a long one: they must not come to it."""


def make_client(project: str = "test", host: str | None = None) -> firestore.Client:
    with pytest.MonkeyPatch.context() as patch:
        if host is not None:
            patch.setenv("FIRESTORE_EMULATOR_HOST", host)
        return firestore.Client(project=project, credentials=AnonymousCredentials())


def make_bucket(url: str, name: str = "some-bucket", *, credentials: Any = None, project: str = "test") -> Any:
    client = storage.Client(
        project=project,
        credentials=credentials or AnonymousCredentials(),
        client_options={"api_endpoint": url},
    )
    return client.bucket(name)


@pytest.fixture
def client(firestore_emulator: str, project_id: str) -> Iterator[firestore.Client]:
    client = make_client(project_id)
    yield client
    client.close()


@pytest.fixture
def store(client: firestore.Client) -> Iterator[FirestoreDocuments]:
    with closing(FirestoreDocuments(client)) as store:
        yield store


@pytest.fixture
def blobs(storage_emulator: str, bucket_name: str) -> Iterator[GCSBlobs]:
    with closing(GCSBlobs(make_bucket(storage_emulator, bucket_name), prefix="apps/one")) as blobs:
        yield blobs


class TestGoogle(StoreContract):
    @pytest.fixture(params=["", "apps/one"], ids=["top", "root"])
    def documents(self, client: firestore.Client, request: pytest.FixtureRequest) -> Iterator[FirestoreDocuments]:
        with closing(FirestoreDocuments(client, root=request.param)) as documents:
            yield documents


# Servers that fail


@pytest.fixture
def dead_port() -> Iterator[str]:
    """Address where no server listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """Address of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


class Statuses(grpc.GenericRpcHandler):
    """A Firestore that records requests and answers with the statuses that are in `plan`, then with success."""

    messages = {  # noqa: RUF012
        "Commit": (rpcs.CommitRequest, rpcs.CommitResponse),
        "GetDocument": (rpcs.GetDocumentRequest, document.Document),
        "BatchGetDocuments": (rpcs.BatchGetDocumentsRequest, rpcs.BatchGetDocumentsResponse),
        "RunQuery": (rpcs.RunQueryRequest, rpcs.RunQueryResponse),
        "ListCollectionIds": (rpcs.ListCollectionIdsRequest, rpcs.ListCollectionIdsResponse),
    }

    def __init__(self) -> None:
        self.plan: list[tuple[grpc.StatusCode, str]] = []
        self.requests: list[Any] = []
        self.metadata: list[dict[str, Any]] = []
        self.pages: list[tuple[list[str], str]] = [([], "")]

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = details.method.rsplit("/", 1)[1]
        request, response = self.messages[name]

        def note(message: Any, context: grpc.ServicerContext) -> None:
            self.requests.append(message)
            self.metadata.append(dict(context.invocation_metadata()))
            if self.plan:
                context.abort(*self.plan.pop(0))

        def unary(message: Any, context: grpc.ServicerContext) -> Any:
            note(message, context)
            if name == "GetDocument":
                return response.meta.pb(name=message.name)
            if name == "ListCollectionIds":
                page = self.pages[int(message.page_token or 0)]
                return response.meta.pb(collection_ids=page[0], next_page_token=page[1])
            return response.meta.pb(write_results=[{"update_time": {"seconds": 7}} for _ in message.writes])

        def stream(message: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            note(message, context)
            yield from ()

        make, behaviour = (
            (grpc.unary_unary_rpc_method_handler, unary)
            if name in {"Commit", "GetDocument", "ListCollectionIds"}
            else (grpc.unary_stream_rpc_method_handler, stream)
        )
        return make(
            behaviour,
            request_deserializer=request.meta.pb.FromString,
            response_serializer=response.meta.pb.SerializeToString,
        )


@pytest.fixture
def statuses() -> Iterator[Statuses]:
    handler = Statuses()
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[handler])
    handler.host = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"  # type: ignore[attr-defined]
    server.start()
    yield handler
    server.stop(None).wait()


@pytest.fixture
def scripted(statuses: Statuses) -> Iterator[FirestoreDocuments]:
    """A store whose Firestore is `statuses`."""
    client = make_client("my-project", statuses.host)  # type: ignore[attr-defined]
    with closing(FirestoreDocuments(client, timeout=PATIENCE, owns_client=True)) as store:
        yield store


CREATE = Commit((Create("c/a", {"secret": "state content"}),))
GET = GetDocs(("c/a",))
BATCH = GetDocs(("c/a", "c/b"))
QUERY = QueryDocs("c")
LIST = ListCollections("c/a")

SYNC: dict[str, Callable[[FirestoreDocuments], Any]] = {
    "commit": lambda store: store.commit(CREATE),
    "get": lambda store: store.get_docs(GET),
    "batch": lambda store: store.get_docs(BATCH),
    "query": lambda store: store.query_docs(QUERY),
    "list": lambda store: store.list_collections(LIST),
    "acommit": lambda store: asyncio.run(store.acommit(CREATE)),
    "aget": lambda store: asyncio.run(store.aget_docs(GET)),
    "abatch": lambda store: asyncio.run(store.aget_docs(BATCH)),
    "aquery": lambda store: asyncio.run(store.aquery_docs(QUERY)),
    "alist": lambda store: asyncio.run(store.alist_collections(LIST)),
}
every_method = pytest.mark.parametrize("method", SYNC)


def errors_of(calls: dict[str, Callable[[Any], Any]], store: Any) -> list[BaseException | None]:
    """Make all calls at the same time; what they raise."""
    with futures.ThreadPoolExecutor(len(calls)) as threads:
        return [future.exception() for future in [threads.submit(call, store) for call in calls.values()]]


# Firestore: deadlines, retries, errors


def test_firestore_deadline_on_a_dead_port(dead_port: str) -> None:
    with closing(FirestoreDocuments(make_client(host=dead_port), timeout=TIMEOUT, owns_client=True)) as store:
        for error in errors_of(SYNC, store):
            assert type(error) is StoreUnavailableError
            assert f"emulator at {dead_port} did not manage" in str(error)
            assert " s (UNAVAILABLE)" in str(error)
            assert isinstance(error.__cause__, grpc.RpcError)


def test_firestore_deadline_on_a_silent_server(silent_port: str) -> None:
    store = FirestoreDocuments(make_client(host=silent_port), timeout=TIMEOUT, owns_client=True)
    with closing(store):
        for error in errors_of(SYNC, store):
            assert type(error) is StoreUnavailableError
            assert f"emulator at {silent_port} did not manage" in str(error)


@every_method
@pytest.mark.parametrize(
    "code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED"], ids=str
)
def test_firestore_retries_what_passes(
    scripted: FirestoreDocuments, statuses: Statuses, method: str, code: str
) -> None:
    statuses.plan = [(grpc.StatusCode[code], "for a moment")] * 2
    told: list[Retried] = []
    scripted.on_retry = told.append
    found = {"c/a": Doc("c/a", {}, 0, 0)}
    expected = {"commit": (7 * 10**9,), "get": found, "batch": {}, "query": [], "list": []}[method.lstrip("a")]
    assert SYNC[method](scripted) == expected
    assert len(statuses.requests) == 3
    assert statuses.requests[0] == statuses.requests[2]
    assert [(event.attempt, event.reason) for event in told] == [(1, code), (2, code)]
    assert {event.request for event in told} <= set(Statuses.messages)
    assert "Firestore" in told[0].service
    assert all(0 <= event.pause <= 1 for event in told)


@every_method
@pytest.mark.parametrize(
    ("code", "details", "kind", "says"),
    [
        ("PERMISSION_DENIED", "Missing or insufficient permissions.", PermissionDeniedError, "roles/datastore.user"),
        ("UNAUTHENTICATED", "Invalid authentication credentials.", PermissionDeniedError, "roles/datastore.user"),
        (
            "UNAVAILABLE",
            "Getting metadata from plugin failed with error: ('invalid_grant: nope', {'error': 'x'})",
            PermissionDeniedError,
            "gcloud auth",
        ),
        (
            "NOT_FOUND",
            "The database (default) does not exist for project my-project Please visit https://console to add one.",
            StoreNotFoundError,
            "'my-project' has no Firestore database '(default)'",
        ),
        (
            "FAILED_PRECONDITION",
            "The Cloud Firestore API is not available for Firestore in Datastore Mode database projects/p/databases/d.",
            StoreError,
            "Native mode",
        ),
        ("INVALID_ARGUMENT", "The value of property is longer than 1048487 bytes.", StoreError, "INVALID_ARGUMENT"),
        ("RESOURCE_EXHAUSTED", "gRPC message exceeds maximum size 4194304: 5400465", StoreError, "too large"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (11 vs. 10)", StoreError, "too large"),
        ("UNIMPLEMENTED", "what?", StoreError, "UNIMPLEMENTED"),
    ],
)
def test_firestore_refusals_are_final(  # noqa: PLR0917
    scripted: FirestoreDocuments,
    statuses: Statuses,
    method: str,
    code: str,
    details: str,
    kind: type[StoreError],
    says: str,
) -> None:
    statuses.plan = [(grpc.StatusCode[code], details)] * 9
    with pytest.raises(kind) as caught:
        SYNC[method](scripted)
    assert says in str(caught.value)
    assert "state content" not in str(caught.value)
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    # Only another request shows what is missing: a document, or its database.
    assert len(statuses.requests) == (2 if (method.lstrip("a"), code) == ("get", "NOT_FOUND") else 1)


@pytest.mark.parametrize("method", ["query", "aquery"])
def test_firestore_wants_an_index(scripted: FirestoreDocuments, statuses: Statuses, method: str) -> None:
    statuses.plan = [(grpc.StatusCode.FAILED_PRECONDITION, "The query requires an index. Create it at https://x")]
    with pytest.raises(StoreError, match="because an index is missing"):
        SYNC[method](scripted)


@pytest.mark.parametrize("method", ["commit", "acommit"])
@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("ALREADY_EXISTS", "Document already exists: projects/p/databases/(default)/documents/c/a"),
        ("FAILED_PRECONDITION", "the stored version (0) does not match the required base version (17)"),
        ("NOT_FOUND", "No document to update: projects/p/databases/(default)/documents/c/a"),
    ],
)
def test_firestore_failed_preconditions_are_none(
    scripted: FirestoreDocuments, statuses: Statuses, method: str, code: str, details: str
) -> None:
    statuses.plan = [(grpc.StatusCode[code], details)]
    assert SYNC[method](scripted) is None
    assert len(statuses.requests) == 1


@pytest.mark.parametrize("method", ["get", "aget", "batch", "abatch", "query", "aquery"])
def test_a_read_that_finds_no_database_is_never_empty(
    scripted: FirestoreDocuments, statuses: Statuses, method: str
) -> None:
    statuses.plan = [(grpc.StatusCode.NOT_FOUND, "whatever the text")] * 2
    with pytest.raises(StoreNotFoundError):
        SYNC[method](scripted)


@pytest.mark.parametrize("method", ["get", "aget"])
def test_a_document_that_is_missing_is_not_taken_for_its_database(
    scripted: FirestoreDocuments, statuses: Statuses, method: str
) -> None:
    statuses.plan = [(grpc.StatusCode.NOT_FOUND, "whatever the text")]
    assert SYNC[method](scripted) == {}
    assert len(statuses.requests) == 2


def test_firestore_sends_the_headers_of_the_generated_client(scripted: FirestoreDocuments, statuses: Statuses) -> None:
    for call in SYNC.values():
        call(scripted)
    database = "projects/my-project/databases/"
    for sent, method in zip(statuses.metadata, SYNC, strict=True):
        assert sent["google-cloud-resource-prefix"] == f"{database}(default)"
        assert " gccl/" in sent["x-goog-api-client"]
        routed = f"{database}%28default%29"
        expected = {"query": f"parent={routed}/documents", "get": f"name={routed}/documents/c/a"}
        expected["list"] = f"parent={routed}/documents/c/a"
        assert sent["x-goog-request-params"] == expected.get(method.lstrip("a"), f"database={routed}")


@pytest.mark.parametrize("method", ["commit", "acommit"])
@pytest.mark.parametrize(("documents", "size"), [(1, 1_100_000), (6, 900_000)], ids=["document", "commit"])
def test_firestore_refuses_what_is_too_large_at_once(
    store: FirestoreDocuments, method: str, documents: int, size: int
) -> None:
    commit = Commit(tuple(Create(f"c/{i}", {"v": bytes(size)}) for i in range(documents)))
    with pytest.raises(StoreError) as caught:
        store.commit(commit) if method == "commit" else asyncio.run(store.acommit(commit))
    assert not isinstance(caught.value, StoreUnavailableError)
    assert store.query_docs(QUERY) == []


def test_cancelling_a_call_does_not_wait_for_its_end(silent_port: str) -> None:
    async def main(store: FirestoreDocuments) -> None:
        for effect in (store.acommit(CREATE), store.aget_docs(GET)):
            task = asyncio.create_task(effect)
            await asyncio.sleep(0.2)  # clock: any moment will do
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await store.aclose()

    # Without a deadline before that of the test: a call that is waited for never ends.
    asyncio.run(main(FirestoreDocuments(make_client(host=silent_port), timeout=9 * PATIENCE, owns_client=True)))


def test_collections_come_in_pages(scripted: FirestoreDocuments, statuses: Statuses) -> None:
    statuses.pages = [(["b", "c"], "1"), ([], "2"), (["a"], "")]
    assert scripted.list_collections(LIST) == ["a", "b", "c"]
    assert asyncio.run(scripted.alist_collections(LIST)) == ["a", "b", "c"]
    parent = "projects/my-project/databases/(default)/documents/c/a"
    assert [(request.parent, request.page_token) for request in statuses.requests] == [
        (parent, token) for token in ("", "1", "2")
    ] * 2


@pytest.mark.parametrize("root", ["apps", "apps/a/b", "/apps/a", "apps/a/", "apps//a/b", "/"])
def test_root_must_be_a_document(root: str) -> None:
    with pytest.raises(InvalidOptionError, match="even number of segments"):
        FirestoreDocuments(make_client(host="127.0.0.1:1"), root=root)


def test_stores_with_different_roots_share_nothing(client: firestore.Client) -> None:
    top, one, two = (FirestoreDocuments(client, root=root) for root in ("", "apps/one", "apps/two"))
    for i, store in enumerate((top, one, two)):
        assert store.commit(Commit((Create("lg_threads/a/lg_checkpoints/1", {"i": i}),))) is not None
    for i, store in enumerate((top, one, two)):
        for query_ in (
            QueryDocs("lg_threads/a/lg_checkpoints"),
            QueryDocs("lg_checkpoints", start="lg_threads/!", end="lg_threads/g", group=True),
        ):
            assert [(doc.name, doc.fields) for doc in store.query_docs(query_)] == [
                ("lg_threads/a/lg_checkpoints/1", {"i": i})
            ]
    names = {doc.reference.path for doc in client.collection_group("lg_checkpoints").stream()}
    assert names == {f"{root}lg_threads/a/lg_checkpoints/1" for root in ("", "apps/one/", "apps/two/")}


SOME = (("ns", ""), ("filter.step", 1), ("filter.none", None))


@pytest.mark.parametrize(("group", "where"), [(False, ()), (False, SOME), (True, ())], ids=["all", "some", "group"])
@pytest.mark.parametrize("mask", [None, (), ("ns",)])
def test_every_query_has_the_one_shape(
    scripted: FirestoreDocuments, statuses: Statuses, group: bool, mask: Any, where: Any
) -> None:
    for bounds in ({"start": "c/a", "end": "c/z"}, {"start": "c/a", "after": "c/b", "end": "c/z", "limit": 9}):
        scripted.query_docs(QueryDocs("c", where, mask=mask, group=group, **bounds))  # type: ignore[arg-type]
    for request in statuses.requests:
        asked = query.StructuredQuery.deserialize(request.structured_query.SerializeToString())
        assert request.parent == "projects/my-project/databases/(default)/documents"
        assert [(c.collection_id, c.all_descendants) for c in asked.from_] == [("c", group)]
        assert [(o.field.field_path, o.direction.name) for o in asked.order_by] == [("__name__", "ASCENDING")]
        assert not asked.offset
        assert not asked.start_at.values
        assert not asked.end_at.values
        assert not asked.find_nearest
        assert asked.where.composite_filter.op.name == "AND"
        for one in asked.where.composite_filter.filters:
            plain, unary = one.field_filter, one.unary_filter
            if unary:
                assert (unary.op.name, unary.field.field_path) == ("IS_NULL", "filter.none")
            elif plain.field.field_path == "__name__":
                assert plain.op.name in {"GREATER_THAN_OR_EQUAL", "GREATER_THAN", "LESS_THAN"}
                assert plain.value.reference_value.startswith(f"{request.parent}/c/")
            else:
                assert plain.op.name == "EQUAL"
        assert len(asked.where.composite_filter.filters) == len(where) + (3 if asked.limit else 2)


# Firestore: event loops, threads, forks, closing


def loops_of(store: FirestoreDocuments) -> list[Any]:
    return [stubs.channel for process in store._processes.all() for stubs in process.loops.values()]


async def use(store: FirestoreDocuments, name: str) -> None:
    assert await store.acommit(Commit((Create(f"c/{name}", {"v": name}),))) is not None
    assert (await store.aget_docs(GetDocs((f"c/{name}",))))[f"c/{name}"].fields == {"v": name}
    assert f"c/{name}" in [doc.name for doc in await store.aquery_docs(QUERY)]


def live_channels() -> int:
    gc.collect()
    return sum(isinstance(thing, grpc.aio.Channel) and not thing._channel.closed() for thing in gc.get_objects())


def test_clients_of_closed_loops_are_purged(store: FirestoreDocuments) -> None:
    before = live_channels()
    for i in range(10):
        asyncio.run(use(store, str(i)))
        assert len(loops_of(store)) == 1
    assert live_channels() - before <= 1
    store.close()
    assert live_channels() == before
    assert loops_of(store) == []


def test_many_loops_at_once(store: FirestoreDocuments, caplog: pytest.LogCaptureFixture) -> None:
    async def several(thread: int) -> None:
        await asyncio.gather(*(use(store, f"{thread}-{i}") for i in range(15)))

    with futures.ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda thread: asyncio.run(several(thread)), range(12)))
        list(threads.map(lambda i: store.commit(Commit((Create(f"c/sync-{i}", {}),))), range(30)))
    assert len(store.query_docs(QUERY)) == 12 * 15 + 30
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_close_reaches_loops_that_still_run(
    client: firestore.Client, other_loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    store = FirestoreDocuments(client)
    asyncio.run_coroutine_threadsafe(use(store, "other"), other_loop).result(PATIENCE)

    async def main() -> None:
        await use(store, "here")
        here, there = sorted(loops_of(store), key=lambda channel: channel._loop is other_loop)
        await store.aclose()
        await store.aclose()
        assert here._channel.closed()
        await asyncio.to_thread(eventually, there._channel.closed)
        with pytest.raises(SaverClosedError):
            await store.aget_docs(GET)

    asyncio.run(main())
    store.close()
    with pytest.raises(SaverClosedError):
        asyncio.run_coroutine_threadsafe(store.aget_docs(GET), other_loop).result(PATIENCE)
    assert client.document("c/other").get().to_dict() == {"v": "other"}, "the client that was given stays open"
    assert caplog.records == []


def test_closing_inside_a_loop_without_awaiting(client: firestore.Client) -> None:
    store = FirestoreDocuments(client)

    async def main() -> None:
        await use(store, "a")
        store.close()
        with pytest.raises(SaverClosedError):
            await store.aget_docs(GET)

    asyncio.run(main(), debug=True)


@pytest.mark.parametrize("effect", ["acommit", "aget_docs"])
@pytest.mark.skipif(sys.version_info < (3, 11), reason="before Python 3.11 a task does not know what canceled it")
def test_closing_ends_asynchronous_calls_under_way(
    silent_port: str, other_loop: asyncio.AbstractEventLoop, effect: str
) -> None:
    store = FirestoreDocuments(make_client(host=silent_port), timeout=9 * PATIENCE, owns_client=True)
    call = getattr(store, effect)(CREATE if effect == "acommit" else GET)
    future = asyncio.run_coroutine_threadsafe(call, other_loop)
    eventually(lambda: bool(loops_of(store)))
    time.sleep(0.1)  # clock: any moment will do
    store.close()
    with pytest.raises(SaverClosedError):
        future.result(PATIENCE)


def test_closing_ends_synchronous_calls_under_way(silent_port: str) -> None:
    store = FirestoreDocuments(make_client(host=silent_port), timeout=9 * PATIENCE, owns_client=True)
    with futures.ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(store.commit, CREATE), threads.submit(store.get_docs, GET)]
        time.sleep(0.5)  # clock: any moment will do
        store.close()
        for call in calls:
            with pytest.raises(SaverClosedError):
                call.result(PATIENCE)


FORKING = """
import asyncio, os, sys, threading, warnings

# A lock that a thread of the parent holds at the moment of the fork stays locked in the child. The last hook before it:
locks = []
os.register_at_fork(
    before=lambda: [lock.acquire() for lock in locks], after_in_parent=lambda: [lock.release() for lock in locks]
)

from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, storage
from langgraph_gcs_saver.engine.effects import *
from langgraph_gcs_saver.stores.google.firestore import FirestoreDocuments
from langgraph_gcs_saver.stores.google.objects import GCSBlobs

documents = FirestoreDocuments(firestore.Client(project=sys.argv[1], credentials=AnonymousCredentials()))
blobs = GCSBlobs(storage.Client(project="p", credentials=AnonymousCredentials()).bucket(sys.argv[2]), prefix="p")
del os.environ["FIRESTORE_EMULATOR_HOST"], os.environ["STORAGE_EMULATOR_HOST"]

def use(who):
    assert documents.commit(Commit((Create(f"c/{who}", {"v": who}),))) is not None
    assert documents.get_docs(GetDocs((f"c/{who}",)))[f"c/{who}"].fields == {"v": who}
    blobs.put_blob(PutBlob(who, who.encode()))
    assert blobs.get_blob(GetBlob(who)) == who.encode()

async def ause(who):
    async def one(i):
        assert await documents.acommit(Commit((Create(f"c/{who}-{i}", {"v": who}),))) is not None
        assert len(await documents.aquery_docs(QueryDocs("c"))) > 0
    await asyncio.gather(*(one(i) for i in range(5)))

if "sync" in sys.argv[3]:
    use("parent")
if "closed-loops" in sys.argv[3]:
    asyncio.run(ause("parent-async"))
if "running-loop" in sys.argv[3]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(ause("parent-running"), loop).result()
locks += [process.lock for store in (documents, blobs) for process in store._processes.all()]

warnings.simplefilter("ignore")  # from Python 3.12 on, of forking with threads
for child in range(4):
    pid = os.fork()
    if pid == 0:
        use(f"child-{child}")
        asyncio.run(ause(f"child-async-{child}"))
        assert len(documents._processes.get().loops) == (0 if "running-loop" in sys.argv[3] else 1)
        documents.close()
        blobs.close()
        os._exit(0)
    use(f"parent-{child}")
    assert os.waitpid(pid, 0)[1] == 0
    if "closed-loops" in sys.argv[3]:
        asyncio.run(ause(f"parent-async-{child}"))
if "running-loop" in sys.argv[3]:
    asyncio.run_coroutine_threadsafe(ause("parent-running-at-last"), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
names = {doc.name for doc in documents.query_docs(QueryDocs("c"))}
assert {f"c/child-async-{child}-{i}" for child in range(4) for i in range(5)} < names
assert {f"c/{who}-{child}" for child in range(4) for who in ("child", "parent")} < names
documents.close()
blobs.close()
print("all is well")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("used", ["nothing", "sync", "sync, closed-loops", "sync, running-loop"])
def test_use_after_fork(
    firestore_emulator: str, storage_emulator: str, project_id: str, bucket_name: str, used: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, project_id, bucket_name, used],
        env=os.environ | {"FIRESTORE_EMULATOR_HOST": firestore_emulator, "STORAGE_EMULATOR_HOST": storage_emulator},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr


# Cloud Storage: a proxy before the emulator that can fail


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards to the emulator, unless `hook(method, path)` gives a status and a text to answer with.

    A status of 0 forwards the request and then hangs up without an answer. `spoil` alters the bodies of requests on
    their way, lengths excepted.
    """

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.target = urlsplit(url).netloc
        self.hook: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
        self.spoil: Callable[[bytes], bytes] = lambda body: body
        self.log: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.server.spoil(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.server.log.append(f"{self.command} {urlsplit(self.path).path}")
        planned = self.server.hook(self.command, self.path)
        if planned is not None and planned[0]:
            text = json.dumps({"error": {"message": planned[1]}}).encode()
            self.answer(planned[0], {"Content-Type": "application/json"}, text)
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=PATIENCE)
        headers = {k: v for k, v in self.headers.items() if k not in ("Host", "Connection")}
        # The Host header stays ours: a resumable upload's session is at this address.
        connection.request(self.command, self.path, body, headers | {"Host": self.headers["Host"]})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if planned is None:
            self.answer(response.status, dict(response.getheaders()), content)
        else:
            self.close_connection = True

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("Content-Length", "Transfer-Encoding", "Connection"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def proxy(storage_emulator: str) -> Iterator[Proxy]:
    with Proxy(storage_emulator) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxied(proxy: Proxy, bucket_name: str) -> Iterator[GCSBlobs]:
    """A store that reaches the emulator through `proxy`."""
    with closing(GCSBlobs(make_bucket(proxy.url, bucket_name), prefix="p", timeout=PATIENCE)) as blobs:
        yield blobs


@pytest.fixture
def hurried(proxy: Proxy, bucket_name: str) -> Iterator[GCSBlobs]:
    """As `proxied`, for what the service never does, however often it is asked."""
    with closing(GCSBlobs(make_bucket(proxy.url, bucket_name), prefix="p", timeout=TIMEOUT)) as blobs:
        yield blobs


PUT = PutBlob("t/a", b"state content")
ABORT = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}}
BLOBS: dict[str, Callable[[GCSBlobs], Any]] = {
    "put": lambda blobs: blobs.put_blob(PUT),
    "put large": lambda blobs: blobs.put_blob(PutBlob("t/large", bytes(9_000_000))),
    "get": lambda blobs: blobs.get_blob(GetBlob("t/a")),
    "hash": lambda blobs: blobs.hash_blob(HashBlob("t/a")),
    "list": lambda blobs: blobs.list_blobs(ListBlobs("t/")),
    "delete": lambda blobs: blobs.delete_blobs(DeleteBlobs(("t/a",))),
    "delete several": lambda blobs: blobs.delete_blobs(DeleteBlobs(("t/a", "t/b"))),
    "ensure": lambda blobs: blobs.ensure_bucket(EnsureBucket()),
    "lifecycle": lambda blobs: blobs.set_lifecycle(SetLifecycle((ABORT,), 1)),
}
every_call = pytest.mark.parametrize("call", BLOBS)


def test_storage_deadline_on_a_dead_port(dead_port: str) -> None:
    with closing(GCSBlobs(make_bucket(f"http://{dead_port}"), prefix="", timeout=TIMEOUT)) as blobs:
        for error in errors_of(BLOBS, blobs):
            assert type(error) is StoreUnavailableError
            assert dead_port in str(error)
            assert error.__cause__ is not None


def test_storage_deadline_on_a_silent_server(silent_port: str) -> None:
    with closing(GCSBlobs(make_bucket(f"http://{silent_port}"), prefix="", timeout=TIMEOUT)) as blobs:
        for error in errors_of(BLOBS, blobs):
            assert type(error) is StoreUnavailableError
            assert silent_port in str(error)


def faults(plan: list[tuple[int, str]], *, after: int = 0) -> Callable[[str, str], tuple[int, str] | None]:
    """A hook that answers with the plan, request by request, after so many good answers."""
    steps: list[tuple[int, str] | None] = [*([None] * after), *plan]
    return lambda method, path: steps.pop(0) if steps else None


@every_call
@pytest.mark.parametrize("status", [0, 429, 503])
def test_storage_retries_what_passes(proxied: GCSBlobs, proxy: Proxy, call: str, status: int) -> None:
    proxied.put_blob(PUT)
    proxy.log.clear()
    proxy.hook = faults([(status, "for a moment")] * 2)
    told: list[Retried] = []
    proxied.on_retry = told.append
    result = BLOBS[call](proxied)
    assert [event.attempt for event in told] == [1, 2]
    assert all(call.split(maxsplit=1)[0] in event.request.lower() for event in told)
    assert all(event.service.startswith("Cloud Storage (") for event in told)
    assert len(proxy.log) >= 3
    if call == "get":
        assert result == b"state content"
    elif call == "list":
        assert [info.name for info in result] == ["t/a"]
    elif call.startswith("delete"):
        assert proxied.list_blobs(ListBlobs("")) == []
    elif call == "put large":
        assert proxied.get_blob(GetBlob("t/large")) == bytes(9_000_000)


@pytest.mark.parametrize("status", [408, 500, 502, 504])
def test_storage_retries_other_statuses_that_pass(proxied: GCSBlobs, proxy: Proxy, status: int) -> None:
    proxy.hook = faults([(status, "for a moment")])
    assert proxied.get_blob(GetBlob("t/a")) is None
    assert len(proxy.log) == 2


@pytest.mark.parametrize("call", ["put large", "delete several", "ensure"])
def test_storage_unavailable_for_longer_than_the_deadline(hurried: GCSBlobs, proxy: Proxy, call: str) -> None:
    proxy.hook = lambda method, path: (503, "down")
    with pytest.raises(StoreUnavailableError) as caught:
        BLOBS[call](hurried)
    assert isinstance(caught.value.__cause__, exceptions.ServiceUnavailable)


# google-auth drops the answer to a refused request unread; its socket is collected here, not in some later test.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@every_call
@pytest.mark.parametrize("status", [401, 403], ids=str)
def test_storage_permission_denied(proxied: GCSBlobs, proxy: Proxy, call: str, status: int) -> None:
    proxy.hook = lambda method, path: (status, "x does not have storage.objects access")
    with pytest.raises(PermissionDeniedError) as caught:
        BLOBS[call](proxied)
    assert ("roles/storage.admin" if call in {"ensure", "lifecycle"} else "roles/storage.objectUser") in str(
        caught.value
    )
    assert "state content" not in str(caught.value)
    # At a 401 the session asks its credentials for another token, which the anonymous ones refuse.
    assert isinstance(caught.value.__cause__, exceptions.Forbidden | auth_exceptions.InvalidOperation)
    del caught
    gc.collect()


class Broken(AnonymousCredentials):  # type: ignore[misc]
    """Credentials that cannot get a token."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def before_request(self, request: Any, method: Any, url: Any, headers: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (auth_exceptions.RefreshError("invalid_grant"), PermissionDeniedError),
        (auth_exceptions.RefreshError("busy", retryable=True), StoreUnavailableError),
        (auth_exceptions.TransportError("no route to the token server"), StoreUnavailableError),
    ],
    ids=repr,
)
def test_storage_credentials_without_a_token(storage_emulator: str, error: Exception, kind: type[StoreError]) -> None:
    bucket = make_bucket(storage_emulator, credentials=Broken(error))
    with closing(GCSBlobs(bucket, prefix="", timeout=TIMEOUT)) as blobs, pytest.raises(kind) as caught:
        blobs.get_blob(GetBlob("t/a"))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("call", [call for call in BLOBS if call != "ensure"])
def test_a_missing_bucket_never_looks_like_missing_objects(storage_emulator: str, call: str) -> None:
    with (
        closing(GCSBlobs(make_bucket(storage_emulator, "no-such-bucket"), prefix="p")) as blobs,
        pytest.raises(StoreNotFoundError, match="no-such-bucket"),
    ):
        BLOBS[call](blobs)


def test_a_missing_bucket_behind_a_404_without_text(proxied: GCSBlobs, proxy: Proxy) -> None:
    proxy.hook = lambda method, path: (404, "Not Found") if "alt=media" in path else None
    assert proxied.get_blob(GetBlob("t/a")) is None
    proxy.hook = lambda method, path: (404, "Not Found")
    with pytest.raises(StoreNotFoundError):
        proxied.get_blob(GetBlob("t/a"))


@pytest.mark.parametrize("size", [0, 100, 9_000_000])
def test_put_blob_whose_answer_was_lost(proxied: GCSBlobs, proxy: Proxy, size: int) -> None:
    # Of a resumable upload the second request carries the bytes, and a repeated one is a new session.
    proxy.hook = faults([(0, "")], after=1 if size > 8 << 20 else 0)
    data = os.urandom(size)
    proxied.put_blob(PutBlob("t/b", data))
    posts = [line.split()[0] for line in proxy.log]
    assert posts == (["POST", "PUT", "POST", "GET"] if size > 8 << 20 else ["POST", "POST", "GET"])
    assert proxied.get_blob(GetBlob("t/b")) == data


def in_pieces(data: bytes, *, checked: bool = True) -> PutBlob:
    starts = range(0, len(data), 1_000_000)
    return PutBlob("t/b", Pieces(lambda: (data[at : at + 1_000_000] for at in starts), hashed=True), checked)


@pytest.mark.parametrize("lost", [0, 1, 2], ids=["the session", "a chunk", "the answer"])
def test_pieces_are_sent_again(proxied: GCSBlobs, proxy: Proxy, lost: int) -> None:
    """An upload in pieces takes a request for each 8 MiB. A repeated one is a new session."""
    proxy.hook = faults([(503, "later")], after=lost)
    data = os.urandom(9_000_000)
    effect, whole = in_pieces(data), ["POST", "PUT", "PUT"]
    proxied.put_blob(effect)
    assert [line.split()[0] for line in proxy.log] == [*whole[: lost + 1], *whole]
    assert proxied.get_blob(GetBlob("t/b")) == data
    assert (effect.size, effect.sha256()) == (len(data), hashlib.sha256(data).hexdigest())


def test_few_bytes_in_pieces_are_one_request(proxied: GCSBlobs, proxy: Proxy) -> None:
    proxied.put_blob(in_pieces(os.urandom(3_000_000)))
    assert [line.split()[0] for line in proxy.log] == ["POST"]


def test_pieces_that_change_on_the_way_up_are_deleted(hurried: GCSBlobs, proxied: GCSBlobs, proxy: Proxy) -> None:
    """The service's checksum shows it, and the next attempt starts over."""
    data = b"state content" + bytes(9_000_000)
    proxy.spoil = lambda body: body.replace(b"state content", b"state c0ntent")
    with pytest.raises(StoreError):
        hurried.put_blob(in_pieces(data))
    assert proxied.list_blobs(ListBlobs("")) == []
    proxied.put_blob(in_pieces(data, checked=False))
    assert proxied.get_blob(GetBlob("t/b")) == data.replace(b"content", b"c0ntent")


def test_the_size_of_an_empty_object_may_be_left_out(blobs: GCSBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    told = storage.Blob.size
    monkeypatch.setattr(storage.Blob, "size", property(lambda blob: told.fget(blob) or None))
    for _ in range(2):
        blobs.put_blob(PutBlob("t/empty", b""))
    assert [info.size for info in blobs.list_blobs(ListBlobs(""))] == [0]
    with pytest.raises(StoreError):
        blobs.put_blob(PutBlob("t/empty", b"x"))


def test_put_blob_never_replaces(proxied: GCSBlobs) -> None:
    proxied.put_blob(PUT)
    for data in (b"other", b"STATE CONTENT", b""):
        with pytest.raises(StoreError, match="already exists with other content") as caught:
            proxied.put_blob(PutBlob(PUT.name, data))
        assert isinstance(caught.value.__cause__, exceptions.PreconditionFailed)
    assert proxied.get_blob(GetBlob(PUT.name)) == PUT.data


@pytest.mark.parametrize("size", [100, 9_000_000])
def test_put_blob_sends_a_checksum_that_the_service_checks(
    hurried: GCSBlobs, proxied: GCSBlobs, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    # Damage between our checksum and the wire: the sum is that of other bytes.
    real = google_crc32c.value
    monkeypatch.setattr(google_crc32c, "value", lambda data: real(data) ^ 1)
    with pytest.raises(StoreError):
        hurried.put_blob(PutBlob("t/damaged", bytes(size)))
    assert proxied.list_blobs(ListBlobs("")) == []


# The second is a resumable upload, whose checksum goes ahead of the bytes.
WIRED = [b"state content", b"state content" + bytes(9_000_000)]


@pytest.mark.parametrize("data", WIRED, ids=len)
def test_bytes_that_change_on_the_way_up_are_refused(
    hurried: GCSBlobs, proxied: GCSBlobs, proxy: Proxy, data: bytes
) -> None:
    proxy.spoil = lambda body: body.replace(b"state content", b"state c0ntent")
    with pytest.raises(StoreError):
        hurried.put_blob(PutBlob("t/a", data))
    proxy.spoil = lambda body: body
    assert proxied.list_blobs(ListBlobs("")) == []
    proxied.put_blob(PutBlob("t/a", data))
    assert proxied.hash_blob(HashBlob("t/a")) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("data", WIRED, ids=len)
def test_bytes_that_change_on_the_way_up_without_a_checksum(proxied: GCSBlobs, proxy: Proxy, data: bytes) -> None:
    """Only reading back notices them. With a checksum, the service would refuse them."""
    proxy.spoil = lambda body: body.replace(b"state content", b"state c0ntent")
    proxied.put_blob(PutBlob("t/a", data, checked=False))
    damaged = data.replace(b"content", b"c0ntent")
    assert proxied.hash_blob(HashBlob("t/a")) == hashlib.sha256(damaged).hexdigest()
    assert proxied.get_blob(GetBlob("t/a")) == damaged


def test_a_hash_whose_answer_was_lost(proxied: GCSBlobs, proxy: Proxy) -> None:
    """The hash begins again: half of an earlier answer does not count."""
    proxied.put_blob(PUT)
    proxy.hook = faults([(0, ""), (503, "later")])
    assert proxied.hash_blob(HashBlob(PUT.name)) == hashlib.sha256(PUT.data).hexdigest()


def test_a_hash_takes_no_memory(blobs: GCSBlobs) -> None:
    """Reading back a large state must not double what the process takes."""
    size = 48 << 20
    blobs.put_blob(PutBlob("t/large", bytes(size)))
    blobs.hash_blob(HashBlob("t/large"))
    tracemalloc.start()
    try:
        found = blobs.hash_blob(HashBlob("t/large"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == hashlib.sha256(bytes(size)).hexdigest()
    assert peak < size / 4


def test_damage_on_the_way_up_is_tried_again(proxied: GCSBlobs, proxy: Proxy) -> None:
    proxy.hook = faults([(400, 'Provided CRC32C "AAAAAA==" doesn\'t match calculated CRC32C "BBBBBB==".')])
    proxied.put_blob(PUT)
    assert proxied.get_blob(GetBlob(PUT.name)) == PUT.data


def test_get_blob_past_the_end(blobs: GCSBlobs) -> None:
    blobs.put_blob(PutBlob("a", b"0123"))
    blobs.put_blob(PutBlob("empty", b""))
    assert blobs.get_blob(GetBlob("a", 4)) == b""
    assert blobs.get_blob(GetBlob("a", 9, 2)) == b""
    assert blobs.get_blob(GetBlob("a", 1, 0)) == b""
    assert blobs.get_blob(GetBlob("empty", 0, 5)) == b""
    assert blobs.get_blob(GetBlob("missing", 0, 0)) is None


def test_delete_blobs_is_one_request(proxied: GCSBlobs, proxy: Proxy) -> None:
    names = tuple(f"t/ü {i}/%2F" for i in range(100))
    with futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: proxied.put_blob(PutBlob(name, b"x")), names))
    proxy.log.clear()
    proxied.delete_blobs(DeleteBlobs((*names[:99], "t/missing")))
    assert proxy.log == ["POST /batch/storage/v1"]
    assert [info.name for info in proxied.list_blobs(ListBlobs(""))] == [names[99]]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_delete_blobs_where_there_are_no_batches(proxied: GCSBlobs, proxy: Proxy, status: int) -> None:
    proxy.hook = lambda method, path: (status, "no such thing") if path.startswith("/batch") else None
    for _ in range(2):
        for name in ("a", "b"):
            proxied.put_blob(PutBlob(name, b"x"))
        proxied.delete_blobs(DeleteBlobs(("a", "missing", "b")))
        assert proxied.list_blobs(ListBlobs("")) == []
    assert proxy.log.count("POST /batch/storage/v1") == 1


@pytest.mark.parametrize(
    ("store", "status", "kind"), [("proxied", 403, PermissionDeniedError), ("hurried", 503, StoreUnavailableError)]
)
def test_delete_blobs_of_which_one_fails(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, store: str, status: int, kind: type[StoreError]
) -> None:
    from google.cloud.storage.batch import Batch

    real = Batch.finish

    def finish(self: Any, raise_exception: bool = True) -> Any:
        answers = real(self, raise_exception)
        answers[1].status_code = status
        return answers

    monkeypatch.setattr(Batch, "finish", finish)
    with pytest.raises(kind):
        request.getfixturevalue(store).delete_blobs(DeleteBlobs(("a", "b", "c")))


def test_ensure_bucket_creates_it(storage_emulator: str, project_id: str) -> None:
    bucket = make_bucket(storage_emulator, f"new-{project_id}")
    with closing(GCSBlobs(bucket, prefix="")) as blobs:
        assert "was created in EUROPE-WEST3" in blobs.ensure_bucket(EnsureBucket(location="EUROPE-WEST3"))
        assert "exists" in blobs.ensure_bucket(EnsureBucket())
        made = bucket.client.get_bucket(bucket.name).iam_configuration
        assert made.uniform_bucket_level_access_enabled
        assert made.public_access_prevention == "enforced"
        blobs.put_blob(PUT)
        assert blobs.get_blob(GetBlob(PUT.name)) == PUT.data


def test_ensure_bucket_tells_about_soft_delete(storage_emulator: str, project_id: str) -> None:
    bucket = make_bucket(storage_emulator, f"soft-{project_id}")
    bucket.soft_delete_policy.retention_duration_seconds = 7 * 86400
    bucket.create()
    with closing(GCSBlobs(make_bucket(storage_emulator, bucket.name), prefix="")) as blobs:
        told = blobs.ensure_bucket(EnsureBucket())
    assert "keeps deleted objects for 7 days, and bills them" in told
    assert f"gs://{bucket.name} --clear-soft-delete` saves that storage, and ends the 7 days" in told
    assert "objects that were deleted by mistake can be restored" in told
    bucket.client.close()


def test_ensure_bucket_without_the_right_to_look(proxied: GCSBlobs, proxy: Proxy, bucket_name: str) -> None:
    proxy.hook = lambda method, path: (403, "storage.buckets.get") if f"b/{bucket_name}?" in path else None
    assert "cannot be read without roles/storage.admin" in proxied.ensure_bucket(EnsureBucket())


def test_ensure_bucket_without_the_right_to_create(proxy: Proxy) -> None:
    proxy.hook = lambda method, path: (403, "storage.buckets.create") if method == "POST" else None
    with (
        closing(GCSBlobs(make_bucket(proxy.url, "no-such-bucket"), prefix="")) as blobs,
        pytest.raises(PermissionDeniedError, match=r"roles/storage\.admin"),
    ):
        blobs.ensure_bucket(EnsureBucket())


def test_ensure_bucket_when_the_answer_to_its_creation_was_lost(proxy: Proxy, project_id: str) -> None:
    proxy.hook = faults([(0, "")], after=1)
    with closing(GCSBlobs(make_bucket(proxy.url, f"lost-{project_id}"), prefix="", timeout=PATIENCE)) as blobs:
        assert f"lost-{project_id}" in blobs.ensure_bucket(EnsureBucket())
        assert blobs.list_blobs(ListBlobs("")) == []


def test_settings_without_the_right_to_look(proxied: GCSBlobs, proxy: Proxy) -> None:
    proxy.hook = lambda method, path: (403, "storage.buckets.get")
    assert proxied.read_bucket(ReadBucket()) == BucketSettings("p/", rules=None)


def test_rules_are_set_once_when_the_answer_was_lost(proxied: GCSBlobs, proxy: Proxy) -> None:
    proxy.hook = faults([(0, "")])
    assert not proxied.set_lifecycle(SetLifecycle((ABORT,), 1)), "a caller that needs to know reads again"
    assert proxied.read_bucket(ReadBucket()) == BucketSettings("p/", (ABORT,), 2, location="US")


def test_rules_of_a_kind_that_the_client_does_not_know_are_kept(
    proxied: GCSBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {"action": {"type": "Compress", "level": 3}, "condition": {"age": 7}}
    answer = {"metageneration": "5", "lifecycle": {"rule": [unknown, ABORT]}}
    monkeypatch.setattr(storage.Bucket, "reload", lambda self, **options: self._set_properties(answer))
    assert proxied.read_bucket(ReadBucket()) == BucketSettings("p/", (unknown, ABORT), 5)


def test_the_pool_holds_as_many_connections_as_threads(
    storage_emulator: str, bucket_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    blobs = GCSBlobs(make_bucket(storage_emulator, bucket_name), prefix="p", max_connections=24)
    with closing(blobs), futures.ThreadPoolExecutor(24) as threads:
        list(threads.map(lambda i: blobs.put_blob(PutBlob(str(i), bytes(10_000))), range(96)))
        assert len(blobs.list_blobs(ListBlobs(""))) == 96
    # urllib3 warns of every connection that it throws away.
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_prefixes_share_nothing(storage_emulator: str, bucket_name: str) -> None:
    bucket = make_bucket(storage_emulator, bucket_name)
    stores = [GCSBlobs(bucket, prefix=prefix) for prefix in ("", "a", "a/b")]
    for store in stores[1:]:
        store.put_blob(PutBlob("x", b"x"))
    assert [[info.name for info in store.list_blobs(ListBlobs(""))] for store in stores] == [
        ["a/b/x", "a/x"],
        ["b/x", "x"],
        ["x"],
    ]
    stores[0].close()
    assert stores[1].get_blob(GetBlob("x")) == b"x", "one store's close leaves the client to the others"
    for store in stores:
        store.close()


@pytest.mark.parametrize("options", [{"prefix": "/a"}, {"prefix": "a/"}, {"prefix": "", "timeout": 0}])
def test_storage_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        GCSBlobs(make_bucket("http://127.0.0.1:1"), **options)


def test_empty_effects_ask_nobody(dead_port: str) -> None:
    store = FirestoreDocuments(make_client(host=dead_port), timeout=TIMEOUT)
    assert store.get_docs(GetDocs(())) == {}
    assert store.query_docs(QueryDocs("c", limit=0)) == []
    assert store.commit(Commit(())) == ()


def test_a_client_made_for_the_emulator_stays_with_it(
    client: firestore.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST")
    store = FirestoreDocuments(client)
    asyncio.run(use(store, "a"))
    written = store.commit(Commit((Merge("c/a", {"v": 2}), Delete("c/b"))))
    assert written is not None
    assert client.document("c/a").get().to_dict() == {"v": 2}
    store.close()
