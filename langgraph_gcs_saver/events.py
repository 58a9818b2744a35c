"""What the saver reports while it works: typed, frozen events, and those who listen to them.

Events name threads, namespaces, checkpoints and channels, counts, bytes and seconds; never state content.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ClassVar, Literal

from langgraph_gcs_saver.records import record

logger = logging.getLogger("langgraph_gcs_saver")

Outcome = Literal["stored", "found", "loaded", "recovered", "none", "failed", "interrupted"]
"""How a call ended, in one word."""


@record(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; `level` is the `logging` level at which the log shows it."""

    level: ClassVar[int] = logging.DEBUG

    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str = ""


# How calls end


@record(frozen=True, slots=True, kw_only=True)
class CallEnded(Event):
    """Base of the events that LangGraph's calls end with, exactly one for each call.

    The calls are `put`, `put_writes`, `get_tuple`, `get_delta_channel_history` and their asynchronous twins. A `list`
    ends with one for each page that it reads.

    Attributes:
        seconds: How long the call took, serialization included, by a clock that is never set back.
        run_id: The run that called, if the config or the metadata name it.
        outcome: How it ended.
    """

    seconds: float
    run_id: str | None
    outcome: Outcome


@record(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(CallEnded):
    """`put` returned: a checkpoint is durable and visible.

    Its outcome is `stored`, or `found` if the same checkpoint was there already: an earlier call stored it, or this one
    did and the answer was lost.

    Attributes:
        lag: Seconds from the time in the checkpoint (`ts`) to the end of the call, by this machine's clock; `None` if
            the checkpoint has no such time.
        channels: Channels with a value.
        size: Bytes of their serialized values, inherited ones included.
        inline_bytes: Bytes of frames stored in its document.
        object_bytes: Bytes of frames uploaded to Cloud Storage.
        objects: Number of objects uploaded.
        attempts: Commits tried; more than one after a conflict or a lost answer.
    """

    lag: float | None
    channels: int
    size: int
    inline_bytes: int
    object_bytes: int
    objects: int
    attempts: int


@record(frozen=True, slots=True, kw_only=True)
class WritesSaved(CallEnded):
    """`put_writes` returned: what a task wrote is durable and visible.

    Its outcome is `stored`, or `found` if everything was there already, as when LangGraph repeats a call.

    Attributes:
        task_id: The task.
        writes: Number of writes.
        size: Bytes of their serialized values.
        inline_bytes: Bytes stored in documents.
        object_bytes: Bytes uploaded to Cloud Storage.
        objects: Number of objects uploaded.
        attempts: Commits tried.
    """

    task_id: str
    writes: int
    size: int
    inline_bytes: int
    object_bytes: int
    objects: int
    attempts: int


@record(frozen=True, slots=True, kw_only=True)
class PutFailed(CallEnded):
    """`put` or `put_writes` raised. What it was to store may be there all the same, if an answer was lost.

    Its outcome is `failed`, or `interrupted` if the call was canceled or a signal ended it. The caller has the
    exception, so the log does not warn.

    Attributes:
        call: The method, without the `a` of its asynchronous twin.
        error: The name of the exception's class.
        kind: The stable word of this library's exceptions; empty for others.
        message: What this library's exception says, which never is state; empty for others, which may quote it.
    """

    level: ClassVar[int] = logging.INFO

    call: Literal["put", "put_writes"]
    error: str
    kind: str
    message: str


@record(frozen=True, slots=True, kw_only=True)
class CheckpointLoaded(CallEnded):
    """`get_tuple` returned a checkpoint, read and verified.

    Its outcome is `loaded`, or `recovered` if an older whole checkpoint was given in place of a damaged latest one.

    Attributes:
        channels: Channels with a value.
        size: Bytes of the serialized values and pending writes.
        inline_bytes: Bytes of frames in its document.
        object_bytes: Bytes read from Cloud Storage.
    """

    channels: int
    size: int
    inline_bytes: int
    object_bytes: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointNotFound(CallEnded):
    """`get_tuple` returned `None`: the thread is new, or it has no checkpoint of that id. Its outcome is `none`."""


@record(frozen=True, slots=True, kw_only=True)
class CheckpointsListed(CallEnded):
    """`list` read a page. Its outcome is `loaded`. `seconds` are the page's, without what the caller does between two.

    Attributes:
        checkpoints: Checkpoints in the page.
        size: Bytes of their serialized values and pending writes.
        object_bytes: Bytes read from Cloud Storage.
    """

    checkpoints: int
    size: int
    object_bytes: int


@record(frozen=True, slots=True, kw_only=True)
class HistoryLoaded(CallEnded):
    """`get_delta_channel_history` returned. Its outcome is `loaded`.

    Attributes:
        channels: Channels whose history was asked for.
        writes: Writes that were found for them.
    """

    channels: int
    writes: int


@record(frozen=True, slots=True, kw_only=True)
class GetFailed(CallEnded):
    """`get_tuple`, `list` or `get_delta_channel_history` raised.

    Its outcome is `failed`, or `interrupted` if the call was canceled or a signal ended it. The caller has the
    exception, so the log does not warn.

    Attributes:
        call: The method, without the `a` of its asynchronous twin.
        error: The name of the exception's class.
        kind: The stable word of this library's exceptions; empty for others.
        message: What this library's exception says, which never is state; empty for others, which may quote it.
    """

    level: ClassVar[int] = logging.INFO

    call: Literal["get_tuple", "list", "get_delta_channel_history"]
    error: str
    kind: str
    message: str


# What happens on the way


@record(frozen=True, slots=True, kw_only=True)
class Retried(Event):
    """A service did not answer a request, or answered that it may be tried again, and it will be.

    A store does not know whose request it is, so `thread_id` is empty. The embedded store reports nothing: it only
    waits for other writers.

    Attributes:
        service: The service, with its database or bucket.
        request: What was asked of it: the name of the RPC in Firestore, such as `Commit`; of the effect in Cloud
            Storage, such as `PutBlob`.
        attempt: The attempt that failed; the first one is 1.
        reason: What it met: a status or the class of an exception.
        pause: Seconds until the next attempt.
    """

    level: ClassVar[int] = logging.INFO

    thread_id: str = ""
    service: str
    request: str
    attempt: int
    reason: str
    pause: float


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
    """A checkpoint that was asked for, or the latest one, is damaged; or what `put_writes` found where it stores.

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

    From then on it does, so a planted document can no longer be told from the others. Each call reports its own,
    whatever was accepted before. The thread is the one in which they are encrypted.

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


EventHandler = Callable[[Event], object]
"""Called with an event, on the thread that works, between two steps of it: keep it short."""


class Subscribers:
    """Those who listen to a saver: the log, and any number of handlers.

    It holds no lock: each operation on a dict is atomic, so a process that forks meanwhile leaves nothing locked in its
    child, which keeps the handlers.
    """

    def __init__(self) -> None:
        self._handlers: dict[object, EventHandler] = {}

    def subscribe(self, handler: EventHandler) -> Callable[[], None]:
        """Call a handler with every event from now on, until the function that this returns is called."""
        key = object()  # Not the handler: each subscription of it counts by itself.
        self._handlers[key] = handler

        def unsubscribe() -> None:
            self._handlers.pop(key, None)

        return unsubscribe

    def want(self, kind: type[Event]) -> bool:
        """Whether anyone would see an event of a class, so that it is worth making."""
        return bool(self._handlers) or logger.isEnabledFor(kind.level)

    def emit(self, event: Event) -> None:
        """Report to the log and the handlers; a handler that raises is logged, because what it heard has happened."""
        logger.log(event.level, "%r", event)
        for handler in tuple(self._handlers.values()):
            try:
                handler(event)
            except Exception:  # noqa: PERF203 - one that fails does not keep the event from the others
                logger.exception("An event handler failed for %s", type(event).__name__)
