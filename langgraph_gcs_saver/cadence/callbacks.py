"""What LangChain's callbacks report: which nodes of the root graph finish, and what models use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.types import Command

from langgraph_gcs_saver.cadence.policies import Tokens

if TYPE_CHECKING:
    from langchain_core.outputs import LLMResult

    from langgraph_gcs_saver.cadence.meter import Meter

_TOO_MANY_REQUESTS = 429


class Watcher(BaseCallbackHandler):
    """Counts into a meter, for one call of a graph.

    Attributes:
        root: The run of the root graph, once it has begun.
    """

    run_inline = True  # Without it, each event of a coroutine would wait for another thread.

    def __init__(self, meter: Meter) -> None:
        self.root: UUID | None = None
        self._meter = meter
        self._nodes: dict[UUID, str] = {}

    @property
    def ignore_agent(self) -> bool:
        """Agents' events are not needed."""
        return True

    @property
    def ignore_retriever(self) -> bool:
        """Retrievers' events are not needed."""
        return True

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,  # noqa: ARG002 - LangChain's signature
        inputs: Any,  # noqa: ARG002 - as above
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """The graph or one of its nodes begins."""
        if self.root is None:
            self.root = run_id
        elif parent_run_id == self.root:
            self._nodes[run_id] = str(kwargs.get("name"))

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ARG002 - as above
        """A node has finished."""
        node = self._nodes.pop(run_id, None)
        if node is not None:
            self._meter.finish_node(node, keys_of(outputs))

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:  # noqa: ARG002 - as above
        """A node has failed, or waits for a person."""
        self._nodes.pop(run_id, None)

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        """Not needed."""

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Not needed. Without this method, LangChain would write all messages as text for `on_llm_start`."""

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:  # noqa: ARG002 - as above
        """A model has answered."""
        for generations in response.generations:
            message = getattr(generations[0], "message", None) if generations else None
            used = getattr(message, "usage_metadata", None)
            if used:
                model = str(getattr(message, "response_metadata", {}).get("model_name") or "")
                self._meter.use(model, Tokens(used["input_tokens"], used["output_tokens"]))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:  # noqa: ARG002 - as above
        """A model has not answered."""
        if _TOO_MANY_REQUESTS in (getattr(error, "status_code", None), getattr(error, "code", None)):
            self._meter.limit_rate()


def keys_of(outputs: Any) -> Iterator[str]:
    """The keys of the state that a node's result writes."""
    if isinstance(outputs, Mapping):
        yield from (key for key in outputs if isinstance(key, str))
    elif isinstance(outputs, Command):
        yield from keys_of(outputs.update)
    elif isinstance(outputs, (list, tuple)):
        for one in outputs:
            if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str):  # a pair of a command's update
                yield one[0]
            else:
                yield from keys_of(one)
