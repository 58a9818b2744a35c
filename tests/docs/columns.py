"""Makes the tables of columns and events in docs/reference/analytics.md: `python -m tests.docs.columns`."""

from __future__ import annotations

from pathlib import Path

from langgraph_gcs_saver.analytics.rows import KINDS, Column, columns
from tests.docs.fences import ROOT

PAGE = ROOT / "docs" / "reference" / "analytics.md"

_BEGIN, _END = "<!-- made by python -m tests.docs.columns -->\n", "<!-- end -->"

_ALL = "all"


def _shown(names: tuple[str, ...]) -> str:
    return _ALL if len(names) == len(KINDS) else ", ".join(f"`{name}`" for name in names)


def _row(column: Column) -> str:
    name = column.name if column.name != "label_name" else "label_NAME"
    return f"| `{name}` | {column.type} | {column.description} | {_shown(column.events)} | {_shown(column.unknown)} |\n"


def table() -> str:
    """The table of columns."""
    head = "| column | type | what it is | events | null in rows of a backfill |\n|---|---|---|---|---|\n"
    return head + "".join(_row(column).replace("`name`", "`NAME`") for column in columns(["name"]))


def page(text: str) -> str:
    """The page with the table as it must be."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    Path(PAGE).write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
