"""`langgraph-gcs check`: whether what a thread refers to is still there, and whether a graph can resume it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.graphs import graph_named
from langgraph_gcs_saver.cli.views.plans import counted, table
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    check_thread,
    console,
    open_saver,
    plain,
    print_json,
    print_table,
    progress,
)
from langgraph_gcs_saver.results import CheckFinding, GraphChanged

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 4
"""Exit code if something is not `ok`, as of `verify`."""


def check(
    thread: ThreadArgument,
    *,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:GRAPH",
            help="Also compare with a compiled graph, or with what a function without arguments makes. The module is "
            "imported.",
        ),
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check what the newest state of a thread refers to: ok, changed, missing or unknown.

    Each URI of a reference gets one request without content. The exit code is 4 if something is not ok. With --app, the
    nodes that are due and the channels that have a value must be in the graph, and the exit code is 4 if one is not.
    Nothing runs, and nothing is stored.

    Example: langgraph-gcs check my-thread --app my_agent:graph --store file:///home/me/store
    """
    graph = None if app is None else graph_named(app)
    with open_saver(store, cipher) as saver:
        with progress("looking"):
            found = saver.thread(thread).check(graph=graph)
        if not found:
            check_thread(saver.admin, thread)
    if as_json:
        print_json([_shown(one) for one in found])
    else:
        _print(found)
    bad = sum(one.is_problem for one in found)
    if bad:
        raise CommandError(f"{bad} not ok.", FAILED)


def _print(found: Sequence[CheckFinding]) -> None:
    out = console()
    rows = table("found", "what", "where")
    for one in found:
        if isinstance(one, GraphChanged):
            rows.add_row(plain("graph changed", "bold red"), plain(f"{one.kind} {one.name}"), plain(one.checkpoint_ns))
        else:
            rows.add_row(
                plain(one.kind, "bold red" if one.is_problem else ""),
                plain(f"{one.uri}: {one.reason}" if one.reason else one.uri),
                plain(f"{one.checkpoint_ns} {one.path}".strip()),
            )
    if found:
        print_table(out, rows)
    out.print(plain(f"{counted(len(found), 'finding')}."), soft_wrap=True)


def _shown(one: CheckFinding) -> dict[str, Any]:
    what = "graph" if isinstance(one, GraphChanged) else "reference"
    return {"what": what, **asdict(one), "is_problem": one.is_problem}
