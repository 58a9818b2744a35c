"""Repair: values found elsewhere are stored again for who lost them; what cannot be had again is set aside.

A value that comes back is proven: its digest is the one that was stored. Where it comes from does not matter then, so
candidates are made freely: the same value elsewhere, a pending write, the first items of a longer list, a shorter list
and the writes that followed it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any, cast

from langgraph_gcs_saver import filters, keys, manifest, portable
from langgraph_gcs_saver.cache import ByteCache
from langgraph_gcs_saver.digests import Digested
from langgraph_gcs_saver.effects import (
    Commit,
    Compute,
    Create,
    Delete,
    Doc,
    Flow,
    Gather,
    GetDocs,
    Merge,
    Now,
    PutBlob,
    Write,
)
from langgraph_gcs_saver.errors import ConflictError, SerializationError
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.manifests import encode_manifest, metadata_of
from langgraph_gcs_saver.flows.readback import failed, upload
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.survey import Broken, Entry, Place, Survey, survey
from langgraph_gcs_saver.flows.threads import note_thread
from langgraph_gcs_saver.flows.writes import PendingWrite, read_writes
from langgraph_gcs_saver.frames import crc32c
from langgraph_gcs_saver.manifest import ChannelRef, DamagedError, FrameRef, Manifest, Serialized, heir_of
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.repairs import Action, RepairPlan, RepairStep
from langgraph_gcs_saver.shapes import DELTA_COUNTERS

Dumps = Callable[[Any], Serialized]
"""Serialise a value."""

PASSES = 16
"""A damaged frame can hide another one that builds on it; and others may write meanwhile."""

_DOCS = 100
"""Documents read at once."""

_NEIGHBOURS = 3
"""Later versions of a value that are looked into, and earlier ones."""

_CACHE_BYTES = 64 << 20

_FROM_BEFORE = "the cipher protects nothing of the thread: open the saver with accept_clear=True, or delete the thread"

_SENDS = "__pregel_tasks"
"""LangGraph's channel of packets: each is a task, and no version shows that it ran."""

_EMPTY_LIST = 1
"""Bytes of a serialised list without items."""


@dataclass(slots=True)
class _Plan:
    """Steps, and what is needed to take them."""

    found: Survey
    steps: list[RepairStep] = field(default_factory=list)
    recovered: dict[Place, bytes] = field(default_factory=dict)
    dropped: dict[str, set[str]] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)

    def shown(self) -> RepairPlan:
        findings = tuple(finding for finding in self.found.findings() if finding.is_damage)
        return RepairPlan(thread_id=self.found.thread_id, findings=findings, steps=tuple(self.steps))

    @property
    def is_idle(self) -> bool:
        return all(step.action == "leave" for step in self.steps)


def repair(
    thread_id: str, *, dry_run: bool, show: Callable[[RepairPlan], object], loads: Loads, dumps: Dumps, context: Context
) -> Flow[RepairPlan]:
    """Plan, show the plan, and do what it says, until nothing is left to do.

    Returns:
        All that was found and done; of a dry run, what would be.

    Raises:
        CheckpointVerificationError: What was written anew reads differently.
        ConflictError: Others kept writing what had to be changed.
    """
    first: RepairPlan | None = None
    steps: list[RepairStep] = []
    for _ in range(PASSES):
        found = yield from survey(thread_id, "data", loads, context)
        plan = yield from _plan(found, loads, dumps, context)
        shown = plan.shown()
        first = first or shown
        if plan.steps and not (steps and plan.is_idle):
            yield from Compute(partial(show, shown))
        steps += [step for step in shown.steps if step not in steps]
        if dry_run or plan.is_idle:
            return replace(first, steps=tuple(steps))
        yield from _carry_out(plan, context)
    raise ConflictError(
        f"Thread {thread_id!r} still shows damage after {PASSES} passes of repair: is somebody writing to it? Stop its "
        "runs and call again."
    )


# Planning


def _plan(found: Survey, loads: Loads, dumps: Dumps, context: Context) -> Flow[_Plan]:
    plan = _Plan(found)
    if found.deleting:
        return plan
    search = _Search(found, loads, dumps, replace(context, values=ByteCache(_CACHE_BYTES)))
    for place, broken in found.broken.items():
        value, source = yield from search.find(broken)
        if value is not None:
            plan.recovered[place] = value
            affects = f"for {len(broken.users)} checkpoints" if len(broken.users) > 1 else "for it"
            reason = f"its value was found in {source}, and is stored again {affects}"
            step = partial(_step, found, broken.users[-1], channel=broken.channel, target=broken.step.name)
            plan.steps.append(step(action="re-encode", reason=reason))
    for name, damaged in found.unreadable.items():
        if _is_from_before(found, damaged.damage):
            plan.steps.append(_step(found, name, action="leave", reason=f"{damaged.damage.reason}; {_FROM_BEFORE}"))
        else:
            plan.aside[name] = damaged.damage.reason
    renewed = {(found.entries[found.broken[p].users[-1]].manifest.ns, found.broken[p].channel) for p in plan.recovered}
    deltas = yield from _deltas(found, search, loads)
    for name in found.entries:
        lost = {c: b for c, b in found.damaged_channels(name).items() if b.step.place not in plan.recovered}
        rebuilt = {c for c in lost if deltas.can_rebuild(name, c)}
        # What comes back in this pass may be what the others are made of: the next one tells.
        if any((found.entries[name].manifest.ns, c) in renewed for c in lost.keys() - rebuilt):
            continue
        if lost.keys() == rebuilt:
            for channel in sorted(rebuilt):
                plan.dropped.setdefault(name, set()).add(channel)
                reason = "LangGraph rebuilds it from the writes since the snapshot before"
                step = partial(_step, found, name, channel=channel, target=lost[channel].step.name)
                plan.steps.append(step(action="rebuild", reason=reason))
        else:
            channel, broken = next((c, b) for c, b in lost.items() if c not in rebuilt)
            plan.aside[name] = f"channel {channel!r}: {broken.reason}"
    for name in deltas.needed(plan):
        reason = f"{plan.aside.pop(name)}; DeltaChannels of later checkpoints are made of it"
        plan.steps.append(_step(found, name, action="leave", reason=reason))
    for name, reason in plan.aside.items():
        plan.steps.append(_step(found, name, action="set aside", reason=reason))
    _plan_writes(plan, deltas.channels)
    for name, right in found.hints.items():
        if name not in plan.aside:
            reason = f"{' and '.join(sorted(right))} as in its manifest"
            plan.steps.append(_step(found, name, action="mend", reason=reason))
    plan.steps += [
        RepairStep(action="mend", name=name, reason=f"run {run!r} wrote to the thread")
        for name, run in found.runs.items()
    ]
    if found.thread is None and found.order:
        plan.steps.append(RepairStep(action="mend", name=keys.thread_doc(found.thread_id), reason="it is gone"))
    for name, heir in found.lost.items():
        if name not in plan.aside:
            plan.steps.append(_step(found, name, action="forget", reason=f"its child {heir!r} is gone for good"))
    if found.emptied:
        reason = "all checkpoints of the root namespace are gone: restore them, or call delete_thread"
        plan.steps.append(RepairStep(action="leave", name=keys.thread_doc(found.thread_id), reason=reason))
    return plan


def _is_from_before(found: Survey, damage: DamagedError) -> bool:
    """Whether something is in clear in a thread of which nothing is encrypted.

    The saver lacks `accept_clear` then, or should have no cipher: a whole thread is not set aside for that.
    """
    return damage.clear and not found.entries and found.writes.keys() <= found.damaged_writes.keys()


def _plan_writes(plan: _Plan, deltas: Mapping[str, set[str]]) -> None:
    """Damaged pending writes are set aside, and their tasks run again, unless later values may be made of them."""
    found = plan.found
    parents = {(entry.manifest.ns, entry.manifest.parent_id) for entry in found.entries.values()}
    for name, damaged in found.damaged_writes.items():
        segment, checkpoint_id = keys.writes_ns_of(name), keys.writes_checkpoint_id_of(name)
        make = partial(RepairStep, checkpoint_ns=keys.dec(segment) or "", checkpoint_id=checkpoint_id, name=name)
        if _is_from_before(found, damaged.damage):
            reason = f"pending writes: {damaged.damage.reason}; {_FROM_BEFORE}"
            plan.steps.append(make(action="leave", reason=reason))
            continue
        has_children = any(keys.enc(ns) == segment and parent == checkpoint_id for ns, parent in parents)
        if has_children and any(keys.enc(ns) == segment and channels for ns, channels in deltas.items()):
            reason = "pending writes that DeltaChannels of later checkpoints may be made of"
            plan.steps.append(make(action="leave", reason=reason))
        else:
            plan.aside[name] = damaged.damage.reason
            plan.steps.append(make(action="set aside", reason=f"pending writes: {damaged.damage.reason}"))


def _step(
    found: Survey, name: str, *, action: Action, reason: str, channel: str | None = None, target: str | None = None
) -> RepairStep:
    entry = found.entries.get(name)
    ns, checkpoint_id = (
        entry.ids if entry is not None else (keys.dec(keys.ns_segment_of(name)) or "", keys.checkpoint_id_of(name))
    )
    return RepairStep(
        action=action,
        checkpoint_ns=ns,
        checkpoint_id=checkpoint_id,
        channel=channel,
        name=target or name,
        reason=reason,
    )


@record(frozen=True, slots=True)
class _Deltas:
    """What DeltaChannels are made of.

    Attributes:
        found: The survey.
        channels: The DeltaChannels of each namespace.
        counters: By document name: updates of each DeltaChannel since its last snapshot.
        steps: Names of the documents of checkpoints that a step of a run made.
        written: By namespace and checkpoint id: for each channel whether an `Overwrite` is among its pending writes.
        loops: Documents of checkpoints that are their own ancestors: no run makes such, and they lead nowhere.
        finished: The tasks with regular pending writes, by namespace, encoded, and checkpoint id.
    """

    found: Survey
    channels: Mapping[str, set[str]]
    counters: Mapping[str, Mapping[str, int]]
    steps: set[str]
    written: Mapping[tuple[str, str], Mapping[str, bool]]
    loops: set[str]
    finished: Mapping[tuple[str, str], set[str]]

    def parent(self, name: str) -> str | None:
        """Name of the document of a checkpoint's parent."""
        return None if name in self.loops else _parent(self.found, name)

    def can_rebuild(self, name: str, channel: str) -> bool:
        """Whether replaying the writes since an earlier snapshot gives exactly the snapshot that is lost.

        It does for one that was due. Others were made because a replay would give something else: after a fork, an
        `Overwrite`, an input that no checkpoint was there to keep. Nothing says which it was: all must speak for it.
        """
        entry = self.found.entries[name]
        ns = entry.manifest.ns
        parent = self.parent(name)
        if channel not in self.channels.get(ns, ()) or name not in self.steps or parent is None:
            return False
        path = self._path(parent, channel)
        if path is None or any(self._is_forked(one) or self._is_overwritten(one, channel) for one in path):
            return False
        for child, one in zip((name, *path), path, strict=False):
            is_written = channel in self.written.get(self.found.entries[one].ids, ())
            if is_written is (self._version(child, channel) == self._version(one, channel)):
                return False  # Writes are gone, or were not this child's.
            if not self._has_all_writes(child, one):
                return False
        counters = [
            found.get(channel, 0) for one, found in self.counters.items() if self.found.entries[one].ids[0] == ns
        ]
        return max(counters) <= self.counters[parent].get(channel, 0)  # Else it was not due yet.

    def _has_all_writes(self, child: str, name: str) -> bool:
        """Whether each node that has seen newer versions at the child left writes: who finishes leaves some.

        Packets of `Send` are tasks too, and no version shows that they ran.
        """
        known = self.found.entries[name].manifest
        before = known.checkpoint.get("versions_seen", {})
        seen = self.found.entries[child].manifest.checkpoint.get("versions_seen", {})
        ran = [node for node in seen if not node.startswith("__") and seen[node] != before.get(node)]
        packets = known.channels.get(_SENDS)
        has_packets = packets is not None and packets.size > _EMPTY_LIST
        finished = self.finished.get((keys.enc(known.ns), known.checkpoint_id), ())
        return not has_packets and len(ran) <= len(finished)

    def _version(self, name: str, channel: str) -> Any:
        return self.found.entries[name].manifest.checkpoint.get("channel_versions", {}).get(channel)

    def _path(self, name: str, channel: str) -> list[str] | None:
        """From `name` back to the ancestor with the channel's nearest whole value; `None` if something is wrong."""
        spoilt = {(keys.writes_ns_of(one), keys.writes_checkpoint_id_of(one)) for one in self.found.damaged_writes}
        path: list[str] = []
        following: str | None = name
        while following is not None:
            known = self.found.entries.get(following)
            if known is None or (keys.enc(known.manifest.ns), known.manifest.checkpoint_id) in spoilt:
                return None
            path.append(following)
            if channel in known.manifest.channels:
                if channel not in self.found.damaged_channels(following):
                    return path
                if not self.can_rebuild(following, channel):
                    return None
            if channel not in known.manifest.checkpoint.get("channel_versions", {}):
                return path  # It had never been written.
            following = self.parent(following)
        return None

    def _is_forked(self, name: str) -> bool:
        """Whether several checkpoints continue one: nothing says whose its pending writes are."""
        ids = self.found.entries[name].ids
        children = [e for e in self.found.entries.values() if (e.manifest.ns, e.manifest.parent_id) == ids]
        return len(children) != 1 or any(keys.ns_segment_of(one) == keys.enc(ids[0]) for one in self.found.unreadable)

    def _is_overwritten(self, name: str, channel: str) -> bool:
        return self.written.get(self.found.entries[name].ids, {}).get(channel, False)

    def needed(self, plan: _Plan) -> list[str]:
        """Documents that are to be set aside, and that DeltaChannels of checkpoints which stay are made of."""
        found: dict[str, None] = {}
        names = [name for name in self.found.entries if name not in plan.aside]
        while names:
            name = names.pop()
            known = self.found.entries[name].manifest
            for channel in self.channels.get(known.ns, ()):
                if channel not in known.checkpoint.get("channel_versions", {}):
                    continue
                following: str | None = name
                while following is not None and not self._is_stored(plan, following, channel):
                    following = self.parent(following) if following in self.found.entries else None
                    if following is not None and following in plan.aside and following not in found:
                        found[following] = None
                        names += [following] if following in self.found.entries else []
        return list(found)

    def _is_stored(self, plan: _Plan, name: str, channel: str) -> bool:
        entry = self.found.entries.get(name)
        return entry is not None and channel in entry.manifest.channels.keys() - plan.dropped.get(name, set())


def _parent(found: Survey, name: str) -> str | None:
    known = found.entries[name].manifest
    if known.parent_id is None or known.parent_id == known.checkpoint_id:
        return None
    return keys.checkpoint_doc(found.thread_id, known.ns, known.parent_id)


def _loops(found: Survey) -> set[str]:
    """Documents of checkpoints that are their own ancestors."""
    loops: set[str] = set()
    done: set[str] = set()
    for start in found.entries:
        path: dict[str, None] = {}
        name: str | None = start
        while name is not None and name in found.entries and name not in done and name not in path:
            path[name] = None
            name = _parent(found, name)
        if name is not None and name in path:
            names = list(path)
            loops.update(names[names.index(name) :])
        done.update(path)
    return loops


def _deltas(found: Survey, search: _Search, loads: Loads) -> Flow[_Deltas]:
    channels: dict[str, set[str]] = {}
    counters: dict[str, dict[str, int]] = {}
    steps: set[str] = set()
    for name, entry in found.entries.items():
        metadata = metadata_of(entry.manifest, loads)
        counted = metadata.get(DELTA_COUNTERS)
        counters[name] = {key: count[0] for key, count in counted.items()} if isinstance(counted, Mapping) else {}
        channels.setdefault(entry.manifest.ns, set()).update(counters[name])
        if metadata.get("source") == "loop":
            steps.add(name)
    written: dict[tuple[str, str], dict[str, bool]] = {}
    for ns, names in channels.items():
        for checkpoint_id in search.written(ns) if names else ():
            for write in (yield from search.writes_of(ns, checkpoint_id)):
                if write.channel in names:
                    of = written.setdefault((ns, checkpoint_id), {})
                    of[write.channel] = of.get(write.channel, False) or _is_overwrite(loads(write.value))
    finished: dict[tuple[str, str], set[str]] = {}
    for name in found.writes.keys() - found.damaged_writes.keys():
        task, is_special = keys.writes_task_of(name)
        if not is_special:
            finished.setdefault((keys.writes_ns_of(name), keys.writes_checkpoint_id_of(name)), set()).add(task)
    return _Deltas(found, channels, counters, steps, written, _loops(found), finished)


def _is_overwrite(value: Any) -> bool:
    """Whether a write replaces all others of its step, in any of the forms that LangGraph takes."""
    if isinstance(value, dict):
        return "__overwrite__" in value or value.get("type") == "__overwrite__"
    name = (value.type or ("", ""))[1] if isinstance(value, Stored) else type(value).__name__
    return name == "Overwrite"


class _Search:
    """Looks for values that are lost where they should be."""

    def __init__(self, found: Survey, loads: Loads, dumps: Dumps, context: Context) -> None:
        self._found = found
        self._loads = loads
        self._dumps = dumps
        self._context = context
        self._names: dict[str, dict[str, list[str]]] = {}
        """Documents of pending writes that can be read, by encoded namespace and checkpoint."""
        self._digests: dict[str, list[_Digest]] = {}
        for name in found.writes.keys() - found.damaged_writes.keys():
            by_id = self._names.setdefault(keys.writes_ns_of(name), {})
            by_id.setdefault(keys.writes_checkpoint_id_of(name), []).append(name)

    def find(self, broken: Broken) -> Flow[tuple[bytes | None, str]]:
        """The value that a broken frame should give, and where it was found."""
        wanted = _Wanted.of(broken, self._found)
        for name in self._found.entries:
            for channel, ref in self._whole(name):
                if ref.size == wanted.size and ref.sha256.startswith(wanted.digest):
                    value = yield from self._value(name, channel)
                    if value is not None and wanted.is_met_by(value):
                        return value, f"checkpoint {keys.checkpoint_id_of(name)}"
        owner = self._found.entries[broken.users[-1]]
        ns, channel = owner.manifest.ns, broken.channel
        for checkpoint_id, written, size, digest in (yield from self._digests_of(ns)):
            if written == channel and size == wanted.size and digest.startswith(wanted.digest):
                for write in (yield from self.writes_of(ns, checkpoint_id)):
                    if write.channel == channel and wanted.is_met_by(write.value.data):
                        return write.value.data, f"a pending write of checkpoint {checkpoint_id}"
        versions = [
            n for n in self._found.order if n in self._found.entries and self._found.entries[n].manifest.ns == ns
        ]
        here = versions.index(owner.doc.name)
        later = [n for n in reversed(versions[:here]) if channel in dict(self._whole(n))][:_NEIGHBOURS]
        for name in later:
            made = yield from self._derive(name, channel, partial(_beginnings, wanted.size))
            if (found := _first(wanted, made)) is not None:
                return found, f"the beginning of its value in checkpoint {keys.checkpoint_id_of(name)}"
        parent = self._parent(owner, broken)
        if parent is not None and channel in dict(self._whole(parent.doc.name)):
            pending = yield from self.writes_of(ns, parent.manifest.checkpoint_id)
            updates = [self._loads(write.value) for write in pending if write.channel == channel]
            made = yield from self._derive(parent.doc.name, channel, partial(_reductions, updates))
            if (found := _first(wanted, made)) is not None:
                return found, f"checkpoint {parent.manifest.checkpoint_id} and the writes that followed it"
        return None, ""

    def _whole(self, name: str) -> list[tuple[str, ChannelRef]]:
        damaged = self._found.damaged_channels(name)
        return [(c, ref) for c, ref in self._found.entries[name].manifest.channels.items() if c not in damaged]

    def _parent(self, owner: Entry, broken: Broken) -> Entry | None:
        """The parent of the checkpoint that wrote the frame."""
        written = broken.step.frame.owner
        if written is not None and written != owner.manifest.checkpoint_id:
            name = keys.checkpoint_doc(self._found.thread_id, owner.manifest.ns, written)
            writer = self._found.entries.get(name)
            if writer is None:
                return None
            owner = writer
        if owner.manifest.parent_id is None:
            return None
        return self._found.entries.get(
            keys.checkpoint_doc(self._found.thread_id, owner.manifest.ns, owner.manifest.parent_id)
        )

    def _value(self, name: str, channel: str) -> Flow[bytes | None]:
        entry = self._found.entries[name]
        known = replace(entry.manifest, channels={channel: entry.manifest.channels[channel]})
        sources = Sources([Found(entry.doc, known)], self._context)
        sources.fill((yield from Gather(tuple(sources.fetches()))))
        try:
            return (yield from Compute(partial(sources.plain, known, channel), size=known.size))
        except DamagedError:
            return None  # It has been damaged, or deleted, since the survey.

    def _derive(self, name: str, channel: str, make: Callable[[Any, Dumps], Iterator[Any]]) -> Flow[list[bytes]]:
        """Serialised values that can be made of a checkpoint's."""
        data = yield from self._value(name, channel)
        if data is None:
            return []
        kind = self._found.entries[name].manifest.channels[channel].type
        return (yield from Compute(partial(self._make, Serialized(kind, data), make), size=len(data) * 10))

    def _make(self, value: Serialized, make: Callable[[Any, Dumps], Iterator[Any]]) -> list[bytes]:
        made = []
        for candidate in make(self._loads(value), self._dumps):
            with suppress(SerializationError):  # A reducer has made of it what this serializer never reads.
                dumped = self._dumps(candidate)
                if dumped.type == value.type:
                    made.append(dumped.data)
        return made

    def written(self, ns: str) -> list[str]:
        """The checkpoints of a namespace that have pending writes which can be read."""
        return list(self._names.get(keys.enc(ns), ()))

    def writes_of(self, ns: str, checkpoint_id: str) -> Flow[list[PendingWrite]]:
        """The pending writes of a checkpoint. They are not kept: a thread's together may be more than memory holds."""
        names = self._names.get(keys.enc(ns), {}).get(checkpoint_id, [])
        docs: dict[str, Doc] = {}
        for at in range(0, len(names), _DOCS):
            docs.update((yield from GetDocs(tuple(names[at : at + _DOCS]))))
        return (yield from self._read_writes(checkpoint_id, docs.values()))

    def _read_writes(self, checkpoint_id: str, docs: Iterable[Doc]) -> Flow[list[PendingWrite]]:
        try:
            return (yield from read_writes((checkpoint_id,), docs, self._context.codec))[checkpoint_id]
        except DamagedError:
            return []  # Damaged or deleted since the survey: nothing can be had from them.

    def _digests_of(self, ns: str) -> Flow[list[_Digest]]:
        """What tells the pending writes of a namespace apart; all are read once for that."""
        if ns not in self._digests:
            found: list[_Digest] = []
            for checkpoint_id in self.written(ns):
                pending = yield from self.writes_of(ns, checkpoint_id)
                size = sum(len(write.value.data) for write in pending)
                found += yield from Compute(partial(_digests, checkpoint_id, pending), size=size)
            self._digests[ns] = found
        return self._digests[ns]


_Digest = tuple[str, str, int, str]
"""A pending write: its checkpoint, its channel, its size, and its digest."""


def _digests(checkpoint_id: str, pending: Iterable[PendingWrite]) -> list[_Digest]:
    return [
        (checkpoint_id, write.channel, len(write.value.data), Digested.of(write.value.data).digest) for write in pending
    ]


@record(frozen=True, slots=True)
class _Wanted:
    """What proves that a value is the lost one: its size, and its digest, of which inner frames tell the begin only."""

    size: int
    digest: str

    @classmethod
    def of(cls, broken: Broken, found: Survey) -> _Wanted:
        digest = broken.step.digest
        for user in broken.users:
            known = found.entries[user].manifest
            last = known.steps(broken.channel)[-1]
            if last.place == broken.step.place:
                digest = last.digest
        return cls(broken.step.size, digest)

    def is_met_by(self, value: bytes) -> bool:
        return len(value) == self.size and Digested.of(value).digest.startswith(self.digest)


def _first(wanted: _Wanted, candidates: list[bytes]) -> bytes | None:
    return next((data for data in candidates if wanted.is_met_by(data)), None)


def _beginnings(size: int, value: Any, dumps: Dumps) -> Iterator[Any]:
    """The begin of a value whose serialised form has a given size: of a list, a text, a mapping that has grown."""
    if isinstance(value, dict):
        items = list(value.items())
        cut: Callable[[int], Any] = lambda count: type(value)(items[:count])  # noqa: E731
        length = len(items)
    elif isinstance(value, (list, tuple, str, bytes)):
        cut, length = (lambda count: value[:count]), len(value)
    else:
        return
    low, high = 0, length
    while low < high:
        middle = (low + high) // 2
        if len(dumps(cut(middle)).data) < size:
            low = middle + 1
        else:
            high = middle
    yield cut(low)


def _reductions(updates: Sequence[Any], value: Any, _dumps: Dumps) -> Iterator[Any]:
    """A value with the updates that followed it, as the reducers would that people use.

    LangGraph's `add_messages` takes messages as objects, that of `portable` as a `PortableSerializer` reads them.
    """
    from langgraph.graph.message import add_messages  # noqa: PLC0415 - most processes never repair anything

    for reducer in (operator.add, operator.or_, portable.add_messages, add_messages):
        with suppress(Exception):  # no reducer of such values: they may raise anything
            yield reduce(cast("Callable[[Any, Any], Any]", reducer), updates, value)


# Doing


def _carry_out(plan: _Plan, context: Context) -> Flow[None]:
    """Take the steps; one that meets another's write changes nothing, and is planned again."""
    found = plan.found
    times = {name: entry.doc.update_time for name, entry in found.entries.items()}
    times.update({name: one.doc.update_time for name, one in found.unreadable.items()})
    if not (yield from _mend(found, times)):
        return
    uploads, moved = _uploads(plan, context)
    wrong = yield from upload(uploads, reads_back=context.reads_back)
    if wrong is not None:
        raise failed(f"What repairs thread {found.thread_id!r}", wrong.name)
    for name, entry in found.entries.items():
        if name in plan.aside:
            continue
        known = _rewritten(plan, entry, moved)
        fields: dict[str, Any] = {}
        extra: list[PutBlob] = []
        right = found.hints.get(name, {})
        if known != entry.manifest:
            index = right["filter"] if "filter" in right else entry.doc.fields.get("filter")
            room = manifest.DOCUMENT_BYTES - found.inner[name] - filters.size(index or {})
            body, blob = yield from Compute(partial(encode_manifest, known, room, context))
            fields = {"manifest": body, "digest": manifest.digest(name, body)}
            extra = [] if blob is None else [blob]
        fields.update({key: value for key, value in right.items() if value is not None})
        gone = [key for key, value in right.items() if value is None]
        if name in found.lost:
            gone.append("heir")
        if not fields and not gone:
            continue
        wrong = yield from upload(extra, reads_back=context.reads_back)
        if wrong is not None:
            raise failed(f"What repairs thread {found.thread_id!r}", wrong.name)
        context.heads.drop(name)
        done = yield from Commit((Merge(name, fields, remove=tuple(gone), update_time=times[name]),))
        if done is None:
            return
        times[name] = done[0]
    # As a deletion does it: newest first, and no further than to the first that has changed, for it may have a child
    # by now that needs what comes after.
    for name in sorted(plan.aside):
        context.heads.drop(name)
        if not (yield from _set_aside(plan, name, plan.aside[name], times)):
            return


def _mend(found: Survey, times: Mapping[str, int]) -> Flow[bool]:
    """Write the thread's own document, and those of its runs, if they are gone; false if something has changed."""
    mended: list[Write] = [
        Merge(name, {"run_id": run, "thread_id": found.thread_id}) for name, run in found.runs.items()
    ]
    if found.thread is None and found.order:
        now = yield from Now()
        has_root = any(keys.ns_segment_of(name) == keys.enc("") for name in found.order)
        note = note_thread(found.thread_id, now, has_root=has_root)
        mended.append(Create(keys.thread_doc(found.thread_id), note))
    for at in range(0, len(mended), 100):
        # Only while the thread is there: a deletion may have passed since it was looked at.
        newest = found.order[0]
        still = Merge(newest, {}, update_time=times[newest])
        if (yield from Commit((*mended[at : at + 100], still))) is None:
            return False
    return True


def _uploads(plan: _Plan, context: Context) -> tuple[list[PutBlob], dict[Place, FrameRef]]:
    """An object for each value that was found, and the ref of its frame."""
    uploads, moved = [], {}
    for place, value in plan.recovered.items():
        broken = plan.found.broken[place]
        known = plan.found.entries[broken.users[-1]].manifest
        owner = broken.writer
        attempt = context.new_attempt()
        stored = context.codec.encode(value)
        name = keys.blob(known.thread_id, known.ns, owner, keys.enc(broken.channel, "channel"), attempt)
        uploads.append(context.upload(name, stored))
        moved[place] = FrameRef(0, len(stored), owner=owner, attempt=attempt, crc32c=crc32c(stored))
    return uploads, moved


def _rewritten(plan: _Plan, entry: Entry, moved: Mapping[Place, FrameRef]) -> Manifest:
    """A manifest that refers to what was stored again, and not to what LangGraph rebuilds."""
    known = entry.manifest
    channels = dict(known.channels)
    for channel in plan.dropped.get(entry.doc.name, ()):
        del channels[channel]
    for channel, ref in known.channels.items():
        steps = known.steps(channel)
        for number, step in reversed(list(enumerate(steps))):
            if step.place in moved and channel in channels:
                link = ref.chain[number]
                owner = moved[step.place].owner
                full = replace(
                    moved[step.place],
                    owner=None if owner == known.checkpoint_id else owner,
                    size=link.size,
                    digest=link.digest,
                )
                channels[channel] = replace(ref, chain=(full, *ref.chain[number + 1 :]))
                break
    return replace(known, channels=channels)


def _set_aside(plan: _Plan, name: str, reason: str, times: dict[str, int]) -> Flow[bool]:
    """Copy a document to where nothing lists it, and delete it, or what others do not need of it.

    Returns:
        False if it has changed.
    """
    found = plan.found
    expected = found.unreadable.get(name) or found.damaged_writes.get(name)
    wanted = times.get(name) if expected is None else expected.doc.update_time
    doc = (yield from GetDocs((name,))).get(name)
    if doc is None or doc.update_time != wanted:
        return False
    copy = {**doc.fields, "from": name, "reason": reason}
    writes: list[Write] = [Merge(keys.aside_doc(name), copy)]
    needed = {
        step.name
        for other, entry in found.entries.items()
        if other not in plan.aside
        for channel in entry.manifest.channels
        for step in entry.manifest.steps(channel)
        if step.place not in plan.recovered
    }
    if name in needed:
        stripped = tuple(sorted(doc.fields.keys() - {"frames"}))
        writes.append(Merge(name, {}, remove=stripped, update_time=doc.update_time))
    else:
        writes.append(Delete(name, update_time=doc.update_time))
    parents = _heirs_of(found, name, times)
    done = yield from Commit((*writes, *parents))
    if done is None:
        return False
    times.update({write.name: time for write, time in zip(parents, done[2:], strict=True)})
    return True


def _heirs_of(found: Survey, name: str, times: Mapping[str, int]) -> list[Write]:
    """Writes by which the parents of a checkpoint forget it: it is not lost, it was put away."""
    if f"/{keys.WRITES}/" in name:
        return []
    segment, checkpoint_id = keys.ns_segment_of(name), keys.checkpoint_id_of(name)
    return [
        Merge(parent, {}, remove=("heir",), update_time=times[parent])
        for parent, entry in found.entries.items()
        if parent != name and keys.ns_segment_of(parent) == segment and heir_of(entry.doc) == checkpoint_id
    ]
