"""How many rounds and requests it takes to copy, prune, collect and delete a long thread.

python -m benchmarks.upkeep [--checkpoints N ...] [--json]

Uses the emulators that `FIRESTORE_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST` name, else starts its own. Each checkpoint
has a document and a document of pending writes. Every tenth has an object for its file, and the chat's large frames are
objects too. `collect` and `delete_thread` follow `KeepLast(half)`, on the same thread. Rounds must grow with the
documents divided by the size of a batch, not with the documents.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from benchmarks.chat import messages
from benchmarks.event_loop import emulators
from benchmarks.verify import Thread, take
from langgraph_gcs_saver import GCSSaver, KeepLast
from langgraph_gcs_saver.results import DeletePlan
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

SIZES = (200, 2000)


@dataclass
class Row:
    """One operation on one thread.

    Attributes:
        operation: What was called.
        checkpoints: Checkpoints of the thread, before.
        documents: Documents of the thread, before.
        objects: Its objects, before.
        rounds: Requests one after another.
        requests: Requests in all.
        seconds: How long it took.
    """

    operation: str
    checkpoints: int
    documents: int
    objects: int
    rounds: int
    requests: int
    seconds: float

    def __str__(self) -> str:
        cells = (self.operation, self.checkpoints, self.documents, self.objects, self.rounds, self.requests)
        return f"| {' | '.join(map(str, cells))} | {self.rounds / self.documents * 200:.1f} | {self.seconds:.1f} |"


def fill(saver: GCSSaver, name: str, checkpoints: int) -> None:
    """A chat that keeps its last twenty messages, with a document that changes every tenth step."""
    thread = Thread(saver, name)
    talk = messages(checkpoints + 20)
    for number in range(checkpoints):
        changed: dict[str, Any] = {"messages": talk[number : number + 20], "turn": number}
        if number % 10 == 0:
            changed["document"] = random.Random(number).randbytes(10_000)
        thread.put(**changed)
        saver.put_writes(thread.config, [("turn", number)], "task")


def measure(uri: str, checkpoints: int) -> list[Row]:
    """All operations on a thread of so many checkpoints."""
    rows = []
    count = CountingInterceptor()
    with GCSSaver.from_conn_string(uri, verify="off", interceptors=[count]) as saver:
        name, copy = f"thread of {checkpoints}", f"copy of {checkpoints}"
        fill(saver, name, checkpoints)

        def took(operation: str, thread: str, call: Callable[[], object]) -> None:
            plans: list[DeletePlan] = []
            plans.append(saver.admin.plan_delete_thread(thread))
            count.clear()
            begin = time.perf_counter()
            call()
            seconds = time.perf_counter() - begin
            documents = plans[0].checkpoints + plans[0].writes
            rows.append(Row(operation, plans[0].checkpoints, documents, plans[0].objects, *take(count), seconds))

        none = timedelta(0)
        took("copy_thread", name, lambda: saver.copy_thread(name, copy))
        took("prune, KeepLast(half)", copy, lambda: saver.prune([copy], strategy=KeepLast(checkpoints // 2)))
        took("prune, keep_latest", name, lambda: saver.prune([name]))
        took("collect, nothing to do", copy, lambda: saver.admin.collect(copy, orphan_age=none))
        took("delete_thread", copy, lambda: saver.delete_thread(copy))
        saver.delete_thread(name)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--checkpoints", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    with emulators() as uri:
        rows = [row for size in options.checkpoints for row in measure(uri, size)]
    rows.sort(key=lambda row: row.operation)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print("| operation | checkpoints | documents | objects | rounds | requests | rounds per 200 documents | s |")
        print("|---|---|---|---|---|---|---|---|")
        print("\n".join(map(str, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
