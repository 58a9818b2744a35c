"""References from a state to what is stored elsewhere: an object, a page, anything that a checker knows.

A state should not hold a large file that another system has already. It holds a reference: a dictionary with the file's
URI and the facts that identify its content, such as a checksum. A dictionary survives every serializer. Before a run
resumes, `Thread.check` compares the facts with what is there now.
"""

from __future__ import annotations

from langgraph_gcs_saver.references.checkers import Checker, Facts, Look, register
from langgraph_gcs_saver.references.derived import (
    InMemoryVectors,
    VectorSearch,
    arecomputed,
    look_in,
    recomputed,
)
from langgraph_gcs_saver.references.refs import Place, Ref, find

__all__ = [
    "Checker",
    "Facts",
    "InMemoryVectors",
    "Look",
    "Place",
    "Ref",
    "VectorSearch",
    "arecomputed",
    "find",
    "look_in",
    "recomputed",
    "register",
]
