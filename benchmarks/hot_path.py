"""How close the saver's own calls come to the bare RPCs that they cannot do without.

python -m benchmarks.hot_path [--runs N] [--turns N] [--json]

Uses the emulators that `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` name, else starts its own. A bare RPC is
one call of a stub on the client's own channel, with a message that was made beforehand: the same documents, in a
collection that grows with the thread's. A call and its bare RPCs take turns, and a ratio is the median of those of
single turns. The time of LangGraph's serializer is left out of both, but spent before both. It is neither the saver's
nor the service's, and an RPC after it meets other caches. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.chat import messages
from benchmarks.event_loop import emulators
from benchmarks.storage import report
from benchmarks.verify import Thread
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Effect, GetDocs, Merge, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.stores.google.firestore import FirestoreDocuments
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

REST = 0.002
"""Seconds of rest before each call: what runs straight after another finds the emulator awake."""

WARM = 10
"""Turns that do not count."""


@dataclass
class Bar:
    """A figure and what it must not exceed."""

    measure: str
    value: float
    bar: float
    unit: str = "x"
    ms: float | None = None

    def __str__(self) -> str:
        told = f"{self.value:.3g}{self.unit}" + ("" if self.ms is None else f" ({self.ms:.2f} ms bare)")
        return f"| {self.measure} | {told} | {self.bar:g}{self.unit} |{'  MISSED' if self.value > self.bar else ''}"


class Timed:
    """A serializer that measures how long it took."""

    def __init__(self, serde: Any) -> None:
        self._serde = serde
        self.seconds = 0.0

    def dumps_typed(self, value: Any) -> tuple[str, bytes]:
        begin = time.perf_counter()
        try:
            return self._serde.dumps_typed(value)
        finally:
            self.seconds += time.perf_counter() - begin

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        begin = time.perf_counter()
        try:
            return self._serde.loads_typed(data)
        finally:
            self.seconds += time.perf_counter() - begin


class Spy(Interceptor):
    """Keeps the effects that a saver's calls perform."""

    def __init__(self) -> None:
        self.effects: list[Effect[Any]] = []

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        self.effects.append(effect)
        return perform(effect)


class Bare:
    """Performs effects on documents below another root, by stubs alone."""

    def __init__(self, store: FirestoreDocuments, root: str) -> None:
        self._store = FirestoreDocuments(store._client, root=root)
        self._times: dict[str, int] = {}

    def commit(self, effect: Commit, before: Callable[[], Any] = lambda: None) -> float:
        """Commit the same documents, on the same conditions; the seconds that it took, once `before` was called."""
        writes = tuple(
            Merge(write.name, write.fields, remove=write.remove, update_time=self._times[write.name])
            if isinstance(write, Merge) and write.update_time is not None
            else write
            for write in effect.writes
        )
        call = self._store._commit(Commit(writes))
        seconds, answers = self._timed(call, before)
        self._times |= zip((write.name for write in writes), call.parse(answers) or (), strict=True)
        return seconds

    def read(self, effect: GetDocs | QueryDocs) -> float:
        """Read the same documents; the seconds that it took."""
        call = self._store._get(effect) if isinstance(effect, GetDocs) else self._store._query(effect)
        return self._timed(call, lambda: None)[0]

    def _timed(self, call: Any, before: Callable[[], Any]) -> tuple[float, list[Any]]:
        stub = self._store._stubs().of(call.method)
        metadata = (*self._store._headers, call.routing)
        time.sleep(REST)
        before()
        begin = time.perf_counter()
        answer = stub(call.request, timeout=30, metadata=metadata)
        answers = list(answer) if call.method.stream else [answer]
        return time.perf_counter() - begin, answers


class Subject:
    """A chat of so many turns, written by a saver, and the same documents written bare."""

    def __init__(self, uri: str, turns: int, runs: int, verify: str) -> None:
        self.spy = Spy()
        self.saver = GCSSaver.from_conn_string(uri, verify=verify, interceptors=[self.spy])
        self.saver.serde = self.serde = Timed(self.saver.serde)
        documents: Any = self.saver._backend.documents
        self.bare = Bare(documents, f"bare/{verify}")
        self._talk = messages(2 * turns + runs)
        self._thread = Thread(self.saver, f"{turns} turns, {verify}")
        self._sent = 0
        self._serialize: Callable[[], Any] = lambda: None
        for _ in range(turns):
            self._sent += 1
            self.step()
            for effect in self.spy.effects:
                if isinstance(effect, Commit):
                    self.bare.commit(effect)

    def step(self) -> float:
        """Store one more message; the seconds that it took, without serializing."""
        self._sent += 1
        changed = {"messages": self._talk[: self._sent], "turn": self._sent}
        self._serialize = lambda: [self.serde.dumps_typed(value) for value in changed.values()]
        return self._timed(self._thread.next(**changed))

    def small_step(self) -> float:
        """Store a checkpoint in which a number has changed; the seconds that it took, without serializing."""
        self._sent += 1
        self._serialize = lambda: [self.serde.dumps_typed(self._sent)]
        return self._timed(self._thread.next(turn=self._sent))

    def write(self) -> None:
        """Give the latest checkpoint a pending write."""
        self.spy.effects.clear()
        self.saver.put_writes(self._thread.config, [("turn", 1)], "task")
        for effect in self.spy.effects:
            if isinstance(effect, Commit):
                self.bare.commit(effect)

    def read(self) -> float:
        """Read the latest checkpoint; the seconds that it took, without deserializing."""
        config: Any = {"configurable": {"thread_id": self._thread.config["configurable"]["thread_id"]}}
        return self._timed(lambda: self.saver.get_tuple(config))

    def _timed(self, call: Callable[[], Any]) -> float:
        self.spy.effects.clear()
        self.serde.seconds = 0.0
        time.sleep(REST)
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin - self.serde.seconds

    def again(self) -> float:
        """Perform bare what the last call did; the seconds of all its RPCs, one after the other."""
        seconds = 0.0
        for effect in self.spy.effects:
            if isinstance(effect, Commit):
                seconds += self.bare.commit(effect, self._serialize)
            elif isinstance(effect, (GetDocs, QueryDocs)):
                seconds += self.bare.read(effect)
        return seconds


def ratio(call: Callable[[], float], bare: Callable[[], float], runs: int) -> tuple[float, float]:
    """The median ratio of a call to its bare RPCs, and these RPCs' median in milliseconds."""
    pairs = [(call(), bare()) for _ in range(runs + WARM)][WARM:]
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs) * 1000


def puts(uri: str, turns: int, runs: int) -> list[Bar]:
    found = []
    for verify, what, bar in (
        ("off", 'put, verify="off", to a bare commit of the same documents', 1.4),
        ("readback", "put, with read-back, to a bare commit and a bare batched get", 1.3),
    ):
        subject = Subject(uri, turns, 2 * (runs + WARM), verify)
        with subject.saver:
            for step, told in ((subject.small_step, "a number changes"), (subject.step, "a message is added")):
                value, ms = ratio(step, subject.again, runs)
                found.append(Bar(f"{what}: {told}", value, bar, ms=ms))
            if verify == "off":
                subject.write()
                subject.read()
                value, ms = ratio(subject.read, subject.again, runs)
                found.append(Bar("get_tuple warm, to bare queries for the manifest and the writes", value, 1.5, ms=ms))
    return found


def cold(uri: str, turns: int) -> Bar:
    count = CountingInterceptor()
    with GCSSaver.from_conn_string(uri, interceptors=[count]) as saver:
        config: Any = {"configurable": {"thread_id": f"{turns} turns, readback"}}
        saver.get_tuple(config)
        return Bar("cold resume, sequential rounds", len(count.rounds), 2, "")


IMPORTS = "google.cloud.firestore, google.cloud.storage, langgraph.graph, langgraph.checkpoint.base"


def imports(runs: int) -> Bar:
    """What importing the package takes beyond what it is used with, in processes of their own."""
    code = (
        f"import time, {IMPORTS}; t = time.perf_counter(); import langgraph_gcs_saver; print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code]
    with tempfile.TemporaryDirectory() as folder:
        # As it is installed, with bytecode, which the first run writes.
        there = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        there["PYTHONPYCACHEPREFIX"] = folder
        seconds = [
            float(subprocess.run(command, capture_output=True, check=True, env=there).stdout) for _ in range(runs + 1)
        ]
    return Bar("import beyond langgraph's and the Google clients'", statistics.median(seconds[1:]) * 1000, 30, " ms")


def measure(uri: str, runs: int, turns: int) -> list[Bar]:
    return [*puts(uri, turns, runs), cold(uri, turns), imports(5)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    with ExitStack() as stack:
        bars = measure(stack.enter_context(emulators()), options.runs, options.turns)
    return report(bars, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
