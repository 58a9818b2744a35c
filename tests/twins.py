"""Writes the asynchronous twins of a class's methods: `python -m tests.twins`; with `--check` it only compares.

The synchronous method is the source. Its twin follows it, with an `a` before its name, and differs in these words only:

| source | twin |
|---|---|
| `def name(` | `async def aname(` |
| `run(` | `await arun(` |
| `self.admin.name(`, `self.name(` of a method that has a twin | `await self.admin.aname(`, `await self.aname(` |
| `Iterator[` | `AsyncIterator[` |

A method has a twin if it says one of the first three. So a new method gets its twin by being written.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "langgraph_gcs_saver"

SOURCES = (
    "saver/admin.py",
    "saver/batch.py",
    "saver/blobs.py",
    "saver/connection.py",
    "saver/checkpointer.py",
    "saver/lease.py",
    "saver/team.py",
    "saver/saga.py",
    "saver/watch.py",
)

BY_HAND = {"close", "finish", "recover", "runs"}
"""Closing is not the same thing twice: the pools of a process, and the connections of an event loop.

The end of a batch calls another object's twin. What is iterated over serves both, and needs none.
"""


def with_twins(source: str, known: frozenset[str]) -> str:
    """A module's text, with a twin below each method that has one.

    Args:
        source: The text of a module.
        known: Names of the methods that have twins, in all modules.
    """
    lines, own = source.splitlines(keepends=True), names(source)
    edits: list[tuple[int, int, str]] = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        methods = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
        for name, method in methods.items():
            if name not in own or isinstance(method, ast.AsyncFunctionDef):
                continue
            text = "\n" + _twin(method, "".join(lines[method.lineno - 1 : method.end_lineno]), known)
            old = methods.get(f"a{name}")
            if old is None:
                edits.append((_end(method), _end(method), text))
            else:
                edits.append((old.lineno - 2, _end(old), text))
    for start, end, text in sorted(edits, reverse=True):
        lines[start:end] = [text]
    return "".join(lines)


def names(source: str) -> set[str]:
    """Names of a module's public methods that perform something themselves."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        for one in node.body if isinstance(node, ast.ClassDef) else []:
            is_source = isinstance(one, ast.FunctionDef) and one.name not in BY_HAND and not one.name.startswith("_")
            if is_source and re.search(r"\brun\(|self\.admin\.\w+\(", ast.unparse(one)):
                found.add(one.name)
    return found


def _end(node: ast.AST) -> int:
    end = getattr(node, "end_lineno", None)
    assert end is not None
    return int(end)


def _twin(method: ast.FunctionDef, text: str, known: frozenset[str]) -> str:
    name = method.name
    doc = ast.get_docstring(method, clean=False)
    assert doc is not None, f"{name} has no docstring"
    note = ": an asynchronous iterator, for `async for`, not to be awaited" if "Iterator[" in text else ""
    text = text.replace(f'"""{doc}"""', f'"""Asynchronous twin of `{name}`{note}."""')
    text = text.replace(f"def {name}(", f"async def a{name}(", 1)
    text = re.sub(r"\brun\(", "await arun(", text)
    text = re.sub(
        r"self\.(admin\.)?(\w+)\(",
        lambda m: f"await self.{m[1] or ''}a{m[2]}(" if m[2] in known else m[0],
        text,
    )
    return text.replace("Iterator[", "AsyncIterator[")


def _formatted(source: str, path: Path) -> str:
    ruff = Path(sys.executable).with_name("ruff")
    return subprocess.run(
        [ruff, "format", "--stdin-filename", path, "-"], input=source, text=True, capture_output=True, check=True
    ).stdout


def main(arguments: list[str]) -> int:
    """Write the twins, or with `--check` say which modules have others."""
    paths = [PACKAGE / source for source in SOURCES]
    known = frozenset().union(*(names(path.read_text()) for path in paths))
    status = 0
    for path in paths:
        source = path.read_text()
        made = _formatted(with_twins(source, known), path)
        if made == source:
            continue
        if "--check" in arguments:
            print(f"{path}: twins differ from their methods. Run `python -m tests.twins`.")
            status = 1
        else:
            path.write_text(made)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
