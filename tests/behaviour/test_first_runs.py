"""Two first runs of one thread that start together: both succeed, and the second of their roots is reported."""

import asyncio
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from typer.testing import CliRunner

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.events import ParentForked
from langgraph_gcs_saver.testing.kills import process
from tests.patience import PATIENCE
from tests.system.build import noise

CONFIG = {"configurable": {"thread_id": "a chat"}}


class Inner(TypedDict):
    log: Annotated[list[str], operator.add]


class State(Inner):
    attachment: bytes


def build(saver):
    """A step that stores an object, and a subgraph that keeps its state from run to run."""
    inner = StateGraph(Inner).add_node("think", lambda state: {"log": [f"thought {len(state['log'])}"]})
    inner = inner.add_edge(START, "think").add_edge("think", END).compile(checkpointer=True)
    builder = StateGraph(State).add_node("reply", lambda state: {"log": ["reply"], "attachment": noise(20_000)})
    builder.add_node("inner", inner)
    builder.add_edge(START, "reply").add_edge("reply", "inner").add_edge("inner", END)
    return builder.compile(checkpointer=saver)


def question(who, size):
    return {"log": [f"question of {who}"], "attachment": noise(size, who)}


def after_reading(saver, wait):
    """Make the first read of the thread end only when `wait` does: when both runs have found nothing."""
    get, left = saver.get_tuple, [wait]

    def get_tuple(config):
        found = get(config)
        if left:
            assert found is None
            left.pop()()
        return found

    saver.get_tuple = get_tuple
    return saver


def forks(reports):
    """The reported forks of the graph. Where its subgraph's forks begin, if it has any, depends on who is faster."""
    return [event for event in reports if isinstance(event, ParentForked) and not event.checkpoint_ns]


def check(make_saver, answers, reports, store_uri):
    for who, answer in enumerate(answers):
        assert answer["log"][0] == f"question of {who}", "each run continues with its own state"
    (reported,) = forks(reports)
    assert (reported.parent_id, reported.sibling_id) == (None, None)
    reader = make_saver()
    found = [info for info in reader.admin.history("a chat") if not info.checkpoint_ns]
    first = [info.checkpoint_id for info in found if info.parent_id is None]
    assert len(first) == 2
    assert reported.checkpoint_id in first
    assert reported.thread_id == "a chat"
    printed = CliRunner().invoke(app, ["history", "a chat", "--store", store_uri], env={"COLUMNS": "200"})
    assert printed.exit_code == 0, printed.output
    for checkpoint_id in first:
        assert checkpoint_id in printed.output
    # The next run is no fork, and continues the newest of both.
    assert build(make_saver(on_event=reports.append)).invoke(question(2, 10), CONFIG)["log"][-2] == "reply"
    assert forks(reports) == [reported]


SIZES = [10, 20_000]
"""An attachment in the first checkpoint's document, and one in an object."""


@pytest.mark.parametrize(
    ("savers", "size", "durability"),
    [
        ("one saver", 10, "sync"),
        ("two savers", 10, "async"),
        ("two savers", 20_000, "sync"),
        ("one saver", 20_000, "exit"),
        ("two savers", 10, "exit"),
    ],
)
def test_two_threads(savers, size, durability, make_saver, store_uri):
    reports = []
    barrier = threading.Barrier(2)
    wait = partial(barrier.wait, PATIENCE)
    one = make_saver(on_event=reports.append)
    two = one if savers == "one saver" else make_saver(on_event=reports.append)
    if savers == "one saver":
        after_reading(after_reading(one, wait), wait)
    else:
        for saver in (one, two):
            after_reading(saver, wait)
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(build(saver).invoke, question(who, size), CONFIG, durability=durability)
            for who, saver in enumerate((one, two))
        ]
        answers = [run.result() for run in runs]
    check(make_saver, answers, reports, store_uri)


@pytest.mark.parametrize("size", SIZES)
async def test_two_coroutines(size, make_saver, store_uri):
    reports = []
    saver = make_saver(on_event=reports.append)
    get, met, read = saver.aget_tuple, asyncio.Event(), []

    async def aget_tuple(config):
        found = await get(config)
        read.append(found)
        if len(read) == 2:
            met.set()
        await met.wait()
        return found

    saver.aget_tuple = aget_tuple
    graph = build(saver)
    answers = await asyncio.gather(*(graph.ainvoke(question(who, size), CONFIG) for who in range(2)))
    assert read[:2] == [None, None]
    await saver.aclose()
    check(make_saver, answers, reports, store_uri)


def run_on_order(uri, who, size, pipe):
    """A first run in a process of its own, which waits between its first read and its first write."""
    reports = []

    def wait():
        pipe.send("read")
        pipe.recv()

    with GCSSaver.from_conn_string(uri, on_event=reports.append) as saver:
        answer = build(after_reading(saver, wait)).invoke(question(who, size), CONFIG)
    pipe.send((answer, [event for event in reports if isinstance(event, ParentForked)]))


@pytest.mark.parametrize("size", SIZES)
def test_two_processes(size, make_saver, store_uri):
    answers, reports = [], []
    with process(run_on_order, store_uri, 0, size) as (_, one), process(run_on_order, store_uri, 1, size) as (_, two):
        for pipe in (one, two):
            assert hear(pipe) == "read"
        for pipe in (one, two):
            pipe.send("go")
        for pipe in (one, two):
            answer, told = hear(pipe)
            answers.append(answer)
            reports += told
    check(make_saver, answers, reports, store_uri)


def hear(pipe):
    assert pipe.poll(PATIENCE), "the process does not answer"
    return pipe.recv()
