"""What policies need to know about the process: its signals and its memory."""

from __future__ import annotations

import os

from langgraph_gcs_saver.cadence.memory import MemoryGauge
from langgraph_gcs_saver.cadence.policies import AnyOf, Memory, Policy
from langgraph_gcs_saver.cadence.signals import Listener


class Sampler:
    """Looks at what a policy needs, and at nothing else.

    Args:
        policy: The policy.
        of_run: Whether the policy stops one run, and not all runs of the process.

    Raises:
        InvalidInputError: A signal's handler is missing, and this is not the main thread. Or the system does not say
            how much memory the process uses.
    """

    def __init__(self, policy: Policy, *, of_run: bool) -> None:
        needs = policy.needs
        self._needs_part = "memory" in needs
        self._needs_rss = "rss" in needs
        self._least = _least(policy)
        self._listener = Listener(policy.signals, passes_on=of_run) if policy.signals else None
        self._pid = os.getpid()
        self._gauge = MemoryGauge() if self._needs_part or self._needs_rss else None

    def signals(self) -> frozenset[int]:
        """The signals that the process got since this sampler was made, and those for which no run has stopped yet."""
        return frozenset() if self._listener is None else self._listener.look()

    def memory(self) -> float | None:
        """The part of the tightest memory limit that is in use."""
        return self._fresh().part(self._least) if self._needs_part else None

    def rss(self) -> int | None:
        """Resident memory of the process, in bytes."""
        return self._fresh().rss() if self._needs_rss else None

    def settle(self) -> None:
        """The run stops, and its caller will know. So no other run needs to stop for the signals so far."""
        if self._listener is not None:
            self._listener.settle()

    def close(self) -> None:
        """Listen to signals no more. Idempotent."""
        if self._listener is not None:
            self._listener.close()

    def _fresh(self) -> MemoryGauge:
        # The files of a forked child's parent are about the parent.
        if self._gauge is None or self._pid != os.getpid():
            self._pid, self._gauge = os.getpid(), MemoryGauge()
        return self._gauge


def _least(policy: Policy) -> float:
    """The least part of a memory limit that makes a difference to a policy."""
    parts = policy.policies if isinstance(policy, AnyOf) else (policy,)
    return min((one.part if isinstance(one, Memory) else 0.0 for one in parts if "memory" in one.needs), default=0.0)
