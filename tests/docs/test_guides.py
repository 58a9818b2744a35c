"""Every block of the guides does what it says: what is quoted is there, and what is typed prints what is shown."""

import ast
import asyncio
import importlib.util
import json
import os
import re
import shlex
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from langchain_core.messages import AIMessage, RemoveMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import GraphDrained
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Overwrite

from langgraph_gcs_saver import GCSSaver, arun
from langgraph_gcs_saver.address import GoogleAddress, parse
from langgraph_gcs_saver.cli.app import run
from tests.docs import agents
from tests.docs.blocks import GUIDES, ROOT, blocks, console
from tests.docs.serving import curl, free_port, served, split, uvicorn
from tests.kit.relay import Relay
from tests.patience import PATIENCE, aeventually, eventually

FASTAPI = ROOT / "docs/guides/fastapi.md"

BLOCKS = [block for path in GUIDES for block in blocks(path)]
EXAMPLES = ROOT / "docs" / "examples"


def test_there_is_something_to_try():
    assert [path.stem for path in GUIDES] == [
        "batches",
        "cloud-run",
        "cloud-tasks",
        "fastapi",
        "langgraph-server",
        "migrating",
        "pipeline",
        "test-your-agent",
        "two-workers",
        "survive-anything",
    ]
    assert {(block.language, block.title is None) for block in BLOCKS} == {
        ("console", True),
        ("python", True),
        ("python", False),
        ("text", True),
        ("dockerfile", False),
        ("yaml", False),
        ("json", False),
    }
    # Those without a title, and where they are typed.
    assert {(block.document, block.language) for block in BLOCKS if block.title is None} == {
        ("batches", "console"),  # test_batches.py
        ("batches", "python"),
        ("pipeline", "console"),  # test_pipeline.py
        ("pipeline", "python"),
        ("migrating", "console"),  # test_migrating
        ("migrating", "python"),
        ("fastapi", "console"),  # test_fastapi
        ("cloud-run", "console"),  # test_what_is_typed_to_google_cloud
        ("cloud-tasks", "console"),  # test_snippets.py knows the commands and their flags
        ("langgraph-server", "console"),  # test_langgraph_server.py
        ("test-your-agent", "console"),  # test_survival.py
        ("test-your-agent", "text"),
        ("two-workers", "console"),  # test_two_workers.py
        ("survive-anything", "console"),  # test_survive_anything.py
    }


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.title], ids=str)
def test_what_is_quoted_is_in_the_file(block):
    whole = (ROOT / block.title).read_text(encoding="utf-8")
    assert f"\n{block.text}" in f"\n{whole}"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]*)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve()
        assert found.exists(), target
        if anchor:
            titles = re.findall("^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


# migrating.md


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Runs a command of `langgraph-gcs` in an empty directory; `/home/me/store` is a store of the test's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delenv("LANGGRAPH_GCS_STORE", raising=False)

    def call(line):
        words = shlex.split(line.replace("file:///home/me/store", f"file://{tmp_path}/store"))
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
            return ""
        assert words[0] == "langgraph-gcs"
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        out, err = capsys.readouterr()
        assert (ended.value.code or 0, err) == (0, "")
        return out.strip()

    return call


def test_migrating(typed, tmp_path, monkeypatch, capsys):
    builder = StateGraph(MessagesState).add_node("ask", lambda _: {"messages": [("ai", "Yes?")]})
    builder.add_node("answer", lambda _: {"messages": [("ai", "So be it.")]})
    builder.add_edge(START, "ask").add_edge("ask", "answer").add_edge("answer", END)
    with SqliteSaver.from_conn_string("checkpoints.sqlite") as saver:
        for text in ("Good morning", "Good evening"):
            config = {"configurable": {"thread_id": "my-thread"}}
            builder.compile(checkpointer=saver).invoke({"messages": [("human", text)]}, config)
    (tmp_path / "here" / "my_app.py").write_text((EXAMPLES / "migrating" / "my_app.py").read_text())
    for command, output in console("migrating"):
        assert typed(command) == output
    monkeypatch.delitem(sys.modules, "my_app")
    (block,) = [
        block for block in BLOCKS if (block.document, block.language, block.title) == ("migrating", "python", None)
    ]
    exec(block.text.replace("/home/me/store", f"{tmp_path}/store"), {})
    shown = re.search(r"print\(migrated\)  # (.*)…", block.text)[1]
    assert capsys.readouterr().out.startswith(shown)


def test_migrating_an_agent_that_waits_for_a_person(tmp_path):
    config = {"configurable": {"thread_id": "my-thread"}}
    store = f"file://{tmp_path}/store"
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as source:
        asked = agents.make(source).invoke({"messages": [("human", "Publish: it")]}, config)
        with GCSSaver.from_conn_string(store) as saver:
            (migrated,) = saver.admin.migrate(source, ["my-thread"])
            assert migrated.checkpoints
    with GCSSaver.from_conn_string(store) as saver:
        agent = agents.make(saver)
        (question,) = agent.get_state(config).interrupts
        assert [question] == asked["__interrupt__"]
        done = agent.invoke(Command(resume={question.id: agents.APPROVE}), config)
        assert done["messages"][-1].text == "The tool said: published it"
        assert done["asked"] == 2


# fastapi.md


def load_service():
    spec = importlib.util.spec_from_file_location("service_of_the_guide", EXAMPLES / "fastapi" / "service.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dockerfile():
    lines = (EXAMPLES / "cloud-run" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if not line.startswith("#")]


HASTY = """
import functools, service

# Soon enough for a test; nothing else is changed.
service.GCSSaver.from_conn_string = functools.partial(service.GCSSaver.from_conn_string, timeout=3.0)
app = service.app
"""

SLOW = """
import asyncio, pathlib, service

async def reply(text):
    pathlib.Path("BEGUN").touch()
    await asyncio.Event().wait()

service.reply = reply
app = service.app
"""


SLOWLY = """
import asyncio, pathlib, service

async def reply(text):
    pathlib.Path("BEGUN").touch()
    while not pathlib.Path("GO").exists():
        await asyncio.sleep(0.01)
    return "slow"

service.reply = reply
app = service.app
"""


needs_interrupts = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="LangGraph's interrupts in asynchronous runs need Python 3.11, as the guide says",
)


def options_of(tmp_path, store):
    """How the service is started: in its own directory, beside programs of a test's."""
    _, (directory, _), *_ = console("fastapi")
    path = os.pathsep.join((str(ROOT), str(tmp_path)))
    return {
        "path": "/health",
        "log": tmp_path / "log",
        "cwd": ROOT / directory.removeprefix("cd "),
        "environment": {"LANGGRAPH_GCS_STORE": store, "PYTHONPATH": path, "WORKER_NAME": "worker-1"},
    }


class Questions:
    """Puts the ids of questions that the guide shows in the place of those that there are, and the other way round."""

    def __init__(self):
        self.shown = re.search("[0-9a-f]{32}", FASTAPI.read_text(encoding="utf-8"))[0]
        self.found = None

    def as_shown(self, answer):
        found = set(re.findall("[0-9a-f]{32}", answer))
        if found:
            assert len(found) == 1
            (self.found,) = found
            answer = answer.replace(self.found, self.shown)
        return answer

    def as_typed(self, command):
        return command.replace(self.shown, self.found) if self.found else command


@needs_interrupts
async def test_fastapi(tmp_path):
    (install, _), _, (server, _), *calls = console("fastapi")
    assert {"fastapi", "uvicorn"} <= set(install.split())
    variables, words = split(server)
    assert list(variables) == ["LANGGRAPH_GCS_STORE"]
    port = free_port()
    store = f"file://{tmp_path}/store"
    options = options_of(tmp_path, store)
    questions = Questions()
    *before, (resume, resumed) = calls
    assert len(before) == 2
    with served([*uvicorn(words), "--port", str(port)], port, **options):
        for command, output in before:
            assert questions.as_shown(await asyncio.to_thread(curl, command, port)) == output
        url = f"http://127.0.0.1:{port}/threads/nobody"
        assert (await asyncio.to_thread(httpx.get, url, timeout=PATIENCE)).status_code == 404
        for nothing in ({}, {"answers": {"0" * 32: "yes"}}):  # to resume
            assert (
                await asyncio.to_thread(httpx.post, f"{url}/runs", json=nothing, timeout=PATIENCE)
            ).status_code == 404
        ready = await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/ready", timeout=PATIENCE)
        assert ready.json() == {"status": "ready"}
    # As the guide says, it was stopped and is started again by the image's command. Only the place, how long it waits
    # for runs, and a slow model differ.
    words = json.loads(dict(dockerfile())["CMD"])
    for old, new in (("service:app", "slow:app"), ("0.0.0.0", "127.0.0.1"), ("8080", str(port)), ("8", "1")):
        words[words.index(old)] = new
    (tmp_path / "slow.py").write_text(SLOW.replace("BEGUN", str(tmp_path / "begun")))
    with served(uvicorn(words), port, **options) as process:
        assert await asyncio.to_thread(curl, questions.as_typed(resume), port) == resumed
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            url = f"http://127.0.0.1:{port}/threads/t/runs"
            cut_off = asyncio.ensure_future(client.post(url, json={"message": "one two three"}))
            await aeventually(lambda: (tmp_path / "begun").exists() or process.poll() is not None)
            assert process.poll() is None, options["log"].read_text()
            process.send_signal(signal.SIGTERM)
            assert (await cut_off).status_code == 500  # its stream had not begun
        # It does not wait for the model, which never answers.
        await asyncio.to_thread(process.wait, PATIENCE)
    assert options["log"].read_text().count("Application shutdown complete.") == 2
    async with GCSSaver.from_conn_string(store) as saver:
        graph = load_service().builder.compile(checkpointer=saver)
        config = {"configurable": {"thread_id": "t"}}
        assert (await graph.aget_state(config)).next == ("answer",)
        done = await arun(graph, None, config, owner="worker-1")  # the lease of a process that was cut off may be left
        assert [one.content for one in done["messages"]] == ["one two three", "That has 3 words."]
        assert [one async for one in saver.admin.verify(depth="data")] == []


AGENT = """
import service
from tests.docs import agents, dying_service

service.make_agent = agents.make
dying_service.prepare(service)
app = service.app
"""


def events(answer):
    """The events of a stream, as pairs of a kind and data."""
    assert answer.status_code == 200, answer.text
    lines = [part.split("\n") for part in answer.text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in lines]


def text_of(found):
    """What its tokens say."""
    return "".join(data["text"] for kind, data in found if kind == "token")


@needs_interrupts
def test_fastapi_with_an_agent_that_is_killed(tmp_path):
    """`create_agent` with middleware, a tool that a person approves, and tokens; each request may be cut off."""
    store = f"file://{tmp_path}/store"
    options = options_of(tmp_path, store)
    (tmp_path / "agent.py").write_text(AGENT)
    port = free_port()
    url = f"http://127.0.0.1:{port}/threads/t"
    words = [*uvicorn(["uvicorn", "agent:app"]), "--port", str(port)]

    def server(die=""):
        environment = options["environment"] | {"DIE_AT": die}
        return served(words, port, stop=signal.SIGKILL, **options | {"environment": environment})

    def send(**body):
        return events(httpx.post(f"{url}/runs", json=body, timeout=PATIENCE))

    asked = {"message": "Publish: it", "request_id": "1"}
    # The first try crashes between the writes of the model's step and its checkpoint.
    with server("ai") as process:
        with pytest.raises(httpx.TransportError):
            send(**asked)
        process.wait()
    with server():
        # "updates" brings that step first, with a mark that it was finished before; the model is not asked again.
        found = send(**asked)
        assert [kind for kind, _ in found] == ["step", "question", "end"]
        (_, step), (_, question), _ = found
        assert step["node"] == "model"
        assert question["value"]["action_requests"][0]["args"] == {"text": "it"}
        shown = httpx.get(url, timeout=PATIENCE).json()
        assert (shown["questions"], shown["finished"]) == ([question], False)
        assert [one["type"] for one in shown["messages"]] == ["human", "ai"]
    # The answer runs in another process, which crashes when the tool has run and its step has no checkpoint.
    answered = {"answers": {question["id"]: agents.APPROVE}, "request_id": "2"}
    with server("tool") as process:
        with pytest.raises(httpx.TransportError):
            send(**answered)
        process.wait()
    with server():
        found = send(**answered)
        assert text_of(found) == "The tool said: published it"
        steps = [data for kind, data in found if kind == "step"]
        assert {"node": "Silent.before_model", "messages": []} in steps  # its update is None
        assert {"node": "Counting.before_model", "messages": []} in steps  # a state that is no message
        # A repeated request does nothing twice, and the next turn begins afresh.
        assert send(**answered) == send() == [("end", {})]
        assert httpx.get(url, timeout=PATIENCE).json()["finished"]
        found = send(message="Good morning")
        assert text_of(found) == "There are 5 messages."
        refused = send(message="Publish: that")
        (question,) = [data for kind, data in refused if kind == "question"]
        assert text_of(send(answers={question["id"]: agents.REJECT})).endswith("Not today.")
    with GCSSaver.from_conn_string(store) as saver:
        state = agents.make(saver).get_state({"configurable": {"thread_id": "t"}}).values
        published, rejected = [one.text for one in state["messages"] if one.type == "tool"]
        assert published == "published it"
        assert rejected.endswith("Not today.")
        assert state["asked"] == 5
        assert not list(saver.admin.verify(depth="data"))


@needs_interrupts
def test_fastapi_ends_runs_at_their_next_boundary(tmp_path):
    options = options_of(tmp_path, f"file://{tmp_path}/store")
    begun, go = tmp_path / "begun", tmp_path / "go"
    (tmp_path / "slowly.py").write_text(SLOWLY.replace("BEGUN", str(begun)).replace("GO", str(go)))
    port = free_port()
    words = [*uvicorn(["uvicorn", "slowly:app"]), "--port", str(port)]
    body = {"message": "Publish: it"}
    with served(words, port, **options) as process, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(httpx.post, f"http://127.0.0.1:{port}/threads/t/runs", json=body, timeout=PATIENCE)
        eventually(lambda: begun.exists() or sent.done())
        process.send_signal(signal.SIGTERM)
        eventually(lambda: "Shutting down" in options["log"].read_text() or process.poll() is not None)
        go.touch()
        assert [kind for kind, _ in events(sent.result())] == ["step", "error"]
    assert process.returncode in (0, -signal.SIGTERM)
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        assert saver.thread("t").status().state == "paused"


@needs_interrupts
async def test_a_client_learns_that_it_may_try_again():
    service = load_service()

    def stop(state):
        raise GraphDrained("the process ends")

    def make(first):
        builder = StateGraph(MessagesState).add_node("first", first).add_node("stop", stop)
        return builder.add_edge(START, "first").add_edge("first", "stop").compile(checkpointer=saver)

    transport = httpx.ASGITransport(app=service.app)
    async with (
        GCSSaver.from_conn_string("memory:") as saver,
        httpx.AsyncClient(transport=transport, base_url="http://service", timeout=PATIENCE) as client,
    ):
        service.app.state.saver = saver
        service.app.state.agent = make(stop)
        async with saver.thread("t").lease():  # as another request has
            busy = await client.post("/threads/t/runs", json={"message": "hello"})
        assert (busy.status_code, busy.headers["Retry-After"]) == (409, "5")
        drained = await client.post("/threads/t/runs", json={"message": "hello"})
        assert (drained.status_code, drained.headers["Retry-After"]) == (503, "5")
        service.app.state.agent = make(lambda _: {"messages": [("ai", "yes?")]})
        begun = events(await client.post("/threads/u/runs", json={"message": "hello"}))
        assert [kind for kind, _ in begun] == ["step", "error"]
        assert begun[-1][1] == {"status": 503, "retry_after": 5}
        assert [(await saver.thread(one).astatus()).state for one in ("t", "u")] == ["paused", "paused"]


def test_what_nodes_return():
    service = load_service()
    hello = AIMessage("hello")
    for update, texts in (
        (None, []),
        ({"asked": 1}, []),
        ("whatever an entrypoint returns", []),
        ({"messages": None}, []),
        ({"messages": hello}, ["hello"]),
        ({"messages": [("ai", "hello"), {"role": "user", "content": "you"}]}, ["hello", "you"]),
        ({"messages": Overwrite([hello])}, ["hello"]),
        ({"messages": [RemoveMessage("1"), hello]}, ["hello"]),
        ([{"messages": [hello]}, None, {"messages": [hello]}], ["hello", "hello"]),
    ):
        assert [one.text for one in service.messages_of(update)] == texts


def test_the_guide_warns_of_ids_that_say_who_somebody_is():
    text = " ".join(FASTAPI.read_text(encoding="utf-8").split())
    assert "a random id for each user, not a name or an e-mail address" in text
    assert "{user}" not in text


@needs_interrupts
def test_ready_notices_a_store_that_goes_away(tmp_path, firestore_emulator, storage_emulator, project_id):
    """Each service becomes unreachable and comes back while the guide's program runs."""
    port, bucket = free_port(), f"late-{project_id}"
    with Relay(firestore_emulator) as documents, Relay(urlsplit(storage_emulator).netloc) as objects:
        options = options_of(tmp_path, f"gs://{bucket}/agents?project={project_id}")
        options["environment"] |= {
            "FIRESTORE_EMULATOR_HOST": documents.host,
            "STORAGE_EMULATOR_HOST": f"http://{objects.host}",
        }
        (tmp_path / "hasty.py").write_text(HASTY)
        words = [*uvicorn(["uvicorn", "hasty:app"]), "--port", str(port)]
        with served(words, port, **options) as process:

            def ask(path):
                assert process.poll() is None
                return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE)

            def wait_for(kind):
                """Until /ready says so: a busy machine may not answer within the saver's timeout."""
                eventually(lambda: ask("/ready").json() == kind)
                assert ask("/health").status_code == 200

            wait_for({"detail": "The store: store-not-found"})  # there is no bucket yet
            made = httpx.post(f"{storage_emulator}/storage/v1/b?project=p", json={"name": bucket}, timeout=PATIENCE)
            made.raise_for_status()
            wait_for({"status": "ready"})
            for service in (documents, objects):
                service.cut()
                gone = ask("/ready")
                assert gone.status_code == 503
                # A busy machine may reach the example's limit before the saver's.
                assert gone.json()["detail"] in {"The store: unavailable", "The store: no answer"}
                assert ask("/health").status_code == 200
                service.restore()
                wait_for({"status": "ready"})
        assert "Not ready: " in options["log"].read_text()


# cloud-run.md


def of_yaml(name):
    return yaml.safe_load((EXAMPLES / "cloud-run" / name).read_text(encoding="utf-8"))


SERVICE = of_yaml("service.yaml")["spec"]["template"]
JOBS = {
    name: of_yaml(f"{name}.yaml")["spec"]["template"]["spec"]["template"]["spec"]
    for name in ("job", "sweep", "recover")
}
JOB = JOBS["sweep"]


def test_service_job_and_image_belong_together():
    (service,), (job,) = SERVICE["spec"]["containers"], JOB["containers"]
    strict = {"name": "LANGGRAPH_STRICT_MSGPACK", "value": "true"}
    for name, one in JOBS.items():
        (container,) = one["containers"]
        assert service["image"] == container["image"]
        assert SERVICE["spec"]["serviceAccountName"] == one["serviceAccountName"]
        # A sweep makes no objects of values. Those that run a graph need to know which are allowed.
        assert container["env"] == [*job["env"], *([] if name == "sweep" else [strict])]
    assert service["env"][:2] == [*job["env"], strict]
    assert {one["name"] for one in service["env"][2:]} == {"TASKS_QUEUE", "TASKS_ACCOUNT", "TASKS_URL"}
    ((name, uri),) = [(one["name"], one["value"]) for one in job["env"]]
    address = parse(uri)
    assert name == "LANGGRAPH_GCS_STORE"
    assert isinstance(address, GoogleAddress)
    assert (address.bucket, address.project) == ("my-bucket", "my-project")
    words = json.loads(dict(dockerfile())["CMD"])
    assert words[words.index("--port") + 1] == str(service["ports"][0]["containerPort"])
    # Cloud Run kills ten seconds after SIGTERM.
    assert int(words[words.index("--timeout-graceful-shutdown") + 1]) < 10
    assert SERVICE["spec"]["timeoutSeconds"] <= 3600
    # A store that cannot be reached keeps an instance from starting, and restarts none.
    probes = {name: value["httpGet"]["path"] for name, value in service.items() if name.endswith("Probe")}
    # test_cloud_run.py asks them.
    assert probes == {"startupProbe": "/health/readyz", "livenessProbe": "/health/livez"}


def test_what_the_image_takes_is_there():
    steps = dockerfile()
    for step, arguments in steps:
        if step == "COPY":
            assert all((ROOT / one).exists() for one in arguments.split()[:-1]), arguments
    needed = re.search(r'"/src\[(\w+)\]" (.*)$', dict(steps)["RUN"])
    assert needed[1] == "cli"
    programs = [EXAMPLES / "cloud-run" / name for name in ("agent.py", "service.py", "job.py")]
    assert {str(one.relative_to(ROOT)) for one in programs} <= set(" ".join(dict(steps)["COPY"].split()).split())
    imported = {
        name.split(".")[0]
        for program in programs
        for node in ast.walk(ast.parse(program.read_text()))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [])
    }
    # What the saver, or FastAPI, brings. `google.auth` is one of the saver's packages, and needs `requests` here.
    ours = {"agent", "langgraph", "langchain_core", "langgraph_gcs_saver", "pydantic", "google"}
    assert "requests" in needed[2].split()
    assert imported - sys.stdlib_module_names - ours <= set(needed[2].split())


def test_the_job_runs(tmp_path, monkeypatch, capsys):
    (job,) = JOB["containers"]
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        saver.setup()
    monkeypatch.setenv("LANGGRAPH_GCS_STORE", f"file://{tmp_path}/store")
    text = (ROOT / "docs" / "guides" / "cloud-run.md").read_text(encoding="utf-8")
    other = json.loads(re.search(r"`args: (\[.*?\])`", text)[1])
    for arguments in (job["args"], other):
        monkeypatch.setattr(sys, "argv", [*job["command"], *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        assert not ended.value.code
        assert json.loads(capsys.readouterr().out) is not None


GCLOUD = {
    "artifacts repositories create": {"--repository-format", "--location", "--project"},
    "auth configure-docker": set(),
    "iam service-accounts create": {"--project"},
    "services enable": {"--project"},
    "run jobs add-iam-policy-binding": {"--region", "--project", "--member", "--role"},
    "run services add-iam-policy-binding": {"--region", "--project", "--member", "--role"},
    "run services describe": {"--region", "--project", "--format"},
    "run services replace": {"--region", "--project"},
    "run jobs replace": {"--region", "--project"},
    "run jobs execute": {"--region", "--project", "--wait"},
    "scheduler jobs create http": {
        *("--location", "--project", "--schedule", "--http-method", "--uri", "--oauth-service-account-email"),
    },
}
"""Commands of gcloud, and the flags of theirs that the guide gives, as gcloud's reference has them."""


def test_what_is_typed_to_google_cloud():
    domain = "@my-project.iam.gserviceaccount.com"
    image = SERVICE["spec"]["containers"][0]["image"]
    found, made = set(), set()
    for command, output in console("cloud-run"):
        assert output == ""
        program, *words = shlex.split(command)
        if program == "curl":
            path, _, body = [word for word in words if word.startswith(("$URL", "authorization", "{"))]
            program = (EXAMPLES / "cloud-run" / "service.py").read_text(encoding="utf-8")
            assert f'post("{path.removeprefix("$URL").replace("/1/", "/{thread_id}/")}")' in program
            assert json.loads(body).keys() == {"message", "request_id"}
            continue
        if program == "export":
            (inner,) = re.findall(r'^export URL="\$\((.*)\)"$', command)
            program, *words = shlex.split(inner)
        else:
            assert not re.search(r"[;&|<>`$]", command), "one plain command"
        if program == "docker":
            assert words[-1] in {".", image}
            continue
        assert program == "gcloud"
        line = " ".join(words)
        (name,) = [one for one in GCLOUD if line.startswith(f"{one} ")]
        found.add(name)
        flags = dict(word.split("=", 1) if "=" in word else (word, "") for word in words if word.startswith("--"))
        assert flags.keys() == GCLOUD[name]
        if name == "iam service-accounts create":
            made.add(words[3] + domain)
        for value in (flags.get("--member", ""), flags.get("--oauth-service-account-email", "")):
            assert value.removeprefix("serviceAccount:") in {"", "user:YOUR_EMAIL", *made}
        if name == "artifacts repositories create":
            assert image.startswith(f"{flags['--location']}-docker.pkg.dev/my-project/{words[3]}/")
        if name == "auth configure-docker":
            assert image.startswith(f"{words[2]}/")
        if name.endswith("add-iam-policy-binding"):
            kind = of_yaml("service.yaml" if "services" in name else "sweep.yaml")
            assert (words[3], flags["--role"]) == (kind["metadata"]["name"], "roles/run.invoker")
        assert all((ROOT / word).exists() for word in words if word.endswith(".yaml"))
        if "--uri" in flags:
            assert flags["--uri"].endswith(f"/jobs/{of_yaml('sweep.yaml')['metadata']['name']}:run")
    assert found == set(GCLOUD)
    guide = (ROOT / "docs" / "guides" / "cloud-run.md").read_text(encoding="utf-8")
    setup = (ROOT / "docs" / "guides" / "platform-settings.md").read_text(encoding="utf-8")
    roles = re.findall(r"^\| running: .*?`(roles/[\w.]+)`", setup, re.MULTILINE)
    assert roles
    assert all(f"`{role}`" in guide for role in roles)


def test_the_service_fits_what_operations_makes():
    operations = (ROOT / "docs" / "guides" / "operations.md").read_text(encoding="utf-8")
    typed = operations.partition("\n## Setup\n")[2].partition("\n## ")[0]
    (value,) = [one["value"] for one in JOB["containers"][0]["env"]]
    assert f'export LANGGRAPH_GCS_STORE="{value}"' in typed
    name, _, domain = SERVICE["spec"]["serviceAccountName"].partition("@")
    assert f"iam service-accounts create {name} " in typed
    assert f"--member=serviceAccount:{name}@{domain} --role=roles/datastore.user --condition=" in typed
    assert f"--member=serviceAccount:{name}@{domain} --role=roles/storage.objectUser" in typed
