"""Checks command lines of the documentation without running them."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer

from langgraph_gcs_saver.cli import reference
from tests.docs.fences import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Commands and flags as gcloud 528 lists them in its own table of completions (data/cli/gcloud_completions.py), and
# `firestore databases clone` as its reference has it. A page that uses another one needs a line here.
GCLOUD = {
    "components install": "",
    "artifacts repositories create": "--repository-format --location",
    "auth application-default login": "",
    "auth configure-docker": "",
    "auth print-identity-token": "",
    "firestore backups list": "",
    "firestore backups schedules create": "--database --recurrence --retention",
    "firestore databases clone": "--source-database --snapshot-time --destination-database",
    "firestore databases create": "--database --location --enable-pitr --delete-protection",
    "firestore databases restore": "--source-backup --destination-database",
    "firestore databases update": "--database --enable-pitr --delete-protection",
    "firestore export": "--database --snapshot-time",
    "firestore fields ttls update": "--collection-group --database --enable-ttl",
    "firestore import": "--database",
    "firestore indexes fields update": "--collection-group --disable-indexes --database",
    "iam roles create": "--title --permissions",
    "iam service-accounts add-iam-policy-binding": "--member --role",
    "iam service-accounts create": "",
    "monitoring dashboards create": "--config-from-file",
    "monitoring policies create": "--policy-from-file",
    "projects add-iam-policy-binding": "--member --role --condition",
    "run jobs add-iam-policy-binding": "--region --member --role",
    "run jobs deploy": "--region --image --service-account --set-env-vars --max-retries --task-timeout --args",
    "run jobs execute": "--region --wait",
    "run jobs replace": "--region",
    "run services add-iam-policy-binding": "--region --member --role",
    "run services describe": "--region",
    "run services replace": "--region",
    "run worker-pools deploy": "--region --image --instances --service-account --set-env-vars --command --args",
    "scheduler jobs create http": "--location --schedule --uri --http-method --oauth-service-account-email",
    "services enable": "",
    "storage buckets add-iam-policy-binding": "--member --role --condition",
    "storage buckets create": "--location --uniform-bucket-level-access --public-access-prevention",
    "storage buckets describe": "",
    "storage buckets update": "--lifecycle-file --soft-delete-duration --clear-soft-delete",
    "storage ls": "--soft-deleted --buckets --recursive",
    "storage restore": "--async --deleted-after-time",
    "storage rsync": "--recursive",
    "tasks queues add-iam-policy-binding": "--location --member --role",
    "tasks queues create": "--location --max-attempts --min-backoff --max-backoff --max-concurrent-dispatches",
}
GCLOUD_EVERYWHERE = {"--project", "--format", "--quiet"}

FOREIGN = {"bq", "cat", "cd", "git", "kill", "npx", "curl", "docker", "uvicorn", "langgraph", "firebase"}
FOREIGN |= {"kubectl", "promtool", "terraform"}
"""Programs of others, which nothing here can check."""


def command_lines(text: str, *, prompt: bool) -> Iterator[list[str]]:
    """The words of each command. With `prompt`, only of lines that begin with `$ `, because the others are output."""
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if prompt and not line.startswith("$ "):
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words:
            yield words


def check(words: list[str]) -> None:
    """Raise an AssertionError if a command cannot work."""
    program, *rest = words
    for word in words:
        if inner := re.search(r"\$\((.*)\)", word):  # what a shell would put in its place
            check(shlex.split(inner[1]))
    checks: dict[str, Callable[[list[str]], None]] = {
        "langgraph-gcs": check_command,
        "gcloud": check_gcloud,
        "make": _check_make,
        "pip": _check_pip,
        "export": _check_export,
        "python": _check_python,
        ".venv/bin/python": _check_python,
    }
    if program not in FOREIGN:
        assert program in checks, f"{program}: add a check for this program, or name it in FOREIGN"
        checks[program](rest)


def check_command(arguments: list[str]) -> None:
    """Parse a command line of `langgraph-gcs` by the parser that it has."""
    group: Any = typer.main.get_command(reference.app)
    root = group.make_context("langgraph-gcs", list(arguments))
    name, command, rest = group.resolve_command(root, [*root._protected_args, *root.args])
    command.make_context(name, rest, parent=root)


def check_gcloud(arguments: list[str]) -> None:
    """Compare with the tables above; `--args` of a job are those of `langgraph-gcs`."""
    name = next((known for known in GCLOUD if arguments[: known.count(" ") + 1] == known.split()), None)
    assert name is not None, f"gcloud {shlex.join(arguments)}: not among GCLOUD"
    flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    unknown = flags - set(GCLOUD[name].split()) - GCLOUD_EVERYWHERE
    assert not unknown, f"gcloud {name} has no {unknown}"
    for word in arguments:
        if word.startswith("--args="):
            check_command(word.removeprefix("--args=").split(","))


def _check_make(arguments: list[str]) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    missing = {word for word in arguments if "=" not in word} - targets
    assert not missing, f"the Makefile has no {missing}"


def _check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install", arguments
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in arguments[1:]:
        if extras := re.fullmatch(r"\S*\[(.*)\]", word):
            missing = set(extras[1].split(",")) - set(project["optional-dependencies"])
            assert not missing or not word.startswith((".", "langgraph-gcs-saver")), f"there is no extra {missing}"


def _check_export(arguments: list[str]) -> None:
    assert all(re.match(r"[A-Z][A-Z_]*=", word) for word in arguments), arguments


def _check_python(arguments: list[str]) -> None:
    if arguments[:1] == ["-m"]:
        assert importlib.util.find_spec(arguments[1]) is not None, f"there is no module {arguments[1]}"
    else:
        assert arguments[0].endswith(".py"), arguments
        folders = [ROOT, *(ROOT / "docs" / "examples").iterdir()]
        assert any((folder / arguments[0]).is_file() for folder in folders), arguments
