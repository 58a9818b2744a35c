"""The main job on real documents, as a user runs it: ended in many ways, resumed, answered, and forked."""

import fcntl
import inspect
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import run
from langgraph_gcs_saver.cli.commands import demo
from langgraph_gcs_saver.cli.commands.work import STOPPED
from langgraph_gcs_saver.cli.demo import deal, payment, play, play_team, regions, trip, turns
from langgraph_gcs_saver.cli.demo.agent import build, modules, summarise, thread_config
from langgraph_gcs_saver.cli.demo.child import started
from langgraph_gcs_saver.cli.demo.history import Row, graph
from langgraph_gcs_saver.cli.demo.process import Task, entries, run_process
from langgraph_gcs_saver.cli.views.terminal import CommandError, printable
from tests.compat.xor_cipher import XorCipher
from tests.patience import PATIENCE, eventually

LANGGRAPH_GCS = (sys.executable, "-m", "langgraph_gcs_saver.cli")


@pytest.fixture
def environment(tmp_path, tmp_path_factory):
    """Makes the environment of commands, when it is called: after the emulators' fixtures have named their hosts.

    Temporary directories land where the test can look for them, and no credentials are found.
    """
    folder = tmp_path_factory.mktemp("t")  # a short path, as most people have
    own = {
        "TMPDIR": str(folder),
        "TERM": "xterm",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none"),
        "PYTHONWARNINGS": "ignore::FutureWarning",  # google.api_core's, on Pythons whose support it has ended
    }
    ignored = {"LANGGRAPH_GCS_STORE", "COLUMNS", "LINES", "GOOGLE_CLOUD_PROJECT"}
    return lambda: {key: value for key, value in os.environ.items() if key not in ignored} | own


def temporary(environment):
    """Where commands make their temporary files."""
    return Path(environment()["TMPDIR"])


@pytest.fixture
def embedded_uri(tmp_path):
    return (tmp_path / "store").as_uri()


@pytest.fixture
def emulators_uri(firestore_emulator, storage_emulator, project_id, bucket_name):
    return f"gs://{bucket_name}/demo?project={project_id}"


def run_command(*arguments, environment):
    return subprocess.run(
        [*LANGGRAPH_GCS, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("where", ["embedded_uri", pytest.param("emulators_uri", marks=pytest.mark.soak)])
def test_the_main_job_on_fifty_documents(where, request, environment, tmp_path):
    uri = request.getfixturevalue(where)
    # The demo does not use the variable of the cipher.
    variables = environment() | {"LANGGRAPH_GCS_CIPHER": "no_such:cipher"}
    ended = run_command("demo", "--json", "--keep", "--store", uri, environment=lambda: variables)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    queue, instead = modules(55)[:50], modules(55)[50:]

    assert result["ok"]
    assert result["proof"]
    assert all(result["proof"].values())
    assert len(result["proof"]) == 12
    assert result["killed"]["returncode"] == -signal.SIGKILL
    assert result["killed"]["read"] == queue[:21]
    assert result["killed"]["durable"] == 20
    stopped, leaked = result["drained"]
    assert stopped["read"] == queue[20:25]
    assert "signal 15" in stopped["reason"]
    assert "of the memory limit" in leaked["reason"]
    assert [one["returncode"] for one in (stopped, leaked)] == [STOPPED] * 2
    assert result["waiting"]["read"] == queue[25 + len(leaked["read"]) :]
    assert result["fork"]["process"]["read"] == instead
    processes = [
        result["killed"],
        stopped,
        leaked,
        result["waiting"],
        result["approval"]["process"],
        result["worker"],
        result["fork"]["process"],
        result["fork"]["approval"]["process"],
    ]
    assert [one["pid"] for one in processes] == [one["pid"] for one in result["processes"]]
    assert len({one["pid"] for one in processes}) == 8
    assert [one["how"] for one in processes] == [
        *("killed", "drained", "drained", "waiting", "answered", "finished", "waiting", "finished")
    ]
    assert result["approval"]["answer"] == "yes"
    assert result["stored_bytes"] > 0

    # The ledger itself, a file that only the agent's processes write.
    (ledger,) = temporary(environment).glob(f"*/{result['thread_id']}.ledger")
    lines = [line.split() for line in ledger.read_text().splitlines()]
    assert [name for _, name in lines] == queue[:21] + queue[20:] + instead
    assert [int(pid) for pid, _ in lines] == [one["pid"] for one in processes for _ in one["read"]], (
        "another process read than the one that says so"
    )

    # The thread itself, by a saver of this process.
    with GCSSaver.from_conn_string(uri) as saver:
        agent = build(saver)
        config = thread_config(result["thread_id"])
        alone = agent.get_state(thread_config(result["undisturbed"]["thread_id"]))

        def state_of(checkpoint_id):
            at = {"configurable": {**config["configurable"], "checkpoint_id": checkpoint_id}}
            return agent.get_state(at)

        stored = {item.config["configurable"]["checkpoint_id"]: item for item in saver.list(config)}
        assert list(stored) == [row["checkpoint_id"] for row in result["history"]]
        assert len(stored) == result["checkpoints"] == 64

        original = state_of(result["original"]["checkpoint_id"])
        assert original.next == ()
        assert original.values["queue"] == queue
        assert original.values["findings"] == [summarise(name) for name in queue]
        assert original.values["approved"] is True
        assert original.values["report"] == result["original"]["report"]
        assert original.values == alone.values
        assert list(saver.runs()) == []
        assert len(list(saver.list(config, filter={"source": "input"}))) == 1

        fork = state_of(result["fork"]["checkpoint_id"])
        parent_id = fork.parent_config["configurable"]["checkpoint_id"]
        assert fork.metadata["source"] == "update"
        assert parent_id == result["fork"]["parent_checkpoint_id"]
        parent = state_of(parent_id)
        assert parent.values["findings"] == [summarise(name) for name in queue[:10]]
        assert parent.values["queue"] == queue
        assert parent.next == ("read",)

        head = agent.get_state(config)
        assert head.config["configurable"]["checkpoint_id"] == result["fork"]["head_checkpoint_id"]
        assert head.next == ()
        assert head.values["findings"] == [summarise(name) for name in queue[:10] + instead]
        assert head.values["rank_by"] == "longest_lines"

        def lineage(checkpoint_id):
            while checkpoint_id is not None:
                yield checkpoint_id
                above = stored[checkpoint_id].parent_config
                checkpoint_id = above["configurable"]["checkpoint_id"] if above else None

        of_original = list(lineage(result["original"]["checkpoint_id"]))
        of_fork = list(lineage(result["fork"]["head_checkpoint_id"]))
        assert fork.config["configurable"]["checkpoint_id"] not in of_original
        assert of_original[of_original.index(parent_id) :] == of_fork[of_fork.index(parent_id) :]
        assert set(of_original) | set(of_fork) == set(stored)


def run_in_terminal(*arguments, environment, answers, columns=80):
    """Run a command in a terminal, answering whatever asks `[Y/n]`; its exit code and what it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*LANGGRAPH_GCS, *arguments], env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    shown = b""
    answers = list(answers)
    try:
        while True:
            try:
                data = os.read(ours, 1 << 16)
            except OSError:  # Linux: the other end was closed
                break
            if not data:
                break
            shown += data
            if shown.endswith(b"[Y/n] "):
                os.write(ours, answers.pop(0).encode() + b"\n")
        return process.wait(PATIENCE), shown.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _too_wide(text):
    """Lines that a terminal of 80 columns would break, except for those with a path."""
    return [line for line in text.splitlines() if len(line) > 80 and "/" not in line]


def test_in_a_terminal_it_shows_progress_asks_and_ends_with_the_history(environment, tmp_path):
    returncode, shown = run_in_terminal(
        "demo", "--documents", "10", "--ask", environment=environment, answers=["what?", "no", ""]
    )
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert returncode == 0, text
    assert "SIGKILL, exit status -9." in text
    assert text.count("exit code 75.") == 2
    assert "The store holds the findings of 4 documents." in text
    assert _too_wide(text) == []
    assert "stored 'no', and ran nothing. The thread is due." in text
    assert "resumed it. The thread is finished." in text
    assert "resumed with 'yes'" in text
    assert "Not published." in text
    assert "4/10" in text
    assert "10/10" in text
    assert "documents  10 read, and 1 in the fork; read twice: 1" in text
    assert "NOT TRUE" not in text

    table = text[text.index("8. The thread's history") : text.index("9. ")].splitlines()
    assert max(map(len, table)) <= 80
    assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in table), "a column was cut off"
    rows = [line.split() for line in table]
    heading = next(row for row in rows if row[:1] == ["id"])
    assert heading == ["id", "step", "source", "node", "docs", "next", "parent", "note"]
    fork = next(row for row in rows if "update_state" in row)
    back = next(row for row in rows if row[-4:] == ["went", "back", "to", "this"])
    assert fork[2:6] == ["3", "update", "update_state", "2"]
    assert fork[8:] == ["the", "fork"]
    assert fork[7] == back[2], "the fork's parent"
    assert any(row[-2:] == ["SIGKILL,", "resumed"] and "4" in row for row in rows)
    assert list(temporary(environment).iterdir()) == [], "temporary files stayed"


def test_interrupted_it_leaves_nothing_behind(environment, tmp_path):
    process = subprocess.Popen(
        [*LANGGRAPH_GCS, "demo", "--ask"],
        env=environment(),
        stdin=subprocess.PIPE,  # the question before the end gets no answer, because the process is interrupted first
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in process.stdout:
            if line.startswith("1. "):
                break
        # As a terminal does for Ctrl-C: to the whole group, the process that reads included.
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    assert list(temporary(environment).iterdir()) == []
    # The session's last process is multiprocessing's tracker, which ends when it sees that the demo has.
    eventually(lambda: not _members(process.pid))


def _members(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


WEIRD = "weird\x1b[31m://x\ny"
"""A store whose name acts on terminals."""


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("s3://bucket/prefix", 2),
        ("gs://", 2),
        ("/var/lib/agent", 2),
        ("file://relative/path", 2),
        ("", 2),
        ("gs://bucket/a?project=p&colour=red", 2),
        (WEIRD, 2),
        ("file:///dev/null/store", 7),
    ],
)
def test_a_bad_store_is_one_line_and_an_exit_code(uri, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["langgraph-gcs", "demo", "--store", uri])
    with pytest.raises(SystemExit, match=f"^{code}$"):
        run()
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"langgraph-gcs: [^\n]+\n", err)
    assert "\x1b" not in err
    assert list(tmp_path.iterdir()) == []


def answer(task, pipe):
    pipe.send(task)


def test_a_long_path_of_temporary_files(tmp_path, monkeypatch):
    """It leaves no room for the name of the socket at which copies of a process are ordered."""
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with started(answer, "done") as one:
        assert one.receive() == "done"
        assert one.wait() == 0


def test_a_bad_store_in_a_process(environment, tmp_path):
    ended = run_command("demo", "--store", WEIRD, environment=environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"langgraph-gcs: [^\n]+\n", ended.stderr)
    assert "\x1b" not in ended.stderr
    assert list(temporary(environment).iterdir()) == []


def test_without_the_extra_one_line_says_how_to_get_it(environment):
    for missing in ("typer", "rich"):
        code = f"import sys; sys.modules[{missing!r}] = None; from langgraph_gcs_saver.cli import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert re.fullmatch(r'langgraph-gcs: .*pip install "langgraph-gcs-saver\[cli\]".*\n', ended.stderr)


def test_version(environment):
    ended = run_command("--version", environment=environment)
    assert (ended.returncode, ended.stdout) == (0, f"langgraph-gcs {version('langgraph-gcs-saver')}\n")


def test_a_statement_that_is_not_true_fails_the_demo(monkeypatch, capsys):
    proof = {"the sky is blue": True, "no document was read twice": False}
    monkeypatch.setattr(play._Demo, "run", lambda self: {"proof": proof})
    with pytest.raises(CommandError, match=r"not true: no document was read twice$") as caught:
        demo.demo(as_json=True)
    assert caught.value.exit_code == 1
    assert json.loads(capsys.readouterr().out)["proof"] == proof


def test_nobody_there_to_answer(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("perhaps\n"))
    with pytest.raises(CommandError, match="no answer"):
        play._ask("Publish?")


HALTING = """
import threading
from pathlib import Path
from tests.compat.xor_cipher import XorCipher

class Halting(XorCipher):
    def encrypt(self, plaintext):
        ledger = Path(__file__).with_name("ledger")
        if Path(__file__).with_name("halt").exists() and ledger.exists() and len(ledger.read_text().splitlines()) == 4:
            threading.Event().wait()
        return super().encrypt(plaintext)
"""
"""A cipher that encrypts nothing of the fourth document, and so nothing after it."""


def test_a_step_killed_half_way_runs_again_and_nothing_else_does(embedded_uri, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "halting_demo.py").write_text(HALTING)
    (tmp_path / "halt").touch()
    queue = modules(6)
    task = Task(store=embedded_uri, thread_id="t", ledger=tmp_path / "ledger", cipher="halting_demo:Halting")
    task = replace(task, inputs={"queue": queue, "rank_by": "lines", "findings": []}, request_id="r")

    def kill_at_once(reading):
        if reading.number == 4:
            os.kill(entries(task.ledger)[-1][0], signal.SIGKILL)

    with pytest.raises(CommandError, match=r"ended with -9 before it was done"):
        run_process(task, kill_at_once)
    (tmp_path / "halt").unlink()
    ended = run_process(task)
    assert (ended.returncode, ended.how) == (0, "waiting")
    assert ended.read == queue[3:]
    assert [name for _, name in entries(task.ledger)] == [*queue[:4], *queue[3:]]
    with GCSSaver.from_conn_string(embedded_uri, cipher=XorCipher()) as saver:
        state = build(saver).get_state(thread_config("t"))
    assert state.values["findings"] == [summarise(name) for name in queue]
    assert state.next == ("approve",)


def test_an_error_in_a_process_comes_back_with_its_exit_code(tmp_path):
    task = Task(store="nonsense", thread_id="t", ledger=tmp_path / "ledger")
    with pytest.raises(CommandError, match="connection string has a form that this library does not know") as caught:
        run_process(task)
    assert caught.value.exit_code == 2


def test_summaries_are_of_the_real_source():
    import colorsys

    summary = summarise("colorsys")
    functions = [f for _, f in inspect.getmembers(colorsys, inspect.isfunction)]
    assert summary["functions"] == len(functions)
    assert summary["classes"] == 0
    assert summary["lines"] == len(inspect.getsource(colorsys).splitlines())
    lengths = {f.__name__: len(inspect.getsource(f).splitlines()) for f in functions}
    assert summary["longest_lines"] == lengths[summary["longest"]] == max(lengths.values())
    assert summary["about"] == inspect.getdoc(colorsys).splitlines()[0]
    assert summary["imports"] == []


def test_more_documents_than_there_are_is_refused():
    with pytest.raises(CommandError, match="has source for"):
        play._Plot.of("file:///x", "", Path(), 1000)


def test_the_graph_shows_where_branches_begin():
    def row(own, parent):
        return Row(own, parent, 0, "loop", "read", 0, [])

    history = [row("f", "b"), row("e", "b"), row("d", "c"), row("c", "b"), row("b", "a"), row("a", None)]
    assert graph(history) == ["*", "| *", "| | *", "| | *", "* / /", "*"]


def test_nothing_that_is_shown_moves_a_terminal():
    hostile = "a\x1b]0;title\x07b\nc\u202ed\x9be\ud800 [bold]f"
    shown = printable(hostile)
    assert shown.isprintable()
    assert shown == r"a\x1b]0;title\x07b\nc\u202ed\x9be\ud800 [bold]f"


# The other stories


@pytest.mark.parametrize("where", ["embedded_uri", pytest.param("emulators_uri", marks=pytest.mark.soak)])
def test_an_agent_that_is_killed_while_it_pays(where, request, environment, tmp_path):
    uri = request.getfixturevalue(where)
    ended = run_command("demo", "once", "--json", "--keep", "--store", uri, environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert result["ok"]
    assert all(result["proof"].values())
    assert len(result["proof"]) == 7
    assert (result["without"]["charge"], result["without"]["e-mail"]) == (2, 2)
    assert [one["ended"] for one in result["processes"]] == [
        *("before charge", "during charge", "after charge"),
        *("before e-mail", "unknown", "during e-mail", "unknown", "after e-mail", "finished"),
    ]
    assert [one["returncode"] == -signal.SIGKILL for one in result["processes"]] == [
        *(True, True, True),
        *(True, False, True, False, True, False),
    ]
    assert len({one["pid"] for one in result["processes"]}) == 9

    # The provider's own file, which only the agent's processes write.
    (ledger,) = temporary(environment).glob(f"*/{result['thread_id']}.ledger")
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["what"] for line in lines] == ["charge", "e-mail"]
    # The thread itself, by a saver of this process.
    with GCSSaver.from_conn_string(uri) as saver:
        state = payment.build(saver).get_state(thread_config(result["thread_id"]))
        assert state.next == ()
        assert [state.values["charged"], state.values["mailed"]] == [line["receipt"] for line in lines]
        assert [one for one in saver.admin.verify(result["thread_id"], depth="data") if one.is_damage] == []


def test_a_worker_that_is_stopped_and_wakes_up(environment, embedded_uri):
    ended = run_command("demo", "workers", "--json", "--store", embedded_uri, environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert result["ok"]
    assert all(result["proof"].values())
    assert len(result["proof"]) == 5
    steps = [f"{number} by {'Ada' if number < 4 else 'Bob'}" for number in range(1, 9)]
    assert result["leased"]["done_after"] == steps
    assert (result["without"]["ada"], result["leased"]["ada"]) == ("finished", "fenced")
    with GCSSaver.from_conn_string(embedded_uri) as saver:
        state = turns.build(saver).get_state(thread_config(result["leased"]["thread_id"]))
        assert (state.values["done"], state.next) == (steps, ())
        # What it tried, to find out that it can write, is gone.
        assert {thread.thread_id for thread in saver.admin.threads()} == {
            result[name]["thread_id"] for name in ("without", "leased")
        }


@pytest.mark.parametrize("where", ["embedded_uri", pytest.param("emulators_uri", marks=pytest.mark.soak)])
def test_a_team_whose_processes_are_killed_and_that_goes_back(where, request, environment):
    uri = request.getfixturevalue(where)
    ended = run_command("demo", "team", "--json", "--store", uri, environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert result["ok"]
    assert all(result["proof"].values())
    assert len(result["proof"]) == 7
    assert result["killed"] == {"coordinator": -signal.SIGKILL, "reader-2": -signal.SIGKILL}
    assert result["cut"] == result["after"]
    # The store itself, by a saver of this process.
    with GCSSaver.from_conn_string(uri) as saver:
        team = saver.team(result["team"])
        sets = {one.set_id: one for one in team.sets()}
        assert sets[result["aborted"]].state == "aborted"
        assert sets[result["committed"]].state == "committed"
        assert sorted(team.threads()) == sorted(deal.MEMBERS)
        for member, thread_id in team.threads().items():
            config = {"configurable": {"thread_id": thread_id}}
            state = deal.build(saver).get_state(config)
            assert (len(state.values["done"]), state.next) == (play_team.STEPS, ())
            config["configurable"]["checkpoint_id"] = sets[result["committed"]].cut[member]
            assert len(deal.build(saver).get_state(config).values["done"]) == result["cut"][member]
            assert [one for one in saver.admin.verify(thread_id, depth="data") if one.is_damage] == []


@pytest.mark.parametrize("where", ["embedded_uri", pytest.param("emulators_uri", marks=pytest.mark.soak)])
def test_a_trip_that_is_undone_by_processes_that_are_killed(where, request, environment):
    uri = request.getfixturevalue(where)
    ended = run_command("demo", "saga", "--json", "--keep", "--store", uri, environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert result["ok"]
    assert all(result["proof"].values())
    assert len(result["proof"]) == 6
    assert [one["ended"] for one in result["processes"]] == [
        *("car", "undone car", "cancel hotel", "stuck", "running", "done")
    ]
    assert [one["returncode"] for one in result["processes"]] == [*[-signal.SIGKILL] * 3, 0, 0, 0]

    # The provider's own file, which only the agent's processes write.
    (ledger,) = temporary(environment).glob(f"*/{result['thread_id']}.ledger")
    did = [json.loads(line)["what"] for line in ledger.read_text().splitlines()]
    assert did == [*trip.BOOKED, "cancel car", "cancel hotel", "cancel flight", *trip.BOOKED, "payment"]
    with GCSSaver.from_conn_string(uri) as saver:
        (saga,) = saver.thread(result["thread_id"]).sagas()
        assert (saga.state, [step.state for step in saga.steps]) == ("done", ["done"] * 4)
        state = trip.build(saver, result["thread_id"]).get_state(thread_config(result["thread_id"]))
        assert state.next == ()


@pytest.mark.parametrize("where", ["embedded_uri", pytest.param("emulators_uri", marks=pytest.mark.soak)])
def test_a_region_that_is_lost_and_comes_back(where, request, environment):
    uri = request.getfixturevalue(where)
    ended = run_command("demo", "regions", "--json", "--store", uri, environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert result["ok"]
    assert all(result["proof"].values())
    assert len(result["proof"]) == 7
    assert result["was_unreachable"] == (where == "embedded_uri")
    # The stores themselves, by savers of this process.
    items = [f"{number} by {'Ada' if number <= result['by_ada'] else 'Bob'}" for number in range(1, 51)]
    with (
        GCSSaver.from_conn_string(result["stores"]["east"]) as east,
        GCSSaver.from_conn_string(result["stores"]["west"]) as west,
    ):
        for saver in (east, west):
            state = regions.build(saver, "", lambda _: None).get_state(thread_config(result["thread_id"]))
            assert (state.values["done"], state.next) == (items, ())
        status = west.admin.replication(east)
        assert (status.source_role, status.target_role, status.entries) == ("primary", "replica", 0)


@pytest.mark.parametrize("options", [["--ask"], ["--documents", "20"]])
@pytest.mark.parametrize("story", ["once", "workers", "team", "saga", "regions"])
def test_options_of_one_story_are_not_those_of_another(story, options, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["langgraph-gcs", "demo", story, *options])
    with pytest.raises(SystemExit, match=r"^2$"):
        run()
    out, err = capsys.readouterr()
    assert out == ""
    assert f"options of the story resume, not of {story}" in err


def test_the_stories_are_told_in_a_terminal(environment, tmp_path):
    returncode, shown = run_in_terminal("demo", "once", environment=environment, answers=[])
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert returncode == 0, text
    assert "was killed during the charge: SIGKILL, exit status -9." in text
    assert "A person finds no e-mail in the outbox" in text
    assert "A person finds the e-mail in the outbox" in text
    assert text.count("proved ") == 7
    assert "NOT TRUE" not in text
    assert _too_wide(text) == []
    assert list(temporary(environment).iterdir()) == [], "temporary files stayed"
