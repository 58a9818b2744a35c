import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from langgraph_gcs_saver.engine.turn import Turn
from tests.faults.steps import Struck, strikes
from tests.patience import PATIENCE


@pytest.mark.parametrize("opcodes", [False, True])
def test_a_turn_is_never_kept(opcodes):
    turn, under_way = Turn(), []

    def function():
        under_way.append(1)
        assert under_way == [1]
        under_way.pop()

    for place in strikes(lambda: turn.run(function), Struck, "/turn.py", opcodes=opcodes):
        under_way.clear()
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(turn.run, int).result(PATIENCE) == 0, place


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
