"""The document of a thread's latest requests: a retry of one is recognized after others have followed.

Requests are followed by answers to the questions of their graphs, and may be overtaken by others before the graph has
finished. All of them share one *exchange*, which ends where the graph has finished. The newest checkpoint says which
exchange is under way. A document whose `run` is not the turn of that checkpoint only knows exchanges that have ended.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.format import frames, seals
from langgraph_gcs_saver.format.checks import optional, typed
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError
from langgraph_gcs_saver.records import record

RECENT = "recent"
"""The field that holds everything."""

MOST = 50
"""Requests that are remembered."""


@record(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        digest: The digest of its id.
        content: The digest of its input; `None` if that has no canonical form.
        end: The checkpoint at which its exchange ended; `None` if it is under way, or nothing has followed it yet.
    """

    digest: str
    content: str | None
    end: str | None = None


@record(frozen=True, slots=True)
class Recent:
    """The latest requests.

    Attributes:
        run_id: The turn that began last.
        requests: The requests, oldest first.
    """

    run_id: str
    requests: tuple[Request, ...] = ()

    def find(self, request_id: str) -> Request | None:
        """A request; `None` if it is not remembered."""
        wanted = digest_of(request_id)
        return next((one for one in self.requests if one.digest == wanted), None)

    def at(self, run_id: str | None) -> Recent:
        """What is known if the newest checkpoint is of this turn."""
        return self if run_id == self.run_id else Recent("", tuple([one for one in self.requests if one.end]))

    def until(self, checkpoint_id: str, run_id: str | None, request_id: str | None) -> Recent:
        """What is known once the thread continues from an older checkpoint: what ended later is undone.

        Args:
            checkpoint_id: That checkpoint.
            run_id: Its turn.
            request_id: The request of that turn. If it ended later, its exchange is under way again.
        """
        is_last = run_id == self.run_id
        kept = [one for one in self.requests if (is_last if one.end is None else one.end <= checkpoint_id)]
        mine = None if request_id is None else self.find(request_id)
        if run_id is None or mine is None or mine in kept:
            return Recent(self.run_id, tuple(kept))
        until_then = self.requests[: self.requests.index(mine) + 1]
        under_way = [replace(one, end=None) for one in until_then if one.end == mine.end]
        return Recent(run_id, (*kept, *under_way))

    def followed(self, run_id: str, request: Request | None, end: str | None) -> Recent:
        """What is known once another turn has begun.

        Args:
            run_id: That turn.
            request: Its request, if that has an id.
            end: The checkpoint at which the graph had finished before; `None` if it had not.
        """
        former = [one if one.end else replace(one, end=end) for one in self.requests]
        return Recent(run_id, tuple([*former, *(() if request is None else (request,))][-MOST:]))


NOTHING = Recent("")


def digest_of(request_id: str) -> str:
    """The digest of the id of a request."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


def fields_of(recent: Recent, name: str, codec: Codec) -> dict[str, Any]:
    """All fields of the document `name`."""
    head = {"run": recent.run_id, "requests": [[one.digest, one.content, one.end] for one in recent.requests]}
    return {"format": FORMAT, RECENT: seals.close(frames.envelope(head), (name, RECENT), codec)}


def recent_of(doc: Doc, codec: Codec) -> Recent:
    """Read the document.

    Raises:
        DamagedError: It is damaged.
        UnsupportedFormatError: A newer version wrote it.
        WrongKeyError: It was encrypted with another key.
    """
    seals.check_format(doc, "List of requests")
    head, _ = seals.opened(doc.name, seals.plain_of(doc, RECENT, codec))
    try:
        return Recent(typed(head["run"], str), tuple([_request(*one) for one in head["requests"]]))
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a list of requests does not parse: {type(error).__name__}", frame=doc.name) from None


def _request(digest: Any, content: Any, end: Any) -> Request:
    return Request(typed(digest, str), optional(content, str), optional(end, str))
