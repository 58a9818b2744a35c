import traceback

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_gcs_saver.errors import SerializationError
from langgraph_gcs_saver.manifest import Serialized
from langgraph_gcs_saver.serialization import dumps, loads

SERDE = JsonPlusSerializer()


class Serde:
    """Answers as it is told to, or raises."""

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
        "The value of channel 'a' cannot be serialised by Serde: ValueError for a value of type Secret"
    )
    assert "hunter2" not in text
    assert caught.value.__cause__ is None
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(SerializationError) as caught:
        loads(Serde(failure), Serialized("json", b"hunter2"))
    assert "hunter2" not in str(caught.value)
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
