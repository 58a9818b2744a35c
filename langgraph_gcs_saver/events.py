"""What the saver reports while it works: typed, frozen events, and their subscribers.

Events contain names of threads, namespaces, checkpoints, channels, teams and sagas, and counts, bytes and seconds. They
never contain state.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import field
from threading import Thread, current_thread
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("langgraph_gcs_saver")

Outcome = Literal["stored", "found", "loaded", "recovered", "none", "failed", "interrupted"]
"""How a call ended, in one word."""

RunOutcome = Literal["finished", "returned", "waiting", "drained", "failed", "interrupted"]
"""How a call of `run` ended, as `RunEnded` explains it."""


class _Later:
    """What an event is as long as only its thread is known. The other fields are set when one of them is read."""

    __slots__ = ("_make",)

    if TYPE_CHECKING:  # A type checker knows the fields.
        _make: Callable[[], Mapping[str, Any]]
    else:

        def __getattr__(self, name: str) -> Any:
            if name not in self.__dataclass_fields__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            made = self._make()
            for field_name, value in made.items():
                setattr(self, field_name, value)
            return made[name]


@record(frozen=True, slots=True, kw_only=True)
class Event(_Later):
    """Base of all events; `level` is the `logging` level at which an event is logged."""

    level: ClassVar[int] = logging.DEBUG

    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str = ""

    @classmethod
    def later(cls, thread_id: str, make: Callable[[], Mapping[str, Any]]) -> Self:
        """An event whose other fields `make` returns, all of them, when one is first read. Any thread may read it."""
        event = cls.__new__(cls)
        event.thread_id, event._make = thread_id, make  # type: ignore[misc] # it is not complete yet
        return event


# How calls end


@record(frozen=True, slots=True, kw_only=True)
class CallEnded(Event):
    """Base of the events that end LangGraph's calls, exactly one for each call.

    The calls are `put`, `put_writes`, `get_tuple`, `get_delta_channel_history` and their asynchronous twins. `list`
    reports one for each page that it reads.

    Attributes:
        seconds: How long the call took, serialization included, by a monotonic clock.
        run_id: The run that called, if the config or the metadata name it.
        outcome: How the call ended.
        labels: The metadata that the option `labels` names, as text. After 50 values of a name, a new one is `other`.
    """

    seconds: float
    run_id: str | None
    outcome: Outcome
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@record(frozen=True, slots=True)
class ValueStored:
    """A value that a put has stored, or a DeltaChannel's snapshot.

    Attributes:
        channel: Its channel.
        size: Bytes of the serialized value.
        stored: Bytes that this put has stored for it.
        frames: Frames that a reader needs; 1 for a value that is stored in full.
    """

    channel: str
    size: int
    stored: int
    frames: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(CallEnded):
    """`put` returned: a checkpoint is durable and visible.

    Its outcome is `stored`, or `found` if the same checkpoint was there already: an earlier call stored it, or this one
    did and the answer was lost.

    Attributes:
        lag: Seconds from the time in the checkpoint (`ts`) to the end of the call, by this machine's clock; `None` if
            the checkpoint has no such time.
        channels: Number of channels with a value.
        size: Bytes of their serialized values, inherited ones included.
        inline_bytes: Bytes of frames stored in the checkpoint's document.
        object_bytes: Bytes of frames uploaded to Cloud Storage.
        objects: Number of objects uploaded.
        attempts: Number of commits tried; more than one after a conflict or a lost answer.
        parent_id: The parent; `None` for the first checkpoint of a thread or namespace.
        step: The number of the step, if the metadata have one.
        source: What made it: `input`, `loop`, `update` or `fork`; empty if the metadata do not say it.
        values: What was stored for each channel whose value is new. Inherited values are not here, nor empty ones.
    """

    lag: float | None
    channels: int
    size: int
    inline_bytes: int
    object_bytes: int
    objects: int
    attempts: int
    parent_id: str | None
    step: int | None
    source: str
    values: tuple[ValueStored, ...]


@record(frozen=True, slots=True, kw_only=True)
class WritesSaved(CallEnded):
    """`put_writes` returned: a task's writes are durable and visible.

    Its outcome is `stored`, or `found` if all of them were there already, as when LangGraph repeats a call.

    Attributes:
        task_id: The task.
        which: Which of the task's writes these are: a digest of the numbers and channels of the regular ones, or `s` if
            all are special (an error, interrupts, answers). A task that was interrupted stores both.
        writes: Number of writes.
        size: Bytes of their serialized values.
        inline_bytes: Bytes stored in documents.
        object_bytes: Bytes uploaded to Cloud Storage.
        objects: Number of objects uploaded.
        attempts: Number of commits tried.
    """

    task_id: str
    which: str
    writes: int
    size: int
    inline_bytes: int
    object_bytes: int
    objects: int
    attempts: int


@record(frozen=True, slots=True, kw_only=True)
class PutFailed(CallEnded):
    """`put` or `put_writes` raised. If an answer was lost, the data may be stored nevertheless.

    Its outcome is `failed`, or `interrupted` if the call was canceled or a signal ended it. The level is not a warning,
    because the caller has the exception.

    Attributes:
        call: The method, without the `a` of its asynchronous twin.
        error: The name of the exception's class.
        kind: The exception's `kind` if this library defines it; empty for other exceptions.
        message: The exception's message if this library defines it, because that never contains state. Empty for other
            exceptions, because their messages may contain it.
    """

    level: ClassVar[int] = logging.INFO

    call: Literal["put", "put_writes"]
    error: str
    kind: str
    message: str


@record(frozen=True, slots=True, kw_only=True)
class CheckpointLoaded(CallEnded):
    """`get_tuple` returned a checkpoint, read and verified.

    Its outcome is `loaded`, or `recovered` if it returned an older whole checkpoint in place of a damaged latest one.

    Attributes:
        channels: Number of channels with a value.
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
    """`get_tuple` returned `None`: the thread is new, or has no checkpoint with that id. Its outcome is `none`."""


@record(frozen=True, slots=True, kw_only=True)
class CheckpointsListed(CallEnded):
    """`list` read a page. Its outcome is `loaded`. `seconds` excludes what the caller does between two pages.

    Attributes:
        checkpoints: Number of checkpoints in the page.
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
        channels: Number of channels whose history was requested.
        writes: Number of writes that were found for them.
    """

    channels: int
    writes: int


@record(frozen=True, slots=True, kw_only=True)
class GetFailed(CallEnded):
    """`get_tuple`, `list` or `get_delta_channel_history` raised.

    Its outcome is `failed`, or `interrupted` if the call was canceled or a signal ended it. The level is not a warning,
    because the caller has the exception.

    Attributes:
        call: The method, without the `a` of its asynchronous twin.
        error: The name of the exception's class.
        kind: The exception's `kind` if this library defines it; empty for other exceptions.
        message: The exception's message if this library defines it, because that never contains state. Empty for other
            exceptions, because their messages may contain it.
    """

    level: ClassVar[int] = logging.INFO

    call: Literal["get_tuple", "list", "get_delta_channel_history"]
    error: str
    kind: str
    message: str


# What happens during a call


@record(frozen=True, slots=True, kw_only=True)
class Retried(Event):
    """A service did not answer a request, or rejected it with a status that allows a retry. The store will retry it.

    A store does not know which thread a request belongs to, so `thread_id` is empty. The embedded store does not report
    this event, because it only waits for other writers.

    Attributes:
        service: The service, with its database or bucket.
        request: The request: for Firestore the name of the RPC, such as `Commit`; for Cloud Storage the name of the
            effect, such as `PutBlob`.
        attempt: The attempt that failed; the first one is 1.
        reason: Why it failed: a status, or the class of an exception.
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

    A thread also forks at its beginning if two first runs start together. This event then reports the second checkpoint
    without a parent, with `parent_id` and `sibling_id` of `None`. It does so in the root namespace only.

    Attributes:
        parent_id: The checkpoint with several children; `None` for a second checkpoint without a parent.
        sibling_id: The child that was there before; `None` if `parent_id` is `None`.
    """

    level: ClassVar[int] = logging.INFO

    parent_id: str | None
    sibling_id: str | None


@record(frozen=True, slots=True, kw_only=True)
class CheckpointOutOfOrder(Event):
    """A checkpoint's id sorts before its parent's, because of clock skew. A read of the latest would give the parent.

    Attributes:
        parent_id: The parent's id.
    """

    level: ClassVar[int] = logging.WARNING

    parent_id: str


@record(frozen=True, slots=True, kw_only=True)
class CheckpointReplaced(Event):
    """`put` stored other content under the id of an existing checkpoint; the newer content was kept."""

    level: ClassVar[int] = logging.INFO


@record(frozen=True, slots=True, kw_only=True)
class VerificationFailed(Event):
    """Data reads differently than it was written; it is withdrawn and written again.

    Attributes:
        name: The document or object.
        attempt: How often this has happened in this call.
    """

    level: ClassVar[int] = logging.WARNING

    name: str
    attempt: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointDamaged(Event):
    """The checkpoint that a call requested, or the latest one, is damaged; or `put_writes` replaced damaged writes.

    Attributes:
        reason: What is wrong with it.
        channel: The channel whose value is damaged, if the damage is in one channel.
        name: The name of the document or object that holds the damaged bytes, if known.
    """

    level: ClassVar[int] = logging.WARNING

    reason: str
    channel: str | None = None
    name: str | None = None


@record(frozen=True, slots=True, kw_only=True)
class CheckpointRecovered(Event):
    """The latest checkpoint is damaged, and the call returned the newest whole one in its place.

    Attributes:
        recovered_from: Id of the damaged checkpoint.
    """

    level: ClassVar[int] = logging.WARNING

    recovered_from: str


@record(frozen=True, slots=True, kw_only=True)
class CheckpointSkipped(Event):
    """A listing skipped a damaged checkpoint. One of all threads also skips those of a newer version, or in clear.

    Attributes:
        reason: What is wrong with it.
    """

    level: ClassVar[int] = logging.WARNING

    reason: str


@record(frozen=True, slots=True, kw_only=True)
class ClearTextAccepted(Event):
    """With `accept_clear`, the saver read data of a thread that the cipher does not vouch for.

    The data was stored in clear, or encrypted and not bound to its place. A saver reports this once for each thread in
    each process. The thread is empty for data of teams, of operations that all threads share, and of dictionaries.
    """

    level: ClassVar[int] = logging.WARNING


@record(frozen=True, slots=True, kw_only=True)
class ClearTextEncrypted(Event):
    """A copy, a repair or a migration is about to encrypt documents that the cipher did not vouch for.

    A saver with `accept_clear` has read them. From then on the cipher vouches for them, so a planted document no longer
    differs from the others. Each call reports its own documents, even if they were accepted before. The event's thread
    is the one in which they are encrypted. A migration counts the source's documents, and the target reports them. The
    thread is empty for the objects of trained dictionaries, which a repair encrypts.

    Attributes:
        documents: How many of its documents were stored in clear, or encrypted and not bound to their place.
    """

    level: ClassVar[int] = logging.WARNING

    documents: int


@record(frozen=True, slots=True, kw_only=True)
class OperationLate(Event):
    """An attempt at an operation has ended after another attempt, or a person, had taken its place.

    Its outcome is stored beside the other one. Find out whether the operation took effect twice.

    Attributes:
        thread_id: The thread; empty if all threads share the operation.
        key: The operation's key.
        operation: The operation's name.
        attempt: The number of the late attempt.
        outcome: Its outcome.
        state: The state of the operation, which stays.
    """

    level: ClassVar[int] = logging.WARNING

    key: str
    operation: str
    attempt: int
    outcome: str
    state: str


@record(frozen=True, slots=True, kw_only=True)
class ThreadDeleted(Event):
    """`delete_thread` removed everything of a thread.

    Attributes:
        documents: Number of documents deleted.
        objects: Number of objects deleted.
    """

    level: ClassVar[int] = logging.INFO

    documents: int
    objects: int


@record(frozen=True, slots=True, kw_only=True)
class ThreadPruned(Event):
    """Checkpoints of a thread were removed, and the rest was kept.

    Attributes:
        checkpoints: Number of checkpoints removed.
        objects: Number of objects deleted.
    """

    level: ClassVar[int] = logging.INFO

    checkpoints: int
    objects: int


@record(frozen=True, slots=True, kw_only=True)
class ThreadCollected(Event):
    """`collect` deleted the orphans of a thread.

    Attributes:
        documents: Number of documents deleted: of removed checkpoints, and of pending writes.
        objects: Number of objects deleted.
        bytes: Stored bytes of these objects.
    """

    level: ClassVar[int] = logging.INFO

    documents: int
    objects: int
    bytes: int


@record(frozen=True, slots=True, kw_only=True)
class ThreadSkipped(Event):
    """`collect`, `sweep`, `verify`, `repair`, `runs` or a pruning call left a thread alone, or did not finish it.

    Attributes:
        reason: Why.
    """

    level: ClassVar[int] = logging.WARNING

    reason: str


@record(frozen=True, slots=True, kw_only=True)
class LeaseTakenOver(Event):
    """A lease was acquired that its holder had not released: it expired after a crash, or was taken from a live holder.

    Attributes:
        owner: The new holder.
        token: The number of the new holder.
        former: The former holder.
        former_run_id: What the former holder's checkpoints have as `run_id`, unless its configs named their own.
        downtime: Seconds since the former holder's last sign of life, by the service's clock.
        is_expired: Whether the lease had expired, so its holder has crashed, or cannot reach the store.
    """

    level: ClassVar[int] = logging.WARNING

    owner: str
    token: int
    former: str
    former_run_id: str
    downtime: float
    is_expired: bool


@record(frozen=True, slots=True, kw_only=True)
class RestoreTooSlow(Event):
    """A read of the newest checkpoint took longer than the objective, or would take longer in a fresh process.

    The objective is the one of the run, else the saver's. An estimate assumes rates of Google's services, and that no
    value is in memory.

    Attributes:
        seconds: How long the read took, or would take.
        is_estimated: Whether the seconds are estimated. Then the read itself was in time.
        objective: The objective in seconds.
        size: Bytes of the serialized values and pending writes.
        frames: Frames of the longest chain.
        advice: What makes a restore shorter.
    """

    level: ClassVar[int] = logging.WARNING

    seconds: float
    is_estimated: bool
    objective: float
    size: int
    frames: int
    advice: str


@record(frozen=True, slots=True, kw_only=True)
class ChannelHeavy(Event):
    """One channel has stored most of the bytes of the latest checkpoints, of all threads of a process together.

    It is only reported for a saver that `telemetry.watch_channels` watches. The thread and the checkpoint are those of
    the last checkpoint that was counted.

    Attributes:
        channel: The channel.
        bytes: The bytes that it has stored.
        share: Their share of the bytes of all channels, from 0 to 1.
        kind: `rewritten` if most of the bytes are of values stored in full, which had little in common with those
            before. `growing` if most are differences, as of a list to which each step adds.
        checkpoints: How many checkpoints were counted.
    """

    level: ClassVar[int] = logging.INFO

    channel: str
    bytes: int
    share: float
    kind: Literal["rewritten", "growing"]
    checkpoints: int


@record(frozen=True, slots=True, kw_only=True)
class LeaseAcquired(Event):
    """A process has acquired the lease of a thread, after a crashed holder or not.

    Attributes:
        owner: The holder.
        token: The number of the holder.
        waited: Seconds that it waited for other holders.
    """

    owner: str
    token: int
    waited: float


@record(frozen=True, slots=True, kw_only=True)
class LeaseEnded(Event):
    """A process does not hold the lease of a thread any more.

    Attributes:
        owner: The holder.
        token: The number of the holder.
        held: Seconds for which it held the lease, by a monotonic clock.
        reason: `released`, or `lost` if another process holds the lease now, or could.
    """

    owner: str
    token: int
    held: float
    reason: Literal["released", "lost"]


@record(frozen=True, slots=True, kw_only=True)
class OperationEnded(Event):
    """A call of `once` ended, or a tool call that `RunToolsOnce` runs once, and the operation has an outcome.

    A call that raised before it began the operation reports none, because it says nothing about an outcome. Another
    process may be performing the operation, for example, or the lease is lost.

    Attributes:
        thread_id: The thread; empty if all threads share the operation.
        operation: The operation's name.
        state: The outcome: `done`, `failed` with an exception that is an answer, or `unknown`. With `not_sent`, nothing
            left the process. With `paused`, the function waits for a person, and the call is made again.
        attempt: The number of the attempt whose outcome it is.
        is_recorded: Whether the outcome was recorded before, by an earlier call or because `reconcile` found it out. So
            the call performed nothing.
        seconds: How long the call took, the function included.
    """

    operation: str
    state: str
    attempt: int
    is_recorded: bool
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class SetDecided(Event):
    """A set of a team is decided: `team.checkpoint` has committed it, or it was aborted.

    The process that waits for the set reports it, once. If that process crashes, no event reports the decision, because
    any member may make it.

    Attributes:
        thread_id: Empty, because a set is about several threads.
        team: The team.
        set_id: The set.
        state: `committed` or `aborted`.
        members: How many members it has.
        missing: If it was aborted, the members without a checkpoint that stood still until the timeout.
        seconds: How long the call took, by a monotonic clock.
    """

    level: ClassVar[int] = logging.INFO

    thread_id: str = ""
    team: str
    set_id: str
    state: Literal["committed", "aborted"]
    members: int
    missing: tuple[str, ...] = ()
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class SetRestored(Event):
    """`team.restore` has made the checkpoints of a set the newest ones again.

    Attributes:
        thread_id: Empty, because a set is about several threads.
        team: The team.
        set_id: The set.
        threads: How many threads were restored.
        seconds: How long the call took, by a monotonic clock.
    """

    level: ClassVar[int] = logging.INFO

    thread_id: str = ""
    team: str
    set_id: str
    threads: int
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class SagaEnded(Event):
    """A saga is done, or a rollback of it has ended or is stuck.

    A rollback that continues after it was stuck reports another one.

    Attributes:
        saga_id: The saga.
        state: `done`, `compensated`, or `stuck`; `running` after a rollback to a savepoint, because the saga continues.
        steps: How many steps the saga has.
        undone: How many of them are undone.
        seconds: How long the saga was open in this process, or how long the rollback took in it, by a monotonic clock.
    """

    level: ClassVar[int] = logging.INFO

    saga_id: str
    state: Literal["done", "compensated", "stuck", "running"]
    steps: int
    undone: int
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class SagaStuck(SagaEnded):
    """A rollback of a saga cannot continue before a person settles what stops it.

    Its `state` is `stuck`. `langgraph-gcs saga show` says what stops it.
    """

    level: ClassVar[int] = logging.WARNING


@record(frozen=True, slots=True, kw_only=True)
class CompensationEnded(Event):
    """An attempt to undo a step of a saga has ended.

    Attributes:
        saga_id: The saga.
        step: The step.
        state: The state of the undo's operation: `done`; or `failed`, `unknown` or `not_sent`, and then the rollback
            tries again or is stuck.
        attempt: The number of the attempt.
        seconds: How long it took, by a monotonic clock.
    """

    level: ClassVar[int] = logging.INFO

    saga_id: str
    step: str
    state: str
    attempt: int
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """A call of `run`, `arun`, `stream` or `astream` ended: exactly one event for each, those of workers included.

    Two calls report none: one whose arguments were rejected, and a stream that was never iterated.

    Attributes:
        run_id: The `run_id` of its checkpoints: the config's, or else the one that the lease gives them. `None` if the
            call got no lease.
        outcome: `finished`; `returned` if an earlier call had finished the turn; `waiting` for a person, or at a
            breakpoint; `drained`, and to be resumed; `failed` with an exception; or `interrupted` by a cancellation, by
            a signal, or because the reader of a stream closed it before the graph had finished.
        is_resumed: Whether the call continued what an earlier call had begun.
        attempts: How many runs have begun since one last ended in an orderly way, this one included; 0 for a call that
            failed before it could read the thread, as without the lease.
        steps: Checkpoints of the root graph that the call stored.
        error: The name of the exception's class; empty if there is none.
        labels: The metadata that the option `labels` names, as text: of the config, and of what is bound to the graph.
        seconds: How long the call took; for a stream from its first `next`, and with the time that its reader took.
    """

    run_id: str | None
    outcome: RunOutcome
    is_resumed: bool
    attempts: int
    steps: int
    error: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class RecoveryRecorded(Event):
    """A recovery record is complete (`langgraph_gcs_saver.results.RecoveryRecord`, whose fields these are).

    Attributes:
        record: Digits that name the record in its thread.
        time: When the recovery began, in seconds since the epoch, by the service's clock.
        kind: `takeover`, `fallback`, `repair`, `restore` or `rollback`.
        lost: Seconds of work that were lost, if known.
        down: Seconds from the last sign of life until the recovery, if known.
        held: Seconds from the beginning of the former lease to the last sign of life, if known.
        restore: Seconds until the state was read, if known.
        ran_again: The nodes that run again, if known.
        labels: The metadata that the option `labels` names, as text.
    """

    level: ClassVar[int] = logging.INFO

    record: str
    time: float
    kind: str
    lost: float | None
    down: float | None
    held: float | None
    restore: float | None
    ran_again: tuple[str, ...] | None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@record(frozen=True, slots=True, kw_only=True)
class ThreadVerified(Event):
    """`verify` has looked at a thread, with its whole depth.

    Attributes:
        depth: How deep.
        findings: How many findings it had, orphans included.
        damaged: How many of them are damage.
        seconds: How long it took.
    """

    level: ClassVar[int] = logging.INFO

    depth: str
    findings: int
    damaged: int
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class RowsDropped(Event):
    """A sink of analytics could not keep up, or its service did not accept rows. The rows are gone, and counted.

    Attributes:
        thread_id: Empty, because rows of many threads are dropped together.
        sink: The sink's class.
        rows: How many rows, since the last such event.
        reason: Why.
    """

    level: ClassVar[int] = logging.WARNING

    thread_id: str = ""
    sink: str
    rows: int
    reason: str


@record(frozen=True, slots=True, kw_only=True)
class ReadFromMirror(Event):
    """An object was read from the mirror, because the bucket did not return it, or returned other bytes.

    Attributes:
        thread_id: The thread; empty if the object belongs to none, or if the store does not know the thread.
        name: The object.
        reason: What was wrong with the bucket's answer. `missing`: it has no such object. `unavailable`: it did not
            answer in time, or with an error of the service. `corrupt`: the bytes differ from what was written.
    """

    level: ClassVar[int] = logging.WARNING

    thread_id: str = ""
    name: str
    reason: Literal["missing", "unavailable", "corrupt"]


@record(frozen=True, slots=True, kw_only=True)
class Replicated(Event):
    """Changes have been shipped to the replica, or a look found that there were none.

    Attributes:
        thread_id: Empty, because several threads are shipped together.
        entries: How many entries of the outbox were shipped.
        threads: How many threads they belong to.
        bytes: Bytes of the documents and objects that were written to the replica for them.
        lag: Seconds by which the replica was behind: from its mark until the end of the look, by the service's clock.
            Everything that was stored before the mark is in the replica. `None` if this process does not know, as a
            writer that ships only its own changes.
        seconds: How long it took, by a monotonic clock.
    """

    thread_id: str = ""
    entries: int
    threads: int
    bytes: int
    lag: float | None
    seconds: float


@record(frozen=True, slots=True, kw_only=True)
class ReplicationFailed(Event):
    """Changes were not shipped to the replica. Their entries stay in the outbox, and a later look ships them.

    Attributes:
        thread_id: The thread; empty if the whole look failed, as when a store cannot be reached.
        lag: Seconds by which the replica is behind at least, or `None`, as for `Replicated`.
        error: The name of the exception's class.
        kind: The exception's `kind`, if this library defines it; empty for other exceptions.
        message: The exception's message if this library defines it, because that never contains state. Empty for other
            exceptions, because their messages may contain it.
    """

    level: ClassVar[int] = logging.WARNING

    thread_id: str = ""
    lag: float | None
    error: str
    kind: str
    message: str


@record(frozen=True, slots=True, kw_only=True)
class RoleChanged(Event):
    """A process has given a store another role.

    Attributes:
        thread_id: Empty, because a role is about the whole store.
        store: The store, as its connection string without options.
        role: Its role now: `primary`, `replica`, or `fenced`. Only a primary takes writes.
        former: Its role before; empty if it had none.
        epoch: The number of the change. Each change has a greater one.
        cause: `replicate` if a replica was set up, `failover` if it was planned, `forced` if the source was not asked,
            or `abort`.
    """

    level: ClassVar[int] = logging.WARNING

    thread_id: str = ""
    store: str
    role: Literal["primary", "replica", "fenced"]
    former: Literal["primary", "replica", "fenced", ""]
    epoch: int
    cause: Literal["replicate", "failover", "forced", "abort"]


@record(frozen=True, slots=True, kw_only=True)
class ForkMerged(ParentForked):
    """Both stores had continued a thread from the same checkpoint. The store that was shipped to has both children now.

    The checkpoint of this event is the one that was shipped.
    """

    level: ClassVar[int] = logging.WARNING


EventHandler = Callable[[Event], object]
"""Called with an event, on the thread that does the work, between two steps: keep it short."""


@runtime_checkable
class Sink(Protocol):
    """A handler that learns which saver it is subscribed to, and that may hold events back until it is flushed.

    Pass it to `saver.subscribe`, or as `on_event`.
    """

    def attach(self, saver: Any) -> EventHandler:
        """The handler for the events of a saver.

        Args:
            saver: The `GCSSaver` or `Admin`.
        """

    def flush(self, timeout: float) -> bool:
        """Pass on what was held back. The saver calls this when it closes, and when a run is drained.

        It calls this on a thread of its own, and continues without an answer after the timeout.

        Args:
            timeout: Seconds after which it returns in any case.

        Returns:
            Whether everything was passed on.
        """


class _Flush(Thread):
    """A call of a sink's `flush`, beside others, because a sink that hangs must hold nothing up."""

    def __init__(self, sink: Sink, timeout: float) -> None:
        super().__init__(name="langgraph-gcs-flush", daemon=True)
        self.sink = sink
        self._timeout = timeout
        self.is_whole = False

    def run(self) -> None:
        try:
            self.is_whole = self.sink.flush(self._timeout)
        except Exception:
            logger.exception("%s was not flushed", type(self.sink).__name__)

    def begin(self) -> None:
        try:
            self.start()
        except RuntimeError:  # Since Python 3.12, no thread starts while the interpreter exits.
            self.run()

    def has_ended_by(self, time: float) -> bool:
        """Wait until then at most. Returns whether the sink has passed everything on."""
        if self.ident is not None:
            self.join(max(0.0, time - monotonic()))
        if self.is_alive():
            logger.warning("%s was not flushed within %g s", type(self.sink).__name__, self._timeout)
        return self.is_whole


class Subscribers:
    """The subscribers of a saver: the log, and any number of handlers.

    There is no lock, because each operation on a dict is atomic. So a fork leaves nothing locked in the child process,
    and the child keeps the handlers.
    """

    def __init__(self) -> None:
        self._handlers: dict[object, EventHandler] = {}
        self._sinks: dict[object, Sink] = {}
        self._was_late = False

    def subscribe(self, handler: EventHandler | Sink, saver: Any = None) -> Callable[[], None]:
        """Call a handler with every event from now on, until the function that this returns is called.

        Args:
            handler: The handler, or a sink.
            saver: The saver that a sink is attached to.
        """
        key = object()  # Not the handler, because one handler may subscribe several times.
        if isinstance(handler, Sink):
            self._sinks[key], handler = handler, handler.attach(saver)
        self._handlers[key] = handler

        def unsubscribe() -> None:
            self._handlers.pop(key, None)
            self._sinks.pop(key, None)

        return unsubscribe

    def flush(self, timeout: float) -> bool:
        """Let the sinks pass on what they hold back, all at the same time, for at most `timeout` seconds.

        Returns:
            Whether all of them did.
        """
        ends = monotonic() + timeout
        caller = current_thread()
        # A sink that closes the saver when it is flushed would otherwise be flushed again, without end.
        caller_sink = caller.sink if isinstance(caller, _Flush) else None
        flushing = [_Flush(sink, timeout) for sink in tuple(self._sinks.values()) if sink is not caller_sink]
        for one in flushing:
            one.begin()
        whole = [one.has_ended_by(ends) for one in flushing]  # All of them: each is waited for.
        self._was_late |= not all(whole)
        return all(whole)

    async def aflush(self, timeout: float) -> bool:
        """Asynchronous twin of `flush`: it does not block the event loop."""
        if not self._sinks:
            return True
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only sinks need it

        # Not the event loop's own threads, because synchronous nodes may occupy all of them.
        waiting = ThreadPoolExecutor(1)
        try:
            return await asyncio.get_running_loop().run_in_executor(waiting, self.flush, timeout)
        finally:
            waiting.shutdown(wait=False)

    @property
    def may_flush_again(self) -> bool:
        """Whether there are sinks, and all of them have always passed everything on in time."""
        return bool(self._sinks) and not self._was_late

    def want(self, kind: type[Event]) -> bool:
        """Whether any subscriber would see an event of a class, so that it is worth making."""
        return bool(self._handlers) or logger.isEnabledFor(kind.level)

    def emit(self, event: Event) -> None:
        """Report to the log and the handlers. An exception of a handler is only logged: the event has happened."""
        if logger.isEnabledFor(event.level):
            logger.log(event.level, "%r", event)
        for handler in tuple(self._handlers.values()):
            try:
                handler(event)
            except Exception:  # noqa: PERF203 - the other handlers get the event nevertheless
                logger.exception("An event handler failed for %s", type(event).__name__)
