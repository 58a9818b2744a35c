"""The program and the page about several agents: killed once, at a terminal, and the table of subgraphs."""

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from collections import Counter

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import run
from tests.behaviour.test_subgraphs import ROWS
from tests.docs.blocks import ROOT, blocks
from tests.patience import PATIENCE

PAGE = ROOT / "docs" / "guides" / "pipeline.md"
EXAMPLE = ROOT / "docs" / "examples" / "pipeline"

WATCHED = """
import os, signal, sys, pipeline

whole = pipeline.ask_model

def watched(agent, task):
    if agent == os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(agent, task)

pipeline.ask_model = watched
pipeline.main(sys.argv[1])
"""
"""The program, which is killed where an agent asks its model."""


def counted(saver):
    """The number of checkpoints by node."""
    found = saver.list({"configurable": {"thread_id": "mail"}})
    return Counter(one.config["configurable"]["checkpoint_ns"].partition(":")[0] for one in found)


def test_the_page_says_what_happens(tmp_path, monkeypatch, capsys):
    store = f"file://{tmp_path}/store"
    path = os.pathsep.join((str(ROOT), str(EXAMPLE)))
    environment = {**os.environ, "LANGGRAPH_GCS_STORE": store, "PYTHONPATH": path}
    typed, terminal = (block.text for block in blocks(PAGE) if block.language == "console")
    printed = []
    for day, killed in (("monday", ""), ("tuesday", "analysis"), ("tuesday", "")):
        program = [sys.executable, "-u", "-c", WATCHED, day]
        started = subprocess.Popen(
            program, env=environment | {"KILLED": killed}, stdout=subprocess.PIPE, encoding="utf-8"
        )
        printed += started.communicate(timeout=PATIENCE)[0].splitlines()
        assert started.returncode == (-signal.SIGKILL if killed else 0)
        printed += ["Killed"] if killed else []
    assert printed == [line for line in typed.splitlines() if line[0] != "$"]

    with GCSSaver.from_conn_string(store) as saver:
        before = counted(saver)
        # The input, a step that takes it, and two documents, for each of two calls. The summary stores nothing.
        assert (before["extraction"], before["analysis"], before["summary"]) == (8, 8, 0)
        pipeline = runpy.run_path(str(EXAMPLE / "pipeline.py"))
        names = {"saver": saver, "RETENTION": pipeline["RETENTION"]}
        (block,) = [block for block in blocks(PAGE) if block.language == "python" and not block.title]
        exec(compile(block.text, str(block), "exec"), names)
        (plan,) = saver.admin.plan_prune(["mail"], strategy=pipeline["RETENTION"])
        assert len(plan.dropped) == 6

    monkeypatch.setenv("LANGGRAPH_GCS_STORE", store)
    capsys.readouterr()
    (command,) = [line[2:] for line in terminal.splitlines() if line.startswith("$ ")]
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as left:
        run()
    assert not left.value.code
    assert capsys.readouterr().out.splitlines()[-1] == terminal.splitlines()[-1]
    with GCSSaver.from_conn_string(store) as saver:
        assert counted(saver) == before - Counter(extraction=6)
        assert list(saver.admin.verify("mail", depth="data")) == []


def test_each_row_has_a_test():
    table = PAGE.read_text(encoding="utf-8").partition("| `None`, the default |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (.*?) \|", table.partition("|---|\n")[2], re.MULTILINE) == list(ROWS)
