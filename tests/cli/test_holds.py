"""Holds in the commands: history, show, report, prune and delete. Names in them do nothing to a terminal or a page."""

import json

import pytest

from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows import holds, sets
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format.holds import Hold
from tests.behaviour.api import cfg, cid
from tests.cli.filled import HOSTILE, fill, is_harmless

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
ME = keys.member_thread_id("deal", "me")
SAVEPOINT = Hold("savepoint", "trip", HOSTILE)


@pytest.fixture
def set_id(make_saver):
    """A set of the newest of a thread's four checkpoints. A savepoint with a hostile name holds the second one."""
    saver = make_saver()
    fill(saver, ME)

    def perform(flow):
        return run(flow, saver._backend)

    begun = perform(sets.begin("deal", ["me"], None, 60.0, saver._context))
    assert perform(sets.prepare("deal", begun.set_id, saver._context)).state == "committed"
    assert perform(holds.hold(ME, cid(2), SAVEPOINT.key, saver._context))
    return begun.set_id


@LOCAL
def test_holds_are_shown(set_id, command, tmp_path):
    text = f"set {set_id} of team deal"
    ended = command("history", ME)
    assert "held by set" in " ".join(ended.out.split())  # a narrow column breaks the id
    assert is_harmless(ended.out)
    listed = json.loads(command("history", ME, "--json").out)
    assert [one["holds"] for one in listed if one["holds"]] == [[text], [str(SAVEPOINT)]]
    shown = command("show", ME, cid(2))
    assert "held by" in shown.out
    assert is_harmless(shown.out)
    assert "held by" not in command("show", ME, cid(3)).out
    assert json.loads(command("show", ME, "latest", "--json").out)["holds"] == [text]
    path = tmp_path / "report.html"
    assert command("report", ME, "--output", str(path)).code == 0
    page = path.read_text()
    assert f"held by <bdi>{text}</bdi>" in page
    assert HOSTILE not in page


@LOCAL
def test_what_is_held_stays(make_saver, set_id, command):
    text = f"set {set_id} of team deal"
    ended = command("prune", ME, "--keep-last", "1", "--yes", "--json")
    (plan,) = json.loads(ended.out)["plans"]
    assert {row["checkpoint_id"]: row["reason"] for row in plan["decisions"] if row["keep"]} == {
        cid(4): f"held by {text}",
        cid(2): f"held by {SAVEPOINT}",
    }
    ended = command("delete", ME, "--yes")
    assert (ended.code, f"'{ME}': {text} needs a checkpoint" in " ".join(ended.err.split())) == (2, True)
    assert f"needed by {text}" in " ".join(command("delete", ME, "--dry-run").out.split())
    assert make_saver().get_tuple(cfg(ME)) is not None
    assert command("delete", ME, "--yes", "--force").code == 0
    assert make_saver().get_tuple(cfg(ME)) is None
