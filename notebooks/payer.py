"""The agent of `06-side-effects.ipynb`, in a file of its own because the notebook runs it in other processes.

It charges a card. The provider is a file with a line for each charge, outside of the store:

python payer.py STORE THREAD CHARGES                 # from the start, or from where the thread stopped
python payer.py STORE THREAD CHARGES --hang-at sent  # stops after the provider did it, so that it can be killed there
"""

import argparse
import logging
import time
from pathlib import Path
from typing import TypedDict

from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver, operations
from langgraph_gcs_saver.errors import OutcomeUnknownError


class Order(TypedDict, total=False):
    """What the agent keeps."""

    order: int
    receipt: str


def build(charges, hang_at=None, **options):
    """The graph: `pay` charges the order. `options` go to `once`."""

    def reach(moment):
        print(moment, flush=True)
        if moment == hang_at:
            time.sleep(60)

    def charge(key):
        reach("claimed")
        with Path(charges).open("a", encoding="utf-8") as file:
            file.write(f"{key}\n")
        reach("sent")
        return {"receipt": f"receipt of {key}"}

    def pay(state):
        paid = operations().once("charge", charge, request=state["order"], key=f"order-{state['order']}", **options)
        reach("recorded")
        return {"receipt": paid["receipt"]}

    return StateGraph(Order).add_node("pay", pay).add_edge(START, "pay").add_edge("pay", END)


def main():
    """Pay, unless it is done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("thread")
    parser.add_argument("charges")
    parser.add_argument("--hang-at")
    given = parser.parse_args()
    logging.getLogger("langgraph_gcs_saver").setLevel(logging.ERROR)  # a takeover is no surprise here
    # The processes of one worker have one name, so the next one gets the lease of the crashed one at once.
    try:
        with (
            GCSSaver.from_conn_string(given.store) as saver,
            saver.thread(given.thread).lease(owner="worker-1") as lease,
        ):
            graph = build(given.charges, given.hang_at).compile(checkpointer=saver)
            # A thread that has begun resumes with `None`; a new one needs its first state.
            start = None if graph.get_state(lease.config).values else {"order": 17}
            graph.invoke(start, lease.config, durability="sync")
    except OutcomeUnknownError as error:
        print(error.kind, flush=True)


if __name__ == "__main__":
    main()
