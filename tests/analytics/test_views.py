"""The four views: hand-computed answers, in DuckDB and in BigQuery, with and without repeated rows."""

import json
import math
import random
import uuid

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from langgraph_gcs_saver import analytics
from langgraph_gcs_saver.analytics.findings import finding
from langgraph_gcs_saver.analytics.local import report_of
from langgraph_gcs_saver.analytics.queries import BUCKETS, COLUMNS, QUESTIONS
from langgraph_gcs_saver.analytics.rows import LABEL, columns
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.policy import prices

BEGIN = 1_900_000_000_000_000
"""Microseconds since the epoch of the first row."""


class Rows(list):
    """Rows that are made with a time in seconds, and an id of their own."""

    def add(self, event, at, **more):
        row = {"schema": 1, "event_id": uuid.uuid5(uuid.NAMESPACE_URL, str(len(self))).hex, "event": event}
        self.append({**row, "time": BEGIN + round(at * 1e6), "thread": "t1", **more})
        return self

    def saved(self, at, **more):
        known = {"checkpoint_id": f"c{at:08.3f}", "run_id": "r", "source": "loop", "outcome": "stored", "attempts": 1}
        return self.add("checkpoint_saved", at, **{**known, "seconds": 0.5, **more})

    def value(self, at, channel, size, stored, frames, **more):
        return self.add(
            "value_stored",
            at,
            checkpoint_id=f"c{at:08.3f}",
            channel=channel,
            size=size,
            stored=stored,
            frames=frames,
            **more,
        )


def patterns():
    """Two agents; the second has a subgraph, a turn that begins after a day, and pending writes."""
    rows = Rows()
    for n in range(4):
        more = {"size": 1000 * (n + 1), "inline_bytes": 10, "object_bytes": 100 * n, "label_agent": "a"}
        rows.saved([0, 1, 3, 6][n], seconds=0.1 * (n + 1), **more)
    rows.saved(0, thread="t2", size=7, inline_bytes=5, label_agent="b", source="input", seconds=None)
    rows.saved(2, thread="t2", size=7, inline_bytes=5, label_agent="b", seconds=None)
    rows.saved(90_000, thread="t2", size=9, inline_bytes=6, label_agent="b", source="input", seconds=None)
    rows.saved(1, thread="t2", namespace="search", size=3, label_agent="b")
    known = {"thread": "t2", "outcome": "stored", "seconds": 0.1, "label_agent": "b"}
    rows.add("writes_saved", 1, inline_bytes=20, object_bytes=1, size=50, **known)
    rows.add("writes_saved", 2, inline_bytes=30, size=50, **known)
    return rows


PATTERNS = [
    {
        "namespace": "", "label_agent": "a", "checkpoints": 4, "threads": 1, "gap_p50": 2.0, "gap_p95": 3.0,
        "size_p50": 2000, "size_p95": 4000, "stored_p50": 110, "stored_p95": 310, "stored": 640,
        "seconds_p50": 0.2, "seconds_p95": 0.4, "task_writes": 0, "task_writes_stored": 0,
    },
    {
        "namespace": "", "label_agent": "b", "checkpoints": 3, "threads": 1, "gap_p50": 2.0, "gap_p95": 2.0,
        "size_p50": 7, "size_p95": 9, "stored_p50": 5, "stored_p95": 6, "stored": 16,
        "seconds_p50": None, "seconds_p95": None, "task_writes": 2, "task_writes_stored": 51,
    },
    {
        "namespace": "search", "label_agent": "b", "checkpoints": 1, "threads": 1, "gap_p50": None, "gap_p95": None,
        "size_p50": 3, "size_p95": 3, "stored_p50": 0, "stored_p95": 0, "stored": 0,
        "seconds_p50": 0.5, "seconds_p95": 0.5, "task_writes": 0, "task_writes_stored": 0,
    },
]  # fmt: skip


def recoveries():
    """A run ends well after being drained; one fails; one continues without `run`; of one nothing more is known."""
    rows = Rows()
    agent = {"label_agent": "a"}
    took = {"kind": "takeover", **agent}
    rows.add("run_ended", 0, outcome="failed", **agent)
    rows.add("recovery_recorded", 10, lost=8.0, down=3.0, restore=0.5, **took)
    rows.add("run_ended", 12, outcome="drained", **agent)
    rows.saved(13, **agent)
    rows.add("run_ended", 14, outcome="finished", **agent)
    rows.add("recovery_recorded", 10, thread="t2", lost=2.0, restore=1.5, **took)
    rows.add("run_ended", 11, thread="t2", outcome="failed", **agent)
    rows.add("run_ended", 12, thread="t2", outcome="finished", **agent)
    rows.add("recovery_recorded", 10, thread="t3", lost=4.0, down=1.0, **took)
    rows.saved(11, thread="t3", **agent)
    rows.add("recovery_recorded", 10, thread="t4", kind="repair", restore=9.0)
    rows.add("run_ended", 11, outcome="failed", error="ThreadBusyError", attempts=0, **agent)  # no run began
    return rows


RECOVERIES = [
    {
        "kind": "takeover", "label_agent": "a", "recoveries": 3, "continued": 2, "finished": 1, "failed": 1,
        "success_rate": 0.5, "lost_p50": 4.0, "lost_max": 8.0, "work_lost": 5.0 + 2.0 + 3.0,
        "restore_p50": 0.5, "restore_p95": 1.5,
    },
    {
        "kind": "repair", "label_agent": None, "recoveries": 1, "continued": 0, "finished": 0, "failed": 0,
        "success_rate": None, "lost_p50": None, "lost_max": None, "work_lost": None,
        "restore_p50": 9.0, "restore_p95": 9.0,
    },
]  # fmt: skip


def storage():
    """One channel for each advice."""
    rows = Rows()
    for at in (0, 1):
        rows.value(at, "files", 2 << 20, 800_000, 1)
        rows.value(at, "plan", 600, 600_000, 1, thread="t2")
    rows.value(0, "messages", 1000, 200_000, 1)
    rows.value(1, "messages", 2000, 20_000, 2)
    rows.value(2, "messages", 3000, 180_000, 1)
    rows.value(0, "small", 10, 1, 1)
    rows.value(0, "once", 10, 400_000, 1)
    return rows


_GIB = 1 << 30
_TOTAL = 1_600_000 + 1_200_000 + 400_000 + 1 + 400_000
_OBJECT, _DOCUMENT = prices.OBJECT_PRICE / _GIB, prices.DOCUMENT_PRICE / _GIB
STORAGE = [
    {
        "namespace": "", "channel": channel, "label_agent": None, "stored_values": values, "whole_values": whole,
        "size_p50": size, "stored": stored, "share": stored / _TOTAL, "usd_per_month": usd, "repeated": repeated,
        "superseded": superseded, "advice": advice, "could_save": save,
    }
    for channel, values, whole, size, stored, usd, repeated, superseded, advice, save in (
        ("files", 2, 2, 2 << 20, 1_600_000, 1_600_000 * _OBJECT, 800_000, 800_000, "reference", 800_000),
        ("plan", 2, 2, 600, 1_200_000, 1_200_000 * _OBJECT, 600_000, 600_000, "untracked", 600_000),
        (
            "messages", 3, 2, 2000, 400_000, 380_000 * _OBJECT + 20_000 * _DOCUMENT, 180_000, 220_000, "retention",
            220_000,
        ),
        ("once", 1, 1, 10, 400_000, 400_000 * _OBJECT, 0, 0, "none", 0),
        ("small", 1, 1, 10, 1, _DOCUMENT, 0, 0, "none", 0),
    )
]  # fmt: skip


def failures():
    """Threads with intervals of 2 s, of 20 s and without one; a put fails, runs fail, and processes crash."""
    rows = Rows()
    for at in (0, 2, 4):
        rows.saved(at)
        rows.saved(at, namespace="search")
    rows.add("put_failed", 5, outcome="failed", call="put")
    rows.add("put_failed", 5, outcome="interrupted", call="put")
    rows.add("run_ended", 6, outcome="failed", attempts=1)
    rows.add("run_ended", 6, outcome="finished")
    for thread in ("t2", "t3"):
        for at in (0, 20):
            rows.saved(at, thread=thread, seconds=0.25)
    rows.add("recovery_recorded", 30, thread="t2", kind="takeover", lost=9.0, down=1.0)
    rows.add("recovery_recorded", 60, thread="t2", kind="takeover", lost=2.0)
    rows.add("recovery_recorded", 60, thread="t2", kind="repair")
    rows.add("recovery_recorded", 60, thread="t4", kind="takeover")
    rows.add("run_ended", 6, outcome="failed", error="ThreadBusyError", attempts=0)  # no run began
    return rows


FAILURES = [
    {
        "gap_from": begin, "label_agent": None, "threads": threads, "checkpoints": checkpoints, "worked": worked,
        "put_seconds": put, "put_failures": put_failures, "failed_runs": failed, "crashes": crashes,
        "work_lost": lost, "work_lost_max": most, "crashes_per_hour": hourly, "put_share": storing, "lost_share": share,
    }
    for begin, threads, checkpoints, worked, put, put_failures, failed, crashes, lost, most, hourly, storing, share in (
        (1.0, 1, 3, 4.0, 1.5, 1, 1, 0, None, None, 0.0, 1.5 / 4, 0.0),
        (10.0, 2, 4, 40.0, 1.0, 0, 0, 2, 10.0, 8.0, 2 * 3600 / 40, 1.0 / 40, 10.0 / 40),
        (None, 1, 0, None, None, 0, 0, 1, None, None, None, None, None),
    )
]  # fmt: skip

KNOWN = {
    "checkpoint_patterns": (patterns, PATTERNS),
    "recovery_outcomes": (recoveries, RECOVERIES),
    "storage_by_channel": (storage, STORAGE),
    "failures_by_interval": (failures, FAILURES),
}


def same(found, wanted):
    """Whether rows of a view are the same, in any order: the dialects add floats in different orders."""

    def key(row):
        return [
            str(value)
            for name, value in row.items()
            if name in ("namespace", "kind", "channel", "gap_from", "label_agent")
        ]

    found, wanted = sorted(found, key=key), sorted(wanted, key=key)
    assert [list(row) for row in found] == [list(row) for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        for name, value in one.items():
            exact = not isinstance(value, float) or other[name] is None
            assert value == other[name] if exact else math.isclose(value, other[name], rel_tol=1e-9), (name, one, other)
    return True


def with_duplicates(rows):
    """All rows, and more than 10 % of them again, in another order."""
    chosen = random.Random(1)
    mixed = [*rows, *chosen.sample(rows, 1 + len(rows) // 10), *chosen.sample(rows, 1 + len(rows) // 10)]
    chosen.shuffle(mixed)
    return mixed


@pytest.mark.parametrize("view", KNOWN)
def test_a_view_has_the_answers_that_were_computed_by_hand(view):
    make, wanted = KNOWN[view]
    assert same(report_of(make(), labels=["agent"]).views[view], wanted)


@pytest.fixture
def client(bigquery_emulator):
    options = ClientOptions(api_endpoint=bigquery_emulator.url)
    client = bigquery.Client("project", AnonymousCredentials(), client_options=options)
    yield client
    client.close()


@pytest.fixture
def in_bigquery(client, bigquery_emulator):
    """Asks the views of a fresh table in BigQuery, made by the statements that the library gives."""

    def ask(rows, labels):
        dataset = f"project.d{uuid.uuid4().hex}"
        client.create_dataset(dataset)
        table = f"{dataset}.rows"
        for statement in (analytics.ddl(table, labels, expiration_days=90), *analytics.views(table, labels)):
            client.query(statement).result()
        sink = analytics.BigQuery(table, endpoint=bigquery_emulator.grpc_host)
        sink._labels = tuple(labels)
        sink.write(rows)
        return {
            name: [dict(row) for row in client.query(f"SELECT * FROM `{dataset}.{name}`").result()]
            for name in QUESTIONS
        }

    return ask


def test_both_services_give_the_same_answers_whatever_is_delivered_twice(in_bigquery):
    rows = Rows()
    for number, (make, _) in enumerate(KNOWN.values()):
        for row in make():
            rows.append({**row, "event_id": f"{number}{row['event_id'][1:]}", "thread": f"{row['thread']}-{number}"})
    once = report_of(rows, labels=["agent"])
    twice = with_duplicates(rows)
    local, remote = report_of(twice, labels=["agent"]), in_bigquery(twice, ["agent"])
    assert local.duplicates == len(twice) - len(rows) > len(rows) / 10
    for view in QUESTIONS:
        assert len(once.views[view]) >= 2
        assert same(local.views[view], once.views[view])
        assert same(remote[view], once.views[view])


def test_a_streamed_row_comes_before_a_backfilled_one_and_a_row_that_stored_before_one_that_did_not():
    rows = Rows()
    rows.saved(0, size=5, inline_bytes=100, seconds=0.5)
    streamed = rows[0]
    backfilled = {name: streamed[name] for name in streamed if name not in ("seconds", "outcome", "attempts")}
    found = {**streamed, "outcome": "found", "inline_bytes": 0, "seconds": 0.1}
    for mixed in ([found, backfilled, streamed], [backfilled, streamed, found], [streamed, found, backfilled]):
        (row,) = report_of(mixed).views["checkpoint_patterns"]
        assert (row["checkpoints"], row["stored"], row["seconds_p50"]) == (1, 100, 0.5)
    (row,) = report_of([found, backfilled]).views["checkpoint_patterns"]
    assert row["stored"] == 100


def test_incremental_frames_are_advised_if_there_are_none():
    rows = Rows().value(0, "plan", 10, 100, 1).value(1, "plan", 10, 100, 1)
    (row,) = report_of(rows).views["storage_by_channel"]
    assert (row["advice"], row["could_save"]) == ("incremental", 100)


def test_each_class_of_intervals_has_its_threads():
    rows = Rows()
    gaps = [0.05, 0.1, 5.0, 10.0, 59.0, 600.0, 7000.0]
    for number, gap in enumerate(gaps):
        rows.saved(0, thread=f"t{number}").saved(gap, thread=f"t{number}")
    found = {row["gap_from"]: row["threads"] for row in report_of(rows).views["failures_by_interval"]}
    assert found == {0.0: 1, 0.1: 1, 1.0: 1, 10.0: 2, 600.0: 2}
    assert set(found) < set(BUCKETS)


def test_every_column_is_described_in_its_order():
    found = report_of([row for make, _ in KNOWN.values() for row in make()], labels=["agent"])
    for view, rows in found.views.items():
        assert [name for name in rows[0] if not name.startswith(LABEL)] == list(COLUMNS[view])


def test_labels_group_and_may_be_left_out():
    rows = patterns()
    assert report_of(rows).labels == ("agent",)
    merged = report_of(rows, labels=[]).views["checkpoint_patterns"]
    assert {row["namespace"]: row["checkpoints"] for row in merged} == {"": 7, "search": 1}


def test_without_rows_there_are_no_answers():
    found = report_of([])
    assert not any(found.views.values())
    assert (found.rows, found.first, found.last, found.events) == (0, None, None, {})


def test_the_table_has_the_columns_of_rows(client):
    client.create_dataset(dataset := f"project.d{uuid.uuid4().hex}")
    client.query(analytics.ddl(f"{dataset}.rows", ["agent", "app"])).result()
    found = client.get_table(f"{dataset}.rows")
    names = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}
    assert [(one.name, names.get(one.field_type, one.field_type), one.mode == "REQUIRED") for one in found.schema] == [
        (one.name, one.type, one.is_required) for one in columns(["agent", "app"])
    ]
    client.query(analytics.ddl(f"{dataset}.rows", ["agent", "app"])).result()  # Again: it is there.


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: analytics.ddl("a.b.c` (x INT64); DROP TABLE `d"), "table"),
        (lambda: analytics.ddl("c"), "table"),
        (lambda: analytics.ddl("a.b", ["x y"]), "label"),
        (lambda: analytics.ddl("a.b", ["x", "X"]), "same column"),
        (lambda: analytics.ddl("a.b", expiration_days=0), "expiration_days"),
        (lambda: analytics.views("a.b", dataset="a b"), "dataset"),
        (lambda: analytics.views("a.b", ["x;"]), "label"),
        (lambda: report_of([], labels=["x'"]), "label"),
    ],
)
def test_names_cannot_end_a_statement(make, named):
    with pytest.raises(InvalidOptionError, match=named):
        make()


def test_descriptions_are_quoted():
    from langgraph_gcs_saver.analytics.tables import _text

    assert json.loads(_text('a "quoted" \\ b')) == 'a "quoted" \\ b'


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.5, "Storing took 25 % of the time; 0 crashes repeated 0 % of the work"),
        (3.0, "Beside the work, storing took 1.5 times as long; 0 crashes repeated 0 % of the work"),
        (None, "The time for storing is not known; 0 crashes repeated 0 % of the work"),
    ],
)
def test_a_finding_says_what_storing_took(seconds, said):
    rows = Rows().saved(0, seconds=seconds).saved(4, seconds=seconds)
    assert finding(report_of(rows), "failures_by_interval") == said
