"""Two stores that replicate each other: what ships the changes of one to the other, and looks at how far it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from langgraph_gcs_saver.address import GoogleAddress
from langgraph_gcs_saver.engine.named_stores import NamedStores
from langgraph_gcs_saver.engine.runner import arun, run
from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError, StoreUnavailableError
from langgraph_gcs_saver.events import ForkMerged, Replicated, ReplicationFailed
from langgraph_gcs_saver.flows import regions, replicas, replication
from langgraph_gcs_saver.flows.regions import Pair
from langgraph_gcs_saver.flows.transfer import SOURCE, TARGET
from langgraph_gcs_saver.results import Shipped

if TYPE_CHECKING:
    from langgraph_gcs_saver.engine.effects import Flow
    from langgraph_gcs_saver.events import Subscribers
    from langgraph_gcs_saver.flows.all_threads import Pages
    from langgraph_gcs_saver.flows.context import Context
    from langgraph_gcs_saver.results import Failover, ForkFound, Reconciled, ReplicationStatus
    from langgraph_gcs_saver.saver.connection import Connection

LONGEST_PAUSE = 60.0
"""Most seconds between two looks of a follower, after looks that failed."""


class Replicas:
    """Two open stores, the second of which is the replica of the first, or becomes it.

    Args:
        source: The store whose changes are shipped. Its subscribers get the events.
        target: The store that gets them.

    Attributes:
        pair: What the two stores call each other.

    Raises:
        InvalidInputError: They are the same store, share documents or objects, or one has no connection string.
    """

    def __init__(self, source: Connection, target: Connection) -> None:
        self._source, self._target = source, target
        self.pair = Pair(source=_uri_of(source), target=_uri_of(target))
        _check_apart(source, target)

    @property
    def stores(self) -> NamedStores:
        """The stores, for flows whose commits neither require a role nor add entries to the outbox."""
        # Made for each call, because interceptors may have been added since the last one.
        source, target = self._source._as_shipper, self._target._as_shipper  # noqa: SLF001 - a part of both
        return NamedStores({SOURCE: source, TARGET: target}, home=TARGET)

    @property
    def context(self) -> Context:
        """The context of flows that ship."""
        return self._target._context  # noqa: SLF001 - as above

    @property
    def subscribers(self) -> Subscribers:
        """Get the events."""
        return self._source._subscribers  # noqa: SLF001 - as above

    def begin(self) -> Flow[Shipped]:
        """Give both stores their roles, and ship what the target lacks. A call continues one that crashed.

        A new replica has no mark before it was compared with the source as a whole.
        """
        is_new = yield from replicas.begin(self.pair, self.context)
        for one in (self._source, self._target):
            region = one._context.region  # noqa: SLF001 - as above
            if region is not None:
                region.is_known = False  # A saver of this process may know that the store has no role.
        total = Shipped()
        if is_new:
            total += yield from replication.compare(context=self.context)
            yield from replicas.complete()
        is_over = False
        while not is_over:
            shipped = yield from replication.ship_once(context=self.context)
            total, is_over = total + shipped, shipped.is_all or not shipped.entries
        return replace(total, is_all=True, mark=shipped.mark)

    def status(self) -> Flow[ReplicationStatus]:
        """How far the replication is."""
        return replicas.status(self.pair)

    def reconcile(self, thread_id: str | None) -> Pages[Reconciled]:
        """Pages of what is shipped of one thread, or of all, whatever the outbox says."""
        pages = replication.reconcile_all(context=self.context) if thread_id is None else self._one(thread_id)
        is_checked = False

        def page() -> Flow[Sequence[Reconciled] | None]:
            nonlocal is_checked
            if not is_checked:
                yield from replicas.check_primary(self.pair)
                is_checked = True
            return (yield from pages())

        return page

    def _one(self, thread_id: str) -> Pages[Reconciled]:
        left = [thread_id]

        def page() -> Flow[Sequence[Reconciled] | None]:
            return [(yield from replication.reconcile(left.pop(), context=self.context))] if left else None

        return page

    def look(self) -> Flow[tuple[Shipped, float | None]]:
        """Ship what the outbox has now. Returns what was shipped, and by how many seconds the replica is behind.

        Raises:
            InvalidInputError: The source is not replicated to the target.
            NotPrimaryError: The target is the primary. So a lag would say nothing about what is lost if it is lost.
        """
        yield from replicas.check_primary(self.pair, may_be_fenced=True)
        shipped = yield from replication.ship_once(context=self.context)
        return shipped, (yield from replicas.lag())

    def failover(self, *, force: bool, abort: bool) -> Flow[Failover]:
        """Make the target the primary, or take that back.

        Raises:
            InvalidInputError: Both arguments are true.
        """
        if force and abort:
            raise InvalidInputError("force and abort are both true; a failover that was forced cannot be taken back.")
        if abort:
            return regions.taken_back(self.pair)
        change = regions.forced if force else regions.planned
        return change(self.pair, self.context)

    def failed_over(self, done: Failover) -> Failover:
        """What a failover did, after what a person has to know was reported."""
        self.report_forks(done.forks)
        return done

    def report(self, shipped: Shipped, seconds: float, behind: float | None) -> None:
        """Report what was shipped, and what was not."""
        self.subscribers.emit(
            Replicated(
                entries=shipped.entries,
                threads=shipped.threads,
                bytes=shipped.bytes,
                lag=behind,
                seconds=seconds,
            )
        )
        self.report_forks(shipped.forks)
        for failure in shipped.failures:
            self.report_failure(failure.error, failure.thread_id, behind)

    def reported(self, shipped: Shipped) -> Shipped:
        """What was shipped at the beginning, after what a person has to know was reported."""
        self.report_forks(shipped.forks)
        for failure in shipped.failures:
            self.report_failure(failure.error, failure.thread_id, None)
        return shipped

    def report_forks(self, forks: Iterable[ForkFound]) -> None:
        """Report forks that have come about because both stores were written to."""
        for fork in forks:
            self.subscribers.emit(
                ForkMerged(
                    thread_id=fork.thread_id,
                    checkpoint_ns=fork.checkpoint_ns,
                    checkpoint_id=fork.checkpoint_id,
                    parent_id=fork.parent_id,
                    sibling_id=fork.sibling_id,
                )
            )

    def report_failure(self, error: Exception, thread_id: str, behind: float | None) -> None:
        """Report that changes were not shipped."""
        kind, message = (error.kind, str(error)) if isinstance(error, GCSSaverError) else ("", "")
        self.subscribers.emit(
            ReplicationFailed(thread_id=thread_id, lag=behind, error=type(error).__name__, kind=kind, message=message)
        )


class Following:
    """Looks at an outbox, one after another: iterate with `for`, or in a coroutine with `async for`.

    Each look ships what the outbox has, and yields what it has shipped. It ends with `NotPrimaryError` when the other
    store becomes the primary.
    """

    def __init__(self, pair: Replicas, every: float) -> None:
        self._pair = pair
        self._every = every

    def __iter__(self) -> Iterator[Shipped]:
        pace = _Pace(self._pair, self._every)
        while True:
            with pace.looking():
                yield pace.seen(*run(self._pair.look(), self._pair.stores))
            time.sleep(pace.seconds)

    async def __aiter__(self) -> AsyncIterator[Shipped]:
        pace = _Pace(self._pair, self._every)
        while True:
            with pace.looking():
                yield pace.seen(*await arun(self._pair.look(), self._pair.stores))
            await asyncio.sleep(pace.seconds)


class _Pace:
    """How long a follower waits between two looks.

    Attributes:
        seconds: Seconds until the next look: 0 if the outbox has more, and longer after each look that failed.
    """

    def __init__(self, pair: Replicas, every: float) -> None:
        self._pair = pair
        self._every = every
        self._began = self._since = time.monotonic()  # clock: only reported
        self.seconds = every

    @contextmanager
    def looking(self) -> Iterator[None]:
        """The block of a look. A store that does not answer only delays the next one."""
        self._began = time.monotonic()  # clock: only reported
        try:
            yield
        except StoreUnavailableError as error:
            self._slow_down()
            self._pair.report_failure(error, "", time.monotonic() - self._since)  # clock: only reported

    def seen(self, shipped: Shipped, behind: float | None) -> Shipped:
        """Report what a look has shipped, and return it."""
        now = time.monotonic()  # clock: only reported
        self._pair.report(shipped, now - self._began, behind)
        if shipped.failures:
            self._slow_down()
        else:
            self.seconds = self._every if shipped.is_all else 0.0
        if behind is not None:
            self._since = now - behind
        return shipped

    def _slow_down(self) -> None:
        self.seconds = max(self._every, min(2 * self.seconds, LONGEST_PAUSE))


def _check_apart(source: Connection, target: Connection) -> None:
    """Check that two stores have nothing in common.

    Raises:
        InvalidInputError: They are the same store, or share documents or objects.
    """
    uri = _uri_of(source)
    if uri == _uri_of(target):
        raise InvalidInputError(f"{uri!r} cannot be its own replica. Name another store.")
    shared = None
    if _objects(source) & _objects(target):
        shared = ("objects", "bucket or mirror, and prefix")
    if (documents := _documents(source)) is not None and documents == _documents(target):
        shared = ("documents", "project, database and root")
    if shared is not None:
        raise InvalidInputError(
            f"The two stores would share their {shared[0]}, because they have the same {shared[1]}. Nothing was "
            "changed. A replica needs documents and objects of its own."
        )


def _objects(store: Connection) -> set[tuple[str, str]]:
    """Where a store's objects are, unless they are in the same directory as its documents."""
    binding = store._context.binding  # noqa: SLF001 - this is a part of both
    if binding is None:
        return set()
    place = binding.place
    return {(bucket, place.prefix) for bucket in (place.bucket, place.mirror) if bucket is not None}


def _documents(store: Connection) -> tuple[object, ...] | None:
    address = store._address  # noqa: SLF001 - as above
    return (address.project, address.database, address.root) if isinstance(address, GoogleAddress) else None


def _uri_of(store: Connection) -> str:
    found = store._uri  # noqa: SLF001 - as above
    if found is None:
        raise InvalidInputError(
            "A store in memory, or one that was passed as `stores=`, has no connection string, and the other store "
            "could not name it. Open both stores by their connection strings."
        )
    return found
