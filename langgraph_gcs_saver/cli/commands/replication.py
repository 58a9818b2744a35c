"""`langgraph-gcs replicate` and `replication`: keep a second store up to date, and see how far it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.durations import positive_duration
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    Late,
    OptionalThreadArgument,
    StoreOption,
    check_thread,
    open_admin,
    print_json,
    print_lines,
    progress,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver.results import Reconciled, Shipped
    from langgraph_gcs_saver.saver.admin import Admin

FAILED = 4
"""Exit code if a thread was not shipped, or if the replica is behind by more than the caller allows."""

UNREACHED = 7
"""Exit code if a store did not answer."""

ToOption = Annotated[str, typer.Option("--to", metavar="URI", help="The replica: gs://… or file://….")]

replication = typer.Typer(
    name="replication",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See how far a replication is, and compare both stores.\n\n"
    "Example: langgraph-gcs replication status --to file:///mnt/other/store",
)


def replicate(
    *,
    to: ToOption,
    follow: Annotated[
        bool, typer.Option("--follow", help="Continue to ship what changes, until SIGTERM or Ctrl-C.")
    ] = False,
    every: Annotated[
        timedelta,
        typer.Option(parser=positive_duration, metavar="TIME", help="With --follow: time between two looks."),
    ] = "1s",  # type: ignore[assignment]  # typer parses a default too
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make --to the replica of --store, and ship everything that it lacks.

    --to must be empty, or this store's replica. It takes no writes until langgraph-gcs failover makes it the primary.
    After the first call, restart the processes that write to --store, and run langgraph-gcs replication reconcile once.
    An interrupted call can be repeated. Two processes may follow at the same time. Encrypted stores need --cipher.

    With --json it prints one line when it has shipped everything, and one for each later look that has shipped
    something. Without --follow, the exit code is 4 if a thread could not be shipped. With --follow, the command exits
    with 10 when --to becomes the primary: replicate in the other direction then. SIGTERM ends --follow with 143, and
    Ctrl-C with 130. Nothing is lost then.

    Example: langgraph-gcs replicate --follow --store "gs://eu?project=p&database=eu" --to "gs://us?project=p&database=us"
    """
    with _both(store, to, cipher, may_create=True) as (source, target):
        with progress("replicating"):
            shipped = source.replicate(target)
        _show(shipped, as_json=as_json)
        if follow:
            for one in source.follow(target, every=every.total_seconds()):
                if one.documents or one.failures:
                    _show(one, as_json=as_json)
    if shipped.failures:
        raise CommandError(f"threads not shipped: {len(shipped.failures)}. The next call tries again.", FAILED)


@replication.command()
def status(
    *,
    to: ToOption,
    most: Annotated[
        timedelta | None,
        typer.Option(
            parser=positive_duration, metavar="TIME", help="Exit with 4 if the replica is behind by more, such as 1m."
        ),
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the roles of both stores, how far the replica is behind, and what waits to be shipped.

    With --most, a scheduler can raise an alarm: the exit code is 4 if the replica is behind by more, or has no mark, or
    if --store is not the primary, or --to not its replica. If --store does not answer, the exit code is 7, and the
    status is what --to knows of it.

    Example: langgraph-gcs replication status --most 1m --store file:///home/me/store --to file:///mnt/other/store
    """
    with _both(store, to, cipher) as (source, target):
        found = source.replication(target)
    if as_json:
        print_json(asdict(found))
    else:
        print_lines(str(found).splitlines())
    if found.unreached:
        raise CommandError("--store cannot be reached.", UNREACHED)
    if most is None:
        return
    if not found.is_replicating:
        raise CommandError("--store is not the primary, or --to not its replica. Swap them after a failover.", FAILED)
    if found.lag is None or found.lag > most.total_seconds():
        raise CommandError("the replica is behind by more than --most.", FAILED)


@replication.command()
def reconcile(
    thread: OptionalThreadArgument = None,
    *,
    to: ToOption,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare both stores thread by thread, and ship what the replica lacks or has in another version.

    This ships what writers stored before they were restarted, and heals what is damaged in the replica. It deletes
    nothing there. With --json, the entry without a thread's id is about the operations that all threads share.

    Example: langgraph-gcs replication reconcile --store file:///home/me/store --to file:///mnt/other/store
    """
    done: list[dict[str, Any]] = []
    late = Late()
    with _both(store, to, cipher) as (source, target), progress("comparing") as bar, late.after(done):
        for one in source.reconcile(target, thread):
            done.append(asdict(one))
            bar()
            if not as_json:
                print_lines(_lines(one))
            if thread is not None and not (one.documents or one.extra):
                check_thread(source, thread)
    if as_json:
        print_json(done)
    else:
        documents = sum(one["documents"] for one in done)
        threads = sum(one["thread_id"] is not None for one in done)
        print_lines([f"Threads compared: {threads}. Documents shipped: {documents}."])
    late.end()


def _lines(one: Reconciled) -> Iterator[str]:
    name = "Operations of all threads" if one.thread_id is None else f"Thread {one.thread_id!r}"
    if one.documents:
        yield f"{name}: {one.documents} documents and {one.bytes:,} bytes were shipped."
    if one.extra:
        yield f"{name}: the replica has {len(one.extra)} documents that --store lacks. They were left."


@contextmanager
def _both(store: str | None, to: str, cipher: str | None, *, may_create: bool = False) -> Iterator[tuple[Admin, Admin]]:
    with open_admin(store, cipher) as source, open_admin(to, cipher, may_create=may_create) as target:
        yield source, target


def _show(shipped: Shipped, *, as_json: bool) -> None:
    """Print what was shipped, at once, because another program may wait for it."""
    if not as_json:
        print_lines(str(shipped).splitlines())
        return
    failures = [{"thread_id": one.thread_id, "error": str(one.error)} for one in shipped.failures]
    forks = [asdict(one) for one in shipped.forks]
    counted = {name: getattr(shipped, name) for name in ("threads", "entries", "documents", "bytes", "mark")}
    print(json.dumps({**counted, "forks": forks, "failures": failures}), flush=True)
