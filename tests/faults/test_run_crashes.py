"""A process that crashes at any effect of a run: the same request, given again, ends as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from langgraph_gcs_saver import arun, run
from langgraph_gcs_saver.flows import runs
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import langgraph_private
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.faults.turns import CONFIG, HOW, SCENARIOS, THREAD, Ran, plain, stores


def steps(saver: CrashingSaver) -> dict[str, int]:
    """The step of the newest checkpoint of each namespace."""
    found: dict[str, int] = {}
    for one in saver.list(CONFIG):
        found.setdefault(one.config["configurable"]["checkpoint_ns"], one.metadata["step"])
    return found


class Story:
    """Requests to one graph, one after another, and a process that crashes once."""

    def __init__(self, name: str, how: str, *, is_async: bool = False) -> None:
        self.table: Any = {}
        self.objects: Any = {}
        self.build, self.given = SCENARIOS[name]
        self.how = how
        self.is_async = is_async
        self.ran: Ran = []
        self.results: list[Any] = []

    @contextmanager
    def process(self) -> Iterator[CrashingSaver]:
        """The saver of another process, which finds what the one before has left."""
        documents, blobs = MemoryDocuments(self.table), MemoryBlobs(self.objects)
        with CrashingSaver(stores=(documents, blobs)) as saver:
            yield saver
            self.table, self.objects = documents.table, blobs.objects

    def call(self, saver: CrashingSaver, at: int) -> None:
        given = self.given[at]
        if callable(given):
            given = given(self.results[at - 1])
        # With its own name, the process that replaces a crashed one does not wait for the lease to expire.
        more: dict[str, Any] = {"request_id": f"r{at}", "owner": "worker", **stores(self.how)}
        graph = self.build(saver, self.ran)
        call = (lambda *args, **named: asyncio.run(arun(*args, **named))) if self.is_async else run
        self.results[at:] = [call(graph, given, CONFIG, **more)]

    def play(self, stop_after: int | None) -> Plan:
        """Make all requests. After the crash, another process repeats the one that was under way."""
        at = 0
        with self.process() as saver:
            plan = saver.plan = Plan(stop_after)
            with suppress(Crashed):
                while at < len(self.given):
                    self.call(saver, at)
                    at += 1
            plan.is_dead = True
            saver.plan = Plan()
        if at < len(self.given):
            with self.process() as saver:
                durable, before = steps(saver), len(self.ran)
                self.call(saver, at)
                # A step whose checkpoint is durable never runs again.
                again = [one for one in self.ran[before:] if one[2] <= durable.get(one[1], -2)]
                assert not again, durable
                for later in range(at + 1, len(self.given)):
                    self.call(saver, later)
        return plan

    def check(self, expected: list[Any]) -> None:
        """Everything is as after an undisturbed story, and each request, made again, returns the same."""
        assert [plain(result) for result in self.results] == expected
        with self.process() as saver:
            before = len(self.ran)
            self.call(saver, len(self.given) - 1)
            assert plain(self.results[-1]) == expected[-1]
            assert len(self.ran) == before, "a finished request runs nothing"
            left = saver.raw().documents
            is_waiting = isinstance(self.results[-1], dict) and "__interrupt__" in self.results[-1]
            assert (keys.resume_doc(THREAD) in left) == is_waiting
            assert keys.beat_doc(THREAD) not in left
            inputs_of = [
                found.metadata[runs.REQUEST]
                for found in saver.list(CONFIG, filter={"source": "input"})
                if not found.config["configurable"]["checkpoint_ns"]
            ]
            assert len(inputs_of) == len(set(inputs_of)), "each input was applied once"


def crash(name: str, how: str, every: int, *, is_async: bool) -> None:
    """Crash after every n-th effect."""
    whole = Story(name, how, is_async=is_async)
    effects = len(whole.play(None).done)
    expected = [plain(result) for result in whole.results]
    whole.check(expected)
    for stop_after in range(0, effects + 1, every):
        story = Story(name, how, is_async=is_async)
        story.play(stop_after)
        story.check(expected)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SCENARIOS)
def test_crashes_after_some_effects(name: str, how: str) -> None:
    crash(name, how, 11, is_async=False)


@pytest.mark.parametrize("name", ["a chain", "questions"])
def test_crashes_with_a_langgraph_without_the_private_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langgraph_private, "NOT_RESUMING", {})
    crash(name, "sync", 23, is_async=False)


def test_crashes_of_coroutines_after_some_effects() -> None:
    crash("questions", "async", 11, is_async=True)


@pytest.mark.soak
@pytest.mark.parametrize("is_async", [False, True], ids=["run", "arun"])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SCENARIOS)
def test_crashes_after_every_effect(name: str, how: str, is_async: bool) -> None:
    crash(name, how, 1, is_async=is_async)
