"""threads, history and stats: what they print is true, they read no payload, and no stored text acts on a terminal."""

import json
import random
import re
import subprocess
import sys
import time
from datetime import datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

import pytest
from typer.testing import CliRunner

from langgraph_gcs_saver import GCSSaver, KeepLast
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.cli.views.branches import LANES, draw
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.engine.effects import GetBlob, GetDocs, QueryDocs
from langgraph_gcs_saver.flows import catalogue
from langgraph_gcs_saver.format import keys
from tests.behaviour.api import cfg, checkpoint, cid, metadata, version
from tests.kit.interceptors import Seen
from tests.patience import PATIENCE
from tests.system.raw import open_raw

EVIL = "\x1b[31mred\x07 [bold]not bold[/bold] \u202eback\nline"


def put(saver, thread, n, parent=None, *, ns="", values=None, node="node", **more):
    values = {"text": f"text {n}", "large": random.Random(n).randbytes(20_000)} if values is None else values
    versions = dict.fromkeys(values, version(n))
    one = checkpoint(n, values, versions)
    one["versions_seen"] = {"__input__": {}, "first": {"text": version(1)}, node: {"text": version(n)}}
    saver.put(cfg(thread, ns, parent), one, metadata(step=n - 2, run_id="run", **more), versions)


def fill(saver, thread="t"):
    put(saver, thread, 1, source="input")
    put(saver, thread, 2, 1)
    put(saver, thread, 3, 2)
    put(saver, thread, 4, 2, source="fork", node="other")
    put(saver, thread, 5, ns="sub:1")
    saver.put_writes(cfg(thread, n=2), [("text", "x"), ("large", b"y")], "answered")
    saver.put_writes(cfg(thread, n=2), [("__interrupt__", "asked")], "answered")
    saver.put_writes(cfg(thread, n=4), [("__interrupt__", "asked")], "waiting")
    saver.admin.pin(cfg(thread, n=3), "good")


def call(uri, *arguments):
    result = CliRunner().invoke(app, [*arguments, "--store", uri], catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def call_json(uri, *arguments):
    return json.loads(call(uri, *arguments, "--json"))


def test_threads(make_saver, store_uri):
    saver = make_saver()
    assert list(saver.list(None)) == []
    assert call_json(store_uri, "threads") == []
    assert "There are no threads." in call(store_uri, "threads")
    for name in ("t", "", "a/b", "long thread id, " * 20):
        fill(saver, name)
    put(saver, "a/b", 9, 4)
    found = call_json(store_uri, "threads")
    assert {one["thread_id"] for one in found} == {"t", "", "a/b", "long thread id, " * 20}
    assert {one["checkpoints"] for one in found} == {5, 6}
    assert all(one["stored_bytes"] > 5 * 20_000 and one["damaged"] == 0 for one in found)
    text = call(store_uri, "threads", "--limit", "3")
    assert len(re.findall(r"\d\d:\d\d:\d\d", text)) == 3
    assert "... and more" in text
    assert "more" not in call(store_uri, "threads", "--limit", "4")
    assert saver.admin.threads()[0].thread_id in {one["thread_id"] for one in found}


def test_history(make_saver, store_uri):
    saver = make_saver()
    fill(saver)
    found = call_json(store_uri, "history", "t")
    assert [one["checkpoint_id"] for one in found] == [cid(n) for n in (5, 4, 3, 2, 1)]
    by_id = {int(one["checkpoint_id"][-2:]): one for one in found}
    assert by_id[5]["checkpoint_ns"] == "sub:1"
    assert [by_id[n]["parent_id"] for n in (4, 3, 2, 1)] == [cid(2), cid(2), cid(1), None]
    assert [by_id[n]["step"] for n in (1, 2, 3)] == [-1, 0, 1]
    assert (by_id[1]["source"], by_id[4]["source"]) == ("input", "fork")
    assert (by_id[2]["nodes"], by_id[4]["nodes"], by_id[1]["nodes"]) == (["node"], ["other"], ["first", "node"])
    assert by_id[3]["pin"] == "good"
    assert (by_id[2]["interrupts"], by_id[2]["is_waiting"]) == (1, False)
    assert (by_id[4]["interrupts"], by_id[4]["is_waiting"]) == (1, True)
    assert by_id[2]["tasks"] == ["answered"]
    assert {value["channel"]: value["is_object"] for value in by_id[3]["stored"]} == {"text": False, "large": True}
    assert all(one["run_id"] == "run" and one["damage"] is None for one in found)
    text = call(store_uri, "history", "t")
    assert "namespace sub:1" in text
    assert re.search(rf"\* +{cid(3)}.*pin: good", text)
    assert re.search(rf"{cid(4)}.*fork.*other.*waits for an answer", text)
    assert "interrupted" in text
    assert cid(3) not in call(store_uri, "history", "t", "--ns", "sub:1")
    assert "... and 3 more" in call(store_uri, "history", "t", "--ns", "", "--limit", "1")


def test_two_beginnings_of_a_thread_are_two_trees(make_saver, store_uri):
    saver = make_saver()
    for n, parent in ((1, None), (2, None), (3, 1), (4, 2)):
        put(saver, "t", n, parent)
    rows = re.findall(r"^ *([*|/ ]*?) +1f0000\S+(\d) ", call(store_uri, "history", "t"), re.MULTILINE)
    assert rows == [("*", "4"), ("| *", "3"), ("* |", "2"), ("*", "1")]


@pytest.mark.parametrize(
    ("line", "drawn"),
    [
        ("c>b b>a a", "*;*;*"),
        ("d>b c>b b>a a", "*;| *;* /;*"),
        ("d>b c>a b a", "*;| *;* |;*"),
        ("d>gone c>b b>gone a", "*;*;*;*"),
        ("c>a b>d a d>a", "*;| *;* |;*"),  # a clock went back: d continues a, and sorts before it
        ("d>b c>b b a", "*;| *;* /;*"),
    ],
)
def test_a_line_ends_where_there_is_no_parent_below(line, drawn):
    pairs = [one.partition(">")[::2] for one in line.split()]
    assert draw([(name, parent or None) for name, parent in pairs]) == drawn.split(";")


def test_more_branches_than_there_is_room_for():
    """Neither text nor time are the number of checkpoints times that of branches."""
    count = 3 * LANES
    line = [(f"b{n}", f"a{n}") for n in range(count)] + [(f"a{n}", "root") for n in range(count)] + [("root", None)]
    drawn = draw(line)
    wall = " ".join("|" * LANES)
    assert drawn[LANES - 1] == " ".join("|" * (LANES - 1)) + " *"
    assert drawn[LANES : LANES + 2] == [f"{wall} * +1", f"{wall} * +2"]
    assert drawn[count] == "* " + " ".join("|" * (LANES - 1)) + f" +{count - LANES}"
    assert drawn[-1] == "* " + " ".join("/" * (LANES - 1)) + f" +{count - LANES}"


def test_times(make_saver, store_uri):
    """For people in UTC; for programs as ISO 8601, with the zone."""
    saver = make_saver()
    before = time.time()
    put(saver, "t", 1)
    put(saver, "t", 2, 1)
    saver.copy_thread("t", "copy")
    for thread in ("t", "copy"):
        text = call(store_uri, "history", thread)
        assert "made (UTC)" in text
        for n in (1, 2):
            assert re.search(rf"{cid(n)} +2026-01-01 00:00:0{n} ", text)
        newest, oldest = call_json(store_uri, "history", thread)
        assert oldest["made"] == "2026-01-01T00:00:01.000000+00:00"
        stored = datetime.fromisoformat(newest["time"])
        assert stored.utcoffset() == timedelta(0)
        assert before - 60 < stored.timestamp() < time.time() + 60
    for one in call_json(store_uri, "threads"):
        assert before - 60 < datetime.fromisoformat(one["active"]).timestamp() < time.time() + 60


def test_filters_of_threads(make_saver, store_uri):
    saver = make_saver()
    for thread in ("chat-1", "chat-2", "job-1", "job-2"):
        put(saver, thread, 1)
    saver.put_writes(cfg("chat-2", n=1), [("__interrupt__", "asked")], "task")
    saver.put_writes(cfg("job-2", n=1), [("text", "x")], "task")
    raw = open_raw(store_uri)
    name = keys.checkpoint_doc("job-1", "", cid(1))
    raw.set_document(name, {**raw.documents()[name], "manifest": b"?"})
    raw.close()

    def found(*arguments):
        return [one["thread_id"] for one in call_json(store_uri, "threads", *arguments)]

    everything = found()
    chats = [thread for thread in everything if thread.startswith("chat-")]
    assert found("--prefix", "chat-") == chats
    assert found("--prefix", "chat-", "--limit", "1") == chats[:1]
    assert found("--waiting") == ["chat-2"]
    assert sorted(found("--unfinished")) == ["chat-2", "job-2"]
    assert found("--damaged") == ["job-1"]
    assert found("--unfinished", "--prefix", "job-") == ["job-2"]
    assert found("--since", "1d") == everything
    assert found("--since", "2100-01-01") == []
    assert "There are no such threads." in call(store_uri, "threads", "--since", "2100-01-01")
    assert "waits for an answer" in call(store_uri, "threads", "--waiting")
    assert re.search("job-2.* unfinished", call(store_uri, "threads", "--unfinished"))


def test_nodes_that_cannot_be_known(make_saver, store_uri):
    saver = make_saver()
    for n in range(1, 5):
        put(saver, "t", n, n - 1 or None, node=f"node {n}")
    saver.prune(["t"], strategy=KeepLast(2))
    found = call_json(store_uri, "history", "t")
    assert [(one["checkpoint_id"], one["nodes"]) for one in found] == [(cid(4), ["node 4"]), (cid(3), [])]
    raw = open_raw(store_uri)
    name = keys.checkpoint_doc("t", "", cid(3))
    raw.set_document(name, {**raw.documents()[name], "manifest": b"?"})
    raw.close()
    assert call_json(store_uri, "history", "t")[0]["nodes"] == []


def test_damage_is_shown(make_saver, store_uri):
    saver = make_saver()
    fill(saver)
    raw = open_raw(store_uri)
    (blob,) = [name for name in raw.objects() if f"/{cid(2)}/large" in name]
    raw.delete_object(blob)
    (name,) = [name for name in raw.documents() if "lg_checkpoints" in name and raw.documents()[name].get("pin")]
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, "manifest": fields["manifest"][:-1]})
    raw.close()
    found = {int(one["checkpoint_id"][-2:]): one["damage"] for one in call_json(store_uri, "history", "t")}
    assert found[5] is found[4] is found[1] is None
    assert "'large'" in found[2]
    assert "digest" in found[3]
    assert call(store_uri, "history", "t").count("damaged:") == 2
    assert [one["damaged"] for one in call_json(store_uri, "threads")] == [1]


def test_they_say_what_is_not_checked(make_saver, store_uri):
    """Damage that neither notices, and that `verify` finds."""
    saver = make_saver()
    fill(saver)
    raw = open_raw(store_uri)
    put(saver, "t", 6, 4)
    (blob,) = [name for name in raw.objects() if f"/{cid(2)}/large" in name]
    raw.set_object(blob, bytes(len(raw.objects()[blob])))
    raw.delete_document(keys.checkpoint_doc("t", "", cid(6)))
    raw.close()
    assert {one.kind for one in saver.admin.verify(depth="data") if one.is_damage} == {"missing", "corrupt"}
    says = "Not checked: missing checkpoints, pending writes, {}, values. Use `langgraph-gcs verify --depth data`.\n"
    assert call(store_uri, "threads").endswith(says.format("objects"))
    assert call(store_uri, "history", "t", "--limit", "1").endswith(says.format("contents of objects"))
    parts = ["missing checkpoints", "pending writes", "objects", "values"]
    (thread,) = call_json(store_uri, "threads")
    assert (thread["damaged"], thread["not_checked"]) == (0, parts)
    parts[2] = "contents of objects"
    found = call_json(store_uri, "history", "t")
    assert {(one["damage"], *one["not_checked"]) for one in found} == {(None, *parts)}


def test_stats(make_saver, store_uri):
    saver = make_saver()
    fill(saver)
    text = "".join(f"{random.Random(n).random()} " for n in range(300))
    for n in range(10, 20):
        put(saver, "chat", n, None if n == 10 else n - 1, values={"text": text + "more " * n})
    found = call_json(store_uri, "stats")
    raw = open_raw(store_uri)
    assert (found["objects"], found["object_bytes"]) == (len(raw.objects()), sum(map(len, raw.objects().values())))
    documents = [fields for name, fields in raw.documents().items() if "/lg_checkpoints/" in name]
    assert found["document_bytes"] == sum(len(f.get("frames", b"")) + len(f["manifest"]) for f in documents)
    raw.close()
    assert (found["checkpoints"], found["pending_writes"], len(found["threads"])) == (15, 3, 2)
    chat = next(sums for sums in found["channels"] if sums["channel"] == "text")
    assert chat["values"] == 15
    assert 0 < chat["incremental"] < chat["full"]
    assert chat["saved"] > chat["full"]
    gib = 1 << 30
    assert found["monthly_usd"] == pytest.approx((found["document_bytes"] * 0.15 + found["object_bytes"] * 0.02) / gib)
    assert call_json(store_uri, "stats", "--object-price", "0", "--document-price", "0")["monthly_usd"] == 0
    assert "saves about" in call(store_uri, "stats")


def test_no_payload_is_read(make_saver, store_uri, monkeypatch):
    """Pages of manifests and of names: their number goes with the checkpoints, whatever these hold."""
    monkeypatch.setattr(catalogue, "DOCS_PER_PAGE", 10)
    saver = make_saver()
    for thread in range(6):
        for n in range(1, 6):
            put(saver, f"t{thread}", n, n - 1 or None)
            saver.put_writes(cfg(f"t{thread}", n=n), [("large", random.Random(n).randbytes(200_000))], "task")
    reads = Seen()
    reader = make_saver(interceptors=[reads])
    reader.admin.threads()
    assert len(reads.requests) <= 2 + 30 // 10 + 2
    reader.admin.stats()
    reader.admin.history("t1")
    assert not [effect for effect in reads.requests if isinstance(effect, GetBlob)]
    payload = {"frames", "writes"}
    for effect in reads.requests:
        if isinstance(effect, (QueryDocs, GetDocs)):
            assert effect.mask is not None
            assert payload.isdisjoint(effect.mask)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_uuid_is_not_broken_in_two(make_saver, store_uri, monkeypatch):
    thread = str(uuid5(NAMESPACE_URL, "thread"))
    fill(make_saver(), thread)
    monkeypatch.setenv("COLUMNS", "80")
    assert thread in CliRunner().invoke(app, ["threads", "--store", store_uri]).stdout


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("columns", ["20", "40", "80", "100", None])
def test_an_id_is_in_one_line(make_saver, store_uri, monkeypatch, columns):
    saver = make_saver()
    thread = str(uuid5(NAMESPACE_URL, "thread"))
    fill(saver, thread)
    values = {"a channel of many words": 1, "another_one_without_blanks": 2}
    for n in (6, 7):
        put(saver, thread, n, n - 2, values=values, node="a_node_with_a_long_name")
    saver.admin.pin(cfg(thread, n=7), "a label that says much of what it is for")
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    for arguments in (["history", thread], ["threads"], ["stats"], ["prune", thread, "--keep-last", "1", "--dry-run"]):
        text = CliRunner().invoke(app, [*arguments, "--store", store_uri]).stdout
        assert (thread in text) == (arguments[0] != "history")
        if arguments[0] in {"history", "prune"}:
            assert all(cid(n) in text for n in range(1, 8))
        if columns is None:
            assert arguments[0] != "history" or re.search("a_node_with_a_long_name +a channel of many words", text)
        elif columns in {"80", "100"}:
            assert max(map(len, text.splitlines())) <= int(columns)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_an_id_of_hundreds_of_characters_does_not_widen_all_lines(make_saver, store_uri, monkeypatch):
    put(make_saver(), "x" * 500, 1)
    put(make_saver(), "short", 1)
    monkeypatch.setenv("COLUMNS", "80")
    text = CliRunner().invoke(app, ["threads", "--store", store_uri]).stdout
    assert max(map(len, text.splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")
    assert "x" * 500 in CliRunner().invoke(app, ["threads", "--store", store_uri]).stdout


def test_a_price_is_a_number(tmp_path):
    uri = f"file://{tmp_path}/store"
    with GCSSaver.from_conn_string(uri) as saver:
        fill(saver)
    with pytest.raises(CommandError, match="--object-price"):
        call(uri, "stats", "--object-price", "inf", "--json")


def test_nothing_acts_on_the_terminal(make_saver, store_uri):
    saver = make_saver()
    values = {EVIL: 1}
    put(saver, EVIL, 1, values=values, node=EVIL)
    put(saver, EVIL, 2, 1, values=values, node=EVIL, source=EVIL)
    saver.put_writes(cfg(EVIL, n=2), [("__interrupt__", EVIL)], EVIL)
    saver.admin.pin(cfg(EVIL, n=2), EVIL)
    for command in (["threads"], ["history", EVIL], ["stats"]):
        for text in (call(store_uri, *command), call(store_uri, *command, "--json")):
            assert all(c == "\n" or c.isprintable() for c in text), command
    assert "[bold]not" in call(store_uri, "history", EVIL)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["history", "nobody"], "there is no thread 'nobody'"), (["history", "t", "--ns", "x"], "no namespace 'x'")],
)
def test_what_is_not_there(tmp_path, arguments, says):
    uri = f"file://{tmp_path}/store"
    with GCSSaver.from_conn_string(uri) as saver:
        fill(saver)
    command = [sys.executable, "-m", "langgraph_gcs_saver.cli", *arguments, "--store", uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
