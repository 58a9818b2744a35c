"""What a step did to the values of its channels, in a few short pieces of text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Literal
from uuid import UUID

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import Interrupt

from langgraph_gcs_saver.flows.catalogue import CheckpointInfo
from langgraph_gcs_saver.records import record

PIECES = 8
"""Pieces of a change that are shown: messages, items, keys."""

LENGTH = 600
"""Characters of a piece."""

_DEPTH = 12
_WRITES = {"__interrupt__": "asks", "__error__": "error", "__resume__": "answer"}

Mark = Literal["new", "gone", "now"]


@record(frozen=True, slots=True)
class Piece:
    """A part of a change.

    Attributes:
        mark: Whether it is new, gone, or there now while nobody looked at what was before.
        label: Whose message it is, or which key of a mapping.
        text: The value, perhaps of several lines, cut.
        cut: How many characters are left out.
    """

    mark: Mark
    label: str
    text: str
    cut: int = 0


@record(frozen=True, slots=True)
class Change:
    """What a step did to a channel.

    Attributes:
        channel: The channel, or what was written while the step's tasks ran: a question, an answer, an error.
        pieces: What is new, and what is gone.
        more: Number of pieces before them that are left out.
    """

    channel: str
    pieces: tuple[Piece, ...]
    more: int = 0


def changes(info: CheckpointInfo, after: CheckpointTuple, before: CheckpointTuple | None) -> tuple[Change, ...]:
    """What a checkpoint changed, against its parent.

    Args:
        info: The checkpoint.
        after: It, read.
        before: Its parent, read; `None` if there is none, or if it could not be read.
    """
    values = after.checkpoint["channel_values"]
    known: Mapping[str, Any] | None = {} if info.parent_id is None else None
    if before is not None:
        known = before.checkpoint["channel_values"]
    found = []
    for stored in info.stored:
        channel = stored.channel
        if channel.startswith("__") or values.get(channel) is None:
            continue
        found.append(_change(channel, _pieces(values[channel], known, channel)))
    for channel, label in _WRITES.items():
        written = [value for _, own, value in after.pending_writes or () if own == channel]
        # LangGraph keeps an answer twice: for the task that asked, and for whichever asks next.
        found.append(_change(label, list(dict.fromkeys(_piece("now", "", _asked(value)) for value in written))))
    return tuple(change for change in found if change.pieces)


def _change(channel: str, pieces: Sequence[Piece]) -> Change:
    return Change(channel, tuple(pieces[-PIECES:]), max(0, len(pieces) - PIECES))


def _asked(value: Any) -> Any:
    asked = (
        [one.value if isinstance(one, Interrupt) else one for one in value]
        if isinstance(value, list | tuple)
        else value
    )
    return asked[0] if isinstance(asked, list) and len(asked) == 1 else asked


def _pieces(value: Any, known: Mapping[str, Any] | None, channel: str) -> list[Piece]:
    if known is None:
        # The end of a list is what is most likely new.
        return [_piece("now", *one) for one in _by_key(value[-1:] if isinstance(value, list) else [value]).values()]
    before = known.get(channel)
    if isinstance(value, list) and isinstance(before, list | None):
        return _of_items(before or [], value)
    if isinstance(value, Mapping) and isinstance(before, Mapping):
        return _of_keys(before, value)
    if isinstance(value, str) and isinstance(before, str) and before and value.startswith(before):
        return [_piece("new", "appended", value[len(before) :])]
    gone = [] if before is None else [_piece("gone", "", before)]
    return [*gone, _piece("new", "", value)]


def _of_items(before: Iterable[Any], after: Iterable[Any]) -> list[Piece]:
    """Items that came, went or changed: messages are told apart by their ids, others by their text."""
    old, new = _by_key(before), _by_key(after)
    pieces = [_piece("gone", *item) for key, item in old.items() if key not in new]
    for key, item in new.items():
        if key in old and old[key] != item:
            pieces.append(_piece("gone", *old[key]))
        if old.get(key) != item:
            pieces.append(_piece("new", *item))
    return pieces


def _by_key(items: Iterable[Any]) -> dict[tuple[str, int], tuple[str, str]]:
    """The label and text of each item, by what it is known by and how many before it are known by the same."""
    found = {}
    times: Counter[str] = Counter()
    for item in items:
        own_id, label, content = _message(item) or ("", "", readable(item))
        own_id = own_id or f"{label}: {content}"
        found[own_id, times[own_id]] = (label, content)
        times[own_id] += 1
    return found


def _message(item: Any) -> tuple[str, str, str] | None:
    """The id, author and text of a chat message."""
    if isinstance(item, BaseMessage):
        calls, own_id, content = getattr(item, "tool_calls", None), item.id, item.content
        label = item.type if not item.name else f"{item.type} {item.name}"
    elif isinstance(item, Mapping) and "content" in item and isinstance(item.get("role", item.get("type")), str):
        calls, own_id, content = item.get("tool_calls"), item.get("id"), item["content"]
        label = item.get("role", item.get("type"))
    else:
        return None
    lines = [_content(content)] if content else []
    lines += [f"calls {_call(call)}" for call in (calls if isinstance(calls, list) else ())]
    return str(own_id or ""), label, "\n".join(lines)


def _content(content: Any) -> str:
    if not isinstance(content, list):
        return readable(content)
    blocks = (block.get("text", f"[{block.get('type')}]") if isinstance(block, Mapping) else block for block in content)
    return "\n".join(map(readable, blocks))


def _call(call: Any) -> str:
    if not isinstance(call, Mapping) or "name" not in call:
        return readable(call)
    return f"{readable(call['name'])}({readable(call.get('args', {}))})"


def _of_keys(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[Piece]:
    old = {readable(key): readable(value) for key, value in before.items()}
    new = {readable(key): readable(value) for key, value in after.items()}
    pieces = []
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            pieces += [_piece("gone", key, old[key])] if key in old else []
            pieces += [_piece("new", key, new[key])] if key in new else []
    return pieces


def _piece(mark: Mark, label: str, value: Any) -> Piece:
    whole = readable(value)
    return Piece(mark, label, whole[:LENGTH], max(0, len(whole) - LENGTH))


def readable(value: Any, depth: int = 0) -> str:
    """A value as text: a string as it is, other things as JSON; the same for the same value, in every process."""
    return value if isinstance(value, str) else json.dumps(_plain(value, depth), ensure_ascii=False)


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        # Python refuses to write out the digits of a very large one.
        return value if value.bit_length() < 1024 else f"<integer of {value.bit_length()} bits>"
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes>"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, date | timedelta | Decimal | PurePath | UUID):
        return str(value)
    if depth == _DEPTH:
        return "<…>"
    if isinstance(value, Mapping):
        return {readable(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(readable(item, depth + 1) for item in value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name, None), depth + 1) for field in fields(value)}
    if hasattr(type(value), "model_fields"):
        return {key: _plain(item, depth + 1) for key, item in vars(value).items()}
    # Not its repr, which may tell an address in memory.
    return f"<{type(value).__qualname__}>"
