"""`langgraph-gcs verify` and `repair`: find damage, and make damaged threads readable again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from langgraph_gcs_saver.cli.views.plans import Work, carry_out, counted, table
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    ImportClassesOption,
    JsonOption,
    Late,
    OptionalThreadArgument,
    StoreOption,
    YesOption,
    check_thread,
    console,
    importing,
    open_admin,
    open_saver,
    plain,
    print_json,
    print_table,
    progress,
)
from langgraph_gcs_saver.errors import DamageError
from langgraph_gcs_saver.results import DEPTHS, NOT_CHECKED, Finding, check_depth, not_checked

if TYPE_CHECKING:
    from langgraph_gcs_saver import RepairPlan


def verify(
    thread: OptionalThreadArgument = None,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    depth: Annotated[
        str,
        typer.Option(
            metavar="|".join(DEPTHS),
            help="What to check: documents only; also that each object exists, with its size and checksum; also every "
            "value of every checkpoint.",
        ),
    ] = DEPTHS[0],
    as_json: JsonOption = False,
) -> None:
    """Show what is missing, corrupt or orphaned.

    It changes nothing, and says what it did not check: by default, objects and values. The exit code is 4 if something
    is missing or corrupt. Orphans, shown as unreferenced, are not damage: a crashed call left them, or a running call
    has just uploaded them. `collect` deletes old ones.

    Example: langgraph-gcs verify my-thread --depth data
    """
    looked = check_depth(depth)
    documents: list[int] = []
    with open_admin(store, cipher) as saver:
        findings: list[Finding] = []
        late = Late()
        with progress("looking"), late.after(findings):
            findings.extend(saver.verify(thread, depth=looked, progress=documents.append))
        if thread is not None and not findings:
            check_thread(saver, thread)
    damages = sum(finding.is_damage for finding in findings)
    if as_json:
        print_json(
            {
                "depth": looked,
                "threads": len(documents),
                "documents": sum(documents),
                "not_checked": NOT_CHECKED[looked],
                "findings": [of_finding(finding) for finding in findings],
            }
        )
    else:
        _show_findings(findings, damages)
        read = f"{counted(sum(documents), 'document')} of {counted(len(documents), 'thread')}"
        told = Text(f"Looked at {read}, at depth {looked}. {not_checked(NOT_CHECKED[looked])}")
        console().print(told, soft_wrap=True)
    late.end()
    if damages:
        raise typer.Exit(DamageError.exit_code)


def print_by_thread(out: Console, findings: Iterable[Finding]) -> None:
    """Print findings, each thread's below its id."""
    for thread, found in groupby(findings, key=lambda finding: finding.thread_id):
        out.print(plain(f"Thread {thread!r}" if thread else "Teams", "bold"), soft_wrap=True)
        _print_findings(out, found)


def _show_findings(findings: list[Finding], damages: int) -> None:
    out = console()
    print_by_thread(out, findings)
    if not findings:
        out.print(Text("No damage found."))
        return
    threads = counted(len({finding.thread_id for finding in findings}), "thread")
    unmirrored = sum(finding.kind == "unmirrored" for finding in findings)
    unreferenced = len(findings) - damages - unmirrored
    out.print(Text(f"{damages:,} damaged and {unreferenced:,} unreferenced in {threads}."))
    if unmirrored:
        out.print(Text(f"{unmirrored:,} are in one bucket only. `langgraph-gcs repair` copies them to the other one."))
    clear = sum(finding.kind == "clear" for finding in findings)
    if clear:
        told = (
            f"In clear: {clear:,}. If this was stored before the store had a cipher, --accept-clear reads it until it "
            "is migrated or pruned. `repair` would remove it from the history and set it aside, still in clear."
        )
        out.print(Text(told), soft_wrap=True)
    if damages > clear:
        out.print(Text("`langgraph-gcs repair --dry-run` shows what can be repaired."))


def repair(
    thread: OptionalThreadArgument = None,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    import_classes: ImportClassesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make damaged threads readable again.

    For each damaged value, repair looks for a copy in the rest of its thread, and proves the copy by its sha256. What
    cannot be recovered is set aside: it is kept, but no longer listed. The exit code is 4 if damage is left that only
    a backup can repair.

    A lost value can also be rebuilt from an earlier value and the writes that followed it. Nothing in the store is
    imported or run, so this works only if both are plain data or messages. --import-classes also tries other objects,
    such as sets.

    Example: langgraph-gcs repair my-thread --dry-run
    """
    left: list[RepairPlan] = []
    with open_saver(store, cipher, serde=importing(import_classes)) as saver:
        plans: list[RepairPlan] = []
        late = Late()
        with progress("looking"), late.after(plans):
            plans.extend(saver.admin.plan_repair(thread))
        if thread is not None and not plans:
            check_thread(saver.admin, thread)

        def act(plans: Iterable[RepairPlan]) -> str:
            for plan in plans:
                done = saver.admin.carry_out(plan)
                left.extend([done] if done and any(step.action == "leave" for step in done.steps) else [])
            return "Repaired. Check with `langgraph-gcs verify --depth data`, and repair again if it finds more."

        def show(out: Console, plan: RepairPlan) -> None:
            _show_repair(out, plan)
            if not import_classes and any(step.action in {"set aside", "leave"} for step in plan.steps):
                out.print(plain(_NOT_IMPORTED), soft_wrap=True)

        work = Work(
            plans=plans,
            show=show,
            as_dict=_of_repair,
            act=act,
            doing="repairing",
            question=f"Repair {counted(len(plans), 'thread')}?",
        )
        carry_out(work, dry_run=dry_run, yes=yes, as_json=as_json)
    late.end()
    if left:
        threads = ", ".join(repr(plan.thread_id) for plan in left)
        raise CommandError(f"damage is left that only a backup can repair, in {threads}", DamageError.exit_code)


_NOT_IMPORTED = "No class that values name was imported. If you trust the store, --import-classes may recover more."


def _show_repair(out: Console, plan: RepairPlan) -> None:
    out.print(plain(f"Thread {plan.thread_id!r}: {counted(len(plan.findings), 'finding')}", "bold"), soft_wrap=True)
    _print_findings(out, plan.findings)
    rows = table("what to do", "to what")
    for step in plan.steps:
        where = _place(step.checkpoint_id, step.checkpoint_ns, step.channel)
        rows.add_row(plain(step.action), _lines(where, plain(step.reason), plain(step.name, "dim")))
    print_table(out, rows)


def _print_findings(out: Console, findings: Iterable[Finding]) -> None:
    rows = table("found", "where")
    for finding in findings:
        where = _place(finding.checkpoint_id, finding.checkpoint_ns, finding.channel)
        count = len(finding.affects)
        affects = f"{counted(count, 'checkpoint')} cannot be read because of it" if count else ""
        kind = plain(finding.kind, "bold red" if finding.is_damage else "")
        rows.add_row(kind, _lines(where, plain(finding.reason), plain(affects), plain(finding.name, "dim")))
    print_table(out, rows)


def _place(checkpoint_id: str, checkpoint_ns: str, channel: str | None) -> Text:
    parts = [checkpoint_id] if checkpoint_id else []
    parts += [f"namespace {checkpoint_ns!r}"] if checkpoint_ns else []
    parts += [] if channel is None else [f"channel {channel!r}"]
    return plain(", ".join(parts))


def _lines(*lines: Text) -> Text:
    return Text("\n").join([line for line in lines if line.plain])


def of_finding(finding: Finding) -> dict[str, Any]:
    """A finding as it is in JSON."""
    return asdict(finding) | {"is_damage": finding.is_damage}


def _of_repair(plan: RepairPlan) -> dict[str, Any]:
    return asdict(plan) | {"findings": [of_finding(finding) for finding in plan.findings]}
