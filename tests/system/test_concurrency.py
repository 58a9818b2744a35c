"""Threads, event loops, processes and forks on one store, and deletion among all of them."""

import asyncio
import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from langgraph_gcs_saver.engine.effects import Commit, DeleteBlobs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.events import CheckpointSkipped, ParentForked
from langgraph_gcs_saver.flows.threads import delete_thread
from tests.kit.interceptors import Seen
from tests.patience import PATIENCE, Clock, eventually
from tests.system.build import DEFAULT, cfg, checkpoint, cid, noise, number, put, values, version
from tests.system.workers import append, process, put_on_order


def at_once(count, function):
    """Call `function(0)` to `function(count - 1)` on a thread each, all let go at the same moment."""
    barrier = threading.Barrier(count)

    def call(n):
        barrier.wait(PATIENCE)
        return function(n)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(call, range(count)))


def state(n, **more):
    """Small values, and one that becomes an object; all of them contain `n`."""
    return {"n": n, "again": [n], "large": noise(20_000, n), **more}


def is_whole(found):
    n = values(found)["n"]
    return values(found) == state(n)


# Threads and coroutines


def test_16_threads_on_one_saver(saver, make_saver):
    def work(who):
        thread = f"thread {who}"
        for n in range(1, 6):
            put(saver, n, state(n), parent=n - 1 or None, thread=thread)
            saver.put_writes(cfg(n, thread=thread), [("a", who), ("b", noise(300, who))], "task")
            found = saver.get_tuple(cfg(thread=thread))
            assert number(found) == n
            assert is_whole(found)
            assert found.pending_writes == [("task", "a", who), ("task", "b", noise(300, who))]

    at_once(16, work)
    reader = make_saver()
    for who in range(16):
        found = list(reader.list(cfg(thread=f"thread {who}")))
        assert [number(one) for one in found] == [5, 4, 3, 2, 1]
        assert all(map(is_whole, found))


def test_many_coroutines_on_one_loop(saver):
    async def work(who):
        thread = f"thread {who}"
        for n in (1, 2):
            first = checkpoint(n, state(n))
            await saver.aput(cfg(n - 1 or None, thread=thread), first, DEFAULT, first["channel_versions"])
            await saver.aput_writes(cfg(n, thread=thread), [("a", who)], "task")
            found = await saver.aget_tuple(cfg(thread=thread))
            assert (number(found), found.pending_writes) == (n, [("task", "a", who)])
            assert is_whole(found)
        assert [number(one) async for one in saver.alist(cfg(thread=thread))] == [2, 1]

    async def main():
        await asyncio.gather(*map(work, range(60)))
        await saver.aclose()

    asyncio.run(main())


def test_a_cancelled_put_is_whole_or_absent(saver, raw):
    async def main():
        for n in range(1, 25):
            first = checkpoint(n, state(n))
            task = asyncio.create_task(saver.aput(cfg(), first, DEFAULT, first["channel_versions"]))
            await asyncio.sleep(n / 4000)  # clock: any moment will do
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        first = checkpoint(90, state(90))
        await saver.aput(cfg(), first, DEFAULT, first["channel_versions"])
        found = [one async for one in saver.alist(cfg())]
        assert number(found[0]) == 90
        assert all(map(is_whole, found))
        await saver.aclose()

    asyncio.run(main())


# Event loops


def open_files():
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


async def one_of_each(saver, thread, n):
    first = checkpoint(n, state(n))
    await saver.aput(cfg(n - 1 or None, thread=thread), first, DEFAULT, first["channel_versions"])
    await saver.aput_writes(cfg(n, thread=thread), [("a", n)], "task")
    assert is_whole(await saver.aget_tuple(cfg(thread=thread)))
    assert [number(one) async for one in saver.alist(cfg(thread=thread), limit=1)] == [n]


def test_event_loops_one_after_another(saver):
    def threads():
        return threading.active_count()

    for n in range(1, 6):
        asyncio.run(one_of_each(saver, "t", n))
    files, running = open_files(), threads()
    for n in range(6, 36):
        asyncio.run(one_of_each(saver, "t", n))
    assert open_files() <= files + 3
    assert threads() <= running + 16  # the saver's own pool may still have grown
    documents = saver._backend.documents
    loops = [process.loops for process in documents._processes.all()] if hasattr(documents, "_processes") else []
    assert sum(map(len, loops)) <= 1
    put(saver, 90, state(90), parent=35)
    assert len(list(saver.list(cfg()))) == 36


def test_event_loops_at_once_in_threads(saver):
    def work(who):
        for n in range(1, 5):
            asyncio.run(one_of_each(saver, f"thread {who}", n))
            assert is_whole(saver.get_tuple(cfg(thread=f"thread {who}")))

    at_once(6, work)
    for who in range(6):
        assert len(list(saver.list(cfg(thread=f"thread {who}")))) == 4


def test_sync_calls_beside_a_running_loop(saver):
    async def main():
        for n in range(1, 6):
            await one_of_each(saver, "async", n)
            await asyncio.to_thread(put, saver, n, state(n), parent=n - 1 or None, thread="sync")
            assert number(await saver.aget_tuple(cfg(thread="sync"))) == n
            assert number(await asyncio.to_thread(saver.get_tuple, cfg(thread="async"))) == n

    asyncio.run(main())


def test_savers_opened_and_closed_leave_nothing_open(make_saver, store_uri):
    from langgraph_gcs_saver import GCSSaver

    def once(n):
        with GCSSaver.from_conn_string(store_uri) as saver:
            put(saver, n, state(n))
            assert is_whole(saver.get_tuple(cfg(n)))

    async def aonce(n):
        async with GCSSaver.from_conn_string(store_uri) as saver:
            await one_of_each(saver, f"thread {n}", 1)

    for n in range(1, 4):
        once(n)
        asyncio.run(aonce(n))
    files, running = open_files(), threading.active_count()
    for n in range(4, 16):
        once(n)
        asyncio.run(aonce(n))
    assert open_files() <= files + 3
    assert threading.active_count() <= running + 1


# Forks and processes


def test_use_after_fork(store_uri):
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.forking", store_uri],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]


def test_four_processes_append_to_one_thread(store_uri, saver):
    count = 10
    with ExitStack() as stack:
        running = [stack.enter_context(process(append, store_uri, who, count)) for who in range(4)]
        for _, pipe in running:
            pipe.send("go")
        stored = dict(pair for _, pipe in running for pair in pipe.recv())
    assert len(stored) == 4 * count
    found = {one.checkpoint["id"]: values(one) for one in saver.list(cfg())}
    assert found == stored
    for checkpoint_id, expected in stored.items():
        config = {"configurable": {**cfg()["configurable"], "checkpoint_id": checkpoint_id}}
        assert values(saver.get_tuple(config)) == expected
    assert saver.get_tuple(cfg()).checkpoint["id"] == max(stored)


def test_two_processes_caches_in_turn(store_uri, saver):
    """A process's cache of a thread is stale whenever the other process has written. That must not show."""
    with process(put_on_order, store_uri) as (_, a), process(put_on_order, store_uri) as (_, b):
        expected = state(1)
        for n in range(1, 13):
            expected = {**expected, "n": n, "again": [n]}
            # Every fourth checkpoint has a parent that has a child by now.
            parent = None if n == 1 else n - 3 if n % 4 == 0 else n - 1
            changed = set(expected) if n == 1 else {"n", "again"}
            versions = {channel: version(n if channel in changed else 1) for channel in expected}
            order = cfg(parent), checkpoint(n, expected, versions), {channel: versions[channel] for channel in changed}
            pipe = (a, b)[n % 2]
            pipe.send(order)
            assert pipe.poll(PATIENCE)
            assert pipe.recv() == (cid(n), expected)
        for pipe in (a, b):
            pipe.send(None)
    assert [values(found)["n"] for found in saver.list(cfg())] == list(range(12, 0, -1))


# One checkpoint, many writers


@pytest.mark.parametrize("caches", ["shared", "own"])
def test_8_threads_fork_one_checkpoint(make_saver, caches):
    events = []
    first = make_saver(on_event=events.append)
    put(first, 1, state(1, kept="kept"))
    savers = [first] * 8 if caches == "shared" else [make_saver(on_event=events.append) for _ in range(8)]
    for saver in savers:
        saver.get_tuple(cfg())

    def fork(who):
        mine = state(who + 2, kept="kept")
        put(savers[who], who + 2, mine, parent=1, changed=set(mine) - {"kept"})

    at_once(8, fork)
    reader = make_saver()
    for who in range(8):
        found = reader.get_tuple(cfg(who + 2))
        assert values(found) == state(who + 2, kept="kept")
        assert found.parent_config == cfg(1)
    assert [number(found) for found in reader.list(cfg())] == list(range(9, 0, -1))
    # Each saver that lost a race got an event.
    assert any(isinstance(event, ParentForked) for event in events)


def test_a_hundred_forks_of_one_checkpoint(make_saver):
    saver = make_saver(max_threads=32)
    put(saver, 1, {"kept": "kept", "n": 1})
    at_once(
        25,
        lambda who: [
            put(saver, 4 * who + k, {"kept": "kept", "n": 4 * who + k}, parent=1, changed={"n"}) for k in range(2, 6)
        ],
    )
    found = list(saver.list(cfg()))
    assert [values(one) for one in found] == [{"kept": "kept", "n": n} for n in range(101, 0, -1)]


def test_8_threads_put_the_same_checkpoint(make_saver, raw):
    savers = [make_saver() for _ in range(4)]
    at_once(8, lambda who: put(savers[who // 2], 1, state(1)))
    assert raw.counts()["lg_checkpoints"] == 1
    (found,) = make_saver().list(cfg())
    assert is_whole(found)


@pytest.mark.parametrize("parent", [None, 1])
def test_8_threads_put_one_checkpoint_with_different_contents(make_saver, raw, parent):
    savers = [make_saver() for _ in range(4)]
    if parent is not None:
        put(savers[0], parent, state(1))

    def work(who):
        put(savers[who // 2], 2, state(who + 10), parent=parent, metadata={"who": who})

    at_once(8, work)
    assert raw.counts()["lg_checkpoints"] == 1 + (parent is not None)
    found = make_saver().get_tuple(cfg(2))
    assert is_whole(found)
    assert values(found)["n"] == found.metadata["who"] + 10


# Readers and deletions beside writers


def test_readers_while_a_writer_writes(make_saver):
    done = threading.Event()
    writer = make_saver()
    put(writer, 1, state(1))

    def write():
        try:
            for n in range(2, 60):
                put(writer, n, state(n), parent=n - 1)
                writer.put_writes(cfg(n), [("a", n)], "task")
        finally:
            done.set()

    def read(who):
        reader = make_saver() if who % 2 else writer
        newest = 0
        while not done.is_set():
            found = reader.get_tuple(cfg())
            assert is_whole(found)
            assert number(found) >= newest
            newest = number(found)
            listed = list(reader.list(cfg(), limit=5))
            assert all(map(is_whole, listed))
            order = [number(one) for one in listed]
            assert order == list(range(order[0], order[0] - len(order), -1))
            assert order[0] >= newest
        return newest

    at_once(4, lambda who: write() if who == 0 else read(who))
    assert number(writer.get_tuple(cfg())) == 59


def fill(saver, thread, run):
    """Everything that leaves documents and objects."""
    for n in range(1, 8):
        metadata = {"run_id": f"{run} {n % 3}"}
        put(saver, n, state(n), parent=n - 1 or None, thread=thread, metadata=metadata)
        put(saver, n, state(n), parent=n - 1 or None, thread=thread, ns=f"child:{n}|x", metadata=metadata)
        saver.put_writes(cfg(n, thread=thread), [("a", n), ("b", noise(150_000, n))], "task")
        saver.put_writes(cfg(n, thread=thread), [("__interrupt__", noise(150_000, n)), ("__error__", "!")], "task")
    # Pending writes whose checkpoint never came.
    saver.put_writes(cfg(90, thread=thread), [("a", noise(150_000))], "task")
    saver.put_writes(cfg(90, thread=thread, ns="other"), [("a", 1)], "task")


NEIGHBOURS = ["", "T", "t_", "t/", "t-", "t%2F", "tt", "t\0", "t/x", "run", "~", "t 1"]


def test_delete_thread_leaves_nothing(saver, make_saver, raw):
    for number_, thread in enumerate(NEIGHBOURS):
        put(saver, 1, state(1), thread=thread, metadata={"run_id": "shared run" if number_ % 2 else f"run {number_}"})
        saver.put_writes(cfg(1, thread=thread), [("a", noise(150_000))], "task")
    before = raw.snapshot()
    fill(saver, "t", "shared run")
    put(saver, 9, state(9), thread="t", metadata={"run_id": "shared run"})
    assert raw.counts()["lg_threads"] > len(NEIGHBOURS)
    make_saver().delete_thread("t")
    assert raw.snapshot() == before
    for _ in range(2):
        saver.delete_thread("t")
        assert raw.snapshot() == before
    assert saver.get_tuple(cfg(thread="t")) is None
    assert list(saver.list(cfg(thread="t", ns=None))) == []
    # A new thread of the same name starts empty, also for a saver that knew the old one.
    fill(saver, "t", "shared run")
    assert len(list(saver.list(cfg(thread="t", ns=None)))) == 14
    asyncio.run(make_saver().adelete_thread("t"))
    assert raw.snapshot() == before


def test_delete_a_thread_of_pending_writes_only(saver, raw):
    saver.put_writes(cfg(1), [("a", 1)], "task")
    saver.put_writes(cfg(2), [("a", noise(150_000))], "task")
    saver.put_writes(cfg(3), [("__interrupt__", noise(150_000))], "task")
    assert list(saver.list(cfg())) == []
    saver.delete_thread("t")
    assert raw.snapshot() == ({}, {})


def test_delete_thread_with_a_checkpoint_that_two_runs_put(saver, make_saver, raw):
    put(saver, 1, state(1), metadata={"run_id": "run 1"})
    put(saver, 1, state(1), metadata={"run_id": "run 2"})
    make_saver().delete_thread("t")
    assert raw.snapshot() == ({}, {})


def test_delete_thread_of_many_checkpoints(saver, raw):
    for n in range(1, 231):
        put(saver, n, {"n": n}, parent=n - 1 or None, metadata={"run_id": f"run {n}"})
        if n % 100 == 0:
            put(saver, n + 1000, state(n), parent=n)
    saver.delete_thread("t")
    assert raw.snapshot() == ({}, {})


def test_delete_thread_while_writers_write(make_saver, raw):
    stop = threading.Event()
    skipped = []
    written, ended = [0] * 4, [False] * 4

    def write(who):
        try:
            return write_until_stopped(who)
        finally:
            ended[who] = True

    def write_until_stopped(who):
        saver = make_saver()
        n, parent = 100 * who, None
        while not stop.is_set() and n < 100 * who + 99:
            n += 1
            mine = state(n, kept=f"kept {who}")
            changed = None if parent is None else {"n", "again", "large"}
            try:
                put(
                    saver,
                    n,
                    mine,
                    parent=parent,
                    thread="t",
                    ns=f"ns {who}",
                    changed=changed,
                    metadata={"run_id": f"run {who}"},
                )
                saver.put_writes(cfg(n, ns=f"ns {who}"), [("a", noise(150_000, n) if n % 5 == 0 else n)], "task")
                parent = n
            except ConflictError:
                parent = None
            written[who] += 1
        return n

    def delete(_):
        saver = make_saver()
        tries = deleted = 0

        def has_seen_writes(before):
            return all(written[who] > before[who] or ended[who] for who in (1, 2, 3))

        try:
            while tries < 6 or not deleted:
                eventually(partial(has_seen_writes, list(written)))
                tries += 1
                with suppress(ConflictError):
                    saver.delete_thread("t")
                    deleted += 1
        finally:
            stop.set()
        return deleted

    results = at_once(4, lambda who: delete(who) if who == 0 else write(who))
    assert results[0] > 0
    assert all(n > 100 * who for who, n in enumerate(results) if who)
    reader = make_saver(on_event=lambda event: skipped.append(event) if isinstance(event, CheckpointSkipped) else None)
    for found in reader.list(cfg(ns=None)):
        n = values(found)["n"]
        who = n // 100
        assert values(found) == state(n, kept=f"kept {who}")
        assert values(reader.get_tuple(found.config)) == values(found)
        expected = noise(150_000, n) if n % 5 == 0 else n
        assert found.pending_writes in ([], [("task", "a", expected)])
    assert skipped == []
    # Pending writes that came after the deletion of their checkpoint may be left. There are no writers any more, so
    # all of them are deleted.
    reader.delete_thread("t")
    assert raw.snapshot() == ({}, {})


class StoppedError(Exception):
    """Stands for the end of the process."""


def drive(saver, flow, steps, meanwhile=lambda: None):
    """Perform the first `steps` effects of a flow, and stop; returns how many there were.

    `meanwhile` is called before the last of them.
    """
    performed = 0
    step = partial(next, flow)
    while True:
        try:
            effect = step()
        except StopIteration:
            return performed
        if performed == steps:
            with pytest.raises(StoppedError):
                flow.throw(StoppedError())
            return performed
        if performed == steps - 1:
            meanwhile()
        step = partial(flow.send, saver._backend.perform(effect))
        performed += 1


@pytest.mark.parametrize("lost", [False, True], ids=["stopped", "answer lost"])
def test_delete_thread_resumed_after_each_effect(make_saver, raw, lost):
    """Stopped before each of its effects in turn, or right after each; another process then deletes."""
    put(make_saver(), 1, state(1), thread="u", metadata={"run_id": "shared"})
    before = raw.snapshot()
    steps = 0
    while True:
        saver = make_saver()
        put(saver, 1, state(1), metadata={"run_id": "shared"})
        put(saver, 2, state(2), parent=1, metadata={"run_id": "mine"})
        saver.put_writes(cfg(2), [("a", 1), ("b", noise(150_000))], "task")
        saver.put_writes(cfg(5), [("__interrupt__", noise(150_000))], "task")
        performed = drive(saver, delete_thread("t", saver._context), steps)
        # What is left reads as whole or not at all.
        if not lost:
            for found in make_saver().list(cfg()):
                assert is_whole(found)
        deleter = saver if lost else make_saver()
        deleter.delete_thread("t")
        assert raw.snapshot() == before, f"stopped before effect {steps}"
        if performed < steps:
            break
        steps += 1
    assert steps > 8


@pytest.mark.parametrize("store_uri", ["local", pytest.param("emulators", marks=pytest.mark.soak)], indirect=True)
def test_a_put_between_a_deletions_effects(make_saver, raw):
    """A child of a checkpoint arrives before one effect of its deletion, which crashes after it. The rest is whole."""
    expected = {1: state(1, kept="kept"), 2: state(2, kept="kept"), 3: {**state(2, kept="kept"), "n": 3}}
    steps = survived = 0
    while True:
        saver = make_saver()
        put(saver, 1, expected[1])
        put(saver, 2, expected[2], parent=1)
        saver.put_writes(cfg(2), [("b", noise(150_000))], "task")
        writer = make_saver(interceptors=[Clock()])
        writer.get_tuple(cfg())
        flow = delete_thread("t", saver._context)
        performed = drive(saver, flow, steps, partial(put, writer, 3, expected[3], parent=2, changed={"n"}))
        events = []
        found = {number(one): values(one) for one in make_saver(on_event=events.append).list(cfg())}
        assert not [event for event in events if isinstance(event, CheckpointSkipped)], f"before effect {steps}"
        assert found == {n: expected[n] for n in found}, f"before effect {steps}"
        survived += 3 in found
        make_saver().delete_thread("t")
        assert raw.snapshot() == ({}, {})
        if performed < steps:
            break
        steps += 1
    assert steps > 5
    assert survived > 3


def test_a_put_meets_a_deletion_that_died(make_saver, raw):
    """It waits for its deadline, finishes the deletion, and continues."""
    saver = make_saver()
    put(saver, 1, state(1))
    put(saver, 2, state(2), parent=1)
    drive(saver, delete_thread("t", saver._context), 5)
    assert make_saver().get_tuple(cfg()) is None
    clock = Clock()
    writer = make_saver(timeout=100, interceptors=[clock])  # clock: the one that it is given
    put(writer, 3, state(3))
    assert 100 < clock.paused < 101
    assert [number(found) for found in make_saver().list(cfg())] == [3]
    make_saver().delete_thread("t")
    assert raw.snapshot() == ({}, {})


class Deleting(Interceptor):
    """Deletes the thread before the next commit, when that is due."""

    def __init__(self, other):
        self.other, self.is_due = other, False

    def around(self, effect, perform):
        if isinstance(effect, Commit) and self.is_due:
            self.is_due = False
            self.other.delete_thread("t")
        return perform(effect)


def test_a_large_put_whose_thread_is_deleted_before_its_commit(make_saver):
    """Its objects are deleted with the thread: it must not commit a manifest that refers to them."""
    deleting = Deleting(make_saver())
    saver = make_saver(interceptors=[deleting])
    put(saver, 1, state(1))
    deleting.is_due = True
    put(saver, 2, state(2), parent=1)
    assert not deleting.is_due
    (found,) = make_saver().list(cfg())
    assert is_whole(found)
    deleting.is_due = True
    saver.put_writes(cfg(2), [("a", noise(150_000))], "task")
    assert not deleting.is_due
    assert make_saver().get_tuple(cfg()) is None
    saver.put_writes(cfg(2), [("b", noise(150_000))], "task 2")
    put(saver, 2, state(2))
    found = make_saver().get_tuple(cfg())
    assert is_whole(found)
    assert {task for task, _, _ in found.pending_writes} == {"task", "task 2"}


def test_deletions_are_in_batches_that_services_take(make_saver, raw):
    seen = Seen()
    saver = make_saver(interceptors=[seen])
    put(saver, 1, {f"c{n}": noise(9_000, n) for n in range(230)})
    saver.delete_thread("t")
    sizes = [len(effect.names) for effect in seen.requests if isinstance(effect, DeleteBlobs)]
    assert max(sizes) <= 100
    assert sum(sizes) == 230
    assert raw.snapshot() == ({}, {})
