"""An agent in several processes: one run of a thread at a time, and four things that a second request may do."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from langchain_core.messages import AIMessage
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, Field

from langgraph_gcs_saver import GCSSaver, operations
from langgraph_gcs_saver.errors import (
    FencedError,
    OperationInProgressError,
    OperationMismatchError,
    ThreadBusyError,
)

QUEUE_SECONDS = 30
"""How long a request waits for the run before it."""

RETRY_SECONDS = 5
"""When a client may try again after its run was paused."""


async def reply(text: str) -> str:
    """Call your model here."""
    return f"That has {len(text.split())} words."


async def charge(key: str) -> dict[str, str]:
    """Call your payment provider here, with the key."""
    return {"receipt": f"receipt-of-{key}"}


class State(MessagesState):
    draft: str


async def draft(state: State) -> dict[str, Any]:
    return {"draft": await reply(state["messages"][-1].content)}


async def answer(state: State) -> dict[str, Any]:
    return {"messages": [AIMessage(state["draft"])]}


async def pay(state: State) -> dict[str, Any]:
    _, order, _, cents = state["messages"][-1].content.split()  # "Order 17 for 990"
    request = {"order": order, "cents": int(cents)}
    # The order is known in the whole store, so two threads cannot both pay it.
    paid = await operations().aonce("charge", charge, request=request, key=f"order-{order}", scope="store")
    return {"messages": [AIMessage(f"Paid: {paid['receipt']}")]}


def first(state: State) -> str:
    return "pay" if state["messages"][-1].content.startswith("Order ") else "draft"


builder = StateGraph(State).add_node(draft).add_node(answer).add_node(pay)
builder.add_conditional_edges(START, first, ["pay", "draft"]).add_edge("pay", END)
builder.add_edge("draft", "answer").add_edge("answer", END)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One saver for the process, closed when it ends. It stores nothing for a run that has no lease."""
    async with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"], writers="leased") as saver:
        app.state.saver = saver
        app.state.agent = builder.compile(checkpointer=saver)
        yield


app = FastAPI(lifespan=lifespan)


class Run(BaseModel):
    """A message for a thread.

    Attributes:
        message: What the user says.
        if_busy: What to do if the thread is running.
        request_id: The client's name for the request. If it tries again with the same one, nothing is applied twice.
    """

    message: str
    if_busy: Literal["reject", "enqueue", "interrupt", "rollback"] = "reject"
    request_id: str = Field(default_factory=lambda: str(uuid4()))


LEASES: dict[str, dict[str, Any]] = {
    "reject": {},
    "enqueue": {"wait": QUEUE_SECONDS},
    "interrupt": {"take_over": True},
    "rollback": {"take_over": True},
}
"""What to pass to `lease` for each."""


@app.post("/threads/{thread_id}/runs")
async def run(thread_id: str, request: Run) -> dict[str, Any]:
    """Run the agent, and return the thread's messages."""
    async with app.state.saver.thread(thread_id).lease(**LEASES[request.if_busy]) as lease:
        if request.if_busy == "rollback" and lease.former_run_id is not None:
            await app.state.saver.adelete_for_runs([lease.former_run_id])
        config = {**lease.config, "metadata": {"request_id": request.request_id}}
        given: Any = {"messages": [("human", request.message)]}
        if await is_stored(config):
            given = None  # This request was cut off. Its input is stored, so resume.
        state = await app.state.agent.ainvoke(given, config, durability="sync")
    return {"messages": [{"type": one.type, "content": one.content} for one in state["messages"]]}


async def is_stored(config: Any) -> bool:
    """Whether an earlier try has stored the request's input."""
    async for _ in app.state.agent.aget_state_history(config, filter=config["metadata"], limit=1):
        return True
    return False


@app.post("/threads/{thread_id}/pause")
async def pause(thread_id: str) -> dict[str, bool]:
    """Have the run end after the step that it is in. To resume it, send its request again."""
    return {"asked": await app.state.saver.thread(thread_id).apause()}


STATUS = {
    ThreadBusyError: 409,
    FencedError: 409,
    OperationInProgressError: 409,
    OperationMismatchError: 422,
    GraphDrained: 503,
}
"""HTTP statuses of errors that a client can act on."""


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """What the client gets for one of `STATUS`: a word to branch on, and a text to read."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
    return JSONResponse({"kind": getattr(error, "kind", "paused"), "detail": str(error)}, status, headers)


for kind_of_error in STATUS:
    app.add_exception_handler(kind_of_error, answer_error)


@app.get("/health")
async def health() -> dict[str, str]:
    """For liveness."""
    return {"status": "ok"}
