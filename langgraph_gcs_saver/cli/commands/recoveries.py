"""`langgraph-gcs recoveries`: what crashes and damage have cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.cli.commands.catalogue import moment, table_of
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    JsonOption,
    OptionalThreadArgument,
    StoreOption,
    check_thread,
    console,
    open_admin,
    plain,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver.results import RecoveryRecord


def recoveries(
    thread: OptionalThreadArgument = None,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """List recovery records: when a thread recovered, from what, the time it cost in seconds, and what ran again.

    A process that takes over the lease of a crashed one leaves a record. So do a read that falls back to an older
    checkpoint, a repair, the restore of a team's set, and the rollback of a saga to a savepoint. Records are kept for
    90 days.

    Example: langgraph-gcs recoveries my-thread --store file:///home/me/store
    """
    with open_admin(store, cipher) as saver, progress("reading records"):
        found = list(saver.recoveries(thread))
        if thread is not None and not found:
            check_thread(saver, thread)
    if as_json:
        print_json([_shown(one) for one in found])
        return
    if not found:
        console().print("There are no recovery records.")
        return
    numbers = ("lost", "down", "restore")
    more = ("labels",) if any(one.labels for one in found) else ()
    table = table_of("thread", "time (UTC)", "kind", *numbers, "ran again", *more, right=numbers, whole=("thread",))
    for one in found:
        table.add_row(
            plain(one.thread_id),
            plain(moment(one.time.timestamp())),
            plain(one.kind),
            *(plain("" if one_time is None else f"{one_time:.1f}") for one_time in (one.lost, one.down, one.restore)),
            plain(", ".join(one.ran_again or ())),
            *(plain(", ".join(f"{name}={value}" for name, value in sorted(one.labels.items()))) for _ in more),
        )
    print_table(console(), table)


def _shown(one: RecoveryRecord) -> dict[str, Any]:
    """A record as JSON: times in ISO 8601, and lengths of time in seconds."""
    return {**asdict(one), "time": one.time.isoformat(), "expires": one.expires.isoformat()}
