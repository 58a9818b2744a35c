"""The exceptions of this library, grouped by how a caller handles them.

    GCSSaverError
    ├── InvalidInputError (ValueError)      fix the call: nothing was written
    │   ├── InvalidURIError                 a connection string that names no store
    │   ├── InvalidOptionError              an option outside its range
    │   ├── InvalidConfigError (KeyError)   a `RunnableConfig` that lacks what the method needs
    │   ├── InvalidIdError                  an id that the services cannot store
    │   └── ValueTooLargeError              a value over `max_value_bytes`: raise the limit, or store less in the state
    ├── SerializationError (TypeError)      fix the state or the serializer; a write that failed wrote nothing
    ├── SaverClosedError (RuntimeError)     make a new saver
    ├── NotInstalledError (ImportError)     install the extra that the message names
    ├── DamageError                         stored data is missing, or is not what was written
    │   └── CheckpointCorruptError          … of one checkpoint: read another, or repair it
    ├── WrongKeyError                       encrypted with another key: pass the `cipher` that wrote it
    ├── ClearTextError                      not protected by the `cipher`: see its origin; `accept_clear` or repair
    ├── UnsupportedFormatError              stored by a newer version: upgrade this library
    ├── ConflictError                       lost too many races for one document: call again
    ├── ThreadBusyError (RuntimeError)      another process holds the thread's lease: wait, or take it over
    ├── CheckFailedError (RuntimeError)     a node is due that the graph does not have: resume with one that has it
    ├── SetAbortedError (RuntimeError)      a team's set was not committed: call again, or with a longer timeout
    ├── ThreadInSetError (RuntimeError)     a team's set needs the thread: end the set, or `force=True`
    ├── FencedError (RuntimeError)          this process has lost the thread's lease: stop; nothing was stored
    │   └── OperationFencedError (GraphBubbleUp)   … and so has not started an operation
    ├── OperationError (GraphBubbleUp)      an operation was not started; it ends the run of a node or tool
    │   ├── OperationInProgressError        another call performs it: wait, and call again
    │   ├── OperationMismatchError          its key belongs to another operation: use another key
    │   ├── OutcomeUnknownError             an earlier attempt may have taken effect: find out, and call `resolve`
    │   ├── NotDurableError                 the checkpoint that ordered it is not stored: see `durability`
    │   └── ResultNotStoredError            it is done, and its result could not be stored
    ├── NotPrimaryError (RuntimeError)      the store is a replica, or was the primary: use the other store
    │   └── OperationNotPrimaryError (GraphBubbleUp)   … and so an operation was not started
    ├── LeaseMismatchError (RuntimeError)   the config has another thread's lease, or lacks one: use `lease.config`
    ├── OperationFailedError (RuntimeError)   an operation has failed for good: name its exception in `errors`
    ├── BatchError (GraphBubbleUp)          a batch cannot be opened or continued; no item was skipped
    │   ├── BatchChangedError               it has other items: pass the same ones, or `changed="merge"`
    │   └── BatchDoneError                  it is done: skip or restart it
    ├── SagaError (GraphBubbleUp)           a saga cannot continue as it was called
    │   ├── CompensationMissingError        a step has no undo that this process knows; nothing was undone
    │   ├── SagaStuckError                  a step or an undo has an unknown outcome, or fails: see its list, `resolve`
    │   └── SagaRolledBack                  the saga was rolled back, so this process must not continue it
    └── StoreError                          a request to the store failed
        ├── PermissionDeniedError (PermissionError)   grant the role that the message names
        ├── StoreNotFoundError              create the bucket or database that the message names
        ├── TableMismatchError              add the columns that a table of analytics lacks
        ├── WrongStoreError                 name the bucket and prefix that the documents belong to, or call `rebind`
        ├── StoreUnavailableError (ConnectionError)   call again later; also raised at the deadline
        ├── CheckpointVerificationError     the service returns other data than was written: nothing is visible
        └── SourceError                     the checkpointer that a migration reads from failed: see its exception

Each class has a `kind`: a stable, machine-readable word. New kinds may be added; existing ones never change. Messages
name threads, checkpoints and channels, never state content or credentials.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from langgraph_gcs_saver.errors.bubbling import (  # isort: skip
        BatchChangedError as BatchChangedError,
        BatchDoneError as BatchDoneError,
        BatchError as BatchError,
        CompensationMissingError as CompensationMissingError,
        NotDurableError as NotDurableError,
        OperationError as OperationError,
        OperationFencedError as OperationFencedError,
        OperationInProgressError as OperationInProgressError,
        OperationMismatchError as OperationMismatchError,
        OperationNotPrimaryError as OperationNotPrimaryError,
        OutcomeUnknownError as OutcomeUnknownError,
        ResultNotStoredError as ResultNotStoredError,
        SagaError as SagaError,
        SagaRolledBack as SagaRolledBack,
        SagaStuckError as SagaStuckError,
    )


class GCSSaverError(Exception):
    """Base of every error that this library raises on purpose.

    Attributes:
        store: The name of the store that the error comes from, if the call uses several. In a transfer, it is `source`
            or `target`.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    store: str | None = None

    def __str__(self) -> str:
        # KeyError would show the repr of its message, with quotes.
        message = str(self.args[0]) if self.args else ""
        return message if self.store is None else f"Store {self.store!r}: {message}"


class InvalidInputError(GCSSaverError, ValueError):
    """An argument of the call is invalid. Nothing was written."""

    kind = "invalid-input"
    exit_code = 2


class InvalidURIError(InvalidInputError):
    """A connection string that does not name a store."""

    kind = "invalid-uri"


class InvalidOptionError(InvalidInputError):
    """An option of the wrong type, or outside its range."""

    kind = "invalid-option"


class InvalidConfigError(InvalidInputError, KeyError):
    """A `RunnableConfig` that lacks what the method needs, such as `thread_id`."""

    kind = "invalid-config"


class InvalidIdError(InvalidInputError):
    """An id that Firestore or Cloud Storage cannot store as a name."""

    kind = "invalid-id"


class ValueTooLargeError(InvalidInputError):
    """A value is larger than the option `max_value_bytes`, or a stored manifest says that it is.

    Also raised if the values of one checkpoint, or its pending writes, together exceed 64 times that option. A writer
    also raises it for more channels, fields, metadata or writes in one call than readers parse. A reader checks the
    size before it allocates anything, because a crafted frame can decompress to any size.
    """

    kind = "value-too-large"


class SerializationError(GCSSaverError, TypeError):
    """The serializer cannot write a value, and nothing was written; or it does not read stored bytes."""

    kind = "serialization"
    exit_code = 3


class SaverClosedError(GCSSaverError, RuntimeError):
    """The saver was closed; make a new one."""

    kind = "closed"
    exit_code = 2


class NotInstalledError(GCSSaverError, ImportError):
    """A feature needs a package that is not installed. The message names the extra that brings it."""

    kind = "not-installed"
    exit_code = 2


class DamageError(GCSSaverError):
    """Stored data is missing, or differs from its digest."""

    kind = "damage"
    exit_code = 4


def _where(thread_id: str, ns: str, checkpoint_id: str, channel: str | None, frame: str | None) -> str:
    where = f"thread {thread_id!r}, namespace {ns!r}, checkpoint {checkpoint_id!r}"
    if channel is not None:
        where += f", channel {channel!r}"
    return where if frame is None else f"{where}, stored as {frame!r}"


class CheckpointCorruptError(DamageError):
    """A checkpoint's document, one of its frames, or one of its pending writes is missing or damaged.

    Attributes:
        thread_id: The thread, as its document names it.
        checkpoint_ns: The namespace; empty for the root graph.
        checkpoint_id: The checkpoint that cannot be read.
        channel: The channel whose value is damaged, if the damage is in one channel.
        frame: The name of the document or object that holds the damaged bytes.
    """

    kind = "corrupt"

    def __init__(
        self,
        reason: str,
        *,
        thread_id: str,
        checkpoint_ns: str,
        checkpoint_id: str,
        channel: str | None = None,
        frame: str | None = None,
    ) -> None:
        where = _where(thread_id, checkpoint_ns, checkpoint_id, channel, frame)
        super().__init__(
            f"{reason} ({where}). Read another checkpoint of the thread by its `checkpoint_id`, "
            "fix the thread with `repair`, or restore the stored bytes from a backup."
        )
        self.reason = reason
        self.thread_id = thread_id
        self.checkpoint_ns = checkpoint_ns
        self.checkpoint_id = checkpoint_id
        self.channel = channel
        self.frame = frame

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException.__reduce__ would call the class with the finished message only.
        ids = {"thread_id": self.thread_id, "checkpoint_ns": self.checkpoint_ns, "checkpoint_id": self.checkpoint_id}
        return partial(type(self), channel=self.channel, frame=self.frame, **ids), (self.reason,)


class WrongKeyError(GCSSaverError):
    """The saver's `cipher` cannot decrypt a document. The document is not damaged: pass the cipher that wrote it."""

    kind = "wrong-key"
    exit_code = 8


class ClearTextError(GCSSaverError):
    """A saver with a `cipher` found data that it does not vouch for: stored in clear, or not bound to its place.

    The data was stored before the cipher was used or before ciphertexts were bound, or an attacker without the key
    planted it. So the saver never returns it as state, and does not fall back to an older checkpoint.

    Attributes:
        thread_id: The thread, as its document names it.
        checkpoint_ns: The namespace; empty for the root graph.
        checkpoint_id: The checkpoint that is not read.
        channel: The channel, if the data is the value of one channel.
        frame: The name of the document or object that holds the data.
    """

    kind = "clear-text"
    exit_code = 9

    def __init__(
        self,
        reason: str,
        *,
        thread_id: str,
        checkpoint_ns: str,
        checkpoint_id: str,
        channel: str | None = None,
        frame: str | None = None,
    ) -> None:
        where = _where(thread_id, checkpoint_ns, checkpoint_id, channel, frame)
        super().__init__(
            f"{reason} ({where}). Anyone who can write to the store could have made it. If the thread is older than "
            "the cipher, open the saver with accept_clear=True until it is migrated. If not, `repair` sets it aside."
        )
        self.reason = reason
        self.thread_id = thread_id
        self.checkpoint_ns = checkpoint_ns
        self.checkpoint_id = checkpoint_id
        self.channel = channel
        self.frame = frame

    def __reduce__(self) -> tuple[Any, ...]:
        ids = {"thread_id": self.thread_id, "checkpoint_ns": self.checkpoint_ns, "checkpoint_id": self.checkpoint_id}
        return partial(type(self), channel=self.channel, frame=self.frame, **ids), (self.reason,)


class UnsupportedFormatError(GCSSaverError):
    """A newer version of this library wrote a document or added a collection. Nothing is damaged: upgrade."""

    kind = "unsupported-format"
    exit_code = 5


class ConflictError(GCSSaverError):
    """Other writers changed the same document at each attempt of this call. Nothing was written; call again."""

    kind = "conflict"
    exit_code = 6


class ThreadBusyError(GCSSaverError, RuntimeError):
    """Another process holds the thread's lease, or another call of this process does. Nothing was stored.

    Attributes:
        thread_id: The thread.
        owner: The name of the holder.
    """

    kind = "thread-busy"
    exit_code = 10

    def __init__(self, message: str, *, thread_id: str, owner: str | None = None) -> None:
        super().__init__(message)
        self.thread_id = thread_id
        self.owner = owner

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException.__reduce__ would call the class with the message only.
        return partial(type(self), thread_id=self.thread_id, owner=self.owner), self.args


class CheckFailedError(GCSSaverError, RuntimeError):
    """What is stored does not fit the graph that should resume it, or refers to what has changed. Nothing ran.

    Attributes:
        thread_id: The thread.
        missing: The nodes that are due, and that the graph does not have.
        findings: What the check of the references and the graph found, if `run` was called with `references="raise"`.
    """

    kind = "check-failed"
    exit_code = 2

    def __init__(
        self, message: str, *, thread_id: str, missing: tuple[str, ...] = (), findings: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(message)
        self.thread_id = thread_id
        self.missing = missing
        self.findings = findings

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(type(self), thread_id=self.thread_id, missing=self.missing, findings=self.findings)
        return again, self.args


class SetAbortedError(GCSSaverError, RuntimeError):
    """A consistent set of a team's checkpoints was not committed. No checkpoint changed; call again.

    Attributes:
        team: The team.
        set_id: The set.
        missing: The members that had no checkpoint, or that continued each time until the timeout.
    """

    kind = "set-aborted"
    exit_code = 6

    def __init__(self, message: str, *, team: str, set_id: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.team = team
        self.set_id = set_id
        self.missing = missing

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), team=self.team, set_id=self.set_id, missing=self.missing), self.args


class ThreadInSetError(GCSSaverError, RuntimeError):
    """A consistent set of a team needs a checkpoint of the thread. Nothing was deleted.

    Attributes:
        thread_id: The thread.
        sets: The sets, each with its team.
    """

    kind = "thread-in-set"
    exit_code = 2

    def __init__(self, message: str, *, thread_id: str, sets: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.thread_id = thread_id
        self.sets = sets

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), thread_id=self.thread_id, sets=self.sets), self.args


class FencedError(GCSSaverError, RuntimeError):
    """This process has lost the thread's lease, so nothing of this call was stored. Stop the run.

    Attributes:
        thread_id: The thread.
    """

    kind = "fenced"
    exit_code = 10

    def __init__(self, message: str, *, thread_id: str) -> None:
        super().__init__(message)
        self.thread_id = thread_id

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), thread_id=self.thread_id), self.args


class NotPrimaryError(GCSSaverError, RuntimeError):
    """The store is not the primary of the two that replicate each other, so the call was refused.

    A service answers with the status 503 and the header `Retry-After`, until the failover has ended, or it uses the
    other store.

    Attributes:
        role: What the store is: `replica`, or `fenced` if it was the primary.
        other: The connection string of the other store.
        epoch: The number of the change of roles that made it so.
        retry_after: Seconds after which a caller may try again, for the header.
    """

    kind = "not-primary"
    exit_code = 10
    retry_after: ClassVar[int] = 5

    def __init__(self, message: str, *, role: str, other: str, epoch: int) -> None:
        super().__init__(message)
        self.role = role
        self.other = other
        self.epoch = epoch

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), role=self.role, other=self.other, epoch=self.epoch), self.args


class LeaseMismatchError(GCSSaverError, RuntimeError):
    """A config has another thread's lease, or none although the saver has `writers="leased"`. Nothing was stored."""

    kind = "lease-mismatch"
    exit_code = 2


class OperationFailedError(GCSSaverError, RuntimeError):
    """An operation has failed with an exception that is an answer, whose class the repeated call does not name.

    Attributes:
        key: The operation's key.
    """

    kind = "operation-failed"

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), key=self.key), self.args


class StoreError(GCSSaverError):
    """Firestore, Cloud Storage or the embedded store rejected a request."""

    kind = "store"
    exit_code = 7


class PermissionDeniedError(StoreError, PermissionError):
    """The credentials lack a permission; the message names the roles that grant it."""

    kind = "permission-denied"


class StoreNotFoundError(StoreError):
    """The bucket, database or directory does not exist. `setup()` creates a bucket or directory if it may."""

    kind = "store-not-found"


class TableMismatchError(StoreError):
    """A table of analytics does not have the columns of the rows. The rows were not written."""

    kind = "table-mismatch"


class WrongStoreError(StoreError):
    """The documents belong to another bucket or prefix than the saver was given. Nothing was changed.

    Name the right one. If the objects were moved on purpose, call `rebind`.
    """

    kind = "wrong-store"


class StoreUnavailableError(StoreError, ConnectionError):
    """No answer before the deadline, or the service is unavailable. The request may have taken effect: call again."""

    kind = "unavailable"


class CheckpointVerificationError(StoreError):
    """The service returned other data than was written, at each attempt.

    The write was withdrawn: no checkpoint or pending write of this call is visible. The caller still has the state.
    One case is different, and the message says so. If an earlier call has stored the regular writes of a task, the
    special writes of this call may stay beside them. Call again, and find out whether something changes data in
    transit, such as a proxy, or at rest.
    """

    kind = "verification"


class SourceError(StoreError):
    """The checkpointer that a migration reads from failed; its exception is the cause. Fix that, and call again.

    Also raised if the source is a `GCSSaver` in which the thread is damaged: repair it there, and call again.
    """

    kind = "source"


UNREADABLE = (
    ClearTextError,
    DamageError,
    SerializationError,
    UnsupportedFormatError,
    ValueTooLargeError,
    WrongKeyError,
)
"""Errors that a method raises because of the stored data of one thread; the other threads remain usable."""

_BUBBLING = (
    "BatchChangedError",
    "BatchDoneError",
    "BatchError",
    "CompensationMissingError",
    "NotDurableError",
    "OperationError",
    "OperationFencedError",
    "OperationInProgressError",
    "OperationMismatchError",
    "OperationNotPrimaryError",
    "OutcomeUnknownError",
    "ResultNotStoredError",
    "SagaError",
    "SagaRolledBack",
    "SagaStuckError",
)
"""Classes of `errors.bubbling`, which imports LangGraph. That takes a second, so it is done on first use."""


def __getattr__(name: str) -> type[GCSSaverError]:
    if name in _BUBBLING:
        found: type[GCSSaverError] = getattr(import_module(f"{__name__}.bubbling"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_BUBBLING})
