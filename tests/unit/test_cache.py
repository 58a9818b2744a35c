import random
import sys
import threading
from collections import OrderedDict
from itertools import count

import pytest
from hypothesis import strategies as st

from langgraph_gcs_saver.flows.cache import ByteCache
from tests.faults.steps import Struck, strikes
from tests.patience import PATIENCE
from tests.unit.fuzz import fuzz

keys = st.integers(0, 5)
steps = st.lists(
    st.tuples(st.just("put"), keys, st.integers(0, 12)) | st.tuples(st.sampled_from(["get", "drop"]), keys, st.just(0))
)


@fuzz(st.integers(0, 20), steps, examples=200)
def test_like_the_obvious_model(limit, commands):
    """The least recently used entry is dropped first. An entry that is too large drops the one that it replaced."""
    cache, model = ByteCache(limit), OrderedDict()
    for number, (command, key, size) in enumerate(commands):
        if command == "put":
            cache.put(key, number, size)
            model.pop(key, None)
            if size <= limit:
                model[key] = (number, size)
            while sum(size for _, size in model.values()) > limit:
                model.popitem(last=False)
        elif command == "drop":
            cache.drop(key)
            model.pop(key, None)
        else:
            assert cache.get(key) == (model[key][0] if key in model else None)
            if key in model:
                model.move_to_end(key)
        assert cache._bytes == sum(size for _, size in model.values()) <= limit
        assert list(cache._entries) == list(model)


def test_the_least_recently_used_goes_first():
    cache = ByteCache(3)
    for key in "abc":
        cache.put(key, key, 1)
    assert cache.get("a") == "a"
    cache.put("d", "d", 1)
    assert cache.get("b") is None
    assert [cache.get(key) for key in "acd"] == ["a", "c", "d"]


def test_the_bound_is_inclusive():
    cache = ByteCache(10)
    cache.put("a", 1, 10)
    assert cache.get("a") == 1
    cache.put("a", 2, 11)
    assert cache.get("a") is None
    ByteCache(0).put("a", 1, 1)


def test_zero_bytes_keep_nothing():
    cache = ByteCache(0)
    cache.put("a", 1, 1)
    assert cache.get("a") is None


def test_many_threads_keep_the_count_right():
    cache, failures = ByteCache(500), []

    def work(seed):
        rng = random.Random(seed)
        try:
            for _ in range(3000):
                key = rng.randrange(40)
                action = rng.randrange(4)
                if action == 0:
                    cache.drop(key)
                elif action == 1:
                    cache.put(key, key, rng.randrange(60))
                elif cache.get(key) not in (None, key):
                    failures.append(key)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache._bytes == sum(size for _, size in cache._entries.values()) <= 500


@pytest.mark.parametrize("was_struck", [False, True])
def test_reads_between_any_two_steps_of_a_write_do_no_harm(was_struck):
    """A read takes no lock, and changes the order of the entries that a write goes through."""
    cache = ByteCache(4)
    for key in range(4):
        cache.put(key, key, 1)
    cache._is_counted = not was_struck
    reads = count()

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.endswith("/cache.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            cache.get(next(reads) % 2)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        cache.put("key", "value", 2)
    finally:
        sys.settrace(before)
    assert next(reads) > 20
    assert cache.get("key") == "value"
    assert cache._bytes == sum(size for _, size in cache._entries.values()) == 4


@pytest.mark.parametrize("opcodes", [False, True])
def test_the_count_is_right_wherever_an_exception_strikes(opcodes):
    cache, numbers = ByteCache(10), count()

    def use():
        number = next(numbers)
        cache.put(number % 7, number, 3)
        cache.get(number % 5)
        cache.drop(number % 3)

    for place in strikes(use, Struck, "/cache.py", "/turn.py", opcodes=opcodes):
        in_another_thread = threading.Thread(target=cache.put, args=("key", "value", 4))
        in_another_thread.start()
        in_another_thread.join(PATIENCE)
        assert cache.get("key") == "value", place
        assert cache._bytes == sum(size for _, size in cache._entries.values()) <= 10, place
