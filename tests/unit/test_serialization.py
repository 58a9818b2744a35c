import json
import pickle
import threading
import traceback
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item
from langgraph.types import Command, Interrupt, Send
from pydantic import BaseModel

from langgraph_gcs_saver.errors import SerializationError
from langgraph_gcs_saver.format.manifest import Serialized
from langgraph_gcs_saver.format.serialization import dumps, loads
from langgraph_gcs_saver.portable import refusals

SERDE = JsonPlusSerializer()


class Serde:
    """Gives the answer that it was made with, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    def dumps_typed(self, value):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def loads_typed(self, data):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("value", [None, b"", b"x", "x", 5, [1, [2]], {"a": {1, 2}}, bytearray(b"x")], ids=repr)
def test_round_trip(value):
    found = dumps(SERDE, value, "x")
    assert type(found.data) is bytes
    assert loads(SERDE, found) == value
    assert type(loads(SERDE, found)) is type(value)


def test_none_and_empty_bytes_differ():
    assert dumps(SERDE, None, "x") != dumps(SERDE, b"", "x")


def test_a_bytearray_is_copied():
    """Its owner may change it while it is uploaded."""
    live = bytearray(b"before")
    found = dumps(SERDE, live, "x")
    live[:] = b"after!"
    assert found.data == b"before"
    view = memoryview(live)
    assert dumps(Serde(("view", view)), object(), "x") == Serialized("view", b"after!")


class Secret:
    """Nothing of it may be in a message."""

    def __repr__(self):
        return "hunter2"


def test_errors_name_what_and_the_type_never_the_content():
    failure = ValueError("hunter2")
    with pytest.raises(SerializationError) as caught:
        dumps(Serde(failure), Secret(), "The value of channel 'a'")
    text = str(caught.value)
    assert text.startswith(
        "The value of channel 'a' cannot be serialized by Serde: ValueError, for a value of type Secret."
    )
    assert "hunter2" not in text
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(SerializationError) as caught:
        loads(Serde(failure), Serialized("json", b"hunter2"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "'json'" in str(caught.value)
    assert "intact" in str(caught.value)


@pytest.mark.parametrize(
    "answer", [("t", "text"), ("t", None), ("t",), None, 5, ("t", b"", 1), RecursionError()], ids=repr
)
def test_a_serialiser_that_answers_nonsense(answer):
    with pytest.raises(SerializationError):
        dumps(Serde(answer), 1, "x")


@pytest.mark.parametrize("failure", [MemoryError(), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_what_is_not_about_the_value_passes(failure):
    with pytest.raises(type(failure)):
        dumps(Serde(failure), 1, "x")
    with pytest.raises(type(failure)):
        loads(Serde(failure), Serialized("json", b""))


def test_a_value_that_langgraph_cannot_serialise():
    with pytest.raises(SerializationError, match="type Unserialisable"):
        dumps(SERDE, Unserialisable(), "x")


class Unserialisable:
    def __reduce__(self):
        raise TypeError("no")

    def __repr__(self):
        return "".join(traceback.format_stack())


# Why and where


def told(serde, value):
    """What the error says of the reason and the place; nothing in it, or in what led to it, shows a value."""
    with pytest.raises(SerializationError) as caught:
        dumps(serde, value, "It")
    assert caught.value.__cause__ is caught.value.__context__ is None
    text = str(caught.value)
    assert "hunter2" not in text
    head, tail = f"It cannot be serialized by {type(serde).__name__}: ", ". Remove such values"
    assert text.startswith(head)
    assert tail in text
    return text[len(head) : text.index(tail)]


class Odd:
    """What can be a key, and what no serializer takes."""

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return self is other

    def __repr__(self):
        return "hunter2"

    def __reduce__(self):
        raise TypeError("hunter2")


@dataclass
class Plan:
    steps: Any
    note: str = "hunter2"


class Model(BaseModel, extra="allow"):
    told: Any
    note: str = "hunter2"


Pair = namedtuple("Pair", "left right")  # noqa: PYI024 - fields of any type
BIG = 1 << 70
TOO_BIG = "TypeError: Integer exceeds 64-bit range, for a value of type int"
UNKNOWN = "TypeError: Type is not msgpack serializable, for a value of type Odd"


def item(value):
    return Item(value=value, key="k", namespace=("n",), created_at="2020-01-01", updated_at="2020-01-01")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"n": BIG}, f"{TOO_BIG} at [item 0]"),
        (BIG, TOO_BIG),
        ([1, "hunter2", {"a": [(0, -BIG)]}, BIG], f"{TOO_BIG} at [2][item 0][0][1]"),
        ({"hunter2": ["hunter2", Odd()]}, f"{UNKNOWN} at [item 0][1]"),
        (OrderedDict(a=1, b=deque([1, Odd()])), f"{UNKNOWN} at [item 1][1]"),
        ({55501: {None: {True: {1.5: Odd()}}}}, f"{UNKNOWN} at {'[item 0]' * 4}"),
        ({b"hunter2": {("hunter2",): Odd()}}, f"{UNKNOWN} at [item 0][item 0]"),
        ([{1, Odd()}], f"{UNKNOWN} at [0]{{…}}"),
        (frozenset([Odd()]), f"{UNKNOWN} at {{…}}"),
        (Plan([1, BIG]), f"{TOO_BIG} at .steps[1]"),
        ([Model(told={"a": Model(told=1, more=[Odd()])})], f"{UNKNOWN} at [0].told[item 0][item 2][0]"),
        (Pair("hunter2", {"a": Odd()}), f"{UNKNOWN} at .right[item 0]"),
        (
            [AIMessage("hunter2"), AIMessage("x", additional_kwargs={"k": BIG})],
            f"{TOO_BIG} at [1].additional_kwargs[item 0]",
        ),
        (Send("hunter2", {"a": Odd()}), f"{UNKNOWN} at .arg[item 0]"),
        (Command(update={"a": Odd()}), f"{UNKNOWN} at .update[item 0]"),
        (Interrupt(value=[Odd()]), f"{UNKNOWN} at .value[0]"),
        (item({"a": Odd()}), f"{UNKNOWN} at .value[item 0]"),
        (_DeltaSnapshot(["hunter2", Odd()]), f"{UNKNOWN} at .value[1]"),
        ([Odd], "TypeError: Type is not msgpack serializable, for a value of type type at [0]"),
        ([Plan], "TypeError: Type is not msgpack serializable, for a value of type type at [0]"),
        ({"hunter2\x1b[31m\u202e\ud800": Odd()}, f"{UNKNOWN} at [item 0]"),
        ({"hunter2": 1, "hunter2" * 1000: Odd()}, f"{UNKNOWN} at [item 1]"),
        (Model(told=1, hunter2=Odd()), f"{UNKNOWN} at [item 2]"),
    ],
    ids=range(23),
)
def test_the_reason_and_the_place(value, says):
    assert told(SERDE, value) == says


@pytest.mark.parametrize(
    ("value", "kind", "place"),
    [
        ({Odd(): 1}, "Odd", "[item 0]"),
        ([{"a": 1, "b": {"c": 1, frozenset(["hunter2"]): 1}}], "frozenset", "[0][item 1][item 1]"),
        ({("hunter2", Odd()): 1}, "tuple", "[item 0]"),
        ({BIG: 1}, "int", "[item 0]"),
        ({10**6000: 1}, "int", "[item 0]"),
        ({"hunter2\ud800": 1}, "str", "[item 0]"),
    ],
    ids=range(6),
)
def test_keys(value, kind, place):
    reason, what = told(SERDE, value).split(", for ")
    assert reason.split(": ")[1] in (
        "Dict key must a type serializable with OPT_NON_STR_KEYS",
        "Integer exceeds 64-bit range",
        "string contains surrogates",
    )
    assert what == f"a key of type {kind} at {place}"


def cycles():
    one = ["hunter2"]
    one.append(one)
    other = {"a": 1}
    other["self"] = {"x": ({"y": other},)}
    plan = Plan(1)
    plan.steps = [plan]
    model = Model(told=1)
    model.told = {"a": model}
    return [
        (one, "list at [1]"),
        ({"k": one}, "list at [item 0][1]"),
        (other, "dict at [item 1][item 0][0][item 0]"),
        (plan, "Plan at .steps[0]"),
        (model, "Model at .told[item 0]"),
    ]


@pytest.mark.parametrize(("value", "place"), cycles(), ids=range(5))
def test_what_contains_itself(value, place):
    assert told(SERDE, value).endswith(f", for a value of type {place}, which contains itself")


@pytest.mark.parametrize("depth", [300, 20_000])
def test_what_is_nested_too_deeply(depth):
    value = ["hunter2"]
    for _ in range(depth):
        value = [value]
    says = told(SERDE, {"a": value})
    assert says.startswith("TypeError: Recursion limit reached, for a value of type list at [item 0][0][0]")
    assert "more" in says
    assert len(says) < 200


class Json:
    """A serializer of a user's own."""

    def dumps_typed(self, obj):
        return "json", json.dumps(obj, allow_nan=False).encode()


class Pickle:
    """Another one."""

    def dumps_typed(self, obj):
        return "pickle", pickle.dumps(obj)


class Quotes(Json):
    """Its exceptions show values, in the words of LangGraph's serializer."""

    def dumps_typed(self, obj):
        try:
            return super().dumps_typed(obj)
        except TypeError:
            raise TypeError("Type is not msgpack serializable: hunter2") from ValueError("hunter2")


@pytest.mark.parametrize(
    ("serde", "value", "says"),
    [
        (Json(), {"a": [1, {2}]}, "TypeError: is not JSON serializable, for a value of type set at [item 0][1]"),
        (Json(), {"a": {(1,): 1}}, "TypeError: keys must be str, int, float, bool or None, for a key of type tuple"),
        (
            Json(),
            [float("nan")],
            "ValueError: Out of range float values are not JSON compliant, for a value of type float",
        ),
        (Json(), [Plan(Odd())], "TypeError: is not JSON serializable, for a value of type Odd at [0].steps"),
        (Pickle(), {"a": [threading.Lock()]}, "TypeError: cannot pickle, for a value of type lock at [item 0][0]"),
        (Pickle(), {"a": [Odd()]}, "TypeError, for a value of type Odd at [item 0][0]"),
        (
            Quotes(),
            {"a": [Odd()]},
            "TypeError: Type is not msgpack serializable, for a value of type Odd at [item 0][0]",
        ),
        (JsonPlusSerializer(pickle_fallback=True), [lambda: 1], "PicklingError: Can't"),
    ],
    ids=range(8),
)
def test_any_serializer(serde, value, says):
    assert told(serde, value).startswith(says)


class Hostile(dict):
    """Its own code fails, but not what a serializer reads of it."""

    def __iter__(self):
        raise KeyError("hunter2")

    __len__ = __bool__ = items = values = keys = __iter__


def test_code_of_the_value_does_not_stop_the_error():
    assert told(SERDE, [Hostile(a=Odd())]).endswith(" at [0][item 0]")

    class Unready:
        __fields__ = ()

        @property
        def __dict__(self):
            raise KeyError("hunter2")

    assert told(SERDE, [Unready()]).endswith(" at [0]")

    class TextError(Exception):
        def __str__(self):
            raise ValueError("hunter2")

    assert told(Serde(TextError("hunter2")), 5) == "TextError, for a value of type int"


def test_the_search_is_bounded(monkeypatch):
    """The place is found in long lists with few tries, and what takes too many ends where the search is."""
    calls = []

    class Counting(JsonPlusSerializer):
        def dumps_typed(self, obj):
            calls.append(1)
            return super().dumps_typed(obj)

    dumps(Counting(), ["x"], "It")
    assert len(calls) == 1
    long = {"a": [*range(50_000), {"b": Odd()}, *range(50_000)]}
    assert told(Counting(), long) == f"{UNKNOWN} at [item 0][50000][item 0]"
    assert len(calls) < 50
    calls.clear()
    monkeypatch.setattr(refusals, "_TRIES", 5)
    assert told(Counting(), long).endswith("for a value of type list at [item 0]")
    assert len(calls) == 6


def test_the_search_takes_bounded_time(monkeypatch):
    """Each part of a deep value may hold all of a large one: trying a thousand of them could take minutes."""
    clock = [0.0]

    class Slow(JsonPlusSerializer):
        def dumps_typed(self, obj):
            clock[0] += 1
            return super().dumps_typed(obj)

    monkeypatch.setattr("time.thread_time", lambda: clock[0])
    value = [b"large", Odd()]
    for _ in range(100):
        value = [value]
    assert "] … " not in told(Slow(), value)
    assert clock[0] < 5


def test_iterators_of_a_value_may_be_endless():
    class Endless(list):
        def __iter__(self):
            return iter(int, 1)

    assert told(SERDE, {"a": Endless([1, Odd()])}) == f"{UNKNOWN} at [item 0][1]"
