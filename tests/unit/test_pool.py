import _thread
import asyncio
import gc
import signal
import socket
import sys
import threading
import weakref
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from queue import SimpleQueue
from time import sleep
from types import SimpleNamespace

import pytest

from langgraph_gcs_saver.engine import pool as pools
from langgraph_gcs_saver.engine.pool import Pool, Task, is_exposed
from langgraph_gcs_saver.errors import SaverClosedError, StoreUnavailableError
from tests.faults.steps import SoftTimeLimit, Struck, strikes
from tests.patience import PATIENCE, eventually


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
    # Threads of earlier tests may hang, as those tests want it, with their calls.
    before = tasks()
    try:
        for _ in range(3):
            with pytest.raises(LookupError):
                pool.perform((partial(fail, "a"), False), (partial(fail, "b"), False))
        del _
        left = [one for one in tasks() if not any(one is other for other in before)]
        assert len(left) <= 2  # a thread may still be about to drop its last one
    finally:
        gc.enable()


def tasks():
    return [one for one in gc.get_objects() if isinstance(one, Task)]


def test_the_result_of_an_interrupted_call_is_not_kept(make_pool):
    pool = make_pool(1)
    begun, go, results = threading.Event(), threading.Event(), []

    def function():
        begun.set()
        go.wait(PATIENCE)
        result = Counter()
        results.append(weakref.ref(result))
        return result

    def strike():
        begun.wait(PATIENCE)
        _thread.interrupt_main()

    striker = threading.Thread(target=strike)
    striker.start()
    gc.disable()
    try:
        with suppress(KeyboardInterrupt):
            pool.perform((function, False))
        go.set()
        assert pool.perform((int, False)) == (0,)
        assert results[0]() is None
    finally:
        gc.enable()
        striker.join()


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


def test_a_call_that_has_ended_does_not_hang(make_pool, monkeypatch):
    """Its outcome is on its way to a caller that was held up."""
    pool = make_pool(1, limit=5)
    time = Time(monkeypatch, pool)
    task = Task(int, id, bounded=True)
    assert task.make()
    time.now += 6
    pool._check({task})


def test_only_the_main_thread_is_exposed(make_pool):
    pool = make_pool(1)
    assert is_exposed()
    assert pool.perform((is_exposed, False)) == (False,)


# Calls of an event loop


async def test_an_awaited_call_returns_or_raises(make_pool):
    pool = make_pool(2)
    assert await asyncio.gather(*(pool.aperform(partial(int, n)) for n in range(20))) == list(range(20))
    with pytest.raises(LookupError, match="mine"):
        await pool.aperform(partial(fail, "mine"))
    assert 1 <= len(running()) <= 2


async def test_a_canceled_task_waits_for_a_call_that_has_begun(make_pool):
    pool = make_pool(2)
    begun, go, ended = threading.Event(), threading.Event(), []

    def function():
        begun.set()
        go.wait(PATIENCE)
        ended.append(1)

    task = asyncio.create_task(pool.aperform(function))
    await asyncio.to_thread(begun.wait, PATIENCE)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)  # clock: so that a task which does not wait has ended
        assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_a_canceled_task_has_no_call_begin(make_pool):
    pool = make_pool(2)
    begun, go, calls = threading.Barrier(3), threading.Event(), []

    def busy():
        begun.wait(PATIENCE)
        go.wait(PATIENCE)

    first = [asyncio.create_task(pool.aperform(busy)) for _ in range(2)]
    await asyncio.to_thread(begun.wait, PATIENCE)
    task = asyncio.create_task(pool.aperform(partial(calls.append, 1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await asyncio.gather(*first)
    assert await pool.aperform(int) == 0
    assert calls == []


def test_a_call_of_a_loop_that_was_closed_harms_no_other(make_pool):
    pool = make_pool(1)
    begun, go = threading.Event(), threading.Event()

    def function():
        begun.set()
        go.wait(PATIENCE)

    async def leave():
        asyncio.get_running_loop().create_task(pool.aperform(function))
        await asyncio.to_thread(begun.wait, PATIENCE)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    (left,) = asyncio.all_tasks(loop)
    loop.close()
    go.set()
    assert asyncio.run(pool.aperform(int)) == 0
    left.get_coro().close()


# Threads


def test_calls_are_made_here_if_no_thread_can_be_started(make_pool, monkeypatch):
    def cannot(*_):
        raise RuntimeError("can't start new thread")

    pool = make_pool(1)
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", cannot)
        assert pool.perform((threading.get_ident, False)) == (threading.get_ident(),)
        assert asyncio.run(pool.aperform(lambda: 3)) == 3
    assert pool.perform((threading.get_ident, False)) != (threading.get_ident(),)


def test_tasks_that_come_at_once_start_one_launcher(make_pool, monkeypatch):
    """An event loop queues many tasks before any other thread runs."""
    pool, launched = make_pool(most=2), []
    start = _thread.start_new_thread

    def count(*given):
        launched.append(given)
        return start(*given)

    monkeypatch.setattr(pools, "_thread", SimpleNamespace(start_new_thread=count))
    answers = SimpleQueue()
    with pool._threads._starting:
        for _ in range(50):
            pool.submit(Task(int, answers.put))
        assert len(launched) == 1
    assert [answers.get(timeout=PATIENCE).result for _ in range(50)] == [0] * 50
    assert len(pool._threads.running) <= 2


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


def test_a_closed_pool_keeps_nothing_of_a_call_that_it_refused(make_pool):
    class Owner:
        def __init__(self):
            self.pool = Pool("langgraph-gcs-test", 1)

        def use(self):
            self.pool.perform((self.use, False))

    owner = Owner()
    owner.pool.close(None)
    with pytest.raises(SaverClosedError):
        owner.use()
    found = weakref.ref(owner)
    del owner
    gc.collect()
    assert found() is None


def test_closing_does_not_wait_for_an_abandoned_call(make_pool, silent):
    pool = make_pool(2)
    task = Task(partial(ask, silent), print)
    pool.submit(task)
    eventually(lambda: task.began is not None)
    task.abandon()
    pool.close(None)


# Signals


@pytest.mark.parametrize("error", [Struck, SoftTimeLimit])
@pytest.mark.parametrize("count", [1, 3])
def test_struck_anywhere_a_pool_goes_on(count, error):
    """Also while it starts its first thread. A call that has not begun by then is never made."""
    go, made = threading.Event(), []
    pool = Pool("langgraph-gcs-test", 1)

    def first():
        made.append(0)
        go.wait(0.01)  # clock: so that others often wait

    def call():
        pool.perform((first, False), *[(partial(made.append, n), False) for n in range(1, count)])

    places = []
    for place in strikes(call, error, opcodes=True):
        places.append(place)
        go.set()
        assert pool.perform(*[(partial(int, n), True) for n in range(5)]) == (0, 1, 2, 3, 4), place
        found = []
        thread = threading.Thread(target=lambda pool=pool, found=found: found.append(pool.perform((int, True))))
        thread.start()
        thread.join(PATIENCE)
        assert found == [(0,)], place
        pool.close(PATIENCE)
        assert made == list(range(len(made))), place
        go.clear()
        made.clear()
        pool = Pool("langgraph-gcs-test", 1)
    assert len(places) > 100
    pool.close(PATIENCE)
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


@pytest.mark.skipif(sys.platform == "win32", reason="SIGALRM")
def test_a_signal_handler_makes_calls_during_a_call(make_pool):
    pool = make_pool(2)
    answers = []
    before = signal.signal(signal.SIGALRM, lambda *_: answers.extend(pool.perform((lambda: "inner", False))))
    try:

        def function():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
            eventually(lambda: answers)
            return "outer"

        assert pool.perform((function, False)) == ("outer",)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert answers == ["inner"]
