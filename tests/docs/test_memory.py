"""The test that docs/guides/questions.md shows for a user's own graph, as pytest runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.fences import ROOT, blocks
from tests.patience import PATIENCE

BUILDER = "from tests.docs.conftest import chat\n\nbuilder = chat()\n"


def test_the_example_of_a_users_test_passes(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks() if "def test_a_thread_remembers" in block.text]
    path = tmp_path / "test_example.py"
    path.write_text(BUILDER + example)
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            "/dev/null",
            "--rootdir",
            tmp_path,
            path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
    assert [found.name for found in tmp_path.iterdir() if found.name != "__pycache__"] == [path.name]
