"""Processes that are asked to end, or run out of memory: whether they stop in time, and what the next ones repeat.

python -m benchmarks.drains [--seeds N] [--hazard H] [--store S] [--json]

Each seed is one turn of a graph, in real processes that make the same call of `run`, or of `arun` for odd seeds.

- SIGTERM: processes get the signal at random moments, once or twice in a turn. They must end with exit code 75.
- memory: each process has a limit of 256 MiB (`RLIMIT_DATA`), and leaks 5 to 15 % of it in each round. Its policy is
  `Memory(0.8)`. The first allocation above the limit kills it by SIGKILL, as the system would kill it in a container.
- leak: the same without a policy, for comparison: it is killed.

Then another process continues, until the turn has finished. A ledger counts what the nodes did. Exit code 1 if a
process was killed that has a policy, if a node ran twice, or if a result differs. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver, arun, cadence, run
from langgraph_gcs_saver.testing.kills import process

LIMIT = 256 << 20
"""Bytes that a process may use."""

ROUNDS = 6
"""Rounds of a turn. Each has two or three supersteps."""

DRAINED = 75
"""Exit code of a process that was asked to end."""

STORES = ("sync", "async", "exit", "segments")
"""When steps are stored: the three durabilities, and segments of three steps."""

HAZARDS = ("SIGTERM", "memory", "leak")

PROCESSES = 20
"""Most processes of a turn."""


class State(TypedDict):
    """What the nodes did."""

    log: Annotated[list[str], operator.add]


@dataclass(frozen=True)
class Order:
    """What a process does.

    Attributes:
        uri: The store.
        thread_id: The thread, which also names the ledger.
        folder: Where the ledger is.
        hazard: One of `HAZARDS`; empty for none.
        store: One of `STORES`.
        seed: Decides how long nodes take, how much leaks, and when signals come.
    """

    uri: str
    thread_id: str
    folder: Path
    hazard: str
    store: str
    seed: int

    @property
    def ledger(self) -> Path:
        """A file with a line for each run of a node."""
        return self.folder / f"{self.thread_id}.ledger"


@dataclass
class Row:
    """What happened to the turns of one hazard and one store.

    Attributes:
        hazard: One of `HAZARDS`.
        store: One of `STORES`.
        turns: Number of turns.
        drained: Turns in which each process but the last one ended with exit code 75, and there was one.
        killed: Turns in which a process was killed, or ended with an error.
        resumed: Turns that have finished with the right result.
        repeated: Nodes that ran more than once.
        processes: Number of processes.
    """

    hazard: str
    store: str
    turns: int = 0
    drained: int = 0
    killed: int = 0
    resumed: int = 0
    repeated: int = 0
    processes: int = 0

    @property
    def is_good(self) -> bool:
        """Whether the policy has kept its promise."""
        if self.hazard == "leak":
            return self.killed == self.turns
        return (self.drained, self.resumed, self.killed, self.repeated) == (self.turns, self.turns, 0, 0)

    def __str__(self) -> str:
        cells = (self.hazard, self.store, self.turns, self.drained, self.killed, self.resumed, self.repeated)
        return f"| {' | '.join(map(str, cells))} | {self.processes} |{'' if self.is_good else '  MISSED'}"


# A process


def build(saver: GCSSaver, order: Order, pipe: Connection) -> Any:
    """A node, then two at the same time, and a subgraph where each step is stored; all that in rounds.

    Where steps are not stored one by one, the nodes of a subgraph that was drained run again, as the reference says.
    """
    chance = random.Random(f"{order.seed} {os.getpid()}")
    leaked: list[bytes] = []

    def node(name: str) -> Any:
        def act(state: State) -> dict[str, Any]:
            line = f"{name}{sum(one.startswith(name) for one in state['log'])}"
            ledger = os.open(order.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(ledger, f"{line}\n".encode())
            os.close(ledger)
            pipe.send(line)
            if name == "a" and order.hazard in ("memory", "leak"):
                try:
                    leaked.append(b"." * int(chance.uniform(0.05, 0.15) * LIMIT))
                except MemoryError:  # This stands in for the system, which kills a process of a container.
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.003))
            return {"log": [line]}

        return act

    builder = StateGraph(State)
    for name in "abc":
        builder.add_node(name, node(name))
    builder.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c")
    builder.add_node("end", lambda _: {})
    if order.store in ("sync", "async"):
        inner = StateGraph(State)
        inner.add_node("d", node("d")).add_node("e", node("e"))
        inner.add_edge(START, "d").add_edge("d", "e").add_edge("e", END)
        within = inner.compile()

        def call(state: State) -> dict[str, Any]:
            return {"log": within.invoke(state)["log"][len(state["log"]) :]}

        builder.add_node("inner", call)
        builder.add_edge(["b", "c"], "inner").add_edge("inner", "end")
    else:
        builder.add_edge(["b", "c"], "end")
    builder.add_conditional_edges("end", lambda state: "a" if len(_of(state["log"], "a")) < ROUNDS else END)
    return builder.compile(checkpointer=saver)


def _of(log: list[str], name: str) -> list[str]:
    return [one for one in log if one.startswith(name)]


def work(order: Order, pipe: Connection) -> None:
    """Run the turn, as every process does, and send the result."""
    # A signal that comes after the run must not end the process before it has sent the result.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    policy: cadence.Policy = cadence.Signal(signal.SIGTERM)
    if order.hazard in ("memory", "leak"):
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    if order.hazard == "memory":
        policy |= cadence.Memory(0.8)
    how: dict[str, Any] = {"durability": order.store}
    if order.store == "segments":
        how, policy = {"store": "segments"}, policy | cadence.Steps(3)
    how |= {"request_id": "request", "owner": "worker", "policy": policy}
    config: Any = {"configurable": {"thread_id": order.thread_id}, "recursion_limit": 10 * ROUNDS}
    with GCSSaver.from_conn_string(order.uri) as saver:
        graph = build(saver, order, pipe)
        try:
            if order.seed % 2:
                result = asyncio.run(arun(graph, {"log": []}, config, **how))
            else:
                result = run(graph, {"log": []}, config, **how)
        except GraphDrained:
            sys.exit(DRAINED)
        except RuntimeError:
            if order.hazard == "leak":  # A thread could not start, which is above the limit, too.
                os.kill(os.getpid(), signal.SIGKILL)
            raise
    pipe.send(sorted(result["log"]))


# Turns


def play(order: Order, row: Row) -> None:
    """Play a turn, and note in the row what happened."""
    chance = random.Random(order.seed)
    signals = chance.randint(1, 2) if order.hazard == "SIGTERM" else 0
    nodes = "abcde" if order.store in ("sync", "async") else "abc"
    expected = sorted(f"{name}{number}" for name in nodes for number in range(ROUNDS))
    codes: list[int] = []
    result: Any = None
    while result is None and len(codes) < PROCESSES:
        # No signal in the last round, after which no boundary might follow.
        at = chance.randint(1, len(nodes) * (ROUNDS // 2 - 1)) if len(codes) < signals else 0
        with process(work, order) as (worker, pipe):
            seen = 0
            try:
                while not isinstance(found := pipe.recv(), list):
                    seen += 1
                    if seen == at:
                        time.sleep(chance.uniform(0, 0.005))
                        os.kill(worker.pid, signal.SIGTERM)
                result = found
            except EOFError:
                pass
            worker.join()
            codes.append(worker.exitcode)
        if codes[-1] not in (0, DRAINED):
            break
    ledger = Counter(order.ledger.read_text(encoding="utf-8").split())
    row.turns += 1
    row.processes += len(codes)
    row.drained += len(codes) > 1 and set(codes[:-1]) == {DRAINED}
    row.killed += any(code not in (0, DRAINED) for code in codes)
    row.resumed += result == expected
    row.repeated += sum(count > 1 for count in ledger.values())


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--hazard", choices=HAZARDS, action="append", help="only this one")
    parser.add_argument("--store", choices=STORES, action="append", help="only this one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="drains-") as folder:
        uri = (Path(folder) / "store").as_uri()
        if not options.json:
            print("| hazard | store | turns | drained | killed | resumed | nodes repeated | processes |")
            print("|---|---|---|---|---|---|---|---|", flush=True)
        for hazard in options.hazard or HAZARDS:
            for store in options.store or STORES:
                row = Row(hazard, store)
                for seed in range(options.first, options.first + options.seeds):
                    play(Order(uri, f"{hazard}-{store}-{seed}", Path(folder), hazard, store, seed), row)
                rows.append(row)
                if not options.json:
                    print(row, flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    return int(not all(row.is_good for row in rows))


if __name__ == "__main__":
    sys.exit(main())
