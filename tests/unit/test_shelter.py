"""Calls in the main thread's place: made once or never, over when an exception is passed on, and never stuck."""

import _thread
import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import sleep

import pytest

from langgraph_gcs_saver import shelter
from langgraph_gcs_saver.shelter import Shelter, Turn
from tests.faults.steps import SoftTimeLimit, Struck, strikes
from tests.patience import PATIENCE, aeventually, eventually

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def refuge():
    refuge = Shelter("refuge", 4)
    yield refuge
    eventually(refuge.end())


def alive():
    return [thread for thread in threading.enumerate() if thread.name == "refuge"]


def in_thread(function):
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result(PATIENCE)


def test_the_main_thread_leaves_calls_to_another(refuge):
    assert refuge.call(threading.get_ident) != threading.get_ident()
    assert refuge.call(lambda: refuge.call(threading.current_thread)).name == "refuge"
    assert in_thread(lambda: refuge.call(threading.get_ident) == threading.get_ident())


def test_one_thread_is_enough_for_one_call_after_another(refuge):
    assert len({refuge.call(threading.get_ident) for _ in range(200)}) == 1


def test_what_a_function_raises_is_raised(refuge):
    for error in (KeyError("k"), SystemExit(3)):
        with pytest.raises(type(error)) as caught:
            refuge.call(lambda error=error: (_ for _ in ()).throw(error))
        assert caught.value is error


@pytest.mark.parametrize("opcodes", [False, True])
@pytest.mark.parametrize("error", [Struck, SoftTimeLimit])
def test_wherever_an_exception_strikes(refuge, error, opcodes):
    began, ended = [], []

    def function():
        began.append(1)
        time.sleep(0.001)  # clock: so that it is often under way
        ended.append(1)

    for place in strikes(lambda: refuge.call(function), error, "/shelter.py", "/threading.py", opcodes=opcodes):
        assert len(began) == len(ended) <= 1, f"not over after {place}"
        before = len(began)
        assert refuge.call(int) == 0, place
        assert len(began) == before, f"called later than {place}"
        began.clear()
        ended.clear()
    assert len(alive()) <= 4


@pytest.mark.parametrize("opcodes", [False, True])
def test_wherever_an_exception_strikes_the_first_call(opcodes):
    refuges = []

    def first():
        refuges.append(Shelter("refuge", 4))
        refuges[-1].call(int)

    for place in strikes(first, Struck, "/shelter.py", "/threading.py", opcodes=opcodes):
        for refuge in refuges[-1:]:
            assert refuge.call(int) == 0, place
            eventually(refuge.end())
    eventually(refuges[-1].end())


@pytest.fixture
def alarms():
    """Has SIGALRM raise in the main thread, as often as this list has entries."""
    left = []

    def strike(*_):
        if left:
            left.pop()
            raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    yield left
    signal.signal(signal.SIGALRM, before)


def strike_from_elsewhere():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)


def test_a_function_under_way_is_waited_for(refuge, alarms):
    alarms.append(1)
    ended = []

    def function():
        strike_from_elsewhere()
        time.sleep(0.2)  # clock: so that the exception strikes before
        ended.append(1)

    with pytest.raises(Struck):
        refuge.call(function)
    assert ended


def test_a_second_exception_ends_the_wait(refuge, alarms):
    alarms += [1, 1]
    passed, ended = [], []

    def function():
        while not passed:
            strike_from_elsewhere()
            time.sleep(0.05)  # clock: until both have struck
        ended.append(1)

    with pytest.raises(Struck):
        refuge.call(function)
    assert refuge.call(int) == 0, "another thread is there for other calls"
    assert not ended
    passed.append(1)
    eventually(lambda: ended)


def test_a_signal_handler_calls_during_a_call(refuge):
    answers = []
    before = signal.signal(signal.SIGALRM, lambda *_: answers.append(refuge.call(lambda: "inner")))
    try:

        def function():
            strike_from_elsewhere()
            eventually(lambda: answers)
            return "outer"

        assert refuge.call(function) == "outer"
    finally:
        signal.signal(signal.SIGALRM, before)
    assert answers == ["inner"]


def test_idle_threads_end(refuge, monkeypatch):
    monkeypatch.setattr(shelter, "IDLE_SECONDS", 0.001)
    for _ in range(50):
        assert refuge.call(int) == 0
        time.sleep(0.002)  # clock: so that threads often end meanwhile
    eventually(lambda: not alive())


def test_no_call_is_lost_while_threads_end(refuge, monkeypatch):
    monkeypatch.setattr(shelter, "IDLE_SECONDS", 0.0001)

    async def many():
        for _ in range(30):
            assert await asyncio.gather(*(refuge.acall(int) for _ in range(20))) == [0] * 20
            refuge.end()

    asyncio.run(many())


def test_no_more_threads_than_allowed(refuge):
    async def many():
        await asyncio.gather(*(refuge.acall(partial(sleep, 0.001)) for _ in range(100)))
        return len(alive())

    assert 1 <= asyncio.run(many()) <= 4


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread")])
def test_without_any_further_thread(refuge, monkeypatch, error):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", fail)
        assert refuge.call(threading.get_ident) == threading.get_ident()
        assert asyncio.run(refuge.acall(lambda: 3)) == 3
    assert refuge.call(threading.get_ident) != threading.get_ident()


async def test_a_cancelled_task_waits_for_a_function_that_has_begun(refuge):
    began, proceed, ended = threading.Event(), threading.Event(), []

    def function():
        began.set()
        proceed.wait(PATIENCE)
        ended.append(1)

    task = asyncio.create_task(refuge.acall(function))
    await asyncio.to_thread(began.wait, PATIENCE)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)  # clock: nothing may happen, however long or short this is
        assert not task.done()
    proceed.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended


async def test_a_cancelled_task_has_no_function_begin(refuge):
    proceed, calls = threading.Event(), []
    busy = [asyncio.create_task(refuge.acall(lambda: proceed.wait(PATIENCE))) for _ in range(4)]
    await aeventually(lambda: len(alive()) == 4)
    task = asyncio.create_task(refuge.acall(lambda: calls.append(1)))
    await asyncio.sleep(0.01)  # clock: any moment will do
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proceed.set()
    await asyncio.gather(*busy)
    assert await refuge.acall(int) == 0
    assert calls == []


def test_a_child_has_threads_of_its_own(refuge):
    assert refuge.call(int) == 0
    child = os.fork()
    if not child:
        os._exit(7 if refuge.call(threading.get_ident) != threading.get_ident() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("opcodes", [False, True])
def test_a_turn_is_never_kept(opcodes):
    turn, under_way = Turn(), []

    def function():
        under_way.append(1)
        assert under_way == [1]
        under_way.pop()

    for place in strikes(lambda: turn.run(function), Struck, "/shelter.py", opcodes=opcodes):
        under_way.clear()
        assert in_thread(lambda: turn.run(int)) == 0, place


def test_turns_exclude_each_other():
    turn, number = Turn(), 0

    def add():
        nonlocal number
        before = number
        time.sleep(0)
        number = before + 1

    def work(_):
        for _ in range(200):
            turn.run(add)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert number == 800
