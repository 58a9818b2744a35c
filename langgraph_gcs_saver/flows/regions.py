"""Which of two stores is the primary, and how the other one becomes it: planned, forced, or taken back.

Each of two replicated stores has role documents (`format.regions`). No commit spans both stores. So a change writes
them in a fixed order, and any process can continue what another one began:

- Each commit changes all role documents of one store, as they were read. A commit of a writer requires one of them, as
  the writer has read it. So a writer that has not noticed the change stores nothing more.
- A planned change first *fences* the source. From then on, neither store takes writes. Then it ships what the source
  has and the target lacks. Last, it promotes the target, as the target was read before the source was fenced.
- Each change has an *epoch* that is greater than both that it has read. So a change that another one has overtaken
  finds that the target has changed, and starts over.
- A change is taken back by raising the epoch of the target first. After that, no change that is under way can promote
  it.
- A forced change does not wait for the source, so both stores may be primary for some time. The one with the smaller
  epoch stops being primary as soon as any process reaches both. What it has taken until then is shipped.

A store that was promoted by force lacks what the other store had not shipped. It is *unmerged* until the other store is
fenced and has shipped that. Until then, `once` does not begin an operation that the other store may have begun.

`tests/races/test_regions.py` tries every order of steps, and removes each rule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from langgraph_gcs_saver.engine.effects import Commit, Docs, Emit, Flow, Gather, GetDocs, On
from langgraph_gcs_saver.errors import ConflictError, InvalidInputError, StoreError
from langgraph_gcs_saver.events import RoleChanged
from langgraph_gcs_saver.flows.context import MAX_TRIES, Context
from langgraph_gcs_saver.flows.replication import compare, ship_once
from langgraph_gcs_saver.flows.transfer import SOURCE, TARGET
from langgraph_gcs_saver.format import keys, regions
from langgraph_gcs_saver.format.regions import Role, RoleName
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import Failover, Shipped

Cause = Literal["replicate", "failover", "forced", "abort"]

_NAMES = (*regions.ROLES, keys.MARK)


@record(frozen=True, slots=True)
class Pair:
    """Two stores, one of which is or becomes the replica of the other.

    Attributes:
        source: The canonical URI of the store that a change takes the primary from.
        target: The canonical URI of the store that it gives the primary to.
    """

    source: str
    target: str


@record(frozen=True, slots=True)
class _Store:
    """One of the two stores, as one read showed it.

    Attributes:
        name: `SOURCE` or `TARGET`.
        uri: Its canonical URI.
        role: Its role.
        docs: Its role documents.
    """

    name: str
    uri: str
    role: Role
    docs: Docs

    def outranks(self, other: _Store) -> bool:
        """Whether it is the primary, even if the other store counts itself as the primary too."""
        return self.role.is_primary and not (other.role.is_primary and other.role.epoch > self.role.epoch)


def begun(pair: Pair) -> Flow[None]:
    """Give both stores their roles: the source replicates to the target. Idempotent.

    The target becomes a replica first. So there is no instant at which both take writes.

    Raises:
        ConflictError: Other processes kept changing the roles.
        InvalidInputError: A store has another partner, or the source is not the primary of the two.
    """
    for _ in range(MAX_TRIES):
        source, target = yield from _both(pair)
        if target is None:
            first = 1 if source is None else source.role.epoch
            yield from _created(pair, TARGET, Role(epoch=first, name="replica", to=pair.source))
        elif source is None and target.role.name == "replica":
            yield from _created(pair, SOURCE, Role(epoch=target.role.epoch, name="primary", to=pair.target))
        elif source is None or not source.outranks(target):
            raise InvalidInputError(
                f"{pair.source!r} cannot replicate to {pair.target!r}, because it is not the primary of the two. "
                "Nothing was changed. Swap the two stores, or complete the failover that is under way "
                "(`langgraph-gcs failover`)."
            )
        elif target.role.is_primary:
            yield from _changed(target, _overruled(target, source), "replicate")
        else:
            return
    raise _kept_changing(pair)


def planned(pair: Pair, context: Context) -> Flow[Failover]:
    """Make the target the primary, with everything that the source has acknowledged.

    If another process has begun this and crashed, this call continues it.

    Raises:
        ConflictError: Other processes kept changing the roles.
        InvalidInputError: The stores do not replicate to each other, or the target is not complete yet.
        GCSSaverError: Something could not be shipped. The source stays fenced: call again, or `taken_back`.
    """
    shipped = Shipped()
    for _ in range(MAX_TRIES):
        source, target = yield from _replicated(pair)
        if target.outranks(source):
            return (yield from _merged(pair, "failover", shipped, context))
        if target.role.is_primary:
            # Both were promoted by force, the source last.
            yield from _changed(target, _overruled(target, source), "failover")
            continue
        if regions.is_incomplete(target.docs.get(keys.MARK)):
            raise InvalidInputError(
                f"{pair.target!r} may lack what {pair.source!r} had before the replication began, because no call of "
                "`replicate` has ended. Nothing was changed. Call `replicate` (`langgraph-gcs replicate`) until it has "
                "shipped everything."
            )
        epoch = source.role.epoch
        if source.role.is_primary or epoch <= target.role.epoch:
            epoch = _next_epoch(source, target)
            if not (yield from _changed(source, _fenced(source, epoch), "failover")):
                continue
        shipped += yield from _ship_all(context)
        if (yield from _changed(target, Role(epoch=epoch, name="primary", to=pair.source), "failover")):
            return (yield from _merged(pair, "failover", shipped, context))
    raise _kept_changing(pair)


def forced(pair: Pair, context: Context) -> Flow[Failover]:
    """Make the target the primary without waiting for the source, and fence the source if it can be reached.

    If the target is the primary already, this fences the source and merges what it has taken. So call it again when the
    source can be reached again.

    Raises:
        ConflictError: Other processes kept changing the roles.
        InvalidInputError: The target is not a replica of the source.
    """
    for _ in range(MAX_TRIES):
        target = _known(_seen(TARGET, pair, (yield from On(TARGET, GetDocs(_NAMES)))), pair.target)
        if target.role.is_primary:
            break
        promoted = Role(epoch=target.role.epoch + 1, name="primary", to=pair.source, unmerged=True)
        if (yield from _changed(target, promoted, "forced")):
            target = replace(target, role=promoted)
            break
    else:
        raise _kept_changing(pair)
    mark = regions.mark_in(target.docs.get(keys.MARK))
    try:
        source = _seen(SOURCE, pair, (yield from On(SOURCE, GetDocs(_NAMES))))
        if source is not None:
            done = yield from _merged(pair, "forced", Shipped(), context)
        else:
            done = _result(pair, target, unreached="It has no role, as if it was lost and created again.")
    except StoreError as error:
        if error.store != SOURCE:
            raise
        done = _result(pair, target, unreached=str(error))
    return replace(done, mark=mark)


def taken_back(pair: Pair) -> Flow[Failover]:
    """Let the source stay the primary, or become it again, if a planned change to the target has not been completed.

    Raises:
        ConflictError: Other processes kept changing the roles.
        InvalidInputError: The target is the primary, or no change from the source to the target is under way.
    """
    for _ in range(MAX_TRIES):
        source, target = yield from _replicated(pair)
        if source.outranks(target):
            return _result(pair, source)
        if target.role.is_primary:
            raise InvalidInputError(
                f"{pair.target!r} is the primary already, so there is nothing to take back. To make {pair.source!r} "
                "the primary again, call `failover` in the other direction."
            )
        if not _was_primary_last(source, target):
            raise InvalidInputError(
                f"No failover from {pair.source!r} to {pair.target!r} is under way: the failover is in the other "
                "direction. Nothing was changed. Swap the two stores."
            )
        epoch = _next_epoch(source, target)
        blocked = Role(epoch=epoch, name="replica", to=pair.source)
        if not (yield from _changed(target, blocked, "abort")):
            continue
        restored = replace(source.role, epoch=epoch, name="primary")
        if (yield from _changed(source, restored, "abort")):
            return _result(pair, replace(source, role=restored))
    raise _kept_changing(pair)


def _merged(pair: Pair, cause: Cause, shipped: Shipped, context: Context) -> Flow[Failover]:
    """Complete a change whose target is the primary: the source takes no writes, and everything of it is shipped."""
    for _ in range(MAX_TRIES):
        source, target = yield from _replicated(pair)
        if not target.outranks(source):
            if cause != "forced" or not target.role.is_primary:
                break  # Another process has begun another change since.
            yield from _changed(target, replace(target.role, epoch=_next_epoch(source, target)), cause)
            continue
        if source.role.is_primary:
            yield from _changed(source, _overruled(source, target), cause)
            continue
        if regions.is_incomplete(target.docs.get(keys.MARK)):
            # It was promoted by force before it had everything that is older than the replication.
            shipped += yield from compare(heals=False, context=context)
            yield from On(TARGET, Commit((regions.COMPLETE,)))
        shipped += yield from _ship_all(context)
        if source.role.name == "fenced" and not (
            yield from _changed(source, replace(source.role, name="replica"), cause)
        ):
            continue
        if target.role.unmerged and not (yield from _changed(target, replace(target.role, unmerged=False), cause)):
            continue
        return _result(pair, target, shipped)
    raise _kept_changing(pair)


def _ship_all(context: Context) -> Flow[Shipped]:
    """Ship everything that the source, which takes no more writes, has in its outbox.

    Raises:
        GCSSaverError: A thread cannot be shipped.
    """
    total = Shipped()
    while True:
        done = yield from ship_once(context=context)
        total += done
        if done.failures:
            raise done.failures[0].error
        if done.is_all:
            return total


def _was_primary_last(source: _Store, target: _Store) -> bool:
    """Whether the source, and not the target, was the primary before neither was. Then it has everything."""
    return source.role.name == "fenced" and not (target.role.name == "fenced" and target.role.epoch > source.role.epoch)


def _fenced(source: _Store, epoch: int) -> Role:
    """The role of a store that a change takes the primary from.

    A replica stays one. It can be neither asked to become the primary, nor become it by taking the change back.
    """
    return replace(source.role, epoch=epoch, name="replica" if source.role.name == "replica" else "fenced")


def _overruled(store: _Store, other: _Store) -> Role:
    """The role of a store that counts itself as the primary, after the other one was promoted by force."""
    return replace(store.role, epoch=other.role.epoch, name="replica", unmerged=False)


def _result(pair: Pair, primary: _Store, shipped: Shipped | None = None, *, unreached: str = "") -> Failover:
    return Failover(
        source=pair.source,
        target=pair.target,
        primary=primary.uri,
        epoch=primary.role.epoch,
        shipped=0 if shipped is None else shipped.entries,
        forks=() if shipped is None else shipped.forks,
        unreached=unreached,
    )


def _next_epoch(source: _Store, target: _Store) -> int:
    return max(source.role.epoch, target.role.epoch) + 1


# The documents


def _both(pair: Pair) -> Flow[tuple[_Store | None, _Store | None]]:
    """Both stores; `None` for one that has no role."""
    here, there = yield from Gather((On(SOURCE, GetDocs(_NAMES)), On(TARGET, GetDocs(_NAMES))))
    return _seen(SOURCE, pair, here), _seen(TARGET, pair, there)


def _replicated(pair: Pair) -> Flow[tuple[_Store, _Store]]:
    """Both stores.

    Raises:
        InvalidInputError: They are not replicas of each other.
    """
    source, target = yield from _both(pair)
    return _known(source, pair.source), _known(target, pair.target)


def _known(store: _Store | None, uri: str) -> _Store:
    if store is None:
        raise InvalidInputError(
            f"{uri!r} is not replicated, so its role cannot change. Nothing was changed. Replicate it first "
            "(`langgraph-gcs replicate`)."
        )
    return store


def _seen(name: str, pair: Pair, docs: Docs) -> _Store | None:
    """A store by its role documents.

    Raises:
        DamageError: One of the documents is missing or damaged, or they differ.
        InvalidInputError: The store is replicated with another one.
    """
    uri, partner = (pair.source, pair.target) if name == SOURCE else (pair.target, pair.source)
    if not any(one in docs for one in regions.ROLES):
        return None
    roles = {one: regions.role_of(docs[one]) if one in docs else None for one in regions.ROLES}
    found = next(filter(None, roles.values()))
    wrong = [one for one, role in roles.items() if role != found]
    if wrong:
        raise regions.damaged_role(wrong[0])
    require_partner(found, uri, partner)
    return _Store(name, uri, found, docs)


def require_partner(role: Role, uri: str, partner: str) -> None:
    """Check that a role names the other store.

    Raises:
        InvalidInputError: The store is replicated with another one.
    """
    if role.to != partner:
        raise InvalidInputError(
            f"{uri!r} is replicated with {role.to!r}, not with {partner!r}. Nothing was changed. Name that store."
        )


def _created(pair: Pair, name: str, role: Role) -> Flow[None]:
    """Give a store its first role, unless another process has given it one."""
    new = (regions.INCOMPLETE,) if name == TARGET else ()
    if (yield from On(name, Commit((*role.writes({}), *new)))) is not None:
        yield from _report(name, pair.source if name == SOURCE else pair.target, role, "", "replicate")


def _changed(store: _Store, role: Role, cause: Cause) -> Flow[bool]:
    """Give a store another role, in one commit, if its role is as it was read.

    Returns:
        Whether it has the role now. If not, another process has changed it.
    """
    if (yield from On(store.name, Commit(role.writes(store.docs)))) is None:
        return False
    yield from _report(store.name, store.uri, role, store.role.name, cause)
    return True


def _report(name: str, uri: str, role: Role, former: RoleName | Literal[""], cause: Cause) -> Flow[None]:
    if role.name != former:
        event = RoleChanged(store=uri, role=role.name, former=former, epoch=role.epoch, cause=cause)
        yield from On(name, Emit(event))


def _kept_changing(pair: Pair) -> ConflictError:
    return ConflictError(
        f"Other processes changed the roles of {pair.source!r} and {pair.target!r} at the same time. Look which one is "
        "the primary, and call again."
    )
