"""Labels: which metadata they are, how many values a process distinguishes, and which names the option takes."""

import asyncio
import copy
import enum
from contextlib import closing

import pytest
from langgraph.checkpoint.base import EXCLUDED_METADATA_KEYS
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, events
from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.policy.labels import MOST_CHARACTERS, MOST_LABELS, MOST_VALUES, OTHER
from tests.behaviour.api import DEFAULT, Api, cfg, checkpoint, metadata, version
from tests.behaviour.test_work import State


def heard(saver, kind=events.CallEnded):
    found = []
    saver.subscribe(lambda event: found.append(event) if isinstance(event, kind) else None)
    return found


@pytest.fixture
def saver():
    with GCSSaver.from_conn_string("memory:", labels=("agent", "app")) as saver:
        yield saver


def labelled(saver, where=None, own=None):
    """The labels of a put with a config and metadata, and what it has stored as metadata."""
    found = heard(saver, events.CheckpointSaved)
    config = {"configurable": {**cfg()["configurable"], **(where or {}).get("configurable", {})}}
    config["metadata"] = (where or {}).get("metadata", {})
    stored = saver.put(config, checkpoint(1), {**DEFAULT, **(own or {})}, {"a": version(1)})
    return found[0].labels, saver.get_tuple(stored).metadata


class Agent(str, enum.Enum):
    BILLING = "billing"


class Rude(str):
    __slots__ = ()

    def __str__(self):
        raise RuntimeError


ORDERS = [
    ({"metadata": {"agent": "a"}}, {}, "a"),
    ({"configurable": {"agent": "a"}}, {}, "a"),
    ({"metadata": {"agent": "a"}, "configurable": {"agent": "b"}}, {}, "a"),
    ({"metadata": {"agent": "a"}, "configurable": {"agent": "b"}}, {"agent": "c"}, "c"),
    ({"metadata": {"agent": ["a"]}, "configurable": {"agent": "b"}}, {}, "b"),
    ({"metadata": {"agent": None}, "configurable": {"agent": 7}}, {}, "7"),
    ({"metadata": {"agent": True}}, {}, "True"),
    ({"metadata": {"agent": 1.5}}, {}, "1.5"),
    ({"metadata": {"agent": "a\0b"}}, {}, "ab"),
    ({"metadata": {"agent": ""}}, {}, ""),
    ({"metadata": {"agent": Agent.BILLING}}, {}, "billing"),
    ({"metadata": {"agent": Rude("a")}}, {}, "a"),
    ({"metadata": {"agent": "a\ud800"}}, {}, "a?"),
    ({"metadata": {"agent": b"a"}}, {}, None),
    ({"metadata": {"another": "a"}}, {}, None),
]


@pytest.mark.parametrize(("where", "own", "label"), ORDERS)
def test_a_label_is_what_langgraph_stores_as_metadata(saver, where, own, label):
    labels, stored = labelled(saver, where, own)
    assert labels == ({} if label is None else {"agent": label})
    assert {"agent": str(stored["agent"])} == labels if "agent" in stored else labels == {}


def test_the_calls_of_a_graph_have_the_labels_of_its_config_in_subgraphs_too(saver):
    inner = StateGraph(State).add_node("i", lambda state: {"log": ["i"]}).add_edge(START, "i").compile()
    graph = StateGraph(State).add_node("o", inner).add_edge(START, "o").compile(checkpointer=saver)
    graph = graph.with_config({"metadata": {"app": "shop"}})
    found = heard(saver)
    given = {"configurable": {"thread_id": "t"}, "metadata": {"agent": "billing"}}
    graph.invoke({"log": []}, given, durability="sync")
    asyncio.run(graph.ainvoke({"log": []}, given, durability="async"))
    graph.get_state(given)
    assert {one.checkpoint_ns.partition(":")[0] for one in found} == {"", "o"}
    assert [one.labels for one in found] == [{"agent": "billing", "app": "shop"}] * len(found)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_each_call_has_labels_failures_too(saver, mode):
    found, api = heard(saver), Api(saver, mode)
    config = {**cfg(n=1), "metadata": {"agent": "a"}}
    await api.put({**config, "configurable": cfg()["configurable"]}, checkpoint(1), metadata(step=1))
    await api.put_writes(config, [("a", 1)])
    await api.get(config)
    await api.list(config)
    await api.delta_history(config, ["a"])
    await api.get({**cfg("none"), "metadata": {"agent": "a"}})
    for call in (api.get, api.list):
        with pytest.raises(Exception, match="thread_id"):
            await call({"configurable": {}, "metadata": {"agent": "a"}})
    assert {type(one) for one in found} == {*events.CallEnded.__subclasses__()} - {events.PutFailed}
    assert [one.labels for one in found] == [{"agent": "a"}] * len(found)
    await api.get(cfg())
    assert found[-1].labels == {}


def test_a_process_distinguishes_so_many_values(saver):
    found = heard(saver, events.CheckpointNotFound)

    def read(one, **config):
        saver.get_tuple({**cfg("none"), "metadata": {"agent": one, **config}})
        return found[-1].labels["agent"]

    known = [f"agent-{number}" for number in range(MOST_VALUES)]
    assert [read(one) for one in known] == known
    assert [read("one more"), read("and more")] == [OTHER, OTHER]
    assert read(known[0]) == known[0]
    read("one more", app="shop")
    assert found[-1].labels == {"agent": OTHER, "app": "shop"}, "each label has values of its own"
    assert read("x" * 1000) == OTHER


def test_long_values_are_cut_off(saver):
    labels, _ = labelled(saver, {"metadata": {"agent": "x" * 1000}})
    assert labels == {"agent": "x" * MOST_CHARACTERS}


def test_a_read_with_a_number_that_python_does_not_convert_to_text_succeeds(saver):
    found = heard(saver, events.CheckpointNotFound)
    assert saver.get_tuple({**cfg("none"), "metadata": {"agent": 10**5000}}) is None
    assert found[0].labels == {"agent": OTHER}


def test_copies_of_a_saver_share_the_values_it_knows(saver):
    found = heard(saver, events.CheckpointNotFound)
    twin = copy.copy(saver)  # as LangGraph makes it under strict msgpack
    for number in range(MOST_VALUES + 1):
        for one in (saver, twin):
            one.get_tuple({**cfg("none"), "metadata": {"agent": str(number)}})
    assert [one.labels["agent"] for one in found[-2:]] == [OTHER, OTHER]
    assert len({one.labels["agent"] for one in found}) == MOST_VALUES + 1


def test_without_the_option_there_are_none():
    with GCSSaver.from_conn_string("memory:") as saver:
        assert labelled(saver, {"metadata": {"agent": "a"}})[0] == {}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("agent", "a collection of names"),
        (7, "a collection of names"),
        (["agent", 7], "a collection of names"),
        ([f"l{number}" for number in range(MOST_LABELS + 1)], "at most 10 names"),
        (["agent-name"], "letters, digits and underscores"),
        (["1agent"], "does not begin with a digit"),
        ([""], "letters, digits and underscores"),
        (["a\n"], "letters, digits and underscores"),
        (["ä"], "letters, digits and underscores"),
        (["a" * 61], "at most 60 letters"),
        (["agent", "Agent"], "more than letter case"),
        (["__pregel_control"], "does not store as metadata"),
        *(([name], "does not store as metadata") for name in sorted(EXCLUDED_METADATA_KEYS)),
    ],
)
def test_other_names_are_refused(labels, message):
    with pytest.raises(InvalidOptionError, match=message):
        GCSSaver.from_conn_string("memory:", labels=labels)


@pytest.mark.parametrize("labels", [[], ("a",), {"a", "b"}, ["a", "a"], {"a" * 60: 1}, [f"l{n}" for n in range(10)]])
def test_these_are_taken(labels):
    with closing(GCSSaver.from_conn_string("memory:", labels=labels)) as saver:
        assert set(saver._options.labels) == set(labels)


def test_events_with_labels_can_be_compared_and_hashed(saver):
    def event(**labels):
        return events.CheckpointNotFound(thread_id="t", seconds=1.0, run_id=None, outcome="none", labels=labels)

    assert event(agent="a") == event(agent="a") != event(agent="b")
    assert hash(event(agent="a")) == hash(event(agent="b"))
    assert len({event(agent="a"), event(agent="a"), event(agent="b"), event()}) == 3
    labels, _ = labelled(saver, {"metadata": {"agent": "a"}})
    assert f"labels={labels!r}" in repr(event(**labels))
