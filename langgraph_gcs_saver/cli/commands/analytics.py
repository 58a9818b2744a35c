"""`langgraph-gcs analytics`: the table of rows, rows of what a store already has, and a report on this machine."""

from __future__ import annotations

import glob
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_gcs_saver.cli.commands.catalogue import table_of
from langgraph_gcs_saver.cli.durations import instant
from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    check_thread,
    console,
    open_admin,
    plain,
    print_json,
    print_table,
    progress,
)
from langgraph_gcs_saver.engine.files import write_file

if TYPE_CHECKING:
    from langgraph_gcs_saver.analytics.base import RowSink
    from langgraph_gcs_saver.analytics.local import Report

analytics = typer.Typer(
    name="analytics",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Rows about checkpoints: make a table for them, fill it from a store, report what they show.\n\n"
    "Example: langgraph-gcs analytics report rows.jsonl",
)

_TARGETS = "a file of JSON lines, bigquery://PROJECT/DATASET/TABLE, pubsub://PROJECT/TOPIC or logging://PROJECT/LOG"

LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME", help="Metadata that become a column. Give it several times for several."),
]


@analytics.command("ddl")
def ddl_(
    *,
    table: Annotated[
        str, typer.Option("--table", metavar="PROJECT.DATASET.TABLE", help="The table of rows.")
    ] = "langgraph.checkpoints",
    label: LabelOption = None,
    expiration_days: Annotated[
        int | None,
        typer.Option("--expiration-days", min=1, metavar="DAYS", help="Days after which BigQuery deletes rows."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the SQL that makes the table of rows and its views in BigQuery.

    Example: langgraph-gcs analytics ddl --table my-project.agents.checkpoints --label agent
    """
    from langgraph_gcs_saver.analytics.tables import ddl, views

    labels = tuple(label or ())
    statements = [ddl(table, labels, expiration_days=expiration_days), *views(table, labels)]
    if as_json:
        print_json({"statements": statements})
        return
    for statement in statements:
        print(f"{statement};\n")


@analytics.command("backfill")
def backfill_(
    threads: Annotated[
        list[str] | None, typer.Argument(metavar="[THREAD]...", help="Ids of threads; by default all threads.")
    ] = None,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TARGET",
            help=f"Where the rows go: {_TARGETS}.",
        ),
    ],
    label: LabelOption = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only rows from this time on, such as 2030-01-31.")
    ] = None,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the rows that the processes of a store would have written, had they had a sink.

    A row has the same event_id as the one that a process wrote, so running this again changes no report. Values are not
    read. Times of calls, and what failed, are not in a store.

    Example: langgraph-gcs analytics backfill --to rows.jsonl --label agent --store file:///home/me/store
    """
    from langgraph_gcs_saver.analytics.filling import backfill

    begin = _since(since)
    sink = _sink(to)
    with open_admin(store, cipher, labels=tuple(label or ())) as admin, progress("writing rows") as bar:
        written = backfill(admin, sink, threads or None, since=begin, progress=bar)
        if not written:
            for thread in threads or ():
                check_thread(admin, thread)
    if as_json:
        print_json({"to": to, "rows": written})
    else:
        console().print(f"Wrote {written:,} rows.")


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return instant(text)
    except ValueError as error:
        raise CommandError(f"--since {text}: {error}", 2) from error


def _sink(target: str) -> RowSink[Any]:
    from langgraph_gcs_saver import analytics as sinks

    scheme, separator, rest = target.partition("://")
    if not separator:
        return sinks.Jsonl(target)
    parts = rest.split("/")
    match scheme, len(parts):
        case "bigquery", 3:
            return sinks.BigQuery(".".join(parts))
        case "pubsub", 2:
            return sinks.PubSub(f"projects/{parts[0]}/topics/{parts[1]}")
        case "logging", 2:
            return sinks.Logging(f"projects/{parts[0]}/logs/{parts[1]}")
        case _:
            raise CommandError(f"--to is {target!r}; it must be {_TARGETS}.", 2)


@analytics.command("report")
def report_(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Files of JSON lines, or patterns such as 'rows-*.jsonl.gz'."),
    ] = None,
    *,
    output: Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Write a page, as HTML.")] = None,
    write: Annotated[str | None, typer.Option("--write", metavar="DIR", help="Write the plots, as PNGs.")] = None,
    label: LabelOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
    store: StoreOption = None,
    cipher: CipherOption = None,
    as_json: JsonOption = False,
) -> None:
    """Report how often checkpoints are stored, what recoveries cost, what takes storage, and how failures relate to it.

    The rows come from files, or else from the store, as `analytics backfill` computes them. Lines that are no rows are
    counted. This needs the extra `report`: DuckDB and matplotlib.

    Example: langgraph-gcs analytics report rows.jsonl -o report.html
    """
    targets = _targets(output, write, force=force)
    with progress("reading rows"):
        found = _of_files(files, label) if files else _of_store(store, cipher, tuple(label or ()))
    made: dict[Path, bytes] = {}
    if targets:
        from langgraph_gcs_saver.cli.views.analytics_page import page

        with progress("drawing plots"):
            plots = {view: found.png(view) for view in found.views}
            made = {
                target: page(found, plots).encode() if view is None else plots[view] for target, view in targets.items()
            }
    for name, content in made.items():
        _write(name, content, force=force)
    if as_json:
        print_json({**asdict(found), "written": [str(name) for name in made]})
    else:
        _print(found)


def _targets(output: str | None, directory: str | None, *, force: bool) -> dict[Path, str | None]:
    """The files to write, each with the view whose plot it gets, or `None` for the page.

    Raises:
        CommandError: One of them exists, and `--force` was not given.
    """
    from langgraph_gcs_saver.analytics.queries import QUESTIONS

    found: dict[Path, str | None] = {} if output is None else {Path(output): None}
    if directory is not None:
        found |= {Path(directory) / f"{view}.png": view for view in QUESTIONS}
    for target in found:
        if not force and target.exists():
            raise CommandError(f"{str(target)!r} already exists: give --force to overwrite it.")
    return found


def _write(name: Path, content: bytes, *, force: bool) -> None:
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        write_file(name, content, replace=force, devices=True)
    except FileExistsError:
        raise CommandError(f"{str(name)!r} already exists: give --force to overwrite it.") from None
    except OSError as error:
        raise CommandError(f"cannot write {str(name)!r}: {error.strerror or error}.") from error


def _of_files(patterns: Sequence[str], label: Sequence[str] | None) -> Report:
    from langgraph_gcs_saver.analytics.local import report

    names: dict[str, None] = {}
    for pattern in patterns:
        # A name that has special characters is a name first.
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not found:
            raise CommandError(f"there is no file {pattern!r}.")
        names |= dict.fromkeys(found)
    try:
        return report(names, labels=label)
    except OSError as error:
        raise CommandError(f"cannot read {error.filename or 'a file'}: {error.strerror or error}.") from error


def _of_store(store: str | None, cipher: str | None, labels: tuple[str, ...]) -> Report:
    from langgraph_gcs_saver.analytics.base import Source
    from langgraph_gcs_saver.analytics.filling import past_rows
    from langgraph_gcs_saver.analytics.local import report_of

    with open_admin(store, cipher, labels=labels) as admin:
        # No row leaves this process, so any key will do, and nothing is written to the store.
        return report_of(past_rows(admin, Source(admin, secrets.token_bytes(32))), labels=labels)


_SHOWN = {
    "checkpoint_patterns": ("namespace", "checkpoints", "gap_p50", "size_p50", "stored_p50", "stored"),
    "recovery_outcomes": ("kind", "recoveries", "finished", "failed", "work_lost", "restore_p50"),
    "storage_by_channel": ("namespace", "channel", "stored", "share", "could_save", "advice"),
    "failures_by_interval": ("gap_from", "threads", "crashes", "failed_runs", "put_share", "lost_share"),
}
_ROWS = 8


def _print(found: Report) -> None:
    from langgraph_gcs_saver.analytics.findings import finding
    from langgraph_gcs_saver.analytics.queries import QUESTIONS
    from langgraph_gcs_saver.analytics.rows import LABEL
    from langgraph_gcs_saver.cli.views.analytics_page import facts, shown

    out = console()
    out.print(plain(". ".join(facts(found)) + "."))
    labels = tuple(LABEL + name for name in found.labels)
    for view, question in QUESTIONS.items():
        out.print(plain(question, "bold"))
        out.print(plain(f"{finding(found, view)}."))
        rows = found.views[view]
        if rows:
            first, *others = _SHOWN[view]
            columns = (first, *labels, *others)
            headings = {name: name.removeprefix(LABEL).replace("_", " ") for name in columns}
            texts = {headings[name] for name in (*labels, "namespace", "kind", "channel", "advice") if name in headings}
            table = table_of(*headings.values(), right=[name for name in headings.values() if name not in texts])
            for row in rows[:_ROWS]:
                table.add_row(*(plain(shown(name, row)) for name in columns))
            print_table(out, table)
            if len(rows) > _ROWS:
                out.print(f"{len(rows) - _ROWS:,} more rows")
        out.print()
