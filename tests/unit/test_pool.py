import _thread
import gc
import socket
import sys
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from time import sleep
from types import SimpleNamespace

import pytest

from langgraph_gcs_saver import pool as pools
from langgraph_gcs_saver.errors import SaverClosedError, StoreUnavailableError
from langgraph_gcs_saver.pool import Pool, Task
from langgraph_gcs_saver.upkeep import Upkeep
from tests.patience import PATIENCE, eventually
from tests.unit.striking import strike_everywhere


@pytest.fixture
def make_pool():
    made = []

    def make(*args, **options):
        pool = Pool("langgraph-gcs-test", *args, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close(0)
    eventually(lambda: not running())


@pytest.fixture
def silent():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as accepted:
        yield server.getsockname()
        server.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                accepted.enter_context(server.accept()[0])


def ask(address):
    """Wait for an answer, in native code and without a timeout."""
    with socket.create_connection(address) as connection:
        return connection.recv(1)


def running():
    return [thread for thread in threading.enumerate() if thread.name == "langgraph-gcs-test"]


class Time:
    """The pool's time, which stands still; each look at what is waited for calls `meanwhile`, and is counted."""

    def __init__(self, monkeypatch, pool):
        self.now, self.looks = 0.0, 0
        self.meanwhile = lambda: None
        self._check = pool._check
        monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(pools, "GLANCE_SECONDS", 0.01)
        pool._check = self._look

    def _look(self, waiting):
        self.meanwhile()
        self._check(waiting)
        self.looks += 1

    def pass_(self, seconds):
        """Let time pass, and wait until that was looked at."""
        self.now += seconds
        before = self.looks
        eventually(lambda: self.looks > before + 1)  # one may be under way


def fail(message):
    raise LookupError(message)


# Calls


def test_results_come_in_the_order_of_the_calls(make_pool):
    pool = make_pool(3)
    assert pool.perform(*[(partial(int, n), False) for n in range(20)]) == tuple(range(20))
    assert 1 <= len(running()) <= 3


def test_the_first_failure_is_raised_once_calls_under_way_have_ended(make_pool, monkeypatch):
    pool = make_pool(2)
    begun, ended, canceled = threading.Event(), [], threading.Event()
    cancel = Task.cancel

    def noting(task):
        is_canceled = cancel(task)
        # The thread that makes a call keeps others from it in the same way.
        if is_canceled and threading.current_thread() is threading.main_thread():
            canceled.set()
        return is_canceled

    monkeypatch.setattr(Task, "cancel", noting)

    def slow():
        begun.set()
        assert canceled.wait(PATIENCE)
        ended.append("slow")

    late_calls = []

    def late(n):
        late_calls.append(n)
        assert canceled.wait(PATIENCE)

    def fails():
        begun.wait(PATIENCE)
        fail("mine")

    with pytest.raises(LookupError, match="mine"):
        pool.perform((slow, False), (fails, False), *[(partial(late, n), False) for n in range(1000)])
    begun_late = len(late_calls)
    assert ended == ["slow"]
    assert begun_late < 1000
    assert pool.perform((partial(int, 5), False)) == (5,)
    assert len(late_calls) == begun_late


def test_a_failure_is_not_kept_alive_by_what_it_refers_to(make_pool):
    pool = make_pool(2)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(LookupError):
                pool.perform((partial(fail, "a"), False), (partial(fail, "b"), False))
        del _
        left = [one for one in gc.get_objects() if isinstance(one, Task)]
        assert len(left) <= 2  # a thread may still be about to drop its last one
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [1, 3])
def test_a_call_that_hangs_is_given_up(make_pool, silent, monkeypatch, count):
    pool = make_pool(8, limit=2.5)
    time = Time(monkeypatch, pool)
    begun = []

    def hang():
        begun.append(1)
        ask(silent)

    def meanwhile():
        if len(begun) == count:
            time.now += 1

    time.meanwhile = meanwhile
    with pytest.raises(StoreUnavailableError, match=r"has not ended after 2\.5 s"):
        pool.perform(*[(hang, True)] * count)
    time.meanwhile = lambda: None
    assert pool.perform((partial(int, 5), True)) == (5,)


def test_a_call_that_may_take_its_time_is_not_given_up(make_pool, monkeypatch):
    pool = make_pool(1, limit=0.01)
    time = Time(monkeypatch, pool)
    assert pool.perform((partial(time.pass_, 100), False)) == (None,)


def test_calls_do_not_wait_forever_for_threads_that_hang(make_pool, silent):
    pool = make_pool(2, limit=0.2)
    for _ in range(2):
        pool.submit(Task(partial(ask, silent), print))
    with pytest.raises(StoreUnavailableError, match="All threads of this saver have been busy"):
        pool.perform((partial(int, 5), True))


def test_calls_wait_for_threads_that_are_busy(make_pool, monkeypatch):
    """The limit is of one call, not of all that queue."""
    pool = make_pool(1, limit=5)
    time = Time(monkeypatch, pool)
    assert pool.perform(*[(partial(time.pass_, 4), True)] * 6) == (None,) * 6
    assert time.now == 24


# Threads


def test_a_thread_more_for_each_call_that_is_under_way_and_one_stays(make_pool):
    pool = make_pool(8, keep=1)
    go = threading.Event()
    for _ in range(5):
        pool.submit(Task(partial(go.wait, PATIENCE), lambda task: None))
    assert pool.perform((partial(int, 5), True)) == (5,)
    assert len(running()) == 6
    go.set()
    eventually(lambda: len(running()) == 1)
    assert pool.perform((partial(int, 5), True)) == (5,)
    assert len(running()) == 1


def test_a_forgotten_pool_leaves_no_thread():
    pool = Pool("langgraph-gcs-test", 4)
    pool.perform(*[(partial(int, n), False) for n in range(9)])
    assert running()
    del pool
    eventually(lambda: not running())


@pytest.fixture
def _eager_switches():
    """Threads take turns after a few bytecodes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_eager_switches")
@pytest.mark.parametrize("most", [1, 2])
def test_closing_waits_for_calls_under_way_and_refuses_others(most):
    for _ in range(300):  # the first thread may be about to start
        pool = Pool("langgraph-gcs-test", most)
        ended = []
        for n in range(3):
            pool.submit(Task(partial(sleep, 0.0001), lambda task, n=n, ended=ended: ended.append(n)))
        pool.close(None)
        assert sorted(ended) == [0, 1, 2]
    eventually(lambda: not running())
    with pytest.raises(SaverClosedError):
        pool.submit(Task(int, print))
    pool.close(None)


def test_closing_does_not_wait_for_an_abandoned_call(make_pool, silent):
    pool = make_pool(2)
    task = Task(partial(ask, silent), print)
    pool.submit(task)
    eventually(lambda: task.began is not None)
    task.abandon()
    pool.close(None)


# Signals


@pytest.mark.parametrize("count", [1, 3])
def test_struck_anywhere_a_pool_goes_on(count):
    """Also while it starts its first thread. A call that has not begun by then is never made."""
    go = threading.Event()

    def prepare():
        go.clear()
        pool = Pool("langgraph-gcs-test", 1)
        made = []

        def first():
            made.append(0)
            go.wait(0.01)  # clock: so that others often wait

        def call():
            pool.perform((first, False), *[(partial(made.append, n), False) for n in range(1, count)])

        def check():
            go.set()
            assert pool.perform(*[(partial(int, n), True) for n in range(5)]) == (0, 1, 2, 3, 4)
            found = []
            thread = threading.Thread(target=lambda: found.append(pool.perform((partial(int, 7), True))))
            thread.start()
            thread.join(PATIENCE)
            assert found == [(7,)]
            pool.close(PATIENCE)
            assert made == list(range(len(made)))

        return call, check

    assert strike_everywhere(prepare) > 100
    eventually(lambda: not running())


def test_struck_while_it_waits_a_pool_makes_no_call_that_has_not_begun(make_pool):
    """The caller may do something else instead, which such a call must not undo later."""
    pool = make_pool(1)
    go, begun, made = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go.wait(PATIENCE)

    def strike():
        begun.wait(PATIENCE)
        _thread.interrupt_main()

    striker = threading.Thread(target=strike)
    striker.start()
    with pytest.raises(KeyboardInterrupt):
        pool.perform((first, False), (partial(made.append, 1), False))
    go.set()
    striker.join()
    assert pool.perform((partial(int, 5), False)) == (5,)
    assert made == []


def test_struck_anywhere_upkeep_does_its_jobs():
    """A job whose submission was cut short is done at the latest after it is submitted again, and once each time."""

    def prepare():
        upkeep = Upkeep()
        done = Counter()

        def call():
            upkeep.submit("thread", partial(done.update, ["thread"]))

        def check():
            upkeep.submit("thread", partial(done.update, ["thread"]))
            upkeep.submit("other", partial(done.update, ["other"]))
            upkeep.close()
            assert done["other"] == 1
            assert done["thread"] in {1, 2}

        return call, check

    assert strike_everywhere(prepare) > 50
