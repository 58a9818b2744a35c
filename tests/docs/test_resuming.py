"""What the guide to resuming says, in processes that are killed wherever a run can be cut off."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any

import pytest

from langgraph_gcs_saver import GCSSaver, run
from langgraph_gcs_saver.testing import kills
from tests.docs import agents, dying
from tests.docs.dying import CONFIG, INPUT, OWNER, PATIENCE, answer_of, build

DONE = ["input", "work", "answer yes", "publish"]

# Where a run is killed, in the order in which it comes there. `put …` is before a checkpoint is stored, and after the
# writes of its step were.
POINTS = [
    "put input -1",
    "put loop 0",
    "work runs",
    "writes of work",
    "put loop 1",
    "ask runs",
    "question of ask",
    "question waits",
    "ask is answered",
    "writes of ask",
    "put loop 2",
    "publish runs",
    "writes of publish",
    "put loop 3",
    "run has returned",
]
# In between it is chance how far the checkpoints have come: tried are those where they have, and where only the input's
# is stored.
ASYNC = [point for point in POINTS if point.startswith("put ")]
ASYNC += ["question waits", "ask is answered", "writes of ask", "run has returned"]
ASYNC += [f"{node} runs, no checkpoint stored" for node in ("work", "ask")]
EXIT = [
    "put input -1",
    "work runs",
    "ask runs",
    "put loop 1",
    "question waits",
    "ask is answered",
    "publish runs",
    "put loop 3",
    "run has returned",
]
CASES = [(mode, point) for mode, points in (("sync", POINTS), ("async", ASYNC), ("exit", EXIT)) for point in points]

STORED_BY = {"work runs": "put loop 1", "ask is answered": "put loop 2", "publish runs": "put loop 3"}
"""Where what a node did is stored, whether or not the checkpoint after it is."""


def killed(uri: str, mode: str, point: str, turn: int = 1) -> str | None:
    """Run the graph until its process is killed. The id of its question, if it had come to that."""
    question = None
    with kills.process(dying.work, uri, point, mode, turn) as (child, pipe):
        assert pipe.poll(PATIENCE)
        with suppress(EOFError):  # it was killed before the question
            question = pipe.recv()
        child.join(PATIENCE)
        assert child.exitcode == -signal.SIGKILL, f"it never came to {point!r}"
    return question


class Client:
    """Sends requests to a graph as the guide says, in a process that has not seen the thread before."""

    def __init__(self, saver: GCSSaver, mode: str) -> None:
        self.ran: list[str] = []
        self.graph = build(saver, self.ran.append)
        self._thread = saver.thread("t")
        self._mode: Any = mode

    def send(self, given: Any, request_id: str) -> Any:
        return run(self.graph, given, CONFIG, request_id=request_id, durability=self._mode, owner=OWNER)

    def is_finished(self) -> bool:
        return self._thread.status().is_finished


@pytest.mark.parametrize(("mode", "point"), CASES)
def test_it_resumes_wherever_it_was_killed(tmp_path, mode, point):
    uri = f"file://{tmp_path}/store"
    question = killed(uri, mode, point)
    with GCSSaver.from_conn_string(uri) as saver:
        client = Client(saver, mode)
        assert client.is_finished() == (point == "run has returned")
        if point.startswith("put loop") and point != "put loop 0" and mode != "exit":
            # What the guide warns of: there is work to do.
            assert client.graph.get_state(CONFIG).next == ()
        # The request that was cut off is sent again.
        if question is None:
            question = client.send(INPUT, "1")["__interrupt__"][0].id
            assert not client.is_finished()
        assert client.send(answer_of(question), "2") == {"seen": DONE}
        assert client.is_finished()
        if mode != "exit":
            lost = "no checkpoint stored" in point
            stored = [] if lost else [n for n, by in STORED_BY.items() if POINTS.index(point) >= POINTS.index(by)]
            assert not set(stored) & set(client.ran)
        # Sent once more, it changes nothing, and runs nothing.
        del client.ran[:]
        assert client.send(answer_of(question), "2") == {"seen": DONE}
        assert client.ran == []


def test_an_input_that_was_lost_on_a_finished_thread(tmp_path):
    uri = f"file://{tmp_path}/store"
    killed(uri, "sync", "run has returned")
    killed(uri, "sync", "put input 4", turn=2)
    with GCSSaver.from_conn_string(uri) as saver:
        client = Client(saver, "sync")
        # It looks like a thread on which nothing was ever asked again, and `None` says nothing.
        assert client.graph.invoke(None, CONFIG) == {"seen": DONE}
        result = client.send(INPUT, "3")
        client.send(answer_of(result["__interrupt__"][0].id), "4")
        assert client.graph.get_state(CONFIG).values == {"seen": [*DONE, *DONE]}


@pytest.mark.parametrize("mode", ["sync", "async", "exit"])
def test_it_works_with_an_agent(tmp_path, mode):
    """`create_agent`, whose middleware asks a person; each request is sent twice."""
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        agent = agents.make(saver)

        def send(given: Any, request_id: str) -> Any:
            return [run(agent, given, CONFIG, request_id=request_id, durability=mode) for _ in range(2)]

        asked, again = send({"messages": [("human", "Publish: it")]}, "1")
        (question,) = asked["__interrupt__"]
        assert again["__interrupt__"] == [question]
        assert not saver.thread("t").status().is_finished
        done, again = send(dying.Command(resume={question.id: agents.APPROVE}), "2")
        assert done == again
        assert [one.type for one in done["messages"]] == ["human", "ai", "tool", "ai"]
        assert saver.thread("t").status().is_finished
