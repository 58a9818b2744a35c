"""What a long chat costs to store and to read, and what incremental frames cost to write.

python -m benchmarks.storage            # everything; some minutes
python -m benchmarks.storage --quick    # without the chat of 1,000 turns

Bytes are those of the documents and objects themselves, read from an embedded store, which holds the same ones as
Firestore and Cloud Storage would. Times are CPU seconds, each compared with another one of the same run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import zstandard
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from benchmarks.chat import messages, talk
from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Delete, Doc, Docs, GetDocs, QueryDocs
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.events import CheckpointSaved
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import Manifest
from langgraph_gcs_saver.format.sizes import document_bytes

SERDE = JsonPlusSerializer()


def zstd(data: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=3).compress(data))


@dataclass
class Bar:
    """A row of the table: what was measured, and what it may be at most."""

    name: str
    value: float
    bar: float
    unit: str = "x"

    def __str__(self) -> str:
        verdict = "" if self.value <= self.bar else "  MISSED"
        return f"| {self.name} | {self.value:,.4g}{self.unit} | {self.bar:,g}{self.unit} |{verdict}"


@dataclass
class Stored:
    """Bytes of frames written so far."""

    frames: int = 0

    def __call__(self, event: Any) -> None:
        if isinstance(event, CheckpointSaved):
            self.frames += event.inline_bytes + event.object_bytes


@contextmanager
def embedded(**options: Any) -> Iterator[tuple[GCSSaver, Stored]]:
    stored = Stored()
    with (
        tempfile.TemporaryDirectory() as directory,
        GCSSaver.from_conn_string(f"file://{directory}", on_event=stored, **options) as saver,
    ):
        yield saver, stored


# A chat


def chat(turns: int) -> tuple[float, list[Bar]]:
    """Frames of a chat as a multiple of its final state; and everything else that the table needs."""
    with embedded() as (saver, stored):
        graph = talk(saver, turns)
        final = graph.get_state({"configurable": {"thread_id": "chat"}}).values["messages"]
        size = zstd(SERDE.dumps_typed(final)[1])
        documents = saver._backend.documents
        checkpoints = documents.query_docs(QueryDocs(keys.checkpoints("chat")))
        pending = documents.query_docs(QueryDocs(keys.writes("chat")))
        manifests = [run(read_manifest(doc, Codec(3)), saver._backend) for doc in checkpoints]
        objects = stored.frames - sum(len(doc.fields.get("frames", b"")) for doc in checkpoints)
        fixed = [document_bytes(doc) - len(doc.fields.get("frames", b"")) for doc in checkpoints]
        everything = objects + sum(map(document_bytes, checkpoints + pending))
        everything += sum(len(name) for name in {n for m in manifests for n in m.blobs()})
        bars = [
            Bar("everything stored: frames, manifests, pending writes, names", everything / size, 13),
            Bar("fixed cost of a checkpoint, mean", statistics.mean(fixed), 1000, " B"),
            Bar("frames fetched for a cold read, most", max(map(most_frames, manifests)), 12, ""),
            Bar("bytes fetched for a cold read, most", max(read_costs(saver, manifests)), 1.3),
        ]
        return stored.frames / size, bars


def most_frames(manifest: Manifest) -> int:
    return max((len(ref.chain) for ref in manifest.channels.values()), default=0)


def read_costs(saver: GCSSaver, manifests: list[Manifest]) -> Iterator[float]:
    """Bytes of frames that a cold read decodes, as a multiple of the state in one frame a channel."""
    for manifest in manifests[::7]:
        config = {"configurable": {"thread_id": manifest.thread_id, "checkpoint_id": manifest.checkpoint_id}}
        found = saver.get_tuple(config)
        assert found is not None
        state = sum(len(Codec(3).encode(SERDE.dumps_typed(v)[1])) for v in found.checkpoint["channel_values"].values())
        read = sum(frame.stored for ref in manifest.channels.values() for frame in ref.chain)
        if state:
            yield read / state


# Time and bytes of single values


@dataclass
class Nowhere:
    """A store that keeps nothing: what is left is the saver's own time."""

    clock: int = 1
    objects: int = field(default=0)

    def get_docs(self, _: GetDocs) -> Docs:
        return Docs((), self.clock)

    def query_docs(self, _: QueryDocs) -> list[Doc]:
        return []

    def commit(self, effect: Commit) -> tuple[int, ...]:
        self.clock += 1
        return tuple(0 if isinstance(write, Delete) else self.clock for write in effect.writes)

    def put_blob(self, _: Any) -> None:
        self.objects += 1

    def close(self) -> None:
        pass


def put_all(values: list[Any], **options: Any) -> tuple[list[float], int]:
    """CPU seconds of each put of a channel that takes these values in turn, and bytes of frames in all."""
    stored = Stored()
    nowhere: Any = Nowhere()
    saver = GCSSaver(stores=(nowhere, nowhere), on_event=stored, verify="off", **options)  # nothing can be read back
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    version = None
    seconds = []
    for value in values:
        version = saver.get_next_version(version, None)
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": value}
        checkpoint["channel_versions"] = {"messages": version}
        start = time.process_time()
        config = saver.put(config, checkpoint, {"source": "loop", "step": 1, "parents": {}}, {"messages": version})
        seconds.append(time.process_time() - start)
    return seconds, stored.frames


def cpu(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def growing() -> list[Bar]:
    """A 400 KB list that grows by one message a step."""
    texts = messages(330)
    values = [texts[:n] for n in range(270, 330)]
    seconds, _ = put_all(values)
    ratios = []
    for value, put in list(zip(values, seconds, strict=True))[10:]:
        data = SERDE.dumps_typed(value)[1]
        known = cpu(lambda value=value: SERDE.dumps_typed(value)) + cpu(sha256(data).hexdigest)
        known += cpu(lambda data=data: sha256(data)) if not known else 0
        ratios.append((put - known) / cpu(lambda data=data: zstandard.ZstdCompressor(level=3).compress(data)))
    size = len(SERDE.dumps_typed(values[-1])[1])
    return [
        Bar(f"CPU of put beyond serializing, {size >> 10} KB list growing, to zstd -3", statistics.median(ratios), 2)
    ]


def changing() -> list[Bar]:
    """Values that change entirely at each step: random bytes, and texts."""
    random_bytes = [random.Random(n).randbytes(400_000) for n in range(40)]
    texts = [messages(120, seed=n) for n in range(40)]
    bars = []
    for name, values in (("random bytes", random_bytes), ("another text each step", texts)):
        ratios = []
        for _ in range(5):
            full, full_bytes = put_all(values, incremental=False)
            incremental, incremental_bytes = put_all(values)
            ratios.append(sum(incremental) / sum(full))
        bars.append(Bar(f"{name}: bytes, to full frames", incremental_bytes / full_bytes, 1.02))
        bars.append(Bar(f"{name}: CPU of put, to full frames", statistics.median(ratios), 1.2))
    return bars


def report(bars: Sequence[Any], *, as_json: bool) -> int:
    """Print rows that have a value and a bar. Returns the exit code: 1 if a value exceeds its bar."""
    if as_json:
        print(json.dumps([asdict(bar) for bar in bars], indent=1))
    else:
        print("| measure | measured | bar |\n|---|---|---|")
        print("\n".join(map(str, bars)))
    return int(any(bar.value > bar.bar for bar in bars))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="leave out the chat of 1,000 turns")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    frames, rest = chat(300)
    bars = [Bar("bytes of frames, 300-turn chat, to its final state in zstd", frames, 6)]
    if not options.quick:
        frames, _ = chat(1000)
        bars.append(Bar("the same for 1,000 turns", frames, 7))
    bars += rest + growing() + changing()
    return report(bars, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
