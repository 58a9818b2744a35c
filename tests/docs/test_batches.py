"""The program and the page about batches: killed after 20 of 50 documents, in two processes, and at a terminal."""

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from langgraph_gcs_saver import GCSSaver
from langgraph_gcs_saver.cli.app import run
from tests.docs.blocks import ROOT
from tests.docs.fences import blocks
from tests.patience import PATIENCE

PAGE = [block for block in blocks() if block.page == "docs/guides/batches.md"]

WATCHED = """
import os, signal, sys, summarize

handled, most = [], int(sys.argv[1])
whole = summarize.summarize, summarize.submit

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        print(what, file=file)

def watched(text):
    if len(handled) == most:
        os.kill(os.getpid(), signal.SIGKILL)
    handled.append(text)
    note(text)
    return whole[0](text)

def submit(key):
    note("submitted")
    return whole[1](key)

summarize.summarize, summarize.submit = watched, submit
summarize.main()
"""
"""The program, which notes what it does, and is killed when it has handled so many documents."""


def test_the_page_says_what_happens(tmp_path, monkeypatch, capsys):
    store, notes = f"file://{tmp_path}/store", tmp_path / "notes"
    environment = {
        **os.environ,
        "LANGGRAPH_GCS_STORE": store,
        "NOTES": str(notes),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "docs" / "examples" / "batches"))),
    }

    def start(most, **changed):
        program = [sys.executable, "-u", "-c", WATCHED, str(most)]
        return subprocess.Popen(program, env=environment | changed, stdout=subprocess.PIPE, encoding="utf-8")

    killed = start(20)
    printed = killed.communicate(timeout=PATIENCE)[0]
    assert killed.returncode == -signal.SIGKILL
    assert notes.read_text().splitlines() == [f"Text number {number}." for number in range(1, 21)]
    printed += "Killed\n" + start(-1).communicate(timeout=PATIENCE)[0]
    (shown,) = [block.text for block in PAGE if "export " in block.text]
    assert printed.splitlines() == [line for line in shown.splitlines() if line[0] != "$"]
    failing = "Text number 33."
    wanted = Counter([*(f"Text number {number}." for number in range(1, 51)), failing, failing, "submitted"])
    assert Counter(notes.read_text().splitlines()) == wanted

    several = [start(-1, LANGGRAPH_GCS_STORE=f"{store}-2", NOTES=f"{notes}-2") for _ in range(2)]
    for process in several:
        process.communicate(timeout=PATIENCE)
    assert [process.returncode for process in several] == [0, 0]
    assert Counter((tmp_path / "notes-2").read_text().splitlines()) == wanted

    with GCSSaver.from_conn_string(store) as saver:
        names = {"saver": saver}
        for block in PAGE:
            if block.language == "python" and not block.title:
                exec(compile(block.text, str(block), "exec"), names)
    (terminal,) = [block.text for block in PAGE if "langgraph-gcs" in block.text]
    monkeypatch.setenv("LANGGRAPH_GCS_STORE", store)
    capsys.readouterr()
    answered = []
    for line in terminal.splitlines():
        if line.startswith("$ "):
            monkeypatch.setattr(sys, "argv", line.split()[1:])
            with pytest.raises(SystemExit):
                run()
            answered += [line, *capsys.readouterr().out.splitlines()]
    assert answered == terminal.splitlines()
