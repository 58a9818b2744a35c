"""Stored values as plain data and as JSON, and back, without importing what they name.

LangGraph's `JsonPlusSerializer` writes objects as MessagePack extensions that name their class, and recreates them by
importing the class. Here an object stays as it was stored, because its class may be another application's, gone, or
hostile. It is written back byte for byte. So no type is lost, and nothing that a store holds is ever run.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import partial
from typing import Any

import ormsgpack

from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError
from langgraph_gcs_saver.portable.refusals import NOT_KEPT, check, step
from langgraph_gcs_saver.records import record

KINDS = {0: "arg", 1: "args", 2: "kwargs", 3: "method", 4: "pydantic1", 5: "pydantic2"}
"""LangGraph's extensions that name a class, by how the class is called. `method` names a method too."""

_CODES = {kind: code for code, kind in KINDS.items()}
_PYDANTIC = 5
_DELTA_SNAPSHOT = 7

DELTA_COUNTERS = "counters_since_delta_snapshot"
"""The metadata key under which LangGraph counts, for each DeltaChannel, updates and steps since its last snapshot."""
_DEFAULT_REST: Mapping[int, list[Any]] = {3: ["fromisoformat"], _PYDANTIC: ["model_validate_json"]}

_AROUND = 64 << 20
"""Most bytes of a nested extension and all extensions around it, which a reader holds in memory at once."""

# Without the passthrough, `Stored` would be written as a dict.
_OPTION = ormsgpack.OPT_NON_STR_KEYS | ormsgpack.OPT_PASSTHROUGH_DATACLASS
_MESSAGES = "langchain_core.messages."
_REMOVE_ALL = "__remove_all__"


@record(frozen=True, slots=True)
class Stored:
    """An object as it was stored, which is a MessagePack extension.

    Attributes:
        code: The extension's number.
        data: Its bytes, which are MessagePack too.
        around: Bytes of all extensions around this one, together.
    """

    code: int
    data: bytes
    around: int = field(default=0, compare=False, repr=False)

    @classmethod
    def of(cls, code: int, payload: Any) -> Stored:
        """The object with this payload."""
        return cls(code, _pack(payload))

    @property
    def payload(self) -> Any:
        """The decoded bytes; the bytes themselves if they are not MessagePack, or too many extensions surround them."""
        around = self.around + len(self.data)
        if self.around and around > _AROUND:
            return self.data
        try:
            return _unpack(self.data, around)
        except ValueError:
            return self.data

    @property
    def parts(self) -> tuple[str, str, Any, list[Any]] | None:
        """Module, name, argument and the rest, for an object that names its class; `None` for any other."""
        found = self.payload if self.code in KINDS else None
        if not isinstance(found, list) or len(found) < 3 or not all(isinstance(text, str) for text in found[:2]):
            return None
        module, name, value, *rest = found
        return module, name, value, rest

    @property
    def type(self) -> tuple[str, str] | None:
        """Module and name of the class; `None` if the object names no class."""
        return None if self.parts is None else self.parts[:2]


@record(frozen=True, slots=True)
class Opaque:
    """A value that another serializer wrote, such as a pickle. It is never decoded.

    Attributes:
        type: The serializer's type tag.
        data: The bytes.
    """

    type: str
    data: bytes


class PortableSerializer:
    """Reads values that LangGraph's serializer wrote, with objects as `Stored`, and writes them back unchanged."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The value; `Opaque` for a type tag that is not LangGraph's own.

        Raises:
            ValueError: The bytes are not MessagePack.
        """
        kind, content = data
        match kind:
            case "null":
                return None
            case "bytes":
                return content
            case "bytearray":
                return bytearray(content)
            case "msgpack":
                return _unpack(content)
            case _:
                return Opaque(kind, content)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The type tag and the bytes, as LangGraph's serializer gives them."""
        match obj:
            case None:
                return "null", b""
            case bytes():
                return "bytes", obj
            case bytearray():
                return "bytearray", bytes(obj)
            case Opaque():
                return obj.type, obj.data
            case _:
                return "msgpack", _pack(obj)


class ExactSerializer(PortableSerializer):
    """Rejects values that `PortableSerializer` would not read back unchanged, such as text with a lone surrogate."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The same as `PortableSerializer` gives.

        Raises:
            ValueError: The value would not be read back unchanged.
        """
        found = super().dumps_typed(obj)
        if _token(self.loads_typed(found)) != _token(obj):
            raise ValueError(NOT_KEPT)
        return found


def _unpack(data: bytes, around: int = 0) -> Any:
    return ormsgpack.unpackb(data, ext_hook=partial(Stored, around=around), option=ormsgpack.OPT_NON_STR_KEYS)


def _pack(value: Any) -> bytes:
    return ormsgpack.packb(value, default=_extension, option=_OPTION)


def _extension(value: Any) -> ormsgpack.Ext:
    if isinstance(value, Stored):
        return ormsgpack.Ext(value.code, value.data)
    raise TypeError(f"not a stored value: {type(value).__name__}")


# Kinds of values


def is_delta(value: Any) -> bool:
    """Whether a value is the snapshot of a DeltaChannel."""
    return isinstance(value, Stored) and value.code == _DELTA_SNAPSHOT


def delta(value: Any) -> Stored:
    """The snapshot of a DeltaChannel with this value."""
    return Stored.of(_DELTA_SNAPSHOT, value)


def without_delta(value: Any) -> Any:
    """The value in a DeltaChannel's snapshot; any other value unchanged."""
    return value.payload if is_delta(value) else value


def message_of(value: Any) -> dict[str, Any] | None:
    """The fields of a LangChain message; `None` for any other value."""
    parts = value.parts if isinstance(value, Stored) and value.code == _PYDANTIC else None
    if parts is None or not parts[0].startswith(_MESSAGES) or not isinstance(parts[2], dict):
        return None
    return parts[2]


def add_messages(left: Any, right: Any) -> Any:
    """Apply an update to messages, as LangGraph's reducer of that name does, without creating objects.

    Raises:
        TypeError: An item is not a message, or has no id.
    """
    found = {_message_id(one): one for one in left}
    for one in right if isinstance(right, list) else [right]:
        own_id = _message_id(one)
        if (message_of(one) or {}).get("type") != "remove":
            found[own_id] = one
        elif own_id == _REMOVE_ALL:
            found.clear()
        else:
            found.pop(own_id, None)
    return list(found.values())


def _message_id(value: Any) -> str:
    own_id = (message_of(value) or {}).get("id")
    if not isinstance(own_id, str):
        raise TypeError("not a message with an id")
    return own_id


def objects(value: Any) -> Iterator[Stored]:
    """All objects that name a class, including those inside other objects."""
    match value:
        case Stored():
            if value.parts is not None:
                yield value
            yield from objects(value.payload)
        case dict():
            for key, item in value.items():
                yield from objects(key)
                yield from objects(item)
        case list() | tuple():
            for item in value:
                yield from objects(item)


# JSON


def to_json(value: Any) -> Any:
    """A value as JSON. A value that JSON cannot express becomes an object whose keys begin with a dollar sign.

    Raises:
        InvalidInputError: The value is nested too deeply, or was not read by a `PortableSerializer`.
    """
    try:
        return _to_json(value)
    except RecursionError:
        raise InvalidInputError("A stored value is nested too deeply to be shown or edited.") from None


def _to_json(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": str(value)}
        case list() | tuple():
            return [_to_json(item) for item in value]
        case Mapping():
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: _to_json(item) for key, item in value.items()}
            return {"$map": [[_to_json(key), _to_json(item)] for key, item in value.items()]}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case bytearray():
            return {"$bytearray": base64.b64encode(value).decode()}
        case Opaque():
            return {"$opaque": value.type, "$data": base64.b64encode(value.data).decode()}
        case Stored():
            return _object_to_json(value)
        case _:
            raise InvalidInputError(f"A value of type {type(value).__name__} was not read by PortableSerializer.")


def _object_to_json(value: Stored) -> dict[str, Any]:
    if is_delta(value):
        return {"$delta": _to_json(value.payload)}
    parts = value.parts
    if parts is None:
        return {"$ext": value.code, "$data": base64.b64encode(value.data).decode()}
    module, name, argument, rest = parts
    found = {"$type": f"{module}:{name}", "$kind": KINDS[value.code], "$value": _to_json(argument)}
    if rest != _DEFAULT_REST.get(value.code, []):
        found["$rest"] = _to_json(rest)
    return found


def from_json(value: Any) -> Any:
    """The value that JSON of `to_json` stands for.

    Raises:
        InvalidInputError: The JSON is nested too deeply, or has an object with unknown keys that begin with a dollar
            sign.
        SerializationError: The value of an object cannot be stored.
    """
    try:
        return _from_json(value, "")
    except RecursionError:
        raise InvalidInputError("The JSON value is nested too deeply to be stored.") from None


def _from_json(value: Any, at: str) -> Any:
    if isinstance(value, list):
        return [_from_json(item, at + step(i)) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: _from_json(item, at + step(key)) for key, item in value.items()}
    try:
        return _special(value, at)
    except GCSSaverError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        # The text of other exceptions may show the value.
        reason = str(error) if type(error) is _OddError else type(error).__name__
    place = f" at {at}" if at else ""
    raise InvalidInputError(
        f"The JSON object{place} with the keys {sorted(value)} is not a stored value: {reason}. Do not change keys "
        "that begin with a dollar sign."
    )


class _OddError(ValueError):
    """An object whose keys with a dollar sign do not describe a value. The message shows no content."""


def _special(value: dict[str, Any], at: str) -> Any:
    keys = frozenset(value)
    if keys in ({"$type", "$kind", "$value"}, {"$type", "$kind", "$value", "$rest"}):
        if value["$kind"] not in _CODES:
            raise _OddError("$kind is not one of " + ", ".join(_CODES))
        code = _CODES[value["$kind"]]
        module, found, name = str(value["$type"]).partition(":")
        if not found:
            raise _OddError("$type is not MODULE:NAME")
        rest = _payload(value, "$rest", at) if "$rest" in value else _DEFAULT_REST.get(code, [])
        return Stored.of(code, [module, name, _payload(value, "$value", at), *rest])
    if keys == {"$ext", "$data"}:
        return Stored(value["$ext"], _binary(value["$data"]))
    if keys == {"$opaque", "$data"}:
        return Opaque(value["$opaque"], _binary(value["$data"]))
    if len(keys) != 1:
        raise _OddError("its keys are unknown")
    ((key, content),) = value.items()
    match key:
        case "$delta":
            return delta(_payload(value, key, at))
        case "$bytes":
            return _binary(content)
        case "$bytearray":
            return bytearray(_binary(content))
        case "$float":
            return _float(content)
        case "$map":
            return _map(content, at + step(key))
        case _:
            raise _OddError("its keys are unknown")


def _map(pairs: list[Any], at: str) -> dict[Any, Any]:
    found = {}
    for i, (name, item) in enumerate(pairs):
        place = at + step(i)
        found[_hashable(_from_json(name, place + step(0)))] = _from_json(item, place + step(1))
    if len(found) != len(pairs):
        raise _OddError("it has the same key twice")
    return found


def _payload(value: dict[str, Any], key: str, at: str) -> Any:
    """The value in an object, after a check that it can be stored."""
    found = _from_json(value[key], at + step(key))
    check(PortableSerializer(), found, f"The JSON value at {at}{step(key)}")
    return found


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise _OddError("its text is not base64") from None


def _float(text: str) -> float:
    try:
        return float(text)
    except (ValueError, TypeError):
        raise _OddError("$float is not a number") from None


def _hashable(key: Any) -> Any:
    """A key of a dict, with tuples in place of JSON's lists."""
    return tuple(_hashable(item) for item in key) if isinstance(key, list) else key


def is_editable(value: Any) -> bool:
    """Whether the value, written as JSON and read back, is the same to the byte."""
    if isinstance(value, Opaque):
        return False
    try:
        again = from_json(json.loads(json.dumps(to_json(value))))
        # Bytes are compared because another program may have encoded an equal object differently.
        return ExactSerializer().dumps_typed(again) == PortableSerializer().dumps_typed(value)
    except (InvalidInputError, TypeError, ValueError):
        return False


def _token(value: Any) -> str:
    """A text that is equal only for values of equal types, because 1, 1.0 and True are equal in Python."""
    return json.dumps(to_json(value))
