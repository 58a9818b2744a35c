"""A process that is killed loses nothing that `put` acknowledged, and its graph goes on to the right end."""

import random
import time

import pytest

from langgraph_gcs_saver import GCSSaver
from tests.system.build import values
from tests.system.workers import build, digest_of, final_state, process, run_graph

STEPS = 20


class Murder:
    """Runs the graph in processes that are killed, thread after thread."""

    def __init__(self, uri, folder, seed):
        self.uri = uri
        self.folder = folder
        self.random = random.Random(seed)
        self.kills = 0
        self.threads = 0
        self.midway = 0
        self.checked = 0
        self.whole = 0.0

    def config(self, **more):
        return {"configurable": {"thread_id": f"thread {self.threads}", **more}}

    def run(self, seconds):
        """Run the thread's graph for so long; tells whether it came to its end."""
        ledger = self.folder / f"ledger {self.threads}"
        with process(run_graph, self.uri, f"thread {self.threads}", STEPS, ledger) as (child, pipe):
            assert pipe.recv() == "started"
            began = time.monotonic()
            if seconds is None or pipe.poll(seconds):
                assert pipe.recv() == "done"
                self.whole = max(self.whole, time.monotonic() - began)
                return True
            child.kill()
            child.join()
            self.kills += 1
            return False

    def check(self, begin):
        """Everything that was acknowledged is there; exactly, from line `begin` of the ledger on."""
        lines = [line.split() for line in (self.folder / f"ledger {self.threads}").read_text().splitlines()]
        with GCSSaver.from_conn_string(self.uri) as saver:
            for checkpoint_id, digest in lines[begin:]:
                found = saver.get_tuple(self.config(checkpoint_ns="", checkpoint_id=checkpoint_id))
                assert found is not None, f"{checkpoint_id} was acknowledged and is lost"
                assert digest_of(values(found)) == digest
            latest = saver.get_tuple(self.config())
            if lines:
                assert latest.checkpoint["id"] >= max(line[0] for line in lines)
            listed = list(saver.list(self.config()))
            assert {line[0] for line in lines} <= {found.checkpoint["id"] for found in listed}
            if latest is not None and 0 < len(values(latest).get("seen", ())) < 2 * STEPS:
                self.midway += 1
        self.checked = len(lines)

    def finish(self):
        self.check(0)
        with GCSSaver.from_conn_string(self.uri) as saver:
            state = build(STEPS, saver).get_state(self.config())
            assert state.values == final_state(STEPS)
            assert state.next == ()
        self.threads += 1
        self.checked = 0


def murder(uri, folder, seed, kills):
    found = Murder(uri, folder, seed)
    assert found.run(None)
    found.finish()
    while found.kills < kills:
        if found.run(found.random.uniform(0, found.whole / 3)):
            found.finish()
        else:
            found.check(found.checked)
    assert found.run(None)
    found.finish()
    # The kills did hit the graph at work.
    assert found.midway >= kills // 2


def test_ten_kills(store_uri, tmp_path):
    murder(store_uri, tmp_path, seed=1, kills=10)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_hundred_kills(store_uri, tmp_path):
    murder(store_uri, tmp_path, seed=2, kills=100)
