"""Copies a thread on the server: its checkpoints with all their history, its pending writes, and its objects.

Data is copied before the documents that refer to it, so all checkpoints of an unfinished copy are whole. Each commit
carries the target's own document as its guard. It keeps the copy and a deletion of the target apart, like a put and a
deletion. Objects get names that no other copy uses. Otherwise a deletion of the target that has listed names, and then
stalls, would delete the objects of a later copy. If the source changes meanwhile, the copy leaves out documents that
were deleted, and starts over if one was replaced.

Another program may write to the target, or forge the mark of an unfinished copy. So each try looks at everything there.
Documents that are unchanged since this call wrote them may be overwritten. Others must be a part of the source as it is
now, and are only completed. At the end the target must have exactly what the try left or accepted, unchanged since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    CopyBlob,
    Create,
    DeleteBlobs,
    Doc,
    Fields,
    Flow,
    Gather,
    GetDocs,
    ListCollections,
    Merge,
    Now,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import (
    CheckpointCorruptError,
    ClearTextError,
    ConflictError,
    InvalidInputError,
)
from langgraph_gcs_saver.flows.batches import in_batches
from langgraph_gcs_saver.flows.collections import Listed, damaged, list_docs, pages, read_docs, whole_objects_of
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.ids import claim_of
from langgraph_gcs_saver.flows.leases import respect
from langgraph_gcs_saver.flows.manifests import (
    corrupt,
    encode_manifest,
    read_manifest,
    report_clear,
    report_encrypting,
    unreadable,
)
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.prune import Entry, Snapshot, is_whole, prepare, snapshot
from langgraph_gcs_saver.flows.threads import guard, note_run
from langgraph_gcs_saver.flows.writes import is_clear, lacks, moved_to, read_stubs
from langgraph_gcs_saver.format import filters, keys, manifest, registry
from langgraph_gcs_saver.format.holds import HOLDS
from langgraph_gcs_saver.format.manifest import (
    DamagedError,
    DocumentKind,
    FrameRef,
    Manifest,
    heir_of,
    kind_of,
    runs_of,
)
from langgraph_gcs_saver.format.registry import Collection, Copied
from langgraph_gcs_saver.results import CopyPlan

CHECKPOINTS_PER_PAGE = 20
"""How many documents are read at once, with their frames."""

COMMIT_BYTES = limits.EMULATOR_REQUEST_BYTES - (1 << 20)
"""The maximum size of documents in one commit. The rest of a request is for the commit's other writes."""

_SHOWN = (*manifest.LISTED_BY, "digest")
"""The fields that a manifest is read from."""

_LEFT_OUT = ("pin", "objects", "heir", "filter", "fence", HOLDS)
"""Fields of a checkpoint that its copy does not take as they are."""

_BLOBS = 32
"""How many objects are copied at the same time."""


def copy_thread(source: str, target: str, *, dry_run: bool, context: Context) -> Flow[CopyPlan]:
    """Copy a whole thread as it is now to an empty thread. An empty source changes nothing.

    If the target has a part of what the source has now, it is completed. If it has anything else, the call fails, and
    nothing in the target is overwritten or removed.

    Raises:
        InvalidInputError: The target is the source, or is neither empty nor a part of the source as it is now.
        CheckpointCorruptError: A checkpoint of the source, or a pending write, is damaged, or the newest checkpoint of
            a namespace is missing. Repair it first.
        DamageError: A document of another collection is damaged, or all checkpoints of the root namespace are missing.
        UnsupportedFormatError: One of the threads has a collection that only a newer version knows.
        ThreadBusyError: A process holds the target's lease.
        ConflictError: The source is being deleted, or was deleted after a part of it was copied. Or in every try, the
            source was replaced, or the target was changed or deleted.
    """
    if source == target:
        raise InvalidInputError(f"Thread {source!r} cannot be copied to itself.")
    since = yield from _read_source(source)
    written: dict[str, int] = {}
    reported = 0
    for _ in range(MAX_TRIES):
        found = yield from snapshot(source, context)
        _check_frames(found)
        levels, clear = yield from _writes(source, context)
        plain = yield from list_docs(keys.thread_doc(source), lambda entry: entry.copied is not None)
        # If a deletion began before the snapshot, that shows only a part of the thread. The deletion's mark shows too,
        # unless the deletion has finished.
        before, since = since, (yield from _read_source(source))
        if _created(before) != _created(since):
            if written:
                raise ConflictError(
                    f"Thread {source!r} was deleted or recreated while it was copied. Thread {target!r} "
                    "has a part of the old thread: delete it."
                )
            continue
        if not (yield from is_whole(found, before)):
            continue
        plan = CopyPlan(
            source=source,
            target=target,
            checkpoints=len(found.entries),
            writes=sum(map(len, levels)),
            others=len(plain),
            objects=len(found.objects(found.entries)),
            clear=clear + (yield from _clear_manifests(found, context)) + (yield from _clear_plain(plain, context)),
        )
        copy = _Copy(found, levels, target, written, context, plain=plain)
        if dry_run:
            yield from copy.check_target()
            return plan
        # A source that is empty by now may have been copied in part.
        if not (found.entries or levels or plain) and not (yield from copy.is_claimed()):
            return plan
        # If a document has changed since it was counted, the copy is planned again.
        if plan.clear > reported:
            yield from report_encrypting(target, plan.clear)
            reported = plan.clear
        if (yield from copy.flow()):
            return plan
        yield from copy.discard()
    raise ConflictError(
        f"The copy of thread {source!r} is unfinished: its checkpoints were replaced, or {target!r} was written to or "
        f"deleted, {MAX_TRIES} times in a row. Call again when the runs of both have ended."
    )


def _read_source(thread_id: str) -> Flow[Doc | None]:
    name = keys.thread_doc(thread_id)
    docs, ids = yield from Gather((GetDocs((name,), mask=("deleting", "root")), ListCollections(name)))
    registry.check(thread_id, ids)
    doc: Doc | None = docs.get(name)
    if doc is not None and "deleting" in doc.fields:
        raise ConflictError(
            f"Thread {thread_id!r} is being deleted, or its deletion crashed, so it cannot be copied. Call "
            "delete_thread again to finish the deletion."
        )
    return doc


def _created(thread: Doc | None) -> int | None:
    """When a thread's document was created, which distinguishes the thread from a later one of the same id."""
    return None if thread is None else thread.create_time


def _is_copied(entry: Collection) -> bool:
    return entry.is_copied


def _has_any(thread_id: str, ids: Iterable[str]) -> bool:
    """Whether one of a target's collections prevents a copy."""
    registry.check(thread_id, ids)
    return registry.holds(ids, _is_copied)


def _not_empty(thread_id: str) -> InvalidInputError:
    return InvalidInputError(
        f"Thread {thread_id!r} is not empty: delete it first, or copy to another one. Nothing was copied."
    )


def _check_frames(found: Snapshot) -> None:
    """Raise if a checkpoint's frames were in a document that is missing from the same snapshot."""
    for entry in found.entries.values():
        gone = sorted(entry.docs - found.entries.keys() - found.stripped.keys())
        if gone:
            damage = DamagedError("the document that holds a frame is missing", frame=gone[0], missing=True)
            raise corrupt(damage, found.thread_id, entry.manifest.ns, entry.manifest.checkpoint_id)


def _clear_manifests(found: Snapshot, context: Context) -> Flow[int]:
    """How many manifests the cipher does not vouch for."""
    manifests = [entry.doc.fields["manifest"] for entry in found.entries.values()]
    return (
        yield from Compute(
            lambda: sum(not context.codec.vouches_for(m) for m in manifests), size=sum(map(len, manifests))
        )
    )


def _clear_plain(plain: Sequence[Listed], context: Context) -> Flow[int]:
    """How many documents of plain collections the cipher does not vouch for.

    Raises:
        DamageError: A document is damaged.
    """
    if context.codec.cipher is None or not context.codec.accept_clear:
        return 0
    clear = 0
    for page in pages(plain):
        for entry, doc in (yield from read_docs(page)):
            yield from whole_objects_of(entry, doc, context)
            clear += yield from Compute(partial(entry.is_clear, doc, context.codec))
    return clear


def _writes(thread_id: str, context: Context) -> Flow[tuple[list[list[Doc]], int]]:
    """List the documents of pending writes, and check that all are whole.

    Returns:
        The documents, in levels to be copied one after the other, and how many the cipher does not vouch for.
    """
    clear: set[str] = set()
    docs = yield from QueryDocs(keys.writes(thread_id), mask=())
    names = [doc.name for doc in docs]
    for at in range(0, len(names), limits.COMMIT_WRITES):
        damaged = yield from _damaged(names[at : at + limits.COMMIT_WRITES], clear, context)
        # The data may change between two reads, so only damage that shows twice in an unchanged document counts.
        again = yield from _damaged(list(damaged), clear, context)
        for name, (time, damage) in again.items():
            if damaged[name][0] == time:
                yield from recheck(context, is_missing=damage.missing)
                raise _unreadable_writes(thread_id, name, damage)
    return in_levels(docs), len(clear)


def in_levels(docs: Iterable[Doc]) -> list[list[Doc]]:
    """Documents of pending writes in levels, to be copied one after the other.

    The first document of a task wins, and documents of one commit have the same time. So each level has at most one
    document of each task. The document of a task's special writes competes with no other.
    """
    levels: list[list[Doc]] = []
    ranks: dict[str, int] = {}
    for doc in sorted(docs, key=lambda doc: (doc.create_time, doc.name)):
        task, _, which = doc.name.rpartition("!")
        rank = 0 if which == "s" else ranks.get(task, 0)
        if which != "s":
            ranks[task] = rank + 1
        if rank == len(levels):
            levels.append([])
        levels[rank].append(doc)
    return levels


def _unreadable_writes(thread_id: str, name: str, damage: DamagedError) -> CheckpointCorruptError | ClearTextError:
    ns = keys.told_id(keys.writes_ns_of(name))
    return unreadable(damage, thread_id, ns, keys.writes_checkpoint_id_of(name))


def _damaged(names: Sequence[str], clear: set[str], context: Context) -> Flow[dict[str, tuple[int, DamagedError]]]:
    """The damaged ones of some documents of pending writes, and when they last changed.

    The names of those that the cipher does not vouch for are added to `clear`.
    """
    found: dict[str, tuple[int, DamagedError]] = {}
    for doc in (yield from GetDocs(tuple(names))).values() if names else ():
        stubs = yield from _stubs(doc, context)
        if isinstance(stubs, DamagedError):
            found[doc.name] = doc.update_time, stubs
        elif is_clear(doc, context.codec):
            clear.add(doc.name)
    return found


def _stubs(doc: Doc, context: Context) -> Flow[set[str] | DamagedError]:
    """The objects that a document of pending writes refers to, or its damage."""
    try:
        return set((yield from read_stubs(doc, context.codec)))
    except DamagedError as damage:
        return damage.alone()


class _Copy:
    """One try at a copy.

    Attributes:
        levels: Documents of the source's pending writes, in levels.
        plain: Documents of the source's plain collections.
        written: Documents of the target that all tries of this call have written, and when those writes changed them.
        time: When the target's own document last changed.
        claim: Digits that all tries of this copy have, and no other copy.
        is_resumed: Whether an earlier try may have copied something.
        done: Documents of the source that were copied, in this try or before.
        gone: Documents of the source that were planned to be copied, and that had been deleted when it was their turn.
        blobs: Objects of the source, and whether their copies exist.
        heirs: By the document of a child in the target: its parent's document, and the parent's heir.
        times: When documents in the target last changed, as this try has left or accepted them.
        runs: The runs of checkpoints that this try copies, by the checkpoints' documents in the target.
        made: Objects of the target that this try has made or found.
    """

    def __init__(
        self,
        found: Snapshot,
        levels: Sequence[Sequence[Doc]],
        target: str,
        written: dict[str, int],
        context: Context,
        *,
        plain: Sequence[Listed],
    ) -> None:
        self.found = found
        self.levels = levels
        self.plain = plain
        self.target = target
        self.written = written
        self.context = context
        self.thread = keys.thread_doc(target)
        self.segment = keys.spread(target, "thread id")
        self.time = 0
        self.claim = ""
        self.is_resumed = False
        self.done: set[str] = set()
        self.gone: set[str] = set()
        self.blobs: dict[str, bool] = {}
        self.times: dict[str, int] = {}
        self.runs: dict[str, set[str]] = {}
        self.heirs: dict[str, tuple[str, str]] = {}
        for name, entry in found.entries.items():
            if (heir := heir_of(entry.doc)) is not None and (child := _child(entry.doc, heir)) in found.entries:
                self.heirs[self._name(child)] = self._name(name), entry.doc.fields["heir"]
        self.made: list[str] = []

    def flow(self) -> Flow[bool]:
        """Copy everything; false if the source was replaced meanwhile, or the target was changed."""
        if not (yield from self._begin()):
            return False
        # Pending writes come first, so that no checkpoint is visible without them.
        for level in self.levels:
            for at in range(0, len(level), limits.COMMIT_WRITES):
                if not (yield from self._copy_writes(level[at : at + limits.COMMIT_WRITES])):
                    return False
        for page in pages(self.plain):
            if not (yield from self._copy_plain(page)):
                return False
        order = self._order()
        for at in range(0, len(order), CHECKPOINTS_PER_PAGE):
            if not (yield from self._copy_checkpoints(order[at : at + CHECKPOINTS_PER_PAGE])):
                return False
        return (yield from self._end())

    def is_claimed(self) -> Flow[bool]:
        """Whether the target is an unfinished copy from the same source."""
        doc = (yield from GetDocs((self.thread,), mask=("copying", "claim"))).get(self.thread)
        return self._claim(doc) is not None

    def check_target(self) -> Flow[None]:
        """Raise if a look at the target shows that a copy to it would fail."""
        doc = (yield from GetDocs((self.thread,), mask=("copying", "claim"))).get(self.thread)
        claim = self._claim(doc)
        if claim is not None:
            self.claim = claim
            yield from self._check_part()
            return
        ids = yield from ListCollections(self.thread)
        if (doc is not None and "copying" in doc.fields) or _has_any(self.target, ids):
            raise _not_empty(self.target)

    def _claim(self, doc: Doc | None) -> str | None:
        """The claim in the target's document of an unfinished copy from the same source."""
        return None if doc is None or doc.fields.get("copying") != self.found.thread_id else claim_of(doc)

    def _check_part(self) -> Flow[None]:
        """Raise if the target has anything that this call has not written, and that is not a part of the source.

        Frames of checkpoints and documents of plain collections are compared later, when it is their turn.
        """
        writes = {doc.name for level in self.levels for doc in level}
        plain = {doc.name for _, doc in self.plain}
        known = {self._name(name): name for name in (*self.found.entries, *self.found.stripped, *writes, *plain)}
        others: list[str] = []
        docs = yield from self._docs(manifest.LISTED_BY)
        self.times.update({doc.name: doc.update_time for doc in docs})
        for doc in docs:
            if self._is_ours(doc):
                continue
            name = known.get(doc.name)
            if name is None or (name in self.found.stripped and kind_of(doc) is DocumentKind.CHECKPOINT):
                raise self._differs(doc.name)
            others.append(name)
        checkpoints = [name for name in others if name in self.found.entries]
        for at in range(0, len(checkpoints), CHECKPOINTS_PER_PAGE):
            page = checkpoints[at : at + CHECKPOINTS_PER_PAGE]
            there = yield from self._read(page, _SHOWN)
            for name, copied in there.items():
                if "manifest" in copied.fields and not (yield from self._has(copied, self.found.entries[name])):
                    raise self._differs(copied.name)
        others = [name for name in others if name in writes]
        for at in range(0, len(others), CHECKPOINTS_PER_PAGE):
            theirs = yield from GetDocs(tuple(others[at : at + CHECKPOINTS_PER_PAGE]))
            there = yield from self._read(theirs)
            for name, copied in there.items():
                # A document that was damaged only now is left to the copying, which will report it.
                if not isinstance((yield from _stubs(theirs[name], self.context)), DamagedError):
                    yield from self._lacks(theirs[name], copied)

    def _docs(self, mask: tuple[str, ...]) -> Flow[list[Doc]]:
        """All documents of the target's collections that a copy can have."""
        return [doc for _, doc in (yield from list_docs(self.thread, _is_copied, mask=mask))]

    def _is_ours(self, doc: Doc) -> bool:
        """Whether a document of the target is unchanged since this call wrote it."""
        return self.written.get(doc.name) == doc.update_time

    def _differs(self, name: str) -> InvalidInputError:
        return InvalidInputError(
            f"Thread {self.target!r} is marked as a part of a copy of {self.found.thread_id!r}, but contains {name!r}. "
            f"Now {self.found.thread_id!r} does not have this document, or has it with other content. Nothing in "
            f"{self.target!r} was overwritten. Delete {self.target!r} first, or copy to another thread."
        )

    def _begin(self) -> Flow[bool]:
        """Claim the target. It must be empty, unless an earlier call has claimed it for the same source."""
        held = yield from guard(self.target, self.context)
        thread, ids = yield from Gather((GetDocs((self.thread,)), ListCollections(self.thread)))
        doc = thread.get(self.thread)
        if doc is None or doc.update_time != held.update_time:
            return False
        if held.fence is not None:
            yield from respect(self.target, self.context)
        # Each commit requires that the thread's document is unchanged. An acquisition changes it.
        self.time = doc.update_time
        claim = self._claim(doc)
        if claim is not None:
            self.claim, self.is_resumed = claim, True
            yield from self._check_part()
            return True
        if _has_any(self.target, ids) or "copying" in doc.fields:
            raise _not_empty(self.target)
        self.claim = self.context.new_attempt()
        return (yield from self._commit([], {"copying": self.found.thread_id, "claim": self.claim}))

    def _commit(self, writes: Sequence[Write], fields: Mapping[str, Any] | None = None) -> Flow[bool]:
        mark = Merge(self.thread, fields or {}, update_time=self.time)
        times = yield from Commit((mark, *writes))
        if times is None:
            return False
        self.time = times[0]
        made = {write.name: time for write, time in zip(writes, times[1:], strict=True) if self._is_below(write.name)}
        self.times.update(made)
        self.written.update(made)
        return True

    def _is_below(self, name: str) -> bool:
        """Whether a document is below the target's document, and not a run's."""
        return name.startswith(f"{self.thread}/")

    def _end(self) -> Flow[bool]:
        docs = yield from self._docs(("ns", "heir"))
        if {doc.name: doc.update_time for doc in docs} != self.times:
            return False  # Another call has changed the target. The next try decides.
        if (yield from self._is_missing()):
            return False
        docs = [doc for doc in docs if f"/{keys.CHECKPOINTS}/" in doc.name]
        names = {doc.name for doc in docs if "ns" in doc.fields}
        # A child that was deleted before it was copied is not missing.
        notes = [
            Merge(doc.name, {}, remove=("heir",), update_time=doc.update_time)
            for doc in docs
            if (heir := heir_of(doc)) is not None and _child(doc, heir) not in names
        ]
        for at in range(0, len(notes), limits.COMMIT_WRITES):
            if not (yield from self._commit(notes[at : at + limits.COMMIT_WRITES])):
                return False
        fields: dict[str, Any] = {"thread_id": self.target, "active": int((yield from Now()))}
        if any(doc.fields.get("ns") == keys.enc("") for doc in docs):
            fields["root"] = True
        end = Merge(self.thread, fields, remove=("copying",), update_time=self.time)
        if (yield from Commit((end,))) is not None:
            return True
        # This call's own commit, whose answer was lost?
        thread = (yield from GetDocs((self.thread,), mask=("copying", "claim"))).get(self.thread)
        return thread is not None and thread.fields == {"claim": self.claim}

    def _is_missing(self) -> Flow[bool]:
        """Whether a document that seemed deleted is only hidden: it is there again, or its parent still names it.

        Pruning a checkpoint also removes its name from its parent.
        """
        parents = {_child(entry.doc, heir_of(entry.doc) or ""): name for name, entry in self.found.entries.items()}
        heirs = {parents[name]: name for name in self.gone if name in parents}
        names = sorted({*self.gone, *heirs})
        for at in range(0, len(names), limits.COMMIT_WRITES):
            docs = yield from GetDocs(tuple(names[at : at + limits.COMMIT_WRITES]), mask=("heir",))
            for name, doc in docs.items():
                heir = heir_of(doc)
                if name in self.gone or (heir is not None and _child(doc, heir) == heirs[name]):
                    return True
        return False

    def discard(self) -> Flow[None]:
        """Delete the objects of a failed try if its claim is lost, because then no commit can refer to them."""
        thread = (yield from GetDocs((self.thread,), mask=("claim",))).get(self.thread)
        if thread is None or claim_of(thread) != self.claim:
            for at in range(0, len(self.made), _BLOBS):
                yield from DeleteBlobs(tuple(self.made[at : at + _BLOBS]))

    def _there(self, names: Iterable[str]) -> Flow[dict[str, Doc]]:
        """Copies that an earlier try has made of some documents of the source, by the source's names."""
        found = (yield from self._read(names)) if self.is_resumed else {}
        self.times.update({doc.name: doc.update_time for doc in found.values()})
        return found

    def _read(self, names: Iterable[str], mask: tuple[str, ...] | None = None) -> Flow[dict[str, Doc]]:
        """Copies of some documents of the source that the target has, by the source's names."""
        targets = {self._name(name): name for name in names}
        docs = (yield from GetDocs(tuple(targets), mask=mask)) if targets else {}
        return {targets[name]: doc for name, doc in docs.items()}

    # Checkpoints

    def _order(self) -> list[str]:
        """Documents of checkpoints, each after the documents that it refers to, and otherwise older ones first."""
        found = self.found
        names = sorted([*found.entries, *(found.needed(found.entries) & found.stripped.keys())], reverse=True)
        # Not `TopologicalSorter[str](…)`, which Python 3.10 does not know.
        order: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(names, ()))
        for name, entry in found.entries.items():
            order.add(name, *(entry.docs - {name}))
        rank = {name: number for number, name in enumerate(names)}
        sorted_names: list[str] = []
        prepare(order, found)
        while order.is_active():
            ready = sorted(order.get_ready(), key=rank.__getitem__)
            sorted_names += ready
            order.done(*ready)
        return sorted_names

    def _copy_checkpoints(self, names: Sequence[str]) -> Flow[bool]:
        docs = yield from GetDocs(tuple(names))
        self.gone.update(set(names) - docs.keys())
        there = yield from self._there(docs)
        entries: dict[str, Entry] = {}
        for name, doc in docs.items():
            # A document that was stripped in the snapshot is copied as a stripped one. If its checkpoint was stored
            # again since, it still has its frames.
            if name in self.found.entries and kind_of(doc) is not DocumentKind.STRIPPED:
                entries[name] = self.found.entries[name]
                if doc.fields.get("manifest") != entries[name].doc.fields.get("manifest"):
                    return False
        yield from self._copy_blobs(blob for entry in entries.values() for blob in entry.manifest.blobs())
        yield from self._check_blobs(entries)
        writes: list[Create | Merge] = []
        for name in (name for name in names if name in docs):
            doc, entry = docs[name], entries.get(name)
            if entry is not None and not self._has_blobs(entry):
                self.gone.add(name)  # It was deleted meanwhile, and so were the checkpoints that need it.
                continue
            if entry is not None and not entry.docs <= self.done | {name}:
                return False  # It exists, but a document that it needed was deleted. So it was replaced.
            self.done.add(name)
            copied = there.get(name)
            if copied is None or not (yield from self._is_copied(doc, entry, copied)):
                writes.append((yield from self._write(doc, entry, copied)))
        return (yield from self._apply(writes))

    def _has_blobs(self, entry: Entry) -> bool:
        return all(self.blobs[blob] for blob in entry.manifest.blobs())

    def _check_blobs(self, entries: Mapping[str, Entry]) -> Flow[None]:
        """Raise if a checkpoint still exists but its object is missing."""
        suspects = {name: entry for name, entry in entries.items() if not self._has_blobs(entry)}
        docs = (yield from GetDocs(tuple(suspects), mask=("manifest",))) if suspects else {}
        for name, doc in docs.items():
            entry = suspects[name]
            if doc.fields.get("manifest") == entry.doc.fields.get("manifest"):
                blob = next(blob for blob in sorted(entry.manifest.blobs()) if not self.blobs[blob])
                damage = DamagedError("an object is missing", frame=blob, missing=True)
                yield from recheck(self.context, is_missing=True)
                raise corrupt(damage, self.found.thread_id, entry.manifest.ns, entry.manifest.checkpoint_id)

    def _is_copied(self, doc: Doc, entry: Entry | None, copied: Doc) -> Flow[bool]:
        """Whether an earlier try has copied a document as it is now. It may have been stripped since then."""
        if manifest.inner_frames(doc) != manifest.inner_frames(copied):
            return False
        return entry is None or (yield from self._has(copied, entry))

    def _has(self, copied: Doc, entry: Entry) -> Flow[bool]:
        """Whether a document of the target has the manifest that the copy of a checkpoint must have."""
        try:
            known = yield from read_manifest(copied, self.context.codec)
        except DamagedError:
            return False
        return known == self._moved(entry.manifest)

    def _write(self, doc: Doc, entry: Entry | None, copied: Doc | None) -> Flow[Create | Merge]:
        """The write that makes or updates a document's copy. A manifest that is too large for it is uploaded."""
        name = self._name(doc.name)
        if entry is None:
            fields: dict[str, Any] = {"objects": "[]"}
            if "frames" in doc.fields:
                fields["frames"] = doc.fields["frames"]
        else:
            fields, extra = yield from Compute(partial(self._fields, entry, doc))
            if extra:
                self.made += [effect.name for effect in extra]
                yield from Gather(tuple(extra))
        self.runs[name] = set() if entry is None else runs_of(doc)
        if copied is None:
            return Create(name, fields)
        is_open = self._is_ours(copied) or "manifest" not in copied.fields
        # Checkpoints that were copied before may build on the frames in the target.
        if not is_open or not manifest.inner_frames(doc).startswith(manifest.inner_frames(copied)):
            raise self._differs(name)
        gone = tuple(sorted(copied.fields.keys() - fields.keys() - {"heir", "fence"}))
        return Merge(name, fields, remove=gone, update_time=copied.update_time)

    def _is_rewritten(self, entry: Entry) -> bool:
        """Whether the copy needs a new manifest.

        It does if the manifest refers to objects, or a cipher binds it to its place. It also does if the manifest
        contains the thread's id, because that is too long for a name.
        """
        return (
            self.context.codec.cipher is not None
            or bool(entry.objects)
            or any(keys.dec(keys.enc(thread)) is None for thread in (self.target, self.found.thread_id))
        )

    def _moved(self, known: Manifest) -> Manifest:
        """A manifest as the target has it."""
        channels = {
            channel: replace(ref, chain=tuple(self._moved_frame(frame) for frame in ref.chain))
            for channel, ref in known.channels.items()
        }
        return replace(known, thread_id=self.target, channels=channels)

    def _moved_frame(self, frame: FrameRef) -> FrameRef:
        return frame if frame.attempt is None else replace(frame, attempt=self._attempt(frame.attempt))

    def _fields(self, entry: Entry, doc: Doc) -> tuple[dict[str, Any], list[PutBlob]]:
        """A checkpoint's document in the target, and what to upload for it."""
        name = self._name(doc.name)
        body, extra = doc.fields["manifest"], list[PutBlob]()
        index = filters.clear_part(doc.fields.get("filter"), self.context.clear_metadata)
        if self._is_rewritten(entry):
            known = self._moved(entry.manifest)
            room = manifest.PAYLOAD_BYTES - len(manifest.inner_frames(doc)) - filters.size(index)
            body, blob = encode_manifest(known, room, self.context)
            extra = [] if blob is None else [blob]
        fields = {key: value for key, value in doc.fields.items() if key not in _LEFT_OUT}
        if index:
            fields["filter"] = index
        return {**fields, "manifest": body, "digest": manifest.digest(name, body)}, extra

    # Pending writes

    def _copy_writes(self, seen: Sequence[Doc]) -> Flow[bool]:
        """Copy pending writes as they were at one instant, because only a part of a later call's may be here."""
        docs = yield from GetDocs(tuple(doc.name for doc in seen))
        if any(doc.name in docs and docs[doc.name].update_time != doc.update_time for doc in seen):
            return False
        self.gone.update({doc.name for doc in seen} - docs.keys())
        there = yield from self._there(docs)
        stubs: dict[str, set[str]] = {}
        for name, doc in docs.items():
            found = yield from _stubs(doc, self.context)
            if isinstance(found, DamagedError):
                return False  # It was whole when it was listed. The next try decides.
            stubs[name] = found
        yield from self._copy_blobs(blob for blobs in stubs.values() for blob in blobs)
        suspects = {name for name, blobs in stubs.items() if not all(self.blobs[blob] for blob in blobs)}
        now = (yield from GetDocs(tuple(sorted(suspects)), mask=())) if suspects else {}
        for name, doc in now.items():
            if doc.update_time != docs[name].update_time:
                return False
            blob = next(blob for blob in sorted(stubs[name]) if not self.blobs[blob])
            damage = DamagedError("an object is missing", frame=blob, missing=True)
            yield from recheck(self.context, is_missing=True)
            raise _unreadable_writes(self.found.thread_id, name, damage)
        writes: list[Create | Merge] = []
        for name, doc in docs.items():
            target, copied = self._name(name), there.get(name)
            if name in suspects:
                self.gone.add(name)  # It was deleted, and then its objects.
                continue
            size = 8 * sum(len(data) for data in doc.fields.values() if isinstance(data, bytes))
            fields = yield from Compute(partial(moved_to, doc, target, self._attempt, self.context.codec), size=size)
            yield from report_clear(self.context.codec)
            if copied is None:
                writes.append(Create(target, fields))
                continue
            lacking = yield from self._lacks(doc, copied)
            if lacking is None:
                gone = tuple(sorted(copied.fields.keys() - fields.keys()))
                writes.append(Merge(target, fields, remove=gone, update_time=copied.update_time))
            elif lacking:
                more = {field: fields[field] for field in lacking}
                writes.append(Merge(target, more, update_time=copied.update_time))
        return (yield from self._apply(writes))

    def _lacks(self, doc: Doc, copied: Doc) -> Flow[set[str] | None]:
        """The fields that a copy of pending writes still lacks; `None` if this call wrote it with other content.

        Raises:
            InvalidInputError: Another call wrote it with other content.
        """
        size = 8 * sum(len(data) for one in (doc, copied) for data in one.fields.values() if isinstance(data, bytes))
        found = yield from Compute(partial(lacks, doc, copied, self._attempt, self.context.codec), size=size)
        if found is None and not self._is_ours(copied):
            raise self._differs(copied.name)
        return found

    # Plain collections

    def _copy_plain(self, page: Sequence[Listed]) -> Flow[bool]:
        """Copy documents of plain collections as they were when the copy was planned."""
        now = yield from read_docs(page)
        times = {doc.name: doc.update_time for _, doc in page}
        if {doc.name: doc.update_time for _, doc in now} != times:
            return False
        made: dict[str, Fields] = {}
        entries: dict[str, Collection] = {}
        objects: dict[str, set[str]] = {}
        for entry, doc in now:
            needed = yield from whole_objects_of(entry, doc, self.context)
            fields = None if entry.copied is None else (yield from self._plain_fields(entry.copied, doc))
            if fields is not None:
                made[doc.name], objects[doc.name], entries[doc.name] = fields, needed, entry
        yield from self._copy_blobs(blob for needed in objects.values() for blob in needed)
        lacking = sorted(name for name, needed in objects.items() if not all(self.blobs[blob] for blob in needed))
        if lacking:
            again = yield from GetDocs(tuple(lacking), mask=())
            if any(name not in again or again[name].update_time != times[name] for name in lacking):
                return False
            yield from recheck(self.context, is_missing=True)
            raise damaged(lacking[0], DamagedError("an object is missing", missing=True))
        there = yield from self._there(made)
        writes: list[Create | Merge] = []
        for name, fields in made.items():
            copied = there.get(name)
            if copied is None:
                writes.append(Create(self._name(name), fields))
            elif not (yield from Compute(partial(entries[name].equal, copied, fields, self.context.codec))):
                if not self._is_ours(copied):
                    raise self._differs(copied.name)
                gone = tuple(sorted(copied.fields.keys() - fields.keys()))
                writes.append(Merge(copied.name, fields, remove=gone, update_time=copied.update_time))
        return (yield from self._apply(writes))

    def _plain_fields(self, copied: Copied, doc: Doc) -> Flow[Fields | None]:
        """The fields of a document's copy; `None` if it is not copied."""
        copy = partial(copied, doc, self._name(doc.name), self._attempt, self.context.codec)
        return (
            yield from Compute(copy, size=sum(len(data) for data in doc.fields.values() if isinstance(data, bytes)))
        )

    # All

    def _name(self, name: str) -> str:
        collection, _, rest = name.partition("/")
        return f"{collection}/{self.segment}/{rest.partition('/')[2]}"

    def _attempt(self, attempt: str) -> str:
        """The attempt in the name of a copied object: unique to this copy, and the same in each of its tries."""
        return hashlib.sha256(f"{self.claim} {attempt}".encode()).hexdigest()[: len(self.claim)]

    def _blob(self, name: str) -> str:
        what, _, attempt = name.partition("/")[2].removesuffix(".zst").rpartition("-")
        return f"{self.segment}/{what}-{self._attempt(attempt)}.zst"

    def _copy_blobs(self, names: Iterable[str]) -> Flow[None]:
        wanted = [name for name in dict.fromkeys(names) if name not in self.blobs]
        for at in range(0, len(wanted), _BLOBS):
            batch = wanted[at : at + _BLOBS]
            results = yield from Gather(tuple(CopyBlob(name, self._blob(name)) for name in batch))
            self.blobs.update(zip(batch, results, strict=True))
            self.made += [self._blob(name) for name in batch if self.blobs[name]]

    def _apply(self, writes: Sequence[Create | Merge]) -> Flow[bool]:
        """Make writes, in commits within the limits. A parent gets its heir in the commit of that child.

        The notes of a checkpoint's runs are in the same commit, because a later try would not notice missing notes.
        """
        for batch in batches(writes):
            runs = {run for write in batch for run in self.runs.get(write.name, ())}
            notes = [note_run(run, self.target, self.context) for run in sorted(runs)]
            if not (yield from self._commit([*self._with_heirs(batch), *notes, *registry.notes(batch)])):
                return False
        return True

    def _with_heirs(self, batch: Sequence[Create | Merge]) -> list[Write]:
        children = [write for write in batch if write.name in self.heirs and "manifest" in write.fields]
        heirs = dict(self.heirs[child.name] for child in children)
        writes: list[Write] = []
        for write in batch:
            heir = heirs.pop(write.name, None)
            writes.append(write if heir is None else replace(write, fields={**write.fields, "heir": heir}))
        for parent, heir in heirs.items():
            if parent in self.times:
                writes.append(Merge(parent, {"heir": heir}, update_time=self.times[parent]))
        return writes


def _child(doc: Doc, heir: str) -> str:
    """The name of the document of another checkpoint in the same namespace."""
    return f"{doc.name.rpartition('/')[0]}/{keys.inv(heir)}!{keys.ns_segment_of(doc.name)}"


def batches(writes: Sequence[Create | Merge]) -> Iterator[list[Create | Merge]]:
    """Writes in batches that fit into commits."""
    return in_batches(writes, _size, most=limits.COMMIT_WRITES, most_bytes=COMMIT_BYTES)


def _size(write: Create | Merge) -> int:
    return sum(len(value) for value in write.fields.values() if isinstance(value, bytes)) + 1000
