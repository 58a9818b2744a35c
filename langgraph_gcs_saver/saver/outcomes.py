"""Stored forms of an operation's outcome: a result, or an exception that is an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver import flows
from langgraph_gcs_saver.errors import InvalidInputError, OperationFailedError, SerializationError
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.saver import configs

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langgraph_gcs_saver.flows.operations import Outcome
    from langgraph_gcs_saver.format.manifest import Serialized

Errors = tuple[type[BaseException], ...]
"""Classes of exceptions, as `except` takes them."""


class Verdict:
    """A value that a result cannot be mistaken for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


NOT_GIVEN = Verdict("NOT_GIVEN")
"""The default of a result that a person may give, because a result can be `None`."""


def found_out(serde: SerializerProtocol, key: str, result: Any, *, not_done: bool) -> Outcome | None:
    """What a person has found out about an operation; `None` if it did not take effect.

    Raises:
        InvalidInputError: Not exactly one of `result` and `not_done` is given.
        SerializationError: The result cannot be serialized.
    """
    configs.check_type("not_done", not_done, bool)
    if not_done is not (result is NOT_GIVEN):
        raise InvalidInputError(f"Operation {key!r} was not changed. Pass either `result` or `not_done=True`.")
    return (
        None if not_done else flows.operations.Outcome("done", dumps(serde, result, f"The result of operation {key!r}"))
    )


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
