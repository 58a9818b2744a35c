"""Objectives and advice: what a restore is estimated to take, what options allow, and how often to store."""

import json
import subprocess
import sys

import pytest

from benchmarks import objectives
from langgraph_gcs_saver import GCSSaver, cadence
from langgraph_gcs_saver.cadence.advice import Advice
from langgraph_gcs_saver.cadence.objective import RTO, Weight, of_state
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.format import chains
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.saver.restores import most_frames
from tests.docs.fences import ROOT


def test_there_is_one_class():
    assert cadence.RTO is RTO
    assert RTO(minutes=1, seconds=30).total == 90


@pytest.mark.parametrize("frames", [1, 5, chains.MAX_FRAMES])
@pytest.mark.parametrize("seconds", [1, 30, 300, 900])
def test_the_largest_state_is_the_largest(seconds, frames):
    most = RTO(seconds=seconds).largest_state(frames)
    RTO(seconds=seconds, state_bytes=most).check(frames)
    with pytest.raises(InvalidInputError, match=f"The objective is {seconds} s"):
        RTO(seconds=seconds, state_bytes=most + 2000).check(frames)


def test_more_frames_requests_and_bytes_take_longer():
    least = Weight()
    assert least.seconds == of_state(0, 1).seconds
    for more in (Weight(requests=17, parallel=16), Weight(read=1e6), Weight(decoded=1e6), Weight(loaded=1e6)):
        assert more.seconds > least.seconds
    assert of_state(1e6, 2).seconds > of_state(1e6, 1).seconds


@pytest.mark.parametrize(
    ("weight", "advice"),
    [
        (Weight(requests=1000, parallel=2, loaded=10), "max_threads"),
        (Weight(decoded=12e9, read=1e8, loaded=1e9, frames=12), "12 frames. Pass a smaller `full_every`"),
        (Weight(decoded=1e9, read=1e9, loaded=1e9, frames=1), "Move large values out of the state"),
    ],
)
def test_the_advice_is_for_what_takes_longest(weight, advice):
    assert advice in weight.advice


@pytest.mark.parametrize(
    ("given", "frames"),
    [
        ({}, chains.MAX_FRAMES),
        ({"full_every": None}, chains.MAX_FRAMES),
        ({"full_every": 5}, 5),
        ({"full_every": 1}, 1),
        ({"incremental": False}, 1),
        ({"zstd_level": None}, 1),
        ({"cache_max_bytes": 0}, 1),
    ],
)
def test_options_bound_a_chain(given, frames):
    assert most_frames(Options.of(given)) == frames


@pytest.mark.parametrize("seconds", [30, 300, 900])
def test_the_documented_objectives_need_no_other_option(seconds):
    with GCSSaver.from_conn_string("memory:", objective=RTO(seconds=seconds)) as saver:
        assert saver.get_tuple({"configurable": {"thread_id": "t"}}) is None


def test_options_that_cannot_meet_it_are_refused():
    large = RTO(seconds=30, state_bytes=1_000_000_000)
    with pytest.raises(InvalidInputError, match=r"1,000,000,000 bytes, in chains of at most 12 frames.* full_every=1 "):
        GCSSaver.from_conn_string("memory:", objective=large)
    GCSSaver.from_conn_string("memory:", objective=large, full_every=1).close()
    GCSSaver.from_conn_string("memory:", objective=large, incremental=False).close()
    with pytest.raises(InvalidInputError, match=r"Pass a longer objective\.$"):
        GCSSaver.from_conn_string("memory:", objective=RTO(seconds=0.1, state_bytes=0))


@pytest.mark.parametrize("objective", [30, "30s", RTO, Advice(cost=1, step=1, rate=1)])
def test_an_objective_is_an_rto(objective):
    with pytest.raises(InvalidInputError, match="it must be an RTO"):
        GCSSaver.from_conn_string("memory:", objective=objective)


@pytest.mark.parametrize("given", [{"state_bytes": -1}, {"state_bytes": 1.5}, {"state_bytes": True}])
def test_a_state_has_bytes(given):
    with pytest.raises(InvalidInputError, match="state_bytes"):
        RTO(seconds=30, **given)


def test_the_interval_is_the_best():
    one = Advice(cost=0.1, step=0.1, rate=1 / 3600)
    assert one.interval == pytest.approx(26.83, abs=0.01)
    assert one.steps == 268
    assert one.overhead(one.steps) == min(map(one.overhead, range(1, 1000)))
    assert not one.is_every_step


@pytest.mark.parametrize("step", [2.0, 10.0, 60.0, 600.0])
@pytest.mark.parametrize("hours", [1, 24, 168])
def test_steps_of_seconds_are_stored_each(step, hours):
    assert Advice(cost=0.1, step=step, rate=1 / (hours * 3600)).is_every_step


def test_the_documented_tables_are_those_of_the_benchmark():
    page = (ROOT / "docs" / "reference" / "cadence.md").read_text(encoding="utf-8")
    missing = [line for line in objectives.lines() if line not in page.splitlines()]
    assert not missing, "run: python -m benchmarks.objectives"


def test_the_benchmark_prints_json():
    shown = subprocess.run(
        [sys.executable, "-m", "benchmarks.objectives", "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(shown.stdout)
    assert found["largest"].keys() == {"30.0", "300.0", "900.0"}
    assert found["rates"] is None
