"""Processes that are killed while a graph charges a card and sends a mail: neither happens twice, in any interface."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import product

import pytest

from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")

KINDS = ("node", "task", "tool-node", "agent")


def kills(directory, scenarios, number, seed):
    """Kill runs of each scenario at a number of points; return how its processes ended."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.buying"]
    command += [str(directory), json.dumps(scenarios), str(number), str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE * len(scenarios) * number, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [Counter(json.loads(line)) for line in done.stdout.splitlines()]


def scenario(kind, is_async, durability, **options):
    return {"kind": kind, "is_async": is_async, "durability": durability, "slow": 0.05, **options}


def test_kills_around_the_side_effects(tmp_path):
    chosen = [
        scenario("node", False, "async"),
        scenario("agent", True, "async"),
    ]
    found = kills(tmp_path, chosen, number=2, seed=1)
    assert [one["ended"] for one in found] == [2] * len(chosen)
    # The kills did hit side effects that had happened, and some that had not begun.
    total = sum(found, Counter())
    assert total["killed"] >= 2 * len(chosen)
    assert total["resolved"] > 0
    assert total["allowed"] > 0


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "is_async", "durability"), list(product(KINDS, (False, True), ("sync", "async"))))
def test_kills_at_every_effect(tmp_path, kind, is_async, durability):
    options = [{}]
    if kind == "tool-node":
        options = [{"handle": False}, {"handle": True}]
    if kind == "agent":
        options = [{}, {"retry": "outside"}, {"retry": "inside"}]
    chosen = [scenario(kind, is_async, durability, **(one | {"slow": 0.3})) for one in options]
    for one in kills(tmp_path, chosen, number=1000, seed=1):
        assert one["killed"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("is_async", [False, True])
def test_what_may_be_repeated_is_never_unknown(tmp_path, is_async):
    (found,) = kills(tmp_path, [scenario("node", is_async, "async", mode="at_least_once")], number=1000, seed=1)
    assert found["killed"] > 0
    assert found["unknown"] == 0
