"""An agent that reads a book, asks a person, and publishes its notes. Kill it at any time, and start it again."""

import operator
import os
import sys
import time
from pathlib import Path
from signal import SIGTERM
from typing import Annotated, Any, TypedDict

from langgraph.errors import GraphDrained
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from langgraph_gcs_saver import NOT_DONE, GCSSaver, cadence, operations, run

BOOK = ["Arrival", "The storm", "The island", "The raft", "Home"]


class State(TypedDict, total=False):
    report: str
    notes: Annotated[list[str], operator.add]
    answer: str
    receipt: str


def read(state: State) -> State:
    chapter = BOOK[len(state["notes"])]
    print(os.getpid(), "reads", chapter, flush=True)
    time.sleep(1)  # call a model here
    return {"notes": [f"{chapter} has {len(chapter)} letters."]}


def is_read(state: State) -> str:
    return "ask" if len(state["notes"]) == len(BOOK) else "read"


def ask(state: State) -> State:
    return {"answer": interrupt(f"Publish {len(state['notes'])} notes?")}


def publish(state: State) -> State:
    if state["answer"] != "yes":
        return {"receipt": "not published"}
    done = operations().once("publish", post, request=state["notes"], key=state["report"], reconcile=is_posted)
    return {"receipt": done}


def post(key: str) -> str:
    """Call your provider here, and give it the key."""
    with Path("published.txt").open("a", encoding="utf-8") as file:
        print(key, file=file)
    return f"receipt of {key}"


def is_posted(key: str) -> Any:
    """Ask your provider whether it has the key."""
    posted = Path("published.txt")
    is_there = posted.exists() and key in posted.read_text(encoding="utf-8").splitlines()
    return f"receipt of {key}" if is_there else NOT_DONE


builder = StateGraph(State).add_node(read).add_node(ask).add_node(publish)
builder.add_edge(START, "read").add_conditional_edges("read", is_read, ["read", "ask"])
builder.add_edge("ask", "publish").add_edge("publish", END)


def build(saver: GCSSaver | None = None) -> Any:
    return builder.compile(checkpointer=saver, name="reports")


def main(report: str) -> None:
    config: Any = {"configurable": {"thread_id": report}}
    with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"]) as saver:
        try:
            result = run(
                build(saver),
                {"report": report, "notes": []},
                config,
                request_id="request-1",
                durability="sync",
                policy=cadence.Signal(SIGTERM),
                owner="laptop",
                ttl=5,
            )
        except GraphDrained:
            print("stopped between two steps")
            sys.exit(75)
    questions = result.get("__interrupt__")
    print(questions[0].value if questions else result["receipt"])


if __name__ == "__main__":
    main(sys.argv[1])
