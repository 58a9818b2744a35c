"""The demo's table of a thread's history: newest first, forks visible, long runs of equal steps shortened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from langgraph.types import StateSnapshot
from rich.box import SIMPLE_HEAD
from rich.table import Table

from langgraph_gcs_saver.cli.views.branches import draw
from langgraph_gcs_saver.cli.views.terminal import plain


@dataclass(frozen=True)
class Row:
    """A checkpoint: where it comes from, and what the agent knows at it.

    Attributes:
        checkpoint_id: Its id.
        parent_checkpoint_id: Its parent's id; None for the thread's first.
        step: LangGraph's number of the step, from -1.
        source: `input`, `loop` or `update`.
        node: The nodes that ran to make it; `update_state` for a change from outside.
        documents: How many documents the agent has read.
        next: The nodes that run next.
    """

    checkpoint_id: str
    parent_checkpoint_id: str | None
    step: int
    source: str
    node: str
    documents: int
    next: list[str]


def checkpoint_id(snapshot: StateSnapshot) -> str:
    """The id of a snapshot's checkpoint."""
    return str(snapshot.config["configurable"]["checkpoint_id"])


def rows(history: Iterable[StateSnapshot]) -> list[Row]:
    """The rows of a thread's history, in its order."""
    snapshots = {checkpoint_id(snapshot): snapshot for snapshot in history}
    result = []
    for own_id, snapshot in snapshots.items():
        parent_id = snapshot.parent_config["configurable"]["checkpoint_id"] if snapshot.parent_config else None
        parent = snapshots.get(parent_id) if parent_id else None
        metadata = snapshot.metadata or {}
        source = str(metadata.get("source", ""))
        node = {"update": "update_state", "input": ""}.get(source, ", ".join(parent.next) if parent else "")
        documents = len(snapshot.values.get("findings", ()))
        result.append(Row(own_id, parent_id, metadata.get("step", -1), source, node, documents, list(snapshot.next)))
    return result


def graph(history: Sequence[Row]) -> list[str]:
    """One drawing a row: `*` is the checkpoint, `|` a branch that passes by, `/` one that begins at this checkpoint."""
    return draw((row.checkpoint_id, row.parent_checkpoint_id) for row in history)


def table(history: Sequence[Row], notes: Mapping[str, str]) -> Table:
    """The table, for 80 columns. Of a long run of `read` it shows only the ends and the rows with a note.

    Args:
        history: The rows, newest first.
        notes: Remarks on some of the rows, by checkpoint id.
    """
    result = Table(box=SIMPLE_HEAD, padding=0)
    for name in ("", "id", "step", "source", "node", "docs", "next", "parent", "note"):
        result.add_column(name, justify="right" if name in {"step", "docs"} else "left", no_wrap=True)
    interesting = [row.node != "read" or row.checkpoint_id in notes for row in history]
    shown = [any(interesting[max(0, i - 1) : i + 2]) for i in range(len(history))]
    hidden = 0
    for i, (row, lines) in enumerate(zip(history, graph(history), strict=True)):
        if not shown[i]:
            hidden += 1
            if i + 1 == len(history) or shown[i + 1]:
                result.add_row(lines.replace("*", ":"), *[""] * 3, plain(f"... {hidden} more"), style="dim")
                hidden = 0
            continue
        result.add_row(
            lines,
            plain(short(row.checkpoint_id)),
            str(row.step),
            plain(row.source),
            plain(row.node),
            str(row.documents),
            plain(", ".join(row.next)),
            plain(short(row.parent_checkpoint_id) if row.parent_checkpoint_id else ""),
            plain(notes.get(row.checkpoint_id, "")),
            style="bold" if row.checkpoint_id in notes else "",
        )
    return result


def short(identifier: str) -> str:
    """The end of a checkpoint id, because it is random. The beginning is the time."""
    return identifier[-6:]
