"""An agent as a service: runs are streamed, and questions to a person wait until they are answered."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from langgraph_gcs_saver import GCSSaver


async def reply(text: str) -> str:
    """Where a model would be asked."""
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


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One saver for the process, closed when it ends."""
    async with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"]) as saver:
        app.state.graph = builder.compile(checkpointer=saver)
        yield


app = FastAPI(lifespan=lifespan)


class Run(BaseModel):
    """A message begins a run, an answer goes on after a question; without both, a run goes on where it was cut off."""

    message: str | None = None
    answer: Any = None


def config_of(thread_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread_id}}


def told(message: BaseMessage) -> dict[str, Any]:
    return {"type": message.type, "content": message.content}


def event(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


@app.post("/threads/{thread_id}/runs")
async def run(thread_id: str, asked: Run) -> StreamingResponse:
    """Run the agent; each step and each question comes as a server-sent event."""
    given: Any = None
    if asked.message is not None:
        given = {"messages": [("human", asked.message)]}
    elif asked.answer is not None:
        given = Command(resume=asked.answer)

    async def events() -> AsyncIterator[str]:
        # "sync": a step begins when the one before it is stored, so a process that dies loses one step at most.
        steps = app.state.graph.astream(given, config_of(thread_id), stream_mode="updates", durability="sync")
        async for step in steps:
            for node, update in step.items():
                if node == "__interrupt__":
                    for one in update:
                        yield event("question", one.value)
                else:
                    yield event("step", {"node": node, "messages": [told(one) for one in update["messages"]]})
        yield event("end", {})

    return StreamingResponse(events(), media_type="text/event-stream")


@app.get("/threads/{thread_id}")
async def show(thread_id: str) -> dict[str, Any]:
    """The messages, the nodes that come next, and the questions that wait for an answer."""
    state = await app.state.graph.aget_state(config_of(thread_id))
    if not state.values:
        raise HTTPException(404, "There is no such thread.")
    return {
        "messages": [told(one) for one in state.values["messages"]],
        "next": state.next,
        "questions": [one.value for one in state.interrupts],
    }


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}
