"""Metrics and spans of real runs: each metric by a real cause, and no id of a thread in any of them."""

import asyncio
import copy
import gc
import gzip
import os
import re
import subprocess
import sys
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import NoOpTracerProvider, StatusCode

from langgraph_gcs_saver import GCSSaver, compensation, events, run, telemetry
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.engine.effects import Commit, QueryDocs
from langgraph_gcs_saver.stores.memory import MemoryBlobs, MemoryDocuments
from langgraph_gcs_saver.telemetry import instrumentation
from langgraph_gcs_saver.telemetry.instruments import instruments_of
from langgraph_gcs_saver.telemetry.metrics import LEASE_IDLE, LEASES_HELD, METRICS
from langgraph_gcs_saver.telemetry.phases import PHASES
from langgraph_gcs_saver.telemetry.spans import CONVERSATION, FIELDS
from tests.behaviour.test_leases import config_of, put
from tests.behaviour.test_objectives import SLOW, SOON, rates
from tests.behaviour.test_recoveries import damage
from tests.behaviour.test_work import INPUT, World, crash, fail
from tests.kit.telemetry import Exported
from tests.patience import PATIENCE, eventually
from tests.system.test_events import Fault, Overloaded
from tests.system.test_once import Misreads, take

THREAD = "a-thread-id-that-nothing-exports"
CONFIG = {"configurable": {"thread_id": THREAD}, "metadata": {"agent": "billing"}}
AGENT = {"label.agent": "billing"}
UNDO = "undo for test_telemetry"

both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@pytest.fixture
def exported():
    return Exported()


@pytest.fixture
def stores():
    return MemoryDocuments(), MemoryBlobs()


@pytest.fixture
def saver(stores):
    with GCSSaver(stores=stores, labels=["agent"]) as saver:
        yield saver


def invoke(graph, is_async=False, config=CONFIG):
    return asyncio.run(graph.ainvoke(INPUT, config)) if is_async else graph.invoke(INPUT, config)


# Each metric, by what causes it


@compensation(UNDO)
def undo(request, result, key):
    """Undo a step that did nothing."""


@pytest.fixture
def world():
    return World()


class Causes:
    """What makes each metric grow: a method for each, or for a few together, that returns the expected values."""

    def __init__(self, exported, tmp_path, monkeypatch):
        self.exported, self.path, self.monkeypatch = exported, tmp_path / "store", monkeypatch
        self.world = World()

    @contextmanager
    def saver(self, **options):
        uri = f"file://{self.path}"
        with GCSSaver.from_conn_string(uri, labels=["agent"], **options) as saver, self.exported.instrument(saver):
            yield saver

    def calls(self):
        with self.saver() as saver:
            graph = self.world.graph(saver)
            invoke(graph)
            list(graph.get_state_history(CONFIG))
        graph_of = {"namespace": "", **AGENT}
        found = {name: dict_of(self.exported.points(name)) for name in self.exported.metrics()}
        stored = {"call": "put", "outcome": "stored", **graph_of}
        assert found["put.duration"].keys() == {frozen(stored), frozen({**stored, "call": "put_writes"})}
        assert found["put.duration"][frozen(stored)][0] == 5, "the input, and a checkpoint before and after each node"
        assert found["put.lag"].keys() == {frozen(graph_of)}
        assert all(number > 0 for _, number in found["put.logical"].values())
        assert found["put.stored"].keys() == found["put.logical"].keys()
        assert frozen({"call": "get_tuple", "outcome": "none", **graph_of}) in found["get.duration"]
        assert frozen({"call": "list", "namespace": "", **AGENT}) in found["get.fetched"]
        assert found["threads.started"] == {frozen(AGENT): 1}
        assert found["requests"][frozen({"service": "firestore", "method": "Commit"})] >= 5
        assert 0 < found["cost.estimated"][frozen({"service": "firestore"})] < 0.001

    def errors(self):
        fault = Fault()
        with self.saver(interceptors=[fault]) as saver:
            graph = self.world.graph(saver)
            for error in (e.StoreUnavailableError("a message"), ValueError("a message")):
                fault.set(error, Commit)
                with pytest.raises(type(error)):
                    invoke(graph)
            fault.set(KeyboardInterrupt(), Commit)
            with pytest.raises(KeyboardInterrupt):
                put(saver, CONFIG)
        assert self.exported.value("put.duration", call="put", outcome="interrupted")[0] == 1
        assert {had["error.type"] for had, _ in self.exported.points("errors")} == {"unavailable", "ValueError"}
        assert all(had.items() >= AGENT.items() for had, _ in self.exported.points("errors"))

    def verify_failures(self):
        with self.saver(interceptors=[Misreads()], zstd_level=None) as saver:
            saver.thread(THREAD).operations.once("charge", lambda: "x" * (1 << 20), key="k")
        assert self.exported.value("verify.failures") == 1

    def damage(self):
        with GCSSaver.from_conn_string(f"file://{self.path}") as saver:
            run(self.world.graph(saver), INPUT, CONFIG)
        damage(self.path)
        with self.saver() as saver:
            assert "recovered_from" in saver.get_tuple(CONFIG).metadata
            findings = list(saver.admin.verify(THREAD, depth="data"))
            eventually(lambda: self.exported.points("recoveries"))
        assert self.exported.value("damaged") == 1
        assert self.exported.value("findings") == len(findings) > 0
        assert self.exported.points("recoveries") == [({"kind": "fallback", **AGENT}, 1)]

    def takeover(self):
        with self.saver() as saver:
            graph = self.world.graph(saver)
            self.world.failing = {"b"}
            with pytest.raises(Exception, match="b"):
                run(graph, INPUT, CONFIG, durability="sync")
            self.world.failing = set()
            crash(saver, THREAD)
            run(graph, INPUT, CONFIG)
            eventually(lambda: self.exported.points("recoveries"))
        assert self.exported.value("takeovers", expired="true") == 1
        for name in ("recovery.lost", "recovery.restore"):
            ((had, (count, seconds)),) = self.exported.points(name)
            assert (had, count) == ({"kind": "takeover", **AGENT}, 1)
            assert seconds >= 0
        assert self.exported.value("runs.ended", outcome="failed", resumed="false") == 1
        assert self.exported.value("runs.ended", outcome="finished", resumed="true") == 1
        assert {had["outcome"] for had, _ in self.exported.points("run.duration")} == {"failed", "finished"}

    def restores_slow(self):
        self.monkeypatch.setattr(rates, "ROUND_SECONDS", 0.01)  # so that the objective can be met
        with self.saver(objective=SOON, full_every=1, interceptors=[SLOW]) as saver:
            invoke(self.world.graph(saver))
            saver.get_tuple(CONFIG)
        assert self.exported.value("restores.slow", estimated="false") >= 1

    def forks(self):
        with self.saver() as saver:
            graph = self.world.graph(saver)
            invoke(graph)
            *_, first, _ = graph.get_state_history(CONFIG)
            graph.update_state(first.config, {"log": ["other"]}, as_node="a")
        assert self.exported.value("forks") == 1

    def leases(self):
        with self.saver() as saver, GCSSaver.from_conn_string(f"file://{self.path}") as other:
            with saver.thread(THREAD).lease() as lease:
                assert self.exported.value("leases.held") == 1
                idle = self.exported.value("lease.idle")
                assert self.exported.value("lease.idle") > idle > 0
                with other.thread(THREAD).lease(take_over=True), pytest.raises(e.FencedError):
                    put(saver, config_of(lease))
                assert self.exported.value("leases.held") == self.exported.value("lease.idle") == 0
            with saver.thread(THREAD).lease(), saver.thread(THREAD).lease(take_over=True):
                pass
        assert self.exported.value("fenced", call="put") == 1
        assert self.exported.value("fenced", call="lease") == 2
        assert self.exported.value("takeovers", expired="false") == 1

    def operations(self):
        with self.saver() as saver:
            doing = saver.thread("thread-1").operations

            def late():
                take(saver)
                doing.resolve("late", result="by hand")
                return "late"

            take(saver)
            assert doing.once("charge", late, key="late") == "by hand"
            assert [doing.once("charge", lambda: 1, key="k") for _ in range(2)] == [1, 1]
        assert self.exported.value("operations.late") == 1
        assert self.exported.value("operations", state="done", recorded="false") == 1
        assert self.exported.value("operations", state="done", recorded="true") == 2

    def sagas(self):
        with self.saver() as saver:
            put(saver, CONFIG)
            thread = saver.thread(THREAD)
            with thread.saga("a saga") as saga:
                saga.once("book", lambda: 1, undo=UNDO)
                saga.savepoint("a savepoint")
                saga.once("pay", lambda: 2, undo=UNDO)
            saga.rollback("a savepoint")
            saga.rollback()
            stuck = thread.saga("stuck")
            stuck.once("mail", lambda: 3, irreversible=True)
            with pytest.raises(e.SagaStuckError):
                stuck.rollback()
        assert dict_of(self.exported.points("sagas")) == {
            frozen({"state": state}): 1 for state in ("done", "running", "compensated", "stuck")
        }
        assert self.exported.points("compensations") == [({"state": "done"}, 2)]
        assert self.exported.value("recoveries", kind="rollback") == 1

    def sets(self):
        with self.saver() as saver:
            team = saver.team(THREAD, ["a member"])
            put(saver, {"configurable": {"thread_id": team.member("a member").id}})
            saved = team.checkpoint()
            with pytest.raises(e.SetAbortedError):
                # It has no checkpoint.
                team.checkpoint(timeout=1, members=["another member"])  # clock: the time passes in any case
            team.restore(saved, dry_run=True)
            assert self.exported.points("set.restores") == []
            team.restore(saved)
        assert self.exported.points("set.restores") == [({}, 1)]
        assert self.exported.value("sets", state="committed") == self.exported.value("sets", state="aborted") == 1
        assert self.exported.value("set.duration", state="committed")[0] == 1
        assert self.exported.value("set.duration", state="aborted")[1] >= 1
        assert self.exported.value("recoveries", kind="restore") == 1

    def retries(self):
        server = grpc.server(ThreadPoolExecutor(2), handlers=[Overloaded()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{port}")
        self.monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
        try:
            saver = GCSSaver.from_conn_string("gs://bucket?project=p", timeout=1)  # clock: it is refused all the time
            with saver, self.exported.instrument(saver), pytest.raises(e.StoreUnavailableError):
                saver.get_tuple(CONFIG)
        finally:
            server.stop(None).wait()
        assert self.exported.value("request.retries", service="firestore", reason="RESOURCE_EXHAUSTED") >= 1

    def analytics(self):
        with self.saver() as saver:
            saver._subscribers.emit(events.RowsDropped(sink="Jsonl", rows=7, reason="The queue is full."))
        assert self.exported.value("analytics.dropped", sink="Jsonl") == 7

    def regions(self):
        fault = Fault()
        with self.saver() as saver, GCSSaver.from_conn_string(f"file://{self.path}-replica") as replica:
            replica._backend.intercept(fault)
            saver.admin.replicate(replica)
            assert self.exported.points("replication.lag") == []
            self.world.failing = {"b"}
            fail(self.world.graph(saver), THREAD)
            looks = iter(saver.admin.follow(replica, every=0.01))
            shipped = next(looks)
            behind = self.exported.value("replication.lag")
            assert 0 < behind < self.exported.value("replication.lag"), "it grows until the mark moves"
            fault.set(e.StoreUnavailableError("a message"), Commit)
            saver.subscribe(lambda event: fault.set(None) if isinstance(event, events.ReplicationFailed) else None)
            next(looks)
            saver._subscribers.emit(events.ForkMerged(thread_id=THREAD, parent_id="1", sibling_id="2"))
            saver._subscribers.emit(events.ReadFromMirror(name="an object", reason="missing"))
        assert self.exported.value("roles.changed", role="primary", cause="replicate") == 1
        assert self.exported.value("replication.entries") == shipped.entries > 0
        assert self.exported.value("replication.shipped") == shipped.bytes > 0
        assert self.exported.value("replication.failures", **{"error.type": "unavailable"}) == 1
        assert self.exported.value("forks") == 1
        assert self.exported.value("mirror.reads", reason="missing") == 1

    def watch(self):
        with GCSSaver.from_conn_string(f"file://{self.path}") as saver:
            graph = self.world.graph(saver)
            self.world.failing = {"b"}
            fail(graph, THREAD)
            crash(saver, THREAD)
            with saver.thread("held").lease(), self.exported.instrument(saver, watch_store=timedelta(seconds=0.05)):
                eventually(lambda: self.exported.points("runs"))
                assert dict_of(self.exported.points("leases")) == {
                    frozen({"state": "held"}): 1,
                    frozen({"state": "expired"}): 1,
                }
                states = {had["state"]: value for had, value in self.exported.points("runs")}
                assert states == {"crashed": 1} | dict.fromkeys(("running", "waiting", "paused", "due", "poison"), 0)
                saver.admin.delete_thread(THREAD, force=True)
                eventually(lambda: self.exported.value("runs", state="crashed") == 0)
            assert self.exported.points("runs") == []


def frozen(attributes):
    return frozenset(attributes.items())


def dict_of(points):
    return {frozen(had): value for had, value in points}


CAUSES = {
    "calls": "put.duration put.lag put.stored put.logical get.duration get.fetched threads.started requests "
    "cost.estimated",
    "errors": "errors",
    "verify_failures": "verify.failures",
    "damage": "damaged findings recoveries",
    "takeover": "recovery.lost recovery.restore takeovers runs.ended run.duration",
    "restores_slow": "restores.slow",
    "forks": "forks",
    "leases": "leases.held lease.idle fenced takeovers",
    "operations": "operations operations.late",
    "sagas": "sagas compensations recoveries",
    "sets": "sets set.duration set.restores recoveries",
    "retries": "request.retries",
    "analytics": "analytics.dropped",
    "regions": "mirror.reads replication.lag replication.entries replication.shipped replication.failures "
    "roles.changed forks",
    "watch": "leases runs",
}


def test_each_metric_has_a_cause():
    assert {name for names in CAUSES.values() for name in names.split()} == {metric.name for metric in METRICS}


@pytest.mark.parametrize("cause", CAUSES)
def test_what_causes_a_metric(exported, tmp_path, monkeypatch, cause):
    getattr(Causes(exported, tmp_path, monkeypatch), cause)()
    found, known = exported.metrics(), {metric.name: metric for metric in METRICS}
    gauges = {metric.name for metric in METRICS if metric.kind == "gauge"}  # which ended with the measuring
    assert set(CAUSES[cause].split()) - gauges <= found.keys() <= known.keys()
    for name, metric in found.items():
        assert (metric.unit, metric.description) == (known[name].unit, known[name].help)
        for had, _ in exported.points(name):
            allowed = {*known[name].attributes, *(AGENT if known[name].labels else ())}
            assert set(had) <= allowed, name
    assert THREAD not in exported.text()


# Spans


@both
def test_a_span_for_each_call(make_saver, exported, is_async):
    """On the emulators with an object, so with `Gather`, and in the main thread, which leaves requests to others."""
    saver = make_saver(inline_max_bytes=0)
    graph = World().graph(saver)
    with exported.instrument(saver), exported.tracers.get_tracer("a test").start_as_current_span("mine") as mine:
        invoke(graph, is_async)
        if is_async:
            asyncio.run(listed(saver))
        else:
            list(saver.list(CONFIG))
            saver.get_delta_channel_history(config=CONFIG, channels=["log"])
    names = Counter(name for name, _ in exported.spans)
    assert names.keys() >= {"put", "put_writes", "get_tuple", "list", "get_delta_channel_history"}
    assert names["put"] == 5
    ids = {one.config["configurable"]["checkpoint_id"] for one in saver.list(CONFIG)}
    for name, span in exported.spans:
        if name == "mine":
            continue
        assert span.parent.span_id == mine.get_span_context().span_id
        assert span.status.status_code is StatusCode.UNSET
        had = {key.removeprefix("langgraph_gcs.") for key in span.attributes}
        assert had <= set(FIELDS)
        phases = [one.name for one in span.events]
        assert set(phases) <= PHASES.keys()
        assert span.start_time <= span.events[0].timestamp <= span.events[-1].timestamp <= span.end_time
        if name == "put":
            assert span.attributes["langgraph_gcs.checkpoint_id"] in ids
            assert span.attributes["langgraph_gcs.objects"] >= 1
            assert phases[:2] == ["serialize", "compress"]
            assert phases[-3:] == ["upload", "commit", "read back"], "earlier ones are of a repeated try"
        elif name in ("get_tuple", "list", "get_delta_channel_history"):
            assert set(phases) <= {"fetch", "decode"}
    assert THREAD not in exported.text()


async def listed(saver):
    assert [one async for one in saver.alist(CONFIG)]
    await saver.aget_delta_channel_history(config=CONFIG, channels=["log"])


async def test_calls_at_the_same_time_have_their_own_phases(saver, exported):
    """Tasks that were started by a task which has made a call inherit its context."""
    with exported.instrument(saver):
        await saver.aget_tuple(CONFIG)
        graph = World().graph(saver)
        exported.exporter.clear()
        await asyncio.gather(*(graph.ainvoke(INPUT, {"configurable": {"thread_id": str(n)}}) for n in range(8)))
    puts = [span for name, span in exported.spans if name == "put"]
    assert len(puts) == 8 * 5
    for span in puts:
        assert [one.name for one in span.events].count("commit") == 1
        assert span.events[0].name == "serialize"


@both
def test_failures_of_spans_have_no_messages(saver, exported, is_async):
    fault = Fault()
    saver._backend.intercept(fault)
    graph = World().graph(saver)
    with exported.instrument(saver):
        for error in (ValueError(f"the state of {THREAD}"), e.StoreUnavailableError(f"thread {THREAD}")):
            fault.set(error, Commit)
            with pytest.raises(type(error)):
                invoke(graph, is_async)
    failed = [span for name, span in exported.spans if span.attributes["langgraph_gcs.outcome"] == "failed"]
    assert {span.attributes["error.type"] for span in failed} == {"ValueError", "unavailable"}
    assert {(span.status.status_code, span.status.description) for span in failed} == {(StatusCode.ERROR, None)}
    assert THREAD not in exported.text()


def test_thread_ids_are_an_option_of_spans(saver, exported):
    with exported.instrument(saver, thread_ids=True):
        invoke(World().graph(saver))
    assert {span.attributes[CONVERSATION] for _, span in exported.spans} == {THREAD}
    assert exported.metrics()
    assert THREAD not in exported.reader.get_metrics_data().to_json()


def test_a_measured_value_names_the_span_of_its_call(saver, exported):
    with exported.instrument(saver):
        put(saver, CONFIG)
        ((_, span),) = exported.spans
        (point,) = exported.metrics()["put.duration"].data.data_points
    (exemplar,) = point.exemplars
    assert exemplar.span_id == span.get_span_context().span_id


# What is measured, and when


def test_nothing_is_measured_without_it(saver, exported):
    subscribers, backend = saver._subscribers, saver._backend
    assert (subscribers._handlers, backend._interceptors) == ({}, ())
    with exported.instrument(saver):
        assert len(subscribers._handlers) == 1
        assert len(backend._interceptors) == 2
    assert (subscribers._handlers, backend._interceptors) == ({}, ())
    put(saver, CONFIG)
    assert (exported.metrics(), exported.spans) == ({}, [])
    with telemetry.instrument(saver, exported.meters, NoOpTracerProvider()):
        assert len(backend._interceptors) == 1
        put(saver, CONFIG)
    assert exported.value("put.duration", call="put")[0] == 1
    assert exported.spans == []


def test_a_saver_is_measured_once_however_it_is_reached(saver, exported):
    """Under strict msgpack LangGraph's graph has a copy of the saver, and `admin` is another way to use the store."""
    with exported.instrument(saver) as measuring:
        twin = copy.copy(saver)
        for one in (saver, twin, saver.admin):
            with pytest.raises(e.InvalidInputError, match="measured already"):
                exported.instrument(one)
        put(twin, CONFIG)
        list(saver.admin.verify(THREAD))
        assert exported.value("put.duration", call="put")[0] == 1
        assert exported.value("requests", method="Commit") == 1
        measuring.end()
        measuring.end()
    with exported.instrument(saver.admin):
        put(saver, {**CONFIG, **config("other")})
    assert exported.value("put.duration", call="put")[0] == 2


def test_what_cannot_be_measured(saver, exported):
    for wrong in (None, object()):
        with pytest.raises(e.InvalidInputError, match="must be a GCSSaver or an Admin"):
            exported.instrument(wrong)
    for period in (5, timedelta(0), timedelta(seconds=-1)):
        with pytest.raises(e.InvalidInputError, match="must be a positive timedelta"):
            exported.instrument(saver, watch_store=period)


def test_savers_that_share_a_provider_are_added_up(exported):
    with GCSSaver.from_conn_string("memory:") as one, GCSSaver.from_conn_string("memory:") as other:
        for saver in (one, other):
            exported.instrument(saver)
            put(saver, CONFIG)
        with one.thread("t").lease(), other.thread("t").lease():
            assert exported.value("leases.held") == 2
        assert exported.value("put.duration", call="put")[0] == 2


EARLY = """
from opentelemetry import metrics
from langgraph_gcs_saver import GCSSaver
from tests.behaviour.test_telemetry import CONFIG, Exported, put
from langgraph_gcs_saver import telemetry
exported = Exported()
savers = [GCSSaver.from_conn_string("memory:") for _ in range(3)]
telemetry.instrument(savers[0])
metrics.set_meter_provider(exported.meters)
telemetry.instrument(savers[1])
telemetry.instrument(savers[2], exported.meters)
for number, saver in enumerate(savers, 1):
    put(saver, CONFIG)
    with saver.thread("t").lease():
        assert exported.value("leases.held") == 1
    assert exported.value("put.duration", call="put")[0] == number
"""


def test_savers_may_be_measured_before_the_provider_is_set():
    subprocess.run([sys.executable, "-c", EARLY], check=True, timeout=PATIENCE)


def test_a_processor_of_spans_that_raises_costs_spans_only(saver, exported, caplog):
    class Broken(SpanProcessor):
        def on_start(self, span, parent_context=None):
            raise RuntimeError("broken")

    exported.tracers.add_span_processor(Broken())
    with exported.instrument(saver), saver.thread("t").lease() as lease:
        put(saver, config_of(lease))
        assert exported.value("put.duration", call="put")[0] == 1
    assert "An event handler failed for CheckpointSaved" in caplog.text


def test_what_a_closed_saver_did_is_recorded(exported):
    with GCSSaver.from_conn_string("memory:") as saver:
        exported.instrument(saver)
        put(saver, CONFIG)
    assert exported.value("put.duration", call="put")[0] == 1
    kept = weakref.ref(saver._backend)
    del saver
    gc.collect()
    assert kept() is None, "the provider does not keep a saver"
    assert exported.points("leases.held") == []


def test_what_waits_is_bounded_and_nothing_is_lost(saver, exported, monkeypatch):
    monkeypatch.setattr(instrumentation, "MOST_EVENTS", 5)
    monkeypatch.setattr(instrumentation, "MOST_REQUESTS", 5)
    with exported.instrument(saver):
        graph = World().graph(saver)
        threads = [threading.Thread(target=invoke, args=(graph, False, config(str(n)))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (observing,) = saver._subscribers._sinks.values()
        assert len(observing.events) <= 5 + len(threads)
        assert len(observing.requests) <= 5 + len(threads)
        assert exported.value("put.duration", call="put")[0] == 4 * 5


def config(thread_id):
    return {"configurable": {"thread_id": thread_id}}


def test_a_forked_child_measures_itself(tmp_path, exported):
    read, write = os.pipe()
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver, saver.thread("t").lease() as lease:
        exported.instrument(saver)
        put(saver, config_of(lease))
        pid = os.fork()
        if pid == 0:
            try:
                before = exported.value("leases.held"), exported.points("put.duration")
                put(saver, config("child"))
                os.write(write, repr((before, exported.value("put.duration", call="put")[0])).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(read, 1000) == b"((0, []), 1)"
        assert exported.value("put.duration", call="put")[0] == 1
    os.close(read)
    os.close(write)


def test_namespaces_are_patterns_and_few(saver, exported):
    with exported.instrument(saver):
        for n in range(60):
            put(saver, {"configurable": {"thread_id": THREAD, "checkpoint_ns": f"node{n}:{n}|inner:{n}"}})
    names = [had["namespace"] for had, _ in exported.points("put.duration")]
    assert len(names) == 51
    assert {"other", "node0|inner"} <= set(names)


def test_a_watch_that_fails_has_no_counts_and_harms_nothing(saver, exported):
    fault = Fault()
    saver._backend.intercept(fault)
    with exported.instrument(saver, watch_store=timedelta(seconds=0.05)):
        eventually(lambda: exported.points("runs"))
        fault.set(e.StoreUnavailableError("no answer"), QueryDocs)
        eventually(lambda: not exported.points("runs"))
        fault.set(None)
        eventually(lambda: exported.points("runs"))


# Without the package, and with the real exporter


def test_only_the_api_is_imported():
    """The SDK is the application's. Of the room, only the modules behind `instrument` import the API."""
    found = {
        path.stem: set(re.findall(r"^(?:from|import) (opentelemetry[\w.]*)", path.read_text("utf-8"), re.MULTILINE))
        for path in Path(telemetry.__file__).parent.glob("*.py")
    }
    assert set().union(*found.values()) == {f"opentelemetry.{name}" for name in ("context", "metrics", "trace")} | {
        "opentelemetry"
    }
    assert {name for name, modules in found.items() if modules} == {"instrumentation", "instruments", "spans"}


def test_it_says_what_to_install(tmp_path):
    """In a process that cannot import OpenTelemetry."""
    program = """
import sys
from langgraph_gcs_saver import GCSSaver, errors, telemetry
from langgraph_gcs_saver.telemetry.metrics import METRICS
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
sys.modules["opentelemetry"] = None
try:
    telemetry.instrument(None)
except errors.NotInstalledError as error:
    print(error, len(METRICS))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert 'pip install "langgraph-gcs-saver[otel]"' in found.stdout


class Receiver(BaseHTTPRequestHandler):
    """An OTLP receiver: it keeps what it gets, decoded."""

    def do_POST(self):
        kind = {"/v1/metrics": ExportMetricsServiceRequest, "/v1/traces": ExportTraceServiceRequest}[self.path]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.found.append(kind.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_an_otlp_receiver_gets_all_of_it(saver):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.found = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/metrics"), 3_600_000)])
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{url}/traces")))
    try:
        with telemetry.instrument(saver, meters, tracers):
            invoke(World().graph(saver))
        assert meters.force_flush()
        meters.shutdown()
        tracers.shutdown()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    spans = [s for r in server.found if isinstance(r, ExportTraceServiceRequest) for s in spans_in(r)]
    metrics = {m.name: m for r in server.found if isinstance(r, ExportMetricsServiceRequest) for m in metrics_in(r)}
    assert Counter(span.name for span in spans)["langgraph_gcs.put"] == 5
    duration = metrics["langgraph_gcs.put.duration"]
    known = {metric.full_name: metric for metric in METRICS}
    assert duration.unit == "s"
    assert list(duration.histogram.data_points[0].explicit_bounds) == list(known[duration.name].boundaries)
    assert sum(point.count for point in duration.histogram.data_points) == 5 + 4
    assert metrics["langgraph_gcs.requests"].sum.is_monotonic
    assert THREAD.encode() not in b"".join(one.SerializeToString() for one in server.found)


def spans_in(request):
    return [span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans]


def metrics_in(request):
    return [metric for one in request.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]


def test_gauges_of_several_savers_are_combined(exported):
    class Saver:
        def __init__(self, idle):
            self.idle = idle

        def drain(self, until):
            return True

        def gauges(self):
            yield LEASE_IDLE, self.idle, {}
            yield LEASES_HELD, 1, {}

    found = instruments_of(exported.meters)
    savers = [Saver(3.0), Saver(5.0)]
    for saver in savers:
        found.observe(saver)
    assert exported.value("lease.idle") == 5
    assert exported.value("leases.held") == 2
