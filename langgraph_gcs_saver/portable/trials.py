"""Checks that LangGraph will be able to create the objects of an edited value.

The objects around the edited one may come from an attacker, so nothing is called only because a store names it.
LangChain's messages are created from their fields. Of the standard library, only the constructors that this module
lists are called, and only with plain data, so each call is short. The items of a container are not created.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import islice
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import KINDS, Stored, message_of, objects, to_json
from langgraph_gcs_saver.portable.refusals import step

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


def check_types(old: Any, new: Any) -> None:
    """Check that LangGraph will be able to create the objects of an edited value.

    Except for messages, an object must have a class and fields that an object of the old value has. LangGraph
    would not complain about any other object, but give the graph a dict, or an object with missing fields.

    Raises:
        InvalidInputError: LangGraph could not create an object, or plain data takes the place of an object.
    """
    _check_no_loss(old, new)
    known = {(found.code, found.data) for found in objects(old)}
    shapes = {(found.code, found.type, _shape(found)) for found in objects(old)}
    for found in objects(new):
        if (found.code, found.data) in known:
            continue
        what = ":".join(found.type or ())
        if message_of(found) is not None:
            _check_message(found, what)
        elif (found.code, found.type, _shape(found)) not in shapes:
            raise InvalidInputError(
                f"An object of {what} is new or has other fields than in the old value. Only messages can be added. Of "
                "other objects, only the values of their fields can be changed."
            )
        elif found.type in STANDARD:
            _check_standard(found, what)


def _check_no_loss(old: Any, new: Any) -> None:
    """Check that plain data does not replace a value that JSON cannot express. `None` may replace it."""
    if isinstance(old, Stored) and isinstance(new, Stored):
        if old.parts is not None and new.parts is not None and old.type == new.type:
            _check_no_loss(old.parts[2], new.parts[2])
    elif isinstance(old, Stored | bytes | bytearray):
        if new is not None and type(old) is not type(new):
            what = ":".join(old.type or ("an", "extension")) if isinstance(old, Stored) else type(old).__name__
            written = json.dumps(to_json(old))
            shown = written if len(written) <= 200 else f"{written[:200]}…"
            raise InvalidInputError(f"A value stored as {what} would become plain data. Write it as it was: {shown}")
    elif isinstance(old, list) and isinstance(new, list):
        if old and all(isinstance(item, Stored) for item in old):
            # Items may be added and moved. Every item of such a list is an object.
            for i, item in enumerate(new):
                _check_no_loss(old[min(i, len(old) - 1)], item)
        elif len(old) == len(new):
            for before, after in zip(old, new, strict=True):
                _check_no_loss(before, after)
    elif isinstance(old, dict) and isinstance(new, dict):
        if new and not all(isinstance(key, str) for key in old) and all(isinstance(key, str) for key in new):
            raise InvalidInputError(
                "A dict with keys that are not text would have text keys only. Leave its $map as it is."
            )
        for key in old.keys() & new.keys():
            _check_no_loss(old[key], new[key])


def _shape(found: Stored) -> frozenset[str] | None:
    value = found.parts[2] if found.parts is not None else None
    return frozenset(value) if isinstance(value, dict) else None


def _check_message(found: Stored, what: str) -> None:
    from langchain_core import messages  # noqa: PLC0415 - slow to import, and few values are edited

    module, name = found.type or ("", "")
    # Only names in `__all__`: for other names, the module may import a submodule.
    kind = getattr(messages, name) if name in messages.__all__ else None
    if not isinstance(kind, type) or not issubclass(kind, messages.BaseMessage) or kind.__module__ != module:
        raise InvalidInputError(f"{what} is not a class of LangChain's messages.")
    fields = message_of(found) or {}
    made, reason = None, ""
    for start, some in _parts(
        kind, _without_arguments(fields) if issubclass(kind, messages.AIMessageChunk) else fields
    ):
        made = None
        try:
            made = kind(**some)
        except Exception as error:  # noqa: BLE001 - validators of messages raise anything; all of it means the same
            reason = _first_errors(error, start)
            break
    if made is None:
        raise InvalidInputError(f"The edited fields do not make a valid {name}: {reason}.")
    if fields.get("type", made.type) != made.type:
        raise InvalidInputError(f"A {name} has the type {made.type!r}, not {fields['type']!r}.")


def _parts(kind: type[BaseMessage], fields: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Fields to create a message from, each with the index of its first item.

    First come a few items of each list at a time, and last all fields. Pydantic collects the errors of all items, which
    take a thousand times as much memory as the items.
    """
    needed: dict[str, Any] = {name: "" for name, field in kind.model_fields.items() if field.is_required()} | {"id": ""}
    needed |= {name: [] for name in _CALLS if name in fields}
    # LangChain does not read `content` if there are blocks, nor raw calls if there are others.
    contents = "content" if fields.get("content_blocks") is None else "content_blocks"
    for name in (contents, *_CALLS):
        items = fields.get(name)
        if isinstance(items, list):
            for start in range(0, len(items), _ITEMS):
                yield start, needed | {name: _some(items, start)}
    raw = fields.get("additional_kwargs")
    calls = raw.get("tool_calls") if isinstance(raw, dict) else None
    if isinstance(calls, list) and not any(fields.get(name) for name in _CALLS):
        for start in range(0, len(calls), _ITEMS):
            yield start, needed | {"additional_kwargs": {"tool_calls": calls[start : start + _ITEMS]}}
    yield 0, fields


def _some(items: list[Any], start: int) -> list[Any]:
    """Some items from `start` on, and of their arguments only a few whose names are not text: one suffices to fail."""
    return [
        {**item, "args": dict(islice(((key, None) for key in args if not isinstance(key, str)), _ITEMS))}
        if isinstance(item, dict) and isinstance(args := item.get("args"), dict)
        else item
        for item in items[start : start + _ITEMS]
    ]


_CALLS = ("tool_calls", "invalid_tool_calls", "tool_call_chunks")
"""Fields of messages that are lists of tool calls."""

_ITEMS = 50
"""Most items that are tried at a time."""


def _without_arguments(value: Any) -> Any:
    """A chunk's fields, with empty text for the arguments of tools.

    LangChain parses every prefix of incomplete arguments, which takes hours for large ones, and accepts them all. Bytes
    count as text, because pydantic turns them into text.
    """
    if isinstance(value, list):
        return [_without_arguments(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: "" if key in _ARGUMENTS and isinstance(item, str | bytes | bytearray) else _without_arguments(item)
        for key, item in value.items()
    }


_ARGUMENTS = frozenset({"args", "arguments"})
"""Names of a tool's arguments in LangChain and at providers."""


def _check_standard(found: Stored, what: str) -> None:
    try:
        _make(found)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        pass
    else:
        return
    raise InvalidInputError(f"The edited value does not make a valid {what}.")


def _first_errors(error: Exception, start: int) -> str:
    """A validator's first errors, without the values that they are about. `start` is the first index of a list."""
    # Pydantic's error is recognized by its attributes, because the package depends on pydantic through LangChain only.
    errors = getattr(error, "errors", None)
    if type(error).__name__ != "ValidationError" or not callable(errors):
        return type(error).__name__
    # The messages of a class's own validators, and of unknown tags, may show the value.
    own = {"value_error", "assertion_error", "union_tag_invalid"}
    found = errors(include_url=False, include_context=False, include_input=False)
    shown = ", ".join(
        f"{_place(one['loc'], start)} {one['type'] if one['type'] in own else one['msg']}".strip()
        for one in found[:_SHOWN]
    )
    return f"{shown}, and more" if len(found) > _SHOWN else shown


_SHOWN = 5
"""Most errors of a message that are shown."""


def _place(steps: tuple[str | int, ...], start: int) -> str:
    index = next((at for at, one in enumerate(steps) if isinstance(one, int)), None)
    return "".join(step(one + start if at == index and isinstance(one, int) else one) for at, one in enumerate(steps))


# The standard library

_Type = tuple[str, ...]
_TIMEDELTA, _TIMEZONE, _ZONE = ("datetime", "timedelta"), ("datetime", "timezone"), ("zoneinfo", "ZoneInfo")


def _make(found: Stored) -> object:
    """Create an object of a standard class.

    Raises:
        TypeError: The constructor rejects its arguments, or must not be called with them.
        ValueError: The constructor rejects its arguments.
        ArithmeticError: The constructor rejects its arguments.
    """
    if found.parts is None:
        raise TypeError
    module, name, argument, rest = found.parts
    make = STANDARD[module, name]
    match KINDS[found.code]:
        case "arg":
            return make(argument)
        case "args":
            return make(*argument)
        case "kwargs":
            return make(**argument)
        case "method" if (module, name, *rest) == ("datetime", "datetime", "fromisoformat"):
            return datetime.fromisoformat(_plain(argument))
        case _:
            raise TypeError


def _of_plain(make: Callable[..., object], *inside: _Type) -> Callable[..., object]:
    """Wrap a constructor so that it is called only with plain data and with objects of the types `inside`."""

    def made(*args: Any, **options: Any) -> object:
        plain = {key: _plain(value, *inside) for key, value in options.items()}
        return make(*(_plain(value, *inside) for value in args), **plain)

    return made


def _plain(value: Any, *inside: _Type) -> Any:
    if isinstance(value, Stored) and value.type in inside:
        # Finding a zone by its name would read files and packages. Any zone serves to try the object around it.
        return timezone.utc if value.type == _ZONE else _make(value)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise TypeError


def _zone(key: Any) -> None:
    from zoneinfo import available_timezones  # noqa: PLC0415 - slow to import, and few values are edited

    if _plain(key) not in available_timezones():
        raise ValueError


def _items(items: Any, maxlen: Any = None) -> None:
    if not isinstance(items, list) or not (maxlen is None or isinstance(maxlen, int)):
        raise TypeError


def _members(items: Any) -> None:
    """Check that the items of a set are hashable, as far as their types show."""
    _items(items)
    if not all(map(_is_hashable, items)):
        raise TypeError


def _is_hashable(item: Any) -> bool:
    if isinstance(item, Stored):
        return item.type not in _MUTABLE and message_of(item) is None
    return not isinstance(item, list | dict | bytearray)


_MUTABLE = frozenset({("builtins", "set"), ("collections", "deque")})
_PATHS = {"Path": PurePath, "PosixPath": PurePosixPath, "WindowsPath": PureWindowsPath}
_ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv4Interface,
    ipaddress.IPv4Network,
    ipaddress.IPv6Address,
    ipaddress.IPv6Interface,
    ipaddress.IPv6Network,
)

STANDARD: Mapping[_Type, Callable[..., object]] = {
    ("builtins", "set"): _members,
    ("builtins", "frozenset"): _members,
    ("collections", "deque"): _items,
    ("datetime", "datetime"): _of_plain(datetime),
    ("datetime", "date"): _of_plain(date),
    ("datetime", "time"): _of_plain(time, _TIMEZONE, _ZONE),
    _TIMEDELTA: _of_plain(timedelta),
    _TIMEZONE: _of_plain(timezone, _TIMEDELTA),
    _ZONE: _zone,
    ("uuid", "UUID"): _of_plain(UUID),
    ("decimal", "Decimal"): _of_plain(Decimal),
    **{("ipaddress", kind.__name__): _of_plain(kind) for kind in _ADDRESSES},
    # Paths of every operating system, because the graph may run on another one.
    **{(module, name): _of_plain(kind) for module in ("pathlib", "pathlib._local") for name, kind in _PATHS.items()},
}
"""The function to call for each standard class that LangGraph stores. Patterns are missing: they are not tried.

Each call takes time and memory in proportion to its arguments.
"""
