"""The health endpoints, asked as a server would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver, probes
from langgraph_gcs_saver import errors as e
from tests.behaviour.test_work import World, config, fail, run

LONG, SHORT = timedelta(hours=1), timedelta(microseconds=1)


@pytest.fixture
def saver() -> Iterator[GCSSaver]:
    with GCSSaver.from_conn_string("memory:") as saver:
        yield saver


def ask(app: Any, path: str, method: str = "GET", **scope: Any) -> tuple[int, Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path, "method": method, **scope}, receive, send))
    start, body = sent
    return start["status"], json.loads(body["body"] or "null")


def test_a_process_that_serves_is_alive_and_ready(saver):
    app = probes.asgi(saver, stalled_after=LONG)
    assert ask(app, "/livez") == (200, {"status": "alive"})
    assert ask(app, "/readyz") == (200, {"status": "ready"})
    assert ask(app, "/health/readyz", root_path="/health") == (200, {"status": "ready"})
    assert ask(app, "/livez", "HEAD") == (200, None)
    assert ask(app, "/other") == (404, {"error": "not found"})
    assert ask(app, "/livez", "POST") == (405, {"error": "method not allowed"})


def test_a_process_whose_store_is_gone_is_alive_and_not_ready(saver):
    app = probes.asgi(saver, stalled_after=LONG)
    saver.close()
    assert ask(app, "/livez")[0] == 200
    for path in ("/readyz", "/progress"):
        assert ask(app, path) == (503, {"error": "closed"})


def test_progress_tells_whether_a_thread_is_stalled(saver):
    world = World()
    graph = world.graph(saver, ask=("sure?",))
    run(graph, {"log": ["in"]}, config("waiting"))
    assert ask(probes.asgi(saver, stalled_after=SHORT), "/progress")[0] == 200
    world.failing = {"b"}
    fail(graph, "crashed")
    threads = {"running": 0, "crashed": 1, "paused": 0, "due": 0, "poison": 0}
    assert ask(probes.asgi(saver, stalled_after=LONG), "/progress") == (200, {"stalled": 0, "threads": threads})
    assert ask(probes.asgi(saver, stalled_after=SHORT), "/progress") == (503, {"stalled": 1, "threads": threads})


def test_the_application_lives_as_long_as_its_server(saver):
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(probes.asgi(saver, stalled_after=LONG)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize("wrong", [60, timedelta()])
def test_a_wrong_time_is_refused(saver, wrong):
    with pytest.raises(e.InvalidInputError):
        probes.asgi(saver, stalled_after=wrong)
