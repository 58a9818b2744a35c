"""Processes and workers that crash at any effect, and others that are killed: workers finish what is left, once."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, run
from langgraph_gcs_saver.cadence.policies import Policy, Progress, Stop
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge
from langgraph_gcs_saver.engine.runner import run as perform
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from langgraph_gcs_saver.testing.kills import process
from tests.faults.test_run_crashes import steps
from tests.faults.test_run_kills import killing
from tests.faults.turns import CONFIG, THREAD, Ran, State, chain, inputs
from tests.patience import PATIENCE


class Store:
    """A store, and the savers of processes that use it one after another."""

    def __init__(self) -> None:
        self.table: Any = {}
        self.objects: Any = {}

    @contextmanager
    def open(self, kind: type[GCSSaver] = GCSSaver) -> Iterator[Any]:
        """The saver of another process, which finds what the one before has left."""
        documents, blobs = MemoryDocuments(self.table), MemoryBlobs(self.objects)
        with kind(stores=(documents, blobs)) as saver:
            yield saver
            self.table, self.objects = documents.table, blobs.objects

    def crash(self, act: Any, stop_after: int | None) -> Plan:
        """Let a process act until it crashes. Its lease expires."""
        with self.open(CrashingSaver) as saver:
            plan: Plan = Plan(stop_after)
            saver.plan = plan
            with suppress(Crashed):
                act(saver)
            plan.is_dead = True
        with self.open() as saver:
            name = keys.fence_doc(THREAD)
            doc = perform(iter(GetDocs((name,))), saver._backend).get(name)
            if doc is not None and doc.fields["owner"] is not None:
                expire(saver, [THREAD])
        return plan


def play(stop_after: int | None, worker_stops_after: int | None) -> tuple[int, int]:
    """A process crashes, then a worker does, and another worker finishes. Returns the number of their effects."""
    store, ran = Store(), Ran()
    first = store.crash(
        lambda saver: run(chain(saver, ran), inputs("one"), CONFIG, request_id="r1", durability="sync"), stop_after
    )
    with store.open() as saver:
        durable, before = steps(saver), len(ran)
    second = store.crash(lambda saver: list(saver.recover(chain(saver, ran), backoff=0)), worker_stops_after)
    with store.open() as saver:
        list(saver.recover(chain(saver, ran), backoff=0))
        assert list(saver.runs()) == [], "nothing is left to do"
        again = [one for one in ran[before:] if one[2] <= durable.get(one[1], -2)]
        assert not again, "no durable step runs again"
        status = saver.thread(THREAD).status()
        if durable:
            assert status.state == "finished"
        # The same line returns the result, or starts if the crash came before the input was durable.
        result = run(chain(saver, ran), inputs("one"), CONFIG, request_id="r1")
        assert sorted(result["log"]) == ["a", "b", "c", "d", "one"]
        left = perform(iter(GetDocs((keys.active_doc(THREAD), keys.resume_doc(THREAD)))), saver._backend)
        assert not left
    return len(first.done), len(second.done)


def test_a_worker_finishes_what_crashed_at_any_effect() -> None:
    effects, _ = play(None, None)
    for stop_after in range(0, effects + 1, 3):
        play(stop_after, None)


def test_another_worker_finishes_what_a_worker_left_at_any_effect() -> None:
    effects, _ = play(None, None)
    middle = effects // 2
    _, workers = play(middle, None)
    for stop_after in range(0, workers + 1, 3):
        play(middle, stop_after)


@pytest.mark.soak
def test_workers_and_processes_crash_at_every_effect() -> None:
    effects, _ = play(None, None)
    for stop_after in range(effects + 1):
        _, workers = play(stop_after, None)
        for worker_stops_after in range(0, workers + 1, 5):
            play(stop_after, worker_stops_after)


# Real kills


def build(saver: Any, directory: Path, act: Any = None) -> Any:
    """Three nodes in a row, which write down that they have run."""

    def node(name: str) -> Any:
        def run_node(state: State, config: RunnableConfig) -> dict[str, Any]:
            thread_id = config["configurable"]["thread_id"]
            with (directory / "ran").open("a") as file:
                file.write(f"{thread_id} {name}\n")
            if act is not None:
                act(name)
            return {"log": [name]}

        return run_node

    graph = StateGraph(State)
    for name in "abc":
        graph.add_node(name, node(name))
    graph.add_edge(START, "a")
    graph.add_edge("a", "b")
    graph.add_edge("b", "c")
    return graph.compile(checkpointer=saver, name="killed")


def begin(uri: str, directory: Path, ids: list[str], pipe: Connection) -> None:
    """Begin a turn on each thread, and be killed while all of them are in their second node."""
    meeting = threading.Barrier(len(ids), action=lambda: os.kill(os.getpid(), signal.SIGKILL))
    with GCSSaver.from_conn_string(uri) as saver:
        graph = build(saver, directory, lambda name: name == "b" and meeting.wait())
        with ThreadPoolExecutor(len(ids)) as pool:
            for id_ in ids:
                config: Any = {"configurable": {"thread_id": id_}}
                pool.submit(run, graph, {"log": ["in"]}, config, request_id="r1", durability="sync", ttl=5)


def work(uri: str, directory: Path, pipe: Connection) -> None:
    """Work until a file says to stop."""
    with GCSSaver.from_conn_string(uri) as saver:
        for done in saver.recover(build(saver, directory), every=0.05, backoff=0, policy=Ended(directory / "stop")):
            pipe.send((done.thread_id, done.outcome))


@dataclass(frozen=True)
class Ended(Policy):
    """Stop when a file is there."""

    path: Path

    @property
    def only_stops(self) -> bool:
        return True

    def decide(self, progress: Progress, /) -> Stop | None:
        return Stop("A file says so.") if self.path.exists() else None


def expire(saver: GCSSaver, ids: list[str]) -> None:
    """As if the time to live of each lease were over."""
    perform(iter(Commit(tuple(Merge(keys.fence_doc(id_), {"ttl": 1e-9}) for id_ in ids))), saver._backend)


def check(tmp_path: Path, count: int, *, waits: bool) -> None:
    """Kill a process in the middle of many turns. Two workers finish each of them once."""
    uri, ids = f"file://{tmp_path}/store", [f"t{number}" for number in range(count)]
    with process(begin, uri, tmp_path, ids) as (killed, _):
        killed.join(PATIENCE)
        assert killed.exitcode == -signal.SIGKILL
    with GCSSaver.from_conn_string(uri) as saver:
        assert {one.thread_id for one in saver.runs()} == set(ids)
        if not waits:
            expire(saver, ids)
        done: list[tuple[str, str]] = []
        with process(work, uri, tmp_path) as one, process(work, uri, tmp_path) as two:
            while len(done) < count:
                ready = wait([one[1], two[1]], PATIENCE)
                assert ready, f"{len(done)} of {count} have finished"
                done += [pipe.recv() for pipe in ready]
            (tmp_path / "stop").touch()
            for worker, _ in (one, two):
                worker.join(PATIENCE)
                assert worker.exitcode == 0
        assert sorted(done) == sorted((id_, "finished") for id_ in ids)
        assert list(saver.runs()) == []
        graph = build(saver, tmp_path)
        for id_ in ids:
            found = run(graph, {"log": ["in"]}, {"configurable": {"thread_id": id_}}, request_id="r1")
            assert found["log"] == ["in", "a", "b", "c"]
    ran = Counter((tmp_path / "ran").read_text().splitlines())
    # The node that was killed runs again, and no other.
    assert ran == {f"{id_} {name}": 1 + (name == "b") for id_ in ids for name in "abc"}


def work_until_killed(uri: str, directory: Path, kill_at: int, pipe: Connection) -> None:
    """Look once for work, and be killed before or after an effect."""
    with GCSSaver.from_conn_string(uri, interceptors=[killing(kill_at)]) as saver:
        for done in saver.recover(build(saver, directory), attempts=1000, backoff=0, durability="sync"):
            pipe.send((done.thread_id, done.outcome))


def check_killed_workers(tmp_path: Path, count: int, seed: int) -> int:
    """Kill a process in the middle of many turns, and workers at random effects. Returns how many were killed."""
    uri, ids, chance = f"file://{tmp_path}/store", [f"t{number}" for number in range(count)], random.Random(seed)
    with process(begin, uri, tmp_path, ids) as (first, _):
        first.join(PATIENCE)
    killed = 0
    with GCSSaver.from_conn_string(uri) as saver:
        while left := [one.thread_id for one in saver.runs()]:
            expire(saver, left)
            # The last ones finish, however often the others were killed.
            kill_at = chance.randint(1, 150) if killed < 3 * count else 0
            with process(work_until_killed, uri, tmp_path, kill_at) as (worker, _):
                worker.join(PATIENCE)
                assert worker.exitcode in {0, -signal.SIGKILL}
                killed += worker.exitcode != 0
        graph = build(saver, tmp_path)
        before = (tmp_path / "ran").read_text()
        for id_ in ids:
            # A worker may have been killed between the end of a turn and the release of its lease.
            more: dict[str, Any] = {"request_id": "r1", "take_over": True}
            found = run(graph, {"log": ["in"]}, {"configurable": {"thread_id": id_}}, **more)
            assert found["log"] == ["in", "a", "b", "c"]
    assert (tmp_path / "ran").read_text() == before, "all have finished"
    ran = Counter(before.splitlines())
    assert all(ran[f"{id_} a"] == 1 for id_ in ids), "the first node was durable before the first kill"
    # Each killed worker repeats at most the node that was under way.
    assert ran.total() <= 4 * count + killed
    return killed


def test_workers_that_are_killed_are_replaced(tmp_path: Path) -> None:
    assert check_killed_workers(tmp_path, 3, seed=1) >= 2


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_many_workers_that_are_killed_are_replaced(tmp_path: Path, seed: int) -> None:
    assert check_killed_workers(tmp_path, 20, seed) >= 10


def test_two_workers_finish_what_a_killed_process_has_left(tmp_path: Path) -> None:
    check(tmp_path, 6, waits=False)


@pytest.mark.soak
def test_two_workers_finish_a_hundred_threads(tmp_path: Path) -> None:
    check(tmp_path, 100, waits=True)
