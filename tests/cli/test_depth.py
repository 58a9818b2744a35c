"""Values that are nested deeply: time and text of commands are in proportion to the value, not to its depth as well."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_gcs_saver.cli.commands.checkpoint import json_of, readable
from langgraph_gcs_saver.cli.commands.edit import _text
from langgraph_gcs_saver.cli.views.terminal import indented_json
from langgraph_gcs_saver.portable import PortableSerializer
from tests.cli.stored import put

DEPTH, WIDTH = 200, 10_000


def nested(value, around):
    for _ in range(DEPTH):
        value = around(value)
    return value


COMMANDS = (
    ("show", "t"),
    ("show", "t", "--json"),
    ("report", "t", "-o", "-"),
    ("diff", "t", "000001"),
    ("diff", "t", "000001", "--json"),
    ("edit", "t", "--channel", "x", "--set", "{}", "--dry-run"),
)


@pytest.mark.parametrize("store_uri", ["local"], indirect=True)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("around", [lambda value: {"a": value}, lambda value: {1: value}, lambda value: [value]])
def test_commands_on_values_that_are_nested_deeply(around, arguments, make_saver, command):
    """A value that is looked at twice at each level would take 2 ** 200."""
    saver = make_saver(serde=PortableSerializer())
    first = put(saver, {"x": nested(["a", *[None] * WIDTH], around)})
    put(saver, {"x": nested(["b", *[None] * WIDTH], around)}, number=2, parent=first)
    ended = command(*arguments)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out
    assert len(ended.out) < 200 * WIDTH


def test_keys_that_json_has_one_word_for_are_told_apart():
    assert readable({1: "a", "1": "b", b"x": 2}) == {"<map>": [[1, "a"], ["1", "b"], ["<1 bytes>", 2]]}
    assert readable({1: "a", "x": "b", b"x": 2}) == {"1": "a", "x": "b", "'<1 bytes>'": 2}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner)
    ),
)


@given(values, st.booleans())
def test_json_is_indented(value, ensure_ascii):
    expected = json.dumps(value, indent=2, ensure_ascii=ensure_ascii)
    assert indented_json(value, ensure_ascii=ensure_ascii) == expected


@pytest.mark.parametrize("text_of", [indented_json, _text, lambda value: json_of(value, indented=True)])
@pytest.mark.parametrize("around", [lambda value: [value], lambda value: {"a": value}])
def test_json_that_is_nested_deeply_is_not_indented_all_the_way(around, text_of):
    value = nested(list(range(WIDTH)), around)
    text = text_of(value)
    assert json.loads(text) == value
    assert "\n" + "  " * 20 in text
    assert "\n" + "  " * 21 not in text
    assert len(text) < 10 * WIDTH


def test_text_for_an_editor_has_nothing_that_acts_on_a_terminal():
    value = {"a\x1b": ["one\ntwo\u2028", "Zürich \u202e", {"\x9b": "\U0001f600"}]}
    text = _text(value)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "Zürich" in text
    assert json.loads(text) == value
    assert text.endswith("}\n")
