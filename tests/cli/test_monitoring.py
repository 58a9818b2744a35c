"""monitoring: the files that it writes and says, what it replaces, and what it leaves alone."""

import json
from inspect import signature
from pathlib import Path

import pytest

from langgraph_gcs_saver import monitoring
from langgraph_gcs_saver.cli.commands.monitoring import monitoring as defined
from langgraph_gcs_saver.cli.durations import duration

STORE = "gs://my-bucket/agents?project=my-project&database=agents"
pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


def test_the_command_writes_all_files(command, tmp_path):
    folder = tmp_path / "deploy"
    ended = command("monitoring", "--write", str(folder), "--store", STORE, "--label", "agent", "--budget", "7")
    assert (ended.code, ended.err) == (0, "")
    written = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert written == monitoring.files(STORE, bounds=monitoring.Bounds(budget=7), labels=["agent"])
    assert [f"Written: {folder / name}" in ended.out for name in written] == [True] * len(written)
    assert "terraform plan" in ended.out
    assert not any(str(place) in text for place in (tmp_path, Path.home(), Path.cwd()) for text in written.values())


def test_earlier_files_are_replaced_and_those_of_others_stay(command, tmp_path):
    command("monitoring", "--write", str(tmp_path), "--store", STORE)
    (tmp_path / "terraform.tfvars").write_text('region = "europe-west1"\n')
    ended = command("monitoring", "--write", str(tmp_path), "--store", STORE, "--lag", "9s", "--json")
    assert {Path(file).name for file in json.loads(ended.out)["files"]} >= {"lag.json", "main.tf"}
    assert "> 9" in (tmp_path / "alerts/lag.json").read_text()
    assert (tmp_path / "terraform.tfvars").read_text() == 'region = "europe-west1"\n'


def test_what_the_command_says_if_it_cannot(command, tmp_path):
    (tmp_path / "file").write_text("")
    ended = command("monitoring", "--write", str(tmp_path / "file"), "--store", STORE)
    assert (ended.code, ended.out) == (1, "")
    assert "the files were not written" in ended.err
    ended = command("monitoring", "--write", str(tmp_path / "no"), "--store", "memory:")
    assert (ended.code, ended.out) == (2, "")
    assert "gs://BUCKET/PREFIX" in ended.err
    assert not (tmp_path / "no").exists()


def test_the_command_has_the_same_bounds(store_uri):
    typed = {name: one.default for name, one in signature(defined).parameters.items()}
    bounds = monitoring.Bounds()
    assert typed["budget"] == bounds.budget
    for name in ("lag", "objective", "stalled"):
        assert duration(typed[name]).total_seconds() == getattr(bounds, name)
