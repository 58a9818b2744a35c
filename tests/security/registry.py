"""Everything that a hostile store can be met by: commands, methods and their asynchronous twins, and collections.

Each suite of this folder runs all of them over what it forges. `test_registry.py` fails for one that no table names:
who adds a command, a method or a collection says here how it is called, and in the suites how it ends.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import typer

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver.admin import Admin
from tests.system.build import cfg, checkpoint, version


def commands() -> list[str]:
    """All commands, hidden ones too, those of groups as `group command`."""
    found: list[str] = []

    def walk(group: Any, prefix: str) -> None:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                walk(command, f"{prefix}{name} ")
            else:
                found.append(f"{prefix}{name}")

    walk(typer.main.get_command(app), "")
    return found


def collections() -> set[str]:
    """Ids of all collections of documents, as `keys` names them."""
    named = [value for value in vars(keys).values() if isinstance(value, str) and value.startswith("lg_")]
    return {value.partition("/")[0] for value in named}


COLLECTIONS: Mapping[str, Callable[[str], str]] = {
    keys.THREADS: keys.thread_doc,
    keys.CHECKPOINTS: lambda thread: f"{keys.checkpoints(thread)}/",
    keys.WRITES: lambda thread: f"{keys.writes(thread)}/",
    keys.ASIDE: lambda thread: f"{keys.aside(thread)}/",
    keys.RUNS: lambda _: f"{keys.RUNS}/",
    "lg_store": lambda _: keys.PLACE,
}
"""What names of documents begin with in each collection, of a thread where it is one's."""

BUCKETS_ONLY = {"lg_store"}
"""Collections that an embedded store has not."""


# Methods


@dataclass
class Around:
    """What methods are called with, beside the saver.

    Attributes:
        directory: For files that they write.
        other: A saver on another store.
        archive: An archive to be imported; by default the one that `export_thread` has made.
        source: A checkpointer to migrate from.
        thread: The thread.
        newest: The number of its newest checkpoint.
        channels: Some of its channels.
        is_dry: Whether what would write only plans, where it can.
    """

    directory: Path
    other: Any = None
    archive: Path | None = None
    source: Any = None
    thread: str = "t"
    newest: int = 3
    channels: tuple[str, ...] = ("v",)
    is_dry: bool = False
    shown: list[Any] = field(default_factory=list)

    def at(self, n: int | None = None) -> Any:
        return cfg(n, thread=self.thread)

    @property
    def plans(self) -> dict[str, Any]:
        return {"dry_run": self.is_dry, "show": self.shown.append}


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _call(*args: Any, **options: Any) -> Arguments:
    return args, options


def _put(a: Around) -> Arguments:
    n, channel = a.newest + 1, a.channels[0]
    return _call(
        a.at(a.newest), checkpoint(n, {channel: ["new"]}), {"source": "loop", "step": n}, {channel: version(n)}
    )


METHODS: Mapping[str, Callable[[Around], Arguments]] = {
    "get": lambda a: _call(a.at()),
    "get_tuple": lambda a: _call(a.at()),
    "list": lambda a: _call(a.at()),
    "get_delta_channel_history": lambda a: _call(config=a.at(a.newest), channels=list(a.channels)),
    "checkpoint_ids": lambda a: _call(a.at()),
    "checkpoint_at": lambda a: _call(a.at(), datetime.now(timezone.utc)),
    "history": lambda a: _call(a.thread),
    "threads": lambda _: _call(waiting=True, unfinished=False),
    "stats": lambda _: _call(),
    "pins": lambda a: _call(a.at()),
    "ping": lambda _: _call(),
    "verify": lambda _: _call(depth="data"),
    "pin": lambda a: _call(a.at(a.newest), "label"),
    "unpin": lambda a: _call(a.at(a.newest)),
    "put_writes": lambda a: _call(a.at(a.newest), [(a.channels[0], ["x"])], "another task"),
    "put": _put,
    "copy_thread": lambda a: _call(a.thread, "copied", **a.plans),
    "export_thread": lambda a: _call(a.thread, a.directory / "exported.tar"),
    "transfer_thread": lambda a: _call(a.thread, a.other, **a.plans),
    "migrate": lambda a: _call(a.source, [a.thread], **a.plans),
    "rebind": lambda a: _call(**a.plans),
    "setup": lambda _: _call(),
    "sweep": lambda a: _call(**a.plans),
    "repair": lambda a: _call(**a.plans),
    "prune": lambda a: _call([a.thread], **a.plans),
    "delete_for_runs": lambda a: _call(["run"], **a.plans),
    "collect": lambda a: _call(orphan_age=timedelta(0), **a.plans),
    "delete_thread": lambda a: _call(a.thread, **a.plans),
    "import_thread": lambda a: _call(a.archive or a.directory / "exported.tar", **a.plans),
}
"""How each method of `GCSSaver`, those of `Admin` among them, is called; in an order in which each finds a thread."""

DESTROY = {"delete_thread", "delete_for_runs", "sweep", "prune", "import_thread"}
"""Methods that take away, or need the place of, what others read."""

WRITE = DESTROY | {"copy_thread", "collect", "pin", "put", "put_writes", "rebind", "repair", "setup", "unpin"}
"""Methods that change the store."""

NO_STATE = {
    "close",
    "config_specs",
    "from_conn_string",
    "get_allowlist",
    "get_next_version",
    "serde",
    "subscribe",
    "with_allowlist",
}
"""What else a saver has: it does nothing with a store."""


def methods(cls: type[Admin] = GCSSaver) -> list[str]:
    """Public methods that do something with a store, without the asynchronous twins."""
    found = [name for name, _ in inspect.getmembers(cls) if name[0] != "_" and name not in NO_STATE | {"aclose"}]
    return [name for name in found if not (name[0] == "a" and name[1:] in found)]


def perform(saver: Any, name: str, around: Around, *, is_async: bool = False) -> Any:
    """Call a method, or its twin, and take all that it gives."""
    args, options = METHODS[name](around)
    return taken(getattr(saver, f"a{name}" if is_async else name)(*args, **options))


def taken(found: Any) -> Any:
    """What a call gives in the end: an iterator's items as a list, a coroutine's result."""
    if inspect.isasyncgen(found):
        return asyncio.run(_listed(found))
    if inspect.isawaitable(found):
        return asyncio.run(_awaited(found))
    return list(found) if inspect.isgenerator(found) else found


async def _listed(found: Any) -> list[Any]:
    return [one async for one in found]


async def _awaited(found: Any) -> Any:
    return await found
