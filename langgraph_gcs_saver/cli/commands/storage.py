"""`langgraph-gcs prune`, `collect`, `sweep`, `copy` and `delete`: keep a store small, and its threads in order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from langgraph_gcs_saver.cli.durations import duration, iso, positive_duration
from langgraph_gcs_saver.cli.views.plans import Work, carry_out, counted, table
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    JsonOption,
    Late,
    OptionalThreadArgument,
    StoreOption,
    YesOption,
    check_thread,
    no_thread,
    open_admin,
    plain,
    print_table,
    progress,
)
from langgraph_gcs_saver.errors import DamageError
from langgraph_gcs_saver.policy.retention import AnyOf, KeepEvery, KeepFor, KeepLast, PerNamespace, Retention
from langgraph_gcs_saver.results import PrunePlan

if TYPE_CHECKING:
    from langgraph_gcs_saver import CollectPlan, CopyPlan, DeletePlan, IdleThread

ThreadArguments = Annotated[list[str], typer.Argument(metavar="THREAD", help="The threads' ids.")]


def prune(
    threads: ThreadArguments,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    keep_last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the newest N checkpoints of each namespace.")
    ] = None,
    keep_for: Annotated[
        timedelta | None,
        typer.Option(parser=positive_duration, metavar="TIME", help="Keep each for this long: 12h, 7d, 2w."),
    ] = None,
    keep_every: Annotated[
        timedelta | None,
        typer.Option(parser=positive_duration, metavar="TIME", help="Keep the newest of each interval: 1h, 1d."),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Apply --keep to these graphs only: '' is the root graph, 'extract|*' the subgraph of "
            "node extract and those below it. Can be repeated.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove checkpoints of threads, with all that only they need.

    A checkpoint stays if any --keep option keeps it. The latest checkpoint of each namespace also stays, and so does
    one that waits for the answer to an interrupt, that is pinned, that a set or a savepoint holds, or that kept
    checkpoints' DeltaChannels need. prune never removes a checkpoint that its plan did not show, even if other
    processes write meanwhile.

    Example: langgraph-gcs prune my-thread --keep-last 20 --keep-every 1d
    """
    rules: list[Retention] = []
    rules += [] if keep_last is None else [KeepLast(keep_last)]
    rules += [] if keep_for is None else [KeepFor(keep_for)]
    rules += [] if keep_every is None else [KeepEvery(keep_every)]
    if not rules:
        raise CommandError("say what to keep: --keep-last, --keep-for, --keep-every. delete deletes threads.", 2)
    rule: Retention = AnyOf(tuple(rules))
    if namespace:
        rule = PerNamespace.parse(dict.fromkeys(namespace, rule))
    threads = list(dict.fromkeys(threads))
    plans: list[PrunePlan] = []
    with open_admin(store, cipher) as saver:
        with progress("planning", len(threads)) as advance:
            for plan in saver.plan_prune(threads, strategy=rule):
                if not plan.decisions:
                    check_thread(saver, plan.thread_id)
                plans.append(plan)
                advance()

        def act(plans: Iterable[PrunePlan]) -> str:
            for plan in plans:
                saver.carry_out(plan)
            return f"{count} removed."

        count = counted(sum(len(plan.dropped) for plan in plans), "checkpoint")
        work = Work(
            plans=plans,
            show=_show_prune,
            as_dict=_of_prune,
            act=act,
            doing="pruning",
            question=(
                f"Remove {count} of {counted(len(plans), 'thread')}?" if any(plan.dropped for plan in plans) else None
            ),
        )
        carry_out(work, dry_run=dry_run, yes=yes, as_json=as_json)


def collect(
    thread: OptionalThreadArgument = None,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    orphan_age: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="How old an orphan must be. Below a few hours, no other process may be writing. [default: 24h]",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete orphans: objects and documents that no checkpoint refers to.

    Crashed calls left them. Operations whose outcome need not be kept any longer go too, and so do expired recovery
    records and sagas. Other processes may write meanwhile. A thread with a damaged checkpoint is left alone, because
    what that checkpoint refers to is unknown: repair it first. A thread that has lost a checkpoint that DeltaChannels
    need is left alone too: restore that checkpoint. If a thread is left alone, the exit code is 4.

    Example: langgraph-gcs collect --yes
    """
    from langgraph_gcs_saver.saver.admin import ORPHAN_AGE

    age = ORPHAN_AGE if orphan_age is None else orphan_age
    with open_admin(store, cipher) as saver:
        found: list[CollectPlan] = []
        late = Late()
        with progress("looking"), late.after(found):
            found.extend(saver.plan_collect(thread, orphan_age=age))
        if thread is not None and not found:
            check_thread(saver, thread)

        def act(plans: Iterable[CollectPlan]) -> str:
            for plan in plans:
                if plan.skipped is None:
                    saver.carry_out(plan)
            return f"{what} deleted{f', {smaller} made smaller' if trimmed else ''}."

        objects = sum(len(plan.objects) for plan in found)
        documents = sum(
            len(names)
            for plan in found
            for names in (plan.stripped, plan.writes, plan.operations, plan.recoveries, plan.sagas, plan.blobs)
        )
        trimmed = sum(len(plan.trimmed) for plan in found)
        smaller = counted(trimmed, "document")
        what = f"{counted(objects, 'object')} and {counted(documents, 'document')}"
        question = f"Delete {what}{f', make {smaller} smaller' if trimmed else ''}?"
        work = Work(
            plans=found,
            show=_show_line,
            as_dict=_of_collect,
            act=act,
            doing="collecting",
            question=question if objects or documents or trimmed else None,
        )
        carry_out(work, dry_run=dry_run, yes=yes, as_json=as_json)
    late.end()
    if skipped := [plan.thread_id for plan in found if plan.skipped is not None]:
        named = ", ".join("the shared operations" if one is None else repr(one) for one in skipped)
        raise CommandError(f"left alone, because a checkpoint cannot be read: {named}", DamageError.exit_code)


def sweep(
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    ttl: Annotated[
        timedelta,
        typer.Option(parser=positive_duration, metavar="TIME", help="How long a thread must have been idle: 12h, 90d."),
    ],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete threads that have been idle for a time.

    A thread is idle if it has got no checkpoint for longer than that. A thread that is used meanwhile stays. So
    does one with a checkpoint that is pinned, or that a set or a savepoint holds.

    Example: langgraph-gcs sweep --ttl 90d --dry-run
    """
    if ttl < timedelta(hours=1):
        raise CommandError(
            "--ttl must be an hour or more, because threads record the time of their use no more exactly.", 2
        )
    with open_admin(store, cipher, ttl=ttl) as saver:
        with progress("looking"):
            found = list(saver.plan_sweep())

        def act(plans: Iterable[IdleThread]) -> str:
            swept = sum(saver.carry_out(thread) is not None for thread in plans)
            stay = len(found) - swept
            return f"{counted(swept, 'thread')} deleted." + (f" {stay:,} in use: kept." if stay else "")

        work = Work(
            plans=found,
            show=_show_line,
            as_dict=lambda thread: {"thread_id": thread.thread_id, "idle_seconds": thread.idle.total_seconds()},
            act=act,
            doing="sweeping",
            question=f"Delete {counted(len(found), 'thread')}?",
        )
        carry_out(work, dry_run=dry_run, yes=yes, as_json=as_json)


def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The thread to copy.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The id of the copy. That thread must be empty.")],
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a thread with all its history.

    The copy is in the same store, under another id. Pins and holds stay with the source. To continue a copy that was
    interrupted, run the same command again. If the source has lost checkpoints since, or the copy has been written to,
    delete the copy first.

    Example: langgraph-gcs copy my-thread my-thread-2
    """
    with open_admin(store, cipher) as saver:
        with progress("planning"):
            plan = saver.copy_thread(source, target, dry_run=True)
        if not plan.checkpoints and not plan.writes:
            raise CommandError(
                f"there is nothing to copy: there is no thread {source!r} in the store, or it has no checkpoint."
            )

        def act(plans: Iterable[CopyPlan]) -> str:
            for plan in plans:
                saver.copy_thread(plan.source, plan.target)
            return "Copied."

        work = Work(plans=[plan], show=_show_line, as_dict=asdict, act=act, doing="copying", question=None)
        carry_out(work, dry_run=dry_run, yes=True, as_json=as_json)


def delete(
    threads: ThreadArguments,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="End the lease of a process that writes to the thread, and break sets that need it."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete threads: every checkpoint, pending write and object.

    To continue a deletion that was interrupted, run the same command again.

    Example: langgraph-gcs delete my-thread other-thread --yes
    """
    threads = list(dict.fromkeys(threads))
    plans = []
    with open_admin(store, cipher) as saver:
        with progress("planning", len(threads)) as advance:
            for thread in threads:
                plans.append(saver.plan_delete_thread(thread))
                advance()
        if unknown := [plan.thread_id for plan in plans if not plan.exists]:
            raise no_thread(*unknown)

        def act(plans: Iterable[DeletePlan]) -> str:
            for plan in plans:
                saver.delete_thread(plan.thread_id, force=force)
            return f"{count} deleted."

        count = counted(len(plans), "thread")
        work = Work(
            plans=plans,
            show=_show_line,
            as_dict=asdict,
            act=act,
            doing="deleting",
            question=f"Delete {count}?",
        )
        carry_out(work, dry_run=dry_run, yes=yes, as_json=as_json)


def _show_line(out: Console, plan: object) -> None:
    out.print(plain(str(plan)), soft_wrap=True)


def _show_prune(out: Console, plan: PrunePlan) -> None:
    rows = table("checkpoint", "stored (UTC)", "", "why")
    rows.columns[0].no_wrap = True
    for decision in plan.decisions:
        row, reason = decision.row, decision.reason
        time_stored = datetime.fromtimestamp(row.time, timezone.utc).strftime("%Y-%m-%d %H:%M")
        name = plain(row.checkpoint_id)
        if row.ns:
            name = Text("\n").join([name, plain(f"(namespace {row.ns!r})")])
        what = plain("drop", "bold red") if reason is None else plain("keep", "green")
        rows.add_row(name, plain(time_stored), what, plain(reason or ""))
    print_table(out, rows)
    out.print(
        plain(
            f"Thread {plan.thread_id!r}: {len(plan.dropped):,} of {counted(len(plan.decisions), 'checkpoint')} go",
            "bold",
        ),
        soft_wrap=True,
    )


def _of_prune(plan: PrunePlan) -> dict[str, Any]:
    decisions = [
        {
            "checkpoint_id": decision.row.checkpoint_id,
            "checkpoint_ns": decision.row.ns,
            "time": iso(decision.row.time),
            "keep": decision.reason is not None,
            "reason": decision.reason,
        }
        for decision in plan.decisions
    ]
    return {"thread_id": plan.thread_id, "decisions": decisions}


def _of_collect(plan: CollectPlan) -> dict[str, Any]:
    return asdict(plan) | {"objects": dict(plan.objects)}
