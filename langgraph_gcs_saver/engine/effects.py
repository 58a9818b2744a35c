"""The complete list of I/O this library can ask for.

A *flow* is a generator that yields effects and receives their results: `doc = yield from GetDocs((name,))`. Flows hold
the logic; `runners` perform the effects, synchronously or asynchronously. An effect is one idempotent, retryable RPC
(or a local act: a computation, the clock, an event), described but not performed, so a flow can be stopped before any
of them and retried.

Names of documents are relative to the store's root and names of objects to its prefix: a flow cannot reach beyond.
Times are integers, nanoseconds since the epoch, of the service's own clock; they are compared and handed back as
preconditions, never computed with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.events import Event
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph_gcs_saver.engine.protocols import BlobStore, DocumentStore

T = TypeVar("T")

Fields = Mapping[str, Any]
"""A document's fields: None, bool, int (64 bits), float, str, bytes, or a mapping of these by str."""


class Effect(Generic[T]):
    """Something to perform, whose result is a `T`; `yield from` an effect in a flow to get it."""

    __slots__ = ()

    def __iter__(self) -> Generator[Effect[Any], Any, T]:
        result: T = yield self
        return result


class DocumentRequest(Effect[T]):
    """An effect that a store of documents performs, and ends within its timeout."""

    __slots__ = ()

    @abstractmethod
    def perform(self, store: DocumentStore) -> T:
        """Perform this."""

    @abstractmethod
    def aperform(self, store: DocumentStore) -> Awaitable[T]:
        """Perform this without blocking the event loop."""


class BlobRequest(Effect[T]):
    """An effect that a store of objects performs. A transfer goes on for as long as bytes arrive."""

    __slots__ = ()

    @abstractmethod
    def perform(self, store: BlobStore) -> T:
        """Perform this."""


Flow = Generator[Effect[Any], Any, T]
"""A generator that yields effects and returns a `T`."""


# Documents


@record(frozen=True, slots=True)
class Doc:
    """A document as it was read: name, fields (all, or those of the mask), and the service's times."""

    name: str
    fields: Fields
    create_time: int
    update_time: int


@record(frozen=True, slots=True)
class Create:
    """Create a document that must not exist."""

    name: str
    fields: Fields


@record(frozen=True, slots=True)
class Merge:
    """Set `fields` and remove `remove`, leave the other fields; without `update_time`, create it if needed.

    A field that is a mapping is replaced as a whole. With `update_time` the document must exist, unchanged since. With
    no fields at all this checks the precondition and changes nothing, its update time included (measured on the
    emulator; the API's reference says so of every write that does not change the document).
    """

    name: str
    fields: Fields
    remove: tuple[str, ...] = ()
    update_time: int | None = None


@record(frozen=True, slots=True)
class Delete:
    """Delete a document, if it is there; with `update_time` it must exist, unchanged since."""

    name: str
    update_time: int | None = None


Write = Create | Merge | Delete


@record(frozen=True, slots=True)
class GetDocs(DocumentRequest[dict[str, Doc]]):
    """Read documents by name in one batch; names that do not exist are absent from the result.

    `mask` limits the fields that come back.
    """

    names: tuple[str, ...]
    mask: tuple[str, ...] | None = None

    def perform(self, store: DocumentStore) -> dict[str, Doc]:
        """Perform this."""
        return store.get_docs(self)

    def aperform(self, store: DocumentStore) -> Awaitable[dict[str, Doc]]:
        """Perform this without blocking the event loop."""
        return store.aget_docs(self)


@record(frozen=True, slots=True)
class QueryDocs(DocumentRequest[list[Doc]]):
    """Documents of one collection, in ascending order of their names.

    Every query of this library has this one shape, which needs no composite index: equality filters, merged from
    automatic single-field indexes, and a range of names.

    Attributes:
        collection: Name of the collection (`lg_threads/x/lg_checkpoints`), or with `group` the bare collection id.
        where: Pairs of a field (`ns`, `filter.step`) and the value it must equal.
        start: First name, inclusive.
        after: First name, exclusive; for the next page.
        end: Last name, exclusive.
        limit: At most so many documents.
        mask: Fields to return; None for all, empty for none (the names and times only).
        group: All collections of that id below the root; `start` and `end` are then required, and `where` must be
            empty: automatic indexes serve single collections only.
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
    """Ids of the collections below a document that hold a document, or have one further below; in ascending order.

    The document itself need not exist.
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

    Returns the update time of each written document (0 for a deleted one), in order, or `None` when a precondition
    failed, and then nothing at all was applied. A retried commit whose first answer was lost may find its own
    documents: callers look before they conclude.
    """

    writes: tuple[Write, ...]

    def perform(self, store: DocumentStore) -> tuple[int, ...] | None:
        """Perform this."""
        return store.commit(self)

    def aperform(self, store: DocumentStore) -> Awaitable[tuple[int, ...] | None]:
        """Perform this without blocking the event loop."""
        return store.acommit(self)


# Objects


@record(frozen=True, slots=True)
class BlobInfo:
    """An object as a listing shows it; `crc32c` is base64 of the big-endian checksum, as Cloud Storage writes it.

    It is `None` where nobody asked for it and the store would have had to read the object.
    """

    name: str
    size: int
    crc32c: str | None
    create_time: int


@record(frozen=True, slots=True)
class PutBlob(BlobRequest[None]):
    """Create an object whose name nobody else uses; its crc32c goes along, so the service refuses damaged bytes.

    An object that is already there with the same checksum is an earlier try of the same upload, whose answer was lost.

    Attributes:
        name: The object.
        data: Its bytes.
        checked: Whether the checksum goes along.
    """

    name: str
    data: bytes
    checked: bool = True

    def perform(self, store: BlobStore) -> None:
        """Perform this."""
        return store.put_blob(self)


@record(frozen=True, slots=True)
class GetBlob(BlobRequest["bytes | None"]):
    """The stored bytes of an object, or of `length` bytes from `start`; `None` when it does not exist."""

    name: str
    start: int = 0
    length: int | None = None

    def perform(self, store: BlobStore) -> bytes | None:
        """Perform this."""
        return store.get_blob(self)


@record(frozen=True, slots=True)
class HashBlob(BlobRequest["str | None"]):
    """The sha256, hex, of an object's stored bytes as the service gives them now; `None` when it does not exist.

    Nothing of the object is kept, so reading back what was written takes no memory.
    """

    name: str

    def perform(self, store: BlobStore) -> str | None:
        """Perform this."""
        return store.hash_blob(self)


@record(frozen=True, slots=True)
class CopyBlob(BlobRequest[bool]):
    """Copy an object within the bucket, on the server, to a name that nobody else uses; false when it does not exist.

    A copy that is already there is an earlier try's.
    """

    name: str
    target: str

    def perform(self, store: BlobStore) -> bool:
        """Perform this."""
        return store.copy_blob(self)


@record(frozen=True, slots=True)
class ListBlobs(BlobRequest[list[BlobInfo]]):
    """One page of objects whose names begin with `prefix`, in ascending order of names, those past `after` only.

    An empty list is the end.

    Attributes:
        prefix: What names begin with.
        after: The name past which the page begins.
        limit: Most objects of it.
        checksums: Whether objects are read for their checksums, if a store has these from nowhere else.
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
    """Delete objects, at most `limits.BATCH_CALLS`; those that do not exist are fine."""

    names: tuple[str, ...]

    def perform(self, store: BlobStore) -> None:
        """Perform this."""
        return store.delete_blobs(self)


# Setting up


@record(frozen=True, slots=True)
class EnsureBucket(BlobRequest[str]):
    """Create the bucket if it is missing; returns a sentence that tells what was found or done."""

    location: str | None = None

    def perform(self, store: BlobStore) -> str:
        """Perform this."""
        return store.ensure_bucket(self)


Rule = Mapping[str, Any]
"""A lifecycle rule of a bucket, as JSON has it: an `action` and a `condition`."""


@record(frozen=True, slots=True)
class BucketSettings:
    """How a bucket is set.

    Attributes:
        prefix: What names of this store's objects begin with, its slash included; may be empty.
        rules: The lifecycle rules; `None` when these credentials may not see them.
        metageneration: The number of this state of the settings; 0 when they may not be seen.
        autoclass: Whether the bucket chooses the storage classes of its objects by itself.
    """

    prefix: str
    rules: tuple[Rule, ...] | None
    metageneration: int = 0
    autoclass: bool = False


@record(frozen=True, slots=True)
class ReadBucket(BlobRequest["BucketSettings | None"]):
    """The bucket's settings as they are now; `None` when the store has no bucket."""

    def perform(self, store: BlobStore) -> BucketSettings | None:
        """Perform this."""
        return store.read_bucket(self)


@record(frozen=True, slots=True)
class SetLifecycle(BlobRequest[bool]):
    """Replace all lifecycle rules of the bucket; false when its settings are no longer those of `metageneration`.

    After a lost answer it is false too: callers look before they conclude.
    """

    rules: tuple[Rule, ...]
    metageneration: int

    def perform(self, store: BlobStore) -> bool:
        """Perform this."""
        return store.set_lifecycle(self)


Indexing = Literal["automatic", "exempt", "chosen"]
"""Which single-field indexes a field has: those of its database, none, or others that somebody chose."""


@record(frozen=True, slots=True)
class ReadIndexing(DocumentRequest["Indexing | None"]):
    """How a field is indexed; `None` when the store has no such settings.

    Attributes:
        collection: The collection's id, such as `lg_checkpoints`; settings are for all collections of that id.
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
    """Take a field out of all single-field indexes. The service goes on with it after this returns."""

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
    """Perform a leaf effect at the store of a name, in a flow that acts on several; see `NamedStores`."""

    store: str
    effect: Effect[T]


@record(frozen=True, slots=True)
class AskSaver(Effect[T]):
    """Read from another checkpointer, by whichever of its halves the runner is."""

    ask: Callable[[], T]
    aask: Callable[[], Awaitable[T]]


# Local acts


@record(frozen=True, slots=True)
class Gather(Effect[tuple[Any, ...]]):
    """Perform leaf effects at the same time; results in their order. The first failure cancels the rest."""

    effects: tuple[Effect[Any], ...]


@record(frozen=True, slots=True)
class Compute(Effect[T]):
    """Call `function`; on a worker thread when it handles enough bytes to hold up an event loop.

    Attributes:
        function: What to call, without arguments.
        size: Bytes that it handles, as an estimate.
    """

    function: Callable[[], T]
    size: int = 0


@record(frozen=True, slots=True)
class Now(Effect[float]):
    """The local wall clock, seconds since the epoch."""


@record(frozen=True, slots=True)
class Pause(Effect[None]):
    """Wait so many seconds."""

    seconds: float


@record(frozen=True, slots=True)
class Emit(Effect[None]):
    """Report an event to the log and to those who subscribed."""

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
    EnsureBucket,
    ReadBucket,
    SetLifecycle,
    ReadIndexing,
    ExemptField,
)
"""The effects that a store performs, in one round of requests each."""
