"""report: the page shows what the store holds, it needs nothing else, and nothing that is stored acts in a browser."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt
from typer.testing import CliRunner

from langgraph_gcs_saver import CheckpointInfo, Finding, GCSSaver, StoredValue
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.cli.commands import report as command
from langgraph_gcs_saver.cli.views import report_page
from langgraph_gcs_saver.cli.views.report_page import COLUMNS, Report, page
from langgraph_gcs_saver.cli.views.report_values import LENGTH, PIECES, Change, Piece, changes, readable
from langgraph_gcs_saver.errors import SagaStuckError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.portable import Opaque, PortableSerializer, Stored
from langgraph_gcs_saver.results import SagaInfo, SagaStep
from tests.behaviour.api import cfg, checkpoint, cid, metadata, version
from tests.patience import PATIENCE
from tests.system.raw import open_raw

EVIL = (
    "<script>alert(1)</script></style></title></svg>]]>--><img src=x onerror=alert(2)>",
    '" onload="alert(3)" x=\'',
    '<a href="javascript:alert(4)">javascript:alert(4)</a>',
    "&lt;b&gt; &amp; &#60;script&#62;",
    "\x1b[31m\x00\x07\x9b\u202eback\u2066\u200f\u2028\ufeff\ud800",
)

EVERYWHERE = {"class", "id"}
ATTRIBUTES = {
    "html": {"lang"},
    "meta": {"charset", "http-equiv", "content", "name"},
    "nav": {"aria-label"},
    "a": {"href"},
    "time": {"datetime"},
    "section": {"aria-labelledby"},
    "ul": {"role"},
    "ol": {"role"},
    "span": {"aria-hidden"},
    "svg": {"viewBox".lower(), "preserveaspectratio", "role", "aria-labelledby", "aria-hidden", "focusable"},
    "path": {"d"},
    "line": {"x1", "y1", "x2", "y2"},
    "circle": {"cx", "cy", "r"},
    "details": {"open"},
    "pre": {"dir"},
    "th": {"scope"},
}
PLAIN = re.findall(
    r"\w+",
    "head title style body header main footer h1 h2 h3 h4 p bdi b strong code dl div dt dd figure figcaption desc li "
    "summary ins del table caption thead tbody tr td",
)


class Page(HTMLParser):
    """A page, taken apart; it refuses what a report never has."""

    def __init__(self, markup):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.open = Counter(), [], [], []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in ATTRIBUTES or tag in PLAIN, tag
        for name, value in attrs:
            assert name in EVERYWHERE | ATTRIBUTES.get(tag, set()), (tag, name)
            self.attributes.append((tag, name, value))
        self.tags[tag] += 1
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append((tuple(self.open), data))

    def handle_comment(self, data):
        raise AssertionError(data)

    handle_pi = unknown_decl = handle_comment

    def values(self, tag, name):
        return [value for own, key, value in self.attributes if (own, key) == (tag, name)]

    def text(self, *inside):
        return "".join(data for tags, data in self.texts if not inside or tags[-1] in inside)

    def pieces(self, tag):
        return [data for tags, data in self.texts if tag in tags and tags[-1] == "pre"]


def read(markup):
    """The page, after what every page must be was checked."""
    found = Page(markup)
    assert markup.startswith("<!doctype html>\n<html lang=")
    assert all(c in "\n\t" or c.isprintable() for c in markup)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(target.startswith("#") and target[1:] in ids for target in found.values("a", "href"))
    labelled = [value for _, name, value in found.attributes if name == "aria-labelledby"]
    assert all(one in ids for value in labelled for one in value.split())
    (policy,) = [value for value in found.values("meta", "content") if "default-src" in value]
    style = markup[markup.index("<style>") + 7 : markup.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
    assert not re.search(r"url\(|@import|expression", style)
    assert found.tags["style"] == found.tags["title"] - 2 == 1, "one title for the page, and one for each chart"
    return found


def put(saver, thread, n, parent=None, *, ns="", values, node="node", **more):
    versions = dict.fromkeys(values, version(n))
    one = checkpoint(n, values, versions)
    one["versions_seen"] = {node: {"seen": version(n)}}
    saver.put(cfg(thread, ns, parent), one, metadata(step=n - 2, run_id="run", **more), versions)


def fill(saver, thread="t"):
    """Two branches of a chat, with an answered and an open question, a pin, and a subgraph."""
    said = [HumanMessage("hello there", id="1")]
    put(saver, thread, 1, source="input", values={"messages": said, "topic": "weather"})
    answered = [*said, AIMessage("", id="2", tool_calls=[{"name": "look", "args": {"at": "sky"}, "id": "c"}])]
    put(saver, thread, 2, 1, values={"messages": answered, "topic": "weather, and wind"})
    put(saver, thread, 3, 2, values={"messages": [*answered, ToolMessage("blue", tool_call_id="c", id="3")]})
    put(saver, thread, 4, 2, source="fork", values={"messages": answered[1:], "notes": {"a": 1}}, node="other")
    put(saver, thread, 5, ns="sub:1", values={"inner": [1, 2]})
    saver.put_writes(cfg(thread, n=2), [("__interrupt__", [Interrupt(value="go on?", id="i")])], "asker")
    saver.put_writes(cfg(thread, n=2), [("__resume__", "yes, go on")], "asker")
    saver.put_writes(cfg(thread, n=4), [("__interrupt__", [Interrupt(value={"really": "?"}, id="j")])], "waiting")
    saver.admin.pin(cfg(thread, n=3), "good")


def run(uri, *arguments):
    return CliRunner().invoke(app, ["report", *arguments, "--store", uri])


def write(uri, thread, target, *arguments):
    result = run(uri, thread, "-o", str(target), "--force", *arguments)
    assert result.exit_code == 0, result.output
    assert result.output == ""
    return target.read_bytes().decode()


def test_the_page_tells_the_thread(make_saver, store_uri, tmp_path):
    fill(make_saver())
    markup = write(store_uri, "t", tmp_path / "page.html")
    found = read(markup)
    assert found.text("title").startswith("Thread t")
    facts = re.sub(r"\s+", " ", found.text())
    assert "Checkpoints5Namespaces2Runs1" in facts
    assert "Waiting for an answer1Pinned1Held by sets and savepoints0" in facts
    assert "Damaged checkpoints0Checkpoints whose values were read5" in facts
    assert "None: documents are whole." in facts
    assert "Not checked" not in facts
    steps = dict(re.findall(r'<li id="(step-\d)" class="step">(.*?)</li>', markup))
    assert list(steps) == ["step-2", "step-3", "step-4", "step-5", "step-1"], "newest first, namespace by namespace"
    by_number = {n: Page(steps[f"step-{6 - n}"]) for n in range(1, 6)}
    assert all(cid(n) in step.text("code") for n, step in by_number.items())

    assert by_number[1].pieces("ins") == ["hello there", "weather"]
    assert by_number[2].pieces("ins") == ['calls look({"at": "sky"})', ", and wind"]
    assert "go on?" in by_number[2].text("pre")
    assert "yes, go on" in by_number[2].text("pre")
    assert by_number[3].pieces("ins") == ["blue"]
    assert by_number[4].pieces("del") == ["hello there"]
    assert by_number[4].pieces("ins") == ['{"a": 1}']
    assert '{"really": "?"}' in by_number[4].text("pre")
    assert "interrupted" in by_number[2].text("span")
    assert "2 branches" in by_number[2].text("span")
    assert "pin " in by_number[3].text("span")
    assert "fork" in by_number[4].text("span")
    assert "waits for an answer" in by_number[4].text("span")
    assert by_number[3].values("a", "href") == by_number[4].values("a", "href") == ["#step-4"]
    assert by_number[2].values("a", "href") == ["#step-5", "#step-3", "#step-2"]
    opened = {n for n, step in by_number.items() if step.tags["details"] == len(step.values("details", "open")) == 1}
    assert opened == {4, 5}, "the newest, and the one that waits"
    lines = {n: step.tags["line"] for n, step in by_number.items()}
    assert lines == {5: 0, 4: 1, 3: 2, 2: 3, 1: 1}
    assert "Namespace " in found.text("h3")


def test_the_same_thread_gives_the_same_page(tmp_path):
    """To another process, with another hash seed and time zone, and to a pipe of no certain encoding."""
    store_uri = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(store_uri) as saver:
        fill(saver)
        put(saver, "t", 6, 3, values={"set": {"a", "b", "c", "d"}, "text": "\u05e9\u05dc\u05d5\u05dd"})
    first = write(store_uri, "t", tmp_path / "one.html")
    own = {
        "PYTHONHASHSEED": "7",
        "TZ": "Asia/Tokyo",
        "PYTHONIOENCODING": "ascii",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }
    arguments = [sys.executable, "-m", "langgraph_gcs_saver.cli", "report", "t", "-o", "-", "--store", store_uri]
    done = subprocess.run(arguments, env=os.environ | own, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == first


def test_without_values_no_content_is_in_it(make_saver, store_uri, tmp_path):
    fill(make_saver())
    markup = write(store_uri, "t", tmp_path / "page.html", "--no-values")
    found = read(markup)
    for content in ("hello there", "weather", "sky", "blue", "go on?", "really"):
        assert content not in markup
    assert "Values were not read." in found.text()
    assert "Not checked: contents of objects, values. Use `langgraph-gcs verify --depth data`." in found.text("p")
    assert found.text("bdi").count("messages") >= 4


def test_damage_is_told(make_saver, store_uri, tmp_path):
    fill(make_saver())
    put(make_saver(), "t", 6, 3, values={"messages": ["x" * 100], "blob": os.urandom(200_000)})
    raw = open_raw(store_uri)
    (blob,) = [name for name in raw.objects() if f"/{cid(6)}/" in name]
    raw.delete_object(blob)
    (name,) = [name for name in raw.documents() if "lg_checkpoints" in name and raw.documents()[name].get("pin")]
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, "manifest": fields["manifest"][:-1]})
    raw.close()
    markup = write(store_uri, "t", tmp_path / "page.html")
    found = read(markup)
    assert "Damaged checkpoints2" in found.text()
    assert markup.count('class="badge damage"') == markup.count('class="dot damage"') == 2
    assert "Needs attention" in found.text("h3")
    assert "corrupt" in found.text("strong")
    assert "hello there" in markup, "what is whole is shown"


def test_damage_that_only_values_show_is_told(make_saver, store_uri, tmp_path):
    """Corrupt bytes in an object and in a document, and a newest checkpoint that is missing."""
    saver = make_saver()
    for n in range(1, 8):
        put(saver, "t", n, n - 1 or None, values={"text": os.urandom(50).hex(), "blob": os.urandom(20_000)})
    raw = open_raw(store_uri)
    objects = [name for name in raw.objects() if f"/{cid(1)}/" in name]
    assert objects
    for name in objects:
        raw.set_object(name, bytes(len(raw.objects()[name])))
    name = keys.checkpoint_doc("t", "", cid(5))
    fields = raw.documents()[name]
    raw.set_document(name, {**fields, "frames": bytes(len(fields["frames"]))})
    raw.delete_document(keys.checkpoint_doc("t", "", cid(7)))
    raw.close()
    broken = {one for finding in saver.admin.verify(depth="data") if finding.is_damage for one in finding.affects}
    assert {cid(1), cid(5), cid(7)} <= broken
    markup = write(store_uri, "t", tmp_path / "page.html")
    found = read(markup)
    assert f"Damaged checkpoints{len(broken)}Checkpoints whose values were read6" in found.text()
    assert markup.count('class="badge damage"') == markup.count('class="dot damage"') == len(broken) - 1
    assert found.text("li").count("is damaged") == len(broken) - 1
    assert "channel 'text'" in found.text()
    assert "Not checked" not in found.text()
    done = json.loads(run(store_uri, "t", "-o", str(tmp_path / "page.html"), "--force", "--json").stdout)
    assert (done["damaged"], done["not_checked"]) == (len(broken), [])
    done = json.loads(
        run(store_uri, "t", "-o", str(tmp_path / "page.html"), "--force", "--json", "--steps", "1").stdout
    )
    assert done["damaged"] < len(broken)
    assert done["not_checked"] == ["values of 4 checkpoints"]


def test_what_it_reads_is_bounded(make_saver, store_uri, tmp_path, monkeypatch):
    saver = make_saver()
    for n in range(1, 8):
        put(saver, "t", n, n - 1 or None, values={"text": f"text {n}."})

    def texts(*arguments):
        return re.findall(r"text \d", read(write(store_uri, "t", tmp_path / "page.html", *arguments)).text("pre"))

    assert texts() == [f"text {n}" for n in (6, 7, 5, 6, 4, 5, 3, 4, 2, 3, 1, 2, 1)]
    assert texts("--steps", "1") == ["text 6", "text 7"]
    monkeypatch.setattr(command, "VALUES", 2)
    assert texts() == ["text 6", "text 7", "text 5", "text 6"]
    size = saver.admin.history("t")[0].size
    monkeypatch.setattr(command, "VALUE_BYTES", 2 * size)
    assert texts() == ["text 6", "text 7", "text 6"], "the parent of the last one is beyond the limit"
    monkeypatch.setattr(command, "VALUE_BYTES", size - 1)
    assert texts() == []
    found = read(write(store_uri, "t", tmp_path / "page.html", "--steps", "3"))
    assert "The newest 3 checkpoints; 4 older ones are not listed." in found.text("p")


def test_files_are_not_overwritten(tmp_path):
    uri, target = (tmp_path / "store").as_uri(), tmp_path / "page.html"
    with GCSSaver.from_conn_string(uri) as saver:
        fill(saver)
    target.write_text("mine")
    refused = run(uri, "t", "-o", str(target))
    assert refused.exit_code == 1
    assert "--force" in str(refused.exception)
    assert target.read_text() == "mine"
    assert run(uri, "nobody", "-o", str(target), "--force").exit_code == 1
    assert target.read_text() == "mine"
    done = run(uri, "t", "-o", str(target), "--force", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["checkpoints"], told["with_values"], told["findings"]) == (0, 5, 5, 0)
    assert told["bytes"] == target.stat().st_size
    for arguments, says, code in (
        (["t", "-o", str(tmp_path), "--force"], "directory", 1),
        (["t", "-o", str(tmp_path / "none" / "page.html")], "No such file", 1),
        (["t", "-o", "-", "--json"], "standard output", 2),
        (["nobody", "-o", str(tmp_path / "other.html")], "no thread 'nobody'", 1),
    ):
        refused = run(uri, *arguments)
        assert says in str(refused.exception)
        assert refused.exception.exit_code == code
        assert refused.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "store"]


def test_a_file_that_came_meanwhile_stays(tmp_path, monkeypatch):
    uri, target = (tmp_path / "store").as_uri(), tmp_path / "page.html"
    with GCSSaver.from_conn_string(uri) as saver:
        fill(saver)

    def slow(report):
        target.write_text("mine")
        return page(report)

    monkeypatch.setattr(report_page, "page", slow)
    assert "--force" in str(run(uri, "t", "-o", str(target)).exception)
    assert target.read_text() == "mine"


def test_a_page_that_does_not_fit_the_disk_leaves_nothing(tmp_path):
    uri = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(uri) as saver:
        fill(saver)
    refused = run(uri, "t", "-o", "/dev/full", "--force")
    assert "No space left" in str(refused.exception)


# What is stored is not to be trusted


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
def test_nothing_stored_is_markup(make_saver, store_uri, tmp_path, evil):
    saver, name = make_saver(), evil.replace("\ud800", "")
    values = {name: name, "list": [HumanMessage(name, id=name, name=name)], "keys": {name: name}, "none": [name]}
    put(saver, name, 1, ns=name, values=values, node=name)
    put(saver, name, 2, 1, ns=name, values=values | {"keys": {name: 1}}, node=name, source=name)
    saver.put_writes(cfg(name, name, 2), [("__interrupt__", [Interrupt(value=name, id=name)])], name)
    saver.admin.pin(cfg(name, name, 2), name)
    found = read(write(store_uri, name, tmp_path / "page.html"))
    assert found.values("li", "id") == ["step-1", "step-2"]
    shown = name if name.isprintable() else name.encode("unicode_escape").decode()
    assert shown in found.text("title")
    assert shown in found.text("h1", "bdi")
    assert shown in found.text("pre")


@pytest.mark.parametrize("evil", EVIL, ids=range(len(EVIL)))
def test_nothing_in_a_report_is_markup(evil):
    """Fields that a store of this version would not hold are escaped as well."""
    value = StoredValue(channel=evil, kind=evil, size=1, stored=1, is_object=True, full=1)
    info = CheckpointInfo(
        thread_id=evil,
        checkpoint_ns=evil,
        checkpoint_id=evil,
        parent_id=evil + "1",
        time=1.5e9,
        step=1,
        source=evil,
        run_id=evil,
        nodes=(evil, evil),
        stored=(value,),
        tasks=(evil,),
        pin=evil,
        holds=(evil,),
        interrupts=1,
        damage=evil,
    )
    finding = Finding(kind=evil, thread_id=evil, channel=evil, name=evil, reason=evil, affects=(evil,))
    change = Change(evil, (Piece("new", evil, evil, 5), Piece("gone", evil, evil), Piece("now", evil, evil)), 3)
    step = SagaStep(name=evil, key=evil, state=evil, undo=(evil, 1), claimed=None, epoch=0, problem=evil)
    saga = SagaInfo(
        thread_id=evil, saga_id=evil, state="stuck", epoch=1, steps=(step,), savepoints={evil: evil}, target=evil
    )
    found = read(
        page(
            Report(
                thread_id=evil,
                checkpoints=[info],
                findings=[finding],
                changes={(evil, evil): [change]},
                shown=1,
                sagas=[saga],
            )
        )
    )
    bare = read(page(Report(thread_id="t", checkpoints=[replace(info, checkpoint_id="c")], shown=1)))
    assert found.tags["ins"] == found.tags["del"] == 1
    assert not [value for _, _, value in found.attributes + bare.attributes if value and "alert" in value]


# Sagas


def saga(state, steps=(), savepoints=None, target=None):
    return SagaInfo(
        thread_id="t",
        saga_id=f"trip {state}",
        state=state,
        epoch=1,
        steps=steps,
        savepoints=savepoints or {},
        target=target,
    )


def saga_step(name, state="done", undo=("cancel", 2), problem=None):
    return SagaStep(name=name, key=f"k {name}", state=state, undo=undo, claimed=None, epoch=1, problem=problem)


def test_sagas_are_shown_with_their_steps_and_savepoints():
    steps = (saga_step("book"), saga_step("mail", undo=None), saga_step("pay", "unknown", problem="No answer came."))
    found = [
        saga("running"),
        saga("stuck", steps, {"before payment": cid(1), "old": cid(9), "first": None}, "before payment"),
        saga("compensated"),
    ]
    made = read(page(Report(thread_id="t", checkpoints=[info(2, 1), info(1)], shown=2, sagas=found)))
    assert made.values("a", "href")[:4] == ["#summary", "#size", "#sagas", "#timeline"]
    text = re.sub(r"\s+", " ", made.text())
    assert "Needs attentionSaga trip stuck is stuck" in text
    assert "Saga trip running: runningIt has no steps." in text
    assert "bookdonecancel v21maildoneirreversible1payNo answer came.unknowncancel v21" in text
    assert f"Savepoints: before payment at step ?, old at {cid(9)} which no longer exists, first" in text
    assert text.count("It is rolled back to") == 2
    assert "the savepoint before payment." in text
    assert "It is rolled back to its beginning." in text
    bare = read(page(Report(thread_id="t", checkpoints=[info(1)], shown=1)))
    assert "Saga" not in bare.text()


def test_the_sagas_of_a_thread_are_shown_or_the_damage_of_one(tmp_path):
    uri = (tmp_path / "store").as_uri()
    with GCSSaver.from_conn_string(uri) as saver:
        put(saver, "t", 1, values={"a": 1})
        with saver.thread("t").saga("trip-7") as trip:
            trip.once("mail", lambda: None, irreversible=True)
            trip.savepoint("mailed")
        with pytest.raises(SagaStuckError):
            trip.rollback()
    text = read(write(uri, "t", tmp_path / "page.html")).text()
    assert "Saga trip-7: stuckstepstateundoepochmailit is irreversibledoneirreversible0" in text
    assert "savepoint mailed of saga trip-7: " in text
    assert "Savepoints: mailed at step -1" in re.sub(r"\s+", " ", text)
    raw = open_raw(uri)
    name = keys.saga_doc("t", "trip-7")
    raw.set_document(name, {**raw.documents()[name], "state": "done"})
    raw.close()
    text = read(write(uri, "t", tmp_path / "page.html")).text()
    assert "Sagas are not shown, because a document of theirs is damaged" in text
    assert "a saga's state differs" in text


def test_held_checkpoints_are_listed_with_what_holds_them():
    infos = [info(2, 1), info(1, step=7, holds=("savepoint a of saga b", "set s of team t"))]
    made = read(page(Report(thread_id="t", checkpoints=infos, shown=1)))
    assert made.values("a", "href")[:4] == ["#summary", "#size", "#held", "#timeline"]
    assert "Sets and savepoints" in made.text("h2")
    text = re.sub(r"\s+", " ", made.text())
    assert f"savepoint a of saga b: step 7{cid(1)}set s of team t: step 7{cid(1)}" in text
    bare = read(page(Report(thread_id="t", checkpoints=[info(1)], shown=1)))
    assert "Sets and savepoints" not in bare.text()


# Shapes


def info(n, parent=None, **more):
    return CheckpointInfo(
        thread_id="t", checkpoint_ns="", checkpoint_id=cid(n), parent_id=parent and cid(parent), **more
    )


def once(found):
    assert len(found) == len(set(found))
    return found


def drawn(infos):
    markup = page(Report(thread_id="t", checkpoints=infos, shown=len(infos)))
    read(markup)
    return [
        {tuple(line.split('"')[1::2]) for line in once(re.findall("<line [^>]*>", one))}
        for one in re.findall(r'<div class="lanes.*?</div>', markup)
    ]


def test_branches_are_drawn():
    a, b = "9", "23"
    infos = [info(5, 2), info(4, 3), info(3, 2), info(2, 1), info(1)]
    assert drawn(infos) == [
        {(a, "22", a, "100%")},
        {(a, "0", a, "100%"), (b, "22", b, "100%")},
        {(a, "0", a, "100%"), (b, "0", b, "22"), (b, "22", b, "100%")},
        {(a, "0", a, "22"), (a, "22", a, "100%"), (b, "0", a, "22")},
        {(a, "0", a, "22")},
    ]


def test_a_branch_that_ends_makes_room():
    a, b = "9", "23"
    assert drawn([info(5, 1), info(4), info(3, 1), info(1)])[1] == {(a, "0", a, "100%")}
    assert drawn([info(6, 4), info(5, 1), info(4), info(1)])[2:] == [
        {(a, "0", a, "22"), (b, "0", b, "22"), (b, "22", a, "44"), (a, "44", a, "100%")},
        {(a, "0", a, "22")},
    ]


def test_old_damage_is_told_though_its_step_is_not_listed():
    infos = [info(3, 2), info(2, 1, damage="gone"), info(1, damage="gone", step=7)]
    found = read(page(Report(thread_id="t", checkpoints=infos, shown=2)))
    assert found.text("li").count("is damaged") == 2
    assert found.values("a", "href").count("#step-2") == 2, "from there, and from the one that continues it"
    assert "step 7" in found.text("b")


def test_many_branches_share_the_last_lane():
    infos = [info(n, 1) for n in range(100, 1, -1)] + [info(1)]
    rows = drawn(infos)
    assert max(map(len, rows)) <= 7
    assert {x for row in rows for line in row for x in line[::2]} == {"9", "23", "37", "51", "65", "79"}


def test_a_parent_that_is_gone_or_newer_ends_the_line():
    assert drawn([info(3, 2)]) == [set()]
    assert drawn([info(3), info(2, 3)]) == [set(), set()]
    markup = page(Report(thread_id="t", checkpoints=[info(3, 2)], shown=1))
    assert "which no longer exists" in markup


@pytest.mark.parametrize("count", [1, 2, COLUMNS, COLUMNS + 1, 3000])
def test_charts_of_any_length(count):
    value = StoredValue(channel="c", kind="incremental", size=100, stored=10, is_object=False, full=60)
    infos = [
        info(n, n - 1 or None, stored=(value,), manifest_bytes=5, size=n, time=1.7e9 + n) for n in range(count, 0, -1)
    ]
    markup = page(Report(thread_id="t", checkpoints=infos, shown=10))
    found = read(markup)
    paths = dict(zip(found.values("path", "class"), found.values("path", "d"), strict=False))
    columns = min(count, -(-count // -(-count // COLUMNS)))
    assert paths["fill incremental"].count("M") == paths["fill manifest"].count("M") == columns
    assert paths["fill full"] == ""
    assert paths["line total"].count("L") == paths["line state"].count("L") == columns
    assert all(0 <= float(number) <= 1000 for path in paths.values() for number in re.findall(r"[\d.]+", path))
    assert f"about {50 * count / 1024:.1f} KiB" in found.text() or count < 21
    assert len(found.values("li", "id")) == min(10, count)
    assert len(markup) < 100_000


# Values


def portable(value):
    """A value as it is read without its classes."""
    kind, data = JsonPlusSerializer().dumps_typed(value)
    return PortableSerializer().loads_typed((kind, bytes(data)))


def told(before, after, parent=1):
    stored = tuple(StoredValue(channel=name, kind="full", size=1, stored=1, is_object=False, full=1) for name in after)

    def one(values):
        return None if values is None else CheckpointTuple(cfg(), checkpoint(1, portable(values)), metadata(), None, [])

    found = changes(info(2, parent, stored=stored), one(after), one(before))
    return {change.channel: [(piece.mark, piece.label, piece.text) for piece in change.pieces] for change in found}


def test_changes():
    assert told({"a": 1}, {"a": [1]}) == {"a": [("gone", "", "1"), ("new", "", "[1]")]}
    assert told({"a": [1, 2]}, {"a": [2, 3]}) == {"a": [("gone", "", "1"), ("new", "", "3")]}
    assert told({"a": [1, 1]}, {"a": [1, 1, 1]}) == {"a": [("new", "", "1")]}
    assert told({"a": {"x": 1, "y": 2}}, {"a": {"x": 3, "y": 2, "z": None}}) == {
        "a": [("gone", "x", "1"), ("new", "x", "3"), ("new", "z", "null")]
    }
    assert told({"a": "abc"}, {"a": "abcdef"}) == {"a": [("new", "appended", "def")]}
    assert told(None, {"a": [1, 2], "b": "x"}) == {"a": [("now", "", "2")], "b": [("now", "", "x")]}
    assert told(None, {"a": [1, 2]}, parent=None) == {"a": [("new", "", "1"), ("new", "", "2")]}
    assert told({}, {"__start__": 1, "branch:to:x": None, "a": []}) == {}
    old = [HumanMessage("one", id="1"), AIMessage([{"type": "text", "text": "two"}, {"type": "image"}], id="2")]
    new = [old[0], AIMessage("2", id="2"), {"role": "user", "content": "three"}]
    assert told({"m": old}, {"m": new}) == {
        "m": [("gone", "ai", "two\n[image]"), ("new", "ai", "2"), ("new", "user", "three")]
    }


def test_messages_of_any_shape():
    odd = [{"role": "user", "content": 1, "tool_calls": 5}, {"type": "x", "content": [None, {"type": 3}], "id": [1]}]
    odd += [{"role": "ai", "content": None, "tool_calls": [1, {"name": "f"}]}, {"role": 1, "content": "none"}]
    assert told({}, {"m": odd}) == {
        "m": [
            ("new", "user", "1"),
            ("new", "x", "null\n[3]"),
            ("new", "ai", "calls 1\ncalls f({})"),
            ("new", "", '{"role": 1, "content": "none"}'),
        ]
    }


def test_long_changes_are_cut():
    stored = (StoredValue(channel="a", kind="full", size=1, stored=1, is_object=False, full=1),)
    values = {"a": [str(n) * 1000 for n in range(10, 10 + PIECES + 5)]}
    (change,) = changes(
        info(1, stored=stored), CheckpointTuple(cfg(), checkpoint(1, values), metadata(), None, None), None
    )
    assert (len(change.pieces), change.more) == (PIECES, 5)
    assert {(len(piece.text), piece.cut) for piece in change.pieces} == {(LENGTH, 2000 - LENGTH)}


def test_any_value_is_readable():
    @dataclass
    class Plan:
        steps: set[int]

    deep = []
    for _ in range(300):
        deep = [deep]
    sets = frozenset()
    for _ in range(300):
        sets = frozenset([(sets,)])
    nested = Stored.of(0, ["m", "C", 1])
    for _ in range(2000):
        nested = Stored.of(0, ["m", "C", nested])
    for value in (
        portable(sets),
        nested,
        deep,
        float("nan"),
        b"x",
        {(1, 2): 3},
        Opaque("pickle", b"\x80"),
        {nested: 1},
    ):
        assert isinstance(readable(value), str)
    assert readable({"b": portable({3, 1, 2}), "a": b"123"}) == '{"b": {"<set>": [1, 2, 3]}, "a": "<3 bytes>"}'
    assert readable(portable([Plan({1})])) == '[{"<Plan>": {"steps": {"<set>": [1]}}}]'
