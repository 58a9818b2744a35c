"""A graph without a checkpointer: the server adds it."""

from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph


async def answer(state: MessagesState) -> dict[str, Any]:
    return {"messages": [("ai", f"This thread has {len(state['messages'])} messages.")]}


graph = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").add_edge("answer", END).compile()
