"""`langgraph-gcs report`: a thread as one page, for a browser without a network."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    open_saver,
    print_json,
    progress,
)
from langgraph_gcs_saver.engine.files import write_file
from langgraph_gcs_saver.errors import CheckpointCorruptError, DamageError
from langgraph_gcs_saver.records import record

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

    from langgraph_gcs_saver import CheckpointInfo, Finding, GCSSaver
    from langgraph_gcs_saver.cli.views.report_page import Key
    from langgraph_gcs_saver.cli.views.report_values import Change

VALUES = 50
"""How many of the newest steps have their values read."""

VALUE_BYTES = 32 << 20
"""Serialized bytes of the states that are read for them, at most."""

_STEPS = 500


def report(
    thread: ThreadArgument,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write the page; - is stdout.")
    ],
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

    It checks documents, names of objects, and the values that it reads. It says what it did not check.

    It also shows the thread's sagas, and what sets and savepoints hold.

    With --no-values, the page has no content of the state, only names, ids and sizes.

    Example: langgraph-gcs report my-thread -o page.html --store file:///home/me/store
    """
    from langgraph_gcs_saver.cli.views.report_page import Report, page

    to_stdout = output == "-"
    if to_stdout and as_json:
        raise CommandError("--json and -o - both need standard output: give the page a file.", 2)
    target = Path(output)
    if not to_stdout and not force and target.exists():
        raise CommandError(f"{output!r} already exists: give --force to overwrite it.")
    with open_saver(store, cipher) as saver:
        with progress("reading manifests"):
            found = saver.admin.history(thread)
        if not found:
            raise CommandError(f"there is no thread {thread!r} in the store, or it has no checkpoint.")
        with progress("looking for damage"):
            findings = list(saver.admin.verify(thread))
        with progress("reading values"):
            states = read_states(saver, thread, found, min(steps, VALUES)) if values else States()
        try:
            sagas = saver.admin.sagas(thread)
        except DamageError:
            sagas = None  # The findings name the damaged document.
    told = Report(
        thread_id=thread,
        checkpoints=with_damage(found, findings, states.damage),
        findings=findings,
        changes=states.changes,
        read=states.read,
        shown=steps,
        sagas=sagas,
    )
    made = page(told).encode()
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
                "with_values": len(states.changes),
                "findings": len(findings),
                "damaged": told.damaged,
                "not_checked": told.not_checked,
            }
        )


def _write(target: Path, made: bytes, *, force: bool) -> None:
    try:
        write_file(target, made, replace=force, devices=True)
    except FileExistsError:
        raise CommandError(f"{str(target)!r} already exists: give --force to overwrite it.") from None
    except OSError as error:
        raise CommandError(f"cannot write {str(target)!r}: {error.strerror or error}.") from error


@record(frozen=True, slots=True)
class States:
    """What the states of a thread's newest checkpoints show.

    Attributes:
        changes: What each step changed.
        damage: What is wrong with the states that cannot be read.
        read: How many checkpoints were read, damaged ones included.
    """

    changes: Mapping[Key, Sequence[Change]] = field(default_factory=dict)
    damage: Mapping[Key, str] = field(default_factory=dict)
    read: int = 0


def read_states(saver: GCSSaver, thread_id: str, found: Sequence[CheckpointInfo], limit: int) -> States:
    """Read the newest steps, as long as their states fit into `VALUE_BYTES`."""
    from langgraph_gcs_saver.cli.views.report_page import key
    from langgraph_gcs_saver.cli.views.report_values import changes

    chosen: dict[Key, CheckpointInfo] = {}
    left = VALUE_BYTES
    for info in found[:limit]:
        left -= info.size
        if left < 0:
            break
        chosen[key(info)] = info
    read: dict[Key, CheckpointTuple] = {}
    older = {key(info) for info in found[len(chosen) :]}
    for one in saver.list({"configurable": {"thread_id": thread_id}}, limit=len(chosen)):
        configurable = one.config["configurable"]
        own = configurable["checkpoint_ns"], configurable["checkpoint_id"]
        if own in older:
            break  # It is served in place of a damaged one.
        read[own] = one
    sizes = {key(info): info.size for info in found if info.damage is None}
    changed: dict[Key, Sequence[Change]] = {}
    damage: dict[Key, str] = {}

    def get(one: Key) -> None:
        """Read a checkpoint that is not read yet. One that has just been deleted is neither read nor damaged."""
        if one in read or one in damage:
            return
        ns, checkpoint_id = one
        configurable = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        try:
            loaded = saver.get_tuple({"configurable": configurable})
        except CheckpointCorruptError as error:
            damage[one] = error.reason if error.channel is None else f"channel {error.channel!r}: {error.reason}"
        else:
            if loaded is not None:
                read[one] = loaded

    for own, info in chosen.items():
        get(own)  # The listing skips damaged ones.
        if own not in read:
            continue
        parent = None if info.parent_id is None else (info.checkpoint_ns, info.parent_id)
        if parent is not None and parent not in read and sizes.get(parent, left + 1) <= left:
            left -= sizes[parent]
            get(parent)
        changed[own] = changes(info, read[own], None if parent is None else read.get(parent))
    known = {key(info) for info in found}
    return States(changed, damage, len(known & (read.keys() | damage.keys())))


def with_damage(
    found: Sequence[CheckpointInfo], findings: Sequence[Finding], damage: Mapping[Key, str]
) -> Sequence[CheckpointInfo]:
    """Checkpoints with the damage that `verify` found, or that reading them found."""
    from langgraph_gcs_saver.cli.views.report_page import key

    told = {
        (finding.checkpoint_ns, one): finding.reason
        for finding in findings
        if finding.is_damage
        for one in finding.affects
    }
    told.update(damage)
    return [replace(info, damage=info.damage or told.get(key(info))) for info in found]
