"""`CheckpointSaved` beside what is stored: each value that a put has stored, with its sizes, and where it belongs."""

import copy
import dataclasses
import pickle
import random

import pytest
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, events
from langgraph_gcs_saver.engine.effects import GetDocs
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.flows.manifests import read_manifest
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver.configs import config_of
from tests.behaviour.api import DEFAULT, cfg, checkpoint, cid, version
from tests.behaviour.test_delta_history import CONFIG, build
from tests.behaviour.test_work import State

RANDOM = random.Random(1)
TEXT = RANDOM.randbytes(6_000).hex()
LARGE = RANDOM.randbytes(140_000)


@pytest.fixture
def saver():
    with GCSSaver.from_conn_string("memory:") as saver:
        yield saver


def heard(saver):
    found = []
    saver.subscribe(lambda event: found.append(event) if isinstance(event, events.CheckpointSaved) else None)
    return found


def manifest_of(saver, event):
    """The manifest of the checkpoint that an event is about."""
    name = keys.checkpoint_doc(event.thread_id, event.checkpoint_ns, event.checkpoint_id)
    doc = run(iter(GetDocs((name,))), saver._backend)[name]
    return run(read_manifest(doc, saver._context.codec), saver._backend)


def assert_as_stored(saver, event):
    """The event has exactly the values whose last frame the checkpoint itself has, and their sizes."""
    known = manifest_of(saver, event)
    own = {name: ref for name, ref in known.channels.items() if ref.chain and ref.chain[-1].owner is None}
    assert {one.channel: (one.size, one.stored, one.frames) for one in event.values} == {
        name: (ref.size, ref.chain[-1].stored, len(ref.chain)) for name, ref in own.items()
    }
    assert sum(one.stored for one in event.values) == event.inline_bytes + event.object_bytes
    assert sum(ref.size for ref in known.channels.values()) == event.size
    assert event.channels == len(known.channels)
    assert event.parent_id == known.parent_id
    metadata = saver.get_tuple(config_of(event.thread_id, event.checkpoint_ns, event.checkpoint_id)).metadata
    assert (event.step, event.source) == (metadata.get("step"), metadata.get("source", ""))


def put(saver, number, values, parent=None, **metadata):
    new = checkpoint(number, values)
    return saver.put(cfg(n=parent), new, {**DEFAULT, **metadata}, {name: version(number) for name in values})


def test_values_that_are_inline_large_incremental_and_unchanged(saver):
    found = heard(saver)
    put(saver, 1, {"text": TEXT, "large": LARGE, "small": 1})
    new = checkpoint(2, {"text": TEXT + " and more", "large": LARGE, "small": 1})
    new["channel_versions"] = {"text": version(2), "large": version(1), "small": version(1)}
    saver.put(cfg(n=1), new, {**DEFAULT, "step": 7, "source": "loop"}, {"text": version(2)})
    first, second = found
    for one in found:
        assert_as_stored(saver, one)
    assert {one.channel: one.frames for one in first.values} == {"text": 1, "large": 1, "small": 1}
    assert [(one.channel, one.frames) for one in second.values] == [("text", 2)]
    assert second.values[0].stored < 200 < second.values[0].size
    assert (first.parent_id, second.parent_id) == (None, cid(1))
    assert (second.step, second.source) == (7, "loop")
    assert first.object_bytes >= len(LARGE)


def test_a_value_that_equals_the_parents_is_not_stored(saver):
    found = heard(saver)
    put(saver, 1, {"text": TEXT})
    put(saver, 2, {"text": TEXT}, parent=1)
    assert_as_stored(saver, found[1])
    assert found[1].size > len(TEXT)
    assert [one for one in found[1].values if one.stored > 200] == []


def test_a_put_that_was_there_has_stored_nothing(saver):
    found = heard(saver)
    for _ in range(2):
        put(saver, 1, {"text": TEXT})
    assert [len(one.values) for one in found] == [1, 0]
    assert (found[1].outcome, found[1].inline_bytes, found[1].object_bytes) == ("found", 0, 0)


@pytest.mark.parametrize("options", [{"incremental": False}, {"zstd_level": None}, {"inline_max_bytes": 0}], ids=str)
def test_with_other_options(options):
    with GCSSaver.from_conn_string("memory:", **options) as saver:
        found = heard(saver)
        put(saver, 1, {"text": TEXT, "small": 1})
        put(saver, 2, {"text": TEXT + " and more", "small": 2}, parent=1)
        for one in found:
            assert_as_stored(saver, one)


def test_metadata_without_a_step_or_of_other_types(saver):
    found = heard(saver)
    saver.put(cfg(), checkpoint(1, {}), {}, {})
    saver.put(cfg(n=1), checkpoint(2, {}), {"source": "update", "step": -1}, {})
    assert [(one.step, one.source, one.values) for one in found] == [(None, "", ()), (-1, "update", ())]


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_delta_channels(saver, durability):
    found = heard(saver)
    build(saver).invoke({"seen": [], "rare": [], "count": 0}, CONFIG, durability=durability)
    assert found
    for one in found:
        assert_as_stored(saver, one)
    assert "seen" in {value.channel for one in found for value in one.values}, "a snapshot"


def test_subgraphs(saver):
    inner = StateGraph(State).add_node("i", lambda state: {"log": ["i"]}).add_edge(START, "i").compile()
    graph = StateGraph(State).add_node("o", inner).add_edge(START, "o").compile(checkpointer=saver)
    found = heard(saver)
    graph.invoke({"log": ["in"]}, {"configurable": {"thread_id": "t"}}, durability="sync")
    assert {one.checkpoint_ns.partition(":")[0] for one in found} == {"", "o"}
    for one in found:
        assert_as_stored(saver, one)
    roots = [one for one in found if not one.checkpoint_ns]
    assert [one.parent_id for one in roots] == [None, *(one.checkpoint_id for one in roots[:-1])]
    assert [(one.step, one.source) for one in roots] == [(-1, "input"), (0, "loop"), (1, "loop")]


def test_an_event_whose_fields_are_computed_later_is_like_any_other(saver):
    found = heard(saver)
    put(saver, 1, {"text": TEXT})
    (event,) = found
    with pytest.raises(AttributeError, match="no attribute 'no_field'"):
        _ = event.no_field
    again = pickle.loads(pickle.dumps(event))
    assert again == copy.copy(event) == event == dataclasses.replace(event)
    assert hash(again) == hash(event)
    assert all(hasattr(event, one.name) for one in dataclasses.fields(event))
