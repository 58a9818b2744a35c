"""How a replication begins, and how far it is. `flows.replication` ships.

One store is `flows.transfer.SOURCE`. The other one is the flow's home, as in a transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from langgraph_gcs_saver.engine.effects import Commit, Doc, Docs, Flow, Gather, GetDocs, On, QueryDocs
from langgraph_gcs_saver.engine.steps import at
from langgraph_gcs_saver.errors import InvalidInputError, StoreUnavailableError
from langgraph_gcs_saver.flows import regions, replication
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.manifests import locate_manifest
from langgraph_gcs_saver.flows.regions import Pair
from langgraph_gcs_saver.flows.roles import require_primary
from langgraph_gcs_saver.flows.transfer import SOURCE
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.manifest import DamagedError
from langgraph_gcs_saver.format.regions import COMPLETE, FIRST_ROLE, ROLES, Role, is_incomplete, role_of
from langgraph_gcs_saver.results import ReplicationStatus

MOST_ENTRIES = 1000
"""Entries of the outbox that a look at the status counts."""

_A_THREAD = QueryDocs(keys.THREADS, limit=1, mask=())

_TIMED = (FIRST_ROLE, ROLES[1])
"""Two documents, because a read of a single one does not say its time."""


def begin(pair: Pair, context: Context) -> Flow[bool]:
    """Give both stores their roles, unless they have them. Returns whether the target may lack what is older than that.

    Args:
        pair: The two stores.
        context: The target's.

    Raises:
        ConflictError: Other processes kept changing the roles.
        InvalidInputError: A store has another partner, the source is not the primary, or the target has threads that
            were not replicated to it. Nothing was changed.
        UnsupportedFormatError: A newer version wrote to the source. Nothing was changed.
        WrongKeyError: The source is encrypted with another key. Nothing was changed.
    """
    docs, there, here = yield from Gather((GetDocs((FIRST_ROLE,)), _A_THREAD, On(SOURCE, _A_THREAD)))
    if FIRST_ROLE not in docs:
        if there:
            raise InvalidInputError(
                f"{pair.target!r} has threads, and is no replica, so it may be in use. Nothing was changed. Replicate "
                "to an empty store: choose another bucket, prefix, root or database."
            )
        for thread in here:
            yield from at(SOURCE, _check_readable(f"{thread.name}/{keys.CHECKPOINTS}", context))
    yield from regions.begun(pair)
    return is_incomplete((yield from GetDocs((keys.MARK,))).get(keys.MARK))


def complete() -> Flow[None]:
    """Note that the target has everything that is older than the replication. Idempotent."""
    yield from Commit((COMPLETE,))


def _check_readable(checkpoints: str, context: Context) -> Flow[None]:
    """Raise if a checkpoint of the source cannot be read because of how the stores were opened."""
    for doc in (yield from QueryDocs(checkpoints, limit=1)):
        with suppress(DamagedError):  # `verify` reports damage, and the comparison of the thread does.
            yield from locate_manifest(doc, context.codec)


def check_primary(pair: Pair, *, may_be_fenced: bool = False) -> Flow[None]:
    """Check that the source is the primary of the two.

    Args:
        pair: The two stores.
        may_be_fenced: Whether it may also be fenced, by a failover that has not ended.

    Raises:
        InvalidInputError: It is not replicated to the target.
        NotPrimaryError: It is not the primary.
    """
    docs = yield from On(SOURCE, GetDocs((FIRST_ROLE,)))
    role = role_of(docs[FIRST_ROLE]) if FIRST_ROLE in docs else None
    if role is None or role.to != pair.target:
        raise InvalidInputError(
            f"{pair.source!r} is not replicated to {pair.target!r}. Nothing was changed. Call `replicate` first "
            "(`langgraph-gcs replicate`)."
        )
    if not (may_be_fenced and role.name == "fenced"):
        require_primary(role)


def lag() -> Flow[float | None]:
    """Seconds from the replica's mark until now, by the source's clock; `None` without a mark."""
    found = yield from replication.mark()
    now = (yield from On(SOURCE, GetDocs(_TIMED))).read_time
    return _seconds(found, now)


def status(pair: Pair) -> Flow[ReplicationStatus]:
    """How far a replication is, as far as the target knows it if the source does not answer.

    Raises:
        DamageError: A role is damaged.
        InvalidInputError: A store is replicated with another one.
    """
    there = yield from GetDocs(_TIMED)
    theirs = _role_in(there, pair.target, pair.source)
    mark = yield from replication.mark()
    found: Sequence[Doc] = ()
    now, ours, unreached = there.read_time, None, ""
    try:
        here, found = yield from Gather(
            (On(SOURCE, GetDocs(_TIMED)), On(SOURCE, QueryDocs(keys.OUTBOX, limit=MOST_ENTRIES + 1, mask=())))
        )
        now, ours = here.read_time, _role_in(here, pair.source, pair.target)
    except StoreUnavailableError as error:
        unreached = str(error)
    oldest = min((doc.update_time for doc in found), default=None)
    return ReplicationStatus(
        source=pair.source,
        target=pair.target,
        source_role="unreached" if unreached else _name(ours),
        target_role=_name(theirs),
        epoch=max((role.epoch for role in (ours, theirs) if role is not None), default=0),
        mark=mark,
        lag=_seconds(mark, now),
        entries=min(len(found), MOST_ENTRIES),
        is_more=len(found) > MOST_ENTRIES,
        oldest=_seconds(oldest, now),
        unreached=unreached,
    )


def _seconds(since: int | None, now: int) -> float | None:
    return None if since is None else max(0.0, (now - since) / 1e9)


def _role_in(docs: Docs, uri: str, partner: str) -> Role | None:
    """A store's role, which names the other store; `None` if it has none."""
    if FIRST_ROLE not in docs:
        return None
    role = role_of(docs[FIRST_ROLE])
    regions.require_partner(role, uri, partner)
    return role


def _name(role: Role | None) -> str:
    return "none" if role is None else role.name
