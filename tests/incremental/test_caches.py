"""What is in memory only saves work: small caches, options that differ, threads, forks, and ids that come again."""

import random
import subprocess
import sys
import threading
import time
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from tests.incremental.threads import METADATA, Thread, chat, growing, message, numbers, refs
from tests.patience import PATIENCE
from tests.system.build import cfg, checkpoint, noise, version

# Sizes and options


@pytest.mark.parametrize("size", [0, 30_000])
def test_small_caches(size, make_saver):
    saver, thread = make_saver(cache_max_bytes=size), Thread()
    thread.line([saver], growing(20, 5))
    thread.line([saver], growing(10, 2), first=10, parent=2)
    thread.check(saver, make_saver())
    assert saver._context.values._bytes <= size
    if size < 20_000:  # smaller than any of the values
        assert {k for k, _ in numbers(saver, thread)} == {0}


def test_memory_is_bounded_by_the_option(make_saver):
    """By reads, by writes, and by a list of everything."""
    limit = 150_000
    saver, thread = make_saver(cache_max_bytes=limit), Thread()
    thread.line([saver], growing(20, 8))
    assert 0 < saver._context.values._bytes <= limit
    reader = make_saver(cache_max_bytes=limit)
    thread.check(reader)
    assert 50_000 < reader._context.values._bytes <= limit
    assert (
        sum(len(value.data) for value, _ in reader._context.values._entries.values()) == reader._context.values._bytes
    )


def test_incremental_data_is_read_and_continued_without_the_option_and_the_other_way_round(make_saver):
    on, off, thread = make_saver(), make_saver(incremental=False), Thread()
    thread.line([on], growing(20, 4))
    thread.check(on, off, make_saver(incremental=False))
    thread.line([off], growing(24, 3), first=5, parent=4)
    thread.check(on, off, make_saver(incremental=False))
    thread.line([make_saver(incremental=False)], growing(27, 2), first=8, parent=7)
    thread.line([on], growing(29, 3), first=10, parent=9, get=True)
    thread.check(on, off, make_saver(), make_saver(incremental=False))
    found = [k for k, _ in numbers(on, thread)]
    assert found[:4] == [0, 1, 2, 3]
    assert found[4:9] == [0] * 5
    assert found[9:] == [1, 2, 3]


@pytest.mark.parametrize("every", [1, 5])
def test_a_full_frame_every_so_many_versions(every, make_saver):
    saver, thread = make_saver(full_every=every), Thread()
    thread.line([saver], growing(30, 11))
    thread.check(saver, make_saver(), make_saver(full_every=1))
    assert [k for k, _ in numbers(saver, thread)] == [n % every for n in range(11)]


def test_a_full_frame_is_due_by_time(make_saver):
    """By the times in LangGraph's ids."""

    def at(hours_ago):
        began = datetime(1582, 10, 15, tzinfo=timezone.utc).timestamp()
        ticks = round((time.time() - hours_ago * 3600 - began) * 10_000_000)
        return str(uuid.UUID(int=ticks >> 12 << 80 | 6 << 76 | (ticks & 0xFFF) << 64 | 2 << 62 | 12345))

    found = []
    for every in (timedelta(hours=2), timedelta(hours=4)):
        saver, parent, thread = make_saver(full_every=every), {}, str(every)
        for n, hours_ago in enumerate([3, 2.9, 2.8]):
            known = {**checkpoint(n, {"v": chat(30 + n)}), "id": at(hours_ago)}
            config = saver.put({"configurable": {"thread_id": thread, **parent}}, known, METADATA, {"v": version(n)})
            parent = {"checkpoint_id": config["configurable"]["checkpoint_id"]}
            assert make_saver().get_tuple(config).checkpoint["channel_values"] == {"v": chat(30 + n)}
        known = saver.get_tuple(config)
        found.append(len(refs(saver, known.config["configurable"]["checkpoint_id"], thread)["v"].chain))
    # Each is younger than its base by minutes, but now is three hours later.
    assert found == [1, 3]


# At the same time


@pytest.mark.parametrize("cache", [64 << 20, 120_000], ids=["large", "tiny"])
def test_16_threads(cache, make_saver):
    """Each grows a fork of its own from a common line, and reads what the others have written."""
    saver, thread = make_saver(cache_max_bytes=cache), Thread()
    thread.line([saver], growing(20, 4))
    failures, begin = [], threading.Barrier(16)
    forks = [Thread() for _ in range(16)]

    def work(who):
        rng, mine = random.Random(who), forks[who]
        mine.values, mine.versions = dict(thread.values), dict(thread.versions)
        try:
            begin.wait(PATIENCE)
            parent = 1 + who % 4
            for step in range(3):
                n = 1000 + 100 * who + step
                value = [*mine.values[parent]["v"], message(n)]
                mine.put(saver, n, {"v": value, "kept": ["t"]}, parent, changed={"v"})
                parent = n
                other = forks[rng.randrange(16)].values
                for known in (n, rng.randrange(1, 5), *rng.sample(sorted(other), min(2, len(other)))):
                    mine_or_other = mine.values.get(known) or other[known]
                    assert saver.get_tuple(cfg(known)).checkpoint["channel_values"] == mine_or_other
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(who,)) for who in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    for fork in forks:
        thread.values |= fork.values
        thread.versions |= fork.versions
    assert len(thread.values) == 4 + 16 * 3
    thread.check(make_saver())
    assert saver._context.values._bytes <= cache


def test_both_sides_of_a_fork(store_uri, make_saver):
    """The caches of the parent process are not the child's: both continue the same line."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.incremental.forking", store_uri],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    reader = make_saver()
    for n, values in eval(answer.stdout).items():
        assert reader.get_tuple(cfg(n)).checkpoint["channel_values"] == values


# Ids that come again


CONTENTS = {
    "other": ([chat(20 + n) for n in range(5)], [chat(20 + n, 500) for n in range(5)]),
    "a little other": (
        [chat(20 + n) for n in range(5)],
        [[*chat(20 + n), message(n)] for n in range(5)],
    ),
    "the base is the same": ([chat(20 + n) for n in range(5)], [chat(20), *(chat(20 + n, 3) for n in range(1, 5))]),
    "the last is the same": ([chat(20 + n) for n in range(5)], [*(chat(20 + n, 3) for n in range(4)), chat(24)]),
    "as long": ([noise(900, n) for n in range(5)], [noise(900, 10 + n) for n in range(5)]),
    "objects": (
        [noise(20_000, n // 2) + noise(500, n) for n in range(5)],
        [noise(20_000, 9) + noise(500, n) for n in range(5)],
    ),
    "shorter": ([chat(20 + n) for n in range(5)], [chat(3 + n) for n in range(5)]),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_a_thread_that_was_deleted_comes_again_with_other_content(what, make_saver):
    """While another saver knows the old one by heart: by reading, and by writing."""
    before, after = CONTENTS[what]
    writer, reader, other = make_saver(), make_saver(), make_saver()
    old = Thread()
    old.line([writer], before)
    old.check(reader, other)
    writer.delete_thread("t")
    for saver in (writer, reader):
        assert saver.get_tuple(cfg()) is None
        assert saver.get_tuple(cfg(3)) is None
    new = Thread()
    new.line([writer], after)
    new.check(reader)
    # This one has not looked since: what it knows of the parents is gone.
    base = after[-1]
    grown = [base + (b"more" if isinstance(base, bytes) else [message(n)]) for n in range(4)]
    new.put(other, 6, {"v": grown[0], "kept": ["t"]}, 5)
    new.put(other, 7, {"v": grown[1], "kept": ["t"]}, 6, changed={"v"})
    new.put(reader, 8, {"v": grown[2], "kept": ["t"]}, 4, changed={"v", "kept"})
    new.put(writer, 9, {"v": grown[3], "kept": ["t"]}, 7, changed={"v"})
    new.check(make_saver(), writer, reader, other)


def test_a_checkpoint_that_was_replaced_is_read_anew(make_saver):
    first, second, thread = make_saver(), make_saver(), Thread()
    thread.line([first], growing(20, 4))
    thread.check(second)
    old = thread.values[3]["v"]
    thread.put(second, 3, {"v": [*old[:-1], message(-5)], "kept": ["t"]}, 2, changed={"v"})
    thread.check(first, second, make_saver())
    for n, saver in enumerate([first, second, first], 10):
        thread.put(saver, n, {"v": [*old, message(n)], "kept": ["t"]}, 3, changed={"v"})
    thread.check(first, second, make_saver())
