"""A LangGraph checkpointer on Google Cloud: Firestore for metadata, Cloud Storage for state."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver import errors, events

if TYPE_CHECKING:
    from langgraph_gcs_saver import analytics, cadence, monitoring, probes, references, telemetry
    from langgraph_gcs_saver.engine.interceptors import GatherInterceptor, Interceptor
    from langgraph_gcs_saver.policy.retention import KeepEvery, KeepFor, KeepLast
    from langgraph_gcs_saver.provisioning import write_settings
    from langgraph_gcs_saver.references.derived import VectorSearch, arecomputed, recomputed
    from langgraph_gcs_saver.references.refs import Ref
    from langgraph_gcs_saver.results import (
        BatchInfo,
        BatchProgress,
        ChannelStats,
        CheckpointInfo,
        CollectPlan,
        CopyPlan,
        DeletePlan,
        Finding,
        ForkFound,
        GraphChanged,
        IdleThread,
        ItemFailure,
        LeaseInfo,
        Migration,
        OperationInfo,
        PrunePlan,
        Question,
        RebindPlan,
        Reconciled,
        Recovery,
        RecoveryRecord,
        RefFinding,
        RepairPlan,
        RepairStep,
        ReplicationStatus,
        RunPlan,
        SagaInfo,
        SagaStep,
        SetupReport,
        Shipped,
        StoredValue,
        StoreStats,
        ThreadInfo,
        ThreadStatus,
        Training,
        Transfer,
        Unshipped,
        Warmed,
    )
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.compensations import compensation
    from langgraph_gcs_saver.saver.node_cache import FirestoreCache
    from langgraph_gcs_saver.saver.operations import NOT_DONE, UNKNOWN, operations
    from langgraph_gcs_saver.saver.run import arun, astream, run, stream
    from langgraph_gcs_saver.saver.tools import RunToolsOnce

    __version__: str

__all__ = [
    "NOT_DONE",
    "UNKNOWN",
    "BatchInfo",
    "BatchProgress",
    "ChannelStats",
    "CheckpointInfo",
    "CollectPlan",
    "CopyPlan",
    "DeletePlan",
    "Finding",
    "FirestoreCache",
    "ForkFound",
    "GCSSaver",
    "GatherInterceptor",
    "GraphChanged",
    "IdleThread",
    "Interceptor",
    "ItemFailure",
    "KeepEvery",
    "KeepFor",
    "KeepLast",
    "LeaseInfo",
    "Migration",
    "OperationInfo",
    "PrunePlan",
    "Question",
    "RebindPlan",
    "Reconciled",
    "Recovery",
    "RecoveryRecord",
    "Ref",
    "RefFinding",
    "RepairPlan",
    "RepairStep",
    "ReplicationStatus",
    "RunPlan",
    "RunToolsOnce",
    "SagaInfo",
    "SagaStep",
    "SetupReport",
    "Shipped",
    "StoreStats",
    "StoredValue",
    "ThreadInfo",
    "ThreadStatus",
    "Training",
    "Transfer",
    "Unshipped",
    "VectorSearch",
    "Warmed",
    "__version__",
    "analytics",
    "arecomputed",
    "arun",
    "astream",
    "cadence",
    "compensation",
    "errors",
    "events",
    "monitoring",
    "operations",
    "probes",
    "recomputed",
    "references",
    "run",
    "stream",
    "telemetry",
    "write_settings",
]

_LATER = {
    "engine.interceptors": ("GatherInterceptor", "Interceptor"),
    "policy.retention": ("KeepEvery", "KeepFor", "KeepLast"),
    "provisioning": ("write_settings",),
    "results": (
        "BatchInfo",
        "BatchProgress",
        "ChannelStats",
        "CheckpointInfo",
        "CollectPlan",
        "CopyPlan",
        "DeletePlan",
        "Finding",
        "ForkFound",
        "GraphChanged",
        "IdleThread",
        "ItemFailure",
        "LeaseInfo",
        "Migration",
        "OperationInfo",
        "PrunePlan",
        "Question",
        "RebindPlan",
        "Reconciled",
        "Recovery",
        "RecoveryRecord",
        "RefFinding",
        "RepairPlan",
        "RepairStep",
        "ReplicationStatus",
        "RunPlan",
        "SagaInfo",
        "SagaStep",
        "SetupReport",
        "Shipped",
        "StoreStats",
        "StoredValue",
        "ThreadInfo",
        "ThreadStatus",
        "Training",
        "Transfer",
        "Unshipped",
        "Warmed",
    ),
    "references.derived": ("VectorSearch", "arecomputed", "recomputed"),
    "references.refs": ("Ref",),
    "saver.checkpointer": ("GCSSaver",),
    "saver.compensations": ("compensation",),
    "saver.node_cache": ("FirestoreCache",),
    "saver.operations": ("NOT_DONE", "UNKNOWN", "operations"),
    "saver.run": ("arun", "astream", "run", "stream"),
    "saver.tools": ("RunToolsOnce",),
}
"""Names that are imported on first use.

Most processes only save and load, and so start in half the time. The command line needs LangGraph for few commands.
"""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - it searches the disk

        return version("langgraph-gcs-saver")
    if name in ("analytics", "cadence", "monitoring", "probes", "references", "telemetry"):
        return import_module(f"{__name__}.{name}")
    for module, names in _LATER.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
