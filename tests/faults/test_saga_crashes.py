"""A process that crashes before or after any effect of a saga: everything is done, or undone, or a list says what not.

The provider's ledger is the judge. After each crash another process continues, and a person settles what the list says.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.faults.booking import HOW, STEPS, check_stuck, check_world, proceed, settle

FAILS = (*STEPS, None)


class Story:
    """One saga, and processes that crash."""

    def __init__(self, ledger: Path, fails: str | None, how: str, *, gives_up: bool) -> None:
        ledger.unlink(missing_ok=True)
        self.table: Any = {}
        self.objects: Any = {}
        self.ledger = ledger
        self.fails = fails
        self.how = how
        self.gives_up = gives_up
        self.stuck = 0

    @contextmanager
    def process(self) -> Iterator[CrashingSaver]:
        """The saver of another process, which finds what the one before has left."""
        documents, blobs = MemoryDocuments(self.table), MemoryBlobs(self.objects)
        with CrashingSaver(stores=(documents, blobs)) as saver:
            yield saver
            self.table, self.objects = documents.table, blobs.objects

    def play(self, *stops: int) -> bool:
        """Let processes crash after so many effects, and then the last one not. Returns whether the first one did."""
        crashed = []
        for stop in (*stops, None):
            with self.process() as saver:
                saver.plan = Plan(stop)
                try:
                    found = proceed(saver, self.ledger, self.fails, self.how, gives_up=self.gives_up)
                except Crashed:
                    crashed.append(True)
                    continue
                finally:
                    crashed.append(saver.plan.is_dead)
                break
        while isinstance(found, tuple):
            self.stuck += 1
            if len(stops) == 1:
                check_stuck(self.ledger, found)
            with self.process() as saver:
                settle(saver, self.ledger, found)
                found = proceed(saver, self.ledger, self.fails, self.how, gives_up=self.gives_up)
        check_world(self.ledger, found, self.fails)
        return crashed[0]


@pytest.mark.parametrize("gives_up", [True, False], ids=["gives-up", "goes-back-to-work"])
@pytest.mark.parametrize("fails", FAILS)
def test_crashes_at_every_effect(tmp_path: Path, fails: str | None, gives_up: bool) -> None:
    stuck = 0
    for stop in count():
        story = Story(tmp_path / "ledger", fails, "block", gives_up=gives_up)
        if not story.play(stop):
            break
        stuck += story.stuck
    assert stop > 20
    assert stuck > 0


def play_in_node(tmp_path: Path, fails: str | None, stops: Iterator[int], *, gives_up: bool) -> int:
    """Crash a node's process after each of some numbers of effects, until there are fewer effects."""
    played = 0
    for stop in stops:
        if not Story(tmp_path / "ledger", fails, "node", gives_up=gives_up).play(stop):
            break
        played += 1
    return played


@pytest.mark.parametrize("fails", ["flight", "pay"])
def test_crashes_of_a_node(tmp_path: Path, fails: str) -> None:
    assert play_in_node(tmp_path, fails, count(1, 9), gives_up=True) >= 5


@pytest.mark.soak
@pytest.mark.parametrize("gives_up", [True, False], ids=["gives-up", "goes-back-to-work"])
@pytest.mark.parametrize("fails", FAILS)
def test_crashes_of_a_node_at_every_effect(tmp_path: Path, fails: str | None, gives_up: bool) -> None:
    assert play_in_node(tmp_path, fails, count(), gives_up=gives_up) > 40


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(200))
@pytest.mark.parametrize("how", HOW)
def test_several_crashes(tmp_path: Path, how: str, seed: int) -> None:
    chance = random.Random(seed)
    story = Story(tmp_path / "ledger", chance.choice(FAILS), how, gives_up=chance.random() < 0.5)
    story.play(*[chance.randint(1, 60) for _ in range(chance.randint(2, 6))])
