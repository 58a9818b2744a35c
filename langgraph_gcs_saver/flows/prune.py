"""Removing checkpoints while others write: prune, retention, and the checkpoints of runs.

A plan is made from one consistent snapshot, the answer to one query. A document that goes is deleted only as it was
seen, and only after all that refer to its frames: whoever could still hand its frames on to a child is gone by then, or
has changed, and then the plan is made anew. One whose frames are still needed is *stripped* to them. One that has
objects or pending writes is stripped first too, with the names of its objects, so that a call that dies leaves a list
of what remains to be done. What a second snapshot shows nobody refers to is then deleted for good: a later manifest
inherits only from a parent that is there, unchanged, when it commits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from typing import Any, cast

from langgraph_gcs_saver import keys
from langgraph_gcs_saver.effects import (
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
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.events import ThreadPruned
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context, Loads
from langgraph_gcs_saver.flows.manifests import corrupt, locate_manifest
from langgraph_gcs_saver.flows.writes import stubs_of
from langgraph_gcs_saver.manifest import DamagedError, Manifest, heir_of, is_listed, runs_of
from langgraph_gcs_saver.retention import Decision, PrunePlan, Row, decide_for_runs

BATCH = 200
"""Documents written in one commit: below Firestore's former limit of 500 writes, which emulators may still hold to."""

_BLOB_BATCH = 100
_MASK = ("ns", "format", "manifest", "digest", "heir", "run_id", "former_runs", "pin", "objects")
_LISTED = ("ns", "format", "manifest", "digest", "filter", "heir", "run_id", "former_runs", "pin")
_INTERRUPT = "w3"
_DELTA = "counters_since_delta_snapshot"

Choose = Callable[[list[Row]], list[Decision]]
"""Decides what goes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint's document without its frames, what it says, and the objects and documents that it refers to."""

    doc: Doc
    manifest: Manifest
    objects: frozenset[str]
    docs: frozenset[str]


@dataclass(slots=True)
class Snapshot:
    """All documents of a thread's checkpoints at one instant, without their frames.

    Attributes:
        thread_id: The thread.
        entries: Checkpoints that are listed, by document name.
        stripped: Documents that are not.
        written: Checkpoints that have pending writes: encoded namespace and id.
    """

    thread_id: str
    entries: dict[str, Entry] = field(default_factory=dict)
    stripped: dict[str, Doc] = field(default_factory=dict)
    written: set[tuple[str, str]] = field(default_factory=set)

    def needed(self, names: Iterable[str]) -> set[str]:
        """Documents whose frames some checkpoints refer to."""
        return {doc for name in names for doc in self.entries[name].docs}

    def objects(self, names: Iterable[str]) -> set[str]:
        """Objects that some checkpoints refer to."""
        return {blob for name in names for blob in self.entries[name].objects}


def snapshot(thread_id: str, context: Context) -> Flow[Snapshot]:
    """Read what all checkpoints of a thread refer to.

    Raises:
        CheckpointCorruptError: One is damaged: nobody can tell what it refers to.
    """
    before: object = None
    while True:
        found = Snapshot(thread_id)
        docs = yield from QueryDocs(keys.checkpoints(thread_id), mask=_MASK)
        damaged = yield from _read(docs, found, context)
        if damaged is None:
            return found
        doc, damage = damaged
        if before == (doc.name, damage.reason, doc.fields):
            ns = keys.dec(keys.ns_segment_of(doc.name)) or ""
            raise corrupt(damage, thread_id, ns, keys.checkpoint_id_of(doc.name))
        before = doc.name, damage.reason, doc.fields


def _read(docs: Sequence[Doc], found: Snapshot, context: Context) -> Flow[tuple[Doc, DamagedError] | None]:
    for doc in docs:
        if doc.fields.keys().isdisjoint(("ns", "format", "manifest")):
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


def objects_of(known: Manifest, blob: str | None) -> set[str]:
    """Names of the objects that a manifest refers to, and of the one that it lies in itself, if it does."""
    steps = (step for channel in known.channels for step in known.steps(channel))
    found = {step.name for step in steps if step.frame.attempt is not None}
    return found if blob is None else found | {blob}


def prune(
    thread_id: str,
    choose: Choose,
    *,
    dry_run: bool,
    show: Callable[[PrunePlan], object],
    loads: Loads,
    context: Context,
) -> Flow[PrunePlan]:
    """Remove the checkpoints of a thread that `choose` does not keep, with all that only they need.

    Returns:
        What was decided for each checkpoint.

    Raises:
        CheckpointCorruptError: A checkpoint is damaged: nobody can tell what it needs. Repair it first.
        ConflictError: Others changed what was to go, time and again.
    """
    for _ in range(MAX_TRIES):
        found = yield from snapshot(thread_id, context)
        rows = yield from _rows(found, loads)
        decisions = choose(rows)
        plan = PrunePlan(thread_id=thread_id, decisions=tuple(decisions))
        if dry_run:
            yield from Compute(partial(show, plan))
            return plan
        dropped = [decision.row.name for decision in decisions if decision.reason is None]
        if (yield from _unlist(found, dropped, context)):
            objects = yield from clean(thread_id, context)
            if not any(decision.row.ns == "" for decision in decisions if decision.reason is not None):
                yield from _forget_root(thread_id)
            # Last: a call that died is found again by its runs.
            yield from _forget_runs(found, set(dropped), context)
            if dropped:
                yield from Emit(ThreadPruned(thread_id=thread_id, checkpoints=len(dropped), objects=objects))
            return plan
    raise ConflictError(
        f"Thread {thread_id!r} was not pruned to the end: others changed its checkpoints {MAX_TRIES} times in a row. "
        "What was done is whole; call again."
    )


def _rows(found: Snapshot, loads: Loads) -> Flow[list[Row]]:
    # A special write's field says that there is one; who has a child was answered.
    docs = yield from QueryDocs(keys.writes(found.thread_id), mask=(_INTERRUPT,))
    found.written = {_owner(doc.name) for doc in docs}
    waiting = {_owner(doc.name) for doc in docs if _INTERRUPT in doc.fields}
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
        metadata = cast("Mapping[str, Any]", loads(known.metadata))
        counters, above = metadata.get(_DELTA), metadata.get("parents")
        root_id = above.get("") if known.ns and ":" in known.ns and isinstance(above, Mapping) else None
        pin, run_id = entry.doc.fields.get("pin"), entry.doc.fields.get("run_id")
        stored = frozenset(known.channels)
        rows.append(
            Row(
                name=name,
                ns=known.ns,
                checkpoint_id=known.checkpoint_id,
                parent_id=known.parent_id,
                time=entry.doc.create_time / 1e9,
                run_id=run_id if isinstance(run_id, str) else None,
                root_id=root_id if isinstance(root_id, str) else None,
                pin=pin if isinstance(pin, str) else None,
                is_interrupted=(
                    (keys.enc(known.ns), known.checkpoint_id) in waiting
                    and (known.ns, known.checkpoint_id) not in parents
                ),
                stored=stored,
                deltas=frozenset(counters) - stored if isinstance(counters, Mapping) else frozenset(),
            )
        )
    return rows


# Taking documents off the listing


def _unlist(found: Snapshot, dropped: list[str], context: Context) -> Flow[bool]:
    """Delete or strip documents, each only as it was seen; false after a conflict."""
    going = set(dropped)
    kept = found.entries.keys() - going
    needed, used = found.needed(kept), found.objects(kept)
    # Children before those whose frames they hand on, whatever their ids say.
    order = TopologicalSorter[str](dict.fromkeys(dropped, ()))
    for name in dropped:
        for other in found.entries[name].docs:
            if other in going and other != name:
                order.add(other, name)
    heirs = {name: heir for name in kept if (heir := heir_of(found.entries[name].doc)) is not None}
    rank = {name: number for number, name in enumerate(dropped)}
    batch: list[Write] = []
    order.prepare()
    while order.is_active():
        ready = sorted(order.get_ready(), key=rank.__getitem__)
        for name in ready:
            entry = found.entries[name]
            known = entry.manifest
            is_bare = name not in needed and (keys.enc(known.ns), known.checkpoint_id) not in found.written
            writes = [_removal(entry, sorted(entry.objects - used), is_bare=is_bare)]
            parent = keys.checkpoint_doc(found.thread_id, known.ns, known.parent_id or "")
            if heirs.get(parent) == known.checkpoint_id:
                # It is not lost: it was dropped.
                writes.append(Merge(parent, {}, remove=("heir",), update_time=found.entries[parent].doc.update_time))
            if len(batch) + len(writes) > BATCH:
                if not (yield from _commit(batch, context)):
                    return False
                batch = []
            batch += writes
        order.done(*ready)
    return not batch or (yield from _commit(batch, context))


def _removal(entry: Entry, objects: list[str], *, is_bare: bool) -> Write:
    """Delete a document that nothing else hangs on; strip another one to its frames and what remains to be done."""
    if is_bare and not objects:
        return Delete(entry.doc.name, update_time=entry.doc.update_time)
    left = {"objects": json.dumps(objects)}
    return Merge(entry.doc.name, left, remove=_LISTED, update_time=entry.doc.update_time)


def _commit(batch: Sequence[Write], context: Context) -> Flow[bool]:
    done = yield from Commit(tuple(batch))
    for write in batch:
        context.heads.drop(write.name)
    return done is not None


# What is left of what was taken off


def clean(thread_id: str, context: Context) -> Flow[int]:
    """Delete pending writes, objects and frames of stripped documents that nobody refers to; the number of objects."""
    return (yield from clean_up((yield from snapshot(thread_id, context)), context))


def leftovers(found: Snapshot) -> list[Doc]:
    """Stripped documents that nobody refers to, or that list what remains to be done."""
    needed = found.needed(found.entries)
    return [doc for doc in found.stripped.values() if "objects" in doc.fields or doc.name not in needed]


def clean_up(found: Snapshot, context: Context) -> Flow[int]:
    """As `clean`, by a snapshot at hand."""
    needed, used = found.needed(found.entries), found.objects(found.entries)
    todo = leftovers(found)
    deleted = 0
    for at in range(0, len(todo), BATCH):
        batch = todo[at : at + BATCH]
        # A document without fields may be a damaged checkpoint: what was stripped has its frames, or its list.
        unsure = tuple(doc.name for doc in batch if "objects" not in doc.fields)
        frames = (yield from GetDocs(unsure, mask=("frames",))) if unsure else {}
        sure = {doc.name for doc in frames.values() if "frames" in doc.fields}
        batch = [doc for doc in batch if "objects" in doc.fields or doc.name in sure]
        writes = yield from _writes_of(batch)
        objects = {name for doc in batch for name in _listed_objects(doc)}
        for doc in writes:
            with suppress(DamagedError):  # nobody can tell its objects; they wait to be collected
                objects.update(stubs_of(doc, context.codec))
        gone = sorted(objects - used)
        for start in range(0, len(gone), _BLOB_BATCH):
            yield from DeleteBlobs(tuple(gone[start : start + _BLOB_BATCH]))
        deleted += len(gone)
        for start in range(0, len(writes), BATCH):
            yield from Commit(tuple(Delete(doc.name) for doc in writes[start : start + BATCH]))
        yield from Commit(tuple(_last(doc, doc.name in needed) for doc in batch))
    return deleted


def _last(doc: Doc, is_needed: bool) -> Write:
    if is_needed:
        return Merge(doc.name, {}, remove=("objects",), update_time=doc.update_time)
    return Delete(doc.name, update_time=doc.update_time)


def _listed_objects(doc: Doc) -> list[str]:
    text = doc.fields.get("objects")
    return list(json.loads(text)) if isinstance(text, str) else []


def _writes_of(docs: Sequence[Doc]) -> Flow[list[Doc]]:
    """Documents of the pending writes of stripped checkpoints."""
    spaces: dict[str, list[str]] = {}
    for doc in docs:
        spaces.setdefault(keys.ns_segment_of(doc.name), []).append(keys.checkpoint_id_of(doc.name))
    wanted = {(ns, checkpoint_id) for ns, ids in spaces.items() for checkpoint_id in ids}
    queries = []
    for ns, ids in spaces.items():
        thread = docs[0].name.split("/")[1]
        start, end = keys.writes_span(thread, ns, max(ids), min(ids))
        queries.append(QueryDocs(f"{keys.THREADS}/{thread}/{keys.WRITES}", start=start, end=end))
    results = yield from Gather(tuple(queries))
    return [doc for found in results for doc in found if _owner(doc.name) in wanted]


def _forget_runs(found: Snapshot, dropped: set[str], context: Context) -> Flow[None]:
    """Delete the documents of runs of which nothing is left in the thread."""
    left = {run for name, entry in found.entries.items() if name not in dropped for run in runs_of(entry.doc)}
    runs = {run for name in dropped for run in runs_of(found.entries[name].doc)} - left
    names = [keys.run_doc(run, found.thread_id) for run in sorted(runs)]
    for name in names:
        context.noted.drop(name)
    for at in range(0, len(names), BATCH):
        yield from Commit(tuple(Delete(name) for name in names[at : at + BATCH]))


# The checkpoints of runs


def delete_for_run(
    run_id: str, *, dry_run: bool, show: Callable[[PrunePlan], object], loads: Loads, context: Context
) -> Flow[None]:
    """Remove every checkpoint that a run wrote, in every thread, with its pending writes.

    Raises:
        CheckpointCorruptError: A checkpoint of one of the threads is damaged. Repair it first.
        ConflictError: Others changed what was to go, time and again.
    """
    choose = partial(decide_for_runs, runs=frozenset((run_id,)))
    after: str | None = None
    while docs := (yield from QueryDocs(keys.run_threads(run_id), after=after, limit=BATCH)):
        for doc in docs:
            thread_id = doc.fields.get("thread_id")
            if not isinstance(thread_id, str):
                thread_id = keys.thread_id_of(doc.name.rsplit("/", 1)[1])
            if thread_id is None:
                continue  # Another program's document: a thread's says its id.
            yield from prune(thread_id, choose, dry_run=dry_run, show=show, loads=loads, context=context)
            if not dry_run:
                context.noted.drop(doc.name)
                yield from Commit((Delete(doc.name),))
        after = docs[-1].name


def _forget_root(thread_id: str) -> Flow[None]:
    """Say that the root namespace has no checkpoint, if all of them are gone."""
    name = keys.thread_doc(thread_id)
    thread = (yield from GetDocs((name,))).get(name)
    if thread is None or "root" not in thread.fields:
        return
    left = yield from QueryDocs(keys.checkpoints(thread_id), (("ns", keys.enc("")),), limit=1, mask=())
    if not left:
        yield from Commit((Merge(name, {}, remove=("root",), update_time=thread.update_time),))


# Pins


def pin(thread_id: str, ns: str, checkpoint_id: str, label: str | None, context: Context) -> Flow[bool]:
    """Pin a checkpoint, or with `None` take its pin off; false when there is no such checkpoint.

    Raises:
        ConflictError: Others kept changing its document.
    """
    name = keys.checkpoint_doc(thread_id, ns, checkpoint_id)
    for _ in range(MAX_TRIES):
        doc = (yield from GetDocs((name,), mask=("format", "manifest", "ns", "frames", "objects"))).get(name)
        if doc is None or not is_listed(doc):
            return False
        fields, remove = ({}, ("pin",)) if label is None else ({"pin": label}, ())
        done = yield from Commit((Merge(name, fields, remove=remove, update_time=doc.update_time),))
        context.heads.drop(name)
        if done is not None:
            return True
    raise ConflictError(
        f"Checkpoint {checkpoint_id!r} of thread {thread_id!r} was not pinned: others changed its document {MAX_TRIES} "
        "times in a row. Call again."
    )


def pins(thread_id: str, ns: str) -> Flow[dict[str, str]]:
    """Labels of a namespace's pinned checkpoints by id, newest first."""
    where = (("ns", keys.enc(ns, "namespace")),)
    docs = yield from QueryDocs(keys.checkpoints(thread_id), where, mask=("pin",))
    return {keys.checkpoint_id_of(doc.name): doc.fields["pin"] for doc in docs if "pin" in doc.fields}
