"""runs, stalled, answer and work: what threads are doing, answers of people, and workers."""

import asyncio
import json
import signal
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import arun, run
from langgraph_gcs_saver.engine import runner
from langgraph_gcs_saver.engine.effects import Commit, Merge
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.results import ThreadStatus
from tests.cli import agents_that_work
from tests.cli.filled import is_harmless

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

HOSTILE = "\x1b[31m'; rm -rf / #\n\u202e"
GRAPH = "tests.cli.agents_that_work:graph"
_HOUR = timedelta(hours=1)


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(saver):
    """A thread that waits for a person, and its graph."""
    graph = agents_that_work.graph.copy({"checkpointer": saver})

    def ask(thread_id="t"):
        return run(graph, {"log": ["in"]}, {"configurable": {"thread_id": thread_id}}, request_id="r1")

    ask()
    ask.log = lambda: graph.get_state({"configurable": {"thread_id": "t"}}).values["log"]
    return ask


def test_runs_are_listed(asked, command):
    shown = command("runs")
    assert shown.code == 0
    for word in ("thread", "waiting", "ask", '{"sure": true}'):
        assert word in shown.out
    (found,) = json.loads(command("runs", "--state", "waiting", "--json").out)
    expected = {
        "thread_id": "t",
        "state": "waiting",
        "step": 0,
        "nodes": ["ask"],
        "request_id": "r1",
        "graph": "asking",
    }
    assert expected.items() <= found.items()
    assert [one["value"] for one in found["questions"]] == [{"sure": True}]
    assert command("runs", "--state", "crashed").out == "There are no such threads.\n"
    assert command("runs", "--state", "odd").code == 2


@pytest.mark.parametrize("arguments", [("runs",), ("stalled", "--older", "1s")], ids=lambda given: given[0])
def test_a_damaged_thread_does_not_hide_others(asked, saver, command, monkeypatch, arguments):
    for thread_id in ("damaged", "fine"):
        asked(thread_id)
        saver.thread(thread_id).answer("yes")
    name = keys.resume_doc("damaged")
    assert runner.run(iter(Commit((Merge(name, {"turn": b"damaged"}),))), saver._backend)
    monkeypatch.setattr(ThreadStatus, "is_stalled", lambda _, __: True)
    shown = command(*arguments)
    assert "fine" in shown.out
    assert "'damaged'" in shown.err
    assert shown.code == 4


def test_an_answer_to_one_of_two_questions_leaves_the_other(saver, command):
    """The command reads questions without LangGraph's classes, and knows their ids nevertheless."""
    build = StateGraph(agents_that_work.State).add_node("left", agents_that_work.ask)
    build.add_node("right", agents_that_work.ask).add_edge(START, "left").add_edge(START, "right")
    asked = run(build.compile(checkpointer=saver), {"log": []}, {"configurable": {"thread_id": "t"}})
    shown = command("answer", "t", "yes")
    assert shown.code == 2
    assert all(one.id in shown.err for one in asked["__interrupt__"])
    assert command("answer", "t", json.dumps({asked["__interrupt__"][0].id: "yes"})).code == 0
    (found,) = json.loads(command("runs", "--json").out)
    assert (found["state"], [one["id"] for one in found["questions"]]) == ("due", [asked["__interrupt__"][1].id])


def test_an_answer_to_no_thread(asked, command):
    asked("t")
    answered = command("answer", "other", "yes")
    assert (answered.code, answered.out) == (1, "")
    assert "there is no thread 'other' in the store." in answered.err


def test_a_thread_that_waits_is_not_stalled_and_one_that_was_answered_is(asked, command):
    assert command("stalled", "--older", "1s").out == "No thread is stalled.\n"
    command("answer", "t", "yes")
    assert command("stalled", "--older", "10m").code == 0
    assert command("stalled", "--older", "0s").code == 2


def test_stalled_threads_end_with_an_exit_code(asked, command, monkeypatch):
    command("answer", "t", "yes")
    from langgraph_gcs_saver.flows import work

    whole = work.describe
    monkeypatch.setattr(work, "describe", lambda found: replace(whole(found), idle=_HOUR))
    shown = command("stalled", "--older", "10m", "--json")
    assert shown.code == 4
    (found,) = json.loads(shown.out)
    assert (found["thread_id"], found["state"], found["idle"]) == ("t", "due", 3600)


@pytest.mark.parametrize(
    ("typed", "options", "answer"),
    [
        ("yes", (), "'yes'"),
        ("7", (), "7"),
        ("7", ("--text",), "'7'"),
        ('{"ok": [1]}', (), "{'ok': [1]}"),
        ("null", (), "'null'"),
    ],
)
@pytest.mark.usefixtures("_here")
def test_an_answer_is_stored_and_a_worker_resumes(asked, command, typed, options, answer):
    assert command("answer", "t", typed, *options, "--request-id", "a1").out == "t: the answer is stored.\n"
    assert command("answer", "t", typed, "--request-id", "a1").out == "t: the answer was stored before.\n"
    shown = command("work", GRAPH)
    assert (shown.code, shown.out) == (0, "Thread 't': finished\n")
    assert asked.log() == ["in", answer, "end"]
    assert command("work", GRAPH).out == "No thread needs a worker now, of those whose graph is 'asking'.\n"
    assert command("answer", "t", "again").code == 2


@pytest.mark.parametrize(("options", "steps"), [((), 5), (("--segments", "5m"), 3)])
@pytest.mark.usefixtures("_here")
def test_work_stores_each_step_or_segments(saver, asked, command, options, steps):
    command("answer", "t", "yes")
    assert command("work", GRAPH, *options).out == "Thread 't': finished\n"
    assert len(list(saver.list({"configurable": {"thread_id": "t"}}))) == steps
    assert asked.log() == ["in", "'yes'", "end"]


@pytest.mark.usefixtures("_here")
def test_work_tells_what_failed(asked, command, tmp_path):
    (tmp_path / "broken").touch()
    command("answer", "t", "yes")
    shown = command("work", GRAPH, "--json")
    assert shown.code == 4
    assert json.loads(shown.out) == {"thread_id": "t", "outcome": "failed", "error": "BrokenError", "attempts": 1}
    assert "1 failed" in shown.err


@pytest.mark.usefixtures("_here")
def test_sigterm_ends_a_worker_at_a_boundary(asked, command, tmp_path):
    (tmp_path / "stopping").touch()
    command("answer", "t", "yes")
    before = signal.getsignal(signal.SIGTERM)
    try:
        shown = command("work", "tests.cli.agents_that_work:build", "--every", "1s")
        assert (shown.code, shown.out) == (75, "Thread 't': paused\n")
        assert "The same command continues it" in shown.err
    finally:
        signal.signal(signal.SIGTERM, before)
    (tmp_path / "stopping").unlink()
    assert asked.log() == ["in", "'yes'"]
    assert command("work", GRAPH).out == "Thread 't': finished\n"
    assert asked.log() == ["in", "'yes'", "end"]


@pytest.mark.usefixtures("_here")
def test_a_worker_stops_after_a_time(asked, command):
    shown = command("work", GRAPH, "--every", "1s", "--stop-after", "1s")
    assert (shown.code, shown.out, shown.err) == (0, "", "")
    assert command("work", GRAPH, "--stop-after", "0s").code == 2


@pytest.mark.skipif(sys.version_info < (3, 11), reason="LangGraph's interrupts in coroutines need Python 3.11")
@pytest.mark.parametrize("name", ["build_async", "build_outer"])
@pytest.mark.usefixtures("_here")
def test_a_graph_of_coroutines_is_resumed(saver, command, name):
    graph = getattr(agents_that_work, name)().copy({"checkpointer": saver})
    config = {"configurable": {"thread_id": "t"}}
    asyncio.run(arun(graph, {"log": ["in"]}, config, request_id="r1"))
    command("answer", "t", "yes")
    shown = command("work", f"tests.cli.agents_that_work:{name}", "--json")
    assert (shown.code, shown.err) == (0, "")
    (line,) = shown.out.splitlines()
    assert json.loads(line) == {"thread_id": "t", "outcome": "finished", "error": None, "attempts": 0}
    assert graph.get_state(config).values["log"][-2:] == ["'yes'", "async"]


@pytest.mark.usefixtures("_here")
def test_a_graph_can_be_called_asynchronously(asked, command):
    if sys.version_info >= (3, 11):
        command("answer", "t", "yes")
        assert command("work", GRAPH, "--async").out == "Thread 't': finished\n"
        assert asked.log() == ["in", "'yes'", "end"]


def test_two_graphs_of_one_name_are_refused(saver, command):
    saver.setup()
    shown = command("work", GRAPH, "tests.cli.agents_that_work:build")
    assert shown.code == 2
    assert "also called 'asking'" in shown.err


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nothing", "MODULE:NAME"),
        ("missing:graph", "missing"),
        ("signal:SIGTERM", "compiled"),
        ("json:loads", "raises"),
    ],
)
def test_work_needs_a_graph(saver, command, name, word):
    saver.setup()
    shown = command("work", name)
    assert shown.code == 2
    assert word in shown.err


def test_hostile_names_are_shown_harmlessly(asked, command):
    asked(HOSTILE)
    for arguments in (("runs",), ("runs", "--json"), ("answer", HOSTILE, HOSTILE), ("answer", HOSTILE, "x")):
        shown = command(*arguments)
        assert is_harmless(shown.out)
        assert is_harmless(shown.err)
