"""The checker of prose finds the words of each rule, and only in prose."""

import json

import pytest

from tests.docs.prose import Finding, complaints, findings

EXCLUDED = [
    ("Whoever reads it retries.", "Whoever"),
    ("Somebody else holds it.", "Somebody"),
    ("It is kept. Who reads it retries.", ". Who"),
    ("No object is there that nobody needs.", "nobody"),
    ("It retries, for it may fail.", ", for it"),
    ("It reads in order to compare.", "in order to"),
    ("It waits till then.", "till"),
    ("It keeps them lest they vanish.", "lest"),
    ("An event tells the reason.", "tells"),
    ("It never hears of them.", "hears of"),
    ("The agent goes\non there.", "goes on"),
    ("A repair mends it.", "mends"),
    ("A value that can be had again.", "be had again"),
    ("It is written anew.", "anew"),
    ("The process died.", "died"),
    ("A dead call has no lease.", "dead call"),
    ("The object lies in a bucket.", "lies in"),
    ("A caller wants one.", "wants"),
    ("A checkpoint that is asked for.", "asked for"),
    ("It finds left-overs.", "left-overs"),
    ("It thins out a thread.", "thins out"),
    ("It takes away a field.", "takes away"),
    ("It sweeps up objects.", "sweeps up"),
    ("It puts away documents.", "puts away"),
    ("A side child has a sibling.", "side child"),
    ("The document is ill.", "ill"),
    ("The behaviour differs.", "behaviour"),
    ("A deserialised value.", "deserialised"),
    ("The licence allows it.", "licence"),
    ("A cancelled call.", "cancelled"),
    ("The centre of it.", "centre"),
    ("A grey line.", "grey"),
]


@pytest.mark.parametrize(("text", "word"), EXCLUDED)
def test_an_excluded_word_is_found(text, word):
    assert [one.word for one in findings("a.md", text)] == [word]


@pytest.mark.parametrize(
    "text",
    [
        "A crashed process resumes, because you retry until it succeeds.",
        "It is there for it and for the other, so `nobody` and ``went on`` are code.",
        "See [a page](docs/behaviour/anew.md) and https://example.com/anew.",
        "```python\nnobody = 1\n```\n\n    ```console\n    $ tell\n    ```",
        "<!-- nobody -->",
        "A foretelling, a skill, a mended_name: parts of words.",
        "The serializer's behavior; analysis, promises, exercises and organisms.",
    ],
)
def test_other_text_is_not(text):
    assert findings("a.md", text) == []


def test_python_has_prose_in_docstrings_comments_and_messages():
    source = '''"""It tells.

It wants `nobody`.
"""

# It goes
# on.
nobody = "nobody"  # anew


def told(nobody):
    """A line.

    >>> tell()

    Args:
        wanted: A name.
    """
    raise ValueError(f"Thread {nobody!r} died. Tell it.")
'''
    found = [(one.line, one.word) for one in findings("benchmarks/a.py", source)]
    assert found == [(1, "tells"), (3, "wants"), (6, "goes on"), (8, "anew"), (19, "Tell"), (19, "died")]
    in_tests = [(one.line, one.word) for one in findings("tests/a.py", source)]
    assert in_tests == found[:4], "texts of tests are often states and messages of agents"


def test_notebooks_and_settings_have_prose():
    cells = [
        {"cell_type": "markdown", "source": ["It goes on.\n", "`anew`\n"]},
        {"cell_type": "code", "source": ["anew = 1  # mended\n"]},
    ]
    assert [one.word for one in findings("a.ipynb", json.dumps({"cells": cells}))] == ["goes on", "mended"]
    assert [one.line for one in findings("a.toml", 'a = "anew"\n# It is written anew\nb = 1  # by nobody\n')] == [2, 3]


def test_a_finding_names_the_place_and_what_to_write():
    (found,) = findings("docs/x.md", "One.\n\nTo mend it.\n")
    assert str(found) == 'docs/x.md:3: "mend" - write "repair" or "fix"'


def test_findings_of_folders_not_yet_rewritten_may_only_shrink():
    found = [Finding(file, 1, "anew", "x") for file in ("a/b/c.py", "a/b/d.py", "a/bb.py", "e.md")]
    assert complaints(found, {}) == [str(one) for one in found]
    assert complaints(found, {"a/b": 2, "a": 1, "e.md": 1}) == []
    assert complaints(found, {"a/b": 1, "a": 1, "e.md": 1}) == [str(one) for one in found[:2]]
    assert complaints(found, {"a": 3}) == [str(found[3])]
