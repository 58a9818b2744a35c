"""`failover`: a person makes the replica the primary, and later goes back."""

import json
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.effects import Commit, Merge, QueryDocs
from langgraph_gcs_saver.errors import NotPrimaryError
from tests.cli.stored import put

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


@pytest.fixture
def stores(tmp_path):
    """The connection strings of a store with one step that is not shipped, and of its replica."""
    east, west = f"file://{tmp_path}/east", f"file://{tmp_path}/west"
    with GCSSaver.from_conn_string(east) as first, GCSSaver.from_conn_string(west) as second:
        parent = put(first, {"v": 1})
        first.admin.replicate(second)
        put(first, {"v": 2}, number=2, parent=parent)
    return east, west


def steps(uri):
    with GCSSaver.from_conn_string(uri) as saver:
        return len(list(saver.list({"configurable": {"thread_id": "t"}})))


def test_there_and_back(command, stores):
    east, west = stores
    shown = command("failover", "--store", east, "--to", west, "--dry-run")
    assert (shown.code, "Entries in the outbox: 1" in shown.out) == (0, True)
    assert command("failover", "--store", east, "--to", west, answer="n").code == 1
    assert command("failover", "--store", east, "--to", west).code == 2, "there is no terminal to ask at"
    assert steps(west) == 1
    done = command("failover", "--store", east, "--to", west, answer="y")
    assert (done.code, done.out) == (0, f"The primary is {west} (epoch 2).\nShipped to it: 1 change.\n")
    assert steps(west) == 2
    with GCSSaver.from_conn_string(east) as saver, pytest.raises(NotPrimaryError):
        put(saver, {"v": 3}, number=3)
    back = command("failover", "--store", west, "--to", east, "--yes", "--json")
    found = json.loads(back.out)
    assert (back.code, found["primary"], found["epoch"], found["unreached"]) == (0, east, 3, "")


def test_a_store_that_cannot_be_reached(command, stores):
    east, west = stores
    directory = Path(east.removeprefix("file://"))
    moved = directory.rename(directory.with_name("lost"))
    assert command("failover", "--store", east, "--to", west, "--force", "--dry-run").code == 7
    assert not directory.exists()
    forced = command("failover", "--store", east, "--to", west, "--force", "--yes")
    assert forced.code == 7
    assert f"The primary is {west}" in forced.out
    assert "Nothing that was acknowledged before 20" in forced.out
    assert "run it again" in forced.err
    with GCSSaver.from_conn_string(west) as saver:
        put(saver, {"v": 3}, number=3)
    # It is back.
    for one in directory.iterdir():
        one.unlink()
    directory.rmdir()
    moved.rename(directory)
    again = command("failover", "--store", east, "--to", west, "--force", "--yes")
    assert (again.code, "Shipped to it: 1 change." in again.out) == (0, True)
    assert steps(west) == 3


def test_a_failure_says_that_nothing_takes_writes(command, stores):
    east, west = stores
    with GCSSaver.from_conn_string(east) as saver:
        (name,) = [one.name for one in saver._backend.perform(QueryDocs("lg_outbox"))]
        saver._backend.perform(Commit((Merge(name, {"what": 1}),)))
    failed = command("failover", "--store", east, "--to", west, "--yes")
    assert failed.code == 4
    assert "The failover has not ended. If --store is fenced by now, neither store takes writes" in failed.err
    assert "Neither takes writes" in command("replication", "status", "--store", east, "--to", west).out
    assert command("failover", "--store", east, "--to", west, "--abort").code == 0


def test_what_was_not_completed_is_taken_back(command, stores):
    east, west = stores
    kept = command("failover", "--store", east, "--to", west, "--abort")
    assert (kept.code, kept.out) == (0, f"The primary is {east} (epoch 1).\n")
    assert command("failover", "--store", east, "--to", west, "--abort", "--force").code == 2


def test_stores_that_do_not_replicate(command, stores, tmp_path):
    east, west = stores
    other = f"file://{tmp_path}/other"
    assert command("setup", "--store", other).code == 0
    for first, second in ((east, other), (other, west)):
        refused = command("failover", "--store", first, "--to", second, "--yes")
        assert (refused.code, refused.out) == (2, "")
    done = command("failover", "--store", west, "--to", east, "--yes")
    assert (done.code, done.out) == (0, f"The primary is {east} (epoch 1).\n"), "it is the primary already"
