"""The service of docs/guides/two-workers.md, in two processes: what a second request gets, and what is stored then."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from contextlib import ExitStack, asynccontextmanager

import httpx
import pytest

from langgraph_gcs_saver import GCSSaver
from tests.docs.blocks import ROOT, console
from tests.docs.serving import curl, free_port, served, split, uvicorn
from tests.patience import PATIENCE, aeventually

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the guide needs Python 3.11")

HELD = """
import asyncio, os, pathlib, service
from langgraph.runtime import get_runtime

FOLDER = pathlib.Path(os.environ["FOLDER"])

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
    return f"about {text}"

async def charge(key):
    with (FOLDER / "charged").open("a") as file:
        file.write(f"{key}\\n")
    if "slow" in key:
        await wait(key)
    return {"receipt": key}

service.reply, service.charge = reply, charge
service.LEASES["enqueue"]["wait"] = float(os.environ["PATIENCE"])
for kind in service.LEASES.values():
    kind["ttl"] = 5
app = service.app
"""
"""The service with a model and a provider that wait for a file, and with a short ttl. Nothing else is changed."""


class Worker:
    """A client of one of the processes."""

    def __init__(self, port, client):
        self.url = f"http://127.0.0.1:{port}/threads"
        self.client = client

    def run(self, message, *, thread="t", **body):
        """A request that is under way."""
        return asyncio.ensure_future(
            self.client.post(f"{self.url}/{thread}/runs", json={"message": message, **body}, timeout=PATIENCE)
        )

    async def pause(self, thread="t"):
        return (await self.client.post(f"{self.url}/{thread}/pause", timeout=PATIENCE)).json()


@asynccontextmanager
async def workers(tmp_path):
    """Two processes on one store, as the guide starts them."""
    (tmp_path / "held.py").write_text(HELD)
    directory = ROOT / "docs" / "examples" / "two-workers"
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    environment = {
        "LANGGRAPH_GCS_STORE": f"file://{tmp_path}/store",
        "PYTHONPATH": path,
        "FOLDER": str(tmp_path),
        "PATIENCE": str(PATIENCE),
    }
    with ExitStack() as stack:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            found = []
            for number in (1, 2):
                port = free_port()
                words = [*uvicorn(["uvicorn", "held:app"]), "--port", str(port)]
                log = tmp_path / f"log-{number}"
                process = stack.enter_context(
                    served(words, port, path="/health", log=log, cwd=directory, environment=environment)
                )
                found.append(Worker(port, client))
                found[-1].process = process
            yield found


async def begun(tmp_path, name, request):
    """Wait until a request is in its model or provider."""
    await aeventually(lambda: (tmp_path / f"{name}.begun").exists() or request.done())
    assert not request.done(), request.result().text


def go(tmp_path, name):
    (tmp_path / f"{name}.go").touch()


def texts(answer):
    assert answer.status_code == 200, answer.text
    return [one["content"] for one in answer.json()["messages"]]


def failed(answer):
    return answer.status_code, answer.json()["kind"]


async def stored(tmp_path, thread="t"):
    """The checkpoints of a thread: ids, each with its parent's. A fork shows as a parent that is there twice."""
    async with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        assert [one async for one in saver.admin.verify(thread, depth="data") if one.is_damage] == []
        return {one.checkpoint_id: one.parent_id for one in saver.admin.history(thread)}


def is_linear(parents):
    return len(set(parents.values())) == len(parents)


async def test_what_a_second_request_does(tmp_path):
    async with workers(tmp_path) as (one, other):
        # reject, and enqueue
        first = one.run("wait a")
        await begun(tmp_path, "a", first)
        assert failed(await other.run("no")) == (409, "thread-busy")
        assert failed(await one.run("no")) == (409, "thread-busy")  # in the same process, too
        queued = other.run("later", if_busy="enqueue")
        go(tmp_path, "a")
        assert texts(await first) == ["wait a", "about wait a"]
        assert texts(await queued) == ["wait a", "about wait a", "later", "about later"]

        # interrupt: the input of the former run stays
        first = one.run("wait b")
        await begun(tmp_path, "b", first)
        assert texts(await other.run("instead", if_busy="interrupt"))[-3:] == ["wait b", "instead", "about instead"]
        after = await stored(tmp_path)
        go(tmp_path, "b")
        assert failed(await first) == (409, "fenced")
        assert await stored(tmp_path) == after
        assert is_linear(after)

        # rollback: it does not, and what finished before does
        for worker, name in ((other, "c"), (one, "d")):  # by another process, and by the same one
            first = one.run(f"wait {name}")
            await begun(tmp_path, name, first)
            found = texts(await worker.run(f"not {name}", if_busy="rollback"))
            go(tmp_path, name)
            assert failed(await first) == (409, "fenced")
            assert f"wait {name}" not in found
            assert found[-2:] == [f"not {name}", f"about not {name}"]
        assert found == [
            *("wait a", "about wait a", "later", "about later", "wait b", "instead", "about instead"),
            *("not c", "about not c", "not d", "about not d"),
        ]
        assert texts(await other.run("nothing to roll back", if_busy="rollback"))[:-2] == found
        assert is_linear(await stored(tmp_path))


async def test_a_paused_run_resumes_with_the_same_request(tmp_path):
    async with workers(tmp_path) as (one, other):
        assert await other.pause() == {"asked": False}  # there is no run
        first = one.run("until paused", request_id="1")
        await begun(tmp_path, "paused", first)
        assert await other.pause() == {"asked": True}
        answer = await first
        assert failed(answer) == (503, "paused")
        assert answer.headers["Retry-After"] == "5"
        (tmp_path / "paused.begun").unlink()
        assert texts(await other.run("until paused", request_id="1")) == ["until paused", "about until paused"]
        assert not (tmp_path / "paused.begun").exists()  # the step that had ended did not run again


async def test_a_worker_that_is_killed_or_stopped(tmp_path):
    async with workers(tmp_path) as (one, other):
        first = one.run("wait a", request_id="1")
        await begun(tmp_path, "a", first)
        one.process.send_signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await first
        again = other.run("wait a", request_id="1", if_busy="enqueue")  # until the lease has expired
        go(tmp_path, "a")
        assert texts(await again) == ["wait a", "about wait a"]
        assert is_linear(await stored(tmp_path))


async def test_a_payment_is_made_once(tmp_path):
    async with workers(tmp_path) as (one, other):
        first = one.run("Order slow for 990", thread="x")
        await begun(tmp_path, "order-slow", first)
        assert failed(await other.run("Order slow for 990", thread="y")) == (409, "operation-in-progress")
        go(tmp_path, "order-slow")
        assert texts(await first)[-1] == "Paid: order-slow"
        assert texts(await other.run("Order slow for 990", thread="y"))[-1] == "Paid: order-slow"
        assert failed(await other.run("Order slow for 500", thread="z")) == (422, "operation-mismatch")
        assert (tmp_path / "charged").read_text().split() == ["order-slow"]


async def test_what_is_typed(tmp_path):
    (install, _), (directory, _), (one, _), (other, _), *calls = console("two-workers")
    assert {"fastapi", "uvicorn"} <= set(install.split())
    cwd = ROOT / directory.removeprefix("cd ")
    ports = {}
    with ExitStack() as stack:
        for command in (one, other):
            variables, words = split(command)
            assert list(variables) == ["LANGGRAPH_GCS_STORE"]
            shown = words[words.index("--port") + 1]
            ports[shown] = words[words.index("--port") + 1] = str(free_port())
            environment = {"LANGGRAPH_GCS_STORE": f"file://{tmp_path}/store", "PYTHONPATH": str(ROOT)}
            stack.enter_context(
                served(
                    uvicorn(words),
                    int(ports[shown]),
                    path="/health",
                    log=tmp_path / shown,
                    cwd=cwd,
                    environment=environment,
                )
            )
        assert calls
        for command, output in calls:
            (shown,) = re.findall(r"127\.0\.0\.1:(\d+)", command)
            assert await asyncio.to_thread(curl, command, int(ports[shown])) == output
