"""How every command prints and asks, and the options that commands share."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from langgraph_gcs_saver.address import Address, LocalAddress, MemoryAddress, parse
from langgraph_gcs_saver.cli.modules import NamingError, find, raised
from langgraph_gcs_saver.errors import GCSSaverError, StoreNotFoundError

T = TypeVar("T")

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import CipherProtocol, SerializerProtocol

    from langgraph_gcs_saver import GCSSaver
    from langgraph_gcs_saver.saver.admin import Admin
    from langgraph_gcs_saver.saver.connection import Connection

    A = TypeVar("A", bound=Connection)

STORE_VARIABLE = "LANGGRAPH_GCS_STORE"
"""The environment variable that names the store if no option does."""

CIPHER_VARIABLE = "LANGGRAPH_GCS_CIPHER"
"""The environment variable that names the store's cipher if no option does."""

ACCEPT_CLEAR_VARIABLE = "LANGGRAPH_GCS_ACCEPT_CLEAR"
"""The environment variable that stands for `--accept-clear`."""

StoreOption = Annotated[
    str | None,
    # Without typer's `envvar`: the variable would then count as given after the command's name, and override an option
    # before the name.
    typer.Option(
        "--store",
        metavar="URI",
        help="Where checkpoints are kept: file:///path, or gs://bucket/prefix?project=…&database=….  "
        f"[env var: {STORE_VARIABLE}]",
    ),
]
CipherOption = Annotated[
    str | None,
    typer.Option(
        "--cipher",
        metavar="MODULE:NAME",
        help=f"What the store is encrypted with: a cipher, or a function that makes one.  [env var: {CIPHER_VARIABLE}]",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
ImportClassesOption = Annotated[
    bool,
    typer.Option(
        "--import-classes",
        help="Import the classes that stored values name, and call them. Use it only if you trust everyone who could "
        "write those values: they choose what runs.",
    ),
]
ThreadArgument = Annotated[str, typer.Argument(metavar="THREAD", help="The thread's id.")]
OptionalThreadArgument = Annotated[
    str | None, typer.Argument(metavar="THREAD", help="The thread's id. The default is all threads of the store.")
]

global_store: ContextVar[str | None] = ContextVar("global_store", default=None)
"""The `--store` that was given before the command's name."""

accept_clear: ContextVar[bool] = ContextVar("accept_clear", default=False)
"""Whether `--accept-clear` was given before the command's name, or the environment says so."""

global_cipher: ContextVar[str | None] = ContextVar("global_cipher", default=None)
"""The `--cipher` that was given before the command's name."""


class CommandError(Exception):
    """A command failed, for a reason that is not the library's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def store_named(store: str | None) -> str | None:
    """The store: from `--store` after the command's name, else before it, else from the environment."""
    named = (store, global_store.get(), os.environ.get(STORE_VARIABLE))
    return next((one for one in named if one is not None), None)


def cipher_named(cipher: str | None) -> CipherProtocol | None:
    """The cipher: from `--cipher` after the command's name, else before it, else from the environment.

    Raises:
        CommandError: What the option or the environment names is not a cipher.
    """
    typed = cipher if cipher is not None else global_cipher.get()
    name, origin = (os.environ.get(CIPHER_VARIABLE), CIPHER_VARIABLE) if typed is None else (typed, "--cipher")
    return _cipher(name, origin) if name else None


@cache  # A command may open two stores, and making the cipher may ask the user for its key.
def _cipher(name: str, origin: str) -> CipherProtocol:
    try:
        found = find(name)
    except NamingError as error:
        raise CommandError(f"{origin} {name}: {error}", 2) from error
    if callable(found) and (inspect.isclass(found) or not _is_cipher(found)):
        try:
            found = found()
        except Exception as error:  # The user's code may raise anything.
            raise CommandError(f"{origin} {name}: calling it without arguments raises {raised(error)}.", 2) from error
    if not _is_cipher(found):
        raise CommandError(
            f"{origin} {name}: a {type(found).__name__} is not a cipher. A cipher has the methods encrypt and decrypt "
            "(LangGraph's CipherProtocol).",
            2,
        )
    return cast("CipherProtocol", found)


def _is_cipher(found: object) -> bool:
    return all(callable(getattr(found, name, None)) for name in ("encrypt", "decrypt"))


def open_admin(store: str | None, cipher: str | None = None, *, may_create: bool = False, **options: Any) -> Admin:
    """Open the store that an option or the environment names, for its upkeep; use the result as a context manager.

    This does not import LangGraph. A command that reads whole checkpoints calls `open_saver`. Neither function imports
    or calls anything that stored values name.

    Args:
        store: What `--store` says.
        cipher: What `--cipher` says.
        may_create: Whether to create an embedded store if there is none. A mistyped path must not look like a healthy,
            empty store.
        **options: The saver's.

    Raises:
        CommandError: No store was named, or `--cipher` does not name a cipher.
        GCSSaverError: The store cannot be opened, or does not exist.
    """
    from langgraph_gcs_saver.saver.admin import Admin

    return _open(Admin, store, cipher, may_create=may_create, **options)


def open_saver(
    store: str | None,
    cipher: str | None = None,
    *,
    may_create: bool = False,
    serde: SerializerProtocol | None = None,
    **options: Any,
) -> GCSSaver:
    """Open a saver, as `open_admin` opens a store. This imports LangGraph.

    Args:
        store: As for `open_admin`.
        cipher: As for `open_admin`.
        may_create: As for `open_admin`.
        serde: What makes objects of values, for a command with `--import-classes` or one that reads only its own state.
        **options: The saver's.
    """
    from langgraph_gcs_saver.portable import PortableSerializer
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

    return _open(GCSSaver, store, cipher, may_create=may_create, serde=serde or PortableSerializer(), **options)


def importing(import_classes: bool) -> SerializerProtocol | None:
    """The `serde` for `--import-classes`, LangGraph's, which makes objects of values; `None` without the option."""
    if not import_classes:
        return None
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    return JsonPlusSerializer()


def _open(kind: type[A], store: str | None, cipher: str | None, *, may_create: bool, **options: Any) -> A:
    uri = store_named(store)
    if not uri:
        raise CommandError(f"no store: give --store URI, or set {STORE_VARIABLE}. --help shows the forms.", 2)
    address = parse(uri)
    if isinstance(address, MemoryAddress):
        raise CommandError(
            "memory: is a store inside one process, so a command would always find it empty, and lose what it stores. "
            "Name a file:// or gs:// store.",
            2,
        )
    if not may_create:
        _check_exists(address)
    return kind.from_conn_string(uri, cipher=cipher_named(cipher), accept_clear=accept_clear.get(), **options)


def _check_exists(address: Address) -> None:
    if isinstance(address, LocalAddress):
        try:
            (address.path / "documents.sqlite3").stat()
        except FileNotFoundError:
            raise StoreNotFoundError(
                f"There is no store in {str(address.path)!r}. Create one with `langgraph-gcs setup`."
            ) from None
        except OSError:
            return  # Opening the store reports what is wrong.


def check_thread(saver: Admin, thread: str) -> None:
    """Raise an error if the store holds nothing of a thread; for a command that found nothing to do.

    Raises:
        CommandError: There is no such thread.
    """
    if not saver.plan_delete_thread(thread).exists:
        raise no_thread(thread)


def no_thread(*threads: str) -> CommandError:
    """The error for threads of which the store holds nothing."""
    return CommandError(f"there is no thread {', '.join(map(repr, threads))} in the store.")


def print_json(value: Any) -> None:
    r"""Print one JSON document. Characters outside of ASCII are escaped as `\u001b`: no terminal acts on them."""
    print(indented_json(value, ensure_ascii=True))


def print_lines(lines: Iterable[str], *, is_quiet: bool = False) -> None:
    """Print lines as they are, without a break where the terminal ends."""
    for line in lines:
        console(is_quiet=is_quiet).print(plain(line), soft_wrap=True)


def print_list(
    found: Sequence[T], shown: Callable[[T], Any], line: Callable[[T], str], none: str, *, as_json: bool
) -> None:
    """Print what a command has found.

    Args:
        found: The results.
        shown: A result for JSON.
        line: A result for people.
        none: What to print if there are no results.
        as_json: Whether to print one JSON document.
    """
    if as_json:
        print_json([shown(one) for one in found])
    else:
        print_lines(map(line, found) if found else [none])


_LEVELS = 20
"""How many levels of JSON are indented. Without a limit, the text of a deep value could be depth times its size."""


def indented_json(value: Any, *, ensure_ascii: bool = False) -> str:
    """JSON with each item on a line of its own, down to `_LEVELS` levels."""
    return "".join(_pieces(value, ensure_ascii, 0))


def _pieces(value: Any, ensure_ascii: bool, level: int) -> Iterator[str]:
    if not value or level == _LEVELS or not isinstance(value, dict | list | tuple):
        yield json.dumps(value, ensure_ascii=ensure_ascii, default=str)
        return
    first, last = "{}" if isinstance(value, dict) else "[]"
    indent = "\n" + "  " * level
    yield first
    for i, item in enumerate(value):
        yield f"{',' if i else ''}{indent}  "
        if isinstance(value, dict):
            name = item if isinstance(item, str) else json.dumps(item)
            yield f"{json.dumps(name, ensure_ascii=ensure_ascii)}: "
        yield from _pieces(value[item] if isinstance(value, dict) else item, ensure_ascii, level + 1)
    yield f"{indent}{last}"


_UNLIMITED = 1 << 16
"""The width of output that is not a terminal, because pipes and files get whole lines."""

_WHOLE = 72
"""The longest id that a terminal shows in one line. Users may choose ids of hundreds of characters."""

_LEAST = 4
"""The least width of a column beside ids."""


def console(*, is_quiet: bool = False) -> Console:
    """Standard output. Print text through `plain`, because text from a store may look like markup."""
    is_limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if is_limited else _UNLIMITED
    return Console(quiet=is_quiet, highlight=False, markup=False, emoji=False, width=width)


def print_table(out: Console, table: Table) -> None:
    """Print a table. Columns that do not wrap keep the first line of each cell, an id, whole; the others give way.

    In a narrow terminal a line may then extend beyond the edge. The terminal breaks that line, and a copy of the id has
    no break.
    """
    width = out.width
    if width >= _UNLIMITED:
        out.print(table)
        return
    for column in table.columns:
        if column.no_wrap:
            first_lines = [str(cell).partition("\n")[0] for cell in (column.header, *column.cells)]
            longest = max(map(cell_len, first_lines))
            column.no_wrap = False
            column.width = longest if longest <= _WHOLE else None
    _, right, _, left = table.padding
    between = (len(table.columns) - 1) * (1 + left + right)
    needed = between + sum(_LEAST if column.width is None else column.width for column in table.columns)
    try:
        out.width = max(width, needed)
        out.print(table)
    finally:
        out.width = width


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; return if the answer is yes.

    Raises:
        CommandError: The answer is no, or there is no terminal to ask at.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask at: give --yes, or --dry-run to see what would be done.", 2)
    # typer.confirm always writes a blank to standard output, where it would spoil the file of a JSON document.
    print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandError("nothing was done.")


class Bar:
    """A progress bar's handle: call it after each piece of work."""

    def __init__(self, progress: Progress | None, total: int | None, what: str) -> None:
        self._progress = progress
        self._task = None if progress is None else progress.add_task(what, total=total)

    def __call__(self, done: int = 1) -> None:
        """Report that so many more pieces are done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, done)


class Late:
    """Delays an error until the results for other threads were shown."""

    def __init__(self) -> None:
        self._error: GCSSaverError | None = None

    @contextmanager
    def after(self, shown: Sized) -> Iterator[None]:
        """Keep an error of the block, unless there is nothing to show."""
        try:
            yield
        except GCSSaverError as error:
            if not shown:
                raise
            self._error = error

    def end(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Bar]:
    """A progress bar on standard error while the block runs, if that is a terminal. It is erased at the end."""
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        yield Bar(None, total, what)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as shown:
        yield Bar(shown, total, printable(what))


def printable(text: str) -> str:
    r"""One line that no terminal acts on: control, bidirectional and line-breaking characters are shown as `\x1b`.

    The text in a store was written by an agent, and perhaps by people who talked to it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def plain(text: str, style: str = "") -> Text:
    """`printable` text for rich, with no markup in it."""
    return Text(printable(text), style=style)
