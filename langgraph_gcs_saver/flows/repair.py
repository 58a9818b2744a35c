"""Repairs a thread: lost values that are found elsewhere are stored again, and other damage is quarantined.

A digest proves that a recovered value is the one that was stored. Its origin then does not matter, so there are many
kinds of candidates: the same value elsewhere, a pending write, the first items of a longer list, or a shorter list and
the writes that followed it. A DeltaChannel's snapshot needs the same proof. LangGraph could rebuild it from the
snapshot before and the writes since, but it could not see whether some of those writes are missing.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any, cast

from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.engine import limits
from langgraph_gcs_saver.engine.effects import (
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
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.engine.pieces import crc32c
from langgraph_gcs_saver.errors import ConflictError, SerializationError
from langgraph_gcs_saver.flows import remirror
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context, Loads
from langgraph_gcs_saver.flows.leases import as_writer, end_damaged
from langgraph_gcs_saver.flows.manifests import LOST_ANCESTOR, encode_manifest, read_manifest, report_encrypting
from langgraph_gcs_saver.flows.marks import unmark
from langgraph_gcs_saver.flows.readback import failed, upload
from langgraph_gcs_saver.flows.sources import Found, Sources
from langgraph_gcs_saver.flows.survey import LEFT_CLEAR, Broken, Survey, survey
from langgraph_gcs_saver.flows.threads import note_thread
from langgraph_gcs_saver.flows.writes import PendingWrite, read_writes
from langgraph_gcs_saver.format import filters, keys, manifest
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.manifest import (
    ChannelRef,
    DamagedError,
    FrameRef,
    Manifest,
    Place,
    Serialized,
    Step,
    heir_of,
)
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Action, RepairPlan, RepairStep

Dumps = Callable[[Any], Serialized]
"""Serializes a value."""

PASSES = 16
"""The maximum number of passes.

One may not be enough: a damaged frame can hide another one that builds on it, and writers may change the thread.
"""

_DOCS_PER_PAGE = 100
"""How many documents are read at once."""

_NEIGHBORS = 3
"""How many later versions of a value are searched for its beginning."""

_CACHE_BYTES = 64 << 20

_WRITE_BYTES = 500
"""The memory that a pending write takes in addition to its value."""

_FROM_BEFORE = "the cipher protects nothing of the thread: open the saver with accept_clear=True, or delete the thread"

_EMPTY: tuple[Any, ...] = ([], {})
"""The values that DeltaChannels begin with."""

_Make = Callable[[Any, Dumps], Iterator[Any]]
"""Makes candidates from a value. It can serialize one to learn its size."""


@dataclass(slots=True)
class _Plan:
    """The steps of a repair, and the data that they need."""

    found: Survey
    steps: list[RepairStep] = field(default_factory=list)
    recovered: dict[Place, bytes] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    mirrored: dict[str, bool] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)

    def shown(self) -> RepairPlan:
        findings = tuple(finding for finding in self.found.findings() if finding.kind != "unreferenced")
        clear = sum(entry.is_clear and self.rewrites(name) for name, entry in self.found.entries.items())
        return RepairPlan(thread_id=self.found.thread_id, findings=findings, steps=tuple(self.steps), clear=clear)

    def rewrites(self, name: str) -> bool:
        """Whether a checkpoint stays, and its manifest will refer to a recovered value."""
        known = self.found.entries[name].manifest
        return name not in self.aside and any(
            self.replaces(name, step) for channel in known.channels for step in known.steps(channel)
        )

    def replaces(self, name: str, step: Step) -> bool:
        """Whether a checkpoint needs a recovered value in place of a frame."""
        return step.place in self.recovered and name in self.found.broken[step.place].users

    @property
    def is_idle(self) -> bool:
        return all(step.action == "leave" for step in self.steps)


def repair(
    thread_id: str,
    *,
    dry_run: bool,
    planned: RepairPlan | None = None,
    loads: Loads,
    dumps: Dumps,
    context: Context,
) -> Flow[RepairPlan]:
    """Plan a repair and carry it out, until nothing is left to do.

    With `planned`, only steps of that plan are carried out. Later steps, for damage that they bring to light, are not.

    Returns:
        All findings and steps; for a dry run, the steps of the first plan.

    Raises:
        CheckpointVerificationError: A repaired value reads back differently.
        ConflictError: Other writers kept changing the thread, or it needs other steps than `planned` has.
        ThreadBusyError: Another process holds the thread's lease.
    """
    first: RepairPlan | None = None
    steps: dict[RepairStep, None] = {}
    clear = 0
    is_done = False
    for _ in range(PASSES):
        found = yield from survey(thread_id, "data", loads, context)
        plan = yield from _plan(found, loads, dumps, context)
        shown = plan.shown()
        first = shown if first is None else first
        if is_done:
            steps.update(dict.fromkeys(step for step in shown.steps if step.action == "leave"))
            return replace(first, steps=tuple(steps), clear=clear)
        if planned is not None:
            _check_planned(shown, planned)
        steps.update(dict.fromkeys(shown.steps))
        clear += shown.clear
        if dry_run or plan.is_idle:
            return replace(first, steps=tuple(steps), clear=clear)
        yield from report_encrypting(thread_id, shown.clear)
        is_done = (yield from _carry_out_alone(plan, context)) and planned is not None
    raise ConflictError(
        f"Thread {thread_id!r} still shows damage after {PASSES} passes of repair, perhaps because runs write to it. "
        "Stop its runs and call again."
    )


def _check_planned(shown: RepairPlan, planned: RepairPlan) -> None:
    """Raise if a repair would do more than its plan showed.

    Raises:
        ConflictError: It would.
    """
    more = {step for step in shown.steps if step.action != "leave"} - set(planned.steps)
    if more or shown.clear > planned.clear:
        raise ConflictError(
            f"Thread {shown.thread_id!r} has changed since its repair was planned, and needs other steps. Only planned "
            "steps were taken. Plan the repair again."
        )


# Planning


def _plan(found: Survey, loads: Loads, dumps: Dumps, context: Context) -> Flow[_Plan]:
    plan = _Plan(found)
    if found.deleting:
        if found.is_abandoned:  # The next pass plans the rest.
            step = partial(RepairStep, action="fix", name=keys.thread_doc(found.thread_id))
            plan.steps.append(step(reason="the mark of a deletion that crashed or never began is removed"))
        return plan
    deltas = found.deltas()
    search = _Search(found, deltas, loads, dumps, replace(context, values=ByteCache(_CACHE_BYTES)))
    for place, broken in found.broken.items():
        value, source = yield from search.find(broken)
        if value is not None:
            plan.recovered[place] = value
            affects = f"for {len(broken.users)} checkpoints" if len(broken.users) > 1 else "for it"
            reason = f"its value was found in {source}, and is stored again {affects}"
            step = partial(_step, found, broken.oldest, channel=broken.channel, target=broken.step.name)
            plan.steps.append(step(action="re-encode", reason=reason))
    for name, damaged in found.unreadable.items():
        if _is_from_before(found, damaged.damage):
            plan.steps.append(_step(found, name, action="leave", reason=f"{damaged.damage.reason}; {_FROM_BEFORE}"))
        else:
            plan.aside[name] = damaged.damage.reason
    channels: dict[str, str] = {}
    renewed = {(found.entries[found.broken[p].oldest].manifest.ns, found.broken[p].channel) for p in plan.recovered}
    for name, entry in found.entries.items():
        lost = {c: b for c, b in found.damaged_channels(name).items() if b.step.place not in plan.recovered}
        # Other values may be made of those recovered in this pass. The next pass shows that.
        if lost and not any((entry.manifest.ns, channel) in renewed for channel in lost):
            channel, broken = next(iter(lost.items()))
            plan.aside[name] = broken.reason
            channels[name] = channel
    needed, gaps = _needed(plan, deltas)
    for name in needed:
        reason = f"{plan.aside.pop(name)}; DeltaChannels of later checkpoints are made of it"
        plan.steps.append(_step(found, name, action="leave", reason=reason, channel=channels.get(name)))
    for name, reason in plan.aside.items():
        plan.steps.append(_step(found, name, action="set aside", reason=reason, channel=channels.get(name)))
    _plan_writes(plan, deltas, gaps)
    losses = _losses(found.thread_id)
    for name, damaged in found.damaged_plain.items():
        is_forgotten = name in losses and not damaged.damage.clear
        if is_forgotten:
            plan.forgotten.append(name)
        advice = losses[name] if is_forgotten else "restore it from a backup, or delete it"
        reason = f"{damaged.damage.reason}: {advice}"
        plan.steps.append(RepairStep(action="forget" if is_forgotten else "leave", name=name, reason=reason))
    for name, right in found.hints.items():
        if name not in plan.aside:
            reason = f"{' and '.join(sorted(right))} as in its manifest"
            plan.steps.append(_step(found, name, action="fix", reason=reason))
    for name, exposed in found.exposed.items():
        if name not in plan.aside:
            reason = f"its filter differs from its metadata in {', '.join(map(repr, exposed))}, not in clear_metadata: "
            reason += "name there what may be in clear, and remove the rest from the document's field"
            plan.steps.append(_step(found, name, action="leave", reason=reason))
    for name in found.left_clear:
        reason = f"{LEFT_CLEAR}: prune the checkpoint, or migrate the thread"
        plan.steps.append(_step(found, name, action="leave", reason=reason))
    plan.steps += [
        RepairStep(action="fix", name=name, reason=f"run {run!r} wrote to the thread")
        for name, run in found.runs.items()
    ]
    for name, from_mirror in (yield from remirror.sources_of(found, context)).items():
        if from_mirror is not None:
            plan.mirrored[name] = from_mirror
        action: Action = "leave" if from_mirror is None else "mirror"
        plan.steps.append(RepairStep(action=action, name=name, reason=found.copies[name].reason))
    if found.headless:
        plan.steps.append(RepairStep(action="fix", name=keys.thread_doc(found.thread_id), reason="it is missing"))
    if found.names_another:
        reason = "it names another thread"
        plan.steps.append(RepairStep(action="fix", name=keys.thread_doc(found.thread_id), reason=reason))
    if found.fence is not None:
        reason = f"{found.fence}: the lease is ended"
        plan.steps.append(RepairStep(action="fix", name=keys.fence_doc(found.thread_id), reason=reason))
    for name, heir in found.lost.items():
        if name not in plan.aside:
            reason = f"its child {heir!r} is missing and cannot be recovered"
            plan.steps.append(_step(found, name, action="forget", reason=reason))
    for name in found.severed:
        plan.steps.append(_step(found, name, action="leave", reason=f"{LOST_ANCESTOR}: restore it"))
    if found.emptied:
        reason = "all checkpoints of the root namespace are missing: restore them, or call delete_thread"
        plan.steps.append(RepairStep(action="leave", name=keys.thread_doc(found.thread_id), reason=reason))
    return plan


def _losses(thread_id: str) -> Mapping[str, str]:
    """The documents of a thread that are deleted if they are damaged, and what is then lost."""
    return {
        keys.resume_doc(thread_id): "the turn resumes without the name of its graph, its context, its recursion limit "
        "and the breakpoints of its call: resume it with `run`, and pass them again",
        keys.requests_doc(thread_id): "earlier requests are no longer known: a retry of one that others have followed "
        "starts a turn",
    }


def _is_from_before(found: Survey, damage: DamagedError) -> bool:
    """Whether the damage is data in clear in a thread that has no encrypted data.

    Then the saver lacks `accept_clear`, or should have no cipher. A whole thread is not quarantined for that.
    """
    return damage.clear and not found.entries and found.writes.keys() <= found.damaged_writes.keys()


def _plan_writes(plan: _Plan, deltas: Mapping[str, set[str]], gaps: set[str]) -> None:
    """Quarantine damaged pending writes, whose tasks then run again, unless later values may be made of them.

    If an ancestor is missing, the ancestors before it are unknown. The missing one may be restored from a backup.
    """
    found = plan.found
    parents = {(entry.manifest.ns, entry.manifest.parent_id) for entry in found.entries.values()}
    for name, damaged in found.damaged_writes.items():
        segment, checkpoint_id = keys.writes_ns_of(name), keys.writes_checkpoint_id_of(name)
        make = partial(RepairStep, checkpoint_ns=found.ns_of(segment), checkpoint_id=checkpoint_id, name=name)
        if _is_from_before(found, damaged.damage):
            reason = f"pending writes: {damaged.damage.reason}; {_FROM_BEFORE}"
            plan.steps.append(make(action="leave", reason=reason))
            continue
        has_children = any(keys.enc(ns) == segment and parent == checkpoint_id for ns, parent in parents)
        has_deltas = any(keys.enc(ns) == segment and channels for ns, channels in deltas.items())
        if (has_children and has_deltas) or segment in gaps:
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
        entry.ids if entry is not None else (found.ns_of(keys.ns_segment_of(name)), keys.checkpoint_id_of(name))
    )
    return RepairStep(
        action=action,
        checkpoint_ns=ns,
        checkpoint_id=checkpoint_id,
        channel=channel,
        name=target or name,
        reason=reason,
    )


def _needed(plan: _Plan, deltas: Mapping[str, set[str]]) -> tuple[list[str], set[str]]:
    """Find the documents planned for quarantine that DeltaChannels of remaining checkpoints are made of.

    Returns:
        Their names, and the encoded namespaces with a DeltaChannel that is made of a missing or unreadable checkpoint.
    """
    entries = plan.found.entries
    needed: dict[str, None] = {}
    gaps: set[str] = set()
    walked: set[tuple[str, str]] = set()
    names = [name for name in entries if name not in plan.aside]
    while names:
        name = names.pop()
        entry = entries[name]
        for channel in deltas[entry.manifest.ns] & entry.written:
            following: str | None = name
            while following in entries and (following, channel) not in walked:
                walked.add((following, channel))
                known = entries[following]
                if channel in known.manifest.channels:
                    break
                following = _parent(plan.found, following)
                # A channel has no writes before its first version.
                if following is not None and following not in entries and channel in known.written:
                    gaps.add(keys.ns_segment_of(following))
                if following in plan.aside and following not in needed:
                    needed[following] = None
                    names += [following] if following in entries else []
    return list(needed), gaps


def _parent(found: Survey, name: str) -> str | None:
    """The name of the document of a checkpoint's parent; `None` without a parent."""
    known = found.entries[name].manifest
    return None if known.parent_id is None else keys.checkpoint_doc(found.thread_id, known.ns, known.parent_id)


class _Search:
    """Looks for lost values in other places."""

    def __init__(
        self, found: Survey, deltas: Mapping[str, set[str]], loads: Loads, dumps: Dumps, context: Context
    ) -> None:
        self._found = found
        self._deltas = deltas
        self._loads = loads
        self._dumps = dumps
        self._context = context
        self._names: dict[str, dict[str, list[str]]] = {}
        """Readable documents of pending writes, by encoded namespace and checkpoint."""
        self._pending: ByteCache[tuple[str, str], list[PendingWrite]] = ByteCache(_CACHE_BYTES)
        self._digests: dict[str, dict[_Key, list[_Written]]] = {}
        self._whole: dict[str, dict[str, ChannelRef]] = {}
        """The readable channels of each checkpoint."""
        self._values: dict[_Key, list[tuple[str, str]]] = {}
        """Checkpoints and channels by the keys of their values, so that no search goes through all of them."""
        self._versions: dict[str, list[str]] = {}
        """Checkpoints of each namespace, newest first."""
        self._having: dict[tuple[str, str], list[int]] = {}
        """The positions in that list at which a channel of a namespace is readable."""
        for name, entry in found.entries.items():
            damaged = found.damaged_channels(name)
            refs = entry.manifest.channels.items()
            self._whole[name] = {channel: ref for channel, ref in refs if channel not in damaged}
            for channel, ref in self._whole[name].items():
                self._values.setdefault(_key_of(ref.size, ref.sha256), []).append((name, channel))
        for name in found.order:
            if name in found.entries:
                ns = found.entries[name].manifest.ns
                versions = self._versions.setdefault(ns, [])
                for channel in self._whole[name]:
                    self._having.setdefault((ns, channel), []).append(len(versions))
                versions.append(name)
        self._places = {name: place for names in self._versions.values() for place, name in enumerate(names)}
        for name in found.writes.keys() - found.damaged_writes.keys():
            by_id = self._names.setdefault(keys.writes_ns_of(name), {})
            by_id.setdefault(keys.writes_checkpoint_id_of(name), []).append(name)

    def find(self, broken: Broken) -> Flow[tuple[bytes | None, str]]:
        """The value that a broken frame should give, and where it was found."""
        wanted = _Wanted.of(broken, self._found)
        key = _key_of(wanted.size, wanted.digest)
        for name, channel in self._values.get(key, ()):
            if self._whole[name][channel].sha256.startswith(wanted.digest):
                value = yield from self._value(name, channel)
                if value is not None and wanted.is_met_by(value):
                    return value, f"checkpoint {keys.checkpoint_id_of(name)}"
        owner = self._found.entries[broken.oldest]
        ns, channel = owner.manifest.ns, broken.channel
        for checkpoint_id, written, digest in (yield from self._digests_of(ns)).get(key, ()):
            if written == channel and digest.startswith(wanted.digest):
                for write in (yield from self.writes_of(ns, checkpoint_id)):
                    if write.channel == channel and wanted.is_met_by(write.value.data):
                        return write.value.data, f"a pending write of checkpoint {checkpoint_id}"
        having = self._having.get((ns, channel), [])
        newer = bisect_left(having, self._places[owner.doc.name])
        for place in reversed(having[max(newer - _NEIGHBORS, 0) : newer]):
            name = self._versions[ns][place]
            values = yield from self._serialized(name, channel)
            made = yield from self._derive(values, partial(_beginnings, wanted.size))
            if (found := _first(wanted, made)) is not None:
                return found, f"the beginning of its value in checkpoint {keys.checkpoint_id_of(name)}"
        path, has_value = self._before(broken)
        if path:
            updates: list[Serialized] = []
            for checkpoint_id in (self._found.entries[n].manifest.checkpoint_id for n in reversed(path)):
                pending = yield from self.writes_of(ns, checkpoint_id)
                updates += [write.value for write in pending if write.channel == channel]
            *_, seed = path
            values = (yield from self._serialized(seed, channel)) if has_value else _beginning()
            size = sum(len(update.data) for update in updates)
            made = yield from self._derive(values, partial(self._reduced, updates), size)
            if (found := _first(wanted, made)) is not None:
                return found, f"checkpoint {keys.checkpoint_id_of(seed)} and the writes that followed it"
        return None, ""

    def _before(self, broken: Broken) -> tuple[Sequence[str], bool]:
        """The ancestors whose writes made a value, nearest first, and whether the last one has the value before them.

        A DeltaChannel may have that value far back, or no value before its first version. Other channels have it at
        the parent. If an ancestor or the value cannot be read, the result has no ancestors.
        """
        entries, channel = self._found.entries, broken.channel
        ns = entries[broken.oldest].manifest.ns
        path: dict[str, None] = {}
        following: str | None = keys.checkpoint_doc(self._found.thread_id, ns, broken.writer)
        while following in entries:
            following = _parent(self._found, following)
            if following is None or following not in entries or following in path:
                break
            path[following] = None
            if channel in entries[following].manifest.channels:
                return (tuple(path) if channel in self._whole[following] else ()), True
            if channel not in self._deltas[ns]:
                break
            if channel not in entries[following].written:
                return tuple(path), False
        return (), False

    def _value(self, name: str, channel: str) -> Flow[bytes | None]:
        entry = self._found.entries[name]
        known = replace(entry.manifest, channels={channel: entry.manifest.channels[channel]})
        sources = Sources([Found(entry.doc, known)], self._context)
        sources.fill((yield from Gather(tuple(sources.fetches()))))
        try:
            return (yield from Compute(partial(sources.plain, known, channel), size=known.size))
        except DamagedError:
            return None  # It was damaged or deleted since the survey.

    def _serialized(self, name: str, channel: str) -> Flow[Sequence[Serialized]]:
        """A checkpoint's value; empty if it can no longer be read."""
        data = yield from self._value(name, channel)
        return () if data is None else (Serialized(self._found.entries[name].manifest.channels[channel].type, data),)

    def _derive(self, values: Sequence[Serialized], make: _Make, more: int = 0) -> Flow[list[bytes]]:
        """Serialized candidates made from `values`, and from `more` other bytes."""
        size = 10 * (more + sum(len(value.data) for value in values))
        return (yield from Compute(partial(self._made, values, make), size=size))

    def _made(self, values: Sequence[Serialized], make: _Make) -> list[bytes]:
        made: list[bytes] = []
        for value in values:
            with suppress(SerializationError):  # A value that this serializer cannot read gives no candidates.
                plain, wrap = _unwrapped(self._loads(value))
                dumps = partial(self._dump, wrap)
                for candidate in make(plain, dumps):
                    # A reducer may make values that this serializer cannot handle, such as messages from texts.
                    with suppress(SerializationError, TypeError):
                        made.append(dumps(candidate).data)
        return made

    def _dump(self, wrap: Callable[[Any], Any], value: Any) -> Serialized:
        return self._dumps(wrap(value))

    def _reduced(self, updates: Sequence[Serialized], value: Any, _dumps: Dumps) -> Iterator[Any]:
        return _reductions([self._loads(update) for update in updates], value)

    def written(self, ns: str) -> list[str]:
        """The checkpoints of a namespace that have readable pending writes."""
        return list(self._names.get(keys.enc(ns), ()))

    def writes_of(self, ns: str, checkpoint_id: str) -> Flow[list[PendingWrite]]:
        """The pending writes of a checkpoint. Only some are kept, because all of a thread's may not fit into memory."""
        kept = self._pending.get((ns, checkpoint_id))
        if kept is not None:
            return kept
        names = self._names.get(keys.enc(ns), {}).get(checkpoint_id, [])
        docs: dict[str, Doc] = {}
        for at in range(0, len(names), _DOCS_PER_PAGE):
            docs.update((yield from GetDocs(tuple(names[at : at + _DOCS_PER_PAGE]))))
        found = yield from self._read_writes(checkpoint_id, docs.values())
        size = sum(_WRITE_BYTES + len(write.value.data) for write in found)
        self._pending.put((ns, checkpoint_id), found, _WRITE_BYTES + size)
        return found

    def _read_writes(self, checkpoint_id: str, docs: Iterable[Doc]) -> Flow[list[PendingWrite]]:
        try:
            return (yield from read_writes((checkpoint_id,), docs, self._context.codec))[checkpoint_id]
        except DamagedError:
            return []  # They were damaged or deleted since the survey.

    def _digests_of(self, ns: str) -> Flow[dict[_Key, list[_Written]]]:
        """The pending writes of a namespace by the keys of their values; all are read once for that."""
        if ns not in self._digests:
            found: dict[_Key, list[_Written]] = {}
            for checkpoint_id in self.written(ns):
                pending = yield from self.writes_of(ns, checkpoint_id)
                size = sum(len(write.value.data) for write in pending)
                for key, written in (yield from Compute(partial(_digests, checkpoint_id, pending), size=size)):
                    found.setdefault(key, []).append(written)
            self._digests[ns] = found
        return self._digests[ns]


_Key = tuple[int, str]
"""What distinguishes values: the size, and the beginning of the digest."""

_Written = tuple[str, str, str]
"""A pending write: its checkpoint, its channel, and the digest of its value."""


def _key_of(size: int, digest: str) -> _Key:
    return size, digest[: manifest.DIGEST_DIGITS]


def _digests(checkpoint_id: str, pending: Iterable[PendingWrite]) -> list[tuple[_Key, _Written]]:
    found = []
    for write in pending:
        digest = Digested.of(write.value.data).digest
        found.append((_key_of(len(write.value.data), digest), (checkpoint_id, write.channel, digest)))
    return found


@record(frozen=True, slots=True)
class _Wanted:
    """What proves that a value is the lost one: its size, and its digest, or only the beginning of the digest."""

    size: int
    digest: str

    @classmethod
    def of(cls, broken: Broken, found: Survey) -> _Wanted:
        digest = broken.step.digest
        for user in broken.users:
            known = found.entries[user].manifest
            for channel in known.channels:
                for step in known.steps(channel):
                    if step.place == broken.step.place and len(step.digest) > len(digest):
                        digest = step.digest
        return cls(broken.step.size, digest)

    def is_met_by(self, value: bytes) -> bool:
        return len(value) == self.size and Digested.of(value).digest.startswith(self.digest)


def _first(wanted: _Wanted, candidates: list[bytes]) -> bytes | None:
    return next((data for data in candidates if wanted.is_met_by(data)), None)


def _beginnings(size: int, value: Any, dumps: Dumps) -> Iterator[Any]:
    """The beginning of a grown list, text or mapping, so long that its serialized form has a given size."""
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


def _beginning() -> list[Serialized]:
    """Snapshots of DeltaChannels without any write, as LangGraph's serializer writes them."""
    return [Serialized(*portable.PortableSerializer().dumps_typed(portable.delta(value))) for value in _EMPTY]


def _unwrapped(value: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A value, taken out of a DeltaChannel's snapshot if it is one, and the function that wraps another value alike."""
    if portable.is_delta(value):
        return portable.without_delta(value), portable.delta
    if isinstance(value, _DeltaSnapshot):
        return value.value, _DeltaSnapshot
    return value, _itself


def _itself(value: Any) -> Any:
    return value


def _appended(value: Sequence[Any], update: Any) -> list[Any]:
    return [*value, update]


def _reductions(updates: Sequence[Any], value: Any) -> Iterator[Any]:
    """A value with the updates that followed it, as each of the common reducers would combine them.

    LangGraph's `add_messages` takes messages as objects. That of `portable` takes them as a `PortableSerializer` reads
    them.
    """
    from langgraph.graph.message import add_messages  # noqa: PLC0415 - most processes never repair anything

    for reducer in (operator.add, operator.or_, _appended, portable.add_messages, add_messages):
        with suppress(Exception):  # A reducer may raise any error for values that it is not made for.
            yield reduce(cast("Callable[[Any, Any], Any]", reducer), updates, value)


# Doing


def _carry_out_alone(plan: _Plan, context: Context) -> Flow[bool]:
    """Take the steps while no other process holds the thread's lease; false after a conflict."""
    found = plan.found
    if found.fence is not None and not (yield from end_damaged(found.thread_id, context)):
        return False
    return (yield from as_writer(found.thread_id, partial(_carry_out, plan, context), context))


def _carry_out(plan: _Plan, context: Context) -> Flow[bool]:
    """Take the steps; false after a conflict.

    A step that conflicts with another writer changes nothing, and is planned again, like the steps after it.
    """
    found = plan.found
    if found.thread is not None and found.is_abandoned:
        return (yield from _remove_mark(found.thread, found.thread_id))
    times = {name: entry.doc.update_time for name, entry in found.entries.items()}
    times.update({name: one.doc.update_time for name, one in found.unreadable.items()})
    if not (yield from _restore_documents(found, times)):
        return False
    if found.thread is not None and found.names_another:
        own = Merge(found.thread.name, {"thread_id": found.thread_id}, update_time=found.thread.update_time)
        if (yield from Commit((own,))) is None:
            return False
    referrers = found.referrers(plan.mirrored)
    for name, from_mirror in plan.mirrored.items():
        copies = found.copies[name]
        yield from remirror.copy(name, copies, from_mirror=from_mirror, referrers=referrers[name], context=context)
    uploads, moved = _uploads(plan, context)
    wrong = yield from upload(uploads, reads_back=context.reads_back)
    if wrong is not None:
        raise failed(f"What repairs thread {found.thread_id!r}", wrong)
    for name, entry in found.entries.items():
        if name in plan.aside:
            continue
        fields: dict[str, Any] = {}
        extra: list[PutBlob] = []
        right = found.hints.get(name, {})
        if _rewritten(plan, entry.manifest, moved) != entry.manifest:
            again = yield from _read_again(name, times[name], context)
            if again is None:
                return False
            doc, known = again
            index = right["filter"] if "filter" in right else doc.fields.get("filter")
            room = manifest.PAYLOAD_BYTES - found.inner[name] - filters.size(index or {})
            rewritten = _rewritten(plan, known, moved)
            body, blob = yield from Compute(partial(encode_manifest, rewritten, room, context))
            fields = {"format": rewritten.format, "manifest": body, "digest": manifest.digest(name, body)}
            extra = [] if blob is None else [blob]
        fields.update({key: value for key, value in right.items() if value is not None})
        gone = [key for key, value in right.items() if value is None]
        if name in found.lost:
            gone.append("heir")
        if not fields and not gone:
            continue
        wrong = yield from upload(extra, reads_back=context.reads_back)
        if wrong is not None:
            raise failed(f"What repairs thread {found.thread_id!r}", wrong)
        context.heads.drop(name)
        done = yield from Commit((Merge(name, fields, remove=tuple(gone), update_time=times[name]),))
        if done is None:
            return False
        times[name] = done[0]
    for name in plan.forgotten:
        if (yield from Commit((Delete(name, update_time=found.damaged_plain[name].doc.update_time),))) is None:
            return False
    # As in a deletion, the newest come first. The first that has changed ends the loop, because it may have a new
    # child that needs the documents after it.
    needed = _still_needed(plan)
    parents = _by_heir(found)
    for name in sorted(plan.aside):
        context.heads.drop(name)
        heirs = [] if name in found.damaged_writes else parents.get(_segments(name), [])
        if not (yield from _set_aside(plan, name, times, context, stays=name in needed, parents=heirs)):
            return False
    return True


def _remove_mark(thread: Doc, thread_id: str) -> Flow[bool]:
    """Remove the mark of a deletion that crashed or never began; false after a conflict."""
    root = yield from QueryDocs(keys.checkpoints(thread_id), (("ns", keys.enc("")),), limit=1, mask=())
    note = note_thread(thread_id, (yield from Now()), has_root=True) if root else {}
    return (yield from Commit((unmark(thread, note),))) is not None


def _restore_documents(found: Survey, times: Mapping[str, int]) -> Flow[bool]:
    """Recreate the thread's own document and those of its runs, if they are missing; false after a conflict."""
    restored: list[Write] = [
        Merge(name, {"run_id": run, "thread_id": found.thread_id}) for name, run in found.runs.items()
    ]
    if found.headless:
        now = yield from Now()
        has_root = any(keys.ns_segment_of(name) == keys.enc("") for name in found.order)
        note = note_thread(found.thread_id, now, has_root=has_root)
        restored.append(Create(keys.thread_doc(found.thread_id), note))
    for at in range(0, len(restored), limits.COMMIT_WRITES):
        # This requires that the thread still exists: it may have been deleted since the survey.
        newest = found.order[0]
        still = Merge(newest, {}, update_time=times[newest])
        if (yield from Commit((*restored[at : at + limits.COMMIT_WRITES], still))) is None:
            return False
    return True


def _uploads(plan: _Plan, context: Context) -> tuple[list[PutBlob], dict[Place, FrameRef]]:
    """An object for each recovered value, and the ref of its frame."""
    uploads, moved = [], {}
    for place, value in plan.recovered.items():
        broken = plan.found.broken[place]
        known = plan.found.entries[broken.oldest].manifest
        owner = broken.writer
        attempt = context.new_attempt()
        stored = context.codec.encode(value)
        name = keys.blob(known.thread_id, known.ns, owner, keys.enc(broken.channel, "channel"), attempt)
        uploads.append(context.upload(name, stored))
        moved[place] = FrameRef(0, len(stored), owner=owner, attempt=attempt, crc32c=crc32c(stored))
    return uploads, moved


def _read_again(name: str, time: int, context: Context) -> Flow[tuple[Doc, Manifest] | None]:
    """A checkpoint's document and whole manifest, because a survey keeps only its refs; `None` if it has changed."""
    doc = (yield from GetDocs((name,))).get(name)
    if doc is None or doc.update_time != time:
        return None
    try:
        return doc, (yield from read_manifest(doc, context.codec))
    except DamagedError:
        return None


def _rewritten(plan: _Plan, known: Manifest, moved: Mapping[Place, FrameRef]) -> Manifest:
    """A manifest that refers to the recovered values that it needs."""
    channels = dict(known.channels)
    for channel, ref in known.channels.items():
        steps = known.steps(channel)
        for number, step in reversed(list(enumerate(steps))):
            if plan.replaces(known.name, step):
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


def _still_needed(plan: _Plan) -> set[str]:
    """Documents and objects with frames of checkpoints that stay."""
    return {
        step.name
        for name, entry in plan.found.entries.items()
        if name not in plan.aside
        for channel in entry.manifest.channels
        for step in entry.manifest.steps(channel)
        if not plan.replaces(name, step)
    }


def _set_aside(
    plan: _Plan, name: str, times: dict[str, int], context: Context, *, stays: bool, parents: Iterable[str]
) -> Flow[bool]:
    """Copy a document to the quarantine, and delete it, or those fields that no other checkpoint needs.

    Pending writes are quarantined only while their checkpoint is unchanged. If it has a new child, DeltaChannels may be
    made of them.

    Args:
        plan: The plan.
        name: The document.
        times: When each document was last written.
        context: Options and caches.
        stays: Whether other checkpoints need its frames.
        parents: Checkpoints whose heir it is. Their heir is removed, because a quarantined child is not missing.

    Returns:
        False if it has changed.
    """
    found = plan.found
    expected = found.unreadable.get(name) or found.damaged_writes.get(name)
    wanted = times.get(name) if expected is None else expected.doc.update_time
    doc = (yield from GetDocs((name,))).get(name)
    if doc is None or doc.update_time != wanted:
        return False
    copy = {**doc.fields, "from": name, "reason": plan.aside[name]}
    writes: list[Write] = [Create(keys.aside_doc(name, context.new_attempt()), copy)]
    if stays:
        stripped = tuple(sorted(doc.fields.keys() - {"frames"}))
        writes.append(Merge(name, {}, remove=stripped, update_time=doc.update_time))
    else:
        writes.append(Delete(name, update_time=doc.update_time))
    others = [Merge(parent, {}, remove=("heir",), update_time=times[parent]) for parent in parents]
    if name in found.damaged_writes:
        checkpoint = keys.writes_checkpoint_doc(name)
        if checkpoint in times and checkpoint not in plan.aside:
            others.append(Merge(checkpoint, {}, update_time=times[checkpoint]))
    done = yield from Commit((*writes, *others))
    if done is None:
        return False
    times.update({write.name: time for write, time in zip(others, done[len(writes) :], strict=True)})
    return True


def _by_heir(found: Survey) -> dict[tuple[str, str], list[str]]:
    """The checkpoints that name an heir, by the heir's encoded namespace and id."""
    parents: dict[tuple[str, str], list[str]] = {}
    for name, entry in found.entries.items():
        heir = heir_of(entry.doc)
        if heir is not None and heir != keys.checkpoint_id_of(name):
            parents.setdefault((keys.ns_segment_of(name), heir), []).append(name)
    return parents


def _segments(name: str) -> tuple[str, str]:
    return keys.ns_segment_of(name), keys.checkpoint_id_of(name)
