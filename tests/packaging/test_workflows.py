"""What runs on the public service: actions that cannot change under us, no more permissions than needed, no caches."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


RIGHTS = {
    ("release.yml", "publish"): {"id-token": "write", "attestations": "write"},
    ("release.yml", "announce"): {"contents": "write"},
}
"""What a job may do besides reading the repository."""


def test_a_workflow_may_read_and_few_jobs_may_do_more():
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text("utf-8"))
        assert workflow["permissions"] in ({"contents": "read"}, {})
        for name, job in workflow["jobs"].items():
            allowed = RIGHTS.get((path.name, name), {"contents": "read"})
            assert job.get("permissions", {"contents": "read"}) == allowed, (path.name, name)


def test_a_command_holds_nothing_that_somebody_else_can_write():
    for path in WORKFLOWS:
        for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items():
            for step in job.get("steps", ()):
                assert "${{" not in step.get("run", ""), (path.name, name)


def test_what_is_released_is_built_once_and_kept_before_anything_else_runs():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]
    built = [step.get("run") or step["uses"].partition("@")[0] for step in jobs["dist"]["steps"]]
    assert built == ["actions/checkout", "actions/setup-python", "make dist", "actions/upload-artifact"]


CHANGES = """# Changelog

## Unreleased

- later

## 1.2.0 - 2030-01-02

### Added

- one

## 1.1.0

- [old](docs/a.md), [new](https://example.com), [here](#x)

## 1.0.0
"""


URLS = '[project.urls]\nSource = "https://example.com/x"\n'


def project(version, urls=URLS):
    return f'[project]\nname = "x"\nversion = "{version}"\n{urls}'


@pytest.fixture
def script(tmp_path):
    (tmp_path / ".ci").mkdir()
    copied = tmp_path / ".ci/release_notes.py"
    copied.write_bytes((ROOT / ".ci/release_notes.py").read_bytes())
    (tmp_path / "CHANGELOG.md").write_text(CHANGES, "utf-8")

    def run(version, *arguments, urls=URLS, readme="pip install x\n", **variables):
        (tmp_path / "pyproject.toml").write_text(project(version, urls), "utf-8")
        (tmp_path / "README.md").write_text(readme, "utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")} | variables
        command = [sys.executable, copied, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_notes_of_a_release_are_its_section_of_the_changelog(script):
    assert script("1.2.0", "v1.2.0") == (0, "### Added\n\n- one\n", "")
    assert script("1.1.0", "v1.1.0") == (0, "- [old](docs/a.md), [new](https://example.com), [here](#x)\n", "")


def test_links_lead_to_the_files_of_the_tag(script):
    where = {"GITHUB_SERVER_URL": "https://example.com", "GITHUB_REPOSITORY": "a/b"}
    wanted = "- [old](https://example.com/a/b/blob/v1.1.0/docs/a.md), [new](https://example.com), [here](#x)\n"
    assert script("1.1.0", "v1.1.0", **where) == (0, wanted, "")


def test_a_package_whose_page_leads_nowhere_is_refused(script):
    for given, complaint in (({"urls": ""}, "project.urls"), ({"readme": "It is not on PyPI yet.\n"}, "README.md")):
        code, out, err = script("1.1.0", "v1.1.0", **given)
        assert (code, out) == (1, "")
        assert complaint in err


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
