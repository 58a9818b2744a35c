"""A LangGraph checkpointer on Google Cloud: Firestore for metadata, Cloud Storage for state."""

from importlib.metadata import version

from langgraph_gcs_saver import errors, events
from langgraph_gcs_saver.findings import Finding
from langgraph_gcs_saver.flows.catalogue import ChannelStats, CheckpointInfo, StoredValue, StoreStats, ThreadInfo
from langgraph_gcs_saver.flows.collect import CollectPlan
from langgraph_gcs_saver.flows.copy import CopyPlan
from langgraph_gcs_saver.flows.setup import SetupReport
from langgraph_gcs_saver.flows.sweep import IdleThread
from langgraph_gcs_saver.flows.threads import DeletePlan
from langgraph_gcs_saver.flows.transfer import Transfer
from langgraph_gcs_saver.repairs import RepairPlan, RepairStep
from langgraph_gcs_saver.retention import KeepEvery, KeepFor, KeepLast, PrunePlan
from langgraph_gcs_saver.saver import GCSSaver
from langgraph_gcs_saver.settings import write_settings

__version__ = version("langgraph-gcs-saver")

__all__ = [
    "ChannelStats",
    "CheckpointInfo",
    "CollectPlan",
    "CopyPlan",
    "DeletePlan",
    "Finding",
    "GCSSaver",
    "IdleThread",
    "KeepEvery",
    "KeepFor",
    "KeepLast",
    "PrunePlan",
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
