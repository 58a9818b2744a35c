"""What differs between two states: by channel, id, path and line."""

import difflib
import json
import random
import sys
import tracemalloc
from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Send

from langgraph_gcs_saver.errors import InvalidInputError
from langgraph_gcs_saver.portable import PortableSerializer
from langgraph_gcs_saver.portable.diff import Change, ChannelDiff, Id, compare, differences


def stored(value):
    kind, data = JsonPlusSerializer().dumps_typed(value)
    return PortableSerializer().loads_typed((kind, bytes(data)))


def test_channels():
    assert compare({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5}) == [
        ChannelDiff("a", "removed", (Change((), "removed", 1),)),
        ChannelDiff("c", "changed", (Change((), "changed", 3, 4),)),
        ChannelDiff("d", "added", (Change((), "added", None, 5),)),
    ]
    assert compare({}, {}) == []
    assert compare({"a": stored(_DeltaSnapshot([1]))}, {"a": [1]}) == []


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (1, True, [Change((), "changed", 1, True)]),
        (1, 1.0, [Change((), "changed", 1, 1.0)]),
        (None, 0, [Change((), "changed", None, 0)]),
        (float("nan"), float("nan"), []),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, [Change(("a", "b", 1, "c"), "changed", 2, 3)]),
        ({"a": 1}, {"b": 1}, [Change(("a",), "removed", 1), Change(("b",), "added", None, 1)]),
        ({"a": None}, {}, [Change(("a",), "removed", None)]),
        ([1, 2, 3], [1, 3], [Change((1,), "removed", 2)]),
        ([1, 3], [1, 2, 3], [Change((1,), "added", None, 2)]),
        ([1, 2], [1, True], [Change((1,), "changed", 2, True)]),
        ([], [1], [Change((0,), "added", None, 1)]),
        ([{"a": 1}, 5], [{"a": 2}, 5], [Change((0, "a"), "changed", 1, 2)]),
        ([1], {"a": 1}, [Change((), "changed", [1], {"a": 1})]),
    ],
)
def test_plain_values(before, after, found):
    assert differences(before, after) == found


def messages(*pairs):
    return stored([HumanMessage(text, id=one) for one, text in pairs])


def test_messages_by_their_ids():
    before = messages(("1", "one"), ("2", "two"), ("3", "three"), ("4", "four"))
    after = messages(("4", "four"), ("1", "one"), ("3", "drei"), ("5", "five"))
    assert differences(before, after) == [
        Change((Id("2"),), "removed", before[1]),
        Change((Id("4"),), "moved", 3, 0),
        Change((Id("3"), "content"), "changed", "three", "drei"),
        Change((Id("5"),), "added", None, after[3]),
    ]
    assert differences(before, before) == []


def test_a_message_of_another_class_has_changed():
    before, after = stored([HumanMessage("a", id="1")]), stored([AIMessage("a", id="1")])
    assert differences(before, after) == [Change((Id("1"),), "changed", before[0], after[0])]


def test_messages_without_ids_go_by_place():
    before, after = stored([HumanMessage("a"), HumanMessage("b")]), stored([HumanMessage("a"), HumanMessage("c")])
    assert differences(before, after) == [Change((1, "content"), "changed", "b", "c")]
    twice = stored([HumanMessage("a", id="1"), HumanMessage("b", id="1")])
    assert differences(twice, twice[:1]) == [Change((1,), "removed", twice[1])]


def test_objects():
    assert differences(stored(Send("a", {"x": 1})), stored(Send("a", {"x": 2}))) == [Change((1, "x"), "changed", 1, 2)]
    sets = stored({1, 2}), stored({2, 3})
    assert differences(*sets) == [Change((), "removed", 1), Change((), "added", None, 3)]


def test_an_object_beside_what_changed_is_the_same():
    """It has other bytes around it then."""
    before, after = (stored(Send("a", {"id": UUID(int=7), "x": text})) for text in ("short", "a longer text"))
    assert differences(before, after) == [Change((1, "x"), "changed", "short", "a longer text")]


def test_text_by_line():
    (change,) = differences("a\nb\nc\nd\ne", "a\nb\nC\nd\ne")
    assert change.lines == ["@@ -2,3 +2,3 @@", " b", "-c", "+C", " d"]
    (typed,), (added,) = differences(1, "a"), differences({}, {"a": "b"})
    assert list(typed.lines) == list(added.lines) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["x", "y\nz"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


def exact(value):
    return json.dumps(value, sort_keys=True)


@given(values, values)
def test_a_difference_is_told_exactly_when_there_is_one(before, after):
    assert bool(differences(before, after)) == (exact(before) != exact(after))
    assert differences(before, before) == []


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_any_reordering_is_told(order, gone):
    before = messages(*((str(n), "x") for n in range(6)))
    after = messages(*((str(n), "x") for n in order if n not in gone))
    found = differences(before, after)
    assert {change.path[0].id for change in found if change.kind == "removed"} == {str(n) for n in gone}
    moved = {int(change.path[0].id) for change in found if change.kind == "moved"}
    kept = [n for n in order if n not in gone]
    assert bool(moved) == (kept != sorted(kept))
    stayed = [n for n in kept if n not in moved]
    assert stayed == sorted(stayed)


@pytest.mark.parametrize("nest", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_values_that_are_nested_too_deeply_are_refused(nest):
    before, after = 1, 2
    for _ in range(5000):
        before, after = nest(before), nest(after)
    with pytest.raises(InvalidInputError, match="deeply"):
        differences(before, after)


def test_long_lists_that_grow_are_quick():
    before = list(range(100_000))
    assert differences(before, [*before, 1]) == [Change((100_000,), "added", None, 1)]


def test_lists_of_many_equal_items_are_compared_place_by_place():
    """To look for the longest of all common parts would take hours, and a user of the agent may choose the list."""
    rng = random.Random(1)
    before, after = ([rng.randrange(2) for _ in range(count)] for count in (50_000, 60_000))
    changes = differences([5, *before, 6], [5, *after, 7])
    made = [5, *before, 6]
    for change in changes:
        (place,) = change.path
        if change.kind == "added":
            made.append(change.after)
        else:
            assert (change.kind, made[place]) == ("changed", change.before)
            made[place] = change.after
    assert made == [5, *after, 7]


def test_texts_of_many_equal_lines_are_shown_whole():
    """Each line is a little too rare to be ignored, as lines that are all over a text are."""
    rng = random.Random(1)
    before, after = ("\n".join(str(rng.randrange(120)) for _ in range(60_000)) for _ in range(2))
    lines = differences(f"same\n{before}\nlast", f"same\n{after}\nlast")[0].lines
    assert lines[0].startswith("@@ -2,")
    gone = [line[1:] for line in lines if line.startswith("-")]
    come = [line[1:] for line in lines if line.startswith("+")]
    assert len(gone) == len(come) == len(lines[1:]) / 2
    assert "\n".join(gone) in before
    assert "\n".join(come) in after
    assert len(gone) > 59_000


def test_texts_with_the_same_lines_in_many_places_are_shown_whole():
    """No line is there twice, but each that stayed is a part of its own, searched for among all the others."""
    before, after = ("\n".join(f"{n}\n{name}{n}" for n in range(20_000)) for name in ("was", "is"))
    lines = differences(before, after)[0].lines
    assert lines[0] == "@@ -2,39999 +2,39999 @@"
    assert (lines[1], lines[-1]) == ("-was0", "+is19999")


def test_lists_with_the_same_items_in_many_places_are_compared_place_by_place():
    before, after = ([one for n in range(20_000) for one in (n, f"{name}{n}")] for name in ("was", "is"))
    changes = differences(before, after)
    assert len(changes) == 20_000
    assert changes[-1] == Change((39_999,), "changed", "was19999", "is19999")


def nested(value, levels):
    for _ in range(levels):
        value = [value]
    return value


def test_nested_lists_are_compared_in_little_memory():
    before, after = (nested(["\0" * 200_000, text], 100) for text in ("a", "b"))
    tracemalloc.start()
    try:
        assert [change.path for change in differences(before, after)] == [(0,) * 100 + (1,)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000


def test_nested_lists_are_looked_into_once():
    calls = Counter()

    def count(frame, event, _):
        calls[event] += 1

    before, after = (nested([[n] for n in range(1000)] + [text], 100) for text in ("a", "b"))
    sys.setprofile(count)
    try:
        assert len(differences(before, after)) == 1
    finally:
        sys.setprofile(None)
    assert calls["call"] < 100_000, "and 1000 items at each of 100 levels would be more"


def test_all_searches_of_a_comparison_are_bounded_together():
    before, after = [1, *[0] * 1500, 2], [3, 3, *[0] * 1500, 4]  # matched in 2¼ million steps
    matched = [Change((0,), "changed", 1, 3), Change((1,), "added", None, 3), Change((1502,), "changed", 2, 4)]
    state = dict.fromkeys("abcdefghij", before) | {"z": [1, 2, 3]}
    other = dict.fromkeys("abcdefghij", after) | {"z": [1, 3]}
    found = [list(channel.changes) for channel in compare(state, other)]
    assert found[0] == matched
    assert found[-1] == [Change((1,), "removed", 2)]
    by_place = [changes for changes in found[:-1] if changes != matched]
    assert len(by_place) >= 8
    assert all(changes[1] == Change((1,), "changed", 0, 3) for changes in by_place)


def test_all_searches_in_texts_are_bounded_together():
    before, after = ("\n".join(f"{n}\n{name}{n}" for n in range(1000)) for name in ("was", "is"))
    texts = [dict.fromkeys(range(10), text) for text in (before, after)]
    found = [change.lines for change in differences(*texts)]
    assert found[0][0] == "@@ -1,2000 +1,2000 @@"
    assert [lines[0] for lines in found].count("@@ -2,1999 +2,1999 @@") >= 7


def test_paths_are_bounded_together():
    """A long key would be repeated for each item below it."""
    key = "k" * 100_000
    few = differences({key: [0] * 9}, {key: [1] * 9})
    assert [change.path for change in few] == [(key, n) for n in range(9)]
    before, after = {key: [0] * 1000}, {key: [1] * 1000}
    assert differences(before, after) == [Change((), "changed", before, after)]
    found = compare({"a": before, "b": [1]}, {"a": after, "b": [2]})
    assert [channel.changes for channel in found] == [
        (Change((), "changed", before, after),),
        (Change((0,), "changed", 1, 2),),
    ]


def test_lines_are_those_of_a_unified_diff():
    rng = random.Random(1)
    for _ in range(200):
        before, after = ([rng.choice("abcdef") for _ in range(rng.randrange(12))] for _ in range(2))
        expected = list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
        if "\n".join(before) != "\n".join(after) and before and after:
            assert differences("\n".join(before), "\n".join(after))[0].lines == expected
