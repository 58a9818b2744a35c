"""Answers of people, and other commands for a graph, which are stored before the graph gets them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langgraph.types import Command

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.flows.runs import ANSWER, Status
from langgraph_gcs_saver.flows.writes import put_writes
from langgraph_gcs_saver.format.requests import request_digest
from langgraph_gcs_saver.format.turns import Turn
from langgraph_gcs_saver.saver import arguments, configs
from langgraph_gcs_saver.saver.internals import Internals

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langgraph_gcs_saver.engine.effects import Flow
    from langgraph_gcs_saver.flows.companions import Companion
    from langgraph_gcs_saver.flows.fences import Fence
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

MAX_REQUEST_ID = 500
"""Most characters of the id of a request."""


def check_request_id(request_id: object) -> str | None:
    """Check the caller's id of a request.

    Raises:
        InvalidInputError: It is not text of 1 to 500 characters, or cannot be stored.
    """
    if request_id is None:
        return None
    configs.check_type("request_id", request_id, str)
    if not isinstance(request_id, str) or not 0 < len(request_id) <= MAX_REQUEST_ID or "\0" in request_id:
        raise InvalidInputError(f"request_id must have 1 to {MAX_REQUEST_ID} characters, and no null character.")
    configs.check_unicode("The request_id", request_id)
    return request_id


def digest_of(given: Any) -> str | None:
    """The digest of an input or a command; `None` if it has no canonical form."""
    try:
        return request_digest(given, "")
    except InvalidInputError:
        return None


def storing(
    inside: Internals,
    found: Status,
    command: Command[Any],
    *,
    request_id: str | None,
    run_id: str,
    opening: Companion | None,
    fence: Fence,
) -> Flow[None]:
    """Store a command for the tip, in one commit with the turn that it begins.

    Raises:
        FencedError: The lease is lost.
        InvalidInputError: The command answers none of the questions, or one answer is for several questions.
        SerializationError: The command cannot be serialized.
    """
    _check_resume(found, command.resume)
    fields = {"resume": command.resume, "update": command.update, "goto": command.goto or None}
    content = {
        "request_id": request_id,
        "run": run_id,
        "asked": dict(found.asked),
        "command": {name: one for name, one in fields.items() if one is not None},
    }
    request = arguments.put_writes_request(
        configs.config_of(found.thread_id, "", str(found.checkpoint_id)),
        [(ANSWER, content)],
        flows.runs.answer_task(request_id or run_id),
        "",
        serde=inside.serde,
        fence=fence,
    )
    companions = () if opening is None else (opening,)
    yield from put_writes(dataclasses.replace(request, companions=companions), inside.context)


def _check_resume(found: Status, resume: object) -> None:
    """Check that LangGraph can use an answer. If such an answer was stored, the thread would fail each time.

    Raises:
        InvalidInputError: It cannot.
    """
    ids = {flows.runs.question_of(one).id for one in found.questions}
    if resume is None or not ids:
        return
    mapped = flows.runs.interrupt_ids(resume)
    if mapped is None and len(ids) == 1:
        return
    if mapped is None:
        raise InvalidInputError(
            f"Thread {found.thread_id!r} waits for {len(ids)} answers. Nothing was stored. Pass a mapping from the ids "
            f"of its questions to answers: {', '.join(sorted(ids))}."
        )
    if not mapped & ids:
        raise InvalidInputError(
            f"Thread {found.thread_id!r} does not wait for an answer to these questions. Nothing was stored. It waits "
            f"for: {', '.join(sorted(ids))}."
        )


class Answering:
    """One call of `Thread.answer`.

    Args:
        saver: The saver.
        thread_id: The thread.
        value: The answer, or a `Command`.
        request_id: The caller's id of the answer, if there is one.

    Raises:
        InvalidInputError: The id cannot be stored, or the answer is `None`.
    """

    def __init__(self, saver: GCSSaver, thread_id: str, value: Any, request_id: str | None) -> None:
        self._inside = Internals.of(saver)
        self._thread_id = thread_id
        self._command = value if isinstance(value, Command) else Command(resume=value)
        self._request_id = check_request_id(request_id)
        if value is None:
            raise InvalidInputError("None is no answer: LangGraph takes it for a call without one. Pass another value.")

    def flow(self, config: RunnableConfig) -> Flow[bool]:
        """Store the answer, under the lease that a config has.

        Returns:
            Whether it was stored now.

        Raises:
            InvalidInputError: The thread waits for no answer, or not for this one.
        """
        inside, request_id = self._inside, self._request_id
        fence = inside.leases.fence_of(config)
        if fence is None:
            raise AssertionError("the config has a lease")
        found = yield from flows.runs.status(self._thread_id, inside.loads, inside.context)
        if request_id is not None and (found.is_of(request_id) or found.end_of(request_id) is not None):
            return False
        if found.state != "waiting":
            raise InvalidInputError(
                f"Thread {self._thread_id!r} waits for no answer: its state is {found.state!r}. Nothing was stored. "
                "`status()` says what it is doing."
            )
        turn = self._turn(found)
        opening = flows.runs.opening(found, turn, digest_of(self._command), inside.context.codec, begins=False)
        yield from storing(
            inside, found, self._command, request_id=request_id, run_id=turn.run_id, opening=opening, fence=fence
        )
        return True

    def _turn(self, found: Status) -> Turn:
        """The turn that the answer begins: as the one before it, which has the graph's name and the context."""
        run_id, former = str(uuid4()), found.turn
        if former is None:
            return Turn(run_id, self._request_id, "")
        limit = former.recursion_limit
        stop = None if limit is None else found.step + limit + 2
        return dataclasses.replace(former, run_id=run_id, request_id=self._request_id, stop=stop)
