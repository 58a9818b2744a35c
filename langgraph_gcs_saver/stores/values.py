"""Conversion of Python values to Firestore's protobuf values and back, on the raw messages.

proto-plus wraps every message in a Python object, and converting with the raw classes takes a fraction of the time. All
stores use these functions, so a document holds the same values wherever it is stored. The Firestore store uses them on
the client's messages. The other stores and archives use their own messages, which are the same on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from langgraph_gcs_saver.engine.effects import Time
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.stores.messages import PbMapValue, PbValue

MAX_DEPTH = 20
"""Deepest nesting of mappings (https://firebase.google.com/docs/firestore/quotas)."""


def set_value(target: Any, value: object, depth: int = 0) -> None:
    """Write `value` into the empty `Value` message `target`.

    Raises:
        InvalidInputError: `value` holds something other than None, bool, 64-bit int, float, str, bytes, `Time`
            and mappings from str to these, or is nested more deeply than Firestore allows.
    """
    if value is None:
        target.null_value = 0
    elif isinstance(value, bool):
        target.boolean_value = value
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidInputError(
                f"An integer of {value.bit_length()} bits does not fit the signed 64 bits that Firestore stores."
            )
        target.integer_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, str):
        target.string_value = _text("string", value)
    elif isinstance(value, bytes):
        target.bytes_value = value
    elif isinstance(value, Time):
        target.timestamp_value.seconds, target.timestamp_value.nanos = divmod(value.nanoseconds, 10**9)
    elif isinstance(value, Mapping):
        if depth >= MAX_DEPTH:
            raise InvalidInputError(f"Firestore stores mappings that are nested at most {MAX_DEPTH} deep.")
        target.map_value.SetInParent()
        set_fields(target.map_value.fields, value, depth + 1)
    else:
        raise InvalidInputError(
            f"A document's field cannot hold a {type(value).__name__}. "
            "It can hold None, bool, int, float, str, bytes, and mappings of these."
        )


def set_fields(target: Any, fields: Mapping[str, Any], depth: int = 0) -> None:
    """Write `fields` into a message's map of values, such as `Document.fields`. Raises what `set_value` raises."""
    for name, value in fields.items():
        set_value(target[_field_name(name)], value, depth)


def to_value(value: object) -> Any:
    """Make a `Value` message. Raises what `set_value` raises."""
    message = PbValue()
    set_value(message, value)
    return message


def from_value(message: Any) -> Any:
    """Read a `Value` message.

    A value of a type that this library never reads, such as a timestamp, is returned as the message itself. So the rest
    of the document can still be read.
    """
    kind = message.WhichOneof("value_type")
    if kind == "map_value":
        return from_fields(message.map_value.fields)
    if kind in _SCALARS:
        return getattr(message, kind)
    return None if kind == "null_value" else message


def to_map(fields: Mapping[str, Any]) -> Any:
    """Make a `MapValue` message. Raises what `set_value` raises."""
    message = PbMapValue()
    set_fields(message.fields, fields)
    return message


def from_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read a message's map of values, such as `Document.fields` or `MapValue.fields`."""
    return {name: from_value(value) for name, value in fields.items()}


_RESERVED = re.compile(r"__.*__\Z", re.DOTALL)
_SCALARS = frozenset({"boolean_value", "integer_value", "double_value", "string_value", "bytes_value"})


def _text(what: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"The {what} {text[:40]!r} holds a lone surrogate, which is not Unicode text. Firestore cannot store it."
        ) from None
    return text


def _field_name(name: object) -> str:
    if not isinstance(name, str) or not name or _RESERVED.match(name):
        raise InvalidInputError(
            f"{str(name)[:40]!r} cannot be the name of a field. Firestore needs text that is not empty or like `__x__`."
        )
    return _text("name of a field", name)
