"""What a step did to the values of its channels, as a few short pieces of text, read by `PortableSerializer`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from langgraph.checkpoint.base import CheckpointTuple

from langgraph_gcs_saver.cli.commands.checkpoint import json_of
from langgraph_gcs_saver.portable import Stored, message_of, without_delta
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.results import CheckpointInfo

PIECES = 8
"""How many pieces of a change are shown: messages, items, keys."""

LENGTH = 600
"""How many characters of a piece are shown."""

_WRITES = {"__interrupt__": "asks", "__error__": "error", "__resume__": "answer"}

Mark = Literal["new", "gone", "now"]


@record(frozen=True, slots=True)
class Piece:
    """A part of a change.

    Attributes:
        mark: `new`, `gone`, or `now` for what is there now if the value before was not read.
        label: The author of a message, or the key of a mapping.
        text: The value, cut; it may have several lines.
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
        more: How many pieces before them are left out.
    """

    channel: str
    pieces: tuple[Piece, ...]
    more: int = 0


def changes(info: CheckpointInfo, after: CheckpointTuple, before: CheckpointTuple | None) -> tuple[Change, ...]:
    """What a checkpoint changed, compared with its parent.

    Args:
        info: The checkpoint.
        after: The checkpoint, read.
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
        # LangGraph keeps an answer twice: for the task that asked, and for the next task that asks.
        found.append(_change(label, list(dict.fromkeys(_piece("now", "", _asked(value)) for value in written))))
    return tuple(change for change in found if change.pieces)


def _change(channel: str, pieces: Sequence[Piece]) -> Change:
    return Change(channel, tuple(pieces[-PIECES:]), max(0, len(pieces) - PIECES))


def _asked(value: Any) -> Any:
    asked = [_question(one) for one in value] if isinstance(value, list) else value
    return asked[0] if isinstance(asked, list) and len(asked) == 1 else asked


def _question(value: Any) -> Any:
    parts = value.parts if isinstance(value, Stored) else None
    if parts is None or parts[:2] != ("langgraph.types", "Interrupt") or not isinstance(parts[2], dict):
        return value
    return parts[2].get("value")


def _pieces(value: Any, known: Mapping[str, Any] | None, channel: str) -> list[Piece]:
    value = without_delta(value)
    if known is None:
        # The end of a list is most likely new.
        return [_piece("now", *one) for one in _by_key(value[-1:] if isinstance(value, list) else [value]).values()]
    before = without_delta(known.get(channel))
    if isinstance(value, list) and isinstance(before, list | None):
        return _of_items(before or [], value)
    if isinstance(value, Mapping) and isinstance(before, Mapping):
        return _of_keys(before, value)
    if isinstance(value, str) and isinstance(before, str) and before and value.startswith(before):
        return [_piece("new", "appended", value[len(before) :])]
    gone = [] if before is None else [_piece("gone", "", before)]
    return [*gone, _piece("new", "", value)]


def _of_items(before: Iterable[Any], after: Iterable[Any]) -> list[Piece]:
    """Items that came, went or changed. Messages are matched by their ids, other items by their text."""
    old, new = _by_key(before), _by_key(after)
    pieces = [_piece("gone", *item) for key, item in old.items() if key not in new]
    for key, item in new.items():
        if key in old and old[key] != item:
            pieces.append(_piece("gone", *old[key]))
        if old.get(key) != item:
            pieces.append(_piece("new", *item))
    return pieces


def _by_key(items: Iterable[Any]) -> dict[tuple[str, int], tuple[str, str]]:
    """The label and text of each item, by its id or text and by how many items before it share that."""
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
    fields = message_of(item) or item
    if not isinstance(fields, Mapping) or "content" not in fields:
        return None
    label = fields.get("role", fields.get("type"))
    if not isinstance(label, str):
        return None
    if fields.get("name"):
        label = f"{label} {readable(fields['name'])}"
    calls, own_id, content = fields.get("tool_calls"), fields.get("id"), fields["content"]
    lines = [_content(content)] if content else []
    lines += [f"calls {_call(call)}" for call in (calls if isinstance(calls, list) else ())]
    return readable(own_id or ""), label, "\n".join(lines)


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


def readable(value: Any) -> str:
    """A value as text: a string as it is, other values as JSON. Equal values give the same text in every process."""
    return value if isinstance(value, str) else json_of(value)
