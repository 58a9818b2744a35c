"""Finds the channel that stores most of the bytes of a saver's latest checkpoints."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from langgraph_gcs_saver.events import ChannelHeavy, CheckpointSaved
from langgraph_gcs_saver.policy.heavy import Stored, heavy

if TYPE_CHECKING:
    from langgraph_gcs_saver.events import Event, Subscribers

CHECKPOINTS = 100
"""Checkpoints that are counted before the shares are compared. A few runs of an agent have so many steps, so the input
of one run, which is stored once, does not decide."""


class Channels:
    """An event handler that sums up what channels store, and reports a heavy one after so many checkpoints.

    Args:
        subscribers: Get the reports.
        checkpoints: The number of checkpoints.
    """

    def __init__(self, subscribers: Subscribers, checkpoints: int) -> None:
        self._subscribers = subscribers
        self._checkpoints = checkpoints
        self._lock = Lock()
        self._sums: dict[str, Stored] = {}
        self._count = 0

    def __call__(self, event: Event) -> None:
        """Count a checkpoint."""
        if not isinstance(event, CheckpointSaved) or event.outcome != "stored":
            return
        with self._lock:
            for value in event.values:
                sums = self._sums.get(value.channel) or Stored(value.channel, 0, 0)
                full, more = (value.stored, 0) if value.frames == 1 else (0, value.stored)
                self._sums[value.channel] = Stored(value.channel, sums.full + full, sums.incremental + more)
            self._count += 1
            if self._count < self._checkpoints:
                return
            found, count = heavy(self._sums.values(), self._count), self._count
            self._sums, self._count = {}, 0
        if found is not None:
            self._subscribers.emit(
                ChannelHeavy(
                    thread_id=event.thread_id,
                    checkpoint_ns=event.checkpoint_ns,
                    checkpoint_id=event.checkpoint_id,
                    channel=found.channel,
                    bytes=found.bytes,
                    share=found.share,
                    kind=found.kind,
                    checkpoints=count,
                )
            )
