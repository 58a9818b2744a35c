"""How tests wait: for what happens, never for a time. There is one limit, and only a hang reaches it.

A busy machine may stop any thread or process for seconds, at any line. So a test must not assert how long something
took, sleep until something "has happened by now", or give up on something that is merely slow. `test_clocks.py` finds
the lines that look at a clock or name a limit of their own.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from langgraph_gcs_saver.engine.effects import Effect, Now, Pause
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.testing import PATIENCE

__all__ = ["PATIENCE", "Clock", "aeventually", "deadlines", "eventually"]

T = TypeVar("T")

POLL = 0.01
"""Seconds between two looks at a condition."""


def eventually(look: Callable[[], T]) -> T:
    """Call `look` until it returns something true, and return that.

    Raises:
        TimeoutError: It never did.
    """
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"this did not become true in {PATIENCE:g} s, but was {found!r}")
        time.sleep(POLL)
    return found


async def aeventually(look: Callable[[], T]) -> T:
    """Do as `eventually`, and let the event loop run meanwhile."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"this did not become true in {PATIENCE:g} s, but was {found!r}")
        await asyncio.sleep(POLL)
    return found


def deadlines(first: float) -> Iterator[float]:
    """Yield longer and longer deadlines, for a test of what happens at one.

    The machine may be too slow for the first: what the test does before the deadline, or after it, then fails as well.
    The test starts again with the next.

    Raises:
        TimeoutError: The last one was too short, too.
    """
    while first < PATIENCE:
        yield first
        first *= 2
    raise TimeoutError(f"no deadline up to {PATIENCE:g} s was long enough")


class Clock(Interceptor):
    """The time of a saver's synchronous calls. It passes only while the saver pauses, and then at once.

    Attributes:
        paused: Seconds so far.
    """

    def __init__(self) -> None:
        self.paused = 0.0
        self._began = time.time()

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        match effect:
            case Now():
                return self._began + self.paused
            case Pause():
                self.paused += effect.seconds
                return None
            case _:
                return perform(effect)
