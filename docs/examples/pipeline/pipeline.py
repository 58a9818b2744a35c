"""An orchestrator, and subgraphs that extract, analyze and summarize. Kill this program, and start it again."""

import operator
import os
import sys
from signal import SIGTERM
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver, KeepLast, cadence, run

MAIL = {
    "monday": ["paper: 3 boxes", "ink: 1 bottle"],
    "tuesday": ["ink: 1 bottle", "lamps: 2 pieces"],
}


def ask_model(agent: str, task: str) -> str:
    """Call your model here."""
    print(f"{agent}: {task}")
    return task.partition(" ")[2]


class Extraction(TypedDict):
    documents: list[str]
    facts: Annotated[list[str], operator.add]


def read(state: Extraction) -> dict[str, Any]:
    """Read one document, and come back for the next one."""
    document = state["documents"][len(state["facts"])]
    return {"facts": [ask_model("extraction", f"read {document}")]}


def is_done(state: Extraction) -> str:
    return END if len(state["facts"]) == len(state["documents"]) else "read"


class Analysis(TypedDict):
    facts: list[str]
    known: Annotated[list[str], operator.add]
    news: list[str]


def compare(state: Analysis) -> dict[str, Any]:
    """Find what no earlier run has found."""
    news = [fact for fact in state["facts"] if fact not in state["known"]]
    return {"news": [ask_model("analysis", f"compare {fact}") for fact in news]}


def learn(state: Analysis) -> dict[str, Any]:
    return {"known": state["news"]}


class Report(TypedDict):
    news: list[str]
    report: str


def write(state: Report) -> dict[str, Any]:
    return {"report": ask_model("summary", f"write New: {'; '.join(state['news'])}.")}


class State(TypedDict):
    documents: list[str]
    facts: list[str]
    news: list[str]
    report: str


def build(saver: GCSSaver) -> Any:
    """The orchestrator, which calls the other agents one after another."""
    extraction = StateGraph(Extraction).add_node("read", read).add_edge(START, "read")
    extraction = extraction.add_conditional_edges("read", is_done, ["read", END])
    analysis = StateGraph(Analysis).add_node("compare", compare).add_node("learn", learn)
    analysis = analysis.add_edge(START, "compare").add_edge("compare", "learn").add_edge("learn", END)
    summary = StateGraph(Report).add_node("write", write).add_edge(START, "write").add_edge("write", END)

    orchestrator = StateGraph(State)
    orchestrator.add_node("extraction", extraction.compile())  # a crash repeats one document, not all of them
    orchestrator.add_node("analysis", analysis.compile(checkpointer=True))  # it remembers what it knows
    orchestrator.add_node("summary", summary.compile(checkpointer=False))  # one call, which is cheap to repeat
    orchestrator.add_edge(START, "extraction").add_edge("extraction", "analysis")
    orchestrator.add_edge("analysis", "summary").add_edge("summary", END)
    return orchestrator.compile(checkpointer=saver, name="pipeline")


RETENTION = {"": KeepLast(20), "extraction|*": KeepLast(1)}

OPTIONS: dict[str, Any] = {
    "retention": RETENTION,
    "verify": {"*": "readback", "extraction|*": "checksum"},
    "inline_max_bytes": {"extraction|*": 256 << 10},
}


def main(day: str) -> None:
    """Report what is new in the mail of a day."""
    policy = cadence.Signal(SIGTERM) | cadence.Deadline(minutes=58) | cadence.MaxLag(steps=1)
    with GCSSaver.from_conn_string(os.environ["LANGGRAPH_GCS_STORE"], **OPTIONS) as saver:
        inputs = {"documents": MAIL[day], "facts": []}
        config = {"configurable": {"thread_id": "mail"}}
        result = run(build(saver), inputs, config, request_id=day, policy=policy, owner="pipeline")
    print(result["report"])


if __name__ == "__main__":
    main(sys.argv[1])
