"""An agent that pays an order after a person has agreed. The provider is a file with a line for each charge."""

import operator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from langgraph_gcs_saver import NOT_DONE, GCSSaver, operations


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

    def look_up(key: str) -> Any:
        """Ask your provider here whether it knows the key."""
        done = charges.read_text(encoding="utf-8").splitlines() if charges.exists() else []
        return f"receipt of {key}" if key in done else NOT_DONE

    def approve(state: Order) -> Order:
        answer = interrupt(f"Pay {state['cents']} cents?")
        return {"log": [f"approved: {answer}"]}

    def pay(state: Order) -> Order:
        key = f"order-{state['order']}"
        receipt = operations().once("charge", charge, request=state["cents"], key=key, reconcile=look_up)
        return {"receipt": receipt, "log": ["paid"]}

    builder = StateGraph(Order).add_node(approve).add_node(pay)
    builder.add_edge(START, "approve").add_edge("approve", "pay").add_edge("pay", END)
    return builder.compile(checkpointer=saver)
