"""`langgraph-gcs diff`: what differs between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.cli.commands.checkpoint import (
    AT_HELP,
    ID_HELP,
    LATEST,
    NamespaceOption,
    brief,
    brief_pair,
    facts,
    field,
    find_at,
    id_of,
    load,
    print_lines,
    recovery,
    text_lines,
    value_lines,
)
from langgraph_gcs_saver.cli.durations import instant
from langgraph_gcs_saver.cli.views.terminal import (
    Bar,
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    console,
    open_saver,
    plain,
    print_json,
    printable,
    progress,
)
from langgraph_gcs_saver.portable.diff import Change, ChannelDiff, Id, Path, compare

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

    from langgraph_gcs_saver import GCSSaver

_SIGNS = {"added": "+", "removed": "-", "changed": "~", "moved": ">"}
_STYLES = {"added": "green", "removed": "red", "changed": "yellow", "moved": "cyan"}


def diff(
    thread: ThreadArgument,
    a: Annotated[str | None, typer.Argument(metavar="A", help=f"A checkpoint. {ID_HELP}")] = None,
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="The checkpoint to compare it with, likewise. The default is `latest`."),
    ] = None,
    *,
    ns: NamespaceOption = "",
    at: Annotated[
        list[datetime] | None,
        typer.Option(
            "--at",
            parser=instant,
            metavar="TIME",
            help=f"Give it instead of A, or twice instead of both. It names {AT_HELP}",
        ),
    ] = None,
    channel: Annotated[str | None, typer.Option("--channel", metavar="C", help="Compare this channel only.")] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints of a thread: channels, messages by id, nested values by path, text by line.

    Example: langgraph-gcs diff my-thread --at 2h --store file:///home/me/store
    """
    named: list[str | datetime] = [*(at or ()), *(one for one in (a, b) if one is not None)]
    if not named:
        raise CommandError("say what to compare: A, or --at TIME.", 2)
    if len(named) > 2:
        raise CommandError("A, B and --at name more than two checkpoints. Name two to compare.", 2)
    with open_saver(store, cipher) as saver, progress("reading", 2) as bar:
        before, after = (_load(saver, thread, ns, one, bar) for one in [*named, LATEST][:2])
    known = before.checkpoint["channel_versions"].keys() | after.checkpoint["channel_versions"].keys()
    if channel is not None and channel not in known:
        names = ", ".join(sorted(known))
        raise CommandError(
            f"neither checkpoint of thread {thread!r} has a channel {channel!r}. These are there: {names}."
        )
    found = compare(_values(before, channel), _values(after, channel))
    unknown = [name for name in _unknown(before, after) if channel in (None, name)]
    if as_json:
        print_json(
            {
                "a": facts(before, thread),
                "b": facts(after, thread),
                "channels": [_channel_document(one) for one in found],
                "not_compared": unknown,
            }
        )
        return
    print_lines(console(), _lines(before, after, found, unknown))


def _load(saver: GCSSaver, thread: str, ns: str, which: str | datetime, bar: Bar) -> CheckpointTuple:
    found = load(saver, thread, ns, which if isinstance(which, str) else find_at(saver.admin, thread, ns, which))
    bar()
    return found


def _values(found: CheckpointTuple, channel: str | None) -> Mapping[str, Any]:
    values = found.checkpoint["channel_values"]
    return {name: value for name, value in values.items() if channel in (None, name)}


def _unknown(before: CheckpointTuple, after: CheckpointTuple) -> list[str]:
    """DeltaChannels whose versions differ, and whose value at least one of the two checkpoints does not store."""
    names: set[str] = set()
    for one in (before, after):
        counters = cast("Mapping[str, Any]", one.metadata).get(portable.DELTA_COUNTERS) or {}
        names |= counters.keys() - one.checkpoint["channel_values"].keys()
    versions = before.checkpoint["channel_versions"], after.checkpoint["channel_versions"]
    return sorted(name for name in names if versions[0].get(name) != versions[1].get(name))


def _lines(
    before: CheckpointTuple, after: CheckpointTuple, found: list[ChannelDiff], unknown: list[str]
) -> Iterator[Text]:
    for name, one in (("-", before), ("+", after)):
        yield field(f"{name} step {one.metadata.get('step', '?')}", f"{id_of(one)}  {one.metadata.get('source', '')}")
        yield from recovery(one)
    for channel in found:
        if channel.channel in unknown:
            continue
        yield Text.assemble((printable(channel.channel), "bold"), ("" if _inside(channel) else f"  {channel.kind}", ""))
        for change in channel.changes:
            yield from change_lines(change)
    for name in unknown:
        yield plain(f"{name}  has changed: a DeltaChannel, whose value only the graph can compute; see show", "bold")
    if not found and not unknown:
        yield plain("no difference")


def _inside(channel: ChannelDiff) -> bool:
    return channel.kind == "changed"


def change_lines(change: Change) -> Iterator[Text]:
    """The lines of a difference, for a person."""
    sign, style = _SIGNS[change.kind], _STYLES[change.kind]
    where = printable(path_text(change.path))
    head = f"  {sign} {where}" if where else f"  {sign}"
    if change.kind == "moved":
        yield plain(f"{head}: from place {change.before} to {change.after}", style)
    elif change.kind == "changed" and any("\n" in str(side) for side in (change.before, change.after) if change.lines):
        yield plain(f"{head}:", style)
        for line in change.lines:
            yield from text_lines(line, "      ", {"-": "red", "+": "green"}.get(line[:1], "dim"))
    elif change.kind == "changed":
        was, now = brief_pair(change.before, change.after)
        yield plain(f"{head}: {was} -> {now}", style)
    else:
        value = change.after if change.kind == "added" else change.before
        if portable.message_of(value) is None:
            yield plain(f"{head}: {brief(value)}", style)
        else:
            yield plain(head, style)
            for shown in value_lines(value):
                yield Text("  ") + shown


def path_text(path: Path) -> str:
    """A path as people write it: `plan.steps[2].text`, with `[id=…]` for an item that has an id."""
    text = ""
    for step in path:
        match step:
            case Id():
                text += f"[id={step.id}]"
            case int():
                text += f"[{step}]"
            case _:
                text += f"{'.' if text else ''}{step}"
    return text


def _channel_document(one: ChannelDiff) -> dict[str, Any]:
    return {
        "channel": one.channel,
        "kind": one.kind,
        "changes": [
            {
                "path": [{"id": step.id} if isinstance(step, Id) else portable.to_json(step) for step in change.path],
                "kind": change.kind,
                **({} if change.kind == "added" else {"before": portable.to_json(change.before)}),
                **({} if change.kind == "removed" else {"after": portable.to_json(change.after)}),
                **({"lines": change.lines} if change.lines else {}),
            }
            for change in one.changes
        ],
    }
