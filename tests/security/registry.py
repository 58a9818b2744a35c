"""Everything that a hostile store can be met by: commands, methods and their asynchronous twins, and collections.

Each suite of this folder runs all of them over what it forges. `test_registry.py` fails for one that no table names. If
you add a command, a method or a collection, add here how it is called, and in the suites how it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import typer

from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.format import registry as below
from langgraph_gcs_saver.results import DeletePlan
from tests.kit import methods
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
    """Ids of all collections of documents, as `keys` and the registry name them."""
    named = [value for value in vars(keys).values() if isinstance(value, str) and value.startswith("lg_")]
    return {value.partition("/")[0] for value in named} | {entry.id for entry in below.every()}


def team_of(thread: str) -> str:
    """The team that a store of a suite has beside a thread."""
    return f"team of {thread}"


COLLECTIONS: Mapping[str, Callable[[str], str]] = {
    keys.THREADS: keys.thread_doc,
    keys.CHECKPOINTS: lambda thread: f"{keys.checkpoints(thread)}/",
    keys.WRITES: lambda thread: f"{keys.writes(thread)}/",
    keys.ASIDE: lambda thread: f"{keys.aside(thread)}/",
    keys.LEASES: lambda thread: keys.fence_doc(thread).rpartition("/")[0] + "/",
    keys.OPERATIONS: lambda thread: f"{keys.operations(thread)}/",
    keys.BATCHES: lambda thread: f"{keys.batches(thread)}/",
    keys.DONE: lambda thread: f"{keys.thread_doc(thread)}/{keys.DONE}/",
    keys.CHUNKS: lambda thread: f"{keys.thread_doc(thread)}/{keys.CHUNKS}/",
    keys.RESUMES: lambda thread: keys.resume_doc(thread).rpartition("/")[0] + "/",
    keys.RECOVERIES: lambda thread: f"{keys.recoveries(thread)}/",
    keys.SAGAS: lambda thread: f"{keys.sagas(thread)}/",
    keys.BLOBS: lambda thread: f"{keys.blobs(thread)}/",
    keys.RUNS: lambda _: f"{keys.RUNS}/",
    keys.ACTIVE: keys.active_doc,
    keys.ROLLBACKS: lambda _: f"{keys.ROLLBACKS}/",
    keys.TEAMS: lambda _: f"{keys.TEAMS}/",
    keys.MEMBERS: lambda thread: f"{keys.members(team_of(thread))}/",
    keys.SETS: lambda thread: f"{keys.sets(team_of(thread))}/",
    keys.VOTES: lambda thread: f"{keys.sets(team_of(thread))}/",
    keys.CACHE: lambda _: f"{keys.CACHE}/",
    keys.REGION: lambda _: f"{keys.REGION}/",
    keys.OUTBOX: lambda thread: f"{keys.OUTBOX}/{keys.spread(thread)}-",
    keys.SHIPS: keys.ship_doc,
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
    """

    directory: Path
    other: Any = None
    replica: Any = None
    archive: Path | None = None
    source: Any = None
    thread: str = "t"
    newest: int = 3
    channels: tuple[str, ...] = ("v",)

    def at(self, n: int | None = None) -> Any:
        return cfg(n, thread=self.thread)


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
    "warm": lambda a: _call([a.thread]),
    "get_tuple": lambda a: _call(a.at()),
    "list": lambda a: _call(a.at()),
    "get_delta_channel_history": lambda a: _call(config=a.at(a.newest), channels=list(a.channels)),
    "checkpoint_ids": lambda a: _call(a.at()),
    "checkpoint_at": lambda a: _call(a.at(), datetime.now(timezone.utc)),
    "history": lambda a: _call(a.thread),
    "threads": lambda _: _call(waiting=True, unfinished=False),
    "stats": lambda _: _call(),
    "train": lambda _: _call(),
    "pins": lambda a: _call(a.at()),
    "holds": lambda a: _call(a.at()),
    "leases": lambda _: _call(),
    "pause": lambda a: _call(a.thread),
    "status": lambda a: _call(a.thread),
    "runs": lambda _: _call(),
    "rollbacks": lambda _: _call(),
    "recoveries": lambda _: _call(),
    "operations": lambda a: _call(a.thread),
    "resolve_operation": lambda a: _call(a.thread, "key", not_done=True),
    "batches": lambda a: _call(a.thread),
    "teams": lambda _: _call(),
    "sagas": lambda a: _call(a.thread),
    "ping": lambda _: _call(),
    "verify": lambda _: _call(depth="data"),
    "pin": lambda a: _call(a.at(a.newest), "label"),
    "unpin": lambda a: _call(a.at(a.newest)),
    "put_writes": lambda a: _call(a.at(a.newest), [(a.channels[0], ["x"])], "another task"),
    "put": _put,
    "copy_thread": lambda a: _call(a.thread, "copied"),
    "export_thread": lambda a: _call(a.thread, a.directory / "exported.tar"),
    "transfer_thread": lambda a: _call(a.thread, a.other),
    "replicate": lambda a: _call(a.replica or a.other),
    "replication": lambda a: _call(a.replica or a.other),
    "reconcile": lambda a: _call(a.replica or a.other),
    "failover": lambda a: _call(a.replica or a.other, abort=True),
    "migrate": lambda a: _call(a.source, [a.thread]),
    "rebind": lambda a: _call(),
    "setup": lambda _: _call(),
    "plan_sweep": lambda _: _call(),
    "sweep": lambda _: _call(),
    "plan_repair": lambda _: _call(),
    "repair": lambda _: _call(),
    "plan_prune": lambda a: _call([a.thread]),
    "prune": lambda a: _call([a.thread]),
    "plan_delete_for_runs": lambda _: _call(["run"]),
    "delete_for_runs": lambda _: _call(["run"]),
    "plan_collect": lambda _: _call(orphan_age=timedelta(0)),
    "collect": lambda _: _call(orphan_age=timedelta(0)),
    "carry_out": lambda a: _call(
        DeletePlan(thread_id=a.thread, checkpoints=1, writes=0, objects=0, bytes=0, exists=True)
    ),
    "plan_delete_thread": lambda a: _call(a.thread),
    "delete_thread": lambda a: _call(a.thread),
    "import_thread": lambda a: _call(a.archive or a.directory / "exported.tar"),
}
"""How each method of `GCSSaver` and `Admin` is called; in an order in which each finds a thread."""

DESTROY = {"carry_out", "delete_thread", "delete_for_runs", "sweep", "prune", "import_thread"}
"""Methods that delete what others read, or need its place."""

WRITE = DESTROY | {
    "copy_thread",
    "collect",
    "pause",
    "pin",
    "put",
    "put_writes",
    "failover",
    "rebind",
    "reconcile",
    "repair",
    "replicate",
    "resolve_operation",
    "setup",
    "unpin",
}
"""Methods that change the store."""

NO_STATE = {
    "close",
    "admin",
    "config_specs",
    "follow",
    "from_conn_string",
    "get_allowlist",
    "get_next_version",
    "recover",
    "serde",
    "subscribe",
    "team",
    "thread",
    "watch",
    "with_allowlist",
}
"""What else a saver has: it does nothing with a store."""


def all_methods(*classes: type) -> list[str]:
    """Public methods that do something with a store, without the asynchronous twins.

    Args:
        classes: Of these classes; of `GCSSaver` and `Admin`, if none is given.
    """
    found = methods.names(*classes) - NO_STATE - {"aclose"}
    return sorted(name for name in found if not (name[0] == "a" and name[1:] in found))


def perform(saver: Any, name: str, around: Around, *, is_async: bool = False) -> Any:
    """Call a method, or its twin, and take all that it gives."""
    args, options = METHODS[name](around)
    return methods.perform(saver, name, *args, is_async=is_async, **options)
