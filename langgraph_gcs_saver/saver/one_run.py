"""One run for callbacks and traces, although the graph is called once for each segment.

LangChain reports a run to the handlers of a manager, and the runs below it to its inheritable handlers. So each
segment gets one handler of this module, which passes on the start of the first segment and the end of the last one.
The user's handlers are inheritable. All segments have the same id, which is the parent of the nodes' runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    merge_configs,
    var_child_runnable_config,
)
from langchain_core.tracers.langchain import LangChainTracer
from langchain_core.utils.uuid import uuid7
from langgraph.callbacks import GraphCallbackHandler
from langgraph.errors import GraphDrained

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


class OneRun:
    """The run that all segments of one call are for callbacks.

    Args:
        goes_on: Whether another segment follows the one that was drained.

    Attributes:
        is_whole: Whether seams are hidden. They are not within another Runnable whose callbacks the call inherits.
    """

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self.is_whole = False
        self._goes_on = goes_on
        self._has_begun = False

    def begins(self) -> bool:
        """Whether the segment that begins is the first one."""
        before, self._has_begun = self._has_begun, True
        return not before

    def is_seam(self, error: BaseException) -> bool:
        """Whether an error ends a segment, and not the run."""
        return isinstance(error, GraphDrained) and self._goes_on()

    def config(self, config: RunnableConfig, of_graph: RunnableConfig | None, *, is_async: bool) -> RunnableConfig:
        """The config of all segments.

        Args:
            config: The caller's config.
            of_graph: What is bound to the graph.
            is_async: Whether the graph's coroutines are called.
        """
        if (var_child_runnable_config.get() or {}).get("callbacks"):
            return config
        self.is_whole = True
        # As LangGraph does it: with the tracers of the environment.
        both = merge_configs(of_graph, config)
        found = get_async_callback_manager_for_config(both) if is_async else get_callback_manager_for_config(both)
        handlers: list[BaseCallbackHandler] = [_root(self, found.handlers, is_async=is_async)]
        of_graphs = [handler for handler in found.handlers if isinstance(handler, GraphCallbackHandler)]
        if of_graphs:
            handlers.append((_AsyncLifecycle if is_async else _Lifecycle)(of_graphs))
        manager = (AsyncCallbackManager if is_async else CallbackManager)(
            handlers, found.inheritable_handlers, found.parent_run_id
        )
        return {**config, "callbacks": manager, "run_id": config.get("run_id") or uuid7()}


class _Root(BaseCallbackHandler):
    """Passes on what happens to the root run of each segment, as if the segments were one run."""

    run_inline = True
    raise_error = True  # Whether an error of a handler is raised is that handler's matter.
    one: OneRun
    handlers: list[BaseCallbackHandler]

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        if self.one.begins():
            handle_event(self.handlers, "on_chain_start", "ignore_chain", serialized, inputs, **kwargs)

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        handle_event(self.handlers, "on_chain_end", "ignore_chain", outputs, **kwargs)

    def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:
        if not self.one.is_seam(error):
            handle_event(self.handlers, "on_chain_error", "ignore_chain", error, **kwargs)

    def copy_with_metadata_defaults(self, **_: Any) -> _Root:
        """LangChain calls this of tracers."""
        return self


class _AsyncRoot(_Root):
    """The same for coroutines."""

    async def on_chain_start(  # type: ignore[override]  # LangChain awaits it
        self, serialized: Any, inputs: Any, **kwargs: Any
    ) -> None:
        if self.one.begins():
            await ahandle_event(self.handlers, "on_chain_start", "ignore_chain", serialized, inputs, **kwargs)

    async def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:  # type: ignore[override]  # as above
        await ahandle_event(self.handlers, "on_chain_end", "ignore_chain", outputs, **kwargs)

    async def on_chain_error(self, error: BaseException, **kwargs: Any) -> None:  # type: ignore[override]  # as above
        if not self.one.is_seam(error):
            await ahandle_event(self.handlers, "on_chain_error", "ignore_chain", error, **kwargs)


def _root(one: OneRun, handlers: list[BaseCallbackHandler], *, is_async: bool) -> _Root:
    kind: type[_Root] = _AsyncRoot if is_async else _Root
    tracer = next((one for one in handlers if isinstance(one, LangChainTracer)), None)
    if tracer is not None:
        # Without a tracer among a run's own handlers, LangChain would add another one.
        kind = _tracing(type(tracer), is_async=is_async)
    found = object.__new__(kind)
    found.__dict__.update({} if tracer is None else vars(tracer))
    found.one, found.handlers = one, handlers
    return found


@cache
def _tracing(tracer: Any, *, is_async: bool) -> type[_Root]:
    """The class of a handler that counts as a tracer. It is made once, because classes are collected late."""
    return type("_TracingRoot", (_AsyncRoot if is_async else _Root, tracer), {})


class _Lifecycle(GraphCallbackHandler):
    """Passes on that the root graph waits or resumes."""

    run_inline = True
    raise_error = True

    def __init__(self, handlers: list[Any]) -> None:
        self.handlers: list[BaseCallbackHandler] = handlers

    def on_interrupt(self, event: Any) -> Any:
        handle_event(self.handlers, "on_interrupt", None, event)

    def on_resume(self, event: Any) -> Any:
        handle_event(self.handlers, "on_resume", None, event)


class _AsyncLifecycle(_Lifecycle):
    """The same for coroutines."""

    async def on_interrupt(self, event: Any) -> None:
        await ahandle_event(self.handlers, "on_interrupt", None, event)

    async def on_resume(self, event: Any) -> None:
        await ahandle_event(self.handlers, "on_resume", None, event)
