"""A LangGraph checkpointer on Google Cloud: Firestore for metadata, Cloud Storage for state."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver import errors, events

if TYPE_CHECKING:
    from langgraph_gcs_saver.engine.interceptors import GatherInterceptor, Interceptor
    from langgraph_gcs_saver.findings import Finding
    from langgraph_gcs_saver.flows.catalogue import ChannelStats, CheckpointInfo, StoredValue, StoreStats, ThreadInfo
    from langgraph_gcs_saver.flows.collect import CollectPlan
    from langgraph_gcs_saver.flows.copy import CopyPlan
    from langgraph_gcs_saver.flows.migrate import Migration
    from langgraph_gcs_saver.flows.rebind import RebindPlan
    from langgraph_gcs_saver.flows.setup import SetupReport
    from langgraph_gcs_saver.flows.sweep import IdleThread
    from langgraph_gcs_saver.flows.threads import DeletePlan
    from langgraph_gcs_saver.flows.transfer import Transfer
    from langgraph_gcs_saver.policy.retention import KeepEvery, KeepFor, KeepLast, PrunePlan
    from langgraph_gcs_saver.provisioning import write_settings
    from langgraph_gcs_saver.repairs import RepairPlan, RepairStep
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver

    __version__: str

__all__ = [
    "ChannelStats",
    "CheckpointInfo",
    "CollectPlan",
    "CopyPlan",
    "DeletePlan",
    "Finding",
    "GCSSaver",
    "GatherInterceptor",
    "IdleThread",
    "Interceptor",
    "KeepEvery",
    "KeepFor",
    "KeepLast",
    "Migration",
    "PrunePlan",
    "RebindPlan",
    "RepairPlan",
    "RepairStep",
    "SetupReport",
    "StoreStats",
    "StoredValue",
    "ThreadInfo",
    "Transfer",
    "__version__",
    "errors",
    "events",
    "write_settings",
]

_LATER = {
    "engine.interceptors": ("GatherInterceptor", "Interceptor"),
    "findings": ("Finding",),
    "flows.catalogue": ("ChannelStats", "CheckpointInfo", "StoreStats", "StoredValue", "ThreadInfo"),
    "flows.collect": ("CollectPlan",),
    "flows.copy": ("CopyPlan",),
    "flows.migrate": ("Migration",),
    "flows.rebind": ("RebindPlan",),
    "flows.setup": ("SetupReport",),
    "flows.sweep": ("IdleThread",),
    "flows.threads": ("DeletePlan",),
    "flows.transfer": ("Transfer",),
    "repairs": ("RepairPlan", "RepairStep"),
    "policy.retention": ("KeepEvery", "KeepFor", "KeepLast", "PrunePlan"),
    "saver.checkpointer": ("GCSSaver",),
    "provisioning": ("write_settings",),
}
"""What is imported when it is first asked for.

Most processes only save and load, and start in half the time. The command line needs LangGraph for few commands.
"""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - it searches the disk

        return version("langgraph-gcs-saver")
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
