"""Where code runs inside of LangGraph: in which task, ordered by which checkpoints, under which lease.

`langgraph_private` reads most of it, and each part may be absent. Without the checkpointer, `saver=` names the saver.
Without the durability, a wait for the checkpoint decides.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langgraph_gcs_saver.errors import InvalidConfigError
from langgraph_gcs_saver.records import record
from langgraph_gcs_saver.saver import configs, langgraph_private
from langgraph_gcs_saver.saver.lease import KEY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.runnables import RunnableConfig

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
    info = langgraph_private.execution_of(config)
    if info is None:
        raise InvalidConfigError(
            "The config is not one of a running node, task or tool, so an operation cannot derive its key from it. Use "
            "saver.thread(id).operations with a `key`."
        )
    return PlaceInRun(
        thread_id=configs.text_of(found, "thread_id"),
        task_ns=info.checkpoint_ns,
        execution=(info.checkpoint_ns, info.task_id, info.node_attempt, info.node_first_attempt_time),
        checkpoints=_checkpoints(langgraph_private.checkpoints_of(config), info.checkpoint_ns, info.checkpoint_id),
        lease=found.get(KEY),
        checkpointer=langgraph_private.checkpointer_of(config),
        why_never_durable=langgraph_private.why_never_durable(config),
    )


def _checkpoints(known: Mapping[str, str], task_ns: str, checkpoint_id: str) -> tuple[tuple[str, str], ...]:
    """The checkpoints of the graphs around the task's graph, and last its own."""
    # LangGraph notes a node's own namespace too, with the checkpoint of its graph, while the node calls tasks. Ids are
    # unique, so the shortest namespace with an id is the graph's.
    by_id: dict[str, str] = {}
    for ns, id_ in sorted(known.items(), key=lambda item: len(item[0])):
        by_id.setdefault(id_, ns)
    own = by_id.pop(checkpoint_id, task_ns.rpartition("|")[0])
    return (*((ns, id_) for id_, ns in by_id.items()), (own, checkpoint_id))
