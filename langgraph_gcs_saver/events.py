"""What the saver tells while it works: typed, frozen events. Logging is one consumer; metrics can be others.

Events name threads, namespaces, checkpoints and channels, counts and bytes; never state content.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar

from langgraph_gcs_saver.records import record


@record(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; `level` is the `logging` level at which the log shows it."""

    level: ClassVar[int] = logging.DEBUG

    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str = ""


@record(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint became durable and visible.

    Attributes:
        inline_bytes: Bytes of frames in its document.
        object_bytes: Bytes of frames uploaded to Cloud Storage.
        objects: Number of objects uploaded.
        attempts: Commits tried; more than one after a conflict or a lost answer.
    """

    inline_bytes: int
    object_bytes: int
    objects: int
    attempts: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointLoaded(Event):
    """A checkpoint was read and verified.

    Attributes:
        channels: Channels with a value.
        size: Bytes of their serialised values.
    """

    channels: int
    size: int


@record(frozen=True, slots=True, kw_only=True)
class ParentForked(Event):
    """The parent already had another child: a fork, or a second writer on the same thread. Both are kept.

    A thread forks at its beginning too, when two first runs start together. The second checkpoint without a parent is
    reported with `parent_id` and `sibling_id` of `None`, in the root namespace only.

    Attributes:
        parent_id: The checkpoint with several children; `None` for a second checkpoint without a parent.
        sibling_id: The child that was there before; `None` if `parent_id` is.
    """

    level: ClassVar[int] = logging.INFO

    parent_id: str | None
    sibling_id: str | None


@record(frozen=True, slots=True, kw_only=True)
class CheckpointOutOfOrder(Event):
    """A checkpoint whose id sorts before its parent's (clock skew): "latest" would show the parent.

    Attributes:
        parent_id: The parent's id.
    """

    level: ClassVar[int] = logging.WARNING

    parent_id: str


@record(frozen=True, slots=True, kw_only=True)
class CheckpointReplaced(Event):
    """`put` came again for an id with other content; the newer content was kept."""

    level: ClassVar[int] = logging.INFO


@record(frozen=True, slots=True, kw_only=True)
class VerificationFailed(Event):
    """What was written reads differently; it is withdrawn and written anew.

    Attributes:
        name: The document or object.
        attempt: How often it has happened to this call.
    """

    level: ClassVar[int] = logging.WARNING

    name: str
    attempt: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointDamaged(Event):
    """A checkpoint that was asked for, or the latest one, is damaged.

    Attributes:
        reason: What is wrong with it.
        channel: The channel whose value is damaged, if it is one channel's.
        name: Where the damaged bytes lie: a document's or an object's name, if known.
    """

    level: ClassVar[int] = logging.WARNING

    reason: str
    channel: str | None = None
    name: str | None = None


@record(frozen=True, slots=True, kw_only=True)
class CheckpointRecovered(Event):
    """The latest checkpoint is damaged, and the newest whole one was given in its place.

    Attributes:
        recovered_from: Id of the damaged checkpoint.
    """

    level: ClassVar[int] = logging.WARNING

    recovered_from: str


@record(frozen=True, slots=True, kw_only=True)
class CheckpointSkipped(Event):
    """A listing stepped over a damaged checkpoint; one of all threads also over one of a newer version, or in clear.

    Attributes:
        reason: What is wrong with it.
    """

    level: ClassVar[int] = logging.WARNING

    reason: str


@record(frozen=True, slots=True, kw_only=True)
class ClearTextAccepted(Event):
    """With `accept_clear`, something of a thread was read for which the cipher does not vouch; once a saver's process.

    It was stored in clear, or encrypted and not bound to its place.
    """

    level: ClassVar[int] = logging.WARNING


@record(frozen=True, slots=True, kw_only=True)
class ClearTextEncrypted(Event):
    """With `accept_clear`, a copy or a repair is about to encrypt documents for which the cipher did not vouch.

    From then on it does: if anybody planted one of them, nothing tells it from the others any more. Each call reports
    its own, whatever was accepted before. The thread is the one in which they are encrypted.

    Attributes:
        documents: How many of its documents were stored in clear, or encrypted and not bound to their place.
    """

    level: ClassVar[int] = logging.WARNING

    documents: int


@record(frozen=True, slots=True, kw_only=True)
class ThreadDeleted(Event):
    """`delete_thread` removed everything of a thread.

    Attributes:
        documents: Documents deleted.
        objects: Objects deleted.
    """

    level: ClassVar[int] = logging.INFO

    documents: int
    objects: int


@record(frozen=True, slots=True, kw_only=True)
class ThreadPruned(Event):
    """Checkpoints of a thread were removed, and the rest was kept.

    Attributes:
        checkpoints: Checkpoints removed.
        objects: Objects deleted.
    """

    level: ClassVar[int] = logging.INFO

    checkpoints: int
    objects: int


@record(frozen=True, slots=True, kw_only=True)
class ThreadCollected(Event):
    """`collect` deleted what nothing referred to.

    Attributes:
        documents: Documents of removed checkpoints, and of pending writes, deleted.
        objects: Objects deleted.
        bytes: Their stored bytes.
    """

    level: ClassVar[int] = logging.INFO

    documents: int
    objects: int
    bytes: int


@record(frozen=True, slots=True, kw_only=True)
class ThreadSkipped(Event):
    """`collect`, `sweep`, `verify`, `repair`, or whatever prunes, left a thread alone, or did not finish it.

    Attributes:
        reason: Why.
    """

    level: ClassVar[int] = logging.WARNING

    reason: str


EventHandler = Callable[[Event], None]
"""`on_event`: called on the thread that works, between two steps of it; keep it short and let it not raise."""
