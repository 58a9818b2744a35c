"""`langgraph-gcs threads`, `history` and `stats`: report what a store holds, without reading a payload."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from langgraph_gcs_saver.cli.durations import instant, iso
from langgraph_gcs_saver.cli.views.branches import draw
from langgraph_gcs_saver.cli.views.plans import counted
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    console,
    open_admin,
    plain,
    print_json,
    print_table,
    printable,
    progress,
)
from langgraph_gcs_saver.policy.heavy import MEAN_BYTES, SHARE, Heavy, Stored, heavy
from langgraph_gcs_saver.policy.prices import DOCUMENT_PRICE, OBJECT_PRICE, storage_cost
from langgraph_gcs_saver.results import NOT_CHECKED, not_checked

if TYPE_CHECKING:
    from langgraph_gcs_saver import CheckpointInfo, StoreStats, ThreadInfo


def size(number: int) -> str:
    """A number of bytes for people, in powers of 1,024."""
    scaled, units = float(number), ["B", "KiB", "MiB", "GiB"]
    while scaled >= 1024 and len(units) > 1:
        scaled /= 1024
        units.pop(0)
    return f"{scaled:.0f} {units[0]}" if units[0] == "B" else f"{scaled:.1f} {units[0]}"


def moment(seconds: float | None) -> str:
    """A time for people: UTC, to the second."""
    return "" if not seconds else datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def table_of(*columns: str, right: Iterable[str] = (), whole: Iterable[str] = ()) -> Table:
    """An empty table.

    Args:
        columns: Headings.
        right: Those with numbers.
        whole: Those whose cells are not broken into lines.
    """
    # Without edges, a terminal of 80 columns shows a UUID, the usual thread id, in one line.
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
    return table


def _name(thread: ThreadInfo) -> str:
    return thread.segment if thread.thread_id is None else thread.thread_id or "''"


# threads


def threads(
    *,
    prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="List only ids that begin with TEXT.")] = "",
    since: Annotated[
        datetime | None,
        typer.Option(
            "--since",
            parser=instant,
            metavar="TIME",
            help="List only threads used since then: 2030-01-31T10:15, in UTC unless it ends with a zone such as "
            "+01:00, or how long ago: 10m, 2h, 7d.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="List the N most recently used threads.")
    ] = None,
    waiting: Annotated[
        bool,
        typer.Option(
            "--waiting", help="List only threads whose newest checkpoint waits for the answer to an interrupt."
        ),
    ] = False,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="List only threads with work left at their newest checkpoint: a run is active, waits, failed or "
            "crashed.",
        ),
    ] = False,
    damaged: Annotated[
        bool,
        typer.Option(
            "--damaged",
            help="List only threads with a damaged checkpoint, as far as documents show. verify checks objects too.",
        ),
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the threads of a store: last use, checkpoints, stored bytes.

    A thread is listed if it matches all options. --since and --limit read manifests only of threads that they may
    list, --prefix only of ids that match.

    Only manifests are checked for damage. The last line says what is not checked.

    Example: langgraph-gcs threads --unfinished --since 7d --store file:///home/me/store
    """
    with open_admin(store, cipher) as saver, progress("reading manifests"):
        found = saver.threads(
            prefix=prefix,
            since=since,
            # One more shows whether there are more.
            limit=None if limit is None else limit + 1,
            waiting=waiting,
            unfinished=unfinished,
            damaged=damaged,
        )
    shown = found if limit is None else found[:limit]
    if as_json:
        print_json(
            [
                {**asdict(thread), "active": iso(thread.active), "not_checked": NOT_CHECKED["threads"]}
                for thread in shown
            ]
        )
        return
    table = table_of(
        "thread", "last used (UTC)", "checkpoints", "stored", "", right=("checkpoints", "stored"), whole=("thread",)
    )
    for thread in shown:
        table.add_row(
            plain(_name(thread)),
            moment(thread.active),
            str(thread.checkpoints),
            size(thread.stored_bytes),
            _notes(
                ("waits for an answer", "yellow") if thread.is_waiting else None,
                ("unfinished", "") if thread.is_unfinished and not thread.is_waiting else None,
                (f"{thread.damaged} damaged", "bold red") if thread.damaged else None,
                (f"{thread.newer} of a newer version", "yellow") if thread.newer else None,
            ),
        )
    out = console()
    if shown:
        print_table(out, table)
    else:
        is_filtered = prefix or since or waiting or unfinished or damaged
        out.print("There are no such threads." if is_filtered else "There are no threads.")
    if len(shown) < len(found):
        out.print("... and more")
    if shown:
        out.print(plain(not_checked(NOT_CHECKED["threads"]), "dim"))


def _notes(*notes: tuple[str, str] | None) -> Text:
    """Remarks in their styles, with semicolons between them."""
    text = plain("")
    for note in filter(None, notes):
        text.append_text(plain(("; " if text.plain else "") + note[0], note[1]))
    return text


# history


def history(
    thread: ThreadArgument,
    *,
    ns: Annotated[str | None, typer.Option("--ns", metavar="NS", help="Show only this namespace.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Show the N newest.")] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a thread's checkpoints as a tree: steps, forks, what each changed, interrupts, pins, holds, damage.

    Damage is what manifests and the names of documents and objects show. The last line says what is not checked.

    Example: langgraph-gcs history my-thread --store file:///home/me/store
    """
    with open_admin(store, cipher) as saver, progress("reading manifests"):
        everything = saver.history(thread)
    if not everything:
        raise CommandError(f"there is no thread {thread!r} in the store, or it has no checkpoint.")
    found = everything if ns is None else [info for info in everything if info.checkpoint_ns == ns]
    if not found:
        spaces = sorted({info.checkpoint_ns for info in everything})
        raise CommandError(f"thread {thread!r} has no namespace {ns!r}; it has {', '.join(map(repr, spaces))}.")
    if as_json:
        print_json([_as_json(info) for info in found[:limit]])
        return
    out = console()
    by_space: dict[str, list[CheckpointInfo]] = {}
    for info in found:
        by_space.setdefault(info.checkpoint_ns, []).append(info)
    for space, rows in sorted(by_space.items()):
        if space:
            out.print()
            out.print(plain(f"namespace {space}", "bold"), soft_wrap=True)
        print_table(out, _tree(rows, limit))
    out.print(plain(not_checked(NOT_CHECKED["history"]), "dim"))


def _as_json(info: CheckpointInfo) -> dict[str, Any]:
    return {
        **asdict(info),
        "time": iso(info.time),
        "made": iso(info.made),
        "stored_bytes": info.stored_bytes,
        "not_checked": NOT_CHECKED["history"],
    }


def _tree(rows: Sequence[CheckpointInfo], limit: int | None) -> Table:
    columns = ("", "checkpoint", "made (UTC)", "step", "source", "node", "changed", "stored", "note")
    table = table_of(*columns, right=("step", "stored"), whole=("", "checkpoint", "step"))
    drawn = draw((info.checkpoint_id, info.parent_id) for info in rows)
    for info, lines in list(zip(rows, drawn, strict=True))[:limit]:
        changed = [value.channel for value in info.stored if not value.channel.startswith("__")]
        note = _notes(
            ("waits for an answer" if info.is_waiting else "interrupted", "yellow") if info.interrupts else None,
            (f"pending writes of {counted(len(info.tasks), 'task')}", "") if info.tasks else None,
            (f"pin: {info.pin}", "cyan") if info.pin is not None else None,
            (f"held by {', '.join(info.holds)}", "cyan") if info.holds else None,
            (f"damaged: {info.damage}", "bold red") if info.damage else None,
        )
        table.add_row(
            lines,
            plain(info.checkpoint_id),
            moment(info.made),
            "" if info.step is None else str(info.step),
            plain(info.source),
            plain(", ".join(info.nodes)),
            plain(", ".join(changed)),
            size(info.stored_bytes),
            note,
        )
    if limit is not None and limit < len(rows):
        table.add_row(":", f"... and {len(rows) - limit} more")
    return table


# stats


def stats(
    *,
    object_price: Annotated[
        float, typer.Option("--object-price", min=0, metavar="USD", help="Price per GiB of objects and month.")
    ] = OBJECT_PRICE,
    document_price: Annotated[
        float, typer.Option("--document-price", min=0, metavar="USD", help="Price per GiB of documents and month.")
    ] = DOCUMENT_PRICE,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show the N largest of each.")] = 10,
    only_heavy: Annotated[
        bool,
        typer.Option("--heavy", help="Show only the channel that stores most of the bytes, if that is worth a change."),
    ] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the size of a store by thread, channel and kind of frame, what incremental frames save, and the cost.

    The cost is for storage alone. Operations, Firestore's index entries and soft-deleted objects cost extra.

    Example: langgraph-gcs stats --store file:///home/me/store
    """
    with open_admin(store, cipher) as saver, progress("reading manifests"):
        found = saver.stats()
    cost = storage_cost(
        found.document_bytes, found.object_bytes, document_price=document_price, object_price=object_price
    )
    if not math.isfinite(cost):
        raise CommandError("--object-price and --document-price must be numbers of dollars.", 2)
    heaviest = heavy([Stored(one.channel, one.full, one.incremental) for one in found.channels], found.checkpoints)
    if as_json:
        shown = None if heaviest is None else asdict(heaviest)
        print_json({"heavy": shown} if only_heavy else {**asdict(found), "monthly_usd": cost, "heavy": shown})
        return
    out = console()
    if only_heavy:
        out.print(plain(_told(heaviest)), soft_wrap=True)
        return
    for line in _summary(found, cost):
        out.print(line)
    table = table_of("thread", "checkpoints", "stored", right=("checkpoints", "stored"), whole=("thread",))
    for thread in found.threads[:limit]:
        table.add_row(plain(_name(thread)), str(thread.checkpoints), size(thread.stored_bytes))
    out.print()
    print_table(out, table)
    out.print()
    columns = ("channel", "values", "serialized", "full", "incremental", "saved (estimate)")
    table = table_of(*columns, right=columns[1:])
    for sums in found.channels[:limit]:
        sizes = (sums.size, sums.full, sums.incremental, max(0, sums.saved))
        table.add_row(plain(sums.channel), str(sums.values), *map(size, sizes))
    print_table(out, table)


def _told(one: Heavy | None) -> str:
    if one is None:
        return (
            f"No channel is heavy: none stores {SHARE:.0%} of the bytes, and {size(MEAN_BYTES)} or more for each "
            "checkpoint."
        )
    advice = (
        "Its values have little in common. Store a reference, or a value that can be computed again."
        if one.kind == "rewritten"
        else "It grows. Trim it, or store in it what refers to the rest."
    )
    return f"{one.channel}: {size(one.bytes)}, {one.share:.0%} of the bytes of all channels, {one.kind}. {advice}"


def _summary(found: StoreStats, cost: float) -> Iterable[str]:
    saved = sum(max(0, sums.saved) for sums in found.channels)
    yield f"{len(found.threads)} threads, {found.checkpoints} checkpoints, {found.pending_writes} documents of writes"
    yield f"documents    {size(found.document_bytes)} of frames and manifests"
    yield f"objects      {size(found.object_bytes)} in {found.objects} objects"
    yield f"incremental  saves about {size(saved)} compared with full frames"
    yield printable(f"cost         about ${cost:.4f} a month, for storage alone")
