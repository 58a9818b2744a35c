"""`langgraph-gcs batches`: list the batches of a thread, and show how far one is and which items have failed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    open_admin,
    print_json,
    print_lines,
    print_list,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver.results import BatchInfo

batches = typer.Typer(
    name="batches",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List batches of items, and show which items have failed.\n\nExample: langgraph-gcs batches list my-thread",
)

BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id.")]


@batches.command("list")
def list_(
    thread: ThreadArgument, *, store: StoreOption = None, cipher: CipherOption = None, as_json: JsonOption = False
) -> None:
    """List the batches of a thread: state, and the numbers of items that are done and that have failed.

    Example: langgraph-gcs batches list my-thread
    """
    with open_admin(store, cipher) as admin:
        found = admin.batches(thread)
    print_list(found, asdict, _line, "No batches.", as_json=as_json)


@batches.command("show")
def show_batch(
    thread: ThreadArgument,
    batch: BatchArgument,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far a batch is, and the items that have failed with their errors. Outputs are not read.

    Example: langgraph-gcs batches show my-thread summaries
    """
    with open_admin(store, cipher) as admin:
        found = [one for one in admin.batches(thread) if one.batch_id == batch]
    if not found:
        raise CommandError(f"there is no batch {batch!r} of {thread!r}.")
    if as_json:
        print_json(asdict(found[0]))
        return
    print_lines([_line(found[0]), *(f"  {key}: {failure}" for key, failure in found[0].failed.items())])


def _line(found: BatchInfo) -> str:
    return f"{found.batch_id}: {found.state}, {found.progress}"
