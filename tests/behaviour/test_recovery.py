"""LangGraph graphs whose latest checkpoint is damaged: they resume from the one before, and end where they should."""

import asyncio
import logging
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver.errors import CheckpointCorruptError, DamageError
from langgraph_gcs_saver.events import CheckpointDamaged, CheckpointRecovered
from langgraph_gcs_saver.format import keys
from tests.behaviour.test_delta_history import concatenate
from tests.system.build import noise
from tests.system.raw import open_raw

CONFIG = {"configurable": {"thread_id": "a chat"}}
LARGE = 20_000


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    turn: int
    attachment: bytes


def build(saver, calls):
    """A graph of two nodes; `calls` gets what they did."""

    def reply(state):
        calls.append(("reply", state["turn"]))
        return {"log": [f"reply {state['turn']}"], "attachment": noise(LARGE, state["turn"])}

    def count(state):
        calls.append(("count", state["turn"]))
        return {"turn": state["turn"] + 1}

    builder = StateGraph(State).add_node("reply", reply).add_node("count", count)
    builder.add_edge(START, "reply").add_edge("reply", "count").add_edge("count", END)
    return builder.compile(checkpointer=saver)


def first():
    return {"log": ["question 0"], "turn": 0, "attachment": b""}


def question(n):
    return {"log": [f"question {n}"]}


def undamaged(turns):
    """The state after so many turns, as LangGraph's own saver has it."""
    graph = build(InMemorySaver(), [])
    for n in range(turns):
        graph.invoke(question(n) if n else first(), CONFIG)
    return graph.get_state(CONFIG).values


def flipped(data):
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def newest(raw):
    """Name and fields of the document of the thread's latest checkpoint."""
    collection = keys.checkpoints("a chat") + "/"
    return min((name, fields) for name, fields in raw.documents().items() if name.startswith(collection))


def flip(field):
    def damage(raw):
        name, fields = newest(raw)
        raw.set_document(name, fields | {field: flipped(fields[field])})

    return damage


def delete_document(raw):
    raw.delete_document(newest(raw)[0])


def flip_objects(raw):
    """Those of the latest checkpoint: the manifest says which, and its document's name how they begin."""
    checkpoint_id = keys.checkpoint_id_of(newest(raw)[0])
    found = {name: data for name, data in raw.objects().items() if f"/{checkpoint_id}/" in name}
    assert found
    for name, data in found.items():
        raw.set_object(name, flipped(data))


def delete_objects(raw):
    checkpoint_id = keys.checkpoint_id_of(newest(raw)[0])
    for name in [name for name in raw.objects() if f"/{checkpoint_id}/" in name]:
        raw.delete_object(name)


DAMAGE = {
    "manifest flipped": flip("manifest"),
    "frames flipped": flip("frames"),
    "document gone": delete_document,
    "objects flipped": flip_objects,
    "objects gone": delete_objects,
}


@pytest.fixture
def raw(store_uri):
    opened = open_raw(store_uri)
    yield opened
    opened.close()


class Sync:
    """A graph's methods, as a program without an event loop calls them."""

    def __init__(self, graph):
        self.graph = graph

    def invoke(self, value):
        return self.graph.invoke(value, CONFIG)

    def state(self, config=CONFIG):
        return self.graph.get_state(config)

    def history(self):
        return list(self.graph.get_state_history(CONFIG))


class Async(Sync):
    """The same on an event loop."""

    def invoke(self, value):
        return asyncio.run(self.graph.ainvoke(value, CONFIG))

    def state(self, config=CONFIG):
        return asyncio.run(self.graph.aget_state(config))

    def history(self):
        async def collect():
            return [found async for found in self.graph.aget_state_history(CONFIG)]

        return asyncio.run(collect())


def options(how):
    return {"inline_max_bytes": 0} if how.startswith("objects") else {}


# Requests to emulators take milliseconds each, and reading is the same: two kinds of damage there are enough.
PLACES = [("local", how) for how in DAMAGE] + [("emulators", how) for how in ("document gone", "objects flipped")]


@pytest.mark.parametrize("face", [Sync, Async])
@pytest.mark.parametrize(("store_uri", "how"), PLACES, indirect=["store_uri"])
def test_a_graph_goes_on_from_the_one_before(how, face, make_saver, raw, caplog):
    calls, told = [], []
    one = face(build(make_saver(**options(how)), calls))
    for n in range(3):
        one.invoke(question(n) if n else first())
    damaged = one.state()
    damaged_id = damaged.config["configurable"]["checkpoint_id"]
    DAMAGE[how](raw)
    calls.clear()

    # Another process, which has nothing in memory.
    another = face(build(make_saver(on_event=told.append, **options(how)), calls))
    with caplog.at_level(logging.WARNING, "langgraph_gcs_saver"):
        found = another.state()
    assert found.metadata["recovered_from"] == damaged_id
    assert [task.name for task in found.tasks] == ["count"]
    assert found.values == damaged.values, "LangGraph applies the pending writes"
    kinds = [type(event) for event in told if isinstance(event, CheckpointDamaged | CheckpointRecovered)]
    assert kinds == [CheckpointDamaged, CheckpointRecovered]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert all(damaged_id in text for text in warnings)

    # The step that was lost is done again from its pending writes, without calling a node.
    assert another.invoke(None) == undamaged(3)
    assert calls == []
    again = another.state()
    assert (again.next, again.values) == ((), undamaged(3))
    assert "recovered_from" not in again.metadata
    assert again.config["configurable"]["checkpoint_id"] > damaged_id

    # And the conversation continues, for every saver.
    assert another.invoke(question(3)) == undamaged(4)
    fresh = face(build(make_saver(**options(how)), []))
    assert fresh.state().values == undamaged(4)
    listed = [one.config["configurable"]["checkpoint_id"] for one in fresh.history()]
    assert damaged_id not in listed
    assert len(listed) == len(set(listed)) == 4 * 4
    if how == "document gone":
        assert fresh.state(damaged.config).values == {}
    else:
        with pytest.raises(CheckpointCorruptError):
            fresh.state(damaged.config)


@pytest.mark.parametrize("face", [Sync, Async])
def test_a_graph_that_must_not_fall_back(face, make_saver, raw):
    one = face(build(make_saver(), []))
    one.invoke(first())
    DAMAGE["manifest flipped"](raw)
    calls = []
    strict = face(build(make_saver(on_corruption="raise"), calls))
    for value in (question(1), None):
        with pytest.raises(CheckpointCorruptError):
            strict.invoke(value)
    assert calls == []
    assert face(build(make_saver(), [])).state().metadata["recovered_from"]


@pytest.mark.parametrize("face", [Sync, Async])
def test_a_conversation_never_starts_over_without_a_word(face, make_saver, raw):
    """All of the thread's checkpoints are missing, and its document says that it had some."""
    one = face(build(make_saver(), []))
    one.invoke(first())
    for name in [name for name in raw.documents() if "/lg_checkpoints/" in name]:
        raw.delete_document(name)
    calls = []
    saver = make_saver()
    another = face(build(saver, calls))
    with pytest.raises(DamageError):
        another.invoke(first())
    assert calls == []
    saver.delete_thread("a chat")
    assert another.invoke(first()) == undamaged(1)


@pytest.mark.parametrize("face", [Sync, Async])
def test_nothing_but_damaged_checkpoints(face, make_saver, raw):
    one = face(build(make_saver(), []))
    one.invoke(first())
    newest_id = one.state().config["configurable"]["checkpoint_id"]
    for name, fields in raw.documents().items():
        if "/lg_checkpoints/" in name:
            raw.set_document(name, fields | {"manifest": flipped(fields["manifest"])})
    with pytest.raises(CheckpointCorruptError) as caught:
        face(build(make_saver(), [])).invoke(question(1))
    assert caught.value.checkpoint_id == newest_id


# LangGraph reads an addressed checkpoint by its id, and then the latest, to see whether the thread has moved past it.


class Asked(TypedDict):
    log: Annotated[list[str], operator.add]
    seen: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=100)]


def asking(saver, calls):
    """Two tasks at once: one is finished and must not run again, the other waits for an answer."""

    def work(state):
        calls.append("work")
        return {"log": ["worked"], "seen": ["work"]}

    def ask(state):
        return {"log": [interrupt("continue?")], "seen": ["asked"]}

    builder = StateGraph(Asked).add_node("first", lambda state: {"seen": ["first"]}).add_node("work", work)
    builder.add_node("ask", ask).add_node("last", lambda state: {"log": ["last"], "seen": ["last"]})
    builder.add_edge(START, "first").add_edge("first", "work").add_edge("first", "ask")
    builder.add_edge(["work", "ask"], "last").add_edge("last", END)
    return builder.compile(checkpointer=saver)


ANSWERED = {"log": ["question 0", "yes", "worked", "last"], "seen": ["first", "asked", "work", "last"]}


def by_invoke(graph, config):
    return graph.invoke(Command(resume="yes"), config)


def by_stream(graph, config):
    return list(graph.stream(Command(resume="yes"), config, stream_mode="values"))[-1]


def by_astream(graph, config):
    async def collect():
        return [found async for found in graph.astream(Command(resume="yes"), config, stream_mode="values")]

    return asyncio.run(collect())[-1]


def waiting(make_saver, **options):
    """A thread that waits for an answer, and whose latest checkpoint is a child of the one that waits."""
    graph = asking(make_saver(**options), [])
    graph.invoke({"log": ["question 0"]}, CONFIG)
    waits = graph.get_state(CONFIG)
    graph.update_state(CONFIG, {"log": ["a note"], "seen": ["a note"]}, as_node="first")
    return waits.config["configurable"]["checkpoint_id"]


def addressed(checkpoint_id):
    return {"configurable": {**CONFIG["configurable"], "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}


def reruns(*, with_id):
    """The finished tasks that a resume at a latest checkpoint runs again, with LangGraph's own saver."""
    calls = []
    graph = asking(InMemorySaver(), calls)
    graph.invoke({"log": ["question 0"]}, CONFIG)
    latest = graph.get_state(CONFIG).config
    calls.clear()
    by_invoke(graph, latest if with_id else CONFIG)
    return calls


@pytest.mark.parametrize("with_id", [False, True])
@pytest.mark.parametrize(
    ("store_uri", "how", "resume"),
    [
        *((store, how, by_invoke) for store, how in PLACES),
        ("local", "document gone", by_stream),
        ("local", "document gone", by_astream),
        ("emulators", "objects flipped", by_astream),
    ],
    indirect=["store_uri"],
)
def test_an_addressed_checkpoint_that_stands_in_is_the_latest(how, with_id, resume, make_saver, raw):
    """A resume from it is no fork. Finished tasks get their writes, and the first new checkpoint is its child."""
    waits = waiting(make_saver, **options(how))
    DAMAGE[how](raw)
    calls, told = [], []
    graph = asking(make_saver(on_event=told.append, **options(how)), calls)
    found = graph.get_state(CONFIG)
    assert found.metadata["recovered_from"]
    assert found.config == addressed(waits)
    again = graph.get_state(addressed(waits))
    assert again.config == found.config
    assert [(task.id, task.interrupts) for task in again.tasks] == [(task.id, task.interrupts) for task in found.tasks]

    # LangGraph 1.2.15 runs finished tasks again wherever a resume has an id.
    expected = reruns(with_id=with_id)
    assert resume(graph, addressed(waits) if with_id else CONFIG) == ANSWERED
    assert calls == expected, "LangGraph took the thread for one that has moved on"
    after = list(graph.get_state_history(CONFIG))
    sources = [state.metadata["source"] for state in after]
    assert sources == ["loop", "loop", "loop", "loop", "input"]
    line = [state.config["configurable"]["checkpoint_id"] for state in after]
    assert [state.parent_config["configurable"]["checkpoint_id"] for state in after[:-1]] == line[1:]
    assert line[2] == waits
    assert after[0].values == ANSWERED


def test_a_thread_that_has_moved_on_is_told_from_one_that_has_not(make_saver):
    """What the test above would see if both reads gave different answers."""
    waits = waiting(make_saver)
    calls = []
    graph = asking(make_saver(), calls)
    assert graph.invoke(Command(resume="yes"), addressed(waits))["log"] == ANSWERED["log"]
    assert calls == ["work"]


@pytest.mark.parametrize("with_id", [False, True])
@pytest.mark.parametrize(("store_uri", "how"), PLACES, indirect=["store_uri"])
def test_an_update_of_one_that_stands_in(how, with_id, make_saver, raw):
    waits = waiting(make_saver, **options(how))
    DAMAGE[how](raw)
    graph = asking(make_saver(**options(how)), [])
    made = graph.update_state(addressed(waits) if with_id else CONFIG, {"log": ["told"], "seen": ["told"]}, "ask")
    state = graph.get_state(CONFIG)
    assert state.config == made
    assert state.parent_config == addressed(waits)
    fresh = asking(make_saver(**options(how)), [])
    expected = asking(InMemorySaver(), [])
    expected.invoke({"log": ["question 0"]}, CONFIG)
    expected.update_state(CONFIG, {"log": ["told"], "seen": ["told"]}, "ask")
    assert fresh.get_state(CONFIG).values == expected.get_state(CONFIG).values
    assert fresh.get_state(CONFIG).next == expected.get_state(CONFIG).next


@pytest.mark.parametrize("resume", [by_invoke, by_stream, by_astream])
def test_a_damaged_checkpoint_that_is_addressed_is_never_resumed_from_another(resume, make_saver, raw):
    waiting(make_saver)
    damaged = asking(make_saver(), []).get_state(CONFIG).config
    DAMAGE["frames flipped"](raw)
    calls = []
    graph = asking(make_saver(), calls)
    for act in (resume, lambda graph, config: graph.update_state(config, {"log": ["told"]}, "ask")):
        with pytest.raises(CheckpointCorruptError):
            act(graph, damaged)
    assert calls == []
