"""The complete list of the I/O that this library performs.

A *flow* is a generator that yields effects and receives their results: `doc = yield from GetDocs((name,))`. Flows hold
the logic; `engine.runner` performs the effects, synchronously or asynchronously. An effect describes one idempotent,
retryable RPC, or a local act: a computation, the clock, an event. So a flow can be stopped before any effect, and
retried.

Names of documents are relative to the store's root, and names of objects to its prefix: a flow cannot reach beyond.
Times are integers, nanoseconds since the epoch, by the service's clock. Flows compare them and pass them back as
preconditions. Only the age of a lease's beat is computed from them, and a wrong age endangers no data.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.pieces import Pieces, crc32c
from langgraph_gcs_saver.events import Event
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore

T = TypeVar("T")

Fields = Mapping[str, Any]
"""A document's fields: None, bool, int (64 bits), float, str, bytes, or a mapping of these by str.

A `Time` can be written, too.
"""


@record(frozen=True, slots=True)
class Time:
    """A time as Firestore has it, in nanoseconds since the epoch. TTL policies look at it. No flow reads one."""

    nanoseconds: int


class Effect(Generic[T]):
    """Something to perform, whose result is a `T`. A flow gets the result with `yield from`."""

    __slots__ = ()

    def __iter__(self) -> Generator[Effect[Any], Any, T]:
        result: T = yield self
        return result


class DocumentRequest(Effect[T]):
    """An effect that a store of documents performs within its timeout."""

    __slots__ = ()

    @abstractmethod
    def perform(self, store: DocumentStore) -> T:
        """Perform this."""

    @abstractmethod
    def aperform(self, store: DocumentStore) -> Awaitable[T]:
        """Perform this without blocking the event loop."""


class BlobRequest(Effect[T]):
    """An effect that a store of objects performs. A transfer may last as long as bytes arrive."""

    __slots__ = ()

    @abstractmethod
    def perform(self, store: BlobStore) -> T:
        """Perform this."""


Flow = Generator[Effect[Any], Any, T]
"""A generator that yields effects and returns a `T`."""


# Documents


@record(frozen=True, slots=True)
class Doc:
    """A document as it was read: its name, its fields (all, or those of the mask), and the service's times."""

    name: str
    fields: Fields
    create_time: int
    update_time: int


class Docs(dict[str, Doc]):
    """Documents by name, as one read found them.

    Attributes:
        read_time: When they were read, by the service's clock; 0 if the service did not say it, as for a single name.
    """

    __slots__ = ("read_time",)

    def __init__(self, docs: Iterable[Doc] = (), read_time: int = 0) -> None:
        super().__init__({doc.name: doc for doc in docs})
        self.read_time = read_time


@record(frozen=True, slots=True)
class Create:
    """Create a document, which must not exist yet."""

    name: str
    fields: Fields


@record(frozen=True, slots=True)
class Merge:
    """Set the fields in `fields`, remove those in `remove`, and leave the others.

    Without `update_time`, the document is created if needed. With it, the document must exist, unchanged since. A field
    that is a mapping is replaced as a whole. Without any fields, this only checks the precondition: nothing changes,
    not even the update time. This was measured on the emulator. The API's reference promises it for every write that
    does not change the document.
    """

    name: str
    fields: Fields
    remove: tuple[str, ...] = ()
    update_time: int | None = None


@record(frozen=True, slots=True)
class Delete:
    """Delete a document, if it exists; with `update_time` it must exist, unchanged since."""

    name: str
    update_time: int | None = None


Write = Create | Merge | Delete


@record(frozen=True, slots=True)
class GetDocs(DocumentRequest[Docs]):
    """Read documents by name in one batch; names that do not exist are absent from the result.

    `mask` limits the fields that come back.
    """

    names: tuple[str, ...]
    mask: tuple[str, ...] | None = None

    def perform(self, store: DocumentStore) -> Docs:
        """Perform this."""
        return store.get_docs(self)

    def aperform(self, store: DocumentStore) -> Awaitable[Docs]:
        """Perform this without blocking the event loop."""
        return store.aget_docs(self)


@record(frozen=True, slots=True)
class QueryDocs(DocumentRequest[list[Doc]]):
    """Documents of one collection, in ascending order of their names.

    Every query of this library has this one shape, which needs no composite index: equality filters, merged from
    automatic single-field indexes, and a range of names.

    Attributes:
        collection: Name of the collection (`lg_threads/x/lg_checkpoints`), or with `group` the bare collection id.
        where: Pairs of a field (`ns`, `filter.step`) and the value that it must equal.
        start: First name, inclusive.
        after: First name, exclusive; for the next page.
        end: Last name, exclusive.
        limit: Most documents to return.
        mask: Fields to return; `None` for all, empty for none (only names and times).
        group: Whether to query all collections with that id below the root. `start` and `end` are then required, and
            `where` must be empty, because automatic indexes serve single collections only.
    """

    collection: str
    where: tuple[tuple[str, Any], ...] = ()
    start: str | None = None
    after: str | None = None
    end: str | None = None
    limit: int | None = None
    mask: tuple[str, ...] | None = None
    group: bool = False

    def __post_init__(self) -> None:
        if self.group and (self.where or self.start is None or self.end is None):
            raise ValueError("a query over all collections of an id takes a range of names and no filter")

    def perform(self, store: DocumentStore) -> list[Doc]:
        """Perform this."""
        return store.query_docs(self)

    def aperform(self, store: DocumentStore) -> Awaitable[list[Doc]]:
        """Perform this without blocking the event loop."""
        return store.aquery_docs(self)


@record(frozen=True, slots=True)
class ListCollections(DocumentRequest[list[str]]):
    """Ids of the collections below a document, in ascending order. The document itself need not exist.

    A collection counts if it holds a document, or if there is one at any depth below it.
    """

    document: str

    def perform(self, store: DocumentStore) -> list[str]:
        """Perform this."""
        return store.list_collections(self)

    def aperform(self, store: DocumentStore) -> Awaitable[list[str]]:
        """Perform this without blocking the event loop."""
        return store.alist_collections(self)


@record(frozen=True, slots=True)
class Commit(DocumentRequest["tuple[int, ...] | None"]):
    """Apply all writes atomically.

    The result is the update time of each written document in order, 0 for a deleted one. It is `None` if a precondition
    failed, and then nothing was applied. A retried commit whose first answer was lost may find its own documents, so
    callers check before they conclude that another writer was first.
    """

    writes: tuple[Write, ...]

    def perform(self, store: DocumentStore) -> tuple[int, ...] | None:
        """Perform this."""
        return store.commit(self)

    def aperform(self, store: DocumentStore) -> Awaitable[tuple[int, ...] | None]:
        """Perform this without blocking the event loop."""
        return store.acommit(self)


# Objects


DIFFERENT = "the two buckets have different bytes"
"""The hash and the checksum of an object that differs between two buckets. It equals no hash and no checksum."""


@record(frozen=True, slots=True)
class BlobInfo:
    """An object as a listing shows it.

    `crc32c` is base64 of the big-endian checksum, as in Cloud Storage. It is `None` if the caller does not need it and
    the store would have to read the object. It is `DIFFERENT` if a store with two buckets has other bytes in each.
    """

    name: str
    size: int
    crc32c: str | None
    create_time: int


@record(frozen=True, slots=True)
class PutBlob(BlobRequest[None]):
    """Create an object with a name that no other upload uses.

    The request contains its crc32c, so the service rejects damaged bytes. An object that exists with the same checksum
    is from an earlier attempt of the same upload, whose answer was lost.

    Attributes:
        name: The object.
        data: Its bytes, or pieces that are made while they are sent.
        checked: Whether the request contains the checksum.
    """

    name: str
    data: bytes | Pieces
    checked: bool = True

    @property
    def size(self) -> int:
        """The number of bytes; of pieces, once they were sent."""
        return self.data.size if isinstance(self.data, Pieces) else len(self.data)

    @property
    def pieces(self) -> Iterable[bytes]:
        """The bytes, one piece after another."""
        return self.data if isinstance(self.data, Pieces) else (self.data,)

    def crc32c(self) -> str:
        """The checksum of the bytes as Cloud Storage writes it; of pieces, once they were sent."""
        return self.data.crc32c if isinstance(self.data, Pieces) else crc32c(self.data)

    def sha256(self) -> str:
        """The hex sha256 of the bytes; of pieces, once they were sent."""
        return self.data.sha256 if isinstance(self.data, Pieces) else hashlib.sha256(self.data).hexdigest()

    def perform(self, store: BlobStore) -> None:
        """Perform this."""
        return store.put_blob(self)


@record(frozen=True, slots=True)
class GetBlob(BlobRequest["bytes | None"]):
    """The stored bytes of an object, or `length` of them from `start`; `None` if the object does not exist.

    Attributes:
        name: The object.
        start: Where to begin.
        length: Most bytes to return; `None` for all.
        crc32c: The checksum that the returned bytes should have, if the caller knows it. A store with a mirror returns
            the mirror's bytes if the bucket's differ. The caller proves what it gets in any case.
    """

    name: str
    start: int = 0
    length: int | None = None
    crc32c: str | None = None

    def perform(self, store: BlobStore) -> bytes | None:
        """Perform this."""
        return store.get_blob(self)


@record(frozen=True, slots=True)
class HashBlob(BlobRequest["str | None"]):
    """The hex sha256 of an object's stored bytes as the service returns them now; `None` if it does not exist.

    The bytes are not kept, so reading back an object takes no memory.
    """

    name: str

    def perform(self, store: BlobStore) -> str | None:
        """Perform this."""
        return store.hash_blob(self)


@record(frozen=True, slots=True)
class CopyBlob(BlobRequest[bool]):
    """Copy an object within the bucket, on the server; false if it does not exist.

    No other copy uses the target's name, so a copy that exists is from an earlier attempt.
    """

    name: str
    target: str

    def perform(self, store: BlobStore) -> bool:
        """Perform this."""
        return store.copy_blob(self)


@record(frozen=True, slots=True)
class ListBlobs(BlobRequest[list[BlobInfo]]):
    """One page of objects whose names begin with `prefix`, in ascending order of names, only those past `after`.

    An empty list is the end.

    Attributes:
        prefix: The prefix of the names.
        after: The name after which the page begins.
        limit: Most objects in the page.
        checksums: Whether a store reads objects for their checksums, if it cannot get them otherwise.
    """

    prefix: str
    after: str | None = None
    limit: int = limits.LIST_OBJECTS
    checksums: bool = True

    def perform(self, store: BlobStore) -> list[BlobInfo]:
        """Perform this."""
        return store.list_blobs(self)


@record(frozen=True, slots=True)
class DeleteBlobs(BlobRequest[None]):
    """Delete objects, at most `limits.BATCH_CALLS`. Objects that do not exist are ignored."""

    names: tuple[str, ...]

    def perform(self, store: BlobStore) -> None:
        """Perform this."""
        return store.delete_blobs(self)


@record(frozen=True, slots=True)
class InBucket(BlobRequest["T | None"], Generic[T]):
    """Perform a request in one bucket of a store that has two: in the mirror, or in the first one.

    A store without a mirror sends nothing. Its answer is `None`.

    Attributes:
        effect: The request.
        mirror: Whether it is for the mirror.
    """

    effect: BlobRequest[T]
    mirror: bool

    def perform(self, store: BlobStore) -> T | None:
        """Perform this."""
        buckets: tuple[BlobStore, ...] = getattr(store, "buckets", ())
        return self.effect.perform(buckets[self.mirror]) if buckets else None


# Setting up


@record(frozen=True, slots=True)
class EnsureBucket(BlobRequest[str]):
    """Create the bucket if it is missing. The result is a sentence that says what was found or done."""

    location: str | None = None

    def perform(self, store: BlobStore) -> str:
        """Perform this."""
        return store.ensure_bucket(self)


Rule = Mapping[str, Any]
"""A lifecycle rule of a bucket, in its JSON form: an `action` and a `condition`."""


@record(frozen=True, slots=True)
class BucketSettings:
    """The settings of a bucket.

    Attributes:
        prefix: The prefix of this store's object names, with its slash; may be empty.
        rules: The lifecycle rules; `None` if these credentials may not see them.
        metageneration: The number of this state of the settings; 0 if these credentials may not see it.
        autoclass: Whether the bucket chooses the storage classes of its objects by itself.
        location: The region or multi-region, such as `EUROPE-WEST1`; empty if these credentials may not see it.
    """

    prefix: str
    rules: tuple[Rule, ...] | None
    metageneration: int = 0
    autoclass: bool = False
    location: str = ""


@record(frozen=True, slots=True)
class ReadBucket(BlobRequest["BucketSettings | None"]):
    """The bucket's settings as they are now; `None` if the store has no bucket."""

    def perform(self, store: BlobStore) -> BucketSettings | None:
        """Perform this."""
        return store.read_bucket(self)


@record(frozen=True, slots=True)
class SetLifecycle(BlobRequest[bool]):
    """Replace all lifecycle rules of the bucket; false if its settings are no longer those of `metageneration`.

    The result is also false after a lost answer, so callers check before they conclude.
    """

    rules: tuple[Rule, ...]
    metageneration: int

    def perform(self, store: BlobStore) -> bool:
        """Perform this."""
        return store.set_lifecycle(self)


Indexing = Literal["automatic", "exempt", "chosen"]
"""Which single-field indexes a field has: those of its database, none, or others that an administrator chose."""


@record(frozen=True, slots=True)
class ReadIndexing(DocumentRequest["Indexing | None"]):
    """How a field is indexed; `None` if the store has no such settings.

    Attributes:
        collection: The collection's id, such as `lg_checkpoints`; settings apply to all collections with that id.
        field: The field's name, or `*` for all fields without settings of their own.
    """

    collection: str
    field: str

    def perform(self, store: DocumentStore) -> Indexing | None:
        """Perform this."""
        return store.read_indexing(self)

    def aperform(self, store: DocumentStore) -> Awaitable[Indexing | None]:
        """Perform this without blocking the event loop."""
        return store.aread_indexing(self)


@record(frozen=True, slots=True)
class ExemptField(DocumentRequest[None]):
    """Remove a field from all single-field indexes. The service may still be doing so after this returns."""

    collection: str
    field: str

    def perform(self, store: DocumentStore) -> None:
        """Perform this."""
        return store.exempt_field(self)

    def aperform(self, store: DocumentStore) -> Awaitable[None]:
        """Perform this without blocking the event loop."""
        return store.aexempt_field(self)


# Several stores


@record(frozen=True, slots=True)
class On(Effect[T]):
    """Perform a leaf effect at a named store, in a flow that acts on several stores; see `NamedStores`."""

    store: str
    effect: Effect[T]


@record(frozen=True, slots=True)
class Ask(Effect[T]):
    """Call code outside of this library: with `ask` in a synchronous call, with `aask` on an event loop.

    It runs in the caller's thread or task, with the caller's context variables. Examples are the checkpointer that a
    migration reads, and the function that an operation performs.
    """

    ask: Callable[[], T]
    aask: Callable[[], Awaitable[T]]


# Local acts


@record(frozen=True, slots=True)
class Gather(Effect[tuple[Any, ...]]):
    """Perform leaf effects at the same time. The results are in their order, and the first failure cancels the rest."""

    effects: tuple[Effect[Any], ...]


@record(frozen=True, slots=True)
class Compute(Effect[T]):
    """Call `function`, on a worker thread if it handles enough bytes to block an event loop.

    Attributes:
        function: The function, which takes no arguments.
        size: Estimated bytes that it handles.
    """

    function: Callable[[], T]
    size: int = 0


@record(frozen=True, slots=True)
class Now(Effect[float]):
    """The local wall clock, seconds since the epoch."""


@record(frozen=True, slots=True)
class Pause(Effect[None]):
    """Wait for some seconds."""

    seconds: float


@record(frozen=True, slots=True)
class Durable(Effect[None]):
    """What a call stores is durable. The rest of its flow proves it, and its caller need not wait for that.

    A runner does nothing. `saver/trailing.py` returns to the caller here, and lets the rest trail.

    Attributes:
        result: What the flow returns if the first proof succeeds.
        held: Bytes that the rest of the flow keeps in memory.
    """

    result: Any
    held: int


@record(frozen=True, slots=True)
class Emit(Effect[None]):
    """Report an event to the log and the subscribers."""

    event: Event


REQUESTS = (
    GetDocs,
    QueryDocs,
    ListCollections,
    Commit,
    PutBlob,
    GetBlob,
    HashBlob,
    CopyBlob,
    ListBlobs,
    DeleteBlobs,
    InBucket,
    EnsureBucket,
    ReadBucket,
    SetLifecycle,
    ReadIndexing,
    ExemptField,
)
"""The effects that a store performs, each in one round of requests."""
