"""What every command prints with, and the options that they share."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URI",
        envvar="LANGGRAPH_GCS_STORE",
        help="Where checkpoints are kept: file:///path, or gs://bucket/prefix?project=…&database=….",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


class CommandError(Exception):
    """A command could not do what it was asked, for a reason that is not the library's."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def printable(text: str) -> str:
    r"""One line that no terminal acts on: control, bidirectional and line-breaking characters as `\x1b`.

    What comes out of a store was written by an agent, and perhaps by whoever talked to it.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def plain(text: str, style: str = "") -> Text:
    """`printable` text for rich, which interprets none of it as markup."""
    return Text(printable(text), style=style)
