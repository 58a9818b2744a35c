"""How often to store, from what storing costs and how often processes crash: `Adaptive`.

A crash loses what was not stored. After `t` seconds without storing, at a rate of `λ` crashes a second, the expected
loss is `λ·t²/2`. Storing costs `C` seconds. Store when the loss has reached the cost: with a constant rate, this is
Young's interval, `sqrt(2C/λ)`. With a rate that changes, it follows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from langgraph_gcs_saver.cadence.objective import RTO
from langgraph_gcs_saver.cadence.policies import Decision, Need, Policy, Progress, Store
from langgraph_gcs_saver.errors import InvalidInputError

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Hazard:
    """What makes a crash more likely for a while.

    Attributes:
        rate: Further crashes a second that are expected, by the progress.
        needs: What `rate` reads.
    """

    rate: Callable[[Progress], float]
    needs: frozenset[Need] = frozenset()


def memory_trend(part: float = 1.0) -> Hazard:
    """Memory grows: a crash is expected when it will have reached this part of the limit."""

    def rate(progress: Progress) -> float:
        if progress.memory is None or progress.memory_growth <= 0:
            return 0.0
        return progress.memory_growth / max(part - progress.memory, 1e-3)

    return Hazard(rate, frozenset({"memory"}))


def near_end(*, hours: float = 0.0, minutes: float = 0.0, seconds: float = 0.0) -> Hazard:
    """The platform ends the process this long after the request began. The rate grows as the end comes near."""
    end = hours * _HOUR + minutes * 60.0 + seconds

    def rate(progress: Progress) -> float:
        return 1.0 / max(end - progress.elapsed, 1.0)

    return Hazard(rate)


def rate_limits(crashes: float = 0.05) -> Hazard:
    """Models refuse calls because of a rate limit: so many crashes are expected for each refusal, within a minute."""
    return Hazard(lambda progress: progress.rate_limits * crashes / 60.0, frozenset({"callbacks"}))


def crashed_nodes(crashes: float = 0.5) -> Hazard:
    """Nodes run again that were due when a process crashed on this turn: so many crashes are expected, within a minute.

    Each process that crashed counts. The hazard ends once these nodes have finished, and a store has followed. So a
    node that exhausts the memory is passed once, and not again after the next crash. With segments, the nodes are those
    after the last store, and the crash may have come later.
    """

    def rate(progress: Progress) -> float:
        return progress.crashes * crashes / 60.0 if progress.crashed_nodes else 0.0

    return Hazard(rate, frozenset({"callbacks"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(Policy):
    """Store when the work that a crash would lose is worth as much as storing it.

    Args:
        objective: Store at least this often.
        crashes: Crashes of the graph's runs so far, and
        hours: the hours that they ran. The crashes and the time of the turn itself are added. The defaults say little:
            once in a day.
        cost: Seconds that storing takes, until it has been measured.
        hazards: What makes crashes more likely for a while.
    """

    objective: RTO | None = None
    crashes: float = 1.0
    hours: float = 24.0
    cost: float = 0.2
    hazards: tuple[Hazard, ...] = ()

    def __post_init__(self) -> None:
        for name in ("crashes", "hours", "cost"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
                raise InvalidInputError(f"Adaptive({name}={value!r}): it must be a number above 0.")

    @property
    def needs(self) -> frozenset[Need]:
        """See `Policy`."""
        return frozenset[Need]().union(*(one.needs for one in self.hazards))

    def rate(self, progress: Progress) -> float:
        """Crashes that are expected, a second. The mean of a gamma distribution, and the hazards."""
        known = (self.crashes + progress.crashes) / (self.hours * _HOUR + progress.elapsed)
        return known + sum(one.rate(progress) for one in self.hazards)

    def decide(self, progress: Progress, /) -> Decision:
        """See `Policy`."""
        since = progress.unstored_seconds
        if self.objective is not None and since >= self.objective.total:
            return Store(f"{since:.0f} s of work are not stored.")
        cost = self.cost if progress.store_seconds is None else progress.store_seconds
        loss = self.rate(progress) * since * since / 2
        if loss < cost:
            return None
        return Store(f"A crash would lose {since:.0f} s of work, and storing takes {cost:.2f} s.")
