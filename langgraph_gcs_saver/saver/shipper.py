"""`replica=`: the writer's own process ships what it has just stored, in the background.

A commit that changes something adds entries to the outbox (`flows.roles`), and then queues their thread here. A job in
the background ships what the outbox says about that thread. No call waits for it. What is left when the process ends is
still in the outbox, where `langgraph-gcs replicate --follow` finds it.
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_gcs_saver.engine.effects import Commit, Effect, Flow, Gather, PutBlob
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.engine.steps import through
from langgraph_gcs_saver.errors import GCSSaverError, InvalidOptionError, SaverClosedError, StoreUnavailableError
from langgraph_gcs_saver.flows import replication, roles
from langgraph_gcs_saver.format.keys import told_thread_id
from langgraph_gcs_saver.saver.background import Background, Kind
from langgraph_gcs_saver.saver.connection import Connection
from langgraph_gcs_saver.saver.replicas import Replicas

if TYPE_CHECKING:
    from langgraph_gcs_saver.format.regions import Entry

T = TypeVar("T")

LANES = tuple(Kind(f"replica-{number}", most=2500, wait=3.0, finishes=True) for number in range(4))
"""How many threads are shipped at the same time, and how many may wait: 10,000. `close` waits 3 seconds for them."""

RETRY_SECONDS = 5.0
"""How long nothing is shipped after a store did not answer. As many threads as may wait are tried again then."""

_RETRY = "retry"

logger = logging.getLogger("langgraph_gcs_saver")


class Shipper:
    """Ships what one saver has stored.

    Args:
        saver: The saver.
        uri: The connection string of the replica.
        credentials: The credentials for both stores; the environment's if `None`.
        background: Does the jobs.

    Raises:
        InvalidInputError: The two stores are the same, or share documents or objects.
        InvalidURIError: The connection string names no store.
    """

    def __init__(self, saver: Connection, uri: str, credentials: object, background: Background) -> None:
        options = saver._options  # noqa: SLF001 - this is a part of the saver
        self._target = Connection.from_conn_string(
            uri,
            credentials=credentials,
            cipher=options.cipher,
            accept_clear=options.accept_clear,
            max_value_bytes=options.max_value_bytes,
            timeout=options.timeout,
            max_threads=options.max_threads,
        )
        try:
            self._pair = Replicas(saver, self._target)
        except GCSSaverError:
            self._target.close()
            raise
        self._background = background
        self._contexts = saver._contexts  # noqa: SLF001 - as above
        self._admit = saver._backend.admit  # noqa: SLF001 - as above
        saver._backend.admit = self.admit  # noqa: SLF001 - as above
        self._processes = PerProcess(_Process)

    def admit(self, flow: Flow[T], /) -> Flow[T]:
        """A flow whose changes are shipped. Before its first write, the process checks that it has this replica."""
        if self._processes.get().is_checked:
            return self._admit(flow)
        self._look_again()
        return self._admit(through(flow, self._checked))

    def _checked(self, effect: Effect[Any]) -> Flow[Any]:
        process = self._processes.get()
        leaves = effect.effects if isinstance(effect, Gather) else (effect,)
        if not process.is_checked and any(isinstance(leaf, (Commit, PutBlob)) for leaf in leaves):
            role = yield from roles.look()
            if role is None or role.to != self._pair.pair.target:
                other = "has no replica" if role is None else f"is replicated with {role.to!r}"
                raise InvalidOptionError(
                    f"`replica` names {self._pair.pair.target!r}, but this store {other}. Nothing was stored. Run "
                    f"`langgraph-gcs replicate --to URI` once, or pass the right `replica`."
                )
            self._look_again()
            process.is_checked = True
        return (yield from effect)

    def _look_again(self) -> None:
        """Let the process look for a role again if it has found none, because the replication may have begun since."""
        region = self._contexts.get().region
        if region is not None:
            region.on_entries = self._queue
            region.is_known = region.is_known and region.is_replicated

    def close(self) -> None:
        """Close the replica. Idempotent."""
        self._target.close()

    async def aclose(self) -> None:
        """Close the replica. Idempotent."""
        await self._target.aclose()

    def _queue(self, entries: Iterable[Entry]) -> None:
        for segment in {entry.segment for entry in entries}:
            self._submit(segment)

    def _submit(self, segment: str) -> None:
        lane = LANES[zlib.crc32(segment.encode()) % len(LANES)]
        # If too many wait, the follower ships this one.
        self._background.submit(lane, segment, partial(self._ship, lane, segment))

    def _ship(self, lane: Kind, segment: str) -> None:
        process = self._processes.get()
        if process.resting_until > time.monotonic():  # clock: a later try ships the same
            self._retry_later(lane, segment)
            return
        began = time.monotonic()  # clock: only reported
        try:
            shipped = run(replication.ship(segment, context=self._pair.context), self._pair.stores)
        except SaverClosedError:
            process.resting_until = math.inf
            logger.info("The saver was closed before all changes were shipped. `langgraph-gcs replicate` ships them.")
        except StoreUnavailableError as error:
            process.resting_until = time.monotonic() + RETRY_SECONDS  # clock: as above
            self._retry_later(lane, segment)
            self._pair.report_failure(error, "", None)
        except GCSSaverError as error:
            self._pair.report_failure(error, told_thread_id(segment), None)
        else:
            if shipped.entries:
                self._pair.report(shipped, time.monotonic() - began, None)  # clock: only reported

    def _retry_later(self, lane: Kind, segment: str) -> None:
        late = self._processes.get().late[lane]
        if len(late) < lane.most:  # The follower ships the others.
            late[segment] = None
        self._background.repeat(lane, _RETRY, RETRY_SECONDS, partial(self._retry, lane))

    def _retry(self, lane: Kind) -> None:
        self._background.stop(lane, _RETRY)
        for segment in self._processes.get().late.pop(lane, ()):
            self._submit(segment)


class _Process:
    """What one process knows.

    Attributes:
        is_checked: Whether the store has this replica.
        resting_until: Until when nothing is shipped, by the monotonic clock.
        late: The threads that are shipped after that, by lane. Only the thread of the lane changes them.
    """

    def __init__(self) -> None:
        self.is_checked = False
        self.resting_until = 0.0
        self.late: defaultdict[Kind, dict[str, None]] = defaultdict(dict)
