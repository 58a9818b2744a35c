"""`langgraph-gcs operations`: list recorded side effects, show one, and settle one whose outcome is unknown."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.durations import iso
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    open_admin,
    print_json,
    print_lines,
    print_list,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver.results import OperationInfo

operations = typer.Typer(
    name="operations",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List recorded side effects, and settle those with an unknown outcome.\n\n"
    "Example: langgraph-gcs operations list my-thread --unresolved",
)

ThreadOrShared = Annotated[
    str, typer.Argument(metavar="THREAD", help="The thread's id; - for the operations that all threads share.")
]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The operation's key.")]


def _thread(thread: str) -> str | None:
    return None if thread == "-" else thread


ResultOption = Annotated[
    str | None, typer.Option("--result", metavar="JSON", help="It took effect, and this is its result.")
]
NotDoneOption = Annotated[
    bool, typer.Option("--not-done", help="It did not take effect, so it may be performed again.")
]


@operations.command("list")
def list_(
    thread: ThreadOrShared,
    *,
    unresolved: Annotated[
        bool, typer.Option("--unresolved", help="List only operations whose outcome is unknown.")
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the operations of a thread: key, name, state, number of attempts.

    Example: langgraph-gcs operations list my-thread --unresolved
    """
    with open_admin(store, cipher) as admin:
        found = admin.operations(_thread(thread), unresolved=unresolved)
    print_list(found, _shown, str, "No operations.", as_json=as_json)


@operations.command("show")
def show_operation(
    thread: ThreadOrShared,
    key: KeyArgument,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one operation. Its result is not read.

    Example: langgraph-gcs operations show my-thread order-17
    """
    with open_admin(store, cipher) as admin:
        found = [one for one in admin.operations(_thread(thread)) if one.key == key]
    if not found:
        raise CommandError(f"there is no operation {key!r} of {thread!r}.")
    _print(found[0], as_json=as_json)


@operations.command("resolve")
def resolve(
    thread: ThreadOrShared,
    key: KeyArgument,
    *,
    result: ResultOption = None,
    not_done: NotDoneOption = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Settle an operation whose outcome is unknown. Find out first whether it took effect.

    Example: langgraph-gcs operations resolve my-thread order-17 --not-done
    """
    settled = found_out(result, not_done=not_done)
    with open_admin(store, cipher) as admin:
        found = admin.resolve_operation(_thread(thread), key, **settled)
    _print(found, as_json=as_json)


def found_out(result: str | None, *, not_done: bool) -> dict[str, Any]:
    """What a person has found out, as the arguments of `resolve`.

    Raises:
        CommandError: Not exactly one of them is given, or the result is not JSON.
    """
    if (result is None) is not not_done:
        raise CommandError("give either --result JSON or --not-done.", 2)
    if result is None:
        return {"not_done": True}
    try:
        return {"result": json.loads(result)}
    except ValueError as error:
        raise CommandError(f"--result is not JSON: {error}.", 2) from None


def _shown(found: OperationInfo) -> dict[str, Any]:
    return asdict(found) | {"changed": iso(found.changed / 1e9)}


def _print(found: OperationInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(_shown(found))
    else:
        print_lines([str(found)])
