"""Private names of LangGraph, each behind a function that also works with a LangGraph that has not got it.

No other module uses one. `tests/compat/test_langgraph_private.py` tries them on the installed LangGraph.
"""

from __future__ import annotations

from typing import Any, Protocol

_RUNTIME = "__pregel_runtime"


class Control(Protocol):
    """The part of LangGraph's `RunControl` that is used here."""

    def request_drain(self, reason: str) -> None:
        """Ask the run to end at its next boundary between two steps, with `GraphDrained`."""


def control_of(config: Any) -> Control | None:
    """The control of the run to which a config belongs, the same object in all its subgraphs.

    `None` outside a run, as in `update_state` and `get_state`, and with a LangGraph that does not pass it. Such a run
    ends at its next put, which raises. A caller can also pass a `RunControl` of its own (`invoke(…, control=…)`).
    """
    try:
        control = config["configurable"][_RUNTIME].control
    except (AttributeError, KeyError, TypeError):
        return None
    return control if callable(getattr(control, "request_drain", None)) else None
