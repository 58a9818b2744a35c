"""The Terraform that is written: each resource, attribute and block is one of the provider's, and all names exist."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import hcl2
import pytest

from langgraph_gcs_saver import monitoring
from langgraph_gcs_saver.provisioning import lifecycle_rules, unindexed
from tests.monitoring.schemas import Provider
from tests.patience import PATIENCE

_BLOCKS = ("variable", "locals", "resource")

STORE = "gs://my-bucket/agents?project=my-project&database=agents"


@pytest.fixture(scope="module")
def provider():
    return Provider()


@pytest.fixture(scope="module")
def files():
    return monitoring.files(STORE)


def code(text):
    """Without comments."""
    return re.sub(r"(?m)^\s*#.*$", "", text)


parse = cache(hcl2.loads)


def wrong(files, provider):
    """What is wrong with the files."""
    texts = [code(text) for name, text in files.items() if name.endswith(".tf")]
    text = "\n".join(texts)
    parsed = {kind: [one for each in texts for one in parse(each).get(kind, ())] for kind in _BLOCKS}
    variables = {
        json.loads(name): body["type"].removeprefix("${").removesuffix("}")
        for one in parsed["variable"]
        for name, body in one.items()
    }
    local = {name for one in parsed["locals"] for name in one} | set(json.loads(files["settings.tf.json"])["locals"])
    resources = [
        (json.loads(kind), json.loads(name), body)
        for one in parsed["resource"]
        for kind, named in one.items()
        for name, body in named.items()
    ]
    found = [line for kind, _, body in resources for line in provider.wrong(kind, body, variables)]
    found += [f"no variable {name}" for name in set(re.findall(r"\bvar\.(\w+)", text)) - variables.keys()]
    found += [f"no local {name}" for name in set(re.findall(r"\blocal\.(\w+)", text)) - local]
    known = {(kind, name) for kind, name, _ in resources}
    for kind, name, attribute in set(re.findall(r"\b(google_\w+)\.(\w+)(?:\.(\w+))?", text)):
        if (kind, name) not in known:
            found.append(f"no resource {kind}.{name}")
        elif attribute and not provider.refers(kind, attribute):
            found.append(f"no attribute {kind}.{attribute}")
    assigned = {name for file, one in files.items() if file.endswith(".tfvars.json") for name in json.loads(one)}
    return found + [f"no variable {name}" for name in assigned - variables.keys()]


def test_everything_is_known_to_the_provider(files, provider):
    assert wrong(files, provider) == []
    kinds = set(re.findall(r'(?m)^resource "(\w+)"', "\n".join(files.values())))
    assert kinds >= {
        "google_cloud_run_v2_job",
        "google_cloud_scheduler_job",
        "google_firestore_backup_schedule",
        "google_firestore_database",
        "google_firestore_field",
        "google_monitoring_alert_policy",
        "google_monitoring_dashboard",
        "google_project_iam_member",
        "google_service_account",
        "google_storage_bucket",
        "google_storage_bucket_iam_member",
    }


@pytest.mark.parametrize(
    "mistake",
    [
        (
            "store.tf",
            '"google_firestore_field"',
            '"google_firestore_index_field"',
            "google_firestore_index_field is no",
        ),
        ("store.tf", "uniform_bucket_level_access =", "uniform_access =", "has no uniform_access"),
        ("store.tf", '= "enforced"', "= true", "public_access_prevention is no string"),
        ("store.tf", "location                    = var.region", "", "google_storage_bucket lacks location"),
        ("store.tf", "uniform_bucket_level_access = true", "uniform_bucket_level_access = var.region", "is no boolean"),
        ("store.tf", "soft_delete_policy {", "soft_delete_policy = {", "soft_delete_policy is a block"),
        (
            "store.tf",
            "      action {\n        type ",
            "      action {\n        kind ",
            "lifecycle_rule.action has no kind",
        ),
        ("jobs.tf", 'command = ["langgraph-gcs"]', 'command = "langgraph-gcs"', "command is no list"),
        ("jobs.tf", "http_method = ", "method = ", "http_target has no method"),
        ("jobs.tf", "        image   = each.value.image\n", "", "containers lacks image"),
        ("accounts.tf", "agents.member", "agents.mail", "no attribute google_service_account.mail"),
        (
            "accounts.tf",
            "google_storage_bucket.store",
            "google_storage_bucket.bucket",
            "no resource google_storage_bucket",
        ),
        ("monitoring.tf", "        query  ", "        queries  ", "language has no queries"),
        ("monitoring.tf", "local.policies", "local.alerts", "no local alerts"),
        ("variables.tf", 'variable "database"', 'variable "db"', "no variable database"),
    ],
)
def test_each_kind_of_mistake_is_noticed(files, provider, mistake):
    file, old, new, complaint = mistake
    assert old in files[file]
    assert any(complaint in line for line in wrong({**files, file: files[file].replace(old, new)}, provider))


def test_settings_are_those_of_setup(files):
    """Terraform adds the prefix to each rule."""
    settings = json.loads(files["settings.tf.json"])["locals"]
    assert [(one["collection"], one["field"]) for one in settings["unindexed"]] == unindexed()
    for ours, rule in zip(settings["lifecycle_rules"], lifecycle_rules("agents/"), strict=True):
        assert rule["action"] == {"type": ours["type"]} | (
            {"storageClass": ours["storage_class"]} if ours["storage_class"] else {}
        )
        condition = {"age": ours["age"], "matchesPrefix": ["agents/"]}
        if ours["matches_storage_class"]:
            condition["matchesStorageClass"] = ours["matches_storage_class"]
        assert rule["condition"] == condition


def formatted(folder: Path) -> str:
    """What `terraform fmt` would change, where there is a `terraform`; nothing where there is none.

    Terraform is not needed to run the tests: what it would say about names and types, `wrong` says.
    """
    program = shutil.which("terraform")
    if program is None:
        return ""
    ended = subprocess.run(
        [program, "fmt", "-check", "-diff", folder], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return ended.stdout


def test_files_are_formatted(tmp_path):
    monitoring.write(tmp_path, STORE)
    assert formatted(tmp_path) == ""
