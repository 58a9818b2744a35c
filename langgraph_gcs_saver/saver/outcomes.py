"""Stored forms of an operation's outcome: a result, or an exception that is an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.errors import OperationFailedError, SerializationError
from langgraph_gcs_saver.format.serialization import dumps, loads

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langgraph_gcs_saver.format.manifest import Serialized

Errors = tuple[type[BaseException], ...]
"""Classes of exceptions, as `except` takes them."""


def dump_error(serde: SerializerProtocol, error: BaseException, what: str) -> Serialized:
    """Serialize an exception: its class by name, its arguments and its attributes.

    If the serializer rejects an argument or attribute, the exception's text is stored in place of all of them.
    """
    named = {"class": _name(type(error)), "text": str(error)}
    try:
        return dumps(serde, {**named, "args": list(error.args), "fields": dict(vars(error))}, what)
    except SerializationError:
        return dumps(serde, {**named, "args": [str(error)], "fields": {}}, what)


def load_error(serde: SerializerProtocol, stored: Serialized, errors: Errors, key: str) -> BaseException:
    """The exception again, without a call of its `__init__`.

    Its class is found among `errors` and their subclasses, so a stored name imports nothing. If it is not among them,
    an `OperationFailedError` with the exception's text is returned.
    """
    found: dict[str, Any] = loads(serde, stored)
    kind = next((kind for kind in _with_subclasses(errors) if _name(kind) == found["class"]), None)
    if kind is None:
        return OperationFailedError(
            f"Operation {key!r} failed with {found['class']}: {found['text']}. This outcome is recorded, so the "
            "operation was not started again. Name the class in `errors` to get the exception itself.",
            key=key,
        )
    error = kind.__new__(kind)
    error.args = tuple(found["args"])
    vars(error).update(found["fields"])
    return error


def _name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _with_subclasses(kinds: Sequence[type[BaseException]]) -> Iterator[type[BaseException]]:
    for kind in kinds:
        yield kind
        yield from _with_subclasses(kind.__subclasses__())
