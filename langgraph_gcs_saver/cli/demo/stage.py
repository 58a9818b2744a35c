"""What every story of the demo needs: a place, a voice, and a check of its claims."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from langgraph_gcs_saver.cli.views.terminal import CommandError, plain


@dataclass(frozen=True)
class Stage:
    """Where a story plays, and how it speaks.

    Attributes:
        store: Connection string.
        cipher: As `--cipher` names it; empty for none.
        folder: A directory outside of the store.
        console: Where the story is printed. It is quiet with `--json`.
    """

    store: str
    cipher: str
    folder: Path
    console: Console

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        self.console.print(plain(text, style), soft_wrap=True)

    def act(self, number: int, title: str) -> None:
        """Print the heading of an act."""
        self.say("")
        self.say(f"{number}. {title}", "bold")

    def show(self, proof: dict[str, bool]) -> None:
        """Print each statement, and whether it is true."""
        for statement, holds in proof.items():
            self.say(f"{'proved' if holds else 'NOT TRUE':10} {statement}", "" if holds else "bold red")


Story = Callable[[Stage], dict[str, Any]]
"""What is played on a stage. It returns what happened, with the statements of `proof`."""


def present(story: Story, store: str | None, cipher: str, *, keep: bool, as_json: bool) -> None:
    """Play a story, and check what it claims.

    Args:
        story: What to play.
        store: Connection string; a temporary directory if not given.
        cipher: As `--cipher` names it; empty for none.
        keep: Whether a temporary directory stays.
        as_json: Whether to print one JSON document and nothing else.

    Raises:
        CommandError: A claim of the story is not true.
    """
    console = Console(quiet=as_json, highlight=False)
    with _folder(keep=keep) as folder:
        stage = Stage((folder / "store").as_uri() if store is None else store, cipher, folder, console)
        result = story(stage)
        if as_json:
            print(json.dumps(result | {"kept": str(folder) if keep else None}, indent=2))
        elif keep:
            stage.say(f"kept       {folder}")
    broken = [statement for statement, holds in result["proof"].items() if not holds]
    if broken:
        raise CommandError(f"the demo failed; this is not true: {'; '.join(broken)}")


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="langgraph-gcs-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def was_killed(returncode: int) -> bool:
    """Whether a process ended because the demo killed it."""
    # Windows has no signals: TerminateProcess sets an exit code.
    return returncode == -signal.SIGKILL if sys.platform != "win32" else returncode != 0


def ending(returncode: int) -> str:
    """How a process ended, for people."""
    if returncode >= 0:
        return f"exit code {returncode}"
    return f"{signal.Signals(-returncode).name}, exit status {returncode}"
