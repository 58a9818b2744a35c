"""`migrate`: threads of other checkpointers, as a person names them."""

import json
import sqlite3
import sys
from contextlib import closing

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver

from langgraph_gcs_saver import GCSSaver
from tests.behaviour.api import cfg, checkpoint
from tests.cli.filled import HOSTILE, fill, is_harmless, numbers
from tests.cli.test_demo import environment, run_command  # noqa: F401 - a fixture
from tests.system.raw import open_raw

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        fill(saver)
        fill(saver, "u", 2)
    return path


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module to the current directory; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])

    def write(text):
        name = f"made_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return [*connection.execute("SELECT * FROM checkpoints"), *connection.execute("SELECT * FROM writes")]


def test_a_file_of_sqlite(command, make_saver, file):
    before = rows(file)
    ended = command("migrate", "--from", f"sqlite://{file}", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert sorted(ended.out.splitlines()) == [
        "Nothing was done.",
        "Thread 't': 4 checkpoints in 1 namespace, 4 pending writes",
        "Thread 'u': 2 checkpoints in 1 namespace, 2 pending writes",
    ]
    assert [*make_saver().list(None)] == []
    ended = command("migrate", "--from", f"sqlite://{file}")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "Read from both sides and compared: the same.")
    with SqliteSaver.from_conn_string(str(file)) as source, make_saver() as saver:
        for thread in ("t", "u"):
            assert list(saver.list(cfg(thread))) == list(source.list(cfg(thread)))
        fill(source, last=5)
    ended = command("migrate", "--from", f"sqlite://{file}", "t", "t", "--json")
    assert json.loads(ended.out) == {
        "threads": [{"thread_id": "t", "checkpoints": 5, "namespaces": 1, "writes": 5, "present": 4, "clear": 0}],
        "dry_run": False,
    }
    assert numbers(make_saver()) == [5, 4, 3, 2, 1]
    assert set(before) <= set(rows(file))


FORMS = """
from contextlib import asynccontextmanager, contextmanager
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

entered = SqliteSaver.from_conn_string({path!r})
saver = entered.__enter__()

def returns():
    return saver

def context():
    return SqliteSaver.from_conn_string({path!r})

@asynccontextmanager
async def asynchronous():
    async with AsyncSqliteSaver.from_conn_string({path!r}) as saver:
        yield saver

class holder:
    ready = SqliteSaver.from_conn_string({path!r})

number = 7

def raises():
    raise OSError("nobody answers\\x1b[1m")

@contextmanager
def fails():
    raise OSError("nobody answers")
    yield
"""


@LOCAL
@pytest.mark.parametrize("name", ["saver", "returns", "context", "asynchronous", "holder.ready"])
def test_forms_of_a_source(command, make_saver, file, module, name):
    made = module(FORMS.format(path=str(file)))
    ended = command("migrate", "u", "--from", f"{made}:{name}")
    assert (ended.code, ended.err) == (0, "")
    assert numbers(make_saver(), "u") == [2, 1]


@LOCAL
@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("sqlite:///no/such/file", 2, "there is no file '/no/such/file'"),
        ("gs://bucket", 2, "does not support gs://. To copy threads"),
        ("nonsense", 2, "give sqlite://FILE, postgresql://…, or MODULE:NAME"),
        ("no_such_module:saver", 2, "No module named 'no_such_module'"),
        ("MADE:no_such_name", 2, "has no attribute 'no_such_name'"),
        ("MADE:number", 2, "--from names a int, not a checkpointer"),
        ("MADE:raises", 7, "the source cannot be opened: OSError: nobody answers\\x1b[1m"),
        ("MADE:fails", 7, "the source cannot be opened: OSError: nobody answers"),
    ],
)
def test_what_is_no_source(  # noqa: PLR0917
    command, store_uri, file, module, source, code, message
):
    ended = command("migrate", "--from", source.replace("MADE", module(FORMS.format(path=str(file)))))
    assert (ended.code, ended.out) == (code, "")
    assert message in ended.err
    assert open_raw(store_uri).snapshot() == ({}, {})


@LOCAL
def test_a_package_that_is_missing(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "langgraph.checkpoint.postgres", None)
    ended = command("migrate", "--from", "postgresql://somebody:secret@nowhere/db")
    assert ended.code == 2
    assert "install langgraph-checkpoint-postgres" in ended.err
    assert "secret" not in ended.err


@LOCAL
def test_threads_that_are_not_there(command, store_uri, file, tmp_path):
    ended = command("migrate", "t", "nobody", "--from", f"sqlite://{file}")
    assert (ended.code, ended.out) == (1, "")
    assert "there is no thread 'nobody' in the source" in ended.err
    (tmp_path / "empty").touch()
    ended = command("migrate", "--from", f"sqlite://{tmp_path}/empty")
    assert (ended.code, ended.out) == (7, "")
    assert "has no checkpoints of LangGraph's SQLite saver" in ended.err
    (tmp_path / "other").write_text("no database, and long enough to be told from an empty one" * 20)
    ended = command("migrate", "--from", f"sqlite://{tmp_path}/other")
    assert ended.code == 7
    assert "is not an SQLite database" in ended.err
    assert open_raw(store_uri).snapshot() == ({}, {})


@LOCAL
def test_two_histories(command, make_saver, file):
    with make_saver() as saver:
        saver.put(cfg("t"), checkpoint(90), {}, {})
    ended = command("migrate", "--from", f"sqlite://{file}")
    assert (ended.code, ended.out) == (2, "")
    assert "Two histories are not mixed" in ended.err
    assert numbers(make_saver(), "u") == []


@LOCAL
def test_nothing_of_an_id_reaches_the_terminal(command, tmp_path):
    with SqliteSaver.from_conn_string(str(tmp_path / "file")) as saver:
        fill(saver, HOSTILE, 1)
    for more in ([], ["--dry-run"], ["--json"], ["no\x1bbody"]):
        ended = command("migrate", "--from", f"sqlite://{tmp_path}/file", *more)
        assert is_harmless(ended.out)
        assert is_harmless(ended.err)
    assert command("migrate", "--from", f"sqlite://{tmp_path}/file").code == 0


def test_as_a_process(tmp_path, file, environment):  # noqa: F811
    store = f"file://{tmp_path}/here"
    ended = run_command("migrate", "--from", f"sqlite://{file}", "--store", store, "--json", environment=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {one["thread_id"] for one in json.loads(ended.stdout)["threads"]} == {"t", "u"}
    with GCSSaver.from_conn_string(store) as saver:
        assert numbers(saver) == [4, 3, 2, 1]


@LOCAL
def test_a_store_of_ours_that_is_not_whole(command, make_saver, tmp_path, module):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/source") as source:
        fill(source)
    name = module(
        "from langgraph_gcs_saver import GCSSaver\n\n\n"
        f"def make():\n    return GCSSaver.from_conn_string('file://{tmp_path}/source')\n"
    )
    raw = open_raw(f"file://{tmp_path}/source")
    newest = min(name for name in raw.documents() if "/lg_checkpoints/" in name)
    raw.set_document(newest, {**raw.documents()[newest], "manifest": b"nothing"})
    raw.close()
    ended = command("migrate", "--from", f"{name}:make")
    assert (ended.code, ended.out) == (7, "")
    assert "Thread 't' was not migrated, because the source cannot read all of it. " in ended.err
    assert "`verify` reports there: corrupt" in ended.err
    assert "Repair it there with `repair`" in ended.err
    assert [*make_saver().list(None)] == []
    with GCSSaver.from_conn_string(f"file://{tmp_path}/source") as source:
        source.admin.repair("t")
    ended = command("migrate", "--from", f"{name}:make")
    assert (ended.code, ended.out.splitlines()[-1]) == (0, "Read from both sides and compared: the same.")
    assert len([*make_saver().list(cfg("t"))]) == 3
