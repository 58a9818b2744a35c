"""The sinks of Google's services: on emulators, and on services that fail, repeat or never answer."""

from __future__ import annotations

import io
import json
import sys
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1.types import AppendRowsRequest, AppendRowsResponse
from google.cloud.logging_v2.types import WriteLogEntriesRequest, WriteLogEntriesResponse
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.rpc.status_pb2 import Status

from langgraph_gcs_saver import GCSSaver, analytics
from langgraph_gcs_saver.analytics.base import RowSink
from langgraph_gcs_saver.analytics.rows import columns
from langgraph_gcs_saver.errors import GCSSaverError, InvalidOptionError, NotInstalledError
from tests.analytics.seen import SECRET, THREAD, Counted, work
from tests.analytics.servers import Gate, serving, silent
from tests.emulators.bigquery import BigQueryEmulator
from tests.emulators.pubsub import PubSubEmulator
from tests.patience import PATIENCE, eventually

TABLE = "project.dataset.rows"
TOPIC = "projects/project/topics/rows"


@pytest.fixture
def saver():
    with GCSSaver.from_conn_string("memory:", labels=("agent",)) as saver:
        yield saver


@pytest.fixture
def counted(saver):
    counted = Counted()
    saver.subscribe(counted)
    return counted


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate(AppendRowsResponse(append_result={}))
    yield gate
    gate.opened.set()


@pytest.fixture
def write_api(gate: Gate) -> Iterator[str]:
    """A Storage Write API that does as `gate` says."""
    service = "google.cloud.bigquery.storage.v1.BigQueryWrite"
    with serving(service, "AppendRows", AppendRowsRequest, AppendRowsResponse, gate, streams=True) as endpoint:
        yield endpoint


def test_bigquery(saver, counted, bigquery_emulator: BigQueryEmulator):
    client = bigquery.Client(
        project="project",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": bigquery_emulator.url},
    )
    dataset = f"d{uuid.uuid4().hex}"
    client.create_dataset(dataset)
    table = f"project.{dataset}.rows"
    fields = [
        bigquery.SchemaField(column.name, column.type, "REQUIRED" if column.is_required else "NULLABLE")
        for column in columns(["agent"])
    ]
    client.create_table(bigquery.Table(table, schema=fields))
    sink, beside = analytics.BigQuery(table, endpoint=bigquery_emulator.grpc_host), Recorded()
    for one in (sink, beside):
        saver.subscribe(one)
    work(saver, 1, 6)
    for one in (sink, beside):
        assert one.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (counted.rows, 0)
    found = [
        {name: value for name, value in row.items() if value is not None}
        for row in client.query(f"SELECT * FROM `{table}`").result()
    ]
    for row in found:
        row["time"] = round(row["time"].timestamp() * 1e6)
    assert len(found) == counted.rows
    assert _known(found) == _known(beside.rows)
    client.close()


def _known(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by their ids, without an event that only the process knows, whose rows have other ids in each sink."""
    return {row["event_id"]: row for row in found if row["event"] != "checkpoint_loaded"}


class Recorded(RowSink[dict[str, Any]]):
    """Keeps the rows of the same events."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rows: list[dict[str, Any]] = []

    def encode(self, row: dict[str, Any]) -> dict[str, Any]:
        return row

    def size(self, _: object) -> int:
        return 1

    def send(self, batch: Any) -> None:
        self.rows += batch


def test_bigquery_sends_again_what_was_not_answered(saver, counted, gate, write_api):
    sink = analytics.BigQuery(TABLE, endpoint=write_api, batch=2)
    saver.subscribe(sink)
    gate.statuses = [grpc.StatusCode.UNAVAILABLE]
    work(saver, 1, 4)
    assert sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (counted.rows, 0)
    sent = [row for request in gate.requests for row in request.proto_rows.rows.serialized_rows]
    assert len(sent) == counted.rows + 2  # twice, with the same ids
    assert len(set(sent)) == counted.rows
    assert {request.write_stream for request in gate.requests} == {
        "projects/project/datasets/dataset/tables/rows/streams/_default"
    }
    whole = b"".join(sent)
    assert THREAD.encode() not in whole
    assert SECRET.encode() not in whole


@pytest.mark.parametrize("is_in_answer", [False, True])
def test_a_table_without_the_columns_is_reported_once(saver, gate, write_api, caplog, is_in_answer):
    counted = Counted()
    saver.subscribe(counted)
    sink = analytics.BigQuery(TABLE, endpoint=write_api)
    saver.subscribe(sink)
    if is_in_answer:
        gate.answer = AppendRowsResponse(error=Status(code=3, message="extra field lag"))
    else:
        gate.statuses = [grpc.StatusCode.INVALID_ARGUMENT] * 100
    for n in (1, 2):
        work(saver, n, n + 1)
        assert not sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (0, counted.rows)
    found = [record.getMessage() for record in caplog.records if "does not have the columns" in record.getMessage()]
    assert len(found) == 1
    assert "table-mismatch" in found[0]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, "store-not-found"),
        (grpc.StatusCode.PERMISSION_DENIED, "permission-denied"),
        (grpc.StatusCode.UNIMPLEMENTED, "unavailable"),
        (grpc.StatusCode.OUT_OF_RANGE, "store"),
    ],
)
def test_errors_say_what_to_do(gate, write_api, status, kind):
    gate.statuses = [status]
    with pytest.raises(GCSSaverError) as caught:
        analytics.BigQuery(TABLE, endpoint=write_api).send([b""])
    assert caught.value.kind == kind


SINKS = {
    "bigquery": partial(analytics.BigQuery, TABLE),
    "pubsub": partial(analytics.PubSub, TOPIC),
    "logging": partial(analytics.Logging, project="project"),
}


@pytest.mark.parametrize("name", SINKS)
def test_a_service_that_never_answers(saver, counted, name):
    with silent() as endpoint:
        sink = SINKS[name](endpoint=endpoint, queue=50)
        saver.subscribe(sink)
        work(saver, 1, 40)
        assert not sink.flush(0.01)
        sink.close(0.01)
        assert (sink.written, sink.dropped) == (0, counted.rows)
        assert saver.get_tuple({"configurable": {"thread_id": THREAD}}) is not None


@pytest.mark.parametrize("name", SINKS)
def test_a_service_that_is_not_there(saver, counted, name):
    with silent() as endpoint:
        pass  # nothing listens there any more
    sink = SINKS[name](endpoint=endpoint, retry=0, seconds=0)
    saver.subscribe(sink)
    work(saver, 1, 10)
    assert not sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (0, counted.rows)


def test_a_service_that_hangs_and_then_answers(saver, counted, gate, write_api):
    sink = analytics.BigQuery(TABLE, endpoint=write_api, seconds=0)
    saver.subscribe(sink)
    gate.opened.clear()
    work(saver, 1, 2)
    eventually(lambda: gate.requests)
    work(saver, 2, 20)  # while the service hangs
    assert sink.written == 0
    gate.opened.set()
    assert sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (counted.rows, 0)


def test_pubsub(saver, counted, pubsub_emulator: PubSubEmulator, monkeypatch):
    topic = f"projects/project/topics/t{uuid.uuid4().hex}"
    subscription = topic.replace("topics", "subscriptions")
    with grpc.insecure_channel(pubsub_emulator.host) as channel:
        PublisherClient(transport=PublisherGrpcTransport(channel=channel)).create_topic(name=topic)
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        subscriber.create_subscription(name=subscription, topic=topic)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_emulator.host)
        sink = analytics.PubSub(topic)
        saver.subscribe(sink)
        work(saver, 1, 6)
        assert sink.flush(PATIENCE)
        assert (sink.written, sink.dropped) == (counted.rows, 0)
        messages: dict[str, Any] = {}
        while len(messages) < counted.rows:
            for one in subscriber.pull(subscription=subscription, max_messages=100).received_messages:
                messages[one.message.message_id] = one.message
    for message in messages.values():
        row = json.loads(message.data)
        assert dict(message.attributes) == {"schema": "1", "event": row["event"], "event_id": row["event_id"]}
        assert THREAD.encode() not in message.data
        assert SECRET.encode() not in message.data
    assert len({message.attributes["event_id"] for message in messages.values()}) == counted.rows


def test_logging(saver, counted):
    gate = Gate(WriteLogEntriesResponse())
    service = "google.logging.v2.LoggingServiceV2"
    with serving(
        service, "WriteLogEntries", WriteLogEntriesRequest, WriteLogEntriesResponse, gate, streams=False
    ) as endpoint:
        sink = analytics.Logging(project="project", endpoint=endpoint)
        saver.subscribe(sink)
        work(saver, 1, 6)
        assert sink.flush(PATIENCE)
    assert (sink.written, sink.dropped) == (counted.rows, 0)
    assert {request.log_name for request in gate.requests} == {"projects/project/logs/langgraph-gcs"}
    entries = [entry for request in gate.requests for entry in request.entries]
    assert len(entries) == counted.rows
    for entry in entries:
        assert entry.json_payload["event_id"] == entry.insert_id
        assert entry.json_payload["time"] == entry.timestamp.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    whole = b"".join(WriteLogEntriesRequest.serialize(request) for request in gate.requests)
    assert THREAD.encode() not in whole
    assert SECRET.encode() not in whole


def test_logging_to_a_stream(saver, counted):
    stream = io.StringIO()
    sink = analytics.Logging(stream=stream)
    saver.subscribe(sink)
    work(saver, 1, 6)
    assert sink.flush(PATIENCE)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(found) == sink.written == counted.rows
    assert {row["severity"] for row in found} == {"INFO"}
    assert all(row["logging.googleapis.com/insertId"] == row["event_id"] for row in found)


@pytest.mark.parametrize(
    ("extra", "package", "make"),
    [
        ("bigquery", "google.cloud.bigquery_storage_v1", partial(analytics.BigQuery, TABLE)),
        ("pubsub", "google.pubsub_v1", partial(analytics.PubSub, TOPIC)),
        ("logging", "google.cloud.logging_v2.types", partial(analytics.Logging, project="project")),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, extra, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotInstalledError, match=rf"langgraph-gcs-saver\[{extra}\]"):
        make()


@pytest.mark.parametrize(
    "make",
    [
        partial(analytics.BigQuery, "rows"),
        partial(analytics.PubSub, "rows"),
        partial(analytics.Logging, "a/b", project="project"),
    ],
)
def test_names_are_checked(make):
    with pytest.raises(InvalidOptionError):
        make()
