"""Makes docs/reference/options.md of the docstring of `Options`: `python -m tests.docs.options > …`."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields
from typing import Any

from langgraph_gcs_saver.options import Options

_HEAD = """\
<!-- Generated from the docstring of Options: python -m tests.docs.options > docs/reference/options.md -->

# Options

Pass options as keyword arguments to `GCSSaver` or `GCSSaver.from_conn_string`.
[Operations](../guides/operations.md#tuning) says when to change one.

| option | default | what it does |
|---|---|---|
"""

_TAIL = """
`serde` is LangGraph's own argument, by default `JsonPlusSerializer()`, which imports and calls whatever a stored value
names. Pass `JsonPlusSerializer(allowed_msgpack_modules=[…])` to choose what it may
([security](../explanation/security.md#what-reading-can-run)).
`EncryptedSerializer` works too, but makes equal values differ: use `cipher`.
"""

_GROUPED = 1 << 20


def shown(default: Any) -> str:
    """A default as the table writes it."""
    if default is None:
        return "none"
    if isinstance(default, int) and default >= _GROUPED:
        unit, size = ("GiB", 30) if default >= 1 << 30 else ("MiB", 20)
        assert not default % (1 << size)
        return f"{default >> size} {unit}"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


def texts() -> dict[str, str]:
    """What the docstring says of each option."""
    section = inspect.getdoc(Options).partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).replace("|", "\\|") for name, text in found}


def page() -> str:
    """The whole page."""
    known = texts()
    rows = (f"| `{field.name}` | {shown(field.default)} | {known[field.name]} |\n" for field in fields(Options))
    return _HEAD + "".join(rows) + _TAIL


if __name__ == "__main__":
    sys.stdout.write(page())
