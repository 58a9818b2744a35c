"""The agent of `04-crash-and-recovery.ipynb`, in a file of its own because the notebook runs it in other processes.

It reads pages of Python's reference manual, one a step:

python agent.py STORE THREAD              # from the start, or from where the thread stopped
python agent.py STORE THREAD --hang-at 4  # stops at the fourth page, so that it can be killed there
"""

import argparse
import operator
import time
from pydoc_data.topics import topics
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver

PAGES = ["assignment", "binary", "calls", "class", "comparisons", "context-managers", "exceptions", "for"]


class State(TypedDict):
    """What the agent keeps: the pages that it has read."""

    pages: Annotated[list[str], operator.add]


def build(hang_at=None):
    """The graph: `read` is run until there is nothing left to read."""

    def read(state):
        number = len(state["pages"]) + 1
        name = PAGES[number - 1]
        print(f"page {number}: {name}", flush=True)
        if number == hang_at:
            time.sleep(60)
        return {"pages": [f"{name}\n{topics[name]}"]}

    def is_done(state):
        return END if len(state["pages"]) == len(PAGES) else "read"

    builder = StateGraph(State).add_node("read", read).add_edge(START, "read")
    return builder.add_conditional_edges("read", is_done, ["read", END])


def main():
    """Read the pages that are left."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("thread")
    parser.add_argument("--hang-at", type=int)
    options = parser.parse_args()
    config = {"configurable": {"thread_id": options.thread}}
    with GCSSaver.from_conn_string(options.store, inline_max_bytes=0) as saver:
        graph = build(options.hang_at).compile(checkpointer=saver)
        # A thread that has begun resumes with `None`; a new one needs its first state.
        start = None if graph.get_state(config).values else {"pages": []}
        graph.invoke(start, config, durability="sync")


if __name__ == "__main__":
    main()
