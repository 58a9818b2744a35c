"""Which checkpoints retention keeps: each rule, rules together, and what no rule can drop."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_gcs_saver.errors import InvalidOptionError
from langgraph_gcs_saver.format.holds import Hold
from langgraph_gcs_saver.policy.retention import (
    AnyOf,
    Decision,
    KeepEvery,
    KeepFor,
    KeepLast,
    Row,
    decide,
    decide_for_runs,
    holds_on,
    lost_ancestors,
)
from langgraph_gcs_saver.results import PrunePlan

NOW = 1_000_000.0
HOUR = 3600.0
SET = Hold("set", "T", "s")
SAVEPOINT = Hold("savepoint", "trip", "before")


def row(n, ns="", **more):
    return Row(name=f"{ns}#{n}", ns=ns, checkpoint_id=f"{n:04}", **more)


def line(count, *, every=HOUR, **more):
    """A line of checkpoints, the newest of now."""
    return [
        row(n, parent_id=f"{n - 1:04}" if n > 1 else None, time=NOW - (count - n) * every, **more)
        for n in range(1, count + 1)
    ]


def kept(rows, rule, now=NOW):
    """Numbers, or namespaces and numbers, of what is kept, oldest first."""
    names = sorted(one.row.name for one in decide(rows, rule, now) if one.reason is not None)
    return [int(name[1:]) for name in names] if all(name.startswith("#") for name in names) else names


def reasons(rows, rule, now=NOW):
    return {one.row.name: one.reason for one in decide(rows, rule, now)}


# Rules


@pytest.mark.parametrize(("count", "expected"), [(1, [6]), (3, [4, 5, 6]), (6, [*range(1, 7)]), (99, [*range(1, 7)])])
def test_keep_last(count, expected):
    assert kept(line(6), KeepLast(count)) == expected
    assert reasons(line(6), KeepLast(count))["#6"] == "the latest"
    if count > 1:
        assert reasons(line(6), KeepLast(count))["#5"] == f"one of the last {count}"


def test_keep_last_counts_each_namespace():
    rows = [*line(3), *(replace(one, ns="a:1", name=f"a{one.name}", root_id="0003") for one in line(5))]
    assert kept(rows, KeepLast(2)) == ["#2", "#3", "a#4", "a#5"]


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (timedelta(seconds=1), [6]),
        (timedelta(hours=1), [6]),  # not older than: younger than
        (timedelta(hours=1, seconds=1), [5, 6]),
        (timedelta(hours=3.5), [3, 4, 5, 6]),
        (timedelta.max, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_keep_for(time, expected):
    assert kept(line(6), KeepFor(time)) == expected


def test_keep_for_looks_at_the_clock():
    assert kept(line(6), KeepFor(timedelta(hours=2.5)), now=NOW) == [4, 5, 6]
    assert kept(line(6), KeepFor(timedelta(hours=2.5)), now=NOW + HOUR) == [5, 6]
    assert kept(line(6), KeepFor(timedelta(hours=2.5)), now=NOW + 100 * HOUR) == [6]
    # A clock that went back.
    assert kept(line(6), KeepFor(timedelta(hours=1)), now=NOW - 100 * HOUR) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("times", "interval", "expected"),
    [
        # Intervals begin at the epoch, not at the first checkpoint.
        ([0, 1, 9, 10, 11, 29, 30], 10, [3, 5, 6, 7]),
        ([9.5, 10.5], 10, [1, 2]),
        ([10.5, 19.5], 10, [2]),
        ([0, 100, 200], 10_000, [3]),
        ([0.0, 0.1, 0.25], 0.1, [1, 2, 3]),
    ],
)
def test_keep_every(times, interval, expected):
    rows = [row(n, time=float(time)) for n, time in enumerate(times, 1)]
    assert kept(rows, KeepEvery(timedelta(seconds=interval))) == expected


def test_keep_every_takes_the_newest_by_id():
    """Threads are copied, and clocks differ. So the id decides which checkpoint is newer."""
    rows = [row(1, time=19), row(2, time=11), row(3, time=15), row(4, time=30)]
    assert kept(rows, KeepEvery(timedelta(seconds=10))) == [3, 4]


def test_rules_together():
    rows = line(48)
    rule = KeepLast(2) | KeepFor(timedelta(hours=3.5)) | KeepEvery(timedelta(days=1))
    assert rule == AnyOf((KeepLast(2), KeepFor(timedelta(hours=3.5)), KeepEvery(timedelta(days=1))))
    expected = set().union(*(kept(rows, part) for part in rule.rules))
    assert set(kept(rows, rule)) == expected
    assert len(expected) == 6
    # The reason is the first rule that keeps the checkpoint.
    found = reasons(rows, rule)
    assert found["#47"] == "one of the last 2"
    assert found["#46"] == f"younger than {timedelta(hours=3.5)}"
    assert [reason for reason in found.values() if reason == f"the newest within {timedelta(days=1)}"]


def test_rules_are_combined_in_any_grouping():
    a, b, c = KeepLast(1), KeepLast(2), KeepFor(timedelta(days=1))
    assert (a | b) | c == a | (b | c) == AnyOf((a, b, c))
    assert hash(a | b) == hash(a | b)


@pytest.mark.parametrize("make", [KeepFor, KeepEvery])
@pytest.mark.parametrize("time", [timedelta(), -timedelta(seconds=1), 5, None, "1h"], ids=repr)
def test_times_that_are_none(make, time):
    with pytest.raises(InvalidOptionError, match=make.__name__):
        make(time)


@pytest.mark.parametrize("count", [0, -1, True, 1.0, "3", None], ids=repr)
def test_counts_that_are_none(count):
    with pytest.raises(InvalidOptionError, match="KeepLast"):
        KeepLast(count)


def test_a_rule_of_the_users_own():
    class Even:
        def keeps(self, rows, now):
            assert [one.checkpoint_id for one in rows] == ["0005", "0004", "0003", "0002", "0001"]
            return {one.name: "even" for one in rows if int(one.checkpoint_id) % 2 == 0}

    assert kept(line(5), Even()) == [2, 4, 5]
    assert kept(line(5), KeepLast(2) | Even()) == [2, 4, 5]


# What no rule drops


def test_without_a_rule_nothing_stays():
    rows = [*line(3), row(9, ns="a", pin="x", is_interrupted=True)]
    assert kept(rows, None) == []
    assert [one.row.name for one in decide(rows, None, NOW)] == ["a#9", "#3", "#2", "#1"]


def test_the_latest_of_each_namespace():
    rows = [*line(3), row(1, ns="a"), row(2, ns="a"), row(1, ns="b")]
    assert kept(rows, KeepFor(timedelta(seconds=1)), now=NOW * 2) == ["#3", "a#2", "b#1"]


def test_what_waits_and_what_is_pinned():
    rows = line(6)
    rows[1] = replace(rows[1], is_interrupted=True)
    rows[2] = replace(rows[2], pin="before the change")
    rows[3] = replace(rows[3], pin="")
    found = reasons(rows, KeepLast(1))
    assert found == {
        "#6": "the latest",
        "#5": None,
        "#4": "pinned: ",
        "#3": "pinned: before the change",
        "#2": "it waits for an answer",
        "#1": None,
    }


def test_what_is_held():
    rows = line(4)
    rows[0] = replace(rows[0], holds=(SAVEPOINT, SET), is_interrupted=True)
    rows[2] = replace(rows[2], holds=(SET,), pin="mine")
    assert reasons(rows, KeepLast(1)) == {
        "#4": "the latest",
        "#3": "pinned: mine",
        "#2": None,
        "#1": "held by savepoint before of saga trip, set s of team T",
    }
    plan = decide(rows, KeepLast(1), NOW, planned=frozenset(one.name for one in rows))
    assert [one.row.name for one in plan if one.reason is None] == ["#2"], "a hold that came after the plan counts"


def test_what_a_hold_needs():
    """What its DeltaChannels are made of, and the subgraphs' states that its graph resumes from."""
    rows = [
        row(1, stored=frozenset("a")),
        row(2, parent_id="0001"),
        row(3, parent_id="0002", deltas=frozenset("a"), holds=(SET,)),
        row(4, parent_id="0003", holds=(SAVEPOINT,)),
        row(2, ns="sub"),
        row(3, ns="sub"),
        row(2, ns="sub:1", root_id="0003"),
    ]
    needed = {one.name: holds_on(rows, {one.name}) for one in rows}
    assert needed == {
        "#1": (SET,),
        "#2": (SET,),
        "#3": (SET,),
        "#4": (SAVEPOINT,),
        "sub#2": (SET,),
        "sub#3": (SAVEPOINT,),
        "sub:1#2": (),
    }
    assert holds_on(rows, needed.keys()) == (SAVEPOINT, SET)
    assert holds_on([replace(one, holds=()) for one in rows], needed.keys()) == ()


def test_ancestors_of_delta_channels():
    """Each channel back to the nearest stored value, which may be another ancestor for each."""
    rows = line(9)
    deltas, stored = frozenset({"a", "b"}), frozenset
    rows[8] = replace(rows[8], deltas=deltas)
    rows[7] = replace(rows[7], stored=stored({"other"}))
    rows[6] = replace(rows[6], stored=stored({"a"}), deltas=stored({"b"}))
    rows[5] = replace(rows[5], stored=stored({"a"}))
    rows[4] = replace(rows[4], stored=stored({"b"}))
    rows[3] = replace(rows[3], stored=deltas)
    assert kept(rows, KeepLast(1)) == [5, 6, 7, 8, 9]
    assert reasons(rows, KeepLast(1))["#6"] == "DeltaChannels of 0009 are made of it"
    # A checkpoint that stores the value itself needs no other.
    rows[8] = replace(rows[8], deltas=stored(), stored=deltas)
    assert kept(rows, KeepLast(1)) == [9]


def test_ancestors_of_a_pinned_one_and_of_one_that_is_kept_for_its_child():
    rows = line(8)
    rows[4] = replace(rows[4], pin="x", deltas=frozenset("a"))
    rows[3] = replace(rows[3], stored=frozenset("a"), deltas=frozenset("b"))
    rows[1] = replace(rows[1], stored=frozenset("b"))
    # 4 stays for 5, and can be gone back to itself: its own channels need 3 and 2.
    assert kept(rows, KeepLast(1)) == [2, 3, 4, 5, 8]


def test_ancestors_on_the_path_only():
    """A fork's ancestors are its own."""
    rows = [
        row(1, stored=frozenset("a")),
        row(2, parent_id="0001", deltas=frozenset("a")),
        row(3, parent_id="0002", deltas=frozenset("a")),
        row(4, parent_id="0001", deltas=frozenset("a")),
    ]
    assert kept(rows, KeepLast(1)) == [1, 4]


def test_ancestors_that_are_gone_already():
    rows = [row(5, parent_id="0003", deltas=frozenset("a")), row(2, parent_id="0001")]
    assert kept(rows, KeepLast(1)) == [5]


def test_parents_in_a_circle():
    """Nothing but a hand-made thread has them; it must not hang."""
    needy = frozenset("a")
    rows = [
        row(1, parent_id="0001", deltas=needy),
        row(2, parent_id="0003", deltas=needy),
        row(3, parent_id="0002", deltas=needy),
    ]
    assert kept(rows, KeepLast(1)) == [2, 3]
    assert kept(rows[:1], KeepLast(1)) == [1]


def test_parents_that_are_newer():
    """After a clock went back: the child's id sorts before its parent's, which needs ancestors of its own."""
    rows = [
        row(1, stored=frozenset("b")),
        row(2, parent_id="0001", stored=frozenset()),
        row(5, parent_id="0002", stored=frozenset("a"), deltas=frozenset("b")),
        row(4, parent_id="0005", deltas=frozenset("a"), pin="x"),
        row(9),
    ]
    assert kept(rows, KeepLast(1)) == [1, 2, 4, 5, 9]


# Subgraphs


def test_namespaces_of_calls_go_with_their_root():
    rows = line(4)
    for root, ns in ((2, "sub:a"), (3, "sub:b"), (4, "sub:c"), (4, "sub:c|deep:d")):
        rows += [row(n, ns=ns, root_id=f"{root:04}") for n in (10 * root, 10 * root + 1)]
    assert kept(rows, KeepLast(1)) == ["#4", "sub:c#41", "sub:c|deep:d#41"]
    assert kept(rows, KeepLast(2)) == ["#3", "#4", *(one.name for one in rows[6:])]
    pinned = [replace(one, pin="x") if one.name == "#2" else one for one in rows]
    assert {"#2", "sub:a#21"} < set(kept(pinned, KeepLast(1)))
    assert "sub:a#20" not in kept(pinned, KeepLast(1))


def test_a_call_whose_root_is_gone_is_kept_for_nothing_but_a_pin():
    rows = [row(9), row(1, ns="s:1", root_id="0005", is_interrupted=True), row(2, ns="s:1", root_id="0005")]
    assert kept(rows, KeepLast(5)) == [9]
    rows[1] = replace(rows[1], pin="x", is_interrupted=False)
    assert kept(rows, KeepLast(5)) == ["#9", "s:1#1"]


def test_a_call_of_a_root_that_is_kept_for_another():
    """What a DeltaChannel needs is a checkpoint like others: its subgraphs' state can be looked at."""
    rows = [
        row(1, stored=frozenset("a")),
        row(2, parent_id="0001", deltas=frozenset("a")),
        row(7, ns="s:1", root_id="0001"),
    ]
    assert kept(rows, KeepLast(1)) == ["#1", "#2", "s:1#7"]


def test_runs():
    rows = [replace(one, run_id="ab"[n % 2]) for n, one in enumerate(line(5))]
    rows[0] = replace(rows[0], run_id=None)
    rows[3] = replace(rows[3], pin="x", is_interrupted=True)
    found = decide_for_runs(rows, frozenset({"b", "unknown"}))
    assert [(one.row.checkpoint_id, one.reason) for one in found] == [
        ("0005", "of another run"),
        ("0004", None),
        ("0003", "of another run"),
        ("0002", None),
        ("0001", "of another run"),
    ]
    assert decide_for_runs([], frozenset("a")) == []


def test_the_plans_text():
    decisions = (Decision(row(3), "the latest"), Decision(row(2, ns="sub:1"), "it waits"), Decision(row(1), None))
    plan = PrunePlan(thread_id="t'", decisions=decisions)
    assert plan.dropped == ("0001",)
    assert str(plan) == (
        'Thread "t\'": 1 of 3 checkpoints go\n  0003: keep, the latest\n  0002 (sub:1): keep, it waits\n  0001: drop'
    )


# Whatever the thread


CHANNELS = ("a", "b", "c")
channels = st.frozensets(st.sampled_from(CHANNELS))


@st.composite
def threads(draw):
    """Checkpoints of a root namespace and some others; parents are older as a rule, and there as a rule."""
    rows = []
    spaces = {"": None, "lasting": None, "sub:1": draw(st.integers(1, 12)), "sub:2": draw(st.integers(1, 12))}
    for ns, root in spaces.items():
        numbers = sorted(draw(st.sets(st.integers(1, 12), max_size=9)))
        if draw(st.integers(0, 5)) == 0:
            numbers = draw(st.permutations(numbers))  # after a clock went back
        for at, n in enumerate(numbers):
            parent = draw(st.sampled_from([*numbers[max(0, at - 3) : at], 99 if draw(st.integers(0, 5)) == 0 else 0]))
            stored = draw(channels)
            rows.append(
                row(
                    n,
                    ns=ns,
                    parent_id=f"{parent:04}" if parent else None,
                    time=NOW - draw(st.integers(0, 20)) * HOUR,
                    root_id=None if root is None else f"{root:04}",
                    pin=draw(st.sampled_from([None, None, None, None, "x"])),
                    holds=draw(st.sampled_from([(), (), (), (SET,), (SAVEPOINT, SET)])),
                    is_interrupted=draw(st.integers(0, 6)) == 0,
                    stored=stored,
                    deltas=draw(channels) - stored,
                )
            )
    return draw(st.permutations(rows))


counts = st.integers(1, 6).map(KeepLast)
ages = st.integers(1, 24).map(lambda hours: KeepFor(timedelta(hours=hours)))
every = st.sampled_from([1, 5, 24]).map(lambda hours: KeepEvery(timedelta(hours=hours)))
single = st.one_of(counts, ages, every)
rules = st.one_of(single, st.lists(single, min_size=2, max_size=3).map(lambda parts: AnyOf(tuple(parts))))


def names(rows, rule):
    return {one.row.name for one in decide(rows, rule, NOW) if one.reason is not None}


def dropped_whole(rows, found):
    """Namespaces of calls whose root checkpoint goes."""
    return {one.ns for one in rows if one.root_id is not None and f"#{int(one.root_id)}" not in found}


@given(rows=threads(), rule=rules)
def test_what_is_always_kept(rows, rule):
    found = names(rows, rule)
    whole = dropped_whole(rows, found)
    for ns in {one.ns for one in rows} - whole:
        assert max((one for one in rows if one.ns == ns), key=lambda one: one.checkpoint_id).name in found
    by_name = {one.name: one for one in rows}
    for one in rows:
        if one.pin is not None or one.holds or (one.is_interrupted and one.ns not in whole):
            assert one.name in found
        if one.name in found:
            # All that its DeltaChannels are made of, as far as it is there.
            for channel in one.deltas:
                seen, above = set(), one.parent_id
                while above is not None and above not in seen and (parent := by_name.get(f"{one.ns}#{int(above)}")):
                    assert parent.name in found
                    if channel in parent.stored:
                        break
                    seen.add(above)
                    above = parent.parent_id


@given(rows=threads(), rule=rules)
def test_no_rule_drops_what_a_hold_needs(rows, rule):
    found = names(rows, rule)
    assert holds_on(rows, {one.name for one in rows} - found) == ()
    assert set(holds_on(rows, {one.name for one in rows})) == {hold for one in rows for hold in one.holds}


@given(rows=threads(), rule=rules)
def test_decisions_are_complete_and_settled(rows, rule):
    decisions = decide(rows, rule, NOW)
    assert sorted(one.row.name for one in decisions) == sorted(one.name for one in rows)
    ids = [one.row.checkpoint_id for one in decisions]
    assert ids == sorted(ids, reverse=True)
    assert all(one.reason is None or one.reason for one in decisions)
    # The same, whatever the order of rows.
    assert names(sorted(rows, key=lambda one: one.name), rule) == names(rows, rule)
    # What is kept is kept again.
    left = [one.row for one in decisions if one.reason is not None]
    assert names(left, rule) == {one.name for one in left}


@given(rows=threads(), rule=single, other=single)
def test_more_rules_keep_more(rows, rule, other):
    both = names(rows, AnyOf((rule, other)))
    assert both >= names(rows, rule) | names(rows, other)
    larger = {
        KeepLast: lambda: KeepLast(rule.count + 1),
        KeepFor: lambda: KeepFor(rule.time * 2),
        KeepEvery: lambda: rule | KeepLast(1),
    }[type(rule)]()
    assert names(rows, larger) >= names(rows, rule)


@given(rows=threads(), rule=rules)
def test_a_pin_or_a_hold_keeps_more(rows, rule):
    before = names(rows, rule)
    for one in rows:
        pinned = [replace(one, pin="x") if other is one else other for other in rows]
        held = [replace(one, holds=(SET,)) if other is one else other for other in rows]
        assert names(pinned, rule) == names(held, rule) >= before | {one.name}


# Subgraphs that keep their state


def test_the_state_that_a_root_checkpoint_goes_on_from():
    """LangGraph replays a subgraph from its newest checkpoint before the root's; before the parent's of a fork."""
    roots = [row(10), row(20, pin="x"), row(30), row(40, parent_id="0020", replay_id="0020", pin="fork"), row(50)]
    inner = [row(n, ns="sub") for n in (11, 18, 19, 22, 35, 48, 60)]
    assert kept([*roots, *inner], KeepLast(1)) == ["#20", "#40", "#50", "sub#19", "sub#48", "sub#60"]
    assert reasons([*roots, *inner], KeepLast(1))["sub#19"] == "the subgraph's state at 0040"
    assert kept([row(5, pin="x"), row(50), *inner], KeepLast(1)) == ["#5", "#50", "sub#48", "sub#60"]


def test_a_long_way_back_is_walked_once():
    """Each of 5,000 checkpoints is made of all before it: an event loop's thread has no seconds for that."""
    steps = []

    class Versions(frozenset):
        def __rand__(self, other):
            steps.append(1)
            return frozenset(other)

    rows = [
        row(n, parent_id=f"{n - 1:04}", deltas=frozenset("d"), versions=Versions("d"))
        if n
        else row(0, stored=frozenset("d"))
        for n in range(5000)
    ]
    for rule in (KeepLast(1), KeepLast(5000)):
        steps.clear()
        assert len(kept(rows, rule)) == 5000
        assert len(steps) <= 10_000


# Ancestors that are not there


def delta(n, parent, *, stored=(), deltas=("d",), versions=("d",)):
    parent_id = None if parent is None else f"{parent:04}"
    return row(n, parent_id=parent_id, stored=frozenset(stored), deltas=frozenset(deltas), versions=frozenset(versions))


def lacks(rows, rule):
    return {int(one.row.checkpoint_id): one.lacks and int(one.lacks) for one in decide(rows, rule, NOW)}


def test_a_kept_checkpoint_lacks_an_ancestor():
    rows = [delta(1, None, stored="d", deltas=()), delta(3, 2), delta(4, 3)]
    assert lost_ancestors(rows) == {"#3": "0002", "#4": "0002"}
    assert lacks(rows, KeepLast(1)) == {4: 2, 3: 2, 1: None}
    assert {one.lacks for one in decide(rows, None, NOW)} == {None}, "all go"
    assert {one.lacks for one in decide_for_runs(rows, frozenset(("run",)))} == {None}, "whatever needs them"


def test_what_goes_lacks_nothing():
    """It has lost an ancestor too, and needs it no longer."""
    rows = [delta(3, 2), delta(4, 3, stored="d", deltas=()), delta(5, 4)]
    assert lacks(rows, KeepLast(1)) == {5: None, 4: None, 3: None}
    assert lacks(rows, KeepLast(3)) == {5: None, 4: None, 3: 2}


@pytest.mark.parametrize(
    "rows",
    [
        [delta(3, 2, deltas=())],
        [delta(3, None)],
        [delta(3, 3)],
        [delta(3, 4), delta(4, 3)],
        [delta(2, 1, stored="d", deltas=()), delta(3, 2)],
        [delta(2, 1, deltas=(), versions=()), delta(3, 2)],
    ],
    ids=["no channel", "the first", "its own parent", "in a ring", "a stored value", "before the first version"],
)
def test_nothing_is_missing(rows):
    assert lost_ancestors(rows) == {}


def test_without_versions_it_may_be_older():
    rows = [replace(delta(2, 1, deltas=()), versions=None), delta(3, 2)]
    assert lost_ancestors(rows) == {"#3": "0001"}


def test_namespaces_and_channels_are_apart():
    rows = [
        replace(delta(2, 1, stored="a"), ns="sub", name="sub#2", deltas=frozenset("b"), versions=None),
        replace(delta(3, 2), ns="sub", name="sub#3", deltas=frozenset("a"), versions=None),
        replace(delta(4, 2), deltas=frozenset("a"), versions=None),
    ]
    assert lost_ancestors(rows) == {"sub#2": "0001", "#4": "0002"}


@st.composite
def forests(draw):
    """Checkpoints whose parents may be gone, with DeltaChannels that some of them store."""
    rows = []
    for n in draw(st.lists(st.integers(1, 12), unique=True, max_size=12)):
        stored = draw(st.frozensets(st.sampled_from("de")))
        versions = stored | draw(st.frozensets(st.sampled_from("de")))
        deltas = draw(st.frozensets(st.sampled_from(sorted(versions - stored)))) if versions - stored else frozenset()
        rows.append(delta(n, draw(st.none() | st.integers(1, 12)), stored=stored, deltas=deltas, versions=versions))
    return rows


def walked(row, channel, rows):
    """The missing ancestor, the slow way."""
    by_id, seen = {one.checkpoint_id: one for one in rows}, set()
    while row.checkpoint_id not in seen:
        seen.add(row.checkpoint_id)
        if row.parent_id is None or row.parent_id not in by_id:
            return row.parent_id
        row = by_id[row.parent_id]
        if channel in row.stored or channel not in row.versions:
            return None
    return None


@given(forests(), st.integers(1, 3))
def test_the_walk_by_channel_is_each_ones_own(rows, count):
    found = lost_ancestors(rows)
    for one in rows:
        expected = {walked(one, channel, rows) for channel in one.deltas} - {None}
        assert (found.get(one.name) in expected) if expected else one.name not in found
    for decision in decide(rows, KeepLast(count), NOW):
        # All that is needed and there is kept: so what a kept one lacks is what it lacks of all.
        assert decision.lacks == (found.get(decision.row.name) if decision.reason is not None else None)
