"""Stored values survive JSON to the byte, nothing that they name is imported, and what would lose a type is refused."""

import json
import math
import sys
from collections import deque
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph.message import add_messages
from langgraph.types import Send
from pydantic import BaseModel

from langgraph_gcs_saver import portable
from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import Opaque, PortableSerializer, Stored, trials

LANGGRAPH = JsonPlusSerializer(allowed_msgpack_modules=True)
OURS = PortableSerializer()


@dataclass
class Plan:
    text: str
    steps: list


class Belief(BaseModel):
    capital: str
    sure: float


def stored(value):
    return OURS.loads_typed(typed(value))


def typed(value):
    kind, data = LANGGRAPH.dumps_typed(value)
    return kind, bytes(data)


VALUES = [
    None,
    True,
    1,
    1.0,
    -0.0,
    math.nan,
    -math.inf,
    2**64 - 1,
    "text \x1b\u202e",
    b"\x00\xff",
    bytearray(b"x"),
    [],
    {},
    [[], {"a": {}}],
    {1: "int", None: 0, (1, 2): "tuple", False: 2, b"k": 3},
    {"$type": "no object", "a": 1},
    {"nested": {"$bytes": 1}},
    {1, 2},
    datetime(2026, 1, 1, tzinfo=timezone.utc),
    date(2026, 1, 1),
    timedelta(1, 2),
    UUID(int=7),
    Decimal("1.50"),
    Send("node", {"at": Plan("x", [])}),
    Plan("go", [{1}]),
    Belief(capital="Paris", sure=0.5),
    _DeltaSnapshot([1, {2}]),
    [HumanMessage("hi", id="1"), AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "c"}])],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_survive_json_to_the_byte(value):
    there = stored(value)
    assert OURS.dumps_typed(there) == typed(value)
    again = portable.from_json(json.loads(json.dumps(portable.to_json(there), allow_nan=False)))
    assert OURS.dumps_typed(again) == typed(value)
    assert portable.is_editable(there)


leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
keys = st.text() | st.integers(-5, 5) | st.sampled_from(["$type", "$map", "$bytes", "$delta"])
trees = st.recursive(
    leaves.filter(lambda leaf: not isinstance(leaf, str) or leaf.isprintable()),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.builds(Plan, st.just("x"), inner),
    max_leaves=12,
)


@given(trees)
def test_any_tree_survives(value):
    there = stored(value)
    again = portable.from_json(json.loads(json.dumps(portable.to_json(there), allow_nan=False)))
    assert OURS.dumps_typed(again) == typed(value)


def test_nothing_is_imported():
    module, value = "a_module_that_is_not_there", ("os", "system", "exit 3")
    for code in range(6):
        hostile = Stored.of(code, [*value[:2], value[2], "model_validate_json"])
        assert portable.to_json(hostile)["$type"] == "os:system"
        foreign = Stored.of(code, [module, "Thing", {"a": 1}])
        assert OURS.loads_typed(OURS.dumps_typed([foreign])) == [foreign]
    assert module not in sys.modules


def test_a_pickle_is_not_looked_into():
    value = OURS.loads_typed(("pickle", b"cos\nsystem\n."))
    assert value == Opaque("pickle", b"cos\nsystem\n.")
    assert OURS.dumps_typed(value) == ("pickle", value.data)
    assert portable.to_json(value) == {"$opaque": "pickle", "$data": "Y29zCnN5c3RlbQou"}
    assert not portable.is_editable(value)


def test_what_an_extension_hides_is_kept():
    for value in (Stored(2, b"\xc1"), Stored(99, b""), Stored.of(2, "no class"), Stored.of(2, [1, 2, 3])):
        assert portable.from_json(portable.to_json(value)) == value


def test_a_value_that_is_nested_too_deeply_is_refused():
    value = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(InvalidInputError, match="deeply"):
        portable.to_json(value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"$type": "a:b"},
        {"$type": "ab", "$kind": "kwargs", "$value": {}},
        {"$type": "a:b", "$kind": "other", "$value": {}},
        {"$bytes": "no base64!"},
        {"$bytes": "", "more": 1},
        {"$float": "abc"},
        {"$map": [[1, 2], [1, 3]]},
        {"$map": 3},
        {"$unknown": 1},
        {"$delta": {"$bytes": 4}},
    ],
    ids=repr,
)
def test_json_that_means_nothing_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        portable.from_json([wrong])


def edited(value, change):
    old = stored(value)
    found = json.loads(json.dumps(portable.to_json(old)))
    change(found)
    new = portable.from_json(found)
    trials.check_types(old, new)
    return LANGGRAPH.loads_typed(OURS.dumps_typed(new))


def test_objects_keep_their_class():
    def paris(found):
        found["$value"]["capital"] = "Rome"

    def first(found):
        found[0]["$value"]["text"] = "stay"

    def day(found):
        found["$value"] = "2027-02-03T00:00:00+00:00"

    assert edited(Belief(capital="Paris", sure=1), paris) == Belief(capital="Rome", sure=1)
    assert edited([Plan("go", [])], first) == [Plan("stay", [])]
    assert edited(datetime(2026, 1, 1, tzinfo=timezone.utc), day) == datetime(2027, 2, 3, tzinfo=timezone.utc)


def test_an_object_can_become_none_and_go():
    assert edited({"a": UUID(int=1), "b": 1}, lambda found: found.update(a=None)) == {"a": None, "b": 1}
    assert edited({"a": UUID(int=1), "b": 1}, lambda found: found.pop("a")) == {"b": 1}
    assert edited([Plan("a", []), Plan("b", [])], lambda found: found.pop(0)) == [Plan("b", [])]


def test_messages_can_be_added():
    def add(found):
        fields = {"content": "more", "tool_call_id": "c", "id": "2"}
        found.append({"$type": "langchain_core.messages.tool:ToolMessage", "$kind": "pydantic2", "$value": fields})

    assert edited([HumanMessage("a", id="1")], add)[1] == ToolMessage("more", tool_call_id="c", id="2")


def type_of(name):
    return lambda found: found[0].update({"$type": name})


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([Plan("go", [])], type_of("os:system")),
        ([Plan("go", [])], lambda found: found[0]["$value"].pop("text")),
        ([Plan("go", [])], lambda found: found[0].update({"$kind": "args"})),
        ([datetime(2026, 1, 1, tzinfo=timezone.utc)], lambda found: found[0].update({"$value": "tomorrow"})),
        ([UUID(int=1)], lambda found: found[0].update({"$value": "no uuid"})),
        ([HumanMessage("a")], type_of("langchain_core.messages.human:Nobody")),
        ([HumanMessage("a")], type_of("langchain_core.messages.evil:HumanMessage")),
        ([HumanMessage("a")], type_of("langchain_core.messages.ai:AIMessage")),
        ([HumanMessage("a")], lambda found: found[0]["$value"].update(content=5)),
        ([AIMessage("a")], lambda found: found[0]["$value"].update(tool_calls="none")),
        ([HumanMessage("a")], lambda found: found.append({"role": "user", "content": "b"})),
        ([Plan("go", [])], lambda found: found.__setitem__(0, {"text": "go", "steps": []})),
        ({"a": [1, UUID(int=1)]}, lambda found: found["a"].__setitem__(1, str(UUID(int=1)))),
        ([Plan("go", [b"x"])], lambda found: found[0]["$value"].update(steps=["x"])),
        ({"a": {1: 2}}, lambda found: found.update(a={"1": 2})),
    ],
)
def test_what_langgraph_could_not_make_is_refused(value, change):
    with pytest.raises(InvalidInputError):
        edited(value, change)


STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)
UTC_PLUS_1 = timezone(timedelta(hours=1))
TIME = {"hour": 1, "minute": 2, "second": 0, "microsecond": 0, "tzinfo": None, "fold": 0}

# Objects of the standard library, and what their argument may become.
TRIALS = [
    (
        datetime(2026, 1, 1, tzinfo=timezone.utc),
        ["2027-02-03", "2027-02-03T04:05:06+01:00", "tomorrow", "2026-13-01", 5, None, ["x"]],
    ),
    (date(2026, 1, 1), [[2027, 2, 3], [2027, 2, 30], [1], ["a", 1, 1], [2027, 2, 3, 4], 5, {}]),
    (time(1, 2), [{**TIME, "hour": 3}, {**TIME, "hour": 25}, {**TIME, "hour": "x"}, [1], None]),
    (timedelta(1), [[1, 2, 3], [10**10], ["x"], [1.5], [None], 5]),
    (UUID(int=1), [UUID(int=2).hex, "no uuid", "", 5, None]),
    (Decimal("1.5"), ["2.5", "1e99", "NaN", "1,5", "", [], None]),
    (IPv4Address("10.0.0.1"), ["10.0.0.2", "10.0.0.256", "::1", "", None]),
    (IPv4Interface("10.0.0.1/8"), ["10.0.0.2/16", "10.0.0.2/33"]),
    (IPv4Network("10.0.0.0/8"), ["11.0.0.0/8", "11.0.0.1/8"]),
    (IPv6Address("::1"), ["::2", "10.0.0.1", ":::", "x"]),
    (IPv6Interface("::1/64"), ["::2/64", "::2/129"]),
    (IPv6Network("fe80::/64"), ["fe81::/64", "fe80::1/64"]),
    (Path("a/b"), [["a", "c"], ["/", "c"], [], [5], [None], None]),
    (ZoneInfo("Europe/Rome"), ["Europe/Paris", "UTC", "Mars/Phobos", "", "../x", "/etc/passwd", 5, None]),
    ({1}, [[1, 2], [], ["a", None, 1.5], [[1]], [{}], 5, None]),
    (frozenset({1}), [[1, 2], [[1]], [{}]]),
    (deque([1]), [[1, [2], {}], [], 5, None]),
]


@pytest.mark.parametrize(("value", "arguments"), TRIALS, ids=lambda value: type(value).__name__)
def test_trials_agree_with_langgraph(value, arguments):
    """What it makes of an argument is made here too, without calling what the value names."""
    found = {}
    for argument in arguments:
        old = stored(value)
        try:
            made = edited(value, lambda found, argument=argument: found.update({"$value": argument}))
        except InvalidInputError:
            made = None
        again = portable.from_json({**portable.to_json(old), "$value": argument})
        expected = STRICT.loads_typed(OURS.dumps_typed(again))
        found[repr(argument)] = (made, expected if isinstance(expected, type(value)) else None)
    assert {key: repr(made) for key, (made, _) in found.items()} == {key: repr(one) for key, (_, one) in found.items()}
    assert any(made is not None for made, _ in found.values())
    assert any(made is None for made, _ in found.values())


@pytest.mark.parametrize("zone", [UTC_PLUS_1, ZoneInfo("Europe/Rome")])
def test_a_time_with_a_zone(zone):
    assert edited(time(1, tzinfo=zone), lambda found: found["$value"].update(hour=2)) == time(2, tzinfo=zone)
    with pytest.raises(InvalidInputError, match="does not make a valid datetime:time"):
        edited(time(1, tzinfo=zone), lambda found: found["$value"].update(hour=24))


def test_a_zone_of_more_than_a_day_is_refused():
    def shift(hours):
        delta = {"$type": "datetime:timedelta", "$kind": "args", "$value": [0, hours * 3600, 0]}
        return lambda found: found["$value"].__setitem__(0, delta)

    assert edited(UTC_PLUS_1, shift(2)) == timezone(timedelta(hours=2))
    with pytest.raises(InvalidInputError, match="does not make a valid datetime:timezone"):
        edited(UTC_PLUS_1, shift(25))


def test_what_cannot_be_in_a_set_is_refused():
    old = [{1}, deque([1]), HumanMessage("a")]
    for item in range(3):
        with pytest.raises(InvalidInputError, match="does not make a valid builtins:set"):
            edited(old, lambda found, item=item: found[0]["$value"].append(json.loads(json.dumps(found[item]))))
    assert edited([{1}, frozenset({2})], lambda found: found[0]["$value"].append(found[1])) == [
        {1, frozenset({2})},
        frozenset({2}),
    ]


def test_all_that_langgraph_stores_of_the_standard_library_is_tried():
    known = {kind for kind in SAFE_MSGPACK_TYPES if kind[0].partition(".")[0] in sys.stdlib_module_names}
    assert known - trials.STANDARD.keys() == {("re", "compile")}, "which may take any time"


def test_messages_are_merged_as_langgraph_merges_them():
    first, second, third = (HumanMessage(text, id=text) for text in "abc")
    updates = [
        second,
        [HumanMessage("x", id="a"), third],
        [RemoveMessage(id="b")],
        [RemoveMessage(id="__remove_all__"), first],
    ]
    for count in range(len(updates) + 1):
        wanted, found = [first], stored([first])
        for update in updates[:count]:
            wanted, found = add_messages(wanted, update), portable.add_messages(found, stored(update))
        assert found == stored(wanted)
    for odd in ("text", ["text"], {"role": "user", "content": "a"}, stored([HumanMessage("no id")]), stored({1})):
        with pytest.raises(TypeError):
            portable.add_messages([], odd)
