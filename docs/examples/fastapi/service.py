"""An agent as a service: runs are streamed, and questions to a person wait until they are answered."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from signal import SIGTERM
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, StreamingResponse
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, RemoveMessage, convert_to_messages
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Interrupt, Overwrite, interrupt
from pydantic import BaseModel, Field

from langgraph_gcs_saver import GCSSaver, astream, cadence
from langgraph_gcs_saver.errors import (
    FencedError,
    NotPrimaryError,
    StoreError,
    StoreUnavailableError,
    ThreadBusyError,
)

logger = logging.getLogger("uvicorn.error")

READY_SECONDS = 5
"""How long `/ready` waits for the store: less than its probes wait."""

RETRY_SECONDS = 5
"""When a client may try again."""


async def reply(text: str) -> str:
    """Call your model here."""
    return f"That has {len(text.split())} words."


async def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage(await reply(state["messages"][-1].content))]}


def approve(state: MessagesState) -> dict[str, Any]:
    decision = interrupt({"question": "Publish it?", "text": state["messages"][-2].content})
    return {"messages": [AIMessage("Published." if decision == "yes" else "Discarded.")]}


def after_answer(state: MessagesState) -> str:
    return "approve" if state["messages"][-2].content.startswith("Publish:") else END


builder = StateGraph(MessagesState).add_node(answer).add_node(approve)
builder.add_edge(START, "answer").add_conditional_edges("answer", after_answer).add_edge("approve", END)


def make_agent(saver: GCSSaver) -> Any:
    """Yours goes here: `create_agent(model, tools, middleware=[...], checkpointer=saver)`, or any graph."""
    return builder.compile(checkpointer=saver)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One saver for the process, closed when it ends."""
    async with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"]) as saver:
        app.state.saver = saver
        app.state.agent = make_agent(saver)
        yield


app = FastAPI(lifespan=lifespan)


class Run(BaseModel):
    """A message begins a run, and answers resume one at its questions. Without either, a run that was cut off resumes.

    Attributes:
        message: What the user says.
        answers: Answers by the ids of their questions.
        request_id: The client's name for the request. If it tries again with the same one, nothing is applied twice.
    """

    message: str | None = None
    answers: dict[str, Any] | None = None
    request_id: str = Field(default_factory=lambda: str(uuid4()))


def config_of(thread_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread_id}}


def messages_of(update: Any) -> list[BaseMessage]:
    """The messages in what a node returned; middleware may return nothing, and parallel tools a list of updates."""
    found: list[BaseMessage] = []
    for one in update if isinstance(update, list) else [update]:
        given = one.get("messages") if isinstance(one, dict) else None
        if isinstance(given, Overwrite):
            given = given.value
        if given is not None:
            found += convert_to_messages(given if isinstance(given, list) else [given])
    return [one for one in found if not isinstance(one, RemoveMessage)]


def told(message: BaseMessage) -> dict[str, Any]:
    return {"type": message.type, "content": message.content}


def asked(question: Interrupt) -> dict[str, Any]:
    return {"id": question.id, "value": question.value}


def event(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(jsonable_encoder(data))}\n\n"


@app.post("/threads/{thread_id}/runs")
async def run(thread_id: str, request: Run) -> StreamingResponse:
    """Run the agent; tokens, finished steps and questions come as server-sent events."""
    parts = astream(
        app.state.agent,
        await given_by(thread_id, request),
        config_of(thread_id),
        request_id=request.request_id,
        stream_mode=["updates", "messages"],
        durability="sync",  # a step begins when the one before it is stored, so a crash loses one step at most
        policy=cadence.Signal(SIGTERM),
        owner=os.environ.get("WORKER_NAME"),
    )
    first = await anext(parts, None)  # takes the lease, or raises one of `STATUS` while the status is still open
    return StreamingResponse(events(first, parts), media_type="text/event-stream")


async def given_by(thread_id: str, request: Run) -> Any:
    """What to run the agent with; `None` if it has only to continue."""
    if request.message is not None:
        return {"messages": [("human", request.message)]}
    status = await app.state.saver.thread(thread_id).astatus()
    if status.state == "empty":
        raise HTTPException(404, "There is no such thread.")
    if request.answers is not None and {one.id for one in status.questions} & set(request.answers):
        return Command(resume=request.answers)
    return None


async def events(first: Any, parts: Any) -> AsyncIterator[str]:
    """The server-sent events of a run."""
    try:
        async with aclosing(parts):
            if first is not None:
                for one in shown(*first):
                    yield one
            async for part in parts:
                for one in shown(*part):
                    yield one
    except tuple(STATUS) as error:
        yield event("error", {"status": status_of(error), "retry_after": RETRY_SECONDS})
    else:
        yield event("end", {})


def shown(mode: str, part: Any) -> list[str]:
    """The events of one part of the stream."""
    if mode == "messages":
        message, metadata = part
        is_token = isinstance(message, AIMessageChunk) and message.text
        return [event("token", {"node": metadata["langgraph_node"], "text": message.text})] if is_token else []
    found = []
    for node, update in part.items():
        if node == "__interrupt__":
            found += [event("question", asked(question)) for question in update]
        elif node != "__metadata__":  # which comes with a step that had ended before a crash
            found.append(event("step", {"node": node, "messages": [told(one) for one in messages_of(update)]}))
    return found


STATUS = {
    ThreadBusyError: 409,
    FencedError: 409,
    NotPrimaryError: 503,
    StoreUnavailableError: 503,
    GraphDrained: 503,
}
"""HTTP statuses of errors after which a client tries again, with the same `request_id`."""


def status_of(error: Exception) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """What the client gets for one of `STATUS`."""
    return JSONResponse({"detail": str(error)}, status_of(error), {"Retry-After": str(RETRY_SECONDS)})


for kind_of_error in STATUS:
    app.add_exception_handler(kind_of_error, answer_error)


@app.get("/threads/{thread_id}")
async def show(thread_id: str) -> dict[str, Any]:
    """The messages, the questions that wait for an answer, and whether anything is left to do."""
    state = await app.state.agent.aget_state(config_of(thread_id))
    if state.created_at is None:
        raise HTTPException(404, "There is no such thread.")
    return {
        "messages": [told(one) for one in state.values.get("messages", ())],
        "questions": [asked(one) for one in state.interrupts],
        "finished": not state.tasks,  # `next` is empty too early
    }


@app.get("/health")
async def health() -> dict[str, str]:
    """For liveness: a restart would not bring a store back, so this does not touch it."""
    return {"status": "ok"}


@app.get("/ready")
async def ready() -> dict[str, str]:
    """For readiness: whether the store answers."""
    try:
        await asyncio.wait_for(app.state.saver.aping(), READY_SECONDS)
    except StoreError as error:
        logger.warning("Not ready: %s", error)
        raise HTTPException(503, f"The store: {error.kind}") from error
    except asyncio.TimeoutError as error:
        logger.warning("Not ready: no answer in %s s", READY_SECONDS)
        raise HTTPException(503, "The store: no answer") from error
    return {"status": "ready"}
