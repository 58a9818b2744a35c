"""The garbage collector is off only while a call needs that, and on again afterwards."""

import gc
import os
import threading

import pytest

from langgraph_gcs_saver.engine.gc_pause import LARGE_BYTES, put_off
from tests.faults.steps import Struck, strikes
from tests.patience import PATIENCE


@pytest.fixture(autouse=True)
def _collecting():
    assert gc.isenabled()
    yield
    gc.enable()


def test_small_work_leaves_it_alone():
    assert put_off(LARGE_BYTES - 1, gc.isenabled)


def test_on_again_after_the_last_one_even_if_it_fails():
    def fail():
        raise KeyError

    def outer():
        with pytest.raises(KeyError):
            put_off(LARGE_BYTES, fail)
        return gc.isenabled()

    assert not put_off(LARGE_BYTES, outer)
    assert gc.isenabled()


def test_who_has_it_off_keeps_it_off():
    gc.disable()
    put_off(LARGE_BYTES, int)
    assert not gc.isenabled()


def test_many_threads():
    inside, out = threading.Barrier(8), threading.Barrier(9)

    def meet():
        inside.wait(PATIENCE)
        return gc.isenabled()

    def work():
        for _ in range(200):
            assert not put_off(LARGE_BYTES, gc.isenabled)
        assert not put_off(LARGE_BYTES, meet)
        out.wait(PATIENCE)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    out.wait(PATIENCE)
    for thread in threads:
        thread.join()
    assert gc.isenabled()


@pytest.mark.parametrize("opcodes", [False, True])
def test_on_again_wherever_an_exception_strikes(opcodes):
    for place in strikes(lambda: put_off(LARGE_BYTES, int), Struck, "/gc_pause.py", "/turn.py", opcodes=opcodes):
        assert gc.isenabled(), place
        assert not put_off(LARGE_BYTES, gc.isenabled), place
        assert gc.isenabled(), place


def test_a_forked_child_collects():
    def fork():
        child = os.fork()
        if not child:
            inside = put_off(LARGE_BYTES, gc.isenabled)
            os._exit(0 if gc.isenabled() and not inside else 1)
        return child

    child = put_off(LARGE_BYTES, fork)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
