"""One shipment: what has changed in a thread of one store is stored in another one, so that both stay whole.

Effects on the store that has the changes are wrapped in `at(SOURCE, …)`, and all others act on the target. The two have
no commit in common. So a shipment follows these rules, which `tests/races/replicating.py` removes one by one:

- It reads the target's `lg_ship/ship` first, then the entries of the outbox, then the source, then the target. Each of
  its commits requires that document as it was read, and changes it. Removing an entry changes the one of the source.
  So a process that froze with an old copy of a document cannot store it.
- Each of its commits requires the target's role as it was read then. So it overwrites nothing of a store that has
  become the primary meanwhile.
- It removes an entry after its change is in the target.
- It stores nothing that an entry of the target's own outbox says is deleted.
- A checkpoint comes with everything that it needs. Either its parent is there with the same content, and is required to
  stay, or each document and object that it needs is looked for. Missing frames come as stripped documents.
- The parent's heir is written in the commit of the child.
- A deletion strips what the target still needs. Objects are deleted only after the source has deleted them.

Deletions come first, then documents that speak of side effects, then pending writes, then checkpoints in the order in
which the source got them. So a checkpoint never comes before the writes that a DeltaChannel of it is made of.
"""

from __future__ import annotations

from collections.abc import Collection as Names
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    DeleteBlobs,
    Doc,
    Effect,
    Fields,
    Flow,
    Gather,
    GetBlob,
    GetDocs,
    Merge,
    Now,
    On,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.engine.steps import at, through, together
from langgraph_gcs_saver.errors import ConflictError, DamageError
from langgraph_gcs_saver.flows import dictionaries
from langgraph_gcs_saver.flows.batches import in_batches
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.collections import DOCS_PER_PAGE, damaged, list_docs, objects_of
from langgraph_gcs_saver.flows.context import ATTEMPT_DEADLINE_SECONDS, Context
from langgraph_gcs_saver.flows.copy import CHECKPOINTS_PER_PAGE, COMMIT_BYTES, in_levels
from langgraph_gcs_saver.flows.ids import thread_id_of
from langgraph_gcs_saver.flows.listing import list_all, list_page
from langgraph_gcs_saver.flows.manifests import locate_manifest, read_stub, unreadable
from langgraph_gcs_saver.flows.marks import unmark, unmarked
from langgraph_gcs_saver.flows.prune import clean_up, leftovers, listed_objects, settled, snapshot, take_off
from langgraph_gcs_saver.flows.referrers import objects_of as objects_of_manifest
from langgraph_gcs_saver.flows.roles import role_check
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.threads import delete_thread, note_run
from langgraph_gcs_saver.flows.transfer import LEFT_OUT, OWN, SOURCE, fingerprint, is_same, pages
from langgraph_gcs_saver.flows.writes import read_stubs
from langgraph_gcs_saver.format import keys, manifest, operations, regions, registry
from langgraph_gcs_saver.format.frames import FrameError
from langgraph_gcs_saver.format.manifest import (
    DamagedError,
    DocumentKind,
    Manifest,
    Stub,
    heir_of,
    kind_of,
    runs_of,
)
from langgraph_gcs_saver.format.regions import DIGITS, Entry, What, entry_of, role_of
from langgraph_gcs_saver.format.registry import Collection
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import CollectPlan, ForkFound

T = TypeVar("T")

TOKEN, MARK, EPOCH = "token", "mark", regions.SHIPPED_IN
"""Fields of such a document. The token is new in each commit, because a write that changes nothing does not move it."""

SHIPPED = "shipped"
"""A field of a checkpoint in the target, which changes when a shipment needs the checkpoint's frames."""

_SEEN = ("ns", "format", "digest", "heir")
"""The fields that show whether a document is a checkpoint, which content it has, and its heir."""

_BLOBS = 32
_BLOB_BYTES = 16 << 20
"""The maximum number and size of objects in memory at the same time. A larger object is shipped alone."""

_WRITES = limits.COMMIT_WRITES // 2
"""Documents in one commit. Each may bring its parent, its run and a document that it requires."""

_NAMES_PER_PAGE = 200
"""How many documents are read at once, without their content."""

ENTRIES_PER_PAGE = 5000
"""How many entries of an outbox are read at once: well within one call's deadline."""


class Overtaken(Exception):  # noqa: N818 - no caller of a public method sees it
    """The target, or the source, was changed since this shipment has read it. The next try reads everything again.

    Attributes:
        missing: An object, or a document with frames, that the source does not have, although a document refers to it.
            Either that document was deleted at that moment, or what is missing is lost.
    """

    def __init__(self, missing: str | None = None) -> None:
        super().__init__(missing)
        self.missing = missing


@record(frozen=True, slots=True)
class Seen:
    """A document of a checkpoint in the target, as this shipment has seen or left it.

    Attributes:
        time: When it last changed.
        is_listed: Whether it is a checkpoint, and not stripped.
        digest: The digest of its content, if it is a checkpoint.
        heir: The id of its latest child.
    """

    time: int
    is_listed: bool
    digest: bytes | None
    heir: str | None

    @classmethod
    def of(cls, doc: Doc) -> Seen:
        """What a document shows, read with at least the fields `_SEEN`."""
        digest = doc.fields.get("digest")
        is_listed = kind_of(doc) is DocumentKind.CHECKPOINT
        return cls(doc.update_time, is_listed, digest if isinstance(digest, bytes) else None, heir_of(doc))


def entries_of(segment: str) -> Flow[tuple[list[Entry], int | None]]:
    """The entries of a store's outbox for one thread, oldest first.

    Args:
        segment: The thread's segment in names; `keys.SHARED_OUTBOX` for the operations that all threads share.

    Returns:
        The entries, and the time up to which none is missing. It is `None` if one query has returned all, so that they
        are those of one instant.

    Raises:
        DamageError: A document of the outbox is no entry.
    """
    start, end = keys.outbox_range(segment)
    found: list[Entry] = []
    after: str | None = None
    newest: int | None = None
    while True:
        docs = yield from QueryDocs(keys.OUTBOX, start=start, end=end, after=after, limit=ENTRIES_PER_PAGE)
        found += [entry_of(doc) for doc in docs if keys.outbox_segment(doc.name) == segment]
        if len(docs) < ENTRIES_PER_PAGE:
            return sorted(found, key=lambda entry: (entry.time, entry.name)), newest
        newest = max(doc.update_time for doc in docs) if newest is None else newest
        after = docs[-1].name


def ship_doc(segment: str) -> str:
    """Name of the document that each commit of a shipment moves.

    Args:
        segment: As for `entries_of`. The documents of threads are deleted with them.
    """
    return keys.SHARED_SHIP if segment == keys.SHARED_OUTBOX else f"{keys.THREADS}/{segment}/{keys.SHIPS}/{keys.SHIP}"


class Shipment:
    """One try to ship what has changed in a thread.

    Attributes:
        segment: The thread's segment in names; `keys.SHARED_OUTBOX` for the operations that all threads share.
        thread_id: The thread; `None` for those operations, and for a thread of which both stores have nothing.
        ship: The name of the document that each commit moves.
        time: When that of the target last changed.
        epoch: The epoch of the target's role, as this shipment has read it before the source; `None` if it has none.
        own: When that of the source last changed; `None` if it does not exist.
        source: The thread's own document in the source.
        active: The note about the thread's turn, in the source and in the target.
        wins: Whether the source's version of a document replaces the target's. It does unless the target is primary.
        there: Checkpoints of the target, as last seen; `None` for those that it lacks.
        here: Digests of checkpoints of the source.
        documents: Number of documents that were stored or deleted in the target.
        bytes: Bytes of the fields and objects that were stored in the target.
        forks: Checkpoints of the source whose parents were continued by the target's own writers.
    """

    def __init__(self, segment: str, context: Context, *, heals: bool = True) -> None:
        self.segment = segment
        self.is_shared = segment == keys.SHARED_OUTBOX
        self.thread_id: str | None = None if self.is_shared else keys.thread_id_of(segment)
        self.context = context
        self.ship = ship_doc(segment)
        self.thread = f"{keys.THREADS}/{segment}"
        self._active = f"{keys.ACTIVE}/{segment}"
        self._digits = DIGITS[0] if self.is_shared else segment[:2]
        self._role_time: int | None = None
        self.time = 0
        self.epoch: int | None = None
        self.own: int | None = None
        self.source: Doc | None = None
        self.target: Doc | None = None
        self.active: tuple[Doc | None, Doc | None] = (None, None)
        self.wins = heals
        self.forks: list[ForkFound] = []
        self.there: dict[str, Seen | None] = {}
        self.here: dict[str, bytes | None] = {}
        self.documents = 0
        self.bytes = 0
        self._uploaded: set[str] = set()
        self._batch: dict[str, Write] = {}
        self._started = 0.0
        self._carries = True
        self._is_primary = False
        self._kept: set[str] = set()

    # Begin and end

    def begin(self) -> Flow[None]:
        """Read what later commits require. Call this before anything else is read.

        The document of the target is created before anything is read. If a thread is deleted, and created again, then a
        shipper that has seen the earlier one finds another document.

        Raises:
            ConflictError: A copy to the thread in the target is unfinished.
            Overtaken: A deletion of the thread in the target was under way, or another shipment has begun.
        """
        role = keys.role_doc(self._digits)
        names = (self.ship, role, self.thread, self._active)
        there, here = yield from Gather((GetDocs(names), On(SOURCE, GetDocs(names))))
        if self.ship not in there:
            yield from Commit((Create(self.ship, {TOKEN: self.context.new_attempt()}),))
            raise Overtaken
        self.time = there[self.ship].update_time
        self.own = here[self.ship].update_time if self.ship in here else None
        if role in there:
            found = role_of(there[role])
            self._role_time = there[role].update_time
            self.epoch = found.epoch
            self._is_primary = found.is_primary
            self.wins = self.wins and not found.is_primary
        self._started = yield from Now()
        self.source, self.target = here.get(self.thread), there.get(self.thread)
        self.active = here.get(self._active), there.get(self._active)
        for doc in (self.source, self.target):
            if self.thread_id is None and doc is not None:
                self.thread_id = thread_id_of(doc)
        if self.target is not None and self._is_marked and self.thread_id is not None and self.source is not None:
            if self._is_replica:
                yield from self._must([unmark(self.target)])  # Only shippers delete in a replica.
            else:
                yield from unmarked(self.thread_id, self.context)
            raise Overtaken  # If the source has deleted the thread too, this shipment completes the deletion.
        if self.target is not None and "copying" in self.target.fields:
            if self._is_replica:
                # It was the primary when the copy began. A replica takes no more of it, and not its repetition either.
                # Without the claim, the call that copied does not take the copy for ended.
                yield from self._must([Merge(self.thread, {}, ("copying", "claim"), self.target.update_time)])
                raise Overtaken
            raise ConflictError(
                f"Thread {self.thread_id!r} is the target of an unfinished copy in the other store. Repeat the call "
                "that copies, or delete the thread there. Then replicate again."
            )

    @property
    def _is_replica(self) -> bool:
        """Whether the target takes nothing from anyone but shippers."""
        return self.epoch is not None and self.wins

    @property
    def _is_marked(self) -> bool:
        """Whether the thread is being deleted in the target."""
        return self.target is not None and "deleting" in self.target.fields

    def flow(self, entries: Sequence[Entry], mark: int | None) -> Flow[None]:
        """Ship the changes that some entries name, and remove the entries.

        Args:
            entries: Entries of the source's outbox, oldest first, read after `begin`.
            mark: The time up to which the entries are complete; `None` if some that are older are missing.

        Raises:
            Overtaken: Another writer was faster. Make another try.
        """
        changed = [name for name in _in_order(entries) if name != self.thread]
        deleted = {entry.changed for entry in entries if entry.what == "delete"} - {self.thread}
        gone, replaced = yield from self._gone(deleted)
        yield from self._delete([name for name in changed if name in gone | replaced])
        if any(map(_is_checkpoint, deleted)):
            # Before the checkpoints, or their pending writes, come again under the same names.
            yield from self._clean()
        yield from self.store([name for name in changed if name not in gone])
        yield from self._keep()
        yield from self._end(mark)
        yield from self._delete_thread(is_entered=any(entry.changed == self.thread for entry in entries))
        yield from self._remove(entries)

    def forget(self) -> Flow[None]:
        """Leave nothing in the target of a thread that another shipment has deleted there, before this one began.

        Raises:
            Overtaken: Another writer was faster. Make another try.
        """
        if self.target is None:
            yield from self._delete_thread(is_entered=False)

    def everything(self) -> Flow[list[str]]:
        """Store all that the source has, where the target lacks it or, if the source's version wins, differs.

        Returns:
            Names of documents that only the target has.

        Raises:
            Overtaken: Another writer was faster. Make another try.
        """
        names = yield from at(SOURCE, self._names())
        there = yield from self._names()
        if self.wins and not self.is_shared:
            yield from self._heal_objects()
        yield from self.store(names)
        yield from self._keep()
        yield from self._end()
        return sorted(set(there) - set(names))

    def _names(self) -> Flow[list[str]]:
        """Names of all replicated documents of a store, in the order in which it got them, without stripped ones."""
        if self.is_shared:
            docs = yield from QueryDocs(keys.operations(None), mask=())
        else:
            listed = yield from list_docs(self.thread, _is_replicated, mask=("ns", "format"))
            docs = [doc for _, doc in listed if not _is_checkpoint(doc.name) or Seen.of(doc).is_listed]
        return [doc.name for doc in sorted(docs, key=lambda doc: (doc.create_time, doc.name))]

    def _heal_objects(self) -> Flow[None]:
        """Copy the objects of the thread that the target lacks, or has with other bytes."""
        prefix = f"{self.segment}/"
        here, there = yield from together(
            at(SOURCE, list_all(prefix, checksums=True)), list_all(prefix, checksums=True)
        )
        differ = {name for name, blob in here.items() if name in there and not is_same(blob, there[name])}
        wrong = sorted((yield from self._proven(differ)) if differ else ())
        for page in pages(wrong, limits.BATCH_CALLS):
            yield from DeleteBlobs(tuple(page))
        yield from self._upload({name: blob.size for name, blob in here.items() if name in wrong or name not in there})

    def _proven(self, names: Names[str]) -> Flow[set[str]]:
        """Those of some objects that the source has as its documents say. A damaged one must not replace a whole one.

        Raises:
            CheckpointCorruptError, DamageError: The source is damaged. Nothing was replaced.
        """
        found: set[str] = set()
        for page in pages((yield from at(SOURCE, self._names())), CHECKPOINTS_PER_PAGE):
            docs = yield from On(SOURCE, GetDocs(tuple(page)))
            for doc in docs.values():
                if _is_checkpoint(doc.name):
                    known, blob = yield from at(SOURCE, self._manifest(doc))
                    mine = objects_of_manifest(known, blob) & set(names)
                    if mine:
                        yield from at(SOURCE, self._check_values(doc, known))
                    found |= mine
                    continue
                stubs = yield from at(SOURCE, self._objects(_entry_of(doc.name), doc))
                for name in stubs.keys() & names:
                    yield from at(SOURCE, self._check_object(doc, name, stubs[name]))
                    found.add(name)
        return found

    def _check_object(self, doc: Doc, name: str, stub: Stub) -> Flow[None]:
        try:
            yield from read_stub(name, stub, self.context.codec)
        except DamagedError as damage:
            raise damaged(doc.name, damage) from None
        except FrameError as error:
            raise damaged(doc.name, DamagedError(f"an object is {error}", frame=name)) from None

    def _check_values(self, doc: Doc, known: Manifest) -> Flow[None]:
        """Check that all values of a checkpoint can be read in the store that performs this.

        Raises:
            CheckpointCorruptError, ClearTextError: A value is damaged.
        """
        sources = Sources([Found(doc, known)], replace(self.context, values=ByteCache(0)))
        try:
            sources.fill((yield from Gather(tuple(sources.fetches()))))
            for channel in known.channels:
                yield from Compute(partial(sources.plain, known, channel), size=known.channels[channel].size)
        except DamagedError as damage:
            raise unreadable(damage, known.thread_id, known.ns, known.checkpoint_id) from None

    def _gone(self, names: Names[str]) -> Flow[tuple[set[str], set[str]]]:
        """Which of some documents that were deleted the source still lacks, and which checkpoints it has replaced.

        What builds on the former content of a replaced checkpoint was deleted too.
        """
        gone: set[str] = set()
        replaced: set[str] = set()
        for page in pages(sorted(names), _NAMES_PER_PAGE):
            here, there = yield from Gather(
                (On(SOURCE, GetDocs(tuple(page), mask=_SEEN)), GetDocs(tuple(page), mask=_SEEN))
            )
            for name in page:
                if not _is_whole(name, here):
                    gone.add(name)
                elif self.wins and _is_checkpoint(name) and _is_whole(name, there):
                    is_same = here[name].fields.get("digest") == there[name].fields.get("digest")
                    replaced.update(() if is_same else (name,))
        return gone, replaced

    def _tombs(self) -> Flow[dict[str, list[str]]]:
        """Names of entries of the target's own outbox that say that a document was deleted, by the document."""
        found: dict[str, list[str]] = {}
        entries, _ = yield from entries_of(self.segment)
        for entry in entries:
            if entry.what == "delete":
                found.setdefault(entry.changed, []).append(entry.name)
        return found

    def _end(self, mark: int | None = None) -> Flow[None]:
        """Commit what is left, with the time up to which the target has everything, and the note about the turn."""
        here, there = self.active
        notes: list[Write] = []
        if self.wins and here is None and there is not None:
            notes.append(Delete(self._active))
        elif self.wins and here is not None and (there is None or here.fields != there.fields):
            gone = () if there is None else tuple(sorted(there.fields.keys() - here.fields.keys()))
            notes.append(Merge(self._active, here.fields, remove=gone))
        yield from self._flush(notes, mark=mark)

    def _remove(self, entries: Sequence[Entry]) -> Flow[None]:
        """Remove entries from the source's outbox, and move its own document.

        A shipment in the opposite direction may have looked for an entry about a deletion, and read the document
        before. So it must fail.
        """
        token = {TOKEN: self.context.new_attempt()}
        is_gone = not self.is_shared and self.source is None
        if is_gone and self.own is None:
            yield from self._commit_own(Create(self.ship, token))
        left = len(entries)
        for page in pages(entries, limits.COMMIT_WRITES):
            left -= len(page)
            own: Write = Create(self.ship, token) if self.own is None else Merge(self.ship, token, update_time=self.own)
            if is_gone and not left:
                own = Delete(self.ship, update_time=self.own)  # Nothing of a deleted thread stays.
            yield from self._commit_own(own, *(Delete(entry.name, update_time=entry.time) for entry in page))
            token = {TOKEN: self.context.new_attempt()}

    def _commit_own(self, own: Write, *writes: Write) -> Flow[None]:
        """Commit to the source, with a write that moves its own document."""
        times = yield from On(SOURCE, Commit((own, *writes)))
        if times is None:
            raise Overtaken
        self.own = times[0]

    # Commits

    def commit(self, writes: Sequence[Write], *, mark: int | None = None) -> Flow[tuple[int, ...] | None]:
        """Commit writes to the target, if no other shipment has come in between.

        Returns:
            The update times of the writes; `None` if another precondition failed.

        Raises:
            Overtaken: Another shipment has come in between, the target's role has changed, or the answer of this commit
                was lost.
        """
        fields: dict[str, int | str] = {TOKEN: self.context.new_attempt()}
        if mark is not None:
            fields[MARK] = mark
            fields |= {} if self.epoch is None else {EPOCH: self.epoch}
        if any(write.name == self.ship for write in writes):  # The thread's deletion ends with this commit.
            own, rest = [], [Delete(one.name, self.time) if one.name == self.ship else one for one in writes]
        else:
            own, rest = [Merge(self.ship, fields, update_time=self.time)], list(writes)
        checks = [] if self._role_time is None else [role_check(self._digits, self._role_time)]
        times = yield from Commit((*own, *rest, *checks))
        if times is None:
            held = {self.ship: self.time} | {check.name: self._role_time for check in checks}
            docs = yield from GetDocs(tuple(held))
            if any(name not in docs or docs[name].update_time != time for name, time in held.items()):
                raise Overtaken
            return None
        if own:
            self.time = times[0]
        self.documents += len(rest)
        times = times[len(own) : len(own) + len(rest)]
        for write, time in zip(rest, times, strict=True):
            if write.name == self.thread:
                self.target = self._after(write, time)
        return times

    def moving(self, flow: Flow[T]) -> Flow[T]:
        """A flow that changes the target, with `commit` in place of its commits."""
        return through(flow, self._moving)

    def _moving(self, effect: Effect[Any]) -> Flow[Any]:
        if isinstance(effect, Commit):
            return (yield from self.commit(effect.writes))
        return (yield from effect)

    def _must(self, writes: Sequence[Write], *, mark: int | None = None) -> Flow[tuple[int, ...]]:
        times = yield from self.commit(writes, mark=mark)
        if times is None:
            raise Overtaken
        return times

    # Deletions

    def _delete(self, names: Sequence[str]) -> Flow[None]:
        """Delete what the source has deleted. What the target still needs of checkpoints stays, stripped.

        A primary keeps its own operations, turns and the like: they say what its own processes do.
        """
        if self.thread_id is not None:
            checkpoints = {name for name in names if _is_checkpoint(name)}
            if checkpoints:
                yield from self.moving(take_off(self.thread_id, checkpoints, self.context))
        others = [name for name in names if not _is_checkpoint(name)]
        if not self.wins:
            self._kept.update(name for name in others if _entry_of(name).is_plain)
            others = [name for name in others if not _entry_of(name).is_plain]
        for page in pages(others, DOCS_PER_PAGE):
            docs = yield from GetDocs(tuple(page))
            writes: list[Write] = []
            objects: set[str] = set()
            for doc in docs.values():
                entry = _entry_of(doc.name)
                writes.append(Delete(doc.name, update_time=doc.update_time))
                writes += [] if entry.note is None else [entry.note(doc.name, {})]
                objects |= (yield from self._objects(entry, doc)).keys()
            if writes:
                yield from self._must(writes)
                yield from self._delete_objects(objects)
        found = (yield from self._tombs()) if names else {}
        tombs = [tomb for name in names for tomb in found.get(name, ())]
        for page in pages(tombs, limits.COMMIT_WRITES):
            yield from self._must([Delete(tomb) for tomb in page])

    def _keep(self) -> Flow[None]:
        """Add entries to the primary's outbox, so that the source gets the versions that the primary keeps.

        The primary's own entry may have been shipped before the source made its change.
        """
        for page in pages(sorted(self._kept) if self._is_primary else (), DOCS_PER_PAGE):
            docs = yield from GetDocs(tuple(page), mask=())
            nonces = (self.context.new_attempt() for _ in docs)
            entries = [
                Entry(keys.outbox_doc(self.segment, nonce), cast("What", _entry_of(name).replicated), name)
                for name, nonce in zip(docs, nonces, strict=False)
            ]
            if entries:
                yield from self._must([entry.write for entry in entries])
        self._kept = set()

    def _delete_objects(self, names: Iterable[str]) -> Flow[None]:
        """Delete objects that no document refers to any more, and that the source does not have either.

        In the target an object has the same name each time that it is shipped. So only one that never comes again may
        be deleted: this process may freeze before the request is sent.
        """
        left = sorted(set(names) - (yield from self._in_source(names)))
        for page in pages(left, limits.BATCH_CALLS):
            yield from DeleteBlobs(tuple(page))

    def _in_source(self, names: Iterable[str]) -> Flow[set[str]]:
        """Those of some objects that the source has."""
        found: set[str] = set()
        for page in pages(sorted(names), _BLOBS):
            datas = yield from Gather(tuple(On(SOURCE, GetBlob(name, length=1)) for name in page))
            found.update(name for name, data in zip(page, datas, strict=True) if data is not None)
        return found

    def _clean(self) -> Flow[None]:
        """Delete what only stripped documents refer to, as far as the source does not have it any more."""
        if self.thread_id is None:
            return
        found = yield from settled(self.thread_id, self.context)
        listed = {doc.name: listed_objects(doc) for doc in leftovers(found)}
        kept = yield from self._in_source({name for names in listed.values() for name in names})
        ready = tuple(name for name, names in listed.items() if names.isdisjoint(kept))
        if ready:
            objects = {one: 0 for name in ready for one in listed[name]}
            plan = CollectPlan(thread_id=self.thread_id, before=0.0, stripped=ready, objects=objects)
            yield from self.moving(clean_up(found, self.context, plan))

    def _delete_thread(self, *, is_entered: bool) -> Flow[None]:
        """Delete the thread in the target if the source has nothing of it, and the target has nothing more to keep.

        A primary keeps all that it has, and a replica keeps what it has stored as a primary, and has not shipped. It
        has copies of what the source has set aside, too, and does not keep these.

        Args:
            is_entered: Whether an entry says that the thread was deleted.

        Raises:
            Overtaken: The source has begun the thread again.
        """
        if self.is_shared or self.source is not None:
            return
        if (yield from self._has_begun_again()):
            raise Overtaken
        keeps = not (self.wins and is_entered) or (yield from entries_of(self.segment))[0]
        if keeps and (yield from list_docs(self.thread, _is_replicated)):
            return
        if (yield from at(SOURCE, list_page(f"{self.segment}/", limit=1))):
            return
        if self.thread_id is not None and self.target is not None:
            # Sets and leases of a replica are what is left of the time when it was the primary. They stop no deletion.
            yield from self.moving(delete_thread(self.thread_id, self.context, force=self.wins))
        else:
            yield from self._must([Delete(self.ship)])

    def _has_begun_again(self) -> Flow[bool]:
        """Whether the source has the thread, which it did not have when this shipment read it.

        The entries that the shipment removes were read after that. They may be those of the new thread.
        """
        return self.thread in (yield from On(SOURCE, GetDocs((self.thread,))))

    # What the source has

    def store(self, names: Iterable[str]) -> Flow[None]:
        """Store documents of the source in the target, those that it has, in the order that readers depend on.

        Args:
            names: The documents. Pending writes and checkpoints are in the order in which the source got them.
        """
        by_kind: dict[str, list[str]] = {}
        for name in names:
            by_kind.setdefault(_entry_of(name).id, []).append(name)
        writes, checkpoints = by_kind.pop(keys.WRITES, []), by_kind.pop(keys.CHECKPOINTS, [])
        for entry in registry.COLLECTIONS:
            for page in pages(by_kind.get(entry.id, ()), DOCS_PER_PAGE):
                here, there = yield from self._both(page)
                yield from self._store_plain(here.values(), there)
        is_first = True
        for page in pages(writes, DOCS_PER_PAGE):
            here, there = yield from self._both(page)
            # The first of a task's pending writes wins, so each level is committed before the next.
            for level in in_levels(here.values()):
                if not is_first:
                    yield from self._flush()
                is_first = False
                yield from self._store_plain(level, there)
        for page in pages(checkpoints, CHECKPOINTS_PER_PAGE):
            here, there = yield from self._both(page)
            docs = [doc for doc in here.values() if kind_of(doc) is DocumentKind.CHECKPOINT]
            yield from self._store_checkpoints(docs, there)

    def _both(self, names: Sequence[str]) -> Flow[tuple[Mapping[str, Doc], Mapping[str, Doc]]]:
        """Documents of the source, in their order, without those that the target has deleted; and of the target.

        The target's outbox is read last. A document that was not there before has either been deleted, and then an
        entry says so, or it has never been there. What a primary keeps of its own (`_delete`) comes again all the same.
        """
        here, there = yield from Gather((On(SOURCE, GetDocs(tuple(names))), GetDocs(tuple(names))))
        tombs = (yield from self._tombs()) if any(not _is_whole(name, there) for name in here) else {}
        ours = {name for name in here if self.wins and _entry_of(name).is_plain}
        return {name: here[name] for name in names if name in here and (name in ours or name not in tombs)}, there

    def _store_plain(self, docs: Iterable[Doc], there: Mapping[str, Doc]) -> Flow[None]:
        """Store documents that need nothing but their objects."""
        for doc in docs:
            copied = there.get(doc.name)
            knows = copied is not None and (yield from self._knows_outcome(doc, copied))
            write = self._update(doc, copied, doc.fields, wins=self.wins or knows)
            if write is None:
                continue
            stubs = yield from at(SOURCE, self._objects(_entry_of(doc.name), doc))
            yield from self._upload({name: stub.stored for name, stub in stubs.items()})
            self._add(write)
            for note in registry.notes([write]):
                self._add(note)
            yield from self._flush_full()

    def _knows_outcome(self, doc: Doc, copied: Doc) -> Flow[bool]:
        """Whether a source that does not win has the outcome of an operation, and the target has only the doubt.

        A target that was promoted by force notes an operation as unknown if the source may have begun it. If it has
        made an attempt of its own, or the outcome was resolved there, its version stays.
        """
        states = doc.fields.get("state"), copied.fields.get("state")
        is_operation = _entry_of(doc.name).replicated == "operation"
        if self.wins or not is_operation or states[0] not in operations.ENDED or states[1] != "unknown":
            return False
        try:
            here, there = yield from Compute(
                lambda: [operations.parse(one, self.context.codec) for one in (doc, copied)],
                size=len(doc.fields[operations.OPERATION]),
            )
        except DamagedError as damage:
            raise damaged(doc.name, damage) from None
        is_same = (here.name, here.request) == (there.name, there.request) and here.step is there.step is None
        return is_same and (there.is_doubt or here.attempt.nonce == there.attempt.nonce)

    def _update(self, doc: Doc, copied: Doc | None, fields: Fields, *, wins: bool) -> Create | Merge | None:
        """The write that gives a document of the target some fields; `None` if it has them, or keeps its own."""
        if copied is None:
            return Create(doc.name, fields)
        kept = {key: value for key, value in copied.fields.items() if key in fields or key not in _KEPT}
        is_new = _is_checkpoint(doc.name) and kind_of(copied) is not DocumentKind.CHECKPOINT
        if fingerprint(fields) == fingerprint(kept):
            return None
        if not (wins or is_new):
            self._kept.add(doc.name)
            return None
        gone = tuple(sorted(kept.keys() - fields.keys()))
        return Merge(doc.name, fields, remove=gone, update_time=copied.update_time)

    def _objects(self, entry: Collection, doc: Doc) -> Flow[Mapping[str, Stub]]:
        """The objects that a document other than a checkpoint refers to.

        Raises:
            DamageError: The document is damaged. Repair it, or restore it from a backup.
        """
        try:
            if entry.is_plain:
                return (yield from objects_of(entry, doc, self.context))
            return (yield from read_stubs(doc, self.context.codec))
        except DamagedError as damage:
            raise damaged(doc.name, damage) from None

    # Checkpoints

    def _store_checkpoints(self, docs: Sequence[Doc], there: Mapping[str, Doc]) -> Flow[None]:
        self.there.update({doc.name: Seen.of(there[doc.name]) if doc.name in there else None for doc in docs})
        self.here.update({doc.name: Seen.of(doc).digest for doc in docs})
        todo: list[tuple[Doc, Create | Merge, Manifest, str | None]] = []
        for doc in docs:
            write = self._update(doc, there.get(doc.name), _carried(doc), wins=self.wins)
            if write is None:
                continue
            known, blob = yield from at(SOURCE, self._manifest(doc))
            todo.append((doc, write, known, blob))
        parents = {parent for _, _, known, _ in todo if (parent := _parent(known)) is not None}
        yield from self._look(parents)
        yield from self._look_for_forks([known for _, _, known, _ in todo])
        for doc, plain, known, blob in todo:
            yield from self._carry_dictionaries(known)
            seen, write = self.there[doc.name], plain
            if seen is not None and isinstance(write, Create):  # Its frames have come before it.
                write = Merge(doc.name, write.fields, update_time=seen.time)
            elif seen is not None and isinstance(write, Merge):
                if seen.is_listed and seen.digest == self.here[doc.name]:
                    yield from self._check_frames(doc, known, there[doc.name])
                write = yield from self._with_frames(doc, write, replace(there[doc.name], update_time=seen.time))
            if seen is None or not seen.is_listed or seen.digest != self.here[doc.name]:
                yield from self._prepare(known, blob)
            self._add_checkpoint(doc, write, known)
            yield from self._flush_full()

    def _manifest(self, doc: Doc) -> Flow[tuple[Manifest, str | None]]:
        try:
            return (yield from locate_manifest(doc, self.context.codec))
        except DamagedError as damage:
            ns = keys.told_id(keys.ns_segment_of(doc.name))
            raise unreadable(damage, str(self.thread_id), ns, keys.checkpoint_id_of(doc.name)) from None

    def _look(self, names: Iterable[str]) -> Flow[None]:
        """Look which of some checkpoints both stores have, and with which content."""
        unknown = sorted(name for name in names if name not in self.there or name not in self.here)
        for page in pages(unknown, _NAMES_PER_PAGE):
            there, here = yield from Gather(
                (GetDocs(tuple(page), mask=_SEEN), On(SOURCE, GetDocs(tuple(page), mask=_SEEN)))
            )
            for name in page:
                self.there.setdefault(name, Seen.of(there[name]) if name in there else None)
                self.here.setdefault(name, Seen.of(here[name]).digest if name in here else None)

    def _look_for_forks(self, found: Iterable[Manifest]) -> Flow[None]:
        """Note which new checkpoints have a sibling that only the target has."""
        pairs: list[tuple[Manifest, str, str]] = []
        for known in found:
            parent = _parent(known)
            seen = None if parent is None else self.there[parent]
            if self.there[known.name] is None and seen is not None and seen.heir not in (None, known.checkpoint_id):
                heir = str(seen.heir)
                pairs.append((known, heir, keys.checkpoint_doc(known.thread_id, known.ns, heir)))
        yield from self._look({name for _, _, name in pairs})
        for known, heir, name in pairs:
            there = self.there[name]
            if self.here[name] is None and there is not None and there.is_listed:
                self.forks.append(
                    ForkFound(
                        thread_id=known.thread_id,
                        checkpoint_ns=known.ns,
                        parent_id=str(known.parent_id),
                        checkpoint_id=known.checkpoint_id,
                        sibling_id=heir,
                    )
                )

    def _carry_dictionaries(self, known: Manifest) -> Flow[None]:
        """Copy the source's dictionaries to the target before the first checkpoint that needs one."""
        if known.dictionaries and self._carries:
            yield from dictionaries.carried(SOURCE, self.context)
            self._carries = False

    def _check_frames(self, doc: Doc, known: Manifest, copied: Doc) -> Flow[None]:
        """If the frames of the same content differ, check that those of the source are the right ones."""
        ours, theirs = manifest.inner_frames(doc), manifest.inner_frames(copied)
        if not (ours.startswith(theirs) or theirs.startswith(ours)):
            yield from at(SOURCE, self._check_values(doc, known))

    def _with_frames(self, doc: Doc, write: Merge, copied: Doc) -> Flow[Merge]:
        """The write, with frames that leave those of the target in their places, because others may build on them.

        Raises:
            ConflictError: The target has other frames, and a checkpoint that only the target has builds on them.
        """
        ours, theirs = manifest.inner_frames(doc), manifest.inner_frames(copied)
        write = replace(write, update_time=copied.update_time)
        if ours.startswith(theirs):
            return write
        if theirs.startswith(ours):
            kept = tuple(one for one in write.remove if one != "frames")
            return replace(write, fields={**write.fields, "frames": theirs}, remove=kept)
        found = yield from snapshot(str(self.thread_id), self.context)
        if doc.name in found.needed(found.entries.keys() - {doc.name}):
            raise ConflictError(
                f"Checkpoint {keys.checkpoint_id_of(doc.name)!r} of thread {self.thread_id!r} was replaced in the "
                "source, and checkpoints that only the other store has build on the one that it replaces. Delete "
                "these there, or replicate in the other direction first."
            )
        return write

    def _prepare(self, known: Manifest, blob: str | None) -> Flow[None]:
        """Store everything that a new checkpoint needs, and add requirements that it stays.

        If the parent is there with the same content, it has everything that the child inherits, and the write of its
        heir requires it. Otherwise each document and object is looked for.
        """
        parent = _parent(known)
        seen = None if parent is None else self.there[parent]
        is_same = (
            parent is not None
            and seen is not None
            and seen.is_listed
            and seen.digest is not None
            and seen.digest == self.here[parent]
        )
        sizes: dict[str, int] = {}
        checksums: dict[str, str | None] = {}
        inner: set[str] = set()
        for channel, ref in known.channels.items():
            for frame in ref.chain:
                if frame.owner is not None and is_same:
                    continue
                name = known.place(channel, frame)
                if frame.attempt is not None:
                    sizes[name] = max(sizes.get(name, 0), frame.at + frame.stored)
                    checksums[name] = frame.crc32c
                elif name != known.name:
                    inner.add(name)
        if blob is not None:
            sizes[blob] = 0
        yield from self._upload(sizes, checksums)
        yield from self._close(inner)
        own = self.there[known.name]
        if is_same and parent is not None and seen is not None and own is not None and own.is_listed:
            self._add(self._hold(parent, seen))

    def _hold(self, name: str, seen: Seen) -> Merge:
        """The write that requires a document that is needed, and changes it.

        A pruner may have seen that nothing needs it. It deletes only what is as it was seen.
        """
        return Merge(name, {SHIPPED: self.context.new_attempt()[:6]}, update_time=seen.time)

    def _close(self, names: Names[str]) -> Flow[None]:
        """Create the documents that the target lacks, stripped to their frames, and require that the others stay."""
        yield from self._look(names)
        missing = [name for name in names if self.there[name] is None]
        differs = [name for name in names if self._differs(name)]
        for page in pages(sorted({*missing, *differs}), CHECKPOINTS_PER_PAGE):
            here, there = yield from Gather(
                (On(SOURCE, GetDocs(tuple(page), mask=("frames",))), GetDocs(tuple(page), mask=("frames",)))
            )
            for name in page:
                if name not in here:
                    raise Overtaken(name)  # The source has deleted it since, or has lost it.
                ours = manifest.inner_frames(here[name])
                if name not in there:
                    self._add(Create(name, {"frames": ours}))
                elif not manifest.inner_frames(there[name]).startswith(ours):
                    write = Merge(name, {"frames": ours}, update_time=there[name].update_time)
                    self._add((yield from self._with_frames(here[name], write, there[name])))
                yield from self._flush_full()
            # Nothing refers to these frames yet, so they need not be in the commit of the checkpoint.
            yield from self._flush()
        for name in names:
            seen = self.there[name]
            if seen is not None:
                self._add(self._hold(name, seen))

    def _differs(self, name: str) -> bool:
        seen = self.there[name]
        return seen is not None and seen.is_listed and seen.digest != self.here[name]

    def _add_checkpoint(self, doc: Doc, write: Create | Merge, known: Manifest) -> None:
        seen, parent = self.there[doc.name], _parent(known)
        self._add(write)
        self.there[doc.name] = Seen(0, True, self.here[doc.name], None if seen is None else seen.heir)
        for run in sorted(runs_of(doc)):
            self._add(note_run(run, known.thread_id, self.context))
        above = None if parent is None else self.there[parent]
        if parent is not None and above is not None and above.is_listed and (seen is None or not seen.is_listed):
            heir = manifest.heir_field(known.checkpoint_id, self.context.new_attempt())
            self._add(Merge(parent, {"heir": heir}, update_time=above.time))
            self.there[parent] = replace(above, heir=known.checkpoint_id)

    # Objects

    def _upload(self, sizes: Mapping[str, int], checksums: Mapping[str, str | None] | None = None) -> Flow[None]:
        """Copy objects that a document of the source refers to, before a commit that refers to them.

        Args:
            sizes: The size of each object, as far as it is known.
            checksums: The checksums of those that a manifest has the checksum of.

        Raises:
            DamageError: The source has an object with another checksum. It must not be the replica's first copy.
            Overtaken: The source lacks an object.
        """
        checksums = checksums or {}
        wanted = sorted(sizes.keys() - self._uploaded)
        for batch in in_batches(wanted, sizes.__getitem__, most=_BLOBS, most_bytes=_BLOB_BYTES):
            # A source with a mirror returns the copy with that checksum.
            datas = yield from Gather(tuple(On(SOURCE, GetBlob(name, crc32c=checksums.get(name))) for name in batch))
            for name, data in zip(batch, datas, strict=True):
                if data is None:
                    raise Overtaken(name)
                expected = checksums.get(name)
                if expected is not None and (yield from Compute(partial(crc32c, data), size=len(data))) != expected:
                    raise DamageError(
                        f"The object {name!r} has other bytes in the source than a document says, so the document was "
                        "not replicated. Run `langgraph-gcs verify` on the source, and repair the thread."
                    )
            yield from Gather(tuple(self.context.upload(name, data) for name, data in zip(batch, datas, strict=True)))
            self.bytes += sum(map(len, datas))
            self._uploaded.update(batch)

    # Batches

    def _add(self, write: Write) -> None:
        """Add a write to the next commit, joined with an earlier one to the same document."""
        before = self._batch.get(write.name)
        if isinstance(before, (Create, Merge)) and isinstance(write, Merge):
            fields = {key: value for key, value in before.fields.items() if key not in write.remove} | {**write.fields}
            if isinstance(before, Create):
                write = Create(write.name, fields)
            else:
                gone = tuple(sorted({*before.remove, *write.remove} - fields.keys()))
                write = Merge(write.name, fields, remove=gone, update_time=before.update_time)
        self._batch[write.name] = write

    def _flush_full(self) -> Flow[None]:
        """Commit what was added, if more might not fit into the same commit."""
        if len(self._batch) >= _WRITES or sum(map(_size, self._batch.values())) >= COMMIT_BYTES // 2:
            yield from self._flush()

    def _flush(self, notes: Sequence[Write] = (), mark: int | None = None) -> Flow[None]:
        """Commit what was added, and some notes."""
        if not (self._batch or notes or mark is not None):
            return
        if (self._batch and self._is_marked) or (yield from Now()) - self._started > ATTEMPT_DEADLINE_SECONDS:
            raise Overtaken  # By now, the objects may have been collected as orphans.
        writes = [*self._batch.values(), *(self._thread_writes() if self._batch else ()), *notes]
        self._batch = {}
        times = yield from self._must(writes, mark=mark)
        self.bytes += sum(map(_size, writes))
        for write, time in zip(writes, times, strict=True):
            if _is_checkpoint(write.name):
                seen = self.there.get(write.name)
                self.there[write.name] = Seen(time, False, None, None) if seen is None else replace(seen, time=time)

    def _fields_before(self) -> Fields:
        return {} if self.target is None else self.target.fields

    def _after(self, write: Write, time: int) -> Doc | None:
        """The thread's document in the target after a write."""
        if isinstance(write, Delete):
            return None
        gone = write.remove if isinstance(write, Merge) else ()
        kept = {key: value for key, value in self._fields_before().items() if key not in gone}
        return Doc(self.thread, {**kept, **write.fields}, 0, time)

    def _thread_writes(self) -> list[Write]:
        """The write that makes or keeps the thread's own document, and fails if a deletion has begun."""
        if self.is_shared:
            return []
        fields = {} if self.source is None else {k: v for k, v in self.source.fields.items() if k not in OWN}
        is_root = any(_is_root(write) for write in self._batch.values())
        if not (is_root or "root" in self._fields_before()):
            fields.pop("root", None)
        fields["thread_id"] = self.thread_id
        if self.target is None:
            return [Create(self.thread, fields)]
        if not self.wins:
            fields = {key: value for key, value in fields.items() if key not in self.target.fields}
        return [Merge(self.thread, fields, update_time=self.target.update_time)]


_KEPT = (*LEFT_OUT, "heir", SHIPPED)
"""Fields of a checkpoint that the target keeps, and that are not carried."""


def _in_order(entries: Iterable[Entry]) -> list[str]:
    """Names of changed documents, in the order in which their first content came that was not deleted."""
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.changed not in first or first[entry.changed].what == "delete" or entry.what == "delete":
            first.pop(entry.changed, None)
            first[entry.changed] = entry
    return list(first)


def _carried(doc: Doc) -> Fields:
    """The fields of a checkpoint that are carried."""
    return {key: value for key, value in doc.fields.items() if key not in _KEPT}


def _parent(known: Manifest) -> str | None:
    """The name of the document of a checkpoint's parent."""
    if known.parent_id is None or known.parent_id == known.checkpoint_id:
        return None
    return keys.checkpoint_doc(known.thread_id, known.ns, known.parent_id)


def _entry_of(name: str) -> Collection:
    """The entry of a document of a thread, or of an operation that all threads share.

    Raises:
        DamageError: No collection that is replicated has documents of that name.
    """
    found = registry.entry_of(name.split("/")[2:])
    if found is None or found.replicated is None:
        raise DamageError(
            f"An entry of the outbox names {name!r}, which is not a document that is replicated. langgraph-gcs-saver "
            "did not write the entry. Delete it."
        )
    return found


def _is_whole(name: str, docs: Mapping[str, Doc]) -> bool:
    """Whether a document is among others, and is not a stripped checkpoint."""
    return name in docs and (not _is_checkpoint(name) or kind_of(docs[name]) is DocumentKind.CHECKPOINT)


def _is_replicated(entry: Collection) -> bool:
    return entry.replicated is not None


def _is_checkpoint(name: str) -> bool:
    return name.startswith(f"{keys.THREADS}/") and f"/{keys.CHECKPOINTS}/" in name


def _is_root(write: Write) -> bool:
    """Whether a write stores a checkpoint of the root namespace."""
    return "manifest" in _fields(write) and _fields(write).get("ns") == keys.enc("")


def _fields(write: Write) -> Fields:
    return {} if isinstance(write, Delete) else write.fields


def _size(write: Write) -> int:
    return sum(len(value) for value in _fields(write).values() if isinstance(value, bytes)) + 1000
