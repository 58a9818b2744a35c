"""Lets a flow store something only in the primary of two stores, and notes what changes in the outbox.

`admit` is the one place where a process checks the role of its store. In each commit of a flow that changes a document
of a replicated collection (`format.registry`), it requires the role as the process has seen it, and adds the entries of
the outbox (`format.regions`). So no commit of a primary that was fenced is applied, however late it arrives.

A lease holds in the epoch in which it was acquired. After a failover there and back, its holder may have a state that
the other store has left behind, and the fence has not changed. So each commit that checks a fence requires that epoch.

A process looks for a role once, with its first read of documents. If the store has none, its flows are performed as
they are from then on. So processes that were running when a replication began know nothing of it until they are
restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from langgraph_gcs_saver.engine.effects import (
    Commit,
    Delete,
    Doc,
    Docs,
    Effect,
    Flow,
    Gather,
    GetDocs,
    Merge,
    PutBlob,
    Write,
)
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.errors import ConflictError, FencedError, NotPrimaryError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.regions import (
    DIGITS,
    FIRST_ROLE,
    ROLES,
    Changes,
    Entry,
    Role,
    acquires,
    changes,
    damaged_role,
    digits_of,
    digits_of_blob,
    role_of,
)
from langgraph_gcs_saver.records import record

T = TypeVar("T")

Roles = Mapping[str, tuple[int, Role]]
"""The update time and the role of each document of the role, by its digits."""

_MAX_TRIES = 16
"""How many changes of the role in a row a commit follows. People change roles, so two in a row are rare."""


@record(frozen=True, slots=True)
class _Leased:
    """An acquisition of a lease.

    Attributes:
        nonce: Its digits.
        epoch: The epoch of the role that it required.
        time: The update time that the fence got; `None` as long as no answer has said it.
    """

    nonce: str | None
    epoch: int
    time: int | None = None

    def is_checked_by(self, write: Write) -> bool:
        """Whether a write may check this lease. Writers without a lease check the fence, too, as they have read it."""
        return isinstance(write, Merge) and not write.fields and self.time in (None, write.update_time)


@dataclass(slots=True)
class Region:
    """What a process knows of the roles of its store. A forked child begins with an empty one.

    Attributes:
        new_nonce: Makes the end of an entry's name, which no other entry of the thread has.
        is_known: Whether the process has looked for a role.
        is_replicated: Whether the store has one.
        roles: The update times and roles of the documents, by their digits; empty until the first commit needs them.
        leased: The last acquisition of each lease that this process has not released, by the fence's name.
        on_entries: Called after each commit that has added entries to the outbox, with these entries, on the thread or
            event loop that performs the flow. So it must be quick, and must not raise. It is the writer's own shipper.
    """

    new_nonce: Callable[[], str]
    is_known: bool = False
    is_replicated: bool = False
    roles: Roles = field(default_factory=dict)
    leased: dict[str, _Leased] = field(default_factory=dict)
    on_entries: Callable[[tuple[Entry, ...]], None] | None = None

    def begin(self, docs: Mapping[str, Doc]) -> None:
        """Take the first look from a read that names `FIRST_ROLE`, unless there was an earlier one."""
        if not self.is_known:
            self.is_replicated = FIRST_ROLE in docs
            self.is_known = True

    def unmerged_since(self, name: str) -> int | None:
        """The epoch of a promotion by force, if the store may lack what the other store had not shipped before.

        Args:
            name: The document in question.

        Returns:
            As far as the process knows; `None` if it knows of no such promotion.
        """
        if not self.roles:
            return None
        role = self.roles[digits_of(name)][1]
        return role.epoch if role.unmerged else None

    def try_commit(self, commit: Commit, roles: Roles) -> None:
        """Note the epoch of a lease that a commit acquires, and refuse a commit under a lease from another epoch.

        Args:
            commit: A commit that requires these roles.
            roles: The roles.

        Raises:
            FencedError: The commit checks a lease from another epoch.
        """
        for write in commit.writes:
            if not keys.is_fence_doc(write.name):
                continue
            epoch, known = roles[digits_of(write.name)][1].epoch, self.leased.get(write.name)
            if acquires(write):
                nonce = write.fields.get("nonce")
                if known is None or known.nonce != nonce:
                    # It stays so if no try succeeds: one may have been applied, and its answer lost.
                    self.leased[write.name] = _Leased(nonce, epoch)
            elif known is not None and known.epoch != epoch and known.is_checked_by(write):
                thread_id = keys.told_thread_id(keys.thread_segment_of(write.name))
                raise FencedError(
                    f"This process has lost its lease of thread {thread_id!r}: it acquired the lease in epoch "
                    f"{known.epoch} of the store's role, and now it is epoch {epoch}, so the other store was the "
                    "primary meanwhile. Nothing of this call was stored. End the run. A process that acquires the "
                    "lease continues the thread.",
                    thread_id=thread_id,
                )

    def end_commit(self, commit: Commit, times: Sequence[int], roles: Roles) -> None:
        """Note what a commit that was applied has done to leases.

        Args:
            commit: The commit.
            times: The update times of its documents.
            roles: The roles that it required; empty if it required none.
        """
        for write, time in zip(commit.writes, times, strict=False):
            if not keys.is_fence_doc(write.name):
                continue
            if acquires(write) and roles:
                epoch = roles[digits_of(write.name)][1].epoch
                self.leased[write.name] = _Leased(write.fields.get("nonce"), epoch, time)
            elif isinstance(write, Delete) or write.fields:
                self.leased.pop(write.name, None)

    @property
    def is_plain(self) -> bool:
        """Whether the process knows that the store has no role."""
        return self.is_known and not self.is_replicated


def admit(flow: Flow[T], region: Region | None) -> Flow[T]:
    """A flow that stores something only while the store is the primary, or has no role.

    The flow raises `NotPrimaryError` in place of the first commit that would change a document of a replicated
    collection or acquire a lease, and of the first upload before it. A change of the role that leaves the store the
    primary is not visible to the flow: its commit is tried again here. So a commit that returns `None` has failed by
    its own preconditions.
    """
    return flow if region is None or region.is_plain else through(flow, partial(_perform, region))


def look() -> Flow[Role | None]:
    """The role of the store as it is now; `None` if it has none.

    Raises:
        DamageError: The document says no role.
    """
    found = (yield from GetDocs((FIRST_ROLE,))).get(FIRST_ROLE)
    return None if found is None else role_of(found)


def required(region: Region | None, name: str) -> Flow[tuple[int, Role] | None]:
    """The role that a document depends on, and its update time, for a commit that requires just this role.

    Args:
        region: What the process knows. It looks for the role if it has not done so.
        name: The document.

    Returns:
        `None` if the store has no role.

    Raises:
        DamageError: Some roles are missing, or say nothing.
        NotPrimaryError: The store is not the primary.
    """
    if region is None or region.is_plain:
        return None
    if not region.is_known:
        region.begin((yield from GetDocs((FIRST_ROLE,))))
    digits = digits_of(name)
    roles = (yield from _primary(region, (digits,))) if region.is_replicated else {}
    return roles[digits] if roles else None


def role_check(digits: str, time: int) -> Merge:
    """The precondition that a role has not changed since a time."""
    return Merge(keys.role_doc(digits), {}, update_time=time)


def require_primary(role: Role) -> None:
    """Check that a store with this role takes what is stored.

    Raises:
        NotPrimaryError: It does not.
    """
    if role.is_primary:
        return
    what = "is a replica" if role.name == "replica" else "was the primary, and is not any more"
    raise NotPrimaryError(
        f"This store {what} (epoch {role.epoch}), so nothing is stored in it. Use the store {role.to!r} for this call, "
        "and retry while that store takes over. `langgraph-gcs failover` makes this one the primary.",
        role=role.name,
        other=role.to,
        epoch=role.epoch,
    )


@dataclass(slots=True)
class _Part:
    """A leaf of an effect, and what it changes.

    Attributes:
        effect: The leaf.
        found: What a commit changes in replicated collections, and which roles a commit or an upload depends on.
        entries: The entries that the commit adds. They stay the same in all tries.
        result: The result of the last try.
    """

    effect: Effect[Any]
    found: Changes
    entries: tuple[Entry, ...]
    result: Any = None

    @classmethod
    def of(cls, effect: Effect[Any], region: Region) -> _Part:
        """The part of a leaf."""
        if isinstance(effect, Commit):
            found = changes(effect.writes)
            return cls(effect, found, found.entries(region.new_nonce() for _ in found.changed))
        digits = digits_of_blob(effect.name) if isinstance(effect, PutBlob) else None
        return cls(effect, Changes(() if digits is None else (digits,), ()), ())

    def ruled(self, roles: Roles, region: Region) -> Effect[Any]:
        """The leaf; as a commit, with the roles that it requires, and with its entries."""
        if not isinstance(self.effect, Commit) or not self.found.digits or not roles:
            return self.effect
        region.try_commit(self.effect, roles)
        own = {write.name for write in self.effect.writes}
        checks = [role_check(one, roles[one][0]) for one in self.found.digits if keys.role_doc(one) not in own]
        return Commit((*self.effect.writes, *checks, *(entry.write for entry in self.entries)))

    @property
    def has_failed(self) -> bool:
        """Whether the last try was a commit that was not applied, and that depends on a role."""
        return isinstance(self.effect, Commit) and self.result is None and bool(self.found.digits)

    def end(self, region: Region) -> Any:
        """The result of the leaf as its flow made it, once the entries of a commit were reported."""
        if not isinstance(self.effect, Commit) or self.result is None:
            return self.result
        count = len(self.effect.writes)
        times = self.result[len(self.result) - len(self.entries) :]
        if self.entries and len(self.result) > count and region.on_entries is not None:
            region.on_entries(tuple(replace(entry, time=time) for entry, time in zip(self.entries, times, strict=True)))
        return self.result[:count]


def _perform(region: Region, effect: Effect[Any]) -> Flow[Any]:
    leaves = effect.effects if isinstance(effect, Gather) else (effect,)
    if not region.is_known:
        if any(isinstance(leaf, Commit) for leaf in leaves):
            region.begin((yield from GetDocs((FIRST_ROLE,))))
        elif any(isinstance(leaf, GetDocs) for leaf in leaves):
            return (yield from _looking(region, effect, leaves))
    if not region.is_replicated or not any(isinstance(leaf, (Commit, PutBlob)) for leaf in leaves):
        return (yield from effect)
    results = yield from _perform_ruled(region, [_Part.of(leaf, region) for leaf in leaves])
    return results if isinstance(effect, Gather) else results[0]


def _looking(region: Region, effect: Effect[Any], leaves: tuple[Effect[Any], ...]) -> Flow[Any]:
    """Perform an effect, with the first look at the role in one of its reads of documents."""
    at = next(number for number, leaf in enumerate(leaves) if isinstance(leaf, GetDocs))
    read: Any = leaves[at]
    wider = (*leaves[:at], replace(read, names=(*read.names, FIRST_ROLE)), *leaves[at + 1 :])
    is_alone = not isinstance(effect, Gather)
    results = ((yield from wider[0]),) if is_alone else (yield from Gather(wider))
    region.begin(results[at])
    docs = Docs((doc for doc in results[at].values() if doc.name in read.names), results[at].read_time)
    return docs if is_alone else (*results[:at], docs, *results[at + 1 :])


def _perform_ruled(region: Region, parts: Sequence[_Part]) -> Flow[tuple[Any, ...]]:
    digits = {one for part in parts for one in part.found.digits}
    roles = (yield from _primary(region, digits)) if digits else {}
    left = parts
    for _ in range(_MAX_TRIES):
        effects = tuple(part.ruled(roles, region) for part in left)
        results = (yield from Gather(effects)) if len(effects) > 1 else ((yield from effects[0]),)
        for part, result in zip(left, results, strict=True):
            part.result = result
            if isinstance(part.effect, Commit) and result is not None:
                region.end_commit(part.effect, result, roles)
        left = [part for part in left if part.has_failed]
        if not left or not roles:
            break
        names = tuple(sorted({keys.role_doc(one) for part in left for one in part.found.digits}))
        docs = yield from GetDocs(names)
        if all(name in docs and docs[name].update_time == roles[name[-2:]][0] for name in names):
            break  # The roles held, so the commit's own preconditions have failed.
        region.roles = {}
        roles = yield from _primary(region, digits)
    else:
        raise ConflictError(f"The role of the store changed {_MAX_TRIES} times in a row. Call again.")
    return tuple(part.end(region) for part in parts)


def _primary(region: Region, digits: Iterable[str]) -> Flow[Roles]:
    """The roles as the process knows them, once they let a call store something; none if the store has none any more.

    Roles that do not are read again. All are read together, because each change of the role changes all.

    Raises:
        DamageError: Some roles are missing, or say nothing.
        NotPrimaryError: The store is not the primary.
    """
    wanted = sorted(digits)
    if not region.roles or not all(region.roles[one][1].is_primary for one in wanted):
        docs = yield from GetDocs(ROLES)
        region.is_replicated = bool(docs)
        missing = [name for name in ROLES if name not in docs]
        if missing and docs:
            raise damaged_role(missing[0])
        region.roles = {
            one: (docs[name].update_time, role_of(docs[name])) for one, name in zip(DIGITS, ROLES, strict=True) if docs
        }
    roles = region.roles
    for one in wanted if roles else ():
        require_primary(roles[one][1])
    return roles
