"""Checks prose against docs/contributing/style.md: `python -m tests.docs.prose` prints `file:line: "word" - advice`.

It reads Markdown, notebooks, docstrings, comments and, outside of the tests, string literals with a space. Code blocks,
text in backticks and link targets are not prose.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.docs.fences import ROOT

ADVICE = {
    # Rule 1: the subject is a thing.
    r"whoever|whosoever": 'name the actor: "a caller that …"',
    r"somebody|someone": 'name the actor: "another process", "an attacker"',
    r"nobody": 'name the subject: "no process", "no checkpoint refers to it"',
    r"[.;:] who|, (?:and|for) who": 'name the actor: "a caller that …"',
    # Rule 3: plain conjunctions.
    r"[,;:] for (?:it|they|there|he|she|we|you|nothing|nobody|neither|none|this is|that is|these are|those are)": (
        'write "because"'
    ),
    r"in order to|so as to": 'write "to"',
    r"till": 'write "until"',
    r"lest": 'write "so that … cannot"',
    # Rule 4: the verbs that people use.
    r"tell|tells|told|telling": 'write "say", "report", "show" or "distinguish"',
    r"(?:hear|hears|heard) of": 'write "learn of" or "receive"',
    r"(?:go|goes|went|gone|going) on": 'write "continue", "resume" or "happen"',
    r"mend|mends|mended|mending": 'write "repair" or "fix"',
    r"(?:have|has|had|having|be had|get|gets|got) again": 'write "recover" or "restore"',
    r"anew": 'write "again", or "retry", "redo", "recreate"',
    r"die|dies|died|dying": 'write "crash", or "is killed"',
    r"dead (?:call|calls|process|processes|run|runs|worker|workers|writer|writers)": 'write "crashed"',
    r"(?:lie|lies|lay|lain|lying) (?:in|at|beside|under|below|above|there|elsewhere|outside|between|beneath)": (
        'write "is stored in", "is in"'
    ),
    r"wants|wanted": 'write "needs" or "requests"',
    r"asks for|asked for|asking for": 'write "requests", "needs" or "reads"',
    # The glossary's "not" column, where a word has no other meaning here.
    r"left-over|left-overs|leftover|leftovers": 'write "orphan"',
    r"(?:thin|thins|thinned|thinning) out": 'write "prune"',
    r"(?:take|takes|took|taken|taking) away": 'write "remove", or "prune" for checkpoints',
    r"(?:sweep|sweeps|swept|sweeping) up": 'write "collect"',
    r"(?:put|puts|putting) away": 'write "quarantine"',
    r"side child|side children": 'write "fork"',
    r"hurt|hurts|ill": 'write "corrupt", "missing" or "damaged"',
    # Spelling: American.
    r"(?:behavio|colo|favo|hono|neighbo|labo)ur\w*": 'spell "-or"',
    r"\w*(?:(?:serial|initial|normal|final|material|real|author|synchron|recogn|organ|minim|maxim|optim|summar|categor"
    r"|custom|util|priorit|parallel|general|special|central)is|analys)(?:e|es|ed|er|ers|ing|able|ation|ations)": (
        'spell "-ize", "-yze"'
    ),
    r"licence|licences|defence|offence": 'spell "-se"',
    r"(?:cancel|label|model|travel|signal|level|channel|marshal)(?:led|ling|ler|lers)": "spell with one l",
    r"centre|centres|metre|metres|fibre": 'spell "-er"',
    r"whilst|amongst|grey|cheque|programme|programmes|judgement|artefact|artefacts|spelt|learnt": "spell American",
}
"""Words that the style sheet excludes, as regular expressions, and what to write. A space matches a line's end too."""

NOT_YET: dict[str, int] = {}
"""What is not rewritten yet: a folder or file, and how many findings it has. The numbers may only shrink."""

GENERATED = {
    "docs/reference/cli.md": "the help of the commands",
    "docs/reference/options.md": "the docstring of Options",
    "docs/reference/metrics.md": "langgraph_gcs_saver/telemetry",
    "docs/explanation/comparison/index.md": "benchmarks.compare",
    "tests/docs/prose.py": "the words themselves",
    "tests/docs/test_prose.py": "examples of each",
}
"""Files that are not read, and where their text is from."""

FOLDERS = (".ci", ".github", "benchmarks", "docs", "langgraph_gcs_saver", "notebooks", "tests")
ENDINGS = (".md", ".ipynb", ".py", ".toml", ".yml", ".yaml", "Makefile", "Dockerfile")

_RULES = [
    (re.compile(rf"(?:(?<!\w)|(?=\W))(?:{words})(?!\w)".replace(" ", r"\s+"), re.IGNORECASE), say)
    for words, say in ADVICE.items()
]
_NO_PROSE = re.compile(
    r"^ *(?P<fence>```+).*?^ *(?P=fence)|(?P<tick>`+)[^`].*?(?P=tick)(?!`)|(?<=\])\([^)\s]*\)|<!--.*?-->|https?://\S+",
    re.MULTILINE | re.DOTALL,
)
_CODE_LINE = re.compile(r"^ *(?:>>>|\.\.\.) .*$|^ +\w+(?=: )", re.MULTILINE)  # of a doctest; names of arguments
_HASH = re.compile(r"(?:^|(?<=\s))#+ ?(.*)$")


@dataclass(frozen=True)
class Finding:
    """A word of a file that the style sheet excludes."""

    file: str
    line: int
    word: str
    advice: str

    def __str__(self) -> str:
        return f'{self.file}:{self.line}: "{self.word}" - {self.advice}'


def findings(file: str, text: str) -> list[Finding]:
    """The findings of a file, in the order of its lines."""
    found = [
        Finding(file, first + prose.count("\n", 0, match.start()), " ".join(match[0].split()), advice)
        for first, prose in _prose(file, text)
        for pattern, advice in _RULES
        for match in pattern.finditer(prose)
    ]
    return sorted(found, key=lambda one: (one.line, one.word))


def _prose(file: str, text: str) -> Iterator[tuple[int, str]]:
    """Pieces of prose of a file, each with the line that it begins in."""
    if file.endswith(".md"):
        yield 1, _blanked(text)
    elif file.endswith(".ipynb"):
        for cell in json.loads(text)["cells"]:
            source = "".join(cell["source"])
            yield from ([(1, _blanked(source))] if cell["cell_type"] == "markdown" else _python(file, source))
    elif file.endswith(".py"):
        yield from _python(file, text)
    else:
        yield from _comments((number, _HASH.search(line)) for number, line in enumerate(text.splitlines(), 1))


def _blanked(text: str) -> str:
    """A text without what is code in it, and with all its line ends."""
    return _CODE_LINE.sub("", _NO_PROSE.sub(lambda match: "·" + "\n" * match[0].count("\n"), text))


def _python(file: str, text: str) -> Iterator[tuple[int, str]]:
    tree = ast.parse(text)
    of_tests = file.startswith("tests/")
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    for node in constants:
        if isinstance(node.value, str) and " " in node.value and (id(node) in docstrings or not of_tests):
            yield node.lineno, _blanked(node.value)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    yield from _comments((one.start[0], _HASH.match(one.string)) for one in tokens if one.type == tokenize.COMMENT)


def _comments(found: Iterator[tuple[int, re.Match[str] | None]]) -> Iterator[tuple[int, str]]:
    """Comments of lines that follow each other, as one text."""
    first, lines = 0, list[str]()
    for number, match in found:
        if match and lines and number == first + len(lines):
            lines.append(match[1])
            continue
        if lines:
            yield first, _blanked("\n".join(lines))
        first, lines = number, [match[1]] if match else []
    if lines:
        yield first, _blanked("\n".join(lines))


def files() -> list[str]:
    """The repository's files that hold prose."""
    found = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    names = (path.relative_to(ROOT).as_posix() for path in sorted(found) if path.is_file())
    return [name for name in names if name.endswith(ENDINGS) and name not in GENERATED]


def _entry(name: str, not_yet: dict[str, int]) -> str:
    """The longest entry of the table that holds a file; itself if there is none."""
    return max((entry for entry in not_yet if f"{name}/".startswith(f"{entry}/")), key=len, default=name)


def complaints(found: list[Finding], not_yet: dict[str, int]) -> list[str]:
    """Findings where there may be none, or all of an entry that has more than the table says."""
    counts = Counter(_entry(one.file, not_yet) for one in found)
    too_many = {entry for entry, count in counts.items() if count > not_yet.get(entry, 0)}
    return [str(one) for one in found if _entry(one.file, not_yet) in too_many]


def main() -> int:
    """Print what is wrong, and return the exit code."""
    found = [one for name in files() for one in findings(name, (ROOT / name).read_text(encoding="utf-8"))]
    lines = complaints(found, NOT_YET)
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
