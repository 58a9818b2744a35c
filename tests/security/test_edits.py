"""`edit` of one item calls nothing that its neighbors name: a store that others can write may be edited."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.portable import PortableSerializer, Stored, from_json, to_json, trials
from tests.patience import PATIENCE
from tests.security.hostile import Trap
from tests.system.build import put

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


def test_arguments_that_are_not_whole_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain parses each beginning of them: a few hundred KB take it hours."""
    parsed = []
    monkeypatch.setattr("langchain_core.messages.ai.parse_partial_json", lambda text: parsed.append(text) or {})
    call = {"name": "f", "args": '{"a": x', "id": "1", "index": 0, "type": "tool_call_chunk"}
    fields = {"content": "word", "type": "AIMessageChunk", "tool_call_chunks": [call]}
    AIMessageChunk(**fields)
    assert parsed.pop() == call["args"]
    old = Stored.of(5, ["langchain_core.messages.ai", "AIMessageChunk", fields, "model_validate_json"])
    trials.check_types(old, from_json(json.loads(replaced(old))))
    assert parsed == []
