"""A LangGraph checkpointer on Google Cloud: Firestore for metadata, Cloud Storage for state."""

from importlib.metadata import version

from langgraph_gcs_saver import errors, events
from langgraph_gcs_saver.flows.setup import SetupReport
from langgraph_gcs_saver.saver import GCSSaver

__version__ = version("langgraph-gcs-saver")

__all__ = ["GCSSaver", "SetupReport", "__version__", "errors", "events"]
