"""`RunToolsOnce`: each tool call is an operation, for `ToolNode` and as middleware of `create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_gcs_saver.engine.effects import Ask
from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.flows.once import Order, Performed
from langgraph_gcs_saver.saver.connection import Connection
from langgraph_gcs_saver.saver.operations import (
    Calls,
    Chosen,
    FunctionWork,
    Rules,
    calls_at,
    check_options,
    raise_,
    same,
)
from langgraph_gcs_saver.saver.place_in_run import place_of
from langgraph_gcs_saver.saver.watched_tools import WatchedTool, answer_of, raising

if TYPE_CHECKING:
    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.tools import BaseTool
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from langgraph_gcs_saver.flows.operations import Call
    from langgraph_gcs_saver.format.manifest import Serialized
    from langgraph_gcs_saver.format.operations import Operation
    from langgraph_gcs_saver.saver.checkpointer import GCSSaver
    from langgraph_gcs_saver.saver.outcomes import Errors

    _Base = AgentMiddleware[Any, Any, Any]
else:
    try:
        from langchain.agents.middleware import AgentMiddleware as _Base
    except ImportError:  # a ToolNode does not need it
        _Base = object

Handler = Callable[["ToolCallRequest"], Any]
AsyncHandler = Callable[["ToolCallRequest"], Awaitable[Any]]
F = TypeVar("F", bound=Callable[..., Any])
KeyOf = Callable[[dict[str, Any], Any], str]
"""Makes the key of a tool call from its arguments and the state."""


class RunToolsOnce(_Base):
    """Runs each tool call once: if it is repeated after a crash, the model gets the recorded answer.

    Pass one object as middleware, after all others, so that it is next to the tools:

    ```python
    agent = create_agent(model, tools, middleware=[RunToolsOnce()], checkpointer=saver)
    ```

    Or pass its two methods to a `ToolNode`:

    ```python
    once = RunToolsOnce()
    ToolNode(tools, wrap_tool_call=once.wrap_tool_call, awrap_tool_call=once.awrap_tool_call)
    ```

    A call is identified by its `tool_call_id`. A model that orders the same payment twice gives two ids. So give
    payments a key of your business by `keys`. A call without such a key waits until the checkpoint that ordered it is
    durable. With `durability="exit"` that is never the case, and the call raises `NotDurableError`.

    If a tool raises, its outcome is unknown, unless `not_sent` or `errors` say what the exception means. The first
    call ends as it would without this object. A repeat raises `OutcomeUnknownError`, which ends the run.

    Args:
        only: Names of the tools that are run once; all if not given.
        read_only: Names of tools that have no side effect, and are run as usual.
        keys: For a tool, a function of its arguments and the state that returns the key.
        reconcile: For a tool, a function of the key that returns the tool's answer, `NOT_DONE` or `UNKNOWN`.
        not_sent: Exceptions that prove that nothing left the process.
        errors: Exceptions that are an answer. A repeat raises them in the tool again.
        ask: Whether an unknown outcome interrupts the graph. Resume it with `Command(resume={"done": answer})` or
            `Command(resume={"not_done": True})`.
        keep: For how long outcomes are kept; 30 days if not given.
        timeout: Seconds after which a claim without a lease counts as crashed; 60 if not given.
        saver: The saver, if the graph's checkpointer is not a `GCSSaver`. Then each tool needs an entry in `keys`.

    Raises:
        InvalidOptionError: An option is of the wrong type.
    """

    def __init__(
        self,
        *,
        only: Collection[str] | None = None,
        read_only: Collection[str] = (),
        keys: Mapping[str, KeyOf] | None = None,
        reconcile: Mapping[str, Callable[[str], Any]] | None = None,
        not_sent: Errors = (),
        errors: Errors = (),
        ask: bool = False,
        keep: timedelta | None = None,
        timeout: float | None = None,
        saver: GCSSaver | None = None,
    ) -> None:
        super().__init__()
        self._only = None if only is None else _names("only", only)
        self._read_only = _names("read_only", read_only)
        self._keys = _by_tool("keys", keys or {})
        self._reconcile = _by_tool("reconcile", reconcile or {})
        self._rules = Rules(not_sent, errors, None, ask)
        self._chosen: Chosen = ("thread", "at_most_once", keep, timeout)
        check_options(self._chosen)
        if saver is not None and not isinstance(saver, Connection):
            raise InvalidOptionError(f"saver is of type {type(saver).__name__}; it must be a GCSSaver.")
        self._saver = saver

    def wrap_tool_call(self, request: ToolCallRequest, handler: Handler) -> Any:
        """Answer a tool call: the parameter of that name of a `ToolNode`."""
        tool = self._tool_of(request)
        if tool is None:
            return handler(request)
        with self._call(request, tool) as (found, call, order):
            return found.perform(call, self._work(found, call, (tool, request, handler)), order)

    async def awrap_tool_call(self, request: ToolCallRequest, handler: AsyncHandler) -> Any:
        """Answer a tool call in a coroutine: the parameter of that name of a `ToolNode`."""
        tool = self._tool_of(request)
        if tool is None:
            return await handler(request)
        with self._call(request, tool) as (found, call, order):
            return await found.aperform(call, self._work(found, call, (tool, request, handler)), order)

    def _tool_of(self, request: ToolCallRequest) -> BaseTool | None:
        """The tool to run once; `None` if the call is not an operation."""
        tool = request.tool
        if tool is None or tool.name in self._read_only or (self._only is not None and tool.name not in self._only):
            return None
        return tool

    @contextmanager
    def _call(self, request: ToolCallRequest, tool: BaseTool) -> Iterator[tuple[Calls, Call, Order | None]]:
        args, key = request.tool_call["args"], None
        key_of = self._keys.get(tool.name)
        if key_of is not None:
            key = key_of(args, request.state)
            if not isinstance(key, str) or not key:
                raise InvalidInputError(
                    f"The function in `keys` for tool {tool.name!r} returned a {type(key).__name__}. It must return a "
                    "str that is not empty."
                )
        found = calls_at(place_of(request.runtime.config), self._saver)
        with found.call(tool.name, args, key, self._chosen, request.tool_call["id"]) as (call, order):
            yield found, call, order

    def _work(self, found: Calls, call: Call, bound: tuple[BaseTool, ToolCallRequest, Handler]) -> ToolWork:
        rules = replace(self._rules, reconcile=self._reconcile.get(bound[0].name))
        return ToolWork(found.serde, call, rules, bound)


def _names(option: str, names: Collection[str]) -> frozenset[str]:
    if not isinstance(names, Collection) or isinstance(names, str) or not all(isinstance(one, str) for one in names):
        raise InvalidOptionError(f"{option} must be a collection of names of tools.")
    return frozenset(names)


def _by_tool(option: str, functions: Mapping[str, F]) -> dict[str, F]:
    if not isinstance(functions, Mapping) or not all(
        isinstance(name, str) and callable(one) for name, one in functions.items()
    ):
        raise InvalidOptionError(f"{option} must map names of tools to functions.")
    return dict(functions)


class ToolWork(FunctionWork):
    """A tool call as an operation."""

    def __init__(
        self,
        serde: SerializerProtocol,
        call: Call,
        rules: Rules,
        bound: tuple[BaseTool, ToolCallRequest, Callable[[ToolCallRequest], Any]],
    ) -> None:
        self._tool, self._request, self._handler = bound
        self._watched = WatchedTool(self._tool, call, rules)
        super().__init__(serde, call, rules, self._run)

    def _run(self) -> Any:
        return self._handler(self._request.override(tool=self._watched.tool))

    def _returned(self, result: Any) -> Performed:
        watched, end = self._watched, partial(same, result)
        if watched.error is not None:  # a handler has made a message of it
            return self.ended_by(watched.error, end)
        if watched.knows and not watched.has_run and getattr(result, "status", None) == "error":
            return Performed("not_sent", None, end)  # the arguments were rejected
        return super()._returned(result)

    def _raised(self, error: BaseException) -> Performed:
        watched, end = self._watched, partial(raise_, error)
        if watched.error is not None:
            return self.ended_by(watched.error, end)
        if watched.knows or watched.has_run:
            # Raised around the tool: before it ran, for example by a check of its arguments, or after it.
            return Performed("unknown" if watched.has_run else "not_sent", None, end)
        return super()._raised(error)

    def repeat(self, seen: Operation, value: Serialized | None) -> Ask[Any]:
        """Answer with the recorded result, or let the tool raise the recorded exception."""
        if seen.state != "failed":
            return super().repeat(seen, value)
        failing = raising(self._tool, self._recorded_error(seen, value))
        again = partial(self._handler, self._request.override(tool=failing))
        return Ask(again, again)

    def _recorded_result(self, seen: Operation, value: Serialized | None) -> Any:
        found = super()._recorded_result(seen, value)
        return answer_of(found, self._tool.name, self._request.tool_call["id"])
