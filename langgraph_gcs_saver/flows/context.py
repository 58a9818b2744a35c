"""What the flows of one saver share: options, and caches whose content may be dropped at any time."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from langgraph_gcs_saver.engine.effects import Doc, PutBlob
from langgraph_gcs_saver.engine.pieces import Pieces
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.companions import NO_COMPANIONS, Attempt, Companion, Companions
from langgraph_gcs_saver.flows.fences import Fence, Fences, fence_of
from langgraph_gcs_saver.flows.roles import Region
from langgraph_gcs_saver.format.chains import MIN_BYTES
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec, is_encrypted
from langgraph_gcs_saver.format.manifest import Manifest, Serialized, heir_of
from langgraph_gcs_saver.policy.namespaces import ByNamespace
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph_gcs_saver.flows.writes import Opened

Loads = Callable[[Serialized], object]
"""Deserializes a value."""

ATTEMPT_DEADLINE_SECONDS = 3600.0
"""An attempt whose uploads took longer than this starts over instead of committing.

A frozen Cloud Run instance can thaw after days. By then, the objects that it uploaded may have been collected as
orphans. Collecting waits for 24 hours, so one hour leaves a wide margin between two machines' clocks.
"""

MAX_TRIES = 16
"""How many commits a call tries before it raises `ConflictError`."""

_HEADS_BYTES = 32 << 20
_TIPS_BYTES = 4 << 20
_NAMES_BYTES = 1 << 20

WRITES_BYTES = 4 << 20
"""The maximum size of the pending writes that a process remembers, if the cache of values may be as large."""


@record(frozen=True, slots=True)
class Content:
    """What a manifest has besides the outline, and the digest that shows that a document still has it.

    Each read gets a copy, because callers change the fields of a checkpoint that they get.

    Attributes:
        digest: The digest of the document.
        checkpoint: The checkpoint's plain fields, by `marshal`: as compact as JSON, and quicker to copy.
        rest: The checkpoint's other fields.
        metadata: The metadata.
    """

    digest: bytes
    checkpoint: bytes
    rest: Serialized | None
    metadata: Serialized

    @classmethod
    def of(cls, known: Manifest, digest: bytes) -> Content:
        """The content of a manifest whose plain fields are such as JSON returns unchanged."""
        return cls(digest, marshal.dumps(dict(known.checkpoint)), known.rest, known.metadata)

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return len(self.checkpoint) + len(self.metadata.data) + (0 if self.rest is None else len(self.rest.data))

    def manifest(self, outline: Manifest) -> Manifest:
        """The manifest again, with an own copy of all that can be changed."""
        checkpoint = marshal.loads(self.checkpoint)  # noqa: S302 - this process has made the bytes
        return replace(outline, checkpoint=checkpoint, rest=self.rest, metadata=self.metadata)


@record(frozen=True, slots=True)
class Head:
    """A checkpoint as last seen: what a child inherits from it, and the precondition for inheriting.

    Attributes:
        manifest: An outline of its manifest.
        content: The rest of its manifest.
        update_time: When its document last changed.
        heir: The id of its latest child.
        run_id: The run that wrote it.
        is_bare: Whether the head is a precondition only, and there is nothing to inherit.
        is_clear: Whether its manifest, and so everything that it stores, is in clear.
        fence: Digits of the last acquisition of the thread's lease that it names, if any.
    """

    manifest: Manifest
    content: Content
    update_time: int
    heir: str | None
    run_id: str | None = None
    is_bare: bool = False
    is_clear: bool = False
    fence: str | None = None

    def bare(self) -> Head:
        """The precondition alone, for a child that inherits nothing, but has DeltaChannels that need its ancestors."""
        return replace(self, manifest=replace(self.manifest, channels={}), is_bare=True)

    @classmethod
    def of(cls, manifest: Manifest, doc: Doc) -> Head:
        """The head of the document `doc`, whose manifest is `manifest`."""
        run_id = doc.fields.get("run_id")
        return cls(
            manifest.outline(),
            Content.of(manifest, doc.fields["digest"]),
            doc.update_time,
            heir_of(doc),
            run_id if isinstance(run_id, str) else None,
            is_clear=not is_encrypted(doc.fields["manifest"]),
            fence=fence_of(doc),
        )


@record(frozen=True, slots=True)
class Place:
    """Where a store's objects are.

    Attributes:
        bucket: The bucket's name.
        prefix: What names of objects begin with: empty, or with a slash at the end.
        mirror: The bucket with the second copy of each object, if there is one.
    """

    bucket: str
    prefix: str
    mirror: str | None = None

    def __str__(self) -> str:
        place = f"gs://{self.bucket}/{self.prefix}".rstrip("/")
        return place if self.mirror is None else f"{place}?mirror={self.mirror}"


@dataclass(slots=True)
class Binding:
    """The place that a saver was given, and whether this process has seen that it belongs to the store.

    Attributes:
        place: The place.
        is_bound: Whether this process has read the store's document, and it names this place.
        has_looked: Whether this process has found no such document, and no thread that names another bucket.
        is_empty: Whether the store had no threads at that time.
    """

    place: Place
    is_bound: bool = False
    has_looked: bool = False
    is_empty: bool = False


@record(frozen=True, slots=True)
class Context:
    """Options and caches.

    Attributes:
        inline_max_bytes: The size of the largest frame that is stored in a document.
        codec: Makes and reads frames.
        incremental: Whether to write incremental frames.
        full_every: The number of versions, or the time, after which a full frame is due.
        values: Serialized values with their digests, by the place of their frame: the name of a document or object, and
            the offset in it.
        clear_metadata: With a cipher, the metadata that may be stored in clear, for queries; `None` allows all.
        verify: Whether written data is read back, or sent with a checksum, or neither.
        falls_back: Whether a read falls back to the newest whole checkpoint if the latest one is damaged.
        timeout: Seconds to wait for other calls, such as a deletion that is under way.
        new_attempt: Makes a name that no other attempt has.
        binding: The place of objects; `None` for a store whose documents and objects cannot be separated.
        region: What this process knows of the store's role; `None` if it does not matter.
        companions: What rides in the commits of puts and pending writes, in the order in which they are asked.
        heads: Checkpoints as last seen, by document name.
        tips: The name of the document that a read of the latest checkpoint should find, by thread and namespace.
        writes: Pending writes as last seen, by the name of their document.
        noted: Threads whose own documents are known to exist, by name, with the time when they were written.
        guards: When threads' own documents last changed, by name, as claims of operations have seen them.
        steps: The last step stored, by thread and namespace, if the saver has a retention.
        fences: The leases that this process holds. A forked child holds none.
        given_up: Digits of acquisitions of this process that it gives back in the background, or has given back.
        corrupt: Objects of which a copy had wrong bytes, and whether they are read from the mirror, or from the bucket
            even while it is away.
        by_namespace: The values of options that differ between namespaces, by field. The fields themselves have the
            values of the root graph.
        variants: The contexts that differ in these values only.
    """

    inline_max_bytes: int
    codec: Codec
    incremental: bool
    full_every: int | timedelta | None
    values: ByteCache[tuple[str, int], Digested]
    clear_metadata: frozenset[str] | None
    verify: Literal["readback", "pipelined", "checksum", "off"]
    falls_back: bool
    timeout: float
    new_attempt: Callable[[], str]
    binding: Binding | None = None
    region: Region | None = None
    companions: tuple[Companion, ...] = ()
    heads: ByteCache[str, Head] = field(default_factory=lambda: ByteCache(_HEADS_BYTES))
    tips: ByteCache[tuple[str, str], str] = field(default_factory=lambda: ByteCache(_TIPS_BYTES))
    writes: ByteCache[str, Opened] = field(default_factory=lambda: ByteCache(WRITES_BYTES))
    noted: ByteCache[str, float] = field(default_factory=lambda: ByteCache(1 << 20))
    guards: ByteCache[str, int] = field(default_factory=lambda: ByteCache(1 << 20))
    steps: ByteCache[tuple[str, str], int] = field(default_factory=lambda: ByteCache(1 << 20))
    fences: Fences = field(default_factory=dict)
    given_up: ByteCache[str, bool] = field(default_factory=lambda: ByteCache(1 << 20))
    corrupt: ByteCache[str, bool] = field(default_factory=lambda: ByteCache(_NAMES_BYTES))
    by_namespace: Mapping[str, ByNamespace[Any]] = field(default_factory=dict)
    variants: dict[tuple[Any, ...], Context] = field(default_factory=dict)

    def within(self, ns: str) -> Context:
        """The context of calls that store something in a namespace: the same caches, with the namespace's options."""
        if not self.by_namespace:
            return self
        values = tuple([one.of(ns) for one in self.by_namespace.values()])
        found = self.variants.get(values)
        if found is None:
            found = self.variants[values] = replace(self, **dict(zip(self.by_namespace, values, strict=True)))
        return found

    @property
    def is_mirrored(self) -> bool:
        """Whether each object is in two buckets."""
        return self.binding is not None and self.binding.place.mirror is not None

    @property
    def reads_back(self) -> bool:
        """Whether written data is read back."""
        return self.verify in ("readback", "pipelined")

    @property
    def trails(self) -> bool:
        """Whether puts and pending writes are read back after their calls have returned."""
        return self.verify == "pipelined"

    def upload(self, name: str, data: bytes | Pieces) -> PutBlob:
        """The effect that creates an object, with its checksum unless `verify` is off."""
        return PutBlob(name, data, checked=self.verify != "off")

    def companions_of(
        self,
        kind: Literal["put", "put_writes"],
        thread_id: str,
        ns: str,
        checkpoint_id: str,
        *,
        fence: Fence | None = None,
        own: tuple[Companion, ...] = (),
    ) -> Companions:
        """The companions of one call: those of the process, its own, and the lease under which the call is made."""
        found = (*self.companions, *own) if fence is None else (*self.companions, *own, fence)
        if not found:
            return NO_COMPANIONS
        return Companions(found, Attempt(kind, thread_id, ns, checkpoint_id, self.new_attempt()))

    def value(self, name: str, at: int, digest: str, size: int) -> Digested | None:
        """The cached value of the frame at a place, if it has that size, and its digest begins with `digest`.

        The place alone proves nothing, because an id can be used again with other content. The digest alone proves
        nothing either, because a value that consists of the digests of another value's blocks has the same digest.
        """
        found = self.values.get((name, at))
        return found if found is not None and found.is_of(digest, size) else None

    def keep(self, name: str, at: int, value: Digested) -> None:
        """Keep a value, for later versions that build on it and for reads."""
        if len(value.data) >= MIN_BYTES:
            self.values.put((name, at), value, len(value.data))

    def remember(self, head: Head) -> None:
        """Keep a head for the next put. Its size in memory is estimated."""
        size = 1000 + sum(600 + 400 * len(ref.chain) for ref in head.manifest.channels.values())
        self.heads.put(head.manifest.name, head, size + head.content.size)

    def remember_writes(self, name: str, opened: Opened) -> None:
        """Keep the pending writes of a document for reads."""
        self.writes.put(name, opened, opened.size)

    def expect(self, thread_id: str, ns: str, name: str) -> None:
        """Expect that the latest checkpoint of a namespace stays the one whose document has this name."""
        self.tips.put((thread_id, ns), name, 100 + len(thread_id) + len(ns) + len(name))

    def expected(self, thread_id: str, ns: str) -> Head | None:
        """The head of the latest checkpoint of a namespace, if this process has stored or read it and remembers it."""
        name = self.tips.get((thread_id, ns))
        return None if name is None else self.heads.get(name)

    def outdate(self, doc: Doc) -> None:
        """Forget the head of a document that this process has changed, and that was as given before.

        If the document names another acquisition than the head, the head stays. It is what a run without a lease has
        read, and the run's next put must find that another process has had the lease since.

        Args:
            doc: The document, with its field `fence`.
        """
        head = self.heads.get(doc.name)
        if head is not None and head.fence == fence_of(doc):
            self.heads.drop(doc.name)
