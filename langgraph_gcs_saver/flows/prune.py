"""Removes checkpoints while runs write to the thread: by rule (prune, retention), or those of a run.

A plan is made from one consistent snapshot, the answer to one query. A document is deleted only if it is as it was
seen, and only after all documents that refer to its frames. So no checkpoint is left that could hand its frames on to a
child. If a document has changed, the plan is made again.

A document whose frames are still needed is *stripped* to them. A document that has objects or pending writes, or is the
last that names a run, is stripped first too. It then lists the names of its objects and runs, so that after a crash the
next call knows what remains to be done. A second snapshot shows which of these nothing refers to, and they are deleted.
This is safe because a later manifest inherits only from a parent that is unchanged when it commits.

Only a copy commits references without changing the documents that they lead to. So nothing is removed from the target
of a copy until the copy has ended (`settled`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Delete,
    DeleteBlobs,
    Doc,
    Emit,
    Flow,
    Gather,
    GetDocs,
    Merge,
    Now,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import CheckpointCorruptError, ConflictError
from langgraph_gcs_saver.events import ThreadPruned
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context, Loads
from langgraph_gcs_saver.flows.holds import break_sets, require_none
from langgraph_gcs_saver.flows.ids import claim_of, thread_id_of
from langgraph_gcs_saver.flows.leases import as_writer
from langgraph_gcs_saver.flows.manifests import (
    LOST_ANCESTOR,
    LOST_HEIR,
    corrupt,
    emptied,
    locate_manifest,
    metadata_of,
    unreadable,
)
from langgraph_gcs_saver.flows.marks import move
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.referrers import objects_of, unreferenced
from langgraph_gcs_saver.flows.tries import Tries
from langgraph_gcs_saver.flows.writes import read_stubs
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.format.holds import HOLDS, holds_of
from langgraph_gcs_saver.format.manifest import (
    LISTED_BY,
    DamagedError,
    DocumentKind,
    Manifest,
    heir_of,
    kind_of,
    runs_of,
)
from langgraph_gcs_saver.policy.retention import (
    Decision,
    Retention,
    Row,
    decide,
    decide_for_runs,
    holds_on,
    lost_ancestors,
)
from langgraph_gcs_saver.portable import DELTA_COUNTERS
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import CollectPlan, PrunePlan, RunPlan

DOCS_PER_PAGE = 200
"""How many documents of pending writes or of runs are read at once."""

_FRAMES_PER_PAGE = 20
"""How many documents are read at once with their frames, up to half a megabyte each."""

_MASK = ("ns", "format", "manifest", "digest", "heir", "run_id", "former_runs", "pin", "objects", HOLDS)
_LISTED = ("ns", "format", "manifest", "digest", "filter", "heir", "pin", "fence", HOLDS)
"""The fields that stripping removes. The runs' names stay until nothing remains to be done."""

_LEFT = ("objects", "run_id", "former_runs")
"""The fields of a stripped document that show what remains to be done."""

_FORKS = ("update", "fork")
"""Sources of checkpoints that LangGraph replays as their parent, because they are newer than its subgraphs."""

Choose = Callable[[list[Row]], list[Decision]]
"""Decides which checkpoints to keep."""


@record(frozen=True, slots=True)
class Entry:
    """A checkpoint's document without its frames, its manifest, and the objects and documents that it refers to."""

    doc: Doc
    manifest: Manifest
    objects: frozenset[str]
    docs: frozenset[str]


@dataclass(slots=True)
class Snapshot:
    """All documents of a thread's checkpoints at one instant, without their frames.

    Attributes:
        thread_id: The thread.
        entries: Checkpoints, by document name.
        stripped: Stripped documents, by name.
        written: Checkpoints that have pending writes: encoded namespace and id.
        thread: The thread's document, as it was before that instant.
    """

    thread_id: str
    entries: dict[str, Entry] = field(default_factory=dict)
    stripped: dict[str, Doc] = field(default_factory=dict)
    written: set[tuple[str, str]] = field(default_factory=set)
    thread: Doc | None = None

    def needed(self, names: Iterable[str]) -> set[str]:
        """Documents whose frames some checkpoints refer to."""
        return {doc for name in names for doc in self.entries[name].docs}

    def objects(self, names: Iterable[str]) -> set[str]:
        """Objects that some checkpoints refer to."""
        return {blob for name in names for blob in self.entries[name].objects}


def snapshot(thread_id: str, context: Context) -> Flow[Snapshot]:
    """Read what all checkpoints of a thread refer to.

    Raises:
        CheckpointCorruptError: A checkpoint is damaged, so its references are unknown.
        ClearTextError: A checkpoint is in clear, and the saver has a cipher.
    """
    before: object = None
    while True:
        found = Snapshot(thread_id)
        docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=_MASK)
        damaged = yield from _read(docs, found, context)
        if damaged is None:
            return found
        doc, damage = damaged
        seen = (doc.name, damage.reason, doc.update_time)
        if before == seen:
            yield from recheck(context, is_missing=damage.missing)
            ns = keys.told_id(keys.ns_segment_of(doc.name), (one.manifest.ns for one in found.entries.values()))
            raise unreadable(damage, thread_id, ns, keys.checkpoint_id_of(doc.name))
        before = seen


def settled(thread_id: str, context: Context) -> Flow[Snapshot]:
    """A `snapshot` of a thread that lacks no newest checkpoint, and that is not the target of a running copy.

    A copy commits data before the documents that refer to it. In a snapshot taken during a copy, documents look as if
    nothing needed them.

    Raises:
        CheckpointCorruptError: As for `snapshot` and `is_whole`.
        ClearTextError: As for `snapshot`.
        ConflictError: A copy to the thread is unfinished.
        DamageError: As for `is_whole`.
    """
    before = yield from _thread(thread_id)
    while True:
        found = yield from snapshot(thread_id, context)
        # A copy may have begun after the first look and ended before this one. Then the snapshot shows a part of it.
        after = yield from _thread(thread_id)
        if _last_copy(after) == _last_copy(before) and (yield from is_whole(found, before)):
            found.thread = before
            return found
        before = after


def is_whole(found: Snapshot, before: Doc | None) -> Flow[bool]:
    """Check, as a read does, that no namespace has lost its newest checkpoint; false if another look is needed.

    If the lost checkpoint is restored, it needs its pending writes and objects, and its data in other namespaces. Until
    then, none of the remaining checkpoints is the latest.

    Args:
        found: All checkpoints.
        before: The thread's document, as it was before that snapshot.

    Raises:
        CheckpointCorruptError: A checkpoint has a child that is newer than all of its namespace, and missing.
        ConflictError: A checkpoint is missing, and the thread is marked as being deleted.
        DamageError: The root namespace had checkpoints, and all are missing.
    """
    newest: dict[str, str] = {}
    for entry in found.entries.values():
        ns = entry.manifest.ns
        newest[ns] = max(newest.get(ns, ""), entry.manifest.checkpoint_id)
    # The lost one may be a fork of any checkpoint.
    parent = next((one for one in found.entries.values() if (heir_of(one.doc) or "") > newest[one.manifest.ns]), None)
    had_root = before is not None and before.fields.get("root") is True
    if parent is None and ("" in newest or not had_root):
        return True
    name = keys.thread_doc(found.thread_id)
    heir = "" if parent is None else heir_of(parent.doc) or ""
    child = "" if parent is None else keys.checkpoint_doc(found.thread_id, parent.manifest.ns, heir)
    names = (name,) if parent is None else (name, child, parent.doc.name)
    docs = yield from GetDocs(names, mask=("deleting", *LISTED_BY))
    seen = before if parent is None else parent.doc
    if seen is None or names[-1] not in docs or docs[names[-1]].update_time != seen.update_time:
        return False
    if child in docs and kind_of(docs[child]) is DocumentKind.CHECKPOINT:
        return False  # It was stored during the snapshot.
    if name in docs and "deleting" in docs[name].fields:
        raise ConflictError(
            f"Thread {found.thread_id!r} is marked as being deleted, and checkpoints are missing. If the deletion has "
            "crashed, delete the thread again, or call repair to keep what is left. Then call again."
        )
    if parent is None:
        raise emptied(found.thread_id)
    raise corrupt(DamagedError(LOST_HEIR, frame=child), found.thread_id, parent.manifest.ns, heir)


def _thread(thread_id: str) -> Flow[Doc | None]:
    """A thread's document; raises `ConflictError` if a copy to the thread is unfinished."""
    name = keys.thread_doc(thread_id)
    thread: Doc | None = (yield from GetDocs((name,), mask=("copying", "claim", "root"))).get(name)
    if thread is not None and "copying" in thread.fields:
        raise ConflictError(
            f"Thread {thread_id!r} is the target of an unfinished copy, so it is unknown what it needs. Wait for the "
            "call that copies. If that has crashed, repeat it, or delete the thread. Then call again."
        )
    return thread


def _last_copy(thread: Doc | None) -> object:
    """A value that distinguishes copies to a thread, from its document."""
    # Two transfers of one thread have the same claim; between them, the target was deleted.
    return None if thread is None else (thread.create_time, claim_of(thread))


def _read(docs: Sequence[Doc], found: Snapshot, context: Context) -> Flow[tuple[Doc, DamagedError] | None]:
    bare = yield from _bare(docs)
    if bare is not None:
        return bare, DamagedError("the document lacks its format or its manifest")
    for doc in docs:
        if kind_of(doc) is not DocumentKind.CHECKPOINT:
            found.stripped[doc.name] = doc
            continue
        try:
            known, blob = yield from locate_manifest(doc, context.codec)
        except DamagedError as damage:
            return doc, damage
        steps = [step for channel in known.channels for step in known.steps(channel)]
        inner = frozenset(step.name for step in steps if step.frame.attempt is None)
        found.entries[doc.name] = Entry(doc, known, frozenset(objects_of(known, blob)), inner)
    return None


def _bare(docs: Sequence[Doc]) -> Flow[Doc | None]:
    """A document that has lost all its content; `None` if there is none. A stripped one has frames or its list."""
    unsure = {doc.name: doc for doc in docs if kind_of(doc) is DocumentKind.EMPTIED}
    names = list(unsure)
    for at in range(0, len(names), _FRAMES_PER_PAGE):
        now = yield from GetDocs(tuple(names[at : at + _FRAMES_PER_PAGE]), mask=("frames",))
        for name, doc in now.items():
            if kind_of(doc) is DocumentKind.EMPTIED and doc.update_time == unsure[name].update_time:
                return unsure[name]
    return None


def prune(
    thread_id: str,
    choose: Choose,
    *,
    dry_run: bool,
    loads: Loads,
    context: Context,
    spares: bool = True,
    force: bool = False,
) -> Flow[PrunePlan]:
    """Remove the checkpoints of a thread that `choose` does not keep, with everything that only they need.

    Args:
        thread_id: The thread.
        choose: Decides which checkpoints to keep.
        dry_run: Whether only to plan.
        loads: Reads metadata.
        context: Options and caches.
        spares: Whether `choose` keeps all checkpoints that others need. If not, a hold on another checkpoint may come
            too late to be noticed in the removed ones. So each commit requires that the thread got no hold.
        force: Whether to mark sets as broken that need some of the removed checkpoints.

    Returns:
        The decision for each checkpoint.

    Raises:
        CheckpointCorruptError: A checkpoint is damaged, or an ancestor of a kept one or the newest of a namespace is
            missing. Then it is unknown what is needed. Repair or restore it first.
        DamageError: The root namespace had checkpoints, and all are missing. Restore them first.
        ConflictError: Other writers changed the checkpoints in every try, or a copy to the thread is unfinished.
        ThreadInSetError: A set or a savepoint needs one of them, and `force` is false. Nothing was removed.
    """
    for _ in range(MAX_TRIES):
        found = yield from settled(thread_id, context)
        rows = yield from _rows(found, loads)
        decisions = yield from Compute(partial(choose, rows), size=1000 * len(rows))
        for decision in decisions:
            if decision.lacks is not None:
                raise _lost(thread_id, decision.row.ns, decision.lacks)
        plan = PrunePlan(thread_id=thread_id, decisions=tuple(decisions))
        dropped = [decision.row.name for decision in decisions if decision.reason is None]
        held = holds_on(rows, dropped)
        if not force:
            require_none(thread_id, held)
        if dry_run:
            return plan
        yield from break_sets(held, context)
        if (yield from _unlist(found, dropped, context, spares=spares)):
            objects = yield from clean(thread_id, context)
            if _empties_root(found, dropped):
                yield from _note_root(thread_id)
            if dropped:
                yield from Emit(ThreadPruned(thread_id=thread_id, checkpoints=len(dropped), objects=objects))
            return plan
    raise ConflictError(
        f"Pruning thread {thread_id!r} is unfinished: other writers changed its checkpoints {MAX_TRIES} times in a "
        "row. The remaining checkpoints are whole. Call again to continue."
    )


def take_off(thread_id: str, names: Collection[str], context: Context) -> Flow[None]:
    """Remove checkpoints that another store has removed, those that are there, and strip those that are needed here.

    Sets that need one of them are marked as broken. `clean_up` deletes what only the stripped documents refer to.

    Raises:
        CheckpointCorruptError, ClearTextError, DamageError: As for `settled`.
        ConflictError: Other writers changed the checkpoints in every try, or a copy to the thread is unfinished.
    """
    for _ in range(MAX_TRIES):
        found = yield from settled(thread_id, context)
        dropped = [name for name in found.entries if name in names]
        if not dropped:
            return
        docs = yield from QueryDocs(keys.writes(thread_id), mask=())
        found.written = {_owner(doc.name) for doc in docs}
        yield from break_sets({hold for name in dropped for hold in holds_of(found.entries[name].doc)}, context)
        if (yield from _unlist(found, dropped, context, spares=False)):
            if _empties_root(found, dropped):
                yield from _note_root(thread_id)
            return
    raise ConflictError(
        f"Removing checkpoints of thread {thread_id!r} is unfinished: other writers changed its checkpoints "
        f"{MAX_TRIES} times in a row. The remaining checkpoints are whole. Call again to continue."
    )


def prune_by(
    rule: Retention, thread_id: str, *, dry_run: bool = False, loads: Loads, context: Context
) -> Flow[PrunePlan]:
    """Remove the checkpoints of a thread that a rule does not keep, like `prune`."""
    choose = partial(decide, rule=rule, now=(yield from Now()))
    return (yield from prune(thread_id, choose, dry_run=dry_run, loads=loads, context=context))


def check_ancestors(found: Snapshot, loads: Loads) -> Flow[None]:
    """Check that no ancestor is missing that DeltaChannels are made of.

    The metadata says which channels are DeltaChannels. It is read only if a parent is missing, as after pruning,
    because some serializers cannot read it.

    Raises:
        CheckpointCorruptError: An ancestor is missing, so it is unknown what else is needed.
        SerializationError: The serializer cannot read metadata.
    """
    ids = {(entry.manifest.ns, entry.manifest.checkpoint_id) for entry in found.entries.values()}
    parents = {(entry.manifest.ns, entry.manifest.parent_id) for entry in found.entries.values()}
    if all(parent_id is None or (ns, parent_id) in ids for ns, parent_id in parents):
        return
    rows = yield from Compute(partial(_make_rows, found, set(), parents, loads), size=2000 * len(found.entries))
    lost = next(iter(lost_ancestors(rows).items()), None)
    if lost is not None:
        raise _lost(found.thread_id, found.entries[lost[0]].manifest.ns, lost[1])


def _lost(thread_id: str, ns: str, checkpoint_id: str) -> CheckpointCorruptError:
    return corrupt(DamagedError(LOST_ANCESTOR, missing=True), thread_id, ns, checkpoint_id)


def _rows(found: Snapshot, loads: Loads) -> Flow[list[Row]]:
    # The field of an interrupt shows that a task was interrupted. A checkpoint with a child was answered.
    docs = yield from QueryDocs(keys.writes(found.thread_id), mask=(keys.INTERRUPT,))
    found.written = {_owner(doc.name) for doc in docs}
    waiting = {_owner(doc.name) for doc in docs if keys.INTERRUPT in doc.fields}
    parents = {(entry.manifest.ns, entry.manifest.parent_id) for entry in found.entries.values()}
    return (yield from Compute(partial(_make_rows, found, waiting, parents, loads), size=2000 * len(found.entries)))


def _owner(name: str) -> tuple[str, str]:
    """Encoded namespace and checkpoint of a document of pending writes."""
    return keys.writes_ns_of(name), keys.writes_checkpoint_id_of(name)


def _make_rows(
    found: Snapshot, waiting: set[tuple[str, str]], parents: set[tuple[str, str | None]], loads: Loads
) -> list[Row]:
    rows = []
    for name, entry in found.entries.items():
        known = entry.manifest
        try:
            metadata = metadata_of(known, loads)
        except DamagedError as damage:
            raise unreadable(damage, known.thread_id, known.ns, known.checkpoint_id) from None
        counters, above = metadata.get(DELTA_COUNTERS), metadata.get("parents")
        root_id = above.get("") if keys.is_of_call(known.ns) and isinstance(above, Mapping) else None
        pin, run_id = entry.doc.fields.get("pin"), entry.doc.fields.get("run_id")
        stored, versions = frozenset(known.channels), frozenset(known.checkpoint.get("channel_versions", ()))
        deltas = frozenset(counters) if isinstance(counters, Mapping) else frozenset[str]()
        is_fork = metadata.get("source") in _FORKS
        rows.append(
            Row(
                name=name,
                ns=known.ns,
                checkpoint_id=known.checkpoint_id,
                parent_id=known.parent_id,
                time=entry.doc.create_time / 1e9,
                run_id=run_id if isinstance(run_id, str) else None,
                root_id=root_id if isinstance(root_id, str) else None,
                replay_id=known.parent_id if is_fork else None,
                pin=pin if isinstance(pin, str) else None,
                holds=holds_of(entry.doc),
                is_interrupted=(
                    (keys.enc(known.ns), known.checkpoint_id) in waiting
                    and (known.ns, known.checkpoint_id) not in parents
                ),
                stored=stored,
                deltas=(deltas & versions) - stored,
                versions=versions,
            )
        )
    return rows


# Taking documents off the listing


def _unlist(found: Snapshot, dropped: list[str], context: Context, *, spares: bool) -> Flow[bool]:
    """Delete or strip documents, each only if it is as it was seen; false after a conflict. See `prune`."""
    kept = found.entries.keys() - set(dropped)
    used = found.objects(kept)
    stay = _stay(found, dropped)
    times = {name: entry.doc.update_time for name, entry in found.entries.items()}
    order = _order(found, dropped)
    roots = [name for name in order if not found.entries[name].manifest.ns]
    thread = keys.thread_doc(found.thread_id)
    if not spares and found.thread is not None:
        times[thread] = found.thread.update_time
    unmark = (yield from _unmark_root(found.thread_id, context)) if _empties_root(found, dropped) else None
    for at in range(0, len(order), limits.COMMIT_WRITES):
        batch = order[at : at + limits.COMMIT_WRITES]
        writes: list[Write] = []
        for name in batch:
            entry = found.entries[name]
            objects = sorted(entry.objects - used)
            writes.append(_removal(name, objects, times.pop(name), is_bare=name not in stay))
        for name in batch:
            known = found.entries[name].manifest
            parent = keys.checkpoint_doc(found.thread_id, known.ns, known.parent_id or "")
            if parent in times and heir_of(found.entries[parent].doc) == known.checkpoint_id:
                # The child was removed, and is not missing. Its parent may now be the latest checkpoint.
                writes.append(Merge(parent, {}, remove=("heir",), update_time=times[parent]))
        if unmark is not None and roots[-1] in batch:
            writes.append(replace(unmark, update_time=times.get(thread, unmark.update_time)))
        elif thread in times:
            writes.append(Merge(thread, {}, update_time=times[thread]))
        done = yield from Commit(tuple(writes))
        for write in writes:
            context.heads.drop(write.name)
        if done is None:
            return False
        times.update({write.name: time for write, time in zip(writes, done, strict=True) if write.name in times})
    return True


def _order(found: Snapshot, dropped: list[str]) -> list[str]:
    """The order of removal: each document before those whose frames it hands on, and else as given, newest first.

    Between two commits no checkpoint may lack its ancestors. A run may continue it, and its DeltaChannels need them.
    """
    going = set(dropped)
    # Not `TopologicalSorter[str](…)`, which Python 3.10 does not know.
    order: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(dropped, ()))
    for name in dropped:
        for other in found.entries[name].docs:
            if other in going and other != name:
                order.add(other, name)
    rank = {name: number for number, name in enumerate(dropped)}
    ordered: list[str] = []
    ready: list[int] = []
    prepare(order, found)
    while order.is_active():
        for name in order.get_ready():
            heappush(ready, rank[name])
        ordered.append(dropped[heappop(ready)])
        order.done(ordered[-1])
    return ordered


def prepare(order: TopologicalSorter[str], found: Snapshot) -> None:
    """Prepare the sorting of checkpoints' documents.

    Raises:
        CheckpointCorruptError: A checkpoint builds on itself by way of others, which no writer does.
    """
    try:
        order.prepare()
    except CycleError as error:
        known = found.entries[error.args[1][0]].manifest
        damage = DamagedError("it builds on itself")
        raise unreadable(damage, known.thread_id, known.ns, known.checkpoint_id) from None


def _stay(found: Snapshot, dropped: Sequence[str]) -> set[str]:
    """Documents that are stripped instead of deleted, because they are needed, or list what remains to be done."""
    going = set(dropped)
    kept = found.entries.keys() - going
    needed, used = found.needed(kept), found.objects(kept)
    named = {run for name in kept for run in runs_of(found.entries[name].doc)}
    stay: set[str] = set()
    for name in dropped:
        entry = found.entries[name]
        is_written = (keys.enc(entry.manifest.ns), entry.manifest.checkpoint_id) in found.written
        if name in needed or is_written or not entry.objects <= used:
            stay.add(name)
            named |= runs_of(entry.doc)
    for name in dropped:
        # One document that names the run is enough to have the run's document deleted.
        runs = runs_of(found.entries[name].doc)
        if not runs <= named:
            stay.add(name)
            named |= runs
    return stay


def _empties_root(found: Snapshot, dropped: Iterable[str]) -> bool:
    """Whether the root namespace had checkpoints, and all of them are removed."""
    roots = {name for name, entry in found.entries.items() if not entry.manifest.ns}
    return bool(roots) and roots <= set(dropped)


def _unmark_root(thread_id: str, context: Context) -> Flow[Merge | None]:
    """The write that removes the note of a root checkpoint from the thread's document, if there is one."""
    name = keys.thread_doc(thread_id)
    thread = (yield from GetDocs((name,), mask=("root",))).get(name)
    context.noted.drop(name)
    if thread is None or "root" not in thread.fields:
        return None
    return Merge(name, {}, remove=("root",), update_time=thread.update_time)


def _note_root(thread_id: str) -> Flow[None]:
    """Restore the note that the root namespace has a checkpoint, if one was stored just before its removal."""
    name = keys.thread_doc(thread_id)
    for _ in range(MAX_TRIES):
        if not (yield from QueryDocs(keys.checkpoints(thread_id), (("ns", keys.enc("")),), limit=1, mask=())):
            return
        thread = (yield from GetDocs((name,), mask=("root", "deleting"))).get(name)
        if thread is None or not thread.fields.keys().isdisjoint(("root", "deleting")):
            return
        if (yield from Commit((Merge(name, {"root": True}, update_time=thread.update_time),))) is not None:
            return


def _removal(name: str, objects: list[str], time: int, *, is_bare: bool) -> Write:
    """Delete a document; or strip it to its frames, and list what remains to be done."""
    if is_bare:
        return Delete(name, update_time=time)
    return Merge(name, {"objects": json.dumps(objects)}, remove=_LISTED, update_time=time)


# Deleting what removed checkpoints leave


def clean(thread_id: str, context: Context) -> Flow[int]:
    """Delete what only stripped documents refer to, and the stripped documents that nothing refers to.

    These are pending writes, objects, frames, and documents of runs that have nothing left in the thread.

    Returns:
        The number of deleted objects.

    Raises:
        CheckpointCorruptError: A checkpoint is damaged, or the newest of a namespace is missing, so it is unknown what
            is needed.
        ConflictError: Other writers changed the documents in every try, or a copy to the thread is unfinished.
        DamageError: The root namespace had checkpoints, and all are missing.
    """
    return (yield from clean_up((yield from settled(thread_id, context)), context))


def leftovers(found: Snapshot) -> list[Doc]:
    """Stripped documents that nothing refers to, or that list what remains to be done."""
    needed = found.needed(found.entries)
    return [doc for doc in found.stripped.values() if "objects" in doc.fields or doc.name not in needed]


def clean_up(found: Snapshot, context: Context, plan: CollectPlan | None = None) -> Flow[int]:
    """Like `clean`, with a given snapshot, and after a conflict with a new one. With a plan, nothing else goes."""
    deleted = 0
    for _ in range(MAX_TRIES):
        cleaning = _Cleaning(found, context, plan)
        is_done = yield from cleaning.flow()
        deleted += cleaning.deleted
        if is_done:
            return deleted
        found = yield from settled(found.thread_id, context)
    raise ConflictError(
        f"Cleaning thread {found.thread_id!r} is unfinished: other writers changed its documents {MAX_TRIES} times in "
        "a row. The remaining checkpoints are whole. Call again to continue."
    )


class _Cleaning:
    """One try.

    A checkpoint may be stored again under a stripped document's name, and get pending writes. So data that belongs to a
    document is deleted only while the document is as it was seen. Objects are deleted after their names were noted in
    the document, and after the pending writes that refer to them.

    Attributes:
        plan: If given, the only documents and objects that go. Pending writes, and their objects, go with the document
            of the removed checkpoint that they belong to.
        needed: Documents whose frames a checkpoint refers to, or did when the plan was made.
        used: Objects that a checkpoint refers to.
        times: When each stripped document last changed.
        deleted: The number of objects deleted so far.
    """

    def __init__(self, found: Snapshot, context: Context, plan: CollectPlan | None) -> None:
        self.found = found
        self.context = context
        self.plan = plan
        self.needed = found.needed(found.entries) | set(() if plan is None else plan.trimmed)
        self.used = found.objects(found.entries)
        self.times = {doc.name: doc.update_time for doc in found.stripped.values()}
        self.deleted = 0

    def flow(self) -> Flow[bool]:
        """Clean everything; false after a conflict."""
        found = self.found
        todo = leftovers(found)
        if self.plan is not None:
            planned = {*self.plan.stripped, *self.plan.trimmed}
            todo = [doc for doc in todo if doc.name in planned]
        runs = {run for doc in todo for run in runs_of(doc)}
        idle = yield from _idle_runs(found.thread_id, runs)
        # A run's document is deleted with the last document that names the run.
        last = {run: doc.name for doc in todo for run in runs_of(doc)}
        ends: dict[str, list[Write]] = {}
        for run, write in idle.items():
            ends.setdefault(last[run], []).append(write)
        for at in range(0, len(todo), limits.COMMIT_WRITES):
            if not (yield from self._clean(todo[at : at + limits.COMMIT_WRITES], ends)):
                return False
        return True

    def _clean(self, batch: Sequence[Doc], ends: Mapping[str, list[Write]]) -> Flow[bool]:
        pending = yield from _pending(self.found.thread_id, batch)
        objects = {doc.name: self._listed(doc) for doc in batch}
        notes: list[Write] = []
        for doc in batch:
            more = (yield from self._stubs(pending.get(doc.name, ()))) - objects[doc.name]
            if more:
                objects[doc.name] |= more
                fields = {"objects": json.dumps(sorted(objects[doc.name]))}
                notes.append(Merge(doc.name, fields, update_time=self.times[doc.name]))
        if notes:
            times = yield from Commit(tuple(notes))
            if times is None:
                return False
            self.times.update(zip((note.name for note in notes), times, strict=True))
        listed = set[str]().union(*objects.values()) - self.used
        # No digest covers the list, so another program may have forged it.
        gone = sorted((yield from unreferenced(self.found.thread_id, listed, self.context)))
        if gone:
            checked = [self._with_check(doc.name, pending.pop(doc.name)) for doc in batch if doc.name in pending]
            if not (yield from self._commit(checked)):
                return False
            blobs = [tuple(gone[at : at + limits.BATCH_CALLS]) for at in range(0, len(gone), limits.BATCH_CALLS)]
            yield from Gather(tuple(map(DeleteBlobs, blobs)))
            self.deleted += len(gone)
        groups = []
        for doc in batch:
            writes: list[Write] = [Delete(one.name) for one in pending.get(doc.name, ())]
            groups.append([*writes, *ends.get(doc.name, ()), self._end(doc.name)])
        return (yield from self._commit(groups))

    def _listed(self, doc: Doc) -> set[str]:
        plan, listed = self.plan, listed_objects(doc)
        return listed if plan is None else {name for name in listed if name in plan.objects or _is_of_writes(name)}

    def _stubs(self, docs: Sequence[Doc]) -> Flow[set[str]]:
        found: set[str] = set()
        for doc in docs:
            with suppress(DamagedError):  # Its objects are unknown. They are orphans to collect.
                found.update((yield from read_stubs(doc, self.context.codec)))
        return found

    def _check(self, name: str) -> Write:
        return Merge(name, {}, update_time=self.times[name])

    def _with_check(self, name: str, docs: Sequence[Doc]) -> list[Write]:
        return [*(Delete(doc.name) for doc in docs), self._check(name)]

    def _end(self, name: str) -> Write:
        if name in self.needed:
            return Merge(name, {}, remove=_LEFT, update_time=self.times[name])
        return Delete(name, update_time=self.times[name])

    def _commit(self, groups: Sequence[list[Write]]) -> Flow[bool]:
        """Commit groups of writes. Each ends with the write of its document, which guards the writes before it."""
        for batch in _packed(groups, self._check):
            if (yield from Commit(tuple(batch))) is None:
                return False
        return True


def _packed(groups: Iterable[list[Write]], check: Callable[[str], Write]) -> Iterator[list[Write]]:
    batch: list[Write] = []
    for group in groups:
        rest = group
        while len(rest) > limits.COMMIT_WRITES:
            yield [*rest[: max(1, limits.COMMIT_WRITES - 1)], check(group[-1].name)]
            rest = rest[max(1, limits.COMMIT_WRITES - 1) :]
        if batch and len(batch) + len(rest) > limits.COMMIT_WRITES:
            yield batch
            batch = []
        batch = batch + rest
    if batch:
        yield batch


def _is_of_writes(name: str) -> bool:
    return f"/{keys.WRITES_BLOB}-" in name


def listed_objects(doc: Doc) -> set[str]:
    """The objects that a stripped document lists, all below its own thread's name.

    An object of pending writes belongs to one checkpoint. Other checkpoints' objects of this kind are ignored.
    """
    text = doc.fields.get("objects")
    try:
        listed = json.loads(text) if isinstance(text, str) else []
    except (ValueError, RecursionError):
        listed = []  # No digest covers the list, so another program may have changed it. The objects are orphans.
    thread = f"{doc.name.split('/')[1]}/"
    pending = keys.blob_beside(doc.name, keys.WRITES_BLOB, "").removesuffix(".zst")
    names = listed if isinstance(listed, list) else []
    mine = (name for name in names if isinstance(name, str) and name.startswith(thread))
    blobs = (name for name in mine if keys.BLOB.match(name.removeprefix(thread)))
    return {name for name in blobs if not _is_of_writes(name) or name.startswith(pending)}


def _pending(thread_id: str, docs: Sequence[Doc]) -> Flow[dict[str, list[Doc]]]:
    """Documents of the pending writes of stripped checkpoints, by the names of the checkpoints' documents."""
    owners = {(keys.ns_segment_of(doc.name), keys.checkpoint_id_of(doc.name)): doc.name for doc in docs}
    spaces: dict[str, list[str]] = {}
    for ns, checkpoint_id in owners:
        spaces.setdefault(ns, []).append(checkpoint_id)
    collection = keys.writes(thread_id)
    queries = []
    for ns, ids in spaces.items():
        start, end = keys.writes_span(keys.spread(thread_id, "thread id"), ns, max(ids), min(ids))
        queries.append(QueryDocs(collection, start=start, end=end, mask=()))
    results = yield from Gather(tuple(queries))
    # Between two stripped checkpoints, many may be kept. Only the names of their writes are read.
    names = [doc.name for found in results for doc in found if _owner(doc.name) in owners]
    pending: dict[str, list[Doc]] = {}
    for at in range(0, len(names), DOCS_PER_PAGE):
        for doc in (yield from GetDocs(tuple(names[at : at + DOCS_PER_PAGE]))).values():
            pending.setdefault(owners[_owner(doc.name)], []).append(doc)
    return pending


def _idle_runs(thread_id: str, runs: Iterable[str]) -> Flow[dict[str, Write]]:
    """The write that deletes a run's document, for each of some runs that no checkpoint of the thread names.

    A put of a checkpoint updates its run's document, or continues a checkpoint of the same run. So if the query misses
    a checkpoint, either this write fails, or the query also missed the checkpoint's parent.
    """
    names = {run: keys.run_doc(run, thread_id) for run in sorted(runs)}
    docs: dict[str, Doc] = {}
    wanted = list(names.values())
    for at in range(0, len(wanted), DOCS_PER_PAGE):
        docs.update((yield from GetDocs(tuple(wanted[at : at + DOCS_PER_PAGE]), mask=())))
    if not docs:
        return {}
    listed = yield from QueryDocs(keys.checkpoints(thread_id), mask=manifest.RUNS_BY)
    busy = {run for doc in listed if kind_of(doc) is DocumentKind.CHECKPOINT for run in runs_of(doc)}
    return {
        run: Delete(name, update_time=docs[name].update_time)
        for run, name in names.items()
        if name in docs and run not in busy
    }


# The checkpoints of runs


def delete_for_run(run_id: str, *, dry_run: bool, loads: Loads, context: Context, force: bool = False) -> Flow[RunPlan]:
    """Remove every checkpoint that a run wrote, in every thread, with its pending writes.

    Raises:
        CheckpointCorruptError: A checkpoint of a thread is damaged, or the newest of a namespace is missing. Repair it
            first. This error, like the following ones, is raised after the other threads are done.
        ClearTextError: A checkpoint is in clear, and the saver has a cipher.
        SerializationError, UnsupportedFormatError, ValueTooLargeError, WrongKeyError: A checkpoint cannot be read.
        ConflictError: Other writers changed a thread in every try, or a copy to it is unfinished.
        DamageError: All checkpoints of the root namespace of a thread are missing.
        ThreadBusyError: Another process holds the lease of a thread.
        ThreadInSetError: A set or a savepoint needs a checkpoint, and `force` is false.
    """
    choose = partial(decide_for_runs, runs=frozenset((run_id,)))
    tries = Tries()
    plans: list[PrunePlan] = []
    after: str | None = None
    while docs := (yield from QueryDocs(keys.run_threads(run_id), after=after, limit=DOCS_PER_PAGE)):
        for doc in docs:
            thread_id = thread_id_of(doc)
            if thread_id is None:
                continue  # Another program's document, because a thread's contains the thread's id.
            make = partial(
                prune, thread_id, choose, dry_run=dry_run, loads=loads, context=context, spares=False, force=force
            )
            plan = yield from tries.of(make() if dry_run else as_writer(thread_id, make, context), thread_id)
            if plan is not None:
                plans.append(plan)
                if not dry_run:
                    yield from _forget_run(run_id, thread_id)
        after = docs[-1].name
    tries.end()
    return RunPlan(run_id=run_id, threads=tuple(plans))


def delete_planned(planned: RunPlan, loads: Loads, context: Context) -> Flow[RunPlan]:
    """Remove those checkpoints of a run that a plan of `delete_for_run` showed; raises as that does."""
    tries = Tries()
    plans: list[PrunePlan] = []
    for thread in planned.threads:
        names = frozenset(decision.row.name for decision in thread.decisions if decision.reason is None)
        choose = partial(decide_for_runs, runs=frozenset((planned.run_id,)), planned=names)
        make = partial(prune, thread.thread_id, choose, dry_run=False, loads=loads, context=context, spares=False)
        plan = yield from tries.of(as_writer(thread.thread_id, make, context), thread.thread_id)
        if plan is not None:
            plans.append(plan)
            yield from _forget_run(planned.run_id, thread.thread_id)
    tries.end()
    return RunPlan(run_id=planned.run_id, threads=tuple(plans))


def _forget_run(run_id: str, thread_id: str) -> Flow[None]:
    """Delete a run's document of a thread that has no checkpoints of it: they were removed in another way."""
    for write in (yield from _idle_runs(thread_id, (run_id,))).values():
        yield from Commit((write,))


# Pins


def pin(thread_id: str, ns: str, checkpoint_id: str, label: str | None, context: Context) -> Flow[bool]:
    """Pin a checkpoint, or with `None` remove its pin; false if there is no such checkpoint.

    Pinning counts as a use of the thread. So a sweep that has not seen the pin finds that the thread has changed, and
    does not delete it. Removing a pin does not count as a use.

    Raises:
        ConflictError: Other writers kept changing its document.
    """
    name = keys.checkpoint_doc(thread_id, ns, checkpoint_id)
    for _ in range(MAX_TRIES):
        doc = (yield from GetDocs((name,), mask=(*manifest.LISTED_BY, "pin"))).get(name)
        if doc is None or kind_of(doc) is not DocumentKind.CHECKPOINT:
            return False
        if doc.fields.get("pin") == label:
            return True
        fields, remove = ({}, ("pin",)) if label is None else ({"pin": label}, ())
        writes = [Merge(name, fields, remove=remove, update_time=doc.update_time)]
        if label is not None:
            writes.append(move(thread_id, context))
        done = yield from Commit(tuple(writes))
        context.heads.drop(name)
        if done is not None:
            return True
    raise ConflictError(
        f"The pin of checkpoint {checkpoint_id!r}, thread {thread_id!r}, was not changed: other writers changed its "
        f"document {MAX_TRIES} times in a row. Call again."
    )


def pins(thread_id: str, ns: str) -> Flow[dict[str, str]]:
    """Labels of a namespace's pinned checkpoints by id, newest first."""
    where = (("ns", keys.enc(ns, "namespace")),)
    docs = yield from QueryDocs(keys.checkpoints(thread_id), where, mask=("pin",))
    pinned = (doc for doc in docs if "pin" in doc.fields and keys.is_in_ns(doc.name, ns))
    return {keys.checkpoint_id_of(doc.name): doc.fields["pin"] for doc in pinned}
