"""The guide about testing an agent; and the agents of examples, notebooks and the demo, which survive kills."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from langgraph_gcs_saver import NOT_DONE
from langgraph_gcs_saver.cli.demo import agent as demo_agent
from langgraph_gcs_saver.testing import Attempt, NotSurvivedError, kill_everywhere
from tests.docs import agents
from tests.docs.blocks import ROOT, blocks, console
from tests.patience import PATIENCE

GUIDE = ROOT / "docs" / "guides" / "test-your-agent.md"
NAMES = ("my_agent", "test_my_agent", "careless_agent", "service", "agent", "payer", "pipeline", "reporter", "worker")
"""Modules of examples and notebooks, some of which have the same name."""

needs_interrupts = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="LangGraph's interrupts in asynchronous runs need Python 3.11"
)


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes the modules of a directory the ones to import."""

    def choose(directory: str) -> None:
        monkeypatch.syspath_prepend(str(ROOT / directory))

    before = {name: sys.modules.pop(name, None) for name in NAMES}
    yield choose
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


# The guide


def test_the_guide_is_typed(tmp_path: Path) -> None:
    (directory, _), (command, output) = console("test-your-agent")
    python, *words = command.split()
    assert (python, output) == ("python", "2 passed")
    ran = subprocess.run(
        [sys.executable, *words, "-p", "no:cacheprovider", "--rootdir", str(tmp_path)],
        cwd=ROOT / directory.removeprefix("cd "),
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=PATIENCE,
    )
    assert re.search(rf"^{output} in ", ran.stdout, re.MULTILINE), ran.stdout + ran.stderr


def test_the_guide_shows_the_failure(of: Any) -> None:
    of("docs/examples/test-your-agent")
    build, test = import_module("careless_agent").build, import_module("test_my_agent")
    with pytest.raises(NotSurvivedError) as caught:
        kill_everywhere(build, test.ORDER, test.check, answers=["yes"], mode="crash", durability="sync")
    (shown,) = [block.text for block in blocks(GUIDE) if block.language == "text"]
    # Which requests a run makes, and in which order, is no promise.
    found, wanted = (re.sub(r"\d+|before|after|\(\w+\)", "…", text) for text in (str(caught.value), shown.strip()))
    assert set(found.splitlines()) == set(wanted.splitlines())


# Our own agents


def pays_once(result: dict[str, Any], attempt: Attempt) -> None:
    assert result["receipt"] == "receipt of order-17"
    assert (attempt.folder / "charges").read_text().splitlines() == ["order-17"]


def pay(module: Any, saver: Any, folder: Path) -> Any:
    """The agent of notebook 6, with a provider that can be asked."""
    charges = folder / "charges"

    def look_up(key: str) -> Any:
        done = charges.read_text().splitlines() if charges.exists() else []
        return {"receipt": f"receipt of {key}"} if key in done else NOT_DONE

    return module.build(charges, reconcile=look_up).compile(checkpointer=saver)


def demo_context() -> demo_agent.Context:
    return demo_agent.Context(lambda number, name: None)


def said(text: str) -> dict[str, Any]:
    return {"messages": [("human", text)]}


DEMO = {"queue": demo_agent.modules(3), "rank_by": "lines", "findings": []}
IN_PACKAGES: dict[str, dict[str, Any]] = {
    "create_agent": {"build_graph": agents.make, "inputs": said("Publish: it"), "answers": [agents.APPROVE]},
    "demo": {
        "build_graph": demo_agent.build,
        "inputs": DEMO,
        "answers": ["yes"],
        "context_factory": demo_context,
        "saver_options": {"serde": demo_agent.SERDE},
    },
}
"""Agents that other processes can import."""

Make = Callable[[Any], dict[str, Any]]
IN_DIRECTORIES: dict[str, tuple[str, str, Make]] = {
    "reading": (
        "notebooks",
        "agent",
        lambda found: {"build_graph": lambda saver: found.build().compile(checkpointer=saver), "inputs": {"pages": []}},
    ),
    "paying": (
        "notebooks",
        "payer",
        lambda found: {
            "build_graph": lambda saver, folder: pay(found, saver, folder),
            "inputs": {"order": 17},
            "check": pays_once,
        },
    ),
    "working": (
        "notebooks",
        "worker",
        lambda found: {
            "build_graph": lambda saver: found.build("w").compile(checkpointer=saver),
            "inputs": {"done": []},
        },
    ),
    "reporting": (
        "notebooks",
        "reporter",
        lambda found: {
            "build_graph": lambda saver: found.build().compile(checkpointer=saver),
            "inputs": {"lengths": []},
            "answers": ["yes"],
        },
    ),
    "cloud-run": (
        "docs/examples/cloud-run",
        "agent",
        lambda found: {
            "build_graph": lambda saver: found.builder.compile(checkpointer=saver),
            "inputs": said("Publish: it"),
            "answers": ["yes"],
        },
    ),
    "pipeline": (
        "docs/examples/pipeline",
        "pipeline",
        lambda found: {
            "build_graph": found.build,
            "inputs": {"documents": next(iter(found.MAIL.values())), "facts": []},
            "saver_options": found.OPTIONS,
            "durability": "async",  # with "sync", LangGraph fails at a subgraph with `checkpointer=False`
        },
    ),
    "fastapi": (
        "docs/examples/fastapi",
        "service",
        lambda found: {
            "build_graph": found.make_agent,
            "inputs": said("Publish: it"),
            "answers": ["yes"],
            "is_async": True,
        },
    ),
    "two-workers": (
        "docs/examples/two-workers",
        "service",
        lambda found: {
            "build_graph": lambda saver: found.builder.compile(checkpointer=saver),
            "inputs": said("How many words?"),
            "is_async": True,
            "saver_options": {"writers": "leased"},
        },
    ),
    "langgraph-server": (
        "docs/examples/langgraph-server",
        "agent",
        lambda found: {
            "build_graph": lambda saver: found.graph.builder.compile(checkpointer=saver),
            "inputs": said("Hello"),
            "is_async": True,
        },
    ),
}
"""Agents of files in a directory: its name, the module, and the arguments for it."""

NAMES_OF_AGENTS = [
    pytest.param(name, marks=needs_interrupts if name == "fastapi" else ()) for name in (*IN_PACKAGES, *IN_DIRECTORIES)
]


def arguments(name: str, of: Any) -> dict[str, Any]:
    if name in IN_PACKAGES:
        return IN_PACKAGES[name]
    directory, module, make = IN_DIRECTORIES[name]
    of(directory)
    return make(import_module(module))


@pytest.mark.parametrize("name", NAMES_OF_AGENTS)
def test_our_agents_survive_some_crashes(name: str, of: Any) -> None:
    report = kill_everywhere(**{"durability": "sync", **arguments(name, of)}, mode="crash", limit=4)
    assert report.kills + report.missed == 4


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("name", NAMES_OF_AGENTS)
def test_our_agents_survive_crashes_everywhere(name: str, durability: str, of: Any) -> None:
    kill_everywhere(**{"durability": durability, **arguments(name, of)}, mode="crash")


@pytest.mark.soak
@pytest.mark.parametrize("name", ["create_agent"])
def test_our_agents_survive_real_kills(name: str) -> None:
    report = kill_everywhere(**IN_PACKAGES[name], durability="sync")
    assert report.resumed == 2 * len(report.effects)
