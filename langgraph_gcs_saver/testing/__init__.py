"""Tools to test stores, savers and recovery, also for implementations of your own.

`survival`: kills a graph of your own around each effect. `contract`: the tests that a store must pass. `crash`: stops a
call after every effect. `damage`: flips, cuts, swaps and deletes everything stored. `drill`: rehearses the recovery of
a thread on a copy. `kills`: kills a process that runs a graph, with SIGKILL. `firestore_proxy` and `storage_proxy`:
lose, delay and falsify answers on the way. `interceptors`: count requests and slow them down.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_gcs_saver.testing.interceptors import CountingInterceptor, LatencyInterceptor
    from langgraph_gcs_saver.testing.survival import (
        Attempt,
        Kill,
        KillFailure,
        KillReport,
        NotSurvivedError,
        kill_everywhere,
    )

__all__ = [
    "PATIENCE",
    "Attempt",
    "CountingInterceptor",
    "Kill",
    "KillFailure",
    "KillReport",
    "LatencyInterceptor",
    "NotSurvivedError",
    "kill_everywhere",
]

PATIENCE = 900.0
"""Seconds after which a test assumes that what it waits for hangs. Nothing takes this long, even on slow machines."""

_INTERCEPTORS = ("CountingInterceptor", "LatencyInterceptor")
_SURVIVAL = ("Attempt", "Kill", "KillFailure", "KillReport", "NotSurvivedError", "kill_everywhere")


def __getattr__(name: str) -> Any:
    # Imported late, so that `python -m langgraph_gcs_saver.testing.kills` finds its module not imported yet.
    if name in _INTERCEPTORS:
        return getattr(import_module(f"{__name__}.interceptors"), name)
    if name in _SURVIVAL:
        return getattr(import_module(f"{__name__}.survival"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
