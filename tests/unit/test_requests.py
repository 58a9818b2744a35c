import enum
import math
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from uuid import UUID

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.errors import GCSSaverError, InvalidConfigError, SerializationError
from langgraph_gcs_saver.flows import load, save
from langgraph_gcs_saver.flows.writes import put_writes
from langgraph_gcs_saver.format.serialization import loads
from langgraph_gcs_saver.saver import arguments, configs
from tests.unit.model import SERDE, Model, cid, make_context


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


def config(**given):
    return {"configurable": {"thread_id": "t", "checkpoint_ns": ""} | given}


def checkpoint(**given):
    found = {"v": 4, "id": cid(1), "ts": "now", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
    return found | {"updated_channels": None} | given


CONFIG, CHECKPOINT = config(), checkpoint()


def put_request(config=CONFIG, checkpoint=CHECKPOINT, metadata=None, new_versions=None, *, serde=SERDE, context=None):
    context = make_context() if context is None else context
    return arguments.put_request(
        config, checkpoint, metadata or {}, new_versions or {}, serde=serde, context=context, now=1.0
    )


def stored(checkpoint, metadata=None, new_versions=None, serde=SERDE):
    """The checkpoint as it is read after it was stored, and its request."""
    model, context = Model(), make_context()
    request = put_request(checkpoint=checkpoint, metadata=metadata, new_versions=new_versions, serde=serde)
    model.drive(save.put(request, context))
    flow = load.get_tuple("t", "", checkpoint["id"], lambda value: loads(serde, value), make_context())
    return arguments.to_tuple(model.drive(flow)), request


# Fields of a checkpoint


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -5, 1 << 80, 1.5, -0.0, "é", "\ud800", [], [1, [2.0, None]], {}, {"a": {"b": []}}, {"": [True]}],
    ids=repr,
)
def test_what_json_gives_back_is_plain(value):
    found, request = stored(checkpoint(odd=value))
    assert request.rest is None
    assert repr(found.checkpoint["odd"]) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset([1]),
        b"bytes",
        math.nan,
        math.inf,
        -math.inf,
        {1: "int key"},
        {None: 1, "a": 2},
        {True: 1},
        {"a": {"b": {3}}},
        Colour.RED,
        Level.ONE,
        [Colour.RED],
        UUID(int=5),
        {"a": math.nan},
    ],
    ids=repr,
)
def test_what_json_would_change_comes_back_exactly(value):
    found, request = stored(checkpoint(odd=value))
    assert request.rest is not None
    assert "odd" not in request.checkpoint
    assert repr(found.checkpoint["odd"]) == repr(value)
    assert type(found.checkpoint["odd"]) is type(value)
    assert found.checkpoint["v"] == 4


class PickleSerde:
    """Keeps tuples, which LangGraph's own serializer turns into lists."""

    def dumps_typed(self, obj):
        return "pickle", pickle.dumps(obj)

    def loads_typed(self, data):
        return pickle.loads(data[1])


@pytest.mark.parametrize("value", [(1, 2), [1, (2,)], {"a": ()}, (math.nan,), OrderedDict(a=(1,))], ids=repr)
def test_tuples_stay_what_the_serialiser_makes_of_them(value):
    """JSON must not be what turns them into lists."""
    found, request = stored(checkpoint(odd=value), serde=PickleSerde())
    assert request.rest is not None
    assert repr(found.checkpoint["odd"]) == repr(value)


@pytest.mark.parametrize(
    "value",
    [defaultdict(dict, {"a": {"b": "1"}}), OrderedDict(a=OrderedDict(b=1)), defaultdict(lambda: defaultdict(int))],
    ids=["nested", "ordered", "a default that cannot be pickled"],
)
def test_dicts_of_other_types_come_back_equal(value):
    """LangGraph's `versions_seen` has been a `defaultdict`."""
    found, _ = stored(checkpoint(versions_seen=value))
    assert found.checkpoint["versions_seen"] == value


def test_a_checkpoint_comes_back_with_all_its_fields():
    given = checkpoint(
        channel_values={"a": [1], "b": None},
        channel_versions={"a": "1.5", "b": "1.5", "empty": "1.5"},
        versions_seen={"node": {"a": "1.5"}},
        pending_sends=[],
        another=[1, {2}],
    )
    found, _ = stored(given, new_versions=given["channel_versions"])
    assert found.checkpoint == given


@pytest.mark.parametrize("version", [1, 1.5, "1", 1 << 70])
def test_versions_of_any_type(version):
    given = checkpoint(channel_values={"a": "value"}, channel_versions={"a": version})
    found, _ = stored(given, new_versions={"a": version})
    assert found.checkpoint == given
    assert type(found.checkpoint["channel_versions"]["a"]) is type(version)


@pytest.mark.parametrize("version", [Level.ONE, Colour.RED], ids=repr)
def test_versions_that_json_would_change(version):
    given = checkpoint(channel_values={"a": "value"}, channel_versions={"a": version})
    found, _ = stored(given, new_versions={"a": version})
    assert found.checkpoint == given


@pytest.mark.parametrize("version", [math.inf, 10**5000], ids=["inf", "5,000 digits"])
def test_versions_that_json_has_not(version):
    """Stored, or refused by an error of ours."""
    given = checkpoint(channel_values={"a": "value"}, channel_versions={"a": version})
    try:
        found, _ = stored(given, new_versions={"a": version})
    except GCSSaverError:
        return
    assert found.checkpoint == given


def test_fields_are_read_from_live_objects_at_once():
    seen, odd = {"node": {"a": "1"}}, [1, {"b": [2]}]
    request = put_request(checkpoint=checkpoint(versions_seen=seen, odd=odd))
    seen["node"]["a"] = "2"
    odd[1]["b"].append(3)
    assert request.checkpoint["versions_seen"] == {"node": {"a": "1"}}
    assert request.checkpoint["odd"] == [1, {"b": [2]}]


# Values: read from live objects at once


def test_values_with_new_versions_are_serialised_at_once():
    live, old = ["before"], ["old"]
    given = checkpoint(channel_values={"a": live, "b": old}, channel_versions={"a": "2", "b": "1"})
    request = put_request(checkpoint=given, new_versions={"a": "2"})
    live.append("after")
    assert loads(SERDE, request.values["a"]()) == ["before"]
    assert request.fresh == {"a"}
    given["channel_versions"]["a"] = "3"
    assert request.versions == {"a": "2", "b": "1"}


def at_hand(context, number):
    """Let `context` know a parent."""
    model = Model()
    first = {**checkpoint(channel_values={"b": "old"}, channel_versions={"b": "1"}), "id": cid(number)}
    model.drive(save.put(put_request(checkpoint=first, new_versions={"b": "1"}, context=context), context))
    return config(checkpoint_id=cid(number))


def test_without_the_parent_at_hand_everything_is_serialised_at_once():
    """The parent may turn out not to have it, and then the live object has moved on."""
    live, given = ["before"], checkpoint(channel_versions={"a": "2", "b": "1"})
    context = make_context()
    for parent in (config(), config(checkpoint_id=cid(0))):
        live[:] = ["before"]
        given["channel_values"] = {"a": "fresh", "b": live}
        request = put_request(parent, given, new_versions={"a": "2"}, context=context)
        live.append("after")
        assert loads(SERDE, request.values["b"]()) == ["before"]
        assert request.fresh == {"a"}


def test_values_without_new_versions_are_serialised_only_when_needed():
    class Serde(JsonPlusSerializer):
        def dumps_typed(self, obj):
            assert obj != "untouched", "serialized for nothing"
            return super().dumps_typed(obj)

    given = checkpoint(channel_values={"a": "fresh", "b": "untouched"}, channel_versions={"a": "2", "b": "1"})
    context = make_context()
    parent = at_hand(context, 0)
    request = put_request(parent, given, new_versions={"a": "2"}, serde=Serde(), context=context)
    assert loads(SERDE, request.values["a"]()) == "fresh"
    with pytest.raises(SerializationError):
        request.values["b"]()


def test_a_new_version_without_a_value_is_an_empty_channel():
    request = put_request(checkpoint=checkpoint(channel_versions={"a": "1"}), new_versions={"a": "1"})
    assert request.values == {}
    assert request.fresh == {"a"}


class Unserialisable:
    def __reduce__(self):
        raise TypeError("hunter2")

    def __repr__(self):
        return "hunter2"


def test_errors_name_the_channel_and_the_type_never_the_content():
    given = checkpoint(channel_values={"the channel": Unserialisable()}, channel_versions={"the channel": "1"})
    with pytest.raises(SerializationError) as caught:
        put_request(checkpoint=given, new_versions={"the channel": "1"})
    for word in ("'the channel'", "Unserialisable", repr(cid(1)), "thread 't'"):
        assert word in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SerializationError, match="metadata of checkpoint") as caught:
        put_request(metadata={"writes": Unserialisable()})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SerializationError, match="field of checkpoint"):
        put_request(checkpoint=checkpoint(odd=Unserialisable()))
    with pytest.raises(SerializationError, match=r"channel 'c' of task 'the task'.*Unserialisable") as caught:
        arguments.put_writes_request(config(checkpoint_id="c"), [("c", Unserialisable())], "the task", "", serde=SERDE)
    assert "hunter2" not in str(caught.value)


def cycle():
    found = ["hunter2"]
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "reason", "place"),
    [
        ({"hunter2": 1 << 70}, "Integer exceeds 64-bit range", "[item 0]"),
        (cycle(), "contains itself", "[1]"),
        ({"a": {Unserialisable(): "hunter2"}}, "Dict key must", "[item 0][item 0]"),
    ],
    ids=["integer", "cycle", "key"],
)
def test_errors_name_the_reason_and_the_place_wherever_the_value_is(value, reason, place):
    values = {"channel_values": {"c": value}, "channel_versions": {"c": "1"}}
    write = partial(arguments.put_writes_request, config(checkpoint_id="c"), task_id="t", task_path="", serde=SERDE)
    for call, what, steps in (
        (partial(put_request, checkpoint=checkpoint(**values), new_versions={"c": "1"}), "channel 'c' of", place),
        (partial(put_request, metadata={"m": value}), "The metadata of", f"[item 0]{place}"),
        (partial(put_request, checkpoint=checkpoint(odd=value)), "A field of", f"[item 0]{place}"),
        (partial(write, [("c", value)]), "A write to channel 'c' of", place),
        (partial(write, [("__resume__", [1, value])]), "A write to channel '__resume__' of", f"[1]{place}"),
    ):
        if reason == "Integer exceeds 64-bit range" and what == "A field of":
            continue  # JSON holds it.
        with pytest.raises(SerializationError) as caught:
            call()
        text = str(caught.value)
        assert what in text
        assert reason in text
        assert f" at {steps}" in text
        assert "hunter2" not in text
        assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "version",
    [b"hunter2", math.nan, cycle(), ["hunter2"], {"hunter2": 1}],
    ids=["bytes", "nan", "cycle", "list", "dict"],
)
def test_versions_that_cannot_be_stored(version):
    given = checkpoint(channel_values={"a": 1, "c": 1}, channel_versions={"a": "1", "c": version})
    with pytest.raises(SerializationError, match="'c'") as caught:
        stored(given, new_versions=given["channel_versions"])
    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("key", ["configurable", "metadata"])
def test_a_config_with_odd_keys(key):
    given = config() | {key: config()["configurable"] | {5: 1}}
    with pytest.raises(InvalidConfigError, match="keys are of type str"):
        put_request(given)


# Metadata


def test_user_keys_never_override_langgraphs_own():
    given = config(source="user", mine="yes", __pregel_x="no") | {"metadata": {"step": 99, "run_id": "r"}}
    request = put_request(config=given, metadata={"source": "loop", "step": 1, "parents": {}})
    whole = loads(SERDE, request.metadata)
    assert whole == {"source": "loop", "step": 1, "parents": {}, "mine": "yes", "run_id": "r"}
    assert request.run_id == "r"
    assert request.index == {"source": "loop", "step": 1, "mine": "yes"}


def test_a_run_id_that_is_no_text_is_not_indexed():
    assert put_request(metadata={"run_id": 5}).run_id is None


def test_metadata_that_no_document_can_index_is_refused():
    from langgraph_gcs_saver.format import filters

    def metadata(count):
        return {f"k{number:05}": "v" * 250 for number in range(count)}

    most = filters.MAX_BYTES // (6 + 9 + 250)
    assert put_request(metadata=metadata(most)).index == metadata(most)
    with pytest.raises(InvalidConfigError, match=f"{most + 1} short values.*at most 262,144"):
        put_request(metadata=metadata(most + 1))
    # What is not indexed may be as large as it likes, and with a cipher nothing is, unless it is named.
    assert put_request(metadata={"nested": metadata(5000), "long": "v" * 300_000}).index == {}
    assert put_request(metadata=metadata(5000), context=make_context(clear_metadata=frozenset())).index == {}
    only = make_context(clear_metadata=frozenset({"k00005", "run_id"}))
    assert put_request(metadata=metadata(5000), context=only).index == {"k00005": "v" * 250}


# Configs


@pytest.mark.parametrize(
    "given",
    [None, {}, 5, {"configurable": None}, {"configurable": []}, {"configurable": {}}, {"metadata": {}}],
    ids=repr,
)
def test_a_config_without_a_thread(given):
    with pytest.raises(InvalidConfigError, match="thread_id"):
        configs.thread_and_ns(given)
    if given is not None:
        with pytest.raises(InvalidConfigError, match="thread_id"):
            arguments.search(given, wanted=None, before=None)


@pytest.mark.parametrize("key", ["checkpoint_ns", "checkpoint_id"])
def test_ids_of_another_type(key):
    with pytest.raises(InvalidConfigError, match=f"'{key}'.*int"):
        put_request(config=config(**{key: 5}))


@pytest.mark.parametrize(
    ("thread", "text"), [(5, "5"), ("", ""), (UUID(int=5), str(UUID(int=5))), ("a/b", "a/b"), (0, "0")], ids=repr
)
def test_threads_may_be_numbers(thread, text):
    assert configs.thread_and_ns(config(thread_id=thread)) == (text, "")
    assert arguments.search(config(thread_id=thread), wanted=None, before=None).thread_id == text


def test_a_config_may_be_any_mapping_and_hold_none():
    assert configs.thread_and_ns(MappingProxyType({"configurable": MappingProxyType({"thread_id": "t"})})) == ("t", "")
    assert configs.thread_and_ns(config(checkpoint_ns=None)) == ("t", "")
    for nothing in (None, ""):
        assert configs.checkpoint_id_of(config(checkpoint_id=nothing)) is None
        assert put_request(config=config(checkpoint_id=nothing)).parent_id is None
    assert configs.checkpoint_id_of(config(checkpoint_id="c")) == "c"


@pytest.mark.parametrize("given", [{}, {"id": None}, {"id": 5}], ids=repr)
def test_a_checkpoint_without_an_id(given):
    whole = checkpoint() | given
    if not given:
        del whole["id"]
    with pytest.raises(InvalidConfigError, match="'id'"):
        put_request(checkpoint=whole)


def test_writes_need_a_checkpoint():
    for given in (config(), config(checkpoint_id=None)):
        with pytest.raises(InvalidConfigError, match="checkpoint_id"):
            arguments.put_writes_request(given, [], "task", "", serde=SERDE)


def test_writes_are_serialised_at_once_and_special_ones_numbered_by_channel():
    live = ["before"]
    request = arguments.put_writes_request(
        config(checkpoint_id="c"),
        [("a", live), ("__interrupt__", 1), ("b", 2), ("__error__", 3)],
        "t",
        "p",
        serde=SERDE,
    )
    live.append("after")
    assert [(w.idx, w.channel, loads(SERDE, w.value)) for w in request.writes] == [
        (0, "a", ["before"]),
        (-3, "__interrupt__", 1),
        (2, "b", 2),
        (-1, "__error__", 3),
    ]
    assert {(w.task_id, w.task_path) for w in request.writes} == {("t", "p")}


def test_no_writes_ask_for_nothing():
    request = arguments.put_writes_request(config(checkpoint_id="c"), [], "task", "", serde=SERDE)
    model = Model()
    model.drive(put_writes(request, make_context()))
    assert model.log == []


# Searches and tuples


def test_searches():
    assert arguments.search(None, wanted=None, before=None) == load.Search(None, None, None, None, None)
    found = arguments.search(
        config(checkpoint_ns="n", checkpoint_id="c"),
        wanted={"step": 1},
        before={"configurable": {"checkpoint_id": "d"}},
    )
    assert found == load.Search("t", "n", "c", "d", {"step": 1})
    assert arguments.search({"configurable": {"thread_id": "t"}}, wanted={}, before=config()).ns is None
    assert arguments.search(config(), wanted={}, before=config()) == load.Search("t", "", None, None, None)


def test_a_tuple_names_the_thread_as_the_caller_did():
    found, _ = stored(checkpoint())
    assert isinstance(found.config, Mapping)
    assert found.config == config(checkpoint_id=cid(1))
    assert found.parent_config is None
    model, context = Model(), make_context()
    model.drive(save.put(put_request(config=config(thread_id="5", checkpoint_id=cid(0))), context))
    loaded = model.drive(load.get_tuple("5", "", None, lambda value: loads(SERDE, value), context))
    again = arguments.to_tuple(loaded, 5)
    assert again.config["configurable"]["thread_id"] == 5
    assert again.parent_config == config(thread_id=5, checkpoint_id=cid(0))
    assert arguments.to_tuple(loaded).config["configurable"]["thread_id"] == "5"
