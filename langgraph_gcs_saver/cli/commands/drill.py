"""`langgraph-gcs drill`: restores of a thread in fresh processes, and a recovery rehearsal on a copy of it."""

from __future__ import annotations

import logging
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from langgraph_gcs_saver.cli.views.terminal import (
    CipherOption,
    CommandError,
    JsonOption,
    StoreOption,
    ThreadArgument,
    accept_clear,
    cipher_named,
    console,
    open_saver,
    plain,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver.testing.drill import Answer, DrillReport, Trial

FAILED = 4
"""Exit code if a recovery missed the objective or gave a wrong value."""

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_PARTS = 8

_NAMES = {"newest checkpoint dropped": "newest dropped", "inline frame flipped": "inline flipped"}
"""Shorter names of damages, for a table of 80 columns."""


def drill_command(
    thread: ThreadArgument,
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    rto: Annotated[
        str, typer.Option(metavar="TIME", help="The objective: the longest a recovery may take, as 500ms, 30s, 2m.")
    ] = "30s",
    as_json: JsonOption = False,
) -> None:
    """Restore a thread in fresh processes, and rehearse its recovery on a copy in a temporary store.

    Three fresh processes read the newest checkpoint from the store, one after another. The drill shows how long each
    took, from its start until it had the state.

    On the copy, the drill drops the newest checkpoint, flips a frame in a document, flips one in an object, and removes
    an object, each on a fresh copy. It shows which checkpoint a resumed agent gets at once ("2 back" is the third
    newest), what repair does, and which checkpoint the agent gets then. The exit code is 4 if a restore or a recovery
    took longer than the objective, or if a recovery gave nothing, or anything but what was written.

    Example: langgraph-gcs drill my-thread --rto 30s --store file:///home/me/store
    """
    from langgraph_gcs_saver.cli.fresh import restore
    from langgraph_gcs_saver.testing.drill import drill

    seconds = _seconds(rto)
    with (
        open_saver(store, cipher) as saver,
        tempfile.TemporaryDirectory(prefix="langgraph-gcs-drill-") as folder,
        _silence(),
        progress(f"drill of {thread}", _PARTS) as bar,
    ):
        report = drill(
            saver,
            thread,
            rto=seconds,
            directory=Path(folder),
            step=lambda _: bar(),
            restore=partial(restore, thread, store=store, cipher=cipher),
            cipher=cipher_named(cipher),
            accept_clear=accept_clear.get(),
        )
    if not report.checkpoints:
        raise CommandError(f"there is no thread {thread!r} with a checkpoint to recover.")
    if as_json:
        print_json({**asdict(report), "ok": report.ok})
    else:
        _show(report)
    if not report.ok:
        problems = [*report.problems, *(f"{one.damage}: {text}" for one in report.trials for text in one.problems)]
        raise CommandError(f"the drill failed. {'; '.join(problems)}", FAILED)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h)?", text.strip())
    value = float(found[1]) * _UNITS[found[2] or "s"] if found else 0
    if not 0 < value < math.inf:
        raise CommandError(f"--rto is {text!r}; it must be a time such as 500ms, 30s or 2m.", 2)
    return value


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the warnings that the drill provokes. Without a handler they would go to standard error."""
    logger, handler = logging.getLogger("langgraph_gcs_saver"), logging.NullHandler()
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)


def _show(report: DrillReport) -> None:
    out = console()
    out.print(
        plain(
            f"Thread {report.thread_id!r}: {report.checkpoints} checkpoints, copied in {report.copied_in:.2f} s. "
            f"Objective: {report.rto:g} s."
        ),
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    for title in ("damage", "at once", "repair", "then", "readable"):
        table.add_column(title)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in report.trials:
        table.add_row(*_row(one))
    out.print(table)
    took = ", ".join(f"{seconds:.2f} s" for seconds in report.restores)
    out.print(plain(f"Restores in fresh processes: {took}."), soft_wrap=True)
    if report.ok:
        out.print(plain("No wrong value was given, and every restore and recovery was in time."))


def _row(one: Trial) -> list[str | Text]:
    if one.skipped is not None or one.at_once is None or one.after is None:
        return [_NAMES.get(one.damage, one.damage), plain(f"not tried: {one.skipped}"), "", "", "", "", ""]
    repair = ", ".join(f"{number} {action}" for action, number in one.repair.items()) or "nothing to do"
    return [
        _NAMES.get(one.damage, one.damage),
        plain(_words(one.at_once, is_flag_due=True)),
        plain(repair),
        plain(_words(one.after, is_flag_due=False)),
        f"{one.readable}/{one.expected}",
        f"{one.seconds:.2f} s",
        plain("FAILED", "bold red") if one.problems else plain("ok", "green"),
    ]


def _words(answer: Answer, *, is_flag_due: bool) -> str:
    if answer.error is not None:
        return f"error ({answer.error.partition(':')[0]})"
    if answer.kind in {"exact", "wrong", "nothing"}:
        return answer.kind
    back = f"{answer.behind} back"
    # After a repair, that checkpoint is the latest.
    return f"{back}, {answer.kind.rpartition(' ')[2]}" if is_flag_due else back
