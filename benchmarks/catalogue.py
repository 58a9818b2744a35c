"""How many reads it takes to look at a large store: its threads, one history, its statistics.

python -m benchmarks.catalogue [--threads N] [--checkpoints N] [--uri URI] [--json]

Fills a store, the embedded one in a temporary directory if no other is named. No read may include a payload: documents
come without their frames and their pending writes, and no object is fetched.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.chat import messages
from benchmarks.verify import Thread
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import REQUESTS, Effect, GetBlob, GetDocs, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform

PAYLOADS = frozenset(("frames", "writes"))


class Reads(Interceptor):
    """Counts requests by kind, and those that include a payload."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.payloads = 0

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        if isinstance(effect, REQUESTS):
            self.counts[type(effect).__name__] += 1
        asks_all = isinstance(effect, (GetDocs, QueryDocs)) and (effect.mask is None or PAYLOADS & {*effect.mask})
        self.payloads += asks_all or isinstance(effect, GetBlob)
        return perform(effect)


@dataclass
class Row:
    """One look.

    Attributes:
        look: What was called.
        seconds: How long it took.
        payloads: Reads that include a payload.
        requests: Requests by kind.
    """

    look: str
    seconds: float
    payloads: int
    requests: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        requests = ", ".join(f"{number} {kind}" for kind, number in self.requests.items())
        return f"| {self.look} | {requests} | {self.payloads} | {self.seconds:.1f} |"


def fill(saver: GCSSaver, threads: int, checkpoints: int) -> None:
    talk = messages(checkpoints + 5)
    for number in range(threads):
        thread = Thread(saver, f"thread {number}")
        for step in range(checkpoints):
            thread.put(messages=talk[step : step + 5], turn=step)
            saver.put_writes(thread.config, [("turn", step)], "task")


def measure(uri: str, threads: int, checkpoints: int) -> list[Row]:
    rows = []
    with GCSSaver.from_conn_string(uri, verify="off") as saver:
        fill(saver, threads, checkpoints)
    reads = Reads()
    with GCSSaver.from_conn_string(uri, interceptors=[reads]) as saver:
        looks: dict[str, Callable[[], object]] = {
            "threads": saver.admin.threads,
            "history": lambda: saver.admin.history("thread 0"),
            "stats": saver.admin.stats,
        }
        for name, look in looks.items():
            reads.counts.clear()
            reads.payloads = 0
            begin = time.perf_counter()
            look()
            rows.append(Row(name, time.perf_counter() - begin, reads.payloads, dict(reads.counts)))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=1000)
    parser.add_argument("--checkpoints", type=int, default=50, help="checkpoints of each thread")
    parser.add_argument("--uri", help="an empty store; what is put there stays")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rows = measure(options.uri or f"file://{directory}/store", options.threads, options.checkpoints)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print("| look | requests | with a payload | s |\n|---|---|---|---|")
        print("\n".join(map(str, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
