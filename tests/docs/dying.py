"""A graph in a process of its own, which is killed with SIGKILL at a chosen point of its run."""

from __future__ import annotations

import operator
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import GCSSaver, run

INPUT = {"seen": ["input"]}
PATIENCE = 120.0

OWNER = "job-1"
"""Who holds the lease: a job that is started again gets its own lease at once."""


class State(TypedDict):
    seen: Annotated[list[str], operator.add]


def build(saver: GCSSaver, reached: Callable[[str], None]) -> Any:
    """`work`, then `ask`, which waits for an answer, then `publish`; each says that it was reached."""

    def work(state: State) -> State:
        reached("work runs")
        return {"seen": ["work"]}

    def ask(state: State) -> State:
        reached("ask runs")
        answer = interrupt("Publish?")
        reached("ask is answered")
        return {"seen": [f"answer {answer}"]}

    def publish(state: State) -> State:
        reached("publish runs")
        return {"seen": ["publish"]}

    builder = StateGraph(State).add_node(work).add_node(ask).add_node(publish).add_edge(START, "work")
    builder.add_edge("work", "ask").add_edge("ask", "publish").add_edge("publish", END)
    return builder.compile(checkpointer=saver)


CONFIG: Any = {"configurable": {"thread_id": "t"}}


class Dying(GCSSaver):
    """Kills its process at a point: before a call that is named like `put input`, `put loop 2`, `writes work`.

    A checkpoint is put after the writes of its step are stored, so the point before it is between the two.

    Attributes:
        point: The point.
        lost: No checkpoint but that of the input is ever stored, as when all others are still on their way.
        has_writes: Whether the writes of each step are stored: not with durability "exit".
    """

    point = ""
    lost = False
    has_writes = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.written = threading.Condition()
        self.steps: set[str] = set()
        self.stored = threading.Event()

    def reached(self, point: str) -> None:
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        if self.lost and metadata["source"] == "loop":
            threading.Event().wait()
        parent = config["configurable"].get("checkpoint_id")
        if self.has_writes and metadata["source"] == "loop":
            with self.written:
                assert self.written.wait_for(lambda: parent in self.steps, PATIENCE)
        self.reached(f"put {metadata['source']} {metadata['step']}")
        stored = super().put(config, checkpoint, metadata, new_versions)
        self.stored.set()
        return stored

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        if not self.has_writes:  # the question's come beside the checkpoint, and here after it
            assert self.stored.wait(PATIENCE)
        is_question = any(channel == "__interrupt__" for channel, _ in writes)
        self.reached("question of ask" if is_question else f"writes of {task_path.rpartition(' ')[2]}")
        super().put_writes(config, writes, task_id, task_path)
        if is_question:
            return
        with self.written:
            self.steps.add(config["configurable"]["checkpoint_id"])
            self.written.notify_all()


def answer_of(question: str) -> Any:
    return Command(resume={question: "yes"})


def work(uri: str, point: str, mode: Any, turn: int, pipe: Connection) -> None:
    """A turn: the input is one request, and the answer another. The question's id is sent to the pipe in between."""
    first, second = str(2 * turn - 1), str(2 * turn)
    with Dying.from_conn_string(uri) as saver:
        saver.point, _, rest = point.partition(", ")
        saver.lost = rest == "no checkpoint stored"
        saver.has_writes = mode != "exit"
        graph = build(saver, saver.reached)
        (question,) = run(graph, INPUT, CONFIG, request_id=first, durability=mode, owner=OWNER)["__interrupt__"]
        pipe.send(question.id)
        saver.reached("question waits")
        run(graph, answer_of(question.id), CONFIG, request_id=second, durability=mode, owner=OWNER)
        saver.reached("run has returned")
