"""The documents of operations: side effects that are recorded, so that they are not repeated.

A document has one envelope that says everything about its operation except the values. With a cipher, the envelope is
encrypted and bound to its place, and only the state is in clear, for queries. The envelope has the digest of each
value. So an older value, or the value of another attempt, is noticed in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from langgraph_gcs_saver.engine.effects import Doc, Fields
from langgraph_gcs_saver.format import frames, keys, seals
from langgraph_gcs_saver.format.checks import natural, optional, require, typed
from langgraph_gcs_saver.format.frames import Codec, FrameError
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, Serialized, Stub, stub_of
from langgraph_gcs_saver.records import record

State = Literal["claimed", "paused", "done", "failed", "unknown", "not-done"]

STATES: tuple[State, ...] = ("claimed", "paused", "done", "failed", "unknown", "not-done")

ENDED: tuple[State, ...] = ("done", "failed")
"""States with an outcome that never changes. Only these expire."""

MAX_SECONDS = 1e14
"""Longest time for which an outcome is kept: that of a `timedelta`, rounded up."""

OPERATION = "operation"
"""The field that holds everything about an operation, except its values."""

RESULT = "result"
"""The field that holds the result, or the exception that is an answer."""

LATE = "late"
"""The field that holds late outcomes: a mapping."""

SAGA = "saga"
"""The field that holds the encoded id of the saga that the operation belongs to, if any. Queries filter by it."""

MAX_UNDO_BYTES = 128 << 10
"""Most bytes of the request of a step that can be undone. Its undo gets the request, so it is stored with the step."""


@record(frozen=True, slots=True)
class Holder:
    """The lease under which an operation was claimed. It shows whether the claim is still held.

    Attributes:
        thread_id: The thread of the lease.
        nonce: The nonce of its fence.
        time: The update time of its fence.
    """

    thread_id: str
    nonce: str
    time: int

    def holds(self, fence: Doc | None) -> bool:
        """Whether the fence's document, as it was read, is still that of this lease."""
        return fence is not None and fence.update_time == self.time and fence.fields.get("nonce") == self.nonce


@record(frozen=True, slots=True)
class Attempt:
    """One attempt at an operation.

    Attributes:
        number: Counts the attempts from 1.
        nonce: Digits that only the call of this attempt has.
        state: What is known about its outcome.
        holder: The lease under which it began, if any.
        timeout: Seconds for which a claim without a lease is in progress.
        claimed: When it was claimed, by the service's clock; `None` in the document of a claim, whose time that is.
        by: Digits of the call that has recorded the outcome; empty if there is none.
    """

    number: int
    nonce: str
    state: State
    holder: Holder | None
    timeout: float
    claimed: int | None = None
    by: str = ""


@record(frozen=True, slots=True)
class Value:
    """A stored value.

    Attributes:
        stored: The bytes in the document: a frame of the value's envelope, or of a stub that stands for it.
        sha256: The digest of the envelope, in hex.
    """

    stored: bytes
    sha256: str


@record(frozen=True, slots=True)
class Late:
    """The outcome of an attempt whose place another attempt, or a person, had taken.

    Attributes:
        number: The attempt's number.
        nonce: Its nonce.
        state: `done` or `failed`.
        value: Its result, if that could be stored.
    """

    number: int
    nonce: str
    state: State
    value: Value | None


@record(frozen=True, slots=True)
class Undo:
    """How to undo a step.

    Attributes:
        name: The name of its compensation.
        version: The compensation's version.
        request: The request of the step, for the compensation.
    """

    name: str
    version: int
    request: Serialized


@record(frozen=True, slots=True)
class Step:
    """The part that an operation has in a saga: a step, or the undo of a step.

    Attributes:
        saga: The saga's id.
        name: The step.
        epoch: The epoch of the saga in which the step was claimed.
        savepoints: The number of savepoints that the saga had then.
        undo: How to undo it; `None` if that is impossible, and for an undo.
        undone: Whether it was undone. Then its outcome means nothing to later epochs.
        undoes: For the undo of a step, the key of the step's operation.
    """

    saga: str
    name: str
    epoch: int
    savepoints: int
    undo: Undo | None = None
    undone: bool = False
    undoes: str | None = None


@record(frozen=True, slots=True)
class Operation:
    """An operation, as its document says.

    Attributes:
        document: The document's name.
        thread_id: The thread, for messages; `None` if all threads share the operation.
        key: The key that the operation was given.
        name: What it does.
        request: A digest of its request.
        keep: Seconds for which its outcome is kept.
        attempt: The latest attempt.
        before: The attempt before it, as it was when the latest attempt began.
        late: Outcomes that came after others had taken their attempt's place.
        finished: When its outcome was recorded, by the service's clock.
        result: The outcome's value; `None` before there is one, or if it could not be stored.
        step: Its part in a saga, if it belongs to one.
        time: The document's update time.
    """

    document: str
    thread_id: str | None
    key: str
    name: str
    request: str
    keep: float
    attempt: Attempt
    before: Attempt | None = None
    late: tuple[Late, ...] = ()
    finished: int | None = None
    result: Value | None = None
    step: Step | None = None
    time: int = 0

    @property
    def state(self) -> State:
        """What is known about the outcome of the latest attempt."""
        return self.attempt.state

    @property
    def is_doubt(self) -> bool:
        """Whether no call has claimed it here: its document was created to say that its outcome is unknown."""
        return self.state == "unknown" and self.attempt.claimed == self.time

    def with_state(self, state: State, **fields: Any) -> Operation:
        """This operation with its latest attempt in another state."""
        return replace(self, attempt=replace(self.attempt, state=state, **fields))

    def has_expired(self, cutoff: float) -> bool:
        """Whether its outcome need not be kept after `cutoff`, nanoseconds since the epoch."""
        return self.finished is not None and self.finished + self.keep * 1e9 <= cutoff

    @property
    def values(self) -> dict[str, Value]:
        """Its values, by the field that holds them."""
        found = {} if self.result is None else {RESULT: self.result}
        return found | {_late_field(at): one.value for at, one in enumerate(self.late) if one.value is not None}


def _late_field(at: int) -> str:
    return f"{LATE}.v{at}"


# Writing


def fields_of(operation: Operation, codec: Codec) -> dict[str, Any]:
    """The fields of an operation's document."""
    head: dict[str, Any] = {
        "key": operation.key,
        "name": operation.name,
        "request": operation.request,
        "keep": operation.keep,
        "attempt": _attempt_to_json(operation.attempt),
    }
    if operation.before is not None:
        head["before"] = _attempt_to_json(operation.before)
    if operation.late:
        head["late"] = [[one.number, one.nonce, one.state, _sha256_of(one.value)] for one in operation.late]
    if operation.finished is not None:
        head["finished"] = operation.finished
    if operation.result is not None:
        head["result"] = operation.result.sha256
    tail, saga = b"", None
    if operation.step is not None:
        head["step"], tail = _step_to_json(operation.step)
        saga = keys.enc(operation.step.saga)
    stored = codec.encode_envelope(frames.envelope(head, tail), (operation.document, OPERATION))
    fields: dict[str, Any] = {"format": FORMAT, "state": operation.state, OPERATION: stored}
    fields["digest"] = _digest(operation.document, operation.state, saga, stored)
    if saga is not None:
        fields[SAGA] = saga
    if operation.result is not None:
        fields[RESULT] = operation.result.stored
    late = {f"v{at}": one.value.stored for at, one in enumerate(operation.late) if one.value is not None}
    if late:
        fields[LATE] = late
    return fields


ALL_FIELDS = ("format", "state", OPERATION, "digest", RESULT, LATE, SAGA)


def _attempt_to_json(attempt: Attempt) -> list[Any]:
    holder = attempt.holder
    lease = None if holder is None else [holder.thread_id, holder.nonce, holder.time]
    return [attempt.number, attempt.nonce, attempt.state, lease, attempt.timeout, attempt.claimed, attempt.by]


def _step_to_json(step: Step) -> tuple[dict[str, Any], bytes]:
    """A step for the head of an envelope, and the bytes for its tail."""
    found: dict[str, Any] = {
        "saga": step.saga,
        "name": step.name,
        "epoch": step.epoch,
        "savepoints": step.savepoints,
    }
    if step.undone:
        found["undone"] = True
    if step.undoes is not None:
        found["undoes"] = step.undoes
    if step.undo is None:
        return found, b""
    found["undo"] = [step.undo.name, step.undo.version, step.undo.request.type]
    return found, step.undo.request.data


def _sha256_of(value: Value | None) -> str | None:
    return None if value is None else value.sha256


def _digest(name: str, state: str, saga: str | None, stored: bytes) -> bytes:
    clear = [name, state] if saga is None else [name, state, saga]
    return hashlib.sha256(b"\0".join([*map(str.encode, clear), stored])).digest()


def envelope(value: Serialized) -> bytes:
    """The envelope of a value."""
    return frames.envelope({"type": value.type}, value.data)


def sha256_of(plain: bytes) -> str:
    """The digest of a value's envelope."""
    return hashlib.sha256(plain).hexdigest()


def encode(plain: bytes, document: str, field: str, codec: Codec) -> Value:
    """A value for the document itself, from its envelope."""
    return Value(codec.encode_envelope(plain, (document, field)), sha256_of(plain))


def encode_stub(stub: Stub, document: str, field: str, codec: Codec) -> Value:
    """The value that stands for an envelope in an object."""
    return Value(codec.encode_envelope(frames.envelope(stub.head()), (document, field)), stub.sha256)


def field_of_late(operation: Operation) -> str:
    """The field of the next late outcome."""
    return _late_field(len(operation.late))


# Reading


def parse(doc: Doc, codec: Codec) -> Operation:
    """The operation of a document.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version of this library wrote it.
    """
    stored, state = _checked(doc)
    head, tail = _open(codec, stored, (doc.name, OPERATION))
    try:
        found = _parsed(doc, head, tail)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DamagedError(f"an operation does not parse: {type(error).__name__}", frame=doc.name) from None
    if found.state != state:
        raise DamagedError("an operation's state differs from the one that queries see", frame=doc.name)
    return found


def _checked(doc: Doc) -> tuple[bytes, str]:
    seals.check_format(doc, "Operation")
    stored, state = doc.fields.get(OPERATION), doc.fields.get("state")
    if not isinstance(stored, bytes) or not isinstance(state, str):
        raise DamagedError("an operation lacks its state or its content", frame=doc.name)
    saga = doc.fields.get(SAGA)
    is_text = keys.is_text(state) and (saga is None or (isinstance(saga, str) and keys.is_text(saga)))
    if not is_text or doc.fields.get("digest") != _digest(doc.name, state, saga, stored):
        raise DamagedError("an operation does not match its digest", frame=doc.name)
    return stored, state


def _open(codec: Codec, stored: bytes, place: frames.Place) -> tuple[Any, bytes]:
    try:
        return frames.open_envelope(codec.decode_envelope(stored, place))
    except FrameError as error:
        raise DamagedError(f"an operation is {error}", frame=place[0], clear=error.clear) from None


def _parsed(doc: Doc, head: Any, tail: bytes) -> Operation:
    key = typed(head["key"], str)
    require(keys.operation_segment(key) == doc.name.rpartition("/")[2])
    attempt, finished = _attempt(head["attempt"]), head.get("finished")
    if attempt.claimed is None:
        attempt = replace(attempt, claimed=doc.update_time)
    if finished is None and attempt.state in ENDED:
        finished = doc.update_time
    stored, segment = doc.fields.get(LATE, {}), keys.operation_thread_segment(doc.name)
    require(isinstance(stored, Mapping))
    step = _step(head["step"], tail) if "step" in head else None
    require(doc.fields.get(SAGA) == (None if step is None else keys.enc(step.saga)))
    return Operation(
        document=doc.name,
        thread_id=None if segment is None else keys.told_thread_id(segment),
        key=key,
        name=typed(head["name"], str),
        request=typed(head["request"], str),
        keep=seconds(head["keep"]),
        attempt=attempt,
        before=_attempt(head["before"]) if "before" in head else None,
        late=tuple([_late(one, stored.get(f"v{at}")) for at, one in enumerate(head.get("late", ()))]),
        finished=None if finished is None else _time(finished),
        result=_value(doc.fields.get(RESULT), head.get("result")),
        step=step,
        time=doc.update_time,
    )


def _step(found: Any, tail: bytes) -> Step:
    undo = None
    if "undo" in found:
        name, version, kind = found["undo"]
        undo = Undo(typed(name, str), natural(version), Serialized(typed(kind, str), tail))
    return Step(
        saga=typed(found["saga"], str),
        name=typed(found["name"], str),
        epoch=natural(found["epoch"]),
        savepoints=natural(found["savepoints"]),
        undo=undo,
        undone=typed(found.get("undone", False), bool),
        undoes=optional(found.get("undoes"), str),
    )


def _attempt(found: Any) -> Attempt:
    number, nonce, state, lease, timeout, claimed, by = found
    require(state in STATES)
    return Attempt(
        number=natural(number),
        nonce=typed(nonce, str),
        state=cast("State", state),
        holder=None if lease is None else Holder(typed(lease[0], str), typed(lease[1], str), _time(lease[2])),
        timeout=seconds(timeout),
        claimed=None if claimed is None else _time(claimed),
        by=typed(by, str),
    )


def _late(found: Any, stored: Any) -> Late:
    number, nonce, state, sha256 = found
    require(state in ENDED)
    return Late(natural(number), typed(nonce, str), cast("State", state), _value(stored, sha256))


def _value(stored: Any, sha256: Any) -> Value | None:
    """A value. A value without a digest, or a digest without a value, is no writer's."""
    if stored is None and sha256 is None:
        return None
    require(isinstance(stored, bytes))
    return Value(cast("bytes", stored), typed(sha256, str))


def _time(value: Any) -> int:
    return natural(value, bits=63)


def seconds(value: Any) -> float:
    """A number of seconds for which something is kept.

    Raises:
        ValueError: It is none.
    """
    require(type(value) in (int, float) and 0 <= value <= MAX_SECONDS)
    return float(value)


def stub_in(operation: Operation, field: str, codec: Codec) -> Stub | bytes:
    """The stub of one of an operation's values, or else the envelope of the value.

    Raises:
        DamagedError: The value is damaged.
    """
    value = operation.values[field]
    place = operation.document, field
    try:
        plain = codec.decode_envelope(value.stored, place)
        stub = stub_of(frames.open_envelope(plain)[0])
    except FrameError as error:
        raise DamagedError(f"an operation's value is {error}", frame=place[0], clear=error.clear) from None
    except DamagedError as damage:
        raise DamagedError(damage.reason, frame=place[0]) from None
    if (sha256_of(plain) if stub is None else stub.sha256) != value.sha256:
        raise DamagedError("an operation's value does not match its digest", frame=place[0])
    return plain if stub is None else stub


def value_in(plain: bytes, name: str) -> Serialized:
    """The value in an envelope.

    Raises:
        DamagedError: The envelope is damaged.
    """
    try:
        head, data = frames.open_envelope(plain)
        return Serialized(typed(head["type"], str), data)
    except (FrameError, KeyError, ValueError, TypeError):
        raise DamagedError("an operation's value does not parse", frame=name) from None


# What other calls do with operations


def objects(doc: Doc, codec: Codec) -> dict[str, Stub]:
    """The objects that an operation's document refers to, by name.

    Raises:
        DamagedError: The document is damaged.
    """
    operation = parse(doc, codec)
    stubs = [stub_in(operation, field, codec) for field in operation.values]
    return {keys.operation_blob(doc.name, stub.attempt): stub for stub in stubs if isinstance(stub, Stub)}


def is_clear(doc: Doc, codec: Codec) -> bool:
    """Whether the cipher does not vouch for all of an operation's document, which can be read."""
    late = doc.fields.get(LATE, {}).values()
    stored = [doc.fields[OPERATION], *(doc.fields[field] for field in (RESULT,) if field in doc.fields), *late]
    return not all(codec.vouches_for(one) for one in stored)


def copied(doc: Doc, name: str, attempts: Callable[[str], str], codec: Codec) -> dict[str, Any]:
    """The fields of an operation's document, as the document `name` of another thread would have them.

    The process that has claimed the operation knows nothing of the copy, so there the outcome is unknown.

    Args:
        doc: The document.
        name: The name of the copy.
        attempts: Maps the attempt in an object's name to that in the name of the object's copy.
        codec: Reads and makes frames.

    Raises:
        DamagedError: The document is damaged.
    """
    operation = parse(doc, codec)
    values = {field: _moved(operation, field, name, attempts, codec) for field in operation.values}
    late = tuple([replace(one, value=values.get(_late_field(at))) for at, one in enumerate(operation.late)])
    moved = replace(operation, document=name, result=values.get(RESULT), late=late)
    return fields_of(moved.with_state("unknown") if moved.state == "claimed" else moved, codec)


def _moved(operation: Operation, field: str, name: str, attempts: Callable[[str], str], codec: Codec) -> Value:
    found = stub_in(operation, field, codec)
    if isinstance(found, Stub):
        return encode_stub(replace(found, attempt=attempts(found.attempt)), name, field, codec)
    return encode(found, name, field, codec)


def equal(doc: Doc, fields: Fields, codec: Codec) -> bool:
    """Whether a document has the content of the given fields, although a cipher encrypts it differently each time."""
    other = replace(doc, fields=fields)
    try:
        return _content(doc, codec) == _content(other, codec)
    except DamagedError:
        return False


def _content(doc: Doc, codec: Codec) -> tuple[Operation, dict[str, Stub | bytes]]:
    operation = parse(doc, codec)
    values = {field: stub_in(operation, field, codec) for field in operation.values}
    bare = tuple([replace(one, value=None) for one in operation.late])
    return replace(operation, result=None, late=bare), values
