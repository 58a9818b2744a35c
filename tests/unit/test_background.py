"""Jobs in the background: by kind, bounded, and never lost silently."""

import logging
import os
import sys
import threading
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest

from langgraph_gcs_saver.engine import pool as pools
from langgraph_gcs_saver.engine import turn as turns
from langgraph_gcs_saver.saver.background import Background, Kind
from tests.faults.steps import Struck, strikes
from tests.patience import PATIENCE, eventually

KIND = Kind("test-kind", most=3)
OTHER = Kind("test-other", most=3)
SOON = 0.001


@pytest.fixture
def background():
    background = Background()
    yield background
    background.close()
    eventually(lambda: not running())


class Gate:
    """A job that has begun once `begun` is set, and ends once `go` is."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.go.wait(PATIENCE)


def running():
    return [thread for thread in threading.enumerate() if thread.name.startswith("langgraph-gcs-test")]


def test_jobs_of_a_kind_are_done_in_order(background):
    done = []
    for n in range(3):
        assert background.submit(KIND, str(n), partial(done.append, n))
    background.close()
    assert done == [0, 1, 2]


def test_kinds_do_not_wait_for_each_other(background):
    gate, done = Gate(), threading.Event()
    background.submit(KIND, "a", gate)
    assert gate.begun.wait(PATIENCE)
    background.submit(OTHER, "a", done.set)
    assert done.wait(PATIENCE)
    gate.go.set()


def test_a_job_that_waits_is_not_queued_again(background):
    gate, done = Gate(), Counter()
    background.submit(KIND, "a", gate)
    assert gate.begun.wait(PATIENCE)
    for _ in range(5):
        assert background.submit(KIND, "a", partial(done.update, ["again"])), "the first has begun"
        assert background.submit(KIND, "b", partial(done.update, ["b"]))
    gate.go.set()
    background.close()
    assert done == {"again": 1, "b": 1}


def test_so_many_may_wait(background):
    gate, done = Gate(), []
    background.submit(KIND, "a", gate)
    assert gate.begun.wait(PATIENCE)
    assert [background.submit(KIND, str(n), partial(done.append, n)) for n in range(5)] == [True] * 3 + [False] * 2
    assert background.submit(KIND, "0", partial(done.append, "not again")), "it waits already"
    assert background.submit(OTHER, "3", partial(done.append, 3)), "each kind has a bound of its own"
    eventually(lambda: done == [3])
    gate.go.set()
    background.close()
    assert done == [3, 0, 1, 2]


def test_a_job_that_fails_does_not_stop_the_others(background, caplog):
    gate, done = Gate(), []
    background.submit(KIND, "a", gate)
    assert gate.begun.wait(PATIENCE)
    background.submit(KIND, "b", partial(int, "no number"))
    background.submit(KIND, "c", sys.exit)
    background.submit(KIND, "d", partial(done.append, "d"))
    with caplog.at_level(logging.ERROR):
        gate.go.set()
        background.close()
    assert done == ["d"]
    assert [record.exc_info[0] for record in caplog.records] == [ValueError, SystemExit]


def test_no_thread_before_it_is_needed_and_none_after(background):
    background.close()
    background.close()
    assert not running()
    assert background.submit(KIND, "a", int) is False
    assert background.repeat(KIND, "a", SOON, int) is False
    assert not running()


# Closing


def test_closing_drops_what_a_kind_does_not_wait_for():
    background, gate, done = Background(), Gate(), []
    hasty = Kind("test-hasty", most=3, wait=0)
    background.submit(hasty, "a", gate)
    assert gate.begun.wait(PATIENCE)
    background.submit(hasty, "b", partial(done.append, "b"))
    background.close()
    assert running(), "it did not wait"
    gate.go.set()
    eventually(lambda: not running())
    assert done == []


def test_closing_waits_for_the_job_under_way():
    background, gate, done = Background(), Gate(), []
    patient = Kind("test-patient", most=3, wait=PATIENCE)
    background.submit(patient, "a", lambda: (gate(), done.append("a")))
    assert gate.begun.wait(PATIENCE)
    background.submit(patient, "b", partial(done.append, "b"))
    closing = threading.Thread(target=background.close)
    closing.start()
    eventually(lambda: background.submit(patient, "c", int) is False)
    gate.go.set()
    closing.join()
    assert done == ["a"]
    assert not running()


def test_closing_finishes_what_has_not_begun_if_a_kind_says_so():
    background, gate, done = Background(), Gate(), []
    thorough = Kind("test-thorough", most=3, wait=PATIENCE, finishes=True)
    background.submit(thorough, "a", gate)
    assert gate.begun.wait(PATIENCE)
    background.submit(thorough, "b", partial(done.append, "b"))
    closing = threading.Thread(target=background.close)
    closing.start()
    eventually(lambda: background.submit(thorough, "c", int) is False)
    gate.go.set()
    closing.join()
    assert done == ["b"]
    assert not running()


def test_a_job_may_close_it():
    background, closed = Background(), threading.Event()
    background.submit(KIND, "a", lambda: (background.close(), closed.set()))
    assert closed.wait(PATIENCE)
    eventually(lambda: not running())


class Overtaken:
    """Has another thread close the queue at one step of a call.

    The call continues when the other thread has closed the queue, or waits for the call.
    """

    def __init__(self, background, at):
        self._left = at
        self._background = background
        self._goes_on = threading.Event()
        self.place = ""

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.endswith(("/background.py", "/per_process.py", "/turn.py")):
            return None
        frame.f_trace_opcodes = True
        return self._step(frame, event, argument)

    def _step(self, frame, event, _):
        if event == "opcode" and not self.place:
            self._left -= 1
            if self._left < 0:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_lasti})"
                self.closing = threading.Thread(target=self._close)
                self.closing.start()
                assert self._goes_on.wait(PATIENCE)
        return self._step

    def sleep(self, _):
        """In place of `time.sleep` of a turn that is waited for."""
        self._goes_on.set()

    def _close(self):
        self._background.close()
        self._goes_on.set()


def test_closed_at_any_step_of_a_submission_a_job_is_done_or_refused(monkeypatch):
    places = []
    while True:
        background, done = Background(), []
        overtaken = Overtaken(background, len(places))
        monkeypatch.setattr(turns, "time", SimpleNamespace(sleep=overtaken.sleep))
        before = sys.gettrace()
        sys.settrace(overtaken)
        try:
            taken = background.submit(KIND, "a", partial(done.append, "a"))
        finally:
            sys.settrace(before)
        if not overtaken.place:
            break
        places.append(overtaken.place)
        overtaken.closing.join()
        assert done == (["a"] if taken else []), overtaken.place
        eventually(lambda: not running())
    background.close()
    assert len(places) > 50


# Signals and forks


def test_struck_anywhere_it_does_its_jobs():
    """A job whose submission was interrupted runs at the latest when it is submitted again, and once each time."""
    background, done = Background(), Counter()

    def submit(key):
        background.submit(KIND, key, partial(done.update, [key]))

    places = []
    for place in strikes(lambda: submit("key"), Struck, opcodes=True):
        places.append(place)
        submit("key")
        submit("other")
        background.close()
        assert done["other"] == 1, place
        assert done["key"] in {1, 2}, place
        background, done = Background(), Counter()
    assert len(places) > 50
    background.close()


def test_struck_while_it_closes_it_can_be_closed_again():
    def make():
        background = Background()
        background.submit(KIND, "a", int)
        return background

    def close():
        backgrounds[-1].close()

    backgrounds = [make()]
    for place in strikes(close, Struck, "/background.py", "/turn.py", opcodes=True):
        backgrounds[-1].close()
        eventually(lambda: not running())
        assert backgrounds[-1].submit(KIND, "a", int) is False, place
        backgrounds.append(make())


def in_child(function):
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if function() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_with_empty_queues(background):
    gate, done = Gate(), []
    background.submit(KIND, "a", gate)
    assert gate.begun.wait(PATIENCE)
    background.submit(KIND, "b", partial(done.append, "the parent's"))
    background.repeat(OTHER, "c", SOON, partial(done.append, "repeated"))

    def child():
        done.clear()
        background.submit(KIND, "b", partial(done.append, "the child's"))
        background.submit(OTHER, "d", int)
        background.close()
        return done == ["the child's"] and not background.submit(KIND, "b", int)

    assert in_child(child)
    gate.go.set()
    background.close()
    assert "the parent's" in done
    assert in_child(lambda: not background.submit(KIND, "b", int)), "closed before the fork"


# Jobs that are repeated


def test_a_job_is_repeated_until_it_is_stopped(background):
    done = Counter()
    assert background.repeat(KIND, "a", SOON, partial(done.update, ["a"]))
    assert background.repeat(KIND, "a", SOON, partial(done.update, ["not beside the first"]))
    assert background.repeat(KIND, "b", SOON, partial(done.update, ["b"]))
    eventually(lambda: done["a"] >= 3 and done["b"] >= 3)
    background.stop(KIND, "a")
    background.stop(KIND, "a")
    background.stop(OTHER, "a")
    after = threading.Event()
    background.submit(KIND, "a", after.set)  # behind the last one, if that waits
    before = done["b"]
    eventually(lambda: done["b"] >= before + 3)
    count = done["a"]
    eventually(lambda: done["b"] >= before + 6)
    assert done["a"] == count
    background.stop(KIND, "b")
    assert done.keys() == {"a", "b"}


def test_a_job_does_not_wait_for_one_that_is_repeated_later(background):
    background.repeat(KIND, "late", PATIENCE, int)
    eventually(running)
    for key in "abc":
        done = threading.Event()
        background.submit(KIND, key, done.set)
        assert done.wait(PATIENCE)


def test_closing_does_not_wait_for_the_next_time(background):
    background.repeat(KIND, "late", 100 * PATIENCE, int)
    eventually(running)
    background.close()
    assert not running()


def test_one_that_is_stopped_can_be_repeated_again(background):
    done = Counter()
    for name in ("first", "second"):
        background.repeat(KIND, "a", SOON, partial(done.update, [name]))
        eventually(lambda name=name: done[name] >= 2)
        background.stop(KIND, "a")


def test_where_no_thread_can_be_started_nobody_waits_for_a_repeated_job(background, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    done = []
    with monkeypatch.context() as patch:
        patch.setattr(pools._thread, "start_new_thread", refuse)
        assert background.repeat(KIND, "a", SOON, partial(done.append, "a"))
        assert background.submit(KIND, "b", partial(done.append, "b"))
    assert "b" in done
    background.submit(KIND, "c", partial(done.append, "c"))
    eventually(lambda: {"a", "c"} <= set(done))


def test_a_job_that_is_due_in_ages_keeps_no_other_from_being_done(background):
    """The system cannot wait for any length of time."""
    done = []
    assert background.repeat(KIND, "ages", 1e300, partial(done.append, "ages"))
    assert background.repeat(KIND, "soon", SOON, partial(done.append, "soon"))
    eventually(lambda: len(done) > 2)
    background.stop(KIND, "soon")
    assert background.submit(KIND, "now", partial(done.append, "now"))
    eventually(lambda: "now" in done)
    assert "ages" not in done
