"""Every command, method and collection is in the tables of what hostile stores are met by."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from langgraph_gcs_saver.format import keys
from langgraph_gcs_saver.saver.admin import Admin
from tests.security import registry, test_clear_text, test_every_method, test_reading_runs_nothing, test_shapes

OWN = {"demo"}
"""Commands that read no thread but those that they make."""

TABLES: dict[str, tuple[Callable[[Path], Collection[str]], Collection[str]]] = {
    "commands that run nothing, and on odd threads": (
        lambda _: test_reading_runs_nothing.COMMANDS,
        registry.commands(),
    ),
    "commands on what is in clear": (lambda _: {*test_clear_text.COMMANDS, *OWN}, registry.commands()),
    "methods of Admin that run nothing": (lambda _: test_reading_runs_nothing.METHODS, registry.all_methods(Admin)),
    "methods": (lambda _: registry.METHODS, registry.all_methods()),
    "methods on what is in clear": (lambda path: {*test_clear_text.outcomes(path)} - {"close"}, registry.all_methods()),
    "collections": (lambda _: registry.COLLECTIONS, registry.collections()),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_has_all(table: str, tmp_path: Path) -> None:
    listed, there = set(TABLES[table][0](tmp_path)), set(TABLES[table][1])
    assert listed - there == set(), "no longer there"
    assert there - listed == set(), f"of these the table of {table} says nothing"


def test_what_is_counted() -> None:
    assert {"delete_thread", "list", "verify"} <= set(registry.all_methods())
    assert {"list", "put"}.isdisjoint(registry.all_methods(Admin))
    assert not [name for name in registry.all_methods() if name in {"alist", "averify", "aclose"}]
    assert {"verify", "drill", "demo"} <= set(registry.commands())
    assert registry.collections() >= {keys.THREADS, keys.CHECKPOINTS, keys.WRITES, keys.ASIDE, keys.RUNS, "lg_store"}
    assert registry.METHODS.keys() >= registry.WRITE


def test_every_method_is_performed_in_both_ways() -> None:
    pairs = [pair for number in range(len(test_shapes.FORGERIES)) for pair in test_every_method.ways(number)]
    assert set(pairs) == {(name, is_async) for name in registry.all_methods() for is_async in (False, True)}
