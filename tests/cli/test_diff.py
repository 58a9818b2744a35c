"""What differs between two checkpoints, printed and as JSON."""

import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from typer.testing import CliRunner

from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.cli.commands.diff import path_text
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.format.keys import checkpoint_doc
from langgraph_gcs_saver.portable.diff import Id, differences
from tests.behaviour.api import cfg, version
from tests.cli.stored import put
from tests.system.raw import open_raw

HOSTILE = "\x1b[2J\u202e[bold]\r"
BEFORE = {
    "gone": 1,
    "messages": [HumanMessage("Hello", id="h"), AIMessage("one\ntwo\nthree", id="a"), HumanMessage("no", id="x\x1b")],
    "plan": {"steps": [{"text": "go"}, 2], "left": HOSTILE, "k\n": 1},
    "same": [1, 2],
}
AFTER = {
    "messages": [
        AIMessage("one\n2\nthree", id="a"),
        HumanMessage("Hello", id="h"),
        AIMessage(f"new {HOSTILE}", id="n"),
    ],
    "plan": {"steps": [{"text": "stay"}, 2, 3], "more": True, "k\n": 2},
    "same": [1, 2],
}
TEXT = r"""
- step 1    1f000000-0000-6000-8000-000000000001  loop
+ step 2    1f000000-0000-6000-8000-000000000002  loop
gone  removed
  -: 1
messages
  - [id=x\x1b]
    human  x\x1b
      no
  > [id=a]: from place 1 to 0
  ~ [id=a].content:
      @@ -1,3 +1,3 @@
       one
      -two
      +2
       three
  + [id=n]
    ai  n
      new \x1b[2J\u202e[bold]\r
plan
  ~ steps[0].text: "go" -> "stay"
  + steps[2]: 3
  - left: "\u001b[2J\u202e[bold]\r"
  ~ k\n: 1 -> 2
  + more: true
"""


def run(store_uri, *arguments):
    result = CliRunner().invoke(app, ["--store", store_uri, "diff", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def pair(make_saver):
    saver = make_saver()
    one = put(saver, BEFORE)
    return one, put(saver, AFTER, number=2, parent=one)


def test_the_difference_is_printed(pair, store_uri):
    found = run(store_uri, "t", pair[0], "latest")
    assert all(line.isprintable() for line in found.split("\n"))
    assert found == TEXT[1:]
    assert run(store_uri, "t", "01", "02", "--channel", "gone").endswith("gone  removed\n  -: 1\n")
    assert run(store_uri, "t", "02", "02").endswith("no difference\n")


def test_the_difference_as_json(pair, store_uri):
    found = json.loads(run(store_uri, "t", *pair, "--json"))
    assert [found[side]["checkpoint_id"] for side in "ab"] == list(pair)
    assert found["not_compared"] == []
    channels = {one["channel"]: one for one in found["channels"]}
    assert channels.keys() == {"gone", "messages", "plan"}
    assert channels["gone"]["changes"] == [{"path": [], "kind": "removed", "before": 1}]
    assert {"path": ["steps", 0, "text"], "kind": "changed", "before": "go", "after": "stay"}.items() <= channels[
        "plan"
    ]["changes"][0].items()
    content = channels["messages"]["changes"][2]
    assert content["path"] == [{"id": "a"}, "content"]
    assert content["lines"] == ["@@ -1,3 +1,3 @@", " one", "-two", "+2", " three"]


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_deltachannels_without_a_value_are_named(make_saver, store_uri):
    saver = make_saver()
    one = put(saver, {"x": 1, "seen": [1]})
    put(saver, {"x": 1}, number=2, parent=one, metadata={"counters_since_delta_snapshot": {"seen": (1, 1)}})
    found = run(store_uri, "t", "01", "02")
    assert "seen  has changed: a DeltaChannel" in found
    assert "removed" not in found
    assert json.loads(run(store_uri, "t", "01", "02", "--json"))["not_compared"] == ["seen"]
    assert "seen" not in run(store_uri, "t", "01", "02", "--channel", "x")


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_checkpoints_of_a_time(make_saver, store_uri):
    saver, ids = make_saver(), []
    for number in (1, 2, 3):
        checkpoint = empty_checkpoint() | {
            "id": f"1f000000-0000-6000-8000-{number:012}",
            "ts": f"2030-01-0{number}T00:00:00+00:00",
            "channel_values": {"x": number},
            "channel_versions": {"x": version(number)},
        }
        saver.put(cfg("t", n=number - 1 or None), checkpoint, {"step": number}, {"x": version(number)})
        ids.append(checkpoint["id"])
    one, two, three = ids

    def compared(*arguments):
        found = json.loads(run(store_uri, "t", *arguments, "--json"))
        return found["a"]["checkpoint_id"], found["b"]["checkpoint_id"]

    assert compared("01") == compared("--at", "2030-01-01T12:00Z") == (one, three)
    assert compared("--at", "2030-01-01T12:00Z", "02") == (one, two)
    assert compared("--at", "2030-01-02T12:00Z", "--at", "2030-01-01T12:00Z") == (two, one)
    assert compared("02", "01") == (two, one)
    with pytest.raises(CommandError, match="A, or --at TIME"):
        run(store_uri, "t")
    with pytest.raises(CommandError, match="Name two to compare"):
        run(store_uri, "t", "01", "02", "--at", "2030-01-01")


def test_unknown_checkpoints(pair, store_uri):
    with pytest.raises(CommandError, match="has no checkpoint 'zzz'"):
        run(store_uri, "t", "01", "zzz")
    with pytest.raises(CommandError, match="thread 'none' has no checkpoint"):
        run(store_uri, "none", "01", "02")
    with pytest.raises(CommandError, match=r"has a channel 'plam'.*plan"):
        run(store_uri, "t", "01", "02", "--channel", "plam")


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_damaged_latest_checkpoint_is_told(pair, store_uri):
    raw, name = open_raw(store_uri), checkpoint_doc("t", "", pair[1])
    raw.set_document(name, raw.documents()[name] | {"manifest": b"flipped"})
    assert f"recovered   the latest checkpoint, {pair[1]}, is damaged" in run(store_uri, "t", "01", "latest")


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_differs_is_in_sight(make_saver, store_uri):
    saver = make_saver()
    one = put(saver, {"x": "a" * 300 + "old" + "b" * 300})
    put(saver, {"x": "a" * 300 + "new" + "b" * 300}, number=2, parent=one)
    (line,) = [line for line in run(store_uri, "t", "01", "02").split("\n") if "->" in line]
    assert "aaaold" in line.partition("->")[0]
    assert "aaanew" in line.partition("->")[2]
    assert len(line) < 250


def test_keys_of_other_types_are_others():
    assert [change.kind for change in differences({1: "a", "k": 1}, {True: "a", "k": 1})] == ["removed", "added"]


def test_paths():
    assert path_text(()) == ""
    assert path_text(("a", 0, Id("m"), "b")) == "a[0][id=m].b"
    assert path_text((0, "a", None)) == "[0].a.None"
