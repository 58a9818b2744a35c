"""What methods return: findings, plans, reports. `str` of a plan is its text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from langgraph_gcs_saver.errors import GCSSaverError, InvalidOptionError
from langgraph_gcs_saver.policy.retention import Decision
from langgraph_gcs_saver.records import record

Depth = Literal["metadata", "existence", "data"]
"""How far to look: documents only; also whether each object is there, with its size and checksum; also every value."""

DEPTHS: tuple[Depth, ...] = ("metadata", "existence", "data")

NOT_CHECKED: Mapping[Depth | Literal["threads", "history"], tuple[str, ...]] = {
    "threads": ("missing checkpoints", "pending writes", "objects", "values"),
    "history": ("missing checkpoints", "pending writes", "contents of objects", "values"),
    "metadata": ("objects", "values"),
    "existence": ("values",),
    "data": ("deserialization",),
}
"""The parts whose damage goes unnoticed: by `verify`, for each depth, and by `threads` and `history`."""


def not_checked(parts: tuple[str, ...]) -> str:
    """One sentence that names the parts that were not checked, and another one that says how to check them."""
    said = f"Not checked: {', '.join(parts)}."
    return said if parts == NOT_CHECKED["data"] else f"{said} Use `langgraph-gcs verify --depth data`."


def check_depth(depth: str) -> Depth:
    """Return the depth, if it is one.

    Raises:
        InvalidOptionError: There is no such depth.
    """
    for known in DEPTHS:
        if depth == known:
            return known
    raise InvalidOptionError(f"depth is {depth!r}; it must be one of {', '.join(DEPTHS)}.")


@record(frozen=True, slots=True, kw_only=True)
class Finding:
    """A document or object that `verify` reports.

    Attributes:
        kind: `missing`: it is referred to, but absent. `corrupt`: it differs from what was written, or is in another
            place. `clear`: the saver's cipher does not protect it. `unreferenced`: nothing refers to it, because a call
            crashed or is still under way. `unmirrored`: of a store with a mirror, the two buckets do not both have the
            object as it was written, and one of them does.
        thread_id: The thread; empty for a document of a team.
        checkpoint_ns: The namespace.
        checkpoint_id: The checkpoint that wrote it.
        channel: The channel, if it holds the value of one channel.
        name: Name of the document or object.
        reason: What is wrong with it.
        affects: Ids of the checkpoints that cannot be read because of it, newest first.
    """

    kind: Literal["missing", "corrupt", "clear", "unreferenced", "unmirrored"]
    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str = ""
    channel: str | None = None
    name: str
    reason: str
    affects: tuple[str, ...] = ()

    @property
    def is_damage(self) -> bool:
        """Whether stored data cannot be read or found. `clear` counts as damage, because it is not read.

        An unmirrored object is no damage: its other copy is read.
        """
        return self.kind not in {"unreferenced", "unmirrored"}

    def __str__(self) -> str:
        where = f"{self.name} (" + (f"thread {self.thread_id!r}" if self.thread_id else "a team")
        if self.checkpoint_id:
            where += f", namespace {self.checkpoint_ns!r}, checkpoint {self.checkpoint_id}"
        if self.channel is not None:
            where += f", channel {self.channel!r}"
        affects = f"; {_counted(len(self.affects), 'checkpoint')} cannot be read because of it" if self.affects else ""
        return f"{self.kind}: {where}): {self.reason}{affects}"


@record(frozen=True, slots=True, kw_only=True)
class RefFinding:
    """A reference in a thread's newest state, and what there is now.

    Attributes:
        kind: `ok`: it is what it was when the reference was made. `changed`: it has other content. `missing`: there is
            nothing. `unknown`: it could not be seen, for example because these credentials may not.
        thread_id: The thread.
        checkpoint_ns: The namespace.
        checkpoint_id: The checkpoint.
        channel: The channel whose value, or pending write, has the reference.
        path: Where in the value the reference is, such as `docs[3].source`.
        uri: What it refers to.
        reason: Why it is not `ok`; empty if it is.
    """

    kind: Literal["ok", "changed", "missing", "unknown"]
    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str
    channel: str
    path: str
    uri: str
    reason: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether a run should not rely on the reference."""
        return self.kind != "ok"

    def __str__(self) -> str:
        return f"{self.kind}: {self.uri} at {self.path}" + (f": {self.reason}" if self.reason else "")


@record(frozen=True, slots=True, kw_only=True)
class GraphChanged:
    """A node or a channel that a thread's newest state needs, and that the graph does not have.

    LangGraph would leave the node out, and end as if the graph had finished. It would drop the value of the channel.

    Attributes:
        kind: `node`: it is due. `channel`: it has a value.
        thread_id: The thread.
        checkpoint_ns: The namespace; empty for the root graph.
        checkpoint_id: The checkpoint.
        name: The name of the node or the channel.
        graph: The name of the graph.
    """

    kind: Literal["node", "channel"]
    thread_id: str
    checkpoint_ns: str = ""
    checkpoint_id: str
    name: str
    graph: str

    @property
    def is_problem(self) -> bool:
        """Always true."""
        return True

    def __str__(self) -> str:
        what = "is due" if self.kind == "node" else "has a value"
        return f"graph changed: the {self.kind} {self.name!r} {what}, and the graph {self.graph!r} does not have it"


CheckFinding = RefFinding | GraphChanged
"""What `Thread.check` finds."""


_ENCRYPTS = "encrypts {} documents that the cipher does not vouch for: anyone could have put them there"

Action = Literal["re-encode", "mirror", "set aside", "fix", "forget", "leave"]


@record(frozen=True, slots=True, kw_only=True)
class RepairStep:
    """One step of a repair.

    Attributes:
        action: `re-encode`: a value was found elsewhere, and is stored again for the checkpoints that lost it.
            `mirror`: an object is copied to the bucket that lacks it, or has other bytes. `set aside`: a document that
            cannot be read moves to the thread's `lg_aside` collection, which no listing reads. `fix`: fields or
            documents that queries use are corrected. `forget`: a missing checkpoint is no longer expected, or a damaged
            document about a turn is deleted, and the reason says what is lost. `leave`: no repair is possible without
            doing harm.
        checkpoint_ns: The namespace.
        checkpoint_id: The checkpoint.
        channel: The channel, if the step concerns one.
        name: The document or object.
        reason: Why the step is needed, or where a value was found.
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
    """The repair of a thread; its text is for people. It is false if nothing was found.

    Attributes:
        thread_id: The thread.
        findings: The damage that was found, and the objects that only one bucket has as they were written.
        steps: The steps that repair it, in order.
        clear: Number of documents that the cipher does not protect, and that the steps encrypt. The cipher vouches for
            them afterwards.
    """

    thread_id: str
    findings: tuple[Finding, ...]
    steps: tuple[RepairStep, ...]
    clear: int = 0

    def __bool__(self) -> bool:
        return bool(self.findings)

    @property
    def repairs(self) -> bool:
        """Whether any step changes what is stored."""
        return any(step.action != "leave" for step in self.steps)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        findings, steps = _counted(len(self.findings), "finding"), _counted(len(self.steps), "step")
        yield f"Thread {self.thread_id!r}: {findings}, {steps}"
        for finding in self.findings:
            yield f"  found {finding}"
        for step in self.steps:
            yield f"  {step}"
        if self.clear:
            yield f"  {_ENCRYPTS.format(self.clear)}"


FrameKind = Literal["full", "incremental"]


@record(frozen=True, slots=True, kw_only=True)
class StoredValue:
    """A value that a checkpoint stored: a channel's new value, not one that it inherited from its parent.

    Attributes:
        channel: The channel.
        kind: Whether its frame is full, or builds on an earlier version.
        size: Bytes of the serialized value.
        stored: Bytes of its frame.
        is_object: Whether the frame is in Cloud Storage.
        full: Estimated bytes of a full frame in its place, from the compression of the base of its chain.
    """

    channel: str
    kind: FrameKind
    size: int
    stored: int
    is_object: bool
    full: int


@record(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """A checkpoint, as far as it is known without reading its values.

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
        nodes: The nodes that ran to make it. Comparing it with its parent shows them, so there are none if the parent
            is gone or cannot be read.
        channels: Number of channels with a value.
        stored: The values that it stored itself.
        manifest_bytes: Stored bytes of its manifest, if the manifest is in the document.
        size: Bytes of all its serialized values.
        tasks: Ids of tasks with pending writes.
        interrupts: Number of tasks that raised an interrupt.
        is_waiting: Whether one of them still waits for the answer: it has not finished, and nothing continues the
            checkpoint.
        pin: The label of its pin.
        holds: The sets and savepoints that need it to stay, such as `set S of team T`.
        damage: What is wrong with it, as far as manifests and names show.
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
    holds: tuple[str, ...] = ()
    damage: str | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes that it stored: frames and manifest."""
        return self.manifest_bytes + sum(value.stored for value in self.stored)


@record(frozen=True, slots=True, kw_only=True)
class ThreadInfo:
    """A thread.

    Attributes:
        thread_id: Its id; `None` if the id is too long for a name, and nothing readable contains it.
        segment: Its name in the store.
        active: When it was last written to, in seconds since the epoch; `None` if its own document is gone.
        checkpoints: Number of its checkpoints, in all namespaces.
        stored_bytes: Bytes of their frames and manifests.
        damaged: Number of checkpoints whose manifest is damaged. Frames are not checked: `verify` does that.
        newer: Number of checkpoints that a newer version of this library stored. `stored_bytes` excludes them.
        is_waiting: Whether the newest checkpoint of its root namespace has a task that raised an interrupt and waits
            for the answer. `None` if the caller did not request this, or the checkpoint is damaged or of a newer
            version.
        is_unfinished: Whether work is due there, or under way: a node has something new to see, or there are pending
            writes. `None` in the same cases as `is_waiting`.
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
    """The space that the values of one channel take, over some threads.

    Attributes:
        channel: The channel.
        values: Number of stored values.
        size: Bytes of the serialized values.
        full: Stored bytes of full frames.
        incremental: Stored bytes of incremental frames.
        saved: Estimated bytes that incremental frames save, compared with full ones.
    """

    channel: str
    values: int = 0
    size: int = 0
    full: int = 0
    incremental: int = 0
    saved: int = 0


@record(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """The space that a store takes.

    Attributes:
        threads: All threads, the largest first.
        channels: All channels by name, over all threads, the largest first.
        checkpoints: Number of checkpoints.
        document_bytes: Bytes of frames and manifests in documents.
        pending_writes: Number of documents of pending writes; their bytes are not counted.
        objects: Number of objects.
        object_bytes: Stored bytes of all objects, orphans included.
    """

    threads: tuple[ThreadInfo, ...]
    channels: tuple[ChannelStats, ...]
    checkpoints: int
    document_bytes: int
    pending_writes: int
    objects: int
    object_bytes: int


@record(frozen=True, slots=True, kw_only=True)
class KindBytes:
    """Stored bytes of one kind, without and with a trained dictionary.

    Attributes:
        kind: The kind, such as `"manifests"`.
        before: Bytes as they are stored now.
        after: Bytes with the dictionary.
    """

    kind: str
    before: int
    after: int

    @property
    def gain(self) -> float:
        """The share of the bytes that the dictionary saves."""
        return 1 - self.after / self.before if self.before else 0.0


@record(frozen=True, slots=True, kw_only=True)
class Training:
    """What a dictionary would save; its text is for people.

    All bytes are those of the held-out threads, which the dictionary was not trained from.

    Attributes:
        threads: Number of threads that the dictionary was trained from.
        held_out: Number of threads that it was measured on.
        kinds: The bytes of each kind, most bytes first.
        dictionary_bytes: Bytes of the dictionary; 0 if none could be trained.
        refusal: Why the dictionary is not worth its use; `None` if it is.
        dictionary: The id of the dictionary for the option `dictionary`, if it was stored.
    """

    threads: int
    held_out: int
    kinds: tuple[KindBytes, ...]
    dictionary_bytes: int
    refusal: str | None
    dictionary: str | None = None

    @property
    def total(self) -> KindBytes:
        """The bytes of all kinds together."""
        before, after = (sum(getattr(one, name) for one in self.kinds) for name in ("before", "after"))
        return KindBytes(kind="everything", before=before, after=after)

    def __str__(self) -> str:
        if self.refusal is not None:
            return self.refusal
        return (
            f"A dictionary of {self.dictionary_bytes:,} bytes, trained from {_counted(self.threads, 'thread')}, saves "
            f"{self.total.gain:.1%} of what {_counted(self.held_out, 'other thread')} store"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """The checkpoints of a thread that pruning removes, and why the others stay; its text is for people.

    Attributes:
        thread_id: The thread.
        decisions: One for each checkpoint, newest first.
    """

    thread_id: str
    decisions: tuple[Decision, ...]

    @property
    def dropped(self) -> tuple[str, ...]:
        """Ids of the checkpoints to remove, newest first."""
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
    """The checkpoints that a run wrote, all of which are to be removed; its text is for people.

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
    """What a thread consists of; its text is for people.

    Attributes:
        thread_id: The thread.
        checkpoints: Number of documents of checkpoints, and of documents that repairs have set aside.
        writes: Number of documents of pending writes.
        others: Number of documents of other collections.
        objects: Number of objects.
        bytes: Stored bytes of the objects.
        exists: Whether anything of the thread is stored. Its own document counts, which may be all that a crashed call
            has left.
        sets: The sets of teams that need a checkpoint of the thread. Only a forced deletion removes it.
    """

    thread_id: str
    checkpoints: int
    writes: int
    objects: int
    bytes: int
    exists: bool
    others: int = 0
    sets: tuple[str, ...] = ()

    def __str__(self) -> str:
        others = f", {self.others} other documents" if self.others else ""
        return (
            f"Thread {self.thread_id!r}: {self.checkpoints} documents of checkpoints, {self.writes} documents of "
            f"pending writes{others} and {self.objects} objects ({self.bytes} bytes) go"
            f"{'; needed by ' + ', '.join(self.sets) if self.sets else ''}"
        )


@record(frozen=True, slots=True, kw_only=True)
class CopyPlan:
    """What a copy of a thread consists of.

    Attributes:
        source: The thread to copy from.
        target: The thread to copy to.
        checkpoints: Number of checkpoints.
        writes: Number of documents of pending writes.
        others: Number of documents of other collections.
        objects: Number of objects that the checkpoints refer to.
        clear: Number of documents that the cipher does not protect, and that the call encrypts. The cipher vouches for
            the copies.
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
    """The orphans of a thread; its text is for people.

    Attributes:
        thread_id: The thread; `None` for the operations that all threads share.
        before: Only orphans from before this time are collected, in seconds since the epoch, by the service's clock.
        stripped: Documents of removed checkpoints that go, because no checkpoint needs their frames any more.
        trimmed: Documents of removed checkpoints that stay, because other checkpoints need their frames. They lose the
            list of what was still to be deleted with them.
        writes: Documents of pending writes whose checkpoint was never stored, although the thread has continued.
        objects: Objects that nothing refers to, with their sizes in bytes. Those that documents of removed checkpoints
            list may be newer.
        operations: Documents of operations whose outcome need not be kept any longer. Their objects go with them.
        recoveries: Recovery records that have expired.
        sagas: Documents of sagas that have ended, and need not be kept any longer. Their steps and holds go with them.
        blobs: Documents of blobs that nothing lists, and that nothing listed at an earlier collection. Their objects go
            with them.
        unlisted: Documents of blobs that nothing lists now. They are marked, and a later collection deletes them.
        relisted: Marked documents of blobs that something lists again. They lose the mark.
        skipped: Why the thread was left alone, if it was.
    """

    thread_id: str | None
    before: float
    stripped: tuple[str, ...] = ()
    trimmed: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    objects: Mapping[str, int]
    operations: tuple[str, ...] = ()
    recoveries: tuple[str, ...] = ()
    sagas: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    relisted: tuple[str, ...] = ()
    skipped: str | None = None

    def __bool__(self) -> bool:
        expired = self.operations or self.recoveries or self.sagas
        blobs = self.blobs or self.unlisted or self.relisted
        return bool(self.stripped or self.trimmed or self.writes or self.objects or expired or blobs or self.skipped)

    def __str__(self) -> str:
        of = "Shared operations" if self.thread_id is None else f"Thread {self.thread_id!r}"
        if self.skipped is not None:
            return f"{of}: skipped. {self.skipped}"
        smaller = f"; {len(self.trimmed)} documents of removed checkpoints get smaller" if self.trimmed else ""
        expired = f"; {len(self.operations)} operations have expired" if self.operations else ""
        expired += f"; {len(self.recoveries)} recovery records have expired" if self.recoveries else ""
        expired += f"; {len(self.sagas)} sagas have expired" if self.sagas else ""
        expired += f"; {len(self.blobs)} blobs go" if self.blobs else ""
        expired += f"; {len(self.unlisted)} blobs get a mark, because nothing lists them" if self.unlisted else ""
        expired += f"; {len(self.relisted)} blobs lose their mark" if self.relisted else ""
        return (
            f"{of}: {len(self.stripped)} documents of removed checkpoints, {len(self.writes)} "
            f"documents of pending writes and {len(self.objects)} objects ({sum(self.objects.values())} bytes) go"
            f"{smaller}{expired}"
        )


@record(frozen=True, slots=True, kw_only=True)
class OperationInfo:
    """A recorded side effect; its text is for people.

    Attributes:
        thread_id: The thread; `None` if all threads share the operation.
        key: Its key.
        name: What it does.
        state: What is known about its outcome. `unknown` includes an operation whose process has lost its claim.
        attempts: How often it was claimed.
        late: Outcomes of earlier attempts that came after another one was recorded.
        changed: When its document last changed, in nanoseconds since the epoch, by the service's clock.
    """

    thread_id: str | None
    key: str
    name: str
    state: Literal["claimed", "paused", "done", "failed", "unknown", "not-done"]
    attempts: int
    late: int
    changed: int

    def __str__(self) -> str:
        late = f", {self.late} late outcomes" if self.late else ""
        return f"{self.key}: {self.name} is {self.state} (attempt {self.attempts}{late})"


@record(frozen=True, slots=True, kw_only=True)
class IdleThread:
    """A thread that has not been used for longer than the time to live; its text is for people.

    Attributes:
        thread_id: The thread.
        idle: How long it has not been used.
        seen: When its document last changed, in nanoseconds since the epoch, by the service's clock.
    """

    thread_id: str
    idle: timedelta
    seen: int

    def __str__(self) -> str:
        return f"Thread {self.thread_id!r}: not used for {self.idle}"


@record(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The parts of a thread that a transfer copies, or has copied; its text is for people.

    Attributes:
        thread_id: The thread.
        checkpoints: Number of documents of checkpoints, stripped ones included.
        writes: Number of documents of pending writes.
        aside: Number of documents that repairs have set aside.
        others: Number of documents of other collections.
        objects: Number of objects.
        bytes: Stored bytes of the objects.
        present: Number of documents and objects that an earlier attempt had copied already.
        findings: What `verify` finds in the target with `depth="data"`; the source has the same damage.
        undecoded: Why no value was decoded, if none was: for example, because the key is missing. The bytes were
            compared nevertheless.
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
        """Number of documents and objects."""
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
    """The parts of a thread that a migration copies from another checkpointer, or has copied; its text is for people.

    Attributes:
        thread_id: The thread.
        checkpoints: Number of checkpoints, in all its namespaces.
        namespaces: Number of namespaces, that of the graph itself included.
        writes: Number of pending writes.
        present: Number of checkpoints that an earlier call had stored already.
        clear: Number of the source's documents that its cipher does not protect, and whose content the call encrypts.
            This store's cipher vouches for it afterwards. 0 if one of the stores has no cipher.
    """

    thread_id: str
    checkpoints: int = 0
    namespaces: int = 0
    writes: int = 0
    present: int = 0
    clear: int = 0

    def __bool__(self) -> bool:
        return self.checkpoints > 0

    def __str__(self) -> str:
        there = f", {self.present} of them here already" if self.present else ""
        clear = f"; {_ENCRYPTS.format(self.clear)}" if self.clear else ""
        return (
            f"Thread {self.thread_id!r}: {_counted(self.checkpoints, 'checkpoint')} in "
            f"{_counted(self.namespaces, 'namespace')}{there}, {_counted(self.writes, 'pending write')}{clear}"
        )


@record(frozen=True, slots=True, kw_only=True)
class RebindPlan:
    """What `rebind` changes, and what it has found at the new place; its text is for people.

    Attributes:
        bound: The place that the store is bound to; `None` if its document does not name one.
        place: The place to bind it to.
        threads: Number of threads.
        objects: Number of objects that their checkpoints and pending writes refer to.
        missing: Number of these objects that are not at the new place, or differ there from what was written.
        examples: Names of some of the missing objects.
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


@record(frozen=True, slots=True, kw_only=True)
class Failover:
    """What a call of `failover` did; its text is for people.

    Attributes:
        source: The connection string of the store that the call was made for, in its canonical form.
        target: The connection string of the other store.
        primary: The one of the two that is the primary now.
        epoch: The number of the change. Each change has a greater one.
        shipped: How many changes this call has shipped from the source to the target.
        forks: Forks that have come about because both stores were written to.
        mark: After a forced failover, nothing that the source had acknowledged before this time is missing in the
            target, in nanoseconds since the epoch by the source's clock. `None` after any other call, or if no pass
            over the outbox has ended.
        unreached: Why the source was not fenced, if a forced failover could not reach it; otherwise empty. Until a
            later call has fenced it, the source may take writes.
    """

    source: str
    target: str
    primary: str
    epoch: int
    shipped: int = 0
    forks: tuple[ForkFound, ...] = ()
    mark: int | None = None
    unreached: str = ""

    def __str__(self) -> str:
        lines = [f"The primary is {self.primary} (epoch {self.epoch})."]
        if self.shipped:
            lines.append(f"Shipped to it: {_counted(self.shipped, 'change')}.")
        lines += [
            f"Both stores have continued checkpoint {one.parent_id} of thread {one.thread_id!r}, so it has a fork now: "
            f"{one.checkpoint_id}."
            for one in self.forks
        ]
        if self.unreached and self.mark is None:
            lines.append("It is not known what is missing there, because no pass over the outbox has ended.")
        elif self.unreached and self.mark is not None:
            lines.append(f"Nothing that was acknowledged before {at_time(self.mark).isoformat()} is missing there.")
        if self.unreached:
            lines.append(
                f"{self.source} was not fenced, and may still take writes: {self.unreached} Call this again when it "
                "can be reached. That fences it, and ships what it has taken."
            )
        return "\n".join(lines)


@record(frozen=True, slots=True, kw_only=True)
class LeaseInfo:
    """A lease that a process holds, or held when it crashed.

    Attributes:
        thread_id: The thread.
        owner: The holder's name.
        token: Counts the changes of the thread's holder.
        since: When the holder acquired it.
        ttl: Seconds after which it expires without a beat.
        last_beat: The holder's last sign of life.
        is_expired: Whether it has expired, as after a crash of the holder.
        node: The node that the holder was running at its last beat, if it said so.
    """

    thread_id: str
    owner: str
    token: int
    since: datetime
    ttl: float
    last_beat: datetime
    is_expired: bool
    node: str | None = None


@record(frozen=True, slots=True)
class Question:
    """What a graph asks a person.

    Attributes:
        id: The id of LangGraph's `Interrupt`.
        value: What it was given.
    """

    id: str
    value: Any


ThreadState = Literal["empty", "running", "waiting", "paused", "crashed", "due", "poison", "finished"]
"""What a thread is doing; see `ThreadStatus`."""


@record(frozen=True, slots=True, kw_only=True)
class ThreadStatus:
    """What a thread is doing; its text is for people.

    The newest checkpoint decides, with the thread's lease. So this is right just after a crash, too.

    Attributes:
        thread_id: The thread.
        state: `empty` before its first checkpoint; `running` while a process that is alive holds the lease; `waiting`
            for a person; `paused` after a run that was asked to end; `crashed` after a process that crashed, or a run
            that raised an error; `due` if a step is due for another reason, such as an answer; `poison` if it has
            failed too often for `recover`; `finished` when the graph has.
        checkpoint_id: The newest checkpoint of the root graph.
        step: Its step.
        nodes: The nodes of the next step, once for each task.
        questions: What the graph asks a person.
        request_id: The request of the turn.
        run_id: The turn, if `run` began it.
        graph: The name of its graph, if it has not finished.
        attempts: Number of runs that have begun on the turn since one last ended in an orderly way.
        since: Since when it has been in that state, as far as that is known.
        stored: When its newest checkpoint was stored.
        age: How long ago that was.
        idle: Time since that, or since the state began, if that was later.
        lag: Time from the making of that checkpoint to when it was durable. It compares the clocks of two machines.
        lease: The lease of the thread, if it has a holder.
        holds: The sets and savepoints that hold that checkpoint, such as `set S of team T`.
    """

    thread_id: str
    state: ThreadState
    checkpoint_id: str | None = None
    step: int | None = None
    nodes: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    request_id: str | None = None
    run_id: str | None = None
    graph: str | None = None
    attempts: int = 0
    since: datetime | None = None
    stored: datetime | None = None
    age: timedelta | None = None
    idle: timedelta | None = None
    lag: timedelta | None = None
    lease: LeaseInfo | None = None
    holds: tuple[str, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether nothing is to do: the graph has finished, or nothing was begun."""
        return self.state in ("finished", "empty")

    def is_stalled(self, after: timedelta) -> bool:
        """Whether a step is due, and none was stored for so long. A thread that waits for a person is not stalled."""
        return not self.is_finished and self.state != "waiting" and self.idle is not None and self.idle > after

    def __str__(self) -> str:
        at = "" if self.step is None else f" at step {self.step}"
        due = f", due: {', '.join(self.nodes)}" if self.nodes else ""
        return f"Thread {self.thread_id!r}: {self.state}{at}{due}"


@record(frozen=True, slots=True, kw_only=True)
class ThreadActivity:
    """A thread as a look at the store shows it.

    Attributes:
        thread_id: The thread.
        used: When it was last used, as far as its documents show.
        status: What it is doing; `None` if that cannot be read. The status of a finished thread may be that of an
            earlier look.
        error: Why it cannot be read, such as a `CheckpointCorruptError` or a `WrongKeyError`.
        puts_per_second: Checkpoints that were stored in the last 10 seconds, per second.
        checkpoints: The number of its checkpoints; `None` if they were not counted yet.
        stored_bytes: What they store, as their manifests say; `None` likewise. The count may be 5 minutes old.
        damaged: The number of those whose manifest cannot be read, as far as they were counted.
    """

    thread_id: str
    used: datetime
    status: ThreadStatus | None = None
    error: GCSSaverError | None = None
    puts_per_second: float = 0.0
    checkpoints: int | None = None
    stored_bytes: int | None = None
    damaged: int = 0

    @property
    def state(self) -> ThreadState | None:
        """What it is doing; `None` if that cannot be read."""
        return None if self.status is None else self.status.state

    @property
    def lag(self) -> timedelta | None:
        """Time from the making of its newest checkpoint to when it was durable, as in `ThreadStatus`."""
        return None if self.status is None else self.status.lag


@record(frozen=True, slots=True, kw_only=True)
class StoreActivity:
    """What a look at a store shows.

    Attributes:
        time: When that was, by the service's clock, as far as a thread was read.
        threads: The threads that the look has read, in the requested order.
        total: The number of threads that are known.
        is_complete: Whether these are all threads of the store. In a large store, only later looks know them all.
        states: How many threads are in which state, of those in `threads` and of those whose turns have not finished.
        rollbacks: How many sagas are `compensating` or `stuck`. They are counted every 10 seconds.
        puts_per_second: The sum over `threads`.
        checkpoints: The number of checkpoints that were counted, over all threads.
        damaged: The number of those whose manifest cannot be read.
        document_bytes: The bytes of their documents.
        object_bytes: The bytes of their objects.
        is_sized: Whether all checkpoints of the store were counted. The count is repeated every 5 minutes.
    """

    time: datetime
    threads: tuple[ThreadActivity, ...]
    total: int
    is_complete: bool
    states: Mapping[ThreadState, int]
    rollbacks: Mapping[SagaState, int]
    puts_per_second: float
    checkpoints: int
    damaged: int
    document_bytes: int
    object_bytes: int
    is_sized: bool


@record(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What `recover` has done with a thread; its text is for people.

    Attributes:
        thread_id: The thread.
        outcome: `finished`; `waiting` for a person; `paused` after it was asked to end; `failed` with an error, to be
            tried again; `poison` after too many failures, so that it is not tried again. A thread that cannot be
            resumed, such as a damaged one, has `failed` too, and is tried again once another call has worked on it.
        error: The class of the error.
        attempts: Number of runs that have begun on the turn since one last ended in an orderly way.
    """

    thread_id: str
    outcome: Literal["finished", "waiting", "paused", "failed", "poison"]
    error: str | None = None
    attempts: int = 0

    def __str__(self) -> str:
        error = "" if self.error is None else f" with {self.error}"
        tried = f" after {_counted(self.attempts, 'attempt')}" if self.outcome in ("failed", "poison") else ""
        return f"Thread {self.thread_id!r}: {self.outcome}{error}{tried}"


@record(frozen=True, slots=True, kw_only=True)
class Warmed:
    """What `warm` has read of a thread; its text is for people.

    Attributes:
        thread_id: The thread.
        checkpoint_id: Its newest checkpoint; `None` if it has none, or cannot be read.
        bytes: Size of the checkpoint's serialized values and pending writes.
        error: Why it cannot be read, if it cannot.
    """

    thread_id: str
    checkpoint_id: str | None = None
    bytes: int = 0
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"Thread {self.thread_id!r}: skipped. {self.error}"
        if self.checkpoint_id is None:
            return f"Thread {self.thread_id!r}: empty"
        return f"Thread {self.thread_id!r}: checkpoint {self.checkpoint_id}, {self.bytes} bytes"


RecoveryKind = Literal["takeover", "fallback", "repair", "restore", "rollback"]
"""Why a thread had to recover; see `RecoveryRecord`."""


@record(frozen=True, slots=True, kw_only=True)
class RecoveryRecord:
    """What a crash, damage or a way back has cost a thread; its text is for people.

    All times are those of the service's clock, except `restore`.

    Attributes:
        thread_id: The thread.
        time: When it was recorded.
        kind: `takeover`: a process crashed while it held the thread's lease, and its lease was ended. `fallback`: the
            newest checkpoint was damaged, and an older one was read in its place. `repair`: damage was repaired.
            `restore`: a set of the thread's team was restored. `rollback`: a saga was rolled back, and its thread
            continues from a savepoint.
        lost: For a takeover, seconds from the newest checkpoint of the root graph, or from the beginning of the crashed
            process's lease if that was later. For a fallback, seconds from the checkpoint that was read to the damaged
            one. For a restore or a rollback, seconds from the checkpoint of the set or savepoint to the newest one.
            `None` if it is not known.
        down: For a takeover, those of these seconds that came after the crashed process's last sign of life.
        held: For a takeover, seconds from the beginning of that lease to this sign of life.
        restore: Seconds until the state was there again: from a takeover until its process had read the state, or the
            length of the read, the repair, the restore or the rollback. `None` if the process has not read it, or has
            crashed before.
        ran_again: The nodes that were due at the checkpoint that was read, in order of their names. A task of theirs
            that had finished before did not run again. Empty if a new input replaced them. `None` if it is not known,
            as with a cipher whose `clear_metadata` does not name `node`.
        labels: The metadata that the saver's option `labels` names, as text: of the run that took over, or of the read.
            What its config does not have comes from the checkpoint that was read. Only takeovers and fallbacks have
            labels. With a cipher, only those that `clear_metadata` names are stored.
        expires: From then on `collect` deletes the record.
    """

    thread_id: str
    time: datetime
    kind: RecoveryKind
    lost: float | None = None
    down: float | None = None
    held: float | None = None
    restore: float | None = None
    ran_again: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    expires: datetime

    def __str__(self) -> str:
        parts = [
            f"{seconds:.1f} s {what}"
            for seconds, what in ((self.lost, "lost"), (self.restore, "to restore"))
            if seconds is not None
        ]
        again = f"; ran again: {', '.join(self.ran_again)}" if self.ran_again else ""
        times = f": {', '.join(parts)}" if parts else ""
        return f"Thread {self.thread_id!r}, {self.time.isoformat(' ', 'seconds')}, {self.kind}{times}{again}"


@record(frozen=True, slots=True)
class SetupReport:
    """What `setup()` did, and what its credentials did not allow.

    Attributes:
        done: A sentence for each thing that was found or done.
        missing: A sentence for each thing that these credentials may not do, and what to do about it.
        warnings: A sentence for each setting by other users that endangers stored data.
        settings: Names and texts of the files from which an administrator applies the platform's settings; none for the
            embedded store.
    """

    done: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


@record(frozen=True, slots=True)
class ItemFailure:
    """What is known about an item that has failed; its text is for people.

    Attributes:
        attempts: How often it has failed.
        error: The text of an error; empty if processes crashed while they handled the item.
    """

    attempts: int
    error: str

    def __str__(self) -> str:
        return f"failed {_counted(self.attempts, 'time')}: {self.error or 'the process crashed'}"


@record(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is, as far as this process knows; its text is for people.

    Attributes:
        done: Number of items that were done.
        failed: Number of items that have failed and were not done.
        items: Number of items.
    """

    done: int
    failed: int
    items: int

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {_counted(self.items, 'item')} done{failed}"


@record(frozen=True, slots=True, kw_only=True)
class BatchInfo:
    """A batch of items; its text is for people.

    Attributes:
        thread_id: The thread.
        batch_id: The batch.
        state: `open` while items are left; `closing` while its final operation runs; `done`.
        items: Number of items.
        done: Number of items that were done.
        failed: Items that have failed and were not done, by key.
        context: What the first caller gave as `context`.
    """

    thread_id: str
    batch_id: str
    state: Literal["open", "closing", "done"]
    items: int
    done: int
    failed: Mapping[str, ItemFailure]
    context: object = None

    @property
    def progress(self) -> BatchProgress:
        """How far it is."""
        return BatchProgress(self.done, len(self.failed), self.items)

    def __str__(self) -> str:
        return f"Batch {self.batch_id!r} of thread {self.thread_id!r}: {self.state}, {self.progress}"


@record(frozen=True, slots=True, kw_only=True)
class SetInfo:
    """A consistent set of a team: one checkpoint of each member; its text is for people.

    Attributes:
        team: The team.
        set_id: The set. Ids sort by the time at which sets were begun, by the clock of the process.
        state: `preparing`, `committed`, `aborted`, or `broken` after a forced deletion of a member's thread.
        label: What the caller called it.
        members: The members, in order of their names.
        cut: The root checkpoint of each member, by member; empty if the set was not committed.
        begun: When it was begun, by the service's clock.
        decided: When it was committed or aborted; `None` before that.
        missing: If it was aborted, the members without a checkpoint that stood still until the timeout.
        restored: When it was last restored; `None` if it never was.
    """

    team: str
    set_id: str
    state: Literal["preparing", "committed", "aborted", "broken"]
    label: str | None
    members: tuple[str, ...]
    cut: Mapping[str, str]
    begun: datetime
    decided: datetime | None = None
    missing: tuple[str, ...] = ()
    restored: datetime | None = None

    def __str__(self) -> str:
        label = "" if self.label is None else f" ({self.label})"
        return f"Set {self.set_id}{label} of team {self.team!r}: {self.state}, {_counted(len(self.members), 'member')}"


@record(frozen=True, slots=True, kw_only=True)
class TeamInfo:
    """A team; its text is for people.

    Attributes:
        team: The team.
        threads: The id of each member's thread, by the member's name, in order of the names.
        retention: How many committed sets it keeps.
        sets: Its sets, newest first.
    """

    team: str
    threads: Mapping[str, str]
    retention: int
    sets: tuple[SetInfo, ...]

    @property
    def newest(self) -> SetInfo | None:
        """The newest committed set; `None` if there is none."""
        return next((one for one in self.sets if one.state == "committed"), None)

    def __str__(self) -> str:
        committed = sum(one.state == "committed" for one in self.sets)
        members = _counted(len(self.threads), "member")
        return f"Team {self.team!r}: {members}, {_counted(committed, 'committed set')}"


@record(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """What a restore of a set changes, or has changed; its text is for people.

    Attributes:
        team: The team.
        set_id: The set.
        threads: The threads, in order of their ids: the checkpoint of the set, and the one that is the newest now.
        forks: The checkpoints that the restore has made, by thread id and namespace; empty for a plan.
        writes: Number of writes of the commit.
        size: Bytes of the commit.
        fenced: Owners of the leases that the restore takes over, by thread id.
        not_undone: Operations and sagas that were recorded after the set, and that stay as they are.
    """

    team: str
    set_id: str
    threads: Mapping[str, tuple[str, str]]
    forks: Mapping[tuple[str, str], str]
    writes: int
    size: int
    fenced: Mapping[str, str]
    not_undone: tuple[str, ...] = ()

    def __str__(self) -> str:
        done = "restored" if self.forks else "to restore"
        lines = [f"Set {self.set_id} of team {self.team!r}: {_counted(len(self.threads), 'thread')} {done}"]
        lines += [f"  {thread}: {newest} -> {held}" for thread, (held, newest) in self.threads.items()]
        lines += [f"  fences {owner!r}, which holds the lease of {thread}" for thread, owner in self.fenced.items()]
        lines += [f"  not undone: {what}" for what in self.not_undone]
        return "\n".join(lines)


SagaState = Literal["running", "done", "compensating", "compensated", "stuck"]


@record(frozen=True, slots=True, kw_only=True)
class SagaStep:
    """A step of a saga; its text is for people.

    Attributes:
        name: The step.
        key: The key of its operation.
        state: The operation's state, or `undone`. One that `failed` took no effect, so a rollback leaves it as it is.
        undo: Name and version of its compensation; `None` if the step is irreversible.
        claimed: When its operation was claimed, by the service's clock.
        epoch: The epoch of the saga in which that was.
        problem: Why the rollback stops here, if it does.
    """

    name: str
    key: str
    state: Literal["claimed", "paused", "done", "failed", "unknown", "not-done", "undone"]
    undo: tuple[str, int] | None
    claimed: datetime | None
    epoch: int
    problem: str | None = None

    def __str__(self) -> str:
        undo = "irreversible" if self.undo is None else f"undo {self.undo[0]} v{self.undo[1]}"
        problem = "" if self.problem is None else f": {self.problem}"
        return f"{self.name}: {self.state} ({undo}){problem}"


@record(frozen=True, slots=True, kw_only=True)
class SagaInfo:
    """A saga; its text is for people.

    Attributes:
        thread_id: The thread.
        saga_id: The saga.
        state: `running`, `done`, `compensating`, `compensated`, or `stuck`.
        epoch: Counts its rollbacks, from 0.
        steps: Its steps, in order of their claims.
        savepoints: The checkpoint that each savepoint holds, by name, oldest first; `None` if the thread had none then,
            and in a copy of the thread.
        target: While it is rolled back, and after that: the savepoint to which; `None` for the beginning.
    """

    thread_id: str
    saga_id: str
    state: SagaState
    epoch: int
    steps: tuple[SagaStep, ...]
    savepoints: Mapping[str, str | None]
    target: str | None = None

    def __str__(self) -> str:
        head = f"Saga {self.saga_id!r} of thread {self.thread_id!r}: {self.state}"
        return "\n".join([head, *(f"  {step}" for step in self.steps)])


def at_time(nanoseconds: int) -> datetime:
    """A time of the service, as people read it."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=nanoseconds // 1000)


def lag_of(made: str | None, stored: int) -> timedelta | None:
    """The time from a checkpoint's time stamp to the service's time; `None` if the stamp is none."""
    try:
        made_at = datetime.fromisoformat(made or "")
    except ValueError:
        return None
    return at_time(stored) - (made_at if made_at.tzinfo else made_at.replace(tzinfo=timezone.utc))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@record(frozen=True, slots=True, kw_only=True)
class ForkFound:
    """Two checkpoints that continue the same one, because each of two stores has taken one of them.

    Attributes:
        thread_id: The thread.
        checkpoint_ns: The namespace.
        parent_id: The checkpoint that both continue.
        checkpoint_id: The one that came from the other store.
        sibling_id: The latest one that the store had.
    """

    thread_id: str
    checkpoint_ns: str
    parent_id: str
    checkpoint_id: str
    sibling_id: str


@record(frozen=True, slots=True, kw_only=True)
class Unshipped:
    """A thread that could not be replicated, and why.

    Attributes:
        thread_id: The thread.
        error: The error. The entries of the outbox stay, so the next pass tries again.
    """

    thread_id: str
    error: Exception


@record(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What a pass over an outbox has replicated.

    Attributes:
        threads: Number of threads.
        entries: Number of entries of the outbox that were shipped and removed.
        documents: Number of documents that were written or deleted in the other store.
        bytes: Bytes that were stored there: of documents and objects.
        is_all: Whether all of the outbox was looked at.
        mark: The time up to which nothing is missing in the other store, in nanoseconds by the clock of the store that
            was replicated; `None` if it is not known.
        forks: Forks that have come about because both stores were written to.
        failures: The threads that could not be replicated.
    """

    threads: int = 0
    entries: int = 0
    documents: int = 0
    bytes: int = 0
    is_all: bool = True
    mark: int | None = None
    forks: tuple[ForkFound, ...] = ()
    failures: tuple[Unshipped, ...] = ()

    def __str__(self) -> str:
        what = f"{_counted(self.documents, 'document')} of {_counted(self.threads, 'thread')}, {self.bytes:,} bytes"
        lines = [f"Shipped {what}."] if self.documents else []
        if not (self.documents or self.failures):
            lines.append("There was nothing to ship.")
        lines += [
            f"Thread {fork.thread_id!r} forks: {fork.sibling_id} and {fork.checkpoint_id} continue {fork.parent_id}."
            for fork in self.forks
        ]
        lines += [f"Not shipped: thread {one.thread_id!r}: {one.error}" for one in self.failures]
        return "\n".join(lines)

    def __add__(self, other: Shipped) -> Shipped:
        return Shipped(
            threads=self.threads + other.threads,
            entries=self.entries + other.entries,
            documents=self.documents + other.documents,
            bytes=self.bytes + other.bytes,
            is_all=self.is_all and other.is_all,
            mark=self.mark,
            forks=(*self.forks, *other.forks),
            failures=(*self.failures, *other.failures),
        )


@record(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What a comparison of a thread in two stores has replicated.

    Attributes:
        thread_id: The thread; `None` for the operations that all threads share.
        documents: Number of documents that were written in the other store.
        bytes: Bytes that were stored there.
        extra: Names of documents that only the other store has.
        forks: Forks that have come about because both stores were written to.
    """

    thread_id: str | None
    documents: int = 0
    bytes: int = 0
    extra: tuple[str, ...] = ()
    forks: tuple[ForkFound, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class ReplicationStatus:
    """How far a replication is.

    Attributes:
        source: The connection string of the store whose changes are shipped.
        target: The connection string of the other one.
        source_role: The source's role: `primary`, `replica`, `fenced` or `none`; `unreached` if it did not answer.
        target_role: The target's role.
        epoch: The number of the last change of the roles; 0 if there was none.
        mark: Everything that the source had stored before this time is in the target: nanoseconds since the epoch, by
            the source's clock. `None` if no pass over the outbox has ended yet.
        lag: Seconds since the mark, by the source's clock; by the target's if the source did not answer.
        entries: Entries that the source's outbox has, 1,000 at most.
        is_more: Whether it has more of them.
        oldest: Seconds since the oldest of these entries was stored; `None` if there are none.
        unreached: Why the source did not answer; empty if it did. Its entries are then unknown.
    """

    source: str
    target: str
    source_role: str
    target_role: str
    epoch: int
    mark: int | None
    lag: float | None
    entries: int
    is_more: bool
    oldest: float | None
    unreached: str = ""

    @property
    def is_replicating(self) -> bool:
        """Whether the source is the primary, and the target its replica."""
        return (self.source_role, self.target_role) == ("primary", "replica")

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.unreached or self.source_role}",
            f"{self.target}: {self.target_role}",
            f"Epoch {self.epoch}",
        ]
        if self.source_role != "primary" and self.target_role == "primary":
            lines.append(f"The primary is {self.target}. Swap the two stores to see how far its replica is.")
        elif self.mark is None:
            lines.append("There is no mark: no pass over the outbox has ended yet.")
        else:
            at = at_time(self.mark).isoformat(timespec="milliseconds")
            lines.append(f"The replica has everything until {at}, and is {self.lag:.1f} s behind.")
        if not self.unreached:
            count = f"more than {self.entries:,}" if self.is_more else f"{self.entries:,}"
            age = "" if self.oldest is None else f" The oldest is {self.oldest:.1f} s old."
            lines.append(f"Entries in the outbox: {count}.{age}")
        roles = {self.source_role, self.target_role}
        if roles == {"primary"}:
            lines.append("Both count themselves as the primary: call `failover` once more, as it was forced.")
        elif "fenced" in roles and "primary" not in roles:
            lines.append("Neither takes writes, because a failover is under way: call it again, or take it back.")
        return "\n".join(lines)
