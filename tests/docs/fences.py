"""The fenced blocks of the documentation, and where they stand."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"""^(?P<indent> *)```(?P<language>[\w+-]*)( title="(?P<title>[^"]+)")?\s*$""")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file, from the repository's top.
        line: The number of its first line of text.
        language: What the fence says.
        text: The text, without the fence's indentation.
        title: The file that it shows, if the fence says one.
    """

    page: str
    line: int
    language: str
    text: str
    title: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> list[Block]:
    """Every fenced block of every page."""
    return [block for page in pages() for block in _of(page)]


def _of(page: Path) -> Iterator[Block]:
    name = page.relative_to(ROOT).as_posix()
    opened: re.Match[str] | None = None
    begin, lines = 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, begin, lines = fence, number + 1, []
            elif line.lstrip().startswith("```"):
                raise AssertionError(f"{name}:{number}: a fence that is not understood: {line}")
        elif line == f"{opened['indent']}```":
            yield Block(name, begin, opened["language"], textwrap.dedent("\n".join(lines)) + "\n", opened["title"])
            opened = None
        else:
            lines.append(line)
    assert opened is None, f"{name}:{begin}: this fence is never closed"
