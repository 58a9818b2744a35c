"""docs/explanation/security.md names the tests that hold what it claims: they are there, and each section has some."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.fences import ROOT

PAGE = ROOT / "docs" / "explanation" / "security.md"
HEADING = "What holds it"
_TEST = re.compile(r"\[`(\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\)")
_SECTION = re.compile(r"\[[^\]]+\]\(#([\w-]+)\)")


def rows() -> list[tuple[str, str, str]]:
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {HEADING}\n")[2].partition("\n## ")[0]
    found = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    assert found[0] == [" of ", " claim ", " held by "]
    return [(of.strip(), claim.strip(), held.strip()) for of, claim, held in found[2:]]


@cache
def names_in(path: Path) -> set[str]:
    """Names of all that pytest collects as tests in a file: functions, and those of classes."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    inner = [
        one for node in body if isinstance(node, ast.ClassDef) and node.name.startswith("Test") for one in node.body
    ]
    functions = (one for one in [*body, *inner] if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
    return {one.name for one in functions if one.name.startswith("test_")}


@pytest.mark.parametrize(("claim", "held"), [row[1:] for row in rows()])
def test_the_tests_that_hold_a_claim_are_there(claim: str, held: str) -> None:
    links = _TEST.findall(held)
    assert links, f"nothing holds that {claim}"
    assert _TEST.sub("", held).strip(", ") in {"", "which `make soak` runs"}, "a link that is not understood"
    for name, path in links:
        assert (ROOT / path).is_file(), path
        assert name in names_in(ROOT / path), f"{path} has no {name}, which holds that {claim}"


def test_every_section_has_claims() -> None:
    text = re.sub(r"```.*?```", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^##+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings if heading != HEADING}
    assert {match[1] for of, _, _ in rows() if (match := _SECTION.fullmatch(of))} == anchors


def test_a_missing_test_is_noticed() -> None:
    assert "test_a_missing_test_is_noticed" in names_in(Path(__file__))
    assert "rows" not in names_in(Path(__file__))
    with pytest.raises(AssertionError, match=r"test_clocks\.py has no test_nothing"):
        test_the_tests_that_hold_a_claim_are_there("x", "[`test_nothing`](../../tests/unit/test_clocks.py)")
