"""Private names of LangGraph in a run's config, each behind a function that also works where they are absent.

No other module reads them. `tests/compat/test_langgraph_private.py` tries them on the installed LangGraph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph.runtime import ExecutionInfo

    from langgraph_gcs_saver.cadence.stopping import Drainable

_RUNTIME = "__pregel_runtime"
_CHECKPOINTER = "__pregel_checkpointer"
_DURABILITY = "__pregel_durability"
_CALL = "__pregel_call"
_CHECKPOINTS = "checkpoint_map"
_RESUMING = "__pregel_resuming"

NOT_RESUMING = {_RESUMING: False}
"""What a `configurable` needs so that a call without an input continues as if the call before it had not ended.

Without it, or with a LangGraph that does not know it, the call resumes. It then also streams the state once more,
passes the breakpoints of the next step, and lets subgraphs resume.
"""


def control_of(config: Any) -> Drainable | None:
    """The control of the run to which a config belongs, the same object in all its subgraphs.

    `None` outside a run, as in `update_state` and `get_state`, and with a LangGraph that does not pass it. Such a run
    ends at its next put, which raises. A caller can also pass a `RunControl` of its own (`invoke(…, control=…)`).
    """
    control = getattr(_part(config, _RUNTIME), "control", None)
    return control if callable(getattr(control, "request_drain", None)) else None


def execution_of(config: Any) -> ExecutionInfo | None:
    """What LangGraph says about the task that runs with a config; `None` outside of a task."""
    return getattr(_part(config, _RUNTIME), "execution_info", None)


def checkpointer_of(config: Any) -> object:
    """The checkpointer of the graph to which a task's config belongs; `None` if LangGraph does not say."""
    return _part(config, _CHECKPOINTER)


def checkpoints_of(config: Any) -> Mapping[str, str]:
    """By namespace, the ids of the checkpoints of the graphs around a task, as far as LangGraph says."""
    found = _part(config, _CHECKPOINTS)
    return found if isinstance(found, Mapping) else {}


def resumes_within(config: Any) -> Mapping[str, str] | None:
    """By namespace, the checkpoints of the graphs around a subgraph that is to resume, as it reads its newest one.

    `None` for any other reader, and with a LangGraph that does not say it.
    """
    if not _part(config, _RESUMING) or not _part(config, "checkpoint_ns") or _part(config, "checkpoint_id"):
        return None
    return checkpoints_of(config) or None


def stop_resuming(config: Any) -> None:
    """Let a subgraph take its input, and not resume. LangGraph looks at its config after the read."""
    config["configurable"].update(NOT_RESUMING)


def stores_at_end(config: Any) -> bool:
    """Whether the run to which a config belongs stores nothing before it ends, as far as LangGraph says."""
    return bool(_part(config, _DURABILITY) == "exit")


def why_never_durable(config: Any) -> str | None:
    """Why the checkpoint that ordered a task will not be stored while the task runs; `None` if that is not known."""
    if stores_at_end(config):
        return 'the run has durability="exit", which stores nothing before the run ends'
    schedule = getattr(_part(config, _CALL), "keywords", {}).get("schedule_task")
    loop = getattr(schedule, "__self__", None)
    if loop is not None and getattr(loop, "checkpointer", loop) is None:
        return "the graph that runs the task was compiled with checkpointer=False"
    return None


def _part(config: Any, name: str) -> Any:
    try:
        return config["configurable"].get(name)
    except (AttributeError, KeyError, TypeError):
        return None


def default_recursion_limit() -> int | None:
    """The recursion limit of a run whose config has none; `None` if LangGraph does not say it."""
    try:
        from langgraph._internal._config import DEFAULT_RECURSION_LIMIT  # noqa: PLC0415 - readers need no LangGraph
    except ImportError:
        return None
    return int(DEFAULT_RECURSION_LIMIT)
