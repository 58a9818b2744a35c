"""`langgraph-gcs team`: list, show, checkpoint, verify and restore."""

import json

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import SetAbortedError
from langgraph_gcs_saver.format import keys
from tests.system.build import cfg, cid, put, values
from tests.system.raw import open_raw

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


@pytest.fixture
def uri(store_uri):
    """A store with a team of two members, each with two checkpoints."""
    with GCSSaver.from_conn_string(store_uri) as saver:
        for member in "ab":
            for number in (1, 2):
                put(saver, number, {"v": f"{member}{number}"}, parent=number - 1 or None, thread=f"crew/{member}")
        saver.team("crew", ["a", "b"]).checkpoint("before \x1b[31mmerge")
    return store_uri


def continue_threads(uri):
    """A third checkpoint of each member."""
    with GCSSaver.from_conn_string(uri) as saver:
        for member in "ab":
            put(saver, 3, {"v": "later"}, parent=2, thread=f"crew/{member}")


def tips(uri):
    with GCSSaver.from_conn_string(uri) as saver:
        return [values(saver.get_tuple(cfg(thread=f"crew/{member}")))["v"] for member in "ab"]


def test_list(command, uri):
    shown = command("team", "list").out
    assert shown.split("\n")[0].split() == ["team", "members", "committed", "sets", "newest", "(UTC)", "label"]
    assert "crew" in shown
    assert "before \\x1b[31mmerge" in shown
    (found,) = json.loads(command("team", "list", "--json").out)
    assert (found["team"], found["threads"], found["retention"]) == ("crew", {"a": "crew/a", "b": "crew/b"}, 10)
    (saved,) = found["sets"]
    assert (saved["state"], saved["cut"]) == ("committed", {"a": cid(2), "b": cid(2)})
    assert saved["begun"] <= saved["decided"]
    assert saved["restored"] is None


def test_list_without_teams(command, tmp_path):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/empty") as saver:
        put(saver, 1, {"v": 1})
    assert command("team", "list", "--store", f"file://{tmp_path}/empty").out == "There are no teams.\n"


def test_show(command, uri):
    shown = command("team", "show", "crew").out
    assert all(text in shown for text in ("crew/a", "crew/b", "committed"))
    found = json.loads(command("team", "show", "crew", "--json").out)
    assert (found["threads"], len(found["sets"])) == ({"a": "crew/a", "b": "crew/b"}, 1)
    ended = command("team", "show", "unknown")
    assert (ended.code, ended.out) == (1, "")
    assert "no team 'unknown'" in ended.err


def test_remove(command, uri):
    with GCSSaver.from_conn_string(uri) as saver, pytest.raises(SetAbortedError, match="typo"):
        saver.team("crew", members=["typo"]).checkpoint(timeout=1)  # clock: the set cannot be committed at any time
    assert "typo" in command("team", "show", "crew").out
    assert "typo is no member of team 'crew' any more" in command("team", "remove", "crew", "typo").out
    ended = command("team", "remove", "crew", "typo")
    assert (ended.code, "is no member of team 'crew': a, b" in ended.err) == (1, True)
    assert json.loads(command("team", "remove", "crew", "a", "--json").out) == {"team": "crew", "member": "a"}
    found = json.loads(command("team", "show", "crew", "--json").out)
    assert (list(found["threads"]), found["sets"][-1]["members"]) == (["b"], ["a", "b"])
    assert command("team", "checkpoint", "crew").code == 0


def test_checkpoint(command, uri):
    continue_threads(uri)
    ended = command("team", "checkpoint", "crew", "--label", "again")
    assert ended.code == 0
    assert "(again) of team 'crew': committed, 2 members" in ended.out
    found = json.loads(command("team", "checkpoint", "crew", "--quiesce", "--json").out)
    assert (found["state"], found["cut"]) == ("committed", {"a": cid(3), "b": cid(3)})
    assert command("team", "checkpoint", "unknown").code == 1
    with GCSSaver.from_conn_string(uri) as saver:
        saver.admin.delete_thread("crew/b", force=True)
    ended = command("team", "checkpoint", "crew", "--timeout", "1")
    assert ended.code == 6
    assert "b" in ended.err
    shown = command("team", "show", "crew").out
    assert "missing: b" in shown
    assert shown.count("broken") == 3


def test_verify(command, uri):
    ended = command("team", "verify", "crew")
    assert (ended.code, ended.out.endswith("of team 'crew' is whole: every byte was read.\n")) == (0, True)
    raw = open_raw(uri)
    name = keys.checkpoint_doc("crew/b", "", cid(2))
    raw.set_document(name, {**raw.documents()[name], "holds": {}})
    ended = command("team", "verify", "crew")
    assert ended.code == 4
    assert "does not hold it" in ended.out
    assert "is damaged: 1 finding." in ended.out
    found = json.loads(command("team", "verify", "crew", "--json").out)
    assert [(one["kind"], one["thread_id"]) for one in found["findings"]] == [("corrupt", "crew/b")]
    # A look at the whole store finds it too.
    ended = command("verify")
    assert ended.code == 4
    assert "Thread 'crew/b'" in ended.out
    assert "does not hold it" in ended.out
    assert command("verify", "crew/b").code == 0
    state = keys.set_doc("crew", found["set_id"])
    raw.set_document(state, {**raw.documents()[state], "state": "broken"})
    assert "Teams\n" in command("verify").out


def test_restore(command, uri):
    continue_threads(uri)
    ended = command("team", "restore", "crew", "--dry-run")
    assert (ended.code, tips(uri)) == (0, ["later", "later"])
    assert f"\n  crew/a: {cid(3)} -> {cid(2)}\n" in ended.out
    ended = command("team", "restore", "crew")
    assert (ended.code, tips(uri)) == (2, ["later", "later"])
    ended = command("team", "restore", "crew", answer="n")
    assert (ended.code, tips(uri)) == (1, ["later", "later"])
    ended = command("team", "restore", "crew", answer="y")
    assert (ended.code, tips(uri)) == (0, ["a2", "b2"])
    assert "Restore 2 threads? [y/N]" in ended.err
    assert ended.out.endswith("2 threads restored.\n")
    found = json.loads(command("team", "restore", "crew", "--yes", "--json").out)
    assert found["done"]
    assert set(found["plans"][0]["threads"]) == {"crew/a", "crew/b"}
    ended = command("team", "restore", "crew", "unknown", "--yes")
    assert ended.code == 2
    assert "no set 'unknown'" in ended.err
    ended = command("team", "restore", "other", "--yes")
    assert ended.code == 1
    assert "has no committed set" in ended.err
