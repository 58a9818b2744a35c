"""Attacks in other ways than those that the other tests know."""

from __future__ import annotations

import hashlib
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import DamageError, WrongKeyError
from langgraph_gcs_saver.flows.manifests import FIELD
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.digests import Digested
from langgraph_gcs_saver.format.frames import Codec, envelope
from langgraph_gcs_saver.portable import DELTA_COUNTERS, PortableSerializer, Stored
from tests.incremental.eax import Eax
from tests.patience import PATIENCE
from tests.security.forging import name_of, put_checkpoint
from tests.system.build import cfg, cid, put
from tests.system.raw import open_raw

KEY = Eax("the key")
LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
COMMAND = [str(Path(sys.executable).with_name("langgraph-gcs"))]
CONFIG: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 100}


# A repair vouches for nothing that was never stored


def concatenated(value: list[Any], updates: list[list[Any]]) -> list[Any]:
    return [*value, *(item for update in updates for item in update)]


class State(TypedDict, total=False):
    log: Annotated[list[Any], DeltaChannel(concatenated, list, snapshot_frequency=3)]
    n: Annotated[int, operator.add]


LAST = 7


def in_parallel(builder: StateGraph[Any]) -> None:
    """Two nodes write in each step."""
    builder.add_node("step", lambda state: {"log": [f"item {state['n']}"], "n": 1})
    builder.add_node("beside", lambda state: {"log": [f"no more than {state['n']} EUR"]})
    builder.add_conditional_edges(START, lambda _: ["step", "beside"])
    builder.add_conditional_edges("step", lambda state: END if state["n"] >= LAST else ["step", "beside"])


def by_packets(builder: StateGraph[Any]) -> None:
    """A node sends two packets to another one, and so on."""
    builder.add_node("step", lambda _: {"n": 1})
    builder.add_node("sent", lambda of: {"log": [of]})
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: [Send("sent", f"{state['n']} {k}") for k in range(2)])
    builder.add_conditional_edges("sent", lambda state: END if state.get("n", 0) >= LAST else "step")


def by_answers(builder: StateGraph[Any]) -> None:
    """A node asks a question in each step, and the answer is a write too."""
    builder.add_node("step", lambda state: {"log": [f"no more than {interrupt(state['n'])} EUR"], "n": 1})
    builder.add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: END if state["n"] >= LAST else "step")


def build(shape: Any, saver: GCSSaver) -> Any:
    builder: StateGraph[Any] = StateGraph(State)
    shape(builder)
    return builder.compile(checkpointer=saver)


def states(shape: Any, uri: str) -> dict[str, Any]:
    """The state at each checkpoint, or that the checkpoint is damaged."""
    found: dict[str, Any] = {}
    with GCSSaver.from_conn_string(uri, cipher=KEY) as saver:
        graph = build(shape, saver)
        for checkpoint_id in saver.admin.checkpoint_ids(cfg()):
            config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}
            try:
                found[checkpoint_id] = graph.get_state(config).values
            except DamageError:
                found[checkpoint_id] = DamageError
    return found


def run(shape: Any, saver: GCSSaver) -> None:
    graph = build(shape, saver)
    graph.invoke({"n": 0, "log": []}, CONFIG, durability="sync")
    while (state := graph.get_state(CONFIG)).next:
        answer: Any = Command(resume=50, update={"log": [f"answer {state.values['n']}"]})
        graph.invoke(answer, CONFIG, durability="sync")


@LOCAL
@pytest.mark.parametrize("shape", [in_parallel, by_packets, by_answers])
def test_a_repair_rebuilds_no_snapshot_of_half_a_step(shape: Any, store_uri: str) -> None:
    """An attacker spoils a proven snapshot, and deletes the writes of one of the two tasks that it was made of."""
    with GCSSaver.from_conn_string(store_uri, cipher=KEY, incremental=False) as saver:
        run(shape, saver)
        listed = list(saver.list(cfg()))
    before = states(shape, store_uri)
    snapshots = [one.checkpoint["id"] for one in listed if "log" in one.checkpoint["channel_values"]]
    due = [one.checkpoint["id"] for one in listed if "log" not in (one.metadata.get(DELTA_COUNTERS) or {})]
    newest = next(one for one in snapshots if one in due)
    parents = {one.checkpoint["id"]: one.parent_config["configurable"]["checkpoint_id"] for one in listed[:-1]}
    raw = open_raw(store_uri)
    whole = raw.documents()
    name = keys.checkpoint_doc("t", "", newest)
    victims: list[str] = []
    following = parents[newest]
    while following not in snapshots:
        of_step = [one for one in whole if "/lg_writes/" in one and keys.writes_checkpoint_id_of(one) == following]
        victims += of_step if len(of_step) > 1 else []
        following = parents[following]
    assert victims
    for victim in (None, *victims):
        raw.set_document(name, {**whole[name], "frames": bytes(len(whole[name]["frames"]))})
        if victim is not None:
            raw.delete_document(victim)
        with GCSSaver.from_conn_string(store_uri, cipher=KEY) as saver:
            saver.admin.repair("t")
        # Checkpoints before it never had a value that proves anything.
        after = {one: state for one, state in states(shape, store_uri).items() if one >= newest}
        right = {one: state for one, state in before.items() if one >= newest}
        if victim is None or victim.endswith("!s"):
            assert after == right
        else:
            assert all(state in (right[one], DamageError) for one, state in after.items()), victim
        for one in raw.documents().keys() - whole.keys():
            raw.delete_document(one)
        for one, fields in whole.items():
            raw.set_document(one, fields)
    raw.close()


# Digests


@LOCAL
@pytest.mark.parametrize("cipher", [None, KEY], ids=["clear", "encrypted"])
def test_a_value_made_of_digests_is_not_given_for_what_these_are_of(cipher: Any, store_uri: str) -> None:
    """Both have the same digest, and come one after the other under the same name, while a reader remembers."""
    block = 32 << 10
    large = b"a" * (8 * block)
    small = b"\x01" + b"".join(hashlib.sha256(large[at : at + block]).digest() for at in range(0, len(large), block))
    assert Digested.of(small).digest == Digested.of(large).digest
    with (
        GCSSaver.from_conn_string(store_uri, cipher=cipher) as writer,
        GCSSaver.from_conn_string(store_uri, cipher=cipher) as reader,
    ):
        for value in (small, large, small):
            put(writer, 1, {"v": value})
            for found in (reader.get_tuple(cfg()), *reader.list(cfg())):
                assert found.checkpoint["channel_values"] == {"v": value}
            writer.delete_thread("t")


# What else the key encrypts


def cipher_of_the_docs() -> Any:
    """The class that docs/explanation/security.md shows."""
    text = (Path(__file__).parents[2] / "docs" / "explanation" / "security.md").read_text()
    block = next(one for one in text.split("```")[1::2] if "class Aes:" in one)
    source = block.removeprefix("python\n").partition("\nkey = ")[0]
    assert "cipher.update(" in source
    namespace: dict[str, Any] = {"__name__": "docs"}
    exec("from __future__ import annotations\n" + source, namespace)
    return namespace["Aes"]


@LOCAL
@pytest.mark.parametrize("cipher", ["docs", "plain"])
def test_what_a_serializer_encrypted_with_the_same_key_is_no_manifest(cipher: str, store_uri: str) -> None:
    """It encrypts bytes as they are, and these may be an upload: such as a manifest that is bound to its place."""
    key = b"k" * 32
    name = name_of(3)
    head = {"checkpoint": {"v": 4, "channel_versions": {}, "versions_seen": {}}, "parent": None, "channels": {}}
    kind, metadata = JsonPlusSerializer().dumps_typed({"source": "loop", "step": 1, "parents": {}, "forged": True})
    told = envelope({**head, "metadata": [kind, len(metadata)]}, bytes(metadata))
    place = hashlib.sha256(f"{name}\0{FIELD}".encode()).digest()
    upload = b"\x03" + place + Codec(3).encode_envelope(told, (name, FIELD))
    kind, ciphertext = EncryptedSerializer.from_pycryptodome_aes(key=key).dumps_typed(upload)
    assert kind == "bytes+aes"

    aes: Any = Unbound(key) if cipher == "plain" else cipher_of_the_docs()(key)
    with GCSSaver.from_conn_string(store_uri, cipher=aes) as saver:
        put(saver, 2, {"v": ["own"]})
    raw = open_raw(store_uri)
    put_checkpoint(raw, name, {**raw.documents()[name_of(2)], FIELD: b"\x01\x07aes-eax" + ciphertext})
    raw.close()
    with GCSSaver.from_conn_string(store_uri, cipher=aes) as saver:
        if cipher == "plain":  # docs/explanation/security.md: its key must encrypt nothing else
            assert saver.get_tuple(cfg()).metadata["forged"] is True
            return
        with pytest.raises(WrongKeyError):
            saver.get_tuple(cfg(3))
        with pytest.raises(WrongKeyError):
            saver.get_tuple(cfg())
        assert saver.get_tuple(cfg(2)).checkpoint["channel_values"] == {"v": ["own"]}


class Unbound(Eax):
    """A cipher that does not say what it is for."""

    def __init__(self, key: bytes) -> None:
        self.key = key


# The terminal


@LOCAL
def test_what_other_libraries_log_is_printable(store_uri: str) -> None:
    """LangGraph logs the name of a class that it does not know, as the store gives it."""
    escape = "\x1b]0;a title\x07\u202e"
    inner = Stored.of(2, [f"evil{escape}", f"Name{escape}", {}])
    with GCSSaver.from_conn_string(store_uri, serde=PortableSerializer(), incremental=False) as saver:
        put(saver, 1, {"v": [inner]})
        put(saver, 2, {"v": [inner, "more"]}, parent=1)
    raw, name = open_raw(store_uri), keys.checkpoint_doc("t", "", cid(1))
    raw.set_document(name, {**raw.documents()[name], "frames": b"damaged"})
    ended = subprocess.run(
        [*COMMAND, "repair", "t", "--import-classes", "--dry-run", "--store", store_uri],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert b"evil\\x1b]0;a title" in ended.stderr, "LangGraph logs"
    assert not any(character in ended.stderr.decode() for character in "\x1b\x07\u202e")


# The working directory


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no option for that")
def test_the_demo_imports_nothing_from_where_it_is_called(tmp_path: Path) -> None:
    """Its processes are new interpreters, which look into the working directory first by default."""
    (tmp_path / "here").mkdir()
    sprung = tmp_path / "sprung"
    for module in ("multiprocessing", "langgraph", "google", "pickle", "sitecustomize"):
        source = f"from pathlib import Path\n\nPath({str(sprung)!r}).touch()\nraise ImportError\n"
        (tmp_path / "here" / f"{module}.py").write_text(source)
    ended = subprocess.run(
        [*COMMAND, "demo", "--documents", "10", "--store", (tmp_path / "store").as_uri()],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert not sprung.exists(), ended.stderr
    assert ended.returncode == 0, ended.stderr
