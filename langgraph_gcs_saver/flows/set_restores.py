"""Restores a consistent set: all members of a team continue from the checkpoints of the set, or none does.

A restore reserves the set first: it writes digits of its own into the set's document, as it was read. Then it reads
every byte that the set holds, takes the leases of all members, some at a time, and makes all forks in one commit
(`flows.forks`). The commit requires all leases, and the set's document as it was reserved. Whatever crashes, all
members have forks, or none has.

The commit that takes a lease requires the reservation, too. So of two restores of one set, only the later one takes
leases. The earlier one ends with an error, and does not reserve the set again. So the two never keep taking the leases
from each other, and a restore that crashed needs no timeout: calling again restores the set.

No process that had a lease before stores anything more. A process without a lease that has read the former state stops
when it tries to continue it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Delete,
    Doc,
    Flow,
    Gather,
    GetDocs,
    Merge,
    Now,
    QueryDocs,
    Write,
)
from langgraph_gcs_saver.engine.steps import together
from langgraph_gcs_saver.errors import (
    ConflictError,
    GCSSaverError,
    InvalidInputError,
    SetAbortedError,
)
from langgraph_gcs_saver.flows import active, forks, leases, recoveries, runs, sets
from langgraph_gcs_saver.flows.batches import in_batches
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.fences import Fence
from langgraph_gcs_saver.flows.forks import ForkPlan
from langgraph_gcs_saver.flows.manifests import metadata_of, unreadable
from langgraph_gcs_saver.flows.resumable import damage_at
from langgraph_gcs_saver.format import keys, operations
from langgraph_gcs_saver.format.manifest import DamagedError
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.format.sets import SetRecord, digest_of, fields_of
from langgraph_gcs_saver.portable import PortableSerializer
from langgraph_gcs_saver.results import RestorePlan

TTL = 60.0
"""Seconds for which a restore's leases last, and one more for each member: not all are taken at the same time."""

LEASES_AT_ONCE = 10
"""How many leases are taken at the same time. Each takes a read, two commits, and a query between these."""

MOST_WRITES = 1000
"""Most writes of the commit. A member without subgraphs that keep their state takes seven, or eight if `run` stored its
checkpoint.

Firestore has not limited their number since 2023 (https://cloud.google.com/firestore/docs/release-notes), and the
emulators accept as many.
"""

_METADATA = partial(loads, PortableSerializer())


def restore(team: str, set_id: str, *, dry_run: bool, owner: str, context: Context) -> Flow[RestorePlan]:
    """Restore a set, or say what that would change.

    Args:
        team: The team.
        set_id: The set.
        dry_run: Whether to change nothing.
        owner: The name of the holder of the leases, as other processes see it meanwhile.
        context: Options and caches.

    Raises:
        CheckpointCorruptError: Data of the set is damaged. Nothing was changed.
        ConflictError: Another process restores the set, or other writers changed the threads in every try.
        FencedError: Another process took over a lease of the restore. Nothing was changed.
        InvalidInputError: The set does not exist, is being prepared, is broken, or is too large for one commit.
        SetAbortedError: The set was not committed.
        ThreadBusyError: A thread is being deleted, or another process took over its lease at once. Nothing was changed.
    """
    found = yield from sets.read(team, set_id, context)
    check(found)
    plans = yield from _plans(found, context)
    plan = yield from _described(found, plans, context)
    if dry_run:
        return plan
    _refuse_large(plan)
    return (yield from _Restoring(found, plan, owner, context).flow())


def check(found: SetRecord) -> None:
    """Check that a set can be restored.

    Raises:
        InvalidInputError: It is being prepared, or is broken.
        SetAbortedError: It was not committed.
    """
    what = f"Set {found.set_id!r} of team {found.team!r}"
    if found.state == "aborted":
        raise SetAbortedError(
            f"{what} was aborted, so there is nothing to restore. Choose a committed set.",
            team=found.team,
            set_id=found.set_id,
            missing=found.missing,
        )
    if found.state == "preparing":
        raise InvalidInputError(f"{what} is being prepared. Wait until it is committed, or choose another one.")
    if found.state == "broken":
        raise InvalidInputError(f"{what} is broken: the thread of a member was deleted by force. Choose another set.")


# Planning


def _threads(found: SetRecord) -> dict[str, str]:
    """The checkpoint of each thread, in order of thread ids."""
    cut = {found.thread_id(member): found.cut[member].checkpoint_id for member in found.members}
    return dict(sorted(cut.items()))


def _plans(found: SetRecord, context: Context) -> Flow[list[ForkPlan]]:
    plans = []
    for thread_id, checkpoint_id in _threads(found).items():
        plans.append((yield from forks.plan(thread_id, checkpoint_id, context, since=found.decided)))
    return plans


def _described(found: SetRecord, plans: Sequence[ForkPlan], context: Context) -> Flow[RestorePlan]:
    fenced: dict[str, str] = {}
    later: list[str] = []
    for plan in plans:
        lease = yield from leases.look(plan.thread_id)
        if lease.owner is not None and not lease.is_expired:
            fenced[plan.thread_id] = lease.owner
        later += yield from _recorded_after(plan, context)
    example = {plan.thread_id: Fence(plan.thread_id, 1, context.new_attempt(), 1, TTL) for plan in plans}
    writes = [write for plan in plans for write in plan.writes(example[plan.thread_id])]
    writes += [_record(plan, 1, context.new_attempt(), 0.0) for plan in plans]
    writes += _noted(plans)
    writes.append(Merge(found.name, fields_of(found, context.codec)))
    return RestorePlan(
        team=found.team,
        set_id=found.set_id,
        threads={plan.thread_id: (plan.checkpoint_id, plan.newest) for plan in plans},
        forks={},
        writes=len(writes),
        size=forks.size_of(writes),
        fenced=fenced,
        not_undone=tuple(later),
    )


def _recorded_after(plan: ForkPlan, context: Context) -> Flow[list[str]]:
    """The operations and sagas of a thread that changed after the checkpoint that is restored was stored."""
    thread_id = plan.thread_id
    found, sagas = yield from Gather((QueryDocs(keys.operations(thread_id)), QueryDocs(keys.sagas(thread_id), mask=())))
    later = [_called(doc, context) for doc in found if doc.update_time > plan.stored]
    later += [f"saga {keys.told_id(_leaf(doc))!r}" for doc in sagas if doc.update_time > plan.stored]
    return [f"{what} of thread {thread_id!r}" for what in later]


def _called(doc: Doc, context: Context) -> str:
    """What people call an operation."""
    try:
        operation = operations.parse(doc, context.codec)
    except DamagedError:
        return f"damaged operation {_leaf(doc)}"
    return f"operation {operation.key!r} ({operation.name})"


def _leaf(doc: Doc) -> str:
    return doc.name.rpartition("/")[2]


def _refuse_large(plan: RestorePlan) -> None:
    """Refuse a restore that does not fit into one commit, before anything changes.

    Raises:
        InvalidInputError: It is too large.
    """
    what = f"A restore of set {plan.set_id!r} of team {plan.team!r}"
    if plan.writes > MOST_WRITES:
        raise InvalidInputError(
            f"{what} would make {plan.writes:,} writes; at most {MOST_WRITES:,} are made in one commit. Nothing was "
            "changed. Fork the threads one by one."
        )
    forks.refuse_large(plan.size, what)


def _noted(plans: Iterable[ForkPlan]) -> list[Write]:
    """The writes that let a worker look at the threads whose checkpoint is that of a `run`.

    The turn of that run may have ended since, and is due again. A worker that finds nothing due there notes that.
    """
    made = [plan for plan in plans if runs.RUN in metadata_of(plan.copied[0], _METADATA)]
    return [active.noted(plan.thread_id, "due", 0) for plan in made]


def _record(plan: ForkPlan, now: int, nonce: str, seconds: float) -> Merge:
    return recoveries.going_back(plan.thread_id, "restore", now, nonce, lost=plan.lost, restore=seconds)


# Restoring


class _Reservation:
    """What rides in the commits that take the leases: they require that the set is still reserved."""

    def __init__(self, reserved: SetRecord) -> None:
        self.reserved = reserved

    @property
    def names(self) -> tuple[str, ...]:
        """The set's document."""
        return (self.reserved.name,)

    def taking(self, docs: Mapping[str, Doc], /) -> tuple[Write, ...]:
        """The check that the set has not changed since it was reserved.

        Raises:
            ConflictError: It has.
        """
        doc = docs.get(self.reserved.name)
        if doc is None or doc.update_time != self.reserved.time:
            raise _overtaken(self.reserved)
        return (self.check(),)

    def ending(self, error: BaseException | None, /) -> tuple[Write, ...]:  # noqa: ARG002 - the protocol's
        """No writes."""
        return ()

    def check(self) -> Write:
        """The write that fails if the set has changed since it was reserved."""
        return Merge(self.reserved.name, {}, update_time=self.reserved.time)


def _overtaken(found: SetRecord) -> ConflictError:
    return ConflictError(
        f"Another process restores set {found.set_id!r} of team {found.team!r}, or the set was changed or deleted. "
        "This restore has changed nothing. Look at the team's threads before you call again."
    )


class _Restoring:
    """A restore that changes something.

    Attributes:
        found: The set as it was read.
        plan: What the restore changes.
        owner: The name of the holder of the leases.
        context: Options and caches.
        nonce: Digits of this restore.
        fences: The leases that it holds, by thread.
        asked: The nonces of the leases that it is taking, by thread. Any of them may be its own already.
    """

    def __init__(self, found: SetRecord, plan: RestorePlan, owner: str, context: Context) -> None:
        self.found = found
        self.plan = plan
        self.owner = owner
        self.context = context
        self.nonce = context.new_attempt()
        self.fences: dict[str, Fence] = {}
        self.asked: dict[str, str] = {}

    def flow(self) -> Flow[RestorePlan]:
        began = yield from Now()
        reserved = yield from self._reserve()
        try:
            yield from self._verify(reserved)
            yield from self._take_leases(reserved)
            plans = yield from self._commit(reserved, began)
        except GCSSaverError:
            yield from self._release()
            yield from Commit((self._set(reserved, restoring=None),))
            raise
        yield from self._release()
        forked = {(plan.thread_id, ns): fork for plan in plans for ns, fork in plan.forks.items()}
        return replace(self.plan, forks=forked)

    def _set(self, seen: SetRecord, **changes: str | None) -> Merge:
        """The write that changes the set, as it was seen."""
        fields = fields_of(replace(seen, **changes), self.context.codec)  # type: ignore[arg-type]
        return Merge(seen.name, fields, update_time=seen.time)

    def _reserve(self) -> Flow[SetRecord]:
        """Reserve the set. A restore that has reserved it before has crashed, or ends with an error now.

        One that reserves it meanwhile has begun later, so this one ends.
        """
        found, former = self.found, self.found.restoring
        for _ in range(MAX_TRIES):
            check(found)
            if found.restoring not in (None, former):
                raise _overtaken(found)
            yield from Commit((self._set(found, restoring=self.nonce),))
            found = yield from sets.read(found.team, found.set_id, self.context)
            if found.restoring == self.nonce:
                return found
        raise ConflictError(
            f"Set {found.set_id!r} of team {found.team!r} was not restored: other processes changed it {MAX_TRIES} "
            "times in a row. Nothing was changed. Call again."
        )

    def _verify(self, reserved: SetRecord) -> Flow[None]:
        """Check that each checkpoint is the one of the set, and read every byte of it."""
        names = {member: reserved.checkpoint(member) for member in reserved.members}
        docs = yield from GetDocs(tuple(names.values()), mask=("digest",))
        for member, name in names.items():
            doc = docs.get(name)
            if doc is None or digest_of(doc) != reserved.cut[member].digest:
                damage = DamagedError(
                    "it is missing" if doc is None else "it is not the checkpoint that the set holds",
                    frame=name,
                    missing=doc is None,
                )
                raise unreadable(damage, reserved.thread_id(member), "", reserved.cut[member].checkpoint_id)
        for thread_id, checkpoint_id in _threads(reserved).items():
            for error in (yield from damage_at(thread_id, checkpoint_id, _METADATA, self.context)):
                raise error

    def _take_leases(self, reserved: SetRecord) -> Flow[None]:
        """Take the leases of all members, some at a time in order of thread id. This fences their holders."""
        riders = _Reservation(reserved)
        for batch in in_batches(_threads(reserved), lambda _: 1, most=LEASES_AT_ONCE, most_bytes=LEASES_AT_ONCE):
            yield from together(*(self._take_lease(thread_id, riders) for thread_id in batch))

    def _take_lease(self, thread_id: str, riders: _Reservation) -> Flow[None]:
        nonce, ttl = self.context.new_attempt(), TTL + len(riders.reserved.members)
        self.asked[thread_id] = nonce
        request = leases.Acquire(thread_id, self.owner, nonce, ttl, take_over=True)
        acquired = yield from leases.Acquisition(request, 0.0, self.context, riders).flow()
        self.fences[thread_id] = acquired.fence
        del self.asked[thread_id]

    def _commit(self, reserved: SetRecord, began: float) -> Flow[list[ForkPlan]]:
        """Make all forks, in one commit, from what the threads are then."""
        for _ in range(MAX_TRIES):
            plans = yield from _plans(reserved, self.context)
            names = (reserved.name, *(fence.name for fence in self.fences.values()))
            docs = yield from GetDocs(names, mask=("owner",))
            if reserved.name not in docs or docs[reserved.name].update_time != reserved.time:
                raise _overtaken(reserved)
            for fence in self.fences.values():
                fence.require(docs.get(fence.name))
            took = max(0.0, (yield from Now()) - began)
            records = [_record(plan, docs.read_time, self.context.new_attempt(), took) for plan in plans]
            done = self._set(reserved, restoring=None, restored=self.nonce, restored_at=None)
            beside = (done, *records, *_noted(plans))
            former: list[Merge | Delete] = [self._set(reserved, restoring=None)]
            former += [Delete(one.name) for one in records]
            _refuse_large(self._measured(plans, beside))
            if (yield from forks.committed(plans, self.fences, self.context, beside, former)):
                for plan, stored in zip(plans, records, strict=True):
                    yield from recoveries.report(plan.thread_id, stored)
                return plans
        raise ConflictError(
            f"Set {reserved.set_id!r} of team {reserved.team!r} was not restored: other writers changed its threads "
            f"{MAX_TRIES} times in a row. Nothing was changed. Stop the writers without a lease, and call again."
        )

    def _measured(self, plans: Sequence[ForkPlan], beside: Sequence[Write]) -> RestorePlan:
        """The plan, with the writes and bytes of the commit as it is now."""
        writes = [write for plan in plans for write in plan.writes(self.fences[plan.thread_id])]
        writes += beside
        threads = {plan.thread_id: (plan.checkpoint_id, plan.newest) for plan in plans}
        self.plan = replace(self.plan, threads=threads, writes=len(writes), size=forks.size_of(writes))
        return self.plan

    def _release(self) -> Flow[None]:
        """Give the leases back. One that was lost is another process's now."""
        for fence in self.fences.values():
            yield from leases.release(fence, self.context)
        for thread_id, nonce in self.asked.items():
            yield from leases.give_back(thread_id, nonce)
