"""A wrong belief of an agent is corrected in a new checkpoint, and the run continues with it."""

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels import LastValue
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.pregel import NodeBuilder, Pregel
from langgraph.types import Command, interrupt
from typer.testing import CliRunner

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.errors import GCSSaverError, InvalidInputError, SerializationError
from langgraph_gcs_saver.portable import edits
from tests.cli.stored import put
from tests.patience import PATIENCE

CONFIG = {"configurable": {"thread_id": "t"}}


@dataclass
class Plan:
    text: str
    steps: int


SERDE = JsonPlusSerializer(allowed_msgpack_modules=[Plan])


class State(TypedDict):
    messages: Annotated[list, add_messages]
    belief: str
    plan: Plan
    seen: list[str]
    answer: str
    other: str


def think(state):
    return {
        "messages": [AIMessage("Paris, I think.", id="a1")],
        "belief": "Paris",
        "plan": Plan("go", 2),
        "seen": ["x"],
    }


def act(state):
    last = state["messages"][-1].content
    return {"answer": f"{state['belief']}; {state['plan'].text}; {last}"}


def build(saver, *, before=("act",), act=act):
    builder = StateGraph(State)
    builder.add_node("think", think)
    builder.add_node("act", act)
    builder.add_node("beside", lambda state: {"other": f"beside {state['belief']}"})
    builder.add_edge(START, "think")
    builder.add_edge("think", "act")
    builder.add_edge("think", "beside")
    builder.add_edge("act", END)
    return builder.compile(checkpointer=saver, interrupt_before=list(before))


def start(make_saver, **options):
    graph = build(make_saver(serde=SERDE), **options)
    graph.invoke({"messages": [HumanMessage("Where?", id="h1")]}, CONFIG)
    return graph


def run(store_uri, *arguments):
    result = CliRunner().invoke(app, ["--store", store_uri, *arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def edit(store_uri, *arguments):
    return json.loads(run(store_uri, "edit", "t", *arguments, "--json"))


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Makes the editor a program that replaces text."""

    def make(code):
        path = tmp_path / "editor.py"
        path.write_text(
            "import pathlib, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text(encoding='utf-8')\n"
            f"{code}\npath.write_text(text, encoding='utf-8')\n",
            encoding="utf-8",
        )
        monkeypatch.setenv("EDITOR", f"{sys.executable} {path}")
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)

    return make


def ids(saver):
    return [item.config["configurable"]["checkpoint_id"] for item in saver.list(CONFIG)]


def test_the_run_goes_on_with_the_mended_value(make_saver, store_uri):
    graph = start(make_saver)
    old = graph.get_state(CONFIG)
    assert old.next == ("act", "beside")
    before = make_saver(serde=SERDE).get_tuple(old.config)

    found = edit(store_uri, "--channel", "belief", "--set", '"Rome"')

    graph = build(make_saver(serde=SERDE))
    new = graph.get_state(CONFIG)
    assert new.config["configurable"]["checkpoint_id"] == found["checkpoint_id"]
    assert new.parent_config == old.config
    assert new.next == old.next
    assert new.values == {**old.values, "belief": "Rome"}
    assert type(new.values["plan"]) is Plan
    assert {"source": "update", "step": old.metadata["step"] + 1, "parents": {}} == new.metadata
    assert graph.invoke(None, CONFIG)["answer"] == "Rome; go; Paris, I think."
    assert graph.get_state(CONFIG).values["other"] == "beside Rome"

    assert make_saver(serde=SERDE).get_tuple(old.config) == before
    # And the old branch still gives what it gave.
    assert graph.invoke(None, old.config)["answer"] == "Paris; go; Paris, I think."


def test_it_stores_what_update_state_stores(make_saver, store_uri):
    """All but the writer is the same: `update_state` writes as a node, and the graph continues after that node."""
    graph = start(make_saver)
    old = graph.get_state(CONFIG)
    theirs = graph.update_state(old.config, {"belief": "Rome"}, as_node="think")
    ours = edit(
        store_uri, "--checkpoint", old.config["configurable"]["checkpoint_id"], "--channel", "belief", "--set=1"
    )
    saver = make_saver(serde=SERDE)
    one, other = saver.get_tuple(theirs), saver.get_tuple(CONFIG)
    assert other.config["configurable"]["checkpoint_id"] == ours["checkpoint_id"]
    assert one.metadata == other.metadata
    assert one.parent_config == other.parent_config
    assert one.checkpoint.keys() == other.checkpoint.keys()
    assert one.checkpoint["v"] == other.checkpoint["v"]
    assert one.checkpoint["channel_values"].keys() == other.checkpoint["channel_values"].keys()
    numbers = [
        {name: version.split(".")[0] for name, version in item.checkpoint["channel_versions"].items()}
        for item in (one, other)
    ]
    assert numbers[0]["belief"] == numbers[1]["belief"]
    assert numbers[0].keys() == numbers[1].keys()


def test_messages_and_objects_in_an_editor(make_saver, store_uri, editor):
    start(make_saver)
    editor("text = text.replace('Paris, I think.', 'Rome, surely.')")
    edit(store_uri, "--channel", "messages")
    editor("text = text.replace('\"go\"', '\"stay\"')")
    edit(store_uri, "--channel", "plan")
    graph = build(make_saver(serde=SERDE))
    values = graph.get_state(CONFIG).values
    assert values["messages"] == [HumanMessage("Where?", id="h1"), AIMessage("Rome, surely.", id="a1")]
    assert values["plan"] == Plan("stay", 2)
    assert graph.invoke(None, CONFIG)["answer"] == "Paris; stay; Rome, surely."


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_an_editor_shows_text_and_no_escapes(make_saver, store_uri, editor):
    put(make_saver(), {"x": "Zürich 東京 \x1b[2J \u202e \x9b \U000e0001"})
    editor(
        "assert all(line.isprintable() for line in text.split('\\n'))\n"
        "assert 'Zürich 東京' in text\ntext = text.replace('Zürich', 'Genève')"
    )
    edit(store_uri, "--channel", "x")
    values = make_saver().get_tuple(CONFIG).checkpoint["channel_values"]
    assert values == {"x": "Genève 東京 \x1b[2J \u202e \x9b \U000e0001"}


def test_an_unchanged_file_writes_nothing(make_saver, store_uri, editor, tmp_path):
    start(make_saver)
    stored = ids(make_saver())
    editor("pass")
    assert edit(store_uri, "--channel", "messages") == {
        "thread_id": "t",
        "checkpoint_ns": "",
        "channel": "messages",
        "parent_checkpoint_id": stored[0],
        "checkpoint_id": None,
        "changed": False,
    }
    editor("import json; text = json.dumps(json.loads(text))")
    assert "unchanged" in run(store_uri, "edit", "t", "--channel", "messages")
    assert edit(store_uri, "--channel", "belief", "--set", '"Paris"')["changed"] is False
    assert edit(store_uri, "--channel", "belief", "--set", '"Rome"', "--dry-run")["checkpoint_id"] is None
    assert ids(make_saver()) == stored
    assert not list(tmp_path.glob("langgraph-gcs-*"))


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_was_edited_wrongly_is_kept(make_saver, store_uri, editor, tmp_path):
    start(make_saver)
    stored = ids(make_saver())
    for code, error in [
        ("text = '{'", "not JSON"),
        ('text = \'{"a": 1, "a": 2}\'', "same key twice"),
        ("text = text.replace('AIMessage', 'Popen')", "is not a class of LangChain"),
        ("text = text.replace('\"Paris, I think.\"', '5')", "do not make a valid AIMessage"),
        ("text = 'NaN'", "float"),
        ("text = '\"\\\\ud800\"'", "'messages' cannot be serialized .*surrogates, for a value of type str"),
        ("text = str(2**70)", "'messages' cannot be serialized .*Integer exceeds 64-bit range"),
    ]:
        editor(code)
        with pytest.raises((CommandError, InvalidInputError, SerializationError), match=error):
            run(store_uri, "edit", "t", "--channel", "messages")
        (kept,) = tmp_path.glob("langgraph-gcs-*/value.json")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
        shutil.rmtree(kept.parent)
    for code, error in [
        ("path.write_bytes(bytes([0xFF])); sys.exit()", "cannot be read"),
        ("path.unlink(); sys.exit()", "cannot be read"),
    ]:
        editor(code)
        with pytest.raises(CommandError, match=error):
            run(store_uri, "edit", "t", "--channel", "messages")
    (kept,) = tmp_path.glob("langgraph-gcs-*/value.json")
    assert kept.read_bytes() == b"\xff"
    shutil.rmtree(kept.parent)
    editor("sys.exit(3)")
    with pytest.raises(CommandError, match="ended with 3"):
        run(store_uri, "edit", "t", "--channel", "messages")
    assert not list(tmp_path.glob("langgraph-gcs-*"))
    assert ids(make_saver()) == stored


BIG = 1 << 70
OBJECT = f'{{"$type": "tests.cli.test_edit:Plan", "$kind": "kwargs", "$value": {{"text": "x", "steps": [{BIG}]}}}}'
MESSAGE = '[{"$type": "langchain_core.messages.human:HumanMessage", "$kind": "pydantic2", "$value": {"content": 5}}]'
TOO_BIG = "Integer exceeds 64-bit range, for a value of type int at"


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize(
    ("channel", "value", "says"),
    [
        ("belief", f'{{"x": ["hunter2", {{"n": {BIG}}}]}}', ("'belief'", f"{TOO_BIG} [item 0][1][item 0]")),
        ("belief", f'{{"$map": [[null, {BIG}]]}}', ("'belief'", f"{TOO_BIG} [item 0]")),
        (
            "belief",
            '{"x": ["hunter2\\ud800"]}',
            ("'belief'", "contains surrogates, for a value of type str at [item 0][0]"),
        ),
        ("belief", '[[{"$bytearray": ""}]]', ("'belief'", "read back as it is, for a value of type list at [0]")),
        ("belief", "[" * 300 + "]" * 300, ("'belief'", "Recursion limit reached, for a value of type list at [0]")),
        ("belief", "[" * 900 + "]" * 900, ("The JSON value", "nested too deeply")),
        ("plan", OBJECT, ("value at ['$value']", f"{TOO_BIG} [item 1][0]")),
        ("belief", f'[{{"$delta": {{"a": [{BIG}]}}}}]', ("value at [0]['$delta']", f"{TOO_BIG} [item 0][0]")),
        ("belief", '{"x": [{"$float": "hunter2"}]}', ("object at ['x'][0]", "$float is not a number")),
        ("belief", '{"$map": [[1, {"$bytes": "hunter2"}]]}', ("object at ['$map'][0][1]", "its text is not base64")),
        ("belief", '{"$type": "a:b", "$kind": "hunter2", "$value": 1}', ("JSON object", "$kind is not one of arg, ")),
        ("belief", '{"$type": 5, "$kind": "arg", "$value": 1}', ("JSON object", "$type is not MODULE:NAME")),
        ("messages", MESSAGE, ("HumanMessage", "['content']['str'] Input should be a valid string")),
    ],
    ids=range(13),
)
def test_the_reason_and_the_place(make_saver, store_uri, channel, value, says):
    put(make_saver(serde=SERDE), {"belief": 1, "plan": Plan("go", 2), "messages": [HumanMessage("hi")]})
    stored = ids(make_saver())
    with pytest.raises(GCSSaverError) as caught:
        run(store_uri, "edit", "t", "--channel", channel, "--set", value)
    assert [one for one in says if one not in str(caught.value)] == []
    error = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__ or error.__context__
    assert ids(make_saver()) == stored


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_refusals(make_saver, store_uri, monkeypatch):
    start(make_saver)
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    for arguments, error in [
        (["--channel", "belief"], "no editor"),
        (["--channel", "belief", "--set", "Rome"], "not JSON"),
        (["--channel", "nothing", "--set", "1"], "no value at this checkpoint"),
        (["--channel", "plan", "--set", '{"$type": "os:system", "$kind": "arg", "$value": "x"}'], "can be added"),
        (["--channel", "plan", "--set", '{"text": "x", "steps": 1}'], "would become plain data"),
        (["--channel", "belief", "--set", '{"$bytes": 1}'], "not a stored value"),
        (["--channel", "belief", "--checkpoint", "zzz", "--set", "1"], "has no checkpoint 'zzz'"),
        (["--channel", "belief", "--checkpoint", "1", "--set", "1"], "names 3 checkpoints"),
        (["--channel", "belief", "--ns", "sub", "--set", "1"], "in namespace 'sub'"),
    ]:
        with pytest.raises((CommandError, InvalidInputError), match=error):
            run(store_uri, "edit", "t", *arguments)
    with pytest.raises(CommandError, match="thread 'none' has no checkpoint"):
        run(store_uri, "edit", "none", "--channel", "belief", "--set", "1")
    with GCSSaver.from_conn_string(store_uri, serde=JsonPlusSerializer(pickle_fallback=True)) as saver:
        config = {"configurable": {"thread_id": "pickles", "checkpoint_ns": ""}}
        graph = build(saver)
        graph.update_state(config, {"seen": [1j], "belief": "x"}, as_node="think")
    with pytest.raises(InvalidInputError, match="JSON cannot express it"):
        run(store_uri, "edit", "pickles", "--channel", "seen", "--set", "1")
    run(store_uri, "edit", "pickles", "--channel", "belief", "--set", "1")
    with GCSSaver.from_conn_string(store_uri, serde=JsonPlusSerializer(pickle_fallback=True)) as saver:
        assert build(saver).get_state(config).values == {"seen": [1j], "belief": 1, "messages": []}


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_an_interrupt_asks_again_and_a_finished_task_runs_again(make_saver, store_uri):
    def ask(state):
        return {"answer": interrupt(f"Is it {state['belief']}?")}

    graph = start(make_saver, before=(), act=ask)
    assert graph.get_state(CONFIG).interrupts[0].value == "Is it Paris?"
    assert graph.get_state(CONFIG).next == ("act",)  # `beside` has finished
    edit(store_uri, "--channel", "belief", "--set", '"Rome"')
    graph = build(make_saver(serde=SERDE), before=(), act=ask)
    assert graph.get_state(CONFIG).next == ("act", "beside")
    assert graph.invoke(None, CONFIG)["__interrupt__"][0].value == "Is it Rome?"
    assert graph.invoke(Command(resume="yes"), CONFIG)["answer"] == "yes"
    assert graph.get_state(CONFIG).values["other"] == "beside Rome"


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_what_starts_a_run_can_be_mended(make_saver, store_uri):
    start(make_saver)
    oldest = ids(make_saver())[-1]
    changed = '{"messages": [{"$type": "langchain_core.messages.human:HumanMessage", "$kind": "pydantic2", '
    changed += '"$value": {"content": "Who?", "id": "h1"}}]}'
    edit(store_uri, "--checkpoint", oldest[-12:], "--channel", "__start__", "--set", changed)
    graph = build(make_saver(serde=SERDE))
    assert graph.get_state(CONFIG).next == ("__start__",)
    assert graph.invoke(None, CONFIG)["messages"][0].content == "Who?"


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_subgraphs_state_can_be_mended(make_saver, store_uri):
    def outer(saver):
        inner = StateGraph(State)
        inner.add_node("think", think)
        inner.add_node("act", act)
        inner.add_edge(START, "think")
        inner.add_edge("think", "act")
        builder = StateGraph(State)
        builder.add_node("inner", inner.compile(interrupt_before=["act"]))
        builder.add_edge(START, "inner")
        return builder.compile(checkpointer=saver)

    graph = outer(make_saver(serde=SERDE))
    graph.invoke({"messages": [HumanMessage("Where?", id="h1")]}, CONFIG)
    ns = graph.get_state(CONFIG).tasks[0].state["configurable"]["checkpoint_ns"]
    found = edit(store_uri, "--ns", ns, "--channel", "belief", "--set", '"Rome"')
    assert found["checkpoint_ns"] == ns
    graph = outer(make_saver(serde=SERDE))
    assert graph.get_state(CONFIG, subgraphs=True).tasks[0].state.next == ("act",)
    assert graph.invoke(None, CONFIG)["answer"] == "Rome; go; Paris, I think."


# DeltaChannels


def concatenate(value, updates):
    return [*value, *(item for update in updates for item in update)]


def delta_graph(saver, frequency):
    class Delta(TypedDict):
        seen: Annotated[list, DeltaChannel(concatenate, snapshot_frequency=frequency)]
        belief: str

    def step(state):
        return {"seen": [f"saw {state['belief']} {len(state['seen'])}"]}

    builder = StateGraph(Delta)
    builder.add_node("one", step)
    builder.add_node("two", step)
    builder.add_node("three", step)
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", "three")
    return builder.compile(checkpointer=saver, interrupt_before=["three"])


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("frequency", [1, 100])
def test_beside_deltachannels(make_saver, store_uri, frequency):
    """Another channel is edited, and DeltaChannels keep their values: at the latest checkpoint, and in the past."""
    graph = delta_graph(make_saver(), frequency)
    graph.invoke({"seen": ["start"], "belief": "Paris"}, CONFIG)
    latest = graph.get_state(CONFIG)
    assert latest.next == ("three",)
    edit(store_uri, "--channel", "belief", "--set", '"Rome"')
    graph = delta_graph(make_saver(), frequency)
    assert graph.get_state(CONFIG).values == {**latest.values, "belief": "Rome"}
    assert graph.invoke(None, CONFIG)["seen"] == [*latest.values["seen"], "saw Rome 3"]
    assert delta_graph(make_saver(), frequency).get_state(CONFIG).values["seen"][-1] == "saw Rome 3"

    past = next(state for state in graph.get_state_history(CONFIG) if state.next == ("two",))
    arguments = ["--checkpoint", past.config["configurable"]["checkpoint_id"], "--channel", "belief", "--set", '"Oslo"']
    if frequency > 1:
        with pytest.raises(InvalidInputError, match="'seen' is, or may be, a DeltaChannel"):
            edit(store_uri, *arguments)
        return
    edit(store_uri, *arguments)
    graph = delta_graph(make_saver(), frequency)
    new = graph.get_state(CONFIG)
    assert (new.next, new.values) == (past.next, {**past.values, "belief": "Oslo"})
    graph.invoke(None, CONFIG)
    whole = [*past.values["seen"], "saw Oslo 2", "saw Oslo 3"]
    assert graph.invoke(None, CONFIG)["seen"] == whole
    assert delta_graph(make_saver(), frequency).get_state(CONFIG).values["seen"] == whole


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_deltachannels_themselves(make_saver, store_uri):
    graph = delta_graph(make_saver(), 1)
    graph.invoke({"seen": ["start"], "belief": "Paris"}, CONFIG)
    edit(store_uri, "--channel", "seen", "--set", '["mended"]')
    graph = delta_graph(make_saver(), 1)
    assert graph.get_state(CONFIG).values["seen"] == ["mended"]
    assert graph.get_state(CONFIG).next == ("three",)
    assert graph.invoke(None, CONFIG)["seen"] == ["mended", "saw Paris 1"]
    assert delta_graph(make_saver(), 1).get_state(CONFIG).values["seen"] == ["mended", "saw Paris 1"]

    other = {"configurable": {"thread_id": "rare"}}
    delta_graph(make_saver(), 100).invoke({"seen": ["start"], "belief": "Paris"}, other)
    with pytest.raises(InvalidInputError, match="'seen' is a DeltaChannel without a snapshot"):
        run(store_uri, "edit", "rare", "--channel", "seen", "--set", "[]")


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_deltachannels_are_counted_as_by_update_state(make_saver, store_uri):
    graph = delta_graph(make_saver(), 100)
    graph.invoke({"seen": ["start"], "belief": "Paris"}, CONFIG)
    base = graph.get_state(CONFIG).config
    theirs = graph.get_state(graph.update_state(base, {"belief": "Rome"}, as_node="two"))
    edit(store_uri, "--checkpoint", base["configurable"]["checkpoint_id"], "--channel", "belief", "--set", '"Rome"')
    ours = delta_graph(make_saver(), 100).get_state(CONFIG)
    assert ours.metadata == theirs.metadata
    assert "counters_since_delta_snapshot" in ours.metadata
    assert ours.values["belief"] == "Rome"


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
def test_a_channel_that_may_be_a_deltachannel_is_refused(make_saver, store_uri):
    """After a first `update_state`, a channel that was never written may be a DeltaChannel or not."""
    saver = make_saver()
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    config["configurable"]["checkpoint_id"] = put(saver, {"x": 1}, metadata={"source": "update"})
    saver.put_writes(config, [("new", [1]), ("x", 2)], "task")
    with pytest.raises(InvalidInputError, match="'new' is, or may be, a DeltaChannel"):
        edit(store_uri, "--channel", "x", "--set", "3")
    put(saver, {"x": 2, "new": [1]}, number=2, parent=config["configurable"]["checkpoint_id"])
    edit(store_uri, "--checkpoint", config["configurable"]["checkpoint_id"], "--channel", "x", "--set", "3")


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("channel", ["a", "b"])
def test_the_same_nodes_run_next_when_channels_trigger_them(make_saver, store_uri, channel):
    def pregel(saver):
        return Pregel(
            nodes={
                "one": NodeBuilder().subscribe_only("a").do(lambda a: f"{a} one").write_to("b"),
                "two": NodeBuilder().subscribe_only("b").do(lambda b: f"{b} two").write_to("c"),
            },
            channels={name: LastValue(str) for name in "abc"},
            input_channels=["a"],
            output_channels=["b", "c"],
            interrupt_before_nodes=["two"],
            checkpointer=saver,
        )

    pregel(make_saver()).invoke({"a": "in"}, CONFIG)
    assert pregel(make_saver()).get_state(CONFIG).next == ("two",)
    edit(store_uri, "--channel", channel, "--set", '"mended"')
    graph = pregel(make_saver())
    assert graph.get_state(CONFIG).next == ("two",)
    assert graph.invoke(None, CONFIG)["c"] == ("in one two" if channel == "a" else "mended two")
    assert graph.get_state(CONFIG).next == ()


# Ids


def test_ids_follow_the_latest_even_when_the_clock_went_back():
    future = "3f9d0000-0000-6fff-8005-000000000001"
    found = {edits.next_id(future, 4) for _ in range(50)}
    assert len(found) == 50
    assert all(one > future and one[14] == "6" and one[19] in "89ab" for one in found)
    assert all(edits.next_id(one, 4) > one for one in found)
    with pytest.raises(InvalidInputError, match="No new id"):
        edits.next_id("zzz", 4)
    assert edits.next_id("1", 4) > "1"


def test_as_a_user_runs_it(make_saver, store_uri, tmp_path):
    start(make_saver)
    environment = {**os.environ, "LANGGRAPH_GCS_STORE": store_uri, "PYTHONWARNINGS": "ignore::FutureWarning"}
    environment |= {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none"), "EDITOR": "sed -i s/Paris/Rome/"}
    environment.pop("VISUAL", None)
    command = [sys.executable, "-m", "langgraph_gcs_saver.cli", "edit", "t", "--channel", "belief"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert '~: "Paris" -> "Rome"' in ended.stdout
    assert build(make_saver(serde=SERDE)).invoke(None, CONFIG)["answer"].startswith("Rome")
