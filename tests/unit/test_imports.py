"""What importing the package loads, and what it offers."""

import subprocess
import sys
from textwrap import dedent

import pytest

import langgraph_gcs_saver
from langgraph_gcs_saver import GCSSaver, testing
from tests.cli.filled import fill


def all_loaded(code):
    """The modules that a process has imported after it ran `code`, which must print nothing."""
    code = f"import sys\n{dedent(code)}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    )


def loaded(code):
    return {name for name in all_loaded(code) if name.startswith("langgraph_gcs_saver")}


LANGGRAPH = ("langgraph", "langchain_core")
"""What takes most of an agent's start."""

GOOGLE = ("google.cloud", "grpc", "google.auth", "requests")
"""What Google's clients bring; protobuf is a library of its own."""


def below(names, tops):
    return sorted(name for name in names if any(name == top or name.startswith(f"{top}.") for top in tops))


def test_importing_the_package_loads_neither_langgraph_nor_googles_clients():
    assert below(all_loaded("import langgraph_gcs_saver"), (*LANGGRAPH, *GOOGLE)) == []


def test_the_embedded_store_needs_no_client_of_google(tmp_path):
    found = all_loaded(
        f"""
        from langgraph_gcs_saver import GCSSaver
        with GCSSaver.from_conn_string({tmp_path.as_uri()!r}) as saver:
            assert saver.admin.threads() == []
        """
    )
    assert below(found, ("langgraph.checkpoint",))
    assert below(found, ("google.cloud", "grpc", "google.auth")) == []


COMMAND = """
from contextlib import redirect_stdout
from io import StringIO
from langgraph_gcs_saver.cli.app import app

def run(*arguments):
    with redirect_stdout(StringIO()) as out:
        try:
            app(arguments, prog_name="langgraph-gcs")
        except SystemExit as ended:
            assert not ended.code, (arguments, ended.code)
    return out.getvalue()
"""


def test_help_imports_what_it_shows_and_nothing_that_commands_work_with():
    found = all_loaded(
        COMMAND
        + dedent(
            """
            import typer
            text, commands = run("--help"), typer.main.get_command(app).commands
            assert len(commands) > 20
            for name, command in commands.items():
                assert name in text and " ".join(command.help.split())[:20] in text
                assert "Example: " in run(name, "--help")
            """
        )
    )
    heavy = ("sqlite3", "zstandard", "google_crc32c", "google.protobuf")
    assert below(found, (*LANGGRAPH, *GOOGLE, *heavy)) == []
    ours = ("admin", "saver", "runners", "flows", "stores", "testing")
    assert below(found, [f"langgraph_gcs_saver.{name}" for name in ours]) == []


NEEDS_NO_STATE = (
    ("setup",),
    ("threads",),
    ("history", "t"),
    ("stats",),
    *(("verify", "t", "--depth", depth) for depth in ("metadata", "existence", "data")),
    ("pin", "t", "latest", "label"),
    ("unpin", "t", "latest"),
    ("prune", "t", "--keep-last", "2", "--yes"),
    ("copy", "t", "copied"),
    ("collect", "--yes"),
    ("sweep", "--ttl", "1d", "--yes"),
    ("export", "t", "ARCHIVE"),
    ("import", "ARCHIVE", "--as", "imported"),
    ("push", "t", "OTHER"),
    ("pull", "copied", "STORE", "OTHER"),
    ("delete", "t", "--yes"),
)
"""Commands that decode no state, in an order in which each has something to do."""


def test_commands_that_decode_no_state_import_no_langgraph(tmp_path):
    store = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(store) as saver:
        fill(saver)
    places = {"ARCHIVE": str(tmp_path / "t.tar"), "OTHER": (tmp_path / "other").as_uri(), "STORE": store}
    lines = [[places.get(word, word) for word in line] for line in NEEDS_NO_STATE]
    found = all_loaded(
        COMMAND
        + dedent(
            f"""
            import os
            os.environ["LANGGRAPH_GCS_STORE"] = {store!r}
            for line in {lines!r}:
                assert run(*line), line
            """
        )
    )
    assert below(found, (*LANGGRAPH, "google.cloud", "grpc", "google.auth")) == []
    assert "langgraph_gcs_saver.saver.checkpointer" not in found
    with GCSSaver.from_conn_string(store) as saver:
        assert {thread.thread_id for thread in saver.admin.threads()} == {"copied", "imported"}


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


@pytest.mark.parametrize("name", testing.__all__)
def test_what_testing_offers_is_there(name):
    assert getattr(testing, name) is not None
    assert name in dir(testing)


@pytest.mark.parametrize("name", langgraph_gcs_saver.__all__)
def test_what_is_offered_is_there(name):
    assert getattr(langgraph_gcs_saver, name) is not None
    assert name in dir(langgraph_gcs_saver)


def test_what_is_not_offered_is_not_there():
    for module in (langgraph_gcs_saver, langgraph_gcs_saver.flows, testing):
        with pytest.raises(AttributeError, match="nothing"):
            _ = module.nothing
