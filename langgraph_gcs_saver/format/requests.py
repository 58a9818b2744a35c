"""The digest of an operation's request: equal requests have equal digests, in every process and version.

A request may pass through the state before it is repeated, and the serializer may return other types than it got. So
a tuple equals a list, and an object with fields (a dataclass, a Pydantic model, a named tuple) equals the dict of its
fields. The order of a dict's keys has no meaning. `1`, `1.0` and `True` are three requests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from langgraph_gcs_saver.errors import InvalidInputError

_AS_TEXT = (date, datetime, time, timedelta, Decimal, UUID, PurePath)
"""Types whose text, beside the type's name, says everything."""

_INT_BITS = 64


def request_digest(request: Any, name: str) -> str:
    """The digest of a request.

    Args:
        request: Plain data: None, bool, int, float, str, bytes, dates, times, UUIDs, decimals, paths, enums, and lists,
            tuples, sets, mappings, dataclasses and Pydantic models of these.
        name: The operation, for the error message.

    Raises:
        InvalidInputError: A part of the request is of another type, or contains itself.
    """
    try:
        plain = _plain(request, "request")
    except _OtherTypeError as error:
        raise InvalidInputError(
            f"The request of operation {name!r} has {error}, which has no canonical form. Nothing was done. Pass plain "
            "data that identifies what the operation does, such as a dict of ids and amounts."
        ) from None
    except RecursionError:
        raise InvalidInputError(
            f"The request of operation {name!r} contains itself, or is nested too deeply. Nothing was done. Pass plain "
            "data that identifies what the operation does, such as a dict of ids and amounts."
        ) from None
    return hashlib.sha256(_text(plain).encode("utf-8", "surrogatepass")).hexdigest()


class _OtherTypeError(Exception):
    """A part of a request has no canonical form. The message names the part and its type, and shows no value."""


def _plain(value: Any, where: str) -> Any:
    """The value as JSON, with a tag for each type that JSON does not know."""
    for is_kind, convert in _CONVERSIONS:
        if is_kind(value):
            return convert(value, where)
    raise _OtherTypeError(f"a value of type {type(value).__name__} ({where})")


def _sequence(value: Any, where: str) -> Any:
    return [_plain(one, f"{where}[{at}]") for at, one in enumerate(value)]


def _mapping(value: Any, where: str) -> Any:
    pairs = [[_plain(key, f"a key of {where}"), _plain(one, f"{where}[…]")] for key, one in value.items()]
    return {"map": sorted(pairs, key=_text)}


def _set(value: Any, where: str) -> Any:
    return {"set": sorted((_plain(one, f"an item of {where}") for one in value), key=_text)}


def _fields(value: Any, where: str) -> Any:
    return _mapping({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, where)


def _text(plain: Any) -> str:
    # `allow_nan`, because a NaN is as good a request as any, and always the same text.
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


_CONVERSIONS: tuple[tuple[Callable[[Any], bool], Callable[[Any, str], Any]], ...] = (
    (lambda value: value is None or type(value) in (bool, float, str), lambda value, _: value),
    # Python turns no int of thousands of digits into decimal ones.
    (
        lambda value: type(value) is int,
        lambda value, _: value if value.bit_length() <= _INT_BITS else {"int": hex(value)},
    ),
    (lambda value: isinstance(value, Enum), lambda value, where: _plain(value.value, where)),
    (
        lambda value: isinstance(value, (bytes, bytearray, memoryview)),
        lambda value, _: {"bytes": bytes(value).hex()},
    ),
    (lambda value: isinstance(value, _AS_TEXT), lambda value, _: {_kind(value): str(value)}),
    (
        lambda value: dataclasses.is_dataclass(value) and not isinstance(value, type),
        _fields,
    ),
    (lambda value: hasattr(value, "_asdict"), lambda value, where: _mapping(value._asdict(), where)),
    (
        lambda value: hasattr(type(value), "model_dump"),
        lambda value, where: _plain(value.model_dump(mode="python"), where),
    ),
    (lambda value: isinstance(value, Mapping), _mapping),
    (lambda value: isinstance(value, AbstractSet), _set),
    (lambda value: isinstance(value, Sequence) and not isinstance(value, str), _sequence),
    # Subclasses of the plain types, such as a str that marks its origin.
    (
        lambda value: isinstance(value, (int, float, str)),
        lambda value, where: _plain(next(kind(value) for kind in (int, float, str) if isinstance(value, kind)), where),
    ),
)
"""The first kind that a value belongs to decides. Enums come before their base types, and datetimes are one case."""


def _kind(value: Any) -> str:
    # A subclass, such as a timestamp of pandas, is the same request as its base type.
    return next(kind.__name__ for kind in (datetime, *_AS_TEXT) if isinstance(value, kind))
