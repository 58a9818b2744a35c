"""`replicate` and `replication`: as a person gives them, on files, on the emulators, and as a process that is ended."""

import json
import signal
import subprocess

import pytest

from langgraph_gcs_saver import GCSSaver
from tests.cli.test_demo import LANGGRAPH_GCS, emulators_uri, environment  # noqa: F401 - fixtures
from tests.patience import PATIENCE, eventually
from tests.stateful.threads import everything, put

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


@pytest.fixture
def other(tmp_path):
    return f"file://{tmp_path}/other"


def states(uri, thread="t"):
    with GCSSaver.from_conn_string(uri) as saver:
        return everything(saver, thread)


def fill(uri, thread, *numbers):
    with GCSSaver.from_conn_string(uri) as saver:
        for n in numbers:
            put(saver, thread, n, n - 10 if n > 10 else None)


def test_a_replica_on_the_emulators(command, store_uri, emulators_uri):  # noqa: F811
    fill(store_uri, "t", 10, 20)
    ended = command("replicate", "--to", emulators_uri)
    assert ended.code == 0
    assert "of 1 thread, " in ended.out
    assert states(emulators_uri) == states(store_uri)
    assert "There was nothing to ship." in command("replicate", "--to", emulators_uri).out


def test_the_status(command, store_uri, other):
    assert command("setup").code == 0
    for name in ("status", "reconcile"):
        mistyped = command("replication", name, "--to", other)
        assert (mistyped.code, "There is no store in" in mistyped.err) == (7, True)
    assert command("setup", "--store", other).code == 0
    ended = command("replication", "status", "--to", other, "--json")
    found = json.loads(ended.out)
    assert (found["source_role"], found["target_role"], found["mark"]) == ("none", "none", None)
    assert "There is no mark" in command("replication", "status", "--to", other).out
    assert command("replication", "status", "--to", other, "--most", "52w").code == 4
    shipped = json.loads(command("replicate", "--to", other, "--json").out)
    assert (shipped["documents"], shipped["forks"], shipped["failures"]) == (0, [], [])
    fill(store_uri, "t", 10)
    text = command("replication", "status", "--to", other).out
    assert f"{store_uri}: primary\n{other}: replica\nEpoch 1\nThe replica has everything until 20" in text
    assert "Entries in the outbox: 1. The oldest is " in text
    assert json.loads(command("replicate", "--to", other, "--json").out)["entries"] == 1
    assert command("replication", "status", "--to", other, "--most", "52w").code == 0
    assert "Entries in the outbox: 0.\n" in command("replication", "status", "--to", other).out
    assert command("failover", "--to", other, "--yes").code == 0
    alarm = command("replication", "status", "--to", other, "--most", "52w")
    assert (alarm.code, "not the primary" in alarm.err) == (4, True)
    followed = command("replicate", "--follow", "--to", other)
    assert (followed.code, "not the primary" in followed.err) == (2, True)


def test_a_comparison(command, store_uri, other):
    fill(store_uri, "t", 10)
    assert command("setup", "--store", other).code == 0
    told = command("replication", "reconcile", "--to", other)
    assert told.code == 2
    assert "is not replicated to" in told.err
    with GCSSaver.from_conn_string(store_uri) as late:
        put(late, "t", 20, 10)
        command("replicate", "--to", other)
        put(late, "t", 30, 20)  # it does not know that there is a replica
    told = command("replication", "reconcile", "--to", other)
    assert "Thread 't': " in told.out
    assert told.out.endswith("Threads compared: 1. Documents shipped: 3.\n")
    assert states(other) == states(store_uri)
    (found,) = json.loads(command("replication", "reconcile", "t", "--to", other, "--json").out)
    assert (found["thread_id"], found["documents"]) == ("t", 0)
    told = command("replication", "reconcile", "mistyped", "--to", other)
    assert (told.code, "there is no thread 'mistyped'" in told.err) == (1, True)


def test_the_status_of_other_stores(command, store_uri, other, tmp_path):
    fill(store_uri, "t", 10)
    assert command("replicate", "--to", other).code == 0
    swapped = command("replication", "status", "--store", other, "--to", store_uri)
    assert f"The primary is {store_uri}. Swap the two stores" in swapped.out
    assert "behind" not in swapped.out
    third = f"file://{tmp_path}/third"
    assert command("setup", "--store", third).code == 0
    for first, second in ((store_uri, third), (third, other)):
        refused = command("replication", "status", "--store", first, "--to", second)
        assert (refused.code, "is replicated with" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("{store}", "cannot be its own replica"),
        ("memory:", "memory:"),
        ("nonsense", "The forms are"),
        ("{used}", "has threads, and is no replica"),
    ],
)
def test_what_can_be_no_replica(command, store_uri, tmp_path, to, told):
    fill(store_uri, "t", 10)
    fill(f"file://{tmp_path}/used", "t", 10)
    ended = command("replicate", "--to", to.format(store=store_uri, used=f"file://{tmp_path}/used"))
    assert ended.code == 2
    assert told in ended.err
    assert "Traceback" not in ended.err


def test_a_follower_is_a_process(store_uri, other, environment):  # noqa: F811
    fill(store_uri, "t", 10)
    words = ["replicate", "--store", store_uri, "--to", other, "--follow", "--every", "1s", "--json"]
    with subprocess.Popen(
        [*LANGGRAPH_GCS, *words], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert json.loads(process.stdout.readline())["threads"] == 1
            fill(store_uri, "t", 20)
            assert json.loads(process.stdout.readline())["entries"] == 1
            eventually(lambda: states(other) == states(store_uri))
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, out) == (128 + signal.SIGTERM, "")
    assert "Traceback" not in err
