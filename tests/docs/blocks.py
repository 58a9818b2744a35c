"""The code blocks of a document, and what a person would type of them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES = [
    path
    for folder in ("guides", "tutorials")
    for path in sorted((ROOT / "docs" / folder).glob("*.md"))
    if 'title="docs/examples/' in path.read_text(encoding="utf-8")
]
"""The guides and tutorials that quote a program of docs/examples."""

_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    document: str
    number: int
    language: str
    title: str | None
    text: str

    def __str__(self):
        return f"{self.document}-{self.number}"

    @property
    def commands(self):
        """Pairs of a command, and the lines that it prints."""
        found = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return [(command, "\n".join(lines).strip()) for command, lines in found]


def blocks(path):
    text = path.read_text(encoding="utf-8")
    found = [
        Block(path.stem, number, match["language"], match["title"], match["text"])
        for number, match in enumerate(_FENCE.finditer(text), 1)
    ]
    assert 2 * len(found) == len(re.findall("^```", text, re.MULTILINE)), "a block that is not read as one"
    return found


def console(name):
    """The commands of a guide, and what they print, in their order."""
    of_guide = blocks(ROOT / "docs" / "guides" / f"{name}.md")
    return [command for block in of_guide if block.language == "console" for command in block.commands]
