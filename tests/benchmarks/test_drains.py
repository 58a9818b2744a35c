"""Processes that get SIGTERM, or leak up to a limit, end in time, and the next ones repeat nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.drains import STORES, Order, Row, play

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory needs Linux")


def check(folder: Path, hazard: str, store: str, seeds: range) -> None:
    row = Row(hazard, store)
    for seed in seeds:
        play(Order((folder / "store").as_uri(), f"t{seed}", folder, hazard, store, seed), row)
    assert row.is_good, row
    assert row.turns == len(seeds)
    assert hazard == "leak" or row.processes > row.turns


@pytest.mark.parametrize(("hazard", "store"), [("SIGTERM", "async"), ("memory", "segments"), ("leak", "sync")])
def test_a_turn(hazard: str, store: str, tmp_path: Path) -> None:
    check(tmp_path, hazard, store, range(1))


@pytest.mark.soak
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("hazard", ["SIGTERM", "memory"])
def test_a_hundred_turns(hazard: str, store: str, tmp_path: Path) -> None:
    check(tmp_path, hazard, store, range(100))


@pytest.mark.soak
@pytest.mark.parametrize("store", STORES)
def test_without_a_policy_a_leak_kills(store: str, tmp_path: Path) -> None:
    check(tmp_path, "leak", store, range(10))
