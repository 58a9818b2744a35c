"""analytics: the statements of the table, rows of a store, and reports on files and on a store."""

import gzip
import json
import re

import pytest

from langgraph_gcs_saver import analytics
from langgraph_gcs_saver.analytics.queries import QUESTIONS
from tests.cli import agents_that_work
from tests.cli.filled import is_harmless

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)

HOSTILE = "</style><script>alert(1)</script>\x1b[31m'\u202e$x$"
PNG = b"\x89PNG\r\n"


@pytest.fixture
def lines(make_saver, tmp_path):
    """A file of rows of a real run, and its lines."""
    path = tmp_path / "rows.jsonl"
    saver = make_saver(labels=["agent"])
    sink = analytics.Jsonl(path)
    saver.subscribe(sink)
    graph = agents_that_work.graph.copy({"checkpointer": saver})
    graph.invoke({"log": ["in"]}, {"configurable": {"thread_id": "t"}, "metadata": {"agent": "billing"}})
    sink.close()
    return path.read_bytes().splitlines()


@pytest.fixture
def path(lines, tmp_path):
    return str(tmp_path / "rows.jsonl")


def shown(command, *arguments):
    ended = command("analytics", "report", *arguments, "--json")
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_ddl_prints_the_table_and_the_views(command):
    out = command("analytics", "ddl", "--table", "p.d.rows", "--label", "agent", "--expiration-days", "30").out
    statements = [one.strip() for one in out.split(";\n") if one.strip()]
    assert statements == [
        analytics.ddl("p.d.rows", ["agent"], expiration_days=30),
        *analytics.views("p.d.rows", ["agent"]),
    ]
    assert "label_agent STRING" in out
    found = json.loads(command("analytics", "ddl", "--table", "p.d.rows", "--json").out)
    assert found == {"statements": [analytics.ddl("p.d.rows"), *analytics.views("p.d.rows")]}
    assert command("analytics", "ddl", "--table", "`").code != 0


def test_a_report_of_a_file(command, path, lines):
    found = shown(command, path)
    assert (found["rows"], found["files"], found["labels"], found["written"]) == (len(lines), 1, ["agent"], [])
    assert found["views"].keys() == QUESTIONS.keys()
    text = command("analytics", "report", path).out
    for question in QUESTIONS.values():
        assert question in text
    assert f"{len(lines)} rows of 1 file, from " in text
    assert "billing" in text


def test_a_report_of_the_store_has_the_same_checkpoints(command, path):
    of_file, of_store = shown(command, path), shown(command, "--label", "agent")
    assert of_store["files"] == 0
    for view, known in (("checkpoint_patterns", "checkpoints gap_p50 size_p50 stored"), ("storage_by_channel", "")):
        names = known.split() or list(of_file["views"][view][0])
        picked = [[[row[name] for name in names] for row in one["views"][view]] for one in (of_file, of_store)]
        assert picked[0] == picked[1] != []


def test_torn_and_foreign_lines_are_counted(command, path, lines, tmp_path):
    broken = tmp_path / "broken.jsonl"
    row = json.loads(lines[0])
    foreign = [
        [],
        7,
        {"schema": 2, "event": "of a later version"},
        {**row, "size": "text"},
        {**row, "time": "2030-02-31T00:00:00Z"},
        {**row, "time": None},
        {**row, "seconds": float("nan")},
        {**row, "step": 1 << 63},
        {**row, "size": 1 << 62},
        {**row, "seconds": 10**400},
        {**row, "seconds": 1e300},
        {**row, "namespace": "\ud800"},
        *[{**row, "time": f"{time}Z"} for time in ("2030-01-31", "20300131T120000", "2030-01-31x12:00:00", "")],
    ]
    lines[1:1] = [json.dumps({**json.loads(lines[1]), "label_Agent": "x", "label_other": "\udfff"}).encode()]
    torn = [b'{"schema":1,"ev', b"\xff\xfe\x00", b"[" * 100_000, b'"' + b"x" * (3 << 20) + b'"']
    texts = [json.dumps(one).encode() for one in foreign]
    broken.write_bytes(b"\n".join([lines[0], *torn, b"", *texts, *lines, b'{"schema":1,"event_id":"']))
    found = shown(command, str(broken))
    assert (found["rows"], found["torn"], found["foreign"], found["duplicates"]) == (len(lines) + 1, 5, 16, 2)
    assert found["labels"] == ["agent"]
    assert found["views"] == shown(command, path)["views"]
    out = " ".join(command("analytics", "report", str(broken)).out.split())
    for text in ("Left out as torn: 5 lines", "as no rows of this version: 16 lines", "as repeated: 2 rows"):
        assert text in out


def test_patterns_and_compressed_files(command, path, lines, tmp_path):
    for number, some in enumerate((lines[:3], lines[3:])):
        (tmp_path / f"part-{number}.jsonl.gz").write_bytes(gzip.compress(b"\n".join(some)))
    found = shown(command, str(tmp_path / "part-*.jsonl.gz"))
    assert (found["files"], found["rows"], found["torn"]) == (2, len(lines), 0)
    assert found["views"] == shown(command, path)["views"]
    whole = (tmp_path / "part-1.jsonl.gz").read_bytes()
    (tmp_path / "part-1.jsonl.gz").write_bytes(whole[:-20])
    assert shown(command, str(tmp_path / "part-*"))["torn"] >= 1
    (tmp_path / "plain.gz").write_bytes(b"plain")
    (tmp_path / "damaged.gz").write_bytes(whole[:10] + bytes(50) + whole[60:])
    for name, code, said in (
        ("plain.gz", 2, "not compressed"),
        ("damaged.gz", 2, "is damaged"),
        ("absent", 1, "no file"),
        ("", 1, "cannot read"),
    ):
        ended = command("analytics", "report", str(tmp_path / name))
        assert ended.code == code
        assert said in ended.err


def test_the_page_and_the_plots(command, path, tmp_path):
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    arguments = (path, "-o", str(page), "--write", str(plots))
    assert len(shown(command, *arguments)["written"]) == 5
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 8
    assert "<script" not in text
    assert not re.search(r"https?://", text)
    for name, question in QUESTIONS.items():
        assert question in text
        assert (plots / f"{name}.png").read_bytes().startswith(PNG)
    before = (plots / "checkpoint_patterns.png").read_bytes()
    for some in (arguments[1:3], arguments[3:]):
        ended = command("analytics", "report", path, *some)
        assert ended.code == 1
        assert "already exists" in ended.err
    assert command("analytics", "report", path, *arguments[3:], "--force").code == 0
    assert (plots / "checkpoint_patterns.png").read_bytes() == before, "the same report has the same bytes"


def test_hostile_names_stay_text(command, lines, tmp_path):
    hostile = tmp_path / "hostile.jsonl"
    rows = [{**json.loads(line), "label_agent": HOSTILE, "namespace": HOSTILE} for line in lines]
    rows += [{**row, "channel": HOSTILE} for row in rows if row["event"] == "value_stored"]
    hostile.write_text("\n".join(map(json.dumps, rows)))
    page = tmp_path / "page.html"
    ended = command("analytics", "report", str(hostile), "-o", str(page))
    assert ended.code == 0
    assert is_harmless(ended.out)
    assert "<script" not in page.read_text()
    assert "\x1b" not in page.read_text()


def test_a_report_without_rows(command, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    page = tmp_path / "page.html"
    ended = command("analytics", "report", str(empty), "-o", str(page))
    assert ended.code == 0
    assert "There are no checkpoints in these rows." in ended.out
    assert "No recovery was recorded" in page.read_text()


def test_backfill_writes_a_file(command, path, tmp_path):
    target = tmp_path / "filled.jsonl"
    ended = command("analytics", "backfill", "--to", str(target), "--label", "agent")
    assert ended.code == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert ended.out == f"Wrote {len(rows)} rows.\n"
    assert {row["label_agent"] for row in rows if row["event"] == "checkpoint_saved"} == {"billing"}
    streamed = shown(command, path)
    assert shown(command, path, str(target))["views"] == streamed["views"]
    assert json.loads(command("analytics", "backfill", "t", "--to", str(target), "--json").out)["rows"] == len(rows)
    later = command("analytics", "backfill", "t", "--to", str(target), "--since", "2999-01-01")
    assert later.out == "Wrote 0 rows.\n"


@pytest.mark.usefixtures("path")
def test_backfill_of_a_thread_that_is_not_there(command, tmp_path):
    ended = command("analytics", "backfill", "typo", "--to", str(tmp_path / "filled.jsonl"))
    assert ended.code == 1
    assert "no thread 'typo'" in ended.err


@pytest.mark.parametrize("target", ["bigquery://p/d", "pubsub://p", "ftp://x/y", "bigquery://"])
def test_targets_that_are_none(command, target):
    ended = command("analytics", "backfill", "--to", target)
    assert ended.code == 2
    assert "--to" in ended.err
    assert "bigquery://PROJECT/DATASET/TABLE" in ended.err


def test_times_that_are_none(command, tmp_path):
    ended = command("analytics", "backfill", "--to", str(tmp_path / "x"), "--since", "soon")
    assert ended.code == 2
    assert "how long ago" in ended.err
