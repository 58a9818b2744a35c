"""Records are the dataclasses that they say they are."""

import copy
import dataclasses
import pickle
from dataclasses import field
from typing import ClassVar, Generic, TypeVar

import pytest

from langgraph_gcs_saver.records import record

T = TypeVar("T")


@record(frozen=True, slots=True)
class Point:
    x: int
    y: int = 0


@record(frozen=True, slots=True)
class Other:
    x: int
    y: int = 0


@record(frozen=True, slots=True, kw_only=True)
class Named(Point, Generic[T]):
    kind: ClassVar[str] = "named"

    name: T
    parts: list[T] = field(default_factory=list)


def test_equal_are_those_of_one_class_with_equal_fields():
    assert Point(1, 2) == Point(1, 2)
    assert hash(Point(1, 2)) == hash(Point(1, 2))
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Other(1, 2)
    assert Point(1, 2) != (1, 2)
    assert Point(1) != Named(1, name="")
    assert len({Point(1), Point(1, 0), Other(1)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Named(1, name="", parts=[]))


@record(frozen=True, slots=True)
class Noted:
    x: int
    note: str = field(default="", compare=False, repr=False)
    mark: str = field(default="", compare=False)


def test_a_field_can_be_left_out():
    assert Noted(1, "a", "b") == Noted(1, "c", "d") != Noted(2, "a", "b")
    assert hash(Noted(1, "a", "b")) == hash(Noted(1, "c", "d"))
    assert repr(Noted(1, "a", "b")) == "Noted(x=1, mark='b')"


def test_the_fields_of_a_base_come_first():
    made = Named(1, 2, name="p", parts=["q"])
    assert made == Named(1, 2, name="p", parts=["q"]) != Named(1, 3, name="p", parts=["q"])
    assert repr(made) == "Named(x=1, y=2, name='p', parts=['q'])"
    with pytest.raises(TypeError, match="positional"):
        Named(1, 2, "p")


def test_they_are_dataclasses():
    assert dataclasses.asdict(Named(1, name="p")) == {"x": 1, "y": 0, "name": "p", "parts": []}
    assert dataclasses.replace(Point(1, 2), x=3) == Point(3, 2)
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_they_have_slots():
    with pytest.raises(AttributeError):
        Point(1).z = 3
    assert not hasattr(Point(1), "__dict__")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_they_can_be_copied_and_sent(again):
    assert again(Named(1, name="p", parts=["q"])) == Named(1, name="p", parts=["q"])
