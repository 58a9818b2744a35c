"""`langgraph-gcs report`: a thread as one page, for a browser without a network."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langgraph_gcs_saver.cli.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    open_saver,
    print_json,
    progress,
)
from langgraph_gcs_saver.errors import CheckpointCorruptError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

    from langgraph_gcs_saver import CheckpointInfo, GCSSaver
    from langgraph_gcs_saver.cli.report_values import Change

VALUES = 50
"""Steps whose values are read, the newest ones."""

VALUE_BYTES = 32 << 20
"""Serialised bytes of the states that are read for them, at most."""

_STEPS = 500
_Key = tuple[str, str]


def report(
    thread: ThreadArgument,
    *,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where the page goes; - is stdout.")],
    values: Annotated[
        bool, typer.Option("--values/--no-values", help=f"Show what the newest {VALUES} steps changed in the state.")
    ] = True,
    steps: Annotated[
        int, typer.Option("--steps", min=1, metavar="N", help="Show the N newest checkpoints in the timeline.")
    ] = _STEPS,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a thread's report: one page with its timeline, sizes, changes and damage, readable on a phone, offline.

    With --no-values the page has no content of the state, only names, ids and sizes.

    Example: langgraph-gcs report my-thread -o page.html --store file:///tmp/store
    """
    from langgraph_gcs_saver.cli.report_page import Report, page

    to_stdout = output == "-"
    if to_stdout and as_json:
        raise CommandError("--json and -o - both want standard output: give the page a file.", 2)
    target = Path(output)
    if not to_stdout and not force and target.exists():
        raise CommandError(f"{output!r} is there already: give --force to overwrite it.")
    with open_saver(store, cipher) as saver:
        with progress("reading manifests"):
            found = saver.history(thread)
        if not found:
            raise CommandError(f"there is no thread {thread!r} in the store, or it has no checkpoint.")
        with progress("looking for damage"):
            findings = list(saver.verify(thread))
        with progress("reading values"):
            changed = read_changes(saver, thread, found, min(steps, VALUES)) if values else {}
    made = page(Report(thread_id=thread, checkpoints=found, findings=findings, changes=changed, shown=steps)).encode()
    if to_stdout:
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()
        return
    _write(target, made, force=force)
    if as_json:
        print_json(
            {
                "output": output,
                "bytes": len(made),
                "checkpoints": len(found),
                "shown": min(steps, len(found)),
                "with_values": len(changed),
                "findings": len(findings),
            }
        )


def _write(target: Path, made: bytes, *, force: bool) -> None:
    opened = False
    try:
        with target.open("wb" if force else "xb") as file:
            opened = True
            file.write(made)
    except FileExistsError:
        raise CommandError(f"{str(target)!r} is there already: give --force to overwrite it.") from None
    except OSError as error:
        if opened and not force:
            with suppress(OSError):
                target.unlink()
        raise CommandError(f"cannot write {str(target)!r}: {error.strerror or error}.") from error


def read_changes(
    saver: GCSSaver, thread_id: str, found: Sequence[CheckpointInfo], limit: int
) -> Mapping[_Key, Sequence[Change]]:
    """What the newest steps changed, as far as they can be read, and as their states fit into `VALUE_BYTES`."""
    from langgraph_gcs_saver.cli.report_values import changes

    chosen: dict[_Key, CheckpointInfo] = {}
    left = VALUE_BYTES
    for info in found[:limit]:
        left -= info.size
        if left < 0:
            break
        chosen[_key(info)] = info
    read: dict[_Key, CheckpointTuple] = {}
    for one in saver.list({"configurable": {"thread_id": thread_id}}, limit=len(chosen)):
        configurable = one.config["configurable"]
        read[configurable["checkpoint_ns"], configurable["checkpoint_id"]] = one
    sizes = {_key(info): info.size for info in found if info.damage is None}
    result = {}
    for key, info in chosen.items():
        if key not in read:
            continue
        parent = None if info.parent_id is None else (info.checkpoint_ns, info.parent_id)
        if parent is not None and parent not in read and sizes.get(parent, left + 1) <= left:
            left -= sizes[parent]
            before = _get(saver, thread_id, parent)
            if before is not None:
                read[parent] = before
        result[key] = changes(info, read[key], None if parent is None else read.get(parent))
    return result


def _key(info: CheckpointInfo) -> _Key:
    return info.checkpoint_ns, info.checkpoint_id


def _get(saver: GCSSaver, thread_id: str, key: _Key) -> CheckpointTuple | None:
    """A checkpoint; `None` if it is gone or damaged, which the page tells elsewhere."""
    ns, checkpoint_id = key
    configurable = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
    try:
        return saver.get_tuple({"configurable": configurable})
    except CheckpointCorruptError:
        return None
