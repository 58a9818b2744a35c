"""Members and coordinators of a team that are killed or stopped while sets are made: each set is a consistent cut."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any, TypedDict

import pytest
from langgraph.errors import GraphDrained
from langgraph.graph import START, StateGraph

from langgraph_gcs_saver import GCSSaver, KeepLast, run
from langgraph_gcs_saver.errors import FencedError, SetAbortedError
from langgraph_gcs_saver.testing.kills import process
from tests.patience import PATIENCE, eventually

TEAM = "deal-42"
NAMES = ("planner", "extract", "merge")
TIMEOUT = 2.0


class State(TypedDict):
    """A member's state.

    Attributes:
        count: How many messages it has sent: one with each step.
        got: How many messages of each other member it has received.
    """

    count: int
    got: dict[str, int]


def config_of(saver: GCSSaver, name: str, checkpoint_id: str | None = None) -> Any:
    thread = {"thread_id": saver.team(TEAM).member(name).id, "checkpoint_ns": ""}
    return {"configurable": thread if checkpoint_id is None else {**thread, "checkpoint_id": checkpoint_id}}


def state_of(saver: GCSSaver, name: str, checkpoint_id: str | None = None) -> State | None:
    found = saver.get_tuple(config_of(saver, name, checkpoint_id))
    return None if found is None else {"count": 0, "got": {}, **found.checkpoint["channel_values"]}  # type: ignore[typeddict-item]


def live(uri: str, name: str, pipe: Connection) -> None:
    """Step for ever: receive what the other members have sent, and send one message more."""
    with GCSSaver.from_conn_string(uri, retention=KeepLast(2)) as saver:

        def step(state: State) -> State:
            sent = {other: state_of(saver, other) for other in NAMES if other != name}
            pipe.send(state["count"])
            return {"count": state["count"] + 1, "got": {other: one["count"] for other, one in sent.items() if one}}

        build = StateGraph(State)
        build.add_node("step", step)
        build.add_edge(START, "step")
        build.add_conditional_edges("step", lambda _: "step")
        config = {"configurable": {"thread_id": saver.team(TEAM).member(name).id}, "recursion_limit": 1_000_000}
        options: dict[str, Any] = {"request_id": "r", "owner": name, "ttl": 5, "wait": PATIENCE}
        with suppress(FencedError, GraphDrained):  # It was stopped, and another process has its part.
            run(build.compile(checkpointer=saver), {"count": 0, "got": {}}, config, team=saver.team(TEAM), **options)


def coordinate(uri: str, pipe: Connection) -> None:
    """Make one set after the other."""
    with GCSSaver.from_conn_string(uri) as saver:
        while True:
            pipe.send(new_set(saver))


def new_set(saver: GCSSaver) -> str:
    """How a set has ended that was made now."""
    try:
        return saver.team(TEAM, retention=1000).checkpoint(timeout=TIMEOUT).state
    except SetAbortedError:
        return "aborted"


class Stage:
    """The processes of a play. Those that were replaced still run if they were only stopped."""

    def __init__(self, uri: str, stack: ExitStack) -> None:
        self.uri = uri
        self.stack = stack
        self.now: dict[str, tuple[Any, Connection]] = {}
        self.stopped: list[Any] = []
        self.counts: Counter[str] = Counter()

    def start(self, name: str) -> None:
        """Start a process in place of the one that plays a part, and wait until it is at work."""
        played = (coordinate, self.uri) if name not in NAMES else (live, self.uri, name)
        self.now[name] = self.stack.enter_context(process(*played))

    def replace(self, name: str, how: str) -> None:
        old, _ = self.now[name]
        if how == "kill":
            old.kill()
            old.join()
        else:
            os.kill(old.pid, signal.SIGSTOP)
            self.stopped.append(old)
        self.counts[f"{how} {'member' if name in NAMES else 'coordinator'}"] += 1
        self.start(name)

    def wake(self) -> None:
        """Let the oldest stopped process continue. A member among them finds that it was replaced."""
        os.kill(self.stopped.pop(0).pid, signal.SIGCONT)
        self.counts["wake"] += 1

    def more(self, what: str, number: int) -> None:
        """Wait until something has happened so many times more."""
        before = self.counts[what]

        def is_done() -> bool:
            self.drain()
            return self.counts[what] >= before + number

        eventually(is_done)

    def drain(self) -> None:
        """Take what the processes have sent, so that their pipes do not fill up."""
        for name, (_, pipe) in self.now.items():
            with suppress(EOFError, ConnectionResetError):  # It has ended.
                while pipe.poll():
                    sent = pipe.recv()
                    self.counts[f"{name} works" if name in NAMES else str(sent)] += 1


def play(uri: str, seed: int, acts: int) -> Counter[str]:
    """Replace processes at random, until a number of sets was committed in spite of it.

    On the embedded store no process is stopped: it may hold the lock of the store's file.
    """
    chance = random.Random(seed)
    hows = ("kill",) if uri.startswith("file:") else ("stop", "kill")
    with ExitStack() as stack, GCSSaver.from_conn_string(uri) as saver:
        stage = Stage(uri, stack)
        for name in NAMES:
            stage.start(name)
        for name in NAMES:
            stage.more(f"{name} works", 3)
        stage.start("coordinator")
        for act in range(acts):
            # Each act begins at a random step of a member, wherever the set under way is then.
            stage.more(f"{chance.choice(NAMES)} works", chance.randint(1, 8))
            victim = "coordinator" if act % 3 == 0 else chance.choice(NAMES)
            stage.replace(victim, hows[act % len(hows)])
            if len(stage.stopped) > 1:
                stage.wake()
            if act % 3 == 2:
                stage.more("committed", 1)
        while stage.stopped:
            stage.wake()
        coordinator, _ = stage.now["coordinator"]
        coordinator.kill()
        coordinator.join()

        def is_decided() -> bool:
            stage.drain()
            return all(one.state != "preparing" for one in saver.team(TEAM).sets())

        # Only members are left. One of them decides the set that the coordinator has left.
        eventually(is_decided)
        judge(saver)
    for how in hows:
        assert stage.counts[f"{how} member"]
        assert stage.counts[f"{how} coordinator"]
    return stage.counts


def judge(saver: GCSSaver) -> None:
    """Check each committed set: its checkpoints exist, and no message was received in it that was not sent in it."""
    committed = [one for one in saver.team(TEAM).sets() if one.state == "committed"]
    assert committed
    for one in committed:
        cut = {name: state_of(saver, name, checkpoint_id) for name, checkpoint_id in one.cut.items()}
        assert set(cut) == set(NAMES)
        for name, state in cut.items():
            assert state is not None, f"{name} has lost its checkpoint of {one}"
            for other, got in state["got"].items():
                assert got <= cut[other]["count"], f"{name} has received in {one} what {other} had not sent"
    assert not saver.team(TEAM).verify(committed[0])


@pytest.mark.parametrize("store_uri", ["emulators"], indirect=True)
def test_every_set_is_consistent_whatever_is_killed(store_uri: str) -> None:
    assert play(store_uri, seed=1, acts=4)["wake"]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_every_set_is_consistent_in_longer_plays(store_uri: str, seed: int) -> None:
    play(store_uri, seed, acts=60)
