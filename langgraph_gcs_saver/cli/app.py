"""The list of commands, and how a failed command ends: one line on standard error and the error's exit code."""

from __future__ import annotations

import io
import logging
import signal
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from langgraph_gcs_saver.cli.commands.advise import advise
from langgraph_gcs_saver.cli.commands.analytics import analytics
from langgraph_gcs_saver.cli.commands.batches import batches
from langgraph_gcs_saver.cli.commands.catalogue import history, stats, threads
from langgraph_gcs_saver.cli.commands.check import check
from langgraph_gcs_saver.cli.commands.checks import repair, verify
from langgraph_gcs_saver.cli.commands.demo import demo
from langgraph_gcs_saver.cli.commands.diff import diff
from langgraph_gcs_saver.cli.commands.drill import drill_command
from langgraph_gcs_saver.cli.commands.edit import edit
from langgraph_gcs_saver.cli.commands.failover import failover
from langgraph_gcs_saver.cli.commands.leases import leases, pause
from langgraph_gcs_saver.cli.commands.migrate import migrate
from langgraph_gcs_saver.cli.commands.monitoring import monitoring
from langgraph_gcs_saver.cli.commands.operations import operations
from langgraph_gcs_saver.cli.commands.pins import pin, unpin
from langgraph_gcs_saver.cli.commands.rebind import rebind
from langgraph_gcs_saver.cli.commands.recoveries import recoveries
from langgraph_gcs_saver.cli.commands.replication import replicate, replication
from langgraph_gcs_saver.cli.commands.report import report
from langgraph_gcs_saver.cli.commands.runs import answer, runs, stalled
from langgraph_gcs_saver.cli.commands.sagas import saga
from langgraph_gcs_saver.cli.commands.setup import setup
from langgraph_gcs_saver.cli.commands.show import show
from langgraph_gcs_saver.cli.commands.storage import collect, copy, delete, prune, sweep
from langgraph_gcs_saver.cli.commands.team import team
from langgraph_gcs_saver.cli.commands.top import top
from langgraph_gcs_saver.cli.commands.train import train
from langgraph_gcs_saver.cli.commands.transfer import export, import_, pull, push
from langgraph_gcs_saver.cli.commands.work import work
from langgraph_gcs_saver.cli.views.terminal import (
    ACCEPT_CLEAR_VARIABLE,
    CIPHER_VARIABLE,
    CipherOption,
    CommandError,
    StoreOption,
    accept_clear,
    global_cipher,
    global_store,
    printable,
)
from langgraph_gcs_saver.errors import ClearTextError, GCSSaverError, SerializationError, WrongKeyError

# Rich's markup is off: help would interpret brackets, and usage errors repeat what the user typed.
app = typer.Typer(
    name="langgraph-gcs",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (
    threads,
    history,
    show,
    diff,
    edit,
    stats,
    train,
    report,
    verify,
    repair,
    check,
    pin,
    unpin,
    leases,
    pause,
    runs,
    stalled,
    top,
    recoveries,
    answer,
    work,
    advise,
    prune,
    copy,
    delete,
    collect,
    sweep,
    pull,
    push,
    export,
    import_,
    migrate,
    replicate,
    setup,
    rebind,
    failover,
    monitoring,
    demo,
):
    app.command(command.__name__.rstrip("_"))(command)
app.command("drill")(drill_command)
app.add_typer(operations)
app.add_typer(batches)
app.add_typer(team)
app.add_typer(saga)
app.add_typer(analytics)
app.add_typer(replication)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"langgraph-gcs {version('langgraph-gcs-saver')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    store: StoreOption = None,
    cipher: CipherOption = None,
    accepts: Annotated[
        bool,
        typer.Option(
            "--accept-clear",
            envvar=ACCEPT_CLEAR_VARIABLE,
            help="With a cipher, also read what is stored in clear. Use it only during a migration.",
        ),
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """LangGraph checkpoints in Firestore and Cloud Storage: inspect, compare, repair and move threads."""
    global_store.set(store)
    global_cipher.set(cipher)
    accept_clear.set(accepts)


def _end(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _hint(error: Exception) -> str:
    """The command line's name for the saver option that an error mentions, as a sentence; empty if it mentions none."""
    if isinstance(error, WrongKeyError):
        return f" Name the cipher with --cipher MODULE:NAME or {CIPHER_VARIABLE}."
    if isinstance(error, SerializationError) and "`serde`" in str(error):
        return " The command line has no option for it. Call the method of a GCSSaver that has that serializer."
    if isinstance(error, ClearTextError):
        return f" On the command line, give --accept-clear before the command's name, or set {ACCEPT_CLEAR_VARIABLE}=1."
    return ""


class _Printable(logging.Formatter):
    """Escapes log records, because a library may log names that a store holds."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


def run() -> None:
    """Run the command that `sys.argv` names and exit."""
    # Exit as on Ctrl-C, so that a command removes its temporary directory, such as one with a copy of a thread.
    signal.signal(signal.SIGTERM, _end)
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup ignores it.
        signal.signal(signal.SIGHUP, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Text from a store may not fit the terminal's encoding.
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # Python's handler for a process that has set up none.
        logging.lastResort.setFormatter(_Printable())
    try:
        app()
    except (GCSSaverError, CommandError) as error:
        print(f"langgraph-gcs: {printable(str(error))}{_hint(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
