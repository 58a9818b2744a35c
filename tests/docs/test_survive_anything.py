"""The tutorial about an agent that survives anything: its commands, typed in their order, in real processes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from typing_extensions import Self

from langgraph_gcs_saver import GCSSaver
from tests.docs.blocks import ROOT, blocks
from tests.docs.serving import BYTECODE
from tests.patience import PATIENCE

PAGE = ROOT / "docs" / "tutorials" / "survive-anything.md"
PROGRAM = ROOT / "docs" / "examples" / "survive-anything" / "agent.py"

READS = re.compile(r"(\d+) reads (.*)")
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

PROGRAMS = {"python": [sys.executable], "langgraph-gcs": [sys.executable, "-m", "langgraph_gcs_saver.cli"]}


class Terminal:
    """Types commands. A chapter takes until the test has it end, so that a signal comes while it is read.

    Attributes:
        codes: How each process that got a signal ended.
        chapters: What was read, in order.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, **BYTECODE, "PYTHONPATH": str(ROOT)}
        self._open = ExitStack()
        self._running: subprocess.Popen[str] | None = None
        self.codes: list[int] = []
        self.chapters: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def export(self, name: str, value: str) -> None:
        self._environment[name] = value.replace("/home/me", str(self._folder))

    def run(self, words: list[str], count: int, *, is_signaled: bool) -> list[str]:
        """Start a process. Returns its lines: so many if it will get a signal, and otherwise all."""
        process = subprocess.Popen(
            [*PROGRAMS.get(words[0], words[:1]), *words[1:]],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._open.enter_context(_ended(process))
        assert process.stdin is not None
        assert process.stdout is not None
        printed: list[str] = []
        for line in process.stdout:
            printed.append(line.rstrip())
            if found := READS.match(line):
                assert found[1] == str(process.pid)
                self.chapters.append(found[2])
                if not is_signaled or len(printed) < count:
                    process.stdin.write("\n")
                    process.stdin.flush()
            if is_signaled and len(printed) == count:
                self._running = process
                return printed
        assert process.wait(PATIENCE) == 0
        return printed

    def kill(self, *options: str) -> str:
        """Send a signal to the process that runs, and have its chapter end. Returns what it prints after that."""
        process = self._running
        assert process is not None
        subprocess.run(["kill", *options, str(process.pid)], check=True)
        if "-9" in options:
            process.wait(PATIENCE)
        printed = process.communicate(None if "-9" in options else "\n", timeout=PATIENCE)[0]
        self.codes.append(process.returncode)
        return printed.rstrip()


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    with process:
        try:
            yield
        finally:
            process.kill()  # nothing happens if it has ended


def as_shown(line: str, shown: str) -> str:
    """A line, with the id of the process and the time as the page has them."""
    if (here := READS.match(line)) and (there := READS.match(shown)):
        return f"{there[1]} reads {here[2]}"
    return TIME.sub(found[0], line) if (found := TIME.search(shown)) else line


# It takes 20 seconds: eleven processes start, and the lease of a crashed one has to expire.
def test_the_tutorial(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    typed = [one for block in blocks(PAGE) if block.language == "console" for one in block.commands]
    program = PROGRAM.read_text(encoding="utf-8")
    assert program.count("time.sleep(1)") == 1
    (tmp_path / PROGRAM.name).write_text(program.replace("time.sleep(1)", "sys.stdin.readline()"), encoding="utf-8")
    with Terminal(tmp_path) as terminal:
        for number, (command, output) in enumerate(typed):
            words, shown = shlex.split(command), [line.rstrip() for line in output.splitlines()]
            if words[0] == "cd":
                assert (ROOT / words[1]).samefile(PROGRAM.parent)
            elif words[0] == "export":
                terminal.export(*words[1].split("=", 1))
            elif words[0] == "kill":
                said = terminal.kill(*words[1:-1])
                assert not said or f"`{said}`" in page
            else:
                is_signaled = typed[number + 1 :] != [] and typed[number + 1][0].startswith("kill ")
                printed = terminal.run(words, len(shown), is_signaled=is_signaled)
                assert [*map(as_shown, printed, shown)] == shown
                assert len(printed) == len(shown)
    assert terminal.codes == [-signal.SIGKILL, 75, -signal.SIGKILL, 75]
    assert "exit code is 75" in page
    # The chapter in which a process was killed was read again, and no other one.
    book = ["Arrival", "The storm", "The island", "The raft", "Home"]
    assert terminal.chapters == [*book[:3], *book[2:], *book[:2], *book[1:]]
    with GCSSaver.from_conn_string(f"file://{tmp_path}/reports") as saver:
        assert [saver.thread(one).status().state for one in ("report-1", "report-2")] == ["finished", "waiting"]
        assert list(saver.admin.verify(depth="data")) == []
