"""The saver's option `stop_on`: policies that stop runs whose hosts pass no control of their own."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from langgraph_gcs_saver.cadence.policies import Policy, Progress, Stop
from langgraph_gcs_saver.cadence.sampling import Sampler

MOST_RUNS = 1024
"""Runs whose beginning is remembered: those that stored or read something most recently."""

_all: weakref.WeakSet[Stopping] = weakref.WeakSet()
_lock = threading.Lock()
"""Held while `_all` changes or is copied: nodes ask on their own threads."""


class Drainable(Protocol):
    """The part of LangGraph's `RunControl` that is used here."""

    def request_drain(self, reason: str) -> None:
        """Ask the run to end at its next boundary between two steps, with `GraphDrained`."""


class Stopping:
    """Asks runs to end when a policy says so. The saver asks it in each read and put of a run.

    Args:
        policy: A policy that only stops.
        of_run: Whether it stops one loop, such as a worker's, and not all runs of the process.
        clock: Seconds that never go back.
    """

    def __init__(self, policy: Policy, *, of_run: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._sampler = Sampler(policy, of_run=of_run)
        self._runs: dict[int, tuple[Drainable, float]] = {}
        self._lock = threading.Lock()
        with _lock:
            _all.add(self)

    def meet(self, control: Drainable) -> bool:
        """Ask a run to end if the policy says so.

        Returns:
            Whether it does.
        """
        now = self._clock()
        with self._lock:  # Subgraphs of one run read and store on several threads.
            # The control is kept, because another run's could otherwise get the same identity.
            _, began = self._runs.pop(id(control), (control, now))
            self._runs[id(control)] = (control, began)
            while len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        sampler = self._sampler
        progress = Progress(elapsed=now - began, signals=sampler.signals(), memory=sampler.memory(), rss=sampler.rss())
        found = self._policy.decide(progress)
        if not isinstance(found, Stop):
            return False
        sampler.settle()
        control.request_drain(found.reason)
        return True

    def has_met(self, control: Drainable) -> bool:
        """Whether a run has read or stored something."""
        return id(control) in self._runs

    def close(self) -> None:
        """Listen to signals no more. Idempotent."""
        self._sampler.close()
        with _lock:
            _all.discard(self)


def asks_to_stop(control: Drainable) -> bool:
    """Whether the `stop_on` of a saver that serves a run asks it to end."""
    with _lock:
        found = tuple(_all)
    return any(one.meet(control) for one in found if one.has_met(control))
