"""`edit` of one item calls nothing that its neighbors name: a store that others can write may be edited."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langchain_core import messages
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import PortableSerializer, Stored, from_json, is_editable, to_json, trials
from langgraph_gcs_saver.portable.edits import value_of
from tests.patience import PATIENCE
from tests.security.hostile import Trap
from tests.system.build import cfg, put

MIB = 1 << 20
CONTAINERS = {"set": "builtins", "frozenset": "builtins", "deque": "collections"}

# LangGraph's strict serializer, which imports no class of an application, calls all of these.
PATTERN = Stored.of(1, ["re", "compile", ["secret", int(re.DEBUG)]])  # prints what it compiles
BOMB = Stored.of(0, ["builtins", "frozenset", Stored.of(0, ["ipaddress", "IPv4Network", "10.0.0.0/12"])])  # a million
ZONE = Stored.of(0, ["zoneinfo", "ZoneInfo", "evil/x"])  # imports tzdata.zoneinfo.evil
TIME = Stored.of(2, ["datetime", "time", {"hour": 1, "tzinfo": ZONE}])


def container(name: str, code: int, *items: Any) -> Stored:
    return Stored.of(code, [CONTAINERS[name], name, list(items) if code == 0 else [list(items)]])


def replaced(old: Any) -> str:
    """The value's JSON after its user has replaced a word, or the hour."""
    return json.dumps(to_json(old)).replace('"word"', '"another"').replace('"hour": 1', '"hour": 2')


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("name", CONTAINERS)
def test_neighbors_of_an_edited_item_are_not_made(
    name: str, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trap = Trap(tmp_path)
    named = [
        one
        for one in trap.objects()
        if isinstance(one, Stored) and one.type != ("langchain_core.messages.human", "HumanMessage")
    ]
    for beside in (PATTERN, BOMB, ZONE, TIME, *named):
        old = container(name, code, "word", beside)
        tracemalloc.start()
        try:
            trials.check_types(old, from_json(json.loads(replaced(old))))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 8 * MIB, beside
        assert capfd.readouterr().out == "", beside
    assert not trap.is_sprung


def test_the_command_makes_no_neighbors(tmp_path: Path) -> None:
    """In a working directory with a package that is imported for the zone, which only the store names."""
    package = tmp_path / "tzdata" / "zoneinfo"
    package.mkdir(parents=True)
    (tmp_path / "tzdata" / "__init__.py").touch()
    (package / "__init__.py").touch()
    sprung = tmp_path / "sprung"
    (package / "evil.py").write_text(f"open({str(sprung)!r}, 'w').close()\n", encoding="utf-8")
    uri = f"file://{tmp_path}/store"
    old = container("deque", 0, "word", PATTERN, ZONE, TIME, BOMB)
    with GCSSaver.from_conn_string(uri, serde=PortableSerializer()) as saver:
        put(saver, 1, {"log": old})
    arguments = ("edit", "t", "--channel", "log", "--set", replaced(old), "--json", "--store", uri)
    ended = subprocess.run(
        [sys.executable, "-m", "langgraph_gcs_saver.cli", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert json.loads(ended.stdout)["changed"], "and nothing else was printed"
    assert not sprung.exists()


TEXT = '{"a": x'
"""Arguments that are not whole: LangChain parses each beginning of them, and a few hundred KB take it hours."""

CALL = {"name": "f", "args": TEXT, "id": "1", "index": 0}
RAW_CALL = {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": TEXT}}
BLOCKS = [{**CALL, "type": kind} for kind in ("server_tool_call", "server_tool_call_chunk", "tool_call_chunk")]
FORMS = (
    TEXT,
    [TEXT],
    {"a": TEXT},
    {"tool_calls": [RAW_CALL]},
    {"function_call": RAW_CALL["function"]},
    [{**CALL, "type": "tool_call", "args": {"a": TEXT}}],
    [{**CALL, "type": "invalid_tool_call", "error": None}],
    [{**CALL, "type": "tool_call_chunk"}],
    *([{**CALL, "type": "tool_call_chunk", "args": stored}] for stored in (TEXT.encode(), bytearray(TEXT.encode()))),
    {"tool_calls": [{**RAW_CALL, "function": {"name": "f", "arguments": TEXT.encode()}}]},
    BLOCKS,
)
KINDS = [
    kind
    for kind in (getattr(messages, name) for name in messages.__all__)
    if isinstance(kind, type)
    and issubclass(kind, messages.BaseMessage)
    and kind not in {messages.BaseMessage, messages.BaseMessageChunk, messages.RemoveMessage}
]


def message(kind: type[messages.BaseMessage], **fields: Any) -> Stored:
    needed = {"content": "word", "role": "r", "name": "n", "tool_call_id": "1", "id": "1"}
    whole = {key: value for key, value in needed.items() if key in kind.model_fields}
    return Stored.of(5, [kind.__module__, kind.__name__, whole | fields, "model_validate_json"])


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What LangChain parses beginning by beginning."""
    found: list[str] = []

    def parse(text: str) -> dict[str, Any]:
        found.append(text)
        return {}

    monkeypatch.setattr("langchain_core.messages.ai.parse_partial_json", parse)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_that_are_not_whole_are_not_parsed(kind: type[messages.BaseMessage], parsed: list[str]) -> None:
    around = {"chunk_position": "last", "response_metadata": {"output_version": "v1"}}
    taken = set()
    for field in (*kind.model_fields, "another"):
        for form in FORMS:
            for fields in ({field: form}, around | {field: form}):
                with suppress(InvalidInputError):
                    trials.check_types(None, message(kind, **fields))
                    taken.add(field)
    assert {"content", "additional_kwargs", "response_metadata"} <= taken
    assert parsed == []


def test_langchain_parses_them(parsed: list[str]) -> None:
    AIMessageChunk(content="", tool_call_chunks=[tool_call_chunk(name="f", args=TEXT, id="1", index=0)])
    AIMessageChunk(content="", additional_kwargs={"tool_calls": [RAW_CALL]})
    assert parsed == [TEXT, TEXT]


def test_arguments_of_a_chunk_are_of_the_right_type() -> None:
    for value in (5, [TEXT], {"a": TEXT}):
        chunk = message(AIMessageChunk, tool_call_chunks=[{**CALL, "type": "tool_call_chunk", "args": value}])
        with pytest.raises(InvalidInputError, match="tool_call_chunks"):
            trials.check_types(None, chunk)


def refusal_of(kind: type[messages.BaseMessage], **fields: Any) -> str:
    """Why a message is refused; that takes little memory, however many of its items are wrong."""
    large = message(kind, **fields)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError) as refused:
            trials.check_types(None, large)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB
    assert len(str(refused.value)) < 1_000
    return str(refused.value)


MANY = 20_000
WRONG = {
    "content": (messages.HumanMessage, {"content": [0] * MANY}),
    "content after much that is right": (messages.HumanMessage, {"content": ["a"] * MANY + [0] * MANY}),
    "content as blocks": (messages.HumanMessage, {"content_blocks": [0] * MANY}),
    "calls": (messages.AIMessage, {"tool_calls": [{"name": 0, "args": 0, "id": 0}] * MANY}),
    "invalid calls": (messages.AIMessage, {"invalid_tool_calls": [{"name": 0, "args": 0, "id": 0}] * MANY}),
    "chunks of calls": (AIMessageChunk, {"tool_call_chunks": [{**CALL, "args": 0}] * MANY}),
    "raw calls": (
        AIMessageChunk,
        {"additional_kwargs": {"tool_calls": [{"function": {"name": 0, "arguments": 0}, "index": 0}] * MANY}},
    ),
    "arguments of one call": (
        messages.AIMessage,
        {"tool_calls": [{"name": "f", "args": dict.fromkeys(range(MANY)), "id": "1"}]},
    ),
}


@pytest.mark.parametrize(("kind", "fields"), WRONG.values(), ids=WRONG)
def test_errors_about_many_items_take_little(kind: type[messages.BaseMessage], fields: dict[str, Any]) -> None:
    assert "and more" in refusal_of(kind, **fields)


def test_an_item_far_behind_is_named() -> None:
    assert "[19999]" in refusal_of(messages.HumanMessage, content=["a"] * (MANY - 1) + [0])


def test_long_messages_that_langchain_makes_are_taken() -> None:
    call = {"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}
    blocks = ["a", {"type": "text", "text": "a"}] * 200
    for kind in KINDS:
        trials.check_types(None, message(kind, content=blocks))
    trials.check_types(None, message(messages.ToolMessage, content=[0] * 200))
    # LangChain does not look at raw calls beside others.
    raw = {"tool_calls": [{"function": {"name": 0, "arguments": "{}"}}] * 200}
    trials.check_types(None, message(messages.AIMessage, tool_calls=[call] * 200, additional_kwargs=raw))
    # Nor for calls in blocks.
    odd = [{**call, "args": None}] * 200
    trials.check_types(None, message(messages.AIMessage, tool_calls=[call] * 200, content_blocks=odd))
    trials.check_types(None, message(messages.AIMessage, content=[0] * 200, content_blocks=blocks[1:2]))


@pytest.mark.parametrize("name", [".document_loaders.langsmith", "utils", "_merge", "AIMessage.x", "__doc__"])
def test_a_class_that_is_no_message_is_not_looked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain's package would import a module for it."""
    module = "langchain_core.document_loaders.langsmith"
    monkeypatch.delitem(sys.modules, module, raising=False)
    fields = {"content": "word", "type": "human", "id": "1"}
    for where in ("langchain_core.messages.human", "langchain_core.messages.x"):
        with pytest.raises(InvalidInputError, match="is not a class of LangChain"):
            trials.check_types(None, Stored.of(5, [where, name, fields, "model_validate_json"]))
    assert module not in sys.modules


LONG = b"\xdb\x00\x00\x00\x04uuid"
SPELLINGS = {
    "a longer header of a text": b"\x93" + LONG + ormsgpack.packb("UUID") + ormsgpack.packb("0" * 32),
    "a shorter float": b"\x93" + ormsgpack.packb("a") + ormsgpack.packb("B") + b"\xca\x3f\x80\x00\x00",
    "a longer number": b"\x93" + ormsgpack.packb("a") + ormsgpack.packb("B") + b"\xcd\x00\x01",
    "a key twice": b"\x93" + ormsgpack.packb("a") + ormsgpack.packb("B") + b"\x82\xa1a\x01\xa1a\x02",
}


@pytest.mark.parametrize("data", SPELLINGS.values(), ids=SPELLINGS)
def test_a_neighbor_in_another_spelling_is_not_written_anew(data: bytes, tmp_path: Path) -> None:
    """It would count as edited, and be made; and it would not be what was stored."""
    own, other = Stored(0, data), Stored.of(0, PortableSerializer().loads_typed(("msgpack", data)))
    assert own != other
    for around in (lambda one: one, lambda one: ["word", one], lambda one: Stored.of(0, ["a", "B", {"x": one}])):
        assert from_json(to_json(around(own))) == around(other)
        assert is_editable(around(other))
        assert not is_editable(around(own))
    uri = f"file://{tmp_path}/store"
    with GCSSaver.from_conn_string(uri, serde=PortableSerializer()) as saver:
        put(saver, 1, {"log": ["word", own]})
        saved = saver.get_tuple(cfg())
    assert saved is not None
    with pytest.raises(InvalidInputError, match="JSON cannot express it exactly"):
        value_of(saved, "log")
