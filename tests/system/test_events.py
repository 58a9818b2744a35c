"""What subscribers hear: how each call ended, how long it took, and why it failed. Real faults, both halves."""

import asyncio
import copy
import logging
import os
import random
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from langgraph_gcs_saver import GCSSaver, Interceptor, events
from langgraph_gcs_saver.engine.effects import Commit, GetBlob, GetDocs, QueryDocs
from langgraph_gcs_saver.errors import InvalidConfigError, InvalidInputError, StoreUnavailableError
from tests.behaviour.api import DEFAULT, Api, cfg, cid, version

SECRET = "the-secret-of-a-state"
REFERENCE = Path(__file__).parents[2] / "docs/reference/events.md"
LARGE = random.Random(1).randbytes(140_000)
RUN = {"metadata": {"run_id": "run-1"}}

both = pytest.mark.parametrize("mode", ["sync", "async"])


def checkpoint(number, value="small"):
    return {
        "v": 1,
        "id": cid(number),
        "ts": "2026-01-02T03:04:05.678901+00:00",
        "channel_values": {"a": value},
        "channel_versions": {"a": version(number)},
        "versions_seen": {},
    }


class Fault(Interceptor):
    """Raises instead of performing effects of some kinds, once it is set."""

    def __init__(self):
        self.kinds, self.error = (), None

    def set(self, error, *kinds):
        self.kinds, self.error = kinds, error

    def around(self, effect, perform):
        if isinstance(effect, self.kinds):
            raise self.error
        return perform(effect)

    async def aaround(self, effect, perform):
        if isinstance(effect, self.kinds):
            raise self.error
        return await perform(effect)


class Lost(Interceptor):
    """Performs the first commit that creates a checkpoint and loses its answer, or objects of a checkpoint."""

    def __init__(self, commit=False, blobs_of=None):
        self.commit, self.blobs_of = commit, blobs_of

    def _change(self, effect, result):
        if isinstance(effect, Commit) and self.commit:
            self.commit = False
            return None
        if isinstance(effect, GetBlob) and self.blobs_of is not None and self.blobs_of in effect.name:
            return None
        return result

    def around(self, effect, perform):
        return self._change(effect, perform(effect))

    async def aaround(self, effect, perform):
        return self._change(effect, await perform(effect))


@pytest.fixture
def open_saver(tmp_path):
    """Opens savers on one store, each with caches of its own, and closes them."""
    opened = []

    def make(**options):
        opened.append(GCSSaver.from_conn_string(f"file://{tmp_path}/store", **options))
        return opened[-1]

    yield make
    for saver in opened:
        saver.close()


def heard(saver):
    """A list of what a saver reports about calls from now on."""
    found = []
    saver.subscribe(lambda event: found.append(event) if isinstance(event, events.CallEnded) else None)
    return found


def put(saver, number=1, value="small", parent=None, **config):
    return saver.put({**cfg(n=parent), **config}, checkpoint(number, value), DEFAULT, {"a": version(number)})


async def make_call(api, name, config):
    match name:
        case "put":
            return await api.put(config, checkpoint(7))
        case "put_writes":
            return await api.put_writes(config, [("a", "x"), ("b", "y")])
        case "get_tuple":
            return await api.get(config)
        case "list":
            return await api.list(config)
        case _:
            return await api.delta_history(config, ["a", "b"])


CALLS = ("put", "put_writes", "get_tuple", "list", "get_delta_channel_history")
PUTS = ("put", "put_writes")


# How calls end


def test_put(open_saver):
    saver = open_saver()
    found = heard(saver)
    put(saver, 1, **RUN)
    put(saver, 2, LARGE, parent=1)
    first, second = found
    assert isinstance(first, events.CheckpointSaved)
    assert (first.thread_id, first.checkpoint_ns, first.checkpoint_id) == ("t", "", cid(1))
    assert (first.outcome, first.run_id, first.channels, first.attempts) == ("stored", "run-1", 1, 1)
    assert (first.objects, first.object_bytes) == (0, 0)
    assert first.size > 0
    assert first.inline_bytes > 0
    assert first.seconds > 0
    assert first.lag > 0
    assert (second.run_id, second.objects) == (None, 1)
    assert second.size >= len(LARGE)
    assert second.object_bytes >= len(LARGE)
    assert second.lag != first.lag


@pytest.mark.parametrize(("ts", "lag"), [("2026-01-02T03:04:05", None), ("yesterday", None)])
def test_a_checkpoint_without_a_time_has_no_lag(open_saver, ts, lag):
    saver = open_saver()
    found = heard(saver)
    saver.put(cfg(), {**checkpoint(1), "ts": ts}, DEFAULT, {"a": version(1)})
    assert found[0].lag is lag


@both
def test_a_put_that_was_there_is_found(open_saver, mode):
    """As when LangGraph repeats a call, and as when the answer to a commit is lost."""

    async def flow():
        saver = open_saver(interceptors=[Lost(commit=True)])
        found, api = heard(saver), Api(saver, mode)
        await api.put(cfg(), checkpoint(1))
        await api.put(cfg(), checkpoint(1))
        assert [(event.outcome, event.objects, event.inline_bytes) for event in found] == [("found", 0, 0)] * 2
        assert all(isinstance(event, events.CheckpointSaved) for event in found)

    asyncio.run(flow())


@both
def test_put_writes(open_saver, mode):
    async def flow():
        saver = open_saver()
        found, api = heard(saver), Api(saver, mode)
        config = {**cfg(n=1), **RUN}
        for _ in range(2):
            await make_call(api, "put_writes", config)
        await api.put_writes(config, [("a", random.Random(2).randbytes(150_000))], "large")
        stored, again, large = found
        assert {type(event) for event in found} == {events.WritesSaved}
        assert (stored.outcome, stored.run_id, stored.task_id, stored.writes) == ("stored", "run-1", "task", 2)
        assert (stored.checkpoint_id, stored.attempts, stored.objects) == (cid(1), 1, 0)
        assert stored.inline_bytes > stored.size > 0
        assert (again.outcome, again.writes, again.size, again.inline_bytes) == ("found", 2, stored.size, 0)
        assert (large.outcome, large.objects) == ("stored", 1)
        assert large.object_bytes > 150_000

    asyncio.run(flow())


@both
def test_gets(open_saver, mode):
    async def flow():
        put(open_saver(), 1, LARGE)
        saver = open_saver()
        found, api = heard(saver), Api(saver, mode)
        for name in ("get_tuple", "list", "get_delta_channel_history"):
            await make_call(api, name, {**cfg(), **RUN})
        await api.get(cfg("another"))
        loaded, listed, history, none = found
        assert [event.outcome for event in found] == ["loaded", "loaded", "loaded", "none"]
        assert [event.run_id for event in found] == ["run-1", "run-1", "run-1", None]
        assert all(event.seconds > 0 for event in found)
        assert isinstance(loaded, events.CheckpointLoaded)
        assert (loaded.checkpoint_id, loaded.channels, loaded.inline_bytes) == (cid(1), 1, 0)
        assert loaded.size >= len(LARGE)
        assert loaded.object_bytes >= len(LARGE)
        assert isinstance(listed, events.CheckpointsListed)
        assert (listed.checkpoints, listed.size) == (1, loaded.size)
        assert listed.object_bytes == 0, "the value is in the cache"
        assert isinstance(history, events.HistoryLoaded)
        assert (history.channels, history.writes) == (2, 0)
        assert isinstance(none, events.CheckpointNotFound)
        assert (none.thread_id, none.checkpoint_id) == ("another", "")

    asyncio.run(flow())


def test_each_page_of_a_list_is_an_event_and_counts_what_was_read(open_saver):
    writer = open_saver()
    for number in range(1, 61):
        put(writer, number, random.Random(number).randbytes(140_000), parent=number - 1 or None)
    saver = open_saver()
    found = heard(saver)
    sizes = [len(one.checkpoint["channel_values"]["a"]) for one in saver.list(cfg())]
    assert [event.checkpoints for event in found] == [50, 10]
    assert [event.object_bytes >= 140_000 * event.checkpoints for event in found] == [True, True]
    assert sum(event.size for event in found) >= sum(sizes)


@both
def test_a_fallback_is_recovered(open_saver, mode):
    async def flow():
        writer = open_saver()
        put(writer, 1, LARGE)
        put(writer, 2, LARGE[::-1], parent=1)
        saver = open_saver(interceptors=[Lost(blobs_of=cid(2))])
        found = heard(saver)
        assert (await Api(saver, mode).get(cfg())).metadata["recovered_from"] == cid(2)
        (event,) = found
        assert (event.outcome, event.checkpoint_id) == ("recovered", cid(1))

    asyncio.run(flow())


# How calls fail


@both
@pytest.mark.parametrize("name", CALLS)
def test_a_closed_saver_fails_with_a_kind_and_a_message(open_saver, mode, name):
    async def flow():
        saver = open_saver()
        found = heard(saver)
        saver.close()
        with pytest.raises(Exception, match="closed") as caught:
            await make_call(Api(saver, mode), name, {**cfg(n=7), **RUN})
        (event,) = found
        assert type(event) is (events.PutFailed if name in PUTS else events.GetFailed)
        assert (event.call, event.outcome, event.run_id) == (name, "failed", "run-1")
        assert (event.error, event.kind, event.message) == ("SaverClosedError", "closed", str(caught.value))
        assert (event.thread_id, event.checkpoint_id) == ("t", cid(7))
        assert event.seconds > 0

    asyncio.run(flow())


@both
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "error",
    [StoreUnavailableError("It is gone."), RuntimeError(SECRET), asyncio.CancelledError(SECRET)],
    ids=["ours", "another", "canceled"],
)
def test_a_service_that_fails_is_reported_without_what_others_say(open_saver, caplog, mode, name, error):
    """Another library's exception may quote state."""

    async def flow():
        fault = Fault()
        saver = open_saver(interceptors=[fault])
        found = heard(saver)
        fault.set(error, Commit, GetDocs, QueryDocs)
        with pytest.raises(type(error)):
            await make_call(Api(saver, mode), name, cfg(n=7))
        (event,) = found
        ours = isinstance(error, StoreUnavailableError)
        outcome = "interrupted" if isinstance(error, asyncio.CancelledError) else "failed"
        assert (event.call, event.outcome, event.error) == (name, outcome, type(error).__name__)
        assert (event.kind, event.message) == (("unavailable", "It is gone.") if ours else ("", ""))

    caplog.set_level(logging.DEBUG, "langgraph_gcs_saver")
    asyncio.run(flow())
    assert "Failed(" in caplog.text
    assert SECRET not in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("call", [put, lambda saver: saver.get_tuple(cfg())], ids=["put", "get"])
def test_a_signal_is_an_interruption(open_saver, call):
    fault = Fault()
    saver = open_saver(interceptors=[fault])
    found = heard(saver)
    fault.set(KeyboardInterrupt(), Commit, QueryDocs)
    with pytest.raises(KeyboardInterrupt):
        call(saver)
    assert [event.outcome for event in found] == ["interrupted"]


@both
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "config",
    [{}, None, 5, {"configurable": 5}, {"configurable": {"thread_id": ["t"], "checkpoint_id": 5}, "metadata": 5}],
    ids=repr,
)
def test_a_wrong_config_hides_nothing(open_saver, mode, name, config):
    """The event has what the config does name, and the caller gets the error."""
    if name == "list" and config is None:
        pytest.skip("all threads")

    async def flow():
        saver = open_saver()
        found = heard(saver)
        with pytest.raises(InvalidInputError) as caught:
            await make_call(Api(saver, mode), name, config)
        (event,) = found
        assert (event.thread_id, event.run_id, event.kind) == ("", None, caught.value.kind)

    asyncio.run(flow())


def test_a_value_that_cannot_be_serialized_is_not_shown(open_saver):
    saver = open_saver()
    found = heard(saver)
    with pytest.raises(TypeError):
        put(saver, 1, {SECRET: [SECRET, lambda: SECRET]})
    (event,) = found
    assert (event.error, event.kind) == ("SerializationError", "serialization")
    assert "channel 'a'" in event.message
    assert SECRET not in repr(event)


def test_ids_that_are_no_text_are_told_as_they_are_stored(open_saver):
    saver = open_saver()
    found = heard(saver)
    saver.get_tuple({"configurable": {"thread_id": 5, "run_id": "run-2"}})
    assert (found[0].thread_id, found[0].run_id) == ("5", "run-2")


# Requests that are tried again


class Overloaded(grpc.GenericRpcHandler):
    """A Firestore that answers nothing but that it is overloaded."""

    def service(self, details):
        def refuse(request, context):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, SECRET)

        streams = details.method.endswith(("BatchGetDocuments", "RunQuery"))
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return make(refuse)


@both
def test_requests_that_are_tried_again_are_reported(monkeypatch, mode):
    server = grpc.server(ThreadPoolExecutor(2), handlers=[Overloaded()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{port}")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")

    async def flow():
        uri = "gs://bucket?project=p"
        async with GCSSaver.from_conn_string(uri, timeout=3) as saver:  # clock: gives up soon, as it may
            found = []
            saver.subscribe(found.append)
            with pytest.raises(StoreUnavailableError):
                await Api(saver, mode).get(cfg())
            return found

    try:
        *retried, failed = asyncio.run(flow())
    finally:
        server.stop(None).wait()
    assert {type(event) for event in retried} == {events.Retried}
    by_request = {}
    for event in retried:
        by_request.setdefault(event.request, []).append(event.attempt)
    assert all(attempts == list(range(1, len(attempts) + 1)) for attempts in by_request.values())
    assert by_request.keys() <= {"GetDocument", "BatchGetDocuments", "RunQuery"}
    assert {event.reason for event in retried} == {"RESOURCE_EXHAUSTED"}
    assert all(event.service.startswith("The Firestore emulator at") for event in retried)
    assert (failed.error, failed.kind) == ("StoreUnavailableError", "unavailable")
    assert SECRET not in repr([*retried, failed])


# Who listens


def test_the_reference_says_how_calls_end():
    """The table is what the tests above see."""
    table = REFERENCE.read_text().partition("## How calls end")[2].partition("##")[0]
    written = {
        (call, event): set(re.findall(r"`(\w+)`", outcomes))
        for calls, event, outcomes in re.findall(r"^\| (`.*?) \| `(\w+)` \| (.*?) \|$", table, re.MULTILINE)
        for call in re.findall(r"`(\w+)`", calls)
    }
    failed = {"failed", "interrupted"}
    assert written == {
        ("put", "CheckpointSaved"): {"stored", "found"},
        ("put_writes", "WritesSaved"): {"stored", "found"},
        ("get_tuple", "CheckpointLoaded"): {"loaded", "recovered"},
        ("get_tuple", "CheckpointNotFound"): {"none"},
        ("list", "CheckpointsListed"): {"loaded"},
        ("get_delta_channel_history", "HistoryLoaded"): {"loaded"},
        **{(name, "PutFailed" if name in PUTS else "GetFailed"): failed for name in CALLS},
    }
    assert {name for _, name in written} == {cls.__name__ for cls in events.CallEnded.__subclasses__()}


def test_the_reference_says_when_each_event_is_reported():
    tables = REFERENCE.read_text().partition("## How calls end")[2].partition("## All events")[0]
    cells = re.findall(r"^\| (`.*?`) \| .*\|$", tables, re.MULTILINE)
    written = [name for cell in cells for name in re.findall(r"`([A-Z]\w+)`", cell)]
    calls = {one.__name__ for one in events.CallEnded.__subclasses__()}
    others = {one.__name__ for one in events.Event.__subclasses__()} - {"CallEnded"} | {"SagaStuck", "ForkMerged"}
    assert sorted(name for name in written if name not in calls) == sorted(others)


def test_any_number_of_handlers_hear_events_until_they_unsubscribe(open_saver):
    heard_by = {name: [] for name in ("option", "first", "second", "again")}
    saver = open_saver(on_event=heard_by["option"].append)
    first = saver.subscribe(heard_by["first"].append)
    second = saver.subscribe(heard_by["second"].append)
    again = saver.subscribe(heard_by["second"].append)
    saver.get_tuple(cfg())
    assert [len(heard_by[name]) for name in ("option", "first", "second")] == [1, 1, 2]
    assert heard_by["option"] == heard_by["first"]
    first()
    first()
    second()
    saver.get_tuple(cfg())
    assert [len(heard_by[name]) for name in ("option", "first", "second")] == [2, 1, 3]
    again()
    saver.get_tuple(cfg())
    assert [len(heard_by[name]) for name in ("option", "first", "second")] == [3, 1, 3]


def test_a_handler_may_unsubscribe_itself(open_saver):
    saver = open_saver()
    seen = []

    def once(event):
        seen.append(event)
        unsubscribe()

    unsubscribe = saver.subscribe(once)
    found = heard(saver)
    saver.get_tuple(cfg())
    saver.get_tuple(cfg())
    assert (len(seen), len(found)) == (1, 2)


@both
def test_a_handler_that_raises_is_logged_and_the_others_hear(open_saver, caplog, mode):
    def fail(event):
        raise LookupError(type(event).__name__)

    async def flow():
        saver = open_saver(on_event=fail)
        saver.subscribe(fail)
        found, api = heard(saver), Api(saver, mode)
        await api.put(cfg(), checkpoint(1))
        assert [event.outcome for event in found] == ["stored"]
        with pytest.raises(InvalidConfigError):
            await api.get({})
        assert found[-1].error == "InvalidConfigError"

    asyncio.run(flow())
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info[0] for record in failures] == [LookupError] * 4
    assert "CheckpointSaved" in failures[0].getMessage()


@pytest.mark.parametrize("handler", [None, 5, "print"])
def test_a_handler_must_be_callable(open_saver, handler):
    with pytest.raises(InvalidInputError, match="callable"):
        open_saver().subscribe(handler)


def test_copies_share_the_subscribers(open_saver):
    """LangGraph copies the saver of a graph whose state's types it knows (`with_allowlist`)."""
    saver = open_saver()
    twin = copy.copy(saver)
    found = heard(saver)
    put(twin, 1)
    assert len(found) == 1


def test_threads_subscribe_and_unsubscribe_while_calls_run(open_saver):
    saver = open_saver()
    found = heard(saver)
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            leave = saver.subscribe(lambda event: None)
            leave()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            saver.get_tuple(cfg())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [event.outcome for event in found] == ["none"] * 50


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_keeps_its_handlers(open_saver):
    saver = open_saver()
    reader, writer = os.pipe()
    leave = saver.subscribe(lambda event: os.write(writer, f"{os.getpid()} {event.outcome}\n".encode()))
    child = os.fork()
    if not child:
        try:
            saver.get_tuple(cfg())
            leave()
            saver.get_tuple(cfg())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    saver.get_tuple(cfg())
    os.close(writer)
    with os.fdopen(reader) as told:
        assert told.read().split("\n") == [f"{child} none", f"{os.getpid()} none", ""]


@pytest.fixture
def made(monkeypatch):
    """Counts events that are made, by class."""
    found = []
    for cls in events.CallEnded.__subclasses__():
        monkeypatch.setattr(
            cls, "__init__", lambda self, _init=cls.__init__, **kw: (found.append(type(self)), _init(self, **kw))[1]
        )
    later = events.Event.later.__func__
    monkeypatch.setattr(
        events.Event, "later", classmethod(lambda cls, *args: (found.append(cls), later(cls, *args))[1])
    )
    return found


@both
@pytest.mark.parametrize("listens", ["nobody", "the log", "a handler"])
def test_no_event_is_made_that_nobody_would_hear(open_saver, caplog, made, mode, listens):
    async def flow():
        saver = open_saver()
        if listens == "a handler":
            saver.subscribe(lambda event: None)
        api = Api(saver, mode)
        for name in CALLS:
            await make_call(api, name, cfg(n=7))
        await api.get(cfg("another"))
        saver.close()
        for name in ("put", "get_tuple"):
            with pytest.raises(Exception, match="closed"):
                await make_call(api, name, cfg(n=7))

    level = logging.DEBUG if listens == "the log" else logging.WARNING
    caplog.set_level(level, "langgraph_gcs_saver")
    asyncio.run(flow())
    everything = {*events.CallEnded.__subclasses__()}
    assert set(made) == (set() if listens == "nobody" else everything)
