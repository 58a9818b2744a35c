"""When to store, and when to stop: pure functions of a run's progress.

A policy has no state and reads no clock: `decide` gets a `Progress` and returns a decision. So one policy serves any
number of runs, and a test needs nothing but a record. `cadence.Control` asks it at each boundary between two steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.records import record


@record(frozen=True, slots=True)
class Store:
    """The decision to make everything durable before the next step."""

    reason: str


@record(frozen=True, slots=True)
class Stop:
    """The decision to end the run at this boundary. LangGraph raises `GraphDrained`, and the run can be resumed."""

    reason: str


Decision = Store | Stop | None


@record(frozen=True, slots=True)
class Tokens:
    """Tokens that a model used."""

    input: int = 0
    output: int = 0


@record(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a policy knows at a boundary between two steps.

    *Unstored* is what happened since the last `Store` took effect, or since the run began.

    Attributes:
        elapsed: Seconds since the request began.
        steps: Supersteps of the root graph that this call has finished.
        unstored_seconds: Seconds of it that are unstored.
        unstored_steps: Steps of it that are unstored.
        lag_seconds: How long the oldest finished step has not been durable.
        lag_steps: How many finished steps are not durable yet.
        nodes: Nodes of the root graph that have finished, unstored.
        keys: Keys of the state that they wrote, unstored.
        milestones: What nodes passed to `cadence.milestone`, unstored.
        usage: Tokens by model, unstored.
        signals: Signals that the process got since the run began, and those that an earlier run left pending.
        memory: Part of the tightest memory limit that is in use; `None` if no policy needs it.
        rss: Resident memory of the process, in bytes; `None` if no policy needs it.
        memory_growth: How fast `memory` grows, per second.
        store_seconds: How long storing took, on average; `None` if this call has not stored yet.
        crashes: Processes that crashed on this turn before.
        crashed_nodes: Nodes that were due at the newest checkpoint when a process last crashed on this turn, except
            those that have finished since and are not unstored.
        rate_limits: Answers of models that a rate limit refused, unstored.
    """

    elapsed: float = 0.0
    steps: int = 0
    unstored_seconds: float = 0.0
    unstored_steps: int = 0
    lag_seconds: float = 0.0
    lag_steps: int = 0
    nodes: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    milestones: frozenset[str] = frozenset()
    usage: Mapping[str, Tokens] = field(default_factory=dict)
    signals: frozenset[int] = frozenset()
    memory: float | None = None
    rss: int | None = None
    memory_growth: float = 0.0
    store_seconds: float | None = None
    crashes: int = 0
    crashed_nodes: frozenset[str] = frozenset()
    rate_limits: int = 0


Need = Literal["callbacks", "lag", "memory", "rss"]
"""What a policy reads that is not there by itself. `"callbacks"` are nodes, keys, usage and rate limits."""


class Decides(Protocol):
    """What a policy must have. Derive yours from `Policy` to join it with others by `|`."""

    def decide(self, progress: Progress, /) -> Decision:
        """What to do at this boundary; `None` to continue."""


class Policy:
    """Base of policies.

    Attributes:
        needs: What it reads of `Progress` beyond times, steps, milestones and signals.
        signals: The signals that it waits for.
        only_stops: Whether it never returns a `Store`.
    """

    __slots__ = ()

    @property
    def needs(self) -> frozenset[Need]:
        """See `Policy`."""
        return frozenset()

    @property
    def signals(self) -> frozenset[int]:
        """See `Policy`."""
        return frozenset()

    @property
    def only_stops(self) -> bool:
        """See `Policy`."""
        return False

    def decide(self, progress: Progress, /) -> Decision:
        """What to do at this boundary; `None` to continue."""
        raise NotImplementedError

    def __or__(self, other: Policy) -> AnyOf:
        if not isinstance(other, Policy):
            return NotImplemented
        return AnyOf((*_parts(self), *_parts(other)))


def _parts(policy: Policy) -> tuple[Policy, ...]:
    return policy.policies if isinstance(policy, AnyOf) else (policy,)


@dataclass(frozen=True, slots=True)
class AnyOf(Policy):
    """What the first policy decides that decides anything; a `Stop` before a `Store`. `|` makes it."""

    policies: tuple[Policy, ...]

    @property
    def needs(self) -> frozenset[Need]:
        """See `Policy`."""
        return frozenset[Need]().union(*(one.needs for one in self.policies))

    @property
    def signals(self) -> frozenset[int]:
        """See `Policy`."""
        return frozenset[int]().union(*(one.signals for one in self.policies))

    @property
    def only_stops(self) -> bool:
        """See `Policy`."""
        return all(one.only_stops for one in self.policies)

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        first: Decision = None
        for one in self.policies:
            found = one.decide(progress)
            if isinstance(found, Stop):
                return found
            first = first or found
        return first


@dataclass(frozen=True, slots=True, kw_only=True)
class Every(Policy):
    """Store when this much time has passed since the last time."""

    hours: float = 0.0
    minutes: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        _total(self)

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        if progress.unstored_seconds < _sum(self):
            return None
        return Store(f"{progress.unstored_seconds:.0f} s have passed since the last time.")


@dataclass(frozen=True, slots=True)
class Steps(Policy):
    """Store after each `count` steps of the root graph."""

    count: int

    def __post_init__(self) -> None:
        _check_count("Steps", self.count)

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        return (
            None if progress.unstored_steps < self.count else Store(f"{progress.unstored_steps} steps have finished.")
        )


@dataclass(frozen=True, slots=True, init=False)
class Milestone(Policy):
    """Store when one of these nodes of the root graph has finished, or has written one of these keys of the state.

    Without names, store after each step in which a node called `cadence.milestone`. Such a call with one of the names
    counts too.
    """

    names: frozenset[str]

    def __init__(self, *names: str) -> None:
        if not all(isinstance(name, str) and name for name in names):
            raise InvalidInputError(f"Milestone{names!r}: each name must be text.")
        object.__setattr__(self, "names", frozenset(names))

    @property
    def needs(self) -> frozenset[Need]:
        """See `Policy`."""
        return frozenset({"callbacks"}) if self.names else frozenset()

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        found = progress.milestones
        if self.names:
            found = self.names & (progress.nodes | progress.keys | found)
        return Store(f"{', '.join(sorted(found))} is reached.") if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxLag(Policy):
    """Store when this many finished steps are not durable yet, or one has not been for so many seconds.

    This bounds what `durability="async"` may lose, and the memory of its backlog.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise InvalidInputError("MaxLag() needs steps=, seconds= or both.")
        if self.steps is not None:
            _check_count("MaxLag", self.steps)
        if self.seconds is not None:
            _check_number("MaxLag", self.seconds)

    @property
    def needs(self) -> frozenset[Need]:
        """See `Policy`."""
        return frozenset({"lag"})

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        if self.steps is not None and progress.lag_steps >= self.steps:
            return Store(f"{progress.lag_steps} finished steps are not durable.")
        if self.seconds is not None and progress.lag_seconds >= self.seconds:
            return Store(f"A finished step has not been durable for {progress.lag_seconds:.1f} s.")
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend(Policy):
    """Store when models have used this much since the last time, by the usage that their answers report.

    Args:
        dollars: Most dollars, by `prices`.
        tokens: Most tokens, of input and output together.
        prices: Dollars per million tokens of input and of output, by the beginning of the model's name; the longest
            that fits counts. A model that none fits costs as much as the dearest.
    """

    dollars: float | None = None
    tokens: int | None = None
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dollars is None and self.tokens is None:
            raise InvalidInputError("Spend() needs dollars=, tokens= or both.")
        if self.tokens is not None:
            _check_count("Spend", self.tokens)
        if self.dollars is not None:
            _check_number("Spend", self.dollars)
            if not self.prices:
                raise InvalidInputError(
                    "Spend(dollars=…) needs prices=, dollars per million tokens of input and output by model: "
                    "prices={'gemini': (0.3, 2.5)}."
                )

    def __hash__(self) -> int:
        return hash((self.dollars, self.tokens, *sorted(self.prices)))

    @property
    def needs(self) -> frozenset[Need]:
        """See `Policy`."""
        return frozenset({"callbacks"})

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        if not progress.usage:
            return None
        if self.tokens is not None:
            used = sum(one.input + one.output for one in progress.usage.values())
            if used >= self.tokens:
                return Store(f"Models have used {used:,} tokens.")
        if self.dollars is not None:
            spent = sum(self._cost(model, one) for model, one in progress.usage.items())
            if spent >= self.dollars:
                return Store(f"Models have cost {spent:.2f} dollars.")
        return None

    def _cost(self, model: str, used: Tokens) -> float:
        fits = max((name for name in self.prices if model.startswith(name)), key=len, default=None)
        prices = self.prices.values() if fits is None else (self.prices[fits],)
        return max(used.input * price[0] + used.output * price[1] for price in prices) / 1e6


@dataclass(frozen=True, slots=True)
class Memory(Policy):
    """Stop, or store, when memory is nearly used up.

    Memory that a container uses counts against its limit (cgroup v2 or v1), without the page cache that the system
    gives back by itself. So do the limits of the process (`ulimit`), and without any limit, the machine's memory.

    Choose a part that leaves room for the longest step and for storing it: with 0.8, a fifth of the limit.

    Args:
        part: The part of the limit, above 0 and below 1.
        action: `"stop"` or `"store"`.
        limit: A limit in bytes for the resident memory of this process, in place of those.
    """

    part: float
    action: Literal["stop", "store"] = "stop"
    limit: int | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.part) or not 0 < self.part < 1:
            raise InvalidInputError(f"Memory({self.part!r}): the part must be a number above 0 and below 1.")
        if self.action not in ("stop", "store"):
            raise InvalidInputError(f"Memory(action={self.action!r}): the action must be 'stop' or 'store'.")
        if self.limit is not None:
            _check_count("Memory", self.limit)

    @property
    def needs(self) -> frozenset[Need]:
        """See `Policy`."""
        return frozenset({"memory" if self.limit is None else "rss"})

    @property
    def only_stops(self) -> bool:
        """See `Policy`."""
        return self.action == "stop"

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        used = progress.memory
        if self.limit is not None:
            used = None if progress.rss is None else progress.rss / self.limit
        if used is None or used < self.part:
            return None
        reason = f"{used:.0%} of the memory limit is in use."
        return Stop(reason) if self.action == "stop" else Store(reason)


@dataclass(frozen=True, slots=True, init=False)
class Signal(Policy):
    """Stop when the process has got one of these signals, such as `SIGTERM`.

    The first such signal only stops the runs that wait for it. A second one acts as if this policy were not there, and
    so does each signal while no such run is under way. A handler that the process had before is called as well. If a
    run ends without a stop, because it was in its last step, the next run stops for its signal before its first node.

    Only the main thread can install handlers. If your runs are on other threads, call `listen` in the main thread.
    """

    signals: frozenset[int]

    def __init__(self, *signals: int) -> None:
        if not signals or not all(isinstance(one, int) and not isinstance(one, bool) for one in signals):
            raise InvalidInputError(f"Signal{signals!r} needs signals such as signal.SIGTERM.")
        object.__setattr__(self, "signals", frozenset(int(one) for one in signals))

    @property
    def only_stops(self) -> bool:
        """See `Policy`."""
        return True

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        found = self.signals & progress.signals
        return Stop(f"The process got signal {min(found)}.") if found else None

    def listen(self) -> None:
        """Install the handlers, in the main thread, before runs begin on other threads. Idempotent.

        Raises:
            InvalidInputError: This is not the main thread, or a signal cannot be handled.
        """
        from langgraph_gcs_saver.cadence.signals import install  # noqa: PLC0415 - the policy itself is pure

        for one in self.signals:
            install(one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline(Policy):
    """Stop when this much time has passed since the request began.

    Choose it shorter than the platform's own limit by the longest step.
    """

    hours: float = 0.0
    minutes: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        _total(self)

    @property
    def only_stops(self) -> bool:
        """See `Policy`."""
        return True

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        if progress.elapsed < _sum(self):
            return None
        return Stop(f"The request began {progress.elapsed:.0f} s ago.")


def _sum(time: Every | Deadline) -> float:
    return time.hours * 3600.0 + time.minutes * 60.0 + time.seconds


def _total(time: Every | Deadline) -> None:
    name = type(time).__name__
    for one in (time.hours, time.minutes, time.seconds):
        if not _is_number(one) or one < 0:
            raise InvalidInputError(f"{name}: a time must be a number, 0 or more.")
    _check_number(name, _sum(time))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_number(name: str, value: object) -> None:
    if not _is_number(value) or value <= 0:  # type: ignore[operator]  # a number by now
        raise InvalidInputError(f"{name}: {value!r} must be a number above 0.")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInputError(f"{name}: {value!r} must be a whole number, at least 1.")
