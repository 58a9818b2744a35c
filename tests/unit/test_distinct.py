"""The limit on the values that metrics and analytics distinguish."""

from langgraph_gcs_saver.policy.distinct import Distinct
from langgraph_gcs_saver.policy.labels import MOST_VALUES, OTHER


def test_the_first_values_pass_and_others_are_one():
    values = Distinct()
    first = [str(i) for i in range(MOST_VALUES)]
    assert [values.of(text) for text in first] == first
    assert values.of("more") == values.of("even more") == OTHER
    assert values.of("0") == "0"
