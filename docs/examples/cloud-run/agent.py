"""The agent that the service, the job and the worker run. The graph has a name, by which a worker finds its threads."""

from typing import Any

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import RetryPolicy, interrupt


class OverloadedError(Exception):
    """The model's provider has rejected a call for now: a status of 429 or 5xx."""


def draft_of(text: str) -> str:
    """Call your model here."""
    return f"That has {len(text.split())} words."


class State(MessagesState):
    draft: str


def draft(state: State) -> dict[str, Any]:
    return {"draft": draft_of(state["messages"][-1].content)}


def approve(state: State) -> dict[str, Any]:
    if interrupt({"question": "Publish it?", "draft": state["draft"]}) == "yes":
        return {}
    return {"draft": "Not published."}


def publish(state: State) -> dict[str, Any]:
    return {"messages": [AIMessage(state["draft"])]}


def after_draft(state: State) -> str:
    return "approve" if state["messages"][-1].content.startswith("Publish:") else "publish"


builder = StateGraph(State).add_node(approve).add_node(publish)
builder.add_node(draft, retry_policy=RetryPolicy(max_attempts=3, retry_on=OverloadedError))
builder.add_edge(START, "draft").add_conditional_edges("draft", after_draft, ["approve", "publish"])
builder.add_edge("approve", "publish").add_edge("publish", END)

graph = builder.compile(name="agent")
