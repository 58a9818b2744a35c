"""Makes references, and finds them in values."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from langgraph.types import Send

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import Stored
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.references.checkers import find as checker_of
from langgraph_gcs_saver.references.checkers import scheme_of

TYPE = "lg_ref"
"""The `type` of a reference."""

_OWN = ("type", "uri")
"""The keys of a reference that are no facts."""


class Ref:
    """Makes references. Each is a dictionary, to be stored in the state.

    Two that are the same:

        Ref.gcs("gs://reports/2026/q3.pdf")
        {"type": "lg_ref", "uri": "gs://reports/2026/q3.pdf", "generation": 1790000000000000, "crc32c": "yZRlqg==", …}

    You can also write such a dictionary yourself. One that has no facts refers to whatever is there.
    """

    @staticmethod
    def gcs(uri: str) -> dict[str, Any]:
        """A reference to an object of Cloud Storage, with its generation, crc32c and size.

        The reference stays valid if the object is replaced by one with the same bytes. The generation is for reading
        exactly this object, from a bucket with object versioning.

        Args:
            uri: `gs://BUCKET/OBJECT`.

        Raises:
            InvalidInputError: The URI has another form, or there is no such object.
            PermissionDeniedError: The credentials of the environment may not see it.
            StoreUnavailableError: Cloud Storage did not answer.
        """
        return Ref._of_scheme(uri, "gs")

    @staticmethod
    def http(url: str) -> dict[str, Any]:
        """A reference to a page or a file on the web, with its ETag, Last-Modified and length, as far as it has them.

        Args:
            url: An `https://` or `http://` URL that answers `HEAD`. The URL is stored with the state, so it should
                contain no secret.

        Raises:
            InvalidInputError: The URL has another form, or there is nothing.
            PermissionDeniedError: The server does not show it to this process.
            StoreUnavailableError: The server did not answer, or not to `HEAD`.
        """
        return Ref._of_scheme(url, "https", "http")

    @staticmethod
    def of(uri: str) -> dict[str, Any]:
        """A reference with the facts that the checker of the URI's scheme finds now.

        Raises:
            InvalidInputError: The scheme has no checker, or there is nothing at the URI.
            Exception: What the checker gave as its reason, or raised, because it could not look.
        """
        scheme = scheme_of(uri)
        checker = checker_of(scheme)
        if checker is None:
            raise InvalidInputError(
                f"No checker knows the scheme {scheme!r}. Register one: references.register({scheme!r}, look)."
            )
        seen = dict(checker.look((uri,))).get(uri)
        if isinstance(seen, Exception):
            raise seen
        if seen is None:
            raise InvalidInputError(f"There is nothing at the URI, of the scheme {scheme!r}. No reference was made.")
        return {"type": TYPE, "uri": uri, **{name: fact for name, fact in seen.items() if name not in _OWN}}

    @staticmethod
    def _of_scheme(uri: str, *schemes: str) -> dict[str, Any]:
        if scheme_of(uri) not in schemes:
            raise InvalidInputError(f"The URI must begin with {' or '.join(f'{one}://' for one in schemes)}.")
        return Ref.of(uri)


@record(frozen=True, slots=True)
class Place:
    """A reference, and where it is in a value.

    Attributes:
        path: The keys, indexes and attributes that lead to it, such as `docs[3].source`.
        uri: Its URI.
        facts: Its facts.
    """

    path: str
    uri: str
    facts: Mapping[str, Any]


def find(value: Any, path: str = "") -> Iterator[Place]:
    """The references in a value, in its mappings, sequences, sets, dataclasses, models, messages and packets.

    Args:
        value: The value.
        path: What leads to the value.
    """
    # Not recursive, because values may be nested more deeply than Python calls.
    pending, seen = [(path, value)], dict[int, Any]()
    while pending:
        path, one = pending.pop()
        if isinstance(one, Mapping) and _is_reference(one):
            facts = {key: fact for key, fact in one.items() if key not in _OWN and isinstance(fact, str | int | float)}
            yield Place(path, one["uri"], facts)
            continue
        if isinstance(one, str | bytes | int | float | None) or id(one) in seen:
            continue
        seen[id(one)] = one  # A value may contain itself. One that is kept shares its id with no other.
        pending.extend(reversed([*_parts(path, one)]))


def _is_reference(value: Mapping[Any, Any]) -> bool:
    kind = value.get("type")  # of an array, a comparison is an array as well
    return isinstance(kind, str) and kind == TYPE and isinstance(value.get("uri"), str)


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield (f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]"), one
    elif isinstance(value, list | tuple | deque):
        yield from ((f"{path}[{number}]", one) for number, one in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((path, one) for one in value)
    elif isinstance(value, Send):
        yield f"{path}.arg", value.arg
    elif isinstance(value, Stored):
        yield path, value.payload
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f"{path}.{one.name}", getattr(value, one.name, None)) for one in dataclasses.fields(value))
    elif hasattr(type(value), "model_fields"):
        more = getattr(value, "__pydantic_extra__", None)
        found = {**vars(value), **(more if isinstance(more, dict) else {})}
        yield from ((f"{path}.{key}", one) for key, one in found.items())
