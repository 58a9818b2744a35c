"""One object per process, through real forks."""

import gc
import os
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from langgraph_gcs_saver.engine.per_process import AtFork, PerProcess
from tests.faults.steps import Struck, strikes
from tests.patience import PATIENCE

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def in_child(function):
    """Run a function in a forked child, which must not fail."""
    child = os.fork()
    if not child:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_share_one():
    begun = threading.Barrier(8)
    lists = PerProcess(list)

    def ask(_):
        begun.wait(PATIENCE)
        return lists.get()

    with ThreadPoolExecutor(8) as pool:
        assert len({id(one) for one in pool.map(ask, range(8))}) == 1


def test_empty_objects_are_objects_too():
    lists = PerProcess(list)
    assert lists.get() is lists.get()


def test_each_child_gets_its_own():
    lists = PerProcess(list)
    mine = lists.get()

    def child():
        assert lists.is_forked
        assert lists.peek() is None
        theirs = lists.get()
        assert theirs is not mine
        assert lists.get() is lists.peek() is theirs
        assert [id(one) for one in lists.all()] == [id(mine), id(theirs)], "the parent's is not freed"
        in_child(lambda: grandchild(theirs))
        assert lists.pop() is theirs
        assert lists.pop() is None
        assert [id(one) for one in lists.all()] == [id(mine)]

    def grandchild(theirs):
        assert lists.peek() is None
        assert lists.get() is not theirs

    in_child(child)
    assert not lists.is_forked
    assert lists.get() is mine
    assert lists.all() == [mine]


def test_a_child_with_the_id_of_an_ancestor_gets_its_own(monkeypatch):
    """The system gives an id away again when its process has ended."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    lists = PerProcess(list)
    mine = lists.get()

    def child():
        assert lists.is_forked
        assert lists.get() is not mine

    in_child(lambda: in_child(child))


def test_a_child_does_not_wait_for_a_lock_of_its_parents_threads():
    locks = PerProcess(threading.Lock)
    held, go = threading.Event(), threading.Event()

    def hold():
        with locks.get():
            held.set()
            go.wait(PATIENCE)

    def child():
        assert locks.get().acquire(blocking=False)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    in_child(child)
    go.set()
    holder.join()


@pytest.mark.parametrize("opcodes", [False, True])
def test_it_works_wherever_an_exception_strikes(opcodes):
    lists = PerProcess(list)

    def use():
        lists.pop()
        lists.get()

    for place in strikes(use, Struck, "/per_process.py", opcodes=opcodes):
        assert lists.get() is lists.get(), place
        assert len(lists.all()) == 1, place


class One:
    pass


def test_functions_are_called_at_each_fork_for_what_still_exists():
    calls = []
    hooks = AtFork(
        before=lambda one: calls.append(("before", one)),
        after_in_parent=lambda one: calls.append(("parent", one)),
        after_in_child=lambda one: calls.append(("child", one)),
    )
    kept, dropped = One(), One()
    hooks.add(kept)
    hooks.add(dropped)
    del dropped
    gc.collect()

    def child():
        assert calls == [("before", kept), ("child", kept)]

    in_child(child)
    assert calls == [("before", kept), ("parent", kept)]
