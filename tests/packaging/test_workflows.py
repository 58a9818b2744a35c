"""What runs on the public service: actions that cannot change under us, no more permissions than needed, no caches."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TEXTS = [pytest.param(path.read_text("utf-8"), id=path.name) for path in WORKFLOWS]


def test_there_are_workflows():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("text", TEXTS)
def test_actions_are_pinned_by_commit(text):
    used = re.findall(r"^\s*(?:- )?uses: (.+)$", text, re.MULTILINE)
    assert used
    for action in used:
        assert action.startswith("./") or re.fullmatch(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v[\d.]+", action), action


@pytest.mark.parametrize("text", TEXTS)
def test_a_checkout_keeps_no_credentials(text):
    checkouts = text.count("uses: actions/checkout@")
    assert checkouts
    assert text.count("persist-credentials: false") == checkouts


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_cached_and_nothing_of_a_pull_request_is_run_with_rights(text):
    assert "actions/cache" not in text
    assert "pull_request_target" not in text
    assert not re.search(r"^\s*cache:", text, re.MULTILINE)
    assert text.count("package-manager-cache: false") == text.count("uses: actions/setup-node@")


@pytest.mark.parametrize("text", TEXTS)
def test_a_workflow_may_read_and_a_job_asks_for_more(text):
    top = re.search(r"^permissions:(.*\n(?:  .*\n)*)", text, re.MULTILINE)
    assert top is not None
    assert top[1].split() in (["contents:", "read"], ["{}"])


@pytest.mark.parametrize("text", TEXTS)
def test_a_command_holds_nothing_that_somebody_else_can_write(text):
    for line in text.splitlines():
        command = re.match(r"\s*(?:- )?run: (.*)", line)
        assert command is None or "${{" not in command[1], line


CHANGES = """# Changelog

## Unreleased

- later

## 1.2.0 - 2030-01-02

### Added

- one

## 1.1.0

- old

## 1.0.0
"""


def project(version):
    return f'[project]\nname = "x"\nversion = "{version}"\n'


@pytest.fixture
def script(tmp_path):
    (tmp_path / ".ci").mkdir()
    copied = tmp_path / ".ci/release_notes.py"
    copied.write_bytes((ROOT / ".ci/release_notes.py").read_bytes())
    (tmp_path / "CHANGELOG.md").write_text(CHANGES, "utf-8")

    def run(version, *arguments):
        (tmp_path / "pyproject.toml").write_text(project(version), "utf-8")
        done = subprocess.run([sys.executable, copied, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_notes_of_a_release_are_its_section_of_the_changelog(script):
    assert script("1.2.0", "v1.2.0") == (0, "### Added\n\n- one\n", "")
    assert script("1.1.0", "v1.1.0") == (0, "- old\n", "")


@pytest.mark.parametrize(
    ("version", "tag", "complaint"),
    [
        ("1.2.0", "v1.2.1", "The tag is 'v1.2.1'"),
        ("1.2.0", "1.2.0", "The tag is '1.2.0'"),
        ("1.3.0", "v1.3.0", "nothing under '## 1.3.0'"),
        ("1.0.0", "v1.0.0", "nothing under '## 1.0.0'"),
        ("1.2", "v1.2", "nothing under '## 1.2'"),
    ],
)
def test_a_release_of_which_nothing_is_told_is_refused(script, version, tag, complaint):
    code, out, err = script(version, tag)
    assert (code, out) == (1, "")
    assert complaint in err
