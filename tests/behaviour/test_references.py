"""References in the state of real graphs: what a check finds, and what `run` does about it before anything runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any, TypedDict

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from langchain_core.messages import HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Interrupt, Send, interrupt

from langgraph_gcs_saver import GraphChanged, Ref, RefFinding, arun, astream, references, run, stream
from langgraph_gcs_saver import errors as e
from langgraph_gcs_saver.engine.effects import REQUESTS
from langgraph_gcs_saver.engine.interceptors import Interceptor
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.references import checkers
from tests.patience import PATIENCE

CONFIG: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    docs: list[Any]
    said: Annotated[list[Any], add_messages]
    answer: str


class Page(TypedDict, total=False):
    status: int
    headers: dict[str, str]


class Web:
    """Pages by path, which a test changes, and the requests that came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, str]] = []


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            found.asked.append((self.path, str(self.headers.get("Authorization"))))
            page = found.pages.get(self.path, {"status": 404})
            self.send_response(page.get("status", 200))
            for name, value in page.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the checker of the scheme `test` says, by URI; other URIs are missing. It counts its calls."""
    monkeypatch.setattr(checkers, "_registered", {})
    found: dict[str, Any] = {}
    calls: list[list[str]] = []

    def look(uris: Any) -> Any:
        calls.append(list(uris))
        yield from ((uri, found.get(uri)) for uri in uris)

    references.register("test", look)
    found["calls"] = calls
    return found


def ref(uri: str, **facts: Any) -> dict[str, Any]:
    return {"type": "lg_ref", "uri": uri, **facts}


def asking(saver: Any, ran: list[str], *, name: str = "ask", channel: str = "docs", inner: str = "") -> Any:
    """A graph that asks a person before its end; with `inner`, in a node of that name of a subgraph."""

    def ask(_: Any) -> dict[str, Any]:
        ran.append(name)
        return {"answer": interrupt("sure?")}

    schema: Any = TypedDict(  # type: ignore[operator]
        "State", {channel: list[Any], "said": Annotated[list[Any], add_messages], "answer": str}, total=False
    )
    build = StateGraph(schema)
    node: Any = ask
    if inner:
        sub = StateGraph(schema)
        sub.add_node(inner, ask)
        sub.add_edge(START, inner)
        node = sub.compile()
    build.add_node(name, node)
    build.add_edge(START, name)
    return build.compile(checkpointer=saver)


# Finding references


class Array:
    """Compares like an array of several items."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Note:
    source: Any


def test_references_are_found_wherever_they_are() -> None:
    one = ref("test:1", v=1)
    message = HumanMessage("hello", additional_kwargs={"file": one})
    deep: Any = one
    for _ in range(5000):
        deep = [deep]
    circle: list[Any] = [one]
    circle.append(circle)
    extra: Any = {"file": one}
    value = {
        "list": ["text", one],
        "message": message,
        "note": Note(source=(1, one)),
        "by number": {3: one},
        "circle": circle,
        "packet": Send("node", {"file": one}),
        "queue": deque([one]),
        "extra": HumanMessage("hello", **extra),
        "no reference": {"type": "lg_ref", "uri": 7},
        "an array": {"type": Array(), "uri": "test:2"},
    }
    found = [(place.path, place.uri, place.facts) for place in references.find(value, "docs")]
    assert [path for path, _, _ in found] == [
        "docs.list[1]",
        "docs.message.additional_kwargs.file",
        "docs.note.source[1]",
        "docs.by number[3]",
        "docs.circle[0]",
        "docs.packet.arg.file",
        "docs.queue[0]",
        "docs.extra.file",
    ]
    assert {(uri, *facts.items()) for _, uri, facts in found} == {("test:1", ("v", 1))}
    assert [place.uri for place in references.find(deep)] == ["test:1"]


def test_references_are_found_in_each_of_many_objects_that_are_not_restored() -> None:
    """Their decoded bytes live for a moment only. The next ones may get the same address."""
    stored = [Stored.of(0, ["module", "name", [[ref(f"test:{number}")]]]) for number in range(50)]
    assert [place.uri for place in references.find(stored)] == [f"test:{number}" for number in range(50)]


# Facts


def test_the_best_facts_decide() -> None:
    gcs, http = checkers.find("gs"), checkers.find("https")
    assert gcs is not None
    assert http is not None
    then = {"generation": 1, "crc32c": "a", "size": 3}
    assert gcs.is_same(then, {**then, "generation": 2})
    assert not gcs.is_same(then, {**then, "crc32c": "b"})
    assert not gcs.is_same(then, {**then, "size": 4})
    assert not gcs.is_same({"generation": 1}, {**then, "generation": 2})
    assert gcs.is_same({}, then)
    assert http.is_same({"etag": "x", "length": "1"}, {"etag": "x", "length": "2"})
    assert not http.is_same({"etag": "x", "length": "1"}, {"etag": "y", "length": "1"})
    assert not http.is_same({"last_modified": "d", "length": "1"}, {"last_modified": "d", "length": "2"})
    own = references.Checker(lambda uris: ())
    assert own.is_same({"a": 1, "b": 2}, {"a": 1, "c": 3})
    assert not own.is_same({"a": 1}, {"a": 2})
    assert own.is_same({"a": "1"}, {"a": 1})


def test_a_page_of_the_web(web: Web) -> None:
    url = f"{web.url}/report"
    web.pages["/report"] = {"headers": {"ETag": '"1"', "Content-Length": "9"}}
    web.pages["/old"] = {"status": 302, "headers": {"Location": url}}
    made = Ref.http(url)
    assert made == ref(url, etag='"1"', length="9")
    assert Ref.http(f"{web.url}/old") == ref(f"{web.url}/old", etag='"1"', length="9")
    statuses = {"missing": (404, 410), "unknown": (401, 403, 405, 429, 500)}
    for outcome, codes in statuses.items():
        for code in codes:
            web.pages["/report"] = {"status": code}
            assert [kind for kind, _ in checkers.check(list(references.find(made)))] == [outcome], code
    web.pages["/report"] = {"headers": {"ETag": '"2"'}}
    assert [kind for kind, _ in checkers.check(list(references.find(made)))] == ["changed"]
    with pytest.raises(e.InvalidInputError, match="nothing at the URI"):
        Ref.http(f"{web.url}/none")
    web.pages["/secret"] = {"status": 403}
    with pytest.raises(e.PermissionDeniedError):
        Ref.http(f"{web.url}/secret")


def test_no_password_is_sent_to_hosts_that_a_state_names(web: Web, tmp_path: Any, monkeypatch: Any) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    web.pages["/"] = {}
    Ref.http(f"{web.url}/")
    assert web.asked == [("/", "None")]
    web.pages["/old"] = {"status": 302, "headers": {"Location": "/"}}
    Ref.http(f"{web.url}/old")
    assert web.asked[1:] == [("/old", "None"), ("/", "None")]


@pytest.mark.parametrize("url", ["http://", "http://[", "https://127.0.0.1:1/", "http://a b/"])
def test_a_url_that_cannot_be_asked_is_unknown(url: str) -> None:
    assert [kind for kind, _ in checkers.check([references.Place("", url, {})])] == ["unknown"]


def test_a_url_that_cannot_be_asked_hides_no_other(web: Web) -> None:
    web.pages["/report"] = {}
    urls = [f"http://{'a' * 64}.com/", f"{web.url}/report", f"{web.url}/none"]
    found = checkers.check([references.Place("", url, {}) for url in urls])
    assert [kind for kind, _ in found] == ["unknown", "ok", "missing"]


@pytest.fixture
def bucket(storage_emulator: str, bucket_name: str) -> Any:
    assert storage_emulator
    return Client(project="test", credentials=AnonymousCredentials()).bucket(bucket_name)  # type: ignore[no-untyped-call]


def test_an_object_of_cloud_storage(bucket: Any) -> None:
    blob = bucket.blob("2026/a report?#1.pdf")
    blob.upload_from_string(b"one")
    uri = f"gs://{bucket.name}/{blob.name}"
    made = Ref.gcs(uri)
    assert made == ref(uri, generation=blob.generation, crc32c=blob.crc32c, size=3)
    places = list(references.find(made))
    assert checkers.check(places) == [("ok", "")]
    blob.upload_from_string(b"two")
    assert [kind for kind, _ in checkers.check(places)] == ["changed"]
    blob.upload_from_string(b"one")
    assert checkers.check(places) == [("ok", "")]
    blob.delete()
    assert [kind for kind, _ in checkers.check(places)] == ["missing"]
    for text, match in [(uri, "nothing"), (f"gs://{bucket.name}", "another form"), ("https://a/b", "begin with gs")]:
        with pytest.raises(e.InvalidInputError, match=match):
            Ref.gcs(text)


# Checkers


def test_each_uri_is_looked_at_once_and_all_of_a_scheme_in_one_call(looks: dict[str, Any]) -> None:
    looks["test:1"] = {"v": 1}
    places = [place for uri in ("test:1", "test:2", "test:1") for place in references.find(ref(uri, v=1))]
    assert [kind for kind, _ in checkers.check(places)] == ["ok", "missing", "ok"]
    assert looks["calls"] == [["test:1", "test:2"]]
    assert Ref.of("test:1") == ref("test:1", v=1)


def test_facts_cannot_take_the_place_of_what_makes_a_reference(looks: dict[str, Any]) -> None:
    looks["test:1"] = {"type": "pdf", "uri": "other:1", "v": 1}
    made = Ref.of("test:1")
    assert made == ref("test:1", v=1)
    assert checkers.check(list(references.find(made))) == [("ok", "")]


def test_what_a_checker_does_not_say_is_unknown(looks: dict[str, Any]) -> None:
    release = threading.Event()

    def hangs(uris: Any) -> Any:
        yield uris[0], {}
        release.wait()

    def raises(uris: Any) -> Any:
        yield uris[0], {}
        raise ValueError

    references.register("hangs", hangs, timeout=0.2)  # clock: it never answers, so any time is long enough
    references.register("raises", raises)
    references.register("silent", lambda uris: ())
    looks["test:1"] = PermissionError("not yours")
    uris = ["hangs:1", "hangs:2", "raises:1", "raises:2", "silent:1", "test:1", "strange:1", "no scheme"]
    try:
        found = checkers.check([references.Place("", uri, {}) for uri in uris])
    finally:
        release.set()
    assert [kind for kind, _ in found] == ["ok", "unknown", "ok", *["unknown"] * 5]
    reasons = [reason for kind, reason in found if kind == "unknown"]
    for reason, part in zip(
        reasons, ["within 0.2 s", "ValueError", "did not say", "not yours", "'strange'", "scheme ''"], strict=True
    ):
        assert part in reason


def test_after_the_timeout_nothing_more_is_asked(looks: dict[str, Any]) -> None:
    release, asked, done = threading.Event(), [], threading.Event()

    def slow(uri: str) -> dict[str, Any]:
        asked.append(uri)
        release.wait()
        return {}

    def look(uris: Any) -> Any:
        try:
            yield from checkers.each(slow, uris)
        finally:
            done.set()

    references.register("slow", look, timeout=0.2)  # clock: it never answers, so any time is long enough
    try:
        found = checkers.check([references.Place("", f"slow:{number}", {}) for number in range(100)])
    finally:
        release.set()
    assert {kind for kind, _ in found} == {"unknown"}
    assert done.wait(PATIENCE)
    assert len(asked) <= 2 * checkers.AT_ONCE


@pytest.mark.parametrize(
    ("scheme", "look", "timeout"), [("", print, 1), ("a b", print, 1), ("s3", 7, 1), ("s3", print, 0)]
)
def test_a_checker_that_cannot_be(scheme: str, look: Any, timeout: float) -> None:
    with pytest.raises(e.InvalidInputError):
        references.register(scheme, look, timeout=timeout)


def test_a_scheme_without_a_checker_makes_no_reference() -> None:
    with pytest.raises(e.InvalidInputError, match="strange"):
        Ref.of("strange:1")


# Checking a thread


def test_the_values_and_writes_of_a_thread_are_checked(saver: Any, looks: dict[str, Any]) -> None:
    ran: list[str] = []
    graph = asking(saver, ran)
    graph.invoke({"docs": [ref("test:1", v=1), ref("test:2")], "said": ["hello"]}, CONFIG)
    graph.update_state(CONFIG, {"docs": [ref("test:1", v=1), ref("test:2")]}, as_node="__start__")
    looks["test:1"] = {"v": 2}
    tip = graph.get_state(CONFIG).config["configurable"]["checkpoint_id"]
    at: Any = {"thread_id": "t", "checkpoint_id": tip, "channel": "docs"}
    thread = saver.thread("t")
    found = thread.check()
    assert found == [
        RefFinding(kind="changed", path="docs[0]", uri="test:1", reason=found[0].reason, **at),
        RefFinding(kind="missing", path="docs[1]", uri="test:2", reason=found[1].reason, **at),
    ]
    assert asyncio.run(thread.acheck(graph=graph)) == found
    saver.put_writes(
        {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": tip}},
        [("docs", [ref("test:3")])],
        "task",
    )
    assert [one.uri for one in thread.check()] == ["test:1", "test:2", "test:3"]
    assert saver.thread("other").check(graph=graph) == []


class Requests(Interceptor):
    """Counts requests."""

    count = 0

    def around(self, effect: Any, perform: Any) -> Any:
        self.count += isinstance(effect, REQUESTS)
        return perform(effect)


def test_without_references_nothing_is_asked(make_saver: Any, looks: dict[str, Any]) -> None:
    counted = Requests()
    saver = make_saver(interceptors=[counted])
    graph = asking(saver, [])
    graph.invoke({"docs": [1, 2], "said": ["hello"]}, CONFIG)
    before = counted.count
    assert saver.thread("t").check(graph=graph) == []
    assert counted.count - before <= 4
    assert looks["calls"] == []


def test_a_renamed_node_or_channel_is_found_before_anything_runs(saver: Any) -> None:
    ran: list[str] = []
    asking(saver, ran).invoke({"docs": [1], "said": ["hello"]}, CONFIG)
    changed = asking(saver, ran, name="question", channel="files")
    tip = changed.get_state(CONFIG).config["configurable"]["checkpoint_id"]
    at: Any = {"thread_id": "t", "checkpoint_id": tip, "graph": "LangGraph"}
    expected = [GraphChanged(kind="node", name="ask", **at), GraphChanged(kind="channel", name="docs", **at)]
    assert saver.thread("t").check(graph=changed) == expected
    assert saver.thread("t").check(graph=asking(saver, ran)) == []
    with pytest.raises(e.CheckFailedError) as failed:
        run(changed, Command(resume="yes"), CONFIG, references="raise")
    assert failed.value.missing == ("ask",)
    only_channel = asking(saver, ran, channel="files")
    with pytest.raises(e.CheckFailedError, match="channel 'docs'") as failed:
        run(only_channel, Command(resume="yes"), CONFIG, references="raise")
    assert failed.value.findings == (expected[1],)
    assert ran == ["ask"]


def test_a_node_of_a_subgraph_that_waits_is_compared_too(saver: Any, looks: dict[str, Any]) -> None:
    ran: list[str] = []
    asking(saver, ran, inner="deep").invoke({"docs": [ref("test:1")], "said": ["hello"]}, CONFIG)
    looks["test:1"] = {}
    assert [str(one.kind) for one in saver.thread("t").check(graph=asking(saver, ran, inner="deep"))] == ["ok", "ok"]
    changed = saver.thread("t").check(graph=asking(saver, ran, inner="deeper"))
    assert [(one.name, one.checkpoint_ns.partition(":")[0]) for one in changed if isinstance(one, GraphChanged)] == [
        ("deep", "ask")
    ]
    # A node that is a function now hides nothing that could be compared.
    assert not any(isinstance(one, GraphChanged) for one in saver.thread("t").check(graph=asking(saver, ran)))


def test_a_subgraph_that_has_finished_in_the_step_needs_nothing(saver: Any, looks: dict[str, Any]) -> None:
    def make(**more: Any) -> Any:
        inner = StateGraph(TypedDict("Inner", {"answer": str, **more}, total=False))  # type: ignore[operator]
        inner.add_node("write", lambda _: {channel: [ref("test:1")] for channel in more})
        inner.add_edge(START, "write")
        build = StateGraph(State)
        build.add_node("inner", inner.compile())
        build.add_node("ask", lambda _: {"answer": interrupt("sure?")})
        build.add_edge(START, "inner").add_edge(START, "ask")
        return build.compile(checkpointer=saver)

    graph = make(files=list)
    graph.invoke({"docs": []}, CONFIG)
    assert len(list(saver.list(CONFIG))) > 2, "the subgraph has stored its states"
    for one in (graph, make()):
        assert saver.thread("t").check(graph=one) == []


# Resuming


def waiting(saver: Any, ran: list[str]) -> Any:
    graph = asking(saver, ran)
    run(graph, {"docs": [ref("test:1", v=1)], "said": ["hello"]}, CONFIG, request_id="1")
    return graph


def test_raise(saver: Any, looks: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    ran: list[str] = []
    graph = waiting(saver, ran)
    for call in (run, lambda *a, **k: list(stream(*a, **k))):
        with pytest.raises(e.CheckFailedError, match="1 missing in 'docs'") as failed:
            call(graph, Command(resume="yes"), CONFIG, request_id="2", references="raise")
        assert [one.uri for one in failed.value.findings] == ["test:1"]
        # A message may be logged, and URIs are content.
        assert "test:1" not in str(failed.value)
    assert (ran, saver.thread("t").status().state) == (["ask"], "waiting")
    looks["test:1"] = {"v": 1}
    done = run(graph, Command(resume="yes"), CONFIG, request_id="2", references="raise")
    assert (done["answer"], ran) == ("yes", ["ask", "ask"])
    assert "test:1" not in caplog.text


def test_warn(saver: Any, looks: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    graph = waiting(saver, [])
    with caplog.at_level(logging.WARNING, "langgraph_gcs_saver"):
        done = run(graph, Command(resume="yes"), CONFIG, references="warn")
    assert done["answer"] == "yes"
    assert "1 missing in 'docs'. The run continues." in caplog.text
    assert "test:1" not in caplog.text
    assert len(looks["calls"]) == 1


def test_interrupt(saver: Any, looks: dict[str, Any]) -> None:
    ran: list[str] = []
    graph = waiting(saver, ran)
    before = len(list(saver.list(CONFIG)))
    got = run(graph, Command(resume="yes"), CONFIG, references="interrupt")
    (asked,) = got["__interrupt__"]
    assert isinstance(asked, Interrupt)
    assert (asked.id, asked.value["check"][0]["kind"]) == ("lg_check", "missing")
    assert (ran, len(list(saver.list(CONFIG)))) == (["ask"], before)
    assert saver.thread("t").status().state == "waiting"
    assert len(looks["calls"]) == 1
    assert run(graph, Command(resume="yes"), CONFIG)["answer"] == "yes"


def test_coroutines(saver: Any, looks: dict[str, Any]) -> None:
    ran: list[str] = []
    graph = waiting(saver, ran)

    async def calls() -> None:
        with pytest.raises(e.CheckFailedError):
            await arun(graph, Command(resume="yes"), CONFIG, references="raise")
        parts = [one async for one in astream(graph, Command(resume="yes"), CONFIG, references="interrupt")]
        assert parts[0]["__interrupt__"][0].id == "lg_check"

    asyncio.run(calls())
    assert ran == ["ask"]
    assert len(looks["calls"]) == 2


def test_a_run_that_starts_a_turn_checks_nothing(saver: Any, looks: dict[str, Any]) -> None:
    graph = asking(saver, [])
    run(graph, {"docs": [ref("test:1")], "said": ["hello"]}, CONFIG, references="raise")
    assert looks["calls"] == []


def test_a_thread_that_has_finished_is_not_checked(saver: Any, looks: dict[str, Any]) -> None:
    graph = waiting(saver, [])
    done = run(graph, Command(resume="yes"), CONFIG, request_id="2")
    for given, request_id in ((None, None), (Command(resume="yes"), "2")):
        assert run(graph, given, CONFIG, request_id=request_id, references="interrupt") == done
    assert looks["calls"] == []


def test_the_interrupt_of_a_check_takes_no_answer(saver: Any, looks: dict[str, Any]) -> None:
    """LangGraph would hand the answer to the node that asks."""
    ran: list[str] = []
    graph = waiting(saver, ran)
    (asked,) = run(graph, Command(resume="yes"), CONFIG, references="interrupt")["__interrupt__"]
    with pytest.raises(e.InvalidInputError, match="no answer"):
        run(graph, Command(resume={asked.id: "yes"}), CONFIG)
    assert ran == ["ask"]


def test_what_is_not_a_compiled_graph_is_rejected(saver: Any) -> None:
    for graph in ("module:graph", StateGraph(State)):
        with pytest.raises(e.InvalidInputError, match="compiled graph"):
            saver.thread("t").check(graph=graph)


def test_an_unknown_way_is_rejected(saver: Any) -> None:
    with pytest.raises(e.InvalidInputError, match="references"):
        run(asking(saver, []), None, CONFIG, references="ask")  # type: ignore[arg-type]


def test_a_crashed_turn_waits_for_a_person_and_then_continues(saver: Any, looks: dict[str, Any]) -> None:
    broken = [True]

    def node(_: State) -> dict[str, Any]:
        if broken:
            raise OSError("broken")
        return {"answer": "done"}

    build = StateGraph(State)
    build.add_node("node", node)
    build.add_edge(START, "node")
    graph = build.compile(checkpointer=saver)
    with pytest.raises(OSError, match="broken"):
        run(graph, {"docs": [ref("test:1")]}, CONFIG, request_id="1")
    broken.clear()
    got = run(graph, {"docs": [ref("test:1")]}, CONFIG, request_id="1", references="interrupt")
    assert got["__interrupt__"][0].id == "lg_check"
    assert [one.state for one in saver.runs()] == ["waiting"]
    looks["test:1"] = {}
    done = run(graph, {"docs": [ref("test:1")]}, CONFIG, request_id="1", references="interrupt")
    assert (done["answer"], len(done["docs"])) == ("done", 1)
    assert list(saver.runs()) == []
