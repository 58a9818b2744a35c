"""Collecting what nothing refers to: what dead calls left of stripped documents, and objects and writes of dead calls.

Objects are listed first, then a snapshot is taken. An object that the snapshot does not refer to was written by an
attempt that has not committed, or by one whose manifest is gone. Of the latter nothing can refer to it later: a later
manifest inherits only from a parent that is there, unchanged, when it commits. Of the former something can, as long as
the attempt may still commit: an object younger than `orphan_age` stays, and an attempt starts over when it is older
than its own, much shorter deadline (`ATTEMPT_DEADLINE_SECONDS`). A copy that crashed may be resumed after any time:
while a thread is marked as being copied to, nothing of it is collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
from langgraph_gcs_saver.flows.collections import check_known
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.listing import list_page
from langgraph_gcs_saver.flows.prune import (
    DOCS_PER_PAGE,
    Snapshot,
    check_ancestors,
    clean_up,
    leftovers,
    settled,
)
from langgraph_gcs_saver.flows.referrers import unreferenced
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.results import CollectPlan


def collect(thread_id: str, before: float, *, dry_run: bool, loads: Loads, context: Context) -> Flow[CollectPlan]:
    """Delete what nothing in a thread refers to, if it is from before a time; others may write meanwhile.

    A thread with a checkpoint that is damaged, in clear or of a newer version is left alone, with an event, because
    what it refers to is unknown. So is one with a collection that only a newer version knows. So is one that has lost
    its newest checkpoint, or an ancestor of which DeltaChannels are made: should its document be restored, it needs its
    pending writes and objects, and the frames that it builds on. A thread to which something is being copied is left
    alone too, with an event: a live copy ends by itself.
    """
    cutoff = before * 1e9
    old = yield from _list_old(thread_id, cutoff)
    plan = CollectPlan(thread_id=thread_id, before=before, objects={})
    try:
        yield from check_known(thread_id)
        # After the objects were listed: of a copy that has ended in between, the snapshot shows all.
        found = yield from settled(thread_id, context)
        writes = yield from _old_writes(found, cutoff)
        free = old.keys() - found.objects(found.entries)
        left_over = yield from unreferenced(thread_id, free, context, orphans=writes.keys())
        objects = {name: old[name] for name in sorted(left_over)}
        left = [doc.name for doc in leftovers(found)]
        if left or writes or objects:
            yield from check_ancestors(found, loads)
    except (DamageError, ClearTextError, UnsupportedFormatError) as error:
        yield from Emit(ThreadSkipped(thread_id=thread_id, reason=str(error)))
        return replace(plan, skipped=str(error))
    except ConflictError as error:
        # No reason for anyone to act, as long as the copy is under way.
        yield from Emit(ThreadSkipped(thread_id=thread_id, reason=str(error)))
        return plan
    needed = found.needed(found.entries)
    plan = CollectPlan(
        thread_id=thread_id,
        before=before,
        stripped=tuple(name for name in left if name not in needed),
        trimmed=tuple(name for name in left if name in needed),
        writes=tuple(writes),
        objects=objects,
    )
    if plan and not dry_run:
        yield from _carry_out(found, plan, writes, context)
    return plan


def _carry_out(found: Snapshot, plan: CollectPlan, writes: Mapping[str, Doc], context: Context) -> Flow[None]:
    yield from clean_up(found, context)
    for docs in _by_task(writes.values()):
        batch = tuple(Delete(doc.name, update_time=doc.update_time) for doc in docs)
        if (yield from Commit(batch)) is None:
            return  # One has changed, and what it refers to stays: the next time decides anew.
    names = sorted(plan.objects)
    for at in range(0, len(names), limits.BATCH_CALLS):
        yield from DeleteBlobs(tuple(names[at : at + limits.BATCH_CALLS]))
    yield from Emit(
        ThreadCollected(
            thread_id=plan.thread_id,
            documents=len(plan.stripped) + len(plan.writes),
            objects=len(names),
            bytes=sum(plan.objects.values()),
        )
    )


def _by_task(docs: Iterable[Doc]) -> Iterator[list[Doc]]:
    """Batches that hold all documents of a task, or none: half of a call would be taken for a finished task."""
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
    """The name of a document of pending writes without which writes of the task it has."""
    return name.rpartition("!")[0]


def _list_old(thread_id: str, cutoff: float) -> Flow[dict[str, int]]:
    found: dict[str, int] = {}
    after: str | None = None
    while blobs := (yield from list_page(keys.thread_blobs(thread_id), after)):
        found.update({blob.name: blob.size for blob in blobs if blob.create_time <= cutoff})
        after = blobs[-1].name
    return found


def _old_writes(found: Snapshot, cutoff: float) -> Flow[dict[str, Doc]]:
    """Documents of pending writes whose checkpoint is not there, in a namespace that has gone on without it.

    Writes may come before their checkpoint, so those of one that is still to come stay. So do those of a checkpoint
    that another one continues: it was stored, whatever became of it.
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
