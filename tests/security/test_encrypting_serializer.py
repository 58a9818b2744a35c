"""LangGraph's `EncryptedSerializer`, with AES: everything works with its key; without it, nothing reads or breaks."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import DamageError, SerializationError
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.behaviour.api import cfg
from tests.cli.conftest import command  # noqa: F401 - a fixture
from tests.cli.filled import fill, numbers
from tests.cli.test_cipher import COMMANDS, NEEDING_NONE

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
SECRET = "XYZZYPLUGH"


def aes(key: bytes) -> EncryptedSerializer:
    return EncryptedSerializer.from_pycryptodome_aes(key=key)


SERDE = aes(b"k" * 32)
STRANGERS = {"another key": aes(b"z" * 32), "another size": aes(b"k" * 16), "no key": JsonPlusSerializer()}
OPAQUE = {"copy", "threads", "stats", "collect"}
"""Commands that read neither metadata nor values."""


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]
    answer: str


def graph(saver: GCSSaver) -> Any:
    def ask(state: State) -> dict[str, Any]:
        answer = interrupt(f"{SECRET}?")
        return {"answer": answer, "messages": [AIMessage(f"{SECRET}: {answer}", id="a")]}

    return StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)


def test_a_graph_runs_is_interrupted_and_goes_on(make_saver: Any, raw: Any) -> None:
    config: Any = {**cfg(), "metadata": {"who": "me", "note": SECRET * 200}}
    graph(make_saver(serde=SERDE)).invoke({"messages": [HumanMessage(SECRET, id="h")]}, config)
    resumed = graph(make_saver(serde=SERDE))
    assert resumed.get_state(cfg()).interrupts[0].value == f"{SECRET}?"
    assert asyncio.run(resumed.ainvoke(Command(resume=SECRET), config))["answer"] == SECRET
    saver = make_saver(serde=SERDE)
    whole = list(saver.list(cfg()))
    assert len(whole) == 3
    assert [one.checkpoint["id"] for one in saver.list(cfg(), filter={"who": "me"})] == [
        one.checkpoint["id"] for one in whole
    ]
    assert len(list(saver.list(None, filter={"note": SECRET * 200}))) == 3, "a text that is too long to be indexed"
    assert list(saver.list(cfg(), filter={"who": "you"})) == []
    assert list(saver.admin.verify(depth="data")) == []
    assert saver.admin.repair() == []
    documents, objects = raw.snapshot()
    assert SECRET.encode() not in b"".join(objects.values())
    assert SECRET not in str(documents)
    with pytest.raises(SerializationError):
        graph(make_saver()).get_state(cfg())


@pytest.mark.parametrize("stranger", STRANGERS)
def test_without_the_key_nothing_reads_and_nothing_changes(make_saver: Any, raw: Any, stranger: str) -> None:
    with make_saver(serde=SERDE) as saver:
        fill(saver)
    before, events = raw.snapshot(), []
    other = make_saver(serde=STRANGERS[stranger], on_event=events.append)
    for call in (
        lambda: other.get_tuple(cfg()),
        lambda: other.get_tuple(cfg(n=1)),
        lambda: asyncio.run(other.aget_tuple(cfg())),
        lambda: list(other.list(cfg())),
        lambda: list(other.list(None)),
        lambda: list(other.list(cfg(), filter={"step": 2})),
        lambda: list(other.list(cfg(), filter={"step": [2]})),
        lambda: other.admin.history("t"),
        lambda: list(other.admin.verify(depth="data")),
        other.admin.repair,
        lambda: other.prune(["t"], strategy=KeepLast(1)),
        lambda: other.delete_for_runs(["run"]) or other.get_tuple(cfg()),
    ):
        with pytest.raises(SerializationError, match=r"of checkpoint '1f0.*', thread 't'") as caught:
            call()
        assert not isinstance(caught.value, DamageError)
        assert "another `serde`" in str(caught.value)
    assert raw.snapshot() == before
    assert not [event for event in events if type(event).__name__ in {"CheckpointDamaged", "CheckpointRecovered"}]


def test_upkeep_with_the_key(make_saver: Any, raw: Any, tmp_path: Any) -> None:
    saver = make_saver(serde=SERDE)
    fill(saver, last=6)
    fill(saver, "u")
    saver.copy_thread("t", "copy")
    saver.admin.export_thread("t", tmp_path / "t.tar")
    expected = [(one.checkpoint, one.metadata, one.pending_writes) for one in saver.list(cfg())]
    other = f"file://{tmp_path}/other"
    with GCSSaver.from_conn_string(other, serde=SERDE) as target:
        target.admin.import_thread(tmp_path / "t.tar")
        assert [(one.checkpoint, one.metadata, one.pending_writes) for one in target.list(cfg())] == expected
        saver.admin.transfer_thread("u", target)
        assert numbers(target, "u") == [4, 3, 2, 1]
        assert list(target.admin.verify(depth="data")) == []
    assert [(one.checkpoint, one.metadata, one.pending_writes) for one in saver.list(cfg("copy"))] == expected
    saver.prune(["t"], strategy=KeepLast(2))
    assert numbers(saver) == [6, 5]
    saver.admin.collect()
    assert list(saver.admin.verify(depth="data")) == []
    for name in list(raw.objects()):
        if name.startswith(next(iter(raw.objects())).split("/", 1)[0]):
            raw.delete_object(name)
    assert any(finding.is_damage for finding in make_saver(serde=SERDE).admin.verify(depth="data"))
    repaired = make_saver(serde=SERDE)
    assert repaired.admin.repair()
    assert not any(finding.is_damage and finding.kind == "corrupt" for finding in repaired.admin.verify(depth="data"))


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: words[0])
def test_a_command_says_that_it_has_no_key(command: Any, make_saver: Any, raw: Any, arguments: list[str]) -> None:  # noqa: F811
    with make_saver(serde=SERDE) as saver:
        fill(saver)
    before = raw.snapshot()
    ended = command(*arguments)
    if arguments[0] in OPAQUE:
        assert (ended.code, ended.err) == (0, "")
        return
    assert (ended.code, ended.out) == (SerializationError.exit_code, "")
    assert "written with another `serde`" in ended.err
    assert "The command line has no option for it. Call the method of a GCSSaver" in ended.err
    assert ended.err.count("\n") == 1
    assert raw.snapshot() == before


@pytest.mark.parametrize("arguments", NEEDING_NONE, ids=lambda words: words[0])
def test_a_command_that_reads_nothing_works(
    command: Any,  # noqa: F811
    make_saver: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with make_saver(serde=SERDE) as saver:
        fill(saver)
    ended = command(*arguments)
    assert (ended.code, ended.err) == (0, "")
    if arguments[0] != "delete":
        assert numbers(make_saver(serde=SERDE)) == [4, 3, 2, 1]
