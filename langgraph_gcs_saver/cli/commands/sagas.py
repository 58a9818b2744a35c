"""`langgraph-gcs saga`: list sagas, show one, roll it back, settle what stops that, and complete it."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.commands.operations import NotDoneOption, ResultOption, found_out
from langgraph_gcs_saver.cli.modules import NamingError, load
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    ImportClassesOption,
    JsonOption,
    Late,
    StoreOption,
    ThreadArgument,
    YesOption,
    confirm,
    importing,
    open_admin,
    open_saver,
    print_json,
    print_lines,
    print_list,
    progress,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langgraph_gcs_saver.results import SagaInfo

saga = typer.Typer(
    name="saga",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List sagas, and undo their steps.\n\nExample: langgraph-gcs saga list my-thread",
)

SagaArgument = Annotated[str, typer.Argument(metavar="SAGA", help="The saga's id.")]
AppOption = Annotated[
    list[str] | None,
    typer.Option(
        "--app",
        metavar="MODULE",
        help="A module that defines compensations. It is imported, and its functions run in this process. Several are "
        "fine.",
    ),
]


@saga.command("list")
def list_(
    thread: ThreadArgument, *, store: StoreOption = None, cipher: CipherOption = None, as_json: JsonOption = False
) -> None:
    """List the sagas of a thread: id, state, and the number of steps that are done and undone.

    Example: langgraph-gcs saga list my-thread
    """
    with open_admin(store, cipher) as admin:
        found = admin.sagas(thread)
    print_list(found, _shown, lambda one: f"{one.saga_id}: {_line(one)}", "No sagas.", as_json=as_json)


@saga.command("rollbacks")
def rollbacks(
    *,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only those in this state: compensating or stuck.")
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the sagas of all threads whose rollback has not ended: thread and id, state, and the number of steps.

    A stuck one waits for a person: use saga show. A compensating one is at work, or its process crashed: use saga
    resume.

    Example: langgraph-gcs saga rollbacks --state stuck
    """
    found: list[SagaInfo] = []
    late = Late()
    with open_admin(store, cipher) as admin, progress("reading sagas"), late.after(found):
        found.extend(admin.rollbacks(state=state))
    print_list(
        found,
        _shown,
        lambda one: f"{shlex.quote(one.thread_id)} {shlex.quote(one.saga_id)}: {_line(one)}",
        "No rollbacks.",
        as_json=as_json,
    )
    late.end()


@saga.command("show")
def show_saga(
    thread: ThreadArgument,
    saga_id: SagaArgument,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a saga: its steps, how each is undone, its savepoints, and what stops its rollback. No result is read.

    Example: langgraph-gcs saga show my-thread trip-7
    """
    with open_admin(store, cipher) as admin:
        found = next((one for one in admin.sagas(thread) if one.saga_id == saga_id), None)
    if found is None:
        raise CommandError(
            f"there is no saga {saga_id!r} of {thread!r}. List its sagas with "
            f"langgraph-gcs saga list {shlex.quote(thread)}."
        )
    _print(found, as_json=as_json)


@saga.command("resume")
def resume(
    thread: ThreadArgument,
    saga_id: SagaArgument,
    *,
    app: AppOption = None,
    import_classes: ImportClassesOption = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Complete a rollback that was begun, such as by a process that crashed, or one that was stuck.

    The compensations get the requests and results of steps. Without --import-classes these have no classes of yours.

    Example: langgraph-gcs saga resume my-thread trip-7 --app my_agent.undo
    """
    _import(app)
    with open_saver(store, cipher, serde=importing(import_classes)) as saver:
        one = saver.thread(thread).saga(saga_id)
        found = _ended(one.resume, one.aresume)
    _print(found, as_json=as_json)


@saga.command("rollback")
def rollback(
    thread: ThreadArgument,
    saga_id: SagaArgument,
    *,
    to: Annotated[str | None, typer.Option(metavar="SAVEPOINT", help="Undo only the steps after a savepoint.")] = None,
    app: AppOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    import_classes: ImportClassesOption = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo the steps of a saga, the newest first. After a rollback to a savepoint, the thread continues from there.

    The compensations get the requests and results of steps. Without --import-classes these have no classes of yours.

    Example: langgraph-gcs saga rollback my-thread trip-7 --to before-payment --app my_agent.undo
    """
    _import(app)
    with open_saver(store, cipher, serde=importing(import_classes)) as saver:
        one = saver.thread(thread).saga(saga_id)
        found = one.rollback(to, dry_run=True)
        if dry_run and as_json:
            print_json(_shown(found))
            return
        order = ". To undo, in this order:" if found.steps else ", and no step is to be undone."
        steps = [f"  {step}" for step in found.steps]
        print_lines([f"Saga {saga_id!r} of thread {thread!r} is {found.state}{order}", *steps], is_quiet=as_json)
        if dry_run:
            print_lines(["A dry run: nothing was done."])
            return
        confirm("Undo its steps?" if to is None else f"Undo its steps after savepoint {to!r}?", yes=yes)
        found = _ended(partial(one.rollback, to), partial(one.arollback, to))
    _print(found, as_json=as_json)


@saga.command("resolve")
def resolve(
    thread: ThreadArgument,
    saga_id: SagaArgument,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step that stops the rollback. show lists it.")],
    *,
    result: ResultOption = None,
    not_done: NotDoneOption = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Settle what stops the rollback of a saga at a step. Find out first what happened; then use saga resume.

    If the outcome of the step is unknown, say whether the step took effect. Otherwise say whether its undo did. With
    --result null its effect is gone, or may stay. That also settles an irreversible step.

    Example: langgraph-gcs saga resolve my-thread trip-7 hotel --not-done
    """
    settled = found_out(result, not_done=not_done)
    with open_saver(store, cipher) as saver:
        one = saver.thread(thread).saga(saga_id)
        one.resolve(step, **settled)
        found = one.info()
    _print(found, as_json=as_json)


def _ended(act: Callable[[], SagaInfo], aact: Callable[[], Coroutine[Any, Any, SagaInfo]]) -> SagaInfo:
    """Undo steps, by coroutines if one of the compensations needs that."""
    from langgraph_gcs_saver.saver import compensations

    return asyncio.run(aact()) if compensations.has_coroutines() else act()


def _import(modules: list[str] | None) -> None:
    for module in modules or ():
        _import_one(module)


def _import_one(module: str) -> None:
    try:
        load(module)
    except NamingError as error:
        raise CommandError(f"--app {module}: {error}", 2) from error


def _shown(found: SagaInfo) -> dict[str, Any]:
    return asdict(found) | {
        "steps": [
            asdict(one) | {"claimed": None if one.claimed is None else one.claimed.isoformat()} for one in found.steps
        ]
    }


def _line(found: SagaInfo) -> str:
    undone = sum(step.state == "undone" for step in found.steps)
    return f"{found.state}, steps: {len(found.steps)}, undone: {undone}"


def _print(found: SagaInfo, *, as_json: bool) -> None:
    if as_json:
        print_json(_shown(found))
        return
    held = [
        f"  savepoint {name} holds {'no checkpoint' if checkpoint_id is None else f'checkpoint {checkpoint_id}'}"
        for name, checkpoint_id in found.savepoints.items()
    ]
    print_lines([*str(found).splitlines(), *held])
