"""The worker of `07-two-workers.ipynb`, in a file of its own because the notebook runs it in other processes.

It takes a thread's lease, and eight steps:

python worker.py STORE THREAD NAME             # from the start, or from where the thread stopped
python worker.py STORE THREAD NAME --wait-at 4 # waits at the fourth step for a line of its input
"""

import argparse
import logging
import operator
import sys
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import FencedError

STEPS = 8


class State(TypedDict):
    """What the agent keeps: the steps, each with its worker."""

    done: Annotated[list[str], operator.add]


def build(name, wait_at=None):
    """The graph: `step` is run until all steps are done."""

    def step(state):
        number = len(state["done"]) + 1
        print(f"{name} is in step {number}", flush=True)
        if number == wait_at:
            sys.stdin.readline()
        return {"done": [f"{number} by {name}"]}

    def is_done(state):
        return END if len(state["done"]) == STEPS else "step"

    builder = StateGraph(State).add_node("step", step).add_edge(START, "step")
    return builder.add_conditional_edges("step", is_done, ["step", END])


def main():
    """Take the steps that are left."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("thread")
    parser.add_argument("name")
    parser.add_argument("--wait-at", type=int)
    given = parser.parse_args()
    logging.getLogger("langgraph_gcs_saver").setLevel(logging.ERROR)  # a takeover is no surprise here
    try:
        with (
            GCSSaver.from_conn_string(given.store) as saver,
            saver.thread(given.thread).lease(ttl=5, wait=60, owner=given.name) as lease,
        ):
            print(f"{given.name} holds the lease", flush=True)
            graph = build(given.name, given.wait_at).compile(checkpointer=saver)
            start = None if graph.get_state(lease.config).values else {"done": []}
            graph.invoke(start, lease.config, durability="sync")
    except FencedError as error:
        print(f"{given.name}: {error.kind}", flush=True)


if __name__ == "__main__":
    main()
