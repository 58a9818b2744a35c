"""recoveries: what crashes and damage have cost."""

import json

import pytest

from langgraph_gcs_saver import run
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import Commit, Merge
from langgraph_gcs_saver.format import keys
from tests.cli import agents_that_work
from tests.cli.filled import is_harmless

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

HOSTILE = "\x1b[31m'; rm -rf / #\n\u202e"


def plant(saver, thread_id, time, **fields):
    name = keys.recovery_doc(thread_id, time, "nonce")
    whole = {"kind": "takeover", "expires": time, "held": 1.0, "down": 2.0, **fields}
    runner.run(iter(Commit((Merge(name, whole),))), saver._backend)


@pytest.fixture
def _recovered(saver):
    graph = agents_that_work.graph.copy({"checkpointer": saver})
    for thread_id in ("t", "u"):
        run(graph, {"log": ["in"]}, {"configurable": {"thread_id": thread_id}})
    plant(saver, "t", 1_700_000_000_000_000_000, lost=12.34, restore=0.5, ran_again='["ask", "b"]')
    plant(saver, "u", 1_700_000_001_000_000_000)


def test_there_are_none(saver, command):
    saver.setup()
    assert command("recoveries").out == "There are no recovery records.\n"
    assert json.loads(command("recoveries", "--json").out) == []


@pytest.mark.usefixtures("_recovered")
def test_records_are_listed(command):
    shown = command("recoveries")
    assert shown.code == 0
    for word in ("thread", "2023-11-14 22:13:20", "takeover", "12.3", "0.5", "ask, b", "22:13:21"):
        assert word in shown.out
    assert "22:13:21" not in command("recoveries", "t").out
    (found,) = json.loads(command("recoveries", "t", "--json").out)
    assert found == {
        "thread_id": "t",
        "time": "2023-11-14T22:13:20+00:00",
        "kind": "takeover",
        "lost": 12.34,
        "down": 2.0,
        "held": 1.0,
        "restore": 0.5,
        "ran_again": ["ask", "b"],
        "labels": {},
        "expires": "2023-11-14T22:13:20+00:00",
    }
    assert [one["thread_id"] for one in json.loads(command("recoveries", "--json").out)] in (["t", "u"], ["u", "t"])


def test_names_are_shown_harmlessly(saver, command):
    plant(saver, "t", 1, ran_again=json.dumps([HOSTILE]))
    shown = command("recoveries")
    assert shown.code == 0
    assert is_harmless(shown.out)


@pytest.mark.usefixtures("_recovered")
def test_labels_are_shown_if_there_are_any(saver, command):
    assert "labels" not in command("recoveries").out
    plant(saver, "t", 3, labels='{"app": "shop", "agent": "billing"}')
    shown = command("recoveries").out
    assert "labels" in shown
    assert "agent=billing, app=shop" in " ".join(shown.split())
    found = json.loads(command("recoveries", "t", "--json").out)
    assert [one["labels"] for one in found] == [{"app": "shop", "agent": "billing"}, {}]
    plant(saver, "t", 4, labels=json.dumps({"agent": HOSTILE}))
    assert is_harmless(command("recoveries").out)


@pytest.mark.usefixtures("_recovered")
def test_a_thread_that_is_not_there(command):
    shown = command("recoveries", "typo")
    assert shown.code == 1
    assert "no thread 'typo'" in shown.err


@pytest.mark.usefixtures("_recovered")
def test_collect_deletes_them(command):
    assert "2 documents" in command("collect", "--yes").out
    assert command("recoveries").out == "There are no recovery records.\n"
