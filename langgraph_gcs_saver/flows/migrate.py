"""Migrates a thread from another checkpointer: all its checkpoints are put into this store, and then compared.

Another checkpointer has its own stored form, so nothing is copied byte for byte, as a transfer does. Each checkpoint is
put as a run would have put it. It comes after its parent, to build on the parent's values. It also comes after
its pending writes, so that it is never visible without them. If a call crashes, the next one resumes and puts what is
missing. At the end everything is read from both sides and compared. Reads of this store then use no earlier caches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from langgraph_gcs_saver.engine.effects import Ask, Compute, Flow, QueryDocs
from langgraph_gcs_saver.errors import CheckpointVerificationError, InvalidInputError, SourceError
from langgraph_gcs_saver.flows import load, save, writes
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.manifests import report_encrypting
from langgraph_gcs_saver.flows.writes import PendingWrite
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Migration

Progress = Callable[[int], object] | None
"""Called with the number of checkpoints that were just put or compared."""

_CACHE_BYTES = 64 << 20
"""The size of a new cache for reading all checkpoints again, so that each value is read from the store once."""


@record(frozen=True, slots=True)
class Listed:
    """A checkpoint as another checkpointer lists it.

    Attributes:
        ns: Its namespace.
        checkpoint_id: Its id.
        parent_id: Its parent's id, if it has one.
        writes: How many pending writes it has.
        clear: How many of its documents the other checkpointer's cipher does not vouch for.
    """

    ns: str
    checkpoint_id: str
    parent_id: str | None
    writes: int
    clear: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Its namespace and id."""
        return self.ns, self.checkpoint_id


@record(frozen=True, slots=True)
class Given:
    """A checkpoint as another checkpointer returns it.

    Attributes:
        put: The put that stores it.
        writes: The calls that store its pending writes, as few as possible for each task.
        pending: Its pending writes in their order.
        same: Whether two serialized values are the same. It is called if their bytes differ.
    """

    put: save.Put
    writes: Sequence[writes.PutWrites]
    pending: Sequence[PendingWrite]
    same: Callable[[Serialized, Serialized], bool]

    @property
    def size(self) -> int:
        """Bytes of its values and pending writes."""
        values = sum(len(value().data) for value in self.put.values.values())
        return values + sum(len(write.value.data) for write in self.pending)


class Source(Protocol):
    """A thread in another checkpointer."""

    def listed(self) -> Ask[list[Listed]]:
        """All its checkpoints, in any order."""

    def given(self, one: Listed) -> Ask[Given | None]:
        """One of them; `None` if it no longer exists."""


def migrate(
    thread_id: str,
    source: Source,
    *,
    dry_run: bool,
    progress: Progress = None,
    context: Context,
) -> Flow[Migration]:
    """Put those checkpoints of another checkpointer's thread that this store lacks, oldest first; then compare all.

    Raises:
        InvalidInputError: The store has a different thread of this id, or both sides have checkpoints of their own.
        CheckpointVerificationError: This store's checkpoints differ from the other checkpointer's.
        SourceError: A checkpoint was hidden when it was read, and is listed again at the end.
    """
    listed = in_order((yield from source.listed()))
    present = yield from _present(thread_id)
    names = {keys.checkpoint_doc(thread_id, one.ns, one.checkpoint_id) for one in listed}
    if listed and not present <= names and not names <= present:
        raise InvalidInputError(
            f"Thread {thread_id!r} was not migrated: {len(present - names)} of its checkpoints in this store are not "
            f"in the source, and {len(names - present)} in the source are not in this store. Two histories are not "
            "mixed: copy this store's thread to another id, and delete it."
        )
    plan = _plan(thread_id, listed, names & present, context)
    if dry_run:
        return plan
    yield from report_encrypting(thread_id, plan.clear)
    gone: set[tuple[str, str]] = set()
    for one in listed:
        is_present = keys.checkpoint_doc(thread_id, one.ns, one.checkpoint_id) in present
        if not is_present and not (yield from _put(one, source, present, context)):
            gone.add(one.key)
        _count(progress)
    migrated = [one for one in listed if one.key not in gone]
    caches: dict[str, Any] = {name: ByteCache(_CACHE_BYTES) for name in ("values", "heads", "tips")}
    fresh = replace(context, **caches)
    is_ahead = bool(present - names)
    for one in listed:
        if not (yield from _check(one, source, fresh, is_ahead=is_ahead)):
            gone.add(one.key)
        _count(progress)
    if not gone:
        return plan
    returned = sorted(gone & {one.key for one in (yield from source.listed())})
    if returned:
        ns, checkpoint_id = returned[0]
        raise SourceError(
            f"The migration of thread {thread_id!r} is unfinished: the source did not return checkpoint "
            f"{checkpoint_id!r}, namespace {ns!r}, but lists it again. Nothing that was migrated before is lost. Call "
            "again to continue."
        )
    return _plan(thread_id, migrated, names & present, context)


def _plan(thread_id: str, listed: Sequence[Listed], present: Collection[str], context: Context) -> Migration:
    return Migration(
        thread_id=thread_id,
        checkpoints=len(listed),
        namespaces=len({one.ns for one in listed}),
        writes=sum(one.writes for one in listed),
        present=len(present),
        clear=0 if context.codec.cipher is None else sum(one.clear for one in listed),
    )


def in_order(listed: Iterable[Listed]) -> list[Listed]:
    """By id, but each after its parent. Ids are in the order of time, unless a clock was set back."""
    by_key = {one.key: one for one in listed}
    found: dict[tuple[str, str], Listed] = {}
    for one in sorted(by_key.values(), key=lambda one: (one.checkpoint_id, one.ns)):
        line = dict[tuple[str, str], Listed]()
        above: Listed | None = one
        # The walk up ends at a known checkpoint, even if a checkpoint is its own ancestor.
        while above is not None and above.key not in found and above.key not in line:
            line[above.key] = above
            above = None if above.parent_id is None else by_key.get((above.ns, above.parent_id))
        found.update(reversed(line.items()))
    return list(found.values())


def _present(thread_id: str) -> Flow[set[str]]:
    docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=("ns",))
    return {doc.name for doc in docs if "ns" in doc.fields}


def _put(one: Listed, source: Source, present: set[str], context: Context) -> Flow[bool]:
    """Put a checkpoint; false if the source no longer has it."""
    given = yield from source.given(one)
    if given is None:
        return False
    request = given.put
    if request.parent in present and context.heads.get(str(request.parent)) is None:
        # Loading the parent puts its values into the cache, so that this checkpoint can build on them.
        yield from load.get_tuple(request.thread_id, request.ns, request.parent_id, _as_it_is, context)
    yield from _put_writes(given, context)
    yield from save.put(request, context)
    return True


def _put_writes(given: Given, context: Context) -> Flow[None]:
    for task in given.writes:
        yield from writes.put_writes(task, context)


def _check(one: Listed, source: Source, context: Context, *, is_ahead: bool) -> Flow[bool]:
    """Compare a checkpoint; false if the source no longer has it. Raises as `_compare` does."""
    given = yield from source.given(one)
    if given is not None:
        yield from _compare(given, context, is_ahead=is_ahead)
    return given is not None


def _compare(given: Given, context: Context, *, is_ahead: bool) -> Flow[None]:
    """Compare a checkpoint, and put pending writes that the source has received since an earlier call.

    Raises:
        CheckpointVerificationError: It differs.
    """
    request = given.put
    for is_first in (True, False):
        found = yield from load.get_tuple(request.thread_id, request.ns, request.checkpoint_id, _as_it_is, context)
        wrong = yield from Compute(partial(_difference, given, found), size=given.size)
        lacks = yield from Compute(partial(_lacking, given, found, is_ahead=is_ahead), size=given.size)
        if wrong is None and lacks is None:
            return
        if wrong is None and is_first and not is_ahead:
            yield from _put_writes(given, context)
            continue
        raise CheckpointVerificationError(
            f"Checkpoint {request.checkpoint_id!r} of thread {request.thread_id!r}, namespace {request.ns!r} differs "
            f"from the source: {wrong or lacks}. If a run wrote to the source meanwhile, call again when its runs have "
            "ended. Otherwise delete this store's thread first."
        )


def _as_it_is(value: Serialized) -> Serialized:
    """Takes the place of deserializing, because the bytes are compared."""
    return value


def _difference(given: Given, found: load.Loaded | None) -> str | None:
    """How a checkpoint that was read differs from the source's; `None` if it does not."""
    if found is None:
        return "it is missing"
    request, known = given.put, found.manifest
    if known.parent_id != request.parent_id:
        return "its parent differs"
    if known.checkpoint != request.checkpoint or not _same(given, known.rest, request.rest):
        return "its versions or other fields differ"
    if not _same(given, known.metadata, request.metadata):
        return "its metadata differs"
    values: Mapping[str, Serialized] = found.values
    for channel in sorted(values.keys() | request.values.keys()):
        if channel not in values or channel not in request.values:
            return f"only one side has the channel {channel!r}"
        if not _same(given, values[channel], request.values[channel]()):
            return f"the value of channel {channel!r} differs"
    return None


def _lacking(given: Given, found: load.Loaded | None, *, is_ahead: bool) -> str | None:
    """What is wrong with the pending writes that were read; `None` if nothing is.

    If the thread has continued in this store, more writes may exist, and answers may have replaced special writes.
    """
    own = [] if found is None else list(found.writes)
    for number, write in enumerate(given.pending):
        at = next((i for i, one in enumerate(own) if _is_write(given, one, write)), None)
        if at is None and not (is_ahead and write.idx < 0):
            return f"of {len(given.pending)} pending writes, number {number} is missing"
        if at and not is_ahead:
            return f"the pending writes are in another order, from number {number} on"
        if at is not None:
            del own[at]
    return f"there are {len(own)} more pending writes" if own and not is_ahead else None


def _is_write(given: Given, found: tuple[str, str, Serialized], write: PendingWrite) -> bool:
    return found[:2] == (write.task_id, write.channel) and _same(given, found[2], write.value)


def _same(given: Given, one: Serialized | None, other: Serialized | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or given.same(one, other)


def _count(progress: Progress) -> None:
    if progress is not None:
        progress(1)
