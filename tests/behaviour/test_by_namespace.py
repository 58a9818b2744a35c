"""Options whose value depends on the namespace: what a saver does in each of a run's graphs."""

import operator
from collections import Counter
from datetime import timedelta
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import KeepLast, run
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.events import ThreadPruned
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import cfg, checkpoint, metadata, number, version

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

EXTRACT, INNER, SUMMARY = "extract:1", "extract:1|inner:2", "summary:3"


def put(saver, n, ns="", value=None, parents=None):
    versions = {"x": version(n)}
    values = {"x": f"value {n} of {ns}" if value is None else value}
    described = {**metadata(step=n), "parents": parents or {}}
    saver.put(cfg("t", ns, n - 1 or None), checkpoint(n, values, versions), described, versions)


def ids(saver, ns):
    return [number(one) for one in saver.list(cfg("t", ns))]


def counts(saver):
    return {ns: len(ids(saver, ns)) for ns in ("", EXTRACT, INNER, SUMMARY)}


@LOCAL
@pytest.mark.parametrize("patterns", [{"": "readback", "*": "off"}, {"extract|*": "off", "summary": "checksum"}])
def test_reading_back(make_saver, patterns):
    count = CountingInterceptor()
    saver = make_saver(verify=patterns, interceptors=[count])
    for ns in ("", EXTRACT, INNER, SUMMARY):
        put(saver, 1, ns)  # It also reads what exists of the thread.
        count.clear()
        put(saver, 2, ns)
        assert count.requests["GetDocs"] == (ns == ""), ns
        count.clear()
        saver.put_writes(cfg("t", ns, 2), [("x", 1)], "task")
        assert count.requests["GetDocs"] == (ns == ""), ns
    reader = make_saver()
    assert all(found.checkpoint["channel_values"]["x"] for found in reader.list(cfg("t", None)))
    assert list(reader.admin.verify("t", depth="data")) == []


@LOCAL
def test_checksums(make_saver):
    sent = {}

    class Spy(CountingInterceptor):
        def around(self, effect, perform):
            if type(effect).__name__ == "PutBlob":
                sent.setdefault(self.ns, set()).add(effect.checked)
            return super().around(effect, perform)

    spy = Spy()
    verify = {"extract|*": "off", "summary": "checksum"}
    saver = make_saver(verify=verify, inline_max_bytes={"*": 0}, interceptors=[spy])
    for ns in ("", EXTRACT, INNER, SUMMARY):
        spy.ns = ns
        put(saver, 1, ns)
        saver.put_writes(cfg("t", ns, 1), [("x", 1)], "task")
    assert sent == {"": {True}, EXTRACT: {False}, INNER: {False}, SUMMARY: {True}}


@LOCAL
def test_where_values_are_stored(make_saver):
    count = CountingInterceptor()
    saver = make_saver(inline_max_bytes={"": 0, "extract": 100, "extract|*": 8 << 10}, interceptors=[count])
    value = "".join(f"{n:x}" for n in range(300))  # It is compressed to some hundred bytes.
    found = {}
    for ns in ("", EXTRACT, INNER, SUMMARY):
        count.clear()
        put(saver, 1, ns, value)
        at_put = count.requests["PutBlob"]
        saver.put_writes(cfg("t", ns, 1), [("x", 1)], "task")
        found[ns] = at_put, count.requests["PutBlob"] - at_put
    assert found == {"": (1, 1), EXTRACT: (1, 0), INNER: (0, 0), SUMMARY: (0, 0)}
    for ns in found:
        assert make_saver().get_tuple(cfg("t", ns)).checkpoint["channel_values"] == {"x": value}


@LOCAL
def test_operations_belong_to_the_root(make_saver):
    count = CountingInterceptor()
    saver = make_saver(inline_max_bytes={"": 0}, verify={"*": "readback"}, interceptors=[count])
    saver.thread("t").operations.once("work", lambda _: "result", request={}, key="1")
    assert count.requests["PutBlob"] == 1
    count = CountingInterceptor()
    saver = make_saver(inline_max_bytes={"*": 0, "": 8 << 10}, interceptors=[count])
    saver.thread("t").operations.once("work", lambda _: "result", request={}, key="2")
    assert count.requests["PutBlob"] == 0


@LOCAL
def test_all_namespaces_share_the_caches(make_saver):
    count = CountingInterceptor()
    saver = make_saver(verify={"extract": "off"}, interceptors=[count])
    put(saver, 1, EXTRACT)
    count.clear()
    put(saver, 2, EXTRACT)
    assert count.rounds == [("Commit",)], "the parent is in memory"


RULES = {"": KeepLast(3), "extract": KeepLast(2), "extract|*": KeepLast(1)}


def fill(saver):
    for n in range(1, 7):
        put(saver, n)
    for ns in (EXTRACT, INNER, SUMMARY):
        for n in range(1, 6):
            # The call of the latest root checkpoint.
            put(saver, n, ns, parents={"": cfg(n=6)["configurable"]["checkpoint_id"]})


def test_prune(make_saver):
    fill(make_saver())
    saver = make_saver()
    assert counts(saver) == {"": 6, EXTRACT: 5, INNER: 5, SUMMARY: 5}
    (plan,) = saver.admin.plan_prune(["t"], strategy=RULES)
    assert counts(saver) == {"": 6, EXTRACT: 5, INNER: 5, SUMMARY: 5}
    assert f"  {cfg(n=1)['configurable']['checkpoint_id']} ({SUMMARY}): keep, no rule for its namespace" in str(plan)
    saver.prune(["t"], strategy=RULES)
    assert counts(make_saver()) == {"": 3, EXTRACT: 2, INNER: 1, SUMMARY: 5}
    saver.admin.collect("t", orphan_age=timedelta())
    assert list(make_saver().admin.verify("t", depth="data")) == []
    assert counts(make_saver()) == {"": 3, EXTRACT: 2, INNER: 1, SUMMARY: 5}


def test_what_a_plan_shows_is_what_is_removed(make_saver):
    fill(make_saver())
    saver = make_saver()
    (plan,) = saver.admin.plan_prune(["t"], strategy=RULES)
    put(saver, 7)
    saver.admin.carry_out(plan)
    assert counts(make_saver()) == {"": 4, EXTRACT: 2, INNER: 1, SUMMARY: 5}


@LOCAL
@pytest.mark.parametrize("strategy", [{"a:1": KeepLast(1)}, {"": 1}, {"": "keep_latest"}, {1: KeepLast(1)}])
def test_strategies_that_are_none(make_saver, strategy):
    saver = make_saver()
    fill(saver)
    for prune in (saver.prune, saver.admin.prune, saver.admin.plan_prune):
        with pytest.raises(InvalidOptionError):
            list(prune(["t"], strategy=strategy))
    assert counts(saver)[""] == 6


class State(TypedDict):
    request: str


class Memory(TypedDict):
    """The graphs share the request only. A memory that is returned to the root would double with each call."""

    request: str
    memory: Annotated[list[str], operator.add]


def test_the_saver_prunes_each_graph_by_its_rule(make_saver):
    """The root keeps little, one subgraph less, and the other one everything."""

    def agent(name):
        graph = StateGraph(Memory).add_node("think", lambda _: {"memory": [name]}).add_edge(START, "think")
        return graph.compile(checkpointer=True)

    pruned = []
    rules = {"": KeepLast(4), "extract|*": KeepLast(1)}
    with make_saver(retention=rules, on_event=pruned.append) as saver:
        builder = StateGraph(State).add_node("extract", agent("extract")).add_node("keep", agent("keep"))
        graph = builder.add_edge(START, "extract").add_edge("extract", "keep").compile(checkpointer=saver)
        for n in range(12):  # 4 supersteps each, so the saver prunes 3 times.
            run(graph, {"request": str(n)}, cfg("t", None), request_id=str(n))
    assert any(isinstance(one, ThreadPruned) for one in pruned)
    reader = make_saver()
    found = Counter(one.config["configurable"]["checkpoint_ns"] for one in reader.list(cfg("t", None)))
    # Beside the latest ones, a subgraph keeps the states from which the kept checkpoints of the root would resume.
    assert found[""] < 4 + 16
    assert found["extract"] < 12
    assert found["keep"] == 12 * 3
    state = reader.get_tuple(cfg("t", "extract")).checkpoint["channel_values"]
    assert state["memory"] == ["extract"] * 12
    assert list(reader.admin.verify("t", depth="data")) == []
