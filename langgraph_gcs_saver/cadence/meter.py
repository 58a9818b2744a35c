"""`Meter`: what has happened in one call, counted for the policies that it asks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from langgraph_gcs_saver.cadence.policies import Policy, Progress, Tokens
from langgraph_gcs_saver.cadence.sampling import Sampler

Wake = Callable[[], object]
"""Called once when a checkpoint has become durable, or could not be stored. It must not block."""

_WEIGHT = 0.3
"""How much the newest of a series counts in its average."""


class Meter:
    """Counts what a call does, from the threads of its nodes, of its callbacks and of its saver.

    All segments of a call share one.

    Args:
        policy: Says what has to be looked at.
        crashes: Processes that crashed on this turn before.
        clock: Seconds that never go back.

    Attributes:
        crashes: Processes that crashed on this turn before.
        crashed_nodes: The nodes that were due then, except those that have finished since and are stored.
        steps: Supersteps of the root graph that have finished.
        is_watched: Whether a saver reports what has become durable.
        failure: Why something was not stored; `None` if all was.
    """

    def __init__(self, policy: Policy, *, crashes: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.sampler = Sampler(policy, of_run=True)
        self.crashes = crashes
        self.crashed_nodes: frozenset[str] = frozenset()
        self.steps = 0
        self.is_watched = False
        self.failure: BaseException | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._stores_at_end = False
        self._first_step: int | None = None
        self._durable = 0
        self._waiting: deque[tuple[int, float]] = deque()
        self._wakes: list[Wake] = []
        self._store_seconds: float | None = None
        self._memory: tuple[float, float] | None = None
        self._growth = 0.0
        self._nodes: set[str] = set()
        self._reset(self._began)

    def _reset(self, now: float) -> None:
        self._stored_at = now
        self._stored_steps = self.steps
        self.crashed_nodes -= self._nodes
        self._nodes = set()
        self._keys: set[str] = set()
        self._milestones: set[str] = set()
        self._usage: dict[str, Tokens] = {}
        self._rate_limits = 0

    # What has happened

    def finish_step(self) -> None:
        """A step of the root graph has finished."""
        with self._lock:
            self.steps += 1
            if self._durable < self.steps:
                self._waiting.append((self.steps, self._clock()))

    def finish_node(self, node: str, keys: Iterable[str]) -> None:
        """A node of the root graph has finished, and wrote some keys of the state."""
        with self._lock:
            self._nodes.add(node)
            self._keys.update(keys)

    def reach(self, milestone: str) -> None:
        """A node reached a milestone."""
        with self._lock:
            self._milestones.add(milestone)

    def use(self, model: str, used: Tokens) -> None:
        """A model used tokens."""
        with self._lock:
            before = self._usage.get(model, Tokens())
            self._usage[model] = Tokens(before.input + used.input, before.output + used.output)

    def limit_rate(self) -> None:
        """A rate limit refused a call of a model."""
        with self._lock:
            self._rate_limits += 1

    # What has become durable

    def watch(self, *, stores_at_end: bool) -> None:
        """A saver begins to report. Some runs store nothing before their end."""
        with self._lock:
            self.is_watched, self._stores_at_end, self._first_step = True, stores_at_end, None

    def note_stored(self, step: int, *, is_input: bool) -> None:
        """The checkpoint of a step of the root graph is durable.

        Args:
            step: Its number, as LangGraph counts it in the thread.
            is_input: Whether it is the checkpoint of an input, which comes before the first step.
        """
        with self._lock:
            if self._stores_at_end:
                self._durable = self.steps
            else:
                if self._first_step is None:
                    self._first_step = step - self._durable - (0 if is_input else 1)
                self._durable = max(self._durable, step - self._first_step)
            while self._waiting and self._waiting[0][0] <= self._durable:
                self._waiting.popleft()
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def note_failed(self, error: BaseException) -> None:
        """Something was not stored. The run's end raises the error."""
        with self._lock:
            self.failure = error
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def is_durable(self, wake: Wake) -> bool:
        """Whether all finished steps are durable, or will not become so. If not, `wake` is called after a change."""
        with self._lock:
            if not self._waiting or not self.is_watched or self._stores_at_end or self.failure is not None:
                return True
            self._wakes.append(wake)
            return False

    def store(self, seconds: float) -> None:
        """A `Store` has taken effect, and storing took so long."""
        with self._lock:
            before = self._store_seconds
            self._store_seconds = seconds if before is None else before + _WEIGHT * (seconds - before)
            self._reset(self._clock())

    def store_all(self) -> None:
        """All finished steps are durable: a segment has ended."""
        with self._lock:
            self._durable, self._first_step = self.steps, None
            self._waiting.clear()

    # What a policy sees

    def progress(self) -> Progress:
        """The progress at this moment."""
        sampler = self.sampler
        signals, memory, rss = sampler.signals(), sampler.memory(), sampler.rss()
        with self._lock:
            now = self._clock()
            if memory is not None:
                self._measure_growth(now, memory)
            has_lag = self.is_watched and self._waiting
            return Progress(
                elapsed=now - self._began,
                steps=self.steps,
                unstored_seconds=now - self._stored_at,
                unstored_steps=self.steps - self._stored_steps,
                lag_seconds=now - self._waiting[0][1] if has_lag else 0.0,
                lag_steps=len(self._waiting) if has_lag else 0,
                nodes=frozenset(self._nodes),
                keys=frozenset(self._keys),
                milestones=frozenset(self._milestones),
                usage=dict(self._usage),
                signals=signals,
                memory=memory,
                rss=rss,
                memory_growth=self._growth,
                store_seconds=self._store_seconds,
                crashes=self.crashes,
                crashed_nodes=self.crashed_nodes,
                rate_limits=self._rate_limits,
            )

    def _measure_growth(self, now: float, memory: float) -> None:
        before, self._memory = self._memory, (now, memory)
        if before is not None and now > before[0]:
            newest = (memory - before[1]) / (now - before[0])
            self._growth += _WEIGHT * (newest - self._growth)
