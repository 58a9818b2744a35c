"""What a kept checkpoint is made of stays with it: its DeltaChannels' ancestors, and the state of its subgraphs."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver.engine.effects import Commit
from langgraph_gcs_saver.engine.runner import run
from langgraph_gcs_saver.errors import ConflictError
from langgraph_gcs_saver.flows import prune
from langgraph_gcs_saver.policy.retention import KeepLast
from tests.behaviour.api import cfg, checkpoint, metadata, number, version
from tests.kit.interceptors import Meanwhile
from tests.stateful.threads import MOSTLY_LOCAL, noise

COUNTED = {"counters_since_delta_snapshot": {"d": (1, 1)}}


def put_delta(saver, n, parent, *, base=False):
    """A checkpoint with a DeltaChannel, and a task's write for the next one."""
    values: dict[str, Any] = {"d": ["base"], "x": n} if base else {"x": n}
    versions = {"d": version(n), "x": version(n)}
    more = {} if base else COUNTED
    saver.put(cfg("t", "", parent), checkpoint(n, values, versions), metadata(step=n, **more), versions)
    saver.put_writes(cfg("t", "", n), [("d", [f"after {n}"])], f"task {n}")


def history(saver, n):
    return saver.get_delta_channel_history(config=cfg("t", "", n), channels=["d"])["d"]


def fill(saver):
    put_delta(saver, 1, None, base=True)
    put_delta(saver, 2, 1)
    put_delta(saver, 3, 2)
    put_delta(saver, 9, 1)


@MOSTLY_LOCAL
@pytest.mark.parametrize("knows", [False, True], ids=["cold", "warm"])
def test_a_delta_channel_whose_ancestors_were_pruned(make_saver, knows):
    """Nothing is acknowledged that could not be read. Otherwise the thread's latest checkpoint would always raise."""
    with make_saver() as saver, make_saver() as pruner:
        fill(saver)
        writer = saver if knows else make_saver()
        pruner.prune(["t"])
        with pytest.raises(ConflictError, match="DeltaChannels"):
            put_delta(writer, 10, 3)
        assert [number(one) for one in pruner.list(cfg())] == [9, 1]
        assert history(make_saver(), 9) == {"seed": ["base"], "writes": [("task 1", "d", ["after 1"])]}
        writer.close()


@MOSTLY_LOCAL
def test_a_cold_put_holds_its_parent(make_saver):
    """Between the pruner's snapshot and its deletion a checkpoint comes that takes no frame of its parent."""
    with make_saver() as saver, make_saver() as cold:
        fill(saver)
        meanwhile = Meanwhile(Commit, lambda: put_delta(cold, 10, 3))
        with make_saver(interceptors=[meanwhile]) as pruner:
            pruner.prune(["t"])
        assert meanwhile.is_done
        assert [number(one) for one in saver.list(cfg())] == [10, 3, 2, 1]
        writes = [(f"task {n}", "d", [f"after {n}"]) for n in (1, 2, 3)]
        assert history(make_saver(), 10) == {"seed": ["base"], "writes": writes}


@MOSTLY_LOCAL
def test_a_parent_that_was_replaced_is_held_too(make_saver):
    with make_saver() as saver, make_saver() as other:
        fill(saver)
        versions = {"d": version(3), "x": version(3)}
        other.put(cfg("t", "", 2), checkpoint(3, {"x": "new"}, versions), metadata(step=3, **COUNTED), versions)
        put_delta(saver, 10, 3)
        put_delta(saver, 11, 3)
        assert saver.get_tuple(cfg("t", "", 11)).checkpoint["channel_values"] == {"x": 11}
        saver.prune(["t"], strategy=KeepLast(1))
        assert len(history(make_saver(), 11)["writes"]) == 3


def test_newest_first_between_commits(make_saver, monkeypatch):
    """A document that waits for one that builds on it does not let its own ancestors go before it."""
    text = noise("text", 2000)
    with make_saver() as saver:
        for n in range(1, 12):
            versions = {"x": version(n)}
            args = checkpoint(n, {"x": f"{text} {n}"}, versions), metadata(step=n), versions
            saver.put(cfg("t", "", n - 1 or None), *args)
        found = run(prune.snapshot("t", saver._context), saver._backend)
        assert any(len(entry.docs) > 1 for entry in found.entries.values())
        assert prune._order(found, sorted(found.entries)) == sorted(found.entries)


class Outer(TypedDict, total=False):
    turn: int


class Inner(Outer, total=False):
    private: Annotated[list[str], operator.add]


def test_going_back_finds_the_state_of_subgraphs(make_saver):
    """A subgraph that keeps its state resumes from the state that it had when a remaining checkpoint was made."""
    seen: list[list[str]] = []

    def note(state):
        seen.append(list(state["private"]))
        return {"private": [f"{state['turn']}"]}

    def build(saver):
        inner = StateGraph(Inner).add_node("note", note).add_edge(START, "note").compile(checkpointer=True)
        return StateGraph(Outer).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=saver)

    with make_saver() as saver:
        graph = build(saver)
        for turn in range(5):
            graph.invoke({"turn": turn}, cfg())
        waiting = [state for state in graph.get_state_history(cfg()) if state.next == ("inner",)]
        saver.admin.pin(waiting[1].config, "the fourth turn")
        fork = graph.update_state(waiting[3].config, {"turn": 7})
        saver.admin.pin(fork, "a fork of the second")
        saver.prune(["t"])
        assert len(list(saver.list(cfg("t", "inner")))) == 3
        seen.clear()
        graph.invoke(None, waiting[1].config)
        graph.invoke(None, fork)
        assert seen == [["0", "1", "2"], ["0"]]
