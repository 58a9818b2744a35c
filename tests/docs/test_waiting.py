"""The inbox of docs/guides/wait-for-a-person.md, on a thread that waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from langgraph_gcs_saver import GCSSaver, run
from tests.docs.fences import blocks
from tests.patience import PATIENCE

PAGE = [one.text for one in blocks() if one.page == "docs/guides/wait-for-a-person.md" and one.language == "python"]
CONFIG: Any = {"configurable": {"thread_id": "refund-19"}}


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    """What the page defines; a thread waits."""
    with GCSSaver.from_conn_string("memory:") as saver:
        found: dict[str, Any] = {"saver": saver}
        for text in PAGE:
            exec(compile(text, "wait-for-a-person.md", "exec"), found)
        run(found["graph"], {"order": 19}, CONFIG, request_id="order-19")
        yield found


async def test_the_inbox_shows_questions_and_stores_answers(names):
    saver: GCSSaver = names["saver"]
    transport = httpx.ASGITransport(app=names["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://inbox", timeout=PATIENCE) as client:
        (question,) = (await client.get("/questions")).json()
        assert question["thread"] == "refund-19"
        assert question["value"] == {"question": "Refund this order?", "order": 19}

        async def answer(request_id: str) -> httpx.Response:
            url, given = f"/threads/{question['thread']}/answers", {question["id"]: "yes"}
            return await client.post(url, json=given, params={"request_id": request_id})

        async with saver.thread("refund-19").lease():  # as a run has
            busy = await answer("click-3")
            assert (busy.status_code, busy.headers["Retry-After"]) == (503, "5")
        assert [(await answer("click-3")).json() for _ in range(2)] == [{"stored": True}, {"stored": False}]
        assert (await answer("click-4")).status_code == 409
        assert (await client.get("/questions")).json() == []
        assert [one.outcome async for one in saver.recover(names["graph"])] == ["finished"]
        state = await names["graph"].aget_state(CONFIG)
        assert state.values["mail"] == "You get your money back."
