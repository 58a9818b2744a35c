"""LangGraph's own server with our saver, as its guide has it. `make soak` installs it in an environment of its own."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import httpx
import pytest

from langgraph_gcs_saver import GCSSaver
from tests.docs import agents
from tests.docs.blocks import ROOT, console
from tests.docs.serving import curl, free_port, served
from tests.patience import PATIENCE

EXAMPLE = ROOT / "docs" / "examples" / "langgraph-server"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def program():
    found = Path(os.environ.get("LANGGRAPH_SERVER_BIN", ROOT / ".venv-server" / "bin")) / "langgraph"
    assert found.exists(), f"there is no {found}: make .venv-server/installed"
    return str(found)


def test_what_make_starts():
    """The guide's commands are for the server that `make server` starts."""
    (make, _), (export, _), (threads, _), (runs, _) = console("langgraph-server")
    assert make == "make server"
    default = dict(re.findall(r"^(PORT|STORE) \?= (\S+)$", MAKEFILE, re.MULTILINE))
    assert export == f"export SERVER=http://127.0.0.1:{default['PORT']}"
    assert all('"$SERVER/threads' in command for command in (threads, runs))
    recipe = re.search(r"^server: .*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1].replace("\\\n", "")
    assert "cd docs/examples/langgraph-server && " in recipe
    assert 'LANGGRAPH_GCS_STORE="$(STORE)"' in recipe
    assert recipe.rstrip().endswith("--port $(PORT)")
    text = (ROOT / "docs" / "guides" / "langgraph-server.md").read_text(encoding="utf-8")
    assert f'--store "{default["STORE"].replace("$(CURDIR)", "$PWD")}"' in text
    locked = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements-server.txt").read_text(), re.MULTILINE))
    for name, version in re.findall(r"`(langgraph-(?:api|cli))` ([\d.]+\d)", text):
        assert locked[name].startswith(f"{version}."), name
    thread_id = json.loads(shlex.split(threads)[-1])["thread_id"]
    assert f"/threads/{thread_id}/runs/wait" in runs
    assert f"`langgraph-gcs history {thread_id} " in text


def server_options(tmp_path, directory, *more):
    """A free port, what starts the server there, and how."""
    port = free_port()
    words = [program(), "dev", "--no-browser", "--no-reload", "--port", str(port)]
    environment = {"LANGGRAPH_GCS_STORE": f"file://{tmp_path}/store", "LANGGRAPH_CLI_NO_ANALYTICS": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(more)}
    environment |= {"PATH": f"{Path(words[0]).parent}{os.pathsep}{os.environ['PATH']}"}
    return port, words, {"path": "/ok", "log": tmp_path / "log", "cwd": directory, "environment": environment}


@pytest.mark.soak
def test_the_adapter_does_not_forward_the_history_of_delta_channels():
    """A bug that the guide has a workaround for."""
    (adapter,) = Path(program()).parents[1].glob("lib/python*/site-packages/langgraph_api/_checkpointer/_adapter.py")
    (found,) = [
        node
        for node in ast.walk(ast.parse(adapter.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == "_CustomCheckpointerAdapter"
    ]
    methods = {node.name for node in found.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert "aget_tuple" in methods
    assert "aget_delta_channel_history" not in methods, (
        "LangGraph Server forwards aget_delta_channel_history now: take the section on DeltaChannels out of "
        "docs/guides/langgraph-server.md, and this test with it"
    )


@pytest.mark.soak
def test_a_thread_survives_the_server(tmp_path):
    directory = tmp_path / "example"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    store = f"file://{tmp_path}/store"
    port, words, options = server_options(tmp_path, directory)
    make_thread, run = (
        command.replace("$SERVER", "http://127.0.0.1:2024") for command, _ in console("langgraph-server")[2:]
    )
    thread_id = json.loads(shlex.split(make_thread)[-1])["thread_id"]
    for stop, count in ((signal.SIGINT, 1), (signal.SIGKILL, 3), (signal.SIGINT, 5)):
        with served(words, port, stop=stop, **options):
            assert "Using custom checkpointer: GCSSaver" in options["log"].read_text()
            assert json.loads(curl(make_thread, port))["thread_id"] == thread_id
            messages = json.loads(curl(run, port))["messages"]
            assert [one["content"] for one in messages[-2:]] == ["Good morning", f"This thread has {count} messages."]
            if count == 5:
                # What the server hands on to the saver.
                url = f"http://127.0.0.1:{port}/threads/{thread_id}"
                copied = httpx.post(f"{url}/copy", timeout=PATIENCE).raise_for_status().json()["thread_id"]
                httpx.delete(url, timeout=PATIENCE).raise_for_status()
        # Of what the server keeps itself, nothing has to be left.
        shutil.rmtree(directory / ".langgraph_api", ignore_errors=True)
    with GCSSaver.from_conn_string(store) as saver:
        assert [one.thread_id for one in saver.admin.threads()] == [copied]
        config = {"configurable": {"thread_id": copied}}
        assert len(saver.get_tuple(config).checkpoint["channel_values"]["messages"]) == 6
        assert [*saver.admin.verify(depth="data")] == []


@pytest.mark.soak
def test_an_agent_waits_for_a_person_while_the_server_is_killed(tmp_path):
    """What `create_agent` makes, with middleware, in the place of the example's graph; tokens are streamed."""
    directory = tmp_path / "example"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    (directory / "agent.py").write_text("from tests.docs import agents\n\ngraph = agents.make()\n")
    port, words, options = server_options(tmp_path, directory, str(ROOT))
    thread = {"thread_id": "6f9c1f0e-7f4e-4d0b-9d5c-2b1c0a6f4e11", "if_exists": "do_nothing"}
    url = f"http://127.0.0.1:{port}/threads/{thread['thread_id']}"

    def run(**body):
        httpx.post(f"http://127.0.0.1:{port}/threads", json=thread, timeout=PATIENCE).raise_for_status()
        body |= {"assistant_id": "agent", "stream_mode": ["updates", "messages-tuple"], "durability": "sync"}
        answer = httpx.post(f"{url}/runs/stream", json=body, timeout=PATIENCE).raise_for_status()
        lines = [line.partition(": ") for line in answer.text.splitlines()]
        kinds = [value for name, _, value in lines if name == "event"]
        return list(zip(kinds, [json.loads(value) for name, _, value in lines if name == "data"], strict=True))

    with served(words, port, stop=signal.SIGKILL, **options):
        found = run(input={"messages": [{"role": "user", "content": "Publish: it"}]})
        updates = [data for kind, data in found if kind == "updates"]
        assert updates, found
        (question,) = updates[-1]["__interrupt__"]
        assert question["value"]["action_requests"][0]["name"] == "publish"
    with served(words, port, stop=signal.SIGINT, **options):
        found = run(command={"resume": {question["id"]: agents.APPROVE}})
        tokens = [data[0] for kind, data in found if kind == "messages" and data[0]["type"] == "AIMessageChunk"]
        assert "".join(token["content"] for token in tokens) == "The tool said: published it"
        assert {"Silent.after_model": None} in [data for kind, data in found if kind == "updates"]
        state = httpx.get(f"{url}/state", timeout=PATIENCE).raise_for_status().json()
        assert (state["next"], state["values"]["asked"]) == ([], 2)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        assert [*saver.admin.verify(depth="data")] == []
