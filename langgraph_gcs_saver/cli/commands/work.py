"""`langgraph-gcs work`: a process that resumes what others have begun."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.durations import positive_duration
from langgraph_gcs_saver.cli.modules import NamingError, find, raised
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    console,
    open_saver,
    plain,
    print_json,
    store_named,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver import GCSSaver

FAILED = 4
"""Exit code of a single look if a thread has failed."""


def work(
    graph: Annotated[
        list[str],
        typer.Argument(
            metavar="MODULE:GRAPH",
            help="A compiled graph, or a function without arguments that makes one. Several are fine.",
        ),
    ],
    *,
    every: Annotated[
        timedelta | None,
        typer.Option(
            parser=positive_duration,
            metavar="TIME",
            help="Look again after a time, such as 5s, until SIGTERM or Ctrl-C.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most threads to resume.")] = None,
    attempts: Annotated[
        int, typer.Option(min=1, help="After so many failures in a row, a thread is given up as poison.")
    ] = 5,
    segments: Annotated[
        timedelta | None,
        typer.Option(
            parser=positive_duration,
            metavar="TIME",
            help="Store in segments: after a time, such as 5m, and not each step.",
        ),
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume crashed, paused and answered threads of a graph, each under its lease. Several processes can do this.

    A graph with a GCSSaver as its checkpointer brings its store. Otherwise give --store. The graph's module is
    imported, and its nodes run in this process. Without --every it looks once, and the exit code is 4 if a thread
    failed.

    SIGTERM ends the run under way at its next boundary between two steps. Another process then resumes it.

    Example: langgraph-gcs work my_agent:graph --every 5s --store file:///home/me/store
    """
    from langgraph_gcs_saver import cadence

    graphs = {one.get_name(): one for one in map(_graph, graph)}
    # The policy calls the handlers that were there before, and ours would end the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    policy: cadence.Policy = cadence.Signal(signal.SIGTERM, signal.SIGINT)
    how: dict[str, Any] = {}
    if segments is not None:
        policy, how = policy | cadence.Every(seconds=segments.total_seconds()), {"store": "segments"}
    failed = 0
    with ExitStack() as stack:
        saver = _saver(graphs, store, cipher, stack)
        found = saver.recover(
            graphs,
            every=None if every is None else every.total_seconds(),
            limit=limit,
            attempts=attempts,
            policy=policy,
            **how,
        )
        for one in found:
            failed += one.outcome in ("failed", "poison")
            if as_json:
                print_json(asdict(one))
            else:
                console().print(plain(str(one)), soft_wrap=True)
    if failed and every is None:
        raise CommandError(f"{failed} failed. List them with langgraph-gcs runs.", FAILED)


def _graph(name: str) -> Any:
    try:
        found = find(name)
    except NamingError as error:
        raise CommandError(f"{name}: {error}", 2) from error
    if not hasattr(found, "checkpointer") and callable(found):
        try:
            found = found()
        except Exception as error:  # The user's code may raise anything.
            raise CommandError(f"{name}: calling it without arguments raises {raised(error)}.", 2) from error
    if not hasattr(found, "checkpointer") or not hasattr(found, "get_name"):
        raise CommandError(f"{name}: a {type(found).__name__} is not a compiled graph. Call `compile()` of it.", 2)
    return found


def _saver(graphs: dict[str, Any], store: str | None, cipher: str | None, stack: ExitStack) -> GCSSaver:
    """The saver of the first graph that has one; else the store that an option or the environment names."""
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    from langgraph_gcs_saver import GCSSaver

    own = next((one.checkpointer for one in graphs.values() if isinstance(one.checkpointer, GCSSaver)), None)
    if own is None:
        return stack.enter_context(open_saver(store, cipher, serde=JsonPlusSerializer()))
    if store is not None:
        raise CommandError(f"the graph has a store of its own. Leave out --store {store_named(store)}.", 2)
    return own
