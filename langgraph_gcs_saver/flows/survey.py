"""Surveys one thread: everything that it stores, and what of it is missing, corrupt or orphaned.

`verify` reports what a survey finds, and `repair` plans from it. Writers may change the thread meanwhile. So a mismatch
is checked again before it is reported, and data that has changed since is left to its writer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from langgraph_gcs_saver.engine.effects import (
    BlobInfo,
    Compute,
    Doc,
    Flow,
    Gather,
    GetDocs,
    ListBlobs,
    ListCollections,
    QueryDocs,
)
from langgraph_gcs_saver.errors import SerializationError
from langgraph_gcs_saver.flows import unmirrored
from langgraph_gcs_saver.flows.batches import in_batches
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.collections import Listed, list_docs, objects_of, pages, read_docs
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.leases import faults
from langgraph_gcs_saver.flows.listing import list_all
from langgraph_gcs_saver.flows.manifests import (
    LOST_ANCESTOR,
    locate_manifest,
    metadata_of,
    open_stub,
    report_clear,
    rest_of,
)
from langgraph_gcs_saver.flows.marks import mark_of, unmarked
from langgraph_gcs_saver.flows.mirrors import read_object
from langgraph_gcs_saver.flows.places import recheck
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.unmirrored import Copies
from langgraph_gcs_saver.flows.writes import is_clear, read_stubs
from langgraph_gcs_saver.format import blobs, filters, frames, keys, manifest, registry
from langgraph_gcs_saver.format.frames import FrameError
from langgraph_gcs_saver.format.manifest import (
    DamagedError,
    DocumentKind,
    Manifest,
    Place,
    Step,
    Stub,
    heir_of,
    kind_of,
    runs_of,
)
from langgraph_gcs_saver.policy.retention import Row, lost_ancestors
from langgraph_gcs_saver.portable import DELTA_COUNTERS, Stored
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Depth, Finding

DOCS_PER_PAGE = 50
"""How many documents are read at once; each may have half a megabyte of frames."""

LOOKS = 5
"""The maximum number of looks at a thread, which ends when two looks in a row agree."""

_TOGETHER = 20
"""The maximum number of checkpoints whose values are decoded together."""

_TOGETHER_BYTES = 256 << 20
"""The maximum memory for values while more than one checkpoint is decoded."""

_NAMES_PER_PAGE = 200
"""How many documents are looked up at once."""

_CACHE_BYTES = 64 << 20
"""The size of the cache while a thread is decoded, oldest checkpoint first."""

MARKED = (
    "a deletion of the thread crashed, or its mark is forged, so checkpoints may be missing: call delete_thread to "
    "delete the rest, or repair to keep it"
)
"""The reason for a thread's document with the mark of a deletion that crashed or never began."""

LEFT_CLEAR = "it still has frames in clear that no checkpoint refers to"
"""The reason for a document that was in clear before its checkpoint was stored again."""

LOST_BLOB = "a value names the blob, and it is missing"
"""The reason for a missing document of a blob."""

_FIELDS = ("digest", "run_id", "former_runs", "heir")
"""The fields kept of a checkpoint's document. Manifests are compared by the digest."""

Kind = Literal["missing", "corrupt", "clear"]


@record(frozen=True, slots=True)
class Entry:
    """A readable checkpoint, without its metadata and fields, because a whole thread's may not fit into memory.

    Attributes:
        doc: Its document, with the fields of `_FIELDS` only.
        manifest: Its ids and refs.
        blob: The object that holds its manifest, if the document does not.
        deltas: The DeltaChannels that its metadata counts.
        written: The channels that have a version.
        is_clear: Whether the cipher does not vouch for its manifest.
    """

    doc: Doc
    manifest: Manifest
    blob: str | None
    deltas: frozenset[str]
    written: frozenset[str]
    is_clear: bool

    @property
    def ids(self) -> tuple[str, str]:
        """Namespace and checkpoint."""
        return self.manifest.ns, self.manifest.checkpoint_id


@dataclass(slots=True)
class Broken:
    """A frame that does not give its value.

    Attributes:
        kind: Missing, corrupt, or in clear although the saver has a cipher.
        reason: What is wrong.
        channel: The channel.
        step: The frame, as one of its users refers to it.
        writer: The id of the checkpoint that wrote the frame.
        users: Documents of the checkpoints whose values need it, newest first.
    """

    kind: Kind
    reason: str
    channel: str
    step: Step
    writer: str
    users: dict[str, None] = field(default_factory=dict)

    @property
    def oldest(self) -> str:
        """The oldest of its users."""
        return next(reversed(self.users))


@record(frozen=True, slots=True)
class Unreadable:
    """A damaged document."""

    doc: Doc
    damage: DamagedError


@dataclass(slots=True)
class Survey:
    """Everything that a thread stores.

    Attributes:
        thread_id: The thread.
        thread: Its document.
        order: Names of the documents of checkpoints, newest first.
        entries: Readable checkpoints, by document name.
        unreadable: Documents of checkpoints with a damaged manifest, by name.
        inner: Bytes of frames in each document, including stripped ones.
        stripped: Documents that have only their frames left.
        writes: Documents of pending writes, without their fields, and the objects that each refers to.
        clear_writes: Readable documents of pending writes that the cipher does not vouch for.
        damaged_writes: Damaged documents of pending writes, by name.
        plain: Documents of plain collections, without their fields, and the objects that each refers to.
        damaged_plain: Damaged documents of plain collections, by name.
        blobs: All objects.
        copies: In a store with a mirror, those objects whose copies are not alike, and that something refers to.
        broken: Frames that do not give their value.
        left_clear: With a cipher, documents with frames in clear that no checkpoint refers to. They are from before the
            checkpoint was stored again.
        hints: Fields for queries that differ from the manifest, by document name, with the right values.
        exposed: Keys in the field `filter` that differ from the metadata, and that the saver must not correct, by
            document name. With a cipher it writes only what `clear_metadata` names in clear.
        lost: Checkpoints with a child that is newer than all of their namespace, and missing; and the child's id.
        severed: Missing ancestors that DeltaChannels are made of, by their documents' names, with the documents of the
            checkpoints that need them.
        unheld: Missing checkpoints that documents of plain collections need, by their documents' names, with these
            documents and the reason.
        trees: The documents of blobs that list other blobs.
        unblobbed: Missing documents of blobs, by name, with the documents of the checkpoints whose values name them.
        runs: The runs whose documents are missing, or name another run or thread, by document name.
        misnamed: Those of these documents that exist.
        emptied: Whether the root namespace had checkpoints, and all are missing.
        headless: Whether it has checkpoints, and its own document is missing.
        fence: What is wrong with the fence of the thread's lease, if anything.
        is_abandoned: Whether the thread has the mark of a deletion that crashed or never began.
        unreferenced: Orphans: objects and stripped documents that nothing refers to.
    """

    thread_id: str
    thread: Doc | None = None
    order: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    inner: dict[str, int] = field(default_factory=dict)
    stripped: dict[str, Doc] = field(default_factory=dict)
    writes: dict[str, tuple[Doc, dict[str, Stub]]] = field(default_factory=dict)
    clear_writes: list[str] = field(default_factory=list)
    damaged_writes: dict[str, Unreadable] = field(default_factory=dict)
    plain: dict[str, tuple[Doc, dict[str, Stub]]] = field(default_factory=dict)
    damaged_plain: dict[str, Unreadable] = field(default_factory=dict)
    blobs: dict[str, BlobInfo] = field(default_factory=dict)
    copies: dict[str, Copies] = field(default_factory=dict)
    broken: dict[Place, Broken] = field(default_factory=dict)
    left_clear: list[str] = field(default_factory=list)
    hints: dict[str, dict[str, Any]] = field(default_factory=dict)
    exposed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    severed: dict[str, list[str]] = field(default_factory=dict)
    unheld: dict[str, tuple[Doc, str]] = field(default_factory=dict)
    trees: set[str] = field(default_factory=set)
    unblobbed: dict[str, list[str]] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    misnamed: set[str] = field(default_factory=set)
    emptied: bool = False
    headless: bool = False
    fence: str | None = None
    is_abandoned: bool = False
    unreferenced: list[str] = field(default_factory=list)

    @property
    def documents(self) -> int:
        """The number of documents that were read: the thread's own, and those of its collections."""
        groups = self.order, self.stripped, self.writes, self.damaged_writes, self.plain, self.damaged_plain
        return sum(map(len, groups)) + (self.thread is not None)

    @property
    def deleting(self) -> bool:
        """Whether the thread is marked as being deleted."""
        return self.thread is not None and "deleting" in self.thread.fields

    @property
    def names_another(self) -> bool:
        """Whether the thread's document names another thread."""
        return self.thread is not None and self.thread.fields.get("thread_id") != self.thread_id

    def damaged_channels(self, name: str) -> dict[str, Broken]:
        """The unreadable channels of a checkpoint, each with its first broken frame."""
        known = self.entries[name].manifest
        found = {}
        for channel in known.channels:
            for step in known.steps(channel):
                broken = self.broken.get(step.place)
                # Another manifest may decode the same frame on another base. Its damage does not concern this one.
                if broken is not None and name in broken.users:
                    found[channel] = broken
                    break
        return found

    def deltas(self) -> dict[str, set[str]]:
        """The DeltaChannels of each namespace."""
        found: dict[str, set[str]] = {}
        for entry in self.entries.values():
            found.setdefault(entry.manifest.ns, set()).update(entry.deltas)
        return found

    def referenced(self) -> set[str]:
        """Names of all documents and objects that something refers to."""
        return {name for _, names in self._references() for name in names}

    def referrers(self, names: Collection[str]) -> dict[str, dict[str, Doc]]:
        """The documents that refer to each of some objects, by name."""
        found: dict[str, dict[str, Doc]] = {name: {} for name in names}
        for doc, referenced in self._references():
            for name in found.keys() & referenced:
                found[name][doc.name] = doc
        return found

    def _references(self) -> Iterator[tuple[Doc, AbstractSet[str]]]:
        """Each document, and what it refers to."""
        for entry in self.entries.values():
            found = {step.name for channel in entry.manifest.channels for step in entry.manifest.steps(channel)}
            yield entry.doc, found if entry.blob is None else {*found, entry.blob}
        for doc, stubs in (*self.writes.values(), *self.plain.values()):
            yield doc, stubs.keys()

    def clear(self) -> Counter[tuple[str, str]]:
        """How many documents the cipher does not vouch for, by encoded namespace and checkpoint."""
        found = Counter(
            (keys.ns_segment_of(name), entry.manifest.checkpoint_id)
            for name, entry in self.entries.items()
            if entry.is_clear
        )
        found.update((keys.writes_ns_of(name), keys.writes_checkpoint_id_of(name)) for name in self.clear_writes)
        return found

    def findings(self) -> list[Finding]:
        """All findings."""
        make = partial(Finding, thread_id=self.thread_id)
        found: list[Finding] = []
        for name, one in (self.unreadable | self.damaged_writes).items():
            ns, checkpoint_id = self._ids(name)
            found.append(
                make(
                    kind=one.damage.kind,
                    checkpoint_ns=ns,
                    checkpoint_id=checkpoint_id,
                    name=one.damage.frame or name,
                    reason=one.damage.reason,
                    affects=(checkpoint_id,),
                )
            )
        for name, one in self.damaged_plain.items():
            found.append(make(kind=one.damage.kind, name=one.damage.frame or name, reason=one.damage.reason))
        for broken in self.broken.values():
            affects = tuple(keys.checkpoint_id_of(user) for user in broken.users)
            found.append(
                make(
                    kind=broken.kind,
                    checkpoint_ns=self._ids(broken.oldest)[0],
                    checkpoint_id=broken.writer,
                    channel=broken.channel,
                    name=broken.step.name,
                    reason=broken.reason,
                    affects=affects,
                )
            )
        for name in self.left_clear:
            ns, checkpoint_id = self._ids(name)
            found.append(
                make(kind="clear", checkpoint_ns=ns, checkpoint_id=checkpoint_id, name=name, reason=LEFT_CLEAR)
            )
        for name, right in self.hints.items():
            ns, checkpoint_id = self._ids(name)
            reason = f"{' and '.join(sorted(right))} differ from the manifest: a query may not find it"
            found.append(make(kind="corrupt", checkpoint_ns=ns, checkpoint_id=checkpoint_id, name=name, reason=reason))
        for name, exposed in self.exposed.items():
            ns, checkpoint_id = self._ids(name)
            reason = f"filter differs from the metadata in {', '.join(map(repr, exposed))}: a query may not find it"
            found.append(make(kind="corrupt", checkpoint_ns=ns, checkpoint_id=checkpoint_id, name=name, reason=reason))
        for name, heir in self.lost.items():
            ns, parent = self._ids(name)
            found.append(
                make(
                    kind="missing",
                    checkpoint_ns=ns,
                    checkpoint_id=heir,
                    name=keys.checkpoint_doc(self.thread_id, ns, heir),
                    reason=f"it was stored as the child of {parent!r}, and is missing",
                    affects=(heir,),
                )
            )
        for name, users in self.severed.items():
            found.append(
                make(
                    kind="missing",
                    checkpoint_ns=self._ids(users[0])[0],
                    checkpoint_id=keys.checkpoint_id_of(name),
                    name=name,
                    reason=LOST_ANCESTOR,
                    affects=tuple(map(keys.checkpoint_id_of, users)),
                )
            )
        for name, (_, why) in self.unheld.items():
            checkpoint_id = keys.checkpoint_id_of(name)
            found.append(
                make(
                    kind="missing",
                    checkpoint_ns="",
                    checkpoint_id=checkpoint_id,
                    name=name,
                    reason=f"{why}, and it is missing",
                    affects=(checkpoint_id,),
                )
            )
        for name, users in self.unblobbed.items():
            found.append(
                make(
                    kind="missing",
                    checkpoint_ns=self._ids(users[0])[0],
                    checkpoint_id=keys.checkpoint_id_of(users[0]),
                    name=name,
                    reason=LOST_BLOB,
                    affects=tuple(map(keys.checkpoint_id_of, users)),
                )
            )
        for name in self.runs:
            if name in self.misnamed:
                found.append(make(kind="corrupt", name=name, reason="it names another run or thread"))
            else:
                reason = "the run wrote to the thread, and delete_for_runs would not find it"
                found.append(make(kind="missing", name=name, reason=reason))
        if self.emptied:
            reason = "the root namespace had checkpoints, and all are missing"
            found.append(make(kind="missing", name=keys.checkpoints(self.thread_id), reason=reason))
        if self.headless:
            reason = "the thread's own document is missing; the next checkpoint recreates it"
            found.append(make(kind="missing", name=keys.thread_doc(self.thread_id), reason=reason))
        if self.names_another:
            found.append(make(kind="corrupt", name=keys.thread_doc(self.thread_id), reason="it names another thread"))
        if self.is_abandoned:
            found.append(make(kind="corrupt", name=keys.thread_doc(self.thread_id), reason=MARKED))
        if self.fence is not None:
            found.append(make(kind="corrupt", name=keys.fence_doc(self.thread_id), reason=self.fence))
        found += unmirrored.findings(self.thread_id, self.copies)
        found += [make(kind="unreferenced", name=name, reason="nothing refers to it") for name in self.unreferenced]
        return found

    def _ids(self, name: str) -> tuple[str, str]:
        if f"/{keys.WRITES}/" in name:
            return self.ns_of(keys.writes_ns_of(name)), keys.writes_checkpoint_id_of(name)
        return self.ns_of(keys.ns_segment_of(name)), keys.checkpoint_id_of(name)

    def ns_of(self, segment: str) -> str:
        """The namespace that a segment of a name stands for; the segment itself if the namespace is unknown."""
        return keys.told_id(segment, (entry.manifest.ns for entry in self.entries.values()))


def survey(thread_id: str, depth: Depth, loads: Loads, context: Context) -> Flow[Survey]:
    """Look at everything that a thread stores. If anything is wrong, look again: only what stays wrong is damage.

    This waits for a deletion of the thread, as writers do. The mark of one that has crashed is damage.

    Raises:
        WrongKeyError: It is encrypted with another key, or the saver has none.
        UnsupportedFormatError: A newer version wrote some of it, or has added a collection to it.
        SerializationError: The serializer cannot read metadata that it once wrote.
        WrongStoreError: Objects are missing because the store was bound to another place since.
    """
    before: set[tuple[str, str, str, str]] = set()
    crashed: str | None = None
    for _ in range(LOOKS):
        found = yield from _look(thread_id, depth, loads, context)
        if found.thread is not None and found.deleting:
            found.is_abandoned = mark_of(found.thread) == crashed
            if not found.is_abandoned:
                docs = yield from unmarked(thread_id, context, removes=False)
                crashed = mark_of(docs[found.thread.name]) if found.thread.name in docs else None
                continue
        damage = {(str(one.kind), one.name, one.channel or "", one.reason) for one in found.findings() if one.is_damage}
        if not before:
            yield from recheck(context, is_missing=any(kind == "missing" for kind, *_ in damage))
        if damage == before:
            break
        before = damage
    return found


def _look(thread_id: str, depth: Depth, loads: Loads, context: Context) -> Flow[Survey]:
    found = Survey(thread_id)
    if depth != "metadata":
        # Objects are listed before documents. Otherwise objects of checkpoints stored meanwhile would look orphaned.
        yield from _list_objects(found, context)
    for collection, take in ((keys.checkpoints(thread_id), _take_checkpoint), (keys.writes(thread_id), _take_writes)):
        after: str | None = None
        while docs := (yield from QueryDocs(collection, after=after, limit=DOCS_PER_PAGE)):
            for doc in docs:
                yield from take(found, doc, loads, context)
            after = docs[-1].name
    yield from _take_plain(found, (yield from _list_plain(thread_id)), context)
    yield from _look_at_blobs(found, context)
    yield from _look_at_thread(found)
    if depth != "metadata":
        yield from _look_at_objects(found, depth, context)
    yield from _look_at_frames(found, depth)
    if depth == "data":
        yield from _decode_all(found, context)
        yield from _look_at_rests(found, context)
    yield from _confirm(found)
    yield from _find_unreferenced(found, depth, loads, context)
    return found


def _list_objects(found: Survey, context: Context) -> Flow[None]:
    prefix = keys.thread_blobs(found.thread_id)
    if not context.is_mirrored:
        found.blobs.update((yield from list_all(prefix)))
        return
    for name, copies in (yield from unmirrored.list_copies(prefix)).items():
        info = copies.first or copies.mirror
        if info is not None:
            found.blobs[name] = info
        if not copies.are_alike:
            found.copies[name] = copies


# Documents


def _take_checkpoint(found: Survey, doc: Doc, loads: Loads, context: Context) -> Flow[None]:
    found.inner[doc.name] = len(manifest.inner_frames(doc))
    bare = replace(doc, fields={key: doc.fields[key] for key in _FIELDS if key in doc.fields})
    if kind_of(doc) is DocumentKind.STRIPPED:
        found.stripped[doc.name] = bare
        return
    found.order.append(doc.name)
    try:
        known, blob = yield from locate_manifest(doc, context.codec)
        metadata = metadata_of(known, loads)
        with suppress(SerializationError):  # A survey does not check whether the serializer can read the values.
            rest_of(known, loads)
    except DamagedError as damage:
        found.unreadable[doc.name] = Unreadable(bare, damage.alone())
        return
    deltas, written = metadata.get(DELTA_COUNTERS) or (), known.checkpoint.get("channel_versions", ())
    is_clear = not context.codec.vouches_for(doc.fields["manifest"])
    found.entries[doc.name] = Entry(bare, known.outline(), blob, frozenset(deltas), frozenset(written), is_clear)
    kept = doc.fields.get("filter")
    there = kept if isinstance(kept, Mapping) else {}
    right = filters.index(metadata)
    # The index of an object, such as an enum's number, depends on its class. A serializer that does not import the
    # class cannot check it.
    unknown = {key for key, value in metadata.items() if isinstance(value, Stored)}
    right |= {key: there[key] for key in unknown if key in there}
    if (clear := context.clear_metadata) is not None:
        # The checkpoint may have been stored with other names in `clear_metadata`, but its filter must be right. Keys
        # that are not in clear now stay as they are, right or wrong. Otherwise an attacker who added a key could learn
        # from its correction.
        others = there.keys() - clear
        wrong_ones = sorted(key for key in others if key not in right or not _same(there[key], right[key]))
        if wrong_ones:
            found.exposed[doc.name] = tuple(wrong_ones)
        right = {key: there[key] if key in others else right[key] for key in there if key in others or key in right}
    run_id = metadata.get("run_id")
    wanted = {"filter": right or None, "run_id": run_id if isinstance(run_id, str) else None}
    wrong = {key: value for key, value in wanted.items() if not _same(doc.fields.get(key), value)}
    if wrong:
        found.hints[doc.name] = wrong


def _same(found: Any, right: Any) -> bool:
    """Whether both are the same to a query, for which a boolean is not a number."""
    if isinstance(found, Mapping) and isinstance(right, Mapping):
        return found.keys() == right.keys() and all(_same(found[key], value) for key, value in right.items())
    return isinstance(found, bool) == isinstance(right, bool) and bool(found == right)


def _take_writes(found: Survey, doc: Doc, _loads: Loads, context: Context) -> Flow[None]:
    bare = replace(doc, fields={})  # A thread may have thousands, so their content is read again where it is needed.
    try:
        stubs = yield from read_stubs(doc, context.codec)
    except DamagedError as damage:
        found.damaged_writes[doc.name] = Unreadable(bare, damage.alone())
    else:
        found.writes[doc.name] = bare, stubs
        if is_clear(doc, context.codec):
            found.clear_writes.append(doc.name)


def _list_plain(thread_id: str) -> Flow[list[Listed]]:
    return (yield from list_docs(keys.thread_doc(thread_id), lambda entry: entry.is_plain and entry.is_read))


def _take_plain(found: Survey, listed: Sequence[Listed], context: Context) -> Flow[None]:
    for page in pages(listed):
        for entry, doc in (yield from read_docs(page)):
            bare = replace(doc, fields={})
            try:
                found.plain[doc.name] = bare, (yield from objects_of(entry, doc, context))
                if entry.id == keys.BLOBS and blobs.files(doc, context.codec):
                    found.trees.add(doc.name)
                for one, why in ({} if entry.needed is None else entry.needed(doc, context.codec)).items():
                    name = keys.checkpoint_doc(found.thread_id, "", one)
                    if name not in found.entries and name not in found.unreadable:
                        found.unheld[name] = bare, why
            except DamagedError as damage:
                found.damaged_plain[doc.name] = Unreadable(bare, damage.alone())


def _look_at_blobs(found: Survey, context: Context) -> Flow[None]:
    """Look for missing documents of blobs that values name. Without the thread's key, none of them can be found."""
    users: dict[str, list[str]] = {}
    for name, entry in found.entries.items():
        for digest in entry.manifest.listed_blobs:
            users.setdefault(digest, []).append(name)
    key = keys.blob_key_doc(found.thread_id)
    if not users or key in found.damaged_plain:
        return
    doc = (yield from GetDocs((key,))).get(key)
    if doc is None:
        found.unblobbed[key] = sorted({name for some in users.values() for name in some})
        return
    try:
        digits = blobs.parse_key(doc, context.codec)
    except DamagedError as damage:
        found.damaged_plain[key] = Unreadable(replace(doc, fields={}), damage.alone())
        return
    listed = {keys.blob_doc(found.thread_id, blobs.id_of(digits, digest)): names for digest, names in users.items()}
    missing = {name: set(names) for name, names in listed.items() if not _is_there(found, name)}
    for page in in_batches(listed.keys() & found.trees, lambda _: 0, most=DOCS_PER_PAGE, most_bytes=0):
        for tree in (yield from GetDocs(tuple(page))).values():
            try:
                files = blobs.files(tree, context.codec)
            except DamagedError as damage:
                found.damaged_plain[tree.name] = Unreadable(replace(tree, fields={}), damage.alone())
                continue
            for name in (keys.blob_doc(found.thread_id, one) for one in files):
                if not _is_there(found, name):
                    missing.setdefault(name, set()).update(listed[tree.name])
    found.unblobbed = {name: sorted(names) for name, names in missing.items()}


def _is_there(found: Survey, name: str) -> bool:
    return name in found.plain or name in found.damaged_plain


def _look_at_thread(found: Survey) -> Flow[None]:
    """Look at the documents of the thread and of its runs, and for children that are missing."""
    name = keys.thread_doc(found.thread_id)
    runs = {keys.run_doc(run, found.thread_id): run for doc_name in found.entries for run in _runs(found, doc_name)}
    newest: dict[str, str] = {}
    for doc_name in found.order:
        newest.setdefault(keys.ns_segment_of(doc_name), keys.checkpoint_id_of(doc_name))
    # The newest checkpoint of a namespace may be a fork of any other.
    heirs = {
        doc_name: heir
        for doc_name, entry in found.entries.items()
        if (heir := heir_of(entry.doc)) is not None and heir > newest[keys.ns_segment_of(doc_name)]
    }
    children = {
        doc_name: keys.checkpoint_doc(found.thread_id, found.entries[doc_name].manifest.ns, heir)
        for doc_name, heir in heirs.items()
    }
    docs = yield from _get({*children.values(), *runs}, ("run_id", "thread_id"))
    fence = keys.fence_doc(found.thread_id)
    thread, ids = yield from Gather((GetDocs((name, fence)), ListCollections(name)))
    registry.check(found.thread_id, ids)
    found.thread = thread.get(name)
    found.fence = faults(thread.get(fence))
    for user, ancestor in lost_ancestors(map(_row, found.entries.values())).items():
        lost = keys.checkpoint_doc(found.thread_id, found.entries[user].manifest.ns, ancestor)
        if lost not in found.unreadable:
            found.severed.setdefault(lost, []).append(user)
    if found.deleting:
        return  # A deletion removes runs and children first. The finding about its mark covers what is missing.
    written = {name: {"run_id": run, "thread_id": found.thread_id} for name, run in runs.items()}
    found.runs = {name: run for name, run in runs.items() if name not in docs or docs[name].fields != written[name]}
    found.misnamed = found.runs.keys() & docs.keys()
    # As in a read, a stripped child counts as missing.
    found.lost = {
        doc_name: heir
        for doc_name, heir in heirs.items()
        if children[doc_name] not in docs or children[doc_name] in found.stripped
    }
    # Pending writes may be stored before any checkpoint, without a thread's document.
    found.headless = found.thread is None and bool(found.order)
    found.emptied = found.thread is not None and found.thread.fields.get("root") is True and keys.enc("") not in newest


def _runs(found: Survey, name: str) -> set[str]:
    """The runs that wrote a readable checkpoint, by its manifest and the hint of former ones."""
    doc = found.entries[name].doc
    return runs_of(replace(doc, fields={**doc.fields, **found.hints.get(name, {})}))


def _row(entry: Entry) -> Row:
    ns, checkpoint_id = entry.ids
    stored = frozenset(entry.manifest.channels)
    return Row(
        name=entry.doc.name,
        ns=ns,
        checkpoint_id=checkpoint_id,
        parent_id=entry.manifest.parent_id,
        stored=stored,
        deltas=(entry.deltas & entry.written) - stored,
        versions=entry.written,
    )


def _get(names: Iterable[str], mask: tuple[str, ...] | None) -> Flow[dict[str, Doc]]:
    wanted = list(names)
    found: dict[str, Doc] = {}
    for at in range(0, len(wanted), _NAMES_PER_PAGE):
        found.update((yield from GetDocs(tuple(wanted[at : at + _NAMES_PER_PAGE]), mask)))
    return found


# Objects and frames


def _look_at_objects(found: Survey, depth: Depth, context: Context) -> Flow[None]:
    for docs, damaged in ((found.writes, found.damaged_writes), (found.plain, found.damaged_plain)):
        for name, (doc, stubs) in docs.items():
            damage = yield from _wrong_objects(found, stubs, depth, context)
            if damage is not None:
                damaged[name] = Unreadable(doc, damage)


def _wrong_objects(
    found: Survey, stubs: Mapping[str, Stub], depth: Depth, context: Context
) -> Flow[DamagedError | None]:
    for blob, stub in stubs.items():
        infos = yield from _infos(found, blob)
        if not infos:
            return DamagedError("an object is missing", frame=blob, missing=True)
        if all(info.size != stub.stored for info in infos):
            return DamagedError(f"the object has {infos[0].size} bytes, not as many as were written", frame=blob)
        if depth == "data" and (damage := (yield from damage_of(blob, stub, context))) is not None:
            return damage
    return None


def damage_of(name: str, stub: Stub, context: Context) -> Flow[DamagedError | None]:
    """What is wrong with an object that a stub refers to, if anything."""
    try:
        yield from read_object(name, stub, partial(_open, name, stub, context))
    except DamagedError as damage:
        return damage.alone()
    return None


def _open(name: str, stub: Stub, context: Context, stored: bytes | None) -> bool:
    """Open an object.

    Raises:
        DamagedError: It is missing or differs.
    """
    try:
        frames.open_envelope(open_stub(name, stub, stored, context.codec))
    except FrameError as error:
        raise DamagedError(f"an envelope is {error}", frame=name, clear=error.clear) from None
    return True


def _infos(found: Survey, name: str) -> Flow[list[BlobInfo]]:
    """An object as it was listed, or as it is now; two, if its copies are not alike; none if it does not exist."""
    if name in found.copies:
        copies = found.copies[name]
        return [info for info in (copies.first, copies.mirror) if info is not None]
    if name not in found.blobs:
        yield from _list_one(found, name, checksums=False)
    return [found.blobs[name]] if name in found.blobs else []


def _checksum(found: Survey, name: str) -> Flow[str | None]:
    """The checksum of a listed object, which some stores must read the object for; `None` if it no longer exists."""
    if found.blobs[name].crc32c is None:
        yield from _list_one(found, name, checksums=True)
    return found.blobs[name].crc32c


def _list_one(found: Survey, name: str, *, checksums: bool) -> Flow[None]:
    effect = ListBlobs(name, limit=1, checksums=checksums)
    found.blobs.update({info.name: info for info in (yield from effect) if info.name == name})


def _look_at_frames(found: Survey, depth: Depth) -> Flow[None]:
    """Check whether each frame is where its refs say."""
    whole: set[Place] = set()
    for name, entry in found.entries.items():
        for channel in entry.manifest.channels:
            for step in entry.manifest.steps(channel):
                broken = found.broken.get(step.place)
                if broken is None and step.place not in whole:
                    wrong = yield from _wrong(found, step, depth)
                    if wrong is None:
                        whole.add(step.place)
                        continue
                    writer = step.frame.owner or entry.manifest.checkpoint_id
                    broken = found.broken[step.place] = Broken(*wrong, channel, step, writer)
                if broken is not None:
                    broken.users[name] = None
                    break


def _wrong(found: Survey, step: Step, depth: Depth) -> Flow[tuple[Kind, str] | None]:
    frame = step.frame
    if frame.attempt is None:
        if step.name not in found.inner:
            return "missing", "the document that holds a frame is missing"
        cut = frame.at + frame.stored > found.inner[step.name]
        return ("corrupt", "the frames in the document are cut off") if cut else None
    if depth == "metadata":
        return None
    infos = yield from _infos(found, step.name)
    if not infos:
        return "missing", "the object that holds a frame is missing"
    end = frame.at + frame.stored
    whole = [info for info in infos if (info.size >= end if frame.packed else info.size == frame.stored)]
    if not whole:
        return "corrupt", f"the object has {infos[0].size} bytes, not as many as were written"
    if frame.crc32c is None or any(info.crc32c == frame.crc32c for info in whole):
        return None
    if frame.crc32c != (yield from _checksum(found, step.name)):
        return "corrupt", "the object's checksum differs"
    return None


def _decode_all(found: Survey, context: Context) -> Flow[None]:
    """Decode every value, oldest checkpoint first, so that the values that others build on are still in memory."""
    fresh = replace(context, values=ByteCache(_CACHE_BYTES))
    for batch in _batches(found):
        items = []
        for name in batch:
            entry = found.entries[name]
            bad = found.damaged_channels(name)
            good = {channel: ref for channel, ref in entry.manifest.channels.items() if channel not in bad}
            items.append(Found(entry.doc, replace(entry.manifest, channels=good)))
        damaged = yield from damaged_values(items, fresh)
        # A mismatch is read again, from each bucket, and only one that stays is damage.
        for _ in range(2 if context.is_mirrored else 1):
            names = {name for name, _, _ in damaged}
            damaged = yield from damaged_values([item for item in items if item.doc.name in names], fresh)
        for name, channel, damage in damaged:
            steps = found.entries[name].manifest.steps(channel)
            step = next((s for s in steps if s.place[:2] == (damage.frame, damage.at)), steps[-1] if steps else None)
            if step is None:
                found.unreadable[name] = Unreadable(found.entries.pop(name).doc, damage)
                break
            writer = step.frame.owner or keys.checkpoint_id_of(name)
            broken = found.broken.setdefault(step.place, Broken(damage.kind, damage.reason, channel, step, writer))
            broken.users[name] = None
    for broken in found.broken.values():
        broken.users = dict.fromkeys(sorted(broken.users))  # in the order of documents


def _batches(found: Survey) -> Iterator[list[str]]:
    """Checkpoints in batches, oldest first."""
    names = (name for name in reversed(found.order) if name in found.entries)
    return in_batches(names, lambda name: found.entries[name].manifest.held, most=_TOGETHER, most_bytes=_TOGETHER_BYTES)


def damaged_values(items: list[Found], fresh: Context) -> Flow[list[tuple[str, str, DamagedError]]]:
    """Fetch and decode values, and return the damaged ones: the checkpoint's document, the channel, and the damage."""
    if not items:
        return []
    sources = Sources(items, fresh)
    sources.fill((yield from Gather(tuple(sources.fetches()))))
    size = sum(item.manifest.size for item in items)
    damaged = yield from Compute(partial(_decode, items, sources), size=size)
    yield from report_clear(fresh.codec)
    return damaged


def _decode(items: list[Found], sources: Sources) -> list[tuple[str, str, DamagedError]]:
    tried = [(item, channel, _try(item, channel, sources)) for item in items for channel in item.manifest.channels]
    return [(item.doc.name, channel, damage) for item, channel, damage in tried if damage is not None]


def _try(item: Found, channel: str, sources: Sources) -> DamagedError | None:
    try:
        sources.plain(item.manifest, channel)
    except DamagedError as damage:
        return damage.alone()
    return None


def _look_at_rests(found: Survey, context: Context) -> Flow[None]:
    """Find documents with bytes in clear that no checkpoint refers to, and that decoding therefore cannot find.

    If a checkpoint cannot be read, its refs are unknown. Then only that is reported.
    """
    if context.codec.cipher is None or context.codec.accept_clear or found.unreadable:
        return
    used: dict[str, set[tuple[int, int]]] = {name: set() for name, size in found.inner.items() if size}
    for entry in found.entries.values():
        for channel in entry.manifest.channels:
            for step in entry.manifest.steps(channel):
                if step.frame.attempt is None and step.name in used:
                    used[step.name].add((step.frame.at, step.frame.at + step.frame.stored))
    rests = {name: _gaps(sorted(parts), found.inner[name]) for name, parts in used.items()}
    names = [name for name, starts in rests.items() if starts]
    for batch in in_batches(names, lambda name: found.inner[name], most=DOCS_PER_PAGE, most_bytes=_TOGETHER_BYTES):
        docs = yield from GetDocs(tuple(batch), mask=("frames",))
        for name, doc in docs.items():
            seen = found.entries[name].doc if name in found.entries else found.stripped[name]
            inner = manifest.inner_frames(doc)
            # A document that has changed since is left to its writer.
            if doc.update_time == seen.update_time and not all(
                frames.is_encrypted(inner[at : at + 1]) for at in rests[name]
            ):
                found.left_clear.append(name)


def _gaps(parts: list[tuple[int, int]], size: int) -> list[int]:
    """Where each gap between parts begins. The parts are in order."""
    starts, end = [], 0
    for start, stop in [*parts, (size, size)]:
        if start > end:
            starts.append(end)
        end = max(end, stop)
    return starts


# Looking again


def _confirm(found: Survey) -> Flow[None]:
    """Drop findings about data that was changed or deleted since it was read."""
    users = {user for broken in found.broken.values() for user in broken.users}
    if found.runs or found.headless:
        users.update(found.entries)
    kept = yield from _unchanged(found, users)
    for place, broken in list(found.broken.items()):
        broken.users = {user: None for user in broken.users if user in kept}
        if not broken.users:
            del found.broken[place]
    for group in (found.unreadable, found.damaged_writes, found.damaged_plain):
        now = yield from _get(group, ())
        for name, one in list(group.items()):
            if name not in now or now[name].update_time != one.doc.update_time:
                del group[name]
    # A deletion removes the documents of the runs and of the thread with the last checkpoint that needs them, or later.
    # So what is missing is damage if such a checkpoint was there before it was looked up, and still is.
    if found.runs:
        named = {run for name in kept for run in _runs(found, name)}
        found.runs = {name: run for name, run in found.runs.items() if run in named}
        found.misnamed &= found.runs.keys()
    found.headless = found.headless and bool(kept or found.unreadable)
    if found.emptied and found.thread is not None:
        root = yield from QueryDocs(keys.checkpoints(found.thread_id), (("ns", keys.enc("")),), limit=1, mask=())
        now = yield from _get((found.thread.name,), ())
        found.emptied = not root and [doc.update_time for doc in now.values()] == [found.thread.update_time]
    if found.severed:
        names = {name for user_names in found.severed.values() for name in user_names} | found.severed.keys()
        now = yield from _get(sorted(names), manifest.LISTED_BY)
        there = {name for name, doc in now.items() if kind_of(doc) is DocumentKind.CHECKPOINT}
        still = there & found.entries.keys()
        severed = {name: [user for user in some if user in still] for name, some in found.severed.items()}
        found.severed = {name: some for name, some in severed.items() if some and name not in there}
    if found.unheld:
        now = yield from _get({*found.unheld, *(doc.name for doc, _ in found.unheld.values())}, manifest.LISTED_BY)
        there = {name for name, doc in now.items() if kind_of(doc) is DocumentKind.CHECKPOINT}
        times = {name: doc.update_time for name, doc in now.items()}
        found.unheld = {
            name: (doc, why)
            for name, (doc, why) in found.unheld.items()
            if name not in there and times.get(doc.name) == doc.update_time
        }
    if found.unblobbed:
        now = yield from _get(found.unblobbed, ())
        still = yield from _unchanged(found, {name for names in found.unblobbed.values() for name in names})
        left = {name: [user for user in names if user in still] for name, names in found.unblobbed.items()}
        found.unblobbed = {name: names for name, names in left.items() if names and name not in now}
    if found.copies:
        yield from _confirm_copies(found)
    if found.lost:
        found.lost = {name: heir for name, heir in found.lost.items() if name in found.entries}
        now = yield from _get(found.lost, ())
        times = {name: found.entries[name].doc.update_time for name in found.lost}
        kept = {name for name, time in times.items() if name in now and now[name].update_time == time}
        found.lost = {name: heir for name, heir in found.lost.items() if name in kept}


def _confirm_copies(found: Survey) -> Flow[None]:
    """Keep the copies that are still not alike, of objects that a document still refers to.

    A deletion removes the documents before the objects, and objects are stored in both buckets before the documents. So
    what is seen of these two is not a finding.
    """
    copies = yield from unmirrored.still_unlike(found.copies.keys() & found.referenced())
    referrers = found.referrers(copies)
    now = yield from _get({doc for docs in referrers.values() for doc in docs}, ())
    found.copies = {name: one for name, one in copies.items() if unmirrored.is_needed(referrers[name], now)}


def _unchanged(found: Survey, names: Iterable[str]) -> Flow[set[str]]:
    """The readable checkpoints among `names` that were neither stored again nor deleted since they were read.

    They may have got children. A checkpoint that was deleted and stored again may have the same content.
    """
    known = {name: found.entries[name].doc for name in sorted(names) if name in found.entries}
    now = yield from _get(known, ("digest",))
    return {name for name, doc in known.items() if name in now and _version(now[name]) == _version(doc)}


def _version(doc: Doc) -> tuple[int, Any]:
    return doc.create_time, doc.fields.get("digest")


def _find_unreferenced(found: Survey, depth: Depth, loads: Loads, context: Context) -> Flow[None]:
    """Find the orphans: nothing refers to them, neither documents as read, nor those created or changed since."""
    found.unreferenced = sorted((found.blobs.keys() | found.stripped.keys()) - found.referenced())
    if not found.unreferenced:
        return
    known = {name: entry.doc.update_time for name, entry in found.entries.items()}
    known.update({name: doc.update_time for name, doc in found.stripped.items()})
    known.update({name: one.doc.update_time for name, one in found.unreadable.items()})
    known.update({name: doc.update_time for name, (doc, _) in found.writes.items()})
    known.update({name: one.doc.update_time for name, one in found.damaged_writes.items()})
    known.update({name: doc.update_time for name, (doc, _) in found.plain.items()})
    known.update({name: one.doc.update_time for name, one in found.damaged_plain.items()})
    later = Survey(found.thread_id)
    for collection, take in (
        (keys.checkpoints(found.thread_id), _take_checkpoint),
        (keys.writes(found.thread_id), _take_writes),
    ):
        after: str | None = None
        while docs := (yield from QueryDocs(collection, after=after, limit=_NAMES_PER_PAGE, mask=())):
            new = [doc.name for doc in docs if known.get(doc.name) != doc.update_time]
            for doc in (yield from GetDocs(tuple(new))).values() if new else ():
                yield from take(later, doc, loads, context)
            after = docs[-1].name
    plain = yield from _list_plain(found.thread_id)
    new_plain = [(entry, doc) for entry, doc in plain if known.get(doc.name) != doc.update_time]
    yield from _take_plain(later, new_plain, context)
    there = set(found.stripped)
    if depth != "metadata":
        there.update((yield from list_all(keys.thread_blobs(found.thread_id))))
    # The refs of an unreadable document are unknown. A manifest may refer to anything that its ancestors wrote.
    spaces = {keys.ns_segment_of(name) for name in found.unreadable | later.unreadable}
    owners = {
        (keys.writes_ns_of(name), keys.enc(keys.writes_checkpoint_id_of(name)))
        for name in found.damaged_writes | later.damaged_writes
    }
    hides_any = bool(found.damaged_plain or later.damaged_plain)
    referenced = later.referenced()
    found.unreferenced = [
        name
        for name in found.unreferenced
        if name in there
        and name not in referenced
        and (keys.ns_segment_of(name) if name in found.stripped else keys.blob_owner(name)[0]) not in spaces
        and (name in found.stripped or not (hides_any or keys.blob_owner(name) in owners))
    ]
