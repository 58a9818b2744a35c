"""The collections below a thread, with one entry each that says how to handle the collection's documents.

Deletion, copies, transfers, archives, verification, repair and collection loop over these entries. They raise an error
for a collection without an entry. So a new collection needs one entry here, a section in `docs/reference/format.md`,
and the flow that writes it.

Checkpoints and pending writes also have flows of their own, which know their content. The documents of every other
collection are *plain*: they are handled one by one, as their entry says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from langgraph_gcs_saver.engine.effects import Create, Doc, Fields, Merge, Write
from langgraph_gcs_saver.errors import UnsupportedFormatError
from langgraph_gcs_saver.format import blobs, item_batches, keys, operations, sagas, turns
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import Stub
from langgraph_gcs_saver.records import record

RESERVED = "lg_"
"""Prefix of the ids of this library's collections. Other collections below a thread are not this library's."""

AT_ROOT = frozenset(
    {
        keys.THREADS,
        keys.RUNS,
        keys.ACTIVE,
        keys.ROLLBACKS,
        keys.TEAMS,
        keys.CACHE,
        keys.REGION,
        keys.OUTBOX,
        "lg_apps",
        "lg_setup",
        "lg_store",
    }
)
"""Ids at a store's root. Below a thread, they belong to another store, whose root is the thread's document."""

UNINDEXED_AT_ROOT = (
    (keys.ROLLBACKS, sagas.DOCUMENT),
    (keys.TEAMS, "*"),
    (keys.MEMBERS, "*"),
    (keys.SETS, "set"),
    (keys.VOTES, "*"),
    (keys.CACHE, "*"),
    (keys.REGION, "*"),
    (keys.OUTBOX, "*"),
)
"""Collections that are not below a thread, with fields that no query filters by; `*` is every field."""

Attempts = Callable[[str], str]
"""Maps the attempt in an object's name to the attempt in the name of the object's copy."""

Copied = Callable[[Doc, str, Attempts, Codec], Fields | None]
"""Makes the fields of a document's copy, which has the given name; `None` if the document is not copied."""

Equal = Callable[[Doc, Fields, Codec], bool]
"""Whether a document has the content of the given fields."""

Objects = Callable[[Doc, Codec], dict[str, Stub]]
"""The objects that a document refers to, by name; raises `DamagedError` if the document is damaged."""

Needed = Callable[[Doc, Codec], dict[str, str]]
"""The checkpoints of the root namespace that a document needs, by id, with the reason; raises `DamagedError`."""

Note = Callable[[str, Fields], Write]
"""The write at the store's root that goes with a document, from its name and fields; it has none when it is deleted."""

IsClear = Callable[[Doc, Codec], bool]
"""Whether a document holds an envelope that the cipher does not vouch for."""


@record(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection below a thread's document, or nested below the documents of another collection.

    Attributes:
        id: Its id.
        is_name: Whether the last segment of a name can be that of one of its documents.
        is_plain: Whether it has no flows of its own. If it has, these flows do what `copied` and `objects` would.
        tells_runs: Whether its documents say which runs wrote them. A deletion removes these documents first. With the
            last document that names a run, it removes that run's entry for the thread.
        ends: Whether its documents are deleted in the commit that deletes the thread's document, and not before.
        moved: Whether transfers and archives carry its documents, unchanged.
        copied: Makes the copy of a document for `copy_thread`; `None` if `copy_thread` carries none.
        equal: Whether a document is a copy with the given fields, if a copy's fields differ each time they are made.
        objects: Reads a document, to verify it and to keep the objects that it needs; `None` if nothing reads it.
        replicated: What entries of the outbox call its documents, if another region's store gets them too; `None` if
            that store has none, or makes its own. See `format.regions`.
        needed: The checkpoints that a document needs, to verify that they are there; `None` if it needs none.
        note: Keeps a list of its documents at the store's root; `None` if there is none. A commit that changes a
            document so that the list changes has this write, too.
        is_clear: Whether a copy encrypts anything of a document that was in clear.
        unindexed: Fields that no query filters by; `*` stands for every field.
        follows: A collection whose documents speak of this one's. Lists show at least what those documents speak of.
        below: Collections nested below its documents. A document exists as long as anything exists below it.
    """

    id: str
    is_name: Callable[[str], bool]
    is_plain: bool = True
    tells_runs: bool = False
    ends: bool = False
    moved: bool = True
    replicated: str | None = None
    copied: Copied | None = None
    equal: Equal = lambda doc, fields, _: doc.fields == fields
    objects: Objects | None = None
    needed: Needed | None = None
    note: Note | None = None
    is_clear: IsClear = lambda *_: False
    unindexed: tuple[str, ...] = ("*",)
    follows: str | None = None
    below: tuple[Collection, ...] = ()

    @property
    def is_copied(self) -> bool:
        """Whether `copy_thread` carries any of its documents."""
        return not self.is_plain or self.copied is not None

    @property
    def is_read(self) -> bool:
        """Whether its documents can be verified, and refer to objects."""
        return not self.is_plain or self.objects is not None


Wanted = Callable[[Collection], bool]
"""Chooses collections."""

COLLECTIONS: tuple[Collection, ...] = (
    Collection(
        id=keys.CHECKPOINTS,
        is_name=keys.is_checkpoint_doc,
        is_plain=False,
        tells_runs=True,
        replicated="put",
        unindexed=("digest", "frames", "heir", "holds", "manifest", "objects"),
    ),
    Collection(id=keys.WRITES, is_name=keys.is_writes_doc, is_plain=False, replicated="writes"),
    Collection(id=keys.ASIDE, is_name=bool, tells_runs=True),
    Collection(id=keys.LEASES, is_name=keys.is_lease_doc, ends=True, moved=False),
    Collection(
        id=keys.OPERATIONS,
        is_name=keys.is_operation_doc,
        replicated="operation",
        copied=operations.copied,
        equal=operations.equal,
        objects=operations.objects,
        is_clear=operations.is_clear,
        unindexed=("digest", operations.LATE, operations.OPERATION, operations.RESULT),
    ),
    Collection(
        id=keys.BATCHES,
        is_name=keys.is_batch_doc,
        replicated="batch",
        copied=item_batches.copied,
        equal=item_batches.equal,
        objects=item_batches.batch_objects,
        is_clear=item_batches.is_clear,
    ),
    Collection(
        id=keys.DONE,
        is_name=keys.is_done_doc,
        replicated="batch",
        copied=item_batches.copied,
        equal=item_batches.equal,
        objects=item_batches.done_objects,
        is_clear=item_batches.is_clear,
        follows=keys.BATCHES,
    ),
    Collection(id=keys.CHUNKS, is_name=keys.is_chunk_doc, moved=False),
    Collection(
        id=keys.RESUMES,
        is_name=keys.is_resume_doc,
        replicated="resume",
        copied=turns.copied,
        equal=turns.equal,
        objects=turns.objects,
        is_clear=turns.is_clear,
    ),
    Collection(id=keys.SHIPS, is_name=keys.is_ship_doc, ends=True, moved=False),
    Collection(id=keys.RECOVERIES, is_name=keys.is_recovery_doc, moved=False),
    Collection(
        id=keys.SAGAS,
        is_name=keys.is_saga_doc,
        replicated="saga",
        copied=sagas.copied,
        equal=sagas.equal,
        objects=sagas.objects,
        needed=sagas.needed,
        note=sagas.note,
        is_clear=sagas.is_clear,
        unindexed=("format", sagas.SAGA),
    ),
    Collection(
        id=keys.BLOBS,
        is_name=keys.is_blob_doc,
        replicated="blob",
        copied=blobs.copied,
        equal=blobs.equal,
        objects=blobs.objects,
        is_clear=blobs.is_clear,
    ),
)
"""All collections below a thread. A deletion begins with those that name runs; each group keeps this order."""


def every(entries: Iterable[Collection] | None = None) -> Iterator[Collection]:
    """All collections, or the given ones, each followed by the collections nested below it."""
    for entry in COLLECTIONS if entries is None else entries:
        yield entry
        yield from every(entry.below)


def holds(ids: Iterable[str], wanted: Wanted) -> bool:
    """Whether `wanted` chooses any of a thread's collections, which have the given ids."""
    there = set(ids)
    return any(entry.id in there and wanted(entry) for entry in COLLECTIONS)


def entry_of(path: Sequence[str]) -> Collection | None:
    """The entry of a document below a thread; `None` if no collection has documents of that name.

    Args:
        path: The segments of its name after the thread's document.
    """
    entries, found = COLLECTIONS, None
    for at in range(0, len(path) - 1, 2):
        found = next((entry for entry in entries if entry.id == path[at] and entry.is_name(path[at + 1])), None)
        if found is None:
            return None
        entries = found.below
    return found if len(path) % 2 == 0 else None


def notes(writes: Iterable[Create | Merge]) -> Iterator[Write]:
    """The writes at the store's root that go with writes of whole documents below threads."""
    for write in writes:
        entry = entry_of(write.name.split("/")[2:])
        if entry is not None and entry.note is not None:
            yield entry.note(write.name, write.fields)


def check(thread_id: str, ids: Iterable[str]) -> None:
    """Check that every collection of this library below a thread has an entry.

    Args:
        thread_id: The thread.
        ids: The ids of all collections below it.

    Raises:
        UnsupportedFormatError: A collection has none. Which objects it needs, and what refers to it, is unknown.
    """
    known = AT_ROOT | {entry.id for entry in COLLECTIONS}
    unknown = sorted(id_ for id_ in ids if id_.startswith(RESERVED) and id_ not in known)
    if unknown:
        raise UnsupportedFormatError(
            f"Thread {thread_id!r} has a collection {unknown[0]!r}, which this version of langgraph-gcs-saver does not "
            'know. A newer version wrote it: upgrade with `pip install -U "langgraph-gcs-saver"` and retry. If the '
            f"collection is yours, choose an id that does not begin with {RESERVED!r}. The thread was left as it is."
        )
