"""Where code runs inside of LangGraph: in which task, ordered by which checkpoints, under which lease.

This reads the private keys of a config that operations need: `__pregel_checkpointer`, `__pregel_durability`, and
through `__pregel_call` whether a subgraph was compiled with `checkpointer=False`. Each may be absent. Then `saver=`
names the saver, and a wait for the checkpoint decides in place of the other two.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.errors import InvalidConfigError
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver import configs

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.runtime import ExecutionInfo

CHECKPOINTER = "__pregel_checkpointer"
DURABILITY = "__pregel_durability"
CALL = "__pregel_call"
RUNTIME = "__pregel_runtime"
LEASE = "__lg_lease"

TOOL_CALL: ContextVar[str | None] = ContextVar("langgraph_gcs_saver_tool_call", default=None)
"""The key of the tool call that this context works for. Operations inside of the tool derive their keys from it."""


@record(frozen=True, slots=True)
class PlaceInRun:
    """A node, task or tool that is running.

    Attributes:
        thread_id: The thread.
        task_ns: The namespace of the task, whose last part is the task's own. It is the same when a crashed task runs
            again, if all `checkpoints` are durable.
        execution: Differs between two executions of one task, even in one process.
        checkpoints: Namespace and id of the checkpoint that ordered the task, and of those that ordered the subgraphs
            around it; outermost first.
        lease: The lease in the config, if it has one: its thread, its token, and its nonce.
        checkpointer: The graph's checkpointer; `None` if LangGraph does not say.
        why_never_durable: Why one of the checkpoints will not be stored while the task runs, if that is known.
    """

    thread_id: str
    task_ns: str
    execution: tuple[object, ...]
    checkpoints: tuple[tuple[str, str], ...]
    lease: Any
    checkpointer: object
    why_never_durable: str | None


def current_config() -> RunnableConfig:
    """The config of the code that runs.

    Raises:
        InvalidConfigError: There is none in this context.
    """
    from langgraph.config import get_config  # noqa: PLC0415 - a thread's handle works without LangGraph

    try:
        return get_config()
    except RuntimeError:
        raise InvalidConfigError(
            "operations() was called outside of a node, task or tool of a running graph, or in a coroutine before "
            "Python 3.11. Pass the `config` that the node gets, or use saver.thread(id).operations with a `key`."
        ) from None


def place_of(config: RunnableConfig) -> PlaceInRun:
    """Read a config that LangGraph gave to a node, task or tool.

    Raises:
        InvalidConfigError: The config names no thread, or is not one of a running task.
    """
    found = configs.configurable(config)
    info: ExecutionInfo | None = getattr(found.get(RUNTIME), "execution_info", None)
    if info is None:
        raise InvalidConfigError(
            "The config is not one of a running node, task or tool, so an operation cannot derive its key from it. Use "
            "saver.thread(id).operations with a `key`."
        )
    return PlaceInRun(
        thread_id=configs.text_of(found, "thread_id"),
        task_ns=info.checkpoint_ns,
        execution=(info.checkpoint_ns, info.task_id, info.node_attempt, info.node_first_attempt_time),
        checkpoints=_checkpoints(found, info.checkpoint_ns, info.checkpoint_id),
        lease=found.get(LEASE),
        checkpointer=found.get(CHECKPOINTER),
        why_never_durable=_why_never_durable(found),
    )


def _checkpoints(found: Mapping[str, Any], task_ns: str, checkpoint_id: str) -> tuple[tuple[str, str], ...]:
    """The checkpoints of the graphs around the task's graph, and last its own."""
    # LangGraph notes a node's own namespace too, with the checkpoint of its graph, while the node calls tasks. Ids are
    # unique, so the shortest namespace with an id is the graph's.
    by_id: dict[str, str] = {}
    known = found.get("checkpoint_map")
    for ns, id_ in sorted(known.items() if isinstance(known, Mapping) else (), key=lambda item: len(item[0])):
        by_id.setdefault(id_, ns)
    own = by_id.pop(checkpoint_id, task_ns.rpartition("|")[0])
    return (*((ns, id_) for id_, ns in by_id.items()), (own, checkpoint_id))


def _why_never_durable(found: Mapping[str, Any]) -> str | None:
    if found.get(DURABILITY) == "exit":
        return 'the run has durability="exit", which stores nothing before the run ends'
    schedule = getattr(found.get(CALL), "keywords", {}).get("schedule_task")
    loop = getattr(schedule, "__self__", None)
    if loop is not None and getattr(loop, "checkpointer", loop) is None:
        return "the graph that runs the task was compiled with checkpointer=False"
    return None
