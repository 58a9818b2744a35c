"""Tables of the documentation that repeat what the code says."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from dataclasses import fields
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import cost
from benchmarks.compare import prices
from langgraph_gcs_saver import GCSSaver, RunToolsOnce, errors, events, operations
from langgraph_gcs_saver.options import Options
from langgraph_gcs_saver.policy.prices import DOCUMENT_PRICE, OBJECT_PRICE
from langgraph_gcs_saver.saver.admin import Admin
from langgraph_gcs_saver.saver.connection import Connection
from langgraph_gcs_saver.saver.operations import Operations
from langgraph_gcs_saver.saver.team import Team, TeamSets
from langgraph_gcs_saver.saver.thread import Thread
from tests.docs import columns, metrics, options
from tests.docs.fences import ROOT
from tests.kit import methods
from tests.kit.all_errors import errors_by_name

OPERATIONS = (ROOT / "docs" / "guides" / "operations.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table of a section, without its head."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")]
    assert found, heading
    return found[1:]


def test_the_table_of_options_is_made_of_their_docstring():
    page = (ROOT / "docs" / "reference" / "options.md").read_text(encoding="utf-8")
    assert page == options.page(), "run: python -m tests.docs.options > docs/reference/options.md"
    assert options.texts().keys() == {field.name for field in fields(Options)}


def test_the_tables_of_metrics_are_made_of_the_code():
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics.page(), "run: python -m tests.docs.metrics > docs/reference/metrics.md"


def test_the_table_of_columns_is_made_of_the_code():
    text = columns.PAGE.read_text(encoding="utf-8")
    assert text == columns.page(text), "run: python -m tests.docs.columns"
    assert columns.table() in text


def test_operations_tells_when_to_turn_each_option():
    found = [name for row in rows(OPERATIONS, "Tuning") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(found) == sorted(field.name for field in fields(Options))


def test_operations_tells_what_to_do_at_each_event():
    found: dict[str, str] = {}
    for row in rows(OPERATIONS, "Monitoring"):
        found |= dict.fromkeys(re.findall(r"`(\w+)`", row[0]), row[1].strip("*").upper())
    classes = {cls.__name__: cls.level for cls in _classes(events.Event) if cls is not events.CallEnded}
    levels = {10: "DEBUG", 20: "INFO", 30: "WARNING"}
    assert found == {name: levels[level] for name, level in classes.items()}


# The API


def _classes(base: type[Any]) -> list[type[Any]]:
    return [found for cls in base.__subclasses__() for found in (cls, *_classes(cls))]


def _call(name: str, function: Any) -> str:
    """A call as the reference writes it, without what the text above the table says of all."""
    parameters = inspect.signature(function).parameters.values()
    given = [one for one in parameters if one.name not in {"self", "dry_run", "progress"}]
    optional = [one.default is not one.empty or one.kind is one.VAR_KEYWORD for one in given]
    return f"{name}({', '.join(p.name + '=…' * may for p, may in zip(given, optional, strict=True))})"


@pytest.mark.parametrize("cls", [GCSSaver, Admin])
def test_the_reference_has_every_method(cls: type) -> None:
    kinds = (Connection, GCSSaver) if cls is GCSSaver else (Admin,)
    known = {name: found for kind in kinds for name, found in vars(kind).items() if name[0] != "_"}
    names = {name for name, found in known.items() if callable(found) or isinstance(found, classmethod)}
    own = {name for name in names if not (name.startswith("a") and name[1:] in names)}
    expected = {_call(name, getattr(cls, name)) for name in own}
    expected |= {_call("GCSSaver", GCSSaver.__init__)} if cls is GCSSaver else set()
    table = "Methods of GCSSaver" if cls is GCSSaver else "Methods of saver.admin"
    written = [call.strip("` ") for row in rows(REFERENCE, table) for call in row[0].split("`, `") if "`" in row[0]]
    assert sorted(written) == sorted(expected)
    # "Each method that does I/O has an asynchronous twin": these do none, or serve both.
    savers = {"from_conn_string", "get_next_version", "subscribe", "thread", "team", "runs", "recover"}
    single = savers if cls is GCSSaver else methods.EACH | {"watch", "team", "follow"}
    assert {name for name in own if f"a{name}" not in names} == single


def _written(heading: str) -> set[str]:
    return {name for row in rows(REFERENCE, heading) for name in re.findall(r"`([^`]+)`", row[0])}


def _own(cls: type) -> set[str]:
    names = {name for name in vars(cls) if name[0] != "_"}
    return {name for name in names if not (name.startswith("a") and name[1:] in names)}


def test_the_reference_has_everything_about_one_thread() -> None:
    expected = {_call(name, getattr(Thread, name)) for name in _own(Thread) - {"operations", "blobs"}}
    expected |= {"operations", "blobs"}
    assert _written("Methods of a thread") == expected
    without_twins = {name for name in _own(Thread) if not hasattr(Thread, f"a{name}")}
    assert without_twins == {"operations", "blobs", "lease", "batch", "saga"}


def test_the_reference_has_everything_about_a_team() -> None:
    names = (_own(TeamSets) | _own(Team)) - {"retention"}
    assert _written("Methods of a team") == {_call(name, getattr(Team, name)) for name in names} | {"retention"}
    assert {name for name in names if not hasattr(Team, f"a{name}")} == {"member"}


def test_the_reference_has_everything_about_operations() -> None:
    known = {name: getattr(Operations, name) for name in ("once", "unresolved", "resolve")}
    known |= {"operations": operations, "RunToolsOnce": RunToolsOnce}
    expected = {_call(name, function) for name, function in known.items()}
    written = _written("Operations")
    assert {name for name in written if "(" in name} == expected
    assert {"NOT_DONE", "UNKNOWN"} <= written
    assert all(hasattr(Operations, f"a{name}") for name in ("once", "unresolved", "resolve"))


def test_the_reference_has_every_error():
    importlib.import_module("langgraph_gcs_saver.errors.bubbling")  # otherwise imported at the first use of a class
    written = {row[0].strip("`"): row[1].strip("`") for row in rows(REFERENCE, "What a handler does")}
    # Some are imported on first use, which `getattr` is.
    known = errors_by_name()
    assert written == {name: error.kind for name, error in known.items() if error is not errors.GCSSaverError}


# Costs


@pytest.fixture(scope="module")
def estimates() -> dict[str, cost.Estimate]:
    return {case: cost.estimate(case, 5) for case in cost.CASES}


def test_the_cost_table_is_as_the_command_prints_it(estimates):
    printed = [list(map(str.strip, str(one).strip("| ").split("|"))) for one in estimates.values()]
    written = rows(OPERATIONS, "What it costs")
    assert [row[0] for row in written] == [row[0] for row in printed] == list(cost.CASES)
    head = OPERATIONS.partition("| a step of a 100-turn chat | ")[2].partition("\n")[0]
    assert head == f"{' | '.join(cost.PRICES)} | $ per million steps | $ per month to keep them |"
    assert prices.CHECKED in OPERATIONS
    for row in written:
        # What a row says of dollars follows from its own counts, up to their rounding.
        dollars = sum(float(n) * price for n, price in zip(row[1:], cost.PRICES.values(), strict=False))
        assert float(row[-2]) == pytest.approx(
            dollars * prices.MILLION, abs=0.006 * prices.MILLION * sum(cost.PRICES.values())
        )


def test_what_is_counted(estimates):
    usual, off = estimates["as it comes"], estimates['verify="off"']
    assert usual.steps == 15
    assert usual.each("document deletes") == 0
    assert usual.each("document writes") == off.each("document writes") >= 1
    assert usual.each("document reads") > off.each("document reads"), "reading back reads"
    assert estimates["cold"].dollars > usual.dollars
    assert estimates["inline_max_bytes=0"].each("object class A") >= 1
    assert usual.monthly == pytest.approx(
        (usual.document_bytes * DOCUMENT_PRICE + usual.object_bytes * OBJECT_PRICE) / 15 * 1_000_000 / (1 << 30)
    )


def test_the_prices_of_stats_are_those_of_the_page():
    assert f"--object-price {OBJECT_PRICE} --document-price {DOCUMENT_PRICE}" in OPERATIONS


# Diagrams


def test_the_diagrams_are_as_drawn():
    path = ROOT / "docs" / "images" / "diagrams.py"
    spec = importlib.util.spec_from_file_location("diagrams", path)
    assert spec is not None
    assert spec.loader is not None
    diagrams = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diagrams)
    architecture = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    for name, draw in diagrams.DIAGRAMS.items():
        drawn = draw()
        assert (path.parent / name).read_text(encoding="utf-8") == drawn, "run: python docs/images/diagrams.py"
        assert ET.fromstring(drawn).tag.endswith("svg")
        assert f"](../images/{name})" in architecture
