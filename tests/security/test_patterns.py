"""No regular expression takes more than linear time, whatever it is given.

The text may be a name from a store or an archive, a service's answer, or the user's input.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import langgraph_gcs_saver
from tests.patience import PATIENCE

if sys.version_info >= (3, 11):
    from re import _constants as codes
    from re import _parser as parser
else:
    import sre_constants as codes
    import sre_parse as parser

PACKAGE = Path(langgraph_gcs_saver.__file__).parent
METHODS = {"match", "fullmatch", "search", "sub", "finditer"}


class Use(NamedTuple):
    """A pattern, and a way that it is used."""

    where: str
    method: str
    pattern: re.Pattern[str]


def uses() -> list[Use]:
    """All uses of patterns in the package: of named ones, and of those that are given to a function of `re`."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    named: dict[str, re.Pattern[str]] = {}
    for path, tree in trees.items():
        if any(isinstance(node, ast.Import) and any(one.name == "re" for one in node.names) for node in ast.walk(tree)):
            module = ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts))
            own = {name: value for name, value in vars(importlib.import_module(module)).items() if _is_pattern(value)}
            assert not {name for name, value in own.items() if named.get(name, value) is not value}
            named |= own
    found: list[Use] = []
    for path, tree in trees.items():
        arguments = {node.func: node.args for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in METHODS:
                continue
            where, of = f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value
            name = of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""
            if name == "re":
                given = arguments[node][0]
                assert isinstance(given, ast.Constant), f"{where}: give the pattern a name, so that it can be tried"
                found.append(Use(where, node.attr, re.compile(given.value)))
            elif name in named:
                found.append(Use(where, node.attr, named[name]))
    assert not named.keys() - {name for name, value in named.items() for one in found if one.pattern is value}
    return found


def _is_pattern(value: object) -> bool:
    return isinstance(value, re.Pattern)


def _samples(parsed: Any) -> Iterator[str]:
    """Texts that a pattern matches, one for each of its alternatives at the top."""
    for code, argument in parsed[:1] if len(parsed) == 1 else ():
        if code is codes.BRANCH:
            for branch in argument[1]:
                yield _sample(branch)
            return
    yield _sample(parsed)


def _sample(parsed: Any) -> str:
    return "".join(_sample_of(code, argument) for code, argument in parsed)


def _sample_of(code: Any, argument: Any) -> str:
    if code is codes.LITERAL:
        return chr(argument)
    if code in {codes.ANY, codes.NOT_LITERAL}:
        return "a" if argument != ord("a") else "b"
    if code is codes.IN:
        return next(one for one in map(chr, range(0xE000)) if re.fullmatch(_of_class(argument), one, re.DOTALL))
    if code in {codes.MAX_REPEAT, codes.MIN_REPEAT}:
        least, most, inner = argument
        return _sample(inner) * (max(least, 1) if most else 0)
    if code is codes.SUBPATTERN:
        return _sample(argument[-1])
    if code is codes.BRANCH:
        return _sample(argument[1][0])
    assert code in {codes.AT, codes.ASSERT, codes.ASSERT_NOT}, code
    return ""


def _of_class(members: Any) -> str:
    """The text of a class of characters."""
    text = ""
    for code, argument in members:
        if code is codes.NEGATE:
            text += "^"
        elif code is codes.LITERAL:
            text += re.escape(chr(argument))
        elif code is codes.RANGE:
            text += "-".join(re.escape(chr(one)) for one in argument)
        else:
            text += {codes.CATEGORY_WORD: r"\w", codes.CATEGORY_SPACE: r"\s", codes.CATEGORY_DIGIT: r"\d"}[argument]
    return f"[{text}]"


def hostile(pattern: re.Pattern[str]) -> set[str]:
    """Texts that make a pattern begin often, go far, and fail."""
    parsed = parser.parse(pattern.pattern, pattern.flags)
    begins = {"", *_samples(parsed)}
    for length in range(1, len(parsed) + 1):
        begins.add(_sample(parsed[:length]))
    parts = {_sample(parsed[at : at + 1]) for at in range(len(parsed))}
    found = set()
    for part in (begins | parts) - {""}:
        found |= {part, f"{part} ", part[:-1], part[-1]} - {""}
    return found


def try_all(length: int) -> None:
    """Try each use with texts of that length, and say before what is tried."""
    for use in uses():
        for part in sorted(hostile(use.pattern)):
            text = part * (length // len(part))
            for end in ("", "\0"):
                print(f"{use.where} {use.method} {use.pattern.pattern!a:.200} on repeated {part!a:.200}", flush=True)
                given = text + end if isinstance(use.pattern.pattern, str) else (text + end).encode("latin-1")
                if use.method == "sub":
                    use.pattern.sub(given[:0], given)
                elif use.method == "finditer":
                    list(use.pattern.finditer(given))
                else:
                    getattr(use.pattern, use.method)(given)
    print("done")


# In linear time the long texts take a minute; in quadratic time hours, and in exponential time the short ones, too.
@pytest.mark.parametrize("length", [50_000, pytest.param(3_000_000, marks=pytest.mark.soak)])
def test_no_pattern_hangs(length):
    """A pattern that does holds the interpreter, so another process tries them."""
    command = [sys.executable, "-c", f"from tests.security.test_patterns import try_all; try_all({length})"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            told, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise AssertionError(f"this takes too long: {(error.stdout or b'').decode().splitlines()[-1]}") from None
    assert process.returncode == 0
    assert told.splitlines()[-1] == "done"
    assert len(told.splitlines()) > 100
