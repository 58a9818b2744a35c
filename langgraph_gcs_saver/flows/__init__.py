"""What the saver does, as flows: generators that yield effects. They import no store, no runner, and nothing of Google.

A flow never logs, sleeps, or reads a clock. It yields effects for these too, so that every schedule can be replayed.

A module is imported when it is first used, as in `flows.repair`. Most processes only save and load, and need few of
the modules.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from langgraph_gcs_saver.flows import (
        active,
        analytics,
        blobs,
        catalogue,
        collect,
        copy,
        dictionaries,
        forks,
        holds,
        ids,
        item_batches,
        leases,
        lineage,
        members,
        migrate,
        operations,
        past_events,
        prune,
        rebind,
        recoveries,
        remirror,
        repair,
        replication,
        rollbacks,
        runs,
        sagas,
        set_restores,
        sets,
        setup,
        survey,
        sweep,
        teams,
        train,
        transfer,
        unmirrored,
        verify,
        warm,
        watch,
        work,
    )

    __all__ = [
        "active",
        "analytics",
        "blobs",
        "catalogue",
        "collect",
        "copy",
        "dictionaries",
        "forks",
        "holds",
        "ids",
        "item_batches",
        "leases",
        "lineage",
        "members",
        "migrate",
        "operations",
        "past_events",
        "prune",
        "rebind",
        "recoveries",
        "remirror",
        "repair",
        "replication",
        "rollbacks",
        "runs",
        "sagas",
        "set_restores",
        "sets",
        "setup",
        "survey",
        "sweep",
        "teams",
        "train",
        "transfer",
        "unmirrored",
        "verify",
        "warm",
        "watch",
        "work",
    ]


def __getattr__(name: str) -> ModuleType:
    module = f"{__name__}.{name}"
    if name.startswith("_") or find_spec(module) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(module)
