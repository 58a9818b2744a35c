"""DeltaChannels: the same values as with InMemorySaver, read in few rounds, and never silently another one."""

import operator
from contextlib import closing
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Overwrite

from langgraph_gcs_saver.errors import CheckpointCorruptError
from langgraph_gcs_saver.flows import lineage
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.testing.interceptors import CountingInterceptor
from tests.behaviour.api import Api, cfg, checkpoint, cid, metadata
from tests.system.raw import open_raw

STEPS = 15


def concatenate(value, updates):
    return [*value, *(item for update in updates for item in update)]


class State(TypedDict):
    seen: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=7)]
    rare: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=100)]
    count: int


def step(state):
    found = {"seen": [f"item {state['count']}"], "count": state["count"] + 1}
    if state["count"] % 6 == 0:
        found["rare"] = [state["count"]]
    return found


def build(saver):
    builder = StateGraph(State)
    builder.add_node("step", step)
    builder.add_node("beside", lambda state: {"seen": ["beside"]})
    builder.add_conditional_edges(START, lambda state: ["step", "beside"])
    builder.add_conditional_edges("step", lambda state: END if state["count"] >= STEPS else ["step", "beside"])
    return builder.compile(checkpointer=saver)


CONFIG = {"configurable": {"thread_id": "t"}, "recursion_limit": 10 * STEPS}


def told(graph, config=CONFIG):
    return [(state.values, state.next) for state in graph.get_state_history(config)]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_graph_gives_the_same_values(make_saver, durability):
    results = []
    with make_saver() as saver:
        for one in (InMemorySaver(), saver):
            graph = build(one)
            whole = graph.invoke({"seen": [], "rare": [], "count": 0}, CONFIG, durability=durability)
            graph.update_state(CONFIG, {"seen": Overwrite(["anew"]), "count": STEPS - 2}, as_node="beside")
            graph.invoke({"count": STEPS - 3}, CONFIG, durability=durability)
            results.append((whole, told(graph)))
        assert results[0] == results[1]
        assert len(results[0][0]["seen"]) == 2 * STEPS
        if durability != "exit":
            past = list(build(saver).get_state_history(CONFIG))[12]
            assert build(saver).get_state(past.config).values == past.values
    with make_saver() as fresh:
        assert told(build(fresh)) == results[0][1]


async def test_the_asynchronous_half(make_saver):
    async with make_saver() as saver:
        graph = build(saver)
        whole = await graph.ainvoke({"seen": [], "rare": [], "count": 0}, CONFIG)
        state = await graph.aget_state(CONFIG)
    assert state.values == whole
    assert len(whole["seen"]) == 2 * STEPS


async def chain(api, length, *, at=()):
    """A line of checkpoints, each with a write to `a` and `b`; those at `at` have a stored value of `a`."""
    for n in range(1, length + 1):
        values = {"a": f"value {n}"} if n in at else {}
        await api.put(cfg(n=n - 1 if n > 1 else None), checkpoint(n, values), metadata(step=n))
        await api.put_writes(cfg(n=n), [("a", f"a{n}"), ("b", f"b{n}"), ("c", n)], "task 2", "~2")
        await api.put_writes(cfg(n=n), [("a", f"first {n}")], "task 9", "~1")


@pytest.fixture(params=["sync", "async"])
def mode(request):
    return request.param


async def test_the_contract(make_saver, mode):
    found = []
    async with make_saver() as saver:
        for one in (InMemorySaver(), saver):
            api = Api(one, mode)
            await chain(api, 6, at={3})
            # A fork beside the line, and a later checkpoint of another namespace: neither is on the path.
            await api.put(cfg(n=2), checkpoint(9, {"a": "fork"}), metadata())
            await api.put(cfg(ns="other"), checkpoint(8, {"b": "other"}), metadata())
            channels = ["a", "b", "never"]
            configs = [cfg(n=n) for n in (1, 2, 4, 5, 6, 9)] + [cfg(), cfg(ns="other"), cfg(thread="none")]
            found.append([await api.delta_history(config, channels) for config in configs])
            assert await api.delta_history(cfg(n=6), []) == {}
    assert found[0] == found[1]
    assert found[1][4]["a"]["seed"] == "value 3"
    assert found[1][4]["a"]["writes"][:2] == [("task 9", "a", "first 3"), ("task 2", "a", "a3")]
    assert "seed" not in found[1][4]["b"]
    assert len(found[1][4]["b"]["writes"]) == 5


async def test_a_checkpoint_that_is_not_there(make_saver, mode):
    """LangGraph requests the history only of a checkpoint that it has read. So this one was deleted after that."""
    async with make_saver() as saver:
        api = Api(saver, mode)
        await chain(api, 3)
        for config in (cfg(n=77), cfg(thread="none", n=1)):
            assert await api.get(config) is None
            with pytest.raises(CheckpointCorruptError, match="it is missing") as caught:
                await api.delta_history(config, ["a"])
            assert caught.value.checkpoint_id == config["configurable"]["checkpoint_id"]


async def test_rounds(make_saver, monkeypatch):
    """Pages, however many ancestors there are and however many channels."""
    monkeypatch.setattr(lineage, "ANCESTORS_PER_PAGE", 10)
    async with make_saver() as saver:
        await chain(Api(saver, "sync"), 35)
    count = CountingInterceptor()
    with make_saver(interceptors=[count]) as saver:
        found = saver.get_delta_channel_history(config=cfg(n=35), channels=["a", "b", "c"])
    assert [len(one["writes"]) for one in found.values()] == [68, 34, 34]
    assert count.requests["QueryDocs"] == 8


@pytest.mark.parametrize(("frequency", "most"), [(5, 8), (1000, 43)])
def test_the_walk_of_the_base_class_ends_at_a_snapshot(frequency, most, make_saver):
    """LangGraph's server walks by it: the same values, a round for each ancestor, as far as the nearest snapshot."""

    class State(TypedDict):
        log: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=frequency)]
        turn: int

    builder = StateGraph(State)
    builder.add_node("step", lambda state: {"log": [state["turn"]], "turn": state["turn"] + 1}).add_edge(START, "step")
    builder.add_conditional_edges("step", lambda state: END if state["turn"] >= 38 else "step")
    with make_saver() as saver:
        builder.compile(checkpointer=saver).invoke({"log": [], "turn": 0}, {**CONFIG, "recursion_limit": 100})
        config = saver.get_tuple(CONFIG).config
        expected = saver.get_delta_channel_history(config=config, channels=["log"])
    count = CountingInterceptor()
    with make_saver(interceptors=[count]) as saver:
        assert BaseCheckpointSaver.get_delta_channel_history(saver, config=config, channels=["log"]) == expected
    assert len(count.rounds) <= most


@pytest.mark.parametrize("gone", ["checkpoint", "manifest", "writes", "seed"])
def test_what_is_lost_is_told(make_saver, store_uri, gone):
    """Without that, the value would silently be another one."""
    with make_saver(inline_max_bytes=0) as saver:
        for n in range(1, 7):
            values = {"a": ["value", n] * 20} if n == 2 else {}
            versions = {"a": n} if n > 1 else {}
            saver.put(cfg(n=n - 1 or None), checkpoint(n, values, versions), metadata(), versions)
            saver.put_writes(cfg(n=n), [("a", [n])], "task")
    raw = open_raw(store_uri)
    docs, objects = raw.snapshot()
    inverted = keys.inv(cid(4))
    checkpoint_doc = next(name for name in docs if f"lg_checkpoints/{inverted}" in name)
    if gone == "checkpoint":
        raw.delete_document(checkpoint_doc)
    elif gone == "manifest":
        fields = docs[checkpoint_doc]
        raw.set_document(checkpoint_doc, {**fields, "manifest": fields["manifest"][:-1] + b"?"})
    elif gone == "writes":
        name = next(name for name in docs if "/lg_writes/" in name and inverted in name)
        raw.set_document(name, {**docs[name], "writes": docs[name]["writes"][:-1] + b"?"})
    else:
        raw.delete_object(next(name for name in objects if f"{cid(2)}/a-" in name))
    raw.close()
    with make_saver() as saver:
        assert saver.get_delta_channel_history(config=cfg(n=6), channels=["b"]) if gone == "seed" else True
        with pytest.raises(CheckpointCorruptError) as caught:
            saver.get_delta_channel_history(config=cfg(n=6), channels=["a"])
        assert caught.value.checkpoint_id == (cid(2) if gone == "seed" else cid(4))
        assert saver.get_delta_channel_history(config=cfg(n=2), channels=["a"]) == {
            "a": {"writes": [("task", "a", [1])]}
        }


# A reducer's channel without a stored value was written as a DeltaChannel, and is rebuilt in the same way.


class Plain(TypedDict):
    log: Annotated[list[Any], operator.add]
    turn: int


class Delta(TypedDict):
    log: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=4)]
    turn: int


def chat(state, saver):
    builder = StateGraph(state)
    builder.add_node("reply", lambda state: {"log": [f"reply {state['turn']}"], "turn": state["turn"] + 1})
    return builder.add_edge(START, "reply").add_edge("reply", END).compile(checkpointer=saver)


def talk(graph, turns):
    for turn in turns:
        graph.invoke({"log": [f"question {turn}"], **({} if turn else {"turn": 0})}, CONFIG)
    return graph.get_state(CONFIG).values


@pytest.fixture(scope="module")
def rebuilds_reducers():
    """Whether this LangGraph rebuilds them; older ones take such a channel for empty, with every saver."""
    saver = InMemorySaver()
    told = talk(chat(Delta, saver), range(3))
    return chat(Plain, saver).get_state(CONFIG).values == told


def test_a_reducer_that_was_a_delta_channel(make_saver, rebuilds_reducers):
    if not rebuilds_reducers:
        pytest.skip("this LangGraph takes a reducer's channel without a stored value for empty")
    expected = talk(chat(Plain, InMemorySaver()), range(6))
    with make_saver() as saver:
        talk(chat(Delta, saver), range(3))
    with make_saver() as saver:
        graph = chat(Plain, saver)
        latest = saver.get_tuple(CONFIG).checkpoint
        assert "log" in latest["channel_versions"]
        assert "log" not in latest["channel_values"], "or else nothing is rebuilt here"
        assert talk(graph, range(3, 6)) == expected
        assert saver.get_tuple(CONFIG).checkpoint["channel_values"]["log"] == expected["log"]


def spoil(field):
    return lambda raw, name, fields: raw.set_document(name, {**fields, field: bytes(b ^ 1 for b in fields[field])})


def remove(raw, name, _):
    raw.delete_document(name)


LOSSES = {
    "a checkpoint": ("lg_checkpoints", "manifest", remove),
    "a manifest": ("lg_checkpoints", "manifest", spoil("manifest")),
    "a stored value": ("lg_checkpoints", "frames", spoil("frames")),
    "a write": ("lg_writes", "writes", spoil("writes")),
}


@pytest.mark.parametrize("state", [Plain, Delta])
@pytest.mark.parametrize("lost", LOSSES)
def test_a_value_that_was_lost_is_never_rebuilt_as_another(lost, state, make_saver, store_uri, rebuilds_reducers):
    """Of each ancestor in turn: the graph has the value that it had, or it raises, runs no node and stores nothing."""
    if state is Plain and not rebuilds_reducers:
        pytest.skip("this LangGraph takes a reducer's channel without a stored value for empty")
    collection, field, damage = LOSSES[lost]
    with make_saver() as saver:
        expected = talk(chat(Delta, saver), range(3))
        _, *ancestors = [one.config["configurable"]["checkpoint_id"] for one in saver.list(CONFIG)]
    raised = []
    with closing(open_raw(store_uri)) as raw:
        before = raw.documents()
        for checkpoint_id in ancestors:
            whole = {
                name: fields
                for name, fields in before.items()
                if f"/{collection}/" in name and keys.inv(checkpoint_id) in name and field in fields
            }
            for name, fields in whole.items():
                damage(raw, name, fields)
            damaged = raw.documents()
            with make_saver() as saver:
                graph = chat(state, saver)
                try:
                    assert graph.get_state(CONFIG).values == expected
                except CheckpointCorruptError as error:
                    raised.append(error.checkpoint_id)
                    with pytest.raises(CheckpointCorruptError):
                        graph.invoke({"log": ["question"]}, CONFIG)
                    with pytest.raises(CheckpointCorruptError):
                        graph.update_state(CONFIG, {"log": ["told"]})
            assert raw.documents() == damaged
            for name, fields in whole.items():
                raw.set_document(name, fields)
    assert raised, "nothing that was lost was needed"
    assert set(raised) <= set(ancestors)
