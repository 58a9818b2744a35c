"""The distributions, built or given, and the wheel as a stranger installs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")


def run(*command, cwd, check=True, **environment):
    """Runs a command as in the shell of a user who has no clone of this repository."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "LANGGRAPH", "COVERAGE", "PYTEST"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    if check:
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done


def build(source, target, *options):
    """Builds with the locked backend, and so without a network."""
    assert UV.is_file(), f"there is no {UV}: the virtual environments that make makes have uv"
    run(
        *(UV, "build", "--quiet", "--offline", "--no-build-isolation", "--python", sys.executable),
        *("--out-dir", target, *options, source),
        cwd=target.parent,
    )


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """A directory with one sdist and one wheel: DIST_DIR, or built here as `make dist` does."""
    given = os.environ.get("DIST_DIR")
    if given:
        return ROOT / given
    target = tmp_path_factory.mktemp("built") / "dist"
    build(ROOT, target)
    return target


def only(dist, pattern):
    (found,) = dist.glob(pattern)
    return found


@pytest.fixture(scope="session")
def wheel(dist):
    return only(dist, "*.whl")


@pytest.fixture(scope="session")
def sdist(dist):
    return only(dist, "*.tar.gz")


class Installed:
    """A fresh virtual environment, outside the repository."""

    def __init__(self, path):
        self.path = path
        self.bin = path / "venv/bin"
        self.python = self.bin / "python"
        run(UV, "venv", "--quiet", "--python", sys.executable, path / "venv", cwd=path)

    def install(self, *what, lock=ROOT / "requirements-dev.txt"):
        run(UV, "pip", "install", "--quiet", "--python", self.python, "--constraint", lock, *what, cwd=self.path)

    def run(self, *command, check=True, **environment):
        return run(*command, cwd=self.path, check=check, **environment)

    def python_says(self, code, *arguments):
        """What a program prints; warnings are errors, and nothing of the directory it runs in is imported."""
        return self.run(self.python, "-I", "-W", "error", "-W", IGNORED, "-c", code, *arguments).stdout.strip()


IGNORED = "ignore:You are using a:FutureWarning"
"""Google's packages say so at import on Python 3.10; `-W` takes the beginning of a message."""


@pytest.fixture(scope="session")
def plain(wheel, tmp_path_factory):
    """The wheel without extras."""
    environment = Installed(tmp_path_factory.mktemp("plain"))
    environment.install(wheel)
    return environment


@pytest.fixture(scope="session")
def with_cli(plain, wheel):
    """The extra `[cli]`, added to `plain`: tests of it stand after those of what must not have it.

    An environment of its own would take seconds.
    """
    plain.install(f"langgraph-gcs-saver[cli] @ {wheel.as_uri()}")
    return plain
