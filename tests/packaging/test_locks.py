"""The locks satisfy pyproject.toml, because an environment is installed from a lock without reading it again."""

import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = tuple(PYPROJECT["project"]["optional-dependencies"])
LOCKS = {
    "dev": (3, 10),
    "bench": (3, 11),
    "server": (3, 11),
    "services": (3, 11),
    "oldest": (3, 10),
}


def group(name):
    for entry in PYPROJECT["dependency-groups"][name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from group(entry["include-group"])


def asked(lock):
    texts = [*group("test" if lock == "oldest" else lock)]
    if lock != "services":
        texts += PYPROJECT["project"]["dependencies"]
    if lock not in ("bench", "services"):
        texts += [text for extra in EXTRAS for text in PYPROJECT["project"]["optional-dependencies"][extra]]
    return [Requirement(text) for text in texts]


def applies(requirement, environment):
    return requirement.marker is None or requirement.marker.evaluate(environment)


CASES = [(lock, minor) for lock, (_, oldest) in LOCKS.items() for minor in range(oldest, 15)]


@pytest.mark.parametrize(("lock", "minor"), CASES)
def test_a_lock_holds_what_is_asked_for(lock, minor):
    environment = default_environment() | {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"}
    lines = (ROOT / f"requirements-{lock}.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]
    pinned = {pin.name: next(iter(pin.specifier)).version for pin in pins if applies(pin, environment)}
    for requirement in asked(lock):
        if applies(requirement, environment):
            assert requirement.specifier.contains(pinned[requirement.name], prereleases=True), requirement
