"""leases and pause: which processes hold leases, and the request that one of them ends its run."""

import json

import pytest

from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.format import keys
from tests.cli.filled import is_harmless

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

HOSTILE = "\x1b[31m'; rm -rf / #\n\u202e"


def test_leases_are_listed_with_their_holders(saver, command):
    saver.setup()
    assert command("leases").out == "There are no leases.\n"
    with saver.thread("one").lease(owner="job 7"), saver.thread("two").lease(owner="job 8"):
        shown = command("leases")
        assert shown.code == 0
        for word in ("one", "job 7", "two", "job 8", "last beat"):
            assert word in shown.out
        assert "expired" not in shown.out
        found = json.loads(command("leases", "--json").out)
        assert {(one["thread_id"], one["owner"], one["token"], one["ttl"]) for one in found} == {
            ("one", "job 7", 1, 60.0),
            ("two", "job 8", 1, 60.0),
        }
        assert command("leases", "--expired").out == "There are no such leases.\n"
        assert json.loads(command("leases", "--expired", "--json").out) == []
    assert command("leases").out == "There are no leases.\n"


def test_an_expired_lease_is_marked(saver, command):
    def expire():
        name = keys.fence_doc("t")
        doc = (yield from GetDocs((name,)))[name]
        yield from Commit((Merge(name, {**doc.fields, "ttl": 1e-9}),))

    with saver.thread("t").lease(owner="crashed"):
        run(expire(), saver._backend)
        shown = command("leases", "--expired")
        assert "crashed" in shown.out
        assert "expired" in shown.out
        (found,) = json.loads(command("leases", "--json").out)
        assert found["is_expired"] is True


def test_hostile_names_are_shown_harmlessly(saver, command):
    with saver.thread(HOSTILE).lease(owner=HOSTILE):
        for arguments in (("leases",), ("pause", HOSTILE), ("leases", "--json")):
            shown = command(*arguments)
            assert shown.code == 0
            assert is_harmless(shown.out)
    assert is_harmless(command("pause", HOSTILE).err)


def test_pause_leaves_a_wish_and_withdraws_it(saver, command):
    def wish():
        name = keys.beat_doc("t")
        return (yield from GetDocs((name,)))[name].fields.get("wish")

    with saver.thread("t").lease():
        assert command("pause", "t").out == "t: its holder is asked to end its run at the next boundary.\n"
        assert run(wish(), saver._backend) == "pause"
        assert json.loads(command("pause", "t", "--cancel", "--json").out) == {"thread_id": "t", "pause": False}
        assert run(wish(), saver._backend) is None
        assert command("pause", "t", "--cancel").out == "t: the request is withdrawn.\n"


def test_pause_without_a_holder_says_so(saver, command):
    saver.setup()
    ended = command("pause", "t")
    assert ended.code == 1
    assert "no process holds a lease of thread 't'" in ended.err


def test_a_deletion_ends_a_lease_only_by_force(saver, command):
    with saver.thread("t").lease(owner="job 7") as lease:
        refused = command("delete", "t", "--yes")
        assert refused.code == 10
        assert "job 7" in refused.err
        assert not lease.lost
        assert command("delete", "t", "--yes", "--force").code == 0
        assert command("leases").out == "There are no leases.\n"
        assert not lease.release()
