"""The collector is off only while somebody needs it to be, and on again afterwards."""

import gc
import os
import threading
from contextlib import ExitStack

import pytest

from langgraph_gcs_saver.garbage import LARGE_BYTES, put_off


@pytest.fixture(autouse=True)
def _collecting():
    assert gc.isenabled()
    yield
    gc.enable()


def test_small_work_leaves_it_alone():
    with put_off(LARGE_BYTES - 1):
        assert gc.isenabled()


def test_on_again_after_the_last_one_even_if_it_fails():
    with ExitStack() as stack:
        stack.enter_context(put_off(LARGE_BYTES))
        with pytest.raises(KeyError), put_off(LARGE_BYTES):
            raise KeyError
        assert not gc.isenabled()
    assert gc.isenabled()


def test_who_has_it_off_keeps_it_off():
    gc.disable()
    with put_off(LARGE_BYTES):
        pass
    assert not gc.isenabled()


def test_many_threads():
    inside, out = threading.Barrier(8), threading.Barrier(9)

    def work():
        for _ in range(200):
            with put_off(LARGE_BYTES):
                assert not gc.isenabled()
        with put_off(LARGE_BYTES):
            inside.wait(30)
            assert not gc.isenabled()
        out.wait(30)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    out.wait(30)
    for thread in threads:
        thread.join()
    assert gc.isenabled()


def test_a_forked_child_collects():
    with put_off(LARGE_BYTES):
        child = os.fork()
        if not child:
            with put_off(LARGE_BYTES):
                inside = gc.isenabled()
            os._exit(0 if gc.isenabled() and not inside else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
