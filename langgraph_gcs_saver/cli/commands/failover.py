"""`langgraph-gcs failover`: make the other one of two replicated stores the primary."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.commands.replication import UNREACHED
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    JsonOption,
    StoreOption,
    YesOption,
    confirm,
    open_admin,
    print_json,
    print_lines,
    progress,
)
from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError

if TYPE_CHECKING:
    from langgraph_gcs_saver.results import Failover, ReplicationStatus

_SECONDS = 10.0
"""How long a forced failover waits for the store that is given up, after it has promoted the other one."""


def failover(
    *,
    to: Annotated[str, typer.Option("--to", metavar="URI", help="The store that becomes the primary.")],
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Do not wait for the primary, because it cannot be reached. What it has not shipped is missing until "
            "it can be.",
        ),
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Take back a failover that was not completed: --store stays the primary.")
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the replica in --to the primary of two stores. --store, the primary now, becomes its replica.

    First --store stops taking writes. Then what --to lacks is shipped, and --to becomes the primary. Nothing that was
    acknowledged is missing there. If the command crashes, run it again: it continues. To fail back, swap the stores.

    --dry-run shows the roles of both stores, and what is left to ship.

    With --force, --to becomes the primary at once. Then the command tries to stop writes to --store. If --store cannot
    be reached, it exits with 7: run it again when --store can be reached. That ships what --store has taken meanwhile.

    Example: langgraph-gcs failover --store "gs://eu-bucket?project=my-project" --to "gs://us-bucket?project=other"
    """
    if force and abort:
        raise CommandError("--force and --abort exclude each other: --abort needs both stores.", 2)
    options: dict[str, Any] = {"timeout": _SECONDS} if force else {}
    with (
        open_admin(store, cipher, may_create=force and not dry_run, **options) as source,
        open_admin(to, cipher) as target,
    ):
        if dry_run:
            _show(source.replication(target), as_json=as_json)
            return
        if not abort:
            what = "at once, without what was not shipped yet" if force else "as soon as everything was shipped"
            confirm(f"Make {to} the primary {what}? The other store then takes no writes.", yes=yes)
        with progress("changing the primary"), _explained(is_planned=not (force or abort)):
            done = source.failover(target, force=force, abort=abort)
    _show(done, as_json=as_json)
    if done.unreached:
        raise CommandError("the failover is not complete: run it again when --store can be reached.", UNREACHED)


@contextmanager
def _explained(*, is_planned: bool) -> Iterator[None]:
    """Add to an error of a planned failover what has to be done next, because it may have fenced the primary."""
    try:
        yield
    except InvalidInputError:
        raise  # Nothing was changed.
    except GCSSaverError:
        if is_planned:
            print(
                "The failover has not ended. If --store is fenced by now, neither store takes writes: run the command "
                "again once the cause is gone, or with --abort. `langgraph-gcs replication status` shows the roles.",
                file=sys.stderr,
            )
        raise


def _show(found: Failover | ReplicationStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
    else:
        print_lines(str(found).splitlines())
