"""Heavy channels: the event of a saver that is watched, and `stats --heavy`."""

from __future__ import annotations

import json
import operator
import random
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver, errors, telemetry
from langgraph_gcs_saver.events import ChannelHeavy
from langgraph_gcs_saver.policy.heavy import MEAN_BYTES, Heavy, Stored, heavy
from tests.cli.conftest import command  # noqa: F401 - a fixture

CONFIG: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 100}


@pytest.fixture
def store_uri(tmp_path: Any) -> str:
    return f"file://{tmp_path}/store"


class State(TypedDict, total=False):
    file: bytes
    log: Annotated[list[str], operator.add]
    step: int


def graph_of(saver: Any, channel: str, size: int, steps: int = 12) -> Any:
    """A graph whose steps write `size` random bytes to a channel each."""
    numbers = random.Random(1)

    def node(state: State) -> dict[str, Any]:
        new: Any = numbers.randbytes(size) if channel == "file" else [numbers.randbytes(size // 2).hex()]
        return {channel: new, "step": state.get("step", 0) + 1}

    build = StateGraph(State)
    build.add_node("node", node)
    build.add_edge(START, "node")
    build.add_conditional_edges("node", lambda state: END if state["step"] == steps else "node")
    return build.compile(checkpointer=saver)


@pytest.mark.parametrize(("channel", "kind"), [("file", "rewritten"), ("log", "growing")])
def test_the_event_and_the_command(store_uri: str, command: Any, channel: str, kind: str) -> None:  # noqa: F811
    found: list[ChannelHeavy] = []
    with GCSSaver.from_conn_string(store_uri) as saver:
        saver.subscribe(lambda event: found.append(event) if isinstance(event, ChannelHeavy) else None)
        graph = graph_of(saver, channel, 40_000)
        graph.invoke({"step": 0}, CONFIG)
        assert found == []  # it is not watched
        end = telemetry.watch_channels(saver, checkpoints=10)
        graph.invoke({"step": 0}, CONFIG)
        [event] = found
        assert (event.thread_id, event.channel, event.kind, event.checkpoints) == ("t", channel, kind, 10)
        assert event.bytes > 10 * MEAN_BYTES
        assert 0.9 < event.share <= 1
        end()
        graph.invoke({"step": 0}, CONFIG)
        assert len(found) == 1
    shown = json.loads(command("stats", "--heavy", "--json").out)["heavy"]
    assert (shown["channel"], shown["kind"]) == (channel, kind)
    assert json.loads(command("stats", "--json").out)["heavy"] == shown
    assert command("stats", "--heavy").out.startswith(f"{channel}: ")


def test_small_states_have_no_heavy_channel(store_uri: str, command: Any) -> None:  # noqa: F811
    found: list[Any] = []
    with GCSSaver.from_conn_string(store_uri) as saver:
        telemetry.watch_channels(saver, checkpoints=5)
        saver.subscribe(lambda event: found.append(event) if isinstance(event, ChannelHeavy) else None)
        graph_of(saver, "file", 1000).invoke({"step": 0}, CONFIG)
        for wrong in (0, 1.5, "3"):
            with pytest.raises(errors.InvalidInputError):
                telemetry.watch_channels(saver, checkpoints=wrong)  # type: ignore[arg-type]
    assert found == []
    assert command("stats", "--heavy").out.startswith("No channel is heavy")
    assert json.loads(command("stats", "--heavy", "--json").out) == {"heavy": None}


def test_the_limits() -> None:
    enough = 10 * MEAN_BYTES
    assert heavy([], 0) is None
    assert heavy([Stored("a", enough - 1, 0)], 10) is None
    assert heavy([Stored("a", enough, 0)], 10) == Heavy("a", enough, 1.0, "rewritten")
    assert heavy([Stored("a", 1, enough), Stored("b", enough, 1)], 10) == Heavy("a", enough + 1, 0.5, "growing")
    assert heavy([Stored(name, enough, 0) for name in "abc"], 10) is None
