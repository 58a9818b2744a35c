"""top: frames of a live view, in a real terminal and in pipes; and the looks at a store behind them."""

import asyncio
import fcntl
import json
import os
import pty
import random
import re
import signal
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager
from datetime import timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.commands.top import _MOST, _Looks
from langgraph_gcs_saver.cli.views.top import KEYS, _widths, ago, frame
from langgraph_gcs_saver.engine.effects import Commit, Create, GetDocs, ListBlobs, Merge, QueryDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import InvalidInputError, StoreUnavailableError
from langgraph_gcs_saver.flows.watch import MOST, ORDERS
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.testing import CountingInterceptor
from tests.behaviour.api import cfg, checkpoint, cid, metadata, version
from tests.cli.filled import is_harmless
from tests.cli.test_runs import HOSTILE, asked  # noqa: F401 - a fixture
from tests.incremental.eax import Eax
from tests.patience import PATIENCE, Clock, eventually

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

HOME = "\x1b[H"
"""A frame begins with this: the cursor goes to the first line."""

ENDS = ("\x1b[?1049l\x1b[?25h", "\x1b[?25h\x1b[?1049l")
"""What restores the screen and the cursor."""

UNICODE = "報告書の作成-エージェント-2026年11月-第一四半期"


def put(saver, thread_id, step=1):
    versions = {"v": version(step)}
    saver.put(cfg(thread_id), checkpoint(step, {"v": "x"}, versions), metadata(step=step), versions)


def lines_of(text):
    return text.splitlines()


# Frames


@LOCAL
def test_a_frame_in_a_pipe_shows_threads_and_a_summary(asked, saver, command, monkeypatch):  # noqa: F811
    monkeypatch.setenv("COLUMNS", "150")
    put(saver, "plain", step=7)
    shown = command("top")
    assert (shown.code, shown.err) == (0, "")
    head, states, sums, *rest = lines_of(shown.out)
    assert head.startswith("langgraph-gcs top")
    assert "2 of 2 threads" in states
    assert "1 waiting" in states
    for word in ("puts/s", "lag", "stored", "a month", "0 damaged"):
        assert word in sums
    (row,) = [line for line in rest if line.startswith("t ")]
    for word in ("waiting", "ask", "{'sure': True}"):
        assert word in row
    (row,) = [line for line in rest if line.startswith("plain ")]
    assert "7" in row.split()


@LOCAL
def test_a_frame_in_a_pipe_is_as_wide_as_it_has_to_be(saver, command, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    put(saver, "plain", step=7)
    shown = command("top")
    assert [line.split()[0] for line in lines_of(shown.out)[-2:]] == ["THREAD", "plain"]
    assert max(map(len, lines_of(shown.out)[-2:])) <= 80


@LOCAL
@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width, saver, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    for thread_id in (HOSTILE, UNICODE, "x" * 300, "", "0f3a5b1e-6a4e-4a53-9d5f-1a2b3c4d5e6f"):
        put(saver, thread_id)
    shown = command("top", "--sort", "thread")
    assert shown.code == 0
    assert is_harmless(shown.out)
    assert "''" in shown.out
    assert UNICODE[:2] in shown.out
    assert max(map(cell_len, lines_of(shown.out))) <= width
    assert ("STORED" in shown.out) == (width >= 80)


@LOCAL
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_terminal_of_hardly_any_columns_ends_nothing(width, saver, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    put(saver, "t")
    shown = command("top")
    assert shown.code == 0
    assert max(map(cell_len, lines_of(shown.out))) <= width


@LOCAL
def test_a_look_is_one_line_of_json(asked, saver, command):  # noqa: F811
    put(saver, "plain")
    shown = command("top", "--once", "--json", "--limit", "1", "--sort", "state", "--verify")
    (line,) = lines_of(shown.out)
    found = json.loads(line)
    (thread,) = found["threads"]
    assert (found["total"], found["is_complete"], found["is_sized"], found["states"]["waiting"]) == (2, True, True, 1)
    assert (thread["thread_id"], thread["state"], thread["nodes"], thread["findings"]) == ("t", "waiting", ["ask"], 0)
    assert thread["puts_per_second"] == found["puts_per_second"]
    assert thread["stored_bytes"] < found["document_bytes"] + found["object_bytes"]
    assert 0 < found["monthly_usd"] < 0.01


@LOCAL
def test_damage_and_what_cannot_be_read_are_shown_beside_other_threads(saver, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for step in (1, 2):
        put(saver, "damaged", step)
        put(saver, "missing", step)
    put(saver, "fine")
    run(iter(Commit((Merge(keys.checkpoint_doc("damaged", "", cid(1)), {"manifest": b"?"}),))), saver._backend)
    run(iter(Commit((Merge(keys.checkpoint_doc("missing", "", cid(2)), {"frames": {}}),))), saver._backend)
    found = json.loads(command("top", "--once", "--json", "--verify").out)
    threads = {one["thread_id"]: one for one in found["threads"]}
    assert threads["damaged"]["damaged"] == 1
    assert threads["missing"]["findings"] >= 1
    assert threads["fine"]["findings"] == 0
    shown = command("top", "--verify")
    assert "2 damaged" in shown.out
    assert "DMG" in shown.out


@LOCAL
def test_without_the_key_threads_are_listed_and_the_reason_is_shown(make_saver, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    put(make_saver(cipher=Eax("the key")), "secret")
    shown = command("top")
    assert shown.code == 0
    assert re.search(r"^secret +wrong-key", shown.out, re.MULTILINE)


# A terminal


class Terminal:
    """A program in a terminal of 80 columns and 24 lines."""

    def __init__(self, *arguments):
        self.master, self.slave = pty.openpty()
        self.resize(80, 24)
        self.before = termios.tcgetattr(self.slave)
        env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "langgraph_gcs_saver.cli", "top", *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.set_blocking(self.master, False)
        self.text = ""

    def resize(self, columns, lines):
        self.lines = lines
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def read(self):
        try:
            while data := os.read(self.master, 65536):
                self.text += data.decode("utf-8", "replace")
        except BlockingIOError:
            pass
        return self.text

    def shows(self, *patterns):
        """Wait for a frame with these, and return its lines."""

        def look():
            assert self.process.poll() is None, self.text
            _, is_frame, text = self.read().rpartition(HOME)
            lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "").split("\n")
            is_complete = is_frame and len(lines) == self.lines
            return is_complete and all(re.search(one, "\n".join(lines), re.MULTILINE) for one in patterns) and lines

        return eventually(look)

    def ended(self):
        """Wait for the end, and return the exit code. The terminal is as it was before."""
        code = self.process.wait(PATIENCE)
        assert self.read().endswith(ENDS), self.text[-200:]
        assert termios.tcgetattr(self.slave) == self.before
        return code


@contextmanager
def top(*arguments):
    terminal = Terminal(*arguments)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)


def expire(thread_id):
    name = keys.fence_doc(thread_id)
    doc = (yield from GetDocs((name,)))[name]
    yield from Commit((Merge(name, {**doc.fields, "ttl": 1e-9}),))


@LOCAL
def test_a_real_run_is_seen_at_work_and_after_its_crash(asked, saver, store_uri):  # noqa: F811
    agent = subprocess.Popen([sys.executable, "-m", "tests.cli.agent_that_puts", store_uri, UNICODE])
    try:
        with top("--every", "1s", "--store", store_uri) as terminal:
            shown = terminal.shows(r"^報告書.* running .* [0-9.]+ .*work", r"^t +waiting", "2 of 2 threads")
            assert max(map(cell_len, shown)) <= 80
            assert len(shown) <= 24
            agent.send_signal(signal.SIGKILL)
            agent.wait()
            run(expire(UNICODE), saver._backend)
            terminal.shows(r"^報告書.* crashed ", r"1 crashed +1 waiting")
            terminal.type("t")
            shown = terminal.shows(r"^t +waiting.*\n報告書")
            terminal.resize(40, 10)
            shown = terminal.shows(r"^t +waiting[^\n]{0,20}\n")
            assert max(map(cell_len, shown)) <= 40
            terminal.type("q")
            assert terminal.ended() == 0
    finally:
        agent.kill()
        agent.wait()


@LOCAL
def test_ctrl_z_suspends_it_and_ctrl_c_ends_it_and_both_restore_the_terminal(saver, store_uri):
    put(saver, "t")
    with top("--every", "1s", "--store", store_uri) as terminal:
        terminal.shows("1 of 1 threads")
        terminal.process.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(terminal.process.pid, os.WUNTRACED)[1])
        assert termios.tcgetattr(terminal.slave) == terminal.before
        assert terminal.read().endswith(ENDS)
        terminal.text = ""
        terminal.process.send_signal(signal.SIGCONT)
        terminal.shows("1 of 1 threads")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 0


# Looks


def test_a_look_takes_as_many_requests_for_2000_threads_as_for_10():
    counts = []
    for number in (10, 2000):
        counter = CountingInterceptor()
        with GCSSaver(stores=(MemoryDocuments(), MemoryBlobs()), interceptors=[counter, Clock()]) as saver:
            names = [f"thread-{at}" for at in range(number)]
            for at in range(0, number, 200):
                writes = [Create(keys.thread_doc(one), {"thread_id": one}) for one in names[at : at + 200]]
                writes += [
                    Create(keys.active_doc(one), {"thread_id": one, "state": "due"}) for one in names[at : at + 200]
                ]
                assert run(iter(Commit(tuple(writes))), saver._backend)
            for one in names[-10:]:
                put(saver, one)
            watch = saver.admin.watch()
            looks = []
            for _ in range(3):
                counter.clear()
                found = watch.look(10)
                looks.append((sum(counter.requests.values()), len(counter.rounds)))
                assert {one.thread_id for one in found.threads} == set(names[-10:])
            counts.append(looks)
            assert found.total == number
            assert found.states["finished"] == 10
            # Of 2,000 unfinished turns, three looks read 12 pages of 100, with some of the 10 threads that are shown.
            assert number == 10 or 1190 <= found.states["due"] <= 1200
    few, many = counts
    # Its first look reads six pages of threads more, and nine of those whose turns have not finished, with leases.
    assert many[0][0] - few[0][0] == 6 + 2 * 9
    assert many[1:] == few[1:]
    assert few[1][0] <= 4 + 6 * 10


def test_a_finished_thread_is_not_read_again_until_it_changes():
    counter = CountingInterceptor()
    with GCSSaver(stores=(MemoryDocuments(), MemoryBlobs()), interceptors=[counter, Clock()]) as saver:
        put(saver, "t")
        watch = saver.admin.watch()
        assert [one.state for one in watch.look().threads] == ["finished"]
        counter.clear()
        watch.look()
        assert counter.requests == {"QueryDocs": 2}  # lg_active, and newer checkpoints of the thread
        put(saver, "t", step=2)
        (found,) = asyncio.run(watch.alook()).threads
        assert found.status.step == 2
        assert found.puts_per_second in (0.1, 0.2)


def test_each_order_chooses_and_sorts():
    """Of three threads, the look reads only two: the order also chooses which."""
    with GCSSaver(stores=(MemoryDocuments(), MemoryBlobs()), interceptors=[Clock()]) as saver:
        for thread_id, text in (("c", "x"), ("a", random.Random(1).randbytes(5_000).hex()), ("b", "x")):
            versions = {"v": version(1)}
            saver.put(cfg(thread_id), checkpoint(1, {"v": text}, versions), metadata(step=1), versions)
        put(saver, "b", step=2)
        saver.put_writes(cfg("c", n=1), [("__interrupt__", "sure?")], "task")
        watch, found = saver.admin.watch(), {}
        for order in ORDERS:
            watch.look()
            found[order] = "".join(one.thread_id for one in watch.look(2, order=order).threads)
    # b has the newest checkpoint and two puts, a the larger value and an older checkpoint, c a question.
    assert found == {"used": "ba", "state": "cb", "puts": "ba", "lag": "ab", "stored": "ab", "thread": "ab"}
    assert set(KEYS.values()) == set(ORDERS)
    assert _MOST == MOST


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": 101}, {"limit": "5"}, {"order": "odd"}])
def test_a_look_rejects_what_it_cannot_do(arguments):
    with GCSSaver.from_conn_string("memory:") as saver, pytest.raises(InvalidInputError):
        saver.admin.watch().look(**arguments)


class Outage(Interceptor):
    """Requests of one kind fail while this is on."""

    def __init__(self, kind=QueryDocs):
        self.kind, self.is_on = kind, False

    def around(self, effect, perform):
        if self.is_on and isinstance(effect, self.kind):
            raise StoreUnavailableError("The service did not answer.")
        return perform(effect)


def test_an_outage_is_shown_and_ends():
    outage = Outage()
    with GCSSaver(stores=(MemoryDocuments(), MemoryBlobs()), interceptors=[outage]) as saver:
        put(saver, "t")
        looks = _Looks(saver.admin, "memory:", 0.01, "used", verify=False)
        outage.is_on = True
        looks.begin(5)
        eventually(lambda: looks.view().error)
        out = Console(width=80, force_terminal=False)
        with out.capture() as said:
            out.print(frame(looks.view(), 80))
        assert "The service did not answer. Trying again." in said.get()
        outage.is_on = False
        eventually(lambda: looks.view().error is None and looks.view().activity.total == 1)
        looks.end()


def test_an_outage_in_a_check_is_shown_and_ends():
    outage = Outage(ListBlobs)  # A check lists objects, and a look does not.
    outage.is_on = True
    with GCSSaver(stores=(MemoryDocuments(), MemoryBlobs()), interceptors=[outage]) as saver:
        put(saver, "t")
        looks = _Looks(saver.admin, "memory:", 0.01, "used", verify=True)
        looks.begin(5)
        eventually(lambda: looks.view().activity and looks.view().error == "The service did not answer.")
        outage.is_on = False
        eventually(lambda: looks.view().findings == {"t": 0} and looks.view().error is None)
        looks.end()


# Columns


def test_columns_give_way_by_their_importance():
    longest = dict.fromkeys(("THREAD", "STATE", "DMG", "STEP", "USED", "PUT/S", "LAG", "STORED", "NEXT"), 10)
    longest |= {"HOLDER": 0, "ASKS": 0}
    seen = None
    for width in range(120, 8, -1):
        found = _widths(longest, width)
        assert sum(found.values()) + len(found) - 1 <= width
        assert seen is None or found.keys() <= seen
        seen = found.keys()
    assert list(seen) == ["THREAD"]


def test_times_are_shown_in_one_unit():
    assert [ago(timedelta(seconds=one)) for one in (-1, 0, 119, 120, 7200, 2 * 86_400, 1_300_000)] == [
        "0s",
        "0s",
        "119s",
        "2m",
        "2h",
        "2d",
        "2w",
    ]
