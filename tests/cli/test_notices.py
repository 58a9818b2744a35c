"""Google's packages warn about each Python that they will no longer support. No command repeats the warning."""

import os
import subprocess
import sys

import pytest

from langgraph_gcs_saver.errors import PermissionDeniedError
from tests.cli.test_demo import LANGGRAPH_GCS
from tests.patience import PATIENCE

GOOGLE = ("threads", "--store", "gs://some-bucket?project=some-project")
"""A command that imports Google's packages. It ends at once, because there are no credentials."""

OLD = """
import datetime

class Later(datetime.date):
    @classmethod
    def today(cls):
        return cls(2090, 1, 1)

datetime.date = Later
"""
"""As `sitecustomize`: a time when this Python is an old one."""

PROCESS_OF_THE_DEMO = f"""
from pathlib import Path
from langgraph_gcs_saver.cli.demo.process import Task, run_process
from langgraph_gcs_saver.cli.views.terminal import CommandError
from langgraph_gcs_saver.errors import PermissionDeniedError

try:
    run_process(Task(store={GOOGLE[-1]!r}, thread_id="t", ledger=Path("none")))
except CommandError as error:
    assert error.exit_code == PermissionDeniedError.exit_code, error
"""
"""The process in which the demo's agent runs. It imports Google's packages, too."""

IGNORED = {"PYTHONWARNINGS", "FIRESTORE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"}

support = pytest.importorskip("google.api_core._python_version_support", reason="google-api-core says nothing yet")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OLD)

    def call(*arguments, **variables):
        environment = {key: value for key, value in os.environ.items() if key not in IGNORED} | variables
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        ended = subprocess.run(
            arguments, env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False
        )
        return ended.returncode, ended.stderr

    return call


def test_no_command_repeats_it(run, tmp_path):
    library = run(sys.executable, "-c", "import google.cloud.firestore")
    assert "FutureWarning: You are using a non-supported Python version" in library[1]
    keyless = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none")}
    store = (tmp_path / "store").as_uri()
    assert run(*LANGGRAPH_GCS, "setup", "--store", store) == (0, "")
    assert run(sys.executable, "-c", PROCESS_OF_THE_DEMO, **keyless) == (0, "")
    code, told = run(*LANGGRAPH_GCS, *GOOGLE, **keyless)
    assert (code, told.count("\n")) == (PermissionDeniedError.exit_code, 1)


def test_a_filter_of_the_user_comes_first(run, tmp_path):
    variables = {"PYTHONWARNINGS": "always::FutureWarning", "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none")}
    code, told = run(*LANGGRAPH_GCS, *GOOGLE, **variables)
    assert code == PermissionDeniedError.exit_code
    assert "You are using a non-supported Python version" in told


def test_other_warnings_are_told(run):
    code = "import warnings; from langgraph_gcs_saver.cli.notices import ignore_notices; ignore_notices()"
    other = f"{code}; warnings.warn('You are using a Python version of mine', FutureWarning)"
    assert "of mine" in run(sys.executable, "-c", other)[1]
