"""A process that crashes at any effect of a run: the same request, given again, ends as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from langgraph_gcs_saver import arun, astream, run, stream
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.flows import runs
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver import langgraph_private
from langgraph_gcs_saver.saver.parts import with_interrupts
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.faults.turns import CONFIG, HOW, SCENARIOS, THREAD, Ran, plain, stores


def steps(saver: CrashingSaver) -> dict[str, int]:
    """The step of the newest checkpoint of each namespace."""
    found: dict[str, int] = {}
    for one in saver.list(CONFIG):
        found.setdefault(one.config["configurable"]["checkpoint_ns"], one.metadata["step"])
    return found


def streamed(parts: Iterable[tuple[str, Any]]) -> Any:
    """What the parts of a stream say about the result."""
    found, asked = None, []
    for mode, part in parts:
        if mode == "values":
            found = part
        elif isinstance(part, dict):
            asked += part.get("__interrupt__", ())
    return with_interrupts(found, asked)


async def acollect(parts: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in parts]


BOTH: Any = {"stream_mode": ["updates", "values"]}
CALLS: dict[str, Callable[..., Any]] = {
    "run": run,
    "arun": lambda *args, **more: asyncio.run(arun(*args, **more)),
    "stream": lambda *args, **more: streamed(stream(*args, **more, **BOTH)),
    "astream": lambda *args, **more: streamed(asyncio.run(acollect(astream(*args, **more, **BOTH)))),
}


class Story:
    """Requests to one graph, one after another, and processes that crash."""

    def __init__(self, name: str, how: str, call: str) -> None:
        self.table: Any = {}
        self.objects: Any = {}
        self.build, self.given = SCENARIOS[name]
        self.how = how
        self._call = CALLS[call]
        self.ran: Ran = []
        self.results: list[Any] = []

    @contextmanager
    def process(self) -> Iterator[CrashingSaver]:
        """The saver of another process, which finds what the one before has left."""
        documents, blobs = MemoryDocuments(self.table), MemoryBlobs(self.objects)
        with CrashingSaver(stores=(documents, blobs)) as saver:
            yield saver
            self.table, self.objects = documents.table, blobs.objects

    def call(self, saver: CrashingSaver, at: int) -> Any:
        """Make a request."""
        given = self.given[at]
        if callable(given):
            given = given(self.results[at - 1])
        # With its own name, the process that replaces a crashed one does not wait for the lease to expire.
        more: dict[str, Any] = {"request_id": f"r{at}", "owner": "worker", **stores(self.how)}
        return self._call(self.build(saver, self.ran), given, CONFIG, **more)

    def play(self, *stops: int) -> list[int]:
        """Make all requests. Processes crash after so many effects, and then the last one does not.

        Each process begins with the request that was under way in the one before. Returns the numbers of their effects.
        """
        counts = []
        for stop_after in (*stops, None):
            with self.process() as saver:
                durable, before = steps(saver), len(self.ran)
                plan = saver.plan = Plan(stop_after)
                with suppress(Crashed):
                    for at in range(len(self.results), len(self.given)):
                        self.results.append(self.call(saver, at))
                plan.is_dead = True
                saver.plan = Plan()
                counts.append(len(plan.done))
                # A step whose checkpoint is durable never runs again.
                assert not [one for one in self.ran[before:] if one[2] <= durable.get(one[1], -2)], durable
        return counts

    def check(self, expected: list[Any]) -> None:
        """Everything is as after an undisturbed story, and each request, made again, returns what it has come to."""
        assert [plain(result) for result in self.results] == expected
        with self.process() as saver:
            before = len(self.ran)
            end = expected[-1]
            for at in reversed(range(len(self.given))):
                end = end if is_waiting(expected[at]) else expected[at]
                assert plain(self.call(saver, at)) == end, f"request {at}"
            assert len(self.ran) == before, "a finished request runs nothing"
            names = (keys.resume_doc(THREAD), keys.active_doc(THREAD), keys.beat_doc(THREAD))
            left = runner.run(iter(GetDocs(names)), saver._backend)
            assert [*left] == ([*names[:2]] if is_waiting(expected[-1]) else [])
            inputs_of = [
                found.metadata[runs.REQUEST]
                for found in saver.list(CONFIG, filter={"source": "input"})
                if not found.config["configurable"]["checkpoint_ns"]
            ]
            assert len(inputs_of) == len(set(inputs_of)), "each input was applied once"


def is_waiting(result: Any) -> bool:
    return isinstance(result, dict) and "__interrupt__" in result


def crash(name: str, how: str, every: int, *, call: str = "run", again: int | None = None) -> None:
    """Crash after every n-th effect, and the process that follows after some of its own."""
    whole = Story(name, how, call)
    (effects,) = whole.play()
    expected = [plain(result) for result in whole.results]
    whole.check(expected)
    for stop_after in range(0, effects + 1, every):
        story = Story(name, how, call)
        _, more = story.play(stop_after)
        story.check(expected)
        for and_after in range(0, more + 1, again) if again else ():
            story = Story(name, how, call)
            story.play(stop_after, and_after)
            story.check(expected)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SCENARIOS)
def test_crashes_after_some_effects(name: str, how: str) -> None:
    crash(name, how, 11)


@pytest.mark.parametrize("name", ["a chain", "questions"])
def test_crashes_with_a_langgraph_without_the_private_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(langgraph_private, "NOT_RESUMING", {})
    crash(name, "sync", 23)


@pytest.mark.parametrize(("name", "how", "call"), [("questions", "async", "arun"), ("a chain", "segments", "stream")])
def test_crashes_of_coroutines_and_streams_after_some_effects(name: str, how: str, call: str) -> None:
    crash(name, how, 11, call=call)


@pytest.mark.parametrize("name", ["tasks that ask", "an update", "a detour"])
def test_processes_crash_that_continue_after_a_crash(name: str) -> None:
    crash(name, "sync", 37, again=19)


@pytest.mark.soak
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SCENARIOS)
def test_crashes_after_every_effect(name: str, how: str, call: str) -> None:
    crash(name, how, 1, call=call)


@pytest.mark.soak
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_crashes_in_a_row(name: str, how: str) -> None:
    crash(name, how, 3, again=5)
