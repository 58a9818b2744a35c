"""`langgraph-gcs rebind`: bind a store to the bucket or prefix where its objects are now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from langgraph_gcs_saver.cli.views.plans import Work, carry_out, counted
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    DryRunOption,
    JsonOption,
    StoreOption,
    YesOption,
    open_admin,
    plain,
    progress,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver import RebindPlan


def rebind(
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Bind it even if objects are missing there: what needs them is damaged.")
    ] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Bind a store to the bucket and prefix of --store, because its objects were moved or restored there.

    Every other command fails for a bucket or prefix that is not the store's. Stop all writers first. rebind checks that
    each object that the store refers to exists there. It copies and deletes none.

    Example: langgraph-gcs rebind --store "gs://new-bucket/agents?project=my-project" --dry-run
    """
    with open_admin(store, cipher) as saver:
        with progress("looking for objects"):
            plan = saver.rebind(dry_run=True)

        def act(plans: Iterable[RebindPlan]) -> str:
            for _ in plans:
                saver.rebind(force=force)
            return f"The store is bound to {plan.place}."

        work = Work(
            plans=[plan] if plan else [],
            show=_show,
            as_dict=asdict,
            act=act,
            doing="binding",
            question=f"Bind the store to {plan.place}?",
        )
        is_refused = bool(plan) and plan.missing > 0 and not force
        carry_out(work, dry_run=dry_run or is_refused, yes=yes, as_json=as_json)
    if is_refused:
        raise CommandError(
            f"{counted(plan.missing, 'object')} missing in {plan.place}: copy them there first, or accept their loss "
            "with --force.",
            2,
        )


def _show(out: Console, plan: RebindPlan) -> None:
    for line in str(plan).splitlines():
        out.print(plain(line), soft_wrap=True)
