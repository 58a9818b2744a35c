"""The agent of `my_agent.py`, but its payment is not an operation. `test_my_agent.py` would fail with it."""

import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from langgraph_gcs_saver import GCSSaver


class Order(TypedDict, total=False):
    order: int
    cents: int
    receipt: str
    log: Annotated[list[str], operator.add]


def build(saver: GCSSaver, folder: Path = Path()) -> Any:
    """The graph. `folder` has the provider's file."""
    charges = folder / "charges.txt"

    def charge(key: str) -> str:
        """Call your provider here."""
        with charges.open("a", encoding="utf-8") as file:
            file.write(f"{key}\n")
        return f"receipt of {key}"

    def approve(state: Order) -> Order:
        answer = interrupt(f"Pay {state['cents']} cents?")
        return {"log": [f"approved: {answer}"]}

    def pay(state: Order) -> Order:
        return {"receipt": charge(f"order-{state['order']}"), "log": ["paid"]}

    builder = StateGraph(Order).add_node(approve).add_node(pay)
    builder.add_edge(START, "approve").add_edge("approve", "pay").add_edge("pay", END)
    return builder.compile(checkpointer=saver)
