"""`python -m tests.cli.agent_that_puts STORE THREAD`: a run that stores step after step until it is killed."""

from __future__ import annotations

import sys
import time
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, run


class State(TypedDict, total=False):
    count: int


def work(state: State) -> dict[str, Any]:
    time.sleep(0.05)  # clock: how many steps it stores changes nothing
    return {"count": state["count"] + 1}


def main(store: str, thread_id: str) -> None:
    """Run without an end."""
    build = StateGraph(State).add_node("work", work).add_edge(START, "work")
    build.add_conditional_edges("work", lambda _: "work", ["work"])
    graph = build.compile(checkpointer=GCSSaver.from_conn_string(store))
    run(graph, {"count": 0}, {"configurable": {"thread_id": thread_id}, "recursion_limit": 1_000_000})


if __name__ == "__main__":
    main(*sys.argv[1:])
