"""A process that is killed loses nothing that was acknowledged, and its graph resumes and reaches the right end."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.testing import kills
from langgraph_gcs_saver.testing.kills import KillTestError, kill_at_random
from tests.patience import PATIENCE, eventually
from tests.system.raw import open_raw


def check(uri, number, seed, verify="readback"):
    report = kill_at_random(uri, kills=number, seed=seed, verify=verify)
    assert report.kills == number
    # The kills did hit the graph at work, and it was done with after them.
    assert report.midway >= number // 2
    assert report.threads >= 2
    # A kill can fall between a call and the note of it; two tasks write at once.
    assert report.checkpoints >= 2 * kills.STEPS * report.threads - number
    assert report.tasks >= 3 * kills.STEPS * report.threads - 2 * number


def test_ten_kills(store_uri):
    check(store_uri, 10, seed=1)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_kills_while_proofs_trail(store_uri):
    """What a call has stored is there, although its process was killed before the proof."""
    check(store_uri, 4, seed=3, verify="pipelined")


class NoProofs(Interceptor):
    """Holds trailing proofs back for ever, and says through a pipe that the first one has begun."""

    def __init__(self, pipe):
        self.pipe = pipe

    def around(self, effect, perform):
        if threading.current_thread().name.startswith("langgraph-gcs-proofs"):
            self.pipe.send("proving")
            self.pipe.recv()  # until it is killed
        return perform(effect)


def run_without_proofs(order, pipe):
    class Unproven(kills.Acknowledging):
        @classmethod
        def from_conn_string(cls, conn_string, **options):
            return super().from_conn_string(conn_string, interceptors=[NoProofs(pipe)], **options)

    kills.Acknowledging = Unproven
    kills.run_graph(order, pipe)


def test_a_kill_before_the_first_proof(tmp_path):
    killer = kills._Killer(f"file://{tmp_path}/store", 4, tmp_path, random.Random(1), "pipelined")
    order = kills.Run(killer.uri, killer.thread_id, 4, killer.ledger, is_async=False, verify="pipelined")
    with kills.process(run_without_proofs, order) as (child, pipe):
        assert [pipe.recv(), pipe.recv()] == ["started", "proving"]
        eventually(killer._lines)  # The call returns.
        child.kill()
        child.join()
    assert killer._lines()
    killer._check(0)
    killer.finish_undisturbed()
    assert killer.report.threads == 1


@pytest.mark.soak
@pytest.mark.parametrize("verify", ["readback", "pipelined"])
def test_a_hundred_kills(store_uri, verify):
    check(store_uri, 100, seed=2, verify=verify)


def test_the_command(tmp_path):
    uri = f"file://{tmp_path}/store"
    command = [sys.executable, "-m", "langgraph_gcs_saver.testing.kills", uri, "--kills", "2", "--steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 kills on ")
    assert done.stdout.endswith(" acknowledged, 0 lost\n")
    assert open_raw(uri).snapshot() == ({}, {})  # it cleans up


class Forgetful(kills.Acknowledging):
    """Acknowledges a checkpoint, or a task, that it does not store."""

    forgets = ""

    def put(self, config, checkpoint, metadata, new_versions):
        if self.forgets == "put" and metadata["step"] == 4:
            stored = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}
            return self._note_put(stored, checkpoint)
        return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(self, config, writes, task_id, task_path=""):
        if self.forgets == "put_writes" and writes[0][0] == "text":
            return self._note_writes(config, writes, task_id)
        return super().put_writes(config, writes, task_id, task_path)


def run_forgetful(order, pipe):
    kills.Acknowledging = Forgetful
    Forgetful.forgets = Path(order.uri.removeprefix("file://")).name
    kills.run_graph(kills.Run(order.uri, order.thread_id, order.steps, order.ledger, is_async=False), pipe)


@pytest.mark.parametrize(("forgets", "says"), [("put", "is lost"), ("put_writes", "differs from what was stored")])
def test_a_saver_that_forgets_is_found_out(tmp_path, monkeypatch, forgets, says):
    monkeypatch.setattr(kills, "run_graph", run_forgetful)
    with pytest.raises(KillTestError, match=says):
        kill_at_random(f"file://{tmp_path}/{forgets}", kills=1, steps=4)


def run_with_a_slow_first_put(order, pipe):
    class Slow(kills.Acknowledging):
        def put(self, config, checkpoint, metadata, new_versions):
            if metadata["step"] == -1:
                eventually(lambda: order.ledger.exists() and order.ledger.read_text())
                pipe.send("started")
                pipe.recv()  # until it is killed
            return super().put(config, checkpoint, metadata, new_versions)

    kills.Acknowledging = Slow
    kills.run_graph(kills.Run(order.uri, order.thread_id, order.steps, order.ledger, is_async=False), pipe)


def test_writes_before_their_checkpoint_are_not_taken_for_a_loss(tmp_path):
    killer = kills._Killer(f"file://{tmp_path}/store", 4, tmp_path, random.Random(1))
    order = kills.Run(killer.uri, killer.thread_id, 4, killer.ledger, is_async=False)
    with kills.process(run_with_a_slow_first_put, order) as (child, pipe):
        assert [pipe.recv(), pipe.recv()] == ["started", "started"]
        child.kill()
        child.join()
    assert [line.split()[0] for line in killer._lines()] == ["writes"]
    killer._check(0)


def die(order, pipe):
    os._exit(3)


def test_a_graph_that_fails_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "run_graph", die)
    with pytest.raises(KillTestError, match="failed before it was started"):
        kill_at_random(f"file://{tmp_path}/store", kills=1)
