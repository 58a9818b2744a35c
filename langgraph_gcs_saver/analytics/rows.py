"""Rows of analytics: which columns there are, which events make rows, and how an event becomes its rows.

A row is flat. It has ids of checkpoints and runs, names of nodes and channels, counts, bytes and seconds. It never
contains state. A thread's id is in it as a keyed digest only. The ids of teams, sets and sagas are not in it, because
people name them after what they are about. Sinks, the DDL, the backfill and the reference page use
these tables.

The id of a row that the backfill can compute follows from what the row is about. So a call that LangGraph repeats, a
batch that a service received twice, and the backfill all give the same id. Count distinct ids, not rows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from langgraph_gcs_saver.events import (
    CheckpointDamaged,
    CheckpointLoaded,
    CheckpointNotFound,
    CheckpointOutOfOrder,
    CheckpointRecovered,
    CheckpointReplaced,
    CheckpointSaved,
    CheckpointSkipped,
    CheckpointsListed,
    CompensationEnded,
    Event,
    ForkMerged,
    GetFailed,
    HistoryLoaded,
    LeaseAcquired,
    LeaseEnded,
    LeaseTakenOver,
    OperationEnded,
    OperationLate,
    ParentForked,
    PutFailed,
    ReadFromMirror,
    RecoveryRecorded,
    Replicated,
    ReplicationFailed,
    RestoreTooSlow,
    RoleChanged,
    RunEnded,
    SagaEnded,
    SagaStuck,
    SetDecided,
    SetRestored,
    ThreadCollected,
    ThreadDeleted,
    ThreadPruned,
    ThreadVerified,
    ValueStored,
    VerificationFailed,
    WritesSaved,
)
from langgraph_gcs_saver.policy.namespaces import pattern_of
from langgraph_gcs_saver.records import record

SCHEMA = 1
"""The version of the columns, in each row. A change that a query could misread gets another number."""

Type = Literal["INT64", "FLOAT64", "STRING", "BOOL", "TIMESTAMP"]
"""Types of columns, by their names in BigQuery. DuckDB has the same, but for `BIGINT`, `DOUBLE` and `VARCHAR`."""

Row = dict[str, Any]
"""The columns of a row that are not null. A time is an int, in microseconds since the epoch."""

LABEL = "label_"
"""What the name of a label's column begins with."""

LABELS = "labels"
"""Stands for the columns of all labels."""

_DIGITS = 32
"""Hex digits of a digest: 128 bits, so that two threads of a store never share one."""


@record(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: Its name.
        type: Its type.
        description: What it means, with the unit.
    """

    name: str
    type: Type
    description: str

    @property
    def is_required(self) -> bool:
        """Whether no row has a null here."""
        return self.name in REQUIRED

    @property
    def events(self) -> tuple[str, ...]:
        """The events whose rows can have a value here."""
        name = LABELS if self.name.startswith(LABEL) else self.name
        return tuple(kind.name for kind in KINDS if self.is_required or name in kind.columns)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The events whose rows the backfill computes without this column, which is null there."""
        name = LABELS if self.name.startswith(LABEL) else self.name
        return tuple(kind.name for kind in KINDS if name in kind.unknown)


SOURCES = ("input", "loop", "update", "fork")
"""What makes checkpoints, by LangGraph. Other text in this field of metadata can be anything, so no row has it."""

REQUIRED = ("schema", "event_id", "event", "time", "thread")
"""The columns that are never null."""

COLUMNS: tuple[Column, ...] = (
    Column("schema", "INT64", f"The version of these columns: {SCHEMA}"),
    Column("event_id", "STRING", "Names the event. Rows with the same id are about the same event"),
    Column("event", "STRING", "What happened: the name of the event's class, in snake case"),
    Column(
        "time",
        "TIMESTAMP",
        "When it happened. For what the backfill can compute, it is the time in the checkpoint's id",
    ),
    Column("thread", "STRING", "The keyed digest of the thread's id; empty for what several threads share"),
    Column("namespace", "STRING", "The nodes that lead to the subgraph; empty for the root graph"),
    Column("checkpoint_id", "STRING", "The checkpoint"),
    Column("parent_id", "STRING", "The checkpoint's parent"),
    Column("run_id", "STRING", "The run, as the config or the metadata name it"),
    Column("step", "INT64", "The number of the step"),
    Column("source", "STRING", "What made the checkpoint: `input`, `loop`, `update` or `fork`"),
    Column("outcome", "STRING", "How the call or the run ended"),
    Column("call", "STRING", "The method that failed"),
    Column("error", "STRING", "The name of the exception's class"),
    Column("kind", "STRING", "The `kind` of the error, or the kind of the recovery"),
    Column("seconds", "FLOAT64", "How long it took, in seconds"),
    Column(
        "lag",
        "FLOAT64",
        "Seconds from the making of the checkpoint until it was durable; or seconds by which the replica was behind",
    ),
    Column("channels", "INT64", "Number of channels"),
    Column("checkpoints", "INT64", "Number of checkpoints that were listed or removed"),
    Column("size", "INT64", "Bytes of the serialized values"),
    Column("inline_bytes", "INT64", "Bytes in documents"),
    Column("object_bytes", "INT64", "Bytes in objects"),
    Column("objects", "INT64", "Number of objects"),
    Column("writes", "INT64", "Number of pending writes"),
    Column("attempts", "INT64", "Number of commits, or of attempts"),
    Column("channel", "STRING", "The channel"),
    Column("stored", "INT64", "Bytes that the put stored for the value"),
    Column("frames", "INT64", "Frames that a reader of the value needs; 1 for a value that is stored in full"),
    Column("task_id", "STRING", "The task"),
    Column("lost", "FLOAT64", "Seconds of work that were lost"),
    Column("down", "FLOAT64", "Seconds from the last sign of life until the recovery"),
    Column("held", "FLOAT64", "Seconds for which the lease was held"),
    Column("restore", "FLOAT64", "Seconds until the state was read"),
    Column("ran_again", "STRING", "The nodes that ran again, as a JSON list"),
    Column("is_resumed", "BOOL", "Whether the call continued what an earlier call had begun"),
    Column("is_recorded", "BOOL", "Whether the operation had a recorded outcome, and was not performed"),
    Column("is_expired", "BOOL", "Whether the lease had expired"),
    Column("steps", "INT64", "Checkpoints of the root graph that the run stored; or steps of the saga"),
    Column("undone", "INT64", "Steps of the saga that are undone"),
    Column("members", "INT64", "Members of the team's set"),
    Column("operation", "STRING", "The operation's name, or the name of the step that was undone"),
    Column(
        "state", "STRING", "The state of the operation, the saga or the set; why a lease ended; or the store's role"
    ),
    Column("findings", "INT64", "Number of findings of `verify`"),
    Column("entries", "INT64", "Entries of the outbox that were shipped"),
    Column("bytes", "INT64", "Bytes of documents and objects that were written to the replica"),
    Column("reason", "STRING", "Why the mirror was read, or the role changed"),
)
"""All columns but those of labels, in order."""


class Kind:
    """An event that makes rows, and what they have besides the required columns and labels.

    Args:
        event: The event's class.
        columns: Columns whose attributes have the same names.
        renamed: Further columns, with the names of their attributes.
        inherited: Columns that a row `value_stored` has from the row of its checkpoint.
        has_labels: Whether the event has labels.
        unknown: If the backfill computes these rows: the columns that it cannot know. `None` if it computes none.
    """

    def __init__(
        self,
        event: type[Event | ValueStored],
        *columns: str,
        renamed: Mapping[str, str] | None = None,
        inherited: tuple[str, ...] = (),
        has_labels: bool = False,
        unknown: tuple[str, ...] | None = None,
    ) -> None:
        attributes = {**{column: _ATTRIBUTES.get(column, column) for column in columns}, **(renamed or {})}
        self.event: type[Event | ValueStored] = event
        self.name = re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()
        self.columns = (*inherited, *attributes, *((LABELS,) if has_labels else ()))
        self.inherited = inherited
        self.has_labels = has_labels
        self.is_backfilled = unknown is not None
        self.unknown = unknown or ()
        self._fields = [
            (column, name, _CLEAN.get(column, _CLEAN[_TYPES[column]])) for column, name in attributes.items()
        ]
        self._known = [field for field in self._fields if field[0] not in self.unknown]

    def fill(self, row: Row, event: Any, *, backfilled: bool) -> Row:
        """The row, with the values of the event."""
        for column, attribute, clean in self._known if backfilled else self._fields:
            value = getattr(event, attribute)
            if value is not None and (value := clean(value)) is not None:
                row[column] = value
        if self.has_labels and not (backfilled and LABELS in self.unknown):
            for name, value in event.labels.items():
                row[LABEL + name] = _utf8(value)
        return row


def _integer(value: Any) -> int | None:
    """A number that fits into the column, because the step in foreign metadata can be any number."""
    return int(value) if -(1 << 63) <= value < 1 << 63 else None


def _float(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()


def _text(value: Any) -> str | None:
    """Text, or a list of names as JSON. Empty text is null."""
    return _utf8(value if isinstance(value, str) else json.dumps(value)) or None


_TYPES = {column.name: column.type for column in COLUMNS}

_ATTRIBUTES = {"namespace": "checkpoint_ns"}

_CLEAN: Mapping[str, Callable[[Any], Any]] = {
    "INT64": _integer,
    "FLOAT64": _float,
    "STRING": _text,
    "BOOL": bool,
    "source": lambda source: source if source in SOURCES else None,
    "namespace": lambda ns: _utf8(pattern_of(ns)),
}
"""What makes a value fit into a column, by the column's type or name; it returns `None` for a null."""

_PLACE = ("namespace", "checkpoint_id")
_CALL = (*_PLACE, "run_id", "outcome", "seconds")
_FAILED = (*_CALL, "call", "error", "kind")
_MADE = ("parent_id", "step", "source")
_SIZES = ("size", "inline_bytes", "object_bytes")
_ATTEMPT = {"attempts": "attempt"}

KINDS: tuple[Kind, ...] = (
    Kind(
        CheckpointSaved,
        *(*_CALL, *_MADE, "lag", "channels", *_SIZES, "objects", "attempts"),
        has_labels=True,
        unknown=("outcome", "seconds", "lag", "attempts"),
    ),
    Kind(
        ValueStored,
        *("channel", "size", "stored", "frames"),
        inherited=(*_PLACE, "run_id", *_MADE, LABELS),
        unknown=(),
    ),
    Kind(
        WritesSaved,
        *(*_CALL, "task_id", "writes", *_SIZES, "objects", "attempts"),
        has_labels=True,
        unknown=("run_id", "outcome", "seconds", "attempts", LABELS),
    ),
    Kind(PutFailed, *_FAILED, has_labels=True),
    Kind(CheckpointLoaded, *_CALL, "channels", *_SIZES, has_labels=True),
    Kind(CheckpointNotFound, *_CALL, has_labels=True),
    Kind(CheckpointsListed, *_CALL, "checkpoints", "size", "object_bytes", has_labels=True),
    Kind(HistoryLoaded, *_CALL, "channels", "writes", has_labels=True),
    Kind(GetFailed, *_FAILED, has_labels=True),
    Kind(ParentForked, *_PLACE, "parent_id"),
    Kind(CheckpointOutOfOrder, *_PLACE, "parent_id"),
    Kind(CheckpointReplaced, *_PLACE),
    Kind(VerificationFailed, *_PLACE, renamed=_ATTEMPT),
    Kind(CheckpointDamaged, *_PLACE, "channel"),
    Kind(CheckpointRecovered, *_PLACE),
    Kind(CheckpointSkipped, *_PLACE),
    Kind(RestoreTooSlow, *_PLACE, "seconds", "size", "frames"),
    Kind(RunEnded, *("run_id", "outcome", "seconds", "error", "is_resumed", "attempts", "steps"), has_labels=True),
    Kind(RecoveryRecorded, *("kind", "lost", "down", "held", "restore", "ran_again"), has_labels=True, unknown=()),
    Kind(LeaseAcquired),
    Kind(LeaseEnded, "held", renamed={"state": "reason"}),
    Kind(LeaseTakenOver, "is_expired", renamed={"down": "downtime"}),
    Kind(OperationEnded, "operation", "state", "is_recorded", "seconds", renamed=_ATTEMPT),
    Kind(OperationLate, "operation", "outcome", "state", renamed=_ATTEMPT),
    Kind(SagaEnded, "state", "steps", "undone", "seconds"),
    Kind(SagaStuck, "state", "steps", "undone", "seconds"),
    Kind(CompensationEnded, "state", "seconds", renamed={"operation": "step", **_ATTEMPT}),
    Kind(SetDecided, "state", "members", "seconds"),
    Kind(SetRestored, "seconds", renamed={"members": "threads"}),
    Kind(ThreadDeleted, "objects"),
    Kind(ThreadPruned, "checkpoints", "objects"),
    Kind(ThreadCollected, "objects", renamed={"object_bytes": "bytes"}),
    Kind(ThreadVerified, "seconds", "findings"),
    Kind(ReadFromMirror, "reason"),
    Kind(Replicated, "seconds", "lag", "entries", "bytes"),
    Kind(ReplicationFailed, "lag", "error", "kind"),
    Kind(ForkMerged, *_PLACE, "parent_id"),
    Kind(RoleChanged, renamed={"state": "role", "reason": "cause"}),
)
"""All events that make rows. Each entry of `CheckpointSaved.values` makes a row `value_stored`."""

_KIND_OF: Mapping[type, Kind] = {kind.event: kind for kind in KINDS}
_VALUE = _KIND_OF[ValueStored]


def columns(labels: Iterable[str] = ()) -> tuple[Column, ...]:
    """All columns of a table.

    Args:
        labels: The option `labels` of the savers whose rows are in it.
    """
    return (*COLUMNS, *[Column(LABEL + name, "STRING", f"The label `{name}`") for name in dict.fromkeys(labels)])


def count(event: Event) -> int:
    """How many rows an event makes; 0 if it makes none."""
    if type(event) not in _KIND_OF:
        return 0
    return 1 + len(event.values) if isinstance(event, CheckpointSaved) else 1


def make(event: Event, thread: str, at: int, number: Callable[[], str], *, backfilled: bool = False) -> list[Row]:
    """The rows of an event; none if its class makes none.

    Args:
        event: The event.
        thread: The digest of its thread's id (`thread_digest`); empty for an empty id.
        at: When it happened, in microseconds since the epoch. An id or a record that has a time comes first.
        number: Makes an id that no other row has, for events that the backfill cannot compute.
        backfilled: Whether the event was computed from a store. What the store does not have is then null.
    """
    kind = _KIND_OF.get(type(event))
    if kind is None:
        return []
    # What names the event, and its time, if the backfill can compute the row.
    names: tuple[str, ...] | None = None
    if isinstance(event, (CheckpointSaved, WritesSaved)):
        writes = (event.task_id, event.which) if isinstance(event, WritesSaved) else ()
        names = (event.checkpoint_ns, event.checkpoint_id, *writes)
        made = made_at(event.checkpoint_id)
        at = at if made is None else made
    elif isinstance(event, RecoveryRecorded):
        names, at = (event.record,), round(event.time * 1e6)
    id_ = number() if names is None else _id(kind, thread, *names)
    row = kind.fill(_head(kind, id_, at, thread), event, backfilled=backfilled)
    if not isinstance(event, CheckpointSaved):
        return [row]
    shared = {name: value for name, value in row.items() if name in _VALUE.inherited or name.startswith(LABEL)}
    return [
        row,
        *[
            _VALUE.fill(
                {**_head(_VALUE, _id(_VALUE, thread, *names or (), value.channel), at, thread), **shared},
                value,
                backfilled=backfilled,
            )
            for value in event.values
        ],
    ]


def _head(kind: Kind, id_: str, at: int, thread: str) -> Row:
    return {"schema": SCHEMA, "event_id": id_, "event": kind.name, "time": at, "thread": thread}


def _id(kind: Kind, thread: str, *names: str) -> str:
    """An id that follows from what a row is about. JSON separates the names, which can be any text."""
    return hashlib.sha256(json.dumps([kind.name, thread, *names]).encode()).hexdigest()[:_DIGITS]


_UUID6 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-6([0-9a-f]{3})-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
_UNIX_EPOCH = 0x01B21DD213814000
"""1970 on the clock of UUIDs, in steps of 100 ns (https://www.rfc-editor.org/rfc/rfc9562#section-5.6)."""


def made_at(checkpoint_id: str) -> int | None:
    """When a checkpoint was made, in microseconds since the epoch, by its id; `None` if the id has no time."""
    found = _UUID6.match(checkpoint_id)
    return None if found is None else (int("".join(found.groups()), 16) - _UNIX_EPOCH) // 10


def thread_digest(thread_id: str, key: bytes | str) -> str:
    """The digest that stands for a thread in rows: 32 hex digits of HMAC-SHA256.

    Args:
        thread_id: The thread.
        key: The key of the sink.
    """
    secret = key.encode() if isinstance(key, str) else key
    return hmac.digest(secret, thread_id.encode(errors="surrogatepass"), "sha256").hex()[:_DIGITS]


def as_json(row: Row) -> str:
    """A row as one line of JSON, without a newline. A time is text, such as `2030-01-31T12:00:00.000000Z`."""
    return json.dumps({**row, "time": as_text(row["time"])}, separators=(",", ":"))


def as_text(time: int) -> str:
    """A time of a row as text: UTC in ISO 8601, which sorts as the time does."""
    return (_EPOCH + timedelta(microseconds=time)).isoformat(timespec="microseconds") + "Z"


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - `Z` is added to the text
