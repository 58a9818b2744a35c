"""What all sinks promise: a run does not notice them, each row is counted once, and threads are digests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langgraph_gcs_saver import GCSSaver, analytics
from langgraph_gcs_saver.analytics import rows
from langgraph_gcs_saver.analytics.base import KEY_VARIABLE, RowSink
from langgraph_gcs_saver.engine.effects import Commit, Create, Delete, GetDocs
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.events import RowsDropped
from langgraph_gcs_saver.flows.analytics import store_key
from langgraph_gcs_saver.format import keys
from tests.analytics.seen import SECRET, THREAD, Counted, work
from tests.patience import PATIENCE, eventually
from tests.system.build import cfg, put

KEY = "a key of the test's own"


class State(TypedDict):
    v: str


class Kept(RowSink[rows.Row]):
    """Keeps rows, once `opened` is set; before, each batch waits. `raises` are raised in place of the next batches."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.kept: list[rows.Row] = []
        self.opened = threading.Event()
        self.opened.set()
        self.raises: list[BaseException] = []

    def encode(self, row: rows.Row) -> rows.Row:
        return row

    def send(self, batch: Sequence[rows.Row]) -> None:
        self.opened.wait()
        if self.raises:
            raise self.raises.pop(0)
        self.kept += batch

    def is_transient(self, error: BaseException) -> bool:
        return isinstance(error, TimeoutError) or super().is_transient(error)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def memory():
    with GCSSaver.from_conn_string("memory:", labels=("agent",)) as saver:
        yield saver


def test_rows_of_a_run(saver, tmp_path):
    sink, counted = analytics.Jsonl(tmp_path / "rows.jsonl"), Counted()
    saver.subscribe(counted)
    saver.subscribe(sink)
    work(saver, 1, 4)
    assert sink.flush(PATIENCE)
    found = lines(tmp_path / "rows.jsonl")
    assert (sink.written, sink.dropped) == (len(found), 0) == (counted.rows, 0)
    assert [row["event"] for row in found] == [
        *["checkpoint_saved", "value_stored"] * 3,
        "writes_saved",
        "checkpoint_loaded",
    ]
    whole = (tmp_path / "rows.jsonl").read_bytes()
    assert THREAD.encode() not in whole
    assert SECRET.encode() not in whole


def test_closing_a_saver_flushes_its_sinks(tmp_path):
    sink = analytics.Jsonl(tmp_path / "rows.jsonl", seconds=3600)
    with GCSSaver.from_conn_string("memory:") as saver:
        saver.subscribe(sink)
        put(saver, 1, {"v": 1})
    assert sink.written == len(lines(tmp_path / "rows.jsonl")) == 2


def test_a_full_queue_drops_and_counts(memory):
    sink, counted = Kept(queue=10, batch=4, seconds=0), Counted()
    memory.subscribe(counted)
    memory.subscribe(sink)
    sink.opened.clear()
    work(memory, 1, 20)  # nothing is written meanwhile
    assert sink.written == 0
    assert sink.dropped >= counted.rows - 10
    sink.opened.set()
    sink.close(PATIENCE)
    assert len(sink.kept) == sink.written > 0
    assert sink.written + sink.dropped == counted.rows
    reports = [event for event in counted.events if isinstance(event, RowsDropped)]
    assert sum(event.rows for event in reports) == sink.dropped > len(reports)
    assert {(event.sink, event.reason) for event in reports} == {("Kept", "the queue is full")}


def test_a_sink_that_hangs_is_left_behind(memory):
    sink, counted = Kept(), Counted()
    memory.subscribe(counted)
    memory.subscribe(sink)
    sink.opened.clear()
    work(memory, 1, 20)
    assert not sink.flush(0.01)
    sink.close(0.01)
    work(memory, 20, 25)
    assert (sink.written, sink.dropped) == (0, counted.rows)
    sink.opened.set()  # What was in flight is written after all, and was counted already.
    eventually(lambda: sink.kept)
    assert (sink.written, sink.dropped) == (0, counted.rows)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(), KeyboardInterrupt()], ids=repr)
def test_whatever_a_service_raises_ends_with_its_batch(memory, error):
    sink = Kept()
    memory.subscribe(sink)
    sink.raises = [error]
    put(memory, 1, {"v": 1})
    assert not sink.flush(PATIENCE)
    put(memory, 2, {"v": 2}, parent=1)
    assert sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (2, 2)


def test_rows_are_counted_whatever_a_handler_of_their_report_raises(memory):
    sink, counted = Kept(), Counted()

    def exit_at(event):
        if isinstance(event, RowsDropped):
            raise SystemExit

    with GCSSaver.from_conn_string("memory:") as other:
        for saver in (memory, other):
            for handler in (sink, counted, exit_at):
                saver.subscribe(handler)
        sink.opened.clear()
        sink.raises = [ValueError("no"), ValueError("no")]
        for saver in (memory, other):
            put(saver, 1, {"v": 1})
        sink.opened.set()
        eventually(lambda: sink.written + sink.dropped == counted.rows)
        assert sink.flush(PATIENCE)


def test_what_may_pass_is_tried_again(memory):
    sink = Kept()
    memory.subscribe(sink)
    sink.raises = [TimeoutError(), TimeoutError()]
    put(memory, 1, {"v": 1})
    assert sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (2, 0)


def test_what_does_not_pass_is_dropped(memory):
    sink = Kept(retry=0)
    memory.subscribe(sink)
    sink.raises = [TimeoutError()]
    put(memory, 1, {"v": 1})
    assert not sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (0, 2)


@pytest.mark.parametrize(("batch", "batch_bytes", "most"), [(6, 40, 4), (6, 1000, 6), (1, 1000, 1)])
def test_batches_have_a_limit_of_rows_and_of_bytes(memory, batch, batch_bytes, most):
    class Sized(Kept):
        sent: list[int] = []  # noqa: RUF012

        def size(self, _: rows.Row) -> int:
            return 10

        def send(self, batch: Sequence[rows.Row]) -> None:
            super().send(batch)
            self.sent.append(len(batch))

    sink = Sized(batch=batch)
    sink.batch_bytes = batch_bytes
    memory.subscribe(sink)
    sink.opened.clear()
    put(memory, 1, {str(n): n for n in range(29)})  # 30 rows of one event
    work(memory, 2, 5)  # 8 rows
    sink.opened.set()
    assert sink.flush(PATIENCE)
    assert max(sink.sent) == most
    assert sum(sink.sent) == sink.written == 38
    sink.sent.clear()
    sink.write([{"event_id": str(n)} for n in range(8)])  # as the backfill does
    assert max(sink.sent) == most


def test_labels_are_columns(memory):
    sink = Kept()
    memory.subscribe(sink)
    put(memory, 1, {"v": 1}, metadata={"agent": "support"})
    assert sink.flush(PATIENCE)
    assert [row["label_agent"] for row in sink.kept] == ["support"] * 2


@pytest.mark.parametrize(
    ("options", "name"),
    [({"queue": 0}, "queue"), ({"batch": True}, "batch"), ({"seconds": -1}, "seconds"), ({"key": "short"}, "key")],
)
def test_options_are_checked(options, name):
    with pytest.raises(InvalidOptionError, match=name):
        Kept(**options)


def test_rows_join_with_callbacks_by_run_and_by_thread(memory):
    """As docs/reference/analytics.md says of LangChain's handler."""

    class Callbacks(BaseCallbackHandler):
        runs: list[tuple[UUID, UUID | None, str]] = []  # noqa: RUF012

        def on_chain_start(
            self, _: Any, __: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **more: Any
        ) -> None:
            self.runs.append((run_id, parent_run_id, more["metadata"]["session_id"]))

    sink, callbacks, run_id = Kept(key=KEY), Callbacks(), uuid4()
    memory.subscribe(sink)
    builder = StateGraph(State)
    builder.add_node("node", lambda _: {"v": SECRET})
    builder.add_edge(START, "node")
    config = {
        "run_id": run_id,
        "configurable": {"thread_id": THREAD, "run_id": str(run_id)},
        "metadata": {"session_id": analytics.thread_digest(THREAD, KEY)},
        "callbacks": [callbacks],
    }
    builder.compile(checkpointer=memory).invoke({"v": ""}, config)
    assert sink.flush(PATIENCE)
    assert callbacks.runs[0][:2] == (run_id, None)
    assert {parent for _, parent, _ in callbacks.runs[1:]} == {run_id}
    assert {row["run_id"] for row in sink.kept} == {str(run_id)}
    assert {row["thread"] for row in sink.kept} == {session for _, _, session in callbacks.runs}


# The key


def test_a_key_of_ones_own(memory, monkeypatch):
    given = Kept(key=KEY)
    monkeypatch.setenv(KEY_VARIABLE, KEY * 2)
    found = Kept()
    for sink in (given, found):
        memory.subscribe(sink)
    put(memory, 1, {"v": 1}, thread=THREAD)
    for sink, key in ((given, KEY), (found, KEY * 2)):
        assert sink.flush(PATIENCE)
        assert {row["thread"] for row in sink.kept} == {analytics.thread_digest(THREAD, key)}


class Asked(Interceptor):
    """Notes which threads read the store's key."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def around(self, effect: Any, perform: Any) -> Any:
        if isinstance(effect, GetDocs) and keys.ANALYTICS in effect.names:
            self.threads.append(threading.current_thread())
        return perform(effect)


def test_the_store_has_one_key_which_stays(make_saver, store_uri):
    asked, sinks = Asked(), (Kept(), Kept())
    first, second = make_saver(interceptors=[asked]), make_saver()
    for saver, sink in zip((first, second), sinks, strict=True):
        saver.subscribe(sink)
        put(saver, 1, {"v": 1}, thread=THREAD)
        assert sink.flush(PATIENCE)
    first.admin.copy_thread(THREAD, "copy")
    with GCSSaver.from_conn_string("memory:") as other:
        first.admin.transfer_thread("copy", other)
        assert run(iter(GetDocs((keys.ANALYTICS,))), other._backend) == {}
    assert list(first.admin.verify()) == []
    first.admin.collect(THREAD)
    if store_uri.startswith("gs:"):
        first.admin.rebind()
    first.delete_thread(THREAD)
    put(first, 2, {"v": 1}, thread=THREAD)
    assert sinks[0].flush(PATIENCE)
    saved = [row["thread"] for sink in sinks for row in sink.kept if row["event"] == "checkpoint_saved"]
    assert len(saved) == 3
    assert len(set(saved)) == 1
    assert len(asked.threads) == 1
    assert threading.main_thread() not in asked.threads
    key = run(store_key(b"another"), second._backend)
    assert sinks[0].kept[0]["thread"] == analytics.thread_digest(THREAD, key)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_key_that_cannot_be_read_costs_rows_only(saver):

    run(iter(Commit((Create(keys.ANALYTICS, {"key": "no bytes"}),))), saver._backend)
    sink = Kept()
    saver.subscribe(sink)
    put(saver, 1, {"v": 1})
    assert not sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (0, 2)
    run(iter(Commit((Delete(keys.ANALYTICS),))), saver._backend)
    put(saver, 2, {"v": 1}, parent=1)
    assert sink.flush(PATIENCE)
    assert saver.get_tuple(cfg()) is not None


# Processes

FORKING = """
import os, sys
from langgraph_gcs_saver import GCSSaver, analytics
from tests.system.build import put
sink = analytics.Jsonl(sys.argv[1])
with GCSSaver.from_conn_string(sys.argv[2]) as saver:
    saver.subscribe(sink)
    put(saver, 1, {"v": 1})
    child = os.fork()
    if child == 0:
        put(saver, 2, {"v": 1}, parent=1)
        assert sink.flush(60), (sink.written, sink.dropped)
        assert sink.written == 2, sink.written
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert sink.flush(60)
    assert sink.written == 2, sink.written
"""


def test_a_forked_process_has_a_queue_of_its_own(tmp_path):
    path = tmp_path / "rows.jsonl"
    command = [sys.executable, "-c", FORKING, str(path), f"file://{tmp_path}/store"]
    subprocess.run(command, check=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": "."})
    found = lines(path)
    assert len(found) == 4
    assert len({row["event_id"] for row in found}) == 4
    assert len({row["thread"] for row in found}) == 1
