"""Reads that restore a thread's state: the first one after a takeover, and those that fall back. They are recorded.

A read only queues a job. No call waits for a record, and no record makes a call fail.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.runner import Performer, run
from langgraph_gcs_saver.errors import GCSSaverError
from langgraph_gcs_saver.flows import tips
from langgraph_gcs_saver.flows.cache import ByteCache
from langgraph_gcs_saver.flows.context import Context
from langgraph_gcs_saver.flows.recoveries import Fallback, Restored
from langgraph_gcs_saver.saver import configs
from langgraph_gcs_saver.saver.background import Background, Kind

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langgraph_gcs_saver.engine.effects import Flow
    from langgraph_gcs_saver.flows.load import Loaded
    from langgraph_gcs_saver.flows.recoveries import Begun
    from langgraph_gcs_saver.saver.labels import Labels
    from langgraph_gcs_saver.saver.lease import Held, Leases

RECOVERIES = Kind("recoveries", most=1000)
"""Recovery records. `close` waits for those that have to be written, so that a short-lived worker writes its own."""

logger = logging.getLogger("langgraph_gcs_saver")


class Recovered:
    """Records what reads have restored. The copies of a saver that LangGraph makes share this object.

    Args:
        contexts: The context of each process.
        backend: Performs flows.
        background: Does the jobs.
        leases: The leases that are held through the saver.
        labels: Reads the labels of a run, or of a read.
    """

    def __init__(
        self,
        contexts: PerProcess[Context],
        backend: Performer,
        background: Background,
        leases: Leases,
        labels: Labels,
    ) -> None:
        self._contexts = contexts
        self._backend = backend
        self._background = background
        self._leases = leases
        self._labels = labels
        self._known: ByteCache[str, bool] = ByteCache(1 << 20)

    def note_read(self, config: RunnableConfig, loaded: Loaded | None, seconds: float) -> None:
        """Note what a call of `get_tuple` has read, if there was anything, and how long it took."""
        if loaded is not None and loaded.recovered_from is not None:
            self._fell_back(config, loaded, loaded.recovered_from, seconds)
        held = self._leases.held_in(config)
        if held is not None and held.recovery is not None and not configs.thread_and_ns(config)[1]:
            self._restored(config, held, held.recovery, loaded)

    def _fell_back(self, config: RunnableConfig, loaded: Loaded, damaged: str, seconds: float) -> None:
        known = loaded.manifest
        fallback = Fallback(known.thread_id, known.ns, damaged, known.checkpoint_id)
        if self._known.get(fallback.nonce) is None:
            self._known.put(fallback.nonce, True, 200)
            restored = Restored(seconds, _nodes_at(loaded), self._labels.of(config, stored=loaded.metadata))
            make = partial(flows.recoveries.fell_back, fallback, restored)
            self._write(fallback.nonce, known.thread_id, make)

    def _restored(self, config: RunnableConfig, held: Held, begun: Begun, loaded: Loaded | None) -> None:
        held.recovery = None
        turn, seconds = held.turn, time.monotonic() - held.began
        # A call of `run` that begins a turn has its input to store, or has stored it. Then nothing runs again.
        begins = turn is not None and (turn.opening is not None or turn.is_open)
        labels = self._labels.of(config, stored=None if loaded is None else loaded.metadata)
        restored = Restored(seconds, () if begins else _nodes_at(loaded), labels)
        thread_id = held.fence.thread_id
        self._write(begun.name, thread_id, partial(flows.recoveries.complete, thread_id, begun, restored))

    def _write(self, key: str, thread_id: str, make: Callable[[Context], Flow[bool]]) -> None:
        def job() -> None:
            try:
                run(make(self._contexts.get()), self._backend)
            except GCSSaverError as error:
                logger.warning("A recovery of thread %r was not recorded: %s", thread_id, error)

        if not self._background.submit(RECOVERIES, key, job):
            logger.warning("A recovery of thread %r was not recorded: too many others wait.", thread_id)


def _nodes_at(loaded: Loaded | None) -> tuple[str, ...]:
    """The nodes that are due at a checkpoint."""
    if loaded is None:
        return ()
    known = loaded.manifest
    due = tips.due_at(known, {name: loaded.values[name] for name in tips.deciding_in(known) if name in loaded.values})
    return (*due.nodes, *due.sends)
