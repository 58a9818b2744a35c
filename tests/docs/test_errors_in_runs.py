"""The last table of docs/guides/cloud-tasks.md: which errors run a node again, and what the same request does then."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import httpx
import pytest
import requests
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy

from langgraph_gcs_saver import GCSSaver, errors, run
from tests.docs.fences import ROOT

RETRIED: dict[str, tuple[bool, Callable[[], BaseException]]] = {
    "ValueError": (False, lambda: ValueError("no")),
    "TypeError": (False, lambda: TypeError("no")),
    "RuntimeError": (False, lambda: RuntimeError("no")),
    "ConnectionError": (True, lambda: ConnectionError("no")),
    "httpx": (True, lambda: httpx.HTTPStatusError("no", request=HTTPX.request, response=HTTPX)),
    "requests": (True, lambda: requests.HTTPError("no", response=REQUESTS)),
    "ThreadBusyError": (False, lambda: errors.ThreadBusyError("no", thread_id="t")),
    "FencedError": (False, lambda: errors.FencedError("no", thread_id="t")),
    "GraphDrained": (False, lambda: GraphDrained("no")),
    "OutcomeUnknownError": (False, lambda: errors.OutcomeUnknownError("no", thread_id="t", key="k")),
    "GraphRecursionError": (False, lambda: GraphRecursionError("no")),
    "StoreUnavailableError": (True, lambda: errors.StoreUnavailableError("no")),
}
"""Whether `RetryPolicy()` has a node run again, by the errors of the table."""

HTTPX = httpx.Response(503, request=httpx.Request("GET", "http://127.0.0.1"))
REQUESTS = requests.Response()
REQUESTS.status_code = 503


def test_the_table_has_these_errors():
    text = (ROOT / "docs" / "guides" / "cloud-tasks.md").read_text(encoding="utf-8")
    _, _, table = text.rpartition("| error |")
    found = {}
    for line in table.splitlines()[2:]:
        _, names, is_retried, *_ = line.split("|")
        for name in re.findall("`([A-Za-z]+)`", names):
            found[name] = {"yes": True, "no": False}[is_retried.strip()]
    assert found == {name: is_retried for name, (is_retried, _) in RETRIED.items()}


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]


@pytest.mark.parametrize("name", RETRIED)
def test_what_an_error_does_to_a_node_and_to_its_run(name):
    is_retried, make = RETRIED[name]
    ran: list[str] = []
    failing = True

    def first(state: State) -> dict[str, Any]:
        ran.append("first")
        return {"log": ["first"]}

    def second(state: State) -> dict[str, Any]:
        ran.append("second")
        if failing:
            raise make()
        return {"log": ["second"]}

    build = StateGraph(State).add_node(first)
    build.add_node(second, retry_policy=RetryPolicy(max_attempts=2, initial_interval=0.001, jitter=False))
    build.add_edge(START, "first").add_edge("first", "second")
    with GCSSaver.from_conn_string("memory:") as saver:
        graph = build.compile(checkpointer=saver)
        request = {"config": {"configurable": {"thread_id": "t"}}, "request_id": "1", "durability": "sync"}
        with pytest.raises(type(make())):
            run(graph, {"log": ["in"]}, **request)
        assert ran == ["first", "second", *(["second"] if is_retried else [])]
        failing = False
        assert run(graph, {"log": ["in"]}, **request)["log"] == ["in", "first", "second"]
        assert ran.count("first") == 1
