"""Rows: which events make them, what is in them, and what names them."""

from __future__ import annotations

import dataclasses
import inspect
import json
from datetime import datetime, timezone
from itertools import count
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_gcs_saver import events
from langgraph_gcs_saver.analytics import rows, thread_digest
from langgraph_gcs_saver.events import CheckpointSaved, RecoveryRecorded, ValueStored, WritesSaved

KEY = b"k" * 32

LEFT_OUT = {
    "Retried",  # names no thread
    "ClearTextAccepted",
    "ClearTextEncrypted",
    "ThreadSkipped",
    "RowsDropped",  # would be dropped, too
    "ChannelHeavy",  # sums up rows `value_stored`
}
"""Events that make no rows; docs/reference/analytics.md says so."""

BASES = {"Event", "CallEnded"}

VALUES = (ValueStored("v", 10, 5, 1), ValueStored("w", 20, 6, 2))


def classes() -> list[type[events.Event]]:
    return [
        found
        for _, found in inspect.getmembers(events, inspect.isclass)
        if issubclass(found, events.Event) and found.__name__ not in BASES
    ]


def example(kind: type[events.Event], **fields: Any) -> Any:
    """An event with a value in each field, by the type of the field."""
    plain = {"str": "text", "int": 3, "float": 1.5, "bool": True}
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        name = str(field.type).partition(" |")[0]
        found[field.name] = plain.get(name, "text" if name.startswith(("Literal", "Outcome", "RunOutcome")) else None)
    found |= {"source": "loop"} if "source" in found else {}
    found |= {"labels": {"agent": "a"}} if "labels" in found else {}
    found |= {"values": VALUES} if "values" in found else {}
    found |= {"ran_again": ("node", "Knoten")} if "ran_again" in found else {}
    return kind(**{**found, **fields})


def make(event: events.Event, **options: Any) -> list[rows.Row]:
    numbers = count()
    digest = thread_digest(event.thread_id, KEY)
    return rows.make(event, digest, 1_700_000_000_000_000, lambda: f"{next(numbers)}", **options)


def test_every_event_makes_rows_or_is_known_to_make_none():
    assert {kind.event.__name__ for kind in rows.KINDS} - {"ValueStored"} == {
        kind.__name__ for kind in classes()
    } - LEFT_OUT


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_rows_have_columns_that_are_known_and_fit(kind):
    event = example(kind, thread_id="a thread")
    found = make(event)
    assert len(found) == rows.count(event) == (0 if kind.__name__ in LEFT_OUT else 3 if kind is CheckpointSaved else 1)
    types = {"INT64": int, "FLOAT64": float, "STRING": str, "BOOL": bool, "TIMESTAMP": int}
    columns = {column.name: column for column in rows.columns(["agent"])}
    for row in found:
        assert row.keys() >= set(rows.REQUIRED)
        for name, value in row.items():
            assert type(value) is types[columns[name].type]
            assert row["event"] in columns[name].events
        whole = {name for name, column in columns.items() if row["event"] in column.events}
        assert row.keys() == whole
        assert "a thread" not in rows.as_json(row)
        assert json.loads(rows.as_json(row))["time"] == datetime.fromtimestamp(
            row["time"] / 1e6, timezone.utc
        ).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_value_that_is_null_is_left_out():
    row = make(example(CheckpointSaved, parent_id=None, step=None, source="", lag=None, checkpoint_ns=""))[0]
    assert row["namespace"] == ""
    assert not row.keys() & {"parent_id", "step", "source", "lag"}


@pytest.mark.parametrize(("source", "shown"), [("loop", "loop"), ("text of an application", None)])
def test_only_sources_of_langgraph_are_shown(source, shown):
    assert {row.get("source") for row in make(example(events.CheckpointSaved, source=source))} == {shown}


def test_what_does_not_fit_is_made_to_fit():
    event = example(
        CheckpointSaved, step=10**30, lag=float("inf"), labels={"agent": "\ud800"}, run_id="\ud800", thread_id="\ud800"
    )
    row = make(event)[0]
    assert not row.keys() & {"step", "lag"}
    assert (row["label_agent"], row["run_id"]) == ("?", "?")


@pytest.mark.parametrize("kind", [CheckpointSaved, WritesSaved, RecoveryRecorded])
def test_what_the_backfill_computes_has_the_same_ids(kind):
    event = example(kind)
    streamed, backfilled = make(event), make(event, backfilled=True)
    assert [row["event_id"] for row in streamed] == [row["event_id"] for row in make(event)]
    unknown = {(event, column.name) for column in rows.columns(["agent"]) for event in column.unknown}
    assert backfilled == [
        {name: value for name, value in row.items() if (row["event"], name) not in unknown} for row in streamed
    ]


def test_ids_differ_if_anything_that_names_the_event_does():
    base = example(CheckpointSaved)
    others = [
        {"thread_id": "other"},
        {"checkpoint_ns": "other:1"},
        {"checkpoint_ns": "other:2"},  # the same namespace in rows
        {"checkpoint_id": "other"},
        {"values": (ValueStored("x", 1, 1, 1),)},
    ]
    events_ = [base, *[example(CheckpointSaved, **fields) for fields in others]]
    ids = {row["event_id"] for event in events_ for row in make(event)}
    assert len(ids) == 3 * 5 + 1  # the last one differs in the row of its value only
    writes = {make(example(WritesSaved, task_id=task, which=which))[0]["event_id"] for task in "ab" for which in "cs"}
    assert len(writes) == 4
    assert not ids & writes


def test_times_are_those_of_langgraphs_ids():
    checkpoint = empty_checkpoint()
    made = rows.made_at(checkpoint["id"])
    assert made is not None
    assert abs(made / 1e6 - datetime.fromisoformat(checkpoint["ts"]).timestamp()) < 60
    row = make(example(CheckpointSaved, checkpoint_id=checkpoint["id"]))[0]
    assert row["time"] == made
    assert make(example(CheckpointSaved))[0]["time"] == 1_700_000_000_000_000
    assert rows.made_at("not an id") is None
    assert make(example(RecoveryRecorded, time=1.5))[0]["time"] == 1_500_000


def test_a_digest_needs_the_key():
    assert thread_digest("t", b"0123456789abcdef") == thread_digest("t", "0123456789abcdef")
    assert len({thread_digest(thread, key) for thread in "tu" for key in ("1" * 16, "2" * 16)}) == 4
