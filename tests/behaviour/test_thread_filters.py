"""The filters of `threads`: what is listed is true, and little is read for it."""

import asyncio
import operator
import random
from datetime import datetime, timedelta, timezone
from typing import Annotated, TypedDict

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.format import keys
from tests.behaviour.api import cfg, checkpoint, metadata, version
from tests.kit.interceptors import Seen
from tests.system.raw import open_raw

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)
BOTH = pytest.mark.parametrize("mode", ["sync", "async"])


def put(saver, thread, n=1, **more):
    versions = {"text": version(n)}
    parent = n - 1 or None
    return saver.put(cfg(thread, n=parent), checkpoint(n, {"text": "x" * 100}, versions), metadata(**more), versions)


def names(threads):
    return [thread.thread_id for thread in threads]


def asked(saver, mode, **wanted):
    return asyncio.run(saver.admin.athreads(**wanted)) if mode == "async" else saver.admin.threads(**wanted)


# What is listed

LONG = "long " * 60
IDS = (
    "",
    "a",
    "ab",
    "abc",
    "a/b",
    "a.b",
    "a%2Eb",
    "ä",
    "äb",
    "~",
    "z~",
    "user-1",
    "user-10",
    LONG,
    LONG + "er",
    "ab" * 150,
)


PREFIXES = ("", "a", "ab", "abab", "ä", ".", "a.", "%", "~", "user-1", "long ", LONG, LONG + "e", "none")
FEW_PREFIXES = ("", "a", LONG)
"""A listing with a prefix sends a thousand requests, which takes the emulators a second."""


@pytest.mark.parametrize(
    ("store_uri", "mode", "prefixes"),
    [("local", "sync", PREFIXES), ("local", "async", FEW_PREFIXES), ("emulators", "async", FEW_PREFIXES)],
    indirect=["store_uri"],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} prefixes",
)
def test_a_prefix(make_saver, mode, prefixes):
    """A range of names finds what comparing each id would, whatever characters they have and however long they are."""
    saver = make_saver()
    for thread in IDS:
        put(saver, thread)
    everything = names(saver.admin.threads())
    assert sorted(everything) == sorted(IDS)
    for prefix in prefixes:
        expected = [thread for thread in everything if thread.startswith(prefix)]
        assert names(asked(saver, mode, prefix=prefix)) == expected, prefix
        assert names(asked(saver, mode, prefix=prefix, limit=100)) == expected, prefix
        assert names(asked(saver, mode, prefix=prefix, limit=1)) == expected[:1], prefix


@LOCAL
def test_a_prefix_reads_the_threads_that_it_names_and_no_other(make_saver):
    saver = make_saver()
    for thread in range(40):
        put(saver, f"other-{thread}")
        put(saver, f"{'long ' * 50}-{thread}")
    for n in range(1, 4):
        put(saver, "mine-1", n)
    put(saver, "mine-2")
    reads = Seen()
    reader = make_saver(interceptors=[reads])
    assert {thread.thread_id: thread.checkpoints for thread in reader.admin.threads(prefix="mine-")} == {
        "mine-1": 3,
        "mine-2": 1,
    }
    readable = [name for name in reads.docs if keys.thread_id_of(keys.thread_segment_of(name)) is not None]
    assert {keys.thread_id_of(keys.thread_segment_of(name)) for name in readable} == {"mine-1", "mine-2"}
    assert len(reads.requests) == 2 * 512


@LOCAL
def test_a_limit_reads_the_manifests_of_the_threads_that_it_lists(make_saver):
    saver = make_saver()
    for thread in range(50):
        put(saver, f"t{thread}")
    reads = Seen()
    found = make_saver(interceptors=[reads]).admin.threads(limit=3)
    assert names(found) == ["t49", "t48", "t47"]
    assert [thread.checkpoints for thread in found] == [1, 1, 1]
    checkpoints = [name for name in reads.docs if f"/{keys.CHECKPOINTS}/" in name]
    assert {keys.thread_id_of(keys.thread_segment_of(name)) for name in checkpoints} == {"t49", "t48", "t47"}
    assert saver.admin.threads(limit=0) == []


@BOTH
def test_since(make_saver, mode):
    saver = make_saver()
    for thread in ("old", "new"):
        put(saver, thread)
    newest, oldest = saver.admin.threads()
    assert names([newest, oldest]) == ["new", "old"]
    between = datetime.fromtimestamp((newest.active + oldest.active) / 2, timezone.utc)
    assert names(asked(saver, mode, since=between)) == ["new"]
    # Without a zone it is local time, as everywhere in Python.
    assert names(asked(saver, mode, since=between.astimezone().replace(tzinfo=None))) == ["new"]
    assert names(asked(saver, mode, since=between - timedelta(days=1), limit=1)) == ["new"]
    assert asked(saver, mode, since=between + timedelta(days=1)) == []


def test_a_thread_without_its_document_is_listed_last(make_saver, store_uri):
    saver = make_saver()
    for thread in ("lost", "t1", "t2"):
        put(saver, thread)
    raw = open_raw(store_uri)
    raw.delete_document(keys.thread_doc("lost"))
    raw.close()
    assert names(saver.admin.threads()) == names(saver.admin.threads(limit=3)) == ["t2", "t1", "lost"]
    assert names(saver.admin.threads(limit=2)) == ["t2", "t1"]
    assert names(saver.admin.threads(prefix="lo")) == names(saver.admin.threads(prefix="lo", limit=5)) == ["lost"]
    assert names(saver.admin.threads(since=datetime(2000, 1, 1, tzinfo=timezone.utc))) == ["t2", "t1"]


def test_damaged(make_saver, store_uri):
    saver = make_saver()
    for thread in ("well", "ill"):
        for n in (1, 2):
            put(saver, thread, n)
    raw = open_raw(store_uri)
    name = keys.checkpoint_doc("ill", "", checkpoint(1, {}, {})["id"])
    raw.set_document(name, {**raw.documents()[name], "manifest": b"?"})
    raw.close()
    for wanted in ({}, {"limit": 1}, {"prefix": "i"}, {"since": datetime(2000, 1, 1, tzinfo=timezone.utc)}):
        (found,) = saver.admin.threads(damaged=True, **wanted)
        assert (found.thread_id, found.damaged, found.checkpoints) == ("ill", 1, 2)
    assert saver.admin.threads(damaged=True, prefix="w") == []


@LOCAL
def test_a_damaged_tip_tells_nothing_of_what_comes_next(make_saver, store_uri):
    saver = make_saver()
    put(saver, "t")
    saver.put_writes(cfg("t", n=1), [("__interrupt__", "?")], "task")
    assert names(saver.admin.threads(waiting=True)) == ["t"]
    raw = open_raw(store_uri)
    name = keys.checkpoint_doc("t", "", checkpoint(1, {}, {})["id"])
    raw.set_document(name, {**raw.documents()[name], "manifest": b"?"})
    raw.close()
    assert saver.admin.threads(waiting=True) == saver.admin.threads(unfinished=True) == []
    assert names(saver.admin.threads(damaged=True)) == ["t"]


@LOCAL
@pytest.mark.parametrize(
    "wanted",
    [
        {"prefix": 1},
        {"prefix": None},
        {"since": 5},
        {"since": datetime.min},  # noqa: DTZ901 - the system cannot convert it from local time
        {"limit": "1"},
        {"limit": -1},
        {"limit": 1.5},
    ],
)
def test_what_is_no_filter(make_saver, wanted):
    with pytest.raises(InvalidInputError, match=next(iter(wanted))):
        make_saver().admin.threads(**wanted)


def test_more_threads_than_a_page_has(make_saver, monkeypatch):
    from langgraph_gcs_saver.flows import catalogue

    monkeypatch.setattr(catalogue, "DOCS_PER_PAGE", 3)
    monkeypatch.setattr(catalogue, "_TOGETHER", 2)
    saver = make_saver()
    order = [f"t{number}" for number in range(10)]
    random.Random(5).shuffle(order)
    for thread in order:
        for n in range(1, 5):
            put(saver, thread, n)
        if thread in {"t3", "t7"}:
            saver.put_writes(cfg(thread, n=4), [("__interrupt__", "?")], "task")
    newest = order[::-1]
    for limit in (None, 4, 20):
        found = saver.admin.threads(limit=limit)
        assert names(found) == newest[:limit]
        assert {thread.checkpoints for thread in found} == {4}
        assert names(saver.admin.threads(limit=limit, waiting=True)) == [
            name for name in newest if name in {"t3", "t7"}
        ]
    assert names(saver.admin.threads(limit=1, waiting=True)) == [name for name in newest if name in {"t3", "t7"}][:1]


# What comes next, of graphs of all kinds


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


class Crash(BaseException):
    """As if the process had ended."""


def works(name):
    return lambda _: {"log": [name]}


def fails(_):
    raise RuntimeError("a node fails")


def asks(_):
    return {"log": [interrupt("?")]}


def line(node):
    return StateGraph(State).add_node("a", works("a")).add_node("b", node).add_edge(START, "a").add_edge("a", "b")


def join(node, **how):
    graph = StateGraph(State).add_node("a+b", works("a")).add_node("c", works("c")).add_node("d", node, **how)
    graph.add_edge(START, "a+b").add_edge(START, "c").add_edge(["a+b", "c"], "d")
    return graph.add_edge("d", END)


def half_join(_):
    """One of the two nodes that a join waits for never runs."""
    graph = StateGraph(State).add_node("a", works("a")).add_node("b", works("b")).add_node("d", works("d"))
    return graph.add_edge(START, "a").add_edge(["a", "b"], "d")


def deferred(node):
    graph = StateGraph(State).add_node("a", works("a")).add_node("b", works("b")).add_node("c", node, defer=True)
    return graph.add_edge(START, "a").add_edge("a", "b").add_edge("a", "c").add_edge("b", "c")


def packets(node):
    graph = StateGraph(State).add_node("a", works("a")).add_node("b", node)
    return graph.add_edge(START, "a").add_conditional_edges("a", lambda _: [Send("b", {}), Send("b", {})], ["b"])


def nested(node):
    inner = StateGraph(State).add_node("inner", node).add_edge(START, "inner").compile()
    return StateGraph(State).add_node("outer", inner).add_edge(START, "outer")


KINDS = {
    "line": line,
    "join": join,
    "deferred join": lambda node: join(node, defer=True),
    "deferred": deferred,
    "packets": packets,
    "nested": nested,
}


def run(graph, given, thread):
    """Run a graph; whatever it raises is how it ended."""
    try:
        graph.invoke(given, cfg(thread), durability="sync")
    except (RuntimeError, Crash) as error:
        return error
    return None


def told(saver, thread):
    """Whether a thread is listed as waiting, and as unfinished, both alone and among others."""
    for wanted in ({}, {"limit": 9}, {"prefix": thread}):
        found = [thread in names(saver.admin.threads(**{what: True}, **wanted)) for what in ("waiting", "unfinished")]
        if not wanted:
            first = found
        assert found == first, wanted
    (info,) = saver.admin.threads(waiting=True, unfinished=True) or [None]
    assert (info is not None) == all(first)
    return tuple(first)


@LOCAL
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_has_finished(make_saver, kind):
    saver = make_saver()
    assert run(KINDS[kind](works("end")).compile(checkpointer=saver), {"log": []}, "t") is None
    assert told(saver, "t") == (False, False)


@LOCAL
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_which_a_node_fails(make_saver, kind):
    saver = make_saver()
    assert isinstance(run(KINDS[kind](fails).compile(checkpointer=saver), {"log": []}, "t"), RuntimeError)
    assert told(saver, "t") == (False, True)
    # The node has been fixed.
    assert run(KINDS[kind](works("end")).compile(checkpointer=saver), None, "t") is None
    assert told(saver, "t") == (False, False)


@LOCAL
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_asks(make_saver, kind):
    saver = make_saver()
    graph = KINDS[kind](asks).compile(checkpointer=saver)
    assert run(graph, {"log": []}, "t") is None
    assert told(saver, "t") == (True, True)
    asked_by = graph.get_state(cfg("t")).interrupts
    run(graph, Command(resume={one.id: "yes" for one in asked_by}), "t")
    assert told(saver, "t") == (False, False)


@LOCAL
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", range(1, 6))
def test_a_process_that_ends_before_a_checkpoint(make_saver, kind, at):
    """The step's writes are stored and its checkpoint is not: `next` of the state may be empty, and work is due."""
    saver = make_saver()
    original, count = saver.put, 0

    def put(*arguments):
        nonlocal count
        count += 1
        if count > at:
            raise Crash
        return original(*arguments)

    saver.put = put
    ended = run(KINDS[kind](works("end")).compile(checkpointer=saver), {"log": []}, "t")
    del saver.put
    if ended is None:
        assert told(saver, "t") == (False, False)
        return
    assert told(saver, "t") == (False, True)
    graph = KINDS[kind](works("end")).compile(checkpointer=saver)
    assert run(graph, None, "t") is None
    assert told(saver, "t") == (False, False)


@LOCAL
def test_a_state_that_says_nothing_is_next_while_work_is_due(make_saver):
    """The case that a person asks about: all nodes of the last step have written, and the process was killed then."""
    saver = make_saver()
    graph = line(works("end")).compile(checkpointer=saver)
    original = saver.put

    def put(config, one, *more):
        if any(name == "log" and len(value) == 2 for name, value in one["channel_values"].items()):
            raise Crash
        return original(config, one, *more)

    saver.put = put
    assert isinstance(run(graph, {"log": []}, "t"), Crash)
    del saver.put
    assert graph.get_state(cfg("t")).next == ()
    assert told(saver, "t") == (False, True)


@LOCAL
def test_one_of_two_that_ask_has_been_answered(make_saver):
    saver = make_saver()
    graph = packets(asks).compile(checkpointer=saver)
    run(graph, {"log": []}, "t")
    one, other = graph.get_state(cfg("t")).interrupts
    run(graph, Command(resume={one.id: "yes"}), "t")
    assert told(saver, "t") == (True, True)
    run(graph, Command(resume={other.id: "yes"}), "t")
    assert told(saver, "t") == (False, False)


@LOCAL
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_a_node_has_used_when_the_process_ends(make_saver, kind):
    """No answer is waited for, though the question is still stored at the newest checkpoint."""
    saver = make_saver()
    graph = KINDS[kind](asks).compile(checkpointer=saver)
    run(graph, {"log": []}, "t")
    answers = {one.id: "yes" for one in graph.get_state(cfg("t")).interrupts}
    original = saver.put

    def put(config, *more):
        if not config["configurable"]["checkpoint_ns"]:
            raise Crash
        return original(config, *more)

    saver.put = put
    assert isinstance(run(graph, Command(resume=answers), "t"), Crash)
    del saver.put
    assert told(saver, "t") == (False, True)


@LOCAL
@pytest.mark.parametrize("channel", ["branch:to:b", "__start__"])
def test_a_node_is_due_until_it_has_seen_the_version(make_saver, channel):
    saver = make_saver()
    for thread, seen in (("new", version(1)), ("seen", version(2))):
        one = checkpoint(1, {channel: "x"}, {channel: version(2)})
        one["versions_seen"] = {"b": {channel: seen}, "c": {channel: version(1)}}
        saver.put(cfg(thread), one, metadata(), {channel: version(2)})
    assert names(saver.admin.threads(unfinished=True)) == ["new"]


@LOCAL
def test_a_join_that_waits_for_ever_is_finished(make_saver):
    saver = make_saver()
    assert run(half_join(None).compile(checkpointer=saver), {"log": []}, "t") is None
    assert told(saver, "t") == (False, False)


@LOCAL
@pytest.mark.parametrize(("kind", "last"), list(zip(KINDS, ("b", "d", "d", "c", "b", "outer"), strict=True)))
def test_a_breakpoint_leaves_work_and_no_question(make_saver, kind, last):
    """Nothing but the checkpoint says so: there are no pending writes."""
    saver = make_saver()
    graph = KINDS[kind](works("end")).compile(checkpointer=saver, interrupt_before=[last])
    run(graph, {"log": []}, "t")
    assert not saver.get_tuple(cfg("t")).pending_writes
    assert told(saver, "t") == (False, True)
    run(graph, None, "t")
    assert told(saver, "t") == (False, False)


@LOCAL
def test_values_of_another_serializer(make_saver):
    """What a join or a packet says cannot be read then; what a name says can."""

    class Foreign(JsonPlusSerializer):
        def dumps_typed(self, obj):
            kind, data = super().dumps_typed(obj)
            return f"own {kind}", data

        def loads_typed(self, data):
            return super().loads_typed((data[0].removeprefix("own "), data[1]))

    saver = make_saver(serde=Foreign())
    for kind, is_known in (("line", True), ("join", False)):
        last = {"line": "b", "join": "d"}[kind]
        run(KINDS[kind](works("end")).compile(checkpointer=saver, interrupt_before=[last]), {"log": []}, kind)
        assert (kind in names(saver.admin.threads(unfinished=True))) == is_known


@LOCAL
def test_an_update_that_leaves_work(make_saver):
    saver = make_saver()
    graph = line(works("end")).compile(checkpointer=saver)
    run(graph, {"log": []}, "t")
    graph.update_state(cfg("t"), {"log": ["more"]}, as_node="a")
    assert told(saver, "t") == (False, True)
    graph.update_state(cfg("t"), {"log": ["more"]}, as_node="b")
    assert told(saver, "t") == (False, False)


@LOCAL
def test_functions(make_saver):
    saver = make_saver()
    failing = True

    @task
    def part(_):
        if failing:
            raise RuntimeError("a task fails")
        return "done"

    @entrypoint(checkpointer=saver)
    def work(given):
        return [part(given).result(), interrupt("?")]

    assert isinstance(run(work, "x", "t"), RuntimeError)
    assert told(saver, "t") == (False, True)
    failing = False
    run(work, None, "t")
    assert told(saver, "t") == (True, True)
    run(work, Command(resume="yes"), "t")
    assert told(saver, "t") == (False, False)
