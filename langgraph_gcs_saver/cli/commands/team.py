"""`langgraph-gcs team`: list teams, and make, show, check and restore consistent sets of their checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.commands.catalogue import moment, table_of
from langgraph_gcs_saver.cli.commands.checks import of_finding, print_by_thread
from langgraph_gcs_saver.cli.views.plans import Work, carry_out, counted
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    JsonOption,
    StoreOption,
    YesOption,
    console,
    open_admin,
    plain,
    print_json,
    print_table,
    progress,
)
from langgraph_gcs_saver.errors import DamageError

if TYPE_CHECKING:
    from rich.console import Console

    from langgraph_gcs_saver.results import RestorePlan, SetInfo
    from langgraph_gcs_saver.saver.team import TeamSets

team = typer.Typer(
    name="team",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List teams, and make, show, check and restore consistent sets of their checkpoints.\n\n"
    "Example: langgraph-gcs team show deal-42",
)

TeamArgument = Annotated[str, typer.Argument(metavar="TEAM", help="The team's id.")]
SetArgument = Annotated[
    str | None, typer.Argument(metavar="SET", help="The set's id. The default is the newest committed set.")
]


@team.command("list")
def list_(*, store: StoreOption = None, cipher: CipherOption = None, as_json: JsonOption = False) -> None:
    """List the teams of the store: members, number of committed sets, and when the newest one was committed.

    Example: langgraph-gcs team list --store file:///home/me/store
    """
    with open_admin(store, cipher) as admin, progress("reading teams"):
        found = list(admin.teams())
    if as_json:
        print_json(
            [
                {
                    "team": one.team,
                    "threads": dict(one.threads),
                    "retention": one.retention,
                    "sets": [_of_set(saved) for saved in one.sets],
                }
                for one in found
            ]
        )
        return
    if not found:
        console().print(plain("There are no teams."))
        return
    table = table_of("team", "members", "committed sets", "newest (UTC)", "label", whole=("team",))
    for one in found:
        committed = sum(saved.state == "committed" for saved in one.sets)
        newest = one.newest
        table.add_row(
            plain(one.team),
            plain(f"{len(one.threads):,}"),
            plain(f"{committed:,}"),
            plain("") if newest is None else _decided(newest),
            plain((newest and newest.label) or ""),
        )
    print_table(console(), table)


@team.command("show")
def show_team(
    team_id: TeamArgument, *, store: StoreOption = None, cipher: CipherOption = None, as_json: JsonOption = False
) -> None:
    """Show the members of a team with their threads, and its sets, newest first.

    Example: langgraph-gcs team show deal-42
    """
    with open_admin(store, cipher) as admin:
        threads, sets = admin.team(team_id).threads(), admin.team(team_id).sets()
    if not threads and not sets:
        raise _no_team(team_id)
    if as_json:
        print_json({"team": team_id, "threads": dict(threads), "sets": [_of_set(one) for one in sets]})
        return
    members = table_of("member", "thread", whole=("thread",))
    for name, thread in threads.items():
        members.add_row(plain(name), plain(thread))
    print_table(console(), members)
    if not sets:
        console().print(plain("No sets."))
        return
    table = table_of("set", "state", "members", "decided (UTC)", "restored (UTC)", "label", whole=("set",))
    for one in sets:
        table.add_row(
            plain(one.set_id),
            plain(one.state, "" if one.state == "committed" else "yellow"),
            plain(f"{len(one.members):,}"),
            _decided(one),
            plain("") if one.restored is None else moment(one.restored.timestamp()),
            plain(_label(one)),
        )
    print_table(console(), table)


@team.command("checkpoint")
def checkpoint(
    team_id: TeamArgument,
    *,
    label: Annotated[str | None, typer.Option("--label", help="What to call the set.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="Seconds after which the set is aborted.")
    ] = 30.0,
    quiesce: Annotated[
        bool,
        typer.Option("--quiesce", help="Ask members that run to end at their next boundary, and wait until they have."),
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Commit a set: one durable checkpoint of each member, all of the same instant. No run stops for it.

    The exit code is 6 if a member has no checkpoint, or continued each time until the timeout.

    Example: langgraph-gcs team checkpoint deal-42 --label "before merge"
    """
    with open_admin(store, cipher) as admin:
        sets = _known(admin.team(team_id))
        with progress("waiting for the members"):
            saved = sets.checkpoint(label, timeout=timeout, quiesce=quiesce)
    if as_json:
        print_json(_of_set(saved))
    else:
        console().print(plain(str(saved)), soft_wrap=True)


@team.command("verify")
def verify_set(
    team_id: TeamArgument,
    saved: SetArgument = None,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a restore of a set would miss: it reads every byte of the set's checkpoints.

    It changes nothing. The exit code is 4 if something is missing or corrupt.

    Example: langgraph-gcs team verify deal-42
    """
    with open_admin(store, cipher) as admin:
        sets = admin.team(team_id)
        set_id = saved or _newest(sets).set_id
        with progress("reading the set"):
            found = list(sets.verify(set_id))
    if as_json:
        print_json({"team": team_id, "set_id": set_id, "findings": [of_finding(one) for one in found]})
    else:
        print_by_thread(console(), found)
        result = "whole: every byte was read" if not found else f"damaged: {counted(len(found), 'finding')}"
        console().print(plain(f"Set {set_id} of team {team_id!r} is {result}."), soft_wrap=True)
    if found:
        raise typer.Exit(DamageError.exit_code)


@team.command("restore")
def restore(
    team_id: TeamArgument,
    saved: SetArgument = None,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the checkpoints of a set the newest ones of their threads again: of all members, or of none.

    It takes over the leases of all members, which ends their runs. The history stays. Side effects are not undone: the
    plan lists the operations and sagas that were recorded after the set.

    Example: langgraph-gcs team restore deal-42 --dry-run
    """
    with open_admin(store, cipher) as admin:
        sets = admin.team(team_id)
        set_id = saved or _newest(sets).set_id
        with progress("planning"):
            plan = sets.restore(set_id, dry_run=True)

        def act(plans: Iterable[RestorePlan]) -> str:
            threads = sum(len(sets.restore(one.set_id).threads) for one in plans)
            return f"{counted(threads, 'thread')} restored."

        work = Work(
            plans=[plan],
            show=_show_plan,
            as_dict=_of_plan,
            act=act,
            doing="restoring",
            question=f"Restore {counted(len(plan.threads), 'thread')}?",
        )
        carry_out(work, dry_run=dry_run, yes=yes, as_json=as_json)


@team.command("remove")
def remove(
    team_id: TeamArgument,
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="The member's name. show lists the members.")],
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a member out of a team, such as an agent that has ended, or a mistyped name. Its thread and the sets stay.

    Example: langgraph-gcs team remove deal-42 extract-7
    """
    with open_admin(store, cipher) as admin:
        sets = _known(admin.team(team_id))
        if not sets.remove(member):
            raise CommandError(f"{member!r} is no member of team {team_id!r}: {', '.join(sets.threads())}.")
    if as_json:
        print_json({"team": team_id, "member": member})
    else:
        console().print(plain(f"{member} is no member of team {team_id!r} any more."), soft_wrap=True)


def _known(sets: TeamSets) -> TeamSets:
    """The team.

    Raises:
        CommandError: It has no members: a mistyped id must not look like a team that cannot be checkpointed.
    """
    if not sets.threads():
        raise _no_team(sets.id)
    return sets


def _no_team(team_id: str) -> CommandError:
    return CommandError(f"there is no team {team_id!r} in the store. List teams with langgraph-gcs team list.")


def _newest(sets: TeamSets) -> SetInfo:
    newest = next((one for one in sets.sets() if one.state == "committed"), None)
    if newest is None:
        raise CommandError(f"team {sets.id!r} has no committed set. Make one with langgraph-gcs team checkpoint.")
    return newest


def _show_plan(out: Console, plan: RestorePlan) -> None:
    for line in str(plan).splitlines():  # `printable` shows a line break as `\\n`
        out.print(plain(line), soft_wrap=True)


def _decided(one: SetInfo) -> Any:
    return plain("") if one.decided is None else moment(one.decided.timestamp())


def _label(one: SetInfo) -> str:
    missing = f"missing: {', '.join(one.missing)}" if one.missing else ""
    return " ".join(part for part in (one.label or "", missing) if part)


def _of_set(one: SetInfo) -> dict[str, Any]:
    times = {
        name: None if (time := getattr(one, name)) is None else time.isoformat()
        for name in ("begun", "decided", "restored")
    }
    return asdict(one) | {"cut": dict(one.cut)} | times


def _of_plan(plan: RestorePlan) -> dict[str, Any]:
    threads = {thread: {"checkpoint": held, "newest": newest} for thread, (held, newest) in plan.threads.items()}
    forks = [
        {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": fork} for (thread, ns), fork in plan.forks.items()
    ]
    return asdict(plan) | {"threads": threads, "forks": forks}
