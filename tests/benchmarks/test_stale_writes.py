"""A process that is stopped, and wakes up after another one took its thread over, stores nothing under a lease."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from typing import Any

import pytest

from benchmarks.stale_writes import __main__ as command
from benchmarks.stale_writes.schedules import Result, play, table
from benchmarks.stale_writes.workers import Row
from langgraph_gcs_saver.flows.fences import Fence

emulators = pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)


def check(uri: str, schedules: int, seed: int) -> None:
    result = play(Row("leased", leased=True, uri=uri), schedules, seed)
    assert result.is_clean, (table([result]), result.stories)
    assert result.schedules == schedules
    assert result.refused > schedules // 4  # others had nothing left to store


@emulators
def test_ten_schedules_store_nothing_stale(store_uri):
    check(store_uri, 10, seed=1)


@pytest.mark.soak
@emulators
def test_a_thousand_schedules_store_nothing_stale(store_uri):
    check(store_uri, 1000, seed=2)


@dataclass(frozen=True)
class Unfenced(Row):
    """Lets the workers' savers commit without a check of the lease."""

    def open(self, **options: Any) -> Any:
        if parent_process() is not None:
            Fence.writes = lambda *_: ()  # type: ignore[method-assign]
        return super().open(**options)


@emulators
def test_without_the_check_of_the_lease_stale_writes_are_found(store_uri):
    result = play(Unfenced("sabotaged", leased=True, uri=store_uri), 5, seed=1)
    assert result.puts
    assert result.writes
    assert not result.is_clean


# The command


@pytest.fixture
def on_no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def rows(names: list[str]) -> Iterator[list[Row]]:
        yield [Row(name) for name in names]

    monkeypatch.setattr(command, "rows", rows)


@pytest.mark.usefixtures("on_no_service")
@pytest.mark.parametrize(("saver", "status"), [(command.OURS, 1), ("GCSSaver", 0), ("postgres", 0)])
def test_the_command_fails_only_if_leases_let_something_through(monkeypatch, capsys, saver, status):
    def played(row: Row, schedules: int, seed: int, report: Any) -> Result:
        found = Result(row.name, schedules, puts=seed, errors=Counter({"OSError": 2}))
        report(found)
        return found

    monkeypatch.setattr(command, "play", played)
    monkeypatch.setattr(sys, "argv", ["", "--schedules", "1000", "--seed", "3", "--saver", saver])
    assert command.main() == status
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == f"| {saver} | 1,000 | 3 | 0 | 0 | 0 | 0 | 0 | 2 OSError |"
    assert told.err == f"{saver}: 1000 schedules\n"


def test_only_a_clean_result_is_clean():
    assert Result("", 10, refused=10).is_clean
    for name in ("puts", "writes", "forks", "lost", "wrong"):
        assert not Result("", 10, **{name: 1}).is_clean
    assert not Result("", 10, errors=Counter(["OSError"])).is_clean
