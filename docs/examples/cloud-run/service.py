"""An agent on Cloud Run: requests of clients, tasks of Cloud Tasks, and answers of people."""

import json
import os
import signal
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

import google.auth
from agent import builder
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from google.auth.transport.requests import AuthorizedSession
from langgraph.errors import GraphDrained
from pydantic import BaseModel, Field

from langgraph_gcs_saver import GCSSaver, arun, cadence, probes
from langgraph_gcs_saver.errors import InvalidInputError, StoreUnavailableError, ThreadBusyError

TERMINATED = cadence.Signal(signal.SIGTERM)
REQUEST = TERMINATED | cadence.Deadline(minutes=58)
"""When the run of a request stops: two minutes before `timeoutSeconds`, which is an hour."""

TASK = TERMINATED | cadence.Deadline(minutes=28)
"""When the run of a task stops: two minutes before `DISPATCH_SECONDS`."""

DISPATCH_SECONDS = 1800
"""How long Cloud Tasks waits for an answer: its maximum."""

RETRY_SECONDS = 5
"""When a client tries again."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One saver for the process, closed when it ends. It hears SIGTERM before Uvicorn does."""
    TERMINATED.listen()
    async with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"]) as saver:
        app.state.saver = saver
        app.state.graph = builder.compile(checkpointer=saver, name="agent")
        app.mount("/health", probes.asgi(saver, stalled_after=timedelta(minutes=10)))
        yield


app = FastAPI(lifespan=lifespan)


def config_of(thread_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread_id}}


def inputs_of(message: str) -> dict[str, Any]:
    return {"messages": [("human", message)]}


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """What a client gets: the messages, and the questions that wait for a person."""
    return {
        "messages": [{"type": one.type, "content": one.content} for one in result["messages"]],
        "questions": [{"id": one.id, "value": one.value} for one in result.get("__interrupt__", ())],
    }


# Requests of clients


class Message(BaseModel):
    """A message for a thread.

    Attributes:
        message: What the user says.
        request_id: The client's name for the request. A client that tries again sends the same one.
    """

    message: str
    request_id: str = Field(default_factory=lambda: str(uuid4()))


@app.post("/threads/{thread_id}/runs")
async def run(thread_id: str, request: Message) -> dict[str, Any]:
    """Run the agent, resume the request after a crash, or return its result."""
    result = await arun(
        app.state.graph,
        inputs_of(request.message),
        config_of(thread_id),
        request_id=request.request_id,
        policy=REQUEST,
        durability="sync",
    )
    return shown(result)


STATUS = {ThreadBusyError: 409, GraphDrained: 503, StoreUnavailableError: 503}
"""HTTP statuses of errors after which the same request can be sent again."""


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """What a client gets for one of `STATUS`."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return JSONResponse({"kind": getattr(error, "kind", "drained")}, status, {"Retry-After": str(RETRY_SECONDS)})


for kind_of_error in STATUS:
    app.add_exception_handler(kind_of_error, answer_error)


# Tasks


class Task(BaseModel):
    """The body of a task. Without a message, it only resumes the thread."""

    message: str | None = None


@app.post("/tasks/threads/{thread_id}")
async def task(thread_id: str, body: Task, x_cloudtasks_taskname: Annotated[str, Header()]) -> dict[str, str]:
    """Do what a task says, once. Cloud Tasks repeats it after every answer that is not 2xx, and after none."""
    async with app.state.saver.thread(thread_id).lease() as lease:
        if body.message is None:
            await resume(lease.config)
        else:
            await begin(lease.config, inputs_of(body.message), x_cloudtasks_taskname)
    return {"status": "done"}


async def begin(config: Any, inputs: dict[str, Any], request_id: str) -> None:
    """Apply an input once, although its task may come twice or late, and after the request before it has finished."""
    thread = app.state.saver.thread(config["configurable"]["thread_id"])
    before = await thread.astatus()
    if before.request_id != request_id:
        if before.questions:
            raise HTTPException(409, "The thread waits for a person.")
        if before.nodes:
            await resume(config)
    await arun(app.state.graph, inputs, config, request_id=request_id, policy=TASK, durability="sync")


async def resume(config: Any) -> None:
    """Finish what is left of a thread."""
    await arun(app.state.graph, None, config, policy=TASK, durability="sync")


# Answers


class Answer(BaseModel):
    """A person's answer to the question of a thread.

    Attributes:
        answer: The answer.
        question: The id of the question. A form that comes too late answers no other question.
        request_id: A name that the form got when it was made. So a form that is sent twice answers once.
    """

    answer: str
    question: str
    request_id: str = Field(pattern="^[A-Za-z0-9_-]{1,400}$")


@app.post("/threads/{thread_id}/answers", status_code=202)
async def answer(thread_id: str, given: Answer) -> dict[str, bool]:
    """Store an answer, and have a task resume the thread. Nothing of the graph runs here."""
    thread, answers = app.state.saver.thread(thread_id), {given.question: given.answer}
    try:
        # A task that comes too early may be looking at the thread.
        is_new = await thread.aanswer(answers, request_id=given.request_id, wait=30)
    except InvalidInputError as error:
        raise HTTPException(409, "The thread does not wait for this answer.") from error
    # Also if it was stored before, because the process may have crashed before it added the task.
    await run_in_threadpool(add_task, f"answer-{given.request_id}", f"/tasks/threads/{quote(thread_id, safe='')}", {})
    return {"stored": is_new}


TASKS = os.environ.get("TASKS_API", "https://cloudtasks.googleapis.com")


def session() -> AuthorizedSession:
    """A session with the service's own credentials."""
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return AuthorizedSession(credentials)


def add_task(name: str, path: str, body: dict[str, Any]) -> None:
    """Add a task to the queue, unless it has one of that name."""
    queue, url = os.environ["TASKS_QUEUE"], os.environ["TASKS_URL"]
    request = {
        "url": f"{url}{path}",
        "httpMethod": "POST",
        "headers": {"content-type": "application/json"},
        "body": b64encode(json.dumps(body).encode()).decode(),
        "oidcToken": {"serviceAccountEmail": os.environ["TASKS_ACCOUNT"], "audience": url},
    }
    new = {"name": f"{queue}/tasks/{name}", "dispatchDeadline": f"{DISPATCH_SECONDS}s", "httpRequest": request}
    response = session().post(f"{TASKS}/v2/{queue}/tasks", json={"task": new}, timeout=30)
    if response.status_code != 409:  # It is there, or was done.
        response.raise_for_status()
