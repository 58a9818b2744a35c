"""Writers, forks, crashing writers, a pruner and a collector at full speed: nothing is missing, no orphan is left."""

import random
import threading
import time
import traceback
from contextlib import suppress
from datetime import timedelta

import pytest

from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.flows import readback
from langgraph_gcs_saver.policy.retention import KeepLast
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg, checkpoint, metadata, number, version
from tests.system.raw import open_raw

THREADS = ("a", "b/c", "long thread id, " * 20)
WRITERS = 8
KEPT = 5
ATTEMPT_SECONDS, ORPHAN_AGE = 10.0, timedelta(seconds=120)
"""An attempt's deadline and the age of an orphan, in about their real relation, which is one hour to 24.

The machine may hold up a writer for as long as the difference between them.
"""


class Life:
    """What happens to some threads for some time, and until everything has happened; and what was wrong."""

    def __init__(self, make_saver, store_uri, seconds, seed, wanted):
        self.make_saver, self.store_uri, self.wanted = make_saver, store_uri, wanted
        self.end = time.monotonic() + seconds  # clock: how much happens
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.next = 0
        self.begun = {thread: [] for thread in THREADS}
        """Numbers of checkpoints, by thread."""
        self.acknowledged = {}
        """What was put, by thread and number."""
        self.dying = {}
        """What a writer that crashed may have put."""
        self.counts = dict.fromkeys(("puts", "forks", "deaths", "conflicts", "reads", "prunes", "collected"), 0)
        self.wrong = []

    def run(self):
        jobs = [lambda: self.write(self.make_saver())] * WRITERS
        jobs += [lambda: self.prune(self.make_saver()), lambda: self.collect(self.make_saver())]
        workers = [threading.Thread(target=self._guarded, args=(job,)) for job in jobs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not self.wrong, "\n".join(self.wrong[:3])

    def _guarded(self, job):
        try:
            job()
        except Exception:
            self.wrong.append(traceback.format_exc())

    def goes_on(self):
        has_all = all(self.counts[what] for what in self.wanted)
        return not self.wrong and not (has_all and time.monotonic() > self.end)  # clock: how much happens

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def _new(self, thread, parent):
        """The number and content of a new checkpoint: a growing list, a small value, an object that may stay."""
        with self.lock:
            self.next += 1
            n, seed, step = self.next, self.rng.random(), self.rng.random()
            self.begun[thread].append(n)
            before = self.acknowledged.get((thread, parent))
        rng = random.Random(seed)
        values, versions = ({"list": [], "small": 0, "large": b""}, {}) if before is None else before
        values = {**values, "list": [*values["list"], f"{rng.randrange(1 << 60)} said it"][-60:], "small": n}
        changed = {"list", "small"}
        if step < 0.2 or before is None:
            values["large"] = rng.randbytes(12_000)
            changed.add("large")
        fresh = dict.fromkeys(changed, version(n))
        return n, values, {**versions, **fresh}, fresh

    def write(self, saver):
        mine = dict.fromkeys(THREADS)
        while self.goes_on():
            thread, kind = self.rng.choice(THREADS), self.rng.random()
            parent = mine[thread]
            if kind < 0.3:
                found = [number(one) for one in saver.list(cfg(thread), limit=8)]
                parent = self.rng.choice(found) if found else None
                self.count("forks")
            n, values, versions, fresh = self._new(thread, parent)
            args = cfg(thread, n=parent), checkpoint(n, values, versions), metadata(step=n), fresh
            if kind > 0.95:
                self._die(thread, n, values, versions, args)
                continue
            try:
                saver.put(*args)
            except ConflictError:
                self.count("conflicts")
                continue
            with self.lock:
                self.acknowledged[thread, n] = values, versions
            self.count("puts")
            mine[thread] = n
            saver.put_writes(cfg(thread, n=n), [("small", n), ("large", random.Random(n).randbytes(9_000))], "task")
            self._read(saver, thread, n)

    def _die(self, thread, n, values, versions, args):
        """Another process makes the call, and is killed in the middle."""
        with self.lock:
            self.dying[thread, n] = values, versions
        with CrashingSaver.from_conn_string(self.store_uri, inline_max_bytes=0) as dying:
            dying.plan = Plan(stop_after=self.rng.randrange(8))
            with suppress(Crashed, ConflictError):
                dying.put(*args)
                dying.put_writes(cfg(thread, n=n), [("large", random.Random(n).randbytes(200_000))], "task")
        self.count("deaths")

    def _read(self, saver, thread, n):
        """What was acknowledged is there, exactly, or was pruned: then newer ones are."""
        found = saver.get_tuple(cfg(thread, n=n))
        self.count("reads")
        if found is not None:
            self.check(thread, found)
        else:
            # A listing would not do: what it has found is pruned while it reads.
            newer = [other for other in self.begun[thread] if other > n]
            assert len(newer) >= KEPT, (n, newer)
            assert number(saver.get_tuple(cfg(thread))) > n

    def check(self, thread, found):
        n = number(found)
        known = self.acknowledged.get((thread, n)) or self.dying[thread, n]
        assert (found.checkpoint["channel_values"], found.checkpoint["channel_versions"]) == known
        assert found.metadata["step"] == n
        assert "recovered_from" not in found.metadata
        for _, channel, value in found.pending_writes:
            sizes = (9_000, 200_000)
            assert value == n if channel == "small" else value in [random.Random(n).randbytes(s) for s in sizes]

    def prune(self, saver):
        while self.goes_on():
            for thread in THREADS:
                self._prune(saver, thread)

    def _prune(self, saver, thread):
        try:
            saver.prune([thread], strategy=KeepLast(KEPT))
        except ConflictError:
            self.count("conflicts")
        else:
            self.count("prunes")

    def collect(self, saver):
        while self.goes_on():
            for plan in saver.admin.collect(orphan_age=ORPHAN_AGE):
                assert plan.skipped is None
                with self.lock:
                    self.counts["collected"] += len(plan.objects)


def live(make_saver, store_uri, seconds, seed, wanted=("puts", "forks", "reads", "prunes")):
    life = Life(make_saver, store_uri, seconds, seed, wanted)
    life.run()
    print(life.counts)
    saver = make_saver()
    saver.prune(THREADS, strategy=KeepLast(KEPT))
    saver.admin.collect(orphan_age=timedelta(0))
    assert list(saver.admin.verify(depth="data")) == []
    raw = open_raw(store_uri)
    stored = sum(raw.document_sizes().values()) + sum(raw.object_sizes().values())
    documents = len(raw.documents())
    raw.close()
    needed = 0
    for thread in THREADS:
        found = list(saver.list(cfg(thread)))
        put = sorted((n for name, n in life.acknowledged if name == thread), reverse=True)
        assert [number(one) for one in found] == sorted((number(one) for one in found), reverse=True)
        kept = {number(one) for one in found}
        assert kept >= set(put[: KEPT - len(kept - set(put))])
        assert min(KEPT, len(put)) <= len(kept) <= KEPT
        for one in found:
            life.check(thread, one)
            values = one.checkpoint["channel_values"]
            needed += len(values["large"]) + sum(map(len, values["list"])) + 9_000
    print(f"{stored} bytes in {documents} documents and objects, for {needed} bytes of state")
    assert stored < 3 * needed
    saver.admin.collect(orphan_age=timedelta(0))
    for thread in THREADS:
        saver.delete_thread(thread)
    raw = open_raw(store_uri)
    assert raw.snapshot() == ({}, {})
    raw.close()


@pytest.fixture
def _short_deadlines(monkeypatch):
    monkeypatch.setattr(readback, "ATTEMPT_DEADLINE_SECONDS", ATTEMPT_SECONDS)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.usefixtures("_short_deadlines")
def test_a_few_seconds(make_saver, store_uri):
    live(make_saver, store_uri, 4, seed=1)


@pytest.mark.soak
@pytest.mark.usefixtures("_short_deadlines")
def test_a_minute(make_saver, store_uri):
    live(make_saver, store_uri, 60, seed=2, wanted=("puts", "forks", "reads", "prunes", "deaths", "collected"))
