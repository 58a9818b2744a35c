"""The field with the holds of a checkpoint: keys, texts, and values that no writer of this library stores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_gcs_saver.engine.effects import Doc
from langgraph_gcs_saver.format.holds import Hold, holds_of, keys_of, parse, with_hold, without_hold

SET = Hold("set", "deal/42", "0a b")
SAVEPOINT = Hold("savepoint", "trip", "before payment")


def doc(**fields):
    return Doc("name", fields, 1, 1)


def test_texts():
    assert str(SET) == "set 0a b of team deal/42"
    assert str(SAVEPOINT) == "savepoint before payment of saga trip"
    assert SET.key == "set deal%2F42 0a%20b"


@given(kind=st.sampled_from(["set", "savepoint"]), owner=st.text(max_size=20), name=st.text(max_size=20))
def test_a_key_names_its_hold_and_no_other(kind, owner, name):
    hold = Hold(kind, owner, name)
    assert parse(hold.key) == hold
    assert hold.key.count(" ") == 2


def test_one_more_and_one_less():
    both = doc(**with_hold(doc(**with_hold(doc(), SET.key)), SAVEPOINT.key))
    assert both.fields == {"holds": {SET.key: True, SAVEPOINT.key: True}}
    assert set(holds_of(both)) == {SET, SAVEPOINT}
    assert with_hold(both, SET.key) == both.fields
    assert without_hold(both, SET.key) == {"holds": {SAVEPOINT.key: True}}
    assert without_hold(doc(**without_hold(both, SET.key)), SAVEPOINT.key) == {"holds": {}}
    assert without_hold(doc(), SET.key) == {"holds": {}}


@pytest.mark.parametrize("odd", [None, True, "set a b", 7, ["set a b"], {}])
def test_a_value_that_is_no_map_holds_nothing(odd):
    assert keys_of(doc(holds=odd)) == holds_of(doc(holds=odd)) == ()
    assert with_hold(doc(holds=odd), SET.key) == {"holds": {SET.key: True}}


@pytest.mark.parametrize("key", ["", "x", "set", "set a", "set a b c", "tag a b", "set  "])
def test_a_key_of_a_newer_version_is_a_hold(key):
    """It counts as a set's, which keeps more than a savepoint does. Its own key takes it off."""
    odd = doc(holds={key: "whatever"})
    assert keys_of(odd) == (key,)
    assert [hold.kind for hold in holds_of(odd)] == ["set"]
    assert set(with_hold(odd, SET.key)["holds"]) == {key, SET.key}
    assert without_hold(odd, key) == {"holds": {}}
