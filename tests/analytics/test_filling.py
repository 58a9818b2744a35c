"""The backfill: it computes the rows that a lossless sink has written, and reads no value for it."""

import operator
import random
from contextlib import suppress
from datetime import datetime, timezone
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import analytics, run
from langgraph_gcs_saver.analytics.base import Source
from langgraph_gcs_saver.analytics.filling import past_rows
from langgraph_gcs_saver.analytics.local import report_of
from langgraph_gcs_saver.analytics.rows import KINDS, LABEL, LABELS, thread_digest
from langgraph_gcs_saver.engine.effects import Commit, GetDocs, QueryDocs
from langgraph_gcs_saver.errors import WrongKeyError
from langgraph_gcs_saver.events import CheckpointSkipped, RecoveryRecorded
from langgraph_gcs_saver.testing import CountingInterceptor
from tests.analytics.test_services import Recorded
from tests.behaviour.test_work import crash
from tests.compat.xor_cipher import XorCipher
from tests.patience import PATIENCE, eventually

KEY = "a key of sixteen"
UNKNOWN = {kind.name: set(kind.unknown) for kind in KINDS if kind.is_backfilled}


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    document: str


class FailsError(Exception):
    pass


def graph(saver, failing):
    """Two nodes at the same time, of which one has a subgraph and the other one fails; then a large value."""

    def node(name, **more):
        def act(state):
            if name in failing:
                raise FailsError(name)
            return {"log": [name], **more}

        return act

    inner = StateGraph(State).add_node("deep", node("deep")).add_edge(START, "deep").compile()
    build = StateGraph(State).add_node("sub", inner).add_node("beside", node("beside"))
    build.add_node("large", node("large", document=random.Random(1).randbytes(200_000).hex()))
    for name in ("sub", "beside"):
        build.add_edge(START, name)
    build.add_edge(["sub", "beside"], "large")
    return build.compile(checkpointer=saver)


def config(thread_id):
    return {"configurable": {"thread_id": thread_id}, "metadata": {"agent": "billing"}}


@pytest.fixture
def lived(make_saver, request):
    """A store that a lossless sink has seen all of: runs of two threads, pending writes, a crash and a takeover."""
    options = getattr(request, "param", {})
    sink = Recorded(key=KEY)
    saver = make_saver(labels=["agent"], on_event=sink, **options)
    recovered = []
    saver.subscribe(lambda event: recovered.append(event) if isinstance(event, RecoveryRecorded) else None)
    failing = {"beside"}
    built = graph(saver, failing)
    with suppress(FailsError):
        run(built, {"log": ["hello"]}, config("one"))
    crash(saver, "one")
    failing.clear()
    run(built, {"log": ["hello"]}, config("one"))
    eventually(lambda: recovered)
    graph(saver, failing).invoke({"log": ["hello"]}, config("two"), durability="sync")
    assert sink.flush(PATIENCE)
    return make_saver(labels=["agent"], **options), sink.rows


def told(rows):
    """What the backfill can know of rows, by id."""
    found = {}
    for row in rows:
        if row["event"] in UNKNOWN:
            hidden = UNKNOWN[row["event"]]
            found[row["event_id"]] = {
                name: value
                for name, value in row.items()
                if name not in hidden and not (LABELS in hidden and name.startswith(LABEL))
            }
    return found


def filled(saver, *thread_ids, **options):
    return list(past_rows(saver, Source(saver, KEY.encode()), thread_ids or None, **options))


LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

CIPHERS = pytest.mark.parametrize(
    "lived",
    [{}, {"cipher": XorCipher()}, {"cipher": XorCipher(), "clear_metadata": {"node", "agent"}}],
    ids=["clear", "cipher", "clear_metadata"],
    indirect=True,
)


@CIPHERS
def test_the_backfill_equals_the_rows_of_a_lossless_run(lived):
    saver, streamed = lived
    found = filled(saver)
    wanted = told(streamed)
    large = [row["event_id"] for row in found if row["event"] == "writes_saved" and "writes" not in row]
    for one in large:  # They are in an object, which is not read.
        assert wanted[one].pop("size") > 400_000
        assert wanted[one].pop("writes") == 2
    assert len(large) == 2
    assert told(found) == wanted
    assert len(found) == len(told(found)), "the task that failed, and then succeeded, has two rows"
    assert {row["event"] for row in found} == set(UNKNOWN)
    assert all(row.keys().isdisjoint(UNKNOWN[row["event"]]) for row in found)
    # Everything was there to be compared.
    assert {"", "sub"} <= {row.get("namespace") for row in found}
    assert any(row.get("object_bytes") for row in found)
    assert {row.get("label_agent") for row in found if row["event"] == "checkpoint_saved"} == {"billing"}
    (recovery,) = [row for row in found if row["event"] == "recovery_recorded"]
    assert recovery["kind"] == "takeover"
    assert recovery["restore"] > 0


@LOCAL
def test_all_writes_of_a_task_that_was_interrupted_count(make_saver):
    """It stores its question, and then its answer together with what it writes. No row hides another one."""

    def ask(state):
        return {"log": [interrupt("a question?")], "document": "x" * 500}

    sink = Recorded(key=KEY)
    saver = make_saver(on_event=sink)
    graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
    graph.invoke({"log": ["hello"]}, config("one"), durability="sync")
    graph.invoke(Command(resume="an answer"), config("one"), durability="sync")
    assert sink.flush(PATIENCE)
    streamed, found = ([row for row in rows if row["event"] == "writes_saved"] for rows in (sink.rows, filled(saver)))
    assert {row["event_id"] for row in streamed} == {row["event_id"] for row in found}
    assert len({row["event_id"] for row in streamed}) == len(streamed) == len(found) >= 3
    # The answer is in a document of its own, and its bytes are in the row of the call that wrote it.
    for rows in (sink.rows, filled(saver), [*sink.rows, *filled(saver)]):
        (row,) = report_of(rows, labels=[]).views["checkpoint_patterns"]
        assert (row["task_writes"], row["task_writes_stored"]) == (
            len(streamed),
            sum(row["inline_bytes"] for row in streamed),
        )


@LOCAL
def test_reports_do_not_change_if_a_lossless_run_is_backfilled(lived):
    saver, streamed = lived
    assert report_of(streamed).views == report_of([*filled(saver), *streamed, *filled(saver)]).views


@LOCAL
def test_some_threads_and_a_time(lived):
    saver, streamed = lived
    threads = {analytics.thread_digest(name, KEY): name for name in ("one", "two")}
    for digest, name in threads.items():
        own = [row for row in streamed if row["thread"] == digest]
        assert told(filled(saver, name)).keys() == told(own).keys() != set()
    assert told(filled(saver, "two", "one")) == told(filled(saver))
    middle = sorted(row["time"] for row in filled(saver))[5]
    since = datetime.fromtimestamp(middle / 1e6, timezone.utc)
    found = filled(saver, since=since)
    assert [row for row in filled(saver) if row["time"] >= middle] == found
    assert filled(saver, "no such thread") == []


def test_no_value_is_read_and_nothing_is_written(lived, make_saver):
    _, _ = lived
    counting = CountingInterceptor()
    saver = make_saver(interceptors=[counting])
    assert filled(saver)
    assert counting.requests.keys() <= {QueryDocs.__name__, GetDocs.__name__}


@LOCAL
def test_the_backfill_fills_a_sink(lived, tmp_path):
    saver, streamed = lived
    reported = []
    sink = analytics.Jsonl(tmp_path / "rows.jsonl", key=KEY)
    written = analytics.backfill(saver, sink, progress=reported.append)
    assert written == sum(reported) == len(told(streamed))
    found = analytics.report([tmp_path / "rows.jsonl"])
    assert (found.rows, found.labels, found.duplicates) == (written, ("agent",), 0)
    assert analytics.backfill(saver, sink) == written
    again = analytics.report([tmp_path / "rows.jsonl"])
    assert (again.rows, again.duplicates, again.views) == (2 * written, written, found.views)


@LOCAL
def test_a_damaged_document_is_skipped_and_reported(lived, make_saver):
    saver, _ = lived
    skipped = []
    saver.subscribe(lambda event: skipped.append(event) if isinstance(event, CheckpointSkipped) else None)
    before = filled(saver)
    name = spoil(saver)
    after = filled(saver)
    assert [event.thread_id for event in skipped] == ["one"], name
    assert 0 < len(before) - len(after) < 10


class Foreign(JsonPlusSerializer):
    """A serializer whose values no other one reads."""

    def dumps_typed(self, obj):
        return "foreign", super().dumps_typed(obj)[1]


@LOCAL
def test_metadata_of_another_serializer_are_skipped_and_reported(make_saver):
    saver, skipped = make_saver(), []
    for number, serde in enumerate((None, Foreign(), None)):
        graph(make_saver(serde=serde), {"now": False}).invoke({"log": []}, config(str(number)))
    saver.subscribe(lambda event: skipped.append(event) if isinstance(event, CheckpointSkipped) else None)
    threads = {row["thread"] for row in filled(saver) if row["event"] == "checkpoint_saved"}
    assert threads == {thread_digest(one, KEY) for one in "02"}
    assert {event.thread_id for event in skipped} == {"1"}


def spoil(saver):
    """Damage the manifest of a checkpoint of thread `one`."""
    from langgraph_gcs_saver.engine.effects import Merge, QueryDocs
    from langgraph_gcs_saver.engine.runner import run as perform
    from langgraph_gcs_saver.format import keys

    def flow():
        docs = yield from QueryDocs(keys.checkpoints("one"))
        yield from Commit((Merge(docs[0].name, {"manifest": b"damaged"}),))
        return docs[0].name

    return perform(flow(), saver._backend)


@pytest.mark.parametrize("lived", [{"cipher": XorCipher()}], ids=["cipher"], indirect=True)
@LOCAL
def test_the_cipher_is_needed(lived, make_saver):
    with pytest.raises(WrongKeyError):
        filled(make_saver())
