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
from tests.patience import aeventually

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
    assert ask(app, "/health/readyz", root_path="/health/") == (200, {"status": "ready"})
    assert ask(app, "/livez", root_path="/health") == (200, {"status": "alive"})  # a server that says the path below
    assert ask(app, "/livez", root_path="/li") == (200, {"status": "alive"})
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
    with pytest.raises(e.InvalidInputError):
        probes.asgi(saver, stalled_after=LONG, timeout=wrong)


class Counting(GCSSaver):
    """Counts what probes ask of the store, which answers when a test lets it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked = 0
        self.answers: asyncio.Event | None = None

    async def aping(self) -> None:
        self.asked += 1
        if self.answers is not None:
            await self.answers.wait()
        await super().aping()

    def runs(self, **options: Any) -> Any:
        self.asked += 1
        return super().runs(**options)


@pytest.fixture
def counting() -> Iterator[Counting]:
    with Counting.from_conn_string("memory:") as saver:
        yield saver


async def answer(app: Any, path: str) -> Any:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "method": "GET"}, asyncio.Event().wait, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_probes_that_ask_at_the_same_time_share_an_answer(counting):
    app = probes.asgi(counting, stalled_after=LONG)

    async def many(path: str) -> None:
        found = await asyncio.gather(*(answer(app, path) for _ in range(20)))
        assert {status for status, _ in found} == {200}

    asyncio.run(many("/readyz"))
    assert counting.asked == 1
    asyncio.run(many("/progress"))
    asyncio.run(many("/progress"))  # in another event loop
    assert counting.asked == 1 + 5  # one list for each state


def test_a_store_that_does_not_answer_is_not_asked_again_and_again(counting):
    app = probes.asgi(counting, stalled_after=LONG, timeout=timedelta(milliseconds=1))

    async def hang() -> None:
        counting.answers = asyncio.Event()
        for _ in range(5):
            assert await answer(app, "/readyz") == (503, {"error": "no-answer"})
        assert await answer(app, "/livez") == (200, {"status": "alive"})
        assert counting.asked == 1
        counting.answers.set()
        status = 503
        while status != 200:
            status, _ = await answer(app, "/readyz")

    asyncio.run(hang())


def test_a_probe_that_hangs_up_leaves_the_others_their_answer(counting):
    app = probes.asgi(counting, stalled_after=LONG)

    async def hang_up() -> None:
        counting.answers = asyncio.Event()
        first = asyncio.ensure_future(answer(app, "/readyz"))
        await aeventually(lambda: counting.asked)
        second = asyncio.ensure_future(answer(app, "/readyz"))
        first.cancel()
        await asyncio.wait({first})
        counting.answers.set()
        assert await second == (200, {"status": "ready"})
        assert counting.asked == 1

    asyncio.run(hang_up())
