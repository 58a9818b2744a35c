"""Honest seeds: a store's thread in all the forms that it is stored in. The same bytes each time they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver import FirestoreCache, GCSSaver
from langgraph_gcs_saver.engine.effects import Delete
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import leases, recoveries, runs
from langgraph_gcs_saver.format import keys, recent, regions, sagas, sets
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.turns import Turn, fields_of
from langgraph_gcs_saver.portable import PortableSerializer, Stored, delta
from tests.patience import PATIENCE
from tests.security import registry
from tests.system.build import cfg, checkpoint, cid, noise, version
from tests.system.raw import LocalRaw

NEWEST = 6
MAX_VALUE_BYTES = 1 << 20
"""`max_value_bytes` of all savers here: everything in a store is smaller."""

ACTIVE = 1767225600

LATER = 4102444800 * 10**9
"""A time after that of every document, in nanoseconds."""

PLAIN = PortableSerializer()


class Siv:
    """A cipher that authenticates, and makes equal ciphertexts of equal plaintexts; fast, and for tests only."""

    def __init__(self, key: bytes = b"the key") -> None:
        self._key = key

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        tag = hashlib.sha256(self._key + plaintext).digest()
        return "siv", tag + self._xor(tag, plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        tag = ciphertext[:32]
        plaintext = self._xor(tag, ciphertext[32:])
        if ciphername != "siv" or hashlib.sha256(self._key + plaintext).digest() != tag:
            raise ValueError("no such key")
        return plaintext

    def _xor(self, tag: bytes, data: bytes) -> bytes:
        stream = hashlib.shake_128(self._key + tag).digest(len(data))
        return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


@dataclass(frozen=True)
class Kind:
    """How a store is written and read."""

    has_cipher: bool
    inline_max_bytes: int

    @property
    def options(self) -> dict[str, Any]:
        cipher = Siv() if self.has_cipher else None
        return {"cipher": cipher, "inline_max_bytes": self.inline_max_bytes, "max_value_bytes": MAX_VALUE_BYTES}

    @property
    def codec(self) -> Codec:
        return Codec(3, self.options["cipher"], MAX_VALUE_BYTES)


KINDS = [Kind(has_cipher, inline) for has_cipher in (False, True) for inline in (8 << 10, 0)]


@contextmanager
def _counted() -> Iterator[None]:
    """Attempts and tokens that are numbers, not random."""
    numbers = count()
    with mock.patch("secrets.token_hex", lambda size=16: f"{next(numbers):0{2 * size}x}"):
        yield


def _stored(value: Any) -> Any:
    kind, data = JsonPlusSerializer().dumps_typed(value)
    return PLAIN.loads_typed((kind, bytes(data)))


def sample_values() -> list[Any]:
    """Values as a graph's state has them."""
    return [
        [_stored(HumanMessage("a question", id="h")), _stored(AIMessage("an answer", id="a"))],
        Stored.of(0, ["my_agent.state", "Plan", [1, {"a": [1.5, None, True]}]]),
        Stored.of(2, ["my_agent.state", "Plan", {"name": "x", "items": [Stored.of(0, ["builtins", "set", [1]])]}]),
        Stored.of(3, ["datetime", "datetime", "2026-01-01T00:00:00", "fromisoformat"]),
        Stored.of(5, ["my_agent.state", "Model", {"f": 1}, "model_validate_json"]),
        delta([1, "x"]),
        {5: "int key", "nested": [[[b"bytes", {"lc": 2, "type": "constructor", "id": ["os", "system"]}]]]},
    ]


def fill(saver: GCSSaver, thread: str) -> None:
    """Checkpoints with every kind of value, of frame and of pending write; a pin, and several runs."""
    messages: list[Any] = []
    text = noise(100_000, 1).hex()
    for n in range(1, NEWEST + 1):
        messages = [
            *messages,
            _stored(HumanMessage(f"question {n}, and more of it " * 5, id=f"h{n}")),
            _stored(AIMessage(f"answer {n}, and more of it " * 5, id=f"a{n}")),
        ]
        ns = "" if n < NEWEST - 1 else "sub:1"
        state = {
            "messages": messages,
            "text": f"{n} {text} and {n}",  # with splices
            "blob": noise(20_000, n // 3),
            "plan": Stored.of(0, ["my_agent.state", "Plan", [n, {"a": [1.5, None, True]}]]),
            "deltas": delta([n]),
            "none": None,
            "set": Stored.of(0, ["builtins", "set", [n]]),
            "odd ü": {n: "int key", "nested": [[[n]]]},
        }
        versions = dict.fromkeys(state, version(n))
        versions["none"] = n
        told = {
            "source": "loop" if n > 1 else "input",
            "step": n - 2,
            "parents": {"": f"1f000000-0000-6000-8000-{n:012}"},
            "run_id": f"run {n % 2}",
            "lg_request": "request",
            "lg_run": "run",
            "lg_segment": 1,
            "counters_since_delta_snapshot": {"deltas": [0, n]},
            "note": {"more": [n, "of it"]},
        }
        rest = {"rest": Stored.of(0, ["my_agent.state", "Rest", n])} if n % 2 else {}
        config = cfg(n - 1 if n not in (1, NEWEST - 1) else None, thread=thread, ns=ns)
        saver.put(config, checkpoint(n, state, versions, **rest), told, versions)
        here = cfg(n, thread=thread, ns=ns)
        saver.put_writes(here, [("messages", messages[-1:]), ("deltas", n)], f"task {n}", "path")
        if n % 2:
            saver.put_writes(here, [("__interrupt__", [{"question": n}])], f"task {n}")
            saver.put_writes(here, [("__error__", "ValueError()"), ("__resume__", [n])], "another " * 40)
    saver.admin.pin(cfg(2, thread=thread), "pinned")


def handle(saver: GCSSaver, raw: LocalRaw) -> None:
    """A side effect, an answered turn, a recovery, a saga, a team, a crashed batch, and what shippers have left."""
    thread = saver.thread("t")
    with mock.patch("time.time_ns", return_value=LATER):  # an operation's document says when it ended
        thread.operations.once("charge", lambda: {"receipt": 1}, key="order-17", request={"cents": 990})
    turn = keys.resume_doc("t")
    raw.set_document(turn, fields_of(Turn("run", "request", "graph", 25, 30), turn, saver._context.codec))
    requests, asked = keys.requests_doc("t"), (recent.Request("a", "b", "c"), recent.Request("d", None))
    raw.set_document(requests, recent.fields_of(recent.Recent("run", asked), requests, saver._context.codec))
    raw.set_document(keys.active_doc("t"), {"thread_id": "t", "state": "due", "attempts": 1})
    tip = cfg(NEWEST - 2)  # the newest one of the root graph
    saver.put_writes(
        tip, [("__interrupt__", [Stored.of(2, ["langgraph.types", "Interrupt", {"value": 1, "id": "i"}])])], "ask"
    )
    told = {"request_id": "request", "run": "run", "asked": {"ask": "digest"}, "command": {"resume": "yes"}}
    saver.put_writes(tip, [(runs.ANSWER, told)], runs.answer_task("request"))
    record = recoveries.taken("t", LATER, "nonce", recoveries.times(LATER - 3, LATER - 1, LATER - 2, LATER))
    raw.set_document(
        record.name, {**record.fields, "restore": 0.5, "ran_again": '["node"]', "labels": '{"agent": "a"}'}
    )
    with thread.batch("items", ["a", "b", "c"], owner="pod") as batch:
        for item in batch:
            if item == "a":
                batch.done(item, output=[1])
            elif item == "b":
                batch.fail(item, ValueError("no"))
            else:
                break
        claims = {name: fields for name, fields in raw.documents().items() if f"/{keys.CHUNKS}/" in name}
    for name, fields in claims.items():
        raw.set_document(name, fields)
    trip = sagas.Saga(keys.saga_doc("t", "trip"), "t", "trip", "stuck", 1, 60.0, "digits", target="before payment")
    fields = sagas.fields_of(trip, saver._context.codec)
    raw.set_document(trip.document, fields)
    note = sagas.note(trip.document, fields)
    raw.set_document(note.name, note.fields)
    make_team(saver, raw)
    # Of a replica that has lost its role: the store takes what is stored.
    (entry,) = regions.changes([Delete(keys.checkpoint_doc("t", "", cid(NEWEST)))]).entries(["0a1b2c3d4e5f"])
    raw.set_document(entry.name, dict(entry.write.fields))
    raw.set_document(keys.ship_doc("t"), {"token": "0a1b2c3d4e5f", "mark": LATER})
    raw.set_document(keys.MARK, {"mark": LATER})
    thread.blobs.put(b"content of a blob")
    FirestoreCache(saver).set({(("node",), "key"): ([1, {"a": None}], None)})


def make_team(saver: GCSSaver, raw: LocalRaw) -> None:
    """A team with a set that was aborted, and a vote for it."""
    team, codec = registry.team_of("t"), saver._context.codec
    aborted = sets.SetRecord(
        team=team,
        set_id="set",
        state="aborted",
        members=("m",),
        timeout=PATIENCE,
        label="a",
        missing=("m",),
        decided=LATER,
    )
    vote, chosen = keys.vote_doc(aborted.name, "m"), sets.Vote(cid(1), "0" * 64, LATER)
    raw.set_document(keys.team_doc(team), {**sets.team_fields(team), sets.RETENTION: 2})
    raw.set_document(keys.member_doc(team, "m"), sets.member_fields("m"))
    raw.set_document(aborted.name, sets.fields_of(aborted, codec))
    raw.set_document(vote, sets.vote_fields(vote, chosen, codec))


@dataclass(frozen=True)
class Seed:
    """The contents of a store.

    Attributes:
        kind: How it was written.
        directory: The store's.
        rows: Documents as they are stored, by name.
        objects: Objects, by name.
        archive: An archive of the thread `t`.
    """

    kind: Kind
    directory: Path
    rows: dict[str, bytes]
    objects: dict[str, bytes]
    archive: bytes
    values: list[bytes] = field(default_factory=list, compare=False)
    """What a serializer wrote in it. Empty until it is first needed."""


def make(directory: Path, kind: Kind) -> Seed:
    """A store with two threads, and something set aside."""
    with _counted(), GCSSaver.from_conn_string(f"file://{directory}", serde=PLAIN, **kind.options) as saver:
        saver.setup()
        for thread in ("t", "u"):
            fill(saver, thread)
        request = leases.Acquire("t", "owner", "nonce", 60.0)
        held = run(leases.Acquisition(request, 0.0, saver._context).flow(), saver._backend)
        run(leases.release(held.fence, saver._context), saver._backend)
        raw = LocalRaw(directory)
        handle(saver, raw)
        # A flipped bit in a write, which `repair` sets aside.
        name = next(name for name in sorted(raw.rows()) if name.startswith(keys.writes("t")))
        fields = raw.documents()[name]
        field = max(fields)
        raw.set_document(name, fields | {field: fields[field][:-1] + bytes([fields[field][-1] ^ 1])})
        saver.admin.repair("t")
        # Its record has the time in its name.
        for name in raw.documents():
            if name.startswith(keys.recoveries("t")) and str(LATER) not in name:
                raw.delete_document(name)
        # Times, as if the clock stood still.
        for thread in ("t", "u"):
            raw.set_document(keys.thread_doc(thread), {**raw.documents()[keys.thread_doc(thread)], "active": ACTIVE})
        with raw.database() as db:
            db.execute("UPDATE documents SET create_time = id, update_time = id")
        saver.admin.export_thread("t", directory / "archive.tar")
    archive = (directory / "archive.tar").read_bytes()
    return Seed(kind, directory, raw.rows(), raw.objects(), archive)
