"""Tools as `RunToolsOnce` runs them: it sees whether the tool ran, and what it raised.

A tool's own `handle_tool_error`, `handle_tool_errors` of the `ToolNode`, and wrappers between may turn an exception
into a message, and arguments may be rejected before the tool runs. So the functions that a tool consists of are
watched, in a copy of the tool.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool
from langgraph.types import Command

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.saver.place_in_run import TOOL_CALL

if TYPE_CHECKING:
    from langgraph_gcs_saver.flows.operations import Call
    from langgraph_gcs_saver.saver.operations import Rules


class WatchedTool:
    """A copy of a tool that notes how it runs. It runs once, and again only if nothing had left the process.

    Attributes:
        tool: The copy.
        has_run: Whether the tool itself was called, so that its arguments were accepted.
        error: What the last call raised.
        knows: Whether every call of the tool is seen. A class that overrides more than the tool's functions can call
            them in other ways.
    """

    def __init__(self, tool: BaseTool, call: Call, rules: Rules) -> None:
        self.tool = copy.copy(tool)
        self.has_run = False
        self.error: BaseException | None = None
        self.knows = _is_called_as_usual(type(tool))
        self._call = call
        self._rules = rules
        run, arun = _functions_of(tool)
        vars(self.tool).update(_run=self._watch(run), _arun=self._awatch(arun))

    def _watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._one_call():
                return function(*args, **kwargs)

        return run

    def _awatch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def run(*args: Any, **kwargs: Any) -> Any:
            with self._one_call():
                return await function(*args, **kwargs)

        return run

    @contextmanager
    def _one_call(self) -> Iterator[None]:
        if self.has_run and not isinstance(self.error, self._rules.not_sent):
            if isinstance(self.error, self._rules.errors):
                raise self.error  # its answer
            raise errors.OutcomeUnknownError(
                f"Tool {self.tool.name!r} was about to run twice for one call ({self._call.key!r}), and the first run "
                "may have had an effect. Put RunToolsOnce last in the list of middleware, inside of what retries, or "
                "name the exceptions that prove that nothing was sent in `not_sent`.",
                thread_id=self._call.thread_id,
                key=self._call.key,
            )
        self.has_run, self.error = True, None
        before = TOOL_CALL.set(self._call.key)
        try:
            yield
        except BaseException as error:
            self.error = error
            raise
        finally:
            TOOL_CALL.reset(before)


def raising(tool: BaseTool, error: BaseException) -> BaseTool:
    """A copy of a tool that raises an exception in place of running."""
    made = copy.copy(tool)

    def run(*_: Any, **__: Any) -> Any:
        raise error

    async def arun(*_: Any, **__: Any) -> Any:
        raise error

    own_run, own_arun = _functions_of(tool)
    vars(made).update(_run=functools.wraps(own_run)(run), _arun=functools.wraps(own_arun)(arun))
    return made


def _functions_of(tool: BaseTool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What a class of tools defines: LangChain's `run` checks the arguments and calls these."""
    return tool._run, tool._arun  # noqa: SLF001 - they are made to be overridden


def _is_called_as_usual(kind: type[BaseTool]) -> bool:
    names = ("run", "arun", "invoke", "ainvoke")
    return all(getattr(kind, name).__module__.startswith("langchain_core.") for name in names)


def answer_of(stored: Any, name: str, call_id: str | None) -> Any:
    """An operation's result as the answer to a tool call, which may have another id than the call that ran the tool.

    A result that a person or `reconcile` gave becomes the content of a message.
    """
    if isinstance(stored, ToolMessage):
        return stored if stored.tool_call_id == call_id else stored.model_copy(update={"tool_call_id": call_id})
    if isinstance(stored, Command):
        return _for_call(stored, call_id)
    if isinstance(stored, list) and stored and all(isinstance(one, (ToolMessage, Command)) for one in stored):
        return [answer_of(one, name, call_id) for one in stored]
    from langgraph.prebuilt.tool_node import msg_content_output  # noqa: PLC0415 - few tools need it

    content: Any = msg_content_output(stored)
    return ToolMessage(content=content, name=name, tool_call_id=call_id)


def _for_call(command: Command[Any], call_id: str | None) -> Command[Any]:
    """A command whose messages answer this call, unless one of them does so already."""
    if any(one.tool_call_id == call_id for one in _messages(command.update)):
        return command
    made = copy.copy(command)
    object.__setattr__(made, "update", _answering(command.update, call_id))
    return made


def _messages(update: Any) -> list[ToolMessage]:
    if isinstance(update, ToolMessage):
        return [update]
    items: Sequence[Any] = list(update.values()) if isinstance(update, dict) else []
    if isinstance(update, (list, tuple)):
        items = update
    return [message for one in items for message in _messages(one)]


def _answering(update: Any, call_id: str | None) -> Any:
    if isinstance(update, ToolMessage):
        return update.model_copy(update={"tool_call_id": call_id})
    if isinstance(update, dict):
        return {key: _answering(one, call_id) for key, one in update.items()}
    if isinstance(update, (list, tuple)):
        return type(update)(_answering(one, call_id) for one in update)
    return update
