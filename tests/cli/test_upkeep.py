"""prune, collect, sweep, copy, delete, pin: the plan that is shown is what is done, and nothing is done unasked."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.commands import storage
from langgraph_gcs_saver.cli.demo import play
from langgraph_gcs_saver.cli.views import plans
from langgraph_gcs_saver.cli.views.terminal import confirm, open_admin
from langgraph_gcs_saver.engine.effects import Commit, Merge
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.crash import Crashed, CrashingSaver, Plan
from tests.behaviour.api import cfg, checkpoint, cid, metadata, number, version
from tests.behaviour.test_by_namespace import fill as fill_graphs
from tests.behaviour.test_sweep import HOUR
from tests.cli.filled import HOSTILE, fill, is_harmless, numbers
from tests.kit.interceptors import Later
from tests.patience import PATIENCE
from tests.system.raw import open_raw

LOCAL = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


@pytest.fixture
def raw(store_uri):
    raw = open_raw(store_uri)
    yield raw
    raw.close()


def test_prune_does_what_its_dry_run_shows(make_saver, raw, command):
    saver = make_saver()
    fill(saver, last=5)
    saver.admin.pin(cfg(n=2), "evidence")
    before = raw.snapshot()
    ended = command("prune", "t", "--keep-last", "2", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert "pinned: evidence" in ended.out
    assert "Thread 't': 2 of 5 checkpoints go" in ended.out
    assert ended.out.endswith("A dry run: nothing was done.\n")
    shown = json.loads(command("prune", "t", "--keep-last", "2", "--dry-run", "--json").out)
    assert not shown["done"]
    assert raw.snapshot() == before

    done = json.loads(command("prune", "t", "--keep-last", "2", "--yes", "--json").out)
    assert done["done"]
    assert done["plans"] == shown["plans"]
    (plan,) = done["plans"]
    kept = [row["checkpoint_id"] for row in plan["decisions"] if row["keep"]]
    assert kept == [cid(n) for n in numbers(make_saver())] == [cid(5), cid(4), cid(2)]
    ended = command("prune", "t", "--keep-last", "2")
    assert (ended.code, ended.err) == (0, ""), "with nothing to remove there is nothing to ask"
    assert ended.out.endswith("0 checkpoints removed.\n")


def test_prune_combines_rules(make_saver, command):
    saver = make_saver()
    fill(saver)
    (plan,) = json.loads(command("prune", "t", "--keep-last", "1", "--keep-for", "7d", "--dry-run", "--json").out)[
        "plans"
    ]
    reasons = [row["reason"] for row in plan["decisions"]]
    assert reasons == ["the latest", *["younger than 7 days, 0:00:00"] * 3]
    ended = command("prune", "t", "--keep-every", "2w", "--yes")
    assert ended.code == 0
    assert len(numbers(make_saver())) in (1, 2), "an interval may have ended in between"


@LOCAL
def test_prune_of_some_graphs(make_saver, command):
    fill_graphs(make_saver())
    arguments = ["prune", "t", "--keep-last", "1", "--yes", "--json", "--namespace"]
    (plan,) = json.loads(command(*arguments, "extract", "--namespace", "summary|*").out)["plans"]
    gone = {row["checkpoint_ns"] for row in plan["decisions"] if not row["keep"]}
    assert gone == {"extract:1", "summary:3"}
    assert {row["reason"] for row in plan["decisions"]} == {None, "the latest", "no rule for its namespace"}
    json.loads(command(*arguments, "").out)
    left = Counter(one.config["configurable"]["checkpoint_ns"] for one in make_saver().list(cfg("t", None)))
    assert left == {"": 1, "extract:1": 1, "extract:1|inner:2": 5, "summary:3": 1}
    ended = command(*arguments, "extract:1")
    assert ended.code == 2
    assert "no pattern of namespaces" in ended.err


@pytest.mark.parametrize("options", [[], ["--keep-last", "0"], ["--keep-for", "0s"]])
@LOCAL
def test_prune_must_be_told_what_to_keep(make_saver, command, options):
    fill(make_saver())
    ended = command("prune", "t", "--yes", *options)
    assert (ended.code, ended.out) == (2, "")
    assert numbers(make_saver()) == [4, 3, 2, 1]


def test_nothing_goes_that_was_not_shown(make_saver, command, monkeypatch):
    """The thread continues while the question waits, so the rule would now prune more."""
    saver = make_saver()
    fill(saver, last=4)

    def go_on(question, *, yes):
        fill(saver, last=6)
        confirm(question, yes=yes)

    monkeypatch.setattr(plans, "confirm", go_on)
    ended = command("prune", "t", "--keep-last", "2", answer="y")
    assert ended.code == 0
    assert ended.out.endswith("2 checkpoints removed.\n")
    assert numbers(make_saver()) == [6, 5, 4, 3]


@LOCAL
@pytest.mark.parametrize("arguments", [["delete", "t"], ["prune", "t", "--keep-last", "1"]])
def test_nothing_is_destroyed_unasked(make_saver, raw, command, arguments):
    fill(make_saver())
    before = raw.snapshot()
    ended = command(*arguments)
    assert ended.code == 2
    assert "there is no terminal to ask at" in ended.err
    ended = command(*arguments, answer="n")
    assert ended.code == 1
    assert ended.err.endswith("langgraph-gcs: nothing was done.\n")
    ended = command(*arguments, "--json", answer="")
    assert (ended.code, ended.out) == (1, ""), "no is the default"
    assert raw.snapshot() == before

    ended = command(*arguments, "--json", answer="y")
    assert ended.code == 0
    assert json.loads(ended.out)["done"], "standard output has the document and nothing else"
    assert "Thread 't'" in ended.err, "who is asked sees the plan"
    assert raw.snapshot() != before


@LOCAL
@pytest.mark.parametrize(
    "arguments",
    [["delete", "t", "no\none"], ["prune", "t", "no\none", "--keep-last", "1"], ["copy", "no\none", "t2"]]
    + [[name, "no\none"] for name in ("collect", "repair", "verify")],
)
def test_an_unknown_thread_is_an_error_and_nothing_is_done(make_saver, raw, command, arguments):
    fill(make_saver())
    before = raw.snapshot()
    more = [] if arguments[0] in {"copy", "verify"} else ["--yes"]
    ended = command(*arguments, *more)
    assert (ended.code, ended.out) == (1, "")
    assert "no thread 'no\\none'" in ended.err
    assert raw.snapshot() == before


def test_delete(make_saver, raw, command):
    saver = make_saver()
    for thread in ("a", "b", "stays"):
        fill(saver, thread, 2)
    before = raw.snapshot()
    shown = json.loads(command("delete", "a", "b", "--dry-run", "--json").out)
    assert [plan["checkpoints"] for plan in shown["plans"]] == [2, 2]
    assert [plan["objects"] for plan in shown["plans"]] == [2, 2]
    assert raw.snapshot() == before
    ended = command("delete", "a", "b", "-y")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("2 threads deleted.\n")
    assert {one.config["configurable"]["thread_id"] for one in saver.list(None)} == {"stays"}
    assert command("delete", "a", "-y").code == 1


def test_what_a_dead_deletion_has_left_can_be_deleted(make_saver, raw, command):
    run(_commit(Merge(keys.thread_doc("t"), {"thread_id": "t", "deleting": "1"})), make_saver()._backend)
    assert command("delete", "t", "-y").code == 0
    assert raw.snapshot() == ({}, {})


def _commit(*writes):
    yield from Commit(writes)


def leave_an_object(store_uri, seed):
    """Leaves an orphan: the object of a call that crashes after its upload."""
    with CrashingSaver.from_conn_string(store_uri) as dying:
        dying.admin.checkpoint_ids(cfg())
        dying.plan = Plan(stop_after=2)
        with pytest.raises(Crashed):
            dying.put_writes(cfg(n=4), [("own", random.Random(seed).randbytes(200_000))], "other")


def test_collect(make_saver, store_uri, raw, command, monkeypatch):
    fill(make_saver())
    before = raw.objects().keys()
    leave_an_object(store_uri, 1)
    (orphan,) = raw.objects().keys() - before
    assert command("collect").out == "There is nothing to do.\n"
    for name in ("collect", "repair"):
        assert json.loads(command(name, "--yes", "--json").out)["done"], "nothing to do is no failure"
    assert command("collect", "t", "--orphan-age", "1d", "--yes").out == "There is nothing to do.\n"
    shown = json.loads(command("collect", "--orphan-age", "0s", "--dry-run", "--json").out)
    (plan,) = shown["plans"]
    assert [name.rsplit("/", 1)[1] for name in plan["objects"]] == [orphan.rsplit("/", 1)[1]]
    assert raw.objects().keys() == before | {orphan}

    def meanwhile(question, *, yes):
        leave_an_object(store_uri, 2)
        confirm(question, yes=yes)

    monkeypatch.setattr(plans, "confirm", meanwhile)
    ended = command("collect", "--orphan-age", "0s", "--yes")
    assert ended.code == 0
    assert ended.out.endswith("1 object and 0 documents deleted.\n")
    (other,) = raw.objects().keys() - before
    assert other != orphan, "what has not been shown stays"
    assert before < raw.objects().keys()


def test_collect_tells_apart_what_it_deletes_and_what_it_makes_smaller(make_saver, raw, command):
    saver = make_saver()
    state = random.Random(0).randbytes(4000)
    for n in range(1, 6):
        # Each checkpoint's frame is in its document, and builds on the one before.
        versions = {"state": version(n)}
        new = checkpoint(n, {"state": state + bytes([n])}, versions)
        saver.put(cfg(n=n - 1 or None), new, metadata(step=n), versions)
    assert command("prune", "t", "--keep-last", "1", "--yes").code == 0
    assert command("copy", "t", "u").code == 0
    names = set(raw.documents())
    shown = json.loads(command("collect", "u", "--orphan-age", "0s", "--dry-run", "--json").out)
    (plan,) = shown["plans"]
    assert (plan["stripped"], plan["writes"], plan["objects"]) == ([], [], {})
    assert plan["trimmed"]
    assert set(plan["trimmed"]) < names
    count = len(plan["trimmed"])
    ended = command("collect", "u", "--orphan-age", "0s", "--yes")
    assert f"; {count} documents of removed checkpoints get smaller\n" in ended.out
    assert ended.out.endswith(f"0 objects and 0 documents deleted, {count} documents made smaller.\n")
    assert set(raw.documents()) == names
    assert command("collect", "u", "--orphan-age", "0s", "--yes").out == "There is nothing to do.\n"


def test_collect_leaves_a_damaged_thread_alone_and_says_so(make_saver, raw, command):
    saver = make_saver()
    fill(saver, last=2)
    name = keys.checkpoint_doc("t", "", cid(1))
    raw.set_document(name, {**raw.documents()[name], "digest": b"?"})
    before = raw.snapshot()
    ended = command("collect", "--orphan-age", "0s", "--yes", "--json")
    assert ended.code == 4
    assert "cannot be read: 't'" in ended.err
    (plan,) = json.loads(ended.out)["plans"]
    assert plan["skipped"]
    assert raw.snapshot() == before


def test_sweep(make_saver, raw, command, monkeypatch):
    saver = make_saver()
    for thread in ("idle", "used"):
        fill(saver, thread, 1)
    monkeypatch.setattr(storage, "open_admin", partial(open_admin, interceptors=[Later(3 * HOUR)]))
    assert command("sweep", "--ttl", "1d", "--yes").out == "There is nothing to do.\n"
    for more in (["--yes"], ["--dry-run"]):
        nothing = json.loads(command("sweep", "--ttl", "1d", "--json", *more).out)
        assert nothing == {"done": True, "result": "There is nothing to do.", "plans": []}
    before = raw.snapshot()
    shown = json.loads(command("sweep", "--ttl", "2h", "--dry-run", "--json").out)
    assert not shown["done"]
    assert {plan["thread_id"] for plan in shown["plans"]} == {"idle", "used"}
    assert all(abs(plan["idle_seconds"] - 3 * HOUR) < 60 for plan in shown["plans"])
    assert raw.snapshot() == before

    def meanwhile(question, *, yes):
        fill(saver, "new", 1)
        make_saver(interceptors=[Later(HOUR)]).admin.pin(cfg("used", n=1), "evidence")
        confirm(question, yes=yes)

    monkeypatch.setattr(plans, "confirm", meanwhile)
    ended = command("sweep", "--ttl", "2h", "--yes")
    assert ended.code == 0
    assert ended.out.endswith("1 thread deleted. 1 in use: kept.\n")
    assert {one.config["configurable"]["thread_id"] for one in make_saver().list(None)} == {"used", "new"}


def test_copy(make_saver, raw, command):
    saver = make_saver()
    fill(saver)
    before = raw.snapshot()
    shown = json.loads(command("copy", "t", "t2", "--dry-run", "--json").out)
    plan = {"source": "t", "target": "t2", "checkpoints": 4, "writes": 4, "others": 0, "objects": 4, "clear": 0}
    assert shown["plans"] == [plan]
    assert raw.snapshot() == before
    ended = command("copy", "t", "t2")
    assert (ended.code, ended.err) == (0, "")
    assert numbers(make_saver(), "t2") == [4, 3, 2, 1]
    before = raw.snapshot()
    for more in ([], ["--dry-run"]):
        ended = command("copy", "t", "t2", *more)
        assert (ended.code, ended.out) == (2, "")
        assert "not empty" in ended.err
    assert raw.snapshot() == before


def test_pin_and_unpin(make_saver, command):
    saver = make_saver()
    fill(saver)
    fill(saver, last=1, ns="sub:1")
    ended = command("pin", "t", cid(2), HOSTILE, "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == {
        "thread_id": "t",
        "checkpoint_ns": "",
        "checkpoint_id": cid(2),
        "label": HOSTILE,
    }
    assert command("pin", "t", cid(1), "sub", "--ns", "sub:1").out == f"{cid(1)} is pinned: sub\n"
    assert saver.admin.pins(cfg()) == {cid(2): HOSTILE}
    assert saver.admin.pins(cfg(ns="sub:1")) == {cid(1): "sub"}
    assert command("unpin", "t", cid(2)).out == f"{cid(2)} has no pin.\n"
    assert saver.admin.pins(cfg()) == {}
    for arguments in (["pin", "t", cid(9), "x"], ["unpin", "t", cid(9)], ["pin", "nobody", cid(1), "x"]):
        ended = command(*arguments)
        assert (ended.code, ended.out) == (1, "")
        assert "has no checkpoint" in ended.err


def test_a_pin_s_checkpoint_is_named_as_for_show(make_saver, command):
    saver = make_saver()
    fill(saver)
    assert command("pin", "t", "latest", "newest").out == f"{cid(4)} is pinned: newest\n"
    ended = command("pin", "t", cid(2)[-6:], "by its end", "--json")
    assert json.loads(ended.out)["checkpoint_id"] == cid(2)
    assert saver.admin.pins(cfg()) == {cid(4): "newest", cid(2): "by its end"}
    assert command("unpin", "t", "latest").out == f"{cid(4)} has no pin.\n"
    assert saver.admin.pins(cfg()) == {cid(2): "by its end"}
    for name, message in (
        (cid(1)[:8], "names 4 checkpoints of thread 't'"),
        ("nothing", "has no checkpoint 'nothing'"),
        ("", "has no checkpoint ''"),
    ):
        for arguments in (["pin", "t", name, "x"], ["unpin", "t", name]):
            ended = command(*arguments)
            assert (ended.code, ended.out) == (1, "")
            assert message in ended.err
    assert "has no checkpoint in namespace 'sub'" in command("pin", "t", "latest", "x", "--ns", "sub").err
    assert saver.admin.pins(cfg()) == {cid(2): "by its end"}


def test_a_damaged_checkpoint_can_be_pinned(make_saver, raw, command):
    fill(make_saver())
    name = keys.checkpoint_doc("t", "", cid(4))
    raw.set_document(name, {**raw.documents()[name], "manifest": b"?"})
    assert command("pin", "t", "latest", "evidence").out == f"{cid(4)} is pinned: evidence\n"
    assert raw.documents()[name]["pin"] == "evidence"


@LOCAL
def test_nothing_that_a_store_holds_moves_a_terminal(make_saver, command):
    saver = make_saver()
    fill(saver, HOSTILE, ns=HOSTILE)
    said = [
        command("pin", HOSTILE, cid(2), HOSTILE, "--ns", HOSTILE),
        command("prune", HOSTILE, "--keep-last", "1", "--dry-run"),
        command("prune", HOSTILE, "--keep-last", "1", "--json", answer="y"),
        command("copy", HOSTILE, f"{HOSTILE}2"),
        command("copy", HOSTILE, f"{HOSTILE}2"),
        command("unpin", HOSTILE, cid(2), "--ns", HOSTILE),
        command("pin", HOSTILE, HOSTILE, HOSTILE),
        command("delete", f"{HOSTILE}2", HOSTILE, answer="y"),
        command("delete", HOSTILE),
        command("collect", HOSTILE),
    ]
    assert [ended.code for ended in said] == [0, 0, 0, 0, 2, 0, 1, 0, 1, 1]
    for ended in said:
        assert is_harmless(ended.out + ended.err)
        assert "[bold]" in ended.out + ended.err or ended.out.endswith("has no pin.\n")


@LOCAL
def test_a_store_must_be_named(command, monkeypatch):
    monkeypatch.delenv("LANGGRAPH_GCS_STORE")
    ended = command("delete", "t", "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert "no store" in ended.err


@LOCAL
def test_what_is_typed_wins_over_the_environment(make_saver, store_uri, command, tmp_path):
    fill(make_saver(), last=1)
    with GCSSaver.from_conn_string((tmp_path / "other").as_uri()) as other:
        fill(other, last=1)
        uri = (tmp_path / "other").as_uri()
        assert command("--store", store_uri, "delete", "t", "--dry-run", "--store", uri).code == 0
        assert command("--store", uri, "delete", "t", "--yes").code == 0
        assert list(other.list(None)) == []
    assert numbers(make_saver()) == [1]


@LOCAL
def test_the_demo_is_not_played_in_the_store_of_the_environment(command, monkeypatch, tmp_path):
    played = []
    monkeypatch.setattr(play._Plot, "of", lambda store, *_: played.append(store))
    monkeypatch.setattr(play, "_Demo", lambda *_, **__: SimpleNamespace(run=lambda: {"proof": {}}))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for arguments in ([], ["--store", "file:///typed"]):
        assert command(*arguments, "demo").code == 0
    assert "langgraph-gcs-demo-" in played[0]
    assert played[1] == "file:///typed"


@LOCAL
@pytest.mark.parametrize("arguments", [["verify"], ["threads"], ["delete", "t", "--yes"], ["pull", "t", "TYPO"]])
def test_a_misspelt_path_is_no_store(command, tmp_path, arguments):
    uri = (tmp_path / "typo").as_uri()
    ended = command("--store", uri, *[uri + "2" if word == "TYPO" else word for word in arguments])
    assert (ended.code, ended.out) == (7, "")
    assert "There is no store in" in ended.err
    assert not list(tmp_path.glob("typo*"))
    assert command("--store", uri, "setup").code == 0
    assert command("--store", uri, "verify").code == 0


@LOCAL
def test_a_thread_that_is_named_twice_is_counted_once(make_saver, command):
    fill(make_saver(), last=2)
    assert "1 checkpoint removed." in command("prune", "t", "t", "--keep-last", "1", "--yes").out
    assert "1 thread deleted." in command("delete", "t", "t", "--yes").out


@LOCAL
@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_plan_is_not_cut_off(make_saver, command, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    saver = make_saver()
    fill(saver, last=3)
    saver.admin.pin(cfg(n=2), "evidence of what was wrong")
    shown = command("prune", "t", "--keep-last", "1", "--dry-run").out
    words = "".join(shown.split())
    assert all(word in words for word in ("wrong", "drop"))
    assert cid(2) in shown


@LOCAL
def test_a_sweep_of_less_than_an_hour(command):
    ended = command("sweep", "--ttl", "90s")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("langgraph-gcs: --ttl must be an hour or more")


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_at_the_command_line(make_saver, store_uri, tmp_path):
    """In a process of its own, with the store named before the command."""
    fill(make_saver(), last=3)
    arguments = ["prune", "t", "--keep-last", "1", "--yes", "--json"]
    environment = os.environ | {
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none"),
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "langgraph_gcs_saver.cli", "--store", store_uri, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["done"]
    assert [number(one) for one in make_saver().list(cfg())] == [3]
