"""Every fenced block of README.md and docs/ does what it says, as far as that can be tried here.

Python runs, in order, in one namespace for each page, on the emulators: connection strings stay as they are but for the
names of the bucket and the project. Command lines are parsed by the parsers that they are for. What is neither run nor
parsed is listed below, with the reason.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from doctest import DocTestParser
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from langgraph_gcs_saver import GCSSaver, KeepLast
from langgraph_gcs_saver.engine.effects import Commit, Merge, QueryDocs
from langgraph_gcs_saver.format.keys import checkpoints
from langgraph_gcs_saver.options import Options
from tests.docs import agents, shell
from tests.docs.blocks import GUIDES as QUOTING
from tests.docs.fences import ROOT, Block, blocks, pages
from tests.patience import PATIENCE

BLOCKS = blocks()

GUIDES = {path.relative_to(ROOT).as_posix() for path in QUOTING}
"""Programs that need more than a saver, such as a web server: only their names and command lines are checked here."""

NOT_RUN = {
    "doc = (yield from GetDocs((name,))).get(name)\n": "a line of a flow, which is a generator",
}
"""Python that is only compiled, within a function, and why."""

PROSE = {"", "text", "dockerfile", "html", "ini"}
"""Languages of blocks that show something: trees, outputs, tables of cron. Command lines in them are parsed."""

KNOWN = PROSE | {"python", "pycon", "console", "bash", "sh", "json", "yaml", "toml", "sql"}


_FIRST_PROGRAM = "from langgraph_gcs_saver import GCSSaver, run\n\nwith GCSSaver"
"""How a page begins that compiles a graph which it does not define."""


def _of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language in languages]


def _pages_with_python() -> list[str]:
    found = {block.page: None for block in BLOCKS if block.language == "python" and block.page not in GUIDES}
    return list(found)


def test_the_blocks_are_found():
    found = {block.page for block in BLOCKS}
    guides = {f"docs/guides/{name}.md" for name in ("operations", "platform-settings", "keep-storage-small")}
    assert {"README.md", "docs/explanation/security.md", *guides} <= found
    assert not {str(block): block.language for block in BLOCKS if block.language not in KNOWN}
    texts = {block.text for block in BLOCKS}
    assert set(NOT_RUN) <= texts, "a block that is excepted is gone"


def test_a_block_that_shows_a_file_shows_what_is_in_it():
    for block in BLOCKS:
        if block.title:
            # Lines may be left out, and a block's indentation is its own.
            lines = iter([line.strip() for line in (ROOT / block.title).read_text(encoding="utf-8").splitlines()])
            missing = [line for line in block.text.splitlines() if line.strip() not in lines]
            assert not missing, f"{block}: not in {block.title}, or in another order"


# Python


@pytest.mark.parametrize("page", _pages_with_python())
def test_python_runs(page, cloud):
    _run_page(page, *cloud)


@pytest.mark.parametrize("page", [block.page for block in BLOCKS if block.text.startswith(_FIRST_PROGRAM)])
def test_python_runs_with_an_agent(page, cloud):
    """What `create_agent` makes, with middleware, in the place of the page's graph."""
    names, substitutes = cloud
    made = []

    def compile_agent(checkpointer: Any) -> Any:
        made.append(agents.make(checkpointer))
        return made[-1]

    _run_page(page, names | {"builder": SimpleNamespace(compile=compile_agent)}, substitutes)
    assert made


def _run_page(page: str, names: dict[str, Any], substitutes: dict[str, str]) -> None:
    given = dict(names)
    try:
        for block in BLOCKS:
            if (block.page, block.language) == (page, "python") and block.text not in NOT_RUN:
                text = "\n" * (block.line - 1) + block.text
                for ours, theirs in substitutes.items():
                    text = text.replace(ours, theirs)
                # An earlier block may have closed its own saver, or made a graph of its own.
                names |= {name: given[name] for name in ("saver", "builder")}
                exec(compile(text, str(ROOT / page), "exec"), names)
    finally:
        for name, value in names.items():
            if isinstance(value, GCSSaver) and value is not given.get(name):
                value.close()


def test_the_program_remembers(tmp_path):
    [block] = [block for block in BLOCKS if block.page == "README.md" and 'Path("agents")' in block.text]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = ""
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", block.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=PATIENCE,
        )
        printed += ran.stdout
    assert printed.splitlines() == [f"You have said {number} things." for number in (1, 2, 3, 4)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{line}`" in readme for line in printed.splitlines()[:2])


@pytest.mark.parametrize("block", _of("python"))
def test_python_names_what_there_is(block):
    text = block.text
    if text in NOT_RUN:
        text = "def flow():\n" + "".join(f"    {line}" for line in text.splitlines(keepends=True))
    tree = ast.parse(text, str(block))
    allowed = {field.name for field in fields(Options)} | set(inspect.signature(GCSSaver.__init__).parameters)
    allowed |= {"serde", "credentials"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "langgraph_gcs_saver":
            module = importlib.import_module(node.module or "")
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], block
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"GCSSaver", "GCSSaver.from_conn_string"}:
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert not given - allowed, f"{block}: GCSSaver has no option {given - allowed}"


# Transcripts


def _transcripts() -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.text.startswith(">>> ")]


@pytest.mark.parametrize("block", _transcripts())
def test_a_transcript_is_what_python_shows(block, tmp_path, capsys):
    with GCSSaver.from_conn_string(f"file://{tmp_path}/store") as saver:
        STAGES[block.page](saver)
        names = {"saver": saver, "KeepLast": KeepLast}
        for command, shown in _steps(block):
            capsys.readouterr()
            exec(compile(command, str(block), "single"), names)
            printed = capsys.readouterr().out
            wanted = ".*".join(map(re.escape, " ".join(shown.split()).split("…")))
            assert re.fullmatch(wanted, " ".join(printed.split())), (command, printed)


def _steps(block: Block) -> Iterator[tuple[str, str]]:
    for example in DocTestParser().get_examples(block.text):
        yield example.source, example.want


def _checkpoint(saver: GCSSaver, thread: str, number: int, before: Any, value: Any) -> Any:
    # Ids as the pages show them, with the middle left out.
    checkpoint_id = f"1f0c0000-0000-6000-8000-0000000000{number:02}"
    if thread == "t":
        checkpoint_id = f"00000000-0000-6000-8000-000000000{number:03}"
    checkpoint: Any = {
        "v": 1,
        "id": checkpoint_id,
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": {"v": value},
        "channel_versions": {"v": f"{number:032}.0"},
        "versions_seen": {},
    }
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": "", **before}}
    saver.put(config, checkpoint, {"source": "loop", "step": number}, {"v": f"{number:032}.0"})
    return {"checkpoint_id": checkpoint_id}


def _five_checkpoints(saver: GCSSaver) -> None:
    before: Any = {}
    for number in range(1, 6):
        before = _checkpoint(saver, "1", number, before, [number])


def _damaged_list(saver: GCSSaver) -> None:
    items = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    before: Any = {}
    for number, length in enumerate((20, 22, 24, 200), 1):  # the last one has outgrown the first, and is a full frame
        before = _checkpoint(saver, "t", number, before, items[:length])
    found = saver._backend.perform(QueryDocs(checkpoints("t")))
    oldest, second = found[-1], found[-2]
    manifest = bytearray(second.fields["manifest"])
    manifest[len(manifest) // 2] ^= 1
    frames = oldest.fields["frames"]
    for at in range(len(frames)):
        # What becomes of a flipped byte is zstd's affair: look for one that decodes, to something else.
        flipped = frames[:at] + bytes([frames[at] ^ 1]) + frames[at + 1 :]
        assert saver._backend.perform(Commit((Merge(oldest.name, {"frames": flipped}),)))
        if any("a value does not match its digest" in found.reason for found in saver.admin.verify("t", depth="data")):
            break
    assert saver._backend.perform(Commit((Merge(second.name, {"manifest": bytes(manifest)}),)))


STAGES = {"docs/guides/keep-storage-small.md": _five_checkpoints, "docs/guides/verify-and-repair.md": _damaged_list}
"""What was stored before a page's transcript begins."""


# Command lines


@pytest.mark.parametrize("block", _of("console", "bash", "sh"))
def test_command_lines_can_be_typed(block):
    found = list(shell.command_lines(block.text, prompt=block.language == "console"))
    assert found, f"{block}: no command; a console shows them after '$ '"
    for words in found:
        shell.check(words)


@pytest.mark.parametrize("block", _of("console", "bash", "sh"))
def test_zsh_takes_commands_as_bash_does(block):
    for line in block.text.splitlines():
        if line.startswith("$ "):
            bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
            assert not re.search(r"[?*[]", bare), f"{block}: zsh looks for files of such a name, so quote it: {line}"
            assert " #" not in bare, f"{block}: at its prompt, zsh takes a comment for arguments: {line}"


@pytest.mark.parametrize("block", _of(*PROSE))
def test_what_is_shown_holds_no_command_that_nobody_checks(block):
    for line in block.text.splitlines():
        assert not line.startswith("$ "), f"{block}: a console"
        if cron := re.match(r"(?:[\d*/,-]+ ){5}(langgraph-gcs .*)", line):
            [words] = shell.command_lines(cron[1], prompt=False)
            shell.check(words)
    if block.language == "dockerfile":
        for words in shell.command_lines(re.sub(r"^RUN ", "$ ", block.text, flags=re.MULTILINE), prompt=True):
            shell.check(words)
        for entry in re.findall(r"^(?:ENTRYPOINT|CMD) (.*)$", block.text, re.MULTILINE):
            assert json.loads(entry)


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in pages()])
def test_commands_within_sentences_are_there(page):
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    commands = dict(shell.reference.commands())
    for span in re.findall(r"`langgraph-gcs ([a-z][^`]*)`", text):
        name, *rest = span.split()
        if rest and f"{name} {rest[0]}" in commands:
            name = f"{name} {rest.pop(0)}"
        assert name in commands, f"{page}: langgraph-gcs {span}"
        known = {flag for parameter in commands[name][0].params for flag in parameter.opts}
        missing = {word for word in rest if word.startswith("--")} - known
        assert not missing, f"{page}: langgraph-gcs {name} has no {missing}"


# Data


@pytest.mark.parametrize("block", _of("json", "yaml", "toml", "sql"))
def test_data_parses(block):
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "yaml":
        assert yaml.safe_load(block.text) is not None
    elif block.language == "toml":
        assert shell.tomllib.loads(block.text)
    else:
        database = sqlite3.connect(":memory:")
        database.executescript(block.text)
        assert database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        database.close()
