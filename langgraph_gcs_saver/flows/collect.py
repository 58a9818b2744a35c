"""Collects orphans: stripped documents that crashed calls did not finish removing, and their objects and writes.

Operations whose outcome need not be kept any longer go too, those that all threads share included, and so do recovery
records and sagas that have expired, and blobs that nothing lists (`flows.blobs`).

Objects are listed first, then a snapshot is taken. An object that the snapshot does not refer to was written by an
attempt that has not committed, or by one whose manifest was deleted. If the manifest was deleted, nothing can refer to
the object later: a later manifest inherits only from a parent that is unchanged when it commits.

If the attempt has not committed, it still may. So an object younger than `orphan_age` stays, and an attempt starts over
when it is older than its own, much shorter deadline (`ATTEMPT_DEADLINE_SECONDS`). A crashed copy may be resumed after
any time. So while a thread is marked as the target of a copy, nothing of it is collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Delete,
    DeleteBlobs,
    Doc,
    Emit,
    Flow,
    QueryDocs,
)
from langgraph_gcs_saver.errors import ClearTextError, ConflictError, DamageError, UnsupportedFormatError
from langgraph_gcs_saver.events import ThreadCollected, ThreadSkipped
from langgraph_gcs_saver.flows import blobs, recoveries, sagas
from langgraph_gcs_saver.flows.collections import check_known
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.listing import list_all
from langgraph_gcs_saver.flows.operations import Kept, expire, kept
from langgraph_gcs_saver.flows.prune import (
    DOCS_PER_PAGE,
    Snapshot,
    check_ancestors,
    clean_up,
    leftovers,
    listed_objects,
    settled,
)
from langgraph_gcs_saver.flows.referrers import unreferenced
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.results import CollectPlan


def collect(
    thread_id: str,
    before: float,
    *,
    dry_run: bool,
    planned: CollectPlan | None = None,
    loads: Loads,
    context: Context,
) -> Flow[CollectPlan]:
    """Delete those orphans of a thread that are from before a given time. Runs may write to the thread meanwhile.

    With `planned`, only orphans that this plan shows are deleted. A checkpoint may have been lost since, and then more
    looks like orphans.

    Some threads are skipped, with an event:

    - A thread with a checkpoint that is damaged, in clear or of a newer version, because its references are unknown.
    - A thread with a collection that only a newer version knows.
    - A thread that lacks its newest checkpoint, or an ancestor that DeltaChannels are made of. If its document is
      restored, that checkpoint needs its pending writes and objects, and the frames that it builds on.
    - A thread that is the target of a copy. A running copy ends by itself.
    """
    cutoff = before * 1e9
    there = yield from list_all(keys.thread_blobs(thread_id))
    plan = CollectPlan(thread_id=thread_id, before=before, objects={})
    try:
        ids = yield from check_known(thread_id)
        # The snapshot comes after the list of objects. So if a copy has ended in between, the snapshot shows all of it.
        found = yield from settled(thread_id, context)
        writes = yield from _old_writes(found, cutoff)
        todo = leftovers(found)
        # What a removed checkpoint's document lists was committed once, so its age does not matter.
        listed = {name for doc in todo for name in listed_objects(doc)}
        free = {name for name, blob in there.items() if blob.create_time <= cutoff or name in listed}
        left = [doc.name for doc in todo]
        if planned is not None:
            writes = {name: writes[name] for name in planned.writes if name in writes}
            free &= planned.objects.keys()
            left = [name for name in left if name in (*planned.stripped, *planned.trimmed)]
        free -= found.objects(found.entries)
        orphans = yield from unreferenced(thread_id, free, context, orphans=writes.keys())
        objects = {name: there[name].size for name in sorted(orphans)}
        if left or writes or objects:
            yield from check_ancestors(found, loads)
        operations = yield from kept(thread_id, cutoff, context)
        records = yield from recoveries.expired(thread_id, cutoff)
        ended = (yield from sagas.expired(thread_id, cutoff, context)) if keys.SAGAS in ids else []
        lone = (yield from blobs.unlisted(found, cutoff, context)) if keys.BLOBS in ids else blobs.Unlisted()
        if planned is not None:
            _keep_unplanned(operations, planned)
            records = [name for name in records if name in planned.recoveries]
            ended = [saga for saga in ended if saga.document in planned.sagas]
            lone = lone.among(planned)
    except (DamageError, ClearTextError, UnsupportedFormatError) as error:
        yield from Emit(ThreadSkipped(thread_id=thread_id, reason=str(error)))
        return replace(plan, skipped=str(error))
    except ConflictError as error:
        # While the copy is under way, there is nothing to do about it.
        yield from Emit(ThreadSkipped(thread_id=thread_id, reason=str(error)))
        return plan
    needed = found.needed(found.entries)
    if planned is not None:
        needed.update(planned.trimmed)
    plan = CollectPlan(
        thread_id=thread_id,
        before=before,
        stripped=tuple(name for name in left if name not in needed),
        trimmed=tuple(name for name in left if name in needed),
        writes=tuple(writes),
        objects=objects,
        operations=tuple(operations.expired),
        recoveries=tuple(records),
        sagas=tuple([saga.document for saga in ended]),
        blobs=tuple(lone.expired),
        unlisted=tuple([doc.name for doc in lone.fresh]),
        relisted=tuple([doc.name for doc in lone.listed]),
    )
    if plan and not dry_run:
        yield from _carry_out(found, plan, writes, context)
        yield from expire(operations)
        yield from recoveries.delete(plan.recoveries)
        for saga in ended:
            yield from sagas.forget(saga, context)
        yield from blobs.delete(lone, context)
        yield from blobs.mark(lone)
    return plan


def collect_shared(
    before: float, *, dry_run: bool, planned: CollectPlan | None = None, context: Context
) -> Flow[CollectPlan]:
    """Delete the expired ones of the operations that all threads share, and old objects that none of them refers to.

    For the arguments, see `collect`. If an operation is damaged or cannot be read, all are left alone, with an event.
    """
    cutoff = before * 1e9
    # As for a thread: a later commit refers only to an object that is younger than its deadline.
    there = yield from list_all(f"{keys.OPERATION_BLOBS}/")
    plan = CollectPlan(thread_id=None, before=before, objects={})
    try:
        operations = yield from kept(None, cutoff, context)
    except (DamageError, ClearTextError, UnsupportedFormatError) as error:
        yield from Emit(ThreadSkipped(thread_id="", reason=str(error)))
        return replace(plan, skipped=str(error))
    needed = operations.objects.union(*(names for _, names in operations.expired.values()))
    objects = {name: blob.size for name, blob in there.items() if blob.create_time <= cutoff and name not in needed}
    if planned is not None:
        _keep_unplanned(operations, planned)
        objects = {name: size for name, size in objects.items() if name in planned.objects}
    plan = replace(plan, objects=objects, operations=tuple(operations.expired))
    if not dry_run:
        yield from _delete(sorted(objects))
        yield from expire(operations)
    return plan


def _keep_unplanned(operations: Kept, planned: CollectPlan) -> None:
    for name in operations.expired.keys() - set(planned.operations):
        del operations.expired[name]


def _delete(objects: Sequence[str]) -> Flow[None]:
    for at in range(0, len(objects), limits.BATCH_CALLS):
        yield from DeleteBlobs(tuple(objects[at : at + limits.BATCH_CALLS]))


def _carry_out(found: Snapshot, plan: CollectPlan, writes: Mapping[str, Doc], context: Context) -> Flow[None]:
    yield from clean_up(found, context, plan)
    for docs in _by_task(writes.values()):
        batch = tuple(Delete(doc.name, update_time=doc.update_time) for doc in docs)
        if (yield from Commit(batch)) is None:
            return  # A document has changed, so its objects stay. The next call decides again.
    yield from _delete(sorted(plan.objects))
    yield from Emit(
        ThreadCollected(
            thread_id=found.thread_id,
            documents=len(plan.stripped) + len(plan.writes),
            objects=len(plan.objects),
            bytes=sum(plan.objects.values()),
        )
    )


def _by_task(docs: Iterable[Doc]) -> Iterator[list[Doc]]:
    """Batches that have all documents of a task or none, because half of a call would look like a finished task."""
    batch: list[Doc] = []
    for _, group in groupby(docs, lambda doc: _task(doc.name)):
        task = list(group)
        if batch and len(batch) + len(task) > limits.COMMIT_WRITES:
            yield batch
            batch = []
        batch += task
    if batch:
        yield batch


def _task(name: str) -> str:
    """The part of a name that all documents of a task's pending writes have in common."""
    return name.rpartition("!")[0]


def _old_writes(found: Snapshot, cutoff: float) -> Flow[dict[str, Doc]]:
    """Documents of pending writes whose checkpoint is missing, in a namespace that has newer checkpoints.

    Writes may be stored before their checkpoint, so writes for a future checkpoint stay. Writes of a checkpoint with
    children stay too, because that checkpoint was stored once.
    """
    newest: dict[str, str] = {}
    stored = {(keys.ns_segment_of(name), keys.checkpoint_id_of(name)) for name in (*found.entries, *found.stripped)}
    for entry in found.entries.values():
        ns = keys.enc(entry.manifest.ns)
        newest[ns] = max(newest.get(ns, ""), entry.manifest.checkpoint_id)
        stored.add((ns, entry.manifest.parent_id or ""))
    orphans: dict[str, Doc] = {}
    young: set[str] = set()
    after: str | None = None
    while docs := (yield from QueryDocs(keys.writes(found.thread_id), after=after, limit=DOCS_PER_PAGE, mask=())):
        for doc in docs:
            ns, checkpoint_id = keys.writes_ns_of(doc.name), keys.writes_checkpoint_id_of(doc.name)
            if doc.update_time > cutoff:
                young.add(_task(doc.name))
            elif (ns, checkpoint_id) not in stored and checkpoint_id < newest.get(ns, ""):
                orphans[doc.name] = doc
        after = docs[-1].name
    return {name: doc for name, doc in orphans.items() if _task(name) not in young}
