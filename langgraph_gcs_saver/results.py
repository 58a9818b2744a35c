"""What methods return: findings, plans, reports. `str` of a plan is its text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.policy.retention import Decision
from langgraph_gcs_saver.records import record

Depth = Literal["metadata", "existence", "data"]
"""How far to look: documents only; and whether each object is there, with its size and checksum; and every value."""

DEPTHS: tuple[Depth, ...] = ("metadata", "existence", "data")

NOT_CHECKED: Mapping[Depth | Literal["threads", "history"], tuple[str, ...]] = {
    "threads": ("missing checkpoints", "pending writes", "objects", "values"),
    "history": ("missing checkpoints", "pending writes", "contents of objects", "values"),
    "metadata": ("objects", "values"),
    "existence": ("values",),
    "data": ("deserialization",),
}
"""What may be damaged unnoticed: after `verify`, by its depth, and in what `threads` and `history` say of damage."""


def not_checked(parts: tuple[str, ...]) -> str:
    """One sentence that says what was not checked, and another one that says what would check it."""
    said = f"Not checked: {', '.join(parts)}."
    return said if parts == NOT_CHECKED["data"] else f"{said} Use `langgraph-gcs verify --depth data`."


def check_depth(depth: str) -> Depth:
    """The depth, if it is one.

    Raises:
        InvalidOptionError: It is not.
    """
    for known in DEPTHS:
        if depth == known:
            return known
    raise InvalidOptionError(f"depth is {depth!r}; it must be one of {', '.join(DEPTHS)}.")


@record(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        kind: `missing` (referred to, and not there), `corrupt` (not what was written, or not where it was written),
            `clear` (not protected by the saver's cipher), or `unreferenced` (there, and nothing refers to it: what a
            call that died has left, or one that is under way has just uploaded).
        thread_id: The thread.
        checkpoint_ns: The namespace.
        checkpoint_id: The checkpoint that wrote it.
        channel: The channel whose value it holds, if it is one channel's.
        name: Name of the document or object.
        reason: What is wrong with it.
        affects: Ids of the checkpoints that cannot be read for it, newest first.
    """

    kind: Literal["missing", "corrupt", "clear", "unreferenced"]
    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str = ""
    channel: str | None = None
    name: str
    reason: str
    affects: tuple[str, ...] = ()

    @property
    def is_damage(self) -> bool:
        """Whether something that was stored cannot be read, or not be found; `clear` counts, for it is not read."""
        return self.kind != "unreferenced"

    def __str__(self) -> str:
        where = f"{self.name} (thread {self.thread_id!r}"
        if self.checkpoint_id:
            where += f", namespace {self.checkpoint_ns!r}, checkpoint {self.checkpoint_id}"
        if self.channel is not None:
            where += f", channel {self.channel!r}"
        affects = f"; {len(self.affects)} checkpoints cannot be read for it" if self.affects else ""
        return f"{self.kind}: {where}): {self.reason}{affects}"


_ENCRYPTS = "encrypts {} documents for which the cipher does not vouch: anyone could have put them there"

Action = Literal["re-encode", "set aside", "mend", "forget", "leave"]


@record(frozen=True, slots=True, kw_only=True)
class RepairStep:
    """One thing to do.

    Attributes:
        action: `re-encode`: a value was found elsewhere, and is stored again for the checkpoints that lost it.
            `set aside`: a document that cannot be read goes to the thread's `lg_aside` collection, where nothing lists
            it. `mend`: fields or documents that queries use are written as they should be. `forget`: a checkpoint that
            is gone is not expected any more. `leave`: nothing can be done without doing harm.
        checkpoint_ns: The namespace.
        checkpoint_id: The checkpoint.
        channel: The channel, if it is about one.
        name: The document or object.
        reason: Why, or from what.
    """

    action: Action
    checkpoint_ns: str = ""
    checkpoint_id: str = ""
    channel: str | None = None
    name: str
    reason: str

    def __str__(self) -> str:
        where = f" {self.checkpoint_id}" if self.checkpoint_id else ""
        where += f" ({self.checkpoint_ns})" if self.checkpoint_ns else ""
        channel = "" if self.channel is None else f", channel {self.channel!r}"
        return f"{self.action}{where}{channel}: {self.reason} [{self.name}]"


@record(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """What is to be done for a thread; its text is for people.

    Attributes:
        thread_id: The thread.
        findings: The damage that was found.
        steps: What is to be done about it, in order.
        clear: Documents that the cipher does not protect, and that the steps encrypt: it vouches for them afterwards.
    """

    thread_id: str
    findings: tuple[Finding, ...]
    steps: tuple[RepairStep, ...]
    clear: int = 0

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Thread {self.thread_id!r}: {len(self.findings)} damages, {len(self.steps)} steps"
        for finding in self.findings:
            yield f"  found {finding}"
        for step in self.steps:
            yield f"  {step}"
        if self.clear:
            yield f"  {_ENCRYPTS.format(self.clear)}"


FrameKind = Literal["full", "incremental"]


@record(frozen=True, slots=True, kw_only=True)
class StoredValue:
    """A value that a checkpoint stored: a channel's new one, not one that it took from its parent.

    Attributes:
        channel: The channel.
        kind: Whether its frame is a full one, or builds on an earlier version.
        size: Bytes of the serialised value.
        stored: Bytes of its frame.
        is_object: Whether the frame lies in Cloud Storage.
        full: Estimated bytes of a full frame in its place, by how well the base of its chain was compressed.
    """

    channel: str
    kind: FrameKind
    size: int
    stored: int
    is_object: bool
    full: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint, as far as it is known without its values.

    Attributes:
        thread_id: The thread.
        checkpoint_ns: The namespace.
        checkpoint_id: Its id.
        parent_id: The checkpoint that it continues.
        time: When it was stored, in seconds since the epoch, by the service's clock. A copy was stored later.
        made: When it was made, by the clock of the process that ran the graph; `time` if the checkpoint does not say.
        step: LangGraph's number of the step, from -1; `None` if the metadata does not say.
        source: `input`, `loop`, `update` or `fork`.
        run_id: The run that wrote it.
        nodes: The nodes that ran to make it; none if its parent, by which that is told, is gone or cannot be read.
        channels: Number of channels with a value.
        stored: What it stored itself.
        manifest_bytes: Stored bytes of its manifest, if that lies in the document.
        size: Bytes of all its serialised values.
        tasks: Ids of tasks with pending writes.
        interrupts: Tasks that asked for an answer.
        is_waiting: Whether one of them waits for it still: it has not finished, and nothing continues the checkpoint.
        pin: Its pin's label.
        damage: What is wrong with it, as far as manifests and names tell.
    """

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    parent_id: str | None = None
    time: float = 0.0
    made: float = 0.0
    step: int | None = None
    source: str = ""
    run_id: str | None = None
    nodes: tuple[str, ...] = ()
    channels: int = 0
    stored: tuple[StoredValue, ...] = ()
    manifest_bytes: int = 0
    size: int = 0
    tasks: tuple[str, ...] = ()
    interrupts: int = 0
    is_waiting: bool = False
    pin: str | None = None
    damage: str | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes that it stored: frames and manifest."""
        return self.manifest_bytes + sum(value.stored for value in self.stored)


@record(frozen=True, slots=True, kw_only=True)
class ThreadInfo:
    """A thread.

    Attributes:
        thread_id: Its id; `None` when that is too long for a name, and nothing readable tells it.
        segment: Its name in the store.
        active: When it was written to last, in seconds since the epoch; `None` without a document of its own.
        checkpoints: Number of its checkpoints, of all namespaces.
        stored_bytes: Bytes of their frames and manifests.
        damaged: Checkpoints whose manifest is damaged. Frames are not looked at: `verify` does it.
        newer: Checkpoints that a newer version of this library stored. `stored_bytes` leaves them out.
        is_waiting: Whether the newest checkpoint of its root namespace has a task that asked for an answer and waits
            for it. `None` if that was not asked for, or the checkpoint is damaged or of a newer version.
        is_unfinished: Whether work is due there, or under way: a node has something new to see, or there are pending
            writes. `None` as above.
    """

    thread_id: str | None
    segment: str
    active: float | None = None
    checkpoints: int = 0
    stored_bytes: int = 0
    damaged: int = 0
    newer: int = 0
    is_waiting: bool | None = None
    is_unfinished: bool | None = None


@dataclass(slots=True, kw_only=True)
class ChannelStats:
    """What the values of one channel take, over some threads.

    Attributes:
        channel: The channel.
        values: Number of stored values.
        size: Bytes of the serialised values.
        full: Stored bytes of full frames.
        incremental: Stored bytes of incremental frames.
        saved: Estimated bytes that full frames would take more.
    """

    channel: str
    values: int = 0
    size: int = 0
    full: int = 0
    incremental: int = 0
    saved: int = 0


@record(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What a store takes.

    Attributes:
        threads: All threads, the largest first.
        channels: All channels by name, over all threads, the largest first.
        checkpoints: Number of checkpoints.
        document_bytes: Bytes of frames and manifests in documents.
        pending_writes: Number of documents of pending writes; their bytes are not counted.
        objects: Number of objects.
        object_bytes: Their stored bytes, whatever they hold, what nothing refers to included.
    """

    threads: tuple[ThreadInfo, ...]
    channels: tuple[ChannelStats, ...]
    checkpoints: int
    document_bytes: int
    pending_writes: int
    objects: int
    object_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """What is to go of a thread, and why the rest stays; its text is for people.

    Attributes:
        thread_id: The thread.
        decisions: One for each checkpoint, newest first.
    """

    thread_id: str
    decisions: tuple[Decision, ...]

    @property
    def dropped(self) -> tuple[str, ...]:
        """Ids of the checkpoints that go, newest first."""
        return tuple(decision.row.checkpoint_id for decision in self.decisions if decision.reason is None)

    def __str__(self) -> str:
        lines = [f"Thread {self.thread_id!r}: {len(self.dropped)} of {len(self.decisions)} checkpoints go"]
        for decision in self.decisions:
            ns = f" ({decision.row.ns})" if decision.row.ns else ""
            what = "drop" if decision.reason is None else f"keep, {decision.reason}"
            lines.append(f"  {decision.row.checkpoint_id}{ns}: {what}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run wrote, and is to go whatever needs it; its text is for people.

    Attributes:
        run_id: The run.
        threads: A plan for each thread that the run wrote to.
    """

    run_id: str
    threads: tuple[PrunePlan, ...]

    def __str__(self) -> str:
        return "\n".join([f"Run {self.run_id!r}: {len(self.threads)} threads", *map(str, self.threads)])


@record(frozen=True, slots=True, kw_only=True)
class DeletePlan:
    """What a thread has; its text is for people.

    Attributes:
        thread_id: The thread.
        checkpoints: Number of documents of checkpoints, and of what repairs have set aside.
        writes: Number of documents of pending writes.
        others: Number of documents of other collections.
        objects: Number of objects.
        bytes: Stored bytes of the objects.
        exists: Whether there is anything of the thread at all: if nothing else, its own document, which a call that
            died may have left.
    """

    thread_id: str
    checkpoints: int
    writes: int
    objects: int
    bytes: int
    exists: bool
    others: int = 0

    def __str__(self) -> str:
        others = f", {self.others} other documents" if self.others else ""
        return (
            f"Thread {self.thread_id!r}: {self.checkpoints} documents of checkpoints, {self.writes} documents of "
            f"pending writes{others} and {self.objects} objects ({self.bytes} bytes) go"
        )


@record(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What is to be copied.

    Attributes:
        source: The thread to copy from.
        target: The thread to copy to.
        checkpoints: Number of checkpoints.
        writes: Number of documents of pending writes.
        others: Number of documents of other collections.
        objects: Number of objects that the checkpoints refer to.
        clear: Documents that the cipher does not protect, and that the copy encrypts: it vouches for the copies.
    """

    source: str
    target: str
    checkpoints: int
    writes: int
    objects: int
    clear: int = 0
    others: int = 0

    def __str__(self) -> str:
        others = f", {self.others} other documents" if self.others else ""
        clear = f"; {_ENCRYPTS.format(self.clear)}" if self.clear else ""
        return (
            f"Thread {self.source!r} to {self.target!r}: {self.checkpoints} checkpoints, {self.writes} documents of "
            f"pending writes{others}, {self.objects} objects{clear}"
        )


@record(frozen=True, slots=True, kw_only=True)
class CollectPlan:
    """What of a thread nothing refers to; its text is for people.

    Attributes:
        thread_id: The thread.
        before: Only what is from before this time is collected, in seconds since the epoch, by the service's clock.
        stripped: Documents of removed checkpoints that go, for nobody needs their frames any more.
        trimmed: Documents of removed checkpoints that stay, for others need their frames, and lose the list of what was
            left to be deleted with them.
        writes: Documents of pending writes whose checkpoint was never stored, and the thread has gone on.
        objects: Objects that nothing refers to, with their sizes in bytes.
        skipped: Why the thread was left alone, if it was.
    """

    thread_id: str
    before: float
    stripped: tuple[str, ...] = ()
    trimmed: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    objects: Mapping[str, int]
    skipped: str | None = None

    def __bool__(self) -> bool:
        return bool(self.stripped or self.trimmed or self.writes or self.objects or self.skipped)

    def __str__(self) -> str:
        if self.skipped is not None:
            return f"Thread {self.thread_id!r}: skipped. {self.skipped}"
        smaller = f"; {len(self.trimmed)} documents of removed checkpoints get smaller" if self.trimmed else ""
        return (
            f"Thread {self.thread_id!r}: {len(self.stripped)} documents of removed checkpoints, {len(self.writes)} "
            f"documents of pending writes and {len(self.objects)} objects ({sum(self.objects.values())} bytes) go"
            f"{smaller}"
        )


@record(frozen=True, slots=True, kw_only=True)
class IdleThread:
    """A thread that nobody has used for longer than the time to live; its text is for people.

    Attributes:
        thread_id: The thread.
        idle: For how long.
        seen: When its document last changed, in nanoseconds since the epoch, by the service's clock.
    """

    thread_id: str
    idle: timedelta
    seen: int

    def __str__(self) -> str:
        return f"Thread {self.thread_id!r}: nobody has used it for {self.idle}"


@record(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What of a thread is moved, or was; its text is for people.

    Attributes:
        thread_id: The thread.
        checkpoints: Documents of checkpoints, stripped ones included.
        writes: Documents of pending writes.
        aside: Documents that repairs have set aside.
        others: Documents of other collections.
        objects: Objects.
        bytes: Stored bytes of the objects.
        present: Documents and objects that an earlier try had moved already.
        findings: What `verify` finds in the target to the depth of data; the source has the same damage.
        undecoded: Why nothing was decoded, if it was not: without the key, for example. The bytes were compared.
    """

    thread_id: str
    checkpoints: int = 0
    writes: int = 0
    aside: int = 0
    objects: int = 0
    bytes: int = 0
    present: int = 0
    findings: tuple[Finding, ...] = ()
    undecoded: str | None = None
    others: int = 0

    @property
    def total(self) -> int:
        """Documents and objects."""
        return self.checkpoints + self.writes + self.aside + self.others + self.objects

    def __bool__(self) -> bool:
        return self.total > self.objects

    def __str__(self) -> str:
        aside = f", {self.aside} documents that were set aside" if self.aside else ""
        others = f", {self.others} other documents" if self.others else ""
        return (
            f"Thread {self.thread_id!r}: {self.checkpoints} documents of checkpoints, {self.writes} documents of "
            f"pending writes{aside}{others}, {self.objects} objects ({self.bytes} bytes)"
        )


@record(frozen=True, slots=True, kw_only=True)
class Migration:
    """What of a thread is taken over from another checkpointer, or was; its text is for people.

    Attributes:
        thread_id: The thread.
        checkpoints: Checkpoints of all its namespaces.
        namespaces: Namespaces; that of the graph itself is one.
        writes: Pending writes.
        present: Checkpoints that an earlier call had put already.
    """

    thread_id: str
    checkpoints: int = 0
    namespaces: int = 0
    writes: int = 0
    present: int = 0

    def __bool__(self) -> bool:
        return self.checkpoints > 0

    def __str__(self) -> str:
        there = f", {self.present} of them here already" if self.present else ""
        return (
            f"Thread {self.thread_id!r}: {_counted(self.checkpoints, 'checkpoint')} in "
            f"{_counted(self.namespaces, 'namespace')}{there}, {_counted(self.writes, 'pending write')}"
        )


@record(frozen=True, slots=True, kw_only=True)
class RebindPlan:
    """What `rebind` changes, and what it has found at the new place; its text is for people.

    Attributes:
        bound: The place that the store is bound to; `None` if its document does not say.
        place: The place that it is to be bound to.
        threads: Number of threads.
        objects: Number of objects that their checkpoints and pending writes refer to.
        missing: How many of these objects are not at the new place, or are not what was written.
        examples: Names of some of them.
    """

    bound: str | None
    place: str
    threads: int
    objects: int
    missing: int
    examples: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.bound != self.place

    def __str__(self) -> str:
        was = "not bound" if self.bound is None else f"bound to {self.bound}"
        lines = [
            f"The store is {was}, and is to be bound to {self.place}.",
            f"Its {self.threads} threads refer to {self.objects} objects, of which {self.missing} are missing there.",
        ]
        return "\n".join([*lines, *(f"  missing: {name}" for name in self.examples)])


@record(frozen=True, slots=True)
class SetupReport:
    """What `setup()` did, and what it may not do.

    Attributes:
        done: A sentence for each thing found or done.
        missing: A sentence for each thing that these credentials may not do, with what to do about it.
        warnings: A sentence for each setting of others that endangers what is stored.
        settings: Names and texts of the files that lay the platform's settings by hand; none for the embedded store.
    """

    done: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
