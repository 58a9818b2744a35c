"""`langgraph-gcs migrate`: copy threads from another checkpointer."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, closing, contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from langgraph_gcs_saver.cli.modules import NamingError, find
from langgraph_gcs_saver.cli.views.terminal import (
    Bar,
    CipherOption,
    CommandError,
    DryRunOption,
    ImportClassesOption,
    JsonOption,
    StoreOption,
    console,
    importing,
    open_saver,
    plain,
    print_json,
    progress,
)
from langgraph_gcs_saver.errors import GCSSaverError, SourceError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from langgraph_gcs_saver import GCSSaver, Migration

SQLITE = "sqlite://"
POSTGRES = ("postgres://", "postgresql://")

_HARMLESS = {"application_name", "connect_timeout", "dbname", "host", "hostaddr", "options", "port", "sslmode", "user"}
"""Parameters of a connection string that hold no secret."""


def migrate(
    threads: Annotated[
        list[str] | None, typer.Argument(metavar="[THREAD]...", help="Ids of threads; all of the source if not given.")
    ] = None,
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="sqlite://FILE, postgresql://…, or MODULE:NAME: a checkpointer, or a function that makes one.",
        ),
    ],
    store: StoreOption = None,
    cipher: CipherOption = None,
    dry_run: DryRunOption = False,
    import_classes: ImportClassesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy threads from another checkpointer, with all their history, and compare both.

    The source does not change. If a migration is interrupted, run it again to continue. Run it later to bring what the
    source has stored since. It fails for a thread that has continued in both places. sqlite:// and postgresql:// need
    the package of that checkpointer. Python looks for MODULE in the current directory too. NAME is a checkpointer, a
    context manager of one, or a function that returns either. A source that is a GCSSaver is verified first. A thread
    that is damaged there is not copied: repair it there.

    Nothing that values name is imported or run: values are copied as LangGraph's serializer wrote them. A source
    with another serializer, or a checkpointer of your own, needs --import-classes. Its values are then read as objects,
    and serialized again.

    Example: langgraph-gcs migrate --from sqlite://checkpoints.sqlite --store file:///home/me/store --dry-run
    """
    found = _open(source)
    with open_saver(store, cipher, may_create=True, serde=importing(import_classes)) as saver:
        wanted = list(dict.fromkeys(threads)) if threads else None
        if hasattr(found, "__aenter__") and not hasattr(found, "__enter__"):
            done = asyncio.run(_migrate_async(saver, found, source, wanted, dry_run=dry_run))
        else:
            done = _migrate(saver, found, source, wanted, dry_run=dry_run)
    if as_json:
        print_json({"threads": [asdict(one) for one in done], "dry_run": dry_run})
        return
    out = console()
    for one in done:
        out.print(plain(str(one)), soft_wrap=True)
    out.print(plain("Nothing was done." if dry_run else "Read from both sides and compared: the same."))


def _migrate(
    saver: GCSSaver, found: Any, name: str, threads: Sequence[str] | None, *, dry_run: bool
) -> Sequence[Migration]:
    with ExitStack() as stack:
        with _opening(name):
            source = _checked(stack.enter_context(found) if hasattr(found, "__enter__") else found)
        with progress("looking"):
            plans = _checked_plans(saver.admin.migrate(source, threads, dry_run=True), threads)
        if dry_run:
            return plans
        with _bar(plans) as bar:
            return saver.admin.migrate(source, [plan.thread_id for plan in plans], progress=bar)


async def _migrate_async(
    saver: GCSSaver, found: Any, name: str, threads: Sequence[str] | None, *, dry_run: bool
) -> Sequence[Migration]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(saver)
        with _opening(name):
            source = _checked(await stack.enter_async_context(found))
        with progress("looking"):
            plans = _checked_plans(await saver.admin.amigrate(source, threads, dry_run=True), threads)
        if dry_run:
            return plans
        with _bar(plans) as bar:
            return await saver.admin.amigrate(source, [plan.thread_id for plan in plans], progress=bar)


def _bar(plans: Sequence[Migration]) -> AbstractContextManager[Bar]:
    # Each checkpoint is put once and compared once.
    return progress("migrating", 2 * sum(plan.checkpoints for plan in plans))


def _checked_plans(plans: Sequence[Migration], threads: Sequence[str] | None) -> Sequence[Migration]:
    missing = [plan.thread_id for plan in plans if not plan]
    if missing:
        raise CommandError(f"there is no thread {', '.join(map(repr, missing))} in the source.")
    if not plans and threads is None:
        raise CommandError("there is no thread in the source.")
    return plans


def _checked(source: Any) -> BaseCheckpointSaver[Any]:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    if not isinstance(source, BaseCheckpointSaver):
        raise CommandError(f"--from names a {type(source).__name__}, not a checkpointer of LangGraph.", 2)
    return source


@contextmanager
def _opening(name: str) -> Iterator[None]:
    try:
        yield
    except (CommandError, GCSSaverError):
        raise
    except Exception as error:  # Another checkpointer may raise anything.
        raise CommandError(
            f"the source cannot be opened: {type(error).__name__}{_quoted(error, name)}", SourceError.exit_code
        ) from error


def _quoted(error: Exception, name: str) -> str:
    """The text of another checkpointer's error, unless it quotes a part of a password in the connection string."""
    text = str(error)
    secrets = {secret for secret in _secrets(name.partition("://")[2]) if secret}
    secrets |= {unquote(secret) for secret in secrets}
    parts = {part for secret in secrets for part in re.split(r"[^\w.~!$*-]", secret) if len(part) > 1}
    return "" if "://" in text or any(part in text for part in secrets | parts) else f": {text}"


def _secrets(address: str) -> Iterator[str]:
    """The parts of a connection string after `://` that may be a password."""
    login, at, place = address.rpartition("@")
    yield login.partition(":")[2]
    place, _, parameters = place.partition("?")
    if not at:  # The @ was forgotten: then a password is where a port would be.
        port = place.partition("/")[0].rpartition(":")[2]
        yield "" if port.isdecimal() or port == place.partition("/")[0] else port
    for parameter in parameters.split("&"):
        key, _, value = parameter.partition("=")
        if key not in _HARMLESS:
            yield value


def _open(name: str) -> Any:
    """The checkpointer that `--from` names, or a context manager of it."""
    if name.startswith(SQLITE):
        path = Path(name.removeprefix(SQLITE))
        if not path.is_file():
            file = "such file" if "@" in name else f"file {str(path)!r}"
            raise CommandError(f"there is no {file}: sqlite:// is followed by a path.", 2)
        return _sqlite(path)
    if name.startswith(POSTGRES):
        package = _of_package("langgraph-checkpoint-postgres", "langgraph.checkpoint.postgres")
        return package.PostgresSaver.from_conn_string(name)
    if "://" in name:
        scheme = name.partition("://")[0]
        raise CommandError(
            f"--from does not support {scheme}://. To copy threads between gs:// and file:// stores, use pull.", 2
        )
    return _of_module(name)


@contextmanager
def _sqlite(path: Path) -> Iterator[BaseCheckpointSaver[Any]]:
    package = _of_package("langgraph-checkpoint-sqlite", "langgraph.checkpoint.sqlite")
    from langgraph_gcs_saver.stores.sqlite_source import open_source

    with closing(open_source(path)) as db:
        yield package.SqliteSaver(db)


def _of_package(package: str, module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise CommandError(f"{error}: install {package}.", 2) from error


def _of_module(name: str) -> Any:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    try:
        named = find(name, "sqlite://FILE, postgresql://…, or MODULE:NAME")
    except NamingError as error:
        if "@" in name:
            raise CommandError("--from names no source: sqlite://FILE, postgresql://…, or MODULE:NAME.", 2) from error
        raise CommandError(f"--from {name}: {error}", 2) from error
    is_ready = isinstance(named, BaseCheckpointSaver) or hasattr(named, "__enter__") or hasattr(named, "__aenter__")
    if not callable(named) or (is_ready and not inspect.isclass(named)):
        return named
    with _opening(name):
        return named()
