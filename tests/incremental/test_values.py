"""Whatever a channel's values do, every reader gets back what was put, and what was stored stays small where it can."""

import json
import operator
import pickle
from typing import Annotated, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import END, START, StateGraph

from tests.incremental.threads import Thread, chat, growing, message, numbers, refs, stored
from tests.system.build import cfg, noise

A, B = chat(40), [*chat(20), message(-1), *chat(20, 20)]


def edited(step):
    values = chat(40)
    values[20] = message(-step)
    return values


SHAPES = {
    "grow": growing(20, 9),
    "shrink": [chat(40 - 4 * step) for step in range(9)],
    "edited in the middle": [edited(step) for step in range(9)],
    "alternate": [A, B] * 4,
    "alternate, nothing in common": [chat(20), chat(20, 500)] * 4,
    "alternate with nothing": [A, [], A, None, A, b"", A, ""],
    "prefix": [chat(20, 20 - step) for step in range(9)],
    "replaced": [noise(20_000, step) for step in range(6)],
    "equal": [A] * 5,
    "other types": [A, json.dumps(A), json.dumps(A).encode(), bytearray(b"x" * 9000), tuple(range(900)), A],
    "grow and collapse": [*growing(20, 4), chat(1), *growing(1, 4), chat(60), chat(61)],
}
EQUAL_TUPLES = [list(value) if isinstance(value, tuple) else value for value in SHAPES["other types"]]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, make_saver):
    saver, thread = make_saver(), Thread()
    thread.line([saver], SHAPES[shape])
    if shape == "other types":  # LangGraph's serializer gives tuples back as lists.
        for n, value in enumerate(EQUAL_TUPLES, 1):
            thread.values[n] = thread.values[n] | {"v": value}
    thread.check(saver, make_saver(), make_saver(cache_max_bytes=40_000))


@pytest.mark.parametrize(
    ("shape", "times"),
    [
        ("grow", 1.5),
        ("shrink", 3.5),
        ("edited in the middle", 1.5),
        ("alternate", 1.3),
        ("prefix", 3.6),
        ("equal", 1.02),
    ],
)
def test_what_changes_a_little_is_stored_once(shape, times, make_saver, raw):
    """As a multiple of the largest value, compressed: 5 to 9 versions would else take about as many."""
    import zstandard
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    thread = Thread()
    thread.line([make_saver()], SHAPES[shape])
    full = max(len(zstandard.compress(JsonPlusSerializer().dumps_typed(value)[1])) for value in SHAPES[shape])
    print(shape, round(stored(raw) / full, 2))
    assert stored(raw) < times * full


def test_equal_values_are_one_frame(saver, raw):
    thread = Thread()
    thread.line([saver], [A] * 5)
    found = [refs(saver, n)["v"].chain for n in range(1, 6)]
    assert len({(chain[0].owner or 1, chain[0].attempt, chain[0].at, len(chain)) for chain in found[1:]}) == 1
    assert len(raw.objects()) == 1
    assert [numbers(saver, thread)] == [[(0, 1)] * 5]


@pytest.mark.parametrize("writers", [1, 3])
def test_forks_at_several_points_that_grow_apart(writers, make_saver):
    savers = [make_saver() for _ in range(writers)]
    thread = Thread()
    thread.line(savers, growing(20, 8), get=True)
    first = 100
    for parent in (1, 3, 3, 5, 8):
        base = thread.values[parent]["v"]
        values = [[*base, *(message(first + n) for n in range(step + 1))] for step in range(5)]
        thread.line(savers, values, first=first, parent=parent, get=writers > 1)
        first += 100
    for parent in (102, 404):  # … and forks of forks
        base = thread.values[parent]["v"]
        thread.line(
            savers, [[message(-9), *base[:-2], message(first + n)] for n in range(3)], first=first, parent=parent
        )
        first += 100
    thread.check(make_saver(), *savers)
    lengths = [length for _, length in numbers(savers[0], thread)]
    assert 3 <= max(lengths) <= 12


@pytest.mark.parametrize("get", [False, True], ids=["put only", "get and put"])
@pytest.mark.parametrize("values", [SHAPES["grow"], SHAPES["alternate"], SHAPES["edited in the middle"]], ids=range(3))
def test_two_writers_in_turn_with_cold_caches(get, values, make_saver):
    first, second = make_saver(), make_saver()
    thread = Thread()
    thread.line([first, second], values, get=get)
    thread.check(make_saver(), first, second)
    increments = sum(k > 0 for k, _ in numbers(first, thread))
    if get:
        assert increments >= len(values) - 3, "a saver that has read the parent builds on it"


def test_a_writer_that_was_away_builds_on_what_it_knows(make_saver):
    """Its cache has the base of the other's chain: it needs not have read the parent."""
    first, second = make_saver(), make_saver()
    thread = Thread()
    thread.line([first], growing(20, 3))
    thread.check_one(second, 1)
    for n in range(4, 10):
        thread.put([first, second][n % 2], n, {"v": chat(17 + n), "kept": ["t"]}, n - 1, changed={"v"})
    thread.check(make_saver(), first, second)
    assert all(k > 0 for k, _ in numbers(first, thread)[1:])


@pytest.mark.parametrize("warm", [True, False])
def test_no_new_versions(warm, make_saver):
    """As LangGraph's forks and state updates put: full values, and nothing that is new."""
    saver, thread = make_saver(), Thread()
    thread.line([saver], growing(20, 4))
    writer = saver if warm else make_saver()
    thread.put(writer, 10, thread.values[4], 4, changed=())
    thread.put(writer, 11, thread.values[2], 2, changed=())
    thread.put(writer, 12, thread.values[10], 10, changed=())
    # A version that the parent does not have, and a parent that is not there: the values are at hand.
    thread.versions[13] = {"v": "another", "kept": "another"}
    thread.put(writer, 14, thread.values[4], 13, changed=())
    thread.check(saver, writer, make_saver())
    assert [refs(saver, n)["v"].chain[-1].owner is not None for n in (10, 11, 12, 14)] == [True, True, True, False]
    thread.line([writer], [chat(30), chat(31)], first=20, parent=12)
    thread.check(saver, make_saver())


class JsonSerde:
    def dumps_typed(self, obj):
        return "json", json.dumps(obj).encode()

    def loads_typed(self, data):
        assert data[0] == "json"
        return json.loads(data[1])


class PickleSerde:
    def dumps_typed(self, obj):
        return f"pickle {type(obj).__name__}", pickle.dumps(obj)

    def loads_typed(self, data):
        found = pickle.loads(data[1])
        assert data[0] == f"pickle {type(found).__name__}"
        return found


@pytest.mark.parametrize("serde", [JsonSerde(), PickleSerde()], ids=["json", "pickle"])
@pytest.mark.parametrize("shape", ["grow", "shrink", "edited in the middle", "alternate"])
def test_other_serialisers(serde, shape, make_saver):
    saver, thread = make_saver(serde=serde), Thread()
    thread.line([saver], SHAPES[shape])
    thread.check(saver, make_saver(serde=serde))
    assert sum(k > 0 for k, _ in numbers(saver, thread)) >= 3


def test_a_serialiser_whose_bytes_differ_each_time(make_saver):
    """Equal values of other bytes are other values: the digest is of what is stored."""

    class Counting(JsonSerde):
        count = 0

        def dumps_typed(self, obj):
            Counting.count += 1
            return "json", json.dumps(obj).encode() + b" " * (Counting.count % 50)

    saver, thread = make_saver(serde=Counting()), Thread()
    thread.line([saver], [A] * 8)
    thread.put(saver, 20, {"v": A, "kept": ["t"]}, 8, changed=())
    thread.versions[30] = {"v": "another", "kept": "another"}
    thread.put(saver, 31, thread.values[8], 30, changed=())
    thread.line([saver], growing(40, 4), first=40, parent=31)
    thread.check(saver, make_saver(serde=JsonSerde()))


def test_an_encrypting_serialiser(make_saver, store_uri, raw):
    """Equal values differ, so nothing can be saved, and it costs nothing more than full frames."""
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    saver, thread = make_saver(serde=serde), Thread()
    thread.line([saver], [*SHAPES["grow"], *SHAPES["alternate"][:4]])
    thread.check(saver, make_saver(serde=serde))
    assert {k for k, _ in numbers(saver, thread)} == {0}
    incremental = stored(raw)
    saver.delete_thread("t")
    full = Thread()
    full.line([make_saver(serde=serde, incremental=False)], [*SHAPES["grow"], *SHAPES["alternate"][:4]])
    assert incremental <= 1.02 * stored(raw)


def test_values_that_change_entirely_cost_what_full_frames_cost(make_saver, raw):
    values = [noise(30_000, step) for step in range(8)]
    Thread().line([make_saver()], values)
    incremental = stored(raw)
    make_saver().delete_thread("t")
    Thread().line([make_saver(incremental=False)], values)
    assert incremental <= 1.02 * stored(raw)


# Delta channels


def extend(state, writes):
    return [*state, *(item for write in writes for item in write)]


def run_delta_graph(saver, turns, every=3):
    class DeltaState(TypedDict):
        log: Annotated[list, DeltaChannel(extend, snapshot_frequency=every)]
        plain: Annotated[list, operator.add]

    def work(state):
        count = len(state["log"])
        return {"log": [message(count)], "plain": [message(-count)]}

    builder = StateGraph(DeltaState)
    builder.add_node("work", work)
    builder.add_node("again", work)
    builder.add_edge(START, "work")
    builder.add_edge("work", "again")
    builder.add_edge("again", END)
    graph = builder.compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "t"}}
    for turn in range(turns):
        graph.invoke({"log": [f"turn {turn}"], "plain": []}, config)
    return graph, config


def history(graph, config):
    return [(found.metadata["step"], found.next, found.values) for found in graph.get_state_history(config)]


@pytest.mark.parametrize("every", [1, 3])
def test_snapshots_of_delta_channels(every, make_saver):
    expected = history(*run_delta_graph(InMemorySaver(), 8, every))
    saver = make_saver()
    graph, config = run_delta_graph(saver, 8, every)
    assert history(graph, config) == expected
    assert len(expected[0][2]["log"]) == 24
    cold = make_saver()
    again, _ = run_delta_graph(cold, 0, every)
    assert history(again, config) == expected
    assert again.get_state(config).values == expected[0][2]
    # A snapshot builds on the parent's, if it has one.
    found = [refs(cold, found.config["configurable"]["checkpoint_id"]) for found in cold.list(cfg(ns=None))]
    lengths = [len(channels["log"].chain) for channels in found if "log" in channels]
    assert len(lengths) >= 7
    assert (max(lengths) > 1) is (every == 1)
