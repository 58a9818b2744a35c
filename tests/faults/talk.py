"""A conversation that can be checked at every step, and a saver that notes what it acknowledged."""

import hashlib
import operator
import random
from contextlib import contextmanager, suppress
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.errors import StoreUnavailableError


def noise_of(number):
    """Large enough for an object."""
    return random.Random(number).randbytes(12_000)


def text_of(number):
    return " ".join(map(str, range(number)))


def digest_of(values):
    return hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()


class State(TypedDict):
    seen: Annotated[list[Any], operator.add]
    noise: bytes
    text: str


def rounds(state):
    return len(state["seen"]) // 3


def seen_until(count):
    every = [entry for n in range(count // 3 + 1) for entry in (["a", n], ["b", n], ["ask", f"answer {n}"])]
    return every[:count]


def is_right(state):
    """Whether a state is one that the graph goes through."""
    count = len(state.get("seen", ()))
    done = {(count - 1) // 3, count // 3} if count else {0}
    pairs = [(noise_of(n), text_of(n)) if n else (b"", "") for n in done | {n for n in (count // 3,) if n}]
    return state.get("seen", []) == seen_until(count) and (state.get("noise", b""), state.get("text", "")) in pairs


def build(steps, saver):
    """Two nodes at the same time, a question, and an end that joins them, `steps` times."""

    def node(name):
        def run(state):
            assert is_right(state)
            return {"seen": [[name, rounds(state)]]}

        return run

    def ask(state):
        assert is_right(state)
        return {"seen": [["ask", interrupt(rounds(state))]]}

    def join(state):
        assert is_right(state)
        return {"text": text_of(rounds(state)), "noise": noise_of(rounds(state))}

    builder = StateGraph(State)
    builder.add_node("a", node("a"))
    builder.add_node("b", node("b"))
    builder.add_node("ask", ask)
    builder.add_node("join", join)
    builder.add_conditional_edges(START, lambda _: ["a", "b"])
    builder.add_edge(["a", "b"], "ask")
    builder.add_edge("ask", "join")
    builder.add_conditional_edges("join", lambda state: END if rounds(state) >= steps else ["a", "b"])
    return builder.compile(checkpointer=saver)


def final_state(steps):
    return {"seen": seen_until(3 * steps), "noise": noise_of(steps), "text": text_of(steps)}


def state_of(values):
    """The graph's own channels. For other channels LangGraph hands over live objects, and changes them meanwhile."""
    return {channel: values[channel] for channel in State.__annotations__ if channel in values}


def digest_of_state(values):
    return digest_of(state_of(values))


class Ledger(GCSSaver):
    """Notes what was acknowledged: checkpoints with a digest of their values, and pending writes."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.checkpoints = {}
        self.writes = []
        self.failures = 0

    def put(self, config, checkpoint, metadata, new_versions):
        digest = digest_of_state(checkpoint["channel_values"])
        found = super().put(config, checkpoint, metadata, new_versions)
        self.checkpoints[checkpoint["id"]] = digest
        return found

    async def aput(self, config, checkpoint, metadata, new_versions):
        digest = digest_of_state(checkpoint["channel_values"])
        found = await super().aput(config, checkpoint, metadata, new_versions)
        self.checkpoints[checkpoint["id"]] = digest
        return found

    def put_writes(self, config, writes, task_id, task_path=""):
        super().put_writes(config, writes, task_id, task_path)
        self.note(config, writes, task_id)

    async def aput_writes(self, config, writes, task_id, task_path=""):
        await super().aput_writes(config, writes, task_id, task_path)
        self.note(config, writes, task_id)

    def note(self, config, writes, task_id):
        checkpoint_id = config["configurable"]["checkpoint_id"]
        self.writes += [(checkpoint_id, task_id, channel) for channel, _ in writes]


def next_input(found, snapshot, steps):
    """What a user does next; `END` when the graph is at its end.

    Args:
        found: The newest checkpoint.
        snapshot: LangGraph's view of it, which shows writes of tasks as if their checkpoint was stored.
        steps: How many rounds the graph goes.
    """
    if found is None:
        return {"seen": [], "noise": b"", "text": ""}
    assert is_right(found.checkpoint["channel_values"])
    if state_of(found.checkpoint["channel_values"]) == final_state(steps):
        return END
    if snapshot.interrupts:
        return Command(resume=f"answer {snapshot.interrupts[0].value}")
    return None


@contextmanager
def trying(saver, *, patient):
    """A patient user waits and tries again when the service is not available, and only then."""
    try:
        yield
    except StoreUnavailableError:
        saver.failures += 1
        if not patient:
            raise


def converse(saver, thread, steps, *, patient, durability="sync"):
    """Talk to the graph until it is at its end."""
    graph = build(steps, saver)
    config = {"configurable": {"thread_id": thread}, "recursion_limit": 20 * steps}
    while True:
        with trying(saver, patient=patient):
            given = next_input(saver.get_tuple(config), graph.get_state(config), steps)
            if given == END:
                return
            graph.invoke(given, config, durability=durability)


async def aconverse(saver, thread, steps, *, patient, durability="sync"):
    graph = build(steps, saver)
    config = {"configurable": {"thread_id": thread}, "recursion_limit": 20 * steps}
    while True:
        with trying(saver, patient=patient):
            given = next_input(await saver.aget_tuple(config), await graph.aget_state(config), steps)
            if given == END:
                return
            await graph.ainvoke(given, config, durability=durability)


def patiently(function):
    """Call again while the service is unavailable, as the error says."""
    while True:
        with suppress(StoreUnavailableError):
            return function()
