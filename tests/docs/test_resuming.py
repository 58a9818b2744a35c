"""The recipe for resuming after a crash, in processes that are killed wherever a run can be cut off."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import Any

import pytest
from langgraph.errors import EmptyInputError
from langgraph.types import Command

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.testing import kills
from tests.docs import agents, dying
from tests.docs.dying import INPUT, PATIENCE, build, config_of
from tests.docs.fences import blocks

PAGE = "docs/guides/resume-after-a-crash.md"

DONE = ["input", "work", "answer yes", "publish"]

# Where a run is killed, in the order in which it comes there, and what is then to be passed: the input, nothing new, or
# the answer; or nothing is left to do. `put …` is before a checkpoint is stored, and after the writes of its step were.
POINTS = {
    "put input -1": "input",
    "put loop 0": "None",
    "work runs": "None",
    "writes of work": "None",
    "put loop 1": "None",
    "ask runs": "None",
    "question of ask": "None",
    "question waits": "answer",
    "ask is answered": "answer",
    "writes of ask": "answer",
    "put loop 2": "None",
    "publish runs": "None",
    "writes of publish": "None",
    "put loop 3": "None",
    "run has returned": "finished",
}
# In between it is chance how far the checkpoints have come: tried are those where they have, and where none is stored.
ASYNC = [point for point in POINTS if point.startswith("put ")]
ASYNC += ["question waits", "ask is answered", "writes of ask", "run has returned"]
LOST = {f"{node} runs, no checkpoint stored": "input" for node in ("work", "ask")}
EXIT = {
    "work runs": "input",
    "ask runs": "input",
    "put loop 1": "input",
    "question of ask": "None",
    "question waits": "answer",
    "ask is answered": "answer",
    "publish runs": "answer",
    "put loop 3": "answer",
    "run has returned": "finished",
}
CASES = [("sync", point, left) for point, left in POINTS.items()]
CASES += [("async", point, POINTS[point]) for point in ASYNC]
CASES += [("async", point, left) for point, left in LOST.items()]
CASES += [("exit", point, left) for point, left in EXIT.items()]

STORED_BY = {"work runs": "put loop 1", "ask is answered": "put loop 2", "publish runs": "put loop 3"}
"""Where what a node did is stored, whether or not the checkpoint after it is."""


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """The functions that the guide has."""
    (block,) = [block for block in blocks() if block.page == PAGE and "def to_pass(" in block.text]
    names: dict[str, Any] = {}
    exec(compile(block.text, PAGE, "exec"), names)
    return names


def killed(uri: str, mode: str, point: str, turn: int = 1) -> str | None:
    """Run the graph until its process is killed. The id of its question, if it had come to that."""
    question = None
    with kills.process(dying.run, uri, point, mode, turn) as (child, pipe):
        assert pipe.poll(PATIENCE)
        with suppress(EOFError):  # it was killed before the question
            question = pipe.recv()
        child.join(PATIENCE)
        assert child.exitcode == -signal.SIGKILL, f"it never came to {point!r}"
    return question


def answer(question: str) -> Any:
    return Command(resume={question: "yes"})


class Client:
    """Sends requests to a graph as the guide says, in a process that has not seen the thread before."""

    def __init__(self, saver: GCSSaver, recipe: dict[str, Any], mode: str) -> None:
        self.ran: list[str] = []
        self.graph = build(saver, self.ran.append)
        self._recipe = recipe
        self._mode: Any = mode

    def send(self, given: Any, request_id: str) -> tuple[str, Any]:
        """What was passed, and what came back."""
        config = config_of(request_id)
        passed = self._recipe["to_pass"](self.graph, given, config)
        assert passed is None or passed is given
        word = "None" if passed is None else "answer" if isinstance(passed, Command) else "input"
        return word, self.graph.invoke(passed, config, durability=self._mode)

    def is_finished(self) -> bool:
        finished: bool = self._recipe["is_finished"](self.graph, config_of("0"))
        return finished


@pytest.mark.parametrize(("mode", "point", "left"), CASES)
def test_it_resumes_wherever_it_was_killed(tmp_path, recipe, mode, point, left):
    uri = f"file://{tmp_path}/store"
    question = killed(uri, mode, point)
    with GCSSaver.from_conn_string(uri) as saver:
        client = Client(saver, recipe, mode)
        assert client.is_finished() == (left == "finished")
        if point.startswith("put loop") and mode != "exit":
            # What the guide warns of: there is work to do.
            assert client.graph.get_state(config_of("0")).next == ()
        # The request that was cut off is sent again.
        if question is None:
            passed, result = client.send(INPUT, "1")
            assert passed == left
            assert not client.is_finished()
            question = result["__interrupt__"][0].id
            assert client.send(answer(question), "2")[0] == "answer"
        else:
            passed, result = client.send(answer(question), "2")
            assert passed == ("None" if left == "finished" else left)
        assert client.is_finished()
        if mode != "exit":
            order = list(POINTS)
            lost = "no checkpoint stored" in point
            stored = [] if lost else [n for n, by in STORED_BY.items() if order.index(point) >= order.index(by)]
            assert not set(stored) & set(client.ran)
        # Sent once more, both change nothing.
        for given, request in ((INPUT, "1"), (answer(question), "2")):
            assert client.send(given, request) == ("None", {"seen": DONE})


@pytest.mark.parametrize(
    ("mode", "point"), [("sync", "put input 4"), ("async", "work runs, no checkpoint stored"), ("exit", "work runs")]
)
def test_an_input_that_was_lost_on_a_finished_thread(tmp_path, recipe, mode, point):
    uri = f"file://{tmp_path}/store"
    killed(uri, "sync", "run has returned")
    killed(uri, mode, point, turn=2)
    with GCSSaver.from_conn_string(uri) as saver:
        client = Client(saver, recipe, mode)
        # It looks like a thread on which nothing was ever asked again, and `None` says nothing.
        assert client.is_finished()
        assert client.graph.invoke(None, config_of("3"), durability=mode) == {"seen": DONE}
        passed, result = client.send(INPUT, "3")
        assert passed == "input"
        client.send(answer(result["__interrupt__"][0].id), "4")
        assert client.graph.get_state(config_of("0")).values == {"seen": [*DONE, *DONE]}


@pytest.mark.parametrize("mode", ["sync", "async", "exit"])
def test_it_works_with_an_agent(tmp_path, recipe, mode):
    """`create_agent`, whose middleware asks a person; each request is sent twice."""
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        agent = agents.make(saver)

        def send(given: Any, request_id: str) -> Any:
            config = config_of(request_id)
            return [agent.invoke(recipe["to_pass"](agent, given, config), config, durability=mode) for _ in range(2)]

        asked, again = send({"messages": [("human", "Publish: it")]}, "1")
        (question,) = asked["__interrupt__"]
        assert again["__interrupt__"] == [question]
        assert not recipe["is_finished"](agent, config_of("0"))
        done, again = send(Command(resume={question.id: agents.APPROVE}), "2")
        assert done == again
        assert [one.type for one in done["messages"]] == ["human", "ai", "tool", "ai"]
        assert recipe["is_finished"](agent, config_of("0"))


def test_a_thread_without_anything_is_not_finished_and_has_nothing_to_resume(tmp_path, recipe):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        client = Client(saver, recipe, "sync")
        assert not client.is_finished()
        with pytest.raises(EmptyInputError):
            client.send(None, "1")
