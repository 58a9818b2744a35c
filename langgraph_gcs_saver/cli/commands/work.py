"""`langgraph-gcs work`: a process that resumes what others have begun."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import ExitStack
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.durations import positive_duration
from langgraph_gcs_saver.cli.graphs import graph_named
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    console,
    open_saver,
    plain,
    store_named,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langgraph_gcs_saver import GCSSaver, Recovery
    from langgraph_gcs_saver.saver.worker import Recoveries

FAILED = 4
"""Exit code of a single look if a thread has failed."""

STOPPED = 75
"""Exit code if the last run was stopped in time, as EX_TEMPFAIL of sysexits.h: the same command continues."""


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
    stop_after: Annotated[
        timedelta | None,
        typer.Option(parser=positive_duration, metavar="TIME", help="Stop after a time, such as 55m, as on SIGTERM."),
    ] = None,
    calls_async: Annotated[
        bool,
        typer.Option(
            "--async", help="Call the graphs' asynchronous methods. This is the default if a node is a coroutine."
        ),
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume crashed, paused and answered threads of a graph, each under its lease. Several processes can do this.

    A graph with a GCSSaver as its checkpointer brings its store. Otherwise give --store. The graph's module is
    imported, and its nodes run in this process. Without --every it looks once, and the exit code is 4 if a thread
    failed. With --json it prints one line for each thread.

    If the store is a replica, or was the primary of two, a worker with --every stands by: it looks at the role every
    second, reads tips ahead, and begins when the store becomes the primary. Without --every the exit code is 10.

    SIGTERM, SIGHUP or Ctrl-C ends the run under way at its next boundary between two steps, and the exit code is 75.
    Another process then resumes it. If no run is under way, the exit code is 0. A second signal ends the process at
    once.

    Example: langgraph-gcs work my_agent:graph --every 5s --store file:///home/me/store
    """
    from langgraph_gcs_saver import cadence

    graphs = _by_name(graph)
    # The policy calls the handlers that were there before, and ours would end the process.
    stopping = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    for one in stopping:
        if one != signal.SIGINT:
            signal.signal(one, signal.SIG_DFL)
    policy: cadence.Policy = cadence.Signal(signal.SIGTERM, *stopping)
    if stop_after is not None:
        policy |= cadence.Deadline(seconds=stop_after.total_seconds())
    how: dict[str, Any] = {}
    if segments is not None:
        policy |= cadence.Every(seconds=segments.total_seconds())
        how["store"] = "segments"
    failed = 0
    last: Recovery | None = None

    def show(one: Recovery) -> None:
        nonlocal failed, last
        failed, last = failed + (one.outcome in ("failed", "poison")), one
        # At once, because another program may wait for it.
        if as_json:
            print(json.dumps(asdict(one)), flush=True)
        else:
            console().print(plain(str(one)), soft_wrap=True)

    with ExitStack() as stack:
        saver = _saver(graphs, store, cipher, stack)
        recoveries = saver.recover(
            graphs if len(graphs) > 1 else next(iter(graphs.values())),
            every=None if every is None else every.total_seconds(),
            limit=limit,
            attempts=attempts,
            policy=policy,
            **how,
        )
        if calls_async or any(map(_needs_async, graphs.values())):
            asyncio.run(_show_all(recoveries, show))
        else:
            for one in recoveries:
                show(one)
    if last is not None and last.outcome == "paused":
        raise CommandError(f"the run of thread {last.thread_id!r} was stopped. The same command continues it.", STOPPED)
    if last is None and every is None and not as_json:
        names = ", ".join(map(repr, graphs))
        console().print(plain(f"No thread needs a worker now, of those whose graph is {names}."), soft_wrap=True)
    if failed and every is None:
        raise CommandError(f"{failed} failed. List them with langgraph-gcs runs.", FAILED)


_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


async def _show_all(recoveries: Recoveries, show: Callable[[Recovery], None]) -> None:
    async for one in recoveries:
        show(one)


def _by_name(names: list[str]) -> dict[str, Any]:
    """The graphs. A thread says only the name of its graph, so no two may have the same."""
    graphs: dict[str, Any] = {}
    for name in names:
        one = graph_named(name)
        if one.get_name() in graphs:
            raise CommandError(
                f"{name}: another graph is also called {one.get_name()!r}. Give each a name: compile(name=…).", 2
            )
        graphs[one.get_name()] = one
    return graphs


def _needs_async(graph: Any) -> bool:
    """Whether a node of a graph is only a coroutine, so that `invoke` fails."""
    nodes = [getattr(one, "bound", None) for one in getattr(graph, "nodes", {}).values()]
    return any(
        _needs_async(one)
        if hasattr(one, "nodes")
        else getattr(one, "afunc", None) is not None and getattr(one, "func", None) is None
        for one in nodes
    )


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
