"""When to store, and when to stop: policies, and the control that asks them.

    control = cadence.Control(cadence.Signal(SIGTERM) | cadence.Deadline(minutes=58))
    graph.invoke(inputs, config, control=control)

Policies need nothing of LangGraph. `Control`, `milestone` and `drain_requested` import it when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.cadence.adaptive import (
    Adaptive,
    Hazard,
    crashed_nodes,
    memory_trend,
    near_end,
    rate_limits,
)
from langgraph_gcs_saver.cadence.objective import RTO
from langgraph_gcs_saver.cadence.policies import (
    AnyOf,
    Deadline,
    Every,
    MaxLag,
    Memory,
    Milestone,
    Policy,
    Progress,
    Signal,
    Spend,
    Steps,
    Stop,
    Store,
    Tokens,
)

if TYPE_CHECKING:
    from langgraph_gcs_saver.cadence.control import Control, drain_requested, milestone

__all__ = [
    "RTO",
    "Adaptive",
    "AnyOf",
    "Control",
    "Deadline",
    "Every",
    "Hazard",
    "MaxLag",
    "Memory",
    "Milestone",
    "Policy",
    "Progress",
    "Signal",
    "Spend",
    "Steps",
    "Stop",
    "Store",
    "Tokens",
    "crashed_nodes",
    "drain_requested",
    "memory_trend",
    "milestone",
    "near_end",
    "rate_limits",
]

_LATER = ("Control", "drain_requested", "milestone")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.control"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
