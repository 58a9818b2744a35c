"""advise: the cost of storing is measured and leaves nothing, and the advice follows from it and the crashes."""

import json

import pytest

from langgraph_gcs_saver import GCSSaver, run
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, Merge
from langgraph_gcs_saver.errors import StoreUnavailableError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing import trial_puts
from tests.cli import agents_that_work
from tests.cli.test_runs import HOSTILE
from tests.stateful.threads import fill, put
from tests.system.raw import open_raw
from tests.system.test_repair import DELTA, delta

local = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


def asked(saver, thread_id="t"):
    """A thread with steps of a graph, and writes between them."""
    graph = agents_that_work.graph.copy({"checkpointer": saver})
    return run(graph, {"log": ["in"]}, {"configurable": {"thread_id": thread_id}}, request_id="r1")


def test_it_leaves_nothing(saver, store_uri, command):
    """On the emulators too: no document and no object of the scratch thread is left, and the thread is unchanged."""
    for n in (10, 20, 30):
        put(saver, "t", n, n - 10 or None)
    raw = open_raw(store_uri)
    stored = raw.snapshot()
    ended = command("advise", "t", "--mtbf", "8h", "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert len(found["puts"]) == 2  # the first one stores what came before
    assert all(seconds > 0 for seconds in found["puts"])
    assert raw.snapshot() == stored
    raw.close()


@local
@pytest.mark.parametrize("make", [fill, asked, lambda saver: delta(saver, 3).invoke({"n": 0, "log": ["x"]}, DELTA)])
def test_each_kind_of_thread_is_measured(saver, store_uri, command, make):
    make(saver)
    raw = open_raw(store_uri)
    stored = raw.snapshot()
    thread = saver.admin.threads()[0].thread_id
    found = json.loads(command("advise", thread, "--mtbf", "8h", "--json").out)
    assert found["cost"] > 0
    assert found["rate"] == 1 / (8 * 3600)
    assert raw.snapshot() == stored
    raw.close()


@local
def test_what_it_shows(saver, command):
    asked(saver)
    shown = command("advise", "t", "--mtbf", "8h").out
    assert "Storing a step takes C = " in shown
    assert "one in 8.00 h, as given" in shown
    assert "sqrt(2C/λ) = " in shown
    assert "Every step: costs " in shown
    assert "Advice: " in shown
    shown = command("advise").out  # of all threads
    assert "none is on record in 0.0 s of work. With 95 % confidence, there is at most one in" in shown
    assert "store after at least sqrt(2C/λ)" in shown
    found = json.loads(command("advise", "--json").out)
    assert (found["is_bound"], found["crashes"]) == (True, 0)
    assert found["rate"] == pytest.approx(3 / found["worked"])


@local
def test_crashes_on_record_count(saver, command):
    def expire():
        name = keys.fence_doc("t")
        doc = (yield from GetDocs((name,)))[name]
        yield from Commit((Merge(name, {**doc.fields, "ttl": 1e-9}),))

    asked(saver)
    with saver.thread("t").lease():
        runner.run(expire(), saver._backend)
        found = json.loads(command("advise", "t", "--json").out)
        shown = command("advise", "t").out
        with saver.thread("t").lease(take_over=True):  # it still counts once
            taken_over = json.loads(command("advise", "t", "--json").out)
    assert (found["is_bound"], found["crashes"], taken_over["crashes"]) == (False, 1, 1)
    assert found["rate"] == pytest.approx(1 / found["worked"])
    assert "Crashes: 1 in " in shown
    early = keys.recovery_doc("t", 1, "nonce")  # before the oldest checkpoint
    runner.run(iter(Commit((Merge(early, {"kind": "takeover", "expires": 2}),))), saver._backend)
    assert json.loads(command("advise", "t", "--json").out)["crashes"] == 1


@local
def test_the_scratch_thread_goes_if_a_put_fails(saver, store_uri, command, monkeypatch):
    for n in (10, 20):
        put(saver, "t", n, n - 10 or None)
    raw = open_raw(store_uri)
    stored = raw.snapshot()
    genuine, calls = GCSSaver.put, []

    def failing(self, *arguments):
        calls.append(arguments[0]["configurable"]["thread_id"])
        if len(calls) > 1:
            raise StoreUnavailableError("down")
        return genuine(self, *arguments)

    monkeypatch.setattr(GCSSaver, "put", failing)
    assert command("advise", "t", "--mtbf", "1h").code == StoreUnavailableError.exit_code
    assert len(set(calls)) == 1
    assert calls[0].startswith(trial_puts.SCRATCH)
    assert raw.snapshot() == stored
    raw.close()


@local
def test_what_is_refused(saver, command):
    saver.setup()
    assert "no thread with a checkpoint" in command("advise").err
    ended = command("advise", "no-such")
    assert (ended.code, "no thread 'no-such'" in ended.err) == (1, True)
    assert command("advise", "--mtbf", "0s").code == 2
    put(saver, HOSTILE, 10)
    ended = command("advise", HOSTILE, "--mtbf", "8h")
    assert ended.code == 0
    assert all(line.isprintable() for line in ended.out.splitlines())
    assert "No step has a length yet" in ended.out
