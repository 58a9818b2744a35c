"""`langgraph-gcs saga`: list, show, resume and rollback."""

import json

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import CompensationMissingError
from langgraph_gcs_saver.saver import compensations

APP = """
from pathlib import Path

from langgraph_gcs_saver import compensation


@compensation("{name}", attempts=1)
def undo(request, result, key):
    with Path(request["ledger"]).open("a") as file:
        file.write(f"{{request['step']}}\\n")
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A module that defines a compensation, which a process knows only after it has imported the module."""
    name = f"undo_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(APP.format(name=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compensations, "_KNOWN", {})
    return name


@pytest.fixture
def store_uri(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def uri(store_uri, tmp_path, app, monkeypatch):
    """A store with two sagas, made by a process that knew the compensation."""
    uri = store_uri
    with monkeypatch.context() as patch, GCSSaver.from_conn_string(uri) as saver:
        patch.setattr(compensations, "_KNOWN", {})
        compensations.compensation(app)(print)
        with saver.thread("t").saga("trip-7") as saga:
            saga.once("hotel", lambda: "h", request={"ledger": str(tmp_path / "ledger"), "step": "hotel"}, undo=app)
            saga.savepoint("before payment")
            saga.once("pay", lambda: "p", request={"ledger": str(tmp_path / "ledger"), "step": "pay"}, undo=app)
        with saver.thread("t").saga("other") as saga:
            saga.once("mail", lambda: "sent", irreversible=True)
    return uri


def ledger(tmp_path):
    return (tmp_path / "ledger").read_text().split()


def test_list_and_show(command, uri, app):
    assert command("saga", "list", "t", "--store", uri).out == (
        "other: done, steps: 1, undone: 0\ntrip-7: done, steps: 2, undone: 0\n"
    )
    found = json.loads(command("saga", "list", "t", "--json", "--store", uri).out)
    assert [(one["saga_id"], one["state"], len(one["steps"])) for one in found] == [
        ("other", "done", 1),
        ("trip-7", "done", 2),
    ]
    assert command("saga", "list", "u", "--store", uri).out == "No sagas.\n"
    assert command("saga", "show", "t", "trip-7", "--store", uri).out == (
        "Saga 'trip-7' of thread 't': done\n"
        f"  hotel: done (undo {app} v1)\n"
        f"  pay: done (undo {app} v1)\n"
        "  savepoint before payment holds no checkpoint\n"
    )
    (hotel, _) = json.loads(command("saga", "show", "t", "trip-7", "--json", "--store", uri).out)["steps"]
    assert (hotel["name"], hotel["key"], hotel["undo"]) == ("hotel", "saga trip-7 hotel", [app, 1])
    ended = command("saga", "show", "t", "trip", "--store", uri)
    assert (ended.code, ended.out) == (1, "")
    assert "no saga 'trip'" in ended.err


def test_rollback_and_resume(command, uri, app, tmp_path):
    rollback = ("saga", "rollback", "t", "trip-7", "--store", uri)
    assert command(*rollback, "--to", "before payment").code == 2
    assert "trip-7" in command(*rollback, "--dry-run").out
    assert (command(*rollback, answer="n").code, (tmp_path / "ledger").exists()) == (1, False)
    # This process has not imported the module. The rollback has begun, and nothing is undone.
    ended = command(*rollback, "--yes", "--to", "before payment")
    assert (ended.code, ended.err.count("--app MODULE")) == (CompensationMissingError.exit_code, 1)
    ended = command("saga", "resume", "t", "trip-7", "--app", app, "--store", uri)
    assert (ended.code, ledger(tmp_path)) == (0, ["pay"])
    assert "pay: undone" in ended.out
    ended = command(*rollback, "--app", app, "--json", "--yes")
    assert (ended.code, ledger(tmp_path)) == (0, ["pay", "hotel"])
    assert json.loads(ended.out)["state"] == "compensated"


def test_a_compensation_that_is_a_coroutine_function(command, uri, app, tmp_path):
    module = tmp_path / f"{app}.py"
    module.write_text(module.read_text().replace("def undo", "async def undo"))
    ended = command("saga", "rollback", "t", "trip-7", "--app", app, "--yes", "--to", "before payment", "--store", uri)
    assert (ended.code, ledger(tmp_path)) == (0, ["pay"])
    ended = command("saga", "rollback", "t", "trip-7", "--app", app, "--yes", "--store", uri)
    assert (ended.code, ledger(tmp_path)) == (0, ["pay", "hotel"])


def test_a_rollback_that_is_stuck(command, uri):
    ended = command("saga", "rollback", "t", "other", "--yes", "--store", uri)
    assert ended.code == 11
    assert "step 'mail': it is irreversible" in ended.err
    assert "langgraph-gcs saga resolve" in ended.err
    assert "mail: done (irreversible): it is irreversible" in command("saga", "show", "t", "other", "--store", uri).out
    # A person settles it, without the module that defines compensations.
    resolve = ("saga", "resolve", "t", "other", "--store", uri)
    for given in ((), ("--not-done", "--result", "1"), ("--result", "{")):
        ended = command(*resolve, "mail", *given)
        assert (ended.code, ended.out) == (2, "")
    ended = command(*resolve, "letter", "--not-done")
    assert ended.code == 2
    assert "Its steps are: 'mail'" in ended.err
    ended = command(*resolve, "mail", "--result", "null", "--json")
    assert (ended.code, json.loads(ended.out)["steps"][0]["problem"]) == (0, None)
    ended = command("saga", "resume", "t", "other", "--store", uri)
    assert (ended.code, ended.out) == (0, "Saga 'other' of thread 't': compensated\n  mail: undone (irreversible)\n")


def test_rollbacks_of_all_threads(command, uri):
    assert command("saga", "rollbacks", "--store", uri).out == "No rollbacks.\n"
    assert command("saga", "rollback", "t", "other", "--yes", "--store", uri).code == 11
    assert command("saga", "rollbacks", "--store", uri).out == "t other: stuck, steps: 1, undone: 0\n"
    assert command("saga", "rollbacks", "--state", "compensating", "--store", uri).out == "No rollbacks.\n"
    (found,) = json.loads(command("saga", "rollbacks", "--state", "stuck", "--json", "--store", uri).out)
    assert (found["thread_id"], found["saga_id"], found["steps"][0]["problem"]) == ("t", "other", "it is irreversible")
    ended = command("saga", "rollbacks", "--state", "done", "--store", uri)
    assert (ended.code, ended.out) == (2, "")
    assert "must be one of compensating, stuck" in ended.err
    assert "1 stuck sagas" in command("top", "--once", "--store", uri).out


def test_a_dry_run_checks_the_savepoint_and_says_what_would_stop_it(command, uri):
    ended = command("saga", "rollback", "t", "trip-7", "--dry-run", "--to", "unknown", "--store", uri)
    assert (ended.code, ended.out) == (2, "")
    assert "no savepoint 'unknown'. It has: 'before payment'" in ended.err
    ended = command("saga", "rollback", "t", "other", "--dry-run", "--store", uri)
    assert ended.code == 0
    assert "mail: done (irreversible): it is irreversible" in ended.out
    assert "Saga 'other' of thread 't': done" in command("saga", "show", "t", "other", "--store", uri).out


def test_a_module_that_cannot_be_imported(command, uri, tmp_path):
    (tmp_path / "failing_module.py").write_text("raise ValueError")
    for module, why in (
        ("no_such_module", "No module named"),
        ("failing_module", "ValueError in line 1"),
        ("", "give the name"),
    ):
        ended = command("saga", "resume", "t", "trip-7", "--app", module, "--store", uri)
        assert ended.code == 2
        assert why in ended.err
    assert not (tmp_path / "ledger").exists()
