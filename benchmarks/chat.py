"""The chat that benchmarks store: the same words for the same seed, on any machine with this Python version."""

from __future__ import annotations

import random
import sysconfig
import uuid
from functools import cache
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph


@cache
def corpus() -> list[str]:
    """The words of the standard library's modules, about a million, in the order of their names."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return " ".join(module.read_text("utf-8", errors="replace") for module in modules).split()


class Text:
    """Excerpts of the standard library's sources: prose and code, as agents handle."""

    def __init__(self, seed: int) -> None:
        self._words = corpus()
        self._random = random.Random(seed)

    def words(self, count: int) -> str:
        at = self._random.randrange(len(self._words) - count)
        return " ".join(self._words[at : at + count])

    def message(self, kind: type[AnyMessage], words: int = 150) -> Any:
        return kind(self.words(words), id=str(uuid.UUID(int=self._random.getrandbits(128))))


def messages(count: int, seed: int = 1) -> list[AnyMessage]:
    """Messages of 150 words each, by turns of a person and a model."""
    text = Text(seed)
    return [text.message(AIMessage if n % 2 else HumanMessage) for n in range(count)]


def talk(saver: Any, turns: int, seed: int = 1, thread_id: str = "chat") -> Any:
    """Run a chat of so many turns, each one `invoke` of a graph with one node; returns the compiled graph."""
    text = Text(seed)

    def reply(_: MessagesState) -> dict[str, Any]:
        return {"messages": [text.message(AIMessage)]}

    builder = StateGraph(MessagesState).add_node("reply", reply).add_edge(START, "reply").add_edge("reply", END)
    graph = builder.compile(checkpointer=saver)
    for _ in range(turns):
        graph.invoke({"messages": [text.message(HumanMessage)]}, {"configurable": {"thread_id": thread_id}})
    return graph
