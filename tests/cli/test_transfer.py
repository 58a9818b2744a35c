"""`pull`, `push`, `export`, `import`: as a person gives them, on files and on the emulators."""

import json
from enum import Enum

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from typer.testing import CliRunner

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.errors import DamageError, InvalidInputError, InvalidURIError, WrongKeyError
from langgraph_gcs_saver.format import keys
from tests.behaviour.api import cfg, checkpoint, cid, metadata
from tests.cli.test_demo import emulators_uri, environment, run_command, run_in_terminal  # noqa: F401 - fixtures
from tests.compat.xor_cipher import XorCipher
from tests.stateful.threads import check, everything, put
from tests.system.raw import open_raw

HOSTILE = "a\x1b]0;x\x07\n\u202e[bold]b"


def call(*arguments):
    """Run a command in this process; raises what `app.run` would turn into an exit code."""
    ended = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=True)
    if isinstance(ended.exception, Exception):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@pytest.fixture
def uri(tmp_path):
    uri = f"file://{tmp_path}/one"
    with GCSSaver.from_conn_string(uri, inline_max_bytes=2000) as saver:
        put(saver, "t", 10)
        put(saver, "t", 20, 10)
        saver.put_writes(cfg(n=20), [("a", 1)], "task")
    return uri


@pytest.fixture
def other(tmp_path):
    return f"file://{tmp_path}/two"


def states(uri, thread="t"):
    with GCSSaver.from_conn_string(uri) as saver:
        return everything(saver, thread)


def test_from_the_emulators_and_back(emulators_uri, environment, other):  # noqa: F811
    google = emulators_uri
    with GCSSaver.from_conn_string(google, inline_max_bytes=2000) as saver:
        for n in (10, 20, 30):
            put(saver, "t", n, n - 10 or None, run="run")
        saver.put_writes(cfg(n=30), [("a", 1)], "task")
        before = everything(saver)
    ended = run_command("pull", "t", google, other, "--json", environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert (result["ok"], result["checkpoints"], result["findings"]) == (True, len(before), [])
    check(lambda **options: GCSSaver.from_conn_string(other, **options), "t", before)
    # The thread is there already, as it is here. But a transfer from one store does not resume that of another.
    with pytest.raises(InvalidInputError, match="not empty"):
        call("push", "t", google, "--store", other)
    with GCSSaver.from_conn_string(google) as saver:
        saver.delete_thread("t")
    assert "no damage" in call("push", "t", google, "--store", other)
    assert states(google) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "t", "{0}", "{1}"),
        ("pull", "t", "{0}", "--store", "{1}"),
        ("--store", "{1}", "pull", "t", "{0}"),
        ("push", "t", "{0}", "{1}"),
        ("push", "t", "{1}", "--store", "{0}"),
    ],
)
def test_which_store_is_which(uri, other, arguments):
    before = states(uri)
    told = call(*(one.format(uri, other) for one in arguments))
    assert told.splitlines()[0].startswith("Thread 't': 2 documents of checkpoints, 1 documents of pending writes")
    assert "Moved, read again and compared." in told
    assert states(other) == states(uri) == before
    again = json.loads(call(*(one.format(uri, other) for one in arguments), "--json"))
    assert again["present"] == again["checkpoints"] + again["writes"] + again["objects"]


def test_dry_run(uri, other, tmp_path):
    assert "Nothing was done." in call("pull", "t", uri, other, "--dry-run")
    assert json.loads(call("push", "t", uri, other, "--dry-run", "--json"))["dry_run"] is True
    assert "Nothing was done." in call("export", "t", tmp_path / "t.tar", "--store", uri, "--dry-run")
    assert not (tmp_path / "t.tar").exists()
    call("export", "t", tmp_path / "t.tar", "--store", uri)
    assert "Nothing was done." in call("import", tmp_path / "t.tar", "--store", other, "--dry-run")
    assert "Nothing was done." in call("import", tmp_path / "t.tar", "--store", other, "--dry-run", "--as", "u")
    raw = open_raw(other)
    assert raw.snapshot() == ({}, {})


def test_what_is_refused(uri, other, tmp_path):
    with pytest.raises(CommandError, match="no thread 'nobody'") as caught:
        call("pull", "nobody", uri, other)
    assert caught.value.exit_code == 1
    with pytest.raises(CommandError, match="both stores are the same"):
        call("push", "t", uri, uri)
    with pytest.raises(CommandError, match="one store is missing"):
        call("pull", "t", uri)
    with pytest.raises(InvalidURIError):
        call("pull", "t", uri, "nonsense")
    with GCSSaver.from_conn_string(other) as saver:
        put(saver, "t", 90)
    before = states(other)
    with pytest.raises(InvalidInputError, match="not empty"):
        call("pull", "t", uri, other)
    assert states(other) == before
    with pytest.raises(CommandError, match="no thread 'nobody'"):
        call("export", "nobody", tmp_path / "x.tar", "--store", uri)
    assert not (tmp_path / "x.tar").exists()
    with pytest.raises(InvalidInputError, match="does not exist"):
        call("import", tmp_path / "x.tar", "--store", uri)
    (tmp_path / "x.tar").write_bytes(b"x" * 2000)
    with pytest.raises(CommandError, match="there is no terminal to ask at"):
        call("export", "t", tmp_path / "x.tar", "--store", uri)
    with pytest.raises(InvalidInputError, match="cannot be read as an archive"):
        call("import", tmp_path / "x.tar", "--store", other)


def test_to_a_file_and_back(uri, other, tmp_path):
    before = states(uri)
    with GCSSaver.from_conn_string(uri) as saver:
        saver.admin.pin(cfg(n=10), "label")
    path = tmp_path / "t.tar"
    path.write_bytes(b"old")
    assert "Written to" in call("export", "t", path, "--store", uri, "--yes")
    result = json.loads(call("export", "t", path, "--store", uri, "--yes", "--json"))
    assert (result["thread_id"], result["bytes_of_file"]) == ("t", path.stat().st_size)
    assert "no damage" in call("import", path, "--store", other)
    assert states(other) == before
    with GCSSaver.from_conn_string(other) as saver:
        assert saver.admin.pins(cfg()) == {cid(10): "label"}
    assert json.loads(call("import", path, "--store", other, "--as", HOSTILE, "--json"))["thread_id"] == HOSTILE
    assert states(other, HOSTILE) == before
    with GCSSaver.from_conn_string(other) as saver:
        assert list(saver.admin.verify(depth="data")) == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["one", "t.tar", "two"]
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises((DamageError, InvalidInputError)):
        call("import", path, "--store", f"{other}3")


def test_encrypted_threads_need_no_key_but_for_another_id(tmp_path, other):
    uri = f"file://{tmp_path}/secret"
    with GCSSaver.from_conn_string(uri, cipher=XorCipher()) as saver:
        put(saver, "t", 10)
        before = everything(saver)
    assert "Not decoded: " in call("pull", "t", uri, other)
    assert json.loads(call("pull", "t", uri, other, "--json"))["undecoded"]
    with GCSSaver.from_conn_string(other, cipher=XorCipher()) as saver:
        assert everything(saver) == before
    call("export", "t", tmp_path / "t.tar", "--store", uri)
    with pytest.raises(WrongKeyError):
        call("import", tmp_path / "t.tar", "--store", other, "--as", "u")


class Level(str, Enum):
    HIGH = "high"


def test_import_runs_nothing_that_is_stored(uri, other, tmp_path, monkeypatch):
    with GCSSaver.from_conn_string(uri) as saver:
        saver.put(cfg("e"), checkpoint(1), metadata(level=Level.HIGH), {})
        saver.admin.export_thread("e", tmp_path / "e.tar")

    def refuse(*_):
        raise AssertionError("deserialised")

    monkeypatch.setattr(JsonPlusSerializer, "loads_typed", refuse)
    assert "Moved" in call("import", tmp_path / "e.tar", "--store", other)
    assert "Moved" in call("import", tmp_path / "e.tar", "--store", other, "--as", "f")


def test_another_serialiser(tmp_path, other):
    class Sealed(JsonPlusSerializer):
        def dumps_typed(self, obj):
            return "sealed", super().dumps_typed(obj)[1]

    uri = f"file://{tmp_path}/sealed"
    with GCSSaver.from_conn_string(uri, serde=Sealed()) as saver:
        put(saver, "t", 10)
    assert "Not decoded: " in call("pull", "t", uri, other)
    call("export", "t", tmp_path / "t.tar", "--store", uri)
    assert "Not decoded: " in call("import", tmp_path / "t.tar", "--store", other, "--as", "u")


def test_damage_is_told_by_the_exit_code(uri, other):
    raw = open_raw(uri)
    name = keys.checkpoint_doc("t", "", cid(20))
    raw.set_document(name, {**raw.documents()[name], "manifest": b"?"})
    with pytest.raises(CommandError, match="is damaged, as it is in the source") as caught:
        call("pull", "t", uri, other)
    assert caught.value.exit_code == 4


def test_nothing_of_an_id_reaches_the_terminal(uri, other, tmp_path):
    with GCSSaver.from_conn_string(uri) as saver:
        saver.copy_thread("t", HOSTILE)
    for told in (
        call("pull", HOSTILE, uri, other),
        call("export", HOSTILE, tmp_path / "t.tar", "--store", uri),
        call("import", tmp_path / "t.tar", "--store", f"{other}2"),
    ):
        assert "[bold]" in told
        assert all(line.isprintable() for line in told.splitlines())


def test_nor_does_the_progress_bar_read_it_as_markup(uri, other, environment):  # noqa: F811
    thread = "[/x][bold]"
    with GCSSaver.from_conn_string(uri) as saver:
        saver.copy_thread("t", thread)
    returncode, shown = run_in_terminal("pull", thread, uri, other, environment=environment, answers=[])
    assert returncode == 0, shown
    assert "Moved, read again and compared." in shown


def test_the_examples_in_the_help():
    for command in ("pull", "push", "export", "import", "drill"):
        assert f"Example: langgraph-gcs {command} " in " ".join(call(command, "--help").split())
