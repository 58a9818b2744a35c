"""docs/reference/cli.md is the help of the commands, and each command has enough help."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from langgraph_gcs_saver.cli import reference
from tests.kit.all_errors import errors_by_name
from tests.patience import PATIENCE

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
COMMANDS = dict(reference.commands())


def test_the_document_is_what_the_commands_say():
    assert DOCUMENT.read_text(encoding="utf-8") == reference.reference(), (
        "run: python -m langgraph_gcs_saver.cli.reference > docs/reference/cli.md"
    )


@pytest.mark.parametrize("columns", ["20", "300"])
def test_the_terminal_has_no_say(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERMINAL_WIDTH", columns)
    monkeypatch.setenv("LANGGRAPH_GCS_STORE", "file:///elsewhere")
    assert reference.reference() == DOCUMENT.read_text(encoding="utf-8")


def test_links_lead_to_sections():
    text = reference.reference()
    sections = {line[3:].replace("`", "").replace(" ", "-").lower() for line in text.splitlines() if line[:3] == "## "}
    assert set(re.findall(r"\(#([^)]*)\)", text)) <= sections


def test_every_exit_code_is_listed():
    table = reference.reference().partition("## Exit codes")[2].partition("## ")[0]
    listed = {name: int(line.split("|")[1]) for line in table.splitlines() for name in re.findall(r"`(\w+)`", line)}
    known = {name: error.exit_code for name, error in errors_by_name().items()}
    assert listed.items() <= known.items()
    assert set(listed.values()) == set(known.values()) - {1}


def test_it_is_printed():
    printed = subprocess.run(
        [sys.executable, "-W", "ignore::FutureWarning", "-m", "langgraph_gcs_saver.cli.reference"],
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=True,
    )
    assert printed.stdout == reference.reference()
    assert printed.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_with_an_example(name):
    command, context = COMMANDS[name]
    line = reference.first_line(command)
    assert line.endswith("."), "the first paragraph is one sentence"
    assert len(line) <= 120
    shown = reference.example(command)
    assert shown is not None, "the help must end with: Example: langgraph-gcs …"
    assert f"\n  {reference.EXAMPLE}{shown}\n" in command.get_help(context), "the example must fit in a line"
    # It can be typed as it stands: parsed, and not run.
    words = shlex.split(shown)
    group = typer.main.get_command(reference.app)
    root = group.make_context("langgraph-gcs", words[1:])
    assert words[0] == "langgraph-gcs"
    path = name.split()
    assert words[1 : 1 + len(path)] == path
    command.make_context(path[-1], words[1 + len(path) :], parent=root)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_is_explained(name):
    command, _ = COMMANDS[name]
    for parameter in command.params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), parameter.name
    assert "as_json" in {parameter.name for parameter in command.params}


def test_what_destroys_asks_and_can_be_tried():
    for name, (command, _) in COMMANDS.items():
        parameters = {parameter.name for parameter in command.params}
        if "yes" in parameters:
            assert "dry_run" in parameters, name
    assert {"prune", "delete", "sweep", "collect", "repair"} <= {
        name for name, (command, _) in COMMANDS.items() if "yes" in {parameter.name for parameter in command.params}
    }
