"""`langgraph-gcs leases` and `pause`: which processes write to threads, and how to ask one to stop."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from langgraph_gcs_saver.cli.commands.catalogue import moment, table_of
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    console,
    open_admin,
    plain,
    print_json,
    print_table,
    progress,
)


def leases(
    *,
    expired: Annotated[
        bool, typer.Option("--expired", help="List only expired leases: their holders have probably crashed.")
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the leases that are held: thread, holder, since when, last beat, and the nodes that the holder runs.

    A holder that crashed still has its lease. Once it has expired, any process can acquire it.

    Example: langgraph-gcs leases --expired --store file:///home/me/store
    """
    with open_admin(store, cipher) as saver, progress("reading leases"):
        found = list(saver.leases(expired=expired))
    if as_json:
        times = [{"since": one.since.isoformat(), "last_beat": one.last_beat.isoformat()} for one in found]
        print_json([{**asdict(one), **more} for one, more in zip(found, times, strict=True)])
        return
    if not found:
        console().print("There are no such leases." if expired else "There are no leases.")
        return
    table = table_of("thread", "holder", "since (UTC)", "last beat (UTC)", "node", "", whole=("thread",))
    for one in found:
        table.add_row(
            plain(one.thread_id),
            plain(one.owner),
            moment(one.since.timestamp()),
            moment(one.last_beat.timestamp()),
            plain(one.node or ""),
            plain("expired", "yellow") if one.is_expired else plain(""),
        )
    print_table(console(), table)


def pause(
    thread: ThreadArgument,
    *,
    cancel: Annotated[bool, typer.Option("--cancel", help="Withdraw the request.")] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the holder of a thread's lease to end its run at the next boundary between two steps.

    The holder finds the request with its next beat. Its state is stored, and the run can be resumed.

    Example: langgraph-gcs pause my-thread --store file:///home/me/store
    """
    with open_admin(store, cipher) as saver:
        if not saver.pause(thread, cancel=cancel):
            raise CommandError(f"no process holds a lease of thread {thread!r}. List leases with langgraph-gcs leases.")
    if as_json:
        print_json({"thread_id": thread, "pause": not cancel})
    elif cancel:
        console().print(plain(f"{thread}: the request is withdrawn."), soft_wrap=True)
    else:
        console().print(plain(f"{thread}: its holder is asked to end its run at the next boundary."), soft_wrap=True)
