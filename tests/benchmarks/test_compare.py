"""The comparison of savers: what it computes from counts, what it prints, and one small run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.compare import prices
from benchmarks.compare.prices import Stored
from benchmarks.compare.results import Results, Row, Series, Timing, compared, environment, markdown, row, tables, times
from benchmarks.compare.runs import Run
from benchmarks.compare.workloads import FULL, QUICK, Count, Graph, Measured, State, Step, workloads
from langgraph_gcs_saver import GCSSaver

GOOGLE = frozenset({"firestore", "storage"})


# Prices


def test_a_million_steps_cost_what_their_operations_cost():
    counted = {"document writes": 60, "document reads": 30, "object class A": 3, "object deletes": 9}
    assert prices.per_million(counted, 30) == pytest.approx(2 * 0.9 + 1 * 0.3 + 0.1 * 5)


def test_a_service_without_prices_per_operation_says_what_is_billed_instead():
    assert prices.per_million({"queries": 3}, 1) is None
    assert "instance" in (prices.billed_by({"postgres"}) or "")
    assert prices.billed_by(GOOGLE) is None
    assert prices.billed_by(()) == prices.NOTHING


def test_an_operation_that_the_table_does_not_know_is_an_error():
    with pytest.raises(KeyError, match="document counts"):
        prices.dollars({"document counts": 1})


def test_keeping_a_million_steps_is_priced_by_what_they_are_kept_in():
    stored = Stored(total=3 * prices.GIB, objects=2 * prices.GIB)
    assert prices.monthly(stored, prices.MILLION, GOOGLE) == pytest.approx(0.15 + 2 * 0.02)
    assert prices.monthly(Stored(prices.GIB), prices.MILLION, {"storage"}) == pytest.approx(0.02)
    assert prices.monthly(Stored(prices.GIB), prices.MILLION, {"firestore"}) == pytest.approx(0.15)
    assert prices.monthly(stored, 1, {"postgres"}) is None
    assert prices.monthly(stored, 1, ()) is None


def test_every_price_names_its_page_and_the_table_its_date():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", prices.CHECKED)
    for price in (*prices.OPERATIONS, *prices.KEEPING, *prices.MULTI_REGION):
        assert price.page.startswith("https://")
        assert price.page in prices.table()


# Tables


def made(saver: str, median: float, **more: Any) -> Row:
    found = Row("step", "calls", "put", saver, direct=Timing(median, 2 * median, 30))
    return replace(found, **more)


def test_a_table_tells_ratios_and_not_times():
    text = tables([
        made("GCSSaver", 0.002, stored=1000, requests=2.0, rounds=2.0, effect_rounds=3, dollars=2.1),
        made("firestore", 0.0068, stored=52_000, rounds=11.0),
        made("sqlite", 0.0005),
    ])  # fmt: skip
    ours, firestore, sqlite = (line.split(" | ") for line in text.splitlines() if line.startswith("| put"))
    assert ours[2:4] == ["1", "1"]
    assert ours[6:8] == ["2 (3 at the effects)", "2"]
    assert "$2.10" in ours
    assert firestore[2:4] == ["3.4x slower", "3.4x slower"]
    assert firestore[6] == "11"
    assert firestore[8] == "50.8 KiB, 52x"
    assert sqlite[2] == "4.0x faster"
    assert "ms" not in text


def test_a_saver_without_ours_beside_it_is_told_in_milliseconds():
    assert "| 0.5 ms |" in tables([made("sqlite", 0.0005)])


def test_what_failed_is_in_the_table():
    text = tables([
        made("GCSSaver", 1.0),
        Row("step", "calls", "put", "firestore", error="InvalidArgument"),
        made("postgres", 2.0, error="OperationalError"),
    ])  # fmt: skip
    assert "| put | firestore | InvalidArgument |" in text
    assert "| put | postgres | 2.0x slower, then OperationalError |" in text


@pytest.mark.parametrize(
    ("own", "ours", "text"),
    [(1.0, 1.0, "the same"), (34.0, 10.0, "3.4x slower"), (1.0, 12.0, "12x faster"), (2e4, 1.0, "20,000x slower")],
)
def test_ratios_have_two_digits(own: float, ours: float, text: str):
    assert compared(own, ours) == text


def test_a_ratio_below_one_keeps_two_digits():
    assert times(0.0312) == "0.031x"


def test_p95_is_a_sample_that_was_measured():
    assert Timing.of([]) is None
    assert Timing.of([float(n) for n in range(1, 101)]) == Timing(50.5, 95.0, 100)
    assert Timing.of([3.0, 1.0, 2.0]) == Timing(2.0, 3.0, 3)


def test_results_survive_their_file(tmp_path: Path):
    rows = [made("GCSSaver", 1.0, operations={"document reads": 2.0}), made("firestore", 3.0, delayed=Timing(1, 2, 3))]
    results = Results(rows, [Series("GCSSaver", ((1, 10), (300, 3000)))], environment(quick=True, seconds=61.0))
    results.dump(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    assert "--quick" in markdown(results)
    assert prices.CHECKED in markdown(results)


def test_counts_of_fewer_threads_are_scaled_to_those_that_were_timed():
    traffic = SimpleNamespace(requests=12, rounds=7, operations={"document writes": 6}, bytes_sent=60, bytes_received=6)
    measured = Measured(steps=30, seconds={"direct": [1.0]}, counts=[Count(3, traffic, 5)])
    found = row(Graph(), "run", Files(Path()), measured, stored=Stored(300), steps=30)
    assert (found.requests, found.operations["document writes"], found.stored_per_step) == (120, 60, 10)
    assert found.dollars == pytest.approx(2 * 0.9)


# A run


@dataclass
class Memory:
    name = "memory"
    services: frozenset[str] = frozenset()
    is_shared = False
    savers: dict[str, InMemorySaver] = field(default_factory=dict)

    @contextmanager
    def open(self, _: Any, space: str) -> Iterator[InMemorySaver]:
        yield self.savers.setdefault(space, InMemorySaver())

    def stored(self, *_: Any) -> None:
        return None

    def drop(self, _: Any, space: str) -> None:
        self.savers.pop(space, None)


@dataclass
class Files:
    directory: Path
    name = "GCSSaver"
    services: frozenset[str] = frozenset()
    is_shared = True

    @contextmanager
    def open(self, _: Any, space: str) -> Iterator[GCSSaver]:
        with GCSSaver.from_conn_string(f"file://{self.directory / space}") as saver:
            yield saver

    def stored(self, _: Any, space: str) -> int:
        return sum(path.stat().st_size for path in (self.directory / space).rglob("*") if path.is_file())

    def drop(self, *_: Any) -> None:
        raise FileNotFoundError


class Broken(Memory):
    name = "broken"

    @contextmanager
    def open(self, _: Any, space: str) -> Iterator[InMemorySaver]:
        saver = InMemorySaver()
        saver.put_writes = fail  # type: ignore[method-assign]
        yield saver


def fail(*_: Any) -> None:
    raise OverflowError("too much")


def test_a_small_run_measures_every_saver_and_hides_no_failure(tmp_path: Path):
    services = SimpleNamespace(direct=None, delayed=None, counted=None, counter=None)
    scale = replace(QUICK, turns=2)
    said: list[str] = []
    run = Run(services, [Files(tmp_path), Memory(), Broken()], scale, said.append)
    run.play([Step(), State(1000)])

    found = {(one.workload, one.operation, one.saver): one for one in run.rows}
    assert len(found) == len(run.rows) == 2 * 3 * 3
    for saver in ("GCSSaver", "memory"):
        timing = found["step", "put", saver].direct
        assert timing is not None
        assert timing.samples >= 1
        assert timing.p95 >= timing.median > 0
    broken = found["step", "put_writes", "broken"]
    assert (broken.direct, broken.error) == (None, "OverflowError")
    assert found["state of 1 KB", "put", "broken"].error == "OverflowError"
    assert "not shared" in (found["state of 1 KB", "get_tuple cold", "memory"].error or "")
    assert found["state of 1 KB", "get_tuple warm", "memory"].error is None
    assert found["state of 1 KB", "get_tuple cold", "GCSSaver"].direct is not None
    assert (found["state of 1 KB", "put", "GCSSaver"].stored or 0) > 0
    assert any(line.startswith("step: direct") for line in said)
    assert "x faster" in tables(run.rows) or "x slower" in tables(run.rows)


def test_names_of_workloads_are_distinct_and_neighbours_share_data():
    for scale in (FULL, QUICK):
        every = workloads(scale)
        assert len({one.name for one in every}) == len(every)
        data = [one.data for one in every]
        assert all(data.index(name) + data.count(name) > at for at, name in enumerate(data))
