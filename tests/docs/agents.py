"""An agent of LangChain's `create_agent`: a model that streams, a tool that a person approves, and middleware.

The model is a fake. It calls the tool `publish` if the last message of the user begins with `Publish:`, and otherwise
says how many messages there are.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState, HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from typing_extensions import NotRequired

APPROVE = {"decisions": [{"type": "approve"}]}
REJECT = {"decisions": [{"type": "reject", "message": "Not today."}]}


class Model(BaseChatModel):
    """Gives its text word by word, as a model that streams does."""

    @property
    def _llm_type(self) -> Literal["fake"]:
        return "fake"

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *arguments: Any, **options: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=say(messages))])

    def _stream(self, messages: list[BaseMessage], *arguments: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        said = say(messages)
        for word in re.findall(" ?[^ ]+", said.text):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        if said.tool_calls:
            call = said.tool_calls[0]
            chunk = {"name": call["name"], "args": '{"text": "it"}', "id": call["id"], "index": 0}
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[chunk]))

    async def _astream(
        self, messages: list[BaseMessage], *arguments: Any, **options: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk


def say(messages: list[BaseMessage]) -> AIMessage:
    last = messages[-1]
    if isinstance(last, HumanMessage) and last.text.startswith("Publish:"):
        return AIMessage("", tool_calls=[ToolCall(name="publish", args={"text": "it"}, id=f"call-{len(messages)}")])
    if isinstance(last, ToolMessage):
        return AIMessage(f"The tool said: {last.text}")
    return AIMessage(f"There are {len(messages)} messages.")


@tool
def publish(text: str) -> str:
    """Publish a text."""
    return f"published {text}"


class Silent(AgentMiddleware):
    """Middleware whose hooks return nothing, as those do that only look."""

    def before_agent(self, state: Any, runtime: Any) -> None:
        return None

    def before_model(self, state: Any, runtime: Any) -> None:
        return None

    def after_model(self, state: Any, runtime: Any) -> None:
        return None

    def after_agent(self, state: Any, runtime: Any) -> None:
        return None


class CountingState(AgentState[Any]):
    asked: NotRequired[int]


class Counting(AgentMiddleware):
    """Middleware that changes a value of the state which is no message."""

    state_schema = CountingState

    def before_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"asked": state.get("asked", 0) + 1}


def make(saver: Any = None) -> Any:
    """The agent."""
    middleware = [Silent(), Counting(), HumanInTheLoopMiddleware(interrupt_on={"publish": True})]
    return create_agent(Model(), [publish], middleware=middleware, checkpointer=saver)
