"""Documents in Cloud Firestore, on the client's own channel.

Requests and answers are raw protobuf messages. Without the proto-plus wrappers of the generated client, every RPC takes
20 to 30% less time. This module does what else that client would do: routing headers, deadlines, retries and errors.
The client's defaults would block for 60 s on a commit that is too large, and for 300 s on a server that is gone.

Synchronous methods use the caller's client. Asynchronous methods use native grpc.aio channels, one per event loop,
created inside that loop on first use. They are like `AsyncClient`'s, but without its logging interceptor, which costs
0.08 ms per call.

After a fork, the child creates a new client. It does not touch the inherited one, because the sockets are the parent's.
grpc itself survives a fork unless GRPC_ENABLE_FORK_SUPPORT=0 is set. grpc.aio does not, if the parent has a grpc.aio
channel open: the child's channels then hang or crash (grpcio 1.85). So channels of closed loops are closed before every
fork. If loops of the parent still run, the child performs asynchronous calls on threads.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from operator import attrgetter
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
import grpc.experimental
from google.api_core.gapic_v1 import routing_header
from google.cloud import firestore
from google.cloud.firestore_v1.services.firestore.transports import (
    FirestoreGrpcAsyncIOTransport,
    FirestoreGrpcTransport,
)
from google.cloud.firestore_v1.types import document, query
from google.cloud.firestore_v1.types import firestore as rpcs

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    Delete,
    Doc,
    Docs,
    ExemptField,
    GetDocs,
    Indexing,
    ListCollections,
    Merge,
    QueryDocs,
    ReadIndexing,
    Write,
)
from langgraph_gcs_saver.engine.per_process import AtFork, PerProcess
from langgraph_gcs_saver.engine.pool import Pool
from langgraph_gcs_saver.errors import (
    InvalidOptionError,
    PermissionDeniedError,
    SaverClosedError,
    StoreError,
    StoreNotFoundError,
)
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.google import private
from langgraph_gcs_saver.stores.google.retry import OnRetry, Patience, TryAgain
from langgraph_gcs_saver.stores.values import from_fields, set_fields, set_value

T = TypeVar("T")

FORKED_THREADS = 16
"""Most asynchronous calls at the same time in a forked process that cannot use grpc.aio."""

# The options of google-cloud-firestore's clients (keepalive for middleboxes, no size limits of grpc), and our own.
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # grpc's default is 120 s. With it, calls failed for 30 to 37 s after an outage of 75 s; with 2 s, for 2 s.
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

# The thread that reads a stream also receives it. Otherwise grpc starts a thread for each stream.
_SYNC_OPTIONS = ((grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),)

_RETRY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
    }
)

# Causes that only the text of a status shows. Emulator 1.19 and grpc itself word the first one differently.
_TOO_LARGE = re.compile(
    r"(exceeds )?maximum (entity )?size|larger than max|payload size exceeds|too (large|big)", re.IGNORECASE
)
_NO_DATABASE = re.compile(r"\bdatabase\b.{0,500}does not exist", re.IGNORECASE | re.DOTALL)
_NO_TOKEN = re.compile(r"Getting metadata from plugin failed")
_NETWORK = re.compile(r"connection|retrieve|retries|timed? ?out|unreachable|temporar", re.IGNORECASE)
_DATASTORE_MODE = re.compile(r"Datastore Mode", re.IGNORECASE)
_INDEX = re.compile(r"requires an? (\w{1,30} ){0,4}index", re.IGNORECASE)

_OPERATORS: Any = query.StructuredQuery.FieldFilter.Operator
_EQUAL = int(_OPERATORS.EQUAL)
_AT_LEAST = int(_OPERATORS.GREATER_THAN_OR_EQUAL)
_GREATER = int(_OPERATORS.GREATER_THAN)
_LESS = int(_OPERATORS.LESS_THAN)
_IS_NULL = int(query.StructuredQuery.UnaryFilter.Operator.IS_NULL)
_AND = int(query.StructuredQuery.CompositeFilter.Operator.AND)
_ASCENDING = int(query.StructuredQuery.Direction.ASCENDING)

_route: Any = routing_header.to_grpc_metadata

_NAME = "__name__"


@dataclass(frozen=True)
class _Method:
    """An RPC: its name, message classes, the request's field that routes it, its service, and the role it needs."""

    name: str
    request: Any
    response: Any
    routed_by: str
    stream: bool = False
    service: str = "google.firestore.v1.Firestore"
    role: str = "roles/datastore.user"

    def on(self, channel: Any) -> Callable[..., Any]:
        make = channel.unary_stream if self.stream else channel.unary_unary
        stub: Callable[..., Any] = make(
            f"/{self.service}/{self.name}",
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )
        return stub


_GET = _Method("GetDocument", rpcs.GetDocumentRequest.meta.pb, document.Document.meta.pb, "name")
_BATCH_GET = _Method(
    "BatchGetDocuments",
    rpcs.BatchGetDocumentsRequest.meta.pb,
    rpcs.BatchGetDocumentsResponse.meta.pb,
    "database",
    stream=True,
)
_QUERY = _Method("RunQuery", rpcs.RunQueryRequest.meta.pb, rpcs.RunQueryResponse.meta.pb, "parent", stream=True)
_LIST = _Method(
    "ListCollectionIds",
    rpcs.ListCollectionIdsRequest.meta.pb,
    rpcs.ListCollectionIdsResponse.meta.pb,
    "parent",
)
_COMMIT = _Method("Commit", rpcs.CommitRequest.meta.pb, rpcs.CommitResponse.meta.pb, "database")


@cache
def _admin() -> tuple[_Method, _Method]:
    """`GetField` and `UpdateField` of the Admin API, which has the same host and accepts the same credentials.

    The import takes 0.2 s and few processes set up a store, so it happens on first use.
    """
    from google.cloud.firestore_admin_v1.types import field, firestore_admin  # noqa: PLC0415
    from google.longrunning import operations_pb2  # noqa: PLC0415

    service, role = "google.firestore.admin.v1.FirestoreAdmin", "roles/datastore.indexAdmin"
    get, update = firestore_admin.GetFieldRequest.meta.pb, firestore_admin.UpdateFieldRequest.meta.pb
    return (
        _Method("GetField", get, field.Field.meta.pb, "name", service=service, role=role),
        _Method("UpdateField", update, operations_pb2.Operation, "field.name", service=service, role=role),
    )


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request, and how to read its answers.

    Attributes:
        method: The RPC.
        request: The request's message.
        parse: Makes the result from the answers, or from `None` if the service declined.
        what: The purpose, for messages.
        declined: Whether an error's status is a regular negative result.
    """

    method: _Method
    request: Any
    parse: Callable[[list[Any] | None], T]
    what: str
    declined: Callable[[grpc.StatusCode, str], bool] = lambda code, details: False  # noqa: ARG005

    @property
    def routing(self) -> tuple[str, str]:
        by = self.method.routed_by
        pair: tuple[str, str] = _route(((by, attrgetter(by)(self.request)),))
        return pair


class _Stubs:
    """The RPCs on one channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self._made = {method.name: method.on(channel) for method in (_GET, _BATCH_GET, _QUERY, _COMMIT)}

    def of(self, method: _Method) -> Callable[..., Any]:
        """An RPC's stub. Stubs of rare RPCs are created on first use."""
        return self._made.get(method.name) or self._made.setdefault(method.name, method.on(self.channel))

    def close_now(self) -> None:
        """Close an asynchronous channel without awaiting. If its loop still runs, call this in the loop's thread."""
        closing = self.channel.close()  # without a grace period it never waits
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # no loop runs, and grpcio before 1.83 needs one to find the calls to cancel
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(closing)
            finally:
                loop.close()
            return
        try:
            closing.send(None)
        except StopIteration:
            return
        closing.close()


@dataclass
class _Process:
    """The channels and threads of one process. A forked child starts with a new object."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stubs: _Stubs | None = None
    loops: dict[asyncio.AbstractEventLoop, _Stubs] = field(default_factory=dict)
    threads: Pool | None = None

    def purge(self) -> None:
        """Close the channels of closed loops."""
        with self.lock:
            closed = [self.loops.pop(loop) for loop in list(self.loops) if loop.is_closed()]
        for stubs in closed:
            stubs.close_now()


class FirestoreDocuments:
    """A `DocumentStore` in a Firestore database (Native mode).

    Args:
        client: The client for synchronous methods. The channels of event loops and of forked processes get its project,
            database, credentials, options and emulator.
        root: Path of the document below which all documents are stored; empty for the top of the database.
        timeout: Seconds that one call may take, with all its attempts.
        owns_client: Whether `close` also closes the channel of `client`.
        on_retry: Called before each further attempt of a request.

    Raises:
        InvalidOptionError: `root` is not a document's path, or `timeout` is not a positive number.
    """

    def __init__(
        self,
        client: firestore.Client,
        *,
        root: str = "",
        timeout: float = 30.0,
        owns_client: bool = False,
        on_retry: OnRetry | None = None,
    ) -> None:
        segments = root.split("/") if root else []
        if len(segments) % 2 or not all(segments):
            raise InvalidOptionError(
                f"root={root!r} is not the path of a document. It must have an even number of segments, "
                "such as 'apps/my-app', or be empty."
            )
        if not timeout > 0:
            raise InvalidOptionError(f"timeout={timeout!r} must be a positive number of seconds.")
        self._client = client
        self._timeout = timeout
        self._owns_client = owns_client
        self.on_retry = on_retry
        self._closed = False
        self._processes = PerProcess(_Process)
        _at_fork.add(self)
        self._database = private.database_path(client)
        self._base = "/".join([f"{self._database}/documents", *segments])
        self._headers = private.headers(client)
        host = private.emulator(client)
        self._where = f"The Firestore emulator at {host}" if host else f"Firestore ({self._database})"

    @property
    def project(self) -> str:
        """The project of the database."""
        return str(self._client.project)

    @property
    def database(self) -> str:
        """The name of the database."""
        return self._database.rpartition("/")[2]

    # The effects

    def get_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs`."""
        patience = self._patience()
        if len(set(effect.names)) == 1 and (found := self._perform(self._get_one(effect), patience)) is not None:
            return found
        return self._perform(self._get(effect), patience) if effect.names else Docs()

    async def aget_docs(self, effect: GetDocs) -> Docs:
        """Perform `GetDocs` without blocking the event loop."""
        patience = self._patience()
        if len(set(effect.names)) == 1 and (found := await self._aperform(self._get_one(effect), patience)) is not None:
            return found
        return await self._aperform(self._get(effect), patience) if effect.names else Docs()

    def query_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs`."""
        return self._perform(self._query(effect)) if effect.limit != 0 else []

    async def aquery_docs(self, effect: QueryDocs) -> list[Doc]:
        """Perform `QueryDocs` without blocking the event loop."""
        return await self._aperform(self._query(effect)) if effect.limit != 0 else []

    def list_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections`."""
        patience, found, token = self._patience(), list[str](), ""
        while True:
            page, token = self._perform(self._list(effect, token), patience)
            found += page
            if not token:
                return sorted(found)

    async def alist_collections(self, effect: ListCollections) -> list[str]:
        """Perform `ListCollections` without blocking the event loop."""
        patience, found, token = self._patience(), list[str](), ""
        while True:
            page, token = await self._aperform(self._list(effect, token), patience)
            found += page
            if not token:
                return sorted(found)

    def commit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit`."""
        return self._perform(self._commit(effect)) if effect.writes else ()

    async def acommit(self, effect: Commit) -> tuple[int, ...] | None:
        """Perform `Commit` without blocking the event loop."""
        return await self._aperform(self._commit(effect)) if effect.writes else ()

    def read_indexing(self, effect: ReadIndexing) -> Indexing | None:
        """Perform `ReadIndexing`; the emulator has no such settings."""
        return self._perform(self._read_indexing(effect))

    async def aread_indexing(self, effect: ReadIndexing) -> Indexing | None:
        """Perform `ReadIndexing` without blocking the event loop."""
        return await self._aperform(self._read_indexing(effect))

    def exempt_field(self, effect: ExemptField) -> None:
        """Perform `ExemptField`."""
        self._perform(self._exempt(effect))

    async def aexempt_field(self, effect: ExemptField) -> None:
        """Perform `ExemptField` without blocking the event loop."""
        await self._aperform(self._exempt(effect))

    # Requests and answers

    def _get_one(self, effect: GetDocs) -> _Call[Docs | None]:
        """A read of one document without a stream, which is cheaper for the client and the service.

        Its result is `None` for NOT_FOUND: the document or the database is missing, and only the text says which. A
        batched get distinguishes the two.
        """
        request = _GET.request(name=f"{self._base}/{effect.names[0]}")
        if effect.mask is not None:
            request.mask.field_paths.extend(map(_path, effect.mask or (_NAME,)))

        def parse(answers: list[Any] | None) -> Docs | None:
            return None if answers is None else Docs((self._doc(answers[0]),))

        return _Call(_GET, request, parse, "to read a document", lambda code, _: code is grpc.StatusCode.NOT_FOUND)

    def _get(self, effect: GetDocs) -> _Call[Docs]:
        request = _BATCH_GET.request(database=self._database)
        request.documents.extend(f"{self._base}/{name}" for name in dict.fromkeys(effect.names))
        if effect.mask is not None:
            request.mask.field_paths.extend(map(_path, effect.mask or (_NAME,)))

        def parse(answers: list[Any] | None) -> Docs:
            found = answers or ()
            times = [_nanoseconds(answer.read_time) for answer in found if answer.HasField("read_time")]
            return Docs(
                (self._doc(answer.found) for answer in found if answer.HasField("found")), max(times, default=0)
            )

        return _Call(_BATCH_GET, request, parse, f"to read {len(request.documents)} documents")

    def _query(self, effect: QueryDocs) -> _Call[list[Doc]]:
        parent, _, collection = f"{self._base}/{effect.collection}".rpartition("/")
        if effect.group:  # Firestore allows no other parent; the range of names limits the query to the root
            parent = f"{self._database}/documents"
        request = _QUERY.request(parent=parent)
        select = request.structured_query
        select.from_.add(collection_id=collection, all_descendants=effect.group)
        select.order_by.add(direction=_ASCENDING).field.field_path = _NAME
        if effect.mask is not None:
            for name in effect.mask or (_NAME,):
                select.select.fields.add().field_path = _path(name)
        if effect.limit is not None:
            select.limit.value = effect.limit
        select.where.composite_filter.op = _AND
        filters = select.where.composite_filter.filters
        for path, value in effect.where:
            if value is None:
                unary = filters.add().unary_filter
                unary.op = _IS_NULL
                unary.field.field_path = _path(path)
            else:
                equal = filters.add().field_filter
                equal.op = _EQUAL
                equal.field.field_path = _path(path)
                set_value(equal.value, value)
        for operator, edge in ((_AT_LEAST, effect.start), (_GREATER, effect.after), (_LESS, effect.end)):
            if edge is not None:
                bound = filters.add().field_filter
                bound.op = operator
                bound.field.field_path = _NAME
                bound.value.reference_value = f"{self._base}/{edge}"
        if not filters:
            select.ClearField("where")

        def parse(answers: list[Any] | None) -> list[Doc]:
            return [self._doc(answer.document) for answer in answers or () if answer.HasField("document")]

        return _Call(_QUERY, request, parse, f"to query {collection!r}")

    def _list(self, effect: ListCollections, token: str) -> _Call[tuple[list[str], str]]:
        request = _LIST.request(parent=f"{self._base}/{effect.document}", page_token=token)

        def parse(answers: list[Any] | None) -> tuple[list[str], str]:
            found = answers or [_LIST.response()]
            return list(found[0].collection_ids), found[0].next_page_token

        return _Call(_LIST, request, parse, "to list the collections below a document")

    def _commit(self, effect: Commit) -> _Call[tuple[int, ...] | None]:
        request = _COMMIT.request(database=self._database)
        for write in effect.writes:
            self._write(request.writes.add(), write)

        def parse(answers: list[Any] | None) -> tuple[int, ...] | None:
            if answers is None:
                return None
            results = answers[0].write_results
            return tuple(
                0 if isinstance(write, Delete) else _nanoseconds(result.update_time)
                for write, result in zip(effect.writes, results, strict=True)
            )

        return _Call(
            _COMMIT,
            request,
            parse,
            f"to commit {len(effect.writes)} documents of {request.ByteSize():,} bytes",
            _precondition_failed,
        )

    def _write(self, target: Any, write: Write) -> None:
        name = f"{self._base}/{write.name}"
        if isinstance(write, Delete):
            target.delete = name
        else:
            target.update.name = name
            set_fields(target.update.fields, write.fields)
        if isinstance(write, Create):
            target.current_document.exists = False
            return
        if isinstance(write, Merge):
            target.update_mask.SetInParent()  # an empty mask merges no field; no mask replaces the document
            target.update_mask.field_paths.extend(map(_quote, (*write.fields, *write.remove)))
        if write.update_time is not None:
            seconds, nanoseconds = divmod(write.update_time, 10**9)
            target.current_document.update_time.seconds = seconds
            target.current_document.update_time.nanos = nanoseconds

    def _read_indexing(self, effect: ReadIndexing) -> _Call[Indexing | None]:
        get, _ = _admin()

        def parse(answers: list[Any] | None) -> Indexing | None:
            if answers is None:
                return None
            found = answers[0].index_config
            if found.uses_ancestor_config or found.reverting:
                return "automatic"
            return "chosen" if found.indexes else "exempt"

        request = get.request(name=self._field(effect))
        what = f"to read how {effect.collection}.{effect.field} is indexed"
        return _Call(get, request, parse, what, lambda code, _: code is grpc.StatusCode.UNIMPLEMENTED)

    def _exempt(self, effect: ExemptField) -> _Call[None]:
        _, update = _admin()
        request = update.request()
        request.field.name = self._field(effect)
        request.field.index_config.SetInParent()  # an empty config: no indexes
        # The mask protects other settings of the field, such as a time to live.
        request.update_mask.paths.append("index_config")
        what = f"to take {effect.collection}.{effect.field} out of its indexes"
        return _Call(update, request, lambda _: None, what)

    def _field(self, effect: ReadIndexing | ExemptField) -> str:
        return f"{self._database}/collectionGroups/{effect.collection}/fields/{effect.field}"

    def _doc(self, found: Any) -> Doc:
        return Doc(
            name=found.name[len(self._base) + 1 :],
            fields=from_fields(found.fields),
            create_time=_nanoseconds(found.create_time),
            update_time=_nanoseconds(found.update_time),
        )

    # Calling

    def _perform(self, call: _Call[T], patience: Patience | None = None) -> T:
        headers = (*self._headers, call.routing)

        def attempt(seconds: float) -> T:
            stub = self._stubs().of(call.method)
            try:
                return call.parse(_receive(stub, call, timeout=seconds, metadata=headers))
            except grpc.RpcError as error:
                return self._answered(error, call)
            except ValueError as error:
                self._closed_under(error)
                raise

        return (patience or self._patience()).perform(call.method.name, call.what, attempt)

    async def _aperform(self, call: _Call[T], patience: Patience | None = None) -> T:
        patience = patience or self._patience()
        if _no_aio.is_set():
            return await self._threads().aperform(partial(self._perform, call, patience))
        headers = (*self._headers, call.routing)

        async def attempt(seconds: float) -> T:
            stub = self._loop_stubs().of(call.method)
            try:
                return call.parse(await _areceive(stub, call, timeout=seconds, metadata=headers))
            except grpc.RpcError as error:
                return self._answered(error, call)
            except grpc.aio.UsageError as error:
                self._closed_under(error)
                raise
            except asyncio.CancelledError as error:
                # Closing a channel cancels its calls. Then grpc raises this in a task that was not canceled.
                if not _cancelled_by_caller():
                    self._closed_under(error)
                raise

        return await patience.aperform(call.method.name, call.what, attempt)

    def _patience(self) -> Patience:
        return Patience(self._where, self._timeout, self.on_retry)

    def _answered(self, error: Any, call: _Call[T]) -> T:
        """The result for an error if the call was declined. Otherwise raises `TryAgain` or the error for the caller."""
        code: grpc.StatusCode = error.code()
        details: str = error.details() or ""
        if code is grpc.StatusCode.CANCELLED:
            self._closed_under(error)
        if code in _RETRY and not _TOO_LARGE.search(details) and not _bad_credentials(details):
            raise TryAgain(code.name) from error
        if call.declined(code, details):
            return call.parse(None)
        raise self._error(code, details, call) from error

    def _error(self, code: grpc.StatusCode, details: str, call: _Call[Any]) -> StoreError:
        if _bad_credentials(details):
            return PermissionDeniedError(
                f"{self._where} was not asked {call.what}, because the credentials give no access token. Renew them, "
                f"for example with `gcloud auth application-default login`. They need the role {call.method.role}."
            )
        if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
            return PermissionDeniedError(
                f"{self._where} refused {call.what} ({code.name}: {details[:300]}). Grant the credentials the role "
                f"{call.method.role} in project {self._client.project!r}, and enable its Cloud Firestore API."
            )
        if code is grpc.StatusCode.NOT_FOUND:
            return StoreNotFoundError(
                f"Project {self.project!r} has no Firestore database {self.database!r}. Create it with `gcloud "
                f"firestore databases create --project={self.project} --database='{self.database}' "
                "--location=…`, or name another project or database."
            )
        if _DATASTORE_MODE.search(details):
            return StoreError(
                f"{self._where} is a database in Datastore mode, and checkpoints need one in Native mode. "
                "Create another database in the same project, and pass its name."
            )
        if _INDEX.search(details):
            return StoreError(
                f"{self._where} refused {call.what}, because an index is missing ({details[:500]}). Every query here "
                "uses automatic single-field indexes. Remove the exemption for `ns`, `format`, `run_id` or `filter`."
            )
        if _TOO_LARGE.search(details):
            return StoreError(
                f"{self._where} refused {call.what}: too large. A document may have "
                f"{limits.DOCUMENT_BYTES >> 20} MiB, and a request {limits.COMMIT_BYTES >> 20} MiB "
                f"({limits.EMULATOR_REQUEST_BYTES >> 20} MiB in the emulator)."
            )
        return StoreError(f"{self._where} refused {call.what} ({code.name}). The cause of this exception says why.")

    # Clients

    def _process(self) -> _Process:
        if self._closed:
            raise SaverClosedError("This saver is closed; make a new one.")
        return self._processes.get()

    def _stubs(self) -> _Stubs:
        process = self._process()
        if process.stubs is None:
            with process.lock:
                if process.stubs is None:
                    client = private.twin(self._client) if self._processes.is_forked else self._client
                    ours = self._owns_client or client is not self._client
                    process.stubs = _Stubs(_channel(client) if ours else private.channel(client))
        return process.stubs

    def _loop_stubs(self) -> _Stubs:
        process = self._process()
        loop = asyncio.get_running_loop()
        stubs = process.loops.get(loop)
        if stubs is None:
            process.purge()
            stubs = _Stubs(_aio_channel(self._client))
            with process.lock:
                process.loops[loop] = stubs
        return stubs

    def _threads(self) -> Pool:
        process = self._process()
        with process.lock:
            if process.threads is None:
                process.threads = Pool("langgraph-gcs-saver-firestore", FORKED_THREADS)
            return process.threads

    def _closed_under(self, error: BaseException) -> None:
        if self._closed:
            raise SaverClosedError("This saver was closed during a call; make a new one.") from error

    # Closing

    def close(self) -> None:
        """Close the channels that this store created. Calls under way raise `SaverClosedError`. Idempotent.

        Other event loops that still run close their channels themselves, at their next chance.
        """
        self._release(None)

    async def aclose(self) -> None:
        """Close like `close`. The running loop's channel is closed when this returns. Idempotent."""
        self._release(asyncio.get_running_loop())

    def _release(self, here: asyncio.AbstractEventLoop | None) -> None:
        self._closed = True
        process = self._processes.peek()
        if process is None:
            return
        with process.lock:
            stubs, process.stubs = process.stubs, None
            loops, process.loops = process.loops, {}
            threads, process.threads = process.threads, None
        if stubs is not None and (self._owns_client or self._processes.is_forked):
            stubs.channel.close()
        if threads is not None:
            threads.close(0)
        for loop, loop_stubs in loops.items():
            if loop is here or not loop.is_running():
                loop_stubs.close_now()
                continue
            try:
                loop.call_soon_threadsafe(loop_stubs.close_now)
            except RuntimeError:  # the loop was closed in the meantime
                loop_stubs.close_now()

    # Forks

    def _before_fork(self) -> None:
        process = self._processes.peek()
        if process is not None:
            process.purge()

    def _after_fork(self) -> None:
        if any(process.loops for process in self._processes.all()):
            _no_aio.set()


_no_aio = threading.Event()
"""Set in a process whose parent had a grpc.aio channel open when it forked."""

_at_fork = AtFork(
    before=FirestoreDocuments._before_fork,  # noqa: SLF001
    after_in_child=FirestoreDocuments._after_fork,  # noqa: SLF001
)


def _channel(client: firestore.Client) -> Any:
    """The channel that `client` would create, with a lower limit for the pauses between connection attempts."""
    host = private.emulator(client)
    if host is not None:
        return grpc.insecure_channel(host, options=(*_CHANNEL_OPTIONS[1:], *_SYNC_OPTIONS))
    return FirestoreGrpcTransport.create_channel(
        private.target(client),
        credentials=private.credentials(client),
        options=(*_CHANNEL_OPTIONS, *_SYNC_OPTIONS),
    )


def _aio_channel(client: firestore.Client) -> Any:
    """The channel that an `AsyncClient` like `client` creates, without the interceptor.

    It also has no reference cycles with the client, so grpc.aio ends as soon as its last channel is closed.
    """
    host = private.emulator(client)
    if host is not None:
        return grpc.aio.insecure_channel(host, options=_CHANNEL_OPTIONS[1:])
    return FirestoreGrpcAsyncIOTransport.create_channel(
        private.target(client),
        credentials=private.credentials(client),
        options=_CHANNEL_OPTIONS,
    )


def _receive(stub: Callable[..., Any], call: _Call[Any], **options: Any) -> list[Any]:
    answer = stub(call.request, **options)
    if not call.method.stream:
        return [answer]
    try:
        return list(answer)
    except BaseException:
        answer.cancel()
        raise


async def _areceive(stub: Callable[..., Any], call: _Call[Any], **options: Any) -> list[Any]:
    answer = stub(call.request, **options)
    if not call.method.stream:
        return [await answer]
    try:
        return [message async for message in answer]
    except BaseException:
        answer.cancel()
        raise


def _cancelled_by_caller() -> bool:
    # Python 3.10 does not know. Then the answer is yes, because a cancellation must never be swallowed.
    cancelling = getattr(asyncio.current_task(), "cancelling", lambda: 1)
    return bool(cancelling())


def _precondition_failed(code: grpc.StatusCode, details: str) -> bool:
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return not _DATASTORE_MODE.search(details)
    if code is grpc.StatusCode.NOT_FOUND:
        return not _NO_DATABASE.search(details)
    return code is grpc.StatusCode.ALREADY_EXISTS


def _bad_credentials(details: str) -> bool:
    return bool(_NO_TOKEN.search(details) and not _NETWORK.search(details))


def _nanoseconds(timestamp: Any) -> int:
    total: int = timestamp.seconds * 10**9 + timestamp.nanos
    return total


def _quote(name: str) -> str:
    """One segment of a field path."""
    if keys.SIMPLE_FIELD.match(name):
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _path(path: str) -> str:
    """A field path from names joined by dots."""
    return ".".join(map(_quote, path.split(".")))
