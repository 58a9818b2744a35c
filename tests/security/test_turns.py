"""Turns in an encrypted store: what is in clear, and what an attacker who can write makes runs and workers do."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from langgraph_gcs_saver import run
from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.errors import CheckpointCorruptError, ClearTextError
from langgraph_gcs_saver.format import frames, keys, seals
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.turns import TURN
from tests.behaviour.test_work import INPUT, BrokenError, World, config, recover
from tests.incremental.eax import Eax

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
KEY = Eax("the key")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def saver(make_saver: Any) -> Any:
    return make_saver(cipher=KEY)


def test_what_is_in_clear(saver, raw, world):
    graph = world.graph(saver, name="a-secret-graph", ask=("a secret question",))
    run(graph, {"log": ["a secret input"]}, config(), request_id="a secret id", context={"about": "a secret context"})
    saver.thread("t").answer("a secret answer", request_id="a secret reply")
    stored = repr([*raw.documents().items()])
    assert "secret" not in stored
    assert hashlib.sha256(b"a secret reply").hexdigest()[:32] in stored  # a guess of the id reproduces it
    assert raw.documents()[keys.active_doc("t")] == {"thread_id": "t", "state": "due", "attempts": 0}


@pytest.mark.parametrize("state", ["due", "crashed", "running", "paused"])
def test_a_forged_note_takes_no_thread_past_a_breakpoint(saver, raw, world, state):
    graph = world.graph(saver, interrupt_before=["z"])
    run(graph, INPUT, config())
    raw.set_document(keys.active_doc("t"), {"thread_id": "t", "state": state, "attempts": 0})
    assert recover(saver, graph) == []
    assert "z" not in world.ran


@pytest.mark.parametrize("before", [None, 3, "z", {"z": 1}, ["z", 1], [["z"]]])
def test_forged_breakpoints_are_damage(make_saver, raw, world, before):
    """Without a cipher, an attacker who can write can seal anything."""
    saver, codec, name = make_saver(), Codec(None), keys.resume_doc("t")
    graph = world.graph(saver)
    world.failing = {"b"}
    with pytest.raises(BrokenError):
        run(graph, INPUT, config(), interrupt_before=["z"])
    fields = raw.documents()[name]
    head, tail = seals.opened(name, seals.plain_of(Doc(name, fields, 1, 1), TURN, codec))
    assert head["before"] == ["z"]
    forged = seals.close(frames.envelope({**head, "before": before}, tail), (name, TURN), codec)
    raw.set_document(name, {**fields, TURN: forged})
    world.failing = set()
    assert [(one.outcome, one.error) for one in recover(saver, graph)] == [("failed", "CheckpointCorruptError")]
    assert "z" not in world.ran


def test_turns_in_clear_are_not_resumed(make_saver, saver, raw, world):
    graph = world.graph(saver)
    world.failing = {"b"}
    for thread_id in ("t", "u"):
        with pytest.raises(BrokenError):
            run(graph, INPUT, config(thread_id), request_id="r")
    keyless = make_saver()
    with pytest.raises(BrokenError):
        run(world.graph(keyless), INPUT, config("clear"), request_id="r")
    world.failing = set()
    raw.set_document(keys.resume_doc("t"), raw.documents()[keys.resume_doc("clear")])
    raw.set_document(keys.requests_doc("u"), raw.documents()[keys.requests_doc("clear")])
    world.ran.clear()
    assert {one.outcome for one in recover(saver, graph)} == {"failed"}
    (plan,) = saver.admin.plan_repair("clear")
    assert {one.name: one.action for one in plan.steps}[keys.resume_doc("clear")] == "leave", "perhaps from before"
    for thread_id in ("t", "u", "clear"):
        with pytest.raises((ClearTextError, CheckpointCorruptError)):  # a digest is bound to its name
            run(graph, INPUT, config(thread_id), request_id="r")
    assert world.ran == []


def test_what_remains_possible_with_turns(saver, raw, world):
    """Without the list of requests, the retry of a request that others have followed looks like a new one."""
    graph = world.graph(saver)
    first = run(graph, INPUT, config(), request_id="r1")
    run(graph, INPUT, config(), request_id="r2")
    assert run(graph, INPUT, config(), request_id="r1") == first
    raw.delete_document(keys.requests_doc("t"))
    world.ran.clear()
    run(graph, INPUT, config(), request_id="r1")
    assert world.ran == ["a", "b", "z"]
