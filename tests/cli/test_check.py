"""`langgraph-gcs check`: what it prints, and its exit codes."""

import json
import re

import pytest

from langgraph_gcs_saver import GCSSaver, references, run
from langgraph_gcs_saver.references import checkers
from tests.cli import agents_that_work

CONFIG = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def store_uri(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def there(monkeypatch):
    """What the checker of the scheme `test` finds."""
    monkeypatch.setattr(checkers, "_registered", {})
    found = {"test:1": {"v": 1}}
    references.register("test", lambda uris: [(uri, found.get(uri)) for uri in uris])
    return found


@pytest.fixture
def _asked(store_uri, there):
    with GCSSaver.from_conn_string(store_uri) as saver:
        graph = agents_that_work.build()
        graph.checkpointer = saver
        run(graph, {"log": [{"type": "lg_ref", "uri": "test:1", "v": 1}]}, CONFIG)


APP = "tests.cli.agents_that_work:build"


@pytest.mark.usefixtures("_asked")
def test_what_is_ok(command):
    ended = command("check", "t", "--app", APP)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"ok +test:1 +log\[0\]", ended.out)
    assert "1 finding." in ended.out


@pytest.mark.usefixtures("_asked")
def test_what_is_not_ok(command, there):
    there.clear()
    ended = command("check", "t", "--json")
    assert (ended.code, ended.err) == (4, "langgraph-gcs: 1 not ok.\n")
    [found] = json.loads(ended.out)
    assert {"what": "reference", "kind": "missing", "path": "log[0]", "is_problem": True}.items() <= found.items()


@pytest.mark.usefixtures("_asked")
def test_a_graph_that_has_changed(command, tmp_path, monkeypatch):
    (tmp_path / "other_agent.py").write_text(
        "from langgraph.graph import START, StateGraph\n"
        "graph = StateGraph(dict).add_node('x', lambda state: {}).add_edge(START, 'x').compile()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    ended = command("check", "t", "--app", "other_agent:graph")
    assert ended.code == 4
    assert re.search(r"graph changed +node ask", ended.out)
    assert re.search(r"graph changed +channel log", ended.out)


def test_a_thread_or_graph_that_is_not_there(command, store_uri):
    GCSSaver.from_conn_string(store_uri).close()
    assert command("setup").code == 0
    ended = command("check", "none")
    assert (ended.code, "no thread 'none'" in ended.err) == (1, True)
    assert command("check", "none", "--app", "no_such_module:graph").code == 2
