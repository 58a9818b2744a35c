"""Copying a thread: its checkpoints with all their history, its pending writes, and its objects, on the server.

What the source refers to is copied before what refers to it, so that a copy that dies half-way is whole as far as it
got; called again, it goes on. Each commit carries the target's own document as its guard, so a deletion of the target
and the copy keep apart as a deletion and a put do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

from langgraph_gcs_saver import filters, keys, manifest
from langgraph_gcs_saver.effects import (
    Commit,
    Compute,
    CopyBlob,
    Create,
    Doc,
    Effect,
    Flow,
    Gather,
    GetDocs,
    Merge,
    Now,
    PutBlob,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError, InvalidInputError
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.manifests import encode_manifest
from langgraph_gcs_saver.flows.prune import Entry, Snapshot, snapshot
from langgraph_gcs_saver.flows.threads import guard
from langgraph_gcs_saver.flows.writes import moved_to, stubs_of
from langgraph_gcs_saver.manifest import heir_of, runs_of

PAGE = 20
"""Documents read at once, with their frames."""

COMMIT_BYTES = 3 << 20
"""Most bytes of documents in one commit; the emulator refuses requests over 4 MiB."""

COMMIT_WRITES = 200

_BLOBS = 32
"""Objects copied at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What is to be copied.

    Attributes:
        source: The thread to copy from.
        target: The thread to copy to.
        checkpoints: Number of checkpoints.
        writes: Number of documents of pending writes.
        objects: Number of objects that the checkpoints refer to.
    """

    source: str
    target: str
    checkpoints: int
    writes: int
    objects: int

    def __str__(self) -> str:
        return (
            f"Thread {self.source!r} to {self.target!r}: {self.checkpoints} checkpoints, {self.writes} documents of "
            f"pending writes, {self.objects} objects"
        )


def copy_thread(
    source: str, target: str, *, dry_run: bool, show: Callable[[CopyPlan], object], context: Context
) -> Flow[CopyPlan]:
    """Copy everything of a thread as it is now to a thread that is empty; nothing, if there is nothing.

    Raises:
        InvalidInputError: The target is the source, or is not empty.
        CheckpointCorruptError: A checkpoint of the source is damaged. Repair it first.
        ConflictError: The target was written to or deleted all the time.
    """
    if source == target:
        raise InvalidInputError(f"Thread {source!r} cannot be copied to itself.")
    for _ in range(MAX_TRIES):
        found = yield from snapshot(source, context)
        names = [doc.name for doc in (yield from QueryDocs(keys.writes(source), mask=()))]
        plan = CopyPlan(
            source=source,
            target=target,
            checkpoints=len(found.entries),
            writes=len(names),
            objects=len(found.objects(found.entries)),
        )
        if dry_run:
            yield from Compute(partial(show, plan))
            return plan
        if not found.entries and not names:
            return plan
        copy = _Copy(found, target, context)
        if (yield from copy.flow(names)):
            return plan
    raise ConflictError(
        f"Thread {source!r} was not copied to the end: {target!r} was written to or deleted {MAX_TRIES} times in a "
        "row. Call again when its runs have ended."
    )


class _Copy:
    """One try at a copy.

    Attributes:
        time: When the target's document changed last.
        done: Documents of the source that have been copied, or were by an earlier call.
        blobs: Objects of the source by whether their copy exists.
        heirs: Documents of the target whose heir was not copied.
    """

    def __init__(self, found: Snapshot, target: str, context: Context) -> None:
        self.found = found
        self.target = target
        self.context = context
        self.thread = keys.thread_doc(target)
        self.segment = keys.spread(target, "thread id")
        self.time = 0
        self.done: set[str] = set()
        self.blobs: dict[str, bool] = {}

    def flow(self, writes: Sequence[str]) -> Flow[bool]:
        """Copy everything; false when the target moved meanwhile."""
        if not (yield from self._begin()):
            return False
        # Pending writes first: a checkpoint is not to be seen without them.
        if not (yield from self._copy_writes(writes)):
            return False
        order = self._order()
        for at in range(0, len(order), PAGE):
            if not (yield from self._copy_checkpoints(order[at : at + PAGE])):
                return False
        return (yield from self._end())

    def _begin(self) -> Flow[bool]:
        """Claim the target, which must be empty, unless an earlier call has claimed it for the same source."""
        held = yield from guard(self.target, self.context)
        thread, checkpoints, writes = yield from Gather(
            (
                GetDocs((self.thread,)),
                QueryDocs(keys.checkpoints(self.target), limit=1, mask=()),
                QueryDocs(keys.writes(self.target), limit=1, mask=()),
            )
        )
        doc = thread.get(self.thread)
        if doc is None or doc.update_time != held.update_time:
            return False
        self.time = doc.update_time
        if doc.fields.get("copying") == self.found.thread_id:
            return True
        if checkpoints or writes or "copying" in doc.fields:
            raise InvalidInputError(
                f"Thread {self.target!r} is not empty: delete it first, or copy to another one. Nothing was copied."
            )
        return (yield from self._commit([], {"copying": self.found.thread_id}))

    def _commit(self, writes: Iterable[Write], fields: Mapping[str, Any] | None = None) -> Flow[bool]:
        mark = Merge(self.thread, fields or {}, update_time=self.time)
        times = yield from Commit((mark, *writes))
        if times is None:
            return False
        self.time = times[0]
        return True

    def _end(self) -> Flow[bool]:
        entries = {name: entry for name, entry in self.found.entries.items() if name in self.done}
        runs = {run for entry in entries.values() for run in runs_of(entry.doc)}
        notes: list[Write] = [
            Merge(keys.run_doc(run, self.target), {"run_id": run, "thread_id": self.target}) for run in sorted(runs)
        ]
        # A child that vanished while it was copied was not lost.
        lost = {
            self._name(name)
            for name, entry in entries.items()
            if (heir := heir_of(entry.doc)) is not None
            and keys.checkpoint_doc(self.found.thread_id, entry.manifest.ns, heir) not in entries
        }
        for name, doc in (yield from self._get(sorted(lost), ("heir",))).items():
            if heir_of(doc) is not None:
                notes.append(Merge(name, {}, remove=("heir",), update_time=doc.update_time))
        for at in range(0, len(notes), COMMIT_WRITES):
            if not (yield from self._commit(notes[at : at + COMMIT_WRITES])):
                return False
        fields: dict[str, Any] = {"thread_id": self.target, "active": int((yield from Now()))}
        if any(entry.manifest.ns == "" for entry in entries.values()):
            fields["root"] = True
        end = Merge(self.thread, fields, remove=("copying",), update_time=self.time)
        return (yield from Commit((end,))) is not None

    def _get(self, names: Sequence[str], mask: tuple[str, ...]) -> Flow[dict[str, Doc]]:
        found: dict[str, Doc] = {}
        for at in range(0, len(names), COMMIT_WRITES):
            found.update((yield from GetDocs(tuple(names[at : at + COMMIT_WRITES]), mask)))
        return found

    # Checkpoints

    def _order(self) -> list[str]:
        """Documents of checkpoints, what is referred to before what refers to it, older ones first."""
        found = self.found
        needed = found.needed(found.entries)
        names = sorted([*found.entries, *(needed & found.stripped.keys())], reverse=True)
        order = TopologicalSorter[str](dict.fromkeys(names, ()))
        for name, entry in found.entries.items():
            order.add(name, *(other for other in entry.docs if other != name and other in names))
        rank = {name: number for number, name in enumerate(names)}
        sorted_names: list[str] = []
        order.prepare()
        while order.is_active():
            ready = sorted(order.get_ready(), key=rank.__getitem__)
            sorted_names += ready
            order.done(*ready)
        return sorted_names

    def _copy_checkpoints(self, names: Sequence[str]) -> Flow[bool]:
        docs = yield from GetDocs(tuple(names))
        entries = {name: self.found.entries[name] for name in names if name in self.found.entries}
        yield from self._copy_blobs({blob: self._blob(blob) for entry in entries.values() for blob in entry.objects})
        writes: list[Write] = []
        for name in names:
            doc = docs.get(name)
            if doc is None:
                continue  # It vanished meanwhile, and what refers to it goes with it.
            entry = entries.get(name)
            if entry is None or doc.fields.get("manifest") != entry.doc.fields.get("manifest"):
                if "frames" in doc.fields:
                    self.done.add(name)
                    writes.append(Create(self._name(name), {"frames": doc.fields["frames"], "objects": "[]"}))
                continue
            whole = all(other in self.done or other == name for other in entry.docs)
            if whole and all(self.blobs.get(blob) for blob in entry.objects):
                self.done.add(name)
                fields, extra = yield from Compute(partial(self._fields, entry, doc))
                yield from Gather(tuple(extra))
                writes.append(Create(self._name(name), fields))
        return (yield from self._create(writes))

    def _fields(self, entry: Entry, doc: Doc) -> tuple[dict[str, Any], list[PutBlob]]:
        """A checkpoint's document in the target; its manifest says the thread if the id is too long for the name."""
        name = self._name(doc.name)
        body, extra = doc.fields["manifest"], list[PutBlob]()
        if keys.thread_id_of(self.segment) is None or keys.thread_id_of(doc.name.split("/")[1]) is None:
            known = replace(entry.manifest, thread_id=self.target)
            room = (
                manifest.DOCUMENT_BYTES - len(manifest.inner_frames(doc)) - filters.size(doc.fields.get("filter", {}))
            )
            body, blob = encode_manifest(known, room, self.context)
            extra = [] if blob is None else [blob]
        fields = {key: value for key, value in doc.fields.items() if key not in ("pin", "objects")}
        return {**fields, "manifest": body, "digest": manifest.digest(name, body)}, extra

    # Pending writes

    def _copy_writes(self, names: Sequence[str]) -> Flow[bool]:
        """Copy pending writes; documents of one task in the order in which they came, for the first one wins."""
        later: list[Doc] = []
        for at in range(0, len(names), COMMIT_WRITES):
            docs = yield from GetDocs(tuple(names[at : at + COMMIT_WRITES]))
            ordered = sorted(docs.values(), key=lambda doc: (doc.create_time, doc.name))
            first: set[str] = set()
            now: list[Doc] = []
            for doc in ordered:
                task = doc.name.rpartition("!")[0]
                (later if task in first else now).append(doc)
                first.add(task)
            if not (yield from self._write_writes(now)):
                return False
        for doc in sorted(later, key=lambda doc: (doc.create_time, doc.name)):
            if not (yield from self._write_writes([doc])):
                return False
        return True

    def _write_writes(self, docs: Sequence[Doc]) -> Flow[bool]:
        yield from self._copy_blobs(
            {blob: self._blob(blob) for doc in docs for blob in stubs_of(doc, self.context.codec)}
        )
        return (
            yield from self._create([Create(self._name(doc.name), moved_to(doc, self._name(doc.name))) for doc in docs])
        )

    # Both

    def _name(self, name: str) -> str:
        collection, _, rest = name.partition("/")
        return f"{collection}/{self.segment}/{rest.partition('/')[2]}"

    def _blob(self, name: str) -> str:
        return f"{self.segment}/{name.partition('/')[2]}"

    def _copy_blobs(self, names: Mapping[str, str]) -> Flow[None]:
        wanted = [(name, target) for name, target in names.items() if name not in self.blobs]
        for at in range(0, len(wanted), _BLOBS):
            batch = wanted[at : at + _BLOBS]
            copies: tuple[Effect[bool], ...] = tuple(CopyBlob(name, target) for name, target in batch)
            results = yield from Gather(copies)
            self.blobs.update(zip((name for name, _ in batch), results, strict=True))

    def _create(self, writes: Sequence[Write]) -> Flow[bool]:
        """Create documents, in commits that are not too large; what an earlier call has created is left as it is."""
        there = yield from self._get([write.name for write in writes], ())
        for batch in _batches([write for write in writes if write.name not in there]):
            if not (yield from self._commit(batch)):
                return False
        return True


def _batches(writes: Sequence[Write]) -> Iterator[list[Write]]:
    batch: list[Write] = []
    size = 0
    for write in writes:
        more = sum(len(value) for value in getattr(write, "fields", {}).values() if isinstance(value, bytes)) + 1000
        if batch and (size + more > COMMIT_BYTES or len(batch) == COMMIT_WRITES - 1):
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += more
    if batch:
        yield batch
