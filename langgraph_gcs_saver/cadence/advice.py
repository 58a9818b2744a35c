"""What storing costs beside what crashes cost: Young's interval, and what every step costs next to it."""

from __future__ import annotations

import math

from langgraph_gcs_saver.records import record

NO_CRASH_BOUND = 3.0
"""With 95 % confidence, fewer crashes are to be expected in a time in which none has happened (the rule of three)."""

WORTH = 0.05
"""The share of the time that storing less often has to save. Below it, storing each step is simpler, and loses less."""


@record(frozen=True, slots=True, kw_only=True)
class Advice:
    """How often to store.

    Attributes:
        cost: Seconds that storing a step takes.
        step: Seconds that a step takes.
        rate: Crashes a second, while graphs run.
    """

    cost: float
    step: float
    rate: float

    @property
    def interval(self) -> float:
        """The best time between two stores, in seconds of work: `sqrt(2C/λ)`."""
        return math.sqrt(2 * self.cost / self.rate)

    @property
    def steps(self) -> int:
        """The steps that come nearest to the interval; at least one."""
        return max(1, round(self.interval / self.step)) if self.step else 1

    def overhead(self, steps: int) -> float:
        """The time that storing after so many steps costs, and crashes cost then, as a share of the work.

        A store costs `C`. At each crash, half of the work since the last store is done twice, on average.
        """
        work = steps * self.step
        return self.cost / work + self.rate * work / 2 if work else math.inf

    @property
    def is_every_step(self) -> bool:
        """Whether to store each step: storing less often would not save enough."""
        return self.steps == 1 or self.overhead(1) - self.overhead(self.steps) < WORTH
