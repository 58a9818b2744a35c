"""What two stores that replicate each other keep about it: their roles, the outbox, and how far the other store is.

```
lg_region/role-{00..ff}                which of the two stores takes what is stored
lg_region/mark                         everything up to this time is in this store; shippers write it to their target
lg_outbox/{thread}-{nonce}             a document that has changed, and that the other store has to get
lg_threads/{thread}/lg_ship/ship       moves with each commit that a shipper makes for a thread
```

A commit that changes a document of a *replicated* collection requires the role of its thread as the process has seen
it, and adds an entry to the outbox. `format.registry` says which collections are replicated, and what their entries are
called. There are 256 equal roles, one for each pair of digits that names of threads begin with, because a single
document would be part of every commit. A change of the role writes all of them in one commit.

`flows.roles` reads these documents, and makes commits with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeGuard, cast, get_args

from langgraph_gcs_saver.engine.effects import Create, Delete, Doc, Merge, Write
from langgraph_gcs_saver.errors import DamageError
from langgraph_gcs_saver.format import keys, registry
from langgraph_gcs_saver.records import record

RoleName = Literal["primary", "replica", "fenced"]
"""What a store is: it takes what is stored, or it is a copy, or it was the primary and must not be any more."""

What = Literal["put", "writes", "operation", "saga", "batch", "resume", "blob", "delete"]
"""What an entry of the outbox says about a document: which kind it is, or that it was deleted or stripped."""

DIGITS = tuple(f"{number:02x}" for number in range(256))
"""The pairs of hex digits that names of threads begin with (`keys.spread`)."""

ROLES = tuple(keys.role_doc(digits) for digits in DIGITS)
"""Names of all documents of the role."""

FIRST_ROLE = ROLES[0]
"""Name of the document that exists if, and only if, the store has a role."""

_UNMERGED = "unmerged"

_DELETION = ("deleting", "copying")
"""Fields of a thread's document that announce a deletion or a copy. A replica refuses them before anything else."""

_NOT_CARRIED = frozenset(("fence", "former_runs", "heir", "holds", "objects", "run_id"))
"""Fields of a checkpoint's document that need no entry if a write changes only these.

Fences and holds are not carried. An heir is written with the child, and removed with it. A write of the other fields
alone tidies a stripped document.
"""


@record(frozen=True, slots=True)
class Role:
    """The role of a store.

    Attributes:
        epoch: Counts the changes of the roles of both stores. Each change uses a greater number than both stores have.
        name: What the store is.
        to: The connection string of the other store, in its canonical form.
        unmerged: Whether the store was promoted by force, and may lack what the other store had not shipped.
    """

    epoch: int
    name: RoleName
    to: str
    unmerged: bool = False

    @property
    def is_primary(self) -> bool:
        """Whether the store takes what is stored."""
        return self.name == "primary"

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of each of its documents."""
        return {"epoch": self.epoch, "role": self.name, "to": self.to} | ({_UNMERGED: True} if self.unmerged else {})

    def writes(self, seen: Mapping[str, Doc]) -> tuple[Write, ...]:
        """The writes of one commit that give the store this role, if no role has changed since they were read.

        Args:
            seen: The documents of the role that exist, by name, as `GetDocs(ROLES)` returned them.
        """
        fields, gone = self.fields, () if self.unmerged else (_UNMERGED,)
        return tuple(
            Merge(name, fields, gone, seen[name].update_time) if name in seen else Create(name, fields)
            for name in ROLES
        )


def role_of(doc: Doc) -> Role:
    """The role that a document says.

    Raises:
        DamageError: It says none.
    """
    epoch, name, to = (doc.fields.get(key) for key in ("epoch", "role", "to"))
    if type(epoch) is not int or name not in get_args(RoleName) or not isinstance(to, str):
        raise damaged_role(doc.name)
    return Role(epoch, cast("RoleName", name), to, doc.fields.get(_UNMERGED) is True)


def damaged_role(name: str) -> DamageError:
    """The error for a document of the role that is missing, while others are there, or says no role."""
    return DamageError(
        f"The document {name!r} does not say which role this store has. Nothing was stored. Find out which of the two "
        "stores is the primary (`langgraph-gcs replication status`), and restore the document from one of the other "
        "255, which are equal."
    )


def mark_in(doc: Doc | None) -> int | None:
    """The time in `lg_region/mark`, or in a thread's `lg_ship/ship`; `None` if there is none.

    What the other store had before this time, by its own clock, is in this store.
    """
    mark = None if doc is None else doc.fields.get("mark")
    return mark if isinstance(mark, int) else None


SHIPPED_IN = "epoch"
"""The field of a thread's `lg_ship/ship` that `shipped_in` reads."""


def shipped_in(doc: Doc | None) -> int | None:
    """The last epoch of this store in which it got everything that the other store had; `None` if there is none.

    No time can say whether that was before or after a change of the role, because each store has a clock of its own.

    Args:
        doc: The `lg_ship/ship` of a thread, or of the operations that all threads share.
    """
    epoch = None if doc is None else doc.fields.get(SHIPPED_IN)
    return epoch if type(epoch) is int else None


INCOMPLETE = Merge(keys.MARK, {"incomplete": True})
"""The write of a new replica. Until the first comparison of both stores has ended, it lacks what is older."""

COMPLETE = Merge(keys.MARK, {}, remove=("incomplete",))
"""The write after that comparison."""


def is_incomplete(doc: Doc | None) -> bool:
    """Whether the store of this `lg_region/mark` may lack what is older than the replication. It gets no mark then."""
    return doc is not None and doc.fields.get("incomplete") is True


@record(frozen=True, slots=True)
class Entry:
    """An entry of the outbox: the other store has to get one document, or has to delete it.

    Attributes:
        name: Name of the entry's own document.
        what: The kind of the changed document, or `delete` if it was deleted, or was stripped to its frames. If the
            changed document is that of a thread, all of the thread was deleted.
        changed: Name of the changed document.
        time: When the entry was stored, by the service's clock: its document's update time; 0 if it is not stored yet.
    """

    name: str
    what: What
    changed: str
    time: int = 0

    @property
    def segment(self) -> str:
        """The thread's segment in names of documents; `keys.SHARED_OUTBOX` for operations that all threads share."""
        return keys.outbox_segment(self.name)

    @property
    def thread_id(self) -> str | None:
        """The thread; `None` if all threads share the operation, or if the id is too long to be a part of names.

        The thread's document has such an id, in the store from which the entry comes, or, after the thread's deletion,
        in the other one.
        """
        return keys.thread_id_of(self.segment)

    @property
    def write(self) -> Merge:
        """The write that stores it. Repeating it changes nothing, and restores an entry that was removed meanwhile."""
        return Merge(self.name, {"thread_id": self.thread_id, "what": self.what, "name": self.changed})


def entry_of(doc: Doc) -> Entry:
    """The entry that a document of the outbox is.

    Raises:
        DamageError: It is none.
    """
    what, changed = doc.fields.get("what"), doc.fields.get("name")
    if what in get_args(What) and isinstance(changed, str):
        found = Entry(doc.name, cast("What", what), changed, doc.update_time)
        if found.segment == _segment_of(changed):
            return found
    raise DamageError(
        f"The document {doc.name!r} is no entry of the outbox: it does not say which document has changed. Delete it, "
        "and call `reconcile` (`langgraph-gcs replication reconcile`), which compares both stores."
    )


@record(frozen=True, slots=True)
class Changes:
    """What a commit changes in replicated collections.

    Attributes:
        digits: The digits of the roles that the commit depends on, in ascending order.
        changed: What has changed, in the order of the writes: the entry's kind and the document's name.
    """

    digits: tuple[str, ...]
    changed: tuple[tuple[What, str], ...]

    def entries(self, nonces: Iterable[str]) -> tuple[Entry, ...]:
        """The entries that the commit adds, each with a nonce."""
        return tuple(
            Entry(keys.outbox_doc(_segment_of(name), nonce), what, name)
            for (what, name), nonce in zip(self.changed, nonces, strict=False)
        )


def changes(writes: Iterable[Write]) -> Changes:
    """Find out what the writes of a commit change in replicated collections.

    A document that a repair sets aside is lost, and no call has deleted it. It needs no entry: the other store keeps
    its copy, which may be the only whole one.
    """
    digits: set[str] = set()
    changed: list[tuple[What, str]] = []
    writes = tuple(writes)
    aside = {source for write in writes if (source := _set_aside(write)) is not None}
    for write in writes:
        what = _change(write)
        if what == "delete" and write.name in aside:
            what = "mark"
        if what is not None:
            digits.add(digits_of(write.name))
            if what != "mark":
                changed.append((what, write.name))
    return Changes(tuple(sorted(digits)), tuple(changed))


def digits_of(name: str) -> str:
    """The digits of the role that the document of this name depends on."""
    segment = _segment_of(name)
    return name.rpartition("/")[2][:2] if segment == keys.SHARED_OUTBOX else segment[:2]


def digits_of_blob(name: str) -> str | None:
    """The digits of the role that the upload of an object depends on; `None` if a replica may have its own objects."""
    segment, _, rest = name.partition("/")
    if segment == keys.OPERATION_BLOBS:
        return rest[:2]
    return segment[:2] if keys.is_thread_segment(segment) else None


def _set_aside(write: Write) -> object:
    """The name of the document that a write sets aside; `None` if it sets none aside."""
    return write.fields.get("from") if isinstance(write, Create) and f"/{keys.ASIDE}/" in write.name else None


def _segment_of(name: str) -> str:
    return keys.SHARED_OUTBOX if name.startswith(f"{keys.SHARED}/") else keys.thread_segment_of(name)


def acquires(write: Write) -> TypeGuard[Create | Merge]:
    """Whether a write gives a lease a holder. Leases are not carried, but only a primary has holders."""
    return keys.is_fence_doc(write.name) and not isinstance(write, Delete) and write.fields.get("owner") is not None


def _change(write: Write) -> What | Literal["mark"] | None:
    """The kind of the entry that a write needs; `mark` if it needs none, but the role; `None` if it needs neither."""
    segments = write.name.split("/")
    is_of_thread = segments[0] == keys.THREADS and keys.is_thread_segment(segments[1])
    if not is_of_thread and not write.name.startswith(f"{keys.SHARED}/"):
        return None
    if is_of_thread and len(segments) == 2:
        if isinstance(write, Delete):
            return "delete"
        return None if write.fields.keys().isdisjoint(_DELETION) else "mark"
    if acquires(write):
        return "mark"
    entry = registry.entry_of(segments[2:])
    if entry is None or entry.replicated is None:
        return None
    if isinstance(write, Delete):
        return "delete"
    fields = write.fields.keys() | (set(write.remove) if isinstance(write, Merge) else set())
    if not fields or (entry.id == keys.CHECKPOINTS and fields <= _NOT_CARRIED):
        return None
    is_stripped = entry.id == keys.CHECKPOINTS and isinstance(write, Merge) and "manifest" in write.remove
    return "delete" if is_stripped else cast("What", entry.replicated)
