"""`drill`: what it shows is what recovery gives, and it fails when that is late or wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.commands.drill import _seconds
from langgraph_gcs_saver.cli.fresh import restore
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.errors import DamageError, WrongKeyError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.drill import drill
from tests.behaviour.api import cfg, cid
from tests.cli.test_demo import LANGGRAPH_GCS, emulators_uri, environment, temporary  # noqa: F401 - fixtures
from tests.cli.test_transfer import HOSTILE, call
from tests.compat.xor_cipher import XorCipher
from tests.patience import PATIENCE, eventually
from tests.stateful.threads import fill, put
from tests.system.raw import open_raw
from tests.system.test_repair import DELTA, delta

DAMAGES = ["newest checkpoint dropped", "inline frame flipped", "object flipped", "object removed"]


@pytest.fixture
def uri(tmp_path):
    uri = f"file://{tmp_path}/one"
    with GCSSaver.from_conn_string(uri, inline_max_bytes=2000) as saver:
        fill(saver)
    return uri


def test_a_drill_on_the_emulators(emulators_uri, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    google = emulators_uri
    with GCSSaver.from_conn_string(google, inline_max_bytes=2000) as saver:
        for n in (10, 20, 30):
            put(saver, "t", n, n - 10 or None)
    raw = open_raw(google)
    stored = raw.snapshot()
    report = json.loads(call("drill", "t", "--rto", "1h", "--json", "--store", google))
    assert report["ok"]
    assert report["checkpoints"] == 3
    assert [trial["damage"] for trial in report["trials"]] == DAMAGES
    assert raw.snapshot() == stored
    raw.close()
    assert list(tmp_path.iterdir()) == []


def test_what_it_shows(uri):
    raw = open_raw(uri)
    stored = raw.snapshot()
    report = json.loads(call("drill", "t", "--rto", "1h", "--store", uri, "--json"))
    assert raw.snapshot() == stored
    assert report["problems"] == []
    assert len(report["restores"]) == 3
    assert all(0 < seconds < 3600 for seconds in report["restores"])
    for trial in report["trials"]:
        assert trial["skipped"] is None
        assert trial["problems"] == []
        assert trial["checkpoint_id"] == cid(80)
        assert (trial["at_once"]["kind"], trial["at_once"]["checkpoint_id"]) == ("older, flagged", cid(70))
        assert trial["after"]["checkpoint_id"] == cid(70)
        assert trial["readable"] == trial["expected"] - 1 == report["checkpoints"] - 1
        assert trial["seconds"] > 0
        assert trial["repair"]
    names = {trial["damage"]: trial["name"] for trial in report["trials"]}
    assert names["newest checkpoint dropped"] == keys.checkpoint_doc("t", "", cid(80))
    assert names["object removed"].endswith(".zst")
    shown = call("drill", "t", "--rto", "1h", "--store", uri)
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines[2:6]] == [damage.split()[0] for damage in DAMAGES]
    assert all("1 back, flagged" in line and line.rstrip().endswith("ok") for line in lines[2:6])
    assert "Restores in fresh processes: " in shown
    assert "No wrong value was given" in shown


def test_a_value_that_repair_brings_back(tmp_path):
    """A value that is at another checkpoint too is found there: the latest is exact in the end."""
    uri = f"file://{tmp_path}/one"
    with GCSSaver.from_conn_string(uri, incremental=False, inline_max_bytes=2000) as saver:
        put(saver, "t", 10)
        put(saver, "t", 21, 10)
        put(saver, "t", 22, 10)
        report = drill(saver, "t", rto=PATIENCE, directory=tmp_path / "scratch")
    trials = {trial.damage: trial for trial in report.trials}
    removed = trials["object removed"]
    assert (removed.at_once.kind, removed.after.kind) == ("older, flagged", "exact")
    assert removed.repair == {"re-encode": 1}
    assert removed.readable == removed.expected == 3
    # The first step of a fork leaves no trace when it is dropped, and that fails the drill.
    assert trials["newest checkpoint dropped"].problems == ("an older checkpoint came at once, and nothing said so",)
    assert not report.ok


def test_the_restores_decide_too(tmp_path):
    uri = f"file://{tmp_path}/one"
    with GCSSaver.from_conn_string(uri, inline_max_bytes=200_000) as saver:
        put(saver, "t", 10)
        put(saver, "t", 20, 10)
        took = iter((1.0, 1.5 * PATIENCE, 2.0))
        report = drill(saver, "t", rto=PATIENCE, directory=tmp_path / "scratch", restore=lambda: next(took))
    assert report.restores == (1.0, 1.5 * PATIENCE, 2.0)
    assert len(report.problems) == 1
    assert "a restore in a fresh process took" in report.problems[0]
    assert not report.ok
    assert not any(trial.problems for trial in report.trials)


def test_a_fresh_process_that_fails_says_why(tmp_path):
    with pytest.raises(CommandError, match=r"did not restore thread 't': .*There is no store in"):
        restore("t", store=f"file://{tmp_path}/none", cipher=None)


def test_a_thread_that_depends_on_one_frame_fails(tmp_path):
    """The only inline value was written by the first checkpoint, and everything builds on it."""
    uri = f"file://{tmp_path}/one"
    with GCSSaver.from_conn_string(uri, inline_max_bytes=2000) as saver:
        put(saver, "t", 10)
        put(saver, "t", 20, 10)
    with pytest.raises(CommandError, match="inline frame flipped: no recovery") as caught:
        call("drill", "t", "--rto", "1h", "--store", uri)
    assert caught.value.exit_code == 4


def test_an_objective_that_is_missed(uri):
    with pytest.raises(CommandError, match=r"the drill failed\. a restore in a fresh process took") as caught:
        call("drill", "t", "--store", uri, "--rto", "1ms")
    assert caught.value.exit_code == 4
    # Each of the three restores, and each recovery.
    assert str(caught.value).count("a restore in a fresh process took") == 3
    assert "newest checkpoint dropped: it took" in str(caught.value)


def _lying(monkeypatch, lie):
    """Readers of copies give something else."""
    genuine = GCSSaver.get_tuple

    def get_tuple(self, config):
        return lie(genuine(self, config))

    monkeypatch.setattr(GCSSaver, "get_tuple", get_tuple)


def _other_value(found):
    found.checkpoint["channel_values"]["constant"] = "a lie"
    return found


def _unflagged(found):
    return found._replace(metadata={key: value for key, value in found.metadata.items() if key != "recovered_from"})


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        (_other_value, "a wrong value at once"),
        (_unflagged, "nothing said so"),
        (lambda _: None, "no recovery"),
        (lambda _: None, "the thread read as empty at once"),
    ],
)
def test_a_reader_that_lies_fails(uri, monkeypatch, lie, problem):
    _lying(monkeypatch, lie)
    with pytest.raises(CommandError, match=problem) as caught:
        call("drill", "t", "--rto", "1h", "--store", uri)
    assert caught.value.exit_code == 4


def test_a_snapshot_that_nothing_proves(tmp_path):
    """What LangGraph would make of the writes before it is unknown, so the checkpoint is set aside."""
    with GCSSaver.from_conn_string(f"file://{tmp_path}/one", incremental=False) as saver:
        delta(saver, 11).invoke({"n": 0, "log": ["input " + "y" * 400]}, DELTA, durability="sync")
        report = drill(saver, "t", rto=PATIENCE, directory=tmp_path / "scratch")
    flipped = report.trials[1]
    assert report.ok
    assert (flipped.repair, flipped.after.behind) == ({"set aside": 1}, 1)


def test_values_are_compared_with_the_source(uri, tmp_path, monkeypatch):
    """A source that reads differently from the copy is reported, whatever the reason."""
    genuine = GCSSaver.list

    def other_list(self, *arguments, **options):
        for found in genuine(self, *arguments, **options):
            yield _other_value(found) if self is saver else found

    monkeypatch.setattr(GCSSaver, "list", other_list)
    with GCSSaver.from_conn_string(uri) as saver:
        report = drill(saver, "t", rto=PATIENCE, directory=tmp_path / "scratch")
    assert not report.ok
    assert len(report.problems) == report.checkpoints


def test_what_is_not_there_is_skipped(tmp_path):
    uri = f"file://{tmp_path}/small"
    with GCSSaver.from_conn_string(uri, inline_max_bytes=200_000) as saver:
        put(saver, HOSTILE, 10)
        put(saver, HOSTILE, 20, 10)
    shown = call("drill", HOSTILE, "--rto", "1h", "--store", uri)
    assert "not tried: no value of the thread is in an object" in " ".join(shown.split())
    assert all(line.isprintable() for line in shown.splitlines())
    report = json.loads(call("drill", HOSTILE, "--rto", "1h", "--store", uri, "--json"))
    assert [trial["skipped"] is None for trial in report["trials"]] == [True, True, False, False]


def test_what_is_refused(uri, tmp_path):
    with pytest.raises(CommandError, match="no thread 'nobody'") as caught:
        call("drill", "nobody", "--store", uri)
    assert caught.value.exit_code == 1
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    raw = open_raw(f"file://{tmp_path}/two")
    name = keys.checkpoint_doc("t", "", cid(20))
    raw.set_document(name, {**raw.documents()[name], "manifest": b"?"})
    with pytest.raises(DamageError, match="is already damaged"):
        call("drill", "t", "--store", f"file://{tmp_path}/two")
    secret = f"file://{tmp_path}/secret"
    with GCSSaver.from_conn_string(secret, cipher=XorCipher(), inline_max_bytes=0) as saver:
        put(saver, "t", 10)
        put(saver, "t", 20, 10)
        report = drill(saver, "t", rto=PATIENCE, directory=tmp_path / "scratch", cipher=XorCipher())
        assert report.ok
        assert saver.get_tuple(cfg(n=20)) is not None
    with pytest.raises(WrongKeyError):
        call("drill", "t", "--store", secret)


HALTING = """
import tempfile, threading
from pathlib import Path
from tests.compat.xor_cipher import XorCipher

class Halting(XorCipher):
    def decrypt(self, ciphername, ciphertext):
        if any(Path(tempfile.gettempdir()).glob("*/base/documents.sqlite3")):
            Path(__file__).with_name("halted").touch()
            threading.Event().wait()
        return super().decrypt(ciphername, ciphertext)
"""
"""A cipher that decrypts nothing any more once there is a copy: the drill halts in its middle."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_it_leaves_no_copy_behind(environment, tmp_path, number):  # noqa: F811
    uri = f"file://{tmp_path}/secret"
    with GCSSaver.from_conn_string(uri, cipher=XorCipher()) as saver:
        put(saver, "t", 10)
    (tmp_path / "halting.py").write_text(HALTING)
    process = subprocess.Popen(
        [*LANGGRAPH_GCS, "drill", "t", "--store", uri, "--cipher", "halting:Halting"],
        env=environment() | {"PYTHONPATH": os.pathsep.join((str(tmp_path), *filter(None, sys.path)))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually((tmp_path / "halted").exists)
        assert list(temporary(environment).glob("*/base"))
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number
    finally:
        process.kill()
        process.wait()
    assert list(temporary(environment).iterdir()) == []


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("500ms", 0.5), ("1.5m", 90), ("2", 2), ("1h", 3600)])
def test_times(text, seconds):
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1s", "soon", "1d", "nan", "\x1b[2J"])
def test_what_is_no_time(text):
    with pytest.raises(CommandError, match="--rto") as caught:
        _seconds(text)
    assert caught.value.exit_code == 2
