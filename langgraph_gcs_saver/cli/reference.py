"""Generates docs/reference/cli.md from the commands' help: `python -m langgraph_gcs_saver.cli.reference > …`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from langgraph_gcs_saver import errors
from langgraph_gcs_saver.cli.app import app
from langgraph_gcs_saver.cli.commands.work import STOPPED
from langgraph_gcs_saver.errors import bubbling

NAME = "langgraph-gcs"
WIDTH = 120
"""Width of the help in the document, in columns. It does not depend on the terminal."""

EXAMPLE = "Example: "
"""How the last paragraph of a command's help begins."""

_HEAD = f"""\
<!-- Generated from the commands' help: python -m langgraph_gcs_saver.cli.reference > docs/reference/cli.md -->

# `{NAME}`

`pip install ".[cli]"` installs the command.

`--store`, before or after the command's name, or `LANGGRAPH_GCS_STORE` names the store. The name is a `gs://` or
`file://` [connection string](../../README.md#stores), which may point to the emulators.

`--cipher`, likewise, or `LANGGRAPH_GCS_CIPHER` names what the store is encrypted with, as `MODULE:NAME`. It is an
object with LangGraph's `CipherProtocol`, or a function or class that returns one when it is called without arguments.
Python looks for the module in the current directory first. With a cipher, commands do not read what is stored in clear.
To read it, give `--accept-clear` before the command's name, or set `LANGGRAPH_GCS_ACCEPT_CLEAR=1`: see
[how to encrypt it](../explanation/security.md#encrypt-what-is-stored-in-clear).

- `--json` prints one JSON document on standard output and nothing else. `work` prints one line of JSON for each thread.
  Progress and questions go to standard error.
- A command that changes a store shows its plan first, and asks before it destroys anything. `--dry-run` shows the same
  plan and changes nothing. `--yes` skips the question. Without a terminal to ask at, such as in a job, a command
  that would ask changes nothing without `--yes`.
- Tables fold text that does not fit into the terminal, except for ids. In a pipe or a file they fold nothing. `COLUMNS`
  sets a width.
- A length of time is a whole number and a unit: `90s`, `15m`, `24h`, `7d`, `2w`.
- A moment is ISO 8601: `2030-01-31`, `2030-01-31T10:15`, in UTC unless a zone follows (`2030-01-31T10:15+01:00`). A
  length of time means that long ago: `2h` is two hours ago. Commands show times in UTC.
- A checkpoint is named by its id, or by any part of the id that no other checkpoint of its namespace has. If several
  checkpoints have it, the error lists them.
- Ids, labels and other text from a store are shown with control characters and line breaks escaped.
"""

_JSON = """\
Ids are `thread_id`, `checkpoint_ns` and `checkpoint_id`; sizes are bytes; times are ISO 8601 in UTC.
The [exit code](#exit-codes) says whether a command failed. A failed command may print no document, only a line on
standard error.

| key | of | what it means |
|---|---|---|
| `done` | `prune`, `copy`, `delete`, `collect`, `sweep`, `repair`, `rebind` | false only if a dry run found work |
| `result` | the same | a sentence: what was done, or that there was nothing to do |
| `plans` | the same | the work that was found, by thread (of `rebind`, for the store); empty if there was none |
| `dry_run` | `pull`, `push`, `import`, `migrate` | whether nothing was written because of `--dry-run` |
| `ok` | `pull`, `push`, `import`, `drill`, `demo` | whether all is well; if not, the exit code is not 0 |
| `is_damage` | `verify`, `repair` | of a finding: true for damage, false for an orphan or an unmirrored object |
| `done`, `missing`, `warnings` | `setup` | sentences: what was done, what could not be, what endangers the store |
"""


def reference() -> str:
    """The document. It covers every registered command, in the order of `--help`."""
    found = dict(commands())
    parts = [_HEAD, _section("Exit codes", _exit_codes()), _section("JSON", _JSON.splitlines())]
    listed = [f"| [`{name}`](#{anchor(name)}) | {first_line(command)} |" for name, (command, _) in found.items()]
    parts.append(_section("Commands", ["| command | what it does |", "|---|---|", *listed]))
    parts += [_section(f"`{name}`", _of_command(command, context)) for name, (command, context) in found.items()]
    return "\n".join(parts)


def anchor(name: str) -> str:
    """The anchor of a command's section, as GitHub and MkDocs make it."""
    return name.replace(" ", "-")


def first_line(command: Any) -> str:
    """What a command does, in a sentence."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def example(command: Any) -> str | None:
    """The command line at the end of a command's help, which can be typed as it stands; `None` if there is none."""
    last = " ".join((command.help or "").rstrip().split("\n\n")[-1].split())
    return last.removeprefix(EXAMPLE) if last.startswith(EXAMPLE) else None


def commands() -> Iterator[tuple[str, tuple[Any, typer.Context]]]:
    """The commands by name, each with its context. The name of a group's command is `group command`."""
    root: Any = typer.main.get_command(app)
    yield from _below(root, typer.Context(root, info_name=NAME, terminal_width=WIDTH), "")


def _below(group: Any, context: typer.Context, prefix: str) -> Iterator[tuple[str, tuple[Any, typer.Context]]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command.hidden:
            continue
        inner = typer.Context(command, info_name=name, parent=context, terminal_width=WIDTH)
        if hasattr(command, "list_commands"):
            yield from _below(command, inner, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", (command, inner)


def _of_command(command: Any, context: typer.Context) -> Iterator[str]:
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield from ("```text", text, "```")


def _exit_codes() -> Iterator[str]:
    by_code: dict[int, list[str]] = {}
    for error in (vars(errors) | vars(bubbling)).values():
        is_ours = isinstance(error, type) and issubclass(error, errors.GCSSaverError)
        # An error with the code of its parent is not named.
        if is_ours and error.exit_code != getattr(error.mro()[1], "exit_code", 0):
            by_code.setdefault(error.exit_code, []).append(f"`{error.__name__}`")
    by_code[1] = ["what you named does not exist, or the answer was no"]
    by_code[2] = ["the command line is wrong", *by_code[2]]
    by_code[STOPPED] = ["a run was stopped in time; the same command continues it"]
    yield from ("| code | what it means |", "|---|---|", "| 0 | it is done, or nothing is wrong |")
    for code, names in sorted(by_code.items()):
        yield f"| {code} | {', '.join(names)} |"


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


if __name__ == "__main__":
    sys.stdout.write(reference())
