"""The fuzzer finds nothing, and it would: its limit of memory holds, and a check that is left out is noticed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from langgraph_gcs_saver.format import frames, keys
from tests.docs.fences import ROOT
from tests.security import registry
from tests.security.fuzzing import mutations, sabotage, seeds
from tests.security.fuzzing.targets import TARGETS, Forged, values_of

SOAK_SECONDS = float(os.environ.get("FUZZ_SECONDS", "600"))
"""How long all targets together are fuzzed by `make soak`."""

SHARES = {"store": 4, "archives": 2, "manifests": 2, "writes": 1, "values": 1, "frames": 1}

QUICK = {"frames": 150, "manifests": 20, "writes": 20, "values": 60, "archives": 8, "store": 4}
"""Iterations of each target in `make test`, which has better things to do."""


def fuzz(*words: object, state: Path) -> subprocess.CompletedProcess[str]:
    """Fuzz in a process of its own; its limit is the iteration's."""
    command = [sys.executable, "-m", "tests.security.fuzzing", *map(str, words), "--state", str(state)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def passed(*words: object, state: Path) -> str:
    """What the fuzzer prints. If it fails, or its process crashes or hangs, the error says how to reproduce that."""
    ended = fuzz(*words, state=state)
    at = state.read_text() if state.exists() else "none"
    assert ended.returncode == 0, f"iteration {at} of {words}:\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def test_each_target_has_its_share() -> None:
    assert SHARES.keys() == QUICK.keys() == TARGETS.keys()


def test_some_iterations_find_nothing(tmp_path: Path) -> None:
    told = passed(*(f"{name}={count}" for name, count in QUICK.items()), state=tmp_path / "state")
    for name, count in QUICK.items():
        assert f"{name}: {count} iterations" in told


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_many_iterations_find_nothing(target: str, tmp_path: Path) -> None:
    """Different iterations each time. A failure reports the seed."""
    seed = int.from_bytes(os.urandom(4), "big")
    seconds = SOAK_SECONDS * SHARES[target] / sum(SHARES.values())
    print(passed(target, "--seed", seed, "--seconds", seconds, state=tmp_path / "state"))


# It would find something

FOUND_BY = {
    "sizes of frames": "manifests",
    "sizes of heads": "manifests",
    "sizes of states": "store",
    "shapes of manifests": "store",
    "numbers of manifests": "manifests",
    "json that is none": "manifests",
}
"""The target that finds what each check keeps away."""


def test_all_sabotages_are_tried() -> None:
    assert FOUND_BY.keys() == sabotage.SABOTAGES.keys()


def test_a_check_that_is_left_out_is_noticed_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of memory, and in this process."""
    target = TARGETS["frames"](tmp_path)
    monkeypatch.setattr(frames, "_check_size", frames._check_size)  # to be as before in the end
    sabotage.SABOTAGES["sizes of frames"]()

    def some_iterations() -> None:
        for number in range(100):
            with suppress(*target.family):
                target.one(Random(f"frames 0 {number}"))

    with pytest.raises(AssertionError):
        some_iterations()
    monkeypatch.undo()
    some_iterations()


@pytest.mark.soak
@pytest.mark.parametrize("name", FOUND_BY)
def test_a_check_that_is_left_out_is_noticed(name: str, tmp_path: Path) -> None:
    ended = fuzz(FOUND_BY[name], "--sabotage", name, "--iterations", 5000, state=tmp_path / "state")
    assert ended.returncode == 1, ended.stdout
    assert "FAILED MemoryError" in ended.stdout or not name.startswith("sizes"), ended.stdout
    # What was printed shows it again.
    found = re.search(r"(\w+) --seed (\d+) --first (\d+) --iterations 1", ended.stdout)
    assert found is not None
    assert (tmp_path / "state").read_text().split() == [found[1], found[3]]


@pytest.mark.soak
def test_a_failure_is_seen_again(tmp_path: Path) -> None:
    for name, target in FOUND_BY.items():
        ended = fuzz(target, "--sabotage", name, "--iterations", 5000, state=tmp_path / "state")
        again = fuzz(*ended.stdout.splitlines()[-1].split()[3:], "--sabotage", name, state=tmp_path / "state")
        assert again.returncode == 1, (name, again.stdout)
        assert "FAILED" in again.stdout


@pytest.mark.parametrize(("size", "code"), [(10 << 20, 0), (400 << 20, 1)])
def test_the_system_enforces_the_limit(size: int, code: int) -> None:
    script = f"from tests.security.fuzzing.limits import *; limit(ALLOWANCE); bytes({size})"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ("MemoryError" in ended.stderr) is bool(code)


# What it reads


@pytest.mark.parametrize("kind", [seeds.KINDS[0], seeds.KINDS[3]], ids=str)
def test_seeds_are_the_same_each_time(kind: seeds.Kind, tmp_path: Path) -> None:
    first, second = (seeds.make(tmp_path / name, kind) for name in ("first", "second"))
    assert first.rows == second.rows
    assert first.objects == second.objects
    assert first.archive == second.archive


def test_seeds_have_documents_of_every_collection(tmp_path: Path) -> None:
    seed = seeds.make(tmp_path / "seed", seeds.KINDS[0])
    forged = Forged(Random(0), seed)
    for collection in registry.collections() - registry.BUCKETS_ONLY:
        assert forged.names(collection), collection
    fields = {field for name in forged.names(keys.WRITES) for field in forged.doc(name)}
    assert fields >= {"format", "writes", "w1", "w3", "w4"}, "regular writes, errors, interrupts and answers"


def test_mutations_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    seed = seeds.make(tmp_path / "seed", seeds.KINDS[1])
    for number in range(100):
        forged = [Forged(Random(number), seed) for _ in range(2)]
        for one in forged:
            one.change()
        assert repr(forged[0].fields) == repr(forged[1].fields)
        assert (forged[0].rows, forged[0].objects) == (forged[1].rows, forged[1].objects)


def test_msgpack_is_taken_apart_and_put_together(tmp_path: Path) -> None:
    for value in values_of(Forged(Random(0), seeds.make(tmp_path / "seed", seeds.KINDS[0]))):
        tree = mutations.tree_of(value) if value else None
        assert tree is None or mutations.packed(tree) == value
