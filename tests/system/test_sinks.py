"""Sinks: which saver they serve, when they are flushed, and how that fails. Interceptors of an open saver."""

import asyncio
import copy
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from langgraph_gcs_saver import GCSSaver, Interceptor, events
from langgraph_gcs_saver.engine.effects import GetDocs, QueryDocs
from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError, SaverClosedError
from langgraph_gcs_saver.saver import connection
from langgraph_gcs_saver.saver.admin import Admin
from tests.behaviour.api import cfg
from tests.patience import PATIENCE, aeventually


class Keeping:
    """A sink that keeps events until it is flushed."""

    def __init__(self, flushing=lambda: True):
        self.savers, self.held, self.passed, self.timeouts, self.threads = [], [], [], [], []
        self.flushing = flushing

    def attach(self, saver):
        self.savers.append(saver)
        return self.held.append

    def flush(self, timeout):
        self.timeouts.append(timeout)
        self.threads.append(threading.current_thread())
        self.passed += self.held
        self.held.clear()
        return self.flushing()


def read(saver):
    saver.get_tuple(cfg())


@pytest.mark.parametrize("how", ["subscribe", "on_event"])
@pytest.mark.parametrize("kind", [GCSSaver, Admin])
def test_a_sink_learns_which_saver_it_serves_and_is_flushed_when_that_closes(how, kind):
    sink = Keeping()
    assert isinstance(sink, events.Sink)
    saver = kind.from_conn_string("memory:", **({"on_event": sink} if how == "on_event" else {}))
    if how == "subscribe":
        saver.subscribe(sink)
    assert sink.savers == [saver]
    saver._subscribers.emit(events.ThreadDeleted(thread_id="t", documents=1, objects=0))
    assert [type(one) for one in sink.held] == [events.ThreadDeleted]
    saver.close()
    assert [type(one) for one in sink.passed] == [events.ThreadDeleted]
    assert sink.timeouts == [connection.FLUSH_SECONDS]


async def test_aclose_flushes_beside_the_event_loop():
    beat = threading.Event()
    sink = Keeping(lambda: beat.wait(PATIENCE))

    async def answer():
        await aeventually(lambda: sink.timeouts)
        beat.set()

    saver = GCSSaver.from_conn_string("memory:", on_event=sink)
    await saver.aget_tuple(cfg())
    await asyncio.gather(saver.aclose(), answer())
    assert [type(one) for one in sink.passed] == [events.CheckpointNotFound]
    assert not sink.threads[0].is_alive(), "the event loop has answered it in time"


def test_a_sink_that_has_unsubscribed_gets_nothing_more():
    first, second = Keeping(), Keeping()
    with GCSSaver.from_conn_string("memory:", on_event=first) as saver:
        end = saver.subscribe(second)
        read(saver)
        end()
        end()
        read(saver)
        assert (len(first.held), len(second.held)) == (2, 1)
    assert (len(first.timeouts), second.timeouts) == (1, []), "who ended the subscription flushes it"


def test_one_sink_may_serve_several_savers_and_copies_share_it():
    sink = Keeping()
    with GCSSaver.from_conn_string("memory:", on_event=sink) as one, GCSSaver.from_conn_string("memory:") as other:
        other.subscribe(sink)
        read(copy.copy(one))
        read(other)
        assert sink.savers == [one, other]
        assert len(sink.held) == 2


def explode():
    raise OSError("the service is gone")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_flush_that_raises_is_logged_and_the_others_are_flushed(caplog, is_async):
    broken, lazy, whole = Keeping(explode), Keeping(lambda: False), Keeping()
    saver = GCSSaver.from_conn_string("memory:")
    for sink in (broken, lazy, whole):
        saver.subscribe(sink)
    read(saver)
    assert not saver._subscribers.flush(5.0)
    asyncio.run(saver.aclose()) if is_async else saver.close()
    assert "Keeping was not flushed" in caplog.text
    assert "the service is gone" in caplog.text
    assert [len(sink.timeouts) for sink in (broken, lazy, whole)] == [2, 2, 2]
    assert len(whole.passed) == 1


def test_a_flush_that_hangs_holds_up_neither_the_others_nor_the_caller(caplog, monkeypatch):
    monkeypatch.setattr(connection, "FLUSH_SECONDS", 0.05)
    never = threading.Event()
    hanging, whole = Keeping(never.wait), Keeping()
    saver = GCSSaver.from_conn_string("memory:", on_event=hanging)
    saver.subscribe(whole)
    read(saver)
    saver.close()
    assert hanging.threads[0].is_alive()
    assert len(whole.passed) == 1
    assert "Keeping was not flushed within 0.05 s" in caplog.text
    assert hanging.threads[0].daemon, "the process can end"
    never.set()


def test_ctrl_c_while_a_flush_hangs_leaves_the_saver_closed():
    never = threading.Event()

    def strike():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        never.wait()

    saver = GCSSaver.from_conn_string("memory:", on_event=Keeping(strike))
    with pytest.raises(KeyboardInterrupt):
        saver.close()
    with pytest.raises(SaverClosedError):
        read(saver)
    never.set()


async def test_a_cancellation_while_a_flush_hangs_leaves_the_saver_closed():
    never = threading.Event()
    sink = Keeping(never.wait)
    saver = GCSSaver.from_conn_string("memory:", on_event=sink)
    closing = asyncio.create_task(saver.aclose())
    await aeventually(lambda: sink.timeouts)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(SaverClosedError):
        read(saver)
    never.set()


async def test_nodes_that_occupy_the_threads_of_the_event_loop_hold_up_no_flush():
    never, sink = threading.Event(), Keeping()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, never.wait)
    with GCSSaver.from_conn_string("memory:", on_event=sink) as saver:
        assert await asyncio.wait_for(saver._subscribers.aflush(5.0), PATIENCE)
    never.set()
    assert await busy


def test_a_sink_that_closes_the_saver_is_flushed_once():
    other, sink = Keeping(), Keeping()
    saver = GCSSaver.from_conn_string("memory:", on_event=sink)
    saver.subscribe(other)
    sink.flushing = saver.close
    saver.close()
    assert (len(sink.timeouts), len(other.timeouts)) == (1, 2)


def test_at_exit_a_sink_is_flushed_without_a_thread(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(events._Flush, "start", refuse)
    sink, lazy = Keeping(), Keeping(lambda: False)
    with GCSSaver.from_conn_string("memory:", on_event=sink) as saver:
        saver.subscribe(lazy)
        read(saver)
        assert not saver._subscribers.flush(5.0)
    assert [type(one) for one in sink.passed] == [events.CheckpointNotFound]
    assert sink.threads[0] is threading.current_thread()


def test_without_sinks_nothing_is_waited_for():
    with GCSSaver.from_conn_string("memory:", on_event=print) as saver:
        assert not saver._subscribers.may_flush_again
        before = threading.active_count()
        assert saver._subscribers.flush(0.0)
        assert asyncio.run(saver._subscribers.aflush(0.0))
        assert threading.active_count() == before


@pytest.mark.parametrize("wrong", [7, "print", object(), type("Half", (), {"attach": lambda self, saver: print})()])
def test_what_is_neither_callable_nor_a_sink_is_refused(wrong):
    with pytest.raises(InvalidOptionError, match="on_event"):
        GCSSaver.from_conn_string("memory:", on_event=wrong)
    with GCSSaver.from_conn_string("memory:") as saver, pytest.raises(InvalidInputError, match="handler"):
        saver.subscribe(wrong)


# Interceptors


class Noting(Interceptor):
    """Notes what passes through it, in which order."""

    def __init__(self, name, seen):
        self.name, self.seen = name, seen

    def around(self, effect, perform):
        self.seen.append(self.name)
        return perform(effect)

    async def aaround(self, effect, perform):
        self.seen.append(self.name)
        return await perform(effect)

    def around_all(self, effects, perform):
        self.seen.append(f"{self.name} all")
        return perform(effects)

    async def aaround_all(self, effects, perform):
        self.seen.append(f"{self.name} all")
        return await perform(effects)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_interceptor_can_be_put_around_the_others_of_an_open_saver(is_async):
    seen = []

    def look(saver):
        seen.clear()
        asyncio.run(saver.aget_tuple(cfg())) if is_async else read(saver)
        return list(seen)

    with GCSSaver.from_conn_string("memory:", interceptors=[Noting("given", seen)]) as saver:
        before = look(saver)
        assert set(before) <= {"given", "given all"}
        twin = copy.copy(saver)
        end = saver._backend.intercept(Noting("new", seen))
        again = saver._backend.intercept(Noting("outer", seen))
        found = look(twin)
        assert len(found) == 3 * len(before)
        assert [one.split()[0] for one in found[:3]] == ["outer", "new", "given"], "the latest is outermost"
        end()
        end()
        assert {one.split()[0] for one in look(saver)} == {"outer", "given"}
        again()
        assert look(saver) == before


def test_it_applies_to_effects_that_begin_later_only():
    seen = []

    class Adding(Noting):
        def around(self, effect, perform):
            if isinstance(effect, GetDocs | QueryDocs) and not ends:
                ends.append(saver._backend.intercept(Noting("late", seen)))
            return super().around(effect, perform)

    ends = []
    with GCSSaver.from_conn_string("memory:", interceptors=[Adding("given", seen)]) as saver:
        read(saver)
        assert ends
        first = seen[: seen.index("given") + 1]
        assert "late" not in first
        seen.clear()
        read(saver)
        assert "late" in seen
