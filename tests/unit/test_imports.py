"""What importing the package loads, and what it offers."""

import subprocess
import sys

import pytest

import langgraph_gcs_saver


def loaded(code):
    code = f"import sys\n{code}\nprint(*(name for name in sys.modules if name.startswith('langgraph_gcs_saver')))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split())


def test_a_process_that_saves_and_loads_imports_nothing_else(tmp_path):
    found = loaded(
        "from langgraph_gcs_saver import GCSSaver\n"
        "from langgraph.checkpoint.base import empty_checkpoint\n"
        f"with GCSSaver.from_conn_string({tmp_path.as_uri()!r}) as saver:\n"
        "    config = {'configurable': {'thread_id': 't', 'checkpoint_ns': ''}}\n"
        "    config = saver.put(config, empty_checkpoint(), {}, {})\n"
        "    saver.put_writes(config, [('a', 1)], 'task')\n"
        "    assert saver.get_tuple(config) is not None\n"
        "    assert len(list(saver.list(config))) == 1\n"
    )
    late = (
        "catalogue",
        "collect",
        "copy",
        "lineage",
        "migrate",
        "prune",
        "repair",
        "setup",
        "survey",
        "sweep",
        "transfer",
    )
    assert found & {f"langgraph_gcs_saver.flows.{name}" for name in late} == set()
    assert (
        found & {f"langgraph_gcs_saver.{name}" for name in ("cli", "foreign", "retention", "settings", "testing")}
        == set()
    )


@pytest.mark.parametrize("name", langgraph_gcs_saver.__all__)
def test_what_is_offered_is_there(name):
    assert getattr(langgraph_gcs_saver, name) is not None
    assert name in dir(langgraph_gcs_saver)


def test_what_is_not_offered_is_not_there():
    for module in (langgraph_gcs_saver, langgraph_gcs_saver.flows):
        with pytest.raises(AttributeError, match="nothing"):
            _ = module.nothing
