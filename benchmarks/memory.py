"""How much memory a call takes above the state itself, in a fresh process each.

python -m benchmarks.memory [--parts N] [--store embedded|google] [--only TEXT] [--json]
python -m benchmarks.memory --parts 1024 --only cold

A figure is the peak of resident memory during the call, less that before the call, as a multiple of the serialized
state. For `get_tuple`, the state that it returns is subtracted too, because the caller needs it in any case. Resident
memory includes what zstd, the serializer and the network libraries allocate, which `tracemalloc` does not see. The
allocator has its defaults. The floor of both calls is 1: LangGraph's serializer makes or takes all bytes at once.
Half of the state compresses well, and half does not. Exit code 1 when a bar is missed. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

from benchmarks.chat import messages
from benchmarks.event_loop import emulators
from langgraph_gcs_saver import GCSSaver

BARS = {"put": 1.3, "put_writes": 1.7, "get_tuple": 1.6}
"""Most memory above the state, as a multiple of its serialized size."""

MIB = 1 << 20
VERSIONS = 25

LIMIT = 4 << 30
"""The largest value. The default would be a little too small for a state of 1,024 MiB."""

CACHE = 4 << 30
"""A cache with room for the state, as an incremental frame needs it."""


@dataclass
class Case:
    """What is measured.

    Attributes:
        call: The method.
        version: The version of the channel that the call stores or reads.
        channels: The number of channels that the state is divided into.
        is_cold: Whether the process has nothing in its cache.
    """

    call: str
    version: int
    channels: int
    is_cold: bool

    @property
    def bar(self) -> float:
        return BARS[self.call]

    def __str__(self) -> str:
        what = {1: "full"}.get(self.version, f"version {self.version}")
        return f"{self.call}, {what}, {'cold' if self.is_cold else 'warm'}, {self.channels} channel(s)"


CASES = (
    Case("put", 1, 1, is_cold=True),
    Case("put", VERSIONS, 1, is_cold=False),
    Case("put", 1, 4096, is_cold=True),
    Case("put_writes", 1, 1, is_cold=True),
    Case("get_tuple", 1, 1, is_cold=True),
    Case("get_tuple", VERSIONS, 1, is_cold=True),
    Case("get_tuple", 1, 4096, is_cold=True),
)


def state(mebibytes: int) -> list[Any]:
    """So many MiB, of which half compresses well, and half does not."""
    text = " ".join(message.content for message in messages(300)).encode("ascii", "ignore").decode()
    return [(text * 4)[:MIB] + str(n) if n % 2 else random.Random(n).randbytes(MIB) for n in range(mebibytes)]


def channels_of(value: list[Any], count: int) -> dict[str, Any]:
    """The state in one channel, or in equal parts."""
    if count == 1:
        return {"big": value}
    size = len(value) * MIB // count
    return {f"c{n}": value[n * size // MIB][n * size % MIB :][:size] for n in range(count)}


class Thread:
    """A thread whose state grows by a message a step."""

    def __init__(self, saver: GCSSaver, mebibytes: int, channels: int) -> None:
        self._saver = saver
        self._values = channels_of(state(mebibytes), channels)
        self._at: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
        self._number = 0

    def put_writes(self) -> None:
        """Store the state as a task's pending writes."""
        at = {**self._at["configurable"], "checkpoint_id": "1f000000-0000-6000-8000-000000000001"}
        self._saver.put_writes({"configurable": at}, list(self._values.items()), "task")

    def prepare(self) -> Callable[[], None]:
        """Make the next state; the call that is returned stores it."""
        self._number += 1
        if "big" in self._values:
            self._values["big"].append(f"step {self._number}")
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = self._values
        checkpoint["channel_versions"] = dict.fromkeys(self._values, str(self._number))
        metadata: Any = {"source": "loop", "step": self._number, "parents": {}}
        versions = checkpoint["channel_versions"]

        def put() -> None:
            self._at = self._saver.put(self._at, checkpoint, metadata, versions)

        return put


@contextmanager
def connected(uri: str, **options: Any) -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string(uri, max_value_bytes=LIMIT, **options) as saver:
        saver.setup()
        yield saver


def fill(uri: str, case: Case, mebibytes: int) -> None:
    with connected(uri, cache_max_bytes=CACHE, verify="off") as saver:
        thread = Thread(saver, mebibytes, case.channels)
        for _ in range(case.version):
            thread.prepare()()


def growth(function: Callable[[], Any]) -> int:
    """Bytes by which a call raises the peak of resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # The peak is now what is resident.
    before = resident("VmRSS:")
    found = function()
    after = resident("VmHWM:") - before
    del found
    return after


def resident(what: str) -> int:
    """A figure of this process, in bytes. Not `ru_maxrss`, which begins with what the parent process had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


def measured(uri: str, case: Case, mebibytes: int) -> float:
    """The figure of this process."""
    size = mebibytes * MIB
    if case.call == "get_tuple":
        with connected(uri) as saver:
            config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
            return (growth(lambda: saver.get_tuple(config)) - size) / size
    with connected(uri, **({} if case.is_cold else {"cache_max_bytes": CACHE})) as saver:
        thread = Thread(saver, mebibytes, case.channels)
        if case.call == "put_writes":
            return growth(thread.put_writes) / size
        for _ in range(case.version - 1):
            thread.prepare()()
        return growth(thread.prepare()) / size


def in_process(uri: str, number: int, mebibytes: int) -> float:
    """The figure of a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", uri, str(number), "--parts", str(mebibytes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


@contextmanager
def store(kind: str) -> Iterator[str]:
    with ExitStack() as stack:
        if kind == "google":
            yield stack.enter_context(emulators())
        else:
            yield f"file://{stack.enter_context(tempfile.TemporaryDirectory())}"


@dataclass
class Figure:
    """A row of the table."""

    measure: str
    value: float
    bar: float

    def __str__(self) -> str:
        return f"| {self.measure} | {self.value:.3f}x | {self.bar:g}x |{'  MISSED' if self.value > self.bar else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--parts", type=int, default=100, help="MiB of the state")
    parser.add_argument("--store", choices=("embedded", "google"), action="append", help="both if not given")
    parser.add_argument("--only", default="", help="only cases whose description contains this")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        uri, number = options.child
        print(measured(uri, CASES[int(number)], options.parts))
        return 0
    figures = []
    if not options.json:
        print(f"| memory above a state of {options.parts} MiB | measured | bar |\n|---|---|---|")
    for kind in options.store or ("embedded", "google"):
        for number, case in enumerate(CASES):
            if options.only not in str(case):
                continue
            with store(kind) as uri:
                if case.call == "get_tuple":
                    fill(uri, case, options.parts)
                figures.append(Figure(f"{kind}: {case}", in_process(uri, number, options.parts), case.bar))
            if not options.json:
                print(figures[-1], flush=True)
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=1))
    return int(any(figure.value > figure.bar for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
