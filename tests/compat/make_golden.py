"""Makes a golden store of the current stored format: `python -m tests.compat.make_golden DIRECTORY [SCENARIO…]`.

The directory gets the embedded store (`documents.sqlite3`, `objects/`), the format's dictionary, and `expected.json`,
which says what must be read. Expectations come from what was stored, never from reading it back. Ids, attempts and
times are fixed, so that the same code and the same zstd make the same bytes.

Each store in `data/` was written by the version that introduced its format, and is never made again. Later versions
must read it as it is.
"""

import hashlib
import itertools
import json
import random
import shutil
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import zstandard
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine import runner as runner_module
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge
from langgraph_gcs_saver.engine.per_process import PerProcess
from langgraph_gcs_saver.engine.runner import run as perform
from langgraph_gcs_saver.flows import blobs as blobs_module
from langgraph_gcs_saver.flows import operations
from langgraph_gcs_saver.flows import sagas as sagas_module
from langgraph_gcs_saver.flows import sets as sets_module
from langgraph_gcs_saver.flows import writes as writes_module
from langgraph_gcs_saver.flows.dictionaries import keep
from langgraph_gcs_saver.format import keys, manifest
from langgraph_gcs_saver.format.dictionary import DICTIONARY
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.operations import Undo
from langgraph_gcs_saver.format.trained import train
from langgraph_gcs_saver.saver import checkpointer as saver_module
from langgraph_gcs_saver.stores import local
from tests.compat.xor_cipher import XorCipher

NOW = 1_780_000_000
SHOWN = 40
"""Longest serialized value that `expected.json` shows whole. For others it has the size and sha256."""

SPECIAL = {"__error__": -1, "__scheduled__": -2, "__interrupt__": -3, "__resume__": -4}
SERDE = JsonPlusSerializer()


def cid(number):
    """A checkpoint id; those of greater numbers are newer."""
    return f"1f0a0000-0000-6000-8000-{number:012}"


def version(number, draw=0):
    return f"{number:032}.{draw:016}"


def shown(kind, data):
    """A serialized value as `expected.json` shows it."""
    return [kind, data.hex()] if len(data) <= SHOWN else [kind, len(data), hashlib.sha256(data).hexdigest()]


def dumped(value):
    return shown(*SERDE.dumps_typed(value))


def text(rng, words):
    return " ".join("".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(2, 9))) for _ in range(words))


class Maker:
    """Writes to a store, and keeps what it wrote."""

    def __init__(self, path):
        self.path = path
        self.checkpoints = {}
        self.writes = {}
        self.sagas = []
        self.teams = []
        self.holds = {}
        self.blobs = {}
        self.orders = itertools.count()
        self._attempts = itertools.count()
        self._now = NOW
        self._ahead = 0
        self._savers = []

    def saver(self, **options):
        """A saver with caches of its own, as another process would have."""
        saver = GCSSaver.from_conn_string(f"file://{self.path}", **options)
        context = replace(saver._context, new_attempt=self._attempt)
        saver._contexts = PerProcess(lambda: context)
        self._savers.append(saver)
        return saver

    def _attempt(self):
        return hashlib.sha256(b"attempt %d" % next(self._attempts)).hexdigest()[:16]

    def now(self):
        self._now += 7
        return self._now

    def hold(self, thread, checkpoint_id, hold):
        self.holds.setdefault(thread, {}).setdefault(checkpoint_id, []).append(hold)

    @contextmanager
    def later(self, seconds):
        """Let the store's clock be ahead, by so many seconds more each time."""
        self._ahead += seconds
        with mock.patch.object(local.time, "time_ns", return_value=(NOW + self._ahead) * 10**9):
            yield

    @contextmanager
    def own_times(self):
        """Let flows have a clock whose times are fixed."""
        with mock.patch.object(runner_module, "time", SimpleNamespace(time=self.now, sleep=time.sleep)):
            yield

    def close(self):
        for saver in self._savers:
            saver.close()

    def put(self, saver, place, number, values, *, parent=None, new=None, versions=None, metadata=None, **extra):
        """Put a checkpoint: `values` are all of its values, `new` the channels that changed (all if not given)."""
        thread, ns = place
        new = list(values) if new is None else new
        if versions is None:
            before = self.checkpoints[(*place, cid(parent))]["checkpoint"]["channel_versions"] if parent else {}
            versions = {**before, **{channel: version(number) for channel in new}}
        checkpoint_id = cid(number)
        fields = {
            "v": 4,
            "ts": f"2026-06-01T10:00:{number % 60:02}.000000+00:00",
            "channel_versions": versions,
            "versions_seen": {"node": {"__start__": version(1)}},
            "updated_channels": sorted(new),
        }
        told = {"source": "loop", "step": number, "parents": {}, **(metadata or {})}
        configurable = {"thread_id": thread, "checkpoint_ns": ns}
        if parent is not None:
            configurable["checkpoint_id"] = cid(parent)
        saver.put(
            {"configurable": configurable},
            {**fields, **extra, "id": checkpoint_id, "channel_values": values},
            told,
            {channel: versions[channel] for channel in new if channel in versions},
        )
        # LangGraph adds the ids of the config to the metadata, but not the checkpoint's own.
        self.checkpoints[thread, ns, checkpoint_id] = {
            "thread_id": thread,
            "ns": ns,
            "checkpoint_id": checkpoint_id,
            "parent_id": None if parent is None else cid(parent),
            "checkpoint": fields,
            "rest": dumped(extra) if extra else None,
            "metadata": dumped(told),
            "values": {channel: dumped(values[channel]) for channel in sorted(values)},
        }

    def put_writes(self, saver, place, number, writes, task, path=""):  # noqa: PLR0917 - as the saver's own
        """Put writes: of regular ones the first for a task and number is kept, of special ones the last."""
        thread, ns = place
        config = {"configurable": {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": cid(number)}}
        saver.put_writes(config, writes, task, path)
        found = self.writes.setdefault((thread, ns, cid(number)), {})
        for place_in_call, (channel, value) in enumerate(writes):
            idx = SPECIAL.get(channel, place_in_call)
            if idx < 0 or (task, idx) not in found:
                found[task, idx] = (path, [task, channel, dumped(value)])

    def expected(self):
        found = []
        for key, checkpoint in sorted(self.checkpoints.items()):
            pending = self.writes.get(key, {})
            order = sorted((path, task, idx, write) for (task, idx), (path, write) in pending.items())
            found.append({**checkpoint, "writes": [write for *_, write in order]})
        held = {thread: {one: texts for one, texts in found.items() if texts} for thread, found in self.holds.items()}
        more = {"sagas": self.sagas, "teams": self.teams, "holds": held, "blobs": self.blobs}
        kept = {name: value for name, value in more.items() if value}
        return {"format": 1, "zstd": list(zstandard.ZSTD_VERSION), **kept, "checkpoints": found}


@contextmanager
def _fixed_times(maker):
    # Every commit takes the time after the last one's.
    stopped = SimpleNamespace(time_ns=lambda: NOW * 10**9, time=time.time, monotonic=time.monotonic, sleep=time.sleep)
    with (
        mock.patch.object(local, "time", stopped),
        mock.patch.object(saver_module, "time", SimpleNamespace(time=maker.now)),
    ):
        yield


def make(path, scenarios=None):
    """Make a golden store in the empty or missing directory `path`, of all scenarios if none are given."""
    path = Path(path).absolute()
    maker = Maker(path)
    with _fixed_times(maker):
        for scenario in scenarios or SCENARIOS:
            scenario(maker)
        maker.close()
    with closing(sqlite3.connect(path / "documents.sqlite3", isolation_level=None)) as db:
        db.execute("VACUUM")
        # One file is the whole: no log beside it.
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    (path / "tmp").rmdir()
    (path / "dictionary.bin").write_bytes(DICTIONARY)
    expected = maker.expected()
    lines = ",\n".join(
        json.dumps(checkpoint, separators=(",", ":"), ensure_ascii=False) for checkpoint in expected.pop("checkpoints")
    )
    told = f'{json.dumps(expected)[:-1]}, "checkpoints": [\n{lines}\n]}}\n'
    (path / "expected.json").write_text(told, encoding="utf-8", newline="\n")


# What the store holds


def chat(maker):
    """A conversation: full frames in documents and objects, increments, skipped versions, new bases."""
    place, rng = ("chat", ""), random.Random(1)
    saver = maker.saver(inline_max_bytes=600)
    messages = []
    for number in range(1, 43):
        role = "user" if number % 2 else "assistant"
        messages.append({"role": role, "id": f"m{number}", "content": text(rng, 30)})
        run = {"run_id": f"run-{number // 10}"}
        values = {"messages": list(messages), "turn": number, "done": None}
        new = ["messages", "turn"] + ["done"] * (number == 1)
        maker.put(saver, place, number, values, parent=number - 1 or None, new=new, metadata=run)


def spliced(maker):
    """A value that is large enough to be spliced: longer, changed in its middle, shorter; alone and encrypted."""
    line = "a line that comes again and again, so that the store stays small"
    for ns, cipher in (("", None), ("encrypted", XorCipher())):
        place, rng = ("spliced", ns), random.Random(9)
        saver = maker.saver(cipher=cipher)
        lines = [f"{number}: {line}" for number in range(1100)]
        maker.put(saver, place, 1, {"lines": list(lines)})
        lines.append(text(rng, 20))
        maker.put(saver, place, 2, {"lines": list(lines)}, parent=1)
        lines[500:502] = [text(rng, 20)]
        maker.put(saver, place, 3, {"lines": list(lines)}, parent=2)
        maker.put(saver, place, 4, {"lines": lines[1:]}, parent=3)


def edited(maker):
    """Values that change in several places: edited, in front, a window, in another order, and several steps back."""
    for ns, cipher in (("", None), ("encrypted", XorCipher())):
        place, rng = ("edited", ns), random.Random(19)
        saver = maker.saver(cipher=cipher, inline_max_bytes=8192)
        lines = [f"{number}: {text(rng, 4)}" for number in range(2500)]

        def put(number, saver=saver, place=place, lines=lines):
            maker.put(saver, place, number, {"lines": list(lines), "n": number}, parent=number - 1 or None)

        put(1)
        lines[700:702] = [text(rng, 20)]
        lines[1500:1500] = [text(rng, 9), text(rng, 11)]
        put(2)
        lines[:0] = [text(rng, 20)]
        lines.append(text(rng, 20))
        put(3)
        del lines[:300]
        lines += [text(rng, 20), text(rng, 20)]
        put(4)
        lines[200:300], lines[1800:1900] = lines[1800:1900], lines[200:300]
        put(5)
        for at in range(50, 2000, 300):
            lines[at] = text(rng, 6)
        put(6)
        for number in range(7, 13):
            lines[100 * number] = text(rng, 15)
            put(number)


def trained(maker):
    """Threads that need a trained dictionary: two dictionaries, in clear and encrypted, and a writer without one."""
    for ns, cipher in (("", None), ("encrypted", XorCipher())):
        place, rng = ("trained", ns), random.Random(f"trained {ns}")
        shared = text(rng, 60)
        dictionary = train([f"{shared[at : at + 250]} {text(rng, 8)}".encode() for at in range(120)])
        plain = maker.saver(cipher=cipher)
        perform(keep(dictionary, plain._context), plain._backend)
        saver = maker.saver(cipher=cipher, dictionary=dictionary.id)
        for number in range(1, 5):
            values = {"notes": [f"{shared} {n}" for n in range(min(number, 3))], "n": number}
            if number < 4:
                maker.put(saver, place, number, values, parent=number - 1 or None)
            else:
                maker.put(plain, place, number, values, parent=3, new=["n"])
            writes = [("notes", f"{shared} {text(rng, 5)}"), ("__error__", "failed")]
            maker.put_writes(saver, place, number, writes, "task")


def two_processes(maker):
    """Two writers in turn, which know only what they wrote or read themselves; frames build on other versions."""
    place, rng = ("two processes", ""), random.Random(2)
    savers = [maker.saver(inline_max_bytes=400), maker.saver(inline_max_bytes=400, full_every=5, zstd_level=9)]
    notes = [text(rng, 200)]
    maker.put(savers[0], place, 1, {"notes": list(notes)})
    for number in range(2, 15):
        notes.append(text(rng, 12))
        saver = savers[number // 3 % 2]
        if number % 3 == 0:
            saver.get_tuple({"configurable": {"thread_id": place[0]}})
        maker.put(saver, place, number, {"notes": list(notes)}, parent=number - 1)


def values(maker):
    """Values of all kinds: none, nothing, empty, bytes, without a version, equal to the one before, incompressible."""
    place, rng = ("values", ""), random.Random(3)
    saver = maker.saver()
    odd = {
        "none": None,
        "no bytes": b"",
        "empty text": "",
        "empty list": [],
        "bytes": bytes(range(256)),
        "number": -(1 << 40),
        "nested": {"a": [1, 2.5, {"b": None}], "é": "\U0001f600"},
        "random": rng.randbytes(3000),
        "sixteen": b"s" * (16 << 10),  # the smallest value whose frame has no dictionary
        "below sixteen": b"s" * ((16 << 10) - 5),
        "unversioned": "no version",
        "a/b.c~d %\n": "a channel's name with characters that names cannot have",
    }
    versions = {channel: version(1) for channel in odd if channel != "unversioned"}
    versions["without a value"] = version(1)
    metadata = {"writes": None, "flag": True, "ratio": 0.5, "long": "x" * 300, "odd key!": 1, "run_id": "run/é"}
    maker.put(saver, place, 1, odd, versions=versions, metadata=metadata, new=[c for c in odd if c in versions])
    same = {**odd, "number": 7}
    later = {**versions, "number": version(2), "nested": version(2), "empty list": version(2)}
    maker.put(saver, place, 2, same, parent=1, versions=later, new=["number", "nested", "empty list"])
    # Numbers as versions, and fields that JSON does not hold.
    numbers = {"count": 3, "share": 1.5}
    rest = {"pending_sends": [("node", b"\x00\x01")], "extra": (1, 2)}
    maker.put(saver, ("values", "numbers"), 1, {"count": [1], "share": "one"}, versions=numbers, **rest)


def forks(maker):
    """Several children of one checkpoint, some of whose values they inherit."""
    place, rng = ("forks", ""), random.Random(4)
    saver = maker.saver(inline_max_bytes=300)
    shared = text(rng, 150)
    log = [text(rng, 60)]
    maker.put(saver, place, 1, {"shared": shared, "log": log})
    maker.put(saver, place, 2, {"shared": shared, "log": [*log, "trunk"]}, parent=1, new=["log"])
    for number, branch in ((3, "left"), (4, "right"), (5, "late")):
        maker.put(saver, place, number, {"shared": shared, "log": [*log, branch]}, parent=1, new=["log"])
    maker.put(saver, place, 6, {"shared": shared, "log": [*log, "right", "on"]}, parent=4, new=["log"])
    # Named as its own parent, as LangGraph's first checkpoints of some versions were.
    maker.put(saver, ("forks", "self"), 7, {"shared": shared}, parent=7, versions={"shared": version(7)})


def replaced(maker):
    """A checkpoint that was stored again with other content, after a child had built on its frames."""
    place, rng = ("replaced", ""), random.Random(5)
    saver = maker.saver()
    base = [text(rng, 80)]
    maker.put(saver, place, 1, {"log": base}, metadata={"run_id": "first"})
    maker.put(saver, place, 2, {"log": [*base, "child"]}, parent=1, metadata={"run_id": "child"})
    maker.put(saver, place, 1, {"log": [text(rng, 70)], "other": 1}, metadata={"run_id": "second", "user": "u"})
    maker.put(saver, place, 1, {"log": [text(rng, 75)], "other": 2}, metadata={"run_id": "third"})


def stripped(maker):
    """A checkpoint of which a removal has left only the frames that its child still needs."""
    place, rng = ("stripped", ""), random.Random(6)
    saver = maker.saver()
    base = [text(rng, 80)]
    maker.put(saver, place, 1, {"log": base})
    maker.put(saver, place, 2, {"log": [*base, "more"]}, parent=1)
    del maker.checkpoints[(*place, cid(1))]
    documents = saver._backend.documents
    gone = ("ns", "format", "manifest", "digest", "filter", "heir")
    documents.commit(Commit((Merge(keys.checkpoint_doc(*place, cid(1)), {}, remove=gone),)))


def large(maker):
    """Small frames that share an object, and a manifest and pending writes that are stored in objects.

    Limits are lowered here, because the same at full size would be megabytes. A writer may choose where it stores them.
    """
    place, rng = ("large", ""), random.Random(7)
    saver = maker.saver(inline_max_bytes=600)
    many = {f"channel {number}": rng.randbytes(100) for number in range(12)}
    many["long"] = [text(rng, 70)]
    with mock.patch.object(manifest, "INNER_BYTES", 1000):
        maker.put(saver, place, 1, many)
        more = {**many, "long": [*many["long"], "more"], "channel 3": rng.randbytes(100)}
        maker.put(saver, place, 2, more, parent=1, new=["long", "channel 3"])
    with mock.patch.object(manifest, "PAYLOAD_BYTES", 500):
        last = {**more, "channel 4": b"after the stub"}
        maker.put(saver, place, 3, last, parent=2, new=["channel 4"])
    with mock.patch.object(writes_module, "INLINE_BYTES", 100):
        maker.put_writes(saver, place, 3, [("channel 5", rng.randbytes(500)), ("__interrupt__", text(rng, 40))], "t")
    # Every payload is an object.
    outside = maker.saver(inline_max_bytes=0)
    maker.put(outside, ("large", "outside"), 1, {"a": "small", "none": None})
    maker.put_writes(outside, ("large", "outside"), 1, [("a", "small")], "t")
    # An envelope that is longer than a block of §7.5, which its digest does not know.
    maker.put_writes(outside, ("large", "outside"), 1, [("a", "long " * 10_000)], "t of many words")


def pending(maker):
    """Pending writes: repeated, growing, special, of several tasks, of long ids, without their checkpoint."""
    place = ("pending", "")
    saver = maker.saver()
    maker.put(saver, place, 1, {"a": 1})
    null = "00000000-0000-0000-0000-000000000000"
    maker.put_writes(saver, place, 1, [("a", 1)], null, "~__pregel_push, 0")
    maker.put_writes(saver, place, 1, [("a", "not this"), ("b", 2)], null, "~__pregel_push, 0")
    maker.put_writes(saver, place, 1, [("b", None), ("b", b""), ("b", [3])], "task b", "~__pregel_pull, b")
    maker.put_writes(saver, place, 1, [("b", "a"), ("b", "b"), ("b", "c")], "task b", "~__pregel_pull, b")
    maker.put_writes(saver, place, 1, [("a", "x")], "task a", "~__pregel_pull, b")
    maker.put_writes(saver, place, 1, [("__interrupt__", "first")], "task a", "~__pregel_pull, b")
    special = [("__interrupt__", "second"), ("__resume__", ["yes"]), ("__error__", "e"), ("__scheduled__", 1)]
    maker.put_writes(saver, place, 1, special, "task a", "~__pregel_pull, b")
    maker.put_writes(saver, place, 1, [("a", 4), ("__resume__", "mixed"), ("c", 5)], "t" * 300, "é")
    maker.put_writes(saver, place, 1, [("a", 6)], "a/b!c~d", "")
    maker.put(saver, place, 2, {"a": 2}, parent=1)
    maker.put_writes(saver, place, 2, [("a", 7)], "later")
    maker.put_writes(saver, place, 9, [("a", 8)], "nobody's")


def hostile(maker):
    """Ids of any characters and lengths: none of them meets another."""
    saver = maker.saver(inline_max_bytes=60)
    threads = [
        "",
        ".",
        "..",
        "a/b",
        "a%2Fb",
        "__x__",
        "~",
        "nul\0line\n",
        "a_b",
        "a",
        "A",
        "café \U0001f600",
        "t" * 200,
    ]
    threads += ["t" * 201, "/" * 67, "é" * 500]
    for number, thread in enumerate(threads, 1):
        maker.put(saver, (thread, ""), number, {"thread": f"{number} " + "ab" * 30})
    spaces = ["node:1f0a", "a|b:c|d", "..", "~", "%7E", "n" * 200, "n" * 201, "|".join(["deep:0123"] * 60)]
    for number, ns in enumerate(spaces, 1):
        place = (threads[-1] if ns is spaces[-1] else "a/b", ns)
        maker.put(saver, place, number, {"ns": f"{number} " + "cd" * 30, "c" * 250: f"long {number}" + "ef" * 50})
        maker.put(saver, place, number + 1, {"ns": "next", "c" * 250: "gh" * 60}, parent=number)
        maker.put_writes(saver, place, number, [("ns", number)], "task")


def encrypted(maker):
    """Everything in ciphertext but names; and a thread whose first half was written without a cipher."""
    place, rng = ("encrypted", ""), random.Random(8)
    saver = maker.saver(cipher=XorCipher(), clear_metadata=["step"], inline_max_bytes=400)
    log = [text(rng, 60)]
    for number in range(1, 7):
        run = {"run_id": "run", "user": "someone"}
        maker.put(saver, place, number, {"log": list(log), "none": None}, parent=number - 1 or None, metadata=run)
        log.append(text(rng, 60))
    maker.put_writes(saver, place, 6, [("log", "answer"), ("__interrupt__", "question")], "task")
    with mock.patch.object(manifest, "PAYLOAD_BYTES", 500), mock.patch.object(writes_module, "INLINE_BYTES", 100):
        maker.put(saver, place, 7, {"log": ["short"], "none": None}, parent=6)
        maker.put_writes(saver, place, 7, [("log", text(rng, 50))], "task")
    place = ("half encrypted", "")
    plain = maker.saver(inline_max_bytes=500)
    maker.put(plain, place, 1, {"log": log})
    maker.put_writes(plain, place, 1, [("log", "plain")], "task")
    half = maker.saver(cipher=XorCipher(), clear_metadata=["step"], inline_max_bytes=400, accept_clear=True)
    half.get_tuple({"configurable": {"thread_id": place[0]}})
    maker.put(half, place, 2, {"log": [*log, "more"]}, parent=1)


def bound(maker):
    """Envelopes of all kinds that are bound to their places: in documents and as stubs, of long ids, in every field."""
    rng = random.Random(10)
    saver = maker.saver(cipher=XorCipher())
    for place in (("bound", ""), ("bound", "node:1"), ("b" * 300, "n" * 300)):
        maker.put(saver, place, 1, {"a": 1, "b": [text(rng, 20)]})
        with mock.patch.object(manifest, "PAYLOAD_BYTES", 200):
            maker.put(saver, place, 2, {"a": 1, "b": [text(rng, 30)]}, parent=1, new=["b"])
        special = [("__interrupt__", "q"), ("__resume__", "yes"), ("__error__", "e"), ("__scheduled__", 1)]
        for task in ("task", "t" * 300):
            maker.put_writes(saver, place, 2, [("a", 1), *special], task, "path")
        with mock.patch.object(writes_module, "INLINE_BYTES", 100):
            maker.put_writes(saver, place, 1, [("a", text(rng, 60)), ("__interrupt__", text(rng, 60))], "task")


def folded(maker):
    """Objects whose names differ in case only, are too long when they are folded, or are reserved by a system."""
    saver = maker.saver(inline_max_bytes=0)
    for number, thread in enumerate(("a", "A", "T" * 200, "é" * 33, "con"), 1):
        for ns in ("", "node", "Node", "NODE:1", "con", "N" * 200):
            values = {"c": f"{number} c", "C": f"{number} C", "C" * 200: "long", "nul": None}
            maker.put(saver, (thread, ns), number, values)
            maker.put_writes(saver, (thread, ns), number, [("C", "W" * number)], "Task")


class SagaMaker:
    """Writes a saga, and keeps what it wrote."""

    def __init__(self, maker, saver, thread, saga_id):
        self._maker, self._saver = maker, saver
        self._context = saver._context
        self.saga = self._run(sagas_module.open_(thread, saga_id, self._nonce(), self._context))
        self.expected = {"thread_id": thread, "saga_id": saga_id, "epoch": 0, "target": None}
        self.expected |= {"savepoints": [], "steps": []}
        maker.sagas.append(self.expected)

    def _run(self, flow):
        return perform(flow, self._saver._backend)

    def _nonce(self):
        return self._maker._attempt()

    def savepoint(self, name, number):
        self.saga = self._run(sagas_module.savepoint(self.saga, name, cid(number), self._context))
        self.expected["savepoints"].append([name, cid(number)])
        hold = f"savepoint {name} of saga {self.saga.saga_id}"
        self._maker.hold(self.saga.thread_id, cid(number), hold)

    def step(self, name, request, result, undo=None, state="done"):
        asked = Serialized(*SERDE.dumps_typed(request))
        how = None if undo is None else Undo(*undo, asked)
        key, of = sagas_module.step_key(self.saga.saga_id, name), f"digest of {request!r}"
        call = operations.Call(
            self.saga.thread_id, key, name, of, self._nonce(), part=operations.Part(self.saga, name, how)
        )
        claim = self._run(operations.claim(call, self._context))
        if state != "claimed":
            value = Serialized(*SERDE.dumps_typed(result)) if state == "done" else None
            self._run(operations.record_outcome(claim, operations.Outcome(state, value), self._context))
        steps = self.expected["steps"]
        steps[:] = [one for one in steps if one["name"] != name]
        steps.append(
            {
                "name": name,
                "state": state,
                "undo": None if undo is None else list(undo),
                "request": None if undo is None else dumped(request),
                "result": dumped(result) if state == "done" else None,
                "epoch": self.saga.epoch,
                "undone": False,
            }
        )

    def mark(self, target=None):
        self.saga = self._run(sagas_module.mark(self.saga, self._nonce(), target, None, self._context))
        self.expected["target"] = target

    def undo(self, name):
        """Undo a step."""
        (step,) = [one for one in self._run(sagas_module.steps(self.saga, self._context)) if one.step.name == name]
        claim = self._run(sagas_module.undoing(self.saga, step, self._nonce(), self._context))
        nothing = Serialized(*SERDE.dumps_typed(None))
        self._run(operations.record_outcome(claim, operations.Outcome("done", nothing), self._context))
        (expected,) = [one for one in self.expected["steps"] if one["name"] == name]
        expected["undone"] = True

    def resume(self):
        """Let it continue from its savepoint."""
        self._run(sagas_module.release(self.saga, self._context))
        for name, number in self.expected["savepoints"][self.saga.position(self.saga.target) :]:
            self._maker.holds[self.saga.thread_id][number].remove(f"savepoint {name} of saga {self.saga.saga_id}")
        now = sagas_module.continued(self.saga)
        (time,) = perform(iter(Commit((sagas_module.changes(self.saga, now, self._context),))), self._saver._backend)
        self.expected |= {"epoch": now.epoch, "target": None}
        del self.expected["savepoints"][len(now.savepoints) :]
        self.saga = replace(now, time=time)

    def end(self, end=None):
        """Note its state, after `end` if given."""
        if end is not None:
            self.saga = self._run(end(self.saga, self._context))
        self.expected["state"] = self.saga.state


def sagas(maker):
    """Sagas in every state, with steps, savepoints and undos; in clear and encrypted."""
    for thread, cipher in (("sagas", None), ("encrypted sagas", XorCipher())):
        saver = maker.saver(cipher=cipher)
        for number in (1, 2, 3):
            maker.put(saver, (thread, ""), number, {"a": number}, parent=number - 1 or None)
        with maker.own_times():
            trip = SagaMaker(maker, saver, thread, "trip-7")
            trip.step("book", {"city": "Oslo"}, "hotel 5", ("cancel-hotel", 1))
            trip.savepoint("before payment", 2)
            trip.step("pay", {"cents": 990}, {"paid": 990})
            trip.end(sagas_module.finish)

            trip = SagaMaker(maker, saver, thread, "trip/8 é")
            trip.step("book", {"city": "Bergen"}, "hotel 6", ("cancel-hotel", 1))
            trip.savepoint("before payment", 2)
            trip.step("pay", {"cents": 90}, {"paid": 90}, ("refund", 2))
            trip.savepoint("paid", 3)
            trip.mark("before payment")
            trip.undo("pay")
            trip.end(sagas_module.compensated)
            trip.resume()
            trip.step("pay", {"cents": 90}, {"paid": 91}, ("refund", 2))
            trip.end()

            trip = SagaMaker(maker, saver, thread, "trip-9")
            trip.step("book", {"city": "Narvik"}, "x" * 100, ("cancel-hotel", 2))
            trip.step("mail", "a letter", None, ("recall", 1), "unknown")
            trip.mark()
            trip.end(sagas_module.stuck)

            trip = SagaMaker(maker, saver, thread, "trip-10")
            trip.step("book", {"city": "Hell"}, "hotel 7", ("cancel-hotel", 1))
            trip.mark()
            trip.undo("book")
            trip.end(sagas_module.compensated)

            trip = SagaMaker(maker, saver, thread, "trip-11")
            trip.step("ask", None, None, state="claimed")
            with mock.patch.object(operations, "INLINE_BYTES", 10):
                trip.step("search", None, "an object " * 9)
            trip.end()


def teams(maker):
    """Sets of teams in every state, with votes; in clear and encrypted."""
    members = ["extract-1", "extract/2 é", "planner"]
    for team, cipher in (("deal-42", None), ("deal/4%2 é", XorCipher())):
        saver = maker.saver(cipher=cipher)
        made = {"team": team, "members": members, "retention": 7, "sets": []}
        maker.teams.append(made)

        def write(number, names, team=team, saver=saver):
            for name in names:
                thread = keys.member_thread_id(team, name)
                maker.put(saver, (thread, ""), number, {"of": name, "n": number}, parent=number - 1 or None)

        def run(flow, saver=saver):
            return perform(flow, saver._backend)

        def begin(label, timeout, names=members, team=team, saver=saver):
            return run(sets_module.begin(team, names, label, timeout, saver._context, retention=7))

        def note(found, state, number=None, *, missing=(), votes=(), made=made):
            cut = {} if number is None else dict.fromkeys(found.members, cid(number))
            made["sets"].append(
                {
                    "set_id": found.set_id,
                    "state": state,
                    "label": found.label,
                    "members": list(found.members),
                    "cut": cut,
                    "missing": list(missing),
                    "votes": dict(votes),
                }
            )
            for name, checkpoint_id in cut.items():
                hold = f"set {found.set_id} of team {found.team}"
                maker.hold(keys.member_thread_id(found.team, name), checkpoint_id, hold)

        def vote(found, name, number, team=team, saver=saver):
            document = keys.checkpoint_doc(keys.member_thread_id(team, name), "", cid(number))
            doc = run(iter(GetDocs((document, keys.team_doc(team)))))[document]
            run(sets_module.vote(found.name, name, sets_module.vote_in(doc), saver._context))
            return name, cid(number)

        with maker.own_times():
            for name in members:
                run(sets_module.join(team, name))
            write(1, members)
            lost = begin("before the deal", 30)
            run(sets_module.prepare(team, lost.set_id, saver._context))
            run(sets_module.break_(lost.hold, saver._context))
            note(lost, "broken", 1)
            write(2, members)
            kept = begin(None, 30)
            votes = [vote(kept, name, 2) for name in members[:2]]
            run(sets_module.prepare(team, kept.set_id, saver._context))
            note(kept, "committed", 2, votes=votes)
            write(3, members[:1])
            late = begin("too late", 1)
            votes = [vote(late, members[0], 3)]
            write(4, members[:1])
            with maker.later(3600):
                run(sets_module.decide(team, late.set_id, saver._context))
            note(late, "aborted", missing=members[:1], votes=votes)
            alone = begin("alone", 3600, members[2:])
            note(alone, "preparing", votes=[vote(alone, members[2], 2)])
            made |= {"preparing": alone.set_id, "timeout": alone.timeout}


def blobs(maker):
    """Blobs of every size, in the state of a thread, and a folder; in clear and encrypted."""
    rng = random.Random(22)
    with mock.patch.object(blobs_module, "PART_BYTES", 100), maker.own_times():
        for thread, cipher in (("blobs", None), ("encrypted blobs é", XorCipher())):
            saver = maker.saver(cipher=cipher, inline_max_bytes=50)
            made = [b"", b"small", text(rng, 60).encode(), b"a" * 200]
            named = []
            for number, data in enumerate(made, 1):
                named.append(saver.thread(thread).blobs.put(data, media_type="text/plain"))
                maker.put(saver, (thread, ""), number, {"docs": list(named), "n": number}, parent=number - 1 or None)
            folder = maker.path.parent / "folder"
            (folder / "empty").mkdir(parents=True)
            (folder / "same").write_bytes(made[3])
            tree = saver.thread(thread).blobs.put_tree(folder)
            shutil.rmtree(folder)
            maker.put(saver, (thread, ""), 5, {"docs": named, "n": 4, "tree": tree}, parent=4, new=["tree"])
            with saver.thread(thread).blobs.open(tree) as file:
                listed = file.read()
            maker.blobs[thread] = {hashlib.sha256(data).hexdigest(): data.decode("latin-1") for data in (*made, listed)}


SCENARIOS = (chat, two_processes, values, forks, replaced, stripped, large, pending, hostile, encrypted, spliced)
BOUND = (encrypted, spliced, bound)
"""What is in the golden store of bound envelopes."""

COORDINATED = (sagas, teams)
"""What is in the golden store of sagas and teams."""

BLOBS = (blobs,)
"""What is in the golden store of blobs."""

EDITED = (edited,)
"""What is in the golden store of splices of version 2, whose checkpoints state both versions of the format."""

TRAINED = (trained,)
"""What is in the golden store of trained dictionaries."""

FOLDED = (folded, bound)
"""Scenarios of the golden store with folded names of objects."""


if __name__ == "__main__":
    make(sys.argv[1], [globals()[name] for name in sys.argv[2:]])
    sizes = Counter()
    for file in Path(sys.argv[1]).rglob("*"):
        sizes["objects" if "objects" in file.parts else file.name] += file.stat().st_size if file.is_file() else 0
    print(dict(sizes))
