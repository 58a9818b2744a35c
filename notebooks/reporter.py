"""The agent of `08-runs-that-resume.ipynb`, in a file of its own because the notebook runs it in other processes.

It reads pages of Python's reference manual, asks a person, and publishes:

python reporter.py STORE THREAD                # from the start, or from where the thread stopped
python reporter.py STORE THREAD --wait-at 3    # waits at the third page for a line of its input
python reporter.py STORE --work                # a worker: resumes what other processes have left
"""

import argparse
import logging
import operator
import sys
from pydoc_data.topics import topics
from signal import SIGTERM
from typing import Annotated, TypedDict

from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from langgraph_gcs_saver import GCSSaver, cadence, run

PAGES = ["assignment", "binary", "calls", "class", "comparisons"]


class Report(TypedDict, total=False):
    """What the agent keeps."""

    lengths: Annotated[list[int], operator.add]
    decision: str
    published: bool


def build(wait_at=None):
    """The graph: `read` is run for each page, then `ask` and `publish`."""

    def read(state):
        number = len(state["lengths"]) + 1
        name = PAGES[number - 1]
        print(f"page {number}: {name}", flush=True)
        if number == wait_at:
            sys.stdin.readline()
        return {"lengths": [len(topics[name])]}

    def is_done(state):
        return "ask" if len(state["lengths"]) == len(PAGES) else "read"

    def ask(state):
        return {"decision": interrupt(f"Publish {sum(state['lengths'])} characters?")}

    def publish(state):
        print("publishing" if state["decision"] == "yes" else "not publishing", flush=True)
        return {"published": state["decision"] == "yes"}

    builder = StateGraph(Report).add_node("read", read).add_node("ask", ask).add_node("publish", publish)
    builder.add_edge(START, "read").add_conditional_edges("read", is_done, ["read", "ask"])
    return builder.add_edge("ask", "publish").add_edge("publish", END)


def main():
    """Run the thread's request, or work for others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("thread", nargs="?")
    parser.add_argument("--wait-at", type=int)
    parser.add_argument("--work", action="store_true")
    given = parser.parse_args()
    logging.getLogger("langgraph_gcs_saver").setLevel(logging.ERROR)  # a takeover is no surprise here
    with GCSSaver.from_conn_string(given.store) as saver:
        graph = build(given.wait_at).compile(checkpointer=saver, name="reporter")
        if given.work:
            for recovery in saver.recover(graph):
                print(recovery)
            return
        config = {"configurable": {"thread_id": given.thread}}
        try:
            result = run(
                graph,
                {"lengths": []},
                config,
                request_id="request-1",
                durability="sync",
                policy=cadence.Signal(SIGTERM),
                owner="notebook",
            )
        except GraphDrained:
            print("stopped between two pages")
        else:
            print(*[question.value for question in result.get("__interrupt__", ())])


if __name__ == "__main__":
    main()
