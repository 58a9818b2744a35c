"""The service of docs/guides/two-workers.md, in two processes: what a second request gets, and what is stored then."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import pytest

from langgraph_gcs_saver import GCSSaver, errors
from tests.docs.blocks import ROOT, console
from tests.docs.serving import curl, free_port, served, split, uvicorn
from tests.patience import PATIENCE, aeventually

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the guide needs Python 3.11")

HELD = """
import asyncio, inspect, os, pathlib, service
from langgraph.runtime import get_runtime
from langgraph_gcs_saver import errors

FOLDER = pathlib.Path(os.environ["FOLDER"])
ORIGINAL = service.reply, service.charge

async def wait(name):
    (FOLDER / f"{name}.begun").touch()
    while not (FOLDER / f"{name}.go").exists():
        await asyncio.sleep(0.02)

async def reply(text):
    if text == "until paused":
        (FOLDER / "paused.begun").touch()
        while not get_runtime().control.drain_requested and not (FOLDER / "paused.go").exists():
            await asyncio.sleep(0.02)
    if text.startswith("wait "):
        await wait(text.split()[1])
    if text.startswith("raise "):
        kind = getattr(errors, text.split()[1])
        parameters = inspect.signature(kind.__init__).parameters.values()
        raise kind("What happened.", **{one.name: "x" for one in parameters if one.kind is one.KEYWORD_ONLY})
    if text == "no lease":
        config = {"configurable": {"thread_id": "no-lease"}}
        await service.app.state.agent.aupdate_state(config, {"draft": text}, as_node="answer")
    return await ORIGINAL[0](text)

async def charge(key):
    with (FOLDER / "charged").open("a") as file:
        file.write(f"{key}\\n")
    if "slow" in key:
        await wait(key)
    if "lost" in key:
        raise ConnectionError("no answer")
    if "odd" in key:
        return {"receipt": object()}
    return await ORIGINAL[1](key)

service.reply, service.charge = reply, charge
service.LEASES["enqueue"]["wait"] = float(os.environ["PATIENCE"])
for kind in service.LEASES.values():
    kind["ttl"] = 5
app = service.app
"""
"""The service with a model and a provider that wait for a file, or raise, and with a short ttl. All else is its own."""


class Worker:
    """A client of one of the processes."""

    def __init__(self, port, process, client=None):
        self.port = port
        self.url = f"http://127.0.0.1:{port}/threads"
        self.process = process
        self.client = client

    def run(self, message, thread, **body):
        """A request that is under way."""
        return asyncio.ensure_future(
            self.client.post(f"{self.url}/{thread}/runs", json={"message": message, **body}, timeout=PATIENCE)
        )

    async def pause(self, thread):
        return (await self.client.post(f"{self.url}/{thread}/pause", timeout=PATIENCE)).json()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the store, the logs and the files are for which the model waits."""
    found = tmp_path_factory.mktemp("two-workers")
    (found / "held.py").write_text(HELD)
    return found


@contextmanager
def started(command, cwd, folder) -> Iterator[Worker]:
    """A process of the service, as a command of the guide starts it."""
    variables, words = split(command)
    assert list(variables) == ["LANGGRAPH_GCS_STORE"]
    assert words[:2] == ["uvicorn", "service:app"]
    port = free_port()
    words[1], words[words.index("--port") + 1] = "held:app", str(port)
    environment = {
        "LANGGRAPH_GCS_STORE": f"file://{folder}/store",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder))),
        "FOLDER": str(folder),
        "PATIENCE": str(PATIENCE),
    }
    log = folder / f"log-{port}"
    with served(uvicorn(words), port, path="/health", log=log, cwd=cwd, environment=environment) as process:
        yield Worker(port, process)


@pytest.fixture(scope="module")
def commands():
    """What the guide says to type: the directory, the two commands that start the service, and calls of it."""
    (install, _), (directory, _), (one, _), (other, _), *calls = console("two-workers")
    assert {"fastapi", "uvicorn"} <= set(install.split())
    assert calls
    return ROOT / directory.removeprefix("cd "), one, other, calls


@pytest.fixture(scope="module")
def processes(commands, folder):
    """Two processes on one store, for all tests. Each test has threads of its own."""
    cwd, first, second, _ = commands
    with started(first, cwd, folder) as one, started(second, cwd, folder) as other:
        yield one, other


@pytest.fixture
async def workers(processes) -> AsyncIterator[tuple[Worker, Worker]]:
    """Clients of the two processes."""
    # After an error the service may close a connection that the next request is about to use.
    async with httpx.AsyncClient(timeout=PATIENCE, headers={"connection": "close"}) as client:
        yield tuple(Worker(one.port, one.process, client) for one in processes)


async def begun(folder, name, request):
    """Wait until a request is in its model or provider."""
    await aeventually(lambda: (folder / f"{name}.begun").exists() or request.done())
    assert not request.done(), request.result().text


def go(folder, name):
    (folder / f"{name}.go").touch()


def texts(answer):
    assert answer.status_code == 200, answer.text
    return [one["content"] for one in answer.json()["messages"]]


def failed(answer):
    return answer.status_code, answer.json()["kind"]


async def stored(folder, thread):
    """The checkpoints of a thread: ids, each with its parent's. A fork shows as a parent that is there twice."""
    async with GCSSaver.from_conn_string(f"file://{folder}/store") as saver:
        assert [one async for one in saver.admin.verify(thread, depth="data") if one.is_damage] == []
        return {one.checkpoint_id: one.parent_id for one in saver.admin.history(thread)}


def is_linear(parents):
    return len(set(parents.values())) == len(parents)


def said(*messages):
    """Messages with the service's answers."""
    return [text for one in messages for text in (one, f"That has {len(one.split())} words.")]


async def test_what_a_second_request_does(workers, folder):
    one, other = workers
    # reject, and enqueue
    first = one.run("wait a", "t")
    await begun(folder, "a", first)
    assert failed(await other.run("no", "t")) == (409, "thread-busy")
    assert failed(await one.run("no", "t")) == (409, "thread-busy")  # in the same process, too
    queued = other.run("later", "t", if_busy="enqueue")
    go(folder, "a")
    assert texts(await first) == said("wait a")
    assert texts(await queued) == said("wait a", "later")

    # interrupt: the input of the former run stays
    first = one.run("wait b", "t")
    await begun(folder, "b", first)
    assert texts(await other.run("instead", "t", if_busy="interrupt"))[-3:] == ["wait b", *said("instead")]
    after = await stored(folder, "t")
    go(folder, "b")
    assert failed(await first) == (409, "fenced")
    assert await stored(folder, "t") == after
    assert is_linear(after)

    # rollback: it does not, and what finished before does
    for worker, name in ((other, "c"), (one, "d")):  # by another process, and by the same one
        first = one.run(f"wait {name}", "t")
        await begun(folder, name, first)
        found = texts(await worker.run(f"not {name}", "t", if_busy="rollback"))
        go(folder, name)
        assert failed(await first) == (409, "fenced")
    assert found == [*said("wait a", "later"), "wait b", *said("instead", "not c", "not d")]
    assert texts(await other.run("nothing to roll back", "t", if_busy="rollback"))[:-2] == found
    assert is_linear(await stored(folder, "t"))


async def test_a_paused_run_resumes_with_the_same_request(workers, folder):
    one, other = workers
    assert await other.pause("p") == {"asked": False}  # there is no run
    first = one.run("until paused", "p", request_id="1")
    await begun(folder, "paused", first)
    assert await other.pause("p") == {"asked": True}
    answer = await first
    assert failed(answer) == (503, "paused")
    assert answer.headers["Retry-After"] == "5"
    (folder / "paused.begun").unlink()
    assert texts(await other.run("until paused", "p", request_id="1")) == said("until paused")
    assert not (folder / "paused.begun").exists()  # the step that had ended did not run again


async def test_a_worker_that_is_killed(workers, commands, folder):
    _, other = workers
    with started(commands[1], commands[0], folder) as third:
        first = Worker(third.port, third.process, other.client).run("wait k", "k", request_id="1")
        await begun(folder, "k", first)
        third.process.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await first
    again = other.run("wait k", "k", request_id="1", if_busy="enqueue")  # until the lease has expired
    go(folder, "k")
    assert texts(await again) == said("wait k")
    assert is_linear(await stored(folder, "k"))


async def test_a_payment_is_made_once(workers, folder):
    one, other = workers
    first = one.run("Order slow for 990", "x")
    await begun(folder, "order-slow", first)
    assert failed(await other.run("Order slow for 990", "y")) == (409, "operation-in-progress")
    go(folder, "order-slow")
    assert texts(await first)[-1] == "Paid: receipt-of-order-slow"
    assert texts(await other.run("Order slow for 990", "y"))[-1] == "Paid: receipt-of-order-slow"
    assert failed(await other.run("Order slow for 500", "z")) == (422, "operation-mismatch")
    assert (folder / "charged").read_text().split().count("order-slow") == 1


STATUS = {
    "ThreadBusyError": 409,
    "FencedError": 409,
    "OperationFencedError": 409,
    "OperationInProgressError": 409,
    "OperationMismatchError": 422,
    "OperationError": 500,
    "OutcomeUnknownError": 500,
    "NotDurableError": 500,
    "ResultNotStoredError": 500,
    "OperationFailedError": 500,
    "LeaseMismatchError": 500,
    "BatchError": 500,
    "BatchChangedError": 500,
    "BatchDoneError": 500,
}
"""What a client gets for each error about writers, operations and batches. New ones need a line here."""


def test_each_error_has_a_status():
    bases = (
        *(errors.ThreadBusyError, errors.FencedError, errors.LeaseMismatchError),
        *(errors.OperationError, errors.OperationFailedError, errors.BatchError),
    )
    named = {name: getattr(errors, name) for name in dir(errors) if name.endswith("Error")}
    assert STATUS.keys() == {name for name, found in named.items() if issubclass(found, bases)}


@pytest.mark.parametrize("name", STATUS)
async def test_what_a_client_gets_for_an_error_of_a_node(name, workers, folder):
    one, _ = workers
    answer = await one.run(f"raise {name}", "raises")
    assert answer.status_code == STATUS[name]
    if STATUS[name] == 500:
        assert answer.text == "Internal Server Error"  # nothing of it is for the client
        log = folder / f"log-{one.port}"
        await aeventually(lambda: f".{name}: What happened." in log.read_text())  # it is written after the answer
    else:
        assert answer.json() == {"kind": getattr(errors, name).kind, "detail": "What happened."}


async def test_an_error_for_operators_reaches_their_log(workers, folder):
    """These are raised by the saver, each where it belongs, and not by a node that says so."""
    one, other = workers

    async def meet(name, worker, message, thread):
        log = folder / f"log-{worker.port}"
        before = len(log.read_text())
        answer = await worker.run(message, thread)
        assert answer.status_code == 500
        await aeventually(lambda: re.search(rf"^(\w+\.)*{name}: ", log.read_text()[before:], re.MULTILINE))

    await meet("LeaseMismatchError", one, "no lease", "u")
    await meet("ConnectionError", one, "Order lost for 1", "v")  # the provider's own
    await meet("OutcomeUnknownError", other, "Order lost for 1", "w")
    await one.run("Order odd for 1", "odd-1")
    await meet("ResultNotStoredError", other, "Order odd for 1", "odd-2")
    assert (folder / "charged").read_text().split().count("order-lost") == 1
    assert (folder / "charged").read_text().split().count("order-odd") == 1


async def test_what_is_typed(workers, commands):
    _, first, second, calls = commands
    ports = {split(command)[1][-1]: worker.port for command, worker in zip((first, second), workers, strict=True)}
    for command, output in calls:
        (shown,) = re.findall(r"127\.0\.0\.1:(\d+)", command)
        assert await asyncio.to_thread(curl, command, ports[shown]) == output
