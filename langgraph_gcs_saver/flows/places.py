"""Binds a store to its bucket and prefix: a document names them, and every flow checks it before it reaches the store.

Documents name no bucket, and objects name no documents. With the documents of one store and the bucket of another, a
saver would find every object missing. It would return older states, quarantine whole documents, and delete documents
whose objects it cannot see. So a store consists of its database, root, bucket and prefix. The first writer creates the
document `lg_store/place`. `admit` lets a flow reach a store only when that document names the saver's place. After the
first check, later calls of the process pay nothing.

The document also names the bucket's mirror, if there is one. A saver that does not know the mirror would store objects
in one bucket only, and delete them in one only. A mirror belongs to one store: the object `keys.OWNER` in it names that
store's bucket.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from langgraph_gcs_saver.engine.effects import (
    Ask,
    Commit,
    Compute,
    Create,
    DeleteBlobs,
    Doc,
    Durable,
    Effect,
    Emit,
    EnsureBucket,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    HashBlob,
    InBucket,
    ListBlobs,
    ListCollections,
    Merge,
    Now,
    Pause,
    PutBlob,
    QueryDocs,
    ReadBucket,
    ReadIndexing,
)
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.errors import (
    ConflictError,
    DamageError,
    PermissionDeniedError,
    WrongStoreError,
)
from langgraph_gcs_saver.flows.context import MAX_TRIES, Binding, Context, Place
from langgraph_gcs_saver.format import keys

T = TypeVar("T")

_LOCAL = (Ask, Compute, Durable, Emit, Now, Pause)
"""Effects that do not reach the store."""

_READS_DOCS = (GetDocs, QueryDocs, ListCollections)
"""Effects that read documents: the store's document can be read in the same round."""

_READS = (*_READS_DOCS, GetBlob, HashBlob, ListBlobs, ReadBucket, ReadIndexing)
"""Effects that may be in the same round as well: nothing read from another store's bucket is returned."""

_LOOKS = (*_READS, EnsureBucket)
"""Effects that are allowed before the store is bound. All others, including new kinds, count as writes."""

_FIELDS = ("bucket", "prefix", "mirror")
"""The fields of the store's document."""

_SAMPLE = 200
"""How many threads are read in a store without a place. Their names begin with a hash, so a page is a fair sample."""

_ADVICE = (
    "Nothing was changed. Pass the bucket and prefix that the documents belong to. For a separate store, choose "
    "another prefix, root or database. If you moved the objects on purpose, call `rebind` (`langgraph-gcs rebind`)."
)


def admit(flow: Flow[T], binding: Binding | None) -> Flow[T]:
    """A flow that reaches the store only if the binding is right. Otherwise its effects fail before they are performed.

    The check rides in the flow's first read of documents, so it takes no round of its own. A flow that begins with a
    write waits for it.
    """
    return flow if binding is None or binding.is_bound else through(flow, partial(_perform, binding=binding))


def check(binding: Binding | None) -> Flow[None]:
    """Check that the binding is the store's, unless that is known.

    Raises:
        DamageError: The store's document names no place.
        WrongStoreError: It names another place; or it does not exist, and threads name another bucket.
    """
    if binding is not None and not binding.is_bound:
        docs = yield from GetDocs((keys.PLACE,))
        yield from _compare(docs.get(keys.PLACE), binding)


def recheck(context: Context, *, is_missing: bool) -> Flow[None]:
    """Before damage is reported: if something is missing, check again that the store is bound to this place.

    Raises:
        WrongStoreError: The store was bound to another place since.
    """
    if is_missing and context.binding is not None:
        context.binding.is_bound = False
        yield from check(context.binding)


def place_of(doc: Doc) -> Place | None:
    """The place that the store's document names; `None` for a corrupt document."""
    bucket, prefix, mirror = map(doc.fields.get, _FIELDS)
    if not isinstance(bucket, str) or not isinstance(prefix, str) or not (mirror is None or isinstance(mirror, str)):
        return None
    return Place(bucket, prefix, mirror)


def fields_of(place: Place) -> dict[str, str]:
    """The fields of the store's document."""
    mirror = {} if place.mirror is None else {"mirror": place.mirror}
    return {"bucket": place.bucket, "prefix": place.prefix, **mirror}


def written(place: Place, note: Doc | None) -> Create | Merge:
    """The write that names a place in the store's document, if that is still as it was read.

    Args:
        place: The place.
        note: The document; `None` if it did not exist.
    """
    fields = fields_of(place)
    if note is None:
        return Create(keys.PLACE, fields)
    return Merge(keys.PLACE, fields, remove=tuple(set(_FIELDS) - fields.keys()), update_time=note.update_time)


def look_for_bucket() -> Flow[None]:
    """Check that the bucket exists, and that these credentials may read it.

    This reads an object, which costs less than a listing.

    Raises:
        StoreNotFoundError: There is no such bucket.
    """
    yield from GetBlob(f"{keys.PROBES}/place")


def _perform(effect: Effect[Any], binding: Binding) -> Flow[Any]:
    leaves = effect.effects if isinstance(effect, Gather) else (effect,)
    if binding.is_bound or _are(leaves, _LOCAL):
        return (yield from effect)
    if _are(leaves, _READS) and any(isinstance(leaf, _READS_DOCS) for leaf in leaves):
        docs, *results = yield from Gather((GetDocs((keys.PLACE,)), *leaves))
        yield from _compare(docs.get(keys.PLACE), binding)
        return tuple(results) if isinstance(effect, Gather) else results[0]
    yield from check(binding) if _are(leaves, _LOOKS) else _bind(binding)
    return (yield from effect)


def _are(effects: tuple[Effect[Any], ...], kinds: tuple[type, ...]) -> bool:
    return all(isinstance(effect.effect if isinstance(effect, InBucket) else effect, kinds) for effect in effects)


def _bind(binding: Binding) -> Flow[None]:
    """Check that the binding is the store's. A store without a place is bound, and one without a mirror gets it."""
    for _ in range(MAX_TRIES):
        note = (yield from GetDocs((keys.PLACE,))).get(keys.PLACE)
        yield from _compare(note, binding)
        if binding.is_bound:
            return
        if note is None:
            # A missing bucket is noticed now, not at the first value that needs it.
            if not binding.is_empty:
                yield from look_for_bucket()
            elif (yield from _look_at_objects(binding)):
                return
        yield from claim_mirror(binding.place)
        # This fails if another first writer was faster. That writer may have another bucket.
        if (yield from Commit((written(binding.place, note),))) is not None:
            binding.is_bound = True
            return
    raise ConflictError(f"The document {keys.PLACE!r} was changed {MAX_TRIES} times in a row. Call again.")


def claim_mirror(place: Place, *, may_have_objects: bool = False, takes_over: bool = False) -> Flow[None]:
    """Note in the mirror, if there is one, that it belongs to the store at a place.

    Args:
        place: The place.
        may_have_objects: Whether a mirror without such a note may have objects of threads.
        takes_over: Whether it may belong to another store.

    Raises:
        StoreNotFoundError: There is no such bucket.
        WrongStoreError: The mirror is used by another store.
    """
    if place.mirror is None:
        return
    own = str(replace(place, mirror=None)).encode()
    owner = yield from InBucket(GetBlob(keys.OWNER), mirror=True)
    if owner == own:
        return
    if owner is not None and not takes_over:
        raise WrongStoreError(
            f"The bucket {place.mirror!r} is the mirror of {owner.decode(errors='replace')!r}, not of "
            f"{own.decode()!r}. Nothing was changed. Choose another bucket as the mirror. If that store is given up, "
            "call `rebind` with `force=True` (`langgraph-gcs rebind --force`)."
        )
    if owner is not None:
        yield from InBucket(DeleteBlobs((keys.OWNER,)), mirror=True)
    elif not (may_have_objects or takes_over) and (yield from _has_objects()):
        raise WrongStoreError(
            f"The bucket {place.mirror!r} has objects of threads, and does not say that it is the mirror of "
            f"{own.decode()!r}. Another store may own them, and `collect` would delete them. Nothing was changed. "
            "Choose another bucket as the mirror. If this store has used it before, call `rebind` (`langgraph-gcs "
            "rebind`)."
        )
    # Of two stores that claim it at the same time, one gets an error: the object exists, with other content.
    yield from InBucket(PutBlob(keys.OWNER, own), mirror=True)


def _has_objects() -> Flow[bool]:
    """Whether the mirror has objects of threads. Credentials that cannot list them cannot delete them by mistake."""
    try:
        blobs = yield from InBucket(ListBlobs("", checksums=False), mirror=True)
    except PermissionDeniedError:
        return False
    return any(keys.is_blob(blob.name) for blob in blobs or ())


def _compare(doc: Doc | None, binding: Binding) -> Flow[None]:
    if doc is None:
        yield from _look_at_threads(binding)
        return
    found = place_of(doc)
    if found is None:
        raise DamageError(
            f"The document {keys.PLACE!r} does not name the bucket and prefix of this store. Restore it from a "
            f"backup, or call `rebind` (`langgraph-gcs rebind`) if {str(binding.place)!r} is right."
        )
    mine = binding.place
    if (found.bucket, found.prefix) != (mine.bucket, mine.prefix):
        raise WrongStoreError(
            f"These documents belong to the objects in {str(found)!r}, but this saver was given {str(mine)!r}. "
            f"{_ADVICE}"
        )
    if found.mirror not in {None, mine.mirror}:
        given = "no mirror" if mine.mirror is None else f"the mirror {mine.mirror!r}"
        raise WrongStoreError(
            f"The objects of this store are mirrored in the bucket {found.mirror!r}, but this saver was given {given}. "
            f"Nothing was changed. Pass `mirror={found.mirror!r}` (`?mirror={found.mirror}` in a connection string). "
            "To use another mirror, or none, call `rebind` (`langgraph-gcs rebind`)."
        )
    # The first writer that knows a mirror names it in the document. Until then, reads check the document each time.
    binding.is_bound = found == mine


def _look_at_threads(binding: Binding) -> Flow[None]:
    """In a store without a place, raise if threads from earlier versions name another bucket."""
    if binding.has_looked:
        return
    docs = yield from QueryDocs(keys.THREADS, limit=_SAMPLE, mask=("thread_id", "bucket"))
    binding.is_empty = not docs
    for doc in docs:
        bucket = doc.fields.get("bucket")
        if isinstance(bucket, str) and bucket != binding.place.bucket:
            raise WrongStoreError(
                f"Thread {doc.fields.get('thread_id')!r} was last written to with its objects in the bucket {bucket!r}"
                f", but this saver was given {str(binding.place)!r}. {_ADVICE}"
            )
    binding.has_looked = True


def _look_at_objects(binding: Binding) -> Flow[bool]:
    """Raise if the place has objects but the store has no threads: they belong to another root or database.

    Raise too if the place is another store's mirror, which need not have objects yet.

    Returns:
        Whether another first writer has bound the store to this place meanwhile.
    """
    listing = ListBlobs("", checksums=False)
    try:
        # What a mirror has is checked when the store claims it.
        blobs = yield from (listing if binding.place.mirror is None else InBucket(listing, mirror=False))
    except PermissionDeniedError:
        # Credentials that cannot list objects cannot delete another store's objects by mistake.
        yield from look_for_bucket()
        return False
    names = [blob.name for blob in blobs or ()]
    if not any(map(keys.is_blob, names)):
        if keys.OWNER in names:
            raise WrongStoreError(
                f"The bucket {binding.place.bucket!r} is the mirror of another store, whose `collect` would delete the "
                "objects of this one. Nothing was changed. Choose another bucket or prefix. If that store is given up, "
                "call `rebind` (`langgraph-gcs rebind`)."
            )
        return False
    # Another first writer may have named this very place, and then stored them.
    binding.has_looked = False
    yield from check(binding)
    if binding.is_empty and not binding.is_bound:
        raise WrongStoreError(
            f"There are objects of threads in {str(binding.place)!r}, but no documents of threads below this root of "
            "this database. The objects belong to another store, and `collect` and `delete_thread` would delete them. "
            "Nothing was changed. Pass the root and database of that store, or choose another bucket or prefix. If the "
            "documents were lost, call `rebind` (`langgraph-gcs rebind`)."
        )
    return binding.is_bound
