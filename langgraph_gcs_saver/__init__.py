"""A LangGraph checkpointer on Google Cloud: Firestore for metadata, Cloud Storage for state."""

from importlib.metadata import version

from langgraph_gcs_saver import errors, events
from langgraph_gcs_saver.findings import Finding
from langgraph_gcs_saver.flows.setup import SetupReport
from langgraph_gcs_saver.repairs import RepairPlan, RepairStep
from langgraph_gcs_saver.saver import GCSSaver

__version__ = version("langgraph-gcs-saver")

__all__ = ["Finding", "GCSSaver", "RepairPlan", "RepairStep", "SetupReport", "__version__", "errors", "events"]
