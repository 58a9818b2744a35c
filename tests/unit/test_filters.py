import enum
import math

import pytest
from hypothesis import assume, example
from hypothesis import strategies as st

from langgraph_gcs_saver.format import filters
from langgraph_gcs_saver.stores.values import from_fields, to_map
from tests.unit.fuzz import fuzz


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


class Count(int):
    pass


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, (1 << 63) - 1, 1 << 63, -(1 << 63), -(1 << 63) - 1, True, 1.0, 0.0, -0.0])
    | st.floats()
    | st.text(max_size=300)
    | st.sampled_from([*Colour, *Level, Count(3), "é" * 128, "é" * 129, "\ud800", "loop", "input"])
)
key_names = st.sampled_from(["step", "source", "run_id", "__x__", "a.b", "", "é", "x" * 100, "x" * 101]) | st.text(
    max_size=6
)
metadata = st.dictionaries(key_names, scalars | st.lists(scalars, max_size=2), max_size=6)


def firestore_equal(found, asked):
    """How Firestore compares: numbers by value, whatever their type; types otherwise apart."""
    kinds = [bool if isinstance(v, bool) else float if isinstance(v, (int, float)) else type(v) for v in (found, asked)]
    return kinds[0] is kinds[1] and found == asked


def firestore_finds(known, where, clear=None):
    document = {"filter": filters.index(known, clear)}
    if isinstance(known.get("run_id"), str):  # as `Put.run_id` says
        document["run_id"] = known["run_id"]
    document = from_fields(to_map(document).fields)
    for path, asked in where:
        value = document
        for part in path.split("."):
            if part not in value:
                return False
            value = value[part]
        if not firestore_equal(value, asked):
            return False
    return True


@fuzz(metadata, metadata, examples=200)
@example({"step": 1}, {"step": 1.0})
@example({"step": 1.0}, {"step": True})
@example({"source": Colour.RED}, {"source": "red"})
@example({"run_id": "r"}, {"run_id": "r"})
@example({"a": None}, {"a": None})
@example({}, {"a": None})
def test_firestore_never_hides_what_matches(known, wanted):
    """The query may find too much, which the client filters; never too little."""
    assume(known.get("run_id") != "\ud800")  # refused by `put`
    for asked in (wanted, dict(list(known.items())[:2]), known):
        if filters.matches(known, asked):
            assert firestore_finds(known, filters.where(asked))


@fuzz(metadata)
def test_what_is_indexed_is_plain_and_fits_firestore(known):
    found = filters.index(known)
    assert set(found) <= set(known)
    assert "run_id" not in found
    for key, value in found.items():
        assert type(value) in (bool, int, float, str)
        assert value == known[key]
        assert len(str(value).encode()) <= 400
    to_map({"filter": found})  # raises for what Firestore cannot hold


@pytest.mark.parametrize(
    "value", [None, [], {}, (), b"x", 1 << 63, math.nan, math.inf, "x" * 257, "é" * 129, "\ud800", ...], ids=repr
)
def test_what_is_not_indexed_is_not_asked_for(value):
    assert filters.index({"a": value}) == {}
    assert filters.where({"a": value}) == ()


@pytest.mark.parametrize("key", ["", "a.b", "__x__", "a b", "é", "1", "x" * 101, 5, None, ("a",)])
def test_odd_keys_are_left_to_the_client(key):
    assert filters.index({key: 1}) == {}
    assert filters.where({key: 1}) == ()
    assert filters.matches({key: 1}, {key: 1})


def test_where_names_the_fields():
    assert filters.where({"step": 1, "run_id": "r", "source": Colour.RED}) == (
        ("filter.step", 1),
        ("run_id", "r"),
        ("filter.source", "red"),
    )
    assert type(filters.where({"source": Colour.RED})[0][1]) is str
    assert filters.where(None) == filters.where({}) == ()


@pytest.mark.parametrize(
    ("found", "wanted", "equal"),
    [
        (1, 1, True),
        (1, 1.0, True),
        (1, True, False),
        (True, 1, False),
        (False, 0, False),
        (True, True, True),
        (None, None, True),
        (None, 0, False),
        (None, False, False),
        ("1", 1, False),
        ("", None, False),
        (math.nan, math.nan, False),
        ([1, {"a": 2}], [1, {"a": 2}], True),
        ({"a": 1}, {"a": 2}, False),
    ],
    ids=repr,
)
def test_equal(found, wanted, equal):
    assert filters.matches({"k": found}, {"k": wanted}) is equal


@fuzz(metadata, metadata, st.frozensets(key_names))
def test_only_names_in_the_clear_are_indexed_and_asked_for(known, wanted, clear):
    """With a cipher. Names in a query must be indexed, or Firestore hides checkpoints that match."""
    assume(known.get("run_id") != "\ud800")
    found = filters.index(known, clear)
    assert found == {key: value for key, value in filters.index(known).items() if key in clear}
    for asked in (wanted, known):
        where = filters.where(asked, clear)
        assert {path.removeprefix("filter.") for path, _ in where} <= clear
        assert set(where) <= set(filters.where(asked))
        if filters.matches(known, asked):
            assert firestore_finds(known, where, clear)


def test_the_size_of_an_index_is_what_firestore_counts():
    assert filters.size({}) == 0
    assert filters.size({"step": 1, "on": True}) == len("step") + 9 + len("on") + 9
    assert filters.size({"name": "é" * 10}) == len("name") + 9 + 20
    assert filters.MAX_BYTES == 256 << 10


@pytest.mark.parametrize("run", [5, None, True, ["r"], Level.ONE], ids=repr)
def test_a_run_id_that_is_no_text_is_left_to_the_client(run):
    assert filters.where({"run_id": run}) == ()
    assert filters.matches({"run_id": run}, {"run_id": run})


def test_matches_every_key_and_a_missing_key_never():
    assert filters.matches({"a": 1, "b": 2}, {"a": 1, "b": 2})
    assert not filters.matches({"a": 1, "b": 2}, {"a": 1, "b": 3})
    assert not filters.matches({"a": 1}, {"b": None})
    assert filters.matches({"a": 1}, {})
    assert filters.matches({}, None)
