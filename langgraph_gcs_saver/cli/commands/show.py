"""`langgraph-gcs show`: one checkpoint, readable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.cli.commands.checkpoint import (
    AT_HELP,
    LATEST,
    NamespaceOption,
    OptionalCheckpointArgument,
    facts,
    field,
    find_at,
    id_of,
    load,
    parent_of,
    print_lines,
    recovery,
    value_lines,
)
from langgraph_gcs_saver.cli.durations import instant
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    console,
    open_saver,
    plain,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

    from langgraph_gcs_saver import GCSSaver


def show(
    thread: ThreadArgument,
    checkpoint: OptionalCheckpointArgument = None,
    *,
    ns: NamespaceOption = "",
    at: Annotated[datetime | None, typer.Option("--at", parser=instant, metavar="TIME", help=f"Show {AT_HELP}")] = None,
    channel: Annotated[str | None, typer.Option("--channel", metavar="C", help="Show this channel only.")] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a checkpoint: its messages as a chat, its other channels as JSON, its pending writes.

    Nothing in the store is imported or run: an object is shown as the name of its class and its fields.

    Example: langgraph-gcs show my-thread latest --channel messages --store file:///home/me/store
    """
    if at is not None and checkpoint is not None:
        raise CommandError("CHECKPOINT and --at both name a checkpoint: give one of them.", 2)
    with open_saver(store, cipher) as saver, progress("reading"):
        named = LATEST if checkpoint is None else checkpoint
        found = load(saver, thread, ns, named if at is None else find_at(saver.admin, thread, ns, at))
        histories = _histories(saver, found)
        holds = saver.admin.holds(found.config).get(id_of(found), ())
    values = found.checkpoint["channel_values"]
    if channel is not None:
        if channel not in values and channel not in histories:
            names = ", ".join(sorted(values.keys() | histories.keys()))
            raise CommandError(f"channel {channel!r} has no value at checkpoint {id_of(found)!r}. These have: {names}.")
        values = {channel: values[channel]} if channel in values else {}
        histories = {channel: histories[channel]} if channel in histories else {}
    if as_json:
        print_json(_document(found, thread, values, histories, with_writes=channel is None) | {"holds": list(holds)})
        return
    out = console()
    if channel is None:
        print_lines(out, _head(found, thread, holds))
        values = {name: value for name, value in values.items() if not _is_trigger(name) or value is not None}
    else:
        print_lines(out, recovery(found))
    print_lines(out, _channels(values, histories))
    if channel is None:
        print_lines(out, _writes(found))


def _histories(saver: GCSSaver, found: CheckpointTuple) -> Mapping[str, Any]:
    """The values and writes that make up the DeltaChannels without a snapshot here."""
    counters = cast("Mapping[str, Any]", found.metadata).get(portable.DELTA_COUNTERS) or {}
    values, versions = found.checkpoint["channel_values"], found.checkpoint["channel_versions"]
    names = sorted(name for name in counters if name in versions and name not in values)
    return saver.get_delta_channel_history(config=found.config, channels=names) if names else {}


def _document(
    found: CheckpointTuple,
    thread: str,
    values: Mapping[str, Any],
    histories: Mapping[str, Any],
    *,
    with_writes: bool,
) -> dict[str, Any]:
    versions = found.checkpoint["channel_versions"]
    document = facts(found, thread) | {
        "channels": {
            name: {"version": versions.get(name), "value": portable.to_json(value)} for name, value in values.items()
        },
        "delta_channels": {
            name: {
                "version": versions.get(name),
                **({"seed": portable.to_json(history["seed"])} if "seed" in history else {}),
                "writes": [portable.to_json(value) for _, _, value in history["writes"]],
            }
            for name, history in histories.items()
        },
    }
    if with_writes:
        document["pending_writes"] = [
            {"task_id": task, "channel": name, "value": portable.to_json(value)}
            for task, name, value in found.pending_writes or ()
        ]
    return document


def _head(found: CheckpointTuple, thread: str, holds: Sequence[str]) -> Iterator[Text]:
    metadata = dict(found.metadata)
    yield field("thread", thread)
    ns = found.config["configurable"]["checkpoint_ns"]
    if ns:
        yield field("namespace", ns)
    yield field("checkpoint", id_of(found))
    yield field("parent", parent_of(found) or "none")
    yield field("time", str(found.checkpoint.get("ts", "")))
    yield field("step", f"{metadata.pop('step', '?')}, {metadata.pop('source', '?')}")
    following = [name.removeprefix(_TRIGGER) for name in found.checkpoint["channel_values"] if _is_trigger(name)]
    if following:
        yield field("next", ", ".join(following))
    if holds:
        yield field("held by", ", ".join(holds))
    yield from recovery(found)
    metadata.pop("recovered_from", None)
    if not metadata.get("parents", True):
        del metadata["parents"]
    if metadata:
        yield plain("metadata", "bold")
        yield from value_lines(metadata)


def _channels(values: Mapping[str, Any], histories: Mapping[str, Any]) -> Iterator[Text]:
    # Conversations come first. LangGraph's own channels, which say what runs next, come last.
    for name in sorted(values, key=lambda name: (name.startswith((_TRIGGER, "__")), not _is_chat(values[name]), name)):
        yield plain(name, "bold")
        yield from value_lines(values[name])
    for name, history in sorted(histories.items()):
        number = len(history["writes"])
        yield plain(f"{name} (a DeltaChannel: the graph computes its value from what follows)", "bold")
        if "seed" in history:
            yield plain("  stored value", "dim")
            yield from value_lines(history["seed"])
        for i, (_, _, value) in enumerate(history["writes"], 1):
            yield plain(f"  write {i} of {number}", "dim")
            yield from value_lines(value)


_TRIGGER = "branch:to:"
"""How LangGraph names the channels that have a value when a node is to run next; the node's name follows."""


def _is_trigger(name: str) -> bool:
    return name.startswith(_TRIGGER)


def _is_chat(value: Any) -> bool:
    items = portable.without_delta(value)
    return isinstance(items, list) and bool(items) and all(portable.message_of(item) for item in items)


def _writes(found: CheckpointTuple) -> Iterator[Text]:
    for task, name, value in found.pending_writes or ():
        yield plain(f"pending write to {name}, task {task}", "bold")
        yield from value_lines(value)
