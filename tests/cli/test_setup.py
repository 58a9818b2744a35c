"""setup: what it did, what it wrote, and an exit code for what could not be set."""

import json
from dataclasses import replace

import pytest

from langgraph_gcs_saver.saver.admin import Admin
from tests.cli.filled import HOSTILE

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


def test_a_store_that_works(store_uri, command, tmp_path):
    ended = command("setup", "--platform", "--write-settings", str(tmp_path / "files"))
    assert (ended.code, ended.err) == (0, "")
    assert "Documents can be written, read and deleted." in ended.out
    names = {path.name for path in (tmp_path / "files").glob("*")}
    if store_uri.startswith("file:"):
        assert not names
        assert "no settings to write" in ended.out
    else:
        assert names == {"firestore.indexes.json", "bucket-lifecycle.json"}
        assert f"Written: {tmp_path / 'files' / 'bucket-lifecycle.json'}" in ended.out
    again = json.loads(command("setup", "--json", "--write-settings", str(tmp_path / "files")).out)
    assert (again["missing"], again["warnings"]) == ([], [])
    assert {file.rsplit("/", 1)[1] for file in again["files"]} == names


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_a_directory_that_cannot_be_written(command, tmp_path):
    (tmp_path / "file").write_text("")
    ended = command("setup", "--write-settings", str(tmp_path / "file"))
    assert (ended.code, ended.out) == (1, "")
    assert "the settings were not written" in ended.err


@LOCAL
def test_what_may_not_be_set_is_an_exit_code(command, monkeypatch):
    setup = Admin.setup
    monkeypatch.setattr(
        Admin, "setup", lambda self, **more: replace(setup(self, **more), missing=("no role",), done=(HOSTILE,))
    )
    ended = command("setup", "--platform", "--json")
    assert ended.code == 7
    assert json.loads(ended.out)["missing"] == ["no role"]
    ended = command("setup")
    assert ended.code == 0
    assert "\x1b" not in ended.out
