"""Patterns of namespaces: which graphs each of them matches, which one decides, and which are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_gcs_saver.errors import InvalidInputError, InvalidOptionError
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.policy.namespaces import ByNamespace, nodes_of, pattern_of
from langgraph_gcs_saver.policy.retention import KeepLast, PerNamespace, Row, decide

TASK = "1c5a4b0e-6d8f-5c57-9c2b-0d6b0b6f3a11"


@pytest.mark.parametrize(
    ("ns", "nodes"),
    [
        ("", ()),
        (f"extract:{TASK}", ("extract",)),
        ("extract", ("extract",)),
        (f"extract:{TASK}|inner:{TASK}", ("extract", "inner")),
        (f"extract|inner:{TASK}", ("extract", "inner")),
        (f"extract:{TASK}|1", ("extract",)),
        (f"extract:{TASK}|12|inner:{TASK}|3", ("extract", "inner")),
        (f"7:{TASK}", ("7",)),
        ("7", ("7",)),
        (f"two words:{TASK}", ("two words",)),
    ],
)
def test_the_nodes_that_a_namespace_names(ns, nodes):
    assert nodes_of(ns) == nodes
    assert pattern_of(ns) == "|".join(nodes)


PATTERNS = {"": 0, "extract": 1, "extract|*": 2, "extract|inner": 3, "extract|inner|*": 4, "*": 5}


@pytest.mark.parametrize(
    ("ns", "value", "without"),
    [
        ("", 0, 5),
        ("extract:t", 1, 2),
        ("extract:t|1", 1, 2),
        ("extract", 1, 2),
        ("extract:t|other:t", 2, 5),
        ("extract:t|inner:t", 3, 4),
        ("extract|inner", 3, 4),
        ("extract:t|inner:t|deep:t", 4, 2),
        ("extractor:t", 5, None),
        ("summary:t", 5, None),
    ],
)
def test_the_most_specific_pattern_decides(ns, value, without):
    """`without` is what decides once the first pattern is gone."""
    assert ByNamespace.parse(PATTERNS, None).of(ns) == value
    left = {pattern: one for pattern, one in PATTERNS.items() if one != value}
    assert ByNamespace.parse(left, None).of(ns) == without


def matches(pattern, nodes):
    """The definition: the same nodes, or with `*` those and any number of others."""
    parts = pattern.split("|") if pattern else []
    if parts[-1:] == ["*"]:
        return nodes[: len(parts) - 1] == tuple(parts[:-1])
    return nodes == tuple(parts)


names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, max_size=4)
patterns = st.builds(lambda path, star: "|".join([*path, *star]), paths, st.sampled_from([[], ["*"]]))


@given(st.sets(patterns), paths, st.booleans())
def test_it_is_the_longest_of_those_that_match(given_patterns, path, is_stateful):
    ns = "|".join(name if is_stateful else f"{name}:{TASK}" for name in path)
    fitting = [one for one in given_patterns if matches(one, tuple(path))]
    # A pattern without a star names all of the nodes. Of two that match, none is as long as the other.
    best = max(fitting, key=lambda one: (not one.endswith("*"), one.count("|"), len(one)), default="none")
    assert ByNamespace.parse({one: one for one in given_patterns}, "none").of(ns) == best


BAD = ["*|inner", "extract|*|inner", "**", "ex*", "extract|", "|extract", "a||b", "7", "a|1", f"extract:{TASK}", "a:*"]


@pytest.mark.parametrize("option", ["inline_max_bytes", "verify", "retention"])
@pytest.mark.parametrize("pattern", [*BAD, 5, None, ("a",)])
def test_what_is_no_pattern(option, pattern):
    value = {"inline_max_bytes": 0, "verify": "off", "retention": KeepLast(1)}[option]
    Options(**{option: {"extract|*": value}})
    with pytest.raises(InvalidInputError, match="pattern of namespaces"):
        Options(**{option: {"": value, pattern: value}})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("inline_max_bytes", -1),
        ("inline_max_bytes", "8"),
        ("inline_max_bytes", None),
        ("verify", "on"),
        ("verify", None),
        ("verify", {"a": "off"}),
        ("retention", 5),
        ("retention", KeepLast),
        ("retention", {"a": KeepLast(1)}),
    ],
)
def test_values_that_are_none(option, value):
    with pytest.raises(InvalidOptionError):
        Options(**{option: {"extract": value}})


@pytest.mark.parametrize("option", ["max_threads", "on_corruption", "writers", "full_every", "cache_max_bytes"])
def test_other_options_are_the_same_in_all_namespaces(option):
    with pytest.raises(InvalidOptionError):
        Options(**{option: {"*": getattr(Options(), option)}})


def test_the_mapping_is_copied():
    rules = {"": KeepLast(2)}
    options = Options(retention=rules, verify={"a": "off"}, inline_max_bytes={})
    rules["*"] = KeepLast(1)
    assert options.retention == {"": KeepLast(2)}
    assert options.by_namespace("verify").of("a:t") == "off"
    assert options.by_namespace("verify").of("") == "readback"
    assert options.by_namespace("inline_max_bytes").of("a") == Options().inline_max_bytes
    assert Options().by_namespace("verify") is None


def rows(ns, count):
    return [Row(name=f"{ns}#{n}", ns=ns, checkpoint_id=f"{n:04}") for n in range(1, count + 1)]


def test_retention():
    rule = PerNamespace.parse({"": KeepLast(2), "extract|*": KeepLast(1), "extract|audit": None})
    found = [*rows("", 4), *rows("extract", 4), *rows("extract|inner", 3), *rows("extract|audit", 3), *rows("own", 3)]
    kept = [one.row.name for one in decide(found, rule, 0.0) if one.reason is not None]
    # Stateful subgraphs also keep what the kept root checkpoints, 3 and 4, resume from.
    assert sorted(name for name in kept if name.startswith("#")) == ["#3", "#4"]
    assert sorted(name for name in kept if name.startswith("extract#")) == ["extract#2", "extract#3", "extract#4"]
    assert sorted(name for name in kept if name.startswith("extract|inner#")) == ["extract|inner#2", "extract|inner#3"]
    assert sum(name.startswith("extract|audit#") for name in kept) == 3
    assert sum(name.startswith("own#") for name in kept) == 3
    reasons = {one.row.name: one.reason for one in decide(found, rule, 0.0)}
    assert reasons["own#1"] == "no rule for its namespace"


def test_retention_is_combined_with_other_rules():
    rule = PerNamespace.parse({"extract": KeepLast(1)}) | KeepLast(2)
    call = {"root_id": "0001"}
    found = [*rows("", 4), *[Row(name=f"e{n}", ns="extract:t", checkpoint_id=f"{n:04}", **call) for n in (1, 2, 3)]]
    kept = {one.row.name for one in decide(found, rule, 0.0) if one.reason is not None}
    assert kept == {"#1", "#2", "#3", "#4", "e3", "e2"}
    assert not rule.keeps([], 0.0)
