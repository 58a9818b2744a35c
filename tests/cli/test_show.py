"""A checkpoint, readable: messages as a chat, the rest as JSON; nothing of it acts on the terminal."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph
from typer.testing import CliRunner

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.cli.commands.checkpoint import message_lines
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.errors import CheckpointCorruptError, InvalidInputError
from langgraph_gcs_saver.format.keys import checkpoint_doc
from langgraph_gcs_saver.portable import PortableSerializer, from_json
from tests.behaviour.api import cfg
from tests.cli.stored import put
from tests.patience import PATIENCE
from tests.system.raw import open_raw

HOSTILE = "\x1b[2Jwiped \u202eevil [bold red]no[/] \r\x07\x9b31m"


@dataclass
class Plan:
    text: str


VALUES = {
    "messages": [
        SystemMessage("Be brief.\nAlways.", id="s1"),
        HumanMessage([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": "u"}], name="Ann"),
        AIMessage(
            HOSTILE,
            id="a\x1b1",
            tool_calls=[{"name": "search", "args": {"q": HOSTILE}, "id": "c1"}],
            invalid_tool_calls=[{"name": "f", "args": "{", "id": "c2", "error": "bad", "type": "invalid_tool_call"}],
        ),
        ToolMessage("gone", tool_call_id="c1", status="error", id="t1"),
    ],
    "plan": Plan(HOSTILE),
    "text\x1b]0;": "one\n\ttwo",
    "raw": b"\x00\x01",
    "snapshot": _DeltaSnapshot([1, 2]),
    "odd": {1: float("nan"), "set": {1}},
    "branch:to:answer": None,
}


def run(store_uri, *arguments):
    result = CliRunner().invoke(app, ["--store", store_uri, "show", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def is_harmless(text):
    return all(line.isprintable() for line in text.split("\n"))


def test_a_checkpoint_is_readable(make_saver, store_uri):
    first = put(make_saver(), {"x": 1})
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    last = put(make_saver(), VALUES, number=2, parent=first, metadata={"run_id": "r\x1b", "note": HOSTILE})
    config["configurable"]["checkpoint_id"] = last
    make_saver().put_writes(config, [("messages", AIMessage("soon")), ("__interrupt__", HOSTILE)], "task\x1b")
    found = run(store_uri, "t")
    assert is_harmless(found)
    for piece in [
        f"checkpoint  {last}\nparent      {first}\n",
        "step        2, loop\nnext        answer\nmetadata\n",
        "messages\n  system  s1\n    Be brief.\n    Always.\n  human Ann\n    What is it?\n",
        '    [image_url] {"image_url": "u"}\n',
        "  ai  a\\x1b1\n    \\x1b[2Jwiped \\u202eevil [bold red]no[/] \\r\\x07\\x9b31m\n    -> search({",
        "    -> f({)  c2  invalid: bad\n",
        "  tool (answers c1) (error)  t1\n    gone\n",
        '  {\n    "<Plan>": {\n      "text": ',
        "text\\x1b]0;\n  one\n      two\n",
        'raw\n  "<2 bytes>"\n',
        "snapshot\n  [\n    1,\n    2\n  ]\n",
        "pending write to messages, task task\\x1b\n  ai\n    soon\n",
        "pending write to __interrupt__",
    ]:
        assert piece in found
    assert "branch:to" not in found


def test_json_gives_the_values_back(make_saver, store_uri):
    put(make_saver(), VALUES)
    found = json.loads(run(store_uri, "t", "--json"))
    serde = JsonPlusSerializer(allowed_msgpack_modules=[Plan])
    assert found["channels"].keys() == VALUES.keys()
    for channel, value in VALUES.items():
        stored = PortableSerializer().dumps_typed(from_json(found["channels"][channel]["value"]))
        assert stored == serde.dumps_typed(value)
    assert found["metadata"]["step"] == 1
    assert found["parent_checkpoint_id"] is None
    only = json.loads(run(store_uri, "t", "--json", "--channel", "plan"))
    assert only["channels"].keys() == {"plan"}
    assert "pending_writes" not in only
    assert run(store_uri, "t", "--channel", "raw") == 'raw\n  "<2 bytes>"\n'
    assert run(store_uri, "t", "--channel", "branch:to:answer") == "branch:to:answer\n  null\n"


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_checkpoints_are_named_by_a_part_of_their_id(make_saver, store_uri):
    saver = make_saver()
    one = put(saver, {"x": 1})
    two = put(saver, {"x": 2}, number=2, parent=one)
    put(saver, {"x": 3}, number=3, ns="sub\n\x1b")

    def shown(*arguments):
        return json.loads(run(store_uri, "t", *arguments, "--json"))["checkpoint_id"]

    assert shown() == shown("latest") == shown(two) == shown("02") == two
    assert shown(one) == shown("0001") == one
    assert shown(one[9:]) == shown("0-000000000001") == one
    assert shown("--ns", "sub\n\x1b").endswith("3")
    assert is_harmless(run(store_uri, "t", "--ns", "sub\n\x1b"))
    for arguments, error in [
        (["t", "1f0"], f"'1f0' names 2 checkpoints of thread 't': {two}, {one}. Give more of the id."),
        (["t", "6000-8000"], f"'6000-8000' names 2 checkpoints of thread 't': {two}, {one}. Give more of the id."),
        (["t", "3"], "has no checkpoint '3', and none whose id contains that"),
        (["t", ""], "has no checkpoint ''"),
        (["t", "--ns", "none"], "in namespace 'none'"),
        (["t", "--channel", "y"], "channel 'y' has no value"),
        (["none"], "thread 'none' has no checkpoint"),
        (["none", "abc"], "thread 'none' has no checkpoint"),
    ]:
        with pytest.raises(CommandError, match=error):
            run(store_uri, *arguments)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_part_that_many_have_names_some_of_them(make_saver, store_uri):
    saver, parent = make_saver(), None
    for number in range(1, 16):
        parent = put(saver, {"x": number}, number=number, parent=parent)
    with pytest.raises(CommandError) as caught:
        run(store_uri, "t", "6000")
    assert str(caught.value).count("1f000000-") == 10
    assert " and 5 more. " in str(caught.value)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_part_from_the_middle_of_an_id(make_saver, store_uri):
    """Ids of LangGraph have the time in front, and end with what other ids of the process end with."""
    saver, parent = make_saver(), None
    for middle in ("5b3c", "5b3d"):
        checkpoint = empty_checkpoint() | {"id": f"1f000000-0000-6000-{middle}-000000000001"}
        config = {
            "configurable": {"thread_id": "t", "checkpoint_ns": "", **({"checkpoint_id": parent} if parent else {})}
        }
        saver.put(config, checkpoint, {"source": "loop", "step": 1}, {})
        parent = checkpoint["id"]
    assert "5b3c-" in run(store_uri, "t", "5b3c")
    assert "5b3d-" in run(store_uri, "t", "3d-0")


def made_at(saver, *times, thread="t"):
    """Checkpoints that say that they were made at these times, oldest first; their ids."""
    ids = []
    for number, time in enumerate(times, 1):
        checkpoint = empty_checkpoint() | {"id": f"1f000000-0000-6000-8000-{number:012}", "ts": time}
        config = {
            "configurable": {"thread_id": thread, "checkpoint_ns": "", **({"checkpoint_id": ids[-1]} if ids else {})}
        }
        saver.put(config, checkpoint, {"source": "loop", "step": number}, {})
        ids.append(checkpoint["id"])
    return ids


TIMES = ("2030-01-31T10:00:00+00:00", "2030-01-31T11:00:00.500000+00:00", "2030-01-31T12:00:00Z", "2030-01-31T13:00:00")


def test_the_checkpoint_of_a_time(make_saver, store_uri):
    saver = make_saver()
    one, two, three, four = made_at(saver, *TIMES)

    def at(time):
        return json.loads(run(store_uri, "t", "--at", time, "--json"))["checkpoint_id"]

    assert at("2030-01-31T10:00:00Z") == at("2030-01-31T11:00:00.400Z") == at("2030-01-31T12:59:59+02:00") == one
    assert at("2030-01-31T11:00:00Z") == at("2030-01-31T11:00:01Z") == two
    assert at("2030-01-31T12:59:59Z") == three
    assert at("2030-01-31T13:00:00Z") == at("2040-01-01") == four
    for time in ("2030-01-31T09:59:59Z", "10m"):
        with pytest.raises(CommandError, match=r"thread 't' has no checkpoint from \d{4}-.* or before\."):
            at(time)
    with pytest.raises(CommandError, match=r"or before in namespace 'sub'\."):
        run(store_uri, "t", "--at", "2040-01-01", "--ns", "sub")
    with pytest.raises(CommandError, match="CHECKPOINT and --at"):
        run(store_uri, "t", one, "--at", "2040-01-01")
    for time in ("2030-01-31T11:30:00+00:00", "2030-01-31T13:30:00+02:00"):
        assert saver.admin.checkpoint_at(cfg(), datetime.fromisoformat(time)) == two
    assert asyncio.run(saver.admin.acheckpoint_at(cfg(), datetime.fromisoformat(time))) == two
    assert saver.admin.checkpoint_at(cfg("none"), datetime.now(timezone.utc)) is None
    for wrong in ("2030-01-31", datetime.min):  # noqa: DTZ901 - local time
        with pytest.raises(InvalidInputError, match="time is"):
            saver.admin.checkpoint_at(cfg(), wrong)


def test_a_time_as_history_shows_it(make_saver, store_uri):
    one, two = made_at(make_saver(), "2030-01-31T10:00:00.900000+00:00", "2030-01-31T10:00:01.200000+00:00")

    def at(time):
        return json.loads(run(store_uri, "t", "--at", time, "--json"))["checkpoint_id"]

    assert at("2030-01-31 10:00:00Z") == at("2030-01-31T10:00:01.100000Z") == one
    assert at("2030-01-31 10:00:01Z") == two
    with pytest.raises(CommandError, match="no checkpoint"):
        at("2030-01-31T10:00:00.800000Z")


def test_the_time_of_a_copy_is_that_of_its_original(make_saver, store_uri):
    saver = make_saver()
    made_at(saver, "2020-01-01T00:00:00+00:00", "2020-01-02T00:00:00+00:00")
    saver.copy_thread("t", "copy")
    shown = run(store_uri, "copy", "--at", "2020-01-01T12:00Z")
    assert "-000000000001" in shown
    assert "2020-01-01T00:00:00+00:00" in shown


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_damaged_checkpoint_of_a_time(make_saver, store_uri):
    """One that cannot say when it was made counts by when it was stored; what it held is not made up of another."""
    saver = make_saver()
    one, two = made_at(saver, "2020-01-01T00:00:00+00:00", "2020-01-02T00:00:00+00:00")
    raw, name = open_raw(store_uri), checkpoint_doc("t", "", two)
    raw.set_document(name, raw.documents()[name] | {"manifest": b"flipped"})
    raw.close()
    assert one in run(store_uri, "t", "--at", "2020-01-03")
    with pytest.raises(CheckpointCorruptError):
        run(store_uri, "t", "--at", "0s")


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_a_deltachannel_is_made_of(make_saver, store_uri):
    class State(TypedDict):
        seen: Annotated[
            list, DeltaChannel(lambda value, updates: [*value, *(item for update in updates for item in update)])
        ]

    builder = StateGraph(State)
    builder.add_node("node", lambda state: {"seen": ["two"]})
    builder.add_edge(START, "node")
    builder.compile(checkpointer=make_saver()).invoke({"seen": ["one"]}, {"configurable": {"thread_id": "t"}})
    found = json.loads(run(store_uri, "t", "--json"))
    assert found["delta_channels"]["seen"]["writes"] == [["one"], ["two"]]
    text = run(store_uri, "t", "--channel", "seen")
    assert 'write 2 of 2\n  [\n    "two"\n  ]\n' in text


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_damaged_latest_checkpoint_is_told(make_saver, store_uri):
    saver = make_saver()
    one = put(saver, {"x": 1})
    two = put(saver, {"x": 2}, number=2, parent=one)
    raw, name = open_raw(store_uri), checkpoint_doc("t", "", two)
    raw.set_document(name, raw.documents()[name] | {"manifest": b"flipped"})
    found = run(store_uri, "t")
    assert f"checkpoint  {one}\n" in found
    assert f"recovered   the latest checkpoint, {two}, is damaged" in found
    assert f"recovered   the latest checkpoint, {two}, is damaged" in run(store_uri, "t", "--channel", "x")
    with pytest.raises(CheckpointCorruptError):
        run(store_uri, "t", two)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_no_key_hides_another(make_saver, store_uri):
    put(make_saver(), {"x": {1: "number", "1": "text"}})
    shown = json.loads("".join(run(store_uri, "t", "--channel", "x").split("\n")[1:]))
    assert shown == {"<map>": [[1, "number"], ["1", "text"]]}


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_as_a_user_runs_it(make_saver, store_uri, tmp_path):
    put(make_saver(), VALUES, thread="t\x1b[2J")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore::FutureWarning", "TERM": "xterm", "FORCE_COLOR": "1"}
    environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "none")
    command = [sys.executable, "-m", "langgraph_gcs_saver.cli", "show", "t\x1b[2J", "--store", store_uri]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0
    # In color: the only escapes are those of colors, which come from rich.
    assert "\x1b[1m" in ended.stdout
    assert "\x1b[2J" not in ended.stdout
    assert "\\x1b[2Jwiped" in ended.stdout
    assert not set("\u202e\r\x07\x9b") & set(ended.stdout)


def test_the_saver_lists_ids_only(make_saver, monkeypatch):
    from langgraph_gcs_saver.flows import ids

    monkeypatch.setattr(ids, "IDS_PER_PAGE", 2)
    saver = make_saver()
    config = {"configurable": {"thread_id": "t"}}
    assert saver.admin.checkpoint_ids(config) == []
    made = [put(saver, {"x": n}, number=n) for n in range(1, 6)]
    put(saver, {"x": 9}, number=9, ns="other")
    assert saver.admin.checkpoint_ids(config) == made[::-1]
    assert isinstance(saver, GCSSaver)


async def test_the_saver_lists_ids_asynchronously(make_saver):
    async with make_saver() as saver:
        made = put(saver, {"x": 1})
        assert await saver.admin.acheckpoint_ids({"configurable": {"thread_id": "t"}}) == [made]


@pytest.mark.parametrize("calls", [5, "text", {"name": "search"}, [7, None]], ids=repr)
def test_tool_calls_that_are_none(calls):
    """Whatever a store holds in place of them."""
    found = [line.plain for line in message_lines({"type": "ai", "content": "x", "tool_calls": calls})]
    assert len(found) >= 3
    assert found[-1].strip().startswith("->")
