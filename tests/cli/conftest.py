"""Commands run in the process of the tests: with the arguments, the streams and the exit code of a real one."""

import io
import sys
from dataclasses import dataclass

import pytest

from langgraph_gcs_saver.cli.app import run


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Person(io.StringIO):
    """Standard input that is a terminal, where a user types these lines."""

    def isatty(self):
        return True


@pytest.fixture
def command(store_uri, monkeypatch, capsys):
    """Runs a command on the store of `store_uri`. `answer` is what the user types; without it there is no user."""
    monkeypatch.setenv("LANGGRAPH_GCS_STORE", store_uri)

    def call(*arguments, answer=None):
        monkeypatch.setattr(sys, "argv", ["langgraph-gcs", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO() if answer is None else Person(f"{answer}\n"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        return Ended(ended.value.code or 0, *capsys.readouterr())

    return call
