"""Features of newer Pythons that 3.10 lacks, where neither ruff nor mypy reports their use."""

import ast
from pathlib import Path

import langgraph_gcs_saver

PACKAGE = Path(langgraph_gcs_saver.__file__).parent


def subscripted_calls(source):
    """Calls such as `TopologicalSorter[str](…)`: what a class of the standard library can do depends on the version."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
            name = ast.unparse(node.func.value)
            if name[0].isupper() and not name.isupper():
                yield ast.unparse(node.func)


def test_no_class_is_subscripted_where_it_is_called():
    found = {
        str(path): calls for path in PACKAGE.rglob("*.py") if (calls := [*subscripted_calls(path.read_text("utf-8"))])
    }
    assert found == {}, "annotate the variable instead"


def test_such_calls_are_seen():
    assert [*subscripted_calls("order = TopologicalSorter[str](names)\nchecks = CHECKS[kind](1)")] == [
        "TopologicalSorter[str]"
    ]
