"""Services that are repeatedly away for a while, while agents work: nothing acknowledged is lost."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.testing.firestore_proxy import Faults
from tests.faults.talk import patiently
from tests.faults.test_lost_answers import Lane, lane, lanes  # noqa: F401 - fixtures
from tests.stateful.load import World

TIMEOUT = 5.0
"""Seconds that a call waits. Some outages are longer: calls then fail, and are made again."""


class Outages(Faults):
    """After some requests to either service all connections break, until so many more were tried.

    Counted by requests, so that a slow machine has as many outages as a fast one.

    Attributes:
        count: Outages so far.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.count = 0
        self._chance = random.Random(seed)
        self._next = (100, False)

    def choose(self, call: str, possible: tuple[str, ...]) -> str | None:
        found = super().choose(call, possible)
        with self._lock:
            left, is_out = self._next
            if not left:
                is_out = not is_out
                self.count += is_out
                left = self._chance.randrange(1, 60) if is_out else self._chance.randrange(20, 300)
            self._next = left - 1, is_out
            return self._chance.choice(["reset", "503"]) if is_out else found


@pytest.mark.parametrize(("steps", "seed"), [pytest.param(25, seed, marks=pytest.mark.soak) for seed in range(3)])
def test_agents_go_on_after_outages(lane: Lane, steps: int, seed: int) -> None:  # noqa: F811
    outages = Outages(seed)
    with ExitStack() as stack:

        def open_saver() -> GCSSaver:
            saver: GCSSaver = stack.enter_context(lane.saver(inline_max_bytes=2000, timeout=TIMEOUT))
            return saver

        def attempt(call: Any) -> None:
            patiently(call)

        world = World(open_saver, steps, attempt=attempt)
        lane.documents.faults = lane.blobs.faults = outages
        world.live()
    lane.be_well()
    assert outages.count > 3
    with lane.reader() as saver:
        world.check(saver)
