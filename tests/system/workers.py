"""What tests run in processes of their own."""

import hashlib
import multiprocessing
import operator
import os
import random
import signal
from contextlib import contextmanager
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import END, START, StateGraph

from langgraph_gcs_saver import GCSSaver
from tests.system.build import DEFAULT, checkpoint, version

EMULATORS = ("FIRESTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")


def context():
    """Processes that start fast, from one that has imported everything and used nothing."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(
        ["tests.system.workers", "langgraph_gcs_saver.stores.google", "langgraph_gcs_saver.stores.local"]
    )
    return found


@contextmanager
def process(target, *args):
    """A process that runs `target(*args, pipe)`; the other end of the pipe and the process. Killed at the end."""
    ours, theirs = context().Pipe()
    environment = {name: os.environ[name] for name in EMULATORS if name in os.environ}
    started = context().Process(target=_enter, args=(environment, target, *args, theirs), daemon=True)
    started.start()
    theirs.close()
    try:
        yield started, ours
    finally:
        started.kill()
        started.join()
        started.close()
        ours.close()


def _enter(environment, target, *args):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    target(*args)


def append(uri, who, count, pipe):
    """Append checkpoints to the newest one of thread `t`; tells the ids."""
    stored = []
    config = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    with GCSSaver.from_conn_string(uri) as saver:
        pipe.recv()
        for number in range(count):
            latest = saver.get_tuple(config)
            values = {} if latest is None else latest.checkpoint["channel_values"]
            versions = {} if latest is None else latest.checkpoint["channel_versions"]
            mine = {f"from {who}": [who, number], "shared": [*values.get("shared", []), who]}
            new = {channel: version(number + 1) + f"-{who}" for channel in mine}
            next_ = {**checkpoint(1, {**values, **mine}, {**versions, **new}), "id": str(uuid6())}
            parent = config if latest is None else latest.config
            saver.put(parent, next_, DEFAULT, new)
            stored.append((next_["id"], next_["channel_values"]))
    pipe.send(stored)


def put_on_order(uri, pipe):
    """Put what the pipe tells, with caches that live as long as the process; answers with what it then reads."""
    with GCSSaver.from_conn_string(uri) as saver:
        while (order := pipe.recv()) is not None:
            config, next_, new = order
            saver.put(config, next_, DEFAULT, new)
            found = saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
            pipe.send((found.checkpoint["id"], found.checkpoint["channel_values"]))


# A graph that is killed


class State(TypedDict):
    seen: Annotated[list[Any], operator.add]
    text: str
    noise: bytes


def rounds(state):
    return len(state["seen"]) // 2


def noise_of(number):
    """Large enough for an object."""
    return random.Random(number).randbytes(12_000)


def text_of(number):
    return " ".join(map(str, range(number)))


def build(steps, saver):
    """Two nodes at the same time, then one that joins them, `steps` times."""
    builder = StateGraph(State)
    builder.add_node("a", lambda state: {"seen": [["a", rounds(state)]]})
    builder.add_node("b", lambda state: {"seen": [["b", rounds(state)]]})
    builder.add_node("join", lambda state: {"text": text_of(rounds(state)), "noise": noise_of(rounds(state))})
    builder.add_conditional_edges(START, lambda _: ["a", "b"])
    builder.add_edge(["a", "b"], "join")
    builder.add_conditional_edges("join", lambda state: END if rounds(state) >= steps else ["a", "b"])
    return builder.compile(checkpointer=saver)


def final_state(steps):
    seen = [[node, number] for number in range(steps) for node in "ab"]
    return {"seen": seen, "text": text_of(steps), "noise": noise_of(steps)}


def digest_of(values):
    """A digest of channel values; neither the order of channels counts nor that of sets, which processes differ in."""
    plain = {channel: sorted(value) if isinstance(value, set) else value for channel, value in values.items()}
    return hashlib.sha256(repr(sorted(plain.items())).encode()).hexdigest()


class Acknowledging(GCSSaver):
    """Writes a line to a ledger after each `put` that returned: this must never be lost."""

    ledger = None

    def put(self, config, checkpoint, metadata, new_versions):
        stored = super().put(config, checkpoint, metadata, new_versions)
        line = f"{stored['configurable']['checkpoint_id']} {digest_of(checkpoint['channel_values'])}\n"
        os.write(self.ledger, line.encode())
        return stored


def run_graph(uri, thread_id, steps, ledger, pipe):
    """Run the graph on a thread from where it is to the end; tells when it starts and when it is done."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Acknowledging.from_conn_string(uri) as saver:
        saver.ledger = descriptor
        graph = build(steps, saver)
        config = {"configurable": {"thread_id": thread_id}, "recursion_limit": 10 * steps}
        start = None if graph.get_state(config).created_at else {"seen": [], "text": "", "noise": b""}
        pipe.send("started")
        graph.invoke(start, config, durability="sync")
    pipe.send("done")
