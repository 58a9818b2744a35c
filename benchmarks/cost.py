"""What a chat costs by Google's list prices: the operations that a step makes, counted, and the bytes that it stores.

python -m benchmarks.cost [--turns N] [--frames] [--json]

Plays a chat of 150-word messages on the embedded store, whose documents and objects are those of Google's, and counts
what the services would bill: documents read, written and deleted, and operations on objects. A turn is one `invoke` of
a graph with one node. `cold` turns each have a saver of their own, without caches, as on a service that scales to zero.

With `--frames` it compares frames of several sizes in a document and in an object: the rounds of a `put`, what it and a
later cold `get_tuple` cost, what a month costs, and after how many weeks an object is cheaper. This is the model behind
the default of `inline_max_bytes`. Seconds are the rounds times the latencies that `benchmarks.compare.delay` assumes.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from benchmarks.chat import Text
from benchmarks.compare.delay import DELAYS
from benchmarks.compare.prices import GIB, MILLION, OPERATIONS
from benchmarks.verify import Thread
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Effect
from langgraph_gcs_saver.engine.interceptors import Interceptor, Perform
from langgraph_gcs_saver.policy.prices import DOCUMENT_PRICE, OBJECT_PRICE
from langgraph_gcs_saver.telemetry.billing import RULES
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor

PRICES = {price.unit: price.dollars / price.per for price in OPERATIONS if price.dollars}
"""US dollars for one, beyond what is free each day, by the table of prices."""

CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "as it comes": ({}, False),
    'verify="off"': ({"verify": "off"}, False),
    "cold": ({}, True),
    "inline_max_bytes=0": ({"inline_max_bytes": 0}, False),
}
"""Names of what is compared: options, and whether each turn is cold."""


@dataclass(frozen=True)
class Estimate:
    """What a case costs.

    Attributes:
        case: Its name.
        steps: Checkpoints that were stored.
        operations: What is billed, by its name in `PRICES`.
        document_bytes: Stored bytes in documents, without indexes.
        object_bytes: Stored bytes in objects.
    """

    case: str
    steps: int
    operations: Counter[str]
    document_bytes: int
    object_bytes: int

    def each(self, unit: str) -> float:
        """How many of an operation a step makes."""
        return self.operations[unit] / self.steps

    @property
    def dollars(self) -> float:
        """The operations of a million steps."""
        return MILLION * sum(self.each(unit) * price for unit, price in PRICES.items())

    @property
    def monthly(self) -> float:
        """Keeping what a million steps stored for a month."""
        kept = self.document_bytes * DOCUMENT_PRICE + self.object_bytes * OBJECT_PRICE
        return MILLION * kept / self.steps / GIB

    def __str__(self) -> str:
        counts = " | ".join(f"{self.each(unit):.2f}" for unit in PRICES)
        return f"| {self.case} | {counts} | {self.dollars:.2f} | {self.monthly:.2f} |"


class Billed(Interceptor):
    """Counts what the services would bill."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    def around(self, effect: Effect[Any], perform: Perform) -> Any:
        answer = perform(effect)
        if (rule := RULES.get(type(effect))) is not None:
            self._counts.update(dict(rule(effect, answer)))
        return answer


def estimate(case: str, turns: int) -> Estimate:
    """Play the chat."""
    options, cold = CASES[case]
    counts: Counter[str] = Counter()
    text = Text(1)

    def reply(_: MessagesState) -> dict[str, Any]:
        return {"messages": [text.message(AIMessage)]}

    builder = StateGraph(MessagesState).add_node("reply", reply).add_edge(START, "reply").add_edge("reply", END)
    config: Any = {"configurable": {"thread_id": "chat"}}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:

        @contextmanager
        def opened() -> Iterator[GCSSaver]:
            uri = f"file://{Path(directory)}/store"
            with GCSSaver.from_conn_string(uri, interceptors=[Billed(counts)], **options) as saver:
                yield saver

        kept = None if cold else stack.enter_context(opened())
        for _ in range(turns):
            with ExitStack() as turn:
                saver = kept or turn.enter_context(opened())
                builder.compile(checkpointer=saver).invoke({"messages": [text.message(HumanMessage)]}, config)
        billed = Counter(counts)  # what follows is not the chat's
        with opened() as saver:
            stats = saver.admin.stats()
        return Estimate(case, stats.checkpoints, billed, stats.document_bytes, stats.object_bytes)


def table(turns: int) -> tuple[list[Estimate], str]:
    """All cases, and their table as Markdown."""
    found = [estimate(case, turns) for case in CASES]
    head = f"| a step of a {turns}-turn chat | {' | '.join(PRICES)} | $ per million steps | $ per month to keep them |"
    return found, "\n".join([head, "|---" * (len(PRICES) + 3) + "|", *map(str, found)])


FRAMES = (8 << 10, 25_000, 64 << 10, 100_000, 128 << 10, 256 << 10)
"""Bytes of the frames that are compared."""

WEEKS_OF_A_MONTH = 365.25 / 12 / 7


@dataclass(frozen=True)
class Place:
    """A frame in a document or in an object.

    Attributes:
        rounds: The rounds of a `put` with it.
        seconds: What they take, with the assumed latency of each service.
        operations: What the services bill for the `put` and a cold `get_tuple`, in dollars.
        monthly: Keeping its bytes for a month, in dollars.
    """

    rounds: int
    seconds: float
    operations: float
    monthly: float


@dataclass(frozen=True)
class Frame:
    """A frame of one size, in both places."""

    size: int
    document: Place
    object: Place

    @property
    def weeks(self) -> float:
        """After how many weeks the object is cheaper."""
        saved = self.object.operations - self.document.operations
        return saved / (self.document.monthly - self.object.monthly) * WEEKS_OF_A_MONTH

    def __str__(self) -> str:
        both = self.document, self.object
        cells = [
            f"{self.size:,}",
            *[str(one.rounds) for one in both],
            *[f"{1000 * one.seconds:.0f} ms" for one in both],
        ]
        cells += [f"{MILLION * one.operations:.2f}" for one in both] + [f"{MILLION * one.monthly:.2f}" for one in both]
        return f"| {' | '.join(cells)} | {self.weeks:.1f} |"


def place(size: int, limit: int) -> Place:
    """Store a value that does not compress, after a checkpoint without it, and read it in a saver without caches."""
    counts: Counter[str] = Counter()
    rounds = CountingInterceptor()
    with tempfile.TemporaryDirectory() as directory:
        uri = f"file://{directory}/store"
        with GCSSaver.from_conn_string(uri, interceptors=[Billed(counts), rounds], inline_max_bytes=limit) as saver:
            thread = Thread(saver, "a thread")
            thread.put(step=0)
            before = saver.admin.stats()
            put = thread.next(value=random.Random(size).randbytes(size))
            counts.clear()
            rounds.clear()
            put()
            took = list(rounds.rounds)
        with GCSSaver.from_conn_string(uri, interceptors=[Billed(counts)]) as reader:
            reader.get_tuple(thread.config)
            billed = Counter(counts)
            stats = reader.admin.stats()
    kept = (stats.document_bytes - before.document_bytes) * DOCUMENT_PRICE
    kept += (stats.object_bytes - before.object_bytes) * OBJECT_PRICE
    return Place(
        rounds=len(took),
        seconds=sum(max(DELAYS["storage" if "Blob" in kind else "firestore"] for kind in kinds) for kinds in took),
        operations=sum(billed[unit] * price for unit, price in PRICES.items()),
        monthly=kept / GIB,
    )


def frames() -> tuple[list[Frame], str]:
    """Frames of all sizes, and their table as Markdown."""
    found = [Frame(size, place(size, max(FRAMES) + 100), place(size, 1024)) for size in FRAMES]
    heads = ["rounds of `put`", "assumed latency", "$ per million, written and read", "$ per month to keep them"]
    columns = [f"{head}: {where}" for head in heads for where in ("document", "object")]
    head = f"| bytes | {' | '.join(columns)} | weeks until an object is cheaper |"
    return found, "\n".join([head, "|---" * (len(columns) + 2) + "|", *map(str, found)])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--frames", action="store_true")
    given = parser.parse_args()
    if given.frames:
        sizes, text = frames()
        print(json.dumps([asdict(one) for one in sizes], indent=2) if given.json else text)
        return
    found, text = table(given.turns)
    if given.json:
        keys = ("case", "steps", "operations", "document_bytes", "object_bytes", "dollars", "monthly")
        print(json.dumps([{key: getattr(one, key) for key in keys} for one in found], indent=2))
    else:
        print(text)


if __name__ == "__main__":
    main()
