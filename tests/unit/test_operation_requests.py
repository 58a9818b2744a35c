"""The digest of a request: equal for what a serializer may return for it, and different for what differs."""

import dataclasses
import datetime as dt
import enum
import itertools
import subprocess
import sys
from decimal import Decimal
from pathlib import PurePosixPath
from typing import NamedTuple
from uuid import UUID

import pytest
from pydantic import BaseModel

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.format.requests import request_digest


class Model(BaseModel):
    a: int
    b: list


@dataclasses.dataclass
class Data:
    a: int
    b: list


class Named(NamedTuple):
    a: int
    b: list


class Color(enum.Enum):
    RED = "red"


class Text(str):
    __slots__ = ()


def digest(request):
    return request_digest(request, "charge")


@pytest.mark.parametrize(
    "request_",
    [
        Model(a=1, b=[2]),
        Data(a=1, b=[2]),
        Named(1, [2]),
        {"b": (2,), "a": 1},
        {"a": 1, "b": [2]},
        {Text("a"): 1, "b": [2]},
    ],
)
def test_equal_requests(request_):
    assert digest(request_) == digest({"a": 1, "b": [2]})


DIFFERENT = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    Decimal(1),
    [],
    [[]],
    {},
    set(),
    ["map"],
    {"map": []},
    {"bytes": "31"},
    {1: 2},
    {"1": 2},
    {True: 2},
    [1, 2],
    [2, 1],
    {1, 2},
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    dt.date(2026, 11, 29),
    dt.datetime(2026, 11, 29, tzinfo=dt.timezone.utc),
    dt.datetime(2026, 11, 29),  # noqa: DTZ001 - one without a zone is another request
    dt.timedelta(1),
    UUID(int=1),
    PurePosixPath("1"),
    "2026-11-29",
]


def test_different_requests():
    assert len({digest(one) for one in DIFFERENT}) == len(DIFFERENT)


def test_the_order_of_sets_and_keys_does_not_matter():
    assert digest({"x", "y", "z"}) == digest({"z", "y", "x"})
    for keys in itertools.permutations("abc"):
        assert digest(dict.fromkeys(keys, 1)) == digest({"a": 1, "b": 1, "c": 1})


def test_an_enum_is_its_value():
    assert digest(Color.RED) == digest("red")


def test_it_is_the_same_in_every_process():
    """A stored digest is compared by later processes, whose hashes of text differ."""
    request = "{'order': 17, 'tags': {'a', 'b', 'c'}, 'cents': 990}"
    code = f"from langgraph_gcs_saver.format.requests import request_digest as d; print(d({request}, 'x'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == digest({"tags": {"c", "b", "a"}, "cents": 990, "order": 17})
    assert found == "b1ea8f5532e8b8c6955ac7a9913122724f46ad1667bcf4b0e2c4c5f0abb3044c"


@pytest.mark.parametrize("part", [object(), lambda: 1, int, iter([])])
def test_other_types_are_rejected_without_their_value(part):
    with pytest.raises(InvalidInputError, match=r"has a value of type \w+ \(request\[…\]\[0\]\)") as caught:
        digest({"secret key": [part]})
    assert "secret" not in str(caught.value)


def test_a_request_that_contains_itself():
    request = []
    request.append(request)
    with pytest.raises(InvalidInputError, match="contains itself"):
        digest(request)


def test_large_integers():
    one, other = request_digest(10**5000, "charge"), request_digest(10**5000 + 1, "charge")
    assert len({one, other, request_digest({"int": hex(10**5000)}, "charge")}) == 3
