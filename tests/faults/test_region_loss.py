"""A region is lost in the middle of a batch: its processes are killed, and its emulators answer no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.emulators.firestore import FirestoreEmulator
from tests.emulators.fixtures import make_bucket
from tests.emulators.process import EmulatorProcess
from tests.emulators.storage import StorageEmulator
from tests.faults.regional import ITEMS
from tests.patience import PATIENCE

LOST_AFTER = 20

pytestmark = pytest.mark.soak


@pytest.fixture
def emulators() -> Iterator[Mapping[str, tuple[EmulatorProcess, EmulatorProcess]]]:
    """Two pairs of emulators."""
    with ExitStack() as stack:
        yield {
            region: (stack.enter_context(FirestoreEmulator()), stack.enter_context(StorageEmulator()))
            for region in ("east", "west")
        }


@pytest.fixture
def environment(emulators: Any) -> dict[str, str]:
    """The environment of all processes: which emulators and which store each region has."""
    regions = {}
    for region, (documents, objects) in emulators.items():
        bucket = make_bucket(objects.url, region)
        hosts = {"FIRESTORE_EMULATOR_HOST": documents.host, "STORAGE_EMULATOR_HOST": objects.url}
        project = f"{region}-{uuid.uuid4().hex[:12]}"
        regions[region] = {"emulators": hosts, "uri": f"gs://{bucket}/{region}?project={project}"}
    return {**os.environ, "REGIONS": json.dumps(regions)}


class Process:
    """A process of a region."""

    def __init__(self, role: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.regional", role],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self) -> dict[str, Any]:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process ended with {self.process.wait(PATIENCE)}"
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def started(role: str, environment: dict[str, str]) -> Iterator[Process]:
    found = Process(role, environment)
    try:
        yield found
    finally:
        found.kill()


def asked(role: str, environment: dict[str, str], lines: int = 1) -> list[dict[str, Any]]:
    """What a process says that does one thing."""
    with started(role, environment) as one:
        return [one.says() for _ in range(lines)]


def both(environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What both regions have."""
    return {one["region"]: one for one in asked("look", environment, 2)}


def test_a_worker_in_the_other_region_finishes_the_batch(emulators, environment):
    begun: dict[int, float] = {}
    asked("begin", environment)
    with started("worker", environment) as bob:
        with started("follow", environment) as follower, started("agent", environment) as ada:
            assert follower.says()
            while max(begun, default=0) <= LOST_AFTER:
                said = ada.says()
                begun[said["begins"]] = said["at"]
            ada.process.kill()
            follower.process.kill()
        for one in emulators["east"]:
            os.kill(one.pid, signal.SIGSTOP)
        try:
            (forced,) = asked("fail_over", environment)
            assert forced["unreached"]
            first = bob.says()["begins"]
            second = bob.says()
            assert second["begins"] == first + 1, "the first checkpoint in west"
            print(f"the first checkpoint in west after {second['at'] - begun[LOST_AFTER + 1]:.1f} s")
            # What was acknowledged before the mark is there. The clocks are those of one machine.
            acknowledged = max((number - 1 for number, at in begun.items() if at < forced["mark"]), default=0)
            assert acknowledged <= first - 1 <= LOST_AFTER
            while "begins" in (last := bob.says()):
                pass
            assert last == {"ended": "finished"}
        finally:
            for one in emulators["east"]:
                os.kill(one.pid, signal.SIGCONT)

    # East counts itself as the primary until the same call reaches it.
    (again,) = asked("fail_over", environment)
    assert (again["unreached"], again["primary"]) == ("", forced["primary"])
    before = both(environment)
    assert asked("agent", environment) == [{"ended": "not-primary"}]
    after = both(environment)
    assert after == before, "the old primary has stored something"
    items = [f"{number} by {'Ada' if number < first else 'Bob'}" for number in range(1, ITEMS + 1)]
    assert after["west"]["done"] == items
    assert asked("swap", environment) == [{"documents": 0}]
    end = both(environment)
    assert (end["east"]["done"], end["east"]["ids"]) == (items, end["west"]["ids"])
    assert [one["damage"] for one in end.values()] == [[], []]
