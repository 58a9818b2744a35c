"""The exceptions of this library, grouped by what a handler would do.

    GCSSaverError
    ├── InvalidInputError (ValueError)      mend the call: nothing was written
    │   ├── InvalidURIError                 a connection string that names no store
    │   ├── InvalidOptionError              an option outside its range
    │   ├── InvalidConfigError (KeyError)   a `RunnableConfig` without what the method needs
    │   ├── InvalidIdError                  an id that the services cannot hold
    │   └── ValueTooLargeError              a value over `max_value_bytes`: raise it, or store less in the state
    ├── SerializationError (TypeError)      mend the state or the serialiser; a write that failed wrote nothing
    ├── SaverClosedError (RuntimeError)     make a new saver
    ├── DamageError                         stored data is not what was written
    │   └── CheckpointCorruptError          … of one checkpoint: read another, or repair it
    ├── WrongKeyError                       encrypted with another key: pass the `cipher` that wrote it
    ├── ClearTextError                      not protected by the `cipher`: see whose it is; `accept_clear` or repair
    ├── UnsupportedFormatError              stored by a newer version: upgrade this library
    ├── ConflictError                       lost too many races for one document: call again
    └── StoreError                          the service said no
        ├── PermissionDeniedError (PermissionError)   grant the role that the message names
        ├── StoreNotFoundError              create the bucket or database that the message names
        ├── WrongStoreError                 name the bucket and prefix that the documents belong to, or call `rebind`
        ├── StoreUnavailableError (ConnectionError)   call again later; also raised at the deadline
        ├── CheckpointVerificationError     the service gives back something else than was written: nothing is visible
        └── SourceError                     another checkpointer, that is migrated from, failed: see what it raised

Each class has a `kind`: a stable, machine-readable word, only ever added to. Messages name threads, checkpoints and
channels, never state content or credentials.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar


class GCSSaverError(Exception):
    """Base of every error that this library raises on purpose.

    Attributes:
        store: The name of the store that the error comes from, if the call uses several: `source` and `target` of a
            transfer.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    store: str | None = None

    def __str__(self) -> str:
        # KeyError would show the repr of its message, quotes and all.
        message = str(self.args[0]) if self.args else ""
        return message if self.store is None else f"Store {self.store!r}: {message}"


class InvalidInputError(GCSSaverError, ValueError):
    """The call cannot be carried out as it is. Nothing was written."""

    kind = "invalid-input"
    exit_code = 2


class InvalidURIError(InvalidInputError):
    """A connection string that does not name a store."""

    kind = "invalid-uri"


class InvalidOptionError(InvalidInputError):
    """An option of the wrong type or out of its range."""

    kind = "invalid-option"


class InvalidConfigError(InvalidInputError, KeyError):
    """A `RunnableConfig` that lacks what the method needs, such as `thread_id`."""

    kind = "invalid-config"


class InvalidIdError(InvalidInputError):
    """An id that Firestore or Cloud Storage cannot hold as a name."""

    kind = "invalid-id"


class ValueTooLargeError(InvalidInputError):
    """A value that is, or that a stored manifest says to be, larger than the option `max_value_bytes`.

    Also the values of one checkpoint, or its pending writes, that together have 64 times as much; and of what a writer
    passes, more channels, fields, metadata or writes of one call than readers parse. A reader refuses a value before it
    allocates anything, because frames can be made that decompress to any size.
    """

    kind = "value-too-large"


class SerializationError(GCSSaverError, TypeError):
    """A value that the serialiser cannot write, and then nothing was written; or bytes that it refuses to read."""

    kind = "serialization"
    exit_code = 3


class SaverClosedError(GCSSaverError, RuntimeError):
    """The saver was closed; make a new one."""

    kind = "closed"
    exit_code = 2


class DamageError(GCSSaverError):
    """Stored data is missing or differs from its digest."""

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
        channel: The channel whose value is damaged, if it is one channel's.
        frame: Where the damaged bytes lie: a document's or an object's name.
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
            "mend the thread with `repair`, or restore the stored bytes from a backup."
        )
        self.reason = reason
        self.thread_id = thread_id
        self.checkpoint_ns = checkpoint_ns
        self.checkpoint_id = checkpoint_id
        self.channel = channel
        self.frame = frame

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own would call the class with the finished message only.
        ids = {"thread_id": self.thread_id, "checkpoint_ns": self.checkpoint_ns, "checkpoint_id": self.checkpoint_id}
        return partial(type(self), channel=self.channel, frame=self.frame, **ids), (self.reason,)


class WrongKeyError(GCSSaverError):
    """An encrypted document that the saver's `cipher` cannot decrypt. It is not damaged: pass the right one."""

    kind = "wrong-key"
    exit_code = 8


class ClearTextError(GCSSaverError):
    """A saver with a `cipher` met what that does not vouch for: stored in clear, or not bound to its place.

    Either it was stored before the cipher was used, or before ciphertexts were bound; or somebody without the key put
    it there. So it never becomes state, and nothing falls back.

    Attributes:
        thread_id: The thread, as its document names it.
        checkpoint_ns: The namespace; empty for the root graph.
        checkpoint_id: The checkpoint that is not read.
        channel: The channel whose value it is, if it is one channel's.
        frame: Where it lies: a document's or an object's name.
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
            f"{reason} ({where}). Anyone who can write to the store could have made it. If the thread is from before "
            "the cipher, open the saver with accept_clear=True until it is migrated; if not, `repair` sets it aside."
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
    """Other writers changed the same document more often than this call tries. Nothing was written; call again."""

    kind = "conflict"
    exit_code = 6


class StoreError(GCSSaverError):
    """Firestore, Cloud Storage or the embedded store refused a request."""

    kind = "store"
    exit_code = 7


class PermissionDeniedError(StoreError, PermissionError):
    """The credentials lack a permission; the message names the roles that give it."""

    kind = "permission-denied"


class StoreNotFoundError(StoreError):
    """The bucket, database or directory does not exist; `setup()` creates what it may."""

    kind = "store-not-found"


class WrongStoreError(StoreError):
    """The documents belong to another bucket or prefix than the saver was given. Nothing was changed.

    Name the right one. If the objects were moved on purpose, `rebind` says so to the store.
    """

    kind = "wrong-store"


class StoreUnavailableError(StoreError, ConnectionError):
    """No answer before the deadline, or the service is unavailable. What was asked may have happened: call again."""

    kind = "unavailable"


class CheckpointVerificationError(StoreError):
    """What the service gave back differs from what was written, each time that it was written.

    What was written was withdrawn: no checkpoint or pending write of this call is visible. The state is still in the
    caller's hands; call again, and see whether something changes data on its way (a proxy) or at rest.
    """

    kind = "verification"


class SourceError(StoreError):
    """The checkpointer that a migration reads from failed; what it raised is the cause. Mend that, and call again.

    Also raised if that is a `GCSSaver` and the thread is damaged there: repair it there, and call again.
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
"""What a method raises because of what is stored of one thread; the other threads can be used all the same."""
