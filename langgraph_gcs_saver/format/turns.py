"""The document of the turn that a run has begun on a thread, and not finished.

A turn is one request: its input, and all steps until the graph has finished. The document has what a process needs to
resume the turn that has neither the caller's arguments nor the process that crashed. The checkpoints of the turn have
its id in their metadata, as `lg_run`. A document of another turn is out of date and means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from langgraph_gcs_saver.engine.effects import Doc, Fields
from langgraph_gcs_saver.errors import ValueTooLargeError
from langgraph_gcs_saver.format import frames, keys, recent, seals
from langgraph_gcs_saver.format.checks import optional, require, typed
from langgraph_gcs_saver.format.frames import Codec
from langgraph_gcs_saver.format.manifest import FORMAT, DamagedError, Serialized, Stub
from langgraph_gcs_saver.records import record

TURN = "turn"
"""The field that holds everything about a turn, except the number of attempts."""

ATTEMPTS = "attempts"
"""The field that counts the processes that have worked on the turn since a call last ended in an orderly way."""

MAX_ATTEMPTS = 1 << 31
"""A greater number of attempts is not one that was counted. One more must fit a field."""

MAX_CONTEXT = 256 << 10
"""Most bytes of a serialized context."""

Nodes = tuple[str, ...] | Literal["*"]
"""The nodes of a breakpoint, by name; an asterisk for all."""


@record(frozen=True, slots=True)
class Turn:
    """A turn.

    Attributes:
        run_id: Identifies the turn. Its checkpoints have it in their metadata.
        request_id: The caller's id of the request, if there is one.
        graph: The graph's name.
        recursion_limit: The number of supersteps that the turn may take; `None` if it is not known.
        stop: The last step that it may take.
        factory: The name of the function that makes the context, if there is one.
        context: The context, if it is stored.
        before: The nodes before which the turn stops, in place of the graph's own breakpoints; empty if the caller has
            passed none.
        after: The nodes after which it stops, likewise.
    """

    run_id: str
    request_id: str | None
    graph: str
    recursion_limit: int | None = None
    stop: int | None = None
    factory: str | None = None
    context: Serialized | None = None
    before: Nodes = ()
    after: Nodes = ()


def fields_of(turn: Turn, name: str, codec: Codec) -> dict[str, Any]:
    """All fields of the document `name` when its turn begins.

    Raises:
        ValueTooLargeError: The context is larger than a document should be.
    """
    return {"format": FORMAT, ATTEMPTS: 1, TURN: sealed(turn, name, codec)}


def sealed(turn: Turn, name: str, codec: Codec) -> bytes:
    """The field `TURN` of the document `name`.

    Raises:
        ValueTooLargeError: The context is larger than a document should be.
    """
    data = b"" if turn.context is None else turn.context.data
    if len(data) > MAX_CONTEXT:
        raise ValueTooLargeError(
            f"The context has {len(data):,} bytes, and at most {MAX_CONTEXT:,} are stored. Nothing was stored. Pass "
            "`context_factory=`, a function that makes the context again."
        )
    head = {
        "run": turn.run_id,
        "request": turn.request_id,
        "graph": turn.graph,
        "limit": turn.recursion_limit,
        "stop": turn.stop,
        "factory": turn.factory,
        "context": None if turn.context is None else turn.context.type,
        **{key: nodes for key, nodes in (("before", turn.before), ("after", turn.after)) if nodes},
    }
    return seals.close(frames.envelope(head, data), (name, TURN), codec)


def turn_of(doc: Doc, codec: Codec) -> Turn:
    """Read a turn.

    Raises:
        DamagedError: The document is damaged.
        UnsupportedFormatError: A newer version wrote it.
        WrongKeyError: It was encrypted with another key.
    """
    seals.check_format(doc, "Turn")
    head, tail = seals.opened(doc.name, seals.plain_of(doc, TURN, codec))
    try:
        kind = optional(head["context"], str)
        return Turn(
            typed(head["run"], str),
            optional(head["request"], str),
            typed(head["graph"], str),
            optional(head["limit"], int),
            optional(head["stop"], int),
            optional(head["factory"], str),
            None if kind is None else Serialized(kind, tail),
            _nodes(head, "before"),
            _nodes(head, "after"),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(f"a turn does not parse: {type(error).__name__}", frame=doc.name) from None


def _nodes(head: Mapping[str, Any], key: str) -> Nodes:
    """The nodes of a breakpoint.

    Raises:
        ValueError: They are not as any writer makes them.
    """
    found = head.get(key, ())
    if found == "*":
        return "*"
    require(isinstance(found, (list, tuple)))
    return tuple([typed(one, str) for one in found])


def attempts_of(doc: Doc) -> int:
    """The number of processes that have worked on a turn, in its document or its note; 0 if the field is damaged."""
    found = doc.fields.get(ATTEMPTS)
    return found if type(found) is int and 0 <= found < MAX_ATTEMPTS else 0


# The registry: the documents of turns, and those of a thread's latest requests


def _read(doc: Doc, codec: Codec) -> object:
    return recent.recent_of(doc, codec) if keys.is_requests_doc(doc.name) else turn_of(doc, codec)


def _sealed_field(doc: Doc) -> str:
    return recent.RECENT if keys.is_requests_doc(doc.name) else TURN


def objects(doc: Doc, codec: Codec) -> dict[str, Stub]:
    """The objects of a document: none.

    Raises:
        DamagedError: The document is damaged.
    """
    _read(doc, codec)
    return {}


def copied(doc: Doc, name: str, attempt: Callable[[str], str], codec: Codec) -> Fields:
    """The fields of the copy `name` of a document.

    Raises:
        DamagedError: The document is damaged.
    """
    field = _sealed_field(doc)
    return {**doc.fields, field: seals.moved(doc, field, name, attempt, codec)}


def equal(doc: Doc, fields: Fields, codec: Codec) -> bool:
    """Whether a document is a copy with the given fields. Each encryption has other bytes."""
    if doc.fields.get(ATTEMPTS) != fields.get(ATTEMPTS):
        return False
    try:
        return _read(doc, codec) == _read(Doc(doc.name, fields, 0, 0), codec)
    except DamagedError:
        return False


def is_clear(doc: Doc, codec: Codec) -> bool:
    """Whether the cipher does not vouch for a document, which can be read."""
    return not codec.vouches_for(doc.fields[_sealed_field(doc)][seals.SEAL_BYTES :])
