"""The programs of docs/guides/cloud-run.md and cloud-tasks.md as processes that are stopped, killed and run again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from langgraph.errors import GraphDrained

from langgraph_gcs_saver import GCSSaver, cadence, run
from tests.docs.blocks import ROOT
from tests.docs.serving import BYTECODE, free_port, served
from tests.kit.cloud_tasks import queue
from tests.patience import PATIENCE, eventually

EXAMPLE = ROOT / "docs" / "examples" / "cloud-run"
needs_interrupts = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="LangGraph's interrupts in asynchronous runs need Python 3.11, as the guide says",
)

HELD = """
import functools, os, pathlib, time
import agent
from langgraph_gcs_saver import cadence
from langgraph_gcs_saver.saver.thread import Thread

FOLDER = pathlib.Path(os.environ["FOLDER"])

def draft_of(text):
    with (FOLDER / "drafted").open("a") as file:
        file.write(f"{text}\\n")
    if text.startswith("wait "):
        name = text.split()[1]
        (FOLDER / f"{name}.begun").touch()
        while not (FOLDER / f"{name}.go").exists():
            if cadence.drain_requested():
                (FOLDER / f"{name}.stopping").touch()
            time.sleep(0.02)
    return f"That has {len(text.split())} words."

agent.draft_of = draft_of
Thread.lease = functools.partialmethod(Thread.lease, ttl=5)
graph = agent.graph
"""
"""The agent, with a model that waits for a file. A lease expires soon. All else is its own."""

SERVING = """
import functools
import held, service
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession

service.arun = functools.partial(service.arun, ttl=5)
service.session = lambda: AuthorizedSession(AnonymousCredentials())
app = service.app
"""


class Place:
    """A directory with a store, where models say that they have begun, and wait for a test."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store
        (folder / "held.py").write_text(HELD)
        (folder / "serving.py").write_text(SERVING)
        self.environment = {
            "FOLDER": str(folder),
            "LANGGRAPH_GCS_STORE": store,
            "PYTHONPATH": os.pathsep.join((str(folder), str(EXAMPLE), str(ROOT))),
        }

    def begun(self, name: str, process: subprocess.Popen[Any], what: str = "begun") -> None:
        """Wait until a model has been asked, or until its run knows that it has to stop."""
        eventually(lambda: (self.folder / f"{name}.{what}").exists() or process.poll() is not None)
        assert process.poll() is None

    def go(self, name: str) -> None:
        (self.folder / f"{name}.go").touch()

    def drafted(self, text: str) -> int:
        """How often a model was asked."""
        return (self.folder / "drafted").read_text().splitlines().count(text)

    def messages(self, thread: str) -> list[str]:
        with GCSSaver.from_conn_string(self.store) as saver:
            found = saver.get_tuple({"configurable": {"thread_id": thread}})
            assert [one for one in saver.admin.verify(thread, depth="data") if one.is_damage] == []
            return [one.content for one in found.checkpoint["channel_values"]["messages"]]

    def state(self, thread: str) -> str:
        with GCSSaver.from_conn_string(self.store) as saver:
            return saver.thread(thread).status().state

    @contextmanager
    def service(self, port: int, stop: int = signal.SIGTERM, **more: str) -> Iterator[subprocess.Popen[Any]]:
        """The service as the image starts it; only its place, its port, and how long it waits for runs differ."""
        lines = (EXAMPLE / "Dockerfile").read_text(encoding="utf-8").splitlines()
        (words,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
        for old, new in (("service:app", "serving:app"), ("0.0.0.0", "127.0.0.1"), ("8080", str(port)), ("8", "600")):
            words[words.index(old)] = new
        environment = self.environment | more
        log = self.folder / f"log-{port}"
        words = [sys.executable, "-m", *words]
        with served(
            words, port, path="/health/readyz", log=log, cwd=self.folder, environment=environment, stop=stop
        ) as process:
            yield process

    def start(self, words: list[str], **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=os.environ | BYTECODE | self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def place(store_uri: str, tmp_path: Path) -> Place:
    return Place(tmp_path, store_uri)


local = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


def said(*messages: str) -> list[str]:
    """Messages with the agent's answers."""
    return [text for one in messages for text in (one, f"That has {len(one.split())} words.")]


@local
@needs_interrupts
def test_the_service_is_stopped_in_the_middle_of_a_request(place):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    request = {"message": "wait a", "request_id": "1"}

    def send(thread, body):
        return httpx.post(f"{url}/threads/{thread}/runs", json=body, timeout=PATIENCE)

    with ThreadPoolExecutor() as pool:
        with place.service(port) as process:
            for method, path, status in (
                ("GET", "livez", 200),
                ("HEAD", "readyz", 200),
                ("GET", "progress", 200),
                ("POST", "livez", 405),
                ("GET", "", 404),
            ):
                assert httpx.request(method, f"{url}/health/{path}", timeout=PATIENCE).status_code == status
            asked = pool.submit(send, "t", request)
            place.begun("a", process)
            busy = send("t", {"message": "no", "request_id": "no"})
            assert (busy.status_code, busy.json()) == (409, {"kind": "thread-busy"})
            process.send_signal(signal.SIGTERM)
            place.begun("a", process, "stopping")
            place.go("a")
            stopped = asked.result()
            assert (stopped.status_code, stopped.json()) == (503, {"kind": "drained"})
            assert int(stopped.headers["retry-after"]) > 0
            process.wait(PATIENCE)
        assert place.state("t") == "paused"
        with place.service(port):
            done = send("t", request)
            assert [one["content"] for one in done.json()["messages"]] == said("wait a")
            assert send("t", request).json() == done.json()  # a finished request returns its result
    assert place.messages("t") == said("wait a")
    assert place.drafted("wait a") == 1  # the finished step was not repeated


@pytest.mark.parametrize("store_uri", ["local", pytest.param("emulators", marks=pytest.mark.soak)], indirect=True)
@needs_interrupts
def test_tasks_are_delivered_twice_and_after_a_crash(place):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with queue() as tasks:
        settings = {
            "TASKS_API": tasks.api,
            "TASKS_URL": url,
            "TASKS_QUEUE": "projects/p/locations/l/queues/q",
            "TASKS_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
        }

        def add(name, message, copies=1):
            return tasks.add(name, f"{url}/tasks/threads/t", {"message": message}, copies)

        def answer(**body):
            return httpx.post(f"{url}/threads/t/answers", json=body, timeout=PATIENCE)

        with place.service(port, signal.SIGKILL, **settings) as process:
            first = add("first", "wait a", copies=2)
            place.begun("a", process)
            eventually(lambda: 409 in first.answers)  # the other copy
            process.kill()
            process.wait(PATIENCE)
        place.go("a")
        with place.service(port, **settings):
            first.wait()
            add("second", "then this").wait()
            tasks.again("first").wait()  # late: another request has begun since
            add("third", "Publish: it").wait()
            fourth = add("fourth", "and this")
            eventually(lambda: 409 in fourth.answers)  # the thread waits for a person
            with GCSSaver.from_conn_string(place.store) as saver:
                (question,) = saver.thread("t").status().questions
            form = {"answer": "yes", "question": question.id, "request_id": "form-1"}
            assert answer(**form | {"question": "0" * 32}).status_code == 409
            given = answer(**form)
            assert (given.status_code, given.json()) == (202, {"stored": True})
            assert answer(**form).status_code in {202, 409}  # sent twice; 409 if the run has ended already
            tasks.tasks["answer-form-1"].wait()
            fourth.wait()
    assert place.messages("t") == said("wait a", "then this", "Publish: it", "and this")
    assert place.drafted("then this") == place.drafted("Publish: it") == place.drafted("and this") == 1


def example() -> Any:
    """The module of the agent."""
    spec = importlib.util.spec_from_file_location("agent_of_the_guide", EXAMPLE / "agent.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_yaml(name: str) -> dict[str, Any]:
    found = yaml.safe_load((EXAMPLE / name).read_text(encoding="utf-8"))
    (container,) = found["spec"]["template"]["spec"]["template"]["spec"]["containers"]
    return container


@local
def test_a_job_is_killed_and_stopped_and_run_again(place):
    """Each attempt is a process of its own, as `maxRetries` makes them."""
    assert of_yaml("job.yaml")["command"] == ["python", "job.py"]
    program = "import held, runpy, sys; sys.argv[0] = 'job.py'; runpy.run_module('job', run_name='__main__')"

    def attempt():
        words = [sys.executable, "-c", program, "not this", "wait a"]
        return place.start(words, CLOUD_RUN_EXECUTION="summarize-x7", CLOUD_RUN_TASK_INDEX="1")

    killed = attempt()
    place.begun("a", killed)
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    (place.folder / "a.begun").unlink()
    stopped = attempt()  # It takes its own lease back at once, although the ttl is a minute.
    place.begun("a", stopped)
    stopped.send_signal(signal.SIGTERM)
    place.begun("a", stopped, "stopping")
    place.go("a")
    _, err = stopped.communicate(timeout=PATIENCE)
    assert (stopped.returncode, err.count("Stopped in time")) == (75, 1)
    last = attempt()
    assert last.communicate(timeout=PATIENCE) == ("That has 2 words.\n", "")
    assert (last.returncode, place.drafted("wait a")) == (0, 2)  # The finished step was not repeated.
    assert place.messages("summarize-x7-1") == said("wait a")


@local
def test_a_worker_is_stopped_and_run_again(place):
    """The job of Cloud Scheduler, and the worker pool: signals, exit codes, and what is left."""
    container = of_yaml("recover.yaml")
    arguments = [one.replace("agent:graph", "held:graph") for one in container["args"]]
    assert container["command"] == ["langgraph-gcs"]
    words = [sys.executable, "-m", "langgraph_gcs_saver.cli", *arguments]

    def leave(thread):
        """A thread whose run was stopped before its first node."""
        with GCSSaver.from_conn_string(place.store) as saver:
            graph = example().builder.compile(checkpointer=saver, name="agent")
            inputs, config = {"messages": [("human", f"wait {thread}")]}, {"configurable": {"thread_id": thread}}
            with pytest.raises(GraphDrained):
                run(graph, inputs, config, request_id=thread, policy=cadence.Deadline(seconds=1e-9))

    def finished(thread):
        return {"thread_id": thread, "outcome": "finished", "error": None, "attempts": 0}

    leave("a")
    first = place.start(words)
    place.begun("a", first)
    first.send_signal(signal.SIGTERM)
    place.begun("a", first, "stopping")
    place.go("a")
    out, err = first.communicate(timeout=PATIENCE)
    assert json.loads(out) == {"thread_id": "a", "outcome": "paused", "error": None, "attempts": 0}
    assert (first.returncode, "The same command continues it" in err) == (75, True)
    # A worker that never ends by itself: what it prints can be read at once. Ctrl-C ends the run under way at its next
    # boundary, and a second one does not wait for that.
    second = place.start([*words, "--every", "1s"])
    assert json.loads(second.stdout.readline()) == finished("a")
    assert place.drafted("wait a") == 1
    leave("b")
    place.begun("b", second)
    second.send_signal(signal.SIGINT)
    place.begun("b", second, "stopping")
    second.send_signal(signal.SIGINT)
    out, err = second.communicate(timeout=PATIENCE)
    assert (second.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert place.state("b") == "crashed"
    place.go("b")

    third = place.start([*words, "--every", "1s"])
    assert json.loads(third.stdout.readline()) == finished("b")
    third.send_signal(signal.SIGTERM)  # between two looks
    assert third.communicate(timeout=PATIENCE) == ("", "")
    assert third.returncode == 0
