"""Recovery records: what a crash, damage, or a way back to an older checkpoint has cost a thread.

A takeover is recorded in the commit that ends the crashed holder's lease. That commit is there anyway. It requires the
fence as last seen, so each crashed lease has one record, whatever crashes next. What came of it is known later: once
the process that took over has read the state, it completes the record, in the background. A record that stays
incomplete is one whose process has not read the state, or crashed before it had.

Other records are written when everything is over. All but the first commit are best effort, and no call waits for them.
A record has times, names of nodes and labels, and no state. An event reports each record that is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast, get_args

from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
    Commit,
    Create,
    Delete,
    Doc,
    Emit,
    Flow,
    Gather,
    GetDocs,
    Merge,
    QueryDocs,
)
from langgraph_gcs_saver.events import RecoveryRecorded
from langgraph_gcs_saver.flows.all_threads import Pages
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.ids import thread_ids_of
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.policy import labels
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import RecoveryKind, RecoveryRecord, at_time

KEEP_SECONDS = 90 * 86_400.0
"""How long a record is kept: a quarter shows how often processes crash, and whether that has changed. `collect` deletes
older ones."""

T = TypeVar("T")

_KINDS: tuple[RecoveryKind, ...] = get_args(RecoveryKind)

_MOST_NODES = 100
_MOST_CHARACTERS = 200
"""Most nodes in a record, and most characters of a node's name."""

_RECORDS_PER_PAGE = 100


@record(frozen=True, slots=True)
class Begun:
    """The record of a takeover that is not complete.

    Attributes:
        name: The document's name.
        time: Its update time.
        fields: The times that the crash has cost, now that the newest checkpoint is known.
    """

    name: str
    time: int
    fields: Mapping[str, float]


@record(frozen=True, slots=True)
class Fallback:
    """A read that fell back to an older checkpoint.

    Attributes:
        thread_id: The thread.
        ns: The namespace.
        damaged: The damaged checkpoint.
        whole: The checkpoint that was read in its place.
    """

    thread_id: str
    ns: str
    damaged: str
    whole: str

    @property
    def nonce(self) -> str:
        """Digits that the records of all reads have that met the damaged checkpoint, and no others."""
        name = keys.checkpoint_doc(self.thread_id, self.ns, self.damaged)
        return hashlib.sha256(name.encode()).hexdigest()[:32]


@record(frozen=True, slots=True)
class Restored:
    """What a read has restored.

    Attributes:
        seconds: From the takeover until the state was read, or the length of the read.
        nodes: The nodes that run again, if the run continues from there.
        labels: The labels of the run, or of the read.
    """

    seconds: float
    nodes: Collection[str]
    labels: Mapping[str, str]


# Writing


def times(since: int, seen: int, stored: int | None, now: int) -> dict[str, float]:
    """The fields that say what a crash has cost.

    Args:
        since: When the crashed process acquired its lease. All times are the service's, in nanoseconds.
        seen: Its last sign of life.
        stored: When the newest checkpoint was stored, which is one, too; 0 if there is none, and `None` if that is not
            known.
        now: The time of the takeover.
    """
    last = max(since, seen, stored or 0)
    found = {"held": (last - since) / 1e9, "down": max(0, now - last) / 1e9}
    return found if stored is None else {**found, "lost": max(0, now - max(since, stored)) / 1e9}


def taken(thread_id: str, now: int, nonce: str, fields: Mapping[str, float]) -> Merge:
    """The write that records a takeover. It has no precondition, so the commit that it rides in does not fail by it.

    Args:
        thread_id: The thread.
        now: The time, by the service's clock.
        nonce: Digits that no other record of the thread has.
        fields: What `times` says.
    """
    return Merge(keys.recovery_doc(thread_id, now, nonce), {**_head("takeover", now), **fields})


def going_back(
    thread_id: str, kind: Literal["restore", "rollback"], now: int, nonce: str, *, lost: float, restore: float
) -> Merge:
    """The write that records that a thread was forked at an older checkpoint, for the commit that does so.

    Args:
        thread_id: The thread.
        kind: Why: a set of its team was restored, or a saga was rolled back.
        now: The time, by the service's clock.
        nonce: Digits that no other record of the thread has.
        lost: Seconds from the older checkpoint to the newest one.
        restore: Seconds that it took so far.
    """
    fields = {**_head(kind, now), "lost": float(lost), "restore": float(restore)}
    return Merge(keys.recovery_doc(thread_id, now, nonce), fields)


def report(thread_id: str, stored: Merge) -> Flow[None]:
    """Report a record that another commit has stored."""
    yield from _report(thread_id, stored.name, stored.fields)


def complete(thread_id: str, begun: Begun, restored: Restored, context: Context) -> Flow[bool]:
    """Complete the record of a takeover, unless it is gone.

    Args:
        thread_id: The thread.
        begun: The record.
        restored: What the process that took over has read.
        context: Options.
    """
    fields = {**begun.fields, **_restored(restored, context)}
    if (yield from Commit((Merge(begun.name, fields, update_time=begun.time),))) is None:
        return False
    yield from _report(thread_id, begun.name, {"kind": "takeover", **fields})
    return True


def fell_back(fallback: Fallback, restored: Restored, context: Context) -> Flow[bool]:
    """Record that a read fell back to an older checkpoint, unless that is recorded already.

    Args:
        fallback: The read.
        restored: What it has read.
        context: Options.
    """
    thread_id, nonce = fallback.thread_id, fallback.nonce
    names = [keys.checkpoint_doc(thread_id, fallback.ns, one) for one in (fallback.damaged, fallback.whole)]
    thread, records = keys.thread_doc(thread_id), keys.recoveries(thread_id)
    for _ in range(MAX_TRIES):
        docs, known = yield from Gather((GetDocs((thread, *names), mask=("deleting",)), QueryDocs(records, mask=())))
        if any(keys.is_recovery_doc(_leaf(doc)) and keys.recovery_nonce_of(doc.name) == nonce for doc in known):
            return False
        fields = {
            **_head("fallback", docs.read_time),
            **_between(*map(docs.get, names)),
            **_restored(restored, context),
        }
        name = keys.recovery_doc(thread_id, docs.read_time, nonce)
        if (yield from _create(thread_id, name, fields, docs.get(thread))):
            return True
    return False


def repaired(thread_id: str, restore: float, context: Context) -> Flow[bool]:
    """Record that a thread was repaired.

    Args:
        thread_id: The thread.
        restore: Seconds that the repair took.
        context: Makes names.
    """
    thread = keys.thread_doc(thread_id)
    for _ in range(MAX_TRIES):
        # Beside a second name, because a read of a single document does not say the service's time.
        docs = yield from GetDocs((thread, keys.fence_doc(thread_id)), mask=("deleting",))
        name = keys.recovery_doc(thread_id, docs.read_time, context.new_attempt())
        fields = {**_head("repair", docs.read_time), "restore": float(restore)}
        if (yield from _create(thread_id, name, fields, docs.get(thread))):
            return True
    return False


def _create(thread_id: str, name: str, fields: dict[str, Any], thread: Doc | None) -> Flow[bool]:
    """Create a record, unless its thread is gone, is being deleted, or has changed."""
    if thread is None or "deleting" in thread.fields:
        return False
    writes = Create(name, fields), Merge(thread.name, {}, update_time=thread.update_time)
    if (yield from Commit(writes)) is None:
        return False
    yield from _report(thread_id, name, fields)
    return True


def _report(thread_id: str, name: str, fields: Mapping[str, Any]) -> Flow[None]:
    """Report a record that is complete. The event says what is stored, and so no more than a later reader gets."""
    yield from Emit(_event_of(thread_id, name, fields))


def _head(kind: RecoveryKind, now: int) -> dict[str, Any]:
    return {"kind": kind, "expires": now + int(KEEP_SECONDS * 1e9)}


def _between(damaged: Doc | None, whole: Doc | None) -> dict[str, float]:
    if damaged is None or whole is None:
        return {}
    return {"lost": max(0, damaged.create_time - whole.create_time) / 1e9}


def _restored(restored: Restored, context: Context) -> dict[str, Any]:
    """The fields that say what was restored. With a cipher, names and labels only if `clear_metadata` allows them."""
    clear = context.clear_metadata
    fields: dict[str, Any] = {"restore": float(restored.seconds)}
    if clear is None or "node" in clear:
        names = sorted({node[:_MOST_CHARACTERS] for node in restored.nodes if node})[:_MOST_NODES]
        fields["ran_again"] = json.dumps(names)
    kept = {name: value for name, value in restored.labels.items() if clear is None or name in clear}
    return {**fields, "labels": json.dumps(kept)} if kept else fields


# Reading


def listed(thread_id: str | None) -> Pages[RecoveryRecord]:
    """Pages of the records of a thread, oldest first; of all threads, thread by thread, if `thread_id` is `None`."""
    return _pages(thread_id, _record_of)


def reported(thread_id: str | None) -> Pages[RecoveryRecorded]:
    """Like `listed`, as the events that reported the records when they were complete."""
    return _pages(thread_id, lambda own, doc: _event_of(own, doc.name, doc.fields))


def _pages(thread_id: str | None, make: Callable[[str, Doc], T]) -> Pages[T]:
    after: str | None = ""
    query = QueryDocs(keys.RECOVERIES if thread_id is None else keys.recoveries(thread_id), limit=_RECORDS_PER_PAGE)
    if thread_id is None:
        start, end = keys.all_threads_range("")
        query = replace(query, start=start, end=end, group=True)

    def page() -> Flow[Sequence[T] | None]:
        nonlocal after
        if after is None:
            return None
        docs = yield from replace(query, after=after or None)
        after = docs[-1].name if len(docs) == _RECORDS_PER_PAGE else None
        docs = [doc for doc in docs if _is_record(doc)]
        if thread_id is not None:
            return [make(thread_id, doc) for doc in docs]
        ids = yield from thread_ids_of(doc.name for doc in docs)
        return [make(ids[keys.thread_segment_of(doc.name)], doc) for doc in docs]

    return page


def _is_record(doc: Doc) -> bool:
    """Whether a document is a record, of a kind that this version knows."""
    return doc.fields.get("kind") in _KINDS and keys.is_recovery_doc(_leaf(doc))


def _record_of(thread_id: str, doc: Doc) -> RecoveryRecord:
    """A record. A damaged field counts as absent."""
    return RecoveryRecord(
        thread_id=thread_id,
        time=at_time(keys.recovery_time_of(doc.name)),
        kind=cast("RecoveryKind", doc.fields["kind"]),
        expires=at_time(_expiry_of(doc)),
        **_Fields(doc.fields).known(),
    )


def _event_of(thread_id: str, name: str, fields: Mapping[str, Any]) -> RecoveryRecorded:
    return RecoveryRecorded(
        thread_id=thread_id,
        record=keys.recovery_nonce_of(name),
        time=keys.recovery_time_of(name) / 1e9,
        kind=str(fields["kind"]),
        **_Fields(fields).known(),
    )


def _leaf(doc: Doc) -> str:
    return doc.name.rpartition("/")[2]


class _Fields:
    """The fields of a record, which may be forged."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def known(self) -> dict[str, Any]:
        """What a record and an event say of these fields."""
        return {
            **{name: self.seconds(name) for name in ("lost", "down", "held", "restore")},
            "ran_again": self.names(),
            "labels": self.labels(),
        }

    def seconds(self, name: str) -> float | None:
        """A time; `None` if there is none."""
        found: Any = self._fields.get(name)
        is_time = type(found) in (int, float) and math.isfinite(found) and found >= 0
        return float(found) if is_time else None

    def names(self) -> tuple[str, ...] | None:
        """The nodes that ran again; `None` if that is not known."""
        found = self._json("ran_again")
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            return None
        return tuple(one[:_MOST_CHARACTERS] for one in found[:_MOST_NODES])

    def labels(self) -> dict[str, str]:
        """The labels, as far as their names could be those of the option."""
        found = self._json("labels")
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            return {}
        known = [one for one in found.items() if labels.NAME.fullmatch(one[0])]
        return {name: value[: labels.MOST_CHARACTERS] for name, value in known[: labels.MOST_LABELS]}

    def _json(self, name: str) -> Any:
        text = self._fields.get(name)
        try:
            return json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            return None


_YEARS_100 = 100 * 366 * 86_400 * 10**9


def _expiry_of(doc: Doc) -> int:
    """When a record expires, in nanoseconds since the epoch. A damaged one expires as if it were whole."""
    found, begun = doc.fields.get("expires"), doc.create_time
    whole = type(found) is int and begun - _YEARS_100 <= found <= begun + _YEARS_100
    return cast("int", found) if whole else begun + int(KEEP_SECONDS * 1e9)


# Expiry


def expired(thread_id: str, cutoff: float) -> Flow[list[str]]:
    """The names of a thread's records that expired before a time, in nanoseconds since the epoch."""
    found: list[str] = []
    after: str | None = None
    while True:
        docs = yield from QueryDocs(
            keys.recoveries(thread_id), after=after, limit=limits.COMMIT_WRITES, mask=("expires",)
        )
        found += [doc.name for doc in docs if keys.is_recovery_doc(_leaf(doc)) and _expiry_of(doc) <= cutoff]
        if len(docs) < limits.COMMIT_WRITES:
            return found
        after = docs[-1].name


def delete(names: Sequence[str]) -> Flow[None]:
    """Delete records."""
    for at in range(0, len(names), limits.COMMIT_WRITES):
        yield from Commit(tuple(map(Delete, names[at : at + limits.COMMIT_WRITES])))
