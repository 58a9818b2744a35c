"""The option `retention`: threads are pruned in the background, and the caller does not wait for it."""

import asyncio
import multiprocessing
import threading
from datetime import timedelta

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.engine.interceptors import GatherInterceptor, Interceptor
from langgraph_gcs_saver.errors import InvalidOptionError, PermissionDeniedError
from langgraph_gcs_saver.events import ThreadPruned, ThreadSkipped
from langgraph_gcs_saver.policy.retention import KeepEvery, KeepFor, KeepLast
from langgraph_gcs_saver.saver import checkpointer as savers
from langgraph_gcs_saver.saver.background import Background, Kind
from tests.behaviour.api import cfg, checkpoint, metadata, number, version
from tests.patience import PATIENCE, eventually
from tests.system.raw import open_raw


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


def put(saver, n, thread="t", ns="", step=None):
    args = _put(n, thread, ns, step)
    saver.put(*args)


def _put(n, thread="t", ns="", step=None):
    versions = {"x": version(n)}
    parent = cfg(thread, ns, n - 1 or None)
    return parent, checkpoint(n, {"x": "x" * n}, versions), metadata(step=n if step is None else step), versions


def ids(saver, thread="t", ns=""):
    return [number(one) for one in saver.list(cfg(thread, ns))]


def test_a_thread_stays_bounded(make_saver, raw):
    events = []
    with make_saver(retention=KeepLast(3), on_event=events.append) as saver:
        for n in range(1, 34):
            put(saver, n)
            put(saver, n, ns="sub")
            # Let the background catch up; a machine under load may prune later.
            saver._background.close()
            saver._background = Background()
            assert len(ids(saver)) <= 3 + savers.RETENTION_STEPS
    assert ids(make_saver()) == [33, 32, 31, 30]
    # The root's 30 continues from the subgraph's 29.
    assert ids(make_saver(), ns="sub") == [33, 32, 31, 30, 29]
    assert sum(isinstance(event, ThreadPruned) for event in events) >= 2
    assert list(make_saver().admin.verify("t", depth="data")) == []


def test_closing_waits(make_saver):
    with make_saver(retention=KeepLast(1)) as saver:
        for n in range(1, 17):
            put(saver, n)
    assert ids(make_saver()) == [16]
    saver.close()


def test_a_listener_of_the_background_closes_the_saver(make_saver):
    """It is called on the thread that closing waits for."""
    closed = threading.Event()

    def hear(event):
        if isinstance(event, ThreadPruned):
            saver.close()
            closed.set()

    saver = make_saver(retention=KeepLast(1), on_event=hear)
    for n in range(1, 17):
        put(saver, n)
    assert closed.wait(PATIENCE)
    assert ids(make_saver()) == [16]


async def test_the_asynchronous_half(make_saver):
    async with make_saver(retention=KeepLast(2)) as saver:
        for n in range(1, 17):
            await saver.aput(*_put(n))
    assert ids(make_saver()) == [16, 15]


PRUNER = "langgraph-gcs-retention"
"""Name of the thread that prunes."""


class Calls(GatherInterceptor):
    """Keeps the names of the effects of all threads but the one that prunes, which waits until it may continue."""

    def __init__(self):
        self.names = []
        self.begun, self.go = threading.Event(), threading.Event()

    def around(self, effect, perform):
        self._begin(type(effect).__name__)
        return perform(effect)

    def around_all(self, effects, perform):
        self._begin("Gather")
        return perform(effects)

    def _begin(self, name):
        if threading.current_thread().name == PRUNER:
            self.begun.set()
            self.go.wait(PATIENCE)
        else:
            self.names.append(name)


class Refusing(Interceptor):
    """Refuses every request of the thread that prunes."""

    def around(self, effect, perform):
        if threading.current_thread().name == PRUNER:
            raise PermissionDeniedError("no")
        return perform(effect)


def test_the_caller_does_not_wait(make_saver):
    """The put that is followed by pruning makes as many calls, on the caller's thread, as any other."""
    calls = Calls()
    saver = make_saver(retention=KeepLast(1), interceptors=[calls])
    rounds = {}
    for n in range(1, 20):
        calls.names.clear()
        put(saver, n)
        rounds[n] = calls.names.copy()
    assert rounds[15] == rounds[16] == rounds[17]
    assert ids(saver) == list(range(19, 0, -1))
    calls.go.set()
    saver.close()
    assert ids(make_saver()) == [19]


def test_only_every_sixteenth_step(make_saver):
    saver = make_saver(retention=KeepLast(1))
    submitted = []
    saver._background.submit = lambda kind, key, job: submitted.append(key) or True
    for n in range(1, 50):
        put(saver, n, step=n - 2)
    assert len(submitted) == 2, "nothing to do at 0"
    saver.put(cfg("u"), checkpoint(1), {}, {})
    assert submitted[-1] == "u", "no step to go by"


@pytest.mark.parametrize("stride", [2, 4, 16, 5, 40])
def test_steps_that_are_passed_over(make_saver, stride):
    """With `durability="exit"` only the last step of each run is stored: it may never be a multiple of sixteen."""
    saver = make_saver(retention=KeepLast(1))
    submitted = []
    saver._background.submit = lambda kind, key, job: submitted.append(key) or True
    for n in range(1, 33):
        put(saver, n, step=n * stride - 1)
        put(saver, n, step=n * stride - 1)
    assert len(submitted) in {min(32, 2 * stride) - 1, min(32, 2 * stride)}


def test_calls_of_a_subgraph_are_not_counted(make_saver):
    saver = make_saver(retention=KeepLast(1))
    submitted = []
    saver._background.submit = lambda kind, key, job: submitted.append(key) or True
    for call in range(20):
        for n in range(1, 5):
            put(saver, n, ns=f"sub:{call}", step=n - 2)
    assert submitted == []


def test_a_failure_is_told_and_nothing_else(make_saver):
    """The checkpoint is stored: that the thread could not be pruned is for the log, and the next time."""
    events = []
    saver = make_saver(retention=KeepLast(1), on_event=events.append, interceptors=[Refusing()])
    for n in range(1, 20):
        put(saver, n)
    saver.close()
    (told,) = [event for event in events if isinstance(event, ThreadSkipped)]
    assert told.thread_id == "t"
    assert "PermissionDeniedError: no" in told.reason
    assert ids(make_saver()) == list(range(19, 0, -1))


def test_a_thread_for_which_too_many_wait_is_told(make_saver, monkeypatch):
    monkeypatch.setattr(savers, "RETENTION", Kind("retention", most=1))
    calls, events = Calls(), []
    saver = make_saver(retention=KeepLast(1), on_event=events.append, interceptors=[calls])
    for thread in ("under way", "waits", "too many"):
        put(saver, 1, thread=thread, step=16)
        eventually(lambda thread=thread: thread != "under way" or calls.begun.is_set())
    (told,) = [event for event in events if isinstance(event, ThreadSkipped)]
    assert told.thread_id == "too many"
    assert "1 other threads were waiting" in told.reason
    calls.go.set()
    saver.close()


def test_a_forked_child_prunes_too(tmp_path):
    """On the embedded store, so that gRPC's own threads in the parent do not matter."""
    saver = GCSSaver.from_conn_string(f"file://{tmp_path}/store", retention=KeepLast(1))
    put(saver, 1, step=16)
    saver.put_writes(cfg(n=1), [("x", 1)], "task")
    child = multiprocessing.get_context("fork").Process(target=_go_on, args=(saver,))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert ids(saver) == [17]
    saver.close()


def _go_on(saver):
    for n in range(2, 18):
        put(saver, n, step=16 if n == 17 else n - 1)
    saver.close()


@pytest.mark.parametrize("rule", [5, "keep_latest", KeepLast, timedelta(days=1)])
def test_rules_that_are_none(make_saver, rule):
    with pytest.raises(InvalidOptionError, match="retention"):
        make_saver(retention=rule)


def test_rules_are_combined(make_saver):
    rule = KeepLast(2) | KeepFor(timedelta(hours=1)) | KeepEvery(timedelta(days=1))
    with make_saver(retention=rule) as saver:
        for n in range(1, 17):
            put(saver, n)
    assert ids(make_saver()) == list(range(16, 0, -1)), "all are younger than an hour"


async def test_many_threads_at_once(make_saver):
    async with make_saver(retention=KeepLast(1)) as saver:
        for n in range(1, 17):
            await asyncio.gather(*(saver.aput(*_put(n, f"t{i}")) for i in range(5)))
    assert [ids(make_saver(), f"t{i}") for i in range(5)] == [[16]] * 5
