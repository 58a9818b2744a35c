"""LangGraph reads a checkpoint, then asks what its DeltaChannels are made of: what is hidden between is never empty."""

from contextlib import suppress
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver.engine.effects import GetDocs, QueryDocs
from langgraph_gcs_saver.errors import CheckpointCorruptError
from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver.checkpointer import GCSSaver
from tests.kit.interceptors import BeforeRounds, Meanwhile
from tests.security.forging import name_of
from tests.security.test_lost_ancestors import WHOLE, fill, history, put
from tests.system.build import cfg, cid

pytestmark = pytest.mark.parametrize("store_uri", ["local"], indirect=True)


def elsewhere(raw, name, fields):
    raw.set_document(name, {**fields, "ns": "elsewhere"})


def gone(raw, name, _):
    raw.delete_document(name)


def stripped(raw, name, fields):
    raw.set_document(name, {"frames": fields.get("frames", b"x")})


HIDE = {"another namespace": elsewhere, "gone": gone, "stripped": stripped}


@pytest.mark.parametrize("n", [4, 3], ids=["asked for", "ancestor"])
@pytest.mark.parametrize("how", HIDE)
def test_what_is_hidden_is_told(make_saver, raw, how, n):
    """The namespace is a field in clear: a checkpoint is found by its name, and one that says another is damaged."""
    saver = make_saver()
    fill(saver)
    HIDE[how](raw, name_of(n), raw.documents()[name_of(n)])
    reason = "not that of its name" if how == "another namespace" else "it is missing"
    with pytest.raises(CheckpointCorruptError, match=reason) as caught:
        history(saver, 4)
    assert caught.value.checkpoint_id == cid(n)


@pytest.mark.parametrize("how", HIDE)
@pytest.mark.parametrize("before", range(5))
def test_what_is_hidden_for_a_moment(make_saver, raw, how, before):
    """It is there again a round later: the history is whole, or raises."""
    fill(make_saver())
    fields = raw.documents()[name_of(4)]
    rounds = BeforeRounds()
    saver = make_saver(interceptors=[rounds])
    saver.get_tuple(cfg(4))

    def toggle(number):
        if number == before:
            HIDE[how](raw, name_of(4), fields)
        else:
            raw.set_document(name_of(4), fields)

    rounds.call(toggle)
    with suppress(CheckpointCorruptError):
        assert history(saver, 4) == WHOLE


def test_it_is_back_at_the_second_look(make_saver, raw):
    fill(make_saver())
    fields = raw.documents()[name_of(4)]
    raw.delete_document(name_of(4))
    back = Meanwhile((QueryDocs,), lambda: raw.set_document(name_of(4), fields), at=1)
    assert history(make_saver(interceptors=[back]), 4) == WHOLE
    assert back.is_done


@pytest.mark.parametrize("take", ["prune", "delete_thread"])
def test_an_honest_deletion_between_the_two_reads(make_saver, take):
    saver, other = make_saver(), make_saver()
    fill(saver)
    put(saver, 5, {"log": ["snapshot"], "v": 5}, log=5)
    config = saver.get_tuple(cfg(4)).config
    other.prune(["t"]) if take == "prune" else other.delete_thread("t")
    with pytest.raises(CheckpointCorruptError, match="missing"):
        saver.get_delta_channel_history(config=config, channels=["log"])


def test_the_latest_is_asked_for_again(make_saver):
    """Without an id the latest is meant. If that is deleted meanwhile, another one is the latest, or none."""
    fill(make_saver())
    other = make_saver()
    # The latest is found by a query, and its document is read for its children: the page of ancestors comes after.
    meanwhile = Meanwhile((QueryDocs,), lambda: other.delete_thread("t"), at=2)
    saver = make_saver(interceptors=[meanwhile])
    assert saver.get_delta_channel_history(config=cfg(), channels=["log"]) == {"log": {"writes": []}}
    assert meanwhile.is_done


def test_no_request_is_made_for_a_target_that_is_there(make_saver):
    fill(make_saver())
    asked = Meanwhile((GetDocs,), lambda: None, at=1)  # The first one reads the store's place.
    assert history(make_saver(interceptors=[asked]), 4) == WHOLE
    assert not asked.is_done


# What a graph makes of it


def concatenate(value, updates):
    return [*value, *(item for update in updates for item in update)]


class State(TypedDict, total=False):
    log: Annotated[list[Any], DeltaChannel(concatenate, snapshot_frequency=9)]


def chat(saver, seen):
    def step(state):
        seen.append(list(state["log"]))
        return {"log": [f"answer {len(state['log'])}"]}

    builder = StateGraph(State)
    builder.add_node("step", step).add_edge(START, "step").add_edge("step", END)
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("how", HIDE)
def test_no_node_sees_an_empty_value(make_saver, store_uri, raw, how):
    """Between the two reads of one run; the next snapshot would make an empty value durable and authentic."""
    config = {"configurable": {"thread_id": "t"}}
    seen = []
    with make_saver() as saver:
        for turn in range(3):
            chat(saver, seen).invoke({"log": [f"question {turn}"]}, config)
        right = chat(saver, seen).get_state(config).values["log"]
        newest = saver.get_tuple(config).config["configurable"]["checkpoint_id"]
    name = keys.checkpoint_doc("t", "", newest)
    fields = raw.documents()[name]

    class Raced(GCSSaver):
        """Its newest checkpoint is hidden while its history is read."""

        def get_delta_channel_history(self, *, config, channels):
            HIDE[how](raw, name, fields)
            try:
                return super().get_delta_channel_history(config=config, channels=channels)
            finally:
                raw.set_document(name, fields)

    seen.clear()
    with Raced.from_conn_string(store_uri) as saver, suppress(CheckpointCorruptError):
        chat(saver, seen).invoke({"log": ["question 3"]}, config)
    assert all(one == [*right, "question 3"] for one in seen)
    with make_saver() as saver:
        assert chat(saver, seen).get_state(config).values["log"][: len(right)] == right
