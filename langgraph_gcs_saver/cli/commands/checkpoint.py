"""Finds and reads a checkpoint, and shows its values: messages as a chat, everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.cli.views.terminal import CommandError, indented_json, plain, printable
from langgraph_gcs_saver.portable import Opaque, Stored

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

    from langgraph_gcs_saver import GCSSaver
    from langgraph_gcs_saver.saver.admin import Admin

NamespaceOption = Annotated[
    str, typer.Option("--ns", metavar="NS", help="The checkpoint namespace; the root graph's if not given.")
]
LATEST = "latest"
ID_HELP = "Its id, a part of the id that no other checkpoint has, or `latest`."
CheckpointArgument = Annotated[str, typer.Argument(metavar="CHECKPOINT", help=ID_HELP)]
OptionalCheckpointArgument = Annotated[
    str | None, typer.Argument(metavar="CHECKPOINT", help=f"{ID_HELP} The default is `latest`.")
]
AT_HELP = (
    "the newest checkpoint made at or before a time: 2030-01-31T10:15, in UTC unless it ends with a zone such as "
    "+01:00, or how long ago: 10m, 2h."
)

_CANDIDATES = 10
"""How many ids an error lists."""


def load(saver: GCSSaver, thread: str, ns: str, which: str) -> CheckpointTuple:
    """The checkpoint that `which` names: its id, a part of the id that no other checkpoint has, or `latest`.

    Raises:
        CommandError: No checkpoint matches, or several do.
    """
    found = _get(saver, thread, ns, None if which == LATEST else which) if which else None
    if found is None and which != LATEST:
        # List all ids only now, because a database counts each as a read.
        found = _get(saver, thread, ns, find_id(saver.admin, thread, ns, which))
    if found is None:
        if which != LATEST:
            raise CommandError(f"checkpoint {which!r} of thread {thread!r} has just been deleted.")
        raise CommandError(_nothing(thread, ns))
    return found


def _get(saver: GCSSaver, thread: str, ns: str, checkpoint_id: str | None) -> CheckpointTuple | None:
    named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return saver.get_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ns, **named}})


def _nothing(thread: str, ns: str) -> str:
    return f"thread {thread!r} has no checkpoint{_in_namespace(ns)}."


def _in_namespace(ns: str) -> str:
    return f" in namespace {ns!r}" if ns else ""


def find_id(saver: Admin, thread: str, ns: str, which: str) -> str:
    """The id of the checkpoint that `which` names, as for `load`. The checkpoint need not be readable.

    Raises:
        CommandError: No checkpoint matches, or several do.
    """
    ids = saver.checkpoint_ids({"configurable": {"thread_id": thread, "checkpoint_ns": ns}})
    if not ids:
        raise CommandError(_nothing(thread, ns))
    if which == LATEST:
        return ids[0]
    found = [one for one in ids if one == which] or [one for one in ids if which and which in one]
    if not found:
        raise CommandError(
            f"thread {thread!r} has no checkpoint {which!r}{_in_namespace(ns)}, and none whose id contains that. "
            "List its checkpoints with `langgraph-gcs history`."
        )
    if len(found) > 1:
        more = f" and {len(found) - _CANDIDATES} more" if len(found) > _CANDIDATES else ""
        raise CommandError(
            f"{which!r} names {len(found)} checkpoints of thread {thread!r}{_in_namespace(ns)}: "
            f"{', '.join(found[:_CANDIDATES])}{more}. Give more of the id."
        )
    return found[0]


def find_at(saver: Admin, thread: str, ns: str, time: datetime) -> str:
    """The id of the newest checkpoint made at or before a time. The checkpoint need not be readable.

    A time without a fraction means the whole second, because `history` shows times to the second.

    Raises:
        CommandError: There is none.
    """
    last = time if time.microsecond else time.replace(microsecond=999_999)
    found = saver.checkpoint_at({"configurable": {"thread_id": thread, "checkpoint_ns": ns}}, last)
    if found is None:
        when = time.isoformat(timespec="seconds")
        raise CommandError(f"thread {thread!r} has no checkpoint from {when} or before{_in_namespace(ns)}.")
    return found


def id_of(found: CheckpointTuple) -> str:
    """The checkpoint's id."""
    return found.checkpoint["id"]


def parent_of(found: CheckpointTuple) -> str | None:
    """The id of the checkpoint's parent."""
    return None if found.parent_config is None else str(found.parent_config["configurable"]["checkpoint_id"])


def facts(found: CheckpointTuple, thread: str) -> dict[str, Any]:
    """What identifies a checkpoint, for JSON."""
    return {
        "thread_id": thread,
        "checkpoint_ns": found.config["configurable"]["checkpoint_ns"],
        "checkpoint_id": id_of(found),
        "parent_checkpoint_id": parent_of(found),
        "ts": found.checkpoint.get("ts"),
        "metadata": portable.to_json(found.metadata),
    }


def recovery(found: CheckpointTuple) -> list[Text]:
    """A line that says that a checkpoint is served in place of a damaged latest one, if it is."""
    lost = cast("Mapping[str, Any]", found.metadata).get("recovered_from")
    if lost is None:
        return []
    return [field("recovered", f"the latest checkpoint, {lost}, is damaged; this is the newest whole one")]


# Lines that show values to a person. They contain no markup, and nothing that a terminal acts on.


def field(name: str, value: str) -> Text:
    """A line that begins with a name."""
    return Text.assemble((f"{name:<12}", "dim"), printable(value))


def value_lines(value: Any) -> Iterator[Text]:
    """The lines of a value: messages as a chat, text as text, everything else as JSON."""
    value = portable.without_delta(value)
    messages = value if isinstance(value, list) else [value]
    fields = [portable.message_of(message) for message in messages]
    if fields and all(fields):
        for one in fields:
            yield from message_lines(one or {})
    elif isinstance(value, str):
        yield from text_lines(value)
    else:
        yield from text_lines(json_of(value, indented=True))


def readable(value: Any) -> Any:
    """A value for JSON that people read: objects under the name of their class, bytes as their number."""
    match value:
        case bytes() | bytearray():
            return f"<{len(value):,} bytes>"
        case Opaque():
            return f"<{len(value.data):,} bytes of type {value.type}>"
        case Stored():
            if portable.is_delta(value):
                return readable(value.payload)
            parts = value.parts
            if parts is None:
                return f"<object of {len(value.data):,} bytes>"
            module, name, argument, _ = parts
            shown = readable(argument)
            if (module, name) in _SETS and isinstance(shown, list):
                shown.sort(key=json.dumps)  # The order of a set means nothing, and differs between processes.
            return {f"<{name}>": shown}
        case list() | tuple():
            return [readable(item) for item in value]
        case Mapping():
            # Convert each item once: twice at each level would be 2 ** depth calls.
            pairs = [[readable(key), readable(item)] for key, item in value.items()]
            names = [key if isinstance(key, str) else repr(shown) for key, (shown, _) in zip(value, pairs, strict=True)]
            # 1 and "1" are two keys of a mapping, but one key in JSON.
            if len(set(names)) < len(names):
                return {"<map>": pairs}
            return {name: item for name, (_, item) in zip(names, pairs, strict=True)}
        case _:
            return value


_SETS = {("builtins", "set"), ("builtins", "frozenset")}


def text_lines(text: str, indent: str = "  ", style: str = "") -> Iterator[Text]:
    """The lines of a text."""
    for line in text.split("\n"):
        yield plain(indent + printable(line.expandtabs(4)), style)


def message_lines(message: Mapping[str, Any]) -> Iterator[Text]:
    """The lines of a message: its author, its content, and the tools that it called."""
    who = str(message.get("type") or "message")
    of_whom = [str(message[key]) for key in ("role", "name") if message.get(key)]
    if message.get("tool_call_id"):
        of_whom.append(f"(answers {message['tool_call_id']})")
    if message.get("status") == "error":
        of_whom.append("(error)")
    mark = f"  {message['id']}" if message.get("id") else ""
    yield Text.assemble("  ", (printable(" ".join([who, *of_whom])), "bold"), (printable(mark), "dim"))
    content = message.get("content")
    for block in content if isinstance(content, list) else [content]:
        yield from _block_lines(block)
    for key in ("tool_calls", "invalid_tool_calls"):
        calls = message.get(key) or []
        for call in calls if isinstance(calls, list) else [calls]:
            yield from _call_lines(call)


def _block_lines(block: Any) -> Iterator[Text]:
    if isinstance(block, str):
        if block:
            yield from text_lines(block, "    ")
    elif isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str):
        yield from text_lines(block["text"], "    ")
    elif isinstance(block, dict):
        rest = {key: item for key, item in block.items() if key != "type"}
        yield from text_lines(f"[{block.get('type')}] {json_of(rest)}", "    ")
    elif block is not None:
        yield from text_lines(json_of(block), "    ")


def _call_lines(call: Any) -> Iterator[Text]:
    if not isinstance(call, dict):
        yield from text_lines(f"-> {json_of(call)}", "    ")
        return
    args = call.get("args")
    shown = args if isinstance(args, str) else json_of(args)
    error = f"  invalid: {call['error']}" if call.get("error") else ""
    yield from text_lines(f"-> {call.get('name')}({shown})  {call.get('id') or ''}{error}", "    ")


def json_of(value: Any, *, indented: bool = False) -> str:
    """A `readable` value as JSON text, in one line or `indented`."""
    try:
        shown = readable(value)
        return indented_json(shown) if indented else json.dumps(shown, ensure_ascii=False)
    except RecursionError:
        return "<nested too deeply>"


_WIDTH = 100
_CONTEXT = 20
"""The width of a line of a value, and how many equal characters it shows before the first different one."""


def brief(value: Any) -> str:
    """A value in one line of limited length."""
    return _cut(_line(value), 0)


def brief_pair(before: Any, after: Any) -> tuple[str, str]:
    """Two values in one line each. If they first differ far behind the start, both lines begin shortly before that."""
    lines = _line(before), _line(after)
    same = next((i for i, (was, now) in enumerate(zip(*lines, strict=False)) if was != now), min(map(len, lines)))
    start = same - _CONTEXT if same > _WIDTH - _CONTEXT else 0
    return _cut(lines[0], start), _cut(lines[1], start)


def _cut(text: str, start: int) -> str:
    rest = f"…{text[start:]}" if start else text
    return rest if len(rest) <= _WIDTH else f"{rest[: _WIDTH - 1]}…"


def _line(value: Any) -> str:
    message = portable.message_of(value)
    if message is not None:
        content = message.get("content")
        text = f"{message.get('type')}: {content if isinstance(content, str) else json_of(content)}"
    else:
        text = json_of(value)
    return printable(text)


def print_lines(target: Any, lines: Sequence[Text] | Iterator[Text]) -> None:
    """Print lines as they are, however long."""
    for line in lines:
        target.print(line, soft_wrap=True)
